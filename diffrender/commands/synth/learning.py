"""What the trainings of `synth` share: the files in their folder, what they must not write over, and their budgets."""

import json
import os
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffrender.commands.console import Console
from diffrender.commands.target import check_outputs, check_writable
from diffrender.errors import PathError, SettingError
from diffrender.jobs import Progress

if TYPE_CHECKING:
    from diffrender.synth.course import Training

MODEL, CHECKPOINT, HISTORY, REPORT = "model.safetensors", "checkpoint.pt", "history.json", "report.html"
OF_TRAINING = (MODEL, CHECKPOINT, HISTORY, REPORT, "provenance.json")
NEED = 200 * 2**20  # bytes on disk: a model, its save with the optimiser's state, twice while it is written, and pages

Steps = Annotated[int | None, typer.Option(metavar="N", help="Steps of the training.")]
Batch = Annotated[int | None, typer.Option(metavar="N", help="Images a step.")]
Rate = Annotated[float | None, typer.Option(metavar="R", help="Highest learning rate.")]


# The choices of the library, here as well because --help imports no torch; a test compares.
class Device(str, Enum):
    """Where a network is trained."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


DeviceOf = Annotated[Device, typer.Option(help="auto takes a GPU where there is one.")]


def check_folder(folder: Path, inputs: Sequence[str], names: Sequence[str] = OF_TRAINING, need: int = NEED) -> None:
    """Refuse a folder that lies in what is read, and so would change it, or that cannot be written to.

    Raises: SettingError, PathError.
    """
    for path in inputs:
        inside = Path(os.path.expanduser(path)).resolve()
        if inside.is_dir() and inside in (folder.resolve(), *folder.resolve().parents):
            raise SettingError(f"{folder} lies in {path}, which is read; give a folder beside it with -o.")
    check_outputs([folder / name for name in names], inputs)
    check_writable(folder, need)


def model_in(path: str, command: str) -> Path:
    """The model file that is meant: it, or the one in a folder that `command` has filled. Raises: PathError."""
    from diffrender.io.files import found

    place = found(path)
    if not place.is_dir():
        return place
    if not (place / MODEL).is_file():
        raise PathError(f"{path} holds no {MODEL}, so it is no folder that `{command}` has finished. Give a model.")
    return place / MODEL


def training_of(presets: "Mapping[str, Training]", name: str, changes: Mapping[str, Any]) -> "Training":
    """A preset's training, with what was typed. Raises: SettingError."""
    from dataclasses import replace

    return replace(presets[name], **{key: value for key, value in changes.items() if value is not None})


def reading(console: Console, what: str) -> None:
    """Say what takes a while before the first step; a wish to stop is heard here too."""
    console.progress(Progress(0, 1), f"Reading {what}")


def history_text(history: Sequence[Mapping[str, Any]]) -> str:
    """A training's history as JSON, what is no number in it as null."""
    plain = [{key: value if value == value else None for key, value in line.items()} for line in history]
    return json.dumps(plain, indent=1) + "\n"


def written(files: Sequence[Path]) -> list[str]:
    """Lines for a person."""
    return ["Written:", *(f"  {file}" for file in files)]
