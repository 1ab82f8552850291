"""Augmentation: patient and camera turned together show the same picture, patches are parts of the whole."""

import dataclasses
import math

import pytest
import torch
from trainings import SHOWN, cameras, case, lump

from diffrender.dvr.augment import augmented, cropped, moved_camera, patch_of, patch_share, turned
from diffrender.dvr.settings import OF_SEVERAL, Augmentation
from diffrender.dvr.view import field_through
from diffrender.errors import SettingError
from diffrender.learning import drawn
from diffrender.pose import motion
from diffrender.rays.march import march


def turn_of(volume, degrees=(20.0, -35.0, 50.0)):
    xi = torch.tensor([0.0, 0, 0, *[math.radians(n) for n in degrees]], dtype=torch.float64)
    return motion(xi, volume.centre)


def test_patient_and_camera_turned_together_show_the_same_picture():
    volume = lump((31, 29, 27), seed=8)
    camera = cameras(volume, 1, (24, 21))[0]
    turn = turn_of(volume)
    moved = turned(volume, turn)
    before = march(field_through(volume, SHOWN), camera)
    after = march(field_through(moved, SHOWN), moved_camera(camera, turn))
    still = march(field_through(moved, SHOWN), camera)
    # interpolated twice, a picture of noise loses some contrast; the wrong camera is ten times as far off
    assert float((after - before).abs().mean()) < 0.012
    assert float((still - before).abs().mean()) > 0.05


def test_a_turned_lattice_holds_the_whole_volume_and_air_beyond():
    volume = dataclasses.replace(lump(), values=torch.full((11, 13, 9), 400, dtype=torch.int16))
    moved = turned(volume, turn_of(volume))
    assert float(moved.values.min()) == -1024
    # a face that cuts voxels obliquely leaves about half of those on it in: 15 rows of them, 1 % of a voxel each
    assert float((moved.values + 1024).sum()) == pytest.approx(float((volume.values.float() + 1024).sum()), rel=0.02)
    assert torch.allclose(moved.world_from_voxel[:3, :3], volume.world_from_voxel[:3, :3])
    plain = dataclasses.replace(volume, values=lump().values, unit="arbitrary")
    assert float(turned(plain, turn_of(plain)).values.min()) == -1000


def test_turned_by_nothing_it_stays():
    volume = lump()
    same = turned(volume, torch.eye(4, dtype=torch.float64))
    assert same.shape == volume.shape
    assert torch.allclose(same.values, volume.values.float(), atol=1e-2)  # of 2000: float32 positions
    assert torch.allclose(same.world_from_voxel, volume.world_from_voxel)


def test_shift_and_noise_have_the_deviation_that_was_asked_for():
    volume = lump((31, 29, 27))
    found, turn = augmented(volume, Augmentation(noise=12.0), drawn(3, "a"))
    assert torch.equal(turn, torch.eye(4, dtype=torch.float64))
    change = found.values - volume.values
    assert float(change.std()) == pytest.approx(12, rel=0.02)  # 24 000 voxels: 0.5 %
    shifts = [augmented(volume, Augmentation(shift=30.0), drawn(3, n))[0].values - volume.values for n in range(60)]
    assert all(float(shift.std()) < 1e-3 for shift in shifts)
    assert float(torch.stack([s.mean() for s in shifts]).std()) == pytest.approx(30, rel=0.3)  # 60 draws: 9 %


def test_the_same_draw_gives_the_same_volume_and_leaves_the_first_one_alone():
    volume = lump()
    kept = volume.values.clone()
    one, two, other = (augmented(volume, OF_SEVERAL, drawn(1, n))[0] for n in (5, 5, 6))
    assert torch.equal(one.values, two.values)
    assert one.shape != other.shape or not torch.equal(one.values, other.values)
    assert torch.equal(volume.values, kept)


def test_left_stays_left():
    volume = lump()
    for n in range(20):
        moved, turn = augmented(volume, Augmentation(rotation=180.0), drawn(2, n))
        assert float(turn[:3, :3].det()) == pytest.approx(1)
        assert float(moved.world_from_voxel[:3, :3].det()) * float(volume.world_from_voxel[:3, :3].det()) > 0


def test_a_patch_is_that_part_of_the_picture():
    one = case(1, image_size=(40, 51))
    target = one.targets[0]
    patch = patch_of(target, 0.4, drawn(7, "patch"))
    assert patch.image.shape == (4, 16, 24)  # the multiples of 8 px next to 16 and 20.4
    drawn_whole = march(field_through(one.volume, SHOWN), target.camera)
    drawn_part = march(field_through(one.volume, SHOWN), patch.camera)
    places = [
        (r, c)
        for r in range(25)
        for c in range(28)
        if torch.equal(target.image[:, r : r + 16, c : c + 24], patch.image)
    ]
    assert len(places) == 1
    row, column = places[0]
    assert (row % 8, column % 8) == (0, 0)
    assert torch.equal(patch.weight, target.weight[row : row + 16, column : column + 24])
    # the same rays; float32 of a camera that is written otherwise
    assert torch.allclose(drawn_part, drawn_whole[:, row : row + 16, column : column + 24], atol=1e-4)


def test_patches_grow_from_an_eighth_to_a_half():
    assert patch_share(0.0) == 1 / 8
    assert patch_share(1.0) == 1 / 2
    assert patch_share(0.5) == 5 / 16


def test_a_cropped_camera_keeps_its_rays():
    camera = cameras(lump(), 1, (24, 30))[0]
    part = cropped(camera, 5, 9, (8, 7))
    assert torch.allclose(part.rays()[1], camera.rays()[1][5:13, 9:16], atol=1e-12)


@pytest.mark.parametrize("wrong", [{"rotation": -1.0}, {"rotation": 181.0}, {"shift": -3.0}, {"noise": math.inf}])
def test_impossible_changes_are_refused(wrong):
    with pytest.raises(SettingError, match=r"goes from 0 to 180|standard deviation in HU"):
        Augmentation(**wrong)
