"""Spine, sacrum, shoulders, hips and ribs."""

import math

import numpy as np

from diffrender.phantom.patient import (
    CAGE,
    CORTEX,
    CORTEX_THIN,
    LEFT,
    RIB,
    RIGHT,
    TOP_OF_T1,
    Part,
    levels,
    side_name,
    spine,
    spine_half_width,
)
from diffrender.phantom.solids import Array, Point, Solid, capsule, column, drum, ellipsoid, plate, smooth, tube


def vertebrae() -> list[Part]:
    rows = levels()
    canal = [(spine(z)[0], spine(z)[1] - _canal_depth(z), z) for z in range(300, -170, -15)]
    bodies = [spine(row[1]) for row in rows]
    discs = []
    for above, below, a, b in zip(rows, rows[1:], bodies, bodies[1:], strict=False):
        middle = [(p * below[2] + q * above[2]) / (above[2] + below[2]) for p, q in zip(a, b, strict=True)]
        discs.append(drum(middle, [p - q for p, q in zip(a, b, strict=True)], above[3] - 1, above[4] - 1, 6.5))
    neck = [drum((2, -20, z), (0, 0.1, 1), 13, 9.5, 7) for z in (281, 299)]
    parts = [Part(discs, ((0, 85, 10),)), Part(neck, CORTEX_THIN)]
    parts += [Part([*_vertebra(*row)], CORTEX_THIN, row[0]) for row in rows]
    return [*parts, Part(tube(canal, 8), ((0, 25, 5),), ""), Part(tube(canal, 5), ((0, 38, 4),), "spinal_cord")]


def _canal_depth(z: float) -> float:
    """From the middle of a vertebral body back to the middle of the spinal canal [mm]."""
    return 10.5 + 7 * (TOP_OF_T1 - z) / 430 + 8


def _vertebra(name: str, z: float, height: float, half_width: float, half_depth: float) -> list[Solid]:
    x, y, _ = spine(z)
    up = [p - q for p, q in zip(spine(z + 8), spine(z - 8), strict=True)]
    lumbar = name.startswith("vertebrae_L")
    back = y - half_depth

    def at(side: float, behind: float, above: float) -> Point:
        """A place in the vertebra's own frame, which tilts with the spine."""
        return (x + side + above * up[0] / 16, back - behind + above * up[1] / 16, z + above - behind * -up[1] / 16)

    reach, droop, length = (38, -2, 30) if lumbar else (29, 2, 20)
    solids = [drum((x, y, z), up, half_width, half_depth, height / 2)]
    for s in (RIGHT, LEFT):
        solids += tube([at(s * half_width * 0.62, -3, 4), at(s * half_width * 0.68, 12, 3)], [5.2, 4.6])  # pedicle
        solids += tube([at(s * half_width * 0.68, 14, 2), at(s * 3, 23, -5)], [4.5, 3.8])  # lamina
        solids += tube([at(s * half_width * 0.72, 14, 2), at(s * reach, 18 if lumbar else 24, droop)], [4.6, 3.6])
        solids += tube([at(s * half_width * 0.8, 17, 11), at(s * half_width * 0.7, 18, -13)], [4.6, 4.8])  # facets
    tip = at(0, 24 + length * (1.0 if lumbar else 0.75), -8 if lumbar else -16)
    return [*solids, *tube([at(0, 23, -4), tip], [3.2, 3.8], (1, 1, 0.5 if lumbar else 0.8))]


def sacrum() -> list[Part]:
    rows = [(-282, 5, -64, -72), (-268, 9, -68, -80), (-256, 15, -72, -88), (-240, 30, -76, -98), (-220, 40, -68, -100)]
    rows += [
        (-200, 47, -54, -92),
        (-187, 52, -42, -82),
        (-178, 49, -34, -74),
        (-171, 38, -29, -64),
        (-166, 24, -26, -58),
    ]
    holes = [
        capsule((s * x, front + 4, z), (s * x, front - 30, z - 6), 4.4, 4.0)
        for s in (RIGHT, LEFT)
        for x, front, z in ((25, -50, -190), (21, -62, -206), (17, -72, -221), (14, -78, -234))
    ]
    crest = tube([(0, -80, -176), (0, -98, -205), (0, -100, -235)], [5, 5, 4])
    canal = tube([(1, -58, -160), (0, -72, -185), (0, -86, -215), (0, -88, -240)], [8, 7, 5, 3])
    return [Part([column(rows, 0.75), *crest], CORTEX_THIN, "sacrum"), Part([*holes, *canal], ((0, 5, 8),), "")]


