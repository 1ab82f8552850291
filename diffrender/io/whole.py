"""Writing a file whole or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from diffrender.errors import OutputError

_MEANINGS = {
    errno.ENOSPC: ("the disk is full", "Free some space, or write to another disk"),
    errno.EDQUOT if hasattr(errno, "EDQUOT") else -1: ("your quota on this disk is used up", "Free some space"),
    errno.EACCES: ("the folder or the file may not be written to", "Choose another folder, or change its permissions"),
    errno.EPERM: ("the folder or the file may not be written to", "Choose another folder, or change its permissions"),
    errno.EROFS: ("the disk is read-only", "Choose a folder on another disk"),
    errno.EISDIR: ("a folder of that name is already there", "Choose another name"),
    errno.ENOTDIR: ("a file stands where a folder should be", "Choose another folder, or move that file away"),
    errno.EEXIST: ("a file stands where a folder should be", "Choose another folder, or move that file away"),
    errno.ENAMETOOLONG: ("the name is too long for this disk", "Choose a shorter one"),
}


@contextmanager
def whole(path: str | Path) -> Iterator[BinaryIO]:
    """An open file that becomes `path` when the block ends well, and leaves nothing behind when it does not.

    It is written as `path` + ".part" in the same folder (made where it is missing) and then renamed, so that a reader,
    or a run that is cut short, never meets half a file; what stood at `path` stays until then.
    Raises: OutputError where it cannot be written, whichever of the writers in the block met the problem.
    """
    target = Path(path)
    part = target.with_name(target.name + ".part")
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # a rename may reach the disk before the bytes do
        part.replace(target)
    except OSError as problem:
        raise _refusal(path, problem) from None
    finally:
        _remove(part)


def write_whole(path: str | Path, content: bytes | str) -> Path:
    """`content` (text as UTF-8) in the file `path`, whole or not at all. Raises: OutputError."""
    with whole(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)
    return Path(path)


def _refusal(path: str | Path, problem: OSError) -> OutputError:
    reason = problem.strerror or str(problem)
    found, advice = _MEANINGS.get(problem.errno or 0, (reason, "Choose another folder or disk"))
    return OutputError(f"{path} could not be written: {found}. Nothing half-written was left. {advice}.")


def _remove(part: Path) -> None:
    try:
        part.unlink(missing_ok=True)
    except OSError:  # its folder is no folder, or went away; then there is no part in it either
        return
