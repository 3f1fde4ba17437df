"""An outcome or a foresight as files and back: how one process hands to another what it made, to the last bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.curves import Band, Curves
from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.files import read_text
from HyperPredictRegLib.geometry import Geometry
from HyperPredictRegLib.images import file_sha256, read_image, read_labels
from HyperPredictRegLib.job import Report
from HyperPredictRegLib.outcome import Outcome
from HyperPredictRegLib.prediction import Foresight, Prediction
from HyperPredictRegLib.records import from_plain, parsed_json
from HyperPredictRegLib.transforms import read_transform

STATE_NAME = "working-state.json"
"""Holds what no other result file holds exactly; its presence tells that an outcome can be read back."""

FORESIGHT_NAME = "foresight.json"

SCHEMA_VERSION = 1

_MOST_STATE_BYTES = 250_000_000
_REPORT_NAME = "report.json"
_WRITTEN_HERE = {
    "fixed_on_grid": "fixed-on-grid.nrrd",
    "moving_aligned": "moving-aligned.nrrd",
    "moving_registered": "moving-registered.nrrd",
    "foreground": "foreground.nrrd",
}
_WRITTEN_ALREADY = ("warped", "jacobian", "warped_labels")
_AGAIN = "do the registration again"


@dataclass(frozen=True)
class _State:
    """The content of the state file.

    Attributes
    ----------
    report : as it stood when the state was written, with numbers that report.json has no word for, such as NaN.
    grids : of each image; what an image file says of its grid is rounded in the last digit.
    metadata : header fields of each image; its file holds some of its own instead.
    label_names : by label value.
    curves : see `_plain_curves`.
    """

    report: Report
    grids: dict[str, Geometry]
    metadata: dict[str, dict[str, str]]
    label_names: dict[str, str]
    curves: dict[str, Any] | None
    schema_version: int = SCHEMA_VERSION


def foresight_to_json(foresight: Foresight) -> str:
    """Return a foresight as JSON text; every number comes back exactly by `foresight_from_json`."""
    plain = {
        "schema_version": SCHEMA_VERSION,
        "prediction": asdict(foresight.prediction),
        "curves": _plain_curves(foresight.curves),
    }
    return json.dumps(plain)


def foresight_from_json(text: str, what: str) -> Foresight:
    """Build a foresight from its JSON text.

    Parameters
    ----------
    text : made by `foresight_to_json`.
    what : how to call the text in an error, for example "the prediction in the scene".

    Raises
    ------
    InputError : the text is damaged, or of another version of this program.
    """
    data = _object(text, what)
    _check_version(data, what)
    if "prediction" not in data or "curves" not in data:
        raise InputError(f"{_cap(what)} is no complete prediction: predict again.")
    return Foresight(
        from_plain(Prediction, data["prediction"], f"{_cap(what)}: prediction", any_number=True),
        _curves(data["curves"], what, "predict again"),
    )


def write_foresight(foresight: Foresight, folder: Path) -> dict[str, str]:
    """Write a foresight into a folder (a `workflow.ForesightWriter`) and return the file's name by its role."""
    (folder / FORESIGHT_NAME).write_text(foresight_to_json(foresight), encoding="utf-8")
    return {"foresight": FORESIGHT_NAME}


def read_foresight(folder: Path) -> Foresight:
    """Read the foresight that `write_foresight` left in a folder.

    Raises
    ------
    InputError : there is none, or it is damaged.
    """
    path = folder / FORESIGHT_NAME
    return foresight_from_json(_text(path, "predict again"), f"the prediction '{path}'")


