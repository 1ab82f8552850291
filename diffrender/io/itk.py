"""NRRD and MetaImage, read by SimpleITK."""

import gzip
import re
import zlib
from pathlib import Path

import numpy as np
import torch

from diffrender.errors import GeometryError, ImageError, PathError, notify
from diffrender.io.files import check_memory, found
from diffrender.io.filling import filled
from diffrender.volume import Volume, check_affine

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_itk(path: str | Path) -> Volume:
    """A volume from .nrrd, .nhdr, .mha or .mhd. Its numbers count as HU: these formats have no word on it.

    Whole numbers that fit come as int16, others as float32. Peak memory is the volume, or twice that where the file is
    a compressed MetaImage; wide numbers in one, or in a file beside its header, are held with it: three times.
    Raises: ImageError, GeometryError, PathError, MemoryNeedError.
    """
    import SimpleITK as sitk  # noqa: N813

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(found(path)))
    try:
        reader.ReadImageInformation()
    except RuntimeError as problem:
        raise _unreadable(path, problem) from None
    size = reader.GetSize()
    _check_size(path, size, reader.GetNumberOfComponents())
    check_memory(path, 1.02 * np.prod(size, dtype=float) * _bytes_per_voxel(reader.GetPixelID()))
    head = _head(path)
    _check_header(path, head)
    affine = _affine(path, reader)
    values = _streamed(path, head, reader)
    if values is None:
        try:
            values = _values(reader.Execute())
        except RuntimeError as problem:
            raise _unreadable(path, problem) from None
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


def _bytes_per_voxel(pixel: int) -> int:
    """Memory that reading takes at its highest: wide numbers end as float32, at times by way of int16."""
    import SimpleITK as sitk  # noqa: N813

    return {sitk.sitkInt16: 2, sitk.sitkInt8: 3, sitk.sitkUInt8: 3, sitk.sitkFloat32: 4}.get(pixel, 6)


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
    match = re.search(rf"^{name} *[:=] *(.*?) *\r?$".encode(), head, re.MULTILINE)
    return match[1].decode("ascii", "replace") if match else ""


def _check_header(path: str | Path, head: bytes) -> None:
    """Refuse a file without spacing, and say where orientation is missing: ITK fills both in without a word."""
    turned = any(_field(head, name) for name in ("space directions", "TransformMatrix", "Rotation", "Orientation"))
    spaced = any(_field(head, name) for name in ("space directions", "spacings", "ElementSpacing", "ElementSize"))
    if not spaced:
        raise GeometryError(
            f"{path} has no spacing, so the size of its voxels is not known and every length would be a guess. Write "
            "the volume again with its spacing."
        )
    if not turned:
        notify(
            f"{path} does not say how the patient lies (no directions in its header): its axes are taken as left, "
            "posterior and superior, as Slicer does. Check left and right before you rely on them."
        )


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


def _streamed(path: str | Path, head: bytes, reader) -> np.ndarray | None:
    """Numbers wider than what they become, slice by slice: ITK would hold all of them beside the volume.

    None where ITK is as good, or where the numbers do not follow the header plainly or as gzip.
    """
    import SimpleITK as sitk  # noqa: N813

    wide = {sitk.sitkInt32: "i4", sitk.sitkUInt32: "u4", sitk.sitkInt64: "i8", sitk.sitkUInt64: "u8"}
    kind = {**wide, sitk.sitkFloat64: "f8"}.get(reader.GetPixelID())
    nrrd = head.startswith(b"NRRD")
    elsewhere = _field(head, "data ?file") or _field(head, "(line|byte) skip") if nrrd else "x"
    encoding = _field(head, "encoding").lower() if nrrd else "raw"
    if not nrrd and _field(head, "ElementDataFile") == "LOCAL" and _field(head, "CompressedData") != "True":
        elsewhere = ""
    if kind is None or elsewhere or encoding not in ("raw", "gzip", "gz"):
        return None
    big = _field(head, "endian") == "big" or "True" in (
        _field(head, "BinaryDataByteOrderMSB"),
        _field(head, "ElementByteOrderMSB"),
    )
    i, j, k = reader.GetSize()
    with found(path).open("rb") as file:
        file.seek(len(head))
        try:
            stream = file if encoding == "raw" else gzip.GzipFile(fileobj=file)
            return filled(path, stream, np.dtype((">" if big else "<") + kind), (k, j, i))
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise PathError(
                f"{path} is truncated or damaged: its numbers cannot be unpacked to the end. Its copy or download "
                "broke off; fetch it again."
            ) from None


class _Buffer:
    """ITK's own numbers as an array without a copy; the array keeps this, and this keeps the image alive."""

    def __init__(self, image, view: np.ndarray):
        self.image = image
        where, _ = view.__array_interface__["data"]
        self.__array_interface__ = {**view.__array_interface__, "data": (where, False)}  # ours alone, so not read-only


def _values(image) -> np.ndarray:
    import SimpleITK as sitk  # noqa: N813

    stored = sitk.GetArrayViewFromImage(image)
    if stored.dtype == np.float32 or stored.dtype == np.int16:
        return np.asarray(_Buffer(image, stored))
    if stored.dtype.kind == "f":
        return stored.astype(np.float32)
    low, high = stored.min(), stored.max()
    return stored.astype(np.int16 if low >= -32768 and high <= 32767 else np.float32)


def _unreadable(path: str | Path, problem: RuntimeError) -> PathError | GeometryError:
    words = str(problem).replace(str(found(path)), "")
    if "direction" in words.lower() or "spacing" in words.lower():
        return GeometryError(
            f"{path}: its affine is singular, sheared, or has a negative or missing spacing, so voxels have no volume. "
            "Its header is damaged; write the volume again."
        )
    said = [line for line in words.splitlines() if line and not line.startswith("Reason:")]  # "file not found", always
    return PathError(
        f"{path} cannot be read: it is truncated or damaged, or the file that its header names is not there. Fetch it "
        f"again. (ITK: {said[-1][:200] if said else 'no reason'})"
    )
