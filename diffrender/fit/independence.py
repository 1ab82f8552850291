"""How many independent numbers an image of alike neighbours is worth."""

import torch
from jaxtyping import Float
from torch import Tensor

PAIRED = 0.5  # of the pixels: shifts that leave fewer pairs tell too little of how alike pixels are


def independent_pixels(residual: Float[Tensor, "h w"]) -> float:
    """How many independent numbers a correlated image is worth: its pixels over the sum of its squared autocorrelation.

    Pixels that are 0 do not count. The square of a correlation that is estimated from n pairs is too large by
    (that same sum) / n, as Bartlett's formula says of its variance, and thousands of shifts add that up: it is divided
    out, so that white noise counts all its pixels.
    Source: Bartlett, J. R. Stat. Soc. Suppl. 8 (1946) 27, in two dimensions.
    """
    used = residual != 0
    count = float(used.sum())
    variance = float(residual.square().sum()) / max(count, 1.0)
    if variance == 0:
        return count
    product, pairs = (_products(one.to(torch.float64)) for one in (residual, used))
    there = pairs > PAIRED * count
    alike = torch.where(there, product / pairs.clamp(min=1) / variance, 0.0)
    of_chance = torch.where(there, 1 / pairs.clamp(min=1), 0.0).sum()
    return min(count, float(count * (1 + of_chance) / alike.square().sum().clamp(min=1.0)))


def _products(image: Float[Tensor, "h w"]) -> Float[Tensor, "h2 w2"]:
    """The image times itself, summed, at every shift."""
    size = [2 * n for n in image.shape]
    return torch.fft.irfft2(torch.fft.rfft2(image, s=size).abs().square(), s=size)
