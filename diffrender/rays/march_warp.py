"""The fused march at work: launched over tiles of rays on the CPU, at once on CUDA."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from diffrender.rays import warp_runtime
from diffrender.rays.field import Field, Gradients, MarchSettings, Rays
from diffrender.rays.pencil import PAD

COLOURS = 16  # at once; more go through the volume in several passes
SLAB = 48  # slices of a slab at least: the samples on its border are taken twice
SLABS = 8  # at most, so that a ray keeps little; the number does not depend on that of the threads
TILE = 1024  # rays whose gradients in the table and the pose one thread sums, on the CPU
TABLES = 2**20  # numbers in all the tables that threads keep of their own
FARTHEST = 12  # blocks that a ray jumps over at once
LEAST = 1e-3  # of a ray: a drawing ends it there


def draw(
    field: Field, rays: Rays, settings: MarchSettings, least: float = LEAST, skip: bool = True
) -> Float[Tensor, "channel ray"]:
    """The image, premultiplied colours and alpha, without gradient.

    Args:
        least: transmittance at which a ray ends.
        skip: leave out blocks of the field that show nothing: what is left is the same to the last bit.
    """
    image = torch.empty((rays.pencil.count, field.channels), dtype=field.real, device=field.values.device)
    if not settings.weighted and field.change is not None:
        skip = False  # what is transparent counts as well, and a change may colour it
    # The map of what is empty costs about what it saves in one drawing: it is made for the second.
    seen = field.kept.setdefault("drawn", 0)
    field.kept["drawn"] = seen + 1
    nowhere = torch.empty((0, 0, 0), dtype=torch.uint8, device=image.device)
    reach = _reach(field, settings.weighted) if skip and seen else nowhere
    blocks = _wp().vec3i(*reach.shape)
    for part in _parts(field, keep=True):
        view = part.view(rays)

        def launch(start: int, stop: int, part: "_Part" = part, view: Any = view) -> None:
            where = [_array(reach.view(-1)), blocks, least, start, field.channels, part.first, _array(image.view(-1))]
            part.launch("draw", stop - start, [part.ground, view, int(settings.weighted), *where])

        _over(image.device, rays.pencil.count, launch)
    return image.T


def project(field: Field, rays: Rays, settings: MarchSettings) -> tuple[Float[Tensor, "channel ray"], Any]:
    """The image, and what `adjoint` needs of this pass: the image, and each ray's state where it enters a slab."""
    on, count = field.values.device, rays.pencil.count
    image = torch.empty((count, field.channels), dtype=field.real, device=on)
    lying = (field.values, field.change)
    wanted = any(part is not None and part.requires_grad for part in lying)
    axis, slabs = _slabs(field, rays) if wanted else (0, 1)
    states, none = [], _array(torch.empty(0, dtype=torch.uint8, device=on))
    for part in _parts(field, keep=False):
        kept = torch.empty(slabs * count * (part.key.width + 1) if slabs > 1 else 0, dtype=field.real, device=on)
        view = part.view(rays)

        def launch(start: int, stop: int, part: "_Part" = part, view: Any = view, kept: Tensor = kept) -> None:
            where = [axis, slabs, start, count, field.channels, part.first, _array(image.view(-1)), _array(kept), none]
            part.launch("project", stop - start, [part.ground, view, int(settings.weighted), *where])

        _over(on, count, launch)
        states.append(kept)
    return image.T, (image, axis, slabs, states)


def adjoint(
    field: Field, rays: Rays, settings: MarchSettings, kept: Any, g: Float[Tensor, "channel ray"], out: Gradients
) -> None:
    """Add to `out` the gradient of sum(g image)."""
    image, axis, slabs, states = kept
    g_rays = g.T.to(field.real).contiguous()
    for part, state in zip(_parts(field, keep=False), states, strict=True):
        common = [part.ground, part.view(rays), int(settings.weighted)]
        ends = [_array(image.view(-1)), _array(g_rays.view(-1)), float(part.first == 0)]
        if out.values is not None or out.change is not None:
            _adjoint_lattice(field, rays, part, common, ends, (axis, slabs, state), out)
        if out.entries is not None:
            _adjoint_entries(part, common, ends, rays.pencil.count, out.entries)
        if out.pose is not None:
            _adjoint_pose(part, common, ends, rays, out.pose)


