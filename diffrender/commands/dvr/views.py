"""`diffrender dvr views`: a CT in, a folder of views to paint on out."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffrender.commands.console import Console, Debug, Json, current, example
from diffrender.commands.dvr.shared import (
    MODEL,
    NAMED,
    Preset,
    check_memory_for,
    check_rate,
    count_of,
    role_of,
    roles_of,
    spread,
    transfer_of,
)
from diffrender.commands.radiograph import cameras_of, parse_size, stem_of
from diffrender.commands.target import check_given, check_outputs, check_writable
from diffrender.errors import LabelError, PathError, SettingError, notify
from diffrender.jobs import Progress

if TYPE_CHECKING:
    from diffrender import Camera, Volume
    from diffrender.dvr.transfer import TransferFunction
    from diffrender.dvr.view import Views

EXAMPLE = example("diffrender dvr views ct.nii.gz --preset ct-bone --n 16 -o views/")
N, SIZE, PAINTED = 16, 200, 4
BYTES_A_PIXEL = 6  # on disk: a picture of noise and its paint


def views(
    ct: Annotated[str, typer.Argument(metavar="CT", help="NIfTI, NRRD, MHA, or a DICOM file, folder or zip.")],
    labels: Annotated[
        str | None, typer.Option(metavar="F", help="Labels, to paint from: NIfTI, NRRD, .seg.nrrd, DICOM SEG, ...")
    ] = None,
    names: Annotated[
        str | None, typer.Option(metavar="F", help="Names of the labels: CSV or JSON, or totalsegmentator-v1 or -v2.")
    ] = None,
    series: Annotated[str | None, typer.Option(metavar="S", help="Which DICOM series, where CT holds several.")] = None,
    preset: Annotated[Preset | None, typer.Option(help="The transfer function that draws them; ct-bone.")] = None,
    tf: Annotated[
        str | None, typer.Option(metavar="F", help="One of yours instead: .json, or Slicer's .vp or .vp.json.")
    ] = None,
    n: Annotated[int | None, typer.Option(metavar="N", help=f"How many views, all around; {N}.")] = None,
    size: Annotated[
        str | None, typer.Option(metavar="N", help=f"N x N pixels, or HEIGHTxWIDTH; {SIZE}, or what the cameras say.")
    ] = None,
    camera: Annotated[
        str | None, typer.Option(metavar="F", help="A JSON file with a camera or a list of them, instead of --n.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Another one turns the views about the patient's long axis; 0.")
    ] = None,
    sampling_rate: Annotated[float, typer.Option(metavar="S", help="Samples a voxel.")] = 1.0,
    shaded: Annotated[bool, typer.Option("--shaded", help="Lit, with shadows.")] = False,
    paint_from_labels: Annotated[
        list[str] | None,
        typer.Option(
            metavar="L=COLOUR",
            help="Paint a label as a person would: aorta=#cc2200, liver=red:recolour:0.5, 'rib_*=hide'. May be "
            "given several times; needs --labels.",
        ),
    ] = None,
    painted: Annotated[
        int | None, typer.Option(metavar="N", help=f"How many of the views to paint from labels; {PAINTED}.")
    ] = None,
    out: Annotated[
        str | None, typer.Option("-o", "--out", metavar="DIR", help="The folder; by default CT-views.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Draw views of a CT from all around, to paint on.

    The folder holds 0000.png, ..., cameras.json, transfer.json (what drew them) and volume.json (which CT). What you
    paint goes to paint/0000.png, ...: 8-bit greys of the same size, 0 for nothing, else the numbers that
    paint/roles.json explains: {"1": {"name": "aorta", "role": "recolour", "colour": [0.8, 0.1, 0], "strength": 1}};
    the other roles are hide, keep and ignore. `diffrender dvr train` learns from it.
    With --json the line "cancel" on stdin, or its end, stops it.
    """
    console = current()
    check_given({"CT": ct, "--labels": labels, "--names": names, "--tf": tf, "--camera": camera, "--out": out})
    _check_together(labels, names, n, seed, camera, paint_from_labels, painted)
    transfer = transfer_of(preset, tf)
    check_rate(sampling_rate)
    wanted = [role_of(text) for text in paint_from_labels or ()]
    shape = None if size is None else parse_size(size)
    cameras = [] if camera is None else cameras_of(camera, shape)
    count = len(cameras) or count_of(N if n is None else n, "--n")
    chosen = spread(count_of(min(PAINTED, count) if painted is None else painted, "--painted", count), count)
    image_size = cameras[0].image_size if cameras else shape or (SIZE, SIZE)
    check_memory_for(image_size, count)
    folder = Path(out if out is not None else f"{stem_of(ct)}-views").expanduser()
    inputs = [path for path in (ct, labels, names, tf, camera) if path is not None]
    check_outputs(_files(folder, count, chosen if wanted else []), inputs)
    check_writable(folder, count * image_size[0] * image_size[1] * BYTES_A_PIXEL)
    _check_unpainted(folder)
    if (folder / MODEL).is_file():
        raise PathError(f"{folder} holds a trained model; views go into a folder of their own. Choose another with -o.")

    import diffrender as dr
    from diffrender.dvr.views import write_views
    from diffrender.io.whole import together
    from diffrender.provenance import write_provenance

    with console.listening(), together():
        console.progress(Progress(0, count), f"Reading {ct}")
        volume = dr.read_volume(ct, labels=labels, names=names, series=series)
        roles = roles_of(wanted, volume)
        cameras = cameras or dr.orbit(volume, count, image_size, 0 if seed is None else seed)
        made = _drawn(volume, transfer, cameras, sampling_rate, shaded, console)
        made = replace(made, source=ct, series=series, labels=labels, names=names)
        if roles:
            from diffrender.dvr.painting import paint_from_labels as paint

            made = paint(made, volume, roles, chosen, progress=_telling(console, "Painting"))
            _check_painted(made)
        write_views(folder, made)
        settings = {
            "transfer": transfer,
            "sampling_rate": sampling_rate,
            "shaded": shaded,
            "series": series,
            "cameras": camera or {"n": count, "image_size": image_size},
            "roles": roles,
        }
        hashed = [path for path in inputs if os.path.exists(os.path.expanduser(path))]  # a table of ours is no file
        write_provenance(folder, console.command, settings, hashed, 0 if seed is None else seed)
    console.result(_summary(folder, made), _text(folder, made))


