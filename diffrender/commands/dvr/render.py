"""`diffrender dvr render`: a trained renderer, or a transfer function, draws a CT."""

import os
from typing import Annotated

import typer

from diffrender.commands.console import Debug, Json, current, example
from diffrender.commands.dvr.pictures import EYES, FILMS, SIZE, Asked, device_for, draw, film, renderer_of, sentences
from diffrender.commands.dvr.shared import (
    check_apart,
    check_device,
    check_memory_for,
    check_rate,
    colour_of,
    count_of,
    ct_of,
    model_of,
    transfer_of,
)
from diffrender.commands.radiograph import cameras_of, parse_size, stem_of
from diffrender.commands.target import check_given, check_outputs, check_writable
from diffrender.errors import SettingError
from diffrender.jobs import Progress

EXAMPLE = example("diffrender dvr render model --ct ct.nii.gz --preset frontal -o picture.png")
BYTES_A_PIXEL = 8  # on disk, of the picture and of its preview


def render(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A model file, or the folder that `dvr train` wrote.")
    ] = None,
    tf: Annotated[
        str | None,
        typer.Option(metavar="F", help="A transfer function in place of MODEL: .json, .vp, or a name such as ct-bone."),
    ] = None,
    ct: Annotated[
        str | None, typer.Option(metavar="F", help="The CT to draw; by default the one MODEL was trained on.")
    ] = None,
    series: Annotated[str | None, typer.Option(metavar="S", help="Which DICOM series, where CT holds several.")] = None,
    preset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"Where the eye is: {', '.join(EYES)}."),
    ] = None,
    camera: Annotated[
        str | None, typer.Option(metavar="F", help="A camera's JSON file instead; a list of cameras gives a folder.")
    ] = None,
    orbit: Annotated[int | None, typer.Option(metavar="N", help="N views all around instead, in a folder.")] = None,
    turntable: Annotated[
        int | None, typer.Option(metavar="N", help="Once round the patient in N pictures: a folder, or a film.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="N", help=f"N x N pixels, or HEIGHTxWIDTH; {SIZE}, or what the camera says.")
    ] = None,
    sampling_rate: Annotated[
        float | None, typer.Option(metavar="S", help="Samples a voxel; what MODEL was made with, or 1.")
    ] = None,
    background: Annotated[
        str | None,
        typer.Option(metavar="COLOUR", help="As #rrggbb or a name; none by default: the PNG is transparent."),
    ] = None,
    device: Annotated[str, typer.Option(metavar="D", help="auto, cpu, cuda or cuda:1.")] = "auto",
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", metavar="FILE|DIR", help="A PNG; for a film .mp4 or .gif; or a folder."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Draw a CT with a trained renderer, or with a plain transfer function.

    Beside the picture NAME.png lie NAME.camera.json (the camera), NAME.preview.png (on the background, with
    orientation letters) and NAME.provenance.json. With --json the line "cancel" on stdin, or its end, stops it.
    """
    console = current()
    check_given({"MODEL": model, "--tf": tf, "--ct": ct, "--camera": camera, "--out": out})
    if (model is None) == (tf is None):
        raise SettingError("Give what draws: a MODEL, or a transfer function with --tf; one of the two.")
    check_rate(sampling_rate)
    check_device(device)
    behind = None if background is None else colour_of(background, "--background")
    asked = _asked(preset, camera, orbit, turntable, size)
    transfer = None if tf is None else transfer_of(None, tf)
    file = None if model is None else model_of(model)
    ct = ct_of(ct, file)
    check_memory_for(asked.size, asked.count)
    target = asked.target(out, stem_of(ct))
    inputs = [str(path) for path in (file, tf, ct, camera) if path is not None]
    check_outputs([*asked.files(target), target.provenance], inputs)
    check_apart([*asked.files(target), target.provenance])
    check_writable(target.folder, asked.count * asked.size[0] * asked.size[1] * BYTES_A_PIXEL)

    import diffrender as dr
    from diffrender.dvr.draw import Drawing
    from diffrender.io.whole import together
    from diffrender.provenance import write_provenance

    with console.listening(), together():
        renderer = renderer_of(file, transfer, sampling_rate)
        console.progress(Progress(0, asked.count), f"Reading {ct}")
        volume = dr.read_volume(ct, series=series)
        drawing = Drawing(renderer.to(device_for(device)), volume)
        work = film if target.suffix in FILMS else draw
        files, shown = work(drawing, asked, target, behind, console)
        settings = {
            "renderer": renderer.name,
            "transfer": transfer,
            "sampling_rate": renderer.settings.sampling_rate,
            "background": background,
            "preset": asked.preset,
            "turntable": turntable,
            "cts": [ct],
            "series": series,
        }
        hashed = [path for path in inputs if os.path.exists(os.path.expanduser(path))]  # a preset of ours is no file
        output = target.folder if target.whole_folder else target.file()
        files.append(write_provenance(output, console.command, settings, hashed, renderer.settings.seed))
    lines = [line for picture in shown for line in sentences(picture)]
    console.result(
        {"files": files, "pictures": shown}, "\n".join([*lines, "Written:", *(f"  {file}" for file in files)])
    )


def _asked(preset: str | None, camera: str | None, orbit: int | None, turntable: int | None, size: str | None) -> Asked:
    """Where the pictures are seen from. Raises: SettingError, PathError, GeometryError."""
    chosen = {"--preset": preset, "--camera": camera, "--orbit": orbit, "--turntable": turntable}
    given = [option for option, value in chosen.items() if value is not None]
    if len(given) > 1:
        raise SettingError(f"{' and '.join(given)} each say where the picture is seen from; give one of them.")
    if preset is not None and preset not in EYES:
        raise SettingError(f"{preset!r} is no preset; there are {', '.join(EYES)}. Or give a camera, with --camera.")
    for option, number in (("--orbit", orbit), ("--turntable", turntable)):
        if number is not None:
            count_of(number, option)
    shape = None if size is None else parse_size(size)
    cameras = () if camera is None else tuple(cameras_of(camera, shape))
    largest = max((view.image_size for view in cameras), key=lambda one: one[0] * one[1], default=shape or (SIZE, SIZE))
    return Asked(largest, preset or "frontal", cameras, orbit, turntable)
