"""Read curves at settings that they were not computed for, and put single points of them into words and reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from HyperPredictRegLib.curves import Band, Curves
from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.job import BandValue, Predicted, PredictedStructure


def interpolated(curves: Curves, values: np.ndarray) -> Curves:
    """Return the curves at other settings: what is foreseen for a λ set by hand.

    One hyperparameter: linear in ln λ between the two neighbours. Several: the nearest of the foreseen settings, on logarithmic
    axes scaled to their extent.

    Parameters
    ----------
    values : shape (m, h), or (m,) or a single number for one hyperparameter; in rising order for one hyperparameter.

    Raises
    ------
    InputError : a value lies outside of what was foreseen.
    """
    asked = np.asarray(values, dtype=float).reshape(-1, curves.values.shape[1])
    for column, name in enumerate(curves.names):
        low, high = curves.values[:, column].min(), curves.values[:, column].max()
        wrong = asked[~((asked[:, column] >= low * (1 - 1e-9)) & (asked[:, column] <= high * (1 + 1e-9))), column]
        if wrong.size:
            raise InputError(
                f"Nothing was foreseen for {word_for(name)} = {wrong[0]:g}: choose a value from {low:.4g} to {high:.4g}, "
                "or register and see what is measured."
            )
    known, at = log_of(curves.values), log_of(asked)
    if known.shape[1] > 1 or len(known) == 1:
        extent = np.maximum(np.ptp(known, axis=0), np.finfo(float).tiny)
        nearest = (((at[:, None, :] - known[None, :, :]) / extent) ** 2).sum(axis=-1).argmin(axis=1)
        return rearranged(curves, asked, lambda curve: curve[..., nearest])
    above = np.clip(np.searchsorted(known[:, 0], at[:, 0]), 1, len(known) - 1)
    gap = known[above, 0] - known[above - 1, 0]
    share = np.clip((at[:, 0] - known[above - 1, 0]) / np.where(gap > 0, gap, 1.0), 0.0, 1.0)
    return rearranged(curves, asked, lambda curve: (1 - share) * curve[..., above - 1] + share * curve[..., above])


def foreseen(curves: Curves, hyperparameters: Mapping[str, float], predictor: str) -> Predicted:
    """Return what the curves of the named predictor foresee at one setting, for the report; see `interpolated` for errors."""
    here = interpolated(curves, np.array([[hyperparameters[name] for name in curves.names]]))
    return Predicted(
        predictor=predictor,
        hyperparameters={name: float(hyperparameters[name]) for name in curves.names},
        mean_dice=band_value(here.mean_dice, 0),
        structures=tuple(
            PredictedStructure(label, name, band_value(here.dice, (row, 0)))
            for row, (label, name) in enumerate(zip(here.labels, here.structures, strict=True))
        ),
        folding_foreground=band_value(here.folding_foreground, 0),
        folding_box=band_value(here.folding_box, 0),
        sd_log_jacobian=band_value(here.sd_log_jacobian, 0),
    )


def rearranged(curves: Curves, values: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> Curves:
    """Return curves for other settings `values` (m, h), every array of the bands changed from (..., n) to (..., m)."""

    def changed(band: Band) -> Band:
        return Band(change(band.value), change(band.lower), change(band.upper))

    return replace(
        curves,
        values=values,
        dice=changed(curves.dice),
        mean_dice=changed(curves.mean_dice),
        folding_foreground=changed(curves.folding_foreground),
        folding_box=changed(curves.folding_box),
        sd_log_jacobian=changed(curves.sd_log_jacobian),
    )


def band_value(band: Band, index: Any) -> BandValue:
    """Return one point of a band as plain numbers."""
    return BandValue(float(band.value[index]), float(band.lower[index]), float(band.upper[index]))


def word_for(name: str) -> str:
    """Return how users call a hyperparameter: λ for the regularisation weight."""
    return "λ" if name == "regularization_weight" else name.replace("_", " ")


def log_of(values: np.ndarray) -> np.ndarray:
    """Return the natural logarithm of settings; 0 counts as 1e-9."""
    return np.log(np.maximum(values, 1e-9))
