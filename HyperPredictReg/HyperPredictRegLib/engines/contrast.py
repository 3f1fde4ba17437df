"""Which similarity suits a pair: chosen from the images that an engine is given, inside their anatomy.

Over whole heads any two contrasts correlate, because air, skull and scalp do, while grey and white matter may well be exchanged:
`quality.likeness` therefore looks at the inside, in small windows too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.preprocessing.intensity import foreground
from HyperPredictRegLib.quality.likeness import likeness

_JUDGED_VOXELS = 150_000
"""Grids of more voxels are judged on a coarser one of about this many: about 4 mm for a human head."""


@dataclass(frozen=True)
class SimilarityChoice:
    """A similarity, and why it was chosen, in one sentence."""

    name: str
    reason: str


def choose_similarity(
    fixed: sitk.Image,
    moving: sitk.Image,
    masks: Sequence[sitk.Image | None],
    same: str,
    different: str,
) -> SimilarityChoice:
    """Return `different` where the contrast of two images differs inside the anatomy, else `same`.

    Parameters
    ----------
    fixed, moving : on one grid, aligned, intensities about 0 to 1.
    masks : where the one and the other may be compared, on that grid, or None.
    same, different : names of similarities.
    """
    images = [_coarse(image) for image in (fixed, moving)]
    try:
        inside = [sitk.GetArrayFromImage(foreground(image)) != 0 for image in images]
    except InputError:
        reason = f"No anatomy stands out in which contrast could be judged, so it counts as the same: '{same}' compares them."
        return SimilarityChoice(same, reason)
    for mask in masks:
        if mask is not None:
            inside.append(sitk.GetArrayFromImage(_coarse(mask != 0)) > 0.5)
    voxels = [sitk.GetArrayFromImage(image) for image in images]
    found = likeness(voxels[0], voxels[1], np.logical_and.reduce(inside))
    if found.contrast != "different":
        unclear = "" if found.contrast == "same" else " as far as can be told"
        return SimilarityChoice(same, f"Inside the anatomy the images have the same contrast{unclear}: '{same}' compares them.")
    return SimilarityChoice(
        different,
        f"Inside the anatomy the images differ in contrast ({100 * found.opposed:.0f} % of the small windows rise and fall "
        f"against each other, {100 * found.reversed:.0f} % of their relation is reversed): '{different}' compares them.",
    )


def _coarse(image: sitk.Image) -> sitk.Image:
    """Return an image averaged over blocks, as float32, on a grid of about `_JUDGED_VOXELS`."""
    image = sitk.Cast(image, sitk.sitkFloat32)
    factor = round((image.GetNumberOfPixels() / _JUDGED_VOXELS) ** (1 / 3))
    return image if factor < 2 else sitk.BinShrink(image, [min(factor, max(1, size // 4)) for size in image.GetSize()])
