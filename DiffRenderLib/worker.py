"""A command of the library in a process of its own, so that nothing it does can freeze Slicer or take it down.

It speaks the protocol of `python -m diffrender ... --json`: JSON lines come on stdout, the line `cancel` goes to stdin,
and so does the end of stdin, should Slicer crash. All callbacks come from Qt's event loop, in the GUI's thread.
"""

import codecs
import json
import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from DiffRenderLib.processes import end_tree

DONE, FAILED, CANCELLED = "done", "failed", "cancelled"
PATIENCE = 2000  # ms from the wish to end until it is killed
LAST_LINES = 200  # of the log, kept
EXIT_CANCELLED = 130  # of the command line, when it was asked to stop


@dataclass(frozen=True)
class Outcome:
    """How it ended: `done` with the fields of its result, `cancelled`, or `failed`; then `message` says why."""

    state: str
    message: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    log: tuple[str, ...] = ()  # the last lines of stderr, and of stdout what is no JSON


class Worker:
    """One running command. Keep a reference to it; `close()` it when its panel goes."""

    def __init__(
        self,
        words: Sequence[str],
        on_end: Callable[[Outcome], None],
        on_line: Callable[[dict[str, Any]], None] = lambda line: None,
        on_log: Callable[[str], None] = lambda text: None,
    ):
        """
        Args:
            words: of the command line, without `--json`: ["fit", "simulate", "parametric", "-o", folder].
            on_end: called once, whatever happens, but not after `close()`.
            on_line: gets each line of type progress or notice; console.py of the library lists their keys.
            on_log: gets what else the process prints.
        """
        self._on_end, self._on_line, self._on_log = on_end, on_line, on_log
        self._last: dict[str, Any] = {}  # the line that ends it, of type result or error
        self._log: deque[str] = deque(maxlen=LAST_LINES)
        self._asked = False  # to stop
        self._started = self._ended = False
        self._lines, self._errors = _Lines(), _Lines()
        self._killer = qt.QTimer()
        self._killer.interval = PATIENCE
        self._killer.timeout.connect(self._kill)
        self._process = qt.QProcess()
        self._process.setProcessEnvironment(_environment())
        self._process.setWorkingDirectory(str(home()))  # `python -m` looks there first
        self._process.started.connect(self._begin)
        self._process.readyReadStandardOutput.connect(self._read)
        self._process.readyReadStandardError.connect(self._read)
        self._process.finished.connect(self._finished)
        self._process.errorOccurred.connect(self._trouble)
        self._process.start(python(), ["-m", "diffrender", *words, "--json"])

    @property
    def running(self) -> bool:
        return not self._ended

    @property
    def pid(self) -> int:
        return int(self._process.processId())

    def cancel(self) -> None:
        """Ask it to save and stop; 2 s later it is killed with all it has started."""
        if self.running and not self._asked:
            self._asked = True
            self._process.write(b"cancel\n")
            self._killer.start()

    def close(self) -> None:
        """End it before returning, within some 2 s, and call nobody: the module is reloaded, or Slicer closes."""
        if self._ended:
            return
        self._ended = True
        self._killer.stop()
        self._process.write(b"cancel\n")
        self._process.closeWriteChannel()
        if not self._process.waitForFinished(PATIENCE):
            self._kill()
            self._process.waitForFinished(PATIENCE)

    def _begin(self, *ignored) -> None:
        self._started = True

    def _kill(self, *ignored) -> None:
        self._killer.stop()
        if self._process.state() != qt.QProcess.NotRunning:
            end_tree(self.pid)

    def _read(self, *ignored) -> None:
        for line in self._lines.take(self._process.readAllStandardOutput()):
            self._take(line)
        for line in self._errors.take(self._process.readAllStandardError()):
            self._note(line)

    def _take(self, line: str) -> None:
        try:
            data = json.loads(line)
            kind = data["type"]
        except (ValueError, TypeError, KeyError):  # some package prints what it likes
            self._note(line)
            return
        if kind in ("result", "error"):
            self._last = data
        elif not self._ended:
            self._on_line(data)

    def _note(self, line: str) -> None:
        self._log.append(line)
        if not self._ended:
            self._on_log(line)

    def _trouble(self, *ignored) -> None:
        if not self._started:  # what has started ends in `_finished`, a crash too
            self._end(Outcome(FAILED, _("{program} could not be started.").format(program=python())))

    def _finished(self, *ignored) -> None:
        self._read()
        for line in self._lines.rest():
            self._take(line)
        for line in self._errors.rest():
            self._note(line)
        self._end(self._outcome())

    def _outcome(self) -> Outcome:
        log = tuple(self._log)
        crashed = self._process.exitStatus() == qt.QProcess.CrashExit
        code = self._process.exitCode()
        if self._last.get("type") == "result" and code == 0 and not crashed:
            return Outcome(DONE, result=self._last, log=log)
        if self._asked or (code == EXIT_CANCELLED and not crashed):
            return Outcome(CANCELLED, self._last.get("message", _("Stopped. What was saved before is kept.")), log=log)
        if self._last.get("type") == "error":
            return Outcome(FAILED, self._last["message"], log=log)
        how = _("it crashed") if crashed else _("exit code {code}").format(code=code)
        message = _(
            "The computation ended unexpectedly ({how}). Slicer is not affected; what it said last is in Details."
        )
        return Outcome(FAILED, message.format(how=how), log=log)

    def _end(self, outcome: Outcome) -> None:
        self._killer.stop()
        if not self._ended:
            self._ended = True
            self._on_end(outcome)


class _Lines:
    """Bytes that come in pieces, cut anywhere, as whole lines."""

    def __init__(self):
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._begun = ""

    def take(self, chunk: Any) -> list[str]:
        *lines, self._begun = (self._begun + self._decoder.decode(bytes(chunk.data()))).split("\n")
        return [line.rstrip("\r") for line in lines if line.strip()]

    def rest(self) -> list[str]:
        begun, self._begun = self._begun, ""
        return [begun] if begun.strip() else []


def python() -> str:
    """The Python that the library is installed for: Slicer puts PythonSlicer on its PATH."""
    return shutil.which("PythonSlicer") or sys.executable


def home() -> Path:
    """The folder that holds the library and this package."""
    return Path(__file__).resolve().parents[1]


def _environment() -> Any:
    """This process's, with the library to be imported by whatever the command starts, and UTF-8 on every pipe."""
    environment = qt.QProcessEnvironment.systemEnvironment()
    before = environment.value("PYTHONPATH", "")
    environment.insert("PYTHONPATH", os.pathsep.join([str(home()), *filter(None, [before])]))
    environment.insert("PYTHONUTF8", "1")
    return environment
