"""The plain torch twin of the fused kernels: the same sums, slice by slice, for any device; the reference they meet.

Joseph's method as in `line_kernel`: for the rays that advance fastest along w, every slice along w is sampled
bilinearly where the rays cross it, a chunk of slices at a time so that memory stays bounded. Derivatives are
autograd's, the sum over slices replaced by its first-order expansion so that no slice is kept for the way back.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, Integer, Shaped
from torch import Tensor

from diffrender.rays.pencil import HALF_HAT, PAD, STEEP, Pencil
from diffrender.rays.prepared import Prepared, PreparedLabels

SAMPLES = 1_000_000  # at once: about 60 MB with the gradient
RAYS = 1 << 17  # at once: their Jacobian takes 300 bytes each on the way
_TURNS = {0: (2, 0, 1), 1: (1, 0, 2), 2: (0, 1, 2)}  # (k, j, i) to (w, v, u)
_AXES = {0: (1, 2, 0), 1: (0, 2, 1), 2: (0, 1, 2)}  # (u, v, w) as axes of (i, j, k)


@dataclass(frozen=True, eq=False)
class _Bundle:
    """Rays that advance fastest along one axis w, one way: in slice s they are at (u, v) = start + s * step."""

    axis: int
    rays: Int64[Tensor, "ray"]
    source: Float[Tensor, "ray 3"]  # (u, v, w), a leaf for the gradient, float64 on the CPU
    direction: Float[Tensor, "ray 3"]
    start: Float[Tensor, "ray 2"]
    step: Float[Tensor, "ray 2"]
    length: Float[Tensor, "ray"]  # [mm] from slice to slice
    slices: range  # in front of the source, without the pad
    near: int  # the slice nearest the source
    offsets: tuple[float, ...]  # from a slice to the places where it is sampled [slices]


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Some slices of a bundle, cut to the rectangle that its rays cross; nothing of it carries a gradient."""

    slices: range
    at: Float[Tensor, "s"]  # where along the ray, [slices]
    corner: tuple[int, int]  # (v, u) in the padded slice
    slab: Float[Tensor, "s v u"]  # less air
    grid: Float[Tensor, "s ray 2"]  # where the rays are, (u, v), -1..1 from the first to the last centre
    scale: Float[Tensor, "2"]  # from voxels to the grid's units


def project(q: Prepared, pencil: Pencil, jacobian: bool) -> tuple[Tensor, Tensor | None]:
    """p (ray,) and, where asked for, its Jacobian (ray, 6)."""
    with torch.inference_mode(False) if jacobian else contextlib.nullcontext():  # the Jacobian is autograd's
        return _project(q, pencil, jacobian)


def _project(q: Prepared, pencil: Pencil, jacobian: bool) -> tuple[Tensor, Tensor | None]:
    p = torch.zeros(pencil.count, dtype=torch.float64)
    j = torch.zeros((pencil.count, 6), dtype=torch.float64) if jacobian else None
    derivatives = torch.from_numpy(pencil.matrices[1:])
    directions = torch.from_numpy(pencil.camera_directions())
    for bundle in _bundles(q, pencil):
        with torch.set_grad_enabled(jacobian):
            part = q.scale * bundle.length * _sum_over_slices(q, bundle, jacobian)
            if pencil.inside:
                part = part + q.scale * bundle.length * _first_step(q, bundle)
        p[bundle.rays] = part.detach()
        if j is not None:
            order = list(_AXES[bundle.axis])
            by_source, by_direction = torch.autograd.grad(
                part, (bundle.source, bundle.direction), torch.ones_like(part)
            )
            turns = torch.einsum("mxc,rc->rmx", derivatives[:, order, :3], directions[bundle.rays])
            j[bundle.rays] = by_source @ derivatives[:, order, 3].T + torch.einsum("rmx,rx->rm", turns, by_direction)
    on = {"dtype": q.real, "device": q.padded.device}
    return p.to(**on), None if j is None else j.to(**on)


def adjoint(q: Prepared, pencil: Pencil, g: Float[Tensor, "ray"], out: Float[Tensor, "k j i"]) -> None:
    """Add to `out` the gradient of sum(g p) in the stored values."""
    for bundle in _bundles(q, pencil):
        weight = (g[bundle.rays.to(g.device)] * (q.scale * bundle.length.detach()).to(g)).contiguous()
        turned = out.permute(_TURNS[bundle.axis])
        for chunk in _chunks(q, bundle):
            slab = chunk.slab.requires_grad_()
            with torch.enable_grad():
                sampled = _sample(slab, chunk.grid)
            (grad,) = torch.autograd.grad(sampled, slab, (weight / len(bundle.offsets)).expand(sampled.shape))
            place = [slice(chunk.slices.start - PAD, chunk.slices.stop - PAD)]
            for axis, low in enumerate(chunk.corner, 1):  # what lies in the pad is dropped
                high = min(low + slab.shape[axis] - PAD, turned.shape[axis])
                place.append(slice(max(low - PAD, 0), high))
                grad = grad.narrow(axis, place[-1].start - low + PAD, high - place[-1].start)
            turned[tuple(place)] += grad
        if pencil.inside:
            with torch.enable_grad():
                padded = q.padded.detach().clone().requires_grad_()
                first = _first_step(q, bundle, padded)
            (grad,) = torch.autograd.grad(first, padded, weight.to(first))
            out += grad[PAD:-PAD, PAD:-PAD, PAD:-PAD]


