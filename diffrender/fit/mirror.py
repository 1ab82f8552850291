"""Left and right exchanged: every pelvis has a mirror image that is a pelvis too, and so a second training shape.

The two hips have different meshes. So a template is mirrored and warped onto itself, each part onto that of the other
side; where its vertices come to lie, in which triangle and where in that, is their correspondence for every subject.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int64
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

from diffrender.fit.align import moved, rigid

STIFF = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3)  # of the warp, from nearly rigid to soft: squares along edges over distances
STEPS = 4  # at each stiffness
NEAR = 12  # triangles looked at for the closest point
OTHER_SIDE = {"left hip": "right hip", "right hip": "left hip"}


@dataclass(frozen=True, eq=False)
class Mirror:
    """What mirrors any shape of a template about x = 0: mirrored = (weights @ shape) with x negated.

    Attributes:
        weights: (v, v) sparse, a row of three for every vertex.
        off: (v,) how far the warp ended from the other side's surface [mm].
    """

    weights: Any
    off: Float[np.ndarray, "v"]

    def __call__(self, shape: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, "v 3"]:
        return (self.weights @ shape) * np.array([-1.0, 1.0, 1.0])


def find_mirror(
    points: Float[np.ndarray, "v 3"], faces: Int64[np.ndarray, "f 3"], parts: Mapping[str, slice]
) -> Mirror:
    """The correspondence of a template, which lies about symmetric to x = 0 [mm], with its mirror image."""
    rows, columns, values = [], [], []
    off = np.zeros(len(points))
    for part, here in parts.items():
        there = parts[OTHER_SIDE.get(part, part)]
        own, other = _faces_in(faces, here), _faces_in(faces, there)
        flipped = points[here] * np.array([-1.0, 1.0, 1.0])
        place = _warped(flipped, own, points[there], other)
        corners, weights, closest = closest_points(place, points[there], other)
        off[here] = np.linalg.norm(closest - place, axis=1)
        rows.append(np.repeat(np.arange(here.start, here.stop), 3))
        columns.append(corners.ravel() + there.start)
        values.append(weights.ravel())
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return Mirror(coo_matrix(entries, shape=(len(points), len(points))).tocsr(), off)


def closest_points(
    places: Float[np.ndarray, "n 3"], points: Float[np.ndarray, "v 3"], faces: Int64[np.ndarray, "f 3"]
) -> tuple[Int64[np.ndarray, "n 3"], Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]]:
    """For every place the closest point of a surface: its triangle's corners, its weights on them, and itself.

    Looked at are the twelve triangles whose middles are nearest: enough on a mesh of even triangles.
    Source: Ericson, Real-Time Collision Detection (2005), 5.1.5, as a clamp of barycentric coordinates to the edges.
    """
    corners = points[faces]
    near = cKDTree(corners.mean(1)).query(places, k=min(NEAR, len(faces)))[1].reshape(len(places), -1)
    best = (np.full(len(places), np.inf), np.zeros((len(places), 3), np.int64), np.zeros((len(places), 3)))
    for triangle in near.T:
        weights = _weights(places, *np.moveaxis(corners[triangle], 1, 0))
        squares = ((np.einsum("nc,ncx->nx", weights, corners[triangle]) - places) ** 2).sum(1)
        better = squares < best[0]
        best[0][better], best[1][better], best[2][better] = squares[better], faces[triangle][better], weights[better]
    return best[1], best[2], np.einsum("nc,ncx->nx", best[2], points[best[1]])


def _weights(p: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Barycentric weights of the point of each triangle that is closest to each p."""
    u, v, w = b - a, c - a, p - a
    uu, uv, vv, wu, wv = ((x * y).sum(1) for x, y in ((u, u), (u, v), (v, v), (w, u), (w, v)))
    across = np.maximum(uu * vv - uv * uv, 1e-30)
    s, t = (vv * wu - uv * wv) / across, (uu * wv - uv * wu) / across
    inside = np.column_stack([1 - s - t, s, t])
    on_ab, on_ac = np.clip(wu / np.maximum(uu, 1e-30), 0, 1), np.clip(wv / np.maximum(vv, 1e-30), 0, 1)
    along = c - b
    on_bc = np.clip(((p - b) * along).sum(1) / np.maximum((along**2).sum(1), 1e-30), 0, 1)
    zero = np.zeros_like(s)
    candidates = np.stack(
        [
            np.column_stack([1 - on_ab, on_ab, zero]),
            np.column_stack([1 - on_ac, zero, on_ac]),
            np.column_stack([zero, 1 - on_bc, on_bc]),
        ]
    )
    corners = np.stack([a, b, c], axis=1)
    squares = ((np.einsum("knc,ncx->knx", candidates, corners) - p) ** 2).sum(2)
    nearest = candidates[squares.argmin(0), np.arange(len(p))]
    return np.where(np.all(inside >= 0, axis=1, keepdims=True), inside, nearest)


def _warped(points: np.ndarray, faces: np.ndarray, target: np.ndarray, target_faces: np.ndarray) -> np.ndarray:
    """`points` bent onto the target: closest points alternate with a displacement that varies little along edges."""
    tree = cKDTree(target)
    for _ in range(30):
        points = moved(points, rigid(points, target[tree.query(points)[1]]))
    edges = np.unique(np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1), axis=0)
    n = len(points)
    way = coo_matrix((np.ones(2 * len(edges)), (edges.T.ravel(), edges[:, ::-1].T.ravel())), shape=(n, n))
    laplacian = diags(np.asarray(way.sum(1)).ravel()) - way
    rest, bent = points, points
    for stiff in STIFF:
        solve = splu((diags(np.ones(n)) + stiff * laplacian).tocsc()).solve
        for _ in range(STEPS):
            bent = rest + solve(closest_points(bent, target, target_faces)[2] - rest)
    return bent


def _faces_in(faces: np.ndarray, here: slice) -> np.ndarray:
    return faces[((faces >= here.start) & (faces < here.stop)).all(1)] - here.start
