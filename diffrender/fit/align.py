"""Rigid alignment of shapes in point correspondence: two by Kabsch, many by generalised Procrustes."""

import numpy as np
from jaxtyping import Float

ITERATIONS = 20
STILL = 1e-6  # mm; a mean that moves less has settled


def rigid(
    source: Float[np.ndarray, "v 3"], target: Float[np.ndarray, "v 3"], weights: Float[np.ndarray, "v"] | None = None
) -> Float[np.ndarray, "4 4"]:
    """The rigid motion that brings `source` onto `target` with the least (weighted) sum of squares, target_from_source.

    Never a reflection. Source: Kabsch, Acta Cryst. A 34 (1978) 827, doi:10.1107/S0567739478001680.
    """
    w = np.full(len(source), 1.0 / len(source)) if weights is None else weights / weights.sum()
    a, b = w @ source, w @ target
    u, _, vt = np.linalg.svd((source - a).T @ ((target - b) * w[:, None]))
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    motion = np.eye(4)
    motion[:3, :3] = (u @ flip @ vt).T
    motion[:3, 3] = b - motion[:3, :3] @ a
    return motion


def moved(points: Float[np.ndarray, "*n 3"], motion: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "*n 3"]:
    """Points after a motion given as a matrix."""
    return points @ motion[:3, :3].T + motion[:3, 3]


def procrustes(
    shapes: Float[np.ndarray, "n v 3"], start: Float[np.ndarray, "v 3"] | None = None
) -> Float[np.ndarray, "n v 3"]:
    """Bring shapes together by rigid motions: each onto the mean of all, until that mean is still.

    Sizes are kept: how large a bone is belongs to its shape. The mean stays in the pose of `start`, by default the
    first shape. Source: Gower, Psychometrika 40 (1975) 33, doi:10.1007/BF02291478.
    """
    mean = shapes[0] if start is None else start
    aligned = shapes
    for _ in range(ITERATIONS):
        aligned = np.stack([moved(shape, rigid(shape, mean)) for shape in shapes])
        new = aligned.mean(0)
        new = moved(new, rigid(new, mean))
        still = np.abs(new - mean).max() < STILL
        mean = new
        if still:
            break
    return aligned
