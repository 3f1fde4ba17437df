"""Progress on the terminal, and a way to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

from HyperPredictRegLib.errors import Cancelled

if TYPE_CHECKING:
    from HyperPredictRegLib.progress import CancelCheck, Progress

_PATIENCE_SECONDS = 1.2
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_CANCELLED = "The work was cancelled; nothing was written."
_SHOW_CURSOR = "\r\x1b[K\x1b[?25h"


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
        while said := os.read(source, 1):
            if said[0] not in _SIGNALS:
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
    from HyperPredictRegLib.staging import abandon_all

    # Where results are complete already, there is nothing left to wait for.
    if not abandon_all():
        return
    with contextlib.suppress(OSError):
        os.write(2, f"{_SHOW_CURSOR if sys.stderr.isatty() else ''}{_CANCELLED}\n".encode())
    os._exit(130)