def weights(
    ids: Integer[Tensor, "k j i"], field: Field, rays: Rays, settings: MarchSettings, count: int
) -> Float[Tensor, "count ray"]:
    """How much the voxels of each id weigh in each pixel; `field` is the extinction alone."""
    total = torch.zeros((rays.pencil.count, count), dtype=field.real, device=field.values.device)
    numbers = _array(ids.to(torch.int32).contiguous().view(-1))
    (part,) = _parts(field, keep=False)
    view = part.view(rays)

    def launch(start: int, stop: int) -> None:
        where = [numbers, count, start, _array(total.view(-1))]
        part.launch("weights", stop - start, [part.ground, view, int(settings.weighted), *where])

    _over(total.device, rays.pencil.count, launch)
    return total.T


def why_not(field: Field, settings: MarchSettings) -> str | None:
    """Why the kernels cannot serve this field, as one sentence; None once they are compiled and loaded for it."""
    if settings.accumulate != "alpha":
        return f"they accumulate alpha and not {settings.accumulate}."
    problem = warp_runtime.why_not(field.values)
    if problem is not None:
        return problem
    found = (_load(key, "project", field.values.device) for key, _ in _keys(field))
    return next((problem for problem in found if problem is not None), None)


@dataclass(frozen=True)
class _Key:
    """What a module of kernels is compiled for; see `march_kernel.build`."""

    kind: str
    stored: str
    beside: str
    width: int
    apart: bool
    precise: bool

    def __str__(self) -> str:
        what = {
            "values": "colours",
            "table1": "numbers and a table",
            "table2": "pairs of numbers and a table",
            "changed": f"numbers, a table and its change in {self.beside}",
        }
        return f"{self.width + self.apart} channels ({what[self.kind]}, {self.stored})"


@dataclass(frozen=True, eq=False)
class _Part:
    """A pass through the field for some of its colours, from `first` on, and its extinction."""

    field: Field
    key: _Key
    first: int
    ground: Any

    def view(self, rays: Rays) -> Any:
        """The camera and its rays, for the kernels of this part."""
        kernels, pencil, on = _kernels(self.key), rays.pencil, self.field.values.device
        view = kernels.View()
        view.matrix = _wp().mat33d(*pencil.matrices[0, :, :3].ravel())
        view.source = _wp().vec3d(*(pencil.matrices[0, :, 3] - PAD))
        view.detector = kernels.vec6d(*pencil.detector)
        view.step = rays.step
        starts = torch.as_tensor(rays.start, dtype=torch.float64).detach().reshape(-1).to(on)
        view.starts = _array(starts)
        return view

    def launch(self, kernel: str, count: int, arguments: list[Any]) -> None:
        _launch(self.key, kernel, count, arguments, self.field.values.device)

    def colours(self) -> slice:
        return slice(self.first, self.first + self.key.width - (not self.key.apart))


def _keys(field: Field) -> list[tuple[_Key, int]]:
    """The modules for a field's blocks of colours, each with the first colour of its block."""
    colours, precise = field.channels - 1, field.real == torch.float64
    stored = str(field.values.dtype).removeprefix("torch.")
    kind = "values" if field.table is None else f"table{field.table.entries.ndim - 1}"
    beside = ""
    if field.change is not None:
        kind, beside = "changed", str(field.change.dtype).removeprefix("torch.")
    apart = kind == "values" and field.channels > COLOURS
    blocks = [(first, min(COLOURS, colours - first)) for first in range(0, colours, COLOURS)] or [(0, 0)]
    return [(_Key(kind, stored, beside, count + (not apart), apart, precise), first) for first, count in blocks]


def _parts(field: Field, keep: bool) -> list[_Part]:
    packed = _packed(field, keep) if field.table is None or field.change is not None else None
    return [_Part(field, key, first, _ground(field, key, first, packed)) for key, first in _keys(field)]


def _packed(field: Field, keep: bool) -> Tensor:
    """The values, or their change, as (voxel, channel) side by side: a view where they lie so already, else a copy."""
    values = field.values if field.change is None else field.change
    last = values.detach().movedim(0, -1)
    if last.is_contiguous():
        return last.reshape(-1, field.channels)
    if not keep:
        return last.contiguous().view(-1, field.channels)
    state = ("packed", values._version)
    if field.kept.get("packed of") != state:
        field.kept["packed"], field.kept["packed of"] = last.contiguous().view(-1, field.channels), state
    return field.kept["packed"]


