"""DVRNet, and its outlook vnet-unet: features of every scale of a VNet, composited, and a 2D U-Net that draws.

Source: Weiss & Navab, section 3.3, fig. 5.
"""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diffrender.camera import Camera
from diffrender.dvr.heads import Intake, with_prior
from diffrender.dvr.layers import coarser, cropped, fitted
from diffrender.dvr.renderer import Grid, RendererSettings, accumulator
from diffrender.dvr.vnet import Contracting, Expanding
from diffrender.rays.field import Field, MarchSettings
from diffrender.volume import Volume


class ScalesEncoder(nn.Module):
    """The encoder slot: VNet's features of all scales, each on the lattice of its own voxels.

    A coarser grid has its outermost voxels once more on every side: rays end at the outermost voxel centres, and the
    middle of a block of 16 voxels lies 7.5 voxels within the volume.

    Args:
        whole: of VNet's way back up (vnet-unet), or of its way down alone (dvrnet).
    Attributes:
        channels: of each scale, the finest first, without the prior's.
        checkpointing: whether inner results are computed again on the way back, to save memory.
    """

    def __init__(self, settings: RendererSettings, whole: bool):
        super().__init__()
        self.intake = Intake(settings)
        self.down = Contracting(settings)
        self.up = Expanding(self.down.channels, settings) if whole else None
        up = () if self.up is None else self.up.channels
        self.channels = (*reversed(up), self.down.channels[-1]) if whole else self.down.channels

    @property
    def checkpointing(self) -> bool:
        return self.down.checkpointing

    @checkpointing.setter
    def checkpointing(self, wanted: bool) -> None:
        self.down.checkpointing = wanted
        if self.up is not None:
            self.up.checkpointing = wanted

    def forward(self, volume: Volume) -> tuple[Grid, ...]:
        numbers = self.intake.numbers(volume)
        found = self.down(fitted(numbers, [2 ** (len(self.channels) - 1)] * 3))
        if self.up is not None:
            found = [*reversed(self.up(found)), found[-1]]
        priors = self.intake.priors(numbers) if self.intake.prior else None
        return tuple(self._grid(volume, priors, x, 2**scale) for scale, x in enumerate(found))

    def _grid(
        self, volume: Volume, priors: Float[Tensor, "4 k j i"] | None, x: Float[Tensor, "1 c n m l"], factor: int
    ) -> Grid:
        features = cropped(x, [math.ceil(n / factor) for n in volume.shape])[0]
        if factor == 1:
            return Grid(with_prior(features, priors), volume.world_from_voxel)
        values = with_prior(features, None if priors is None else self.intake.coarse_priors(priors, factor))
        wider = F.pad(values[None], [1] * 6, mode="replicate")[0]
        return Grid(wider, coarser(volume.world_from_voxel, [factor] * 3, -1))


class PerScale(nn.Module):
    """The accumulate slot of several scales: each scale's image has pixels twice as large as that of the finer one.

    The finest image is the camera's. The others are of the same view on an image that goes on to the right and below to
    a multiple of the largest pixel, so that pixels of all scales lie within each other.
    """

    def __init__(self, settings: RendererSettings, channels: tuple[int, ...]):
        super().__init__()
        self.parts = nn.ModuleList(accumulator(settings, n) for n in channels)

    def forward(
        self, fields: tuple[Field, ...], camera: Camera, settings: MarchSettings, jitter: torch.Generator | None
    ) -> tuple[Tensor, ...]:
        cameras = scaled(camera, len(fields))
        return tuple(
            part((field,), one, settings, jitter)[0]
            for part, field, one in zip(self.parts, fields, cameras, strict=True)
        )


def scaled(camera: Camera, scales: int) -> list[Camera]:
    """The camera of each scale's image, the finest first."""
    largest = 2 ** (scales - 1)
    height, width = (largest * math.ceil(n / largest) for n in camera.image_size)
    # a replaced size leaves pixels and principal point where they were
    whole = replace(camera, image_size=(height, width))
    return [camera, *(whole.resized((height // 2**n, width // 2**n)) for n in range(1, scales))]
