"""The working grid: where and how finely an image pair is registered."""

from __future__ import annotations

import math

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.preprocessing.intensity import points_of
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import inverted, transformed_points

PRESETS = {"fast": 2.0, "standard": 1.5, "fine": 0.0}
"""Voxel edge in mm for a human brain, by name of preset; 0 stands for the fixed image's own finest spacing."""

_BRAIN_MM = 150.0
"""Cube root of the volume of the grid around an adult brain; smaller anatomy gets a finer grid in proportion."""

MARGIN_VOXELS = 4
"""Room around the anatomy, so that its surface can move and is smoothed like its inside."""


def working_spacing(fixed: sitk.Image, foreground: sitk.Image, preset: str) -> float:
    """Return the voxel edge of the working grid in mm.

    A preset means the same number of voxels across any anatomy: its spacing, made for a human brain, is halved as often as
    the anatomy is half as large, and is never finer than the fixed image, nor coarser than for a brain.

    Parameters
    ----------
    fixed, foreground : the fixed image and its anatomy on one grid.
    preset : a key of `PRESETS`.

    Raises
    ------
    InputError : there is no such preset.
    """
    along_axes = points_of(foreground) @ Geometry.of(fixed).direction_matrix
    extent = float(np.prod(np.ptp(along_axes, axis=0) + np.array(fixed.GetSpacing()))) ** (1 / 3)
    return spacing_for(extent, min(fixed.GetSpacing()), preset)


def spacing_for(extent_mm: float, native_mm: float, preset: str) -> float:
    """Return the voxel edge in mm for anatomy of an extent (cube root of its volume) in an image of a finest spacing, both in mm.

    Raises
    ------
    InputError : there is no such preset.
    """
    if preset not in PRESETS:
        raise InputError(f"There is no preset '{preset}': choose one of {', '.join(PRESETS)}.")
    return max(native_mm, PRESETS[preset] / 2 ** max(0, round(math.log2(_BRAIN_MM / extent_mm))))


def working_grid(
    foreground: sitk.Image, moving_foreground: sitk.Image, alignment: sitk.Transform, spacing: float
) -> Geometry:
    """Return an isotropic grid around the anatomy of both images, along the fixed image's axes.

    `foreground` is the fixed image's; `alignment` is linear and maps fixed to moving points, LPS mm; `spacing` is in mm.
    """
    moving_points = transformed_points(inverted(alignment, Geometry.of(foreground)), points_of(moving_foreground))
    points = np.concatenate([points_of(foreground), moving_points])
    return Geometry.of(foreground).covering(points, spacing, MARGIN_VOXELS * spacing)


def on_grid(image: sitk.Image, grid: Geometry, alignment: sitk.Transform | None = None) -> sitk.Image:
    """Sample an image on the working grid as float32, smoothed so that finer detail does not alias.

    The Gaussian is applied on the image's own grid, along those of its axes that are sampled more finely than the working
    grid; its standard deviation is half a working voxel (beyond what the image's own sampling has smoothed already).

    Parameters
    ----------
    image : scalar image, background 0.
    grid : the working grid.
    alignment : maps points of the grid to points of the image; identity if left out.
    """
    return grid.resample(smoothed_for(image, grid), alignment)


def smoothed_for(image: sitk.Image, grid: Geometry) -> sitk.Image:
    """Return an image on its own grid as float32, smoothed as `on_grid` does, to be sampled on `grid` more than once."""
    if image.GetPixelID() != sitk.sitkFloat32:
        image = sitk.Cast(image, sitk.sitkFloat32)
    for axis, sigma in enumerate(smoothing_mm(image, grid)):
        if sigma:
            image = sitk.RecursiveGaussian(image, sigma=sigma, direction=axis)
    return image


def smoothing_mm(image: sitk.Image, grid: Geometry) -> list[float]:
    """Return the standard deviations in mm by which `on_grid` smooths an image along its axes."""
    return [0.5 * grid.spacing[0] if s < 0.9 * grid.spacing[0] else 0.0 for s in image.GetSpacing()]


def common_view(
    fixed: sitk.Image,
    moving: sitk.Image,
    alignment: sitk.Transform,
    grid: Geometry,
    missing: tuple[sitk.Image | None, sitk.Image | None] = (None, None),
) -> sitk.Image:
    """Return where on the grid both images have voxels at all, as a uint8 image.

    Anatomy that one scan has cut off must not be compared with the nothing beyond its edge. `missing` tells where the fixed and
    the moving image hold padding (non-zero, on the image's grid or, of a large image, on that of a coarser copy); `alignment`
    maps fixed to moving points, LPS mm.
    """
    return sitk.And(field_of_view(fixed, missing[0], grid), field_of_view(moving, missing[1], grid, alignment))


def field_of_view(
    image: sitk.Image, missing: sitk.Image | None, grid: Geometry, transform: sitk.Transform | None = None
) -> sitk.Image:
    """Return where on the grid an image has voxels that are not padding, as a uint8 image; see `common_view`."""
    if missing is None:
        ones = sitk.Image(image.GetSize(), sitk.sitkUInt8) + 1
        ones.CopyInformation(image)
    else:
        ones = sitk.Equal(missing, 0)
    return grid.resample(ones, transform, interpolator=sitk.sitkNearestNeighbor)
