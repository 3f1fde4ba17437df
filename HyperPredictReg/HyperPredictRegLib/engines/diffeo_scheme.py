"""The algorithm of the engine `diffeo` on voxel arrays; what it does, and the sources, stand in `diffeo`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from HyperPredictRegLib.core.errors import InputError, RegistrationError
from HyperPredictRegLib.core.progress import Progress, ProgressEvent, silent
from HyperPredictRegLib.core.trace import LevelTrace
from HyperPredictRegLib.engines.fields import NUMPY, Fields
from HyperPredictRegLib.engines.joint_force import Compared, shares
from HyperPredictRegLib.engines.large_motion import Side, Start, searched
from HyperPredictRegLib.engines.masked_array import MaskedArray
from HyperPredictRegLib.engines.pyramid import Level, levels_of
from HyperPredictRegLib.engines.similarity import SIMILARITIES, SMOOTHING, Similarity
from HyperPredictRegLib.engines.voxel_fields import Array, Workers

_PATIENCE = 5
"""Convergence is judged by the gain of this many iterations."""

AUTO = "auto"
"""As the similarity: the engine chooses one that suits the contrast of the pair, and says which."""

LARGE_MOTION = (AUTO, "always", "never")
"""Whether all displacements of a coarse grid are searched: only where a plain registration leaves much unexplained there."""


@dataclass(frozen=True)
class DiffeoSettings:
    """How the engine runs, its two standard deviations apart.

    Attributes
    ----------
    similarity : a key of `SIMILARITIES`, or "auto": "lncc", or "mind" where the images differ in contrast inside the anatomy.
    iterations : most iterations per level, finest last; coarser levels than there are numbers use the first.
    coarsest_voxels : levels are added, each half as fine, while the shortest side of the grid keeps this many voxels.
    smoothing_voxels : standard deviation of the Gaussian on the images of a level, in voxels of that level; the finest
        level takes the images as they are, because the working grid has been smoothed already.
    window_voxels : radii of the windows of "lncc", each a channel of its own.
    contrast_floor : added to the local standard deviation (in squares) in a window of radius 1, in proportion less in wider ones;
        intensities are about 0 to 1.
    maximum_step_voxels : no update is longer, so that composing it folds nothing.
    step_gain : updates are multiplied by this before they are limited, because smoothing makes them smaller.
    convergence_share : a level has converged when its last five iterations brought less than this share of what it has gained.
    large_motion : one of `LARGE_MOTION`; see `large_motion.searched`. "auto" searches where the first pair is compared by "lncc"
        and much is left unexplained, and takes what is found if it is better.
    """

    similarity: str = AUTO
    iterations: tuple[int, ...] = (40, 40, 40, 14)
    coarsest_voxels: int = 8
    smoothing_voxels: float = 0.5
    window_voxels: tuple[int, ...] = (1,)
    contrast_floor: float = 0.1
    maximum_step_voxels: float = 0.5
    step_gain: float = 2.0
    convergence_share: float = 0.005
    large_motion: str = AUTO

    def __post_init__(self) -> None:
        if self.similarity not in (AUTO, *SIMILARITIES):
            raise InputError(f"There is no similarity '{self.similarity}': choose one of {', '.join((AUTO, *SIMILARITIES))}.")
        if self.large_motion not in LARGE_MOTION:
            raise InputError(f"The search for large motion is '{self.large_motion}': choose one of {', '.join(LARGE_MOTION)}.")
        if not self.iterations or min(self.iterations) < 1:
            raise InputError(f"The iterations are {self.iterations}: give at least one number, each 1 or more.")
        if not 0 < self.maximum_step_voxels <= 1:
            raise InputError(f"The longest step is {self.maximum_step_voxels:g} voxels: give more than 0 and at most 1.")
        if self.contrast_floor <= 0 or self.step_gain <= 0:
            raise InputError("The contrast floor and the step gain must be above 0.")
        if min(self.smoothing_voxels, self.convergence_share) < 0:
            raise InputError("The smoothing and the share of convergence must be 0 or more.")
        if not self.window_voxels or min(self.window_voxels) < 1:
            raise InputError(f"The radii of the windows are {self.window_voxels} voxels: give at least one, each 1 or more.")
        if self.coarsest_voxels < 4:
            raise InputError(f"The coarsest_voxels is {self.coarsest_voxels}: give 4 or more.")


@dataclass(frozen=True)
class ArrayChannel:
    """Both images of a channel, how they are compared and what to say of that if it was chosen here, and the channel's weight."""

    fixed: MaskedArray
    moving: MaskedArray
    similarity: str
    weight: float = 1.0
    notes: tuple[str, ...] = ()

    def given_to(self, fields: Fields) -> ArrayChannel:
        """Return the same with arrays of another library."""
        return replace(self, fixed=self.fixed.given_to(fields), moving=self.moving.given_to(fields))

    def coarser(self, places: list[np.ndarray], sigmas: tuple[float, ...], fields: Fields, workers: Workers) -> ArrayChannel:
        """Return both images as `MaskedArray.coarser` does."""
        fixed, moving = (image.coarser(places, sigmas, fields, workers) for image in (self.fixed, self.moving))
        return replace(self, fixed=fixed, moving=moving)


