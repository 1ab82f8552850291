"""`synth segment` and `synth classify`, from the command line to masks, tables and pages."""

import csv
import json
import shutil

import labelled_cts
import numpy as np
import pytest
from PIL import Image

from diffrender.commands.synth import classify, learning, segment
from diffrender.commands.synth.segment_pairs import Pairs, mask_ids, ratio_of, rules_of, source_of
from diffrender.commands.synth.segmented import Masks, scores_csv, scores_text
from diffrender.errors import LabelError, SettingError
from diffrender.synth.classifier import DENSENETS, load_classifier
from diffrender.synth.classifying import CLASSIFY_PRESETS
from diffrender.synth.films import Film, read_film
from diffrender.synth.pairs import Films, Generated, Masked, Mixed, masked_in_folder
from diffrender.synth.scores import Scored, evaluate_segmenter
from diffrender.synth.segmenter import NETWORKS, load_segmenter
from diffrender.synth.segmenting import SEGMENT_PRESETS

HIPS = ("--learn", "hip_left", "--learn", "hip_right")
TINY = ("--network", "tiny", "--size", 32, "--batch", 2)
NOTHING = Pairs([], [], [], None, None, None, None, False, [], [], 2, None, 0)


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    return labelled_cts.write(tmp_path_factory.mktemp("ct"))


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Films with two bright spots, the lower one on the image's right, and masks of ids 1 (right side) and 2."""
    folder = tmp_path_factory.mktemp("films")
    for name in ("images", "masks", "others", "other_masks"):
        (folder / name).mkdir()
    for n in range(4):
        h, w = 44 + 4 * n, 52 - 3 * n
        rows, columns = np.mgrid[0:h, 0:w]
        first = (rows - 0.6 * h) ** 2 + (columns - 0.7 * w) ** 2 < (0.15 * h) ** 2
        second = (rows - 0.4 * h) ** 2 + (columns - 0.3 * w) ** 2 < (0.1 * h) ** 2
        grey = 20 + 60 * (abs(columns - w / 2) < 0.4 * w) + 120 * (first | second) + (rows + 3 * columns) % 7
        images, masks = ("images", "masks") if n < 3 else ("others", "other_masks")
        Image.fromarray(grey.astype(np.uint8)).save(folder / images / f"film{n}.png")
        Image.fromarray((first + 2 * second).astype(np.uint8)).save(folder / masks / f"film{n}.png")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory, films):
    """A data set by hand: the first film of the test split, a mask in a file for each label."""
    folder = tmp_path_factory.mktemp("set")
    shutil.copytree(films / "images", folder / "images")
    lines = []
    (folder / "masks").mkdir()
    for n in range(3):
        with Image.open(films / "masks" / f"film{n}.png") as picture:
            ids = np.asarray(picture)
        masks = {}
        for label, name in ((1, "hip_left"), (2, "hip_right")):
            masks[name] = f"masks/{n}-{name}.png"
            Image.fromarray(((ids == label) * 255).astype(np.uint8)).save(folder / masks[name])
        labels = [{"id": 2, "name": "hip_right", "pixels": 9}, {"id": 1, "name": "hip_left", "pixels": 9}]
        finding = {"nodule": n != 1}
        lines.append({"image": f"images/film{n}.png", "masks": masks, "labels": labels, "finding": finding})
        lines[-1]["split"] = "test" if n == 2 else "train"
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def trained(ct, films, tmp_path_factory):
    """A segmenter of hips, of a CT, as the command makes it."""
    from diffrender.__main__ import main

    out = tmp_path_factory.mktemp("trained") / "hips"
    words = ["synth", "segment", "--ct", ct[0], "--labels", ct[1], "--names", ct[2], *HIPS, "--views", 2, *TINY]
    words += ["--test", films / "images", "--test-masks", films / "masks", "--steps", 3, "--seed", 7, "-o", out]
    assert main([str(word) for word in words]) == 0
    return out


def test_a_segmenter_is_trained_on_a_ct_and_scored(trained, films):
    segmenter = load_segmenter(trained / "model.safetensors")
    assert segmenter.settings.names == ("hip_left", "hip_right")
    assert segmenter.info["steps"] == 3
    masked = masked_in_folder(films / "images", films / "masks", {1: "hip_left", 2: "hip_right"})
    scored = evaluate_segmenter(segmenter, masked)
    assert (trained / "scores.csv").read_text() == scores_csv(scored, segmenter.settings.names)
    page = (trained / "report.html").read_text(encoding="utf-8")
    assert page.index(f"film{scored[0].film.name[-5]}.png:") < page.index(f"film{scored[-1].film.name[-5]}.png:")
    assert json.loads((trained / "history.json").read_text())[-1]["step"] == 3
    record = json.loads((trained / "provenance.json").read_text())
    assert (record["seed"], len(record["inputs"])) == (7, 5)