def shoulder(side: int) -> list[Part]:
    s, name = side, side_name(side)
    low = 4 if side == LEFT else 0  # one shoulder hangs lower
    clavicle = [
        (s * 15, 44, 232),
        (s * 48, 50, 243 - low),
        (s * 90, 26, 256 - low),
        (s * 128, -6, 266 - low),
        (s * 156, -14, 267 - low),
    ]
    humerus = tube([(s * 176, -10, 244 - low), (s * 196, -2, 272 - low), (s * 228, 14, 330)], [19, 13, 12])
    blade = [(s * 72, -96, 222), (s * 112, -92, 116), (s * 144, -30, 226 - low)]
    spine_of_it = [(s * 76, -102, 214), (s * 118, -84, 238), (s * 156, -44, 262 - low), (s * 166, -16, 268 - low)]
    scapula = [
        plate(blade, 2.8),
        plate([blade[0], blade[2], (s * 92, -78, 244)], 2.8),
        *tube(spine_of_it, [4.5, 5.5, 6, 6.5]),
        *tube([blade[1], (s * 138, -48, 206)], [4.5, 5.5]),
        *tube([blade[0], blade[1]], 3.6),
        ellipsoid((s * 146, -24, 228 - low), (9, 13, 19), (s * 0.2, 0, 1)),
        *tube([(s * 138, -18, 240 - low), (s * 136, 10, 246 - low), (s * 146, 22, 238 - low)], [7, 5.5, 5]),
    ]
    return [
        Part(scapula, CORTEX_THIN, f"scapula_{name}"),
        Part([ellipsoid((s * 172, -12, 236 - low), (24, 24, 24)), *humerus], CORTEX, f"humerus_{name}"),
        Part(tube(clavicle, [9, 6.5, 6, 6.5, 8]), CORTEX, f"clavicula_{name}"),
    ]


def hip(side: int) -> list[Part]:
    """The hip bone, put together of plates and rods between its landmarks, and the upper femur."""
    name = side_name(side)

    def at(x: float, y: float, z: float) -> Point:
        """A landmark of the right side, or of the left one, which is a little wider, further forward and lower."""
        return (x, y, z) if side == RIGHT else (-1.02 * x - 1, y + 2, z - 3.5)

    crest = [
        at(46, -88, -182),
        at(54, -84, -160),
        (at(72, -66, -131)),
        at(96, -34, -113),
        at(120, 2, -114),
        at(134, 30, -132),
        at(128, 52, -160),
    ]
    front = [crest[-1], at(116, 50, -182), at(108, 44, -208), at(100, 30, -226)]
    notch = [at(50, -84, -196), at(66, -56, -214), at(80, -28, -222)]
    bowl = at(109, -3, -166)
    rim = [*crest, *front[1:], *reversed(notch)]
    wing = [plate([bowl, rim[n], rim[(n + 1) % len(rim)]], 3.0) for n in range(len(rim))]
    head = at(91, 12, -254)
    ilium = [
        *tube(crest, [7, 6.5, 6, 5.5, 6, 6.5, 6]),
        *tube(front, [6, 5, 7, 10]),
        *tube([at(52, -64, -186), at(66, -48, -203), at(75, -24, -216), at(84, 4, -228)], [8, 7, 7.5, 11]),
    ]
    pubis = [
        *tube([at(78, 26, -240), at(44, 48, -254), at(17, 54, -264)], [10, 7.5, 8]),
        ellipsoid(at(14, 53, -277), (9, 8, 19), (0.2 * side, -0.3, 1)),
    ]
    ischium = [
        *tube([at(84, -16, -262), at(70, -30, -292), at(58, -26, -318)], [15, 13, 14]),
        *tube([at(78, -32, -250), at(64, -46, -256)], [8, 4]),
    ]
    ramus = tube([at(15, 50, -290), at(34, 22, -314), at(54, -16, -326)], [7, 6.5, 9])
    neck = tube([head, at(116, 4, -277), at(132, -2, -294)], [15, 15, 17])
    shaft = tube([at(132, -2, -294), at(128, 0, -330), at(122, 4, -430)], [18, 15.5, 14.5])
    femur = [
        ellipsoid(head, (24.5, 24.5, 24.5)),
        *neck,
        *shaft,
        ellipsoid(at(146, -8, -284), (14, 17, 22), (-0.3 * side, 0, 1)),
    ]
    return [
        Part([*wing, *ilium, _socket(head, side), *pubis, *ischium, *ramus], CORTEX, f"hip_{name}"),
        Part([ellipsoid(head, (27, 27, 27))], ((0, 25, 5),), ""),  # cartilage and joint
        Part([*femur, *tube([at(120, -16, -322), at(112, -22, -326)], [10, 8])], CORTEX, f"femur_{name}"),
        Part([capsule(at(127, 1, -345), at(122, 4, -430), 9, 9.5)], ((0, 15, 15),), f"femur_{name}"),
    ]


