"""Files that appear in a folder all together: whoever is killed in the middle, the next one finishes or undoes it.

Results are written into a hidden folder, which has a lock that its owner holds while it lives:

    .NAME.partial-XXXXXXXX/     in the output folder NAME if that exists, else beside it
        lock                    locked by the living owner; the system unlocks it when the owner dies, however it dies
        new/                    the files as they are written
        old/                    earlier files that have stepped aside
        journal.json            there only while files are moved: all new ones are whole

Without a journal nothing in the output folder has changed, and the hidden folder of a dead owner is removed. With one, all new
files are whole, each either in ``new`` or at its place, so that the moves can be finished; earlier files are deleted after that.
Needs nothing but Python's own library.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.files import STAGING_MARK, shown

_LOCK, _NEW, _OLD, _JOURNAL = "lock", "new", "old", "journal.json"
_MOST_JOURNAL_BYTES = 1 << 20
_LONGEST_STEM = 60
# Between making a folder and locking it lies a moment in which it seems to be nobody's.
_UNLOCKED_SECONDS = 60.0
# Where the disk knows no locks, only age tells.
_STALE_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class _Held:
    """What this process made for a hidden folder: the descriptor of its lock, and parents that did not exist before."""

    lock: int
    parents: tuple[Path, ...]


_held: dict[Path, _Held] = {}
_moving = threading.RLock()
_published = threading.Event()


@dataclass(frozen=True)
class _Journal:
    """Which files are on their way.

    Attributes
    ----------
    home : number by which the file system knows the hidden folder: a journal that was copied or forged has another.
    out : name of the output folder.
    inside : whether the hidden folder lies in the output folder or beside it.
    new, old : names of the files that come, and of those that go.
    """

    home: int
    out: str
    inside: bool
    new: tuple[str, ...]
    old: tuple[str, ...]


def new_staging(out: Path) -> Path:
    """Make a hidden, locked folder for the files of `out`, on the same disk; return the folder to write into.

    Parameters
    ----------
    out : the output folder, links followed; neither it nor its parents need exist.

    Raises
    ------
    OSError : it cannot be made.
    """
    parents = _missing(out.parent)
    home: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Inside an existing folder, which may be a mounted disk of its own; else beside it, to become it.
        place = out if out.is_dir() else out.parent
        stem = out.name.encode()[:_LONGEST_STEM].decode(errors="ignore")
        home = Path(tempfile.mkdtemp(prefix=f".{stem}{STAGING_MARK}", dir=place))
        _held[home] = _Held(locked(home / _LOCK), tuple(parents))
        # mkdtemp keeps others out; results are as open as any new folder.
        umask = os.umask(0)
        os.umask(umask)
        (home / _NEW).mkdir()
        (home / _NEW).chmod(0o777 & ~umask)
    except BaseException:
        if home is not None:
            _remove(home)
            _release(home)
        _remove_empty(parents)
        raise
    return home / _NEW


def remove_staging(staging: Path) -> None:
    """Remove what `new_staging` made, with all in it; one whose files are on their way stays for `recover`."""
    home = staging.parent
    if not os.path.lexists(home / _JOURNAL):
        _remove(home)
    _remove_empty(_release(home))


def abandon_all() -> bool:
    """Remove all unfinished results of this process, which must end at once after it; a thread of it may still be writing.

    Returns
    -------
    Whether there is nothing to keep. False where results have been published or are being moved: then nothing was done.
    """
    # Never let go of: no thread shall begin to publish what is being removed.
    _moving.acquire()
    if _published.is_set():
        _moving.release()
        return False
    for home, held in list(_held.items()):
        if not os.path.lexists(home / _JOURNAL):
            _remove(home)
        _remove_empty(held.parents)
    return True


def publish_files(staging: Path, out: Path, earlier: Collection[str]) -> None:
    """Move all files from `staging` to `out`; the `earlier` ones and those of the same names go. All of it happens, or nothing.

    Parameters
    ----------
    staging : made by `new_staging` for `out`, or any other folder on the same disk, which goes.
    out : the output folder, links followed. It appears if it does not exist.
    earlier : names of files in `out` that belong to what is replaced.

    Raises
    ------
    OSError : a move failed; all is as it was.
    """
    if staging.parent not in _held:
        own = new_staging(out)
        try:
            own.rmdir()
            staging.rename(own)
            publish_files(own, out, earlier)
        except BaseException:
            with suppress(OSError):
                own.rename(staging)
            raise
        finally:
            remove_staging(own)
        return
    with _moving:
        _publish(staging, out, earlier)
        _published.set()


def _publish(staging: Path, out: Path, earlier: Collection[str]) -> None:
    home = staging.parent
    if not out.exists():
        staging.rename(out)
        return
    names = sorted(path.name for path in staging.iterdir())
    for name in names:
        if (out / name).is_dir() and not (out / name).is_symlink():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(out / name))
    old = sorted({*earlier, *names} & {path.name for path in out.iterdir()})
    journal = _Journal(home.stat().st_ino, out.name, home.parent == out, tuple(names), tuple(old))
    for name in names:
        _flush(staging / name)
    (home / _OLD).mkdir(exist_ok=True)
    _write_journal(home, journal)
    try:
        _move(home, out, journal)
    except BaseException:
        # An interrupt between two moves must not cost the earlier results either.
        _move_back(home, out, journal)
        (home / _JOURNAL).unlink()
        raise
    _drop_journal(home)


def recover(out: Path) -> None:
    """Finish what a killed process was moving into `out`, and remove what others who died have left there or beside it.

    Parameters
    ----------
    out : an output folder, links followed; it need not exist.

    Raises
    ------
    InputError : files are half moved, and cannot be moved on.
    """
    for place in (out.parent, out):
        for home in _homes(place):
            if not _is_abandoned(home):
                continue
            if os.path.lexists(home / _JOURNAL):
                _finish(home, out)
            else:
                _remove(home)


def staging_folders(out: Path) -> list[Path]:
    """Return the hidden folders, in `out` and beside it, in which unfinished results lie now."""
    return [home for place in (out.parent, out) for home in _homes(place)]


def locked(path: Path) -> int:
    """Make a file and lock it until `unlock`, or until this process ends; return its descriptor, -1 where there are no locks.

    Raises
    ------
    OSError : the file cannot be made.
    """
    if sys.platform == "win32":
        import msvcrt

        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        with suppress(OSError):
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        return descriptor
    import fcntl

    # Locked before it bears its name, so that nobody ever sees it unlocked while its owner lives.
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        descriptor = -1
    draft.rename(path)
    return descriptor


def unlock(descriptor: int) -> None:
    """Let go of a lock."""
    if descriptor >= 0:
        with suppress(OSError):
            os.close(descriptor)


def is_unlocked(path: Path) -> bool:
    """Tell whether the owner of a lock file is dead; where there are no locks, whether the file is a day old.

    A file that is not there counts as locked.
    """
    try:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode):
            return False
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return False
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):
            return False
        return time.time() - status.st_mtime > _STALE_SECONDS
    finally:
        os.close(descriptor)


def _homes(place: Path) -> list[Path]:
    """Return the hidden folders in a place; only ours, for whatever another user has put there is his."""
    try:
        found = [Path(entry.path) for entry in os.scandir(place) if entry.name.startswith(".") and STAGING_MARK in entry.name]
        return sorted(home for home in found if not home.is_symlink() and home.is_dir() and _is_ours(home))
    except OSError:
        return []


def _is_ours(path: Path) -> bool:
    return not hasattr(os, "geteuid") or os.lstat(path).st_uid == os.geteuid()


def _is_abandoned(home: Path) -> bool:
    try:
        if os.path.lexists(home / _LOCK):
            return is_unlocked(home / _LOCK)
        return not os.path.lexists(home / _JOURNAL) and time.time() - os.lstat(home).st_mtime > _UNLOCKED_SECONDS
    except OSError:
        return False


def _release(home: Path) -> tuple[Path, ...]:
    """Let go of the lock of a hidden folder of this process; return the parents that were made for it."""
    held = _held.pop(home, _Held(-1, ()))
    unlock(held.lock)
    return held.parents


def _missing(folder: Path) -> list[Path]:
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    return missing


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders that were made for results, unless there are some in them."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _finish(home: Path, out: Path) -> None:
    """Move on what a dead process was moving, if it was for `out`."""
    journal = _read_journal(home)
    if journal is None or not _is_for(home, out, journal):
        return
    try:
        _move(home, out, journal)
        _drop_journal(home)
    except OSError as error:
        raise InputError(
            f"Results that an earlier run was putting into '{shown(out)}' when it was ended are half in place and could not be "
            f"moved on ({error.strerror}): make room there or mend its permissions, and start again. Nothing is lost; the rest "
            f"lies in '{home.name}' there."
        ) from error
    _remove(home)


def _is_for(home: Path, out: Path, journal: _Journal) -> bool:
    folder = home.parent if journal.inside else home.parent / journal.out
    return folder == out and out.is_dir() and not any((home / part).is_symlink() for part in (_NEW, _OLD))


def _move(home: Path, out: Path, journal: _Journal) -> None:
    """Bring every file to where it belongs; those that are there already, from an earlier attempt, stay.

    A report goes first and comes last, so that where there is a report there is all of it.
    """
    for name in _report_last(journal.old)[::-1]:
        # A new file of that name is at its place as soon as it is no longer in `new`.
        arrived = name in journal.new and not os.path.lexists(home / _NEW / name)
        if not arrived and os.path.lexists(out / name) and not os.path.lexists(home / _OLD / name):
            (out / name).rename(home / _OLD / name)
    for name in _report_last(journal.new):
        if os.path.lexists(home / _NEW / name):
            (home / _NEW / name).replace(out / name)


def _move_back(home: Path, out: Path, journal: _Journal) -> None:
    for name in _report_last(journal.new)[::-1]:
        if not os.path.lexists(home / _NEW / name) and os.path.lexists(out / name):
            (out / name).rename(home / _NEW / name)
    for name in _report_last(journal.old):
        if os.path.lexists(home / _OLD / name):
            (home / _OLD / name).rename(out / name)


def _report_last(names: Sequence[str]) -> list[str]:
    return sorted(names, key=lambda name: (name in ("report.json", "prediction.json"), name))


def _write_journal(home: Path, journal: _Journal) -> None:
    draft = home / f"{_JOURNAL}.part"
    text = json.dumps(asdict(journal))
    with draft.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(home / _JOURNAL)


def _read_journal(home: Path) -> _Journal | None:
    """Return what was on its way; None if the journal is none of ours, and then nothing is touched."""
    path = home / _JOURNAL
    try:
        if path.is_symlink() or path.stat().st_size > _MOST_JOURNAL_BYTES:
            return None
        message = json.loads(path.read_text(encoding="utf-8"))
        names = [*message["new"], *message["old"]]
        if message["home"] != home.stat().st_ino or not all(is_plain_name(name) for name in [message["out"], *names]):
            return None
        return _Journal(message["home"], message["out"], message["inside"] is True, tuple(message["new"]), tuple(message["old"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def is_plain_name(name: object) -> bool:
    """Tell whether something is the name of a file and nothing else: no path, no separator, no dots alone."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\:\0")


def _drop_journal(home: Path) -> None:
    (home / _JOURNAL).unlink()


def _flush(path: Path) -> None:
    """Have a file written to the disk for good, where the system does so; before anything earlier is moved away."""
    with suppress(OSError), path.open("rb") as stream:
        os.fsync(stream.fileno())


def _remove(home: Path) -> None:
    """Remove a hidden folder; the lock goes last, since what remains without one is nobody's for a while."""
    for _ in range(5):
        with suppress(OSError):
            for entry in list(os.scandir(home)):
                if entry.name != _LOCK:
                    if entry.is_dir(follow_symlinks=False):
                        shutil.rmtree(entry.path, ignore_errors=True)
                    else:
                        Path(entry.path).unlink(missing_ok=True)
        if sys.platform == "win32" and home in _held:
            # An open file cannot be removed there.
            unlock(_held[home].lock)
            _held[home] = _Held(-1, _held[home].parents)
        shutil.rmtree(home, ignore_errors=True)
        if not home.exists():
            return
        # Files of a process that is just ending may stay locked for a moment, or appear once more.
        time.sleep(0.05)
