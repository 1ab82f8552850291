"""Correspondence: one template warped to each of many bodies, so that vertex n is the same place in all of them.

A template is brought to a body by a similarity (closest points that also face the same way), and then bone by bone by
an affine and a smooth displacement: a Gaussian process, whose coarse parts move first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy.linalg import solve
from scipy.spatial import cKDTree

from diffrender.errors import LabelError, MeshError, SettingError
from diffrender.fit.align import moved, rigid
from diffrender.fit.contour import contour
from diffrender.fit.metrics import distances_to
from diffrender.fit.search import named_part
from diffrender.fit.shape import ShapeModel
from diffrender.mesh import Mesh
from diffrender.volume import Volume

Body = Volume | Mapping[str, Mesh]


@dataclass(frozen=True)
class CorrespondenceSettings:
    """How a template is warped.

    Attributes:
        lengths: over which a displacement is alike [mm], each a part of the Gaussian process.
        amplitudes: how far each part may go, one standard deviation per axis [mm].
        shift, strain: standard deviations of a bone's own shift [mm] and of its turn and stretch [mm/mm].
        points: places that carry the displacement of a bone; more follow finer detail.
        rounds: of closest points, while the trust in them rises.
        trust: how far off closest points are taken to be in the first and in the last round [mm].
        facing: that a normal turned by one radian counts like so many mm of distance.
        sliding: share of a closest point's offset along the surface that is followed; what points along the surface is
            mostly the chance of sampling, and anatomy only at edges.
    Raises: SettingError.
    """

    lengths: tuple[float, ...] = (80.0, 40.0, 20.0, 10.0)
    amplitudes: tuple[float, ...] = (8.0, 5.0, 3.0, 1.5)
    shift: float = 10.0
    strain: float = 0.1
    points: int = 300
    rounds: int = 20
    trust: tuple[float, float] = (6.0, 0.6)
    facing: float = 8.0
    sliding: float = 0.3

    def __post_init__(self):
        if len(self.lengths) != len(self.amplitudes) or not self.lengths:
            raise SettingError(
                f"lengths and amplitudes go together; there are {len(self.lengths)} and {len(self.amplitudes)}."
            )
        numbers = (
            *self.lengths,
            *self.amplitudes,
            self.shift,
            self.strain,
            self.points,
            self.rounds,
            *self.trust,
            self.facing,
        )
        if min(numbers) <= 0 or not 0 <= self.sliding <= 1:
            raise SettingError(f"All of these are above zero, and sliding is 0 to 1: {self}.")


@dataclass(frozen=True)
class Distances:
    """How far a warped template and a body's surface are apart [mm], each way: mean and 95 % of the points.

    Attributes:
        cut: share of the body's surface that lies at the border of its image, where the bone was cut off. It is no
            bone's surface and left out of the warp and of these numbers.
        unseen: share of the template's vertices whose place is guessed from the rest, as no surface lies near.
    """

    from_template: float
    from_template_95: float
    from_body: float
    from_body_95: float
    cut: float
    unseen: float


@dataclass(frozen=True, eq=False)
class _Target:
    """A bone of a body: points on its surface with outward normals, and its triangles.

    cut: at the border of its image, where a bone that goes on ends in a flat face that is no surface of it.
    index_from_world, last: of that image, (i, j, k); None without one.
    """

    points: Float[np.ndarray, "n 3"]
    normals: Float[np.ndarray, "n 3"]
    cut: Bool[np.ndarray, "n"]
    mesh: Mesh
    index_from_world: Float[np.ndarray, "4 4"] | None = None
    last: Float[np.ndarray, "3"] | None = None

    def sees(self, points: Float[np.ndarray, "v 3"]) -> Bool[np.ndarray, "v"]:
        """Whether places lie in the image, so that a bone there would show."""
        if self.index_from_world is None or self.last is None:
            return np.ones(len(points), bool)
        return _within(moved(points, self.index_from_world), self.last)


def in_correspondence(
    bodies: Sequence[Body], template: ShapeModel, settings: CorrespondenceSettings | None = None
) -> tuple[list[dict[str, Mesh]], list[dict[str, Distances]]]:
    """Warp the template to each body.

    Args:
        bodies: label volumes, whose names hold those of the template's parts in any order of words ("hip_left" is
            "left hip"; TotalSegmentator's names do); or {part: Mesh}, RAS [mm].
        template: whose mean, modes and parts are used.
    Returns: for each body {part: Mesh} with the template's vertices and faces in their order, where the body lies; and
        {part: Distances}, how well it fits. What `build_shape_model` takes is the first.
    Raises: LabelError, MeshError where a body lacks one of the template's parts.
    Source: the Gaussian process of displacements is that of Lüthi et al., IEEE TPAMI 40 (2018) 1860,
        doi:10.1109/TPAMI.2017.2739743; closest points with normals as in non-rigid ICP.
    """
    settings = CorrespondenceSettings() if settings is None else settings
    names = [name for name, _ in template.parts]
    meshes, errors = [], []
    for n, body in enumerate(bodies):
        targets = _of_labels(body, names) if isinstance(body, Volume) else _of_meshes(body, names, n)
        warped = _warped(template, targets, settings)
        meshes.append(
            {
                name: Mesh(torch.from_numpy(warped[name][0].astype(np.float32)), _faces_of(template, name))
                for name in names
            }
        )
        errors.append({name: _distances(meshes[-1][name], targets[name], warped[name][1]) for name in names})
    return meshes, errors


def _of_labels(body: Volume, names: Sequence[str]) -> dict[str, _Target]:
    what = body.source or "A body"
    if body.labels is None:
        raise LabelError(f"{what} has no labels: its bones are not known. Give a segmentation with {', '.join(names)}.")
    labels = {named_part(body.label_name(label), names): label for label in body.label_ids}
    lattice = body.world_from_voxel.numpy()
    found = {}
    for name in names:
        label = labels.get(name)
        if label is None:
            seen = [body.label_name(label) for label in body.label_ids]
            near = ", ".join(sorted(label for label in seen if "hip" in label or "sacrum" in label)) or "none"
            raise LabelError(
                f"{what} has no label named {name!r}. Of its {len(seen)} labels {near} may be meant by the template's "
                "parts. Rename the label, or give a table of names."
            )
        found[name] = _of_mask(body.mask(label).numpy(), lattice)
    return found


def _of_mask(mask: Bool[np.ndarray, "k j i"], lattice: Float[np.ndarray, "4 4"]) -> _Target:
    from scipy.ndimage import gaussian_filter

    # Blurred by half a voxel and more: marching cubes of a bare mask leave its steps, and normals would follow them.
    soft = gaussian_filter(np.pad(mask.astype(np.float32), 2), 0.7)
    shifted = lattice.copy()
    shifted[:3, 3] -= 2 * lattice[:3, :3].sum(1)
    mesh = contour(soft, 0.45, shifted, smoothing=10)
    index_from_world, last = np.linalg.inv(lattice), np.array(mask.shape[::-1]) - 1.0
    cut = ~_within(moved(mesh.vertices.double().numpy(), index_from_world), last)
    return _target(mesh, cut, index_from_world, last)


def _within(index: Float[np.ndarray, "n 3"], last: Float[np.ndarray, "3"]) -> Bool[np.ndarray, "n"]:
    return np.all((index > 0.3) & (index < last - 0.3), axis=1)


def _of_meshes(body: Mapping[str, Mesh], names: Sequence[str], n: int) -> dict[str, _Target]:
    if missing := [name for name in names if name not in body]:
        raise MeshError(
            f"Body {n} has no surface of {', '.join(missing)}; it has {', '.join(body) or 'none'}. Name its surfaces "
            "as the template's parts."
        )
    return {name: _target(body[name], np.zeros(len(body[name].vertices), bool)) for name in names}


def _target(
    mesh: Mesh,
    cut: Bool[np.ndarray, "v"],
    index_from_world: Float[np.ndarray, "4 4"] | None = None,
    last: Float[np.ndarray, "3"] | None = None,
) -> _Target:
    """Vertices and middles of the faces, those that a face uses."""
    points, faces = mesh.vertices.detach().double().numpy(), mesh.faces.numpy()
    used = np.unique(faces)
    normals, middles = _normals(points, faces), points[faces].mean(1)
    flat = np.cross(points[faces[:, 1]] - points[faces[:, 0]], points[faces[:, 2]] - points[faces[:, 0]])
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
    return _Target(
        np.concatenate([points[used], middles]),
        np.concatenate([normals[used], flat]),
        np.concatenate([cut[used], cut[faces].all(1)]),
        mesh,
        index_from_world,
        last,
    )


def _normals(points: Float[np.ndarray, "v 3"], faces: Int64[np.ndarray, "f 3"]) -> Float[np.ndarray, "v 3"]:
    flat = np.cross(points[faces[:, 1]] - points[faces[:, 0]], points[faces[:, 2]] - points[faces[:, 0]])
    normals = np.stack([np.bincount(faces.ravel(), np.repeat(flat[:, d], 3), len(points)) for d in range(3)], axis=1)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def _faces_of(template: ShapeModel, part: str) -> Int64[torch.Tensor, "f 3"]:
    here = template.range_of(part)
    inside = (template.faces[:, 0] >= here.start) & (template.faces[:, 0] < here.stop)
    return template.faces[inside] - here.start


class _Finder:
    """Closest points of one bone of the body, among those that face the same way."""

    def __init__(self, target: _Target, facing: float):
        self.target, self.facing = target, facing
        self.tree = cKDTree(np.c_[target.points, facing * target.normals])

    def closest(self, points: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(v,) which points are closest, and how much they count: 0 outside the image, less the farther they are."""
        distance, index = self.tree.query(np.c_[points, self.facing * normals])
        away = np.linalg.norm(self.target.points[index] - points, axis=1)
        # Biweight with the scale of these distances: what has no counterpart must not pull.
        reach = 4.685 * 1.4826 * max(float(np.median(away)), 0.5)
        weights = np.clip(1 - (distance / (2 * reach)) ** 2, 0, None) ** 2
        weights[self.target.cut[index] | ~self.target.sees(points)] = 0
        return index, weights


