"""The 14 landmarks of a pelvis, found on a template by geometry: they move with its vertices ever after.

Names as in DeepFluoro (Grupp et al., Int. J. CARS 15 (2020) 759, doi:10.1007/s11548-020-02162-7), each left and right:

    FH    femoral head: the centre of the sphere through the acetabulum's lunate surface
    GSN   greater sciatic notch: where it is deepest, seen from the side
    IOF   inferior obturator foramen: the lowest point of its rim
    MOF   medial obturator foramen: the most medial point of its rim
    SPS   superior pubic symphysis: the upper end of the symphysis' face
    IPS   inferior pubic symphysis: its lower end
    ASIS  anterior superior iliac spine: the foremost point of the crest
"""

import csv
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.spatial import cKDTree

from diffrender.errors import MeshError
from diffrender.fit.shape import Landmark

KINDS = ("FH", "GSN", "IOF", "MOF", "SPS", "IPS", "ASIS")
# The template of the published pelvis atlas, by its triangles: its landmarks are in a table, so that they are the same
# vertices whichever of its subjects a model is built from.
ATLAS = "b92c14fe2df5ec9eb7d27d949110baee7269f851722cbe49042b3304dfb9b57d"
NAMES = tuple(f"{kind}-{side}" for kind in KINDS for side in ("l", "r"))
HIPS = {"l": ("left hip", -1.0), "r": ("right hip", 1.0)}  # with the way of lateral along x (R)
TABLE = Path(__file__).with_name("data") / "pelvis_atlas_landmarks.csv"

RADII = np.arange(18.0, 33.0, 2.0)  # mm, of femoral heads with their cartilage
MIRRORED = np.array([-1.0, 1.0, 1.0])
ON_SPHERE, TOWARDS = 1.5, 0.94  # mm off the sphere, cosine between a normal and the way to its centre
PIXEL = 1.0  # mm, of silhouettes
REACH = 32.0  # mm; a disc of this radius does not enter the sciatic notch
CREST = 0.35  # of the height from the femoral head to the crest's top: the anterior inferior spine lies below


def known_landmarks(
    faces: Sequence[Int64[np.ndarray, "_ 3"]], parts: Mapping[str, slice]
) -> dict[str, Landmark] | None:
    """The landmarks of a template that is known by its triangles as published, part after part; None for another."""
    if fingerprint(faces) != ATLAS:
        return None
    rows: dict[str, list[tuple[int, float]]] = {name: [] for name in NAMES}
    with TABLE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(line for line in file if not line.startswith("#")):
            rows[row["name"]].append((parts[row["part"]].start + int(row["vertex"]), float(row["weight"])))
    found = {}
    for name, entries in rows.items():
        vertices, weights = (torch.tensor(column) for column in zip(*entries, strict=True))
        weights = weights.to(torch.float64)
        found[name] = Landmark(vertices, weights / weights.sum())
    return found


