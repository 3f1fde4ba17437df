"""Transforms between physical spaces: files, displacement fields, composition, inversion and points.

All transforms map fixed to moving points in LPS millimetres, which is ITK's resampling direction.
"""

from __future__ import annotations

import math
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.formatting import distance
from HyperPredictRegLib.core.resources import available_bytes
from HyperPredictRegLib.spatial.geometry import Geometry, homogeneous
from HyperPredictRegLib.spatial.reading.files import check_input, named_in_errors
from HyperPredictRegLib.spatial.reading.transform_files import check_transform_file, field_meaning
from HyperPredictRegLib.spatial.reading.volumes import UNREADABLE, read_volume

JACOBIAN_STEP_VOXELS = 0.01
"""Slopes at single points are differences over twice this."""

MISSED_VOXELS = 0.01
"""A point that is brought farther from its place than this has not been found."""

_FOUND_VOXELS = 1e-6
_NEWTON_STEPS = 30
_LEAST_PART = 0.01
_MOST_OWN_VOXELS = 120
_FADING_BYTES = 72


def read_transform(path: Path | str, role: str, notes: list[str] | None = None, *, own: bool = False) -> sitk.Transform:
    """Read a 3-D transform (.h5, .tfm, .txt, .mat, .xfm) or a displacement field image (.nrrd, .mha, .nii.gz).

    The deformation and displacement fields of NiftyReg, and SPM's deformations, are known by their headers and converted.

    Parameters
    ----------
    path : the file.
    role : how to call it in an error, for example "transform".
    notes : sentences for the report on what was taken for granted are added to it.
    own : whether this program wrote it, so that no time is spent on finding out whether a library would crash on it.

    Raises
    ------
    InputError : the file is missing, damaged or not a 3-D transform.
    """
    check_input(path, role)
    path, what = Path(path), f"The {role} '{path}'"
    with named_in_errors(path, role):
        if not own:
            check_transform_file(path, what)
        try:
            transform, taken = _read_any(path, role)
            _check_parts(transform, what)
        except (KeyError, TypeError) as error:
            # SimpleITK raises these for kinds of transforms that only ITK knows.
            raise InputError(
                f"{what} is or holds a transform of a kind that SimpleITK does not know: export it as an affine transform or a "
                "displacement field."
            ) from error
    if transform.GetDimension() != 3:
        raise InputError(f"{what} is a {transform.GetDimension()}-D transform: a 3-D one is needed.")
    if not all(np.isfinite(_numbers(p)).all() and np.isfinite(p.GetFixedParameters()).all() for p in parts_of(transform)):
        raise InputError(f"{what} has parameters that are NaN or infinite, so it leads nowhere.")
    if notes is not None:
        notes += taken
    return transform


def write_transform(transform: sitk.Transform, path: Path) -> None:
    """Write a transform and make sure that all of it arrived on the disk.

    Raises
    ------
    OSError : the disk is full or the folder cannot be written.
    """
    try:
        sitk.WriteTransform(transform, str(path))
        complete = _same_numbers(sitk.ReadTransform(str(path)), transform)
    except RuntimeError as error:
        raise OSError(f"'{path.name}' could not be written to '{path.parent}': {str(error).strip().splitlines()[-1]}") from error
    if not complete:
        raise OSError(f"'{path.name}' could not be written completely to '{path.parent}': is the disk full?")


def displacement_field(transform: sitk.Transform, grid: Geometry) -> sitk.Image:
    """Sample `transform` at the voxels of `grid`: a vector float64 image of displacements in LPS mm."""
    return sitk.TransformToDisplacementField(
        transform, sitk.sitkVectorFloat64, grid.size, grid.origin, grid.spacing, grid.direction
    )


def field_transform(field: sitk.Image) -> sitk.DisplacementFieldTransform:
    """Return the transform of a displacement field (LPS mm), linearly interpolated; `field` is left as it is."""
    # A copy, because the constructor takes the voxels away from the image it is given.
    return sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))


