"""Views taken apart and put together again: plain physics, seeds, ranges; geometry of augmentation."""

import dataclasses

import numpy as np
import pytest
import torch

import diffrender as dr
from diffrender.errors import LabelError, SettingError
from diffrender.synth.appearance import PLAIN, Appearance, attenuated, blurred, radiographed, shown
from diffrender.synth.augment import Warp, swapped, warped
from diffrender.synth.ct_views import CtViews, layers_of_ct
from diffrender.synth.layers import DISEASE, Layers, extended
from diffrender.synth.mask_rules import MaskRule

TAKEN = CtViews(views=3, image_size=(72, 64), builds=2, above=40, below=60)


@pytest.fixture(scope="module")
def patient() -> dr.Volume:
    return dr.torso((80, 48, 64), noise=0.0)


@pytest.fixture(scope="module")
def views(patient) -> list[Layers]:
    return list(layers_of_ct(patient, TAKEN, "a"))


def test_plain_matter_adds_up_to_the_radiograph(patient):
    plain = CtViews(views=1, image_size=(60, 50), builds=1, stretch=0.0, above=0, below=0, disease=False)
    camera = dr.preset("chest-pa", patient, (60, 50))
    rules = dataclasses.replace(plain, spreads=(dr.synth.ViewSpread(camera),), margin=1.0)
    (view,) = layers_of_ct(patient, rules, "a")
    p = attenuated(view.images, PLAIN, np.random.default_rng(0))
    expected = dr.radiograph(patient, camera, dr.RadiographSettings(labels=False)).pixels[0].numpy()
    # areal densities are kept in 16 bits: 0.05 %; materials give a HU back to 0.5 %, in the mean of a path
    assert np.abs(p - expected).max() < 0.02 * expected.max()
    assert expected.max() > 3


def test_views_hang_on_their_number_alone(patient, views):
    again = list(layers_of_ct(patient, dataclasses.replace(TAKEN, views=2), "a"))[1]
    assert again.images.keys() == views[1].images.keys()
    for name, image in again.images.items():
        assert np.array_equal(image, views[1].images[name]), name
    assert np.array_equal(again.masks, views[1].masks)
    other = next(layers_of_ct(patient, TAKEN, "b"))
    assert not np.array_equal(other.masks, views[0].masks)


def test_lungs_lie_on_their_sides_and_builds_differ(views):
    assert views[0].names == ("lung_right", "lung_left")
    for view in views:
        middle = [np.argwhere(mask).mean(0)[1] for mask in view.masks]
        assert middle[0] < middle[1] - 10  # the patient's right is on the image's left
        assert all(0.03 < mask.mean() < 0.35 for mask in view.masks)
    assert not np.array_equal(views[0].masks, views[2].masks)


def test_disease_is_tissue_in_the_lungs(views):
    disease = views[0].images[DISEASE].astype(np.float32)
    assert disease.max() > 1.0  # g/cm2: more than a centimetre of tissue
    inside = views[0].masks.any(0)
    assert disease[inside].mean() > 5 * disease[~inside].mean()


def test_a_label_that_is_not_there_is_said(patient):
    rules = (MaskRule("hip*", joined="hips"), MaskRule("tail*"))
    with pytest.raises(LabelError, match="no label that fits 'tail"):
        next(layers_of_ct(patient, dataclasses.replace(TAKEN, rules=rules), "a"))


def test_labels_other_than_lungs(patient):
    rules = (MaskRule("heart*", 5.0, joined="heart"), MaskRule("vertebra*", joined="spine"))
    (view, *_) = layers_of_ct(patient, dataclasses.replace(TAKEN, rules=rules, views=1), "a")
    assert view.names == ("heart", "spine")
    assert view.masks[0].any()
    assert view.masks[1].any()
    assert DISEASE not in view.images


