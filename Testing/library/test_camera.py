"""Cameras: C-arm angles, projection matrices, pixels and edges, against numbers worked out by hand."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

import diffrender as dr
import phantoms
from diffrender.camera import letters, read_cameras
from diffrender.errors import GeometryError, PathError

CAMERA = dataclasses.replace(
    dr.c_arm((11.0, -7.0, 40.0), 33, -21, 1020, 700, (0.8, 1.1), (120, 90)), principal_point=(51.0, 47.5)
)


def test_c_arm_at_zero_is_seen_from_before_the_patient():
    camera = dr.c_arm((1.0, 2.0, 3.0))
    assert camera.source.tolist() == [1.0, 2.0 - 700.0, 3.0]  # behind the patient
    assert camera.direction.tolist() == [0, 1, 0]  # to the front
    assert camera.mirrored
    assert camera.orientation() == {"left": "R", "right": "L", "top": "H", "bottom": "F"}
    assert camera.principal_point == (128.0, 128.0)


@pytest.mark.parametrize(
    ("primary", "secondary", "to_detector", "edges"),
    [
        (90, 0, (-1, 0, 0), "APHF"),  # LAO 90: the detector at the patient's left
        (-90, 0, (1, 0, 0), "PAHF"),
        (0, 90, (0, 0, 1), "RLPA"),  # the detector at the head: the patient's back on top, as y = (0, 0 cos s) turns
        (180, 0, (0, -1, 0), "LRHF"),
        (0, -30, (0, math.cos(math.radians(30)), -0.5), None),
    ],
)
def test_c_arm_angles_are_those_of_dicom(primary, secondary, to_detector, edges):
    camera = dr.c_arm((0.0, 0.0, 0.0), primary, secondary)
    assert camera.direction.tolist() == pytest.approx(to_detector, abs=1e-12)
    assert camera.mirrored  # nothing flips beyond 90 degrees
    if edges:
        assert "".join(camera.orientation()[edge] for edge in ("left", "right", "top", "bottom")) == edges


def test_project_finds_a_point_where_similar_triangles_put_it():
    camera = dr.c_arm((0.0, 0.0, 0.0), source_to_detector=1000, source_to_isocenter=600, pixel_size=(2.0, 4.0))
    # 30 mm to the left (-x) and 12 mm up, in the isocentre's plane: magnified by 10 / 6
    row, column = camera.project(torch.tensor([-30.0, 0.0, 12.0], dtype=torch.float64)).tolist()
    assert (row, column) == pytest.approx((128 - 20 / 2, 128 + 50 / 4))
    assert camera.project(torch.tensor([0.0, -601.0, 0.0], dtype=torch.float64)).isnan().all()


def test_rays_go_through_pixel_centres():
    source, directions = CAMERA.rays()
    assert directions.shape == (120, 90, 3)
    assert (directions.norm(dim=-1) - 1).abs().max() < 1e-14
    pixels = CAMERA.project(source + 350 * directions)
    assert (pixels - CAMERA.pixel_centres()).abs().max() < 1e-9
    assert CAMERA.pixel_centres()[3, 7].tolist() == [3.5, 7.5]
    middle = CAMERA.rays(torch.tensor([[51.0, 47.5]], dtype=torch.float64))[1][0]
    assert (middle - CAMERA.direction).abs().max() < 1e-14


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("given", ["pixel_size", "source_to_detector"])
def test_there_and_back_through_a_projection_matrix(mirrored, given):
    camera = phantoms.oblique_camera(np.array([3.0, -20.0, 11.0]), mirrored=mirrored)
    matrix = camera.projection()
    back = dr.camera_from_projection(0.37 * matrix, camera.image_size, **{given: getattr(camera, given)})
    assert (back.world_from_camera - camera.world_from_camera).abs().max() < 1e-9
    assert back.source_to_detector == pytest.approx(camera.source_to_detector)
    assert back.pixel_size == pytest.approx(camera.pixel_size)
    assert back.principal_point == pytest.approx(camera.principal_point)
    again = back.projection()
    assert (again / again[2, 3] - matrix / matrix[2, 3]).abs().max() < 1e-9


def test_projection_matrix_by_hand():
    """A camera at the origin looking along +y (anterior), columns to the left, 500 mm, pixels of 0.5 (row) x 0.25."""
    matrix = torch.tensor([[-2000.0, 100, 0, 0], [0, 80, -1000, 0], [0, 1, 0, 0]], dtype=torch.float64)
    camera = dr.camera_from_projection(matrix, (160, 200), pixel_size=(0.5, 0.25))
    assert camera.source_to_detector == pytest.approx(500)
    assert camera.principal_point == pytest.approx((80, 100))
    assert camera.orientation() == {"left": "R", "right": "L", "top": "H", "bottom": "F"}
    opencv = dr.camera_from_projection(matrix, (160, 200), source_to_detector=500, pixel_centres="integer")
    assert opencv.principal_point == pytest.approx((80.5, 100.5))
    towards = dr.camera_from_projection(-matrix, (160, 200), source_to_detector=500, flip_depth=True)
    assert (towards.world_from_camera - camera.world_from_camera).abs().max() < 1e-12


def test_impossible_projections_are_refused():
    matrix = CAMERA.projection()
    with pytest.raises(GeometryError, match="only the ratio"):
        dr.camera_from_projection(matrix, (10, 10))
    with pytest.raises(GeometryError, match="Are row and column exchanged"):
        dr.camera_from_projection(matrix, (10, 10), pixel_size=(1.1, 0.8))
    with pytest.raises(GeometryError, match="999 mm was given"):
        dr.camera_from_projection(matrix, (10, 10), pixel_size=(0.8, 1.1), source_to_detector=999)
    skew = torch.eye(3, dtype=torch.float64)
    skew[0, 1] = 0.02
    with pytest.raises(GeometryError, match="skewed"):
        dr.camera_from_projection(skew @ matrix, (10, 10), source_to_detector=1020)
    with pytest.raises(GeometryError, match="no single source"):
        dr.camera_from_projection(torch.eye(4, dtype=torch.float64)[[0, 1, 3]], (10, 10), pixel_size=1.0)
    with pytest.raises(GeometryError, match='"half" or "integer"'):
        dr.camera_from_projection(matrix, (10, 10), pixel_size=1.0, pixel_centres="corner")


def test_resized_is_the_same_view():
    half = CAMERA.resized((60, 45))
    point = torch.tensor([5.0, 9.0, 60.0], dtype=torch.float64)
    assert (half.project(point) * 2 - CAMERA.project(point)).abs().max() < 1e-9
    odd = CAMERA.resized((31, 77))
    scale = torch.tensor([31 / 120, 77 / 90], dtype=torch.float64)
    assert (odd.project(point) - CAMERA.project(point) * scale).abs().max() < 1e-9
    with pytest.raises(GeometryError, match="0 x 5 pixels"):
        CAMERA.resized((0, 5))


def test_json_there_and_back(tmp_path):
    data = json.loads(json.dumps(CAMERA.to_dict()))
    assert set(data) == {
        "format", "world", "world_from_camera", "source_to_detector", "pixel_size", "image_size", "principal_point"
    }  # fmt: skip
    back = dr.Camera.from_dict(data)
    assert torch.equal(back.projection(), CAMERA.projection())
    path = tmp_path / "Kamera über Kopf.json"
    path.write_text(json.dumps([data, data]), encoding="utf-8")
    assert len(read_cameras(path)) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"world": "LPS"}, "world 'LPS'"),
        ({"format": 2}, "found format 2"),
        ({"pixel_size": None}, "something other than numbers"),
        ({"world_from_camera": "RAS"}, "something other than numbers"),
        ({"image_size": [0, 5]}, "0 x 5 pixels"),
    ],
)
def test_a_wrong_camera_file_is_named(tmp_path, change, words):
    path = tmp_path / "camera.json"
    path.write_text(json.dumps({**CAMERA.to_dict(), **change}), encoding="utf-8")
    with pytest.raises(GeometryError, match=words) as problem:
        read_cameras(path)
    assert str(problem.value).startswith(str(path))


def test_files_that_are_no_camera(tmp_path):
    (tmp_path / "text.json").write_text("hello")
    with pytest.raises(PathError, match=r"text\.json is no JSON file"):
        read_cameras(tmp_path / "text.json")
    with pytest.raises(PathError, match=r"none\.json cannot be read"):
        read_cameras(tmp_path / "none.json")
    data = CAMERA.to_dict()
    del data["pixel_size"]
    with pytest.raises(GeometryError, match="lacks pixel_size"):
        dr.Camera.from_dict(data)


def scaled(factor: float, axis: int) -> torch.Tensor:
    matrix = CAMERA.world_from_camera.clone()
    matrix[:3, axis] *= factor
    return matrix


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"world_from_camera": scaled(1.01, 1)}, "axes are scaled"),
        ({"world_from_camera": torch.eye(4) + torch.eye(4)[[3, 0, 1, 2]] * 0.001}, "end with the row|sheared"),
        ({"image_size": (0, 10)}, "0 x 10 pixels; give at least 1 x 1"),
        ({"pixel_size": (0.0, 1.0)}, "must be above zero"),
        ({"pixel_size": (1.0, -1.0)}, "must be above zero"),
        ({"source_to_detector": -5.0}, "above zero"),
        ({"source_to_detector": math.nan}, "finite"),
    ],
)
def test_impossible_cameras_are_refused(change, words):
    with pytest.raises(GeometryError, match=words):
        dataclasses.replace(CAMERA, **change)


def test_sheared_axes_are_refused():
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, 0] = torch.tensor([math.cos(0.01), math.sin(0.01), 0.0])
    with pytest.raises(GeometryError, match="axes are sheared"):
        dr.Camera(matrix, 1000.0, (1.0, 1.0), (5, 5))


def test_a_source_behind_its_isocentre_is_refused():
    with pytest.raises(GeometryError, match="source_to_isocenter is -700 mm"):
        dr.c_arm((0.0, 0.0, 0.0), source_to_isocenter=-700)
    with pytest.raises(GeometryError, match="three finite numbers"):
        dr.c_arm((0.0, math.nan, 0.0))


def test_a_camera_keeps_its_own_matrix():
    matrix = torch.eye(4, dtype=torch.float64)
    cameras = []
    for n in range(2):
        matrix[2, 3] = -100.0 * n
        cameras.append(dr.Camera(matrix, 100.0, (1.0, 1.0), (2, 2)))
    assert [camera.source[2].item() for camera in cameras] == [0, -100]


def test_more_cameras_that_cannot_be():
    with pytest.raises(GeometryError, match="before the isocentre at 700"):
        dr.c_arm((0.0, 0.0, 0.0), source_to_detector=500)
    with pytest.raises(GeometryError, match="whole number of pixels"):
        dr.Camera.from_dict({**CAMERA.to_dict(), "image_size": [True, True]})


def test_letters_of_oblique_edges():
    assert letters([-0.9, 0.3, 0.1]) == "LA"
    assert letters([0.1, -0.5, 0.8]) == "HP"
