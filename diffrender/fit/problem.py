"""What a fit of a shape model minimises: -2 log posterior of pose, shape and joint, given all views."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.camera import Camera
from diffrender.errors import LabelError
from diffrender.fit.evidence import Evidence, evidence_of, mixed
from diffrender.fit.frames import Frame
from diffrender.fit.levenberg import Normal
from diffrender.fit.scene import POSE, Scene
from diffrender.fit.settings import FitSettings
from diffrender.fit.similarity import similarity

AROUND = 20.0  # mm on the image plane: so far from the model's shadow its edge may still lie
UNKNOWN = 1e-8  # precision of what no prior holds [1/mm^2, 1/rad^2]


@dataclass(frozen=True, eq=False)
class Problem:
    """One stage of a fit: a cost in those numbers of x that are free.

    Attributes:
        scene: what is drawn.
        evidence: of each view.
        precision: (n, n) of the prior of x, whose mean is 0.
        free: (n,) bool.
        held: x with the values of what is not free.
    """

    scene: Scene
    evidence: tuple[Evidence, ...]
    precision: Float[Tensor, "n n"]
    free: Tensor
    held: Float[Tensor, "n"]

    def whole(self, y: Float[Tensor, "k"]) -> Float[Tensor, "n"]:
        """x from its free numbers."""
        x = self.held.clone()
        x[self.free] = y
        return x

    def evaluate(self, y: Float[Tensor, "k"], wanted: bool) -> Normal:
        """-2 log posterior, up to a constant, with half its gradient and Gauss-Newton Hessian."""
        x = self.whole(y)
        cost = float(x @ self.precision @ x)
        if not wanted:
            return Normal(cost + sum(self.image_cost(x)))
        gradient, hessian = self.precision @ x, self.precision.clone()
        for view, evidence in enumerate(self.evidence):
            found = evidence.normal(*self.scene.pictures_and_rates(x, evidence.frame.camera, view))
            assert found.gradient is not None
            assert found.hessian is not None
            cost, gradient, hessian = cost + found.cost, gradient + found.gradient, hessian + found.hessian
        return Normal(cost, gradient[self.free], hessian[self.free][:, self.free])

    def image_cost(self, x: Float[Tensor, "n"]) -> list[float]:
        """-2 log likelihood of each view."""
        return [
            evidence.normal(self.scene.pictures(x, evidence.frame.camera, view), None).cost
            for view, evidence in enumerate(self.evidence)
        ]


def problem_at(
    scene: Scene, frames: list[Frame], x: Float[Tensor, "n"], settings: FitSettings, share: float
) -> Problem:
    """The stage that begins at x: weights and information are those of the residual there."""
    precision, free = prior_of(scene, frames[0].camera, settings), free_of(scene, settings)
    evidence = []
    for view, frame in enumerate(frames):
        shells = scene.pictures(x, frame.camera, view)
        evidence.append(evidence_of(nearby(frame, shells), settings.similarity, shells, settings.robust, share))
    return Problem(scene, tuple(evidence), precision, free, x.clone())


def nearby(frame: Frame, shells: Float[Tensor, "layer h w"]) -> Frame:
    """The frame with no weight far from the model's shadow: femurs and spine are not in the model."""
    return frame.near(shells.amax(0) > 0, AROUND)


def prior_of(scene: Scene, first: Camera, settings: FitSettings) -> Float[Tensor, "n n"]:
    """Precision of x: the box about the start, depth along the first view apart where it is stated, coefficients
    (Mahalanobis), the joint, and each view's own motion."""
    precision = torch.zeros(scene.size, scene.size, dtype=torch.float64)
    place = _precision(settings.start_translation / 3**0.5)
    turn = _precision(math.radians(settings.start_rotation) / 3**0.5)
    precision[:3, :3] = place * torch.eye(3)
    precision[3:POSE, 3:POSE] = turn * torch.eye(3)
    if settings.depth:
        axis = first.direction
        precision[:3, :3] += (_precision(settings.depth) - place) * torch.outer(axis, axis)
    ends = POSE + scene.modes
    precision[POSE:ends, POSE:ends] = torch.eye(scene.modes)
    if scene.model.joint is not None:
        precision[ends : ends + 3, ends : ends + 3] = torch.eye(3) / scene.model.joint.spread**2
    own = [_precision(settings.view_translation)] * 3 + [_precision(math.radians(settings.view_rotation))] * 3
    for view in range(scene.views):
        first_of = ends + scene.turning + POSE * view
        here = slice(first_of, first_of + POSE)
        precision[here, here] = torch.diag(torch.tensor(own, dtype=torch.float64))
    return precision


def free_of(scene: Scene, settings: FitSettings) -> Tensor:
    """(n,) bool: what is fitted."""
    free = torch.ones(scene.size, dtype=torch.bool)
    ends = POSE + scene.modes
    free[:POSE], free[POSE:ends], free[ends : ends + scene.turning] = settings.pose, settings.shape, settings.turn
    for view in range(scene.views):
        first = ends + scene.turning + POSE * view
        free[first : first + 3] = settings.view_translation > 0
        free[first + 3 : first + POSE] = settings.view_rotation > 0
    return free


def likeness(scene: Scene, frames: list[Frame], x: Float[Tensor, "n"], kind: str) -> float:
    """The similarity, mean over the views: 1 for the same."""
    found = []
    for view, frame in enumerate(frames):
        shells = scene.pictures(x, frame.camera, view)
        found.append(float(similarity(kind, mixed(shells, None, frame, kind)[0], nearby(frame, shells))))
    return sum(found) / len(found)


def with_parts(frame: Frame, scene: Scene) -> Frame:
    """The frame with its masks in the order of the model's parts. Raises: LabelError where one is missing."""
    names = [name for name, _ in scene.model.parts]
    missing = [name for name in names if name not in frame.parts]
    if frame.masks is None or missing:
        raise LabelError(
            f"Fitting to labels needs a mask of {', '.join(names)} in every frame; one has "
            f"{', '.join(frame.parts) or 'none'}. Give frames with masks so named, or another similarity."
        )
    return replace(frame, masks=frame.masks[[frame.parts.index(name) for name in names]], parts=tuple(names))


def _precision(deviation: float) -> float:
    return UNKNOWN if deviation in (0, math.inf) else deviation**-2
