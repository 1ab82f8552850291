"""Views drawn by hashing: the same whatever the order or process, spread as stated, the chest in the picture."""

import dataclasses
import json
import math
import subprocess
import sys

import pytest
import torch

import diffrender as dr
from diffrender.errors import LabelError, SettingError
from diffrender.synth.framing import field_of
from diffrender.synth.views import SPREADS, ViewSpread, _draw, drawn_camera, spread_preset

SHAPE = (100, 60, 84)
HASH = "3f1c"


@pytest.fixture(scope="module")
def patient() -> dr.Volume:
    return dr.torso(SHAPE, handed="left", noise=0.0)


@pytest.fixture(scope="module")
def block() -> dr.Volume:
    return dr.Volume(torch.zeros(30, 40, 50, dtype=torch.int16), torch.diag(torch.tensor([4.0, 5.0, 6.0, 1.0])))


def drawn(volume: dr.Volume, spread, view: int, seed: int = 5, ct_hash: str = HASH, **more) -> dr.Camera:
    return drawn_camera(volume, spread, ct_hash=ct_hash, view=view, seed=seed, **{"image_size": (96, 80), **more})


def same(a: dr.Camera, b: dr.Camera) -> bool:
    return a.to_dict() == b.to_dict()


def test_a_view_hangs_on_ct_number_and_seed_alone(patient):
    cameras = [drawn(patient, "chest-pa", n) for n in range(4)]
    assert all(same(drawn(patient, "chest-pa", n), cameras[n]) for n in (3, 1, 0, 2))
    others = [
        drawn(patient, "chest-pa", 4),
        drawn(patient, "chest-pa", 0, seed=6),
        drawn(patient, "chest-pa", 0, ct_hash="3f1d"),
    ]
    assert not any(same(a, b) for n, a in enumerate([*cameras, *others]) for b in [*cameras, *others][n + 1 :])


