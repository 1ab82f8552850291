"""Changes of a volume that leave the picture as it is, or nearly: turned with the camera, brighter, noisier."""

import dataclasses
import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffrender.camera import Camera
from diffrender.dvr.settings import Augmentation
from diffrender.dvr.targets import Target
from diffrender.pose import motion
from diffrender.volume import Volume

AIR = -1024.0  # HU, of what a turned lattice holds beyond the volume
NEARLY = 1e-6  # voxels that rounding may add
PATCH_STEP = 8  # px: a patch begins at multiples, so that rendernet's cells stay where they are in the whole view
SMALLEST_PATCH, LARGEST_PATCH = 1 / 8, 1 / 2  # of an image's sides; RenderNet's training


def augmented(
    volume: Volume, settings: Augmentation, generator: torch.Generator
) -> tuple[Volume, Float[Tensor, "4 4"]]:
    """The volume turned, with shifted and noisy HU, float32 and without labels; and how it was turned [mm, RAS].

    A camera that is turned likewise, `moved_camera`, sees what the camera before saw.
    """
    changed, turn = (
        dataclasses.replace(volume, values=volume.values.float(), labels=None, names=None),
        torch.eye(4).double(),
    )
    if settings.rotation:
        rotation = _rotation(settings.rotation, generator)
        turn = motion(torch.cat([torch.zeros(3, dtype=torch.float64), rotation]), volume.centre)
        changed = turned(changed, turn)
    shift = settings.shift * torch.randn((), generator=generator)
    noise = torch.randn(changed.shape, generator=generator) * settings.noise if settings.noise else torch.zeros(())
    return dataclasses.replace(changed, values=changed.values + (shift + noise).to(changed.values)), turn


def moved_camera(camera: Camera, motion: Float[Tensor, "4 4"]) -> Camera:
    """A camera that goes along with a rigid motion [mm, RAS]."""
    return dataclasses.replace(camera, world_from_camera=motion @ camera.world_from_camera)


def turned(volume: Volume, turn: Float[Tensor, "4 4"]) -> Volume:
    """The patient moved rigidly, on a lattice with the same axes and steps as before that holds all of the volume.

    Linear between voxels; beyond the volume lies air, or the volume's least number where that is no HU.
    """
    world = volume.world_from_voxel
    source_from_turned = torch.linalg.inv(world) @ torch.linalg.inv(turn) @ world
    sizes = volume.shape[::-1]
    ends = torch.cartesian_prod(*[torch.tensor([0.0, n - 1.0], dtype=torch.float64) for n in sizes])
    corners = _mapped(torch.linalg.inv(source_from_turned), ends)
    low, high = (corners.amin(0) + NEARLY).floor(), (corners.amax(0) - NEARLY).ceil()
    axes = [
        torch.arange(first, last + 1, dtype=torch.float64)
        for first, last in zip(low.tolist(), high.tolist(), strict=True)
    ]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).permute(2, 1, 0, 3)
    at = _mapped(source_from_turned, places)
    size = torch.tensor(sizes, dtype=torch.float64)
    grid = (2 * at + 1) / size - 1
    values = volume.values.float()
    beyond = AIR if volume.unit == "HU" else float(values.min())
    lattice = (values - beyond)[None, None]
    sampled = F.grid_sample(lattice, grid[None].to(values), padding_mode="border", align_corners=False)[0, 0]
    outside = ((at < -0.5) | (at > size - 0.5)).any(-1).to(values.device)
    origin = torch.eye(4, dtype=torch.float64)
    origin[:3, 3] = low
    filled = torch.where(outside, 0.0, sampled) + beyond
    return dataclasses.replace(volume, values=filled, world_from_voxel=world @ origin, labels=None, names=None)


def patch_share(share: float) -> float:
    """Of an image's sides, when a share of the budget is used up. Source: Nguyen-Phuoc et al. 2018, RenderNet."""
    return SMALLEST_PATCH + (LARGEST_PATCH - SMALLEST_PATCH) * share


def patch_of(target: Target, share: float, generator: torch.Generator) -> Target:
    """A part of a target somewhere within it, with sides of about `share` of its own; its camera sees just that."""
    height, width = target.camera.image_size
    h, w = (min(n, PATCH_STEP * max(1, round(n * share / PATCH_STEP))) for n in (height, width))
    row, column = (
        PATCH_STEP * int(torch.randint((n - part) // PATCH_STEP + 1, (), generator=generator))
        for n, part in ((height, h), (width, w))
    )
    rows, columns = slice(row, row + h), slice(column, column + w)
    return Target(
        cropped(target.camera, row, column, (h, w)),
        target.image[:, rows, columns],
        target.weight[rows, columns],
        target.alpha_weight[rows, columns],
    )


def cropped(camera: Camera, row: int, column: int, image_size: tuple[int, int]) -> Camera:
    """The camera whose image is a part of another's, beginning at a row and a column [px]."""
    above, left = camera.principal_point
    return dataclasses.replace(camera, image_size=image_size, principal_point=(above - row, left - column))


def _rotation(most: float, generator: torch.Generator) -> Float[Tensor, "3"]:
    """An axis anywhere, an angle up to `most` [degrees]; r [rad]."""
    axis = torch.randn(3, generator=generator, dtype=torch.float64)
    angle = math.radians(most) * float(torch.rand((), generator=generator))
    return axis / axis.norm() * angle


def _mapped(matrix: Float[Tensor, "4 4"], points: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
    return points @ matrix[:3, :3].T + matrix[:3, 3]
