"""`diffrender fit pelvis`: a shape model registered to X-ray frames."""

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from enum import Enum
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffrender.commands.console import Console, Debug, Json, current, example
from diffrender.commands.fit.shared import (
    certainty_of,
    pair_of,
    read_marks,
    result_of,
    sizes_of,
    tell_of_one_camera,
)
from diffrender.commands.target import check_given, check_outputs, check_writable
from diffrender.errors import SettingError
from diffrender.jobs import Progress

if TYPE_CHECKING:
    from diffrender.fit.result import Fit
    from diffrender.fit.settings import FitSettings
    from diffrender.fit.shape import ShapeModel
    from diffrender.fit.start import Start
    from diffrender.xray import Radiograph

EXAMPLE = example("diffrender fit pelvis ap.png lateral.png --camera cameras.json --model pelvis.h5 -o fit/")
FILES = ("mesh.ply", "pose.json", "landmarks.json", "certainty.json", "report.html")
NEAR, GUESSED = "10,5", "30,10"  # mm, degrees: the box about a start that is given, and about the isocentre
ROOM = 50 * 2**20  # bytes; a report of a few frames takes some MiB


class Similarity(str, Enum):
    """What is compared."""

    correlation = "correlation"
    gradient_correlation = "gradient-correlation"
    gradient_difference = "gradient-difference"
    labels = "labels"


class Optimiser(str, Enum):
    """How the best is found."""

    levenberg = "levenberg"
    adam = "adam"
    wide = "wide"


