"""The camera of a 3D view and ours draw every point at the same pixel; VTK's own projection is the judge."""

import math

import numpy as np
import pytest
import torch

from diffrender import mrml
from diffrender.camera import Camera, c_arm
from diffrender.errors import GeometryError, InputError
from Testing.mrml.bodies import OUTER, rigid

SIZE = (120, 200)  # (height, width)
POINTS = np.array([[3.0, 20.0, -11.0], [-41.0, 5.0, 23.0], [17.0, -30.0, 61.0], [0.5, 44.0, 7.0]])
PIXEL = 1e-9  # float64 all the way


def drawn_by_vtk(node, points, size) -> np.ndarray:
    """(row, column) of world points in a window of `size`, as VTK projects them."""
    height, width = size
    matrix = node.GetCamera().GetCompositeProjectionTransformMatrix(width / height, -1, 1)
    found = np.array([matrix.MultiplyPoint([*point, 1.0]) for point in points])
    x, y = (found[:, :2] / found[:, 3:]).T
    return np.stack([(1 - y) / 2 * height, (1 + x) / 2 * width], axis=1)


def seen(slicer_):
    node = slicer_.add("Camera", "view 1")
    node.SetPosition(310.0, 270.0, -150.0)
    node.SetFocalPoint(11.0, -7.0, 31.0)
    node.SetViewUp(0.1, 0.3, 1.0)
    node.SetViewAngle(27.0)
    return node


def test_a_view_becomes_the_camera_that_sees_the_same(slicer_):
    node = seen(slicer_)
    found = mrml.camera_of(node, SIZE)
    expected = drawn_by_vtk(node, POINTS, SIZE)
    np.testing.assert_allclose(found.project(torch.from_numpy(POINTS)).numpy(), expected, atol=PIXEL)
    assert not found.mirrored
    assert found.source_to_detector == pytest.approx(math.dist((310, 270, -150), (11, -7, 31)))


def test_horizontal_angles_and_shifted_windows_are_followed(slicer_):
    node = seen(slicer_)
    node.GetCamera().SetWindowCenter(0.2, -0.3)
    expected = drawn_by_vtk(node, POINTS, SIZE)
    found = mrml.camera_of(node, SIZE).project(torch.from_numpy(POINTS)).numpy()
    np.testing.assert_allclose(found, expected, atol=PIXEL)
    node.GetCamera().UseHorizontalViewAngleOn()
    expected = drawn_by_vtk(node, POINTS, SIZE)
    found = mrml.camera_of(node, SIZE).project(torch.from_numpy(POINTS)).numpy()
    np.testing.assert_allclose(found, expected, atol=PIXEL)


def camera() -> Camera:
    matrix = torch.from_numpy(rigid((20.0, -35.0, 50.0), (-310.0, 95.0, -33.0)))
    return Camera(matrix, 613.0, (0.7, 0.7), SIZE, (51.0, 117.0))


def test_ours_is_drawn_by_vtk_as_we_project(scene):
    ours = camera()
    points = ours.source.numpy() + 400 * ours.rays()[1][20:100:30, 30:190:50].reshape(-1, 3).numpy()
    node = mrml.camera_to_node(scene, ours, "view 1")
    expected = ours.project(torch.from_numpy(points)).numpy()
    np.testing.assert_allclose(drawn_by_vtk(node, points, SIZE), expected, atol=1e-7)  # VTK keeps a view's angle


def test_there_and_back(slicer_):
    ours = camera()
    back = mrml.camera_of(mrml.camera_to_node(slicer_.scene, ours, "", seen(slicer_)), SIZE)
    np.testing.assert_allclose(back.world_from_camera, ours.world_from_camera, atol=1e-9)
    np.testing.assert_allclose(back.pixel_size, ours.pixel_size, rtol=1e-12)
    np.testing.assert_allclose(back.principal_point, ours.principal_point, atol=1e-9)
    assert back.image_size == SIZE


def test_a_parent_moves_the_view_once(slicer_):
    """Slicer moves the camera itself when its transform changes; applying it again would move it twice."""
    node, parent = seen(slicer_), slicer_.add("LinearTransform")
    node.SetAndObserveTransformNodeID(parent.GetID())
    parent.SetMatrixTransformToParent(slicer_matrix(OUTER))
    found = mrml.camera_of(node, SIZE)
    np.testing.assert_allclose(found.source.numpy(), (OUTER @ [310.0, 270.0, -150.0, 1.0])[:3], atol=1e-9)
    np.testing.assert_allclose(
        found.project(torch.from_numpy(POINTS)).numpy(), drawn_by_vtk(node, POINTS, SIZE), atol=PIXEL
    )


def slicer_matrix(matrix):
    from Testing.mrml.scenes import vtk4

    return vtk4(matrix)


def test_what_a_view_cannot_show_is_refused(scene):
    with pytest.raises(GeometryError, match="cannot be mirrored"):
        mrml.camera_to_node(scene, c_arm((1.0, 2.0, 3.0)), "x")
    oblong = Camera(torch.eye(4, dtype=torch.float64), 600.0, (0.7, 0.8), SIZE)
    with pytest.raises(GeometryError, match=r"square pixels; this camera's are 0.7 x 0.8 mm"):
        mrml.camera_to_node(scene, oblong, "x")


def test_what_is_no_perspective_is_refused(slicer_):
    node = seen(slicer_)
    node.SetParallelProjection(True)
    with pytest.raises(GeometryError, match=r"'view 1' is set to parallel projection.*Switch the 3D view"):
        mrml.camera_of(node, SIZE)
    node.SetParallelProjection(False)
    node.SetFocalPoint(node.GetPosition())
    with pytest.raises(GeometryError, match="looks nowhere"):
        mrml.camera_of(node, SIZE)
    with pytest.raises(GeometryError, match="looks nowhere"):
        mrml.camera_of(seen(slicer_), (0, 200))
    with pytest.raises(InputError, match="choose the camera of a 3D view"):
        mrml.camera_of(slicer_.add("Model"), SIZE)


def test_cameras_are_kept_to_the_last_digit(slicer_):
    node, cameras = slicer_.add("VectorVolume"), [camera(), c_arm((1 / 3, 2 / 7, 3e5 / 7), 31, -17)]
    assert mrml.recall_cameras(node) == []
    mrml.remember_cameras(node, cameras)
    found = mrml.recall_cameras(node)
    assert [one.to_dict() for one in found] == [one.to_dict() for one in cameras]
