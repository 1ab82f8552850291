"""Radiographs as somebody has them: a folder of PNG, JPEG, TIFF or DICOM, of any size, bone bright or dark.

Nothing but greys is asked of them, no camera. Bone comes out bright.
"""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Shaped

from diffrender.errors import ImageError, InputError, PathError, notify
from diffrender.io.files import found, is_dicom
from diffrender.io.pictures import is_picture, read_picture

DICOM_ENDINGS = (".dcm", ".dicom", ".ima")
COLOURFUL = 0.05  # of all pixels: burnt-in writing colours fewer, a photograph more
COLOUR = 0.12  # of the range between a pixel's channels, which a tinted film stays below
RIM = 0.06  # of the image's side
BRIGHT_RIM = 0.75  # of the grey range: background and collimation of a film whose bone is dark
SMALLEST = 32  # px


@dataclass(frozen=True, eq=False)
class Film:
    """One radiograph.

    Attributes:
        values: (h, w), 0 to 1, bone bright.
        name: of its file, as typed.
        inverted: why it was turned round, "" where it was not: "stated" (MONOCHROME1) or "detected" by its background.
    """

    values: Float32[np.ndarray, "h w"]
    name: str
    inverted: str = ""


def films_in(path: str | Path) -> list[Path]:
    """The radiographs' files in a folder, by name; a file alone. Raises: PathError where there is none."""
    place = found(path)
    if not place.is_dir():
        return [place]
    files = sorted(file for file in place.rglob("*") if file.is_file() and _is_film(file))
    if not files:
        raise PathError(
            f"{path} holds no radiographs: PNG, JPEG, TIFF or DICOM files are looked for, in folders in it too."
        )
    return files


def read_film(path: str | Path, detect: bool = True) -> Film:
    """One radiograph, of any size.

    Args:
        detect: whether one that does not say is turned round where its background is bright; it is said.
    Raises: ImageError for a colour photograph, one that is constant, holds NaN or is a few pixels wide; PathError,
        DicomError.
    """
    place = found(path)
    with place.open("rb") as file:
        head = file.read(1024)
    if is_dicom(head) or place.suffix.lower() in DICOM_ENDINGS:
        values, stated = _dicom(place, str(path))
    else:
        _refuse_photograph(place, str(path))
        values, stated = read_picture(place).values, False
    values = np.asarray(values, dtype=np.float32)
    if not np.isfinite(values).all():
        raise ImageError(f"{path} holds {int((~np.isfinite(values)).sum())} pixels that are NaN or infinite.")
    low, high = float(values.min()), float(values.max())
    if high <= low or min(values.shape) < SMALLEST:
        found_text = f"is {values.shape[0]} x {values.shape[1]} px" if high > low else f"is constant ({low:g})"
        raise ImageError(f"{path} {found_text}, so it is no radiograph. Leave it out.")
    values = (values - low) / (high - low)
    if stated:
        return Film(values, str(path), "stated")
    if detect and is_inverted(values):
        notify(
            f"{path} has a bright background, so bone is dark in it (MONOCHROME1 without saying so). It was "
            "turned round."
        )
        return Film(1 - values, str(path), "detected")
    return Film(values, str(path))


def read_films(path: str | Path, detect: bool = True) -> list[Film]:
    """All radiographs of a folder; those that cannot be used are left out, and said.

    Raises: PathError if none is left.
    """
    films = []
    for file in films_in(path):
        try:
            films.append(read_film(file, detect))
        except InputError as problem:
            if not Path(path).expanduser().is_dir():
                raise
            notify(f"Left out: {problem}")
    if not films:
        raise PathError(f"None of the files in {path} is a radiograph that can be used.")
    return films


def is_inverted(values: Float[np.ndarray, "h w"]) -> bool:
    """Whether the background is bright: what lies at the upper corners and the rim against the whole.

    On a frontal or lateral radiograph with bright bone, air and shutters around the body are its darkest parts, above
    all beside the neck; turned round they are its brightest.
    """
    h, w = values.shape
    rows, columns = max(1, round(RIM * h)), max(1, round(2 * RIM * w))
    corners = np.concatenate([values[: 2 * rows, :columns].ravel(), values[: 2 * rows, -columns:].ravel()])
    sides = np.concatenate([values[:, : columns // 4].ravel(), values[:, -(columns // 4) :].ravel()])
    middle = values[h // 5 : 4 * h // 5, w // 5 : 4 * w // 5]
    spread = float(np.percentile(values, 99) - np.percentile(values, 1)) or 1.0
    low = float(np.percentile(values, 1))
    corner = (float(np.median(corners)) - low) / spread
    side = (float(np.percentile(sides, 75)) - low) / spread
    inner = (float(np.percentile(middle, 50)) - low) / spread
    return corner > BRIGHT_RIM and side > BRIGHT_RIM and corner > inner + 0.2


def _is_film(file: Path) -> bool:
    if file.name.startswith("."):
        return False
    if is_picture(file) or file.suffix.lower() in DICOM_ENDINGS:
        return True
    if file.suffix:
        return False
    with file.open("rb") as opened:
        return is_dicom(opened.read(1024))


def _dicom(place: Path, name: str) -> tuple[Shaped[np.ndarray, "h w"], bool]:
    from pydicom import dcmread

    from diffrender.io.dicom import decoded
    from diffrender.io.dicom_series import quiet
    from diffrender.io.files import parts_of
    from diffrender.io.xray_dicom import pixels_of

    with parts_of(place) as parts:
        part = next(iter(parts))
        with quiet(), part.open() as file:
            header = dcmread(file, stop_before_pixels=True, force=True)
        with closing(decoded(part, header, [0])) as arrays:  # pyright: ignore[reportArgumentType]
            stored = next(iter(arrays))
        pixels, kind = pixels_of(header, 0, stored, name)
    stated = str(header.get("PhotometricInterpretation") or "").strip() == "MONOCHROME1"
    if kind == "intensity":  # of the beam that passed: bone is dark
        return -np.log(np.clip(pixels, 1e-4, None)), True
    return pixels, stated


def _refuse_photograph(place: Path, name: str) -> None:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(place) as image:
            if image.mode in ("L", "I", "F", "1", "LA", "I;16"):
                return
            image.draft("RGB", (256, 256))
            small = image.convert("RGB").resize((128, 128))
    except (UnidentifiedImageError, OSError, ValueError):
        return  # `read_picture` says what is the matter
    channels = np.asarray(small, dtype=np.float32) / 255
    coloured = float(((channels.max(-1) - channels.min(-1)) > COLOUR).mean())
    if coloured > COLOURFUL:
        raise ImageError(
            f"{name} is a colour photograph or drawing ({100 * coloured:.0f} % of it is coloured), not a radiograph. "
            "Leave it out, or export the radiograph itself."
        )
