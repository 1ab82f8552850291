"""What a training will take: memory, and time from a small step that is measured."""

import dataclasses
import math
import time
from dataclasses import dataclass

import torch

from diffrender.dvr.learner import Learner
from diffrender.dvr.renderer import Renderer
from diffrender.dvr.renderers import renderer as renderer_of
from diffrender.dvr.room import Need, needed, size_of
from diffrender.dvr.settings import Augmentation, TrainSettings, device_of
from diffrender.dvr.targets import Target
from diffrender.learning import free_memory, gigabytes
from diffrender.views import eye
from diffrender.volume import Volume

PROBE_SIDE, PROBE_PIXELS, PROBE_VIEWS = 32, 64, 3
USUAL_SHARE = 0.6  # of the budget, at which a step's sampling is about the mean of all


@dataclass(frozen=True)
class Estimate:
    """What a training will take.

    Attributes:
        step: [s].
        steps: that the budget allows.
        memory, free: [bytes].
        sentence: all of it in words.
    """

    step: float
    steps: int
    memory: float
    free: float
    sentence: str

    @property
    def seconds(self) -> float:
        """All of it [s]."""
        return self.step * self.steps


def estimate(settings: TrainSettings, volume: Volume, image_size: tuple[int, int], views: int = 16) -> Estimate:
    """What a training will take, before it starts; takes a second or a few itself.

    A part of the volume is trained on, seen by one camera and by three, and the times are scaled by the operations of
    the networks and by the samples of the march. Beside other programs, on another day, it will be another.

    Args:
        views: that are trained on.
    """
    device = device_of(settings)
    part = _middle(volume)
    own, small = needed(settings, volume, image_size), needed(settings, part, (PROBE_PIXELS, PROBE_PIXELS))
    encode, view = _measured(settings, part, device)
    pixels = math.prod(image_size) / PROBE_PIXELS**2
    samples = pixels * _diagonal(volume) / _diagonal(part)
    batch = min(settings.batch_size, views)
    step = encode * _ratio(own, small, 0, math.prod(volume.shape) / math.prod(part.shape))
    step += batch * view * max(samples, _ratio(own, small, 1, pixels))
    kind, limit = settings.budget
    steps = round({"steps": limit, "epochs": limit * views / batch, "seconds": max(1.0, limit / step)}[kind])
    free = free_memory(device)
    sentence = (
        f"{settings.renderer} on {size_of(volume.shape)} voxels, {views} views of {image_size[1]} x {image_size[0]} "
        f"pixels: about {_duration(step)} a step, {steps} steps in {_duration(step * steps)}; about "
        f"{gigabytes(own.total)} of memory, of {gigabytes(free)} that are free."
    )
    return Estimate(step, steps, own.total, free, sentence)


def _measured(settings: TrainSettings, part: Volume, device: torch.device) -> tuple[float, float]:
    """Seconds of a small step that go with the volume, and those that go with each view."""
    part = dataclasses.replace(part, values=part.values.to(device), labels=None, names=None)
    flat = torch.full((PROBE_PIXELS, PROBE_PIXELS), 1.0, device=device)
    camera = eye(part, (0.3, 0.9, 0.2), (PROBE_PIXELS, PROBE_PIXELS))
    target = Target(camera, torch.full((4, *flat.shape), 0.5, device=device), flat, flat)
    made: Renderer = renderer_of(settings.renderer, settings.drawing).to(device)
    learner = Learner(made, dataclasses.replace(settings, patches=False), Augmentation())
    seconds = []
    for number, views in enumerate((1, 1, PROBE_VIEWS)):  # the first one compiles and warms up
        began = time.perf_counter()
        learner.step(0, part, [target] * views, USUAL_SHARE, number)  # ends with a number, so all of it is done
        seconds.append(time.perf_counter() - began)
    view = max(0.0, seconds[2] - seconds[1]) / (PROBE_VIEWS - 1)
    return max(0.0, seconds[1] - view), view


def _middle(volume: Volume) -> Volume:
    """A part of a volume with no side longer than PROBE_SIDE, about its middle."""
    first = [max(0, (n - PROBE_SIDE) // 2) for n in volume.shape]
    parts = tuple(slice(a, a + PROBE_SIDE) for a in first)
    world = volume.world_from_voxel.clone()
    world[:3, 3] += world[:3, :3] @ torch.tensor(first[::-1], dtype=torch.float64)
    return Volume(volume.values[parts], world, unit=volume.unit)


def _diagonal(volume: Volume) -> float:
    """In the smallest voxels: what the samples of a ray go with."""
    lengths = [n * step for n, step in zip(volume.shape, volume.spacing, strict=True)]
    return math.hypot(*lengths) / min(volume.spacing)


def _ratio(own: Need, small: Need, which: int, otherwise: float) -> float:
    """Of the operations of the encoder (0) or the decoder (1); of something else where there are none."""
    return own.operations[which] / small.operations[which] if small.operations[which] else otherwise


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
