"""Matrices of VTK as arrays, linear transform nodes, and where a node's own coordinates lie in the world."""

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from diffrender.errors import GeometryError, WarpError
from diffrender.mrml.nodes import Node, Scene, called, new_node, of_kind


def array_of(matrix: Any) -> Float[ndarray, "4 4"]:
    """A vtkMatrix4x4 as float64; a copy."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def vtk_matrix(array: Any) -> Any:
    """A vtkMatrix4x4 with these numbers."""
    from vtkmodules.vtkCommonMath import vtkMatrix4x4

    matrix = vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(array, dtype=np.float64).ravel().tolist())
    return matrix


def world_from_node(node: Node) -> Float[ndarray, "4 4"]:
    """World RAS [mm] from the coordinates that a node's data are in: all its parent transforms at once.

    Raises: WarpError where one of them bends space.
    """
    from vtkmodules.vtkCommonMath import vtkMatrix4x4

    parent = node.GetParentTransformNode()
    if parent is None:
        return np.eye(4)
    if not parent.IsTransformToWorldLinear():
        raise WarpError(
            f"{called(node)} lies under the transform {called(parent)}, which bends space, so that its voxels lie on "
            "no lattice. A resampled copy can be used in its place."
        )
    matrix = vtkMatrix4x4()
    parent.GetMatrixTransformToWorld(matrix)
    return array_of(matrix)


def matrix_of(node: Node) -> Float[ndarray, "4 4"]:
    """The matrix of a linear transform node, with those of its parents: what it maps, to world RAS [mm].

    Raises: InputError for no transform, WarpError for one that bends space.
    """
    of_kind(node, "vtkMRMLTransformNode", what="a linear transform")
    from vtkmodules.vtkCommonMath import vtkMatrix4x4

    if not node.IsTransformToWorldLinear():
        raise WarpError(f"The transform {called(node)} bends space; a matrix cannot hold it. Choose a linear one.")
    matrix = vtkMatrix4x4()
    node.GetMatrixTransformToWorld(matrix)
    return array_of(matrix)


def transform_to_node(scene: Scene, world_from_moved: Float[Any, "4 4"], name: str, node: Node = None) -> Node:
    """A linear transform node that maps what is put under it to the world, RAS [mm].

    Args:
        world_from_moved: (4, 4), as `dr.pose.motion` gives it, or a pose `world_from_model`.
        node: an existing transform node to fill, under whatever parents it has; its name stays.
    Raises: GeometryError for a matrix that is not finite or has no inverse.
    """
    matrix = np.asarray(world_from_moved, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
        raise GeometryError(f"A transform is a finite 4 x 4 matrix that has an inverse; this one is {matrix.tolist()}.")
    node = new_node(scene, "vtkMRMLLinearTransformNode", name) if node is None else node
    node.SetMatrixTransformToParent(vtk_matrix(np.linalg.inv(world_from_node(node)) @ matrix))
    return node
