"""Result files: written under temporary names, published all together, never left in halves."""

from __future__ import annotations

import json
import logging
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import SimpleITK as sitk

from HyperPredictRegLib.core.errors import Cancelled, InputError
from HyperPredictRegLib.core.files import checked_path, concerns, read_text, require_room, shown, writing_into
from HyperPredictRegLib.core.json_records import to_json
from HyperPredictRegLib.core.progress import CancelCheck, interruptible, never, stop_if
from HyperPredictRegLib.core.staging import new_staging, publish_files, recover, remove_staging
from HyperPredictRegLib.results.outcome import Outcome, affine_warped, affine_warped_labels
from HyperPredictRegLib.results.report import Report
from HyperPredictRegLib.spatial.images import write_image
from HyperPredictRegLib.spatial.transforms import write_transform

REPORT_NAME = "report.json"
PREDICTION_NAME = "prediction.json"

PREDICTION_NAMES = frozenset(
    [PREDICTION_NAME, "curves.csv", "curves.png", "structures.png", "prediction.html"]
)
OWN_NAMES = PREDICTION_NAMES | frozenset(
    [
        REPORT_NAME, "transform.h5", "inverse.h5", "warped.nrrd", "jacobian.nrrd", "warped-labels.nrrd", "report.html",
        "overlay.png", "checkerboard.png", "jacobian.png", "deformed_grid.png", "outlines.png", "trace.png", "slicer-views.png",
        "affine.tfm", "affine-warped.nrrd", "affine-warped-labels.nrrd",
        "working-state.json", "fixed-on-grid.nrrd", "moving-aligned.nrrd", "moving-registered.nrrd", "foreground.nrrd",
    ]
)  # fmt: skip
"""Every name that a result bears, scenes apart, whose names users choose. No other file of a folder is ever deleted."""

_REFUSED_NAMES = (
    REPORT_NAME, "transform.h5", "inverse.h5", "warped.nrrd", "jacobian.nrrd", "warped-labels.nrrd", PREDICTION_NAME,
)  # fmt: skip

_log = logging.getLogger(__name__)


@contextmanager
def prepared_folder(
    out: Path, overwrite: bool, inputs: Sequence[Path] = (), *, names: Sequence[str] = _REFUSED_NAMES
) -> Iterator[Path]:
    """Give a hidden folder on the disk of `out` to write results into, and remove it again whatever happens.

    What a killed run was just putting into `out` is finished first; see `staging`.

    Parameters
    ----------
    out : the output folder of a job.
    overwrite : whether results of an earlier job may be in it.
    inputs : files that must never be written over, and folders that must never be written into.
    names : of files that must not be in `out` unless `overwrite`.

    Raises
    ------
    InputError : `out` cannot be written to, is full, or holds what must stay.
    """
    checked_path(str(out), "output folder")
    staging: Path | None = None
    try:
        try:
            out = real_folder(out)
            if out.exists() and not out.is_dir():
                raise InputError(f"The output folder '{shown(out)}' is a file: choose another name.")
            _check_outside(out, inputs)
            recover(out)
            _check_targets(out, names, overwrite, inputs)
            staging = new_staging(out)
        except OSError as error:
            raise InputError(
                f"The output folder '{shown(out)}' cannot be written to ({error.strerror}): choose another one."
            ) from error
        with writing_into(out, "results"):
            yield staging
    finally:
        if staging is not None:
            remove_staging(staging)


def real_folder(out: Path) -> Path:
    """Return the folder that `out` means, links followed, so that it and its parent lie where they seem to."""
    return Path(os.path.realpath(out))


def write_files(
    outcome: Outcome,
    folder: Path,
    writers: Sequence[Callable[[Outcome, Path], dict[str, str]]],
    cancelled: CancelCheck = never,
) -> Report:
    """Write the transforms, volumes, labels, what the `writers` add, and the report; return it complete.

    Raises
    ------
    OSError : the disk is full or the folder cannot be written.
    Cancelled : the caller asked to stop.
    """
    started = time.perf_counter()
    outputs = {"transform": "transform.h5", "inverse": "inverse.h5", "warped": "warped.nrrd", "jacobian": "jacobian.nrrd"}
    for role in ("transform", "inverse"):
        # Asked first, because on a full disk the library for these files prints pages.
        require_room(folder, 8 * getattr(outcome, role).GetNumberOfParameters())
        write_transform(getattr(outcome, role), folder / outputs[role])
        stop_if(cancelled)
    for role in ("warped", "jacobian"):
        _write_stoppable(getattr(outcome, role), folder / outputs[role], cancelled)
    if outcome.warped_labels is not None:
        outputs["warped_labels"] = "warped-labels.nrrd"
        _write_stoppable(outcome.warped_labels, folder / outputs["warped_labels"], cancelled)
    outputs |= _write_affine_only(outcome, folder, cancelled)
    report = replace(outcome.report, outputs=outputs)
    for write in writers:
        stop_if(cancelled)
        try:
            added = write(replace(outcome, report=report), folder)
        except Cancelled:
            raise
        except Exception as error:  # a picture or a scene that fails must not cost the registration
            if isinstance(error, OSError) and concerns(error, folder):
                raise
            _log.warning("a result could not be written", exc_info=True)
            report = replace(report, warnings=(*report.warnings, f"Not written: {type(error).__name__}: {error}"))
        else:
            report = replace(report, outputs=report.outputs | added)
    report = replace(report, seconds=report.seconds | {"write": time.perf_counter() - started})
    (folder / REPORT_NAME).write_text(to_json(report), encoding="utf-8")
    return report


