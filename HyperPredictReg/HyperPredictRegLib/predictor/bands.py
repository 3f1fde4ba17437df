"""What makes 90 % bands out of predicted error scales, and the least folding that counts."""

from __future__ import annotations

from dataclasses import dataclass

LEVEL = 0.9

LEAST_FOLDING = 0.002
"""Percent. Below this, one voxel in fifty thousand, folding counts as none: its logarithm would be noise."""


@dataclass(frozen=True)
class BandWidths:
    """Factors by which foreseen error scales become 90 % bands.

    Attributes
    ----------
    dice, mean_dice : with a moving segmentation.
    dice_unsegmented, mean_dice_unsegmented : without one.
    curves : of folding in the foreground, folding in the box, and SD log-Jacobian.
    subjects : people that they were calibrated on.
    """

    dice: float
    mean_dice: float
    dice_unsegmented: float
    mean_dice_unsegmented: float
    curves: tuple[float, float, float]
    subjects: int
