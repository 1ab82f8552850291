"""Path length through closed meshes: the L-buffer of Shetty et al., for every ray of a camera.

Every face that covers a pixel adds the depth of its crossing, with a minus where the ray enters and a plus where it
leaves; nothing is sorted, and there may be any number of layers. `surface_kernel` holds the fused kernels,
`surface_torch` their plain twin.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from diffrender.camera import Camera
from diffrender.errors import GeometryError, MeshError, notify
from diffrender.mesh import Mesh
from diffrender.rays import surface_torch, surface_warp
from diffrender.rays.aim import Aimed, Lattice, aim, gathered
from diffrender.rays.pencil import Pencil
from diffrender.rays.projected import Motion, Projected, project
from diffrender.rays.warp_runtime import engine_of

MOST_UNBALANCED = 0.01  # of the rays that meet a surface; beyond it `path_lengths` says so


@dataclass(frozen=True, eq=False)
class PathLengths:
    """Path lengths, and where they are a guess.

    Attributes:
        lengths: (h, w) [mm], with leading axes as `path_lengths` has them.
        unbalanced: of the same shape: rays that enter the surface more or less often than they leave it. Their lengths
            are those of their neighbours, and carry no gradient.
    """

    lengths: Float[Tensor, "*batch_and_image"]
    unbalanced: Bool[Tensor, "*batch_and_image"]

    @property
    def unbalanced_share(self) -> float:
        """Of the rays that meet a surface, the share that is unbalanced."""
        unbalanced = int(torch.count_nonzero(self.unbalanced))
        return unbalanced / int(torch.count_nonzero((self.lengths != 0) | self.unbalanced)) if unbalanced else 0.0


def path_lengths(
    mesh: Mesh | Sequence[Mesh],
    camera: Camera | Sequence[Camera],
    xi: Float[Tensor, "*n six"] | None = None,
    centre: Float[Tensor, "3"] | None = None,
    backend: str = "auto",
) -> Float[Tensor, "*batch_and_image"]:
    """Measure how far the ray of every pixel runs inside closed surfaces.

    Args:
        mesh: one, or a sequence of them, each measured by itself.
        camera: one, or a sequence of cameras with images of one size.
        xi: motion of the mesh (t [mm], r [rad]), (6,) or (n, 6): one for all, or one for each camera. Several meshes
            move as one body.
        centre: RAS [mm] about which the mesh turns; by default the middle of its bounding box, or of that of all.
        backend: "auto" takes the fused kernels where they run, "torch" the plain twin, "warp" the kernels or an error.
    Returns: (h, w) [mm], or (n, h, w) for a sequence of meshes; one more leading axis for a sequence of cameras or of
        motions. float64 for float64 vertices, float32 otherwise. Differentiable in the vertices and in `xi`.
    Raises: GeometryError, MeshError, SettingError, BackendError. A Notice where over 1 % of the rays that meet a
        surface enter it more or less often than they leave it: it has holes, or faces too many.
    Rays start at the source, inside the mesh too, and do not end at the image plane. A surface that encloses a negative
    volume is inside out and measured as if turned. No gradient of the silhouette is needed: at the rim the length goes
    to 0, so what a moving rim uncovers is nothing. The gradient dL/da = w_a n / |n . d| of a corner with weight w_a at
    the crossing of a ray d grows without bound where the ray grazes its face; there, and only in the gradient,
    |n . d| is held at 0.05.
    Source: Shetty et al. (2021), the L-buffer, L = sum_j D_j Z_j over the faces that cover the pixel.
    """
    found = surface_pass(mesh, camera, xi, centre, backend)
    if found.unbalanced_share > MOST_UNBALANCED:
        notify(
            f"{100 * found.unbalanced_share:.1f} % of the rays that meet the surface enter it more or less often than "
            "they leave it: it has holes, edges of three faces, or faces twice. Their lengths are those of their "
            "neighbours. Repair the mesh for true ones."
        )
    return found.lengths


def surface_pass(
    mesh: Mesh | Sequence[Mesh],
    camera: Camera | Sequence[Camera],
    xi: Float[Tensor, "*n six"] | None = None,
    centre: Float[Tensor, "3"] | None = None,
    backend: str = "auto",
) -> PathLengths:
    """As `path_lengths`, with the rays whose crossings do not balance; it never notifies."""
    bodies = [mesh] if isinstance(mesh, Mesh) else list(mesh)
    view = _aimed(bodies, camera, xi, centre)
    parts = [
        _Lengths.apply(body.vertices, view.aimed.xi, body, view, _engine(backend, body.vertices)) for body in bodies
    ]
    single, shape = isinstance(mesh, Mesh), view.aimed.leading + view.aimed.pencils[0].size
    lengths, unbalanced = (
        values[0].reshape(shape) if single else torch.stack(values, 1).reshape(*shape[:-2], len(bodies), *shape[-2:])
        for values in ([part[n] for part in parts] for n in range(2))
    )
    return PathLengths(lengths, unbalanced)


def path_lengths_with_jacobian(
    mesh: Mesh,
    camera: Camera,
    basis: Float[Tensor, "mode v 3"] | None = None,
    xi: Float[Tensor, "*n six"] | None = None,
    centre: Float[Tensor, "3"] | None = None,
    backend: str = "auto",
) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w parameter"]]:
    """Measure path lengths, and in the same pass how each ray's changes with the mesh's motion and with its shape.

    Args: as `path_lengths`, for one camera and one motion; `xi` (6,) is where the derivative is taken, by default at
            rest.
        basis: (modes, v, 3) [mm], how the vertices (before the motion) move with each shape coefficient. It is taken
            without a copy where it has the vertices' type and its modes lie side by side in memory, as
            `basis.permute(1, 2, 0).contiguous().permute(2, 0, 1)` has them: so where it is used many times.
    Returns: L (h, w) [mm] and J (h, w, 6 + modes) = d L / d (xi, coefficients); J is 0 at unbalanced rays. Detached.
    """
    if basis is not None and tuple(basis.shape[1:]) != tuple(mesh.vertices.shape):
        raise MeshError(
            f"A basis is (modes, v, 3), and this mesh has {len(mesh.vertices)} vertices; it is {list(basis.shape)}."
        )
    view = _aimed([mesh], camera, None if xi is None else xi.detach(), centre)
    if view.aimed.leading:
        raise GeometryError("A Jacobian is of one camera and one motion (6,); call it once for each of several.")
    vertices, engine = mesh.vertices.detach().contiguous(), _engine(backend, mesh.vertices)
    seen = view.seen(vertices, mesh.faces, view.aimed.pencils[0], engine)
    factor = _factor(seen, engine.outward(vertices, view.origin, mesh.faces))
    shape = vertices.new_zeros((0, *vertices.shape)) if basis is None else basis.detach().to(vertices)
    moves = seen.with_cuts(shape.permute(1, 2, 0).contiguous())
    motion = Motion(factor * seen.pose_rates(), factor * seen.camera_from_body.T, moves)
    depths, signs, jacobian = engine.splat(seen, motion)
    lengths, unbalanced, some = _finished(seen, factor, engine, depths, signs)
    assert jacobian is not None
    if some:
        jacobian.index_fill_(0, torch.nonzero(unbalanced)[:, 0], 0.0)
    size = seen.pencil.size
    return lengths.reshape(size), jacobian.reshape(*size, -1)


@dataclass(frozen=True, eq=False)
class _View:
    """What a call aims at, from the middle of all bodies (RAS [mm]), and how far they reach from there [mm]."""

    aimed: Aimed
    origin: Float[np.ndarray, "3"]
    radius: float

    def seen(self, vertices: Tensor, faces: Tensor, pencil: Pencil, engine: ModuleType) -> Projected:
        return project(vertices, faces, pencil, self.origin, self.radius, engine.put)


def _aimed(bodies: list[Mesh], camera: Any, xi: Tensor | None, centre: Tensor | None) -> _View:
    """The cameras' rays in a lattice of 1 mm whose only voxel lies at the middle of all bodies."""
    if not bodies or not all(isinstance(body, Mesh) for body in bodies):
        raise MeshError(f"A mesh, or a sequence of at least one, is needed; found {bodies!r}.")
    # axis by axis: along the vertices of an array (v, 3), torch finds extremes five times as slowly
    extremes = [[torch.stack(axis.aminmax()) for axis in body.vertices.detach().unbind(1)] for body in bodies]
    bounds = torch.stack([torch.stack(axes) for axes in extremes]).to("cpu", torch.float64)
    low, high = bounds[..., 0].amin(0), bounds[..., 1].amax(0)
    lattice = torch.eye(4, dtype=torch.float64)
    lattice[:3, 3] = (low + high) / 2
    aimed = aim(Lattice(lattice, (1, 1, 1)), camera, xi, centre)
    return _View(aimed, lattice[:3, 3].numpy().copy(), float((high - low).norm()) / 2)


