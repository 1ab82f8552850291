"""Renderers that are a transfer function: tables of HU that are learned, and a network that writes one.

Their encoder hands on the stored numbers, which the march classifies at every sample (post-classification).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffrender.dvr.features import gradient_magnitude
from diffrender.dvr.renderer import Grid, Plain, Renderer, RendererSettings, accumulator
from diffrender.rays.field import Table
from diffrender.volume import Volume

STRETCH = 0.01  # colours reach this far beyond 0 and 1, so that a pure red has a logit (4.6) and its gradient is no 0
LEAST = 1e-6  # extinction of what is transparent [1/mm]: 3e-4 of a ray over 300 mm, and a way back from there
STEEPEST = 400.0  # gradient magnitude of lookup2d's last entry [HU/mm]
SCRATCH_EXTINCTION = 0.005  # [1/mm]: a trunk of 300 mm covers 78 %, so that every depth is seen and has a gradient
HIDDEN = 28  # units of each of mlp's two hidden layers: 984 parameters, against the table's 1024


def logits_of(colours: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
    """What `colours_of` makes these colours of."""
    return torch.logit((colours.clamp(0, 1) + STRETCH) / (1 + 2 * STRETCH))


def colours_of(logits: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
    """Colours from any numbers, -STRETCH to 1 + STRETCH, with a gradient everywhere between."""
    return torch.sigmoid(logits) * (1 + 2 * STRETCH) - STRETCH


def logs_of(extinction: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """What `extinction_of` makes this extinction [1/mm] of."""
    return extinction.clamp(min=LEAST).log()


def extinction_of(logs: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Extinction [1/mm] from any numbers; what is transparent changes as easily, relatively, as what is opaque."""
    return logs.exp()


def starting_table(settings: RendererSettings) -> Float[Tensor, "bins 4"]:
    """Red, green, blue and extinction [1/mm] that a table starts with: the transfer function's, or about grey."""
    if settings.start == "transfer":
        return settings.drawn_by.table(settings.bins, settings.low, settings.high).entries
    grey = 0.5 + 0.2 * (torch.rand(settings.bins, 3, device="cpu") - 0.5)
    return torch.cat([grey, torch.full((settings.bins, 1), SCRATCH_EXTINCTION, device="cpu")], -1)


class Numbers(nn.Module):
    """The encoder slot that hands on the volume's numbers as they are stored."""

    def forward(self, volume: Volume) -> tuple[Grid, ...]:
        return (Grid(volume.values[None], volume.world_from_voxel),)


class NumbersAndGradient(nn.Module):
    """The encoder slot that hands on the numbers and how steeply they change [HU/mm]."""

    def forward(self, volume: Volume) -> tuple[Grid, ...]:
        values = volume.values
        steep = gradient_magnitude(values, volume.world_from_voxel)
        return (Grid(torch.stack([values.to(steep), steep]), volume.world_from_voxel),)


class ColourTable(nn.Module):
    """The colour slot: a colour an entry, held as logits (*bins, 3)."""

    def __init__(self, colours: Float[Tensor, "*bins 3"], ranges: tuple[tuple[float, float], ...]):
        super().__init__()
        self.ranges = ranges
        self.logits = nn.Parameter(logits_of(colours))

    def forward(self, grids: tuple[Grid, ...]) -> tuple[Table, ...]:
        return (Table(colours_of(self.logits), self.ranges),)


class ExtinctionTable(nn.Module):
    """The opacity slot: an extinction an entry, held as its logarithm (*bins, 1)."""

    def __init__(self, extinction: Float[Tensor, "*bins 1"], ranges: tuple[tuple[float, float], ...]):
        super().__init__()
        self.ranges = ranges
        self.logs = nn.Parameter(logs_of(extinction))

    def forward(self, grids: tuple[Grid, ...]) -> tuple[Table, ...]:
        return (Table(extinction_of(self.logs), self.ranges),)


def build_lookup(settings: RendererSettings) -> Renderer:
    """A colour and an extinction for each of `bins` HU (256: the paper's 1024 parameters)."""
    return _of_table("lookup", settings, starting_table(settings), ((settings.low, settings.high),), Numbers())


def build_lookup2d(settings: RendererSettings) -> Renderer:
    """As `lookup`, for each of `bins2` gradient magnitudes (0 to STEEPEST); starts the same for all of them."""
    entries = starting_table(settings)[:, None].repeat(1, settings.bins2, 1)
    ranges = ((settings.low, settings.high), (0.0, STEEPEST))
    return _of_table("lookup2d", settings, entries, ranges, NumbersAndGradient())


def _of_table(
    name: str,
    settings: RendererSettings,
    entries: Float[Tensor, "*bins 4"],
    ranges: tuple[tuple[float, float], ...],
    encoder: nn.Module,
) -> Renderer:
    return Renderer(
        name,
        settings,
        encoder=encoder,
        colour=ColourTable(entries[..., :3], ranges),
        opacity=ExtinctionTable(entries[..., 3:], ranges),
        accumulate=accumulator(settings, 3),
        decoder=Plain(),
    )
