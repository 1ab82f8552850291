"""`diffrender fit pelvis`: from frames to a folder, where it starts, and what is refused."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import diffrender as dr
from diffrender.__main__ import main
from diffrender.commands.fit import pelvis as command
from diffrender.commands.fit.shared import read_marks, sizes_of
from diffrender.errors import PathError, SettingError
from diffrender.fit.parametric import default_pelvis
from diffrender.fit.settings import OPTIMISERS, SIMILARITIES
from diffrender.io import read_mesh
from diffrender.io.images import write_radiograph

FILES = {"mesh.ply", "pose.json", "landmarks.json", "certainty.json", "report.html", "provenance.json"}
QUICK = ("--size", 48, "--steps", 8, "--modes", 3)
SMALL = ("--size", 32, "--steps", 2, "--modes", 1, "--box", "0,0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two frames of the mean shape, seen obliquely, in a folder with a space and an umlaut."""
    folder = tmp_path_factory.mktemp("frames") / "zwei Bänder"
    words = ["--views", "8/-3,55", "--size", "64", "--seed", "6", "--mean", "--without", "gas", "-o", str(folder)]
    assert main(["fit", "simulate", "parametric", *words]) == 0
    return folder


@pytest.fixture(scope="module")
def marks(folder) -> list[dict[str, list[float]]]:
    """Where the true landmarks are seen in each frame."""
    places = json.loads((folder / "landmarks.json").read_text())["landmarks"]
    points = torch.tensor(list(places.values()), dtype=torch.float64)
    cameras = [frame.camera for frame in dr.read_radiographs(folder)]
    return [dict(zip(places, camera.project(points).tolist(), strict=True)) for camera in cameras]


def error(folder: Path, fitted: str) -> float:
    """Mean distance of the landmarks from the truth [mm]."""
    true, found = (json.loads((where / "landmarks.json").read_text())["landmarks"] for where in (folder, Path(fitted)))
    return float(np.mean([np.linalg.norm(np.subtract(found[name], place)) for name, place in true.items()]))


def test_from_frames_to_a_folder(typed, open_stdin, folder):
    frames = (folder / "0000.png", folder / "0001.png")
    ended = typed("fit", "pelvis", *frames, "--camera", folder / "cameras.json", *QUICK, "--json", "-o", "Fit ü")
    assert ended.code == 0, ended.err
    result = ended.lines[-1]
    assert result["type"] == "result"
    assert {Path(file).name for file in result["files"]} == FILES == {file.name for file in Path("Fit ü").iterdir()}
    assert result["starts"] == ["The model's middle where the beams' axes meet, the patient lying HFS."]
    assert any("small parametric pelvis" in line["message"] for line in ended.lines if line["type"] == "notice")
    assert [line for line in ended.lines if line["type"] == "progress"][-1]["what"] == "Fitting"
    assert error(folder, "Fit ü") < 4  # pixels of 4.7 mm at the detector, and two views

    model, pose = default_pelvis(), json.loads(Path("Fit ü/pose.json").read_text())
    mesh, matrix = read_mesh("Fit ü/mesh.ply"), torch.tensor(pose["world_from_model"])
    turn = torch.tensor(pose["turn"]) if "turn" in pose else None
    placed = model.points(torch.tensor(pose["coefficients"]), turn) @ matrix[:3, :3].T + matrix[:3, 3]
    assert (placed - mesh.vertices).abs().max() < 1e-3  # the pose and the mesh are one and the same, float32
    certain = json.loads(Path("Fit ü/certainty.json").read_text())
    assert certain["depth_mm"] == pytest.approx(result["depth_deviation"])
    assert len(certain["vertices_mm"]) == len(model.mean)
    assert certain["landmarks_mm"].keys() == model.landmarks_at.keys()
    assert np.linalg.eigvalsh(certain["covariance"]).min() > 0
    page = Path("Fit ü/report.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64") == 11  # five of each frame, and the certainty
    assert "Frame 2 of 2" in page
    assert result["starts"][0].replace("'", "&#x27;") in page
    assert f"{certain['depth_mm']:.1f} mm in depth" in page
    record = json.loads(Path("Fit ü/provenance.json").read_text())
    assert (record["settings"]["start_translation"], record["settings"]["start_rotation"]) == (30, 10)
    assert record["settings"]["sizes"] == [48]
    assert record["settings"]["starts"] == result["starts"]
    assert [Path(one["path"]).name for one in record["inputs"]] == ["0000.png", "0001.png", "cameras.json"]


