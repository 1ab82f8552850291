"""What all parts of the drawn patient share: labels, matter, the curve of the spine, the outlines of cage and belly.

Places are RAS [mm]: +x the patient's right, +y the front, +z the head; z = 0 is about the twelfth thoracic vertebra.
Numbers are those of an average adult, rounded, with a slight scoliosis and a pelvis that is not quite level. Names and
ids are TotalSegmentator's (v2), HU those of a CT with contrast medium in the blood. Nobody in particular is meant.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from diffrender.phantom.solids import Array, Solid, smooth

Layers = tuple[tuple[float, float, float], ...]

# From the surface inwards: depth at which it begins [mm], HU, and how far texture strays from that (one deviation).
BODY: Layers = ((0, 20, 5), (2.5, -105, 9), (16, 52, 9))
CORTEX: Layers = ((0, 860, 50), (3.2, 260, 60))
CORTEX_THIN: Layers = ((0, 640, 40), (2.5, 240, 45))
RIB: Layers = ((0, 1150, 50), (3.5, 560, 50))
FAT: Layers = ((0, -98, 12),)
BLOOD: Layers = ((0, 158, 6),)
VEIN: Layers = ((0, 118, 8),)
GAS: Layers = ((0, -960, 8),)

IDS = {
    **{
        name: n
        for n, name in enumerate(
            ["spleen", "kidney_right", "kidney_left", "gallbladder", "liver", "stomach", "pancreas"], 1
        )
    },
    "lung_upper_lobe_left": 10,
    "lung_lower_lobe_left": 11,
    "lung_upper_lobe_right": 12,
    "lung_middle_lobe_right": 13,
    "lung_lower_lobe_right": 14,
    "esophagus": 15,
    "trachea": 16,
    "small_bowel": 18,
    "colon": 20,
    "urinary_bladder": 21,
    "sacrum": 25,
    **{f"vertebrae_L{n}": 32 - n for n in range(1, 6)},
    **{f"vertebrae_T{n}": 44 - n for n in range(1, 13)},
    "heart": 51,
    "aorta": 52,
    "pulmonary_vein": 53,
    "superior_vena_cava": 62,
    "inferior_vena_cava": 63,
    "iliac_artery_left": 65,
    "iliac_artery_right": 66,
    **{
        f"{bone}_{side}": 69 + 2 * n + m
        for n, bone in enumerate(("humerus", "scapula", "clavicula", "femur", "hip"))
        for m, side in enumerate(("left", "right"))
    },
    "spinal_cord": 79,
    "iliopsoas_left": 88,
    "iliopsoas_right": 89,
    **{f"rib_left_{n}": 91 + n for n in range(1, 13)},
    **{f"rib_right_{n}": 103 + n for n in range(1, 13)},
    "sternum": 116,
    "costal_cartilages": 117,
}
LUNGS = tuple(name for name in IDS if name.startswith("lung_"))
RIGHT, LEFT = 1, -1  # the sign of x


@dataclass(frozen=True)
class Part:
    """One thing to draw over what is there.

    Attributes:
        solids: it is where any of them is.
        layers: (depth [mm], HU, texture [HU]) from the surface inwards; none draws the label alone.
        name: of its label; None keeps the labels below it, "" clears them.
        only: draw only where these labels are; empty for everywhere.
    """

    solids: Sequence[Solid]
    layers: Layers
    name: str | None = None
    only: tuple[str, ...] = ()


# Heights from one vertebra to the next [mm], disc included.
_THORACIC = (17, 18, 19, 20, 21, 21, 22, 22, 23, 24, 25, 27)
_LUMBAR = (33, 35, 36, 36, 34)
TOP_OF_T1 = 270.0


@cache
def levels() -> list[tuple[str, float, float, float, float]]:
    """The vertebrae from T1 down: (name, z of the body's middle, its height, half width, half depth) [mm]."""
    rows, z = [], TOP_OF_T1
    for n, height in enumerate(_THORACIC + _LUMBAR):
        share = n / 16
        disc = 3.5 + 6 * share
        name = f"vertebrae_T{n + 1}" if n < 12 else f"vertebrae_L{n - 11}"
        rows.append((name, z - (height - disc) / 2, height - disc, 14.0 + 10.5 * share, 10.5 + 7 * share))
        z -= height
    return rows


spine_x = smooth([270, 200, 150, 60, -60, -165], [1, 5, 7, 0, -7, 1])  # about 9 degrees of scoliosis
spine_y = smooth(
    [290, 262, 210, 165, 100, 25, -30, -75, -120, -150, -168], [-22, -28, -47, -55, -52, -40, -26, -20, -24, -34, -42]
)
spine_half_width = smooth([-165, 270], [24.5, 14])


def spine(z: float) -> tuple[float, float, float]:
    """Where the middle of the vertebral bodies is at height z."""
    return float(spine_x(z)), float(spine_y(z)), z


CAGE = (  # (z, half width, front, back, middle x): the surface in which the ribs lie
    (-55, 120, 66, -72, 2),
    (-20, 130, 76, -80, 2),
    (20, 136, 84, -87, 2),
    (60, 138, 88, -92, 3),
    (100, 136, 86, -95, 4),
    (140, 130, 80, -95, 4),
    (180, 118, 68, -91, 4),
    (210, 102, 54, -85, 3),
    (235, 78, 36, -76, 2),
    (250, 54, 18, -64, 1),
    (264, 26, -4, -48, 1),
)
BELLY = (
    (-215, 80, 62, -62),
    (-180, 112, 72, -58),
    (-130, 118, 74, -52),
    (-60, 116, 74, -55),
    (10, 124, 80, -70),
    (70, 120, 80, -75),
)
PELVIS = ((-292, 22, 40, -48), (-275, 46, 48, -62), (-245, 62, 50, -72), (-205, 74, 60, -60), (-170, 80, 66, -40))


def side_name(side: int) -> str:
    return "right" if side == RIGHT else "left"


def dome(side: int, x: Array, y: Array) -> Array:
    """Height of the diaphragm [mm]: the right half stands higher, the heart presses the left one down."""
    top, middle = (86.0, 66.0) if side == RIGHT else (68.0, -72.0)
    return top - ((x - middle) / 66) ** 2 * 34 - ((y - 18) / 92) ** 2 * 78
