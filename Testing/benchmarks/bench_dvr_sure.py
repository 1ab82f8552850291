"""Trainings that are killed, repeated and spread over threads; and every renderer from training to pictures."""

import math
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dvr_run
import torch
from report import Result, Row
from trainings import brief, case, drawing, lump

from diffrender.dvr.cases import Case
from diffrender.dvr.model import load_model, save_model
from diffrender.dvr.renderers import RENDERERS, count_parameters
from diffrender.dvr.targets import Target
from diffrender.dvr.training import train_on
from diffrender.rays.field import Field
from diffrender.rays.march import march
from diffrender.views import eye

KILLS = 5  # of each renderer, ten in all
MOST_STEPS = 6  # that a process makes before it is killed
STEPS = {"lookup": 200, "unet-s": 40}  # more than all that are killed can make
LARGE = ("vnet4-4", "vnetl16-4", "vnetl16-17", "dvrnet", "rendernet", "vnet-unet")
ODD = (21, 19, 17)  # voxels
SIZES = ((20, 17), (33, 41), (64, 50))  # px
CLOSE = 1e-6
PAPER = {  # Table 1, and what is asked of unet-s; (count, how far ours may be from it; None: at most)
    "lookup": (1024, 0.0),
    "mlp": (1000, 0.05),
    "vnet4-4": (45_605_916, 0.001),
    "vnetl16-4": (12_300_000, 0.01),
    "vnetl16-17": (12_300_000, 0.01),
    "dvrnet": (25_000_000, 0.02),
    "rendernet": (226_000_000, 0.02),
    "unet-s": (3_000_000, None),
}


def resume() -> Result:
    rows, figures = [], {}
    for name, steps in STEPS.items():
        told, killed_at = _killed_and_resumed(name, steps)
        torch.set_num_threads(1)
        same = told == dvr_run.hash_of(name, steps)
        what = f"{name}: one training killed (SIGKILL) {KILLS} times, each time resumed, against the uninterrupted one"
        rows.append(Row(what, "bitwise equal", "bitwise equal" if same else "differs", same))
        figures[name] = {"steps": steps, "killed after": killed_at}
    for name in STEPS:
        rows += _twice(name)
    rows += [_kernels_alike(channels) for channels in (4, 18)]
    notes = [
        (
            "9 x 13 x 11 voxels, 4 views of 20 x 17 px; dropout, jitter and, for unet-s, augmentation are on; every "
            f"step is saved. Each process was killed a random moment after a random one of its first {MOST_STEPS} "
            "steps: in a step or in a save. Budgets in steps: one in seconds cannot end alike twice."
        )
    ]
    return Result(rows, figures, notes)


def _killed_and_resumed(name: str, steps: int) -> tuple[str, list[int]]:
    """The hash that the last process told, and the steps after which the others were killed."""
    dice, killed_at = random.Random(name), []
    with tempfile.TemporaryDirectory(prefix="diffrender-bench-") as folder:
        command = [sys.executable, dvr_run.__file__, name, str(steps), str(Path(folder, "train.ckpt"))]
        for _ in range(KILLS):
            after, moment = dice.randint(1, MOST_STEPS), dice.random()
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
                assert running.stdout is not None
                started = 0.0
                for number in range(after):
                    line, before, started = running.stdout.readline(), started, time.perf_counter()
                    assert line.strip().isdigit(), f"{name} ended before it was killed {KILLS} times"
                    pause = moment * (started - before) if number else moment * 0.02
                time.sleep(pause)  # a part of what a step takes
                running.kill()
            killed_at.append(int(line))
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return ended.stdout.split()[-1], killed_at


def _twice(name: str) -> list[Row]:
    found = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found[threads] = [dvr_run.hash_of(name, 8) for _ in range(2)]
    rows = [
        Row(
            f"{name}: the same seed twice, {threads} thread{'s' if threads > 1 else ''}",
            "bitwise equal",
            "bitwise equal" if first == second else "differs",
            first == second,
        )
        for threads, (first, second) in found.items()
    ]
    same = found[1][0] == found[2][0]
    promised = name == "lookup"  # torch's convolutions sum as their threads do
    asked = "bitwise equal" if promised else ""
    verdict = same if promised else None
    return [*rows, Row(f"{name}: 1 thread against 2", asked, "bitwise equal" if same else "differs", verdict)]


