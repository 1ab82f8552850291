"""Training shapes: bodies in point correspondence, checked, repaired, aligned, in the model's frame, and mirrored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from diffrender.errors import MeshError, SettingError, notify
from diffrender.fit.align import procrustes, rigid
from diffrender.fit.landmarks import HIPS, find_landmarks, known_landmarks, paired
from diffrender.fit.mirror import Mirror, find_mirror
from diffrender.fit.repair import FOLLOWED, Repaired, open_edges, repair
from diffrender.fit.shape import Landmark
from diffrender.mesh import Mesh

BODY = "body"  # the one part of a subject that is a single mesh
METRES = 3.0  # a body whose bounding box has a diagonal below so many millimetres is one in metres


@dataclass(frozen=True, eq=False)
class Training:
    """What a model is built from.

    Attributes:
        shapes: (n, v, 3), the subjects, rigidly aligned, in the model's frame [mm].
        mirrored: (n, v, 3), their mirror images, aligned with them; (0, v, 3) where there are none.
        faces: (f, 3), repaired.
        parts: (name, number of vertices).
        landmarks: by name, where there are any.
        repaired: by part, what repair did.
        opened: by part, how many edges of the surfaces as given were open.
    """

    shapes: Float[np.ndarray, "n v 3"]
    mirrored: Float[np.ndarray, "k v 3"]
    faces: Int64[np.ndarray, "f 3"]
    parts: tuple[tuple[str, int], ...]
    landmarks: Mapping[str, Landmark]
    repaired: Mapping[str, Repaired]
    opened: Mapping[str, int]

    def of(self, subjects: Sequence[int]) -> Float[np.ndarray, "t v 3"]:
        """The training shapes of these subjects, mirrored ones included, aligned among themselves."""
        chosen = list(subjects)
        mirrored = self.mirrored[chosen] if len(self.mirrored) else self.mirrored
        return procrustes(np.concatenate([self.shapes[chosen], mirrored]), self.shapes.mean(0))

    @property
    def part(self) -> Int64[np.ndarray, "v"]:
        """Number of each vertex's part."""
        return np.repeat(np.arange(len(self.parts)), [count for _, count in self.parts])


def prepare(bodies: Sequence[Mesh | Mapping[str, Mesh]], mirror: bool = True) -> Training:
    """Bodies in point correspondence as training shapes.

    Args:
        bodies: of each subject one mesh, or a mesh of each part {part: mesh}; RAS [mm].
        mirror: whether mirror images are made; only of bodies with a left and a right hip.
    Raises: MeshError where they are not in correspondence, SettingError for fewer than two. A Notice for meshes in
        metres and for open ones.
    """
    subjects = [dict(body) if isinstance(body, Mapping) else {BODY: body} for body in bodies]
    _check(subjects)
    unit = _unit(subjects)
    repaired, opened = {}, {}
    for part in subjects[0]:
        points = np.stack([np.asarray(body[part].vertices.detach().cpu(), np.float64) for body in subjects]) * unit
        faces = subjects[0][part].faces.cpu().numpy()
        opened[part] = open_edges(faces)
        repaired[part] = repair(points, faces, f"The {part}")
    _say_open(opened)
    parts = tuple((part, found.points.shape[1]) for part, found in repaired.items())
    ranges = ranges_of(parts)
    faces = np.concatenate([found.faces + ranges[part].start for part, found in repaired.items()])
    raw = np.concatenate([found.points for found in repaired.values()], axis=1)
    known = known_landmarks([mesh.faces.cpu().numpy() for mesh in subjects[0].values()], ranges)
    shapes, landmarks = _in_frame(raw, faces, ranges, known)
    mirrored = shapes[:0]
    if mirror and is_pelvis(ranges):
        unused = np.array([n + ranges[p].start for p, found in repaired.items() for n in found.unused], np.int64)
        shapes, mirrored = _with_mirrored(shapes, faces, ranges, landmarks, unused)
        landmarks = known or paired(landmarks, np.concatenate([shapes, mirrored]).mean(0), faces, ranges)
    return Training(shapes, mirrored, faces, parts, landmarks, repaired, opened)


def ranges_of(parts: Sequence[tuple[str, int]]) -> dict[str, slice]:
    """Where each part's vertices lie."""
    ends = np.cumsum([count for _, count in parts])
    return {name: slice(int(end) - count, int(end)) for (name, count), end in zip(parts, ends, strict=True)}


def is_pelvis(parts: Mapping[str, slice]) -> bool:
    """Whether there are two hips, so that landmarks and mirror images make sense."""
    return {part for part, _ in HIPS.values()} <= set(parts)