def pelvis(
    frames: Annotated[
        list[str],
        typer.Argument(metavar="FRAME...", help="DICOM, a DeepFluoro HDF5, or images with --camera; or a folder."),
    ],
    camera: Annotated[
        str | None,
        typer.Option(metavar="F", help="The frames' cameras as JSON, one or a list; where the files do not say it."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="F", help="The shape model (.h5); by default a small parametric pelvis of our own."),
    ] = None,
    start: Annotated[
        list[str] | None,
        typer.Option(metavar="F", help="Where to begin: a pose.json. Several times for several starts."),
    ] = None,
    landmarks: Annotated[
        str | None,
        typer.Option(
            metavar="F", help='Or from marks: JSON {"FH-l": [row, column], ...} [px], or a list, one a frame.'
        ),
    ] = None,
    box: Annotated[
        str | None,
        typer.Option(
            metavar="MM,DEGREES",
            help="The truth lies within so much of the start, per axis; 0,0: any. By default 10,5; without a start, "
            "about the isocentre, 30,10.",
        ),
    ] = None,
    depth: Annotated[
        str,
        typer.Option(metavar="MM", help="How certain the start's depth is (one deviation); 0: as the box; none: not."),
    ] = "0",
    similarity: Annotated[Similarity, typer.Option(help="What is compared.")] = Similarity.correlation,
    optimiser: Annotated[Optimiser, typer.Option(help="How the best is found.")] = Optimiser.levenberg,
    modes: Annotated[int, typer.Option(metavar="N", help="Most modes of the shape; 0 for all.")] = 0,
    per_view: Annotated[
        str, typer.Option(metavar="MM,DEGREES", help="Each view moves by itself, with these deviations.")
    ] = "0,0",
    freeze: Annotated[list[str] | None, typer.Option(metavar="WHAT", help="shape, pose or turn is held.")] = None,
    size: Annotated[int, typer.Option(metavar="N", help="The finest stage's longer side [px].")] = 128,
    steps: Annotated[int, typer.Option(metavar="N", help="Most steps at each stage.")] = 30,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the wide search.")] = 0,
    out: Annotated[str, typer.Option("-o", "--out", metavar="DIR", help="The folder.")] = "fit",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Fit a statistical pelvis to X-ray frames: shape, pose, and how certain each is.

    Writes mesh.ply (RAS mm, the model's vertex order), pose.json, landmarks.json, certainty.json, and report.html with
    overlays: look at them. For research, not a medical device.
    """
    console = current()
    named = {"--camera": camera, "--model": model, "--landmarks": landmarks, "--out": out}
    check_given({"FRAME": frames[0], **named})
    if start and landmarks:
        raise SettingError("--start says where to begin, and --landmarks too; give one of them.")
    given = [*frames, *(path for path in (camera, model, landmarks) if path), *(start or [])]
    folder = Path(out).expanduser()
    check_outputs([folder / name for name in (*FILES, "provenance.json")], given)
    check_writable(folder, ROOM)
    view_place, view_turn = pair_of("--per-view", per_view)
    near, guessed = (pair_of("--box", one if box is None else box) for one in (NEAR, GUESSED))
    free = _free(freeze or [])

    from diffrender.fit.settings import FitSettings
    from diffrender.provenance import write_provenance

    settings = FitSettings(
        similarity=similarity.value,
        optimiser=optimiser.value,
        sizes=sizes_of(size),
        steps=steps,
        depth=_depth(depth),
        modes=modes,
        view_translation=view_place,
        view_rotation=view_turn,
        seed=seed,
        shape=free["shape"],
        pose=free["pose"],
        turn=free["turn"],
    )
    with console.listening():
        console.progress(Progress(0, 1), "Reading")
        radiographs, shape = _read(frames, camera, model)
        starts = _starts(start or [], landmarks, radiographs, shape)
        place, turn = near if starts else guessed
        settings = replace(settings, start_translation=place, start_rotation=turn)
        starts = starts or [_at_isocentre(radiographs, shape)]
        fit = _fitted(console, radiographs, shape, settings, starts)
        told = [one.sentence for one in starts]
        written = _write(folder, fit, radiographs, shape, starts[0], told)

    hashed = [path for path in given if os.path.exists(os.path.expanduser(path))]
    written.append(write_provenance(folder, console.command, {**asdict(settings), "starts": told}, hashed, seed))
    console.result(*result_of(fit, told, folder, written, "the outlines on the frames"))


def _read(frames: list[str], camera: str | None, model: str | None) -> "tuple[list[Radiograph], ShapeModel]":
    from diffrender import read_radiographs
    from diffrender.fit import load_shape_model
    from diffrender.fit.registration import chosen_model

    shape = None if model is None else load_shape_model(model)
    radiographs = read_radiographs(frames, camera=camera)
    tell_of_one_camera(radiographs)
    return radiographs, chosen_model(shape)


def _starts(
    start: list[str], landmarks: str | None, radiographs: "list[Radiograph]", model: "ShapeModel"
) -> "list[Start]":
    """As typed, or from landmarks that came with the frames; none where nothing is known."""
    from diffrender.fit.start import LEAST, read_start, start_from_landmarks

    if start:
        return [read_start(path) for path in start]
    marks = [dict(one.landmarks or {}) for one in radiographs]
    if landmarks is not None:
        marks = read_marks(landmarks, len(radiographs))
    elif sum(len(model.landmarks_at.keys() & view) for view in marks) < LEAST:
        return []
    return [start_from_landmarks([one.camera for one in radiographs], marks, model)]


def _at_isocentre(radiographs: "list[Radiograph]", model: "ShapeModel") -> "Start":
    from diffrender.fit.start import start_at_isocentre

    return start_at_isocentre([one.camera for one in radiographs], model)


def _fitted(
    console: Console,
    radiographs: "list[Radiograph]",
    model: "ShapeModel",
    settings: "FitSettings",
    starts: "Sequence[Start]",
) -> "Fit":
    from diffrender.fit.registration import pelvis as register

    job = register(radiographs, model, settings, starts)
    return console.run(job, "Fitting", "Nothing was written; type the same command to start again.")


def _write(
    folder: Path,
    fit: "Fit",
    radiographs: "list[Radiograph]",
    model: "ShapeModel",
    start: "Start",
    told: list[str],
) -> list[Path]:
    from diffrender.fit.report import fit_report
    from diffrender.fit.start import Start, write_start
    from diffrender.io import write_mesh
    from diffrender.io.whole import together, write_whole
    from diffrender.mesh import Mesh

    assert fit.mesh is not None
    pose = start.world_from_model
    begun = model.points(start.coefficients[: len(model.modes)], start.turn if model.joint else None)
    before = Mesh(begun @ pose[:3, :3].T.to(begun) + pose[:3, 3].to(begun), model.faces)
    with together():
        return [
            write_mesh(fit.mesh, folder / FILES[0]),
            write_start(Start(fit.world_from_model, fit.coefficients, fit.turn), folder / FILES[1]),
            write_whole(folder / FILES[2], dumps(_landmarks(fit), indent=1) + "\n"),
            write_whole(folder / FILES[3], dumps(certainty_of(fit), indent=1) + "\n"),
            write_whole(
                folder / FILES[4], fit_report(fit, radiographs, model, before, "Registration of a pelvis", told)
            ),
        ]


def _landmarks(fit: "Fit") -> dict[str, Any]:
    return {"format": 1, "world": "RAS", "landmarks": {name: place.tolist() for name, place in fit.landmarks.items()}}


def _free(freeze: list[str]) -> dict[str, bool]:
    """What is fitted, as FitSettings names it. Raises: SettingError."""
    free = {"shape": True, "pose": True, "turn": True}
    for name in freeze:
        if name not in free:
            raise SettingError(f"--freeze {name} is not offered: {', '.join(free)} can be held.")
        free[name] = False
    if not any(free.values()):
        raise SettingError(
            "--freeze holds shape, pose and turn, so that nothing is left to be fitted. Free one of them."
        )
    return free


def _depth(text: str) -> float:
    try:
        return math.inf if text == "none" else float(text)
    except ValueError:
        raise SettingError(f"--depth is a number [mm] or none, not {text!r}.") from None