def faded(field: sitk.Image) -> sitk.Image:
    """Widen a displacement field so that it falls to exactly zero at its border.

    ITK takes displacements outside a field as zero while Slicer repeats the border's, so a field that does not end in zero
    jumps at its border in the one and goes on for ever in the other. The border's displacement is continued over a rim and
    lowered along half a cosine wave. The rim is three times as wide as the largest displacement on the border, which keeps it
    free of folding (the steepest descent of the wave is pi/2 over its width, and the three axes' descents add up as vectors).

    Parameters
    ----------
    field : vector image, LPS mm.

    Returns
    -------
    field : vector float64 image on a grid with whole voxels added on all sides; unchanged inside.

    Raises
    ------
    InputError : the border is moved so far that there is no memory for the rim.
    """
    voxels = np.asarray(sitk.GetArrayViewFromImage(field), dtype=float)
    grid = Geometry.of(field)
    border = np.concatenate([np.moveaxis(voxels, axis, 0)[[0, -1]].reshape(-1, 3) for axis in range(3)])
    reach_mm = float(np.linalg.norm(border, axis=1).max())
    rim = [max(2, math.ceil(3 * reach_mm / s)) for s in grid.spacing] if math.isfinite(reach_mm) else [sys.maxsize] * 3
    needed, available = math.prod(n + 2 * r for n, r in zip(grid.size, rim, strict=True)) * _FADING_BYTES, available_bytes()
    if available is not None and needed > available:
        raise InputError(
            f"The transform moves the border of its grid by {distance(reach_mm)}, too far for its inverse to be found: is "
            "it the right one, and in mm?"
        )
    wide = np.pad(voxels, [(n, n) for n in reversed(rim)] + [(0, 0)], mode="edge")
    # One factor per axis: products of falling cosines reach zero on every face.
    for axis, n in enumerate(reversed(rim)):
        fall = 0.5 * (1 + np.cos(np.pi * np.arange(1, n + 1) / n))
        weight = np.concatenate([fall[::-1], np.ones(voxels.shape[axis]), fall])
        wide *= weight.reshape([-1 if a == axis else 1 for a in range(4)])
    return grid.padded(rim, rim).holding(wide, vectors=True)


def composed(alignment: sitk.Transform, deformation: sitk.Transform) -> sitk.CompositeTransform:
    """Return the transform that applies `deformation` first and `alignment` to what it gives (fixed to moving points)."""
    return sitk.CompositeTransform([alignment, deformation])


def inverted_field(field: sitk.Image) -> sitk.Image:
    """Invert a displacement field by ITK's fixed-point iteration.

    It converges where the displacements change by less than their distance; where the field folds there is no inverse, and
    the result is only the nearest that the iteration comes to. Source: Avants et al., NeuroImage 54 (2011) 2033,
    doi:10.1016/j.neuroimage.2010.09.025 (ITK's ``InvertDisplacementFieldImageFilter``).

    Parameters
    ----------
    field : vector image, LPS mm, zero at its border (see `faded`).

    Returns
    -------
    field : vector float64 image on the same grid.
    """
    inverter = sitk.InvertDisplacementFieldImageFilter()
    # Fifteen halve the time of thirty and leave 0.0005 mm on average in a field of 1 mm voxels (99 % below 0.01 mm).
    inverter.SetMaximumNumberOfIterations(15)
    # ITK's defaults (0.1, 0.001 voxels, 10 iterations) leave errors of up to a millimetre behind.
    inverter.SetMaxErrorToleranceThreshold(1e-5)
    inverter.SetMeanErrorToleranceThreshold(1e-6)
    inverter.SetEnforceBoundaryCondition(True)
    return inverter.Execute(sitk.Cast(field, sitk.sitkVectorFloat64))


def inverted(transform: sitk.Transform, grid: Geometry | None = None) -> sitk.Transform:
    """Return the inverse of a transform: exact for linear parts, numerical (on each field's own grid) for the rest.

    Parameters
    ----------
    transform : any 3-D transform.
    grid : where to sample a nonlinear part that is not a displacement field; None is where a B-spline has its control points.

    Raises
    ------
    InputError : a linear part has no inverse.
    """
    if transform.IsLinear():
        try:
            return transform.GetInverse()
        except RuntimeError as error:
            raise InputError("The transform flattens space onto a plane, so it has no inverse.") from error
    if transform.GetTransformEnum() == sitk.sitkComposite:
        # A composite applies its last part first; its inverse undoes its first part first.
        return sitk.CompositeTransform([inverted(part, grid) for part in reversed(parts_of(transform))])
    if transform.GetTransformEnum() == sitk.sitkDisplacementField:
        field = sitk.DisplacementFieldTransform(transform).GetDisplacementField()
        return field_transform(inverted_field(field))
    return field_transform(inverted_field(faded(displacement_field(transform, grid or _own_grid(transform)))))


def voxel_size(transform: sitk.Transform) -> float | None:
    """Return the smallest distance, in mm, between voxels or control points of a transform; None if it has none.

    That is the scale of what the transform does: what counts as far or near is said in parts of it.
    """
    spacings: list[float] = []
    for part in parts_of(transform):
        if part.GetTransformEnum() == sitk.sitkDisplacementField:
            spacings += sitk.DisplacementFieldTransform(part).GetDisplacementField().GetSpacing()
        elif part.GetTransformEnum() == sitk.sitkBSplineTransform:
            spacings += sitk.BSplineTransform(part).GetCoefficientImages()[0].GetSpacing()
    return min(spacings, default=None)


