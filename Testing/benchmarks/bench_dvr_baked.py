"""Baked volumes and learned tables as VTK's GPU mapper draws them, against our own drawing."""

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
from diffrender.volume import Volume

LOOKS = ("ct-bone", "ct-soft-tissue")
STEPS = {"unet-s": 6, "lookup": 60}  # of training, so that it is no transfer function of ours any more
LEARNED = (96, 4)  # px, views
SIZE = 200  # px
ASKED = {"unet-s": 50.0, "lookup": 52.0}


def baked() -> Result:
    torch.set_num_threads(2)
    if (problem := why_not()) is not None:
        return Result([Row("VTK", "", f"not measured here: {problem}")])
    rows, figures = [], {}
    for where, volume in _volumes().items():
        cameras = scenes.eyes(volume, scenes.HELD_OUT_FROM, SIZE)
        for look in LOOKS:
            for name, asked in ASKED.items():
                made = _trained(name, look, volume)
                ours = scenes.draw(made, volume, cameras)
                theirs = _in_vtk(made, volume, cameras)
                error = torch.stack([((a - b) ** 2).mean() for a, b in zip(ours, theirs, strict=True)]).mean()
                found = -10 * float(error.log10())
                what = "baked" if name == "unet-s" else "table as a volume property"
                rows.append(at_least(f"{where}, {look}: {name}, {what}", found, asked, " dB"))
                figures[f"{where}, {look}, {name}"] = found
    notes = [
        (
            f"RGBA of {len(scenes.HELD_OUT_FROM)} views of {SIZE} x {SIZE} px on black: one sample a voxel, no "
            "shading, no jitter. Both renderers begin as the preset and learn its shaded picture: "
            f"unet-s {STEPS['unet-s']} steps, lookup {STEPS['lookup']}. The chest is that of 2.8 x 2.8 "
            "x 2.5 mm (blocks of 2 x 2 averaged). VTK draws 8 bits, in software where there is no GPU."
        )
    ]
    return Result(rows, figures, notes)


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


def _in_vtk(made: Renderer, volume: Volume, cameras: list[Camera]) -> torch.Tensor:
    if made.name == "lookup":
        return draw_in_vtk(volume, transfer_of(made), cameras)
    return draw_baked_in_vtk(bake(made, volume), cameras)
