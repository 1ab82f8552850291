"""A small parametric pelvis of our own making: drawn once from formulas, then warped smoothly.

Nobody's pelvis: its landmarks lie where anatomy books put them in an adult, and its modes are changes of size and
proportion with the spread that adults have, about; no patient's data is in it. It is the default of tests and of the
demo; a model of real people is built by `build_shape_model`.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from diffrender.fit.contour import contour
from diffrender.fit.shape import Joint, Landmark, ShapeModel
from diffrender.phantom.solids import Array, Solid, capsule, column, drum, ellipsoid, plate, tube

STEP = 3.0  # between the points at which the distance to the solids is asked [mm]
FILLET = 7.0  # where two solids meet, the edge between them is rounded over about this length [mm]
TRIANGLES = {"hip": 1800, "sacrum": 1400}
HEAD = (88.0, 0.0, 0.0)  # centre of the right femoral head; RAS [mm], origin midway between the heads
CARTILAGE, CUP = 26.5, 34.0  # radii of the acetabulum's hollow and of its shell [mm]
GAP = 2.0  # of the sacroiliac joint [mm]
UNEXPLAINED = 3.0  # what these few modes leave of a real pelvis, per axis [mm]; about what an atlas leaves of its own
SWAY = 0.03  # of the sacrum against the hips [rad]

# Where a landmark is marked on the right side [mm]: the nearest vertex takes its name.
PLACES = {
    "GSN": (72.0, -33.0, 29.0),  # deepest point of the greater sciatic notch
    "IOF": (51.0, -7.0, -60.0),  # lower and inner edges of the obturator foramen
    "MOF": (20.0, 42.0, -26.0),
    "SPS": (6.0, 57.0, -5.0),  # upper and lower ends of the pubic symphysis
    "IPS": (5.0, 44.0, -41.0),
    "ASIS": (130.0, 42.0, 72.0),  # anterior superior iliac spine
}


@cache
def default_pelvis() -> ShapeModel:
    """The parametric pelvis: left hip, right hip and sacrum as closed surfaces, 14 landmarks, 10 modes.

    The modes are the principal axes of the changes in `_changes`, each independent of the others and normally
    distributed; of each, the part that is a rigid motion is left out, so that shape and pose are not mixed up. Drawn in
    half a second, once in a process; the same on every run.
    """
    right, hip_faces = _meshed([*_hip()], [ellipsoid(HEAD, (CARTILAGE,) * 3)], TRIANGLES["hip"])
    sacrum, sacrum_faces = _meshed([*_sacrum()], _sacral_holes(), TRIANGLES["sacrum"], beside=[*_hip()])
    left = right * [-1.0, 1.0, 1.0]
    points = np.concatenate([left, right, sacrum])
    faces = np.concatenate([hip_faces[:, ::-1], hip_faces + len(left), sacrum_faces + 2 * len(left)])
    mean = torch.from_numpy(points.astype(np.float32))
    return ShapeModel(
        mean=mean,
        modes=torch.from_numpy(_principal(points).astype(np.float32)),
        faces=torch.from_numpy(np.ascontiguousarray(faces, np.int64)),
        parts=(("left hip", len(left)), ("right hip", len(right)), ("sacrum", len(sacrum))),
        landmarks_at={**_landmarks("l", left, 0), **_landmarks("r", right, len(left))},
        unexplained=torch.full((len(points),), UNEXPLAINED),
        joint=Joint("sacrum", torch.tensor([0.0, -72.0, 58.0]), SWAY),
        about={
            "kind": "parametric",
            "subjects": 0,
            "licence": "Apache-2.0, as the library",
            "description": "A pelvis drawn by us from formulas, not from patients: for tests and demonstrations.",
        },
    )


def _hip() -> list[Solid]:
    """The right hip bone: wing, pillars and rami between its landmarks."""
    crest = [(42, -92, 62), (46, -90, 84), (62, -76, 104), (88, -44, 116), (114, -8, 116), (132, 20, 100)]
    asis, aiis = (129, 38, 74), (104, 32, 36)
    bowl = (104, -16, 66)
    rim = [*crest, asis, (117, 34, 54), aiis, (86, 6, 26), (68, -34, 42), (50, -78, 44)]
    wing = [plate([bowl, a, b], 3.2) for a, b in zip(rim, [*rim[1:], rim[0]], strict=True)]
    edges = [
        *tube([*crest, asis], [7, 7, 6, 5, 6, 7, 6]),
        *tube([asis, rim[7], aiis, (92, 22, 20)], [6, 5, 7, 10]),
        *tube([crest[0], rim[-1], (58, -60, 50)], [7, 8, 9]),
    ]
    pillars = [
        *tube([(54, -66, 58), (68, -38, 46), (80, -14, 28)], [9, 9, 13]),
        *tube([(80, -16, 26), (80, -26, 2), (72, -32, -30), (60, -36, -54), (54, -28, -66)], [13, 12, 12, 13, 10]),
        capsule((74, -34, 4), (60, -50, -6), 7, 3.5),  # the ischial spine
    ]
    pubis = [
        *tube([(82, 22, 8), (58, 44, 1), (32, 55, -5), (14, 56, -11)], [13, 9, 8, 9]),
        ellipsoid((14, 50, -23), (10.5, 9, 20), (0.1, 0.45, 1)),
        *tube([(13, 45, -36), (34, 14, -58), (50, -16, -68)], [6.5, 6, 8.5]),
    ]
    return [*wing, *edges, *pillars, _cup(), *pubis]


def _cup() -> Solid:
    """The shell of the acetabulum, open to the side, the front and below."""
    opening = (0.74, 0.34, -0.58)

    def distance(x: Array, y: Array, z: Array) -> Array:
        p = (x - HEAD[0], y - HEAD[1], z - HEAD[2])
        ahead = sum(a * b for a, b in zip(p, opening, strict=True))
        return np.maximum(np.sqrt(p[0] ** 2 + p[1] ** 2 + p[2] ** 2) - CUP, ahead - 6)

    low, high = ([c + s * CUP for c in HEAD] for s in (-1, 1))
    return Solid((low[0], low[1], low[2]), (high[0], high[1], high[2]), distance)


def _sacrum() -> list[Solid]:
    rows = [(-16, 5, -54, -62), (-4, 9, -60, -72), (8, 15, -68, -82), (24, 27, -76, -94), (44, 40, -76, -100)]
    rows += [(62, 54, -64, -96), (74, 61, -54, -92), (84, 60, -48, -84), (92, 50, -46, -76), (98, 30, -44, -68)]
    first = drum((0, -58, 88), (0, 0.55, 0.83), 27, 17, 13)
    crest = tube([(0, -90, 82), (0, -104, 56), (0, -102, 30)], [5, 6, 4])
    facets = [capsule((s * 22, -82, 86), (s * 24, -80, 100), 6, 5) for s in (-1, 1)]
    return [column(rows, 0.7), first, *crest, *facets]


def _sacral_holes() -> list[Solid]:
    rows = ((27, -58, 66), (23, -72, 46), (18, -78, 28))
    return [capsule((s * x, y + 12, z + 4), (s * x, y - 40, z - 8), 5, 4.5) for s in (-1, 1) for x, y, z in rows]


def _meshed(
    solids: Sequence[Solid], holes: Sequence[Solid], triangles: int, beside: Sequence[Solid] = ()
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The surface of all solids together less the holes, and less what lies closer than GAP to `beside` on both sides.

    Returns: vertices (v, 3) and outward faces (f, 3), about as many as asked.
    """
    low = np.min([s.low for s in solids], axis=0) - 2 * STEP
    high = np.max([s.high for s in solids], axis=0) + 2 * STEP
    x, y, z = (np.arange(a, b, STEP, dtype=np.float32) for a, b in zip(low, high, strict=True))
    places = (x[None, None, :], y[None, :, None], z[:, None, None])
    distance = _together(solids, places)
    for hole in holes:
        distance = np.maximum(distance, -hole.distance(*places))
    if beside:
        mirrored = (np.abs(places[0]), *places[1:])
        distance = np.maximum(distance, GAP - _together(beside, mirrored))
    lattice = np.diag([STEP, STEP, STEP, 1.0])
    lattice[:3, 3] = low
    mesh = contour(-distance, 0.0, lattice, smoothing=20, triangles=triangles)
    return mesh.vertices.double().numpy(), mesh.faces.numpy()


