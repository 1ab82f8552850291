"""What the networks are built of: convolutions with a norm, small networks of points, and sizes that fit them."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffrender.dvr.renderer import RendererSettings

GROUPS = 8  # of GroupNorm, where the channels allow
CONV = {2: nn.Conv2d, 3: nn.Conv3d}
UP = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
DROPOUT = {2: nn.Dropout2d, 3: nn.Dropout3d}


def wide(channels: int, settings: RendererSettings) -> int:
    """The paper's number of channels times `settings.width`, even, at least 2."""
    return max(2, 2 * round(channels * settings.width / 2))


def norm(channels: int, settings: RendererSettings, dims: int = 3) -> nn.Module:
    """The norm that the settings name; GroupNorm with two channels a group or more, so that one voxel is not all 0."""
    if settings.norm == "batch":
        return BATCH[dims](channels)
    if settings.norm == "none":
        return nn.Identity()
    groups = max(n for n in range(1, GROUPS + 1) if channels % n == 0 and (2 * n <= channels or n == 1))
    return nn.GroupNorm(groups, channels)


def dropout(settings: RendererSettings, dims: int = 3) -> nn.Module:
    """Dropout of whole channels, as in the paper; nothing where the probability is 0."""
    return DROPOUT[dims](settings.dropout) if settings.dropout > 0 else nn.Identity()


class Points(nn.Module):
    """A network of one hidden ReLU layer at every voxel or pixel for itself.

    Args:
        zero: whether the last layer starts at 0, so that an untrained network says nothing.
    """

    def __init__(self, channels: int, hidden: int, out: int, zero: bool):
        super().__init__()
        self.hidden, self.last = nn.Linear(channels, hidden), nn.Linear(hidden, out)
        if zero:
            silence(self.last)

    def forward(self, x: Float[Tensor, "channel *n"]) -> Float[Tensor, "out *n"]:
        flat = x.flatten(1)
        hidden = torch.addmm(self.hidden.bias[:, None], self.hidden.weight, flat).relu()
        found = torch.addmm(self.last.bias[:, None], self.last.weight, hidden)
        return found.reshape(-1, *x.shape[1:])


def silence(layer: nn.Linear | nn.Conv2d | nn.Conv3d) -> None:
    """Set a layer to 0: what it will say is all learned."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def again(wanted: bool, function: Callable[..., Tensor], *args: Tensor) -> Tensor:
    """`function(*args)`; where `wanted`, its inner results are not kept but computed again on the way back."""
    if wanted and torch.is_grad_enabled():
        return checkpoint(function, *args, use_reentrant=False)  # pyright: ignore[reportReturnType]
    return function(*args)


def fitted(x: Float[Tensor, "one channel *n"], multiples: Sequence[int]) -> Float[Tensor, "one channel *m"]:
    """Padded behind the last voxel of each axis, which is repeated, to multiples of these sizes.

    Where that leaves a single voxel at the coarsest scale the last axis gets one more: a norm over one number is none.
    """
    sizes = [m * math.ceil(n / m) for n, m in zip(x.shape[2:], multiples, strict=True)]
    if list(multiples) == sizes:
        sizes[-1] += multiples[-1]
    if list(x.shape[2:]) == sizes:
        return x
    pads = [(0, size - n) for n, size in zip(x.shape[2:], sizes, strict=True)]
    return F.pad(x, [n for pair in reversed(pads) for n in pair], mode="replicate")


def coarser(world_from_voxel: Float[Tensor, "4 4"], factors: Sequence[int], first: float = 0.0) -> Float[Tensor, "4 4"]:
    """The lattice of blocks of voxels: the first block's middle lies (factor - 1) / 2 behind the first voxel's.

    Args:
        factors: voxels of (k, j, i) a block.
        first: number of the block that becomes index 0; -1 where one was put before the others.
    """
    block = torch.eye(4, dtype=torch.float64)
    for axis, factor in enumerate(reversed(factors)):
        block[axis, axis], block[axis, 3] = factor, factor * first + (factor - 1) / 2
    return world_from_voxel.double().cpu() @ block


def cropped(x: Float[Tensor, "one channel *n"], sizes: Sequence[int]) -> Float[Tensor, "one channel *m"]:
    """The first so many voxels of each axis: what `fitted` added is taken off."""
    return x[(slice(None), slice(None), *(slice(n) for n in sizes))]
