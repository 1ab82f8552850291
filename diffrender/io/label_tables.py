"""Tables that name labels: {id: name} from a CSV, a JSON, a Slicer or ITK-SNAP colour table, or a table we bring."""

import csv
import json
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from diffrender.errors import LabelError
from diffrender.io.files import found
from diffrender.io.label_sources import LARGEST_ID

TABLES = {"totalsegmentator-v1": "totalsegmentator-v1.csv", "totalsegmentator-v2": "totalsegmentator-v2.csv"}
# Which column is which, the surest first; "label" is the id where another column names, and the name where one has ids.
ID_COLUMNS = ("id", "labelvalue", "value", "index", "label")
NAME_COLUMNS = ("name", "structure", "label")

Names = str | Path | Mapping


def read_label_table(names: Names) -> dict[int, str]:
    """The table {id: name} of labels, without the background (id 0).

    Args:
        names: a file: CSV or JSON with columns id and name (or structure), a Slicer colour table (.ctbl, .txt) or an
            ITK-SNAP label file (.label, .txt); or "totalsegmentator-v1" | "totalsegmentator-v2"; or {id: name}.
    Raises: PathError where there is no such file; LabelError where it lacks the columns, an id is no whole number or
        stands twice under different names, or one name stands for two ids.
    """
    if isinstance(names, Mapping):
        return _checked(names.items(), "The table of names")
    if str(names) in TABLES:
        text = (resources.files("diffrender.io") / "data" / TABLES[str(names)]).read_text(encoding="utf-8")
        return _checked(_csv_rows(text, str(names)), str(names))
    return _checked(_file_rows(Path(names), str(names)), str(names))


def _file_rows(path: Path, shown: str) -> Iterable[tuple[Any, Any]]:
    path = found(path)
    if path.is_dir():
        raise LabelError(f"{shown} is a folder: the table that names labels is a CSV or JSON file. Give its path.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        text = path.read_text(encoding="latin-1")  # a CSV saved by a spreadsheet in the system's own code page
    if not text.strip():
        raise LabelError(f"{shown} is empty: a table of labels has the columns id and name. Save it again.")
    if path.suffix.lower() == ".json":
        return _json_rows(text, shown)
    if path.suffix.lower() in (".ctbl", ".txt", ".label", ".lut") and not _is_csv(text):
        return _colour_rows(text, shown)
    return _csv_rows(text, shown)


def _content(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def _is_csv(text: str) -> bool:
    lines = _content(text)
    return bool(lines) and not re.match(r"\s*\d", lines[0]) and any(mark in lines[0] for mark in ",;\t")


def _csv_rows(text: str, shown: str) -> list[tuple[Any, Any]]:
    lines = _content(text)
    mark = max(",;\t", key=lines[0].count) if lines else ","
    rows = list(csv.reader(lines, delimiter=mark))
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    of_id, of_name = _columns(header, shown)
    last = max(of_id, of_name)
    short = next((row for row in rows[1:] if len(row) <= last), None)
    if short is not None:
        raise LabelError(f"{shown}: the row {mark.join(short)!r} has fewer columns than the header. Complete it.")
    return [(row[of_id], row[of_name]) for row in rows[1:]]


def _columns(header: list[str], shown: str) -> tuple[int, int]:
    name = next((column for column in NAME_COLUMNS if column in header), None)
    number = next((column for column in ID_COLUMNS if column in header and column != name), None)
    if name is None or number is None:
        raise LabelError(
            f"{shown} has the columns {', '.join(header) or 'none'}: a table of labels needs a column id and a column "
            "name (or structure), so nothing says which label is what. Rename its columns in the first line."
        )
    return header.index(number), header.index(name)


def _json_rows(text: str, shown: str) -> list[tuple[Any, Any]]:
    try:
        table = json.loads(text)
    except json.JSONDecodeError as error:
        raise LabelError(f"{shown} is no JSON ({error.msg}, line {error.lineno}). Save it again.") from error
    if isinstance(table, dict) and isinstance(table.get("labels"), dict | list):
        table = table["labels"]  # dataset.json of MONAI and nnU-Net
    if isinstance(table, dict) and table and all(isinstance(column, list) for column in table.values()):
        header = [str(key).lower() for key in table]
        of_id, of_name = _columns(header, shown)
        columns = list(table.values())
        return list(zip(columns[of_id], columns[of_name], strict=False))
    if isinstance(table, dict):
        by_name = all(isinstance(value, int) and not isinstance(value, bool) for value in table.values())
        return [(value, key) if by_name else (key, value) for key, value in table.items()]
    if isinstance(table, list) and table and all(isinstance(row, dict) for row in table):
        of_id, of_name = _columns([str(key).lower() for key in table[0]], shown)
        number, name = list(table[0])[of_id], list(table[0])[of_name]
        return [(row.get(number, ""), row.get(name, "")) for row in table]
    raise LabelError(
        f'{shown} holds no table of labels: expected {{"1": "spleen"}}, or a list of {{"id": 1, "name": "spleen"}}. '
        "Write it in one of these forms."
    )


def _colour_rows(text: str, shown: str) -> list[tuple[Any, Any]]:
    rows = []
    for line in _content(text):
        snap = re.fullmatch(r'\s*(\S+)(?:\s+[\d.]+){6}\s+"(.*)"\s*', line)  # ITK-SNAP: id r g b a vis mesh "name"
        slicer = re.fullmatch(r"\s*(\S+)\s+(.+?)(?:\s+[\d.]+){4}\s*", line)  # Slicer: id name r g b a
        match = snap or slicer
        if match is None:
            raise LabelError(
                f"{shown}: the line {line.strip()!r} is none of a colour table (id name red green blue alpha). "
                "Write the table as a CSV with the columns id and name."
            )
        rows.append((match[1], match[2]))
    return rows


def _checked(rows: Iterable[tuple[Any, Any]], shown: str) -> dict[int, str]:
    table: dict[int, str] = {}
    ids: dict[str, int] = {}
    for number, name in rows:
        label, name = _whole(number, name, shown), str(name).strip()
        if label == 0:
            continue
        if not name:
            raise LabelError(f"{shown} has no name for id {label}. Give it one, or take the row out.")
        if table.get(label, name) != name:
            raise LabelError(
                f"{shown} lists id {label} twice, as {table[label]!r} and as {name!r}: one of them is wrong, and "
                "nothing says which. Correct the table."
            )
        if ids.get(name, label) != label:
            raise LabelError(
                f"{shown} gives the name {name!r} to two ids, {ids[name]} and {label}: they could not be told apart "
                "(left and right, perhaps). Give each its own name."
            )
        table[label], ids[name] = name, label
    if not table:
        raise LabelError(f"{shown} names no label besides the background. Give each id of the labels a row.")
    return table


def _whole(number: Any, name: Any, shown: str) -> int:
    try:
        value = float(str(number).strip())
        label = int(value)
    except (ValueError, OverflowError):
        value, label = 0.5, 0
    if isinstance(number, bool) or value != label or not 0 <= label <= LARGEST_ID:
        raise LabelError(
            f"{shown}: the id {str(number)!r} of {str(name)!r} is not a whole number from 0 to {LARGEST_ID}, and label "
            "ids are. Correct the table."
        )
    return label
