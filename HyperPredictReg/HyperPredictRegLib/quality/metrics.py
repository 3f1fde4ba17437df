"""How good a registration is: overlap, surface distances, landmarks, Jacobian, folding, inverse consistency.

Folding is always the share of voxels whose Jacobian determinant is <= 0, in percent, with the determinant from
`jacobian_determinant`: central differences between voxel neighbors, one-sided at the border of the grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial import cKDTree

from HyperPredictRegLib.results.report import DiceMeasure, Distances, FoldingPercent, StructureMeasure
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.labels import label_extents
from HyperPredictRegLib.spatial.transforms import displacement_field, transformed_points

_SLAB_VOXELS = 1 << 18
_PART_VOXELS = 1 << 22
_ROUNDING = 64 * float(np.finfo(float).eps)

MUCH_FOLDED_PERCENT = 0.5
"""Above this share of the foreground a registration is called implausible: the limit of HyperPredict (MELBA 2024)."""

SAME_DICE = 0.005
"""Mean Dice that differs by less is about the same."""


def jacobian_determinant(field: sitk.Image) -> sitk.Image:
    """Return the Jacobian determinant of x -> x + u(x) at every voxel.

    Central differences of the displacements, one-sided on the faces of the grid, in physical units. Unlike ITK's own filter
    this takes the direction cosines into account, so oblique and flipped grids are right too.

    Parameters
    ----------
    field : vector image of displacements u in LPS mm.

    Returns
    -------
    determinant : float64 image on the same grid; 1 is no change of volume, below 1 the moving image is expanded on its way
        to the fixed one, <= 0 is a fold, and NaN or infinite is what leads out of all numbers.
    """
    grid = Geometry.of(field)
    # Seen along the voxel axes and in voxels, x -> x + u(x) has the same determinant and unit spacing.
    to_index = np.linalg.inv(grid.index_to_lps[:3, :3])
    vectors = sitk.GetArrayViewFromImage(field)
    determinant = np.empty(vectors.shape[:3])
    # In slabs, because what is needed in between is thirty numbers for each voxel.
    planes = max(1, _SLAB_VOXELS // (grid.size[0] * grid.size[1]))
    for first in range(0, grid.size[2], planes):
        last = min(first + planes, grid.size[2])
        # With a neighbor on each side, where there is one, the differences are those of the whole grid.
        below = max(first - 1, 0)
        with np.errstate(over="ignore", invalid="ignore"):
            found = _determinants(vectors[below : last + 1].astype(float) @ to_index.T)
        determinant[first:last] = found[first - below : last - below]
    return grid.apply_to(sitk.GetImageFromArray(determinant))


def _determinants(displacement: np.ndarray) -> np.ndarray:
    """Return the determinants for displacements in voxels, shape (k, j, i, 3), along (i, j, k)."""
    rows = []
    for row in range(3):
        slopes = np.gradient(displacement[..., row])[::-1]
        rows.append([slope + (row == axis) for axis, slope in enumerate(slopes)])
    (a, b, c), (d, e, f), (g, h, i) = rows
    determinant = np.asarray(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g))
    # What rounding cannot tell from flat is flat: each slope is known to about this, and counts as much as the two other rows.
    unsure = _ROUNDING * (1 + np.abs(displacement).max(axis=-1))
    one, two, three = (np.sqrt(x * x + y * y + z * z) for x, y, z in rows)
    determinant[np.abs(determinant) <= unsure * (one * two + two * three + three * one)] = 0
    return determinant


def folding_percent(jacobian: sitk.Image, foreground: sitk.Image) -> FoldingPercent:
    """Return the share of folded voxels (determinant <= 0) in percent, of the foreground and of the whole grid.

    Parameters
    ----------
    jacobian : result of `jacobian_determinant`.
    foreground : uint8 image on the same grid.
    """
    # Not "<= 0": what is not a number is no proper voxel either.
    folded = ~(sitk.GetArrayViewFromImage(jacobian) > 0)
    inside = sitk.GetArrayViewFromImage(foreground) != 0
    return FoldingPercent(foreground=100 * float(folded[inside].mean()), grid=100 * float(folded.mean()))


def sd_log_jacobian(jacobian: sitk.Image, foreground: sitk.Image) -> float:
    """Return the standard deviation of the logarithm of the Jacobian determinant over the foreground.

    Determinants are clipped to 1e-9..1e9 first, as the Learn2Reg challenge does (Hering et al., IEEE TMI 42 (2023) 697,
    doi:10.1109/TMI.2022.3213983), so folded voxels raise it strongly.
    """
    values = sitk.GetArrayViewFromImage(jacobian)[sitk.GetArrayViewFromImage(foreground) != 0]
    return float(np.log(np.clip(values, 1e-9, 1e9)).std())


def dice_coefficients(fixed_labels: sitk.Image, warped_labels: sitk.Image) -> dict[int, float]:
    """Return Dice of every label present in either label map; both lie on one grid. Background (0) is left out."""
    fixed = sitk.GetArrayViewFromImage(fixed_labels).ravel()
    warped = sitk.GetArrayViewFromImage(warped_labels).ravel()
    # In parts, because places in a list take four times the memory of labels.
    parts = [(fixed[n : n + _PART_VOXELS], warped[n : n + _PART_VOXELS]) for n in range(0, len(fixed), _PART_VOXELS)]
    labels = np.unique(np.concatenate([np.unique(values) for pair in parts for values in pair]))
    counts = np.zeros((3, len(labels)), np.int64)
    for one, other in parts:
        for count, values in zip(counts, (one, other, one[one == other]), strict=True):
            count += np.bincount(np.searchsorted(labels, values), minlength=len(labels))
    return {
        int(label): float(2 * common / (in_fixed + in_warped))
        for label, in_fixed, in_warped, common in zip(labels, *counts, strict=True)
        if label != 0
    }


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances between two surfaces in mm: 95th percentile Hausdorff distance and mean."""

    hd95_mm: float
    mean_mm: float


