"""`diffrender synth classify`: a classifier of radiographs is trained on a data set, scored, and used."""

import csv
from collections.abc import Sequence
from enum import Enum
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffrender.commands.console import Console, Debug, Json, current, example
from diffrender.commands.dvr.shared import check_device
from diffrender.commands.radiograph import parse_size
from diffrender.commands.synth.films import films_given, reduced
from diffrender.commands.synth.learning import (
    CHECKPOINT,
    HISTORY,
    MODEL,
    REPORT,
    Batch,
    Device,
    DeviceOf,
    Rate,
    Steps,
    check_folder,
    history_text,
    model_in,
    reading,
    training_of,
    written,
)
from diffrender.commands.target import check_given
from diffrender.errors import LabelError, SettingError
from diffrender.jobs import Progress

if TYPE_CHECKING:
    from diffrender.synth.classifying import Labelled, TrainedClassifier

EXAMPLE = example("diffrender synth classify --data dataset/ --learn nodule -o findings")
TABLE = "probabilities.csv"
SPLITS = ("test", "val")


# The library's, here as well because --help imports no torch; a test compares.
class Preset(str, Enum):
    """How large a training is."""

    small = "small"
    densenet121 = "densenet121"


class Network(str, Enum):
    """How large the network is."""

    tiny = "tiny"
    small = "small"
    densenet121 = "densenet121"


