"""What the commands of `diffrender fit` share: numbers typed in pairs, stages, and certainty as plain data."""

import math
from typing import TYPE_CHECKING, Any

from diffrender.errors import SettingError

if TYPE_CHECKING:
    from diffrender.fit.result import Fit

COARSEST = 32  # px


def pair_of(option: str, text: str) -> tuple[float, float]:
    """A translation [mm] and a rotation [degrees], typed as 10,5. Raises: SettingError."""
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError:
        raise SettingError(f"{option} is two numbers, mm and degrees, as 10,5; not {text!r}.") from None
    return first, second


def sizes_of(size: int) -> tuple[int, ...]:
    """The finest stage's size and its halves, coarse first [px]. Raises: SettingError."""
    if size < COARSEST // 2:
        raise SettingError(f"--size {size} is too small to see a bone; give {COARSEST} or more.")
    sizes = [size]
    while sizes[0] >= 2 * COARSEST:
        sizes.insert(0, sizes[0] // 2)
    return tuple(sizes)


def certainty_of(fit: "Fit") -> dict[str, Any]:
    """One standard deviation of each error of the pose that is to be expected."""
    stated = fit.certainty
    return {
        "format": 1,
        "world": "RAS",
        "outcome": fit.outcome,
        "sentence": fit.sentence,
        "depth_mm": stated.depth,
        "in_plane_mm": stated.in_plane,
        "translation_mm": stated.pose[:3].tolist(),
        "rotation_degrees": [math.degrees(n) for n in stated.pose[3:].tolist()],
        "covariance": stated.covariance.tolist(),
    }
