"""A classifier that learns from a manifest: labels in view and findings, AUC, resumed, saved safely, reported."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from diffrender.errors import LabelError, PathError, SettingError
from diffrender.synth.classifier import ClassifierSettings, load_classifier, save_classifier
from diffrender.synth.classifying import (
    Labelled,
    auc,
    aucs,
    labelled_in_manifest,
    labels_in_manifest,
    train_classifier,
)
from diffrender.synth.classifying_report import classification_page
from diffrender.synth.course import Training
from diffrender.synth.films import Film

NAMES = ("nodule", "device_left", "device_right")
TINY = Training(steps=60, batch=8, rate=1e-2, network="tiny", image_size=(32, 32), score_every=60)


def made(number: int) -> Labelled:
    """A grey gradient; a bright disc in the middle is the nodule, a bar at a side the device."""
    shows = np.array([number & 1, number & 2, number & 4], dtype=bool)
    rows, columns = np.mgrid[0:40, 0:44].astype(np.float32)
    grey = 0.2 + 0.2 * rows / 40 + 0.01 * (number % 5)
    if shows[0]:
        grey += 0.5 * ((rows - 20) ** 2 + (columns - 22) ** 2 < 36)
    for at, there in ((38, shows[1]), (5, shows[2])):  # the patient's left is on the image's right
        grey += 0.5 * there * (np.abs(columns - at) < 3)
    return Labelled(Film(np.clip(grey, 0, 1).astype(np.float32), f"{number}.png"), shows)


@pytest.fixture(scope="module")
def labelled() -> list[Labelled]:
    return [made(number) for number in range(16)]


@pytest.fixture(scope="module")
def trained(labelled):
    return train_classifier(labelled, NAMES, TINY, held_out=labelled[:8]).run()


def test_auc_counts_pairs_in_order():
    sure = np.array([0.1, 0.4, 0.35, 0.8])
    assert auc(sure, np.array([False, False, True, True])) == pytest.approx(0.75)
    assert auc(np.array([0.5, 0.5, 0.9]), np.array([True, False, True])) == pytest.approx(0.75)  # a tie counts half
    assert np.isnan(auc(sure, np.ones(4, dtype=bool)))


def test_it_learns_all_labels_at_once_each_on_its_side(trained, labelled):
    values = aucs(trained.classifier, labelled)
    assert min(values) > 0.8  # untrained they lie about 0.5
    assert set(trained.learned.scores) == {"auc", *(f"auc of {name}" for name in NAMES)}


def test_stopped_and_resumed_it_ends_where_it_would_have(tmp_path, labelled, trained):
    job = train_classifier(labelled, NAMES, TINY, tmp_path / "a.ckpt")
    for progress in job:
        if progress.done == 31:
            job.cancel()
    again = train_classifier(labelled, NAMES, TINY, tmp_path / "a.ckpt").run()
    for name, weight in trained.classifier.network.state_dict().items():
        assert torch.equal(weight, again.classifier.network.state_dict()[name]), name


def test_a_model_file_is_safe(tmp_path, trained, labelled):
    path = save_classifier(tmp_path / "a.safetensors", trained.classifier)
    loaded = load_classifier(path)
    film = labelled[3].film
    assert np.array_equal(loaded.probabilities(film), trained.classifier.probabilities(film))
    assert loaded.settings.names == NAMES
    torch.save({}, tmp_path / "b.safetensors")
    with pytest.raises(PathError, match="pickle"):
        load_classifier(tmp_path / "b.safetensors")


def test_labels_come_from_the_manifest(tmp_path, labelled):
    lines = []
    for number, one in enumerate(labelled[:6]):
        Image.fromarray((one.film.values * 65535).astype(np.uint16)).save(tmp_path / f"{number}.png")
        labels = [{"id": 1, "name": "heart", "pixels": 9}, {"id": 2, "name": "aorta", "pixels": 9 * (number % 2)}]
        finding = {0: "effusion", 1: ["effusion", "mass"], 2: {"mass": 1, "effusion": 0}}.get(number)
        split = "test" if number == 5 else "train"
        lines.append({"image": f"{number}.png", "labels": labels, "finding": finding, "split": split})
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert labels_in_manifest(tmp_path) == ("aorta", "effusion", "mass")  # the heart shows in all
    found = labelled_in_manifest(tmp_path, ("effusion", "mass", "aorta"))
    assert [one.shows.tolist() for one in found] == [
        [True, False, False],
        [True, True, True],
        [False, True, False],
        [False, False, True],
        [False, False, False],
    ]
    assert len(labelled_in_manifest(tmp_path, ("aorta",), "test")) == 1
    with pytest.raises(LabelError, match="all show heart"):
        labelled_in_manifest(tmp_path, ("aorta", "heart"))


def test_the_page_shows_the_most_wrong_first(trained, labelled):
    wrong = dataclasses.replace(labelled[7], shows=~labelled[7].shows)
    films = [one.film for one in labelled]
    page = classification_page(trained.classifier, films, [*labelled[:7], wrong, *labelled[8:]])
    assert page.index("7.png: ") == min(page.index(f"{n}.png: ") for n in (0, 3, 7))
    assert page.count("<img") == 16
    assert "AUC" in page
    assert "AUC" not in classification_page(trained.classifier, films[:2])


def test_what_cannot_be_is_refused(labelled):
    with pytest.raises(SettingError, match="network is one of"):
        ClassifierSettings(NAMES, "resnet")
    with pytest.raises(LabelError, match="a yes or no for each"):
        train_classifier(labelled, NAMES[:2], TINY)
    with pytest.raises(LabelError, match="one is needed"):
        train_classifier([], NAMES, TINY)
