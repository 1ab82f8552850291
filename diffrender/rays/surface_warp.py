"""The surface kernels at work: bands of rows or runs of faces for each thread on the CPU, at once on CUDA."""

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor

from diffrender.rays import warp_runtime
from diffrender.rays.projected import Motion, Placing, Projected
from diffrender.rays.surface_torch import DEPTH_BITS

BAND = 32  # rows that one thread takes of a face on CUDA


def put(vertices: Float[Tensor, "v 3"], placing: Placing) -> tuple[Float[Tensor, "v 3"], Int32[Tensor, "v 2"], bool]:
    """As `surface_torch.put`."""
    on, count, wp = vertices.device, len(vertices), _wp()
    points = torch.empty((count, 3), dtype=torch.float64, device=on)
    places = torch.empty((count, 2), dtype=torch.int32, device=on)
    missed = torch.zeros(1, dtype=torch.int32, device=on)
    frame = [wp.vec3d(placing.origin), wp.mat33d(placing.turn), wp.vec3d(placing.shift), wp.mat33d(placing.image)]
    limits = [placing.near, placing.reach, 2.0**placing.bits]
    outputs = [_vectors(points), wp.from_torch(places, dtype=wp.vec2i), _array(missed)]
    _launch(on, vertices.dtype, "put", count, [_vectors(vertices), *frame, *limits, *outputs])
    return points, places, not int(missed)


