"""From features to colours and extinction, voxel by voxel, around what a transfer function says of the HU.

A renderer that starts as a transfer function learns what differs from it: colours in logits, extinction in the inverse
of softplus, kappa = softplus(b + delta) with b = log(expm1(kappa of the transfer function)). Channels of a grid are the
network's features and, last, its `PRIOR` channels: three logits and b. The networks classify every voxel and the march
interpolates colours and extinction between them (pre-classified); the paper interpolates features first.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from diffrender.dvr.renderer import Grid, RendererSettings, device_of
from diffrender.dvr.tables import SCRATCH_EXTINCTION, colours_of, logits_of
from diffrender.volume import Volume

PRIOR = 4  # channels at the end of a grid
ENTRIES = 4096  # of the prior's table: one for each HU of a CT, so that nothing is lost between them
LEAST = 5e-6  # extinction of what is transparent [1/mm]: 0.2 % of 400 mm, half a level of 8 bits


def bias_of(extinction: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """b of which softplus makes this extinction [1/mm]; log(expm1(kappa)), written so that it never overflows."""
    kappa = extinction.clamp(min=LEAST)
    return kappa + torch.log(-torch.expm1(-kappa))


SCRATCH_BIAS = float(bias_of(torch.tensor(SCRATCH_EXTINCTION, device="cpu")))


class Intake(nn.Module):
    """A volume's numbers as networks take them, and what the transfer function makes of them.

    Attributes:
        prior: whether there is a transfer function to start from.
    """

    table: Tensor

    def __init__(self, settings: RendererSettings):
        super().__init__()
        self.low, self.high = settings.low, settings.high
        self.prior = settings.start == "transfer"
        entries = settings.drawn_by.table(ENTRIES, self.low, self.high).entries
        table = torch.cat([logits_of(entries[:, :3]), bias_of(entries[:, 3:])], -1).T.contiguous()
        self.register_buffer("table", table, persistent=False)  # the settings keep it

    def numbers(self, volume: Volume) -> Float[Tensor, "1 1 k j i"]:
        """Clipped to the table's range and scaled to -1 to 3: of a CT -1 is air, 0 water, 1 bone. On our device."""
        values = volume.values.to(device_of(self)).float().clamp(self.low, self.high)
        return (values[None, None] - self.low) * (4 / (self.high - self.low)) - 1

    def priors(self, numbers: Float[Tensor, "1 1 k j i"]) -> Float[Tensor, "4 k j i"]:
        """Logits of the transfer function's colours and b of its extinction."""
        at = (numbers[0, 0] + 1) * ((ENTRIES - 1) / 4)
        low = at.floor().clamp(0, ENTRIES - 2)
        table, index = self.table, low.long()
        below = table[:, index]
        return below + (at - low) * (table[:, index + 1] - below)

    def around(self, residuals: Float[Tensor, "4 k j i"], numbers: Float[Tensor, "1 1 k j i"]) -> Tensor:
        """Four channels of a network added to the prior's, or to a grey that everything shows through; (4, k, j, i)."""
        if self.prior:
            return residuals + self.priors(numbers)
        return residuals + residuals.new_tensor([0.0, 0.0, 0.0, SCRATCH_BIAS]).reshape(4, 1, 1, 1)

    def coarse_priors(self, priors: Float[Tensor, "4 k j i"], factor: int) -> Float[Tensor, "4 n m l"]:
        """Of blocks of voxels: what the mean of their extinction is b of. Logits are meant too."""
        both = torch.cat([priors[:-1], F.softplus(priors[-1:])])[None]
        sizes = [min(factor, n) for n in both.shape[2:]]
        mean = F.avg_pool3d(both, sizes, factor, ceil_mode=True, count_include_pad=False)[0]
        return torch.cat([mean[:-1], bias_of(mean[-1:])])


class FourColours(nn.Module):
    """The colour slot of an encoder that ends with logits of red, green and blue, and b: the first three."""

    def forward(self, grids: tuple[Grid, ...]) -> tuple[Tensor, ...]:
        return tuple(colours_of(grid.values[:-1]) for grid in grids)


class FourExtinction(nn.Module):
    """The opacity slot of an encoder that ends with logits of red, green and blue, and b: the last one."""

    def forward(self, grids: tuple[Grid, ...]) -> tuple[Tensor, ...]:
        return tuple(F.softplus(grid.values[-1:]) for grid in grids)


class Colours(nn.Module):
    """The colour slot: red, green and blue of a head, beside the prior's."""

    def __init__(self, head: nn.Module, prior: bool):
        super().__init__()
        self.head, self.prior = head, prior

    def forward(self, grids: tuple[Grid, ...]) -> tuple[Tensor, ...]:
        return tuple(self._of(grid.values) for grid in grids)

    def _of(self, values: Shaped[Tensor, "channel k j i"]) -> Float[Tensor, "3 k j i"]:
        if not self.prior:
            return colours_of(self.head(values))
        return colours_of(values[-PRIOR:-1] + self.head(values[:-PRIOR]))


class Features(nn.Module):
    """The colour slot of renderers that draw in the image: features as they are, and at the finest scale the prior's
    red, green and blue."""

    def __init__(self, prior: bool):
        super().__init__()
        self.prior = prior

    def forward(self, grids: tuple[Grid, ...]) -> tuple[Tensor, ...]:
        if not self.prior:
            return tuple(grid.values for grid in grids)
        finest = grids[0].values
        colours = torch.cat([finest[:-PRIOR], colours_of(finest[-PRIOR:-1])])
        return (colours, *(grid.values[:-PRIOR] for grid in grids[1:]))


class Extinction(nn.Module):
    """The opacity slot: a head for every scale."""

    def __init__(self, heads: list[nn.Module], prior: bool):
        super().__init__()
        self.heads, self.prior = nn.ModuleList(heads), prior

    def forward(self, grids: tuple[Grid, ...]) -> tuple[Tensor, ...]:
        return tuple(self._of(grid.values, head) for grid, head in zip(grids, self.heads, strict=True))

    def _of(self, values: Shaped[Tensor, "channel k j i"], head: nn.Module) -> Float[Tensor, "1 k j i"]:
        if not self.prior:
            return F.softplus(head(values) + SCRATCH_BIAS)
        return F.softplus(values[-1:] + head(values[:-PRIOR]))


def with_prior(features: Tensor, priors: Tensor | None) -> Tensor:
    """The values of a grid. Both (n, k, j, i)."""
    return features if priors is None else torch.cat([features, priors.to(features.dtype)])
