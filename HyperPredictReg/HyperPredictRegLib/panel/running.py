"""What the panel shows while a child process works: progress, time left, metric, log; and how long such work takes here."""

import time
from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from HyperPredictRegLib.presentation.choices import measured_rate
from HyperPredictRegLib.presentation.progress import ProgressView, progress_view
from HyperPredictRegLib.results.report import Report
from HyperPredictRegLib.slicerbridge.task import PageTask, Task

Work = Task | PageTask

POLL_MILLISECONDS = 100
_RATE = "HyperPredictReg/SecondsPerMillionVoxels/{engine}"


class Runner:
    """Runs one task at a time in the background and shows how it goes.

    Attributes
    ----------
    task : the one that runs, or None.
    """

    def __init__(self, ui: Any, onStateChanged: Callable[[], None]) -> None:  # noqa: N803 - Slicer's style
        self.ui = ui
        self.task: Work | None = None
        self._onStateChanged = onStateChanged
        self._onDone: Callable[[Any], bool] | None = None
        self._onFailed: Callable[[str], None] | None = None
        self._started = 0.0
        self._stage = ("", "")
        self._shown = ProgressView()
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MILLISECONDS)
        self._timer.connect("timeout()", self._poll)

    @property
    def busy(self) -> bool:
        """Tell whether a task runs."""
        return self.task is not None

    @property
    def kind(self) -> str:
        """Return the kind of task that runs, or ""."""
        return "" if self.task is None else self.task.kind

    def start(self, task: Work, onDone: Callable[[Any], bool], onFailed: Callable[[str], None]) -> None:  # noqa: N803
        """Watch a task that has begun.

        Parameters
        ----------
        onDone : is given the finished task; returns whether it keeps it. If not, the task is closed.
        onFailed : is given a sentence.
        """
        self._onDone, self._onFailed = onDone, onFailed
        self._started, self._stage, self._shown = time.monotonic(), ("", ""), ProgressView()
        self.ui.logTextEdit.setPlainText("")
        self.task = task
        self.say(_("Starting ..."))
        self.ui.progressBar.setValue(0)
        self.ui.progressBar.setVisible(True)
        self._timer.start()
        self._onStateChanged()

    def cancel(self) -> None:
        """End the task for certain; the scene stays as it was."""
        if self.task is None:
            return
        self.task.cancel()
        self._end()
        self.say(_("Cancelled. The scene is as it was before."))

    def forget(self) -> None:
        """Say nothing more of what ran before; what runs goes on."""
        if self.task is None:
            self.ui.stageLabel.setText("")

    def say(self, text: str) -> None:
        """Show a sentence under the bar, and log it."""
        self.ui.stageLabel.setText(text)
        self._log(text)

    def _poll(self) -> None:
        task = self.task
        if task is None:
            return
        ending = task.ending
        # After the ending has been asked for, so that nothing that came before it is missed.
        for event in task.poll():
            self._show(task.kind, event)
        if ending is None:
            return
        onDone, onFailed = self._onDone, self._onFailed  # noqa: N806 - Slicer's style
        self._end()
        if task.log or ending.detail:
            self._log(task.log)
            self._log(ending.detail)
        retained = False
        try:
            if ending.outcome == "done":
                self.say(_("Done after {seconds:.0f} s.").format(seconds=time.monotonic() - self._started))
                retained = onDone is not None and onDone(task)
            elif onFailed is not None:
                self.say(ending.sentence)
                onFailed(ending.sentence)
        except Exception as error:
            self.say(str(error))
            raise
        finally:
            if not retained:
                task.close()

    def _end(self) -> None:
        self._timer.stop()
        # What they refer to may belong to a scene that closes.
        self.task = self._onDone = self._onFailed = None
        self.ui.progressBar.setVisible(False)
        self._onStateChanged()

    def _show(self, kind: str, event: Any) -> None:
        elapsed = time.monotonic() - self._started
        self._shown = progress_view(kind, event.stage, event.fraction, event.message, event.metric, elapsed, self._shown.share)
        self.ui.progressBar.setValue(round(100 * self._shown.share))
        self.ui.stageLabel.setText(self._shown.line)
        if (event.stage, event.message) != self._stage:
            self._stage = (event.stage, event.message)
            self._log(self._shown.log)

    def _log(self, text: str) -> None:
        if text.strip():
            self.ui.logTextEdit.appendPlainText(text.rstrip())


def learn_rate(report: Report) -> None:
    """Remember how long a finished registration took on this computer."""
    rate = measured_rate(report)
    if rate is not None:
        qt.QSettings().setValue(_RATE.format(engine=report.engine.name), f"{rate:.4g}")


def known_rate(engine: str) -> float | None:
    """Return how many seconds an engine takes here for each million voxels; None if it has not run yet."""
    rate: float = slicer.util.settingsValue(_RATE.format(engine=engine), 0.0, converter=float)
    return rate or None
