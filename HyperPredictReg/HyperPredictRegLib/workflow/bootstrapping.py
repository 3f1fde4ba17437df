"""A prediction without a trained predictor: by the bootstrap rule, from coarse trial registrations of the pair itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from HyperPredictRegLib.core.progress import CancelCheck, Progress, ProgressEvent
from HyperPredictRegLib.engines.base import engine_used
from HyperPredictRegLib.predictor.bootstrap_surface import outlook_of, surface_of, untried, what_was_measured
from HyperPredictRegLib.predictor.evidence import PairEvidence, pair_evidence
from HyperPredictRegLib.quality.measurement import nearest
from HyperPredictRegLib.results.prediction import BOOTSTRAP, Choice, Prediction
from HyperPredictRegLib.workflow.planning import Plan
from HyperPredictRegLib.workflow.preparing import Prepared

TRYING = "trying settings coarsely against a known truth"

BEGINS, ENDS = 0.1, 0.95
"""Shares of a prediction between which the trials lie."""


def found_evidence(
    plan: Plan, prepared: Prepared, settings: Any, progress: Progress, cancelled: CancelCheck
) -> PairEvidence:
    """Find the evidence about a pair, and tell after each trial registration how many are done.

    `settings` are those of `settled_settings`, so that what is tried is what the working grid would be registered by.

    Takes some four seconds of one core with the default engine, whatever the size of the images.

    Raises
    ------
    InputError : a foreground is too small for the coarse grid, or the two do not overlap.
    RegistrationError : a trial registration diverged.
    Cancelled : the caller asked to stop.
    """

    def told(event: ProgressEvent) -> None:
        share = BEGINS + (ENDS - BEGINS) * event.fraction
        progress(replace(event, fraction=share, message=f"{TRYING}: {event.message}"))

    progress(ProgressEvent("predict", BEGINS, TRYING))
    inputs, pair = prepared.inputs, prepared.pair
    through = prepared.affine if prepared.pull is None else prepared.pull.through
    return pair_evidence(
        pair,
        nearest(inputs.fixed.foreground, pair.grid),
        nearest(inputs.moving.foreground, pair.grid, through),
        plan.engine,
        settings,
        seed=plan.job.seed,
        progress=told,
        cancelled=cancelled,
    )


def predicted_by_bootstrap(
    plan: Plan, prepared: Prepared, found: PairEvidence, fixed: Choice, why: str, doubts: Sequence[str]
) -> Prediction:
    """Predict a pair by the bootstrap rule; the choice is `fixed` until the job's criterion makes its own.

    Parameters
    ----------
    found : the evidence about it.
    fixed : the setting of those who do not predict.
    why : a sentence: why no trained predictor serves.
    doubts : sentences, for which the prediction is uncertain at best.

    Raises
    ------
    InputError : nothing of what was tried can be used on the working grid.
    """
    job, inputs, pair, alignment = plan.job, prepared.inputs, prepared.pair, prepared.alignment
    suited = alignment.contrast != "different" or plan.engine.info.contrasts != "same"
    surface = surface_of(found, prepared.space, min(pair.grid.spacing))
    return Prediction(
        job=job,
        engine=engine_used(plan.engine, plan.engine_settings),
        predictor=BOOTSTRAP,
        bundle_sha256="",
        reliability=what_was_measured(found, doubts, alignment.refusals, why),
        criterion=job.criterion,
        choice=fixed,
        structures=(),
        surface=surface,
        seconds={},
        warnings=(*inputs.notes, *alignment.warnings, *found.remarks, *untried(surface, prepared.space)),
        alignment=alignment,
        inputs=inputs.checksums,
        notes=inputs.notes,
        outlook=outlook_of(found, surface, suited),
    )
