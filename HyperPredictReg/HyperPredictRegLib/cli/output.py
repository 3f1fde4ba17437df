"""What the command prints: progress, with a way to stop, results and predictions."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import typer

from HyperPredictRegLib.core.errors import Cancelled
from HyperPredictRegLib.core.files import printable

if TYPE_CHECKING:
    from HyperPredictRegLib.core.progress import CancelCheck, Progress
    from HyperPredictRegLib.results.prediction import BandValue, Predicted, Prediction
    from HyperPredictRegLib.results.report import Measured, Report

_PATIENCE_SECONDS = 1.2
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_CANCELLED = "The work was cancelled; nothing was written."
_SHOW_CURSOR = "\r\x1b[K\x1b[?25h"


def show_report(report: Report) -> None:
    """Print whether deforming helped, the first line of the report, the setting, what was measured, warnings and files."""
    from HyperPredictRegLib.reporting import wording

    voxel_mm = wording.voxel_mm(report)
    if report.benefit is not None:
        _say(wording.benefit_line(report))
        # Good news needs no reasons; the page has them.
        for reason in wording.benefit_reasons(report) if report.benefit.level != "helped" else ():
            _say(f"  {reason}")
    _say(wording.first_line(report))
    _say(f"{wording.who_chose(report)} {report.choice.sentence}")
    if report.reliability is not None:
        _say(wording.reliability_words(report.reliability, report.predictor))
    if len(report.trials) > 1:
        for row in wording.trial_rows(report):
            folding = f"{row.foreground} of the foreground, {row.grid} of the grid"
            _say(f"  {row.number}. {row.setting:<12} folding {folding} ({row.outcome}), {row.seconds} s")
    for note in report.engine_notes:
        _say(note)
    show_measured(report.measured, voxel_mm, wording.landmark_title(report))
    for sentence in wording.landmark_words(report):
        _say(sentence)
    if report.alignment.stability is not None:
        spread = report.alignment.stability
        apart = wording.distance(spread.mean_spread_mm, voxel_mm=voxel_mm)
        _say(f"Affine stability     {len(spread.seeds)} seeds lie {apart} from their mean")
    for warning in report.warnings:
        _say(f"Warning: {warning}")
    _say(f"Took {sum(report.seconds.values()):.0f} s. Results in {report.job.out}:")
    for role, name in {"report": "report.json", **report.outputs}.items():
        _say(f"  {role:<22} {name}")


def show_measured(measured: Measured, voxel_mm: float, landmarks: str = "Landmark error") -> None:
    """Print the quality of a registration, measured on a grid whose smallest spacing is `voxel_mm`.

    `landmarks` is what the distances at the landmarks are called.
    """
    from HyperPredictRegLib.core.formatting import distance, number, spread
    from HyperPredictRegLib.results.formatting import percent

    folding = measured.folding_percent
    _say(f"Folding              {percent(folding.foreground)} of the foreground, {percent(folding.grid)} of the grid")
    _say(f"SD of log-Jacobian   {spread(measured.sd_log_jacobian)}")
    inverse = measured.inverse_consistency_mm
    mean, p95 = (distance(value, voxel_mm=voxel_mm) for value in (inverse.mean, inverse.p95))
    _say(f"Inverse consistency  mean {mean}, 95 % below {p95}")
    _say(f"Mutual information   {number(measured.similarity_before, 3)} -> {number(measured.similarity_after, 3)}")
    for one in measured.channels:
        similarity = f"{number(one.similarity_before, 3)} -> {number(one.similarity_after, 3)}"
        _say(f"  of channel {one.number:<2}      {similarity} (weight {number(one.weight)})")
    if measured.dice is not None and measured.dice.absent:
        _say(f"Left out of Dice     {', '.join(measured.dice.absent)} (in one label map only)")
    if measured.dice is not None:
        dice, count = measured.dice, len(measured.dice.structures)
        _say(f"Mean Dice            {number(dice.mean_before, 3)} -> {number(dice.mean, 3)} ({count} structures)")
    if measured.tre_mm is not None and measured.tre_before_mm is not None:
        before, after = (distance(one.mean, voxel_mm=voxel_mm) for one in (measured.tre_before_mm, measured.tre_mm))
        _say(f"{landmarks:<20} {before} -> {after} (mean)")


def show_prediction(prediction: Prediction, asked: Sequence[Predicted], files: Sequence[str]) -> None:
    """Print what is suggested and why, what is predicted there and at the settings asked for, the files, and the next step."""
    from HyperPredictRegLib.reporting import wording
    from HyperPredictRegLib.reporting.outlook import chances, setting_map
    from HyperPredictRegLib.results.formatting import banded

    _say(wording.first_line_of_prediction(prediction))
    if words := chances(prediction.outlook):
        _say(words)
    _say(prediction.choice.sentence)
    _say(wording.reliability_words(prediction.reliability, prediction.predictor))
    if prediction.choice.predicted is not None:
        _show_predicted(prediction.choice.predicted)
        for structure in prediction.choice.predicted.structures:
            _say(f"  Dice of {structure.name:<30} {banded(structure.dice)}")
    for line in () if wording.is_unreliable(prediction) else setting_map(prediction):
        _say(line)
    for predicted in asked:
        _say(f"At {wording.setting(prediction.surface.space, predicted.setting)}:")
        _show_predicted(predicted)
    for warning in prediction.warnings:
        _say(f"Warning: {warning}")
    _say(f"Took {sum(prediction.seconds.values()):.0f} s. Files in {prediction.job.out}:")
    for name in files:
        _say(f"  {name}")
    _say(f"Register with it: hyperpredictreg register --prediction {shlex.quote(prediction.job.out)} --out RESULTS")


def _show_predicted(predicted: Predicted) -> None:
    from HyperPredictRegLib.results.formatting import banded, banded_gain, banded_mm, banded_percent

    rows: tuple[tuple[str, BandValue | None, Callable[[BandValue], str]], ...] = (
        ("mean Dice", predicted.mean_dice, banded),
        ("gain of overlap", predicted.overlap_gain, banded_gain),
        ("error, median", predicted.error_mm, banded_mm),
        ("error, 95 % below", predicted.error_95_mm, banded_mm),
        ("folding, foreground", predicted.folding_foreground, banded_percent),
        ("folding, grid", predicted.folding_grid, banded_percent),
        ("SD of log-Jacobian", predicted.sd_log_jacobian, banded),
    )
    for what, band, text in rows:
        if band is not None:
            _say(f"  predicted {what:<22} {text(band)}")


def _say(line: str) -> None:
    # The report's sentences hold no-break spaces, which some terminals show as a question mark.
    line = printable(line.replace("\u00a0", " ")).rstrip()
    if line:
        typer.echo(line)


@contextlib.contextmanager
def watched(
    quiet: bool, patience: str = "", at_once: str = "", *, abandoned: bool = False
) -> Iterator[tuple[Progress, CancelCheck]]:
    """Show progress bars, and turn the first Ctrl+C, SIGTERM or closed terminal into a request to stop cleanly.

    Parameters
    ----------
    quiet : show no bars.
    patience : what to say at the first request, where stopping takes more than a moment.
    at_once : for work that may end at any moment: the first request raises `Cancelled` with this sentence.
    abandoned : for work whose only traces are those in folders of `staging`: where it does not stop by itself in a moment, for
        example because it is inside of a library that draws, the process ends without it.
    """
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    from HyperPredictRegLib.core.progress import ProgressEvent

    stop = threading.Event()

    def request_stop(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        if at_once:
            raise Cancelled(at_once)
        if patience:
            typer.echo(patience, err=True)

    columns = (TextColumn("{task.description:<10}"), BarColumn(30), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn())
    bars = Bars(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True), disable=quiet)
    tasks: dict[str, Any] = {}

    def show(event: ProgressEvent) -> None:
        if event.stage not in tasks:
            # What has begun something new has ended what went before.
            for earlier in tasks.values():
                bars.update(earlier, completed=1.0, note="")
            tasks[event.stage] = bars.add_task(event.stage, total=1.0, note="")
        note = event.message if event.metric is None else f"{event.message}  metric {event.metric:.4g}"
        bars.update(tasks[event.stage], completed=event.fraction, note=note)

    # Those that are ignored, as by nohup, stay ignored.
    heard = [s for s in _SIGNALS if s == signal.SIGINT or signal.getsignal(s) is not signal.SIG_IGN]
    before = {s: signal.signal(s, request_stop) for s in heard}
    try:
        with _ended_without_it() if abandoned else contextlib.nullcontext(), bars:
            yield show, stop.is_set
            for begun in tasks.values():
                bars.update(begun, completed=1.0, note="")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _ended_without_it() -> Iterator[None]:
    """End the process if the work inside a ``with`` block goes on for long after a signal that asks to stop."""
    over = threading.Event()
    source, sink = os.pipe()
    os.set_blocking(sink, False)

    def wait() -> None:
        # Python's own handlers wait for the main thread, which may be deep inside of a library; this pipe does not.
        while sentence := os.read(source, 1):
            if sentence[0] not in _SIGNALS:
                continue
            if not over.wait(_PATIENCE_SECONDS):
                _abandon()
            return

    before = signal.set_wakeup_fd(sink, warn_on_full_buffer=False)
    watcher = threading.Thread(target=wait, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(before)
        os.close(sink)
        watcher.join()
        os.close(source)


def _abandon() -> None:
    from HyperPredictRegLib.core.staging import abandon_all

    # Where results are complete already, there is nothing left to wait for.
    if not abandon_all():
        return
    with contextlib.suppress(OSError):
        os.write(2, f"{_SHOW_CURSOR if sys.stderr.isatty() else ''}{_CANCELLED}\n".encode())
    os._exit(130)
