"""The encoder of unet-s: a small 3D U-Net on a coarse lattice, and a head that reads the HU at every voxel.

Which organ a voxel belongs to changes slowly and is told at some millimetres; where its edge runs is told by its HU.
So the costly part sees a volume averaged to `WORKING` voxels or fewer, whatever its size, and a small network of points
joins its interpolated features with the HU of the full lattice.
"""

import itertools

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diffrender.dvr.heads import Intake
from diffrender.dvr.layers import Points, again, cropped, fitted, norm, wide
from diffrender.dvr.renderer import Grid, RendererSettings
from diffrender.volume import Volume

CHANNELS = (16, 32, 64, 128)
DEEPEST = 2 ** (len(CHANNELS) - 1)
WORKING = 250_000  # voxels of the lattice that the U-Net sees, about
AT_ONCE = 4_000_000  # voxels that the head keeps for the way back; beyond, it computes them again
FEW = 8  # features that are brought to the full lattice, where each costs most
HIDDEN = 16  # units of the head, whatever the width
HU_CHANNELS = 2
POSITION = 200.0  # [mm] from the middle of the volume to position 1
SOFT = 0.2  # half of the soft-tissue window, in the intake's units (200 HU of a CT)


class SmallUNet(nn.Module):
    """The encoder slot: four numbers a voxel, three of colours and one of extinction, around the prior's.

    Attributes:
        checkpointing: whether inner results are computed again on the way back, to save memory.
    """

    def __init__(self, settings: RendererSettings):
        super().__init__()
        self.intake = Intake(settings)
        self.checkpointing = False
        sizes = [wide(n, settings) for n in CHANNELS]
        self.first = _block(HU_CHANNELS + 3, sizes[0], settings)
        pairs = list(itertools.pairwise(sizes))
        self.downs = nn.ModuleList(
            nn.Sequential(nn.Conv3d(a, b, 2, 2, bias=False), norm(b, settings), nn.ELU(), _block(b, b, settings))
            for a, b in pairs
        )
        self.ups = nn.ModuleList(nn.ConvTranspose3d(b, a, 2, 2) for a, b in reversed(pairs))
        self.joins = nn.ModuleList(_block(2 * a, a, settings) for a, _ in reversed(pairs))
        self.few = nn.Conv3d(sizes[0], FEW, 1)
        self.head = Points(FEW + HU_CHANNELS, HIDDEN, 4, zero=self.intake.prior)

    def forward(self, volume: Volume) -> tuple[Grid, ...]:
        numbers = self.intake.numbers(volume)
        hu = torch.cat([numbers, torch.tanh(numbers / SOFT)], 1)
        factors = working_factors(volume.shape, volume.spacing)
        coarse = F.avg_pool3d(fitted(hu, [DEEPEST * f for f in factors]), factors)
        places = _places(volume, coarse.shape[2:], factors).to(coarse)
        features = self._unet(torch.cat([coarse, places], 1))
        residuals = again(
            self.checkpointing or numbers.numel() > AT_ONCE, lambda x: self._residuals(x, hu, factors), features
        )
        return (Grid(self.intake.around(residuals, numbers), volume.world_from_voxel),)

    def _unet(self, x: Float[Tensor, "1 c k j i"]) -> Float[Tensor, "1 d k j i"]:
        kept = [again(self.checkpointing, self.first, x)]
        for down in self.downs:
            kept.append(again(self.checkpointing, down, kept[-1]))
        x = kept.pop()
        for up, join in zip(self.ups, self.joins, strict=True):
            x = again(self.checkpointing, join, torch.cat([up(x), kept.pop()], 1))
        return self.few(x)

    def _residuals(
        self, features: Float[Tensor, "1 c n m l"], hu: Float[Tensor, "1 d k j i"], factors: tuple[int, int, int]
    ) -> Float[Tensor, "4 k j i"]:
        # working voxels are means of whole blocks of voxels; align_corners=False puts them in the blocks' middles
        if max(factors) > 1:
            sizes = [n * f for n, f in zip(features.shape[2:], factors, strict=True)]
            features = F.interpolate(features, sizes, mode="trilinear", align_corners=False)
        return self.head(torch.cat([cropped(features, hu.shape[2:]), hu], 1)[0])


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
        layers += [nn.Conv3d(source, out, 3, padding=1, bias=bias), norm(out, settings), nn.ELU()]
    return nn.Sequential(*layers)
