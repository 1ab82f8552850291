"""The layout of DeepFluoro's HDF5 files: specimens, frames, matrices, names (see `deepfluoro`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float

from diffrender.errors import GeometryError, PathError, SettingError
from diffrender.io.files import found

NAMES = {
    1: "left-hemipelvis", 2: "right-hemipelvis", 3: "vertebrae", 4: "upper-sacrum", 5: "left-femur", 6: "right-femur",
}  # fmt: skip
# The paper's numbers of the specimens, which the preprocessed files have for names.
SPECIMENS = {"01": "17-1882", "02": "18-1109", "03": "18-0725", "04": "18-2799", "05": "18-2800", "06": "17-1905"}
TOLERANCE = 1e-3  # poses are written in single precision


@contextmanager
def opened(name: str) -> Iterator[Any]:
    """The file, open for reading. Raises: PathError where it is cut short or laid out otherwise."""
    place = found(name)
    try:
        file = h5py.File(place, "r")
    except OSError:
        raise PathError(
            f"{name} is truncated, damaged or no HDF5 file, so no frame can be read from it. Download it again; "
            "DeepFluoro's full-resolution file has 2.5 GB."
        ) from None
    with file:
        try:
            yield file
        except (KeyError, OSError) as problem:
            raise PathError(
                f"{name} is not laid out as DeepFluoro's files are, or damaged "
                f"({' '.join(str(problem).split())[:160]}). Download it again, or give frames in another format."
            ) from None


def selected(name: str, file: Any, selection: str) -> tuple[str, str]:
    """(specimen, which of its frames), of what stands behind `::`."""
    if selection:
        specimen, _, frames = selection.partition("/")
        specimen_group(name, file, specimen)
        return _known(file, specimen) or specimen, frames
    all_of_them = _specimens(file)
    example = (all_of_them or ["17-1882"])[0]
    if len(all_of_them) != 1:
        raise SettingError(
            f"{name} holds {len(all_of_them)} specimens: {', '.join(all_of_them) or 'none'}. Say which, and which of "
            f"its frames if not all: {name}::{example} or {name}::{example}/003."
        )
    return all_of_them[0], ""


def _specimens(file: Any) -> list[str]:
    return [
        key for key in sorted(file) if isinstance(file[key], h5py.Group) and {"projections", "projs"} & set(file[key])
    ]


def _known(file: Any, specimen: str) -> str | None:
    """The name that the file has for a specimen: the lab's or the paper's number."""
    other = {**SPECIMENS, **{lab: number for number, lab in SPECIMENS.items()}}.get(specimen)
    return next((one for one in (specimen, other) if one is not None and one in _specimens(file)), None)


def specimen_group(name: str, file: Any, specimen: str) -> Any:
    """What the file holds of a specimen. Raises: SettingError where it holds none of that name."""
    known = _known(file, specimen)
    if known is None:
        raise SettingError(f"{name} has no specimen {specimen!r}; it has {', '.join(_specimens(file)) or 'none'}.")
    return file[known]


def group_of(name: str, group: Any, key: str, what: str) -> Any:
    """A part that must be there. Raises: PathError."""
    if key not in group:
        raise PathError(
            f"{name}: {what} has no {key}. The file is cut short, or no DeepFluoro file; download it again."
        )
    return group[key]


def chosen_frames(name: str, keys: list[str], frames: str, specimen: str) -> list[str]:
    """The frames of "3,7-9", by number; all without."""
    if not frames:
        return keys
    by_number = {int(key): key for key in keys if key.isdigit()}
    chosen = []
    for word in frames.split(","):
        first, _, last = word.strip().partition("-")
        if not first.isdigit() or not (last or first).isdigit():
            raise SettingError(f"{name}: {word!r} is no frame of {specimen}. Give numbers, as in 3 or 3,7-9.")
        for number in range(int(first), int(last or first) + 1):
            if number not in by_number:
                raise SettingError(
                    f"{name}: {specimen} has {len(keys)} frames ({keys[0]} to {keys[-1]}), none {number}."
                )
            chosen.append(by_number[number])
    return chosen


def image_of(name: str, group: Any) -> tuple[np.ndarray, Float[np.ndarray, "4 4"]]:
    """(k, j, i) numbers and the lattice, LPS from voxel."""
    values = np.array(group["pixels"])
    spacing, origin = numbers_of(group["spacing"]), numbers_of(group["origin"])
    axes = np.array(group["dir-mat"], dtype=np.float64) if "dir-mat" in group else np.eye(3)
    if values.ndim != 3 or spacing.shape != (3,) or origin.shape != (3,) or axes.shape != (3, 3):
        raise PathError(
            f"{name}: {group.name} is no volume as DeepFluoro writes them (pixels, spacing, origin, dir-mat)."
        )
    lattice = np.eye(4)
    lattice[:3, :3], lattice[:3, 3] = axes * spacing, origin
    return values, lattice


def label_names(group: Any) -> dict[int, str]:
    """{id: name} as the specimen's CT has them, else as the README has them."""
    table = group.get("vol-seg/labels-def", {})
    named = {int(key): _text(table[key]) for key in sorted(table, key=int) if key.isdigit()}
    return {number: text for number, text in named.items() if number > 0} or dict(NAMES)


def landmark_names(file: Any) -> list[str]:
    """Of a preprocessed file, in the order of its landmarks."""
    group = file.get("land-names", {})
    return [_text(group[key]) for key in sorted(group) if key.startswith("land-")]


def _text(dataset: Any) -> str:
    value = np.array(dataset[()]).reshape(-1)[0]
    return value.decode() if isinstance(value, bytes) else str(value)


def numbers_of(dataset: Any) -> np.ndarray:
    """Whatever shape a vector was written in, as (n,) float64."""
    return np.array(dataset, dtype=np.float64).reshape(-1)


def rigid(where: str, key: str, dataset: Any) -> Float[np.ndarray, "4 4"]:
    """A motion (4, 4), its axes made exactly orthonormal. Raises: GeometryError where it is none, or a reflection."""
    matrix = np.array(dataset, dtype=np.float64)
    orthonormal = matrix.shape == (4, 4) and np.abs(matrix[:3, :3] @ matrix[:3, :3].T - np.eye(3)).max() < TOLERANCE
    if not orthonormal or np.linalg.det(matrix[:3, :3]) < 0:
        raise GeometryError(
            f"{where}: {key} is no rigid motion: its axes are "
            f"{'reflected, so left and right would be exchanged' if orthonormal else 'scaled or sheared'}. The file is "
            "damaged, or the matrix was written in another convention."
        )
    # single precision leaves axes that are a little off; the nearest rotation
    u, _, v = np.linalg.svd(matrix[:3, :3])
    return np.block([[u @ v, matrix[:3, 3:]], [np.zeros((1, 3)), np.ones((1, 1))]])
