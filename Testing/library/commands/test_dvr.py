"""`diffrender dvr train`, `render`, `bake` and `segment` with real files: from painted views to pictures."""

import csv
import inspect
import json
import re
import shutil
import subprocess
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import SimpleITK
import torch
from PIL import Image

import diffrender as dr
from diffrender.camera import read_cameras
from diffrender.commands.dvr.train import train
from diffrender.commands.dvr.train_options import PARTS, Accumulate, Norm, Precision, settings_of
from diffrender.dvr.baked_files import read_baked
from diffrender.dvr.draw import Drawing
from diffrender.dvr.losses import LossSettings
from diffrender.dvr.model import load_model, save_model
from diffrender.dvr.renderer import ACCUMULATORS, NORMS, RendererSettings
from diffrender.dvr.renderers import renderer
from diffrender.dvr.segmenter import Segmenter, network_of, save_segmenter
from diffrender.dvr.settings import OF_SEVERAL, PRECISIONS, Augmentation, TrainSettings
from diffrender.dvr.targets import targets_from_images
from diffrender.dvr.transfer import TransferFunction, read_transfer, transfer_preset, write_transfer
from diffrender.dvr.view import Role, View, Views, render_views
from diffrender.dvr.views import read_views, write_views
from diffrender.io.lock import locked
from diffrender.provenance import hash_of

# Few opacity, so that what is seen lies in the label's voxels and not in the soft edge around them, which is 5 mm wide.
THIN = TransferFunction(((-1024.0, 0.5, 0.4, 0.3), (3071.0, 1.0, 1.0, 1.0)), ((600.0, 0.0), (700.0, 0.02)), name="thin")
# The body as mist around the bone, so that there is something to colour in every pixel of it.
MIST = TransferFunction(
    ((-1024.0, 0.8, 0.7, 0.6), (3071.0, 1.0, 1.0, 1.0)),
    ((-700.0, 0.0), (0.0, 0.02), (600.0, 0.02), (700.0, 0.05)),
    name="mist",
)
LOOKUP = ("--renderer", "lookup", "--batch", 2)


@pytest.fixture(scope="session")
def painted(patient, tmp_path_factory) -> Path:
    """Five views of the patient in a folder with a space and an umlaut; four of them are painted red all over."""
    folder = tmp_path_factory.mktemp("dvr") / "Ansichten ü"
    volume = dr.read_volume(patient.ct)
    blank = render_views(volume, MIST, dr.orbit(volume, 5, (36, 32), seed=1))
    views = [
        View(view.camera, view.image, torch.ones(36, 32, dtype=torch.uint8) if n != 2 else None)
        for n, view in enumerate(blank.views)
    ]
    roles = {1: Role("bone", "recolour", (0.9, 0.1, 0.1), 1.0)}
    write_views(folder, Views(tuple(views), MIST, volume, roles, source=str(patient.ct)))
    return folder


