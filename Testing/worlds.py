"""A patient given as a formula in DICOM's world (LPS), so that every file format can be asked for the same thing."""

import numpy as np

from diffrender.volume import Volume


def hu_at(lps: np.ndarray) -> np.ndarray:
    """Whole HU at points (..., 3) in LPS mm: nowhere symmetric, steep enough that a millimetre shows (2 to 9 HU)."""
    x, y, z = np.moveaxis(np.asarray(lps, float), -1, 0)
    return np.rint(100 + 5 * x - 3 * y + 9 * z + 40 * np.sin(x / 17) * np.cos(y / 11) + 0.02 * x * z)


def sampled(lps_from_voxel: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """`hu_at` on a lattice, (k, j, i)."""
    k, j, i = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    points = np.stack([i, j, k, np.ones_like(i)], axis=-1) @ lps_from_voxel.T
    return hu_at(points[..., :3])


def largest_error(volume: Volume) -> float:
    """How far the volume's voxels are from the formula at the place where the volume says they lie [HU].

    The turn from LPS to RAS is done here by hand: x and y change their sign.
    """
    k, j, i = np.meshgrid(*[np.arange(n) for n in volume.shape], indexing="ij")
    ras = np.stack([i, j, k, np.ones_like(i)], axis=-1) @ volume.world_from_voxel.numpy().T
    lps = np.stack([-ras[..., 0], -ras[..., 1], ras[..., 2]], axis=-1)
    return float(np.abs(hu_at(lps) - volume.values.numpy()).max())
