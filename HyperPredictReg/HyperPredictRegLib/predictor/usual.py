"""A gain of overlap that leans to what is usual: the mean shape that real cases of other kinds have over the first parameter.

A network that has seen synthesized pairs only knows how one pair differs from another, and less well what all have in common.
Where there were real cases to calibrate on, `WEIGHT` of the shape is theirs (stacking; Wolpert, Neural Networks 5 (1992) 241).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from HyperPredictRegLib.predictor.card import USUAL_POINTS
from HyperPredictRegLib.predictor.network import LEAST_DICE, OUTLOOK_CURVES, MemberCurves

WEIGHT = 0.5
"""Of what is usual; what other weights and a leaning error chose on the tuning cases stands in `docs/predictor.md`."""

_GAIN = OUTLOOK_CURVES.index("gain")


def leaning(found: MemberCurves, anchor: MemberCurves, usual: Sequence[float], places: np.ndarray) -> MemberCurves:
    """Return the curves of one pair with a gain of overlap that leans to the usual shape along the first parameter.

    Its level stays, and so does what the other parameters do. Every structure's Dice moves with it.

    Parameters
    ----------
    found : curves of one pair at n settings.
    anchor : the same pair's at `USUAL_POINTS` values of the first parameter, the others at their defaults.
    usual : the shape there, whose mean is 0.
    places : of the n settings on the first parameter's range, from 0 to 1, shape (n,).
    """
    outlook, at_anchor = found.outlook, anchor.outlook
    if outlook is None or at_anchor is None:
        return found
    own, level = at_anchor.curves[0, _GAIN], float(at_anchor.curves[0, _GAIN].mean())
    change = WEIGHT * np.interp(places, np.linspace(0, 1, USUAL_POINTS), np.asarray(usual) - (own - level))
    curves = outlook.curves.copy()
    curves[0, _GAIN] = np.clip(curves[0, _GAIN] + change, -1, 1)
    # A share of what the affine step leaves is less Dice where it leaves less.
    left = (1 - _dice(anchor.dice_logit).mean(axis=-1, keepdims=True)) / max(1 - level, 0.05)
    dice = np.clip(_dice(found.dice_logit) + left * change, LEAST_DICE, 1 - LEAST_DICE)
    mean = dice.mean(axis=1) if dice.shape[1] else found.mean_dice
    return replace(found, dice_logit=np.log(dice / (1 - dice)), mean_dice=mean, outlook=replace(outlook, curves=curves))


def _dice(logit: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-logit)))
