"""Presets and orbits: whose left is where, is all of the patient in view, is the head up."""

import dataclasses
import math

import pytest
import torch

import diffrender as dr
import phantoms
from diffrender.errors import GeometryError, LabelError, SettingError
from diffrender.views import PRESETS

LATTICE = phantoms.oblique_lattice(spacing=(3.1, 2.7, 4.2), turned=(7, -5, 12), origin=(-150.0, -80.0, 900.0))
SIZE = (100, 80, 110)


@pytest.fixture(scope="module")
def patient() -> dr.Volume:
    """Three beads: on the left, on the head's side, in front; on an oblique lattice."""
    labels = torch.zeros(SIZE, dtype=torch.uint8)
    empty = dr.Volume(torch.zeros(SIZE, dtype=torch.int16), LATTICE, labels)
    voxel_from_world = torch.linalg.inv(empty.world_from_voxel)
    for label, offset in enumerate(([-60.0, 0, 0], [0, 0, 70.0], [0, 50.0, 0]), 1):
        at = voxel_from_world @ torch.cat([empty.centre + torch.tensor(offset), torch.ones(1)])
        i, j, k = at[:3].round().long().tolist()
        labels[k - 2 : k + 3, j - 3 : j + 4, i - 2 : i + 3] = label
    return dataclasses.replace(empty, names={1: "femur_left", 2: "skull", 3: "sternum"})


def offsets(volume: dr.Volume, camera: dr.Camera) -> list[tuple[float, float]]:
    """(down, right) in pixels from the volume's centre to the middle of each bead's shadow."""
    volume = dataclasses.replace(volume, values=torch.zeros_like(volume.values))
    masks = dr.radiograph(volume, camera, dr.RadiographSettings(backend="torch", threshold=0.1)).masks
    centre = camera.project(volume.centre)
    return [tuple((mask.nonzero().double().mean(0) + 0.5 - centre).tolist()) for mask in masks]


@pytest.mark.parametrize("name", [n for n, view in PRESETS.items() if view.side is None])
def test_the_head_is_up_and_left_is_where_it_belongs(patient, name):
    camera = dr.preset(name, patient, image_size=(60, 70))
    left, head, front = offsets(patient, camera)
    assert head[0] < -5
    assert abs(head[1]) < 2
    if "lateral" in name:
        assert front[1] < -5  # anterior on the image's left
        assert camera.direction.tolist() == [-1, 0, 0]  # the left side at the detector
    else:
        assert left[1] > 5  # the patient's left on the image's right
        assert camera.mirrored == (name in ("frontal", "c-arm", "chest-pa"))


@pytest.mark.parametrize("name", [n for n, view in PRESETS.items() if view.side is None])
@pytest.mark.parametrize("image_size", [(64, 64), (50, 90)])
def test_the_detector_is_sized_to_the_volume(patient, name, image_size):
    camera = dr.preset(name, patient, image_size=image_size)
    pixels = camera.project(patient.corners)
    size = torch.tensor(image_size, dtype=torch.float64)
    assert (pixels > 0).all()
    assert (pixels < size).all()
    assert (pixels / size).min() < 0.02 or (pixels / size).max() > 0.98  # and no larger than that
    assert camera.pixel_size[0] == camera.pixel_size[1]


def test_distances_are_those_of_the_rooms(patient):
    for name, distance in {"chest-pa": 1800, "chest-ap-bedside": 1000, "pelvis-ap": 1150, "frontal": 1020}.items():
        camera = dr.preset(name, patient)
        assert camera.source_to_detector == distance
        depth = (patient.corners - camera.source) @ camera.direction
        assert depth.min() > 0
        assert depth.max() < distance  # the whole patient lies before the detector
    frontal, by_hand = dr.preset("frontal", patient, pixel_size=1.165), dr.c_arm(patient)
    assert torch.equal(frontal.projection(), by_hand.projection())