def _write_stoppable(image: sitk.Image, path: Path, cancelled: CancelCheck) -> None:
    """Write an image; what is still being written when the caller asks to stop goes with its folder."""
    interruptible(lambda: write_image(image, path), cancelled)


def _write_affine_only(outcome: Outcome, folder: Path, cancelled: CancelCheck) -> dict[str, str]:
    """Write what the affine step alone gives, each volume made just before it is written; return the names by role."""
    written = {"affine_transform": "affine.tfm"}
    write_transform(outcome.affine, folder / written["affine_transform"])
    for role, made in (("affine_warped", affine_warped), ("affine_warped_labels", affine_warped_labels)):
        stop_if(cancelled)
        image = made(outcome, cancelled)
        if image is not None:
            written[role] = f"{role.replace('_', '-')}.nrrd"
            _write_stoppable(image, folder / written[role], cancelled)
    return written


def publish(
    staging: Path, out: Path, overwrite: bool, inputs: Sequence[Path] = (), *, earlier: Collection[str] | None = None
) -> None:
    """Move complete results from `staging` to `out`, the report last, so that where there is a report there is all of it.

    Earlier results step aside first and come back if the move fails. Whoever is killed in the middle leaves enough behind for
    the next `prepared_folder` to finish the move.

    Parameters
    ----------
    staging : given by `prepared_folder` for `out`.
    out, overwrite, inputs : as for `prepared_folder`.
    earlier : names of files in `out` that the new results replace, beside those of the same names; the results of an earlier
        job unless given. Only files with names of ours go.

    Raises
    ------
    InputError : `out` has come to hold what must stay.
    OSError : the move failed.
    """
    out = real_folder(out)
    names = [path.name for path in staging.iterdir()]
    if out.exists():
        _check_targets(out, names, overwrite, inputs)
    going = _earlier_names(out, names) if earlier is None else set(earlier)
    publish_files(staging, out, {name for name in going if _may_go(out / name, inputs)})


def _check_outside(out: Path, inputs: Sequence[Path]) -> None:
    """Raise `InputError` if `out` is or lies in a folder that is read: its own results would become part of the input."""
    for given in inputs:
        if os.path.isdir(given) and out.is_relative_to(os.path.realpath(given)):  # noqa: PTH112 - a folder closed to us is none
            raise InputError(
                f"The output folder '{shown(out)}' lies in the input folder '{shown(given)}', which must stay as it is: choose "
                "another one."
            )


def _check_targets(out: Path, names: Sequence[str], overwrite: bool, inputs: Sequence[Path]) -> None:
    """Raise `InputError` if writing `names` into `out` would destroy an input, or anything at all without `overwrite`."""
    for name in names:
        target = out / name
        if not os.path.lexists(target):
            continue
        if _is_one_of(inputs, target):
            raise InputError(f"The results would be written over the input '{shown(target)}': choose another output folder.")
        if target.is_dir() and not target.is_symlink():
            raise InputError(f"The output folder '{shown(out)}' holds a folder '{name}', which stays: choose another.")
        if not overwrite:
            what = "the results of an earlier job" if name == REPORT_NAME else f"a file '{shown(name)}'"
            raise InputError(f"The output folder '{shown(out)}' holds {what}: choose another, or say --overwrite.")


def _is_one_of(inputs: Sequence[Path], target: Path) -> bool:
    for given in inputs:
        # An input that cannot be looked at is told of by whoever reads it, and is no fault of the output folder.
        with suppress(OSError):
            if given.samefile(target):
                return True
    return False


def _earlier_names(out: Path, new: Collection[str]) -> set[str]:
    """Return the names that an earlier job's files in `out` may have."""
    names = set(PREDICTION_NAMES) if PREDICTION_NAME in new else set()
    try:
        outputs = json.loads(read_text(out / REPORT_NAME, "report"))["outputs"].values()
    except (InputError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return names
    return names | {REPORT_NAME} | {name for name in outputs if isinstance(name, str)}


def _may_go(path: Path, inputs: Sequence[Path]) -> bool:
    """Tell whether a file may be deleted. A report is a text file that anyone may have edited: what it lists proves nothing."""
    if path.name not in OWN_NAMES or _is_one_of(inputs, path):
        return False
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False
