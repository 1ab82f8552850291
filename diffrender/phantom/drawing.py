"""A torso that we draw ourselves: the patient of the demo and the tests, free of anyone's data."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from diffrender.errors import SettingError
from diffrender.phantom.anatomy import torso_parts
from diffrender.phantom.patient import IDS, Part
from diffrender.phantom.solids import Array
from diffrender.volume import Volume

SHAPE = (180, 112, 160)
FIELD = (640.0, 292.0, 440.0)  # what the lattice spans along z, y and x [mm]: shoulders to upper thighs, with the table
CENTRE = (0.0, -12.0, -30.0)  # of the field, RAS [mm]; not the origin, so that a forgotten shift shows
OBLIQUE_AXIS, OBLIQUE_ANGLE = (0.36, 0.48, 0.8), 12.0  # of the turned lattice: a unit vector in RAS, [degrees]
SLAB = 1_500_000  # voxels drawn at a time: about 100 MB of distances and textures


def torso(
    shape: Sequence[int] = SHAPE,
    spacing: Sequence[float] | None = None,
    seed: int = 0,
    oblique: bool = False,
    labels: bool = True,
    handed: str = "right",
    noise: float = 9.0,
) -> Volume:
    """A CT of a patient whom nobody is: shoulders to upper thighs on a table, with labels named as TotalSegmentator's.

    The anatomy is fixed in the world, whatever the lattice; edges are one voxel soft. The same arguments give the same
    voxels. About 3 s for the default of 2.75 x 2.61 x 3.56 mm; twice as fine takes eight times as long.

    Args:
        shape: voxels along (k, j, i).
        spacing: along (k, j, i) [mm]; by default the lattice spans the whole field of 640 x 292 x 440 mm.
        seed: of texture, noise and the vessels of the lung.
        oblique: turn the lattice (not the patient) by 12 degrees about an oblique axis; parts of the patient leave it.
        labels: whether the volume carries them, uint8 ids (k, j, i).
        handed: "right", i grows to the patient's left, j to the back, k to the head (LPS, as a scanner writes it); or
            "left", with i growing to the right.
        noise: of each voxel, one standard deviation [HU].
    Returns: HU as int16, from air (-1000) to cortical bone (about 1300), at least -1024.
    Raises: SettingError.
    """
    shape = _checked_shape(shape)
    spacing = tuple(f / n for f, n in zip(FIELD, shape, strict=True)) if spacing is None else _checked_spacing(spacing)
    if handed not in ("right", "left"):
        raise SettingError(f'handed is "right" or "left", not {handed!r}.')
    world_from_voxel = _lattice(shape, spacing, oblique, handed)
    values, ids = np.empty(shape, np.int16), np.zeros(shape, np.uint8)
    grain = _Grain(seed)
    random = np.random.RandomState(seed + 1)
    thickness = max(1, SLAB // (shape[1] * shape[2]))
    for k in range(0, shape[0], thickness):
        slab = slice(k, min(k + thickness, shape[0]))
        hu = _draw(world_from_voxel, ids[slab], k, math.prod(spacing) ** (1 / 3), torso_parts(seed), grain)
        hu += random.standard_normal(hu.shape).astype(np.float32) * noise
        values[slab] = np.rint(np.clip(hu, -1024, 3071)).astype(np.int16)
    names = {number: name for name, number in IDS.items()}
    return Volume(
        torch.from_numpy(values),
        torch.from_numpy(world_from_voxel),
        torch.from_numpy(ids) if labels else None,
        names if labels else None,
        source="phantom",
    )


def _draw(
    world_from_voxel: NDArray[np.float64],
    ids: NDArray[np.uint8],
    first: int,
    edge: float,
    parts: Sequence[Part],
    grain: "_Grain",
) -> Array:
    """HU of the slab whose first slice is `first`; its labels go into `ids`."""
    hu = np.full(ids.shape, -1000, np.float32)
    texture = grain.at(*_places(world_from_voxel, [slice(0, n) for n in ids.shape], first))
    for part in parts:
        box = _box(world_from_voxel, part, ids.shape, first, edge)
        if box is None:
            continue
        distance = _distance(world_from_voxel, part, box, ids.shape, first, edge)
        here = np.isin(ids[box], [IDS[name] for name in part.only]) if part.only else True
        for depth, value, roughness in part.layers:
            share = np.clip(0.5 - (distance + depth) / edge, 0, 1) * here
            hu[box] += share * (value + roughness * texture[box] - hu[box])
        if part.name is not None:
            ids[box][(distance <= 0) & here] = IDS.get(part.name, 0)
    return hu


def _distance(
    world_from_voxel: NDArray[np.float64],
    part: Part,
    box: tuple[slice, ...],
    shape: Sequence[int],
    first: int,
    edge: float,
) -> Array:
    """To the nearest of the part's solids [mm], each worked out in its own box alone; beyond those it is large."""
    distance = np.full([s.stop - s.start for s in box], 1e3, np.float32)
    for solid in part.solids:
        own = _box(world_from_voxel, Part([solid], ()), shape, first, edge)
        if own is None:
            continue
        inner = tuple(slice(s.start - b.start, s.stop - b.start) for s, b in zip(own, box, strict=True))
        np.minimum(distance[inner], solid.distance(*_places(world_from_voxel, own, first)), out=distance[inner])
    return distance


