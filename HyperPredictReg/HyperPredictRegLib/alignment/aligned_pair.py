"""Both images of a pair on one working grid, the moving one aligned: what an engine gets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.resources import CHANNEL_BYTES_PER_VOXEL
from HyperPredictRegLib.engines.base import ImageChannel, Registration
from HyperPredictRegLib.preprocessing.image_set import ChannelSides, Inputs, check_memory
from HyperPredictRegLib.preprocessing.working_grid import (
    common_view,
    field_of_view,
    on_grid,
    smoothing_mm,
    working_grid,
    working_spacing,
)
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
    channels : further pairs on it.
    moving_smoothed : whether the moving image was smoothed, because the grid is coarser than its own.
    view : where both have voxels that are not padding, uint8 on it; None if everywhere.
    """

    grid: Geometry
    fixed: sitk.Image
    moving: sitk.Image
    fixed_mask: sitk.Image | None
    moving_mask: sitk.Image | None
    channels: tuple[ImageChannel, ...] = ()
    view: sitk.Image | None = None
    moving_smoothed: bool = False

    @classmethod
    def of(
        cls,
        inputs: Inputs,
        alignment: sitk.Transform,
        preset: str,
        engine_bytes: float = 0.0,
        drawn: sitk.Transform | None = None,
    ) -> AlignedPair:
        """Sample a pair on the working grid of `preset`; `alignment` maps fixed to moving points, LPS mm.

        `engine_bytes` is the memory to keep free for the engine. `drawn` is the alignment with what draws the images together
        beyond it; what belongs to the moving image is sampled by it, if it is given.

        Raises
        ------
        InputError : there is no such preset, the grid would not fit into the memory, or the images of a channel do not meet.
        """
        fixed, moving = inputs.fixed, inputs.moving
        spacing = working_spacing(fixed.image, fixed.foreground, preset)
        grid = working_grid(fixed.foreground, moving.foreground, alignment, spacing)
        engine_bytes += len(inputs.channels) * CHANNEL_BYTES_PER_VOXEL * grid.voxel_count
        check_memory(inputs.voxels, grid.voxel_count, f"The preset '{preset}' (a grid of {grid.size} voxels)", engine_bytes)
        through = alignment if drawn is None else drawn
        view = common_view(fixed.image, moving.image, through, grid, (fixed.missing, moving.missing))
        masks = (
            None if fixed.mask is None else nearest(fixed.mask, grid),
            None if moving.mask is None else nearest(moving.mask, grid, through),
        )
        return cls(
            grid=grid,
            fixed=sitk.Mask(on_grid(fixed.normalised, grid), view),
            moving=sitk.Mask(on_grid(moving.normalised, grid, through), view),
            fixed_mask=masks[0],
            moving_mask=masks[1],
            channels=tuple(_on_grid(channel, grid, through, masks) for channel in inputs.channels),
            view=None if np.all(sitk.GetArrayViewFromImage(view)) else view,
            moving_smoothed=any(smoothing_mm(moving.image, grid)),
        )

    def whole_transform(self, registration: Registration, alignment: sitk.Transform) -> sitk.CompositeTransform:
        """Return fixed to moving points: the deformation as a field that fades beyond the grid, then `alignment`."""
        field = field_of(registration.transform)
        if field is None or not Geometry.of(field).matches(self.grid):
            field = displacement_field(registration.transform, self.grid)
        return composed(alignment, field_transform(faded(field)))


def _on_grid(
    channel: ChannelSides, grid: Geometry, alignment: sitk.Transform, masks: tuple[sitk.Image | None, sitk.Image | None]
) -> ImageChannel:
    """Sample a channel on the working grid: its masks are those of the pair without what lies beyond its own images.

    Raises
    ------
    InputError : the masks of its two images do not meet.
    """
    views = []
    for side, transform, mask in zip((channel.fixed, channel.moving), (None, alignment), masks, strict=True):
        view = field_of_view(side.image, side.missing, grid, transform)
        views.append(view if mask is None else sitk.And(view, mask))
    common = sitk.And(*views)
    if not sitk.GetArrayViewFromImage(common).any():
        raise InputError(
            f"The two images of channel {channel.number} have no place in common once the pair is aligned, or none inside the "
            "masks: leave the channel out."
        )
    fixed, moving = (sitk.Mask(image, view) for image, view in zip(
        (on_grid(channel.fixed.normalised, grid), on_grid(channel.moving.normalised, grid, alignment)), views, strict=True
    ))  # fmt: skip
    whole = [None if np.all(sitk.GetArrayViewFromImage(view)) else view for view in views]
    smoothed = any(smoothing_mm(channel.moving.image, grid))
    return ImageChannel(fixed, moving, channel.weight, whole[0], whole[1], smoothed)
