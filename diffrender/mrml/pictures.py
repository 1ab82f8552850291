"""Pictures as volume nodes: rendered views as a stack of colours, radiographs as a stack of greys, cameras with them.

A stack lies flat: in a slice view of orientation Axial its pictures are upright, one a slice, columns to the right.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from diffrender.camera import Camera
from diffrender.errors import GeometryError, ImageError, SettingError
from diffrender.mrml.attributes import read_json, write_json
from diffrender.mrml.cameras import recall_cameras, remember_cameras
from diffrender.mrml.images import image_of, view_of
from diffrender.mrml.nodes import Node, Scene, called, new_node, of_kind
from diffrender.mrml.segmentations import segmentation_to_node
from diffrender.mrml.transforms import vtk_matrix
from diffrender.volume import Volume
from diffrender.xray import Radiograph

# Slicer's Axial view has the patient's left on the right and anterior on top: columns grow to L, rows to P.
FLAT = np.diag([-1.0, -1.0, 1.0])


def world_from_pixel(camera: Camera) -> Float[ndarray, "4 4"]:
    """The lattice of a one-slice volume where the camera's image plane is: (column, row, 0) of pixel centres, RAS [mm].

    Left-handed where the image is seen from the source, since rows grow downwards; its k goes along the beam.
    """
    row_step, column_step = camera.pixel_size
    row, column = camera.principal_point
    camera_from_pixel = np.diag([column_step, row_step, 1.0, 1.0])
    camera_from_pixel[:3, 3] = (0.5 - column) * column_step, (0.5 - row) * row_step, camera.source_to_detector
    return camera.world_from_camera.numpy() @ camera_from_pixel


def pictures_to_node(
    scene: Scene,
    pictures: Float[Tensor, "n channel h w"],
    name: str,
    cameras: Sequence[Camera] = (),
    node: Node = None,
) -> Node:
    """A vector volume node of colour pictures, one a slice, as 8-bit RGB on black; their cameras kept with it.

    Args:
        pictures: premultiplied RGBA, or RGB, in 0..1.
        cameras: what took them, one each, or none.
        node: an existing one to fill.
    Raises: ImageError for another number of channels, or of cameras.
    """
    if pictures.shape[1] not in (3, 4) or len(cameras) not in (0, len(pictures)):
        raise ImageError(
            f"Pictures are (n, 3 or 4, h, w) with a camera each; these are {list(pictures.shape)} and have "
            f"{len(cameras)} cameras."
        )
    levels = (pictures[:, :3].detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)  # premultiplied: black behind
    return _stack(scene, "vtkMRMLVectorVolumeNode", levels.permute(0, 2, 3, 1).numpy(), name, cameras, node)


def pictures_of(node: Node) -> UInt8[Tensor, "n 3 h w"]:
    """The pictures of a vector volume node, in the order of its slices; copied.

    Raises: InputError for another node, ImageError where they are no 8-bit colours.
    """
    of_kind(node, "vtkMRMLVectorVolumeNode", what="a stack of colour pictures (a vector volume)")
    array = view_of(node.GetImageData(), called(node))
    if array.ndim != 4 or array.shape[3] not in (3, 4) or array.dtype != np.uint8:
        raise ImageError(f"{called(node)} holds {array.dtype} of shape {list(array.shape)}, no 8-bit RGB pictures.")
    return torch.from_numpy(np.array(array[..., :3])).permute(0, 3, 1, 2).contiguous()


def radiographs_to_node(
    scene: Scene, radiographs: Sequence[Radiograph], name: str, in_place: bool = False, node: Node = None
) -> Node:
    """A scalar volume node of radiographs of one size, one a slice, float32; cameras and kind kept with it.

    Args:
        in_place: put it where the image plane is, to be seen beside the patient in 3D; for one radiograph alone.
        node: an existing one to fill; during a drag this costs one copy of the pixels.
    Raises: ImageError for radiographs of different sizes or kinds, or several of them in place.
    """
    sizes = {radiograph.camera.image_size for radiograph in radiographs}
    kinds = {radiograph.kind for radiograph in radiographs}
    if len(sizes) != 1 or len(kinds) != 1 or (in_place and len(radiographs) > 1):
        raise ImageError(
            f"A stack holds radiographs of one size and kind, and a single one where it is put in place; these are "
            f"{len(radiographs)} of the sizes {sorted(sizes)} and the kinds {sorted(kinds)}."
        )
    pixels = np.concatenate([radiograph.pixels.detach().cpu().numpy() for radiograph in radiographs])
    cameras = [radiograph.camera for radiograph in radiographs]
    node = _stack(scene, "vtkMRMLScalarVolumeNode", pixels, name, cameras, node)
    if in_place:
        node.SetIJKToRASMatrix(vtk_matrix(world_from_pixel(cameras[0])))
    write_json(node, "kind", radiographs[0].kind)
    return node


def radiographs_of(node: Node, cameras: Sequence[Camera] = (), kind: str | None = None) -> list[Radiograph]:
    """The radiographs of a scalar volume node, one a slice; copied.

    Args:
        cameras: where the node keeps none; one each.
        kind: "log-attenuation" or "intensity", where the node does not say.
    Raises: InputError for another node; GeometryError where there is no camera for each; SettingError without a kind;
        ImageError for colours, NaN or no voxels.
    """
    of_kind(node, "vtkMRMLScalarVolumeNode", what="X-ray frames (a scalar volume)")
    array = view_of(node.GetImageData(), called(node))
    if array.ndim != 3 or not np.isfinite(array).all():
        raise ImageError(f"{called(node)} holds colours, NaN or infinite numbers; X-ray frames are finite greys.")
    cameras = recall_cameras(node) or list(cameras)
    kind = kind or read_json(node, "kind")
    sizes = {camera.image_size for camera in cameras}
    if len(cameras) != len(array) or sizes != {array.shape[1:]}:
        raise GeometryError(
            f"{called(node)} holds {len(array)} frames of {array.shape[1]} x {array.shape[2]} pixels, and there are "
            f"{len(cameras)} cameras of the sizes {sorted(sizes)}: where source and detector stood must be known for "
            "each. Fill in the C-arm's geometry, or load its file."
        )
    if kind is None:
        raise SettingError(
            f'{called(node)} does not say what its greys are; choose "intensity" (bone dark) or "log-attenuation".'
        )
    pixels = torch.from_numpy(array.astype(np.float32))
    return [
        Radiograph(pixels[n : n + 1], kind, camera, source=node.GetName() or None) for n, camera in enumerate(cameras)
    ]


def masks_to_node(scene: Scene, radiographs: Sequence[Radiograph], name: str, reference: Node) -> Node:
    """A segmentation node of the radiographs' masks on their stack `reference`: a segment for each label, overlapping.

    Raises: LabelError where no label is seen.
    """
    from diffrender.mrml.volumes import lattice_of

    n, height, width = view_of(reference.GetImageData(), called(reference)).shape
    ids = sorted({label for radiograph in radiographs for label in radiograph.ids})
    layers = torch.zeros((len(ids), n, height, width), dtype=torch.bool)
    names: dict[int, str] = {}
    for slot, radiograph in enumerate(radiographs):
        if radiograph.masks is not None:
            for label, mask in zip(radiograph.ids, radiograph.masks, strict=True):
                layers[ids.index(label), slot] = mask.cpu() > 0.5
                names[label] = radiograph.label_name(label)
    seen = layers.flatten(1).any(1)
    kept = [label for label, each in zip(ids, seen.tolist(), strict=True) if each]
    empty = torch.zeros((), dtype=torch.int16).expand(n, height, width)
    labels = {"labels": layers[seen], "names": {label: names[label] for label in kept}} if kept else {}
    volume = Volume(empty, torch.from_numpy(lattice_of(reference)), **labels)
    return segmentation_to_node(scene, volume, name, reference=reference)


def _stack(scene: Scene, kind: str, array: ndarray, name: str, cameras: Sequence[Camera], node: Node) -> Node:
    node = new_node(scene, kind, name) if node is None else of_kind(node, kind, what="a node to fill")
    row_step, column_step = cameras[0].pixel_size if cameras else (1.0, 1.0)
    lattice = np.eye(4)
    lattice[:3, :3] = FLAT * [column_step, row_step, max(row_step, column_step)]
    changing = node.StartModify()
    node.SetIJKToRASMatrix(vtk_matrix(lattice))
    node.SetAndObserveImageData(image_of(array))
    remember_cameras(node, cameras)
    node.EndModify(changing)
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
    return node