@dataclass(frozen=True)
class PreparedLevel:
    """What registrations of one pair share at one level, whatever their setting; it is only read.

    Attributes
    ----------
    comparisons : of each channel.
    parts : of each channel in the force.
    wider : how many times as wide the Gaussian on the displacements is.
    relative : voxel edge along each axis in units of the shortest one.
    similarities : the channels' names of what is compared.
    """

    comparisons: Sequence[_Comparison]
    parts: Sequence[float]
    wider: float
    relative: tuple[float, ...]
    similarities: tuple[str, ...]


@dataclass(frozen=True)
class Scheme:
    """The algorithm on arrays.

    Attributes
    ----------
    settings : see there.
    elastic_sigma, fluid_sigma : in voxels of a level, along its finest axis; in millimeters the same along the others.
    spacing : voxel edges along k, j, i in mm.
    fields : on what arrays, and where, it computes.
    shared : levels that were prepared for another setting, by number, as NumPy arrays.
    keeps : whether what is not there is added.
    """

    settings: DiffeoSettings
    elastic_sigma: float
    fluid_sigma: float
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
    fields: Fields = NUMPY
    shared: dict[int, PreparedLevel] = field(default_factory=dict)
    keeps: bool = False

    def levels(self, shape: tuple[int, ...]) -> list[Level]:
        """Return the pyramid for a grid of this shape, the coarsest level first."""
        return levels_of(shape, self.spacing, self.settings.coarsest_voxels, self.settings.iterations)

    def register(
        self,
        fixed: MaskedArray,
        moving: MaskedArray,
        others: Sequence[ArrayChannel] = (),
        *,
        workers: Workers,
        start: Start | None = None,
        progress: Progress = silent,
    ) -> tuple[np.ndarray, tuple[LevelTrace, ...]]:
        """Register two arrays of one shape, together with the `others`, further channels on the same voxels.

        Parameters
        ----------
        start : where to begin; else without displacements on the coarsest level.

        Returns
        -------
        displacement : shape (3, k, j, i), components in that order, voxels; leads from fixed to moving voxels.
        levels : what happened at each level.
        """
        levels = self.levels(fixed.voxels.shape)[0 if start is None else start.number :]
        total = sum(level.iterations * level.voxels for level in levels)
        done = {level.number: sum(one.iterations * one.voxels for one in levels[:n]) for n, level in enumerate(levels)}

        def report(level: Level, iteration: int, value: float) -> None:
            share = (done[level.number] + iteration * level.voxels) / total
            where = f"level {level.number + 1} of {levels[-1].number + 1}"
            progress(ProgressEvent("register", min(share, 1.0), where, value))

        together = [ArrayChannel(fixed, moving, self.settings.similarity), *others]
        channels = [channel.given_to(self.fields) for channel in together]
        field = self.fields.zeros((3, *levels[0].shape)) if start is None else self.fields.copy(self.fields.given(start.field))
        field, traces = self.through(levels, channels, field, workers, report)
        return self.fields.numpy(field), traces

    def through(
        self,
        levels: Sequence[Level],
        channels: Sequence[ArrayChannel],
        field: Array,
        workers: Workers,
        report: Callable[[Level, int, float], None] = lambda *_: None,
    ) -> tuple[Array, tuple[LevelTrace, ...]]:
        """Register channels of this library's arrays level by level from a field on the first one, which changes in place."""
        traces = []
        for before, level in zip((levels[0], *levels), levels, strict=False):
            if before is not level:
                field = self.resampled(field, before, level, workers)
            traces.append(self._run(level, channels, field, workers, partial(report, level)))
        return field, tuple(traces)

    def _run(
        self,
        level: Level,
        channels: Sequence[ArrayChannel],
        field: Array,
        workers: Workers,
        report: Callable[[int, float], None],
    ) -> LevelTrace:
        """Improve `field` in place at one level; return its trace."""
        started = time.perf_counter()
        settings = self.settings
        # The memory of other devices is not for keeping.
        shared = self.shared if self.fields is NUMPY else {}
        ready = shared.get(level.number) or self._prepared(level, channels, workers)
        if self.keeps:
            shared[level.number] = ready
        values: list[float] = []
        reason = ""
        for value in self._iterations(level, ready, field, workers):
            values.append(value)
            report(len(values), value)
            if not math.isfinite(value):
                raise RegistrationError(
                    f"The registration diverged at level {level.number + 1}: choose a higher λ, or check that the images show "
                    "the same anatomy."
                )
            gained = values[0] - value
            if len(values) > _PATIENCE and values[-1 - _PATIENCE] - value <= settings.convergence_share * gained:
                reason = (
                    f"Value tolerance reached: the last {_PATIENCE} iterations brought less than "
                    f"{100 * settings.convergence_share:g} % of this level's gain."
                )
                report(level.iterations, value)
                break
        return LevelTrace(
            stage="deformable",
            level=level.number,
            shrink_factor=float(level.factor),
            smoothing_sigma_mm=settings.smoothing_voxels * level.factor * min(self.spacing) if level.factor > 1 else 0.0,
            metric=f"mean squared difference ({', '.join(ready.similarities)})",
            values=tuple(values),
            # The metric belongs to the field before its last update.
            end_value=None,
            iteration_limit=level.iterations,
            stop_reason=reason or f"Maximum number of iterations ({level.iterations}) reached.",
            seconds=time.perf_counter() - started,
        )

    def searched(self, level: Level, finer: Level, channel: ArrayChannel, workers: Workers) -> Array:
        """Return what was searched for at a level, by details of a finer one or its own, for a channel of NumPy arrays.

        In voxels of the level; see `large_motion`.
        """
        ready = self._prepared(finer, [replace(channel, similarity="mind")], workers).comparisons[0]
        still = ready.at(np.zeros((3, *finer.shape), np.float32), 1.0, workers)
        sides = Side(still.fixed, ready.weight), Side(still.moving, ready.moving_weight)
        if finer is not level:
            places = [(ours - theirs[0]) / f for ours, theirs, f in zip(level.places, finer.places, finer.factors, strict=True)]
            sigmas = [0.5 * f / g if f > g else 0.0 for f, g in zip(level.factors, finer.factors, strict=True)]
            sides = sides[0].coarser(places, sigmas, workers), sides[1].coarser(places, sigmas, workers)
        return searched(*sides, self._relative(level), workers)

    def _relative(self, level: Level) -> tuple[float, ...]:
        """Return the voxel edge of a level along each axis in units of the shortest one."""
        edges = [s * f for s, f in zip(self.spacing, level.factors, strict=True)]
        return tuple(edge / min(edges) for edge in edges)

    def _prepared(self, level: Level, channels: Sequence[ArrayChannel], workers: Workers) -> PreparedLevel:
        """Return what all settings share at a level."""
        settings, fields = self.settings, self.fields
        smoothing = tuple(settings.smoothing_voxels * f if f > 1 else 0.0 for f in level.factors)
        channels = [channel.coarser(level.places, smoothing, fields, workers) for channel in channels]
        relative = self._relative(level)
        windows = tuple(tuple(round(radius / r) for r in relative) for radius in settings.window_voxels)
        similarities = [fields.similarity(one.similarity, windows, settings.contrast_floor, relative) for one in channels]
        comparisons = [_Comparison(*one, fields, workers) for one in zip(similarities, channels, strict=True)]
        weights = [channel.weight for channel in channels]
        parts = shares(weights, similarities, channels[0].fixed.voxels, comparisons[0].weight, workers)
        # Of channels with different similarities: between what each would take alone.
        wider = sum(one.weight * SMOOTHING.get(one.similarity, 1.0) for one in channels) / sum(weights)
        return PreparedLevel(comparisons, parts, wider, relative, tuple(channel.similarity for channel in channels))

    def _iterations(self, level: Level, ready: PreparedLevel, field: Array, workers: Workers) -> Iterator[float]:
        """Update `field` once per step; yield the metric before each update."""
        settings, fields = self.settings, self.fields
        sigmas = self.fluid_sigma, self.elastic_sigma * ready.wider
        fluid, elastic = (tuple(sigma / r for r in ready.relative) for sigma in sigmas)
        for _ in range(level.iterations):
            update, value = self._force(ready.comparisons, ready.parts, field, workers)
            for component in update:
                fields.smooth(component, fluid, workers)
            fields.scale_update(update, settings.step_gain, settings.maximum_step_voxels, workers)
            fields.compose(field, update, workers)
            for component in field:
                fields.smooth(component, elastic, workers)
            yield value

    def _force(
        self, comparisons: Sequence[_Comparison], parts: Sequence[float], field: Array, workers: Workers
    ) -> tuple[Array, float]:
        """Return the update that all channels ask for together, and the metric; what was compared is let go of."""
        longest = self.settings.maximum_step_voxels
        compared = [one.at(field, share, workers) for one, share in zip(comparisons, parts, strict=True)]
        first, similarity = compared[0], comparisons[0].similarity
        if len(compared) > 1:
            return self.fields.joint_force(compared, similarity.relative_spacing, longest, workers)
        return similarity.force(first.fixed, first.moving, first.weight, longest, workers)

    def resampled(self, field: Array, before: Level, level: Level, workers: Workers) -> Array:
        """Return a level's displacements on another one's grid, in the other one's voxels."""
        places = [(new - old[0]) / f for new, old, f in zip(level.places, before.places, before.factors, strict=True)]
        scales = [np.float32(f / g) for f, g in zip(before.factors, level.factors, strict=True)]
        return self.fields.stack(
            [self.fields.sampled(component, places, workers) * scale for component, scale in zip(field, scales, strict=True)]
        )


