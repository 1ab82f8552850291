"""`diffrender synth train`: a generator of radiographs learns from real ones how they look."""

from collections.abc import Generator, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffrender.commands.console import Debug, Json, current, example
from diffrender.commands.dvr.shared import check_device
from diffrender.commands.radiograph import parse_size
from diffrender.commands.synth.cases import cases_of
from diffrender.commands.synth.learning import (
    CHECKPOINT,
    HISTORY,
    MODEL,
    check_folder,
    history_text,
    reading,
    written,
)
from diffrender.commands.target import check_given
from diffrender.errors import DiffRenderError, SettingError
from diffrender.jobs import Job, Progress

if TYPE_CHECKING:
    from torch import Tensor

    from diffrender.synth.training import TrainedVRR
    from diffrender.synth.vrr_settings import VRRSettings

EXAMPLE = example("diffrender synth train ct.nii.gz --xrays radiographs/ --view chest-pa --seconds 600 -o vrr")
PREVIEW, PREVIEWS = "preview.png", "previews"


# The presets of the library, here as well because --help imports no torch; a test compares.
class Preset(str, Enum):
    """How large a training is."""

    small = "small"
    paper = "paper"


def train(
    cts: Annotated[list[str], typer.Argument(metavar="CT...", help="CTs, or a CSV table of them.")],
    xrays: Annotated[
        str, typer.Option(metavar="FOLDER", help="Real radiographs of other people: PNG, JPEG, TIFF or DICOM.")
    ],
    view: Annotated[
        str, typer.Option(metavar="NAME", help="What both show: chest-pa, chest-ap-bedside, pelvis-ap, frontal, ...")
    ] = "chest-pa",
    training: Annotated[
        Preset, typer.Option(help="small: minutes on a laptop, 96 px; paper: the paper's size, for a GPU.")
    ] = Preset.small,
    seconds: Annotated[float | None, typer.Option(metavar="S", help="How long: in seconds (small: 600),")] = None,
    epochs: Annotated[int | None, typer.Option(metavar="N", help="or in rounds through all radiographs,")] = None,
    steps: Annotated[int | None, typer.Option(metavar="N", help="or in steps.")] = None,
    size: Annotated[str | None, typer.Option(metavar="N", help="N x N pixels, or HEIGHTxWIDTH.")] = None,
    batch: Annotated[int | None, typer.Option(metavar="N", help="Views, and radiographs, a step.")] = None,
    rate: Annotated[float | None, typer.Option(metavar="R", help="Learning rate of the generator,")] = None,
    discriminator_rate: Annotated[
        float | None, typer.Option(metavar="R", help="and of what tells real from made.")
    ] = None,
    l1: Annotated[float | None, typer.Option(metavar="W", help="Weight of the difference to the DRR.")] = None,
    r1: Annotated[float | None, typer.Option(metavar="W", help="Weight of the penalty on steep judgements.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of weights, views and order.")] = 0,
    device: Annotated[str, typer.Option(metavar="D", help="auto, cpu, cuda or cuda:1.")] = "auto",
    out: Annotated[str, typer.Option("-o", "--out", metavar="DIR", help="The folder of the model and its save.")] = (
        "vrr"
    ),
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a generator whose pictures of CTs look like the real radiographs of a folder.

    No radiograph needs a label, and none needs to be of the CT's patient. DIR gets model.safetensors for `synth vrr`,
    previews/ (the same views after every epoch, DRRs above and learned below; the latest also as preview.png),
    history.json and checkpoint.pt, which holds at most 60 s less than was done: the same command goes on from there.
    Ctrl-C, or with --json the line "cancel" on stdin, or its end, saves and stops. A training that collapses or
    diverges is ended, says so, and exits with 1; the last good model is written all the same.
    """
    console = current()
    check_given({"--xrays": xrays, "--out": out, **{f"CT {n + 1}": ct for n, ct in enumerate(cts)}})
    check_device(device)
    budgets = {"seconds": seconds, "epochs": epochs, "steps": steps}
    if sum(budget is not None for budget in budgets.values()) > 1:
        raise SettingError("Give one of --seconds, --epochs and --steps: a training has one budget.")
    changes = {
        "image_size": None if size is None else parse_size(size),
        "batch": batch,
        "rate": rate,
        "discriminator_rate": discriminator_rate,
        "l1": l1,
        "r1": r1,
    }
    settings = _settings(training, view, budgets, changes, seed, device)
    cases = cases_of(cts, [], [])
    folder = Path(out).expanduser()
    inputs = [xrays, *(path for case in cases for path in (case.path, case.labels) if isinstance(path, str))]
    check_folder(folder, inputs, (MODEL, CHECKPOINT, HISTORY, PREVIEW, "provenance.json"))

    from diffrender.synth.cases import volume_of
    from diffrender.synth.training import train as learn
    from diffrender.synth.xray_folder import read_xrays

    reading(console, xrays)
    real = read_xrays(xrays, settings.image_size)
    reading(console, "the CTs")
    volumes = [volume_of(case) for case in cases]
    job = Job(_showing(learn(volumes, real, settings, folder / CHECKPOINT), folder))
    trained = console.run(job, "Training", f"Type the same command again to go on from {folder / CHECKPOINT}.")
    record = {"training": settings, "radiographs": len(real.names), "inverted": real.inverted, "cts": cts}
    files = _write(trained, folder, console.command, record, inputs, seed)
    if trained.outcome != "finished":
        raise DiffRenderError(f"{trained.sentence} They are in {folder / MODEL}.")
    data = {
        "folder": folder,
        "files": files,
        "model": folder / MODEL,
        "preview": folder / PREVIEW,
        "steps": trained.steps,
        "seconds": trained.seconds,
        "outcome": trained.outcome,
        "sentence": trained.sentence,
    }
    more = f'Take pictures with it: diffrender synth vrr "{cts[0]}" --model "{folder}" --views 6 -o pictures/'
    console.result(data, "\n".join([trained.sentence, *written(files), f"Previews: {folder / PREVIEWS}", more]))


def _settings(
    training: Preset, view: str, budgets: dict[str, Any], changes: dict[str, Any], seed: int, device: str
) -> "VRRSettings":
    from diffrender.synth.views import spread_preset
    from diffrender.synth.vrr_settings import vrr_preset

    spread_preset(view)  # an unknown one is refused here
    given = {key: value for key, value in changes.items() if value is not None}
    if any(budget is not None for budget in budgets.values()):
        given |= budgets
    return vrr_preset(training.value, spread=view, seed=seed, device=device, **given)


def _showing(job: "Job[TrainedVRR]", folder: Path) -> "Generator[Progress, None, TrainedVRR]":
    """The same job, whose previews are written to files; its progress carries the latest one's path."""
    shown = None
    try:
        for progress in job:
            if progress.preview is not None and progress.preview is not shown:
                shown = progress.preview
                for name in (PREVIEW, f"{PREVIEWS}/step-{progress.done:06d}.png"):
                    _write_preview(folder / name, shown)
            yield replace(progress, preview=None if shown is None else folder / PREVIEW)
    except GeneratorExit:
        job.cancel()
        next(job, None)  # where it saves
        raise
    return job.result


def _write_preview(path: Path, greys: "Tensor") -> None:
    import numpy as np
    from PIL import Image

    from diffrender.io.whole import whole

    values = np.rint(greys[0].clamp(0, 1).numpy() * 255).astype(np.uint8)
    with whole(path) as file:
        Image.fromarray(values).save(file, format="PNG")


def _write(
    trained: "TrainedVRR",
    folder: Path,
    command: Sequence[str],
    record: dict[str, Any],
    inputs: Sequence[str],
    seed: int,
) -> list[Path]:
    from diffrender.io.whole import together, write_whole
    from diffrender.provenance import write_provenance
    from diffrender.synth.generator import save_generator

    with together():
        return [
            save_generator(folder / MODEL, trained.generator, trained.info),
            write_whole(folder / HISTORY, history_text(trained.history)),
            write_provenance(folder, command, {**record, "outcome": trained.outcome}, inputs, seed),
        ]
