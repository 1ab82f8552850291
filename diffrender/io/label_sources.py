"""What every kind of label file is turned into before it is laid on a volume; and image files as such a source."""

import gzip
import re
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK
import torch

from diffrender.errors import LabelError, PathError
from diffrender.volume import check_affine

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
LARGEST_ID = 2**31 - 1  # what int32 holds
RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Structure:
    """The voxels of part `part` that hold `value`."""

    id: int
    name: str | None
    part: int
    value: int
    colour: tuple[float, float, float] | None = None  # red, green, blue, 0..1
    voxels: int | None = None  # how many, where that is known before the parts are read


@dataclass(frozen=True, eq=False)
class LabelSource:
    """The structures of a label file, and its voxels in parts, within each of which no structures overlap.

    Attributes:
        shown: the path as typed, for messages.
        structures: in the file's order; a structure whose id is 0 is background.
        parts: arrays (k, j, i) of whole numbers with their (4, 4) world_from_voxel, RAS [mm]; read when they are asked
            for, one at a time.
        frame_of_reference: DICOM's UID of the patient's coordinate system, where the file has one.
        ids_from_names: the file itself has names and no ids (a folder of masks).
    """

    shown: str
    structures: tuple[Structure, ...]
    parts: Iterable[tuple[np.ndarray, np.ndarray]]
    frame_of_reference: str | None = None
    ids_from_names: bool = False


def read_image(path: Path, shown: str) -> SimpleITK.Image:
    """An image file with three axes, or with a list axis besides. Raises: PathError, LabelError, GeometryError."""
    if not path.is_file():
        raise PathError(
            f"{shown} does not exist. Labels are a file, a folder of masks or a zip of one; check the path."
        )
    if path.stat().st_size == 0:
        raise PathError(f"{shown} is empty (0 bytes): the copy or the export broke off. Copy or export it again.")
    if path.name.lower().endswith((".nii", ".nii.gz")):
        _check_complete_nifti(path, shown)
    try:
        image = SimpleITK.ReadImage(str(path))
    except RuntimeError as error:
        raise LabelError(
            f"{shown} cannot be read as labels: {_reason(error)}. It is damaged, cut off or of another kind (labels "
            "are NIfTI, NRRD, .seg.nrrd, MHA, DICOM SEG, RTSTRUCT, or a folder or zip of masks). Export it again."
        ) from error
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    if image.GetDimension() != 3:
        raise LabelError(
            f"{shown} has {image.GetDimension()} axes {list(image.GetSize())}: labels lie on a lattice with three. "
            "Save one three-dimensional image (of a series over time, the one that belongs to this CT)."
        )
    check_affine(torch.from_numpy(lattice_of(image)), f"{shown}: its lattice")
    return image


