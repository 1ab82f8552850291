"""DICOM X-ray frames for tests: any tags, one frame or many. Every patient is called Geheim^Name."""

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    XRayAngiographicImageStorage,
    generate_uid,
)

XA = {
    "DistanceSourceToDetector": 1180.0,
    "DistanceSourceToPatient": 760.0,
    "ImagerPixelSpacing": [0.6, 0.9],
    "PositionerPrimaryAngle": 27.0,
    "PositionerSecondaryAngle": -14.0,
    "PatientPosition": "HFS",
}


def picture(height: int = 30, width: int = 44, bits: int = 12) -> np.ndarray:
    """Greys that no flip, turn or transpose leaves alike, over all of what `bits` can say."""
    rows, columns = np.mgrid[:height, :width]
    values = (rows * 3 + columns * 7 + (rows * columns) // 5) % 211
    return (values * ((2**bits - 1) / values.max())).astype(np.uint16)


def write_frame(path: Path, pixels: np.ndarray, modality: str = "XA", bits: int = 12, **tags: Any) -> Path:
    """`pixels` (h, w) or (frame, h, w) or (h, w, 3) uint8 as a DICOM file. A tag that is None is left out."""
    dataset = Dataset()
    colour = pixels.ndim == 3 and pixels.shape[-1] == 3 and pixels.dtype == np.uint8
    storage = XRayAngiographicImageStorage if modality == "XA" else DigitalXRayImageStorageForPresentation
    dataset.SOPClassUID, dataset.SOPInstanceUID = storage, generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.PatientName, dataset.PatientID = "Geheim^Name", "4711-0815"
    dataset.Modality, dataset.InstanceNumber = modality, 1
    dataset.Rows, dataset.Columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    if pixels.ndim == 3 and not colour:
        dataset.NumberOfFrames = len(pixels)
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = 8 if colour else 16
    dataset.BitsStored = 8 if colour else bits
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, 0
    for keyword, value in tags.items():
        if value is not None:
            setattr(dataset, keyword, value)
    dataset.PixelData = pixels.astype(np.uint8 if colour else "<u2").tobytes()
    dataset["PixelData"].VR = "OB" if colour else "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = storage
    dataset.save_as(path, enforce_file_format=True)
    return path