def _together(solids: Sequence[Solid], places: Sequence[Array]) -> Array:
    """Distance to the nearest of the solids, with round edges where two meet.

    Source: Quilez, the polynomial smooth minimum, iquilezles.org/articles/smin.
    """
    nearest = None
    for solid in solids:
        d = solid.distance(*places)
        if nearest is None:
            nearest = np.array(d)
            continue
        share = np.maximum(FILLET - np.abs(nearest - d), 0) / FILLET
        nearest = np.minimum(nearest, d) - share * share * (FILLET / 4)
    assert nearest is not None
    return nearest


def _landmarks(letter: str, points: NDArray[np.float64], first: int) -> dict[str, Landmark]:
    """The seven of one hip bone, whose vertices begin at `first`."""
    side = np.array([-1.0 if letter == "l" else 1.0, 1, 1])
    found = {}
    for name, place in PLACES.items():
        nearest = int(np.linalg.norm(points - side * place, axis=1).argmin())
        found[f"{name}-{letter}"] = Landmark(torch.tensor([first + nearest]), torch.ones(1))
    return {f"FH-{letter}": _head(points, first, side * HEAD), **found}


def _head(points: NDArray[np.float64], first: int, centre: NDArray[np.float64]) -> Landmark:
    """The head's centre, held by the acetabulum's hollow: least weights that add up to 1 and meet it."""
    away = points - centre
    hollow = np.flatnonzero(np.abs(np.linalg.norm(away, axis=1) - CARTILAGE) < 1.0)
    wanted = np.array([0.0, 0, 0, 1])
    weights = np.linalg.pinv(np.c_[away[hollow], np.ones(len(hollow))].T) @ wanted
    return Landmark(torch.from_numpy(hollow + first), torch.from_numpy(weights.astype(np.float32)))