def _warped(
    template: ShapeModel, targets: Mapping[str, _Target], settings: CorrespondenceSettings
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{part: (points (v, 3), weights (v,) of the last closest points)}."""
    finders = {name: _Finder(targets[name], settings.facing) for name, _ in template.parts}
    faces = {name: _faces_of(template, name).numpy() for name in finders}
    placed = _placed(template, finders, faces)
    warped = {}
    for name, finder in finders.items():
        points = placed[template.range_of(name)]
        warped[name] = _displaced(points, faces[name], finder, settings)
    return warped


def _placed(
    template: ShapeModel, finders: Mapping[str, _Finder], faces: Mapping[str, np.ndarray]
) -> Float[np.ndarray, "v 3"]:
    """The template with its own modes, brought to the body by a similarity."""
    mean, modes = template.mean.double().numpy(), template.modes.double().numpy()
    best: tuple[float, np.ndarray] | None = None
    for start in _starts(template, finders):
        shape, world_from_model = mean, start
        for turn in range(30):
            points = moved(shape, world_from_model)
            goals, weights = np.empty_like(points), np.empty(len(points))
            for name, finder in finders.items():
                here = template.range_of(name)
                index, weights[here] = finder.closest(points[here], _normals(points[here], faces[name]))
                goals[here] = finder.target.points[index]
            world_from_model = _similarity(shape, goals, weights + 1e-9)
            if turn >= 10 and len(modes):
                wanted = moved(goals, np.linalg.inv(world_from_model))
                shape = mean + np.einsum("k,kvd->vd", _coefficients(modes, wanted - mean, weights), modes)
        points = moved(shape, world_from_model)
        off = np.mean(
            [
                np.median(
                    finder.tree.query(
                        np.c_[points[h := template.range_of(name)], finder.facing * _normals(points[h], faces[name])]
                    )[0]
                )
                for name, finder in finders.items()
            ]
        )
        if best is None or off < best[0]:
            best = (float(off), points)
    assert best is not None
    return best[1]


def _starts(template: ShapeModel, finders: Mapping[str, _Finder]) -> list[np.ndarray]:
    """From three parts on their middles say how the body lies; with fewer, its principal axes do, in all four ways."""
    mean = template.mean.double().numpy()
    targets = [finder.target.points[~finder.target.cut] for finder in finders.values()]
    if len(targets) >= 3:
        theirs = np.stack([points.mean(0) for points in targets])
        start = np.eye(4)
        seen = np.ones(len(mean), bool)
        # The middle of a bone that is cut off is that of the template's part inside the image, once it lies there.
        for _ in range(12 if any(finder.target.cut.any() for finder in finders.values()) else 1):
            own = np.stack([mean[h][seen[h]].mean(0) for h in (template.range_of(name) for name in finders)])
            start = _similarity(own, theirs, np.ones(len(own)))
            for name, finder in finders.items():
                here = template.range_of(name)
                seen[here] = finder.target.sees(moved(mean[here], start))
                seen[here] |= not seen[here].any()
        return [start]
    everything = np.concatenate(targets)
    a, b = _axes(mean), _axes(everything)
    starts = []
    for flip in ([1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]):
        start = np.eye(4)
        start[:3, :3] = b * flip @ a.T
        start[:3, 3] = everything.mean(0) - start[:3, :3] @ mean.mean(0)
        starts.append(start)
    return starts


def _axes(points: np.ndarray) -> np.ndarray:
    """Principal axes as columns, a right-handed frame."""
    axes = np.linalg.eigh(np.cov(points.T))[1]
    return axes * [1, 1, np.sign(np.linalg.det(axes))]


def _similarity(source: np.ndarray, target: np.ndarray, weights: np.ndarray) -> Float[np.ndarray, "4 4"]:
    """The motion and size that bring `source` onto `target`. Source: Umeyama, IEEE TPAMI 13 (1991) 376."""
    turn = rigid(source, target, weights)
    w = weights / weights.sum()
    a, b = source - w @ source, target - w @ target
    size = float((w[:, None] * (a @ turn[:3, :3].T) * b).sum() / (w[:, None] * a * a).sum())
    size = float(np.clip(size, 0.5, 2.0))
    turn[:3, 3] = w @ target - size * (turn[:3, :3] @ (w @ source))
    turn[:3, :3] *= size
    return turn


def _coefficients(modes: np.ndarray, offsets: np.ndarray, weights: np.ndarray, noise: float = 20.0) -> np.ndarray:
    """Most likely coefficients for these offsets of the vertices, which are `noise` [mm] off (neighbours alike)."""
    weighted = modes * weights[:, None]
    gram = np.einsum("kvd,lvd->kl", weighted, modes) + noise**2 * np.eye(len(modes))
    return np.clip(np.linalg.solve(gram, np.einsum("kvd,vd->k", weighted, offsets)), -3, 3)


def _displaced(
    points: np.ndarray, faces: np.ndarray, finder: _Finder, settings: CorrespondenceSettings
) -> tuple[np.ndarray, np.ndarray]:
    """The bone after a smooth displacement towards the body's surface, and the weights of its closest points."""
    basis = _basis(points, settings)
    sample = finder.target.points[~finder.target.cut][::2]
    facing = settings.facing * finder.target.normals[~finder.target.cut][::2]
    now, weights = points, np.zeros(len(points))
    for trust in np.geomspace(*settings.trust, settings.rounds):
        normals = _normals(now, faces)
        index, weights = finder.closest(now, normals)
        offsets = _slid(finder.target.points[index] - now, normals, settings.sliding)
        total, sums = weights.copy(), weights[:, None] * (now + offsets)
        # The way back, from the body to the template, so that an edge of the body is not passed by.
        distance, nearest = cKDTree(np.c_[now, settings.facing * normals]).query(np.c_[sample, facing])
        near = distance < 4 * np.median(distance) + 1.0
        back = now[nearest] + _slid(sample - now[nearest], normals[nearest], settings.sliding)
        share = near / np.maximum(np.bincount(nearest, near, len(now)), 1)[nearest]
        total += np.bincount(nearest, share, len(now))
        sums += np.stack([np.bincount(nearest, share * back[:, d], len(now)) for d in range(3)], axis=1)
        wanted = sums / np.maximum(total, 1e-9)[:, None] - points
        weighted = basis.T * (total / trust**2)
        now = points + basis @ solve(weighted @ basis + np.eye(basis.shape[1]), weighted @ wanted, assume_a="pos")
    return now, weights


def _slid(offsets: np.ndarray, normals: np.ndarray, share: float) -> np.ndarray:
    """Offsets with only a share of their part along the surface."""
    along = (offsets * normals).sum(1, keepdims=True) * normals
    return along + share * (offsets - along)


def _basis(points: np.ndarray, settings: CorrespondenceSettings) -> Float[np.ndarray, "v r"]:
    """The Gaussian process as independent unit modes, alike for x, y and z: displacement = basis @ (r, 3) normals.

    Source: Nyström's approximation of the kernel from some of the points, spread evenly.
    """
    chosen = _spread(points, min(settings.points, len(points)))
    some = _kernel(points[chosen], points[chosen], settings)
    values, vectors = np.linalg.eigh(some)
    kept = values > 1e-4 * values[-1]
    smooth = _kernel(points, points[chosen], settings) @ (vectors[:, kept] / np.sqrt(values[kept]))
    # An affine part reaches as far as the bone does: what the image cut off follows what is seen.
    affine = np.c_[np.full(len(points), settings.shift), settings.strain * (points - points.mean(0))]
    return np.c_[affine, smooth]


def _kernel(a: np.ndarray, b: np.ndarray, settings: CorrespondenceSettings) -> np.ndarray:
    square = np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0)
    total = np.zeros_like(square)
    for length, amplitude in zip(settings.lengths, settings.amplitudes, strict=True):
        total += amplitude**2 * np.exp(-square / (2 * length**2))
    return total


def _spread(points: np.ndarray, count: int) -> np.ndarray:
    """Indices of points far from each other: each next one is the farthest from those before."""
    chosen = np.zeros(count, np.int64)
    away = ((points - points[0]) ** 2).sum(1)
    for n in range(1, count):
        chosen[n] = away.argmax()
        away = np.minimum(away, ((points - points[chosen[n]]) ** 2).sum(1))
    return chosen


def _distances(warped: Mesh, target: _Target, weights: np.ndarray) -> Distances:
    ours = distances_to(warped.vertices.double().numpy()[weights > 0], target.mesh)
    theirs = distances_to(target.points[~target.cut], warped)
    return Distances(
        *(float(n) for n in (ours.mean(), np.quantile(ours, 0.95), theirs.mean(), np.quantile(theirs, 0.95))),
        cut=float(target.cut.mean()),
        unseen=float((weights == 0).mean()),
    )
