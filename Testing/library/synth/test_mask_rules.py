"""Masks by rule: thresholds by name, lungs as outlined, joined sides, what is never seen; labels that fit their CT."""

import dataclasses

import pytest
import torch

import diffrender as dr
from diffrender.errors import LabelError, Notice, SettingError
from diffrender.synth.label_checks import check_labels
from diffrender.synth.mask_rules import DEFAULT_RULES, MaskRule, masks_of, outlines_of, unseen
from diffrender.synth.views import ViewSpread, drawn_camera

SIZE = (120, 110)


@pytest.fixture(scope="module")
def patient() -> dr.Volume:
    return dr.torso((110, 70, 98), handed="left", noise=0.0)


@pytest.fixture(scope="module", params=["chest-pa", "chest-ap-bedside"])
def taken(patient, request) -> dr.Radiograph:
    spread = ViewSpread(request.param, roll=10)
    return dr.radiograph(patient, drawn_camera(patient, spread, ct_hash="a", view=2, seed=1, image_size=SIZE))


@pytest.fixture(scope="module")
def outlines(patient):
    return outlines_of(patient)


def layer(radiograph: dr.Radiograph, name: str, what: str = "masks") -> torch.Tensor:
    names = [radiograph.label_name(n) for n in radiograph.ids]
    return getattr(radiograph, what)[names.index(name)]


def test_each_label_has_the_threshold_of_its_name(taken, outlines):
    masks = masks_of(taken, outlines=outlines)
    for name, threshold in (("rib_left_5", 2.0), ("trachea", 5.0), ("liver", 5.0)):
        path = layer(taken, name, "path_lengths")
        assert torch.equal(layer(masks, name), path > threshold)
        assert not torch.equal(layer(masks, name), path > threshold + 2.0)
    assert masks.ids[: len(taken.ids)] == taken.ids
    ribs = masks_of(taken, (MaskRule("rib_left_*|*_right_4", 3.0), MaskRule("*", 700.0, joined=None)))
    assert torch.equal(layer(ribs, "rib_right_4"), layer(taken, "rib_right_4", "path_lengths") > 3.0)
    assert not layer(ribs, "rib_right_5").any()


def test_lobes_are_joined_to_sides_with_ids_of_their_own(taken, outlines):
    masks = masks_of(taken, outlines=outlines)
    highest = max(taken.names)
    assert masks.ids[-2:] == (highest + 1, highest + 2)
    assert [masks.label_name(n) for n in masks.ids[-2:]] == ["lung_right", "lung_left"]
    lobes = sum(layer(taken, f"lung_{part}_lobe_right", "path_lengths") for part in ("upper", "middle", "lower"))
    assert torch.allclose(layer(masks, "lung_right", "path_lengths"), lobes)
    columns = [layer(masks, f"lung_{side}").nonzero()[:, 1].double().mean() for side in ("right", "left")]
    assert columns[0] < 45 < 65 < columns[1]  # the patient's left on the image's right


def test_a_lung_ends_at_the_dome_and_reaches_behind_the_heart(patient, taken, outlines):
    masks = masks_of(taken, outlines=outlines)
    uncut = masks_of(taken, [dataclasses.replace(rule, dome=False) for rule in DEFAULT_RULES])
    liver, heart = layer(masks, "liver"), layer(masks, "heart")
    for side in ("right", "left"):
        lung, whole = layer(masks, f"lung_{side}"), layer(uncut, f"lung_{side}")
        assert not (lung & ~whole).any()
        assert 0.6 < float(lung.sum() / whole.sum()) < 0.97
        gone = (whole & ~lung).nonzero()[:, 0].double().mean()
        assert gone > lung.nonzero()[:, 0].double().quantile(0.85)  # from below
    behind_liver = layer(uncut, "lung_right") & liver
    assert float((layer(masks, "lung_right") & liver).sum() / behind_liver.sum()) < 0.2
    assert float((layer(masks, "lung_left") & heart).sum() / (layer(uncut, "lung_left") & heart).sum()) > 0.7


