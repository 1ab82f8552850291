"""The protocol: who is left out, where starts lie, what a stopped evaluation goes on from, what a trial is told."""

import dataclasses
import json
import math

import pytest
import torch

from diffrender.errors import PathError, SettingError
from diffrender.fit import evaluation, trial
from diffrender.fit.atlas import Subject
from diffrender.fit.evaluation import PRESETS, EvaluateSettings, evaluate, left_out_with
from diffrender.fit.evaluation_report import evaluation_report, summary, write_csv
from diffrender.fit.metrics import errors_of
from diffrender.fit.overlay import parts_of
from diffrender.fit.parametric import default_pelvis
from diffrender.fit.settings import FitSettings
from diffrender.fit.simulation import cios_camera
from diffrender.fit.trial import HeldOut, Trial, frames_of
from diffrender.mesh import Mesh
from diffrender.pose import pose_between


@pytest.fixture(scope="module")
def case() -> HeldOut:
    """A person that the parametric model does not quite reach."""
    model = default_pelvis()
    truth = model.mesh(torch.tensor([0.9, -1.2, 0.4, 0.7, -0.5, 0.8]))
    return HeldOut(7, truth, model.with_modes(4), model.mesh(torch.tensor([0.9, -1.2, 0.4, 0.7])))


def people(count: int = 4) -> list[Subject]:
    model, random = default_pelvis(), torch.Generator().manual_seed(1)
    return [
        Subject(n, parts_of(model.mesh(torch.randn(5, generator=random)), model.parts)) for n in (3, 15, 25, 40)[:count]
    ]


def test_twins_leave_together():
    ids = [3, 15, 25, 40]
    assert left_out_with(15, ids) == (15, 25)
    assert left_out_with(25, ids) == (15, 25)
    assert left_out_with(3, ids) == (3,)
    assert left_out_with(15, [3, 15]) == (15,)


@pytest.mark.parametrize("name", PRESETS)
def test_starts_lie_in_the_box_or_where_the_preset_says(case, name):
    preset = dataclasses.replace(PRESETS[name], views=((0.0, 0.0),))  # starts do not depend on views
    frames = frames_of(case, preset, 0)
    camera = frames.views[0].radiograph.camera
    middle = trial._moved(case.model.mesh(), frames.world_from_model).centre
    shifts, turns = [], []
    for n in range(40):
        pose = trial._start(case, preset, frames, n, 0)
        xi = pose_between(frames.world_from_model, pose, middle)
        shifts.append(xi[:3])
        turns.append(xi[3:])
    shift, turn = torch.stack(shifts), torch.rad2deg(torch.stack(turns))
    if preset.pose_known:
        assert shift.abs().max() < 1e-9
        return
    depth = shift @ camera.direction
    if preset.depth_known:
        assert depth.abs().max() < 1e-6
        assert (shift.norm(dim=1) > 1).double().mean() > 0.9
    else:
        assert 8 < shift.abs().max() <= 10
        assert depth.abs().max() > 5
    assert 4 < turn.abs().max() <= 5


def test_frames_are_one_patients_and_show_over_half_the_pelvis(case):
    one, two = frames_of(case, Trial(), 0), frames_of(case, PRESETS["two-views"], 0)
    assert frames_of(case, Trial(depth=math.inf), 0) is one  # the same frames for what shares the views
    assert torch.equal(one.world_from_model, two.world_from_model)
    assert torch.equal(one.views[0].radiograph.pixels, two.views[0].radiograph.pixels)
    assert not torch.equal(one.world_from_model, frames_of(case, Trial(), 1).world_from_model)
    for view in two.views:
        row, column = view.radiograph.camera.project(two.truth.vertices.double()).unbind(1)
        inside = (row > 0) & (row < 256) & (column > 0) & (column < 256)
        assert inside.double().mean() > 0.5
    angle = torch.rad2deg(
        torch.arccos(two.views[0].radiograph.camera.direction @ two.views[1].radiograph.camera.direction)
    )
    assert 45 < angle < 60


class _SeenError(Exception):
    pass


@pytest.mark.parametrize("name", PRESETS)
def test_a_fit_is_told_what_the_preset_gives_and_nothing_of_the_truth(case, name, monkeypatch):
    told = {}

    def pelvis(radiographs, model, settings, start):
        told.update(radiographs=radiographs, model=model, settings=settings, start=start)
        raise _SeenError

    monkeypatch.setattr(trial, "pelvis", pelvis)
    preset = PRESETS[name]
    with pytest.raises(_SeenError):
        trial.tried(case, preset, 0, FitSettings(), 0)
    assert len(told["radiographs"]) == len(preset.views)
    for one in told["radiographs"]:
        assert one.masks is None
        assert one.path_lengths is None
        assert one.landmarks is None
    assert told["settings"].depth == preset.depth
    assert told["settings"].shape is not preset.shape_known
    assert told["settings"].pose is not preset.pose_known
    if preset.shape_known:
        assert torch.equal(told["model"].mean, case.truth.vertices)
        assert len(told["model"].modes) == 0
    else:
        assert told["model"] is case.model
    made = frames_of(case, preset, 0).views[0]
    shown = made.clean if preset.clean else made.radiograph
    assert torch.equal(told["radiographs"][0].pixels, shown.pixels)


