"""Emission-absorption along rays: what direct volume rendering shows of a lattice of colours and extinction.

With samples x_i a step dt apart on a ray, A_i = 1 - exp(-kappa_i dt) (eq. 3, 10) and T_i the product of 1 - A over the
samples before (eq. 6), a ray shows sum_i T_i A_i c_i and covers 1 - T_end: premultiplied colour and alpha (eq. 5).
A sample lies at t_in + (n + start) dt, t_in where the ray enters the box of the voxel centres, as in VTK; there is
nothing beyond the outermost voxel centres. `march_kernel` holds the fused kernels, `march_torch` their plain twin.

Source: Weiss & Navab, Deep Direct Volume Rendering (2021), eq. 1-12; literal (2) and (10) leave colour unweighted.
"""

from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from diffrender.camera import Camera
from diffrender.errors import ImageError
from diffrender.rays import march_torch, march_warp
from diffrender.rays.aim import Lattice, aim, gathered
from diffrender.rays.field import Field, Gradients, MarchSettings, Rays, Table
from diffrender.rays.pencil import Pencil
from diffrender.rays.warp_runtime import engine_of


def march(
    field: Field,
    camera: Camera | Sequence[Camera],
    settings: MarchSettings | None = None,
    xi: Float[Tensor, "*n six"] | None = None,
    centre: Float[Tensor, "3"] | None = None,
    jitter: torch.Generator | None = None,
) -> Float[Tensor, "*batch channel h w"]:
    """Composite a field along the ray of every pixel.

    Args:
        field: what the rays meet; differentiable in its values, its table's entries and its change.
        camera: one, or a sequence of cameras with images of one size.
        settings: by default one sample a voxel, alpha compositing.
        xi: motion of the field (t [mm], r [rad]), (6,) or (n, 6); differentiable.
        centre: RAS [mm] about which it turns; by default the middle of its lattice.
        jitter: draws where each ray's first sample lies within its first step (eq. 7); None: settings.start for all.
    Returns: (channel, h, w): premultiplied colours and, last, alpha; one more leading axis for a sequence.
        float64 for float64 input, else float32. Without any gradient asked for, empty space is skipped and a ray ends
        where less than 1e-3 of it is left; with gradients neither, since both would cut them off.
    Raises: GeometryError, SettingError, BackendError.
    """
    settings = MarchSettings() if settings is None else settings
    aimed = aim(Lattice(field.world_from_voxel, field.shape), camera, xi, centre)
    if field.values.is_meta:  # whoever counts memory asks for shapes alone
        return field.values.new_empty((*aimed.leading, field.channels, *aimed.pencils[0].size), dtype=field.real)
    step = field.voxel_size / settings.sampling_rate
    views = [Rays(pencil, step, _starts(pencil, settings, jitter)) for pencil in aimed.pencils]
    engine = _engine(field, settings)
    entries = None if field.table is None else field.table.entries
    leaves = (field.values, entries, field.change, aimed.xi)
    if any(t is not None and t.requires_grad for t in leaves) and torch.is_grad_enabled():
        images = _March.apply(*leaves, field, views, settings, engine)
    else:
        images = torch.stack([engine.draw(field, rays, settings) for rays in views])
    shape = (field.channels, *views[0].pencil.size)
    return images.reshape(*aimed.leading, *shape)


def march_weights(
    ids: Integer[Tensor, "k j i"],
    extinction: Float[Tensor, "k j i"] | Field,
    count: int,
    world_from_voxel: Float[Tensor, "4 4"] | None,
    camera: Camera,
    settings: MarchSettings | None = None,
) -> Float[Tensor, "count h w"]:
    """How much the voxels of each id weigh in each pixel: for a fixed extinction the image is linear in the colours.

    The sum of weights[n] * colours[n] is the colour that `march` shows of the field whose colours are colours[ids] and
    whose extinction is `extinction`, trilinear interpolation included; or, where a field with a table is given, what
    offsets[ids] added to its colours (`Field.change`) add to the image. Without gradient.

    Args:
        ids: from 0 to count - 1.
        extinction: kappa [1/mm] of each voxel, or a field, whose extinction at every sample counts.
        world_from_voxel: of `extinction`; None with a field, which has its own.
    Raises: ImageError for ids outside 0 to count - 1; as `march`.
    """
    settings = MarchSettings() if settings is None else settings
    field = _extinction_of(extinction, world_from_voxel)
    if ids.shape != field.shape or int(ids.min()) < 0 or int(ids.max()) >= count:
        raise ImageError(
            f"Ids go from 0 to {count - 1}, one a voxel of the extinction; these have the shape {list(ids.shape)} for "
            f"{list(field.shape)} and go from {int(ids.min())} to {int(ids.max())}."
        )
    (pencil,) = aim(Lattice(field.world_from_voxel, field.shape), camera).pencils
    rays = Rays(pencil, field.voxel_size / settings.sampling_rate, settings.start)
    return _engine(field, settings).weights(ids, field, rays, settings, count).reshape(count, *pencil.size)


