"""A program of the user's: where it is, whether it can be run, and which version it is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.files import reason, shown

_VERSION_SECONDS = 120
_VERSION = re.compile(r"\d+(?:\.\d+)+")

CommandOf = Callable[[Path], Sequence[str]]
"""How a program that was found is called: what stands before its arguments."""


@dataclass(frozen=True)
class ProgramSettings:
    """What the settings of every engine that runs a program have; its own come after these.

    Attributes
    ----------
    program : path of the program or of the folder that it lies in; "": the environment variable of the engine names it, or it
        lies on PATH.
    time_limit_minutes : it is stopped if it takes longer.
    """

    program: str = ""
    time_limit_minutes: float = 120.0

    def __post_init__(self) -> None:
        if not self.time_limit_minutes > 0:
            raise InputError(f"The time limit of the program is {self.time_limit_minutes:g} minutes: give more than 0.")

    def chosen(self) -> dict[str, Any]:
        """Return what results depend on: not where the program lies, nor how long it may take."""
        return {name: value for name, value in asdict(self).items() if name not in ("program", "time_limit_minutes")}


@dataclass(frozen=True)
class Found:
    """A program that can be run.

    Attributes
    ----------
    path : of the executable file.
    command : what stands before its arguments.
    """

    path: Path
    command: tuple[str, ...]


@dataclass(frozen=True)
class Program:
    """What an engine needs of the user.

    Attributes
    ----------
    engine : the name of the engine.
    title : of the program, for people.
    executables : names of files that are looked for, the best one first.
    variable : environment variable that names the program or its folder.
    remedy : where to get it, as the part of a sentence.
    versions : the beginnings of the versions that the engine was written for.
    command : see `CommandOf`.
    otherwise : returns what is run where nothing is named and PATH has nothing, or None.
    """

    engine: str
    title: str
    executables: tuple[str, ...]
    variable: str
    remedy: str
    versions: tuple[str, ...]
    command: CommandOf = lambda path: (str(path),)
    otherwise: Callable[[], Path | None] = lambda: None

    def missing(self, given: str = "") -> str:
        """Return why the program cannot be run, with the remedy, or ""; `given` is the path in the engine's settings."""
        try:
            self.found(given)
        except InputError as error:
            return str(error)
        return ""

    def found(self, given: str = "") -> Found:
        """Return the program that the settings, the environment variable or PATH name, in this order.

        Raises
        ------
        InputError : there is none, or what was named is none that can be run. What was named is never passed over.
        """
        named, by = (given, "the setting 'program'") if given else (os.environ.get(self.variable, ""), self.variable)
        if named:
            return self._named(Path(named).expanduser(), by)
        for name in self.executables:
            if (place := shutil.which(name)) is not None:
                return self._checked(Path(place), "PATH")
        if (path := self.otherwise()) is not None:
            return self._checked(path, "this program")
        raise InputError(
            f"The engine '{self.engine}' needs the program {self.executables[0]}, which is not installed here: {self.remedy}, "
            f"and put its folder into PATH or the environment variable {self.variable}."
        )

    def version(self, found: Found) -> str:
        """Return the program's version, as it states it itself.

        Raises
        ------
        InputError : it cannot be asked, or is a version that the engine was not written for.
        """
        status = found.path.stat()
        stated = _stated_version(found.command, status.st_mtime_ns, status.st_size)
        if stated is None:
            raise InputError(
                f"The program '{shown(found.path)}' does not say its version as {self.title} does: check that it is the right "
                "one and starts at all."
            )
        if not any(f"{stated}.".startswith(f"{known}.") for known in self.versions):
            raise InputError(
                f"The program '{shown(found.path)}' is {self.title} {stated}, but the engine '{self.engine}' was written for "
                f"{' or '.join(self.versions)}: {self.remedy}."
            )
        return stated

    def identity(self, settings: ProgramSettings) -> dict[str, Any]:
        """Return what results depend on: the settings, and the version of the program; errors as `found` and `version`."""
        return {**settings.chosen(), f"{self.title} version": self.version(self.found(settings.program))}

    def _named(self, path: Path, by: str) -> Found:
        if path.is_dir():
            inside = [path / name for name in self._file_names() if (path / name).is_file()]
            if not inside:
                raise InputError(
                    f"The folder '{shown(path)}', which {by} names, holds no {' or '.join(self.executables)}: name the folder of "
                    f"{self.title}, or the program itself."
                )
            return self._checked(inside[0], by)
        if not path.is_file():
            raise InputError(f"There is no program '{shown(path)}', which {by} names: correct the path, or {self.remedy}.")
        return self._checked(path, by)

    def _checked(self, path: Path, by: str) -> Found:
        if not os.access(path, os.X_OK):
            raise InputError(
                f"The program '{shown(path)}', which {by} names, may not be executed: allow it (chmod +x), or name another one."
            )
        # Links are left as they are: the Python of an environment is a link, and is that environment's by its place alone.
        path = path.absolute()
        return Found(path, tuple(self.command(path)))

    def _file_names(self) -> list[str]:
        return [name + ending for name in self.executables for ending in (("", ".exe") if os.name == "nt" else ("",))]


@lru_cache(maxsize=16)
def _stated_version(command: tuple[str, ...], _changed: int, _size: int) -> str | None:
    """Return the first number with dots that a program says when asked for its version; the other arguments tell changed files.

    Raises
    ------
    InputError : it cannot be run.
    """
    asked = [*command, "--version"]
    try:
        done = subprocess.run(
            asked, stdin=subprocess.DEVNULL, capture_output=True, timeout=_VERSION_SECONDS, check=False, errors="replace"
        )
    except subprocess.TimeoutExpired:
        return None
    except OSError as error:
        raise InputError(
            f"The program '{shown(command[0])}' could not be started ({reason(error)}): install one for this computer."
        ) from error
    found = _VERSION.search(done.stdout or done.stderr) if done.returncode == 0 else None
    return None if found is None else found.group()