def test_an_outline_has_one_part_and_no_hole(taken, outlines):
    from scipy import ndimage

    for side in ("right", "left"):
        lung = layer(masks_of(taken, outlines=outlines), f"lung_{side}").numpy()
        assert ndimage.label(lung)[1] == 1
        assert ndimage.binary_fill_holes(lung).sum() == lung.sum()


def test_borders_lie_where_paths_say(taken):
    rules = [MaskRule("*lung*right*", outline="lung", lateral=20, medial=60, dome=False, joined="lung_right")]
    mask = layer(masks_of(taken, [*rules, MaskRule("*")]), "lung_right")
    wide = [dataclasses.replace(rules[0], medial=5.0), MaskRule("*")]
    path = layer(masks_of(taken, wide), "lung_right", "path_lengths")
    rows = range(SIZE[0] // 2 - 12, SIZE[0] // 2 - 4)
    for row in rows:
        at = mask[row].nonzero().flatten()
        assert float(path[row, at[0]]) > 20.0  # lateral of a right lung is on the image's left
        assert float(path[row, at[0] - 2]) < 35.0
        assert float(path[row, at[-1]]) > min(60.0, 0.5 * float(path[row].max())) - 1e-3
        assert float(path[row, at[-1] + 2]) < 60.0
    assert layer(masks_of(taken, wide), "lung_right").sum() > mask.sum()


def test_what_no_view_shows_is_named(patient):
    below = dr.preset("hip-left", patient, image_size=(40, 40))
    chest = drawn_camera(patient, ViewSpread("chest-pa"), ct_hash="a", view=0, seed=1, image_size=(40, 40))
    rules = (MaskRule("*"),)
    hip, upper = (masks_of(dr.radiograph(patient, camera), rules) for camera in (below, chest))
    assert {"humerus_left", "heart"} <= set(unseen(hip))
    assert "femur_left" not in unseen(hip)
    assert "hip_left" in unseen([upper])
    assert not {"hip_left", "heart"} & set(unseen([hip, upper]))


def test_a_dome_that_is_not_given_and_a_label_without_a_rule_are_refused(taken, patient):
    with pytest.raises(LabelError, match="lung_right is cut at the dome of the diaphragm, and its place is not given"):
        masks_of(taken)
    with pytest.raises(LabelError, match="No rule says what the mask of 'spleen' is"):
        masks_of(taken, [MaskRule("rib*")])
    with pytest.raises(LabelError, match="shows no labels"):
        masks_of(dataclasses.replace(taken, path_lengths=None, masks=None, ids=()))
    with pytest.raises(SettingError, match="is of one side"):
        MaskRule("*lung*", outline="lung")
    with pytest.raises(SettingError, match="threshold is a path"):
        MaskRule("*", 0)
    with pytest.raises(SettingError, match="outline is one of path, lung"):
        MaskRule("*", outline="lungs")


def test_a_ct_that_ends_above_the_dome_is_not_cut(patient):
    k = patient.shape[0]
    matrix = patient.world_from_voxel.clone()
    start = round(0.72 * k)  # above the heart
    matrix[:3, 3] += matrix[:3, 2] * start
    high = dataclasses.replace(
        patient, values=patient.values[start:], labels=patient.labels[start:], world_from_voxel=matrix
    )
    assert [len(base) for base in outlines_of(high).bases.values()] == [0, 0]


def test_labels_of_this_ct_pass_and_those_of_another_do_not(patient):
    check_labels(patient)
    shifted = dataclasses.replace(patient, labels=patient.labels.roll((9, 7), (0, 1)))
    with pytest.raises(
        LabelError, match=r"Only \d+ % of the voxels labelled as bones lie on bone .* different patients"
    ):
        check_labels(shifted)
    heart = next(n for n, name in patient.names.items() if name == "heart")
    swapped = dataclasses.replace(patient, labels=(patient.labels == heart).to(torch.uint8), names={1: "lung_left"})
    with pytest.raises(LabelError, match="Only 0 % of the voxels labelled as lungs"):
        check_labels(swapped)
    layers = torch.stack([patient.labels == heart, torch.zeros_like(patient.labels).bool()])
    with pytest.warns(Notice, match="1 of 2 labels have no voxel: stone"):
        check_labels(dataclasses.replace(patient, labels=layers, names={1: "heart", 2: "stone"}))