def _extinction_of(given: Tensor | Field, world_from_voxel: Tensor | None) -> Field:
    """A field whose only channel is the extinction."""
    if isinstance(given, Tensor):
        assert world_from_voxel is not None
        return Field(given.detach()[None], world_from_voxel)
    if given.table is None:
        return Field(given.values.detach()[-1:], given.world_from_voxel)
    table = Table(given.table.entries.detach()[..., -1:], given.table.ranges)
    gain = None if given.change is None else given.change.detach()[-1:]
    return Field(given.values.detach(), given.world_from_voxel, table, gain)


def samples_along(
    field: Field, camera: Camera, settings: MarchSettings | None = None, jitter: torch.Generator | None = None
) -> Iterator[tuple[Integer[Tensor, "ray"], Float[Tensor, "channel sample ray"], Bool[Tensor, "sample ray"]]]:
    """What the samples of each ray hold, for accumulators of other kinds; some rays at a time.

    Returns: for each part of the image its pixels (row * width + column), the field's channels at their samples, front
        to back, and which samples lie within the volume. Differentiable in the field's values, entries and change.
    """
    settings = MarchSettings() if settings is None else settings
    (pencil,) = aim(Lattice(field.world_from_voxel, field.shape), camera).pencils
    rays = Rays(pencil, field.voxel_size / settings.sampling_rate, _starts(pencil, settings, jitter))
    return march_torch.samples_along(field, rays)


def _starts(pencil: Pencil, settings: MarchSettings, jitter: torch.Generator | None) -> Tensor | float:
    if jitter is None:
        return settings.start
    # 1 - U[0, 1): never 0, so that no ray samples the face of the box itself
    return 1 - torch.rand(pencil.count, generator=jitter, device=jitter.device)


class _March(torch.autograd.Function):
    """Images of all views; `engine` is `march_torch` or `march_warp`, both with `draw`, `project` and `adjoint`."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        entries: Tensor | None,
        change: Tensor | None,
        xi: Tensor | None,
        field: Field,
        views: list[Rays],
        settings: MarchSettings,
        engine: ModuleType,
    ) -> Tensor:
        parts = [engine.project(field, rays, settings) for rays in views]
        ctx.field, ctx.views, ctx.settings, ctx.engine, ctx.xi = field, views, settings, engine, xi
        ctx.kept = [kept for _, kept in parts]
        return torch.stack([image for image, _ in parts])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        field = ctx.field
        wants_values, wants_entries, wants_change, wants_pose = ctx.needs_input_grad[:4]
        values = torch.zeros_like(field.values, dtype=field.real) if wants_values else None  # in the same strides
        entries = torch.zeros_like(field.table.entries, dtype=field.real) if wants_entries else None
        change = torch.zeros_like(field.change, dtype=field.real) if wants_change else None
        poses = []
        for rays, kept, part in zip(ctx.views, ctx.kept, g, strict=True):
            pose = torch.zeros(6, dtype=torch.float64) if wants_pose else None
            out = Gradients(values, entries, pose, change)
            ctx.engine.adjoint(field, rays, ctx.settings, kept, part.to(field.real).contiguous(), out)
            poses.append(pose)
        g_values = None if values is None else values.to(field.values.dtype)
        g_entries = None if entries is None else entries.to(field.table.entries.dtype)
        g_change = None if change is None else change.to(field.change.dtype)
        g_pose = gathered(poses, ctx.xi) if wants_pose else None
        return g_values, g_entries, g_change, g_pose, None, None, None, None


def _engine(field: Field, settings: MarchSettings) -> ModuleType:
    return engine_of(settings.backend, march_torch, march_warp, field, settings)
