"""Geometry of training images: zoomed, turned, stretched, bent, mirrored with left and right swapped."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float

from diffrender.errors import SettingError


@dataclass(frozen=True)
class Warp:
    """Between what numbers a change of geometry is drawn.

    Attributes:
        zoom: of the image's middle; above 1 it is cut out.
        stretch: of one axis against the other, as a share.
        turn: [degrees], a standard deviation.
        shift: share of the image's side, a standard deviation.
        bend: share of the image's side by which points of a coarse grid go astray, a standard deviation.
        mirror: chance of a left-right mirror; labels named left and right are then swapped.
    Raises: SettingError.
    """

    zoom: tuple[float, float] = (1.0, 1.0)
    stretch: float = 0.0
    turn: float = 0.0
    shift: float = 0.0
    bend: float = 0.0
    mirror: float = 0.0

    def __post_init__(self):
        if not 0 < self.zoom[0] <= self.zoom[1] or min(self.stretch, self.turn, self.shift, self.bend) < 0:
            raise SettingError(f"zoom rises from above 0, all else is 0 or more; not {self}.")


BENDS = 5  # points of the coarse grid along a side


def warped(
    planes: Float[np.ndarray, "plane h w"], size: tuple[int, int], warp: Warp, random: np.random.Generator
) -> Float[np.ndarray, "plane a b"]:
    """All planes (image and masks) through one random map; beyond the image its edge goes on."""
    angle = math.radians(warp.turn) * random.standard_normal()
    zoom = math.exp(random.uniform(math.log(warp.zoom[0]), math.log(warp.zoom[1])))
    along = math.exp(warp.stretch * random.standard_normal())
    c, s = math.cos(angle) / zoom, math.sin(angle) / zoom
    shift = 2 * warp.shift * random.standard_normal(2)
    theta = torch.tensor([[[c * along, -s, shift[0]], [s, c / along, shift[1]]]], dtype=torch.float32)
    grid = F.affine_grid(theta, [1, 1, *size], align_corners=False)
    if warp.bend:
        bends = torch.from_numpy(random.standard_normal((1, 2, BENDS, BENDS), dtype=np.float32)) * (2 * warp.bend)
        bent = F.interpolate(bends, size, mode="bicubic", align_corners=True)
        grid = grid + bent.permute(0, 2, 3, 1)
    whole = torch.from_numpy(np.ascontiguousarray(planes, dtype=np.float32))[None]
    return F.grid_sample(whole, grid, padding_mode="border", align_corners=False)[0].numpy()


def swapped(names: Sequence[str]) -> list[int]:
    """For each label, which one it is in a mirror: "lung_left" is then "lung_right"."""
    other = {name: name.replace("left", "\0").replace("right", "left").replace("\0", "right") for name in names}
    return [names.index(other[name]) if other[name] in names else n for n, name in enumerate(names)]