def lattice_of(image: SimpleITK.Image) -> np.ndarray:
    """world_from_voxel (4, 4), RAS [mm], of an image whose header says LPS."""
    lps_from_voxel = np.eye(4)
    lps_from_voxel[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    lps_from_voxel[:3, 3] = image.GetOrigin()
    return RAS_FROM_LPS @ lps_from_voxel


def layers_of(image: SimpleITK.Image, shown: str) -> np.ndarray:
    """The voxels as (layer, k, j, i) whole numbers of the smallest type that holds them. Raises: LabelError."""
    array = SimpleITK.GetArrayViewFromImage(image)
    array = array[None] if array.ndim == 3 else np.moveaxis(array, -1, 0)
    return whole_numbers(array, shown)


def whole_numbers(array: np.ndarray, shown: str) -> np.ndarray:
    """A copy as uint8, int16 or int32, whichever is the first to hold all values; slice by slice.

    Raises: LabelError for NaN, fractions, negative numbers, and ids beyond int32.
    """
    planes = array.reshape(-1, *array.shape[-2:]) if array.flags.c_contiguous else [p for a in array for p in a]
    largest = 0
    for plane in planes:
        largest = max(largest, _largest(plane, shown))
    out = np.empty(array.shape, smallest_type(largest))
    for copy, plane in zip(out.reshape(-1, *out.shape[-2:]), planes, strict=True):
        copy[:] = plane
    return out


def _largest(plane: np.ndarray, shown: str) -> int:
    if np.issubdtype(plane.dtype, np.complexfloating):
        raise LabelError(f"{shown} holds complex numbers: labels are whole numbers. Export the label map instead.")
    if np.issubdtype(plane.dtype, np.floating):
        if np.isnan(plane).any():
            raise LabelError(f"{shown} holds NaN: labels are whole numbers, 0 for background. Replace NaN by 0.")
        odd = plane[np.rint(plane) != plane]
        if odd.size:
            raise LabelError(
                f"{shown} holds values such as {odd.flat[0]:.6g} that are not whole numbers: labels are ids. It may be "
                "a probability map, a CT, or labels resampled with interpolation; threshold it, or resample to the "
                "nearest neighbour."
            )
    low, high = plane.min(), plane.max()
    if low < 0 or high > LARGEST_ID:
        raise LabelError(
            f"{shown} holds the value {int(low if low < 0 else high)}: label ids go from 0 (background) to "
            f"{LARGEST_ID}. It may be a CT and no label map; check the path, or renumber the labels."
        )
    return int(high)


def smallest_type(largest: int) -> type:
    """The first of uint8, int16 and int32 (what torch 2.2 knows) that holds ids up to `largest`."""
    return np.uint8 if largest < 2**8 else np.int16 if largest < 2**15 else np.int32


def values_in(array: np.ndarray) -> dict[int, int]:
    """The non-zero values that occur, rising, and how many voxels hold each; by planes, as sorting a volume is slow."""
    found: dict[int, int] = {}
    for plane in array.reshape(-1, *array.shape[-2:]):
        if int(plane.max()) < 2**16:
            counts = np.bincount(plane.ravel())
            values = np.flatnonzero(counts)
            counts = counts[values]
        else:
            values, counts = np.unique(plane, return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            found[value] = found.get(value, 0) + count
    return {value: found[value] for value in sorted(found) if value}


def _reason(error: Exception) -> str:
    """The last words of ITK's several lines."""
    text = re.sub(r"\s+", " ", str(error).split("ITK ERROR:")[-1]).strip().rstrip(".")
    return re.sub(r"^\w+\(0x[0-9a-f]+\):\s*", "", text)[:200]


def _check_complete_nifti(path: Path, shown: str) -> None:
    """ITK reads a NIfTI that was cut off without a word and leaves the rest undefined; so its length is counted here.

    Source: nifti1.h and nifti2.h, NIMH: sizeof_hdr, dim, bitpix, vox_offset.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            head = file.read(352)
            expected = _nifti_length(head)
            length = len(head)
            while block := file.read(2**20):
                length += len(block)
    except (EOFError, zlib.error, gzip.BadGzipFile, struct.error) as error:
        raise LabelError(
            f"{shown} is cut off or damaged: its compressed data end early. Copy or export it again."
        ) from error
    if expected and length < expected:
        raise LabelError(
            f"{shown} is cut off: it holds {length} bytes and its header announces {expected}. Copy or export it again."
        )


def _nifti_length(head: bytes) -> int:
    """The bytes a single-file NIfTI needs; 0 where this is no such header, which ITK then says."""
    for order in "<>":
        if len(head) >= 348 and struct.unpack_from(order + "i", head)[0] == 348:
            dim = struct.unpack_from(order + "8h", head, 40)
            bits, offset = struct.unpack_from(order + "h", head, 72)[0], struct.unpack_from(order + "f", head, 108)[0]
        elif len(head) >= 348 and struct.unpack_from(order + "i", head)[0] == 540:
            dim, bits = struct.unpack_from(order + "8q", head, 16), struct.unpack_from(order + "h", head, 14)[0]
            offset = struct.unpack_from(order + "q", head, 168)[0]
        else:
            continue
        if not 1 <= dim[0] <= 7:
            return 0
        voxels = 1
        for n in dim[1 : dim[0] + 1]:
            voxels *= max(n, 1)
        return int(offset) + voxels * bits // 8
    return 0
