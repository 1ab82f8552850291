"""What every kind of label file is turned into before it is laid on a volume; and image files as such a source."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK
import torch

from diffrender.errors import InputError, LabelError, PathError
from diffrender.io.files import found, kind_of
from diffrender.io.itk import ITK_READERS, RAS_FROM_LPS, reason
from diffrender.io.nifti import read_nifti
from diffrender.quiet import without_native_output
from diffrender.volume import check_affine

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
# Networks leave a few stray voxels of structures that are not there, and tables made from their masks leave these out:
# 4 of 340786 labelled voxels in a real pair. A thousandth is far more, and less than a rib.
SPECK = 1e-3
LARGEST_ID = 2**24  # up to here single-precision numbers, in which label maps come too, tell whole numbers apart


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
        cropped: its format leaves out what is empty, so that a smaller lattice of the same voxels is no news.
    """

    shown: str
    structures: tuple[Structure, ...]
    parts: Iterable[tuple[np.ndarray, np.ndarray]]
    frame_of_reference: str | None = None
    ids_from_names: bool = False
    cropped: bool = False


@dataclass(frozen=True, eq=False)
class LabelImage:
    """An image file: layers (layer, k, j, i) of whole numbers, world_from_voxel (4, 4) RAS [mm], header fields."""

    layers: np.ndarray
    world_from_voxel: np.ndarray
    fields: dict[str, str]


def read_label_image(path: Path, shown: str) -> LabelImage:
    """A label map of three axes, or with a list axis besides. Raises: as `read_labels`, and ImageError."""
    try:
        place = found(path)
        try:
            kind = kind_of(place)
        except PathError:
            kind = ""  # of no kind that a CT comes in: ITK is asked all the same
        if kind == "nifti":  # by the same hand as the CT, so that their lattices agree
            volume = read_nifti(place)
            return LabelImage(whole_numbers(volume.values.numpy()[None], shown), volume.world_from_voxel.numpy(), {})
        return _read_by_itk(place, shown, ITK_READERS.get(kind, ""))
    except InputError as error:  # a file from a zip lies elsewhere for the moment
        raise type(error)(str(error).replace(str(path), shown)) from None


def _read_by_itk(place: Path, shown: str, reader: str) -> LabelImage:
    try:
        with without_native_output():
            image = SimpleITK.ReadImage(str(place), imageIO=reader)
    except RuntimeError as error:
        raise LabelError(
            f"{shown} cannot be read as labels: {reason(error)}, or of another kind (labels are NIfTI, NRRD, "
            ".seg.nrrd, MHA, DICOM SEG, RTSTRUCT, or a folder or zip of masks). Export it again."
        ) from None
    fields = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    if image.GetDimension() != 3:
        raise LabelError(
            f"{shown} has {image.GetDimension()} axes {list(image.GetSize())}: labels lie on a lattice with three. "
            "Save one three-dimensional image (of a series over time, the one that belongs to this CT)."
        )
    lps_from_voxel = np.eye(4)
    lps_from_voxel[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    lps_from_voxel[:3, 3] = image.GetOrigin()
    world_from_voxel = RAS_FROM_LPS @ lps_from_voxel
    check_affine(torch.from_numpy(world_from_voxel), f"{shown}: its affine")
    array = SimpleITK.GetArrayViewFromImage(image)
    layers = array[None] if array.ndim == 3 else np.moveaxis(array, -1, 0)
    return LabelImage(whole_numbers(layers, shown), world_from_voxel, fields)


def whole_numbers(array: np.ndarray, shown: str) -> np.ndarray:
    """A copy as uint8, int16 or int32, whichever is the first to hold all values; slice by slice.

    Raises: LabelError for NaN, fractions, negative numbers, and ids beyond int32.
    """
    planes = [plane for layer in array for plane in layer]
    largest = max(_largest(plane, shown) for plane in planes)
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
