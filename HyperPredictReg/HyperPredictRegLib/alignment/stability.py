"""Does the result depend on chance: the same alignment with several seeds, and how far the results lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.alignment.align import Alignment, align, foreground_points
from HyperPredictRegLib.alignment.frame import AlignmentSettings
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.progress import Progress, ProgressEvent, silent
from HyperPredictRegLib.preprocessing.intensity import foreground

_LARGE_SPREAD_VOXELS = 0.5


@dataclass(frozen=True)
class Stability:
    """How far repeated alignments lie apart.

    Attributes
    ----------
    seeds : one per run.
    mean_spread_mm : distance to the mean of all runs, averaged over runs and points of the fixed foreground.
    largest_spread_mm : the largest such distance.
    pairwise_mm : mean distance over the foreground between each two runs, shape (k, k) as nested tuples.
    limit_mm : a mean spread above this is called large: half a voxel of the finest level.
    end_values : metric of the last level of each run.
    warnings : sentences for the user.
    """

    seeds: tuple[int, ...]
    mean_spread_mm: float
    largest_spread_mm: float
    pairwise_mm: tuple[tuple[float, ...], ...]
    limit_mm: float
    end_values: tuple[float | None, ...]
    warnings: tuple[str, ...] = ()

    @property
    def stable(self) -> bool:
        """Whether the mean spread is within the limit."""
        return self.mean_spread_mm <= self.limit_mm


def stability(
    fixed: sitk.Image,
    moving: sitk.Image,
    settings: AlignmentSettings | None = None,
    *,
    seeds: Sequence[int] = (1, 2, 3, 4, 5),
    progress: Progress = silent,
    **inputs: Any,
) -> Stability:
    """Align with several seeds and measure the spread of the results over the fixed foreground, in mm.

    Parameters
    ----------
    fixed, moving, settings : see `align`.
    seeds : at least two different ones.
    progress : see `progress`.
    inputs : the other arguments of `align`: foregrounds, masks, initial transform, `cancelled`.

    Raises
    ------
    InputError, RegistrationError, Cancelled : see `align`; also for fewer than two different seeds.
    """
    if len(set(seeds)) < 2:
        raise InputError(f"A stability check needs at least two different seeds, but it got {list(seeds)}.")
    mask = inputs.get("fixed_foreground")
    if mask is None:
        mask = inputs["fixed_foreground"] = foreground(fixed)
    runs = []
    for n, seed in enumerate(seeds):
        def one(event: ProgressEvent, done: int = n) -> None:
            fraction = (done + event.fraction) / len(seeds)
            progress(ProgressEvent("stability", fraction, f"Run {done + 1} of {len(seeds)}: {event.message}", event.metric))

        runs.append(align(fixed, moving, settings, seed=seed, progress=one, **inputs))
    return _spread(runs, foreground_points(mask), settings if settings is not None else AlignmentSettings(), fixed)


def _spread(runs: list[Alignment], points: np.ndarray, settings: AlignmentSettings, fixed: sitk.Image) -> Stability:
    matrices = np.stack([run.matrix for run in runs])
    mapped = np.einsum("rij,pj->rpi", matrices[:, :3, :3], points) + matrices[:, None, :3, 3]
    to_mean = np.linalg.norm(mapped - mapped.mean(axis=0), axis=2)
    pairwise = np.linalg.norm(mapped[:, None] - mapped[None], axis=3).mean(axis=2)
    extents = np.ptp(points @ np.array(fixed.GetDirection()).reshape(3, 3), axis=0)
    size = float(np.exp(np.log(np.maximum(extents, 1e-6)).mean()))
    limit = _LARGE_SPREAD_VOXELS * settings.shrink_factors[-1] * size / settings.voxels_across
    limit = max(limit, float(min(fixed.GetSpacing())))
    warnings = []
    if to_mean.mean() > limit:
        warnings.append(
            f"The alignment depends on chance: {len(runs)} seeds gave results that differ by {to_mean.mean():.2g} mm on average "
            f"and up to {to_mean.max():.2g} mm. Sample more voxels, keep rotated starts on, or give a mask or a better start."
        )
    return Stability(
        seeds=tuple(run.seed for run in runs), mean_spread_mm=float(to_mean.mean()), largest_spread_mm=float(to_mean.max()),
        pairwise_mm=tuple(tuple(float(v) for v in row) for row in pairwise), limit_mm=limit,
        end_values=tuple(run.levels[-1].end_value if run.levels else None for run in runs), warnings=tuple(warnings),
    )
