"""`diffrender fit evaluate`: the paper's protocol on the held-out subjects of an atlas."""

from dataclasses import asdict, replace
from enum import Enum
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffrender.commands.console import Debug, Json, current, example
from diffrender.commands.radiograph import stem_of
from diffrender.commands.target import check_given, check_outputs, check_writable
from diffrender.errors import SettingError
from diffrender.jobs import Progress

if TYPE_CHECKING:
    from diffrender.fit.evaluation import Evaluation

EXAMPLE = example("diffrender fit evaluate atlas/ --trial one-view --trial two-views -o evaluation/")
RECORD, TABLE, REPORT, SUMMARY = "fits.jsonl", "fits.csv", "report.html", "summary.json"
BYTES_A_FIT = 80_000  # on disk: a line and a picture


# The choices of the library, here as well because --help imports no torch; a test compares.
class Preset(str, Enum):
    """What is given and what is fitted."""

    one_view = "one-view"
    two_views = "two-views"
    no_depth_prior = "no-depth-prior"
    depth_given = "depth-given"
    known_pose = "known-pose"
    known_shape = "known-shape"
    clean = "clean"
    two_views_clean = "two-views-clean"


def evaluate(
    atlas: Annotated[
        str,
        typer.Argument(metavar="ATLAS", help="Surfaces in correspondence: a folder of .vtk files or an .npz."),
    ],
    trial: Annotated[
        list[Preset] | None,
        typer.Option(help="What is tried; may be given several times. By default one-view and two-views."),
    ] = None,
    all_trials: Annotated[bool, typer.Option("--all-trials", help="All of them: tells causes apart.")] = False,
    subjects: Annotated[
        str | None, typer.Option(metavar="N,...", help="Which subjects are held out; by default all, one by one.")
    ] = None,
    starts: Annotated[int, typer.Option(metavar="N", help="For each subject and trial.")] = 10,
    modes: Annotated[int, typer.Option(metavar="N", help="Most modes of the models; 0 for all.")] = 0,
    similarity: Annotated[str | None, typer.Option(metavar="NAME", help="As in fit pelvis.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of frames and starts.")] = 0,
    workers: Annotated[int, typer.Option(metavar="N", help="Processes at a time.")] = 1,
    out: Annotated[
        str | None, typer.Option("-o", "--out", metavar="DIR", help="The folder; by default NAME-evaluation.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Fit every subject of an atlas with a model of the others, and say how far off the fits are.

    Shetty et al.'s protocol: starts within 10 mm and 5 degrees per axis, from the mean shape, on simulated frames that
    show over half the pelvis and hold what the model does not. The folder gets fits.csv, summary.json and report.html
    with overlays. The same command again goes on from where it was stopped.
    """
    console = current()
    check_given({"ATLAS": atlas, "--out": out})
    names = tuple(one.value for one in (list(Preset) if all_trials else trial or [Preset.one_view, Preset.two_views]))
    chosen = numbers_of(subjects) if subjects is not None else ()
    folder = Path(out if out is not None else f"{stem_of(atlas)}-evaluation").expanduser()
    outputs = [folder / name for name in (TABLE, REPORT, SUMMARY, "provenance.json")]
    check_outputs(outputs, [atlas])
    check_writable(folder, len(names) * max(starts, 1) * max(len(chosen), 1) * BYTES_A_FIT)

    from diffrender.fit.atlas import read_atlas
    from diffrender.fit.evaluation import EvaluateSettings
    from diffrender.fit.evaluation import evaluate as evaluation_of
    from diffrender.fit.evaluation_report import evaluation_report, summary, write_csv
    from diffrender.fit.settings import FitSettings
    from diffrender.io.whole import together, write_whole
    from diffrender.provenance import write_provenance

    fit = FitSettings() if similarity is None else replace(FitSettings(), similarity=similarity)
    settings = EvaluateSettings(names, chosen, starts, modes, workers, seed, fit)
    console.progress(Progress(0, 0), f"Reading {atlas}")
    job = evaluation_of(read_atlas(atlas), settings, folder)
    done = console.run(job, "Fitting", "Type the same command again to go on from there.")
    found = {name: summary(done.of(name)) for name in names}
    with together():
        files = [
            write_csv(folder / TABLE, done),
            write_whole(folder / SUMMARY, dumps(found, indent=1) + "\n"),
            write_whole(folder / REPORT, evaluation_report(done)),
            write_provenance(folder, console.command, {**asdict(settings), "workers": None}, [atlas], seed),
        ]
    data: dict[str, Any] = {"folder": folder, "files": files, "summary": found}
    console.result(data, "\n".join([*_lines(done, found), "Written:", *(f"  {file}" for file in files)]))


def numbers_of(text: str) -> tuple[int, ...]:
    """Subjects of "4,17". Raises: SettingError."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise SettingError(f"--subjects is a list of whole numbers with commas, as 4,17; not {text!r}.") from None


def _lines(done: "Evaluation", found: dict[str, dict[str, float]]) -> list[str]:
    lines = []
    for name, s in found.items():
        lines.append(
            f"{name}: {s['fits']:.0f} fits, landmark {s['start_landmark']:.1f} to {s['fit_landmark']:.1f} mm, "
            f"Hausdorff {s['start_hausdorff']:.1f} to {s['fit_hausdorff']:.1f} mm (floor {s['floor_landmark']:.1f}, "
            f"{s['floor_hausdorff']:.1f}); {100 * s['better']:.0f} % better than their start"
        )
    return lines
