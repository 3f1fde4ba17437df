"""B-spline engine: SimpleITK's ``ImageRegistrationMethod`` moving the control points of a cubic B-spline.

One registration method per level, so that every level's convergence and stop reason are seen; between levels the control
points are doubled by exact knot insertion, so that a level starts where the one before it ended. Mutual information
makes it the engine for images of different contrast. References: Rueckert et al., IEEE TMI 18 (1999),
doi:10.1109/42.796284; Mattes et al., IEEE TMI 22 (2003), doi:10.1109/TMI.2003.809072; L-BFGS-B: Byrd et al., SIAM J. Sci.
Comput. 16 (1995), doi:10.1137/0916069.
"""

from __future__ import annotations

import itertools
import math
import sys
import time
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.core.errors import Cancelled, InputError, RegistrationError
from HyperPredictRegLib.core.progress import CancelCheck, Progress, ProgressEvent, stop_if
from HyperPredictRegLib.core.search_space import Parameter, SearchSpace
from HyperPredictRegLib.core.trace import LevelTrace
from HyperPredictRegLib.engines.base import EngineInfo, Registration, RegistrationTask
from HyperPredictRegLib.engines.given_images import check_images, filled
from HyperPredictRegLib.preprocessing.intensity import foreground
from HyperPredictRegLib.spatial.geometry import Geometry

METRICS = ("mattes", "correlation", "mean_squares")

# Bounded L-BFGS-B opens with a step as long as the gradient. For squared differences of intensities 0 to 1 that is a nanometre,
# which changes nothing that can be measured, and the search would end at once: so they are squared in larger units.
# (Optimiser scales are no way out: ITK's L-BFGS-B ignores them with a warning and then crashed here.)
_INTENSITY_UNITS = {"mattes": 1.0, "correlation": 1.0, "mean_squares": 100.0}

# SimpleITK fills a dense Jacobian at every sample, so an evaluation of the metric takes about 1e-8 s x parameters x samples on
# one thread. A run can be cancelled only between evaluations: at this product that is after about two seconds.
MAXIMUM_PARAMETERS_TIMES_SAMPLES = 200_000_000
MINIMUM_SPACING_VOXELS = 3.0


@dataclass(frozen=True)
class BSplineSettings:
    """How the B-spline engine searches; the five tuples have one entry per level, coarsest first.

    Attributes
    ----------
    metric : "mattes" (mutual information, for any two contrasts), "correlation" or "mean_squares".
    histogram_bins : bins per axis of the joint histogram of mutual information.
    shrink_factors : each level's images are this many times coarser than the working grid.
    smoothing_sigmas_voxels : Gaussian smoothing of both images, in voxels of the working grid.
    control_point_factors : control-point spacing over the finest level's; powers of two, never rising, the last one 1.
    iterations : most L-BFGS-B iterations. More are not better: the search then fits the samples instead of the anatomy.
    samples : points at which the metric is evaluated on each level, drawn at random inside the mask, afresh for
        each level; that is why the last two levels differ in their samples alone.
    dilation_voxels : where no fixed mask is given, the metric is evaluated in the fixed foreground, dilated by this many voxels
        so that the outline is seen from both sides.
    bound : no control point moves further along an axis than this share of the coarsest level's control-point spacing. Without
        a bound those at the mask's edge, which few samples hold, run away. At most 0.5 makes folding rare, not impossible.
    value_tolerance : a level ends when an iteration improves the metric by less than this share of it.
    """

    metric: str = "mattes"
    histogram_bins: int = 32
    shrink_factors: tuple[int, ...] = (2, 1, 1)
    smoothing_sigmas_voxels: tuple[float, ...] = (1.0, 0.5, 0.5)
    control_point_factors: tuple[int, ...] = (2, 1, 1)
    iterations: tuple[int, ...] = (15, 6, 6)
    samples: tuple[int, ...] = (30000, 12000, 12000)
    dilation_voxels: int = 3
    bound: float = 0.5
    value_tolerance: float = 1e-5

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise InputError(f"The metric '{self.metric}' is unknown to the engine 'bspline': use {', '.join(METRICS)}.")
        lengths = {len(levels) for levels in (
            self.shrink_factors, self.smoothing_sigmas_voxels, self.control_point_factors, self.iterations,
            self.samples)}
        if len(lengths) != 1 or 0 in lengths:
            raise InputError("The settings of the engine 'bspline' need one shrink factor, smoothing sigma, control-point "
                             "factor, number of iterations and of samples for each level: make the five lists equally long.")
        factors = self.control_point_factors
        descending = all(a >= b for a, b in itertools.pairwise(factors))
        if factors[-1] != 1 or not descending or any(f < 1 or f & (f - 1) for f in factors):
            raise InputError(f"control_point_factors = {factors} is of no use: give powers of two that never rise and end in 1.")
        self._check_numbers()

    def _check_numbers(self) -> None:
        if min(self.shrink_factors) < 1 or min(self.iterations) < 1 or min(self.smoothing_sigmas_voxels) < 0:
            raise InputError("Shrink factors and iterations of the engine 'bspline' start at 1, smoothing sigmas at 0.")
        if self.histogram_bins < 8 or min(self.samples) < 100 or self.dilation_voxels < 0:
            raise InputError("The engine 'bspline' needs at least 8 histogram bins, 100 samples and no negative dilation.")
        if not self.bound > 0:
            raise InputError(f"bound = {self.bound:g} leaves the control points no room to move: give a number above 0.")
        if not 0 < self.value_tolerance < 1:
            raise InputError(f"value_tolerance = {self.value_tolerance:g} cannot be used: give a number between 0 and 1.")


