"""The affine step as a whole: start, rotated starts, stages over the pyramid, and what to tell the user about it."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from HyperPredictRegLib.alignment.frame import (
    AlignmentSettings,
    Frame,
    Item,
    Level,
    Pyramid,
    check_seed,
    in_frame,
    make_frame,
    make_item,
    make_pyramid,
    object_size_mm,
)
from HyperPredictRegLib.alignment.poses import (
    COMPARE_UNITS,
    Chosen,
    ambiguity,
    best_apart,
    best_poses,
    choose,
    convincing,
    neighbours,
    rivals,
    rotations,
    search_rotations,
    worth,
)
from HyperPredictRegLib.alignment.search import Comparer, search, search_units
from HyperPredictRegLib.alignment.stages import affine_of, make_method, run_level
from HyperPredictRegLib.core.errors import InputError, RegistrationError
from HyperPredictRegLib.core.progress import CancelCheck, Progress, ProgressEvent, never, silent, stop_if
from HyperPredictRegLib.core.trace import LevelTrace
from HyperPredictRegLib.quality.likeness import Likeness, likeness
from HyperPredictRegLib.spatial.geometry import Geometry, homogeneous
from HyperPredictRegLib.spatial.transforms import linear_matrix

_CORRELATED = 0.3
"""From here on the first stage's result is refined by correlation; below, and where that misleads, by mutual information."""
_SEARCH_SHRINK = 1.5
"""Ranking hundreds of rotations needs less detail than refining a few."""
_LEAST_OVERLAP = 0.02
_POOR_OVERLAP = 0.5
_DOUBTED_STRETCH, _STRETCH_GAIN = 1.3, 1.3
"""More than the first, stretching must give more information than a similarity by the second."""
_THIN = 0.3
"""Smallest over largest extent: slabs of a head have up to .25, hearts of eight thick slices .45."""
_PLAUSIBLE_SCALES = (0.4, 2.5)
_SIMILARITY_INSTEAD = (
    "The affine alignment collapsed (it flattens the moving image), so a similarity was taken: look at the result, and check "
    "that both images show the same anatomy and that left and right are not exchanged in one of them."
)
_UNUSUAL_STRETCH, _IMPLAUSIBLE_STRETCH = 1.6, 2.5
"""Largest scale over smallest: people, animals and hearts of one kind were measured to differ by up to 1.45, if aligned well."""


@dataclass(frozen=True)
class Alignment:
    """The result of the affine step.

    Attributes
    ----------
    transform : maps fixed to moving points, LPS mm.
    levels : the trace of every level that led to the result, in the order in which they ran.
    metric : "mattes", "correlation" or "mean_squares": what the last stage compared, "none" without stages.
    contrast : "same" or "different": whether equal tissue has similar intensities in both images; "unclear" where they have
        too little in common inside to tell.
    likeness : what the aligned images have in common inside both foregrounds.
    correlation : of the intensities well inside both foregrounds after the first stage, -1 to 1.
    starts_tried : how many starts were compared.
    seconds : wall-clock time.
    seed : the seed that was given.
    warnings : sentences for the user, doubts and refusals among them.
    doubts : those that speak against relying on what follows from this alignment.
    refusals : those that forbid it: it is plainly wrong, or there is nothing that could be aligned.
    """

    transform: sitk.AffineTransform
    levels: tuple[LevelTrace, ...]
    metric: str
    contrast: str
    likeness: Likeness
    correlation: float
    starts_tried: int
    seconds: float
    seed: int
    warnings: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()

    @property
    def matrix(self) -> np.ndarray:
        """Homogeneous fixed-to-moving matrix, shape (4, 4), LPS mm."""
        return linear_matrix(self.transform)


