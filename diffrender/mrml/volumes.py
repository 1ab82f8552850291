"""Scalar volume and label map nodes to `Volume`, and back. IJKToRAS is `world_from_voxel`, parents applied."""

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from diffrender.display import label_colour
from diffrender.errors import GeometryError, InputError, LabelError, WarpError
from diffrender.io.volumes import check_values
from diffrender.mrml.attributes import read_json, write_json
from diffrender.mrml.images import image_of, view_of
from diffrender.mrml.nodes import Node, Scene, called, new_node, of_kind
from diffrender.mrml.transforms import array_of, vtk_matrix, world_from_node
from diffrender.volume import Volume, check_affine, tensor_of

ROUNDED_AT = 0.7655
HOUNSFIELD = ("[hnsf'U]", "UCUM", "Hounsfield unit")
SCALAR = "vtkMRMLScalarVolumeNode"


def lattice_of(node: Node) -> Float[ndarray, "4 4"]:
    """`world_from_voxel` of a volume node: its IJKToRAS under all of its parents, RAS [mm], float64.

    Raises: WarpError where these bend or shear it, so that a resampled copy is needed; GeometryError.
    """
    lattice = world_from_node(node) @ ijk_to_ras(node)
    try:
        check_affine(torch.from_numpy(lattice), called(node))
    except GeometryError as problem:
        parent = node.GetParentTransformNode()
        if parent is None:
            raise
        raise WarpError(
            f"{problem} The transform {called(parent)} above it may do this: a resampled copy can be used in its place."
        ) from None
    return lattice


def ijk_to_ras(node: Node) -> Float[ndarray, "4 4"]:
    """A volume node's own lattice, in the coordinates of its parent transform [mm]."""
    from vtkmodules.vtkCommonMath import vtkMatrix4x4

    matrix = vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return array_of(matrix)


def volume_of(node: Node, labels: Node = None, copy: bool = True) -> Volume:
    """The volume of a scalar volume node, in the world.

    Args:
        node: its voxels may be of any type: int16 and float32 are kept.
        labels: a segmentation or label map node to take the labels from, on this volume's lattice.
        copy: False shares the node's memory, which is safe as long as nobody edits the volume; to be read at once.
    Returns: `unit` is "HU" where the node says so or says nothing, else what it says; `source` is its name.
    Raises: InputError for nothing, a label map or a colour image; ImageError for no, constant or broken voxels;
        WarpError for a volume under a transform that bends space; GeometryError; LabelError.
    """
    of_kind(node, SCALAR, what="a CT (a scalar volume)")
    if node.IsA("vtkMRMLLabelMapVolumeNode"):
        raise InputError(f"{called(node)} is a label map, whose voxels are ids and no HU; choose the CT it belongs to.")
    values = view_of(node.GetImageData(), called(node))
    if values.ndim != 3:
        raise InputError(
            f"{called(node)} holds {values.shape[3]} numbers for each voxel (colours or vectors), a CT holds one; "
            "choose the CT itself."
        )
    tensor = tensor_of(np.array(values) if copy else values)
    volume = Volume(tensor, torch.from_numpy(lattice_of(node)), unit=_unit_of(node), source=node.GetName() or None)
    check_values(called(node), volume)
    if labels is None:
        return volume
    from diffrender.mrml.segmentations import segments_of

    segments = segments_of(labels, node)
    return replace(volume, labels=segments.labels, names=segments.names)


def volume_to_node(scene: Scene, volume: Volume, name: str, node: Node = None) -> Node:
    """A scalar volume node of this volume, without its labels (`segmentation_to_node` makes those).

    Args:
        name: of a new node.
        node: an existing one to fill, under whatever parents it has; its name stays.
    """
    node = _with_image(scene, SCALAR, volume.values.detach().cpu().numpy(), volume.world_from_voxel, name, node)
    if volume.unit == "HU":
        import slicer  # pyright: ignore[reportMissingImports]

        units = slicer.vtkCodedEntry()
        units.SetValueSchemeMeaning(*HOUNSFIELD)
        node.SetVoxelValueUnits(units)
    write_json(node, "unit", volume.unit)
    return node


def labelmap_to_node(scene: Scene, volume: Volume, name: str, node: Node = None) -> Node:
    """A label map node of a volume's labels, one id a voxel, with a colour table that holds their names.

    Raises: LabelError for no labels, or overlapping ones, which a segmentation holds and a label map does not.
    """
    if volume.labels is None or volume.labels.ndim != 3:
        raise LabelError("A label map holds one id a voxel; labels that overlap become a segmentation instead.")
    ids = volume.labels.cpu().numpy()
    if int(ids.max()) > 32767:
        raise LabelError(f"A label map of Slicer holds ids up to 32767, and {int(ids.max())} occurs. Renumber them.")
    # one type, since VTK's own filters for label maps know this one
    kind = "vtkMRMLLabelMapVolumeNode"
    node = _with_image(scene, kind, ids.astype(np.int16), volume.world_from_voxel, name, node)
    title, shown = f"{node.GetName()} colours", node.GetDisplayNode().GetColorNode()
    if shown is None or not shown.GetName().startswith(title):
        shown = new_node(scene, "vtkMRMLColorTableNode", title)
    shown.SetTypeToUser()
    shown.SetNumberOfColors(max(volume.label_ids, default=0) + 1)
    shown.SetColor(0, "background", 0.0, 0.0, 0.0, 0.0)
    for number, label in enumerate(volume.label_ids):
        red, green, blue = (level / 255 for level in label_colour(number))
        shown.SetColor(label, volume.label_name(label), red, green, blue, 1.0)
    node.GetDisplayNode().SetAndObserveColorNodeID(shown.GetID())
    return node


def fingerprint(node: Node) -> str:
    """SHA256 of a volume node's voxels, their type and its lattice, as text: does a saved result belong to this CT?

    The lattice counts to a ten-thousandth of a millimetre, since files keep no more; the name does not. Slicer turns
    left-handed volumes round along k when it opens them: they count as they are then.
    """
    values = view_of(of_kind(node, "vtkMRMLVolumeNode", what="a volume").GetImageData(), called(node))
    lattice = ijk_to_ras(node)
    if np.linalg.det(lattice) < 0:
        values = values[::-1]
        lattice[:3, 3] += lattice[:3, 2] * (len(values) - 1)
        lattice[:3, 2] *= -1
    found = hashlib.sha256(f"{values.dtype.name} {values.shape}".encode())
    # Rounded off the halves and quarters, on which spacings such as 0.78125 mm lie
    found.update(np.floor(lattice * 1e4 + ROUNDED_AT).astype(np.int64).tobytes())
    found.update(np.ascontiguousarray(values).data)
    return found.hexdigest()


def _with_image(scene: Scene, kind: str, array: ndarray, world_from_voxel: Any, name: str, node: Node) -> Node:
    node = new_node(scene, kind, name) if node is None else node
    changing = node.StartModify()  # one event for all, so that nobody sees a half-filled volume
    local = np.linalg.inv(world_from_node(node)) @ np.asarray(world_from_voxel)
    node.SetIJKToRASMatrix(vtk_matrix(local))
    node.SetAndObserveImageData(image_of(array))
    node.EndModify(changing)
    node.CreateDefaultDisplayNodes()
    return node


def _unit_of(node: Node) -> str:
    units = node.GetVoxelValueUnits()
    code = None if units is None else units.GetCodeValue()
    if units is None or code in (None, "", HOUNSFIELD[0]):
        return str(read_json(node, "unit", "HU"))
    return units.GetCodeMeaning() or code
