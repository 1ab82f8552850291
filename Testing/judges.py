"""The judges: line integrals worked out a second way, in float64 numpy, without a line of diffrender.

All take `values` (k, j, i) with voxel centres at integers, `world_from_voxel` (4, 4) [mm], one `source` (3,) and
unit `directions` (n, 3), and integrate from the source on, so that a source inside the volume sees only what lies
before it. They return (n,) in mm times the unit of `values`, and work through the rays in chunks.

* `trilinear_integral`: the trilinear interpolant, exactly.
* `siddon`: the voxels as boxes of constant value, exactly.
* `fine_trilinear`: the trilinear interpolant again, by samples a fixed step apart.
"""

from collections.abc import Iterator

import numpy as np

CROSSINGS = 1_500_000  # handled at once: about 250 MB of scratch
SECOND_ROOT = 0.5 / np.sqrt(3.0)  # 2-point Gauss-Legendre on a segment of length 1: at 1/2 -+ 1/(2 sqrt 3)


def trilinear_integral(values, world_from_voxel, source, directions) -> np.ndarray:
    """The integral of the trilinear interpolant; outside the outermost centres values fall to 0 within one voxel.

    Exact up to rounding: between two planes through voxel centres the interpolant is a cubic polynomial along the
    ray, which two Gauss-Legendre points integrate exactly.
    """
    padded = np.pad(np.asarray(values, dtype=np.float64), 1)
    origin, steps = _in_voxels(world_from_voxel, source, directions)
    result = np.zeros(len(steps))
    for rays, t, length in _segments(origin + 1, steps, [np.arange(n, dtype=np.float64) for n in padded.shape[::-1]]):
        cell = np.floor(origin + 1 + t[:, None] * steps[rays]).astype(np.int64)
        np.clip(cell, 0, np.array(padded.shape[::-1]) - 2, out=cell)
        corners = _corners(padded, cell)
        for root in (-SECOND_ROOT, SECOND_ROOT):
            at = origin + 1 + (t + root * length)[:, None] * steps[rays] - cell
            result += np.bincount(rays, 0.5 * length * _trilinear(corners, at), minlength=len(result))
    return result


def siddon(values, world_from_voxel, source, directions) -> np.ndarray:
    """The radiological path through voxels as boxes (centre +- half a voxel) of constant value, by sorted crossings.

    Source: Siddon, Med. Phys. 12 (1985) 252, doi:10.1118/1.595715.
    """
    values = np.asarray(values, dtype=np.float64)
    origin, steps = _in_voxels(world_from_voxel, source, directions)
    result = np.zeros(len(steps))
    planes = [np.arange(n + 1, dtype=np.float64) - 0.5 for n in values.shape[::-1]]
    for rays, t, length in _segments(origin, steps, planes):
        voxel = np.rint(origin + t[:, None] * steps[rays]).astype(np.int64)
        np.clip(voxel, 0, np.array(values.shape[::-1]) - 1, out=voxel)
        result += np.bincount(rays, length * values[voxel[:, 2], voxel[:, 1], voxel[:, 0]], minlength=len(result))
    return result


def fine_trilinear(values, world_from_voxel, source, directions, step_mm) -> np.ndarray:
    """Midpoint samples of the trilinear interpolant, `step_mm` apart from where the ray enters; for comparison only."""
    padded = np.pad(np.asarray(values, dtype=np.float64), 2)
    origin, steps = _in_voxels(world_from_voxel, source, directions)
    size = np.array(padded.shape[::-1])
    near, far = _span(origin, steps, np.full(3, -1.0), size - 4.0)
    result = np.zeros(len(steps))
    count = np.ceil(np.maximum(far - near, 0) / step_mm).astype(np.int64)
    for m in range(count.max(initial=0)):
        rays = np.flatnonzero(count > m)
        at = origin + 2 + (near[rays] + (m + 0.5) * step_mm)[:, None] * steps[rays]
        cell = np.clip(np.floor(at).astype(np.int64), 0, size - 2)
        # A last sample may lie a little beyond the padding, where everything is 0.
        inside = ((at >= 0) & (at <= size - 1)).all(axis=1)
        result[rays] += step_mm * np.where(inside, _trilinear(_corners(padded, cell), at - cell), 0.0)
    return result


def _in_voxels(world_from_voxel, source, directions) -> tuple[np.ndarray, np.ndarray]:
    """The source in voxel (i, j, k), and for every ray the change of (i, j, k) per mm."""
    world_from_voxel = np.asarray(world_from_voxel, dtype=np.float64)
    directions = np.asarray(directions, dtype=np.float64).reshape(-1, 3)
    if np.abs(np.linalg.norm(directions, axis=1) - 1).max(initial=0) > 1e-9:
        raise ValueError("the judges take unit directions")
    voxel_from_world = np.linalg.inv(world_from_voxel)
    origin = voxel_from_world[:3, :3] @ np.asarray(source, dtype=np.float64) + voxel_from_world[:3, 3]
    return origin, directions @ voxel_from_world[:3, :3].T


def _span(origin, steps, low, high) -> tuple[np.ndarray, np.ndarray]:
    """Where each ray enters and leaves a box, mm from the source and never behind it; far < near where it misses."""
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = (low - origin) / steps, (high - origin) / steps
    # Parallel to a pair of planes: between them there is no bound, outside them no crossing.
    parallel = steps == 0
    between = (origin >= low) & (origin <= high)
    near = np.where(parallel, np.where(between, -np.inf, np.inf), np.minimum(a, b)).max(axis=1)
    far = np.where(parallel, np.where(between, np.inf, -np.inf), np.maximum(a, b)).min(axis=1)
    return np.maximum(near, 0.0), far


def _segments(origin, steps, planes) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Every piece of every ray between crossings of `planes` (x, y, z): (ray, middle [mm], length [mm]), in chunks."""
    low, high = (np.array([p[end] for p in planes]) for end in (0, -1))
    near, far = _span(origin, steps, low, high)
    hits = np.flatnonzero(far > near)
    size = max(1, CROSSINGS // sum(len(p) for p in planes))
    for first in range(0, len(hits), size):
        rays = hits[first : first + size]
        with np.errstate(divide="ignore", invalid="ignore"):
            t = [(p[None] - origin[n]) / steps[rays, n][:, None] for n, p in enumerate(planes)]
        # A plane that a ray is parallel to is crossed nowhere (inf) or everywhere (nan); neither cuts it.
        t = np.nan_to_num(np.concatenate(t, axis=1), nan=0.0, posinf=0.0, neginf=0.0)
        t = np.sort(np.clip(t, near[rays, None], far[rays, None]), axis=1)
        length = np.diff(t, axis=1)
        ray, segment = np.nonzero(length > 0)
        yield rays[ray], (t[ray, segment] + t[ray, segment + 1]) / 2, length[ray, segment]


def _corners(padded, cell) -> list[np.ndarray]:
    """The eight values around each cell, k slowest."""
    _, size_j, size_i = padded.shape
    flat, first = padded.ravel(), (cell[:, 2] * size_j + cell[:, 1]) * size_i + cell[:, 0]
    return [flat[first + (k * size_j + j) * size_i + i] for k in (0, 1) for j in (0, 1) for i in (0, 1)]


def _trilinear(corners, at) -> np.ndarray:
    x, y, z = at.T
    along_i = [a + x * (b - a) for a, b in zip(corners[::2], corners[1::2], strict=True)]
    low, high = (along_i[n] + y * (along_i[n + 1] - along_i[n]) for n in (0, 2))
    return low + z * (high - low)
