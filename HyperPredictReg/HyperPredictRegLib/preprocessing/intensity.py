"""Where the anatomy is, and intensities that two images share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.preprocessing.coarser_copy import block_averages
from HyperPredictRegLib.spatial.geometry import Geometry

_ANALYSIS_VOXELS = 2_000_000
"""A mask of this many voxels shows any head; finer images are reduced first, for speed and against noise."""

LARGEST = 1e30
"""Larger intensities are no measurements, and sums of them overflow."""

_ORDINARY_BOTTOMS = ((0.0, 0.0), (-1100.0, -900.0))
"""Lowest values that are a background like any other, however far from the rest: 0, and air in Hounsfield units."""

_LEAST_HIGH_PADDING = 9999.0
"""Padding above all that was measured has a value that no measurement has; less may be a device or a plate beside the body."""

_LEAST_PADDING, _LEAST_PADDED_BORDER = 0.005, 0.05
"""Padding fills at least these shares of all voxels and of those on the faces of the grid: it lies around what was measured."""

_PADDING_GAP, _BLURRED_GAP = 0.5, 1.0
"""How far padding lies from all other values, as a share of their range; the second where its edge is blurred."""

_BLURRED_VOXELS = 2
"""So near to padding interpolation leaves values in between."""

_FLAT_AIR = 0.15
"""Air varies less than this share of its distance from tissue; the dark tissue of an image without any air varies more."""


@dataclass(frozen=True)
class Padding:
    """What an image holds where nothing was measured: one value, set apart from all others.

    Attributes
    ----------
    values : the lowest of all values, the highest, or both.
    share : of the voxels that hold it.
    missing : uint8, 1 where nothing was measured, on the grid of the image.
    filled : the image with air there, or, if it shows none, with something darker than all that it does show.
    level : what is there in `filled`.
    """

    values: tuple[float, ...]
    share: float
    missing: sitk.Image
    filled: sitk.Image
    level: float


def padding(image: sitk.Image) -> Padding | None:
    """Find what a scanner or a program put where nothing was measured, such as -3024 around the round field of a CT.

    Padding fills a share of the grid, reaches its faces, has one value, and is separated by a gap from all others. The 0 around a
    skull-stripped brain and air at -1000 HU are an ordinary background, not padding.

    Parameters
    ----------
    image : 3-D scalar image with finite voxels.

    Returns
    -------
    padding : None if there is none, as in nearly all images.
    """
    voxels = sitk.GetArrayViewFromImage(image)
    ends = [found for found in (_set_apart(voxels, 1), _set_apart(voxels, -1)) if found is not None]
    if not ends:
        return None
    missing = np.logical_or.reduce([where for _, where in ends])
    level = _level_beyond(voxels, missing)
    if np.issubdtype(voxels.dtype, np.integer):
        level = float(np.clip(round(level), np.iinfo(voxels.dtype).min, np.iinfo(voxels.dtype).max))
    grid = Geometry.of(image)
    filled = grid.holding(np.where(missing, voxels.dtype.type(level), voxels))
    values, share = tuple(value for value, _ in ends), float(missing.mean())
    return Padding(values, share, grid.holding(missing.astype(np.uint8)), filled, level)


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
    padded = padding(image)
    return anatomy_of(image, None) if padded is None else anatomy_of(padded.filled, padded.missing)


def anatomy_of(known: sitk.Image, missing: sitk.Image | None) -> sitk.Image:
    """Find the anatomy as `foreground` does in an image whose padding is known.

    Parameters
    ----------
    known : the image with air in place of padding.
    missing : uint8, 1 where padding was, or None.

    Raises
    ------
    InputError : no connected region stands out.
    """
    found = _anatomy(known) if missing is None else sitk.And(_anatomy(known), sitk.Equal(missing, 0))
    if not sitk.GetArrayViewFromImage(found).any():
        raise InputError("No anatomy stands out from the background in this image: give a mask of the region to register.")
    return found


def _anatomy(image: sitk.Image) -> sitk.Image:
    reduced = block_averages(image, _ANALYSIS_VOXELS)
    voxels = sitk.GetArrayFromImage(reduced)
    background = _exact_background(voxels)
    if background is not None:
        beyond = np.abs(voxels - background)
        mask = beyond > 0.03 * np.percentile(beyond[beyond > 0], 99) if beyond.any() else beyond > 0
    else:
        mask = voxels > _air_threshold(voxels)
    # Tissue all round means that the image is a crop inside the body: no part of it is background.
    mask = np.ones_like(mask) if _border(mask).mean() > 0.5 else _tidy(mask)
    small = Geometry.of(reduced).holding(mask.astype(np.uint8))
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
    padded = padding(image)
    voxels = sitk.GetArrayViewFromImage(image if padded is None else padded.filled)
    inside = sitk.GetArrayViewFromImage(mask) != 0
    low, high = np.percentile(voxels[inside], (0.5, 99.5))
    if high <= low:
        raise InputError("The foreground of this image has one intensity only, so there is nothing to register inside it.")
    outside = voxels[~inside]
    background = float(np.median(outside)) if outside.size else low
    zero = max(min(background, low), low - 0.25 * (high - low))
    scaled = (voxels.astype(np.float32) - np.float32(zero)) / np.float32(high - zero)
    return Geometry.of(image).holding(np.clip(scaled, 0, 1.5, out=scaled))


def background_value(image: sitk.Image, mask: sitk.Image) -> float:
    """Return the intensity of nothing: the median outside of the anatomy (0 in MR, air in CT), or the lowest if that is empty.

    Padding counts only where the image shows nothing else outside of its anatomy.
    """
    voxels, beside = sitk.GetArrayViewFromImage(image), sitk.GetArrayViewFromImage(mask) == 0
    padded = padding(image)
    if padded is not None:
        seen = beside & (sitk.GetArrayViewFromImage(padded.missing) == 0)
        beside = seen if seen.any() else beside
    outside = voxels[beside]
    return float(np.median(outside)) if outside.size else float(voxels.min())


def value_beyond(image: sitk.Image) -> float:
    """Return the intensity for what lies beyond any image: NaN if it is framed by that, else as in a registration.

    Parameters
    ----------
    image : 3-D scalar image; it may be a mask or a map, constant, or hold NaN and infinite voxels.
    """
    voxels = sitk.GetArrayViewFromImage(image)
    # False for NaN, too.
    known = np.abs(voxels) < LARGEST
    if not known.any() or np.isnan(_border(voxels)).mean() > 0.5:
        return float("nan")
    lowest = float(voxels[known].min())
    filled = image if known.all() else Geometry.of(image).holding(np.where(known, voxels, voxels.dtype.type(lowest)))
    try:
        return background_value(filled, foreground(filled))
    except InputError:
        # A mask or a constant image shows no anatomy.
        return lowest


def points_of(mask: sitk.Image) -> np.ndarray:
    """Return the corners of the bounding boxes of every slice of `mask`, shape (n, 3), LPS mm.

    They span the same extent, in any orientation nearly as tightly, as all the voxels do, and are far fewer.
    """
    voxels = sitk.GetArrayViewFromImage(mask)
    corners = []
    for k in np.flatnonzero(voxels.any(axis=(1, 2))):
        rows, columns = np.flatnonzero(voxels[k].any(axis=1)), np.flatnonzero(voxels[k].any(axis=0))
        corners += [(i, j, k) for i in (columns[0], columns[-1]) for j in (rows[0], rows[-1])]
    return Geometry.of(mask).to_lps(np.array(corners, dtype=float).reshape(-1, 3))


def _set_apart(voxels: np.ndarray, sign: int) -> tuple[float, np.ndarray] | None:
    """Return the value at one end (`sign` 1: the lowest, -1: the highest) and where padding is, or None if there is no gap."""
    value = float(voxels.min() if sign > 0 else voxels.max())
    if sign > 0 and any(low <= value <= high for low, high in _ORDINARY_BOTTOMS):
        return None
    if sign < 0 and value < _LEAST_HIGH_PADDING:
        return None
    alike = voxels == value
    if alike.mean() < _LEAST_PADDING or alike.all() or _border(alike).mean() < _LEAST_PADDED_BORDER:
        return None
    bottom, rest = sign * value, sign * voxels[~alike].astype(float)
    if _gap(rest, bottom, 0.5) > _PADDING_GAP:
        return value, alike
    # Interpolation blurs the edge of padding. So does the rim of any organ's image, so the gap beyond it must be wider.
    if _gap(rest, bottom, 25.0) <= _BLURRED_GAP:
        return None
    near = ndimage.binary_dilation(alike, ndimage.generate_binary_structure(3, 3), iterations=_BLURRED_VOXELS)
    if near.all() or _gap(sign * voxels[~near].astype(float), bottom, 0.5) <= _BLURRED_GAP:
        return None
    lowest = float(np.percentile(sign * voxels[~near].astype(float), 0.5))
    return value, alike | (near & (sign * voxels.astype(float) < bottom + 0.9 * (lowest - bottom)))


def _gap(rest: np.ndarray, value: float, percentile: float) -> float:
    """Return how far a value lies below a percentile of `rest`, as a share of the range from there to the 99th."""
    near, far = np.percentile(rest, (percentile, 99))
    return float((near - value) / (far - near)) if far > near else 0.0


def _level_beyond(voxels: np.ndarray, missing: np.ndarray) -> float:
    """Return the level of the air along the edge of what was measured, or, without any, one below all that the image shows.

    Air is what is dark and flat there: noise about one level, far from that of tissue, or exact in Hounsfield units. The dark
    rim of an organ that was cut out is neither.
    """
    measured = voxels[~missing].astype(float)
    low, high = np.percentile(measured, (0.5, 99.5))
    nothing = float(low - 0.25 * (high - low))
    core = ndimage.binary_erosion(~missing, iterations=2)
    rim = voxels[~missing & ~core].astype(float)
    threshold = _air_threshold(measured.reshape(1, 1, -1))
    dark, bright = rim[rim <= threshold], measured[measured > threshold]
    if dark.size < 0.25 * rim.size or not bright.size:
        return nothing
    first, air, third = np.percentile(dark, (25, 50, 75))
    flat = third - first <= _FLAT_AIR * (np.median(bright) - air)
    real = third > first or any(bottom <= air <= top for bottom, top in _ORDINARY_BOTTOMS[1:])
    return float(air) if flat and real else nothing


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
    retained = np.isin(labels, np.flatnonzero(sizes >= 0.05 * sizes.max()))
    closed = ndimage.binary_closing(np.pad(retained, 3), iterations=3)[3:-3, 3:-3, 3:-3]
    return ndimage.binary_fill_holes(closed)
