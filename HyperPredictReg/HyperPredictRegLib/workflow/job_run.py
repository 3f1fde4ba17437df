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
from HyperPredictRegLib.alignment import Alignment, Stability, stability
from HyperPredictRegLib.engines.base import settings_hash
from HyperPredictRegLib.geometry import Geometry
from HyperPredictRegLib.inputs import input_paths
from HyperPredictRegLib.intensity import background_value
from HyperPredictRegLib.job import (
    AlignmentUsed,
    Comparison,
    EngineUsed,
    GridUsed,
    Job,
    Measured,
    MirrorCheck,
    Report,
    StabilityMeasure,
    Verdict,
)
from HyperPredictRegLib.lengths import number
from HyperPredictRegLib.measurement import Measurement, measure
from HyperPredictRegLib.memory import peak_mb
from HyperPredictRegLib.outcome import Outcome
from HyperPredictRegLib.outputs import prepared_folder, publish, write_files
from HyperPredictRegLib.predictor.choosing import ChosenLambda, choose_lambda
from HyperPredictRegLib.progress import CancelCheck, Progress, ProgressEvent, never, silent, stop_if
from HyperPredictRegLib.quality import MUCH_FOLDED_PERCENT, SAME_DICE
from HyperPredictRegLib.records import to_plain
from HyperPredictRegLib.selection import within_limit
from HyperPredictRegLib.selection.comparison import compared, misses_narrowly, predicted_at, surprise_words, surprises
from HyperPredictRegLib.selection.printed import percent
from HyperPredictRegLib.threads import threads
from HyperPredictRegLib.transforms import linear_matrix
from HyperPredictRegLib.workflow.loop import Registered, register_within_limit
from HyperPredictRegLib.workflow.mirrored import exchanged_labels, mirror_words, mirrored_image
from HyperPredictRegLib.workflow.plan import Clock, Plan, Ready, belongings, made_ready, output_folder, working

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
    progress, cancelled : see `HyperPredictRegLib.progress`.

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
    out, inputs = output_folder(job), [Path(name) for name in input_paths(job)]
    with prepared_folder(out, overwrite, inputs) as staging:
        with working():
            outcome = _compute(plan, progress, cancelled)
        progress(ProgressEvent("write", 0.0, "writing results"))
        report = write_files(outcome, staging, writers, cancelled)
        stop_if(cancelled)
        publish(staging, out, overwrite, inputs)
    progress(ProgressEvent("write", 1.0, "done"))
    return report


def compute(job: Job, *, progress: Progress = silent, cancelled: CancelCheck = never) -> Outcome:
    """Do a job in memory and write nothing; see `run`."""
    return _compute(Plan.of(job), progress, cancelled)


def _compute(plan: Plan, progress: Progress, cancelled: CancelCheck) -> Outcome:
    job = plan.job
    with threads(1 if job.reproducible else None):
        clock = Clock()
        ready = made_ready(plan, clock, progress, cancelled)
        spread = None
        if job.stability_seeds:
            with clock.stage("stability"):
                spread = stability(
                    ready.inputs.fixed.normalised,
                    ready.inputs.moving.normalised,
                    plan.alignment,
                    seeds=[job.seed + n for n in range(job.stability_seeds)],
                    progress=progress,
                    cancelled=cancelled,
                    **belongings(ready.inputs),
                )
        with clock.stage("predict"):
            if not job.hyperparameters:
                progress(ProgressEvent("predict", 0.0, "choosing λ"))
            chosen = choose_lambda(
                job, plan.engine, plan.engine_settings, ready.inputs, ready.pair, ready.alignment, spread=spread,
                cancelled=cancelled,
            )  # fmt: skip
        with clock.stage("register"):
            registered = register_within_limit(plan, ready, chosen, progress, cancelled)
        progress(ProgressEvent("measure", 0.0, "measuring"))
        return _measured_outcome(plan, ready, spread, chosen, registered, clock, cancelled)


def _measured_outcome(
    plan: Plan,
    ready: Ready,
    spread: Stability | None,
    chosen: ChosenLambda,
    registered: Registered,
    clock: Clock,
    cancelled: CancelCheck,
) -> Outcome:
    inputs, alignment, pair = ready.inputs, ready.alignment, ready.pair
    transform = pair.whole_transform(registered.registration, alignment.transform)
    curves, taken = None if chosen.forecast is None else chosen.forecast.curves, registered.registration.hyperparameters
    at_result = predicted_at(curves, chosen.predicted, taken)
    with clock.stage("measure"):
        found = measure(inputs, transform, alignment.transform, pair.grid)
        comparisons = compared(chosen.predicted, at_result, registered.trials, found.measured)
        mirror_check = _explanation(plan, ready, found, comparisons, cancelled)
    used = _alignment_used(plan, alignment, spread)
    warnings = (
        *prediction_warnings(comparisons),
        *([] if mirror_check is None else [mirror_words(mirror_check, inputs.label_names)]),
        *inputs.notes,
        *used.warnings,
        *chosen.warnings,
        *registered.warnings,
        *result_warnings(found.measured, alignment, plan, chosen, mirrored=mirror_check is not None),
    )
    report = _report(plan, ready, used, chosen, registered, found.measured, warnings, clock)
    if mirror_check is not None and report.verdict is not None:
        report = replace(report, verdict=Verdict("red", (_MIRRORED, *report.verdict.reasons)))
    fixed, moving = inputs.fixed, inputs.moving
    nothing = background_value(moving.image, moving.foreground)
    return Outcome(
        report=replace(report, predicted_at_result=at_result, comparisons=comparisons, mirror_check=mirror_check),
        fixed=fixed.image,
        moving=moving.image,
        warped=Geometry.of(fixed.image).resample(moving.image, transform, default_value=nothing),
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
        curves=curves,
    )


