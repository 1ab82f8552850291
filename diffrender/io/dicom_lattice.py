"""From slices to a lattice: in order along their normal, evenly spaced, upright, or refused with the reason."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffrender.errors import DicomError
from diffrender.io.dicom_frames import Frame

# Positions are written with as little as one decimal: gaps that differ by less are the same gap, rounded.
GAP_TOLERANCE = (0.05, 0.12)  # share of the usual gap, and [mm]; the larger counts, up to a third of the usual gap
SAME_PLACE = 0.02  # of the usual gap
TILT_TOLERANCE = 0.1  # [degrees]: 0.7 mm over 400, about a pixel
SQUARE_TOLERANCE = 1e-3  # cosine between rows and columns


def check_alike(path: str | Path, frames: Sequence[Frame]) -> None:
    """Refuse slices without a place, and slices of another patient, frame of reference, size, spacing or orientation.

    Raises: DicomError.
    """
    _check_one(path, frames, "PatientID", "PatientID, 0010,0020", "They are not of one patient")
    _check_one(path, frames, "FrameOfReferenceUID", "FrameOfReferenceUID, 0020,0052", "Their positions do not compare")
    if not any(frame.header.get("SeriesInstanceUID") for frame in frames):
        meaning = "They have no SeriesInstanceUID (0020,000E) that would tell series apart"
        _check_one(path, frames, "StudyInstanceUID", "StudyInstanceUID, 0020,000D", meaning)
        _check_one(path, frames, "SeriesNumber", "SeriesNumber, 0020,0011", meaning)
    for frame in frames:
        _check_placed(frame)
    _check_same(path, frames, "size", [frame.size for frame in frames], "{0[1]} x {0[0]} pixels")
    spacings = [tuple(round(step, 4) for step in frame.pixel_spacing or ()) for frame in frames]
    _check_same(path, frames, "PixelSpacing", spacings, "pixels of {0[0]} x {0[1]} mm")
    axes = [tuple((np.round(np.array(frame.axes), 2) + 0.0).ravel().tolist()) for frame in frames]
    _check_same(path, frames, "orientation", axes, "ImageOrientationPatient {0}")


def in_order(path: str | Path, frames: Sequence[Frame]) -> tuple[list[Frame], np.ndarray]:
    """The slices as k grows, and the world (LPS) from voxel matrix (4, 4).

    They are ordered by position along the normal of the image, never by their number.
    Raises: DicomError for one slice, a missing or doubled one, uneven spacing, or a gantry tilt.
    """
    if len(frames) == 1:
        raise DicomError(
            f"{frames[0].name} is one slice only, and a volume needs at least two. Give the folder (or the zip) that "
            "holds the whole series."
        )
    row, column = frames[0].axes  # pyright: ignore[reportGeneralTypeIssues]
    if abs(row @ column) > SQUARE_TOLERANCE:
        raise DicomError(
            f"{frames[0].name}: its rows and columns do not meet at a right angle (ImageOrientationPatient, "
            "0020,0037): the header is damaged. Export the series again."
        )
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    column = np.cross(normal, row)
    frames = sorted(frames, key=lambda frame: float(frame.position @ normal))
    positions = np.array([frame.position for frame in frames])
    step = _check_gaps(path, frames, positions @ normal)
    _check_tilt(path, frames[0], positions, normal)
    row_step, column_step = frames[0].pixel_spacing or (0.0, 0.0)
    matrix = np.eye(4)
    matrix[:3] = np.column_stack([row * column_step, column * row_step, normal * step, positions[0]])
    return frames, matrix


def _check_placed(frame: Frame) -> None:
    if not frame.placed:
        raise DicomError(
            f"{frame.name} does not say where in the patient it lies (ImagePositionPatient, 0020,0032, or "
            "ImageOrientationPatient, 0020,0037, is missing or no number). Without it slices cannot be put in order; "
            "export the series again, from its source."
        )
    if frame.pixel_spacing is None:
        raise DicomError(
            f"{frame.name} has no PixelSpacing (0028,0030) of two numbers, so the size of its pixels is not known and "
            "every length would be a guess. Export the series again, from its source."
        )
    if min(frame.pixel_spacing) <= 0:
        raise DicomError(
            f"{frame.name} has a zero or negative spacing, {frame.pixel_spacing[0]:.4g} x {frame.pixel_spacing[1]:.4g} "
            "mm (PixelSpacing, 0028,0030): its header is damaged. Export the series again."
        )


def _check_one(path: str | Path, frames: Sequence[Frame], keyword: str, tag: str, meaning: str) -> None:
    """What it is does not matter, and may be a patient's: slices that do not say are taken for the others' own."""
    values = {str(frame.header.get(keyword)): frame for frame in reversed(frames) if frame.header.get(keyword)}
    if len(values) > 1:
        one, other, *_ = sorted(frame.name for frame in values.values())
        raise DicomError(
            f"{path} holds mixed slices in one series: {one} and {other} differ in what they belong to ({tag}). "
            f"{meaning}, and stacked they would be no scan. Keep the slices of one scan in the folder."
        )


def _check_same(path: str | Path, frames: Sequence[Frame], what: str, values: Sequence[tuple], shown: str) -> None:
    counts = {value: values.count(value) for value in dict.fromkeys(values)}
    if len(counts) == 1:
        return
    usual = max(counts, key=lambda value: counts[value])
    odd = next(n for n, value in enumerate(values) if value != usual)
    raise DicomError(
        f"{path} mixes slices of different {what} in one series: {counts[usual]} of {len(frames)} have "
        f"{shown.format(usual)}, {frames[odd].name} has {shown.format(values[odd])}. They are not one lattice. Keep "
        "the slices of one scan in the folder, and export overviews apart."
    )


def _check_gaps(path: str | Path, frames: Sequence[Frame], along: np.ndarray) -> float:
    """The distance of neighbouring slices [mm]."""
    gaps = np.diff(along)
    usual = float(np.median(gaps[gaps >= 1e-3 * gaps.max()]))  # also where most slices are there twice
    closest = int(np.argmin(gaps))
    if gaps[closest] <= SAME_PLACE * usual:
        doubled = int((gaps <= SAME_PLACE * usual).sum())
        raise DicomError(
            f"{frames[closest].name} and {frames[closest + 1].name} lie at the same position (ImagePositionPatient, "
            f"0020,0032){f', and so do {doubled - 1} more pairs' if doubled > 1 else ''}: slices are there twice, or "
            "several scans (phases, echoes) share one series. Keep one of each, or export one scan alone."
        )
    worst = int(np.argmax(np.abs(gaps - usual)))
    step = float(along[-1] - along[0]) / len(gaps)
    off = np.abs(along - along[0] - step * np.arange(len(along))).max()
    tolerance = max(GAP_TOLERANCE[0] * usual, min(GAP_TOLERANCE[1], usual / 3))
    if abs(gaps[worst] - usual) > tolerance or off > 0.25 * step:
        more = gaps[worst] > 1.5 * usual
        meaning = "A slice is probably missing" if more else "The slices are not evenly spaced"
        raise DicomError(
            f"{frames[worst].name} and {frames[worst + 1].name} lie {gaps[worst]:.2f} mm apart, the other slices of "
            f"this series {usual:.2f} mm (ImagePositionPatient, 0020,0032). {meaning}, and lengths across the gap "
            "would come out wrong. Export the series again, or crop it to one side."
        )
    return step


def _check_tilt(path: str | Path, first: Frame, positions: np.ndarray, normal: np.ndarray) -> None:
    way = positions - positions[0]
    height = way @ normal
    aside = np.linalg.norm(way - np.outer(height, normal), axis=1)
    angle = float(np.degrees(np.arctan2(aside[1:], height[1:]).max()))
    # The first few gaps are short, and rounding turns them; a tilt moves the last slice by what it is.
    if aside.max() > max(np.tan(np.radians(TILT_TOLERANCE)) * height[-1], 0.02):
        angle = float(np.degrees(np.arctan2(aside[-1], height[-1])))
        tag = first.header.get("GantryDetectorTilt")
        said = f", GantryDetectorTilt (0018,1120) says {float(tag):.1f}" if tag not in (None, "") else ""
        raise DicomError(
            f"{path} was scanned with a gantry tilt: its slices shift sideways by {angle:.1f} degrees against their "
            f"normal{said}. Stacked upright, the patient would be sheared. Resample the series onto an upright lattice "
            "first (3D Slicer's DICOM import does it: 'Acquisition geometry regularization')."
        )
