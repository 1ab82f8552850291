"""What these tests carry over the bridge: nothing symmetric, off centre, oblong, oblique, left- and right-handed."""

import numpy as np
import torch

from diffrender.volume import Volume
from phantoms import oblique_lattice, rotation

SHAPE = (5, 7, 11)  # (k, j, i)
SPACING = (0.7, 1.3, 2.9)  # (i, j, k) [mm]


def rigid(angles, shift) -> np.ndarray:
    """Turned about x, y, z [degrees], then shifted [mm]; (4, 4)."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(*angles)
    matrix[:3, 3] = shift
    return matrix


OUTER = rigid((12.0, -31.0, 47.0), (31.0, -17.0, 103.0))
INNER = rigid((-5.0, 63.0, 8.0), (-71.0, 29.0, 11.0))


def lattice(left_handed: bool) -> np.ndarray:
    return oblique_lattice(SPACING, left_handed=left_handed)


def numbers(dtype=np.int16, shape=SHAPE) -> np.ndarray:
    """HU with no two neighbours alike, the same along no axis."""
    found = np.random.default_rng(7).integers(-1000, 2000, shape)
    return (found + 0.25).astype(np.float32) if dtype == np.float32 else found.astype(dtype)


def ids(shape=SHAPE) -> np.ndarray:
    """Labels 1, 2 and 7, (k, j, i), of different sizes, off centre; 0 elsewhere."""
    found = np.zeros(shape, np.uint8)
    found[1:3, 1:4, 2:9] = 2
    found[2:5, 4:6, 1:4] = 7
    found[0, 6, 10] = 1
    return found


def volume(left_handed: bool = False, **more) -> Volume:
    values = more.pop("values", numbers())
    return Volume(torch.from_numpy(values), torch.from_numpy(lattice(left_handed)), **more)
