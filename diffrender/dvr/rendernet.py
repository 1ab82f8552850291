"""RenderNet: the volume resampled into the camera's frame, and a network that learns projection and shading itself.

The grid of its frame goes with the rays: cells 4 px wide in the image, planes at even depths through the sphere around
the volume. The authors turn the object rigidly and leave perspective to the network.

Source: Nguyen-Phuoc et al., RenderNet (2018); Weiss & Navab, section 4.2.
"""

import itertools
import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diffrender.camera import Camera
from diffrender.dvr.heads import Intake, with_prior
from diffrender.dvr.layers import CONV, again, coarser, norm, silence, wide
from diffrender.dvr.renderer import Grid, RendererSettings, accumulator
from diffrender.dvr.tables import SCRATCH_EXTINCTION, colours_of, logits_of
from diffrender.errors import GeometryError
from diffrender.rays.field import Field, MarchSettings
from diffrender.volume import Volume

CELL = 4  # px of the image that a cell of the view's grid is wide
SHRUNK = 8  # px of the image that a pixel of the features is wide
DEPTHS = 128  # planes of the view's grid
FOLDED = 32  # planes that are left where depth becomes channels
SOLIDS = (8, 16, 32)  # channels of the 3D convolutions
FLAT = (1024, 512)  # channels of the two groups of 2D blocks
BLOCKS = (10, 10, 5)  # residual blocks: 3D, and of the two groups in 2D
PICTURE = 3
BEHIND = 1e7  # [mm] where cells behind the eye are put: outside of all volumes


class Numbers(nn.Module):
    """The encoder slot: the volume's normalised numbers, as they are, and the prior."""

    def __init__(self, settings: RendererSettings):
        super().__init__()
        self.intake = Intake(settings)

    def forward(self, volume: Volume) -> tuple[Grid, ...]:
        numbers = self.intake.numbers(volume)
        priors = self.intake.priors(numbers) if self.intake.prior else None
        return (Grid(with_prior(numbers[0], priors), volume.world_from_voxel),)


class NumbersAndColours(nn.Module):
    """The colour slot: the numbers and, with a prior, its red, green and blue."""

    def forward(self, grids: tuple[Grid, ...]) -> tuple[Tensor, ...]:
        values = grids[0].values
        return (torch.cat([values[:1], colours_of(values[1:-1])]) if len(values) > 1 else values,)


class PriorExtinction(nn.Module):
    """The opacity slot: the prior's; without one nobody asks for it."""

    def forward(self, grids: tuple[Grid, ...]) -> tuple[Tensor, ...]:
        values = grids[0].values
        return (F.softplus(values[-1:]) if len(values) > 1 else torch.full_like(values, SCRATCH_EXTINCTION),)


class Projection(nn.Module):
    """The accumulate slot: 3D convolutions in the view's grid, and the projection unit that folds depth into channels.

    Gives the canvas (4, h, w), the transfer function's own march, or (0, h, w) without a prior; and features
    (channel, h / 8, w / 8), sizes rounded up.

    Attributes:
        checkpointing: whether inner results are computed again on the way back, to save memory.
    """

    def __init__(self, settings: RendererSettings):
        super().__init__()
        self.checkpointing = False
        self.prior = settings.start == "transfer"
        self.marched = accumulator(settings, PICTURE) if self.prior else None
        a, b, c = (wide(n, settings) for n in SOLIDS)
        self.solid = nn.Sequential(
            *_conv3d(1, a, 5, 2, settings), *_conv3d(a, b, 3, (2, 1, 1), settings), *_conv3d(b, c, 3, 1, settings)
        )
        self.blocks = nn.ModuleList(Block(c, 3, settings) for _ in range(BLOCKS[0]))
        out = wide(FLAT[0], settings)
        self.fold = nn.Sequential(nn.Conv2d(FOLDED * c, out, 1), nn.PReLU(out))

    def forward(
        self, fields: tuple[Field, ...], camera: Camera, settings: MarchSettings, jitter: torch.Generator | None
    ) -> tuple[Tensor, ...]:
        (field,) = fields
        values = field.values
        canvas = values.new_zeros((0, *camera.image_size))
        if self.marched is not None:
            (canvas,) = self.marched((Field(values[1:], field.world_from_voxel),), camera, settings, jitter)
        x = again(self.checkpointing, self.solid, in_view(values[:1], field.world_from_voxel, camera)[None])
        for block in self.blocks:
            x = again(self.checkpointing, block, x)
        return canvas, self.fold(x.flatten(1, 2))[0]


