"""A lung as a radiologist outlines it on a radiograph, from its path lengths and the dome it rests on.

On a frontal radiograph the lung ends where the dome of the diaphragm covers it: the recesses before and behind the dome
reach deeper and are not seen. Beside the dome's silhouette the outline runs down into the lateral angle.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffrender.camera import Camera
from diffrender.synth.morphology import components

CELL = 4.0  # [mm] of the map of the lung's lower face, or the largest voxel's edge
STEEPEST = 2.0  # slope up to which cells are of one face: the heart's side and the hilum are steeper than the dome
SMALLEST_BASE = 0.35  # of the lung seen from below; a smaller face is no diaphragm, the CT ends above it: 0.5 to 0.8
OUTER_HALF = 1.4  # of the way outwards and twice that backwards, each from 0 to 1: no heart lies there
FITS = 8
BEHIND = 0.45  # of the way from front to back: the dome is highest there or little before
APEX = 5.0  # [mm]
ABOVE = 10.0  # [mm] by which a dome strays from a paraboloid
FRONTAL = 0.7  # of the beam's direction within the transverse plane; beyond it the dome hides nothing
APEX_SHARE = 0.5  # of a row's longest path: where the lung is thin, as at its apex, its border is asked no more


@dataclass(frozen=True, eq=False)
class Outlines:
    """Where lungs rest on the diaphragm: {name: (n, 3) RAS [mm]}, empty where the CT ends above it."""

    bases: Mapping[str, Float[Tensor, "n 3"]]


def bases_of(lung: Bool[Tensor, "k j i"], world_from_voxel: Float[Tensor, "4 4"], right: bool) -> Float[Tensor, "n 3"]:
    """Points of the lung's face on the diaphragm, RAS [mm].

    The lower face as a map of heights; of its parts without steep steps the largest, which leaves out what rests on
    hilum and ribs; without what rises above a dome through its outer and posterior half, which leaves out the heart.
    Cells whose lowest voxel is at the lattice's end are none: there the CT ends, not the lung.
    """
    matrix = world_from_voxel.numpy()
    voxels = lung.nonzero().flip(1).numpy()
    if not len(voxels):
        return torch.zeros(0, 3, dtype=torch.float64)
    points = voxels @ matrix[:3, :3].T + matrix[:3, 3]
    cell = max(CELL, 1.01 * np.linalg.norm(matrix[:3, :3], axis=0).max())
    origin = points[:, :2].min(0) - cell
    where = ((points[:, :2] - origin) / cell).astype(int)
    lowest = np.lexsort((points[:, 2], where[:, 1], where[:, 0]))
    _, first = np.unique(where[lowest], axis=0, return_index=True)
    lowest = lowest[first]
    up = int(np.argmax(np.abs(matrix[2, :3] / np.linalg.norm(matrix[:3, :3], axis=0))))
    ends = (0, 1) if matrix[2, up] > 0 else (lung.shape[2 - up] - 2, lung.shape[2 - up] - 1)
    lowest = lowest[~np.isin(voxels[lowest, up], ends)]
    heights = np.full(where.max(0) + 2, np.nan)
    heights[tuple(where[lowest].T)] = points[lowest, 2]
    face = _largest_face(heights, STEEPEST * cell)
    if np.count_nonzero(face) < SMALLEST_BASE * len(first):
        return torch.zeros(0, 3, dtype=torch.float64)
    face &= _dome(heights, face, right)
    x, y = np.nonzero(face)
    base = np.stack([origin[0] + (x + 0.5) * cell, origin[1] + (y + 0.5) * cell, heights[face]], axis=1)
    return torch.from_numpy(base)


def _largest_face(heights: Float[np.ndarray, "x y"], step: float) -> Bool[np.ndarray, "x y"]:
    """The cells of the largest part in which neighbours differ by less than `step`."""
    x, y = heights.shape
    fine = np.zeros((2 * x - 1, 2 * y - 1), bool)  # cells at even places, and between them whether they join
    fine[::2, ::2] = np.isfinite(heights)
    with np.errstate(invalid="ignore"):
        fine[1::2, ::2] = np.abs(np.diff(heights, axis=0)) < step
        fine[::2, 1::2] = np.abs(np.diff(heights, axis=1)) < step
    groups, sizes = components(fine)
    if not len(sizes):
        return np.zeros(heights.shape, bool)
    return groups[::2, ::2] == 1 + int(np.argmax(sizes))


def _dome(heights: Float[np.ndarray, "x y"], face: Bool[np.ndarray, "x y"], right: bool) -> Bool[np.ndarray, "x y"]:
    """The cells that do not rise above a paraboloid, fitted first where no heart is and then to all that lies on it."""
    x, y = np.nonzero(face)
    u, v = ((n - n.min()) / max(1, np.ptp(n)) for n in (x, y))
    outwards, backwards, z = u if right else 1 - u, 1 - v, heights[face]
    terms = np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=1)
    on = outwards + 2 * backwards > OUTER_HALF
    above = np.zeros(len(z))
    for _ in range(FITS):
        above = z - terms @ np.linalg.lstsq(terms[on], z[on], rcond=None)[0]
        on = np.abs(above) < ABOVE
        if np.count_nonzero(on) < 2 * terms.shape[1]:
            break
    low = np.zeros_like(face)
    behind = (backwards > BEHIND) & (above < ABOVE)
    apex = np.percentile(z[behind], 99) if behind.any() else np.inf
    low[x, y] = (above < ABOVE) & (z < apex + APEX)
    return low


def outlined(
    path: Float[Tensor, "h w"],
    camera: Camera,
    right: bool,
    lateral: float,
    medial: float,
    base: Float[Tensor, "n 3"] | None,
) -> Bool[Tensor, "h w"]:
    """The outline of one lung, filled.

    Args:
        path: of the whole lung [mm].
        right: whose sides are which.
        lateral, medial: paths [mm] beyond which the lung is seen at its two borders. Of a lateral view both borders
            are `lateral`.
        base: of `bases_of`; None or empty leaves the dome uncut.
    """
    lengths = path.detach().cpu().numpy()
    seen = lengths > min(lateral, APEX_SHARE * float(lengths.max()))
    if not seen.any():
        return torch.zeros_like(path, dtype=torch.bool)
    right_way = camera.world_from_camera[:3, :3].T @ torch.tensor([1.0, 0, 0], dtype=torch.float64)
    if abs(right_way[2]) < FRONTAL:  # the picture shows right and left
        seen &= ~_medial(lengths, seen, bool(right_way[0] > 0) == right) | (lengths > _medial_limit(lengths, medial))
    if base is not None and len(base):
        seen &= ~_hidden(base, camera)
    return torch.from_numpy(_filled(seen)).to(path.device)


def _medial(lengths: Float[np.ndarray, "h w"], seen: Bool[np.ndarray, "h w"], lateral_right: bool) -> np.ndarray:
    """The half of each row's lung that is nearer to the mediastinum."""
    columns = np.arange(lengths.shape[1]) + 0.5
    some = seen.any(axis=1)
    first = np.where(some, seen.argmax(axis=1), 0)
    last = np.where(some, lengths.shape[1] - seen[:, ::-1].argmax(axis=1), 0)
    middle = (first + last)[:, None] / 2
    return columns < middle if lateral_right else columns > middle


