"""Points in and out: in the world, and as pixels of the picture they were placed on."""

import numpy as np
import pytest
import torch

from diffrender import mrml
from diffrender.camera import Camera
from diffrender.errors import LabelError
from Testing.mrml.bodies import INNER, OUTER, rigid

GRID = 3e-4  # [mm] VTK holds a place in its grid as float32, which keeps some 1e-4
PLACES = {"ASIS left": (-71.25, 83.5, 12.125), "ASIS right": (64.0, 80.0, 9.0), "Symphyse": (-3.0, 91.0, -47.0)}


def placed(slicer_, places, parent=None):
    node = slicer_.add("MarkupsFiducial", "points", parent)
    for name, place in places.items():
        node.AddControlPoint(list(place), name)
    return node


def test_points_come_in_by_name(slicer_):
    assert mrml.landmarks_of(placed(slicer_, PLACES)) == PLACES


def test_parents_move_points_whatever_they_are(slicer_):
    found = mrml.landmarks_of(placed(slicer_, PLACES, slicer_.transform(INNER, slicer_.transform(OUTER))))
    expected = np.array([(OUTER @ INNER @ [*place, 1.0])[:3] for place in PLACES.values()])
    np.testing.assert_allclose(list(found.values()), expected, atol=1e-9)
    bend = np.array([[0.08, 0.02, 0.0], [-0.03, -0.05, 0.04], [0.01, 0.0, 0.06]])
    found = mrml.landmarks_of(placed(slicer_, PLACES, slicer_.grid(bend, [1.0, 2.0, 3.0])))
    expected = np.array(list(PLACES.values())) @ (np.eye(3) + bend).T + [1.0, 2.0, 3.0]
    np.testing.assert_allclose(list(found.values()), expected, atol=GRID)


def test_there_and_back(slicer_):
    assert mrml.landmarks_of(mrml.landmarks_to_node(slicer_.scene, PLACES, "points")) == PLACES
    node = placed(slicer_, {"old": (1.0, 2.0, 3.0)}, slicer_.transform(OUTER))
    found = mrml.landmarks_of(mrml.landmarks_to_node(slicer_.scene, PLACES, "", node))
    assert list(found) == list(PLACES)
    np.testing.assert_allclose(list(found.values()), list(PLACES.values()), atol=1e-9)


def test_points_not_placed_are_no_points(slicer_):
    node = placed(slicer_, PLACES)
    node.UnsetNthControlPointPosition(1)
    assert list(mrml.landmarks_of(node)) == ["ASIS left", "Symphyse"]
    with pytest.raises(LabelError, match="'points' holds no points that are placed"):
        mrml.landmarks_of(slicer_.add("MarkupsFiducial", "points"))


def test_names_are_unique(slicer_):
    node = placed(slicer_, PLACES)
    node.SetNthControlPointLabel(2, "ASIS left")
    with pytest.raises(LabelError, match="ASIS left stands twice"):
        mrml.landmarks_of(node)
    node.SetNthControlPointLabel(2, " ")
    with pytest.raises(LabelError, match="a point has no name"):
        mrml.landmarks_of(node)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_point_on_a_picture_is_a_pixel(slicer_, in_place):
    camera = Camera(torch.from_numpy(rigid((20.0, -35.0, 50.0), (-310.0, 95.0, -33.0))), 613.0, (0.7, 1.1), (30, 44))
    from diffrender.xray import Radiograph

    frames = [Radiograph(torch.rand(1, 30, 44), "intensity", camera)] * (1 if in_place else 3)
    stack = mrml.radiographs_to_node(slicer_.scene, frames, "frames", in_place=in_place)
    ijk = np.array([[7.25, 11.5, 0.0 if in_place else 2.0], [-0.5, 29.5, 0.0], [43.6, 3.0, 0.0]])  # the last: beside it
    world = ijk @ mrml.lattice_of(stack)[:3, :3].T + mrml.lattice_of(stack)[:3, 3]
    found = mrml.pixel_landmarks_of(placed(slicer_, dict(zip("abc", world, strict=True))), stack)
    flat = {name: place for places in found.values() for name, place in places.items()}
    assert set(flat) == {"a", "b"}
    np.testing.assert_allclose(flat["a"], (12.0, 7.75), atol=1e-6)
    np.testing.assert_allclose(flat["b"], (30.0, 0.0), atol=1e-6)
    assert set(found) == ({0} if in_place else {0, 2})
    if in_place:  # the ray through the pixel meets the point
        np.testing.assert_allclose(camera.project(torch.from_numpy(world[:1]))[0], flat["a"], atol=1e-6)
    with pytest.raises(LabelError, match="None of the points"):
        mrml.pixel_landmarks_of(placed(slicer_, {"far": (1e4, 0.0, 0.0)}), stack)
