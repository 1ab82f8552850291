"""From a CT to what a learned radiograph is made of: a field of matter and one of opacity.

Matter is how bright a place is, as a share of water (1); opacity [1/mm] is how much it hides of what lies behind it.
Untrained, matter follows from the HU and opacity is the same everywhere: the picture is the paper's DRR. A mapper adds
to both, within a band 100 times narrower for opacity than for matter.

Source: Pham & Tran, Neural Radiance Projection (2022): the mapper is a V-Net, from one normalised channel to the two.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diffrender.errors import BackendError, SettingError, UnitError
from diffrender.physics.attenuation import HU_AIR
from diffrender.rays.field import Field
from diffrender.volume import Volume

MAPPERS = ("unet", "vnet")
MATTER_BAND = 1.0  # [water] that the mapper adds or takes at most
OPACITY_BAND = MATTER_BAND / 100  # [1/mm]: opacity stays between 0 and this
DENSEST = 2000.0  # [HU]; metal and its streaks say no more than that they are dense
NODES = (-1000.0, -750.0, 0.0, 1000.0)  # [HU] of air, lung, soft tissue and dense bone
VNET_MULTIPLE = 16  # that MONAI's V-Net can halve four times
GROUP = 4  # channels of a GroupNorm's group


@dataclass(frozen=True)
class GeneratorSettings:
    """What a generator of learned radiographs is made of.

    Attributes:
        mapper: "unet", a small 3D U-Net, or "vnet", MONAI's V-Net as in the paper.
        lattice: voxels along each edge of the box that the mapper sees.
        detail: voxels along each edge of the two fields; finer than `lattice` where HU should keep edges sharp.
        channels: of the U-Net's levels, the finest first.
        tissues: whether the mapper says of every place what lung, soft tissue and bone would become there (air stays
            as it is), so that what it learns coarsely has the CT's edges; False: one number a field, as in the paper.
        opacity: of the untrained generator, and of the DRR [1/mm].
        points: samples along the longest ray that there can be, the box's diagonal.
    Raises: SettingError.
    """

    mapper: str = "unet"
    lattice: int = 32
    detail: int = 96
    channels: tuple[int, ...] = (12, 24, 48)
    tissues: bool = True
    opacity: float = 0.001
    points: int = 128

    def __post_init__(self):
        if self.mapper not in MAPPERS:
            raise SettingError(f"mapper is one of {', '.join(MAPPERS)}, not {self.mapper!r}.")
        object.__setattr__(self, "channels", tuple(self.channels))
        for name in ("lattice", "detail", "points"):
            if getattr(self, name) < 2 or getattr(self, name) != int(getattr(self, name)):
                raise SettingError(f"{name} is a whole number from 2 on, not {getattr(self, name)}.")
        if not self.channels or min(self.channels) < 2 or any(n % 2 for n in self.channels):
            raise SettingError(f"channels are even numbers, one for each level of the U-Net, not {self.channels}.")
        multiple = VNET_MULTIPLE if self.mapper == "vnet" else 2 ** (len(self.channels) - 1)
        if self.lattice % multiple or self.lattice < 2 * multiple:
            raise SettingError(f"lattice is a multiple of {multiple} from {2 * multiple} on here, not {self.lattice}.")
        if not 0 < self.opacity < OPACITY_BAND:
            raise SettingError(f"opacity lies between 0 and {OPACITY_BAND} 1/mm, not at {self.opacity}.")


@dataclass(frozen=True, eq=False)
class Given:
    """A CT as a generator takes it.

    Attributes:
        numbers: what the mapper sees, HU / 1000.
        matter: of the untrained generator [water].
        tissues: how much of every voxel is lung, soft tissue and bone; or ones, where settings say so.
        world_from_voxel: (4, 4), of the fields; RAS [mm].
        diagonal: of the box [mm].
    """

    numbers: Float[Tensor, "1 1 n n n"]
    matter: Float[Tensor, "d d d"]
    tissues: Float[Tensor, "tissue d d d"]
    world_from_voxel: Float[Tensor, "4 4"]
    diagonal: float

    def to(self, device: torch.device) -> "Given":
        """The same on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("numbers", "matter", "tissues")}
        return dataclasses.replace(self, **moved)


def given(volume: Volume, settings: GeneratorSettings) -> Given:
    """Make a CT ready: its box in cubes of voxels, each the mean of what lies in it.

    Raises: UnitError where the values are not HU.
    """
    if volume.unit != "HU":
        raise UnitError(
            f"{volume.source or 'This volume'} holds values in unit {volume.unit!r}, not Hounsfield units, so how much "
            "matter there is in a voxel is unknown. Give a CT."
        )
    hu = volume.values.detach().float().clamp(HU_AIR, DENSEST)
    fine = _resized(hu, settings.detail)
    factors = torch.tensor([n / settings.detail for n in reversed(volume.shape)], dtype=torch.float64)
    cell = torch.eye(4, dtype=torch.float64)
    cell[:3, :3], cell[:3, 3] = torch.diag(factors), (factors - 1) / 2
    return Given(
        numbers=(_resized(hu, settings.lattice) / 1000.0)[None, None],
        matter=fine / 1000.0 + 1.0,
        tissues=_tissues(fine) if settings.tissues else torch.ones_like(fine)[None],
        world_from_voxel=volume.world_from_voxel @ cell,
        diagonal=float((volume.corners[0] - volume.corners[-1]).norm()),
    )


