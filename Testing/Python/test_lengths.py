"""Lengths read well at any scale."""

from __future__ import annotations

import pytest
from HyperPredictRegLib.lengths import distance_text


@pytest.mark.parametrize(
    ("length_mm", "text"),
    [
        (0.4312, "0.43 mm"), (0.00043, "0.00043 mm"), (4.3e-7, "0.00000043 mm"), (12.34, "12 mm"), (0.0996, "0.10 mm"),
        (1234.5, "1200 mm"), (0, "0 mm"), (1e-12, "1.0e-12 mm"), (1e300, "1.0e+300 mm"),
        (float("nan"), "an unknown distance"),
    ],
)  # fmt: skip
def test_lengths_keep_their_significant_digits(length_mm: float, text: str) -> None:
    assert distance_text(length_mm) == text
