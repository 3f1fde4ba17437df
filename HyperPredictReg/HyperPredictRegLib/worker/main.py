"""Long work in a process of its own: a job in, progress lines out, results in the job's folder.

``python -m HyperPredictRegLib.worker.main TASK PATH [--workplace FOLDER]``, started and understood by `worker.Child`.

- "register": PATH is a job.json; leaves what `results.exchange.read_outcome` reads in the job's output folder.
- "predict": PATH is a job.json; leaves prediction.json there: all that a later job needs which names it, or its text elsewhere.
- "preview": PATH is a job.json; answers settings, one after the other, until it is asked to stop: see `worker.preview_files`.
- "page": PATH is a finished output folder; adds the report page and its pictures to it.

Standard output carries one JSON object a line and nothing else: "started" with the process's id, "progress", and last "done",
"failed" or "cancelled". The exit code is 0, 1 (no valid result), 2 (an input or option cannot be used) or 130 (cancelled). A
line on standard input asks to stop; its end means that whoever started the work is gone, and then the work place goes, too.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from HyperPredictRegLib.core.errors import Cancelled, HyperPredictRegError, InputError
from HyperPredictRegLib.core.files import read_text, sentence_of
from HyperPredictRegLib.core.progress import CancelCheck, Progress, ProgressEvent, stop_if
from HyperPredictRegLib.core.staging import abandon_all
from HyperPredictRegLib.worker import remove_workplace
from HyperPredictRegLib.worker.preview_files import Answered, Asked, add_image, answer, read_asked

if TYPE_CHECKING:
    from HyperPredictRegLib.results.job import Job
    from HyperPredictRegLib.workflow import Previewer

# Everything else is imported inside the tasks, so that the first line is out at once.

_PATIENCE_SECONDS = 0.5
_LEAST_SECONDS_BETWEEN = 0.05
_SECONDS_BETWEEN_LOOKS = 0.02
_NO_MEMORY = (
    "There was not enough memory: choose a coarser preset, crop or resample the images, or close other programs."
)
_MEMORY_WORDS = ("bad_alloc", "bad allocation", "failed to allocate memory", "can't allocate memory")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Do one task and end the process with its exit code."""
    given = _arguments(arguments)
    wire, source = _taken_streams()
    wire.send("started", pid=os.getpid())
    faulthandler.enable()
    if hasattr(os, "nice"):
        # The window of the program that waits for this stays quick.
        os.nice(5)
    leaving = _Leaving(given.workplace)
    _stop_on_signals(leaving)
    threading.Thread(target=leaving.when_told, args=(source,), daemon=True).start()
    code = _code_of(given.task, given.path, wire, leaving.expected.is_set)
    leaving.leave(code)