def _ground(field: Field, key: _Key, first: int, packed: Tensor | None) -> Any:
    kernels = _kernels(key)
    ground = kernels.Ground()
    ground.shape = _wp().vec3i(*field.shape)
    if packed is not None:
        ground.voxels = _vectors(_block(packed, key, first), kernels.held, kernels.value)
    if key.apart and packed is not None:
        ground.kappas = _vectors(packed[:, -1], kernels.value, kernels.value)
    if field.table is None:
        return ground
    values = field.values.detach()
    numbers, stride, second = _numbers(values)
    ground.numbers, ground.stride, ground.second = _array(numbers), stride, second
    entries = _entries(field, key, first).reshape(-1, key.width)
    ground.entries = _vectors(entries, kernels.vec, kernels.real)
    bins = field.table.entries.shape[:-1]
    ground.bins = _wp().vec2i(*bins, *[1] * (2 - len(bins)))
    low = [ends[0] for ends in field.table.ranges]
    scale = [(n - 1) / (ends[1] - ends[0]) for n, ends in zip(bins, field.table.ranges, strict=True)]
    ground.origin = kernels.vec3(*low, *[0.0] * (3 - len(low)))
    ground.scale = kernels.vec3(*scale, *[0.0] * (3 - len(scale)))
    return ground


def _entries(field: Field, key: _Key, first: int) -> Tensor:
    assert field.table is not None
    return _block(field.table.entries.detach().to(field.real), key, first).contiguous()


def _block(values: Tensor, key: _Key, first: int) -> Tensor:
    """A block's colours of (..., channel), with what stands last unless that lies apart."""
    if key.apart or values.shape[-1] == key.width:
        return values[..., first : first + key.width]
    return torch.cat([values[..., first : first + key.width - 1], values[..., -1:]], dim=-1)


def _numbers(values: Tensor) -> tuple[Tensor, int, int]:
    """Numbers as they lie, flat, with the strides of voxels and of the two numbers of one; a copy if neither fits."""
    if values.ndim == 3:
        return values.contiguous().view(-1), 1, 0
    if values.movedim(0, -1).is_contiguous():
        return values.movedim(0, -1).reshape(-1), 2, 1
    return values.contiguous().view(-1), 1, values[0].numel()


def _adjoint_lattice(
    field: Field,
    rays: Rays,
    part: _Part,
    common: list[Any],
    ends: list[Any],
    slabs: tuple[int, int, Tensor],
    out: Gradients,
) -> None:
    """Into what lies on the lattice: colours and extinction, or numbers and their change."""
    kernels, (axis, number, state) = _kernels(part.key), slabs
    image, g, g_alpha = ends
    on = field.values.device
    none = torch.empty((0, part.key.width), dtype=field.real, device=on)
    voxels, kappas, numbers = none, none.view(-1), none.view(-1)
    by_number = None if field.table is None else out.values
    into = out.values if field.table is None else out.change
    direct, buffer = True, none
    if into is not None:
        direct, buffer = _buffer(into, part)
        voxels = _block(buffer, part.key, part.first) if direct or part.key.apart else buffer
        kappas = buffer[:, -1]
    if by_number is not None:
        numbers = _numbers(by_number)[0]
    where = [_vectors(voxels, kernels.vec, kernels.real), _vectors(kappas, kernels.real, kernels.real), _array(numbers)]

    def launch(low: int, high: int) -> None:
        span = [axis, number, low, high, rays.pencil.count, field.channels, part.first]
        part.launch("adjoint_voxels", rays.pencil.count, [*common, *span, image, _array(state), g, g_alpha, *where])

    threads = min(number, torch.get_num_threads()) if on.type == "cpu" else 1
    bounds = np.linspace(0, number, threads + 1).astype(int).tolist()
    warp_runtime.at_once([lambda low=low, high=high: launch(low, high) for low, high in itertools.pairwise(bounds)])
    if by_number is not None and numbers.data_ptr() != by_number.data_ptr():  # of numbers that lie in another order
        by_number.add_(numbers.view(by_number.shape))
    if into is not None and not direct:
        found = buffer.view(*field.shape, -1).movedim(-1, 0)
        if len(found) == len(into):
            into.add_(found)
        else:
            into[part.colours()].add_(found[:-1])
            into[-1].add_(found[-1])