def align(  # noqa: PLR0913 - two images, what may belong to either, and what every long call takes
    fixed: sitk.Image,
    moving: sitk.Image,
    settings: AlignmentSettings | None = None,
    *,
    seed: int,
    fixed_foreground: sitk.Image | None = None,
    moving_foreground: sitk.Image | None = None,
    fixed_mask: sitk.Image | None = None,
    moving_mask: sitk.Image | None = None,
    initial_transform: sitk.Transform | None = None,
    progress: Progress = silent,
    cancelled: CancelCheck = never,
) -> Alignment:
    """Find the linear transform that lays `moving` over `fixed`.

    Pure: the same images, settings and seed give the same transform; bit for bit with one thread (see `resources.threads`).

    Parameters
    ----------
    fixed, moving : 3-D scalar images on any grids: other spacings, orientations and fields of view are fine.
    settings : None for the defaults.
    seed : of the random samples; a whole number, not 0.
    fixed_foreground, moving_foreground : the anatomy, non-zero, on the grid of its image; found by
        `intensity.foreground` where not given. They give the start and the scale, and do not limit the comparison.
    fixed_mask, moving_mask : where the images may be compared, non-zero, on the grid of its image.
    initial_transform : linear, maps fixed to moving points, LPS mm; taken as the start, without rotated starts.
    progress, cancelled : see `progress`; `Cancelled` is raised within two seconds of `cancelled()` being true.

    Raises
    ------
    InputError : an image, mask, option or start cannot be used.
    RegistrationError : the optimiser ran away.
    Cancelled : the caller asked to stop.
    """
    began = time.monotonic()
    settings = settings if settings is not None else AlignmentSettings()
    check_seed(seed)
    progress(ProgressEvent("align", 0.0, "Preparing the images"))
    pair = (
        make_item(fixed, fixed_foreground, fixed_mask, "fixed"),
        make_item(moving, moving_foreground, moving_mask, "moving"),
    )
    stop_if(cancelled)
    frame = make_frame(*pair)
    start = _start(pair, frame, settings, initial_transform)
    _check_overlap(pair, frame, start)
    pyramid = make_pyramid(*pair, frame, settings)
    levels = pyramid.levels(settings)
    stop_if(cancelled)
    run = _Run(pair, pyramid, levels, settings, seed, progress, cancelled)
    multi = settings.multi_start and initial_transform is None
    matrix, traces, chosen = run.first_stage(start, multi_start=multi)
    first, correlation = matrix, _correlation(*_inside(pair, frame, levels[-1], matrix))
    metric = settings.metric
    if metric == "auto":
        same = correlation >= _CORRELATED if settings.contrast == "auto" else settings.contrast == "same"
        metric = "correlation" if same else "mattes"
    if _is_thin(pair, frame, first):
        run = run.without_affine()
    matrix, more = run.later_stages(first, metric)
    collapse: list[str] = []
    if "affine" in run.settings.stages and multi and stretch_of(matrix) > _DOUBTED_STRETCH:
        matrix, more, collapse = run.least_stretched(first, metric, matrix, more)
    found = likeness(*_inside(pair, frame, levels[-1], matrix))
    if settings.metric == settings.contrast == "auto" and metric == "correlation" and found.contrast == "different":
        # The images as a whole correlate, their insides do not: what was optimised was the wrong thing.
        metric = "mattes"
        (matrix, more), collapse = run.later_stages(first, metric, from_fraction=0.95), []
        found = likeness(*_inside(pair, frame, levels[-1], matrix))
    doubts, refusals = _result_warnings(pair, frame, matrix)
    if chosen is not None and (sentence := ambiguity(chosen)) is not None:
        doubts.append(sentence)
    refusals, traces = [*collapse, *refusals, *found.refusals], [*traces, *more]
    progress(ProgressEvent("align", 1.0, "Aligned"))
    return Alignment(
        transform=frame.itk_transform(matrix), levels=tuple(traces), metric=metric if settings.stages else "none",
        contrast=found.contrast if settings.contrast == "auto" else settings.contrast, likeness=found, correlation=correlation,
        starts_tried=1 if chosen is None else chosen.tried, seconds=time.monotonic() - began, seed=seed,
        warnings=(*_limit_warnings(traces), *refusals, *doubts), doubts=tuple(doubts), refusals=tuple(refusals),
    )


