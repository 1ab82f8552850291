"""Cameras, motions and a lattice, checked and paired: the pencils of rays of one call."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.camera import Camera
from diffrender.errors import GeometryError, SettingError
from diffrender.pose import check_point, check_xi
from diffrender.rays.pencil import Pencil, pencil_of
from diffrender.volume import check_affine


@dataclass(frozen=True, eq=False)
class Lattice:
    """Where voxels lie: `world_from_voxel` of the finest level, its shape, and which level of a pyramid is meant.

    Attributes:
        world_from_voxel: of the finest level, RAS [mm]; not yet checked.
        base_shape: (k, j, i) of the finest level.
        shape: (k, j, i) of the level that rays go through; None for the finest.
        base_from_level: (4, 4) voxel indices of that level to those of the finest.
    """

    world_from_voxel: Float[Tensor, "4 4"]
    base_shape: tuple[int, int, int]
    shape: tuple[int, int, int] | None = None
    base_from_level: Float[np.ndarray, "4 4"] | None = None


@dataclass(frozen=True, eq=False)
class Aimed:
    """A pencil for each camera, the motion they were made with, and the axes that a result begins with."""

    pencils: list[Pencil]
    xi: Tensor | None
    leading: tuple[int, ...]


def aim(
    lattice: Lattice,
    camera: Camera | Sequence[Camera],
    xi: Tensor | None = None,
    centre: Tensor | None = None,
    pixels: Tensor | None = None,
) -> Aimed:
    """The rays of every camera through a lattice that `xi` has moved.

    Args:
        camera: one, or a sequence of cameras with images of one size.
        xi: motion of the volume (t [mm], r [rad]), (6,) or (n, 6): one for all, or one for each camera.
        centre: RAS [mm] about which the volume turns; by default the middle of its lattice.
        pixels: (n, 2) positions (row, column) [px from the image's corner] of sparse rays.
    Raises: GeometryError; SettingError for a gradient that would be lost.
    """
    cameras = [camera] if isinstance(camera, Camera) else list(camera)
    if not all(isinstance(c, Camera) for c in cameras):
        raise GeometryError(f"A camera, or a sequence of cameras, is needed; found {camera!r}.")
    if not cameras or len({c.image_size for c in cameras}) != 1:
        sizes = sorted({c.image_size for c in cameras})
        raise GeometryError(
            f"A batch needs cameras whose images have one size; these have {sizes or 'no camera at all'}."
        )
    xi = None if xi is None else check_xi(torch.as_tensor(xi))
    if xi is not None and (xi.ndim > 2 or 0 in xi.shape):
        raise GeometryError(f"Motions are (6,) or (n, 6) with n at least 1; these are {list(xi.shape)}.")
    motions = np.zeros((1, 6)) if xi is None else _numbers(xi).reshape(-1, 6)
    leading: tuple[int, ...] = () if isinstance(camera, Camera) and (xi is None or xi.ndim == 1) else (1,)
    if len(cameras) > 1 and len(motions) > 1 and len(cameras) != len(motions):
        raise GeometryError(
            f"{len(cameras)} cameras and {len(motions)} motions do not pair; give as many, or one of either."
        )
    count = max(len(cameras), len(motions))
    for name, given in (("world_from_voxel", lattice.world_from_voxel), ("centre", centre), ("pixels", pixels)):
        if isinstance(given, Tensor) and given.requires_grad and torch.is_grad_enabled():
            raise SettingError(
                f"{name} carries a gradient that would be lost: rays are differentiable in the values and in xi. Pass "
                "the motion as xi=, and the lattice at rest; or detach it."
            )
    world = torch.as_tensor(lattice.world_from_voxel, dtype=torch.float64)
    check_affine(world, "world_from_voxel")
    base = _numbers(world)
    k, j, i = lattice.base_shape
    middle = base @ [(i - 1) / 2, (j - 1) / 2, (k - 1) / 2, 1.0]
    about = middle[:3] if centre is None else _numbers(check_point(centre))
    positions = None if pixels is None else _numbers(torch.as_tensor(pixels))
    if positions is not None and (positions.shape[1:] != (2,) or not np.isfinite(positions).all()):
        raise GeometryError(f"Pixels are (n, 2) finite positions (row, column); these are {list(positions.shape)}.")
    level = base if lattice.base_from_level is None else base @ lattice.base_from_level
    shape = lattice.base_shape if lattice.shape is None else lattice.shape
    pencils = [
        pencil_of(cameras[n % len(cameras)], level, shape, motions[n % len(motions)], about, positions)
        for n in range(count)
    ]
    return Aimed(pencils, xi, (count,) if leading else ())


def gathered(gradients: Sequence[Tensor], xi: Tensor) -> Tensor:
    """The gradient in `xi` from those (6,) of each pencil: one motion for all cameras gets their sum."""
    rows = torch.stack(list(gradients)).to(xi)
    if xi.ndim == 1:
        return rows.sum(0)
    return rows.sum(0, keepdim=True) if len(xi) == 1 else rows


def _numbers(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().astype(np.float64)
