"""The torso: anatomy where it belongs, told by the labels' places in the world and not by how they were drawn."""

import csv
import itertools

import numpy as np
import pytest
import torch

import diffrender
from diffrender.errors import SettingError
from diffrender.phantom import drawing, torso

SHAPE = (90, 56, 80)  # of 7.1 x 5.2 x 5.5 mm: coarse, for places and averages


@pytest.fixture(scope="module")
def patient():
    return torso(SHAPE)


def ids(volume):
    return {name: number for number, name in volume.names.items()}


def middle(volume, *names):
    """The centroid of labels, RAS [mm], from voxel indices and the lattice alone."""
    k, j, i = np.nonzero(np.isin(volume.labels.numpy(), [ids(volume)[name] for name in names]))
    return (volume.world_from_voxel.numpy() @ [i.mean(), j.mean(), k.mean(), 1])[:3]


def test_every_named_label_is_drawn_and_nothing_else(patient):
    assert set(patient.label_ids) == set(patient.names)
    assert len(patient.names) > 75


def test_paired_labels_lie_on_their_sides(patient):
    pairs = [name for name in patient.names.values() if "left" in name]
    assert len(pairs) > 20
    for name in pairs:
        if name.startswith("lung_"):
            continue  # three lobes to the right, two to the left; compared below
        left, right = middle(patient, name), middle(patient, name.replace("left", "right"))
        assert left[0] < right[0], f"{name} lies to the right of its twin"  # RAS: +x is the patient's right
        assert abs(left[2] - right[2]) < 25
    assert middle(patient, "lung_upper_lobe_left")[0] < 0 < middle(patient, "lung_middle_lobe_right")[0]


def test_organs_lie_where_anatomy_has_them(patient):
    spine_x = middle(patient, "vertebrae_T9")[0]
    assert middle(patient, "heart")[0] < spine_x - 10  # the left
    assert middle(patient, "aorta")[0] < spine_x
    assert middle(patient, "liver")[0] > spine_x + 30
    assert middle(patient, "spleen")[0] < spine_x - 60
    assert middle(patient, "stomach")[0] < spine_x - 20
    for kidney in ("kidney_left", "kidney_right"):
        assert middle(patient, kidney)[1] < middle(patient, "pancreas")[1] - 30  # behind
    assert middle(patient, "kidney_right")[2] < middle(patient, "kidney_left")[2]  # under the liver
    assert middle(patient, "sternum")[1] > middle(patient, "vertebrae_T6")[1] + 80
    assert middle(patient, "trachea")[1] > middle(patient, "esophagus")[1]


def test_the_head_is_up(patient):
    order = ["femur_left", "urinary_bladder", "sacrum", "vertebrae_L3", "liver", "heart", "aorta", "clavicula_right"]
    heights = [middle(patient, name)[2] for name in order if name != "aorta"]
    assert heights == sorted(heights)
    column = [f"vertebrae_L{n}" for n in range(5, 0, -1)] + [f"vertebrae_T{n}" for n in range(12, 0, -1)]
    heights = [middle(patient, name)[2] for name in column]
    assert heights == sorted(heights)


def test_ribs_slope_down_to_the_front():
    volume = torso((180, 56, 80), noise=0)
    labels, matrix = volume.labels.numpy(), volume.world_from_voxel.numpy()
    for number in range(3, 10):
        k, j, _ = np.nonzero(labels == ids(volume)[f"rib_right_{number}"])
        y, z = matrix[1, 1] * j + matrix[1, 3], matrix[2, 2] * k + matrix[2, 3]
        front, back = z[y > np.quantile(y, 0.8)].mean(), z[y < np.quantile(y, 0.2)].mean()
        assert back - front > 30


def test_nothing_is_symmetric(patient):
    values = patient.values.float()
    mirrored = values.flip(2)
    body = (values > -500) | (mirrored > -500)
    # Noise of 9 HU alone would give 13.
    assert (values - mirrored)[body].abs().mean() > 60


