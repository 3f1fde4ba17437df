"""One run of a program: in a folder of its own, listened to line by line, stopped when asked to or when it takes too long."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from HyperPredictRegLib.core.errors import Cancelled, InputError, RegistrationError
from HyperPredictRegLib.core.files import reason, shown
from HyperPredictRegLib.core.progress import CancelCheck, never
from HyperPredictRegLib.core.resources import this_python
from HyperPredictRegLib.engines.external import guardian

_PREFIX = "hyperpredictreg-program-"
_SECONDS_BETWEEN = 0.05
_ENDING_SECONDS = 1.5
_TAIL_LINES = 20
_LONGEST_QUOTE = 300


@dataclass(frozen=True)
class Run:
    """What to run, and what may stop it.

    Attributes
    ----------
    title : of the program, for sentences.
    command : with its arguments.
    folder : where it runs; see `new_folder`.
    minutes : it is stopped after that time.
    cancelled : see `core.progress`.
    """

    title: str
    command: Sequence[str]
    folder: Path
    minutes: float
    cancelled: CancelCheck = never

    def execute(self, on_line: Callable[[str], None]) -> None:
        """Run the program to its end.

        Parameters
        ----------
        on_line : called with each line that it prints, without the line's end.

        Raises
        ------
        InputError : it could not be started.
        RegistrationError : it failed, was ended, or did not end in time.
        Cancelled : the caller asked to stop; the program and all that it started have ended.
        """
        tail: deque[str] = deque(maxlen=_TAIL_LINES)
        watched = _Watched(self.command, self.folder)
        try:
            deadline = time.monotonic() + 60 * self.minutes
            for line in watched.lines():
                if line.strip():
                    tail.append(line.strip())
                    on_line(line)
                if self.cancelled():
                    raise Cancelled("The registration was cancelled; nothing was written.")
                if time.monotonic() > deadline:
                    raise RegistrationError(
                        f"{self.title} did not end within {self.minutes:g} minutes and was stopped"
                        f"{_last_words(tail)}: allow it more time (the setting 'time_limit_minutes'), or choose a coarser preset."
                    )
            code = watched.process.wait()
        finally:
            watched.stop()
        self._check(code, tail)

    def _check(self, code: int, tail: Sequence[str]) -> None:
        if code == 0:
            return
        if code == guardian.NOT_STARTED:
            raise InputError(
                f"The program '{shown(self.command[0])}' could not be started{_last_words(tail)}: install one for this computer."
            )
        if code == 128 + 9:
            raise RegistrationError(
                f"{self.title} was ended by somebody or something else in the middle. Most likely the memory ran out: "
                "close other programs, choose a coarser preset, or crop the images."
            )
        raise RegistrationError(
            f"{self.title} failed ({_code_in_words(code)}){_last_words(tail)}: try another setting or preset, or run it in a "
            "terminal to see more."
        )


@contextmanager
def new_folder(title: str) -> Iterator[Path]:
    """Give a folder for the files of one run, which is removed afterwards, whatever happened.

    Raises
    ------
    InputError : none can be made, or what is written into it inside the block does not fit.
    """
    remedy = "make room there, or choose another folder by the environment variable TMPDIR"
    try:
        made = tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True)
    except OSError as error:
        raise InputError(f"No folder could be made for the files of {title} ({reason(error)}): {remedy}.") from error
    with made as name:
        try:
            yield Path(name)
        except OSError as error:
            raise InputError(
                f"The files for {title} could not be written to '{shown(name)}' ({reason(error)}): {remedy}."
            ) from error


def write_image(image: sitk.Image, path: Path) -> None:
    """Write an image for a program.

    Raises
    ------
    OSError : it could not be written as a whole.
    """
    try:
        sitk.WriteImage(image, str(path))
    except RuntimeError as error:
        raise OSError(str(error).strip().splitlines()[-1]) from error
    voxels = image.GetNumberOfPixels() * image.GetNumberOfComponentsPerPixel() * image.GetSizeOfPixelComponent()
    if path.stat().st_size < voxels:
        raise OSError("the disk is full")


def thread_count() -> int:
    """Return how many threads a program may take: as many as SimpleITK, so that "reproducible" means one."""
    return int(sitk.ProcessObject.GetGlobalDefaultNumberOfThreads())


class _Watched:
    """A program under a guardian, and what it prints."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        try:
            self.process, self._source = _started([this_python(), guardian.__file__, str(folder), *command])
        except OSError as error:
            raise InputError(f"The program '{shown(command[0])}' could not be started ({reason(error)}).") from error
        self._news: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def lines(self) -> Iterator[str]:
        """Yield each line that is printed, and "" now and then while nothing is; ends soon after the program has."""
        rest, listening = b"", True
        while listening:
            try:
                block = self._news.get(timeout=_SECONDS_BETWEEN)
            except queue.Empty:
                if self.process.poll() is not None:
                    # Its last words may be on their way; something that it left behind may hold its output open for ever.
                    self._reader.join(_ENDING_SECONDS)
                    self._news.put(None)
                yield ""
                continue
            listening = block is not None
            *whole, rest = (rest + (block or b"")).split(b"\n")
            for line in whole:
                yield line.decode("utf-8", errors="replace").rstrip("\r")
        yield rest.decode("utf-8", errors="replace")
        # Whoever closes its output and works on is still waited for.
        while self.process.poll() is None:
            time.sleep(_SECONDS_BETWEEN)
            yield ""

    def stop(self) -> None:
        """End the program with all that it started, unless it has ended; takes at most about two seconds."""
        if self.process.stdin is not None:
            with suppress(OSError):
                self.process.stdin.close()
        try:
            self.process.wait(_ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(_SECONDS_BETWEEN)

    def _read(self) -> None:
        with suppress(OSError):  # a terminal ends with an error
            while block := os.read(self._source, 1 << 16):
                self._news.put(block)
        os.close(self._source)
        self._news.put(None)


def _started(command: Sequence[str]) -> tuple[subprocess.Popen[bytes], int]:
    """Start a process; return it, and a descriptor that reads what it prints."""
    hidden: dict[str, object] = {"start_new_session": True}
    if sys.platform == "win32":
        hidden = {"creationflags": subprocess.CREATE_NO_WINDOW}
    # Programs print line by line to a terminal only; into a pipe they print pages, seconds apart.
    try:
        source, sink = os.openpty()  # type: ignore[attr-defined,unused-ignore]
    except (AttributeError, OSError):
        source, sink = os.pipe()
    try:
        process = subprocess.Popen(  # type: ignore[call-overload]
            list(command), stdin=subprocess.PIPE, stdout=sink, stderr=sink, **hidden
        )
    except BaseException:
        os.close(source)
        raise
    finally:
        os.close(sink)
    return process, source


def _last_words(tail: Sequence[str]) -> str:
    """Return what a program printed last, for a sentence."""
    return f"; its last words: '{shown(tail[-1])[:_LONGEST_QUOTE].rstrip('.')}'" if tail else ""


def _code_in_words(code: int) -> str:
    if code > 128:
        with suppress(ValueError):
            return f"signal {signal.Signals(code - 128).name}"
    return f"exit code {code}"
