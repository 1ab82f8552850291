"""What all commands share: text or JSON lines, progress, notices, errors, exit codes, and how they are stopped.

Exit codes: 0 success, 1 what went wrong on our side or the machine's, 2 bad input, 130 stopped by the user.

With `--json`, stdout carries one JSON object a line and nothing else:

    {"type": "progress", "done": 3, "total": 10, "seconds_left": 12.5, "loss": null, "scores": null,
     "preview": null, "what": "Reading ct.nii.gz"}   (preview: the path of a picture of how it looks by now)
    {"type": "notice", "message": "..."}
    {"type": "result", ...}                                                   the last line of a success
    {"type": "error", "kind": "PathError", "message": "...", "exit_code": 2}  the last line of anything else
"""

import contextlib
import errno
import json
import math
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from diffrender.errors import DiffRenderError, InputError, Notice, OutputError, SettingError
from diffrender.jobs import Job, Pace, Progress

FAILED, BAD_INPUT, STOPPED = 1, 2, 130
NO_ROOM = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
PLAIN_EVERY = 5.0  # s between two lines of progress where there is no terminal
JSON_EVERY = 0.1  # s; a panel shows no more
OUT_OF_MEMORY = ("out of memory", "can't allocate memory")  # torch's words, which come as RuntimeError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line instead of text.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error, and all warnings.")]

Result = TypeVar("Result")


def example(line: str) -> str:
    """The end of a command's --help. (\\b keeps its lines as they are.)"""
    return f"\b\nExample:\n  {line}"


class Stopped(KeyboardInterrupt):
    """The user stopped it: Ctrl-C, the line `cancel`, or the end of stdin. No Exception, so that none catches it."""


