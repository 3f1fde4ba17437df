"""The folder that holds a job's files while a worker works on it, and how it goes again."""

from __future__ import annotations

import glob
import json
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from HyperPredictRegLib.errors import InputError

_MARKER = ".hyperpredictreg-workplace"
_PREFIX = "hyperpredictreg-"
_STALE_SECONDS = 3 * 24 * 3600


def new_workplace(inside: Path | None = None) -> Path:
    """Make an empty folder for a job's files that `remove_workplace`, here or in an orphaned worker, may remove.

    Folders that were left behind days ago, for example by a power cut, are removed on the way.

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
        (folder / _MARKER).touch()
        for marker in base.glob(f"{_PREFIX}*/{_MARKER}"):
            if time.time() - marker.stat().st_mtime > _STALE_SECONDS:
                remove_workplace(marker.parent)
    except OSError as error:
        raise InputError(
            f"No folder for temporary files could be made in '{base}' ({error.strerror}): free some space there, or choose "
            "another folder for them."
        ) from error
    return folder


def remove_workplace(folder: Path) -> None:
    """Remove a folder made by `new_workplace` with all in it; any other folder is left alone."""
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


def partial_folders(task: str, path: Path) -> frozenset[Path]:
    """Return the hidden folders in which unfinished results of a task lie now; see `outputs.prepared_folder`."""
    try:
        out = path if task == "page" else Path(json.loads(path.read_text(encoding="utf-8"))["out"])
        out = Path(os.path.realpath(out))
        pattern = f".{glob.escape(out.name)}.partial-*"
        return frozenset(found for place in (out.parent, out) for found in place.glob(pattern))
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()


def remove_partial(task: str, path: Path, before: frozenset[Path]) -> None:
    """Remove the unfinished results of a task that have come since `before`, where it could not do so itself."""
    for folder in partial_folders(task, path) - before:
        _remove_folder(folder)


def _remove_folder(folder: Path) -> None:
    # Files of a process that is just ending may stay locked for a moment, or appear once more.
    for _ in range(5):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.05)
