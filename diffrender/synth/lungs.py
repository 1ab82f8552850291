"""The lungs of a CT that has no lung labels: by thresholds, components and closings, right and left apart."""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped

from diffrender.errors import LabelError, UnitError, notify
from diffrender.synth.morphology import closed, components, dilated, eroded, filled, without_cavities
from diffrender.volume import Volume

NAMES = {1: "lung_right", 2: "lung_left"}
AIRY = -400.0  # [HU]; aerated and ground-glass lung lies below, vessels and walls above
TISSUE = -300.0  # [HU]; the body lies above
OPENING = 5.0  # [mm]: nostrils and folds of clothing are narrower, so room air ends at them
LUMEN = (-900.0, -930.0, -950.0, -970.0)  # [HU] below which air is an airway's, tried in order until nothing leaks
LARGEST_AIRWAY = 150e3  # [mm3]; trachea and main bronchi hold 30 to 100 ml, what is more has leaked into the lung
TALLEST_START = 40.0  # [mm] that trachea and main bronchi reach at least from top to bottom
MAIN_RADIUS = 3.0  # [mm] of the narrowest airway that is taken off
WALL = 2.0  # [mm] of an airway
SMALLEST = 20e3  # [mm3] of a lung, or of the part of one that a CT of the abdomen shows
GAS = -960.0  # [HU]: the median of gas in the bowel lies below, that of the most emphysematous lung above
APART = 60.0  # [mm] between the middles of the two lungs, at least
SEPARATIONS = (1.5, 3.0, 5.0, 8.0, 12.0, 16.0)  # [mm] radii of the ball that parts two lungs, the first that does
CLOSING = 12.0  # [mm] radius: what lies at the wall and is about as wide as twice this is closed
FINE = 0.6  # [mm]; of a lattice with smaller voxels every second one, or third, is looked at

Mask = Bool[np.ndarray, "k j i"]
Values = Shaped[np.ndarray, "k j i"]


@dataclass(frozen=True, eq=False)
class _Lattice:
    """What the steps below need of a lattice whose every `stride`-th voxel is looked at."""

    steps: tuple[float, ...]  # along (k, j, i) [mm]
    up: int  # the array's axis that runs most along the patient
    rising: bool  # whether it runs to the head
    right: Float[np.ndarray, "3"]  # world x [mm] for each step along (k, j, i)

    def x(self, mask: Mask) -> float:
        """How far to the patient's right the middle of `mask` lies [mm]."""
        return float(np.mean(np.nonzero(mask), axis=1) @ self.right)

    def top(self, box: tuple[slice, ...]) -> int:
        return box[self.up].stop if self.rising else -box[self.up].start

    def height(self, box: tuple[slice, ...]) -> float:
        return (box[self.up].stop - box[self.up].start) * self.steps[self.up]


def lungs_of(volume: Volume, closing: float = CLOSING) -> Volume:
    """The same volume with the labels 1 "lung_right" and 2 "lung_left".

    Air inside the body, without trachea and main bronchi and without gas in the bowel; parted where the two lungs
    touch; closed over vessels and dense disease. A consolidation or an effusion much wider than twice `closing` stays
    out: its HU are those of muscle.

    Args:
        volume: HU, on any lattice.
        closing: radius of the ball that closes each lung [mm].
    Returns: labels uint8 (k, j, i). One label alone where one lung is found, with a Notice.
    Raises: UnitError where the values are not HU, LabelError where there is no lung.
    """
    what = volume.source or "this volume"
    if volume.unit != "HU":
        raise UnitError(
            f"{what} holds values in unit {volume.unit!r}, and lungs are found by their HU. Give a CT, or labels."
        )
    stride = [max(1, math.ceil(FINE / s - 0.01)) for s in volume.spacing]
    lattice = _lattice(volume, stride)
    hu = volume.values[tuple(slice(None, None, n) for n in stride)].detach().cpu().numpy().astype(np.float32)
    body, air = _inside_body(hu, lattice)
    sides = _sides(hu, air & ~_airways(hu, air, lattice), body, lattice)
    if not sides:
        raise LabelError(
            f"No lung was found in {what}: inside the body there are nowhere {SMALLEST / 1e3:.0f} ml of air that could "
            f"be lung (HU from {GAS:.0f} to {AIRY:.0f}). Is it a CT of the chest, in HU? Give labels of the lungs."
        )
    if len(sides) == 1:
        notify(f"Only {NAMES[next(iter(sides))]} was found in {what}; the other lung is missing.")
    labels = np.zeros(hu.shape, np.uint8)
    for label, lung in sides.items():
        whole = without_cavities(closed(lung, lattice.steps, closing)) & body
        for other, mask in sides.items():
            whole &= ~mask if other != label else True
        labels[whole & (labels == 0)] = label
    for axis, n in enumerate(stride):
        labels = np.repeat(labels, n, axis)
    k, j, i = volume.shape
    found = torch.from_numpy(np.ascontiguousarray(labels[:k, :j, :i])).to(volume.values.device)
    return dataclasses.replace(volume, labels=found, names={n: NAMES[n] for n in sorted(sides)})


