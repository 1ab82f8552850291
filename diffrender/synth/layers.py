"""A view of a CT taken apart: how much of each material every ray meets, of which any number of looks can be mixed.

Rays are what a radiograph costs. Cast once for each material, they give images that are added up with new weights at
every draw, so that a network never meets the same radiograph twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from diffrender.camera import Camera
from diffrender.physics.beam import Matter, areal_densities, matter_of
from diffrender.rays.line import line_integrals
from diffrender.rays.prepared import Prepared, prepare
from diffrender.volume import Volume

DISEASE = "disease"  # soft tissue in place of the lungs' air
DISEASES = 6  # kinds of it for each CT
FULL = 1.05  # g/cm3, of lung without air
PATCH = 45.0  # mm, of disease
CM = 0.1  # for each mm
TISSUE, INSIDE = -300.0, 20.0  # HU, above which the body lies; of what stands for lung beyond the CT's end


@dataclass(frozen=True, eq=False)
class Layers:
    """One view of one CT.

    Attributes:
        images: {material: (h, w) float16}, areal density [g/cm2].
        masks: (label, h, w) bool, where each label counts as seen.
        names: of the labels.
        camera: what took it.
        world_from_voxel: where the (extended) CT lay; another build of body has another one.
    """

    images: Mapping[str, Float[np.ndarray, "h w"]]
    masks: Bool[np.ndarray, "label h w"]
    names: tuple[str, ...]
    camera: Camera | None = None
    world_from_voxel: Float[Tensor, "4 4"] | None = None


@dataclass(frozen=True, eq=False)
class Parts:
    """A CT ready to be taken apart: its materials, and diseases that fill its lungs [g/cm3, in cm for each mm]."""

    matter: Matter
    diseases: tuple[Prepared, ...] = ()


def parts_of(volume: Volume, lungs: Bool[Tensor, "k j i"] | None = None, seed: int = 0) -> Parts:
    """Decompose a CT once.

    Args:
        lungs: where disease can take the place of air; without it there is none.
        seed: of where the disease lies.
    """
    matter = matter_of(volume)
    if lungs is None:
        return Parts(matter)
    generator = torch.Generator().manual_seed(seed)
    lacking = (FULL - (1 + volume.values.float() / 1000).clamp(min=0)).clamp(min=0) * lungs * CM
    diseases = [prepare(lacking * _disease(volume, lungs, generator, n % 3 > 0)) for n in range(DISEASES)]
    return Parts(matter, tuple(diseases))


def layers_of(
    parts: Parts,
    camera: Camera,
    masks: Bool[Tensor, "label h w"],
    names: Sequence[str],
    disease: int = 0,
    world_from_voxel: Float[Tensor, "4 4"] | None = None,
) -> Layers:
    """Cast the rays of one view.

    Args:
        disease: which of them.
        world_from_voxel: where the CT lies, if not as it was read (stretched, for another build of body).
    """
    matter = parts.matter
    if world_from_voxel is not None:
        matter = replace(matter, world_from_voxel=world_from_voxel)
    images = areal_densities(matter, camera)
    if parts.diseases:
        field = parts.diseases[disease % len(parts.diseases)]
        images[DISEASE] = line_integrals(field, matter.world_from_voxel, camera)
    kept = {name: image.numpy().astype(np.float16) for name, image in images.items()}
    return Layers(kept, masks.numpy(), tuple(names), camera, matter.world_from_voxel)


def extended(volume: Volume, above: float, below: float) -> Volume:
    """A CT with its first and last slices repeated [mm], so that a view of a short one has a neck and a belly.

    Lung in the repeated slices becomes soft tissue; labels end where they did. It is done where the k axis runs along
    the patient, as that of axial CTs does; others come back as they are.
    """
    axis = volume.world_from_voxel[:3, 2]
    if int(axis.abs().argmax()) != 2:
        return volume
    first, last = (below, above) if axis[2] > 0 else (above, below)
    before, after = (round(more / float(axis.norm())) for more in (first, last))
    values = volume.values.float()
    start, end = (_without_lung(values[n])[None] for n in (0, -1))
    whole = torch.cat([start.expand(before, -1, -1), values, end.expand(after, -1, -1)])
    world = volume.world_from_voxel.clone()
    world[:3, 3] -= before * axis
    labels = None if volume.labels is None else F.pad(volume.labels, [0, 0, 0, 0, before, after])
    return replace(volume, values=whole.to(volume.values.dtype), world_from_voxel=world, labels=labels)


def _without_lung(hu: Float[Tensor, "j i"]) -> Float[Tensor, "j i"]:
    from scipy import ndimage

    body = ndimage.binary_fill_holes(ndimage.binary_opening((hu > TISSUE).numpy(), iterations=2))
    return torch.where(torch.as_tensor(body) & (hu < TISSUE), INSIDE, hu)


def _disease(
    volume: Volume, lungs: Bool[Tensor, "k j i"], generator: torch.Generator, low: bool
) -> Float[Tensor, "k j i"]:
    """Where disease lies, 0 to 1: patches anywhere, or what lies low, as effusions and dependent collapse do."""
    sizes = zip(lungs.shape, volume.spacing, strict=True)
    noise = torch.rand([1, 1, *(max(2, round(n * step / PATCH)) for n, step in sizes)], generator=generator)
    field = F.interpolate(noise, list(lungs.shape), mode="trilinear", align_corners=True)[0, 0]
    if low:
        up = volume.world_from_voxel[2, :3].flip(0).float()  # how much each step along (k, j, i) rises [mm]
        k, j, i = (torch.arange(n, dtype=torch.float32) for n in lungs.shape)
        height = (k * up[0])[:, None, None] + (j * up[1])[:, None] + i * up[2]
        bottom, top = height[lungs].aminmax()
        field = 0.5 * field - 0.8 * (height - bottom) / (top - bottom)
    inside = field[lungs]
    share = 0.25 + 0.35 * float(torch.rand((), generator=generator))
    some = inside[:: max(1, len(inside) // 20000)]
    return ((field - torch.quantile(some, 1 - share)) / 0.06).clamp(0, 1)
