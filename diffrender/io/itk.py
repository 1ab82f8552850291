"""NRRD and MetaImage: SimpleITK says what the header means, and the numbers are read slice by slice."""

import gzip
import re
import zlib
from dataclasses import dataclass
from io import BufferedIOBase, BufferedReader, RawIOBase
from pathlib import Path

import numpy as np
import torch

from diffrender.errors import GeometryError, ImageError, PathError, notify
from diffrender.io.files import check_memory, found
from diffrender.io.filling import Filling, filled, most_bytes
from diffrender.quiet import without_native_output
from diffrender.volume import Volume, check_affine

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
ITK_READERS = {"nrrd": "NrrdImageIO", "metaimage": "MetaImageIO"}  # by what `kind_of` says; ITK would go by the name
_SPACES = ("left-posterior-superior", "lps", "right-anterior-superior", "ras", "left-anterior-superior", "las")


def read_itk(path: str | Path) -> Volume:
    """A volume from .nrrd, .nhdr, .mha or .mhd. Its numbers count as HU: these formats have no word on it.

    Whole numbers that fit come as int16, others as float32. Peak memory is the volume and a slice; what is stored as
    text or in several files is held with it as stored.
    Raises: ImageError, GeometryError, PathError, MemoryNeedError.
    """
    import SimpleITK as sitk  # noqa: N813

    head = _head(path)
    plain = _plain_numbers(path, head)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(found(path)))
    reader.SetImageIO(ITK_READERS["nrrd" if head.startswith(b"NRRD") else "metaimage"])
    try:
        with without_native_output():
            reader.ReadImageInformation()
    except RuntimeError as problem:
        raise _unreadable(path, problem) from None
    size = reader.GetSize()
    _check_size(path, size, reader.GetNumberOfComponents())
    check_header(path, head)
    affine = _affine(path, reader)
    dtype = _stored_type(path, reader, head)
    beside = 0 if plain else dtype.itemsize
    check_memory(path, 1.02 * np.prod(size, dtype=float) * (most_bytes(dtype) + beside))
    values = plain.read(dtype, (size[2], size[1], size[0])) if plain else _by_itk(path, reader)
    return Volume(torch.from_numpy(values), torch.from_numpy(affine), source=str(path))


def _check_size(path: str | Path, size: tuple[int, ...], components: int) -> None:
    extent = " x ".join(str(n) for n in size)
    if components > 1 or len(size) > 3:
        raise ImageError(
            f"{path} holds {components} numbers a voxel on {len(size)} axes ({extent}): colours, vectors or a series "
            "of volumes. A CT has one number a voxel on three axes; save the one volume that you mean by itself."
        )
    if len(size) < 3 or 1 in size:
        raise ImageError(
            f"{path} is 2D or one slice only: {extent} voxels. A volume has at least two slices along each of three "
            "axes; give the whole scan."
        )


def _stored_type(path: str | Path, reader, head: bytes) -> np.dtype:
    import SimpleITK as sitk  # noqa: N813

    names = ("Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64", "Float32", "Float64")
    kind = {getattr(sitk, f"sitk{name}"): name.lower() for name in names}.get(reader.GetPixelID())
    if kind is None:
        raise ImageError(f"{path} holds complex numbers; a CT holds one whole or floating-point number (HU) a voxel.")
    big = _field(head, "endian").lower() == "big" or any(
        _is_true(head, name) for name in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
    )
    return np.dtype(kind).newbyteorder(">" if big else "<")


def _head(path: str | Path) -> bytes:
    """The text before the numbers."""
    with found(path).open("rb") as file:
        head = file.read(1 << 16)
    if not head.startswith(b"NRRD"):
        end = re.search(rb"ElementDataFile.*\r?\n", head)
        return head[: end.end()] if end else head
    end = re.search(rb"\r?\n\r?\n", head)
    return head[: end.end()] if end else head


def _field(head: bytes, name: str) -> str:
    """The value of a line `name: value` (NRRD) or `name = value` (MetaImage); empty where there is none."""
    match = re.search(rf"^{name} *[:=] *(.*?) *\r?$".encode(), head, re.MULTILINE | re.IGNORECASE)
    return match[1].decode("utf-8", "replace") if match else ""


def _is_true(head: bytes, name: str) -> bool:
    return _field(head, name)[:1] in tuple("Tt1")


def check_header(path: str | Path, head: bytes) -> None:
    """Refuse a file without spacing, and say where orientation is missing: ITK fills both in without a word."""
    if _spaced_axes(head) < 3:
        raise GeometryError(
            f"{path} has no spacing for each of its three axes, so the size of its voxels is not known and every "
            "length would be a guess. Write the volume again with its spacing."
        )
    space = _field(head, "space") or _field(head, "space dimension")
    if not any(_field(head, name) for name in ("space directions", "TransformMatrix", "Rotation", "Orientation")):
        lacking = "no directions in its header"
    elif head.startswith(b"NRRD") and space.lower() not in _SPACES:
        lacking = f'its "space" is {space or "missing"}, none of LPS, RAS and LAS'
    else:
        return
    notify(
        f"{path} does not say how the patient lies ({lacking}): its axes are taken as left, posterior and superior, as "
        "Slicer does. Check left and right before you rely on them."
    )


