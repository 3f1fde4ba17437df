"""Multi-resolution demons: λ is the standard deviation of the Gaussian that smooths the displacement field."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.core.errors import Cancelled, InputError, RegistrationError
from HyperPredictRegLib.core.progress import CancelCheck, Progress, ProgressEvent, stop_if
from HyperPredictRegLib.core.search_space import Parameter, SearchSpace
from HyperPredictRegLib.core.trace import LevelTrace
from HyperPredictRegLib.engines.base import EngineInfo, Registration, RegistrationTask
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import field_transform

VARIANTS = ("fast_symmetric", "diffeomorphic")


@dataclass(frozen=True)
class DemonsSettings:
    """How demons run, λ apart.

    Attributes
    ----------
    variant : "fast_symmetric" (Vercauteren et al., IPMI 2007, symmetric forces, additive) or "diffeomorphic" (Vercauteren et al.,
        NeuroImage 45 (2009) S61, doi:10.1016/j.neuroimage.2008.10.040), which hardly ever folds and costs twice the time.
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
    """Demons registration of images of one contrast: fast, smooth in λ, the same bit for bit with any number of threads."""

    info: ClassVar[EngineInfo] = EngineInfo(
        name="demons",
        version="1",
        title="Demons",
        summary="Fast symmetric forces demons: quick and accurate for images of the same contrast.",
        contrasts="same",
        search_space=SearchSpace(
            (
                Parameter(
                    name="regularization_weight", symbol="λ", unit="voxels", scale="log", low=0.4, high=4.5, default=0.7,
                    regularizes="up", title="Regularization weight",
                    tooltip="Standard deviation of the Gaussian that smooths the displacement field at each level: "
                    "higher is more regularized.",
                ),
            )
        ),
        deterministic=True,
        seconds_per_million_voxels=20.0,
        # 0.4, 0.5, 0.57, 0.66, 0.8, 1.1, 1.8 and 4.5: 3 % of a brain at 2 mm is folded at 0.45, and 0.01 % at 0.7.
        sweep_strata=(0.0, 0.0921940546, 0.1463297296, 0.2069004636, 0.2863808907, 0.4179533269, 0.6214250547, 1.0),
    )  # fmt: skip
    settings_type: ClassVar[type] = DemonsSettings

    def search_space(self, grid: Geometry, settings: DemonsSettings) -> SearchSpace:
        """Return the whole range: a Gaussian in voxels suits any grid."""
        return self.info.search_space

    def register(self, task: RegistrationTask) -> Registration:
        """Register the moving image to the fixed one; see `Engine.register`.

        Outside its mask an image counts as background; an image without a mask takes the other one's.
        """
        started = time.perf_counter()
        settings: DemonsSettings = task.settings
        values = self.info.search_space.complete(task.setting, self.info.name)
        stop_if(task.cancelled)
        fixed = _within(task.fixed, task.fixed_mask if task.fixed_mask is not None else task.moving_mask)
        moving = _within(task.moving, task.moving_mask if task.moving_mask is not None else task.fixed_mask)
        if settings.histogram_matching:
            moving = sitk.HistogramMatching(moving, fixed, 128, 15, True)
        fixed, moving = _locally_normalised(fixed, settings), _locally_normalised(moving, settings)
        grid = Geometry.of(fixed)
        factors = _shrink_factors(grid, settings.coarsest_voxels)
        levels: list[LevelTrace] = []
        field = _zero_field(_coarser(grid, factors[0]))
        for number, factor in enumerate(factors):
            stop_if(task.cancelled)
            level_grid = _coarser(grid, factor)
            run = _LevelRun(settings, values["regularization_weight"], number, factors, task.progress, task.cancelled)
            before = level_grid.resample(field) if number else field
            field, trace = run.execute(run.view(fixed, level_grid), run.view(moving, level_grid), before)
            levels.append(trace)
        return Registration(field_transform(field), tuple(levels), values, time.perf_counter() - started, task.seed)


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
