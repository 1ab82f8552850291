"""A shape model from meshes in point correspondence: repair, generalised Procrustes, principal components."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64

from diffrender.errors import MeshError, SettingError
from diffrender.fit.align import moved, procrustes, rigid
from diffrender.fit.landmarks import HIPS, find_landmarks
from diffrender.fit.repair import Repaired, repair
from diffrender.fit.shape import Joint, Landmark, ShapeModel
from diffrender.mesh import Mesh

WHOLE = "body"  # the one part of a model built from single meshes
JOINT = "sacrum"


@dataclass(frozen=True)
class ModelSettings:
    """How a model is built.

    Attributes:
        modes: at most so many are kept.
        joint: whether a part called sacrum may turn against the rest.
        joint_spread: standard deviation of that turn about each axis [rad].
    """

    modes: int = 40
    joint: bool = True
    joint_spread: float = 0.026


def build_shape_model(
    meshes: Sequence[Mesh | Mapping[str, Mesh]],
    settings: ModelSettings | None = None,
    about: Mapping[str, Any] | None = None,
) -> ShapeModel:
    """Build a shape model from bodies in point correspondence.

    Args:
        meshes: of each subject one mesh, or a mesh of each part {part: mesh}; RAS [mm].
        about: what to note besides: licence, citation, subjects.
    Raises: MeshError where they are not in correspondence, SettingError for fewer than two.
    """
    settings = settings or ModelSettings()
    bodies = [dict(body) if isinstance(body, Mapping) else {WHOLE: body} for body in meshes]
    _check(bodies)
    repaired = {part: _repaired(bodies, part) for part in bodies[0]}
    parts = tuple((part, found.points.shape[1]) for part, found in repaired.items())
    faces = _joined([found.faces for found in repaired.values()], [count for _, count in parts])
    shapes = np.concatenate([found.points for found in repaired.values()], axis=1)
    shapes = procrustes(shapes)
    ranges = _ranges(parts)
    shapes, landmarks = _in_frame(shapes, np.concatenate([f.points for f in repaired.values()], axis=1), faces, ranges)
    mean = shapes.mean(0)
    modes = _components(shapes - mean, settings.modes)
    unexplained = _left_out(shapes, settings.modes)
    joint = _joint(mean, ranges, settings) if settings.joint and JOINT in ranges else None
    notes = {
        "kind": "pelvis" if set(HIPS_OF) <= set(ranges) else "shape",
        "subjects": len(shapes),
        "settings": asdict(settings),
        "repair": {part: _share(found) for part, found in repaired.items()},
        **(about or {}),
    }
    return ShapeModel(
        _float(mean), _float(modes), torch.from_numpy(faces), parts, landmarks, _float(unexplained), joint, notes
    )


HIPS_OF = tuple(part for part, _ in HIPS.values())


def _check(bodies: list[dict[str, Mesh]]) -> None:
    if len(bodies) < 2:
        raise SettingError(
            f"A shape model tells how people differ, and {len(bodies)} subject was given. Give two at least, better 20."
        )
    first = bodies[0]
    for n, body in enumerate(bodies[1:], 2):
        if list(body) != list(first):
            raise MeshError(
                f"Subject {n} has the parts {', '.join(body)}, the first {', '.join(first)}. Give the same."
            )
        for part, mesh in body.items():
            if len(mesh.vertices) != len(first[part].vertices) or not torch.equal(mesh.faces, first[part].faces):
                raise MeshError(
                    f"The {part} of subject {n} ({mesh.source or 'a mesh'}) has {len(mesh.vertices)} vertices and "
                    f"{len(mesh.faces)} triangles, that of the first {len(first[part].vertices)} and "
                    f"{len(first[part].faces)}, or other triangles: they are not in point correspondence. Warp one "
                    "template to all of them first."
                )


def _repaired(bodies: list[dict[str, Mesh]], part: str) -> Repaired:
    points = np.stack([body[part].vertices.detach().cpu().numpy().astype(np.float64) for body in bodies])
    return repair(points, bodies[0][part].faces.cpu().numpy(), f"The {part}")


def _joined(faces: list[np.ndarray], counts: list[int]) -> Int64[np.ndarray, "f 3"]:
    starts = np.cumsum([0, *counts[:-1]])
    return np.concatenate([own + start for own, start in zip(faces, starts, strict=True)])


def _ranges(parts: tuple[tuple[str, int], ...]) -> dict[str, slice]:
    ends = np.cumsum([count for _, count in parts])
    return {name: slice(int(end) - count, int(end)) for (name, count), end in zip(parts, ends, strict=True)}


def _in_frame(
    shapes: Float[np.ndarray, "n v 3"],
    raw: Float[np.ndarray, "n v 3"],
    faces: Int64[np.ndarray, "f 3"],
    ranges: dict[str, slice],
) -> tuple[Float[np.ndarray, "n v 3"], dict[str, Landmark]]:
    """Aligned shapes in the model's frame: the subjects' mean orientation, left and right along x, origin midway
    between the femoral heads; without hips, the middle of the mean."""
    mean = shapes.mean(0)
    turns = sum(rigid(mean, shape)[:3, :3] for shape in raw)
    u, _, vt = np.linalg.svd(turns)
    upright = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    shapes = (shapes - mean.mean(0)) @ upright.T
    if not set(HIPS_OF) <= set(ranges):
        return shapes - shapes.mean((0, 1)), {}
    landmarks = find_landmarks(shapes.mean(0), faces, ranges)
    places = {name: landmark.at(torch.from_numpy(shapes.mean(0))).numpy() for name, landmark in landmarks.items()}
    across = sum(places[name] - places[f"{name[:-2]}-l"] for name in places if name.endswith("-r"))
    shapes = shapes @ _turn_to_x(across / np.linalg.norm(across)).T
    at = torch.from_numpy(shapes.mean(0))
    origin = (landmarks["FH-l"].at(at) + landmarks["FH-r"].at(at)).numpy() / 2
    return shapes - origin, landmarks


def _turn_to_x(way: np.ndarray) -> np.ndarray:
    """The smallest rotation that brings a direction onto +x."""
    x = np.array([1.0, 0, 0])
    axis = np.cross(way, x)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + cross + cross @ cross / (1 + way @ x)


def _components(deviations: Float[np.ndarray, "n v 3"], most: int) -> Float[np.ndarray, "m v 3"]:
    """Modes, strongest first, each times its standard deviation."""
    n = len(deviations)
    flat = deviations.reshape(n, -1)
    values, vectors = np.linalg.eigh(flat @ flat.T / (n - 1))
    kept = [k for k in np.argsort(values)[::-1] if values[k] > 1e-9 * values.max()][: min(most, n - 1)]
    return (vectors[:, kept].T @ flat / np.sqrt(n - 1)).reshape(len(kept), *deviations.shape[1:])


def _left_out(shapes: Float[np.ndarray, "n v 3"], modes: int) -> Float[np.ndarray, "v"]:
    """Standard deviation per axis of what a model of the other subjects leaves of each subject."""
    squares = np.zeros(shapes.shape[1])
    for n in range(len(shapes)):
        rest = np.delete(shapes, n, axis=0)
        mean = rest.mean(0)
        basis = _components(rest - mean, modes).reshape(-1, mean.size)
        off = (moved(shapes[n], rigid(shapes[n], mean)) - mean).ravel()
        left = off - (basis @ off / (basis**2).sum(1)) @ basis  # modes are orthogonal
        squares += (left.reshape(-1, 3) ** 2).sum(1)
    return np.sqrt(squares / (3 * len(shapes)))


def _joint(mean: np.ndarray, ranges: dict[str, slice], settings: ModelSettings) -> Joint:
    from scipy.spatial import cKDTree

    sacrum = mean[ranges[JOINT]]
    gaps = [cKDTree(mean[ranges[hip]]).query(sacrum)[0] for hip in HIPS_OF]
    centre = np.mean([sacrum[gap < np.quantile(gap, 0.1)].mean(0) for gap in gaps], axis=0)
    return Joint(JOINT, torch.from_numpy(centre), settings.joint_spread)


def _share(found: Repaired) -> dict[str, Any]:
    return {
        "stray vertices": found.stray_share,
        "faces added": found.added,
        "faces removed": found.removed,
        "faces turned": found.turned,
        "holes": found.holes,
        "unused vertices": list(found.unused),
    }


def _float(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
