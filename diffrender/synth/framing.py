"""What a view is of, and how large a picture a radiographer takes of it."""

import dataclasses
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffrender.camera import Camera
from diffrender.errors import LabelError
from diffrender.synth.lungs import lungs_of
from diffrender.volume import Volume

CHEST_MARGINS = (30.0, 40.0, 40.0)  # [mm] around the lungs to the sides, to front and back, to head and feet
PELVIS_MARGINS = (25.0, 25.0, 25.0)
C_ARM_SIDE = 240.0  # [mm] that an image intensifier of 30 cm shows of the patient
COARSE = 3.0  # [mm]: lungs are found on voxels about so large where only their place is asked for
BEYOND = 1.02  # how much further than the CT a picture may reach
LEAST = 1.03  # of the core's shadow that a picture shows at the least


@dataclass(frozen=True, eq=False)
class Field:
    """A part of the patient.

    Attributes:
        core: (n, 3) RAS [mm], the outermost points of what must be seen.
        low, high: (3,) RAS [mm], the box that the picture shows.
        corners: (8, 3) RAS [mm], of the CT.
    """

    core: Float[Tensor, "n 3"]
    low: Float[Tensor, "3"]
    high: Float[Tensor, "3"]
    corners: Float[Tensor, "8 3"]

    @property
    def centre(self) -> Float[Tensor, "3"]:
        return (self.low + self.high) / 2

    def sized(self, camera: Camera) -> Camera:
        """The camera with square pixels such that it shows the field, and little that the CT does not reach."""
        ends = torch.stack([self.low, self.high])
        box = torch.cartesian_prod(*ends.T)
        shown, ends_at = max(_reach(camera, box)), BEYOND * _ends(camera, self.corners)
        if shown > ends_at:  # the CT ends above or below: rather less margin than a blank edge
            shown = max(ends_at, LEAST * max(_reach(camera, self.core)))
        row, column = camera.pixel_size
        return replace(camera, pixel_size=(shown * row, shown * column))


_FIELDS: "weakref.WeakKeyDictionary[Volume, dict[str, Field]]" = weakref.WeakKeyDictionary()


def field_of(volume: Volume, view: str) -> Field:
    """What the view of that name is of; worked out once for each volume.

    Raises: LabelError for a chest view of a volume without lungs.
    """
    kept = _FIELDS.setdefault(volume, {})
    part = next((p for p in ("chest", "pelvis", "c-arm") if view.startswith(p)), "whole")
    if part not in kept:
        kept[part] = {"chest": _chest, "pelvis": _pelvis, "c-arm": _c_arm, "whole": _whole}[part](volume)
    return kept[part]


def _chest(volume: Volume) -> Field:
    lungs = _labelled(volume, ("lung",))
    if lungs is None:
        bare = dataclasses.replace(volume, labels=None, names=None)
        small = _coarse(bare)
        try:
            lungs = _extremes(small, lungs_of(small).labels != 0)  # pyright: ignore[reportArgumentType]
        except LabelError as problem:
            raise LabelError(f"A chest view is aimed at the lungs. {problem}") from None
    return _around(volume, lungs, CHEST_MARGINS)


def _pelvis(volume: Volume) -> Field:
    bones = _labelled(volume, ("hip", "sacrum"))
    return _whole(volume) if bones is None else _around(volume, bones, PELVIS_MARGINS)


def _c_arm(volume: Volume) -> Field:
    bones = _labelled(volume, ("hip", "sacrum"))
    centre = volume.centre if bones is None else (bones.amin(0) + bones.amax(0)) / 2
    half = torch.full((3,), C_ARM_SIDE / 2, dtype=torch.float64)
    return Field(centre[None], centre - half, centre + half, volume.corners)


def _whole(volume: Volume) -> Field:
    return Field(volume.centre[None], volume.corners.amin(0), volume.corners.amax(0), volume.corners)


def _around(volume: Volume, core: Float[Tensor, "n 3"], margins: tuple[float, ...]) -> Field:
    """The core's box with its margins, no higher and no lower than the CT."""
    more = torch.tensor(margins, dtype=torch.float64)
    low, high = core.amin(0) - more, core.amax(0) + more
    low[2], high[2] = max(low[2], volume.corners[:, 2].min()), min(high[2], volume.corners[:, 2].max())
    return Field(core, low, high, volume.corners)


def _labelled(volume: Volume, parts: Iterable[str]) -> Float[Tensor, "n 3"] | None:
    """The outermost points of all labels with one of these words in their name."""
    named = [n for n in volume.label_ids if any(part in volume.label_name(n).lower() for part in parts)]
    points = [_extremes(volume, mask) for n in named if bool((mask := volume.mask(n)).any())]
    return torch.cat(points) if points else None


def _extremes(volume: Volume, mask: Bool[Tensor, "k j i"]) -> Float[Tensor, "n 3"]:
    """Of each of 26 directions the outermost voxel centre, RAS [mm]."""
    voxels = mask.nonzero().flip(1).double()
    points = voxels @ volume.world_from_voxel[:3, :3].T + volume.world_from_voxel[:3, 3]
    ends = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    directions = torch.cartesian_prod(ends, ends, ends)
    return points[(points @ directions.T).argmax(0)]


def _coarse(volume: Volume) -> Volume:
    stride = [max(1, round(COARSE / s)) for s in volume.spacing]
    matrix = volume.world_from_voxel.clone()
    matrix[:3, :3] *= torch.tensor(stride[::-1], dtype=torch.float64)
    return dataclasses.replace(
        volume, values=volume.values[tuple(slice(None, None, n) for n in stride)], world_from_voxel=matrix
    )


def _reach(camera: Camera, points: Float[Tensor, "n 3"]) -> tuple[float, float]:
    """How far the points' shadow reaches from the middle of the picture, down and across; 1 is to its edge."""
    size = torch.tensor(camera.image_size, dtype=torch.float64)
    from_middle = (camera.project(points) - size / 2).abs() / (size / 2)
    down, across = from_middle.nan_to_num(0.0).amax(0).tolist()
    return down, across


def _ends(camera: Camera, corners: Float[Tensor, "8 3"]) -> float:
    """How far from the picture's middle the CT reaches above or below, whichever is less; 1 is to its edge."""
    middle = camera.image_size[0] / 2
    rows = camera.project(corners)[:, 0].nan_to_num(middle).sort().values
    return min(middle - rows[:4].mean().item(), rows[4:].mean().item() - middle) / middle
