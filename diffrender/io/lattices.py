"""Label lattices: are two the same, do they overlap, and labels carried from one to the other (nearest voxel)."""

import itertools

import numpy as np
import torch

from diffrender.volume import Volume

# Headers round positions to about 1e-5 mm (DICOM's 16 characters, NIfTI's single precision): a thousandth of a voxel
# is far above that, and far below what could move a label to a neighbouring voxel.
SAME_LATTICE = 1e-3  # [voxel]
# Added before rounding down, so that a centre midway between two voxels always goes to the one with the higher
# index, whatever the last bit of the arithmetic says.
TIE = 1e-6  # [voxel]

Shape3 = tuple[int, int, int]  # (k, j, i)


def voxel_offset(shape: Shape3, world_from_label: np.ndarray, world_from_voxel: np.ndarray) -> np.ndarray:
    """How far voxel (i, j, k) of one lattice lies from voxel (i, j, k) of the other: (8, 3), at the corners [voxel]."""
    corners = np.array(list(itertools.product(*[(0.0, n - 1.0) for n in reversed(shape)])))
    label_from_voxel = np.linalg.inv(world_from_label) @ world_from_voxel
    return corners @ label_from_voxel[:3, :3].T + label_from_voxel[:3, 3] - corners


def is_same(shape: Shape3, world_from_label: np.ndarray, volume: Volume) -> bool:
    """Whether labels of this lattice can be laid on the volume as they are."""
    if tuple(shape) != volume.shape:
        return False
    return bool(np.abs(voxel_offset(shape, world_from_label, volume.world_from_voxel.numpy())).max() <= SAME_LATTICE)


def centres_coincide(world_from_label: np.ndarray, volume: Volume) -> bool:
    """Whether every voxel centre of the volume falls on one of the (unbounded) label lattice."""
    label_from_voxel = np.linalg.inv(world_from_label) @ volume.world_from_voxel.numpy()
    corners = np.array(list(itertools.product(*[(0.0, n - 1.0) for n in reversed(volume.shape)])))
    indices = corners @ label_from_voxel[:3, :3].T + label_from_voxel[:3, 3]
    steps = label_from_voxel[:3, :3]
    whole = np.abs(steps - np.round(steps)).max() * max(volume.shape) <= SAME_LATTICE
    return bool(whole and np.abs(indices - np.round(indices)).max() <= SAME_LATTICE and np.abs(steps).max() < 1.5)


def overlap(shape: Shape3, world_from_label: np.ndarray, volume: Volume) -> bool:
    """Whether the box of the label voxels and the box of the volume's share any space.

    Tested along the axes of both lattices (6 of the 15 axes of the separating axis theorem): boxes that only a
    diagonal plane separates count as overlapping, and give labels without a labelled voxel, which is said.
    """
    world_from_voxel = volume.world_from_voxel.numpy()
    both = (
        (shape, world_from_label, volume.shape, world_from_voxel),
        (volume.shape, world_from_voxel, shape, world_from_label),
    )
    for target_shape, world_from_target, source_shape, world_from_source in both:
        low, high = _bounds(source_shape, np.linalg.inv(world_from_target) @ world_from_source)
        size = np.array(target_shape[::-1])
        if (high <= -0.5).any() or (low >= size - 0.5).any():
            return False
    return True


def describe(shape: Shape3, world_from_voxel: np.ndarray, digits: int = 1) -> str:
    """In words: "122 x 101 x 112 voxels of 3 x 3 x 3 mm, axes RAS, first voxel at (-178.0, 11.3, 94.3) mm".

    Of an oblique lattice the unit vectors along i, j and k stand too.
    """
    lattice = Volume(torch.zeros((), dtype=torch.int16).expand(*shape), torch.from_numpy(world_from_voxel.copy()))
    size = " x ".join(str(n) for n in reversed(shape))
    spacing = " x ".join(f"{s:.{digits + 3}g}" for s in reversed(lattice.spacing))
    origin = ", ".join(f"{x:.{digits}f}" for x in world_from_voxel[:3, 3])
    axes = world_from_voxel[:3, :3] / np.linalg.norm(world_from_voxel[:3, :3], axis=0)
    ways = " ".join(f"({', '.join(f'{x:.{digits + 2}f}' for x in axis)})" for axis in axes.T)
    oblique = f" {ways}" if np.abs(axes - np.rint(axes)).max() > 1e-6 else ""
    return f"{size} voxels of {spacing} mm, axes {lattice.orientation}{oblique}, first voxel at ({origin}) mm"


def describe_both(shape: Shape3, world_from_label: np.ndarray, volume: Volume) -> tuple[str, str]:
    """The labels' lattice and the volume's, with as many digits as it takes to see that they differ."""
    both = ("", "")
    for digits in (1, 3, 6):
        both = (
            describe(shape, world_from_label, digits),
            describe(volume.shape, volume.world_from_voxel.numpy(), digits),
        )
        if both[0] != both[1]:
            break
    return both


