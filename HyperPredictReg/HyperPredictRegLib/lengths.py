"""Lengths as text: with significant digits, so that what is small in an image of micrometers is not printed as nothing."""

from __future__ import annotations

import math


def distance_text(length_mm: float, digits: int = 2) -> str:
    """Return a length as text in mm, rounded to `digits` significant digits: "0.43 mm", "0.00043 mm", "120 mm"."""
    if length_mm == 0 or not math.isfinite(length_mm):
        return "0 mm" if length_mm == 0 else "an unknown distance"
    rounded = f"{length_mm:.{digits - 1}e}"
    power = int(rounded.partition("e")[2])
    if not -7 <= power <= 9:
        return f"{rounded} mm"
    return f"{float(rounded):.{max(digits - 1 - power, 0)}f} mm"
