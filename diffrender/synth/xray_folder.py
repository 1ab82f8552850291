"""Real radiographs of a folder, of one size and all with bone bright, for networks that learn what they look like."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from PIL import Image, UnidentifiedImageError
from scipy import ndimage
from torch import Tensor

from diffrender.errors import DicomError, ImageError, PathError, notify
from diffrender.io.files import found, is_dicom
from diffrender.io.pictures import is_picture, read_picture

FEWEST = 2  # radiographs; of one there is nothing to learn but that one
SMALLEST = 32  # px a side; less shows nothing
COLOURED, COLOUR_SHARE = 48, 0.1  # of 255 between channels, and the share of such pixels, from which it is a photograph
ANNOTATED = (0.5, 99.5)  # percentiles between which greys are spread: letters and markers lie beyond
THUMBNAIL = 64  # px a side, on which pictures are compared
UNLIKE = -0.3  # correlation with the others below which a picture shows them inverted
BACKGROUND = 0.94  # of the greys' range: what lies at the edge and above this (or below 1 - this) is background
UPPER = 0.7  # of the picture, in which background is looked for: the belly, as bright as bare film, lies below
SURE = 0.02  # of the picture, more bright than dark background, to turn all of them round


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
    say so (MONOCHROME1 unmarked) is found by its unlikeness to the others, or, where all are, by their bright
    background; it is turned round, and that is said.

    Args:
        image_size: (height, width) [px].
        only: names of the files to read; None: all.
    Raises: PathError for a folder that is none, holds no radiograph or only one, or lacks a name of `only`; ImageError
        for a colour photograph, a truncated, empty or tiny picture; DicomError.
    """
    place = found(folder)
    if not place.is_dir():
        raise PathError(f"{folder} is a file. Give the folder that holds the radiographs to learn from.")
    files = sorted(file for file in place.rglob("*") if file.is_file() and not file.name.startswith("."))
    if only is not None:
        files = [file for file in files if file.name in set(only)]
        if missing := sorted(set(only) - {file.name for file in files}):
            raise PathError(f"{folder} has no {missing[0]}{_more(len(missing))}, which should be read.")
    named, read = [], []
    for file in files:
        for greys in _read(file):
            named.append(file.name)
            read.append(_sized(_spread(greys, file), image_size))
    if len(read) < FEWEST:
        raise PathError(
            f"{folder} holds {'no radiograph' if not read else 'one radiograph'} (PNG, JPEG, TIFF or DICOM) among its "
            f"{len(files)} files, and learning how radiographs look takes {FEWEST} at the least, better 50 or more. "
            "Give another folder."
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


def bone_dark(pictures: Float[Tensor, "n 1 h w"]) -> Tensor:
    """(n,) bool: which pictures show bone dark, as far as that can be told.

    The first principal component of pictures of the same body part is what they have in common, and inverted ones have
    it with the other sign; background tells which sign is right.
    """
    small = F.adaptive_avg_pool2d(pictures, THUMBNAIL).flatten(1).double()
    small = small - small.mean(1, keepdim=True)
    small = small / small.norm(dim=1, keepdim=True).clamp(min=1e-9)
    signs = torch.linalg.eigh(small @ small.T).eigenvectors[:, -1].sign()
    signs = torch.where(signs == 0, torch.ones_like(signs), signs)
    common = (signs[:, None] * small).mean(0)
    against = small @ common / common.norm().clamp(min=1e-9)
    sides = torch.where(against < UNLIKE, -1.0, 1.0)  # of those near 0 nothing is known
    if sides.sum() < 0:
        sides = -sides
        sides = torch.where(against.abs() < -UNLIKE, 1.0, sides)
    evidence = torch.tensor([_background(one[0].numpy()) for one in pictures], dtype=torch.float64)
    return (-sides if float((sides * evidence).mean()) > SURE else sides) < 0


def _background(greys: Float32[np.ndarray, "h w"]) -> float:
    """How much more of the picture is bright than dark background."""
    upper = greys[: max(2, round(UPPER * len(greys)))]
    edge = np.zeros(upper.shape, dtype=bool)
    edge[0] = edge[:, [0, -1]] = True
    bright, dark = upper > BACKGROUND, upper < 1.0 - BACKGROUND
    shares = [ndimage.binary_propagation(edge & kind, mask=kind).mean() for kind in (bright, dark)]
    return float(shares[0] - shares[1])


def _read(file: Path) -> Iterator[Float32[np.ndarray, "h w"]]:
    """Greys of each frame, bone bright as far as the file says; nothing of a file that is no picture."""
    with file.open("rb") as opened:
        head = opened.read(1024)
    if is_dicom(head):
        yield from _dicom(file)
    elif is_picture(file):
        _refuse_photograph(file)
        picture = read_picture(file)
        yield -picture.values if picture.kind == "intensity" else picture.values


def _dicom(file: Path) -> Iterator[Float32[np.ndarray, "h w"]]:
    from diffrender.io.dicom import decoded
    from diffrender.io.dicom_frames import frames_of
    from diffrender.io.files import parts_of
    from diffrender.io.xray_dicom import NOT_FRAMES, header_of, pixels_of

    with parts_of(file) as parts:
        for part in parts:
            header = header_of(part)
            modality = str(header.get("Modality") or "").strip().upper()
            if modality in NOT_FRAMES:
                raise DicomError(
                    f"{part.name} is {NOT_FRAMES[modality]} (Modality, 0008,0060, {modality}), no radiograph. Take it "
                    "out of the folder."
                )
            frames = frames_of(part, header)
            stored = decoded(part, header, list(range(len(frames))))
            for index, (frame, numbers) in enumerate(zip(frames, stored, strict=True)):
                pixels, kind = pixels_of(header, index, numbers, frame.name)
                yield -pixels if kind == "intensity" else pixels


def _refuse_photograph(file: Path) -> None:
    try:
        with Image.open(file) as image:
            if image.mode not in ("RGB", "RGBA", "P", "CMYK", "YCbCr"):
                return
            small = np.asarray(image.convert("RGB").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)).astype(int)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError):
        return  # the reader says what is wrong with it
    share = float(((small.max(-1) - small.min(-1)) > COLOURED).mean())
    if share > COLOUR_SHARE:
        raise ImageError(
            f"{file} is a colour photograph: {100 * share:.0f} % of it has strong colour. Radiographs are grey; take "
            "it out of the folder, or give the radiograph itself and not a photo of a screen."
        )


def _spread(greys: Float32[np.ndarray, "h w"], file: Path) -> Float32[np.ndarray, "h w"]:
    """From 0 to 1, without what is written on it."""
    if min(greys.shape) < SMALLEST:
        raise ImageError(
            f"{file} has {greys.shape[1]} x {greys.shape[0]} pixels; a radiograph to learn from has {SMALLEST} a side "
            "or more. Take it out of the folder, or export it in full size."
        )
    if not np.isfinite(greys).all():
        raise ImageError(
            f"{file} holds numbers that are NaN or infinite. Export it again, or take it out of the folder."
        )
    low, high = np.percentile(greys, ANNOTATED)
    if not high > low:
        raise ImageError(f"{file} has the same grey nearly everywhere, so it shows nothing. Take it out of the folder.")
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
