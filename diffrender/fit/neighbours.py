"""Bones beside the pelvis in a simulated frame: upper femurs and lower lumbar spine, and where they are put.

They are drawn from solids told by their distance, so that a second surface at another distance is their marrow's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from numpy.random import Generator

from diffrender.errors import MeshError
from diffrender.fit import landmarks
from diffrender.fit.confounders import Anatomy
from diffrender.fit.contour import contour
from diffrender.fit.landmarks import head_of
from diffrender.fit.scene import vertex_normals
from diffrender.mesh import Mesh
from diffrender.phantom.solids import Solid, drum, ellipsoid, tube

STEP = 2.0  # mm of the lattice that a template is contoured on
CORTEX, CORTEX_THIN, END_PLATE = 4.0, 2.2, 1.6  # mm: of a femur's shaft, of its ends, of a vertebra
DISC = 9.0  # mm between two vertebrae
CUP = (18.0, 33.0)  # mm; radii of acetabula
CARTILAGE = 2.0  # mm between the cup's bone and the head's
BASE_TILT = 0.65  # rad: how far the sacrum's end plate looks forward, to begin with


@dataclass(frozen=True, eq=False)
class Bone:
    """A bone's surface and that of its spongy inside; `name` as TotalSegmentator has it, less its side."""

    outer: Mesh
    inner: Mesh | None
    name: str


def anatomy_of(parts: Sequence[Mesh], heads: Float[np.ndarray, "2 3"] | None = None, base_part: int = 2) -> Anatomy:
    """What can be read off the surfaces of left hip, right hip and sacrum.

    Args:
        parts: left hip, right hip, sacrum, RAS [mm].
        heads: centres of the femoral heads, left and right; by default those of the spheres that fit the sockets.
        base_part: which of the parts is the sacrum.
    Raises: MeshError where there are no three parts.
    """
    if len(parts) < 3:
        raise MeshError(
            f"A pelvis consists of left hip, right hip and sacrum; {len(parts)} surfaces were given. Femurs and spine "
            "cannot be placed beside them: turn `femurs`, `spine` and `torso` off, or give all three."
        )
    cups = [_cup(mesh, None if heads is None else heads[n]) for n, mesh in enumerate(parts[:2])]
    centres = np.stack([centre for centre, _ in cups])
    right = centres[1] - centres[0]
    right /= np.linalg.norm(right)
    head = np.array([0.0, 0, 1]) - right[2] * right
    head /= np.linalg.norm(head)
    axes = np.stack([right, np.cross(head, right), head])
    points = torch.cat([mesh.vertices for mesh in parts[:2]]).detach().double().numpy()
    across = (points - centres.mean(0)) @ right
    base, up = _sacral_base(parts[base_part], centres.mean(0), axes)
    radius = float(np.mean([radius for _, radius in cups])) - CARTILAGE
    return Anatomy(centres, radius, axes, base, up, float(np.percentile(np.abs(across), 99.5)))


def _cup(hip: Mesh, head: Float[np.ndarray, "3"] | None) -> tuple[Float[np.ndarray, "3"], float]:
    """Centre and radius [mm] of the acetabulum, the latter alone where the centre is known."""
    points, normals = hip.vertices.detach().double().numpy(), normals_of(hip)
    faces = hip.faces.numpy()
    if head is None:
        used = np.zeros(len(points), dtype=bool)
        used[faces] = True
        return head_of(landmarks.Bone(points, faces, normals, used))[:2]
    way = head - points
    distance = np.linalg.norm(way, axis=1)
    lunate = (distance > CUP[0]) & (distance < CUP[1]) & ((way * normals).sum(1) > 0.95 * distance)
    return head, float(np.median(distance[lunate])) if lunate.any() else sum(CUP) / 2


def outward(mesh: Mesh) -> Mesh:
    """The surface wound outward."""
    return mesh if float(mesh.enclosed_volume) >= 0 else Mesh(mesh.vertices, mesh.faces.flip(1), mesh.source)


