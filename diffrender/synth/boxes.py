"""Bounding boxes of masks, and where landmarks fall."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from diffrender.camera import Camera
from diffrender.errors import GeometryError


class Landmark(NamedTuple):
    """A point in a picture: (row, column) [px from the image's corner], and whether the picture shows that place."""

    row: float
    column: float
    visible: bool


def boxes_of(masks: Bool[Tensor, "label h w"]) -> Int64[Tensor, "label 4"]:
    """The box around each mask: x, y of its upper left corner, width and height [px]; all 0 of an empty mask.

    As COCO has boxes: x counts columns, y rows, both from the image's corner.
    """
    boxes = torch.zeros(len(masks), 4, dtype=torch.int64)
    for n, mask in enumerate(masks):
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        if len(rows):
            x, y = int(columns[0]), int(rows[0])
            boxes[n] = torch.tensor([x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1])
    return boxes


def projected_landmarks(points: Mapping[str, Float[Tensor, "3"]], camera: Camera) -> dict[str, Landmark]:
    """Where points of the patient fall, by name.

    Args:
        points: {name: (3,) RAS [mm]}.
    Returns: NaN and not visible behind the source; not visible beside the picture.
    Raises: GeometryError for a point that is not three finite numbers.
    """
    found = {}
    for name, point in points.items():
        place = torch.as_tensor(point, dtype=torch.float64)
        if place.shape != (3,) or not torch.isfinite(place).all():
            raise GeometryError(f"The landmark {name!r} is no point of three finite numbers in RAS mm: {point}.")
        row, column = camera.project(place).tolist()
        visible = 0 <= row <= camera.image_size[0] and 0 <= column <= camera.image_size[1]  # NaN is neither
        found[name] = Landmark(row, column, visible)
    return found