@dataclass(frozen=True)
class _Run:
    """What all levels of one registration share."""

    fixed: sitk.Image
    moving: sitk.Image
    fixed_mask: sitk.Image
    moving_mask: sitk.Image | None
    settings: BSplineSettings
    bound_mm: float
    seed: int
    progress: Progress
    cancelled: CancelCheck


class BSplineEngine:
    """Cubic B-spline driven by L-BFGS-B; its one parameter is the control-point spacing."""

    info: ClassVar[EngineInfo] = EngineInfo(
        name="bspline",
        version="1",
        title="B-spline",
        summary="Smooth B-spline with mutual information: for images of different contrast.",
        contrasts="any",
        search_space=SearchSpace(
            (
                Parameter(
                    name="control_point_spacing", symbol="h", unit="mm", scale="log", low=0.5, high=80.0, default=20.0,
                    regularizes="up", title="Control-point spacing",
                    tooltip="Distance between control points: larger is smoother, more regularized and faster.",
                ),
            )
        ),
        # A dense Jacobian, and the metric's derivative for every thread; measured with the default spacing on a brain at 2 mm.
        extra_bytes=1.5e9,
        seconds_per_million_voxels=60.0,
    )  # fmt: skip
    settings_type: ClassVar[type] = BSplineSettings

    def search_space(self, grid: Geometry, settings: BSplineSettings) -> SearchSpace:
        """Return the spacings that are neither under three voxels nor need more control points than can be computed."""
        spacing = self.info.search_space.first
        return self.info.search_space.narrowed(spacing.name, smallest_spacing(grid, settings), spacing.high)

    def register(self, task: RegistrationTask) -> Registration:
        """Register the moving image to the fixed one; see `Engine.register`.

        The control points divide the grid evenly, so their spacing is the nearest one that fits, not exactly the one
        asked for. The transform is one ``sitk.BSplineTransform``; it is the identity outside the grid of `fixed`.

        Raises
        ------
        InputError : grids differ, an image is constant or not finite, a mask is empty, the seed is not positive, or the
            spacing is under three voxels or needs more control points than can be computed.
        RegistrationError : the optimiser failed, or the displacements became larger than the image.
        Cancelled : the caller asked to stop; noticed at the next evaluation of the metric.
        """
        started = time.perf_counter()
        settings: BSplineSettings = task.settings
        values = self.info.search_space.complete(task.setting, self.info.name)
        if not 0 < task.seed < 2**31:
            raise InputError(f"The seed {task.seed} cannot be used: give a whole number from 1 to {2**31 - 1}.")
        spacing = values["control_point_spacing"]
        mesh = coarsest_mesh(Geometry.of(task.fixed), spacing, settings)
        stop_if(task.cancelled)
        check_images(task.fixed, task.moving, task.fixed_mask, task.moving_mask)
        mask = task.fixed_mask
        if mask is None:
            mask = sitk.BinaryDilate(foreground(task.fixed), [settings.dilation_voxels] * 3)
        fixed, moving = filled(task.fixed, task.fixed_mask), filled(task.moving, task.moving_mask)
        factor = settings.control_point_factors[0]
        bound_mm = settings.bound * spacing * factor
        run = _Run(fixed, moving, mask, task.moving_mask, settings, bound_mm, task.seed, task.progress, task.cancelled)

        transform = sitk.BSplineTransformInitializer(fixed, list(mesh), 3)
        levels = []
        for level, expected in enumerate(settings.control_point_factors):
            while factor > expected:
                transform, factor = doubled(transform), factor // 2
            levels.append(_run_level(run, level, transform))
        task.progress(ProgressEvent("register", 1.0, "registered"))
        return Registration(transform, tuple(levels), values, time.perf_counter() - started, task.seed)


