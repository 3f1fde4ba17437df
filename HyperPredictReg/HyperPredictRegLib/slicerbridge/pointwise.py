"""Many points through a transform and back, exactly, with a word on each that cannot be trusted: models have 100,000 of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import SimpleITK as sitk
import vtk
from vtk.util import numpy_support

from HyperPredictRegLib.slicerbridge.transforms import simple_parts, vtk_transform
from HyperPredictRegLib.slicerbridge.volumes import LPS_RAS
from HyperPredictRegLib.transforms import (
    JACOBIAN_STEP_VOXELS,
    InversePoints,
    inverse_points,
    transformed_points,
    voxel_size,
)

_FLIP = np.diag(LPS_RAS)[:3]
_TOLERANCE_VOXELS = 1e-6
_ITERATIONS = 500
_GOOD_VOXELS = 1e-4


def points_through(transform: sitk.Transform, points_lps: np.ndarray) -> np.ndarray:
    """Map points, shape (n, 3), LPS mm, as `transforms.transformed_points` does.

    Beyond a displacement field, SimpleITK leaves points where they are and this moves them as the field's border does; both
    are one for fields that fall to zero there.
    """
    return _through(vtk_transform(transform), points_lps)


def points_back_through(
    transform: sitk.Transform, places_lps: np.ndarray, inverse: sitk.Transform | None = None
) -> InversePoints:
    """Find the points that `transform` brings to given places, LPS mm, shape (n, 3).

    The same as `transforms.inverse_points`, to 0.0001 voxels, and more than twenty times as fast.

    Parameters
    ----------
    transform : linear, B-spline, displacement field, or a composite of these.
    places_lps : shape (n, 3), LPS mm.
    inverse : an approximate inverse, from where to search again for the few points that are not found at first.
    """
    voxel_mm = voxel_size(transform) or 1.0
    forward = vtk_transform(transform)
    backward = forward.GetInverse()
    backward.Update()
    for part in simple_parts(backward):
        if part.IsA("vtkWarpTransform"):
            part.SetInverseTolerance(_TOLERANCE_VOXELS * voxel_mm)
            part.SetInverseIterations(_ITERATIONS)
    with _silence():
        points = _through(backward, places_lps)
    residual = np.linalg.norm(_through(forward, points) - places_lps, axis=1)
    astray = np.flatnonzero(~(residual <= _GOOD_VOXELS * voxel_mm))
    if inverse is not None and len(astray):
        again = inverse_points(transform, places_lps[astray], transformed_points(inverse, places_lps[astray]))
        closer = again.residual_mm < residual[astray]
        points[astray[closer]], residual[astray[closer]] = again.points[closer], again.residual_mm[closer]
    return InversePoints(points, residual, determinants(transform, points))


def determinants(transform: sitk.Transform, points_lps: np.ndarray) -> np.ndarray:
    """Return the Jacobian determinant of a transform at points, shape (n,); 0 or less is a fold."""
    forward = vtk_transform(transform)
    step = JACOBIAN_STEP_VOXELS * (voxel_size(transform) or 1.0)
    columns = [
        (_through(forward, points_lps + shift) - _through(forward, points_lps - shift)) / (2 * step)
        for shift in step * np.eye(3)
    ]
    return np.linalg.det(np.stack(columns, axis=-1))


def _through(transform: Any, points_lps: np.ndarray) -> np.ndarray:
    given, found = vtk.vtkPoints(), vtk.vtkPoints()
    for points in (given, found):
        points.SetDataTypeToDouble()
    ras = np.ascontiguousarray(np.asarray(points_lps, dtype=float).reshape(-1, 3) * _FLIP)
    given.SetData(numpy_support.numpy_to_vtk(ras, deep=True))
    transform.Update()
    transform.TransformPoints(given, found)
    if found.GetNumberOfPoints() == 0:
        return np.zeros((0, 3))
    return np.array(numpy_support.vtk_to_numpy(found.GetData()), dtype=float) * _FLIP


@contextmanager
def _silence() -> Iterator[None]:
    """Keep VTK from warning of each point that its inverse does not converge at: the residuals say so with a number."""
    shown = vtk.vtkObject.GetGlobalWarningDisplay()
    vtk.vtkObject.SetGlobalWarningDisplay(0)
    try:
        yield
    finally:
        vtk.vtkObject.SetGlobalWarningDisplay(shown)
