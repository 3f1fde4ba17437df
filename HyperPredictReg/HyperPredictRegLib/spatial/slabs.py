"""Work on images of very many voxels slab by slab, so that it takes little memory and can be stopped in between."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.core.progress import CancelCheck, interruptible, never, stop_if
from HyperPredictRegLib.spatial.geometry import Geometry

MOST_VOXELS = 20_000_000
"""Images of up to so many voxels (more than 256 x 256 x 256) are worked on as they are, and in one piece."""

SLAB_VOXELS = 1 << 21
"""So many are worked on between two questions whether to stop: less than a second."""


def slabs(grid: Geometry, voxels: int) -> list[tuple[int, Geometry]]:
    """Return a grid in slabs across its last axis, of at most about so many voxels: the first plane of each, and its grid."""
    planes = max(1, voxels // (grid.size[0] * grid.size[1]))
    return [
        (first, grid.padded((0, 0, -first), (0, 0, min(first + planes, grid.size[2]) - grid.size[2])))
        for first in range(0, grid.size[2], planes)
    ]


def resampled(
    image: sitk.Image,
    grid: Geometry,
    transform: sitk.Transform,
    *,
    interpolator: int = sitk.sitkLinear,
    default_value: float = 0.0,
    cancelled: CancelCheck = never,
) -> sitk.Image:
    """Sample an image on a grid as `Geometry.resample` does; in slabs, if the grid has more than `MOST_VOXELS`.

    Parameters
    ----------
    image : any image, of the type that the result has.
    grid, transform, interpolator, default_value : see there.
    cancelled : asked often.

    Raises
    ------
    Cancelled : the caller asked to stop.
    """

    def sampled(part: Geometry) -> sitk.Image:
        return part.resample(image, transform, interpolator=interpolator, default_value=default_value)

    if grid.voxel_count <= MOST_VOXELS:
        return interruptible(lambda: sampled(grid), cancelled)
    components = image.GetNumberOfComponentsPerPixel()
    one = sitk.GetArrayViewFromImage(sitk.Image([1, 1, 1], image.GetPixelID(), components)).dtype
    whole = np.empty((*grid.size[::-1], components) if components > 1 else grid.size[::-1], one)
    for first, slab in slabs(grid, SLAB_VOXELS):
        stop_if(cancelled)
        part = sampled(slab)
        voxels = sitk.GetArrayViewFromImage(part)
        whole[first : first + len(voxels)] = voxels
    return grid.holding(whole, vectors=components > 1)
