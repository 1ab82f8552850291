"""Real radiographs of a folder, of one size and all with bone bright, for networks that learn what they look like."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from diffrender.errors import InputError, PathError, notify
from diffrender.io.files import found
from diffrender.synth.films import films_in, is_inverted, read_film

FEWEST = 2  # radiographs; of one there is nothing to learn but that one
ANNOTATED = (0.5, 99.5)  # percentiles between which greys are spread: letters and markers lie beyond
THUMBNAIL = 64  # px a side, on which pictures are compared
VOTES = 2  # backgrounds that must speak against most before all are turned: one in 46 ordinary films is mistaken
UNLIKE = -0.3  # correlation with what all have in common below which a picture shows it inverted


@dataclass(frozen=True, eq=False)
class XrayPictures:
    """Radiographs to learn from.

    Attributes:
        pictures: (n, 1, h, w), greys 0 to 1, bone bright.
        names: of the files, without their folder.
        inverted: names of those that came with bone dark and did not say so.
    """

    pictures: Float[Tensor, "n 1 h w"]
    names: tuple[str, ...]
    inverted: tuple[str, ...] = ()


def read_xrays(folder: str | Path, image_size: tuple[int, int], only: Sequence[str] | None = None) -> XrayPictures:
    """Every radiograph of a folder: PNG, JPEG, TIFF or DICOM, of any sizes.

    Each is cut to the picture's proportions about its middle and averaged down. One that shows bone dark and does not
    say so (MONOCHROME1 unmarked) is found by its unlikeness to the others, or, where all are, by their background; it
    is turned round, and that is said. Colour photographs and what cannot be read are left out, and that is said too.

    Args:
        image_size: (height, width) [px].
        only: names of the files to read; None: all.
    Raises: PathError for a folder that is none, holds no radiograph or only one, or lacks a name of `only`.
    """
    if not found(folder).is_dir():
        raise PathError(f"{folder} is a file. Give the folder that holds the radiographs to learn from.")
    files = films_in(folder)
    if only is not None:
        files = [file for file in files if file.name in set(only)]
        if missing := sorted(set(only) - {file.name for file in files}):
            raise PathError(f"{folder} has no {missing[0]}{_more(len(missing))}, which should be read.")
    named, read = [], []
    for file in files:
        try:
            greys = read_film(file, detect=False).values
        except InputError as problem:
            notify(f"Left out: {problem}")
            continue
        named.append(file.name)
        read.append(_sized(_spread(greys), image_size))
    if len(read) < FEWEST:
        raise PathError(
            f"{folder} holds {'no radiograph' if not read else 'one radiograph'} that can be used, among {len(files)} "
            f"files, and learning how radiographs look takes {FEWEST} at the least, better 50 or more. Give another "
            "folder."
        )
    pictures = torch.from_numpy(np.stack(read))[:, None]
    dark = bone_dark(pictures)
    inverted = tuple(name for name, turned in zip(named, dark.tolist(), strict=True) if turned)
    if inverted:
        notify(
            f"{folder}: {len(inverted)} of {len(read)} radiographs show bone dark (MONOCHROME1, not marked as such), "
            f"by their background and their unlikeness to the others: {inverted[0]}{_more(len(inverted))}. They were "
            "turned round."
        )
    return XrayPictures(torch.where(dark[:, None, None, None], 1.0 - pictures, pictures), tuple(named), inverted)


def bone_dark(pictures: Float[Tensor, "n 1 h w"]) -> Bool[Tensor, "n"]:
    """Which pictures show bone dark, as far as that can be told.

    The first principal component of pictures of the same body part is what they have in common, and inverted ones have
    it with the other sign. Of 46 chest radiographs, any of them inverted, all but one were told apart so, and that one
    lies near 0, where it goes with most. Which of the two signs is right, the background votes on.
    """
    small = F.adaptive_avg_pool2d(pictures, THUMBNAIL).flatten(1).double()
    small = small - small.mean(1, keepdim=True)
    small = small / small.norm(dim=1, keepdim=True).clamp(min=1e-9)
    signs = torch.linalg.eigh(small @ small.T).eigenvectors[:, -1].sign()
    common = (signs[:, None] * small).mean(0)
    against = small @ common / common.norm().clamp(min=1e-9)
    against = against if ((against > -UNLIKE).sum() >= (against < UNLIKE).sum()) else -against
    sides = torch.where(against < UNLIKE, -1.0, 1.0)  # of those near 0 nothing is known: they go with most
    bright = [is_inverted(one[0].numpy()) for one in pictures]
    dark = [is_inverted(1.0 - one[0].numpy()) for one in pictures]
    votes = torch.tensor(dark, dtype=torch.float64) - torch.tensor(bright, dtype=torch.float64)
    turned = float((sides * votes).sum()) <= -VOTES
    return (-sides if turned else sides) < 0


def _spread(greys: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """From 0 to 1, without what is written on it."""
    low, high = np.percentile(greys, ANNOTATED)
    if not high > low:  # all but a few pixels are one grey: those few are all there is
        low, high = greys.min(), greys.max()
    return np.clip((greys - low) / (high - low), 0.0, 1.0).astype(np.float32)


def _sized(greys: Float32[np.ndarray, "h w"], image_size: tuple[int, int]) -> Float32[np.ndarray, "r c"]:
    """The largest middle part of the same proportions, averaged down (or interpolated up) to the size."""
    height, width = greys.shape
    scale = min(height / image_size[0], width / image_size[1])
    tall, broad = min(height, round(image_size[0] * scale)), min(width, round(image_size[1] * scale))
    top, left = (height - tall) // 2, (width - broad) // 2
    part = torch.from_numpy(np.ascontiguousarray(greys[top : top + tall, left : left + broad]))[None, None]
    made = F.interpolate(part, list(image_size), mode="bilinear", align_corners=False, antialias=True)
    return made[0, 0].clamp(0.0, 1.0).numpy()


def _more(count: int) -> str:
    return f" and {count - 1} more" if count > 1 else ""
