"""`diffrender radiograph`: a CT in, a radiograph out."""

import os
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from enum import Enum
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffrender.commands.console import Debug, Json, current, example
from diffrender.commands.target import Target, check_given, check_outputs, check_writable, size_of, suffix_of, target_of
from diffrender.errors import GeometryError, MemoryNeedError, SettingError, notify
from diffrender.jobs import Progress

if TYPE_CHECKING:
    from diffrender import Camera, Radiograph, RadiographSettings

EXAMPLE = example("diffrender radiograph ct.nii.gz --labels labels.nii.gz --preset pelvis-ap -o pelvis.png")
READABLE = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".nhdr", ".mha", ".mhd", ".zip", ".dcm", ".dicom", ".ima")
CAMERA, PREVIEW = ".camera.json", ".preview.png"
SIZE = 512  # px; sharp enough on a screen, a second or two on a laptop
LARGEST = 16384  # px; the largest real detectors have 4300
BYTES_A_PIXEL = 16  # on disk, all files of one picture together; labels are packed
# Bytes of memory while they are made and written, as measured with 59 labels: of a pixel, and of each label in it.
PIXEL_NEED, LABEL_NEED = 64, {"hard": 14, "soft": 18}
NOTHING = 1e-3  # [no unit] p of 0.05 mm of water: less is air alone
LISTED = 16  # labels named on the screen; the JSON line has them all
WORDS = {"R": "right", "L": "left", "A": "front", "P": "back", "H": "head", "F": "feet"}


# The choices of RadiographSettings, here as well because --help imports no torch; a test compares.
class Kind(str, Enum):
    """What the pixels are."""

    log_attenuation = "log-attenuation"
    intensity = "intensity"


class Masks(str, Enum):
    """What masks are."""

    hard = "hard"
    soft = "soft"


class Backend(str, Enum):
    """What casts the rays."""

    auto = "auto"
    torch = "torch"
    warp = "warp"


