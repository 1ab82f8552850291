"""The plain torch twin of the fused march: the same samples, for any device and every accumulator.

Some rays at a time, all their samples at once; what autograd needs on the way back is computed again there, so that
memory goes with the pixels and not with the samples.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, Integer
from torch import Tensor

from diffrender.rays.field import Field, Gradients, MarchSettings, Rays
from diffrender.rays.pencil import PAD

SAMPLES = 2_000_000  # channels times samples at once: about 100 MB on the way back
NEARLY = 1e-6  # [steps] by which a last sample may lie behind the exit: it lies on it, but for rounding
LARGEST = 1e30  # stands for the infinite distance to a face that a ray runs along

_Leaves = tuple[Tensor, Tensor | None, Tensor | None]  # values, entries and change of a field


@dataclass(frozen=True, eq=False)
class _Samples:
    """Where some rays are sampled.

    Attributes:
        positions: (i, j, k) of each sample, in voxels.
        inside: which samples the rays have, before they leave the volume.
    """

    positions: Float[Tensor, "sample ray 3"]
    inside: Bool[Tensor, "sample ray"]


def draw(field: Field, rays: Rays, settings: MarchSettings) -> Float[Tensor, "channel ray"]:
    """The image, premultiplied colours and alpha, without gradient."""
    return project(field, rays, settings)[0]


def project(field: Field, rays: Rays, settings: MarchSettings) -> tuple[Float[Tensor, "channel ray"], None]:
    """The image, and what `adjoint` needs of this pass: nothing."""
    on = field.values.device
    image = torch.empty((field.channels, rays.pencil.count), dtype=field.real, device=on)
    with torch.no_grad():
        for part, source, directions in _parts(field, rays):
            samples = _samples(field, rays, part, source, directions)
            image[:, part.to(on)] = _composite(field, _leaves(field), samples, rays.step, settings)
    return image, None


def adjoint(
    field: Field, rays: Rays, settings: MarchSettings, kept: None, g: Float[Tensor, "channel ray"], out: Gradients
) -> None:
    """Add to `out` the gradient of sum(g image)."""
    derivatives = torch.from_numpy(rays.pencil.matrices[1:])
    in_camera = torch.from_numpy(rays.pencil.camera_directions())
    in_camera = in_camera / in_camera.norm(dim=1, keepdim=True)
    values, entries, change = _leaves(field)
    leaves = (
        values.detach().requires_grad_(out.values is not None),
        None if entries is None else entries.detach().requires_grad_(out.entries is not None),
        None if change is None else change.detach().requires_grad_(out.change is not None),
    )
    for part, source, directions in _parts(field, rays):
        with torch.enable_grad():
            source, directions = (t.requires_grad_(out.pose is not None) for t in (source, directions))
            samples = _samples(field, rays, part, source, directions)
            image = _composite(field, leaves, samples, rays.step, settings)
        places = list(zip(leaves, (out.values, out.entries, out.change), strict=True))
        wanted = [leaf for leaf, place in [*places, (source, out.pose), (directions, out.pose)] if place is not None]
        if not image.requires_grad:
            continue
        found = dict(zip(map(id, wanted), _gradients(image, wanted, g[:, part.to(g.device)]), strict=True))
        for leaf, place in places:
            if place is not None:
                place.add_(found[id(leaf)])
        if out.pose is not None:
            by_source, by_direction = found[id(source)], found[id(directions)]
            out.pose.add_(derivatives[:, :, 3] @ by_source)
            out.pose.add_(torch.einsum("mxc,rc,rx->m", derivatives[:, :, :3], in_camera[part], by_direction))


def weights(
    ids: Integer[Tensor, "k j i"], field: Field, rays: Rays, settings: MarchSettings, count: int
) -> Float[Tensor, "count ray"]:
    """How much the voxels of each id weigh in each pixel; `field` is the extinction alone."""
    on = field.values.device
    total = torch.zeros((rays.pencil.count, count), dtype=field.real, device=on)
    for part, source, directions in _parts(field, rays):
        samples = _samples(field, rays, part, source, directions)
        _numbers, channels = _channels(field, _leaves(field), samples)
        share = _weights_of(channels[-1], samples.inside.to(on), rays.step, settings.weighted)
        for corner, weight in _corners(samples.positions, field.shape):
            k, j, i = corner.to(on).unbind(-1)
            at = ids[k, j, i].long() + count * part.to(on)
            total.view(-1).index_add_(0, at.reshape(-1), (share * weight.to(share)).reshape(-1))
    return total.T


def samples_along(field: Field, rays: Rays) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For some rays at a time: which, the field's channels (channel, sample, ray), and which samples lie inside."""
    for part, source, directions in _parts(field, rays):
        samples = _samples(field, rays, part, source, directions)
        numbers, channels = _channels(field, _leaves(field), samples)
        yield part.to(numbers.device), channels, samples.inside.to(numbers.device)


