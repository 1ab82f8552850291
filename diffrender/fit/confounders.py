"""Soft tissue of a simulated patient, told by quadrics whose chords are exact: torso, thighs, fat, lumps, gas, a tool.

Everything is random within what people look like, and belongs to the generator that is passed in.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.random import Generator

TORSO_HALF_WIDTH = (28.0, 60.0)  # beyond the hips, each side [mm]
TORSO_HALF_DEPTH = (100.0, 132.0)
FAT = (10.0, 32.0)
BUBBLES, LOOPS, LUMPS = (20, 45), (2, 7), (8, 14)  # how many: in the rectum, in the bowel above, muscles and fat planes


@dataclass(frozen=True)
class Quadric:
    """An ellipsoid, or an endless elliptic cylinder along its third axis, cut off by a plane if asked.

    Attributes:
        centre: RAS [mm].
        axes: rows are the unit axes, RAS.
        radii: along each axis [mm]; inf for the third makes it a cylinder.
        above: (normal (3,), offset): only where normal . x >= offset; None for all of it.
    """

    centre: Float[np.ndarray, "3"]
    axes: Float[np.ndarray, "3 3"]
    radii: tuple[float, float, float]
    above: tuple[Float[np.ndarray, "3"], float] | None = None

    def chord(
        self, source: Float[np.ndarray, "3"], directions: Float[np.ndarray, "3 ray"]
    ) -> tuple[Float[np.ndarray, "ray"], Float[np.ndarray, "ray"]]:
        """Where each ray enters and leaves, from the source [mm]; the same place twice where it misses."""
        scale = self.axes / np.array(self.radii)[:, None]  # a row of zeros for the endless axis
        start, metric = scale @ (source - self.centre), scale.T @ scale
        a = sum(metric[n, m] * directions[n] * directions[m] * (1 + (n != m)) for n in range(3) for m in range(n, 3))
        half = _along(directions, start @ scale)
        root = half * half - a * (start @ start - 1)
        met = root > 0
        middle, reach = -half / a, np.sqrt(np.where(met, root, 0)) / a
        first, last = middle - reach, middle + reach
        if self.above is not None:
            normal, offset = self.above
            slope = _along(directions, normal)
            crossing = (offset - normal @ source) / np.where(slope == 0, 1e-12, slope)
            first = np.where(slope > 0, np.maximum(first, crossing), first)
            last = np.where(slope > 0, last, np.minimum(last, crossing))
        met &= last > first
        return np.where(met, first, middle), np.where(met, last, middle)

    def near(self, source: Float[np.ndarray, "3"], directions: Float[np.ndarray, "3 ray"]) -> Bool[np.ndarray, "ray"]:
        """Which rays meet the ball around it; all of them where it is endless."""
        if not np.isfinite(self.radii).all():
            return np.ones(directions.shape[1], dtype=bool)
        offset = self.centre - source
        along = _along(directions, offset)
        return offset @ offset - along * along < max(self.radii) ** 2

    def holds(self, points: Float[np.ndarray, "*n 3"]) -> Bool[np.ndarray, "*n"]:
        """Whether points, RAS [mm], lie inside."""
        scale = self.axes / np.array(self.radii)[:, None]
        inside = (((points - self.centre) @ scale.T) ** 2).sum(-1) < 1
        return np.asarray(inside if self.above is None else inside & (points @ self.above[0] >= self.above[1]))


def length_in_any(
    solids: Sequence[Quadric], source: Float[np.ndarray, "3"], directions: Float[np.ndarray, "3 ray"]
) -> Float[np.ndarray, "ray"]:
    """How far each ray (unit directions) runs inside any of the solids [mm]: what several share counts once."""
    lengths = np.zeros(directions.shape[1])
    near = [solid.near(source, directions) for solid in solids]
    some = np.flatnonzero(np.any(near, axis=0)) if solids else np.zeros(0, dtype=int)
    if not len(some):
        return lengths
    first, last = np.zeros((2, len(solids), len(some)))
    for n, solid in enumerate(solids):
        here = near[n][some]
        first[n, here], last[n, here] = solid.chord(source, directions[:, some[here]])
    order = np.argsort(first, axis=0)
    first, last = np.take_along_axis(first, order, 0), np.take_along_axis(last, order, 0)
    so_far = np.maximum.accumulate(np.concatenate([first[:1], last[:-1]]), axis=0)
    lengths[some] = np.maximum(last - np.maximum(first, so_far), 0).sum(0)
    return lengths


def _along(directions: Float[np.ndarray, "3 ray"], vector: Float[np.ndarray, "3"]) -> Float[np.ndarray, "ray"]:
    # Three products, not a matrix's: a library of matrices puts several threads on it, and they wait for each other.
    return directions[0] * vector[0] + directions[1] * vector[1] + directions[2] * vector[2]


@dataclass(frozen=True)
class Anatomy:
    """What the soft parts and the neighbouring bones are placed by.

    Attributes:
        heads: centres of the femoral heads, left and right (2, 3), RAS [mm].
        head_radius: [mm].
        axes: rows: the patient's right, front and head, unit, RAS.
        base: middle of the sacrum's upper end plate, RAS [mm]; `up` its normal.
        half_width: of the pelvis [mm].
    """

    heads: Float[np.ndarray, "2 3"]
    head_radius: float
    axes: Float[np.ndarray, "3 3"]
    base: Float[np.ndarray, "3"]
    up: Float[np.ndarray, "3"]
    half_width: float

    @property
    def origin(self) -> Float[np.ndarray, "3"]:
        """Midway between the femoral heads."""
        return self.heads.mean(0)

    def at(self, right: float, front: float, up: float) -> Float[np.ndarray, "3"]:
        """A place relative to the origin, along the patient's axes."""
        return self.origin + np.array([right, front, up]) @ self.axes


