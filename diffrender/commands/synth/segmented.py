"""What a trained segmenter makes of radiographs: masks, scores where there is something to compare, and a page."""

import csv
from collections.abc import Mapping, Sequence
from enum import Enum
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffrender.commands.console import Console
from diffrender.commands.synth.films import films_given, reduced, stems
from diffrender.commands.synth.learning import REPORT, check_folder, model_in, reading, written
from diffrender.errors import LabelError, SettingError, notify
from diffrender.jobs import Progress

if TYPE_CHECKING:
    from numpy import ndarray

    from diffrender.synth.films import Film
    from diffrender.synth.scores import Scored

NAMES, SCORES, FOLDER = "names.csv", "scores.csv", "masks"
BYTES_A_FILM = 2**18  # on disk: its masks, compressed, and its overlay


class Masks(str, Enum):
    """What masks are written as."""

    png = "png"
    npz = "npz"


def apply(
    console: Console,
    model: str,
    images: Sequence[str],
    test: str | None,
    test_masks: str | None,
    mask_names: str | None,
    kind: Masks,
    folder: Path,
) -> None:
    """Segment radiographs, and score those whose masks are known; write masks, names, scores, page and provenance.

    Raises: SettingError without radiographs; as reading and writing do.
    """
    if not images and test is None:
        raise SettingError("Say which radiographs to segment: files, or folders of them, behind --model.")
    if images and test is not None:
        raise SettingError("--test names the radiographs already; leave out the others, or segment them by themselves.")
    from diffrender.commands.synth.segment_pairs import mask_ids, masked
    from diffrender.io.whole import together, write_whole
    from diffrender.provenance import write_provenance
    from diffrender.synth.scores import evaluate_segmenter
    from diffrender.synth.segmenter import load_segmenter
    from diffrender.synth.segmenting_report import overlay_page, segmentation_page

    file = model_in(model, "synth segment")
    segmenter = load_segmenter(file)
    names = segmenter.settings.names
    given = [path for path in (test, test_masks, mask_names) if path is not None]
    inputs = [*images, *given, str(file)]
    with console.listening(), together():
        files: list[Path] = []
        if test is not None and test_masks is not None:
            reading(console, test)
            truth = masked(test, test_masks, mask_ids(names, mask_names))
            check_folder(folder, inputs, (REPORT, NAMES, SCORES), len(truth) * BYTES_A_FILM)
            scored = evaluate_segmenter(segmenter, truth)
            for stem, one in zip(stems([one.film.name for one in scored]), scored, strict=True):
                files.append(_write_masks(folder, stem, one.found, names, kind))
            files.append(write_whole(folder / SCORES, scores_csv(scored, names)))
            page = segmentation_page(segmenter, scored)
        else:
            scored = []
            films = films_given(images)
            check_folder(folder, inputs, (REPORT, NAMES), len(films) * BYTES_A_FILM)
            small: list[tuple[Film, ndarray]] = []
            for n, (stem, film) in enumerate(films.read()):
                console.progress(Progress(n, len(films)), "Segmenting")
                found = segmenter.segment(film)
                files.append(_write_masks(folder, stem, found, names, kind))
                small.append(reduced(film, found))
            console.progress(Progress(len(films), len(films)), "Segmenting")
            page = overlay_page(segmenter, [film for film, _ in small], [layers for _, layers in small])
        rows = [f"{n},{name}" for n, name in enumerate(names, 1)]
        files.append(write_whole(folder / NAMES, "\n".join(["id,name", *rows]) + "\n"))
        files.append(write_whole(folder / REPORT, page))
        settings = {"model": segmenter.settings, "learned": segmenter.info, "masks": kind.value}
        files.append(write_provenance(folder, console.command, settings, inputs))
    data = {"folder": folder, "files": files, "report": folder / REPORT, "labels": names, **table_of(scored, names)}
    count = sum(file.parent.name == FOLDER for file in files)
    lines = [f"{count} radiographs segmented ({', '.join(names)}).", scores_text(scored, names)]
    places = [folder / FOLDER, *(file for file in files if file.parent == folder)]
    console.result(data, "\n".join([*filter(None, lines), *written(places)]))


def scores_csv(scored: "Sequence[Scored]", names: Sequence[str]) -> str:
    """A line a radiograph, the worst first."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "dice", *(f"dice of {name}" for name in names)])
    for one in scored:
        values = ["" if value != value else f"{value:.4f}" for value in (one.mean, *one.dice)]
        writer.writerow([Path(one.film.name).name, *values])
    return text.getvalue()


def table_of(scored: "Sequence[Scored]", names: Sequence[str]) -> Mapping[str, Any]:
    """Scores for a program; null where nothing was scored."""
    if not scored:
        return {"scored": 0, "dice": None}
    from diffrender.synth.scores import mean_dice

    by_label = {name: _mean([one.dice[n] for one in scored]) for n, name in enumerate(names)}
    worst = [{"file": Path(one.film.name).name, "dice": one.mean} for one in scored[:5]]
    return {"scored": len(scored), "dice": mean_dice(scored), "dice_of": by_label, "worst": worst}


def scores_text(scored: "Sequence[Scored]", names: Sequence[str]) -> str:
    """The same for a person; empty where nothing was scored."""
    if not scored:
        return ""
    told = table_of(scored, names)
    each = ", ".join(f"{name} {value:.3f}" for name, value in told["dice_of"].items())
    worst = told["worst"][0]
    return (
        f"Dice on {told['scored']} radiographs: {told['dice']:.3f} on average ({each}); the worst {worst['dice']:.3f} "
        f"({worst['file']})."
    )


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if value == value]
    return sum(known) / len(known) if known else float("nan")


def _write_masks(folder: Path, stem: str, found: "ndarray", names: Sequence[str], kind: Masks) -> Path:
    import numpy as np
    from PIL import Image

    from diffrender.io.whole import write_whole

    buffer = BytesIO()
    if kind is Masks.npz:
        np.savez_compressed(buffer, masks=found, names=np.array(names), ids=np.arange(1, len(names) + 1))
    else:
        if len(names) > 254:
            raise LabelError(f"{len(names)} labels are more than a picture of ids can tell apart. Take --masks npz.")
        ids = np.zeros(found.shape[1:], dtype=np.uint8)
        for n, layer in enumerate(found, 1):
            ids[layer] = n
        if bool((found.sum(0) > 1).any()):
            notify("Labels overlap, and a picture of ids shows the later one there; --masks npz keeps both.")
        Image.fromarray(ids).save(buffer, format="PNG")
    return write_whole(folder / FOLDER / f"{stem}.{kind.value}", buffer.getvalue())
