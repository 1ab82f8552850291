"""A CT registered to radiographs: known answers, in oblong pixels, oblique views and an oblique lattice."""

import math
import sys
from dataclasses import replace

import pytest
import torch
from bones import wedge

import diffrender as dr
from diffrender.errors import BackendError, GeometryError, ImageError, SettingError
from diffrender.fit.ct_registration import CT_SETTINGS, middle_of
from diffrender.fit.ct_registration import ct as register
from diffrender.fit.evolution import minimise_widely
from diffrender.fit.wide import WideSettings
from diffrender.pose import motion

QUICK = replace(CT_SETTINGS, sizes=(24, 48))


@pytest.fixture(scope="module")
def patient() -> dr.Volume:
    return dr.torso((40, 26, 34), oblique=True, labels=False)


def view(patient: dr.Volume, primary: float = 23.0, secondary: float = -11.0) -> dr.Camera:
    return dr.c_arm(
        patient.centre + torch.tensor([11.0, -7.0, 19.0]),
        primary,
        secondary,
        pixel_size=(3.4, 2.9),
        image_size=(88, 96),
    )


def taken(patient: dr.Volume, camera: dr.Camera, seed: int = 0, dose: float = 2e4) -> dr.Radiograph:
    """A noisy frame of another beam quality than the fit assumes, bone dark."""
    shown = dr.radiograph(patient, camera, dr.RadiographSettings(energy=55.0))
    random = torch.Generator().manual_seed(seed)
    counts = torch.poisson(dose * torch.exp(-shown.pixels.double()), generator=random)
    return dr.Radiograph((counts.clamp(min=1) / dose).float(), "intensity", camera)


def off(patient: dr.Volume, xi: list[float]) -> torch.Tensor:
    """world_from_ct after a motion (t [mm], r [degrees])."""
    return motion(torch.tensor([*xi[:3], *(math.radians(n) for n in xi[3:])]).double(), patient.centre)


def mtre(patient: dr.Volume, pose: torch.Tensor) -> float:
    """Mean distance of places in the patient from where they are [mm]; they truly are where the CT has them."""
    points = patient.centre + 70 * torch.randn(50, 3, generator=torch.Generator().manual_seed(1)).double()
    return float((points @ pose[:3, :3].T + pose[:3, 3] - points).norm(dim=1).mean())


@pytest.mark.parametrize("xi", [[14, -11, 9, 6, -4, 8], [-12, 16, -7, -5, 7, 3]])
def test_a_ct_finds_back_to_where_its_frame_was_taken(patient, xi):
    fit = register([taken(patient, view(patient))], patient, QUICK, [off(patient, xi)]).run()
    assert mtre(patient, off(patient, xi)) > 15
    assert mtre(patient, fit.world_from_model) < 1.2  # a tenth of a voxel; noise alone gives 0.8
    assert fit.outcome == "converged"
    assert "similarity" in fit.sentence
    assert fit.mesh is None
    assert fit.certainty.depth > 2 * fit.certainty.in_plane > 0  # what one view shows least


def test_two_views_see_depth_better_than_one(patient):
    frames = [taken(patient, view(patient)), taken(patient, view(patient, -41.0, 8.0), 1)]
    start = [off(patient, [9, -8, 6, 3, -4, 2])]
    one, two = (register(taken_, patient, QUICK, start).run() for taken_ in (frames[:1], frames))
    assert mtre(patient, two.world_from_model) < 1.0
    assert two.certainty.depth < 0.6 * one.certainty.depth
    assert len(two.frames) == 2


def test_a_narrow_box_about_the_start_holds_the_fit_there(patient):
    start = off(patient, [0, 6, 0, 0, 0, 0])  # 6 mm in depth, for the larger part
    held = replace(QUICK, start_translation=0.01, start_rotation=0.01)
    fit = register([taken(patient, view(patient))], patient, held, [start]).run()
    assert float((fit.world_from_model - start)[:3, 3].norm()) < 0.5
    assert float((fit.world_from_model - off(patient, [0] * 6))[:3, 3].norm()) > 5.5


def test_the_stated_covariance_is_in_the_world_s_axes(patient):
    camera = dr.c_arm(patient, 0.0, 0.0, pixel_size=3.2, image_size=(96, 96))  # looks along the patient's y
    fit = register([taken(patient, camera)], patient, QUICK, [off(patient, [4, 5, -4, 2, 1, -2])]).run()
    x, y, z = fit.certainty.pose[:3].tolist()
    assert y > 3 * max(x, z)
    assert y == pytest.approx(fit.certainty.depth, rel=1e-6)
    assert max(x, z) <= fit.certainty.in_plane * 1.5


def test_starts_are_told_apart_and_the_best_is_kept(patient):
    starts = [off(patient, [0, 0, 0, 0, 0, 170]), off(patient, [5, -6, 4, 3, 2, -4])]
    fit = register([taken(patient, view(patient))], patient, QUICK, starts).run()
    assert mtre(patient, fit.world_from_model) < 1.2
    assert "2 starts" in fit.sentence


