"""How alike a picture and a frame are where it does not belong: what a likeness has to beat to mean anything.

A pelvis fills its frame and reaches a likeness of 0.6. A radius beside an ulna, or one bone among many, may be right at
0.25; and a smooth shadow may reach 0.4 anywhere. So no fixed number tells a fit that found something.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffrender.fit.frames import Frame
from diffrender.fit.similarity import similarity

HIGH = 0.98  # share of the wrong places that are less alike than what is called chance
OWN = 0.3  # correlation of the picture with itself, shifted or turned over, from which that is not a wrong place
OVERLAP = 0.6  # of the picture's pixels that must fall on the frame
FEWEST = 50  # wrong places; from fewer nothing is known


def likeness_and_chance(picture: Float[Tensor, "h w"], frame: Frame, near: Frame) -> tuple[float, float]:
    """The correlation of a picture with a frame, and the one that hardly any wrong place exceeds.

    Args:
        picture: bone bright, where the fit has it.
        frame: all of it.
        near: the same with no weight far from the picture's shadow, which is what the fit compared.
    The picture is put at every shift, as it is and turned over three ways. Local mean and contrast are taken out first.
    Chance is 0 where too few places can be tried.
    """
    return float(similarity("correlation", picture, near)), _chance(picture, frame, near)


def _chance(picture: Tensor, frame: Frame, near: Frame) -> float:
    there = near.weights.to(torch.float64)
    shown, target = near.normalised(picture).to(torch.float64), frame.normalised(frame.image).to(torch.float64)
    scores = []
    for turned in ((), (0,), (1,), (0, 1)):
        mask, own = there.flip(turned), shown.flip(turned)
        alike, wrong = _everywhere(own, mask, target, frame.weights.to(torch.float64))
        itself, _ = _everywhere(own, mask, shown, there)
        scores.append(alike[wrong & (itself < OWN)])
    found = torch.cat(scores)
    return float(found.quantile(HIGH)) if len(found) >= FEWEST else 0.0


def _everywhere(
    shown: Tensor, mask: Tensor, target: Tensor, weights: Tensor
) -> tuple[Float[Tensor, "h2 w2"], Bool[Tensor, "h2 w2"]]:
    """The correlation of one image with another at every shift, and where enough of the one falls on the other."""
    size = [2 * n for n in shown.shape]

    def slid(a: Tensor, b: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(a, s=size).conj() * torch.fft.rfft2(b, s=size), s=size)

    covered = slid((mask > 0).to(shown), (weights > 0).to(shown))
    seen = slid(shown.square(), (weights > 0).to(shown)) * slid((mask > 0).to(shown), target.square())
    alike = slid(shown, target) / seen.clamp(min=1e-9 * max(float(seen.amax()), 1e-30)).sqrt()
    return alike, covered > OVERLAP * float((mask > 0).sum())