def _check(bodies: list[dict[str, Mesh]]) -> None:
    if len(bodies) < 2:
        found = "1 subject was" if bodies else "none was"
        raise SettingError(
            f"A shape model tells how people differ, and {found} given. Give two subjects at least, better twenty."
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
                    "template to all of them first (in_correspondence)."
                )


def _unit(bodies: list[dict[str, Mesh]]) -> float:
    """1, or 1000 for meshes in metres. Raises: MeshError where some are and some are not."""
    sizes = []
    for body in bodies:
        points = torch.cat([mesh.vertices.detach() for mesh in body.values()])
        sizes.append(float((points.amax(0) - points.amin(0)).norm()))
    metres = [size < METRES for size in sizes]
    if not any(metres):
        return 1.0
    if not all(metres):
        raise MeshError(
            f"The subjects' sizes run from {min(sizes):.3g} to {max(sizes):.3g}: some seem to be in metres and others "
            "in millimetres. Bring all to millimetres."
        )
    notify(
        f"The meshes are {float(np.median(sizes)):.3g} across, which is taken for metres; they were multiplied by 1000 "
        "and the model is in millimetres."
    )
    return 1000.0


def _say_open(opened: Mapping[str, int]) -> None:
    if some := {part: count for part, count in opened.items() if count}:
        listed = ", ".join(f"{part} ({count} open edges)" for part, count in some.items())
        notify(f"Not closed as given: {listed}. The holes were closed with faces between their own vertices.")


def _in_frame(
    raw: Float[np.ndarray, "n v 3"],
    faces: Int64[np.ndarray, "f 3"],
    ranges: dict[str, slice],
    known: dict[str, Landmark] | None,
) -> tuple[Float[np.ndarray, "n v 3"], dict[str, Landmark]]:
    """Aligned shapes in the model's frame: the subjects' mean orientation, left and right along x, origin midway
    between the femoral heads; without hips, the middle of the mean."""
    shapes = procrustes(raw)
    mean = shapes.mean(0)
    turns = Rotation.from_matrix(np.stack([rigid(mean, shape)[:3, :3] for shape in raw])).mean().as_matrix()
    shapes = (shapes - mean.mean(0)) @ turns.T
    if not is_pelvis(ranges):
        return shapes, {}
    landmarks = known or find_landmarks(shapes.mean(0), faces, ranges)
    places = {name: landmark.at(torch.from_numpy(shapes.mean(0))).numpy() for name, landmark in landmarks.items()}
    across = sum(places[name] - places[f"{name[:-2]}-l"] for name in places if name.endswith("-r"))
    turn = Rotation.align_vectors([[1.0, 0, 0]], [across / np.linalg.norm(across)])[0].as_matrix()
    return _at_heads(shapes @ turn.T, landmarks), landmarks


def _at_heads(shapes: np.ndarray, landmarks: Mapping[str, Landmark]) -> np.ndarray:
    mean = torch.from_numpy(shapes.mean(0))
    return shapes - (landmarks["FH-l"].at(mean) + landmarks["FH-r"].at(mean)).numpy() / 2


def _with_mirrored(
    shapes: np.ndarray,
    faces: np.ndarray,
    ranges: dict[str, slice],
    landmarks: Mapping[str, Landmark],
    unused: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Shapes and their mirror images, aligned together, their mean symmetric to x = 0."""
    mirror = find_mirror(shapes.mean(0), faces, ranges)
    images = np.stack([_mirrored(mirror, shape, unused, shapes.mean(0), faces) for shape in shapes])
    both = procrustes(np.concatenate([shapes, images]), shapes.mean(0))
    for _ in range(2):
        both = _symmetric(both, mirror)
    both = _at_heads(both, landmarks)
    return both[: len(shapes)], both[len(shapes) :]


def _mirrored(mirror: Mirror, shape: np.ndarray, unused: np.ndarray, mean: np.ndarray, faces: np.ndarray) -> np.ndarray:
    image = mirror(shape)
    if len(unused):  # they lie on no surface: they follow their neighbours, as in repair
        used = np.unique(faces)
        near = used[cKDTree(mean[used]).query(mean[unused], k=FOLLOWED)[1]]
        image[unused] = mean[unused] + (image[near] - mean[near]).mean(1)
    return image


def _symmetric(shapes: np.ndarray, mirror: Mirror) -> np.ndarray:
    """Shapes turned and moved so that their mean's plane of symmetry is x = 0: half the way to its mirror image."""
    mean = shapes.mean(0)
    across = rigid(mean, mirror(mean))
    half = Rotation.from_rotvec(Rotation.from_matrix(across[:3, :3]).as_rotvec() / 2).as_matrix()
    turned = shapes @ half.T
    mean = turned.mean(0)
    shift = (mirror(mean) - mean)[:, 0].mean() / 2
    return turned + np.array([shift, 0.0, 0.0])
