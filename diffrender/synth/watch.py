"""Whether a training of two networks against each other still goes well, or one of them has lost the other."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.errors import notify
from diffrender.synth.gan import StepLosses

RECENT = 50  # steps
TOLD = 0.98  # of pictures and pixels, told rightly over RECENT steps: the discriminator is saturated
ALIKE = 0.15  # of the DRRs' variation between views: the generator shows one picture whatever the view
FLAT = 0.02  # standard deviation of greys (a shown picture has 0.2) below which nothing is shown
UNLIKE = 0.3  # correlation with the DRR below which the anatomy, and with it every label, is lost

SATURATED = "saturated"
COLLAPSED = "collapsed"
SENTENCES = {
    SATURATED: (
        "The discriminator told {told:.0%} of the last {recent} steps' pictures and pixels rightly (saturated): the "
        "generator has little left to learn from. Raise r1, lower discriminator_rate, switch augment on, or give "
        "more radiographs."
    ),
    "alike": (
        "The generator shows the same picture whatever the view: its views differ {value:.0%} as much as their DRRs "
        "(mode collapse)."
    ),
    "flat": "The generator shows one grey: its pictures' standard deviation is {value:.3f}.",
    "unlike": (
        "The generator's pictures have lost the anatomy: they correlate {value:.2f} with their DRRs, so no label would "
        "lie where it should."
    ),
}


class Watch:
    """What has been seen of a training, kept in its save."""

    def __init__(self):
        self.told: list[float] = []
        self.said: list[str] = []  # kinds, in order

    def step(self, losses: StepLosses) -> None:
        """Look at a step's losses; what is wrong is said once."""
        self.told = [*self.told, losses.told][-RECENT:]
        if self.accuracy is not None and self.accuracy >= TOLD:
            self._say(SATURATED, told=self.accuracy, recent=RECENT)

    def epoch(self, pictures: Float[Tensor, "n 1 h w"], drrs: Float[Tensor, "n 1 h w"]) -> dict[str, float]:
        """Look at the previews of an epoch, and at the DRRs of the same views. Returns: the measures by name."""
        found = measures(pictures, drrs)
        for kind, limit in (("flat", FLAT), ("unlike", UNLIKE), ("alike", ALIKE)):
            if found[kind] < limit:
                self._say(kind, value=found[kind])
                break
        return found

    @property
    def accuracy(self) -> float | None:
        """Share of what the discriminator told rightly in the last RECENT steps; None before there are so many."""
        return sum(self.told) / RECENT if len(self.told) == RECENT else None

    @property
    def collapsed(self) -> bool:
        """Whether the generator is lost."""
        return any(kind != SATURATED for kind in self.said)

    def state(self) -> dict[str, Any]:
        """What a resume needs."""
        return {"told": list(self.told), "said": list(self.said)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Back from `state`."""
        self.told, self.said = list(state["told"]), list(state["said"])

    def _say(self, kind: str, **numbers: float) -> None:
        if kind not in self.said:
            self.said.append(kind)
            notify(SENTENCES[kind].format(**numbers))


def measures(pictures: Float[Tensor, "n 1 h w"], drrs: Float[Tensor, "n 1 h w"]) -> dict[str, float]:
    """How far previews are from a collapse.

    Returns: "alike", the standard deviation between views over that of the DRRs (1 for one view); "flat", the mean
        standard deviation within a picture; "unlike", the mean correlation with the DRR.
    """
    between = [float(part.std(0, unbiased=False).mean()) for part in (pictures, drrs)]
    a, b = (part.flatten(1) - part.flatten(1).mean(1, keepdim=True) for part in (pictures, drrs))
    correlation = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-9)
    return {
        "alike": between[0] / between[1] if between[1] > 1e-6 else 1.0,
        "flat": float(a.square().mean(1).sqrt().mean()),
        "unlike": float(correlation.mean()),
    }


def preview(drrs: Float[Tensor, "n 1 h w"], pictures: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "1 rows columns"]:
    """The DRRs of fixed views in a row, and below them the generator's pictures of the same."""
    return torch.cat([torch.cat(list(row), dim=-1) for row in (drrs, pictures)], dim=-2)
