"""How far a picture is from its target: MSE, SSIM, alpha, edges; all of them weighted pixel by pixel."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from diffrender.dvr.targets import PAINTED, Target
from diffrender.errors import SettingError

WINDOW, SIGMA = 11, 1.5  # px; of the Gaussian in which SSIM compares
K1, K2 = 0.01, 0.03
SCALES = 3  # of the gradient term, each half the size of the one before
SMALLEST = 1e-10  # mean square below which a PSNR says no more than 100 dB


@dataclass(frozen=True)
class LossSettings:
    """How the parts of the loss are added up; 0 leaves one out.

    Attributes:
        mse: of the colours.
        ssim: of 1 - SSIM of the colours; 0 for targets that are plain images of the same volume (the paper's 4.1).
        alpha: of the mean square of alpha.
        gradient: of the differences of neighbouring pixels at three scales: edges, with no network behind it.
        perceptual: of LPIPS, whose weights are read from `perceptual_file`; see `diffrender.dvr.perceptual`.
    Raises: SettingError.
    """

    mse: float = 1.0
    ssim: float = 1.0
    alpha: float = 1.0
    gradient: float = 0.0
    perceptual: float = 0.0
    perceptual_file: str | Path | None = None

    def __post_init__(self):
        parts = {name: getattr(self, name) for name in ("mse", "ssim", "alpha", "gradient", "perceptual")}
        wrong = [name for name, part in parts.items() if not 0 <= part < float("inf")]
        if wrong or not any(parts.values()):
            raise SettingError(f"Parts of a loss are numbers from 0 on, one of them above 0; these are {parts}.")
        if self.perceptual and self.perceptual_file is None:
            raise SettingError(
                "A perceptual loss needs the weights of LPIPS, which do not come with DiffRender and are not "
                "downloaded. Give them as perceptual_file, or take `gradient`, which compares edges and needs none."
            )


def loss_of(image: Float[Tensor, "4 h w"], target: Target, settings: LossSettings | None = None) -> Float[Tensor, ""]:
    """How far `image` is from `target`; differentiable in the image.

    Each part is a mean weighted by the target's weights, so that it does not grow with the image or with the paint.
    Source: Weiss & Navab, eq. 15: MSE + (1 - SSIM); the terms of alpha and of edges are ours.
    """
    settings = LossSettings() if settings is None else settings
    colour, wanted, weight = image[:3], target.image[:3], target.weight
    total = image.sum() * 0
    if settings.mse:
        total = total + settings.mse * mean_square(colour, wanted, weight)
    if settings.ssim and bool((weight > 0).any()):
        total = total + settings.ssim * (1 - ssim(colour, wanted, weight))
    if settings.alpha:
        total = total + settings.alpha * mean_square(image[3:], target.image[3:], target.alpha_weight)
    if settings.gradient:
        total = total + settings.gradient * gradient_difference(colour, wanted, weight)
    if settings.perceptual and settings.perceptual_file is not None:
        from diffrender.dvr.perceptual import lpips, weights_of

        weights = weights_of(settings.perceptual_file, str(image.device))
        total = total + settings.perceptual * lpips(colour, wanted, weights, weight)
    return total


def scores_of(image: Float[Tensor, "4 h w"], target: Target) -> dict[str, float]:
    """How well an image meets a target: "psnr" [dB] and "ssim", weighted as the loss is.

    "psnr-painted" [dB] is that of the painted pixels alone, where some are painted and others are not.
    """
    colour, wanted = image[:3], target.image[:3]
    if not bool((target.weight > 0).any()):  # all that is asked for is hidden: alpha alone counts
        return {"psnr": psnr(image[3:], target.image[3:], target.alpha_weight)}
    scores = {
        "psnr": psnr(colour, wanted, target.weight),
        "ssim": float(ssim(colour, wanted, target.weight)),
    }
    painted = target.weight >= PAINTED
    if bool(painted.any()) and not bool(painted.all()):
        scores["psnr-painted"] = psnr(colour, wanted, painted)
    return scores


def mean_square(
    a: Float[Tensor, "c h w"], b: Float[Tensor, "c h w"], weight: Float[Tensor, "h w"] | Bool[Tensor, "h w"] | None
) -> Float[Tensor, ""]:
    """The weighted mean of the squared differences; 0 where nothing weighs."""
    return _mean((a - b) ** 2, weight)


def psnr(
    a: Float[Tensor, "c h w"],
    b: Float[Tensor, "c h w"],
    mask: Float[Tensor, "h w"] | Bool[Tensor, "h w"] | None = None,
) -> float:
    """Peak signal-to-noise ratio [dB] of values 0..1, over the pixels of a mask or weighted; at most 100."""
    return -10 * float(mean_square(a, b, mask).clamp(min=SMALLEST).log10())


def ssim(
    a: Float[Tensor, "c h w"],
    b: Float[Tensor, "c h w"],
    mask: Float[Tensor, "h w"] | Bool[Tensor, "h w"] | None = None,
) -> Float[Tensor, ""]:
    """Structural similarity of values 0..1: the weighted mean of `ssim_map` over the pixels of a mask."""
    return _mean(ssim_map(a, b, None if mask is None else mask > 0), mask)


def ssim_map(
    a: Float[Tensor, "c h w"], b: Float[Tensor, "c h w"], mask: Bool[Tensor, "h w"] | None = None
) -> Float[Tensor, "c h w"]:
    """Structural similarity about every pixel, of the pixels of the mask alone, with the usual constants.

    A window is cut where the image or the mask ends, and what is left of it counts in full, so an image may be smaller
    than a window; where the windows lie whole this is the published index.
    Source: Wang et al., IEEE Trans. Image Process. 13 (2004) 600, doi:10.1109/TIP.2003.819861.
    """
    known = torch.ones_like(a[0]) if mask is None else mask.to(a.dtype)
    moments = torch.stack([a, b, a * a, b * b, a * b]) * known
    share = _blurred(known[None, None]).clamp(min=1e-6)
    mean_a, mean_b, aa, bb, ab = (_blurred(moments) / share).unbind(0)
    c1, c2 = K1**2, K2**2
    similar = (2 * mean_a * mean_b + c1) * (2 * (ab - mean_a * mean_b) + c2)
    return similar / ((mean_a**2 + mean_b**2 + c1) * (aa - mean_a**2 + bb - mean_b**2 + c2))


def gradient_difference(
    a: Float[Tensor, "c h w"], b: Float[Tensor, "c h w"], weight: Float[Tensor, "h w"] | None = None
) -> Float[Tensor, ""]:
    """Mean absolute difference of steps from pixel to pixel, over three scales; an edge weighs as its lesser end."""
    weight = torch.ones_like(a[0]) if weight is None else weight
    difference, total, scales = a - b, a.sum() * 0, 0
    while scales < SCALES and min(difference.shape[-2:]) > 1:
        down, right = (weight[1:], weight[:-1]), (weight[:, 1:], weight[:, :-1])
        total = total + _mean(difference.diff(dim=-2).abs(), torch.minimum(*down))
        total = total + _mean(difference.diff(dim=-1).abs(), torch.minimum(*right))
        difference = F.avg_pool2d(difference[None], 2)[0]
        weight = -F.max_pool2d(-weight[None, None], 2)[0, 0]  # a pixel of the next scale knows only what all four do
        scales += 1
    return total / max(scales, 1)


def better(scores: Mapping[str, float], than: Mapping[str, float] | None) -> bool:
    """Whether scores are better than others: by SSIM, or by PSNR where there is none."""
    if than is None:
        return True
    key = "ssim" if "ssim" in scores else "psnr"
    return scores[key] > than[key]


def _mean(values: Tensor, weight: Tensor | None) -> Float[Tensor, ""]:
    if weight is None:
        return values.mean()
    weight = weight.to(values.dtype)
    return (values * weight).sum() / (weight.sum() * len(values)).clamp(min=1e-9)


def _blurred(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """With the Gaussian, 0 beyond the border."""
    line = torch.tensor(_gaussian(), dtype=images.dtype, device=images.device)
    flat = images.reshape(1, -1, *images.shape[-2:])
    down = line.reshape(1, 1, -1, 1).expand(flat.shape[1], -1, -1, -1)
    once = F.conv2d(flat, down, padding=(WINDOW // 2, 0), groups=flat.shape[1])
    twice = F.conv2d(once, down.transpose(-1, -2), padding=(0, WINDOW // 2), groups=flat.shape[1])
    return twice.reshape(images.shape)


@cache
def _gaussian() -> tuple[float, ...]:
    at = torch.arange(WINDOW, dtype=torch.float64, device="cpu") - WINDOW // 2
    bell = torch.exp(-(at**2) / (2 * SIGMA**2))
    return tuple((bell / bell.sum()).tolist())
