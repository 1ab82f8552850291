"""What a fit returns: shape, pose, how it ended in a sentence, and how certain each number is.

A fit that was cancelled returns nothing: half-way the stages are coarse, and their certainty would not be true.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from diffrender.mesh import Mesh

OUTCOMES = ("converged", "depth limit", "step limit", "diverged", "ambiguous")


@dataclass(frozen=True, eq=False)
class Certainty:
    """How certain a fit is: standard deviations of errors to be expected.

    Attributes:
        covariance: (n, n) of the fitted numbers: pose (t [mm], r [rad]) about the mesh's centre in world axes,
            coefficients [standard deviations], turn of the joint [rad] where it was fitted.
        pose: (6,) of translation [mm] and rotation [rad].
        depth: of the place along the first view's axis [mm]: what one view hardly shows.
        in_plane: of the place across that axis [mm], the larger of the two.
        vertices: (v, 3) of every vertex, per world axis [mm]; empty for a CT.
        landmarks: {name: (3,)} [mm].
    """

    covariance: Float[Tensor, "n n"]
    pose: Float[Tensor, "6"]
    depth: float
    in_plane: float
    vertices: Float[Tensor, "v 3"]
    landmarks: Mapping[str, Float[Tensor, "3"]]


@dataclass(frozen=True, eq=False)
class Fitted:
    """One frame and what the fit makes of it.

    Attributes:
        shown: the frame as it was compared (normalised), (h, w).
        predicted: the same of the fit's own picture.
        residual: their difference, weighted; where it is large, the model does not explain the frame.
        outline: (part, h, w) bool, where each part projects.
    """

    shown: Float[Tensor, "h w"]
    predicted: Float[Tensor, "h w"]
    residual: Float[Tensor, "h w"]
    outline: Tensor


@dataclass(frozen=True, eq=False)
class Fit:
    """A registered body.

    Attributes:
        mesh: RAS [mm], with the model's vertex order; None where a CT was registered.
        world_from_model: (4, 4), rigid [mm]; for a CT the motion of its world: world_from_ct.
        coefficients: in standard deviations; empty for a CT.
        turn: rotation vector of the model's joint [rad]; zeros where it was frozen.
        landmarks: {name: (3,)} RAS [mm].
        outcome: one of OUTCOMES.
        sentence: what happened and what to try next, for a person.
        certainty: standard deviations.
        frames: per frame, in the order given.
        history: (cost of each accepted step).
    """

    mesh: Mesh | None
    world_from_model: Float[Tensor, "4 4"]
    coefficients: Float[Tensor, "m"]
    turn: Float[Tensor, "3"]
    landmarks: Mapping[str, Float[Tensor, "3"]]
    outcome: str
    sentence: str
    certainty: Certainty
    frames: tuple[Fitted, ...]
    history: tuple[float, ...]
