"""Read a predicted surface at settings that it was not computed for, and single points of it for reports."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from scipy.spatial import Delaunay, QhullError, cKDTree

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.search_space import SearchSpace
from HyperPredictRegLib.results.prediction import Band, BandValue, Predicted, PredictedStructure, PredictionSurface


def interpolated(surface: PredictionSurface, values: np.ndarray) -> PredictionSurface:
    """Return the surface at other settings: what is predicted for a setting that the user gives.

    Linear between neighbours, on each parameter's scale; see `neighbors`.

    Parameters
    ----------
    values : shape (m, h); (m,) or a single number will do for one parameter.

    Raises
    ------
    InputError : a value lies outside of what was predicted.
    """
    asked = np.asarray(values, dtype=float).reshape(-1, len(surface.space))
    for column, parameter in enumerate(surface.space):
        known = surface.values[:, column]
        low, high = float(known.min()), float(known.max())
        slack = 1e-9 * max(abs(low), abs(high))
        wrong = asked[~((asked[:, column] >= low - slack) & (asked[:, column] <= high + slack)), column]
        if wrong.size:
            raise InputError(
                f"Nothing was predicted for {parameter.text(wrong[0])}: choose a value from {low:.4g} to {high:.4g}, "
                "or register and see what is measured."
            )
    rows, weights = neighbors(surface.space, surface.values, asked)
    return rearranged(surface, asked, lambda curve: np.einsum("...mk,mk->...m", curve[..., rows], weights))


def neighbors(space: SearchSpace, known: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which known settings stand for other ones, and with which weights: linear interpolation in the unit cube.

    Between the neighbors on each axis if the known settings are all those of a regular grid, as those of a single parameter
    always are; else in the simplex of a Delaunay triangulation, and outside of it at the nearest known setting.

    Parameters
    ----------
    space : for the parameters' scales.
    known, asked : shapes (n, h) and (m, h).

    Returns
    -------
    rows, weights : shape (m, k), rows of `known` and their shares, which sum to 1.
    """
    points, at = space.to_unit(known), space.to_unit(asked)
    axes = [np.unique(points[:, column]) for column in range(points.shape[1])]
    if np.prod([len(axis) for axis in axes]) == len(points):
        order = np.lexsort(points.T[::-1])
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(points.shape)
        if np.array_equal(points[order], grid):
            return _in_grid(axes, order, at)
    return _in_simplices(points, at)


def predict_at(surface: PredictionSurface, setting: Mapping[str, float], predictor: str) -> Predicted:
    """Return what the surface of the named predictor predicts at one setting.

    Parameters
    ----------
    setting : of all the engine's parameters; those that the surface does not run over may be left out.

    Raises
    ------
    InputError : a value lies outside of what was predicted, or differs from the one that the surface is for.
    """
    elsewhere = beside(surface, setting)
    if elsewhere:
        raise InputError(elsewhere)
    here = interpolated(surface, surface.space.rows([setting]))
    return predicted_row(here, 0, predictor)


def beside(surface: PredictionSurface, setting: Mapping[str, float]) -> str:
    """Say which of the parameters that a surface does not run over has another value than it is for; "" if none has."""
    for name, value in surface.held.items():
        if not math.isclose(setting.get(name, value), value, rel_tol=1e-6):
            asked = f"{name.replace('_', ' ')} = {setting[name]:.3g}"
            return f"Nothing was predicted for {asked}, only for {value:.3g}: leave it, or register and see what is measured."
    return ""


def predicted_row(surface: PredictionSurface, row: int, predictor: str) -> Predicted:
    """Return what the surface of the named predictor predicts at one of its own settings."""
    return Predicted(
        predictor=predictor,
        setting=surface.space.setting(surface.values[row]),
        mean_dice=None if surface.mean_dice is None else band_value(surface.mean_dice, row),
        structures=tuple(
            PredictedStructure(label, name, band_value(surface.dice, (number, row)))
            for number, (label, name) in enumerate(zip(surface.labels, surface.structures, strict=True))
        ),
        folding_foreground=band_value(surface.folding_foreground, row),
        folding_grid=band_value(surface.folding_grid, row),
        sd_log_jacobian=band_value(surface.sd_log_jacobian, row),
        error_mm=_beside_dice(surface, surface.error_mm, row),
        error_95_mm=_beside_dice(surface, surface.error_95_mm, row),
        overlap_gain=_beside_dice(surface, surface.overlap_gain, row),
    )


def _beside_dice(surface: PredictionSurface, band: Band | None, row: int) -> BandValue | None:
    """Return one point of a band; None where another predictor tells it beside Dice, and nothing there."""
    if band is None or (surface.mean_dice is not None and np.isnan(band.value[row])):
        return None
    return band_value(band, row)


def rearranged(surface: PredictionSurface, values: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> PredictionSurface:
    """Return a surface for other settings `values` (m, h), every array of its bands changed from (..., n) to (..., m)."""
    bands: dict[str, Any] = {
        name: Band(change(band.value), change(band.lower), change(band.upper)) for name, band in surface.bands.items()
    }
    return replace(surface, values=values, **bands)


def band_value(band: Band, index: Any) -> BandValue:
    """Return one point of a band as plain numbers."""
    return BandValue(float(band.value[index]), float(band.lower[index]), float(band.upper[index]))


def _in_grid(axes: list[np.ndarray], order: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Interpolate between the corners of a grid's cell; `order` sorts the known settings, the first axis changing slowest."""
    below, share = [], []
    for axis, places in zip(axes, at.T, strict=True):
        left = np.clip(np.searchsorted(axis, places, side="right") - 1, 0, max(len(axis) - 2, 0))
        right = np.minimum(left + 1, len(axis) - 1)
        width = axis[right] - axis[left]
        below.append(left)
        share.append(np.clip((places - axis[left]) / np.where(width > 0, width, 1.0), 0.0, 1.0))
    shape = tuple(len(axis) for axis in axes)
    rows, weights = [], []
    for corner in product((0, 1), repeat=len(axes)):
        index = [np.minimum(left + step, size - 1) for left, step, size in zip(below, corner, shape, strict=True)]
        rows.append(order[np.ravel_multi_index(index, shape)])
        weights.append(np.prod([part if step else 1 - part for part, step in zip(share, corner, strict=True)], axis=0))
    return np.stack(rows, axis=1), np.stack(weights, axis=1)


def _in_simplices(points: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Interpolate inside of the triangulation of scattered points; outside of it the nearest one stands alone."""
    count, axes = points.shape
    rows = np.tile(cKDTree(points).query(at)[1][:, None], axes + 1)
    weights = np.eye(axes + 1)[np.zeros(len(at), dtype=int)]
    try:
        triangles = Delaunay(points) if axes > 1 and count > axes + 1 else None
    except QhullError:  # all on one line or plane
        triangles = None
    if triangles is None:
        return rows, weights
    simplex = triangles.find_simplex(at)
    found = simplex >= 0
    to_shares = triangles.transform[simplex[found]]
    shares = np.einsum("mij,mj->mi", to_shares[:, :axes], at[found] - to_shares[:, axes])
    # Simplices that are almost flat have no shares.
    usable = np.isfinite(shares).all(axis=1)
    found[found] = usable
    rows[found] = triangles.simplices[simplex[found]]
    weights[found] = np.column_stack([shares, 1 - shares.sum(axis=1)])[usable]
    return rows, weights