def fingerprint(faces: Sequence[Int64[np.ndarray, "_ 3"]]) -> str:
    """SHA256 of the triangles of a template's parts, as hexadecimal."""
    digest = hashlib.sha256()
    for own in faces:
        digest.update(np.ascontiguousarray(own, dtype="<i4").tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Bone:
    """One hip as the searches below see it: lateral is +x, whatever the side."""

    points: Float[np.ndarray, "v 3"]
    faces: Int64[np.ndarray, "f 3"]
    normals: Float[np.ndarray, "v 3"]
    used: Bool[np.ndarray, "v"]


def find_landmarks(
    points: Float[np.ndarray, "v 3"], faces: Int64[np.ndarray, "f 3"], parts: Mapping[str, slice]
) -> dict[str, Landmark]:
    """The 14 landmarks of a pelvis that lies about straight in RAS axes [mm].

    Args:
        parts: where the vertices of "left hip" and "right hip" lie.
    Raises: MeshError where one cannot be found: then the surface is no pelvis, or does not lie in RAS.
    """
    found = {}
    for side, (part, lateral) in HIPS.items():
        here = parts[part]
        bone = _bone(points, faces, here, lateral)
        for kind, search in SEARCHES.items():
            try:
                vertices, weights = search(bone)
            except (ValueError, IndexError):
                raise MeshError(
                    f"{kind} cannot be found on the {part}: it does not look like one that lies in RAS axes [mm]. "
                    "Check its orientation and unit, or name the landmarks yourself."
                ) from None
            found[f"{kind}-{side}"] = Landmark(torch.as_tensor(vertices + here.start), torch.as_tensor(weights))
    return {name: found[name] for name in NAMES}


def paired(
    landmarks: Mapping[str, Landmark],
    points: Float[np.ndarray, "v 3"],
    faces: Int64[np.ndarray, "f 3"],
    parts: Mapping[str, slice],
) -> dict[str, Landmark]:
    """Each pair at the vertices nearest to the middle of the one and the mirror image of the other.

    Args:
        points: a template symmetric to x = 0 [mm]. A search ends some millimetres apart on two hips with different
            meshes where a rim or a bay is flat.
    """
    places = {name: landmark.at(torch.from_numpy(points)).numpy() for name, landmark in landmarks.items()}
    used = np.unique(faces)
    found = {}
    for name, landmark in landmarks.items():
        kind, side = name[:-2], name[-1]
        part, lateral = HIPS[side]
        middle = (places[f"{kind}-r"] + places[f"{kind}-l"] * MIRRORED) / 2 * (1.0 if lateral > 0 else MIRRORED)
        own = used[(used >= parts[part].start) & (used < parts[part].stop)]
        vertex = own[np.linalg.norm(points[own] - middle, axis=1).argmin()]
        alone = len(landmark.vertices) == 1  # a femoral head's centre is a sum of vertices, and stays
        found[name] = Landmark(torch.tensor([int(vertex)]), torch.ones(1, dtype=torch.float64)) if alone else landmark
    return found


def _bone(points: np.ndarray, faces: np.ndarray, here: slice, lateral: float) -> Bone:
    own = faces[(faces >= here.start).all(1) & (faces < here.stop).all(1)] - here.start
    turned = points[here] * np.array([lateral, 1.0, 1.0])
    own = own if lateral > 0 else own[:, ::-1]  # a mirror turns the winding
    corners = turned[own]
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros_like(turned)
    for n in range(3):
        np.add.at(normals, own[:, n], across)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    used = np.zeros(len(turned), bool)
    used[own] = True
    return Bone(turned, own, normals, used)


def head_of(bone: Bone) -> tuple[np.ndarray, float, np.ndarray]:
    """Centre and radius of the femoral head, and the vertices of the lunate surface about it.

    The head lies where most normals of the bone meet, at a head's distance: it is the one large hollow sphere.
    """
    best = (0, np.zeros(3), 0.0)
    for radius in RADII:
        meets = bone.points[bone.used] + radius * bone.normals[bone.used]
        tree = cKDTree(meets)
        counts = tree.query_ball_point(meets, 3.0, return_length=True)
        if counts.max() > best[0]:
            near = meets[np.linalg.norm(meets - meets[counts.argmax()], axis=1) < 3.0]
            best = (counts.max(), near.mean(0), radius)
    _, centre, radius = best
    for _ in range(20):
        way = centre - bone.points
        distance = np.linalg.norm(way, axis=1)
        facing = (way * bone.normals).sum(1) > TOWARDS * distance
        lunate = np.flatnonzero(bone.used & facing & (np.abs(distance - radius) < ON_SPHERE))
        p = bone.points[lunate]
        solution = np.linalg.lstsq(np.column_stack([2 * p, np.ones(len(p))]), (p**2).sum(1), rcond=None)[0]
        centre, radius = solution[:3], float(np.sqrt(solution[3] + solution[:3] @ solution[:3]))
    return centre, radius, lunate


def _head(bone: Bone) -> tuple[np.ndarray, np.ndarray]:
    """The smallest weights on the lunate surface that add up to 1 and to the centre."""
    centre, _, lunate = head_of(bone)
    system = np.vstack([np.ones(len(lunate)), (bone.points[lunate] - centre).T])
    weights = np.linalg.lstsq(system, np.array([1.0, 0, 0, 0]), rcond=None)[0]
    return lunate, weights


def _notch(bone: Bone) -> tuple[np.ndarray, np.ndarray]:
    """The deepest pixel of the bay between the posterior iliac and the ischial spine, in the view from the side."""
    mask, low = _silhouette(bone, bone.points[:, 1:])
    pad = int(REACH / PIXEL) + 2
    mask = np.pad(mask, pad)
    filled = np.asarray(ndimage.binary_fill_holes(mask), bool)
    # Closing by a disc, by distances: grown by the reach, then shrunk.
    grown = _distance(~filled) <= REACH / PIXEL
    closed = _distance(grown) > REACH / PIXEL
    bays, count = _pieces(closed & ~filled)
    posterior = [n for n in range(1, count + 1) if np.argwhere(bays == n)[:, 0].mean() < mask.shape[0] / 2]
    bay = bays == max(posterior, key=lambda n: (bays == n).sum())
    depth = _distance(closed) * bay
    deepest = np.array(np.unravel_index(depth.argmax(), depth.shape)) - pad
    place = low + (deepest + 0.5) * PIXEL
    away = np.hypot(*(bone.points[:, 1:] - place).T)
    rim = np.flatnonzero(bone.used & (away < away[bone.used].min() + 1.5))
    inner = rim[np.abs(bone.normals[rim, 0]).argmin()]
    return _one(inner)


def _foramen(bone: Bone) -> np.ndarray:
    """The vertices of the obturator foramen's rim, seen along its own axis."""
    axis = np.array([0.0, 1.0, 0.0])
    rim = np.zeros(0, int)
    for _ in range(4):
        across = np.linalg.svd(axis[None])[2][1:]
        flat = bone.points @ across.T
        mask, low = _silhouette(bone, flat)
        holes, count = _pieces(np.asarray(ndimage.binary_fill_holes(mask), bool) & ~mask)
        hole = np.argwhere(holes == 1 + np.bincount(holes.ravel(), minlength=count + 2)[1:].argmax())
        if len(hole) < 100:
            raise ValueError("no foramen")
        distance = cKDTree(low + (hole + 0.5) * PIXEL).query(flat)[0]
        rim = np.flatnonzero(bone.used & (distance < 1.5 * PIXEL))
        p = bone.points[rim] - bone.points[rim].mean(0)
        normal = np.linalg.svd(p, full_matrices=False)[2][2]
        axis = normal * np.sign(normal @ axis)
    return rim


def _lowest_of_foramen(bone: Bone) -> tuple[np.ndarray, np.ndarray]:
    rim = _foramen(bone)
    return _one(rim[bone.points[rim, 2].argmin()])


def _innermost_of_foramen(bone: Bone) -> tuple[np.ndarray, np.ndarray]:
    rim = _foramen(bone)
    return _one(rim[bone.points[rim, 0].argmin()])


def _symphysis(bone: Bone) -> tuple[np.ndarray, np.ndarray]:
    """The vertices of the symphysis' face, and how far up its long axis each lies."""
    height = head_of(bone)[0]
    low = np.flatnonzero(bone.used & (bone.points[:, 2] < height[2]) & (bone.points[:, 1] > height[1]))
    nearest = bone.points[low, 0].min()
    face = low[(bone.points[low, 0] < nearest + 5.0) & (bone.normals[low, 0] < -0.6)]
    p = bone.points[face] - bone.points[face].mean(0)
    axis = np.linalg.svd(p[:, 1:], full_matrices=False)[2][0]
    return face, p[:, 1:] @ (axis * np.sign(axis[1]))


def _top_of_symphysis(bone: Bone) -> tuple[np.ndarray, np.ndarray]:
    face, up = _symphysis(bone)
    return _one(face[up.argmax()])


def _end_of_symphysis(bone: Bone) -> tuple[np.ndarray, np.ndarray]:
    face, up = _symphysis(bone)
    return _one(face[up.argmin()])


def _spine(bone: Bone) -> tuple[np.ndarray, np.ndarray]:
    head = head_of(bone)[0][2]
    top = bone.points[bone.used, 2].max()
    crest = np.flatnonzero(bone.used & (bone.points[:, 2] > head + CREST * (top - head)))
    return _one(crest[bone.points[crest, 1].argmax()])


SEARCHES: dict[str, Callable[[Bone], tuple[np.ndarray, np.ndarray]]] = {
    "FH": _head,
    "GSN": _notch,
    "IOF": _lowest_of_foramen,
    "MOF": _innermost_of_foramen,
    "SPS": _top_of_symphysis,
    "IPS": _end_of_symphysis,
    "ASIS": _spine,
}


def _one(vertex: Any) -> tuple[np.ndarray, np.ndarray]:
    return np.array([int(vertex)]), np.ones(1)


def _silhouette(bone: Bone, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the bone covers when seen along the missing axis: (a, b) bool by pixels of PIXEL, and its lowest corner."""
    low = flat[bone.used].min(0) - 2 * PIXEL
    size = np.ceil((flat[bone.used].max(0) + 2 * PIXEL - low) / PIXEL).astype(int)
    image = Image.new("1", (int(size[1]), int(size[0])))
    draw = ImageDraw.Draw(image)
    for corners in ((flat[bone.faces] - low) / PIXEL - 0.5)[:, :, ::-1]:
        draw.polygon([tuple(corner) for corner in corners], fill=1)
    return np.array(image, bool), low


def _distance(inside: np.ndarray) -> np.ndarray:
    """Of every pixel inside, to the nearest outside."""
    return np.asarray(ndimage.distance_transform_edt(inside))


def _pieces(mask: np.ndarray) -> tuple[np.ndarray, int]:
    labels, count = ndimage.label(mask)  # pyright: ignore[reportGeneralTypeIssues]  a pair, whatever its stub says
    return labels, count
