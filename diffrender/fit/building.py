"""A shape model from meshes in point correspondence: repair, generalised Procrustes, covariance, modes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from diffrender.errors import SettingError
from diffrender.fit.align import moved, rigid
from diffrender.fit.covariance import Covariance, modes_of, spread_out
from diffrender.fit.landmarks import HIPS
from diffrender.fit.repair import Repaired
from diffrender.fit.shape import Joint, ShapeModel
from diffrender.fit.training import Training, is_pelvis, prepare, ranges_of
from diffrender.mesh import Mesh

TURNING = "sacrum"
# The sacrum turns by 1 to 2 degrees against the hips between lying, sitting and standing (Sturesson, Selvik & Uden,
# Spine 14 (1989) 162): a spread that subjects who all lie in a CT do not show.
LEAST_TURN = np.deg2rad(1.0)
FOLDS = 10  # of the cross-validation behind `unexplained`
JUDGED = 1500  # vertices at which it is measured; others take what is measured about them
ABOUT = 8.0  # mm; standard deviation of "about them"


@dataclass(frozen=True)
class ModelSettings:
    """How a model is built; the defaults are those with the best leave-one-out errors on the published atlas.

    Attributes:
        modes: at most so many are kept.
        mirror: whether left-right mirror images train too.
        local: share of the covariance whose correlations fall off with distance, from 0 (plain PCA) to 1.
        local_length: over which distance [mm].
        smooth: standard deviation of smooth changes that no subject shows, per axis [mm]; 0 for none.
        smooth_length: over which distance these are alike [mm].
        together: whether the parts vary together; if not, each for itself.
        joint: whether the sacrum may turn against the hips.
    Raises: SettingError.
    """

    modes: int = 60
    mirror: bool = True
    local: float = 0.4
    local_length: float = 80.0
    smooth: float = 1.0
    smooth_length: float = 20.0
    together: bool = True
    joint: bool = True

    def __post_init__(self):
        for name, fine, wanted in (
            ("modes", 1 <= self.modes <= 1000, "from 1 to 1000"),
            ("local", 0 <= self.local <= 1, "a share from 0 to 1"),
            ("local_length", self.local_length > 0, "above 0 mm"),
            ("smooth", 0 <= self.smooth < 100, "from 0 to 100 mm"),
            ("smooth_length", self.smooth_length > 0, "above 0 mm"),
        ):
            if not fine:
                raise SettingError(f"{name}={getattr(self, name)} is not offered: it is {wanted}.")


PLAIN = ModelSettings(mirror=False, local=0.0, smooth=0.0)  # principal components and nothing besides


def build_shape_model(
    meshes: Sequence[Mesh | Mapping[str, Mesh]],
    settings: ModelSettings | None = None,
    about: Mapping[str, Any] | None = None,
) -> ShapeModel:
    """Build a shape model from bodies in point correspondence.

    Args:
        meshes: of each subject one mesh, or a mesh of each part {part: mesh}; RAS [mm]. A pelvis has the parts
            "left hip", "right hip" and "sacrum", and gets its 14 landmarks.
        about: what to note in the model besides: licence, citation, subjects.
    Vertices keep their number and order, part after part; faces are repaired (see `repair`).
    Raises: MeshError where they are not in correspondence, SettingError for fewer than two.
    """
    settings = settings or ModelSettings()
    return model_of(prepare(meshes, settings.mirror), settings, about)


def model_of(
    training: Training,
    settings: ModelSettings,
    about: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> ShapeModel:
    """The model of prepared shapes; `progress` is called with (done, total) as subjects are left out in turns."""
    subjects = range(len(training.shapes))
    mean, modes = mean_and_modes(training, subjects, settings)
    unexplained, turn, generalisation = _left_over(training, settings, progress or (lambda done, total: None))
    notes = {
        "kind": "pelvis" if is_pelvis(ranges_of(training.parts)) else "shape",
        "subjects": len(training.shapes),
        "settings": asdict(settings),
        "repair": {part: _share(found, training.opened[part]) for part, found in training.repaired.items()},
        "left-out mean point error [mm]": generalisation,
        **(about or {}),
    }
    return ShapeModel(
        mean=_float(mean),
        modes=_float(modes),
        faces=torch.from_numpy(training.faces.astype(np.int64)),
        parts=training.parts,
        landmarks_at=training.landmarks,
        unexplained=_float(unexplained),
        joint=_joint(training, mean, turn) if settings.joint else None,
        about=notes,
    )


def mean_and_modes(
    training: Training, subjects: Sequence[int], settings: ModelSettings, vertices: np.ndarray | None = None
) -> tuple[Float[np.ndarray, "v 3"], Float[np.ndarray, "m w 3"]]:
    """The mean of some of the subjects at all vertices, and their modes at all or at some [mm]."""
    shapes = training.of(subjects)
    mean, part = shapes.mean(0), training.part
    # A mirror image is no second person: it brings no further degree of freedom of the mean to be paid for.
    deviations = (shapes - mean) / np.sqrt(len(shapes) * (1 - 1 / max(len(subjects), 2)))
    if vertices is not None:
        deviations, part = deviations[:, vertices], part[vertices]
    single = np.float32  # a hundred million entries of the covariance are made; their sums need no more
    covariance = Covariance(
        (mean if vertices is None else mean[vertices]).astype(single),
        deviations.astype(single),
        part,
        settings.local,
        settings.local_length,
        settings.smooth,
        settings.smooth_length,
        settings.together,
    )
    return mean, modes_of(covariance, settings.modes).astype(np.float64)


def folds(count: int, most: int = FOLDS) -> Iterator[tuple[list[int], list[int]]]:
    """(left out, the others), so that every subject is left out once, in at most so many turns."""
    turns = min(count, most)
    for n in range(turns):
        out = list(range(n, count, turns))
        rest = [k for k in range(count) if k not in out]
        if len(rest) > 1 or count == 2:
            yield out, rest


def best_of(
    shape: Float[np.ndarray, "v 3"], mean: Float[np.ndarray, "v 3"], modes: Float[np.ndarray, "m v 3"]
) -> Float[np.ndarray, "v 3"]:
    """The instance of orthogonal modes that comes closest to a shape at its place."""
    flat = modes.reshape(len(modes), mean.size)
    coefficients = flat @ (shape - mean).ravel() / (flat**2).sum(1)
    return mean + (coefficients @ flat).reshape(mean.shape)


def _left_over(
    training: Training, settings: ModelSettings, progress: Callable[[int, int], object]
) -> tuple[Float[np.ndarray, "v"], float, float]:
    """Of subjects left out: what modes leave per vertex and axis [mm], the sacrum's turn [rad], the mean error [mm]."""
    judged = spread_out(training.shapes.shape[1], JUDGED)
    squares, turns, errors = np.zeros(len(judged)), [], []
    here = _turning(training)
    turns_of = list(folds(len(training.shapes)))
    for done, (out, rest) in enumerate(turns_of):
        progress(done, len(turns_of))
        mean, modes = mean_and_modes(training, rest, settings, judged)
        for n in out:
            shape = moved(training.shapes[n], rigid(training.shapes[n], mean))[judged]
            best = best_of(shape, mean[judged], modes)
            off = ((shape - best) ** 2).sum(1)
            squares += off
            errors.append(np.sqrt(off).mean())
            if here is not None:
                turns.append(_turn_left(shape, best, here[judged]))
    at = training.shapes.mean(0)
    values = squares / (3 * max(1, len(errors)))
    everywhere = np.zeros(len(at))
    part = training.part
    for n in range(len(training.parts)):
        own, known = part == n, part[judged] == n
        near = min(12, int(known.sum()))
        distance, which = cKDTree(at[judged][known]).query(at[own], k=near)
        weight = np.exp(-0.5 * (distance.reshape(-1, near) / ABOUT) ** 2) + 1e-12
        everywhere[own] = (weight * values[known][which.reshape(-1, near)]).sum(1) / weight.sum(1)
    turn = float(np.sqrt(np.mean(np.square(turns)))) if turns else 0.0
    return np.sqrt(everywhere), turn, float(np.mean(errors)) if errors else float("nan")


