"""The whole job: read, align, register, measure, write."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import SimpleITK as sitk

import HyperPredictRegLib
from HyperPredictRegLib.aligned_pair import AlignedPair
from HyperPredictRegLib.alignment import Alignment, AlignmentSettings, Stability, align, stability
from HyperPredictRegLib.engines import engine_settings, get_engine
from HyperPredictRegLib.engines.base import Engine, Registration, complete_hyperparameters, settings_hash
from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.geometry import Geometry
from HyperPredictRegLib.grid import MARGIN_VOXELS, PRESETS, working_spacing
from HyperPredictRegLib.inputs import Inputs, check_memory, input_paths, read_inputs
from HyperPredictRegLib.intensity import background_value, points_of
from HyperPredictRegLib.job import AlignmentUsed, EngineUsed, GridUsed, Job, Measured, Report, StabilityMeasure
from HyperPredictRegLib.measurement import measure
from HyperPredictRegLib.memory import peak_mb
from HyperPredictRegLib.outcome import Outcome
from HyperPredictRegLib.outputs import prepared_folder, publish, write_files
from HyperPredictRegLib.progress import CancelCheck, Progress, ProgressEvent, never, silent, stop_if
from HyperPredictRegLib.records import from_plain, to_plain
from HyperPredictRegLib.threads import threads
from HyperPredictRegLib.transforms import linear_matrix

FOLDING_WARNING_PERCENT = 0.5
"""Above this share of the foreground a registration is called implausible: the limit of HyperPredict (MELBA 2024)."""

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
    plan = _Plan.of(job)
    if not job.out.strip():
        raise InputError("The job names no output folder: give one.")
    out, inputs = Path(job.out), [Path(name) for name in input_paths(job)]
    with prepared_folder(out, overwrite, inputs) as staging:
        outcome = _compute(plan, progress, cancelled)
        progress(ProgressEvent("write", 0.0, "writing results"))
        report = write_files(outcome, staging, writers)
        stop_if(cancelled)
        publish(staging, out, overwrite, inputs)
    progress(ProgressEvent("write", 1.0, "done"))
    return report


def compute(job: Job, *, progress: Progress = silent, cancelled: CancelCheck = never) -> Outcome:
    """Do a job in memory and write nothing; see `run`."""
    return _compute(_Plan.of(job), progress, cancelled)


def _compute(plan: _Plan, progress: Progress, cancelled: CancelCheck) -> Outcome:
    job = plan.job
    with threads(1 if job.reproducible else None):
        clock = _Clock()
        with clock.stage("read"):
            progress(ProgressEvent("read", 0.0, "reading images"))
            inputs = read_inputs(job)
            _check_grid_memory(plan, inputs)
        stop_if(cancelled)
        with clock.stage("align"):
            images = inputs.fixed.normalised, inputs.moving.normalised
            belongings = _belongings(inputs)
            alignment = align(
                *images, plan.alignment, seed=job.seed, progress=progress, cancelled=cancelled, **belongings
            )
        spread = None
        if job.stability_seeds:
            with clock.stage("stability"):
                seeds = [job.seed + n for n in range(job.stability_seeds)]
                spread = stability(*images, plan.alignment, seeds=seeds, progress=progress, cancelled=cancelled, **belongings)
        pair = AlignedPair.of(inputs, alignment.transform, job.preset, plan.engine.extra_bytes)
        with clock.stage("register"):
            registration = plan.engine.register(
                pair.fixed,
                pair.moving,
                plan.hyperparameters,
                plan.engine_settings,
                seed=job.seed,
                fixed_mask=pair.fixed_mask,
                moving_mask=pair.moving_mask,
                progress=progress,
                cancelled=cancelled,
            )
        stop_if(cancelled)
        progress(ProgressEvent("measure", 0.0, "measuring"))
        return _measured_outcome(plan, inputs, alignment, spread, pair, registration, clock)


@dataclass(frozen=True)
class _Plan:
    """A job whose every option has been checked."""

    job: Job
    engine: Engine
    hyperparameters: dict[str, float]
    engine_settings: Any
    alignment: AlignmentSettings

    @classmethod
    def of(cls, job: Job) -> _Plan:
        if job.seed == 0:
            raise InputError(
                "The seed is 0, which SimpleITK takes for the clock, so that no result could be repeated: choose another number."
            )
        if job.preset not in PRESETS:
            raise InputError(f"There is no preset '{job.preset}': choose one of {', '.join(PRESETS)}.")
        if job.stability_seeds < 0 or job.stability_seeds == 1:
            raise InputError(f"A stability check with {job.stability_seeds} seeds says nothing: give 2 or more, or 0 for none.")
        engine = get_engine(job.engine)
        return cls(
            job=job,
            engine=engine,
            hyperparameters=complete_hyperparameters(engine, job.hyperparameters),
            engine_settings=engine_settings(engine, job.engine_settings),
            alignment=from_plain(AlignmentSettings, job.alignment, "the alignment settings"),
        )


class _Clock:
    """Wall-clock seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = time.perf_counter() - started