@dataclass(frozen=True)
class _Run:
    """What all levels of one alignment share."""

    pair: tuple[Item, Item]
    pyramid: Pyramid
    levels: tuple[Level, ...]
    settings: AlignmentSettings
    seed: int
    progress: Progress
    cancelled: CancelCheck

    def first_stage(self, start: np.ndarray, *, multi_start: bool) -> tuple[np.ndarray, list[LevelTrace], Chosen | None]:
        """Run the first stage on the coarsest level, from other starts too if asked; return which one was taken."""
        if not self.settings.stages:
            return start, [], None
        metric = "mattes" if self.settings.metric == "auto" else self.settings.metric
        stage = self.settings.stages[0]
        chosen = None
        if multi_start:
            self.progress(ProgressEvent("align", 0.1, "Trying rotated starts"))
            chosen = self.best_start(stage, start, metric)
            start = chosen.matrix
        matrix, trace = self.level(stage, 0, start, metric, 0.3)
        return matrix, [trace], chosen

    def least_stretched(
        self, first: np.ndarray, metric: str, matrix: np.ndarray, traces: list[LevelTrace]
    ) -> tuple[np.ndarray, list[LevelTrace], list[str]]:
        """Return `matrix` and its traces, or a similarity and its own if that leaves nearly as much information.

        A plausible similarity also takes the place of a matrix that flattens the moving image; the third value says so.
        """
        plain, more = self.without_affine().later_stages(first, metric, from_fraction=0.95)
        comparer = Comparer(self.pyramid.level_of(COMPARE_UNITS))
        gain = worth(matrix, comparer.compare(matrix)) / max(1.0, worth(plain, comparer.compare(plain)))
        if not gain > _STRETCH_GAIN:
            return plain, more, []
        scales = _scales_of(plain)
        plausible = _PLAUSIBLE_SCALES[0] <= scales.min() and scales.max() <= _PLAUSIBLE_SCALES[1]
        return (plain, more, [_SIMILARITY_INSTEAD]) if plausible and _is_flat(matrix) else (matrix, traces, [])

    def without_affine(self) -> _Run:
        """Return the same run with a similarity in the place of the affine stage."""
        stages = tuple(dict.fromkeys("similarity" if stage == "affine" else stage for stage in self.settings.stages))
        return replace(self, settings=replace(self.settings, stages=stages))

    def best_start(self, stage: str, start: np.ndarray, metric: str) -> Chosen:
        """Refine `start` and the best of its rotated copies on the coarsest level; look everywhere if none of them convinces."""
        settings = self.settings
        turns = rotations(settings.multi_start_range_degrees, settings.multi_start_step_degrees)
        # Rotated about the center of the fixed object, which is 0 in the frame.
        starts = start @ np.stack([homogeneous(turn) for turn in turns])
        best = best_apart(turns, self.scores(starts, metric), settings.multi_start_refined, settings.multi_start_step_degrees)
        rough = replace(self, settings=replace(settings, step_relaxation=min(0.5, settings.step_relaxation)))
        refined = [rough.level(stage, 0, candidate, metric, 0.2) for candidate in (start, *starts[best])]
        matrix, _ = min(refined, key=lambda result: math.inf if result[1].end_value is None else result[1].end_value)
        candidates = [found for found, _ in refined]
        comparer = Comparer(self.pyramid.level_of(COMPARE_UNITS))
        tried = len(starts)
        inner = _correlation(*_inside(self.pair, self.pyramid.frame, self.levels[0], matrix))
        if not convincing(comparer.compare(matrix), inner) or len(rivals(comparer, candidates)) > 1:
            self.progress(ProgressEvent("align", 0.2, "Looking for the pose everywhere"))
            poses, count = self.everywhere(comparer)
            candidates += [rough.level(stage, 0, pose, metric, 0.25)[0] for pose in poses]
            tried += count
        near = rivals(comparer, candidates)
        if len(near) > 1:
            # The better one shows only when each is refined as far as it goes.
            last = settings.stages[-1] if settings.stages[-1] != "affine" else "similarity"
            candidates += [rough.level(last, 0, pose, metric, 0.28)[0] for pose in near]
        return choose(comparer, matrix, candidates, tried)

    def everywhere(self, comparer: Comparer) -> tuple[list[np.ndarray], int]:
        """Return the poses (4, 4) that look best of all orientations and shifts, and how many orientations there were."""
        settings = self.settings
        step = settings.multi_start_step_degrees
        level = self.pyramid.level_of(search_units(self.pyramid))
        views = Geometry.of(level.fixed), Geometry.of(level.moving)
        turns = search_rotations(*views, settings.multi_start_range_degrees, step)
        poses, scores = search(level, turns, cancelled=self.cancelled)
        more, more_scores = search(level, neighbours(poses, step), cancelled=self.cancelled)
        order = np.argsort(-np.concatenate([scores, more_scores]), kind="stable")
        poses = np.concatenate([poses, more])[order]
        return best_poses(comparer, poses, 2 * settings.multi_start_refined, self.cancelled), len(turns)

    def scores(self, starts: np.ndarray, metric: str) -> np.ndarray:
        """Return the metric of each start (n, 4, 4) on a coarse level, shape (n,); infinite where the images do not overlap."""
        level = self.pyramid.level(0, _SEARCH_SHRINK * self.settings.shrink_factors[0], 0.5)
        method = make_method(level, self.settings, metric, seed=1)
        # Only values are needed; the gradients would be computed anew for each start.
        method.MetricUseFixedImageGradientFilterOff()
        method.MetricUseMovingImageGradientFilterOff()
        values = np.full(len(starts), np.inf)
        for n, start in enumerate(starts):
            stop_if(self.cancelled)
            method.SetInitialTransform(affine_of(start))
            # An error says that the images do not overlap.
            with suppress(RuntimeError):
                values[n] = method.MetricEvaluate(level.fixed, level.moving)
        return np.where(np.isfinite(values), values, np.inf)

    def later_stages(
        self, matrix: np.ndarray, metric: str, from_fraction: float = 0.3
    ) -> tuple[np.ndarray, list[LevelTrace]]:
        """Run all that follows the first stage's coarsest level."""
        stages = self.settings.stages
        plan = [(stage, 0) for stage in stages[1:]]
        if stages:
            plan += [(stages[-1], index) for index in range(1, len(self.levels))]
        traces = []
        for n, (stage, index) in enumerate(plan):
            fraction = from_fraction + (1 - from_fraction) * n / len(plan)
            matrix, trace = self.level(stage, index, matrix, metric, fraction)
            traces.append(trace)
        return matrix, traces

    def level(self, stage: str, index: int, start: np.ndarray, metric: str, fraction: float) -> tuple[np.ndarray, LevelTrace]:
        """Run one stage on one level, telling how it goes."""
        message = f"{stage.capitalize()} alignment, level {index + 1} of {len(self.levels)}"

        def watch(value: float) -> bool:
            self.progress(ProgressEvent("align", fraction, message, value))
            return self.cancelled()

        stop_if(self.cancelled)
        return run_level(self.levels[index], stage, start, self.settings, metric=metric, seed=self.seed, watch=watch)


