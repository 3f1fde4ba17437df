"""A worker process: started at once, listened to without waiting, ended surely."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from HyperPredictRegLib.core.resources import this_python
from HyperPredictRegLib.worker.inbox import ChildEvent, Inbox
from HyperPredictRegLib.worker.workspace import tidy_results

CANCEL = b"cancel\n"
"""What the worker reads when it should stop; the end of its input tells that nobody wants its result any more."""

_GRACE_SECONDS = 0.3
_LINGER_SECONDS = 1.0
_WORDS = {"register": "registration", "predict": "prediction", "page": "report", "preview": "preview"}

# Paths travel as arguments, never inside the code; no quotation mark has to survive a launcher. The empty entry of sys.path,
# the current folder, might hold a file that takes the place of a library.
_CODE = (
    "import sys; sys.path[:] = [sys.argv.pop(1), *filter(None, sys.path)]; "
    "from HyperPredictRegLib.worker.main import main; main()"
)


@dataclass(frozen=True)
class Ending:
    """How a worker ended.

    Attributes
    ----------
    outcome : "done", "failed" or "cancelled".
    sentence : for the user: what went wrong and what to do; "" when done.
    detail : a traceback, or what the worker wrote last; "" if there is none.
    bad_input : whether the job's inputs or options were at fault.
    """

    outcome: str
    sentence: str
    detail: str
    bad_input: bool


class Child:
    """A worker process and all that is known of it."""

    def __init__(
        self, task: str, path: Path, *, workplace: Path, library: Path | None = None, python: str | None = None
    ) -> None:
        """Start a worker at once; one that cannot be started has failed, with a sentence.

        Parameters
        ----------
        task, path : see `HyperPredictRegLib.worker.main`.
        workplace : folder of the job's files, see `new_workplace`. It is the caller's to remove, before or after the end;
            the worker removes it only if this process dies, or forgets the child, while it works.
        library : folder that holds the package; the one this file is from unless given.
        python : the Python to run it with; Slicer's inside Slicer, else this process's own, unless given.
        """
        self._task, self._path = task, Path(path)
        self._inbox = Inbox()
        self._ending: Ending | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._exited: float | None = None
        library = Path(__file__).resolve().parents[2] if library is None else library
        arguments = ["-c", _CODE, str(library), task, str(path), "--workplace", str(workplace)]
        try:
            self._process = _started([python or this_python(), *arguments])
        except (OSError, ValueError) as error:
            self._ending = Ending(
                "failed",
                f"The {self._word} could not be started, because its Python could not be run ({error}): reinstall 3D Slicer "
                "or HyperPredictReg.",
                repr(error),
                False,
            )
            return
        self._readers = self._inbox.listen_to(self._process)
        # Not __del__, and no list of children of our own: this one also runs when the interpreter ends.
        self._finalizer = weakref.finalize(self, _abandon, self._process, self._inbox)

    @property
    def ending(self) -> Ending | None:
        """How it ended; None while it runs."""
        self._settle()
        return self._ending

    @property
    def log(self) -> str:
        """The last 200 kB of what the worker wrote beside its progress."""
        return self._inbox.log

    def poll(self) -> list[ChildEvent]:
        """Return what came since the last call; never waits."""
        self._settle()
        return self._inbox.taken()

    def wait(self, on_event: Callable[[ChildEvent], None] | None = None, timeout: float | None = None) -> Ending:
        """Wait for the end and return it.

        Parameters
        ----------
        on_event : called with each event.
        timeout : seconds to wait at most.

        Raises
        ------
        TimeoutError : it still runs.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            ending = self.ending
            for event in self._inbox.taken():
                if on_event is not None:
                    on_event(event)
            if ending is not None:
                return ending
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"The {self._word} still runs after {timeout:g} s.")
            self._inbox.wait_for_news(0.05)

    def kill(self) -> None:
        """End the worker and all that it started, in less than a second; does nothing where it has ended."""
        self._settle()
        process = self._process
        if self._ending is not None or process is None:
            return
        told = None
        if process.poll() is not None:
            # Its last word may still be in the pipe. None comes where a launcher is gone and the worker is not.
            self._readers[0].join(_GRACE_SECONDS)
            told = self._told()
        # A worker that stops by itself cleans up after itself.
        with suppress(OSError, ValueError):
            if process.stdin is not None:
                process.stdin.write(CANCEL)
                process.stdin.flush()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
        self._close(told or Ending("cancelled", f"The {self._word} was cancelled; nothing was written.", "", False))

    @property
    def _word(self) -> str:
        return _WORDS.get(self._task, "work")

    def _settle(self) -> None:
        """Find out, without waiting, whether it has ended, and how."""
        process, inbox = self._process, self._inbox
        if self._ending is not None or process is None:
            return
        code, now = process.poll(), time.monotonic()
        if code is None:
            # Its last word has come but it does not end.
            if inbox.final is None or now - inbox.final_time < _LINGER_SECONDS:
                return
        elif any(reader.is_alive() for reader in self._readers):
            # The last lines may still be in the pipes, or a launcher is gone and the worker is not.
            self._exited = self._exited or now
            if now - self._exited < _LINGER_SECONDS:
                return
        self._close(self._told() or self._unexpected(code))

    def _close(self, ending: Ending) -> None:
        process = self._process
        if process is None:
            return
        self._finalizer.detach()
        _end(process, self._inbox)
        for reader in self._readers:
            reader.join(0.2)
        if ending.outcome != "done":
            tidy_results(self._task, self._path)
        self._ending = ending

    def _told(self) -> Ending | None:
        """Return the ending that the worker itself told, if it did."""
        final = self._inbox.final
        if final is None:
            return None
        if final["event"] == "done":
            return Ending("done", "", "", False)
        if final["event"] == "cancelled":
            return Ending("cancelled", f"The {self._word} was cancelled; nothing was written.", "", False)
        sentence = str(final.get("sentence") or f"The {self._word} failed.")
        return Ending("failed", sentence, str(final.get("detail") or ""), bool(final.get("bad_input")))

    def _unexpected(self, code: int | None) -> Ending:
        remedy = "Try again; if it happens again, report it with the log."
        # Slicer's launcher turns every violent death of its Python into exit code 1 and these words.
        violent = "exit abnormally" in self.log and "Fatal Python error" not in self.log
        if code in (-9, 137, 0xC0000017) or violent:
            remedy = "Most likely the memory ran out: close other programs, choose a coarser preset, or crop the images."
        sentence = f"The {self._word} ended unexpectedly ({_code_in_words(code)}), and nothing was written. {remedy}"
        return Ending("failed", sentence, self.log, False)


