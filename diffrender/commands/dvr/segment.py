"""`diffrender dvr segment`: the paint on views becomes labels in 3D."""

import csv
import os
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffrender.commands.console import Debug, Json, current, example
from diffrender.commands.dvr.shared import check_apart, model_of, trained_on
from diffrender.commands.radiograph import stem_of
from diffrender.commands.target import check_given, check_outputs, check_writable, target_of
from diffrender.jobs import Progress

if TYPE_CHECKING:
    from diffrender import Volume
    from diffrender.dvr.renderer import Renderer
    from diffrender.dvr.view import Views

EXAMPLE = example("diffrender dvr segment views/ --model model -o labels.nii.gz")
SUFFIXES = (".nii.gz", ".nii", ".seg.nrrd")
NAMES = ".names.csv"
CAMERAS = "cameras.json"  # what makes a folder one of views


def segment(
    what: Annotated[str, typer.Argument(metavar="VIEWS|MODEL", help="Painted views, or a model trained on them.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="F", help="What says which voxels are seen; by default what drew the views."),
    ] = None,
    ct: Annotated[str | None, typer.Option(metavar="F", help="Where the CT of the views lies by now.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of what is learned from the paint.")] = 0,
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", metavar="FILE", help=f"{', '.join(SUFFIXES)}; by default CT-labels.nii.gz."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Label the voxels that are seen by the paint on views: a segmentation without a label drawn in 3D.

    Each paint but those to ignore becomes a label of its number and name; what is seen and not painted in a painted
    view is none. NAME.names.csv holds the names where the
    format has no room for them. With --json the line "cancel" on stdin, or its end,
    stops it.
    """
    console = current()
    check_given({"VIEWS|MODEL": what, "--model": model, "--ct": ct, "--out": out})
    folder, file = _meant(what, model)
    target = target_of(out, f"{_stem(folder, ct)}-labels", "labels", SUFFIXES)
    main = target.file()
    inputs = [str(path) for path in (folder, file, ct) if path is not None]

    from diffrender.dvr.segment import segmenting
    from diffrender.dvr.views import read_views
    from diffrender.io.labels_out import write_labels
    from diffrender.io.whole import together, write_whole
    from diffrender.provenance import write_provenance

    check_outputs([main, target.provenance, target.file(NAMES)], inputs)
    check_apart([main, target.provenance, target.file(NAMES)])
    check_writable(target.folder, 2**20)
    console.progress(Progress(0, 1), "Reading the views")
    views = read_views(folder)
    renderer = _renderer(file, views)
    volume = views.open_volume(ct)
    check_writable(target.folder, volume.values.numel())
    labelled = console.run(segmenting(renderer, views, volume, seed), "Segmenting", "Type the same command again.")
    settings = {"renderer": renderer.name, "views": folder, "cts": [volume.source]}
    with together():
        files = [write_labels(main, labelled)]
        if not target.suffix.endswith(".nrrd"):  # which holds the names itself
            files.append(write_whole(target.file(NAMES), _table(labelled)))
        output = target.folder if target.whole_folder else main
        hashed = [path for path in inputs if os.path.exists(os.path.expanduser(path))]
        files.append(write_provenance(output, console.command, settings, hashed, seed))
    found = _found(labelled)
    lines = [f"{label['name']}: {label['voxels']} voxels, {label['ml']:.1f} ml" for label in found]
    console.result({"files": files, "labels": found}, "\n".join([*lines, "Written:", *(f"  {one}" for one in files)]))


def _meant(what: str, model: str | None) -> tuple[Path, Path | None]:
    """The folder of views and the model file, if any. Raises: PathError, SettingError."""
    place = Path(what).expanduser()
    if model is not None or (place / CAMERAS).is_file():
        return place, None if model is None else model_of(model)
    file = model_of(what)
    return Path(trained_on(file, "views", "the views that it was trained on: dvr segment VIEWS --model MODEL")), file


def _stem(folder: Path, ct: str | None) -> str:
    return stem_of(ct) if ct is not None else folder.resolve().name


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