def test_hu_ranges_of_organs_overlap(patient):
    def spread(name):
        return np.quantile(patient.values[patient.mask(ids(patient)[name])].numpy(), [0.1, 0.9])

    ordered = ["urinary_bladder", "pancreas", "spleen", "liver", "iliopsoas_left"]
    for name, other in itertools.pairwise(ordered):
        low, high = max(spread(name)[0], spread(other)[0]), min(spread(name)[1], spread(other)[1])
        assert low < high, f"{name} and {other} could be told apart by a threshold"
    lung = patient.values[patient.mask(ids(patient)["lung_lower_lobe_right"])].float().mean()
    assert -900 < lung < -700
    assert patient.values.max() > 700
    assert patient.values.min() >= -1024


def test_the_same_arguments_give_the_same_voxels_and_another_seed_does_not(patient):
    again = torso(SHAPE)
    assert torch.equal(again.values, patient.values)
    assert torch.equal(again.labels, patient.labels)
    assert not torch.equal(torso(SHAPE, seed=1).values, patient.values)


def test_drawing_in_slabs_changes_nothing(patient, monkeypatch):
    monkeypatch.setattr(drawing, "SLAB", 13 * SHAPE[1] * SHAPE[2])  # 90 slices in seven slabs, the last one thinner
    again = torso(SHAPE)
    assert torch.equal(again.labels, patient.labels)
    assert torch.equal(again.values, patient.values)


@pytest.mark.parametrize("handed", ["right", "left"])
def test_an_oblique_lattice_holds_the_same_patient(handed):
    from scipy.ndimage import map_coordinates

    straight = torso((120, 84, 110), noise=0)
    turned = torso((96, 64, 90), noise=0, oblique=True, handed=handed)
    assert np.sign(np.linalg.det(turned.world_from_voxel[:3, :3].numpy())) == (1 if handed == "right" else -1)
    assert "oblique by" in repr(turned)
    k, j, i = np.indices(turned.shape)
    voxels = np.stack([i, j, k, np.ones_like(i)]).reshape(4, -1)
    place = np.linalg.inv(straight.world_from_voxel.numpy()) @ turned.world_from_voxel.numpy() @ voxels
    inside = np.all([(place[n] > 2) & (place[n] < straight.shape[2 - n] - 3) for n in range(3)], axis=0)
    expected = map_coordinates(straight.values.numpy().astype(float), place[2::-1, inside], order=1)
    found = turned.values.numpy().reshape(-1)[inside]
    # Edges are a voxel soft, so voxels of 5 and 6.5 mm soften bones and skin differently; within organs little differs.
    assert np.median(np.abs(found - expected)) < 6
    assert np.corrcoef(found, expected)[0, 1] > 0.985
    assert np.linalg.norm(middle(turned, "heart") - middle(straight, "heart")) < 2
    assert np.linalg.norm(middle(turned, "sacrum") - middle(straight, "sacrum")) < 2


def test_the_lattice_is_a_scanners(patient):
    assert patient.orientation == "LPS"
    assert torso((20, 20, 20), spacing=(9.0, 7.0, 8.0), handed="left").orientation == "RPS"
    assert patient.spacing == pytest.approx((640 / 90, 292 / 56, 440 / 80))
    assert torso((20, 16, 24), spacing=(9.0, 7.0, 8.0)).spacing == pytest.approx((9.0, 7.0, 8.0))
    assert patient.values.dtype == torch.int16


def test_ids_are_those_of_totalsegmentators_table(patient):
    table = diffrender.io.__path__[0] + "/data/totalsegmentator-v2.csv"
    with open(table, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    theirs = {int(row["id"]): row.get("name") or row.get("structure") for row in rows}
    assert {number: theirs[number] for number in patient.names} == patient.names


def test_without_labels_the_values_stay(patient):
    bare = torso(SHAPE, labels=False)
    assert bare.labels is None
    assert bare.names is None
    assert torch.equal(bare.values, patient.values)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"shape": (4, 4)}, "three whole numbers"),
        ({"shape": (1, 40, 40)}, "each at least 2"),
        ({"spacing": (3.0, -1.0, 2.0)}, "above zero"),
        ({"spacing": (3.0, float("nan"), 2.0)}, "above zero"),
        ({"handed": "both"}, '"right" or "left", not \'both\''),
    ],
)
def test_impossible_lattices_are_refused(arguments, words):
    with pytest.raises(SettingError, match=words):
        torso(**arguments)