def label_lengths(q: Prepared, labels: PreparedLabels, pencil: Pencil) -> Float[Tensor, "label ray"]:
    """The path of each ray in each label [mm]."""
    on = q.padded.device
    lengths = torch.zeros((len(labels.ids), pencil.count), dtype=torch.float32, device=on)
    starts, members = labels.starts.tolist(), labels.members.tolist()
    for bundle in _bundles(q, pencil):
        groups = labels.groups.permute(_TURNS[bundle.axis])
        steps = torch.zeros((len(starts) - 1, len(bundle.rays)), dtype=torch.float32, device=on)
        for slices in _slice_chunks(bundle, per_slice=8 * len(bundle.rays)):
            for offset in bundle.offsets:
                _count_labels(bundle, groups, slices, offset, pencil.inside, steps)
        if pencil.inside:
            voxel = (bundle.source[0].detach() + 0.5).floor().long().tolist()
            set_here = int(_sets(groups[voxel[2], voxel[1], voxel[0]]))
            steps[set_here] += 0.5 * abs(bundle.near - float(bundle.source[0, 2].detach()))
        for n in range(1, len(starts) - 1):
            for label in members[starts[n] : starts[n + 1]]:
                lengths[label, bundle.rays.to(on)] += steps[n] * bundle.length.detach().to(steps)
    return lengths


def _bundles(q: Prepared, pencil: Pencil) -> Iterator[_Bundle]:
    matrix = torch.from_numpy(pencil.matrices[0])
    in_camera = torch.from_numpy(pencil.camera_directions())
    in_voxels = in_camera @ matrix[:, :3].T
    distance = in_camera.norm(dim=1)
    dominant = in_voxels.abs().argmax(dim=1)
    slopes2 = (in_voxels**2).sum(1) / in_voxels.abs().amax(1) ** 2 - 1
    for axis in range(3):
        order = list(_AXES[axis])
        count = q.padded.shape[2 - axis]
        place = float(matrix[axis, 3])
        for forward in (True, False):
            near = math.ceil(place) if forward else math.floor(place)
            low = max(PAD, near) if forward else PAD
            high = count - PAD if forward else min(count - PAD, near + 1)
            alike = (dominant == axis) & ((in_voxels[:, axis] > 0) == forward)
            for steep, rays in _in_parts(alike, slopes2 > STEEP):
                with torch.enable_grad():  # a few numbers a ray; who wants no gradient detaches them
                    source = matrix[order, 3].expand(len(rays), 3).clone().requires_grad_()
                    direction = in_voxels[rays][:, order].requires_grad_()
                    step = direction[:, :2] / direction[:, 2:]
                    start = source[:, :2] - source[:, 2:] * step
                    length = distance[rays] / direction[:, 2].abs()
                offsets = (-HALF_HAT, HALF_HAT) if steep else (0.0,)
                yield _Bundle(axis, rays, source, direction, start, step, length, range(low, high), near, offsets)


def _in_parts(alike: Bool[Tensor, "ray"], steep: Bool[Tensor, "ray"]) -> Iterator[tuple[bool, Int64[Tensor, "part"]]]:
    for is_steep in (False, True):
        rays = (alike & (steep == is_steep)).nonzero()[:, 0]
        for part in rays.split(RAYS) if len(rays) else ():
            yield is_steep, part


def _sum_over_slices(q: Prepared, bundle: _Bundle, jacobian: bool) -> Float[Tensor, "ray"]:
    """The sum of the samples; with `jacobian` as its first-order expansion in the rays' starts and steps."""
    total = torch.zeros(len(bundle.rays), dtype=q.real, device=q.padded.device)
    by_start = torch.zeros((len(bundle.rays), 2), dtype=q.real, device=q.padded.device)
    by_step = torch.zeros_like(by_start)
    for chunk in _chunks(q, bundle):
        with torch.set_grad_enabled(jacobian):
            sampled = _sample(chunk.slab, chunk.grid.requires_grad_(jacobian))
        total += sampled.detach().sum(0)
        if jacobian:
            (grad,) = torch.autograd.grad(sampled, chunk.grid, torch.ones_like(sampled))
            by_start += grad.sum(0) * chunk.scale
            by_step += torch.einsum("s,src->rc", chunk.at, grad) * chunk.scale
    mean = total.cpu().double() / len(bundle.offsets)
    if not jacobian:
        return mean
    change = (bundle.start - bundle.start.detach()) * by_start.cpu().double()
    change = change + (bundle.step - bundle.step.detach()) * by_step.cpu().double()
    return mean + change.sum(1) / len(bundle.offsets)


