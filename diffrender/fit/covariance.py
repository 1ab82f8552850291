"""How people's shapes are taken to vary, from few subjects: what they show, far correlations doubted, a little more.

The covariance between the places x and y of two vertices is

    C(x, y) = S(x, y) (1 - a + a k_L(x, y)) + s^2 k_l(x, y) I,   k_L(x, y) = exp(-|x - y|^2 / 2 L^2)

S is the subjects' own. It says that a hip's crest tells of the other's spine to the millimetre, because 30 subjects
span 30 dimensions and no more; so a share `a` of it is localised: its correlations fall off with distance, its
variances stay, and it is positive semidefinite still (Schur product). The last term, a Gaussian process, lets the
surface differ smoothly where no subject did. Leave-one-out errors and honest standard deviations choose a, L, s and l.
Sources: Wilms, Handels & Ehrhardt, Med. Image Anal. 38 (2017) 17, doi:10.1016/j.media.2017.02.003 (localisation);
Luethi et al., IEEE TPAMI 40 (2018) 1860, doi:10.1109/TPAMI.2017.2739743 (Gaussian processes on surfaces).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from scipy.sparse.linalg import eigsh
from scipy.spatial.distance import cdist

KNOTS = 800  # vertices whose covariance is taken apart; the others follow from theirs (Nystroem)
ROWS = 1500  # vertices at a time


@dataclass(frozen=True, eq=False)
class Covariance:
    """C of the module's text.

    Attributes:
        mean: (v, 3) [mm], where distances are measured.
        deviations: (n, v, 3), of the training shapes from the mean, divided by the square root of their number.
        part: (v,) number of each vertex's part.
        local, local_length: a and L [mm].
        smooth, smooth_length: s and l [mm].
        together: whether parts vary together; if not, each for itself.
    """

    mean: Float[np.ndarray, "v 3"]
    deviations: Float[np.ndarray, "n v 3"]
    part: Int64[np.ndarray, "v"]
    local: float
    local_length: float
    smooth: float
    smooth_length: float
    together: bool

    @property
    def is_sample(self) -> bool:
        """Whether it is the subjects' own and nothing besides."""
        return not self.local and not self.smooth and self.together

    def between(self, a: Int64[np.ndarray, "a"], b: Int64[np.ndarray, "b"]) -> Float[np.ndarray, "a3 b3"]:
        """The covariance of the coordinates of vertices a with those of b, [mm^2]."""
        n = len(self.deviations)
        block = self.deviations[:, a].reshape(n, -1).T @ self.deviations[:, b].reshape(n, -1)
        block = block.reshape(len(a), 3, len(b), 3)
        squares = cdist(self.mean[a], self.mean[b], "sqeuclidean").astype(block.dtype)
        same = self.part[a, None] == self.part[None, b]
        if self.local:
            near = np.exp(-squares / (2 * self.local_length**2))
            block *= (1 - self.local + self.local * near)[:, None, :, None]
        if not self.together:
            block *= same[:, None, :, None]
        if self.smooth:  # two bones may come closer to each other or not: no smoothness across the gap
            own = self.smooth**2 * np.exp(-squares / (2 * self.smooth_length**2)) * same
            for axis in range(3):
                block[:, axis, :, axis] += own
        return block.reshape(3 * len(a), 3 * len(b))


def modes_of(covariance: Covariance, most: int) -> Float[np.ndarray, "m v 3"]:
    """The strongest modes, each times its standard deviation [mm]: orthogonal, in falling order, signs fixed.

    Exact for the subjects' own covariance; else by Nystroem's method from KNOTS vertices evenly through the list:
    the best linear prediction of every vertex from the knots' strongest modes.
    """
    scaled = covariance.deviations if covariance.is_sample else _of_knots(covariance, most)
    flat = scaled.reshape(len(scaled), -1).astype(np.float64)
    values, vectors = np.linalg.eigh(flat @ flat.T)
    kept = [n for n in np.argsort(values)[::-1] if values[n] > 1e-8 * values.max()][:most]
    modes = vectors[:, kept].T @ flat
    # An eigenvector has no sign of its own: the largest entry is made positive, so that a model is the same everywhere.
    largest = modes[np.arange(len(modes)), np.abs(modes).argmax(1)]
    return (modes * np.sign(largest)[:, None]).reshape(len(modes), modes.shape[1] // 3, 3)


def spread_out(count: int, most: int) -> Int64[np.ndarray, "s"]:
    """At most so many numbers below `count`, evenly through the list."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def _of_knots(covariance: Covariance, most: int) -> np.ndarray:
    count = len(covariance.mean)
    knots = spread_out(count, KNOTS)
    own = covariance.between(knots, knots).astype(np.float64)
    most = min(most, len(own) - 1)
    start = np.random.default_rng(0).standard_normal(len(own))
    values, vectors = eigsh(own, k=most, v0=start)
    good = values > 1e-8 * values.max()
    predict = (vectors[:, good] / np.sqrt(values[good])).astype(covariance.mean.dtype)
    rows = [covariance.between(np.arange(n, min(n + ROWS, count)), knots) @ predict for n in range(0, count, ROWS)]
    return np.concatenate(rows).T.reshape(int(good.sum()), count, 3)
