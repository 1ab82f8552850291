"""`diffrender synth vrr`: radiographs of a CT as a trained generator draws them, with exact labels."""

import os
from collections.abc import Iterator
from dataclasses import replace
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffrender.commands.console import Debug, Json, current, example
from diffrender.commands.radiograph import (
    BYTES_A_PIXEL,
    CAMERA,
    PREVIEW,
    cameras_of,
    check_memory_for,
    parse_size,
    sentences,
    stem_of,
    summary_of,
)
from diffrender.commands.synth.learning import model_in, reading, written
from diffrender.commands.target import Target, check_given, check_outputs, check_writable, target_of
from diffrender.errors import SettingError
from diffrender.jobs import Progress

if TYPE_CHECKING:
    from diffrender import Camera, Radiograph, Volume
    from diffrender.synth.generator import VRRGenerator

EXAMPLE = example("diffrender synth vrr ct.nii.gz --model vrr --labels labels.nii.gz --views 6 -o pictures/")
SIZE = 256  # px; a generator's fields are no finer than that
MOST_VIEWS = 4096
KIND = "presented"  # greys as on a viewing station, which is what the generator has learned


def vrr(
    ct: Annotated[str, typer.Argument(metavar="CT", help="NIfTI, NRRD, MHA, or a DICOM file, folder or zip.")],
    model: Annotated[str, typer.Option(metavar="DIR|F", help="What `synth train` has written.")],
    labels: Annotated[str | None, typer.Option(metavar="F", help="Labels to project.")] = None,
    names: Annotated[
        str | None, typer.Option(metavar="F", help="Names of the labels: CSV or JSON, or totalsegmentator-v1 or -v2.")
    ] = None,
    series: Annotated[str | None, typer.Option(metavar="S", help="Which DICOM series, where CT holds several.")] = None,
    lungs: Annotated[bool, typer.Option("--lungs", help="Find the lungs where the CT has no label of them.")] = False,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="The view; by default the one that the model was trained on.")
    ] = None,
    camera: Annotated[
        str | None, typer.Option(metavar="F", help="A camera's JSON file in the view's place; a list gives a folder.")
    ] = None,
    size: Annotated[str | None, typer.Option(metavar="N", help=f"N x N pixels, or HEIGHTxWIDTH; {SIZE}.")] = None,
    views: Annotated[
        int | None,
        typer.Option(metavar="N", help="So many views, drawn around the preset; by default the preset itself."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the views drawn.")] = 0,
    out: Annotated[
        str | None, typer.Option("-o", "--out", metavar="FILE|DIR", help="PNG, or a folder. By default CT-vrr.png.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Take radiographs of a CT that look like those a generator has learned from, with every label projected exactly.

    Beside the picture NAME.png (16 bits, greys as shown, bone bright) lie NAME.labels.npz (masks by the rules of data
    sets, and path lengths), NAME.camera.json, NAME.preview.png with the labels drawn in, and NAME.provenance.json.
    Picture n of a seed is the same however many are asked for. With --json the line "cancel" on stdin, or its end,
    stops it.
    """
    console = current()
    named = {"CT": ct, "--model": model, "--labels": labels, "--names": names, "--camera": camera, "--out": out}
    check_given(named)
    if camera is not None and (preset is not None or views is not None):
        other = "--preset" if preset is not None else "--views"
        raise SettingError(f"--camera already says where the picture is taken from; leave out {other}.")
    if views is not None and not 1 <= views <= MOST_VIEWS:
        raise SettingError(f"--views is a number of views from 1 to {MOST_VIEWS}, not {views}.")
    shape = None if size is None else parse_size(size)
    cameras = [] if camera is None else cameras_of(camera, shape)
    count = len(cameras) or views or 1
    sizes = [one.image_size for one in cameras] or [shape or (SIZE, SIZE)] * count
    target = target_of(out, f"{stem_of(ct)}-vrr", "vrr", (".png",), count)
    inputs = [path for path in (ct, model, labels, names, camera) if path is not None]
    endings = ("", CAMERA, PREVIEW, ".labels.npz")
    check_outputs([*(target.file(e, n) for n in range(count) for e in endings), target.provenance], inputs)
    check_writable(target.folder, sum(h * w for h, w in sizes) * BYTES_A_PIXEL)

    from diffrender import read_volume
    from diffrender.io.whole import together
    from diffrender.provenance import write_provenance
    from diffrender.synth.generator import load_generator

    generator, info = load_generator(model_in(model, "synth train"))
    view = preset or _trained_on(info)
    spread = _spread(view, 0.0 if views is None else 1.0)
    with console.listening(), together():
        reading(console, ct)
        volume = read_volume(ct, labels=labels, names=names, series=series)
        if lungs:
            from diffrender.synth.lungs import with_lungs

            volume = with_lungs(volume)
        for one in set(sizes):
            check_memory_for(one, len(volume.label_ids), "hard")
        cameras = cameras or _drawn(volume, spread, count, sizes[0], seed)
        files, shown = [], []
        for n, picture in enumerate(_pictures(generator, volume, cameras)):
            console.progress(Progress(n, count), "Drawing")
            files += _write(picture, target, n)
            shown.append({**summary_of(picture, target.file(n=n), 0.0), "kind": KIND, "labels": _seen(picture)})
        console.progress(Progress(count, count), "Drawing")
        settings = {"view": None if camera else view, "views": views, "cameras": cameras, "model": info, "lungs": lungs}
        output = target.folder if target.whole_folder else target.file()
        hashed = [path for path in inputs if os.path.exists(os.path.expanduser(path))]  # a table of ours is no file
        files.append(write_provenance(output, console.command, settings, hashed, seed))
    lines = [line for picture in shown for line in sentences(picture)]
    console.result({"files": files, "pictures": shown}, "\n".join([*lines, *written(files)]))


def _trained_on(info: dict) -> str:
    """The name of the view that a generator was trained on; frontal for one of somebody's own."""
    spread = (info.get("settings") or {}).get("spread")
    view = spread.get("view") if isinstance(spread, dict) else spread
    return view if isinstance(view, str) else "frontal"


def _spread(view: str, times: float):
    from diffrender.synth.views import spread_preset, widened

    return widened(spread_preset(view), times)


def _drawn(volume: "Volume", spread, count: int, size: tuple[int, int], seed: int) -> "list[Camera]":
    from diffrender.synth.reach import volume_hash
    from diffrender.synth.views import drawn_camera

    ct = volume_hash(volume)
    return [drawn_camera(volume, spread, ct_hash=ct, view=n, seed=seed, image_size=size) for n in range(count)]


def _pictures(generator: "VRRGenerator", volume: "Volume", cameras: "list[Camera]") -> "Iterator[Radiograph]":
    """The generator's pictures, with the masks and path lengths of the labels along the same rays."""
    import torch

    from diffrender.synth.generator import viewed
    from diffrender.synth.label_checks import check_labels
    from diffrender.synth.mask_rules import masks_of, outlines_of
    from diffrender.xray import RadiographSettings, radiograph, scene_of

    check_labels(volume)
    scene = scene_of(volume, RadiographSettings())
    outlines = outlines_of(volume) if volume.label_ids else None
    with torch.no_grad():
        field = generator.fields(volume)
        for camera in cameras:
            taken = radiograph(scene, camera)
            taken = masks_of(taken, outlines=outlines) if taken.ids else taken
            yield replace(taken, pixels=viewed(field, volume, camera, generator.settings).cpu(), exposed=None)


def _seen(picture: "Radiograph") -> list[dict]:
    """The labels with the pixels of their masks, which mask rules and no one threshold decide."""
    if picture.masks is None:
        return []
    counts = picture.masks.flatten(1).sum(1).tolist()
    return [
        {"id": label, "name": picture.label_name(label), "pixels": int(count)}
        for label, count in zip(picture.ids, counts, strict=True)
    ]


def _write(picture: "Radiograph", target: Target, n: int) -> list[Path]:
    from PIL import Image

    from diffrender.display import annotated, most_telling
    from diffrender.io.images import write_labels_of
    from diffrender.io.whole import together, whole, write_whole
    from diffrender.synth.writers import presented_bytes

    file, preview = target.file(n=n), target.file(PREVIEW, n)
    labels, left_out = most_telling(picture)
    with together():
        files = [write_whole(file, presented_bytes(picture.pixels[0].numpy(), picture))]
        if picture.masks is not None:
            files.append(write_labels_of(picture, file))
        files.append(write_whole(target.file(CAMERA, n), dumps(picture.camera.to_dict(), indent=2) + "\n"))
        with whole(preview) as opened:
            shown = annotated(picture, labels, window=(0.0, 1.0), left_out=left_out)
            Image.fromarray(shown).save(opened, format="PNG")
    return [*files, preview]