class _Comparison:
    """One channel at one level: what is compared of its fixed image, and its moving image, ready to be warped."""

    def __init__(self, similarity: Similarity, channel: ArrayChannel, fields: Fields, workers: Workers) -> None:
        self.similarity = similarity
        self._fields = fields
        self.weight, self.moving_weight = (
            None if image.mask is None else fields.inner_weight(image.mask) for image in (channel.fixed, channel.moving)
        )
        self.fixed = similarity.channels(channel.fixed.voxels, self.weight, workers)
        moving = channel.moving.voxels
        images = [moving] if self.moving_weight is None else [moving, self.moving_weight]
        self.sampler = fields.sampler(images, sharp=int(channel.moving.smoothed))

    def at(self, field: Array, share: float, workers: Workers) -> Compared:
        """Return what is compared when the moving image is warped by a field."""
        image, *weight = self.sampler.warped(field, workers)
        moving = self.similarity.channels(image, weight[0] if weight else None, workers)
        return Compared(self.fixed, moving, self._force_weight(self.weight, *weight), share)

    def _force_weight(self, *weights: Array | None) -> Array | None:
        """Return the product of what weights there are, 0 beside a voxel that is not to be looked at: its slopes look there."""
        given = [weight for weight in weights if weight is not None]
        if not given:
            return None
        product = given[0] if len(given) == 1 else given[0] * given[1]
        return product * self._fields.inner_weight(product)
