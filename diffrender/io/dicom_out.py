"""A radiograph as DICOM: Digital X-Ray Image Storage - For Processing, derived from a CT."""

import json
import math
import secrets
import warnings
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import UInt16
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRLittleEndian,
    generate_uid,
)

from diffrender import __version__
from diffrender.camera import Camera, letters
from diffrender.xray import Radiograph

DERIVATION = (
    "Synthetic image: digitally reconstructed radiograph computed from CT by DiffRender; research use only, not for "
    "clinical use"
)
PRIVATE_CREATOR = "DIFFRENDER"
PRIVATE_GROUP = 0x0029
# (VR, meaning) of our private elements, by their last byte; none of them says anything of the patient.
PRIVATE = {"camera": (0x01, "UT"), "kind": (0x02, "LO"), "slope": (0x03, "FD"), "intercept": (0x04, "FD")}

# PS3.3 C.7.1.1, C.7.2.1, C.7.2.2: what stays the same for every image of this patient and this study.
PATIENT = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "OtherPatientIDs", "EthnicGroup",
)  # fmt: skip
STUDY = (
    "StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber",
    "StudyDescription", "PatientAge", "PatientSize", "PatientWeight",
)  # fmt: skip
EMPTY_IF_UNKNOWN = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName",
    "StudyID", "AccessionNumber",
)  # fmt: skip

_SECRET = secrets.token_hex(32)


def write_dicom(
    radiograph: Radiograph,
    values: UInt16[np.ndarray, "h w"],
    slope: float,
    intercept: float,
    file: BinaryIO | BytesIO,
    anonymous: bool = False,
) -> None:
    """Write the DICOM image of `dicom_image` into an open file."""
    buffer = BytesIO()  # where a disk is full, pydicom wraps that into an error of its own
    with warnings.catch_warnings():
        # A CT's own attributes may break the standard's rules; pydicom's warnings quote them, and so the patient.
        warnings.filterwarnings("ignore", module="pydicom")
        dataset = dicom_image(radiograph, values, slope, intercept, anonymous)
        dataset.save_as(buffer, enforce_file_format=True)
    file.write(buffer.getvalue())


def dicom_image(
    radiograph: Radiograph,
    values: UInt16[np.ndarray, "h w"],
    slope: float,
    intercept: float,
    anonymous: bool = False,
    uid_of: Callable[[str], str] | None = None,
) -> Dataset:
    """`values` (value = grey * slope + intercept) and what is known of them, as a DX image for processing.

    The radiograph's header {keyword: value} is that of the CT: patient and study are copied, FrameOfReferenceUID and
    PositionReferenceIndicator too, and where it holds SeriesInstanceUID and `SOPInstanceUIDs` (a list, one a slice) the
    CT is named as the source. With `anonymous` nothing of this is used. SOP instance and series are new each time;
    a study and a frame of reference that are not copied are new too, and shared by the pictures of one CT in one run.
    No time of ours is in it: that stands in the provenance file alone, and the standard asks for none.

    A DX image's rescale is 1 and 0 by the standard, so the values stand in its Real World Value Mapping. Image position
    and orientation have no place in it either: the exact camera is JSON in the private block "DIFFRENDER".
    `uid_of` gives the UIDs that are new, by their keyword, where they should not be random.
    Source: DICOM PS3.3 A.26 (Digital X-Ray Image IOD), C.8.11.
    """
    header = {} if anonymous else dict(radiograph.header or {})
    uid_of = uid_of or (lambda keyword: _new_uid(keyword, radiograph))
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pydicom")  # see `write_dicom`
        _identify(dataset, uid_of)
        _patient_and_study(dataset, header, anonymous, uid_of)
        _source(dataset, header, radiograph.header or {})
        _image(dataset, radiograph, values)
        _values(dataset, radiograph.kind, slope, intercept)
        _geometry(dataset, radiograph.camera)
        _private(dataset, radiograph, slope, intercept)
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def c_arm_angles(camera: Camera) -> tuple[float, float]:
    """(primary, secondary) [degrees] of the beam, as `c_arm` takes them; the image's own rotation is not in them.

    Source: DICOM PS3.3 C.8.7.5.1.2; the beam's direction is (-sin p cos s, cos p cos s, sin s).
    """
    x, y, z = camera.direction.tolist()
    if math.hypot(x, y) < 1e-9:  # along the body: any primary angle is the same
        return 0.0, math.copysign(90.0, z)
    return math.degrees(math.atan2(-x, y)) + 0.0, math.degrees(math.asin(max(-1.0, min(1.0, z))))


