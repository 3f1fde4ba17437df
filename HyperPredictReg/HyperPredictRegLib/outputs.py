"""Result files: written under temporary names, published all together, never left in halves."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
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
_STALE_SECONDS = 24 * 3600

_log = logging.getLogger(__name__)


@contextmanager
def prepared_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """Give a hidden folder beside `out` to write results into, and remove it again whatever happens.

    Parameters
    ----------
    out : the output folder of a job.
    overwrite : whether results of an earlier job may be in it.

    Raises
    ------
    InputError : `out` cannot be written to, is full, or holds earlier results and `overwrite` is false.
    """
    out = Path(os.path.abspath(out))  # noqa: PTH100 - Path.resolve would follow a link that is to stay one
    if out.exists() and not out.is_dir():
        raise InputError(f"The output folder '{out}' is a file: choose another name.")
    if (out / REPORT_NAME).exists() and not overwrite:
        raise InputError(f"The output folder '{out}' holds the results of an earlier job: choose another, or say --overwrite.")
    made = _missing_parents(out.parent)
    staging: Path | None = None
    try:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            _remove_stale(out)
            staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
            # mkdtemp keeps others out; results are as open as any new folder.
            umask = os.umask(0)
            os.umask(umask)
            staging.chmod(0o777 & ~umask)
            if out.is_dir():
                (_probe := out / f".{staging.name}").touch()
                _probe.unlink()
        except OSError as error:
            raise InputError(f"The output folder '{out}' cannot be written to ({error.strerror}): choose another one.") from error
        try:
            yield staging
        except OSError as error:
            if error.errno is None or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS):
                raise InputError(f"The results could not be written to '{out}': {error}. Nothing was kept.") from error
            raise
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        for folder in made:
            # Only folders that are still empty go: with results in them, rmdir refuses.
            with suppress(OSError):
                folder.rmdir()


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


def publish(staging: Path, out: Path, report: Report) -> None:
    """Move complete results from `staging` to `out`, the report last, so that where there is a report there is all of it.

    Raises
    ------
    OSError : the move failed.
    """
    if not out.exists():
        staging.replace(out)
        return
    _remove_earlier(out)
    for path in sorted(staging.iterdir(), key=lambda p: p.name == REPORT_NAME):
        target = out / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)


def _remove_earlier(out: Path) -> None:
    """Remove the report and the files it names, the report first: files without a report are no result."""
    report_path = out / REPORT_NAME
    if not report_path.exists():
        return
    try:
        names = from_json(Report, report_path.read_text(encoding="utf-8"), str(report_path)).outputs
    except (InputError, UnicodeDecodeError):
        names = {}
    report_path.unlink()
    for name in names.values():
        # A report is a text file that anyone may have edited: nothing outside the folder is touched.
        if Path(name).name == name:
            with suppress(OSError):
                (out / name).unlink()


def _missing_parents(folder: Path) -> list[Path]:
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    return missing


def _remove_stale(out: Path) -> None:
    """Remove what a run that was killed outright left behind a day ago or earlier."""
    for path in out.parent.glob(f".{out.name}.partial-*"):
        if time.time() - path.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(path, ignore_errors=True)