def _own_grid(transform: sitk.Transform) -> Geometry:
    """Return a grid over the control points of a B-spline, eight times as fine where that is not too much."""
    if transform.GetTransformEnum() != sitk.sitkBSplineTransform:
        raise InputError(f"The inverse of a transform of the kind {transform.GetName()} is not known: give a displacement field.")
    points = Geometry.of(sitk.BSplineTransform(transform).GetCoefficientImages()[0])
    spacing = max(min(points.spacing) / 8, max(points.extent_mm) / _MOST_OWN_VOXELS)
    return points.covering(points.corners_lps(), spacing, 0.0)


def transformed_points(transform: sitk.Transform, points_lps: np.ndarray) -> np.ndarray:
    """Map points, shape (n, 3), LPS mm, through `transform`; return an array of the same shape."""
    return np.array([transform.TransformPoint(tuple(map(float, p))) for p in points_lps]).reshape(-1, 3)


@dataclass(frozen=True)
class InversePoints:
    """Points that a transform brings to given places.

    Attributes
    ----------
    points : shape (n, 3), LPS mm.
    residual_mm : shape (n,), how far from its place each point is brought, measured; NaN where it is brought nowhere.
    determinant : shape (n,), the transform's Jacobian determinant at each point; where it is <= 0 space is folded, other
        points come to the same place, and the answer is not the only one.
    """

    points: np.ndarray
    residual_mm: np.ndarray
    determinant: np.ndarray

    def missed(self, voxel_mm: float) -> np.ndarray:
        """Tell which points, shape (n,), do not come to their place: 0.01 voxels off is far more than any that is found."""
        return ~(self.residual_mm <= MISSED_VOXELS * voxel_mm)


@np.errstate(over="ignore", invalid="ignore")
def inverse_points(transform: sitk.Transform, places_lps: np.ndarray, guess_lps: np.ndarray) -> InversePoints:
    """Find the points that `transform` brings to given places, by Newton's method from a guess.

    An inverse displacement field is only as exact as the straight lines between its voxels; this is exact to a millionth of a
    voxel wherever it arrives.

    Parameters
    ----------
    transform : any transform.
    places_lps : shape (n, 3), LPS mm.
    guess_lps : shape (n, 3), LPS mm, for example the places through an inverse field.
    """
    points = np.array(guess_lps, dtype=float).reshape(-1, 3)
    places = np.asarray(places_lps, dtype=float).reshape(-1, 3)
    scale = voxel_size(transform) or 1.0
    residual = places - transformed_points(transform, points)
    part = np.ones(len(points))
    for _ in range(_NEWTON_STEPS):
        length = np.linalg.norm(residual, axis=1)
        # From a residual that is not finite no step can be made.
        left = np.flatnonzero((length > _FOUND_VOXELS * scale) & (part > _LEAST_PART) & np.isfinite(length))
        if not len(left):
            break
        # The pseudo-inverse exists also where the transform is flat and has no inverse.
        slopes = np.nan_to_num(jacobian_matrices(transform, points[left], scale))
        step = np.einsum("nij,nj->ni", np.linalg.pinv(slopes), residual[left])
        tried = points[left] + part[left, None] * step
        off = places[left] - transformed_points(transform, tried)
        better = np.linalg.norm(off, axis=1) < length[left]
        points[left[better]], residual[left[better]] = tried[better], off[better]
        # At the borders of voxels slopes jump, so a step may lead too far: it is tried again with half the length.
        part[left] = np.where(better, 1.0, part[left] / 2)
    return InversePoints(points, np.linalg.norm(residual, axis=1), point_determinants(transform, points))


@np.errstate(over="ignore", invalid="ignore")
def point_determinants(transform: sitk.Transform, points_lps: np.ndarray) -> np.ndarray:
    """Return the Jacobian determinant of a transform at points, shape (n,); NaN where it leads out of all numbers."""
    slopes = jacobian_matrices(transform, points_lps, voxel_size(transform) or 1.0)
    known = np.isfinite(slopes).all(axis=(1, 2))
    return np.where(known, np.linalg.det(np.where(known[:, None, None], slopes, 0.0)), np.nan)


def jacobian_matrices(transform: sitk.Transform, points_lps: np.ndarray, voxel_mm: float) -> np.ndarray:
    """Return the slopes of a transform at points as matrices, shape (n, 3, 3), by differences over 0.02 voxels."""
    step = JACOBIAN_STEP_VOXELS * voxel_mm
    columns = [
        (transformed_points(transform, points_lps + shift) - transformed_points(transform, points_lps - shift)) / (2 * step)
        for shift in step * np.eye(3)
    ]
    return np.stack(columns, axis=-1)


