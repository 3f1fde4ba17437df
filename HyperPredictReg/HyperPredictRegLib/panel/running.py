"""What the panel shows while a child process works: progress, time left, metric, log; and the button that cancels."""

import time
from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from HyperPredictRegLib.child import ChildEvent
from HyperPredictRegLib.slicerbridge.task import PageTask, Task

Work = Task | PageTask

POLL_MILLISECONDS = 100

# Where each stage begins on the bar, as measured on the sample pair; a stage that is repeated begins again.
_BEGINS = {
    "register": {"read": 0.0, "align": 0.05, "stability": 0.4, "predict": 0.4, "register": 0.5, "measure": 0.85, "write": 0.95},
    "predict": {"read": 0.0, "align": 0.05, "predict": 0.7},
    "page": {"page": 0.0},
}


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
        self._fraction = 0.0
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MILLISECONDS)
        self._timer.connect("timeout()", self._poll)

    @property
    def busy(self) -> bool:
        """Tell whether a task runs."""
        return self.task is not None

    def start(self, task: Work, onDone: Callable[[Any], bool], onFailed: Callable[[str], None]) -> None:  # noqa: N803
        """Watch a task that has begun.

        Parameters
        ----------
        onDone : is given the finished task; returns whether it keeps it. If not, the task is closed.
        onFailed : is given a sentence.
        """
        self._onDone, self._onFailed = onDone, onFailed
        self._started, self._stage, self._fraction = time.monotonic(), ("", ""), 0.0
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

    def _poll(self) -> None:
        task = self.task
        if task is None:
            return
        ending = task.ending
        # After the ending has been asked for, so that nothing that came before it is missed.
        for event in task.poll():
            self._show(event)
        if ending is None:
            return
        onDone, onFailed = self._onDone, self._onFailed  # noqa: N806 - Slicer's style
        self._end()
        if task.log or ending.detail:
            self._log(task.log)
            self._log(ending.detail)
        kept = False
        try:
            if ending.outcome == "done":
                self.say(_("Done after {seconds:.0f} s.").format(seconds=time.monotonic() - self._started))
                kept = onDone is not None and onDone(task)
            elif onFailed is not None:
                self.say(ending.sentence)
                onFailed(ending.sentence)
        except Exception as error:
            self.say(str(error))
            raise
        finally:
            if not kept:
                task.close()

    def _end(self) -> None:
        self._timer.stop()
        # What they refer to may belong to a scene that closes.
        self.task = self._onDone = self._onFailed = None
        self.ui.progressBar.setVisible(False)
        self._onStateChanged()

    def _show(self, event: ChildEvent) -> None:
        begins = _BEGINS[self.task.kind if self.task is not None else "register"]
        if event.stage in begins:
            later = [begin for begin in begins.values() if begin > begins[event.stage]]
            until = min(later, default=1.0)
            self._fraction = begins[event.stage] + min(max(event.fraction, 0.0), 1.0) * (until - begins[event.stage])
        self.ui.progressBar.setValue(round(100 * self._fraction))
        words = stage_words(event.stage)
        line = words if not event.message else f"{words}: {event.message}"
        if event.metric is not None:
            line += _(", metric {metric:.4g} (lower is better)").format(metric=event.metric)
        elapsed = time.monotonic() - self._started
        if self._fraction > 0.1:
            left = elapsed * (1.0 - self._fraction) / self._fraction
            line += _(". About {seconds:.0f}\u00a0s left.").format(seconds=left)
        self.ui.stageLabel.setText(line)
        if (event.stage, event.message) != self._stage:
            self._stage = (event.stage, event.message)
            self._log(f"{elapsed:6.1f} s  {words}  {event.message}")

    def say(self, text: str) -> None:
        """Show a sentence under the bar, and log it."""
        self.ui.stageLabel.setText(text)
        self._log(text)

    def _log(self, text: str) -> None:
        if text.strip():
            self.ui.logTextEdit.appendPlainText(text.rstrip())


def stage_words(stage: str) -> str:
    """Return what a stage is called."""
    return {
        "read": _("Reading the volumes"),
        "align": _("Aligning"),
        "stability": _("Checking the alignment"),
        "predict": _("Foreseeing"),
        "register": _("Registering"),
        "measure": _("Measuring"),
        "write": _("Writing"),
        "page": _("Drawing the report"),
    }.get(stage, stage)
