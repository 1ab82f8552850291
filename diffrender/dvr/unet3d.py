"""The encoder of unet-s: a small 3D U-Net on a coarse lattice, and a head that reads the HU at every voxel.

The transfer function is looked up at every sample, which keeps surfaces as sharp as the painted views show them. What
is learned is a change of it at each voxel: it starts as what instant previews make of the painting (`Start`), and the
network adds to that. Which organ a voxel belongs to changes slowly and is told at some millimetres; where its edge runs
is told by its HU. So the costly part sees a volume averaged to `WORKING` voxels or fewer, whatever its size, and a
small network of points joins its interpolated features with the HU of those voxels that the transfer function shows.
"""

import itertools
import math
import weakref
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from diffrender.dvr.clusters import VISIBLE
from diffrender.dvr.heads import LEAST, Intake
from diffrender.dvr.layers import Points, again, cropped, fitted, norm, wide
from diffrender.dvr.renderer import Changed, Grid, RendererSettings, device_of
from diffrender.dvr.start import Start
from diffrender.dvr.tables import SCRATCH_EXTINCTION
from diffrender.dvr.view import whole_table
from diffrender.rays.field import Table
from diffrender.volume import Volume

CHANNELS = (16, 32, 64, 128)
DEEPEST = 2 ** (len(CHANNELS) - 1)
WORKING = 60_000  # voxels of the lattice that the U-Net sees, about
AT_ONCE = 4_000_000  # voxels that the head keeps for the way back; beyond, it computes them again
FEW = 8  # features that are brought to the full lattice, where each costs most
HIDDEN = 16  # units of the head, whatever the width
HU_CHANNELS = 2
START_CHANNELS = 4
FAST = 20_480  # numbers of a batch of one, from which torch takes oneDNN for a convolution of 3 x 3 x 3
POSITION = 200.0  # [mm] from the middle of the volume to position 1
SOFT = 0.2  # half of the soft-tissue window, in the intake's units (200 HU of a CT)
SOFTLY = 0.03  # times what the head says: Adam moves each weight by its rate, and the start shall not be lost by that
LOG_BOUND = 12.0  # most that the logarithm of extinction changes: from LEAST to bone


class SmallUNet(nn.Module):
    """The encoder slot: each voxel's number, what is added to its colour, and the factor of its extinction.

    Attributes:
        start: what the change starts from; untrained it is none.
        checkpointing: whether inner results are computed again on the way back, to save memory.
    """

    def __init__(self, settings: RendererSettings):
        super().__init__()
        self.settings = settings
        self.intake = Intake(settings)
        self.start = Start(settings)
        self.checkpointing = False
        self._last: tuple[weakref.ref[Volume], tuple[torch.device, int], _Told] | None = None
        sizes = [wide(n, settings) for n in CHANNELS]
        self.first = _block(HU_CHANNELS + 3 + START_CHANNELS, sizes[0], settings)
        pairs = list(itertools.pairwise(sizes))
        self.downs = nn.ModuleList(
            nn.Sequential(nn.Conv3d(a, b, 2, 2, bias=False), norm(b, settings), nn.ELU(), _block(b, b, settings))
            for a, b in pairs
        )
        self.ups = nn.ModuleList(nn.ConvTranspose3d(b, a, 2, 2) for a, b in reversed(pairs))
        self.joins = nn.ModuleList(_block(2 * a, a, settings) for a, _ in reversed(pairs))
        self.few = nn.Conv3d(sizes[0], FEW, 1)
        self.head = Points(FEW + HU_CHANNELS + START_CHANNELS, HIDDEN, 4, zero=self.intake.prior)

    def forward(self, volume: Volume) -> tuple[Grid, ...]:
        told = self._told(volume)
        features = self._unet(told.coarse)
        residuals = again(
            self.checkpointing or volume.values.numel() > AT_ONCE,
            lambda x: self._residuals(x, told),
            features,
        ).float()
        gain = told.start[3:] * residuals[3:].clamp(-LOG_BOUND, LOG_BOUND).exp()
        values = volume.values.to(gain)[None]
        return (Grid(torch.cat([values, told.start[:3] + residuals[:3], gain]), volume.world_from_voxel),)

    def _told(self, volume: Volume) -> "_Told":
        """What does not change while it learns; that of the last volume is kept, unless it is large."""
        key = (device_of(self), self.start.used._version)
        if self._last is not None and self._last[0]() is volume and self._last[1] == key:
            return self._last[2]
        numbers = self.intake.numbers(volume)
        start = self.start(volume)
        fine = torch.cat([numbers, torch.tanh(numbers / SOFT), start[None]], 1)
        factors = working_factors(volume.shape, volume.spacing)
        coarse = F.avg_pool3d(fitted(fine, [DEEPEST * f for f in factors]), factors)
        places = _places(volume, coarse.shape[2:], factors).to(coarse)
        shown = self._shown(numbers)
        if shown is not None:
            fine = fine.flatten(2)[:, :, shown]
        told = _Told(start, fine, torch.cat([coarse, places], 1), shown, factors)
        self._last = (weakref.ref(volume), key, told) if numbers.numel() <= AT_ONCE else None
        return told

    def _shown(self, numbers: Float[Tensor, "1 1 k j i"]) -> Int64[Tensor, "voxel"] | None:
        """The voxels that the transfer function shows, and those beside them, where rays meet colours too."""
        if not self.intake.prior or numbers.is_meta:
            return None
        seen = F.softplus(self.intake.priors(numbers)[3]) > VISIBLE
        return F.max_pool3d(seen.to(numbers)[None, None], 3, 1, 1).flatten().nonzero()[:, 0]

    def _unet(self, x: Float[Tensor, "1 c k j i"]) -> Float[Tensor, "1 d k j i"]:
        kept = [again(self.checkpointing, self.first, x)]
        for down in self.downs:
            kept.append(again(self.checkpointing, down, kept[-1]))
        x = kept.pop()
        for up, join in zip(self.ups, self.joins, strict=True):
            x = again(self.checkpointing, join, torch.cat([up(x), kept.pop()], 1))
        return self.few(x)

    def _residuals(self, features: Float[Tensor, "1 c n m l"], told: "_Told") -> Float[Tensor, "4 k j i"]:
        shape = told.start.shape[1:]
        # working voxels are means of whole blocks of voxels; align_corners=False puts them in the blocks' middles
        if max(told.factors) > 1:
            sizes = [n * f for n, f in zip(features.shape[2:], told.factors, strict=True)]
            features = F.interpolate(features, sizes, mode="trilinear", align_corners=False)
        features = cropped(features, shape)[0]
        if told.shown is None:
            return SOFTLY * self.head(torch.cat([features, told.fine[0].to(features)]))
        features = features.flatten(1).index_select(1, told.shown)
        found = SOFTLY * self.head(torch.cat([features, told.fine[0].to(features)]))
        return found.new_zeros(4, math.prod(shape)).index_add(1, told.shown, found).reshape(4, *shape)