def normals_of(mesh: Mesh) -> Float[np.ndarray, "v 3"]:
    """Outward unit normals of a surface that is wound outward."""
    return vertex_normals(mesh.vertices.detach().double(), mesh.faces).numpy()


def shrunk(mesh: Mesh, depth: float) -> Mesh:
    """The surface `depth` [mm] below: what encloses the spongy bone. Where a plate is thinner it turns inside out."""
    moved = mesh.vertices.detach() - depth * vertex_normals(mesh.vertices.detach(), mesh.faces)
    return Mesh(moved, mesh.faces)


def femurs(anatomy: Anatomy, random: Generator) -> list[Bone]:
    """Left and right, with their heads in the sockets, turned a little each."""
    scale = anatomy.head_radius / 24.0
    bones = []
    for side, head in zip((-1, 1), anatomy.heads, strict=True):
        abducted, turned, flexed = np.radians(random.normal((4, 0, 4), (4, 12, 6)))
        turn = _about(1, -side * abducted) @ _about(0, flexed) @ _about(2, side * turned)
        size = np.array([side * scale * random.uniform(0.96, 1.05), scale, scale])
        matrix = anatomy.axes.T @ turn @ np.diag(size)
        bones.append(_placed(_femur(), matrix, head))
    return bones


def lumbar_spine(anatomy: Anatomy, random: Generator) -> tuple[list[Bone], list[Mesh]]:
    """L5, L4, L3 on the sacrum, bending back to upright, and the discs below them."""
    scale = random.uniform(0.92, 1.08)
    right = anatomy.axes[0]
    up, place = anatomy.up, anatomy.base
    lean, side = np.radians(random.uniform(9, 15)), np.radians(random.normal(0, 2.5))
    bones, discs = [], []
    for n in range(3):
        up = _turned_about(up, right, lean * (1.1 - 0.3 * n)) + side * right
        up = up / np.linalg.norm(up)
        across = right - (right @ up) * up
        across /= np.linalg.norm(across)
        matrix = np.stack([across, np.cross(up, across), up], axis=1) * scale
        disc = place + up * DISC / 2 * scale
        discs.append(_moved(_disc(), matrix, disc))
        place = disc + up * (DISC / 2 + 14) * scale
        bones.append(_placed(_vertebra(), matrix, place))
        place = place + up * 14 * scale
    return bones, discs


@cache
def _femur() -> Bone:
    """The right one: head at the origin, shaft down; 24 mm of head's radius."""
    neck = tube([(0, 0, 0), (26, -4, -22), (42, -8, -38)], [15, 15.5, 18])
    shaft = tube([(42, -8, -38), (40, -4, -72), (33, 2, -330)], [19, 15.5, 14.5])
    solids = [
        ellipsoid((0, 0, 0), (24, 24, 24)),
        *neck,
        *shaft,
        ellipsoid((55, -16, -26), (13, 17, 22), (-0.3, 0, 1)),
        *tube([(32, -20, -68), (24, -26, -72)], [10, 8]),
    ]
    low, high = _box(solids)
    return Bone(_contour(solids, low, high, 0), _contour(solids, low, high, _femur_cortex), "femur")


def _femur_cortex(z: np.ndarray) -> np.ndarray:
    return CORTEX_THIN + (CORTEX - CORTEX_THIN) * np.clip((-z - 30) / 60, 0, 1)


@cache
def _vertebra() -> Bone:
    """A lumbar one: middle of its body at the origin, 28 mm high."""
    width, depth = 24.5, 17.0
    solids = [drum((0, 0, 0), (0, 0, 1), width, depth, 14)]
    for s in (-1, 1):
        solids += tube([(s * 15, -depth + 3, 4), (s * 17, -depth - 12, 3)], [5.4, 4.8])  # pedicle
        solids += tube([(s * 17, -depth - 14, 2), (s * 3, -depth - 23, -5)], [4.6, 4.0])  # lamina
        solids += tube([(s * 18, -depth - 12, 2), (s * 40, -depth - 17, 0)], [4.8, 3.6])  # transverse process
        solids += tube([(s * 19, -depth - 17, 15), (s * 18, -depth - 18, -17)], [5.0, 5.0])  # facets
    solids += tube([(0, -depth - 22, -4), (0, -depth - 50, -9)], [3.4, 4.2], (1, 1, 0.5))  # spinous process
    low, high = _box(solids)
    return Bone(_contour(solids, low, high, 0), _contour(solids, low, high, END_PLATE), "vertebrae")


