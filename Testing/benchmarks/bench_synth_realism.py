"""How far made chest radiographs are from real ones, without any network's weights: projection, DRR, physics, VRR."""

import csv
import warnings
from collections.abc import Callable, Sequence

import torch
from cases import DATA, REAL, REPOSITORY
from report import Result, Row
from torch import Tensor

from diffrender.camera import Camera
from diffrender.errors import Notice
from diffrender.io import read_volume
from diffrender.physics.presentation import present
from diffrender.physics.presets import physics_preset, presentation_preset
from diffrender.synth.generator import VRRGenerator, drr_baseline, save_generator, shown
from diffrender.synth.reach import reached, volume_hash
from diffrender.synth.realism import realism_distances
from diffrender.synth.training import TrainedVRR, train
from diffrender.synth.views import drawn_camera
from diffrender.synth.vrr_settings import vrr_preset
from diffrender.synth.xray_folder import read_xrays
from diffrender.volume import Volume
from diffrender.xray import RadiographSettings, radiograph, scene_of

MADE = REPOSITORY / "build" / "benchmarks"
XRAYS = DATA / "cxr-hannover-v7"
STEPS = 200  # of the small preset's training
VIEWS = 23  # of each CT, as many in all as there are radiographs
SEED = 1  # of the views, which the training, of seed 0, has not met
VIEW = "chest-pa"
UNITS = {
    "histogram": ("greys", 100.0, "% of the range"),
    "spectrum": ("texture", 1.0, "dB"),
    "patches": ("patches", 1.0, ""),
}

Draw = Callable[[Volume, Sequence[Camera]], Tensor]


def realism() -> Result | None:
    torch.set_num_threads(1)
    if not XRAYS.exists():
        print(f"not measured here: {XRAYS} is not there")
        return None
    settings = vrr_preset("small", seconds=None, steps=STEPS)
    cts = [read_volume(DATA / REAL[name]) for name in ("chest 1", "chest 2")]
    seen, kept_out = halves()
    real = read_xrays(XRAYS / "images", settings.image_size, kept_out)
    learned = read_xrays(XRAYS / "images", settings.image_size, seen)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", Notice)
        trained = train(cts, learned, settings, MADE / "vrr-0.ckpt").run()
    save_generator(MADE / "vrr-0.safetensors", trained.generator, trained.info)
    (MADE / "vrr-0.ckpt").unlink()  # it was for a run that is cut short
    views = [(ct, cameras(ct, settings.image_size)) for ct in cts]
    reach = torch.stack([reached(ct, camera) for ct, several in views for camera in several])
    target = framed(real.pictures[:, 0], reach)
    rows, figures = [], {}
    for name, pictures in {
        "the other half's radiographs (no method: what two sets of real ones differ)": framed(
            learned.pictures[:, 0], reach
        ),
        **{name: of_all(draw, views) for name, draw in methods(trained.generator).items()},
    }.items():
        found = realism_distances(pictures, target)
        figures[name] = found
        told = ", ".join(f"{UNITS[key][0]} {UNITS[key][1] * n:.3g} {UNITS[key][2]}".strip() for key, n in found.items())
        rows.append(Row(name, "reported", told))
    history = [dict(line) for line in trained.history]
    figures |= {"history": history, "outcome": trained.outcome, "notices": [str(one.message) for one in said]}
    return Result(rows, figures, notes(trained, len(learned.names), len(real.names)))


def halves() -> tuple[list[str], list[str]]:
    """Files of every second patient, and of the others: no patient is in both."""
    with (XRAYS / "index.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    patients = sorted({row["patient_id"] for row in rows})
    first = set(patients[::2])
    return tuple([row["file"] for row in rows if (row["patient_id"] in first) is want] for want in (True, False))  # pyright: ignore[reportReturnType]


def cameras(ct: Volume, size: tuple[int, int]) -> list[Camera]:
    found = volume_hash(ct)
    return [drawn_camera(ct, VIEW, ct_hash=found, view=n, seed=SEED, image_size=size) for n in range(VIEWS)]


def methods(generator: VRRGenerator) -> dict[str, Draw]:
    return {
        "average projection (water of the CT's density, 70 keV)": projected,
        "DRR as the paper has it (matter from HU, opacity constant)": lambda ct, several: drr_baseline(
            ct, several, generator.settings
        ),
        "our physics (chest-pa preset), as presented": physical,
        "VRR, small preset": generator,
    }


def projected(ct: Volume, several: Sequence[Camera]) -> Tensor:
    found = [radiograph(ct, camera, RadiographSettings(labels=False)).pixels[0] for camera in several]
    return torch.stack([shown(one, reached(ct, camera)) for one, camera in zip(found, several, strict=True)])[:, None]


def physical(ct: Volume, several: Sequence[Camera]) -> Tensor:
    scene = scene_of(ct, RadiographSettings(labels=False, physics=physics_preset(VIEW)))
    made = []
    for camera in several:
        found = radiograph(scene, camera)
        greys = present(found.pixels[0], presentation_preset(VIEW), found.exposed)
        made.append(shown(greys, reached(ct, camera)))
    return torch.stack(made)[:, None]


def of_all(draw: Draw, views: list[tuple[Volume, list[Camera]]]) -> Tensor:
    with torch.no_grad():
        return torch.cat([draw(ct, several) for ct, several in views])


def framed(pictures: Tensor, reach: Tensor) -> Tensor:
    """Real pictures with the window of made ones, hidden where CTs end as those are, in turn."""
    frames = reach[torch.arange(len(pictures)) * len(reach) // len(pictures)]
    return torch.stack([shown(one, mask) for one, mask in zip(pictures, frames, strict=True)])[:, None]


def notes(trained: TrainedVRR, learned: int, kept_out: int) -> list[str]:
    return [
        (
            f"{2 * VIEWS} drawn chest views of the two chest CTs (96 x 96 px, the same for all methods) against "
            f"{kept_out} radiographs of patients whom no training has met. Every picture, real or made, has the same "
            "mean and standard deviation of greys, and is black where the CT ends; so the distances are of shape, "
            "not of window. Smaller is nearer; real against real is the floor."
        ),
        (
            f"The VRR's discriminator saw {learned} radiographs of the other patients. {trained.sentence} One "
            "thread of a machine that others were using."
        ),
    ]
