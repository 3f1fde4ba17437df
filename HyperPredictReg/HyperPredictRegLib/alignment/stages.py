"""One pyramid level of one stage: a SimpleITK registration with its trace, its stop reason and a way to cancel."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.alignment.frame import AlignmentSettings, Level
from HyperPredictRegLib.core.errors import Cancelled, HyperPredictRegError, InputError, RegistrationError
from HyperPredictRegLib.core.trace import LevelTrace
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import linear_matrix

Watch = Callable[[float], bool]
"""Called with the metric at each iteration; returns True to stop."""

_ESTIMATION = {
    "never": sitk.ImageRegistrationMethod.Never,
    "once": sitk.ImageRegistrationMethod.Once,
    "each_iteration": sitk.ImageRegistrationMethod.EachIteration,
}
_LEAST_SAMPLES = 20_000
_GRADIENT_TOLERANCE = 1e-6
_STOPS_ON_REQUEST = ("gradient_descent", "gradient_descent_line_search", "regular_step")


class _StoppedInside(Exception):  # noqa: N818 - a way out of an optimiser, not a fault
    """Thrown through optimisers that ignore StopRegistration."""


@dataclass
class _Recorder:
    """What the commands of one run saw."""

    values: list[float] = field(default_factory=list)
    positions: list[tuple[float, ...]] = field(default_factory=list)
    stopped: BaseException | None = None


def make_method(level: Level, settings: AlignmentSettings, metric: str, seed: int) -> sitk.ImageRegistrationMethod:
    """Return a registration method with metric, samples and masks set, but no transform and no optimiser."""
    method = sitk.ImageRegistrationMethod()
    if metric == "mattes":
        method.SetMetricAsMattesMutualInformation(settings.histogram_bins)
    elif metric == "correlation":
        method.SetMetricAsCorrelation()
    else:
        method.SetMetricAsMeanSquares()
    share = max(settings.sampling_percentages[level.index] / 100, _LEAST_SAMPLES / _voxels_to_sample(level))
    if settings.sampling != "none" and share < 1:
        method.SetMetricSamplingStrategy(method.RANDOM if settings.sampling == "random" else method.REGULAR)
        method.SetMetricSamplingPercentage(share, seed)
    if level.fixed_mask is not None:
        method.SetMetricFixedMask(level.fixed_mask)
    if level.moving_mask is not None:
        method.SetMetricMovingMask(level.moving_mask)
    method.SetInterpolator(sitk.sitkLinear)
    return method


def _voxels_to_sample(level: Level) -> int:
    if level.fixed_mask is None:
        return Geometry.of(level.fixed).voxel_count
    inside = Geometry.of(level.fixed).resample(level.fixed_mask, interpolator=sitk.sitkNearestNeighbor)
    return max(1, int(np.count_nonzero(sitk.GetArrayViewFromImage(inside))))


def increment_of(stage: str) -> sitk.Transform:
    """Return the identity of the stage's kind of transform, turning about the origin of the frame."""
    return {
        "rigid": sitk.Euler3DTransform, "similarity": sitk.Similarity3DTransform, "affine": lambda: sitk.AffineTransform(3),
    }[stage]()


def affine_of(matrix: np.ndarray) -> sitk.AffineTransform:
    """Return a 4x4 matrix as a SimpleITK transform about the origin."""
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3].tolist())
    return transform