def test_a_pose_is_a_start(typed, folder):
    held = ("--freeze", "shape", "--freeze", "turn", "--size", 32, "--steps", 1)
    ended = typed("fit", "pelvis", folder, "--start", folder / "pose.json", *held, "-o", "fit")
    assert ended.code == 0, ended.err
    assert f"Began: From {folder / 'pose.json'}." in ended.out
    assert "same camera" not in ended.err
    assert error(folder, "fit") < 3  # it began at the truth
    pose = json.loads(Path("fit/pose.json").read_text())
    assert pose["coefficients"] == [0.0] * len(default_pelvis().modes)
    assert pose["world_from_model"] != json.loads((folder / "pose.json").read_text())["world_from_model"]
    record = json.loads(Path("fit/provenance.json").read_text())
    assert (record["settings"]["start_translation"], record["settings"]["start_rotation"]) == (10, 5)


def test_marks_are_a_start_and_swapped_ones_are_not(typed, folder, marks):
    names = ("FH-l", "FH-r", "SPS-l", "SPS-r", "ASIS-l", "IOF-r", "IOF-l", "ASIS-r")
    mine = {name: marks[0][name] for name in names}
    Path("marks.json").write_text(json.dumps(mine))
    words = ("fit", "pelvis", folder / "0000.png", *SMALL, "--landmarks")
    ended = typed(*words, "marks.json", "-o", "fit")
    assert ended.code == 0, ended.err
    assert "Began: From 8 landmarks in 1 view" in ended.out
    assert error(folder, "fit") < 12  # depth from one view, at 32 pixels
    sides = {"l": "r", "r": "l"}
    swapped = {name[:-1] + sides[name[-1]]: place for name, place in mine.items()}
    refused = {"swapped.json": swapped, "two.json": marks, "few.json": {"FH-l": mine["FH-l"]}}
    for name, data in refused.items():
        Path(name).write_text(json.dumps(data))
    for name, found in (
        ("swapped.json", "left and right landmarks are swapped"),
        ("two.json", "marks landmarks in 2 frames, and 1 is fitted"),
        ("few.json", "needs at least 4 landmarks, and 1 of those"),
        (folder / "landmarks.json", "Places in 3D are no marks"),
        ("none.json", "none.json cannot be read"),
    ):
        ended = typed(*words, name, "-o", "no")
        assert (ended.code, Path("no").exists()) == (2, False)
        assert found in ended.err
    ended = typed(*words, "marks.json", "--start", folder / "pose.json")
    assert (ended.code, "give one of them" in ended.err) == (2, True)


def test_a_dicom_frame_and_one_camera_for_two(typed, folder):
    frame = dr.read_radiographs(folder / "0001.png")[0]
    write_radiograph(frame, "a.dcm")
    ended = typed("fit", "pelvis", "a.dcm", "a.dcm", *SMALL, "-o", "two")
    assert ended.code == 0, ended.err
    assert "All 2 frames have the same camera" in ended.err
    assert "Frame 2 of 2" in Path("two/report.html").read_text(encoding="utf-8")


