"""Data sets: the same bytes whatever the order, the processes or the accidents on the way."""

import hashlib
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import labelled_cts
import numpy as np
import pydicom
import pytest
import torch
from PIL import Image

import diffrender as dr
from diffrender.errors import LabelError, Notice, OutputError, PathError, SettingError
from diffrender.synth.cases import Case, known
from diffrender.synth.datasets import DatasetSettings, dataset, split_of
from diffrender.synth.imaging import Imaging, camera_of
from diffrender.synth.manifest import read_manifest
from diffrender.synth.store import Store

SMALL = Imaging(view="frontal", image_size=(24, 32))


@pytest.fixture(scope="module")
def cts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cts")
    return [Case(*labelled_cts.write(folder / name, seed)) for seed, name in enumerate(("one", "two"))]


@pytest.fixture(scope="module")
def plain(cts, tmp_path_factory):
    """Two CTs, three views each, made in one go by this process."""
    folder = tmp_path_factory.mktemp("plain")
    settings = DatasetSettings(views=3, seed=5, imaging=SMALL)
    return folder, settings, dataset(cts, folder, settings).run()


def hashes(folder):
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(Path(folder).rglob("*"))
        if file.is_file()
    }


def test_each_image_is_the_radiograph_of_its_camera_with_its_masks(plain, cts):
    folder, _, made = plain
    assert [entry["name"] for entry in read_manifest(folder)] == [entry["name"] for entry in made.entries]
    assert len(made.entries) == 6
    hash_of_one = known(cts[0]).ct
    entry = next(e for e in made.entries if e["ct"] == hash_of_one and e["view"] == 2)
    camera = dr.Camera.from_dict(entry["camera"])
    volume = dr.read_volume(cts[0].path, labels=cts[0].labels, names=cts[0].names)
    again = dr.radiograph(volume, camera)
    stored = np.load(folder / entry["masks"])
    at = {str(name): n for n, name in enumerate(stored["names"])}
    for n, label in enumerate(again.ids):
        lengths = stored["path_lengths"][at[again.label_name(label)]]
        # float16 keeps 11 bits
        np.testing.assert_allclose(lengths, again.path_lengths[n].numpy(), rtol=6e-4, atol=1e-3)
    left = at["hip_left"]
    rule = next(rule for rule in dr.synth.Imaging().rules if rule.fits("hip_left") and not rule.joined)
    assert (stored["masks"][left] == (again.path_lengths[list(again.ids).index(1)].numpy() > rule.threshold)).all()
    shown = {label["name"]: label for label in entry["labels"]}
    rows, columns = stored["masks"][left].nonzero()
    assert shown["hip_left"]["pixels"] == len(rows)
    box = [columns.min(), rows.min(), columns.max() - columns.min() + 1, rows.max() - rows.min() + 1]
    assert shown["hip_left"]["box"] == box
    with Image.open(folder / entry["image"]) as picture:
        about = json.loads(picture.text["diffrender"])
        values = np.asarray(picture) * about["slope"] + about["intercept"]
    through_bone = stored["masks"][left]
    assert about["kind"] == entry["values"] == "log-attenuation"
    assert np.corrcoef(values.ravel(), again.pixels[0].numpy().ravel())[0, 1] > 0.95  # physics: the same body
    assert values[through_bone].mean() > values.mean()
    # the patient's left is on the image's right
    assert columns.mean() > 16 > stored["masks"][at["hip_right"]].nonzero()[1].mean()


def test_nothing_in_it_tells_of_paths_times_or_processes(plain, cts):
    folder, _, _ = plain
    text = "".join(file.read_text(encoding="utf-8") for file in folder.iterdir() if file.is_file())
    assert str(Path(cts[0].path).parent) not in text
    assert "workers" not in text
    assert not any(word in text for word in (str(folder), time.strftime("%Y-%m-%d")))
    assert {file.name for file in folder.iterdir()} == {
        "images",
        "masks",
        "manifest.jsonl",
        "coco.json",
        "dataset.json",
    }


def test_order_of_cts_and_processes_do_not_matter(plain, cts, tmp_path):
    folder, settings, _ = plain
    done = dataset([cts[1], cts[0], cts[1]], tmp_path / "other", settings, workers=2)
    with pytest.warns(Notice, match="given twice"):
        done.run()
    assert hashes(tmp_path / "other") == hashes(folder)


