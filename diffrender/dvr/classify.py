"""Fields classified where voxels lie, or between them: what a volume of colours can hold of a table."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffrender.rays.field import Field
from diffrender.rays.march_torch import changed, classified

SLAB = 4_000_000  # voxels at a time: 64 MB for every copy of colours and extinction
# The finer, the closer, and the larger: 48 million voxels are 192 MB on a graphics card.
MOST_VOXELS, FINEST = 48_000_000, 4
# PSNR [dB] of unet-s, baked so many times finer, against its own pictures: the worst and the best case measured.
MEASURED = {1: (21, 31), 2: (28, 39), 3: (33, 45)}


def voxels_of(field: Field) -> Float[Tensor, "channel k j i"]:
    """Colours and extinction of each voxel, classified where the field has a table, and changed where it has that."""
    return field.values if field.table is None else _classified(field, _numbers(field), field.change)


def finest(field: Field) -> int:
    """How many times finer a field is classified by itself: no more than `FINEST`, and within `MOST_VOXELS`."""
    within = (n for n in range(FINEST, 1, -1) if torch.tensor(finer_shape(field, n)).prod() <= MOST_VOXELS)
    return 1 if field.table is None else next(within, 1)


def finer_shape(field: Field, finer: int) -> tuple[int, int, int]:
    """(k, j, i) of the lattice that has `finer` steps from each voxel centre to the next."""
    k, j, i = (finer * (size - 1) + 1 for size in field.shape)
    return k, j, i


def classified_finely(field: Field, finer: int = 1) -> Field:
    """Colours and extinction on a lattice with `finer` steps from voxel to voxel, for a field with a table.

    Numbers and changes are interpolated, as the march does at its samples, and then classified. Voxel centres stay what
    they are and others come between them, so that the box of the centres, in which rays are sampled, stays the same.
    Colours lie within 0 and 1; where nothing is visible they are those of the neighbours.
    """
    k, j, i = finer_shape(field, finer)
    found = field.values.new_empty((field.channels, k, j, i), dtype=field.real)
    numbers = _numbers(field)
    thick = max(1, SLAB // (j * i))
    for first in range(0, k, thick):
        last = min(first + thick, k)
        low, high = max(first - 1, 0), min(last + 1, k)  # neighbours on both sides, which colours spread from
        change = None if field.change is None else _between(field.change.to(field.real), finer, low, high)
        part = _classified(field, _between(numbers, finer, low, high), change)
        kappa = part[-1].clamp(min=0)
        colour = spread(part[:-1].clamp(0, 1), kappa > 0)
        found[:, first:last] = torch.cat([colour, kappa[None]])[:, first - low : last - low]
    scale = torch.tensor([1 / finer, 1 / finer, 1 / finer, 1.0], dtype=torch.float64)
    return Field(found, field.world_from_voxel @ torch.diag(scale))


def how_close(name: str, finer: int, whole: bool) -> str:
    """What is lost of a table, in words."""
    low, high = MEASURED[min(finer, max(MEASURED))]
    lattice = "the CT's own" if finer == 1 else f"{finer} times as many along each axis as the CT's"
    return (
        f"{name} classifies what lies between voxels, a baked volume its voxels alone, here {lattice}: steep surfaces "
        f"show steps (pictures about {low} to {high} dB from what is drawn; finer is closer and larger, --finer)."
        + (" Its transfer function shows all of it: give that away." if whole else "")
    )


def spread(colour: Float[Tensor, "n k j i"], visible: Tensor) -> Float[Tensor, "n k j i"]:
    """Where nothing is visible, the mean colour of the neighbours that are: else edges mix with a colour of nothing."""
    seen = visible.to(colour)[None]
    # padded beforehand: torch pools no volume of two slices
    around = F.avg_pool3d(F.pad(torch.cat([colour * seen, seen]), [1] * 6), 3, 1)
    return torch.where(visible | (around[-1:] == 0), colour, around[:-1] / around[-1:].clamp(min=1e-6))


def _numbers(field: Field) -> Float[Tensor, "axis k j i"]:
    return field.values.reshape(-1, *field.shape).to(field.real)


def _classified(field: Field, numbers: Tensor, change: Tensor | None) -> Float[Tensor, "channel k j i"]:
    assert field.table is not None
    found = classified(numbers, field.table.entries.to(field.real), field)
    return found if change is None else changed(found, change.to(field.real))


def _between(values: Float[Tensor, "n k j i"], finer: int, first: int, last: int) -> Float[Tensor, "n fine j2 i2"]:
    """Slices `first` to `last` of the finer lattice, trilinear."""
    if finer == 1:
        return values[:, first:last]
    k = torch.arange(first, last, device=values.device)
    below = (k // finer).clamp(max=max(values.shape[1] - 2, 0))
    above = (below + 1).clamp(max=values.shape[1] - 1)
    share = (k - below * finer).to(values) / finer
    slices = torch.lerp(values[:, below], values[:, above], share[:, None, None])
    size = [finer * (n - 1) + 1 for n in values.shape[2:]]
    return F.interpolate(slices, size, mode="bilinear", align_corners=True)