@dataclass(frozen=True)
class SoftTissue:
    """Skin's outline, what lies under the fat, lumps (each with its share of the step from muscle to fat), gas."""

    outer: list[Quadric]
    inner: list[Quadric]
    lumps: list[tuple[Quadric, float]]
    gas: list[Quadric]


def soft_tissue(anatomy: Anatomy, random: Generator) -> SoftTissue:
    """A torso around the pelvis, with thighs, muscles and gas. The torso is elliptic and ends between the thighs."""
    half_width = anatomy.half_width + random.uniform(*TORSO_HALF_WIDTH)
    half_depth, fat = random.uniform(*TORSO_HALF_DEPTH), random.uniform(*FAT)
    back, bottom = random.uniform(-32, -12), random.uniform(105, 135)
    apart, thigh = random.uniform(1.02, 1.15), random.uniform(0.42, 0.47) * half_width
    middle, head = anatomy.at(0, back, 0), anatomy.axes[2]

    def bodies(less: float) -> list[Quadric]:
        a, b = half_width - less, half_depth - less
        trunk = Quadric(middle, anatomy.axes, (a, b, np.inf), (head, float(head @ middle)))
        seat = Quadric(middle, anatomy.axes, (a, b, bottom - less))
        legs = [
            Quadric(
                anatomy.at(side * apart * half_width / 2, back + 6, -250),
                anatomy.axes,
                (thigh - less, thigh * 1.05 - less, 330 - less),
            )
            for side in (-1, 1)
        ]
        return [trunk, seat, *legs]

    inner, lumps = bodies(fat), _lumps(anatomy, half_width - fat, random)
    gas = [bubble for bubble in _gas(anatomy, random) if any(solid.holds(bubble.centre) for solid in inner)]
    return SoftTissue(bodies(0), inner, lumps, gas)


def tool(anatomy: Anatomy, random: Generator) -> Quadric:
    """A thin metal rod somewhere before the pelvis, as a wire or a drill is."""
    along = _turn(random) @ np.array([0.8, 0.1, 0.6])
    axes = np.stack([*_across(along / np.linalg.norm(along)), along / np.linalg.norm(along)])
    at = anatomy.at(random.uniform(-70, 70), 120, random.uniform(-20, 100))
    return Quadric(at, axes, (2.0, 2.0, random.uniform(60, 120)))


def _lumps(anatomy: Anatomy, half_width: float, random: Generator) -> list[tuple[Quadric, float]]:
    made = []
    for _ in range(random.integers(*LUMPS)):
        place = anatomy.at(random.uniform(-0.7, 0.7) * half_width, random.uniform(-70, 40), random.uniform(-90, 150))
        radii = random.uniform(18, 55, 3)
        made.append((Quadric(place, _turn(random), tuple(radii.tolist())), float(random.uniform(-0.2, 0.6))))
    return made


def _gas(anatomy: Anatomy, random: Generator) -> list[Quadric]:
    made = []
    for _ in range(random.integers(*BUBBLES)):  # mottled: gas between stool, in rectum and sigmoid
        place = anatomy.at(random.normal(0, 25), random.normal(-38, 12), random.normal(42, 28))
        made.append(Quadric(place, _turn(random), tuple(random.uniform(2.5, 9, 3).tolist())))
    for _ in range(random.integers(*LOOPS)):
        place = anatomy.at(random.uniform(-110, 110), random.uniform(10, 60), random.uniform(70, 190))
        radii = (random.uniform(7, 13), random.uniform(7, 13), random.uniform(12, 38))
        made.append(Quadric(place, _turn(random), radii))
    return made


def _turn(random: Generator) -> Float[np.ndarray, "3 3"]:
    """Any rotation, each as likely as the other. Source: Shoemake, Graphics Gems III (1992) 124."""
    w, x, y, z = (q := random.normal(size=4)) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _across(along: Float[np.ndarray, "3"]) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    helper = np.eye(3)[np.abs(along).argmin()]
    first = np.cross(helper, along)
    first /= np.linalg.norm(first)
    return first, np.cross(along, first)
