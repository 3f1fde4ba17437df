"""What SimpleITK's optimisers do, pinned, and what the library makes of it: best parameters, stop reasons, cancelling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from HyperPredictRegLib.alignment.frame import OPTIMISERS, AlignmentSettings, Level
from HyperPredictRegLib.alignment.stages import make_method, run_level
from HyperPredictRegLib.core.errors import Cancelled, RegistrationError
from HyperPredictRegLib.core.resources import threads
from HyperPredictRegLib.core.trace import LevelTrace, explain_stop

ONE_LEVEL = AlignmentSettings(
    shrink_factors=(1,), smoothing_sigmas=(0,), iterations=(40,), sampling_percentages=(100,), multi_start=False
)
# As many optimisers' parameters as SimpleITK needs to overshoot: long steps, few iterations.
OVERSHOOTING = {
    "GradientDescent": {"learningRate": 1.0, "numberOfIterations": 15, "estimateLearningRate": 2, "convergenceWindowSize": 50,
                        "maximumStepSizeInPhysicalUnits": 8.0},
    "RegularStepGradientDescent": {"learningRate": 4.0, "minStep": 1e-3, "numberOfIterations": 4},
}


@pytest.fixture(autouse=True)
def _one_thread():
    with threads(1):
        yield


def blobs(shift: tuple[float, float, float] = (0, 0, 0)) -> sitk.Image:
    rng = np.random.default_rng(0)
    places = np.stack(np.mgrid[:32, :32, :32][::-1], axis=-1) - 15.5 - np.array(shift)
    voxels = np.zeros((32, 32, 32))
    for _ in range(6):
        centre, width, height = rng.uniform(-6, 6, 3), rng.uniform(2, 5), rng.uniform(0.3, 1)
        voxels += height * np.exp(-((places - centre) ** 2).sum(-1) / (2 * width**2))
    image = sitk.GetImageFromArray(voxels.astype(np.float32))
    image.SetOrigin((-15.5,) * 3)
    return image


@pytest.fixture(scope="module")
def level() -> Level:
    return Level(blobs(), blobs((3, 2, -2)), None, None, 0, 1.0, 0.0)


def go_on(value: float) -> bool:
    return False


@pytest.mark.parametrize("name", list(OVERSHOOTING))
def test_simpleitk_returns_the_last_parameters_not_the_best(level, name):
    """If this fails, SimpleITK returns the best itself: `stages._keep_best` and docs/alignment.md can be simplified."""
    method = make_method(level, ONE_LEVEL, "correlation", seed=1)
    transform = sitk.AffineTransform(3)
    method.SetInitialTransform(transform, inPlace=True)
    getattr(method, f"SetOptimizerAs{name}")(**OVERSHOOTING[name])
    method.SetOptimizerScalesFromPhysicalShift()
    values, positions = [], []
    method.AddCommand(sitk.sitkIterationEvent, lambda: values.append(method.GetMetricValue()))
    method.AddCommand(sitk.sitkIterationEvent, lambda: positions.append(method.GetOptimizerPosition()))
    method.Execute(level.fixed, level.moving)
    assert transform.GetParameters() == pytest.approx(positions[-1], abs=1e-12)
    reported = method.GetMetricValue()
    method.SetInitialTransform(transform)
    returned = method.MetricEvaluate(level.fixed, level.moving)
    # The value at the end event belongs to the parameters before the last step.
    assert reported == values[-1]
    assert returned > min(values) + 0.01


@pytest.mark.parametrize("name", list(OVERSHOOTING))
def test_value_at_an_iteration_belongs_to_the_parameters_before_its_step(level, name):
    method = make_method(level, ONE_LEVEL, "correlation", seed=1)
    method.SetInitialTransform(sitk.AffineTransform(3))
    getattr(method, f"SetOptimizerAs{name}")(**OVERSHOOTING[name])
    method.SetOptimizerScalesFromPhysicalShift()
    values, positions = [], []
    method.AddCommand(sitk.sitkIterationEvent, lambda: values.append(method.GetMetricValue()))
    method.AddCommand(sitk.sitkIterationEvent, lambda: positions.append(method.GetOptimizerPosition()))
    method.Execute(level.fixed, level.moving)
    earlier = sitk.AffineTransform(3)
    earlier.SetParameters(positions[0])
    method.SetInitialTransform(earlier)
    assert method.MetricEvaluate(level.fixed, level.moving) == pytest.approx(values[1], abs=1e-12)


def test_metric_evaluate_ignores_the_sampling(level):
    full, sampled = (make_method(level, ONE_LEVEL, "correlation", seed=1) for _ in range(2))
    sampled.SetMetricSamplingStrategy(sampled.RANDOM)
    sampled.SetMetricSamplingPercentage(0.1, 1)
    for method in (full, sampled):
        method.SetInitialTransform(sitk.AffineTransform(3))
    assert full.MetricEvaluate(level.fixed, level.moving) == sampled.MetricEvaluate(level.fixed, level.moving)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_every_optimiser_returns_the_best_it_saw_with_its_value(level, optimiser):
    settings = replace(ONE_LEVEL, optimiser=optimiser, iterations=(3,) if optimiser == "powell" else (12,))
    matrix, trace = run_level(level, "rigid", np.eye(4), settings, metric="correlation", seed=1, watch=go_on)
    assert np.isfinite(trace.values).all()
    # Powell's values are of the best point along its lines, which it does not give away.
    assert trace.end_value <= (-0.97 if optimiser == "powell" else min(trace.values))
    assert np.abs(matrix[:3, 3] - (3, 2, -2)).max() < 0.5
    assert explain_stop(trace.stop_reason) != explain_stop("something never heard of")


def test_keeps_the_best_where_the_optimiser_overshoots(level):
    settings = replace(
        ONE_LEVEL, optimiser="gradient_descent", learning_rate_estimation="never", learning_rate=60.0, iterations=(9,)
    )
    _, trace = run_level(level, "affine", np.eye(4), settings, metric="correlation", seed=1, watch=go_on)
    assert trace.end_value == pytest.approx(min(trace.values), abs=1e-9) or trace.end_value < min(trace.values)
    assert trace.end_value <= trace.values[0]


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_every_optimiser_can_be_cancelled_quietly(level, optimiser, capfd):
    seen = []

    def stop_at_the_second(value: float) -> bool:
        seen.append(value)
        return len(seen) == 2

    with pytest.raises(Cancelled):
        settings = replace(ONE_LEVEL, optimiser=optimiser)
        run_level(level, "rigid", np.eye(4), settings, metric="mattes", seed=1, watch=stop_at_the_second)
    assert len(seen) == 2
    assert capfd.readouterr().err == ""


def test_an_error_in_the_caller_s_watch_is_not_lost(level):
    def broken(value: float) -> bool:
        raise ZeroDivisionError("from the watch")

    with pytest.raises(ZeroDivisionError, match="from the watch"):
        run_level(level, "rigid", np.eye(4), ONE_LEVEL, metric="mattes", seed=1, watch=broken)


def test_no_overlap_is_one_sentence(level):
    start = np.eye(4)
    start[:3, 3] = 500
    with pytest.raises(RegistrationError, match="do not overlap") as caught:
        run_level(level, "rigid", start, ONE_LEVEL, metric="mattes", seed=1, watch=go_on)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert "\n" not in str(caught.value)
    # What Slicer's panel has no choice of would help only some.
    assert "moments" not in str(caught.value) and "initial transform" in str(caught.value)


def test_iteration_limit_is_told_from_convergence(level):
    few, many = replace(ONE_LEVEL, iterations=(3,)), replace(ONE_LEVEL, iterations=(300,))
    _, short = run_level(level, "affine", np.eye(4), few, metric="correlation", seed=1, watch=go_on)
    assert short.hit_iteration_limit
    assert "all the iterations" in short.stop_meaning
    _, long = run_level(level, "rigid", np.eye(4), many, metric="correlation", seed=1, watch=go_on)
    assert not long.hit_iteration_limit


@pytest.mark.parametrize(("reason", "meaning"), [
    ("GradientDescentOptimizerv4Template: Maximum number of iterations (40) exceeded.", "all the iterations"),
    ("PowellOptimizerv4: Maximum number of iterations exceeded. Number of iterations is 3", "all the iterations"),
    ("The algorithm routine reaches the maximum number of iterations", "all the iterations"),
    ("GradientDescentOptimizerv4Template: Convergence checker passed at iteration 9.", "stopped changing"),
    ("RegularStepGradientDescentOptimizerv4: Current step (0.009) is less than minimum step (0.01).", "steps became too small"),
    ("RegularStepGradientDescentOptimizerv4: Gradient magnitude tolerance met after 17 iterations.", "flat"),
    ("A rounding error occurred or line-search steps have an insufficient reduction", "too small for the computer"),
    ("The line-search routine reaches the maximum number of evaluations", "one direction gave up"),
    ("The initial variables already minimize the objective function", "start was the best"),
    ("Cost function values at the current parameter (-0.9) are within Value Tolerance (1e-05)", "almost nothing"),
    ("something never heard of", "quoted above"),
])
def test_stop_reasons_in_plain_words(reason, meaning):
    assert meaning in explain_stop(reason)


def test_unknown_reason_leaves_the_limit_to_the_count():
    trace = LevelTrace("deformable", 0, 1.0, 0.0, "x", (1.0, 0.9), 0.9, 2, "done", 0.1)
    assert trace.hit_iteration_limit
    assert not replace(trace, stop_reason="RMS change below limit").hit_iteration_limit
