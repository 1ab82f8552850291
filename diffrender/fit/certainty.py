"""How certain a fit is: standard deviations, from how the posterior falls off and from what the model lacks."""

import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.camera import Camera
from diffrender.fit.problem import Problem
from diffrender.fit.result import Certainty
from diffrender.fit.scene import POSE

DRAWS = 8  # pairs of opposite steps by which the images' mean curvature is measured
ROUNDS = 3  # of a width and the curvature over that width
LEAST_SHARE = 0.01  # of the images' Hessian: a rise so small is one of rays that miss and hit in turns


def certainty_of(problem: Problem, x: Float[Tensor, "n"], hessian: Float[Tensor, "k k"], first: Camera) -> Certainty:
    """The covariance of what was fitted, and what follows for places.

    Args:
        hessian: Gauss and Newton's, of half the -2 log posterior at x, in the free numbers.
        first: the view whose axis is called depth.
    What was held has no deviation: a fit with its shape frozen states the certainty of its pose for that shape.
    """
    covariance = torch.zeros(len(x), len(x), dtype=torch.float64)
    held = problem.free.nonzero()[:, 0]
    covariance[held[:, None], held] = _covariance(problem, x, hessian)
    place = covariance[:3, :3]
    axis = first.direction
    across = first.world_from_camera[:3, :2]
    rates = problem.scene.vertex_rates(x)
    lacking = problem.scene.model.unexplained.to(torch.float64) if bool(problem.free[POSE:].any()) else None
    return Certainty(
        covariance=covariance,
        pose=covariance.diagonal()[:POSE].clamp(min=0).sqrt(),
        depth=float((axis @ place @ axis).clamp(min=0).sqrt()),
        in_plane=float(torch.linalg.eigvalsh(across.T @ place @ across).amax().clamp(min=0).sqrt()),
        vertices=_deviation(rates, covariance, lacking),
        landmarks={
            name: _deviation(
                landmark.at(rates)[:, None],
                covariance,
                None if lacking is None else lacking[landmark.vertices].square().mean().sqrt()[None],
            )[0]
            for name, landmark in problem.scene.model.landmarks_at.items()
        },
    )


def _covariance(problem: Problem, x: Float[Tensor, "n"], hessian: Float[Tensor, "k k"]) -> Float[Tensor, "k k"]:
    """The normal distribution nearest to the posterior, as far as it is the prior with a share of the images' Hessian.

    Bone edges are narrow: within a fraction of a millimetre the images' cost rises as Gauss and Newton's Hessian says,
    and then hardly any more, so that a seventh to a fifteenth of it is what holds over the width that follows. The
    share is the one at which the Hessian's mean rise over the distribution is the rise that is drawn.
    Source: Opper & Archambeau, Neural Comput. 21 (2009) 786, doi:10.1162/neco.2008.08-07-592: the precision of the
        nearest normal distribution is the prior's and the mean curvature over that distribution.
    """
    prior = problem.precision[problem.free][:, problem.free]
    images, here, share = hessian - prior, x[problem.free], 1.0
    lowest = sum(problem.image_cost(x))
    draws = torch.randn(DRAWS, len(here), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for _ in range(ROUNDS):
        steps = draws @ torch.linalg.cholesky(torch.linalg.inv(prior + share * images)).T
        ends = [problem.whole(here + sign * step) for step in steps for sign in (1, -1)]
        rise = sum(sum(problem.image_cost(end)) - lowest for end in ends) / 2
        claimed = float(torch.einsum("nk,kl,nl->", steps, images, steps))
        share = min(1.0, max(rise / claimed, LEAST_SHARE)) if claimed > 0 else 1.0
    return torch.linalg.inv(prior + share * images)


def _deviation(rates: Tensor, covariance: Tensor, lacking: Tensor | None) -> Float[Tensor, "v 3"]:
    """Per axis, from how places move with x and from what the model does not explain [mm]."""
    variance = torch.einsum("nvd,nm,mvd->vd", rates, covariance, rates)
    if lacking is not None:
        variance = variance + lacking.square()[:, None]
    return variance.clamp(min=0).sqrt()
