"""Rigid motion: the one definition, for gradients, Jacobians, fits, covariances and reports.

A pose change is six numbers xi = (t [mm], r [rad]): the body (volume or mesh) moved in world axes about `centre`,

    x' = exp([r]x) (x - centre) + centre + t
"""

import dataclasses
import math
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.errors import GeometryError
from diffrender.mesh import Mesh
from diffrender.volume import Volume

Body = TypeVar("Body", Volume, Mesh)


def motion(xi: Float[Tensor, "6"], centre: Float[Tensor, "3"]) -> Float[Tensor, "4 4"]:
    """The matrix of a pose change: moved_from_body, RAS [mm], float64; differentiable in `xi` and `centre`."""
    xi, centre = xi.to(torch.float64), centre.to(torch.float64)
    rotation = torch.linalg.matrix_exp(cross_matrix(xi[3:]))
    shift = centre + xi[:3] - rotation @ centre
    last = torch.tensor([[0.0, 0, 0, 1]], dtype=torch.float64, device=xi.device)
    return torch.cat([torch.cat([rotation, shift[:, None]], dim=1), last])


def cross_matrix(r: Float[Tensor, "3"]) -> Float[Tensor, "3 3"]:
    """[r]x, the matrix whose product with v is r x v."""
    zero = torch.zeros_like(r[0])
    x, y, z = r
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)


def moved(body: Body, xi: Float[Tensor, "*six"], centre: Float[Tensor, "3"] | None = None) -> Body:
    """The body after the pose change `xi`: a volume keeps its values and gets a new lattice, a mesh new vertices.

    Args:
        body: a Volume or a Mesh.
        xi: (t [mm], r [rad]) in world axes.
        centre: RAS [mm] to turn about; by default the body's own centre.
    Returns: a body of the same kind. A mesh's vertices are differentiable in `xi`; so is a volume's lattice.
    Raises: GeometryError where `xi` is not six finite numbers.
    """
    xi = check_xi(torch.as_tensor(xi, dtype=torch.float64))
    if xi.ndim != 1:
        raise GeometryError(f"One body is moved once: six numbers, not {list(xi.shape)}. Move it once for each motion.")
    about = body.centre if centre is None else check_point(centre)
    moved_from_body = motion(xi, about)
    if isinstance(body, Volume):
        return dataclasses.replace(body, world_from_voxel=moved_from_body @ body.world_from_voxel)
    matrix = moved_from_body.to(body.vertices)
    return dataclasses.replace(body, vertices=body.vertices @ matrix[:3, :3].T + matrix[:3, 3])


def pose_between(
    world_from_a: Float[Tensor, "4 4"], world_from_b: Float[Tensor, "4 4"], centre: Float[Tensor, "3"] | None = None
) -> Float[Tensor, "6"]:
    """The pose change that moves a body from pose a to pose b: `motion(xi, centre) @ world_from_a = world_from_b`.

    Args:
        world_from_a: a body's pose, or a volume's lattice [mm]; `world_from_b` the same body's, moved rigidly.
        centre: RAS [mm] to turn about, by default the origin of pose a. For a volume pass `volume.centre`.
    Returns: xi = (t [mm], r [rad]), |r| at most pi.
    Raises: GeometryError where no rigid motion leads from a to b.
    """
    a, b = (torch.as_tensor(m, dtype=torch.float64) for m in (world_from_a, world_from_b))
    about = a[:3, 3] if centre is None else check_point(centre)
    if a.shape != (4, 4) or b.shape != (4, 4) or not a.isfinite().all() or not b.isfinite().all() or a.det() == 0:
        raise GeometryError(f"Poses are finite 4 x 4 matrices with an inverse; these are {a.tolist()}, {b.tolist()}.")
    b_from_a = b @ torch.linalg.inv(a)
    rotation = b_from_a[:3, :3]
    error = (rotation @ rotation.T - torch.eye(3, dtype=torch.float64)).abs().max().item()
    if error > 1e-5 or rotation.det() < 0:
        raise GeometryError(
            f"No rigid motion leads from the first pose to the second (axes off by {error:.2g}, determinant "
            f"{rotation.det().item():.4f}): they differ in scale, shear or handedness. Compare two poses of one body."
        )
    shift = rotation @ about + b_from_a[:3, 3] - about
    return torch.cat([shift, _rotation_vector(rotation)])


def way_between(
    world_from_a: Float[Tensor, "4 4"], world_from_b: Float[Tensor, "4 4"], centre: Float[Tensor, "3"]
) -> tuple[float, float]:
    """How far apart two poses of a body are: its `centre` (of the body at rest) [mm], its orientation [degrees]."""
    xi = pose_between(world_from_a, world_from_b, world_from_a[:3, :3] @ centre + world_from_a[:3, 3])
    return float(xi[:3].norm()), math.degrees(float(xi[3:].norm()))