def linear_matrix(transform: sitk.Transform) -> np.ndarray:
    """Return a linear transform as a homogeneous matrix, shape (4, 4), LPS mm to LPS mm."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    return homogeneous((transformed_points(transform, np.eye(3)) - origin).T, origin)


def field_of(transform: sitk.Transform) -> sitk.Image | None:
    """Return the displacement field that `transform` is or, as a composite, ends with; None if there is none."""
    last = parts_of(transform)[-1]
    is_field = last.GetTransformEnum() == sitk.sitkDisplacementField
    return sitk.DisplacementFieldTransform(last).GetDisplacementField() if is_field else None


def parts_of(transform: sitk.Transform) -> list[sitk.Transform]:
    """List what a composite is made of, the parts of its parts too, the first applied last; else the transform itself."""
    if transform.GetTransformEnum() != sitk.sitkComposite:
        return [transform]
    composite = sitk.CompositeTransform(transform)
    parts = [part for n in range(composite.GetNumberOfTransforms()) for part in parts_of(composite.GetNthTransform(n))]
    return parts or [transform]


def _read_any(path: Path, role: str) -> tuple[sitk.Transform, tuple[str, ...]]:
    """Return a transform, of whatever kind of file, and notes on what was taken for granted."""
    what = f"The {role} '{path}'"
    with suppress(*UNREADABLE):
        return sitk.ReadTransform(str(path)), ()
    try:
        volume = read_volume(path, role)
    except InputError as error:
        # A fault in an image's header is worth telling; that the file is no image at all is not: a transform was expected.
        if not isinstance(error.__cause__, UNREADABLE):
            raise
        raise InputError(
            f"{what} could not be read as a transform or a displacement field: give a file that 3D Slicer or ITK "
            "wrote, such as .h5, .tfm or a vector .nrrd."
        ) from error
    field = volume.image
    meaning = None if volume.nifti is None else field_meaning(volume.nifti, what)
    if field.GetDimension() != 3 or field.GetNumberOfComponentsPerPixel() != 3:
        raise InputError(f"{what} is an image, but no displacement field: that has three values per voxel in 3-D.")
    if volume.scale != 1.0 or (volume.nifti is not None and volume.nifti.millimeters_per_unit != 1.0):
        raise InputError(f"{what} is a displacement field in another unit than millimeters: save it in millimeters.")
    voxels = sitk.GetArrayFromImage(field).astype(np.float64)
    if not np.isfinite(voxels).all():
        raise InputError(f"{what} is a displacement field with NaN or infinite values.")
    if meaning is None:
        return field_transform(field), volume.notes
    vectors = voxels * (-1, -1, 1)  # RAS to LPS
    if meaning.positions:
        k, j, i = np.indices(voxels.shape[:3])
        vectors -= Geometry.of(field).to_lps(np.stack([i, j, k], axis=-1))
    return field_transform(Geometry.of(field).holding(vectors, vectors=True)), (*volume.notes, meaning.note)


def _check_parts(transform: sitk.Transform, what: str) -> None:
    """Refuse what ITK reads but cannot mean anything: a list of transforms without any, a B-spline without a cell."""
    for part in parts_of(transform):
        if part.GetTransformEnum() == sitk.sitkComposite:
            raise InputError(f"{what} is a composite of no transforms: export it again from the program that made it.")
        if part.GetTransformEnum() != sitk.sitkBSplineTransform:
            continue
        sizes = part.GetFixedParameters()[: part.GetDimension()]
        order = sitk.BSplineTransform(part).GetOrder()
        if min(sizes) <= order:
            stated = " x ".join(f"{size:g}" for size in sizes)
            raise InputError(
                f"{what} is a B-spline of {stated} points, but one of order {order} needs {order + 1} along each axis: export it "
                "again from the program that made it."
            )


def _numbers(transform: sitk.Transform) -> np.ndarray:
    """Return the parameters of one transform; those of a field as its voxels, not as a tuple of millions of Python numbers."""
    if transform.GetTransformEnum() == sitk.sitkDisplacementField:
        return sitk.GetArrayFromImage(sitk.DisplacementFieldTransform(transform).GetDisplacementField())
    return np.array(transform.GetParameters())


def _same_numbers(one: sitk.Transform, other: sitk.Transform) -> bool:
    ones, others = parts_of(one), parts_of(other)
    return len(ones) == len(others) and all(_nearly(_numbers(a), _numbers(b)) for a, b in zip(ones, others, strict=True))


def _nearly(one: np.ndarray, other: np.ndarray) -> bool:
    # Text files round; others give back what was written, and then a tenth of the time and memory is enough to see it.
    return np.array_equal(one, other) or bool(np.allclose(one, other))