def splat(
    seen: Projected, motion: Motion | None = None
) -> tuple[Int64[Tensor, "ray"], Int32[Tensor, "ray"], Float[Tensor, "ray p"] | None]:
    """As `surface_torch.splat`. Threads share rows of the image, so no two add to one pixel."""
    on, (height, _), faces = seen.points.device, seen.pencil.size, len(seen.faces)
    depths = torch.zeros(seen.pencil.count, dtype=torch.int64, device=on)
    signs = torch.zeros(seen.pencil.count, dtype=torch.int32, device=on)
    modes = 0 if motion is None else motion.basis.shape[2]
    own = seen.own
    jacobian = None if motion is None else torch.zeros((seen.pencil.count, 6 + modes), dtype=own, device=on)
    kernel, view, outputs = "splat", _view(seen), [_array(depths), _array(signs)]
    if motion is not None and jacobian is not None:
        kernel = "splat_rates"
        rates = np.pad(motion.rates.transpose(1, 2, 0), ((0, 0), (0, 0), (0, 2)))
        turns = [torch.from_numpy(n.ravel()).to(on) for n in (rates, motion.into_body)]
        moves = [*map(_array, turns), modes, _array(motion.basis.contiguous().reshape(-1))]
        outputs = [*moves, *outputs, _array(jacobian.reshape(-1))]

    def launch(first: int, stop: int) -> None:
        rows, run = (stop - first, faces) if on.type == "cpu" else (BAND, 1)
        dim = (-(-(stop - first) // rows), -(-faces // run))
        _launch(on, own, kernel, dim, [*view, run, rows, first, stop - 1, *outputs])

    if faces:
        _over(seen, height, launch)
    return depths, signs, jacobian


def finish(
    seen: Projected, factor: int, depths: Int64[Tensor, "ray"], signs: Int32[Tensor, "ray"], own: torch.dtype
) -> tuple[Float[Tensor, "ray"], Bool[Tensor, "ray"], bool]:
    """As `surface_torch.finish`."""
    on, (height, width) = depths.device, seen.pencil.size
    lengths = torch.empty(depths.shape, dtype=own, device=on)
    unbalanced = torch.empty(depths.shape, dtype=torch.uint8, device=on)
    count = torch.zeros(1, dtype=torch.int32, device=on)
    parts = 1 if on.type == "cpu" else width
    sums = [parts, factor * 0.5**DEPTH_BITS, seen.winding, _array(depths), _array(signs)]
    outputs = [_array(lengths), _array(unbalanced), _array(count)]
    _launch(on, own, "finish", (height, parts), [_detector(seen), *sums, *outputs])
    return lengths, unbalanced.view(torch.bool), bool(count)


def adjoint(seen: Projected, into_body: Float[np.ndarray, "3 3"], g: Float[Tensor, "ray"]) -> Float[Tensor, "n 3"]:
    """As `surface_torch.adjoint`. Each face's sums belong to one thread; then one adds them to the vertices."""
    on, height, faces = seen.points.device, seen.pencil.size[0], len(seen.faces)
    out = torch.zeros_like(seen.points)
    if not faces:
        return out
    sums = torch.zeros((faces, 3), dtype=torch.float64, device=on)
    view, outputs = _view(seen), [_array(g), _vectors(sums)]

    def launch(start: int, stop: int) -> None:
        rows, run = (height, stop - start) if on.type == "cpu" else (BAND, 1)
        dim = (-(-height // rows), -(-(stop - start) // run))
        _launch(on, seen.own, "corners", dim, [*view, run, rows, height, start, stop, *outputs])

    _over(seen, faces, launch)
    turn = _wp().mat33d(into_body)
    _launch(
        on, seen.own, "scatter", faces, [_vectors(seen.points), _array(seen.faces), turn, _vectors(sums), _vectors(out)]
    )
    return out


def outward(vertices: Float[Tensor, "v 3"], origin: Float[np.ndarray, "3"], faces: Int64[Tensor, "f 3"]) -> int:
    """As `surface_torch.outward`."""
    on = vertices.device
    run = len(faces) if on.type == "cpu" else 1
    volumes = torch.empty(-(-len(faces) // run), dtype=torch.float64, device=on)
    arguments = [_vectors(vertices), _wp().vec3d(origin), _array(faces), run, _array(volumes)]
    _launch(on, vertices.dtype, "volumes", len(volumes), arguments)
    return -1 if float(volumes.sum()) < 0 else 1


def why_not(vertices: Tensor) -> str | None:
    """Why the kernels cannot serve this mesh, as one sentence; None once they are compiled and loaded for it."""
    precise = vertices.dtype == torch.float64
    what = f"the surface kernels ({'float64' if precise else 'float32'})"
    return warp_runtime.why_not(vertices) or warp_runtime.load(what, lambda: _kernels(precise).module, vertices.device)


def _over(seen: Projected, count: int, launch: Callable[[int, int], None]) -> None:
    """Share `count` rows or faces among threads; as two bands of rows differ in work, each thread takes two."""
    threads = torch.get_num_threads()
    if seen.points.device.type != "cpu" or threads == 1 or count < 2 * threads:
        launch(0, count)
        return
    ends = np.linspace(0, count, 2 * threads + 1).astype(int).tolist()
    warp_runtime.at_once([lambda a=a, b=b: launch(a, b) for a, b in itertools.pairwise(ends)])


def _view(seen: Projected) -> list[Any]:
    places = _wp().from_torch(seen.places, dtype=_wp().vec2i)
    return [_vectors(seen.points), places, _array(seen.faces), seen.bits, _detector(seen)]


def _detector(seen: Projected) -> Any:
    return _array(torch.from_numpy(seen.pencil.detector).to(seen.points.device))


@cache
def _kernels(precise: bool) -> Any:
    from diffrender.rays import surface_kernel

    return surface_kernel.build(precise)


def _launch(on: torch.device, own: torch.dtype, kernel: str, dim: int | tuple[int, int], arguments: list[Any]) -> None:
    """`own` is the type of the mesh's vertices."""
    wp = _wp()
    stream = wp.stream_from_torch(on) if on.type == "cuda" else None
    wp.launch(getattr(_kernels(own == torch.float64), kernel), dim=dim, inputs=arguments, device=str(on), stream=stream)


def _vectors(tensor: Tensor) -> Any:
    wp = _wp()
    return wp.from_torch(tensor, dtype=wp.vec3d if tensor.dtype == torch.float64 else wp.vec3f)


def _array(tensor: Tensor) -> Any:
    return _wp().from_torch(tensor)


def _wp() -> Any:
    return warp_runtime.start()