def test_bad_input_ends_with_2_and_leaves_nothing(typed, folder):
    pixels = np.asarray(Image.open(folder / "0000.png"))
    Image.fromarray(pixels).save("bare.png")  # without what our writer put into it
    Image.fromarray(np.full_like(pixels, 900)).save("constant.png")
    cameras = json.loads((folder / "cameras.json").read_text())
    Path("three.json").write_text(json.dumps([*cameras, cameras[0]]))
    Path("one.json").write_text(json.dumps(cameras[0]))
    pose = json.loads((folder / "pose.json").read_text())
    pose["world_from_model"][0][3] += 700
    Path("far.json").write_text(json.dumps(pose))
    pose["world_from_model"][0][0] *= -1
    Path("mirrored.json").write_text(json.dumps(pose))
    pose["world_from_model"][0][0] = math.nan
    Path("nan.json").write_text(json.dumps(pose))
    Path("same.json").write_text(json.dumps({name: [31, 30] for name in ("FH-l", "FH-r", "ASIS-l", "ASIS-r")}))
    Path("text.h5").write_text("no model")
    both = (folder / "0000.png", folder / "0001.png")
    for words, found in (
        (("bare.png",), "does not say how it was taken"),
        (("constant.png", "--camera", "one.json"), "is constant"),
        ((*both, "--camera", "three.json"), "3 geometries were given"),
        ((folder, "--start", "far.json"), "0 % of the model project into the frame"),
        ((folder, "--start", "mirrored.json"), "its axes are reflected"),
        ((folder, "--model", "text.h5"), "text.h5 is no shape model"),
        ((folder, "--model", folder / "mesh.ply"), "mesh.ply is no shape model"),
        ((folder, "--model", "none.h5"), "none.h5 does not exist"),
        ((folder, "none.png"), "none.png does not exist"),
        ((folder, "--box", "10"), "--box is two numbers"),
        ((folder, "--per-view", "a,b"), "--per-view is two numbers"),
        ((folder, "--depth", "far"), "--depth is a number [mm] or none"),
        ((folder, "--freeze", "bones"), "--freeze bones is not offered"),
        ((folder, *(word for one in ("shape", "pose", "turn") for word in ("--freeze", one))), "nothing is left to be"),
        ((folder, "--steps", "0"), "steps is a whole number, 1 or more"),
        ((folder, "--start", "nan.json"), "scaled or sheared, or no numbers"),
        ((folder / "0000.png", "--landmarks", "same.json"), "marked at one place"),
        ((folder, "--size", "9"), "too small to see a bone"),
        ((folder, "--modes", "-1"), "modes is a whole number"),
        ((folder, "--camera", ""), "--camera is an empty text"),
    ):
        ended = typed("fit", "pelvis", *words, "-o", "no")
        assert ended.code == 2, (words, ended.err)
        assert found in ended.err
        assert not Path("no").exists()


def test_a_stopped_fit_writes_nothing_and_says_so(typed, folder):
    """With --json the end of stdin is the wish to stop."""
    ended = typed("fit", "pelvis", folder, "--size", 64, "--json", "-o", "no")
    assert ended.code == 130
    assert ended.lines[-1]["kind"] == "Stopped"
    assert not Path("no").exists()


def test_what_is_typed_reaches_the_fit(typed, folder, monkeypatch):
    told = {}

    def fitted(console, radiographs, model, settings, starts):
        told["settings"] = settings
        raise SettingError("seen")

    monkeypatch.setattr(command, "_fitted", fitted)
    words = ("--per-view", "3,2", "--depth", "none", "--modes", 4, "--steps", 7, "--seed", 5, "--size", 64)
    assert typed("fit", "pelvis", folder, *words, "--freeze", "turn", "-o", "no").code == 2
    settings = told["settings"]
    assert (settings.view_translation, settings.view_rotation) == (3, 2)
    assert (settings.depth, settings.modes, settings.steps, settings.seed) == (math.inf, 4, 7, 5)
    assert (settings.shape, settings.pose, settings.turn) == (True, True, False)
    assert (settings.start_translation, settings.start_rotation, settings.sizes) == (30, 10, (32, 64))
    words = ("--box", "12,4", "--depth", "6.5", "--similarity", "gradient-difference", "--optimiser", "wide")
    assert typed("fit", "pelvis", folder, *words, "--freeze", "shape", "-o", "no").code == 2
    settings = told["settings"]
    assert (settings.start_translation, settings.start_rotation, settings.depth) == (12, 4, 6.5)
    assert (settings.similarity, settings.optimiser) == ("gradient-difference", "wide")
    assert (settings.shape, settings.pose, settings.turn) == (False, True, True)
    assert typed("fit", "pelvis", folder, "--start", folder / "pose.json", "--freeze", "pose", "-o", "no").code == 2
    settings = told["settings"]
    assert (settings.start_translation, settings.start_rotation) == (10, 5)
    assert (settings.shape, settings.pose, settings.turn) == (True, False, True)


def test_choices_are_the_librarys(tmp_path):
    assert {one.value for one in command.Similarity} == set(SIMILARITIES)
    assert {one.value for one in command.Optimiser} == set(OPTIMISERS)
    assert sizes_of(128) == (32, 64, 128)
    assert sizes_of(100) == (50, 100)
    with pytest.raises(SettingError, match="--size 15"):
        sizes_of(15)
    (tmp_path / "a.json").write_text('{"FH-l": [1, 2.5]}')
    assert read_marks(str(tmp_path / "a.json"), 1) == [{"FH-l": (1.0, 2.5)}]
    (tmp_path / "a.json").write_text("[3]")
    with pytest.raises(PathError, match="holds no marks"):
        read_marks(str(tmp_path / "a.json"), 1)
