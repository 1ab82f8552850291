"""Repair of surfaces in point correspondence: stray vertices put back, holes closed, fins cut off, insides in.

The rule, for every part by itself:

1. A vertex is stray in a subject where an edge that ends in it exceeds three times its median over the subjects plus
   3 mm. Of an edge's two ends that one is stray which has more such edges, so that one pulled-out vertex does not
   condemn its neighbours.
2. A stray vertex is relaxed to its neighbours: it takes their mean displacement from the median shape (aligned to the
   subject by its other vertices). Stray neighbours are solved for together. What is still too long is done again.
3. A vertex that no face uses follows the three used vertices nearest to it on the median shape, in the same way.
4. Of an edge with three faces, the face that is doubled there and hangs free elsewhere is taken away.
5. A hole is closed by faces between its own vertices, those of the least area on the median shape that repeat no edge.
6. Faces are turned so that neighbours agree and the part encloses a positive volume.

No vertex is ever added, dropped or moved in the list.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import spsolve
from scipy.spatial import cKDTree

from diffrender.errors import MeshError
from diffrender.fit.align import moved, procrustes, rigid

TIMES, PLUS = 3.0, 3.0  # an edge longer than TIMES its median + PLUS [mm] is a fault
ROUNDS = 5
FOLLOWED = 3  # neighbours that an unused vertex follows
LONGEST_HOLE = 600  # edges; a larger one is no hole but half of the surface missing


@dataclass(frozen=True, eq=False)
class Repaired:
    """One part of all subjects after repair.

    Attributes:
        points: (n, v, 3) [mm], the vertices in their order.
        faces: (f, 3), closed and outward.
        stray: (n, v): which vertices of which subjects were moved.
        added, removed, turned: how many faces.
        holes: how many were closed.
        unused: vertices that no face uses.
    """

    points: Float[np.ndarray, "n v 3"]
    faces: Int64[np.ndarray, "f 3"]
    stray: Bool[np.ndarray, "n v"]
    added: int
    removed: int
    turned: int
    holes: int
    unused: tuple[int, ...]

    @property
    def stray_share(self) -> float:
        """Of all vertices of all subjects, the share that was stray."""
        return float(self.stray.mean())


def repair(points: Float[np.ndarray, "n v 3"], faces: Int64[np.ndarray, "f 3"], what: str = "A part") -> Repaired:
    """Repair one part of all subjects by the rule above.

    Args:
        what: the part, for errors.
    Raises: MeshError where a hole is too large to be one.
    """
    edges = _edges(faces)
    stray = _stray(points, edges)
    median = _median_shape(points)
    fixed = points.copy()
    unused = np.setdiff1d(np.arange(points.shape[1]), faces)
    for _ in range(ROUNDS):
        for n in np.flatnonzero(stray.any(1) | (len(unused) > 0)):
            fixed[n] = _relaxed(fixed[n], stray[n], median, edges, unused)
        found = _stray(fixed, edges)
        if not found.any():
            break
        # Long still between two good vertices, or along a stray one's rim: then its neighbours strayed with it.
        stray |= found if (found & ~stray).any() else _with_neighbours(found, edges)
    median = _median_shape(fixed)
    kept = _without_fins(faces)
    oriented, turned = _oriented(kept, what)
    loops = list(_holes(oriented))
    patches = [_patch(loop, median, oriented, what) for loop in loops]
    closed = np.concatenate([oriented, *patches])
    if _volume(median, closed) < 0:
        closed, turned = closed[:, ::-1].copy(), len(kept) - turned
    count = sum(len(patch) for patch in patches)
    return Repaired(
        fixed, closed, stray, count, len(faces) - len(kept), turned, len(loops), tuple(int(n) for n in unused)
    )


def open_edges(faces: Int64[np.ndarray, "f 3"]) -> int:
    """How many edges are walked more often one way than the other: 0 for a closed surface that is wound one way."""
    ways = Counter(map(tuple, _directed(faces).tolist()))
    return sum(1 for (a, b), count in ways.items() if count > ways.get((b, a), 0))


def _directed(faces: np.ndarray) -> np.ndarray:
    return np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])


def _edges(faces: np.ndarray) -> np.ndarray:
    return np.unique(np.sort(_directed(faces), axis=1), axis=0)


def _stray(points: np.ndarray, edges: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(points[:, edges[:, 0]] - points[:, edges[:, 1]], axis=-1)
    long = lengths > TIMES * np.median(lengths, axis=0) + PLUS
    stray = np.zeros(points.shape[:2], bool)
    for n in np.flatnonzero(long.any(1)):
        left = edges[long[n]]
        while len(left):  # the vertex with the most long edges first; its edges are then explained
            worst = np.bincount(left.ravel()).argmax()
            stray[n, worst] = True
            left = left[(left != worst).all(1)]
    return stray


def _with_neighbours(stray: np.ndarray, edges: np.ndarray) -> np.ndarray:
    grown = stray.copy()
    for a, b in (edges.T, edges[:, ::-1].T):
        subject, edge = np.nonzero(stray[:, a])
        grown[subject, b[edge]] = True
    return grown


def _median_shape(points: np.ndarray) -> np.ndarray:
    aligned = procrustes(points)
    return np.median(procrustes(points, np.median(aligned, 0)), 0)


def _relaxed(
    points: np.ndarray, stray: np.ndarray, median: np.ndarray, edges: np.ndarray, unused: np.ndarray
) -> np.ndarray:
    """`points` with the stray and the unused ones displaced from the median shape as their neighbours are."""
    good = ~stray
    good[unused] = False
    motion = rigid(median[good], points[good])
    rest = moved(median, motion)
    used = np.setdiff1d(np.arange(len(points)), unused)
    near = used[cKDTree(median[used]).query(median[unused], k=FOLLOWED)[1]] if len(unused) else np.zeros((0, 1), int)
    pairs = np.concatenate([edges, edges[:, ::-1]])
    pairs = np.concatenate([pairs, np.column_stack([np.repeat(unused, near.shape[1]), near.ravel()])])
    free = np.flatnonzero(~good)
    place = np.full(len(points), -1)
    place[free] = np.arange(len(free))
    pairs = pairs[place[pairs[:, 0]] >= 0]
    row, column = place[pairs[:, 0]], place[pairs[:, 1]]
    held = column < 0
    known = np.zeros((len(free), 3))
    np.add.at(known, row[held], (points - rest)[pairs[held, 1]])
    count = np.bincount(row, minlength=len(free))
    inner = coo_matrix((np.ones((~held).sum()), (row[~held], column[~held])), shape=(len(free), len(free)))
    # A little of "no displacement" keeps a piece without any good neighbour solvable.
    system = (diags(count + 1e-9) - inner).tocsc()
    result = points.copy()
    result[free] = rest[free] + np.asarray(spsolve(system, known)).reshape(-1, 3)
    return result


def _without_fins(faces: np.ndarray) -> np.ndarray:
    """Faces less those that hang on an edge of three (or more) by which a closed surface already passes."""
    while True:
        directed = _directed(faces)
        used = Counter(map(tuple, np.sort(directed, 1).tolist()))
        counts = np.array([used[edge] for edge in map(tuple, np.sort(directed, 1).tolist())]).reshape(3, -1)
        fins = np.flatnonzero((counts > 2).any(0) & (counts < 2).any(0))
        if not len(fins):
            return faces
        faces = np.delete(faces, fins[0], axis=0)


def _oriented(faces: np.ndarray, what: str) -> tuple[np.ndarray, int]:
    """Faces turned so that neighbours across every edge of two agree, from the first face of each piece; how many."""
    by_edge = defaultdict(list)
    for n, way in enumerate(_directed(faces).tolist()):
        by_edge[tuple(sorted(way))].append((n % len(faces), way[0] < way[1]))
    beside = defaultdict(list)
    for pair in by_edge.values():
        if len(pair) == 2:
            (a, up), (b, upward) = pair
            beside[a].append((b, up == upward))
            beside[b].append((a, up == upward))
    turn = np.full(len(faces), -1)
    for seed in range(len(faces)):
        if turn[seed] >= 0:
            continue
        turn[seed], todo = 0, [seed]
        while todo:
            here = todo.pop()
            for other, against in beside[here]:
                wanted = turn[here] ^ int(against)
                if turn[other] < 0:
                    turn[other] = wanted
                    todo.append(other)
                elif turn[other] != wanted:
                    raise MeshError(
                        f"{what} is a surface with one side only, as a Moebius band: it has no inside. Segment it "
                        "again, or leave it out."
                    )
    flipped = turn == 1
    return np.where(flipped[:, None], faces[:, ::-1], faces), int(flipped.sum())


def _holes(faces: np.ndarray) -> Iterator[list[int]]:
    """Rims of holes, each a loop of vertices that passes none twice, in the direction of the faces that are missing."""
    ways = Counter(map(tuple, _directed(faces).tolist()))
    onward = defaultdict(list)
    for (a, b), count in sorted(ways.items()):
        for _ in range(count - ways.get((b, a), 0)):
            onward[b].append(a)
    while any(onward.values()):
        path = [next(a for a, after in onward.items() if after)]
        while onward[path[-1]]:
            after = onward[path[-1]].pop()
            if after in path:
                loop = path[path.index(after) :]
                del path[path.index(after) + 1 :]
                yield loop
            else:
                path.append(after)


def _patch(loop: list[int], points: np.ndarray, faces: np.ndarray, what: str) -> np.ndarray:
    """The triangles of least area between the vertices of a rim.

    Source: Barequet & Sharir, Comput. Aided Geom. Des. 12 (1995) 207, doi:10.1016/0167-8396(94)00011-G.
    """
    n = len(loop)
    if n > LONGEST_HOLE:
        raise MeshError(
            f"{what} is open along a rim of {n} edges: that is no hole but a missing piece of it. Give surfaces "
            "that are closed."
        )
    if n < 3:
        return np.zeros((0, 3), np.int64)
    p = points[loop]
    there = {tuple(edge) for edge in _edges(faces).tolist()}
    # A diagonal that is an edge already would become an edge of four; only where nothing else closes the hole.
    dear = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 2, n):
            if (i, j) != (0, n - 1) and tuple(sorted((loop[i], loop[j]))) in there:
                dear[i, j] = 1e6
    cost, by = np.zeros((n, n)), np.zeros((n, n), int)
    for span in range(2, n):
        for i in range(n - span):
            j, k = i + span, np.arange(i + 1, i + span)
            area = 0.5 * np.linalg.norm(np.cross(p[k] - p[i], p[j] - p[i]), axis=1)
            total = cost[i, k] + cost[k, j] + area + dear[i, j]
            cost[i, j], by[i, j] = total.min(), k[total.argmin()]
    triangles, todo = [], [(0, n - 1)]
    while todo:
        i, j = todo.pop()
        if j - i >= 2:
            k = by[i, j]
            triangles.append((loop[i], loop[k], loop[j]))
            todo += [(i, k), (k, j)]
    return np.array(triangles, np.int64)


def _volume(points: np.ndarray, faces: np.ndarray) -> float:
    a, b, c = np.moveaxis((points - points.mean(0))[faces], 1, 0)
    return float((a * np.cross(b, c)).sum() / 6)