def test_the_same_command_goes_on_and_ends_at_once(trained, ct, films, tmp_path, typed):
    shutil.copytree(trained, tmp_path / "hips")
    words = ["synth", "segment", "--ct", ct[0], "--labels", ct[1], "--names", ct[2], *HIPS, "--views", 2, *TINY]
    words += ["--steps", 3, "-o", tmp_path / "hips"]
    before = (tmp_path / "hips" / "model.safetensors").read_bytes()
    ended = typed(*words, "--seed", 7)
    assert "Nothing was kept out" in ended.out
    again = load_segmenter(tmp_path / "hips" / "model.safetensors").network.state_dict()
    first = load_segmenter(trained / "model.safetensors").network.state_dict()
    assert all((again[name] == first[name]).all() for name in first)
    assert len(before) > 1000
    assert typed(*words, "--seed", 8).code == 2  # the save is of another training


def test_radiographs_are_segmented(trained, films, tmp_path, typed, open_stdin):
    ended = typed("synth", "segment", "--model", trained, films / "images", films / "others/film3.png", "-o", "out")
    assert ended.code == 0, ended.err
    out = tmp_path / "here" / "out"
    assert [file.name for file in sorted((out / "masks").iterdir())] == [f"film{n}.png" for n in range(4)]
    assert (out / "names.csv").read_text() == "id,name\n1,hip_left\n2,hip_right\n"
    segmenter = load_segmenter(trained / "model.safetensors")
    found = segmenter.segment(read_film(films / "others" / "film3.png"))
    with Image.open(out / "masks" / "film3.png") as picture:
        ids = np.asarray(picture)
    assert ids.shape == found.shape[1:]
    assert (ids == 2).sum() == found[1].sum()
    np.testing.assert_array_equal(ids == 1, found[0] & ~found[1])
    assert "film3.png" in (out / "report.html").read_text(encoding="utf-8")
    every = typed("synth", "segment", "--model", trained, films / "others", "--masks", "npz", "-o", "every", "--json")
    assert every.lines[-1]["labels"] == ["hip_left", "hip_right"]
    with np.load(tmp_path / "here" / "every" / "masks" / "film3.npz") as content:
        np.testing.assert_array_equal(content["masks"], found)
        assert [str(name) for name in content["names"]] == ["hip_left", "hip_right"]


def test_a_trained_one_is_scored_on_others_by_a_table_of_ids(trained, films, tmp_path, typed, open_stdin):
    (tmp_path / "ids.csv").write_text("id,name\n2,hip_left\n1,hip_right\n5,sacrum\n")
    words = ("--test", films / "others", "--test-masks", films / "other_masks", "-o", "out", "--json")
    result = typed("synth", "segment", "--model", trained, *words).lines[-1]
    turned = typed("synth", "segment", "--model", trained, "--mask-names", tmp_path / "ids.csv", *words).lines[-1]
    segmenter = load_segmenter(trained / "model.safetensors")
    for told, ids in ((result, (1, 2)), (turned, (2, 1))):
        table = dict(zip(ids, segmenter.settings.names, strict=True))
        scored = evaluate_segmenter(segmenter, masked_in_folder(films / "others", films / "other_masks", table))
        assert told["dice"] == pytest.approx(scored[0].mean)
        assert told["dice_of"]["hip_left"] == pytest.approx(scored[0].dice[0])
    assert result["dice_of"] != turned["dice_of"]


def test_scores_are_told_with_the_worst(films):
    film = Film(np.zeros((32, 32), np.float32), "a/x.png")
    blank = np.zeros((2, 32, 32), dtype=bool)
    scored = [Scored(Masked(film, blank, blank[0]), blank, dice) for dice in ((0.25, float("nan")), (0.5, 1.0))]
    assert scores_csv(scored, ("a", "b")).splitlines()[1] == "x.png,0.2500,0.2500,"
    assert "0.500 on average (a 0.375, b 1.000); the worst 0.250 (x.png)" in scores_text(scored, ("a", "b"))
    assert scores_text([], ("a",)) == ""


def test_what_is_learned_from_is_what_was_asked_for(ct, films, data):
    from diffrender.commands.console import Console

    def asked(**changes):
        return Pairs(**{**vars(NOTHING), **changes})

    real = {"real": str(films / "images"), "real_masks": str(films / "masks")}
    hips = {"learn": ("hip_left", "hip_right")}
    cts = {"cts": [ct[0]], "labels": [ct[1]], "names": [ct[2]], "views": 1}
    alone = asked(**real, **hips)
    source = source_of(alone, rules_of(alone), Console())
    assert isinstance(source, Films)
    assert [one.masks.sum() > 0 for one in source.masked] == [True] * 3
    mixed = asked(**real, **cts, **hips, mix="3/1")
    source = source_of(mixed, rules_of(mixed), Console())
    assert isinstance(source, Mixed)
    assert (source.share, type(source.generated), type(source.real)) == (0.75, Generated, Films)
    both = asked(data=str(data), **cts)  # what is learned is what the data set lists, by id
    source = source_of(both, rules_of(both), Console())
    assert isinstance(source, Mixed)
    assert source.names == ("hip_left", "hip_right")
    assert len(source.real.masked) == 2  # the third is of the test split