class FieldMapper(nn.Module):
    """The mapper: from a CT to its two fields. Untrained it changes nothing."""

    def __init__(self, settings: GeneratorSettings):
        super().__init__()
        self.settings = settings
        self.kinds = len(NODES) - 1 if settings.tissues else 1
        out = 2 * self.kinds
        self.network = _vnet(out) if settings.mapper == "vnet" else SmallUNet3d(settings.channels, out)

    def forward(self, ct: Given) -> Field:
        """Values are (2, d, d, d): matter [water], at least 0, and opacity [1/mm]."""
        said = self.network(ct.numbers)
        if self.settings.detail != self.settings.lattice:
            sizes = [self.settings.detail] * 3
            said = F.interpolate(said, sizes, mode="trilinear", align_corners=False)
        said = said[0].unflatten(0, (2, self.kinds))
        matter, opacity = ((part * ct.tissues).sum(0) for part in said)
        return _field(
            (ct.matter + MATTER_BAND * torch.tanh(matter)).clamp(min=0.0),
            OPACITY_BAND * torch.sigmoid(opacity + _logit(self.settings.opacity / OPACITY_BAND)),
            ct,
        )


def fixed_fields(ct: Given, settings: GeneratorSettings) -> Field:
    """The fields of the paper's DRR: matter from the HU, opacity the same everywhere."""
    return _field(ct.matter, torch.full_like(ct.matter, settings.opacity), ct)


class SmallUNet3d(nn.Module):
    """A U-Net for a CPU: one channel in, `out` channels that start at 0.

    Source: Çiçek et al. (2016), doi:10.1007/978-3-319-46723-8_49, with GroupNorm and fewer channels.
    """

    def __init__(self, channels: Sequence[int], out: int):
        super().__init__()
        pairs = list(itertools.pairwise(channels))
        self.first = _block(1, channels[0])
        self.downs = nn.ModuleList(nn.Sequential(nn.Conv3d(a, b, 2, 2), _block(b, b)) for a, b in pairs)
        self.ups = nn.ModuleList(nn.Conv3d(b, a, 1) for a, b in reversed(pairs))
        self.joins = nn.ModuleList(_block(2 * a, a) for a, _ in reversed(pairs))
        self.last = _silent(nn.Conv3d(channels[0], out, 1))

    def forward(self, x: Float[Tensor, "1 1 n n n"]) -> Float[Tensor, "1 out n n n"]:
        kept = [self.first(x)]
        for down in self.downs:
            kept.append(down(kept[-1]))
        x = kept.pop()
        for up, join in zip(self.ups, self.joins, strict=True):
            # interpolated: a transposed convolution leaves a chequered pattern, which a picture shows as stripes
            finer = F.interpolate(up(x), scale_factor=2.0, mode="trilinear", align_corners=False)
            x = join(torch.cat([finer, kept.pop()], 1))
        return self.last(x)


def _field(matter: Tensor, opacity: Tensor, ct: Given) -> Field:
    return Field(torch.stack([matter, opacity]), ct.world_from_voxel)


def _resized(hu: Float[Tensor, "k j i"], n: int) -> Float[Tensor, "n n n"]:
    """n voxels along each edge of the same box: means where they are fewer, interpolated where they are more."""
    k, j, i = (min(n, size) for size in hu.shape)
    coarse = F.adaptive_avg_pool3d(hu[None, None], (k, j, i))
    return F.interpolate(coarse, [n] * 3, mode="trilinear", align_corners=False)[0, 0]


def _tissues(hu: Float[Tensor, "d d d"]) -> Float[Tensor, "3 d d d"]:
    """How much is lung, soft tissue and bone: 1 at its node, 0 at its neighbours'; the rest is air."""
    between = [((hu - low) / (high - low)).clamp(0.0, 1.0) for low, high in itertools.pairwise(NODES)]
    return torch.stack([between[0] - between[1], between[1] - between[2], between[2]])


def _vnet(out: int) -> nn.Module:
    try:
        from monai.networks.nets.vnet import VNet
    except ImportError:
        raise BackendError(
            "The mapper vnet is MONAI's, which is not installed here. Install it (pip install 'diffrender[learn]'), or "
            'take the mapper "unet".'
        ) from None
    made = VNet(in_channels=1, out_channels=out)
    _silent(made.out_tr.conv2)  # pyright: ignore[reportArgumentType]
    return made


def _silent(layer: nn.Conv3d) -> nn.Conv3d:
    """Set to 0: what it will say is all learned."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _block(channels: int, out: int) -> nn.Sequential:
    layers = []
    for source in (channels, out):
        groups = max(n for n in range(1, out // 2 + 1) if out % n == 0 and n <= max(1, out // GROUP))
        layers += [nn.Conv3d(source, out, 3, padding=1, bias=False), nn.GroupNorm(groups, out), nn.ELU()]
    return nn.Sequential(*layers)


def _logit(share: float) -> float:
    return math.log(share / (1.0 - share))
