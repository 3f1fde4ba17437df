"""An image's voxels as an array, and where they may be looked at."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.engines.fields import Fields
from HyperPredictRegLib.engines.voxel_fields import Array, Workers

_LEAST_SPREAD = 1e-6
"""An image whose intensities (about 0 to 1) spread less than this is constant."""


@dataclass(frozen=True)
class MaskedArray:
    """Voxels (float32, indexed k, j, i) and 1 where they may be looked at (float32; None is everywhere); 0 elsewhere.

    `smoothed` : whether they were smoothed for their grid: then interpolation need not blur them to be rid of noise.
    """

    voxels: Array
    mask: Array | None = None
    smoothed: bool = False

    @classmethod
    def of(cls, image: sitk.Image, mask: sitk.Image | None, role: str, smoothed: bool = False) -> MaskedArray:
        """Return an image's voxels within its mask.

        Raises
        ------
        InputError : the mask is empty, or what is within it holds NaN, infinite values or one intensity only.
        """
        voxels = np.asarray(sitk.GetArrayFromImage(image), np.float32)
        seen = None if mask is None else np.asarray(sitk.GetArrayViewFromImage(mask) != 0, np.float32)
        if seen is not None:
            if not seen.any():
                raise InputError(f"The mask of the {role} image has no voxel on the working grid: draw it over the anatomy.")
            # Not a product: that would keep NaN.
            voxels = np.where(seen > 0, voxels, np.float32(0))
        inside = voxels if seen is None else voxels[seen > 0]
        if not np.isfinite(inside).all():
            raise InputError(
                f"The {role} image has voxels that are NaN or infinite: replace them, or leave them out by a mask of that image."
            )
        if np.ptp(inside) < _LEAST_SPREAD:
            raise InputError(f"The {role} image has one intensity only where it is compared, so there is nothing to register.")
        return cls(voxels, seen, smoothed)

    def given_to(self, fields: Fields) -> MaskedArray:
        """Return the same as arrays of another library."""
        mask = None if self.mask is None else fields.given(self.mask)
        return replace(self, voxels=fields.given(self.voxels), mask=mask)

    def coarser(self, places: list[np.ndarray], sigmas: tuple[float, ...], fields: Fields, workers: Workers) -> MaskedArray:
        """Return this image smoothed and sampled at continuous indices along each axis."""
        if not any(sigmas):
            return self
        voxels, mask = (
            None if array is None else fields.sampled(fields.smooth(fields.copy(array), sigmas, workers), places, workers)
            for array in (self.voxels, self.mask)
        )
        if mask is not None:
            voxels, mask = fields.within(voxels, mask)
        return MaskedArray(voxels, mask, smoothed=True)
