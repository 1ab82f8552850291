"""How certain a fit is: standard deviations of its errors, from the weakened Hessian and from what the model lacks."""

import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.camera import Camera
from diffrender.fit.problem import Problem
from diffrender.fit.result import Certainty
from diffrender.fit.scene import POSE


def certainty_of(problem: Problem, x: Float[Tensor, "n"], hessian: Float[Tensor, "k k"], first: Camera) -> Certainty:
    """The covariance of what was fitted, and what follows for places.

    Args:
        hessian: of half the -2 log posterior at x, in the free numbers.
        first: the view whose axis is called depth.
    What was held has no deviation: a fit with its shape frozen states the certainty of its pose for that shape.
    """
    covariance = torch.zeros(len(x), len(x), dtype=torch.float64)
    held = problem.free.nonzero()[:, 0]
    covariance[held[:, None], held] = torch.linalg.inv(_shared(problem, hessian))
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


def _shared(problem: Problem, hessian: Float[Tensor, "k k"]) -> Float[Tensor, "k k"]:
    """The precision that is stated: what the model lacks of a shape is in every view alike, so that several views find
    pose and shape but do not average that error away. They count together as one."""
    prior = problem.precision[problem.free][:, problem.free]
    return prior + (hessian - prior) / len(problem.evidence)


def _deviation(rates: Tensor, covariance: Tensor, lacking: Tensor | None) -> Float[Tensor, "v 3"]:
    """Per axis, from how places move with x and from what the model does not explain [mm]."""
    variance = torch.einsum("nvd,nm,mvd->vd", rates, covariance, rates)
    if lacking is not None:
        variance = variance + lacking.square()[:, None]
    return variance.clamp(min=0).sqrt()
