"""`diffrender dvr views` and `renderers` with real files: the folder they write, what they say, what they refuse."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import diffrender as dr
from diffrender.commands.dvr.shared import Name, Preset, colour_of, role_of, spread
from diffrender.dvr.renderers import RENDERERS
from diffrender.dvr.transfer import PRESETS, TransferFunction, transfer_preset, write_transfer
from diffrender.dvr.view import render_views
from diffrender.dvr.views import read_views
from diffrender.errors import SettingError

# Of voxels as large as these, ct-bone would show the soft edge around the bone's voxels, not the voxels themselves.
THIN = TransferFunction(((-1024.0, 0.5, 0.4, 0.3), (3071.0, 1.0, 1.0, 1.0)), ((600.0, 0.0), (700.0, 0.02)), name="thin")
FEW = ("--n", 3, "--size", "30x40")


def test_choices_are_those_of_the_library():
    assert [one.value for one in Preset] == list(PRESETS)
    assert [one.value for one in Name] == list(RENDERERS)


def test_a_ct_gives_a_folder_of_views(typed, patient, open_stdin):
    ended = typed("dvr", "views", patient.ct, *FEW, "-o", "Ansichten 1", "--json")
    assert (ended.code, ended.err) == (0, "")
    assert {line["type"] for line in ended.lines[:-1]} <= {"progress"}
    result = ended.lines[-1]
    here = {str(file) for file in Path("Ansichten 1").rglob("*")}
    assert set(result["files"]) == here
    assert {Path(file).name for file in here} == {
        "0000.png", "0001.png", "0002.png", "cameras.json", "transfer.json", "volume.json", "provenance.json",
    }  # fmt: skip
    volume = dr.read_volume(patient.ct)
    cameras = dr.orbit(volume, 3, (30, 40), seed=0)
    wanted = render_views(volume, transfer_preset("ct-bone"), cameras)
    for n, (view, other) in enumerate(zip(read_views("Ansichten 1").views, wanted.views, strict=True)):
        assert torch.equal(view.camera.world_from_camera, other.camera.world_from_camera)
        assert (view.image - other.image).abs().max() < 1.5 / 255  # 8 bits, of colour and of alpha
        assert view.image[3].max() > 0.2  # the bone is seen
        assert result["views"][n]["orientation"] == view.camera.orientation()
    assert read_views("Ansichten 1").open_volume().shape == volume.shape  # the CT is found again, and is the same
    record = json.loads(Path("Ansichten 1/provenance.json").read_text(encoding="utf-8"))
    assert record["seed"] == 0
    assert record["settings"]["transfer"]["name"] == "ct-bone"
    assert [Path(entry["path"]).name for entry in record["inputs"]] == ["ct.nii.gz"]


def test_labels_are_painted_as_a_person_would(typed, patient):
    write_transfer("thin.json", THIN)
    labels = ("--labels", patient.labels, "--names", patient.names, "--tf", "thin.json")
    roles = ("--paint-from-labels", "BONE=#3366cc:recolour:0.5", "--painted", 2)
    ended = typed("dvr", "views", patient.ct, *labels, "--n", 4, "--size", 64, *roles, "-o", "v")
    assert ended.code == 0, ended.err
    assert re.search(r"Painted from labels on 2 of them: bone \(\d+ px\)\.", ended.out)
    assert 'diffrender dvr train "v"' in ended.out
    views = read_views("v")
    assert [n for n, view in enumerate(views.views) if view.painted] == [1, 3]
    role = views.roles[7]
    assert (role.name, role.role, role.strength) == ("bone", "recolour", 0.5)
    assert role.colour == pytest.approx((0.2, 0.4, 0.8))
    view = views.views[1]
    assert view.paint is not None
    painted = view.paint == 7
    assert view.image[3][painted].mean() > 5 * view.image[3][~painted].mean()  # the bone is all that is shown


def test_a_label_that_nobody_sees_is_said_and_one_alone_is_refused(typed, patient):
    write_transfer("thin.json", THIN)
    labels = ("--labels", patient.labels, "--names", patient.names, "--n", 2, "--size", 64, "--tf", "thin.json")
    both = ("--paint-from-labels", "bone=red", "--paint-from-labels", "3=hide")
    ended = typed("dvr", "views", patient.ct, *labels, *both, "-o", "v")
    assert ended.code == 0
    assert "Note: Nothing is painted as liver: the transfer function does not show it" in ended.err
    ended = typed("dvr", "views", patient.ct, *labels, "--paint-from-labels", "liver=hide", "-o", "w")
    assert ended.code == 2
    assert "Nothing is painted as liver" in ended.err
    assert not Path("w").exists()


def test_a_transfer_function_cameras_and_light_of_ones_own(typed, patient):
    volume = dr.read_volume(patient.ct)
    cameras = dr.orbit(volume, 5, (20, 24), seed=3)[1:3]
    Path("c.json").write_text(json.dumps([camera.to_dict() for camera in cameras]), encoding="utf-8")
    write_transfer("größe.json", transfer_preset("ct-skin"))
    given = ("--tf", "größe.json", "--camera", "c.json", "--sampling-rate", 2)
    assert typed("dvr", "views", patient.ct, *given, "-o", "plain").code == 0
    assert typed("dvr", "views", patient.ct, *given, "--shaded", "-o", "lit").code == 0
    plain, lit = read_views("plain"), read_views("lit")
    assert plain.transfer is not None
    assert plain.transfer.colours == transfer_preset("ct-skin").colours
    assert [view.camera.image_size for view in lit.views] == [(20, 24)] * 2
    assert torch.equal(lit.views[1].camera.world_from_camera, cameras[1].world_from_camera)
    darker = [one.image[:3].sum() < 0.95 * two.image[:3].sum() for one, two in zip(lit.views, plain.views, strict=True)]
    assert all(darker)  # some of it lies in shadow


def test_paint_is_never_written_over(typed, patient):
    assert typed("dvr", "views", patient.ct, *FEW, "-o", "v").code == 0
    Path("v/paint").mkdir()
    Image.fromarray(np.ones((30, 40), np.uint8)).save("v/paint/0001.png")
    before = {file: file.read_bytes() for file in Path("v").rglob("*.*")}
    ended = typed("dvr", "views", patient.ct, *FEW, "--preset", "ct-skin", "-o", "v")
    assert ended.code == 2
    assert "v holds painted views" in ended.err
    assert "Reading" not in ended.err  # said before the work
    assert {file: file.read_bytes() for file in Path("v").rglob("*.*")} == before


REFUSED = {
    "no file": (["none.nii.gz"], r"none\.nii\.gz does not exist"),
    "preset": (["CT", "--preset", "bone"], "'--preset'.*'bone' is not one of 'ct-bone'"),
    "two functions": (["CT", "--preset", "ct-skin", "--tf", "a.json"], "two transfer functions"),
    "no such function": (["CT", "--tf", "a.json"], r"a\.json is no file .*ct-bone, ct-vessels"),
    "no function": (["CT", "--tf", "other.json"], r"other\.json"),
    "no views": (["CT", "--n", "0"], "--n is a number of views from 1 to"),
    "too many views": (["CT", "--n", "100000"], "--n is a number of views from 1 to"),
    "size": (["CT", "--size", "-3"], "--size is a number of pixels"),
    "samples": (["CT", "--sampling-rate", "0"], "--sampling-rate is a number of samples a voxel"),
    "NaN samples": (["CT", "--sampling-rate", "nan"], "--sampling-rate is a number of samples a voxel"),
    "n and camera": (["CT", "--n", "3", "--camera", "c.json"], "leave out --n"),
    "seed and camera": (["CT", "--seed", "3", "--camera", "c.json"], "leave out --seed"),
    "no camera": (["CT", "--camera", "empty.json"], r"empty\.json"),
    "names alone": (["CT", "--names", "n.csv"], "--names n.csv names labels"),
    "paint without labels": (["CT", "--paint-from-labels", "1=red"], "give those too, with --labels"),
    "painted alone": (["CT", "--painted", "2"], "--painted says on how many"),
    "more painted than views": (["CT", "--labels", "LABELS", "--paint-from-labels", "7=red", "--painted", "9", *FEW],
                                "--painted is a number of views from 1 to 3, not 9"),
    "no such label": (["CT", "--labels", "LABELS", "--paint-from-labels", "aorta=red", *FEW],
                      r"no label 'aorta'; it has 3 \(label 3\), 7 \(label 7\)"),
    "twice": (["CT", "--labels", "LABELS", "--paint-from-labels", "7=red", "--paint-from-labels", "label*=hide", *FEW],
              r"Label 7 \(label 7\) is to be painted in two ways"),
    "no equals": (["CT", "--labels", "LABELS", "--paint-from-labels", "7:red"], "'7:red' cannot be read"),
    "no colour": (["CT", "--labels", "LABELS", "--paint-from-labels", "7=reddish"], "'reddish' is no colour"),
    "no role": (["CT", "--labels", "LABELS", "--paint-from-labels", "7=red:paint"], "role is one of recolour, hide"),
    "strength": (["CT", "--labels", "LABELS", "--paint-from-labels", "7=red:recolour:2"], "between 0 and 1"),
    "no strength": (["CT", "--labels", "LABELS", "--paint-from-labels", "7=red:recolour:much"], "not 'much'"),
    "recolour without": (["CT", "--labels", "LABELS", "--paint-from-labels", "7=recolour"], "has no colour"),
    "empty out": (["CT", "-o", ""], "--out is an empty text"),
    "a file": (["CT", "-o", "file"], "file is a file, no folder"),
    "over its input": (["CT", "--camera", "v/cameras.json", "-o", "v"], "would be written over"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_with_one_text_and_nothing_written(typed, patient, case, open_stdin):
    Path("empty.json").write_text("[]", encoding="utf-8")
    Path("other.json").write_text('{"format": 7}', encoding="utf-8")
    Path("file").write_text("x", encoding="utf-8")
    Path("v").mkdir()
    camera = dr.c_arm([0, 0, 0], image_size=(20, 30)).to_dict()
    Path("v/cameras.json").write_text(json.dumps([camera]), encoding="utf-8")
    before = {file: file.is_dir() or file.read_bytes() for file in Path().rglob("*")}
    words, message = REFUSED[case]
    words = [{"CT": patient.ct, "LABELS": patient.labels}.get(word, word) for word in words]
    ended = typed("dvr", "views", *words)
    assert ended.code == 2
    assert ended.out == ""
    error = [line for line in ended.err.splitlines() if not line.startswith(("Reading", "Drawing", "Painting"))]
    assert len(error) == 1
    assert re.search(message, error[0]), error[0]
    assert "fault" not in error[0]
    assert {file: file.is_dir() or file.read_bytes() for file in Path().rglob("*")} == before
    last = typed("dvr", "views", *words, "--json").lines[-1]
    assert (last["type"], last["exit_code"]) == ("error", 2)


def test_cancel_on_stdin_leaves_nothing(started, ended, patient, tmp_path):
    process = started("dvr", "views", patient.ct, "--n", 400, "-o", "v", "--json", stdin=subprocess.PIPE)
    while json.loads(process.stdout.readline())["what"] != "Drawing views":
        pass
    end = ended(process, "cancel\n")
    assert end.code == 130
    assert end.lines[-1]["kind"] == "Stopped"
    assert not (tmp_path / "v").exists()


def test_colours_and_roles_are_read():
    assert colour_of("#ff8000", "--x") == pytest.approx((1, 128 / 255, 0))
    assert colour_of("Lime", "--x") == (0, 1, 0)
    label, role = role_of("a=b=#010203:keep")
    assert (label, role.role, role.strength) == ("a=b", "keep", 1.0)
    assert role_of("x=ignore")[1].colour is None
    with pytest.raises(SettingError, match="cannot be read"):
        role_of("=red")


@pytest.mark.parametrize(("count", "total"), [(1, 1), (1, 16), (4, 16), (3, 7), (7, 7)])
def test_painted_views_are_spread(count, total):
    chosen = spread(count, total)
    assert len(set(chosen)) == count
    assert 0 <= min(chosen) <= max(chosen) < total
    assert max(np.diff([-1, *chosen, total])) <= 1.5 * total / count


def test_renderers_are_listed(typed, monkeypatch):
    few = {name: RENDERERS[name] for name in ("lookup", "unet-s")}
    monkeypatch.setattr("diffrender.dvr.renderers.RENDERERS", few)
    ended = typed("dvr", "renderers")
    assert ended.code == 0
    assert re.search(r"lookup +1,024 +A transfer function", ended.out)
    entries = typed("dvr", "renderers", "--json").lines[-1]["renderers"]
    assert [entry["name"] for entry in entries] == ["lookup", "unet-s"]
    assert entries[0]["parameters"] == 1024
    assert entries[1]["bakes"] == "voxels"


def test_views_of_a_moved_folder_find_their_ct(typed, patient):
    shutil.copy(patient.ct, "ct.nii.gz")
    assert typed("dvr", "views", "ct.nii.gz", *FEW).code == 0
    assert read_views("ct-views").open_volume().shape == (18, 22, 26)
