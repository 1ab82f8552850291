"""A view of a CT taken apart: the path through each kind of matter, of which any number of appearances can be mixed.

Rays are what a radiograph costs. Cast once for each kind of matter, they give images that are added up with new weights
at every draw, so that a network never meets the same radiograph twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffrender.camera import Camera
from diffrender.rays.line import line_integrals
from diffrender.rays.prepared import Prepared, prepare
from diffrender.volume import Volume

# HU at which a kind of matter begins, is whole, and ends: hats that add up to the CT's water equivalent
SOFT = (-350.0, -150.0)  # between these, lung gives way to soft tissue
DENSE = 130.0  # above, what exceeds soft tissue is contrast or spongy bone, which HU cannot tell apart
HARD = 600.0  # above, what exceeds that is cortical bone, or metal
KINDS = ("lung", "soft", "dense", "hard")
OPACITY = "opacity"  # lung that disease fills: the water equivalent that it lacks, where the disease is
FIELDS = 6  # of disease, per CT


@dataclass(frozen=True, eq=False)
class Layers:
    """One view of one CT.

    Attributes:
        images: {kind of matter: (h, w) float16}, water-equivalent path [cm].
        masks: (label, h, w) bool, where each label counts as seen.
        names: of the labels.
        pixel_size: at the patient [mm].
    """

    images: Mapping[str, Float[np.ndarray, "h w"]]
    masks: Bool[np.ndarray, "label h w"]
    names: tuple[str, ...]
    pixel_size: float


@dataclass(frozen=True, eq=False)
class Matter:
    """A CT made ready to be taken apart: each kind of matter padded once."""

    volume: Volume
    kinds: Mapping[str, Prepared]
    opacities: tuple[Prepared, ...]


def matter_of(volume: Volume, lungs: Bool[Tensor, "k j i"] | None = None, seed: int = 0) -> Matter:
    """Take a CT apart by its HU.

    Args:
        lungs: where disease can fill air; without it there is none.
        seed: of where the disease lies.
    """
    hu = volume.values.float()
    relative = (1 + hu / 1000).clamp(min=0)
    soft_share = ((hu - SOFT[0]) / (SOFT[1] - SOFT[0])).clamp(0, 1)
    kinds = {
        "lung": relative * (1 - soft_share),
        "soft": relative.clamp(max=1 + DENSE / 1000) * soft_share,
        "dense": (hu - DENSE).clamp(0, HARD - DENSE) / 1000,
        "hard": (hu - HARD).clamp(min=0) / 1000,
    }
    made = {name: prepare(values / 10) for name, values in kinds.items()}  # cm for each mm of path
    opacities = []
    if lungs is not None:
        generator = torch.Generator().manual_seed(seed)
        lacking = (1.04 - relative).clamp(min=0) * lungs / 10
        for n in range(FIELDS):
            opacities.append(prepare(lacking * _disease(volume, lungs, generator, n)))
    return Matter(volume, made, tuple(opacities))


def layers_of(
    matter: Matter,
    camera: Camera,
    masks: Bool[Tensor, "label h w"],
    names: Sequence[str],
    opacity: int = 0,
    world_from_voxel: Float[Tensor, "4 4"] | None = None,
) -> Layers:
    """Cast the rays of one view.

    Args:
        opacity: which of the diseases.
        world_from_voxel: where the CT lies, if not as it was read (stretched, for another build of body).
    """
    world = matter.volume.world_from_voxel if world_from_voxel is None else world_from_voxel
    parts = dict(matter.kinds)
    if matter.opacities:
        parts[OPACITY] = matter.opacities[opacity % len(matter.opacities)]
    images = {name: line_integrals(q, world, camera).numpy().astype(np.float16) for name, q in parts.items()}
    return Layers(images, masks.numpy(), tuple(names), camera.pixel_size[0])


def extended(volume: Volume, above: float, below: float) -> Volume:
    """A CT with its first and last slices repeated [mm], so that a view of a short one has a neck and a belly.

    Lung in the repeated slices becomes soft tissue; labels end where they did. The lattice's k axis is taken to run
    along the patient, as that of axial CTs does; others come back as they are.
    """
    axis = volume.world_from_voxel[:3, 2]
    if axis.abs().argmax() != 2:
        return volume
    step = float(axis.norm())
    first, last = (below, above) if axis[2] > 0 else (above, below)
    before, after = round(first / step), round(last / step)
    values = volume.values.float()
    ends = [_without_lung(values[n]) for n in (0, -1)]
    whole = torch.cat([ends[0][None].expand(before, -1, -1), values, ends[1][None].expand(after, -1, -1)])
    world = volume.world_from_voxel.clone()
    world[:3, 3] -= before * axis
    labels = volume.labels
    if labels is not None:
        labels = torch.nn.functional.pad(labels, [0, 0, 0, 0, before, after])
    return replace(volume, values=whole, world_from_voxel=world, labels=labels)


def _without_lung(hu: Float[Tensor, "j i"]) -> Float[Tensor, "j i"]:
    from scipy import ndimage

    body = torch.from_numpy(ndimage.binary_fill_holes(ndimage.binary_opening((hu > -300).numpy(), iterations=2)))
    return torch.where(body & (hu < -200), 20.0, hu)


def _disease(
    volume: Volume, lungs: Bool[Tensor, "k j i"], generator: torch.Generator, n: int
) -> Float[Tensor, "k j i"]:
    """Where disease lies, 0 to 1: patches anywhere, or all that lies low or at one side."""
    cells = [max(2, round(size * step / 45)) for size, step in zip(lungs.shape, volume.spacing[::1], strict=True)]
    noise = torch.rand([1, 1, *cells], generator=generator)
    smooth = torch.nn.functional.interpolate(noise, list(lungs.shape), mode="trilinear", align_corners=True)[0, 0]
    field = smooth
    if n % 3:  # of every three, two lie low: dependent disease and effusions are the common ones
        where = lungs.any(2).any(1).nonzero()[:, 0]
        height = torch.linspace(0, 1, int(where[-1] - where[0]) + 1)
        if volume.world_from_voxel[2, 2] < 0:
            height = height.flip(0)
        rise = torch.zeros(lungs.shape[0])
        rise[where[0] : where[-1] + 1] = height
        field = 0.5 * smooth + 0.8 * (0.75 - rise)[:, None, None]
    cut = torch.quantile(
        field[lungs][:: max(1, int(lungs.sum()) // 20000)], 0.75 - 0.35 * float(torch.rand((), generator=generator))
    )
    return ((field - cut) / 0.06).clamp(0, 1)