def view_position(camera: Camera) -> str | None:
    """DICOM's View Position where the beam runs within 15 degrees of a body axis: AP, PA, LL, RL; None otherwise.

    Source: DICOM PS3.3 C.8.11.5.1.1; LL has the left side at the detector.
    """
    return {"P": "AP", "A": "PA", "L": "LL", "R": "RL"}.get(letters(camera.direction.tolist()))


def _identify(dataset: Dataset, uid_of: Callable[[str], str]) -> None:
    dataset.SOPClassUID = DigitalXRayImageStorageForProcessing
    dataset.SOPInstanceUID = uid_of("SOPInstanceUID")
    dataset.SeriesInstanceUID = uid_of("SeriesInstanceUID")
    dataset.Modality = "DX"
    dataset.PresentationIntentType = "FOR PROCESSING"
    dataset.SeriesDescription = "DRR (research use only)"
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    dataset.Manufacturer = "DiffRender contributors"
    dataset.ManufacturerModelName = "DiffRender"
    dataset.SoftwareVersions = __version__
    dataset.AcquisitionContextSequence = Sequence()


def _patient_and_study(
    dataset: Dataset, header: Mapping[str, Any], anonymous: bool, uid_of: Callable[[str], str]
) -> None:
    for keyword in (*PATIENT, *STUDY):
        value = header.get(keyword)
        if value not in (None, "") or keyword in EMPTY_IF_UNKNOWN:
            setattr(dataset, keyword, "" if value is None else _values_of(value))
    if not dataset.get("StudyInstanceUID"):
        dataset.StudyInstanceUID = uid_of("StudyInstanceUID")
    dataset.FrameOfReferenceUID = header.get("FrameOfReferenceUID") or uid_of("FrameOfReferenceUID")
    dataset.PositionReferenceIndicator = header.get("PositionReferenceIndicator") or ""
    if anonymous:
        dataset.PatientIdentityRemoved = "YES"
        dataset.DeidentificationMethod = "DiffRender: nothing of the source's patient or study is copied"
        dataset.LongitudinalTemporalInformationModified = "REMOVED"


def _new_uid(keyword: str, radiograph: Radiograph) -> str:
    """A new UID: of image and series each time, of study and frame of reference the same for all pictures of one CT in
    one run, so that views of one patient stay together.

    The run's secret goes into it: nobody who knows the CT can work it out, and the next run's differs.
    """
    if keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        return generate_uid()
    original = (radiograph.header or {}).get(keyword) or radiograph.source
    return generate_uid(entropy_srcs=[_SECRET, keyword, ascii(original)]) if original else generate_uid()


def _source(dataset: Dataset, header: Mapping[str, Any], original: Mapping[str, Any]) -> None:
    dataset.DerivationDescription = DERIVATION
    dataset.ContentQualification = "RESEARCH"
    dataset.LossyImageCompression = "00"
    if str(original.get("LossyImageCompression", "")) == "01":  # once lossy, always lossy (PS3.3 C.7.6.1.1.5)
        dataset.LossyImageCompression = "01"
        if original.get("LossyImageCompressionRatio"):
            dataset.LossyImageCompressionRatio = _values_of(original["LossyImageCompressionRatio"])
    instances = [
        _item(ReferencedSOPClassUID=header.get("SOPClassUID") or CTImageStorage, ReferencedSOPInstanceUID=uid)
        for uid in header.get("SOPInstanceUIDs") or ()
    ]
    if instances:
        dataset.SourceImageSequence = Sequence(instances)
    if instances and header.get("SeriesInstanceUID") and header.get("StudyInstanceUID"):
        series = _item(SeriesInstanceUID=header["SeriesInstanceUID"], ReferencedInstanceSequence=Sequence(instances))
        dataset.ReferencedSeriesSequence = Sequence([series])