def test_inlet_and_outlet_tilt_the_beam_to_the_feet_and_to_the_head(patient):
    assert dr.preset("pelvis-inlet", patient).direction[2] == pytest.approx(-math.sin(math.radians(40)))
    assert dr.preset("pelvis-outlet", patient).direction[2] == pytest.approx(math.sin(math.radians(40)))
    for name in ("pelvis-inlet", "pelvis-outlet"):
        assert dr.preset(name, patient).direction[1] < 0  # from the front


def test_hip_views_are_centred_on_the_joint(patient):
    camera = dr.preset("hip-left", patient, image_size=(40, 50))
    row, column = camera.project(patient.centre + torch.tensor([-60.0, 0, 0]))
    assert row.item() == pytest.approx(20, abs=1.0)
    assert column.item() == pytest.approx(25, abs=1.0)
    with pytest.raises(
        LabelError, match="hip-right is aimed at a label named hip or femur and right; this volume has femur_left"
    ):
        dr.preset("hip-right", patient)
    with pytest.raises(LabelError, match="this volume has no labels"):
        dr.preset("hip-left", dataclasses.replace(patient, labels=None, names=None))


def test_hip_of_a_real_patient(real_data):
    volume = dr.read_volume(
        real_data("ct-abdomenpelvis-totalseg", "ct.nii.gz"),
        labels=real_data("ct-abdomenpelvis-totalseg", "labels_totalsegv1_multilabel.nii.gz"),
        names="totalsegmentator-v1",
    )
    left, right = (dr.preset(f"hip-{side}", volume, (80, 80)) for side in ("left", "right"))
    assert left.source[0] < volume.centre[0] < right.source[0]
    for camera, side in ((left, "left"), (right, "right")):
        xray = dr.radiograph(volume, camera)
        named = {xray.label_name(n): mask for n, mask in zip(xray.ids, xray.masks, strict=True)}
        assert named[f"femur_{side}"][20:60, 20:60].any()
        assert not named[f"femur_{'right' if side == 'left' else 'left'}"].any()


def test_unknown_presets_are_listed(patient):
    with pytest.raises(SettingError, match="'skull-ap' is no preset; there are frontal, c-arm, chest-pa"):
        dr.preset("skull-ap", patient)


def test_pixels_of_no_size_are_refused(patient):
    with pytest.raises(GeometryError, match="must be above zero"):
        dr.preset("frontal", patient, pixel_size=0)


def test_a_volume_too_deep_for_the_view_is_refused():
    long = dr.Volume(torch.zeros((3, 900, 3), dtype=torch.int16), torch.diag(torch.tensor([1.0, 4.0, 1.0, 1.0])))
    with pytest.raises(GeometryError, match="Crop the volume"):
        dr.preset("pelvis-ap", long)


def test_an_orbit_sees_all_of_the_patient_evenly(patient):
    cameras = dr.orbit(patient, n=16, image_size=(70, 50), seed=3)
    assert len(cameras) == 16
    eyes = torch.stack([c.source - patient.centre for c in cameras])
    unit = eyes / eyes.norm(dim=1, keepdim=True)
    assert unit.mean(0).norm() < 0.05
    nearest = ((unit @ unit.T) - 2 * torch.eye(16)).max(1).values.acos()
    assert nearest.min() > 0.6 * math.sqrt(4 * math.pi / 16)  # the mean distance of 16 even points
    for camera in cameras:
        assert not camera.mirrored
        assert camera.orientation()["top"][0] in ("H", "A", "P", "L", "R")
        assert camera.world_from_camera[2, 1] <= 1e-9  # rows grow downwards, or level at a pole
        pixels = camera.project(patient.corners)
        assert (pixels > 0).all()
        assert (pixels < torch.tensor([70.0, 50.0])).all()
    assert not torch.equal(cameras[0].source, dr.orbit(patient, n=16, seed=4)[0].source)
    assert torch.equal(cameras[5].projection(), dr.orbit(patient, n=16, image_size=(70, 50), seed=3)[5].projection())
    with pytest.raises(SettingError, match="at least one view"):
        dr.orbit(patient, n=0)
