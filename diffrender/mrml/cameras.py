"""The camera of a 3D view to `Camera`, and back; cameras kept with the nodes that were made by them."""

import math
from collections.abc import Sequence

import numpy as np
import torch

from diffrender.camera import Camera
from diffrender.errors import GeometryError
from diffrender.mrml.attributes import read_json, write_json
from diffrender.mrml.nodes import Node, Scene, called, new_node, of_kind

KIND = "vtkMRMLCameraNode"
SAME = 1e-6  # [share of a pixel's size] up to which pixels count as square


def camera_of(node: Node, image_size: tuple[int, int]) -> Camera:
    """What a 3D view shows, as a camera with its image plane through the view's focal point.

    Its numbers are the view's own, in the world: Slicer has applied parent transforms to them already.
    Args:
        image_size: (height, width) of the view or of the picture wanted of it [px]; the view angle is that of its
            height, so a picture of another shape shows more or less to the left and right.
    Raises: InputError for another node; GeometryError for parallel projection, or a view that looks nowhere.
    Source: vtkCamera::ComputeProjectionTransform of VTK, for the angle and the window's centre.
    """
    of_kind(node, KIND, what="the camera of a 3D view")
    view = node.GetCamera()
    if view.GetParallelProjection():
        raise GeometryError(
            f"{called(node)} is set to parallel projection (orthographic), in which rays have no common source. Switch "
            "the 3D view to perspective: the view's bar, the button with the box."
        )
    source, focus, up = (np.array(each()) for each in (view.GetPosition, view.GetFocalPoint, view.GetViewUp))
    distance = float(np.linalg.norm(focus - source))
    height, width = image_size
    if not distance > 0 or np.linalg.norm(np.cross(focus - source, up)) < 1e-9 * distance or height < 1 or width < 1:
        raise GeometryError(
            f"{called(node)} looks nowhere: its position, focal point and up direction lie on one line, or the view of "
            f"{height} x {width} pixels is closed. Reset the 3D view."
        )
    z = (focus - source) / distance
    x = np.cross(z, up)
    x /= np.linalg.norm(x)
    world_from_camera = np.eye(4)
    world_from_camera[:3] = np.stack([x, np.cross(z, x), z, source], axis=1)
    across = width if view.GetUseHorizontalViewAngle() else height
    pixel = 2 * distance * math.tan(math.radians(view.GetViewAngle()) / 2) / across
    right, top = view.GetWindowCenter()  # of the picture, -1 to 1
    principal_point = (height * (1 + top) / 2, width * (1 - right) / 2)
    return Camera(torch.from_numpy(world_from_camera), distance, (pixel, pixel), (height, width), principal_point)


def camera_to_node(scene: Scene, camera: Camera, name: str, node: Node = None) -> Node:
    """A camera node with this view; its focal point lies where the camera's axis meets the image plane.

    Args:
        node: an existing one to set, such as that of a 3D view, which then shows what the camera sees.
    Raises: GeometryError for what a 3D view cannot show: an image seen from the detector, mirrored, or oblong pixels.
    """
    row_step, column_step = camera.pixel_size
    if camera.mirrored:
        raise GeometryError(
            "A 3D view cannot be mirrored, and this camera's image is seen from the detector (PA, C-arm). Give one "
            "seen from the source, or show the radiograph in a slice view."
        )
    if abs(row_step - column_step) > SAME * row_step:
        raise GeometryError(
            f"A 3D view has square pixels; this camera's are {row_step:g} x {column_step:g} mm. Give its image as many "
            "pixels as make them square (`camera.resized`)."
        )
    node = new_node(scene, KIND, name) if node is None else of_kind(node, KIND, what="the camera of a 3D view")
    (height, width), (row, column) = camera.image_size, camera.principal_point
    axes = camera.world_from_camera.numpy()
    changing = node.StartModify()
    view = node.GetCamera()
    view.ParallelProjectionOff()
    view.UseHorizontalViewAngleOff()
    view.SetPosition(*axes[:3, 3])
    view.SetFocalPoint(*(axes[:3, 3] + axes[:3, 2] * camera.source_to_detector))
    view.SetViewUp(*-axes[:3, 1])
    view.SetViewAngle(2 * math.degrees(math.atan(height * row_step / 2 / camera.source_to_detector)))
    view.SetWindowCenter(1 - 2 * column / width, 2 * row / height - 1)
    node.EndModify(changing)
    return node


def remember_cameras(node: Node, cameras: Sequence[Camera]) -> None:
    """Keep the cameras of the pictures in a node with it, one a slice, to the last digit."""
    write_json(node, "cameras", [camera.to_dict() for camera in cameras])


def recall_cameras(node: Node) -> list[Camera]:
    """What `remember_cameras` kept; empty where nothing was. Raises: GeometryError, SettingError for damage."""
    return [Camera.from_dict(each) for each in read_json(node, "cameras", [])]
