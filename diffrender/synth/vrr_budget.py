"""What the training of a generator will take: memory counted on torch's meta device, time from a step's operations."""

import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from diffrender.learning import free_memory, gigabytes
from diffrender.synth.discriminator import UNetDiscriminator
from diffrender.synth.fields import NODES, FieldMapper, Given
from diffrender.synth.vrr_settings import VRRSettings

COPIES = 5.0  # of the weights: themselves, gradients, Adam's two moments, and the average
FIELD_COPIES = 6.0  # of the two fields: themselves, in parts, their gradient, and those of the DRR
WORKING = 1.3  # times what is kept for the way back: layers need room beside it
OVERHEAD = 400e6  # bytes, of torch, the march and everything else
BOTH_WAYS = 3.0  # times the operations of a network's way there
LOOKS = 3.0  # pictures that the discriminator sees for each view: a real one, a made one, and that again
SAMPLE = {"cpu": 1.2e-7, "cuda": 1e-9}  # [s] that a sample of the march takes there and back


@dataclass(frozen=True)
class VRREstimate:
    """What a training will take, roughly.

    Attributes:
        memory, free: [bytes], on the device where it is trained.
        step: [s], of an otherwise idle machine.
        steps: that the budget allows; 0 where it is in epochs, since those depend on the radiographs.
        sentence: all of it in words, with what to do where memory is short.
    """

    memory: float
    free: float
    step: float
    steps: int
    sentence: str

    @property
    def fits(self) -> bool:
        """Whether there is memory enough for a whole batch."""
        return self.memory <= self.free


def training_estimate(settings: VRRSettings, radiographs: int | None = None) -> VRREstimate:
    """What a training with these settings will take.

    Args:
        radiographs: how many there are to learn from, for a budget in epochs.
    Raises: BackendError where the mapper needs a package that is not here.
    """
    device, made = settings.where, settings.generator
    with torch.device("meta"):
        mapper = FieldMapper(made).to("meta")
        judge = UNetDiscriminator(settings.discriminator, settings.spectral).to("meta")
        ct = _given(settings)
        pictures = torch.empty(settings.batch, 1, *settings.image_size)
    kept_fields, work_fields = _counted(lambda: mapper(ct).values)
    kept_looks, work_looks = _counted(lambda: judge(pictures)[1])
    weights = sum(p.numel() * p.element_size() for module in (mapper, judge) for p in module.parameters())
    fields = 2 * made.detail**3 * 4
    memory = COPIES * weights + FIELD_COPIES * fields + WORKING * (kept_fields + 2 * kept_looks) + OVERHEAD
    samples = settings.batch * settings.image_size[0] * settings.image_size[1] * made.points
    work = BOTH_WAYS * (work_fields + LOOKS * work_looks)
    step = work / _rate(device) + SAMPLE.get(device.type, SAMPLE["cpu"]) * samples
    steps = _steps(settings, step, radiographs)
    free = free_memory(device)
    return VRREstimate(memory, free, step, steps, _sentence(settings, memory, free, step, steps))


def _given(settings: VRRSettings) -> Given:
    made = settings.generator
    kinds = len(NODES) - 1 if made.tissues else 1
    lattice, detail = (made.lattice,) * 3, (made.detail,) * 3
    world = torch.eye(4, dtype=torch.float64, device="cpu")
    return Given(torch.empty(1, 1, *lattice), torch.empty(detail), torch.empty(kinds, *detail), world, 1.0)


def _counted(way) -> tuple[float, float]:
    """Bytes that autograd keeps, each piece of memory once, and operations of the networks."""
    pieces: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        pieces[storage._cdata] = storage  # held, so that its number is not given again
        return tensor

    operations = FlopCounterMode(display=False)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), operations:
        way()
    return float(sum(storage.nbytes() for storage in pieces.values())), float(operations.get_total_flops())


def _rate(device: torch.device) -> float:
    """Operations a second, of a convolution that is timed there."""
    layer, x = nn.Conv2d(16, 16, 3, padding=1).to(device), torch.rand(4, 16, 96, 96, device=device)
    work = 2.0 * 9 * 16 * 16 * 4 * 96 * 96
    best = float("inf")
    with torch.no_grad():
        for _ in range(4):
            begin = time.perf_counter()
            F.relu(layer(x)).sum().item()
            best = min(best, time.perf_counter() - begin)
    return work / best


def _steps(settings: VRRSettings, step: float, radiographs: int | None) -> int:
    kind, limit = settings.budget
    if kind == "steps":
        return int(limit)
    if kind == "seconds":
        return max(1, int(limit / step))
    return 0 if radiographs is None else -(-int(limit) * radiographs // settings.batch)


def _sentence(settings: VRRSettings, memory: float, free: float, step: float, steps: int) -> str:
    told = f"About {gigabytes(memory)} of memory ({gigabytes(free)} are free) and {step:.2g} s a step"
    told += f", {steps} steps in {_minutes(step * steps)}." if steps else "; how many steps depends on the radiographs."
    if memory <= free:
        return told
    smaller = 'the mapper "unet"' if settings.generator.mapper == "vnet" else "a smaller lattice and detail"
    return f"{told} That does not fit: take a smaller batch (it is {settings.batch}), {smaller}, or a larger machine."


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"
