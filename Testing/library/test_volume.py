"""Volumes: the lattice told in words and numbers, labels, and what cannot be."""

import numpy as np
import pytest
import torch

import diffrender as dr
import phantoms
from diffrender.errors import GeometryError, ImageError, LabelError

LATTICE = phantoms.oblique_lattice(spacing=(0.7, 1.3, 2.9), left_handed=True)
VALUES = torch.arange(4 * 5 * 6, dtype=torch.int16).reshape(4, 5, 6) - 1000


def test_a_volume_says_what_it_is():
    volume = dr.Volume(VALUES, torch.tensor([[-0.7, 0, 0, 9], [0, 0, 2.9, 8], [0, 1.3, 0, 7], [0, 0, 0, 1]]))
    assert volume.shape == (4, 5, 6)
    assert volume.spacing == pytest.approx((2.9, 1.3, 0.7))
    assert volume.orientation == "LSA"
    assert repr(volume) == (
        "Volume(6 x 5 x 4 voxels (i x j x k), 0.7 x 1.3 x 2.9 mm, LSA, -1000 to -881 HU, int16, 0.0 MiB)"
    )
    # i = 2.5, j = 2, k = 1.5, by hand
    assert volume.centre.tolist() == pytest.approx([9 - 0.7 * 2.5, 8 + 2.9 * 1.5, 7 + 1.3 * 2])


def test_an_oblique_volume_says_so():
    assert "RAS, oblique by 28.3 degrees" in repr(dr.Volume(VALUES, phantoms.oblique_lattice()))


def test_corners_are_half_a_voxel_beyond_the_outermost_centres():
    volume = dr.Volume(VALUES, torch.from_numpy(LATTICE))
    voxels = np.linalg.solve(LATTICE, np.c_[volume.corners.numpy(), np.ones(8)].T)[:3].T
    assert sorted(map(tuple, voxels.round(9).tolist())) == [
        (i, j, k) for i in (-0.5, 5.5) for j in (-0.5, 4.5) for k in (-0.5, 3.5)
    ]


@pytest.mark.parametrize(
    ("given", "kept"),
    [(np.uint8, torch.int16), (">i2", torch.int16), (np.int32, torch.int16), (np.float64, torch.float64)],
)
def test_arrays_of_any_number_are_taken(given, kept):
    volume = dr.Volume(np.arange(24).reshape(2, 3, 4).astype(given), LATTICE)
    assert volume.values.dtype == kept
    assert volume.values[1, 2, 3] == 23


def test_whole_numbers_beyond_int16_become_float():
    assert dr.Volume(np.array([[[0, 70000]]]), LATTICE).values.dtype == torch.float32
    assert dr.Volume(np.array([[[0, 60000]]], dtype=np.uint16), LATTICE).values.tolist() == [[[0, 60000]]]


def test_memory_is_shared_not_copied():
    array = np.zeros((2, 3, 4), dtype=np.float32)
    dr.Volume(array, LATTICE).values[0, 1, 2] = 7
    assert array[0, 1, 2] == 7


def test_labels_by_id_and_by_layer():
    ids = torch.zeros((4, 5, 6), dtype=torch.uint8)
    ids[1, 2, 3], ids[2, 2, 3] = 9, 4
    volume = dr.Volume(VALUES, LATTICE, ids, {4: "liver"})
    assert volume.label_ids == (4, 9)
    assert (volume.label_name(4), volume.label_name(9)) == ("liver", "label 9")
    assert volume.mask(9).nonzero().tolist() == [[1, 2, 3]]
    layers = torch.stack([ids == 9, ids > 0])
    over = dr.Volume(VALUES, LATTICE, layers, {30: "stone", 20: "kidney"})
    assert over.label_ids == (30, 20)
    assert over.mask(20).sum() == 2
    assert dr.Volume(VALUES, LATTICE, layers).label_ids == (1, 2)
    assert "2 labels" in repr(over)
    with pytest.raises(LabelError, match=r"Label 7 does not occur in this volume; it has \[4, 9\]"):
        volume.mask(7)


@pytest.mark.parametrize(
    ("lattice", "words"),
    [
        (np.diag([1.0, 0.0, 1.0, 1.0]), "singular"),
        (np.diag([1.0, np.nan, 1.0, 1.0]), "finite 4 x 4"),
        (np.array([[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "sheared: .* meet at 78.69 degrees"),
        (np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1.0]]), "end with the row 0 0 0 1"),
    ],
)
def test_impossible_lattices_are_refused(lattice, words):
    with pytest.raises(GeometryError, match=words):
        dr.Volume(VALUES, lattice)


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ImageError, match="three axes"):
        dr.Volume(torch.zeros(3, 4), LATTICE)
    with pytest.raises(ImageError, match=r"cannot hold torch\.bool"):
        dr.Volume(torch.zeros((2, 2, 2), dtype=torch.bool), LATTICE)
    with pytest.raises(LabelError, match="labels are given on the volume's own lattice"):
        dr.Volume(VALUES, LATTICE, torch.zeros((4, 5, 7), dtype=torch.uint8))
    with pytest.raises(LabelError, match="whole numbers"):
        dr.Volume(VALUES, LATTICE, torch.zeros((4, 5, 6)))
    with pytest.raises(LabelError, match="names 1 labels and there are 2 layers"):
        dr.Volume(VALUES, LATTICE, torch.zeros((2, 4, 5, 6), dtype=torch.bool), {1: "one"})
    with pytest.raises(LabelError, match="floating-point"):
        dr.Volume(VALUES, LATTICE, torch.full((1, 4, 5, 6), 0.01))
    with pytest.raises(LabelError, match="these hold 0 to 3"):
        dr.Volume(VALUES, LATTICE, torch.arange(480).reshape(4, 4, 5, 6) % 4)
    with pytest.raises(LabelError, match="whole numbers; found"):
        dr.Volume(VALUES, LATTICE, names={1.7: "liver"})
    with pytest.raises(LabelError, match="id 0, which is the background"):
        dr.Volume(VALUES, LATTICE, torch.zeros((1, 4, 5, 6), dtype=torch.bool), {0: "background"})


def test_a_volume_keeps_its_own_lattice():
    lattice = torch.from_numpy(LATTICE.copy())
    volume = dr.Volume(VALUES, lattice)
    lattice[0, 3] += 5
    assert volume.world_from_voxel[0, 3] == LATTICE[0, 3]


def test_labels_of_unsigned_numbers():
    labels = np.zeros((4, 5, 6), dtype=np.uint32)
    labels[1, 2, 3] = 70000
    assert dr.Volume(VALUES, LATTICE, labels).label_ids == (70000,)
