"""The patient that the phantom draws: an adult on a CT table, arms raised, from the shoulders to the upper thighs."""

from functools import cache

import numpy as np

from diffrender.phantom.abdomen import abdomen, bladder, muscles
from diffrender.phantom.bones import hip, ribs, sacrum, shoulder, vertebrae
from diffrender.phantom.chest import chest, great_vessels
from diffrender.phantom.patient import BELLY, BODY, FAT, LEFT, RIGHT, Part
from diffrender.phantom.solids import Array, Solid, capsule, column, tube

TRUNK = (
    (-334, 8, 10, -30),
    (-326, 40, 34, -62),
    (-312, 96, 58, -92),
    (-296, 152, 76, -108),
    (-260, 178, 88, -114),
    (-210, 177, 95, -115),
    (-160, 166, 98, -111),
    (-110, 153, 100, -106),
    (-60, 146, 99, -103),
    (-10, 150, 100, -105),
    (40, 158, 104, -109),
    (90, 164, 107, -113),
    (140, 168, 105, -114),
    (190, 164, 92, -113),
    (225, 150, 74, -108),
    (250, 112, 52, -98),
    (268, 72, 38, -84),
    (300, 58, 32, -70),
)
PELVIS = ((-292, 22, 40, -48), (-275, 46, 48, -62), (-245, 62, 50, -72), (-205, 74, 60, -60), (-170, 80, 66, -40))


@cache
def torso_parts(seed: int) -> tuple[Part, ...]:
    """The patient from the skin inwards, in the order of drawing; `seed` places the vessels of the lung."""
    return (
        _table(),
        Part(_body(), BODY),
        Part([column(BELLY), column(PELVIS)], FAT),
        *chest(seed),
        *abdomen(),
        *muscles(),
        *great_vessels(),
        *vertebrae(),
        *sacrum(),
        *(part for side in (RIGHT, LEFT) for part in (*shoulder(side), *hip(side))),
        *ribs(),
        *bladder(),
    )


def _table() -> Part:
    """A carbon plate with a foam core, hollow as the back that lies on it."""

    def distance(x: Array, y: Array, z: Array) -> Array:
        from_axis = np.sqrt(x * x + (y - 480.0) ** 2)
        return np.maximum(np.abs(from_axis - 607.0) - 7.0, np.abs(x) - 205.0) + 0 * z

    return Part([Solid((-205, -135, -1e4), (205, -85, 1e4), distance)], ((0, -180, 10), (2.5, -890, 10)))


def _body() -> list[Solid]:
    solids = [column(TRUNK)]
    for side in (RIGHT, LEFT):
        solids += tube([(side * 45, -25, 248), (side * 110, -25, 244), (side * 168, -12, 238)], [34, 46, 50])
        solids.append(capsule((side * 165, -12, 238), (side * 225, 14, 330), 50, 46))
        solids.append(capsule((side * 93, -8, -268), (side * 96, -4, -420), 84, 76))
    return solids
