"""Model nodes to `Mesh`, and back, with numbers at the vertices to colour them by."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from diffrender.errors import MeshError
from diffrender.mesh import Mesh
from diffrender.mrml.nodes import Node, Scene, called, new_node, of_kind
from diffrender.mrml.transforms import world_from_node

KIND = "vtkMRMLModelNode"


def mesh_of(node: Node) -> Mesh:
    """The surface of a model node, in the world, its vertices in the node's order; copied.

    Vertices go where any parent transform leads them, exactly, be it linear or not; a mirroring one turns the faces
    round, so that they stay outward. Polygons and strips become triangles without new vertices.
    Raises: InputError for another node, MeshError where it has no surface.
    """
    of_kind(node, KIND, what="a model")
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkFiltersCore import vtkTriangleFilter

    surface = node.GetPolyData()
    if surface is None or not surface.GetNumberOfPoints() or not surface.GetNumberOfCells():
        raise MeshError(f"{called(node)} holds no surface (no polygons). Load or make its surface first.")
    divide = vtkTriangleFilter()
    divide.PassLinesOff()
    divide.PassVertsOff()
    divide.SetInputData(surface)
    divide.Update()
    points = vtk_to_numpy(surface.GetPoints().GetData())
    faces = vtk_to_numpy(divide.GetOutput().GetPolys().GetConnectivityArray()).reshape(-1, 3).astype(np.int64)
    vertices, mirrored = _in_the_world(node, points)
    if mirrored:
        faces = faces[:, ::-1].copy()
    return Mesh(torch.from_numpy(vertices), torch.from_numpy(faces), source=node.GetName() or None)


def mesh_to_node(
    scene: Scene,
    mesh: Mesh,
    name: str,
    scalars: Mapping[str, Any] | None = None,
    node: Node = None,
) -> Node:
    """A model node of a mesh.

    Args:
        scalars: {name: (v,) numbers}, such as {"standard deviation [mm]": ...}; the first one colours the model.
        node: an existing one to fill, under whatever linear parents it has; its name and its colours stay.
    Raises: MeshError where there are not as many numbers as vertices.
    """
    from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray
    from vtkmodules.vtkCommonCore import vtkPoints
    from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkPolyData

    vertices, faces = mesh.vertices.detach().cpu().numpy(), mesh.faces.cpu().numpy()
    points, cells, surface = vtkPoints(), vtkCellArray(), vtkPolyData()
    if node is not None:
        vertices = _moved(np.linalg.inv(world_from_node(node)), vertices)
    points.SetData(numpy_to_vtk(np.ascontiguousarray(vertices), deep=True))
    offsets = np.arange(0, 3 * len(faces) + 1, 3, dtype=np.int64)
    cells.SetData(numpy_to_vtkIdTypeArray(offsets, deep=True), numpy_to_vtkIdTypeArray(faces.ravel(), deep=True))
    surface.SetPoints(points)
    surface.SetPolys(cells)
    for label, numbers in (scalars or {}).items():
        numbers = np.asarray(numbers)
        if numbers.shape != (len(vertices),):
            raise MeshError(f"{label} has shape {list(numbers.shape)}; the mesh has {len(vertices)} vertices.")
        column = numpy_to_vtk(np.ascontiguousarray(numbers), deep=True)
        column.SetName(label)
        surface.GetPointData().AddArray(column)
    node = new_node(scene, KIND, name) if node is None else node
    node.SetAndObservePolyData(surface)
    node.CreateDefaultDisplayNodes()
    if scalars:
        first = next(iter(scalars))
        surface.GetPointData().SetActiveScalars(first)
        node.GetDisplayNode().SetActiveScalarName(first)
        node.GetDisplayNode().ScalarVisibilityOn()
    return node


def _in_the_world(node: Node, points: Float[ndarray, "v 3"]) -> tuple[Float[ndarray, "v 3"], bool]:
    """The points in the world, copied, in their type; and whether what leads there is a mirror."""
    parent = node.GetParentTransformNode()
    if parent is None or parent.IsTransformToWorldLinear():
        matrix = world_from_node(node)
        return _moved(matrix, points), bool(np.linalg.det(matrix[:3, :3]) < 0)
    from vtkmodules.vtkCommonTransforms import vtkGeneralTransform

    bend = vtkGeneralTransform()
    parent.GetTransformToWorld(bend)
    moved = np.array([bend.TransformPoint(point) for point in points.astype(np.float64).tolist()])
    middle = points.astype(np.float64).mean(0)
    steps = [np.subtract(bend.TransformPoint(middle + axis), bend.TransformPoint(middle)) for axis in np.eye(3)]
    return moved.astype(points.dtype), bool(np.linalg.det(steps) < 0)


def _moved(matrix: Float[ndarray, "4 4"], points: Float[ndarray, "v 3"]) -> Float[ndarray, "v 3"]:
    if np.array_equal(matrix, np.eye(4)):
        return np.array(points)
    return (points.astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3]).astype(points.dtype)
