"""Solids told by their distance: what the phantom is drawn from.

Only sums, products and square roots are taken of a voxel's place, so that a phantom comes out alike on every machine.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[
    np.floating
]  # float32, and Python's own floats beside it: numpy 1 and 2 widen differently for scalars of numpy's
Point = Sequence[float]
Distance = Callable[[Array, Array, Array], Array]


@dataclass(frozen=True)
class Solid:
    """A body in the patient.

    Attributes:
        low, high: corners of a box around it, RAS [mm].
        distance: of x, y, z [mm, arrays that broadcast] to the surface [mm], negative inside. Exact close to a surface
            of one curvature, and of the right sign everywhere.
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    distance: Distance


def ellipsoid(centre: Point, radii: Point, axis: Point = (0, 0, 1)) -> Solid:
    """An ellipsoid whose third radius lies along `axis`; the first one stays as close to x as it can."""
    frame = np.array(frame_along(axis))
    reach = np.sqrt(((frame * np.array(radii)[:, None]) ** 2).sum(axis=0))

    def distance(x, y, z):
        p = _local(frame, centre, x, y, z)
        g = np.sqrt(sum((q / r) ** 2 for q, r in zip(p, radii, strict=True)))
        steepness = np.sqrt(sum((q / r**2) ** 2 for q, r in zip(p, radii, strict=True)))
        return g * (g - 1) / np.maximum(steepness, 1e-4)  # first order in the distance: (g - 1) / |grad g|

    return _around(centre, reach, distance)


def capsule(start: Point, end: Point, r_start: float, r_end: float, scale: Point = (1, 1, 1)) -> Solid:
    """A round rod that may taper. Where `scale` of an axis is below 1 it is that much wider along it."""
    a, b, s = (np.array(v, dtype=np.float64) for v in (start, end, scale))
    rod = (b - a) * s
    (bx, by, bz), length = rod.tolist(), float(rod @ rod) or 1.0
    widest = max(r_start, r_end) / s

    def distance(x, y, z):
        px, py, pz = ((p - c) * f for p, c, f in zip((x, y, z), a.tolist(), s.tolist(), strict=True))
        t = np.clip((px * bx + py * by + pz * bz) / length, 0, 1)
        across = (px - t * bx) ** 2 + (py - t * by) ** 2 + (pz - t * bz) ** 2
        return np.sqrt(across) - (r_start + t * (r_end - r_start))

    return Solid(tuple(np.minimum(a, b) - widest), tuple(np.maximum(a, b) + widest), distance)


def tube(points: Sequence[Point], radii: float | Sequence[float], scale: Point = (1, 1, 1)) -> list[Solid]:
    """Rods from point to point, one radius for all or one for each point."""
    r = [radii] * len(points) if isinstance(radii, int | float) else list(radii)
    return [capsule(points[n], points[n + 1], r[n], r[n + 1], scale) for n in range(len(points) - 1)]


def plate(corners: Sequence[Point], thickness: float) -> Solid:
    """A triangle, `thickness` to either side of it, with round edges."""
    a, b, c = (np.array(v, dtype=np.float64) for v in corners)
    normal = np.cross(b - a, c - a)
    normal /= np.sqrt(normal @ normal)
    edges = [(p.tolist(), (q - p).tolist(), np.cross(normal, q - p)) for p, q in ((a, b), (b, c), (c, a))]

    def distance(x, y, z):
        inside, nearest = True, math.inf
        for p, edge, inward in edges:
            d = [x - p[0], y - p[1], z - p[2]]
            inside = inside & (_dot(d, inward) >= 0)
            t = np.clip(_dot(d, edge) / sum(e * e for e in edge), 0, 1)
            nearest = np.minimum(nearest, sum((q - t * e) ** 2 for q, e in zip(d, edge, strict=True)))
        height = np.abs(_dot([x - edges[0][0][0], y - edges[0][0][1], z - edges[0][0][2]], normal))
        return np.where(inside, height, np.sqrt(nearest)) - thickness

    corners_ = np.stack([a, b, c])
    return Solid(tuple(corners_.min(axis=0) - thickness), tuple(corners_.max(axis=0) + thickness), distance)


