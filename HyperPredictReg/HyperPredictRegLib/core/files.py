"""What the operating system says about files, in sentences; and text files read with a bound.

Needs nothing but Python's own library.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter
from pathlib import Path

from HyperPredictRegLib.core.errors import InputError

MOST_TEXT_BYTES = 8_000_000
"""The longest job or table of settings that is read; real ones have a few kilobytes."""

LONGEST_NAME_BYTES = 255
"""Of one name in a path, on every file system in use."""

STAGING_MARK = ".partial-"
"""In the names of hidden folders where results wait until they are whole, see `staging`."""

_LONGEST_PATH_BYTES = 4095
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_PROBE_BYTES = 1 << 20
_PROBE_NAME = ".hyperpredictreg-room"
_REMEDIES = {
    errno.EACCES: "check its permissions",
    errno.EPERM: "check its permissions",
    errno.EROFS: "it lies on a read-only disk, so choose another folder",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "it is a folder, so give a file",
    errno.ELOOP: "its links lead in a circle, so mend them",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "too many files are open, so close other programs",
    errno.ENFILE: "too many files are open, so close other programs",
}


@contextmanager
def writing_into(folder: Path, what: str, retained: str = "Nothing was kept.") -> Iterator[None]:
    """Turn an `OSError` of a block that writes into `folder` into an `InputError` that says what to do.

    Where an error names a file elsewhere, the sentence names that file, not the output folder.

    Parameters
    ----------
    folder : where the block writes.
    what : what it writes, in the plural, for example "results".
    retained : what became of what was written before, as a sentence; "" where there is nothing to say.

    Raises
    ------
    InputError : in place of an `OSError`.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(f"{_writing_failed(error, folder, what)} {retained}".rstrip()) from error


def sentence_of(error: OSError) -> str | None:
    """Return a sentence about an `OSError` whose origin is unknown; None where it tells nothing of a file."""
    named = _named_file(error)
    if error.errno in _FULL:
        where = "" if named is None else f" at '{shown(named)}'"
        return f"The disk is full{where}: make room and try again."
    if named is None or error.errno not in _REMEDIES:
        return None
    return f"The file or folder '{shown(named)}' could not be used ({reason(error)}): {_remedy(error)}."


def read_text(path: Path, what: str, most_bytes: int = MOST_TEXT_BYTES) -> str:
    """Return the text of a regular UTF-8 file that is not too long; see `read_bounded`.

    Raises
    ------
    InputError : as `read_bounded`, or it is no UTF-8 text.
    """
    data = read_bounded(path, what, most_bytes)
    try:
        # "-sig": editors on Windows put a byte order mark at the front.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"The {what} '{shown(path)}' is no UTF-8 text: check which file you gave.") from error


def read_bounded(path: Path, what: str, most_bytes: int) -> bytes:
    """Return what a regular file holds, if it is not too long; never waits for one that is no file.

    Parameters
    ----------
    path : the file.
    what : how to call it in an error, for example "job".
    most_bytes : more is refused before it is read.

    Raises
    ------
    InputError : it is missing, no regular file, too long, or cannot be read.
    """
    checked_path(str(path), what)
    try:
        # Without O_NONBLOCK a named pipe would be waited for. The kind is asked of the open file, which nobody can exchange.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(stream.fileno())
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"The {what} '{shown(path)}' is a device or a pipe and could not be read: give a regular file.")
            # One byte more than stated, to notice a file that grows; never `most_bytes`, which would be reserved as memory.
            data = stream.read(min(status.st_size, most_bytes) + 1)
    except OSError as error:
        raise InputError(f"The {what} '{shown(path)}' could not be read ({reason(error)}): {_remedy(error)}.") from error
    if len(data) > most_bytes:
        raise InputError(f"The {what} '{shown(path)}' is longer than {most_bytes / 1e6:.3g} MB: give the right file.")
    return data


def check_writable(folder: Path) -> None:
    """Raise `InputError` if results could not be written to a folder, before any work is done for them.

    The folder need not exist; nothing is made.
    """
    checked_path(str(folder), "output folder")
    place = folder.absolute()
    try:
        while not os.path.lexists(place):
            place = place.parent
        usable = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    except OSError:
        usable = False
    if not usable:
        raise InputError(f"The folder '{shown(folder)}' cannot be made or written to: choose another one.")