class _Lengths(torch.autograd.Function):
    """Lengths with hand-written adjoints; `engine` is `surface_torch` or `surface_warp`, of the same functions."""

    @staticmethod
    def forward(
        ctx: Any, vertices: Tensor, xi: Tensor | None, body: Mesh, view: _View, engine: ModuleType
    ) -> tuple[Tensor, Tensor]:
        own = vertices.detach().contiguous()
        outward = engine.outward(own, view.origin, body.faces)
        seen = [view.seen(own, body.faces, pencil, engine) for pencil in view.aimed.pencils]
        parts = [_finished(one, _factor(one, outward), engine, *engine.splat(one)[:2]) for one in seen]
        unbalanced = _stacked([part[1] for part in parts])
        ctx.seen, ctx.outward, ctx.engine, ctx.xi = seen, outward, engine, xi
        ctx.unbalanced = unbalanced if any(part[2] for part in parts) else None
        ctx.mark_non_differentiable(unbalanced)
        return _stacked([part[0] for part in parts]), unbalanced

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        own, g = g.dtype, g.to(torch.float64)
        g = g if ctx.unbalanced is None else torch.where(ctx.unbalanced, 0.0, g)
        total, poses = None, []
        for one, image in zip(ctx.seen, g, strict=True):
            into_body = _factor(one, ctx.outward) * one.camera_from_body.T
            pull = one.without_cuts(ctx.engine.adjoint(one, into_body, image.contiguous()))
            if ctx.needs_input_grad[0]:
                total = pull if total is None else total + pull
            if ctx.needs_input_grad[1]:
                poses.append(_pose_gradient(one, pull))
        grown = total.to(own) if total is not None and ctx.needs_input_grad[0] else None
        return grown, gathered(poses, ctx.xi) if poses else None, None, None, None


