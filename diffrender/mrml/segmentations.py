"""Segmentation and label map nodes to labels on a volume's lattice, with names and colours, and back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from diffrender.display import label_colour
from diffrender.errors import LabelError
from diffrender.io.label_sources import LabelSource, Structure, values_in, whole_numbers
from diffrender.io.labels import lay
from diffrender.mrml.images import filled, view_of
from diffrender.mrml.nodes import Node, Scene, called, new_node, of_kind
from diffrender.mrml.transforms import array_of, vtk_matrix, world_from_node
from diffrender.mrml.volumes import lattice_of
from diffrender.volume import Volume

Colour = tuple[float, float, float]  # red, green, blue, 0..1
BINARY = "Binary labelmap"


@dataclass(frozen=True, eq=False)
class Segments:
    """Labels of a segmentation or a label map, on a volume's lattice.

    Attributes:
        labels: ids (k, j, i), or (n, k, j, i) bool where segments overlap.
        names: {id: name}; of layers exactly those that have a voxel, in their order.
        colours: {id: (red, green, blue)} in 0..1, as Slicer shows them.
        segments: {id: Slicer's segment ID}; empty for a label map.
    """

    labels: Shaped[Tensor, "k j i"] | Bool[Tensor, "n k j i"]
    names: dict[int, str]
    colours: dict[int, Colour]
    segments: dict[int, str]


def segments_of(node: Node, reference: Node) -> Segments:
    """The labels of a segmentation or label map node, on the lattice of the volume node `reference`; copied.

    An id is the segment's label value where these differ from each other, else its number from 1: as a saved .seg.nrrd
    is read. Labels on another lattice take the nearest voxel, and that is said as a Notice.
    Raises: InputError for another node; LabelError for no segments, none with a voxel within the volume, or closed
        surfaces that cannot be filled; WarpError where a parent transform bends space.
    """
    kinds = ("vtkMRMLSegmentationNode", "vtkMRMLLabelMapVolumeNode")
    of_kind(node, *kinds, what="a segmentation or a label map")
    of_kind(reference, "vtkMRMLVolumeNode", what="the volume that the segments lie on")
    shape = view_of(reference.GetImageData(), called(reference)).shape[:3]
    # one number seen through every voxel: a lattice is wanted, and no memory for it
    volume = Volume(torch.zeros((), dtype=torch.int16).expand(*shape), torch.from_numpy(lattice_of(reference)))
    labelmap = node.IsA(kinds[1])
    source, segments = _of_labelmap(node) if labelmap else _of_segmentation(node, volume)
    labels, ids = lay(source, volume)
    if not ids:
        raise LabelError(
            f"{called(node)} has no voxel within {called(reference)}: it is empty, or belongs to another volume. Draw "
            "or load its segments, or choose the volume they lie on."
        )
    known = {s.id: s for s in source.structures if labels.ndim == 3 or s.id in ids}
    order = list(ids) if labels.ndim == 4 else list(known)
    return Segments(
        torch.from_numpy(np.ascontiguousarray(labels)),
        {label: known[label].name or f"label {label}" for label in order},
        {label: colour for label in order if (colour := known[label].colour) is not None},
        {label: segments[label] for label in order if label in segments},
    )


def segmentation_to_node(
    scene: Scene,
    volume: Volume,
    name: str,
    colours: Mapping[int, Colour] | None = None,
    reference: Node = None,
    node: Node = None,
) -> Node:
    """A segmentation node of a volume's labels: a segment for each id that occurs, with its name and colour.

    Args:
        colours: {id: (red, green, blue)} in 0..1; the library's own where an id has none.
        reference: the volume node they lie on, which the Segment Editor then paints on; on its lattice.
        node: an existing one whose segments these replace, under whatever parents it has.
    Raises: LabelError where the volume has no labels.
    """
    if volume.labels is None or not volume.label_ids:
        raise LabelError("There is no labelled voxel to make a segmentation of.")
    import slicer  # pyright: ignore[reportMissingImports]

    node = new_node(scene, "vtkMRMLSegmentationNode", name) if node is None else node
    lattice = np.linalg.inv(world_from_node(node)) @ volume.world_from_voxel.numpy()
    segmentation = node.GetSegmentation()
    segmentation.RemoveAllSegments()
    segmentation.SetSourceRepresentationName(BINARY)
    node.CreateDefaultDisplayNodes()
    labels = volume.labels.cpu().numpy()
    shared = _oriented(labels, lattice) if labels.ndim == 3 else None
    for number, label in enumerate(volume.label_ids):
        segment = slicer.vtkSegment()
        segment.SetName(volume.label_name(label))
        segment.SetColor(*((colours or {}).get(label) or [level / 255 for level in label_colour(number)]))
        segment.SetLabelValue(label if shared is not None else 1)
        segment.AddRepresentation(BINARY, _oriented(labels[number], lattice) if shared is None else shared)
        segmentation.AddSegment(segment, f"Segment_{label}")
    if reference is not None:
        node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
    return node


def _of_labelmap(node: Node) -> tuple[LabelSource, dict[int, str]]:
    values = whole_numbers(view_of(node.GetImageData(), called(node))[None], called(node))[0]
    display = node.GetDisplayNode()
    table = None if display is None else display.GetColorNode()
    structures = []
    for value, voxels in values_in(values).items():
        name, rgba = None, [0.0, 0.0, 0.0, 0.0]
        if table is not None and table.GetColor(value, rgba):
            name = table.GetColorName(value) or None
        structures.append(Structure(value, name, 0, value, (rgba[0], rgba[1], rgba[2]) if name else None, voxels))
    return LabelSource(called(node), tuple(structures), ((values, lattice_of(node)),)), {}


def _of_segmentation(node: Node, volume: Volume) -> tuple[LabelSource, dict[int, str]]:
    segmentation, world = _with_labelmaps(node, volume), world_from_node(node)
    ids = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
    if not ids:
        raise LabelError(f"{called(node)} has no segments. Draw some in the Segment Editor, or choose another one.")
    parts: dict[str, int] = {}  # by the address of an image that several segments may share
    images, structures = [], []
    values = [segmentation.GetSegment(key).GetLabelValue() for key in ids]
    unique = len(set(values)) == len(values)
    for number, (key, value) in enumerate(zip(ids, values, strict=True), 1):
        segment = segmentation.GetSegment(key)
        image = segment.GetRepresentation(BINARY)
        if image is None or not image.GetNumberOfPoints():  # nothing is drawn in it
            continue
        address = image.GetAddressAsString("")
        if address not in parts:
            parts[address] = len(images)
            images.append((whole_numbers(view_of(image, called(node))[None], called(node))[0], _lattice(image, world)))
        label = value if unique else number
        structures.append(Structure(label, segment.GetName(), parts[address], value, tuple(segment.GetColor())))
    for part, (array, _) in enumerate(images):  # what a removed segment may have left
        stray = set(values_in(array)) - {s.value for s in structures if s.part == part}
        array[np.isin(array, list(stray))] = 0
    source = LabelSource(called(node), tuple(structures), tuple(images), cropped=True)
    numbers = {value if unique else n: key for n, (key, value) in enumerate(zip(ids, values, strict=True), 1)}
    return source, numbers


def _with_labelmaps(node: Node, volume: Volume) -> Any:
    """The node's segmentation; a copy with its surfaces filled on the volume's lattice where it has surfaces alone."""
    segmentation = node.GetSegmentation()
    if not segmentation.GetNumberOfSegments() or segmentation.ContainsRepresentation(BINARY):
        return segmentation
    import slicer  # pyright: ignore[reportMissingImports]

    lattice = np.linalg.inv(world_from_node(node)) @ volume.world_from_voxel.numpy()
    geometry = slicer.vtkOrientedImageData()
    _place(geometry, lattice)
    k, j, i = volume.shape
    geometry.SetExtent(0, i - 1, 0, j - 1, 0, k - 1)
    copy, convert = slicer.vtkSegmentation(), slicer.vtkSegmentationConverter
    copy.DeepCopy(segmentation)
    copy.SetConversionParameter(
        convert.GetReferenceImageGeometryParameterName(), convert.SerializeImageGeometry(geometry)
    )
    if not copy.CreateRepresentation(BINARY):
        raise LabelError(
            f"The segments of {called(node)} are {segmentation.GetSourceRepresentationName()}, from which Slicer makes "
            f"no label map. Create '{BINARY}' in the Segmentations module."
        )
    return copy


def _lattice(image: Any, world: np.ndarray) -> np.ndarray:
    """world_from_voxel of the array of a vtkOrientedImageData, whose first voxel is that of its extent."""
    from vtkmodules.vtkCommonMath import vtkMatrix4x4

    matrix = vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    lattice = array_of(matrix)
    lattice[:3, 3] += lattice[:3, :3] @ np.array(image.GetExtent()[::2], dtype=np.float64)
    return world @ lattice


def _place(image: Any, lattice: np.ndarray) -> None:
    """Give a vtkOrientedImageData its origin, spacing and directions."""
    spacing = np.linalg.norm(lattice[:3, :3], axis=0)
    directions = np.eye(4)
    directions[:3, :3] = lattice[:3, :3] / spacing
    image.SetOrigin(*lattice[:3, 3])
    image.SetSpacing(*spacing)
    image.SetDirectionMatrix(vtk_matrix(directions))


def _oriented(array: np.ndarray, lattice: np.ndarray) -> Any:
    """A vtkOrientedImageData of ids or of one layer, in the smallest type that holds them."""
    import slicer  # pyright: ignore[reportMissingImports]

    image = filled(slicer.vtkOrientedImageData(), whole_numbers(array[None].astype(np.int32), "These labels")[0])
    _place(image, lattice)
    return image
