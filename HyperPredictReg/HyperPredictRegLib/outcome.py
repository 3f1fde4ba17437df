"""A finished registration in memory: the report and the images that pictures, scenes and files are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import SimpleITK as sitk

from HyperPredictRegLib.curves import Curves
from HyperPredictRegLib.job import Report


@dataclass(frozen=True)
class Outcome:
    """All that a job produced, before anything is written.

    Attributes
    ----------
    report : the numbers.
    fixed, moving : the inputs as read, on their own grids.
    warped : the moving image on the fixed image's own grid, pixel type of `moving`.
    transform : composite of affine and displacement field; maps fixed to moving points, LPS mm.
    inverse : maps moving to fixed points, LPS mm.
    fixed_on_grid, moving_aligned, moving_registered : float images, about 0 to 1, on the working grid: the fixed image, and
        the moving image after the affine step and after the deformable step.
    foreground : uint8, the fixed foreground on the working grid.
    jacobian : float, Jacobian determinant of `transform` on the working grid.
    fixed_labels : label map on its own grid, or None.
    moving_labels : label map on the moving image's grid, or None.
    warped_labels : `moving_labels` propagated to the fixed image's grid, or None.
    label_names : name of each label value that has one.
    curves : what was foreseen before λ was chosen, or None.
    """

    report: Report
    fixed: sitk.Image
    moving: sitk.Image
    warped: sitk.Image
    transform: sitk.CompositeTransform
    inverse: sitk.Transform
    fixed_on_grid: sitk.Image
    moving_aligned: sitk.Image
    moving_registered: sitk.Image
    foreground: sitk.Image
    jacobian: sitk.Image
    fixed_labels: sitk.Image | None = None
    moving_labels: sitk.Image | None = None
    warped_labels: sitk.Image | None = None
    label_names: Mapping[int, str] = field(default_factory=dict)
    curves: Curves | None = None
