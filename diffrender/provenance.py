"""What made a result: versions, settings, inputs by hash, seed, time. One file beside each output, never a patient."""

import dataclasses
import hashlib
import json
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from diffrender import __version__
from diffrender.errors import PathError
from diffrender.io.whole import write_whole

FORMAT = 1
PACKAGES = ("torch", "numpy", "warp-lang", "SimpleITK", "pydicom")
BLOCK = 1 << 20
MOST_NUMBERS = 64  # longer arrays are named by their shape: settings are meant, not data


def write_provenance(
    output: str | Path,
    command: str | Sequence[str],
    settings: Any,
    inputs: Iterable[str | Path],
    seed: int | None = None,
) -> Path:
    """Write what made `output`: NAME.provenance.json beside a file, provenance.json in a folder.

    Args:
        output: the file or folder made, as typed.
        command: what was typed; words are kept as they are.
        settings: a dataclass or a mapping; what is no plain value in it is named by its type, and headers are left out.
        inputs: files and folders that went in, as typed; each is hashed.
        seed: of everything random, or None.
    Raises: PathError where an input is gone, OutputError where it cannot be written.
    """
    name = re.sub(
        r"\.gz$", "", Path(output).name, flags=re.IGNORECASE
    )  # chest.nii.gz is chest, as its labels and its camera are named
    target = Path(output, "provenance.json")
    if not Path(output).is_dir():
        target = Path(output).with_name(Path(name).stem + ".provenance.json")
    record = {
        "format": FORMAT,
        "output": str(output),
        "command": command if isinstance(command, str) else [str(word) for word in command],
        "settings": plain(settings),
        "inputs": [{"path": str(path), "sha256": hash_of(path)} for path in inputs],
        "seed": seed,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "notice": "Research use only, not for clinical use.",
    }
    return write_whole(target, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def versions() -> dict[str, str | None]:
    """Versions of DiffRender, Python and the packages that decide on numbers; None for one that is not installed."""
    return {
        "diffrender": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def hash_of(path: str | Path) -> str:
    """SHA256 as hexadecimal: of a file's bytes, or, for a folder, of the lines "sha256  name" of all files in it.

    Names are relative, with /, and sorted by their code points, so that the same folder has the same hash on every
    system; the hash says nothing of times. Files are read a MiB at a time.
    Raises: PathError.
    """
    place = Path(os.path.expanduser(path))
    try:
        if not place.is_dir():
            return _hash_of_file(place)
        names = sorted(file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file())
        lines = [f"{_hash_of_file(place / name)}  {name}\n" for name in names]
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
    except OSError as problem:
        raise PathError(
            f"{path} cannot be read: {problem.strerror}. Its hash belongs into the provenance file; check the "
            "path, and that the file may be read."
        ) from None


def plain(value: Any) -> Any:
    """`value` as JSON data: dataclasses as dicts without their headers, cameras by `to_dict`, paths as typed."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "to_dict"):
        return plain(value.to_dict())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value) if field.name != "header"]
        return {name: plain(getattr(value, name)) for name in fields}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items() if key != "header"}
    if hasattr(value, "tolist") and hasattr(value, "shape"):
        small = len(value.reshape(-1)) <= MOST_NUMBERS
        return value.tolist() if small else f"{type(value).__name__} of shape {list(value.shape)}"
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes):
        return [plain(entry) for entry in value]
    return type(value).__name__


def _hash_of_file(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
