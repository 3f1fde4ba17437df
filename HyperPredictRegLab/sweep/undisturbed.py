"""Loaded by the worker processes of a sweep, by name: Ctrl+C in a terminal reaches them too, but is the sweep's business."""

from __future__ import annotations

import signal
from typing import Any


def dask_setup(worker: Any) -> None:
    """Ignore interrupts: a worker that ended by one would have its pair written down as failed. The sweep ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
