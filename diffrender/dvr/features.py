"""What is known of a voxel: gradient magnitude and other local features, and where it lies in the patient."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from scipy import ndimage
from torch import Tensor

from diffrender.volume import Volume

NAMES = ("HU", "HU about 3 mm", "HU about 8 mm", "gradient magnitude", "deviation about 3 mm", "R", "A", "S")
FINE, COARSE = 3.0, 8.0  # standard deviations of the two scales [mm]: a vessel's wall, an organ's border
REACH = 2.5  # standard deviations to which a Gaussian reaches: the rest of it is 1 %


def gradient_magnitude(
    values: Shaped[Tensor, "k j i"], world_from_voxel: Float[Tensor, "4 4"]
) -> Float[Tensor, "k j i"]:
    """How steeply numbers change in space [unit/mm], by central differences, one-sided at the lattice's faces.

    The axes of a lattice meet at right angles, so the steps along them add up squared however oblique it lies.
    """
    values = values.float()
    spacing = world_from_voxel[:3, :3].norm(dim=0).flip(0).tolist()
    squared = torch.zeros_like(values)
    for axis, step in enumerate(spacing):
        if values.shape[axis] > 1:
            squared += torch.gradient(values, spacing=step, dim=axis)[0] ** 2
    return squared.sqrt()


def local_features(volume: Volume, where: Bool[Tensor, "k j i"], low: float, high: float) -> Float[Tensor, "voxel 8"]:
    """The features `NAMES` of the voxels `where`, in the order of the lattice; not yet standardised.

    Args:
        low, high: HU beyond which none is told from another: metal must not stretch the scale of everything else.
    Returns: HU; the logarithm of 1 + gradient magnitude [HU/mm] and of 1 + deviation [HU]; position in standard
        deviations of these voxels from their middle, along the patient's axes, however the lattice lies.
    """
    at = where.cpu()
    numbers = volume.values.cpu().float().clamp(low, high)
    fine, coarse = (_smoothed(numbers, volume.spacing, sigma) for sigma in (FINE, COARSE))
    spread = (_smoothed(numbers**2, volume.spacing, FINE) - fine**2).clamp(min=0).sqrt()
    steep = gradient_magnitude(numbers, volume.world_from_voxel)
    columns = [numbers[at], fine[at], coarse[at], torch.log1p(steep[at]), torch.log1p(spread[at])]
    k, j, i = at.nonzero().double().unbind(1)
    places = torch.stack([i, j, k], 1) @ volume.world_from_voxel[:3, :3].T
    return torch.cat([torch.stack(columns, 1), _standardised(places).float()], 1)


def _standardised(columns: Float[Tensor, "voxel n"]) -> Float[Tensor, "voxel n"]:
    middle = columns.mean(0) if len(columns) else 0
    spread = columns.std(0, correction=0) if len(columns) else torch.ones(columns.shape[1])
    return (columns - middle) / torch.where(spread > 0, spread, 1)


def _smoothed(
    values: Float[Tensor, "k j i"], spacing: tuple[float, float, float], sigma: float
) -> Float[Tensor, "k j i"]:
    """A Gaussian of `sigma` [mm] over values, which stay as they are at the lattice's faces."""
    steps = [sigma / step for step in spacing]
    smooth = ndimage.gaussian_filter(values.numpy(), steps, mode="nearest", truncate=REACH, output=np.float32)
    return torch.from_numpy(smooth)