@cache
def _disc() -> Mesh:
    solids: list[Solid] = [drum((0, 0, 0), (0, 0, 1), 23.5, 16.5, DISC / 2)]
    low, high = _box(solids)
    return _contour(solids, low, high, 0)


def _box(solids: Sequence[Solid]) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.min([solid.low for solid in solids], axis=0) - 3 * STEP,
        np.max([solid.high for solid in solids], axis=0) + 3 * STEP,
    )


def _contour(
    solids: Sequence[Solid], low: np.ndarray, high: np.ndarray, depth: float | Callable[[np.ndarray], np.ndarray]
) -> Mesh:
    """The surface at `depth` [mm, or a function of z] below that of the solids' union."""
    axes = [np.arange(a, b + STEP, STEP, dtype=np.float32) for a, b in zip(low, high, strict=True)]
    z, y, x = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij", sparse=True)
    size = [len(axis) for axis in axes[::-1]]
    distance = np.min([np.broadcast_to(solid.distance(x, y, z), size) for solid in solids], axis=0)
    lattice = np.diag([STEP, STEP, STEP, 1.0])
    lattice[:3, 3] = [axis[0] for axis in axes]
    return contour(-(distance + (depth(z) if callable(depth) else depth)), 0.0, lattice)


def _placed(bone: Bone, matrix: np.ndarray, at: np.ndarray) -> Bone:
    return Bone(
        _moved(bone.outer, matrix, at), None if bone.inner is None else _moved(bone.inner, matrix, at), bone.name
    )


def _moved(mesh: Mesh, matrix: np.ndarray, at: np.ndarray) -> Mesh:
    points = mesh.vertices.double() @ torch.from_numpy(matrix).T + torch.from_numpy(np.asarray(at))
    faces = mesh.faces if np.linalg.det(matrix) > 0 else mesh.faces.flip(1)
    return Mesh(points.to(mesh.vertices), faces)


def _sacral_base(sacrum: Mesh, origin: np.ndarray, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middle and normal of the end plate: the patch below the promontory's height that looks up and forward."""
    points = (sacrum.vertices.detach().double().numpy() - origin) @ axes.T
    normals = normals_of(sacrum) @ axes.T
    up = np.array([0, np.sin(BASE_TILT), np.cos(BASE_TILT)])
    central = np.abs(points[:, 0] - np.median(points[:, 0])) < 16
    for reach in (0.75, 0.85):
        looking = central & (normals @ up > reach)
        if looking.sum() < 8:
            break
        height = points[looking] @ up
        patch = np.flatnonzero(looking)[height > np.percentile(height, 97) - 7]
        middle, mean = points[patch].mean(0), normals[patch].mean(0)
        up = mean * [0, 1, 1] / np.linalg.norm(mean[1:])
    else:
        return origin + middle @ axes, up @ axes  # pyright: ignore[reportPossiblyUnboundVariable]
    top = points[points[:, 2] > np.percentile(points[:, 2], 97)].mean(0)
    return origin + top @ axes, up @ axes


def _about(axis: int, angle: float) -> Float[np.ndarray, "3 3"]:
    turn, (a, b) = np.eye(3), [n for n in range(3) if n != axis]
    sign = -1 if axis == 1 else 1
    turn[a, a] = turn[b, b] = np.cos(angle)
    turn[a, b], turn[b, a] = -sign * np.sin(angle), sign * np.sin(angle)
    return turn


def _turned_about(vector: np.ndarray, axis: np.ndarray, angle: float) -> np.ndarray:
    """Rodrigues' formula."""
    along = axis * (axis @ vector) * (1 - np.cos(angle))
    return vector * np.cos(angle) + np.cross(axis, vector) * np.sin(angle) + along