def coarsest_mesh(grid: Geometry, spacing_mm: float, settings: BSplineSettings) -> tuple[int, ...]:
    """Return the number of control-point intervals per axis on the coarsest level, from the finest level's spacing in mm.

    Raises
    ------
    InputError : the spacing is under three voxels, or so fine that one evaluation of the metric would take too long.
    """
    least = smallest_spacing(grid, settings)
    if spacing_mm < least * (1 - 1e-9):
        instead = f"at least {least:g} mm" if math.isfinite(least) else "fewer samples"
        raise InputError(
            f"A control-point spacing of {spacing_mm:g} mm is too fine for a working grid of {grid.size} voxels of "
            f"{max(grid.spacing):g} mm: choose {instead}."
        )
    return _mesh(grid, spacing_mm, settings)


def smallest_spacing(grid: Geometry, settings: BSplineSettings) -> float:
    """Return the smallest control-point spacing, in mm, that can be computed on a grid; infinite if there is none.

    At least `MINIMUM_SPACING_VOXELS`, and so much that an evaluation of the metric does not take too long; with three digits.
    """
    least = MINIMUM_SPACING_VOXELS * max(grid.spacing)
    # Finer meshes never take less work, so the first spacing that can be computed is the smallest.
    steps = (float(step) for step in least * np.geomspace(1.0, 400.0, 1200))
    found = next((s for s in steps if _work(_mesh(grid, s, settings), settings) <= MAXIMUM_PARAMETERS_TIMES_SAMPLES), None)
    if found is None:
        return math.inf
    digit = 10.0 ** (math.floor(math.log10(found)) - 2)
    # A little less, lest what rounding made of 3.3 become 3.31.
    return math.ceil(found / digit - 1e-6) * digit


def doubled(transform: sitk.BSplineTransform) -> sitk.BSplineTransform:
    """Return the same cubic B-spline with half the control-point spacing, by knot insertion: equal but for rounding."""
    refined = []
    for image in transform.GetCoefficientImages():
        values = sitk.GetArrayFromImage(image)
        for axis in range(3):
            values = _doubled_along(values, axis)
        spacing = np.array(image.GetSpacing()) / 2
        # The first control point lies one interval before the domain, on the finer mesh too.
        origin = np.array(image.TransformContinuousIndexToPhysicalPoint((0.5, 0.5, 0.5)))
        finer = sitk.GetImageFromArray(values)
        finer.SetSpacing(spacing.tolist())
        finer.SetOrigin(origin.tolist())
        finer.SetDirection(image.GetDirection())
        refined.append(finer)
    return sitk.BSplineTransform(refined, 3)