class Console:
    """Where a command speaks to: people (text on stdout, progress and errors on stderr) or a program (JSON lines)."""

    def __init__(self, words: Sequence[str] = ()):
        options = words[: words.index("--")] if "--" in words else words
        self.command = ["diffrender", *words]  # as typed
        self.json = "--json" in options  # read here too, since a wrong option is told before any option is read
        self.debug = "--debug" in options
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._job: Job | None = None
        self._bar: Any = None
        self._pace = (Pace(), "")  # of what is under way, and what that is
        self._last = (-math.inf, "")  # when progress was last shown, and of what
        self._noticed: set[str] = set()

    def result(self, data: Mapping[str, Any], text: str) -> None:
        """The outcome: `data` for a program, `text` for a person."""
        if self.json:
            self._json_line({"type": "result", **data})
        else:
            self.text(text)

    def text(self, text: str) -> None:
        """Lines for a person alone, on stdout."""
        if not self.json:
            with self._lock:
                self.end_progress()
                print(text, flush=True)

    def notice(self, text: str) -> None:
        """Say once what was done otherwise than the user may think."""
        if text in self._noticed:
            return
        self._noticed.add(text)
        if self.json:
            self._json_line({"type": "notice", "message": text})
        else:
            self._stderr(f"Note: {text}")

    def error(self, kind: str, message: str, exit_code: int) -> int:
        """Say what went wrong, whole and on an unwrapped line. Returns the exit code."""
        if self.json:
            self._json_line({"type": "error", "kind": kind, "message": message, "exit_code": exit_code})
        else:
            self._stderr(message if exit_code == STOPPED else f"Error: {message}")
        return exit_code

    def progress(self, progress: Progress, what: str = "Working") -> None:
        """Show how far it is: a bar on a terminal, now and then a line elsewhere, JSON lines for a program.

        Raises: Stopped where the user stopped it; so handing this to long work as its callback makes it stoppable.
        """
        if self._stop.is_set() and self._job is None:
            raise Stopped
        with self._lock:
            if self._pace[1] != what:
                self._pace = (Pace(), what)
            progress = self._pace[0].timed(progress)
            if self.json:
                if self._due(progress, what, JSON_EVERY):
                    self._json_line(_progress_line(progress, what))
            elif _is_terminal(sys.stderr):
                self._show_bar(progress, what)
            elif self._due(progress, what, PLAIN_EVERY):
                self._stderr(f"{what}: {_far(progress)}{_left(progress)}{_scores(progress)}")

    def end_progress(self) -> None:
        """Take the bar away."""
        with self._lock:
            if self._bar is not None:
                self._bar.stop()
                self._bar = None

    def run(self, job: Job[Result], what: str, resume: str) -> Result:
        """Run a job to its end, stoppable by Ctrl-C and, with --json, through stdin. A stopped job has saved.

        Args:
            resume: a sentence that says how to go on after a stop.
        Raises: Stopped with that sentence.
        """
        self._job = job
        try:
            with self._interrupts(), self.listening():
                for progress in job:
                    self.progress(progress, what)
        finally:
            self._job = None
            self.end_progress()
        if job.cancelled:
            at = f" after step {job.progress.done} of {job.progress.total}" if job.progress else ""
            raise Stopped(f"Stopped{at}. {resume}")
        return job.result

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """With --json, take the line `cancel` on stdin, or its end, as the wish to stop: no orphan outlives its parent.

        For long commands only. Without --json stdin is left alone.
        """
        if self.json:
            threading.Thread(target=_read_stdin, args=(self.stop,), daemon=True).start()
        yield

    def stop(self) -> None:
        """Stop at the next step. From any thread."""
        self._stop.set()
        if self._job is not None:
            self._job.cancel()

    def ask(self, question: str) -> bool:
        """A yes or no, typed. Raises: SettingError where nobody sits at a terminal to type it."""
        if not _is_terminal(sys.stdin):
            raise SettingError(
                f"{question} Nobody can answer here (stdin is no terminal): add --yes to say so beforehand."
            )
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")

    @contextlib.contextmanager
    def notices(self) -> Iterator[None]:
        """Print `Notice` warnings as notes; keep other packages' warnings from users unless --debug asks for them."""

        def show(message, category, filename, lineno, file=None, line=None):
            if issubclass(category, Notice):
                self.notice(str(message))
            elif self.debug:
                self._stderr(warnings.formatwarning(message, category, filename, lineno, line).rstrip())

        with warnings.catch_warnings():
            warnings.simplefilter("default" if self.debug else "ignore")
            warnings.simplefilter("always", Notice)
            warnings.showwarning = show
            yield

    @contextlib.contextmanager
    def _interrupts(self) -> Iterator[None]:
        """A first Ctrl-C ends the job between two steps, where its save is exact; a second one at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_interrupt(signum, frame):
            if self._stop.is_set():
                raise KeyboardInterrupt
            self.stop()
            self._stderr("Stopping after this step; Ctrl-C again stops at once, without saving.")

        before = signal.signal(signal.SIGINT, on_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _due(self, progress: Progress, what: str, every: float) -> bool:
        now = time.monotonic()
        shown, of = self._last
        if now - shown < every and of == what and progress.done != progress.total:
            return False
        self._last = (now, what)
        return True

    def _show_bar(self, progress: Progress, what: str) -> None:
        if self._bar is None:
            import rich.console
            from rich.progress import BarColumn, TaskProgressColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[left]}"),
            )
            self._bar = Bar(*columns, console=rich.console.Console(file=sys.stderr), transient=True)
            self._bar.add_task(what, left="")
            self._bar.start()
        task = self._bar.tasks[0]
        self._bar.update(
            task.id,
            description=what,
            total=progress.total or None,
            completed=progress.done,
            left=(_left(progress) + _scores(progress)).strip(", "),
        )

    def _json_line(self, data: Mapping[str, Any]) -> None:
        with self._lock:  # a notice may come from another thread; ASCII, so that no console's encoding matters
            print(json.dumps(_plain(data), allow_nan=False), flush=True)

    def _stderr(self, text: str) -> None:
        with self._lock:
            self.end_progress()
            print(text, file=sys.stderr, flush=True)


_console = Console()


def start(words: Sequence[str]) -> Console:
    """The console of a command line that begins."""
    global _console
    _console = Console(words)
    return _console


def current() -> Console:
    """The console of the command that runs."""
    return _console


def explain(console: Console, problem: BaseException) -> int:
    """Say a problem in one text and give its exit code."""
    if console.debug:
        traceback.print_exception(problem)
    if isinstance(problem, KeyboardInterrupt):
        again = "Stopped. Nothing half-written is left; type the same command to start again."
        return console.error("Stopped", str(problem) or again, STOPPED)
    if isinstance(problem, DiffRenderError):
        theirs = isinstance(problem, InputError | OutputError)  # a full or unwritable folder is mended by the user too
        return console.error(type(problem).__name__, str(problem), BAD_INPUT if theirs else FAILED)
    if isinstance(problem, OSError) and problem.errno in NO_ROOM:  # files of ours say so themselves, as OutputError
        drop_stdout()
        text = f"What this command prints cannot be written ({problem.strerror}). Make room, or print elsewhere."
        print(f"Error: {text}", file=sys.stderr)
        return BAD_INPUT
    if isinstance(problem, ModuleNotFoundError) and not (problem.name or "").startswith("diffrender"):
        text = f"The package {problem.name} is not installed, and it is needed. `diffrender doctor` says what to type."
        return console.error("BackendError", text, FAILED)
    if isinstance(problem, MemoryError) or any(words in str(problem) for words in OUT_OF_MEMORY):
        text = "The memory is full. Close other programs, or use a smaller --size or a smaller volume."
        return console.error("MemoryError", text, FAILED)
    last = traceback.format_exception_only(problem)[-1].strip().partition("\n")[0]
    text = (
        f"{last}{_place(problem)}. This is a fault in DiffRender, not in what you typed: please report it, with what "
        "the same command prints with --debug added."
    )
    return console.error(type(problem).__name__, text, FAILED)


def drop_stdout() -> None:
    """What is left in the buffer goes nowhere, quietly: nobody can take it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())  # pyright: ignore[reportOptionalMemberAccess]


