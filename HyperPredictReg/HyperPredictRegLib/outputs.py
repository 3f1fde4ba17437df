"""Result files: written under temporary names, published all together, never left in halves."""

from __future__ import annotations

import glob
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.images import write_image
from HyperPredictRegLib.job import Report
from HyperPredictRegLib.outcome import Outcome
from HyperPredictRegLib.records import from_json, to_json
from HyperPredictRegLib.transforms import write_transform

REPORT_NAME = "report.json"
_OWN_NAMES = (REPORT_NAME, "transform.h5", "inverse.h5", "warped.nrrd", "jacobian.nrrd", "warped-labels.nrrd", "prediction.json")
_STALE_SECONDS = 24 * 3600

_log = logging.getLogger(__name__)


@contextmanager
def prepared_folder(
    out: Path, overwrite: bool, inputs: Sequence[Path] = (), *, names: Sequence[str] = _OWN_NAMES
) -> Iterator[Path]:
    """Give a hidden folder on the disk of `out` to write results into, and remove it again whatever happens.

    Parameters
    ----------
    out : the output folder of a job.
    overwrite : whether results of an earlier job may be in it.
    inputs : files that must never be written over.
    names : of files that must not be in `out` unless `overwrite`.

    Raises
    ------
    InputError : `out` cannot be written to, is full, or holds what must stay.
    """
    made: list[Path] = []
    staging: Path | None = None
    try:
        try:
            out = real_folder(out)
            if out.exists() and not out.is_dir():
                raise InputError(f"The output folder '{out}' is a file: choose another name.")
            _check_targets(out, names, overwrite, inputs)
            made = _missing_parents(out.parent)
            out.parent.mkdir(parents=True, exist_ok=True)
            # Inside an existing folder, which may be a mounted disk of its own; else beside it, to become it.
            place = out if out.is_dir() else out.parent
            _remove_stale(place, out.name)
            staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=place))
            # mkdtemp keeps others out; results are as open as any new folder.
            umask = os.umask(0)
            os.umask(umask)
            staging.chmod(0o777 & ~umask)
        except OSError as error:
            raise InputError(f"The output folder '{out}' cannot be written to ({error.strerror}): choose another one.") from error
        try:
            yield staging
        except OSError as error:
            raise InputError(f"The results could not be written to '{out}': {error}. Nothing was kept.") from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        for folder in made:
            # Only folders that are still empty go: with results in them, rmdir refuses.
            with suppress(OSError):
                folder.rmdir()


def real_folder(out: Path) -> Path:
    """Return the folder that `out` means, links followed, so that it and its parent lie where they seem to."""
    return Path(os.path.realpath(out))


def write_files(
    outcome: Outcome, folder: Path, writers: Sequence[Callable[[Outcome, Path], dict[str, str]]]
) -> Report:
    """Write the transforms, volumes, labels, what the `writers` add, and the report; return it complete.

    Raises
    ------
    OSError : the disk is full or the folder cannot be written.
    """
    started = time.perf_counter()
    outputs = {"transform": "transform.h5", "inverse": "inverse.h5", "warped": "warped.nrrd", "jacobian": "jacobian.nrrd"}
    write_transform(outcome.transform, folder / outputs["transform"])
    write_transform(outcome.inverse, folder / outputs["inverse"])
    write_image(outcome.warped, folder / outputs["warped"])
    write_image(outcome.jacobian, folder / outputs["jacobian"])
    if outcome.warped_labels is not None:
        outputs["warped_labels"] = "warped-labels.nrrd"
        write_image(outcome.warped_labels, folder / outputs["warped_labels"])
    report = replace(outcome.report, outputs=outputs)
    for write in writers:
        try:
            added = write(replace(outcome, report=report), folder)
        except OSError:
            raise
        except Exception as error:  # a picture or a scene that fails must not cost the registration
            _log.warning("a result could not be written", exc_info=True)
            report = replace(report, warnings=(*report.warnings, f"Not written: {type(error).__name__}: {error}"))
        else:
            report = replace(report, outputs=report.outputs | added)
    report = replace(report, seconds=report.seconds | {"write": time.perf_counter() - started})
    (folder / REPORT_NAME).write_text(to_json(report), encoding="utf-8")
    return report


def publish(
    staging: Path, out: Path, overwrite: bool, inputs: Sequence[Path] = (), *, earlier: Collection[str] | None = None
) -> None:
    """Move complete results from `staging` to `out`, the report last, so that where there is a report there is all of it.

    Earlier results step aside first and come back if the move fails.

    Parameters
    ----------
    staging : given by `prepared_folder` for `out`.
    out, overwrite, inputs : as for `prepared_folder`.
    earlier : names of files in `out` that the new results replace, beside those of the same names; the results of an earlier
        job unless given.

    Raises
    ------
    InputError : `out` has come to hold what must stay.
    OSError : the move failed.
    """
    out = real_folder(out)
    if not out.exists():
        staging.rename(out)
        return
    names = sorted((path.name for path in staging.iterdir()), key=lambda name: name == REPORT_NAME)
    _check_targets(out, names, overwrite, inputs)
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out))
    moved: list[tuple[Path, Path]] = []
    try:
        # The report goes first: files without a report are no result.
        going = {REPORT_NAME, *_earlier_names(out)} if earlier is None else set(earlier)
        for name in sorted({*going, *names}, key=lambda name: (name != REPORT_NAME, name)):
            if (out / name).exists() and not _is_one_of(inputs, out / name):
                moved.append((out / name, aside / name))
                (out / name).rename(aside / name)
        for name in names:
            moved.append((staging / name, out / name))
            (staging / name).rename(out / name)
    except BaseException:
        # An interrupt between two moves must not cost the earlier results either. What cannot come back stays aside.
        for before, after in reversed(moved):
            with suppress(OSError):
                after.rename(before)
        with suppress(OSError):
            aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _check_targets(out: Path, names: Sequence[str], overwrite: bool, inputs: Sequence[Path]) -> None:
    """Raise `InputError` if writing `names` into `out` would destroy an input, or anything at all without `overwrite`."""
    for name in names:
        target = out / name
        if not target.exists():
            continue
        if _is_one_of(inputs, target):
            raise InputError(f"The results would be written over the input '{target}': choose another output folder.")
        if not overwrite:
            what = "the results of an earlier job" if name == REPORT_NAME else f"a file '{name}'"
            raise InputError(f"The output folder '{out}' holds {what}: choose another, or say --overwrite.")


def _is_one_of(inputs: Sequence[Path], target: Path) -> bool:
    return any(given.exists() and given.samefile(target) for given in inputs)


def _earlier_names(out: Path) -> set[str]:
    """Return the names of the files of an earlier job."""
    try:
        report = from_json(Report, (out / REPORT_NAME).read_text(encoding="utf-8"), REPORT_NAME)
    except (InputError, OSError, UnicodeDecodeError):
        return set()
    # A report is a text file that anyone may have edited: nothing outside the folder is touched.
    return {name for name in report.outputs.values() if Path(name).name == name}


def _missing_parents(folder: Path) -> list[Path]:
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    return missing


def _remove_stale(place: Path, name: str) -> None:
    """Remove what a run that was killed outright left behind a day ago or earlier."""
    for path in place.glob(f".{glob.escape(name)}.partial-*"):
        if time.time() - path.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(path, ignore_errors=True)
