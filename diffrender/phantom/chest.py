"""Lungs, heart, airways and great vessels."""

import math
from collections.abc import Sequence

import numpy as np

from diffrender.phantom.patient import (
    BLOOD,
    CAGE,
    CORTEX_THIN,
    FAT,
    GAS,
    LEFT,
    LUNGS,
    RIGHT,
    VEIN,
    Part,
    dome,
    side_name,
    spine,
    spine_half_width,
    spine_x,
    spine_y,
)
from diffrender.phantom.solids import Array, Solid, capsule, column, ellipsoid, smooth, tube

# What lies between the lungs, by height: its middle and its half width [mm].
_between_x = smooth([40, 110, 150, 180, 205, 240, 265], [-10, -9, -2, -5, -2, 3, 3])
_between_width = smooth([30, 80, 125, 150, 172, 190, 208, 235, 265], [22, 20, 22, 31, 33, 33, 27, 25, 18])


def chest(seed: int) -> list[Part]:
    cage = column(CAGE)
    heart = [
        ellipsoid((-34, 24, 98), (44, 40, 62), (-0.72, 0.42, -0.55)),  # ventricles, apex to the left, front and below
        ellipsoid((27, 12, 110), (26, 29, 36)),  # right atrium
        ellipsoid((-6, -17, 124), (34, 20, 24)),  # left atrium
        ellipsoid((-16, 32, 138), (24, 18, 26)),  # outflow
    ]
    left_pools = [ellipsoid((-44, 16, 98), (22, 20, 44), (-0.72, 0.42, -0.55)), ellipsoid((-6, -17, 124), (29, 16, 20))]
    right_pools = [ellipsoid((30, 12, 112), (20, 22, 29)), ellipsoid((-14, 42, 104), (15, 13, 38), (-0.7, 0.3, -0.6))]
    bronchi = tube([(3, -14, 184), (24, -16, 164), (46, -18, 150)], [8, 7.5, 6])
    bronchi += tube([(3, -14, 184), (-28, -20, 160), (-50, -24, 148)], [8, 6.5, 5.5])
    gullet = [(-2, -18, 280), (0, -27, 200), (-4, -28, 140), (-14, -14, 88), (-26, -4, 66)]
    return [
        Part([Solid(cage.low, cage.high, lambda x, y, z: cage.distance(x, y, z) + 7)], FAT),
        *(Part([_lung(s, cage, heart)], ((0, -855, 22),), f"lung_upper_lobe_{side_name(s)}") for s in (RIGHT, LEFT)),
        *_lobes(),
        *_lung_vessels(seed),
        Part(heart, ((0, 48, 8),), "heart"),
        Part(left_pools, BLOOD, "heart"),
        Part(right_pools, VEIN, "heart"),
        Part(tube([(4, -2, 300), (5, -6, 240), (3, -14, 184)], 9.5), GAS, "trachea"),
        Part(bronchi, GAS, ""),
        Part(tube(gullet, 7.5), ((0, 32, 9),), "esophagus"),
        Part(_sternum(), CORTEX_THIN, "sternum"),
    ]


def _lung(side: int, cage: Solid, heart: Sequence[Solid]) -> Solid:
    def distance(x: Array, y: Array, z: Array) -> Array:
        from_spine = x - spine_x(z)
        kept = np.sqrt(from_spine**2 + np.maximum(y - spine_y(z), 0) ** 2) - spine_half_width(z) - 8
        # Between the lungs: the great vessels above, gullet and aorta behind the heart; in front they nearly touch.
        narrowing = np.maximum(y - 34, 0) * 0.8 + np.maximum(-40 - y, 0) * 1.5
        kept = np.minimum(kept, np.abs(x - _between_x(z)) - _between_width(z) + narrowing)
        for chamber in heart:
            kept = np.minimum(kept, chamber.distance(x, y, z) - 4)
        inside = np.maximum(cage.distance(x, y, z) + 9, (dome(side, x, y) - z) * 0.8)
        return np.maximum(np.maximum(inside, -kept), 1 - side * from_spine)

    low_x, high_x = (-12.0, cage.high[0]) if side == RIGHT else (cage.low[0], 24.0)
    return Solid((low_x, *cage.low[1:]), (high_x, *cage.high[1:]), distance)


def _lobes() -> list[Part]:
    """The oblique fissures, from high behind to low in front, and the horizontal one of the right lung."""

    def half(side: int, slope: float, height: float, name: str, only: str) -> Part:
        low_x, high_x = (-12.0, 200.0) if side == RIGHT else (-200.0, 30.0)
        solid = Solid((low_x, -130, -60), (high_x, 130, 270), lambda x, y, z: (z - height + slope * y) * 0.7 + 0 * x)
        return Part([solid], (), f"{name}_{side_name(side)}", (f"{only}_{side_name(side)}",))

    return [
        half(RIGHT, 1.15, 122, "lung_lower_lobe", "lung_upper_lobe"),
        half(RIGHT, 0.0, 143, "lung_middle_lobe", "lung_upper_lobe"),
        half(LEFT, 1.25, 126, "lung_lower_lobe", "lung_upper_lobe"),
    ]


