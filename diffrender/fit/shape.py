"""A statistical shape model: a mean surface, the ways in which people differ from it, and how much they do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from diffrender.errors import SettingError
from diffrender.mesh import Mesh
from diffrender.pose import cross_matrix


@dataclass(frozen=True, eq=False)
class Landmark:
    """A named place on every instance: a weighted sum of vertices, so that it moves linearly with them.

    A place off the surface (the centre of the femoral head) is one too; weights add up to 1 and may be negative.
    """

    vertices: Int64[Tensor, "n"]
    weights: Float[Tensor, "n"]

    def at(self, points: Float[Tensor, "*b v 3"]) -> Float[Tensor, "*b 3"]:
        """Where it is on the instance with vertices `points`, or what a change of vertices does to it."""
        return torch.einsum("...nd,n->...d", points[..., self.vertices, :], self.weights.to(points))


@dataclass(frozen=True, eq=False)
class Joint:
    """One part that turns against the rest, a little: the sacrum against the hips.

    Attributes:
        part: the name of the part that turns.
        centre: what it turns about, model's frame [mm].
        spread: standard deviation of the turn about each axis [rad].
    """

    part: str
    centre: Float[Tensor, "3"]
    spread: float


@dataclass(frozen=True, eq=False)
class ShapeModel:
    """Surfaces in point correspondence, as a mean and modes (a multivariate normal distribution of shapes).

    The model's frame has RAS axes (a patient lying straight) and its origin midway between the femoral heads.

    Attributes:
        mean: (v, 3) float32 [mm].
        modes: (m, v, 3) float32, how vertices move per standard deviation of each coefficient [mm], strongest first.
        faces: (f, 3), closed and outward.
        parts: (name, number of vertices), in the order of the vertices; a pelvis: left hip, right hip, sacrum.
        landmarks_at: {name: Landmark}; a pelvis has the 14 of DeepFluoro: FH-l, FH-r, GSN-l, ...
        unexplained: (v,) float32: standard deviation per axis of what the modes leave of people not among the training
            shapes [mm]; what a fit cannot know.
        joint: what turns besides; None for a rigid model.
        about: plain data: kind, subjects, licence, citation, how it was built and how good it is.
    """

    mean: Float[Tensor, "v 3"]
    modes: Float[Tensor, "m v 3"]
    faces: Int64[Tensor, "f 3"]
    parts: tuple[tuple[str, int], ...]
    landmarks_at: Mapping[str, Landmark]
    unexplained: Float[Tensor, "v"]
    joint: Joint | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    def mesh(
        self, coefficients: Float[Tensor, "*k"] | None = None, turn: Float[Tensor, "*three"] | None = None
    ) -> Mesh:
        """The surface with these coefficients, in the model's frame.

        Args:
            coefficients: in standard deviations; fewer than the model has modes mean that the rest is 0.
            turn: rotation vector of the joint's part [rad]; none by default.
        Raises: SettingError for more coefficients than modes, or a turn without a joint.
        """
        return Mesh(self.points(coefficients, turn), self.faces)

    def points(
        self, coefficients: Float[Tensor, "*k"] | None = None, turn: Float[Tensor, "*three"] | None = None
    ) -> Float[Tensor, "v 3"]:
        """The vertices of `mesh`; differentiable in both arguments."""
        points = self.mean
        if coefficients is not None:
            coefficients = torch.as_tensor(coefficients)
            self._check(coefficients)
            points = points + torch.einsum("k,kvd->vd", coefficients.to(points), self.modes[: len(coefficients)])
        return points if turn is None else self._turned(points, torch.as_tensor(turn))

    @property
    def landmarks(self) -> dict[str, Float[Tensor, "3"]]:
        """{name: place on the mean}, model's frame [mm]."""
        return {name: landmark.at(self.mean) for name, landmark in self.landmarks_at.items()}

    def landmarks_of(
        self, coefficients: Float[Tensor, "*k"] | None = None, turn: Float[Tensor, "*three"] | None = None
    ) -> dict[str, Float[Tensor, "3"]]:
        """{name: place on the instance with these coefficients}, model's frame [mm]."""
        points = self.points(coefficients, turn)
        return {name: landmark.at(points) for name, landmark in self.landmarks_at.items()}

    def with_modes(self, count: int) -> "ShapeModel":
        """The model with its `count` strongest modes only; what the others explained becomes unexplained."""
        from dataclasses import replace

        if not 0 <= count <= len(self.modes):
            raise SettingError(f"This model has {len(self.modes)} modes; {count} of them were asked for.")
        left = self.modes[count:].square().sum((0, 2)) / 3
        return replace(self, modes=self.modes[:count], unexplained=(self.unexplained.square() + left).sqrt())

    def range_of(self, part: str) -> slice:
        """Where a part's vertices lie. Raises: SettingError."""
        first = 0
        for name, count in self.parts:
            if name == part:
                return slice(first, first + count)
            first += count
        raise SettingError(f"This model has no part {part!r}; it has {', '.join(name for name, _ in self.parts)}.")

    def _turned(self, points: Tensor, turn: Tensor) -> Tensor:
        if self.joint is None:
            raise SettingError("This model has no joint, so that nothing of it can be turned.")
        here = self.range_of(self.joint.part)
        rotation = torch.linalg.matrix_exp(cross_matrix(turn.to(torch.float64))).to(points)
        centre = self.joint.centre.to(points)
        part = (points[here] - centre) @ rotation.T + centre
        return torch.cat([points[: here.start], part, points[here.stop :]])

    def _check(self, coefficients: Tensor) -> None:
        if coefficients.ndim != 1 or len(coefficients) > len(self.modes) or not torch.isfinite(coefficients).all():
            raise SettingError(
                f"Coefficients are up to {len(self.modes)} finite numbers in standard deviations; these are "
                f"{coefficients.detach().tolist()}."
            )

    def __repr__(self) -> str:
        parts = ", ".join(name for name, _ in self.parts)
        return f"ShapeModel({len(self.mean)} vertices ({parts}), {len(self.modes)} modes, {self.about.get('kind', '')})"
