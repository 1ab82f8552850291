"""`read_volume`: the one way in for CT, whatever it is stored as, and the checks that all of them share."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from diffrender.errors import DicomError, ImageError, LabelError, SettingError, notify
from diffrender.io.files import kind_of, parts_of
from diffrender.volume import Volume

if TYPE_CHECKING:
    from diffrender.io.dicom_series import Series

# A CT holds air (-1000), or at least lung or fat; metal is cut off at 3071, or at 30000 on an extended scale.
PLAUSIBLE = (-200, 32000)  # [HU] the lowest value at most the first, the highest at most the second
POSSIBLE = 1e6  # [HU] some hundred times metal: beyond it numbers are no measurement, and one such voxel hides the rest


def read_volume(
    path: str | Path,
    labels: str | Path | None = None,
    names: str | Path | Mapping[int, str] | None = None,
    series: str | int | None = None,
) -> Volume:
    """A CT, or another scan, with or without labels; its world is RAS [mm], its values as stored, rescaled.

    Args:
        path: NIfTI, NRRD or MetaImage file; a DICOM file of many frames; a folder or a zip of DICOM files. What it is
            is seen by its bytes, not by its name.
        labels: what `diffrender.io.labels.read_labels` takes: a label volume, DICOM SEG or RTSTRUCT, a folder of masks.
            Labels on another lattice are resampled to the volume's.
        names: the table that names the labels: CSV or JSON, {id: name}, or "totalsegmentator-v1" or "-v2".
        series: of DICOM with several series: the number, the UID, or the UID's last digits.
    Returns: int16 where the file holds whole numbers that fit, float32 otherwise. `unit` is "HU" for a DICOM CT with a
        rescale to HU and for every format that cannot say what it holds (NIfTI, NRRD, MetaImage); of these give only CT
        where attenuation is meant, or set `unit` yourself. Other DICOM (MR, PET) is "arbitrary". Values counted as HU
        that look like none are said, and those beyond a million refused.
    Raises: PathError, ImageError, GeometryError, DicomError, LabelError, SettingError, MemoryNeedError. What is put
        right instead (a localizer left out, an inverted image, padding) is said as a Notice.
    """
    if names is not None and labels is None:
        raise LabelError(
            f"A table of names ({names}) was given for {path} without labels. Give `labels` too, or neither."
        )
    kind = kind_of(path)
    volume = _read(path, kind, series)
    check_values(path, volume)
    if labels is None:
        return volume
    from diffrender.io.labels import read_labels

    tensor, table = read_labels(labels, volume, names=names)
    return replace(volume, labels=tensor, names=table)


def list_series(path: str | Path) -> "list[Series]":
    """The series of DICOM images at `path`, by number; `str()` of one says what it is, with no patient's name.

    Raises: PathError, DicomError where there is none.
    """
    from diffrender.io.dicom_series import series_of

    if kind_of(path) not in ("folder", "zip", "dicom"):
        raise DicomError(
            f"{path} is no DICOM file, folder or zip, so it has no series. `read_volume` reads it without."
        )
    with parts_of(path) as parts:
        return series_of(path, parts)


def _read(path: str | Path, kind: str, series: str | int | None) -> Volume:
    if kind == "dicomdir":
        raise DicomError(
            f"{path} is a DICOMDIR, the index of a medium, not an image. Give the folder that holds it together with "
            "the images; the index itself is not needed."
        )
    if kind in ("folder", "zip", "dicom"):
        from diffrender.io.dicom import read_dicom

        return read_dicom(path, series)
    if series is not None:
        raise SettingError(f"{path} is one volume, no DICOM with several series; leave `series` ({series!r}) out.")
    if kind == "nifti":
        from diffrender.io.nifti import read_nifti

        return read_nifti(path)
    from diffrender.io.itk import read_itk

    return read_itk(path)


def check_values(path: str | Path, volume: Volume) -> None:
    low, high = (number.item() for number in torch.aminmax(volume.values))
    if not (abs(low) < float("inf") and abs(high) < float("inf")):  # NaN compares as False
        bad = sum(int((~torch.isfinite(slice_)).sum()) for slice_ in volume.values)
        raise ImageError(
            f"{path} holds NaN or Inf in {bad} of {volume.values.numel()} voxels. Every ray through one would be lost; "
            "fill them with air (-1000 HU) or what lies around, and save the volume again."
        )
    if low == high:
        raise ImageError(
            f"{path} is constant: every voxel is {low:g}. There is nothing in it to see; the export probably failed, "
            "or it is an empty mask."
        )
    if volume.unit == "HU":
        _check_hounsfield(path, low, high)


def _check_hounsfield(path: str | Path, low: float, high: float) -> None:
    span = f"{path} counts as HU and holds values from {low:g} to {high:g}"
    if max(-low, high) > POSSIBLE:
        raise ImageError(
            f"{span}: beyond a million no number is a Hounsfield unit, and a ray through one would hide all others. "
            "Correct these voxels (fill them with air, -1000), or save the volume again with its rescale."
        )
    if low > PLAUSIBLE[0] or high > PLAUSIBLE[1]:
        notify(
            f"{span}; these do not look like Hounsfield units (air is -1000, bone up to about 2000), and attenuation "
            "will be wrong. If this is a CT, export it with its rescale to HU; otherwise use it for pictures alone."
        )
