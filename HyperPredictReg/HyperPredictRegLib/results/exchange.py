"""An outcome or a prediction as files and back: how one process hands to another what it made, to the last bit."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.files import read_text
from HyperPredictRegLib.core.formatting import capitalized
from HyperPredictRegLib.core.json_records import from_json, from_plain, parsed_json, to_json
from HyperPredictRegLib.results.job import READS, SCHEMA_VERSION
from HyperPredictRegLib.results.outcome import Outcome, Result
from HyperPredictRegLib.results.prediction import Prediction
from HyperPredictRegLib.results.report import Report
from HyperPredictRegLib.results.results_folder import PREDICTION_NAME, REPORT_NAME
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.images import file_sha256, read_image, read_labels
from HyperPredictRegLib.spatial.labels import renumbered_like
from HyperPredictRegLib.spatial.transforms import read_transform

STATE_NAME = "working-state.json"
"""Holds what no other result file holds exactly; its presence tells that an outcome can be read back."""

_MOST_STATE_BYTES = 250_000_000
_WRITTEN_HERE = {
    "fixed_on_grid": "fixed-on-grid.nrrd",
    "moving_aligned": "moving-aligned.nrrd",
    "moving_registered": "moving-registered.nrrd",
    "foreground": "foreground.nrrd",
}
_WRITTEN_ALREADY = ("warped", "jacobian", "warped_labels")
_AFFINE_ONLY = ("affine_warped", "affine_warped_labels")
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
    prediction, background : see `Outcome`.
    """

    report: Report
    grids: dict[str, Geometry]
    metadata: dict[str, dict[str, str]]
    label_names: dict[str, str]
    prediction: Prediction | None
    background: float = 0.0
    schema_version: int = field(default=SCHEMA_VERSION, metadata=READS)


@dataclass(frozen=True)
class _Late:
    """What a report tells more than the state, which is written before it."""

    outputs: dict[str, str]
    seconds: dict[str, float]
    warnings: tuple[str, ...]


def prediction_to_json(prediction: Prediction) -> str:
    """Return a prediction as JSON text, on one line; every finite number comes back exactly by `prediction_from_json`."""
    return to_json(prediction, indent=None)


def prediction_from_json(text: str, what: str) -> Prediction:
    """Build a prediction from its JSON text.

    Parameters
    ----------
    text : made by `prediction_to_json`.
    what : how to call the text in an error, for example "the prediction in the scene".

    Raises
    ------
    InputError : the text is damaged, or of another version of this program.
    """
    return from_json(Prediction, text, capitalized(what), any_number=True)


def save_prediction(prediction: Prediction, folder: Path) -> dict[str, str]:
    """Write a prediction into a folder (a `workflow.PredictionWriter`) and return the file's name by its role."""
    (folder / PREDICTION_NAME).write_text(prediction_to_json(prediction), encoding="utf-8")
    return {"prediction": PREDICTION_NAME}


def prediction_file(path: str) -> Path:
    """Return the file that a job's `prediction` means: itself, or the one in the folder that it names."""
    return Path(path) / PREDICTION_NAME if Path(path).is_dir() else Path(path)


def read_prediction(path: Path) -> Prediction:
    """Read a prediction from its file.

    Raises
    ------
    InputError : there is none, or it is damaged or of another version of this program.
    """
    return prediction_from_json(read_text(path, "prediction", _MOST_STATE_BYTES), f"the prediction '{path}'")


def write_rest(outcome: Outcome, folder: Path) -> dict[str, str]:
    """Write what an outcome holds beyond the usual result files, for `read_outcome` (a `workflow.Writer`).

    Parameters
    ----------
    outcome : what a job produced.
    folder : where `results_folder.write_files` writes the rest of it.

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
        prediction=outcome.prediction,
        background=outcome.background,
    )
    (folder / STATE_NAME).write_text(_exact(state), encoding="utf-8")
    return {**_WRITTEN_HERE, "working_state": STATE_NAME}


def read_result(folder: Path) -> Result:
    """Read what a registration adds to its inputs from a finished output folder to which `write_rest` contributed.

    The inputs are neither read nor looked at: for whoever has them in memory.

    Raises
    ------
    InputError : a file is missing or damaged.
    """
    state, report = _read_records(folder)
    # They lie on the grid of the warped image, whose file rounds it.
    grids = replace(state, grids=state.grids | dict.fromkeys(_AFFINE_ONLY, state.grids["warped"]))
    affine_only = {name: _read_volume(folder, report, name, grids) for name in _AFFINE_ONLY if name in report.outputs}
    return Result(**_result_parts(folder, state, report), **affine_only)


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

    fixed_labels = labels(job.fixed_labels, fixed, "fixed labels")
    moving_labels = labels(job.moving_labels, moving, "moving labels")
    if fixed_labels is not None and moving_labels is not None:
        fixed_labels = renumbered_like(fixed_labels, moving_labels)[0]
    return Outcome(
        **_result_parts(folder, state, report),
        fixed=fixed,
        moving=moving,
        fixed_on_grid=_read_volume(folder, report, "fixed_on_grid", state),
        moving_aligned=_read_volume(folder, report, "moving_aligned", state),
        moving_registered=_read_volume(folder, report, "moving_registered", state),
        fixed_labels=fixed_labels,
        moving_labels=moving_labels,
    )


def _result_parts(folder: Path, state: _State, report: Report) -> dict[str, Any]:
    return {
        "report": report,
        "warped": _read_volume(folder, report, "warped", state),
        "transform": sitk.CompositeTransform(read_transform(_file(folder, report, "transform"), "transform", own=True)),
        "inverse": read_transform(_file(folder, report, "inverse"), "inverse transform", own=True).Downcast(),
        "foreground": _read_volume(folder, report, "foreground", state),
        "jacobian": _read_volume(folder, report, "jacobian", state),
        "warped_labels": _read_volume(folder, report, "warped_labels", state) if "warped_labels" in state.grids else None,
        "label_names": _label_names(state, folder),
        "prediction": state.prediction,
        "background": state.background,
    }


def _read_records(folder: Path) -> tuple[_State, Report]:
    texts = [_text(folder / name) for name in (STATE_NAME, REPORT_NAME)]
    what, report = (f"The file '{folder / name}'" for name in (STATE_NAME, REPORT_NAME))
    data, whole = parsed_json(texts[0], what, any_number=True), parsed_json(texts[1], report, any_number=True)
    state: _State = from_plain(_State, data, what, any_number=True)
    # What was still unknown when the state was written: the files of later writers, the time that writing took.
    if isinstance(whole, dict):
        whole = {f.name: whole.get(f.name) for f in fields(_Late)}
    late: _Late = from_plain(_Late, whole, report, any_number=True)
    return state, replace(state.report, outputs=late.outputs, seconds=late.seconds, warnings=late.warnings)


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


def _exact(state: _State) -> str:
    """Return the state as JSON text in Python's own words for numbers that are not finite."""
    return json.dumps(asdict(state), default=lambda array: array.tolist())


def _text(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"The folder '{path.parent}' holds no '{path.name}', so it is no complete result: {_AGAIN}.")
    return read_text(path, "file", _MOST_STATE_BYTES)
