"""Markups (points) to landmarks: in the world, or in the pictures they were placed on; and back."""

from collections.abc import Mapping, Sequence

import numpy as np

from diffrender.errors import LabelError
from diffrender.mrml.images import view_of
from diffrender.mrml.nodes import Node, Scene, called, new_node, of_kind
from diffrender.mrml.transforms import world_from_node
from diffrender.mrml.volumes import lattice_of

KIND = "vtkMRMLMarkupsFiducialNode"
DEFINED = 2  # vtkMRMLMarkupsNode.PositionDefined; 0 undefined, 1 preview (follows the mouse), 3 missing


def landmarks_of(node: Node) -> dict[str, tuple[float, float, float]]:
    """{name: (R, A, S)} [mm] in the world of the points that are placed; any parent transform is applied exactly.

    Raises: InputError for another node; LabelError for no points, or a name that is missing or stands twice.
    """
    of_kind(node, "vtkMRMLMarkupsNode", what="a list of points (markups)")
    placed = [n for n in range(node.GetNumberOfControlPoints()) if node.GetNthControlPointPositionStatus(n) == DEFINED]
    if not placed:
        raise LabelError(f"{called(node)} holds no points that are placed. Place them in the views first.")
    places: dict[str, tuple[float, float, float]] = {}
    for n in placed:
        name = node.GetNthControlPointLabel(n).strip()
        if not name or name in places:
            raise LabelError(
                f"{called(node)}: {'a point has no name' if not name else f'{name} stands twice'}. Name each, once: "
                "double-click its name in the Markups module."
            )
        point = [0.0, 0.0, 0.0]
        node.GetNthControlPointPositionWorld(n, point)
        places[name] = (point[0], point[1], point[2])
    return places


def pixel_landmarks_of(node: Node, pictures: Node) -> dict[int, dict[str, tuple[float, float]]]:
    """{picture: {name: (row, column)}} [px from the image's corner] of points placed on a stack of pictures.

    A point belongs to the picture it lies nearest to. Those above, below or beside the stack are left out.
    Raises: as `landmarks_of`, and LabelError where none lies on a picture.
    """
    voxel_from_world = np.linalg.inv(lattice_of(pictures))
    n, height, width = view_of(pictures.GetImageData(), called(pictures)).shape[:3]
    found: dict[int, dict[str, tuple[float, float]]] = {}
    for name, place in landmarks_of(node).items():
        i, j, k = (voxel_from_world @ [*place, 1.0])[:3].tolist()
        picture = round(k)
        if 0 <= picture < n and -0.5 <= i <= width - 0.5 and -0.5 <= j <= height - 0.5:
            found.setdefault(picture, {})[name] = (j + 0.5, i + 0.5)  # voxel centres are integers, pixel centres halves
    if not found:
        raise LabelError(f"None of the points of {called(node)} lies on a picture of {called(pictures)}.")
    return found


def landmarks_to_node(scene: Scene, landmarks: Mapping[str, Sequence[float]], name: str, node: Node = None) -> Node:
    """A point list of landmarks {name: (R, A, S)} [mm] in the world, in their order.

    Args:
        node: an existing one whose points these replace, under whatever linear parents it has.
    """
    node = new_node(scene, KIND, name) if node is None else node
    node_from_world = np.linalg.inv(world_from_node(node))
    changing = node.StartModify()
    node.RemoveAllControlPoints()
    for label, place in landmarks.items():
        point = (node_from_world @ [*(float(number) for number in place), 1.0])[:3].tolist()
        node.AddControlPoint(point, label)
    node.EndModify(changing)
    node.CreateDefaultDisplayNodes()
    return node
