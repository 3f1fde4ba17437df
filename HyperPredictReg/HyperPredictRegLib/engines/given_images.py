"""The images of a task as engines take them that know no better: checked, and with masks filled."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.spatial.geometry import Geometry


def check_images(
    fixed: sitk.Image, moving: sitk.Image, fixed_mask: sitk.Image | None, moving_mask: sitk.Image | None
) -> None:
    """Refuse images that cannot be registered.

    Raises
    ------
    InputError : grids differ, an image is constant or not finite, or a mask is empty.
    """
    grid = Geometry.of(fixed)
    for what, image in (("moving image", moving), ("fixed mask", fixed_mask), ("moving mask", moving_mask)):
        if image is not None and not grid.matches(Geometry.of(image)):
            raise InputError(f"The {what} is not on the grid of the fixed image: resample it there first.")
    for what, image in (("fixed", fixed), ("moving", moving)):
        values = sitk.GetArrayViewFromImage(image)
        if not np.isfinite(values).all():
            raise InputError(f"The {what} image has voxels that are not finite numbers: repair it first.")
        if values.min() == values.max():
            raise InputError(f"The {what} image has the same value everywhere: there is nothing to register.")
    for what, mask in (("fixed", fixed_mask), ("moving", moving_mask)):
        if mask is not None and not sitk.GetArrayViewFromImage(mask).any():
            raise InputError(f"The {what} mask is empty: leave it out, or mark the voxels to compare.")


def filled(image: sitk.Image, mask: sitk.Image | None) -> sitk.Image:
    """Replace what is outside of a mask by a blur of what is inside, so that smoothing and interpolation bring none of it in."""
    if mask is None:
        return image
    inside, sigma = sitk.Cast(mask != 0, sitk.sitkFloat64), 2 * image.GetSpacing()[0]
    retained = sitk.Cast(image, sitk.sitkFloat64) * inside
    weight = sitk.Maximum(sitk.SmoothingRecursiveGaussian(inside, sigma), 1e-3)
    return sitk.Cast(retained + sitk.SmoothingRecursiveGaussian(retained, sigma) / weight * (1 - inside), sitk.sitkFloat32)


def seen(mask: sitk.Image | None, view: sitk.Image | None) -> sitk.Image | None:
    """Return where an image may be compared: in its mask and in the view, uint8, or None for everywhere."""
    given = [one != 0 for one in (mask, view) if one is not None]
    return None if not given else given[0] if len(given) == 1 else given[0] & given[1]
