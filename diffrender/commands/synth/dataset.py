"""`diffrender synth dataset`: as many labelled radiographs as wanted."""

from collections import Counter
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from diffrender.commands.console import Debug, Json, current, example
from diffrender.commands.radiograph import parse_size
from diffrender.commands.synth.cases import cases_of
from diffrender.commands.synth.drr import Effect, physics_of
from diffrender.commands.target import check_given, check_writable
from diffrender.errors import SettingError

EXAMPLE = example(
    "diffrender synth dataset ct.nii.gz --labels labels.nii.gz --preset pelvis-ap --views 100 --workers 2 -o data/"
)
SIZE = 256  # px
BYTES_A_PIXEL = 12  # on disk, of an image with 60 labels, packed
LISTED = 12  # labels


class Image(str, Enum):
    """What an image is written as."""

    png = "png"
    nifti = "nifti"


class Masks(str, Enum):
    """What masks are written as."""

    npz = "npz"
    tiff = "tiff"
    png = "png"


def dataset(
    ct: Annotated[
        list[str], typer.Argument(metavar="CT...", help="CTs, or a CSV table: ct, labels, names, landmarks, patient.")
    ],
    labels: Annotated[
        list[str] | None, typer.Option(metavar="F", help="Labels of the CT. Repeat for each CT, in the same order.")
    ] = None,
    names: Annotated[
        list[str] | None, typer.Option(metavar="F", help="Names of the labels, one table for all CTs or one each.")
    ] = None,
    lungs: Annotated[bool, typer.Option("--lungs", help="Find the lungs of CTs that have no label of them.")] = False,
    preset: Annotated[
        str,
        typer.Option(metavar="NAME", help="View and examination: chest-pa, chest-ap-bedside, pelvis-ap, c-arm, ..."),
    ] = "frontal",
    views: Annotated[int, typer.Option(metavar="N", help="Images of each CT.")] = 10,
    size: Annotated[str, typer.Option(metavar="N", help="N x N pixels, or HEIGHTxWIDTH.")] = str(SIZE),
    pixel_size: Annotated[float | None, typer.Option(metavar="MM", help="Pixels of the detector [mm].")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of views, noise and splits.")] = 0,
    spread: Annotated[
        float, typer.Option(metavar="X", help="Times the preset's spread of views; 0: all the same.")
    ] = 1.0,
    plain: Annotated[bool, typer.Option("--plain", help="One energy, no scatter, no noise: an ordinary DRR.")] = False,
    without: Annotated[list[Effect] | None, typer.Option(help="An effect to leave out. May be repeated.")] = None,
    kvp: Annotated[float | None, typer.Option(metavar="KV", help="Tube voltage, 40 to 150 [kV].")] = None,
    dose: Annotated[
        float | None, typer.Option(metavar="UGY", help="Air kerma of the open beam at the detector [uGy].")
    ] = None,
    intensity: Annotated[bool, typer.Option("--intensity", help="The signal itself, bone dark.")] = False,
    presented: Annotated[bool, typer.Option("--presented", help="Greys as on a viewing station, not values.")] = False,
    image: Annotated[Image, typer.Option(help="What an image is written as.")] = Image.png,
    masks: Annotated[
        Masks, typer.Option(help="npz: masks and path lengths of all labels; tiff: a page, png: a file for each.")
    ] = Masks.npz,
    dicom: Annotated[bool, typer.Option("--dicom", help="Also DX images and Segmentations, marked synthetic.")] = False,
    with_patient: Annotated[
        bool, typer.Option("--with-patient", help="DICOM carries the CT's patient; without, those fields are empty.")
    ] = False,
    balance: Annotated[
        list[str] | None,
        typer.Option(metavar="LABEL=SHARE", help="This share of the images shows the label. May be repeated."),
    ] = None,
    splits: Annotated[
        str, typer.Option(metavar="A,B,C", help="Shares of the patients for train, val and test.")
    ] = "0.8,0.1,0.1",
    workers: Annotated[int, typer.Option(metavar="N", help="Processes of this machine.")] = 1,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Ray cluster that does the work: auto, or HOST:PORT.")
    ] = None,
    out: Annotated[
        str, typer.Option("-o", "--out", metavar="DIR", help="The folder, or s3://..., gs://... (needs fsspec).")
    ] = "dataset",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Make a data set of radiographs with exact labels: images/, masks/, manifest.jsonl and coco.json in one folder.

    An image hangs on its CT, its number and the seed alone. Ctrl-C, a crash or a full disk lose nothing: the same
    command goes on where it was, and with more views or CTs it adds to what is there.
    """
    console = current()
    check_given({"CT": ct[0], "--out": out})
    cases = cases_of(ct, labels or [], names or [])

    from diffrender.provenance import write_provenance
    from diffrender.synth.datasets import DatasetSettings
    from diffrender.synth.datasets import dataset as make
    from diffrender.synth.imaging import Imaging
    from diffrender.synth.manifest import SPLITS
    from diffrender.synth.store import is_remote
    from diffrender.synth.views import spread_preset, widened

    if plain and (kvp is not None or dose is not None or without):
        raise SettingError("--plain is without physics; leave out --kvp, --dose and --without, or --plain.")
    physics = None if plain else physics_of(preset, (kvp, None, dose, None, 0), without)
    imaging = Imaging(
        view=widened(spread_preset(preset), spread) if spread != 1 else preset,
        image_size=parse_size(size),
        pixel_size=pixel_size,
        physics=physics,
        kind="intensity" if intensity else "log-attenuation",
        presented=presented,
        lungs=lungs,
        image=image.value,
        masks=masks.value,
        dicom=dicom,
        patient=with_patient,
    )
    settings = DatasetSettings(views, seed, imaging, shares_of(splits), balance_of(balance or []))
    job = make(cases, out, settings, workers, ray)
    if not is_remote(out):
        height, width = imaging.image_size
        check_writable(Path(out).expanduser(), views * len(cases) * height * width * BYTES_A_PIXEL)
    done = console.run(job, "Taking radiographs", "The same command goes on from there.")
    files = []
    if not is_remote(out):
        given = [path for case in cases for path in (case.path, case.labels, case.names)]
        typed = [path for path in given if isinstance(path, str)]
        hashed = [path for path in typed if Path(path).expanduser().exists()]
        files.append(write_provenance(out, console.command, {"settings": settings, "workers": workers}, hashed, seed))
    counts = {split: len(done.of(split)) for split in SPLITS}
    shown = Counter(label["name"] for entry in done.entries for label in entry["labels"])
    listed = ", ".join(f"{name} in {count}" for name, count in shown.most_common(LISTED))
    more = f" and {len(shown) - LISTED} more" if len(shown) > LISTED else ""
    text = (
        f"{out}: {len(done.entries)} radiographs of {len(cases)} CT{'s' * (len(cases) != 1)} "
        f"({', '.join(f'{count} {split}' for split, count in counts.items())}).\n"
        + (f"Labels shown: {listed}{more}.\n" if shown else "No labels.\n")
        + "manifest.jsonl names each image, its masks, camera and labels."
    )
    data = {"folder": out, "files": files, "images": len(done.entries), "splits": counts, "labels": dict(shown)}
    console.result(data, text)


def shares_of(text: str) -> tuple[float, float, float]:
    """Three shares. Raises: SettingError."""
    try:
        first, second, third = (float(part) for part in text.split(","))
    except ValueError:
        raise SettingError(f"--splits is three shares that add up to 1, as 0.8,0.1,0.1; not {text!r}.") from None
    return first, second, third


def balance_of(wishes: list[str]) -> dict[str, float] | None:
    """{label: share}. Raises: SettingError."""
    found = {}
    for wish in wishes:
        name, equals, share = wish.rpartition("=")
        try:
            found[name] = float(share.removesuffix("%")) / (100 if share.endswith("%") else 1)
        except ValueError:
            equals = ""
        if not (equals and name):
            raise SettingError(f"--balance is LABEL=SHARE, as nodule=0.5 or nodule=50%; not {wish!r}.")
    return found or None