def resample_nearest(values: np.ndarray, world_from_label: np.ndarray, volume: Volume) -> np.ndarray:
    """Labels on the volume's lattice: each voxel takes the label voxel in which its centre lies; outside is 0.

    Args:
        values: (k, j, i) whole numbers on the lattice of `world_from_label`.
    Returns: (k, j, i) of the volume's shape, in the dtype of `values`.
    Works slice by slice within the box of the non-zero labels, so extra memory is a few slices.
    """
    out = np.zeros(volume.shape, values.dtype)
    box = _labelled_box(values)
    if box is None:
        return out
    values = values[box]
    first = np.array([part.start for part in reversed(box)], dtype=np.float64)
    label_from_voxel = np.linalg.inv(world_from_label) @ volume.world_from_voxel.numpy()
    label_from_voxel[:3, 3] -= first
    low, high = _bounds(values.shape, np.linalg.inv(label_from_voxel))
    size = np.array(volume.shape[::-1])
    low = np.clip(np.floor(low).astype(int), 0, size)
    high = np.clip(np.ceil(high).astype(int) + 1, 0, size)
    window = tuple(slice(low[axis], high[axis]) for axis in (2, 1, 0))
    label_from_voxel[:3, 3] += label_from_voxel[:3, :3] @ low
    if out[window].size:
        aligned = _axis_order(label_from_voxel[:3, :3], max(volume.shape))
        if aligned is None:
            _sample_oblique(values, label_from_voxel, out[window])
        else:
            _sample_aligned(values, label_from_voxel, aligned, out[window])
    return out


def _bounds(shape: tuple[int, ...], target_from_source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest target index of the box that the source voxels fill."""
    ends = np.array(list(itertools.product(*[(-0.5, n - 0.5) for n in reversed(shape)])))
    points = ends @ target_from_source[:3, :3].T + target_from_source[:3, 3]
    return points.min(0), points.max(0)


def _labelled_box(values: np.ndarray) -> tuple[slice, slice, slice] | None:
    """The smallest box that holds all non-zero voxels; None where there are none."""
    slices = np.array([bool(plane.any()) for plane in values])
    if not slices.any():
        return None
    ks = np.flatnonzero(slices)
    inner = values[ks[0] : ks[-1] + 1]
    flat = np.zeros(values.shape[1:], bool)
    for plane in inner:
        flat |= plane != 0
    js, ends = np.flatnonzero(flat.any(1)), np.flatnonzero(flat.any(0))
    return slice(ks[0], ks[-1] + 1), slice(js[0], js[-1] + 1), slice(ends[0], ends[-1] + 1)


def _axis_order(steps: np.ndarray, longest: int) -> list[int] | None:
    """For each label axis the one volume axis it runs along, or None where the lattices are oblique to each other."""
    order = np.abs(steps).argmax(1).tolist()
    rest = np.abs(steps)
    rest[np.arange(3), order] = 0
    return order if sorted(order) == [0, 1, 2] and rest.max() * longest < TIE else None


def _sample_aligned(values: np.ndarray, label_from_voxel: np.ndarray, order: list[int], out: np.ndarray) -> None:
    """Parallel axes: an index list for each axis is enough."""
    inside, picks = [slice(0)] * 3, [np.zeros(0, int)] * 3
    for label_axis, axis in enumerate(order):
        index = label_from_voxel[label_axis, axis] * np.arange(out.shape[2 - axis]) + label_from_voxel[label_axis, 3]
        index = np.floor(index + 0.5 + TIE).astype(int)
        hit = np.flatnonzero((index >= 0) & (index < values.shape[2 - label_axis]))
        if not len(hit):
            return
        inside[2 - axis] = slice(hit[0], hit[-1] + 1)
        picks[2 - axis] = index[hit]
    axes = [2 - order.index(2 - axis) for axis in range(3)]
    turned = values.transpose(axes)
    target = out[tuple(inside)]
    for k, source_k in enumerate(picks[0]):
        target[k] = turned[source_k][np.ix_(picks[1], picks[2])]


def _sample_oblique(values: np.ndarray, label_from_voxel: np.ndarray, out: np.ndarray) -> None:
    steps, start = label_from_voxel[:3, :3], label_from_voxel[:3, 3] + 0.5 + TIE
    i, j = np.arange(out.shape[2]), np.arange(out.shape[1])[:, None]
    for k in range(out.shape[0]):
        index = [
            np.floor(steps[a, 0] * i + steps[a, 1] * j + (steps[a, 2] * k + start[a])).astype(int) for a in range(3)
        ]
        inside = np.ones(out.shape[1:], bool)
        for axis in range(3):
            inside &= (index[axis] >= 0) & (index[axis] < values.shape[2 - axis])
        out[k][inside] = values[index[2][inside], index[1][inside], index[0][inside]]
