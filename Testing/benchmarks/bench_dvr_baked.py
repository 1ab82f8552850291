"""Baked volumes and learned tables as VTK's GPU mapper draws them, against our own drawing."""

from dataclasses import replace

import dvr_scenes as scenes
import torch
from report import Result, Row, at_least

from diffrender.camera import Camera
from diffrender.dvr.bake import bake, transfer_of
from diffrender.dvr.cases import Case
from diffrender.dvr.renderer import Renderer, RendererSettings
from diffrender.dvr.settings import TrainSettings
from diffrender.dvr.shading import shaded_targets
from diffrender.dvr.training import train_on
from diffrender.dvr.transfer import transfer_preset
from diffrender.dvr.vtk_view import draw_baked_in_vtk, draw_in_vtk, why_not
from diffrender.rays.march import march
from diffrender.volume import Volume

LOOKS = ("ct-bone", "ct-soft-tissue")
STEPS = {"unet-s": 6, "lookup": 60}  # of training, so that it is no transfer function of ours any more
LEARNED = (96, 4)  # px, views
SIZE = 200  # px
# dB; the others are shown to say what limits these.
ASKED = {"unet-s, baked in 8 bits": 50.0, "unet-s, baked in 16 bits": 50.0, "lookup, table as a volume property": 52.0}


def baked() -> Result:
    torch.set_num_threads(2)
    if (problem := why_not()) is not None:
        return Result([Row("VTK", "", f"not measured here: {problem}")])
    rows, figures = [], {}
    for where, volume in _volumes().items():
        cameras = scenes.eyes(volume, scenes.HELD_OUT_FROM, SIZE)
        for look in LOOKS:
            for name, found in {**_voxels(look, volume, cameras), **_table(look, volume, cameras)}.items():
                what = f"{where}, {look}: {name}"
                asked = ASKED.get(name)
                rows.append(Row(what, "", f"{found:.1f} dB") if asked is None else at_least(what, found, asked, " dB"))
                figures[what] = found
    notes = [
        (
            f"RGBA of {len(scenes.HELD_OUT_FROM)} views of {SIZE} x {SIZE} px on black: one sample a voxel, no "
            "shading, no jitter. Both renderers begin as the preset and learn its shaded picture: "
            f"unet-s {STEPS['unet-s']} steps, lookup {STEPS['lookup']}. The chest is that of 2.8 x 2.8 "
            "x 2.5 mm (blocks of 2 x 2 averaged). VTK draws pictures of 8 bits, in software where there is no GPU."
        ),
        (
            "What limits 8 bits, one after the other: the levels themselves (drawn by our own march), and OpenGL in "
            "software, which interpolates textures of 8 bits in 8 bits (the same levels in a texture of 16 bits come "
            "out as in our march). `--bits 16` has neither."
        ),
    ]
    return Result(rows, figures, notes)


def _voxels(look: str, volume: Volume, cameras: list[Camera]) -> dict[str, float]:
    made = _trained("unet-s", look, volume)
    ours = scenes.draw(made, volume, cameras)
    few, many = bake(made, volume), bake(made, volume, bits=16)
    wide = replace(few, rgba=few.rgba.to(torch.int32) * 257)
    with torch.no_grad():
        marched = march(few.field(), cameras)
    return {
        "unet-s, baked in 8 bits": _psnr(ours, draw_baked_in_vtk(few, cameras)),
        "unet-s, baked in 16 bits": _psnr(ours, draw_baked_in_vtk(many, cameras)),
        "unet-s, 8 bits, drawn by our march": _psnr(ours, marched),
        "unet-s, 8 bits, in a texture of 16 bits": _psnr(ours, draw_baked_in_vtk(wide, cameras)),
    }


def _table(look: str, volume: Volume, cameras: list[Camera]) -> dict[str, float]:
    made = _trained("lookup", look, volume)
    ours = scenes.draw(made, volume, cameras)
    return {"lookup, table as a volume property": _psnr(ours, draw_in_vtk(volume, transfer_of(made), cameras))}


def _psnr(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    error = torch.stack([((a - b) ** 2).mean() for a, b in zip(ours, theirs, strict=True)]).mean()
    return -10 * float(error.log10())


def _volumes() -> dict[str, Volume]:
    there = {name: scenes.plain(name) for name in ("abdomen", "chest 1")}
    found = {name: scenes.coarser(volume, 133) for name, volume in there.items() if volume is not None}
    return found or {"phantom": scenes.phantom(96)}


def _trained(name: str, look: str, volume: Volume) -> Renderer:
    size, count = LEARNED
    transfer = transfer_preset(look)
    targets = shaded_targets(volume, transfer, scenes.eyes(volume, scenes.PAINTED_FROM[:count], size))
    drawing = RendererSettings(transfer=transfer)
    settings = TrainSettings(renderer=name, drawing=drawing, steps=STEPS[name], held_out=-1, device="cpu")
    return train_on([Case(volume, tuple(targets))], settings).run().renderer
