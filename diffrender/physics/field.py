"""The open beam over the detector: inverse square, the angle it meets it at, the tube's heel, shutters."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffrender.camera import Camera
from diffrender.physics.materials import mass_attenuation, material_named
from diffrender.physics.settings import Collimation, Heel
from diffrender.physics.spectra import Spectrum


def open_field(
    camera: Camera, inverse_square: bool = True, heel: Heel | None = None, seen: Spectrum | None = None
) -> Float[Tensor, "h w"]:
    """The beam without patient and shutters, relative to the ray that meets the detector at a right angle; float64.

    Args:
        seen: the spectrum as the detector absorbs it; a heel needs it.
    """
    y, x = _places(camera)
    field = torch.ones(camera.image_size, dtype=torch.float64)
    if inverse_square:
        cosine = camera.source_to_detector / torch.sqrt(camera.source_to_detector**2 + x**2 + y**2)
        field = field * cosine**3  # the distance twice, and once since the detector is met at an angle
    if heel is not None and seen is not None:
        along = {"top": -y, "bottom": y, "left": -x, "right": x}[heel.towards]
        field = field * heel_factor(torch.atan(along / camera.source_to_detector), heel, seen)
    return field


def heel_factor(angle: Float[Tensor, "*n"], heel: Heel, seen: Spectrum) -> Float[Tensor, "*n"]:
    """What the target lets out towards `angle` from the central ray [rad, + to the anode], relative to that ray.

    A photon made at depth d, on the electrons' way, has d cos(a) / sin(a - angle) of tungsten before it, with a the
    angle of the target's face to the central ray; beyond the face (angle >= a) nothing comes out. The whole spectrum is
    weighed so; that it is harder on the anode's side then is left out of the patient.
    """
    a = math.radians(heel.anode_angle)
    path = heel.depth * math.cos(a) * (1 / torch.sin(a - angle).clamp(min=1e-3) - 1 / math.sin(a))
    density = material_named("tungsten").density
    attenuation = mass_attenuation("tungsten", seen.energies).double() * density / 10
    weight = (seen.fluence * seen.energies).double()
    out = (torch.exp(-path[..., None] * attenuation) * weight).sum(-1) / weight.sum()
    return torch.where(angle < a, out, 0.0)


def shutters(camera: Camera, collimation: Collimation) -> tuple[Float[Tensor, "h w"], Bool[Tensor, "h w"]]:
    """The share of the beam that shutters let pass, and the pixels that count as exposed: where more than half does."""
    (h, w), (row_step, column_step) = camera.image_size, camera.pixel_size
    top, right, bottom, left = collimation.margins
    rows = (torch.arange(h, dtype=torch.float64) + 0.5) * row_step
    columns = (torch.arange(w, dtype=torch.float64) + 0.5) * column_step
    down = _edge(rows, top, collimation) * _edge(h * row_step - rows, bottom, collimation)
    across = _edge(columns, left, collimation) * _edge(w * column_step - columns, right, collimation)
    passed = down[:, None] * across[None, :]
    return collimation.leak + (1 - collimation.leak) * passed, passed > 0.5


def _edge(inside: Float[Tensor, "n"], margin: float, collimation: Collimation) -> Float[Tensor, "n"]:
    """The share passed at a distance `inside` the image's border, where shutters reach `margin` into it [mm]."""
    if margin == 0:
        return torch.ones_like(inside)
    if collimation.edge == 0:
        return (inside > margin).double()
    return 0.5 * (1 + torch.erf((inside - margin) / (math.sqrt(2) * collimation.edge)))


def _places(camera: Camera) -> tuple[Float[Tensor, "h 1"], Float[Tensor, "1 w"]]:
    """(y, x) of rows and columns on the detector from where the ray at a right angle meets it [mm]."""
    (h, w), (row_step, column_step), (row, column) = camera.image_size, camera.pixel_size, camera.principal_point
    y = (torch.arange(h, dtype=torch.float64) + 0.5 - row) * row_step
    x = (torch.arange(w, dtype=torch.float64) + 0.5 - column) * column_step
    return y[:, None], x[None, :]
