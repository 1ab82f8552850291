"""A data set's table of contents: `manifest.jsonl`, one line of JSON for each image.

Keys: "image" and "masks" (files, relative to the manifest; "masks" is one file, or {label's name: file}), "camera",
"physics", "ct" (SHA256), "labels" ([{"id", "name", "pixels", "box"}], those in view), "split"; and "view", "seed",
"values" (what the greys mean), "landmarks", "finding" where there is one. Lines that a person makes need "image" alone.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffrender.errors import PathError

MANIFEST = "manifest.jsonl"
SPLITS = ("train", "val", "test")

Entry = dict[str, Any]


def lines_of(entries: Iterable[Mapping[str, Any]]) -> bytes:
    """The manifest's bytes, the same for the same entries."""
    return "".join(json.dumps(entry, ensure_ascii=False, sort_keys=True) + "\n" for entry in entries).encode("utf-8")


def read_manifest(path: str | Path) -> list[Entry]:
    """The entries of a manifest, or of the one in a data set's folder.

    Raises: PathError where there is none, or a line is broken, or an entry names no image; it says which line.
    """
    file = Path(path).expanduser()
    file = file / MANIFEST if file.is_dir() else file
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as problem:
        raise PathError(
            f"{file} cannot be read: {problem.strerror}. A data set's folder holds {MANIFEST}; where its making was "
            "stopped, the same command makes the rest."
        ) from None
    except UnicodeDecodeError as problem:
        raise PathError(
            f"{file} is no UTF-8 text ({problem.reason} at byte {problem.start}), so no manifest."
        ) from None
    entries = [_entry(file, number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not entries:
        raise PathError(f"{file} has no entries: a line of JSON for each image is expected.")
    return entries


def of_split(entries: Sequence[Entry], split: str) -> list[Entry]:
    """The entries of one split, in order; those that name none count as "train"."""
    return [entry for entry in entries if entry.get("split", "train") == split]


def _entry(file: Path, number: int, line: str) -> Entry:
    try:
        entry = json.loads(line)
    except ValueError as problem:
        raise PathError(
            f"{file}, line {number} is no JSON ({problem}). Mend or delete this line: {line.strip()[:60]}"
        ) from None
    if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
        raise PathError(f'{file}, line {number} names no image: it is {{"image": "images/0000.png", ...}}.')
    labels = entry.get("labels") or []
    if not isinstance(labels, list) or not all(isinstance(one, dict) and "name" in one for one in labels):
        raise PathError(f'{file}, line {number}: labels are a list of {{"id": 1, "name": "hip_left"}}, ...')
    split = entry.get("split", "train")
    if split not in SPLITS:
        raise PathError(f"{file}, line {number}: split is {', '.join(SPLITS)}, not {split!r}.")
    return entry
