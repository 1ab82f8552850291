"""Label maps in image files: multi-label NIfTI, NRRD and MHA, and Slicer's .seg.nrrd with its segments' header fields.

Source: Slicer's developer guide, "Segmentation labelmap file format (.seg.nrrd)": own extent, one layer for all
segments that do not overlap, Segment<N>_LabelValue, _Layer, _Name, _Color.
"""

import re
from pathlib import Path

import numpy as np

from diffrender.errors import LabelError, notify
from diffrender.io.label_sources import SPECK, LabelSource, Structure, read_label_image, values_in


def read_segmentation(path: Path, shown: str) -> LabelSource:
    """A label map or a .seg.nrrd. Raises: LabelError, PathError, GeometryError."""
    image = read_label_image(path, shown)
    segments = _segments(image.fields)
    fields, layers = image.fields, image.layers
    kind = fields.get("Segmentation_SourceRepresentation") or fields.get("Segmentation_MasterRepresentation", "")
    if "fractional" in kind.lower():
        raise LabelError(
            f"{shown} holds a fractional label map of Slicer, a share for each voxel instead of yes or no. Make "
            "'Binary labelmap' its source representation in Slicer's Segmentations module, and save it again."
        )
    if len(layers) > 1 and not segments and fields.get("NRRD_kinds[pixel]") != "list":
        raise LabelError(
            f"{shown} holds {len(layers)} numbers for each voxel (colours or vectors): labels are one id for each. "
            "Export the label map itself."
        )
    structures = _structures(layers, segments, shown)
    empty = bool(segments) and layers.shape[1:] == (1, 1, 1)  # Slicer writes one voxel where no segment has any
    parts = () if empty else ((layer, image.world_from_voxel) for layer in layers)
    return LabelSource(shown, structures, parts, cropped=bool(segments))


def read_segment_colours(path: str | Path) -> dict[int, tuple[float, float, float]]:
    """{id: (red, green, blue)} in 0..1 of a .seg.nrrd, by the ids that `read_labels` gives; empty for other files.

    Raises: LabelError, PathError, GeometryError.
    """
    source = read_segmentation(Path(path), str(path))
    return {structure.id: structure.colour for structure in source.structures if structure.colour is not None}


def _structures(layers: np.ndarray, segments: list[dict[str, str]], shown: str) -> tuple[Structure, ...]:
    """The segments that the header lists, in its order, and after them values that it does not list."""
    found = []
    for n, segment in enumerate(segments):
        # Before Slicer 4.11 each segment had a layer of its own and neither field.
        layer = _whole(segment, "Layer", n if len(layers) > 1 else 0, shown)
        if not 0 <= layer < len(layers):
            raise LabelError(
                f"{shown}: segment {segment.get('Name', n)!r} lies in layer {layer} (Segment{n}_Layer), and the file "
                f"holds {len(layers)}, numbered from 0. Its header is damaged; save the segmentation again."
            )
        value = _whole(segment, "LabelValue", 1, shown)
        found.append((layer, value, segment.get("Name"), _colour(segment.get("Color"))))
    listed = {(layer, value) for layer, value, _, _ in found}
    counts = [values_in(layer) for layer in layers]
    others = [(n, value) for n, values in enumerate(counts) for value in values if (n, value) not in listed]
    if segments and others:
        _check_listed(counts, others, found, shown)
    found += [(layer, value, None, None) for layer, value in others]
    unique = len({value for _, value, _, _ in found}) == len(found)  # a value may stand again in another layer
    return tuple(
        Structure(value if unique else n, name, layer, value, colour, counts[layer].get(value, 0))
        for n, (layer, value, name, colour) in enumerate(found, 1)
    )


def _check_listed(counts: list[dict[int, int]], others: list[tuple[int, int]], found: list, shown: str) -> None:
    """Raises: LabelError where the header lacks values that occur; specks of them are only said."""
    total = sum(sum(values.values()) for values in counts)
    specks = sum(counts[layer][value] for layer, value in others)
    said = (
        f"{shown} holds the values {', '.join(str(value) for _, value in others[:10])}, which its header does not name"
    )
    if specks <= SPECK * total:
        notify(f"{said}. They are specks ({specks} of {total} labelled voxels) and stay without a name.")
        return
    empty = [str(name) for layer, value, name, _ in found if value not in counts[layer]]
    lost = f", while no voxel holds those of {', '.join(empty[:10])}" if empty else ""
    raise LabelError(
        f"{said} (Segment<N>_LabelValue){lost}. Names and voxels contradict each other; save the segmentation again, "
        "or delete the segments' lines from its header and give a table of names."
    )


def _whole(segment: dict[str, str], field: str, default: int, shown: str) -> int:
    try:
        return int(segment.get(field, default))
    except ValueError:
        raise LabelError(
            f"{shown}: the {field} of a segment is {segment[field]!r}, no whole number. Its header is damaged; save "
            "the segmentation again."
        ) from None


def _segments(fields: dict[str, str]) -> list[dict[str, str]]:
    """The fields of each segment {"Name": ..., "LabelValue": ...}, in the order of their numbers."""
    segments: dict[int, dict[str, str]] = {}
    for key, value in fields.items():
        match = re.fullmatch(r"Segment(\d+)_(\w+)", key)
        if match:
            segments.setdefault(int(match[1]), {})[match[2]] = value
    return [segments[n] for n in sorted(segments)]


def _colour(text: str | None) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        red, green, blue = (float(part) for part in text.split()[:3])
    except ValueError:  # a colour is no reason to refuse labels
        return None
    return red, green, blue