def with_lungs(volume: Volume) -> Volume:
    """The volume with the lungs of `lungs_of` added to its labels, where none of them is named lung; else as it is.

    Voxels that have a label keep it, layers overlap; the new ids follow the highest. Raises: as `lungs_of`.
    """
    if any("lung" in volume.label_name(n).lower() for n in volume.label_ids):
        return volume
    found = lungs_of(volume)
    if volume.labels is None or found.labels is None:
        return found
    own = dict(volume.names or {n: volume.label_name(n) for n in volume.label_ids})
    first = max([*own, *volume.label_ids], default=0)
    added = {first + n: name for n, name in (found.names or {}).items()}
    if volume.labels.ndim == 4:
        layers = torch.stack([found.labels == n - first for n in added])
        return dataclasses.replace(volume, labels=torch.cat([volume.labels, layers]), names={**own, **added})
    labels = volume.labels.to(torch.int32)
    lungs = torch.where(found.labels > 0, found.labels.to(torch.int32) + first, 0)
    return dataclasses.replace(volume, labels=torch.where(labels == 0, lungs, labels), names={**own, **added})


def _lattice(volume: Volume, stride: list[int]) -> _Lattice:
    axes = volume.world_from_voxel[:3, :3].numpy()[:, ::-1]  # columns along k, j, i
    unit = axes / np.linalg.norm(axes, axis=0)
    up = int(np.argmax(np.abs(unit[2])))
    steps = tuple(s * n for s, n in zip(volume.spacing, stride, strict=True))
    return _Lattice(steps, up, bool(unit[2, up] > 0), axes[0] * stride)


def _inside_body(hu: Values, lattice: _Lattice) -> tuple[Mask, Mask]:
    """The body with all it holds, and the air in it; not the room's, also between an arm and the trunk."""
    steps, up = lattice.steps, lattice.up
    air = hu < AIRY
    groups, _ = components(eroded(air, steps, OPENING))
    sides = [np.unique(np.take(groups, end, axis)) for axis in range(3) if axis != up for end in (0, -1)]
    outside = np.isin(groups, np.setdiff1d(np.concatenate(sides), 0))
    room = dilated(outside, steps, OPENING + max(steps)) & air
    groups, sizes = components(eroded(hu > TISSUE, steps, 0.6 * OPENING))  # apart from the table
    if not len(sizes):
        return np.zeros_like(air), np.zeros_like(air)
    body = filled(dilated(groups == 1 + np.argmax(sizes), steps, 0.6 * OPENING), up)
    return body, air & body & ~room


