"""Long work: progress, cancel, checkpoint, resume.

The work itself is a generator that yields a `Progress` after each step and returns its result; `Job` is its handle.
To stop is to ask for no further step: the generator then sees GeneratorExit at its `yield`, between two steps, and
saves. A job that was stopped and resumed therefore ends where one that never stopped would.
"""

import contextlib
import dataclasses
import os
import secrets
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from diffrender.errors import DiffRenderError, OutputError, PathError

SAVE_EVERY = 60.0  # s; what a power cut may cost

Result = TypeVar("Result")


@dataclass(frozen=True)
class Progress:
    """One step further.

    Attributes:
        done, total: steps (or bytes), those before a resume included; a total of 0 is one that nobody knows.
        loss: of this step, where there is one.
        seconds_left: [s]; `Pace` works it out where the generator does not say.
        preview: a picture of how it looks by now, (channel, h, w), or None.
        scores: how good it is by now, by name, where that is measured.
    """

    done: int
    total: int
    loss: float | None = None
    seconds_left: float | None = None
    preview: Any = None
    scores: Mapping[str, float] | None = None


class Pace:
    """How fast it goes, so how long it will take."""

    def __init__(self):
        self._first: tuple[float, int] | None = None

    def timed(self, progress: Progress) -> Progress:
        """`progress` with its `seconds_left`, from the second step of this run on."""
        now = time.monotonic()
        if self._first is None:  # counted from here: what came before a resume took no time in this run
            self._first = (now, progress.done)
        began, before = self._first
        if progress.seconds_left is not None or not before < progress.done <= progress.total:
            return progress
        left = (now - began) / (progress.done - before) * (progress.total - progress.done)
        return dataclasses.replace(progress, seconds_left=left)


class Job(Generic[Result]):
    """A running piece of work: loop over it for its `Progress`, or `run()` it; then ask for its `result`.

    Args:
        steps: a generator of `Progress` that returns the result. On GeneratorExit it saves what a resume needs.
    """

    def __init__(self, steps: Generator[Progress, None, Result]):
        self._steps = steps
        self._cancel = threading.Event()
        self._pace = Pace()
        self._end = ""
        self._result: Result | None = None
        self.progress: Progress | None = None

    def __iter__(self) -> "Job[Result]":
        return self

    def __next__(self) -> Progress:
        if self._end:
            raise StopIteration
        if self._cancel.is_set():
            self._end = "was cancelled"
            self._steps.close()
            raise StopIteration
        try:
            progress = next(self._steps)
        except StopIteration as end:
            self._end, self._result = "finished", end.value
            raise StopIteration from None
        except BaseException:
            self._end = "ended with an error"
            raise
        self.progress = self._pace.timed(progress)
        return self.progress

    def cancel(self) -> None:
        """Stop before the next step, and save. From any thread; a second time it does nothing."""
        self._cancel.set()

    @property
    def finished(self) -> bool:
        """Whether it came to its end, so that there is a result."""
        return self._end == "finished"

    @property
    def cancelled(self) -> bool:
        """Whether it was stopped before its end."""
        return self._end == "was cancelled"

    @property
    def result(self) -> Result:
        """What the work returns. Raises: DiffRenderError while there is none."""
        if self.finished:
            return self._result  # pyright: ignore[reportReturnType]
        at = f"at step {self.progress.done} of {self.progress.total}" if self.progress else "before its first step"
        if not self._end:
            raise DiffRenderError(f"This job has no result yet: it is {at}. Call `run()`, or loop over it to its end.")
        raise DiffRenderError(
            f"This job has no result: it {self._end} {at}. Start it again with the same checkpoint to go on from there."
        )

    def run(self, progress: Callable[[Progress], object] | None = None) -> Result:
        """Work to the end, calling `progress` after each step. Raises: DiffRenderError where it was cancelled."""
        for step in self:
            if progress is not None:
                progress(step)
        return self.result


class Checkpoint:
    """A job's save file: whole or not at all, and at most `every` seconds old.

    Args:
        path: the file; None for a job that is not saved.
        every: the age [s] beyond which a save is due.

    A generator asks `due()` once a step, and saves when it is, at its end and on GeneratorExit.
    """

    def __init__(self, path: str | Path | None, every: float = SAVE_EVERY):
        self.path = None if path is None else Path(path)
        self.every = every
        self._saved = self._asked = time.monotonic()

    def due(self) -> bool:
        """Whether the save would be too old by the time of the next step, if that takes as long as the last."""
        now = time.monotonic()
        step, self._asked = now - self._asked, now
        return self.path is not None and now + step - self._saved >= self.every

    def save(self, data: Mapping[str, Any]) -> None:
        """Write what resuming needs. Raises: OutputError."""
        if self.path is not None:
            save_whole(self.path, data)
        self._saved = self._asked = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """What was saved, or None where nothing was. Raises: PathError for a file that is no save."""
        return load_whole(self.path) if self.path is not None and self.path.exists() else None


def save_whole(path: str | Path, data: Mapping[str, Any]) -> None:
    """Write tensors, numbers, texts, lists and dicts of them: under another name, which then becomes `path`.

    Raises: OutputError; an older file at `path` is then still whole.
    """
    import torch

    part = Path(path).with_name(f".diffrender-{secrets.token_hex(6)}.part")  # of this run alone
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:  # a file, no path: torch's own writer fails on some names on Windows
            torch.save(dict(data), file)
            file.flush()
            os.fsync(file.fileno())  # else a power cut can leave the new name with no content
        part.replace(path)
    except (OSError, RuntimeError) as problem:  # torch reports a full disk as RuntimeError
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise OutputError(
            f"{path} could not be saved: {problem}. The save before it, if there is one, is still whole. "
            "Make room or choose another folder, and start again to go on from there."
        ) from None


def load_whole(path: str | Path) -> dict[str, Any]:
    """What `save_whole` wrote, on the CPU. Loads data alone, never code. Raises: PathError."""
    import io
    import pickle
    import zipfile

    import torch

    try:
        content = Path(path).read_bytes()
    except OSError as problem:
        raise PathError(
            f"{path} cannot be read: {problem.strerror}. Give the file that an earlier run saved."
        ) from None
    try:
        data = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile):
        data = None
    if not isinstance(data, dict):
        raise PathError(
            f"{path} is no save of ours, or it is damaged. Delete it to start from the beginning, or give another file."
        )
    return data
