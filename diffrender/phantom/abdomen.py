"""The organs of belly and pelvis, and the muscles that CTs tell apart."""

import numpy as np

from diffrender.phantom.patient import BELLY, CAGE, FAT, GAS, LEFT, RIGHT, Part, dome, side_name, spine
from diffrender.phantom.solids import Array, Solid, column, ellipsoid, plate, tube


def abdomen() -> list[Part]:
    cage = column(CAGE)
    belly = column(BELLY)

    def under_the_dome(side: int, solid: Solid) -> Solid:
        def distance(x: Array, y: Array, z: Array) -> Array:
            room = np.minimum(cage.distance(x, y, z) + 10, belly.distance(x, y, z) + 3)
            return np.maximum(np.maximum(solid.distance(x, y, z), room), (z + 5 - dome(side, x, y)) * 0.8)

        return Solid(solid.low, solid.high, distance)

    liver = [ellipsoid((68, 2, 22), (86, 96, 78), (0.25, 0, 1)), ellipsoid((2, 38, 40), (62, 42, 36), (0.4, 0, 1))]
    colon = [(98, 8, -168), (104, 2, -120), (106, 0, -55), (84, 34, -42), (40, 62, -58), (-10, 70, -70), (-62, 56, -42)]
    colon += [(-104, 10, -12), (-112, -18, -50), (-110, -18, -120), (-96, -2, -168), (-58, 14, -196), (-20, -14, -190)]
    colon += [(4, -40, -212), (0, -58, -240), (-1, -50, -282)]
    loops = [
        (
            68 * _wave(0.37 * n + 0.1) + 4 * (n % 2),
            22 + 30 * _wave(0.23 * n + 0.4),
            -62 - 2.9 * n + 14 * _wave(0.29 * n),
        )
        for n in range(44)
    ]
    gas = [
        ((34, 73, -55), (14, 8, 8)),
        ((-40, 71, -60), (17, 7, 9)),
        ((101, 14, -88), (9, 8, 16)),
        ((-62, 24, -193), (14, 7, 8)),
    ]
    gas += [
        ((18, 48, -108), (9, 6, 7)),
        ((-30, 50, -128), (10, 6, 6)),
        ((0, -46, -246), (10, 7, 13)),
        ((-110, -9, -92), (7, 7, 15)),
    ]
    kidneys = [("right", (60, -44, -52), (-0.22, 0.12, 1)), ("left", (-62, -46, -34), (0.22, 0.12, 1))]
    stomach = [ellipsoid((-70, 22, 32), (42, 44, 50), (0.3, -0.2, 1)), ellipsoid((-30, 42, -8), (44, 24, 26))]
    spleen = ellipsoid((-106, -38, 24), (25, 42, 52), (-0.2, -0.3, 1))
    portal_vein = tube([(8, 4, 10), (34, 8, 18), (72, 6, 30)], [7, 6, 3.5])
    pancreas = tube([(30, 22, -34), (14, 24, -14), (-22, 16, -4), (-74, -14, 10)], [14, 11, 10, 8])
    colon_radii = [25, 26, 25, 22, 20, 20, 20, 20, 18, 16, 15, 14, 14, 15, 17, 12]
    return [
        Part([under_the_dome(RIGHT, s) for s in liver], ((0, 58, 7),), "liver"),
        Part(portal_vein, ((0, 105, 8),), None, ("liver",)),
        Part([ellipsoid((48, 48, -22), (13, 15, 27), (0.3, 0.4, 1))], ((0, 14, 4),), "gallbladder"),
        Part([under_the_dome(LEFT, spleen)], ((0, 51, 7),), "spleen"),
        Part([under_the_dome(LEFT, s) for s in stomach], ((0, 42, 9), (4, 24, 12)), "stomach"),
        Part([under_the_dome(LEFT, ellipsoid((-72, 40, 44), (30, 22, 26)))], GAS, "stomach", ("stomach",)),
        Part(pancreas, ((0, 40, 10),), "pancreas"),
        *(Part([ellipsoid(c, (25, 24, 54), a)], ((0, 46, 8), (13, 22, 8)), f"kidney_{side}") for side, c, a in kidneys),
        Part(tube(loops, 12.5), ((0, 46, 9), (4, 24, 16)), "small_bowel"),
        Part(tube(colon, colon_radii), ((0, 40, 8), (3.5, 8, 55)), "colon"),
        Part([ellipsoid(c, r) for c, r in gas], GAS, None, ("colon", "small_bowel")),
    ]


def _wave(turns: float) -> float:
    """A smooth periodic curve between -1 and 1, of sums and products alone."""
    t = turns % 1.0
    return 16 * t * (0.5 - t) if t < 0.5 else -16 * (t - 0.5) * (1 - t)


def bladder() -> list[Part]:
    return [Part([ellipsoid((4, 8, -256), (40, 33, 27), (0, 0.25, 1))], ((0, 35, 6), (4, 9, 4)), "urinary_bladder")]


def muscles() -> list[Part]:
    parts = []
    for s in (RIGHT, LEFT):
        psoas = [
            (s * 22 + spine(-10)[0], spine(-10)[1] - 4, -10),
            (s * 42, -26, -100),
            (s * 62, -4, -175),
            (s * 80, 36, -232),
            (s * 104, -8, -318),
        ]
        parts.append(Part(tube(psoas, [9, 20, 23, 19, 10]), ((0, 56, 8),), f"iliopsoas_{side_name(s)}"))
        iliacus = plate([(s * 70, -20, -170), (s * 104, 34, -160), (s * 82, 36, -222)], 9)
        parts.append(Part([iliacus], ((0, 56, 8),), f"iliopsoas_{side_name(s)}"))
        # Fat between the buttock's muscles, seen in every CT.
        parts.append(Part([plate([(s * 60, -98, -200), (s * 125, -70, -215), (s * 100, -80, -290)], 2.5)], FAT))
    return parts
