"""How many independent numbers an image of alike neighbours is worth."""

import torch
from jaxtyping import Float
from torch import Tensor


def independent_pixels(residual: Float[Tensor, "h w"]) -> float:
    """How many independent numbers a correlated image is worth: its pixels over the sum of its squared autocorrelation.

    Source: Bartlett's effective number for the variance of a sum of products, in two dimensions.
    """
    used = residual != 0
    size = [2 * n for n in residual.shape]
    spectrum = torch.fft.rfft2(residual.to(torch.float64), s=size).abs().square()
    of_pixels = torch.fft.rfft2(used.to(torch.float64), s=size).abs().square()
    product, pairs = (torch.fft.irfft2(one, s=size) for one in (spectrum, of_pixels))
    variance = float(residual.square().sum()) / max(float(used.sum()), 1.0)
    if variance == 0:
        return float(used.sum())
    alike = torch.where(pairs > 0.2 * float(used.sum()), product / pairs.clamp(min=1) / variance, 0.0)
    return float(used.sum() / alike.square().sum().clamp(min=1.0))
