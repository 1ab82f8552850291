"""What a training leaves in its folder: models, the view that was kept out, its history, and a preview under way."""

import csv
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffrender.commands.dvr.shared import AFTER, BEFORE, HISTORY, LAST, MODEL, OF_MODEL, PREVIEW, WANTED
from diffrender.jobs import Job, Progress

if TYPE_CHECKING:
    from torch import Tensor

    from diffrender.dvr.cases import Case
    from diffrender.dvr.settings import TrainSettings
    from diffrender.dvr.training import Trained
    from diffrender.dvr.view import Views


def files_of(folder: Path) -> list[Path]:
    """All that a training may write."""
    return [folder / name for name in OF_MODEL]


def showing(job: "Job[Trained]", folder: Path) -> "Job[Trained]":
    """The same job, whose previews are written to one file and carried as its path."""
    return Job(_showing(job, folder / PREVIEW))


def write_trained(
    trained: "Trained",
    folder: Path,
    views: "Sequence[Views]",
    cases: "Sequence[Case]",
    settings: "TrainSettings",
    command: Sequence[str],
    record: Mapping[str, Any],
    inputs: Sequence[str],
) -> list[Path]:
    """Models, pictures, history and provenance: all of them, or none. Raises: OutputError."""
    from diffrender.dvr.cases import held_out_of
    from diffrender.dvr.model import save_model
    from diffrender.io.whole import together, write_whole
    from diffrender.provenance import write_provenance

    held = held_out_of(cases, settings, quiet=True)
    target, volume = cases[held.case].targets[held.view], cases[held.case].volume
    shown = {
        BEFORE: views[held.case].views[held.view].image,
        WANTED: target.image,
        AFTER: _drawn(trained, volume, target.camera),
    }
    with together():
        files = [save_model(folder / MODEL, trained.renderer, trained.info)]
        files.append(save_model(folder / LAST, trained.last, trained.info))
        files += [_write_picture(folder / name, image, target.camera) for name, image in shown.items()]
        files.append(write_whole(folder / HISTORY, _table(trained.history)))
        files.append(write_provenance(folder, command, record, inputs, settings.seed))
    return files


def summary_of(trained: "Trained", folder: Path, files: Sequence[Path]) -> dict[str, Any]:
    """For a program."""
    return {
        "folder": folder,
        "files": list(files),
        "model": folder / MODEL,
        "renderer": trained.renderer.name,
        "steps": trained.steps,
        "seconds": trained.seconds,
        "scores": dict(trained.scores),
        "outcome": trained.outcome,
        "sentence": trained.sentence,
    }


def text_of(trained: "Trained", folder: Path, files: Sequence[Path]) -> str:
    """For a person."""
    return "\n".join(
        [
            trained.sentence,
            "Written:",
            *(f"  {file}" for file in files),
            f'Draw with it: diffrender dvr render "{folder}" -o picture.png',
        ]
    )


def _showing(job: "Job[Trained]", file: Path) -> "Generator[Progress, None, Trained]":
    shown = None
    try:
        for progress in job:
            if progress.preview is not None and progress.preview is not shown:
                shown = progress.preview
                _write_preview(file, shown)
            yield replace(progress, preview=None if shown is None else file)
    except GeneratorExit:
        job.cancel()
        next(job, None)  # where it saves
        raise
    return job.result


def _drawn(trained: "Trained", volume: Any, camera: Any) -> "Tensor":
    import torch

    with torch.no_grad():
        return trained.renderer(volume, camera)


def _write_preview(path: Path, image: "Tensor") -> None:
    from diffrender.dvr.pictures import write_picture

    write_picture(path, image)


def _write_picture(path: Path, image: "Tensor", camera: Any) -> Path:
    from PIL import Image

    from diffrender.display import annotated_colours
    from diffrender.io.whole import whole

    with whole(path) as file:
        Image.fromarray(annotated_colours(image, camera)).save(file, format="PNG")
    return path


def _table(history: Sequence[Mapping[str, float]]) -> str:
    columns = list(dict.fromkeys(key for line in history for key in line))
    text = StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()