@dataclass(frozen=True, eq=False)
class _Told:
    """What the networks are told of a volume.

    Attributes:
        start: three offsets and a factor of each voxel.
        fine: HU, the soft-tissue window and the start: of the voxels `shown`, or of all.
        coarse: their means over blocks of `factors` voxels, and where those lie.
        shown: numbers of the voxels whose change is learned; None: of all.
    """

    start: Float[Tensor, "4 k j i"]
    fine: Float[Tensor, "1 c *n"]
    coarse: Float[Tensor, "1 d n m l"]
    shown: Int64[Tensor, "voxel"] | None
    factors: tuple[int, int, int]


class ChangedColours(nn.Module):
    """The colour slot: the transfer function's colours, or grey, and what the encoder adds at each voxel."""

    def __init__(self, settings: RendererSettings):
        super().__init__()
        self.transfer, self.grey = settings.drawn_by, settings.start == "scratch"

    def forward(self, grids: tuple[Grid, ...]) -> tuple[Changed, ...]:
        table = whole_table(self.transfer)
        colours = table.entries[:, :3].to(grids[0].values.device)
        colours = torch.full_like(colours, 0.5) if self.grey else colours
        return (Changed(Table(colours, table.ranges), grids[0].values[1:4]),)


class ChangedExtinction(nn.Module):
    """The opacity slot: the transfer function's extinction, at least LEAST, or a fog, times the encoder's factor."""

    def __init__(self, settings: RendererSettings):
        super().__init__()
        self.transfer, self.fog = settings.drawn_by, settings.start == "scratch"

    def forward(self, grids: tuple[Grid, ...]) -> tuple[Changed, ...]:
        table = whole_table(self.transfer)
        extinction = table.entries[:, 3:].to(grids[0].values.device).clamp(min=LEAST)
        extinction = torch.full_like(extinction, SCRATCH_EXTINCTION) if self.fog else extinction
        return (Changed(Table(extinction, table.ranges), grids[0].values[4:]),)


class _Conv(nn.Conv3d):
    """A convolution of 3 x 3 x 3, on a CPU as one of 3 x 3 over slices and their neighbours where torch is slow.

    Below FAST numbers (channels times the first two axes) torch unfolds the input 27 times: 32 channels of 24 x 16 x 20
    took 43 CPU-ms there and back, so 15.
    """

    def forward(self, input: Float[Tensor, "1 c k j i"]) -> Float[Tensor, "1 d k j i"]:  # noqa: A002, torch's name
        if input.device.type == "cuda" or math.prod(input.shape[:4]) > FAST:
            return super().forward(input)
        slices = F.pad(input[0], (0, 0, 0, 0, 1, 1)).movedim(0, 1)
        beside = torch.cat([slices[:-2], slices[1:-1], slices[2:]], 1)
        flat = self.weight.movedim(2, 1).reshape(self.out_channels, -1, 3, 3)
        return F.conv2d(beside, flat, self.bias, padding=1).movedim(0, 1)[None]


def working_factors(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> tuple[int, int, int]:
    """How many voxels of (k, j, i) make one that the U-Net sees: about as long as wide, `WORKING` in all."""
    k, j, i = (n * step for n, step in zip(shape, spacing, strict=True))
    edge = max((k * j * i / WORKING) ** (1 / 3), min(spacing))
    a, b, c = (max(1, round(edge / step)) for step in spacing)
    return a, b, c


def _places(volume: Volume, sizes: torch.Size, factors: tuple[int, int, int]) -> Float[Tensor, "1 3 n m l"]:
    """Where each working voxel lies from the middle of the volume: right, anterior, superior [POSITION mm]."""
    steps = [torch.arange(n, dtype=torch.float64) * f + (f - 1) / 2 for n, f in zip(sizes, factors, strict=True)]
    k, j, i = torch.meshgrid(*steps, indexing="ij")
    turn, shift = volume.world_from_voxel[:3, :3], volume.world_from_voxel[:3, 3]
    places = torch.stack([i, j, k], -1) @ turn.T + (shift - volume.centre)
    return places.movedim(-1, 0)[None] / POSITION


def _block(channels: int, out: int, settings: RendererSettings) -> nn.Sequential:
    bias = settings.norm == "none"
    layers = []
    for source in (channels, out):
        layers += [_Conv(source, out, 3, padding=1, bias=bias), norm(out, settings), nn.ELU()]
    return nn.Sequential(*layers)
