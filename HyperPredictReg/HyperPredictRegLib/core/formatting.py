"""Numbers, lengths and first letters as text: the one place that decides how many digits are printed."""

from __future__ import annotations

import math

DASH = "–"

LEAST_SHARE_OF_VOXEL = 1e-4
"""Of a voxel; what is shorter is printed as "under" it: nobody registers that well, and its digits would be those of rounding."""

LEAST_SPREAD = 1e-4
"""The same for the spread of the logarithm of the Jacobian determinant."""

_NOISE_MM = 1e-9
"""Shorter distances are what rounding leaves of none; not even atoms lie so close."""
_LEAST_PLAIN, _LARGEST_PLAIN = 1e-6, 1e9


def capitalized(text: str) -> str:
    """Return text for the start of a sentence: its first letter as a capital, the rest as it is."""
    return text[:1].upper() + text[1:]


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with `digits` decimals or, where these would show too little of it, with two significant digits.

    So 0.4812 reads "0.48", and 0.00048, a distance in an image with voxels of a micrometer, "0.00048" instead of "0.00". A value
    that is missing or not finite is a dash.
    """
    if value is None or not math.isfinite(value):
        return DASH
    if 0 < abs(value) < _LEAST_PLAIN or abs(value) >= _LARGEST_PLAIN:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        text = f"{mantissa}e{int(exponent):+d}"
    else:
        text = f"{abs(value) if value == 0 else value:.{_decimals(value, digits)}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def rounded(value: float, digits: int = 2) -> float:
    """Return a number as its reader takes it from `number`."""
    return round(value, _decimals(value, digits)) if math.isfinite(value) else value


def distance(value: float | None, digits: int = 2, *, voxel_mm: float | None = None) -> str:
    """Return a distance in mm, as `number` does, with its unit; what is left of none by rounding is 0.

    Parameters
    ----------
    voxel_mm : the smallest spacing of the grid that it was measured on. A distance of less than about `LEAST_SHARE_OF_VOXEL` of
        it is printed as under that, in a power of ten: "under 0.0001 mm" for voxels of 1 to 10 mm.
    """
    if value is not None and abs(value) < _NOISE_MM:
        value = 0.0
    if value and voxel_mm is not None and math.isfinite(voxel_mm) and voxel_mm > 0:
        least = LEAST_SHARE_OF_VOXEL * 10.0 ** math.floor(math.log10(voxel_mm) + 1e-9)
        if abs(value) < least:
            return f"under {_power_of_ten(least)} mm"
    return f"{number(value, digits)} mm"


def spread(value: float | None) -> str:
    """Return a spread of the logarithm of the Jacobian determinant; a tiny one is under `LEAST_SPREAD`."""
    if value is not None and 0 < value < LEAST_SPREAD:
        return f"under {_power_of_ten(LEAST_SPREAD)}"
    return number(value, 3)


def _power_of_ten(value: float) -> str:
    power = round(math.log10(value))
    return f"{value:.{max(-power, 0)}f}" if -7 < power < 9 else number(value)


def _decimals(value: float, digits: int) -> int:
    # From here on `digits` decimals show two significant digits, or one where only one decimal is asked for.
    least = 10.0 ** (1 - digits if digits > 1 else -digits)
    if value == 0 or abs(value) >= least:
        return digits
    return 1 - int(f"{abs(value):.1e}".partition("e")[2])
