"""A finished registration in memory: the report and the images that pictures, scenes and files are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import SimpleITK as sitk

from HyperPredictRegLib.results.prediction import Prediction
from HyperPredictRegLib.results.report import Report


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a registration adds to the inputs that it was made from.

    Attributes
    ----------
    report : the numbers.
    warped : the moving image on the fixed image's own grid, pixel type of the moving image.
    transform : composite of affine and displacement field; maps fixed to moving points, LPS mm.
    inverse : maps moving to fixed points, LPS mm.
    foreground : uint8, the fixed foreground on the working grid.
    jacobian : float, Jacobian determinant of `transform` on the working grid.
    warped_labels : the moving labels propagated to the fixed image's grid, or None.
    label_names : name of each label value that has one.
    prediction : what was predicted before λ was chosen, or None.
    """

    report: Report
    warped: sitk.Image
    transform: sitk.CompositeTransform
    inverse: sitk.Transform
    foreground: sitk.Image
    jacobian: sitk.Image
    warped_labels: sitk.Image | None = None
    label_names: Mapping[int, str] = field(default_factory=dict)
    prediction: Prediction | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome(Result):
    """All that a job produced and what it was made from, before anything is written.

    Attributes
    ----------
    fixed, moving : the inputs as read, on their own grids.
    fixed_on_grid, moving_aligned, moving_registered : float images, about 0 to 1, on the working grid: the fixed image, and
        the moving image after the affine step and after the deformable step.
    fixed_labels : label map on the fixed image's grid, numbered like the moving labels, or None.
    moving_labels : label map on the moving image's grid, or None.
    """

    fixed: sitk.Image
    moving: sitk.Image
    fixed_on_grid: sitk.Image
    moving_aligned: sitk.Image
    moving_registered: sitk.Image
    fixed_labels: sitk.Image | None = None
    moving_labels: sitk.Image | None = None