def _box(
    world_from_voxel: NDArray[np.float64], part: Part, shape: Sequence[int], first: int, edge: float
) -> tuple[slice, ...] | None:
    """The voxels (k, j, i) of the slab that the part may touch; None where there are none."""
    low = np.min([solid.low for solid in part.solids], axis=0) - edge
    high = np.max([solid.high for solid in part.solids], axis=0) + edge
    corners = np.array([[x, y, z, 1] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])])
    ijk = corners @ np.linalg.inv(world_from_voxel)[:3].T - [0, 0, first]
    start = np.maximum(np.floor(ijk.min(axis=0)), 0).astype(int)[::-1].tolist()
    stop = np.minimum(np.ceil(ijk.max(axis=0)) + 1, list(shape)[::-1]).astype(int)[::-1].tolist()
    return None if any(a >= b for a, b in zip(start, stop, strict=True)) else tuple(map(slice, start, stop))


def _places(world_from_voxel: NDArray[np.float64], box: Sequence[slice], first: int) -> list[Array]:
    """x, y and z [mm] of the voxels of a box; where the lattice is not oblique each is a line that broadcasts."""
    k, j, i = (np.arange(s.start, s.stop, dtype=np.float32) for s in box)
    steps = (i[None, None, :], j[None, :, None], (k + first)[:, None, None])
    return [
        sum(
            (step * f for step, f in zip(steps, row, strict=False) if abs(f) > 1e-12),
            np.full((1, 1, 1), row[3], np.float32),
        )
        for row in world_from_voxel[:3].tolist()
    ]


class _Grain:
    """Texture of one deviation, limited in band: two random lattices, drawn smoothly between their points."""

    def __init__(self, seed: int):
        random = np.random.RandomState(seed + 2)
        # Interpolation takes away about half of the deviation; 1.45 gives it back.
        self.grains = [(cell, random.standard_normal((32, 32, 32)).astype(np.float32) * 1.45) for cell in (14.0, 6.0)]

    def at(self, x: Array, y: Array, z: Array) -> Array:
        from scipy.ndimage import map_coordinates

        shape = np.broadcast_shapes(x.shape, y.shape, z.shape)
        texture = np.zeros(shape, np.float32)
        for cell, values in self.grains:
            places = np.stack([np.broadcast_to(p / cell, shape) for p in (z, y, x)])
            texture += map_coordinates(values, places, output=np.float32, order=1, mode="grid-wrap")
        return texture


def _lattice(shape: Sequence[int], spacing: Sequence[float], oblique: bool, handed: str) -> NDArray[np.float64]:
    """world_from_voxel, its middle at CENTRE."""
    axes = np.diag([-1.0 if handed == "right" else 1.0, -1.0, 1.0])
    if oblique:
        axes = _rotation(OBLIQUE_AXIS, math.radians(OBLIQUE_ANGLE)) @ axes
    world_from_voxel = np.eye(4)
    world_from_voxel[:3, :3] = axes * list(spacing)[::-1]
    world_from_voxel[:3, 3] = CENTRE - world_from_voxel[:3, :3] @ [(n - 1) / 2 for n in list(shape)[::-1]]
    return world_from_voxel


def _rotation(axis: Sequence[float], angle: float) -> NDArray[np.float64]:
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def _checked_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    if len(shape) != 3 or min(shape) < 2:
        raise SettingError(
            f"The phantom's shape is three whole numbers (k, j, i), each at least 2, not {tuple(shape)}."
        )
    return tuple(int(n) for n in shape)  # pyright: ignore[reportReturnType]


def _checked_spacing(spacing: Sequence[float]) -> tuple[float, float, float]:
    if len(spacing) != 3 or not all(math.isfinite(s) and s > 0 for s in spacing):
        raise SettingError(f"The phantom's spacing is three sizes in mm (k, j, i), above zero, not {tuple(spacing)}.")
    return tuple(float(s) for s in spacing)  # pyright: ignore[reportReturnType]
