import math
from dataclasses import replace

import pytest
import torch

from diffrender.camera import Camera, c_arm
from diffrender.errors import LabelError, SettingError
from diffrender.fit.parametric import default_pelvis
from diffrender.fit.search import PresetSettings, named_part, starts_from_presets
from diffrender.mesh import Mesh
from diffrender.rays.surface import surface_pass
from diffrender.xray import Radiograph

COARSE = PresetSettings(primary=(-36, -12, 12, 36), secondary=(-20, 0, 20), depths=(0.0,), size=48, keep=4)
NAMES = {1: "left-hemipelvis", 2: "right-hemipelvis", 4: "upper-sacrum", 5: "left-femur"}


@pytest.fixture(scope="module")
def model():
    return default_pelvis()


def seen_at(model, primary, secondary, middle, mirrored=True, spread=40.0):
    """A frame of the mean shape by a C-arm at these angles, and the camera that does not know them."""
    camera = c_arm(middle, primary, secondary, 1000.0, 650.0, (5.0, 4.2), (66, 80))
    if not mirrored:  # seen from the other end of the beam: the source stands where the detector's side was
        opposite = camera.world_from_camera.clone()
        opposite[:3, 2] *= -1
        opposite[:3, 3] = torch.tensor(middle, dtype=torch.float64) - 650.0 * opposite[:3, 2]
        camera = replace(camera, world_from_camera=opposite)
    camera = replace(camera, principal_point=(31.0, 43.0))
    meshes = []
    for part, _ in model.parts:
        here = model.range_of(part)
        inside = (model.faces[:, 0] >= here.start) & (model.faces[:, 0] < here.stop)
        meshes.append(Mesh(model.mean[here], model.faces[inside] - here.start))
    lengths = surface_pass(meshes, camera).lengths.float()
    rows = torch.linspace(0, 1, 66)[:, None]
    soft = 2.0 * rows + 1.5 * torch.cos(torch.linspace(-1, 2, 80))  # soft tissue, wider than bones
    noise = torch.randn(66, 80, generator=torch.Generator().manual_seed(1)) * 0.03
    masks = lengths > 2.0
    femur = torch.zeros(66, 80, dtype=torch.bool)
    femur[40:, 60:] = True
    masks = torch.cat([masks & ~femur, femur[None]])
    frame = Radiograph(
        (0.03 * lengths.sum(0) + soft + noise)[None],
        "log-attenuation",
        Camera(_elsewhere(camera.world_from_camera), 1000.0, camera.pixel_size, (66, 80), camera.principal_point),
        masks=masks,
        ids=tuple(NAMES),
        names=NAMES,
    )
    return frame, camera


def _elsewhere(world_from_camera):
    """The same kind of camera in a world of its own: its axes permuted, its origin on the beam."""
    turn = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]], dtype=torch.float64)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = turn @ world_from_camera[:3, :3]
    matrix[:3, 3] = -650.0 * matrix[:3, 2]
    return matrix


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("mirrored", [True, False])
def test_the_view_is_found(model, labels, mirrored):
    frame, camera = seen_at(model, 17.0, -13.0, (32.0, -20.0, 45.0), mirrored)
    starts = starts_from_presets(frame, model, labels, COARSE)
    assert 1 <= len(starts) <= 4
    found = starts[0].world_from_model
    truth = frame.camera.world_from_camera @ torch.linalg.inv(camera.world_from_camera)
    cosine = (float((found[:3, :3].T @ truth[:3, :3]).trace()) - 1) / 2
    # The grid's nearest view is 8.5 degrees off, the next ones 13 to 20.
    assert math.degrees(math.acos(cosine)) < 14
    places = torch.stack(list(model.landmarks.values())).double()
    seen, right = (frame.camera.project(places @ pose[:3, :3].T + pose[:3, 3]) for pose in (found, truth))
    # Places of a body turned by 9 degrees move by 100 mm x sin 9 x 1.5 over 4.5 mm a pixel, 5 px at its rim; its depth,
    # of which one is tried, is off by some 30 mm, 5 % of the picture's size, 2 px more.
    assert (seen - right).norm(dim=1).mean() < 7.0


def test_starts_are_sorted_and_apart(model):
    frame, _ = seen_at(model, 17.0, -13.0, (32.0, -20.0, 45.0))
    starts = starts_from_presets(frame, model, True, replace(COARSE, apart=15.0))
    scores = [float(start.sentence.rsplit(" ", 1)[1][:-1]) for start in starts]
    assert scores == sorted(scores, reverse=True)
    for n, one in enumerate(starts):
        assert torch.allclose(one.world_from_model[:3, :3] @ one.world_from_model[:3, :3].T, torch.eye(3).double())
        assert torch.linalg.det(one.world_from_model[:3, :3]) > 0
        for other in starts[:n]:
            cosine = (float((one.world_from_model[:3, :3].T @ other.world_from_model[:3, :3]).trace()) - 1) / 2
            assert math.degrees(math.acos(cosine)) >= 15


def test_what_other_labels_hide_counts_for_nothing(model):
    frame, _ = seen_at(model, 0.0, 0.0, (0.0, -10.0, 20.0))
    straight = replace(COARSE, primary=(0.0,), secondary=(0.0,))
    score = starts_from_presets(frame, model, True, straight)[0].sentence
    named = replace(frame, names={**NAMES, 5: "left-hip"})  # as if the femur were bone of the hip
    worse = starts_from_presets(named, model, True, straight)[0].sentence
    value = float(score.rsplit(" ", 1)[1][:-1])
    # The mean shape against itself: what is lost is a shift of half a pixel and masks cut at 2 mm, of thin bones.
    assert value > 0.8
    assert float(worse.rsplit(" ", 1)[1][:-1]) < value - 0.02


def test_names_of_parts():
    parts = ("left hip", "right hip", "sacrum")
    assert named_part("hip_left", parts) == "left hip"
    assert named_part("Right-Hemipelvis", parts) == "right hip"
    assert named_part("upper-sacrum", parts) == "sacrum"
    assert named_part("left-femur", parts) is None


def test_frames_without_masks_and_empty_grids_are_refused(model):
    frame, _ = seen_at(model, 0.0, 0.0, (0.0, -10.0, 20.0))
    with pytest.raises(LabelError, match="no masks"):
        starts_from_presets(replace(frame, masks=None, ids=()), model, True, COARSE)
    with pytest.raises(SettingError, match="one angle"):
        PresetSettings(primary=())
