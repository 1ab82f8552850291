"""`diffrender dvr train`: painted views in, a trained renderer out."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffrender.commands.console import Debug, Json, current, example
from diffrender.commands.dvr.shared import CHECKPOINT, Name, check_device, model_of
from diffrender.commands.dvr.train_options import (
    AccumulateBy,
    Checkpointing,
    Coarse,
    Decay,
    Dropout,
    Jitter,
    Loss,
    Lpips,
    Noise,
    NormOf,
    Patches,
    PrecisionOf,
    Rotation,
    Sampling,
    Scratch,
    Shift,
    drawing_options,
    settings_of,
)
from diffrender.commands.dvr.trained import files_of, showing, summary_of, text_of, write_trained
from diffrender.commands.target import check_given, check_outputs, check_writable
from diffrender.errors import DiffRenderError, SettingError

if TYPE_CHECKING:
    from diffrender.dvr.cases import Case
    from diffrender.dvr.settings import TrainSettings
    from diffrender.dvr.views import Views

EXAMPLE = example("diffrender dvr train views/ --renderer unet-s --seconds 120 -o model")
BYTES_A_PARAMETER = 32  # on disk: two models, and a save with optimiser and the best so far, twice while it is written
BYTES_BESIDE = 20 * 2**20  # pictures and records


def train(
    folders: Annotated[
        list[str], typer.Argument(metavar="FOLDER...", help="Painted views, as `dvr views` wrote them; of several CTs.")
    ],
    ct: Annotated[
        list[str] | None, typer.Option(metavar="F", help="Where the CT lies by now; once for each FOLDER, in order.")
    ] = None,
    renderer: Annotated[
        Name | None,
        typer.Option(metavar="NAME", help="What is trained; `dvr renderers` lists them. By default unet-s."),
    ] = None,
    steps: Annotated[int | None, typer.Option(metavar="N", help="How long: in steps,")] = None,
    seconds: Annotated[float | None, typer.Option(metavar="S", help="or in seconds (the default, 120),")] = None,
    epochs: Annotated[float | None, typer.Option(metavar="N", help="or in rounds through all views.")] = None,
    rate: Annotated[float | None, typer.Option(metavar="R", help="Learning rate at the start.")] = None,
    batch: Annotated[int | None, typer.Option(metavar="N", help="Views a step.")] = None,
    held_out: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Number of the view that is kept out and scored; -1: none. By default the last."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of weights, order and jitter.")] = 0,
    width: Annotated[
        float | None, typer.Option(metavar="W", help="Share of the network's channels; 1 is the paper's size.")
    ] = None,
    rotation: Rotation = None,
    shift: Shift = None,
    noise: Noise = None,
    sampling: Sampling = None,
    coarse: Coarse = None,
    jitter: Jitter = True,
    decay: Decay = None,
    loss: Loss = None,
    lpips: Lpips = None,
    accumulate: AccumulateBy = None,
    norm: NormOf = None,
    dropout: Dropout = None,
    scratch: Scratch = False,
    precision: PrecisionOf = None,
    checkpointing: Checkpointing = False,
    patches: Patches = None,
    slots: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Train these parts alone: of encoder, colour, opacity, accumulate, decoder."),
    ] = None,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="MODEL", help="Go on from a trained renderer instead of anew.")
    ] = None,
    as_shown: Annotated[
        bool,
        typer.Option("--as-shown", help="Learn the pictures as they are, not the paint: shaded or ready-made ones."),
    ] = False,
    device: Annotated[str, typer.Option(metavar="D", help="auto, cpu, cuda or cuda:1.")] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how long it would take, and end.")] = False,
    out: Annotated[
        str, typer.Option("-o", "--out", metavar="DIR", help="The folder of the model and of its save.")
    ] = "model",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a renderer to draw what is painted on views.

    DIR gets model.safetensors (the best by the view that was kept out), last.safetensors, before.png, wanted.png and
    after.png (that view), history.csv, and checkpoint.pt, which holds at most 60 s less than was done: the same
    command typed again goes on from there. Ctrl-C, or with --json the line "cancel" on stdin, or its end, saves and
    stops. With --json, lines of progress carry the scores and the path of a preview.
    """
    console = current()
    given = {
        "--from": from_,
        "--lpips": lpips,
        "--out": out,
        "--device": device,
        **{f"FOLDER {n + 1}": f for n, f in enumerate(folders)},
    }
    check_given({**given, **{f"--ct {n + 1}": path for n, path in enumerate(ct or ())}})
    if ct and len(ct) != len(folders):
        raise SettingError(f"--ct is given {len(ct)} times and there are {len(folders)} folders; give one for each.")
    check_device(device)
    start = None if from_ is None else model_of(from_)
    drawing = {
        "width": width,
        "accumulate": accumulate and accumulate.value,
        "norm": norm and norm.value,
        "dropout": dropout,
        "start": "scratch" if scratch else None,
    }
    _check_from(start, (["--renderer"] if renderer is not None else []) + drawing_options(drawing))
    settings = settings_of(
        (renderer or Name.unet_s).value,
        seed,
        slots,
        sampling,
        loss,
        lpips,
        augment={"rotation": rotation, "shift": shift, "noise": noise},
        drawing=drawing,
        others={
            "steps": steps,
            "seconds": seconds,
            "epochs": epochs,
            "rate": rate,
            "batch": batch,
            "held_out": held_out,
            "device": device,
            "coarse": coarse,
            "decay": decay,
            "jitter": jitter,
            "precision": precision and precision.value,
            "checkpointing": checkpointing,
            "patches": patches,
        },
        several=len(folders) > 1,
    )
    folder = Path(out).expanduser()
    inputs = [path for path in (*folders, *(ct or ()), from_, lpips) if path is not None]
    check_outputs(files_of(folder), inputs)
    _check_apart(folder, folders)

    console.progress(_nothing_yet(), "Reading the views")
    views, cases, settings = read_cases(folders, ct, settings, as_shown)
    begun = None
    if start is not None:
        from diffrender.dvr.model import load_model

        begun = load_model(start)[0]
        settings = replace(settings, renderer=begun.name, drawing=begun.settings)
    check_writable(folder, _need(settings))
    from diffrender.dvr.training import train_on

    job = showing(train_on(cases, settings, folder / CHECKPOINT, begun), folder)  # checks; it begins to work in `run`
    estimated = _estimate(settings, cases)
    if dry_run:
        told = {"seconds": estimated.seconds, "steps": estimated.steps, "memory": estimated.memory}
        console.result({"estimate": {**told, "sentence": estimated.sentence}}, estimated.sentence)
        return
    if console.json:
        console.notice(estimated.sentence)
    else:
        console.text(estimated.sentence)
    again = f"Type the same command again to go on from {folder / CHECKPOINT}."
    trained = console.run(job, f"Training {settings.renderer}", again)
    record = {
        "training": settings,
        "as_shown": as_shown,
        "views": folders,
        "cts": [case.volume.source for case in cases],
        "from": from_,
    }
    files = write_trained(trained, folder, views, cases, settings, console.command, record, inputs)
    if trained.outcome != "finished":
        raise DiffRenderError(f"{trained.sentence} The best so far is in {folder}.")
    console.result(summary_of(trained, folder, files), text_of(trained, folder, files))


