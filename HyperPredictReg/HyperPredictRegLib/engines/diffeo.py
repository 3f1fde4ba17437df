"""Greedy diffeomorphic registration: small smooth updates are composed, so that space is never torn or folded on the way.

At every level of a pyramid, and in every iteration there: warp the moving image, compute the force of the similarity, smooth it
("fluid": what moves is the update), limit its length, compose it with the displacements, and smooth those ("elastic": λ).
Source of the scheme: Yushkevich et al., Alzheimer's & Dementia 12 (2016) P126, doi:10.1016/j.jalz.2016.06.215 (the program
"greedy"); of composing: Christensen et al., IEEE TIP 5 (1996) 1435, doi:10.1109/83.536892.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.core.errors import RegistrationError
from HyperPredictRegLib.core.formatting import distance
from HyperPredictRegLib.core.progress import stop_if
from HyperPredictRegLib.core.search_space import Parameter, SearchSpace
from HyperPredictRegLib.core.trace import LevelTrace
from HyperPredictRegLib.engines.base import EngineInfo, ImageChannel, Registration, RegistrationTask
from HyperPredictRegLib.engines.contrast import Trial, choose_similarity
from HyperPredictRegLib.engines.diffeo_scheme import AUTO, ArrayChannel, DiffeoSettings, PreparedLevel, Scheme
from HyperPredictRegLib.engines.fields import NUMPY, Fields, computed_on
from HyperPredictRegLib.engines.large_motion import BETTER, UNEXPLAINED, Start
from HyperPredictRegLib.engines.masked_array import MaskedArray
from HyperPredictRegLib.engines.start_search import StartSearch
from HyperPredictRegLib.engines.voxel_fields import Workers
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import field_transform


class DiffeoEngine:
    """Greedy diffeomorphic registration: accurate, hardly any folding, the same bit for bit with any number of threads."""

    info: ClassVar[EngineInfo] = EngineInfo(
        name="diffeo",
        version="4",
        title="Diffeo",
        summary="Greedy diffeomorphic registration for images of the same or of other contrast: accurate, hardly any folding.",
        contrasts="any",
        search_space=SearchSpace(
            (
                Parameter(
                    name="regularization_weight", symbol="λ", unit="voxels", scale="log", low=0.25, high=3.0, default=0.4,
                    regularizes="up", title="Regularization weight",
                    tooltip="Standard deviation of the Gaussian that smooths the displacement field in every iteration.",
                ),
                Parameter(
                    name="fluid_sigma", symbol="σ", unit="voxels", scale="log", low=0.6, high=4.0, default=1.2,
                    regularizes="up", title="Fluid smoothing",
                    tooltip="Standard deviation of the Gaussian that smooths each update before it is composed with the field.",
                ),
            )
        ),
        channels=True,
        deterministic=True,
        devices=("cpu", "cuda"),
        seconds_per_million_voxels=10.0,
        preview_voxels=70_000,
    )  # fmt: skip
    settings_type: ClassVar[type] = DiffeoSettings

    def search_space(self, grid: Geometry, settings: DiffeoSettings) -> SearchSpace:
        """Return the whole ranges: Gaussians in voxels suit any grid."""
        return self.info.search_space

    def register(self, task: RegistrationTask) -> Registration:
        """Register the moving image to the fixed one; see `Engine.register`.

        Voxels outside a mask or beyond the common view exert no force and count in no window.
        """
        return PairOfArrays(task)(task.setting)

    def for_pair(self, task: RegistrationTask) -> Callable[[Mapping[str, float]], Registration]:
        """Return what registers a pair with any setting; see `base.for_pair`. What all settings share is kept in memory."""
        return PairOfArrays(task, keeps=True)

    def settled(self, task: RegistrationTask) -> DiffeoSettings:
        """Return the settings with the similarity for the first pair, and with or without a search; see `base.settled`."""
        settings = task.settings
        chosen = settings.similarity != AUTO and settings.large_motion != AUTO
        return settings if chosen else PairOfArrays(task).read().settings


@dataclass(frozen=True)
class PairRead:
    """What all settings of a pair share.

    Attributes
    ----------
    settings : with all chosen that was to be chosen.
    images : fixed and moving one of the first pair.
    others : further channels.
    start : where registrations begin, or None: without displacements.
    notes : what to say of what was chosen.
    """

    settings: DiffeoSettings
    images: tuple[MaskedArray, MaskedArray]
    others: Sequence[ArrayChannel]
    start: Start | None = None
    notes: tuple[str, ...] = ()


@dataclass
class PairOfArrays:
    """A pair read once for all settings; the coarse levels of its pyramid are kept, and all if it `keeps` them."""

    task: RegistrationTask
    keeps: bool = False
    _shared: dict[int, PreparedLevel] = field(default_factory=dict)
    _read: PairRead | None = None

    def __call__(self, setting: Mapping[str, float]) -> Registration:
        """Register with a setting; errors are those of `Engine.register`."""
        started = time.perf_counter()
        task, info = self.task, DiffeoEngine.info
        values = info.search_space.complete(setting, info.name)
        grid, pair = Geometry.of(task.fixed), self.read()
        with self._workers() as workers:

            def work(fields: Fields) -> tuple[np.ndarray, tuple[LevelTrace, ...]]:
                scheme = self._scheme(pair.settings, values, fields, self.keeps)
                return scheme.register(*pair.images, pair.others, workers=workers, start=pair.start, progress=task.progress)

            done = computed_on(task.device, work)
        found, levels = done.result
        transform = field_transform(in_millimeters(found, grid))
        seconds = time.perf_counter() - started
        return Registration(
            transform, levels, values, seconds, task.seed, done.warnings, pair.notes, device=done.device, versions=done.versions
        )

    def read(self) -> PairRead:
        """Return what is read and chosen once; errors are those of `MaskedArray.of`, and `Cancelled`."""
        if self._read is None:
            stop_if(self.task.cancelled)
            grid = Geometry.of(self.task.fixed)
            images, trial = first_images(self.task), coarse_trial(self.task)
            settings, notes = _chosen(self.task.settings, images, grid, trial)
            others = [
                channel_of(one, number, self.task.settings, grid, trial)
                for number, one in enumerate(self.task.channels, start=2)
            ]
            notes = (*notes, *(note for channel in others for note in channel.notes))
            with self._workers() as workers:
                self._read = self._started(PairRead(settings, images, others, notes=notes), workers)
        return self._read

    def _workers(self) -> Workers:
        return Workers(sitk.ProcessObject.GetGlobalDefaultNumberOfThreads(), self.task.cancelled)

    def _scheme(self, settings: DiffeoSettings, values: Mapping[str, float], fields: Fields, keeps: bool) -> Scheme:
        sigmas = values["regularization_weight"], values["fluid_sigma"]
        return Scheme(settings, *sigmas, Geometry.of(self.task.fixed).spacing[::-1], fields, self._shared, keeps)

    def _started(self, pair: PairRead, workers: Workers) -> PairRead:
        """Return a pair with a start that was searched for where that is asked for, or pays.

        Judged by the first images alone, at the default parameters and with the windows that `UNEXPLAINED` was chosen for.
        """
        asked = pair.settings.large_motion
        none = replace(pair, settings=replace(pair.settings, large_motion="never"))
        if asked == "never" or (asked == AUTO and pair.settings.similarity != "lncc"):
            return none
        usual = DiffeoSettings()
        judging = replace(pair.settings, window_voxels=usual.window_voxels, contrast_floor=usual.contrast_floor)
        scheme = self._scheme(judging, DiffeoEngine.info.search_space.defaults, NUMPY, keeps=True)
        if pair.others or judging != pair.settings:
            scheme = replace(scheme, shared={})
        try:
            return self._judged(pair, none, StartSearch(scheme, ArrayChannel(*pair.images, judging.similarity), workers))
        except RegistrationError:
            return none

    def _judged(self, pair: PairRead, none: PairRead, search: StartSearch) -> PairRead:
        """Return a pair with a start if the search has found one that is to be taken, else `none`."""
        asked, taken = pair.settings.large_motion, replace(pair, settings=replace(pair.settings, large_motion="always"))
        if not search.possible:
            note = "No level of the pyramid is coarse enough to search for large motion."
            return none if asked == AUTO else replace(none, notes=(*pair.notes, note))
        plain = search.plain() if asked == AUTO else None
        if plain is not None and plain.left <= UNEXPLAINED:
            return none
        start, left = search.best()
        found = f"A search on a coarse grid found displacements of up to {distance(search.farthest(start))}"
        if plain is None:
            return replace(taken, start=start, notes=(*pair.notes, f"{found}: the registration begins with them."))
        ratio = left / max(search.onward(plain), 1e-12)
        change = f"the images then differ by {abs(100 * (ratio - 1)):.1f} % {'less' if ratio < 1 else 'more'} there"
        if ratio < BETTER:
            return replace(taken, start=start, notes=(*pair.notes, f"{found}, and the registration begins with them: {change}."))
        return replace(none, notes=(*pair.notes, f"{found}, and they are not used: {change}."))


def _both(mask: sitk.Image | None, view: sitk.Image | None) -> sitk.Image | None:
    """Return where a mask and a view are both not 0; either may be None, which is everywhere."""
    if mask is None or view is None:
        return view if mask is None else mask
    return sitk.And(sitk.Cast(mask != 0, sitk.sitkUInt8), sitk.Cast(view != 0, sitk.sitkUInt8))


def first_images(task: RegistrationTask) -> tuple[MaskedArray, MaskedArray]:
    """Return both images of a task's first pair, within masks and view; errors are those of `MaskedArray.of`."""
    seen = tuple(_both(mask, task.view) for mask in (task.fixed_mask, task.moving_mask))
    fixed = MaskedArray.of(task.fixed, seen[0], "fixed")
    return fixed, MaskedArray.of(task.moving, seen[1], "moving", task.moving_smoothed)


