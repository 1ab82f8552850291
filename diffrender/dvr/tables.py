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
LEAST = 1e-7  # extinction of what is transparent [1/mm]: 1e-4 of a ray over a metre, and a way back from there
STEEPEST = 400.0  # gradient magnitude of lookup2d's last entry [HU/mm]
SCRATCH_EXTINCTION = 0.005  # [1/mm]: a trunk of 300 mm covers 78 %, so that every depth is seen and has a gradient
HIDDEN = 28  # units of each of mlp's two hidden layers: 984 parameters, against the table's 1024


def logits_of(colours: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
    """What `colours_of` makes these colours of."""
    return torch.logit((colours.clamp(0, 1) + STRETCH) / (1 + 2 * STRETCH))


def colours_of(logits: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
    """Colours from any numbers, -STRETCH to 1 + STRETCH, with a gradient everywhere between."""
    return torch.sigmoid(logits) * (1 + 2 * STRETCH) - STRETCH


def roots_of(extinction: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """What `extinction_of` makes this extinction [1/mm] of."""
    return extinction.clamp(min=LEAST).sqrt()


def extinction_of(roots: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Extinction [1/mm] from any numbers: their squares, so that a table gone transparent finds its way back.

    A logarithm or a softplus needs hundreds of steps there: 120 steps of Adam from one transfer function to another
    ended at 43 dB with squares, at 20 to 30 dB with those.
    """
    return roots**2


def starting_table(settings: RendererSettings) -> Float[Tensor, "bins 4"]:
    """Red, green, blue and extinction [1/mm] that a table starts with: the transfer function's, or about grey."""
    if settings.start == "transfer":
        return settings.drawn_by.table(settings.bins, settings.low, settings.high).entries
    grey = 0.5 + 0.2 * (torch.rand(settings.bins, 3, device="cpu") - 0.5)
    return torch.cat([grey, torch.full((settings.bins, 1), SCRATCH_EXTINCTION, device="cpu")], -1)


class Numbers(nn.Module):
    """The encoder slot that hands on the volume's numbers as they are stored."""

    at: Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("at", torch.zeros(0), persistent=False)  # where the renderer lies, the volume goes

    def forward(self, volume: Volume) -> tuple[Grid, ...]:
        return (Grid(volume.values.to(self.at.device)[None], volume.world_from_voxel),)


class NumbersAndGradient(Numbers):
    """The encoder slot that hands on the numbers and how steeply they change [HU/mm]."""

    def forward(self, volume: Volume) -> tuple[Grid, ...]:
        values = volume.values.to(self.at.device)
        steep = gradient_magnitude(values, volume.world_from_voxel)
        return (Grid(torch.stack([values.to(steep), steep]), volume.world_from_voxel),)


class ColourTable(nn.Module):
    """The colour slot: a colour an entry, held as logits (*bins, 3)."""

    def __init__(self, colours: Float[Tensor, "*bins 3"], ranges: tuple[tuple[float, float], ...]):
        super().__init__()
        self.ranges = ranges
        self.logits = nn.Parameter(logits_of(colours))

    @torch.no_grad()
    def set(self, colours: Float[Tensor, "*bins 3"]) -> None:
        """Take other colours."""
        self.logits.copy_(logits_of(colours))

    def forward(self, grids: tuple[Grid, ...]) -> tuple[Table, ...]:
        return (Table(colours_of(self.logits), self.ranges),)


class ExtinctionTable(nn.Module):
    """The opacity slot: an extinction an entry, held as its root (*bins, 1)."""

    def __init__(self, extinction: Float[Tensor, "*bins 1"], ranges: tuple[tuple[float, float], ...]):
        super().__init__()
        self.ranges = ranges
        self.roots = nn.Parameter(roots_of(extinction))

    @torch.no_grad()
    def set(self, extinction: Float[Tensor, "*bins 1"]) -> None:
        """Take another extinction [1/mm]."""
        self.roots.copy_(roots_of(extinction))

    def forward(self, grids: tuple[Grid, ...]) -> tuple[Table, ...]:
        return (Table(extinction_of(self.roots), self.ranges),)


class WrittenTable(nn.Module):
    """The colour slot of `mlp`: a network of HU writes logits of colour and the root of extinction, bin by bin.

    With start="transfer" it writes what is added to those of the transfer function, and begins with nothing.
    """

    logits: Tensor
    roots: Tensor

    def __init__(self, settings: RendererSettings):
        super().__init__()
        self.ranges = ((settings.low, settings.high),)
        last = nn.Linear(HIDDEN, 4)
        self.net = nn.Sequential(nn.Linear(1, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), last)
        if settings.start == "transfer":
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            entries = starting_table(settings)
        else:
            entries = torch.tensor([[0.5, 0.5, 0.5, SCRATCH_EXTINCTION]], device="cpu").repeat(settings.bins, 1)
        self.register_buffer("logits", logits_of(entries[:, :3]))
        self.register_buffer("roots", roots_of(entries[:, 3:]))

    def forward(self, grids: tuple[Grid, ...]) -> tuple[Table, ...]:
        return (Table(colours_of(self.logits + self.written()[:, :3]), self.ranges),)

    def written(self) -> Float[Tensor, "bins 4"]:
        """The network at each bin, from -1 for the lowest HU to 1 for the highest."""
        at = torch.linspace(-1, 1, len(self.logits), device=self.logits.device, dtype=self.logits.dtype)
        return self.net(at[:, None])


class WrittenExtinction(nn.Module):
    """The opacity slot of `mlp`: what the network of the colour slot writes; it holds no parameters of its own."""

    def __init__(self, table: WrittenTable):
        super().__init__()
        self._table = (table,)  # in a tuple torch does not see it, and a model file holds its weights once

    def forward(self, grids: tuple[Grid, ...]) -> tuple[Table, ...]:
        (table,) = self._table
        return (Table(extinction_of(table.roots + table.written()[:, 3:]), table.ranges),)


def build_lookup(settings: RendererSettings) -> Renderer:
    """A colour and an extinction for each of `bins` HU (256: the paper's 1024 parameters)."""
    return _of_table("lookup", settings, starting_table(settings), ((settings.low, settings.high),), Numbers())


def build_lookup2d(settings: RendererSettings) -> Renderer:
    """As `lookup`, for each of `bins2` gradient magnitudes (0 to STEEPEST); starts the same for all of them."""
    entries = starting_table(settings)[:, None].repeat(1, settings.bins2, 1)
    ranges = ((settings.low, settings.high), (0.0, STEEPEST))
    return _of_table("lookup2d", settings, entries, ranges, NumbersAndGradient())


def build_mlp(settings: RendererSettings) -> Renderer:
    """A table written by a network 1-28-28-4: 984 parameters (section 4.1 of the paper)."""
    colour = WrittenTable(settings)
    return Renderer(
        "mlp",
        settings,
        encoder=Numbers(),
        colour=colour,
        opacity=WrittenExtinction(colour),
        accumulate=accumulator(settings, 3),
        decoder=Plain(),
    )


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
