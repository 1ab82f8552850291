"""Balls rolled over masks, in mm whatever the lattice: erosion, dilation, closing; components and holes."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Integer, Shaped

Mask = Bool[np.ndarray, "k j i"]


def eroded(mask: Mask, steps: Sequence[float], radius: float) -> Mask:
    """What lies further than `radius` [mm] from all that is not in the mask; beyond the lattice it goes on as it is."""
    result = np.zeros_like(mask)
    if mask.any():
        box = _box(mask, steps, max(steps))
        result[box] = ~_within(~mask[box], steps, radius)
    return result


def dilated(mask: Mask, steps: Sequence[float], radius: float) -> Mask:
    """What lies within `radius` [mm] of the mask."""
    result = np.zeros_like(mask)
    if mask.any():
        box = _box(mask, steps, radius)
        result[box] = _within(mask[box], steps, radius)
    return result


def closed(mask: Mask, steps: Sequence[float], radius: float) -> Mask:
    """What a ball of `radius` [mm] that stays outside the mask cannot reach; also at the lattice's faces."""
    result = mask.copy()
    if mask.any():
        box, margins = _box(mask, steps, 0), [math.ceil(radius / s) + 1 for s in steps]
        grown = _within(np.pad(mask[box], [(n, n) for n in margins]), steps, radius)
        whole = ~_within(~grown, steps, radius)
        result[box] |= whole[tuple(slice(n, -n) for n in margins)]
    return result


def filled(mask: Mask, axis: int) -> Mask:
    """The mask, with the holes of each slice across `axis`."""
    from scipy import ndimage

    result = mask.copy()
    for one in np.moveaxis(result, axis, 0):
        ndimage.binary_fill_holes(one.copy(), output=one)
    return result


def without_cavities(mask: Mask) -> Mask:
    """The mask, with all that it encloses on every side."""
    result = mask.copy()
    if mask.any():
        box = _box(mask, (1, 1, 1), 0)
        groups, _ = components(~np.pad(mask[box], 1))
        result[box] = (groups != groups[0, 0, 0])[1:-1, 1:-1, 1:-1]
    return result


def components(mask: Bool[np.ndarray, "*n"]) -> tuple[Integer[np.ndarray, "*n"], Shaped[np.ndarray, "count"]]:
    """The number of the component that each element belongs to, from 1; and how many elements each has."""
    from scipy import ndimage

    groups, count = ndimage.label(mask)  # pyright: ignore[reportGeneralTypeIssues]
    return groups, np.bincount(groups.ravel(), minlength=count + 1)[1:]


def _within(mask: Mask, steps: Sequence[float], radius: float) -> Mask:
    """Whether an element of the mask lies within `radius` [mm]: exact, axis by axis, since squared distances add up.

    Source: Felzenszwalb & Huttenlocher, Theory of Computing 8 (2012) 415, with parabolas cut at the radius; scipy's
    distance transform takes five times as long, since it looks at all distances.
    """
    squared = np.where(mask, np.float32(0), np.float32(np.inf))
    for axis, step in enumerate(steps):
        before, after = np.moveaxis(squared, axis, 0), np.moveaxis(squared.copy(), axis, 0)
        for n in range(1, min(math.floor(radius / step), len(before) - 1) + 1):
            cost = np.float32((n * step) ** 2)
            np.minimum(after[n:], before[:-n] + cost, out=after[n:])
            np.minimum(after[:-n], before[n:] + cost, out=after[:-n])
        squared = np.moveaxis(after, 0, axis)
    return squared <= radius**2


def _box(mask: Mask, steps: Sequence[float], margin: float) -> tuple[slice, ...]:
    box = []
    for axis, step in enumerate(steps):
        where = np.flatnonzero(mask.any(axis=tuple(n for n in range(3) if n != axis)))
        more = math.ceil(margin / step) + 1 if margin else 0
        box.append(slice(max(0, int(where[0]) - more), int(where[-1]) + 1 + more))
    return tuple(box)