def read_cases(
    folders: list[str], cts: list[str] | None, settings: "TrainSettings", as_shown: bool
) -> "tuple[list[Views], list[Case], TrainSettings]":
    """The views, what is learned from them, and the settings with the transfer function that drew the first ones."""
    from diffrender.dvr.cases import Case
    from diffrender.dvr.painting import targets_of
    from diffrender.dvr.targets import targets_from_images
    from diffrender.dvr.views import read_views

    several = [read_views(folder) for folder in folders]
    targets = [
        targets_from_images(folder) if as_shown else targets_of(views)
        for folder, views in zip(folders, several, strict=True)
    ]
    cases = [
        Case(views.open_volume(path), tuple(wanted))
        for views, path, wanted in zip(several, cts or [None] * len(folders), targets, strict=True)
    ]
    drawing = replace(settings.drawing, transfer=several[0].transfer)
    return several, cases, replace(settings, drawing=drawing)


def _check_from(start: Path | None, others: list[str]) -> None:
    if start is not None and others:
        raise SettingError(
            f"--from {start} already says which renderer it is, and how it is made; leave out {', '.join(others)}."
        )


def _check_apart(folder: Path, folders: list[str]) -> None:
    """What is written to a folder of views would change its hash, and a second run could not tell the two apart."""
    for views in folders:
        inside = Path(views).expanduser().resolve()
        if inside in (folder.resolve(), *folder.resolve().parents):
            raise SettingError(f"{folder} lies in {views}, which is read; give a folder beside it with -o.")


def _need(settings: "TrainSettings") -> int:
    from diffrender.dvr.renderers import count_parameters

    return count_parameters(settings.renderer, settings.drawing) * BYTES_A_PARAMETER + BYTES_BESIDE


def _estimate(settings: "TrainSettings", cases: "list[Case]"):
    from diffrender.dvr.budget import estimate

    largest = max(cases, key=lambda case: case.volume.values.numel())
    counting = sum(target.counts for case in cases for target in case.targets)
    return estimate(settings, largest.volume, largest.targets[0].camera.image_size, counting)


def _nothing_yet():
    from diffrender.jobs import Progress

    return Progress(0, 1)
