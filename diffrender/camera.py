"""The one camera of all three modules: a point source (eye or focal spot) and a flat image."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.errors import GeometryError, PathError
from diffrender.volume import Volume

# Calibrations are written with six to eight digits; beyond this the axes are really scaled or sheared.
ORTHONORMAL_TOLERANCE = 1e-4
FORMAT = 1


@dataclass(frozen=True, eq=False)
class Camera:
    """A point source and a flat image. Camera frame: origin at the source, +z to the image plane,
    +x the way the column index grows as displayed, +y the way the row index grows.

    Attributes:
        world_from_camera: (4, 4) float64, orthonormal; RAS [mm]. Determinant +1 (AP, the eye) or -1 (seen from the
            detector: PA, C-arm).
        source_to_detector: from the source to the image plane [mm].
        pixel_size: (row step, column step) [mm] on the image plane, the order DICOM writes it; one number for square.
        image_size: (height, width) [px].
        principal_point: (row, column) [px] from the image's corner where the ray at a right angle meets the image;
            pixel centres lie at half integers. By default the image's centre.
    Raises: GeometryError where the axes are scaled or sheared, or a size is not above zero.
    """

    world_from_camera: Float[Tensor, "4 4"]
    source_to_detector: float
    pixel_size: tuple[float, float]
    image_size: tuple[int, int]
    principal_point: tuple[float, float] = None  # pyright: ignore[reportAssignmentType] # never None once made

    def __post_init__(self):
        matrix = torch.as_tensor(self.world_from_camera, dtype=torch.float64).detach().cpu().clone()
        height, width = _whole(self.image_size)
        middle = (height / 2, width / 2)
        point = middle if self.principal_point is None else tuple(float(n) for n in self.principal_point)
        object.__setattr__(self, "world_from_camera", matrix)
        object.__setattr__(self, "source_to_detector", float(self.source_to_detector))
        object.__setattr__(self, "pixel_size", tuple(float(n) for n in _pair(self.pixel_size)))
        object.__setattr__(self, "image_size", (height, width))
        object.__setattr__(self, "principal_point", point)
        _check_axes(matrix)
        _check_sizes(self)

    @property
    def source(self) -> Float[Tensor, "3"]:
        """The eye or focal spot, RAS [mm]."""
        return self.world_from_camera[:3, 3]

    @property
    def mirrored(self) -> bool:
        """Whether the image is seen from the detector's side (PA, C-arm): determinant -1."""
        return bool(self.world_from_camera[:3, :3].det() < 0)

    @property
    def direction(self) -> Float[Tensor, "3"]:
        """From the source at a right angle to the image plane; unit, RAS."""
        return self.world_from_camera[:3, 2]

    def pixel_from_camera(self) -> Float[Tensor, "3 3"]:
        """Camera (x, y, z) [mm] to (column, row, 1) times z [px from the image's corner]."""
        (row_step, column_step), (row, column) = self.pixel_size, self.principal_point
        f = self.source_to_detector
        return torch.tensor([[f / column_step, 0, column], [0, f / row_step, row], [0, 0, 1]], dtype=torch.float64)

    def projection(self) -> Float[Tensor, "3 4"]:
        """P: homogeneous RAS [mm] to (column, row, 1) times depth [px, mm]; its third row is the depth."""
        camera_from_world = torch.linalg.inv(self.world_from_camera)
        return self.pixel_from_camera() @ camera_from_world[:3]

    def project(self, points: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 2"]:
        """World points, RAS [mm], to (row, column) [px from the image's corner]; NaN behind the source."""
        p = self.projection().to(points)
        column, row, depth = (points @ p[:, :3].T + p[:, 3]).unbind(-1)
        pixels = torch.stack([row, column], dim=-1) / depth[..., None]
        return torch.where(depth[..., None] > 0, pixels, torch.nan)

    def pixel_centres(self) -> Float[Tensor, "h w 2"]:
        """(row, column) of every pixel's centre [px from the image's corner]: half integers. Their one home."""
        rows, columns = (torch.arange(n, dtype=torch.float64) + 0.5 for n in self.image_size)
        return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)

    def rays(self, pixels: Float[Tensor, "*n 2"] | None = None) -> tuple[Float[Tensor, "3"], Float[Tensor, "*m 3"]]:
        """The source and the unit direction through each pixel, RAS [mm], float64.

        Args:
            pixels: (row, column) positions [px from the image's corner]; by default the centres of all pixels, (h, w).
        """
        pixels = self.pixel_centres() if pixels is None else pixels.to(torch.float64)
        (row_step, column_step), (row, column) = self.pixel_size, self.principal_point
        x = (pixels[..., 1] - column) * column_step
        y = (pixels[..., 0] - row) * row_step
        directions = (
            torch.stack([x, y, torch.full_like(x, self.source_to_detector)], -1) @ self.world_from_camera[:3, :3].T
        )
        return self.source, directions / directions.norm(dim=-1, keepdim=True)

    def resized(self, image_size: tuple[int, int]) -> "Camera":
        """The same view with another number of pixels: the image keeps its place and its size in mm."""
        height, width = _whole(image_size)
        if height < 1 or width < 1:
            raise GeometryError(f"An image of {height} x {width} pixels cannot be; give both at least 1.")
        (h, w), (row_step, column_step), (row, column) = self.image_size, self.pixel_size, self.principal_point
        scale = (height / h, width / w)
        return Camera(
            self.world_from_camera,
            self.source_to_detector,
            (row_step / scale[0], column_step / scale[1]),
            (height, width),
            (row * scale[0], column * scale[1]),
        )

    def orientation(self) -> dict[str, str]:
        """Where the image's four edges look in the patient: {"left": "R", "right": "L", "top": "H", "bottom": "F"}.

        Letters as in DICOM's Patient Orientation (0020,0020), up to three each when oblique, the strongest first.
        """
        right, down = self.world_from_camera[:3, 0].tolist(), self.world_from_camera[:3, 1].tolist()
        return {
            "left": letters([-n for n in right]),
            "right": letters(right),
            "top": letters([-n for n in down]),
            "bottom": letters(down),
        }

    def to_dict(self) -> dict[str, Any]:
        """The camera as plain JSON data, the same everywhere."""
        return {
            "format": FORMAT,
            "world": "RAS",
            "world_from_camera": self.world_from_camera.tolist(),
            "source_to_detector": self.source_to_detector,
            "pixel_size": list(self.pixel_size),
            "image_size": list(self.image_size),
            "principal_point": list(self.principal_point),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Camera":
        """Back from `to_dict`. Raises: GeometryError for another format, another world or a missing key."""
        if not isinstance(data, Mapping):
            raise GeometryError(f"A camera is a JSON object, not {data!r}; see docs/conventions.md for its keys.")
        if data.get("format") != FORMAT or data.get("world") != "RAS":
            raise GeometryError(
                f'A camera is JSON with "format": {FORMAT} and "world": "RAS"; found format {data.get("format")!r}, '
                f"world {data.get('world')!r}. Convert it (LPS to RAS negates the first two rows of world_from_camera)."
            )
        missing = [k for k in ("world_from_camera", "source_to_detector", "pixel_size", "image_size") if k not in data]
        if missing:
            raise GeometryError(
                f"A camera's JSON lacks {', '.join(missing)}; see docs/conventions.md for all its keys."
            )
        point = data.get("principal_point")
        try:
            return cls(
                torch.tensor(data["world_from_camera"], dtype=torch.float64),
                data["source_to_detector"],
                tuple(data["pixel_size"]),
                tuple(data["image_size"]),
                None if point is None else tuple(point),  # pyright: ignore[reportArgumentType]
            )
        except (TypeError, ValueError) as problem:
            raise GeometryError(
                f"A camera's JSON holds something other than numbers where they belong: {problem}."
            ) from None

    def __repr__(self) -> str:
        (h, w), (row_step, column_step) = self.image_size, self.pixel_size
        source = ", ".join(f"{n:.1f}" for n in self.source.tolist())
        edges = self.orientation()
        return (
            f"Camera({h} x {w} px of {row_step:.4g} x {column_step:.4g} mm, source ({source}) RAS, "
            f"{self.source_to_detector:.1f} mm to the detector, {edges['left']} on the left, {edges['top']} on top)"
        )


def c_arm(
    volume_or_point: Volume | Float[Tensor, "3"] | Sequence[float],
    primary: float = 0.0,
    secondary: float = 0.0,
    source_to_detector: float = 1020.0,
    source_to_isocenter: float = 700.0,
    pixel_size: float | tuple[float, float] = 1.165,
    image_size: tuple[int, int] = (256, 256),
) -> Camera:
    """A C-arm at the angles that DICOM XA writes, seen from the detector.

    Args:
        volume_or_point: the isocentre: a point in RAS [mm], or a volume's centre.
        primary: Positioner Primary Angle [degrees]; + turns the detector towards the patient's left (LAO).
        secondary: Positioner Secondary Angle [degrees]; + turns the detector towards the head (cranial).
            0/0 is the detector in front of the patient.
        source_to_detector, source_to_isocenter: [mm].
        pixel_size: (row, column) step [mm], or one number.
        image_size: (height, width) [px].
    Raises: GeometryError.
    Source: DICOM PS3.3 C.8.7.5.1.2 (0018,1510), (0018,1511). Nothing flips beyond 90 degrees.
    """
    isocentre = _point(volume_or_point)
    if source_to_isocenter > source_to_detector:
        raise GeometryError(
            f"The detector at {source_to_detector} mm from the source would lie before the isocentre at "
            f"{source_to_isocenter} mm. Are the two exchanged?"
        )
    p, s = math.radians(primary), math.radians(secondary)
    x = [-math.cos(p), -math.sin(p), 0.0]
    y = [-math.sin(p) * math.sin(s), math.cos(p) * math.sin(s), -math.cos(s)]
    z = [-math.sin(p) * math.cos(s), math.cos(p) * math.cos(s), math.sin(s)]
    return looking_along([x, y, z], isocentre, source_to_isocenter, source_to_detector, pixel_size, image_size)


def looking_along(
    axes: Sequence[Sequence[float]],
    isocentre: Float[Tensor, "3"],
    source_to_isocenter: float,
    source_to_detector: float,
    pixel_size: float | tuple[float, float],
    image_size: tuple[int, int],
) -> Camera:
    """A camera whose frame has the unit axes x, y, z (RAS), its source `source_to_isocenter` before the isocentre."""
    if not source_to_isocenter > 0:
        raise GeometryError(
            f"The source must lie before the isocentre; source_to_isocenter is {source_to_isocenter} mm."
        )
    world_from_camera = torch.eye(4, dtype=torch.float64)
    world_from_camera[:3, :3] = torch.tensor(axes, dtype=torch.float64).T
    world_from_camera[:3, 3] = isocentre - world_from_camera[:3, 2] * source_to_isocenter
    return Camera(world_from_camera, source_to_detector, _pair(pixel_size), image_size)


def camera_from_projection(
    P: Float[Tensor, "3 4"],
    image_size: tuple[int, int],
    pixel_size: float | tuple[float, float] | None = None,
    source_to_detector: float | None = None,
    pixel_centres: str = "half",
    flip_depth: bool = False,
) -> Camera:
    """The camera of a 3 x 4 projection matrix.

    Args:
        P: homogeneous RAS [mm] to (column, row, 1), up to a positive scale; its third row is positive in front of the
            source.
        image_size: (height, width) [px].
        pixel_size: (row, column) step [mm], or one number; this or `source_to_detector` is needed, since a matrix
            tells only their ratio. Both are checked against each other.
        source_to_detector: [mm].
        pixel_centres: "half" where the first pixel's centre is (0.5, 0.5), "integer" where it is (0, 0), as in OpenCV.
        flip_depth: for conventions whose z points to the source, so that the third row is negative in front.
    Raises: GeometryError where the matrix is singular or skewed, or the sizes contradict it.
    Source: Hartley & Zisserman, Multiple View Geometry (2004), 6.2.4.
    """
    matrix = torch.as_tensor(P, dtype=torch.float64)
    if matrix.shape != (3, 4) or not torch.isfinite(matrix).all():
        raise GeometryError(f"A projection matrix is 3 x 4 and finite; this one is {matrix.tolist()}.")
    if pixel_centres not in ("half", "integer"):
        raise GeometryError(f'pixel_centres is "half" or "integer", not {pixel_centres!r}.')
    matrix = -matrix if flip_depth else matrix
    scale = matrix[2, :3].norm()
    if scale == 0 or (matrix[:, :3] / matrix[:, :3].norm(dim=1, keepdim=True)).det().abs() < 1e-9:
        raise GeometryError(
            "The projection matrix is singular: its left 3 x 3 part has no inverse, so it has no single source. "
            "Parallel projections are no camera of ours."
        )
    matrix = matrix / scale
    m_column, m_row, z = matrix[:, :3]
    column, row = (m_column @ z).item(), (m_row @ z).item()
    y = m_row - row * z
    f_row = y.norm().item()
    y = y / f_row
    skew = (m_column @ y).item()
    x = m_column - column * z - skew * y
    f_column = x.norm().item()
    if abs(skew) > ORTHONORMAL_TOLERANCE * f_column:
        raise GeometryError(
            "The projection matrix is skewed: rows and columns meet at "
            f"{90 - math.degrees(math.atan(skew / f_column)):.3f} degrees. Undo the distortion of the images first."
        )
    pixels, distance = _sizes_of(f_row, f_column, pixel_size, source_to_detector)
    world_from_camera = torch.eye(4, dtype=torch.float64)
    world_from_camera[:3, :3] = torch.stack([x / f_column, y, z], dim=1)
    world_from_camera[:3, 3] = -torch.linalg.solve(matrix[:, :3], matrix[:, 3])
    corner = 0.5 if pixel_centres == "integer" else 0.0
    return Camera(world_from_camera, distance, pixels, image_size, (row + corner, column + corner))


def read_cameras(path: str | Path) -> list[Camera]:
    """The cameras of a JSON file: one, or a list. Raises: PathError, GeometryError."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as problem:
        raise PathError(f"{path} cannot be read: {problem.strerror}. Give the JSON file of a camera.") from None
    except ValueError as problem:
        raise PathError(
            f"{path} is no JSON file ({problem}). A camera file is what `Camera.to_dict()` gives."
        ) from None
    try:
        return [Camera.from_dict(entry) for entry in (data if isinstance(data, list) else [data])]
    except (GeometryError, AttributeError) as problem:
        raise GeometryError(f"{path}: {problem}") from None


def letters(direction: Sequence[float]) -> str:
    """A direction in RAS as DICOM's letters: "L", "AL"; parts below 0.25 of it (15 degrees) are left out."""
    order = sorted(range(3), key=lambda n: -abs(direction[n]))
    return "".join(("RAH" if direction[n] > 0 else "LPF")[n] for n in order if abs(direction[n]) > 0.25)


def _sizes_of(
    f_row: float, f_column: float, pixel_size: float | tuple[float, float] | None, source_to_detector: float | None
) -> tuple[tuple[float, float], float]:
    if pixel_size is None and source_to_detector is None:
        raise GeometryError(
            "A projection matrix tells only the ratio of source-to-detector distance and pixel size; give one of them."
        )
    if pixel_size is None:
        assert source_to_detector is not None
        return (source_to_detector / f_row, source_to_detector / f_column), source_to_detector
    row_step, column_step = _pair(pixel_size)
    distances = (f_row * row_step, f_column * column_step)
    distance = sum(distances) / 2 if source_to_detector is None else source_to_detector
    if max(abs(d - distance) for d in distances) > 1e-3 * abs(distance):
        raise GeometryError(
            f"Pixels of {row_step} x {column_step} mm (row x column) give a source-to-detector distance of "
            f"{distances[0]:.2f} mm from the rows and {distances[1]:.2f} mm from the columns"
            + ("" if source_to_detector is None else f", and {source_to_detector} mm was given")
            + ". Are row and column exchanged? Give one of the two sizes alone, and the other follows."
        )
    return (distance / f_row, distance / f_column), distance


def _check_axes(matrix: Float[Tensor, "4 4"]) -> None:
    if matrix.shape != (4, 4) or not torch.isfinite(matrix).all():
        raise GeometryError(f"world_from_camera must be a finite 4 x 4 matrix; it is {matrix.tolist()}.")
    if (matrix[3] - torch.tensor([0.0, 0, 0, 1], dtype=torch.float64)).abs().max() > 1e-9:
        raise GeometryError(f"world_from_camera must end with the row 0 0 0 1; it ends with {matrix[3].tolist()}.")
    gram = matrix[:3, :3].T @ matrix[:3, :3]
    scales = gram.diagonal().sqrt()
    if (scales - 1).abs().max() > ORTHONORMAL_TOLERANCE:
        raise GeometryError(
            f"The camera's axes are scaled: they are {[f'{s:.5g}' for s in scales.tolist()]} long, not 1. "
            "Scale belongs into pixel_size and source_to_detector; divide each axis by its length."
        )
    if (gram - torch.eye(3, dtype=torch.float64)).abs().max() > 2 * ORTHONORMAL_TOLERANCE:
        raise GeometryError(
            "The camera's axes are sheared: they do not meet at right angles. "
            "A camera is turned, moved and at most mirrored; take the shear out of world_from_camera."
        )


def _check_sizes(camera: Camera) -> None:
    numbers = (camera.source_to_detector, *camera.pixel_size, *camera.principal_point)
    if not all(math.isfinite(n) for n in numbers):
        raise GeometryError(f"A camera's sizes must be finite numbers; they are {numbers}.")
    if min(camera.image_size) < 1:
        raise GeometryError(
            f"The detector has {camera.image_size[0]} x {camera.image_size[1]} pixels; give at least 1 x 1."
        )
    if min(camera.pixel_size) <= 0:
        raise GeometryError(f"Pixels of {camera.pixel_size} mm (row, column) cannot be; both must be above zero.")
    if camera.source_to_detector <= 0:
        raise GeometryError(
            f"The detector lies {camera.source_to_detector} mm from the source; it must lie in front of it, above zero."
        )


def _whole(image_size: Any) -> tuple[int, int]:
    height, width = _pair(image_size)
    if any(isinstance(n, bool) or int(n) != n for n in (height, width)):
        raise GeometryError(f"An image has a whole number of pixels (height, width), not {image_size}.")
    return int(height), int(width)


def _pair(value: Any) -> tuple[Any, Any]:
    if isinstance(value, int | float):
        return value, value
    pair = tuple(value)
    if len(pair) != 2:
        raise GeometryError(f"Two numbers (row, column) are needed, or one for both; found {pair}.")
    return pair


def _point(volume_or_point: Volume | Float[Tensor, "3"] | Sequence[float]) -> Float[Tensor, "3"]:
    if isinstance(volume_or_point, Volume):
        return volume_or_point.centre
    point = torch.as_tensor(volume_or_point, dtype=torch.float64)
    if point.shape != (3,) or not torch.isfinite(point).all():
        raise GeometryError(f"An isocentre is a volume or three finite numbers in RAS mm; found {volume_or_point}.")
    return point
