"""Which way is left: a camera against what a frame says of its own sides."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.camera import Camera
from diffrender.errors import GeometryError, notify

_RAS = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "H": (0, 0, 1), "F": (0, 0, -1)}
# Of the strongest letter: the second of two can be half as long, the third a quarter.
_SHARES = (1.0, 0.6, 0.3)


def direction_of(letters: str) -> Float[Tensor, "3"] | None:
    """About where DICOM's letters point ("L", "LP"), RAS; None where they are no such letters.

    Source: DICOM PS3.3 C.7.6.1.1.1, the strongest letter first.
    """
    text = str(letters).strip().upper().replace("S", "H").replace("I", "F")
    if not text or len(text) > 3 or any(letter not in _RAS for letter in text):
        return None
    parts = [torch.tensor(_RAS[n], dtype=torch.float64) * s for n, s in zip(text, _SHARES, strict=False)]
    total = torch.stack(parts).sum(0)
    return total / total.norm() if float(total.norm()) > 0 else None


def oriented(camera: Camera, stated: Sequence[str]) -> tuple[int, bool]:
    """How the camera's picture is turned (clockwise, degrees) and then mirrored to look the way a frame states.

    Args:
        stated: where the image's right and its lower edge look, in DICOM's letters.
    Returns: (0, False) where it already does; also where what is stated cannot be read or fits nothing.
    """
    right, below = (direction_of(one) for one in stated)
    if right is None or below is None:
        return 0, False
    x, y = camera.world_from_camera[:3, 0], camera.world_from_camera[:3, 1]
    fits = []
    for flip in (False, True):
        a, b = x, y
        for turn in (0, 90, 180, 270):
            fits.append((float((-a if flip else a) @ right + b @ below), turn, flip))
            a, b = -b, a
    # the first of equals: what needs no change
    best = max(fits, key=lambda fit: round(fit[0], 6))
    return best[1:] if best[0] > 0.5 else (0, False)


def check_orientation(camera: Camera, stated: Sequence[str], where: str) -> None:
    """Refuse a camera that is the mirror image of what a frame states, and say so where it is only turned.

    Raises: GeometryError.
    """
    turn, flip = oriented(camera, stated)
    edges = camera.orientation()
    found = f"the geometry has {edges['right']} on the right and {edges['bottom']} below"
    if flip:
        raise GeometryError(
            f"{where}: {found}, and the frame states {stated[0]} on the right and {stated[1]} below: one is the mirror "
            "image of the other, so left and right would be exchanged. Find out whether the image was flipped or the "
            "matrix has the wrong handedness, and correct that one."
        )
    if turn:
        notify(
            f"{where}: {found}, and the frame states {stated[0]} on the right and {stated[1]} below: the one is the "
            f"other turned by {turn} degrees. The geometry was used; check it."
        )