def _place(problem: BaseException) -> str:
    ours = [
        frame for frame in traceback.extract_tb(problem.__traceback__) if "diffrender" in Path(frame.filename).parts
    ]
    return f" ({Path(ours[-1].filename).name}, line {ours[-1].lineno})" if ours else ""


def _read_stdin(stop: Callable[[], None]) -> None:
    # os.read, not sys.stdin: a daemon thread that holds the lock of a buffered stdin aborts the interpreter at its end.
    text = b""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or none at all (pythonw): its end
        number = sys.stdin.fileno()
        while chunk := _read_when_there(number):
            *lines, text = (text + chunk).split(b"\n")
            if any(line.strip() == b"cancel" for line in lines):
                break
    stop()


def _read_when_there(number: int) -> bytes:
    """What comes next, or nothing at the end. On Windows a read that waits on a pipe holds up every import of numpy
    meanwhile (numpy issue 24290): there, look until something has come, then read."""
    if sys.platform == "win32":
        import _winapi
        import msvcrt

        with contextlib.suppress(OSError):  # no pipe, or its other end has gone: the read tells which
            while not _winapi.PeekNamedPipe(msvcrt.get_osfhandle(number), 0)[0]:
                time.sleep(0.1)
    return os.read(number, 4096)


def _is_terminal(stream: Any) -> bool:
    return stream is not None and stream.isatty()


def _far(progress: Progress) -> str:
    """ "3 of 10"; the share alone of numbers that say nothing to a person, such as bytes."""
    if progress.total <= 0:
        return f"{progress.done}"
    share = f"{100 * progress.done // progress.total} %"
    return share if progress.total > 100_000 else f"{progress.done} of {progress.total} ({share})"


def _left(progress: Progress) -> str:
    """ ", about 40 s left", or nothing where that is not known."""
    seconds = progress.seconds_left
    if seconds is None or progress.done >= progress.total:
        return ""
    if seconds < 90:
        return f", about {max(1, round(seconds))} s left"
    return f", about {round(seconds / 60)} min left" if seconds < 5400 else f", about {seconds / 3600:.1f} h left"


def _scores(progress: Progress) -> str:
    """ ", psnr 31.2, ssim 0.912", or nothing where nothing is scored."""
    return "".join(f", {name} {value:.4g}" for name, value in (progress.scores or {}).items())


def _progress_line(progress: Progress, what: str) -> dict[str, Any]:
    return {
        "type": "progress",
        "done": progress.done,
        "total": progress.total,
        "loss": progress.loss,
        "seconds_left": progress.seconds_left,
        "scores": progress.scores,
        "preview": progress.preview if isinstance(progress.preview, Path) else None,
        "what": what,
    }


def _plain(value: Any) -> Any:
    """`value` as JSON knows it: paths as text, NaN and infinity as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