def test_another_process_draws_the_same(block):
    code = (
        "import json, torch, diffrender as dr; from diffrender.synth import drawn_camera, ViewSpread;"
        "v = dr.Volume(torch.zeros(30, 40, 50, dtype=torch.int16), torch.diag(torch.tensor([4.0, 5.0, 6.0, 1.0])));"
        "s = ViewSpread('frontal', 9, 8, 7, 6, 5, 0.1, 'normal');"
        "print(json.dumps(drawn_camera(v, s, ct_hash='3f1c', view=7, seed=5, image_size=(96, 80)).to_dict()))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    spread = ViewSpread("frontal", 9, 8, 7, 6, 5, 0.1, "normal")
    assert json.loads(out) == drawn(block, spread, 7).to_dict()


@pytest.mark.parametrize(
    ("distribution", "most", "deviation"), [("uniform", 1.0, 1 / math.sqrt(3)), ("normal", 2.5, 0.954)]
)
def test_draws_are_distributed_as_stated(distribution, most, deviation):
    draws = torch.tensor([_draw(f"some words {n}", distribution) for n in range(4000)])
    assert 0.9 * most < float(draws.abs().max()) <= most
    # Standard deviations of 4000 draws stray by 1.1 %, means by 0.016; a normal one cut at 2.5 has 0.954.
    assert float(draws.std()) == pytest.approx(deviation, rel=0.05)
    assert abs(float(draws.mean())) < 0.06


def test_each_number_strays_as_far_as_stated(block):
    base = drawn(block, ViewSpread("frontal"), 0)
    middle = field_of(block, "frontal").centre

    def strays(name: str, measure) -> None:
        size = 0.2 if name == "zoom" else 12.0
        spread = ViewSpread("frontal", **{name: size}, in_frame=False)
        values = torch.tensor([measure(drawn(block, spread, n)) for n in range(16)]) / size
        assert float(values.abs().max()) <= 1 + 1e-6
        assert float(values.max()) > 0.3
        assert float(values.min()) < -0.3
        words = {"shift": "across"}.get(name, name)
        if measure is not along:
            assert values.tolist() == pytest.approx(
                [_draw(f"{HASH} {n} 5 {words}", "uniform") for n in range(16)], abs=1e-5
            )

    def along(camera):
        return float(camera.source[2] - base.source[2])

    def angle(of, about):
        return math.degrees(math.atan2(float(of), float(about)))

    strays("primary", lambda c: angle(-c.direction[0], c.direction[1]))  # + towards the patient's left, as a C-arm's
    strays("secondary", lambda c: angle(c.direction[2], c.direction[1]))
    strays("roll", lambda c: angle(-c.world_from_camera[2, 0], -c.world_from_camera[0, 0]))
    strays("distance", lambda c: c.source_to_detector - base.source_to_detector)
    strays("zoom", lambda c: c.pixel_size[0] / base.pixel_size[0] - 1)
    strays("shift", lambda c: float(base.source[0] - c.source[0]))  # columns grow to the left
    strays("shift", along)
    turned = drawn(block, ViewSpread("frontal", primary=30, in_frame=False), 3)
    assert torch.allclose(turned.project(middle), torch.tensor([48.0, 40.0], dtype=torch.float64), atol=1e-6)


def test_the_detector_stays_where_the_source_goes_back(block):
    base = drawn(block, ViewSpread("frontal"), 0)
    far = drawn(block, ViewSpread("frontal", distance=50, in_frame=False), 1)
    planes = [c.source @ c.direction + c.source_to_detector for c in (base, far)]
    assert far.source_to_detector != base.source_to_detector
    assert float(planes[0]) == pytest.approx(float(planes[1]))


@pytest.mark.parametrize("name", ["chest-pa", "chest-ap-bedside", "chest-lateral"])
def test_the_chest_fills_the_picture_and_is_never_cut(patient, name):
    core = field_of(patient, name).core
    wild = dataclasses.replace(SPREADS[name], shift=80.0, zoom=0.4)
    for spread, least in ((SPREADS[name], 0.6), (wild, 0.4)):
        for view in range(12):
            camera = drawn(patient, spread, view)
            places = camera.project(core) / torch.tensor(camera.image_size)
            assert float(places.min()) > -1e-9
            assert float(places.max()) < 1 + 1e-9
            assert float((places.amax(0) - places.amin(0)).max()) > least
    assert camera.orientation()["top"].startswith("H")
    assert camera.orientation()["right"].startswith("P" if "lateral" in name else "L")


def test_a_ct_that_ends_near_the_lungs_leaves_little_blank(patient):
    lungs = [n for n in patient.label_ids if "lung" in patient.label_name(n)]
    k = torch.isin(patient.labels, torch.tensor(lungs, dtype=torch.uint8)).any(2).any(1).nonzero()
    part = slice(int(k[0]) - 1, int(k[-1]) + 2)
    matrix = patient.world_from_voxel.clone()
    matrix[:3, 3] += matrix[:3, 2] * part.start
    cut = dataclasses.replace(
        patient, values=patient.values[part], labels=patient.labels[part], world_from_voxel=matrix
    )
    wide, tight = (drawn(v, ViewSpread("chest-pa"), 0, image_size=(90, 90)) for v in (patient, cut))
    assert tight.pixel_size[0] < 0.95 * wide.pixel_size[0]


def test_lungs_are_found_where_no_label_names_them(patient):
    bare = dataclasses.replace(patient, labels=None, names=None)
    found, known = (field_of(v, "chest-pa").core for v in (bare, patient))
    # Two voxels of 6 mm; above, voxels this coarse leave some of the windpipe.
    assert torch.allclose(found.amin(0), known.amin(0), atol=15)
    assert torch.allclose(found.amax(0)[:2], known.amax(0)[:2], atol=15)
    assert abs(float(found.amax(0)[2] - known.amax(0)[2])) < 40


def test_a_chest_view_without_lungs_is_refused(block):
    with pytest.raises(LabelError, match=r"A chest view is aimed at the lungs\. No lung was found"):
        drawn(block, "chest-pa", 0)


def test_a_camera_of_ones_own_is_strayed_from(block):
    own = dr.c_arm(block, 20, 10, pixel_size=(1.5, 1.2), image_size=(192, 160))
    still = drawn(block, ViewSpread(own), 3)
    assert same(still, own.resized((96, 80)))
    assert drawn(block, ViewSpread(own), 3, pixel_size=0.9).pixel_size == (0.9, 0.9)
    moved = drawn(block, ViewSpread(own, primary=10, roll=20, in_frame=False), 3)
    assert torch.allclose(moved.project(block.centre), still.project(block.centre), atol=1e-6)
    assert not torch.allclose(moved.direction, still.direction)


def test_what_cannot_be_a_spread_is_refused():
    with pytest.raises(SettingError, match="'knee' is no preset"):
        spread_preset("knee")
    with pytest.raises(SettingError, match="roll is how far views stray"):
        ViewSpread(roll=-1)
    with pytest.raises(SettingError, match="primary is how far views stray"):
        ViewSpread(primary=math.nan)
    with pytest.raises(SettingError, match=r"zoom is how far .* 0 to 0\.5"):
        ViewSpread(zoom=0.6)
    with pytest.raises(SettingError, match="distribution is one of uniform, normal"):
        ViewSpread(distribution="gauss")
    assert set(SPREADS) == {"chest-pa", "chest-ap-bedside", "chest-lateral", "pelvis-ap", "c-arm"}
