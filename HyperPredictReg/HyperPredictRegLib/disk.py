"""What a disk can do to us, said in a sentence: full, closed to us, or with something else where a small file should be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from HyperPredictRegLib.errors import InputError

MOST_TEXT_BYTES = 20_000_000
"""Of a text file that describes something: a card, a plan, a list of pairs."""

MOST_NAME_BYTES = 255
"""Of a file or folder, on any disk in use."""


@contextmanager
def writing_to(folder: Path | str) -> Iterator[None]:
    """Turn an error of the disk inside a ``with`` block into a sentence that names the folder.

    Raises
    ------
    InputError : the disk is full, or the folder cannot be made or written to.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(
            f"The folder '{folder}' cannot be written to ({reason}): choose another one, or make room on its disk."
        ) from error


def check_writable(folder: Path) -> None:
    """Raise `InputError` if results could not be written to a folder, before any work is done for them.

    The folder need not exist; nothing is made.
    """
    try:
        place = folder.absolute()
        if any(len(part.encode("utf-8")) > MOST_NAME_BYTES or "\0" in part for part in place.parts):
            raise ValueError("too long, or with a sign that no name can have")
        while not os.path.lexists(place):
            place = place.parent
        usable = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    except (OSError, ValueError) as error:
        raise InputError(f"The output folder {str(folder)[:300]!r} cannot have this name ({error}): choose another.") from error
    if not usable:
        raise InputError(f"The folder '{folder}' cannot be made or written to: choose another one.")


def small_text(path: Path, what: str, most: int = MOST_TEXT_BYTES) -> str:
    """Return the text of a small UTF-8 file.

    Parameters
    ----------
    what : how a sentence about the file begins, for example "The predictor's card".
    most : bytes that such a file can have.

    Raises
    ------
    InputError : it is missing, no regular file (to open a pipe would wait for ever), too large, or no UTF-8 text.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{what} '{path}' is no regular file: give one that is.")
        return bounded_bytes(path, what, most).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{what} '{path}' cannot be read ({error}): check the path, or make the file anew.") from error


def bounded_bytes(path: Path, what: str, most: int) -> bytes:
    """Return what a regular file holds, at most `most` bytes; see `small_text`.

    Raises
    ------
    InputError : it is larger.
    OSError : it cannot be read.
    """
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        # One more than there should be: it may grow meanwhile. Not `most`, for which memory would be reserved.
        data = stream.read(min(size, most) + 1)
    if len(data) > most:
        raise InputError(f"{what} '{path}' has more than {most / 1e6:g} MB, far more than it needs: it was not read.")
    return data
