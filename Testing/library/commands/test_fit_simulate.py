"""`diffrender fit simulate`: what lies in the folder, and that the frames are read back with their cameras."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import diffrender as dr
from diffrender.__main__ import main
from diffrender.commands.fit import evaluate as evaluate_command
from diffrender.commands.fit.evaluate import Preset, numbers_of
from diffrender.commands.fit.simulate import Thing, _next, angles_of, settings_of
from diffrender.errors import SettingError
from diffrender.fit.evaluation import PRESETS, RECORD
from diffrender.fit.parametric import default_pelvis
from diffrender.fit.simulation import SimulateSettings
from diffrender.io import read_mesh, write_mesh
from diffrender.mesh import Mesh


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames") / "two views"
    words = ["fit", "simulate", "parametric", "--views", "5/-3,55", "--size", "96", "--seed", "6", "-o", str(folder)]
    assert main(words) == 0
    return folder


def test_the_folder_holds_frames_cameras_and_the_truth(folder):
    names = {file.name for file in folder.iterdir()}
    assert {
        "0000.png",
        "0001.png",
        "0000.labels.npz",
        "cameras.json",
        "mesh.ply",
        "pose.json",
        "landmarks.json",
    } <= names
    with Image.open(folder / "0000.png") as picture:
        assert picture.mode == "I;16"
        assert picture.size == (96, 96)
    mesh, pose = read_mesh(folder / "mesh.ply"), json.loads((folder / "pose.json").read_text())
    model = default_pelvis()
    local = model.mesh(torch.tensor(pose["coefficients"])).vertices.double()
    matrix = torch.tensor(pose["world_from_model"], dtype=torch.float64)
    assert (local @ matrix[:3, :3].T + matrix[:3, 3] - mesh.vertices).abs().max() < 1e-3
    marks = json.loads((folder / "landmarks.json").read_text())["landmarks"]
    placed = model.landmarks_at["ASIS-l"].at(mesh.vertices)
    assert marks["ASIS-l"] == pytest.approx(placed.tolist(), abs=1e-3)
    assert np.linalg.norm(mesh.centre) < 1e-3  # at the isocentre


def test_frames_are_read_back_with_their_cameras(folder):
    frames = dr.read_radiographs(folder)
    assert [frame.kind for frame in frames] == ["intensity", "intensity"]
    camera = json.loads((folder / "cameras.json").read_text())[1]
    assert frames[1].camera.to_dict() == camera
    turn = torch.rad2deg(torch.arccos(frames[0].camera.direction @ frames[1].camera.direction))
    assert turn == pytest.approx(50.1, abs=0.3)
    assert frames[0].camera.orientation()["right"].startswith("L")


def test_three_meshes_or_one_of_three_pieces_are_a_pelvis(folder, tmp_path, capsys):
    whole = [str(folder / "mesh.ply"), "--size", "48", "--seed", "6", "--without", "noise"]
    assert main(["fit", "simulate", *whole, "-o", str(tmp_path / "one")]) == 0
    parts = []
    mesh, first = read_mesh(folder / "mesh.ply"), 0
    for name, count in default_pelvis().parts:
        own = mesh.faces[((mesh.faces >= first) & (mesh.faces < first + count)).all(1)] - first
        parts.append(str(write_mesh(dr.Mesh(mesh.vertices[first : first + count], own), tmp_path / f"{name}.ply")))
        first += count
    assert main(["fit", "simulate", *parts, *whole[1:], "-o", str(tmp_path / "three")]) == 0
    one, three = (dr.read_radiographs(tmp_path / name / "0000.png")[0].pixels for name in ("one", "three"))
    torch.testing.assert_close(one, three, rtol=1e-3, atol=1e-5)
    assert not (tmp_path / "one" / "pose.json").exists()
    assert main(["fit", "simulate", parts[0], "-o", str(tmp_path / "no")]) == 2
    assert "left hip, right hip and sacrum" in capsys.readouterr().err


def test_views_and_things_are_read_or_refused():
    assert angles_of("0, 50/10,-3.5/-2") == [(0, 0), (50, 10), (-3.5, -2)]
    for text in ("", "a", "1/2/3", "5,"):
        with pytest.raises(SettingError, match="--views"):
            angles_of(text)
    settings = settings_of([Thing.gas, Thing.noise, Thing.scatter], [Thing.text])
    assert (settings.gas, settings.photons, settings.scatter, settings.text) == (False, None, 0.0, True)
    assert settings_of([], []) == SimulateSettings()
    with pytest.raises(SettingError, match="gas is both"):
        settings_of([Thing.gas], [Thing.gas])


def test_evaluates_choices_are_the_librarys():
    assert [one.value for one in Preset] == list(PRESETS)
    assert evaluate_command.RECORD == RECORD
    assert numbers_of("4,17") == (4, 17)
    with pytest.raises(SettingError, match="--subjects"):
        numbers_of("4,x")


def test_evaluate_asks_for_an_atlas(tmp_path, capsys):
    assert main(["fit", "evaluate", str(tmp_path / "none"), "-o", str(tmp_path / "out")]) == 2
    assert "none" in capsys.readouterr().err


def test_meshes_in_metres_or_open_are_said(typed, folder):
    mesh = read_mesh(folder / "mesh.ply")
    write_mesh(Mesh(mesh.vertices / 1000, mesh.faces), "metres.ply")
    write_mesh(Mesh(mesh.vertices, mesh.faces[:-40]), "open.ply")
    write_mesh(Mesh(mesh.vertices, mesh.faces[:30]), "one.ply")
    ended = typed("fit", "simulate", "metres.ply", "--size", 24, "--without", "torso", "-o", "a")
    assert ended.code == 0, ended.err
    assert "is taken for metres, and multiplied by 1000" in ended.err
    assert (read_mesh("a/mesh.ply").vertices - mesh.vertices).abs().max() < 0.1  # float32 written in metres
    ended = typed("fit", "simulate", "open.ply", "--size", 24, "--without", "torso", "-o", "b")
    assert ended.code == 0, ended.err
    assert re.search(r"Not closed: sacrum \(\d+ open edges\)\.", ended.err)
    ended = typed("fit", "simulate", "one.ply", "-o", "c")
    assert (ended.code, "one.ply consists of" in ended.err) == (2, True)


def test_what_can_be_typed_next_is_the_right_command():
    there = Path("my frames")
    assert _next("parametric", "model", there) == 'diffrender fit pelvis "my frames" -o fit'
    assert _next("p.h5", "model", there) == 'diffrender fit pelvis "my frames" --model "p.h5" -o fit'
    assert _next("m.ply", "meshes", there) == 'diffrender fit pelvis "my frames" --model F.h5 -o fit'
    assert _next("CT.nii.gz", "ct", there) == 'diffrender fit ct "my frames" --ct "CT.nii.gz" -o fit'