def row_of(start: int, error: float = 4.0) -> dict:
    body = default_pelvis().mesh()
    off = Mesh(body.vertices + torch.tensor([error, 0.0, 0.0]), body.faces)
    marks = {"a": torch.zeros(3)}, {"a": torch.tensor([error + start / 10, 0, 0])}
    errors = errors_of(off, body, cios_camera(), *marks).to_dict()
    before = {name: 3 * value for name, value in errors.items()}
    return {
        "outcome": "converged", "seconds": 1.0, "cpu_seconds": 1.0, "in_view": 0.8,
        "before": before, "after": errors, "floor": errors,
        "within_1": 0.68, "within_2": 0.95, "stated": {"depth": 5.0, "in_plane": 1.0, "vertex": 2.0},
        "coefficients": [0.1], "overlay": None,
    }  # fmt: skip


@pytest.fixture
def counted(case, monkeypatch):
    """Trials that cost nothing, and how many of them there were."""
    calls = []
    monkeypatch.setattr(evaluation, "true_surfaces", lambda subjects: {one.id: case.truth for one in subjects})
    monkeypatch.setattr(
        evaluation, "held_out", lambda subjects, truth, subject, left_out, modes: dataclasses.replace(case, id=subject)
    )
    template = row_of(0)

    def tried(case, preset, start, settings, seed, picture):
        calls.append((case.id, start))
        return {**template, "seconds": float(start)}

    monkeypatch.setattr(evaluation, "tried", tried)
    return calls


def test_an_evaluation_goes_on_where_it_was_stopped_and_ends_the_same(counted, tmp_path):
    subjects = people()
    settings = EvaluateSettings(presets=("one-view", "clean"), subjects=(3, 40), starts=3)
    whole = evaluate(subjects, settings, tmp_path / "whole").run()
    assert len(counted) == 12
    job = evaluate(subjects, settings, tmp_path / "half")
    for progress in job:
        if progress.done == 5:
            job.cancel()
    assert job.cancelled
    record = tmp_path / "half" / evaluation.RECORD
    assert len(record.read_text().splitlines()) == 1 + 5
    with record.open("a") as file:
        file.write('{"preset": "one-vi')  # the power went while a line was written
    counted.clear()
    resumed = evaluate(subjects, settings, tmp_path / "half").run()
    assert len(counted) == 7
    assert resumed.rows == whole.rows
    assert [(row["preset"], row["subject"], row["start"]) for row in whole.rows[:4]] == [
        ("one-view", 3, 0), ("one-view", 3, 1), ("one-view", 3, 2), ("one-view", 40, 0)
    ]  # fmt: skip
    more = dataclasses.replace(settings, starts=4)  # further starts are added to those there are
    counted.clear()
    assert len(evaluate(subjects, more, tmp_path / "half").run().rows) == 16
    assert len(counted) == 4


def test_fits_of_other_settings_are_not_mixed(counted, tmp_path):
    settings = EvaluateSettings(subjects=(3,), starts=1)
    evaluate(people(), settings, tmp_path).run()
    with pytest.raises(PathError, match="other settings"):
        evaluate(people(), dataclasses.replace(settings, seed=1), tmp_path).run()


def test_the_summary_and_its_files_say_what_the_rows_say(tmp_path):
    rows = [{"preset": "one-view", "subject": 3, "start": n, **row_of(n)} for n in range(10)]
    said = summary(rows)
    assert said["fit_landmark"] == pytest.approx(4.45)
    assert said["start_landmark"] == pytest.approx(3 * 4.45)
    assert said["fit_landmark_90"] == pytest.approx(4.81)
    assert said["better"] == 1.0
    assert said["in_plane"] == pytest.approx(4.0, abs=0.01)
    rows[0]["after"] = {**rows[0]["after"], "landmark": 99.0}
    assert summary(rows)["better"] == pytest.approx(0.9)
    done = evaluation.Evaluation(rows, EvaluateSettings(presets=("one-view",)), tmp_path)
    table = write_csv(tmp_path / "fits.csv", done).read_text().splitlines()
    assert len(table) == 11
    assert {"subject", "after_landmark", "before_hausdorff", "stated_depth"} <= set(table[0].split(","))
    text = evaluation_report(done)
    assert "13.9" in text  # mean landmark error with the one of 99: (99 + 45.5 - 4.0 ...) / 10
    assert "22.1" in text  # the paper's
    assert json.dumps("nan") not in text


def test_what_cannot_be_tried_is_refused():
    with pytest.raises(SettingError, match="presets are some of one-view"):
        EvaluateSettings(presets=("three-views",))
    with pytest.raises(SettingError, match="starts and workers"):
        EvaluateSettings(starts=0)
    with pytest.raises(SettingError, match="three subjects"):
        evaluate(people(2))
    with pytest.raises(SettingError, match="without 99"):
        evaluate(people(), EvaluateSettings(subjects=(99,)))
    with pytest.raises(SettingError, match="must not be in its own model"):
        trial.held_out(people(), default_pelvis().mesh(), 3, (15,))
