"""The pair's own frame: both objects centred at 0 and as large as a brain, so that one set of numbers suits every size.

A length of 1 here is one 150th of the object; on an adult brain that is about 1 mm. Points of the fixed image are
``(p - fixed_centre) / unit_mm``, points of the moving image ``(q - moving_centre) / unit_mm``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.alignment.view import measured_box, open_faces
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.preprocessing.intensity import foreground, padding, points_of
from HyperPredictRegLib.spatial.geometry import Geometry, homogeneous

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


OBJECT_UNITS = 150.0
_MARGIN_UNITS = 15.0
_MOST_VOXELS_ACROSS = 200
_THIN, _LEAST_STEPS = 0.35, 2.01
"""An isotropic grid so thin for its width keeps at least four slices, which is what smoothing needs."""


@dataclass(frozen=True)
class Item:
    """One image of the pair as the caller gave it, LPS mm.

    `object_mask` is its foreground, `points` span that, shape (n, 3), and `mask` is the user's or None.
    """

    image: sitk.Image
    object_mask: sitk.Image
    points: np.ndarray
    mask: sitk.Image | None


@dataclass(frozen=True)
class Frame:
    """Where 0 is in either image (LPS mm), and how many mm a unit has."""

    fixed_centre: np.ndarray
    moving_centre: np.ndarray
    unit_mm: float

    def to_lps(self, matrix: np.ndarray) -> np.ndarray:
        """Turn a fixed-to-moving matrix (4, 4) of this frame into one of LPS mm."""
        linear = matrix[:3, :3]
        return homogeneous(linear, self.moving_centre + self.unit_mm * matrix[:3, 3] - linear @ self.fixed_centre)

    def from_lps(self, matrix: np.ndarray) -> np.ndarray:
        """Turn a fixed-to-moving matrix (4, 4) of LPS mm into one of this frame."""
        linear = matrix[:3, :3]
        return homogeneous(linear, (matrix[:3, 3] + linear @ self.fixed_centre - self.moving_centre) / self.unit_mm)

    def itk_transform(self, matrix: np.ndarray) -> sitk.AffineTransform:
        """Return a matrix (4, 4) of this frame as an affine transform of LPS mm, turning about the fixed centre."""
        transform = sitk.AffineTransform(3)
        transform.SetCenter(self.fixed_centre.tolist())
        transform.SetMatrix(matrix[:3, :3].ravel().tolist())
        shift = self.moving_centre - self.fixed_centre + self.unit_mm * matrix[:3, 3]
        transform.SetTranslation(shift.tolist())
        return transform


@dataclass(frozen=True)
class Level:
    """Both images of one pyramid level and the users' masks, in the frame."""

    fixed: sitk.Image
    moving: sitk.Image
    fixed_mask: sitk.Image | None
    moving_mask: sitk.Image | None
    index: int
    shrink_factor: float
    sigma_mm: float


def make_item(image: sitk.Image, object_mask: sitk.Image | None, mask: sitk.Image | None, role: str) -> Item:
    """Check one image and its masks; find the foreground where none is given.

    Raises
    ------
    InputError : the image is not 3-D or not finite, or a mask is empty or lies on another grid.
    """
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"The {role} image is not a 3-D image with one value per voxel: choose one that is.")
    if not np.isfinite(sitk.GetArrayViewFromImage(image)).all():
        raise InputError(f"The {role} image has voxels that are not numbers (NaN or infinite): repair it first.")
    for given, what in ((object_mask, "foreground"), (mask, "mask")):
        if given is None:
            continue
        if not Geometry.of(given).matches(Geometry.of(image)):
            raise InputError(f"The {role} {what} does not lie on the grid of the {role} image: resample it first.")
        if not sitk.GetArrayViewFromImage(given).any():
            raise InputError(f"The {role} {what} is empty: give one with at least some voxels that are not 0.")
    try:
        found = object_mask if object_mask is not None else foreground(image)
    except InputError as error:
        raise InputError(f"The {role} image cannot be aligned. {error}") from error
    found = sitk.Cast(found != 0, sitk.sitkUInt8)
    padded = padding(image)
    if padded is not None:
        measured = sitk.Equal(padded.missing, 0)
        mask = measured if mask is None else sitk.And(measured, sitk.Cast(mask != 0, sitk.sitkUInt8))
    item = Item(sitk.Cast(image if padded is None else padded.filled, sitk.sitkFloat32), found, points_of(found), mask)
    box = measured_box(image)
    return item if box is None else _cropped(item, *box)