def test_poses_that_look_alike_are_said_to_be(patient):
    """A ball looks the same however it is turned."""
    k, j, i = torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in (30, 34, 32)), indexing="ij")
    values = torch.where((k**2 + j**2 + i**2).sqrt() < 11, 700.0, -1000.0)
    lattice = torch.diag(torch.tensor([3.0, 3.0, 3.0, 1.0]).double())
    ball = dr.Volume(values, lattice)
    camera = dr.c_arm(ball, 20.0, 5.0, pixel_size=(2.4, 2.2), image_size=(96, 96))
    starts = [off(ball, [2, 1, 0, 0, 0, 0]), off(ball, [1, -2, 1, 40, 0, 60])]
    fit = register([taken(ball, camera)], ball, QUICK, starts).run()
    assert fit.outcome == "ambiguous"
    assert "second view" in fit.sentence


def test_evolution_finds_the_way_that_a_slope_does_not(patient):
    wide = replace(QUICK, optimiser="wide", start_translation=0.0, sizes=(16, 48))
    fit = register([taken(patient, view(patient))], patient, wide, [off(patient, [16, 9, -12, 7, 5, -9])]).run()
    assert mtre(patient, fit.world_from_model) < 1.5


def test_a_search_everywhere_finds_a_bone_that_lies_anywhere():
    bone = wedge()
    truth = off(bone, [17, -12, 9, 100, -70, 40])
    there = replace(bone, world_from_voxel=truth @ bone.world_from_voxel)
    cameras = [
        dr.c_arm([3.0, -4.0, 5.0], *angles, pixel_size=(2.3, 2.1), image_size=(80, 90)) for angles in ((0, 0), (62, 9))
    ]
    frames = [taken(there, camera, n, 1e5) for n, camera in enumerate(cameras)]
    fit = register(frames, bone, QUICK, wide=WideSettings(turn=40, reach=24, step=6, keep=6)).run()
    assert mtre(bone, fit.world_from_model @ torch.linalg.inv(truth)) < 1.0, fit.sentence


def test_where_a_ct_is_cut_off_it_is_not_compared():
    """The frames show the bone go on where the CT ends."""
    whole = wedge()
    cut = replace(whole, values=whole.values[:28].clone())
    cameras = [
        dr.c_arm([3.0, -4.0, 5.0], *angles, pixel_size=(1.6, 1.4), image_size=(100, 110))
        for angles in ((0, 0), (75, 9))
    ]
    frames = [taken(whole, camera, n, 1e5) for n, camera in enumerate(cameras)]
    settings = replace(QUICK, similarity="gradient-correlation", blur=15.0, sizes=(50, 100))
    fit = register(frames, cut, settings, [off(cut, [3, -2, 4, 4, -3, 5])]).run()
    assert mtre(cut, fit.world_from_model) < 0.6, fit.sentence  # compared all over it ends 0.95 mm off
    shown = fit.frames[0].shown
    assert 0.2 < float((shown != 0).float().mean()) < 0.6


def test_the_middle_of_two_views_is_where_their_axes_meet():
    place = torch.tensor([31.0, -12.0, 77.0]).double()
    cameras = [dr.c_arm(place, *angles, pixel_size=2.0, image_size=(64, 64)) for angles in ((10, 20), (-50, 5))]
    assert torch.allclose(middle_of(cameras, torch.zeros(3).double()), place, atol=1e-6)
    deep = middle_of(cameras[:1], place + 40 * cameras[0].direction)
    assert torch.allclose(deep, place + 40 * cameras[0].direction, atol=1e-6)


def test_what_cannot_be_fitted_is_refused_in_words(patient):
    frame = taken(patient, view(patient))
    with pytest.raises(SettingError, match="at least one radiograph"):
        register([], patient)
    with pytest.raises(SettingError, match="compared by its intensities"):
        register([frame], patient, replace(QUICK, similarity="labels"))
    with pytest.raises(GeometryError, match="mirrors move no patient"):
        register([frame], patient, QUICK, [torch.diag(torch.tensor([-1.0, 1, 1, 1]))])
    with pytest.raises(GeometryError, match="no ray of any frame meets"):
        register([frame], patient, QUICK, [off(patient, [5000, 0, 0, 0, 0, 0])]).run()
    with pytest.raises(ImageError, match="one value"):
        register([dr.Radiograph(torch.full((1, 88, 96), 0.4), "intensity", view(patient))], patient, QUICK)
    with pytest.raises(SettingError, match="levenberg or wide"):
        register([frame], patient, replace(QUICK, optimiser="adam")).run()


def test_evolution_without_its_package_says_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "cma", None)
    with pytest.raises(BackendError, match="pip install cma"):
        next(minimise_widely(lambda x: 0.0, torch.zeros(2), torch.ones(2)))


def test_evolution_goes_to_the_lowest_place():
    goal = torch.tensor([3.0, -7.0, 0.2]).double()
    steps = minimise_widely(
        lambda x: float(((x - goal) / torch.tensor([1.0, 5.0, 0.1])).square().sum()),
        torch.zeros(3).double(),
        torch.tensor([5.0, 10.0, 0.5]).double(),
        seed=4,
    )
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found = end.value
            break
    # A step of a tenth of each spread costs 0.25, 1 and 0.25; it ends at a hundredth, give or take the last samples.
    assert torch.allclose(found.x, goal, atol=0.05)
    assert found.outcome == "converged"
    assert found.history[0] > found.history[-1]