class Shading(nn.Module):
    """The decoder slot: 2D residual blocks, up to the image's size; three colours and alpha beside the canvas'."""

    def __init__(self, settings: RendererSettings):
        super().__init__()
        self.checkpointing = False
        self.prior = settings.start == "transfer"
        a, b = (wide(n, settings) for n in FLAT)
        ups = [b // 2**n for n in range(4)]
        self.stages = nn.ModuleList(
            [
                *(Block(a, 2, settings) for _ in range(BLOCKS[1])),
                # of an even kernel: one pixel more before than behind
                nn.Sequential(
                    nn.ZeroPad2d((1, 2, 1, 2)),
                    nn.Conv2d(a, b, 4, bias=settings.norm == "none"),
                    norm(b, settings, 2),
                    nn.PReLU(b),
                ),
                *(Block(b, 2, settings) for _ in range(BLOCKS[2])),
                *(_enlarging(m, n, settings) for m, n in itertools.pairwise(ups)),
            ]
        )
        self.last = nn.Conv2d(ups[-1], PICTURE + 1, 3, padding=1)
        if self.prior:
            silence(self.last)

    def forward(self, images: tuple[Tensor, ...]) -> Float[Tensor, "4 h w"]:
        canvas, x = images[0], images[1][None]
        for stage in self.stages:
            x = again(self.checkpointing, stage, x)
        height, width = canvas.shape[1:]
        logits = self.last(x)[0, :, :height, :width]
        if self.prior:
            own = canvas[:PICTURE] / canvas[PICTURE:].clamp(min=1e-6)
            logits = logits + logits_of(torch.cat([own, canvas[PICTURE:]]))
        rgba = colours_of(logits).clamp(0, 1)
        return torch.cat([rgba[:PICTURE] * rgba[PICTURE:], rgba[PICTURE:]])


class Block(nn.Module):
    """Two convolutions and what went in."""

    def __init__(self, channels: int, dims: int, settings: RendererSettings):
        super().__init__()
        bias = settings.norm == "none"
        self.first, self.second = (CONV[dims](channels, channels, 3, padding=1, bias=bias) for _ in range(2))
        self.norms = nn.ModuleList(norm(channels, settings, dims) for _ in range(2))
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norms[1](self.second(self.act(self.norms[0](self.first(x)))))


def in_view(
    numbers: Float[Tensor, "channel k j i"], world_from_voxel: Float[Tensor, "4 4"], camera: Camera
) -> Float[Tensor, "channel depth n m"]:
    """Numbers resampled along the rays of the image's cells; beyond the volume, and behind the eye, there is air (-1).

    Where cells are larger than voxels the means of blocks of voxels are sampled. Depths are those of the sphere around
    the volume, whatever part of it the image shows, so that a crop of the view is a crop of this grid.
    """
    points, step = _cells(world_from_voxel, numbers.shape[1:], camera)
    spacing = world_from_voxel[:3, :3].norm(dim=0).flip(0).tolist()
    factors = [max(1, min(n, int(step / edge))) for n, edge in zip(numbers.shape[1:], spacing, strict=True)]
    above_air = F.avg_pool3d((numbers + 1)[None], factors, ceil_mode=True, count_include_pad=False)
    voxel_from_world = torch.linalg.inv(coarser(world_from_voxel, factors))
    at = points @ voxel_from_world[:3, :3].T + voxel_from_world[:3, 3]
    sizes = torch.tensor(above_air.shape[:1:-1], dtype=torch.float64)
    grid = ((2 * at + 1) / sizes - 1).to(numbers)[None]
    return F.grid_sample(above_air, grid, align_corners=False, padding_mode="zeros")[0] - 1


def cropped_camera(camera: Camera, top: int, left: int, height: int, width: int) -> Camera:
    """The camera of a part of the image, for training on patches: depth is whole, and the part's rays are the same.

    Args:
        top, left: first row and column [px], multiples of `SHRUNK`, so that cells stay where they were.
    Raises: GeometryError.
    """
    rows, columns = camera.image_size
    if top % SHRUNK or left % SHRUNK or not (0 <= top < top + height <= rows and 0 <= left < left + width <= columns):
        raise GeometryError(
            f"A crop of {height} x {width} px at {top}, {left} of an image of {rows} x {columns}: it begins at "
            f"multiples of {SHRUNK} px and lies within the image."
        )
    row, column = camera.principal_point
    return replace(camera, image_size=(height, width), principal_point=(row - top, column - left))


def _cells(
    world_from_voxel: Float[Tensor, "4 4"], shape: torch.Size, camera: Camera
) -> tuple[Float[Tensor, "depth n m 3"], float]:
    """Where the cells lie, RAS [mm], and about how far apart, across the rays at the middle of the volume [mm]."""
    ends = torch.tensor([n - 1 for n in reversed(shape)], dtype=torch.float64)
    turn, shift = world_from_voxel[:3, :3], world_from_voxel[:3, 3]
    centre, radius = turn @ (ends / 2) + shift, float((turn * (ends + 1)).norm()) / 2
    middle = float((centre - camera.source) @ camera.direction)
    depths = middle + radius * ((torch.arange(DEPTHS, dtype=torch.float64) + 0.5) * 2 / DEPTHS - 1)
    height, width = camera.image_size
    # at least two columns of features: a norm over a single number is none
    counts = (math.ceil(height / SHRUNK), max(2, math.ceil(width / SHRUNK)))
    rows, columns = (CELL * (torch.arange(n * SHRUNK // CELL, dtype=torch.float64) + 1) for n in counts)
    # a convolution of stride 2 has its results at cells 0, 2, 4: these lie in the middle of SHRUNK px
    pixels = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)
    source, directions = camera.rays(pixels)
    per_depth = directions / (directions @ camera.direction)[..., None]
    points = source + depths[:, None, None, None] * per_depth
    points[depths <= 0] = BEHIND
    step = CELL * min(camera.pixel_size) * max(middle, 1e-3) / camera.source_to_detector
    return points, step


def _enlarging(channels: int, out: int, settings: RendererSettings) -> nn.Sequential:
    """Twice the size; the second convolution of each brings RenderNet to the 226 M that DeepDVR states."""
    bias = settings.norm == "none"
    return nn.Sequential(
        *(nn.ConvTranspose2d(channels, out, 4, 2, 1, bias=bias), norm(out, settings, 2), nn.PReLU(out)),
        *(nn.Conv2d(out, out, 3, padding=1, bias=bias), norm(out, settings, 2), nn.PReLU(out)),
    )


def _conv3d(channels: int, out: int, kernel: int, stride, settings: RendererSettings) -> list[nn.Module]:
    bias = settings.norm == "none"
    conv = nn.Conv3d(channels, out, kernel, stride, padding=kernel // 2, bias=bias)
    return [conv, norm(out, settings), nn.PReLU(out)]
