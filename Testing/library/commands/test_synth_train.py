"""`synth train`, `synth vrr` and `synth metrics`, from the command line to the files."""

import dataclasses
import json
import os
import shutil
import sys
import threading
import time

import labelled_cts
import numpy as np
import pytest
import torch
import xray_files
from PIL import Image

import diffrender as dr
from diffrender.commands.dvr.shared import check_device
from diffrender.commands.synth import films, train
from diffrender.errors import InputError, Notice, PathError
from diffrender.jobs import load_whole
from diffrender.synth import fidelity, vrr_settings
from diffrender.synth.fields import GeneratorSettings
from diffrender.synth.gan import Adversaries, StepLosses
from diffrender.synth.generator import VRRGenerator, generated_views, load_generator, save_generator
from diffrender.synth.vrr_settings import VRRSettings

TINY = VRRSettings(
    GeneratorSettings(lattice=4, detail=8, channels=(4, 6), points=20),
    discriminator=(4, 6),
    image_size=(12, 16),
    batch=2,
    previews=2,
    device="cpu",
)
OK = StepLosses(1.0, 1.0, 0.1, None, 0.5, True)
LOST = StepLosses(float("nan"), float("nan"), 0.1, None, 0.5, False)


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    return labelled_cts.write(tmp_path_factory.mktemp("ct"))


@pytest.fixture(scope="module")
def xrays(tmp_path_factory):
    """Five films of other sizes than each other, bright inside, dark at the rim."""
    folder = tmp_path_factory.mktemp("xrays")
    for n in range(5):
        h, w = 60 + 7 * n, 50 + 3 * n
        rows, columns = np.mgrid[0:h, 0:w]
        body = ((rows - h / 2) / (0.42 * h)) ** 2 + ((columns - 0.47 * w) / (0.4 * w)) ** 2 < 1
        bright = (60 + 90 * body + 60 * (rows > 0.6 * h) * body + (rows * 5 + columns * 3) % 17).astype(np.uint8)
        Image.fromarray(bright).save(folder / f"film{n}.png")
    return folder


@pytest.fixture
def tiny(monkeypatch):
    """A training that takes no time: its steps change nothing, and what they change is tested elsewhere."""
    monkeypatch.setitem(vrr_settings.PRESETS, "small", TINY)
    monkeypatch.setattr(Adversaries, "step", lambda *_: OK)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A generator as it is before any training, off its start."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        generator = VRRGenerator(TINY.generator)
        for weights in generator.parameters():
            torch.nn.init.normal_(weights, std=0.2)
    info = {"settings": {"spread": "pelvis-ap"}}
    return save_generator(tmp_path_factory.mktemp("model") / "model.safetensors", generator, info)


def test_a_generator_is_trained_and_the_same_command_goes_on(ct, xrays, tmp_path, typed, tiny, open_stdin):
    words = ("synth", "train", ct[0], "--xrays", xrays, "--view", "frontal", "--seed", 3, "-o", tmp_path / "vrr")
    ended = typed(*words, "--steps", 4, "--json")
    assert ended.code == 0, ended.err
    preview = tmp_path / "vrr" / "preview.png"
    steps = [line for line in ended.lines if line["type"] == "progress" and line["what"] == "Training"]
    assert (steps[-1]["done"], steps[-1]["preview"]) == (4, str(preview))
    assert ended.lines[-1]["outcome"] == "finished"
    kept = sorted(file.name for file in (tmp_path / "vrr" / "previews").iterdir())
    assert kept == ["step-000001.png", "step-000003.png", "step-000004.png"]  # an epoch is 5 films, two a step
    with Image.open(preview) as picture:
        assert picture.size == (32, 24)  # two views side by side, DRRs above
    history = json.loads((tmp_path / "vrr" / "history.json").read_text())
    assert [(line["epoch"], line["step"]) for line in history] == [(0, 1), (1, 3), (1, 4)]
    record = json.loads((tmp_path / "vrr" / "provenance.json").read_text())
    assert (record["seed"], len(record["inputs"]), record["settings"]["training"]["spread"]) == (3, 2, "frontal")
    generator, info = load_generator(tmp_path / "vrr" / "model.safetensors")
    assert (generator.settings, info["steps"]) == (TINY.generator, 4)

    went_on = typed(*words, "--steps", 6)
    assert "Finished after 6 steps" in went_on.out
    assert (tmp_path / "vrr" / "previews" / "step-000006.png").exists()
    assert (tmp_path / "vrr" / "previews" / "step-000005.png").exists()  # ten of five films were seen
    other = typed(*words[:-4], "--seed", 4, "-o", tmp_path / "vrr", "--steps", 6)
    assert (other.code, "save of another training" in other.err) == (2, True)


