"""Labels in DICOM: segmentations (SEG) voxel by voxel, and structure sets (RTSTRUCT) as contours."""

from collections.abc import Iterator
from pathlib import Path

import highdicom
import numpy as np
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.errors import InvalidDicomError

from diffrender.errors import LabelError, notify
from diffrender.io.contours import fill_contours
from diffrender.io.label_sources import RAS_FROM_LPS, LabelSource, Structure
from diffrender.volume import Volume

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # Segmentation, Label Map Segmentation
STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
HALF = 0.5  # of a fractional segment's full share


def is_dicom(path: Path) -> bool:
    """Whether the file says DICM after its preamble (PS3.10, 7.1)."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_dicom_labels(path: Path, shown: str, volume: Volume) -> LabelSource:
    """A DICOM SEG or RTSTRUCT. Raises: LabelError for another kind, or one that is damaged."""
    try:
        kind = pydicom.dcmread(path, specific_tags=["SOPClassUID", "Modality"]).get("SOPClassUID")
        if kind in SEGMENTATIONS:
            return _read_seg(path, shown)
        if kind == STRUCTURE_SET:
            return _read_structure_set(path, shown, volume)
    except (InvalidDicomError, EOFError, AttributeError, KeyError, ValueError, RuntimeError) as error:
        raise _damaged(shown, error) from error
    what = pydicom.uid.UID(kind).name if kind else "of no stated kind"
    raise LabelError(
        f"{shown} is a DICOM file ({what}), not a segmentation (SEG) or a structure set (RTSTRUCT), so it holds no "
        "labels. Give the file that does."
    )


def _damaged(shown: str, error: Exception) -> LabelError:
    reason = " ".join(str(error).split())[:200].rstrip(".")
    return LabelError(
        f"{shown} cannot be read as DICOM labels: {reason}. It is damaged, cut off, or lacks what the standard "
        "demands. Export it again, or convert it to .nii.gz."
    )


def _read_seg(path: Path, shown: str) -> LabelSource:
    seg = highdicom.seg.segread(path)
    numbers = [number for number in seg.segment_numbers if number]
    label_map = seg.segmentation_type.value == "LABELMAP"
    names = [str(seg.get_segment_description(number).segment_label).strip() or None for number in numbers]
    structures = tuple(
        Structure(number, name, 0, number) if label_map else Structure(number, name, part, 1)
        for part, (number, name) in enumerate(zip(numbers, names, strict=True))
    )
    if seg.segmentation_type.value == "FRACTIONAL":
        notify(
            f"{shown} is a fractional segmentation ({str(seg.SegmentationFractionalType).lower()}): voxels of at least "
            f"{HALF} are taken as inside."
        )
    parts = _label_map_part(seg, shown) if label_map else _segment_parts(seg, numbers, shown)
    return LabelSource(shown, structures, parts, str(seg.get("FrameOfReferenceUID", "")) or None, cropped=True)


def _label_map_part(seg: highdicom.seg.Segmentation, shown: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    try:
        volume = seg.get_volume(combine_segments=True)
    except (AttributeError, KeyError, ValueError, RuntimeError) as error:
        raise _damaged(shown, error) from error
    yield volume.array.astype(np.int32), _lattice(volume)


def _segment_parts(
    seg: highdicom.seg.Segmentation, numbers: list[int], shown: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for number in numbers:
        try:
            volume = seg.get_volume(segment_numbers=[number])
        except (AttributeError, KeyError, ValueError, RuntimeError) as error:
            raise _damaged(shown, error) from error
        yield (volume.array[..., 0] >= HALF).astype(np.uint8), _lattice(volume)


def _lattice(volume: highdicom.Volume) -> np.ndarray:
    """world_from_voxel, RAS: highdicom's affine takes (slice, row, column) to LPS."""
    return RAS_FROM_LPS @ volume.affine[:, [2, 1, 0, 3]]