def is_rigid(matrix: Float[Tensor, "*matrix"]) -> bool:
    """Whether a matrix is 4 x 4, finite, and turns and moves only: no scale, shear or mirror (to 1e-4)."""
    if matrix.shape != (4, 4) or not bool(torch.isfinite(matrix).all()):
        return False
    axes, last = matrix[:3, :3], torch.tensor([0.0, 0, 0, 1]).to(matrix)
    straight = float((axes @ axes.T - torch.eye(3).to(axes)).abs().amax()) < 1e-4
    return straight and float((matrix[3] - last).abs().amax()) < 1e-9 and float(axes.det()) > 0


def check_point(point: Float[Tensor, "*three"]) -> Float[Tensor, "3"]:
    """Raises: GeometryError where a point is not three finite numbers."""
    point = torch.as_tensor(point, dtype=torch.float64)
    if point.shape != (3,) or not torch.isfinite(point).all():
        raise GeometryError(f"A point is three finite numbers in RAS mm, this one is {point.tolist()}.")
    return point


def check_xi(xi: Float[Tensor, "*batch six"]) -> Float[Tensor, "*batch six"]:
    """Raises: GeometryError where a pose change is not six finite numbers."""
    if xi.shape[-1:] != (6,) or not torch.isfinite(xi).all():
        raise GeometryError(
            f"A pose change is six finite numbers (t [mm], r [rad]), this one is {xi.detach().tolist()}."
        )
    return xi


def _rotation_vector(rotation: Float[Tensor, "3 3"]) -> Float[Tensor, "3"]:
    # Through the unit quaternion, largest component first: exact near 0 and near pi alike.
    m = rotation
    t = torch.stack([m.trace(), m[0, 0], m[1, 1], m[2, 2]])
    k = int(t.argmax())
    if k == 0:
        q = torch.stack([1 + t[0], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]])
    else:
        i, j, n = (k - 1), k % 3, (k + 1) % 3
        q = torch.zeros(4, dtype=m.dtype)
        q[0] = m[n, j] - m[j, n]
        q[1 + i] = 1 + m[i, i] - m[j, j] - m[n, n]
        q[1 + j] = m[j, i] + m[i, j]
        q[1 + n] = m[n, i] + m[i, n]
    q = q / q.norm()
    q = -q if q[0] < 0 else q
    sine = q[1:].norm()
    if sine < 1e-12:
        return 2 * q[1:]
    return q[1:] / sine * 2 * torch.atan2(sine, q[0])


def inverse_motion_and_derivatives(
    xi: Float[np.ndarray, "6"], centre: Float[np.ndarray, "3"]
) -> tuple[Float[np.ndarray, "4 4"], Float[np.ndarray, "6 4 4"]]:
    """body_from_moved (4, 4) and its six derivatives in xi (6, 4, 4), as numpy float64.

    A render needs these for every pose; in numpy they cost 30 microseconds, through autograd of `motion` a
    millisecond.
    Source: Gallego & Yezzi, J. Math. Imaging Vis. 51 (2015) 378, doi:10.1007/s10851-014-0528-x, eq. 9.
    """
    t, r = xi[:3], xi[3:]
    angle2 = float(r @ r)
    cross = np.array([[0, -r[2], r[1]], [r[2], 0, -r[0]], [-r[1], r[0], 0]])
    if angle2 < 1e-14:  # the formula divides by angle squared; below, the first order is exact to 1e-14
        rotation, turns = np.eye(3) + cross, _GENERATORS
    else:
        angle = np.sqrt(angle2)
        rotation = np.eye(3) + np.sin(angle) / angle * cross + (1 - np.cos(angle)) / angle2 * cross @ cross
        columns = np.cross(r, (np.eye(3) - rotation).T)  # row n is r x ((1 - R) e_n)
        turns = np.einsum("n,ij->nij", r, cross) + np.einsum("nk,kij->nij", columns, _GENERATORS)
        turns = turns @ rotation / angle2
    inverse, derivatives = np.eye(4), np.zeros((6, 4, 4))
    inverse[:3, :3] = rotation.T
    inverse[:3, 3] = centre - rotation.T @ (centre + t)
    derivatives[:3, :3, 3] = -rotation  # row n is -R^T e_n
    derivatives[3:, :3, :3] = turns.transpose(0, 2, 1)
    derivatives[3:, :3, 3] = -np.einsum("nij,i->nj", turns, centre + t)
    return inverse, derivatives


# [e_n]x for the three axes
_GENERATORS = np.array(
    [[[0, 0, 0], [0, 0, -1], [0, 1, 0]], [[0, 0, 1], [0, 0, 0], [-1, 0, 0]], [[0, -1, 0], [1, 0, 0], [0, 0, 0]]], float
)
