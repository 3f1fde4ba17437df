"""The door of the command: whatever happens behind it ends with a sentence and an exit code, never with a traceback.

Needs nothing but Python's own library, so that it stands before anything else is loaded, and holds when that fails.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
import tempfile
import threading
import time
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from HyperPredictRegLib.core.errors import Cancelled, HyperPredictRegError, InputError
from HyperPredictRegLib.core.files import printable, reason, sentence_of, shown

STOPPED = "Stopped."
INTERRUPTED = 130
"""Exit code after Ctrl+C, SIGTERM or a terminal that was closed."""

_LOG_NAME = "errors.log"
_MOST_LOG_BYTES = 1 << 20
_NO_MEMORY = "There was not enough memory: choose a coarser --preset, or close other programs."


def main() -> NoReturn:
    """Run the command and end the process with its exit code: 0, 1, 2 or 130."""
    try:
        stop_on_signals()
        code = _code()
    except BaseException as error:  # the door itself failed, perhaps while it told of another failure
        with suppress(BaseException):
            _say(f"Error: Something unexpected went wrong ({type(error).__name__}).")
        os._exit(1)
    sys.exit(code)


def stop_on_signals() -> None:
    """End the process at once, with a sentence, on a signal that asks for it; for as long as nothing is being written."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # A terminal that was closed means nothing to what was started with nohup. Only a main thread hears signals.
        if number is not None and not (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
            with suppress(ValueError, OSError):
                signal.signal(number, _stop)


def failed(error: BaseException) -> NoReturn:
    """Say what went wrong and end the process at once.

    Parameters
    ----------
    error : one of ours is told by its own sentence; anything else is told in a word and written to a log.
    """
    code, sentence = _told(error)
    _say(sentence)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    # Not sys.exit: after a write that failed, the HDF5 library inside ITK crashes in its own clean-up.
    os._exit(code)


def log_folder() -> Path:
    """Return the folder of the log of errors, in the user's folder for caches."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "hyperpredictreg"


def _code() -> int:
    try:
        _use_streams()
        _check_words(sys.argv[1:])
        from HyperPredictRegLib.cli.commands import app

        # What threads and finalizers let fall would come after the last sentence.
        if not sys.warnoptions:
            # Libraries warn those who program with them.
            warnings.simplefilter("ignore")
        threading.excepthook = lambda fallen: _unless_none(fallen.exc_value)
        sys.unraisablehook = lambda fallen: _unless_none(fallen.exc_value)
        app()
    except SystemExit as ended:
        return _code_of(ended)
    except BaseException as error:
        failed(error)
    return 0


def _code_of(ended: SystemExit) -> int:
    code = ended.code if isinstance(ended.code, int) else 1 if ended.code else 0
    if code == INTERRUPTED:
        _say(STOPPED)
    try:
        # What is still to be printed is printed now, where a reader that is gone can be told of.
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        failed(error)
    return code


def _told(error: BaseException) -> tuple[int, str]:
    """Return the exit code and the sentence for an error."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, STOPPED
    if isinstance(error, Cancelled):
        return INTERRUPTED, str(error)
    if isinstance(error, HyperPredictRegError):
        return 2 if isinstance(error, InputError) else 1, f"Error: {error}"
    if isinstance(error, MemoryError):
        return 1, f"Error: {_NO_MEMORY}"
    if isinstance(error, BrokenPipeError):
        return 1, "Error: The output was cut off: whoever read it has gone. Files that were written are complete."
    if isinstance(error, OSError):
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EBADF):
            why = "What the command prints could not be written"
            return 1, f"Error: {why} ({reason(error)}). Files that were written are complete."
        if (sentence := sentence_of(error)) is not None:
            return 2, f"Error: {sentence}"
    log = _logged(error)
    where = "" if log is None else f" with the log '{shown(log)}'"
    if isinstance(error, ImportError) and error.name and not error.name.startswith("HyperPredictRegLib"):
        package = f"The Python package '{error.name.partition('.')[0]}'"
        return 1, f"Error: {package} could not be loaded: install it again; if that does not help, report it{where}."
    return 1, f"Error: Something unexpected went wrong ({_in_a_word(error)}). Please report it{where}."


def _in_a_word(error: BaseException) -> str:
    try:
        lines = str(error).strip().splitlines()
    except Exception:
        lines = []
    # ITK's messages have many lines; the last one says what happened.
    return f"{type(error).__name__}: {shown(lines[-1].strip())}" if lines else type(error).__name__


def _logged(error: BaseException) -> Path | None:
    """Append a traceback to the log and return its path; None where it cannot be written."""
    try:
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except Exception:
        text = f"{type(error).__name__}\n"
    entry = f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n{text}\n".encode("utf-8", errors="backslashreplace")
    for folder in (log_folder, _temporary_log_folder):
        with suppress(Exception):
            return _append(folder(), entry)
    return None


def _temporary_log_folder() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else "log"
    return Path(tempfile.gettempdir()) / f"hyperpredictreg-{user}"


def _append(folder: Path, entry: bytes) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or (hasattr(os, "geteuid") and status.st_uid != os.geteuid()):
        raise PermissionError("not our folder")
    log = folder / _LOG_NAME
    if log.exists() and log.stat().st_size > _MOST_LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(log, flags, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) or os.write(descriptor, entry) < len(entry):
            raise PermissionError("not our file")
    finally:
        os.close(descriptor)
    return log


def _unless_none(error: BaseException | None) -> None:
    if error is not None and not isinstance(error, BrokenPipeError):
        _logged(error)


def _use_streams() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            # Closed before we began.
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))
        elif hasattr(stream, "reconfigure"):
            # In a terminal of another encoding a λ must not stop the work.
            stream.reconfigure(errors="replace")


def _check_words(words: list[str]) -> None:
    for word in words:
        try:
            word.encode("utf-8")
        except UnicodeEncodeError as error:
            # Libraries that open files by UTF-8 names would end the process, some of them after all the work.
            raise InputError(f"'{shown(word)}' is not valid UTF-8: rename the file or folder.") from error


def _stop(number: int, frame: FrameType | None) -> None:
    _say(STOPPED)
    os._exit(INTERRUPTED)


def _say(sentence: str) -> None:
    """Write a line to standard error, past every buffer; to nobody, if nobody is there."""
    with suppress(Exception):
        sys.stderr.flush()
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    with suppress(OSError, ValueError, LookupError):
        os.write(2, f"{printable(sentence)}\n".encode(encoding, errors="replace"))
