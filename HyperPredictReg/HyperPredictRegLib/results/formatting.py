"""Shares and predicted bands as text; plain numbers and measured lengths are in `core.formatting`."""

from __future__ import annotations

import math

from HyperPredictRegLib.core.formatting import DASH, distance, number
from HyperPredictRegLib.results.prediction import Band, BandValue, PredictionSurface

LEAST_PERCENT = 0.01
"""A share below this, in percent, is printed as "under" it."""

QUALITY_WORDS = {"mean_dice": "mean Dice", "overlap_gain": "gain of overlap", "error_mm": "error"}
QUALITY_TITLES = {
    "mean_dice": "Mean Dice",
    "overlap_gain": "Expected gain of overlap, %",
    "error_mm": "Expected error, mm",
}
"""Of each of `prediction.MEASURES`: in a sentence after "expected", and above a curve or a map."""

_UNKNOWN = "unknown"


def short(value: float | None) -> str:
    """Return a number with four significant digits, for values of unknown size."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


def percent(value: float | None) -> str:
    """Return a measured share in percent; a tiny one is never rounded to nothing."""
    if value is None or not math.isfinite(value):
        return DASH
    if 0 < value < LEAST_PERCENT:
        return f"under {LEAST_PERCENT} %"
    return "0 %" if value == 0 else f"{value:.2f} %"


def predicted_percent(value: float) -> str:
    """Return a predicted share in percent: nobody can predict that nothing at all will fold."""
    return f"under {LEAST_PERCENT} %" if 0 <= value < LEAST_PERCENT else percent(value)


def band(value: BandValue, digits: int = 3) -> str:
    """Return the ends of a 90 % band, such as "0.722 to 0.757".

    A band whose ends read alike is called unknown: no prediction is that certain.
    """
    return _span(number(value.lower, digits), number(value.upper, digits))


def percent_band(value: BandValue) -> str:
    """Return the ends of a 90 % band in percent, such as "0.03 % to 0.30 %", or "at most 0.30 %" from practically nothing on."""
    if not (math.isfinite(value.lower) and math.isfinite(value.upper)):
        return f"{percent(value.lower)} to {percent(value.upper)}"
    if value.lower < LEAST_PERCENT:
        return f"at most {max(value.upper, LEAST_PERCENT):.2f} %"
    return _span(percent(value.lower), percent(value.upper))


def banded(value: BandValue, digits: int = 3) -> str:
    """Return a predicted number and, in brackets, its 90 % band."""
    return _with_band(number(value.value, digits), band(value, digits))


def banded_mm(value: BandValue) -> str:
    """Return a predicted length in mm and, in brackets, its 90 % band, such as "0.61 mm (0.44 to 0.90)"."""
    return _with_band(distance(value.value), band(value, 2))


def gain_percent(share: float | None) -> str:
    """Return a gain of overlap, a share from -1 to 1, in whole percent of what the affine step leaves."""
    if share is None or not math.isfinite(share):
        return DASH
    return f"{number(float(round(100 * share)), 0)} %"


def banded_gain(value: BandValue) -> str:
    """Return a predicted gain of overlap and, in brackets, its 90 % band, such as "34 % (20 to 47 %)"."""
    ends = _span(*(number(float(round(100 * end)), 0) for end in (value.lower, value.upper)))
    return _with_band(gain_percent(value.value), ends if ends == _UNKNOWN else f"{ends} %")


def quality_text(measure: str, value: float | None, digits: int = 3) -> str:
    """Return a number of one of `prediction.MEASURES`; `digits` are of Dice."""
    if measure == "mean_dice":
        return number(value, digits)
    return gain_percent(value) if measure == "overlap_gain" else distance(value)


def quality_words(measure: str, value: BandValue) -> str:
    """Return one of `prediction.MEASURES` in short with its 90 % band, such as "Dice 0.74 (0.71 to 0.77)"."""
    if measure == "mean_dice":
        return f"Dice {banded(value, 2)}"
    return f"gain of overlap {banded_gain(value)}" if measure == "overlap_gain" else f"expected error {banded_mm(value)}"


def drawn_quality(surface: PredictionSurface, goal: str) -> Band:
    """Return what counts for a criterion's goal as it is drawn, shape (n,): gains of overlap in percent."""
    found = surface.quality(goal)
    if surface.measure(goal) != "overlap_gain":
        return found
    return Band(*(100 * part for part in (found.value, found.lower, found.upper)))


def banded_percent(value: BandValue) -> str:
    """Return a predicted share in percent and, in brackets, its 90 % band; all below the least share is said by that alone."""
    if 0 <= value.value <= value.upper < LEAST_PERCENT:
        return predicted_percent(value.value)
    return _with_band(predicted_percent(value.value), percent_band(value))


def _with_band(text: str, ends: str) -> str:
    return f"{text} (band {_UNKNOWN})" if ends == _UNKNOWN else f"{text} ({ends})"


def _span(lower: str, upper: str) -> str:
    return _UNKNOWN if lower == upper != DASH else f"{lower} to {upper}"