def _changes(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, v, 3): how each place moves with one standard deviation of each change [mm]; smooth, and small beside it."""
    x, y, z = points.T
    u, v, w = x / 100, (y + 10) / 100, (z - 20) / 100  # about -1 to 1 in the pelvis
    none, side, up = np.zeros_like(u), np.sqrt(u * u + 0.01) * np.sign(u), 1 / (1 + np.exp(-4 * w))
    back = 1 / (1 + np.exp(6 * (v + 0.35)))  # 1 at the sacrum, 0 at the front half
    front = 1 / (1 + np.exp(-6 * (v - 0.35)))
    rows = [
        (3.5 * u, 3.5 * v, 3.5 * w),  # size of the whole
        (3.0 * u, none, none),  # width
        (none, none, 3.0 * w),  # height
        (none, 3.0 * v, none),  # depth
        (5.0 * side * w * up, none, none),  # flare of the wings
        (none, 4.0 * w * up, none),  # wings turned forward
        (3.5 * u * (1 - up), none, none),  # width of the outlet
        (none, 3.5 * back * w, -3.5 * back * v),  # tilt of the sacrum
        (none, none, 3.5 * back * w),  # length of the sacrum
        (none, none, -3.0 * front),  # the front hangs lower
        (1.5 * np.abs(u), 1.5 * side * v, 2.0 * side * w),  # left and right differ
    ]
    return np.stack([np.stack(np.broadcast_arrays(*row), axis=1) for row in rows])


def _principal(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The changes without their rigid motions, as independent modes (m, v, 3), strongest first."""
    changes = _changes(points)
    turns = [np.cross(axis, points) for axis in np.eye(3)]
    shifts = [np.broadcast_to(axis, points.shape) for axis in np.eye(3)]
    rigid, _ = np.linalg.qr(np.stack([*shifts, *turns]).reshape(6, -1).T)
    rows = changes.reshape(len(changes), -1)
    rows = rows - (rows @ rigid) @ rigid.T
    _, sizes, directions = np.linalg.svd(rows, full_matrices=False)
    some = sizes > 1e-6 * sizes[0]  # a change of size is one of width, height and depth together
    sizes, directions = sizes[some], directions[some]
    # A mode's sign is arbitrary; this one does not depend on the library that found it.
    signs = np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(axis=1)])
    return (directions * (signs * sizes)[:, None]).reshape(-1, *points.shape)
