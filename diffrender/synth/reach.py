"""Which pixels of a view the CT reaches: a CT of the chest ends at neck and belly, where no radiograph does."""

import hashlib

import torch
from jaxtyping import Bool
from torch import Tensor

from diffrender.camera import Camera
from diffrender.volume import Volume

REACHED = 0.9  # of the longest path through the CT's box: rays that leave by its top or bottom have less
PARALLEL = 1e-12  # voxels a mm; a ray closer to parallel never meets that pair of faces


def reached(volume: Volume, camera: Camera) -> Bool[Tensor, "h w"]:
    """The pixels whose rays pass through the CT from one side to the other, and not out at an end where it was cut."""
    voxel_from_world = torch.linalg.inv(volume.world_from_voxel)
    source, directions = camera.rays()
    start = voxel_from_world[:3, :3] @ source + voxel_from_world[:3, 3] + 0.5  # from the box's corner
    along = directions @ voxel_from_world[:3, :3].T
    along = torch.where(along.abs() < PARALLEL, torch.full_like(along, PARALLEL), along)
    size = torch.tensor(list(reversed(volume.shape)), dtype=torch.float64)
    ends = torch.stack([-start / along, (size - start) / along])
    inside = (ends.amax(0).amin(-1) - ends.amin(0).amax(-1)).clamp(min=0.0)
    return (inside >= REACHED * inside.max()) & (inside > 0)


def volume_hash(volume: Volume) -> str:
    """SHA256 of a CT's values and where they lie: what its drawn views hang on, and its training is known by."""
    digest = hashlib.sha256(volume.values.contiguous().cpu().numpy().tobytes())
    digest.update(volume.world_from_voxel.contiguous().numpy().tobytes())
    return digest.hexdigest()


def labels_hash(volume: Volume) -> str:
    """SHA256 of a volume's labels and their names."""
    assert volume.labels is not None
    digest = hashlib.sha256(volume.labels.contiguous().cpu().numpy().tobytes())
    digest.update(repr([(label, volume.label_name(label)) for label in volume.label_ids]).encode())
    return digest.hexdigest()
