"""The quality of a registration, whoever made it: everything in `quality` on one pair of inputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.formatting import distance
from HyperPredictRegLib.core.progress import CancelCheck, interruptible, never
from HyperPredictRegLib.preprocessing.image_set import ChannelSides, Inputs, check_memory
from HyperPredictRegLib.preprocessing.intensity import points_of
from HyperPredictRegLib.preprocessing.working_grid import common_view, on_grid, smoothed_for, working_grid, working_spacing
from HyperPredictRegLib.quality.metrics import (
    dice_measure,
    displacement_lengths,
    folding_percent,
    inverse_consistency,
    jacobian_determinant,
    landmark_error,
    mutual_information,
    sd_log_jacobian,
)
from HyperPredictRegLib.results.report import ChannelMeasure, Measured
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.labels import describe_segments, embedded_label_names
from HyperPredictRegLib.spatial.slabs import resampled
from HyperPredictRegLib.spatial.transforms import displacement_field, field_of, inverted, transformed_points

_FARTHEST = 1e6
"""Transforms that lead more sizes of the image away than this are mistakes."""


@dataclass(frozen=True)
class Measurement:
    """The measures and the images they were taken from.

    Attributes
    ----------
    measured : the numbers.
    fixed_on_grid, moving_before, moving_after : normalized images on the measuring grid.
    foreground : uint8, the fixed foreground on that grid.
    jacobian : Jacobian determinant of the transform there.
    inverse : maps moving to fixed points, LPS mm.
    warped_labels : the moving labels on the fixed image's own grid, or None.
    """

    measured: Measured
    fixed_on_grid: sitk.Image
    moving_before: sitk.Image
    moving_after: sitk.Image
    foreground: sitk.Image
    jacobian: sitk.Image
    inverse: sitk.Transform
    warped_labels: sitk.Image | None


def measure(
    inputs: Inputs, transform: sitk.Transform, start: sitk.Transform, grid: Geometry, cancelled: CancelCheck = never
) -> Measurement:
    """Measure a transform on the images, labels and landmarks of `inputs`.

    Parameters
    ----------
    inputs : the pair and what belongs to it.
    transform : fixed to moving points, LPS mm.
    start : what "before" means: the affine step, or the identity.
    grid : where the Jacobian, folding and similarity are measured; Dice is measured on the fixed image's own grid.
    cancelled : asked often.

    Raises
    ------
    InputError : the grid misses the anatomy.
    Cancelled : the caller asked to stop.
    """
    fixed, moving = inputs.fixed, inputs.moving
    foreground = nearest(fixed.foreground, grid)
    if not sitk.GetArrayViewFromImage(foreground).any():
        raise InputError(
            f"Of the grid to measure on, with {distance(min(grid.spacing))} between voxels, none lies in the anatomy of the "
            "fixed image: is the transform of another pair?"
        )
    field = interruptible(lambda: displacement_field(transform, grid), cancelled)
    jacobian = interruptible(lambda: jacobian_determinant(field), cancelled)
    inverse = interruptible(lambda: inverted(transform, grid), cancelled)
    fixed_on_grid = interruptible(lambda: on_grid(fixed.normalised, grid), cancelled)
    smoothed = interruptible(lambda: smoothed_for(moving.normalised, grid), cancelled)
    before = interruptible(lambda: grid.resample(smoothed, start), cancelled)
    after = interruptible(lambda: grid.resample(smoothed, transform), cancelled)
    determinants = sitk.GetArrayViewFromImage(jacobian)
    native = Geometry.of(fixed.image)
    warped_labels = None if moving.labels is None else propagated(moving.labels, native, transform, cancelled)
    if moving.labels is not None and warped_labels is not None and embedded_label_names(moving.labels):
        describe_segments(warped_labels, moving.labels, "the moving labels")
    dice = None
    if fixed.labels is not None and moving.labels is not None and warped_labels is not None:
        before_labels = propagated(moving.labels, native, start, cancelled)
        found = dice_measure(fixed.labels, before_labels, warped_labels, inputs.label_names, moving.labels)
        dice = found if found.structures else None
    tre = tre_before = None
    if fixed.landmarks is not None and moving.landmarks is not None:
        tre = landmark_error(transform, fixed.landmarks, moving.landmarks)
        tre_before = landmark_error(start, fixed.landmarks, moving.landmarks)
    measured = Measured(
        folding_percent=folding_percent(jacobian, foreground),
        sd_log_jacobian=sd_log_jacobian(jacobian, foreground),
        jacobian_minimum=float(determinants.min()),
        jacobian_maximum=float(determinants.max()),
        inverse_consistency_mm=inverse_consistency(transform, inverse, foreground),
        displacement_mm=displacement_lengths(_difference(field, displacement_field(start, grid)), foreground),
        similarity_before=mutual_information(fixed_on_grid, before, foreground),
        similarity_after=mutual_information(fixed_on_grid, after, foreground),
        dice=dice,
        tre_mm=tre,
        tre_before_mm=tre_before,
        channels=tuple(
            interruptible(partial(_channel_measure, channel, transform, start, foreground), cancelled)
            for channel in inputs.channels
        ),
    )
    # Measured in double precision; shown and stored in single, which has the same signs.
    stored = sitk.Cast(jacobian, sitk.sitkFloat32)
    return Measurement(measured, fixed_on_grid, before, after, foreground, stored, inverse, warped_labels)


def linear_start(transform: sitk.Transform) -> sitk.Transform:
    """Return the linear transform that a composite applies last, such as its affine step; else the identity.

    A transform that is linear as a whole is no start of its own: before it there was nothing.
    """
    if not transform.IsLinear() and transform.GetTransformEnum() == sitk.sitkComposite:
        parts = sitk.CompositeTransform(transform)
        if parts.GetNumberOfTransforms() and parts.GetNthTransform(0).IsLinear():
            return parts.GetNthTransform(0)
    return sitk.Transform(3, sitk.sitkIdentity)


def measuring_grid(inputs: Inputs, transform: sitk.Transform, preset: str) -> Geometry:
    """Return where to measure a transform of unknown origin: on the voxels of its displacement field around the anatomy.

    On those voxels the Jacobian is the one that the field was made with. A transform without a field is measured on the
    working grid that `preset` would give.

    Raises
    ------
    InputError : there is no such preset, or the transform's field or linear part is of no use, or leads too far away.
    """
    fixed, moving = inputs.fixed, inputs.moving
    start = linear_start(transform)
    field = field_of(transform)
    _check_reach(inputs, transform, start, field)
    if field is None:
        spacing = working_spacing(fixed.image, fixed.foreground, preset)
        grid = working_grid(fixed.foreground, moving.foreground, transform if transform.IsLinear() else start, spacing)
        # A transform that leads far away asks for a grid that reaches there.
        check_memory(inputs.voxels, grid.voxel_count, f"Measuring this transform (a grid of {grid.size} voxels)")
        return grid
    lattice = Geometry.of(field)
    if min(lattice.size) < 3:
        raise InputError(f"The displacement field has {lattice.size} voxels: it needs at least 3 along every axis.")
    back = inverted(start, lattice)
    points = [points_of(fixed.foreground), transformed_points(back, points_of(moving.foreground))]
    places = lattice.to_index(np.concatenate(points))
    first = np.clip(np.floor(places.min(axis=0)).astype(int) - 4, 0, None)
    last = np.clip(np.ceil(places.max(axis=0)).astype(int) + 4, None, np.array(lattice.size) - 1)
    if (last - first < 3).any():
        raise InputError("The displacement field lies beside the anatomy of the fixed image: is it of another pair?")
    return lattice.padded(-first, last - (np.array(lattice.size) - 1))


def _check_reach(inputs: Inputs, transform: sitk.Transform, start: sitk.Transform, field: sitk.Image | None) -> None:
    """Raise `InputError` if a transform leads farther than any that could be meant, or out of all numbers."""
    size = max(Geometry.of(inputs.fixed.image).extent_mm)
    fixed, moving = points_of(inputs.fixed.foreground), points_of(inputs.moving.foreground)
    with np.errstate(over="ignore", invalid="ignore"):
        back = inverted(transform if transform.IsLinear() else start)
        apart = [transformed_points(transform, fixed) - fixed, transformed_points(back, moving) - moving]
        reach = np.max([np.abs(part).max() for part in apart])
        if field is not None:
            reach = np.maximum(reach, np.abs(sitk.GetArrayViewFromImage(field)).max())
    # Not ">": what is not a number is no distance either.
    if not reach <= _FARTHEST * size:
        far = f"{distance(float(reach))} away" if np.isfinite(reach) else "out of all numbers"
        raise InputError(f"The transform leads {far}, so there is nothing to measure: is it of this pair, and in mm?")


def _channel_measure(
    channel: ChannelSides, transform: sitk.Transform, start: sitk.Transform, foreground: sitk.Image
) -> ChannelMeasure:
    """Measure how similar the images of a channel are inside the foreground, where both have voxels before and after."""
    grid = Geometry.of(foreground)
    fixed, moving = channel.fixed, channel.moving
    image, missing = on_grid(fixed.normalised, grid), (fixed.missing, moving.missing)
    views = [common_view(fixed.image, moving.image, one, grid, missing) for one in (start, transform)]
    inside = sitk.And(foreground, sitk.And(*views))
    before = after = 1.0
    if sitk.GetArrayViewFromImage(inside).any():
        smoothed = smoothed_for(moving.normalised, grid)
        before, after = (mutual_information(image, grid.resample(smoothed, one), inside) for one in (start, transform))
    return ChannelMeasure(channel.number, channel.weight, before, after)


def nearest(image: sitk.Image, grid: Geometry, transform: sitk.Transform | None = None) -> sitk.Image:
    """Sample labels or a mask on `grid` through `transform` by nearest neighbor."""
    return grid.resample(image, transform, interpolator=sitk.sitkNearestNeighbor)


def propagated(labels: sitk.Image, grid: Geometry, transform: sitk.Transform, cancelled: CancelCheck = never) -> sitk.Image:
    """Sample labels on a grid of any size through `transform` by nearest neighbor; `cancelled` is asked often."""
    return resampled(labels, grid, transform, interpolator=sitk.sitkNearestNeighbor, cancelled=cancelled)


def _difference(one: sitk.Image, other: sitk.Image) -> sitk.Image:
    difference = sitk.GetArrayViewFromImage(one) - sitk.GetArrayViewFromImage(other)
    return Geometry.of(one).apply_to(sitk.GetImageFromArray(difference, isVector=True))
