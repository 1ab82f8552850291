"""Radiographs from DICOM: XA, RF, DX, CR, of one frame or many."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from pydicom import dcmread
from pydicom.dataset import Dataset

from diffrender.camera import Camera
from diffrender.errors import DicomError
from diffrender.io.dicom import decoded
from diffrender.io.dicom_frames import frames_of
from diffrender.io.dicom_series import DAMAGE, Series, carried_header, quiet, series_of
from diffrender.io.files import Part, parts_of
from diffrender.io.laterality import check_orientation
from diffrender.io.pictures import grey
from diffrender.io.xray_geometry import camera_of, numbers_of, orientation_of, private_of, value_of
from diffrender.io.xray_shutters import border_of, exposed_of
from diffrender.xray import Radiograph

NOT_FRAMES = {"CT": "a CT slice", "MR": "an MR slice", "PT": "a PET slice", "SEG": "a segmentation", "US": "ultrasound"}
BONE_DARK = ("XA", "RF")  # modalities whose screens show bone dark; on the others it is bright

# (file, number of the frame in it, size) -> the camera that someone gave, or None for the file's own
Given = Callable[[str, int, tuple[int, int]], Camera | None]


def read_frames(path: str | Path, given: Given) -> list[Radiograph]:
    """Every frame of a file, a folder or a zip, by series and instance number.

    Raises: DicomError, GeometryError, PathError.
    """
    with parts_of(path) as parts:
        return [
            radiograph
            for series in series_of(path, parts)
            for part, _ in sorted(series.images, key=lambda image: _instance(image[1]))
            for radiograph in _frames(series, part, given)
        ]


def pixels_of(header: Dataset, index: int, stored: np.ndarray, name: str) -> tuple[Float32[np.ndarray, "h w"], str]:
    """What a frame's numbers mean: (pixels, kind).

    Numbers become shares of what their bits can say, 0 to 1. By Pixel Intensity Relationship (0028,1040): LIN is
    "intensity", LOG is "log-attenuation", whichever way its sign (0028,1041) makes the numbers run. DISP, and a frame
    that does not say, is read as it is shown (MONOCHROME1 turned round): where bone is dark it counts as "intensity",
    where bone is bright as "log-attenuation", so that 0 to 1 is what the window shows; nothing is cut off at its ends.
    A window on "intensity" is not used, since it would move the zero that the logarithm needs, nor is a VOI LUT.
    Source: DICOM PS3.3 C.8.7.1.1.2, C.8.11.3.1.2, C.11.2.
    """
    ours = private_of(header)
    if {"kind", "slope", "intercept"} <= set(ours) and stored.ndim == 2:
        return (stored * float(ours["slope"]) + float(ours["intercept"])).astype(np.float32), str(ours["kind"])
    low, high = _range(header)
    share = (grey(stored, name).astype(np.float64) - low) / (high - low)
    with_beam = _grows_with_beam(header, index)
    relationship = str(value_of(header, index, "PixelIntensityRelationship") or "DISP").strip().upper()
    if relationship == "LIN":
        return (share if with_beam else 1 - share).astype(np.float32), "intensity"
    if relationship == "LOG":
        return (1 - share if with_beam else share).astype(np.float32), "log-attenuation"
    inverted = _inverted(header)
    if with_beam is not inverted:  # bone is dark on the screen
        return (1 - share if inverted else share).astype(np.float32), "intensity"
    start, end = _window(header, index, low, high)
    shown = (share - start) / (end - start)
    return (1 - shown if inverted else shown).astype(np.float32), "log-attenuation"


def _frames(series: Series, part: Part, given: Given) -> Iterator[Radiograph]:
    header = header_of(part)
    modality = str(header.get("Modality") or "").strip().upper()
    if modality in NOT_FRAMES:
        raise DicomError(
            f"{part.name} is {NOT_FRAMES[modality]} (Modality, 0008,0060, {modality}), not an X-ray frame. Give XA, "
            "RF, DX or CR images; a CT is read by `read_volume`."
        )
    slices = frames_of(part, header)
    count = len(slices)
    _check_groups(header, count, part.name)
    carried = carried_header(series, slices[:1])
    with closing(decoded(part, header, list(range(count)))) as arrays:  # pyright: ignore[reportArgumentType]
        for index, (one, stored) in enumerate(zip(slices, arrays, strict=True)):
            size = (int(stored.shape[0]), int(stored.shape[1]))
            camera = given(part.name, index, size)
            if camera is None:
                camera = camera_of(header, index, count, size, one.name)
            elif (stated := orientation_of(header, index)) is not None:
                check_orientation(camera, stated, one.name)
            pixels, kind = pixels_of(header, index, stored, one.name)
            exposed = exposed_of(header, index, stored, one.name)
            if exposed is None and not private_of(header):
                exposed = border_of(pixels, kind, one.name)
            yield Radiograph(
                torch.from_numpy(pixels)[None],
                kind,
                camera,
                source=one.name,
                header=carried,
                exposed=None if exposed is None else torch.from_numpy(exposed),
            )


def header_of(part: Part) -> Dataset:
    """A file's header, without its pixels. Raises: DicomError where it breaks off."""
    try:
        with quiet(), part.open() as file:
            return dcmread(file, stop_before_pixels=True, force=True)
    except DAMAGE:
        raise DicomError(
            f"{part.name} is truncated or damaged: its DICOM header breaks off before the image begins. Export or copy "
            "the frame again."
        ) from None


