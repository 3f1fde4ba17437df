"""The job of `hyperpredictreg predict`: align, look at the pair, predict; register nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.progress import CancelCheck, Progress, ProgressEvent, never, silent, stop_if
from HyperPredictRegLib.core.resources import threads
from HyperPredictRegLib.results.job import Job
from HyperPredictRegLib.results.prediction import Prediction
from HyperPredictRegLib.results.results_folder import prepared_folder, publish
from HyperPredictRegLib.workflow.choosing import choose_setting
from HyperPredictRegLib.workflow.planning import Plan, working
from HyperPredictRegLib.workflow.preparing import Clock, prepare

PredictionWriter = Callable[[Prediction, Path], dict[str, str]]
"""Writes files of a prediction into a folder and returns their names by role."""


def predict(
    job: Job,
    *,
    writers: Sequence[PredictionWriter],
    overwrite: bool = False,
    progress: Progress = silent,
    cancelled: CancelCheck = never,
) -> Prediction:
    """Predict the quality of a job's registration and write it to the job's folder; all files appear together or not at all.

    Parameters
    ----------
    job : what to do; a later job may name the written prediction.
    writers : what to write, see `PredictionWriter`.
    overwrite : replace the results of an earlier job in the output folder.
    progress, cancelled : see `HyperPredictRegLib.core.progress`.

    Raises
    ------
    InputError : an input or option cannot be used, or there is no predictor for the job.
    RegistrationError : the pair could not be aligned.
    Cancelled : the caller asked to stop.
    """
    plan = _plan(job)
    with prepared_folder(plan.out, overwrite, plan.inputs) as staging:
        with working():
            prediction = _compute(plan, progress, cancelled)
        for write in writers:
            stop_if(cancelled)
            write(prediction, staging)
        stop_if(cancelled)
        publish(staging, plan.out, overwrite, plan.inputs)
    return prediction


def compute_prediction(job: Job, *, progress: Progress = silent, cancelled: CancelCheck = never) -> Prediction:
    """Predict the quality of a job's registration in memory; see `predict`."""
    return _compute(_plan(job), progress, cancelled)


def _plan(job: Job) -> Plan:
    if job.setting:
        raise InputError("A prediction is for all settings: leave the weight out. The curves tell what any of them would give.")
    if job.prediction is not None:
        raise InputError("A prediction is made anew: leave out the finished one that the job names, or register with it.")
    return Plan.of(job)


def _compute(plan: Plan, progress: Progress, cancelled: CancelCheck) -> Prediction:
    clock = Clock()
    with threads(1 if plan.job.reproducible else None):
        prepared = prepare(plan, clock, progress, cancelled)
        progress(ProgressEvent("predict", 0.0, "looking at the pair"))
        with clock.stage("predict"):
            choice, prediction = choose_setting(plan, prepared, cancelled, progress)
    if prediction is None:
        raise InputError(f"Nothing can be predicted for this pair. {choice.sentence}")
    progress(ProgressEvent("predict", 1.0, "done"))
    return replace(prediction, seconds=clock.seconds)
