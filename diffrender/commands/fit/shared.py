"""What the commands of `diffrender fit` share: numbers typed in pairs, stages, marks, and results as plain data."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffrender.errors import PathError, SettingError, notify

if TYPE_CHECKING:
    from diffrender.fit.result import Fit
    from diffrender.xray import Radiograph

Marks = dict[str, tuple[float, float]]

COARSEST = 32  # px


def pair_of(option: str, text: str) -> tuple[float, float]:
    """A translation [mm] and a rotation [degrees], typed as 10,5. Raises: SettingError."""
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError:
        raise SettingError(f"{option} is two numbers, mm and degrees, as 10,5; not {text!r}.") from None
    return first, second


def sizes_of(size: int) -> tuple[int, ...]:
    """The finest stage's size and its halves, coarse first [px]. Raises: SettingError."""
    if size < COARSEST // 2:
        raise SettingError(f"--size {size} is too small to see a bone; give {COARSEST} or more.")
    sizes = [size]
    while sizes[0] >= 2 * COARSEST:
        sizes.insert(0, sizes[0] // 2)
    return tuple(sizes)


def read_marks(path: str, count: int) -> list[Marks]:
    """Landmarks that a person marked, {name: (row, column)} [px from the image's corner], for each of `count` frames.

    Raises: PathError for a file that is none of marks, SettingError for another number of frames.
    """
    try:
        data = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as problem:
        raise PathError(f"{path} cannot be read: {problem.strerror}. Give the landmarks' JSON file.") from None
    except ValueError as problem:
        raise PathError(f"{path} is no JSON file ({problem}).") from None
    views = data if isinstance(data, list) else [data]
    try:
        marks = [{str(name): _pixel(place) for name, place in view.items()} for view in views]
    except (AttributeError, TypeError, ValueError):
        raise PathError(
            f'{path} holds no marks: it is {{"FH-l": [row, column], ...}} in pixels of the frame, or a list of these, '
            "one for each frame. Places in 3D are no marks."
        ) from None
    if len(marks) != count:
        raise SettingError(
            f"{path} marks landmarks in {len(marks)} frame{'s' * (len(marks) != 1)}, and {count} "
            f"{'is' if count == 1 else 'are'} fitted. Give a list with one entry for each, {{}} where none is marked."
        )
    return marks


def _pixel(place: Any) -> tuple[float, float]:
    row, column = place
    return float(row), float(column)


def tell_of_one_camera(radiographs: "Sequence[Radiograph]") -> None:
    """Say where several frames were taken from one place: one camera may have been given for all by mistake."""
    if len(radiographs) > 1 and len({json.dumps(one.camera.to_dict()) for one in radiographs}) == 1:
        notify(
            f"All {len(radiographs)} frames have the same camera, so they count as views from one side. If the C-arm "
            "was turned between them, give a list of cameras, one for each."
        )


def certainty_of(fit: "Fit") -> dict[str, Any]:
    """One standard deviation of each error that is to be expected: of the pose, and of a fitted shape."""
    stated = fit.certainty
    data = {
        "format": 1,
        "world": "RAS",
        "outcome": fit.outcome,
        "sentence": fit.sentence,
        "depth_mm": stated.depth,
        "in_plane_mm": stated.in_plane,
        "translation_mm": stated.pose[:3].tolist(),
        "rotation_degrees": [math.degrees(n) for n in stated.pose[3:].tolist()],
    }
    if fit.mesh is not None:
        data["landmarks_mm"] = {name: spread.tolist() for name, spread in stated.landmarks.items()}
        data["vertices_mm"] = [[round(n, 2) for n in spread] for spread in stated.vertices.tolist()]
    return {**data, "covariance": stated.covariance.tolist()}


def result_of(
    fit: "Fit", starts: Sequence[str], folder: Path, files: Sequence[Path], shown: str
) -> tuple[dict[str, Any], str]:
    """The result for a program, and for a person.

    Args:
        starts: where the fit began, a sentence each.
        shown: what is seen in the report.
    """
    stated = fit.certainty
    data = {"outcome": fit.outcome, "sentence": fit.sentence, "starts": list(starts), "folder": folder, "files": files}
    data |= {"depth_deviation": stated.depth, "in_plane_deviation": stated.in_plane}
    began = "\n".join(f"Began: {one}" for one in starts)
    text = (
        f"{fit.outcome}: {fit.sentence}\n{began}\nTo be expected (one deviation): {stated.depth:.1f} mm in depth, "
        f"{stated.in_plane:.1f} mm across.\n{folder / 'report.html'} shows {shown}: look at it."
    )
    return data, text
