"""An image of a data set and its labels as DICOM: DX for processing, and a Segmentation that refers to it.

Both are marked DERIVED and synthetic and carry no patient unless asked to. They are the same bytes for the same image:
UIDs come from what the image is made of, and no time is in them. Source: DICOM PS3.3 A.26, A.51.
"""

import warnings
from collections.abc import Callable
from io import BytesIO

import highdicom
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from diffrender import __version__
from diffrender.io.dicom_out import DERIVATION, dicom_image
from diffrender.io.images import greys
from diffrender.xray import Radiograph

TIMES = ("ContentDate", "ContentTime", "InstanceCreationDate", "InstanceCreationTime")
ONE_A_DATA_SET = ("StudyInstanceUID", "FrameOfReferenceUID", "SeriesInstanceUID")  # of one CT


def dicom_files(name: str, ct: str, number: int, radiograph: Radiograph, patient: bool = False) -> dict[str, bytes]:
    """{file: bytes} of the image, and of the Segmentation of the labels in view where there are any.

    Args:
        name: of the image, without ending.
        ct: identifies CT and data set: its images are one series.
        number: of the image in it, from 1.
        patient: whether patient and study of the CT are copied; without, these fields are empty.
    """

    def uid_of(keyword: str) -> str:
        return generate_uid(entropy_srcs=[ct if keyword in ONE_A_DATA_SET else name, keyword])

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pydicom")
        image = dicom_image(radiograph, *greys(radiograph, name), anonymous=not patient, uid_of=uid_of)
        image.InstanceNumber = number
        files = {f"dicom/{name}.dcm": _bytes(image)}
        if radiograph.masks is not None and bool(radiograph.masks.any()):
            files[f"dicom/{name}.seg.dcm"] = _bytes(_segmentation(image, ct, number, radiograph, uid_of))
    return files


def _segmentation(
    image: Dataset, ct: str, number: int, radiograph: Radiograph, uid_of: Callable[[str], str]
) -> Dataset:
    assert radiograph.masks is not None
    masks = radiograph.masks.cpu().numpy().astype(bool)
    seen = [n for n, mask in enumerate(masks) if mask.any()]
    descriptions = [_description(k, radiograph.label_name(radiograph.ids[n])) for k, n in enumerate(seen, 1)]
    found = highdicom.seg.Segmentation(
        source_images=[image],
        pixel_array=np.moveaxis(masks[seen], 0, -1)[None].astype(np.uint8),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        series_instance_uid=generate_uid(entropy_srcs=[ct, "SegmentationSeries"]),
        series_number=2,
        sop_instance_uid=uid_of("SegmentationInstance"),
        instance_number=number,
        manufacturer="DiffRender contributors",
        manufacturer_model_name="DiffRender",
        software_versions=__version__,
        device_serial_number="0",
        content_description="Synthetic labels projected from CT",
        omit_empty_frames=False,
    )
    found.DerivationDescription = DERIVATION
    for item in (found, *found.get("DimensionOrganizationSequence", ()), *found.get("DimensionIndexSequence", ())):
        if "DimensionOrganizationUID" in item:
            item.DimensionOrganizationUID = uid_of("DimensionOrganizationUID")
    for item in found.ContributingEquipmentSequence:
        if "ContributionDateTime" in item:
            del item.ContributionDateTime
    for keyword in TIMES:  # the standard wants one; this one nobody takes for true
        if keyword in found:
            setattr(found, keyword, "19000101" if keyword.endswith("Date") else "000000")
    return found


def _description(number: int, name: str) -> highdicom.seg.SegmentDescription:
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=codes.SCT.Organ,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="DiffRender projection", family=codes.DCM.MorphologicalOperations, version=__version__
        ),
    )


def _bytes(dataset: Dataset) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
