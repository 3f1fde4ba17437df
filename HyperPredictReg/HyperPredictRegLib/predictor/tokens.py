"""Structure tokens: what the moving segmentation says of each structure, once it is aligned and once the probes have moved it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.alignment.aligned_pair import AlignedPair
from HyperPredictRegLib.predictor.probes import HalfPair, Probe
from HyperPredictRegLib.quality.measurement import nearest
from HyperPredictRegLib.spatial.transforms import field_transform

LEAST_VOXELS = 5
"""A structure with fewer voxels on the working grid has no token: its numbers would be noise."""


def structure_tokens(
    labels: sitk.Image, pair: AlignedPair, foreground: sitk.Image, half: HalfPair, probes: Sequence[Probe]
) -> dict[int, dict[str, float]]:
    """Describe every structure of the aligned moving segmentation.

    Parameters
    ----------
    labels : the moving labels on the pair's grid, after the affine step.
    pair, foreground : the images and the fixed image's foreground on the same grid.
    half, probes : the probes and their grid.

    Returns
    -------
    tokens : features by name, by label value.
    """
    first = sitk.GetArrayViewFromImage(labels)
    present, dense = np.unique(first, return_inverse=True)
    dense = dense.reshape(first.shape)
    warped = [nearest(labels, pair.grid, field_transform(probe.field)) for probe in probes]
    maps = [np.searchsorted(present, sitk.GetArrayViewFromImage(image)) for image in warped]
    fixed = sitk.GetArrayViewFromImage(pair.fixed)
    moving = sitk.GetArrayViewFromImage(pair.moving)
    columns = _shape(dense, len(present), pair, foreground)
    columns |= _intensity("start", dense, len(present), fixed, moving)
    middle = 1
    moved = sitk.GetArrayFromImage(pair.grid.resample(pair.moving, field_transform(probes[middle].field)))
    columns |= _intensity("probe", maps[middle], len(present), fixed, moved)
    for number, probe_map in enumerate(maps):
        columns[f"kept{number}"] = _overlap(dense, probe_map, len(present))
        if number:
            columns[f"steady{number}"] = _overlap(maps[number - 1], probe_map, len(present))
    at_half = np.searchsorted(present, sitk.GetArrayFromImage(nearest(labels, half.grid)))
    for number in (0, middle):
        lengths = np.linalg.norm(probes[number].displacement, axis=-1)
        logs = np.log(np.clip(probes[number].jacobian, 1e-2, 1e2))
        columns[f"shift{number}"] = np.log(_mean(at_half, lengths, len(present)) + 1e-2)
        columns[f"strain{number}"] = np.log(_mean(at_half, np.abs(logs), len(present)) + 1e-2)
    voxels = np.bincount(dense.ravel(), minlength=len(present))
    return {
        int(label): {name: float(values[n]) for name, values in columns.items()}
        for n, label in enumerate(present.tolist())
        if label != 0 and voxels[n] >= LEAST_VOXELS
    }


def _shape(dense: np.ndarray, count: int, pair: AlignedPair, foreground: sitk.Image) -> dict[str, np.ndarray]:
    inside = sitk.GetArrayViewFromImage(foreground) != 0
    voxels = np.maximum(np.bincount(dense.ravel(), minlength=count), 1)
    places = np.nonzero(inside)
    low, high = (np.array([edge(axis) for axis in places]) for edge in (np.min, np.max))
    grids = np.meshgrid(*(np.arange(n) for n in dense.shape), indexing="ij", sparse=True)
    means = [_mean(dense, np.broadcast_to(grid, dense.shape), count) for grid in grids]
    centres = [(mean - a) / (b - a) for mean, a, b in zip(means, low, high, strict=True)]
    return {
        "log_volume": np.log(voxels),
        "log_share": np.log(voxels / inside.sum()),
        "log_thickness": np.log(voxels / np.maximum(_boundary_counts(dense, count), 1)),
        "height": centres[0],
        "depth": centres[1],
        # Left and right are alike; the distance from the midline is what counts.
        "laterality": np.abs(centres[2] - 0.5),
    }


def _intensity(name: str, labels: np.ndarray, count: int, fixed: np.ndarray, moving: np.ndarray) -> dict[str, np.ndarray]:
    at_edge = np.where(_boundary(labels), labels, 0)
    gradients = [np.stack(np.gradient(image)) for image in (fixed, moving)]
    lengths = [np.sqrt((g**2).sum(axis=0)) for g in gradients]
    cosine = (gradients[0] * gradients[1]).sum(axis=0) / (lengths[0] * lengths[1] + 1e-4)
    return {
        f"{name}_moving_level": _mean(labels, moving, count),
        f"{name}_difference": _mean(labels, np.abs(fixed - moving), count),
        f"{name}_fixed_edge": _mean(at_edge, lengths[0], count),
        f"{name}_moving_edge": _mean(at_edge, lengths[1], count),
        f"{name}_edge_cosine": _mean(at_edge, cosine, count),
    }


def _boundary(labels: np.ndarray) -> np.ndarray:
    found = np.zeros(labels.shape, bool)
    for axis in range(3):
        differs = np.diff(labels, axis=axis) != 0
        before, after = [slice(None)] * 3, [slice(None)] * 3
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        found[tuple(before)] |= differs
        found[tuple(after)] |= differs
    return found


def _boundary_counts(labels: np.ndarray, count: int) -> np.ndarray:
    return np.bincount(labels[_boundary(labels)], minlength=count)


def _mean(labels: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    sums = np.bincount(labels.ravel(), weights=values.ravel(), minlength=count)
    return sums / np.maximum(np.bincount(labels.ravel(), minlength=count), 1)


def _overlap(one: np.ndarray, other: np.ndarray, count: int) -> np.ndarray:
    both = np.bincount(one[one == other], minlength=count)
    return 2 * both / np.maximum(np.bincount(one.ravel(), minlength=count) + np.bincount(other.ravel(), minlength=count), 1)