def _medial_limit(lengths: Float[np.ndarray, "h w"], medial: float) -> Float[np.ndarray, "h #w"]:
    """The path asked for in each row: less where the lung itself is thin, at its apex."""
    return np.minimum(medial, APEX_SHARE * lengths.max(axis=1, keepdims=True))


def _hidden(base: Float[Tensor, "n 3"], camera: Camera) -> Bool[np.ndarray, "h w"]:
    """What lies below the silhouette of the dome: its uppermost point, as far to the side as it reaches."""
    height, width = camera.image_size
    direction = camera.direction
    if abs(float(direction[2])) > math.sqrt(1 - FRONTAL**2):
        return np.zeros((height, width), bool)
    head = camera.world_from_camera[2, :2].numpy() / np.array(camera.pixel_size[::-1])  # (columns, rows) to the head
    up = head / np.linalg.norm(head)
    places = camera.project(base).flip(1).numpy()  # (column, row)
    places = places[np.isfinite(places).all(axis=1)]
    spacing = _spread(places)
    across, high = places @ [-up[1], up[0]], places @ up
    bins = np.floor((across - across.min()) / spacing).astype(int)
    top = np.full(bins.max() + 1, -np.inf)
    np.maximum.at(top, bins, high)
    known = np.isfinite(top)
    centres = across.min() + (np.arange(len(top)) + 0.5) * spacing
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    at, level = columns * -up[1] + rows * up[0], columns * up[0] + rows * up[1]
    silhouette = np.interp(at, centres[known], top[known], left=-np.inf, right=-np.inf)
    return level < silhouette


def _spread(places: Float[np.ndarray, "n 2"]) -> float:
    """A width [px] of columns that holds several points of the base each."""
    return max(1.0, 1.5 * float(np.ptp(places[:, 0])) / math.sqrt(len(places)))


def _filled(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The largest part without its holes, its border smoothed by a pixel."""
    from scipy import ndimage

    mask = ndimage.binary_opening(mask, np.ones((3, 3)))
    groups, sizes = components(mask)
    if not len(sizes):
        return mask
    largest = groups == 1 + int(np.argmax(sizes))
    return np.asarray(ndimage.binary_fill_holes(largest), dtype=bool)
