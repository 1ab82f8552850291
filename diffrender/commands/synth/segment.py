"""`diffrender synth segment`: a segmenter of radiographs is trained on labelled CTs, scored on real ones, and used."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffrender.commands.console import Debug, Json, current, example
from diffrender.commands.dvr.shared import check_device
from diffrender.commands.radiograph import parse_size
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
    reading,
    training_of,
    written,
)
from diffrender.commands.synth.segment_pairs import Pairs, held_out_of, rules_of, source_of
from diffrender.commands.synth.segmented import Masks, apply, scores_text, table_of
from diffrender.commands.target import check_given
from diffrender.errors import SettingError

if TYPE_CHECKING:
    from diffrender.synth.pairs import Masked
    from diffrender.synth.scores import Scored
    from diffrender.synth.segmenting import TrainedSegmenter

EXAMPLE = example("diffrender synth segment --ct a.nii.gz --ct b.nii.gz --lungs -o lungs")
SCORES = "scores.csv"
VIEWS = 40


# The library's presets, here as well because --help imports no torch; a test compares.
class Preset(str, Enum):
    """How large a training is."""

    small = "small"
    large = "large"


class Network(str, Enum):
    """How large the network is."""

    tiny = "tiny"
    small = "small"
    large = "large"


def segment(
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="[IMAGES...]", help="With --model: radiographs to segment, or folders of them."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="DIR|F", help="Use what was trained before, instead of training.")
    ] = None,
    ct: Annotated[
        list[str] | None, typer.Option(metavar="CT", help="Learn from a CT, or a CSV table of them. Repeat for more.")
    ] = None,
    labels: Annotated[
        list[str] | None, typer.Option(metavar="F", help="Labels of the CT. Repeat for each CT, in the same order.")
    ] = None,
    names: Annotated[
        list[str] | None, typer.Option(metavar="F", help="Names of the labels, one table for all CTs or one each.")
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="DATASET", help="Learn from what `synth dataset` made.")] = None,
    real: Annotated[str | None, typer.Option(metavar="IMAGES", help="Learn from real radiographs, and")] = None,
    real_masks: Annotated[
        str | None, typer.Option(metavar="MASKS", help="their masks: PNGs of ids under the same names.")
    ] = None,
    mix: Annotated[
        str | None, typer.Option(metavar="G/X", help="Generated pairs for each real one: 0 to inf; 1.")
    ] = None,
    lungs: Annotated[
        bool, typer.Option("--lungs", help="Learn the lungs, which are found in CTs without a label of them.")
    ] = False,
    learn: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help='Learn this label, or several as one: "ribs=rib_*". May be repeated.'),
    ] = None,
    view: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="View of the CTs; chest-pa and -ap-bedside for lungs. May be repeated."),
    ] = None,
    views: Annotated[int, typer.Option(metavar="N", help="Views of each CT, each shown in ever new ways.")] = VIEWS,
    mask_names: Annotated[
        str | None,
        typer.Option(metavar="F", help="A table of the ids in masks; by default 1, 2, ... in the order of labels."),
    ] = None,
    test: Annotated[str | None, typer.Option(metavar="IMAGES", help="Score it on real radiographs, by")] = None,
    test_masks: Annotated[
        str | None, typer.Option(metavar="MASKS", help="their masks; 255 is what nobody knows.")
    ] = None,
    training: Annotated[Preset, typer.Option(help="small: minutes on a laptop; large: for a GPU.")] = Preset.small,
    steps: Steps = None,
    size: Annotated[str | None, typer.Option(metavar="N", help="N x N pixels, or HEIGHTxWIDTH, it looks at.")] = None,
    batch: Batch = None,
    rate: Rate = None,
    network: Annotated[Network | None, typer.Option(help="Of another size than the training's.")] = None,
    parts: Annotated[bool, typer.Option("--parts", help="A label may be several parts, as ribs are.")] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Of weights and draws.")] = 0,
    device: DeviceOf = Device.auto,
    masks: Annotated[
        Masks, typer.Option(help="With --model: png, a picture of ids; npz, each label's, overlaps kept.")
    ] = Masks.png,
    out: Annotated[str, typer.Option("-o", "--out", metavar="DIR", help="The folder of what is written.")] = (
        "segmenter"
    ),
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a network that outlines labels on radiographs; with --model, outline them.

    Trained from --ct, --data, --real or a mix, DIR gets model.safetensors, history.json, with --test (or a data set's
    own test images) scores.csv and report.html with the overlays, the worst first, and checkpoint.pt: the same command
    goes on from there. Ctrl-C, or with --json the line "cancel" on stdin, or its end, saves and stops.

    With --model, DIR gets masks/, names.csv and report.html of the radiographs:

    \b
      diffrender synth segment --model lungs radiographs/ -o outlined
    """
    console = current()
    lists = {"IMAGES": images, "--ct": ct, "--labels": labels, "--names": names}
    single = {"--model": model, "--data": data, "--real": real, "--real-masks": real_masks, "--test": test}
    check_given({**single, "--test-masks": test_masks, "--mask-names": mask_names, "--out": out})
    check_given({f"{option} {n + 1}": path for option, paths in lists.items() for n, path in enumerate(paths or ())})
    if (test is None) != (test_masks is None):
        raise SettingError("--test and --test-masks go together: radiographs, and their masks of the same names.")
    pairs = Pairs(
        *(ct or [], labels or [], names or [], data, real, real_masks, mix, lungs, learn or []),
        *(view or [], views, mask_names, seed),
    )
    folder = Path(out).expanduser()
    tested = [path for path in (test, test_masks) if path is not None]
    if model is not None:
        taught = {"--ct": ct, "--data": data, "--real": real, "--mix": mix, "--learn": learn, "--lungs": lungs}
        if given := [option for option, value in taught.items() if value]:
            raise SettingError(f"--model is trained already; leave out {', '.join(given)}.")
        apply(console, model, images or [], test, test_masks, mask_names, masks, folder)
        return
    if images:
        raise SettingError(f"{images[0]}: radiographs are segmented with --model; learned from with --real.")
    pairs.check()
    check_device(device.value)

    from diffrender.synth.segmenter import SegmenterSettings
    from diffrender.synth.segmenting import SEGMENT_PRESETS, train_segmenter

    changes: dict[str, Any] = {"steps": steps, "batch": batch, "rate": rate, "network": network and network.value}
    changes |= {"image_size": None if size is None else parse_size(size), "seed": seed, "device": device.value}
    settings = training_of(SEGMENT_PRESETS, training.value, changes)
    inputs = [*pairs.paths, *tested]
    check_folder(folder, inputs)
    rules = rules_of(pairs)
    learned = [rule.joined or rule.names for rule in rules]
    SegmenterSettings(tuple(learned), settings.network, settings.image_size)  # refused before CTs are looked at
    if test is not None:
        reading(console, test)
    held_out = held_out_of(pairs, learned, test, test_masks)
    source = source_of(pairs, rules, console)
    job = train_segmenter(
        source, settings, folder / CHECKPOINT, held_out, single=not parts, info={"mix": mix, "cts": len(pairs.cts)}
    )
    again = f"Type the same command again to go on from {folder / CHECKPOINT}."
    trained = console.run(job, f"Learning {', '.join(learned)}", again)
    reading(console, "how well it does")
    scored, files = _write(trained, held_out, folder, {"training": settings, "pairs": pairs, "rules": rules}, inputs)
    data_ = {
        "folder": folder,
        "files": files,
        "model": folder / MODEL,
        "labels": learned,
        "steps": trained.learned.steps,
        "seconds": trained.learned.seconds,
        **table_of(scored, learned),
    }
    lines = [
        f"Learned {', '.join(learned)} in {trained.learned.steps} steps, {trained.learned.seconds:.0f} s.",
        scores_text(scored, learned) or "Nothing was kept out to score it on: give --test and --test-masks.",
        *written(files),
        f'Use it: diffrender synth segment --model "{folder}" RADIOGRAPHS -o outlined',
    ]
    console.result(data_, "\n".join(lines))


def _write(
    trained: "TrainedSegmenter",
    held_out: "list[Masked]",
    folder: Path,
    settings: dict[str, Any],
    inputs: list[str],
) -> "tuple[list[Scored], list[Path]]":
    from diffrender.commands.synth.segmented import scores_csv
    from diffrender.io.whole import together, write_whole
    from diffrender.provenance import write_provenance
    from diffrender.synth.scores import evaluate_segmenter
    from diffrender.synth.segmenter import save_segmenter
    from diffrender.synth.segmenting_report import segmentation_page

    segmenter = trained.segmenter
    scored = evaluate_segmenter(segmenter, held_out)
    with together():
        files = [save_segmenter(folder / MODEL, segmenter)]
        files.append(write_whole(folder / HISTORY, history_text(trained.learned.history)))
        if scored:
            files.append(write_whole(folder / SCORES, scores_csv(scored, segmenter.settings.names)))
            files.append(write_whole(folder / REPORT, segmentation_page(segmenter, scored)))
        hashed = [path for path in inputs if Path(path).expanduser().exists()]  # a table of ours is no file
        command, seed = current().command, settings["training"].seed
        files.append(write_provenance(folder, command, settings, hashed, seed))
    return scored, files
