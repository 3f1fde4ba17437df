"""Where the anatomy is, and intensities that two images share."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.geometry import Geometry

_ANALYSIS_VOXELS = 2_000_000
"""A mask of this many voxels shows any head; finer images are reduced first, for speed and against noise."""

LARGEST = 1e30
"""Larger intensities are no measurements, and sums of them overflow."""


def foreground(image: sitk.Image) -> sitk.Image:
    """Find the anatomy: the body or head in MR and CT, the brain in a skull-stripped image.

    A skull-stripped image has one exact background value, so all that differs from it by more than noise is foreground.
    Elsewhere half of Otsu's threshold above the background level separates air from tissue (dark tissue such as fluid lies
    between the two). Small islands are dropped and cavities filled.

    Parameters
    ----------
    image : 3-D scalar image with varying intensities.

    Returns
    -------
    mask : uint8 image of 0 and 1 on the grid of `image`.

    Raises
    ------
    InputError : no connected region stands out.
    """
    reduced = _reduced(image)
    voxels = sitk.GetArrayFromImage(reduced)
    background = _exact_background(voxels)
    if background is not None:
        beyond = np.abs(voxels - background)
        mask = beyond > 0.03 * np.percentile(beyond[beyond > 0], 99) if beyond.any() else beyond > 0
    else:
        mask = voxels > _air_threshold(voxels)
    # Tissue all round means that the image is a crop inside the body: no part of it is background.
    mask = np.ones_like(mask) if _border(mask).mean() > 0.5 else _tidy(mask)
    if not mask.any():
        raise InputError("No anatomy stands out from the background in this image: give a mask of the region to register.")
    small = sitk.GetImageFromArray(mask.astype(np.uint8))
    small.CopyInformation(reduced)
    return Geometry.of(image).resample(small, interpolator=sitk.sitkNearestNeighbor, pixel_type=sitk.sitkUInt8)


def normalised(image: sitk.Image, mask: sitk.Image) -> sitk.Image:
    """Scale intensities by robust percentiles inside `mask` to about 0 to 1, background at 0.

    0 is the background's median, but never further below the 0.5th percentile of the foreground than a quarter of the
    foreground's range: so air at -1000 HU does not squeeze soft tissue. 1 is the 99.5th percentile. Values are clipped to 0..1.5.

    Parameters
    ----------
    image, mask : scalar image and its foreground on one grid.

    Returns
    -------
    image : float32.

    Raises
    ------
    InputError : the foreground is constant.
    """
    voxels = sitk.GetArrayViewFromImage(image)
    inside = sitk.GetArrayViewFromImage(mask) != 0
    low, high = np.percentile(voxels[inside], (0.5, 99.5))
    if high <= low:
        raise InputError("The foreground of this image has one intensity only, so there is nothing to register inside it.")
    outside = voxels[~inside]
    background = float(np.median(outside)) if outside.size else low
    zero = max(min(background, low), low - 0.25 * (high - low))
    scaled = (voxels.astype(np.float32) - np.float32(zero)) / np.float32(high - zero)
    result = sitk.GetImageFromArray(np.clip(scaled, 0, 1.5, out=scaled))
    result.CopyInformation(image)
    return result


def background_value(image: sitk.Image, mask: sitk.Image) -> float:
    """Return the intensity of nothing: the median outside of the anatomy (0 in MR, air in CT), or the lowest if that is empty."""
    voxels = sitk.GetArrayViewFromImage(image)
    outside = voxels[sitk.GetArrayViewFromImage(mask) == 0]
    return float(np.median(outside)) if outside.size else float(voxels.min())


def value_beyond(image: sitk.Image) -> float:
    """Return the intensity for what lies beyond any image: NaN if it is framed by that, else as in a registration.

    Parameters
    ----------
    image : 3-D scalar image; it may be a mask or a map, constant, or hold NaN and infinite voxels.
    """
    voxels = sitk.GetArrayViewFromImage(image)
    # NaN is not below anything.
    known = np.abs(voxels) < LARGEST
    if not known.any() or np.isnan(_border(voxels)).mean() > 0.5:
        return float("nan")
    lowest = float(voxels[known].min())
    filled = image
    if not known.all():
        filled = sitk.GetImageFromArray(np.where(known, voxels, voxels.dtype.type(lowest)))
        filled.CopyInformation(image)
    try:
        return background_value(filled, foreground(filled))
    except InputError:
        # No anatomy, as in a mask or a constant.
        return lowest


def points_of(mask: sitk.Image) -> np.ndarray:
    """Return the corners of the bounding boxes of every slice of `mask`, shape (n, 3), LPS mm.

    They span the same box, in any orientation nearly as tightly, as all the voxels do, and are far fewer.
    """
    voxels = sitk.GetArrayViewFromImage(mask)
    corners = []
    for k in np.flatnonzero(voxels.any(axis=(1, 2))):
        rows, columns = np.flatnonzero(voxels[k].any(axis=1)), np.flatnonzero(voxels[k].any(axis=0))
        corners += [(i, j, k) for i in (columns[0], columns[-1]) for j in (rows[0], rows[-1])]
    return Geometry.of(mask).to_lps(np.array(corners, dtype=float).reshape(-1, 3))


def _reduced(image: sitk.Image) -> sitk.Image:
    """Return a float copy of at most about `_ANALYSIS_VOXELS` voxels by averaging blocks along the finest axes."""
    result = sitk.Cast(image, sitk.sitkFloat32)
    while np.prod(result.GetSize(), dtype=np.int64) > _ANALYSIS_VOXELS:
        spacing = np.array(result.GetSpacing())
        shrink = [2 if s < 1.5 * spacing.min() and n > 32 else 1 for s, n in zip(spacing, result.GetSize(), strict=True)]
        if max(shrink) == 1:
            break
        result = sitk.BinShrink(result, shrink)
    return result


def _exact_background(voxels: np.ndarray) -> float | None:
    """Return the value that fills the image's border exactly, or None if the border varies, as air does in a scan."""
    border = _border(voxels)
    values, counts = np.unique(border, return_counts=True)
    value = values[counts.argmax()]
    return float(value) if counts.max() > 0.5 * border.size and np.mean(voxels == value) > 0.05 else None


def _border(voxels: np.ndarray) -> np.ndarray:
    return np.concatenate([face.ravel() for axis in range(3) for face in np.moveaxis(voxels, axis, 0)[[0, -1]]])


def _air_threshold(voxels: np.ndarray) -> float:
    clipped = np.clip(voxels, *np.percentile(voxels, (0.1, 99)))
    values = sitk.GetImageFromArray(clipped)
    otsu = sitk.OtsuThresholdImageFilter()
    otsu.SetNumberOfHistogramBins(256)
    otsu.Execute(values)
    threshold = otsu.GetThreshold()
    air = np.median(clipped[clipped <= threshold])
    return float(air + 0.5 * (threshold - air))


def _tidy(mask: np.ndarray) -> np.ndarray:
    opened = ndimage.binary_opening(mask, iterations=1)
    labels, count = ndimage.label(opened)
    if count == 0:
        return opened
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    kept = np.isin(labels, np.flatnonzero(sizes >= 0.05 * sizes.max()))
    closed = ndimage.binary_closing(np.pad(kept, 3), iterations=3)[3:-3, 3:-3, 3:-3]
    return ndimage.binary_fill_holes(closed)
