"""The paper's protocol on held-out subjects: simulated frames, starts in a box, errors before and after, by cause.

Shetty et al. (2021) begin within 10 mm and 5 degrees per axis, from the mean shape, with over half the pelvis in view.
Each subject is fitted with a model that was built without it. What holds a fit back is told apart by experiments on the
same frames: depth given or not, shape known, pose known, two views, clean frames.
"""

import json
import math
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from diffrender.errors import PathError, SettingError
from diffrender.fit.atlas import Subject
from diffrender.fit.settings import FitSettings
from diffrender.fit.trial import HeldOut, Trial, held_out, tried, true_surfaces
from diffrender.jobs import Job, Progress
from diffrender.mesh import Mesh
from diffrender.pool import begin_worker

TWINS = ((15, 25),)  # of the published atlas: one person, scanned twice
TWO_VIEWS = ((0.0, 0.0), (52.0, 0.0))  # degrees: AP and 45 to 60 beside it
RECORD = "fits.jsonl"

PRESETS: dict[str, Trial] = {
    "one-view": Trial(),
    "two-views": Trial(views=TWO_VIEWS),
    "no-depth-prior": Trial(depth=math.inf),
    "depth-given": Trial(depth=0.5, depth_known=True),
    "known-pose": Trial(pose_known=True),
    "known-shape": Trial(shape_known=True),
    "clean": Trial(clean=True),
    "two-views-clean": Trial(views=TWO_VIEWS, clean=True),
}
PAPER = {
    "start": {"hausdorff": 46.59, "landmark": 30.00},
    "after": {"hausdorff": 29.11, "landmark": 22.06},
    "floor": {"hausdorff": 17.79, "landmark": 11.81},
}


