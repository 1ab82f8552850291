"""Real DICOM files for tests: any lattice, tags and transfer syntax; named and numbered out of order on purpose.

Every patient is called Geheim^Name, so that a test can look for the name where it must not be.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.utils import iter_pixels
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    JPEGLosslessSV1,
    MRImageStorage,
    generate_uid,
)

PATIENT = "Geheim^Name"
PATIENT_ID = "4711-0815"
Edit = Callable[[Dataset, int], None]


def lattice(
    origin: Sequence[float], row: Sequence[float], column: Sequence[float], spacing: Sequence[float]
) -> np.ndarray:
    """LPS from voxel (4, 4): the column index grows along `row`, the row index along `column`; spacing (i, j, k) mm."""
    i = np.array(row, float) / np.linalg.norm(row)
    j = np.array(column, float) - i * (i @ column)
    j /= np.linalg.norm(j)
    matrix = np.eye(4)
    matrix[:3] = np.column_stack([i * spacing[0], j * spacing[1], np.cross(i, j) * spacing[2], origin])
    return matrix


def write_series(
    folder: Path,
    values: np.ndarray,
    lps_from_voxel: np.ndarray,
    *,
    slope: float | None = 1,
    intercept: float | None = -1024,
    signed: bool = False,
    modality: str = "CT",
    number: int = 3,
    series_uid: str | None = None,
    syntax: str = ExplicitVRLittleEndian,
    edit: Edit | None = None,
) -> list[Path]:
    """One file a slice of `values` (k, j, i), which are what a reader should get. Returns the files in the order of k.

    `edit(dataset, k)` changes what it likes before a slice is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    uid, study, frame = series_uid or generate_uid(), generate_uid(), generate_uid()
    shuffled = np.random.default_rng(7).permutation(len(values))
    files = []
    for k, slice_ in enumerate(values):
        dataset = _patient(study, frame, uid, number, modality)
        dataset.InstanceNumber = int(shuffled[k]) + 1
        dataset.ImagePositionPatient = [f"{x:.9g}" for x in lps_from_voxel[:3, 3] + k * lps_from_voxel[:3, 2]]
        dataset.ImageOrientationPatient = _orientation(lps_from_voxel)
        dataset.PixelSpacing = _spacing(lps_from_voxel)
        dataset.SliceThickness = 1.0
        if slope is not None:
            dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept
        _set_pixels(dataset, _stored(slice_, slope, intercept), signed)
        if edit is not None:
            edit(dataset, k)
        files.append(folder / f"IM{shuffled[k]:04d}.dcm")
        save(dataset, files[-1], syntax)
    return files


def write_enhanced(
    path: Path,
    values: np.ndarray,
    lps_from_voxel: np.ndarray,
    *,
    slopes: Sequence[float] | None = None,
    intercept: float = -1024,
    order: Sequence[int] | None = None,
    syntax: str = ExplicitVRLittleEndian,
    edit: Edit | None = None,
) -> Path:
    """One multi-frame (enhanced CT) file; frame n holds slice `order[n]`; with `slopes` each has its own rescale."""
    order = list(range(len(values))) if order is None else list(order)
    dataset = _patient(generate_uid(), generate_uid(), generate_uid(), 5, "CT")
    dataset.SOPClassUID = EnhancedCTImageStorage
    dataset.NumberOfFrames = len(values)
    shared = Dataset()
    shared.PixelMeasuresSequence = _items(PixelSpacing=_spacing(lps_from_voxel), SliceThickness="1")
    shared.PlaneOrientationSequence = _items(ImageOrientationPatient=_orientation(lps_from_voxel))
    if slopes is None:
        shared.PixelValueTransformationSequence = _rescale(1, intercept)
    own = []
    for k in order:
        group = Dataset()
        position = lps_from_voxel[:3, 3] + k * lps_from_voxel[:3, 2]
        group.PlanePositionSequence = _items(ImagePositionPatient=[f"{x:.9g}" for x in position])
        if slopes is not None:
            group.PixelValueTransformationSequence = _rescale(slopes[k], intercept)
        own.append(group)
    dataset.SharedFunctionalGroupsSequence = Items([shared])
    dataset.PerFrameFunctionalGroupsSequence = Items(own)
    stored = [_stored(values[k], 1 if slopes is None else slopes[k], intercept) for k in order]
    _set_pixels(dataset, np.stack(stored), False)
    if edit is not None:
        edit(dataset, 0)
    save(dataset, path, syntax)
    return path