def coarse_trial(task: RegistrationTask) -> Trial:
    """Return what registers a coarse pair by a similarity, with default parameters and the other settings of a task."""

    def register(similarity: str, fixed: sitk.Image, moving: sitk.Image, mask: sitk.Image | None) -> sitk.Transform:
        settings = replace(task.settings, similarity=similarity, large_motion="never")
        coarse = RegistrationTask(
            fixed, moving, DiffeoEngine.info.search_space.defaults, settings, task.seed,
            view=mask, moving_smoothed=True, cancelled=task.cancelled,
        )  # fmt: skip
        return DiffeoEngine().register(coarse).transform

    return register


def _chosen(
    settings: DiffeoSettings, images: tuple[MaskedArray, MaskedArray], grid: Geometry, trial: Trial
) -> tuple[DiffeoSettings, tuple[str, ...]]:
    """Return settings with one of `SIMILARITIES`, and what to say of it if it was chosen here."""
    if settings.similarity != AUTO:
        return settings, ()
    fixed, moving = (grid.apply_to(sitk.GetImageFromArray(image.voxels)) for image in images)
    masks = [None if image.mask is None else grid.apply_to(sitk.GetImageFromArray(image.mask)) for image in images]
    found = choose_similarity(fixed, moving, masks, "lncc", "mind", trial)
    return replace(settings, similarity=found.name), (found.reason,)


def channel_of(channel: ImageChannel, number: int, settings: DiffeoSettings, grid: Geometry, trial: Trial) -> ArrayChannel:
    """Return a channel of a task; errors as those of `MaskedArray.of`, with its number."""
    fixed = MaskedArray.of(channel.fixed, channel.fixed_mask, f"fixed (channel {number})")
    moving = MaskedArray.of(channel.moving, channel.moving_mask, f"moving (channel {number})", channel.moving_smoothed)
    chosen, notes = _chosen(settings, (fixed, moving), grid, trial)
    return ArrayChannel(fixed, moving, chosen.similarity, channel.weight, tuple(f"Channel {number}: {note}" for note in notes))


def in_millimeters(field: np.ndarray, grid: Geometry) -> sitk.Image:
    """Return displacements in voxels, shape (3, k, j, i), components in that order, as an image of LPS mm on `grid`."""
    vectors = np.empty((*field.shape[1:], 3), np.float32)
    for axis, row in enumerate((grid.direction_matrix * np.array(grid.spacing)).astype(np.float32)):
        vectors[..., axis] = field[2] * row[0] + field[1] * row[1] + field[0] * row[2]
    return grid.apply_to(sitk.GetImageFromArray(vectors, isVector=True))