def _lung_vessels(seed: int) -> list[Part]:
    """A tree from each hilum, every branch forking into two thinner ones; it ends where the lung does."""
    random = np.random.RandomState(seed)  # of all of numpy's, the one whose numbers never change
    rods: list[Solid] = []

    def grow(start: list[float], direction: list[float], radius: float, length: float) -> None:
        end = [p + length * d for p, d in zip(start, direction, strict=True)]
        rods.append(capsule(start, end, radius, radius * 0.8))
        if radius > 1.3:
            for turn in (random.uniform(-0.55, 0.55, 3), random.uniform(-0.55, 0.55, 3)):
                bent = [d + t for d, t in zip(direction, turn.tolist(), strict=True)]
                norm = math.sqrt(sum(b * b for b in bent))
                grow(end, [b / norm for b in bent], radius * 0.8, length * 0.86)

    for side, hilum in ((RIGHT, [50.0, -16.0, 142.0]), (LEFT, [-56.0, -20.0, 146.0])):
        for direction in (
            (0.5, 0.2, 0.85),
            (0.8, 0.5, 0.2),
            (0.75, -0.5, 0.1),
            (0.55, 0.5, -0.65),
            (0.6, -0.35, -0.7),
            (0.3, -0.3, 0.9),
        ):
            grow(hilum, [side * direction[0], *direction[1:]], 4.6, 26.0)
    hila = [ellipsoid((50, -14, 142), (13, 13, 22)), ellipsoid((-56, -18, 148), (13, 13, 20))]
    return [Part(hila, VEIN, "pulmonary_vein", LUNGS), Part(rods, ((0, 70, 15),), None, LUNGS)]


def _sternum() -> list[Solid]:
    wide = (0.3, 1, 1)  # a flat bone: 0.3 makes its half width 3.3 times its half thickness
    return [
        *tube([(1, 42, 232), (1, 54, 206), (1, 61, 192)], [7.0, 6.5, 5.2], wide),
        *tube([(1, 62, 189), (2, 76, 150), (2, 86, 104)], [5.0, 5.6, 5.4], wide),
        *tube([(2, 86, 101), (3, 86, 80)], [3.5, 2.2], wide),
    ]


def great_vessels() -> list[Part]:
    descending = [(-24 + spine(z)[0], spine(z)[1] + 12, z) for z in (172, 140, 100, 60)]
    lumbar = [(-10 + spine(z)[0], spine(z)[1] + 27, z) for z in (20, -30, -80, -112)]
    aorta = [(6, 20, 132), (14, 24, 162), (10, 14, 190), (-6, -10, 204), (-20, -32, 196), *descending, *lumbar]
    cava = [(14 + spine(z)[0], spine(z)[1] + 27, z) for z in (-118, -70, -20)] + [(30, -6, 40), (28, 2, 92)]
    trunk = [
        *tube([(-18, 36, 138), (-22, 18, 160), (-44, -12, 156)], [15, 14, 11]),
        *tube([(-18, 10, 160), (16, -6, 152), (44, -12, 148)], [12, 11, 10]),
    ]
    neck = [
        *tube([(4, 4, 202), (20, 4, 235), (30, -8, 262), (32, -8, 300)], 6),
        *tube([(-8, -8, 204), (-24, -6, 240), (-28, -10, 300)], 5),
    ]
    parts = [
        Part(trunk, VEIN, "pulmonary_vein"),
        Part(tube([(27, 14, 128), (26, 14, 180), (24, 20, 226)], [11, 10, 8]), VEIN, "superior_vena_cava"),
        Part(tube(aorta, [16, 16, 15, 14, 13.5, 13, 12.5, 12, 11.5, 10.5, 10, 9.5, 9]), BLOOD, "aorta"),
        Part(tube(cava, 11), VEIN, "inferior_vena_cava"),
        Part(neck, BLOOD, ""),
    ]
    for s in (RIGHT, LEFT):
        fork = lumbar[-1]
        iliac = [fork, (s * 34, 2, -156), (s * 56, 8, -200), (s * 74, 56, -248), (s * 82, 54, -300), (s * 84, 44, -420)]
        parts.append(Part(tube(iliac, [7, 6, 5.5, 5.5, 5, 4.5]), BLOOD, f"iliac_artery_{side_name(s)}"))
    return parts
