"""A mesh as one camera sees it: in the camera's frame, on a lattice finer than its pixels, cut to what it can see."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from diffrender.rays.pencil import PAD, Pencil

# Places on the image are whole numbers of 2**-16 px, so that edge functions are exact in 64 bits and a pixel's centre
# lies on one side of an edge for both of its faces, whatever their order. Only what a face covers is rounded so, never
# how deep it lies: a rim is off by 1e-5 px.
PLACE_BITS = 29
REACH = 1 << 13  # [px] from the first pixel; faces are cut there
NEAR = 1e-6  # of how far the bodies reach: what lies nearer the plane of the source is cut off


@dataclass(frozen=True, eq=False)
class Placing:
    """How vertices come before a camera and onto its image.

    Attributes:
        origin: RAS [mm], from where the camera's pencil sees the body.
        turn: camera_from_body; `shift` [mm] goes with it: points = turn @ (vertices - origin) + shift.
        image: (column, row, 1) in pixels from the first one's centre, times depth, of a point.
        near: the least depth [mm] that has a place.
        reach: the farthest place [px].
        bits: of a place that are a part of a pixel.
    """

    origin: Float[np.ndarray, "3"]
    turn: Float[np.ndarray, "3 3"]
    shift: Float[np.ndarray, "3"]
    image: Float[np.ndarray, "3 3"]
    near: float
    reach: int
    bits: int


Put = Callable[[Tensor, Placing], tuple[Tensor, Tensor, bool]]


@dataclass(frozen=True, eq=False)
class Motion:
    """How a projected mesh moves with the six numbers of its pose, and with modes of its shape.

    Attributes:
        rates: d x = rate (x, 1) for points in the camera's frame.
        into_body: turns a normal from the camera's frame into the body's, and outward.
        basis: of the vertices in the body's frame [mm]; its numbers are of the type that a Jacobian gets.
    """

    rates: Float[np.ndarray, "6 3 4"]
    into_body: Float[np.ndarray, "3 3"]
    basis: Float[Tensor, "n 3 mode"]


@dataclass(frozen=True, eq=False)
class Cut:
    """Vertices that a cut added: each lies on an edge between two that were there before."""

    ends: Int64[Tensor, "n 2"]
    share: Float[Tensor, "n"]  # from the first end to the second


@dataclass(frozen=True, eq=False)
class Projected:
    """A mesh before one camera.

    Attributes:
        points: vertices in the camera's frame [mm]; first the mesh's own, then those that cuts added.
        places: (column, row) on the image, in 2**-bits px from the centre of the first pixel.
        faces: those that are before the source and near the frame.
        bits: of a place that are a part of a pixel.
        pencil: the camera's rays, in the frame of the mesh at rest.
        own: the type of the mesh's own vertices.
        winding: how often the surface winds about the source, as the camera sees its faces: 0 outside, 1 or -1 inside
            (a mirrored camera sees the other sign). So much the signs of every ray's crossings add up to.
        cuts: what cuts added, in their order; empty for a mesh that is well inside the camera's field.
    """

    points: Float[Tensor, "n 3"]
    places: Int32[Tensor, "n 2"]
    faces: Int64[Tensor, "f 3"]
    bits: int
    pencil: Pencil
    own: torch.dtype
    winding: int
    cuts: tuple[Cut, ...] = ()

    @property
    def camera_from_body(self) -> Float[np.ndarray, "3 3"]:
        """The turn from the mesh's frame into the camera's."""
        return self.pencil.matrices[0, :, :3].T

    def mirrored(self) -> int:
        """-1 where the camera sees a mirror image, 1 otherwise."""
        return 1 if np.linalg.det(self.camera_from_body) > 0 else -1

    def ray_lengths(self) -> Float[Tensor, "ray"]:
        """How far each ray runs while its depth grows by 1 [mm/mm], float64."""
        columns, row_step, column_step, row, column, distance = self.pencil.detector
        x = (np.arange(int(columns)) + 0.5 - column) * column_step / distance
        y = (np.arange(self.pencil.size[0]) + 0.5 - row) * row_step / distance
        squares = np.add.outer(1 + y * y, x * x)
        return torch.from_numpy(np.sqrt(squares, out=squares).ravel()).to(self.points.device)

    def pose_rates(self) -> Float[np.ndarray, "6 3 4"]:
        """How the camera's frame sees the body's points move with the six numbers of the pose: d x = rate (x, 1)."""
        return -self.camera_from_body @ self.pencil.matrices[1:]

    def with_cuts(self, rates: Float[Tensor, "v 3 p"]) -> Float[Tensor, "n 3 p"]:
        """What is known of the mesh's own vertices, for those too that cuts added."""
        for cut in self.cuts:
            first, second = rates[cut.ends].unbind(1)
            rates = torch.cat([rates, first + cut.share[:, None, None].to(rates) * (second - first)])
        return rates

    def without_cuts(self, gradients: Float[Tensor, "n 3"]) -> Float[Tensor, "v 3"]:
        """The transpose of `with_cuts`. That a cut's place on its edge moves too changes no length: it slides within
        the faces' planes."""
        for cut in reversed(self.cuts):
            own = len(gradients) - len(cut.ends)
            gradients, added = gradients[:own].clone(), gradients[own:]
            gradients.index_add_(0, cut.ends[:, 0], (1 - cut.share[:, None]) * added)
            gradients.index_add_(0, cut.ends[:, 1], cut.share[:, None] * added)
        return gradients


