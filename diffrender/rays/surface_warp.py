"""The surface kernels at work: bands of rows or runs of faces for each thread on the CPU, at once on CUDA."""

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from diffrender.rays import warp_runtime
from diffrender.rays.projected import Projected

BAND = 32  # rows that one thread takes of a face on CUDA


def splat(
    seen: Projected, rates: Float[Tensor, "n p 3"] | None = None
) -> tuple[Int64[Tensor, "ray"], Int32[Tensor, "ray"], Float[Tensor, "ray p"] | None]:
    """As `surface_torch.splat`. Threads share rows of the image, so no two add to one pixel."""
    on, (height, _), faces = seen.points.device, seen.pencil.size, len(seen.faces)
    depths = torch.zeros(seen.pencil.count, dtype=torch.int64, device=on)
    signs = torch.zeros(seen.pencil.count, dtype=torch.int32, device=on)
    parameters = 0 if rates is None else rates.shape[1]
    jacobian = torch.zeros((seen.pencil.count if parameters else 0, parameters), dtype=torch.float64, device=on)
    moves = torch.empty((faces if parameters else 0, parameters, 3), dtype=torch.float64, device=on)
    if not faces:
        return depths, signs, jacobian if parameters else None
    points, tables, view = _vectors(seen.points), _array(seen.faces), _view(seen)
    if rates is not None:
        corners = [points, tables, _vectors(rates.contiguous())]
        moved = _vectors(moves)
        _over(seen, faces, lambda n, stop: _launch(on, "rates", stop - n, [*corners, n, moved]))
    outputs = [_vectors(moves), _array(depths), _array(signs), _array(jacobian)]

    def launch(first: int, stop: int) -> None:
        rows = stop - first if on.type == "cpu" else BAND
        bands = -(-(stop - first) // rows)
        _launch(on, "splat", (bands, faces), [*view, rows, first, stop - 1, *outputs])

    _over(seen, height, launch)
    return depths, signs, jacobian if parameters else None


def adjoint(seen: Projected, g: Float[Tensor, "ray"]) -> Float[Tensor, "n 3"]:
    """As `surface_torch.adjoint`. Each face's sums belong to one thread; then one adds them to the vertices."""
    on, height, faces = seen.points.device, seen.pencil.size[0], len(seen.faces)
    out = torch.zeros_like(seen.points)
    if not faces:
        return out
    sums = torch.zeros((faces, 3), dtype=torch.float64, device=on)
    view, outputs = _view(seen), [_array(g), _vectors(sums)]

    def launch(start: int, stop: int) -> None:
        rows = height if on.type == "cpu" else BAND
        _launch(on, "corners", (-(-height // rows), stop - start), [*view, rows, height, start, *outputs])

    _over(seen, faces, launch)
    _launch(on, "scatter", faces, [_vectors(seen.points), _array(seen.faces), _vectors(sums), _vectors(out)])
    return out


def outward(body: Float[Tensor, "v 3"], faces: Int64[Tensor, "f 3"]) -> int:
    """As `surface_torch.outward`."""
    volumes = torch.empty(len(faces), dtype=torch.float64, device=body.device)
    _launch(body.device, "volumes", len(faces), [_vectors(body), _array(faces), _array(volumes)])
    return -1 if float(volumes.sum()) < 0 else 1


def why_not(vertices: Tensor) -> str | None:
    """Why the kernels cannot serve this mesh, as one sentence; None once they are compiled and loaded for it."""
    return warp_runtime.why_not(vertices) or warp_runtime.load(
        "the surface kernels", lambda: _kernels().module, vertices.device
    )


def _over(seen: Projected, count: int, launch: Callable[[int, int], None]) -> None:
    """Share `count` rows or faces among threads; as two bands of rows differ in work, each thread takes several."""
    threads = torch.get_num_threads()
    if seen.points.device.type != "cpu" or threads == 1 or count < 4 * threads:
        launch(0, count)
        return
    ends = np.linspace(0, count, 4 * threads + 1).astype(int).tolist()
    warp_runtime.at_once([lambda a=a, b=b: launch(a, b) for a, b in itertools.pairwise(ends)])


def _view(seen: Projected) -> list[Any]:
    detector = torch.from_numpy(seen.pencil.detector).to(seen.points.device)
    places = _wp().from_torch(seen.places, dtype=_wp().vec2i)
    return [_vectors(seen.points), places, _array(seen.faces), seen.bits, _array(detector)]


@cache
def _kernels() -> Any:
    from diffrender.rays import surface_kernel

    return surface_kernel.build()


def _launch(device: torch.device, kernel: str, dim: int | tuple[int, int], arguments: list[Any]) -> None:
    wp = _wp()
    stream = wp.stream_from_torch(device) if device.type == "cuda" else None
    wp.launch(getattr(_kernels(), kernel), dim=dim, inputs=arguments, device=str(device), stream=stream)


def _vectors(tensor: Tensor) -> Any:
    return _wp().from_torch(tensor, dtype=_wp().vec3d)


def _array(tensor: Tensor) -> Any:
    return _wp().from_torch(tensor)


def _wp() -> Any:
    return warp_runtime.start()