def test_rules_are_those_of_data_sets():
    def rules(lungs, *learn):
        return rules_of(Pairs(**{**vars(NOTHING), "lungs": lungs, "learn": learn}))

    right, left = rules(True)
    assert (right.joined, left.joined, left.outline) == ("lung_right", "lung_left", "lung")
    assert rules(False, "lung_left") == (left,)
    (ribs,) = rules(False, "ribs=rib_*")
    assert (ribs.joined, ribs.names, ribs.threshold) == ("ribs", "rib_*", 2.0)
    (liver,) = rules(False, "liver")
    assert (liver.joined, liver.names, liver.threshold) == (None, "liver", 5.0)
    for wrong in ("=a", "a="):
        with pytest.raises(SettingError, match="--learn is"):
            rules(False, wrong)
    with pytest.raises(SettingError, match="learned once"):
        rules(True, "lung_left")


@pytest.mark.parametrize(
    ("text", "ratio"), [(None, 1), ("0", 0), ("3/1", 3), ("1/4", 0.25), ("inf", np.inf), ("1/0", np.inf)]
)
def test_ratios(text, ratio):
    assert ratio_of(text) == ratio


@pytest.mark.parametrize("text", ["-1", "0/0", "a", "1/2/3", "nan", "1:2"])
def test_ratios_that_are_none(text):
    with pytest.raises(SettingError, match="--mix"):
        ratio_of(text)


def test_ids_of_masks(tmp_path):
    (tmp_path / "ids.csv").write_text("id,name\n4,a\n9,b\n")
    assert mask_ids(("b", "a"), None) == {1: "b", 2: "a"}
    assert mask_ids(("b", "a"), str(tmp_path / "ids.csv")) == {9: "b", 4: "a"}
    with pytest.raises(LabelError, match="not c"):
        mask_ids(("a", "c"), str(tmp_path / "ids.csv"))


REAL = ("--real", "FILMS/images", "--real-masks", "FILMS/masks")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "Say what to learn from"),
        (("FILMS/images",), "with --model"),
        (("--ct", "CT"), "Say what to learn:"),
        (("--real", "FILMS/images", *HIPS), "go together"),
        (("--test", "FILMS/images", "--ct", "CT", *HIPS), "go together"),
        (("--ct", "CT", *HIPS, "--mix", "2"), "--mix is of generated and real"),
        (("--ct", "CT", *HIPS, "--labels", "a", "--labels", "b"), "1 CTs and 2 labels"),
        (("--ct", "CT", "--learn", "liver", "--view", "frontal"), "liver"),
        (("--ct", "CT", "--lungs"), "ung"),
        (("--ct", "CT", *HIPS, "--size", 33), "multiples"),
        ((*REAL, *HIPS, "--learn", "sacrum"), "has a pixel of 3, which stands for sacrum"),
        ((*REAL, *HIPS, "--test", "FILMS/images", "--test-masks", "FILMS/masks"), "3 of the radiographs"),
        (("--real", "FILMS/images", "--real-masks", "FILMS/images/none", *HIPS), "no mask for any"),
        (("--data", "FILMS"), "manifest"),
        (("--data", "SET", "--learn", "liver"), "shows liver"),
        (("--data", "SET", "-o", "SET/model"), "lies in"),
        (("--model", "MODEL"), "which radiographs"),
        (("--model", "MODEL", "FILMS/masks/none"), "none"),
        (("--model", "MODEL", "FILMS/images", "--lungs"), "leave out --lungs"),
        (("--model", "FILMS", "FILMS/images"), "no model.safetensors"),
    ],
)
def test_what_cannot_be_segmented_is_said(ct, films, data, trained, tmp_path, typed, words, said):
    places = {"CT": ct[0], "FILMS": str(films), "SET": str(data), "MODEL": str(trained)}

    def place(word):
        first, slash, rest = str(word).partition("/")
        return places.get(first, first) + slash + rest

    ended = typed("synth", "segment", *TINY, "--steps", 1, *map(place, words))
    assert ended.code == 2, ended.err
    assert said in ended.err
    assert not (tmp_path / "here" / "segmenter").exists()