def save(dataset: Dataset, path: Path, syntax: str) -> None:
    """Write the file, its pixels compressed where `syntax` is a compressed one."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    if syntax == JPEGLosslessSV1:
        _jpeg_lossless(dataset, path)
    elif UID(syntax).is_encapsulated:
        dataset.compress(syntax, generate_instance_uid=False)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path, enforce_file_format=True)


def _jpeg_lossless(dataset: Dataset, path: Path) -> None:
    """Frame by frame through GDCM: pydicom has no encoder for it, and GDCM alone would write the header anew."""
    import gdcm

    frame = path.with_suffix(".frame")
    coded = []
    for array in iter_pixels(dataset, raw=True):
        single = _patient("1.2.3", "1.2.3", "1.2.3", 1, "CT")
        single.file_meta = dataset.file_meta
        _set_pixels(single, array, bool(dataset.PixelRepresentation))
        single.save_as(frame, enforce_file_format=True)
        reader = gdcm.ImageReader()
        reader.SetFileName(str(frame))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(frame))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        coded.append(next(generate_frames(dcmread(frame).PixelData, number_of_frames=1)))
    frame.unlink()
    dataset.PixelData = encapsulate(coded)
    dataset["PixelData"].VR = "OB"


def _patient(study: str, frame: str, series: str, number: int, modality: str) -> Dataset:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = MRImageStorage if modality == "MR" else CTImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.StudyDate, dataset.StudyTime = "20240229", "121314"
    dataset.Modality = modality
    dataset.Manufacturer = "Nobody"
    dataset.SeriesDescription = "thin"
    dataset.PatientName, dataset.PatientID = PATIENT, PATIENT_ID
    dataset.PatientBirthDate, dataset.PatientSex = "19700101", "O"
    dataset.BodyPartExamined = "PELVIS"
    dataset.KVP = "120"
    dataset.PatientPosition = "HFS"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, series, frame
    dataset.SeriesNumber = number
    return dataset


def _stored(values: np.ndarray, slope: float | None, intercept: float | None) -> np.ndarray:
    stored = values if slope is None else (np.asarray(values, np.float64) - (intercept or 0)) / slope
    return np.rint(stored).astype(np.int64)


def _set_pixels(dataset: Dataset, stored: np.ndarray, signed: bool) -> None:
    assert stored.min() >= (-32768 if signed else 0), "these values need another intercept"
    assert stored.max() <= (32767 if signed else 65535), "these values need another slope"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, int(signed)
    dataset.PixelData = stored.astype("<i2" if signed else "<u2").tobytes()
    dataset["PixelData"].VR = "OW"


def _orientation(lps_from_voxel: np.ndarray) -> list[str]:
    axes = lps_from_voxel[:3, :2] / np.linalg.norm(lps_from_voxel[:3, :2], axis=0)
    return [f"{x:.9g}" for x in axes.T.ravel()]


def _spacing(lps_from_voxel: np.ndarray) -> list[str]:
    """DICOM's order: the row step, which is along j, comes first."""
    i, j = np.linalg.norm(lps_from_voxel[:3, :2], axis=0)
    return [f"{j:.9g}", f"{i:.9g}"]


def _rescale(slope: float, intercept: float) -> Items:
    return _items(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="HU")


def _items(**attributes: object) -> Items:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return Items([item])
