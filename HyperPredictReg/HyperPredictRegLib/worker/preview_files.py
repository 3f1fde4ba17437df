"""How settings reach a worker that previews them, and how its answers come back: small files in the folder of its job.

A setting that is asked for takes the place of the one before, so that a worker which is slower than a slider leaves out what lies
between. Needs nothing but Python's own library.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_ASKED, _ANSWERED = "asked.json", "answered.json"
_IMAGES, _IMAGE_PART = "preview-*.nrrd", "image.part.nrrd"
_IMAGES_KEPT = 2  # the newest, and the one that may be read just now
_ATTEMPTS = 5


@dataclass(frozen=True)
class Asked:
    """A setting to look at, and its number: each is one higher than that of the one before."""

    number: int
    setting: Mapping[str, float]


@dataclass(frozen=True)
class Answered:
    """What came of a setting.

    Attributes
    ----------
    number, setting : as asked.
    image : name of the file with the deformed moving image; "" where nothing came out.
    sentence : why nothing came out; beside an image, what to know of it; or "".
    spacing_mm : of the coarse grid.
    seconds : that it took.
    """

    number: int
    setting: Mapping[str, float]
    image: str = ""
    sentence: str = ""
    spacing_mm: float = 0.0
    seconds: float = 0.0


def ask(folder: Path, asked: Asked) -> None:
    """Let a worker know which setting to look at next; one that it has not begun with is forgotten."""
    _write(folder / _ASKED, asdict(asked))


def read_asked(folder: Path) -> Asked | None:
    """Return what was asked for last, or None."""
    found = _read(folder / _ASKED)
    return None if found is None else Asked(**found)


def answer(folder: Path, answered: Answered) -> None:
    """Let whoever asked know what came of it."""
    _write(folder / _ANSWERED, asdict(answered))


def read_answered(folder: Path) -> Answered | None:
    """Return what was answered last, or None."""
    found = _read(folder / _ANSWERED)
    return None if found is None else Answered(**found)


def add_image(folder: Path, number: int, write: Callable[[Path], None]) -> str:
    """Let the image of an answer appear whole, remove those that nobody reads any more, and return its name.

    Parameters
    ----------
    folder : of the job.
    number : of the answer; each has a file of its own, so that none changes while it is read.
    write : writes the image, NRRD, to the path that it is given.

    Raises
    ------
    OSError : it could not be written.
    """
    name = _IMAGES.replace("*", str(number))
    part = folder / _IMAGE_PART
    write(part)
    _replace(part, folder / name)
    for old in sorted(folder.glob(_IMAGES), key=lambda path: int(path.stem.partition("-")[2]))[:-_IMAGES_KEPT]:
        # On Windows not while it is read: then with the next one.
        with suppress(OSError):
            old.unlink()
    return name


def _write(path: Path, record: Mapping[str, object]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record), encoding="utf-8")
    _replace(part, path)


def _replace(part: Path, path: Path) -> None:
    """Let a file appear whole; on Windows one that is just being read cannot be replaced, so try again."""
    for attempt in range(_ATTEMPTS):
        try:
            part.replace(path)
            return
        except PermissionError:
            if attempt == _ATTEMPTS - 1:
                raise
            time.sleep(0.01)


def _read(path: Path) -> dict[str, Any] | None:
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    return None
