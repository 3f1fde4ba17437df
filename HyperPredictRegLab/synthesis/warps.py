"""Known deformations, as smooth as those between two people or two visits, and none of them folded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from HyperPredictRegLab.synthesis.maps import deformation, smallest_jacobian, smooth

FAMILIES = ("smooth", "scales", "local", "pulse")
"""One correlation length; several at once; a few places that grow, shrink or move; an object that contracts as a heart does."""

LEAST_JACOBIAN = 0.15
"""No voxel of a known deformation shrinks to less."""


def drawn_warp(
    shape: tuple[int, ...], family: str, amplitude: float, length: float, rng: np.random.Generator
) -> np.ndarray:
    """Draw a deformation.

    Parameters
    ----------
    shape : of the grid, (k, j, i).
    family : one of `FAMILIES`.
    amplitude : about the standard deviation of the shift along each axis, in voxels; reduced where the deformation would fold.
    length : correlation length in voxels.

    Returns
    -------
    shift : float32, (3, k, j, i) in voxels.
    """
    if family == "scales":
        shift = deformation(shape, 0.8 * amplitude, 1.5 * length, rng)
        shift += deformation(shape, 0.5 * amplitude, 0.7 * length, rng)
        shift += deformation(shape, 0.2 * amplitude, max(4.0, 0.35 * length), rng)
    elif family == "local":
        shift = deformation(shape, 0.15 * amplitude, length, rng)
        for _ in range(int(rng.integers(1, 5))):
            shift += _bump(shape, 2 * amplitude, length, rng)
    elif family == "pulse":
        shift = deformation(shape, 0.3 * amplitude, length, rng)
        shift += _pulse(shape, 2.5 * amplitude, rng)
    else:
        shift = deformation(shape, amplitude, length, rng)
    return unfolded(shift)


def unfolded(shift: np.ndarray) -> np.ndarray:
    """Return a shift (3, k, j, i) in voxels, reduced as a whole until its Jacobian determinant stays above `LEAST_JACOBIAN`."""
    places = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shift.shape[1:]), indexing="ij"))
    for _ in range(40):
        if smallest_jacobian(places + shift) > LEAST_JACOBIAN:
            break
        shift = shift * np.float32(0.85)
    return shift


def difference(one: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the smooth part of the difference between two maps' anatomy.

    Parameters
    ----------
    one, other : codes on grids of one shape (k, j, i), not smaller than 16 voxels along any axis.

    Returns
    -------
    shift : float32, (3, k, j, i) in voxels: `one` at place + shift resembles `other` at place. Demons on half the grid, each half
        of the iterations with other intensities of the labels, so that all borders are seen.
    """
    field = None
    for _ in range(2):
        means = rng.uniform(0.2, 1, 256).astype(np.float32)
        means[0] = 0
        fixed, moving = (
            sitk.GetImageFromArray(ndimage.gaussian_filter(means[codes], 1.2)[::2, ::2, ::2]) for codes in (other, one)
        )
        demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
        demons.SetNumberOfIterations(40)
        # Several threads add up in an order that changes from run to run.
        demons.SetNumberOfThreads(1)
        demons.SetStandardDeviations(1.3)
        field = demons.Execute(fixed, moving) if field is None else demons.Execute(fixed, moving, field)
    coarse = np.moveaxis(sitk.GetArrayFromImage(field), -1, 0)[::-1]
    shift = np.empty((3, *one.shape), dtype=np.float32)
    places = np.meshgrid(*(np.arange(n, dtype=np.float32) / 2 for n in one.shape), indexing="ij")
    for axis in range(3):
        part = ndimage.map_coordinates(coarse[axis], places, order=1, mode="nearest")
        shift[axis] = 2 * ndimage.gaussian_filter(part, 1.0)
    return unfolded(shift)


def _bump(shape: tuple[int, ...], amplitude: float, length: float, rng: np.random.Generator) -> np.ndarray:
    """Return a place that grows or shrinks (its neighborhood moves away from it or toward it), or moves along."""
    center = [rng.uniform(0.2, 0.8) * n for n in shape]
    away = _axes(shape, center, length)
    fall = np.exp(-0.5 * sum(part**2 for part in away))
    if rng.random() < 0.5:
        strength = amplitude * (1 if rng.random() < 0.5 else -1)
        return np.stack([np.broadcast_to(strength * part * fall, shape) for part in away]).astype(np.float32)
    heading = rng.normal(size=3)
    heading *= amplitude / np.linalg.norm(heading)
    return np.stack([np.broadcast_to(step * fall, shape) for step in heading]).astype(np.float32)


def _pulse(shape: tuple[int, ...], amplitude: float, rng: np.random.Generator) -> np.ndarray:
    """Return a contraction or dilation toward one long axis, strongest at a distance from it, uneven along it."""
    axis = int(rng.integers(3))
    away = _axes(shape, [rng.uniform(0.4, 0.6) * n for n in shape], 0.2 * min(shape))
    across = [part for n, part in enumerate(away) if n != axis]
    radius = np.sqrt(across[0] ** 2 + across[1] ** 2)
    profile = radius * np.exp(0.5 * (1 - radius**2)) / np.maximum(radius, 0.2)
    strength = amplitude * (1 if rng.random() < 0.5 else -1) * (1 + smooth(shape, 0.3, 0.5 * min(shape), rng))
    parts = [np.zeros(shape) if n == axis else np.broadcast_to(strength * profile * part, shape) for n, part in enumerate(away)]
    return np.stack(parts).astype(np.float32)


def _axes(shape: tuple[int, ...], center: Sequence[float], length: float) -> list[np.ndarray]:
    """Return (place - center) / length along each axis, shaped to be combined."""
    axes = ((np.arange(n, dtype=np.float32) - c) / length for n, c in zip(shape, center, strict=True))
    return list(np.meshgrid(*axes, indexing="ij", sparse=True))