def _turning(training: Training) -> np.ndarray | None:
    ranges = ranges_of(training.parts)
    if TURNING not in ranges or len(ranges) < 2:
        return None
    mask = np.zeros(training.shapes.shape[1], bool)
    mask[ranges[TURNING]] = True
    return mask


def _turn_left(shape: np.ndarray, best: np.ndarray, turning: np.ndarray) -> np.ndarray:
    """The rotation of the turning part against the rest that would bring `best` closer to `shape` [rad]."""
    rest = rigid(best[~turning], shape[~turning])
    part = rigid(moved(best[turning], rest), shape[turning])
    return Rotation.from_matrix(part[:3, :3]).as_rotvec()


def _joint(training: Training, mean: np.ndarray, turn: float) -> Joint | None:
    """Between the sacroiliac joints: the middle of the two faces at which sacrum and hips come closest."""
    ranges = ranges_of(training.parts)
    if TURNING not in ranges or not is_pelvis(ranges):
        return None
    sacrum = mean[ranges[TURNING]]
    gaps = [cKDTree(mean[ranges[hip]]).query(sacrum)[0] for hip, _ in HIPS.values()]
    centre = np.mean([sacrum[gap < np.quantile(gap, 0.1)].mean(0) for gap in gaps], axis=0)
    return Joint(TURNING, torch.from_numpy(centre), float(max(turn, LEAST_TURN)))


def _share(found: Repaired, opened: int) -> dict[str, Any]:
    return {
        "stray vertices": found.stray_share,
        "subjects with stray vertices": int(found.stray.any(1).sum()),
        "open edges as given": opened,
        "holes closed": found.holes,
        "faces added": found.added,
        "faces removed": found.removed,
        "faces turned": found.turned,
        "unused vertices": list(found.unused),
    }


def _float(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
