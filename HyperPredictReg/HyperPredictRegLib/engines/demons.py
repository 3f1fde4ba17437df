"""Multi-resolution demons: λ is the standard deviation of the Gaussian that smooths the displacement field."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.engines.base import Hyperparameter, Registration, complete_hyperparameters
from HyperPredictRegLib.errors import Cancelled, InputError, RegistrationError
from HyperPredictRegLib.geometry import Geometry
from HyperPredictRegLib.progress import CancelCheck, Progress, ProgressEvent, never, silent, stop_if
from HyperPredictRegLib.trace import LevelTrace
from HyperPredictRegLib.transforms import displacement_field, field_transform

VARIANTS = ("fast_symmetric", "diffeomorphic")

WARM_LEVELS = 2
"""Levels that are run again from an earlier result."""


@dataclass(frozen=True)
class DemonsSettings:
    """How demons run, λ apart.

    Attributes
    ----------
    variant : "fast_symmetric" (Vercauteren et al., IPMI 2007, symmetric forces, additive) or "diffeomorphic" (Vercauteren et al.,
        NeuroImage 45 (2009) S61, doi:10.1016/j.neuroimage.2008.10.040), which hardly folds at any λ and costs twice the time.
    iterations : most iterations per level, finest last; coarser levels than there are numbers use the first.
    coarsest_voxels : levels are added, each half as fine, while the shortest side of the grid keeps this many voxels.
    smoothing_voxels : standard deviation of the Gaussian on the images of a level, in voxels of that level; the finest
        level takes the images as they are, because the working grid has been smoothed already.
    maximum_step_voxels : longest displacement update per iteration, in voxels of the level.
    update_sigma_voxels : standard deviation of the Gaussian that smooths each update ("fluid" regularisation); 0 is off.
    rms_change_limit : a level has converged when the root mean square update, in mm per mm of voxel, falls below this.
    local_normalisation_voxels : intensities are replaced by their difference from the local mean over the local standard
        deviation, both from a Gaussian window of this standard deviation in voxels of the finest level; 0 is off. Compares
        edges rather than grey values, so that bias fields and slow changes of contrast do not pull.
    local_contrast_floor : added to the local standard deviation (in squares), so that noise in flat regions is not blown up.
    histogram_matching : map the moving image's intensities to the fixed image's first.
    """

    variant: str = "fast_symmetric"
    iterations: tuple[int, ...] = (40, 40, 30, 10)
    coarsest_voxels: int = 16
    smoothing_voxels: float = 0.5
    maximum_step_voxels: float = 0.5
    update_sigma_voxels: float = 0.0
    rms_change_limit: float = 0.0
    local_normalisation_voxels: float = 0.875
    local_contrast_floor: float = 0.1
    histogram_matching: bool = False

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise InputError(f"There is no demons variant '{self.variant}': choose one of {', '.join(VARIANTS)}.")
        if not self.iterations or min(self.iterations) < 1:
            raise InputError(f"The demons' iterations are {self.iterations}: give at least one number, each 1 or more.")
        if self.maximum_step_voxels <= 0 or self.local_contrast_floor <= 0:
            raise InputError("The demons' step length and local contrast floor must be above 0.")
        lengths = (self.update_sigma_voxels, self.smoothing_voxels, self.local_normalisation_voxels)
        if min(*lengths, self.rms_change_limit) < 0:
            raise InputError("The demons' smoothing, local normalisation and limits must be 0 or more.")
        if self.coarsest_voxels < 4:
            raise InputError(f"The demons' coarsest_voxels is {self.coarsest_voxels}: give 4 or more.")


class DemonsEngine:
    """Demons registration of images of like contrast: fast, smooth in λ, the same bit for bit with any number of threads."""

    name: ClassVar[str] = "demons"
    version: ClassVar[str] = "1"
    summary: ClassVar[str] = "Fast symmetric forces demons: quick and accurate for images of the same contrast."
    hyperparameters: ClassVar[tuple[Hyperparameter, ...]] = (
        Hyperparameter(
            name="regularization_weight",
            symbol="λ",
            unit="voxels",
            lower=0.4,
            upper=4.5,
            scale="log",
            default=0.7,
            meaning="Standard deviation of the Gaussian that smooths the displacement field at each level: higher is stiffer.",
        ),
    )
    settings_type: ClassVar[type] = DemonsSettings
    extra_bytes: ClassVar[float] = 0.0

    def register(  # noqa: PLR0913 - see `Engine`
        self,
        fixed: sitk.Image,
        moving: sitk.Image,
        hyperparameters: Mapping[str, float],
        settings: DemonsSettings,
        *,
        seed: int,
        fixed_mask: sitk.Image | None = None,
        moving_mask: sitk.Image | None = None,
        start: sitk.Transform | None = None,
        progress: Progress = silent,
        cancelled: CancelCheck = never,
    ) -> Registration:
        """Register `moving` to `fixed`; see `Engine.register`.

        Outside its mask an image counts as background; an image without a mask takes the other one's. From `start` only the
        `WARM_LEVELS` finest levels are run.
        """
        started = time.perf_counter()
        values = complete_hyperparameters(self, hyperparameters)
        fixed = _within(fixed, fixed_mask if fixed_mask is not None else moving_mask)
        moving = _within(moving, moving_mask if moving_mask is not None else fixed_mask)
        if settings.histogram_matching:
            moving = sitk.HistogramMatching(moving, fixed, 128, 15, True)
        fixed, moving = _locally_normalised(fixed, settings), _locally_normalised(moving, settings)
        grid = Geometry.of(fixed)
        factors = _shrink_factors(grid, settings.coarsest_voxels)
        levels: list[LevelTrace] = []
        field = None if start is None else displacement_field(start, grid)
        first = 0 if start is None else max(0, len(factors) - WARM_LEVELS)
        for number, factor in list(enumerate(factors))[first:]:
            stop_if(cancelled)
            level_grid = _coarser(grid, factor)
            run = _LevelRun(settings, values["regularization_weight"], number, factors, progress, cancelled)
            before = _zero_field(level_grid) if field is None else level_grid.resample(field)
            field, trace = run.execute(run.view(fixed, level_grid), run.view(moving, level_grid), before)
            levels.append(trace)
        if field is None:
            raise RegistrationError("The demons had no level to run.")
        return Registration(
            transform=field_transform(field),
            levels=tuple(levels),
            hyperparameters=values,
            seconds=time.perf_counter() - started,
            seed=seed,
        )


@dataclass
class _LevelRun:
    """One level of the pyramid: its filter, its observers and its trace."""

    settings: DemonsSettings
    sigma_voxels: float
    number: int
    factors: tuple[int, ...]
    progress: Progress
    cancelled: CancelCheck

    @property
    def factor(self) -> int:
        return self.factors[self.number]

    @property
    def iteration_limit(self) -> int:
        from_finest = len(self.factors) - self.number
        iterations = self.settings.iterations
        return iterations[max(0, len(iterations) - from_finest)]

    def smoothing_mm(self, spacing: float) -> float:
        """Return the Gaussian's standard deviation for images of a level with this voxel edge."""
        return self.settings.smoothing_voxels * spacing if self.factor > 1 else 0.0

    def view(self, image: sitk.Image, level_grid: Geometry) -> sitk.Image:
        """Return the image as this level sees it."""
        sigma = self.smoothing_mm(level_grid.spacing[0])
        return level_grid.resample(sitk.SmoothingRecursiveGaussian(image, sigma) if sigma else image)

    def execute(self, fixed: sitk.Image, moving: sitk.Image, start: sitk.Image) -> tuple[sitk.Image, LevelTrace]:
        """Run the level from displacement field `start`; return the new field and the trace."""
        started = time.perf_counter()
        demons = self._filter(fixed.GetSpacing()[0])
        values: list[float] = []
        stopped: list[str] = []

        def watch() -> None:
            value = demons.GetMetric()
            values.append(value)
            if not math.isfinite(value):
                stopped.append("diverged")
            elif self.cancelled():
                stopped.append("cancelled")
            if stopped:
                demons.Abort()
            share = (self.number + len(values) / self.iteration_limit) / len(self.factors)
            self.progress(ProgressEvent("register", min(share, 1.0), f"level {self.number + 1} of {len(self.factors)}", value))

        demons.AddCommand(sitk.sitkIterationEvent, watch)
        try:
            field = demons.Execute(fixed, moving, start)
        except RuntimeError as error:
            # An aborted filter ends here, too.
            self._check_stopped(stopped)
            raise RegistrationError(f"The demons stopped at level {self.number + 1}: {str(error).splitlines()[-1]}") from error
        finally:
            # The filter holds `watch` and `watch` the filter, out of sight of Python's collector: without this neither goes.
            demons.RemoveAllCommands()
        self._check_stopped(stopped or ([] if np.isfinite(sitk.GetArrayViewFromImage(field)).all() else ["diverged"]))
        limit = self.iteration_limit
        reason = (
            f"Maximum number of iterations ({limit}) reached; RMS change was {demons.GetRMSChange():.3g}."
            if len(values) >= limit
            else f"RMS change {demons.GetRMSChange():.3g} fell below its limit after {len(values)} iterations."
        )
        trace = LevelTrace(
            stage="deformable",
            level=self.number,
            shrink_factor=float(self.factor),
            smoothing_sigma_mm=self.smoothing_mm(fixed.GetSpacing()[0]),
            metric="mean squared intensity difference",
            values=tuple(values),
            # The filter's metric belongs to the field before its last update.
            end_value=None,
            iteration_limit=limit,
            stop_reason=reason,
            seconds=time.perf_counter() - started,
        )
        return field, trace

    def _check_stopped(self, stopped: list[str]) -> None:
        if "cancelled" in stopped:
            raise Cancelled("The registration was cancelled; nothing was written.")
        if "diverged" in stopped:
            raise RegistrationError(
                f"The demons diverged at level {self.number + 1} with λ = {self.sigma_voxels:g}: choose a higher λ, or check "
                "that the images show the same anatomy with the same contrast."
            )

    def _filter(self, spacing: float) -> Any:
        settings = self.settings
        if settings.variant == "diffeomorphic":
            demons = sitk.DiffeomorphicDemonsRegistrationFilter()
        else:
            demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
        demons.SetNumberOfIterations(self.iteration_limit)
        demons.SetMaximumUpdateStepLength(settings.maximum_step_voxels)
        demons.SetSmoothDisplacementField(True)
        demons.SetStandardDeviations(self.sigma_voxels)
        demons.SetSmoothUpdateField(settings.update_sigma_voxels > 0)
        demons.SetUpdateFieldStandardDeviations(max(settings.update_sigma_voxels, 0.1))
        # Wide enough for the widest kernel of the range: ITK's default of 30 cuts a Gaussian of 4.5 voxels short.
        demons.SetMaximumKernelWidth(60)
        demons.SetMaximumError(0.01)
        demons.SetMaximumRMSError(settings.rms_change_limit * spacing)
        return demons


