"""Smooth curves over a hyperparameter: a clamped cubic B-spline basis whose knots follow where the sweep looked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.interpolate import BSpline

DEGREE = 3


def knots_for(values: np.ndarray, count: int) -> tuple[float, ...]:
    """Return `count` knots in ascending order at even quantiles of `values` (n,), from the least to the greatest.

    Where a sweep tried many λ, because something changes there, a curve can bend more.
    """
    return tuple(np.quantile(np.asarray(values, dtype=float), np.linspace(0, 1, count)).tolist())


def basis_size(knots: Sequence[float]) -> int:
    """Return the number of basis functions over `knots`."""
    return len(knots) + DEGREE - 1


def basis_at(values: np.ndarray, knots: Sequence[float]) -> np.ndarray:
    """Evaluate the basis, shape (n, basis_size); each row is >= 0 and sums to 1.

    A curve with non-increasing coefficients does not increase (de Boor, A Practical Guide to Splines, 1978, chapter XI).
    `values` (n,) beyond the outermost knots take the basis of the nearest one: a curve is constant there.
    """
    padded = np.concatenate([np.repeat(knots[0], DEGREE), knots, np.repeat(knots[-1], DEGREE)])
    inside = np.clip(np.asarray(values, dtype=float), knots[0], knots[-1])
    return BSpline.design_matrix(inside, padded, DEGREE).toarray().astype(np.float32)
