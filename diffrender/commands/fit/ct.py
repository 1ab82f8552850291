"""`diffrender fit ct`: a CT registered to X-ray frames of the same patient."""

import os
from dataclasses import asdict, replace
from enum import Enum
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffrender.commands.console import Debug, Json, current, example
from diffrender.commands.fit.shared import certainty_of, pair_of, result_of, sizes_of, tell_of_one_camera
from diffrender.commands.target import check_given, check_outputs, check_writable
from diffrender.errors import SettingError
from diffrender.jobs import Progress

if TYPE_CHECKING:
    from diffrender.fit.result import Fit
    from diffrender.xray import Radiograph

EXAMPLE = example("diffrender fit ct frame.png --camera camera.json --ct ct.nii.gz --start pose.json -o fit/")
FILES = ("pose.json", "certainty.json", "report.html")
EVERYWHERE, WHERE_IT_LIES = "From a search in all orientations.", "Where the CT lies in its own world."
ROOM = 20 * 2**20  # bytes; a report of a few frames takes some MiB


class Similarity(str, Enum):
    """What is compared."""

    correlation = "correlation"
    gradient_correlation = "gradient-correlation"
    gradient_difference = "gradient-difference"


def ct(
    frames: Annotated[
        list[str],
        typer.Argument(metavar="FRAME...", help="DICOM, a DeepFluoro HDF5, or images with --camera; or a folder."),
    ],
    ct: Annotated[str, typer.Option("--ct", metavar="CT", help="NIfTI, NRRD, MHA, or a DICOM folder or zip [HU].")],
    camera: Annotated[
        str | None,
        typer.Option(metavar="F", help="The frames' cameras as JSON, one or a list; where the files do not say it."),
    ] = None,
    series: Annotated[str | None, typer.Option(metavar="S", help="Which series of a DICOM folder.")] = None,
    start: Annotated[
        list[str] | None,
        typer.Option(metavar="F", help="Where to begin: a pose.json; by default where the CT lies. May be repeated."),
    ] = None,
    search: Annotated[
        bool, typer.Option("--search", help="Look everywhere first, in all orientations: minutes, not seconds.")
    ] = False,
    box: Annotated[
        str, typer.Option(metavar="MM,DEGREES", help="The truth lies within so much of the start, per axis; 0,0: any.")
    ] = "0,0",
    evolution: Annotated[
        bool, typer.Option("--evolution", help="Begin with CMA-ES within the box (20 mm, 10 degrees without one).")
    ] = False,
    similarity: Annotated[Similarity, typer.Option(help="What is compared.")] = Similarity.correlation,
    size: Annotated[int, typer.Option(metavar="N", help="The finest stage's longer side [px].")] = 256,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the evolution.")] = 0,
    out: Annotated[str, typer.Option("-o", "--out", metavar="DIR", help="The folder.")] = "fit",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Find where the patient of a CT lies in X-ray frames of known geometry.

    Writes pose.json (world_from_ct, to be applied to the CT), certainty.json, and report.html, which shows each frame
    beside the CT's own picture and both on a chessboard: look at it. For research, not a medical device.
    """
    from diffrender import read_radiographs, read_volume
    from diffrender.fit.ct_registration import CT_SETTINGS
    from diffrender.fit.ct_registration import ct as register
    from diffrender.fit.start import read_start
    from diffrender.fit.wide import WideSettings
    from diffrender.provenance import write_provenance

    console = current()
    check_given({"FRAME": frames[0], "--ct": ct, "--camera": camera, "--out": out})
    if search and start:
        raise SettingError("--search looks everywhere, and --start says where; give one of them.")
    given = [*frames, ct, *([camera] if camera else []), *(start or [])]
    folder = Path(out).expanduser()
    check_outputs([folder / name for name in (*FILES, "provenance.json")], given)
    check_writable(folder, ROOM)
    place, turn = pair_of("--box", box)
    settings = replace(
        CT_SETTINGS,
        similarity=similarity.value,
        optimiser="wide" if evolution else "levenberg",
        sizes=sizes_of(size),
        start_translation=place,
        start_rotation=turn,
        seed=seed,
    )
    with console.listening():
        console.progress(Progress(0, 1), "Reading")
        radiographs = read_radiographs(frames, camera=camera)
        volume = read_volume(ct, series=series)
        tell_of_one_camera(radiographs)
        starts = [read_start(path) for path in start or []]
        poses = [one.world_from_model for one in starts]
        job = register(radiographs, volume, settings, poses, WideSettings() if search else None)
        fit = console.run(job, "Fitting", "Nothing was written; type the same command to start again.")
        told = [one.sentence for one in starts] or [EVERYWHERE if search else WHERE_IT_LIES]
        written = _write(folder, fit, radiographs, told)

    hashed = [path for path in given if os.path.exists(os.path.expanduser(path))]
    written.append(write_provenance(folder, console.command, {**asdict(settings), "starts": told}, hashed, seed))
    console.result(*result_of(fit, told, folder, written, "the CT's own pictures beside the frames"))


def _write(folder: Path, fit: "Fit", radiographs: "list[Radiograph]", told: list[str]) -> list[Path]:
    from diffrender.fit.report import fit_report
    from diffrender.fit.start import Start, write_start
    from diffrender.io.whole import together, write_whole

    with together():
        return [
            write_start(Start(fit.world_from_model, fit.coefficients), folder / FILES[0]),
            write_whole(folder / FILES[1], dumps(certainty_of(fit), indent=1) + "\n"),
            write_whole(folder / FILES[2], fit_report(fit, radiographs, title="Registration of a CT", began=told)),
        ]
