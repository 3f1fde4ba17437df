"""What a path from outside leads to: a file or folder that can be read, or a sentence that says why not."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.files import checked_path

_KINDS = (
    (stat.S_ISFIFO, "named pipe"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)


def check_input(path: Path | str, role: str, *, folder: bool = False) -> None:
    """Check that a path leads to a regular file that can be opened and holds something; nothing is read from it.

    Parameters
    ----------
    path : as the user gave it.
    role : how to call the file in an error, for example "fixed image".
    folder : whether a folder will do as well.

    Raises
    ------
    InputError : there is no such file, it may not be read, or it is empty, a pipe, a socket, a device or a folder; or no file can
        have such a path.
    """
    text = checked_path(str(path), role)
    what = f"The {role} '{text}'"
    try:
        found = Path(text).stat()
        if stat.S_ISDIR(found.st_mode):
            if not folder:
                raise InputError(f"{what} is a folder: give a file, or check the path.")
            os.scandir(text).close()
            return
        if not stat.S_ISREG(found.st_mode):
            kind = next((name for is_kind, name in _KINDS if is_kind(found.st_mode)), "special file")
            raise InputError(f"{what} is a {kind}, not a file: write its content to a file first and give that.")
        if found.st_size == 0:
            raise InputError(f"{what} is empty (0 bytes): copy or export it again.")
        Path(text).open("rb").close()
    except OSError as error:
        raise InputError(f"{what} {_why_not(error)}") from error


@contextmanager
def named_in_errors(path: Path | str, role: str) -> Iterator[None]:
    """Turn what the system says of a file while it is read into an `InputError` that names this input."""
    try:
        yield
    except OSError as error:
        raise InputError(f"The {role} '{path}' {_why_not(error)}") from error


def is_regular(path: Path) -> bool:
    """Tell whether a path leads to a regular file; False where nothing can be learned of it."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def _why_not(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return "does not exist: check the path."
    if error.errno in (errno.EACCES, errno.EPERM):
        return "cannot be read: check its permissions."
    if error.errno == errno.ENAMETOOLONG:
        return "has a name that is longer than the file system allows: check the path."
    if error.errno == errno.ELOOP:
        return "is a symbolic link that leads back to itself: give the file that is meant."
    return f"could not be read ({error.strerror or error}): check the disk, or copy the file to another one."