def _cropped(item: Item, first: tuple[int, int, int], size: tuple[int, int, int]) -> Item:
    """Return the item on a part of its grid, or as it was where that part shows no anatomy."""
    image, found = (sitk.RegionOfInterest(one, size, first) for one in (item.image, item.object_mask))
    mask = None if item.mask is None else sitk.RegionOfInterest(item.mask, size, first)
    emptied = mask is not None and not sitk.GetArrayViewFromImage(mask).any()
    if emptied or not sitk.GetArrayViewFromImage(found).any():
        return item
    return Item(image, found, points_of(found), mask)


def object_size_mm(item: Item) -> float:
    """Return the geometric mean of the foreground's extents along the image's axes, in mm."""
    along = item.points @ Geometry.of(item.image).direction_matrix
    extents = along.max(axis=0) - along.min(axis=0) + np.array(item.image.GetSpacing())
    return float(np.exp(np.log(extents).mean()))


def centroid_lps(mask: sitk.Image) -> np.ndarray:
    """Return the centre of gravity of a mask, shape (3,), LPS mm."""
    inside = sitk.GetArrayViewFromImage(mask) != 0
    planes = (inside.sum(axis=axes, dtype=np.int64) for axes in ((0, 1), (0, 2), (1, 2)))
    return Geometry.of(mask).to_lps([float(np.average(np.arange(len(p)), weights=p)) for p in planes])


def make_frame(fixed: Item, moving: Item) -> Frame:
    """Return the frame of a pair: the centres of gravity of the foregrounds, and the smaller object's size."""
    unit = min(object_size_mm(fixed), object_size_mm(moving)) / OBJECT_UNITS
    return Frame(centroid_lps(fixed.object_mask), centroid_lps(moving.object_mask), unit)


@dataclass(frozen=True)
class Pyramid:
    """Both objects on their finest grids, LPS mm, from which every level is made."""

    images: tuple[sitk.Image, sitk.Image]
    masks: tuple[sitk.Image | None, sitk.Image | None]
    frame: Frame

    def level(self, index: int, shrink_factor: float, sigma_voxels: float) -> Level:
        """Return both images smoothed and on coarser grids, in the frame; of thin ones some slices remain."""
        finest = self.images[0].GetSpacing()[0]
        most = [(min(image.GetSize()) - 1) / _LEAST_STEPS for image in self.images if _thin(image)]
        spacing = finest * min([shrink_factor, *(max(1.0, factor) for factor in most)])
        centres = (self.frame.fixed_centre, self.frame.moving_centre)
        pair = [in_frame(_coarser(image, spacing, sigma_voxels * spacing), centre, self.frame.unit_mm)
                for image, centre in zip(self.images, centres, strict=True)]
        return Level(pair[0], pair[1], *self.masks, index, shrink_factor, sigma_voxels * spacing)

    def level_of(self, units: float) -> Level:
        """Return both images on grids of about that voxel edge, in units of the frame; never finer than they are."""
        finest = self.images[0].GetSpacing()[0] / self.frame.unit_mm
        return self.level(0, max(1.0, units / finest), 0.5)

    def levels(self, settings: AlignmentSettings) -> tuple[Level, ...]:
        """Return every level that the settings ask for, coarsest first."""
        pairs = zip(settings.shrink_factors, settings.smoothing_sigmas, strict=True)
        return tuple(self.level(index, shrink, sigma) for index, (shrink, sigma) in enumerate(pairs))


def make_pyramid(fixed: Item, moving: Item, frame: Frame, settings: AlignmentSettings) -> Pyramid:
    """Return both objects on isotropic grids of one spacing, neither finer than the images nor needlessly large."""
    sizes = object_size_mm(fixed), object_size_mm(moving)
    native = max(float(np.min(item.image.GetSpacing())) for item in (fixed, moving))
    spacing_mm = max(min(sizes) / settings.voxels_across, max(sizes) / _MOST_VOXELS_ACROSS, native)
    centres = (frame.fixed_centre, frame.moving_centre)
    masks = [None if i.mask is None else in_frame(sitk.Cast(i.mask != 0, sitk.sitkUInt8), c, frame.unit_mm)
             for i, c in zip((fixed, moving), centres, strict=True)]
    images = (_resampled(fixed, spacing_mm, frame), _resampled(moving, spacing_mm, frame))
    return Pyramid(images, (masks[0], masks[1]), frame)