def test_cancel_on_stdin_saves_and_the_same_command_goes_on(ct, xrays, tmp_path, typed, tiny, monkeypatch):
    ours, theirs = os.pipe()
    out = tmp_path / "vrr"

    def cancel():
        while not (out / "preview.png").exists():  # of the first step
            time.sleep(0.01)
        os.write(theirs, b"cancel\n")

    threading.Thread(target=cancel, daemon=True).start()
    words = ("synth", "train", ct[0], "--xrays", xrays, "--view", "frontal", "-o", out)
    with os.fdopen(ours) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        ended = typed(*words, "--steps", 100_000, "--json")
    os.close(theirs)
    assert ended.code == 130
    assert "same command again" in ended.lines[-1]["message"]
    assert not (out / "model.safetensors").exists()
    saved = load_whole(out / "checkpoint.pt")["done"]
    assert typed(*words, "--steps", saved + 2).code == 0
    assert load_generator(out / "model.safetensors")[1]["steps"] == saved + 2


@pytest.mark.parametrize(("outcome", "said"), [("diverged", "no numbers"), ("collapsed", "collapsed")])
def test_what_diverges_or_collapses_says_so_and_is_no_success(
    ct, xrays, tmp_path, typed, tiny, monkeypatch, outcome, said
):
    if outcome == "diverged":
        monkeypatch.setattr(Adversaries, "step", lambda *_: LOST)
    else:
        monkeypatch.setattr("diffrender.synth.watch.FLAT", 2.0)
    words = ("synth", "train", ct[0], "--xrays", xrays, "--view", "frontal", "--steps", 99, "--batch", 1)
    ended = typed(*words, "-o", tmp_path / "vrr")
    assert ended.code == 1
    assert said in ended.err
    assert load_generator(tmp_path / "vrr" / "model.safetensors")[1]["outcome"] == outcome
    assert json.loads((tmp_path / "vrr" / "provenance.json").read_text())["settings"]["outcome"] == outcome


def test_pictures_are_the_generators_and_masks_lie_where_the_labels_do(ct, model, tmp_path, typed):
    words = ("synth", "vrr", ct[0], "--labels", ct[1], "--names", ct[2], "--model", model, "--preset", "frontal")
    ended = typed(*words, "--views", 3, "--seed", 5, "--size", "40x48", "-o", f"{tmp_path}/out/")
    assert ended.code == 0, ended.err
    assert "bone bright" in ended.out
    volume = dr.read_volume(ct[0], labels=ct[1], names=ct[2])
    wanted = list(generated_views(load_generator(model)[0], volume, 3, "frontal", (40, 48), seed=5))
    for n, (picture, camera) in enumerate(wanted):
        stem = tmp_path / "out" / f"{n:04d}"
        with Image.open(stem.with_suffix(".png")) as file:
            greys = np.asarray(file) / 65535
            assert json.loads(file.text["diffrender"])["kind"] == "presented"
        np.testing.assert_allclose(greys, picture[0].numpy(), atol=1e-5)  # of 16 bits
        with np.load(f"{stem}.labels.npz") as content:
            names, masks = [str(name) for name in content["names"]], content["masks"]
        left, right = (np.argwhere(masks[names.index(f"hip_{side}")]).mean(0) for side in ("left", "right"))
        # Where the labels' middles project to; half a pixel is what masks of a few pixels are off by.
        for side, middle in (("left", left), ("right", right)):
            voxels = volume.mask(1 if side == "left" else 2).nonzero().flip(1).double()
            points = voxels @ volume.world_from_voxel[:3, :3].T + volume.world_from_voxel[:3, 3]
            np.testing.assert_allclose(middle + 0.5, camera.project(points.mean(0)[None])[0].numpy(), atol=0.5)
        assert right[1] < left[1]  # as frontal films are hung
        assert {f"{stem}{ending}" for ending in (".camera.json", ".preview.png")} <= {
            str(file) for file in (tmp_path / "out").iterdir()
        }
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["seed"] == 5


def test_the_view_is_the_one_of_the_training_and_does_not_stray(ct, model, tmp_path, typed):
    assert typed("synth", "vrr", ct[0], "--model", model.parent, "--size", 24, "-o", tmp_path / "a.png").code == 0
    settings = json.loads((tmp_path / "a.provenance.json").read_text())["settings"]
    assert settings["view"] == "pelvis-ap"
    turned = np.array(json.loads((tmp_path / "a.camera.json").read_text())["world_from_camera"])[:3, :3]
    np.testing.assert_allclose(np.abs(turned), [[1, 0, 0], [0, 0, 1], [0, 1, 0]], atol=1e-12)
    assert not (tmp_path / "a.labels.npz").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--camera", "c.json", "--preset", "frontal"), "leave out --preset"),
        (("--camera", "c.json", "--views", 2), "leave out --views"),
        (("--views", 0), "from 1 to"),
        (("--preset", "sideways"), "sideways"),
        (("-o", "a.tif"), ".png"),
        (("--model", "nothing"), "nothing"),
        (("--model", "CT"), "no .safetensors file"),
    ],
)
def test_what_cannot_be_drawn_is_said(ct, model, tmp_path, typed, words, said):
    given = [ct[0] if word == "CT" else word for word in words]
    ended = typed("synth", "vrr", ct[0], "--model", model, *given)
    assert ended.code == 2
    assert said in ended.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--seconds", 5, "--steps", 5), "one budget"),
        (("--view", "sideways"), "sideways"),
        (("--size", 13), "multiples"),
        (("--device", "gpu"), "--device"),
        (("--xrays", "none"), "none"),
        (("--xrays", "empty"), "no radiographs"),
        (("--xrays", "one"), "one radiograph"),
        (("--xrays", "colour"), "no radiograph"),
        (("--view", "chest-pa"), "lungs"),
        (("-o", "one/vrr", "--xrays", "one"), "lies in"),
    ],
)
def test_what_cannot_be_trained_on_is_said(ct, xrays, typed, tiny, tmp_path, words, said):
    here = tmp_path / "here"  # where `typed` types
    for name in ("empty", "one", "colour"):
        (here / name).mkdir()
    shutil.copy(xrays / "film0.png", here / "one")
    for n in range(3):
        flowers = np.zeros((64, 64, 3), np.uint8)
        flowers[..., n] = np.arange(64, dtype=np.uint8) * 3
        Image.fromarray(flowers).save(here / "colour" / f"{n}.jpg")
    ended = typed("synth", "train", ct[0], "--xrays", xrays, "--view", "frontal", "--steps", 1, *words)
    assert ended.code == 2
    assert said in ended.err
    assert not (here / "vrr" / "model.safetensors").exists()


