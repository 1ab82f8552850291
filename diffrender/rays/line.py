"""Attenuation line integrals: the p in Beer and Lambert's I = I0 exp(-p), for every ray of a camera.

Joseph's method on the trilinear interpolant; `line_kernel` holds the fused kernels, `line_torch` their plain twin.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from diffrender.camera import Camera
from diffrender.errors import LabelError
from diffrender.rays import line_torch, line_warp
from diffrender.rays.aim import Aimed, Lattice, aim, gathered
from diffrender.rays.pencil import Pencil
from diffrender.rays.prepared import Prepared, PreparedLabels, prepare
from diffrender.rays.warp_runtime import engine_of
from diffrender.volume import tensor_of


def line_integrals(
    values: Shaped[Tensor, "k j i"] | Prepared,
    world_from_voxel: Float[Tensor, "4 4"],
    camera: Camera | Sequence[Camera],
    xi: Float[Tensor, "*n six"] | None = None,
    backend: str = "auto",
    centre: Float[Tensor, "3"] | None = None,
    pixels: Float[Tensor, "m 2"] | None = None,
) -> Float[Tensor, "*batch_and_image"]:
    """Integrate attenuation along the ray of every pixel.

    Args:
        values: linear attenuation [1/mm], or what `prepare` made of a volume (any level of its pyramid).
        world_from_voxel: the lattice of the finest level, RAS [mm].
        camera: one, or a sequence of cameras with images of one size.
        xi: motion of the volume (t [mm], r [rad]), (6,) or (n, 6): one for all, or one for each camera.
        backend: "auto" takes the fused kernels where they run, "torch" the plain twin, "warp" the kernels or an error.
        centre: RAS [mm] about which the volume turns; by default the middle of its lattice.
        pixels: (row, column) positions [px from the image's corner] of sparse rays; by default all pixel centres.
    Returns: p [no unit]: (h, w), or (m,) for sparse rays; one more leading axis for a sequence of cameras or of
        motions. In the dtype of floating input, float32 otherwise. Differentiable in `values` and in `xi`.
    Raises: GeometryError, ImageError, SettingError, BackendError.
    Rays start at the source, inside the volume too, and do not end at the image plane; outside the outermost voxel
    centres values fall to air within one voxel.
    Source: Joseph, IEEE TMI 1 (1982) 192, doi:10.1109/TMI.1982.4307572.
    """
    values = values if isinstance(values, Prepared) else tensor_of(values)
    q = values if isinstance(values, Prepared) else prepare(values)
    view = _aimed(q, world_from_voxel, camera, xi, centre, pixels)
    engine = _engine(backend, q)
    wants_pose = view.xi is not None and view.xi.requires_grad and torch.is_grad_enabled()
    p = _Integral.apply(q.values, view.xi, q, view.pencils, engine, wants_pose)[0]
    p = p.reshape(view.leading + view.pencils[0].size)
    half = not isinstance(values, Prepared) and values.is_floating_point() and values.dtype != p.dtype
    return p.to(values.dtype) if half else p  # pyright: ignore[reportAttributeAccessIssue]


def line_integrals_with_jacobian(
    values: Shaped[Tensor, "k j i"] | Prepared,
    world_from_voxel: Float[Tensor, "4 4"],
    camera: Camera | Sequence[Camera],
    centre: Float[Tensor, "3"] | None = None,
    xi: Float[Tensor, "*n six"] | None = None,
    backend: str = "auto",
    pixels: Float[Tensor, "m 2"] | None = None,
) -> tuple[Float[Tensor, "*batch_and_image"], Float[Tensor, "*batch_and_image_and_6"]]:
    """Integrate attenuation, and in the same pass its derivative in the volume's motion, ray by ray.

    Args: as `line_integrals`; `xi` is where the derivative is taken, by default at rest.
    Returns: p (h, w) and J (h, w, 6) = d p / d xi [1/mm, 1/rad], exactly the derivative of this p; detached.
    """
    q = values if isinstance(values, Prepared) else prepare(tensor_of(values).detach())
    view = _aimed(q, world_from_voxel, camera, xi, centre, pixels)
    engine = _engine(backend, q)
    parts = [engine.project(q, pencil, jacobian=True) for pencil in view.pencils]
    shape = view.leading + view.pencils[0].size
    p, j = (torch.stack([part[n] for part in parts]) for n in range(2))
    return p.reshape(shape), j.reshape(*shape, 6)


def label_lengths(
    q: Prepared,
    labels: PreparedLabels,
    world_from_voxel: Float[Tensor, "4 4"],
    camera: Camera,
    backend: str = "auto",
) -> Float[Tensor, "label h w"]:
    """Measure the path of every ray in every label, all labels in one pass.

    A label's path is the line integral of its indicator, interpolated as the volume is; so the paths of labels that
    fill the volume add up to the path through the volume.

    Args: as `line_integrals`; `labels` are those of the volume that `q` was made of.
    Returns: lengths [mm], float32, in the order of `labels.ids`. Without gradient.
    Raises: LabelError where labels and volume have different lattices.
    """
    if labels.groups.shape != q.padded.shape:
        raise LabelError(f"Labels of {list(labels.groups.shape)} and volume of {list(q.padded.shape)} (padded) differ.")
    (pencil,) = _aimed(q, world_from_voxel, camera).pencils
    return _engine(backend, q).label_lengths(q, labels, pencil).reshape(len(labels.ids), *pencil.size)


def _aimed(
    q: Prepared,
    world_from_voxel: Tensor,
    camera: Camera | Sequence[Camera],
    xi: Tensor | None = None,
    centre: Tensor | None = None,
    pixels: Tensor | None = None,
) -> Aimed:
    lattice = Lattice(world_from_voxel, q.base_shape, q.shape, q.base_from_level)
    return aim(lattice, camera, xi, centre, pixels)


class _Integral(torch.autograd.Function):
    """p with hand-written adjoints; `engine` is `line_torch` or `line_warp`, both with the same three functions."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor | None,
        xi: Tensor | None,
        q: Prepared,
        pencils: list[Pencil],
        engine: ModuleType,
        wants_pose: bool,
    ) -> tuple[Tensor]:
        parts = [engine.project(q, pencil, jacobian=wants_pose) for pencil in pencils]
        ctx.q, ctx.pencils, ctx.engine, ctx.xi = q, pencils, engine, xi
        ctx.jacobians = [j for _, j in parts] if wants_pose else None
        return (torch.stack([p.reshape(-1) for p, _ in parts]),)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        g_values = g_xi = None
        if ctx.needs_input_grad[0]:
            g_values = torch.zeros(ctx.q.shape, dtype=ctx.q.real, device=g.device)
            for pencil, part in zip(ctx.pencils, g, strict=True):
                ctx.engine.adjoint(ctx.q, pencil, part.to(ctx.q.real).contiguous(), g_values)
        if ctx.needs_input_grad[1]:
            rows = [part.to(j) @ j.reshape(-1, 6) for j, part in zip(ctx.jacobians, g, strict=True)]
            g_xi = gathered(rows, ctx.xi)
        return g_values, g_xi, None, None, None, None


def _engine(backend: str, q: Prepared) -> ModuleType:
    return engine_of(backend, line_torch, line_warp, q)
