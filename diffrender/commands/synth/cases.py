"""Labelled CTs as they are typed: CTs with their labels in the same order, or a table of them."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffrender.errors import PathError, SettingError

if TYPE_CHECKING:
    from diffrender.synth.cases import Case

COLUMNS = ("ct", "labels", "names", "series", "landmarks", "patient")
WORDS = ("series", "patient")  # the others are paths


def cases_of(cts: Sequence[str], labels: Sequence[str], names: Sequence[str]) -> "list[Case]":
    """The CTs with their labels: a labels' file for each CT, in order, or none; a table of names for all, or for each.

    A CSV file in a CT's place is a table of CTs: columns ct, labels, names, series, landmarks, patient; only ct is
    needed, and paths in it are relative to it.
    Raises: SettingError, PathError.
    """
    from diffrender.synth.cases import Case

    if any(path.lower().endswith(".csv") for path in cts):
        if labels or names:
            raise SettingError("A table of CTs names their labels too; leave out --labels and --names.")
        return [case for path in cts for case in (_table(path) if path.lower().endswith(".csv") else [Case(path)])]
    if labels and len(labels) != len(cts):
        raise SettingError(
            f"{len(cts)} CTs and {len(labels)} labels were given. Repeat --labels for each CT, in the same order, or "
            "give a CSV table with the columns ct and labels."
        )
    if names and len(names) not in (1, len(cts)):
        raise SettingError(f"{len(cts)} CTs and {len(names)} tables of names were given. Give one for all, or each.")
    tables = [*names] * len(cts) if len(names) == 1 else [*names] or [None] * len(cts)
    marked = [*labels] or [None] * len(cts)
    return [Case(ct, own, table if own else None) for ct, own, table in zip(cts, marked, tables, strict=True)]


def _table(path: str) -> "list[Case]":
    from diffrender.synth.cases import Case
    from diffrender.synth.store import is_remote

    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise PathError(f"{path} cannot be read as a table of CTs: {problem}.") from None
    rows = csv.DictReader(text.splitlines())
    unknown = [column for column in rows.fieldnames or () if column not in COLUMNS]
    if "ct" not in (rows.fieldnames or ()) or unknown:
        raise PathError(f"{path} is a table of CTs with the columns {', '.join(COLUMNS)}; only ct is needed.")
    folder = Path(path).expanduser().parent

    def place(text: str) -> str:
        found = folder / text
        return text if is_remote(text) or not found.exists() else str(found)

    cases = []
    for number, row in enumerate(rows, 2):
        given = {column: text.strip() for column, text in row.items() if text and text.strip()}
        if "ct" not in given:
            raise PathError(f"{path}, line {number} names no CT. Fill in the column ct, or delete the line.")
        named = {column: text if column in WORDS else place(text) for column, text in given.items()}
        cases.append(Case(named.pop("ct"), **named))
    if not cases:
        raise PathError(f"{path} has no rows: a line for each CT is expected below the columns' names.")
    return cases
