"""A search through all orientations and places: what it looks at, and what must not lead it astray."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from bones import wedge

import diffrender as dr
from diffrender.errors import SettingError
from diffrender.fit.cut import cut_places, radius_about
from diffrender.fit.wide import RIM, Sought, WideSettings, _Slid, rotations, search, without_rim
from diffrender.rays.line import line_integrals
from diffrender.xray import RadiographSettings, scene_of
from phantoms import rotation

MIDDLE = torch.tensor([3.0, -4.0, 5.0]).double()


def sought(bone: dr.Volume) -> Sought:
    attenuation = scene_of(bone, RadiographSettings(labels=False)).attenuation
    return Sought(
        lambda moved, camera: line_integrals(attenuation, moved @ bone.world_from_voxel, camera),
        bone.centre,
        radius_about(bone, bone.centre),
        cut_places(bone),
    )


def views(*angles: tuple[float, float]) -> list[dr.Camera]:
    return [dr.c_arm(MIDDLE, *one, pixel_size=(2.3, 2.1), image_size=(80, 90)) for one in angles]


def posed(bone: dr.Volume, turn: np.ndarray, shift: list[float]) -> torch.Tensor:
    """moved_from_body: turned about its middle, which comes to lie at `shift` from MIDDLE."""
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = torch.from_numpy(turn)
    matrix[:3, 3] = MIDDLE + torch.tensor(shift).double() - matrix[:3, :3] @ bone.centre
    return matrix


def cluttered(image: torch.Tensor, n: int) -> torch.Tensor:
    """With a shutter that lets a part of the beam through, and an arm whose skin is a steeper edge than bone."""
    rows, columns = torch.meshgrid(torch.arange(80.0), torch.arange(90.0), indexing="ij")
    shutter = 6.0 * torch.sigmoid((columns - 74 - 0.1 * rows) / 0.7)
    across = (columns - 44 + 0.25 * (rows - 40) * (1 - 2 * n)) / 26
    return image + shutter + 6.0 * (1 - across**2).clamp(min=0).sqrt()


def test_a_bone_is_found_beside_steeper_edges_where_its_ct_is_cut_off():
    """Intensities less their local mean, slid over the same frames, fit best 49 mm and 114 degrees off."""
    whole = wedge()
    bone = replace(whole, values=whole.values[:28].clone())
    turn = rotation(100, -70, 40)
    tried = turn @ rotation(6, -5, 7)  # 10 degrees off, as the nearest of a search is
    truth, near = posed(bone, turn, [11.0, -16.0, 8.0]), posed(bone, tried, [11.0, -16.0, 8.0])
    cameras = views((0, 0), (75, 9))
    images = [cluttered(sought(whole).cast(truth, camera), n) for n, camera in enumerate(cameras)]
    turns = np.concatenate([rotations(75.0), tried[None]])
    ones = [torch.ones_like(image) for image in images]
    found = search(images, ones, cameras, sought(bone), MIDDLE, WideSettings(reach=40, step=4, keep=5), turns)
    assert len(found) == 5
    assert np.allclose(found[0].moved_from_body[:3, :3], tried)
    assert (found[0].moved_from_body - near)[:3, 3].norm() < 6  # a step's half diagonal, 3.5, and 10 degrees' share
    assert found[0].score > found[1].score + 0.1


def test_the_best_place_in_a_search_is_where_the_body_is():
    """One turn, so that the place is what is searched for; depth comes from the second view."""
    bone = wedge()
    truth = posed(bone, np.eye(3), [12.0, -18.0, 6.0])
    cameras = views((0, 0), (75, -12))
    images = [sought(bone).cast(truth, camera) for camera in cameras]
    ones = [torch.ones_like(image) for image in images]
    found = search(images, ones, cameras, sought(bone), MIDDLE, WideSettings(step=6), np.eye(3)[None])
    assert (found[0].moved_from_body - truth)[:3, 3].abs().max() <= 6.01  # one step
    assert 0.8 < found[0].score <= 1


def test_one_view_takes_the_depth_of_the_middle():
    bone = wedge()
    camera = views((20, -10))[0]
    truth = posed(bone, np.eye(3), [0.0, 0.0, 0.0])
    image = sought(bone).cast(truth, camera)
    found = search([image], [torch.ones_like(image)], [camera], sought(bone), MIDDLE, turns=np.eye(3)[None])
    moved = (found[0].moved_from_body - truth)[:3, 3]
    assert abs(float(moved @ camera.direction)) < 5  # one step; the places reach 60 mm each way
    assert float(moved.norm()) < 6


def test_only_places_that_every_frame_shows_are_looked_at():
    bone = wedge()
    truth = posed(bone, np.eye(3), [24.0, 0.0, 6.0])
    cameras = views((0, 0), (75, -12))
    images = [sought(bone).cast(truth, camera) for camera in cameras]
    seen = [torch.ones_like(image) for image in images]
    row, column = cameras[0].project((MIDDLE + torch.tensor([24.0, 0, 6]).double())[None])[0].long().tolist()
    seen[0][row - 6 : row + 6, column - 6 : column + 6] = 0  # 9 mm each way
    found = search(images, seen, cameras, sought(bone), MIDDLE, WideSettings(step=5), np.eye(3)[None])
    assert float((found[0].moved_from_body - truth)[:3, 3].norm()) > 8
    with pytest.raises(SettingError, match="is seen by all frames"):
        search(images, [0 * one for one in seen], cameras, sought(bone), MIDDLE, None, np.eye(3)[None])


def test_pictures_are_slid_by_whole_pixels_without_a_bias():
    camera = dr.c_arm([4.0, -9.0, 2.0], 31.0, 12.0, pixel_size=(2.3, 3.1), image_size=(80, 90))
    home, shifts = np.array([9.0, -3.0, 6.0]), np.random.default_rng(2).uniform(-30, 30, (4000, 3))
    noise = np.random.default_rng(3).random((80, 90))
    slid = _Slid(noise, np.ones((80, 90)), camera, sought(wedge()), torch.from_numpy(home))
    wide = np.array(slid.wide)
    wrapped = np.stack(np.divmod(slid.offsets(home, shifts), wide[1]), 1) - np.array(slid.corner)
    moved = (wrapped + wide // 2) % wide - wide // 2
    exact = camera.project(torch.from_numpy(home + shifts)) - camera.project(torch.from_numpy(home))
    error = moved - exact.numpy()
    assert np.abs(error).max() <= 0.5 + 1e-9
    assert np.abs(error.mean(0)).max() < 0.02  # rounding errors of 0.29 px, averaged over 4000


def test_rotations_are_rigid_and_evenly_spread():
    turns = rotations(40.0)
    assert np.allclose(turns @ turns.transpose(0, 2, 1), np.eye(3), atol=1e-12)
    assert np.allclose(np.linalg.det(turns), 1)
    random = np.random.default_rng(0)
    for _ in range(40):
        wanted = rotation(*random.uniform(-180, 180, 3))
        angles = np.degrees(np.arccos(np.clip((np.einsum("nij,ij->n", turns, wanted) - 1) / 2, -1, 1)))
        assert angles.min() < 40  # no orientation is farther from a tried one than one step


def test_the_rim_of_a_collimation_is_left_out_and_the_frame_s_own_border_is_not():
    camera = dr.c_arm(MIDDLE, 0.0, 0.0, pixel_size=2.0, image_size=(200, 160))
    exposed = torch.ones(200, 160, dtype=torch.bool)
    exposed[:, :30] = False
    frame = dr.Radiograph(torch.rand(1, 200, 160), "intensity", camera, exposed=exposed)
    left = without_rim(frame).exposed
    assert left is not None
    assert not left[:, : 30 + round(RIM * 200)].any()
    assert left[:, 30 + round(RIM * 200) :].all()
    assert without_rim(replace(frame, exposed=None)).exposed is None


def test_settings_that_look_at_nothing_are_refused():
    with pytest.raises(SettingError, match="step of a wide search is above zero"):
        WideSettings(step=0)
    with pytest.raises(SettingError, match="reach of a wide search"):
        WideSettings(reach=-4)
    with pytest.raises(SettingError, match="at least one candidate"):
        WideSettings(keep=0)