def _gradients(image: Tensor, wanted: list[Tensor], g: Tensor) -> tuple[Tensor, ...]:
    found = torch.autograd.grad(image, wanted, g, allow_unused=True)
    return tuple(torch.zeros_like(w) if f is None else f for w, f in zip(wanted, found, strict=True))


def _parts(field: Field, rays: Rays) -> Iterator[tuple[Int64[Tensor, "ray"], Tensor, Tensor]]:
    """Rays in parts that fit into memory: which, source (3,) [voxels], directions (ray, 3) [voxels/mm]; float64."""
    matrix = torch.from_numpy(rays.pencil.matrices[0])
    in_camera = torch.from_numpy(rays.pencil.camera_directions())
    directions = (in_camera / in_camera.norm(dim=1, keepdim=True)) @ matrix[:, :3].T
    diagonal = (torch.tensor(field.shape[::-1]).double() / matrix[:, :3].norm(dim=0).clamp(min=1e-9)).norm()
    samples = max(1, int(diagonal / rays.step))
    channels = field.channels * (1 if field.change is None else 2)
    for part in torch.arange(rays.pencil.count).split(max(1, SAMPLES // (samples * (channels + 3)))):
        yield part, matrix[:, 3] - PAD, directions[part]


def _samples(field: Field, rays: Rays, part: Int64[Tensor, "ray"], source: Tensor, directions: Tensor) -> _Samples:
    """Every dt from the ray's entry into the box of the voxel centres to its exit."""
    high = torch.tensor(field.shape[::-1], dtype=torch.float64) - 1
    still = directions == 0
    speed = torch.where(still, torch.ones_like(directions), directions)
    to_low, to_high = -source / speed, (high - source) / speed
    within = (source >= 0) & (source <= high)
    far = torch.where(within, LARGEST, -LARGEST)
    enter = torch.where(still, -far, torch.minimum(to_low, to_high)).amax(1).clamp(min=0)
    leave = torch.where(still, far, torch.maximum(to_low, to_high)).amin(1)
    start = rays.start if isinstance(rays.start, float) else rays.start.detach().cpu().double()[part]
    steps = ((leave - enter).detach() / rays.step - start + 1 + NEARLY).floor().clamp(min=0)
    n = torch.arange(int(steps.max()) if len(steps) else 0, dtype=torch.float64)
    distance = enter + (n[:, None] + start) * rays.step
    return _Samples(source + distance[..., None] * directions, n[:, None] < steps)


def _composite(
    field: Field, leaves: _Leaves, samples: _Samples, step: float, settings: MarchSettings
) -> Float[Tensor, "channel ray"]:
    inside = samples.inside.to(field.values.device)
    numbers, channels = _channels(field, leaves, samples)
    if not len(inside):
        return (channels.sum(1)) * 0
    return _ACCUMULATE[settings.accumulate](channels, inside, field, step, settings.weighted, numbers)


def _leaves(field: Field) -> _Leaves:
    return field.values, None if field.table is None else field.table.entries, field.change


def _channels(field: Field, leaves: _Leaves, samples: _Samples) -> tuple[Tensor, Tensor]:
    """The interpolated numbers, and the colours and extinction that they mean, each (channel, sample, ray)."""
    values, entries, change = leaves
    positions = samples.positions.to(values.device, field.real)
    numbers = _interpolated(values, positions)
    if entries is None:
        return numbers, numbers
    found = classified(numbers, entries.to(field.real), field)
    return numbers, found if change is None else changed(found, _interpolated(change, positions))


def changed(
    found: Float[Tensor, "channel *where"], change: Float[Tensor, "channel *where"]
) -> Float[Tensor, "channel *where"]:
    """Colours and extinction with a `Field.change`: colours add, the extinction is multiplied."""
    return torch.cat([found[:-1] + change[:-1], found[-1:] * change[-1:]])


def _interpolated(values: Tensor, positions: Float[Tensor, "sample ray 3"]) -> Float[Tensor, "channel sample ray"]:
    shape = torch.tensor(values.shape[-3:][::-1], device=positions.device)
    grid = torch.where(shape > 1, 2 * positions / (shape - 1).clamp(min=1) - 1, 0 * positions)
    lattice = values.to(positions.dtype).reshape(1, -1, *values.shape[-3:])
    return F.grid_sample(lattice, grid[None, :, :, None], align_corners=True, padding_mode="border")[0, ..., 0]


def classified(numbers: Tensor, entries: Tensor, field: Field) -> Float[Tensor, "channel *where"]:
    """The table's colours and extinction at the numbers; linear between its entries, with a gradient in both."""
    assert field.table is not None
    low, share = [], []
    for number, bins, (first, last) in zip(numbers, entries.shape, field.table.ranges, strict=False):
        at = ((number - first) * ((bins - 1) / (last - first))).clamp(0, bins - 1)
        low.append(at.detach().floor().clamp(max=bins - 2).long())
        share.append((at - low[-1])[..., None])
    if len(low) == 1:
        below = entries[low[0]]
        found = below + share[0] * (entries[low[0] + 1] - below)
    else:
        a, b = low
        rows = [entries[a + n, b] + share[1] * (entries[a + n, b + 1] - entries[a + n, b]) for n in (0, 1)]
        found = rows[0] + share[0] * (rows[1] - rows[0])
    return found.movedim(-1, 0)


def _weights_of(kappa: Tensor, inside: Tensor, step: float, weighted: bool) -> Float[Tensor, "sample ray"]:
    """T_i A_i, or T_i dt where colour is not weighted by its opacity."""
    depth = torch.where(inside, kappa, 0) * step
    through = torch.exp(-(depth.cumsum(0) - depth))
    return through * (-torch.expm1(-depth) if weighted else step * inside.to(through))


def _alpha(channels: Tensor, inside: Tensor, field: Field, step: float, weighted: bool, numbers: Tensor) -> Tensor:
    share = _weights_of(channels[-1], inside, step, weighted)
    alpha = -torch.expm1(-(torch.where(inside, channels[-1], 0) * step).sum(0))
    return torch.cat([(channels[:-1] * share).sum(1), alpha[None]])


def _mip(channels: Tensor, inside: Tensor, field: Field, step: float, weighted: bool, numbers: Tensor) -> Tensor:
    at = torch.where(inside, channels[-1], -1).argmax(0, keepdim=True)
    chosen = channels.gather(1, at.expand(len(channels), *at.shape))[:, 0]
    alpha = -torch.expm1(-torch.where(inside.any(0), chosen[-1], 0) * field.voxel_size)
    return torch.cat([chosen[:-1] * (alpha if weighted else 1.0 * inside.any(0)), alpha[None]])


def _mean(channels: Tensor, inside: Tensor, field: Field, step: float, weighted: bool, numbers: Tensor) -> Tensor:
    opacity = -torch.expm1(-torch.where(inside, channels[-1], 0) * field.voxel_size)
    share = (opacity if weighted else inside.to(opacity)) / inside.sum(0).clamp(min=1)
    return torch.cat([(channels[:-1] * share).sum(1), (opacity / inside.sum(0).clamp(min=1)).sum(0)[None]])


def _mida(channels: Tensor, inside: Tensor, field: Field, step: float, weighted: bool, numbers: Tensor) -> Tensor:
    """What is brighter than all before it lets less of that through: beta = 1 - (f - f_max)."""
    depth = torch.where(inside, channels[-1], 0)
    opacity = -torch.expm1(-depth * step)
    intensity = torch.where(inside, _intensity(field, numbers, depth), 0)
    before = torch.cat([torch.zeros_like(intensity[:1]), intensity.cummax(0).values[:-1]])
    beta = 1 - (intensity - before).clamp(min=0)
    image = torch.zeros_like(channels[:, 0])
    for n in range(len(depth)):
        new = channels[:-1, n] * (opacity[n] if weighted else step * inside[n].to(opacity))
        image = beta[n] * image + (1 - beta[n] * image[-1]) * torch.cat([new, opacity[n][None]])
    return image


def _intensity(field: Field, numbers: Tensor, kappa: Tensor) -> Tensor:
    """f of MIDA, 0 to 1: the number within the table's range; without a table the opacity of a voxel."""
    if field.table is None:
        return -torch.expm1(-kappa * field.voxel_size)
    low, high = field.table.ranges[0]
    return ((numbers[0] - low) / (high - low)).clamp(0, 1)


_ACCUMULATE: dict[str, Callable[..., Tensor]] = {"alpha": _alpha, "mip": _mip, "mean": _mean, "mida": _mida}


def _corners(positions: Tensor, shape: tuple[int, int, int]) -> Iterator[tuple[Int64[Tensor, "s r 3"], Tensor]]:
    """The eight voxels (k, j, i) around each position and their trilinear weights."""
    size = torch.tensor(shape[::-1])
    at = torch.minimum(positions.clamp(min=0), (size - 1).double())
    low = torch.minimum(at.floor(), (size - 2).clamp(min=0).double())
    for n in range(8):
        step = torch.tensor([n & 1, n >> 1 & 1, n >> 2])
        share = torch.where(step > 0, at - low, 1 - (at - low)).prod(-1)
        yield torch.minimum(low.long() + step, size - 1).flip(-1), share
