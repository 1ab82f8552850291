"""A paint's colour at a render's luminance, computed in light: what a lit thing of another colour would look like."""

import torch
from jaxtyping import Float
from torch import Tensor

LUMINANCE = (0.2126, 0.7152, 0.0722)  # of linear red, green and blue; ITU-R BT.709


def recoloured(
    rgb: Float[Tensor, "3 *n"], colour: tuple[float, float, float], strength: float = 1.0
) -> Float[Tensor, "3 *n"]:
    """`rgb` with the chromaticity of `colour` and its own luminance, blended with itself by `strength`.

    The paint's light is scaled to the luminance Y of the render; where that leaves the gamut, white light is mixed in
    until it fits, as little as will do. Y is kept to rounding at every strength, and a grey or black paint gives grey.

    Args:
        rgb: sRGB display values 0..1, not premultiplied.
        colour: sRGB display values 0..1.
        strength: 0 leaves the render, 1 takes all of the paint.
    Source: IEC 61966-2-1 (transfer), ITU-R BT.709 (luminance).
    """
    weights = rgb.new_tensor(LUMINANCE)
    light = linear_of(rgb.clamp(0, 1))
    paint = linear_of(rgb.new_tensor(colour))
    brightness = float(weights @ paint)
    unit = paint / brightness if brightness > 0 else torch.ones_like(paint)
    luminance = torch.einsum("c,c...->...", weights, light)
    # Y (1 + t (unit - 1)) has luminance Y at every t; the brightest channel ends at 1, the darkest stays above 0
    over = float(unit.max()) - 1
    mixed = ((1 / luminance.clamp(min=1e-6) - 1) / max(over, 1e-6)).clamp(max=1)
    shape = (3,) + (1,) * luminance.ndim
    painted = luminance * (1 + mixed * (unit - 1).reshape(shape))
    return display_of(light + strength * (painted - light)).clamp(0, 1)


def linear_of(display: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Light of sRGB display values. Source: IEC 61966-2-1."""
    return torch.where(display <= 0.04045, display / 12.92, ((display.clamp(min=0) + 0.055) / 1.055) ** 2.4)


def display_of(linear: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """sRGB display values of light. Source: IEC 61966-2-1."""
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp(min=1e-9) ** (1 / 2.4) - 0.055)
