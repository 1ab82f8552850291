"""An array that is filled slice by slice: what keeps a large series from being held twice."""

from io import BufferedIOBase
from pathlib import Path

import numpy as np

from diffrender.errors import PathError

INT16 = np.iinfo(np.int16)


class Filling:
    """Values (k, j, i), int16 as long as every slice fits, float32 from the first one that does not.

    The change copies what is there, which for a moment takes 1.5 times the final array.
    """

    def __init__(self, shape: tuple[int, int, int]):
        self.values = np.empty(shape, np.int16)

    def put(self, k: int, numbers: np.ndarray) -> None:
        """Take slice `k`, (j, i), whole numbers or not."""
        if self.values.dtype == np.int16 and not fits_int16(numbers):
            wider = np.empty(self.values.shape, np.float32)
            wider[...] = self.values
            self.values = wider
        self.values[k] = numbers


def fits_int16(numbers: np.ndarray) -> bool:
    """Whether whole numbers, and each within int16; what is stored as floating point stays so."""
    return numbers.dtype.kind in "iu" and bool(numbers.min() >= INT16.min and numbers.max() <= INT16.max)


def most_bytes(dtype: np.dtype, slope: float = 1.0, intercept: float = 0.0) -> int:
    """Memory a voxel that a `Filling` takes at its highest, where numbers come stored as `dtype`, to be rescaled."""
    if dtype.kind == "f" or not (float(slope).is_integer() and float(intercept).is_integer()):
        return 4
    narrow = dtype.itemsize == 1 or dtype == np.int16
    return 2 if narrow and slope == 1 and intercept == 0 else 6  # int16, and float32 beside it while it changes


def rescaled(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """stored * slope + intercept; whole numbers stay whole where slope and intercept are."""
    if slope == 1 and intercept == 0:
        return stored
    if stored.dtype.kind in "iu" and float(slope).is_integer() and float(intercept).is_integer():
        return stored.astype(np.int64) * int(slope) + int(intercept)
    return stored * np.float64(slope) + intercept


def filled(
    path: str | Path,
    file: BufferedIOBase,
    dtype: np.dtype,
    shape: tuple[int, int, int],
    slope: float = 1.0,
    intercept: float = 0.0,
) -> np.ndarray:
    """Values (k, j, i) from a stream of plain numbers. Raises: PathError where it ends too early."""
    filling = Filling(shape)
    size = shape[1] * shape[2] * dtype.itemsize
    for k in range(shape[0]):
        raw = file.read(size)
        if len(raw) < size:
            raise PathError(
                f"{path} is truncated: it ends in slice {k + 1} of {shape[0]}. Its copy or download broke off; fetch "
                "it again."
            )
        filling.put(k, rescaled(np.frombuffer(raw, dtype).reshape(shape[1:]), slope, intercept))
    return filling.values
