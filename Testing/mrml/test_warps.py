"""Volumes under transforms that bend space: a copy that holds, where each point went, what the point had."""

import itertools

import numpy as np
import pytest
import torch

from diffrender import mrml
from diffrender.errors import Notice
from diffrender.volume import Volume
from Testing.mrml.bodies import INNER, lattice

SLOPE = np.array([5.0, -3.0, 9.0])  # [1/mm]; linear values are what trilinear interpolation reproduces
BEND = np.array([[0.08, 0.02, 0.0], [-0.03, -0.05, 0.04], [0.01, 0.0, 0.06]])
SHIFT = np.array([4.0, -7.0, 9.0])
SHAPE = (12, 14, 16)


def linear(world_from_voxel) -> np.ndarray:
    k, j, i = np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij")
    points = np.stack([i, j, k], -1) @ world_from_voxel[:3, :3].T + world_from_voxel[:3, 3]
    return points @ SLOPE


def centres(volume: Volume) -> np.ndarray:
    k, j, i = np.meshgrid(*[np.arange(n) for n in volume.shape], indexing="ij")
    matrix = volume.world_from_voxel.numpy()
    return np.stack([i, j, k], -1) @ matrix[:3, :3].T + matrix[:3, 3]


@pytest.mark.parametrize("left_handed", [False, True])
@pytest.mark.parametrize("outer", [np.eye(4), INNER])
def test_values_go_where_the_transform_leads(slicer_, left_handed, outer):
    own = lattice(left_handed)
    made = Volume(torch.from_numpy(linear(own).astype(np.float32)), torch.from_numpy(own))
    node = mrml.volume_to_node(slicer_.scene, made, "CT 7")
    node.SetAndObserveTransformNodeID(slicer_.grid(BEND, SHIFT, slicer_.transform(outer)).GetID())
    copy = mrml.resampled(slicer_.scene, node)
    found = mrml.volume_of(copy)
    assert copy.GetName() == "CT 7 resampled"
    assert copy.GetParentTransformNode() is None
    assert found.values.dtype == torch.float32
    # By hand: what came to world point w was at x, where outer (x + BEND x + SHIFT) = w.
    moved = (centres(found) - outer[:3, 3]) @ outer[:3, :3]
    before = np.linalg.solve(np.eye(3) + BEND, (moved - SHIFT).reshape(-1, 3).T).T.reshape(moved.shape)
    voxels = np.linalg.solve(own[:3, :3], (before - own[:3, 3]).reshape(-1, 3).T).T.reshape(moved.shape)
    inside = ((voxels > 0.01) & (voxels < np.array(SHAPE[::-1]) - 1.01)).all(-1)
    # VTK finds the inverse of a grid by steps: 1e-3 mm, times a slope of 11 / mm
    assert np.abs(found.values.numpy() - before @ SLOPE)[inside].max() < 0.02
    # All of the volume is in the copy: its corners, where they went, lie on its lattice.
    corners = np.array(list(itertools.product(*[(0, n - 1) for n in SHAPE[::-1]]))) @ own[:3, :3].T + own[:3, 3]
    went = (corners @ (np.eye(3) + BEND).T + SHIFT) @ outer[:3, :3].T + outer[:3, 3]
    lies = np.linalg.solve(found.world_from_voxel.numpy(), np.c_[went, np.ones(8)].T).T[:, :3]
    assert (lies > -1e-4).all()
    assert (lies < np.array(found.shape[::-1]) - 1 + 1e-4).all()
    outside = ((voxels < -1) | (voxels > np.array(SHAPE[::-1]))).any(-1)
    assert (found.values.numpy()[outside] == made.values.min().item()).all()


def test_shear_is_resampled_too_and_types_are_kept(slicer_):
    shear = np.eye(4)
    shear[0, 1] = 0.2
    own = lattice(False)
    made = Volume(torch.from_numpy(linear(own).astype(np.int16)), torch.from_numpy(own))
    node = mrml.volume_to_node(slicer_.scene, made, "CT 7")
    node.SetAndObserveTransformNodeID(slicer_.transform(shear).GetID())
    found = mrml.volume_of(mrml.resampled(slicer_.scene, node, "copy"))
    assert found.values.dtype == torch.int16
    before = centres(found) - 0.2 * centres(found)[..., 1:2] * [1, 0, 0]
    voxels = np.linalg.solve(own[:3, :3], (before - own[:3, 3]).reshape(-1, 3).T).T.reshape(before.shape)
    inside = ((voxels > 0.01) & (voxels < np.array(SHAPE[::-1]) - 1.01)).all(-1)
    assert inside.sum() > 1500
    # whole numbers: the eight corners are cut off to whole ones, and so is what lies between them
    assert np.abs(found.values.numpy() - before @ SLOPE)[inside].max() < 2


def test_labels_take_the_nearest_voxel(slicer_):
    values = np.zeros(SHAPE, np.int16)
    values[3:7, 5:11, 2:9] = 40
    made = Volume(
        torch.from_numpy(np.zeros(SHAPE, np.int16)), torch.from_numpy(lattice(True)), torch.from_numpy(values)
    )
    node = mrml.labelmap_to_node(slicer_.scene, made, "labels")
    node.SetAndObserveTransformNodeID(slicer_.grid(np.zeros((3, 3)), lattice(True)[:3, 0] * 2.0).GetID())
    copy = mrml.resampled(slicer_.scene, node)
    assert copy.GetClassName() == "vtkMRMLLabelMapVolumeNode"
    reference = mrml.volume_to_node(slicer_.scene, made, "ct")
    with pytest.warns(Notice, match="lies on another lattice"):
        found = mrml.segments_of(copy, reference)
    expected = np.zeros(SHAPE, np.int16)
    expected[3:7, 5:11, 4:11] = 40  # two voxels along i
    np.testing.assert_array_equal(found.labels.numpy(), expected)
