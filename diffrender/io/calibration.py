"""Calibrated cameras as XMALab and Autoscoper write them (MayaCam 2.0): K, R and t as text."""

from pathlib import Path

import numpy as np
import torch

from diffrender.camera import Camera, camera_from_projection
from diffrender.errors import GeometryError, PathError
from diffrender.io.files import found

_SECTIONS = {"image size": 2, "camera matrix": 9, "rotation": 9, "translation": 3}
_ROTATION_TOLERANCE = 1e-4  # calibrations are written with twelve digits
BEYOND_ORIGIN = 1.5


def is_calibration(text: str) -> bool:
    """Whether a text begins as a calibration does."""
    return text.lstrip().lower().startswith("image size")


def read_calibration(path: str | Path, source_to_detector: float | None = None) -> Camera:
    """The camera of a calibration file: sections `image size` (width, height), `camera matrix`, `rotation`,
    `translation`.

    The world is that of the calibration object, taken as if it were RAS: x_camera = R x_world + t, x to the right, y
    down, z away from the source, pixel centres at integers as in OpenCV. What is sure is the rays; how large a pixel is
    and how far the detector, the file does not say.

    Args:
        source_to_detector: where to put the image plane [mm]; by default at 1.5 times the source's distance from the
            world's origin, as Autoscoper does.
    Raises: PathError where it is no such file, GeometryError for a matrix with skew or a rotation that is none.
    Source: Autoscoper (libautoscoper/src/Camera.cpp, loadMayaCam2), which turns y and z over for OpenGL and the row
        of the principal point with (height - 1) - c_y; XMALab writes the width first.
    """
    place = found(path)
    sections = _sections(path, place)
    width, height = sections["image size"]
    intrinsic = sections["camera matrix"].reshape(3, 3)
    rotation, translation = sections["rotation"].reshape(3, 3), sections["translation"]
    _check_rotation(path, rotation)
    if not (
        np.allclose(intrinsic[2], [0, 0, 1]) and intrinsic[1, 0] == 0 and min(intrinsic[0, 0], intrinsic[1, 1]) > 0
    ):
        raise GeometryError(
            f"{path}: the camera matrix is fx 0 cx; 0 fy cy; 0 0 1 with fx and fy above zero; it is "
            f"{intrinsic.tolist()}. Write the calibration again."
        )
    distance = float(np.linalg.norm(translation)) * BEYOND_ORIGIN if source_to_detector is None else source_to_detector
    matrix = intrinsic @ np.column_stack([rotation, translation])
    try:
        return camera_from_projection(
            torch.from_numpy(matrix),
            (int(height), int(width)),
            source_to_detector=distance,
            pixel_centres="integer",
        )
    except GeometryError as problem:
        raise GeometryError(f"{path}: {problem}") from None


def _sections(path: str | Path, place: Path) -> dict[str, np.ndarray]:
    try:
        lines = [line.strip() for line in place.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        raise PathError(f"{path} is no text file, so it is no calibration. Give the one that XMALab wrote.") from None
    numbers: dict[str, list[float]] = {}
    section = None
    for line in lines:
        if line.lower() in _SECTIONS:
            section = line.lower()
            numbers[section] = []
            continue
        try:
            values = [float(word) for word in line.replace(",", " ").split()]
        except ValueError:
            section = None  # a section that is not ours
            continue
        if section is not None:
            numbers[section].extend(values)
    wrong = [name for name, count in _SECTIONS.items() if len(numbers.get(name, ())) != count]
    if wrong:
        raise PathError(
            f"{path} is no whole calibration: {', '.join(wrong)} {'are' if len(wrong) > 1 else 'is'} missing or cut "
            f"short. It has the sections {', '.join(_SECTIONS)}, each with its numbers below it."
        )
    return {name: np.array(values) for name, values in numbers.items()}


def _check_rotation(path: str | Path, rotation: np.ndarray) -> None:
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > _ROTATION_TOLERANCE:
        raise GeometryError(
            f"{path}: the rotation is none: its rows are {[f'{n:.4g}' for n in np.linalg.norm(rotation, axis=1)]} long "
            "or do not meet at right angles. Write the calibration again with all its digits."
        )
    if np.linalg.det(rotation) < 0:
        raise GeometryError(
            f"{path}: the rotation is a reflection (determinant -1), so left and right would be exchanged. A "
            "calibration of a picture that is not mirrored has determinant +1; find out which axis was turned over."
        )