def _socket(head: Point, side: int) -> Solid:
    """The cup of the acetabulum: a shell around the head, open to the side, the front and below."""
    opening = (side * 0.76, 0.3, -0.57)

    def distance(x: Array, y: Array, z: Array) -> Array:
        p = (x - head[0], y - head[1], z - head[2])
        ahead = p[0] * opening[0] + p[1] * opening[1] + p[2] * opening[2]
        return np.maximum(np.sqrt(p[0] ** 2 + p[1] ** 2 + p[2] ** 2) - 32, ahead - 7)

    x, y, z = head
    return Solid((x - 32, y - 32, z - 32), (x + 32, y + 32, z + 32), distance)


# Of ribs 1 to 12: z of the head, of the front end of the bone, angle of that end from the back [degrees], and z where
# its cartilage meets the sternum or the margin of the cage (0: it ends free).
_RIBS = (
    (266, 238, 138, 226),
    (251, 204, 144, 196),
    (232, 174, 145, 175),
    (213, 148, 144, 157),
    (193, 122, 141, 140),
    (172, 96, 136, 122),
    (150, 69, 130, 104),
    (128, 45, 122, 90),
    (106, 23, 113, 66),
    (83, 3, 104, 42),
    (58, -14, 82, 0),
    (32, -12, 56, 0),
)
_cage_rows = [smooth([row[0] for row in CAGE], [row[n] for row in CAGE]) for n in range(1, 5)]


def ribs() -> list[Part]:
    bones, cartilage = [], []
    for s in (RIGHT, LEFT):
        for n, (start, end, last, joins) in enumerate(_RIBS, 1):
            low = 3 * (s == LEFT)
            x, y, _ = spine(start)
            width = float(spine_half_width(start))
            angles = np.linspace(26, last, 15)
            curve = [
                _on_cage(s, a, start + (end - start) * ((a - 26) / (last - 26)) ** 1.2 - low) for a in angles.tolist()
            ]
            path = [(x + s * (width - 1), y - 7, start), (x + s * (width + 14), y - 25, start + 1), *curve]
            bones.append(
                Part(tube(path, [5.0, 4.6] + [5.0] * len(curve), (1, 1, 0.68)), RIB, f"rib_{side_name(s)}_{n}")
            )
            if joins:
                meets = _on_cage(s, 172 if n < 8 else last + 22, joins)
                halfway = _on_cage(
                    s, (last + (172 if n < 8 else last + 22)) / 2, (end + joins) / 2 - 0.12 * (joins - end)
                )
                cartilage += tube([path[-1], halfway, meets], 4.6, (1, 1, 0.75))
    return [Part(cartilage, ((0, 105, 25),), "costal_cartilages"), *bones]


def _on_cage(side: int, angle: float, z: float) -> tuple[float, float, float]:
    """The place on the surface of the ribs at `angle` [degrees] from the back, at height z."""
    width, front, back, middle = (float(row(z)) for row in _cage_rows)
    u, v = math.sin(math.radians(angle)), -math.cos(math.radians(angle))
    g = 0.5 * math.hypot(u, v) + 0.5 * (u**4 + v**4) ** 0.25  # the outline of `column`
    return (middle + side * width * u / g, (front + back) / 2 + (front - back) / 2 * v / g, z)
