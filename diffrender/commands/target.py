"""Where a command writes to, checked before the work begins: minutes of work should not end at a mistyped folder."""

import errno
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffrender.errors import PathError, SettingError

SEPARATORS = tuple(filter(None, (os.sep, os.altsep)))
HEADERS = (".mhd", ".nhdr")  # texts that name the files with the voxels
DATA_FILES = re.compile(r"^(?:ElementDataFile\s*=|data ?file:)(.*)", re.IGNORECASE | re.MULTILINE | re.DOTALL)
LONGEST_HEADER = 2**20  # bytes


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

    @property
    def provenance(self) -> Path:
        """Where `write_provenance` puts the record."""
        return self.folder / "provenance.json" if self.whole_folder else self.file(".provenance.json")


def check_given(paths: Mapping[str, str | None]) -> None:
    """Refuse an empty text as a path {option: path}, which would mean the working folder. Raises: SettingError."""
    for option, path in paths.items():
        if path is not None and not path.strip():
            raise SettingError(
                f"{option} is an empty text, no path: a variable without a value, perhaps. Give the path."
            )


def target_of(out: str | None, default: str, stem: str, suffixes: Sequence[str], count: int = 1) -> Target:
    """What `-o` means: a folder if it is one, ends with a separator or takes several pictures; else a file.

    Args:
        out: as typed, `~` for the home folder included; None for `default` in the working directory.
        default, stem: the main file's name without its ending: without `-o`, and in a folder.
        suffixes: the endings that can be written; the first one is the default.
        count: how many main files there will be.
    Raises: SettingError.
    """
    several = count > 1
    if out is None:
        return Target(Path(default) if several else Path(), None if several else default, suffixes[0], several)
    out = os.path.expanduser(out)  # pathlib's own would drop the separator at the end
    ending = suffix_of(out, suffixes)
    if out.endswith(SEPARATORS) or os.path.isdir(out) or (several and not ending):
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
    shown = Path.cwd() if folder == Path() else folder
    place = folder
    while not os.path.exists(place) and place != place.parent:
        place = place.parent
    try:
        # Asked by writing: permission bits do not tell of read-only disks, quotas, /proc or Windows' access lists.
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"\0")
        free = shutil.disk_usage(place).free
    except OSError as problem:
        where = "" if place in (folder, Path()) else f", in {place}"
        found = f"{place} is a file, no folder" if place.is_file() else f"{problem.strerror}{where}"
        raise PathError(
            f"{shown} cannot be written to: {found}. Nothing was done; choose another place with -o."
        ) from None
    if free < need:
        raise PathError(
            f"{shown} lies on a disk with {size_of(free)} free, and this takes up to {size_of(need)}. "
            "Nothing was done; make room, or choose another place with -o."
        )


def check_outputs(files: Iterable[Path], inputs: Iterable[str]) -> None:
    """Refuse to write over what is read, where a folder stands, or under names that the disk cannot hold.

    Args:
        files: all that will be written.
        inputs: as typed; what is no file or folder is passed over. All files in a folder count as read.
    Raises: PathError.
    """
    there: dict[Path, os.stat_result] = {}
    for file in files:
        try:
            there[file] = file.stat()
        except OSError as problem:  # mostly that it is not there, as it should be; folders are looked at elsewhere
            if problem.errno == errno.ENAMETOOLONG:
                raise PathError(f"{file} is a name too long for this disk. Choose a shorter one with -o.") from None
            continue
        if file.is_dir():
            raise PathError(f"{file} could not be written: a folder of that name is already there. Choose another -o.")
    if not there:
        return
    read = {_identity(file.stat()): path for path in inputs for file in _files_read(path)}
    for file, found in there.items():
        path = read.get(_identity(found))
        if path is not None:
            which = f"{path} is read" if Path(path).name == file.name else f"{file} belongs to {path}, which is read"
            raise PathError(f"{which} by this command and would be written over; choose another name with -o.")


def size_of(number: float) -> str:
    """Bytes for a person: "40.0 KiB"."""
    for unit in ("KiB", "MiB", "GiB"):
        number /= 1024
        if number < 1000:
            return f"{number:.1f} {unit}"
    return f"{number / 1024:.1f} TiB"


def _identity(found: os.stat_result) -> tuple[int, int]:
    """The same for all names and links of one file."""
    return found.st_dev, found.st_ino


def _files_read(path: str) -> Iterator[Path]:
    """The files that an input consists of: itself, all in a folder, and those that a header names."""
    place = Path(os.path.expanduser(path))
    if place.is_dir():
        yield from (file for file in place.rglob("*") if file.is_file())
    elif place.is_file():
        yield place
        if place.suffix.lower() in HEADERS:
            yield from _files_named(place)


def _files_named(header: Path) -> Iterator[Path]:
    """The files with the voxels of a header: one, a list, or a run of them such as "slice%03d.raw 1 133 1"."""
    with header.open("rb") as file:
        named = DATA_FILES.search(file.read(LONGEST_HEADER).decode("utf-8", "surrogateescape"))
    for line in named[1].splitlines() if named else ():
        for name in {line.strip(), line.strip().partition(" ")[0]}:
            pattern = re.sub(r"%\d*d", "*", glob.escape(name))
            yield from (Path(file) for file in glob.glob(str(header.parent / pattern)) if os.path.isfile(file))
