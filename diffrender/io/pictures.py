"""Frames as pictures: PNG, TIFF, JPEG, NIfTI and what SimpleITK reads; with what our own writers say in them."""

import gzip
import json
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from PIL import Image, UnidentifiedImageError

from diffrender.camera import Camera
from diffrender.errors import GeometryError, ImageError, PathError, notify
from diffrender.io.files import found, is_nifti
from diffrender.io.images import WRITERS

PICTURES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".nii", ".nii.gz", ".mha", ".mhd", ".nrrd")
CAMERA_SUFFIX, LABELS_SUFFIX = ".camera.json", ".labels.npz"
_BY_PILLOW = (b"\x89PNG", b"II*\0", b"MM\0*", b"\xff\xd8\xff", b"BM")
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, what JPEG has
COLOURED = 0.02  # of the range: channels that differ by more are colour, not the noise of a lossy picture


@dataclass(frozen=True, eq=False)
class Picture:
    """The numbers of a picture, and what the file says of them.

    Attributes:
        values: (h, w) float32; of whole numbers without a stated meaning, shares of what their bits can say.
        kind: where it is said.
        camera: where it is said.
    """

    values: Float32[np.ndarray, "h w"]
    kind: str | None = None
    camera: Camera | None = None


def is_picture(path: str | Path) -> bool:
    """Whether a name ends as a picture's does."""
    name = Path(path).name.lower()
    return name.endswith(PICTURES) and not name.startswith(".")


def beside(path: str | Path, suffix: str) -> Path:
    """The file of that suffix beside a frame: chest.nii.gz has chest.camera.json."""
    name = Path(path).name
    ending = next((e for e in (*WRITERS, *PICTURES) if name.lower().endswith(e)), Path(name).suffix)
    return Path(path).expanduser().with_name(name[: len(name) - len(ending)] + suffix)


def read_picture(path: str | Path) -> Picture:
    """One frame; colour becomes grey. Raises: PathError, ImageError where it is truncated, or is no single picture."""
    place = found(path)
    with place.open("rb") as file:
        head = file.read(1024)
    if head.startswith(_BY_PILLOW):
        return _by_pillow(path, place)
    return _by_volume_reader(path, place)


def grey(values: np.ndarray, what: str) -> Float32[np.ndarray, "h w"]:
    """(h, w) as they are, (h, w, 3) as their luma; real colour in it is said."""
    if values.ndim == 2:
        return values.astype(np.float32)
    colours = values[..., :3].astype(np.float32)
    spread = (colours.max(-1) - colours.min(-1)) > COLOURED * max(float(colours.max()), 1.0)
    if spread.mean() > 1e-4:
        notify(
            f"{what} has colour in {100 * spread.mean():.2g} % of its pixels (text or drawings burnt in?); its "
            "brightness was taken."
        )
    return colours @ _LUMA


def _by_pillow(path: str | Path, place: Path) -> Picture:
    try:
        with warnings.catch_warnings(), Image.open(place) as image:
            warnings.simplefilter("ignore")
            if getattr(image, "n_frames", 1) > 1:
                raise ImageError(f"{path} holds {image.n_frames} pages. Save each frame as a file of its own.")
            said = _said(image)
            values = _values(image)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as problem:
        raise ImageError(
            f"{path} is truncated or damaged: it cannot be decoded ({' '.join(str(problem).split())[:120]}). Copy or "
            "export the picture again."
        ) from None
    frame = grey(values, str(path))
    if "slope" in said:
        frame = (frame.astype(np.float64) * said["slope"] + said["intercept"]).astype(np.float32)
    elif values.dtype.kind == "u":
        frame = frame / np.float32(np.iinfo(values.dtype).max)
    return Picture(frame, said.get("kind"), _camera(path, said))


def _values(image: Image.Image) -> np.ndarray:
    if image.mode in ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV", "RGBA", "LA", "1"):
        image = image.convert("RGB" if image.mode not in ("LA", "1") else "L")
    values = np.asarray(image)
    return values.astype(np.uint16) if image.mode == "I" else values  # an older Pillow's 16-bit greys


def _said(image: Image.Image) -> dict[str, Any]:
    """What our writer put into the file; nothing for a stranger's."""
    text = image.info.get("diffrender")
    if text is None and hasattr(image, "tag_v2"):
        text = image.tag_v2.get(270)  # ImageDescription
    try:
        said = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        return {}
    ours = isinstance(said, Mapping) and said.get("format") == 1 and "camera" in said
    return dict(said) if ours else {}


def _camera(path: str | Path, said: Mapping[str, Any]) -> Camera | None:
    if "camera" not in said:
        return None
    try:
        return Camera.from_dict(said["camera"])
    except GeometryError as problem:
        raise GeometryError(f"{path}: the camera in its description cannot be: {problem}") from None


def _by_volume_reader(path: str | Path, place: Path) -> Picture:
    import SimpleITK as sitk  # noqa: N813 # slow to load, and seldom needed

    with place.open("rb") as file:
        head = file.read(1024)
    packed = place.name.lower().endswith(".nii.gz")
    if not (is_nifti(head) or packed or place.name.lower().endswith((".mha", ".mhd", ".nrrd", ".nhdr"))):
        raise PathError(
            f"{path} is no frame of a kind that is read here: DICOM, DeepFluoro's HDF5, or a picture "
            f"({', '.join(PICTURES)})."
        )
    try:
        values = sitk.GetArrayFromImage(sitk.ReadImage(str(place)))
        # ITK fills up with zeros what is cut off a NIfTI
        if (is_nifti(head) or packed) and _length(place, packed) < values.nbytes:
            raise EOFError
    except (RuntimeError, EOFError, zlib.error, gzip.BadGzipFile):
        raise ImageError(f"{path} is truncated or damaged: it cannot be decoded. Copy or export it again.") from None
    values = np.squeeze(values)
    if values.ndim == 3 and values.shape[-1] not in (3, 4):
        raise ImageError(
            f"{path} holds {values.shape[0]} slices of {values.shape[1]} x {values.shape[2]}: a volume, not a frame. "
            "Save each frame as a file of its own, or read a CT with `read_volume`."
        )
    if values.ndim not in (2, 3):
        raise ImageError(f"{path} is no picture: its numbers have shape {list(values.shape)}.")
    return Picture(grey(values, str(path)))


def _length(place: Path, packed: bool) -> int:
    """Of a file, unpacked [bytes]."""
    if not packed:
        return place.stat().st_size
    with gzip.open(place) as file:
        return sum(len(part) for part in iter(lambda: file.read(1 << 20), b""))