@pytest.mark.parametrize(("masks", "said"), [("gone.npz", "cannot be read"), ("images/film0.png.npz", "pickled")])
def test_masks_of_a_manifest_that_cannot_be_read_are_said(films, tmp_path, typed, masks, said):
    shutil.copytree(films / "images", tmp_path / "set" / "images")
    shutil.copy(films / "images" / "film0.png", tmp_path / "set" / "images" / "film0.png.npz")
    line = {"image": "images/film0.png", "masks": masks, "labels": [{"id": 1, "name": "hip_left"}]}
    (tmp_path / "set" / "manifest.jsonl").write_text(json.dumps(line))
    ended = typed("synth", "segment", *TINY, "--data", tmp_path / "set")
    assert (ended.code, said in ended.err, masks in ended.err) == (2, True, True)


def test_masks_that_are_no_pictures_or_of_another_size_are_said(films, tmp_path, typed):
    shutil.copytree(films / "others", tmp_path / "x")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "film3.png").write_text("no picture")
    words = ("synth", "segment", *TINY, *HIPS, "--real", tmp_path / "x", "--real-masks", tmp_path / "m")
    ended = typed(*words)
    assert (ended.code, "picture of ids" in ended.err) == (2, True)
    Image.new("L", (30, 40), 1).save(tmp_path / "m" / "film3.png")
    ended = typed(*words)
    assert (ended.code, "must be alike" in ended.err) == (2, True)


def test_a_classifier_is_trained_and_judges(data, films, tmp_path, typed, open_stdin):
    words = ("synth", "classify", "--data", data, *TINY, "--steps", 2, "--seed", 5, "-o", tmp_path / "found")
    ended = typed(*words)
    assert ended.code == 0, ended.err
    assert "On 1 images kept out" in ended.out
    classifier = load_classifier(tmp_path / "found" / "model.safetensors")
    assert classifier.settings.names == ("nodule",)  # all images show the hips
    assert json.loads((tmp_path / "found" / "provenance.json").read_text())["seed"] == 5
    assert "film2.png" in (tmp_path / "found" / "report.html").read_text(encoding="utf-8")

    judged = typed("synth", "classify", "--model", tmp_path / "found", films / "images", "-o", "judged", "--json")
    assert judged.code == 0, judged.out
    with (tmp_path / "here" / "judged" / "probabilities.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["file"].endswith(f"film{n}.png") for n, row in enumerate(rows)] == [True] * 3
    for row, told in zip(rows, judged.lines[-1]["images"], strict=True):
        sure = classifier.probabilities(read_film(row["file"]))
        assert float(row["nodule"]) == pytest.approx(float(sure[0]), abs=1e-4)  # four digits
        assert told["probabilities"]["nodule"] == pytest.approx(float(sure[0]))
    assert (tmp_path / "here" / "judged" / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "which data set"),
        (("FILMS/images",), "with --model"),
        (("--data", "SET", "--learn", "hip_left"), "all show hip_left"),
        (("--data", "PLAIN"), "nothing to tell apart"),
        (("--data", "BROKEN"), "line 2 is no JSON"),
        (("--data", "ODD"), "line 1: labels"),
        (("--data", "GONE"), "there-is-none.png"),
        (("--model", "SET", "--data", "SET"), "leave out --data"),
        (("--data", "SET", "--device", "cuda"), "--device cuda"),
    ],
)
def test_what_cannot_be_classified_is_said(films, data, tmp_path, typed, words, said, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    lines = {
        "PLAIN": '{"image": "images/film0.png"}\n',
        "BROKEN": '{"image": "images/film0.png"}\n{"image": \n',
        "ODD": '{"image": "images/film0.png", "labels": ["nodule"]}\n',
        "GONE": '{"image": "there-is-none.png", "finding": "a"}\n{"image": "images/film0.png"}\n',
    }
    for name, text in lines.items():
        shutil.copytree(films / "images", tmp_path / name / "images")
        (tmp_path / name / "manifest.jsonl").write_text(text)
    places = {"FILMS": str(films), "SET": str(data), **{name: str(tmp_path / name) for name in lines}}

    def place(word):
        first, slash, rest = str(word).partition("/")
        return places.get(first, first) + slash + rest

    ended = typed("synth", "classify", *TINY, "--steps", 1, *map(place, words))
    assert ended.code == 2, ended.err
    assert said in ended.err


def test_choices_are_the_librarys():
    assert [one.value for one in segment.Preset] == [*SEGMENT_PRESETS]
    assert sorted(one.value for one in segment.Network) == sorted(NETWORKS)
    assert [one.value for one in classify.Preset] == [*CLASSIFY_PRESETS]
    assert sorted(one.value for one in classify.Network) == sorted(DENSENETS)
    assert [one.value for one in learning.Device] == ["auto", "cpu", "cuda"]
    assert [one.value for one in Masks] == ["png", "npz"]