def run_level(
    level: Level, stage: str, start: np.ndarray, settings: AlignmentSettings, *, metric: str, seed: int, watch: Watch
) -> tuple[np.ndarray, LevelTrace]:
    """Optimise one stage on one pyramid level.

    Parameters
    ----------
    level : the images, in the pair's frame.
    stage : "rigid", "similarity" or "affine".
    start : fixed-to-moving matrix (4, 4) of the frame; the stage finds a transform of its kind that comes before it.
    metric : "mattes", "correlation" or "mean_squares".
    seed : of the random samples; not 0.
    watch : see `Watch`.

    Returns
    -------
    matrix, trace : the fixed-to-moving matrix (4, 4) with the lowest metric seen, and what happened.

    Raises
    ------
    Cancelled : `watch` returned True.
    RegistrationError : the images do not overlap any more, or the result is not a number.
    """
    began = time.monotonic()
    increment = increment_of(stage)
    method = make_method(level, settings, metric, seed)
    method.SetMovingInitialTransform(affine_of(start))
    method.SetInitialTransform(increment, inPlace=True)
    _set_optimiser(method, settings, settings.iterations[level.index])
    method.SetOptimizerScalesFromPhysicalShift()
    seen = _Recorder()
    method.AddCommand(sitk.sitkIterationEvent, lambda: _record(method, seen, settings.optimiser, watch))
    zero = increment.GetParameters()
    try:
        _execute(method, level, seen)
    finally:
        # Method and command hold each other, which Python's garbage collector cannot see.
        method.RemoveAllCommands()
    reason = method.GetOptimizerStopConditionDescription()
    # Asked before `_keep_best`, which runs the method again.
    if settings.optimiser == "powell":
        end_value = _keep_best_position(method, level, increment, [zero, *seen.positions])
    else:
        end_value = _keep_best(method, level, increment, zero, seen, lagging=settings.optimiser in _STOPS_ON_REQUEST)
    matrix = start @ linear_matrix(increment)
    if not (np.isfinite(matrix).all() and np.isfinite(end_value)):
        raise RegistrationError(
            f"The {stage} alignment ran away and its result is not a number: choose a smaller learning rate or another start."
        )
    return matrix, LevelTrace(
        stage=stage, level=level.index, shrink_factor=level.shrink_factor, smoothing_sigma_mm=level.sigma_mm, metric=metric,
        values=tuple(seen.values), end_value=end_value, iteration_limit=settings.iterations[level.index],
        stop_reason=reason, seconds=time.monotonic() - began,
    )


def _execute(method: sitk.ImageRegistrationMethod, level: Level, seen: _Recorder) -> None:
    hook = sys.excepthook
    try:
        method.Execute(level.fixed, level.moving)
    except RuntimeError as error:
        if seen.stopped is None:
            raise wrapped(error) from error
    finally:
        sys.excepthook = hook
    if seen.stopped is not None:
        raise seen.stopped


def _record(method: sitk.ImageRegistrationMethod, seen: _Recorder, optimiser: str, watch: Watch) -> None:
    value = float(method.GetMetricValue())
    seen.values.append(value)
    seen.positions.append(method.GetOptimizerPosition())
    try:
        if not watch(value):
            return
        seen.stopped = Cancelled("The alignment was cancelled; nothing was written.")
    except BaseException as error:  # SimpleITK would put a RuntimeError of its own in the place of the caller's.
        seen.stopped = error
    if optimiser in _STOPS_ON_REQUEST:
        method.StopRegistration()
        return
    # SimpleITK reports an exception in a command through sys.excepthook before it unwinds; this one would only confuse the user.
    sys.excepthook = lambda *_: None
    raise _StoppedInside


def _keep_best(
    method: sitk.ImageRegistrationMethod,
    level: Level,
    increment: sitk.Transform,
    zero: tuple[float, ...],
    seen: _Recorder,
    *,
    lagging: bool,
) -> float:
    """Set `increment` to the best parameters seen and return the metric there.

    SimpleITK returns the last parameters, not the best. With the gradient descents the value at an iteration event
    belongs to the parameters before that iteration's step, and after an iteration limit no event tells the last value.
    """
    last = increment.GetParameters()
    value = _evaluated(method, level, increment)
    if not seen.values:
        return value
    positions = [zero, *seen.positions] if lagging else seen.positions
    values = np.where(np.isfinite(seen.values), seen.values, np.inf)
    best = int(np.argmin(values))
    if values[best] < value or not np.isfinite(value):
        increment.SetParameters(positions[best])
        again = _evaluated(method, level, increment)
        if again < value or not np.isfinite(value):
            return again
        increment.SetParameters(last)
    return value