def test_a_job_that_is_cancelled_goes_on_where_it_was(plain, cts, tmp_path):
    folder, settings, _ = plain
    job = dataset(cts, tmp_path / "set", settings)
    for progress in job:
        if progress.done == 2:
            job.cancel()
    assert job.cancelled
    kept = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "set" / "images").iterdir()}
    assert len(kept) == 2
    (tmp_path / "set" / "images" / ".diffrender-0123456789ab.part").write_bytes(b"half")  # of a writer that was killed
    again = dataset(cts, tmp_path / "set", settings)
    first = next(p for p in again if p.total)
    assert (first.done, first.total) == (2, 6)
    again.run()
    assert hashes(tmp_path / "set") == hashes(folder)
    after = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "set" / "images").iterdir()}
    assert all(after[name] == time_ for name, time_ in kept.items()), "images that were there were made again"
    assert [p.done for p in dataset(cts, tmp_path / "set", settings)] == [0, 6]  # complete: nothing is done


def test_killed_and_started_again_it_ends_as_the_same_bytes(plain, cts, tmp_path):
    folder, settings, _ = plain
    script = tmp_path / "make.py"
    script.write_text(
        "import sys, torch\n"
        "from diffrender.synth.datasets import DatasetSettings, dataset\n"
        "from diffrender.synth.cases import Case\n"
        "from diffrender.synth.imaging import Imaging\n"
        "torch.set_num_threads(1)\n"
        f"cases = [Case(*paths) for paths in {[(c.path, c.labels, c.names) for c in cts]!r}]\n"
        "settings = DatasetSettings(views=3, seed=5, imaging=Imaging(view='frontal', image_size=(24, 32)))\n"
        "for progress in dataset(cases, sys.argv[1], settings):\n"
        "    print(progress.done, flush=True)\n"
    )
    target = tmp_path / "set"
    for kill_at in ("1", "4"):
        with subprocess.Popen([sys.executable, script, target], stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                if line.strip() == kill_at:
                    process.kill()
                    break
    assert not (target / "manifest.jsonl").exists()
    dataset(cts, target, settings).run()
    assert hashes(target) == hashes(folder)


def test_more_views_and_cts_are_added_and_what_is_there_stays(plain, cts, tmp_path):
    folder, settings, _ = plain
    dataset(cts[:1], tmp_path / "set", replace(settings, views=2)).run()
    before = hashes(tmp_path / "set" / "images")
    dataset(cts, tmp_path / "set", settings).run()
    after = hashes(tmp_path / "set")
    assert before.items() <= hashes(tmp_path / "set" / "images").items()
    assert after == hashes(folder)


@pytest.mark.parametrize(
    ("change", "named"),
    [({"seed": 6}, "seed"), ({"views": 2}, "fewer"), ({"imaging": replace(SMALL, image_size=(24, 24))}, "imaging")],
)
def test_another_data_set_in_the_folder_is_refused(plain, cts, change, named):
    folder, settings, _ = plain
    with pytest.raises(PathError, match=named):
        dataset(cts, folder, replace(settings, **change)).run()
    with pytest.raises(PathError, match="not among those given"):
        dataset(cts[:1], folder, settings).run()


def test_a_volume_in_memory_stands_for_its_files(cts, tmp_path):
    one, two = (dr.read_volume(case.path, labels=case.labels, names=case.names) for case in cts)
    settings = DatasetSettings(views=2, imaging=SMALL)
    made = dataset([one, two], tmp_path / "alone", settings).run()
    dataset([two, one], tmp_path / "pool", settings, workers=2).run()
    assert len({entry["ct"] for entry in made.entries}) == 2
    assert {label["name"] for label in made.entries[0]["labels"]} == {"hip_left", "hip_right", "nodule"}
    assert hashes(tmp_path / "alone") == hashes(tmp_path / "pool")
    renamed = replace(one, names={1: "other", 2: "hip_right", 5: "nodule"})
    assert known(Case(renamed)).ct == known(Case(one)).ct
    assert known(Case(renamed)).key != known(Case(one)).key


def test_a_manifest_of_somebody_else_is_not_overwritten(cts, tmp_path):
    (tmp_path / "manifest.jsonl").write_text('{"image": "mine.png"}\n')
    with pytest.raises(PathError, match="not made here"):
        dataset(cts, tmp_path, DatasetSettings(views=1, imaging=SMALL)).run()


def test_two_writers_in_one_folder_are_kept_apart(cts, tmp_path):
    with Store(str(tmp_path)).held("A data set"), pytest.raises(OutputError, match="data set is writing"):
        dataset(cts, tmp_path, DatasetSettings(views=1, imaging=SMALL)).run()


def test_a_view_hangs_on_its_ct_its_number_and_the_seed_alone(cts):
    case = known(cts[0])
    volume = dr.read_volume(cts[0].path)
    first = camera_of(volume, case, 3, 1, SMALL).to_dict()
    assert camera_of(volume, case, 3, 1, SMALL).to_dict() == first
    assert camera_of(volume, case, 4, 1, SMALL).to_dict() != first
    assert camera_of(volume, case, 3, 2, SMALL).to_dict() != first
    assert camera_of(volume, replace(case, ct="0" * 64), 3, 1, SMALL).to_dict() != first


def test_noise_differs_from_view_to_view_and_not_from_day_to_day(plain):
    folder, _, made = plain
    assert len({hashlib.sha256((folder / e["image"]).read_bytes()).hexdigest() for e in made.entries}) == 6
    physics = made.entries[0]["physics"]
    assert physics["kvp"] == 75.0
    assert made.entries[0]["synthetic"] is True


@pytest.mark.parametrize("masks", ["tiff", "png"])
def test_masks_as_pictures_say_the_same(plain, cts, tmp_path, masks):
    folder, settings, made = plain
    imaging = replace(SMALL, masks=masks, image="nifti", physics=None)
    other = dataset(cts[:1], tmp_path, replace(settings, views=1, imaging=imaging)).run().entries[0]
    assert other["image"].endswith(".nii.gz")
    stored = np.load(folder / next(e for e in made.entries if e["name"] == other["name"])["masks"])
    if masks == "tiff":
        with Image.open(tmp_path / other["masks"]) as file:
            for n, name in enumerate(stored["names"]):
                file.seek(n)
                assert file.tag_v2[270] == name
                assert ((np.asarray(file) > 0) == stored["masks"][n]).all()
        return
    for n, name in enumerate(stored["names"]):
        with Image.open(tmp_path / other["masks"][str(name)]) as file:
            assert ((np.asarray(file) > 0) == stored["masks"][n]).all()


def test_dicom_pairs_are_marked_and_carry_no_patient(plain, cts, tmp_path):
    settings = plain[1]
    imaging = replace(SMALL, dicom=True)
    entry = dataset(cts[:1], tmp_path / "a", replace(settings, views=1, imaging=imaging)).run().entries[0]
    image = pydicom.dcmread(tmp_path / "a" / "dicom" / f"{entry['name']}.dcm")
    labels = pydicom.dcmread(tmp_path / "a" / "dicom" / f"{entry['name']}.seg.dcm")
    for dataset_ in (image, labels):
        assert dataset_.ImageType[0] == "DERIVED"
        assert "synthetic" in dataset_.DerivationDescription.lower()
        assert dataset_.PatientName == dataset_.PatientID == ""
    assert (
        labels.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID
        == image.SOPInstanceUID
    )
    stored = np.load(tmp_path / "a" / entry["masks"])
    frames = labels.pixel_array
    names = [item.SegmentLabel for item in labels.SegmentSequence]
    for n, name in enumerate(names):
        assert (frames[n].astype(bool) == stored["masks"][list(stored["names"]).index(name)]).all()
    dataset(cts[:1], tmp_path / "b", replace(settings, views=1, imaging=imaging)).run()
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


def test_dicom_carries_the_patient_where_that_is_asked_for(cts, tmp_path):
    header = {"PatientID": "4711", "PatientName": "Muster^Eva", "StudyInstanceUID": "1.2.3.4"}
    volume = replace(dr.read_volume(cts[0].path), header=header)
    for patient, found in ((True, ("4711", "1.2.3.4")), (False, ("", None))):
        imaging = replace(SMALL, dicom=True, patient=patient)
        made = dataset([volume], tmp_path / str(patient), DatasetSettings(views=1, imaging=imaging)).run()
        image = pydicom.dcmread(tmp_path / str(patient) / "dicom" / f"{made.entries[0]['name']}.dcm")
        assert image.PatientID == found[0]
        assert (image.StudyInstanceUID == "1.2.3.4") == patient
        text = (tmp_path / str(patient) / "manifest.jsonl").read_text()
        assert "4711" not in text


def test_greys_as_on_a_viewing_station_are_pictures(cts, tmp_path):
    imaging = replace(SMALL, presented=True)
    entry = dataset(cts[:1], tmp_path, DatasetSettings(views=1, imaging=imaging)).run().entries[0]
    assert entry["values"] == "presented"
    with Image.open(tmp_path / entry["image"]) as file:
        greys = np.asarray(file) / 65535
    assert greys[0, 0] < 0.1 < greys[12, 16]  # air dark, body bright
    with pytest.raises(SettingError, match="PNG"):
        replace(SMALL, presented=True, image="nifti")


def test_landmarks_are_projected_into_every_view(cts, tmp_path):
    place = dr.read_volume(cts[0].path).centre.tolist()
    (tmp_path / "marks.json").write_text(json.dumps({"landmarks": {"here": place, "far": [9999, 0, 0]}}))
    case = replace(cts[0], landmarks=str(tmp_path / "marks.json"))
    entry = dataset([case], tmp_path / "set", DatasetSettings(views=1, imaging=SMALL)).run().entries[0]
    camera = dr.Camera.from_dict(entry["camera"])
    assert entry["landmarks"] == {"here": pytest.approx(camera.project(torch.tensor(place).double()).tolist())}
    (tmp_path / "marks.json").write_text("[1, 2]")
    with pytest.raises(PathError, match="holds no landmarks"):
        dataset([case], tmp_path / "other", DatasetSettings(views=1, imaging=SMALL)).run()


def test_labels_that_no_view_shows_are_named(cts, tmp_path):
    aside = Imaging(view=dr.synth.ViewSpread("frontal", in_frame=False), image_size=(8, 8), pixel_size=0.5)
    with pytest.warns(Notice, match=r"not show in any of the views.*empty"):
        dataset(cts[:1], tmp_path, DatasetSettings(views=2, imaging=aside)).run()


def test_labels_of_somebody_else_are_refused(cts, tmp_path):
    volume = dr.read_volume(cts[0].path, labels=cts[0].labels, names=cts[0].names)
    shifted = replace(volume, labels=volume.labels.roll(7, 0))
    with pytest.raises(LabelError, match="different patients"):
        dataset([shifted], tmp_path, DatasetSettings(views=1, imaging=SMALL)).run()


def test_a_chest_view_of_a_ct_without_lungs_is_refused(cts, tmp_path):
    with pytest.raises(LabelError, match="lungs"):
        dataset(cts[:1], tmp_path, DatasetSettings(views=1, imaging=replace(SMALL, view="chest-pa"))).run()


def test_rare_findings_become_as_frequent_as_wanted(tmp_path):
    with_it = Case(*labelled_cts.write(tmp_path / "with", 0))
    without = [Case(*labelled_cts.write(tmp_path / str(n), n, nodule=False)) for n in (1, 2)]
    settings = DatasetSettings(views=4, imaging=replace(SMALL, physics=None), balance={"nodule": 0.5})
    made = dataset([*without, with_it], tmp_path / "set", settings).run()
    showing = [any(label["name"] == "nodule" for label in entry["labels"]) for entry in made.entries]
    assert len(showing) == 12
    assert sum(showing) == 6
    with pytest.raises(SettingError, match="No CT shows 'spleen'"):
        dataset([with_it], tmp_path / "none", replace(settings, balance={"spleen": 0.5})).run()
    with pytest.warns(Notice, match=r"nodule shows in 100 % of the images, not in 20 %"):
        dataset([with_it], tmp_path / "all", replace(settings, views=2, balance={"nodule": 0.2})).run()


def test_all_cts_of_a_patient_are_in_one_split_and_each_split_has_one():
    patients = {f"ct{n}": f"patient {n // 2}" for n in range(40)}
    settings = DatasetSettings(splits=(0.7, 0.1, 0.2))
    found = split_of(patients, settings)
    assert all(found[f"ct{2 * n}"] == found[f"ct{2 * n + 1}"] for n in range(20))
    assert {split: list(found.values()).count(split) for split in ("train", "val", "test")} == {
        "train": 28, "val": 4, "test": 8,
    }  # fmt: skip
    assert split_of(dict(reversed(patients.items())), settings) == found
    assert split_of(patients, replace(settings, seed=1)) != found
    few = split_of({"a": "1", "b": "2", "c": "3"}, settings)
    assert sorted(few.values()) == ["test", "train", "val"]
    assert split_of({"a": "1"}, settings) == {"a": "train"}
    assert set(split_of(patients, replace(settings, splits=(1.0, 0.0, 0.0))).values()) == {"train"}


@pytest.mark.parametrize(
    "wrong",
    [{"views": 0}, {"splits": (0.5, 0.1, 0.1)}, {"splits": (1.2, -0.1, -0.1)}, {"balance": {"nodule": 1.5}}],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(SettingError):
        DatasetSettings(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"image": "jpeg"}, {"masks": "npy"}, {"image_size": (0, 4)}, {"view": "upside"}, {"physics": "tube"}]
)
def test_imaging_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(SettingError):
        Imaging(**wrong)
