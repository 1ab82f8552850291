"""`diffrender dvr bake`: what a renderer has learned, for the volume rendering of Slicer and VTK."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffrender.commands.console import Debug, Json, current, example
from diffrender.commands.dvr.shared import check_apart, ct_of, model_of
from diffrender.commands.radiograph import stem_of
from diffrender.commands.target import check_given, check_outputs, check_writable, target_of
from diffrender.errors import SettingError
from diffrender.jobs import Progress

if TYPE_CHECKING:
    from diffrender.dvr.renderer import Renderer

EXAMPLE = example("diffrender dvr bake model --ct ct.nii.gz -o baked.nrrd")
VOLUME, TABLES = ".nrrd", (".vp.json", ".vp", ".json")
NEED = 2**20  # bytes, of a table
CHANNELS = 4


def bake(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model file, or the folder that `dvr train` wrote.")],
    ct: Annotated[
        str | None, typer.Option(metavar="F", help="The CT to bake; by default the one MODEL was trained on.")
    ] = None,
    series: Annotated[str | None, typer.Option(metavar="S", help="Which DICOM series, where CT holds several.")] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FILE",
            help="A volume of colours, .nrrd; of lookup and mlp also a transfer function, .vp.json, .vp or .json. "
            "By default CT-baked.nrrd.",
        ),
    ] = None,
    bits: Annotated[
        int | None,
        typer.Option(metavar="8|16", help="Levels of the volume; 8. 16 is closer, for VTK's GPU mapper alone."),
    ] = None,
    finer: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Voxels to one of the CT along each axis, for renderers with a transfer function; by default up to 4, "
            "as many as 48 million voxels allow.",
        ),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Bake a trained renderer, so that Slicer's own volume rendering shows what it has learned.

    NAME.nrrd holds red, green, blue and opacity in 8 bits, or with --bits 16 in twice the memory and closer to the
    renderer; NAME.vp.json beside it is the volume property to show it with (Volume Rendering, Advanced), NAME.json
    says what alpha means. Renderers that classify what lies between voxels (unet-s, clusters, hybrid, tables) are baked
    finer than the CT. A renderer that is a transfer function can be written as one instead, for any CT. Renderers
    that draw in the image cannot be baked: `dvr renderers` lists which.
    """
    console = current()
    check_given({"MODEL": model, "--ct": ct, "--out": out})
    file = model_of(model)
    table = out is not None and out.lower().endswith(TABLES)
    if bits not in (None, 8, 16):
        raise SettingError(f"--bits is 8 or 16, not {bits}.")
    if finer is not None and finer < 1:
        raise SettingError(f"--finer is 1 or more, not {finer}.")
    for option, given in (("--bits", bits), ("--finer", finer)):
        if table and given is not None:
            raise SettingError(f"{option} is of a volume, and {out} is a transfer function; leave out one of them.")
    source = None if table else ct_of(ct, file)
    stem = stem_of(source) if source is not None else "transfer"
    target = target_of(out, f"{stem}-baked", "baked", (VOLUME, *TABLES))
    main = target.file()
    inputs = [str(path) for path in (file, source) if path is not None]
    beside = [] if table else [main.with_suffix(".vp.json"), main.with_suffix(".json")]
    record = target.provenance if target.whole_folder else main.with_name(f"{main.stem}.provenance.json")
    check_outputs([main, *beside, record], inputs)
    check_apart([main, *beside, record])

    from diffrender.dvr.bake import check_bakes
    from diffrender.dvr.model import load_model
    from diffrender.io.whole import together
    from diffrender.provenance import write_provenance

    renderer, _ = load_model(file)
    check_bakes(renderer)
    check_writable(target.folder, NEED)
    with console.listening(), together():
        files, text = (
            _table(renderer, main) if source is None else _volume(renderer, source, series, main, bits or 8, finer)
        )
        settings = {
            "renderer": renderer.name,
            "cts": [] if source is None else [source],
            "series": series,
            "bits": bits or 8,
            "finer": finer,
        }
        output = target.folder if target.whole_folder else main
        hashed = [path for path in inputs if os.path.exists(os.path.expanduser(path))]
        files.append(write_provenance(output, console.command, settings, hashed, renderer.settings.seed))
    console.result({"files": files, "renderer": renderer.name}, "\n".join([text, *(f"  {one}" for one in files)]))


def _table(renderer: "Renderer", path: Path) -> tuple[list[Path], str]:
    from diffrender.dvr.bake import transfer_of
    from diffrender.dvr.transfer import write_transfer

    transfer = transfer_of(renderer)
    return [write_transfer(path, transfer)], f"The transfer function that {renderer.name} has learned:"


def _volume(
    renderer: "Renderer", ct: str, series: str | None, path: Path, bits: int, finer: int | None
) -> tuple[list[Path], str]:
    import diffrender as dr
    from diffrender.dvr.bake import bake
    from diffrender.dvr.baked_files import write_baked

    console = current()
    console.progress(Progress(0, 3), f"Reading {ct}")
    volume = dr.read_volume(ct, series=series)
    check_writable(path.parent, volume.values.numel() * (finer or 1) ** 3 * CHANNELS * bits // 8)
    console.progress(Progress(1, 3), "Baking")
    baked = bake(renderer, volume, bits, finer)
    finely = f" {baked.finer} times finer than the CT" if baked.finer > 1 else ""
    console.progress(Progress(2, 3), "Writing")
    files = write_baked(path, baked)
    console.progress(Progress(3, 3), "Writing")
    return files, f"{renderer.name}, baked{finely} for volume rendering in Slicer and VTK:"
