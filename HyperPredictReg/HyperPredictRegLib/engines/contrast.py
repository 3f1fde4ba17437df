"""Which similarity suits a pair: chosen from the images that an engine is given, inside their anatomy.

Over whole heads any two contrasts correlate, because air, skull and scalp do, while grey and white matter may well be exchanged:
`quality.likeness` therefore looks at the inside, in small windows too. What it calls one contrast is looked at again: where the
two similarities pull in different directions, both are tried on a coarse grid, and what they bring to blocks held out decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.core.errors import InputError, RegistrationError
from HyperPredictRegLib.engines.agreement import agreement
from HyperPredictRegLib.preprocessing.intensity import foreground
from HyperPredictRegLib.quality.benefit import evidence
from HyperPredictRegLib.quality.likeness import likeness

_JUDGED_VOXELS = 150_000
"""Grids of more voxels are judged on a coarser one of about this many: about 4 mm for a human head."""

_PULLED_VOXELS, _TRIED_VOXELS = 1_000_000, 50_000
"""The same for how far two similarities agree, which blurring hides: a preset "fast" as it is; and for trying both."""

AGREED = 0.75
"""From this agreement on the contrast is one; `benchmarks/contrast.py` prints that of pairs of known contrast."""

_CLEAR_SHARE, _CLEAR_GAIN = 0.2, 0.001
"""By how much `different` must gain more than `same` when both are tried: a share of its own gain, and mutual information."""

Trial = Callable[[str, sitk.Image, sitk.Image, "sitk.Image | None"], sitk.Transform]
"""Registers two images, inside of a mask or everywhere, by the similarity of that name; returns fixed to moving points."""


@dataclass(frozen=True)
class SimilarityChoice:
    """A similarity, and why it was chosen, in one sentence."""

    name: str
    reason: str


@dataclass(frozen=True)
class Tried:
    """What either similarity brought on a coarse grid: the gain of mutual information with blocks held out."""

    same: float
    different: float

    @property
    def clear(self) -> bool:
        """Tell whether `different` is the better one beyond doubt."""
        return self.different - self.same > _CLEAR_GAIN + _CLEAR_SHARE * max(self.different, 0.0)


def choose_similarity(
    fixed: sitk.Image,
    moving: sitk.Image,
    masks: Sequence[sitk.Image | None],
    same: str,
    different: str,
    trial: Trial,
) -> SimilarityChoice:
    """Return `different` where the contrast of two images differs inside the anatomy, else `same`.

    Parameters
    ----------
    fixed, moving : on one grid, aligned, intensities about 0 to 1.
    masks : where the one and the other may be compared, on that grid, or None.
    same, different : names of similarities.
    trial : registers by either; asked only where the two pull in different directions.
    """
    try:
        judged = _Coarse.of(fixed, moving, masks, _JUDGED_VOXELS)
    except InputError:
        reason = f"No anatomy stands out in which contrast could be judged, so it counts as the same: '{same}' compares them."
        return SimilarityChoice(same, reason)
    found = likeness(*judged.voxels, judged.inside)
    if found.contrast == "different":
        return SimilarityChoice(
            different,
            f"Inside the anatomy the images differ in contrast ({100 * found.opposed:.0f} % of the small windows rise and fall "
            f"against each other, {100 * found.reversed:.0f} % of their relation is reversed): '{different}' compares them.",
        )
    agreed = pulled_together(fixed, moving, masks, (same, different))
    if agreed < AGREED:
        tried = _tried(fixed, moving, masks, (same, different), trial)
        if tried is not None and tried.clear:
            return SimilarityChoice(
                different,
                f"Inside the anatomy the images differ in contrast in places: '{same}' and '{different}' pull in different "
                f"directions (agreement {agreed:.2f}), and on a coarse grid '{different}' did better (mutual information in "
                f"blocks held out {tried.different:+.3f}, '{same}' {tried.same:+.3f}): '{different}' compares them.",
            )
    unclear = "" if found.contrast == "same" else " as far as can be told"
    return SimilarityChoice(same, f"Inside the anatomy the images have the same contrast{unclear}: '{same}' compares them.")


def pulled_together(
    fixed: sitk.Image, moving: sitk.Image, masks: Sequence[sitk.Image | None], names: tuple[str, str]
) -> float:
    """Return how far two similarities ask for the same motion inside the anatomy, -1 to 1; see `agreement`.

    Raises
    ------
    InputError : no anatomy stands out.
    """
    pair = _Coarse.of(fixed, moving, masks, _PULLED_VOXELS)
    return agreement(*pair.voxels, pair.inside, pair.fixed.GetSpacing()[::-1], names)


@dataclass(frozen=True)
class _Coarse:
    """A pair averaged over blocks, both foregrounds (uint8), and where both may be compared (uint8, or None for everywhere)."""

    fixed: sitk.Image
    moving: sitk.Image
    foregrounds: tuple[sitk.Image, sitk.Image]
    mask: sitk.Image | None

    @classmethod
    def of(cls, fixed: sitk.Image, moving: sitk.Image, masks: Sequence[sitk.Image | None], voxels: int) -> _Coarse:
        """Return a pair on a grid of about so many voxels; raise `InputError` where no anatomy stands out."""
        images = _coarse(fixed, voxels), _coarse(moving, voxels)
        found = foreground(images[0]), foreground(images[1])
        mask = None
        for one in masks:
            if one is not None:
                seen = _coarse(one != 0, voxels) > 0.5
                mask = seen if mask is None else sitk.And(mask, seen)
        return cls(*images, found, mask)

    @property
    def voxels(self) -> tuple[np.ndarray, np.ndarray]:
        """Return both images as arrays (k, j, i), float32."""
        return sitk.GetArrayFromImage(self.fixed), sitk.GetArrayFromImage(self.moving)

    @property
    def inside(self) -> np.ndarray:
        """Return where both show anatomy that may be compared, boolean array."""
        masks = self.foregrounds if self.mask is None else (*self.foregrounds, self.mask)
        return np.asarray(np.logical_and.reduce([sitk.GetArrayViewFromImage(mask) != 0 for mask in masks]))


def _tried(
    fixed: sitk.Image, moving: sitk.Image, masks: Sequence[sitk.Image | None], names: tuple[str, str], trial: Trial
) -> Tried | None:
    """Return what both similarities bring on a coarse grid, or None where one of them fails there or nothing can be measured."""
    gains = []
    try:
        pair = _Coarse.of(fixed, moving, masks, _TRIED_VOXELS)
        inside = [one if pair.mask is None else sitk.Mask(one, pair.mask) for one in pair.foregrounds]
        for name in names:
            numbers = evidence(pair.fixed, pair.moving, trial(name, pair.fixed, pair.moving, pair.mask), *inside)
            gains.append(numbers.information_held_out - numbers.information_before)
    except (InputError, RegistrationError):
        return None
    return Tried(*gains) if np.isfinite(gains).all() else None


def _coarse(image: sitk.Image, voxels: int) -> sitk.Image:
    """Return an image averaged over blocks, as float32, on a grid of about so many voxels."""
    image = sitk.Cast(image, sitk.sitkFloat32)
    factor = round((image.GetNumberOfPixels() / voxels) ** (1 / 3))
    return image if factor < 2 else sitk.BinShrink(image, [min(factor, max(1, size // 4)) for size in image.GetSize()])
