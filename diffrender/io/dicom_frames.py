"""One slice of a DICOM series: where it lies, and how its stored numbers become values."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from diffrender.io.files import Part

AIR = -1000  # [HU]
_GROUPS = ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")


@dataclass(frozen=True, eq=False)
class Frame:
    """A slice: a file of its own, or one frame of a multi-frame file.

    Attributes:
        part: its file.
        index: its number in the file, from 0.
        header: of the file; never printed.
        position: (3,) the centre of its first pixel, LPS [mm]; None where the file does not say.
        axes: (2, 3) unit vectors along which the column index and the row index grow, LPS; None likewise.
        pixel_spacing: (row step, column step) [mm]; None likewise.
        size: (rows, columns).
        slope, intercept: value = stored * slope + intercept; None where the file does not say.
        rescale_type: what the value then is; None where the file does not say.
        localizer: whether it is an overview, not a slice.
    """

    part: Part
    index: int
    header: Dataset
    position: np.ndarray | None
    axes: np.ndarray | None
    pixel_spacing: tuple[float, float] | None
    size: tuple[int, int]
    slope: float | None
    intercept: float | None
    rescale_type: str | None
    localizer: bool

    @property
    def placed(self) -> bool:
        """Whether it says where in the patient it lies."""
        return self.position is not None and self.axes is not None

    @property
    def name(self) -> str:
        """What it is called in messages: its file, and which frame of it."""
        return f"{self.part.name} (frame {self.index + 1})" if _count(self.header) > 1 else self.part.name


def frames_of(part: Part, header: Dataset) -> list[Frame]:
    """The slices of one file."""
    return [_frame(part, header, index) for index in range(_count(header))]


def padding_of(header: Dataset) -> tuple[int, int] | None:
    """Stored numbers, from and to, that mean "nothing was measured here"; None where there are none (PS3.3 "
    "C.7.5.1.1.2)."""
    first = header.get("PixelPaddingValue")
    if first is None or isinstance(first, bytes):
        return None
    last = header.get("PixelPaddingRangeLimit")
    ends = sorted(_signed(header, int(value)) for value in (first, first if last is None else last))
    return ends[0], ends[1]


def upright(stored: np.ndarray, header: Dataset) -> np.ndarray:
    """MONOCHROME1 turned into MONOCHROME2: mirrored within the range that its bits can store."""
    if header.get("PhotometricInterpretation") != "MONOCHROME1":
        return stored
    bits = int(header.BitsStored)
    ends = -1 if int(header.get("PixelRepresentation") or 0) else 2**bits - 1
    return ends - stored.astype(np.int64)


def _count(header: Dataset) -> int:
    return max(1, int(header.get("NumberOfFrames") or 1))


def _frame(part: Part, header: Dataset, index: int) -> Frame:
    groups = list(_functional_groups(header, index))
    position = _numbers(_value(groups, "PlanePositionSequence", "ImagePositionPatient"), 3)
    orientation = _numbers(_value(groups, "PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    spacing = _numbers(_value(groups, "PixelMeasuresSequence", "PixelSpacing"), 2)
    slope = _numbers(_value(groups, "PixelValueTransformationSequence", "RescaleSlope"), 1)
    intercept = _numbers(_value(groups, "PixelValueTransformationSequence", "RescaleIntercept"), 1)
    kind = _value(groups, "PixelValueTransformationSequence", "RescaleType")
    images = [header.get("ImageType"), _value(groups, "CTImageFrameTypeSequence", "FrameType")]
    return Frame(
        part=part,
        index=index,
        header=header,
        position=position,
        axes=_unit(orientation),
        pixel_spacing=None if spacing is None else (float(spacing[0]), float(spacing[1])),
        size=(int(header.Rows), int(header.get("Columns") or 0)),
        slope=None if slope is None else float(slope[0]),
        intercept=None if intercept is None else float(intercept[0]),
        rescale_type=str(kind).strip() if kind else None,
        localizer=any("LOCALIZER" in str(image).upper() for image in images if image),
    )


def _functional_groups(header: Dataset, index: int) -> Iterator[Dataset]:
    """Where a frame's attributes stand: its own group, the one all frames share, the top of the file (PS3.3 "
    "C.7.6.16)."""
    own, shared = (header.get(keyword) or [] for keyword in _GROUPS)
    if index < len(own):
        yield own[index]
    yield from shared[:1]
    yield header


def _value(groups: Sequence[Dataset], sequence: str, keyword: str) -> Any:
    for group in groups:
        inner = group.get(sequence) if sequence in group else None
        holder = inner[0] if inner else group
        value = holder.get(keyword)
        if value is not None and value != "":
            return value
    return None


def _numbers(value: Any, count: int) -> np.ndarray | None:
    """`count` finite numbers; None where there are fewer, or text stands in their place."""
    try:
        numbers = np.array(value, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        return None
    return numbers if numbers.size == count and np.isfinite(numbers).all() else None


def _unit(orientation: np.ndarray | None) -> np.ndarray | None:
    if orientation is None:
        return None
    axes = orientation.reshape(2, 3)
    lengths = np.linalg.norm(axes, axis=1, keepdims=True)
    return axes / lengths if lengths.min() > 1e-6 else None


def _signed(header: Dataset, value: int) -> int:
    """A padding value written as if unsigned, though the pixels are signed."""
    bits = int(header.get("BitsAllocated") or 16)
    return value - 2**bits if int(header.get("PixelRepresentation") or 0) and value >= 2 ** (bits - 1) else value
