"""Blur: Gaussians as products of matrices, which lose nothing and wrap around nothing; other spreads by transfer."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

MIRRORED = 16  # pixels beyond each edge


def gaussian_rows(n: int, step: float, sigma: float, like: Tensor, normalised: bool) -> Float[Tensor, "n n"]:
    """What each of n pixels of `step` [mm] gets of a Gaussian of deviation `sigma` [mm] about each other.

    Args:
        normalised: weights of each pixel add up to 1, so that a flat image stays flat to its edges; else what spreads
            beyond the image is lost.
    """
    centres = torch.arange(n, dtype=torch.float64) * step
    apart = centres[:, None] - centres[None, :]
    scale = 1 / (math.sqrt(2.0) * max(sigma, 1e-9))
    weights = 0.5 * (torch.erf((apart + step / 2) * scale) - torch.erf((apart - step / 2) * scale))
    if normalised:
        weights = weights / weights.sum(1, keepdim=True)
    return weights.to(like)


def gaussian(
    image: Float[Tensor, "*n h w"], steps: tuple[float, float], sigma: float, normalised: bool = True
) -> Float[Tensor, "*n h w"]:
    """An image spread by a Gaussian of deviation `sigma`, in the unit of the pixels' `steps` (row, column)."""
    h, w = image.shape[-2:]
    rows, columns = (gaussian_rows(n, step, sigma, image, normalised) for n, step in zip((h, w), steps, strict=True))
    return rows @ image @ columns.T


def filtered(
    image: Float[Tensor, "h w"],
    steps: tuple[float, float],
    transfer: Callable[[Tensor, Tensor], Tensor],
    beyond: str = "reflect",
) -> Float[Tensor, "h w"]:
    """An image times a transfer function of spatial frequency.

    Args:
        steps: the pixels' (row, column) [mm].
        transfer: of frequencies along the rows' index (rows, 1) and along the columns' (1, half the columns) [1/mm].
        beyond: the edges: "reflect" mirrors the image there, "circular" joins opposite edges, for noise.
    """
    h, w = image.shape
    pad = (min(MIRRORED, h - 1), min(MIRRORED, w - 1)) if beyond == "reflect" else (0, 0)
    if any(pad):
        image = torch.nn.functional.pad(image[None, None], (pad[1], pad[1], pad[0], pad[0]), mode="reflect")[0, 0]
    spectrum = torch.fft.rfft2(image)
    shape = tuple(image.shape)
    along_rows = torch.fft.fftfreq(shape[0], steps[0], dtype=torch.float64)[:, None]
    along_columns = torch.fft.rfftfreq(shape[1], steps[1], dtype=torch.float64)[None, :]
    spectrum = spectrum * transfer(along_rows, along_columns).to(image)
    return torch.fft.irfft2(spectrum, s=shape)[pad[0] : pad[0] + h, pad[1] : pad[1] + w]