def checked_path(text: str, what: str) -> str:
    """Return `text` if it can be the path of a file; nothing is looked up.

    Parameters
    ----------
    text : a path, absolute or not.
    what : how to call it in an error, for example "output folder".

    Raises
    ------
    InputError : it is empty, not valid UTF-8, holds a NUL, or is longer than any file system takes.
    """
    what = what if what.startswith("-") else f"the {what}"
    if not text.strip():
        raise InputError(f"The path of {what} is empty: give one, or leave it out.")
    if "\0" in text:
        raise InputError(f"The path of {what}, '{shown(text)}', holds a NUL character: give another one.")
    try:
        names = [name.encode("utf-8") for name in Path(text).parts]
    except UnicodeEncodeError as error:
        # Libraries that open files by UTF-8 names would end the process.
        raise InputError(f"The path of {what}, '{shown(text)}', is not valid UTF-8: rename it.") from error
    if max(map(len, names), default=0) > LONGEST_NAME_BYTES or sum(map(len, names)) + len(names) > _LONGEST_PATH_BYTES:
        raise InputError(
            f"The path of {what}, '{shown(text)}', is too long, longer than the file system allows: a name may have "
            f"{LONGEST_NAME_BYTES} bytes, a path {_LONGEST_PATH_BYTES}."
        )
    return text


def shown(value: Path | str) -> str:
    """Return a path or other text as it can be printed anywhere: cut where it is long, and with no character that is none."""
    text = str(value).encode("utf-8", errors="backslashreplace").decode("utf-8")
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return text if len(text) <= 300 else f"{text[:200]} … {text[-60:]}"


def printable(text: str) -> str:
    """Return text without characters that command a terminal, which a file's name or the name of a label may hold."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf") else repr(c)[1:-1] for c in text)


def reason(error: OSError) -> str:
    """Return what the operating system says, without numbers and paths."""
    message = error.strerror or (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return str(message).rstrip(".")


def concerns(error: OSError, folder: Path) -> bool:
    """Tell whether an error may be about writing into `folder`: it names no file, or one there or staged for it."""
    named = _named_file(error)
    if named is None or error.errno in _FULL:
        return True
    path, folder = Path(os.path.realpath(named)), Path(os.path.realpath(folder))
    staged = any(name.startswith(".") and STAGING_MARK in name for name in path.parts)
    return staged or path.is_relative_to(folder) or folder.is_relative_to(path)


def is_full(error: OSError, folder: Path) -> bool:
    """Tell whether an error comes of a full disk, a used-up quota or a limit on the size of files.

    Libraries under ITK hide the operating system's reason, so where there is none, a piece of a file is written to find out.
    """
    if error.errno is not None:
        return error.errno in _FULL

    def fill(stream: BufferedWriter) -> None:
        stream.write(bytes(_PROBE_BYTES))
        stream.flush()
        os.fsync(stream.fileno())

    found = _failure_to_write(folder, fill)
    return found is not None and found.errno in _FULL


def require_room(folder: Path, size: int) -> None:
    """Raise `OSError` with the operating system's own reason if a file of `size` bytes cannot be written into `folder` now."""
    if not hasattr(os, "posix_fallocate"):
        if shutil.disk_usage(folder).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        return
    error = _failure_to_write(folder, lambda stream: os.posix_fallocate(stream.fileno(), 0, max(1, size)))
    # On a file system that cannot reserve room, a lack of it shows when the file is written.
    if error is not None and error.errno in _FULL:
        raise OSError(error.errno, os.strerror(error.errno or 0), str(folder)) from error


def _failure_to_write(folder: Path, fill: Callable[[BufferedWriter], None]) -> OSError | None:
    """Make a file in a folder, fill it, and remove it; return the error, if there was one."""
    probe = folder / _PROBE_NAME
    try:
        with probe.open("xb") as stream:
            fill(stream)
    except OSError as error:
        return error
    finally:
        with suppress(OSError):
            probe.unlink()
    return None


def _writing_failed(error: OSError, folder: Path, what: str) -> str:
    named = _named_file(error)
    if not concerns(error, folder):
        return f"The file '{shown(named or '')}' could not be read ({reason(error)}): {_remedy(error)}."
    existing = folder
    while not existing.is_dir() and existing != existing.parent:
        existing = existing.parent
    if is_full(error, existing):
        why = f" ({reason(error)})" if error.errno in _FULL else ""
        return (
            f"The disk is full{why}, so the {what} could not be written to '{shown(folder)}': make room there, or choose another "
            "disk."
        )
    return f"The {what} could not be written to '{shown(folder)}' ({reason(error)}): choose another folder."


def _named_file(error: OSError) -> str | None:
    for name in (error.filename, error.filename2):
        if isinstance(name, bytes):
            return os.fsdecode(name)
        if isinstance(name, str | os.PathLike):
            return os.fspath(name)
    return None


def _remedy(error: OSError) -> str:
    return _REMEDIES.get(error.errno or 0, "check the path and the disk")
