"""A finished registration in memory: the report and the images that pictures, scenes and files are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import SimpleITK as sitk

from HyperPredictRegLib.core.progress import CancelCheck, never
from HyperPredictRegLib.results.prediction import Prediction
from HyperPredictRegLib.results.report import Report
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.labels import describe_segments, embedded_label_names
from HyperPredictRegLib.spatial.slabs import resampled
from HyperPredictRegLib.spatial.transforms import parts_of


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
    background : intensity beyond the moving image.
    affine_warped, affine_warped_labels : what the affine step alone makes of the moving image and its labels, on the fixed
        image's own grid, where they were read from files; an `Outcome` makes them when asked, see `affine_warped`.
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
    background: float = 0.0
    affine_warped: sitk.Image | None = None
    affine_warped_labels: sitk.Image | None = None

    @property
    def affine(self) -> sitk.Transform:
        """The affine step alone; maps fixed to moving points, LPS mm."""
        first = parts_of(self.transform)[0]
        return first if first.IsLinear() else sitk.Transform(3, sitk.sitkIdentity)


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


def affine_warped(result: Result, cancelled: CancelCheck = never) -> sitk.Image | None:
    """Return the moving image on the fixed image's grid by the affine step alone, made now or read before; or None.

    An outcome holds it nowhere: it takes as much room as the result itself.
    """
    if result.affine_warped is not None or not isinstance(result, Outcome):
        return result.affine_warped
    native = Geometry.of(result.warped)
    return resampled(result.moving, native, result.affine, default_value=result.background, cancelled=cancelled)


def affine_warped_labels(result: Result, cancelled: CancelCheck = never) -> sitk.Image | None:
    """Return the moving labels propagated to the fixed image's grid by the affine step alone; None if there are none."""
    if result.affine_warped_labels is not None or not isinstance(result, Outcome) or result.moving_labels is None:
        return result.affine_warped_labels
    native, labels = Geometry.of(result.warped), result.moving_labels
    propagated = resampled(labels, native, result.affine, interpolator=sitk.sitkNearestNeighbor, cancelled=cancelled)
    if embedded_label_names(labels):
        describe_segments(propagated, labels, "the moving labels")
    return propagated
