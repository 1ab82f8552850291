"""What painted views teach: lookup, clusters and unet-s on the painted pixels of views that nobody showed them."""

import dvr_scenes as scenes
import torch
from report import Result, Row, at_least, at_most

from diffrender.dvr.cases import Case
from diffrender.dvr.clusters import fit_clusters
from diffrender.dvr.renderer import Renderer, RendererSettings
from diffrender.dvr.renderers import renderer
from diffrender.dvr.settings import TrainSettings
from diffrender.dvr.targets import Target
from diffrender.dvr.training import train_on
from diffrender.dvr.transfer import TransferFunction, transfer_preset
from diffrender.volume import Volume

VIEWS = (1, 2, 4, 8)
ASKED = 4  # painted views of which something is promised
LOOKUP_SECONDS, UNET_SECONDS, OTHER_SECONDS = 20.0, 120.0, 60.0


def painted() -> Result:
    torch.set_num_threads(min(2, torch.get_num_threads()))
    real = scenes.labelled("abdomen")
    volume = scenes.phantom() if real is None else real
    rows, figures = [], {}
    asked, held, views = scenes.painted(volume, scenes.TRANSLUCENT, scenes.ORGANS, scenes.THRESHOLD)
    for count in VIEWS:
        seconds = UNET_SECONDS if count == ASKED else OTHER_SECONDS
        found = _compared(volume, scenes.TRANSLUCENT, asked[:count], held, seconds)
        rows += _rows(f"{count} painted view{'s' if count > 1 else ''}", found, seconds, count == ASKED)
        figures[f"{count} views"] = {name: {"psnr": score, "s": spent.wall} for name, (score, spent) in found.items()}
    as_drawn = [view.image for view in views.views[-len(held) :]]
    rows.append(Row("the unpainted render itself", "", f"{scenes.decibels(as_drawn, held, True):.1f} dB"))
    bone_asked, bone_held, bone = scenes.painted(volume, transfer_preset("ct-bone"), scenes.HIPS, 0.5)
    found = _compared(volume, transfer_preset("ct-bone"), bone_asked[:ASKED], bone_held, OTHER_SECONDS)
    rows += _rows(f"ct-bone, {ASKED} views, hips yellow and blue", found, OTHER_SECONDS, True)
    as_drawn = [view.image for view in bone.views[-len(bone_held) :]]
    rows.append(Row("ct-bone, the unpainted render itself", "", f"{scenes.decibels(as_drawn, bone_held, True):.1f} dB"))
    figures["ct-bone"] = {name: {"psnr": score, "s": spent.wall} for name, (score, spent) in found.items()}
    return Result(rows, figures, _notes(real is not None, held, bone_held))


def _rows(case: str, found: dict[str, tuple[float, scenes.Spent]], seconds: float, promised: bool) -> list[Row]:
    """All three in one row; where something is promised, what they gain over one another, and their time."""
    scores = {name: score for name, (score, _) in found.items()}
    rows = []
    if promised:
        rows = [
            at_least(f"{case}: clusters above lookup", scores["clusters"] - scores["lookup"], 3, " dB"),
            at_most(f"{case}: clusters ready in", found["clusters"][1].wall, 5, " s"),
            at_least(f"{case}: unet-s after {seconds:g} s above lookup", scores["unet-s"] - scores["lookup"], 3, " dB"),
            at_least(f"{case}: unet-s above clusters", scores["unet-s"] - scores["clusters"], 0, " dB"),
        ]
    told = ", ".join(f"{name} {score:.1f} dB in {spent}" for name, (score, spent) in found.items())
    winner = "clusters" if scores["clusters"] > scores["unet-s"] else "unet-s"
    return [*rows, Row(case, "", f"{told}: {winner} wins")]


def _compared(
    volume: Volume, transfer: TransferFunction, asked: list[Target], held: list[Target], seconds: float
) -> dict[str, tuple[float, scenes.Spent]]:
    """Painted pixels of the held-out views [dB], and what it took, of each renderer."""
    drawing = RendererSettings(transfer=transfer)
    cameras = [target.camera for target in held]
    found = {}
    for name, budget in (("lookup", LOOKUP_SECONDS), ("clusters", None), ("unet-s", seconds)):
        made, spent = scenes.timed(lambda name=name, budget=budget: _made(name, drawing, volume, asked, budget))
        found[name] = (scenes.decibels(scenes.draw(made, volume, cameras), held, True), spent)
        print(f"{len(asked)} views, {name}: {found[name][0]:.2f} dB in {spent}", flush=True)
    return found


def _made(name: str, drawing: RendererSettings, volume: Volume, asked: list[Target], seconds: float | None) -> Renderer:
    if seconds is None:
        made = renderer(name, drawing)
        fit_clusters(made, volume, asked)
        return made
    settings = TrainSettings(renderer=name, drawing=drawing, seconds=seconds, held_out=-1, device="cpu")
    return train_on([Case(volume, tuple(asked))], settings).run().renderer


def _notes(real: bool, held: list[Target], bone_held: list[Target]) -> list[str]:
    pixels, bone_pixels = (sum(int(target.painted.sum()) for target in targets) for targets in (held, bone_held))
    return [
        (
            f"{'ct-abdomenpelvis-totalseg (3 mm)' if real else 'The phantom (no CT is at hand)'}; views of 200 x 200 "
            f"px, painted from the labels; PSNR of the painted pixels ({pixels}; ct-bone {bone_pixels}) of 4 held-out "
            "views, painted likewise, but for a rim of 2 px."
        ),
        (
            "The CT has no contrast: kidneys have 17 HU, the aorta 41, the liver 46. So the views are drawn "
            "translucent (opacity of 1 mm: 0 at -40 HU, .004 at 0, .006 at 60, .02 at 120, .3 at 300), and a pixel is "
            "painted as kidney (yellow), aorta (red), left hip (green) or right hip (blue) where that is "
            f"{scenes.THRESHOLD:.0%} or more of what it shows: a person would paint so, though the picture has one "
            "colour for all that lies behind a pixel. With ct-bone, half or more, only bone is seen, and the hips "
            "are yellow (left) and blue (right)."
        ),
        (
            f"lookup: {LOOKUP_SECONDS:g} s; unet-s: {UNET_SECONDS:g} s of {ASKED} translucent views, "
            f"{OTHER_SECONDS:g} s otherwise; rates and batches of the table of renderers; threads of torch: "
            f"{torch.get_num_threads()}. Seconds on the wall, with whatever else the machine did."
        ),
    ]
