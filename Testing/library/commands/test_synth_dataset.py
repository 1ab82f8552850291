"""`synth dataset` and `synth drr`, from the command line to the files."""

import json

import labelled_cts
import numpy as np
import pytest
from PIL import Image

from diffrender.__main__ import main
from diffrender.commands.synth.cases import cases_of
from diffrender.commands.synth.dataset import balance_of, shares_of
from diffrender.errors import PathError, SettingError
from diffrender.synth.manifest import read_manifest


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    return labelled_cts.write(tmp_path_factory.mktemp("ct"))


def typed(*words):
    return main([str(word) for word in words])


def test_a_data_set_is_made_and_made_no_second_time(ct, tmp_path, capsys, open_stdin):
    words = ["synth", "dataset", ct[0], "--labels", ct[1], "--names", ct[2], "--views", 3, "--size", "20x24"]
    assert typed(*words, "--seed", 4, "-o", tmp_path / "set", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["done"] for line in lines if line["type"] == "progress"][-1] == 3
    result = lines[-1]
    assert (result["images"], result["labels"]["hip_left"]) == (3, 3)
    entries = read_manifest(tmp_path / "set")
    assert {(entry["view"], entry["seed"]) for entry in entries} == {(0, 4), (1, 4), (2, 4)}
    with Image.open(tmp_path / "set" / entries[0]["image"]) as picture:
        assert picture.size == (24, 20)
    record = json.loads((tmp_path / "set" / "provenance.json").read_text())
    assert record["seed"] == 4
    assert len(record["inputs"]) == 3
    made = (tmp_path / "set" / entries[0]["image"]).stat().st_mtime_ns
    assert typed(*words, "--seed", 4, "-o", tmp_path / "set") == 0
    assert "3 radiographs of 1 CT" in capsys.readouterr().out
    assert (tmp_path / "set" / entries[0]["image"]).stat().st_mtime_ns == made


def test_options_reach_the_images(ct, tmp_path, capsys):
    words = ["synth", "dataset", ct[0], "--views", 1, "--size", 16, "--plain", "--intensity", "--spread", 0]
    assert typed(*words, "--image", "nifti", "-o", tmp_path / "a") == 0
    entry = read_manifest(tmp_path / "a")[0]
    assert entry["physics"] is None
    assert entry["values"] == "intensity"
    assert entry["image"].endswith(".nii.gz")
    assert entry["masks"] is None
    straight = np.array(entry["camera"]["world_from_camera"])[:3, :3]
    np.testing.assert_allclose(straight, [[-1, 0, 0], [0, 0, 1], [0, -1, 0]], atol=1e-12)  # no spread: frontal
    words = ["synth", "dataset", ct[0], "--views", 1, "--size", 16, "--kvp", 60, "--without", "scatter"]
    assert typed(*words, "--dose", 3, "-o", tmp_path / "b") == 0
    physics = read_manifest(tmp_path / "b")[0]["physics"]
    assert (physics["kvp"], physics["dose"], physics["scatter"]) == (60.0, 3.0, None)
    assert physics["grid"] is not None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--labels", "a.nii", "--labels", "b.nii"], "1 CTs and 2 labels"),
        (["--plain", "--kvp", "80"], "--plain is without physics"),
        (["--splits", "1,2"], "three shares"),
        (["--balance", "nodule"], "LABEL=SHARE"),
        (["--ray", "nobody"], "no address"),
        (["--views", "0"], "views is 1 or more"),
        (["--workers", "0"], "workers is the number"),
        (["--preset", "sideways"], "sideways"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(ct, tmp_path, capsys, words, said):
    assert typed("synth", "dataset", ct[0], *words, "-o", tmp_path / "none") in (1, 2)
    assert said in capsys.readouterr().err
    assert not (tmp_path / "none" / "manifest.jsonl").exists()


def test_a_table_of_cts_stands_for_them(ct, tmp_path):
    (tmp_path / "cts.csv").write_text("ct,labels,names,patient\n" + ",".join([*ct, "somebody"]) + "\n")
    (case,) = cases_of([str(tmp_path / "cts.csv")], [], [])
    assert (case.path, case.labels, case.names, case.patient) == (*ct, "somebody")
    with pytest.raises(SettingError, match="leave out --labels"):
        cases_of([str(tmp_path / "cts.csv")], [ct[1]], [])
    (tmp_path / "cts.csv").write_text("ct,label\na,b\n")
    with pytest.raises(PathError, match="columns ct, labels"):
        cases_of([str(tmp_path / "cts.csv")], [], [])
    (tmp_path / "cts.csv").write_text("ct,labels\n,b\n")
    with pytest.raises(PathError, match="line 2 names no CT"):
        cases_of([str(tmp_path / "cts.csv")], [], [])


def test_shares_as_typed():
    assert shares_of("0.5,0.25,0.25") == (0.5, 0.25, 0.25)
    assert balance_of(["lung nodule=50%", "a=b=0.25"]) == {"lung nodule": 0.5, "a=b": 0.25}
    assert balance_of([]) is None


def test_a_drr_has_the_physics_of_its_view(ct, tmp_path, capsys):
    words = ["synth", "drr", ct[0], "--labels", ct[1], "--names", ct[2], "--preset", "pelvis-ap", "--size", 24]
    assert typed(*words, "-o", tmp_path / "a.png", "--seed", 1) == 0
    assert typed(*words, "-o", tmp_path / "b.png", "--seed", 1) == 0
    assert typed(*words, "-o", tmp_path / "c.png", "--seed", 2) == 0
    assert typed(*words, "-o", tmp_path / "d.png", "--without", "noise", "--without", "focal-spot") == 0
    a, b, c = (Image.open(tmp_path / f"{n}.png").tobytes() for n in "abc")
    assert a == b != c
    settings = json.loads((tmp_path / "d.provenance.json").read_text())["settings"]["physics"]
    assert (settings["noise"], settings["focal_spot"], settings["kvp"]) == (False, 0.0, 77.0)
    with Image.open(tmp_path / "a.presented.png") as shown:
        greys = np.asarray(shown) / 65535
    assert greys[0, 0] < 0.1 < greys[12, 12]
    assert {"a.labels.npz", "a.preview.png", "a.camera.json"} <= {file.name for file in tmp_path.iterdir()}


def test_a_spectrum_takes_the_tubes_place(ct, tmp_path, capsys):
    (tmp_path / "beam.csv").write_text("energy,photons\n60,1\n80,1\n")
    words = ["synth", "drr", ct[0], "--size", 16, "--spectrum", tmp_path / "beam.csv"]
    assert typed(*words, "-o", tmp_path / "a.png") == 0
    assert typed(*words, "--kvp", 80, "-o", tmp_path / "b.png") == 2
    assert "takes the tube's place" in capsys.readouterr().err
    (tmp_path / "beam.csv").write_text("energy,photons\n60,-1\n80,1\n")
    assert typed(*words, "-o", tmp_path / "b.png") == 2
    assert "beam.csv" in capsys.readouterr().err
