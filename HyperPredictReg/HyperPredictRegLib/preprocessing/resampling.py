"""Whole items through a transform onto another grid: images with holes, and how much of an item arrives there."""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy.spatial import cKDTree

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.preprocessing.intensity import LARGEST, foreground, value_beyond
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import inverse_points, inverted, transformed_points, voxel_size

_SAMPLES_PER_AXIS = 20
_EDGE = 0.5 + 1e-3  # of a voxel, with room for rounding


def resampled_image(image: sitk.Image, lookup: sitk.Transform, target: Geometry) -> sitk.Image:
    """Return an image on another grid; numbers are mixed with numbers only, and what is none goes to the nearest voxel.

    Parameters
    ----------
    image : any 3-D scalar image; NaN and infinite voxels are holes, which stay so and do not spread.
    lookup : from points of the target to points of the image, LPS mm.
    target : the grid. Voxels that look up a place beyond the image are `intensity.value_beyond`.
    """
    beyond = value_beyond(image)
    voxels = sitk.GetArrayViewFromImage(image)
    known = np.isfinite(voxels)
    if known.all():
        return target.resample(image, lookup, default_value=beyond)

    def on_target(values: np.ndarray, **options: Any) -> np.ndarray:
        return sitk.GetArrayFromImage(target.resample(Geometry.of(image).holding(values), lookup, **options))

    # Each voxel is numbered by its kind, because ITK turns infinity into a large number.
    kinds = np.array([0.0, np.nan, np.inf, -np.inf, beyond], dtype=voxels.dtype)
    kind = np.select([np.isnan(voxels), voxels == np.inf, voxels == -np.inf], [1, 2, 3]).astype(np.uint8)
    nearest = on_target(kind, interpolator=sitk.sitkNearestNeighbor, default_value=4)
    result, share = kinds[nearest], on_target(known.astype(voxels.dtype))
    np.divide(on_target(np.where(known, voxels, 0)), share, out=result, where=(nearest == 0) & (share > 0))
    return target.holding(result)


def content_places(image: sitk.Image, most: int) -> np.ndarray:
    """Return places, shape (n, 3), LPS mm, of what an image shows: its anatomy, else what is not background, else all of it.

    If there are more than `most`, so many of them are chosen.
    """
    voxels = sitk.GetArrayViewFromImage(image)
    known = np.isfinite(voxels) & (np.abs(voxels) < LARGEST)
    try:
        shown = sitk.GetArrayFromImage(foreground(image)) != 0 if known.all() else known
    except InputError:
        shown = known & (voxels != value_beyond(image))
    return _chosen(shown if shown.any() else known, Geometry.of(image), most)


def label_places(labels: sitk.Image, most: int) -> np.ndarray:
    """Return places, shape (n, 3), LPS mm, of voxels that have a label in any layer; a choice of `most` if there are more."""
    voxels = sitk.GetArrayViewFromImage(labels)
    return _chosen((voxels != 0).any(axis=-1) if voxels.ndim > 3 else voxels != 0, Geometry.of(labels), most)


def reached_by(places: np.ndarray, lookup: sitk.Transform, target: Geometry) -> np.ndarray:
    """Tell which places, shape (n, 3), LPS mm, come to lie within the voxels of `target`; `lookup` maps its points to places."""
    if lookup.IsLinear():
        return within(target, transformed_points(inverted(lookup), places))
    axes = [np.linspace(-0.5, n - 0.5, _SAMPLES_PER_AXIS) for n in target.size]
    samples = target.to_lps(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3))
    ends = transformed_points(lookup, samples)
    # The squares of larger numbers, from which distances are computed, overflow.
    near_enough = (np.abs(ends) < LARGEST).all(axis=1)
    if not near_enough.any():
        return np.zeros(len(places), dtype=bool)
    nearest = cKDTree(ends[near_enough]).query(places)[1]
    found = inverse_points(lookup, places, samples[near_enough][nearest])
    near = found.residual_mm <= max(voxel_size(lookup) or 0.0, *target.spacing)
    return np.asarray(near & within(target, found.points))


def within(grid: Geometry, points: np.ndarray) -> np.ndarray:
    """Tell which points, shape (n, 3), LPS mm, lie within the voxels of a grid."""
    places = grid.to_index(np.asarray(points, dtype=float).reshape(-1, 3))
    return np.asarray(((places >= -_EDGE) & (places <= np.array(grid.size) - 1 + _EDGE)).all(axis=1))


def _chosen(mask: np.ndarray, grid: Geometry, most: int) -> np.ndarray:
    chosen = np.flatnonzero(mask)
    if len(chosen) > most:
        # At random, because every n-th voxel may lie on one plane.
        chosen = np.sort(np.random.default_rng(0).choice(chosen, most, replace=False))
    return grid.to_lps(np.stack(np.unravel_index(chosen, mask.shape)[::-1], axis=1))
