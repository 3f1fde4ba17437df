"""Both images of a pair on one working grid, the moving one aligned: what an engine gets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.engines.base import Registration
from HyperPredictRegLib.preprocessing.image_set import Inputs, check_memory
from HyperPredictRegLib.preprocessing.working_grid import common_view, on_grid, smoothing_mm, working_grid, working_spacing
from HyperPredictRegLib.quality.measurement import nearest
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import composed, displacement_field, faded, field_of, field_transform


@dataclass(frozen=True)
class AlignedPair:
    """An engine's inputs.

    Attributes
    ----------
    grid : the working grid.
    fixed, moving : float32 images on it, intensities about 0 to 1; 0 where one of the two has no voxels, or padding only.
    fixed_mask, moving_mask : uint8 on it, or None.
    moving_smoothed : whether the moving image was smoothed, because the grid is coarser than its own.
    view : where both have voxels that are not padding, uint8 on it; None if everywhere.
    """

    grid: Geometry
    fixed: sitk.Image
    moving: sitk.Image
    fixed_mask: sitk.Image | None
    moving_mask: sitk.Image | None
    view: sitk.Image | None = None
    moving_smoothed: bool = False

    @classmethod
    def of(cls, inputs: Inputs, alignment: sitk.Transform, preset: str, engine_bytes: float = 0.0) -> AlignedPair:
        """Sample a pair on the working grid of `preset`; `alignment` maps fixed to moving points, LPS mm.

        `engine_bytes` is the memory to keep free for the engine.

        Raises
        ------
        InputError : there is no such preset, or the grid would not fit into the memory.
        """
        fixed, moving = inputs.fixed, inputs.moving
        spacing = working_spacing(fixed.image, fixed.foreground, preset)
        grid = working_grid(fixed.foreground, moving.foreground, alignment, spacing)
        images = fixed.image.GetNumberOfPixels() + moving.image.GetNumberOfPixels()
        check_memory(images, grid.voxel_count, f"The preset '{preset}' (a grid of {grid.size} voxels)", engine_bytes)
        view = common_view(fixed.image, moving.image, alignment, grid, (fixed.missing, moving.missing))
        return cls(
            grid=grid,
            fixed=sitk.Mask(on_grid(fixed.normalised, grid), view),
            moving=sitk.Mask(on_grid(moving.normalised, grid, alignment), view),
            fixed_mask=None if fixed.mask is None else nearest(fixed.mask, grid),
            moving_mask=None if moving.mask is None else nearest(moving.mask, grid, alignment),
            view=None if np.all(sitk.GetArrayViewFromImage(view)) else view,
            moving_smoothed=any(smoothing_mm(moving.image, grid)),
        )

    def whole_transform(self, registration: Registration, alignment: sitk.Transform) -> sitk.CompositeTransform:
        """Return fixed to moving points: the deformation as a field that fades beyond the grid, then `alignment`."""
        field = field_of(registration.transform)
        if field is None or not Geometry.of(field).matches(self.grid):
            field = displacement_field(registration.transform, self.grid)
        return composed(alignment, field_transform(faded(field)))
