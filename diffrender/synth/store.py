"""Where a data set lies: a folder, or a bucket that fsspec reaches (`s3://`, `gs://`, `memory://`)."""

import json
import os
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from diffrender.errors import BackendError, OutputError, PathError
from diffrender.io.lock import locked
from diffrender.io.whole import PARTS, write_whole

BEAT = 10.0  # s between two signs of life of a writer whom no process list shows
SILENT = 6 * BEAT  # s without one, after which it has ended
LOCK = "dataset.lock"


@dataclass(frozen=True)
class Store:
    """Files by their names below `url`: "images/0000.png". A file is there whole or not at all.

    Attributes:
        url: a folder as typed, or PROTOCOL://PATH.
    """

    url: str

    @property
    def remote(self) -> bool:
        return is_remote(self.url)

    def write(self, name: str, content: bytes) -> None:
        """Raises: OutputError."""
        if not self.remote:
            write_whole(self._local(name), content)
            return
        with _said(self.url, OutputError, "could not be written"):
            system, root = _opened(self.url)
            path = f"{root}/{name}"
            system.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
            system.pipe_file(path, content)  # one request; an object is there whole or not at all

    def read(self, name: str) -> bytes:
        """Raises: PathError where it is not there or cannot be read."""
        with _said(self.place(name), PathError, "cannot be read"):
            if not self.remote:
                return self._local(name).read_bytes()
            system, root = _opened(self.url)
            return system.cat_file(f"{root}/{name}")

    def has(self, name: str) -> bool:
        with _said(self.place(name), PathError, "cannot be reached"):
            if not self.remote:
                return self._local(name).is_file()
            system, root = _opened(self.url)
            return system.isfile(f"{root}/{name}")

    def names(self, folder: str = "", ending: str = "") -> list[str]:
        """Files directly in `folder`, sorted, half-written ones left out; none where there is no such folder."""
        with _said(self.place(folder), PathError, "cannot be read"):
            if not self.remote:
                place = self._local(folder)
                found = [file.name for file in place.iterdir() if file.is_file()] if place.is_dir() else []
            else:
                system, root = _opened(self.url)
                path = f"{root}/{folder}".rstrip("/")
                system.invalidate_cache()  # others write there too
                listed = system.ls(path, detail=True) if system.isdir(path) else []
                found = [PurePosixPath(entry["name"]).name for entry in listed if entry["type"] == "file"]
        return sorted(name for name in found if name.endswith(ending) and not name.startswith("."))

    def remove(self, *names: str) -> None:
        """Files that need not be there, and their folder where it is empty then."""
        with _said(self.url, OutputError, "cannot be cleared"):
            for name in names:
                if not self.remote:
                    self._local(name).unlink(missing_ok=True)
                    continue
                system, root = _opened(self.url)
                with suppress(FileNotFoundError):
                    system.rm_file(f"{root}/{name}")
        for folder in {PurePosixPath(name).parent for name in names} - {PurePosixPath(".")}:
            with suppress(OSError):  # not empty; buckets know no folders
                self._local(str(folder)).rmdir()

    def sweep(self) -> None:
        """Take away what a writer that was killed left half-written; only while the store is held."""
        if not self.remote:
            for part in self._local("").rglob(PARTS):
                part.unlink(missing_ok=True)

    @contextmanager
    def held(self, what: str) -> Iterator[None]:
        """Keep other writers out during the block. Raises: OutputError where there is one."""
        if not self.remote:
            with locked(self._local("dataset"), what):
                yield
            return
        mark = {"run": secrets.token_hex(8), "machine": socket.gethostname(), "process": os.getpid()}
        self._take(mark, what)
        ended = threading.Event()
        beating = threading.Thread(target=self._beat, args=(mark, ended), daemon=True)
        beating.start()
        try:
            yield
        finally:
            ended.set()
            beating.join(BEAT)
            with suppress(OutputError, PathError):
                self.remove(LOCK)

    def place(self, name: str) -> str:
        """The file's whole name, for messages."""
        return f"{self.url.rstrip('/')}/{name}".rstrip("/")

    def _local(self, name: str) -> Path:
        return Path(self.url).expanduser() / name

    def _take(self, mark: dict[str, Any], what: str) -> None:
        holder = self._holder()
        if holder is not None and time.time() - holder.get("time", 0) < SILENT:
            raise OutputError(
                f"{what} is writing to {self.url} already (process {holder.get('process', '?')} on "
                f"{holder.get('machine', '?')}). Two would spoil each other's work: wait for it, stop it, or give "
                f"another place. If it was killed, this goes away within {SILENT:g} s."
            )
        self.write(LOCK, json.dumps({**mark, "time": time.time()}).encode())
        holder = self._holder()
        if holder is None or holder.get("run") != mark["run"]:
            raise OutputError(f"{what} began to write to {self.url} at the same moment. Start this one again later.")

    def _holder(self) -> dict[str, Any] | None:
        if not self.has(LOCK):
            return None
        with suppress(PathError, ValueError):
            found = json.loads(self.read(LOCK))
            return found if isinstance(found, dict) else None
        return None

    def _beat(self, mark: dict[str, Any], ended: threading.Event) -> None:
        while not ended.wait(BEAT):
            with suppress(OutputError):  # the work itself says that the place is gone
                self.write(LOCK, json.dumps({**mark, "time": time.time()}).encode())


def is_remote(path: str) -> bool:
    """Whether it names a protocol; C: of a Windows drive is none."""
    return "://" in path


@contextmanager
def fetched(path: str) -> Iterator[str]:
    """A local path of an input: itself, or a copy of what lies behind a URL, for as long as the block.

    Raises: PathError where it is not there.
    """
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="diffrender-") as folder:
        with _said(path, PathError, "cannot be read"):
            system, source = _opened(path)
            target = str(Path(folder, PurePosixPath(source).name))
            system.get(source, target, recursive=system.isdir(source))
        yield target


def _opened(url: str) -> tuple[Any, str]:
    """The file system and the path in it."""
    try:
        import fsspec
    except ImportError:
        raise BackendError(
            f"{url} needs the package fsspec, and the one for its protocol (s3fs, gcsfs). Install them: "
            "pip install fsspec s3fs."
        ) from None
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as problem:
        raise BackendError(f"{url} cannot be opened: {problem}.") from None
    except ValueError as problem:
        raise PathError(f"{url} is of no kind that fsspec knows: {problem}.") from None
    return system, path.rstrip("/")


@contextmanager
def _said(place: str, kind: type[PathError] | type[OutputError], what: str) -> Iterator[None]:
    """Errors of file systems, near and far, in our words."""
    try:
        yield
    except (OutputError, PathError, BackendError):
        raise
    except FileNotFoundError:
        raise kind(
            f"{place} {what}: it is not there. Check the path, and that the disk or bucket is connected."
        ) from None
    except Exception as problem:  # each protocol brings errors of its own
        if not is_remote(place) and not isinstance(problem, OSError):
            raise
        reason = getattr(problem, "strerror", None) or f"{type(problem).__name__}: {problem}"
        raise kind(f"{place} {what}: {reason}. Check the connection and your rights there, then start again.") from None
