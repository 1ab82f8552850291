"""Where a CT ends in the middle of a patient: a bone cut out of a limb, a pelvis without its thighs."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diffrender.camera import Camera
from diffrender.volume import Volume

TISSUE = 0.1  # of the densest voxel's attenuation: at least that is no air
MOST = 4000  # places: enough to mark every pixel that a cut covers in a small picture


def cut_places(volume: Volume) -> Float[Tensor, "k 3"]:
    """Places on the border of a CT [HU] where it goes through tissue, RAS [mm]; at most MOST, evenly thinned out."""
    solid = _solid(volume)
    found = []
    for axis, size in enumerate(solid.shape):
        for end in {0, size - 1}:
            face = torch.nonzero(solid.select(axis, end))
            across = torch.full((len(face), 1), end)
            found.append(torch.cat([face[:, :axis], across, face[:, axis:]], 1))
    indices = torch.cat(found)
    return _placed(indices[:: 1 + len(indices) // MOST], volume)


def pixels_of(places: Float[Tensor, "k 3"], camera: Camera) -> Bool[Tensor, "h w"]:
    """The pixels that places [mm] project to."""
    hit = torch.zeros(camera.image_size, dtype=torch.bool)
    if len(places):
        at = camera.project(places).floor().long()
        at = at[((at >= 0) & (at < torch.tensor(camera.image_size))).all(1)]
        hit[at[:, 0], at[:, 1]] = True
    return hit


def radius_about(volume: Volume, centre: Float[Tensor, "3"]) -> float:
    """Of a ball about `centre` that holds the box around what attenuates in a CT [HU], [mm]."""
    solid = _solid(volume)
    ends = []
    for axis in range(3):
        others = tuple(n for n in range(3) if n != axis)
        along = torch.nonzero(solid.any(others[1]).any(others[0]))
        ends.append(torch.stack([along.amin(), along.amax()]))
    return float((_placed(torch.cartesian_prod(*ends), volume) - centre).norm(dim=1).amax())


def _solid(volume: Volume) -> Bool[Tensor, "k j i"]:
    values = volume.values.cpu()
    return values > TISSUE * (float(values.amax()) + 1000) - 1000


def _placed(indices: Int[Tensor, "n 3"], volume: Volume) -> Float[Tensor, "n 3"]:
    lattice = volume.world_from_voxel.double()
    return indices.flip(1).double() @ lattice[:3, :3].T + lattice[:3, 3]