def test_choices_are_the_librarys():
    assert [preset.value for preset in train.Preset] == [*vrr_settings.PRESETS]
    check_device(VRRSettings().device)
    assert {field.name for field in dataclasses.fields(VRRSettings)} >= {"l1", "r1", "rate", "discriminator_rate"}


def test_distances_are_none_to_oneself_and_pictures_beside_are_left_out(xrays, tmp_path, typed):
    ended = typed("synth", "metrics", xrays, xrays, "--size", 32, "--json")
    result = ended.lines[-1]
    assert result["images"] == {"a": 5, "b": 5}
    assert result["distances"]["histogram"] == result["distances"]["spectrum"] == 0
    shutil.copytree(xrays, tmp_path / "more")
    Image.new("L", (60, 60), 90).save(tmp_path / "more" / "film0.preview.png")
    for n in range(3):
        with Image.open(xrays / f"film{n}.png") as picture:
            Image.fromarray(255 - (np.asarray(picture) // 2)[::-1]).save(tmp_path / "more" / f"film{n}.presented.png")
    assert typed("synth", "metrics", tmp_path / "more", xrays, "--size", 32, "--json").lines[-1] == result


def test_a_data_sets_masks_are_no_radiographs_and_absent_weights_are_said(xrays, tmp_path, typed, monkeypatch):
    data = tmp_path / "set"
    shutil.copytree(xrays, data / "images")
    shutil.copytree(xrays, data / "masks")
    lines = [json.dumps({"image": f"images/film{n}.png"}) for n in range(3)]
    (data / "manifest.jsonl").write_text("\n".join(lines))
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    ended = typed("synth", "metrics", data, xrays, "--size", 32, "--fidelity", "--json")
    assert ended.code == 0
    result = ended.lines[-1]
    assert result["images"] == {"a": 3, "b": 5}
    assert "torch-fidelity" in result["fidelity_missing"]
    assert "fid" not in result["distances"]

    def network(pictures):
        return pictures.mean((2, 3)) + pictures[:, :, 0, 0], pictures[:, 0, :4, 0]

    monkeypatch.setattr(fidelity, "inception", lambda: network)
    told = typed("synth", "metrics", data, xrays, "--size", 32, "--fidelity")
    assert all(f"  {name} " in told.out for name in ("histogram", "spectrum", "patches", "fid", "kid", "is"))


def test_bad_sets_are_said(xrays, tmp_path, typed):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "manifest.jsonl").write_text('{"image": "images/a.png"}\n{"image": \n')
    broken = typed("synth", "metrics", tmp_path / "set", xrays)
    assert (broken.code, "line 2 is no JSON" in broken.err) == (2, True)
    assert typed("synth", "metrics", xrays / "film0.png", xrays).code == 2
    assert typed("synth", "metrics", xrays, xrays, "--size", "8").code == 2


def test_files_of_one_name_get_names_of_their_own(xrays, tmp_path, typed):
    assert films.stems(["a/x.png", "b/x.png", "x.nii.gz", "y.dcm"]) == ["x", "x-2", "x-3", "y"]
    given = films.films_given([str(xrays), str(xrays / "film1.png")])
    assert len(given) == 5  # none twice
    xray_files.write_frame(
        tmp_path / "a.dcm", xray_files.picture(50, 44), "DX", PhotometricInterpretation="MONOCHROME1"
    )
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.warns(Notice, match="Left out"):
        assert [stem for stem, _ in films.films_given([str(tmp_path)]).read()] == ["a"]
    with pytest.raises(InputError):
        list(films.films_given([str(tmp_path / "b.png")]).read())
    with pytest.raises(PathError, match="no radiographs"):
        films.films_given([str(tmp_path / "here")])
