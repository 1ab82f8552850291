"""What is known of a voxel's surroundings: gradient magnitude and other local features."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


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