def _first_step(q: Prepared, bundle: _Bundle, padded: Tensor | None = None) -> Float[Tensor, "ray"]:
    """What a source inside the volume changes: the step from it to the nearest slice is a part of one.

    The trapezoid over that part, less the half step that the plain sum gave the nearest slice.
    """
    turned = (q.padded if padded is None else padded).permute(_TURNS[bundle.axis])
    part = (bundle.near - bundle.source[:, 2]).abs()
    near = _bilinear(turned[bundle.near], bundle.start + bundle.near * bundle.step) - q.air
    floor = int(bundle.source[0, 2].detach())
    above = bundle.source[:, 2] - floor
    here = (1 - above) * _bilinear(turned[floor], bundle.source[:, :2])
    here = here + above * _bilinear(turned[floor + 1], bundle.source[:, :2]) - q.air
    return 0.5 * ((part - 1) * near + part * here)


def _bilinear(slice_: Shaped[Tensor, "v u"], at: Float[Tensor, "ray 2"]) -> Float[Tensor, "ray"]:
    u, v = (x.clamp(0.5, n - 1.5) for x, n in zip(at.unbind(1), slice_.shape[::-1], strict=True))  # beyond is only air
    iu, iv = (x.detach().long() for x in (u, v))
    fu, fv = u - iu, v - iv

    def value(du: int, dv: int) -> Tensor:
        return slice_[(iv + dv).to(slice_.device), (iu + du).to(slice_.device)].cpu().double()

    return (1 - fv) * ((1 - fu) * value(0, 0) + fu * value(1, 0)) + fv * ((1 - fu) * value(0, 1) + fu * value(1, 1))


def _chunks(q: Prepared, bundle: _Bundle) -> Iterator[_Chunk]:
    turned = q.padded.permute(_TURNS[bundle.axis])
    on = {"dtype": q.real, "device": q.padded.device}
    start, step = bundle.start.detach(), bundle.step.detach()
    for slices in _slice_chunks(bundle, len(bundle.rays) + turned[0].numel()):
        for offset in bundle.offsets:
            at = torch.tensor(slices, dtype=torch.float64) + offset
            ends = torch.cat([start + step * at[0], start + step * at[-1]])
            # The rectangle that the rays cross, a voxel of air around the volume at most: beyond it all is air.
            highest = torch.tensor([turned.shape[2] - PAD, turned.shape[1] - PAD])
            low = ends.amin(0).floor().long().clamp(min=PAD - 1)
            high = torch.minimum(ends.amax(0).floor().long() + 1, highest)
            if (high <= low).any():
                continue
            (u, v), (u_end, v_end) = low.tolist(), (high + 1).tolist()
            slab = turned[slices.start : slices.stop, v:v_end, u:u_end].to(q.real, copy=True).contiguous()
            if q.air:
                slab -= q.air
            scale = 2 / (high - low).double()
            along = at.to(**on)
            grid = torch.addcmul(((start - low) * scale - 1).to(**on), along[:, None, None], (step * scale).to(**on))
            yield _Chunk(slices, along, (v, u), slab, grid, scale.to(**on))


def _slice_chunks(bundle: _Bundle, per_slice: int) -> Iterator[range]:
    most = max(1, SAMPLES // max(1, per_slice))
    for low in range(bundle.slices.start, bundle.slices.stop, most):
        yield range(low, min(low + most, bundle.slices.stop))


def _sample(slab: Float[Tensor, "s v u"], grid: Float[Tensor, "s ray 2"]) -> Float[Tensor, "s ray"]:
    return F.grid_sample(slab[:, None], grid[:, :, None], align_corners=True, padding_mode="zeros")[:, 0, :, 0]


def _count_labels(
    bundle: _Bundle, groups: Tensor, slices: range, offset: float, inside: bool, steps: Float[Tensor, "set ray"]
) -> None:
    """Add to `steps` how many steps each ray makes in each set of labels, bilinear weights as fractions."""
    on = {"dtype": torch.float32, "device": steps.device}
    s = torch.arange(slices.start, slices.stop, device=steps.device)
    at = bundle.start.detach().to(**on) + (s[:, None, None] + offset) * bundle.step.detach().to(**on)
    whole = at.floor()
    fraction = at - whole
    ray = torch.arange(len(bundle.rays), device=steps.device)
    for du in range(2):
        for dv in range(2):
            index = [(whole[..., n] + (du, dv)[n]).long() for n in range(2)]
            clamped = [x.clamp(0, groups.shape[2 - n] - 1) for n, x in enumerate(index)]
            weight = torch.where(torch.tensor(du == 1), fraction[..., 0], 1 - fraction[..., 0])
            weight = weight * (fraction[..., 1] if dv else 1 - fraction[..., 1]) / len(bundle.offsets)
            if inside and bundle.near in slices:
                weight[bundle.near - slices.start] *= 0.5 + 0.5 * abs(bundle.near - float(bundle.source[0, 2].detach()))
            sets = _sets(groups[s[:, None], clamped[1], clamped[0]])
            steps.view(-1).index_add_(0, (sets * len(ray) + ray).reshape(-1), weight.reshape(-1))


def _sets(groups: Integer[Tensor, "*n"]) -> Int64[Tensor, "*n"]:
    return torch.where(groups < 0, -1 - groups, groups).long()
