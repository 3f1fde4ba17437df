"""Images of very many voxels as coarser copies, made slab by slab, so that no floating-point copy of the whole ever exists.

A pair is registered on a grid that is far coarser than a CT of 512 x 512 x 300 voxels. All that is done to such images before
(finding the anatomy, scaling intensities, smoothing) is done to a copy of half the resolution, wherever that is still no coarser
than the working grid; images of up to `slabs.MOST_VOXELS` are used as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.core.progress import CancelCheck, never, stop_if
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.slabs import SLAB_VOXELS

_FINEST = 1.5
"""Axes with a spacing below this many times the finest are reduced first, so that voxels become more alike."""

_SHORTEST = 32


def block_averages(
    image: sitk.Image,
    most: int,
    *,
    values: Callable[[np.ndarray], np.ndarray] | None = None,
    cancelled: CancelCheck = never,
) -> sitk.Image:
    """Return a float32 copy of at most about `most` voxels by averaging blocks along the finest axes, halving as often as needed.

    Parameters
    ----------
    image : 3-D scalar image.
    most : number of voxels.
    values : what to average instead of the voxels themselves: given an array of them, shape (k, j, i), returns one of that shape.
    cancelled : asked before every slab of about `SLAB_VOXELS`.

    Raises
    ------
    Cancelled : the caller asked to stop.
    """
    while (shrink := _shrink(image, most)) is not None:
        image = _shrunk(image, shrink, values, cancelled)
        values = None
    whole = image if values is None else Geometry.of(image).holding(values(sitk.GetArrayViewFromImage(image)))
    return whole if whole.GetPixelID() == sitk.sitkFloat32 else sitk.Cast(whole, sitk.sitkFloat32)


def _shrink(image: sitk.Image, most: int) -> list[int] | None:
    """Return by how much to shrink each axis next, or None if that is not needed or not possible."""
    if image.GetNumberOfPixels() <= most:
        return None
    spacing = np.array(image.GetSpacing())
    finest = spacing.min()
    factors = [2 if s < _FINEST * finest and n > _SHORTEST else 1 for s, n in zip(spacing, image.GetSize(), strict=True)]
    return factors if max(factors) > 1 else None


def _shrunk(
    image: sitk.Image, shrink: list[int], values: Callable[[np.ndarray], np.ndarray] | None, cancelled: CancelCheck
) -> sitk.Image:
    grid = Geometry.of(image)
    size = (grid.size[0] // shrink[0], grid.size[1] // shrink[1], grid.size[2] // shrink[2])
    result = np.empty(size[::-1], np.float32)
    # Blocks must not be cut between two slabs.
    planes = max(1, SLAB_VOXELS // (grid.size[0] * grid.size[1]) // shrink[2]) * shrink[2]
    coarse = grid
    for first in range(0, size[2] * shrink[2], planes):
        stop_if(cancelled)
        slab = image[:, :, first : first + planes]
        if values is not None:
            slab = Geometry.of(slab).holding(values(sitk.GetArrayViewFromImage(slab)))
        part = sitk.BinShrink(sitk.Cast(slab, sitk.sitkFloat32), shrink)
        if first == 0:
            coarse = replace(Geometry.of(part), size=size)
        voxels = sitk.GetArrayViewFromImage(part)
        start = first // shrink[2]
        result[start : start + len(voxels)] = voxels
    return coarse.holding(result)
