"""A mesh: triangles in the patient."""

from dataclasses import dataclass
from typing import Any, no_type_check

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from diffrender.errors import MeshError
from diffrender.volume import tensor_of


@no_type_check  # the types are those it has once made; arrays and lists are taken too, and checked in words
@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles in the patient: outward faces wind counter-clockwise seen from outside.

    Attributes:
        vertices: (v, 3) float32, RAS [mm]; float64 is kept.
        faces: (f, 3) int64, indices into `vertices`.
        source: where it came from, as typed.
    Raises: MeshError where a face names a vertex that is not there, or a vertex is not finite.
    """

    vertices: Float[Tensor, "v 3"]
    faces: Int64[Tensor, "f 3"]
    source: str | None = None

    def __post_init__(self):
        vertices = _floating(self.vertices)
        faces = tensor_of(self.faces)
        if faces.is_floating_point() and not torch.equal(faces, faces.round()):
            raise MeshError(f"{self.source or 'A mesh'}: faces are whole numbers, indices into the vertices.")
        faces = faces.to(torch.int64)
        object.__setattr__(self, "vertices", vertices)
        object.__setattr__(self, "faces", faces)
        what = self.source or "A mesh"
        if vertices.ndim != 2 or vertices.shape[-1] != 3 or faces.ndim != 2 or faces.shape[-1] != 3:
            raise MeshError(
                f"{what}: vertices must be (v, 3) and faces (f, 3); they are {list(vertices.shape)} and "
                f"{list(faces.shape)}. Triangulate polygons first."
            )
        if not len(vertices) or not len(faces):
            raise MeshError(
                f"{what} holds {len(vertices)} vertices and {len(faces)} triangles: there is no surface in it."
            )
        if faces.min() < 0 or faces.max() >= len(vertices):
            raise MeshError(
                f"{what}: a face names vertex {int(faces.max())}, and there are {len(vertices)} (numbered from 0). "
                "The file is damaged; export it again."
            )
        if not torch.isfinite(vertices).all():
            raise MeshError(f"{what}: some vertices are NaN or infinite. The file is damaged; export it again.")

    @property
    def bounds(self) -> Float[Tensor, "2 3"]:
        """Lowest and highest corner of the bounding box, RAS [mm], float64."""
        points = self.vertices.detach().to(torch.float64)
        return torch.stack([points.amin(0), points.amax(0)])

    @property
    def centre(self) -> Float[Tensor, "3"]:
        """Middle of the bounding box, RAS [mm], float64."""
        return self.bounds.mean(0)

    @property
    def enclosed_volume(self) -> Float[Tensor, ""]:
        """Signed volume inside [mm^3]: positive where faces wind outward; meaningful for closed surfaces.

        Source: divergence theorem, the sum of the signed tetrahedra between the faces and the origin.
        """
        a, b, c = (self.vertices - self.vertices.mean(0))[self.faces].unbind(1)
        return (a * torch.linalg.cross(b, c)).sum() / 6

    def __repr__(self) -> str:
        low, high = self.bounds
        size = " x ".join(f"{s:.1f}" for s in (high - low).tolist())
        return f"Mesh({len(self.vertices)} vertices, {len(self.faces)} triangles, {size} mm (R x A x S))"


def _floating(array: Any) -> Tensor:
    tensor = tensor_of(array)
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.to(torch.float32)
