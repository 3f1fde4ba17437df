"""The folder that holds a job's files while a worker works on it, and how it goes again."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.files import read_text
from HyperPredictRegLib.core.staging import is_unlocked, locked, recover, staging_folders, unlock

_MARKER = ".hyperpredictreg-workplace"
_PREFIX = "hyperpredictreg-"
_ATTEMPTS = 5

_locks: dict[Path, int] = {}


def new_workplace(inside: Path | None = None) -> Path:
    """Make an empty folder for a job's files that `remove_workplace`, here or in an orphaned worker, may remove.

    It is locked while this process lives. Folders whose maker is dead, however it died, are removed on the way.

    Parameters
    ----------
    inside : where to make it; the system's folder for temporary files unless given.

    Raises
    ------
    InputError : no folder can be made there.
    """
    base = Path(tempfile.gettempdir()) if inside is None else inside
    try:
        base.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
        _locks[folder] = locked(folder / _MARKER)
        for marker in base.glob(f"{_PREFIX}*/{_MARKER}"):
            if is_unlocked(marker):
                remove_workplace(marker.parent)
    except OSError as error:
        raise InputError(
            f"No folder for temporary files could be made in '{base}' ({error.strerror}): free some space there, or choose "
            "another folder for them."
        ) from error
    return folder


def remove_workplace(folder: Path) -> None:
    """Remove a folder made by `new_workplace` with all in it; any other folder is left alone."""
    unlock(_locks.pop(folder, -1))
    if folder.is_symlink() or not (folder / _MARKER).is_file():
        return
    with suppress(OSError):
        # The marker goes last: without it, a remainder could never be removed.
        for path in [p for p in folder.iterdir() if p.name != _MARKER]:
            if path.is_dir() and not path.is_symlink():
                _remove_folder(path)
            else:
                path.unlink()
        (folder / _MARKER).unlink()
        folder.rmdir()


def tidy_results(task: str, path: Path) -> None:
    """Remove, or finish where they were complete, the results that a worker which has ended was just writing; see `staging`.

    Parameters
    ----------
    task, path : what the worker was given.
    """
    try:
        out = path if task == "page" else Path(json.loads(read_text(path, "job"))["out"])
        out = Path(os.path.realpath(out))
        for _ in range(_ATTEMPTS):
            recover(out)
            if not staging_folders(out):
                return
            # A process that was killed may hold its lock for a moment more.
            time.sleep(0.05)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return


def _remove_folder(folder: Path) -> None:
    # Files of a process that is just ending may stay locked for a moment, or appear once more.
    for _ in range(_ATTEMPTS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.05)
