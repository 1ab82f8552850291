"""Shapes whose line integrals have a closed form, and the same shapes drawn as volumes. Nothing here is symmetric.

A shape gives `share(points)`, 1 inside and 0 outside, and `chords(source, directions)`, the length [mm] of each ray
inside it from the source on. `Gaussians` is smooth: `density(points)` and `integrals(source, directions)`.
"""

import dataclasses
import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import maximum_filter, minimum_filter

from diffrender.camera import Camera, looking_along
from diffrender.volume import Volume

SUPERSAMPLES = 4  # along each axis of a voxel, so that edges are soft by one voxel


def rotation(degrees_about_x: float, about_y: float, about_z: float) -> np.ndarray:
    """Turned about x, then y, then z [degrees]; (3, 3)."""
    matrix = np.eye(3)
    for axis, angle in enumerate((degrees_about_x, about_y, about_z)):
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        turn = np.eye(3)
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn[a, a], turn[a, b], turn[b, a], turn[b, b] = c, -s, s, c
        matrix = turn @ matrix
    return matrix


def oblique_camera(
    target: np.ndarray, along=(0.60, 0.73, 0.32), image_size=(72, 60), field=(84.0, 96.0), mirrored: bool = False
) -> Camera:
    """A camera with oblong pixels that sees a `field` (height, width) [mm] about `target`, not quite in its middle.

    Args:
        along: the way it looks, RAS. By default about the same angle to all three axes of `box`, since next to a face
            that the rays graze a chord changes by more than a voxel can resolve.
        mirrored: seen from the detector.
    """
    z = np.asarray(along) / np.linalg.norm(along)
    x = np.cross([0.31, -0.17, 0.93], z)
    x /= np.linalg.norm(x)
    axes = [(-x if mirrored else x).tolist(), np.cross(z, x).tolist(), z.tolist()]
    pixel_size = tuple(extent * 900 / 400 / n for extent, n in zip(field, image_size, strict=True))
    camera = looking_along(axes, torch.as_tensor(target), 400.0, 900.0, pixel_size, image_size)
    return dataclasses.replace(camera, principal_point=(0.53 * image_size[0], 0.46 * image_size[1]))