def _doubled_along(coefficients: np.ndarray, axis: int) -> np.ndarray:
    """Insert a knot in the middle of each interval: the two-scale relation of cubic B-splines."""
    c = np.moveaxis(coefficients, axis, 0)
    result = np.empty((2 * len(c) - 3, *c.shape[1:]))
    result[0::2] = (c[:-1] + c[1:]) / 2
    result[1::2] = (c[:-2] + 6 * c[1:-1] + c[2:]) / 8
    return np.ascontiguousarray(np.moveaxis(result, 0, axis))


def _mesh(grid: Geometry, spacing_mm: float, settings: BSplineSettings) -> tuple[int, ...]:
    return tuple(max(1, round(extent / (spacing_mm * settings.control_point_factors[0]))) for extent in grid.extent_mm)


def _work(mesh: tuple[int, ...], settings: BSplineSettings) -> int:
    """Return parameters times samples on the dearest level."""
    coarsest = settings.control_point_factors[0]
    return max(
        samples * 3 * int(np.prod([intervals * (coarsest // factor) + 3 for intervals in mesh], dtype=np.int64))
        for factor, samples in zip(settings.control_point_factors, settings.samples, strict=True)
    )


class _StoppedInside(Exception):  # noqa: N818 - leaves ITK's optimiser, never this file
    """Raised inside an iteration event: L-BFGS-B does not heed ``StopRegistration``."""


@dataclass
class _Watch:
    """Listens to the iteration events of one level."""

    run: _Run
    level: int
    method: sitk.ImageRegistrationMethod
    values: dict[int, float] = field(default_factory=dict)
    stopped: str = ""

    def __call__(self) -> None:
        value = self.method.GetMetricValue() / _INTENSITY_UNITS[self.run.settings.metric] ** 2
        # An event comes with every evaluation; the last one of an iteration is that of its result.
        self.values[self.method.GetOptimizerIteration()] = value
        levels = self.run.settings.iterations
        share = (self.level + len(self.values) / levels[self.level]) / len(levels)
        self.run.progress(ProgressEvent("register", min(share, 1.0), f"level {self.level + 1} of {len(levels)}", value))
        if not np.isfinite(value):
            self.stopped = "diverged"
        elif self.run.cancelled():
            self.stopped = "cancelled"
        if self.stopped:
            # SimpleITK shows an exception in a command through sys.excepthook before it unwinds; this one is no news.
            sys.excepthook = lambda *_: None
            raise _StoppedInside


def _run_level(run: _Run, level: int, transform: sitk.BSplineTransform) -> LevelTrace:
    """Optimise `transform` in place on one level."""
    started = time.perf_counter()
    settings = run.settings
    limit = settings.iterations[level]
    fixed, moving, method = _prepared(run, level)
    method.SetInitialTransform(transform, True)
    watch = _Watch(run, level, method)
    method.AddCommand(sitk.sitkIterationEvent, watch)
    stop_if(run.cancelled)
    hook = sys.excepthook
    try:
        method.Execute(fixed, moving)
    except RuntimeError as error:
        if watch.stopped == "cancelled":
            raise Cancelled("The registration was cancelled; nothing was written.") from error
        why = "its metric is not a number." if watch.stopped else str(error).splitlines()[-1]
        raise RegistrationError(f"The B-spline registration failed at level {level + 1}: {why}") from error
    finally:
        sys.excepthook = hook
        # The observer holds the method and the method its observer: Python's collector cannot see that circle.
        method.RemoveAllCommands()
    _check_result(transform, run.fixed, level)
    reason = method.GetOptimizerStopConditionDescription()
    # At its limit ITK's L-BFGS-B says "User requested", which no user did.
    reason = f"Maximum number of iterations ({limit}) reached." if len(watch.values) >= limit else reason
    return LevelTrace(
        stage="deformable", level=level, shrink_factor=float(settings.shrink_factors[level]),
        smoothing_sigma_mm=settings.smoothing_sigmas_voxels[level] * run.fixed.GetSpacing()[0], metric=settings.metric,
        values=tuple(watch.values[n] for n in sorted(watch.values)),
        end_value=method.GetMetricValue() / _INTENSITY_UNITS[settings.metric] ** 2,
        iteration_limit=limit, stop_reason=reason, seconds=time.perf_counter() - started,
    )


def _prepared(run: _Run, level: int) -> tuple[sitk.Image, sitk.Image, sitk.ImageRegistrationMethod]:
    """Return the images of a level, and a method that lacks only its transform and observers."""
    settings = run.settings
    fixed, moving = run.fixed, run.moving
    sigma = settings.smoothing_sigmas_voxels[level] * fixed.GetSpacing()[0]
    if sigma:
        fixed, moving = sitk.SmoothingRecursiveGaussian(fixed, sigma), sitk.SmoothingRecursiveGaussian(moving, sigma)
    grid = Geometry.of(fixed)
    shrink = settings.shrink_factors[level]
    if shrink > 1:
        centres = np.array([grid.to_lps((0, 0, 0)), grid.to_lps(np.array(grid.size) - 1)])
        grid = grid.covering(centres, grid.spacing[0] * shrink, 0.0)
        fixed = grid.resample(fixed)
    mask = grid.resample(sitk.Cast(run.fixed_mask != 0, sitk.sitkUInt8), interpolator=sitk.sitkNearestNeighbor)
    inside = int(np.count_nonzero(sitk.GetArrayViewFromImage(mask)))
    if inside < 100:
        raise InputError("The fixed mask has too few voxels to register: choose a larger mask or a finer working grid.")
    method = sitk.ImageRegistrationMethod()
    if settings.metric == "mattes":
        method.SetMetricAsMattesMutualInformation(settings.histogram_bins)
    elif settings.metric == "correlation":
        method.SetMetricAsCorrelation()
    else:
        method.SetMetricAsMeanSquares()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetMetricFixedMask(mask)
    if run.moving_mask is not None:
        method.SetMetricMovingMask(sitk.Cast(run.moving_mask != 0, sitk.sitkUInt8))
    samples = settings.samples[level]
    if samples < inside:
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(samples / inside, run.seed + level)
    _set_optimiser(method, run, level)
    unit = _INTENSITY_UNITS[settings.metric]
    return fixed * unit, moving * unit, method


def _set_optimiser(method: sitk.ImageRegistrationMethod, run: _Run, level: int) -> None:
    iterations = run.settings.iterations[level]
    method.SetOptimizerAsLBFGSB(
        # The metric's slope is about 1e-4 per mm of one control point to begin with: ITK's customary tolerance of 1e-5 would
        # end a run almost before it began, so convergence is told by the value alone.
        gradientConvergenceTolerance=1e-9,
        numberOfIterations=iterations,
        maximumNumberOfCorrections=8,
        maximumNumberOfFunctionEvaluations=20 * iterations,
        costFunctionConvergenceFactor=run.settings.value_tolerance / sys.float_info.epsilon,
        lowerBound=-run.bound_mm,
        upperBound=run.bound_mm,
    )


def _check_result(transform: sitk.BSplineTransform, fixed: sitk.Image, level: int) -> None:
    """Raise `RegistrationError` if the displacements are not finite or larger than the image."""
    coefficients = np.array(transform.GetParameters())
    largest = max(Geometry.of(fixed).extent_mm)
    # A B-spline is a weighted mean of its coefficients: they bound the displacements.
    if not np.isfinite(coefficients).all() or np.abs(coefficients).max() > largest:
        raise RegistrationError(
            f"The B-spline registration diverged at level {level + 1}: choose a larger control-point spacing, or check that the "
            "images show the same anatomy and are roughly aligned."
        )