def _keep_best_position(
    method: sitk.ImageRegistrationMethod, level: Level, increment: sitk.Transform, positions: list[tuple[float, ...]]
) -> float:
    """Set `increment` to the best of `positions` and return the metric there.

    Powell's parameters at an iteration event are a look ahead, often worse than the value that goes with them; it even
    returns them when its iterations run out.
    """
    values = []
    for position in positions:
        increment.SetParameters(position)
        values.append(_evaluated(method, level, increment))
    best = int(np.argmin(np.where(np.isfinite(values), values, np.inf)))
    increment.SetParameters(positions[best])
    return values[best]


def _evaluated(method: sitk.ImageRegistrationMethod, level: Level, increment: sitk.Transform) -> float:
    """Return the metric at `increment` over the very samples of the run.

    ``MetricEvaluate`` compares all voxels whatever the sampling, so its value would not belong to the others;
    one step of length 0 does.
    """
    value = [float("nan")]
    method.SetInitialTransform(increment, inPlace=False)
    method.SetOptimizerAsGradientDescent(learningRate=0.0, numberOfIterations=1)
    method.SetOptimizerScales([1.0] * increment.GetNumberOfParameters())
    method.AddCommand(sitk.sitkIterationEvent, lambda: value.__setitem__(0, float(method.GetMetricValue())))
    try:
        method.Execute(level.fixed, level.moving)
    except RuntimeError as error:
        raise wrapped(error) from error
    finally:
        method.RemoveAllCommands()
    return value[0]


def wrapped(error: RuntimeError) -> HyperPredictRegError:
    """Return SimpleITK's long message as one sentence."""
    text = str(error)
    if re.search("outside|valid points|too few|sampled ?point", text, flags=re.IGNORECASE):
        return RegistrationError(
            "With this start the fixed and the moving image (or their masks) do not overlap: "
            "check the masks, the units and the positions, or give a rough alignment as initial transform."
        )
    if "number of pixels along direction" in text:
        return InputError(
            "The images are too small or too thin for the levels of the alignment: use fewer of them, for example "
            "shrink_factors=[1], smoothing_sigmas=[0], iterations=[60] and sampling_percentages=[100]."
        )
    last = text.strip().splitlines()[-1]
    return RegistrationError(f"SimpleITK could not align the images ({last[:200]}): check the masks and the settings.")


def _set_optimiser(method: sitk.ImageRegistrationMethod, settings: AlignmentSettings, iterations: int) -> None:
    estimate = _ESTIMATION[settings.learning_rate_estimation]
    common = {"learningRate": settings.learning_rate, "numberOfIterations": iterations, "estimateLearningRate": estimate}
    convergence = {
        "convergenceMinimumValue": settings.convergence_value, "convergenceWindowSize": settings.convergence_window,
    }
    if settings.optimiser == "gradient_descent":
        method.SetOptimizerAsGradientDescent(**common, **convergence)
    elif settings.optimiser == "gradient_descent_line_search":
        method.SetOptimizerAsGradientDescentLineSearch(**common, **convergence)
    elif settings.optimiser == "regular_step":
        method.SetOptimizerAsRegularStepGradientDescent(
            minStep=settings.minimum_step, relaxationFactor=settings.step_relaxation,
            gradientMagnitudeTolerance=_GRADIENT_TOLERANCE, **common,
        )
    elif settings.optimiser == "lbfgs2":
        method.SetOptimizerAsLBFGS2(
            deltaConvergenceTolerance=settings.convergence_value, deltaConvergenceDistance=settings.convergence_window,
            numberOfIterations=iterations,
        )
    else:
        method.SetOptimizerAsPowell(
            numberOfIterations=iterations, maximumLineIterations=20, stepLength=1.0, stepTolerance=settings.minimum_step,
            valueTolerance=settings.convergence_value,
        )
