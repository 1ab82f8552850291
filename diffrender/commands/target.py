"""Where a command writes to, checked before the work begins: minutes of work should not end at a mistyped folder."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffrender.errors import PathError, SettingError

SEPARATORS = tuple(filter(None, (os.sep, os.altsep)))


@dataclass(frozen=True)
class Target:
    """The names of what is written.

    Attributes:
        folder: made where it is missing.
        stem: the part of the names before the first ending of ours; None for numbers, 0000, 0001, ...
        suffix: of the main file, with its dot.
        whole_folder: whether the folder as a whole is the output, so that its provenance lies in it without a name.
    """

    folder: Path
    stem: str | None
    suffix: str
    whole_folder: bool

    def file(self, ending: str = "", n: int = 0) -> Path:
        """The n-th main file, or the one beside it that ends with `ending`, such as ".camera.json"."""
        stem = f"{n:04d}" if self.stem is None else self.stem
        return self.folder / f"{stem}{ending or self.suffix}"


def target_of(out: str | None, default: str, stem: str, suffixes: Sequence[str], count: int = 1) -> Target:
    """What `-o` means: a folder if it is one, ends with a separator or takes several pictures; else a file.

    Args:
        out: as typed; None for `default` in the working directory.
        default, stem: the main file's name without its ending: without `-o`, and in a folder.
        suffixes: the endings that can be written; the first one is the default.
        count: how many main files there will be.
    Raises: SettingError.
    """
    several = count > 1
    if out is None:
        return Target(Path(default) if several else Path(), None if several else default, suffixes[0], several)
    ending = suffix_of(out, suffixes)
    if out.endswith(SEPARATORS) or Path(out).is_dir() or (several and not ending):
        return Target(Path(out), None if several else stem, suffixes[0], True)
    offered = ", ".join(suffixes)
    if not ending:
        raise SettingError(
            f"{out} has no ending that can be written; give one of {offered}, or end it with / for a folder."
        )
    if several:
        raise SettingError(f"{out} is one file and there are {count} pictures; give a folder with -o.")
    name = Path(out).name
    if len(name) == len(ending):
        raise SettingError(f"{out} is an ending without a name; give a name before {ending}.")
    return Target(Path(out).parent, name[: -len(ending)], ending, False)


def suffix_of(path: str, suffixes: Sequence[str]) -> str:
    """The longest of `suffixes` that `path` ends with, in its own case; "" for none."""
    ending = max((s for s in suffixes if path.lower().endswith(s)), key=len, default="")
    return path[len(path) - len(ending) :]


def check_writable(folder: Path, need: int) -> None:
    """Refuse a folder that cannot be written to or has less than `need` bytes free. It is not made yet.

    Raises: PathError.
    """
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        # Asked by writing: permission bits do not tell of read-only disks, quotas, /proc or Windows' access lists.
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"\0")
        free = shutil.disk_usage(place).free
    except OSError as problem:
        found = f"{place} is a file, no folder" if place.is_file() else f"{problem.strerror}, in {place}"
        raise PathError(
            f"{folder} cannot be written to: {found}. Nothing was done; choose another place with -o."
        ) from None
    if free < need:
        raise PathError(
            f"{folder} lies on a disk with {free / 2**20:.1f} MiB free, and this takes up to {need / 2**20:.1f} MiB. "
            "Nothing was done; make room, or choose another place with -o."
        )


def check_overwrites(files: Iterable[Path], inputs: Iterable[str]) -> None:
    """Refuse to write over what is read. Raises: PathError."""
    for file in files:
        for path in inputs:
            if file.exists() and Path(path).exists() and file.samefile(path):
                raise PathError(
                    f"{path} is read by this command and would be written over; choose another name with -o."
                )
