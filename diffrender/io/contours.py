"""Closed contours in parallel planes, as RTSTRUCT has them, filled onto a lattice."""

from collections.abc import Sequence

import numpy as np

from diffrender.errors import LabelError
from diffrender.io.lattices import resample_nearest
from diffrender.volume import Volume

PARALLEL = 1e-3  # sine of the angle between two directions taken for parallel; DICOM writes cosines with six digits
SAME_PLANE = 1e-2  # [mm] contours closer than this along their normal lie in one plane


def fill_even_odd(polygons: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Pixels (h, w) whose centre lies within an odd number of the polygons, so a contour in a contour is a hole.

    Args:
        polygons: (n, 2) corners (column, row) [px], centres at integers.
    Each edge toggles, in every row it crosses, all pixels to its right; a running sum along the row is then odd inside.
    """
    out = np.zeros(shape, bool)
    corners = np.concatenate(polygons)
    low = np.clip(np.floor(corners.min(0)), 0, (shape[1], shape[0])).astype(int)  # the rest of the slice is outside
    high = np.clip(np.ceil(corners.max(0)) + 1, low, (shape[1], shape[0])).astype(int)
    width, height = high - low
    toggles = np.zeros((height, width + 1), np.int32)
    for polygon in polygons:
        (x0, y0), (x1, y1) = (polygon - low).T, (np.roll(polygon, -1, axis=0) - low).T
        # Half open, so that a row through a corner meets one of its two edges or both, never a half of them.
        first = np.clip(np.ceil(np.minimum(y0, y1)), 0, height).astype(int)
        last = np.clip(np.ceil(np.maximum(y0, y1)), 0, height).astype(int)
        counts = last - first
        edge = np.repeat(np.arange(len(polygon)), counts)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
        x = x0[edge] + (row - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
        np.add.at(toggles, (row, np.clip(np.ceil(x), 0, width).astype(int)), 1)
    out[low[1] : high[1], low[0] : high[0]] = np.cumsum(toggles[:, :width], axis=1) & 1
    return out


def fill_contours(contours: list[np.ndarray], volume: Volume, what: str) -> tuple[np.ndarray, bool]:
    """The voxels of the volume inside a structure that is drawn as closed contours in parallel planes.

    Args:
        contours: (n, 3) corners each, RAS [mm].
        what: file and structure, for messages.
    Returns: uint8 (k, j, i), and whether the contours are parallel to voxel planes. There a voxel is inside when its
        centre is, in the nearest contour plane, where that is no further than half the planes' distance. Contours
        oblique to the volume are filled on a lattice of their own, half as fine as its finest voxel, and resampled.
    Raises: LabelError where contours are not flat or not parallel to each other.
    """
    normal = _common_normal(contours, what)
    world_from_voxel = volume.world_from_voxel.numpy()
    axes = world_from_voxel[:3, :3] / np.linalg.norm(world_from_voxel[:3, :3], axis=0)
    sines = np.linalg.norm(np.cross(axes.T, normal), axis=1)
    axis = int(sines.argmin())
    if sines[axis] <= PARALLEL:
        voxel_from_world = np.linalg.inv(world_from_voxel)
        inside = [contour @ voxel_from_world[:3, :3].T + voxel_from_world[:3, 3] for contour in contours]
        return _fill_planes(inside, axis, volume.shape, min(volume.spacing), volume.spacing[2 - axis]), True
    shape, world_from_own = _own_lattice(contours, normal, min(volume.spacing))
    own_from_world = np.linalg.inv(world_from_own)
    inside = [contour @ own_from_world[:3, :3].T + own_from_world[:3, 3] for contour in contours]
    spacing = float(np.linalg.norm(world_from_own[:3, 2]))
    return resample_nearest(_fill_planes(inside, 2, shape, spacing, spacing), world_from_own, volume), False


def _common_normal(contours: list[np.ndarray], what: str) -> np.ndarray:
    # Newell's normal, twice the area's vector: contours of any winding and shape; the largest is the surest.
    normals = [0.5 * np.cross(c - c[0], np.roll(c, -1, axis=0) - c[0]).sum(0) for c in contours]
    areas = [float(np.linalg.norm(normal)) for normal in normals]
    largest = normals[int(np.argmax(areas))] / max(areas)
    for contour, area in zip(contours, areas, strict=True):
        height = (contour - contour[0]) @ largest
        size = np.ptp(contour, axis=0).max()
        if area > 0 and np.ptp(height) > SAME_PLANE + 10 * PARALLEL * size:
            raise LabelError(
                f"{what}: a contour rises {np.ptp(height):.2f} mm out of the plane of the others, so they are no stack "
                "of parallel slices, and nothing says what lies between them. Export the structure as a DICOM SEG."
            )
    return largest


def _fill_planes(contours: list[np.ndarray], axis: int, shape: tuple, finest: float, step: float) -> np.ndarray:
    """Contours in voxel (i, j, k) coordinates, flat along `axis`, filled; `step` is the voxel size along it [mm]."""
    out = np.zeros(shape, np.uint8)
    across, down = [other for other in range(3) if other != axis]
    planes = _planes(np.array([contour[:, axis].mean() for contour in contours]), step)
    positions = np.array(sorted(planes))
    # One plane alone stands for one slice; skipped slices do not widen the usual distance, and stay empty.
    reach = np.median(np.diff(positions)) / 2 if len(positions) > 1 else 0.5
    slices = np.moveaxis(out, 2 - axis, 0)
    for n in range(len(slices)):
        distance = np.abs(positions - n)
        nearest = int(distance.argmin())
        if distance[nearest] <= reach + SAME_PLANE / step:
            polygons = [contours[m][:, [across, down]] for m in planes[positions[nearest]]]
            slices[n] = fill_even_odd(polygons, slices[n].shape)
    return out


def _planes(heights: np.ndarray, step: float) -> dict[float, list[int]]:
    """Which contours lie in which plane: {position [voxel]: their numbers}."""
    planes: dict[float, list[int]] = {}
    last = -np.inf
    for n in np.argsort(heights, kind="stable").tolist():
        if (heights[n] - last) * step > SAME_PLANE:
            last = float(heights[n])
        planes.setdefault(last, []).append(n)
    return planes


def _own_lattice(contours: list[np.ndarray], normal: np.ndarray, finest: float) -> tuple[tuple, np.ndarray]:
    """A lattice along the contours' planes that holds them: voxels of half `finest`, slices at the planes' distance."""
    across = np.cross(normal, np.eye(3)[int(np.abs(normal).argmin())])
    across /= np.linalg.norm(across)
    own_axes = np.stack([across, np.cross(normal, across), normal], axis=1)
    points = np.concatenate(contours) @ own_axes
    heights = np.array(sorted(_planes(np.array([(c @ normal).mean() for c in contours]), 1.0)))
    gap = float(np.median(np.diff(heights))) if len(heights) > 1 else finest
    sizes = np.array([finest / 2, finest / 2, gap])
    low = points.min(0) - sizes * [1, 1, 0]
    count = np.ceil((points.max(0) - low) / sizes - 1e-3).astype(int) + 1
    world_from_own = np.eye(4)
    world_from_own[:3, :3] = own_axes * sizes
    world_from_own[:3, 3] = own_axes @ low
    return tuple(count[::-1].tolist()), world_from_own
