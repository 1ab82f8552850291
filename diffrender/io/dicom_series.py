"""Which DICOM images lie in a folder, a zip or a file, and which series they belong to."""

import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.uid import UID, MediaStorageDirectoryStorage

from diffrender.errors import DicomError, PathError, SettingError, notify
from diffrender.io.dicom_frames import Frame, frames_of
from diffrender.io.files import KNOWN, Part, found, is_dicom

# Read of every file while it is looked for; everything else of a series is read from one of its files.
_TAGS = """
    SOPClassUID SOPInstanceUID Modality ImageType SeriesInstanceUID SeriesNumber SeriesDescription PatientName PatientID
    ImagePositionPatient ImageOrientationPatient PixelSpacing GantryDetectorTilt NumberOfFrames Rows Columns
    SamplesPerPixel PhotometricInterpretation BitsAllocated BitsStored PixelRepresentation PixelPaddingValue
    PixelPaddingRangeLimit RescaleSlope RescaleIntercept RescaleType AcquisitionNumber InstanceNumber
    SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence FrameOfReferenceUID StudyInstanceUID
""".split()  # noqa: SIM905
# What a derived image carries on: of the patient, the study, the frame of reference, the series, the machine.
_CARRIED = """
    PatientName PatientID IssuerOfPatientID OtherPatientIDs EthnicGroup PatientBirthDate PatientSex PatientAge
    PatientSize PatientWeight StudyInstanceUID StudyID StudyDate StudyTime StudyDescription AccessionNumber
    ReferringPhysicianName FrameOfReferenceUID PositionReferenceIndicator SeriesInstanceUID SeriesNumber
    SeriesDescription SeriesDate SeriesTime Modality SOPClassUID BodyPartExamined Laterality PatientPosition
    ProtocolName KVP ConvolutionKernel ContrastBolusAgent Manufacturer ManufacturerModelName InstitutionName
    StationName DeviceSerialNumber SoftwareVersions LossyImageCompression LossyImageCompressionRatio
""".split()  # noqa: SIM905
XRAY_MODALITIES = ("CR", "DX", "XA", "RF", "RG", "MG", "PX", "IO")
# Whatever pydicom and the decoders under it raise for damaged files.
DAMAGE = (
    InvalidDicomError, ValueError, TypeError, AttributeError, KeyError, IndexError, NotImplementedError, EOFError,
    RuntimeError, OSError, struct.error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Series:
    """One series: the images that share a SeriesInstanceUID.

    Attributes:
        uid: SeriesInstanceUID.
        number: SeriesNumber.
        modality: "CT", "MR", ...
        description: SeriesDescription; without it where it holds the patient's name or number.
        images: its files and what was read of their headers; never printed.
    """

    uid: str
    number: int | None
    modality: str
    description: str
    images: Sequence[tuple[Part, Dataset]] = field(repr=False)

    @cached_property
    def frames(self) -> list[Frame]:
        """Its slices, those of multi-frame files one by one, in no order."""
        return [frame for part, header in self.images for frame in frames_of(part, header)]

    @property
    def is_volume(self) -> bool:
        """Whether two or more of its slices lie somewhere in the patient, and it is no segmentation."""
        slices = [frame for frame in self.frames if frame.placed and not frame.localizer]
        return len(slices) > 1 and self.modality != "SEG"

    def matches(self, wanted: str | int) -> bool:
        """Whether `wanted` is its number, its UID, or the last digits of its UID."""
        text = str(wanted).strip()
        return text == str(self.number) or (bool(text) and self.uid.endswith(text) and "." in text) or text == self.uid

    def __str__(self) -> str:
        frame = self.frames[0]
        number = "no number" if self.number is None else f"number {self.number}"
        description = f', "{self.description}"' if self.description else ""
        count = len(self.frames)
        return (
            f"{number}{description}, {self.modality or 'no modality'}, {count} slice{'' if count == 1 else 's'} of "
            f"{frame.size[1]} x {frame.size[0]}, {f'UID ...{self.uid[-12:]}' if self.uid else 'no UID'}"
        )


def series_of(path: str | Path, parts: Sequence[Part]) -> list[Series]:
    """Every series of images among `parts`, by number. Raises: PathError, DicomError where a file is damaged."""
    groups: dict[str, list[tuple[Part, Dataset]]] = {}
    skipped: list[Dataset] = []
    others = 0
    for part in parts:
        header = _header(part, alone=len(parts) == 1)
        if header is None:
            others += 1
        elif "Rows" not in header:
            skipped.append(header)
        else:
            groups.setdefault(str(header.get("SeriesInstanceUID") or ""), []).append((part, header))
    if not groups:
        raise _no_image(path, parts, skipped)
    return sorted(
        (_series(uid, images) for uid, images in groups.items()), key=lambda s: (s.number is None, s.number or 0)
    )


def chosen(path: str | Path, all_series: Sequence[Series], wanted: str | int | None) -> Series:
    """The series that `wanted` names, or the only one that is a volume.

    Raises: SettingError where it names none or several; DicomError where there are several volumes to choose from.
    """
    if wanted is not None:
        matching = [series for series in all_series if series.matches(wanted)]
        if len(matching) != 1:
            raise SettingError(
                f"{path} holds {'several' if matching else 'no'} series that {wanted!r} could mean. Give the number or "
                f"the last digits of the UID, dots included, of one of these: {_listed(all_series)}."
            )
        return matching[0]
    volumes = [series for series in all_series if series.is_volume]
    if len(volumes) > 1:
        raise DicomError(
            f"{path} holds {len(volumes)} series, and a volume is one. Say which with `series` (on the command line "
            f"--series), by its number or the last digits of its UID: {_listed(volumes)}."
        )
    if len(all_series) == 1:
        return all_series[0]
    if not volumes:
        raise DicomError(
            f"{path} holds {len(all_series)} series, none of them a volume (two or more slices with a place in the "
            f"patient): {_listed(all_series)}. Give the folder of a CT or MR series."
        )
    left = [series for series in all_series if series is not volumes[0]]
    notify(f"{path}: the volume is series {volumes[0]}. Left out: {_listed(left)}.")
    return volumes[0]


def carried_header(series: Series, frames: Sequence[Frame]) -> dict[str, Any]:
    """The attributes {keyword: value} that a derived image carries on; plain numbers, text and tuples.

    "SOPInstanceUIDs" is the tuple of the instances read, in the order of k (one UID for a multi-frame file).
    """
    with quiet(), frames[0].part.open() as file:
        dataset = dcmread(file, stop_before_pixels=True, force=True, specific_tags=list(_CARRIED))
        header = {word: _plain(dataset[word].value) for word in _CARRIED if word in dataset}
        uids = dict.fromkeys(str(frame.header.get("SOPInstanceUID") or "") for frame in frames)
    header["SOPInstanceUIDs"] = tuple(uid for uid in uids if uid)
    return {word: value for word, value in header.items() if value not in (None, "", ())}


@contextmanager
def quiet() -> Iterator[None]:
    """pydicom's warnings quote values, and a value may be a patient's name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _header(part: Part, alone: bool) -> Dataset | None:
    """What is needed of one file; None where it is not DICOM, or only the index of a medium."""
    try:
        with part.open() as file:
            head = file.read(1024)
            if not is_dicom(head):
                _check_stranger(part, head, alone)
                return None
            file.seek(0)
            with quiet():
                dataset = dcmread(file, stop_before_pixels=True, force=True, specific_tags=list(_TAGS))
                storage = str(dataset.file_meta.get("MediaStorageSOPClassUID") or dataset.get("SOPClassUID") or "")
    except DAMAGE as problem:
        raise _damaged(part, problem) from None
    if storage == MediaStorageDirectoryStorage:
        return None
    if "Rows" not in dataset and ("Image Storage" in UID(storage).name or not storage):
        raise _without_size(part) if "BitsAllocated" in dataset else _damaged(part, None)
    return dataset


def _damaged(part: Part, problem: BaseException | None) -> DicomError | PathError:
    if isinstance(problem, OSError) and problem.strerror:
        return PathError(
            f"{part.name} cannot be read: {problem.strerror}. Check who may read it, and that it is there."
        )
    return DicomError(
        f"{part.name} is truncated or damaged: its DICOM header breaks off before the image begins. A slice of the "
        "series would be missing; export or copy the series again."
    )


def _without_size(part: Part) -> DicomError:
    return DicomError(
        f"{part.name} has no Rows (0028,0010), so the size of its image is not known: its header is damaged. A slice "
        "of the series would be missing; export or copy the series again."
    )


def _check_stranger(part: Part, head: bytes, alone: bool) -> None:
    if not head and (alone or part.name.lower().endswith((".dcm", ".ima")) or "." not in part.name[-5:]):
        raise PathError(
            f"{part.name} is empty (0 bytes): its copy or export broke off, and a slice may be missing. Export the "
            "series again, or delete the file if it is none of it."
        )
    if head and part.name.lower().endswith((".dcm", ".ima")):
        raise DicomError(
            f"{part.name} is named as DICOM, but its bytes are not: it is damaged, or something else. Export the "
            "series again, or take the file out of the folder."
        )


def _no_image(path: str | Path, parts: Sequence[Part], skipped: Iterable[Dataset]) -> PathError | DicomError:
    if not parts:
        what = "folder" if found(path).is_dir() else "zip"
        return PathError(f"{path} is an empty {what}. Give the one that holds the images.")
    kinds = sorted({str(header.get("Modality") or "unknown") for header in skipped})
    if kinds:
        return DicomError(
            f"{path} holds DICOM files, but no image (modality {', '.join(kinds)}): reports, plans or structures. Give "
            "the folder of the CT or MR images; labels are given beside it."
        )
    if any(Path(part.name).name.upper() == "DICOMDIR" for part in parts):
        return DicomError(
            f"{path} holds a DICOMDIR only: that is the index of a medium, without its images. Copy the whole medium, "
            "the folders that the index names included, and give its top folder."
        )
    names = ", ".join(Path(part.name).name for part in parts[:3]) + (", ..." if len(parts) > 3 else "")
    return PathError(
        f"{path} holds no DICOM image, but {len(parts)} other file{'' if len(parts) == 1 else 's'} ({names}). A CT is "
        f"read from {KNOWN}; of the formats that are one file, give that file."
    )


def _series(uid: str, images: Sequence[tuple[Part, Dataset]]) -> Series:
    header = images[0][1]
    with quiet():
        try:
            number = int(header["SeriesNumber"].value)
        except DAMAGE:
            number = None
        series = Series(uid, number, str(header.get("Modality") or ""), _harmless(header), images)
    patients: dict[str, str] = {}
    for _, header in images:  # so that no traceback that shows its variables shows them
        # A number in place of the patient's still tells two of them apart: see `check_alike`.
        patient = str(header.get("PatientID") or "").strip()
        for keyword in ("PatientName", "PatientID", "SeriesDescription"):
            if keyword in header:
                del header[keyword]
        if patient:
            header.PatientID = patients.setdefault(patient, str(len(patients) + 1))
    return series


def _harmless(header: Mapping[Any, Any] | Dataset) -> str:
    """The series' description, unless someone wrote the patient into it."""
    text = " ".join(str(header.get("SeriesDescription") or "").split())
    secrets = str(header.get("PatientName") or "").replace("^", " ").replace("=", " ").split()
    secrets.append(str(header.get("PatientID") or ""))
    return "" if any(len(secret) > 2 and secret.lower() in text.lower() for secret in secrets) else text


def _listed(all_series: Iterable[Series]) -> str:
    return "; ".join(f"({n}) {series}" for n, series in enumerate(all_series, 1))


def _plain(value: Any) -> Any:
    """Numbers and text as they are, without pydicom's memory of what they were read from."""
    if isinstance(value, list | tuple | MultiValue):
        return tuple(_plain(entry) for entry in value)
    if value is None or isinstance(value, Decimal):
        return None if value is None else float(value)
    return float(value) if isinstance(value, float) else int(value) if isinstance(value, int) else str(value)
