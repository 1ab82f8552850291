"""`diffrender fit pelvis`: a shape model registered to X-ray frames."""

import math
import os
from dataclasses import asdict
from enum import Enum
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffrender.commands.console import Console, Debug, Json, current, example
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
    box: Annotated[
        str, typer.Option(metavar="MM,DEGREES", help="The truth lies within so much of the start, per axis; 0,0: any.")
    ] = "10,5",
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
    check_given({"FRAME": frames[0], "--camera": camera, "--model": model, "--out": out})
    given = [*frames, *(path for path in (camera, model) if path), *(start or [])]
    folder = Path(out).expanduser()
    check_outputs([folder / name for name in (*FILES, "provenance.json")], given)
    check_writable(folder, ROOM)
    (place, turn), (view_place, view_turn) = _pair("--box", box), _pair("--per-view", per_view)
    free = _free(freeze or [])

    from diffrender.fit.settings import FitSettings

    settings = FitSettings(
        similarity=similarity.value,
        optimiser=optimiser.value,
        sizes=_sizes(size),
        steps=steps,
        start_translation=place,
        start_rotation=turn,
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
        fit, written = _fitted(console, frames, camera, model, start or [], settings, folder)

    from diffrender.provenance import write_provenance

    hashed = [path for path in given if os.path.exists(os.path.expanduser(path))]
    written.append(write_provenance(folder, console.command, asdict(settings), hashed, seed))
    stated = fit.certainty
    data = {"outcome": fit.outcome, "sentence": fit.sentence, "folder": folder, "files": written}
    data |= {"depth_deviation": stated.depth, "in_plane_deviation": stated.in_plane}
    text = (
        f"{fit.outcome}: {fit.sentence}\nTo be expected (one deviation): {stated.depth:.1f} mm in depth, "
        f"{stated.in_plane:.1f} mm across.\n{folder / 'report.html'} shows the outlines on the frames."
    )
    console.result(data, text)


def _fitted(
    console: Console,
    frames: list[str],
    camera: str | None,
    model: str | None,
    start: list[str],
    settings: "FitSettings",
    folder: Path,
) -> "tuple[Fit, list[Path]]":
    from diffrender import read_radiographs
    from diffrender.fit import load_shape_model
    from diffrender.fit.registration import chosen_model
    from diffrender.fit.registration import pelvis as register
    from diffrender.fit.start import read_start

    console.progress(Progress(0, 1), "Reading")
    radiographs = read_radiographs(frames, camera=camera)
    shape = chosen_model(None if model is None else load_shape_model(model))
    starts = [read_start(path) for path in start] or [_first(radiographs, shape)]
    job = register(radiographs, shape, settings, starts)
    fit = console.run(job, "Fitting", "Nothing was written; type the same command to start again.")
    return fit, _write(folder, fit, radiographs, shape, starts[0])


def _first(radiographs: "list[Radiograph]", model: "ShapeModel") -> "Start":
    """From landmarks that came with the frames, else from the C-arm's geometry."""
    from diffrender.fit.start import LEAST, start_at_isocentre, start_from_landmarks

    marks = [dict(one.landmarks or {}) for one in radiographs]
    cameras = [one.camera for one in radiographs]
    if sum(map(len, marks)) >= LEAST:
        return start_from_landmarks(cameras, marks, model)
    return start_at_isocentre(cameras, model)


def _write(
    folder: Path, fit: "Fit", radiographs: "list[Radiograph]", model: "ShapeModel", start: "Start"
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
            write_whole(folder / FILES[3], dumps(_certainty(fit), indent=1) + "\n"),
            write_whole(folder / FILES[4], fit_report(fit, radiographs, model, before)),
        ]


def _landmarks(fit: "Fit") -> dict[str, Any]:
    return {"format": 1, "world": "RAS", "landmarks": {name: place.tolist() for name, place in fit.landmarks.items()}}


def _certainty(fit: "Fit") -> dict[str, Any]:
    """One standard deviation of each error to be expected."""
    stated = fit.certainty
    return {
        "format": 1,
        "world": "RAS",
        "outcome": fit.outcome,
        "sentence": fit.sentence,
        "depth_mm": stated.depth,
        "in_plane_mm": stated.in_plane,
        "translation_mm": stated.pose[:3].tolist(),
        "rotation_degrees": [math.degrees(n) for n in stated.pose[3:].tolist()],
        "landmarks_mm": {name: spread.tolist() for name, spread in stated.landmarks.items()},
        "vertices_mm": [[round(n, 2) for n in spread] for spread in stated.vertices.tolist()],
        "covariance": stated.covariance.tolist(),
    }


def _free(freeze: list[str]) -> dict[str, bool]:
    """What is fitted, as FitSettings names it. Raises: SettingError."""
    free = {"shape": True, "pose": True, "turn": True}
    for name in freeze:
        if name not in free:
            raise SettingError(f"--freeze {name} is not offered: {', '.join(free)} can be held.")
        free[name] = False
    return free


def _sizes(size: int) -> tuple[int, ...]:
    """Halves of the finest size, coarse first."""
    if size < 16:
        raise SettingError(f"--size {size} is too small to see a pelvis; give 32 or more.")
    sizes = [size]
    while sizes[0] >= 64:
        sizes.insert(0, sizes[0] // 2)
    return tuple(sizes)


def _pair(option: str, text: str) -> tuple[float, float]:
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError:
        raise SettingError(f"{option} is two numbers, mm and degrees, as 10,5; not {text!r}.") from None
    return first, second


def _depth(text: str) -> float:
    try:
        return math.inf if text == "none" else float(text)
    except ValueError:
        raise SettingError(f"--depth is a number [mm] or none, not {text!r}.") from None
