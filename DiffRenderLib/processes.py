"""The end of a process and of all that it has started, with the standard library alone (psutil may be missing)."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path


def end_tree(pid: int) -> None:
    """Kill a process that has not been waited for yet, and every descendant. Returns within some 50 ms."""
    if sys.platform == "win32":
        command = ["taskkill", "/PID", str(pid), "/T", "/F"]
        subprocess.run(command, capture_output=True, check=False, creationflags=subprocess.CREATE_NO_WINDOW)
        return
    held: set[int] = set()
    while found := {pid, *descendants(pid)} - held:  # who is held still starts no further child
        for one in found:
            _send(one, signal.SIGSTOP)
        held |= found
    for one in held:
        _send(one, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """The children of a process, theirs, and so on. Not on Windows."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents():
        children.setdefault(parent, []).append(child)
    found = children.get(pid, [])
    for one in found:  # grows as it is walked
        found.extend(children.get(one, []))
    return found


def _parents() -> list[tuple[int, int]]:
    """(process, its parent) of all that run."""
    if Path("/proc/self/stat").exists():
        return [pair for entry in os.scandir("/proc") if entry.name.isdigit() for pair in _parent_of(entry.name)]
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=False)
    return [(int(pid), int(parent)) for pid, parent in map(str.split, listed.stdout.splitlines())]


def _parent_of(number: str) -> list[tuple[int, int]]:
    with contextlib.suppress(OSError):  # it has ended meanwhile
        after_name = Path("/proc", number, "stat").read_text(errors="replace").rpartition(")")[2]
        return [(int(number), int(after_name.split()[1]))]
    return []


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