def _start(pair: tuple[Item, Item], frame: Frame, settings: AlignmentSettings, given: sitk.Transform | None) -> np.ndarray:
    """Return the start as a matrix (4, 4) of the frame, in which the moments start is the identity."""
    if given is not None:
        return frame.from_lps(_linear_matrix(given, pair[0]))
    if settings.start == "moments":
        return np.eye(4)
    fixed, moving = (Geometry.of(item.image).centre_lps for item in pair)
    return frame.from_lps(homogeneous(shift=moving - fixed if settings.start == "geometry" else (0.0, 0.0, 0.0)))


def _linear_matrix(transform: sitk.Transform, fixed: Item) -> np.ndarray:
    """Return the 4x4 matrix, LPS mm, of a transform that must be linear over the fixed image."""
    if transform.GetDimension() != 3:
        raise InputError("The initial transform is not a 3-D transform: choose one that maps fixed to moving points.")
    corners = Geometry.of(fixed.image).corners_lps()
    points = np.concatenate([corners, corners.mean(axis=0, keepdims=True), (corners[:4] + corners.mean(axis=0)) / 2])
    mapped = np.array([transform.TransformPoint(p.tolist()) for p in points])
    centre = points.mean(axis=0)
    solved = np.linalg.lstsq(np.c_[points - centre, np.ones(len(points))], mapped, rcond=None)[0].T
    matrix = homogeneous(solved[:, :3], solved[:, 3] - solved[:, :3] @ centre)
    misfit = np.abs(points @ matrix[:3, :3].T + matrix[:3, 3] - mapped).max()
    if not np.isfinite(matrix).all() or misfit > 0.01 * min(fixed.image.GetSpacing()):
        raise InputError(
            "The initial transform is not linear (it deforms space), but the affine step can only start from a rigid, "
            "similarity or affine transform: choose such a one."
        )
    if np.linalg.det(matrix[:3, :3]) <= 0:
        raise InputError("The initial transform mirrors or flattens space: choose one that keeps left and right apart.")
    return matrix


