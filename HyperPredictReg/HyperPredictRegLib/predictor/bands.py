"""From uncalibrated curves to what a user is told: bands that hold nine times of ten, and chances that mean what they say."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from HyperPredictRegLib.core.search_space import SearchSpace
from HyperPredictRegLib.predictor.bundle import LEAST_FOLDING, OutlookWidths
from HyperPredictRegLib.predictor.network import OUTLOOK_CURVES, MemberCurves, MemberOutlook
from HyperPredictRegLib.predictor.splines import grid_axes
from HyperPredictRegLib.results.prediction import Band, BandValue, Outlook

LEAST_DICE_REACH, LEAST_LOG_REACH = 0.001, 0.01
"""Bands reach at least so far to either side, however sure the networks are: in Dice, and of SD log-Jacobian as a share.

Calibration cannot vouch for less: where a setting is chosen, a Dice of 0.001 counts as no difference. Folding is known to
`LEAST_FOLDING` only, because in calibration everything below counted as none.
"""


def dice_band(logit: np.ndarray, reach: np.ndarray) -> Band:
    """Return Dice from its logit and how far the band reaches on that scale, any shape."""
    centre = torch.as_tensor(logit)
    half = torch.as_tensor(reach)
    value, lower, upper = (torch.sigmoid(part).numpy() for part in (centre, centre - half, centre + half))
    lower = np.clip(np.minimum(lower, value - LEAST_DICE_REACH), 0, 1)
    return Band(value, lower, np.clip(np.maximum(upper, value + LEAST_DICE_REACH), 0, 1))


def log_band(logarithm: np.ndarray, reach: np.ndarray) -> Band:
    """Return a quantity from its logarithm and how far the band reaches on that scale, any shape."""
    reach = np.maximum(reach, LEAST_LOG_REACH)
    return Band(np.exp(logarithm), np.exp(logarithm - reach), np.exp(logarithm + reach))


def falling_band(found: MemberCurves, number: int, width: float, space: SearchSpace, values: np.ndarray) -> Band:
    """Return folding in percent, never rising as a parameter regularizes more.

    Less than can be told from none is none, and none is known to that only. Of settings of several parameters that are no regular
    grid, only the best guess never rises.

    Parameters
    ----------
    number : 0 for the foreground, 1 for the grid.
    values : settings (n, h).
    """
    band = log_band(found.curves[0, number], width * found.curves_scale[0, number])
    lower = _along(band.lower, space, values, np.minimum.accumulate)
    upper = _along(band.upper, space, values, lambda part: np.maximum.accumulate(part[::-1])[::-1])
    value, lower = (np.where(part < LEAST_FOLDING, 0.0, np.minimum(part, 100.0)) for part in (band.value, lower))
    upper = np.clip(upper, LEAST_FOLDING, 100.0)
    return Band(value, np.clip(lower, 0.0, upper - LEAST_FOLDING), upper)


def _along(
    band: np.ndarray, space: SearchSpace, values: np.ndarray, accumulated: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Apply `accumulated` along each parameter, toward more regularization, if `values` (n, h) are a regular grid."""
    axes = grid_axes(values)
    if axes is None:
        return band
    grid = band.reshape([len(axis) for axis in axes])
    for place, parameter in enumerate(space):
        toward_strong = np.moveaxis(grid, place, 0)[:: parameter.sign]
        grid = np.moveaxis(accumulated(toward_strong)[:: parameter.sign], 0, place)
    return grid.reshape(-1)


def error_bands(found: MemberOutlook, widths: OutlookWidths, wide: float, unit_mm: float) -> tuple[Band, Band]:
    """Return median and 95th percentile of the error in mm at the settings of the first pair, shape (n,) each.

    Parameters
    ----------
    wide : factor of the bands for an uncertain prediction.
    unit_mm : length in which errors were learned.
    """
    middle, outer = (
        log_band(found.curves[0, n] + math.log(unit_mm), wide * widths.curves[n] * found.scale[0, n]) for n in range(2)
    )
    return middle, Band(outer.value, *(np.maximum(getattr(outer, end), getattr(middle, end)) for end in ("lower", "upper")))


def gain_band(found: MemberOutlook, widths: OutlookWidths, wide: float) -> Band:
    """Return the share of 1 - Dice that deforming is expected to win, at the settings of the first pair, shape (n,).

    Parameters
    ----------
    wide : factor of the band for an uncertain prediction.
    """
    place = OUTLOOK_CURVES.index("gain")
    value, reach = found.curves[0, place], np.maximum(wide * widths.curves[place] * found.scale[0, place], LEAST_DICE_REACH)
    return Band(*(np.clip(part, -1.0, 1.0) for part in (value, value - reach, value + reach)))


def chances(found: MemberOutlook, widths: OutlookWidths) -> tuple[float, float]:
    """Return the chances that the first pair's alignment has failed, and that deforming helps."""
    logits = [slope * logit + offset for logit, (slope, offset) in zip(found.chances[0], widths.chances, strict=True)]
    failed, helps = (float(torch.sigmoid(torch.tensor(float(logit)))) for logit in logits)
    return failed, helps


def outlook_of(found: MemberOutlook, widths: OutlookWidths, wide: float, unit_mm: float) -> Outlook:
    """Return the outlook of the first pair; parameters as for `error_bands`.

    What deforming gains is the difference of two errors that are told apart from each other; its band takes them as independent.
    """
    failed, helps = chances(found, widths)
    affine = log_band(found.affine_error + math.log(unit_mm), wide * widths.affine_error * found.affine_scale)[0]
    error = error_bands(found, widths, wide, unit_mm)[0]
    least = error[int(np.argmin(error.value))]
    gain = affine.value - least.value
    below = math.hypot(affine.value - affine.lower, least.upper - least.value)
    above = math.hypot(affine.upper - affine.value, least.value - least.lower)
    return Outlook(
        failed=failed,
        helps=helps,
        affine_error_mm=BandValue(*(float(part) for part in (affine.value, affine.lower, affine.upper))),
        gain_mm=BandValue(float(gain), float(gain - below), float(gain + above)),
        source="network",
    )
