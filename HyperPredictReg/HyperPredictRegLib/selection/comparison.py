"""Predicted against measured: which numbers stand side by side, and what lies outside of its predicted band."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.formatting import LEAST_SPREAD, number, rounded, spread
from HyperPredictRegLib.results.formatting import LEAST_PERCENT, band, percent, percent_band
from HyperPredictRegLib.results.prediction import BandValue, Predicted, PredictionSurface
from HyperPredictRegLib.results.report import Comparison, DiceMeasure, FoldingPercent, Measured, Trial
from HyperPredictRegLib.selection.interpolation import predict_at

_WORDS = {
    "folding_foreground": "folding of the foreground",
    "folding_grid": "folding of the grid",
    "sd_log_jacobian": "the spread of the logarithm of the Jacobian determinant",
}

_NARROW = 1 / 3
"""A miss of at most so much of what the band reaches to that side is narrow: of normal errors, all but 1 in 35 lie within."""


def predicted_at(
    surface: PredictionSurface | None, predicted: Predicted | None, setting: Mapping[str, float]
) -> Predicted | None:
    """Return what was predicted for the setting of the result, which the closed loop may have corrected; None if nothing was.

    Parameters
    ----------
    surface : of the prediction.
    predicted : at the first setting; None where the prediction was not used.
    setting : of the result.
    """
    if predicted is None or is_at(predicted.setting, setting):
        return predicted
    if surface is None or any(name not in setting for name in surface.names):
        return None
    try:
        return predict_at(surface, setting, predicted.predictor)
    except InputError:  # a corrected setting may lie beyond the surface
        return None


def compared(
    first: Predicted | None, at_result: Predicted | None, trials: Sequence[Trial], measured: Measured
) -> tuple[Comparison, ...]:
    """Return what was predicted beside what was measured: of the first trial, where it is not the result, then of the result.

    Dice is measured for the result alone. Structures are matched by label; where some that were predicted were not measured,
    the predicted mean is the one over the structures that were, and its band the mean of theirs, as if their errors went
    together: rather too wide than too narrow.
    """
    found: list[Comparison] = []
    if first is not None and trials and not (at_result is not None and is_at(first.setting, at_result.setting)):
        found += _of_deformation(first, trials[0].folding_percent, trials[0].sd_log_jacobian, at_result=False)
    if at_result is not None:
        found += _of_dice(at_result, measured.dice)
        found += _of_deformation(at_result, measured.folding_percent, measured.sd_log_jacobian, at_result=True)
    return tuple(found)


def surprises(comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """Return what of the result was measured outside of its predicted band."""
    return tuple(one for one in comparisons if one.at_result and one.lies in ("below", "above"))


def surprise_words(comparisons: Sequence[Comparison]) -> str:
    """Say what of the result was measured outside of its predicted band, without a full stop; nothing if all lies inside.

    What misses its band by little is said to lie just beside it: one number in ten does, of pairs that are like all others.
    """
    found = surprises(comparisons)
    if not found:
        return ""
    return "Not as predicted: " + ", and ".join(
        f"{what_words(one)} is {measured_text(one)}, {_place(one)} the predicted 90 % band ({band_text(one)})" for one in found
    )


def misses_narrowly(one: Comparison) -> bool:
    """Tell whether a measured number lies beside its band by a small part of what the band reaches to that side."""
    band = one.predicted
    numbers = [band.lower, band.value, band.upper, one.measured]
    if one.lies not in ("below", "above") or not all(math.isfinite(end) for end in numbers):
        return False
    if one.what != "dice":
        # Their errors are factors.
        numbers = [math.log(max(end, _least(one.what))) for end in numbers]
    lower, value, upper, measured = numbers
    reach, beside = (value - lower, lower - measured) if one.lies == "below" else (upper - value, measured - upper)
    return beside <= _NARROW * reach


def what_words(one: Comparison) -> str:
    """Say what was compared, such as "mean Dice of 30 structures"."""
    if one.what == "dice":
        return f"mean Dice of {one.structures} structures" if one.structures > 1 else "Dice of the one structure"
    return _WORDS[one.what]


def measured_text(one: Comparison) -> str:
    """Return the measured number as text."""
    if _is_share(one):
        return percent(one.measured)
    return spread(one.measured) if one.what == "sd_log_jacobian" else number(one.measured, 3)


def band_text(one: Comparison) -> str:
    """Return the predicted band as text."""
    return percent_band(one.predicted) if _is_share(one) else band(one.predicted)


def is_at(some: Mapping[str, float], others: Mapping[str, float]) -> bool:
    """Tell whether all of some parameters have the same values among others."""
    return all(math.isclose(value, others.get(name, math.nan), rel_tol=1e-6) for name, value in some.items())


def _of_deformation(predicted: Predicted, folding: FoldingPercent, log_jacobian: float, at_result: bool) -> list[Comparison]:
    here = dict(predicted.setting)
    pairs = (
        ("folding_foreground", predicted.folding_foreground, folding.foreground),
        ("folding_grid", predicted.folding_grid, folding.grid),
        ("sd_log_jacobian", predicted.sd_log_jacobian, log_jacobian),
    )
    return [Comparison(what, here, band, value, _lies(what, band, value), at_result) for what, band, value in pairs]


def _of_dice(predicted: Predicted, dice: DiceMeasure | None) -> list[Comparison]:
    known = {structure.label: structure.dice for structure in predicted.structures}
    shared = [] if dice is None else [s for s in dice.structures if s.label in known and math.isfinite(s.dice)]
    expected = predicted.mean_dice
    if not shared or expected is None:
        return []
    if len(shared) < len(known):
        bands = [known[s.label] for s in shared]
        expected = BandValue(*(float(np.mean([getattr(one, end) for one in bands])) for end in ("value", "lower", "upper")))
    measured = float(np.mean([s.dice for s in shared]))
    lies = _lies("dice", expected, measured)
    return [Comparison("dice", dict(predicted.setting), expected, measured, lies, True, len(shared), len(known))]


def _lies(what: str, band: BandValue, measured: float) -> str:
    """Tell where a measured number lies to a reader: one that is printed like the end of its band lies inside."""
    if not all(math.isfinite(value) for value in (band.lower, band.upper, measured)):
        return ""
    numbers = (band.lower, measured, band.upper)
    if what.startswith("folding"):
        lower, value, upper = (max(round(one, 2), LEAST_PERCENT) for one in numbers)
    else:
        lower, value, upper = (rounded(one, 3) for one in numbers)
    return "inside" if lower <= value <= upper else "below" if value < lower else "above"


def _place(one: Comparison) -> str:
    return f"just {one.lies}" if misses_narrowly(one) else one.lies


def _least(what: str) -> float:
    return LEAST_PERCENT if what.startswith("folding") else LEAST_SPREAD


def _is_share(one: Comparison) -> bool:
    return one.what.startswith("folding")
