"""What a node remembers in a saved scene: JSON on its attributes, files by path and hash, what made it. No torch.

A scene writes its own numbers with six digits; here they are kept whole.
"""

import json
import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from diffrender.errors import PathError, SettingError
from diffrender.mrml.nodes import Node, called
from diffrender.provenance import FORMAT, hash_of, plain, versions

PREFIX = "DiffRender."


def write_json(node: Node, key: str, value: Any) -> None:
    """Keep `value`, JSON data, as the attribute DiffRender.`key` of a node; None takes it away.

    ASCII alone: attributes have come back from scenes in the system's own encoding.
    """
    text = None if value is None else json.dumps(value, ensure_ascii=True, allow_nan=False)
    node.SetAttribute(PREFIX + key, text)


def read_json(node: Node, key: str, default: Any = None) -> Any:
    """What `write_json` kept, or `default`. Raises: SettingError where it is no JSON (someone edited it)."""
    text = node.GetAttribute(PREFIX + key)
    if text is None:
        return default
    try:
        return json.loads(text)
    except ValueError as problem:
        raise SettingError(
            f"What {called(node)} remembers as {PREFIX}{key} is no JSON ({problem}). It was edited, or the scene is "
            "damaged; make the node again."
        ) from None


def remember_file(node: Node, key: str, path: str | Path) -> None:
    """Keep a file (a model, a folder of views) with a node, by its path and its hash. Raises: PathError."""
    write_json(node, key, {"path": str(path), "sha256": hash_of(path)})


def recall_file(node: Node, key: str, beside: str | Path | None = None) -> Path | None:
    """The file that `remember_file` kept, unchanged since; None where none was.

    Args:
        beside: the folder of the scene: a file that moved together with it is found there by its name.
    Raises: PathError where it is gone, or is another file now.
    """
    kept = read_json(node, key)
    if kept is None:
        return None
    path = Path(kept["path"])
    moved = None if beside is None else Path(beside, path.name)
    places = [place for place in (path, moved) if place is not None and place.exists()]
    if not places:
        raise PathError(
            f"{called(node)} was saved with {path}, which is not there any more. Put it back, or choose the file anew."
        )
    same = next((place for place in places if hash_of(place) == kept["sha256"]), None)
    if same is None:
        raise PathError(
            f"{places[0]} has changed since {called(node)} was saved with it (its SHA256 differs). Choose the file "
            "that belongs to it, or choose this one anew."
        )
    return same


def remember_provenance(
    node: Node,
    command: str,
    settings: Any,
    inputs: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> None:
    """Keep with a node what made it: the record that files have beside them, without paths of its own.

    Args:
        command: what was pressed or called: "DeepDVR: Train".
        settings: a dataclass or a mapping.
        inputs: {role: node}, or {role: path} for files, which are hashed; nodes are kept by ID and name.
        seed: of everything random, or None.
    Raises: PathError where a file is gone.
    """
    write_json(
        node,
        "provenance",
        {
            "format": FORMAT,
            "command": command,
            "settings": plain(settings),
            "inputs": {role: _input(each) for role, each in (inputs or {}).items()},
            "seed": seed,
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "versions": versions(),
            "platform": platform.platform(),
            "notice": "Research use only, not for clinical use.",
        },
    )


def recall_provenance(node: Node) -> dict[str, Any] | None:
    """What `remember_provenance` kept, or None."""
    return read_json(node, "provenance")


def _input(each: Any) -> dict[str, Any]:
    if isinstance(each, str | Path):
        return {"path": str(each), "sha256": hash_of(each)}
    kept = {"id": each.GetID(), "name": each.GetName()}
    sha256 = each.GetAttribute(PREFIX + "sha256")
    return kept if sha256 is None else {**kept, "sha256": sha256}
