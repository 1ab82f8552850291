"""A file that says who is writing here, so that no second one does."""

import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffrender.errors import OutputError

UNREADABLE_FOR = 10.0  # s after which a lock that says nothing was left half-written by one that is gone
TRIES = 5


@contextmanager
def locked(path: str | Path, what: str) -> Iterator[None]:
    """Hold NAME.lock beside `path` during the block; one left behind by a process that has ended is taken over.

    Args:
        what: is being written, for the message: "A training".
    Raises: OutputError where another one, or this process itself, holds it, or it cannot be written.
    """
    lock = Path(path).with_name(Path(path).name + ".lock")
    own = _take(lock, path, what)
    try:
        yield
    finally:
        if _read(lock) == own:  # not one that took it over
            with contextlib.suppress(OSError):
                lock.unlink(missing_ok=True)


def _take(lock: Path, path: str | Path, what: str) -> dict[str, Any]:
    own = {
        "process": os.getpid(),
        "began": _began(os.getpid()),
        "machine": socket.gethostname(),
        "run": secrets.token_hex(8),
    }
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(TRIES):  # another one may take over the same stale lock at the same time; one of the two wins
            with contextlib.suppress(FileExistsError), lock.open("x", encoding="utf-8") as file:
                json.dump(own, file)
                return own
            holder = _read(lock)
            if holder is None and time.time() - lock.stat().st_mtime < UNREADABLE_FOR:
                time.sleep(0.1)  # it is being written
            elif holder is None or not _lives(holder):
                lock.unlink(missing_ok=True)
            else:
                raise _refusal(lock, path, what, holder)
    except OSError as problem:
        raise OutputError(f"{lock} could not be written: {problem.strerror}. Choose another folder.") from None
    raise _refusal(lock, path, what, _read(lock) or {})


def _refusal(lock: Path, path: str | Path, what: str, holder: dict[str, Any]) -> OutputError:
    where = f"process {holder.get('process', '?')} on {holder.get('machine', 'this machine')}"
    return OutputError(
        f"{what} is writing to {path} already ({where}). Two would spoil each other's work: wait for it, stop it, or "
        f"give another folder. If you know that it has ended, delete {lock}."
    )


def _read(lock: Path) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(lock.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) and isinstance(found.get("process"), int) else None
    return None


def _lives(holder: dict[str, Any]) -> bool:
    """Whether the process that wrote a lock still runs; of another machine nobody can tell, so it does."""
    if holder.get("machine") != socket.gethostname():
        return True
    began = _began(holder["process"])
    # a number of a process is given again; its start, to within a clock that was set, is its own
    return began is not None and abs(began - float(holder.get("began") or 0)) < 5


def _began(process: int) -> float | None:
    """When it started [s since 1970]; None where there is none, or it has ended and waits for its parent to ask."""
    import psutil

    try:
        found = psutil.Process(process)
        return None if found.status() == psutil.STATUS_ZOMBIE else found.create_time()
    except psutil.AccessDenied:  # somebody else's, so alive
        return 0.0
    except psutil.Error:
        return None
