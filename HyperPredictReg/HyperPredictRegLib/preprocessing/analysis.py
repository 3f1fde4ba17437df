"""What is found out about one image before the pair is aligned: padding, anatomy, intensities from 0 to 1."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.core.progress import CancelCheck, interruptible, never
from HyperPredictRegLib.preprocessing.coarser_copy import block_averages
from HyperPredictRegLib.preprocessing.intensity import (
    Padding,
    anatomy_of,
    background_value,
    foreground,
    normalised,
    padding,
)
from HyperPredictRegLib.preprocessing.working_grid import working_spacing
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.slabs import MOST_VOXELS

_ROUNDING = 1.001


@dataclass(frozen=True)
class Analysed:
    """An image as it is aligned and registered, everything on one grid: its own, or that of a coarser copy.

    Attributes
    ----------
    foreground : uint8, the anatomy; inside the mask if there is one.
    normalised : float32, intensities about 0 to 1.
    mask : uint8 or None.
    missing : uint8, 1 where nothing was measured; None if the image holds no padding.
    background : intensity of nothing, in the image's own units.
    padded_values, padded_share : values that padding has, and the share of voxels that hold it.
    """

    foreground: sitk.Image
    normalised: sitk.Image
    mask: sitk.Image | None
    missing: sitk.Image | None
    background: float
    padded_values: tuple[float, ...] = ()
    padded_share: float = 0.0


def analysed(
    image: sitk.Image,
    mask: sitk.Image | None,
    preset: str,
    *,
    spacing_mm: float | None = None,
    cancelled: CancelCheck = never,
) -> Analysed:
    """Find padding and anatomy, and scale intensities.

    An image of more than `slabs.MOST_VOXELS` is averaged to half of its resolution first, as often as needed, unless the
    working grid of `preset` is finer than such a copy. Smaller images are used as they are.

    Parameters
    ----------
    image : 3-D scalar image with finite voxels.
    mask : uint8 on its grid, or None.
    preset : see `working_grid.PRESETS`.
    spacing_mm : of the working grid, if it is known; else what the preset means for this image's own anatomy.
    cancelled : asked often.

    Raises
    ------
    InputError : no anatomy stands out, or it is constant.
    Cancelled : the caller asked to stop.
    """
    if image.GetNumberOfPixels() > MOST_VOXELS:
        found = _of_coarser_copy(image, mask, cancelled)
        finest = working_spacing(image, found.foreground, preset) if spacing_mm is None else spacing_mm
        copies = zip(found.foreground.GetSpacing(), image.GetSpacing(), strict=True)
        if all(coarse <= _ROUNDING * max(finest, own) for coarse, own in copies):
            return found
    padded = interruptible(lambda: padding(image), cancelled)
    known, missing = (image, None) if padded is None else (padded.filled, padded.missing)
    return interruptible(lambda: _found(image, known, mask, missing, padded), cancelled)


def _of_coarser_copy(image: sitk.Image, mask: sitk.Image | None, cancelled: CancelCheck) -> Analysed:
    # Averages of padding and measurements would hide it, so it is looked for among voxels as they are.
    padded = interruptible(lambda: padding(_every_other(image)), cancelled)
    if padded is None:
        copy, missing = block_averages(image, MOST_VOXELS, cancelled=cancelled), None
    else:
        copy, missing = _without_padding(image, padded, cancelled)
    small = None if mask is None else _half_full(block_averages(mask, MOST_VOXELS, cancelled=cancelled))
    found = interruptible(lambda: _found(copy, copy, small, missing, padded), cancelled)
    whole_numbers = "integer" in image.GetPixelIDTypeAsString()
    return replace(found, background=float(round(found.background))) if whole_numbers else found


def _found(
    image: sitk.Image, known: sitk.Image, mask: sitk.Image | None, missing: sitk.Image | None, padded: Padding | None
) -> Analysed:
    """Return what is found; `known` is the image without padding."""
    if mask is None:
        anatomy = anatomy_of(known, missing)
    else:
        anatomy = foreground(sitk.Mask(known, mask, float(sitk.GetArrayViewFromImage(known).min())))
        if missing is not None:
            anatomy = sitk.And(anatomy, sitk.Equal(missing, 0))
    scaled, background = normalised(known, anatomy), background_value(image, anatomy)
    if padded is None:
        return Analysed(anatomy, scaled, mask, missing, background)
    return Analysed(anatomy, scaled, mask, missing, background, padded.values, padded.share)


def _every_other(image: sitk.Image) -> sitk.Image:
    """Return a choice of the voxels, of at most about `MOST_VOXELS`, as they are."""
    grid, step = Geometry.of(image), 1
    while np.prod([-(-n // step) for n in grid.size]) > MOST_VOXELS:
        step += 1
    voxels = np.ascontiguousarray(sitk.GetArrayViewFromImage(image)[::step, ::step, ::step])
    chosen = Geometry(voxels.shape[::-1], tuple(step * s for s in grid.spacing), grid.origin, grid.direction)  # type: ignore[arg-type]
    return chosen.holding(voxels)


def _without_padding(image: sitk.Image, padded: Padding, cancelled: CancelCheck) -> tuple[sitk.Image, sitk.Image]:
    """Return the coarser copy with air in place of padding, and where that is, uint8."""

    def is_padding(voxels: np.ndarray) -> np.ndarray:
        return np.isin(voxels, np.array(padded.values, dtype=voxels.dtype))

    def filled(voxels: np.ndarray) -> np.ndarray:
        return np.where(is_padding(voxels), voxels.dtype.type(padded.level), voxels)

    def share(voxels: np.ndarray) -> np.ndarray:
        return is_padding(voxels).astype(np.float32)

    copy = block_averages(image, MOST_VOXELS, values=filled, cancelled=cancelled)
    grid = Geometry.of(copy)
    held = sitk.GetArrayFromImage(block_averages(image, MOST_VOXELS, values=share, cancelled=cancelled)) > 0
    # What interpolation mixed of padding and air beside it.
    mixed = sitk.GetArrayFromImage(grid.resample(padded.missing, interpolator=sitk.sitkNearestNeighbor)) != 0
    voxels = np.where(mixed & ~held, np.float32(padded.level), sitk.GetArrayViewFromImage(copy))
    return grid.holding(voxels), grid.holding((held | mixed).astype(np.uint8))


def _half_full(share: sitk.Image) -> sitk.Image:
    """Return where blocks lie in a mask by half or more; of a mask without any such block, those that hold most of it."""
    voxels = sitk.GetArrayViewFromImage(share)
    return Geometry.of(share).holding((voxels >= min(0.5, voxels.max())).astype(np.uint8))