@pytest.fixture(scope="session")
def model(patient, tmp_path_factory) -> Path:
    """An untrained lookup that draws as THIN does, in a folder as `dvr train` leaves it."""
    folder = tmp_path_factory.mktemp("model") / "Modell 1"
    save_model(folder / "model.safetensors", renderer("lookup", RendererSettings(transfer=THIN)), {})
    record = {"settings": {"cts": [str(patient.ct)]}}
    (folder / "provenance.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def test_from_a_ct_to_a_picture_and_a_segmentation(typed, patient, open_stdin):
    """The whole road, as typed."""
    write_transfer("thin.json", THIN)
    labels = ("--labels", patient.labels, "--names", patient.names)
    few = ("--n", 6, "--size", 128, "--tf", "thin.json", "--paint-from-labels", "bone=#e01010", "--painted", 3)
    assert typed("dvr", "views", patient.ct, *labels, *few, "-o", "views").code == 0
    ended = typed("dvr", "train", "views", *LOOKUP, "--steps", 3, "--json", "-o", "Modell ü")
    assert (ended.code, ended.err) == (0, "")
    result = ended.lines[-1]
    assert {Path(file).name for file in result["files"]} == {
        "model.safetensors", "last.safetensors", "before.png", "wanted.png", "after.png", "history.csv",
        "provenance.json",
    }  # fmt: skip
    assert all(Path(file).is_file() for file in result["files"])
    assert result["steps"] == 3
    notes = [line["message"] for line in ended.lines if line["type"] == "notice"]
    assert any(re.search(r"lookup on 26 x 22 x 18 voxels, 3 views of 128 x 128 pixels: about", n) for n in notes)
    training = [line for line in ended.lines if line["type"] == "progress" and line["what"].startswith("Training")]
    assert training[-1]["done"] == training[-1]["total"] == 3
    assert training[-1]["scores"]["psnr"] > 5
    with Image.open(training[-1]["preview"]) as preview:
        assert (preview.mode, preview.size) == ("RGBA", (128, 128))

    ended = typed("dvr", "render", "Modell ü", "--size", "40x48", "-o", "Bild 1.png")  # the CT is the one trained on
    assert ended.code == 0, ended.err
    assert "right is on the image's left, left on its right, head on top." in ended.out
    assert {file.name for file in Path().glob("Bild 1.*")} == {
        "Bild 1.png", "Bild 1.camera.json", "Bild 1.preview.png", "Bild 1.provenance.json",
    }  # fmt: skip
    assert typed("dvr", "bake", "Modell ü", "-o", "baked.nrrd").code == 0
    assert {file.name for file in Path().glob("baked.*")} == {
        "baked.nrrd", "baked.vp.json", "baked.json", "baked.provenance.json",
    }  # fmt: skip
    assert read_baked("baked.nrrd").rgba.shape == (69, 85, 101, 4)  # 4 steps from each of 18 x 22 x 26 to the next
    assert typed("dvr", "bake", "Modell ü", "--finer", 2, "-o", "half.nrrd").code == 0
    assert read_baked("half.nrrd").rgba.shape == (35, 43, 51, 4)

    learned = ["hat gelernt.safetensors", "--ct", patient.ct]
    for words, name in (
        (["views", "--save", learned[0]], "Bänder.nii.gz"), (["Modell ü"], "b.seg.nrrd"), (learned, "c.nii.gz")
    ):  # fmt: skip
        ended = typed("dvr", "segment", *words, "-o", name)
        assert ended.code == 0, ended.err
        assert re.search(r"bone: \d+ voxels, [\d.]+ ml", ended.out)
        table = f"{name[:-7]}.names.csv" if name.endswith("gz") else None
        labelled = dr.read_volume(patient.ct, labels=name, names=table)
        true = dr.read_volume(patient.ct, labels=patient.labels)
        assert labelled.label_name(7) == "bone"
        overlap = (labelled.mask(7) & true.mask(7)).sum() / true.mask(7).sum()
        assert overlap > 0.5  # 48 voxels, painted on three views with a pixel of rim
    again, first = (dr.read_volume(patient.ct, labels=f"{name}.nii.gz").labels for name in ("c", "Bänder"))
    assert torch.equal(again, first)


def test_a_training_leaves_what_it_did(typed, painted, patient):
    before = {file: file.read_bytes() for file in painted.rglob("*.*")}
    ended = typed("dvr", "train", painted, *LOOKUP, "--steps", 12, "--rate", 0.02, "--seed", 3, "-o", "m")
    assert ended.code == 0, ended.err
    assert "about" in ended.out.splitlines()[0]  # the estimate comes first
    assert "Finished after 12 steps" in ended.out
    made, info = load_model("m/model.safetensors")
    assert (made.name, made.settings.seed, info["steps"]) == ("lookup", 3, 12)
    assert made.settings.transfer is not None
    assert made.settings.transfer.name == "mist"
    with open("m/history.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert int(rows[-1]["step"]) == 12
    assert float(rows[-1]["psnr"]) > float(rows[0]["psnr"]) + 1  # red is learned
    wanted, after, as_drawn = (np.asarray(Image.open(f"m/{n}.png")).astype(int) for n in ("wanted", "after", "before"))
    closer = float(np.abs(after - wanted).sum() / np.abs(as_drawn - wanted).sum())
    assert closer < 0.9  # in twelve steps
    record = json.loads(Path("m/provenance.json").read_text(encoding="utf-8"))
    assert record["seed"] == 3
    assert record["settings"]["cts"] == [str(patient.ct)]
    assert record["settings"]["training"]["rate"] == 0.02
    assert record["inputs"][0]["path"] == str(painted)
    assert {file: file.read_bytes() for file in painted.rglob("*.*")} == before  # what is read is left alone


def test_every_setting_of_a_training_has_an_option(typed, painted):
    ours = {field.name for kind in (TrainSettings, Augmentation) for field in fields(kind)}
    ours -= {"drawing", "loss", "augment"}
    assert ours <= set(inspect.signature(train).parameters)
    assert (*PARTS, "perceptual_file") == tuple(field.name for field in fields(LossSettings))
    assert [one.value for one in Accumulate] == list(ACCUMULATORS)
    assert [one.value for one in Norm] == list(NORMS)
    assert {one.value for one in Precision} == set(PRECISIONS)
    words = (
        "--steps", 1, "--batch", 1, "--rotation", 4, "--noise", 3, "--sampling", "0.5:1.5", "--no-jitter",
        "--decay", 0.3, "--loss", "ssim=0", "--loss", "gradient=0.25", "--precision", "float32",
        "--checkpointing", "--no-patches", "--accumulate", "mida", "--norm", "batch", "--dropout", 0.1,
        "--scratch", "--width", 0.5,
    )  # fmt: skip
    assert typed("dvr", "train", painted, "--renderer", "mlp", *words, "-o", "m").code == 0
    settings = json.loads(Path("m/provenance.json").read_text(encoding="utf-8"))["settings"]["training"]
    assert settings["augment"] == {"rotation": 4.0, "shift": 0.0, "noise": 3.0}
    assert settings["sampling"] == [0.5, 1.5]
    assert (settings["jitter"], settings["patches"], settings["checkpointing"]) == (False, False, True)
    assert (settings["decay"], settings["precision"]) == (0.3, "float32")
    assert [settings["loss"][part] for part in PARTS] == [1.0, 0.0, 1.0, 0.25, 0.0]
    drawing = settings["drawing"]
    assert (drawing["accumulate"], drawing["norm"], drawing["dropout"]) == ("mida", "batch", 0.1)
    assert (drawing["start"], drawing["width"]) == ("scratch", 0.5)


def test_of_several_patients_what_is_not_typed_of_the_augmentation_is_as_usual():
    usual = {"sampling": None, "loss": None, "lpips": None, "drawing": {}, "others": {}}
    made = settings_of("lookup", 0, None, augment={"shift": 2.0, "noise": None}, several=True, **usual)
    assert made.augment == replace(OF_SEVERAL, shift=2.0)
    assert settings_of("lookup", 0, None, augment={"shift": None}, several=True, **usual).augment is None
    assert settings_of("lookup", 0, None, augment={}, several=False, **{**usual, "sampling": "2"}).sampling == (
        2.0,
        2.0,
    )


def test_dry_run_says_how_long_and_writes_nothing(typed, painted, open_stdin):
    ended = typed("dvr", "train", painted, *LOOKUP, "--epochs", 10, "--dry-run", "-o", "m")
    assert ended.code == 0
    assert re.search(r"lookup on 26 x 22 x 18 voxels, 4 views of 32 x 36 pixels: .* 20 steps in", ended.out)
    assert not Path("m").exists()
    estimate = typed("dvr", "train", painted, *LOOKUP, "--steps", 7, "--dry-run", "--json").lines[-1]["estimate"]
    assert estimate["steps"] == 7
    assert estimate["seconds"] > 0


def test_a_trained_renderer_is_trained_on_and_only_where_asked(typed, painted, model):
    words = ("--from", model, "--slots", "colour", "--steps", 4, "--batch", 2)
    assert typed("dvr", "train", painted, *words, "-o", "m").code == 0
    before, after = load_model(model / "model.safetensors")[0], load_model("m/last.safetensors")[0]
    changed = {
        name.partition(".")[0]
        for name, tensor in after.state_dict().items()
        if not torch.equal(tensor, before.state_dict()[name])
    }
    assert changed == {"colour"}
    refused = typed("dvr", "train", painted, "--from", model, "--renderer", "mlp", "-o", "n")
    assert refused.code == 2
    assert "leave out --renderer" in refused.err


def test_pictures_are_learned_as_they_are(typed, painted):
    """Without a look at the paint: what is wanted is the picture."""
    ended = typed("dvr", "train", painted, *LOOKUP, "--as-shown", "--steps", 2, "--held-out", 2, "-o", "m")
    assert ended.code == 0, ended.err
    assert Path("m/wanted.png").read_bytes() == Path("m/before.png").read_bytes()
    assert len(targets_from_images(painted)) == 5


def test_killed_or_cancelled_it_goes_on_and_ends_the_same(typed, started, painted, tmp_path, open_stdin):
    words = ("dvr", "train", str(painted), *LOOKUP, "--steps", 16, "--held-out", -1)
    slowly = (  # slow enough to be caught at a step
        "import sys, time\nfrom diffrender.jobs import Checkpoint\ndue = Checkpoint.due\n"
        "Checkpoint.due = lambda self: time.sleep(0.15) or due(self)\n"
        "from diffrender.__main__ import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    out = ("-o", tmp_path / "cut", "--json")
    often = slowly.replace("due =", "Checkpoint.__init__.__defaults__ = (0.0,)\ndue =", 1)
    killed = started(*words, *out, script=often, stdin=subprocess.PIPE)
    _wait_for_step(killed, 3)
    killed.kill()
    killed.communicate()
    assert not (tmp_path / "cut/model.safetensors").exists()
    saved = torch.load(tmp_path / "cut/checkpoint.pt", weights_only=True)["done"]
    assert saved >= 2
    process = started(*words, *out, script=slowly, stdin=subprocess.PIPE)
    first = _wait_for_step(process, 1)
    assert first["done"] >= saved  # it goes on
    process.stdin.write("cancel\n")
    process.stdin.flush()
    last = [json.loads(line) for line in process.stdout][-1]
    assert process.wait(60) == 130
    stopped = re.match(r"Stopped after step (\d+) of 16\. Type the same command again to go on", last["message"])
    assert stopped
    assert torch.load(tmp_path / "cut/checkpoint.pt", weights_only=True)["done"] == int(stopped[1]) > saved
    process.stdin.close()
    assert typed(*words, *out).code == 0
    assert typed(*words, "-o", "whole").code == 0
    for name in ("model.safetensors", "last.safetensors"):
        ours, theirs = (load_model(folder / name)[0].state_dict() for folder in (tmp_path / "cut", Path("whole")))
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


def _wait_for_step(process: subprocess.Popen, step: int) -> dict:
    for line in process.stdout:
        told = json.loads(line)
        assert told["type"] in ("progress", "notice"), told
        if told["type"] == "progress" and told["what"].startswith("Training") and told["done"] >= step:
            return told
    raise AssertionError(process.stderr.read())


def test_several_patients_each_with_its_ct(typed, painted, ugly, patient):
    shutil.copytree(painted, "second")
    record = {"format": 1, "path": "gone.nii.gz", "sha256": hash_of(ugly / "other.nii.gz")}
    Path("second/volume.json").write_text(json.dumps(record), encoding="utf-8")
    words = ("dvr", "train", painted, "second", *LOOKUP, "--steps", 2, "-o", "m")
    assert typed(*words, "--ct", patient.ct, "--ct", ugly / "other.nii.gz").code == 0
    assert len(load_model("m/model.safetensors")[1]["volumes"]) == 2
    ended = typed(*words, "--ct", ugly / "other.nii.gz", "--ct", patient.ct)
    assert ended.code == 2
    assert "is not the CT that was drawn" in ended.err


def test_two_trainings_in_one_folder_are_refused(typed, painted):
    with locked(Path("m/checkpoint.pt"), "A training"):
        ended = typed("dvr", "train", painted, *LOOKUP, "--steps", 2, "-o", "m")
    assert ended.code == 2
    assert "A training is writing to m/checkpoint.pt already" in ended.err


def test_the_same_folder_with_other_settings_is_refused(typed, painted):
    assert typed("dvr", "train", painted, *LOOKUP, "--steps", 2, "-o", "m").code == 0
    assert typed("dvr", "train", painted, *LOOKUP, "--steps", 2, "-o", "m").code == 0  # it is finished: nothing to do
    ended = typed("dvr", "train", painted, *LOOKUP, "--steps", 2, "--seed", 7, "-o", "m")
    assert ended.code == 2
    assert "is the save of another training" in ended.err
    assert "seed" in ended.err


def test_a_loss_that_diverges_ends_with_1_keeps_the_best_and_says_what_to_try(typed, painted):
    ended = typed("dvr", "train", painted, *LOOKUP, "--steps", 20, "--rate", 1e30, "-o", "m")
    assert ended.code == 1
    assert re.search(r"diverged.*Try a lower rate.*The best so far is in m\.", ended.err, re.DOTALL)
    start = renderer("lookup", RendererSettings(transfer=MIST)).state_dict()
    kept = load_model("m/model.safetensors")[0].state_dict()
    assert all(torch.equal(tensor, start[name]) for name, tensor in kept.items())  # the first step spoils all


def test_pictures_are_what_the_renderer_draws(typed, model, patient):
    ended = typed("dvr", "render", model, "--preset", "left", "--size", "50x40", "--sampling-rate", 2, "-o", "out/")
    assert ended.code == 0, ended.err
    assert {file.name for file in Path("out").iterdir()} == {
        "picture.png", "picture.camera.json", "picture.preview.png", "provenance.json",
    }  # fmt: skip
    (camera,) = read_cameras("out/picture.camera.json")
    assert camera.orientation()["left"] == "A"  # seen from the patient's left
    made = renderer("lookup", RendererSettings(transfer=THIN, sampling_rate=2.0))
    image = Drawing(made, dr.read_volume(patient.ct)).image(camera)
    with Image.open("out/picture.png") as file:
        assert file.mode == "RGBA"
        alpha = np.asarray(file)[..., 3] / 255
    assert np.abs(alpha - image[3].numpy()).max() < 0.51 / 255  # rounding
    assert alpha.max() > 0.3


@pytest.mark.parametrize(
    ("preset", "edges"),
    [("frontal", "RLHF"), ("back", "LRHF"), ("left", "APHF"), ("right", "PAHF"), ("head", "LRAP"), ("feet", "RLAP")],
)
def test_every_preset_looks_from_where_it_says(typed, model, preset, edges):
    assert typed("dvr", "render", model, "--preset", preset, "--size", 24, "-o", "p.png").code == 0
    (camera,) = read_cameras("p.camera.json")
    orientation = camera.orientation()
    assert "".join(orientation[edge] for edge in ("left", "right", "top", "bottom")) == edges
    assert not camera.mirrored
    with Image.open("p.png") as file:
        row, column = np.unravel_index(np.asarray(file)[..., 3].argmax(), file.size)
    # The bone lies up in the patient's left.
    if preset in ("frontal", "feet", "back", "head"):
        assert (column > 12) == (preset in ("frontal", "feet"))
    if edges.endswith("HF"):
        assert row < 12


def test_a_transfer_function_draws_on_a_background(typed, patient):
    words = ("--tf", "ct-skin", "--ct", patient.ct, "--size", 30, "--background", "#204060")
    assert typed("dvr", "render", *words, "-o", "p.png").code == 0
    picture = np.asarray(Image.open("p.png"))
    assert picture.shape == (30, 30, 3)
    assert picture[0, 0].tolist() == [0x20, 0x40, 0x60]
    assert picture[15, 15, 0] > 150  # skin
    write_transfer("größe.json", transfer_preset("ct-skin"))
    other = ("--tf", "größe.json", "--ct", patient.ct, "--size", 30, "--background", "#204060", "-o", "q.png")
    assert typed("dvr", "render", *other).code == 0
    assert np.array_equal(np.asarray(Image.open("q.png")), picture)


def test_orbits_turntables_and_films(typed, model):
    assert typed("dvr", "render", model, "--orbit", 3, "--size", 20, "-o", "all").code == 0
    cameras = [read_cameras(f"all/{n:04}.camera.json")[0] for n in range(3)]
    assert len({tuple(camera.source.tolist()) for camera in cameras}) == 3
    assert typed("dvr", "render", model, "--turntable", 4, "--size", 20, "-o", "turn").code == 0
    heights = {round(read_cameras(f"turn/{n:04}.camera.json")[0].source[2].item(), 3) for n in range(4)}
    assert len(heights) == 1
    assert typed("dvr", "render", model, "--turntable", 4, "--size", 20, "-o", "turn.gif").code == 0
    with Image.open("turn.gif") as film:
        assert film.n_frames == 4
    assert Path("turn.provenance.json").is_file()


def test_an_empty_picture_is_told(typed, model, patient):
    camera = dr.orbit(dr.read_volume(patient.ct), 1, (20, 20))[0].to_dict()
    camera["principal_point"] = [9000.0, 10.0]
    Path("c.json").write_text(json.dumps(camera), encoding="utf-8")
    ended = typed("dvr", "render", model, "--camera", "c.json", "-o", "p.png")
    assert ended.code == 0
    assert "p.png is an empty picture" in ended.err


def test_tables_are_baked_to_a_transfer_function_without_a_ct(typed, model):
    assert typed("dvr", "bake", model, "-o", "tabelle ü.vp.json").code == 0
    hu = torch.tensor([-500.0, 650.0, 1200.0])
    # The file holds 256 entries of 16 HU, linear between: the corner at 600 HU is off by less than one of them.
    assert (read_transfer("tabelle ü.vp.json").at(hu) - THIN.at(hu)).abs().max() < 0.02
    assert {file.name for file in Path().iterdir()} == {"tabelle ü.vp.json", "tabelle ü.vp.provenance.json"}


def test_what_cannot_be_baked_says_why_before_the_ct_is_read(typed, patient):
    made = renderer("vnetl16-17", RendererSettings(width=1 / 16))
    save_model("m.safetensors", made, {})
    ended = typed("dvr", "bake", "m.safetensors", "--ct", patient.ct, "-o", "b.nrrd")
    assert ended.code == 2
    assert "vnetl16-17 cannot be baked: it colours its picture after compositing" in ended.err
    assert "Reading" not in ended.err
    assert not Path("b.nrrd").exists()


REFUSED = {
    "no views": (["train", "none"], "none does not exist"),
    "no folder of views": (["train", "copy", "-o", "m"], r"copy holds no cameras\.json and no transfer\.json"),
    "unpainted": (["train", "unpainted"], "Nothing is painted on the views in unpainted"),
    "hidden": (["train", "hidden"], "painted as hidden or ignored"),
    "no roles": (["train", "noroles"], r"roles\.json is missing"),
    "colour without a role": (["train", "odd"], "painted with 9"),
    "paint of another size": (["train", "small"], "10 x 12"),
    "cameras": (["train", "cameras"], r"5 pictures and cameras\.json 4 cameras"),
    "another CT": (["train", "VIEWS", "--ct", "other.nii.gz"], "is not the CT that was drawn"),
    "CTs": (["train", "VIEWS", "--ct", "a", "--ct", "b"], "--ct is given 2 times and there are 1 folders"),
    "renderer": (["train", "VIEWS", "--renderer", "nerf"], "'nerf' is not one of 'lookup'"),
    "two budgets": (["train", "VIEWS", "--steps", "3", "--seconds", "5"], "one budget"),
    "no steps": (["train", "VIEWS", "--steps", "0"], "steps is above 0"),
    "rate": (["train", "VIEWS", "--rate", "-1"], "rate is above 0"),
    "held out": (["train", "VIEWS", "--held-out", "9"], "held_out is the number of one of the 5 views"),
    "sampling": (["train", "VIEWS", "--sampling", "fine"], "'fine' cannot be read; it is two numbers"),
    "part of the loss": (["train", "VIEWS", "--loss", "l1=2"], "'l1=2' cannot be read; it is PART=WEIGHT"),
    "weight of the loss": (["train", "VIEWS", "--loss", "ssim=much"], "a weight is a number from 0 on"),
    "no LPIPS": (["train", "VIEWS", "--loss", "perceptual=1"], "Give them with --lpips"),
    "LPIPS unused": (["train", "VIEWS", "--lpips", "pickle.safetensors"], "not looked at without --loss perceptual"),
    "made otherwise": (["train", "VIEWS", "--from", "MODEL", "--norm", "batch", "--scratch"],
                       "leave out --norm, --scratch"),
    "bits": (["bake", "MODEL", "--bits", "12"], "--bits is 8 or 16, not 12"),
    "bits of a table": (["bake", "MODEL", "--bits", "16", "-o", "t.vp"], "--bits is of a volume"),
    "finer": (["bake", "MODEL", "--finer", "0"], "--finer is 1 or more, not 0"),
    "finer table": (["bake", "MODEL", "--finer", "2", "-o", "t.vp"], "--finer is of a volume"),
    "slots": (["train", "VIEWS", "--slots", "colour,shape"], "shape"),
    "width": (["train", "VIEWS", "--width", "0"], "width lies between"),
    "device": (["train", "VIEWS", "--device", "gpu"], "--device is auto, cpu, cuda or cuda:1, not 'gpu'"),
    "no such device": (["train", "VIEWS", "--device", "cuda:77"], "--device cuda:77 is not there"),
    "from a pickle": (["train", "VIEWS", "--from", "pickle.safetensors"], "is a pickle"),
    "into the views": (["train", "VIEWS", "-o", "VIEWS/model"], "lies in .*, which is read"),
    "over the model": (["train", "VIEWS", "--from", "copy", "-o", "copy"], "would be written over"),
    "a file": (["train", "VIEWS", "-o", "file"], "file is a file, no folder"),
    "no model": (["render", "none", "--ct", "CT"], "none does not exist"),
    "no trained folder": (["render", ".", "--ct", "CT"], r"\. holds no model\.safetensors"),
    "cut short": (["render", "short.safetensors", "--ct", "CT"], "or not all of one"),
    "pickle": (["render", "pickle.safetensors", "--ct", "CT"], "is a pickle"),
    "version": (["render", "later.safetensors", "--ct", "CT"], "format 99"),
    "nothing draws": (["render", "--ct", "CT"], "Give what draws"),
    "both draw": (["render", "MODEL", "--tf", "ct-bone", "--ct", "CT"], "one of the two"),
    "no CT": (["render", "--tf", "ct-bone"], "Say which CT to draw, with --ct"),
    "two ways": (["render", "MODEL", "--preset", "left", "--orbit", "3"], "--preset and --orbit each say"),
    "preset": (["render", "MODEL", "--preset", "above"], "'above' is no preset; there are frontal, back"),
    "background": (["render", "MODEL", "--background", "dark"], "--background: 'dark' is no colour"),
    "ending": (["render", "MODEL", "-o", "a.jpg"], r"a\.jpg has no ending"),
    "film of one": (["render", "MODEL", "--orbit", "3", "-o", "a.png"], "one file and there are 3 pictures"),
    "memory": (["render", "MODEL", "--size", "16384"], "of memory, and 7.5 GiB are free"),
    "over the CT": (["bake", "MODEL", "--ct", "baked.nrrd", "-o", "baked.nrrd"], "would be written over"),
    "no table": (["bake", "unet", "-o", "t.vp"], "unet-s is more than a transfer function"),
    "unknown ending": (["bake", "MODEL", "-o", "a.png"], r"a\.png has no ending"),
    "no views to segment": (["segment", "MODEL"], r"was trained on is not known\. Give the views"),
    "nothing to segment": (["segment", "unpainted"], "nothing to segment"),
    "views of another CT": (["segment", "VIEWS", "--ct", "other.nii.gz"], "is not the CT that was drawn"),
    "learned, no CT": (["segment", "learned.safetensors"], "labels any CT. Say which, with --ct"),
    "learned and a seed": (["segment", "learned.safetensors", "--ct", "CT", "--seed", "1"], "leave out --seed"),
    "kept as what": (["segment", "VIEWS", "--save", "s.pt"], r"--save s\.pt has no ending"),
    "series of views": (["segment", "VIEWS", "--series", "1"], "views know the series"),
    "labels as a picture": (["segment", "VIEWS", "-o", "a.png"], r"a\.png has no ending"),
    "NaN": (["train", "nan"], "NaN"),
    "one value": (["train", "flat"], "is constant"),
}  # fmt: skip


@pytest.fixture(scope="session")
def ugly(painted, model, patient, tmp_path_factory) -> Path:
    """A folder of all that can be wrong."""
    place = tmp_path_factory.mktemp("ugly")
    for name in ("unpainted", "hidden", "noroles", "odd", "small", "cameras"):
        shutil.copytree(painted, place / name)
    shutil.rmtree(place / "unpainted/paint")
    (place / "noroles/paint/roles.json").unlink()
    roles = {"1": {"name": "all", "role": "hide"}}
    (place / "hidden/paint/roles.json").write_text(json.dumps(roles), encoding="utf-8")
    for file in (place / "hidden/paint").glob("*.png"):
        Image.fromarray(np.ones((36, 32), np.uint8)).save(file)
    Image.fromarray(np.full((36, 32), 9, np.uint8)).save(place / "odd/paint/0001.png")
    Image.fromarray(np.ones((10, 12), np.uint8)).save(place / "small/paint/0001.png")
    cameras = json.loads((place / "cameras/cameras.json").read_text(encoding="utf-8"))
    (place / "cameras/cameras.json").write_text(json.dumps(cameras[:4]), encoding="utf-8")
    image = SimpleITK.ReadImage(str(patient.ct))
    for name, values in (("other", image + 1), ("flat", image * 0), ("baked", image)):
        SimpleITK.WriteImage(values, str(place / f"{name}{'.nrrd' if name == 'baked' else '.nii.gz'}"))
    array = SimpleITK.GetArrayFromImage(image).astype(np.float32)
    array[3, 4, 5] = np.nan
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(place / "nan.nii.gz"))
    for name in ("nan", "flat"):
        shutil.copytree(painted, place / name)
        file = place / f"{name}.nii.gz"
        record = {"format": 1, "path": str(file), "sha256": hash_of(file)}
        (place / name / "volume.json").write_text(json.dumps(record), encoding="utf-8")
    content = (model / "model.safetensors").read_bytes()
    (place / "short.safetensors").write_bytes(content[:-100])
    later = safetensors.torch.save({"a": torch.zeros(3)}, {"diffrender": json.dumps({"format": 99})})
    (place / "later.safetensors").write_bytes(later)
    torch.save({"a": torch.zeros(3)}, place / "pickle.safetensors")
    shutil.copytree(model, place / "copy")
    save_model(place / "unet/model.safetensors", renderer("unet-s", RendererSettings(width=1 / 16)), {})
    learned = Segmenter(renderer("lookup"), network_of(2), torch.zeros(8), torch.ones(8), {7: "bone"})
    save_segmenter(place / "learned.safetensors", learned)
    (place / "file").write_text("x", encoding="utf-8")
    return place


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_with_one_text_and_nothing_written(
    typed, ugly, painted, model, patient, case, monkeypatch, open_stdin
):
    monkeypatch.chdir(ugly)
    monkeypatch.setattr("diffrender.io.files.available_memory", lambda: 8e9)
    before = {file: file.stat().st_mtime_ns for file in ugly.rglob("*")}
    words, message = REFUSED[case]
    known = {"CT": str(patient.ct), "VIEWS": str(painted), "MODEL": str(model)}
    words = [re.sub("^(CT|VIEWS|MODEL)(?=/|$)", lambda found: known[found[1]], word) for word in words]
    ended = typed("dvr", *words)
    assert ended.code == 2, ended.err
    assert ended.out == ""
    error = [line for line in ended.err.splitlines() if not line.startswith(("Reading", "Note:", "Warp"))]
    assert len(error) == 1
    assert error[0].startswith("Error: ")
    assert re.search(message, error[0]), error[0]
    assert {file: file.stat().st_mtime_ns for file in ugly.rglob("*")} == before
    last = typed("dvr", *words, "--json").lines[-1]
    assert (last["type"], last["exit_code"]) == ("error", 2)


def test_views_are_left_as_they_are(painted):
    assert len(read_views(painted).views) == 5


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["render", "MODEL", "--size", "16", "--orbit", "2", "-o", "VIEWS"], "holds views to paint on, and 0000.png"),
        (["render", "MODEL", "--size", "16", "-o", "VIEWS/0000.png"], "holds views to paint on, and 0000.png"),
        (["bake", "MODEL", "-o", "MODEL/provenance.json"], "holds a trained model, and provenance.json"),
        (["views", "CT", "--n", "1", "--size", "16", "-o", "MODEL"], "holds a trained model; views go"),
    ],
)
def test_nothing_of_a_model_or_of_views_is_written_over(typed, painted, model, patient, words, reason):
    places = {"MODEL": model, "VIEWS": painted, "CT": patient.ct}
    before = {file: file.read_bytes() for folder in (painted, model) for file in folder.rglob("*") if file.is_file()}
    named = ["/".join([str(places.get(head, head)), *rest]) for head, *rest in (word.split("/") for word in words)]
    ended = typed("dvr", *named)
    assert ended.code == 2
    assert reason in ended.err
    after = {file: file.read_bytes() for folder in (painted, model) for file in folder.rglob("*") if file.is_file()}
    assert after == before
