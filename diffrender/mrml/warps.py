"""A volume under a transform that bends or shears space, carried onto a lattice: a copy to use in its place."""

import itertools
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from diffrender.errors import ImageError, MemoryNeedError
from diffrender.mrml.images import view_of
from diffrender.mrml.nodes import Node, Scene, called, new_node, of_kind
from diffrender.mrml.transforms import vtk_matrix
from diffrender.mrml.volumes import ijk_to_ras

POINTS = 9  # along each axis, at which the warped box is measured
MOST_VOXELS = 2**31 - 1


def resampled(scene: Scene, node: Node, name: str | None = None) -> Node:
    """A copy of a volume node in the world, resampled where its transforms lead, with no transform above it.

    It has the axes and the voxel size of the node itself, and as many voxels as the warped volume needs. Values are
    trilinear in those of the node, its type is kept; beyond it lies its lowest value (air). Label maps take the
    nearest voxel, and 0 beyond.
    Raises: InputError for no volume, ImageError without voxels, MemoryNeedError.
    """
    of_kind(node, "vtkMRMLVolumeNode", what="a volume")
    values = view_of(node.GetImageData(), called(node))
    ras_from_voxel = ijk_to_ras(node)
    world_from_node, node_from_world = _transforms(node)
    lattice, size = _lattice_around(ras_from_voxel, values.shape[2::-1], world_from_node)
    if np.prod(size) > MOST_VOXELS:
        raise MemoryNeedError(
            f"{called(node)} would take {size[0]} x {size[1]} x {size[2]} voxels where its transform leads. Check that "
            "this transform belongs to it."
        )
    is_labels = bool(node.IsA("vtkMRMLLabelMapVolumeNode"))
    image = _resliced(node, node_from_world, ras_from_voxel, lattice, size, 0 if is_labels else values.min(), is_labels)
    copy = new_node(scene, node.GetClassName(), name or f"{node.GetName()} resampled")
    copy.CopyContent(node)
    copy.SetAndObserveTransformNodeID(None)
    copy.SetIJKToRASMatrix(vtk_matrix(lattice))
    copy.SetAndObserveImageData(image)
    copy.CreateDefaultDisplayNodes()
    return copy


def _transforms(node: Node) -> tuple[Any, Any]:
    """world_from_node and its inverse as vtkGeneralTransforms."""
    from vtkmodules.vtkCommonTransforms import vtkGeneralTransform

    forward, backward = vtkGeneralTransform(), vtkGeneralTransform()
    parent = node.GetParentTransformNode()
    if parent is not None:
        parent.GetTransformToWorld(forward)
        parent.GetTransformFromWorld(backward)
    return forward, backward


def _lattice_around(
    ras_from_voxel: Float[ndarray, "4 4"], size: tuple[int, ...], world_from_node: Any
) -> tuple[Float[ndarray, "4 4"], tuple[int, ...]]:
    """The lattice with the axes of `ras_from_voxel` that holds all of the warped box, and its size (i, j, k)."""
    steps = [np.linspace(0, n - 1, min(n, POINTS)) for n in size]
    voxels = np.array(list(itertools.product(*steps)))
    local = voxels @ ras_from_voxel[:3, :3].T + ras_from_voxel[:3, 3]
    world = np.array([world_from_node.TransformPoint(point) for point in local.tolist()])
    if not np.isfinite(world).all():
        raise ImageError("The transform leads some voxels to infinity. Check that it belongs to this volume.")
    found = np.linalg.solve(ras_from_voxel[:3, :3], (world - ras_from_voxel[:3, 3]).T).T
    low, high = np.floor(found.min(0) + 1e-6), np.ceil(found.max(0) - 1e-6)
    lattice = ras_from_voxel.copy()
    lattice[:3, 3] += ras_from_voxel[:3, :3] @ low
    return lattice, tuple(int(n) for n in high - low + 1)


def _resliced(
    node: Node, node_from_world: Any, ras_from_voxel: Any, lattice: Any, size: Any, beyond: Any, nearest: bool
) -> Any:
    from vtkmodules.vtkCommonTransforms import vtkGeneralTransform
    from vtkmodules.vtkImagingCore import vtkImageReslice

    voxel_from_voxel = vtkGeneralTransform()  # of the copy to those of the node: PostMultiply reads in order
    voxel_from_voxel.PostMultiply()
    voxel_from_voxel.Concatenate(vtk_matrix(lattice))
    voxel_from_voxel.Concatenate(node_from_world)
    voxel_from_voxel.Concatenate(vtk_matrix(np.linalg.inv(ras_from_voxel)))
    reslice = vtkImageReslice()
    reslice.SetInputData(node.GetImageData())
    reslice.SetResliceTransform(voxel_from_voxel)
    reslice.SetOutputSpacing(1, 1, 1)
    reslice.SetOutputOrigin(0, 0, 0)
    reslice.SetOutputExtent(0, size[0] - 1, 0, size[1] - 1, 0, size[2] - 1)
    reslice.SetBackgroundLevel(float(beyond))
    reslice.SetInterpolationModeToNearestNeighbor() if nearest else reslice.SetInterpolationModeToLinear()
    reslice.Update()
    return reslice.GetOutput()