def radiograph(
    ct: Annotated[str, typer.Argument(metavar="CT", help="NIfTI, NRRD, MHA, or a DICOM file, folder or zip.")],
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="F", help="Labels to project: NIfTI, NRRD, .seg.nrrd, DICOM SEG or RTSTRUCT, a folder of masks."
        ),
    ] = None,
    names: Annotated[
        str | None, typer.Option(metavar="F", help="Names of the labels: CSV or JSON, or totalsegmentator-v1 or -v2.")
    ] = None,
    series: Annotated[str | None, typer.Option(metavar="S", help="Which DICOM series, where CT holds several.")] = None,
    preset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Where it is taken from: frontal (the default), chest-pa, pelvis-ap, ..."),
    ] = None,
    camera: Annotated[
        str | None,
        typer.Option(metavar="F", help="A camera's JSON file instead of a preset; a list of cameras gives a folder."),
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="N", help=f"N x N pixels, or HEIGHTxWIDTH; {SIZE}, or what the camera says.")
    ] = None,
    pixel_size: Annotated[
        float | None,
        typer.Option(metavar="MM", help="Pixels of the detector [mm]; by default it is as large as the CT needs."),
    ] = None,
    kind: Annotated[
        Kind, typer.Option(help="log-attenuation: bone bright; intensity: bone dark.")
    ] = Kind.log_attenuation,
    energy: Annotated[float, typer.Option(metavar="KEV", help="At which HU become attenuation [keV].")] = 70.0,
    masks: Annotated[Masks, typer.Option(help="Of the labels: yes or no, or shares from 0 to 1.")] = Masks.hard,
    threshold: Annotated[
        float, typer.Option(metavar="MM", help="A label is seen where its path is longer [mm].")
    ] = 1.0,
    backend: Annotated[Backend, typer.Option(help="What casts the rays; auto takes the fastest.")] = Backend.auto,
    anonymous: Annotated[bool, typer.Option("--anonymous", help="No patient fields in DICOM output.")] = False,
    out: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FILE|DIR",
            help="PNG, NIfTI, TIFF or DICOM file, or a folder. By default CT-PRESET.png in the working directory.",
        ),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Take a radiograph of a CT, with its labels projected where there are some.

    Beside the picture NAME.png lie NAME.camera.json (the camera), NAME.provenance.json (versions, settings, hashes),
    NAME.preview.png (8 bits, for the eye, with the labels drawn in) and NAME.labels.npz (masks and path lengths).
    With --json and a list of cameras, the line "cancel" on stdin, or its end, stops it.
    """
    from diffrender.xray import RadiographSettings

    settings = RadiographSettings(kind.value, energy, masks.value, threshold, backend=backend.value)
    request = Request(ct, labels, names, series, preset, camera, size, pixel_size, anonymous, out)
    current().result(*take(request, lambda _: settings))


@dataclass(frozen=True)
class Request:
    """What is asked for, as typed: a picture of what, from where, to which file."""

    ct: str
    labels: str | None
    names: str | None
    series: str | None
    preset: str | None
    camera: str | None
    size: str | None
    pixel_size: float | None
    anonymous: bool
    out: str | None


Written = tuple[dict[str, Any], str]


def take(
    request: Request,
    settings_for: "Callable[[str], RadiographSettings]",
    more: "Callable[[Radiograph, Target, int], list[Path]] | None" = None,
) -> Written:
    """Take the pictures and write them. Returns the result for a program, and for a person.

    Args:
        settings_for: what is made of the rays, by the preset's name; "frontal" where a camera is given.
        more: writes what else lies beside the n-th picture, and says which files that are.
    Raises: as `diffrender.radiograph` and reading and writing do.
    """
    import diffrender as dr
    from diffrender.io.images import LABELS_SUFFIX, WRITERS
    from diffrender.io.whole import together
    from diffrender.physics.attenuation import linear_map
    from diffrender.provenance import write_provenance
    from diffrender.views import PRESETS
    from diffrender.xray import scene_of

    console = current()
    asked = request
    named = {"CT": asked.ct, "--labels": asked.labels, "--names": asked.names}
    check_given({**named, "--camera": asked.camera, "--out": asked.out})
    if asked.camera is not None and (asked.preset is not None or asked.pixel_size is not None):
        other = "--preset" if asked.preset is not None else "--pixel-size"
        raise SettingError(
            f"--camera already says where the picture is taken from and how large its pixels are; leave out {other}."
        )
    # A CT may take a minute to read: what can be wrong without it is asked before.
    preset = asked.preset or "frontal"
    settings = settings_for(preset)
    linear_map(settings.energy)
    if preset not in PRESETS:
        raise SettingError(f"{preset!r} is no preset; there are {', '.join(PRESETS)}.")
    shape = None if asked.size is None else parse_size(asked.size)
    cameras = [] if asked.camera is None else cameras_of(asked.camera, shape)
    h, w = shape or (SIZE, SIZE)
    sizes = [view.image_size for view in cameras] or [(h, w)]
    count = len(sizes)
    default = "radiograph" if asked.anonymous else f"{stem_of(asked.ct)}-{'radiograph' if cameras else preset}"
    target = target_of(asked.out, default, "radiograph", tuple(WRITERS), count)
    inputs = [path for path in (asked.ct, asked.labels, asked.names, asked.camera) if path is not None]
    outputs = [target.file(ending, n) for n in range(count) for ending in ("", CAMERA, PREVIEW, LABELS_SUFFIX)]
    check_outputs([*outputs, target.provenance], inputs)
    check_writable(target.folder, sum(height * width for height, width in sizes) * BYTES_A_PIXEL)

    # One picture is over before one could stop it; a list of them listens.
    with console.listening() if count > 1 else nullcontext(), together():
        console.progress(Progress(0, count + 1), f"Reading {asked.ct}")
        volume = dr.read_volume(asked.ct, labels=asked.labels, names=asked.names, series=asked.series)
        for size_ in sizes:
            check_memory_for(size_, len(volume.label_ids), settings.masks)
        cameras = cameras or [dr.preset(preset, volume, image_size=(h, w), pixel_size=asked.pixel_size)]
        scene = scene_of(volume, settings)
        files, shown = [], []
        for n, view in enumerate(cameras):
            console.progress(Progress(n + 1, count + 1), "Casting rays")
            picture = dr.radiograph(scene, view)
            if is_empty(picture):
                notify(
                    f"{target.file(n=n)} is an empty picture: no ray meets anything denser than air. Check that the "
                    "camera looks at the patient, and, with `diffrender info`, that the values of the CT are HU."
                )
            files += write_all(picture, target, n, asked.anonymous)
            files += [] if more is None else more(picture, target, n)
            shown.append(summary_of(picture, target.file(n=n), settings.threshold))
        console.progress(Progress(count + 1, count + 1), "Casting rays")
        made = {
            **asdict(settings),
            "preset": None if asked.camera else preset,
            "series": asked.series,
            "anonymous": asked.anonymous,
            "cameras": cameras,
        }
        output = target.folder if target.whole_folder else target.file()
        hashed = [path for path in inputs if os.path.exists(os.path.expanduser(path))]  # a table of ours is no file
        files.append(write_provenance(output, console.command, made, hashed))
    lines = [line for picture in shown for line in sentences(picture)]
    text = "\n".join([*lines, "Written:", *(f"  {file}" for file in files)])
    return {"files": files, "pictures": shown}, text


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) from "512" or "512x400". Raises: SettingError."""
    match = re.fullmatch(r"\s*(\d+)\s*(?:[x×*,]\s*(\d+)\s*)?", text)
    sizes = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not all(1 <= n <= LARGEST for n in sizes):
        raise SettingError(
            f"--size is a number of pixels from 1 to {LARGEST}, as 512, or HEIGHTxWIDTH, as 512x400; not {text!r}."
        )
    return sizes


