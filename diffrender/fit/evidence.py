"""What one view says about the body: its residual as a log likelihood that is worth no more than it is.

Neighbouring residuals are alike, since what the model lacks (soft tissue, gas, the rest of a person's shape) is smooth
in the image. Taken as independent they make every number look ten times more certain than it is, and let small misfits
of the shape move the pose. So the whole term is weakened: by the factor at which the information it claims, J^T J, and
that of residuals with their true correlations, J^T J (J^T C J)^-1 J^T J, agree in the directions that the view shows.
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
RINGS = 24  # frequencies at which the residual's power is taken
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


def evidence_of(
    frame: Frame,
    kind: str,
    shells: Float[Tensor, "k h w"],
    rates: Float[Tensor, "k h w n"],
    prior: Float[Tensor, "n n"],
    robust: float,
    trust: float,
) -> Evidence:
    """Weights and information, from the residual where the fit stands.

    Args:
        prior: precision of x: what the view shows less of than the prior knows does not count.
        trust: from 0 to 1. Far from the end the residual is of the pose, like what x could move, and no noise: then
            (0) the frame is worth its pixels over their squared autocorrelation. At the end (1) it is noise, and worth
            what it leaves in the directions of x. Between the two, a geometric mean.
        robust: patches whose root mean square residual is this many times the usual begin to count less; 0 for none.
    Source: Pauli, Racugno & Ventura, Statistica Sinica 21 (2011) 149: a composite likelihood raised to the power that
        gives it its information's mean.
    """
    plain = Evidence(frame, kind, torch.ones_like(frame.weights), 1.0)
    r, _ = plain.residual(shells, None)
    weights = _robust(r, frame, robust) if robust else plain.weights
    weighted = Evidence(frame, kind, weights, 1.0)
    r, j = weighted.residual(shells, rates)
    assert j is not None
    return Evidence(frame, kind, weights, _information(r, j, frame, prior, trust))


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


def _information(r: Tensor, j: Tensor, frame: Frame, prior: Tensor, trust: float) -> float:
    total = max(float(r.square().sum()), 1e-12)
    least = sum(independent_pixels(image) for image in r.reshape(-1, *frame.weights.shape))
    most = _independent(r.to(torch.float64), j.to(torch.float64), frame, prior)
    return max(least, LEAST) ** (1 - trust) * max(most, LEAST) ** trust / total


def _independent(r: Tensor, j: Tensor, frame: Frame, prior: Tensor) -> float:
    """How many independent numbers the residual is worth in the directions in which x moves it."""
    height, width = frame.weights.shape
    images = r.reshape(-1, height, width)
    count = max(float((frame.weights > 0).sum()) * len(images), 1.0)
    variance = max(float(r.square().sum()) / count, 1e-12)
    power = _rings(torch.fft.rfft2(images).abs().square().sum(0) / count, height, width)
    columns = j.T.reshape(j.shape[1], -1, height, width)
    coloured = torch.fft.irfft2(torch.fft.rfft2(columns) * power, s=(height, width)).flatten(1)
    columns = columns.flatten(1)
    claimed = columns @ columns.T / variance
    true = columns @ coloured.T / variance**2
    known = torch.linalg.inv(claimed + prior)
    return count * float((known * claimed).sum() / (known * true).sum().clamp(min=1e-30))


def _rings(power: Float[Tensor, "h half"], height: int, width: int) -> Float[Tensor, "h half"]:
    """Power averaged over rings of one frequency, interpolated back."""
    rows = torch.fft.fftfreq(height, dtype=torch.float64)[:, None]
    columns = torch.fft.rfftfreq(width, dtype=torch.float64)[None]
    place = (rows.square() + columns.square()).sqrt() / 0.5**0.5 * RINGS
    low = place.long().clamp(max=RINGS - 1)
    twice = torch.where((columns > 0) & (columns < 0.5), 2.0, 1.0).to(power).expand_as(power)  # rfft keeps one of two
    total = torch.zeros(RINGS, dtype=torch.float64).index_add_(0, low.reshape(-1), (power * twice).reshape(-1))
    number = torch.zeros(RINGS, dtype=torch.float64).index_add_(0, low.reshape(-1), twice.reshape(-1))
    mean = total / number.clamp(min=1)
    at = (place - 0.5).clamp(0, RINGS - 1.0001)
    first = at.long()
    return mean[first] * (1 - (at - first)) + mean[first + 1] * (at - first)
