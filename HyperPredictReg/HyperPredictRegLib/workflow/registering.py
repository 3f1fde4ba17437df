"""The whole job: read, align, register, measure, write."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import scipy
import SimpleITK as sitk

import HyperPredictRegLib
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.formatting import number
from HyperPredictRegLib.core.progress import CancelCheck, Progress, ProgressEvent, interruptible, never, silent, stop_if
from HyperPredictRegLib.core.resources import peak_mb, threads
from HyperPredictRegLib.engines import engine_infos
from HyperPredictRegLib.engines.base import engine_used
from HyperPredictRegLib.quality.benefit import evidence, judged
from HyperPredictRegLib.quality.measurement import Measurement, measure, nearest
from HyperPredictRegLib.quality.metrics import MUCH_FOLDED_PERCENT, SAME_DICE
from HyperPredictRegLib.results.formatting import percent
from HyperPredictRegLib.results.job import Job
from HyperPredictRegLib.results.outcome import Outcome
from HyperPredictRegLib.results.prediction import AlignmentUsed, Choice, Predicted, Prediction, Reliability
from HyperPredictRegLib.results.report import Benefit, Comparison, GridUsed, Measured, MirrorCheck, Report
from HyperPredictRegLib.results.results_folder import prepared_folder, publish, write_files
from HyperPredictRegLib.selection import within_limit
from HyperPredictRegLib.selection.comparison import compared, misses_narrowly, predicted_at, surprise_words, surprises
from HyperPredictRegLib.selection.interpolation import predict_at
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.slabs import resampled
from HyperPredictRegLib.workflow.choosing import choose_setting
from HyperPredictRegLib.workflow.closed_loop import Registered, register_within_limit
from HyperPredictRegLib.workflow.mirrored import exchanged_labels, mirror_words, mirrored_image
from HyperPredictRegLib.workflow.planning import Plan, working
from HyperPredictRegLib.workflow.preparing import Clock, Prepared, prepare

_POOR_DICE = 0.5
"""From this mean Dice on an image is not mirrored, unless it looks like its mirror image, which exchanged labels tell."""

_SAME_SIMILARITY, _LEAST_DROP = 0.01, 0.001
"""Share of the mutual information above none, and mutual information, by which it may fall: resampling alone blurs as much."""

_MIRRORED = "The result looks as if an image were mirrored, or labels exchanged: see the warnings."

Writer = Callable[[Outcome, Path], dict[str, str]]
"""Writes more files of an outcome into a folder and returns their names by role, such as the report page or a scene."""


def run(
    job: Job,
    *,
    writers: Sequence[Writer] = (),
    overwrite: bool = False,
    progress: Progress = silent,
    cancelled: CancelCheck = never,
) -> Report:
    """Do a job and write its results; they appear in the output folder all together or not at all.

    Parameters
    ----------
    job : what to do.
    writers : more results to write, see `Writer`. One that fails costs its own files and a warning, nothing else.
    overwrite : replace the results of an earlier job in the output folder.
    progress, cancelled : see `HyperPredictRegLib.core.progress`.

    Returns
    -------
    report : as written to ``report.json``.

    Raises
    ------
    InputError : an input, option or the output folder cannot be used.
    RegistrationError : no valid result came out.
    Cancelled : the caller asked to stop.
    """
    plan = Plan.of(job)
    with prepared_folder(plan.out, overwrite, plan.inputs) as staging:
        with working():
            outcome = _compute(plan, progress, cancelled)
        progress(ProgressEvent("write", 0.0, "writing results"))
        report = write_files(outcome, staging, writers, cancelled)
        stop_if(cancelled)
        publish(staging, plan.out, overwrite, plan.inputs)
    progress(ProgressEvent("write", 1.0, "done"))
    return report


def compute(job: Job, *, progress: Progress = silent, cancelled: CancelCheck = never) -> Outcome:
    """Do a job in memory and write nothing; see `run`."""
    return _compute(Plan.of(job), progress, cancelled)


def _compute(plan: Plan, progress: Progress, cancelled: CancelCheck) -> Outcome:
    with threads(1 if plan.job.reproducible else None):
        clock = Clock()
        prepared = prepare(plan, clock, progress, cancelled)
        with clock.stage("predict"):
            if not plan.job.setting:
                progress(ProgressEvent("predict", 0.0, "choosing λ"))
            choice, prediction = choose_setting(plan, prepared, cancelled, progress, at_any_cost=plan.job.trials)
        with clock.stage("register"):
            registered = register_within_limit(plan, prepared, choice, prediction, progress, cancelled)
        progress(ProgressEvent("measure", 0.0, "measuring"))
        return _measured_outcome(plan, prepared, choice, prediction, registered, clock, cancelled)


def _measured_outcome(
    plan: Plan,
    prepared: Prepared,
    choice: Choice,
    prediction: Prediction | None,
    registered: Registered,
    clock: Clock,
    cancelled: CancelCheck,
) -> Outcome:
    inputs, affine, pair = prepared.inputs, prepared.affine, prepared.pair
    transform = interruptible(lambda: pair.whole_transform(registered.registration, affine), cancelled)
    at_result = _predicted_at_result(choice, prediction, registered)
    with clock.stage("measure"):
        found = measure(inputs, transform, affine, pair.grid, cancelled)
        comparisons = compared(choice.predicted, at_result, registered.trials, found.measured)
    with clock.stage("judge"):
        benefit = interruptible(lambda: _benefit(plan, prepared, registered, found), cancelled)
    with clock.stage("measure"):
        mirror_check = _explanation(plan, prepared, found, comparisons, benefit, cancelled)
    warnings = (
        *prediction_warnings(comparisons),
        *([] if mirror_check is None else [mirror_words(mirror_check, inputs.label_names)]),
        *inputs.notes,
        *prepared.alignment.warnings,
        *([] if prediction is None else _own_warnings(prediction)),
        *registered.registration.warnings,
        *result_warnings(found.measured, prepared.alignment, plan, choice, mirrored=mirror_check is not None),
    )
    report = _report(plan, prepared, choice, prediction, registered, found.measured, warnings, clock)
    if mirror_check is not None and report.reliability is not None:
        report = replace(report, reliability=Reliability("unreliable", (_MIRRORED, *report.reliability.reasons)))
    fixed, moving = inputs.fixed, inputs.moving
    return Outcome(
        report=replace(
            report, predicted_at_result=at_result, comparisons=comparisons, mirror_check=mirror_check, benefit=benefit
        ),
        fixed=fixed.image,
        moving=moving.image,
        warped=resampled(
            moving.image, Geometry.of(fixed.image), transform, default_value=moving.background, cancelled=cancelled
        ),
        transform=transform,
        inverse=found.inverse,
        fixed_on_grid=found.fixed_on_grid,
        moving_aligned=found.moving_before,
        moving_registered=found.moving_after,
        foreground=found.foreground,
        jacobian=found.jacobian,
        fixed_labels=fixed.labels,
        moving_labels=moving.labels,
        warped_labels=found.warped_labels,
        label_names=inputs.label_names,
        prediction=prediction,
        background=moving.background,
    )


def _predicted_at_result(choice: Choice, prediction: Prediction | None, registered: Registered) -> Predicted | None:
    """Return what was predicted for the setting of the result, which a user may have given and the closed loop corrected."""
    if prediction is None or prediction.reliability.level == "unreliable":
        return None
    setting = registered.registration.setting
    if choice.predicted is not None:
        return predicted_at(prediction.surface, choice.predicted, setting)
    try:
        return predict_at(prediction.surface, setting, prediction.predictor)
    except InputError:  # a setting that was given may lie beyond what was predicted
        return None


def _own_warnings(prediction: Prediction) -> list[str]:
    """Return what the prediction warns of beyond its inputs and its alignment, of which this job tells itself."""
    told = (*prediction.notes, *(prediction.alignment.warnings if prediction.alignment is not None else ()))
    return [warning for warning in prediction.warnings if warning not in told]


def _benefit(plan: Plan, prepared: Prepared, registered: Registered, found: Measurement) -> Benefit:
    """Judge whether deforming helped."""
    pair, moving = prepared.pair, prepared.inputs.moving
    aligned = nearest(moving.foreground, pair.grid, prepared.affine)
    # Landmarks have drawn the engine's moving image beyond the alignment, and the registration holds that, too.
    before = pair.moving if prepared.pull is None else found.moving_before
    numbers = evidence(pair.fixed, before, registered.registration.transform, found.foreground, aligned)
    suited = prepared.alignment.contrast != "different" or plan.engine.info.contrasts != "same"
    # What led the registration is no judge of it.
    measured = replace(found.measured, tre_mm=None) if plan.job.uses_landmarks else found.measured
    return judged(numbers, measured, min(pair.grid.spacing), suited)


def _explanation(
    plan: Plan,
    prepared: Prepared,
    found: Measurement,
    comparisons: Sequence[Comparison],
    benefit: Benefit,
    cancelled: CancelCheck,
) -> MirrorCheck | None:
    """Look for exchanged labels; and for a mirrored image, if Dice is poor or, where none was measured, something else is odd.

    That is, if more had to deform than was predicted, if the contrast seems to differ, as it does where organs lie on others, or
    if the images do not seem to show the same anatomy.
    """
    dice, fixed_labels = found.measured.dice, prepared.inputs.fixed.labels
    if dice is not None and fixed_labels is not None and found.warped_labels is not None:
        exchanged = exchanged_labels(fixed_labels, found.warped_labels, dice)
        if exchanged is not None:
            return exchanged
    odd = prepared.alignment.contrast == "different" or benefit.level == "nonsense"
    odd = odd or any(one.lies == "above" for one in surprises(comparisons))
    if not (odd if dice is None else dice.mean < _POOR_DICE):
        return None
    return mirrored_image(prepared.inputs, found, prepared.pair.grid, plan.alignment, seed=plan.job.seed, cancelled=cancelled)


def prediction_warnings(comparisons: Sequence[Comparison]) -> list[str]:
    """Warn of what was not as predicted: that the prediction does not hold, or, for narrow misses, that these are no rarity."""
    surprise = surprise_words(comparisons)
    if not surprise:
        return []
    if all(misses_narrowly(one) for one in surprises(comparisons)):
        return [f"{surprise}. About 1 in 10 numbers lies outside of its band: this alone is no sign of an error, but look."]
    return [f"{surprise}: the prediction does not hold for this pair."]


def result_warnings(
    measured: Measured, alignment: AlignmentUsed, plan: Plan, choice: Choice, *, mirrored: bool = False
) -> list[str]:
    """Warn of what was measured: folding, an agreement that fell by more than resampling alone takes, and what was left out.

    `mirrored` : the user is asked whether the images are mirrored; until that is answered nothing is known of contrast.
    """
    found = []
    folding = measured.folding_percent.foreground
    limit = plan.job.criterion.folding_limit
    if choice.by != "user" and not within_limit(measured.folding_percent, plan.job.criterion):
        found.append(f"The folding limit of {limit:g} % of the {plan.job.criterion.domain} could not be met with any λ tried.")
    elif folding > MUCH_FOLDED_PERCENT:
        first = plan.engine.info.search_space.first
        change = f"choose a {'higher' if first.regularizes == 'up' else 'lower'} {first.symbol}"
        found.append(
            f"{percent(folding)} of the foreground is folded (more than {MUCH_FOLDED_PERCENT} %): {change} before you propagate "
            "labels or apply the transform to points or models."
        )
    before, after = measured.similarity_before, measured.similarity_after
    if before - after > max(_LEAST_DROP, _SAME_SIMILARITY * (before - 1)):
        found.append(
            f"The images agree less after the deformable step than before it (normalised mutual information {number(before, 3)} "
            f"and then {number(after, 3)}): look at the result before you use it."
        )
    for one in measured.channels:
        if one.similarity_before - one.similarity_after > max(_LEAST_DROP, _SAME_SIMILARITY * (one.similarity_before - 1)):
            found.append(
                f"The images of channel {one.number} agree less after the deformable step than before it (normalised mutual "
                f"information {number(one.similarity_before, 3)} and then {number(one.similarity_after, 3)}): check that they "
                "lie where the first pair lies, or lower the weight of this channel."
            )
    if alignment.contrast == "different" and plan.engine.info.contrasts == "same" and not mirrored:
        others = " or ".join(f"'{info.name}'" for info in engine_infos() if info.contrasts == "any" and not info.unavailable)
        found.append(
            f"The two images seem to differ in contrast, and the engine '{plan.engine.info.name}' compares intensities directly: "
            f"the engine {others} suits them."
        )
    if measured.dice is not None and measured.dice.mean < measured.dice.mean_before - SAME_DICE:
        found.append(
            f"Mean Dice fell through the deformable step, from {number(measured.dice.mean_before, 3)} to "
            f"{number(measured.dice.mean, 3)}: look at the result before you use it."
        )
    if measured.dice is not None and measured.dice.absent:
        found.append(f"Left out of mean Dice, because one of the two label maps lacks them: {', '.join(measured.dice.absent)}.")
    if plan.job.fixed_labels and plan.job.moving_labels and measured.dice is None:
        found.append("The two label maps have no structure in common, so Dice could not be measured.")
    return found


def _report(
    plan: Plan,
    prepared: Prepared,
    choice: Choice,
    prediction: Prediction | None,
    registered: Registered,
    measured: Measured,
    warnings: tuple[str, ...],
    clock: Clock,
) -> Report:
    made = plan.job if plan.prediction is None else plan.prediction.job
    # Who predicts may always try settings; who registers, with an engine that is not built in, only if the job says so.
    trials = plan.job.trials or (plan.prediction is not None and plan.engine.info.kind != "built-in")
    criterion = None if choice.by == "user" else plan.job.criterion
    limited = criterion is not None and criterion.folding_limit is not None
    return Report(
        # The report alone repeats the job: predicting again gives the same, and the prediction's file may be gone by then.
        job=replace(plan.job, prediction=None, predictor=made.predictor, trials=trials),
        engine=engine_used(plan.engine, plan.engine_settings),
        setting=dict(registered.registration.setting),
        inputs=prepared.inputs.used,
        working_grid=GridUsed(**asdict(prepared.pair.grid)),
        alignment=prepared.alignment,
        registration=registered.registration.levels,
        measured=measured,
        seconds=clock.seconds,
        peak_memory_mb=peak_mb(),
        warnings=warnings,
        versions={
            "hyperpredictreg": HyperPredictRegLib.__version__,
            "SimpleITK": sitk.Version.VersionString(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            **({} if prediction is None else prediction.versions),
            **registered.registration.versions,
            "python": platform.python_version(),
        },
        outputs={},
        choice=choice,
        limit_met=within_limit(measured.folding_percent, criterion) if limited and criterion else None,
        criterion=criterion,
        predictor="" if prediction is None else prediction.predictor,
        bundle_sha256="" if prediction is None else prediction.bundle_sha256,
        reliability=None if prediction is None else prediction.reliability,
        outlook=None if prediction is None else prediction.outlook,
        further="" if prediction is None else prediction.further,
        trials=registered.trials,
        landmark_pull=registered.pull,
        engine_notes=registered.registration.notes,
        device=registered.registration.device,
    )