def cameras_of(path: str, shape: tuple[int, int] | None) -> list["Camera"]:
    """The cameras of a file, with `shape` pixels where that is given. Raises: PathError, GeometryError."""
    from diffrender.camera import read_cameras

    cameras = read_cameras(os.path.expanduser(path))
    if not cameras:
        raise GeometryError(f"{path} holds an empty list, no camera. Give one camera or more.")
    return cameras if shape is None else [camera.resized(shape) for camera in cameras]


def stem_of(ct: str) -> str:
    """What outputs are called after: the name of a file without its ending, or of a folder."""
    name = Path(ct).name or Path(ct).resolve().name or "radiograph"
    return name[: len(name) - len(suffix_of(name, READABLE))] or name


def check_memory_for(size: tuple[int, int], labels: int, masks: str) -> None:
    """Refuse a picture that memory cannot hold with all its labels. Raises: MemoryNeedError."""
    from diffrender.io.files import available_memory

    (h, w), free = size, available_memory()
    need = h * w * (PIXEL_NEED + labels * LABEL_NEED[masks])
    if need > free:
        raise MemoryNeedError(
            f"A picture of {h} x {w} pixels with {labels} labels takes {size_of(need)} of memory, and {size_of(free)} "
            "are free. Nothing was cast. Take a smaller --size or fewer labels, or close other programs."
        )


def is_empty(radiograph: "Radiograph") -> bool:
    """Whether no ray met anything but air."""
    pixels = radiograph.pixels
    p = pixels if radiograph.kind == "log-attenuation" else 1 - pixels  # of small p
    return p.amax().item() < NOTHING


def write_all(radiograph: "Radiograph", target: Target, n: int, anonymous: bool) -> list[Path]:
    """The n-th picture and what lies beside it: all of it, or nothing. Raises: OutputError."""
    from diffrender.io.images import write_radiograph
    from diffrender.io.whole import together, write_whole

    with together():
        files = write_radiograph(radiograph, target.file(n=n), anonymous=anonymous)
        camera = dumps(radiograph.camera.to_dict(), indent=2) + "\n"
        files.append(write_whole(target.file(CAMERA, n), camera))
        files.append(_write_preview(radiograph, target.file(PREVIEW, n)))
    return files


def _write_preview(radiograph: "Radiograph", path: Path) -> Path:
    from PIL import Image

    from diffrender.display import annotated, bone_window, most_telling
    from diffrender.io.whole import whole

    labels, left_out = most_telling(radiograph)
    picture = annotated(radiograph, labels, window=bone_window(radiograph), left_out=left_out)
    with whole(path) as file:
        Image.fromarray(picture).save(file, format="PNG")
    return path


def summary_of(radiograph: "Radiograph", file: Path, threshold: float) -> dict[str, Any]:
    """What a picture shows, as plain data."""
    pixels = radiograph.pixels
    labels = []
    if radiograph.path_lengths is not None:
        seen = (radiograph.path_lengths > threshold).sum(dim=(1, 2)).tolist()
        labels = [
            {"id": i, "name": radiograph.label_name(i), "pixels": n} for i, n in zip(radiograph.ids, seen, strict=True)
        ]
    return {
        "file": file,
        "kind": radiograph.kind,
        "lowest": pixels.amin().item(),
        "highest": pixels.amax().item(),
        "camera": radiograph.camera.to_dict(),
        "orientation": radiograph.camera.orientation(),
        "seen_from_detector": radiograph.camera.mirrored,
        "labels": labels,
    }


def sentences(picture: dict[str, Any]) -> list[str]:
    """The same for a person."""
    (h, w), (row, column) = picture["camera"]["image_size"], picture["camera"]["pixel_size"]
    shade = "bone dark" if picture["kind"] == "intensity" else "bone bright"
    edges = {edge: " and ".join(WORDS[n] for n in letters) for edge, letters in picture["orientation"].items()}
    extent = f"{picture['lowest']:.3g} to {picture['highest']:.3g}"
    seen_from = "detector" if picture["seen_from_detector"] else "source"
    lines = [
        f"{picture['file']}: {picture['kind']} ({shade}) {extent}, {h} x {w} pixels of {row:.3g} x {column:.3g} mm",
        (
            f"  The patient's {edges['left']} is on the image's left, {edges['right']} on its right, "
            f"{edges['top']} on top; seen from the {seen_from}."
        ),
    ]
    if picture["labels"]:
        seen = [label["name"] for label in picture["labels"] if label["pixels"]]
        missing = [label["name"] for label in picture["labels"] if not label["pixels"]]
        lines.append(f"  Labels seen, {len(seen)} of {len(picture['labels'])}: {_listed(seen)}.")
        if missing:
            lines.append(f"  Labels not in the picture: {_listed(missing)}.")
    return lines


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return (", ".join(names[:LISTED]) or "none") + more
