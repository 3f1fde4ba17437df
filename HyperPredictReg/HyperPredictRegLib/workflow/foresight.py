"""The job of `hyperpredictreg predict`: align, look at the pair, foresee; register nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from HyperPredictRegLib.engines.base import settings_hash
from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.inputs import input_paths
from HyperPredictRegLib.job import EngineUsed, Job
from HyperPredictRegLib.outcome import Outcome
from HyperPredictRegLib.outputs import prepared_folder, publish
from HyperPredictRegLib.prediction import Foresight, Prediction, StructureChoice
from HyperPredictRegLib.predictor.card import read_card
from HyperPredictRegLib.predictor.choosing import ChosenLambda, choose_lambda
from HyperPredictRegLib.predictor.paths import bundled
from HyperPredictRegLib.progress import CancelCheck, Progress, ProgressEvent, never, silent, stop_if
from HyperPredictRegLib.records import to_plain
from HyperPredictRegLib.selection import feasible, interpolated, per_structure
from HyperPredictRegLib.selection.readout import band_value
from HyperPredictRegLib.threads import threads
from HyperPredictRegLib.workflow.plan import Clock, Plan, made_ready, output_folder, working

ForesightWriter = Callable[[Foresight, Path], dict[str, str]]
"""Writes files of a prediction into a folder and returns their names by role."""


def predict(
    job: Job,
    *,
    writers: Sequence[ForesightWriter],
    overwrite: bool = False,
    progress: Progress = silent,
    cancelled: CancelCheck = never,
) -> Foresight:
    """Foresee the quality of a job's registration and write it to the job's folder; all files appear together or not at all.

    Raises
    ------
    InputError : an input or option cannot be used, or there is no predictor for the job.
    RegistrationError : the pair could not be aligned.
    Cancelled : the caller asked to stop.
    """
    Plan.of(job)
    out, inputs = output_folder(job), [Path(name) for name in input_paths(job)]
    with prepared_folder(out, overwrite, inputs) as staging:
        with working():
            foresight = foresee(job, progress=progress, cancelled=cancelled)
        for write in writers:
            stop_if(cancelled)
            write(foresight, staging)
        stop_if(cancelled)
        publish(staging, out, overwrite, inputs)
    return foresight


def foresee(job: Job, *, progress: Progress = silent, cancelled: CancelCheck = never) -> Foresight:
    """Foresee the quality of a job's registration in memory; see `predict`."""
    plan = Plan.of(job)
    if job.hyperparameters:
        raise InputError("A prediction is for all λ: leave the weight out. The curves tell what any λ would give.")
    clock = Clock()
    with threads(1 if job.reproducible else None):
        ready = made_ready(plan, clock, progress, cancelled)
        progress(ProgressEvent("predict", 0.0, "looking at the pair"))
        with clock.stage("predict"):
            chosen = choose_lambda(
                job, plan.engine, plan.engine_settings, ready.inputs, ready.pair, ready.alignment, cancelled=cancelled
            )
    if chosen.forecast is None:
        raise InputError(f"Nothing can be foreseen for this pair. {chosen.sentence}")
    progress(ProgressEvent("predict", 1.0, "done"))
    warnings = (*ready.inputs.notes, *ready.alignment.warnings, *chosen.warnings)
    return Foresight(_prediction(plan, chosen, warnings, clock), chosen.forecast.curves)


def foresight_of(outcome: Outcome) -> Foresight | None:
    """Return what was foreseen in the course of a registration, as `predict` would have; None if nothing was.

    What each structure would choose for itself is left out.
    """
    report = outcome.report
    if outcome.curves is None or report.verdict is None or not report.trials:
        return None
    first = dict(report.trials[0].hyperparameters) if report.predicted is None else dict(report.predicted.hyperparameters)
    job = report.job
    folder = bundled(job.engine, job.preset) if job.predictor == "bundled" else Path(job.predictor)
    card = None if folder is None else read_card(folder)
    return Foresight(
        Prediction(
            job=job,
            engine=report.engine,
            predictor=report.predicted.predictor if report.predicted is not None else "",
            verdict=report.verdict,
            criterion=report.criterion or job.criterion,
            hyperparameters=first,
            feasible=bool(feasible(outcome.curves, report.criterion or job.criterion).any()),
            choice=report.choice,
            predicted=report.predicted,
            structures=(),
            fixed_hyperparameters=first if card is None else {card.hyperparameter: card.fixed_value},
            seconds=report.seconds,
            warnings=tuple(dict.fromkeys((*(n for used in report.inputs for n in used.notes), *report.alignment.warnings))),
        ),
        outcome.curves,
    )


def _prediction(plan: Plan, chosen: ChosenLambda, warnings: tuple[str, ...], clock: Clock) -> Prediction:
    if chosen.forecast is None or chosen.fixed is None:
        raise ValueError("There is no forecast to report.")
    engine = plan.engine
    return Prediction(
        job=plan.job,
        engine=EngineUsed(
            engine.name, engine.version, to_plain(plan.engine_settings), settings_hash(engine, plan.engine_settings)
        ),
        predictor=chosen.predictor,
        verdict=chosen.forecast.verdict,
        criterion=plan.job.criterion,
        hyperparameters=chosen.hyperparameters,
        feasible=chosen.feasible,
        choice=chosen.sentence,
        predicted=chosen.predicted,
        structures=_structures(plan, chosen),
        fixed_hyperparameters=dict(chosen.fixed),
        seconds=clock.seconds,
        warnings=warnings,
    )


def _structures(plan: Plan, chosen: ChosenLambda) -> tuple[StructureChoice, ...]:
    curves = chosen.trusted_curves
    if curves is None:
        return ()
    here = interpolated(curves, np.array([[chosen.hyperparameters[name] for name in curves.names]]))
    # By label, not by name: two structures may be called the same.
    rows = {label: row for row, label in enumerate(curves.labels)}
    return tuple(
        StructureChoice(
            own.label, own.structure, own.choice.hyperparameters, own.dice, band_value(here.dice, (rows[own.label], 0))
        )
        for own in per_structure(curves, plan.job.criterion)
    )
