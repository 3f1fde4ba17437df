"""What a worker writes, read by threads, so that neither side ever waits for the other."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

_LOG_BYTES = 200_000
_MOST_EVENTS = 10_000
_LONGEST_LINE = 1 << 20
_REAP_SECONDS = 1.0


@dataclass(frozen=True)
class ChildEvent:
    """A step of the work, see `HyperPredictRegLib.core.progress.ProgressEvent`."""

    stage: str
    fraction: float
    message: str
    metric: float | None


class Inbox:
    """What the reader threads of a child fill; it does not know the child, so that a forgotten child can be ended.

    Attributes
    ----------
    worker_pid : of the process that works, where a launcher started it; None until it tells.
    final, final_time : the worker's last word, and when it came, on the monotonic clock.
    silent : whether its output has come to its end: no process writes to it any more.
    """

    def __init__(self) -> None:
        self.worker_pid: int | None = None
        self.final: dict[str, Any] | None = None
        self.final_time = 0.0
        self.silent = False
        self._events: deque[ChildEvent] = deque(maxlen=_MOST_EVENTS)
        self._log = bytearray()
        self._lock = threading.Lock()
        self._news = threading.Event()

    @property
    def log(self) -> str:
        """The last of what was written beside the protocol."""
        with self._lock:
            return bytes(self._log).decode("utf-8", errors="replace")

    def taken(self) -> list[ChildEvent]:
        """Return the events that have come, and forget them."""
        taken = []
        with suppress(IndexError):
            while True:
                taken.append(self._events.popleft())
        return taken

    def wait_for_news(self, seconds: float) -> None:
        """Wait until something came, or so long."""
        self._news.wait(seconds)
        self._news.clear()

    def listen_to(self, process: subprocess.Popen[bytes]) -> list[threading.Thread]:
        """Start the threads that read what a process writes."""
        threads = [
            threading.Thread(target=self._hear_protocol, args=(process,), daemon=True),
            threading.Thread(target=self._hear_log, args=(process.stderr,), daemon=True),
        ]
        for thread in threads:
            thread.start()
        return threads

    def _hear_protocol(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdout is None:
            return
        with process.stdout as stream, suppress(OSError, ValueError):
            while line := stream.readline(_LONGEST_LINE):
                self._take(line)
                self._news.set()
        self.silent = True
        # Whoever waits first also keeps the dead process from staying in the system's list.
        with suppress(subprocess.TimeoutExpired):
            process.wait(_REAP_SECONDS)
        self._news.set()

    def _hear_log(self, stream: IO[bytes]) -> None:
        with stream, suppress(OSError, ValueError):
            while block := stream.read1(1 << 16):  # type: ignore[attr-defined]
                self._keep(block)

    def _keep(self, block: bytes) -> None:
        with self._lock:
            self._log += block
            del self._log[:-_LOG_BYTES]

    def _take(self, line: bytes) -> None:
        try:
            sentence = json.loads(line)
            kind = sentence["event"]
            if kind == "progress":
                metric = sentence.get("metric")
                self._events.append(
                    ChildEvent(
                        str(sentence["stage"]),
                        float(sentence["fraction"]),
                        str(sentence.get("message", "")),
                        None if metric is None else float(metric),
                    )
                )
            elif kind == "started":
                self.worker_pid = int(sentence["pid"])
            elif kind in ("done", "failed", "cancelled"):
                self.final_time = time.monotonic()
                self.final = sentence
            else:
                self._keep(line)
        except (ValueError, KeyError, TypeError, RecursionError):
            self._keep(line)
