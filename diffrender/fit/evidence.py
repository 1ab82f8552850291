"""What one view says about the body: its residual as a log likelihood that is worth no more than it is.

Neighbouring residuals are alike, since what the model lacks (soft tissue, gas, the rest of a person's shape) is smooth
in the image. Taken as independent they make every number look ten times more certain than it is, and let small misfits
of the shape move the pose. So a frame counts as a share of the independent numbers that its residual is worth.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.fit.frames import Frame, blurred
from diffrender.fit.independence import independent_pixels
from diffrender.fit.levenberg import Normal
from diffrender.fit.similarity import residual

PATCH = 4.0  # px; over such a patch a residual is large or small: gas, tools, a neighbouring bone
FREEDOM = 3.0  # degrees of freedom of Student's t, whose weights such patches get
LEAST = 10.0  # independent numbers that any frame is worth
# Attenuation of the inside over that of the shell, both beyond soft tissue: about 200 HU by 1400 HU. Before a fit
# stands, a blurred picture suits any frame, so it is held sparse.
SPARSE = (0.05, 0.5)


@dataclass(frozen=True, eq=False)
class Evidence:
    """One view at one stage.

    Attributes:
        frame: what is compared with.
        kind: the similarity.
        weights: (h, w), roots of the robust weights.
        information: -2 log likelihood per squared, weighted residual.
    """

    frame: Frame
    kind: str
    weights: Float[Tensor, "h w"]
    information: float

    def normal(self, shells: Float[Tensor, "k h w"], rates: Float[Tensor, "k h w n"] | None) -> Normal:
        """-2 log likelihood of path lengths through nested surfaces, and its derivatives."""
        r, j = self.residual(shells, rates)
        cost = self.information * float(r @ r)
        if j is None:
            return Normal(cost)
        r, j = r.to(torch.float64), j.to(torch.float64)
        return Normal(cost, self.information * (j.T @ r), self.information * (j.T @ j))

    def residual(
        self, shells: Float[Tensor, "k h w"], rates: Float[Tensor, "k h w n"] | None
    ) -> tuple[Float[Tensor, "pixels"], Float[Tensor, "pixels n"] | None]:
        """The similarity's own residual, robustly weighted."""
        shown, shown_rates = mixed(shells, rates, self.frame, self.kind)
        r, j = residual(self.kind, shown, self.frame, shown_rates)
        weights = self.weights.to(r).expand(len(r) // self.weights.numel(), *self.weights.shape).reshape(-1)
        return r * weights, None if j is None else j * weights[:, None]


def evidence_of(frame: Frame, kind: str, shells: Float[Tensor, "k h w"], robust: float, share: float) -> Evidence:
    """Weights and information, from the residual where the fit stands.

    Args:
        robust: patches whose root mean square residual is this many times the usual begin to count less; 0 for none.
        share: of the independent numbers that the residual is worth, those that count: half of what is left is no
            noise, but like what x could move.
    """
    plain = Evidence(frame, kind, torch.ones_like(frame.weights), 1.0)
    r, _ = plain.residual(shells, None)
    weights = _robust(r, frame, robust) if robust else plain.weights
    r, _ = Evidence(frame, kind, weights, 1.0).residual(shells, None)
    count = sum(independent_pixels(image) for image in r.reshape(-1, *frame.weights.shape))
    return Evidence(frame, kind, weights, max(share * count, LEAST) / max(float(r.square().sum()), 1e-12))


def mixed(
    shells: Float[Tensor, "k h w"], rates: Float[Tensor, "k h w n"] | None, frame: Frame, kind: str
) -> tuple[Tensor, Tensor | None]:
    """The picture of a bone with a dense shell: the multiples of its nested path lengths that suit the frame best.

    The multiples are held in the derivative: where they are best, it does not depend on them.
    """
    if kind == "labels":
        return shells, rates
    share = 0.0
    if len(shells) > 1:
        outer, inner, image = (
            frame.normalised(one).reshape(-1).to(torch.float64) for one in (shells[0], shells[1], frame.image)
        )
        basis = torch.stack([outer - inner, inner])
        gram = basis @ basis.T
        gram = gram + 1e-9 * torch.eye(2, dtype=gram.dtype) * gram.diagonal().amax().clamp(min=1e-30)
        shell, inside = torch.linalg.solve(gram, basis @ image).tolist()
        share = min(max(inside / shell, SPARSE[0]), SPARSE[1]) if shell > 0 else SPARSE[1]
    shown = shells[0] if len(shells) == 1 else shells[0] - (1 - share) * shells[1]
    if rates is None:
        return shown, None
    return shown, rates[0] if len(shells) == 1 else rates[0] - (1 - share) * rates[1]


def _robust(r: Tensor, frame: Frame, threshold: float) -> Float[Tensor, "h w"]:
    """Roots of Student's weights of the residual's energy in patches."""
    height, width = frame.weights.shape
    energy = r.reshape(-1, height, width).square().mean(0)
    reached = (frame.weights > 0).to(energy)
    around = blurred(energy, (PATCH, PATCH)) / blurred(reached, (PATCH, PATCH)).clamp(min=1e-6)
    usual = around[reached > 0].median().clamp(min=1e-30)
    beyond = around / (usual * threshold)
    return ((FREEDOM + 1) / (FREEDOM + beyond)).clamp(max=1.0).sqrt() * reached
