"""Numbers and lengths read well at any scale."""

from __future__ import annotations

import pytest
from HyperPredictRegLib.core.formatting import distance, spread


@pytest.mark.parametrize(
    ("length_mm", "text"),
    [
        (0.4312, "0.43 mm"), (0.00043, "0.00043 mm"), (4.3e-7, "4.3e\N{MINUS SIGN}7 mm"), (12.34, "12.34 mm"),
        (0.0996, "0.10 mm"), (1234.5, "1234.50 mm"), (0, "0.00 mm"), (1e-12, "0.00 mm"), (1e300, "1.0e+300 mm"),
        (float("nan"), "– mm"),
    ],
)  # fmt: skip
def test_lengths_keep_their_significant_digits(length_mm: float, text: str) -> None:
    assert distance(length_mm) == text


@pytest.mark.parametrize(
    ("length_mm", "voxel_mm", "text"),
    [
        (1.3e-6, 1.0, "under 0.0001 mm"), (1.3e-6, 3.0, "under 0.0001 mm"), (0.00043, 1.0, "0.00043 mm"),
        (1.3e-6, 0.15, "under 0.00001 mm"), (1.3e-6, 0.001, "0.0000013 mm"),
        (4.3e-8, 0.001, "under 1.0e\N{MINUS SIGN}7 mm"), (0.02, 1000.0, "under 0.1 mm"), (0.3, 1000.0, "0.30 mm"),
        (0.0, 1.0, "0.00 mm"), (0.02, 1e5, "under 10 mm"),
    ],
)  # fmt: skip
def test_what_is_far_below_a_voxel_has_no_digits(length_mm: float, voxel_mm: float, text: str) -> None:
    assert distance(length_mm, voxel_mm=voxel_mm) == text


def test_a_tiny_spread_has_no_digits() -> None:
    assert [spread(value) for value in (1.5e-5, 0.00031, 0.0, 0.4567, None)] == ["under 0.0001", "0.00031", "0.000", "0.457", "–"]