class Wire:
    """The way to whoever listens: events as lines, progress thinned to about twenty a second.

    The first and the last event of a stage always go through, and none waits longer than the pause between two.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._lock = threading.RLock()
        self._stage: str | None = None
        self._waiting: ProgressEvent | None = None
        self._sent = -math.inf
        self._something_waits = threading.Event()
        threading.Thread(target=self._send_late, daemon=True).start()

    def send(self, event: str, **fields: Any) -> None:
        """Send an event, after any progress that was held back."""
        with self._lock:
            if self._waiting is not None:
                self._send_progress(self._waiting)
            self._line({"event": event, **fields})

    def progress(self, event: ProgressEvent) -> None:
        """Send progress, at once or a moment later; what is overtaken meanwhile is dropped."""
        with self._lock:
            if event.stage != self._stage and self._waiting is not None:
                self._send_progress(self._waiting)
            if event.stage != self._stage or time.monotonic() - self._sent >= _LEAST_SECONDS_BETWEEN:
                self._send_progress(event)
            else:
                self._waiting = event
                self._something_waits.set()

    def _send_late(self) -> None:
        while self._something_waits.wait():
            time.sleep(_LEAST_SECONDS_BETWEEN)
            with self._lock:
                self._something_waits.clear()
                if self._waiting is not None:
                    self._send_progress(self._waiting)

    def _send_progress(self, event: ProgressEvent) -> None:
        self._waiting, self._stage, self._sent = None, event.stage, time.monotonic()
        metric = None if event.metric is None or not math.isfinite(event.metric) else float(event.metric)
        self._line(
            {
                "event": "progress",
                "stage": event.stage,
                "fraction": float(event.fraction),
                "message": event.message,
                "metric": metric,
            }
        )

    def _line(self, event: dict[str, Any]) -> None:
        # Nobody may be listening any more; the end of the input tells so, too.
        with suppress(OSError):
            self._stream.write(json.dumps(event) + "\n")
            self._stream.flush()


class _Leaving:
    """The end of this process, of whichever thread comes to it first."""

    def __init__(self, workplace: Path | None) -> None:
        self.expected = threading.Event()
        self._workplace = workplace
        self._orphaned = False
        self._once = threading.Lock()

    def when_told(self, source: int) -> None:
        """Wait until asked to stop, or left alone; give the work a moment to stop by itself, then end it."""
        try:
            asked = os.read(source, 1)
        except OSError:
            asked = b""
        self._orphaned = not asked
        self.expected.set()
        self.soon()

    def soon(self) -> None:
        """Give the work a moment to stop by itself, then end it."""
        time.sleep(_PATIENCE_SECONDS)
        self.leave(130, in_the_middle=True)

    def leave(self, code: int, in_the_middle: bool = False) -> NoReturn:
        """End the process. What was being written when it was cut short goes, and a work place that nobody will look into."""
        # Never released: the other thread stays here until the process is gone.
        self._once.acquire()
        try:
            if in_the_middle:
                abandon_all()
            if self._orphaned and self._workplace is not None:
                remove_workplace(self._workplace)
            with suppress(OSError, ValueError):
                sys.stderr.flush()
        finally:
            # Not sys.exit: libraries that were interrupted may hang or crash in their own clean-up.
            os._exit(code)


def _stop_on_signals(leaving: _Leaving) -> None:
    """Let a signal ask to stop as the protocol does, so that whoever sends one leaves nothing behind either."""

    def stop(number: int, frame: Any) -> None:
        leaving.expected.set()
        threading.Thread(target=leaving.soon, daemon=True).start()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    name = "python -m HyperPredictRegLib.worker.main"
    parser = argparse.ArgumentParser(prog=name, description="Do one task for another process.")
    parser.add_argument("task", choices=sorted(_TASKS))
    parser.add_argument("path", type=Path, help="a job.json, or for 'page' a finished output folder")
    parser.add_argument("--workplace", type=Path, help="folder to remove if whoever started this is gone")
    return parser.parse_args(arguments)


def _taken_streams() -> tuple[Wire, int]:
    """Keep the true input and output for the protocol; whatever else prints, prints to the log."""
    stream = os.fdopen(os.dup(1), "w", encoding="ascii", newline="\n")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    # On Windows a library that looks at standard input while a thread waits for it would wait, too: NumPy's is one.
    source = os.dup(0)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    return Wire(stream), source


def _code_of(task: str, path: Path, wire: Wire, cancelled: CancelCheck) -> int:
    try:
        folder = _TASKS[task](path, wire.progress, cancelled)
    except (Cancelled, KeyboardInterrupt):
        wire.send("cancelled")
        return 130
    except BaseException as error:  # whatever it is, whoever waits is told
        bad_input = isinstance(error, InputError) or (isinstance(error, OSError) and sentence_of(error) is not None)
        # The sentence of bad input says all; where it was noticed helps nobody.
        detail = "" if bad_input else traceback.format_exc()
        wire.send("failed", bad_input=bad_input, sentence=_sentence(error), detail=detail)
        return 2 if bad_input else 1
    wire.send("done", folder=str(folder))
    return 0


def _sentence(error: BaseException) -> str:
    if isinstance(error, HyperPredictRegError):
        return str(error)
    if isinstance(error, OSError) and (sentence := sentence_of(error)) is not None:
        return sentence
    if isinstance(error, MemoryError) or any(word in str(error).lower() for word in _MEMORY_WORDS):
        return _NO_MEMORY
    if isinstance(error, ImportError) and error.name and not error.name.startswith("HyperPredictRegLib"):
        return f"The Python package '{error.name.partition('.')[0]}' is needed but could not be loaded: install it and try again."
    # ITK's messages have many lines; the last one says what happened.
    reason = (str(error).strip().splitlines() or [""])[-1].strip()
    what = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    return f"Something unexpected went wrong ({what}), and nothing was written. Please report it with the log."


def _register(path: Path, progress: Progress, cancelled: CancelCheck) -> Path:
    job = _read_job(path)
    from HyperPredictRegLib import workflow
    from HyperPredictRegLib.results.exchange import write_rest
    from HyperPredictRegLib.workflow.reusing import OtherInputsError

    try:
        workflow.run(job, writers=[write_rest], progress=progress, cancelled=cancelled)
    except OtherInputsError:
        # In a scene voxels may have been edited since: nothing was done yet, and what is there now is predicted anew.
        progress(ProgressEvent("predict", 0.0, "the prediction was of other images: predicting anew"))
        again = replace(job, prediction=None, trials=job.predictor != "none")
        workflow.run(again, writers=[write_rest], progress=progress, cancelled=cancelled)
    return Path(job.out)


def _predict(path: Path, progress: Progress, cancelled: CancelCheck) -> Path:
    job = _read_job(path)
    from HyperPredictRegLib import workflow
    from HyperPredictRegLib.results.exchange import save_prediction

    workflow.predict(job, writers=[save_prediction], progress=progress, cancelled=cancelled)
    return Path(job.out)


def _preview(path: Path, progress: Progress, cancelled: CancelCheck) -> Path:
    job = _read_job(path)
    from HyperPredictRegLib.workflow import Previewer
    from HyperPredictRegLib.workflow.reusing import OtherInputsError

    try:
        previewer = Previewer.of(job, progress=progress, cancelled=cancelled)
    except OtherInputsError:
        # In a scene voxels may have been edited since: what is there now is aligned anew.
        previewer = Previewer.of(replace(job, prediction=None), progress=progress, cancelled=cancelled)
    progress(ProgressEvent("preview", 1.0, "ready"))
    done = 0
    while True:
        stop_if(cancelled)
        asked = read_asked(path.parent)
        if asked is None or asked.number == done:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            continue
        done = asked.number
        found = _looked_at(previewer, asked, path.parent, cancelled)
        with suppress(OSError):
            # The next one may find room again, or a file that nobody holds.
            answer(path.parent, found)


def _looked_at(previewer: Previewer, asked: Asked, folder: Path, cancelled: CancelCheck) -> Answered:
    import SimpleITK as sitk

    try:
        look = previewer.at(asked.setting, cancelled=cancelled)
    except HyperPredictRegError as error:
        if isinstance(error, Cancelled):
            raise
        # Another setting may do.
        return Answered(asked.number, asked.setting, sentence=str(error))
    try:
        image = add_image(folder, asked.number, lambda path: sitk.WriteImage(look.image, str(path)))
    except (OSError, RuntimeError):
        # RuntimeError is SimpleITK's way to say the same.
        return Answered(asked.number, look.setting, sentence="The preview could not be written: is there room on the disk?")
    return Answered(asked.number, look.setting, image, " ".join(look.warnings), look.spacing_mm, look.seconds)


def _page(path: Path, progress: Progress, cancelled: CancelCheck) -> Path:
    progress(ProgressEvent("page", 0.0, "drawing the report"))
    from HyperPredictRegLib.reporting import write_report
    from HyperPredictRegLib.results.exchange import read_outcome
    from HyperPredictRegLib.results.results_folder import prepared_folder, publish

    outcome = read_outcome(path)
    with prepared_folder(path, overwrite=True, names=()) as staging:
        written = write_report(outcome, staging)
        _add_outputs(path, staging, written)
        stop_if(cancelled)
        publish(staging, path, overwrite=True, earlier=())
    progress(ProgressEvent("page", 1.0, "done"))
    return path


def _add_outputs(folder: Path, staging: Path, written: dict[str, str]) -> None:
    """Write the report of `folder` once more, with files that came later."""
    from HyperPredictRegLib.results.results_folder import REPORT_NAME

    report = json.loads(read_text(folder / REPORT_NAME, "report"))
    report["outputs"] |= written
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    (staging / REPORT_NAME).write_text(text, encoding="utf-8")


def _read_job(path: Path) -> Job:
    from HyperPredictRegLib.core.json_records import from_json
    from HyperPredictRegLib.results.job import Job

    text = read_text(path, "job")
    return from_json(Job, text, f"The job '{path}'")


_TASKS: dict[str, Callable[[Path, Progress, CancelCheck], Path]] = {
    "register": _register,
    "predict": _predict,
    "preview": _preview,
    "page": _page,
}

if __name__ == "__main__":
    main()
