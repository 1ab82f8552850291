"""An editable transfer function, and a learned, bounded change of it at every voxel (the outlook of Weiss & Navab)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diffrender.dvr.renderer import Changed, Grid, Plain, Renderer, RendererSettings, accumulator
from diffrender.dvr.tables import ColourTable, ExtinctionTable, starting_table
from diffrender.dvr.transfer import TransferFunction, transfer_of_table
from diffrender.errors import SettingError
from diffrender.rays.field import Table
from diffrender.volume import Volume

COLOUR_BOUND = 1.0  # most that a colour changes: from black to white
LOG_BOUND = 4.0  # most that the logarithm of extinction changes: 55 times thinner or denser
WIDTHS = (8, 16, 32)  # channels of the three scales at width 1: 90 000 parameters
WINDOWS = ((-1000.0, -200.0), (-200.0, 300.0), (300.0, 1500.0))  # HU of lung, of soft tissue, of bone


class Block(nn.Module):
    """Two convolutions."""

    def __init__(self, channels: int, out: int, norm: str, dropout: float):
        super().__init__()
        layers: list[nn.Module] = []
        for before in (channels, out):
            layers += [nn.Conv3d(before, out, 3, padding=1), _norm(norm, out), nn.ELU()]
        self.layers = nn.Sequential(*layers, nn.Dropout3d(dropout))

    def forward(self, values: Float[Tensor, "1 c k j i"]) -> Float[Tensor, "1 d k j i"]:
        return self.layers(values)


class NumbersAndChange(nn.Module):
    """The encoder slot: a voxel's number, and four channels from -1 to 1 of a small 3D U-Net over three scales."""

    def __init__(self, settings: RendererSettings):
        super().__init__()
        self.settings, self.strength = settings, settings.strength
        one, two, three = (max(1, round(channels * settings.width)) for channels in WIDTHS)
        kind = (settings.norm, settings.dropout)
        self.down = nn.ModuleList([Block(len(WINDOWS), one, *kind), Block(one, two, *kind), Block(two, three, *kind)])
        self.up = nn.ModuleList([Block(three + two, two, *kind), Block(two + one, one, *kind)])
        self.last = nn.Conv3d(one, 4, 1)
        if settings.start == "transfer":
            nn.init.zeros_(self.last.weight)
            assert self.last.bias is not None
            nn.init.zeros_(self.last.bias)

    def forward(self, volume: Volume) -> tuple[Grid, ...]:
        values = volume.values.to(self.last.weight.device)
        if self.strength == 0:
            return (Grid(values[None], volume.world_from_voxel),)
        change = torch.tanh(self._changed(_windowed(values)))
        return (Grid(torch.cat([values[None].to(change), change]), volume.world_from_voxel),)

    def _changed(self, values: Float[Tensor, "c k j i"]) -> Float[Tensor, "4 k j i"]:
        scales = [self.down[0](values[None])]
        for block in (self.down[1], self.down[2]):
            k, j, i = ((n + 1) // 2 for n in scales[-1].shape[-3:])  # of any size, down to a single slice
            scales.append(block(F.adaptive_avg_pool3d(scales[-1], (k, j, i))))
        found = scales.pop()
        for block in self.up:
            beside = scales.pop()
            found = F.interpolate(found, beside.shape[-3:], mode="trilinear", align_corners=False)
            found = block(torch.cat([found, beside], 1))
        return self.last(found)[0]


class ChangedColours(ColourTable):
    """The colour slot: the table's colours, changed at each voxel by at most COLOUR_BOUND times the strength."""

    def __init__(self, encoder: NumbersAndChange, colours: Tensor, ranges: tuple[tuple[float, float], ...]):
        super().__init__(colours, ranges)
        self._encoder = (encoder,)  # in a tuple torch does not see it, and a model file holds its weights once

    def forward(self, grids: tuple[Grid, ...]) -> tuple[Table | Changed, ...]:
        (table,) = super().forward(grids)
        strength = self._encoder[0].strength
        return (Changed(table, strength * COLOUR_BOUND * grids[0].values[1:4]) if strength > 0 else table,)


class ChangedExtinction(ExtinctionTable):
    """The opacity slot: the table's extinction, times at most exp(LOG_BOUND times the strength), or as much thinner."""

    def __init__(self, encoder: NumbersAndChange, extinction: Tensor, ranges: tuple[tuple[float, float], ...]):
        super().__init__(extinction, ranges)
        self._encoder = (encoder,)

    def forward(self, grids: tuple[Grid, ...]) -> tuple[Table | Changed, ...]:
        (table,) = super().forward(grids)
        strength = self._encoder[0].strength
        return (Changed(table, torch.exp(strength * LOG_BOUND * grids[0].values[4:])) if strength > 0 else table,)


class Hybrid(Renderer):
    """A renderer whose table can be edited and whose learned change can be turned down, after training too."""

    encoder: NumbersAndChange
    colour: ChangedColours
    opacity: ChangedExtinction

    @property
    def strength(self) -> float:
        """Of what is learned beyond the table, 0 to 1. At 0 the table alone is drawn, exactly as `lookup` draws it."""
        return self.encoder.strength

    @strength.setter
    def strength(self, strength: float) -> None:
        if not 0 <= strength <= 1:
            raise SettingError(f"strength lies between 0 and 1; {strength} does not.")
        self.encoder.strength = float(strength)

    @property
    def table(self) -> TransferFunction:
        """The table as a transfer function; assign another one to edit it."""
        (low, high) = self.colour.ranges[0]
        (colours,), (extinction,) = ColourTable.forward(self.colour, ()), ExtinctionTable.forward(self.opacity, ())
        entries = torch.cat([colours.entries, extinction.entries], -1)
        return transfer_of_table(entries, low, high, self.settings.drawn_by.unit_distance)

    @table.setter
    def table(self, transfer: TransferFunction) -> None:
        (low, high) = self.colour.ranges[0]
        entries = transfer.table(len(self.colour.logits), low, high).entries
        self.colour.set(entries[:, :3])
        self.opacity.set(entries[:, 3:])


def build_hybrid(settings: RendererSettings) -> Renderer:
    """A table as in `lookup`, and a small 3D U-Net that changes it voxel by voxel; untrained it changes nothing."""
    entries = starting_table(settings)
    ranges = ((settings.low, settings.high),)
    encoder = NumbersAndChange(settings)
    return Hybrid(
        "hybrid",
        settings,
        encoder=encoder,
        colour=ChangedColours(encoder, entries[:, :3], ranges),
        opacity=ChangedExtinction(encoder, entries[:, 3:], ranges),
        accumulate=accumulator(settings, 3),
        decoder=Plain(),
    )


def _windowed(values: Tensor) -> Float[Tensor, "c k j i"]:
    """Each of WINDOWS as numbers from -1 to 1."""
    return torch.stack([((values.float() - low) * (2 / (high - low)) - 1).clamp(-1, 1) for low, high in WINDOWS])


def _norm(kind: str, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm3d(channels)
    return (
        nn.GroupNorm(min(4, channels), channels)
        if kind == "group" and channels % min(4, channels) == 0
        else nn.Identity()
    )