def _kernels_alike(channels: int) -> Row:
    """Pictures and gradients of the march through channel volumes, with one thread and with two."""
    volume, found = lump(ODD), []
    noise = torch.rand((channels, *ODD), generator=torch.Generator().manual_seed(3))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        values = (noise * 0.05).requires_grad_()
        image = march(Field(values, volume.world_from_voxel), eye(volume, (0.4, 0.8, 0.3), SIZES[1]))
        (image * torch.linspace(-1, 2, image.numel()).reshape(image.shape)).sum().backward()
        assert values.grad is not None
        found += [image.detach(), values.grad]
    same = torch.equal(found[0], found[2]) and torch.equal(found[1], found[3])
    what = f"march through {channels} channels, picture and gradient: 1 thread against 2"
    return Row(what, "bitwise equal", "bitwise equal" if same else "differs", same)


def renderers() -> Result:
    """Each one is trained for two steps on an odd-sized volume, saved, loaded, and draws three sizes like before."""
    torch.set_num_threads(2)
    rows, figures = [], {}
    for name in RENDERERS:
        width = 0.125 if name in LARGE else 1.0
        sizes, apart = _drawn_again(name, width)
        count = count_parameters(name)
        asked, fits = _meets(name, count)
        good = sizes == len(SIZES) and apart <= CLOSE and fits
        said = f"{sizes} of {len(SIZES)} sizes, {apart:.0e} apart after loading; {count:,} parameters"
        rows.append(Row(f"{name}{f' (width {width:g})' if width < 1 else ''}", asked, said, good))
        figures[name] = {"parameters": count, "difference": apart}
    i, j, k = reversed(ODD)
    pictures = ", ".join(f"{w} x {h}" for h, w in SIZES)
    notes = [
        (
            f"Two steps on {i} x {j} x {k} voxels, saved, loaded, drawn at {pictures} px with the loaded one and the "
            "one that was saved. Parameters are those of width 1, counted without allocating them; the paper gives "
            "two or three figures of them (Table 1), and for lookup2d, clusters, hybrid and vnet-unet none."
        )
    ]
    return Result(rows, figures, notes)


def _drawn_again(name: str, width: float) -> tuple[int, float]:
    """How many pictures are finite and have something in them, and how far those of the loaded renderer are off."""
    one = case(3, shape=ODD)
    volume = lump(ODD, seed=6)  # not what it was trained on
    held = brief(renderer=name, steps=2, drawing=drawing(width=width), held_out=-1)
    made = train_on([Case(one.volume, _whole(one.targets))], held).run()
    with tempfile.TemporaryDirectory(prefix="diffrender-bench-") as folder:
        loaded, _ = load_model(save_model(Path(folder, f"{name}.safetensors"), made.renderer, made.info))
    good, apart = 0, 0.0
    for size in SIZES:
        camera = eye(volume, (0.4, 0.8, 0.3), size)
        with torch.no_grad():
            ours, theirs = made.renderer(volume, camera), loaded(volume, camera)
        apart = max(apart, float((ours - theirs).abs().max()))
        good += tuple(theirs.shape) == (4, *size) and bool(theirs.isfinite().all()) and float(theirs[3].max()) > 0.01
    return good, apart if math.isfinite(apart) else math.inf


def _whole(targets: tuple[Target, ...]) -> tuple[Target, ...]:
    return tuple(Target(t.camera, t.image, torch.ones_like(t.weight), t.alpha_weight) for t in targets)


def _meets(name: str, count: int) -> tuple[str, bool]:
    """What is asked of the number of parameters, and whether it is met."""
    if name not in PAPER:
        return "all work", True
    asked, away = PAPER[name]
    if away is None:
        return f"all work; under {asked:,}", count < asked
    return f"all work; about {asked:,}", abs(count - asked) <= away * asked
