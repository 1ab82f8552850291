"""How a frame was taken, when a person says it: cameras, geometry files, projection matrices, calibrations.

`docs/frame-geometry.md` has the formats, with examples.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.camera import Camera, c_arm, camera_from_projection
from diffrender.errors import GeometryError, PathError, notify
from diffrender.io.calibration import is_calibration, read_calibration
from diffrender.io.files import found
from diffrender.io.laterality import check_orientation
from diffrender.xray import KINDS

FORMAT = 1
BEYOND_ORIGIN = 1.5  # the image plane of a bare matrix, in distances from its source to the world's origin
_COMMON = ("format", "geometry", "image", "kind", "orientation", "image_size")
_C_ARM = (
    "primary_angle", "secondary_angle", "source_to_detector", "source_to_isocenter", "pixel_size", "isocenter",
    "principal_point", "rotation", "horizontal_flip",
)  # fmt: skip
_PROJECTION = ("matrix", "world", "pixel_centres", "depth", "pixel_size", "source_to_detector")


@dataclass(frozen=True)
class FrameGeometry:
    """What is known of how one frame was taken.

    Attributes:
        camera_for: the camera for an image of (h, w) pixels; raises GeometryError.
        kind: "log-attenuation" or "intensity", where it is said.
        image: the picture's file, where it is said.
    """

    camera_for: Callable[[tuple[int, int]], Camera]
    kind: str | None = None
    image: str | None = None


def geometries_of(given: Any) -> list[FrameGeometry]:
    """What `camera=` may be, as one geometry a frame (or one for all).

    Args:
        given: a Camera; a 3 x 4 matrix (RAS mm to column, row, 1; pixel centres at half integers); a mapping or a list
            in the words of `docs/frame-geometry.md`; the path of a JSON file with such, of a text or .npy file with a
            3 x 4 matrix, or of a calibration (`read_calibration`); a sequence of any of these.
    Raises: GeometryError, PathError.
    """
    if isinstance(given, FrameGeometry):
        return [given]
    if isinstance(given, Camera):
        return [FrameGeometry(_sized(given, "The camera"))]
    if isinstance(given, str | Path):
        return _read(given)
    if isinstance(given, Mapping):
        return [_from_words(given, "The geometry")]
    matrix = _matrix(given)
    if matrix is not None:
        return [_from_matrix(matrix, "The projection matrix")]
    if isinstance(given, Sequence) and given:
        return [geometry for one in given for geometry in geometries_of(one)]
    raise GeometryError(
        f"{type(given).__name__} is no geometry of a frame. Give a Camera, a 3 x 4 matrix, a JSON file, or a list of "
        "these; docs/frame-geometry.md has the formats."
    )


def _read(path: str | Path) -> list[FrameGeometry]:
    place = found(path)
    if place.is_dir():
        raise PathError(f"{path} is a folder, not the geometry of a frame. Give the JSON file in it.")
    if place.suffix.lower() == ".npy":
        return [_from_matrix(_table(path, np.load(place, allow_pickle=False)), str(path))]
    try:
        text = place.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise PathError(
            f"{path} is no text, so it is no geometry of a frame. Give JSON, a 3 x 4 matrix or a calibration as text; "
            "docs/frame-geometry.md has the formats."
        ) from None
    if is_calibration(text):
        return [FrameGeometry(_sized(read_calibration(path), str(path)))]
    if text.lstrip()[:1] in ("{", "["):
        return _from_json(path, text)
    try:
        numbers = np.loadtxt(text.replace(",", " ").splitlines(), dtype=np.float64)
    except ValueError:
        raise PathError(
            f"{path} is neither JSON, nor a 3 x 4 matrix, nor a calibration (image size, camera matrix, rotation, "
            "translation). docs/frame-geometry.md has the formats."
        ) from None
    return [_from_matrix(_table(path, numbers), str(path))]


def _from_json(path: str | Path, text: str) -> list[FrameGeometry]:
    try:
        data = json.loads(text)
    except ValueError as problem:
        raise PathError(f"{path} is no JSON file ({problem}). docs/frame-geometry.md has examples.") from None
    if isinstance(data, Mapping) and isinstance(data.get("frames"), list):
        _check_format(data, str(path))
        data = [{"format": FORMAT, **frame} if isinstance(frame, Mapping) else frame for frame in data["frames"]]
    if _matrix(data) is not None:
        return geometries_of(data)
    entries = data if isinstance(data, list) else [data]
    if not entries:
        raise GeometryError(f"{path} holds an empty list, no geometry. Give one for each frame, or one for all.")
    several = len(entries) > 1
    return [_from_words(entry, f"{path}, entry {n}" if several else str(path)) for n, entry in enumerate(entries, 1)]


def _from_words(data: Any, where: str) -> FrameGeometry:
    if not isinstance(data, Mapping):
        raise GeometryError(f"{where}: the geometry of a frame is a JSON object, not {data!r:.60}.")
    if "world_from_camera" in data and "geometry" not in data:
        camera = _worded(lambda: Camera.from_dict(data), where)
        return FrameGeometry(_checked(_sized(camera, where), data, where), _kind(data, where), data.get("image"))
    _check_format(data, where)
    makers = {"c-arm": (_C_ARM, _c_arm), "projection": (_PROJECTION, _projection)}
    if data.get("geometry") not in makers:
        raise GeometryError(
            f'{where}: "geometry" is {" or ".join(repr(name) for name in makers)}, not {data.get("geometry")!r}; or '
            "give a camera with world_from_camera. docs/frame-geometry.md has examples."
        )
    known, make = makers[data["geometry"]]
    unknown = [key for key in data if key not in (*_COMMON, *known)]
    if unknown:
        raise GeometryError(f"{where}: unknown {', '.join(unknown)}. Known are {', '.join((*_COMMON, *known))}.")

    def camera_for(size: tuple[int, int]) -> Camera:
        taken = tuple(_numbers(data, "image_size", 2, where)) if "image_size" in data else size
        camera = _worded(lambda: make(data, (int(taken[0]), int(taken[1])), where), where)
        return _sized(camera, where)(size)

    return FrameGeometry(_checked(camera_for, data, where), _kind(data, where), data.get("image"))


def _c_arm(data: Mapping[str, Any], size: tuple[int, int], where: str) -> Camera:
    """Angles and distances as DICOM XA has them, for people who have a C-arm and no DICOM."""
    _need(data, ("source_to_detector", "source_to_isocenter", "pixel_size"), where)
    distance, to_isocentre = (_number(data, key, where) for key in ("source_to_detector", "source_to_isocenter"))
    turn = data.get("rotation", 0)
    if turn not in (0, 90, 180, 270) or not isinstance(data.get("horizontal_flip", False), bool):
        raise GeometryError(
            f'{where}: "rotation" is 0, 90, 180 or 270 degrees clockwise and "horizontal_flip" true or false; found '
            f"{turn!r} and {data.get('horizontal_flip')!r}."
        )
    camera = c_arm(
        _numbers(data, "isocenter", 3, where) if "isocenter" in data else (0.0, 0.0, 0.0),
        _number(data, "primary_angle", where, 0.0),
        _number(data, "secondary_angle", where, 0.0),
        distance,
        to_isocentre,
        _pixel_size(data, where),
        size,
    )
    camera = turned(camera, int(turn), data.get("horizontal_flip", False))
    if "principal_point" in data:
        row, column = _numbers(data, "principal_point", 2, where)
        camera = replace(camera, principal_point=(row, column))
    return camera


def _projection(data: Mapping[str, Any], size: tuple[int, int], where: str) -> Camera:
    _need(data, ("matrix",), where)
    matrix = _matrix(data["matrix"])
    if matrix is None:
        raise GeometryError(f'{where}: "matrix" is 3 x 4 numbers, RAS or LPS mm to (column, row, 1).')
    world, depth = data.get("world", "RAS"), data.get("depth", "to-detector")
    if world not in ("RAS", "LPS") or depth not in ("to-detector", "to-source"):
        raise GeometryError(
            f'{where}: "world" is RAS or LPS and "depth" to-detector or to-source; found {world!r}, {depth!r}.'
        )
    if world == "LPS":
        matrix = matrix @ torch.diag(torch.tensor([-1.0, -1, 1, 1], dtype=torch.float64))
    if "pixel_size" not in data and "source_to_detector" not in data:
        distance = _beyond_origin(matrix)
    else:
        distance = _number(data, "source_to_detector", where) if "source_to_detector" in data else None
    pixels = _pixel_size(data, where) if "pixel_size" in data else None
    centres = data.get("pixel_centres", "half")
    return camera_from_projection(matrix, size, pixels, distance, centres, flip_depth=depth == "to-source")


def turned(camera: Camera, clockwise: int, flip: bool) -> Camera:
    """The camera of the picture turned `clockwise` (0, 90, 180, 270 degrees), then with `flip` mirrored left-right.

    `camera` tells the place of the detector and, by its image_size and pixel_size, of the picture as it is **after**
    turning; the principal point is moved along with the picture. Source: DICOM PS3.3, (0018,7032) and (0018,7034).
    """
    x, y, z = camera.world_from_camera[:3, :3].unbind(1)
    (h, w), (row_step, column_step), (row, column) = camera.image_size, camera.pixel_size, camera.principal_point
    across, down = (column - w / 2) * column_step, (row - h / 2) * row_step  # of the principal point, before [mm]
    for _ in range(clockwise // 90):  # what was up is now on the right, what was right is below
        x, y, across, down = -y, x, -down, across
    if flip:
        x, across = -x, -across
    matrix = camera.world_from_camera.clone()
    matrix[:3, :3] = torch.stack([x, y, z], dim=1)
    point = (h / 2 + down / row_step, w / 2 + across / column_step)
    return replace(camera, world_from_camera=matrix, principal_point=point)


def _sized(camera: Camera, where: str) -> Callable[[tuple[int, int]], Camera]:
    """The camera for an image that may be a smaller or larger copy of what it took."""

    def camera_for(size: tuple[int, int]) -> Camera:
        if camera.image_size == size:
            return camera
        scales = size[0] / camera.image_size[0], size[1] / camera.image_size[1]
        if abs(scales[0] - scales[1]) * max(camera.image_size) > 1:  # a reduced size is rounded to whole pixels
            raise GeometryError(
                f"{where} takes {camera.image_size[0]} x {camera.image_size[1]} pixels (rows x columns), and the image "
                f"has {size[0]} x {size[1]}: it is no copy of it at another size. Give the geometry of this image; "
                "where it was cropped, move principal_point by what was cut off above and on the left."
            )
        notify(
            f"{where} takes {camera.image_size[0]} x {camera.image_size[1]} pixels and the image has {size[0]} x "
            f"{size[1]}: it is taken as a copy at another size."
        )
        return camera.resized(size)

    return camera_for


def _checked(
    camera_for: Callable[[tuple[int, int]], Camera], data: Mapping[str, Any], where: str
) -> Callable[[tuple[int, int]], Camera]:
    stated = data.get("orientation")
    if stated is None:
        return camera_for
    if not (isinstance(stated, list | tuple) and len(stated) == 2 and all(isinstance(one, str) for one in stated)):
        raise GeometryError(
            f'{where}: "orientation" is where the image\'s right and lower edges look in the patient, as in '
            f'["L", "F"]; found {stated!r}.'
        )

    def camera_and_check(size: tuple[int, int]) -> Camera:
        camera = camera_for(size)
        check_orientation(camera, stated, where)
        return camera

    return camera_and_check


def _from_matrix(matrix: Float[Tensor, "3 4"], where: str) -> FrameGeometry:
    return FrameGeometry(
        lambda size: _worded(lambda: camera_from_projection(matrix, size, None, _beyond_origin(matrix)), where)
    )


def _beyond_origin(matrix: Float[Tensor, "3 4"]) -> float:
    """Where to put the image plane of a matrix that tells only the rays [mm from the source]."""
    try:
        source = -torch.linalg.solve(matrix[:, :3], matrix[:, 3])
    except RuntimeError:
        return 1000.0  # singular: `camera_from_projection` says so
    distance = float(source.norm()) * BEYOND_ORIGIN
    return distance if math.isfinite(distance) and distance > 0 else 1000.0


def _matrix(given: Any) -> Tensor | None:
    """Three rows of four numbers; None for anything else."""
    if isinstance(given, Tensor):
        given = given.detach().cpu().numpy()
    try:
        matrix = torch.as_tensor(np.array(given, dtype=np.float64))
    except (TypeError, ValueError):
        return None
    return matrix if matrix.shape == (3, 4) else None


def _table(path: str | Path, numbers: np.ndarray) -> Tensor:
    if numbers.shape != (3, 4) or numbers.dtype.kind not in "fiu":
        raise GeometryError(
            f"{path} holds {' x '.join(str(n) for n in numbers.shape)} numbers; a projection matrix is 3 x 4, RAS mm "
            "to (column, row, 1). For other conventions write a geometry JSON; see docs/frame-geometry.md."
        )
    return torch.as_tensor(numbers.astype(np.float64))


def _worded(make: Callable[[], Camera], where: str) -> Camera:
    try:
        return make()
    except GeometryError as problem:
        raise GeometryError(f"{where}: {problem}") from None


def _check_format(data: Mapping[str, Any], where: str) -> None:
    if data.get("format") != FORMAT:
        raise GeometryError(
            f'{where}: "format" is {FORMAT}, not {data.get("format")!r}. docs/frame-geometry.md has this format.'
        )


def _kind(data: Mapping[str, Any], where: str) -> str | None:
    kind = data.get("kind")
    if kind not in (None, *KINDS):
        raise GeometryError(f'{where}: "kind" is log-attenuation (bone bright) or intensity (bone dark), not {kind!r}.')
    return kind


def _need(data: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    missing = [key for key in keys if key not in data]
    if missing:
        raise GeometryError(f"{where} lacks {', '.join(missing)}. docs/frame-geometry.md says what they are.")


def _number(data: Mapping[str, Any], key: str, where: str, default: float | None = None) -> float:
    value = data.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise GeometryError(f'{where}: "{key}" is a number, not {value!r}.')
    return float(value)


def _numbers(data: Mapping[str, Any], key: str, count: int, where: str) -> list[float]:
    value = data.get(key)
    if not isinstance(value, list | tuple) or len(value) != count:
        raise GeometryError(f'{where}: "{key}" is {count} numbers, not {value!r}.')
    return [_number({key: one}, key, where) for one in value]


def _pixel_size(data: Mapping[str, Any], where: str) -> tuple[float, float]:
    size = data["pixel_size"]
    row, column = (size, size) if isinstance(size, int | float) else _numbers(data, "pixel_size", 2, where)
    if not (row > 0 and column > 0):
        raise GeometryError(
            f"{where}: a pixel spacing of {row:g} x {column:g} mm (pixel_size: row step, column step) cannot be; give "
            "the distance of pixel centres on the detector, above zero."
        )
    return float(row), float(column)
