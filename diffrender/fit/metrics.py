"""How far a fit is from the truth: surface, landmarks, pose, and each part of the error by itself."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from diffrender.camera import Camera
from diffrender.errors import MeshError, SettingError
from diffrender.fit.align import moved, rigid
from diffrender.fit.shape import ShapeModel
from diffrender.mesh import Mesh
from diffrender.pose import pose_between

FLOOR_ROUNDS = 8  # of pose and coefficients in turn; the floor moves by under 0.01 mm after five


@dataclass(frozen=True)
class Errors:
    """What is wrong with a fit, [mm] but for the rotation.

    Attributes:
        hausdorff: the largest distance from either surface to the other.
        hausdorff_95: the larger of the two 95th percentiles of those distances.
        surface: mean distance, both ways.
        landmark: mean over the landmarks; NaN without any.
        landmark_worst: the largest of them.
        mtre: mean over corresponding vertices; NaN where the meshes are not in correspondence, as all below.
        projected: how far corresponding vertices lie apart in the images, measured at their own depth: mean over views.
        rotation: of the best rigid motion from fit to truth [degrees].
        depth: of that motion at the truth's middle, along the first view's axis.
        in_plane: across it.
        shape: mean distance of corresponding vertices that is left after that motion.
    """

    hausdorff: float
    hausdorff_95: float
    surface: float
    landmark: float
    landmark_worst: float
    mtre: float
    projected: float
    rotation: float
    depth: float
    in_plane: float
    shape: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def errors_of(
    found: Mesh,
    truth: Mesh,
    cameras: Camera | Sequence[Camera],
    landmarks: Mapping[str, Float[Tensor, "3"]] | None = None,
    true_landmarks: Mapping[str, Float[Tensor, "3"]] | None = None,
) -> Errors:
    """Compare a fitted mesh with the true one, RAS [mm].

    Args:
        cameras: that took the frames; depth is that along the axis of the first.
        landmarks, true_landmarks: {name: (3,)}; those in both are compared.
    Raises: SettingError where there are landmarks and none in both.
    Source: Hausdorff distance and landmark error as in Shetty et al. (2021), table 1; mTRE as in van de Kraats et al.,
        IEEE Trans. Med. Imaging 24 (2005) 1177, over the vertices.
    """
    views = [cameras] if isinstance(cameras, Camera) else list(cameras)
    a, b = _points(found), _points(truth)
    there, back = distances_to(a[_used(found)], truth), distances_to(b[_used(truth)], found)
    marks = _landmark_errors(landmarks, true_landmarks)
    pose = _pose_errors(a, b, views) if len(a) == len(b) else dict.fromkeys(_OF_CORRESPONDENCE, float("nan"))
    return Errors(
        hausdorff=float(max(there.max(), back.max())),
        hausdorff_95=float(max(np.quantile(there, 0.95), np.quantile(back, 0.95))),
        surface=float((there.mean() + back.mean()) / 2),
        landmark=float(np.mean(marks)) if len(marks) else float("nan"),
        landmark_worst=float(np.max(marks)) if len(marks) else float("nan"),
        **pose,
    )


_OF_CORRESPONDENCE = ("mtre", "projected", "rotation", "depth", "in_plane", "shape")


def distances_to(points: Float[np.ndarray, "n 3"], mesh: Mesh) -> Float[np.ndarray, "n"]:
    """From each point to the nearest place of the surface, on a triangle, an edge or a corner [mm]."""
    from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray, vtk_to_numpy
    from vtkmodules.vtkCommonCore import vtkDoubleArray, vtkPoints
    from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkPolyData
    from vtkmodules.vtkFiltersCore import vtkImplicitPolyDataDistance

    surface, corners, cells = vtkPolyData(), vtkPoints(), vtkCellArray()
    corners.SetData(numpy_to_vtk(_points(mesh), deep=True))
    offsets = np.arange(0, 3 * len(mesh.faces) + 1, 3)
    cells.SetData(*(numpy_to_vtkIdTypeArray(n, deep=True) for n in (offsets, mesh.faces.numpy().ravel())))
    surface.SetPoints(corners)
    surface.SetPolys(cells)
    distance, lengths = vtkImplicitPolyDataDistance(), vtkDoubleArray()
    distance.SetInput(surface)
    distance.FunctionValue(numpy_to_vtk(np.ascontiguousarray(points), deep=True), lengths)
    return np.abs(vtk_to_numpy(lengths))


def floor_of(
    model: ShapeModel, truth: Mesh, modes: int | None = None
) -> tuple[Mesh, Float[Tensor, "4 4"], Float[Tensor, "m"]]:
    """The best that a model can do: the instance with the least squares to a true mesh in correspondence with it.

    Args:
        modes: how many are used; all by default.
    Returns: the instance, RAS [mm], its pose world_from_model, and its coefficients. The joint is left at rest, and no
        prior holds the coefficients.
    Raises: MeshError where the truth has another number of vertices.
    """
    if len(truth.vertices) != len(model.mean):
        raise MeshError(
            f"The true mesh has {len(truth.vertices)} vertices and the model {len(model.mean)}: what the model could "
            "reach is known only for a mesh in correspondence with it."
        )
    count = len(model.modes) if modes is None else min(modes, len(model.modes))
    mean, target = model.mean.double().numpy(), _points(truth)
    basis = model.modes[:count].double().numpy().reshape(count, -1)
    shape, coefficients, pose = mean, np.zeros(count), np.eye(4)
    for _ in range(FLOOR_ROUNDS):
        pose = rigid(shape, target)
        still = moved(target, np.linalg.inv(pose)) - mean
        coefficients = np.linalg.lstsq(basis.T, still.ravel(), rcond=None)[0] if count else coefficients
        shape = mean + (coefficients @ basis).reshape(-1, 3)
    points = torch.from_numpy(moved(shape, pose)).to(truth.vertices)
    return Mesh(points, truth.faces), torch.from_numpy(pose), torch.from_numpy(coefficients)


def inside_deviations(
    found: Float[Tensor, "v 3"], truth: Float[Tensor, "v 3"], deviations: Float[Tensor, "v 3"]
) -> tuple[float, float]:
    """The share of true vertex errors, per axis, within one and within two of the stated standard deviations.

    68 and 95 % where the deviations are right and the errors normal.
    """
    errors = (found - truth).abs()
    return (errors <= deviations).double().mean().item(), (errors <= 2 * deviations).double().mean().item()


def share_in_view(mesh: Mesh, camera: Camera) -> float:
    """The share of the vertices that project into the image."""
    pixels = camera.project(mesh.vertices.detach().double())
    height, width = camera.image_size
    inside = (pixels >= 0).all(1) & (pixels[:, 0] < height) & (pixels[:, 1] < width)
    return inside.double().mean().item()


def _pose_errors(a: np.ndarray, b: np.ndarray, views: Sequence[Camera]) -> dict[str, float]:
    motion = rigid(a, b)
    middle = torch.from_numpy(a.mean(0))
    xi = pose_between(torch.eye(4, dtype=torch.float64), torch.from_numpy(motion), middle)
    shift, axis = xi[:3].numpy(), views[0].direction.numpy()
    depth = float(shift @ axis)
    return {
        "mtre": float(np.linalg.norm(a - b, axis=1).mean()),
        "projected": float(np.mean([_projected(a, b, view) for view in views])),
        "rotation": float(np.degrees(xi[3:].norm().item())),
        "depth": abs(depth),
        "in_plane": float(np.linalg.norm(shift - depth * axis)),
        "shape": float(np.linalg.norm(moved(a, motion) - b, axis=1).mean()),
    }


def _projected(a: np.ndarray, b: np.ndarray, camera: Camera) -> float:
    """How far each point misses the ray through its true place [mm]: mean."""
    source = camera.source.numpy()
    rays = (b - source) / np.linalg.norm(b - source, axis=1, keepdims=True)
    offset = a - source
    return float(np.linalg.norm(offset - (offset * rays).sum(1, keepdims=True) * rays, axis=1).mean())


def _landmark_errors(
    found: Mapping[str, Float[Tensor, "3"]] | None, truth: Mapping[str, Float[Tensor, "3"]] | None
) -> Float[np.ndarray, "n"]:
    if not found or not truth:
        return np.zeros(0)
    names = [name for name in truth if name in found]
    if not names:
        raise SettingError(
            f"No landmark has a name in both: the fit has {', '.join(found)}, the truth {', '.join(truth)}."
        )
    return np.array([(found[n].double() - truth[n].double()).norm().item() for n in names])


def _used(mesh: Mesh) -> Int64[np.ndarray, "n"]:
    """The vertices that some face uses; the published atlas has others, which lie on no surface."""
    return np.unique(mesh.faces.cpu().numpy())


def _points(mesh: Mesh) -> Float[np.ndarray, "v 3"]:
    return np.ascontiguousarray(mesh.vertices.detach().cpu().double().numpy())