def _started(command: list[str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"}
    hidden: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        hidden = {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.BELOW_NORMAL_PRIORITY_CLASS}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, **hidden)


def _abandon(process: subprocess.Popen[bytes], inbox: Inbox) -> None:
    """End a process that nobody waits for any more, after it had time to tidy up."""
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_LINGER_SECONDS)
    _end(process, inbox)


def _end(process: subprocess.Popen[bytes], inbox: Inbox) -> None:
    """End a process with all that it started; nothing happens to one that has ended."""
    if process.poll() is None or not inbox.silent:
        if sys.platform == "win32":
            _end_on_windows(process, inbox.worker_pid)
        else:
            # A launcher does not hand a signal on to the Python it started; both are in the group that it leads.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_LINGER_SECONDS)
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()


def _end_on_windows(process: subprocess.Popen[bytes], worker_pid: int | None) -> None:
    if worker_pid is None and process.poll() is None:
        tree = ["taskkill", "/F", "/T", "/PID", str(process.pid)]
        with suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(tree, capture_output=True, timeout=0.5, check=False, creationflags=0x08000000)
    if worker_pid is not None:
        with suppress(OSError):
            os.kill(worker_pid, signal.SIGTERM)
    with suppress(OSError):
        process.kill()


def _code_in_words(code: int | None) -> str:
    if code is None:
        return "no exit code"
    if code < 0:
        with suppress(ValueError):
            return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}" if code < 0x80000000 else f"exit code 0x{code:08X}"