def _image(dataset: Dataset, radiograph: Radiograph, values: UInt16[np.ndarray, "h w"]) -> None:
    edges = radiograph.camera.orientation()
    dataset.ImageType = ["DERIVED", "SECONDARY", "", "DRR"]
    dataset.PatientOrientation = [edges["right"], edges["bottom"]]
    dataset.BurnedInAnnotation = "NO"
    dataset.AnatomicRegionSequence = Sequence()
    dataset.ImageLaterality = "U"
    dataset.Rows, dataset.Columns = values.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.PresentationLUTShape = "IDENTITY"
    dataset.PixelData = values.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"


def _values(dataset: Dataset, kind: str, slope: float, intercept: float) -> None:
    """How greys follow from the beam. Greys of log-attenuation rise where less of it arrives."""
    dataset.PixelIntensityRelationship, dataset.PixelIntensityRelationshipSign = _RELATIONSHIPS[kind]
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = 0, 1, "US"
    dataset.RealWorldValueMappingSequence = Sequence(
        [
            _item(
                RealWorldValueFirstValueMapped=0,
                RealWorldValueLastValueMapped=65535,
                RealWorldValueSlope=slope,
                RealWorldValueIntercept=intercept,
                LUTLabel=kind.upper()[:16],
                LUTExplanation=_EXPLANATIONS[kind],
                MeasurementUnitsCodeSequence=Sequence(
                    [_item(CodeValue="1", CodingSchemeDesignator="UCUM", CodeMeaning="no units")]
                ),
            )
        ]
    )
    for keyword in ("RealWorldValueFirstValueMapped", "RealWorldValueLastValueMapped"):
        dataset.RealWorldValueMappingSequence[0][keyword].VR = "US"


def _geometry(dataset: Dataset, camera: Camera) -> None:
    primary, secondary = c_arm_angles(camera)
    dataset.ImagerPixelSpacing = [_decimal(n) for n in camera.pixel_size]
    dataset.DetectorType = ""
    dataset.PositionerType = "CARM"
    dataset.PositionerPrimaryAngle, dataset.PositionerSecondaryAngle = _decimal(primary), _decimal(secondary)
    dataset.DistanceSourceToDetector = _decimal(camera.source_to_detector)
    view = view_position(camera)
    if view:
        dataset.ViewPosition = view


def _private(dataset: Dataset, radiograph: Radiograph, slope: float, intercept: float) -> None:
    block = dataset.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True)
    content = {
        "camera": json.dumps(radiograph.camera.to_dict()),
        "kind": radiograph.kind,
        "slope": slope,
        "intercept": intercept,
    }
    for name, (element, representation) in PRIVATE.items():
        block.add_new(element, representation, content[name])


def _item(**attributes: Any) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def _values_of(value: Any) -> Any:
    """Several values are a list to pydicom, never a tuple."""
    return list(value) if isinstance(value, tuple) else value


def _decimal(number: float) -> str:
    """A Decimal String: at most 16 characters, so ten significant digits."""
    return f"{number:.10g}" if abs(number) >= 1e-4 or number == 0 else f"{number:.8e}"


_RELATIONSHIPS = {"log-attenuation": ("LOG", -1), "intensity": ("LIN", 1)}
_EXPLANATIONS = {
    "log-attenuation": "p of I = I0 exp(-p)",
    "intensity": "I / I0, the share of the beam that arrives",
}
