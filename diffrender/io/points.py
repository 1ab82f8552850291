"""Named places in a file: landmarks in an image or in space, as people and Slicer write them."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diffrender.errors import LabelError, PathError
from diffrender.io.files import found

Place = tuple[float, ...]
_COLUMNS = (("row", "column"), ("row", "col"), ("r", "a", "s"), ("x", "y", "z"), ("l", "p", "s"))
_NAMES = ("name", "label", "landmark", "land")


def read_landmarks(path: str | Path) -> dict[str, Place]:
    """{name: (row, column)} [px from the image's corner] or {name: (R, A, S)} [mm], as the file has them.

    Args:
        path: Slicer's .fcsv or .mrk.json (LPS or RAS, which they say); JSON, {name: [row, column] or [R, A, S]}, by
            itself or under "landmarks"; CSV with a column name (or label, landmark) and columns row, column or r, a, s
            or x, y, z (RAS) or l, p, s.
    Raises: PathError, LabelError where a name stands twice, or a place is not two or three finite numbers.
    """
    place = found(path)
    try:
        text = place.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise PathError(f"{path} is no text file, so no landmarks can be read from it. {_FORMATS}") from None
    if place.name.lower().endswith(".fcsv"):
        return _checked(path, _fcsv(path, text))
    if text.lstrip()[:1] in ("{", "["):
        try:
            data = json.loads(text)
        except ValueError as problem:
            raise PathError(f"{path} is no JSON file ({problem}). {_FORMATS}") from None
        return _checked(path, _json(path, data))
    return _checked(path, _csv(path, text))


_FORMATS = "Landmarks are .fcsv, .mrk.json, JSON {name: [row, column]} or {name: [R, A, S]}, or CSV with a header."


def _json(path: str | Path, data: Any) -> list[tuple[str, Any]]:
    if isinstance(data, Mapping) and isinstance(data.get("markups"), list):
        points = []
        for markup in data["markups"]:
            system = str(markup.get("coordinateSystem", "LPS")).upper()
            for point in markup.get("controlPoints", []):
                if point.get("positionStatus", "defined") == "defined":
                    points.append((str(point.get("label", "")), _ras(point.get("position"), system)))
        return points
    table = data.get("landmarks", data) if isinstance(data, Mapping) else None
    if not isinstance(table, Mapping):
        raise LabelError(f"{path} holds no landmarks. {_FORMATS}")
    return [(str(name), value) for name, value in table.items() if name not in ("format", "world")]


def _fcsv(path: str | Path, text: str) -> list[tuple[str, Any]]:
    """Source: Slicer's vtkMRMLMarkupsFiducialStorageNode; 0 and RAS, 1 and LPS are the same."""
    system, columns = "RAS", ["id", "x", "y", "z", "ow", "ox", "oy", "oz", "vis", "sel", "lock", "label"]
    points = []
    for line in text.splitlines():
        key, _, value = line.lstrip("# ").partition("=")
        if line.startswith("#") and key.strip() == "CoordinateSystem":
            system = {"0": "RAS", "1": "LPS"}.get(value.strip(), value.strip().upper())
        elif line.startswith("#") and key.strip() == "columns":
            columns = [word.strip() for word in value.split(",")]
        elif line.strip() and not line.startswith("#"):
            row = dict(zip(columns, next(csv.reader([line])), strict=False))
            points.append((row.get("label", ""), _ras([row.get(axis) for axis in "xyz"], system)))
    return points


def _csv(path: str | Path, text: str) -> list[tuple[str, Any]]:
    rows = list(csv.DictReader(io.StringIO(text), skipinitialspace=True))
    head = {str(key).strip().lower(): key for key in (rows[0] if rows else {})}
    name = next((head[word] for word in _NAMES if word in head), None)
    columns = next((words for words in _COLUMNS if all(word in head for word in words)), None)
    if name is None or columns is None:
        raise LabelError(f"{path} has no columns that name landmarks and their places. {_FORMATS}")
    system = "LPS" if columns[0] == "l" else "RAS"
    places = [[row[head[word]] for word in columns] for row in rows]
    return [
        (str(row[name]).strip(), _ras(place, system) if len(columns) == 3 else place)
        for row, place in zip(rows, places, strict=True)
    ]


def _ras(place: Any, system: str) -> Any:
    if system != "LPS" or not isinstance(place, list) or len(place) != 3:
        return place
    try:
        return [-float(place[0]), -float(place[1]), float(place[2])]
    except (TypeError, ValueError):
        return place


def _checked(path: str | Path, points: Iterable[tuple[str, Any]]) -> dict[str, Place]:
    places: dict[str, Place] = {}
    for name, value in points:
        try:
            place = tuple(float(number) for number in value)
        except (TypeError, ValueError):
            place = ()
        if len(place) not in (2, 3) or not all(math.isfinite(number) for number in place):
            raise LabelError(
                f"{path}: the place of {name or 'a landmark'} is two or three finite numbers, not {value!r:.60}."
            )
        if not name or name in places:
            raise LabelError(
                f"{path}: {'a landmark has no name' if not name else f'{name} stands twice'}. Name each, once."
            )
        places[name] = place
    if not places:
        raise LabelError(f"{path} holds no landmarks. {_FORMATS}")
    if len({len(place) for place in places.values()}) > 1:
        raise LabelError(f"{path} mixes places in an image (two numbers) with places in space (three).")
    return places