def _stacked(images: list[Tensor]) -> Tensor:
    """As torch.stack, without a copy of a single one."""
    return images[0][None] if len(images) == 1 else torch.stack(images)


def _factor(seen: Projected, outward: int) -> int:
    """From the turn of faces on the image to the side of the surface that is out."""
    return seen.mirrored() * outward


def _finished(
    seen: Projected, factor: int, engine: ModuleType, depths: Tensor, signs: Tensor
) -> tuple[Tensor, Tensor, bool]:
    """Lengths (ray,) [mm], whether a ray's crossings do not balance (ray,), and whether there is such a ray."""
    lengths, unbalanced, some = engine.finish(seen, factor, depths, signs, seen.own)
    if some:
        size = seen.pencil.size
        lengths = _filled(lengths.reshape(size), unbalanced.reshape(size)).reshape(-1)
    return lengths, unbalanced, some


def _filled(lengths: Float[Tensor, "h w"], unbalanced: Bool[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """Each unbalanced ray gets the mean of its balanced neighbours, of eight, ring by ring; 0 where none balances."""
    known = (~unbalanced).to(lengths)
    values = lengths * known
    while 0 < torch.count_nonzero(known) < known.numel():
        count = _around(known)
        mean = _around(values) / count.clamp(min=1)
        values = torch.where(known > 0, values, mean)
        known = (count > 0).to(known)
    return values


def _around(image: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """The sum of each pixel and its eight neighbours."""
    wide = F.pad(image, (1, 1, 1, 1))
    rows = wide[:-2] + wide[1:-1] + wide[2:]
    return rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]


def _pose_gradient(seen: Projected, pull: Float[Tensor, "v 3"]) -> Float[Tensor, "6"]:
    points = torch.cat([seen.points[: len(pull)], torch.ones_like(pull[:, :1])], 1)
    # numpy's own loop: torch adds in an order that depends on its threads
    moment = np.einsum("vi,vj->ij", pull.cpu().numpy(), points.cpu().numpy())
    return torch.from_numpy(np.einsum("nij,ij->n", seen.pose_rates(), seen.camera_from_body @ moment))


def _engine(backend: str, vertices: Tensor) -> ModuleType:
    return engine_of(backend, surface_torch, surface_warp, vertices)
