"""`diffrender dvr segment`: the paint on views becomes labels in 3D."""

import csv
import os
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffrender.commands.console import Debug, Json, current, example
from diffrender.commands.dvr.shared import check_apart, model_of, trained_on
from diffrender.commands.radiograph import stem_of
from diffrender.commands.target import check_given, check_outputs, check_writable, target_of
from diffrender.errors import SettingError
from diffrender.jobs import Progress

if TYPE_CHECKING:
    from diffrender import Volume
    from diffrender.dvr.renderer import Renderer
    from diffrender.dvr.segmenter import Segmenter
    from diffrender.dvr.view import Views

EXAMPLE = example("diffrender dvr segment views/ --model model -o labels.nii.gz")
SUFFIXES = (".nii.gz", ".nii", ".seg.nrrd")
NAMES = ".names.csv"
CAMERAS = "cameras.json"  # what makes a folder one of views
LEARNED = ".safetensors"


def segment(
    what: Annotated[
        str,
        typer.Argument(
            metavar="VIEWS|MODEL|LEARNED", help="Painted views, a model trained on them, or what --save has written."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(metavar="F", help="What says which voxels are seen; by default what drew the views."),
    ] = None,
    ct: Annotated[
        str | None,
        typer.Option(metavar="F", help="Where the CT of the views lies by now; of LEARNED: the CT to label."),
    ] = None,
    series: Annotated[
        str | None, typer.Option(metavar="S", help="Which DICOM series, where the CT for LEARNED holds several.")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Of what is learned from the paint; 0.")] = None,
    save: Annotated[
        str | None,
        typer.Option(metavar="F", help=f"Keep what was learned, {LEARNED}: it labels other CTs, in place of VIEWS."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", metavar="FILE", help=f"{', '.join(SUFFIXES)}; by default CT-labels.nii.gz."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Label the voxels that are seen by the paint on views: a segmentation without a label drawn in 3D.

    Each paint but those to ignore becomes a label of its number and name; what is seen and not painted in a painted
    view is none. NAME.names.csv holds the names where the format has no room for them. What one CT has taught labels
    others of the same region and contrast: `--save hips.safetensors`, then `dvr segment hips.safetensors --ct OTHER`.
    With --json the line "cancel" on stdin, or its end, stops it.
    """
    console = current()
    check_given({"VIEWS|MODEL|LEARNED": what, "--model": model, "--ct": ct, "--save": save, "--out": out})
    learned = _learned(what, ct, {"--model": model, "--seed": seed, "--save": save})
    if learned is None and series is not None:
        raise SettingError("--series is for what was learned already; views know the series that they are of.")
    source, file = _meant(what, model) if learned is None else (Path(what), None)
    kept = None if save is None else Path(save).expanduser()
    if kept is not None and kept.suffix != LEARNED:
        raise SettingError(f"--save {save} has no ending that can be written; give NAME{LEARNED}.")
    target = target_of(out, f"{_stem(source, ct)}-labels", "labels", SUFFIXES)
    main = target.file()
    inputs = [str(path) for path in (source, file, ct) if path is not None]

    from diffrender.dvr.segmenter import save_segmenter
    from diffrender.io.labels_out import write_labels
    from diffrender.io.whole import together, write_whole
    from diffrender.provenance import write_provenance

    outputs = [main, target.provenance, target.file(NAMES), *([] if kept is None else [kept])]
    check_outputs(outputs, inputs)
    check_apart(outputs)
    for place in (target.folder, *([] if kept is None else [kept.parent])):
        check_writable(place, 2**20)
    labelled, segmenter = _taught(source, file, ct, seed or 0) if learned is None else _applied(*learned, series)
    check_writable(target.folder, labelled.values.numel())
    settings = {
        "renderer": segmenter.renderer.name,
        "views" if learned is None else "learned": source,
        "cts": [labelled.source],
        "series": series,
    }
    with together():
        files = [write_labels(main, labelled)]
        if not target.suffix.endswith(".nrrd"):  # which holds the names itself
            files.append(write_whole(target.file(NAMES), _table(labelled)))
        if kept is not None:
            files.append(save_segmenter(kept, segmenter))
        output = target.folder if target.whole_folder else main
        hashed = [path for path in inputs if os.path.exists(os.path.expanduser(path))]
        files.append(write_provenance(output, console.command, settings, hashed, None if learned else seed or 0))
    found = _found(labelled)
    lines = [f"{label['name']}: {label['voxels']} voxels, {label['ml']:.1f} ml" for label in found]
    console.result({"files": files, "labels": found}, "\n".join([*lines, "Written:", *(f"  {one}" for one in files)]))


def _learned(what: str, ct: str | None, others: Mapping[str, object]) -> "tuple[Segmenter, str] | None":
    """What an earlier `dvr segment` has learned and the CT to label, where that is given.

    Raises: SettingError, PathError.
    """
    if not Path(what).expanduser().is_file():
        return None
    from diffrender.dvr.segmenter import holds_segmenter, load_segmenter

    if not holds_segmenter(what):
        return None
    given = [option for option, value in others.items() if value is not None]
    if given:
        raise SettingError(f"{what} has been learned already; leave out {' and '.join(given)}.")
    if ct is None:
        raise SettingError(f"{what} labels any CT. Say which, with --ct.")
    return load_segmenter(what), ct


def _applied(segmenter: "Segmenter", ct: str, series: str | None) -> "tuple[Volume, Segmenter]":
    import diffrender as dr

    console = current()
    console.progress(Progress(0, 2), f"Reading {ct}")
    volume = dr.read_volume(ct, series=series)
    console.progress(Progress(1, 2), "Labelling")
    labelled = segmenter.label(volume)
    console.progress(Progress(2, 2), "Labelling")
    return labelled, segmenter


def _taught(folder: Path, file: Path | None, ct: str | None, seed: int) -> "tuple[Volume, Segmenter]":
    from diffrender.dvr.segment import segmenting
    from diffrender.dvr.views import read_views

    console = current()
    console.progress(Progress(0, 1), "Reading the views")
    views = read_views(folder)
    job = segmenting(_renderer(file, views), views, views.open_volume(ct), seed)
    return console.run(job, "Segmenting", "Type the same command again.")


def _meant(what: str, model: str | None) -> tuple[Path, Path | None]:
    """The folder of views and the model file, if any. Raises: PathError, SettingError."""
    place = Path(what).expanduser()
    if model is not None or (place / CAMERAS).is_file():
        return place, None if model is None else model_of(model)
    file = model_of(what)
    return Path(trained_on(file, "views", "the views that it was trained on: dvr segment VIEWS --model MODEL")), file


def _stem(source: Path, ct: str | None) -> str:
    return stem_of(ct) if ct is not None else source.resolve().name


def _renderer(file: Path | None, views: "Views") -> "Renderer":
    from diffrender.dvr.model import load_model
    from diffrender.dvr.renderer import RendererSettings
    from diffrender.dvr.renderers import renderer

    return renderer("lookup", RendererSettings(transfer=views.transfer)) if file is None else load_model(file)[0]


def _table(volume: "Volume") -> str:
    """Names as `--names` reads them."""
    text = StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["id", "name"])
    rows.writerows([number, name] for number, name in (volume.names or {}).items())
    return text.getvalue()


def _found(volume: "Volume") -> list[dict[str, Any]]:
    k, j, i = volume.spacing
    counts = {number: int(volume.mask(number).sum()) for number in volume.label_ids}
    return [
        {"id": number, "name": volume.label_name(number), "voxels": count, "ml": count * k * j * i / 1000}
        for number, count in counts.items()
    ]
