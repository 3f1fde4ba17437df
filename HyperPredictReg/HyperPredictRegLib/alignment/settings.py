"""What a user can choose about the affine step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from HyperPredictRegLib.errors import InputError

STAGES = ("rigid", "similarity", "affine")
STARTS = ("moments", "geometry", "identity")
METRICS = ("auto", "mattes", "correlation", "mean_squares")
CONTRASTS = ("auto", "same", "different")
SAMPLINGS = ("none", "random", "regular")
LEARNING_RATES = ("never", "once", "each_iteration")
OPTIMISERS = ("gradient_descent", "gradient_descent_line_search", "regular_step", "lbfgs2", "powell")


@dataclass(frozen=True)
class AlignmentSettings:
    """Settings of the affine step; lengths are relative to the object, so one setting suits a head and a mouse brain.

    Attributes
    ----------
    stages : any of "rigid", "similarity" and "affine", in this order. Stages before the last run on the coarsest level
        only, the last one on all levels. Empty: keep the start.
    start : "moments" puts the centres of the two foregrounds onto each other, "geometry" the centres of the two image
        boxes, "identity" trusts the positions in the files.
    voxels_across : voxels of the finest level along the smaller of the two objects; never finer than the images.
    shrink_factors : one per level, coarsest first: how many times coarser than the finest level.
    smoothing_sigmas : one per level: standard deviation of the Gaussian, in voxels of that level.
    iterations : one per level: the most iterations.
    sampling : "none" compares all voxels, "random" and "regular" a share of them.
    sampling_percentages : one per level: that share, in percent; 100 means all voxels. At least 20000 voxels are compared
        where there are so many, so that a small image or mask is not starved.
    metric : "auto" takes "correlation" where the two images have the same contrast and "mattes" (mutual information)
        elsewhere; "mean_squares" needs equal intensities, too.
    contrast : "auto" measures it after the first stage; "same" and "different" override what "auto" metric would find.
    histogram_bins : of "mattes".
    optimiser : one of `OPTIMISERS`.
    learning_rate_estimation : "never", "once" or "each_iteration": whether to choose the learning rate so that a step moves
        no voxel by more than one voxel (gradient descents and regular step only).
    learning_rate : the first step where the learning rate is not estimated; in 150ths of the object's size.
    minimum_step : where "regular_step" stops; in 150ths of the object's size.
    step_relaxation : what "regular_step" multiplies its step by whenever it has to turn back. A half, the customary value,
        gives up early on rotations that change the metric little.
    convergence_value, convergence_window : gradient descents stop when the metric's slope over that many iterations is
        below the value; also the relative tolerance of "lbfgs2" and "powell".
    multi_start : try rotated starts on the coarsest level.
    multi_start_range_degrees : largest rotation tried, up to 180 (every orientation).
    multi_start_step_degrees : about the angle between neighbouring starts.
    multi_start_refined : how many of the best rotated starts are refined and compared, besides the unrotated one.
    """

    stages: tuple[str, ...] = ("rigid", "affine")
    start: str = "moments"
    voxels_across: int = 75
    shrink_factors: tuple[float, ...] = (4.0, 2.0, 1.0)
    smoothing_sigmas: tuple[float, ...] = (0.5, 0.5, 0.5)
    iterations: tuple[int, ...] = (100, 100, 60)
    sampling: str = "random"
    sampling_percentages: tuple[float, ...] = (100.0, 25.0, 5.0)
    metric: str = "auto"
    contrast: str = "auto"
    histogram_bins: int = 32
    optimiser: str = "regular_step"
    learning_rate_estimation: str = "once"
    learning_rate: float = 1.0
    minimum_step: float = 0.005
    step_relaxation: float = 0.8
    convergence_value: float = 1e-5
    convergence_window: int = 8
    multi_start: bool = True
    multi_start_range_degrees: float = 180.0
    multi_start_step_degrees: float = 35.0
    multi_start_refined: int = 4

    def __post_init__(self) -> None:
        self._check_stages()
        self._check_levels()
        for name, allowed in (
            ("start", STARTS), ("sampling", SAMPLINGS), ("metric", METRICS), ("contrast", CONTRASTS),
            ("optimiser", OPTIMISERS), ("learning_rate_estimation", LEARNING_RATES),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise InputError(f"The alignment's {name} is {value!r}, but it must be one of: {', '.join(allowed)}.")
        for name, low, high in (
            ("voxels_across", 8, 400), ("histogram_bins", 5, 256), ("convergence_window", 2, 1000),
            ("multi_start_refined", 0, 100), ("learning_rate", 1e-6, 1e6), ("minimum_step", 1e-9, 1e3),
            ("step_relaxation", 0.05, 0.95),
            ("convergence_value", 0, 1), ("multi_start_range_degrees", 0, 180), ("multi_start_step_degrees", 10, 180),
        ):
            self._check_number(name, getattr(self, name), low, high)

    def _check_stages(self) -> None:
        known = [s for s in self.stages if s in STAGES]
        if len(known) != len(self.stages) or sorted(set(known), key=STAGES.index) != known:
            raise InputError(
                f"The alignment's stages are {list(self.stages)}, but they must be some of {', '.join(STAGES)}, "
                "each once and in this order, or none to keep the start."
            )

    def _check_levels(self) -> None:
        count = len(self.shrink_factors)
        if count == 0:
            raise InputError("The alignment needs at least one level: give at least one of shrink_factors.")
        if list(self.shrink_factors) != sorted(self.shrink_factors, reverse=True):
            raise InputError(
                f"The alignment's shrink_factors are {list(self.shrink_factors)}, but must not grow: coarsest level first."
            )
        for name, low, high in (
            ("shrink_factors", 1, 64), ("smoothing_sigmas", 0, 16), ("iterations", 1, 100_000),
            ("sampling_percentages", 0.01, 100),
        ):
            values = getattr(self, name)
            if len(values) != count:
                raise InputError(
                    f"The alignment's {name} has {len(values)} values, but shrink_factors has {count}: give one per level."
                )
            for value in values:
                self._check_number(name, value, low, high)

    @staticmethod
    def _check_number(name: str, value: Any, low: float, high: float) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not low <= value <= high:
            raise InputError(f"The alignment's {name} is {value!r}, but it must be a number from {low:g} to {high:g}.")


def check_seed(seed: int) -> int:
    """Return `seed`; raise `InputError` unless it is a whole number from 1 to 2**31 - 1."""
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0 or seed >= 2**31:
        raise InputError(f"The seed is {seed!r}, but it must be a whole number from 1 to {2**31 - 1}.")
    if seed == 0:
        raise InputError(
            "The seed is 0, which SimpleITK takes to mean the clock, so that no two runs would be alike: "
            "choose any other whole number."
        )
    return seed
