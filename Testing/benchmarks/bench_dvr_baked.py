"""Baked volumes and learned tables as VTK's GPU mapper draws them, against our own drawing."""

from collections.abc import Sequence

import dvr_scenes as scenes
import torch
from report import Result, Row, at_least

from diffrender.camera import Camera
from diffrender.dvr.bake import bake, transfer_of
from diffrender.dvr.cases import Case
from diffrender.dvr.classify import finest
from diffrender.dvr.renderer import Renderer, RendererSettings
from diffrender.dvr.settings import TrainSettings
from diffrender.dvr.shading import shaded_targets
from diffrender.dvr.training import train_on
from diffrender.dvr.transfer import transfer_preset
from diffrender.dvr.vtk_view import VtkSettings, draw_baked_in_vtk, draw_in_vtk, why_not
from diffrender.rays.field import MarchSettings
from diffrender.rays.march import march
from diffrender.volume import Volume

LOOKS = ("ct-bone", "ct-soft-tissue")
STEPS = {"unet-s": 6, "lookup": 60}  # of training, so that it is no transfer function of ours any more
LEARNED = (96, 4)  # px, views
SIZE = 200  # px
TABLE, CHOSEN = "lookup, table as a volume property", "unet-s, baked as finely as bake does by itself"
ASKED = {CHOSEN: 50.0, TABLE: 52.0}  # dB; the others are shown to say what limits these.


def baked() -> Result:
    torch.set_num_threads(min(2, torch.get_num_threads()))
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
            "x 2.5 mm (blocks of 2 x 2 averaged). VTK draws pictures of 8 bits, in software where there is no GPU. "
            f"Threads of torch: {torch.get_num_threads()}."
        ),
        (
            "unet-s classifies every sample by a table that its voxels change; a baked volume is classified at its own "
            "voxels, so it has more of them than the CT: N times as many along each axis. It is drawn with the CT's "
            "step. By our own march, and what VTK makes of the finest."
        ),
    ]
    return Result(rows, figures, notes)


def _voxels(look: str, volume: Volume, cameras: list[Camera]) -> dict[str, float]:
    made = _trained("unet-s", look, volume)
    ours = scenes.draw(made, volume, cameras)
    with torch.no_grad():
        chosen = finest(made.encode(volume)[0])
        found = {}
        for finer in range(1, chosen + 1):
            few = bake(made, volume, finer=finer)
            marched = march(few.field(), cameras, MarchSettings(1 / finer))
            found[f"unet-s, {finer} x, 8 bits, drawn by our march"] = _psnr(ours, marched)
    # One step for all: VTK's steps, like the march's, are parts of the edge of the volume that is drawn.
    settings = VtkSettings(1 / chosen)
    found[CHOSEN] = _psnr(ours, draw_baked_in_vtk(few, cameras, settings))
    del few
    many = bake(made, volume, bits=16, finer=chosen)
    return {**found, f"unet-s, {chosen} x, 16 bits": _psnr(ours, draw_baked_in_vtk(many, cameras, settings))}


def _table(look: str, volume: Volume, cameras: list[Camera]) -> dict[str, float]:
    made = _trained("lookup", look, volume)
    ours = scenes.draw(made, volume, cameras)
    return {TABLE: _psnr(ours, draw_in_vtk(volume, transfer_of(made), cameras))}


def _psnr(ours: Sequence[torch.Tensor], theirs: torch.Tensor) -> float:
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
