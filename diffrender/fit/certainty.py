"""How certain a fit is: standard deviations of its errors, from the weakened Hessian and from what the model lacks."""

import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.camera import Camera
from diffrender.fit.problem import Problem
from diffrender.fit.result import Certainty
from diffrender.fit.scene import POSE
from diffrender.pose import motion

SMALL = 1e-4  # mm or rad; step of the central differences of the pose


def certainty_of(problem: Problem, x: Float[Tensor, "n"], hessian: Float[Tensor, "k k"], first: Camera) -> Certainty:
    """The covariance of what was fitted, and what follows for places.

    Args:
        hessian: of half the -2 log posterior at x, in the free numbers.
        first: the view whose axis is called depth.
    What was held has no deviation: a fit with its shape frozen states the certainty of its pose for that shape.
    """
    covariance = torch.zeros(len(x), len(x), dtype=torch.float64)
    held = problem.free.nonzero()[:, 0]
    covariance[held[:, None], held] = torch.linalg.inv(hessian)
    place = covariance[:3, :3]
    axis = first.direction
    across = first.world_from_camera[:3, :2]
    rates = _vertex_rates(problem, x)
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


def _vertex_rates(problem: Problem, x: Tensor) -> Float[Tensor, "n v 3"]:
    """How every vertex moves with x in the world [mm]."""
    scene = problem.scene
    pose, points = scene.pose(x), scene.points(x).to(torch.float64)
    rates = torch.zeros(len(x), *points.shape, dtype=torch.float64)
    start = points @ scene.world_from_model[:3, :3].T + scene.world_from_model[:3, 3]
    for n in range(POSE):
        step = torch.zeros(POSE, dtype=torch.float64)
        step[n] = SMALL
        further, back = (motion(x[:POSE] + sign * step, scene.centre) for sign in (1, -1))
        rates[n] = (start @ (further - back)[:3, :3].T + (further - back)[:3, 3]) / (2 * SMALL)
    of_shape = scene.rates(x).to(torch.float64) @ pose[:3, :3].T
    rates[POSE : POSE + len(of_shape)] = of_shape
    return rates


def _deviation(rates: Tensor, covariance: Tensor, lacking: Tensor | None) -> Float[Tensor, "v 3"]:
    """Per axis, from how places move with x and from what the model does not explain [mm]."""
    variance = torch.einsum("nvd,nm,mvd->vd", rates, covariance, rates)
    if lacking is not None:
        variance = variance + lacking.square()[:, None]
    return variance.clamp(min=0).sqrt()
