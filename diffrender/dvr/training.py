"""Training a renderer: a job that can be stopped, resumed, and ends with the best it had."""

import copy
import dataclasses
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffrender import __version__
from diffrender.dvr.cases import Case, case_record, check_cases, held_out_of
from diffrender.dvr.course import DIVERGED, Course, weights_hash
from diffrender.dvr.painting import targets_of
from diffrender.dvr.renderer import Renderer
from diffrender.dvr.renderers import renderer as renderer_of
from diffrender.dvr.settings import OF_SEVERAL, Augmentation, TrainSettings
from diffrender.dvr.view import Views
from diffrender.io.lock import locked
from diffrender.jobs import Checkpoint, Job, Progress
from diffrender.provenance import plain


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training came to.

    Attributes:
        renderer: the best one by SSIM of the view that was kept out; without such a view the last.
        last: as the last step left it.
        scores: of `renderer` in the view that was kept out; none without one.
        steps: how many were made.
        seconds: that they took, over all resumes.
        history: a line each time it was scored: {"step", "seconds", "loss", and the scores}.
        outcome: "finished", or "diverged" where it was stopped because it got worse and worse.
        sentence: the outcome in words, and what to try next.
        info: for `save_model`: hashes of the training volumes, scores, settings.
    """

    renderer: Renderer
    last: Renderer
    scores: Mapping[str, float]
    steps: int
    seconds: float
    history: Sequence[Mapping[str, float]]
    outcome: str
    sentence: str
    info: Mapping[str, Any] = field(default_factory=dict)


def train(
    views: Views | Sequence[Views],
    settings: TrainSettings | None = None,
    checkpoint: str | Path | None = None,
    renderer: Renderer | None = None,
) -> Job[Trained]:
    """Train a renderer to draw what is painted on views; of several volumes where several folders are given.

    Args:
        views: with their volume in memory, or on disk where they say.
        settings: how; by default unet-s for two minutes. A renderer starts as the transfer function that drew the
            (first) views, where the settings name none.
        checkpoint: file to save to and to go on from. A killed run loses at most 60 s.
        renderer: a trained one to go on from; it stays as it is.
    Raises: ImageError and LabelError where there is nothing to learn from, see `targets_of`; PathError where the volume
        is not there or another one; ImageError where it holds NaN.
    """
    several = [views] if isinstance(views, Views) else list(views)
    settings = TrainSettings() if settings is None else settings
    cases = [Case(one.open_volume(), tuple(targets_of(one))) for one in several]
    if renderer is None and settings.drawing.transfer is None and several and several[0].transfer is not None:
        drawing = dataclasses.replace(settings.drawing, transfer=several[0].transfer)
        settings = dataclasses.replace(settings, drawing=drawing)
    return train_on(cases, settings, checkpoint, renderer)


def train_on(
    cases: Sequence[Case],
    settings: TrainSettings | None = None,
    checkpoint: str | Path | None = None,
    renderer: Renderer | None = None,
) -> Job[Trained]:
    """Train a renderer on targets of any kind; otherwise as `train`.

    Raises: SettingError, ImageError for what cannot be trained on. The job itself raises OutputError where another
        training writes to the same checkpoint or the disk is full, PathError where the checkpoint is another
        training's, MemoryNeedError where not even one view at a time fits.
    """
    settings = TrainSettings() if settings is None else settings
    if renderer is not None:
        settings = dataclasses.replace(settings, renderer=renderer.name, drawing=renderer.settings)
    check_cases(cases, settings)
    return Job(_run(tuple(cases), settings, checkpoint, renderer))


def _run(
    cases: tuple[Case, ...], settings: TrainSettings, path: str | Path | None, start: Renderer | None
) -> Generator[Progress, None, Trained]:
    if path is None:
        return (yield from _training(cases, settings, Checkpoint(None), start))
    with locked(path, "A training"):
        return (yield from _training(cases, settings, Checkpoint(path), start))


def _training(
    cases: tuple[Case, ...], settings: TrainSettings, checkpoint: Checkpoint, start: Renderer | None
) -> Generator[Progress, None, Trained]:
    made = renderer_of(settings.renderer, settings.drawing) if start is None else copy.deepcopy(start)
    records = [case_record(case) for case in cases]
    training = {
        "settings": {key: value for key, value in plain(settings).items() if key != "device"},
        "cases": {str(number): record for number, record in enumerate(records)},
        "start": None if start is None else weights_hash(start),
    }
    course = Course(made, cases, settings, augmentation_of(settings, cases), held_out_of(cases, settings), training)
    course.begin(checkpoint)
    try:
        while not course.outcome:
            yield course.advance()
            if checkpoint.due():
                checkpoint.save(course.state())
    except GeneratorExit:
        checkpoint.save(course.state())
        raise
    checkpoint.save(course.state())
    return _outcome(course, records)


def augmentation_of(settings: TrainSettings, cases: Sequence[Case]) -> Augmentation:
    """What is done to the volumes: as asked, or as their number suggests."""
    if settings.augment is not None:
        return settings.augment
    return OF_SEVERAL if len(cases) > 1 else Augmentation()


def _outcome(course: Course, records: Sequence[Mapping[str, Any]]) -> Trained:
    learner, score = course.learner, course.score
    learner.checkpoint(False)
    last = learner.renderer.cpu().eval().requires_grad_(True)
    info = {
        "version": __version__,
        "settings": plain(course.settings),
        "volumes": [record["volume"] for record in records],
        "views": sum(int(record["views"]) for record in records),
        "scores": score.best_scores,
        "steps": course.done,
        "seconds": round(course.seconds, 1),
        "outcome": course.outcome,
    }
    return Trained(
        renderer=score.best_of(last, course.outcome == DIVERGED),
        last=last,
        scores=score.best_scores,
        steps=course.done,
        seconds=course.seconds,
        history=tuple(score.history),
        outcome=course.outcome,
        sentence=course.sentence(),
        info=info,
    )
