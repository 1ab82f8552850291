"""A lit volume: Lambert's law on its surfaces and shadows cast through it, drawn by the same march."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from diffrender.camera import Camera
from diffrender.dvr.targets import Target, whole_target
from diffrender.dvr.transfer import TransferFunction
from diffrender.dvr.view import classified
from diffrender.errors import SettingError
from diffrender.rays.field import Field, MarchSettings
from diffrender.rays.march import march
from diffrender.volume import Volume

SURFACE = 0.05  # change of a voxel's opacity from voxel to voxel that makes a surface; below, light falls on all sides


@dataclass(frozen=True)
class Light:
    """A light far away, as the sun.

    Attributes:
        towards: where it stands, from the patient, RAS; of any length. By default before, above and to the right of
            the patient, so from the upper left of a frontal view.
        ambient: share of light that comes from everywhere, 0 to 1.
        shadows: whether what lies between dims it.
    Raises: SettingError.
    """

    towards: tuple[float, float, float] = (0.5, 0.7, 0.6)
    ambient: float = 0.4
    shadows: bool = True

    def __post_init__(self):
        length = sum(n * n for n in self.towards) ** 0.5
        if len(self.towards) != 3 or not 0 < length < float("inf"):
            raise SettingError(f"A light stands in a direction (right, anterior, superior), not {self.towards}.")
        if not 0 <= self.ambient <= 1:
            raise SettingError(f"ambient is a share from 0 to 1, not {self.ambient}.")


def shaded_targets(
    volume: Volume,
    transfer: TransferFunction,
    cameras: Sequence[Camera],
    light: Light | None = None,
    sampling_rate: float = 1.0,
) -> list[Target]:
    """A volume as a transfer function colours it, lit: what a renderer without a light must learn from pictures.

    Raises: SettingError.
    Source: Weiss & Navab, section 4.3 (SHADED).
    """
    shown = shaded(volume, transfer, Light() if light is None else light)
    settings = MarchSettings(sampling_rate=sampling_rate)
    return [whole_target(camera, march(shown, camera, settings)) for camera in cameras]


def shaded(volume: Volume, transfer: TransferFunction, light: Light) -> Field:
    """The volume classified voxel by voxel, its colours times (ambient + (1 - ambient) Lambert transmittance)."""
    seen = classified(volume, transfer)
    to_light = torch.tensor(light.towards, dtype=torch.float64)
    to_light = to_light / to_light.norm()
    world = volume.world_from_voxel
    lit = lambert(seen[3], world, to_light)
    if light.shadows:
        lit = lit * transmittance(seen[3], world, to_light)
    return Field(torch.cat([seen[:3] * (light.ambient + (1 - light.ambient) * lit), seen[3:]]), world)


def lambert(
    extinction: Float[Tensor, "k j i"], world_from_voxel: Float[Tensor, "4 4"], to_light: Float[Tensor, "3"]
) -> Float[Tensor, "k j i"]:
    """The cosine between the surface's outward normal and the light, at least 0; where there is no surface, 1.

    Normals point from more to less opacity of a voxel; opacity, not HU, since what is not seen has no surface.

    Args:
        extinction: kappa [1/mm].
        to_light: unit, RAS.
    """
    axes = world_from_voxel[:3, :3].to(extinction)
    opacity = -torch.expm1(-extinction * axes.norm(dim=0).min())
    smooth = F.avg_pool3d(F.pad(opacity[None, None], (1,) * 6, mode="replicate"), 3, 1)[0, 0]
    steps = [_central(smooth, dim) for dim in (2, 1, 0)]  # along i, j, k
    # world gradient = inv(axes).T gradient in voxels
    gradient = torch.einsum("vw,v...->w...", torch.linalg.inv(axes), torch.stack(steps))
    length = gradient.norm(dim=0)
    cosine = -torch.einsum("w,w...->...", to_light.to(gradient), gradient) / length.clamp(min=1e-12)
    sure = (length * axes.norm(dim=0).min() / SURFACE).clamp(max=1)
    return 1 + sure * (cosine.clamp(min=0) - 1)


def transmittance(
    extinction: Float[Tensor, "k j i"], world_from_voxel: Float[Tensor, "4 4"], to_light: Float[Tensor, "3"]
) -> Float[Tensor, "k j i"]:
    """How much of the light reaches each voxel: exp(-integral of kappa on the way to it).

    Kappa is resampled onto planes across the light, a voxel apart, and summed from plane to plane. The way of a voxel's
    light begins where the voxel itself, as interpolation spreads it, has ended: none shades itself.

    Args:
        extinction: kappa [1/mm].
        to_light: unit, RAS.
    """
    world, to_light = world_from_voxel.double().cpu(), to_light.double().cpu()
    voxel_from_world = torch.linalg.inv(world)
    step = float(world[:3, :3].norm(dim=0).min())
    world_from_planes, shape = _planes_across(extinction.shape, world, to_light, step)
    depth = _resampled(extinction, voxel_from_world @ world_from_planes, shape, "constant")
    depth = step * (depth.cumsum(0) - depth / 2)  # from the light to the middle of each plane's slab
    # to the end of the voxel's own tent, and of what the planes make of it
    own = 1 / float((voxel_from_world[:3, :3] @ to_light).abs().max()) + step
    moved = world.clone()
    moved[:3, 3] += own * to_light
    shadow = _resampled(depth, torch.linalg.inv(world_from_planes) @ moved, extinction.shape, "nearest")
    return torch.exp(-shadow).to(extinction.device)


def _planes_across(
    shape: Sequence[int], world_from_voxel: Float[Tensor, "4 4"], to_light: Float[Tensor, "3"], step: float
) -> tuple[Float[Tensor, "4 4"], tuple[int, int, int]]:
    """A lattice around all voxels, `step` [mm] wide, whose planes follow one another with the light; and its shape."""
    z = -to_light
    x = torch.linalg.cross(torch.eye(3, dtype=torch.float64)[int(z.abs().argmin())], z)
    x = x / x.norm()
    frame = torch.stack([x, torch.linalg.cross(z, x), z], 1)
    ends = torch.cartesian_prod(*[torch.tensor([0.0, n - 1.0], dtype=torch.float64) for n in reversed(shape)])
    corners = (ends @ world_from_voxel[:3, :3].T + world_from_voxel[:3, 3]) @ frame
    low, high = corners.amin(0) - 2 * step, corners.amax(0) + 2 * step
    i, j, k = (((high - low) / step).ceil().long() + 1).tolist()
    world_from_planes = torch.eye(4, dtype=torch.float64)
    world_from_planes[:3, :3], world_from_planes[:3, 3] = frame * step, frame @ low
    return world_from_planes, (k, j, i)


def _resampled(
    values: Float[Tensor, "k j i"], values_from_new: Float[Tensor, "4 4"], shape: Sequence[int], outside: str
) -> Float[Tensor, "n m l"]:
    """Trilinear on another lattice; beyond the outermost centres "constant" is 0, "nearest" what is at the edge."""
    order = torch.tensor([2, 1, 0, 3])  # scipy's axes are (k, j, i)
    matrix = values_from_new[order][:, order].numpy()
    found = ndimage.affine_transform(values.cpu().numpy(), matrix, output_shape=tuple(shape), order=1, mode=outside)
    return torch.from_numpy(found)


def _central(values: Float[Tensor, "k j i"], dim: int) -> Float[Tensor, "k j i"]:
    """Half the difference of the neighbours; at the ends the step to the only one."""
    if values.shape[dim] < 2:
        return torch.zeros_like(values)
    return torch.gradient(values, dim=dim)[0]