def _airways(hu: Values, air: Mask, lattice: _Lattice) -> Mask:
    """Trachea and main bronchi with their walls: the wide dark tree that reaches highest, where it does not leak."""
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(hu, [0.7 / s for s in lattice.steps])
    for limit in LUMEN:
        groups, sizes = components(eroded(air & (smooth < limit), lattice.steps, MAIN_RADIUS))
        boxes = ndimage.find_objects(groups)
        possible = [
            n
            for n, box in enumerate(boxes)
            if lattice.height(box) >= TALLEST_START and sizes[n] * math.prod(lattice.steps) <= LARGEST_AIRWAY
        ]
        if possible:
            tree = groups == 1 + max(possible, key=lambda n: lattice.top(boxes[n]))
            return dilated(tree, lattice.steps, MAIN_RADIUS + WALL)
    return np.zeros_like(air)


def _sides(hu: Values, air: Mask, body: Mask, lattice: _Lattice) -> dict[int, Mask]:
    """{label: lung}, of what is left of the air."""
    groups, sizes = components(air)
    large = [n for n in np.argsort(-sizes) if sizes[n] * math.prod(lattice.steps) >= SMALLEST]
    parts = [groups == n + 1 for n in large]
    parts = _high([part for part in parts if np.median(hu[part]) > GAS], lattice)
    parts = [piece for part in parts for piece in _parted(part, lattice)]
    if not parts:
        return {}
    places = [lattice.x(part) for part in parts]
    weights = [np.count_nonzero(part) for part in parts]
    middle = (max(places) + min(places)) / 2
    if max(places) - min(places) < APART:
        middle = lattice.x(body)
    else:  # of the two largest that lie apart, so that a small piece does not shift it
        first = int(np.argmax(weights))
        far = [n for n in range(len(parts)) if abs(places[n] - places[first]) >= APART]
        if far:
            middle = (places[first] + places[max(far, key=lambda n: weights[n])]) / 2
    sides = {}
    for part, place in zip(parts, places, strict=True):
        label = 1 if place > middle else 2
        sides[label] = sides.get(label, np.zeros_like(part)) | part
    return sides


def _high(parts: list[Mask], lattice: _Lattice) -> list[Mask]:
    """Without those that lie wholly below the middle of the highest: stool and gas in the bowel look like lung."""
    from scipy import ndimage

    boxes = [ndimage.find_objects(part.astype(np.uint8))[0] for part in parts]
    if not boxes:
        return []
    highest = max(boxes, key=lattice.top)
    middle = lattice.top(highest) - (highest[lattice.up].stop - highest[lattice.up].start) / 2
    return [part for part, box in zip(parts, boxes, strict=True) if lattice.top(box) >= middle]


def _parted(part: Mask, lattice: _Lattice) -> list[Mask]:
    """Two lungs that touch, cut where the bridge between them is thinnest; one lung as it is."""

    extent = max(abs(r) * (np.ptp(where) + 1) for r, where in zip(lattice.right, np.nonzero(part), strict=True))
    if extent < 2.5 * APART:
        return [part]
    for radius in SEPARATIONS:
        cores, sizes = components(eroded(part, lattice.steps, radius))
        if len(sizes) < 2:
            continue
        first, second = (cores == n + 1 for n in np.argsort(-sizes)[:2])
        if np.sort(sizes)[-2] < 0.2 * sizes.max() or abs(lattice.x(first) - lattice.x(second)) < APART:
            continue
        return _grown(part, first, second)
    return [part]


def _grown(part: Mask, first: Mask, second: Mask) -> list[Mask]:
    """Both cores grown inside the part, a voxel at a time in turn, until they meet: half-way through the bridge."""
    from scipy import ndimage

    box = ndimage.find_objects(part.astype(np.uint8))[0]
    inside, cores, count = part[box], [first[box].copy(), second[box].copy()], 0
    while count < (count := sum(np.count_nonzero(core) for core in cores)):
        for n in range(2):
            wider = cores[n].copy()
            for axis in range(3):
                to, of = np.moveaxis(wider, axis, 0), np.moveaxis(cores[n], axis, 0)
                to[1:] |= of[:-1]
                to[:-1] |= of[1:]
            cores[n] = wider & inside & ~cores[1 - n]
    halves = [np.zeros_like(part), np.zeros_like(part)]
    for core, half in zip(cores, halves, strict=True):
        half[box] = core
    return halves
