"""A prediction without a trained predictor: by the bootstrap rule, from coarse trial registrations of the pair itself."""

from __future__ import annotations

from collections.abc import Sequence

from HyperPredictRegLib.core.progress import CancelCheck, Progress, ProgressEvent
from HyperPredictRegLib.engines.base import engine_used
from HyperPredictRegLib.predictor.bootstrap_surface import outlook_of, surface_of, what_was_measured
from HyperPredictRegLib.predictor.evidence import pair_evidence
from HyperPredictRegLib.quality.measurement import nearest
from HyperPredictRegLib.results.job import Criterion
from HyperPredictRegLib.results.prediction import BOOTSTRAP, Choice, Prediction
from HyperPredictRegLib.workflow.planning import Plan
from HyperPredictRegLib.workflow.preparing import Prepared

TRYING = "trying settings coarsely against a known truth"


STRUCTURES_IDLE = (
    "Without a trained predictor no Dice is predicted: the expected error counts, and the weights of structures have no effect."
)


def counts_structures(criterion: Criterion) -> bool:
    """Tell whether a criterion goes by anything but the plain mean over all structures."""
    return bool(criterion.structures) or criterion.combine != "mean"


def predicted_by_bootstrap(
    plan: Plan,
    prepared: Prepared,
    fixed: Choice,
    why: str,
    doubts: Sequence[str],
    progress: Progress,
    cancelled: CancelCheck,
) -> Prediction:
    """Predict a pair by the bootstrap rule; the choice is `fixed` until the job's criterion makes its own.

    Takes some three to six seconds of one core, whatever the size of the images.

    Parameters
    ----------
    fixed : the setting of those who do not predict.
    why : a sentence: why no trained predictor serves.
    doubts : sentences, for which the prediction is uncertain at best.

    Raises
    ------
    InputError : a foreground is too small for the coarse grid, or the two do not overlap.
    RegistrationError : a trial registration diverged.
    Cancelled : the caller asked to stop.
    """
    job, inputs, pair, alignment = plan.job, prepared.inputs, prepared.pair, prepared.alignment
    progress(ProgressEvent("predict", 0.1, TRYING))
    through = prepared.affine if prepared.pull is None else prepared.pull.through
    found = pair_evidence(
        pair,
        nearest(inputs.fixed.foreground, pair.grid),
        nearest(inputs.moving.foreground, pair.grid, through),
        plan.engine,
        plan.engine_settings,
        seed=job.seed,
        cancelled=cancelled,
    )
    suited = alignment.contrast != "different" or plan.engine.info.contrasts != "same"
    surface = surface_of(found, prepared.space, min(pair.grid.spacing))
    idle = (STRUCTURES_IDLE,) if counts_structures(job.criterion) else ()
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
        warnings=(*inputs.notes, *alignment.warnings, *found.remarks, *idle),
        alignment=alignment,
        inputs=inputs.checksums,
        notes=inputs.notes,
        outlook=outlook_of(found, surface, suited),
    )