def surface_distances(
    one: np.ndarray, other: np.ndarray, spacing: tuple[float, float, float], most_points: int | None = None
) -> SurfaceDistances:
    """Measure how far the surfaces of two structures lie apart.

    A surface is the set of a structure's voxels with a face neighbor outside of it (beyond the array counts as outside).
    Distances run from every surface voxel of each structure to the nearest surface voxel of the other, both ways. HD95 is the
    larger of the two ways' 95th percentiles; the mean is over all distances of both ways.

    Parameters
    ----------
    one, other : boolean arrays, order (k, j, i), neither of them empty.
    spacing : voxel size along (i, j, k) in mm.
    most_points : measure from this many points of each surface at most, evenly picked, for speed; None is all.
    """
    surfaces = [part & ~ndimage.binary_erosion(part) for part in (one, other)]
    # A tree of the surfaces' points is several times faster than distance maps of the regions around cortex or white matter.
    points = [np.argwhere(surface) * spacing[::-1] for surface in surfaces]
    strides = [1 if most_points is None else -(-len(part) // most_points) for part in points]
    there = cKDTree(points[1]).query(points[0][:: strides[0]])[0]
    back = cKDTree(points[0]).query(points[1][:: strides[1]])[0]
    return SurfaceDistances(
        hd95_mm=float(max(np.percentile(there, 95), np.percentile(back, 95))),
        mean_mm=float(np.concatenate([there, back]).mean()),
    )


def dice_measure(
    fixed_labels: sitk.Image,
    aligned_labels: sitk.Image,
    warped_labels: sitk.Image,
    names: Mapping[int, str],
    moving_labels: sitk.Image | None = None,
) -> DiceMeasure:
    """Compare label maps on one grid: per structure Dice before and after, surface distances and volumes.

    Parameters
    ----------
    fixed_labels : the reference.
    aligned_labels, warped_labels : the moving labels after the affine step, and after registration.
    names : name of each label; a label without one is called "label N".
    moving_labels : on their own grid, to tell a structure that the moving image never had, which is left out, from one that the
        transform has lost, whose Dice is 0; if left out, the aligned labels stand for them.
    """
    before, after = dice_coefficients(fixed_labels, aligned_labels), dice_coefficients(fixed_labels, warped_labels)
    fixed, warped = sitk.GetArrayViewFromImage(fixed_labels), sitk.GetArrayViewFromImage(warped_labels)
    spacing = Geometry.of(fixed_labels).spacing
    voxel_ml = float(np.prod(spacing)) / 1000
    fixed_extents, warped_extents = label_extents(fixed), label_extents(warped)
    had = moving_labels if moving_labels is not None else aligned_labels
    moving_present = {int(label) for label in np.unique(sitk.GetArrayViewFromImage(had))} - {0}
    structures, absent = [], []
    for label in sorted(set(fixed_extents) | moving_present):
        name = names.get(label, f"label {label}")
        if label not in fixed_extents or label not in moving_present:
            absent.append(name)
            continue
        if label not in warped_extents:
            volume = float((fixed[fixed_extents[label]] == label).sum()) * voxel_ml
            structures.append(StructureMeasure(label, name, 0.0, before.get(label, 0.0), None, None, volume, 0.0))
            continue
        grid = tuple(
            slice(min(a.start, b.start), max(a.stop, b.stop))
            for a, b in zip(fixed_extents[label], warped_extents[label], strict=True)
        )
        one, other = fixed[grid] == label, warped[grid] == label
        distances = surface_distances(one, other, spacing)
        structures.append(
            StructureMeasure(
                label=label,
                name=name,
                dice=after[label],
                dice_before=before.get(label, 0.0),
                hd95_mm=distances.hd95_mm,
                mean_surface_distance_mm=distances.mean_mm,
                fixed_volume_ml=float(one.sum()) * voxel_ml,
                warped_volume_ml=float(other.sum()) * voxel_ml,
            )
        )
    return DiceMeasure(
        mean=_mean([s.dice for s in structures]),
        mean_before=_mean([s.dice_before for s in structures]),
        structures=tuple(structures),
        absent=tuple(absent),
    )


def landmark_error(transform: sitk.Transform, fixed_points: np.ndarray, moving_points: np.ndarray) -> Distances:
    """Return the target registration error in mm: distances from transformed fixed points to the moving points.

    Parameters
    ----------
    transform : fixed to moving points, LPS mm.
    fixed_points, moving_points : shape (n, 3), LPS mm, corresponding row by row.
    """
    return summary(np.linalg.norm(transformed_points(transform, fixed_points) - moving_points, axis=1))


def inverse_consistency(transform: sitk.Transform, inverse: sitk.Transform, foreground: sitk.Image) -> Distances:
    """Return how far points of the foreground end from where they started, in mm, after `transform` and then `inverse`."""
    there_and_back = displacement_field(sitk.CompositeTransform([inverse, transform]), Geometry.of(foreground))
    return _lengths_inside(there_and_back, foreground)


def displacement_lengths(field: sitk.Image, foreground: sitk.Image) -> Distances:
    """Return the lengths of a displacement field's vectors inside the foreground, in mm."""
    return _lengths_inside(field, foreground)


def mutual_information(one: sitk.Image, other: sitk.Image, mask: sitk.Image, bins: int = 64) -> float:
    """Return the normalized mutual information of two images inside a mask, whatever their contrast.

    (H(A) + H(B)) / H(A, B): 1 where the images know nothing of each other, 2 where each says all about the other.
    Source: Studholme et al., Pattern Recognition 32 (1999) 71, doi:10.1016/S0031-3203(98)00091-0.

    Parameters
    ----------
    one, other, mask : images on one grid.
    bins : of the histogram along each axis.
    """
    inside = sitk.GetArrayViewFromImage(mask) != 0
    a, b = (sitk.GetArrayViewFromImage(image)[inside] for image in (one, other))
    joint = np.histogram2d(a, b, bins=bins)[0] / inside.sum()
    both = _entropy(joint)
    return (_entropy(joint.sum(axis=0)) + _entropy(joint.sum(axis=1))) / both if both > 0 else 1.0


def summary(distances: np.ndarray) -> Distances:
    """Summarise distances (n,) in mm by mean, 95th percentile and maximum."""
    return Distances(
        mean=float(np.mean(distances)), p95=float(np.percentile(distances, 95)), maximum=float(np.max(distances))
    )


def _lengths_inside(field: sitk.Image, foreground: sitk.Image) -> Distances:
    inside = sitk.GetArrayViewFromImage(foreground) != 0
    return summary(np.linalg.norm(sitk.GetArrayViewFromImage(field)[inside], axis=1))


def _entropy(shares: np.ndarray) -> float:
    present = shares[shares > 0]
    return float(-(present * np.log(present)).sum())


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