def drum(centre: Point, axis: Point, half_width: float, half_depth: float, half_height: float) -> Solid:
    """An elliptic cylinder with a waist, as a vertebral body has one; its height lies along `axis`."""
    frame = np.array(frame_along(axis))

    def distance(x, y, z):
        u, v, w = _local(frame, centre, x, y, z)
        flare = 0.88 + 0.12 * np.minimum((w / half_height) ** 2, 1)
        g = np.sqrt((u / half_width) ** 2 + (v / half_depth) ** 2)
        return np.maximum((g / flare - 1) * min(half_width, half_depth), np.abs(w) - half_height)

    return _around(centre, np.full(3, np.sqrt(half_width**2 + half_depth**2 + half_height**2)), distance)


def column(levels: Sequence[Sequence[float]], boxy: float = 0.5) -> Solid:
    """A body given by its outline at rising heights: rows (z, half width, front y, back y[, middle x]) [mm].

    Between the rows the outline follows a smooth curve that does not overshoot. `boxy`: 0 an ellipse, 1 close to a box.
    """
    table = np.array([[*row, 0.0][:5] for row in levels], dtype=np.float64)
    at = [smooth(table[:, 0], table[:, n]) for n in range(1, 5)]
    bottom, top = table[0, 0].item(), table[-1, 0].item()

    def distance(x, y, z):
        width, front, back, middle = (f(z) for f in at)
        u, v = x - middle, y - (front + back) / 2
        p, q = (u / width) ** 2, (v / ((front - back) / 2)) ** 2
        g = np.maximum((1 - boxy) * np.sqrt(p + q) + boxy * np.sqrt(np.sqrt(p * p + q * q)), 1e-3)
        return np.maximum(np.sqrt(u * u + v * v) * (1 - 1 / g), np.maximum(bottom - z, z - top))

    reach = table[:, 1].max() + np.abs(table[:, 4]).max()
    return Solid((-reach, table[:, 3].min(), bottom), (reach, table[:, 2].max(), top), distance)


def smooth(z: Sequence[float] | NDArray, values: Sequence[float] | NDArray) -> Callable[[Array | float], Array]:
    """A curve through (z, values) that keeps their rises and falls, in a table of 1 mm steps; flat beyond its ends."""
    from scipy.interpolate import PchipInterpolator

    order = np.argsort(z)
    z, values = np.asarray(z, dtype=np.float64)[order], np.asarray(values, dtype=np.float64)[order]
    steps = np.linspace(z[0], z[-1], int(np.ceil(z[-1] - z[0])) + 1)
    table = PchipInterpolator(z, values)(steps)

    def at(heights: Array | float) -> Array:
        return np.asarray(np.interp(heights, steps, table), np.float32)

    return at


def frame_along(axis: Point) -> list[list[float]]:
    """Unit rows (x', y', z') with z' along `axis` and x' as close to x as it can be."""
    along = np.array(axis, dtype=np.float64) / np.sqrt(np.dot(axis, axis))
    x = np.array([1.0, 0, 0]) if abs(along[0]) < 0.9 else np.array([0, 0, -1.0])
    x = x - (x @ along) * along
    x /= np.sqrt(x @ x)
    return [x.tolist(), np.cross(along, x).tolist(), along.tolist()]


def _local(frame: NDArray, centre: Point, x: Array, y: Array, z: Array) -> list[Array]:
    offset = [x - centre[0], y - centre[1], z - centre[2]]
    return [_dot(offset, row) for row in frame]


def _dot(p: Sequence[Array], vector: Point | NDArray) -> Array:
    # Parts that are zero are left out: on a lattice along the axes the arrays then stay lines and planes for longer.
    parts = [q * float(v) for q, v in zip(p, vector, strict=True) if v != 0]
    return sum(parts[1:], parts[0])


def _around(centre: Point, reach: NDArray, distance: Distance) -> Solid:
    return Solid(tuple(np.array(centre) - reach), tuple(np.array(centre) + reach), distance)
