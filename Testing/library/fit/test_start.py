"""Where fits begin: from landmarks under oblique C-arms with oblong pixels, from the isocentre, from a file."""

import json
import math
import warnings

import pytest
import torch

import diffrender as dr
from diffrender.camera import Camera, c_arm
from diffrender.errors import GeometryError, Notice, PathError, SettingError
from diffrender.fit.pnp import sighting, solve
from diffrender.fit.start import (
    Start,
    other_side,
    read_start,
    start_at_isocentre,
    start_from_landmarks,
    write_start,
)
from diffrender.pose import motion

# About a pelvis, its origin midway between the femoral heads, RAS [mm]; no two sides alike.
PLACES = {
    "FH-l": (-88, 0, 0), "FH-r": (88, 2, -1), "GSN-l": (-60, -55, 40), "GSN-r": (61, -54, 41), "MOF-l": (-25, 30, -20),
    "MOF-r": (24, 31, -19), "SPS-l": (-8, 52, 2), "IPS-r": (11, 31, -37), "ASIS-l": (-120, 45, 80),
    "ASIS-r": (118, 46, 83),
}  # fmt: skip
LANDMARKS = {name: torch.tensor(place, dtype=torch.float64) for name, place in PLACES.items()}
POSE = motion(torch.tensor([22.0, -35, 14, 0.21, -0.17, 0.3], dtype=torch.float64), torch.tensor([5.0, 8, -3]))


def oblique() -> Camera:
    camera = c_arm((0.0, 0.0, 0.0), 24.0, -13.0, 1020.0, 632.0, (0.6, 0.9), (500, 330))
    return Camera(camera.world_from_camera, 1020.0, (0.6, 0.9), (500, 330), (231.0, 178.5))


def marks(camera: Camera, pose=POSE, noise: float = 0.0, seed: int = 4) -> dict[str, tuple[float, float]]:
    """Where the landmarks project, worked out with the matrix of the camera, and how badly a person marks them."""
    generator = torch.Generator().manual_seed(seed)
    P = camera.projection()
    seen = {}
    for name, place in LANDMARKS.items():
        column, row, depth = P[:, :3] @ (pose[:3, :3] @ place + pose[:3, 3]) + P[:, 3]
        away = torch.randn(2, generator=generator) * noise
        seen[name] = (float(row / depth + away[0]), float(column / depth + away[1]))
    return seen


def away(found: torch.Tensor, true: torch.Tensor = POSE) -> tuple[float, float]:
    """(degrees, mm of the origin)."""
    trace = float((found[:3, :3] @ true[:3, :3].T).trace())
    return math.degrees(math.acos(min(1.0, (trace - 1) / 2))), float((found[:3, 3] - true[:3, 3]).norm())


def test_exact_marks_give_the_pose_back():
    start = start_from_landmarks(oblique(), marks(oblique()), LANDMARKS)
    degrees, mm = away(start.world_from_model)
    # of double precision, squared in the acos and in the normal equations
    assert degrees < 1e-4
    assert mm < 1e-3
    assert start.error_px is not None
    assert start.error_px < 1e-4
    assert start.left_out == ()


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("turn", [(0.1, 2.6, -0.3), (-1.4, 0.2, 0.9)])
def test_the_pose_is_found_from_any_side(turn, seed):
    pose = motion(torch.tensor([9.0, 31, -12, *turn], dtype=torch.float64), torch.zeros(3))
    start = start_from_landmarks(oblique(), marks(oblique(), pose, 0.5, seed), LANDMARKS)
    degrees, mm = away(start.world_from_model, pose)
    # half a pixel of 0.3 mm at the body: a tenth of a degree across it, and twenty times that in depth
    assert degrees < 0.6
    assert mm < 6


def test_two_views_say_the_depth_that_one_does_not():
    other = c_arm((3.0, -8.0, 5.0), -38.0, 9.0, 980.0, 600.0, (0.8, 0.5), (380, 560))
    one, two = [], []
    for seed in range(2):
        first = marks(oblique(), noise=1.5, seed=seed)
        second = {name: place for name, place in marks(other, noise=1.5, seed=seed + 50).items() if name != "FH-l"}
        one.append(away(start_from_landmarks(oblique(), first, LANDMARKS).world_from_model)[1])
        start = start_from_landmarks([oblique(), other], [first, second], LANDMARKS)
        two.append(away(start.world_from_model)[1])
        assert "2 views" in start.sentence
    assert max(two) < 1.5  # 1.5 px are 0.6 mm at the body, over ten landmarks
    assert sum(two) < sum(one)


def test_a_landmark_marked_wrongly_is_left_out_and_said():
    seen = marks(oblique(), noise=0.7)
    seen["MOF-r"] = (seen["MOF-r"][0] + 60, seen["MOF-r"][1] - 35)
    with pytest.warns(Notice, match=r"MOF-r \(\d\d px\)"):
        start = start_from_landmarks(oblique(), seen, LANDMARKS)
    assert start.left_out == ("MOF-r",)
    assert away(start.world_from_model)[0] < 0.6
    assert start.error_px is not None
    assert start.error_px < 2
    assert start.errors_px["MOF-r"] > 50


