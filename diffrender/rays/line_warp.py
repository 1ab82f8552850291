"""The fused kernels at work: launched over tiles of rays on the CPU, at once on CUDA."""

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.rays import warp_runtime
from diffrender.rays.pencil import Pencil
from diffrender.rays.prepared import Prepared, PreparedLabels


def project(q: Prepared, pencil: Pencil, jacobian: bool) -> tuple[Tensor, Tensor | None]:
    """p (ray,) and, where asked for, its Jacobian (ray, 6)."""
    on = q.padded.device
    p = torch.empty(pencil.count, dtype=q.real, device=on)
    j = torch.empty((pencil.count, 6), dtype=q.real, device=on) if jacobian else None
    if not pencil.count:
        return p, j
    arguments = [*_volume(q), *_rays(pencil, on, derivatives=jacobian)]
    outputs = [_array(p), _array(torch.empty((0, 6), dtype=q.real, device=on) if j is None else j)]
    lanes = _kernels(_stored(q)).lanes if on.type == "cpu" else 1
    kernel = f"{'pose' if jacobian else 'line'}_{lanes}"

    def launch(start: int, stop: int) -> None:
        _launch(q, kernel, -(-(stop - start) // lanes), [*arguments, start, stop, *outputs])

    _over(q, pencil.count, launch)
    return p, j


def adjoint(q: Prepared, pencil: Pencil, g: Float[Tensor, "ray"], out: Float[Tensor, "k j i"]) -> None:
    """Add to `out` the gradient of sum(g p) in the stored values."""
    if not pencil.count:
        return
    shape = _wp().vec3i(*q.padded.shape)
    arguments = [shape, q.scale, *_rays(pencil, out.device, derivatives=False), 0]
    outputs = [_array(g), _array(out.view(-1))]

    def launch(axis: int, low: int, high: int) -> Callable[[], None]:
        return lambda: _launch(q, "adjoint", pencil.count, [*arguments, axis, low, high, *outputs])

    threads = torch.get_num_threads() if out.device.type == "cpu" else 1
    if threads == 1:
        launch(-1, 0, max(q.padded.shape))()
        return
    for axis in pencil.dominant_axes():  # each thread owns slices of the volume, so no two add to one voxel
        ends = np.linspace(0, q.padded.shape[2 - axis], threads + 1).astype(int).tolist()
        warp_runtime.at_once([launch(axis, low, high) for low, high in itertools.pairwise(ends)])


def label_lengths(q: Prepared, labels: PreparedLabels, pencil: Pencil) -> Float[Tensor, "label ray"]:
    """The path of each ray in each label [mm]."""
    on = q.padded.device
    lengths = torch.zeros((len(labels.ids), pencil.count), dtype=torch.float32, device=on)
    sets = [_array(labels.groups.view(-1)), _array(labels.starts), _array(labels.members)]
    box = [_wp().vec3d(*corner) for corner in labels.box]
    arguments = [*sets, *box, _wp().vec3i(*q.padded.shape), *_rays(pencil, on, derivatives=False)]
    output = _array(lengths)

    def launch(start: int, stop: int) -> None:
        _launch(q, "labels", stop - start, [*arguments, start, output])

    _over(q, pencil.count, launch)
    return lengths


def compiled(stored: str) -> bool:
    """Whether the kernels for this stored type lie in warp's cache, so that the first render need not wait."""
    return warp_runtime.in_cache(_kernels(stored).module)


def why_not(q: Prepared) -> str | None:
    """Why the kernels cannot serve this volume, as one sentence; None once they are compiled and loaded for it."""
    stored = _stored(q)
    return warp_runtime.why_not(q.padded) or warp_runtime.load(
        f"the ray kernels for {stored} volumes", lambda: _kernels(stored).module, q.padded.device
    )


def _over(q: Prepared, count: int, launch: Callable[[int, int], None]) -> None:
    if q.padded.device.type == "cpu":
        warp_runtime.in_tiles(launch, count)
    else:
        launch(0, count)


@cache
def _kernels(stored: str) -> Any:
    from diffrender.rays import line_kernel

    return line_kernel.build(stored)


def _launch(q: Prepared, kernel: str, count: int, arguments: list[Any]) -> None:
    wp = _wp()
    device = q.padded.device
    stream = wp.stream_from_torch(device) if device.type == "cuda" else None
    wp.launch(getattr(_kernels(_stored(q)), kernel), dim=count, inputs=arguments, device=str(device), stream=stream)


def _stored(q: Prepared) -> str:
    return str(q.padded.dtype).removeprefix("torch.")


def _volume(q: Prepared) -> list[Any]:
    return [_array(q.padded.view(-1)), _wp().vec3i(*q.padded.shape), q.air, q.scale]


def _rays(pencil: Pencil, device: torch.device, derivatives: bool) -> list[Any]:
    matrices = pencil.matrices.reshape(-1, 4) if derivatives else pencil.matrices[0]
    tensors = [torch.from_numpy(np.ascontiguousarray(a)) for a in (matrices, pencil.detector, pencil.pixels)]
    return [*(_array(t.to(device)) for t in tensors), int(pencil.inside)]


def _array(tensor: Tensor) -> Any:
    return _wp().from_torch(tensor)


def _wp() -> Any:
    return warp_runtime.start()