def project(
    vertices: Float[Tensor, "v 3"],
    faces: Int64[Tensor, "f 3"],
    pencil: Pencil,
    origin: Float[np.ndarray, "3"],
    radius: float,
    put: Put,
) -> Projected:
    """The mesh before the camera of `pencil`, whose matrices lead into a lattice of 1 mm with its first voxel at
    `origin`; the vertices are at most `radius` [mm] from there. `put` is that of `surface_torch` or `surface_warp`."""
    _, row_step, column_step, row, column, distance = pencil.detector
    turn = pencil.matrices[0, :, :3].T
    shift = -turn @ (pencil.matrices[0, :, 3] - PAD)
    reach = max(REACH, 1 << int(2 * max(pencil.size) - 1).bit_length())
    bits = PLACE_BITS - reach.bit_length() + 1
    image = np.array([[distance / column_step, 0, column - 0.5], [0, distance / row_step, row - 0.5], [0, 0, 1.0]])
    near = NEAR * (float(np.linalg.norm(shift)) + radius)
    points, places, all_seen = put(vertices, Placing(origin, turn, shift, image, near, reach, bits))
    winding, cuts = 0, []
    if not all_seen:
        winding = _winding(points, faces)
        sides = [sign * image[n] + [0, 0, reach] for n in range(2) for sign in (-1, 1)]
        for plane in [(image[2], -near), *((side, 0.0) for side in sides)]:
            points, faces, cut = _cut(points, faces, plane)
            cuts.append(cut)
        places = places_of(turned(points, image), bits)
    return Projected(points, places, faces, bits, pencil, vertices.dtype, winding, tuple(cuts))


def places_of(at: Float[Tensor, "n 3"], bits: int) -> Int32[Tensor, "n 2"]:
    """Places on the image from (column, row, 1) times depth; of points that no face needs, which may be anywhere, some
    place."""
    places = at[:, :2] * 2.0**bits / at[:, 2:]
    return places.nan_to_num(0.0).round_().clamp_(-(2.0**30), 2.0**30).to(torch.int32)


def turned(
    points: Float[Tensor, "n 3"], matrix: Float[np.ndarray, "3 3"], shift: Float[np.ndarray, "3"] | None = None
) -> Float[Tensor, "n 3"]:
    """matrix @ point + shift for every point; one operation after the other, so that no thread changes a bit of it."""
    columns = torch.from_numpy(np.ascontiguousarray(matrix.T)).to(points)
    total = points[:, :1] * columns[0] + points[:, 1:2] * columns[1] + points[:, 2:] * columns[2]
    return total if shift is None else total + torch.from_numpy(shift).to(points)


def _cut(points: Tensor, faces: Tensor, plane: tuple[np.ndarray, float]) -> tuple[Tensor, Tensor, Cut]:
    """The faces' parts on the upper side of a plane. An edge is cut at one place for all of its faces."""
    (x, y, z), offset = plane[0].tolist(), plane[1]
    above = x * points[:, 0] + y * points[:, 1] + z * points[:, 2] + offset
    kept = (above >= 0)[faces]
    count = kept.sum(1)
    one, two = count == 1, count == 2
    # The corner that is alone on its side comes first.
    alone = torch.cat([kept[one].int().argmax(1), kept[two].int().argmin(1)])
    crossed = torch.cat([faces[one], faces[two]])
    order = (alone[:, None] + torch.arange(3, device=faces.device)) % 3
    a, b, c = crossed.gather(1, order).unbind(1)
    edges = torch.stack([torch.stack([a, b], 1), torch.stack([a, c], 1)]).sort(-1).values
    ends, new = torch.unique(edges.reshape(-1, 2), dim=0, return_inverse=True)
    low, high = above[ends].unbind(1)
    share = low / (low - high)
    first, second = points[ends].unbind(1)
    ab, ac = (new + len(points)).reshape(2, -1)
    n = int(one.sum())
    parts = [
        faces[count == 3],
        torch.stack([a, ab, ac], 1)[:n],
        torch.stack([ab, b, c], 1)[n:],
        torch.stack([ab, c, ac], 1)[n:],
    ]
    return torch.cat([points, first + share[:, None] * (second - first)]), torch.cat(parts), Cut(ends, share)


def _winding(points: Tensor, faces: Tensor) -> int:
    """How often the surface winds about the source: its solid angle over 4 pi, rounded.

    Source: van Oosterom & Strackee, IEEE TBME 30 (1983) 125, doi:10.1109/TBME.1983.325207.
    """
    a, b, c = points[faces].unbind(1)
    la, lb, lc = a.norm(dim=1), b.norm(dim=1), c.norm(dim=1)
    below = la * lb * lc + (a * b).sum(1) * lc + (b * c).sum(1) * la + (c * a).sum(1) * lb
    angle = 2 * torch.atan2((a * torch.linalg.cross(b, c)).sum(1), below).sum()
    return round(float(angle) / (4 * np.pi))
