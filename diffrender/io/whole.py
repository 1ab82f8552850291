"""Writing a file whole or not at all, and several files together or none of them."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from diffrender.errors import OutputError

PARTS = ".diffrender-*.part"  # what half-written files are called; a process that is killed leaves its own behind

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


@dataclass(frozen=True)
class _Batch:
    """Files that are written and wait for their names, as (part, target), and the folders made for them."""

    files: list[tuple[Path, Path]] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)


_batch: ContextVar[_Batch | None] = ContextVar("batch", default=None)


@contextmanager
def together() -> Iterator[None]:
    """Files that `whole` writes in the block take their names at its end, all of them; on an error none does.

    What stood under those names stays until then, so that a run that fails leaves an earlier run's files as they were,
    and no folder that it made. Within another such block it is part of that one.
    Raises: OutputError where a file cannot take its name; those that had taken theirs give them back.
    """
    if _batch.get() is not None:
        yield
        return
    batch = _Batch()
    token = _batch.set(batch)
    try:
        yield
        _take_names(batch.files)
    except BaseException:
        for part, _ in batch.files:
            _remove(part)
        for folder in reversed(batch.folders):
            with suppress(OSError):  # something else lies in it by now
                folder.rmdir()
        raise
    finally:
        _batch.reset(token)


@contextmanager
def whole(path: str | Path) -> Iterator[BinaryIO]:
    """An open file that becomes `path` when the block ends well, and leaves nothing behind when it does not.

    It is written under a name of its own in the same folder (made where it is missing) and then renamed, so that a
    reader, or a run that is cut short, never meets half a file, nor two runs each other's; what stood at `path` stays
    until then.
    Raises: OutputError where it cannot be written, whichever of the writers in the block met the problem.
    """
    target = Path(path)
    with together():
        batch = _batch.get()
        assert batch is not None
        part = _name_beside(target)
        batch.files.append((part, target))
        try:
            _refuse_folder(target)
            batch.folders.extend(_make_folder(target.parent))
            with part.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())  # a rename may reach the disk before the bytes do
        except OSError as problem:
            raise _refusal(path, problem) from None


def write_whole(path: str | Path, content: bytes | str) -> Path:
    """`content` in the file `path`, whole or not at all. Raises: OutputError.

    Text is UTF-8. What Unicode cannot spell, such as a byte of a file's name in Latin-1, is written as \\udcf6, which
    JSON reads back as the same name.
    """
    with whole(path) as file:
        file.write(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)
    return Path(path)


def _take_names(files: list[tuple[Path, Path]]) -> None:
    """Rename each part to its target; what stood there is set aside until the last one has its name."""
    aside: list[Path] = []
    with ExitStack() as back:
        for part, target in files:
            try:
                _refuse_folder(target)
                if not target.exists():
                    back.callback(_remove, target)
                elif (part, target) != files[-1]:  # the last one needs no way back: after it nothing can fail
                    older = _name_beside(target)
                    target.replace(older)
                    back.callback(older.replace, target)
                    aside.append(older)
                part.replace(target)
            except OSError as problem:
                raise _refusal(target, problem) from None
        back.pop_all()
    for older in aside:
        _remove(older)


def _name_beside(target: Path) -> Path:
    """A name that nobody has, short enough wherever that of `target` is; hidden, since nobody should look for it."""
    return target.with_name(PARTS.replace("*", secrets.token_hex(6)))


def _refuse_folder(target: Path) -> None:
    if target.is_dir():  # said by name: Windows says "access denied", and an empty one might be renamed
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder and those above it. Returns those that were not there, the outermost first."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()][::-1]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _refusal(path: str | Path, problem: OSError) -> OutputError:
    reason = problem.strerror or str(problem)
    found, advice = _MEANINGS.get(problem.errno or 0, (reason, "Choose another folder or disk"))
    return OutputError(f"{path} could not be written: {found}. Nothing half-written was left. {advice}.")


def _remove(file: Path) -> None:
    with suppress(OSError):  # its folder is no folder, or went away; then the file is not there either
        file.unlink(missing_ok=True)
