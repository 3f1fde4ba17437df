"""How settings reach a worker that previews them, and how its answers come back: small files in the folder of its job.

A setting that is asked for takes the place of the one before, so that a worker which is slower than a slider leaves out what lies
between. Needs nothing but Python's own library.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_ASKED, _ANSWERED = "asked.json", "answered.json"
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
    sentence : why nothing came out, or "".
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


def image_name(number: int) -> str:
    """Return the name of an answer's image: of two in turn, so that none is written while it is read."""
    return f"preview-{number % 2}.nrrd"


def _write(path: Path, record: Mapping[str, object]) -> None:
    """Write a file that appears whole; on Windows one that is just being read cannot be replaced, so try again."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record), encoding="utf-8")
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