def _check_grid_memory(plan: _Plan, inputs: Inputs) -> None:
    """Refuse a preset that cannot fit before the affine step: the grid will hold at least the fixed anatomy."""
    fixed = inputs.fixed
    spacing = working_spacing(fixed.image, fixed.foreground, plan.job.preset)
    points = points_of(fixed.foreground)
    grid = Geometry.of(fixed.image).covering(points, spacing, MARGIN_VOXELS * spacing)
    images = fixed.image.GetNumberOfPixels() + inputs.moving.image.GetNumberOfPixels()
    check_memory(images, grid.voxel_count, f"The preset '{plan.job.preset}'", plan.engine.extra_bytes)


def _belongings(inputs: Inputs) -> dict[str, Any]:
    """Return what `align` and `stability` take beside the images."""
    return {
        "fixed_foreground": inputs.fixed.foreground,
        "moving_foreground": inputs.moving.foreground,
        "fixed_mask": inputs.fixed.mask,
        "moving_mask": inputs.moving.mask,
        "initial_transform": inputs.initial_transform,
    }


def _measured_outcome(
    plan: _Plan,
    inputs: Inputs,
    alignment: Alignment,
    spread: Stability | None,
    pair: AlignedPair,
    registration: Registration,
    clock: _Clock,
) -> Outcome:
    transform = pair.whole_transform(registration, alignment.transform)
    with clock.stage("measure"):
        found = measure(inputs, transform, alignment.transform, pair.grid)
    used = _alignment_used(plan, alignment, spread)
    warnings = (*used.warnings, *registration.warnings, *_result_warnings(found.measured, alignment, plan))
    fixed, moving = inputs.fixed, inputs.moving
    nothing = background_value(moving.image, moving.foreground)
    return Outcome(
        report=_report(plan, inputs, used, pair, registration, found.measured, warnings, clock),
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
    )


def _result_warnings(measured: Measured, alignment: Alignment, plan: _Plan) -> list[str]:
    found = []
    folding = measured.folding_percent.foreground
    if folding > FOLDING_WARNING_PERCENT:
        found.append(
            f"{folding:.2f} % of the foreground is folded (more than {FOLDING_WARNING_PERCENT} %): choose a higher λ before you "
            "carry labels, points or models over."
        )
    if measured.similarity_after < measured.similarity_before:
        found.append("The images agree less after the deformable step than before it: look at the result before you use it.")
    if alignment.contrast == "different" and plan.engine.name == "demons":
        found.append(
            "The two images seem to differ in contrast, and demons compare intensities directly: the engine 'bspline' suits them."
        )
    if measured.dice is not None and measured.dice.mean < measured.dice.mean_before:
        found.append("Mean Dice fell through the deformable step: look at the result before you use it.")
    if measured.dice is not None and measured.dice.absent:
        found.append(f"Left out of mean Dice, because one of the two label maps lacks them: {', '.join(measured.dice.absent)}.")
    if plan.job.fixed_labels and plan.job.moving_labels and measured.dice is None:
        found.append("The two label maps have no structure in common, so Dice could not be measured.")
    return found


def _alignment_used(plan: _Plan, alignment: Alignment, spread: Stability | None) -> AlignmentUsed:
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
    plan: _Plan,
    inputs: Inputs,
    alignment: AlignmentUsed,
    pair: AlignedPair,
    registration: Registration,
    measured: Measured,
    warnings: tuple[str, ...],
    clock: _Clock,
) -> Report:
    return Report(
        job=plan.job,
        engine=EngineUsed(
            name=plan.engine.name,
            version=plan.engine.version,
            settings=to_plain(plan.engine_settings),
            settings_hash=settings_hash(plan.engine, plan.engine_settings),
        ),
        hyperparameters=dict(registration.hyperparameters),
        inputs=inputs.used,
        working_grid=GridUsed(**asdict(pair.grid)),
        alignment=alignment,
        registration=registration.levels,
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
    )