def write_rest(outcome: Outcome, folder: Path) -> dict[str, str]:
    """Write what an outcome holds beyond the usual result files, for `read_outcome` (a `workflow.Writer`).

    Parameters
    ----------
    outcome : what a job produced.
    folder : where `outputs.write_files` writes the rest of it.

    Returns
    -------
    The file name for each role: images on the working grid by their field's name, and "working_state".

    Raises
    ------
    OSError : the disk is full or the folder cannot be written.
    """
    for name, file in _WRITTEN_HERE.items():
        _write_uncompressed(getattr(outcome, name), folder / file)
    images = {name: getattr(outcome, name) for name in (*_WRITTEN_HERE, *_WRITTEN_ALREADY)}
    state = _State(
        report=outcome.report,
        grids={name: Geometry.of(image) for name, image in images.items() if image is not None},
        metadata={
            name: {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
            for name, image in images.items()
            if image is not None
        },
        label_names={str(label): name for label, name in outcome.label_names.items()},
        curves=None if outcome.curves is None else _plain_curves(outcome.curves),
    )
    (folder / STATE_NAME).write_text(json.dumps(asdict(state)), encoding="utf-8")
    return {**_WRITTEN_HERE, "working_state": STATE_NAME}


def read_outcome(folder: Path) -> Outcome:
    """Read an outcome from a finished output folder to which `write_rest` contributed.

    The inputs are read from where the job says; everything equals what the job had in memory, bit for bit.

    Raises
    ------
    InputError : a file is missing or damaged, or an input has changed since.
    """
    state, report = _read_records(folder)
    _check_unchanged(report)
    job = report.job
    fixed, moving = read_image(job.fixed, "fixed image"), read_image(job.moving, "moving image")

    def labels(path: str | None, image: sitk.Image, role: str) -> sitk.Image | None:
        return None if path is None else read_labels(path, Geometry.of(image), role)

    def volume(name: str) -> sitk.Image:
        return _read_volume(folder, report, name, state)

    return Outcome(
        report=report,
        fixed=fixed,
        moving=moving,
        warped=volume("warped"),
        transform=sitk.CompositeTransform(read_transform(_file(folder, report, "transform"), "transform", own=True)),
        inverse=read_transform(_file(folder, report, "inverse"), "inverse transform", own=True).Downcast(),
        fixed_on_grid=volume("fixed_on_grid"),
        moving_aligned=volume("moving_aligned"),
        moving_registered=volume("moving_registered"),
        foreground=volume("foreground"),
        jacobian=volume("jacobian"),
        fixed_labels=labels(job.fixed_labels, fixed, "fixed labels"),
        moving_labels=labels(job.moving_labels, moving, "moving labels"),
        warped_labels=volume("warped_labels") if "warped_labels" in state.grids else None,
        label_names=_label_names(state, folder),
        curves=None if state.curves is None else _curves(state.curves, f"the file '{folder / STATE_NAME}'", _AGAIN),
    )


def _read_records(folder: Path) -> tuple[_State, Report]:
    path = folder / STATE_NAME
    what = f"the file '{path}'"
    data = _object(_text(path, _AGAIN), what)
    _check_version(data, what)
    state = from_plain(_State, data, _cap(what), any_number=True)
    # What was still unknown when the state was written: the files of later writers, the time that writing took.
    path = folder / _REPORT_NAME
    whole = _object(_text(path, _AGAIN), f"the report '{path}'")
    late = {name: whole.get(name) for name in ("outputs", "seconds", "warnings")}
    return state, from_plain(Report, data["report"] | late, f"The report '{path}'", any_number=True)


def _label_names(state: _State, folder: Path) -> dict[int, str]:
    try:
        return {int(label): name for label, name in state.label_names.items()}
    except ValueError as error:
        raise InputError(f"The file '{folder / STATE_NAME}' has a label that is no number: {_AGAIN}.") from error


def _check_unchanged(report: Report) -> None:
    for used in report.inputs:
        if not Path(used.path).exists():
            raise InputError(f"The {used.role} '{used.path}' is no longer there: put it back, or {_AGAIN}.")
        if file_sha256(used.path) != used.sha256:
            raise InputError(f"The {used.role} '{used.path}' has changed since it was registered: {_AGAIN}.")


def _file(folder: Path, report: Report, role: str) -> Path:
    name = report.outputs.get(role)
    # A report is a text file that anyone may have edited: nothing outside the folder is read.
    if name is None or Path(name).name != name or not (folder / name).is_file():
        raise InputError(f"The results in '{folder}' lack the file of '{role.replace('_', ' ')}': {_AGAIN}.")
    return folder / name


def _read_volume(folder: Path, report: Report, name: str, state: _State) -> sitk.Image:
    path = _file(folder, report, name)
    try:
        image = sitk.ReadImage(str(path))
        state.grids[name].apply_to(image)
    except (RuntimeError, ValueError, KeyError) as error:
        raise InputError(f"The result '{path}' is damaged: {_AGAIN}.") from error
    for key in image.GetMetaDataKeys():
        image.EraseMetaData(key)
    for key, value in state.metadata.get(name, {}).items():
        image.SetMetaData(key, value)
    return image


def _write_uncompressed(image: sitk.Image, path: Path) -> None:
    """Write an image fast; these files are read once, soon, by the process that asked for them."""
    try:
        sitk.WriteImage(image, str(path), useCompression=False)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise OSError(f"'{path.name}' could not be written to '{path.parent}': {reason}") from error
    # ITK's writers do not all notice a full disk.
    if path.stat().st_size < sitk.GetArrayViewFromImage(image).nbytes:
        raise OSError(f"'{path.name}' could not be written completely to '{path.parent}': is the disk full?")


def _plain_curves(curves: Curves) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for field in fields(curves):
        value = getattr(curves, field.name)
        if isinstance(value, Band):
            plain[field.name] = {"value": value.value.tolist(), "lower": value.lower.tolist(), "upper": value.upper.tolist()}
        else:
            plain[field.name] = value.tolist() if isinstance(value, np.ndarray) else list(value)
    return plain


def _curves(plain: Any, what: str, remedy: str) -> Curves:
    try:
        if not isinstance(plain["names"], list) or not isinstance(plain["structures"], list):
            raise ValueError("names should be a list")
        names, structures = tuple(map(str, plain["names"])), tuple(map(str, plain["structures"]))
        values = np.array(plain["values"], dtype=float).reshape(-1, len(names))
        labels = tuple(map(int, plain["labels"]))

        def band(name: str, *shape: int) -> Band:
            # Without a structure the list is empty, and only the shape tells for how many settings.
            parts = (np.array(plain[name][part], dtype=float) for part in ("value", "lower", "upper"))
            return Band(*(part.reshape(shape) for part in parts))

        n = len(values)
        bands = {name: band(name, n) for name in ("mean_dice", "folding_foreground", "folding_box", "sd_log_jacobian")}
        if len(labels) != len(structures):
            raise ValueError("as many labels as structures are needed")
        return Curves(names, values, structures, labels, band("dice", len(structures), n), **bands)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{_cap(what)} has damaged curves ({type(error).__name__}: {error}): {remedy}.") from error


def _text(path: Path, remedy: str) -> str:
    if not path.is_file():
        raise InputError(f"The folder '{path.parent}' holds no '{path.name}', so it is no complete result: {remedy}.")
    return read_text(path, "file", _MOST_STATE_BYTES)


def _object(text: str, what: str) -> dict[str, Any]:
    data = parsed_json(text, _cap(what), any_number=True)
    if not isinstance(data, dict):
        raise InputError(f"{_cap(what)} should be a JSON object.")
    return data


def _check_version(data: Mapping[str, Any], what: str) -> None:
    if data.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{_cap(what)} has schema version {data.get('schema_version')}, but this program reads version {SCHEMA_VERSION}: "
            "use the version of HyperPredictReg that wrote it, or do the work again."
        )


def _cap(text: str) -> str:
    return text[0].upper() + text[1:]
