"""VNet, as MONAI has it (channels 16 to 256, 5^3 convolutions, residual sums, ELU), at any width and with any norm.

MONAI's own is bound to 16 channels, BatchNorm and dropout on its skips; ours has the same layers and the same number of
parameters. Source: Milletari et al. (2016), doi:10.1109/3DV.2016.79; Weiss & Navab, section 4 (VNetLight).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffrender.dvr.heads import Intake, with_prior
from diffrender.dvr.layers import again, cropped, dropout, fitted, norm, silence, wide
from diffrender.dvr.renderer import Grid, RendererSettings
from diffrender.volume import Volume

FIRST = 16  # channels of the finest level; each coarser one has twice as many
DOWN = (1, 2, 3, 2)  # convolutions of each coarser level
UP = (2, 2, 1, 1)  # of each level on the way back, the coarsest first
LIGHT = 3  # levels below the finest of VNetLight: without the one of 256 channels
DROPPED = 128  # levels of this many channels (of the paper's) and more have dropout before their convolutions


class Contracting(nn.Module):
    """VNet's way down: features of every scale, the finest first.

    Attributes:
        channels: of each scale.
        checkpointing: whether inner results are computed again on the way back, to save memory.
    """

    def __init__(self, settings: RendererSettings, levels: int = len(DOWN)):
        super().__init__()
        self.checkpointing = False
        first = wide(FIRST, settings)
        self.channels = tuple(first * 2**n for n in range(levels + 1))
        self.start = _Start(first, settings)
        self.downs = nn.ModuleList(
            _Down(first * 2**n, count, FIRST * 2 ** (n + 1) >= DROPPED, settings)
            for n, count in enumerate(DOWN[:levels])
        )

    def forward(self, x: Float[Tensor, "1 1 k j i"]) -> list[Tensor]:
        found = [again(self.checkpointing, self.start, x)]
        for down in self.downs:
            found.append(again(self.checkpointing, down, found[-1]))
        return found


class Expanding(nn.Module):
    """VNet's way back up: features of every scale but the coarsest, the finest last; `channels` of each of them."""

    def __init__(self, channels: tuple[int, ...], settings: RendererSettings):
        super().__init__()
        self.checkpointing = False
        self.ups, made, source = nn.ModuleList(), [], channels[-1]
        counts = UP[len(UP) - len(channels) + 1 :]
        for n, (skip, count) in enumerate(zip(reversed(channels[:-1]), (UP[0], *counts[1:]), strict=True)):
            self.ups.append(_Up(source, skip, count, n < 2, settings))
            source = 2 * skip
            made.append(source)
        self.channels = tuple(made)

    def forward(self, found: list[Tensor]) -> list[Tensor]:
        x, *skips = reversed(found)
        made = []
        for up, skip in zip(self.ups, skips, strict=True):
            x = again(self.checkpointing, up, x, skip)
            made.append(x)
        return made


class VNet(nn.Module):
    """The encoder slot: VNet, or VNetLight with three levels below the finest.

    Args:
        out: features a voxel.
        four: whether they are colour and extinction, and so are added to the prior; else it comes after them.
    Attributes:
        checkpointing: whether inner results are computed again on the way back, to save memory.
    """

    def __init__(self, settings: RendererSettings, out: int, levels: int = len(DOWN), four: bool = False):
        super().__init__()
        self.intake = Intake(settings)
        self.down = Contracting(settings, levels)
        self.up = Expanding(self.down.channels, settings)
        self.end = nn.Sequential(_conv(self.up.channels[-1], out, settings), norm(out, settings), nn.ELU())
        self.last = nn.Conv3d(out, out, 1)
        self.four = four
        if four and self.intake.prior:
            silence(self.last)

    @property
    def checkpointing(self) -> bool:
        return self.down.checkpointing

    @checkpointing.setter
    def checkpointing(self, wanted: bool) -> None:
        self.down.checkpointing = self.up.checkpointing = wanted

    def forward(self, volume: Volume) -> tuple[Grid, ...]:
        numbers = self.intake.numbers(volume)
        x = fitted(numbers, [2 ** (len(self.down.channels) - 1)] * 3)
        x = self.up(self.down(x))[-1]
        features = cropped(self.last(again(self.checkpointing, self.end, x)), volume.shape)[0]
        if self.four:
            return (Grid(self.intake.around(features, numbers), volume.world_from_voxel),)
        priors = self.intake.priors(numbers) if self.intake.prior else None
        return (Grid(with_prior(features, priors), volume.world_from_voxel),)


class _Start(nn.Module):
    def __init__(self, channels: int, settings: RendererSettings):
        super().__init__()
        self.conv, self.norm, self.act = _conv(1, channels, settings), norm(channels, settings), nn.ELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)) + x)  # the one channel is added to each


class _Down(nn.Module):
    def __init__(self, channels: int, count: int, dropped: bool, settings: RendererSettings):
        super().__init__()
        out = 2 * channels
        self.shrink = nn.Conv3d(channels, out, 2, 2, bias=settings.norm == "none")
        self.norm, self.act = norm(out, settings), nn.ELU()
        self.drop = dropout(settings) if dropped else nn.Identity()
        self.convs = _convs(out, count, settings)

    def forward(self, x: Tensor) -> Tensor:
        down = self.act(self.norm(self.shrink(x)))
        return self.act(self.convs(self.drop(down)) + down)


class _Up(nn.Module):
    def __init__(self, channels: int, skip: int, count: int, dropped: bool, settings: RendererSettings):
        super().__init__()
        self.drop = dropout(settings) if dropped else nn.Identity()
        self.drop_skip = dropout(settings)
        self.grow = nn.ConvTranspose3d(channels, skip, 2, 2)
        self.norm, self.act = norm(skip, settings), nn.ELU()
        self.convs = _convs(2 * skip, count, settings)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        both = torch.cat([self.act(self.norm(self.grow(self.drop(x)))), self.drop_skip(skip)], 1)
        return self.act(self.convs(both) + both)


def _conv(channels: int, out: int, settings: RendererSettings) -> nn.Conv3d:
    return nn.Conv3d(channels, out, 5, padding=2, bias=settings.norm == "none")


def _convs(channels: int, count: int, settings: RendererSettings) -> nn.Sequential:
    layers = [(_conv(channels, channels, settings), norm(channels, settings), nn.ELU()) for _ in range(count)]
    return nn.Sequential(*(layer for part in layers for layer in part))