def _check_groups(header: Dataset, count: int, name: str) -> None:
    groups = len(header.get("PerFrameFunctionalGroupsSequence") or [])
    if groups and groups < count:
        raise DicomError(
            f"{name} has {count} frames and {groups} geometries (Per-Frame Functional Groups, 5200,9230): fewer "
            "geometries than frames, so nobody knows which frame was taken from where. Export the run again."
        )


def _instance(header: Dataset) -> int:
    try:
        return int(header.get("InstanceNumber") or 0)
    except (TypeError, ValueError):
        return 0


def _range(header: Dataset) -> tuple[float, float]:
    """The lowest and the highest number that the stored bits can say."""
    bits = int(header.get("BitsStored") or header.get("BitsAllocated") or 16)
    signed = int(header.get("PixelRepresentation") or 0)
    return (float(-(2 ** (bits - 1))), float(2 ** (bits - 1) - 1)) if signed else (0.0, float(2**bits - 1))


def _inverted(header: Dataset) -> bool:
    return str(header.get("PhotometricInterpretation") or "").strip().upper() == "MONOCHROME1"


def _grows_with_beam(header: Dataset, index: int) -> bool:
    """Whether stored numbers are larger where more of the beam arrives; where it is not said, by what screens show."""
    sign = numbers_of(header, index, "PixelIntensityRelationshipSign")
    if sign and sign[0]:
        return sign[0] > 0
    dark = str(header.get("Modality") or "").strip().upper() in BONE_DARK
    return dark is not _inverted(header)


def _window(header: Dataset, index: int, low: float, high: float) -> tuple[float, float]:
    """The ends of the first window, as shares of the range of stored numbers; the whole range where there is none."""
    centre, width = (numbers_of(header, index, keyword) for keyword in ("WindowCenter", "WindowWidth"))
    slope, intercept = (numbers_of(header, index, keyword) for keyword in ("RescaleSlope", "RescaleIntercept"))
    a, b = (slope or [1.0])[0] or 1.0, (intercept or [0.0])[0]
    if not centre or not width or width[0] <= 1 or a < 0:
        return 0.0, 1.0
    exact = str(value_of(header, index, "VOILUTFunction") or "LINEAR").strip().upper() == "LINEAR_EXACT"
    middle, half = (centre[0], width[0] / 2) if exact else (centre[0] - 0.5, (width[0] - 1) / 2)
    start, end = ((edge - b) / a for edge in (middle - half, middle + half))
    return (start - low) / (high - low), (end - low) / (high - low)
