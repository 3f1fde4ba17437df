"""What the training pairs have in common: the fixed λ of those who do not predict, and curves read off between the measured λ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from HyperPredictRegLib.predictor.bands import LEAST_FOLDING
from scipy.interpolate import PchipInterpolator

from HyperPredictRegLab.training.examples import Examples

MOST_OVER_LIMIT = 0.1
"""A fixed λ may break the folding limit for this share of pairs."""


def dense_grid(examples: Examples, count: int = 200) -> np.ndarray:
    """Return `count` λ, log-spaced from the median pair's lowest to the median pair's highest measured λ, shape (count,)."""
    low, high = (np.median(edge(examples.values, axis=1)) for edge in (np.nanmin, np.nanmax))
    return np.geomspace(low, high, count)


def trained_range(examples: Examples) -> tuple[float, float]:
    """Return the lowest and highest λ beyond which fewer than a tenth of the pairs were measured."""
    low = np.quantile(np.nanmin(examples.values, axis=1), 0.1)
    high = np.quantile(np.nanmax(examples.values, axis=1), 0.9)
    return round(float(low), 4), round(float(high), 4)


def at_values(examples: Examples, measured: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Read measured curves (P, ..., N) at λ `values` (n,): (P, ..., n), by monotone cubics over log λ (PCHIP).

    Beyond a pair's outermost λ the nearest measurement stands. Curves that were never measured are NaN.
    """
    result = np.full((*measured.shape[:-1], len(values)), np.nan)
    wanted = np.log(values)
    for row, own in enumerate(examples.values):
        known = ~np.isnan(own)
        x = np.log(own[known])
        y = measured[row][..., known]
        whole = ~np.isnan(y).any(axis=-1)
        if len(x) < 2 or not whole.any():
            continue
        result[row][whole] = PchipInterpolator(x, y[whole], axis=-1)(np.clip(wanted, x[0], x[-1]))
    return result


def folding_at(examples: Examples, measured: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Read measured folding (P, N) in percent at λ `values` (n,), shape (P, n); between measurements its logarithm is curved."""
    logs = np.log(np.maximum(measured, LEAST_FOLDING))
    found = np.exp(at_values(examples, logs, values))
    return np.where(found <= LEAST_FOLDING * 1.001, 0.0, found)


def fixed_value(
    examples: Examples,
    values: np.ndarray,
    *,
    limit: float | None = 0.5,
    domain: str = "foreground",
    structures: Sequence[int] | None = None,
) -> float:
    """Return the λ that a laboratory would fix: highest mean Dice over all pairs among λ that keep the limit in nearly all.

    Parameters
    ----------
    values : candidates, rising, shape (n,).
    limit : folding in percent of `domain`; None is no limit.
    structures : label values that count; default: all.
    """
    rows = range(len(examples.labels)) if structures is None else [examples.labels.index(label) for label in structures]
    dice = np.nanmean(np.nanmean(at_values(examples, examples.dice, values)[:, list(rows)], axis=1), axis=0)
    if limit is None:
        return float(values[np.nanargmax(dice)])
    folding = folding_at(examples, examples.folding_foreground if domain == "foreground" else examples.folding_box, values)
    allowed = (folding > limit).mean(axis=0) <= MOST_OVER_LIMIT
    if not allowed.any():
        return float(values[-1])
    return float(values[np.nanargmax(np.where(allowed, dice, -np.inf))])