def _resampled(item: Item, spacing_mm: float, frame: Frame) -> sitk.Image:
    """Return the object and some background on an isotropic grid along the image's axes."""
    image, surround = item.image, _surround(item.image)
    factors = [max(1, int(spacing_mm / s + 0.01)) for s in image.GetSpacing()]
    factors = [min(f, n) for f, n in zip(factors, image.GetSize(), strict=True)]
    averaged = sitk.BinShrink(image, factors) if max(factors) > 1 else image
    native = Geometry.of(image)
    along = item.points @ native.direction_matrix
    margin = _MARGIN_UNITS * frame.unit_mm
    low, high = along.min(axis=0) - margin, along.max(axis=0) + margin
    beyond = np.ones((2, 3), bool) if surround is None else open_faces(image, surround, 0.05 * _span(image, surround))
    # Nothing is known of what lies beyond the scanned volume; made-up background there would look like an edge.
    grid = native.corners_lps() @ native.direction_matrix
    low = np.where(beyond[0], np.maximum(low, grid.min(axis=0)), low)
    high = np.where(beyond[1], np.minimum(high, grid.max(axis=0)), high)
    corners = np.array([low, high]) @ native.direction_matrix.T
    covering = native.covering(corners, spacing_mm, 0.0)
    return sitk.Resample(
        averaged, covering.size, sitk.Transform(3, sitk.sitkIdentity), sitk.sitkLinear, covering.origin, covering.spacing,
        covering.direction, 0.0 if surround is None else surround, sitk.sitkFloat32, bool(beyond.any()),
    )


def _thin(image: sitk.Image) -> bool:
    return min(image.GetSize()) < _THIN * max(image.GetSize())


def _surround(image: sitk.Image) -> float | None:
    """Return the value around the object if the image's border shows it alone, or None if anatomy reaches the border."""
    voxels = sitk.GetArrayViewFromImage(image)
    border = np.concatenate([np.take(voxels, end, axis=axis).ravel() for axis in range(3) for end in (0, -1)])
    value = float(np.median(border))
    return value if np.mean(np.abs(border - value) < 0.05 * _span(image, value)) > 0.75 else None


def _span(image: sitk.Image, background: float) -> float:
    """Return how far intensities reach from the background."""
    return float(np.abs(np.percentile(sitk.GetArrayViewFromImage(image), (1.0, 99.0)) - background).max())


def _coarser(image: sitk.Image, spacing_mm: float, sigma_mm: float) -> sitk.Image:
    geometry = Geometry.of(image)
    smooth = sitk.DiscreteGaussian(image, [sigma_mm**2] * 3, 32, 0.01, True) if sigma_mm > 0 else image
    factor = spacing_mm / geometry.spacing[0]
    if factor <= 1.001:
        return smooth
    i, j, k = (int(np.ceil((n - 1) / factor)) + 1 for n in geometry.size)
    size = (i, j, k)
    start = (np.array(geometry.size) - 1 - (np.array(size) - 1) * factor) / 2
    grid = replace(geometry, size=size, spacing=(spacing_mm,) * 3, origin=tuple(geometry.to_lps(start).tolist()))
    return sitk.Resample(
        smooth, grid.size, sitk.Transform(3, sitk.sitkIdentity), sitk.sitkLinear, grid.origin, grid.spacing,
        grid.direction, 0.0, sitk.sitkFloat32, True,
    )


def in_frame(image: sitk.Image, centre: np.ndarray, unit_mm: float) -> sitk.Image:
    """Return a copy of `image` with its header in the frame."""
    result = sitk.Image(image)
    result.SetSpacing([s / unit_mm for s in image.GetSpacing()])
    result.SetOrigin(((np.array(image.GetOrigin()) - centre) / unit_mm).tolist())
    return result