def _explanation(
    plan: Plan, ready: Ready, found: Measurement, comparisons: Sequence[Comparison], cancelled: CancelCheck
) -> MirrorCheck | None:
    """Look for exchanged labels; and for a mirrored image, if Dice is poor or, where none was measured, something else is odd.

    That is, if more had to bend than was predicted, or if the contrast seems to differ, as it does where organs lie on others.
    """
    dice, fixed_labels = found.measured.dice, ready.inputs.fixed.labels
    if dice is not None and fixed_labels is not None and found.warped_labels is not None:
        exchanged = exchanged_labels(fixed_labels, found.warped_labels, dice)
        if exchanged is not None:
            return exchanged
    odd = ready.alignment.contrast == "different" or any(one.lies == "above" for one in surprises(comparisons))
    if not (odd if dice is None else dice.mean < _POOR_DICE):
        return None
    return mirrored_image(ready.inputs, found, ready.pair.grid, plan.alignment, seed=plan.job.seed, cancelled=cancelled)


def prediction_warnings(comparisons: Sequence[Comparison]) -> list[str]:
    """Warn of what was not as predicted: that the prediction does not hold, or, for narrow misses, that these are no rarity."""
    surprise = surprise_words(comparisons)
    if not surprise:
        return []
    if all(misses_narrowly(one) for one in surprises(comparisons)):
        return [f"{surprise}. About 1 in 10 numbers lies outside of its band: this alone is no sign of an error, but look."]
    return [f"{surprise}: the prediction does not hold for this pair."]


def result_warnings(
    measured: Measured, alignment: Alignment, plan: Plan, chosen: ChosenLambda, *, mirrored: bool = False
) -> list[str]:
    """Warn of what was measured: folding, an agreement that fell by more than resampling alone takes, and what was left out.

    `mirrored` : the user is asked whether the images are mirrored; until that is answered nothing can be said of contrast.
    """
    found = []
    folding = measured.folding_percent.foreground
    limit = plan.job.criterion.folding_limit
    if chosen.by != "user" and not within_limit(measured.folding_percent, plan.job.criterion):
        found.append(f"The folding limit of {limit:g} % of the {plan.job.criterion.domain} could not be kept with any λ tried.")
    elif folding > MUCH_FOLDED_PERCENT:
        symbol = plan.engine.hyperparameters[0].symbol
        found.append(
            f"{percent(folding)} of the foreground is folded (more than {MUCH_FOLDED_PERCENT} %): choose a higher {symbol} "
            "before you carry labels, points or models over."
        )
    before, after = measured.similarity_before, measured.similarity_after
    if before - after > max(_LEAST_DROP, _SAME_SIMILARITY * (before - 1)):
        found.append(
            f"The images agree less after the deformable step than before it (normalised mutual information {number(before, 3)} "
            f"and then {number(after, 3)}): look at the result before you use it."
        )
    if alignment.contrast == "different" and plan.engine.name == "demons" and not mirrored:
        found.append(
            "The two images seem to differ in contrast, and demons compare intensities directly: the engine 'bspline' suits them."
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


def _alignment_used(plan: Plan, alignment: Alignment, spread: Stability | None) -> AlignmentUsed:
    return AlignmentUsed(
        settings=to_plain(plan.alignment),
        metric=alignment.metric,
        stages=alignment.levels,
        matrix=tuple(linear_matrix(alignment.transform).ravel().tolist()),
        starts_tried=alignment.starts_tried,
        warnings=alignment.warnings if spread is None else (*alignment.warnings, *spread.warnings),
        stability=None
        if spread is None
        else StabilityMeasure(spread.seeds, spread.mean_spread_mm, spread.largest_spread_mm, spread.limit_mm),
    )


def _report(
    plan: Plan,
    ready: Ready,
    alignment: AlignmentUsed,
    chosen: ChosenLambda,
    registered: Registered,
    measured: Measured,
    warnings: tuple[str, ...],
    clock: Clock,
) -> Report:
    criterion = None if chosen.by == "user" else plan.job.criterion
    limited = criterion is not None and criterion.folding_limit is not None
    return Report(
        job=plan.job,
        engine=EngineUsed(
            name=plan.engine.name,
            version=plan.engine.version,
            settings=to_plain(plan.engine_settings),
            settings_hash=settings_hash(plan.engine, plan.engine_settings),
        ),
        hyperparameters=dict(registered.registration.hyperparameters),
        inputs=ready.inputs.used,
        working_grid=GridUsed(**asdict(ready.pair.grid)),
        alignment=alignment,
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
            "python": platform.python_version(),
        },
        outputs={},
        chosen_by=chosen.by,
        choice=chosen.sentence,
        limit_kept=within_limit(measured.folding_percent, criterion) if limited and criterion else None,
        criterion=criterion,
        predicted=chosen.predicted,
        verdict=chosen.verdict,
        trials=registered.trials,
    )