def foreground_points(mask: sitk.Image, most: int = 2000) -> np.ndarray:
    """Return voxel centres spread evenly over a mask, shape (n, 3) with n up to about `most`, LPS mm."""
    flat = np.flatnonzero(sitk.GetArrayViewFromImage(mask))
    chosen = flat[np.linspace(0, len(flat) - 1, min(most, len(flat))).astype(int)]
    k, j, i = np.unravel_index(chosen, mask.GetSize()[::-1])
    return Geometry.of(mask).to_lps(np.stack([i, j, k], axis=1))


def _overlap(pair: tuple[Item, Item], frame: Frame, matrix: np.ndarray) -> float:
    """Return the share of the fixed foreground that falls into the moving image's extent."""
    lps = frame.to_lps(matrix)
    index = Geometry.of(pair[1].image).to_index(foreground_points(pair[0].object_mask) @ lps[:3, :3].T + lps[:3, 3])
    return float(np.mean(((index >= -0.5) & (index <= np.array(pair[1].image.GetSize()) - 0.5)).all(axis=1)))


def _check_overlap(pair: tuple[Item, Item], frame: Frame, start: np.ndarray) -> None:
    if _overlap(pair, frame, start) < _LEAST_OVERLAP:
        sizes = " and ".join(f"{object_size_mm(item):.3g} mm" for item in pair)
        raise InputError(
            f"The fixed and the moving image do not overlap at the start of the alignment (their anatomy is {sizes} across): "
            "check that both are in millimetres and show the same anatomy. Where their positions cannot be trusted, start from "
            "'moments', or give a rough alignment as initial transform."
        )


def _scales_of(matrix: np.ndarray) -> np.ndarray:
    """Return the scales of a matrix (4, 4), largest first."""
    return np.linalg.svd(matrix[:3, :3], compute_uv=False)


def _is_flat(matrix: np.ndarray) -> bool:
    """Return whether a matrix (4, 4) flattens or blows up what it maps."""
    scales = _scales_of(matrix)
    return not (scales.min() >= 0.1 and scales.max() <= 10)


def stretch_of(matrix: np.ndarray) -> float:
    """Return the largest scale of a matrix (4, 4) over its smallest."""
    scales = _scales_of(matrix)
    return float(scales.max() / max(scales.min(), 1e-9))


def _is_thin(pair: tuple[Item, Item], frame: Frame, matrix: np.ndarray) -> bool:
    """Return whether what both images show is so thin that it cannot tell how large the object is across."""
    lps = frame.to_lps(matrix)
    points = foreground_points(pair[0].object_mask)
    index = Geometry.of(pair[1].image).to_index(points @ lps[:3, :3].T + lps[:3, 3])
    shared = points[((index >= -0.5) & (index <= np.array(pair[1].image.GetSize()) - 0.5)).all(axis=1)]
    if len(shared) < 10:
        return False
    spread = np.sqrt(np.clip(np.linalg.eigvalsh(np.cov(shared.T)), 0, None))
    return bool(spread[0] < _THIN * spread[2])


