"""Progress on the terminal, and a way to stop."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

from HyperPredictRegLib.errors import Cancelled

if TYPE_CHECKING:
    from HyperPredictRegLib.progress import CancelCheck, Progress


@contextlib.contextmanager
def watched(quiet: bool, patience: str = "", at_once: str = "") -> Iterator[tuple[Progress, CancelCheck]]:
    """Show progress bars, and turn the first Ctrl+C or SIGTERM into a request to stop cleanly.

    Parameters
    ----------
    quiet : show no bars.
    patience : what to say at the first request, where stopping takes more than a moment.
    at_once : for work that may end at any moment: the first request raises `Cancelled` with this sentence.
    """
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    from HyperPredictRegLib.progress import ProgressEvent

    stop = threading.Event()

    def request_stop(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        if at_once:
            raise Cancelled(at_once)
        if patience:
            typer.echo(patience, err=True)

    before = {s: signal.signal(s, request_stop) for s in (signal.SIGINT, signal.SIGTERM)}
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

    try:
        with bars:
            yield show, stop.is_set
            for begun in tasks.values():
                bars.update(begun, completed=1.0, note="")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
