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
from diffrender.learning import gigabytes
from diffrender.rays.field import MarchSettings
from diffrender.views import eye
from diffrender.volume import Volume

COPIES = 5  # of the weights: themselves, gradients, Adam's two moments, and the best so far
FIELD_COPIES = 4  # of what is marched through: itself, in parts and together, and its gradient, of one view and of all
WORKING = 1.3  # times what is kept for the way back: layers need room beside it
RECOMPUTED = 0.35  # of it where it is computed again: the largest layer's is kept whole
GUESSED = 400.0  # bytes a voxel, and a pixel, where they cannot be counted
OVERHEAD = 200e6  # bytes, of the march and everything else
SMALLEST_SIDE = 16  # voxels; below it nothing is offered

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
    of_shape = volume if shape is None else _like(volume, shape)
    kept = _kept(made, of_shape, image_size)
    encoder = kept.encoder
    if settings.checkpointing:
        checkpoint_encoder(made, True)
        encoder = max(_kept(made, of_shape, image_size).encoder, RECOMPUTED * encoder)
    weights = sum(t.numel() * t.element_size() for t in (*made.parameters(), *made.buffers()))
    return dataclasses.replace(
        kept, weights=weights, encoder=WORKING * encoder + FIELD_COPIES * kept.weights, view=WORKING * kept.view
    )


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


def size_of(shape: Shape) -> str:
    """Voxels along i, j and k, for people."""
    return " x ".join(str(n) for n in reversed(shape))


class _Counter:
    """Counts, as a context, what autograd keeps, each piece of memory once, and operations."""

    def __init__(self):
        self._pieces: dict[int, torch.UntypedStorage] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)
        self._operations = FlopCounterMode(display=False)

    def __enter__(self) -> None:
        self._hooks.__enter__()
        self._operations.__enter__()

    def __exit__(self, *problem) -> None:
        self._operations.__exit__(*problem)
        self._hooks.__exit__(*problem)

    @property
    def size(self) -> float:
        """[bytes]."""
        return float(sum(storage.nbytes() for storage in self._pieces.values()))

    @property
    def operations(self) -> float:
        """Of the networks."""
        return float(self._operations.get_total_flops())

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._pieces[storage._cdata] = storage  # held, so that its number is not given again
        return tensor


def _kept(made: Renderer, volume: Volume, image_size: tuple[int, int]) -> Need:
    """As it is counted, with the fields' size in the place of the weights; guessed where a part cannot be counted."""
    voxels = math.prod(volume.shape)
    on_meta = Volume(torch.empty(volume.shape, dtype=volume.values.dtype, device="meta"), volume.world_from_voxel)
    there, back = _Counter(), _Counter()
    try:
        with there:
            grids = made.encoder(on_meta)
            slots = zip(grids, made.colour(grids), made.opacity(grids), strict=True)
            fields = tuple(field_of(grid, colour, opacity) for grid, colour, opacity in slots)
        with back:
            camera = eye(on_meta, (0.3, 0.9, 0.2), image_size)
            made.decoder(made.accumulate(fields, camera, MarchSettings(), None))
    except (NotImplementedError, RuntimeError):  # clusters look at numbers, and gru at samples
        return Need(GUESSED * voxels, GUESSED * voxels, GUESSED * math.prod(image_size), (0.0, 0.0))
    parts = [part for field in fields for part in (field.values, field.change) if part is not None]
    size = sum(part.numel() * part.element_size() for part in parts)
    return Need(size, there.size, back.size, (there.operations, back.operations))


def _like(volume: Volume, shape: Shape) -> Volume:
    """A volume of another shape, with the same steps and axes; its numbers mean nothing."""
    return Volume(torch.empty(shape, dtype=volume.values.dtype, device="meta"), volume.world_from_voxel)


def _scaled(shape: Shape, factor: float) -> Shape:
    k, j, i = (max(1, math.floor(n * factor)) for n in shape)
    return k, j, i