def test_left_and_right_swapped_is_seen_and_said():
    swapped = {other_side(name): place for name, place in marks(oblique(), noise=1.0).items()}
    known = {**LANDMARKS, "SPS-r": torch.tensor([7.0, 52, 3]), "IPS-l": torch.tensor([-12.0, 30, -38])}
    with pytest.raises(GeometryError, match=r"left and right landmarks are swapped.*Exchange the names"):
        start_from_landmarks(oblique(), swapped, known)
    other = c_arm((3.0, -8.0, 5.0), -38.0, 9.0, 980.0, 600.0, (0.8, 0.5), (380, 560))
    right = marks(other, noise=1.0, seed=9)
    with pytest.raises(GeometryError, match=r"landmarks of view 1 are swapped"):
        start_from_landmarks([oblique(), other], [swapped, right], known)
    start_from_landmarks(oblique(), marks(oblique(), noise=1.0), known)


def test_one_swapped_pair_or_a_patient_turned_round_is_said():
    seen = marks(oblique(), noise=1.0)
    seen["GSN-l"], seen["GSN-r"] = seen["GSN-r"], seen["GSN-l"]
    with pytest.warns(Notice, match=r"within \d+ px only, worst GSN-., GSN-.: .*left and right of some are swapped"):
        start_from_landmarks(oblique(), seen, LANDMARKS)
    pose = motion(torch.tensor([9.0, 31, -12, 0.1, 0.2, 2.3], dtype=torch.float64), torch.zeros(3))
    with pytest.warns(Notice, match=r"turned by 13\d degrees against the world's axes"):  # 2.3 rad are 132
        start_from_landmarks(oblique(), marks(oblique(), pose), LANDMARKS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        start_from_landmarks(oblique(), marks(oblique(), noise=1.0), LANDMARKS)
    with pytest.raises(GeometryError, match="marked at one place"):
        start_from_landmarks(oblique(), dict.fromkeys(seen, (100.0, 120.5)), LANDMARKS)


def test_too_few_or_on_a_line():
    seen = marks(oblique())
    few = {name: seen[name] for name in ("FH-l", "FH-r", "ASIS-l")}
    with pytest.raises(SettingError, match=r"at least 4 landmarks, and 3 of those marked.*FH-l"):
        start_from_landmarks(oblique(), few, LANDMARKS)
    with pytest.raises(SettingError, match=r"does not know nose"):
        start_from_landmarks(oblique(), {**few, "nose": (3.0, 4.0)}, LANDMARKS)
    line = {f"p{n}": torch.tensor([30.0 * n, -12.0 * n + 4, 7.0 * n]) for n in range(5)}
    places = {name: tuple(oblique().project(place.double()[None])[0].tolist()) for name, place in line.items()}
    with pytest.raises(GeometryError, match=r"collinear.*off that line"):
        start_from_landmarks(oblique(), places, line)
    with pytest.raises(SettingError, match="NaN"):
        start_from_landmarks(oblique(), {**seen, "FH-l": (math.nan, 3.0)}, LANDMARKS)
    with pytest.raises(SettingError, match="1 cameras and landmarks in 2 views"):
        start_from_landmarks(oblique(), [seen, seen], LANDMARKS)


def test_what_the_model_does_not_have_is_left_out():
    seen = {**marks(oblique()), "nose": (3.0, 4.0)}
    with pytest.warns(Notice, match="left out: nose"):
        start = start_from_landmarks(oblique(), seen, LANDMARKS)
    assert away(start.world_from_model)[0] < 1e-3
    four = {name: seen[name] for name in ("FH-l", "GSN-r", "MOF-l", "ASIS-r")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)  # with four another pose may look as good
        exact = start_from_landmarks(oblique(), four, LANDMARKS)
    assert exact.error_px is not None
    assert exact.error_px < 1e-3


def test_derivatives_meet_finite_differences():
    from diffrender.fit.pnp import _jacobian, _projected, _stepped

    other = c_arm((3.0, -8.0, 5.0), -38.0, 9.0, 980.0, 600.0, (0.8, 0.5), (380, 560))
    names = list(LANDMARKS)
    points = torch.stack([LANDMARKS[name] for name in names])
    pixels = torch.zeros(len(names), 2, dtype=torch.float64)
    seen = sighting([oblique(), other], [n % 2 for n in range(len(names))], points, pixels)
    jacobian = _jacobian(seen, POSE[None])[0]
    for n in range(6):
        step = torch.zeros(6, dtype=torch.float64)
        step[n] = 1e-5
        steps = torch.stack([step, -step])
        ahead, behind = _projected(seen, _stepped(seen, POSE.expand(2, 4, 4), steps))
        measured = (ahead - behind) / 2e-5
        # central differences: 1e-10 of the step squared, against hundreds of px a radian
        assert torch.allclose(jacobian[:, :, n], measured, rtol=1e-6, atol=1e-5)


def test_poses_behind_the_source_do_not_count():
    seen = marks(oblique())
    pixels = torch.tensor([seen[name] for name in LANDMARKS], dtype=torch.float64)
    poses = solve(sighting([oblique()], [0] * len(pixels), torch.stack(list(LANDMARKS.values())), pixels))
    camera = oblique()
    for pose, _, _ in poses:
        assert float((pose[:3, 3] - camera.source) @ camera.direction) > 0


def test_the_model_at_the_isocentre():
    camera = c_arm((0.0, 0.0, 0.0), 31.0, -12.0, 1100.0, 710.0)
    low = torch.tensor([-120.0, -55, -37])
    high = torch.tensor([118.0, 52, 83])
    start = start_at_isocentre(camera, LANDMARKS)
    assert torch.equal(start.world_from_model[:3, :3], torch.eye(3, dtype=torch.float64))
    assert torch.allclose(start.world_from_model[:3, 3], -((low + high) / 2).double(), atol=1e-6)
    aim = torch.tensor([40.0, -25.0, 130.0], dtype=torch.float64)
    two = [c_arm(aim, angle, 7.0, 1100.0, 710.0) for angle in (-5.0, 48.0)]
    start = start_at_isocentre(two, LANDMARKS)
    assert torch.allclose(start.world_from_model[:3, 3], aim - ((low + high) / 2).double(), atol=1e-6)
    given = start_at_isocentre(camera, LANDMARKS, isocentre=aim.tolist())
    assert torch.allclose(given.world_from_model, start.world_from_model, atol=1e-9)
    with pytest.raises(SettingError, match="HFS, HFP"):
        start_at_isocentre(camera, LANDMARKS, position="standing")


@pytest.mark.parametrize(
    ("position", "head", "face"),
    [
        ("HFP", (0, 0, 1), (0, -1, 0)),
        ("FFS", (0, 0, -1), (0, 1, 0)),
        ("FFP", (0, 0, -1), (0, -1, 0)),
        ("HFDR", (0, 0, 1), (1, 0, 0)),  # on the right side: the right hip down, the face to where a supine's right is
        ("HFDL", (0, 0, 1), (-1, 0, 0)),
        ("FFDR", (0, 0, -1), (-1, 0, 0)),
        ("FFDL", (0, 0, -1), (1, 0, 0)),
    ],
)
def test_how_the_patient_lies(position, head, face):
    camera = c_arm((0.0, 0.0, 0.0), 31.0, -12.0, 1100.0, 710.0)
    axes = start_at_isocentre(camera, LANDMARKS, position).world_from_model[:3, :3]
    assert axes[:, 2].tolist() == pytest.approx(head, abs=1e-12)
    assert axes[:, 1].tolist() == pytest.approx(face, abs=1e-12)
    assert float(axes.det()) == pytest.approx(1)


def test_a_start_is_written_and_read(tmp_path):
    coefficients = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)
    start = Start(POSE, coefficients, torch.tensor([0.01, -0.02, 0.03], dtype=torch.float64))
    again = read_start(write_start(start, tmp_path / "pose.json"))
    assert torch.equal(again.world_from_model, POSE)
    assert torch.equal(again.coefficients, coefficients)
    assert torch.equal(again.turn, start.turn)
    assert json.loads((tmp_path / "pose.json").read_text())["world"] == "RAS"
    plain = read_start(write_start(Start(POSE), tmp_path / "plain.json"))
    assert len(plain.coefficients) == 0
    assert not plain.turn.any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"world": "LPS"}, "RAS"),
        ({"format": 7}, "format"),
        ({"world_from_model": (torch.diag(torch.tensor([1.1, 1, 1, 1]))).tolist()}, "scaled or sheared"),
        ({"world_from_model": (torch.diag(torch.tensor([-1.0, 1, 1, 1]))).tolist()}, "reflected"),
        ({"world_from_model": [[1, 2], [3, 4]]}, "no rigid motion"),
        ({"world_from_model": "here"}, "not numbers"),
        ({"turn": [1, 2]}, "turn three"),
    ],
)
def test_a_start_that_is_none(tmp_path, change, words):
    path = write_start(Start(POSE), tmp_path / "pose.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(GeometryError, match=words):
        read_start(path)
    path.write_text("{")
    with pytest.raises(PathError, match="no JSON"):
        read_start(path)


def test_names_of_the_other_side():
    names = {"FH-l": "FH-r", "asis_R": "asis_L", "left hip": "right hip", "Right ASIS": "Left ASIS", "sacrum": "sacrum"}
    for name, other in names.items():
        assert other_side(name) == other
        assert other_side(other) == name


def test_it_is_a_part_of_the_public_surface():
    assert dr.fit.start_from_landmarks is start_from_landmarks
