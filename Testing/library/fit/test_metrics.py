"""Errors of fits whose errors are known: moved, turned, grown and warped meshes."""

import dataclasses
import math

import numpy as np
import pytest
import surfaces
import torch

import diffrender as dr
import phantoms
from diffrender.errors import MeshError, SettingError
from diffrender.fit.metrics import distances_to, errors_of, floor_of, inside_deviations, share_in_view
from diffrender.fit.parametric import default_pelvis
from diffrender.fit.simulation import cios_camera
from diffrender.mesh import Mesh

CENTRE = np.array([12.0, -7.0, 25.0])


def ball(radius: float) -> Mesh:
    sphere = phantoms.Ellipsoid(CENTRE, np.full(3, radius), np.eye(3))
    return surfaces.of_ellipsoid(sphere, 4, torch.float64)


def egg() -> Mesh:
    return surfaces.of_ellipsoid(phantoms.Ellipsoid(CENTRE, np.array([40.0, 22, 31]), phantoms.rotation(9, 20, -14)), 3)


def test_a_grown_ball_is_off_by_the_difference_of_radii_on_average_and_at_most():
    errors = errors_of(ball(43.0), ball(40.0), cios_camera())
    # The meshes are inscribed: their faces lie up to 0.05 mm below the sphere.
    assert errors.hausdorff == pytest.approx(3.0, abs=0.06)
    assert errors.hausdorff_95 == pytest.approx(3.0, abs=0.06)
    assert errors.surface == pytest.approx(3.0, abs=0.06)
    assert [errors.mtre, errors.shape] == pytest.approx([3.0, 3.0], abs=1e-5)  # each vertex goes 3 mm outward
    assert errors.rotation < 1e-4
    assert errors.depth < 1e-6


def test_one_vertex_pulled_out_is_seen_by_the_largest_distance_alone():
    truth, pulled = ball(40.0), ball(40.0)
    far = pulled.vertices.clone()
    far[100] += 20 * (far[100] - torch.tensor(CENTRE)) / 40
    for one, other in ((Mesh(far, truth.faces), truth), (truth, Mesh(far, truth.faces))):  # in either direction
        errors = errors_of(one, other, cios_camera())
        assert errors.hausdorff == pytest.approx(20.0, abs=0.1)
        assert errors.hausdorff_95 < 0.1


def test_the_95_percent_distance_is_the_larger_of_both_ways():
    whole = ball(40.0)
    high = whole.vertices[whole.faces][:, :, 2].mean(1) > CENTRE[2]
    half = Mesh(whole.vertices, whole.faces[high])  # from it all lies on the ball; from the ball, half is far away
    errors = errors_of(half, whole, cios_camera())
    far = distances_to(whole.vertices.numpy(), half)
    assert errors.hausdorff_95 == pytest.approx(np.quantile(far, 0.95))
    assert errors.hausdorff_95 > np.quantile(far, 0.9) + 0.5  # where both ways were taken together, it would be this


@pytest.mark.parametrize("angles", [(0, 0), (35, -20)])
def test_depth_in_plane_and_rotation_are_told_apart(angles):
    camera = cios_camera(*angles)
    x, y, z = (camera.world_from_camera[:3, n] for n in range(3))
    shift = 7.0 * z - 3.0 * x + 4.0 * y
    turn = torch.tensor([0.02, -0.05, 0.03], dtype=torch.float64)
    body = egg()
    centre = body.vertices.double().mean(0)
    moved = dr.moved(body, torch.cat([shift, turn]), centre)
    errors = errors_of(moved, body, camera)
    assert errors.depth == pytest.approx(7.0, abs=1e-3)
    assert errors.in_plane == pytest.approx(5.0, abs=1e-3)
    assert errors.rotation == pytest.approx(math.degrees(turn.norm()), abs=1e-3)
    assert errors.shape < 1e-4


def test_projected_error_is_blind_along_the_ray_and_right_across_it():
    camera, body = cios_camera(), ball(2.0)
    away = (body.centre - camera.source) / (body.centre - camera.source).norm()
    along = errors_of(dr.moved(body, torch.cat([9 * away, torch.zeros(3)])), body, camera)
    assert along.projected < 0.05  # a ball of 2 mm: its rays differ by 3 mrad
    across = torch.linalg.cross(away, torch.tensor([0.3, 0.1, 1.0], dtype=torch.float64))
    beside = errors_of(dr.moved(body, torch.cat([5 * across / across.norm(), torch.zeros(3)])), body, camera)
    assert beside.projected == pytest.approx(5.0, rel=0.01)
    two = errors_of(
        dr.moved(body, torch.cat([9 * away, torch.zeros(3)])), body, [camera, cios_camera(90, 0)]
    )  # the side view sees all of it
    assert two.projected == pytest.approx(4.5, rel=0.02)
    assert two.depth == pytest.approx(9 * float(away @ camera.direction), rel=1e-4)  # of the first view


