"""Which pixels of an X-ray frame the beam reached: shutters, collimator, field of view, padding, or what one sees."""

import numpy as np
from jaxtyping import Bool, Float32
from pydicom.dataset import Dataset
from scipy import ndimage

from diffrender.errors import DicomError, notify
from diffrender.io.dicom_frames import padding_of
from diffrender.io.xray_geometry import numbers_of, value_of

_KINDS = ("Shutter", "Collimator")
FRINGE = 0.02  # of the range, by which the noise of an interpolated or lossy picture lifts what lies around it
FLAT_SHARE = 0.01  # of a picture that is flat and lies at its edge: less may be a dense bone or bare air


def exposed_of(header: Dataset, index: int, stored: np.ndarray, name: str) -> Bool[np.ndarray, "h w"] | None:
    """True where the beam reached; None where nothing limits it.

    Several shapes, of the shutter and of the collimator, are together what all of them leave open. Places in the
    standard are rows and columns counted from 1, at pixel centres; edges belong to what is open.

    Args:
        stored: (h, w, ...) as stored, for padding.
    Raises: DicomError where a shape lacks its numbers.
    Source: DICOM PS3.3 C.7.6.11 (Display Shutter), C.8.7.3 (X-Ray Collimator), C.7.5.1.1.2 (padding).
    """
    size = (int(stored.shape[0]), int(stored.shape[1]))
    open_ = np.ones(size, dtype=bool)
    for kind in _KINDS:
        for shape in _shapes(header, index, kind):
            open_ &= _SHAPES[shape](header, index, kind, size, name)
    open_ &= _round_field(header, index, size)
    ends = padding_of(header)
    if ends is not None and stored.ndim == 2:
        open_ &= (stored < ends[0]) | (stored > ends[1])
    if open_.all():
        return None
    if not open_.any():
        notify(
            f"{name}: its shutters (0018,1600) and collimator (0018,1700) leave nothing of the image open; they were "
            "not believed, and all of it is taken as exposed."
        )
        return None
    return open_


def border_of(pixels: Float32[np.ndarray, "h w"], kind: str, name: str) -> Bool[np.ndarray, "h w"] | None:
    """True where the beam reached, by eye: False in areas at the edge that hold exactly the number of least beam (the
    round rim of an intensifier, a collimator's shadow), which is said; None where there are none.

    Such an area tells nothing even where it is a body too dense for the detector's range.
    """
    beam = pixels if kind == "intensity" else -pixels
    edge = np.zeros(pixels.shape, dtype=bool)
    edge[[0, -1]] = edge[:, [0, -1]] = True
    least = beam == beam.min()
    closed = ndimage.binary_propagation(edge & least, mask=least)
    if closed.mean() < FLAT_SHARE or closed.all():
        return None
    dark = beam <= beam.min() + FRINGE * (beam.max() - beam.min())
    closed = np.asarray(ndimage.binary_propagation(closed, mask=dark), dtype=bool)
    notify(
        f"{name}: {100 * closed.mean():.0f} % of it, at its edge, holds one number, that of least beam: it is taken as "
        "not exposed."
    )
    return ~closed


def _shapes(header: Dataset, index: int, kind: str) -> list[str]:
    value = value_of(header, index, f"{kind}Shape")
    values = [value] if isinstance(value, str) else list(value or [])
    return [shape for one in values if (shape := str(one).strip().upper()) in _SHAPES]


def _rectangle(header: Dataset, index: int, kind: str, size: tuple[int, int], name: str) -> np.ndarray:
    rows, columns = np.arange(1, size[0] + 1)[:, None], np.arange(1, size[1] + 1)
    words = ("LeftVerticalEdge", "RightVerticalEdge", "UpperHorizontalEdge", "LowerHorizontalEdge")
    left, right, upper, lower = (_needed(header, index, kind + word, 1, name)[0] for word in words)
    return (columns >= left) & (columns <= right) & (rows >= upper) & (rows <= lower)


def _circle(header: Dataset, index: int, kind: str, size: tuple[int, int], name: str) -> np.ndarray:
    row, column = _needed(header, index, f"CenterOfCircular{kind}", 2, name)
    radius = _needed(header, index, f"RadiusOfCircular{kind}", 1, name)[0]
    return _within(header, index, size, (row, column), radius)


def _polygon(header: Dataset, index: int, kind: str, size: tuple[int, int], name: str) -> np.ndarray:
    places = np.array(_needed(header, index, f"VerticesOfThePolygonal{kind}", 6, name))
    if len(places) % 2:
        raise DicomError(
            f"{name}: the vertices of its polygonal {kind.lower()} are pairs of row and column; one is cut."
        )
    corners = places.reshape(-1, 2)
    rows, columns = np.arange(1, size[0] + 1)[:, None], np.arange(1, size[1] + 1)
    inside = np.zeros(size, dtype=bool)
    for (r0, c0), (r1, c1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if r0 == r1:
            continue
        crosses = (rows >= min(r0, r1)) & (rows < max(r0, r1))
        inside ^= crosses & (columns < c0 + (rows - r0) * (c1 - c0) / (r1 - r0))
    return inside


def _round_field(header: Dataset, index: int, size: tuple[int, int]) -> np.ndarray:
    """The round entrance of an image intensifier, its diameter in mm on the detector, in the image's middle."""
    diameter = numbers_of(header, index, "FieldOfViewDimensions")
    spacing = numbers_of(header, index, "ImagerPixelSpacing")
    shape = str(value_of(header, index, "FieldOfViewShape") or "").strip().upper()
    if shape != "ROUND" or not diameter or len(spacing) != 2 or min(spacing) <= 0:
        return np.ones(size, dtype=bool)
    middle = ((size[0] + 1) / 2, (size[1] + 1) / 2)
    return _within(header, index, size, middle, diameter[0] / spacing[1] / 2)


def _within(
    header: Dataset, index: int, size: tuple[int, int], centre: tuple[float, float], radius: float
) -> np.ndarray:
    """A disc; its radius counts columns, and oblong pixels make it an ellipse of pixels."""
    spacing = numbers_of(header, index, "ImagerPixelSpacing")
    ratio = spacing[0] / spacing[1] if len(spacing) == 2 and min(spacing) > 0 else 1.0
    rows, columns = np.arange(1, size[0] + 1)[:, None], np.arange(1, size[1] + 1)
    return ((rows - centre[0]) * ratio) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def _needed(header: Dataset, index: int, keyword: str, count: int, name: str) -> list[float]:
    numbers = numbers_of(header, index, keyword)
    if len(numbers) < count:
        raise DicomError(
            f"{name} has a shutter or collimator without its place ({keyword}), so what of the image is exposed is not "
            "known. Correct the tag, or delete ShutterShape (0018,1600) and CollimatorShape (0018,1700)."
        )
    return numbers


_SHAPES = {"RECTANGULAR": _rectangle, "CIRCULAR": _circle, "POLYGONAL": _polygon}
