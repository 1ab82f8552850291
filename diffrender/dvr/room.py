"""Memory that a training takes, counted on torch's meta device, where nothing is allocated; and what would fit."""

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from diffrender.dvr.learner import checkpoint_encoder
from diffrender.dvr.renderer import SLOTS, Renderer, field_of
from diffrender.dvr.renderers import renderer as renderer_of
from diffrender.dvr.settings import TrainSettings
from diffrender.errors import MemoryNeedError
from diffrender.io.files import available_memory
from diffrender.volume import Volume

COPIES = 5  # of the weights: themselves, gradients, Adam's two moments, and the best so far
FIELD_COPIES = 4  # of what is marched through: itself, in parts and together, and its gradient, of one view and of all
WORKING = 1.3  # times what is kept for the way back: layers need room beside it
RECOMPUTED = 0.35  # of it where it is computed again: the largest layer's is kept whole
OVERHEAD = 200e6  # bytes, of the march and everything else
SMALLEST_SIDE = 16  # voxels; below it nothing is offered
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Need:
    """What a step with one view takes.

    Attributes:
        weights: of the renderer alone [bytes].
        encoder: what the way back through the encoder keeps, and what is marched through [bytes].
        view: what the way back through one view keeps [bytes].
        operations: of the encoder, and of the decoder, one way; what time goes with.
    """

    weights: float
    encoder: float
    view: float
    operations: tuple[float, float]

    @property
    def total(self) -> float:
        """[bytes]."""
        return COPIES * self.weights + self.encoder + self.view + OVERHEAD


def needed(settings: TrainSettings, volume: Volume, image_size: tuple[int, int], shape: Shape | None = None) -> Need:
    """What a training takes.

    Args:
        shape: (k, j, i) of a volume like this one; by default its own.
    """
    with torch.device("meta"):
        made = renderer_of(settings.renderer, settings.drawing)
    made = made.to("meta")
    for slot in SLOTS:
        made.slot(slot).requires_grad_(slot in settings.slots)
    lattice = torch.empty(volume.shape if shape is None else shape, dtype=volume.values.dtype, device="meta")
    of_shape = Volume(lattice, volume.world_from_voxel)
    kept, operations, sizes = _encoded(made, of_shape)
    if settings.checkpointing:
        checkpoint_encoder(made, True)
        kept = max(_encoded(made, of_shape)[0], RECOMPUTED * kept)
    seen = _Kept()
    images = tuple(torch.empty(n, *image_size, device="meta", requires_grad=True) for n, _ in sizes)
    with torch.autograd.graph.saved_tensors_hooks(seen.pack, seen.unpack), FlopCounterMode(display=False) as counter:
        made.decoder(images)
    weights = sum(t.numel() * t.element_size() for t in (*made.parameters(), *made.buffers()))
    fields = FIELD_COPIES * sum(size for _, size in sizes)
    return Need(weights, WORKING * kept + fields, WORKING * seen.size, (operations, float(counter.get_total_flops())))


def check_room(settings: TrainSettings, volume: Volume, image_size: tuple[int, int], free: float) -> bool:
    """Whether gradient checkpointing is needed to fit into memory, beyond what the settings ask for.

    Args:
        free: [bytes].
    Raises: MemoryNeedError where not even that is enough, saying what size would fit.
    """
    need = needed(settings, volume, image_size)
    if need.total <= free:
        return False
    sparing = dataclasses.replace(settings, checkpointing=True)
    if needed(sparing, volume, image_size).total <= free:
        return True
    raise MemoryNeedError(
        f"{settings.renderer} on {size_of(volume.shape)} voxels needs about {gigabytes(need.total)} of memory, "
        f"even for one view a step, and {gigabytes(free)} are free. {room_for(sparing, volume, image_size, free)} "
        "Resample or crop the volume, take a lighter renderer (unet-s, lookup) or a smaller width, or a larger machine."
    )


def room_for(settings: TrainSettings, volume: Volume, image_size: tuple[int, int], free: float) -> str:
    """Which volume would fit into so much memory [bytes], as a sentence."""
    low, high = 0.0, 1.0
    for _ in range(7):
        middle = (low + high) / 2
        shape = _scaled(volume.shape, middle)
        fits = needed(settings, volume, image_size, shape).total <= free
        low, high = (middle, high) if fits else (low, middle)
    shape = _scaled(volume.shape, low)
    if low == 0 or min(shape) < min(SMALLEST_SIDE, *volume.shape):
        return "No smaller volume would fit either."
    return f"A volume of {size_of(shape)} voxels would fit."


def free_memory(device: torch.device) -> float:
    """That can still be taken [bytes]."""
    return float(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else available_memory()


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether this is torch's, or Python's, way of saying that memory is full."""
    return isinstance(problem, MemoryError) or any(words in str(problem).lower() for words in OUT_OF_MEMORY)


def gigabytes(size: float) -> str:
    """For people."""
    return f"{size / 2**30:.2g} GiB" if size < 10 * 2**30 else f"{size / 2**30:.0f} GiB"


def size_of(shape: Shape) -> str:
    """Voxels along i, j and k, for people."""
    return " x ".join(str(n) for n in reversed(shape))


class _Kept:
    """Counts what autograd keeps, each piece of memory once."""

    def __init__(self):
        self._pieces: dict[int, torch.UntypedStorage] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._pieces[storage._cdata] = storage  # held, so that its number is not given again
        return tensor

    def unpack(self, tensor: Tensor) -> Tensor:
        return tensor

    @property
    def size(self) -> float:
        """[bytes]."""
        return float(sum(storage.nbytes() for storage in self._pieces.values()))


def _encoded(made: Renderer, volume: Volume) -> tuple[float, float, list[tuple[int, float]]]:
    """What the way back keeps [bytes], operations, and of each field the channels and the size [bytes]."""
    kept = _Kept()
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, kept.unpack), FlopCounterMode(display=False) as counter:
        grids = made.encoder(volume)
        slots = zip(grids, made.colour(grids), made.opacity(grids), strict=True)
        fields = [field_of(grid, colour, opacity) for grid, colour, opacity in slots]
    sizes = [(field.channels, float(field.values.numel() * field.values.element_size())) for field in fields]
    return kept.size, float(counter.get_total_flops()), sizes


def _scaled(shape: Shape, factor: float) -> Shape:
    k, j, i = (max(1, math.floor(n * factor)) for n in shape)
    return k, j, i