def _read_structure_set(path: Path, shown: str, volume: Volume) -> LabelSource:
    dataset = pydicom.dcmread(path)
    regions = dataset.get("StructureSetROISequence") or []
    drawn = {int(item.ReferencedROINumber): item for item in dataset.get("ROIContourSequence") or []}
    structures, contours, bare = [], [], []
    for region in regions:
        number, name = int(region.ROINumber), str(region.ROIName).strip()
        closed, other = _contours_of(drawn.get(number), f"{shown}: {name!r}")
        if other:
            notify(f"{shown}: {other} contours of {name!r} are points or open lines, which enclose nothing; left out.")
        if closed:
            structures.append(Structure(number, name or None, len(contours), 1))
            contours.append(closed)
        elif not other:
            bare.append(name)
    if contours and bare:
        notify(f"{shown}: {', '.join(bare[:10])}{', ...' if len(bare) > 10 else ''} without any contour left out.")
    if not contours:
        raise LabelError(
            f"{shown} holds no closed contours ({len(regions)} structures are listed), so nothing is inside of "
            "anything. Export the structure set with its contours."
        )
    if len({s.id for s in structures}) < len(structures) or any(s.id < 1 for s in structures):
        structures = [Structure(n, s.name, s.part, 1) for n, s in enumerate(structures, 1)]
    frame = next((str(r.ReferencedFrameOfReferenceUID) for r in regions if "ReferencedFrameOfReferenceUID" in r), None)
    _check_overlap(contours, volume, shown)
    return LabelSource(shown, tuple(structures), _structure_parts(structures, contours, volume, shown), frame)


def _contours_of(item: pydicom.Dataset | None, what: str) -> tuple[list[np.ndarray], int]:
    """Closed contours as (n, 3) RAS [mm], and how many of other kinds there are."""
    closed, other = [], 0
    for contour in (item.get("ContourSequence") or []) if item is not None else []:
        points = _numbers(contour)
        if len(points) % 3 or not np.isfinite(points).all():
            raise LabelError(
                f"{what}: a contour holds {len(points)} numbers, not three finite ones for each point. The file is "
                "damaged; export it again."
            )
        if contour.ContourGeometricType in CLOSED and len(points) >= 9:
            closed.append(points.reshape(-1, 3) * [-1, -1, 1])
        else:
            other += 1
    return closed, other


def _numbers(contour: pydicom.Dataset) -> np.ndarray:
    """ContourData, straight from its text: pydicom's decimal objects take ten times as long for a million numbers."""
    raw = contour.get_item("ContourData")
    text = raw.value if isinstance(raw, RawDataElement) else None
    if isinstance(text, bytes):
        return np.array(text.rstrip(b" \0").split(b"\\") if text.strip(b" \0") else [], dtype=np.float64)
    return np.array(contour.get("ContourData") or [], dtype=np.float64)


def _structure_parts(
    structures: list[Structure], contours: list[list[np.ndarray]], volume: Volume, shown: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    oblique = []
    for structure, closed in zip(structures, contours, strict=True):
        values, parallel = fill_contours(closed, volume, f"{shown}: {structure.name!r}")
        oblique += [] if parallel else [structure.name]
        yield values, volume.world_from_voxel.numpy()
    if oblique:
        notify(
            f"{shown}: the contours of {len(oblique)} structures are oblique to the volume's voxel planes; they were "
            f"filled in planes of their own and resampled to the nearest voxel ({', '.join(map(str, oblique[:10]))})."
        )


def _check_overlap(contours: list[list[np.ndarray]], volume: Volume, shown: str) -> None:
    points = np.concatenate([contour for closed in contours for contour in closed])
    voxel_from_world = np.linalg.inv(volume.world_from_voxel.numpy())
    indices = points @ voxel_from_world[:3, :3].T + voxel_from_world[:3, 3]
    size = np.array(volume.shape[::-1])
    if (indices.max(0) <= -0.5).any() or (indices.min(0) >= size - 0.5).any():
        low, high = (", ".join(f"{x:.1f}" for x in end) for end in (points.min(0), points.max(0)))
        corners = volume.corners.numpy()
        first, last = (", ".join(f"{x:.1f}" for x in end) for end in (corners.min(0), corners.max(0)))
        raise LabelError(
            f"{shown} does not overlap the volume: its contours lie from ({low}) to ({high}) mm RAS, the volume from "
            f"({first}) to ({last}). They belong to another scan. Give the structure set of this CT."
        )
