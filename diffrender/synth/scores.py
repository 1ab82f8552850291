"""How well masks agree with what a person drew."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from diffrender.synth.films import Film
from diffrender.synth.pairs import Masked
from diffrender.synth.segmenter import Segmenter


@dataclass(frozen=True, eq=False)
class Scored:
    """One radiograph, what was found on it, and what a person drew.

    Attributes:
        dice: of each label; NaN where the person drew none and none was found.
    """

    one: Masked
    found: Bool[np.ndarray, "label h w"]
    dice: tuple[float, ...]

    @property
    def film(self) -> Film:
        return self.one.film

    @property
    def mean(self) -> float:
        """Over the labels that are there."""
        known = [value for value in self.dice if value == value]
        return float(np.mean(known)) if known else float("nan")


def dice(found: Bool[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"], known: Bool[np.ndarray, "h w"]) -> float:
    """2 |A and B| / (|A| + |B|) where it is known what is there; NaN where both are empty.

    Source: Dice, Ecology 26 (1945) 297, doi:10.2307/1932409.
    """
    a, b = found & known, truth & known
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else float("nan")


def evaluate_segmenter(segmenter: Segmenter, masked: Sequence[Masked]) -> list[Scored]:
    """Every radiograph scored, the worst first."""
    scored = []
    for one in masked:
        found = segmenter.segment(one.film)
        values = tuple(dice(a, b, one.known) for a, b in zip(found, one.masks, strict=True))
        scored.append(Scored(one, found, values))
    return sorted(scored, key=lambda one: (one.mean == one.mean, one.mean))  # without any label first


def mean_dice(scored: Sequence[Scored]) -> float:
    """Over images, of each the mean over its labels."""
    return float(np.nanmean([one.mean for one in scored])) if scored else float("nan")