def _buffer(out: Tensor, part: _Part) -> tuple[bool, Tensor]:
    """Where a gradient in (channel, k, j, i) is gathered as (voxel, channel): there itself if it lies so."""
    whole = part.key.apart or part.key.width == len(out)
    if whole and out.movedim(0, -1).is_contiguous():
        return True, out.movedim(0, -1).reshape(-1, len(out))
    return False, out.new_zeros(out[0].numel(), len(out) if whole else part.key.width)


def _adjoint_entries(part: _Part, common: list[Any], ends: list[Any], count: int, out: Tensor) -> None:
    field, kernels, on = part.field, _kernels(part.key), out.device
    entries = _entries(field, part.key, part.first)
    on_cpu = on.type == "cpu"
    tile = max(TILE, -(-count * entries.numel() // TABLES)) if on_cpu else 1
    tiles = -(-count // tile)
    tables = torch.zeros((tiles if on_cpu else 1, entries.numel()), dtype=field.real, device=on)
    shared = _vectors(tables.view(-1, part.key.width), kernels.vec, kernels.real)
    apiece = entries.numel() // part.key.width if on_cpu else 0

    def launch(start: int, stop: int) -> None:
        where = [start, tile, count, field.channels, part.first, *ends, apiece, shared]
        part.launch("adjoint_table", stop - start, [*common, *where])

    _over_tiles(on, tiles, launch)
    found = tables.sum(0).view(entries.shape)
    out[..., part.colours()].add_(found[..., :-1])
    out[..., -1].add_(found[..., -1])


def _adjoint_pose(part: _Part, common: list[Any], ends: list[Any], rays: Rays, out: Tensor) -> None:
    on, count = part.field.values.device, rays.pencil.count
    tile = TILE if on.type == "cpu" else 1
    tiles = -(-count // tile)
    poses = torch.zeros((tiles, 12), dtype=torch.float64, device=on)

    def launch(start: int, stop: int) -> None:
        where = [start, tile, count, part.field.channels, part.first, *ends, _array(poses)]
        part.launch("adjoint_pose", stop - start, [*common, *where])

    _over_tiles(on, tiles, launch)
    derivatives = torch.from_numpy(rays.pencil.matrices[1:])
    by_source, by_matrix = poses.sum(0).cpu().split([3, 9])
    out.add_(derivatives[:, :, 3] @ by_source)
    out.add_(torch.einsum("mxc,xc->m", derivatives[:, :, :3], by_matrix.view(3, 3)))


def _over_tiles(device: torch.device, tiles: int, launch: Callable[[int, int], None]) -> None:
    """Launch over tiles that each sum in one order, whatever the number of threads."""
    parts = min(tiles, 4 * torch.get_num_threads()) if device.type == "cpu" and torch.get_num_threads() > 1 else 1
    bounds = np.linspace(0, tiles, parts + 1).astype(int).tolist()
    warp_runtime.at_once([lambda low=low, high=high: launch(low, high) for low, high in itertools.pairwise(bounds)])


def _slabs(field: Field, rays: Rays) -> tuple[int, int]:
    """The axis (0 = i, 1 = j, 2 = k) along which the middle ray advances fastest, and how many slabs it is cut into."""
    middle = rays.pencil.camera_directions().mean(axis=0)
    axis = int(np.abs(rays.pencil.matrices[0, :, :3] @ middle).argmax())
    return axis, max(1, min(SLABS, field.shape[2 - axis] // SLAB))


def _over(device: torch.device, count: int, launch: Callable[[int, int], None]) -> None:
    if device.type == "cpu":
        warp_runtime.in_tiles(launch, count)
    else:
        launch(0, count)


def _load(key: _Key, kernel: str, device: torch.device) -> str | None:
    what = f"the march's kernel '{kernel}' for {key}"
    return warp_runtime.load(what, lambda: _kernels(key).modules[kernel], device)


def _launch(key: _Key, kernel: str, count: int, arguments: list[Any], device: torch.device) -> None:
    wp = _wp()
    stream = wp.stream_from_torch(device) if device.type == "cuda" else None
    wp.launch(getattr(_kernels(key), kernel), dim=count, inputs=arguments, device=str(device), stream=stream)


@cache
def _kernels(key: _Key) -> Any:
    from diffrender.rays import march_kernel

    return march_kernel.build(key.kind, key.stored, key.beside, key.width, key.apart, key.precise)


def _vectors(tensor: Tensor, dtype: Any, scalar: Any) -> Any:
    """A warp array of vectors (or of `scalar`) over the rows of a tensor, whatever the step from row to row."""
    wp = _wp()
    vectors = wp.array(
        ptr=tensor.data_ptr() or None,
        dtype=dtype,
        shape=(len(tensor),),
        strides=(tensor.stride(0) * tensor.element_size(),),
        device=wp.device_from_torch(tensor.device),
    )
    vectors._tensor = tensor  # the memory lives as long as the array, as in warp's own `from_torch`
    return vectors


def _array(tensor: Tensor) -> Any:
    return _wp().from_torch(tensor)


def _wp() -> Any:
    return warp_runtime.start()


def _reach(field: Field, weighted: bool) -> Integer[Tensor, "z y x"]:
    """For each block of 8 x 8 x 8 cells how many blocks away the next one lies that shows anything; kept.

    0: it shows something itself. d: all blocks less than d away, along every axis, are empty.
    """
    entries = None if field.table is None else field.table.entries._version
    state = ("reach", weighted, field.values._version, entries)
    if field.kept.get("reach of") != state:
        left = _occupied(field, weighted).float()[None, None]
        reach = torch.zeros(left.shape, dtype=torch.uint8, device=left.device)
        for _ in range(FARTHEST):
            reach += left == 0
            for axis in range(3):
                size = [3 if n == axis else 1 for n in range(3)]
                left = F.max_pool3d(left, size, 1, [n // 2 for n in size])
        field.kept["reach"], field.kept["reach of"] = reach[0, 0], state
    return field.kept["reach"]


def _occupied(field: Field, weighted: bool) -> Bool[Tensor, "z y x"]:
    """Which blocks show something: what is interpolated in a block stays between its least and greatest value."""
    if field.table is None:
        packed = _packed(field, keep=True)
        channels = range(field.channels - 1, field.channels) if weighted else range(field.channels)
        found = [_extremes(field, packed.reshape(-1), field.channels, channel) for channel in channels]
        return torch.stack([(low != 0) | (high != 0) for low, high in found]).any(0)
    numbers, stride, second = _numbers(field.values.detach())
    entries = field.table.entries.detach()
    shows = (entries[..., -1:] if weighted else entries).ne(0).any(-1).long()
    counts = F.pad(shows, [1, 0] * shows.ndim)
    for axis in range(shows.ndim):
        counts = counts.cumsum(axis)
    ends = []
    for axis, (low, high) in enumerate(field.table.ranges):
        bins = shows.shape[axis]
        # a thousandth of a bin more to either side, so that rounding cannot leave the range
        first, last = (
            (((x.double() - low) * ((bins - 1) / (high - low))).clamp(0, bins - 1) + margin)
            for x, margin in zip(_extremes(field, numbers, stride, axis * second), (-1e-3, 1e-3), strict=True)
        )
        ends.append((first.floor().long().clamp(min=0), last.ceil().long().clamp(max=bins - 1) + 1))
    if len(ends) == 1:
        ((first, last),) = ends
        return counts[last] > counts[first]
    (a, b), (c, d) = ends
    return counts[b, d] - counts[a, d] - counts[b, c] + counts[a, c] > 0


def _extremes(field: Field, values: Tensor, stride: int, offset: int) -> tuple[Tensor, Tensor]:
    """The least and the greatest of some values in each block of cells."""
    key = _keys(field)[0][0]
    kernels, wp = _kernels(key), _wp()
    blocks = [max(1, -(-(n - 1) // kernels.block)) for n in field.shape]
    found = torch.empty((blocks[0] * blocks[1] * blocks[2], 2), dtype=field.real, device=values.device)
    given = [_array(values), stride, offset, wp.vec3i(*field.shape), wp.vec3i(*blocks)]

    def launch(start: int, stop: int) -> None:
        _launch(key, "extremes", stop - start, [*given, start, _array(found)], values.device)

    _over(values.device, len(found), launch)
    low, high = found.view(*blocks, 2).unbind(-1)
    return low, high
