"""A finished prediction in place of a new one: whether it is of just this work, and what it says of the job's criterion."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from HyperPredictRegLib.alignment import AlignmentSettings
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.json_records import to_plain
from HyperPredictRegLib.core.search_space import SearchSpace
from HyperPredictRegLib.engines.base import Engine, settings_hash
from HyperPredictRegLib.predictor.card import all_bundled, read_card
from HyperPredictRegLib.preprocessing.image_set import input_checksums, input_paths
from HyperPredictRegLib.results.exchange import prediction_file, read_prediction
from HyperPredictRegLib.results.job import Criterion, Job, channel_role
from HyperPredictRegLib.results.prediction import BOOTSTRAP, AlignmentUsed, Prediction
from HyperPredictRegLib.selection import choose, per_structure
from HyperPredictRegLib.spatial.labels import read_label_names

_PREDICTED_FROM = ("fixed", "moving", "fixed_mask", "moving_mask", "moving_labels", "label_names", "initial_transform")
"""Inputs that a prediction depends on. Fixed labels are for measuring: they may come or change after it."""

_LANDMARKS = ("fixed_landmarks", "moving_landmarks")
"""It depends on these, too, if they lead the registration; else they are for measuring."""


class OtherInputsError(InputError):
    """A prediction is of other inputs than the job's."""


def reusable_prediction(job: Job, engine: Engine, settings: Any, alignment: AlignmentSettings) -> Prediction:
    """Read the prediction that a job names, make sure that the job would predict the same, and choose by the job's criterion.

    Parameters
    ----------
    job : with a `prediction`.
    engine, settings, alignment : what the job's names and settings mean.

    Raises
    ------
    OtherInputsError : the prediction is of other images, masks, labels or initial transforms.
    InputError : it is missing, damaged, of another version of this program, or made otherwise.
    """
    path = prediction_file(job.prediction or "")
    what = f"The prediction '{path}'"
    prediction = read_prediction(path)
    made, used = prediction.job, prediction.engine
    aligned = prediction.alignment
    if aligned is None or not _is_affine(aligned):
        raise InputError(f"{what} holds no alignment that could be taken: predict again.")
    for of, has, wants in (
        ("engine", used.name, engine.info.name),
        ("version of the engine", used.version, engine.info.version),
        ("settings of the engine", used.settings_hash, settings_hash(engine, settings)),
        ("preset", made.preset, job.preset),
        ("seed", made.seed, job.seed),
        ("number of stability seeds", made.stability_seeds, job.stability_seeds),
        ("use of landmarks", made.landmarks_for, job.landmarks_for),
        ("predictor", made.predictor, made.predictor if job.predictor == "bundled" else job.predictor),
    ):
        if has != wants:
            raise InputError(f"{what} was made with another {of} ({has}; this job has {wants}): predict again or change the job.")
    if aligned.settings != to_plain(alignment):
        raise InputError(f"{what} was made with other settings of the alignment: predict again or change the job.")
    _check_bundle(prediction, what)
    _check_inputs(job, prediction, what)
    # The text may have been edited: a setting of its own must be one of the engine.
    engine.info.search_space.complete(prediction.choice.setting, engine.info.name)
    if job.criterion == prediction.criterion:
        return prediction
    return chosen_by(prediction, job.criterion, engine.info.search_space)


def chosen_by(prediction: Prediction, criterion: Criterion, space: SearchSpace) -> Prediction:
    """Return a prediction with the choice by a criterion; one that is unreliable keeps its fixed setting.

    Raises
    ------
    InputError : the criterion names a structure that is not predicted.
    """
    if prediction.reliability.level == "unreliable":
        return replace(prediction, criterion=criterion)
    best = choose(prediction.surface, criterion, prediction.predictor, prediction.engine.space.defaults)
    choice = replace(best, setting=space.complete(best.setting), fixed=prediction.choice.fixed)
    return replace(prediction, criterion=criterion, choice=choice, structures=per_structure(prediction.surface, criterion))


def _check_bundle(prediction: Prediction, what: str) -> None:
    """Raise `InputError` if the bundle has changed since; one that is no longer there says nothing against a prediction."""
    made = prediction.job
    if prediction.predictor == BOOTSTRAP:
        return
    try:
        folders = all_bundled(made.engine, made.preset) if made.predictor == "bundled" else (Path(made.predictor),)
        known = {read_card(folder).model_sha256 for folder in folders}
    except InputError:
        known = set()
    if known and prediction.bundle_sha256 not in known:
        raise InputError(f"{what} was made by another version of the predictor than the one that is there now: predict again.")


def _check_inputs(job: Job, prediction: Prediction, what: str) -> None:
    now, paths = input_checksums(job), input_paths(job)
    channels = [name for name in (*prediction.inputs, *now) if "_channel_" in name]
    for name in (*_PREDICTED_FROM, *(_LANDMARKS if job.uses_landmarks else ()), *dict.fromkeys(channels)):
        has, wants = prediction.inputs.get(name), now.get(name)
        role = name.replace("_", " ") + (" image" if name in ("fixed", "moving") else "")
        role = channel_role(name) if name in channels else role
        if has == wants or (name == "label_names" and _same_names(job, prediction)):
            continue
        if wants is None:
            raise OtherInputsError(f"{what} was made with {role}, but this job names none: give the same, or predict again.")
        given = f"the {role} '{paths[name]}'"
        if has is None:
            raise OtherInputsError(f"{what} was made without {given}: leave it out, or predict again.")
        raise OtherInputsError(f"{what} is of other images: {given} has another content than when it was made. Predict again.")
    weights = [[channel.weight for channel in of.channels] for of in (prediction.job, job)]
    if weights[0] != weights[1]:
        raise OtherInputsError(f"{what} was made with other weights of its channels: give the same, or predict again.")


def _same_names(job: Job, prediction: Prediction) -> bool:
    """Tell whether the job's table calls the predicted structures as before; others, such as fixed ones, do not count."""
    if job.moving_labels is None:
        return True
    table = {} if job.label_names is None else read_label_names(job.label_names)
    surface = prediction.surface
    return all(table.get(label) == name for label, name in zip(surface.labels, surface.structures, strict=True))


def _is_affine(used: AlignmentUsed) -> bool:
    if (len(used.parameters), len(used.center)) != (12, 3) or not np.isfinite([*used.parameters, *used.center]).all():
        return False
    return bool(np.linalg.det(np.reshape(used.parameters[:9], (3, 3))) > 0)
