"""What of an image was measured: a slab in a volume of zeros ends where the zeros begin, and so does what can be compared."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

_LEAST_FLAT = 0.4
"""Anatomy that ends by itself begins with a small slice; one that begins with so large a share of its largest was cut off."""
_BLURRED_SLICES = 2
_NOT_BACKGROUND = 0.25
"""A face of the grid on which more than this share of the voxels is no background shows anatomy that goes on beyond it."""


def measured_box(image: sitk.Image) -> tuple[tuple[int, int, int], tuple[int, int, int]] | None:
    """Return first index and size (i, j, k) of what lies between constant slices that cut anatomy off flat, or None.

    The empty slices around a whole head or organ are no padding: there the first slices with anatomy are small.

    Parameters
    ----------
    image : 3-D scalar image.
    """
    voxels = sitk.GetArrayViewFromImage(image)
    first, last = [0, 0, 0], list(voxels.shape)
    for axis in range(3):
        slices = np.moveaxis(voxels, axis, 0)
        for end in (0, -1):
            value = slices[end].flat[0]
            # Most images have no constant slice at an end, and are done at once.
            if not (slices[end] == value).all():
                continue
            areas = np.count_nonzero(slices != value, axis=(1, 2))
            there = np.flatnonzero(areas)
            if there.size == 0:
                return None
            inwards = areas[there[0]:] if end == 0 else areas[: there[-1] + 1][::-1]
            if inwards[:_BLURRED_SLICES].max() < _LEAST_FLAT * areas.max():
                continue
            if end == 0:
                first[axis] = int(there[0])
            else:
                last[axis] = int(there[-1]) + 1
    if first == [0, 0, 0] and last == list(voxels.shape):
        return None
    size = [b - a for a, b in zip(first, last, strict=True)]
    return (first[2], first[1], first[0]), (size[2], size[1], size[0])


def open_faces(image: sitk.Image, background: float, tolerance: float) -> np.ndarray:
    """Return which faces of the grid show anatomy that the image has cut off.

    The result is boolean, shape (2, 3): the low and the high ends of i, j and k. `tolerance` is how far from `background` a voxel
    of background may be.
    """
    voxels = sitk.GetArrayViewFromImage(image)
    found = np.zeros((2, 3), bool)
    for axis in range(3):
        for n, end in enumerate((0, -1)):
            face = np.take(voxels, end, axis=2 - axis)
            found[n, axis] = np.mean(np.abs(face - background) >= tolerance) > _NOT_BACKGROUND
    return found
