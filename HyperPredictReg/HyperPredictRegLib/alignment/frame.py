"""The pair's own frame: both objects centred at 0 and as large as a brain, so that one set of numbers suits every size.

A length of 1 here is one 150th of the object; on an adult brain that is about 1 mm. Points of the fixed image are
``(p - fixed_centre) / unit_mm``, points of the moving image ``(q - moving_centre) / unit_mm``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.alignment.settings import AlignmentSettings
from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.geometry import Geometry
from HyperPredictRegLib.intensity import foreground, padding, points_of

OBJECT_UNITS = 150.0
_MARGIN_UNITS = 15.0
_MOST_VOXELS_ACROSS = 200


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
        result = np.eye(4)
        result[:3, :3] = linear
        result[:3, 3] = self.moving_centre + self.unit_mm * matrix[:3, 3] - linear @ self.fixed_centre
        return result

    def from_lps(self, matrix: np.ndarray) -> np.ndarray:
        """Turn a fixed-to-moving matrix (4, 4) of LPS mm into one of this frame."""
        linear = matrix[:3, :3]
        result = np.eye(4)
        result[:3, :3] = linear
        result[:3, 3] = (matrix[:3, 3] + linear @ self.fixed_centre - self.moving_centre) / self.unit_mm
        return result

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
    return Item(sitk.Cast(image if padded is None else padded.filled, sitk.sitkFloat32), found, points_of(found), mask)


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
        """Return both images smoothed and on coarser grids, in the frame."""
        spacing = shrink_factor * self.images[0].GetSpacing()[0]
        centres = (self.frame.fixed_centre, self.frame.moving_centre)
        pair = [in_frame(_coarser(image, spacing, sigma_voxels * spacing), centre, self.frame.unit_mm)
                for image, centre in zip(self.images, centres, strict=True)]
        return Level(pair[0], pair[1], *self.masks, index, shrink_factor, sigma_voxels * spacing)

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
    image, surround = item.image, background_value(item.image)
    factors = [max(1, int(spacing_mm / s + 0.01)) for s in image.GetSpacing()]
    factors = [min(f, n) for f, n in zip(factors, image.GetSize(), strict=True)]
    averaged = sitk.BinShrink(image, factors) if max(factors) > 1 else image
    native = Geometry.of(image)
    along = item.points @ native.direction_matrix
    margin = _MARGIN_UNITS * frame.unit_mm
    low, high = along.min(axis=0) - margin, along.max(axis=0) + margin
    if surround is None:
        # Nothing is known of what lies beyond the scanned box; made-up background there would look like an edge.
        box = native.corners_lps() @ native.direction_matrix
        low, high = np.maximum(low, box.min(axis=0)), np.minimum(high, box.max(axis=0))
    corners = np.array([low, high]) @ native.direction_matrix.T
    grid = native.covering(corners, spacing_mm, 0.0)
    return sitk.Resample(
        averaged, grid.size, sitk.Transform(3, sitk.sitkIdentity), sitk.sitkLinear, grid.origin, grid.spacing,
        grid.direction, 0.0 if surround is None else surround, sitk.sitkFloat32, surround is None,
    )


def background_value(image: sitk.Image) -> float | None:
    """Return the value around the object if the image's border shows it alone, or None if anatomy reaches the border."""
    voxels = sitk.GetArrayViewFromImage(image)
    border = np.concatenate([np.take(voxels, end, axis=axis).ravel() for axis in range(3) for end in (0, -1)])
    value = float(np.median(border))
    span = float(np.abs(np.percentile(voxels, (1.0, 99.0)) - value).max())
    return value if np.mean(np.abs(border - value) < 0.05 * span) > 0.75 else None


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