def test_a_ct_is_extended_at_its_ends(patient):
    first = dataclasses.replace(patient, values=patient.values[30:60], labels=patient.labels[30:60])
    longer = extended(first, above=50, below=20)
    step = first.spacing[0]
    above, below = round(50 / step), round(20 / step)
    assert longer.shape[0] == 30 + above + below
    assert torch.equal(longer.values[below : below + 30], first.values)  # k runs to the head here
    shift = torch.tensor([0, 0, below * step], dtype=torch.float64)
    assert torch.allclose(longer.world_from_voxel[:3, 3], first.world_from_voxel[:3, 3] - shift)
    assert not longer.labels[:below].any()
    assert not longer.labels[-above:].any()
    airy = [int(((one > -950) & (one < -300)).sum()) for one in (first.values[-1], longer.values[-1])]
    assert airy[0] > 100
    assert airy[1] < 0.6 * airy[0]  # no lung goes on beyond the end; the skin's soft edge does


def test_an_appearance_hangs_on_its_generator(views):
    def drawn(seed: int) -> np.ndarray:
        random = np.random.default_rng(seed)
        p = attenuated(views[0].images, Appearance(), random)
        return shown(radiographed(p, Appearance(), random), Appearance(), random)

    assert np.array_equal(drawn(3), drawn(3))
    assert not np.array_equal(drawn(3), drawn(4))
    every = np.stack([drawn(n) for n in range(12)])
    assert every.min() >= 0
    assert every.max() <= 1
    assert np.isfinite(every).all()
    assert every.std((1, 2)).min() > 0.02


def test_a_veil_takes_contrast_away(views):
    p = attenuated(views[0].images, PLAIN, np.random.default_rng(0))
    veiled = radiographed(p, dataclasses.replace(PLAIN, scatter=(0.5, 0.5)), np.random.default_rng(0))
    assert np.allclose(radiographed(p, PLAIN, np.random.default_rng(0)), p, atol=1e-4)  # exp and log in float32
    assert np.ptp(veiled) < np.ptp(p) - 0.2


def test_objects_attenuate(views):
    p = attenuated(views[0].images, PLAIN, np.random.default_rng(0))
    many = dataclasses.replace(PLAIN, objects=30)
    more = [radiographed(p, many, np.random.default_rng(n)) - p for n in range(4)]
    assert min(one.min() for one in more) > -1e-4
    assert max(one.max() for one in more) > 0.3


def test_a_coarse_blur_is_the_fine_one():
    image = np.random.default_rng(0).random((90, 70)).astype(np.float32).cumsum(1)
    from scipy import ndimage

    fine = ndimage.gaussian_filter(image, 12, mode="nearest")
    assert np.abs(blurred(image, 12) - fine)[12:-12, 12:-12].max() < 0.02 * np.ptp(image)


def test_ranges_that_fall_are_refused():
    with pytest.raises(SettingError, match="rising"):
        Appearance(energy=(90, 50))
    with pytest.raises(SettingError, match="zoom"):
        Warp(zoom=(2.0, 1.0))
    with pytest.raises(SettingError, match="views and builds"):
        CtViews(views=0)


def test_a_warp_moves_all_planes_alike_and_zooms_the_middle():
    rows, columns = np.mgrid[0:80, 0:100]
    disc = ((rows - 44) ** 2 + (columns - 46) ** 2 < 18**2).astype(np.float32)
    random = np.random.default_rng(1)
    moved = warped(np.stack([disc, disc]), (80, 100), Warp((0.8, 1.3), 0.1, 8, 0.05, 0.02), random)
    assert np.array_equal(moved[0], moved[1])
    assert not np.array_equal(moved[0], disc)
    zoomed = warped(disc[None], (80, 100), Warp((1.5, 1.5)), random)[0]
    assert abs(zoomed.sum() / disc.sum() - 1.5**2) < 0.05
    small = warped(disc[None], (40, 50), Warp(), random)[0]
    assert abs(small.sum() / disc.sum() - 0.25) < 0.01


def test_left_and_right_change_places_in_a_mirror():
    names = ("lung_right", "heart", "lung_left", "rib_left_4")
    assert swapped(names) == [2, 1, 0, 3]