def oblique_lattice(
    spacing=(0.4, 0.5, 0.6), turned=(11.0, -17.0, 23.0), origin=(-61.0, -37.0, -83.0), left_handed: bool = False
) -> np.ndarray:
    """world_from_voxel (4, 4): oblong voxels, (i, j, k) steps [mm], turned about x, y, z [degrees]; RAS [mm]."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(*turned) * np.asarray(spacing)
    if left_handed:
        matrix[:3, 0] *= -1
    matrix[:3, 3] = origin
    return matrix


def point_at(world_from_voxel: np.ndarray, shape: tuple[int, int, int], where=(0.55, 0.42, 0.53)) -> np.ndarray:
    """A world point inside a lattice of `shape` (k, j, i): `where` are shares of its extent along (i, j, k)."""
    index = np.asarray(where) * (np.array(shape[::-1]) - 1)
    return world_from_voxel[:3, :3] @ index + world_from_voxel[:3, 3]


@dataclass(frozen=True)
class Ellipsoid:
    """Half axes `radii` [mm] along the columns of `axes`, about `centre`, RAS [mm]."""

    centre: np.ndarray
    radii: tuple[float, float, float]
    axes: np.ndarray

    def share(self, points: np.ndarray) -> np.ndarray:
        local = (points - self.centre) @ self.axes / self.radii
        return (np.einsum("...c,...c->...", local, local) <= 1).astype(np.float64)

    def chords(self, source, directions) -> np.ndarray:
        o = (np.asarray(source) - self.centre) @ self.axes / self.radii
        d = np.asarray(directions) @ self.axes / self.radii
        # |o + t d| = 1, whose two roots are where the ray enters and leaves.
        a, b, c = (d * d).sum(-1), d @ o, o @ o - 1
        root = np.sqrt(np.maximum(b * b - a * c, 0))
        near, far = (-b - root) / a, (-b + root) / a
        return np.where(b * b > a * c, np.maximum(far, 0) - np.maximum(near, 0), 0.0)


@dataclass(frozen=True)
class Box:
    """Half edges `half` [mm] along the columns of `axes`, about `centre`, RAS [mm]."""

    centre: np.ndarray
    half: tuple[float, float, float]
    axes: np.ndarray

    def share(self, points: np.ndarray) -> np.ndarray:
        return (np.abs((points - self.centre) @ self.axes) <= self.half).all(axis=-1).astype(np.float64)

    def chords(self, source, directions) -> np.ndarray:
        o = (np.asarray(source) - self.centre) @ self.axes
        d = np.asarray(directions) @ self.axes
        with np.errstate(divide="ignore"):
            ends = np.stack([(-np.asarray(self.half) - o) / d, (np.asarray(self.half) - o) / d])
        near, far = ends.min(axis=0).max(axis=-1), ends.max(axis=0).min(axis=-1)
        return np.maximum(np.maximum(far, 0) - np.maximum(near, 0), 0.0)


@dataclass(frozen=True)
class Gaussians:
    """A sum of Gaussians: `weights` (n,) [1/mm], `centres` (n, 3) RAS [mm], `precisions` (n, 3, 3) [1/mm2]."""

    weights: np.ndarray
    centres: np.ndarray
    precisions: np.ndarray

    def density(self, points: np.ndarray) -> np.ndarray:
        total = np.zeros(points.shape[:-1])
        for weight, centre, precision in zip(self.weights, self.centres, self.precisions, strict=True):
            away = points - centre
            total += weight * np.exp(-0.5 * np.einsum("...a,ab,...b->...", away, precision, away))
        return total

    def integrals(self, source, directions) -> np.ndarray:
        """From the source to infinity: exp(-(a t^2 + 2 b t + c) / 2) integrates to an error function."""
        d, total = np.asarray(directions), np.zeros(len(directions))
        for weight, centre, precision in zip(self.weights, self.centres, self.precisions, strict=True):
            o = np.asarray(source) - centre
            a, b, c = np.einsum("na,ab,nb->n", d, precision, d), d @ precision @ o, o @ precision @ o
            before = np.array([math.erfc(x) for x in b / np.sqrt(2 * a)])
            total += weight * np.exp(-0.5 * (c - b * b / a)) * np.sqrt(np.pi / (2 * a)) * before
        return total


def ellipsoid(centre) -> Ellipsoid:
    """The off-centre ellipsoid of the tests, 66 x 50 x 42 mm."""
    return Ellipsoid(np.asarray(centre, dtype=np.float64), (33.0, 25.0, 21.0), rotation(31, -14, 52))


def box(centre) -> Box:
    """The off-centre box of the tests, 40 x 32 x 46 mm."""
    return Box(np.asarray(centre, dtype=np.float64), (20.0, 16.0, 23.0), rotation(-9, 21, 13))


def smooth(centre, scale: float = 1.0) -> Gaussians:
    """Four Gaussians of 9 to 23 mm about `centre`, off it, tilted, one of them negative; all times `scale`."""
    centre = np.asarray(centre, dtype=np.float64)
    away = scale * np.array([[9.0, -6.0, 4.0], [-14.0, 11.0, -8.0], [5.0, 17.0, 12.0], [-3.0, -9.0, -15.0]])
    sigmas = scale * np.array([[19.0, 13.0, 16.0], [11.0, 23.0, 9.0], [14.0, 10.0, 12.0], [10.0, 12.0, 9.0]])
    turns = [rotation(*angles) for angles in ((20, 35, -10), (-40, 15, 5), (10, -25, 50), (5, 5, 60))]
    precisions = np.stack([turn @ np.diag(1 / s**2) @ turn.T for turn, s in zip(turns, sigmas, strict=True)])
    return Gaussians(np.array([0.020, 0.013, 0.017, -0.006]), centre + away, precisions)


def drawn(shape_in_it: Ellipsoid | Box | Gaussians, world_from_voxel, size: tuple[int, int, int], value=1.0) -> Volume:
    """A shape as a volume of `size` (k, j, i), float32.

    Ellipsoid and box: each voxel holds `value` times the share of it that lies inside (the mean of 4 x 4 x 4 points),
    so that a line integral is `value` times a length [mm]. Gaussians: `value` times the density at the voxel's centre.
    """
    world_from_voxel = np.asarray(world_from_voxel, dtype=np.float64)
    k, j, i = np.meshgrid(*[np.arange(n, dtype=np.float64) for n in size], indexing="ij")
    centres = np.stack([i, j, k], axis=-1) @ world_from_voxel[:3, :3].T + world_from_voxel[:3, 3]
    if isinstance(shape_in_it, Gaussians):
        values = shape_in_it.density(centres)
    else:
        values = shape_in_it.share(centres)
        # Where all of the 5 x 5 x 5 centres about a voxel agree, no edge of so large a shape passes through it.
        cut = maximum_filter(values, 5) != minimum_filter(values, 5)
        within = (np.arange(SUPERSAMPLES) + 0.5) / SUPERSAMPLES - 0.5
        offsets = np.array(list(itertools.product(within, repeat=3))) @ world_from_voxel[:3, :3].T
        values[cut] = np.mean([shape_in_it.share(centres[cut] + offset) for offset in offsets], axis=0)
    return Volume(
        torch.from_numpy((value * values).astype(np.float32)), torch.from_numpy(world_from_voxel), unit="arbitrary"
    )