def _inside(
    pair: tuple[Item, Item], frame: Frame, level: Level, matrix: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return both aligned images on one level's grid, and where they show both foregrounds, three arrays of one shape."""
    grid = Geometry.of(level.fixed)
    transforms = (affine_of(np.eye(4)), affine_of(matrix))
    inside = np.ones(grid.size[::-1], dtype=bool)
    for item, centre, transform in zip(pair, (frame.fixed_centre, frame.moving_centre), transforms, strict=True):
        mask = in_frame(item.object_mask, centre, frame.unit_mm)
        inside &= sitk.GetArrayFromImage(grid.resample(mask, transform, interpolator=sitk.sitkNearestNeighbor)) != 0
    fixed, moving = level.fixed, grid.resample(level.moving, transforms[1])
    return sitk.GetArrayFromImage(fixed), sitk.GetArrayFromImage(moving), inside


def _correlation(fixed: np.ndarray, moving: np.ndarray, inside: np.ndarray) -> float:
    """Return the correlation of intensities well inside both objects, 0 where it is not defined.

    The rims are left out, because the step from background to tissue makes any two images of one shape correlate.
    """
    core = ndimage.binary_erosion(inside, iterations=2, border_value=1)
    inside = core if core.any() else inside
    if inside.sum() < 10 or np.ptp(fixed[inside]) == 0 or np.ptp(moving[inside]) == 0:
        return 0.0
    return float(np.corrcoef(fixed[inside], moving[inside])[0, 1])


def _limit_warnings(traces: list[LevelTrace]) -> list[str]:
    return [
        f"The {t.stage} alignment used all its {t.iteration_limit} iterations on level {t.level + 1} and might improve further: "
        "allow more iterations on that level."
        for t in traces if t.hit_iteration_limit
    ]


def _result_warnings(pair: tuple[Item, Item], frame: Frame, matrix: np.ndarray) -> tuple[list[str], list[str]]:
    """Return what looks doubtful in the result, and what plainly wrong; raise `RegistrationError` if it cannot be one."""
    scales, flat = _scales_of(matrix), _is_flat(matrix)
    if not flat and np.linalg.det(matrix[:3, :3]) < 0:
        raise RegistrationError(
            "The moving image fits the fixed one only when it is mirrored, which anatomy cannot be: are left and right exchanged "
            "in one of the images, or is its direction in the file wrong? If not, check that both images show the same anatomy, "
            "or use the stages rigid or similarity only."
        )
    if flat:
        raise RegistrationError(
            "The affine alignment collapsed (it flattens the moving image): check that both images show the same anatomy, or use "
            "the stages rigid or similarity only; and is one of the images mirrored, that is, are left and right exchanged in it?"
        )
    doubts: list[str] = []
    refusals: list[str] = []
    stretch = scales.max() / scales.min()
    partly = "; where one image shows only a part of what the other shows, use the stages rigid or similarity only"
    if scales.min() < _PLAUSIBLE_SCALES[0] or scales.max() > _PLAUSIBLE_SCALES[1]:
        refusals.append(
            f"The alignment scales the moving image by {1 / scales.max():.2f} to {1 / scales.min():.2f}, which is implausible: "
            f"look at the result, and check the voxel sizes in both files{partly if stretch > _UNUSUAL_STRETCH else ''}."
        )
    elif stretch > _UNUSUAL_STRETCH:
        (refusals if stretch > _IMPLAUSIBLE_STRETCH else doubts).append(
            f"The alignment stretches the moving image {stretch:.1f} times as much along one direction as along another: look at "
            f"the result{partly}."
        )
    overlap = _overlap(pair, frame, matrix)
    if not overlap >= _POOR_OVERLAP:
        doubts.append(
            f"Only {100 * overlap:.0f} % of the fixed foreground lies inside the aligned moving image: look at the result."
        )
    return doubts, refusals