def _locally_normalised(image: sitk.Image, settings: DemonsSettings) -> sitk.Image:
    """Return (I - mean) / sqrt(variance + floor^2) with mean and variance of a Gaussian window, as float32."""
    if settings.local_normalisation_voxels == 0:
        return image
    sigma = settings.local_normalisation_voxels * image.GetSpacing()[0]
    difference = image - sitk.SmoothingRecursiveGaussian(image, sigma)
    variance = sitk.Clamp(sitk.SmoothingRecursiveGaussian(sitk.Square(difference), sigma), lowerBound=0.0)
    return difference / sitk.Sqrt(sitk.ShiftScale(variance, settings.local_contrast_floor**2))


def _shrink_factors(grid: Geometry, coarsest_voxels: int) -> tuple[int, ...]:
    levels = 1 + max(0, int(math.log2(max(min(grid.size) / coarsest_voxels, 1))))
    return tuple(2**n for n in reversed(range(levels)))


def _coarser(grid: Geometry, factor: int) -> Geometry:
    if factor == 1:
        return grid
    centres = np.array([grid.to_lps((0, 0, 0)), grid.to_lps(np.array(grid.size) - 1)])
    return grid.covering(centres, grid.spacing[0] * factor, 0.0)


def _zero_field(grid: Geometry) -> sitk.Image:
    return grid.apply_to(sitk.Image(grid.size, sitk.sitkVectorFloat64, 3))


def _within(image: sitk.Image, mask: sitk.Image | None) -> sitk.Image:
    return image if mask is None else sitk.Mask(image, mask)