@dataclass(frozen=True)
class EvaluateSettings:
    """What is tried.

    Attributes:
        presets: names from PRESETS.
        subjects: ids of those that are held out, one after the other; all by default.
        starts: for each subject and preset.
        modes: most modes of the models; 0 for all.
        workers: processes at a time; 1 stays in this one.
        seed: of frames and starts.
        fit: how it is fitted; a preset changes its depth, shape and pose.
    Raises: SettingError.
    """

    presets: tuple[str, ...] = ("one-view", "two-views")
    subjects: tuple[int, ...] = ()
    starts: int = 10
    modes: int = 0
    workers: int = 1
    seed: int = 0
    fit: FitSettings = field(default_factory=FitSettings)

    def __post_init__(self):
        unknown = [name for name in self.presets if name not in PRESETS]
        if unknown or not self.presets:
            raise SettingError(f"presets are some of {', '.join(PRESETS)}, not {', '.join(unknown) or 'none'}.")
        if self.starts < 1 or self.workers < 1 or self.modes < 0:
            raise SettingError(
                f"starts and workers are 1 or more, modes 0 or more; not {self.starts}, {self.workers}, {self.modes}."
            )


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All fits, as rows of plain data, by preset, subject and start.

    A row: "preset", "subject", "start", "outcome", "seconds", "cpu_seconds", "in_view"; "before", "after" and "floor",
    each of the errors by name; "within_1", "within_2"; "stated" {"depth", "in_plane", "vertex"}; "coefficients";
    "overlay", a file beside the record or None.
    """

    rows: list[dict[str, Any]]
    settings: EvaluateSettings
    folder: Path | None = None

    def of(self, preset: str) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["preset"] == preset]


def evaluate(
    subjects: Sequence[Subject], settings: EvaluateSettings | None = None, folder: str | Path | None = None
) -> Job[Evaluation]:
    """Fit held-out subjects from many starts and say how far off the fits are.

    Args:
        subjects: of an atlas, in correspondence; a model is built of the others for each one.
        folder: holds a line of JSON for each fit, written as it ends, and pictures; a job with the same folder and
            settings goes on from there. None keeps nothing.
    Returns: a job; its steps are fits.
    Raises: SettingError for fewer than three subjects or one that is not there; PathError for a folder with fits of
        other settings.
    """
    settings = EvaluateSettings() if settings is None else settings
    ids = [subject.id for subject in subjects]
    absent = [n for n in settings.subjects if n not in ids]
    if absent or len(subjects) < 3:
        raise SettingError(
            f"An evaluation needs three subjects or more, and those asked for among them; there are {len(ids)}"
            + (f", without {', '.join(map(str, absent))}." if absent else ".")
        )
    return Job(_steps(list(subjects), settings, None if folder is None else Path(folder)))


def left_out_with(subject: int, ids: Sequence[int]) -> tuple[int, ...]:
    """The subjects that are not in the model when this one is fitted: itself and its twin."""
    own = next((twins for twins in TWINS if subject in twins), (subject,))
    return tuple(n for n in ids if n in own)


def _steps(
    subjects: list[Subject], settings: EvaluateSettings, folder: Path | None
) -> Generator[Progress, None, Evaluation]:
    record = None if folder is None else folder / RECORD
    rows = _begun(record, settings)
    done = {_key(row) for row in rows}
    wanted = [
        (subject, preset)
        for subject in settings.subjects or [one.id for one in subjects]
        for preset in settings.presets
    ]
    total = len(wanted) * settings.starts
    tasks = [
        (subject, preset, tuple(n for n in range(settings.starts) if (preset, subject, n) not in done))
        for subject, preset in wanted
    ]
    tasks = [task for task in tasks if task[2]]
    yield Progress(len(rows), total)
    work = _one_by_one if settings.workers == 1 else _in_a_pool
    for row in work(subjects, settings, tasks, folder):
        rows.append(row)
        if record is not None:
            with record.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        yield Progress(len(rows), total, row["after"]["landmark"], scores=_running(rows))
    order = {preset: n for n, preset in enumerate(settings.presets)}
    rows.sort(key=lambda row: (order[row["preset"]], row["subject"], row["start"]))
    return Evaluation(rows, settings, folder)


Task = tuple[int, str, tuple[int, ...]]


def _one_by_one(
    subjects: list[Subject], settings: EvaluateSettings, tasks: Sequence[Task], folder: Path | None
) -> Generator[dict[str, Any], None, None]:
    truths = true_surfaces(subjects) if tasks else {}
    case: HeldOut | None = None
    for subject, preset, starts in tasks:
        if case is None or case.id != subject:
            case = _held_out(subjects, truths, subject, settings)
        for start in starts:
            yield _row(case, preset, start, settings, folder)


def _held_out(subjects: list[Subject], truths: Mapping[int, Mesh], subject: int, settings: EvaluateSettings) -> HeldOut:
    left_out = left_out_with(subject, [one.id for one in subjects])
    return held_out(subjects, truths[subject], subject, left_out, settings.modes)


def _in_a_pool(
    subjects: list[Subject], settings: EvaluateSettings, tasks: Sequence[Task], folder: Path | None
) -> Generator[dict[str, Any], None, None]:
    pool = ProcessPoolExecutor(
        settings.workers, get_context("spawn"), initializer=_begin_worker, initargs=(subjects, settings, folder)
    )
    try:
        for rows in pool.map(_work, tasks):
            yield from rows
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_worker: dict[str, Any] = {}


def _begin_worker(subjects: list[Subject], settings: EvaluateSettings, folder: Path | None) -> None:
    begin_worker()
    _worker.update(subjects=subjects, truths=true_surfaces(subjects), settings=settings, folder=folder)


@lru_cache(maxsize=1)
def _case(subject: int) -> HeldOut:
    return _held_out(_worker["subjects"], _worker["truths"], subject, _worker["settings"])


def _work(task: Task) -> list[dict[str, Any]]:
    subject, preset, starts = task
    settings, folder = _worker["settings"], _worker["folder"]
    return [_row(_case(subject), preset, start, settings, folder) for start in starts]


def _row(case: HeldOut, preset: str, start: int, settings: EvaluateSettings, folder: Path | None) -> dict[str, Any]:
    picture = None if folder is None else folder / "overlays" / f"{preset}-{case.id}-{start}.jpg"
    row = tried(case, PRESETS[preset], start, settings.fit, settings.seed, picture)
    return {"preset": preset, "subject": case.id, "start": start, **row}


def _key(row: Mapping[str, Any]) -> tuple[str, int, int]:
    return row["preset"], row["subject"], row["start"]


def _running(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    last = [row["after"]["landmark"] for row in rows if row["preset"] == rows[-1]["preset"]]
    return {"landmark": sum(last) / len(last)}


def _begun(record: Path | None, settings: EvaluateSettings) -> list[dict[str, Any]]:
    """The fits of an earlier run with the same settings. Its first line holds them."""
    if record is None:
        return []
    head = {"settings": repr(replace(settings, workers=1, subjects=(), presets=("one-view",), starts=1))}
    if not record.exists():
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(head) + "\n", encoding="utf-8")
        return []
    text = record.read_text(encoding="utf-8")
    lines = text.splitlines()
    if text and not text.endswith("\n"):  # the machine stopped while this line was written
        lines = lines[:-1]
        record.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    entries = [json.loads(line) for line in lines]
    if not entries or entries[0] != head:
        raise PathError(
            f"{record} holds fits made with other settings, not to be mixed. Choose another folder with -o, or "
            "delete it."
        )
    subjects = set(settings.subjects)
    return [
        row
        for row in entries[1:]
        if row["preset"] in settings.presets
        and row["start"] < settings.starts
        and (not subjects or row["subject"] in subjects)
    ]
