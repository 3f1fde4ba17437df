"""Numbers as text: the one place that decides how many digits a measured or predicted number is printed with."""

from __future__ import annotations

import math

from HyperPredictRegLib.job import BandValue

DASH = "–"

LEAST_PERCENT = 0.01
"""A share below this, in percent, is printed as "under" it."""

_NOISE_MM = 1e-9
"""Shorter distances are what rounding leaves of none; not even atoms lie so close."""
_LEAST_PLAIN = 1e-6
_UNKNOWN = "unknown"


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with `digits` decimals or, where these would show too little of it, with two significant digits.

    So 0.4812 reads "0.48", and 0.00048, a distance in an image with voxels of a micrometre, "0.00048" instead of "0.00". A value
    that is missing or not finite is a dash.
    """
    if value is None or not math.isfinite(value):
        return DASH
    if 0 < abs(value) < _LEAST_PLAIN:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        text = f"{mantissa}e{int(exponent)}"
    else:
        text = f"{abs(value) if value == 0 else value:.{_decimals(value, digits)}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def rounded(value: float, digits: int = 2) -> float:
    """Return a number as its reader takes it from `number`."""
    return round(value, _decimals(value, digits)) if math.isfinite(value) else value


def distance(value: float | None, digits: int = 2) -> str:
    """Return a distance in mm, as `number` does, with its unit; what is left of none by rounding is 0."""
    if value is not None and abs(value) < _NOISE_MM:
        value = 0.0
    return f"{number(value, digits)} mm"


def short(value: float | None) -> str:
    """Return a number with four significant digits, for values of unknown size."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


def significant(value: float | None) -> str:
    """Return a setting with three significant digits."""
    return DASH if value is None or not math.isfinite(value) else f"{value:.3g}"


def percent(value: float | None) -> str:
    """Return a measured share in percent; a tiny one is never rounded to nothing."""
    if value is None or not math.isfinite(value):
        return DASH
    if 0 < value < LEAST_PERCENT:
        return f"under {LEAST_PERCENT} %"
    return "0 %" if value == 0 else f"{value:.2f} %"


def predicted_percent(value: float) -> str:
    """Return a predicted share in percent: nobody can foretell that nothing at all will fold."""
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


def banded_percent(value: BandValue) -> str:
    """Return a predicted share in percent and, in brackets, its 90 % band."""
    return _with_band(predicted_percent(value.value), percent_band(value))


def _with_band(text: str, ends: str) -> str:
    return f"{text} (band {_UNKNOWN})" if ends == _UNKNOWN else f"{text} ({ends})"


def _span(lower: str, upper: str) -> str:
    return _UNKNOWN if lower == upper != DASH else f"{lower} to {upper}"


def _decimals(value: float, digits: int) -> int:
    # Where one decimal is enough for ordinary values, one digit is too.
    least = 10.0 ** (1 - digits if digits > 1 else -digits)
    if value == 0 or abs(value) >= least:
        return digits
    return 1 - math.floor(math.log10(abs(value)))