def _check_together(
    labels: str | None,
    names: str | None,
    n: int | None,
    seed: int | None,
    camera: str | None,
    paint_from_labels: list[str] | None,
    painted: int | None,
) -> None:
    if camera is not None and (n is not None or seed is not None):
        other = "--n" if n is not None else "--seed"
        raise SettingError(f"--camera already says where the views are seen from; leave out {other}.")
    if labels is None and names is not None:
        raise SettingError(f"--names {names} names labels; give those too, with --labels.")
    if paint_from_labels and labels is None:
        raise SettingError("--paint-from-labels paints labels of the CT; give those too, with --labels.")
    if painted is not None and not paint_from_labels:
        raise SettingError("--painted says on how many views labels are painted; say which, with --paint-from-labels.")


def _check_unpainted(folder: Path) -> None:
    """Paint is a person's work: it is not written over, and the views under it are not either."""
    from diffrender.dvr.views import refuse_to_lose_paint

    refuse_to_lose_paint(folder)


def _check_painted(views: "Views") -> None:
    """Say which labels are not seen. Raises: LabelError where none is."""
    seen = {int(n) for view in views.views if view.paint is not None for n in view.paint.unique()}
    unseen = [role.name for n, role in views.roles.items() if n not in seen]
    if not unseen:
        return
    names = ", ".join(unseen[:NAMED]) + (f" and {len(unseen) - NAMED} more" if len(unseen) > NAMED else "")
    text = (
        f"Nothing is painted as {names}: the transfer function does not show it, or something else hides it. Take "
        "another --preset or --tf that shows it, larger views (--size), or --painted on more of them."
    )
    if len(unseen) == len(views.roles):
        raise LabelError(text)
    notify(text)


def _files(folder: Path, count: int, painted: list[int]) -> list[Path]:
    names = ["cameras.json", "transfer.json", "volume.json", "provenance.json", *(f"{n:04}.png" for n in range(count))]
    paint = ["roles.json", *(f"{n:04}.png" for n in painted)] if painted else []
    return [*(folder / name for name in names), *(folder / "paint" / name for name in paint)]


def _telling(console: Console, what: str):
    return lambda done, total: console.progress(Progress(done, total), what)


def _drawn(
    volume: "Volume",
    transfer: "TransferFunction",
    cameras: "list[Camera]",
    sampling_rate: float,
    shaded: bool,
    console: Console,
) -> "Views":
    from diffrender.dvr.view import View, Views, render_views

    if not shaded:
        return render_views(volume, transfer, cameras, sampling_rate, _telling(console, "Drawing views"))
    from diffrender.dvr.shading import shaded_targets

    console.progress(Progress(0, len(cameras)), "Drawing views")
    lit = shaded_targets(volume, transfer, cameras, None, sampling_rate)
    return Views(tuple(View(target.camera, target.image) for target in lit), transfer, volume)


def _summary(folder: Path, views: "Views") -> dict:
    shown = [
        {
            "file": folder / f"{n:04}.png",
            "camera": view.camera.to_dict(),
            "orientation": view.camera.orientation(),
            "painted": _share(view.paint),
        }
        for n, view in enumerate(views.views)
    ]
    roles = [
        {"id": n, "name": role.name, "role": role.role, "pixels": _pixels(views, n)} for n, role in views.roles.items()
    ]
    files = _files(folder, len(shown), [n for n, view in enumerate(views.views) if view.paint is not None])
    return {"folder": folder, "files": files, "views": shown, "roles": roles}


def _pixels(views: "Views", label: int) -> int:
    return sum(int((view.paint == label).sum()) for view in views.views if view.paint is not None)


def _share(paint) -> float:
    return 0.0 if paint is None else (paint > 0).float().mean().item()


def _text(folder: Path, views: "Views") -> str:
    h, w = views.views[0].camera.image_size
    transfer = views.transfer
    drawn = f", drawn with {transfer.name}" if transfer is not None and transfer.name else ""
    lines = [f"{folder}: {len(views.views)} views of {h} x {w} pixels{drawn}."]
    if views.roles:
        count = sum(view.painted for view in views.views)
        pixels = {role.name: _pixels(views, n) for n, role in views.roles.items()}
        seen = ", ".join(f"{name} ({count} px)" for name, count in pixels.items() if count)
        lines.append(f"Painted from labels on {count} of them: {seen}.")
    else:
        lines.append("Paint on some of them: `diffrender dvr views --help` says where the paint goes.")
    lines.append(f'Then: diffrender dvr train "{folder}" -o model')
    return "\n".join(lines)
