"""How good a shape model is: compactness, generalisation, specificity; and samples of it.

Source: Davies, Learning shape: optimal models for analysing natural variability (2002); Styner et al., IPMI 2003.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.fit.align import moved, rigid
from diffrender.fit.building import ModelSettings, best_of, mean_and_modes
from diffrender.fit.covariance import spread_out
from diffrender.fit.mirror import closest_points
from diffrender.fit.shape import ShapeModel
from diffrender.fit.training import Training

JUDGED = 2000  # vertices at which distances are measured


@dataclass(frozen=True, eq=False)
class LeftOut:
    """What a model of the others makes of a subject that was left out, at its best with the first modes.

    Attributes:
        subject: its place in the training shapes.
        modes: how many.
        point: mean distance of corresponding vertices [mm].
        landmark: mean distance of the landmarks [mm]; NaN where there are none.
        hausdorff, hausdorff95: from vertices to the other surface, both ways, the most and the 95th percentile [mm].
    """

    subject: int
    modes: int
    point: float
    landmark: float
    hausdorff: float
    hausdorff95: float


def compactness(model: ShapeModel) -> Float[Tensor, "m"]:
    """Share of all variance in the first 1, 2, ... modes; all of it is what the modes and the rest together have."""
    variances = model.modes.double().square().sum((1, 2))
    whole = variances.sum() + 3 * model.unexplained.double().square().sum()
    return variances.cumsum(0) / whole


def generalisation(
    training: Training,
    settings: ModelSettings,
    modes: Sequence[int] = (15, 20),
    subjects: Sequence[int] | None = None,
    together: Sequence[Sequence[int]] = (),
) -> Iterator[LeftOut]:
    """Leave subjects out one by one, and measure how near the best instance at their own pose comes to them.

    Args:
        modes: numbers of modes to try; each counts the first of the modes that `settings` keeps.
        subjects: which to leave out; by default each in turn.
        together: places of subjects that leave together, being one person.
    Coefficients are free: this is the floor under any fit, not what one reaches.
    """
    for subject in range(len(training.shapes)) if subjects is None else subjects:
        out = next((set(group) for group in together if subject in group), {subject})
        mean, basis = mean_and_modes(training, [n for n in range(len(training.shapes)) if n not in out], settings)
        shape = moved(training.shapes[subject], rigid(training.shapes[subject], mean))
        for count in modes:
            best = best_of(shape, mean, basis[:count]) if count else mean
            yield LeftOut(subject, count, *_distances(training, shape, best))


def specificity(model: ShapeModel, training: Training, generator: torch.Generator, samples: int = 100) -> float:
    """Mean distance of a random instance's vertices to those of the training shape most like it [mm]."""
    judged = spread_out(len(model.mean), JUDGED)
    known = training.of(range(len(training.shapes)))[:, judged]
    nearest = []
    for points in sample(model, generator, samples):
        here = points[torch.from_numpy(judged)].double().numpy()
        nearest.append(min(np.linalg.norm(here - shape, axis=1).mean() for shape in known))
    return float(np.mean(nearest))


def sample(model: ShapeModel, generator: torch.Generator, count: int = 1) -> Float[Tensor, "n v 3"]:
    """Vertices of random instances, coefficients drawn from the standard normal distribution [mm]."""
    coefficients = torch.randn((count, len(model.modes)), generator=generator)
    return model.mean + torch.einsum("nk,kvd->nvd", coefficients, model.modes)


def _distances(training: Training, shape: np.ndarray, best: np.ndarray) -> tuple[float, float, float, float]:
    used = np.unique(training.faces)
    there, back = (
        np.linalg.norm(closest_points(b[used], a, training.faces)[2] - b[used], axis=1)
        for a, b in ((shape, best), (best, shape))
    )
    off = torch.from_numpy(best - shape)
    landmarks = [float(landmark.at(off).norm()) for landmark in training.landmarks.values()]
    return (
        float(np.linalg.norm(best - shape, axis=1).mean()),
        float(np.mean(landmarks)) if landmarks else float("nan"),
        float(max(there.max(), back.max())),
        float(max(np.quantile(there, 0.95), np.quantile(back, 0.95))),
    )
