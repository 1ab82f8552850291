"""`diffrender radiograph` with real files: what it writes, what it says, what it refuses."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch
from PIL import Image

import diffrender as dr
from diffrender.camera import read_cameras
from diffrender.commands.radiograph import parse_size, stem_of
from diffrender.errors import SettingError

PLAIN = ("--backend", "torch", "--size", "40x56")  # no kernel to compile, few pixels: the words are tested here


def test_a_ct_gives_a_picture_and_what_lies_beside_it(typed, patient):
    ended = typed("radiograph", patient.ct, "--labels", patient.labels, "--names", patient.names, "--json", *PLAIN)
    assert ended.code == 0
    assert ended.err == ""
    assert [line["type"] for line in ended.lines][-1] == "result"
    assert all(line["type"] == "progress" for line in ended.lines[:-1])
    result = ended.lines[-1]
    here = {file.name for file in Path.cwd().iterdir()}
    assert {Path(file).name for file in result["files"]} == here
    assert {"ct-frontal.png", "ct-frontal.labels.npz", "ct-frontal.camera.json", "ct-frontal.preview.png"} < here
    camera = read_cameras("ct-frontal.camera.json")[0]
    wanted = dr.preset("frontal", dr.read_volume(patient.ct), image_size=(40, 56))
    assert torch.equal(camera.world_from_camera, wanted.world_from_camera)
    assert camera.image_size == (40, 56)
    with Image.open("ct-frontal.png") as image:
        assert image.size == (56, 40)
        greys = np.asarray(image)
    bone = {label["name"]: label for label in result["pictures"][0]["labels"]}["bone"]
    assert bone["id"] == 7
    assert bone["pixels"] > 0
    # The bone lies up and in the patient's left, that is in the image's right upper quarter, and is the brightest.
    row, column = np.unravel_index(greys.argmax(), greys.shape)
    assert row < 20
    assert column > 28
    with np.load("ct-frontal.labels.npz") as file:
        mask = file["masks"][file["ids"].tolist().index(7)]
    assert mask[row, column]
    assert mask.sum() == bone["pixels"]


def test_it_says_what_the_picture_shows_and_which_files_it_wrote(typed, patient):
    ended = typed(
        "radiograph", patient.ct, "--labels", patient.labels, "--names", patient.names, "-o", "a.nii.gz", *PLAIN
    )
    assert ended.code == 0
    assert (
        "The patient's right is on the image's left, left on its right, head on top; seen from the detector."
        in ended.out
    )
    assert "Labels seen, 2 of 2: liver, bone." in ended.out
    assert "log-attenuation (bone bright)" in ended.out
    for name in ("a.nii.gz", "a.labels.npz", "a.camera.json", "a.preview.png"):
        assert Path(name).is_file()
        assert f"\n  {name}\n" in ended.out
    provenance = next(Path().glob("*.provenance.json"))
    record = json.loads(provenance.read_text(encoding="utf-8"))
    assert record["command"][:3] == ["diffrender", "radiograph", str(patient.ct)]
    assert [Path(entry["path"]).name for entry in record["inputs"]] == ["ct.nii.gz", "labels.nrrd", "names.csv"]
    assert record["settings"]["backend"] == "torch"
    assert "Casting rays" in ended.err  # where there is no terminal, progress is lines on stderr
    assert "\x1b" not in ended.err + ended.out


def test_a_label_beside_the_detector_is_told(typed, patient):
    ended = typed(
        "radiograph", patient.ct, "--labels", patient.labels, "--pixel-size", 1.5, "--size", 40, "--backend", "torch"
    )
    assert "Labels seen, 1 of 2: label 3." in ended.out  # without a table they are called by number
    assert "Labels not in the picture: label 7." in ended.out


def test_intensity_is_bone_dark_and_soft_masks_are_between(typed, patient):
    typed("radiograph", patient.ct, "--labels", patient.labels, "-o", "p.tif", *PLAIN)
    other = ("--kind", "intensity", "--masks", "soft", "--threshold", 60)
    ended = typed("radiograph", patient.ct, "--labels", patient.labels, "-o", "i.tif", *other, *PLAIN)
    assert "intensity (bone dark)" in ended.out
    p, i = (np.asarray(Image.open(name)) for name in ("p.tif", "i.tif"))
    np.testing.assert_allclose(i, np.exp(-p), rtol=1e-5)  # Beer and Lambert, in float32
    with np.load("i.labels.npz") as file:
        assert ((file["masks"] > 0) & (file["masks"] < 1)).any()


def test_a_folder_takes_the_picture_under_its_plain_name(typed, patient):
    assert typed("radiograph", patient.ct, "-o", "out/", *PLAIN).code == 0
    assert {f.name for f in Path("out").iterdir()} == {
        "radiograph.png",
        "radiograph.camera.json",
        "radiograph.preview.png",
        "provenance.json",
    }


def test_a_list_of_cameras_gives_a_folder_of_numbered_pictures(typed, patient):
    volume = dr.read_volume(patient.ct)
    cameras = [dr.c_arm(volume, primary, image_size=(20, 30), pixel_size=16.0) for primary in (0, 35, -80)]
    Path("c.json").write_text(json.dumps([camera.to_dict() for camera in cameras]), encoding="utf-8")
    ended = typed("radiograph", patient.ct, "--camera", "c.json", "-o", "views", "--backend", "torch")
    assert ended.code == 0
    pictures = [np.asarray(Image.open(f"views/{n:04d}.png")) for n in range(3)]
    assert all(picture.shape == (20, 30) for picture in pictures)
    assert not np.array_equal(pictures[0], pictures[1])
    assert read_cameras("views/0002.camera.json")[0].to_dict() == cameras[2].to_dict()
    assert Path("views/provenance.json").is_file()
    one_file = typed("radiograph", patient.ct, "--camera", "c.json", "-o", "one.png")
    assert one_file.code == 2
    assert "one.png is one file and there are 3 pictures" in one_file.err


def test_a_camera_is_taken_with_another_number_of_pixels(typed, patient):
    camera = dr.c_arm(dr.read_volume(patient.ct), 20, image_size=(20, 30), pixel_size=16.0)
    Path("c.json").write_text(json.dumps(camera.to_dict()), encoding="utf-8")
    assert typed("radiograph", patient.ct, "--camera", "c.json", "-o", "a.png", "--backend", "torch").code == 0
    assert np.asarray(Image.open("a.png")).shape == (20, 30)
    assert (
        typed(
            "radiograph", patient.ct, "--camera", "c.json", "-o", "b.png", "--size", "40x60", "--backend", "torch"
        ).code
        == 0
    )
    assert read_cameras("b.camera.json")[0].pixel_size == (8.0, 8.0)


def test_anonymous_output_has_neither_the_patient_nor_the_name_of_the_file(typed, patient):
    assert typed("radiograph", patient.ct, "--anonymous", *PLAIN).code == 0
    assert Path("radiograph.png").is_file()
    assert typed("radiograph", patient.ct, "--anonymous", "-o", "x.dcm", *PLAIN).code == 0
    from pydicom import dcmread

    assert dcmread("x.dcm").PatientName == ""


def test_what_was_done_otherwise_is_noted_once(typed, patient):
    """Labels on a coarser lattice are resampled: a Notice, in both ways of speaking."""
    image = SimpleITK.ReadImage(str(patient.labels))
    SimpleITK.WriteImage(SimpleITK.Expand(image, [2, 2, 2], SimpleITK.sitkNearestNeighbor), "fine.nrrd")
    ended = typed("radiograph", patient.ct, "--labels", "fine.nrrd", *PLAIN)
    assert ended.code == 0
    notes = [line for line in ended.err.splitlines() if line.startswith("Note: ")]
    assert len(notes) == 1
    assert "fine.nrrd" in notes[0]
    assert "Warning" not in ended.err
    notices = [
        line
        for line in typed("radiograph", patient.ct, "--labels", "fine.nrrd", "--json", *PLAIN).lines
        if line["type"] == "notice"
    ]
    assert [f"Note: {notice['message']}" for notice in notices] == notes


REFUSED = {
    "no file": (["none/ct.nii.gz"], r"none/ct\.nii\.gz does not exist"),
    "no labels": (["CT", "--labels", "l.nrrd"], r"l\.nrrd does not exist"),
    "no table": (["CT", "--labels", "LABELS", "--names", "n.csv"], r"n\.csv (is not there|does not exist)"),
    "wrong preset": (["CT", "--preset", "pelvis"], "'pelvis' is no preset; there are frontal, .*pelvis-ap"),
    "preset and camera": (["CT", "--preset", "frontal", "--camera", "c.json"], "--camera already.*leave out --preset"),
    "pixel size and camera": (["CT", "--pixel-size", "1", "--camera", "c.json"], "leave out --pixel-size"),
    "no size": (["CT", "--size", "0"], "--size is a number of pixels from 1 to .*not '0'"),
    "no height": (["CT", "--size", "0x40"], "not '0x40'"),
    "no number": (["CT", "--size", "big"], "--size is a number of pixels .*not 'big'"),
    "pixels without size": (["CT", "--pixel-size", "-1"], "must be above zero"),
    "kind": (["CT", "--kind", "bright"], "'--kind'.*'bright' is not one of 'log-attenuation', 'intensity'"),
    "masks": (["CT", "--masks", "fuzzy"], "'--masks'.*'fuzzy' is not one of 'hard', 'soft'"),
    "threshold": (["CT", "--threshold", "0"], "threshold is the path .*above zero"),
    "energy": (["CT", "--energy", "0"], "keV"),
    "backend": (["CT", "--backend", "gpu"], "'--backend'.*'gpu' is not one of 'auto', 'torch', 'warp'"),
    "series of a file": (["CT", "--series", "3"], "no DICOM with several series"),
    "camera file missing": (["CT", "--camera", "c.json"], r"c\.json cannot be read"),
    "camera sheared": (["CT", "--camera", "sheared.json"], r"sheared\.json: The camera's axes are sheared"),
    "camera without pixels": (["CT", "--camera", "flat.json"], r"flat\.json: The detector has 0 x 30 pixels"),
    "no camera": (["CT", "--camera", "empty.json"], r"empty\.json holds an empty list"),
    "ending": (["CT", "-o", "a.jpg"], r"a\.jpg has no ending that can be written; give one of \.png"),
    "no name": (["CT", "-o", ".png"], "ending without a name"),
    "file for a folder": (["CT", "-o", "file/a.png"], "file cannot be written to: file is a file, no folder"),
    "empty CT": ([""], "CT is an empty text, no path"),
    "empty labels": (["CT", "--labels", ""], "--labels is an empty text"),
    "empty camera": (["CT", "--camera", ""], "--camera is an empty text"),
    "empty out": (["CT", "-o", " "], "--out is an empty text"),
    "long name": (["CT", "-o", f"{'x' * 245}.png"], r"xxx.* is a name too long for this disk"),
    "long folder": (["CT", "-o", f"{'x' * 256}/"], r"xxx.* is a name too long for this disk"),
    "memory": (["CT", "--labels", "LABELS", "--size", "16384"], "16384 x 16384 pixels with 2 labels takes .* GiB are"),
    "over its input": (["CT", "-o", "CT"], "would be written over"),
    "option": (["CT", "--labls", "x"], "No such option: --labls.*Type `diffrender radiograph --help`"),
    "no CT": ([], "Missing argument 'CT'"),
    "not a number": (["CT", "--energy", "many"], "Invalid value for '--energy'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_with_one_text_and_nothing_written(typed, patient, case, monkeypatch):
    camera = dr.c_arm([0, 0, 0], image_size=(20, 30)).to_dict()
    # x leans 11 degrees towards z and keeps its length: shear without scale.
    sheared = [[0.98 * row[0] + 0.199 * row[2], *row[1:]] for row in camera["world_from_camera"]]
    for name, data in (
        ("sheared.json", {**camera, "world_from_camera": sheared}),
        ("flat.json", {**camera, "image_size": [0, 30]}),
        ("empty.json", []),
    ):
        Path(name).write_text(json.dumps(data), encoding="utf-8")
    Path("file").write_text("x", encoding="utf-8")
    before, bytes_before = sorted(Path().rglob("*")), patient.ct.read_bytes()
    monkeypatch.setattr("diffrender.io.files.available_memory", lambda: 8e9)
    words, message = REFUSED[case]
    words = [{"CT": patient.ct, "LABELS": patient.labels}.get(word, word) for word in words]
    ended = typed("radiograph", *words)
    assert ended.code == 2
    assert ended.out == ""
    error = [line for line in ended.err.splitlines() if not line.startswith(("Reading", "Casting", "Warp"))]
    assert len(error) == 1  # unwrapped, and no traceback
    assert error[0].startswith("Error: ")
    assert re.search(message, error[0]), error[0]
    assert sorted(Path().rglob("*")) == before
    assert patient.ct.read_bytes() == bytes_before
    as_json = typed("radiograph", *words, "--json")
    assert as_json.code == 2
    assert as_json.err == ""
    last = as_json.lines[-1]
    assert (last["type"], last["exit_code"]) == ("error", 2)
    assert f"Error: {last['message']}" == error[0]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="only Linux has a /proc, which not even root writes to")
def test_a_folder_that_cannot_be_written_to_is_refused_before_the_ct_is_read(typed, patient):
    ended = typed("radiograph", patient.ct, "-o", "/proc/a/b.png")
    assert ended.code == 2
    assert "/proc/a cannot be written to: " in ended.err
    assert "Reading" not in ended.err


def test_a_full_disk_is_told_before_the_ct_is_read(typed, patient, monkeypatch):
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("diffrender.commands.target.shutil.disk_usage", lambda _: usage(10**9, 10**9, 4096))
    ended = typed("radiograph", patient.ct)
    assert ended.code == 2
    assert f"{Path.cwd()} lies on a disk with 4.0 KiB free, and this takes up to 4.0 MiB." in ended.err
    assert "Reading" not in ended.err


def test_a_folder_where_one_of_the_files_should_go_is_told_before_the_ct_is_read(typed, patient):
    Path("a.preview.png").mkdir()
    ended = typed("radiograph", patient.ct, "-o", "a.png", *PLAIN)
    assert ended.code == 2
    assert "a.preview.png could not be written: a folder of that name is already there" in ended.err
    assert "Reading" not in ended.err
    assert [file.name for file in Path().iterdir()] == ["a.preview.png"]


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a disk of so many KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size: int) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(folder)]
        if sys.platform == "win32" or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("no small disk to fill: mounting one needs root")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_files_of_an_earlier_run_as_they_were(typed, patient, small_disk, monkeypatch):
    """The picture fits, what comes after it does not: the check before the work is passed over to get there."""
    disk = small_disk(64)
    monkeypatch.setattr("diffrender.commands.radiograph.BYTES_A_PIXEL", 0)
    assert typed("radiograph", patient.ct, "-o", disk / "x.png", "--backend", "torch", "--size", 12).code == 0
    before = {file.name: file.read_bytes() for file in disk.iterdir()}
    ended = typed("radiograph", patient.ct, "-o", disk / "x.png", *PLAIN, "--kind", "intensity", "--size", 120)
    assert ended.code == 2
    assert "could not be written: the disk is full" in ended.err
    assert {file.name: file.read_bytes() for file in disk.iterdir()} == before


def cameras_file(patient, count: int, **more) -> None:
    volume = dr.read_volume(patient.ct)
    angles = [dr.c_arm(volume, 3 * n, image_size=(40, 60), pixel_size=8.0, **more) for n in range(count)]
    Path("c.json").write_text(json.dumps([camera.to_dict() for camera in angles]), encoding="utf-8")


def test_several_cameras_on_a_full_disk_leave_neither_files_nor_folder(typed, patient, small_disk, monkeypatch):
    disk = small_disk(96)
    monkeypatch.setattr("diffrender.commands.radiograph.BYTES_A_PIXEL", 0)
    cameras_file(patient, 12)
    ended = typed("radiograph", patient.ct, "--camera", "c.json", "-o", disk / "new" / "views", "--backend", "torch")
    assert ended.code == 2
    assert "the disk is full" in ended.err
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize("how", ["cancel\n", ""], ids=["cancel", "the end of stdin"])
def test_a_list_of_cameras_is_stopped_through_stdin_and_leaves_nothing(started, patient, tmp_path, monkeypatch, how):
    monkeypatch.chdir(tmp_path)
    cameras_file(patient, 400)
    words = ("--camera", "c.json", "--size", "300", "-o", "views", "--backend", "torch", "--json")
    process = started("radiograph", patient.ct, *words, stdin=subprocess.PIPE)
    first = next(line for line in map(json.loads, process.stdout) if line["type"] == "progress" and line["done"] > 1)
    process.stdin.write(how)
    process.stdin.flush()
    if not how:
        process.stdin.close()
    lines = [json.loads(line) for line in process.stdout]
    assert process.wait(60) == 130
    assert (lines[-1]["type"], lines[-1]["kind"]) == ("error", "Stopped")
    assert max(line.get("done", 0) for line in [first, *lines]) < 300  # soon, not at the end
    assert not Path("views").exists()


def test_what_is_read_is_never_written_over(typed, patient, tmp_path, monkeypatch):
    """One of a folder's files, the voxels that a header names, a file behind a link or behind `~`."""
    folder = tmp_path / "masks"
    folder.mkdir()
    ids = SimpleITK.ReadImage(str(patient.labels))
    SimpleITK.WriteImage(ids == 7, str(folder / "bone.nii.gz"))
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(patient.ct)), "split.mhd")  # and split.raw
    Path("split.raw").rename("split.tif")
    Path("split.mhd").write_text(Path("split.mhd").read_text().replace("split.raw", "split.tif"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    shutil.copy(patient.ct, tmp_path / "home.nii.gz")
    for words, message in (
        ([patient.ct, "--labels", folder, "-o", folder / "bone.nii.gz"], "bone.nii.gz belongs to .*masks, which is re"),
        (["split.mhd", "-o", "split.tif"], r"split\.tif belongs to split\.mhd, which is read"),
        (["~/home.nii.gz", "-o", tmp_path / "home.nii.gz"], r"~/home\.nii\.gz is read by this command"),
        ([tmp_path / "home.nii.gz", "-o", "~/home.nii.gz"], r"home\.nii\.gz is read by this command"),
    ):
        before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
        ended = typed("radiograph", *words, *PLAIN)
        assert ended.code == 2, ended
        assert re.search(message, ended.err), ended.err
        assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    beside = typed("radiograph", patient.ct, "--labels", folder, "-o", folder / "new.png", *PLAIN)
    assert beside.code == 0


def test_a_camera_that_lies_where_the_new_camera_would_go_is_kept(typed, patient):
    """All files that will be written are looked at, not the picture alone."""
    Path("a.camera.json").write_text(json.dumps(dr.c_arm([0, 0, 0], image_size=(20, 30)).to_dict()), encoding="utf-8")
    before = Path("a.camera.json").read_bytes()
    ended = typed("radiograph", patient.ct, "--camera", "a.camera.json", "-o", "a.png", "--backend", "torch")
    assert ended.code == 2
    assert "a.camera.json is read by this command" in ended.err
    assert Path("a.camera.json").read_bytes() == before


def test_a_home_folder_in_quotes_is_known_everywhere(typed, patient, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    shutil.copy(patient.ct, home / "ct.nii.gz")
    camera = dr.c_arm(dr.read_volume(patient.ct), image_size=(20, 30), pixel_size=16.0)
    (home / "c.json").write_text(json.dumps(camera.to_dict()), encoding="utf-8")
    ended = typed("radiograph", "~/ct.nii.gz", "--camera", "~/c.json", "-o", "~/new/y.png", "--backend", "torch")
    assert ended.code == 0
    assert (home / "new" / "y.png").is_file()
    assert list(Path().iterdir()) == []
    record = json.loads((home / "new" / "y.provenance.json").read_text(encoding="utf-8"))
    digest = hashlib.sha256(patient.ct.read_bytes()).hexdigest()
    assert record["inputs"][0] == {"path": "~/ct.nii.gz", "sha256": digest}
    assert record["inputs"][1]["path"] == "~/c.json"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names are bytes on Linux alone")
@pytest.mark.parametrize("name", [b"K\xf6rper.nii.gz", "Körper.nii.gz".encode()], ids=["latin-1", "utf-8"])
def test_a_name_that_the_locale_does_not_know(started, ended, patient, tmp_path, name):
    shutil.copy(patient.ct, os.path.join(os.fsencode(tmp_path), name))
    words = ("--backend", "torch", "--size", "20", "-o", "x.dcm")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    end = ended(started("radiograph", os.fsdecode(name), *words, env=ascii_only))
    assert (end.code, "Traceback" in end.err) == (0, False), end
    record = json.loads((tmp_path / "x.provenance.json").read_text(encoding="utf-8"))
    assert os.fsencode(record["inputs"][0]["path"]) == name
    assert record["inputs"][0]["sha256"] == hashlib.sha256(patient.ct.read_bytes()).hexdigest()


def test_an_empty_picture_is_said_to_be_one(typed, patient):
    camera = dr.c_arm([0.0, 5000.0, 0.0], image_size=(20, 30))
    Path("c.json").write_text(json.dumps(camera.to_dict()), encoding="utf-8")
    for kind in ("log-attenuation", "intensity"):
        words = ("--camera", "c.json", "-o", "a.png", "--kind", kind, "--backend", "torch")
        ended = typed("radiograph", patient.ct, *words)
        assert ended.code == 0
        assert "Note: a.png is an empty picture: no ray meets anything denser than air" in ended.err
    assert "empty" not in typed("radiograph", patient.ct, *PLAIN).err


def test_debug_shows_the_traceback_and_only_debug(typed):
    assert "Traceback" not in typed("radiograph", "none.nii").err
    ended = typed("radiograph", "none.nii", "--debug")
    assert ended.code == 2
    assert "Traceback" in ended.err
    assert "Error: none.nii does not exist" in ended.err


def test_ctrl_c_ends_with_130_and_nothing_half_written(started, ended, patient, tmp_path):
    words = ("radiograph", patient.ct, "--size", "4000", "--backend", "torch", "-o", "big.png")
    process = started(*words, **({"creationflags": 512} if sys.platform == "win32" else {}))
    while "Casting" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(0.3)
    process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGINT))
    end = ended(process)
    assert end.code == 130
    assert "Stopped. Nothing half-written is left" in end.err
    assert "Traceback" not in end.err
    assert list(tmp_path.glob("big*")) == []


@pytest.mark.parametrize(
    ("text", "size"), [("512", (512, 512)), ("512x400", (512, 400)), ("7 × 9", (7, 9)), ("16384", (16384, 16384))]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "-3", "3x", "1.5", "16385", "3x4x5", "1e3"])
def test_no_sizes(text):
    with pytest.raises(SettingError, match="--size is a number of pixels from 1 to 16384"):
        parse_size(text)


def test_outputs_are_called_after_the_ct():
    names = ["a/b.nii.gz", "CT.DCM", "scan.seg.nrrd", "folder/series.3/", "study.zip", "v1.2", ".nii"]
    assert [stem_of(name) for name in names] == ["b", "CT", "scan", "series.3", "study", "v1.2", ".nii"]
