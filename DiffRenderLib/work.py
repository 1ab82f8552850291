"""What a panel shows of its computation: what is done, how far, how long still, Cancel, and the details on demand."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from DiffRenderLib.worker import DONE, FAILED, Outcome, Worker

UI = Path(__file__).parent / "Resources" / "UI" / "DiffRenderLibWork.ui"


class Work:
    """The place of a panel where its one computation at a time is seen and stopped."""

    def __init__(self, layout: Any, on_change: Callable[[], None]):
        """
        Args:
            layout: of the panel; this is added at its end.
            on_change: called when a computation starts or ends, to switch what must not be used meanwhile.
        """
        self._on_change = on_change
        self._worker: Worker | None = None
        self.widget = slicer.util.loadUI(str(UI))
        self.ui = slicer.util.childWidgetVariables(self.widget)
        self.ui.cancelButton.clicked.connect(self.cancel)
        self.ui.detailsText.maximumBlockCount = 1000  # lines; the process may print without end
        layout.addWidget(self.widget)
        self.ui.detailsButton.visible = False
        self._show("", running=False)

    @property
    def running(self) -> bool:
        return self._worker is not None and self._worker.running

    def start(self, words: Sequence[str], title: str, on_done: Callable[[dict[str, Any]], str]) -> None:
        """Run a command of the library.

        Args:
            title: what it does, in the words of the panel: "Rendering 16 views".
            on_done: gets the result's fields, puts them into the scene, and returns the sentence that says so.
        """

        def end(outcome: Outcome) -> None:
            self._show("", running=False)  # first: a fault in `on_done` must not leave a panel that seems to work
            self._on_change()
            self._show(on_done(outcome.result) if outcome.state == DONE else outcome.message, running=False)
            if outcome.state == FAILED:
                self.ui.detailsButton.collapsed = False

        self.ui.detailsText.plainText = ""
        self._title = title
        self._worker = Worker(words, end, self._take, self.tell)
        self._show(title, running=True)
        self._on_change()

    def cancel(self, *ignored) -> None:
        if self._worker is not None and self._worker.running:
            self.ui.cancelButton.enabled = False
            self.ui.workLabel.text = _("Stopping ...")
            self._worker.cancel()

    def tell(self, text: str) -> None:
        """A line for the details."""
        self.ui.detailsText.appendPlainText(text)
        self.ui.detailsButton.visible = True

    def show_details(self) -> None:
        """Open the details at their beginning."""
        self.ui.detailsButton.collapsed = False
        self.ui.detailsText.moveCursor(qt.QTextCursor.Start)

    def close(self) -> None:
        """End what runs, now; within some 2 s."""
        if self._worker is not None:
            self._worker.close()

    def _take(self, line: dict[str, Any]) -> None:
        if line["type"] != "progress":
            self.tell(str(line.get("message", "")))
            return
        total = line.get("total") or 0
        self.ui.progressBar.maximum = 1000 if total else 0  # 0: busy, no share known
        self.ui.progressBar.value = int(1000 * line.get("done", 0) / total) if total else 0
        if self.ui.cancelButton.enabled:
            self.ui.workLabel.text = self._title + self._left(line.get("seconds_left"))

    @staticmethod
    def _left(seconds: float | None) -> str:
        if seconds is None:
            return " ..."
        if seconds < 90:
            return _(": about {n} s left").format(n=max(1, round(seconds)))
        return _(": about {n} min left").format(n=round(seconds / 60))

    def _show(self, text: str, running: bool) -> None:
        self.ui.workLabel.text = text
        self.ui.workLabel.visible = bool(text)
        self.ui.progressBar.visible = self.ui.cancelButton.visible = running
        self.ui.cancelButton.enabled = running
        self.ui.progressBar.maximum = 0  # busy, until a share is known
