"""B-spline engine: SimpleITK's ``ImageRegistrationMethod`` moving the control points of a cubic B-spline.

One registration method per level, so that every level's course and stop reason are seen; between levels the control
points are doubled by exact knot insertion, so that a level starts where the one before it ended. Mutual information
makes it the engine for images of different contrast. References: Rueckert et al., IEEE TMI 18 (1999),
doi:10.1109/42.796284; Mattes et al., IEEE TMI 22 (2003), doi:10.1109/TMI.2003.809072; L-BFGS-B: Byrd et al., SIAM J. Sci.
Comput. 16 (1995), doi:10.1137/0916069.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.engines.base import Hyperparameter, Registration, complete_hyperparameters
from HyperPredictRegLib.errors import Cancelled, InputError, RegistrationError
from HyperPredictRegLib.geometry import Geometry
from HyperPredictRegLib.intensity import foreground
from HyperPredictRegLib.progress import CancelCheck, Progress, ProgressEvent, never, silent, stop_if
from HyperPredictRegLib.trace import LevelTrace

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
        a bound those at the mask's edge, which few samples hold, run away. At most 0.5 makes folds rare, not impossible.
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
    """Cubic B-spline driven by L-BFGS-B; its one hyperparameter is the control-point spacing."""

    name: ClassVar[str] = "bspline"
    version: ClassVar[str] = "1"
    summary: ClassVar[str] = "Smooth B-spline with mutual information: for images of different contrast."
    hyperparameters: ClassVar[tuple[Hyperparameter, ...]] = (
        Hyperparameter(
            name="control_point_spacing", symbol="h", unit="mm", lower=0.5, upper=80.0, scale="log", default=20.0,
            meaning="Distance between control points: larger values give smoother, stiffer and faster registrations.",
        ),
    )
    settings_type: ClassVar[type] = BSplineSettings
    # A dense Jacobian, and the metric's derivative for every thread; measured with the default spacing on a brain at 2 mm.
    extra_bytes: ClassVar[float] = 1.5e9

    def register(  # noqa: PLR0913 - see `Engine`
        self,
        fixed: sitk.Image,
        moving: sitk.Image,
        hyperparameters: Mapping[str, float],
        settings: BSplineSettings,
        *,
        seed: int,
        fixed_mask: sitk.Image | None = None,
        moving_mask: sitk.Image | None = None,
        start: sitk.Transform | None = None,
        progress: Progress = silent,
        cancelled: CancelCheck = never,
    ) -> Registration:
        """Register `moving`, already aligned and resampled onto the grid of `fixed`; see `Engine.register`.

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
        values = complete_hyperparameters(self, hyperparameters)
        _check_images(fixed, moving, fixed_mask, moving_mask)
        if not 0 < seed < 2**31:
            raise InputError(f"The seed {seed} cannot be used: give a whole number from 1 to {2**31 - 1}.")
        mesh = coarsest_mesh(Geometry.of(fixed), values["control_point_spacing"], settings)
        stop_if(cancelled)
        mask = sitk.BinaryDilate(foreground(fixed), [settings.dilation_voxels] * 3) if fixed_mask is None else fixed_mask
        bound_mm = settings.bound * values["control_point_spacing"] * settings.control_point_factors[0]
        fixed, moving = _filled(fixed, fixed_mask), _filled(moving, moving_mask)
        run = _Run(fixed, moving, mask, moving_mask, settings, bound_mm, seed, progress, cancelled)

        transform = sitk.BSplineTransformInitializer(fixed, list(mesh), 3)
        factor = settings.control_point_factors[0]
        levels = []
        for level, wanted in enumerate(settings.control_point_factors):
            while factor > wanted:
                transform, factor = doubled(transform), factor // 2
            levels.append(_run_level(run, level, transform))
        progress(ProgressEvent("register", 1.0, "registered"))
        return Registration(transform, tuple(levels), values, time.perf_counter() - started, seed)


def coarsest_mesh(grid: Geometry, spacing_mm: float, settings: BSplineSettings) -> tuple[int, ...]:
    """Return the number of control-point intervals per axis on the coarsest level, from the finest level's spacing in mm.

    Raises
    ------
    InputError : the spacing is under three voxels, or so fine that one evaluation of the metric would take too long.
    """
    least = MINIMUM_SPACING_VOXELS * max(grid.spacing)
    if spacing_mm < least * (1 - 1e-9):
        raise InputError(
            f"A control-point spacing of {spacing_mm:g} mm is too fine for a working grid of {max(grid.spacing):g} mm: "
            f"choose at least {least:g} mm, or a finer working grid."
        )
    mesh = _mesh(grid, spacing_mm, settings)
    if _work(mesh, settings) > MAXIMUM_PARAMETERS_TIMES_SAMPLES:
        rounded = (np.ceil(spacing_mm * factor * 10) / 10 for factor in np.geomspace(1.02, 50, 300))
        usable = next((s for s in rounded if _work(_mesh(grid, s, settings), settings) <= MAXIMUM_PARAMETERS_TIMES_SAMPLES), None)
        advice = "fewer samples" if usable is None else f"about {usable:g} mm or more, or fewer samples"
        raise InputError(
            f"A control-point spacing of {spacing_mm:g} mm needs more control points on this image than the engine 'bspline' "
            f"can compute in reasonable time: choose {advice}."
        )
    return mesh


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


def _check_images(
    fixed: sitk.Image, moving: sitk.Image, fixed_mask: sitk.Image | None, moving_mask: sitk.Image | None
) -> None:
    grid = Geometry.of(fixed)
    for what, image in (("moving image", moving), ("fixed mask", fixed_mask), ("moving mask", moving_mask)):
        if image is not None and not grid.matches(Geometry.of(image)):
            raise InputError(f"The {what} is not on the grid of the fixed image: resample it there first.")
    for what, image in (("fixed", fixed), ("moving", moving)):
        values = sitk.GetArrayViewFromImage(image)
        if not np.isfinite(values).all():
            raise InputError(f"The {what} image has voxels that are not finite numbers: repair it first.")
        if values.min() == values.max():
            raise InputError(f"The {what} image has the same value everywhere: there is nothing to register.")
    for what, mask in (("fixed", fixed_mask), ("moving", moving_mask)):
        if mask is not None and not sitk.GetArrayViewFromImage(mask).any():
            raise InputError(f"The {what} mask is empty: leave it out, or mark the voxels to compare.")


def _filled(image: sitk.Image, mask: sitk.Image | None) -> sitk.Image:
    """Replace what is outside of a mask by a blur of what is inside, so that smoothing and interpolation bring none of it in."""
    if mask is None:
        return image
    inside, sigma = sitk.Cast(mask != 0, sitk.sitkFloat64), 2 * image.GetSpacing()[0]
    kept = sitk.Cast(image, sitk.sitkFloat64) * inside
    weight = sitk.Maximum(sitk.SmoothingRecursiveGaussian(inside, sigma), 1e-3)
    return sitk.Cast(kept + sitk.SmoothingRecursiveGaussian(kept, sigma) / weight * (1 - inside), sitk.sitkFloat32)


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
        # An event comes with every evaluation; the last one of an iteration is that of the point it kept.
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
