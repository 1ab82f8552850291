"""The body that is fitted, as each view shows it: pose, shape and joint in one vector, pictures and Jacobian."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.camera import Camera
from diffrender.fit.settings import FitSettings
from diffrender.fit.shape import ShapeModel
from diffrender.mesh import Mesh
from diffrender.pose import cross_matrix, motion
from diffrender.rays.surface import path_lengths_with_jacobian, surface_pass

POSE = 6
CORTEX = 2.0  # mm; how thick the dense shell of a flat bone is taken to be


@dataclass(frozen=True, eq=False)
class Scene:
    """What is fitted. The vector x is (xi (6), coefficients, turn (3, where there is a joint), each view's own xi (6)).

    Attributes:
        model: with as many modes as are fitted.
        world_from_model: (4, 4), where the fit starts; xi moves it about `centre`, in world axes.
        centre: (3,) RAS [mm].
        views: how many views have a motion of their own, 0 for none.
        apart: whether the layers are the parts, one by one; if not, the whole surface and the same shrunk by a bone's
            dense shell.
        backend: of the rays.
    """

    model: ShapeModel
    world_from_model: Float[Tensor, "4 4"]
    centre: Float[Tensor, "3"]
    views: int = 0
    apart: bool = False
    backend: str = "auto"

    @property
    def modes(self) -> int:
        return len(self.model.modes)

    @property
    def turning(self) -> int:
        """How many numbers the joint takes."""
        return 0 if self.model.joint is None else 3

    @property
    def size(self) -> int:
        """How many numbers x holds."""
        return POSE + self.modes + self.turning + POSE * self.views

    def coefficients(self, x: Float[Tensor, "n"]) -> Float[Tensor, "m"]:
        return x[POSE : POSE + self.modes]

    def turn(self, x: Float[Tensor, "n"]) -> Float[Tensor, "three"]:
        """Three numbers, or none without a joint."""
        first = POSE + self.modes
        return x[first : first + self.turning]

    def correction(self, x: Float[Tensor, "n"], view: int) -> Float[Tensor, "6"] | None:
        """A view's own motion, or None."""
        if not self.views:
            return None
        first = POSE + self.modes + self.turning + POSE * view
        return x[first : first + POSE]

    def pose(self, x: Float[Tensor, "n"]) -> Float[Tensor, "4 4"]:
        """world_from_model at x, float64."""
        return motion(x[:POSE], self.centre) @ self.world_from_model.to(torch.float64)

    def points(self, x: Float[Tensor, "n"]) -> Float[Tensor, "v 3"]:
        """Vertices at x in the model's frame."""
        turn = self.turn(x) if self.turning else None
        return self.model.points(self.coefficients(x).to(self.model.mean), turn)

    def mesh(self, x: Float[Tensor, "n"]) -> Mesh:
        """The body at x, RAS [mm]."""
        return Mesh(_moved(self.points(x), self.pose(x)), self.model.faces)

    def rates(self, x: Float[Tensor, "n"]) -> Float[Tensor, "p v 3"]:
        """How the vertices in the model's frame move with coefficients and turn."""
        if not self.turning:
            return self.model.modes
        joint, turn = self.model.joint, self.turn(x)
        assert joint is not None
        here = self.model.range_of(joint.part)
        rotation, of_turn = _rotation_rates(turn)
        modes = self.model.modes
        if bool(turn.any()):
            modes = modes.clone()
            modes[:, here] = modes[:, here] @ rotation.T.to(modes)
        still = self.model.points(self.coefficients(x).to(modes))[here] - joint.centre.to(modes)
        turned = modes.new_zeros(3, *self.model.mean.shape)
        turned[:, here] = still @ of_turn.transpose(1, 2).to(modes)
        return torch.cat([modes, turned])

    def vertex_rates(self, x: Float[Tensor, "n"], these: Tensor | None = None) -> Float[Tensor, "n v 3"]:
        """How vertices, all or those of these numbers, move with x in the world [mm]; float64."""
        here = slice(None) if these is None else these
        points = self.points(x)[here].to(torch.float64)
        start = points @ self.world_from_model[:3, :3].T.to(points) + self.world_from_model[:3, 3].to(points)
        rates = torch.zeros(len(x), *points.shape, dtype=torch.float64)
        _, of_turn = _rotation_rates(x[3:POSE])
        rates[:3] = torch.eye(3, dtype=torch.float64)[:, None]
        rates[3:POSE] = (start - self.centre) @ of_turn.transpose(1, 2).to(torch.float64)
        of_shape = self.rates(x)[:, here].to(torch.float64) @ self.pose(x)[:3, :3].T
        rates[POSE : POSE + len(of_shape)] = of_shape
        return rates

    def pictures(self, x: Float[Tensor, "n"], camera: Camera, view: int) -> Float[Tensor, "layer h w"]:
        """Path lengths through each layer [mm]."""
        pose = self._seen(x, view)
        meshes = [Mesh(_moved(points, pose), faces) for points, faces, _ in self._drawn(x)]
        return torch.stack([surface_pass(mesh, camera, backend=self.backend).lengths for mesh in meshes])

    def pictures_and_rates(
        self, x: Float[Tensor, "n"], camera: Camera, view: int
    ) -> tuple[Float[Tensor, "layer h w"], Float[Tensor, "layer h w n"]]:
        """`pictures`, and their derivative in x. That of the normals along which a surface shrinks is left out."""
        start = self.world_from_model.to(torch.float64)
        rates = self.rates(x) @ start[:3, :3].T.to(self.model.modes)
        correction = self.correction(x, view)
        lengths, jacobians = [], []
        for points, faces, here in self._drawn(x):
            mesh = Mesh(_moved(points, start), faces)
            if correction is None:
                found, jacobian = path_lengths_with_jacobian(
                    mesh, camera, rates[:, here], x[:POSE], self.centre, backend=self.backend
                )
            else:
                found, jacobian = self._corrected(x, mesh, camera, rates[:, here], correction, view)
            lengths.append(found)
            jacobians.append(jacobian)
        return torch.stack(lengths), torch.stack(jacobians)

    def outlines(self, x: Float[Tensor, "n"], camera: Camera, view: int) -> Tensor:
        """Where each part projects, (part, h, w) bool."""
        return replace(self, apart=True).pictures(x, camera, view) > 0

    def _drawn(self, x: Tensor) -> list[tuple[Tensor, Tensor, slice]]:
        """(vertices in the model's frame, faces, which of the model's vertices these are) of each layer."""
        points, faces = self.points(x), self.model.faces
        if self.apart:
            ranges = [self.model.range_of(name) for name, _ in self.model.parts]
            inside = [(faces[:, 0] >= here.start) & (faces[:, 0] < here.stop) for here in ranges]
            return [(points[here], faces[own] - here.start, here) for here, own in zip(ranges, inside, strict=True)]
        inner = points - CORTEX * vertex_normals(points, faces)
        return [(points, faces, slice(None)), (inner, faces, slice(None))]

    def _corrected(
        self, x: Tensor, mesh: Mesh, camera: Camera, rates: Tensor, correction: Tensor, view: int
    ) -> tuple[Tensor, Tensor]:
        points = _moved(mesh.vertices, motion(x[:POSE], self.centre))
        rotation, of_turn = _rotation_rates(x[3:POSE])
        turned = (mesh.vertices.to(torch.float64) - self.centre) @ of_turn.transpose(1, 2)
        shifted = torch.eye(3, dtype=torch.float64)[:, None].expand(3, len(points), 3)
        basis = torch.cat([shifted, turned, rates.to(torch.float64) @ rotation.T]).to(points)
        moved = Mesh(points, mesh.faces)
        found, jacobian = path_lengths_with_jacobian(moved, camera, basis, correction, self.centre, self.backend)
        whole = jacobian.new_zeros(*jacobian.shape[:2], self.size)
        whole[..., : POSE + len(rates)] = jacobian[..., POSE:]
        first = POSE + len(rates) + POSE * view
        whole[..., first : first + POSE] = jacobian[..., :POSE]
        return found, whole

    def _seen(self, x: Tensor, view: int) -> Tensor:
        correction = self.correction(x, view)
        pose = self.pose(x)
        return pose if correction is None else motion(correction, self.centre) @ pose


def vertex_normals(points: Float[Tensor, "v 3"], faces: Tensor) -> Float[Tensor, "v 3"]:
    """Outward unit normals, the mean of the faces around a vertex by their area; zero where there is no face."""
    a, b, c = points[faces].unbind(1)
    across = torch.linalg.cross(b - a, c - a)
    found = torch.zeros_like(points)
    for corner in range(3):
        found.index_add_(0, faces[:, corner], across)
    return found / found.norm(dim=1, keepdim=True).clamp(min=1e-12)


def scene_of(model: ShapeModel, world_from_model: Tensor, settings: FitSettings, views: int) -> Scene:
    """The scene that `settings` ask for."""
    modes = min(settings.modes or len(model.modes), len(model.modes))
    model = model.with_modes(modes) if modes < len(model.modes) else model
    pose = torch.as_tensor(world_from_model, dtype=torch.float64)
    bounds = Mesh(_moved(model.mean, pose), model.faces).centre
    own = settings.view_translation > 0 or settings.view_rotation > 0
    return Scene(model, pose, bounds, views if own else 0, settings.similarity == "labels", settings.backend)


def _moved(points: Tensor, pose: Tensor) -> Tensor:
    return points @ pose[:3, :3].T.to(points) + pose[:3, 3].to(points)


def _rotation_rates(turn: Tensor) -> tuple[Tensor, Tensor]:
    """exp([turn]x) (3, 3) and its derivatives (3, 3, 3), the first axis that of `turn`; float64."""
    turn = turn.to(torch.float64)

    def rotation(r: Tensor) -> Tensor:
        return torch.linalg.matrix_exp(cross_matrix(r))

    rates = torch.autograd.functional.jacobian(rotation, turn)
    return rotation(turn), rates.movedim(-1, 0)  # pyright: ignore[reportCallIssue]