def _spaced_axes(head: bytes) -> int:
    """How many axes have a finite spacing. (NRRD says "none" or nan for an axis without, such as a list of layers.)"""
    directions = re.findall(r"\(([^)]*)\)", _field(head, "space directions"))
    steps = _field(head, "spacings") or _field(head, "ElementSpacing") or _field(head, "ElementSize")
    return sum(all(_is_finite(number) for number in axis.split(",")) for axis in directions or steps.split())


def _is_finite(number: str) -> bool:
    try:
        return bool(np.isfinite(float(number)))
    except ValueError:
        return False


def _affine(path: str | Path, reader) -> np.ndarray:
    spacing = np.array(reader.GetSpacing())
    if not (np.isfinite(spacing) & (spacing > 0)).all():
        raise GeometryError(
            f"{path} has a negative, zero or missing spacing, {' x '.join(f'{s:.4g}' for s in spacing)} mm: its affine "
            "is singular or left and right are not sure. Write the volume again with its true spacing."
        )
    lps_from_voxel = np.eye(4)
    lps_from_voxel[:3, :3] = np.reshape(reader.GetDirection(), (3, 3)) * spacing
    lps_from_voxel[:3, 3] = reader.GetOrigin()
    affine = RAS_FROM_LPS @ lps_from_voxel
    check_affine(torch.from_numpy(affine), f"{path}: its affine")
    return affine


@dataclass(frozen=True)
class _Plain:
    """Numbers that lie in one piece: in which file, from which byte on, and how they are packed (raw, gzip, zlib).

    `shown` is the file as messages name it.
    """

    shown: str
    place: Path
    offset: int
    packed: str

    def read(self, dtype: np.dtype, shape: tuple[int, int, int]) -> np.ndarray:
        with self.place.open("rb") as file:
            file.seek(self.offset)
            try:
                return filled(self.shown, _unpacked(file, self.packed), dtype, shape)
            except (EOFError, zlib.error, gzip.BadGzipFile):
                raise PathError(
                    f"{self.shown} is truncated or damaged: its numbers cannot be unpacked to the end. Its copy or "
                    "download broke off; fetch it again."
                ) from None


def _plain_numbers(path: str | Path, head: bytes) -> _Plain | None:
    """Where the numbers lie; None where they are text, lie in several files, or behind something else.

    Raises: PathError where the file that the header names is not there.
    """
    nrrd = head.startswith(b"NRRD")
    name = _field(head, "data ?file" if nrrd else "ElementDataFile")
    if name.upper().startswith("LIST") or "%" in name:
        return None
    shown, place, offset = str(path), found(path), len(head)
    if name and name.upper() != "LOCAL":
        shown, place, offset = str(Path(path).parent / name), place.parent / name, 0
        if not place.is_file():
            raise PathError(
                f"{path} is a header, and {name}, which it names as the file of its numbers, is not there. Copy both "
                "into one folder, under the names that they had."
            )
    if nrrd:
        packed = {"raw": "raw", "gzip": "gzip", "gz": "gzip"}.get(_field(head, "encoding").lower())
        skipped = _field(head, "(?:line|byte) ?skip")
    else:
        packed = "zlib" if _is_true(head, "CompressedData") else "raw"
        packed = packed if _is_true(head, "BinaryData") else None
        skipped = _field(head, "HeaderSize")
    return None if packed is None or skipped not in ("", "0") else _Plain(shown, place, offset, packed)


def _unpacked(file: BufferedIOBase, packed: str) -> BufferedIOBase:
    if packed == "gzip":
        return gzip.GzipFile(fileobj=file)  # pyright: ignore[reportReturnType]
    return BufferedReader(_Inflating(file), 1 << 20) if packed == "zlib" else file


class _Inflating(RawIOBase):
    """What a zlib stream holds, bit by bit; Python has such a thing for gzip alone."""

    def __init__(self, file: BufferedIOBase):
        self.file, self.unpacking = file, zlib.decompressobj()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        got = b""
        while not got and not self.unpacking.eof:
            more = self.unpacking.unconsumed_tail or self.file.read(1 << 18)
            if not more:
                break
            got = self.unpacking.decompress(more, len(buffer))
        buffer[: len(got)] = got
        return len(got)


def _by_itk(path: str | Path, reader) -> np.ndarray:
    import SimpleITK as sitk  # noqa: N813

    try:
        with without_native_output():
            image = reader.Execute()
    except RuntimeError as problem:
        raise _unreadable(path, problem) from None
    stored = sitk.GetArrayViewFromImage(image)
    filling = Filling(stored.shape)
    for k, numbers in enumerate(stored):
        filling.put(k, numbers)
    return filling.values


def _unreadable(path: str | Path, problem: RuntimeError) -> PathError | GeometryError:
    if "direction" in str(problem).lower() or "spacing" in str(problem).lower().replace(str(found(path)).lower(), ""):
        return GeometryError(
            f"{path}: its affine is singular, sheared, or has a negative or missing spacing, so voxels have no volume. "
            "Its header is damaged; write the volume again."
        )
    return PathError(f"{path} cannot be read: {reason(problem)}. Fetch it again.")


def reason(problem: Exception) -> str:
    """What ITK says of a file, without its classes, addresses in memory and lines of source."""
    said = re.findall(r"\[nrrd\] \w+: (.*)", str(problem))
    return f"it is truncated or damaged{f' ({said[-1][:200]})' if said else ''}"