def test_distances_to_triangles_are_those_of_the_closest_points():
    triangle = Mesh(torch.tensor([[0.0, 0, 0], [10, 0, 0], [0, 6, 0]]), torch.tensor([[0, 1, 2]]))
    points = np.array([[2.0, 1, 4], [5, -3, 0], [13, -4, 0], [-3, 3, 4], [2, 1, 0]])  # face, edge, corner, edge, on it
    assert distances_to(points, triangle).tolist() == pytest.approx([4, 3, 5, 5, 0], abs=1e-9)


def test_a_vertex_that_no_face_uses_is_on_no_surface():
    body = egg()
    with_it = Mesh(torch.cat([body.vertices, torch.tensor([[300.0, 0, 0]])]), body.faces)
    assert errors_of(with_it, with_it, cios_camera()).hausdorff < 1e-6
    assert errors_of(with_it, body, cios_camera()).hausdorff < 1e-4


def test_landmarks_are_compared_by_name():
    body = egg()
    found = {"b": torch.tensor([0.0, 3, 4]), "a": torch.tensor([1.0, 0, 0])}
    truth = {"a": torch.zeros(3), "b": torch.zeros(3), "unseen": torch.ones(3)}
    errors = errors_of(body, body, cios_camera(), found, truth)
    assert errors.landmark == pytest.approx(3.0)
    assert errors.landmark_worst == pytest.approx(5.0)
    assert math.isnan(errors_of(body, body, cios_camera()).landmark)
    with pytest.raises(SettingError, match="No landmark has a name in both"):
        errors_of(body, body, cios_camera(), {"x": torch.zeros(3)}, {"y": torch.zeros(3)})


def test_without_correspondence_surfaces_are_compared_and_the_rest_is_not_known():
    errors = errors_of(ball(40.0), egg(), cios_camera())
    assert errors.hausdorff > 10
    assert all(math.isnan(getattr(errors, name)) for name in ("mtre", "depth", "in_plane", "rotation", "shape"))


def test_the_floor_finds_an_instance_wherever_it_lies_and_no_more_than_the_modes_allow():
    model = default_pelvis()
    coefficients = torch.tensor([1.2, -0.7, 0.4, -1.5, 0.9])
    truth = dr.moved(model.mesh(coefficients), torch.tensor([30.0, -50, 12, 0.2, -0.3, 0.5]))
    best, pose, found = floor_of(model, truth)
    assert (best.vertices - truth.vertices).abs().max() < 0.01
    # Modes are free of rigid motions to first order only, so that pose and coefficients share a little.
    assert (found[:5] - coefficients).abs().max() < 0.05
    assert torch.linalg.det(pose[:3, :3]) == pytest.approx(1.0)
    fewer, _, few = floor_of(model, truth, 3)
    assert len(few) == 3
    assert (fewer.vertices - truth.vertices).norm(dim=1).mean() > 0.5
    with pytest.raises(MeshError, match="in correspondence"):
        floor_of(model, egg())


def test_errors_of_the_stated_size_lie_inside_as_often_as_normal_ones_do():
    random = torch.Generator().manual_seed(3)
    deviations = torch.rand(20_000, 3, generator=random) + 0.5
    truth = torch.randn(20_000, 3, generator=random)
    errors = deviations * torch.randn(20_000, 3, generator=random)
    one, two = inside_deviations(truth + errors, truth, deviations)
    assert one == pytest.approx(0.683, abs=0.01)
    assert two == pytest.approx(0.954, abs=0.01)
    assert inside_deviations(truth + errors, truth, deviations / 2)[0] == pytest.approx(0.383, abs=0.01)


def test_the_share_in_view_counts_vertices_inside_the_image():
    points = torch.tensor([[0.0, 0, 0], [90, 0, 80], [130, 0, 0], [0, 0, -120.0]])  # the field is 204 mm wide there
    mesh = Mesh(points, torch.tensor([[0, 1, 2], [1, 2, 3]]))
    assert share_in_view(mesh, cios_camera()) == 0.5
    square = cios_camera()
    tall = dataclasses.replace(square, image_size=(2 * square.image_size[0], square.image_size[1]))
    assert share_in_view(mesh, tall) == 0.75  # what lies towards the feet comes into view; what lies aside does not
