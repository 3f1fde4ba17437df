"""What all kinds of work on a job begin with: its images, read and aligned, on the working grid."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import SimpleITK as sitk

from HyperPredictRegLib.alignment import align, stability
from HyperPredictRegLib.alignment.aligned_pair import AlignedPair
from HyperPredictRegLib.core.json_records import to_plain
from HyperPredictRegLib.core.progress import CancelCheck, Progress, ProgressEvent, interruptible, never, silent, stop_if
from HyperPredictRegLib.core.resources import CHANNEL_BYTES_PER_VOXEL
from HyperPredictRegLib.core.search_space import SearchSpace, Setting
from HyperPredictRegLib.engines.base import RegistrationTask, settled
from HyperPredictRegLib.preprocessing.image_set import Inputs, check_memory, read_inputs
from HyperPredictRegLib.preprocessing.intensity import points_of
from HyperPredictRegLib.preprocessing.working_grid import MARGIN_VOXELS, working_spacing
from HyperPredictRegLib.results.prediction import AlignmentUsed, LandmarkStart, StabilityMeasure
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import linear_matrix
from HyperPredictRegLib.workflow.landmarking import Pull, better_at_landmarks, fitted_start, transform_of
from HyperPredictRegLib.workflow.planning import Plan, check_structures


class Clock:
    """Wall-clock seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside a ``with`` block as stage `name`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


@dataclass(frozen=True)
class Prepared:
    """A job's images after the affine step.

    Attributes
    ----------
    inputs : as read.
    alignment : the affine step, for the report and for the predictor.
    affine : its transform; maps fixed to moving points, LPS mm.
    pair : both images on the working grid.
    space : what the engine accepts on this grid.
    pull : of landmarks on the deformation: the moving image of `pair` was drawn by it; or None.
    """

    inputs: Inputs
    alignment: AlignmentUsed
    affine: sitk.AffineTransform
    pair: AlignedPair
    space: SearchSpace
    pull: Pull | None = None


def prepare(plan: Plan, clock: Clock, progress: Progress, cancelled: CancelCheck) -> Prepared:
    """Read the inputs and align them, or take the alignment of the prediction that the job names.

    Raises
    ------
    InputError : an input cannot be used, or the engine cannot use the setting or the structures for this pair.
    RegistrationError : the pair could not be aligned.
    Cancelled : the caller asked to stop.
    """
    with clock.stage("read"):
        progress(ProgressEvent("read", 0.0, "reading images"))
        inputs = read_inputs(plan.job, cancelled)
        _check_grid(plan, inputs)
        check_structures(plan, inputs)
    stop_if(cancelled)
    taken = None if plan.prediction is None else plan.prediction.alignment
    if taken is None:
        affine, alignment = _aligned(plan, inputs, clock, progress, cancelled)
    else:
        affine, alignment = sitk.AffineTransform(3), replace(taken, from_prediction=True)
        affine.SetFixedParameters(taken.center)
        affine.SetParameters(taken.parameters)
        progress(ProgressEvent("align", 1.0, "alignment taken from the prediction"))
    with clock.stage("align"):
        pull = interruptible(lambda: Pull.of(plan.job, inputs, affine), cancelled)
        drawn = None if pull is None else pull.through
        pair = interruptible(
            lambda: AlignedPair.of(inputs, affine, plan.job.preset, plan.engine.info.extra_bytes, drawn), cancelled
        )
    return Prepared(inputs, alignment, affine, pair, plan.engine.search_space(pair.grid, plan.engine_settings), pull)


def task_of(
    plan: Plan, prepared: Prepared, setting: Setting, progress: Progress = silent, cancelled: CancelCheck = never
) -> RegistrationTask:
    """Return what the engine is asked to do on the working grid with a setting."""
    pair = prepared.pair
    return RegistrationTask(
        fixed=pair.fixed,
        moving=pair.moving,
        setting=setting,
        settings=plan.engine_settings,
        seed=plan.job.seed,
        fixed_mask=pair.fixed_mask,
        moving_mask=pair.moving_mask,
        channels=pair.channels,
        view=pair.view,
        moving_smoothed=pair.moving_smoothed,
        device=plan.job.device,
        progress=progress,
        cancelled=cancelled,
    )


def settled_settings(plan: Plan, prepared: Prepared, cancelled: CancelCheck = never) -> Any:
    """Return the engine's settings for registering the pair on coarser grids as on its own one; see `engines.base.settled`.

    What names a prediction, a report or a bundle goes by the settings as they were given.
    """
    return settled(plan.engine, task_of(plan, prepared, {}, cancelled=cancelled))


def _check_grid(plan: Plan, inputs: Inputs) -> None:
    """Refuse, before the affine step, a preset that cannot fit and a setting that the engine cannot use on such a grid.

    The grid will have this spacing and hold at least the fixed anatomy.
    """
    fixed, engine, preset = inputs.fixed, plan.engine, plan.job.preset
    spacing = working_spacing(fixed.image, fixed.foreground, preset)
    grid = Geometry.of(fixed.image).covering(points_of(fixed.foreground), spacing, MARGIN_VOXELS * spacing)
    extra = engine.info.extra_bytes + len(inputs.channels) * CHANNEL_BYTES_PER_VOXEL * grid.voxel_count
    check_memory(inputs.voxels, grid.voxel_count, f"The preset '{preset}'", extra)
    engine.search_space(grid, plan.engine_settings).complete(plan.job.setting, engine.info.name)


def _aligned(
    plan: Plan, inputs: Inputs, clock: Clock, progress: Progress, cancelled: CancelCheck
) -> tuple[sitk.AffineTransform, AlignmentUsed]:
    """Align the pair, with several seeds if the job asks for that, and describe it."""
    images = inputs.fixed.normalised, inputs.moving.normalised
    given: dict[str, Any] = {
        "fixed_foreground": inputs.fixed.foreground,
        "moving_foreground": inputs.moving.foreground,
        "fixed_mask": inputs.fixed.mask,
        "moving_mask": inputs.moving.mask,
        "initial_transform": inputs.initial_transform,
        "progress": progress,
        "cancelled": cancelled,
    }
    seed, count, settings = plan.job.seed, plan.job.stability_seeds, plan.alignment
    fit = fitted_start(plan.job, inputs)
    if fit is not None:
        given["initial_transform"] = transform_of(fit)
    landmarks: LandmarkStart | None = None
    with clock.stage("align"):
        found = align(*images, settings, seed=seed, **given)
        if fit is not None:
            found, landmarks, settings = better_at_landmarks(
                found, fit, inputs, settings, lambda other: align(*images, other, seed=seed, **given)
            )
    measure: StabilityMeasure | None = None
    unstable: tuple[str, ...] = ()
    if count:
        with clock.stage("stability"):
            spread = stability(*images, settings, seeds=[seed + n for n in range(count)], **given)
        measure = StabilityMeasure(spread.seeds, spread.mean_spread_mm, spread.largest_spread_mm, spread.limit_mm)
        unstable = spread.warnings
    return found.transform, AlignmentUsed(
        settings=to_plain(plan.alignment),
        metric=found.metric,
        stages=found.levels,
        matrix=tuple(linear_matrix(found.transform).ravel().tolist()),
        starts_tried=found.starts_tried,
        warnings=(*found.warnings, *unstable),
        stability=measure,
        contrast=found.contrast,
        parameters=found.transform.GetParameters(),
        center=found.transform.GetFixedParameters(),
        doubts=(*found.doubts, *unstable),
        refusals=found.refusals,
        landmarks=landmarks,
    )
