"""The cubic B-spline of a program as the transform that it is: no displacement is sampled, so none is interpolated."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.core.errors import RegistrationError
from HyperPredictRegLib.spatial.geometry import Geometry

_RIM = 3


def bspline_transform(points: Geometry, displacements: np.ndarray, within: Geometry, title: str) -> sitk.BSplineTransform:
    """Return the transform x + sum of B-splines times displacements, as ITK has it: fixed to moving points, LPS mm.

    Parameters
    ----------
    points : the control points, those before and after the domain included.
    displacements : coefficients, shape (k, j, i, 3), LPS mm.
    within : the working grid, for what is too large a displacement.
    title : of the program, for sentences.

    Raises
    ------
    RegistrationError : a coefficient is no finite number, or is larger than the whole image.
    """
    if not np.isfinite(displacements).all():
        raise RegistrationError(
            f"{title} gave a transform with values that are NaN or infinite: choose a higher regularization weight, or check "
            "that the images show the same anatomy."
        )
    # A B-spline is a weighted mean of its coefficients: they bound the displacements.
    if np.abs(displacements).max(initial=0.0) > max(within.extent_mm):
        raise RegistrationError(
            f"{title} moved the image by more than its own size: choose a higher regularization weight, or check that the images "
            "show the same anatomy and are roughly aligned."
        )
    # ITK takes a point that rounding puts just outside of the domain for one that stays where it is: a rim of zeros puts the
    # image well inside, and lets the displacements beyond it fall off instead of breaking off.
    wide = np.pad(displacements, [(_RIM, _RIM)] * 3 + [(0, 0)])
    grid = points.padded([_RIM] * 3, [_RIM] * 3)
    return sitk.BSplineTransform([grid.holding(np.ascontiguousarray(wide[..., axis], float)) for axis in range(3)], 3)