def classify(
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="[IMAGES...]", help="With --model: radiographs to judge, or folders of them."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="DIR|F", help="Use what was trained before, instead of training.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="DATASET", help="Learn from what `synth dataset` made, or from a manifest.")
    ] = None,
    learn: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Learn this label or finding; by default all that some images lack."),
    ] = None,
    training: Annotated[
        Preset, typer.Option(help="small: minutes on a laptop; densenet121: for a GPU.")
    ] = Preset.small,
    steps: Steps = None,
    size: Annotated[str | None, typer.Option(metavar="N", help="N x N pixels, or HEIGHTxWIDTH, it looks at.")] = None,
    batch: Batch = None,
    rate: Rate = None,
    network: Annotated[Network | None, typer.Option(help="Of another size than the training's.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of weights and draws.")] = 0,
    device: DeviceOf = Device.auto,
    out: Annotated[str, typer.Option("-o", "--out", metavar="DIR", help="The folder of what is written.")] = (
        "classifier"
    ),
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a network that says what radiographs show, several labels at once; with --model, let it say.

    An image shows the labels in its line of the manifest, and its "finding". DIR gets model.safetensors, history.json,
    report.html of the data set's test (or else val) images, those first that it judges most wrongly, and
    checkpoint.pt: the same command goes on from there. Ctrl-C, or with --json the line "cancel" on stdin, or its end,
    saves and stops. With --model, DIR gets probabilities.csv and report.html of the radiographs:

    \b
      diffrender synth classify --model findings radiographs/ -o judged
    """
    console = current()
    check_given({"--model": model, "--data": data, "--out": out})
    check_given({f"IMAGES {n + 1}": path for n, path in enumerate(images or ())})
    folder = Path(out).expanduser()
    if model is not None:
        if data is not None or learn:
            raise SettingError(f"--model is trained already; leave out {'--data' if data is not None else '--learn'}.")
        _apply(console, model, images or [], folder)
        return
    if images:
        raise SettingError(f"{images[0]}: radiographs are judged with --model; a data set is learned from with --data.")
    if data is None:
        raise SettingError("Say which data set to learn from: --data; or, to judge radiographs, --model.")
    check_device(device.value)

    from diffrender.synth.classifying import (
        CLASSIFY_PRESETS,
        labelled_in_manifest,
        labels_in_manifest,
        train_classifier,
    )

    changes: dict[str, Any] = {"steps": steps, "batch": batch, "rate": rate, "network": network and network.value}
    changes |= {"image_size": None if size is None else parse_size(size), "seed": seed, "device": device.value}
    settings = training_of(CLASSIFY_PRESETS, training.value, changes)
    check_folder(folder, [data])
    reading(console, data)
    names = tuple(learn or labels_in_manifest(data))
    if not names:
        raise LabelError(
            f"All images of {data} show the same labels, so there is nothing to tell apart. Make it with --balance, or "
            'write a "finding" into the lines of its manifest.'
        )
    labelled, held_out = labelled_in_manifest(data, names), _held_out(data, names)
    job = train_classifier(labelled, names, settings, folder / CHECKPOINT, held_out, {"data": data})
    again = f"Type the same command again to go on from {folder / CHECKPOINT}."
    trained = console.run(job, f"Learning {', '.join(names)}", again)
    reading(console, "how well it does")
    files = _write(trained, held_out, folder, {"training": settings, "data": data, "labels": names})
    scores = {name: value if value == value else None for name, value in trained.learned.scores.items()}
    data_ = {"folder": folder, "files": files, "model": folder / MODEL, "labels": names}
    data_ |= {"steps": trained.learned.steps, "seconds": trained.learned.seconds, "scored": len(held_out)}
    lines = [
        f"Learned {', '.join(names)} in {trained.learned.steps} steps, {trained.learned.seconds:.0f} s.",
        _scores(scores, len(held_out)),
        *written(files),
        f'Use it: diffrender synth classify --model "{folder}" RADIOGRAPHS -o judged',
    ]
    console.result({**data_, "scores": scores}, "\n".join(lines))


def _held_out(data: str, names: Sequence[str]) -> "list[Labelled]":
    from diffrender.synth.classifying import labelled_in_manifest

    for split in SPLITS:
        if found := labelled_in_manifest(data, names, split):
            return found
    return []


def _scores(scores: dict[str, float | None], count: int) -> str:
    if not count:
        return "Nothing was kept out to score it on: the data set has no test and no val images."
    each = ", ".join(f"{name} {'-' if value is None else format(value, '.3f')}" for name, value in scores.items())
    return f"On {count} images kept out: {each}."


def _write(
    trained: "TrainedClassifier", held_out: "list[Labelled]", folder: Path, settings: dict[str, Any]
) -> list[Path]:
    from diffrender.io.whole import together, write_whole
    from diffrender.provenance import write_provenance
    from diffrender.synth.classifier import save_classifier
    from diffrender.synth.classifying_report import classification_page

    with together():
        files = [save_classifier(folder / MODEL, trained.classifier)]
        files.append(write_whole(folder / HISTORY, history_text(trained.learned.history)))
        if held_out:
            page = classification_page(trained.classifier, [one.film for one in held_out], held_out)
            files.append(write_whole(folder / REPORT, page))
        seed = settings["training"].seed
        files.append(write_provenance(folder, current().command, settings, [settings["data"]], seed))
    return files


def _apply(console: Console, model: str, images: Sequence[str], folder: Path) -> None:
    """Judge radiographs; write a table, a page and provenance. Raises: as reading and writing do."""
    if not images:
        raise SettingError("Say which radiographs to judge: files, or folders of them, behind --model.")
    import numpy as np

    from diffrender.io.whole import together, write_whole
    from diffrender.provenance import write_provenance
    from diffrender.synth.classifier import load_classifier
    from diffrender.synth.classifying_report import classification_page

    file = model_in(model, "synth classify")
    classifier = load_classifier(file)
    names = classifier.settings.names
    inputs = [*images, str(file)]
    with console.listening(), together():
        films = films_given(images)
        check_folder(folder, inputs, (TABLE, REPORT))
        small, rows = [], []
        for n, (_, film) in enumerate(films.read()):
            console.progress(Progress(n, len(films)), "Judging")
            small.append(reduced(film, np.zeros((0, *film.values.shape), dtype=bool))[0])
            rows.append((film.name, classifier.probabilities(small[-1]).tolist()))  # as the page says it too
        console.progress(Progress(len(films), len(films)), "Judging")
        files = [write_whole(folder / TABLE, _table(rows, names))]
        files.append(write_whole(folder / REPORT, classification_page(classifier, small)))
        settings = {"model": classifier.settings, "learned": classifier.info}
        files.append(write_provenance(folder, console.command, settings, inputs))
    judged = [{"file": name, "probabilities": dict(zip(names, sure, strict=True))} for name, sure in rows]
    data = {"folder": folder, "files": files, "report": folder / REPORT, "labels": names, "images": judged}
    console.result(data, "\n".join([f"{len(rows)} radiographs judged ({', '.join(names)}).", *written(files)]))


def _table(rows: Sequence[tuple[str, Sequence[float]]], names: Sequence[str]) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", *names])
    writer.writerows([name, *(f"{value:.4f}" for value in sure)] for name, sure in rows)
    return text.getvalue()
