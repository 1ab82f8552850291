"""The pose change: its formula, its way back, its derivatives."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

import diffrender as dr
import phantoms
from diffrender.errors import GeometryError
from diffrender.pose import inverse_motion_and_derivatives, is_rigid, motion, way_between

CENTRE = torch.tensor([11.0, -30.0, 7.0], dtype=torch.float64)
TURNS = [(0.0, 0.0, 0.0), (1e-9, 0, 0), (1e-5, -2e-5, 3e-6), (0.3, -0.5, 0.2), (0, 0, math.pi - 1e-7), (1.9, 1.2, -1.6)]


@pytest.mark.parametrize("turn", TURNS)
def test_motion_is_its_formula(turn):
    xi = torch.tensor([3.0, -2.0, 5.0, *turn], dtype=torch.float64)
    point = torch.tensor([4.0, 9.0, -6.0], dtype=torch.float64)
    expected = Rotation.from_rotvec(turn).as_matrix() @ (point - CENTRE).numpy() + (CENTRE + xi[:3]).numpy()
    moved = motion(xi, CENTRE)
    assert (moved[:3, :3] @ point + moved[:3, 3]).numpy() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("turn", TURNS)
def test_pose_between_finds_the_motion_again(turn):
    xi = torch.tensor([3.0, -2.0, 5.0, *turn], dtype=torch.float64)
    start = torch.from_numpy(phantoms.oblique_lattice(left_handed=True))
    found = dr.pose_between(start, motion(xi, CENTRE) @ start, CENTRE)
    assert (motion(found, CENTRE) - motion(xi, CENTRE)).abs().max() < 1e-7
    if 0 < np.linalg.norm(turn) < math.pi:
        assert found.tolist() == pytest.approx(xi.tolist(), abs=1e-7)


@pytest.mark.parametrize("turn", TURNS)
def test_the_quick_inverse_and_its_derivatives_are_those_of_the_motion(turn):
    xi = torch.tensor([3.0, -2.0, 5.0, *turn], dtype=torch.float64)
    inverse, derivatives = inverse_motion_and_derivatives(xi.numpy(), CENTRE.numpy())
    assert np.abs(inverse - torch.linalg.inv(motion(xi, CENTRE)).numpy()).max() < 1e-12
    by_autograd = torch.autograd.functional.jacobian(lambda x: torch.linalg.inv(motion(x, CENTRE)), xi)
    assert np.abs(derivatives - by_autograd.permute(2, 0, 1).numpy()).max() < 1e-6


def test_moved_bodies_turn_about_their_own_middle():
    mesh = dr.Mesh(torch.tensor([[0.0, 0, 0], [4, 0, 0], [0, 6, 0], [0, 0, 10]]), torch.tensor([[0, 1, 2], [0, 3, 1]]))
    xi = torch.tensor([1.0, 2.0, 3.0, 0, 0, math.pi / 2])
    moved = dr.moved(mesh, xi)
    # about (2, 3, 5), a quarter turn from x to y: (4, 0, 0) is (2, -3, -5) from it, turned (3, 2, -5)
    assert moved.vertices[1].tolist() == pytest.approx([2 + 3 + 1, 3 + 2 + 2, 5 - 5 + 3], abs=1e-5)
    volume = dr.Volume(torch.zeros((3, 4, 5)), phantoms.oblique_lattice())
    turned = dr.moved(volume, xi)
    assert (turned.centre - volume.centre).tolist() == pytest.approx([1, 2, 3])
    back = dr.pose_between(volume.world_from_voxel, turned.world_from_voxel, volume.centre)
    assert back.tolist() == pytest.approx(xi.tolist(), abs=1e-6)


def test_a_moved_mesh_is_differentiable():
    mesh = dr.Mesh(torch.rand((5, 3), dtype=torch.float64), torch.tensor([[0, 1, 2], [2, 3, 4]]))
    xi = torch.tensor([0.1, 0.2, 0.3, 0.2, -0.1, 0.4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: dr.moved(mesh, x).vertices, xi)


def test_what_is_no_motion_is_refused():
    with pytest.raises(GeometryError, match="six finite numbers"):
        dr.moved(dr.Volume(torch.zeros((2, 2, 2)), torch.eye(4)), torch.zeros(5))
    with pytest.raises(GeometryError, match="differ in scale, shear or handedness"):
        dr.pose_between(torch.eye(4), torch.diag(torch.tensor([1.0, 1, -1, 1])))
    with pytest.raises(GeometryError, match="One body is moved once"):
        dr.moved(dr.Volume(torch.zeros((2, 2, 2)), torch.eye(4)), torch.zeros(1, 6))
    with pytest.raises(GeometryError, match="finite 4 x 4 matrices"):
        dr.pose_between(torch.eye(4), torch.full((4, 4), torch.nan))


def test_the_way_between_poses_is_that_of_the_middle_and_of_the_turn():
    start = motion(torch.tensor([40.0, -9, 3, 0.4, -0.8, 1.1]).double(), CENTRE)
    middle = start[:3, :3] @ CENTRE + start[:3, 3]
    end = motion(torch.tensor([2.0, -1, 2, 0, 0.3, -0.4]).double(), middle) @ start
    way, turn = way_between(start, end, CENTRE)
    assert way == pytest.approx(3.0)
    assert turn == pytest.approx(math.degrees(0.5))


def test_only_turns_and_moves_are_rigid():
    pose = motion(torch.tensor([40.0, -9, 3, 0.4, -0.8, 1.1]).double(), CENTRE)
    assert is_rigid(pose)
    assert is_rigid(pose.float())
    for wrong in (torch.diag(torch.tensor([-1.0, 1, 1, 1])), torch.diag(torch.tensor([1.001, 1, 1, 1])), torch.eye(3)):
        assert not is_rigid(wrong.double())
    for row, column, value in ((3, 0, 0.1), (0, 3, math.nan), (0, 1, 0.5)):
        broken = pose.clone()
        broken[row, column] = value
        assert not is_rigid(broken)
