"""The closed loop: which setting to register with next after the measured folding exceeded the limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from HyperPredictRegLib.core.search_space import SearchSpace, Setting
from HyperPredictRegLib.results.job import Criterion
from HyperPredictRegLib.results.prediction import Band, PredictionSurface
from HyperPredictRegLib.results.report import FoldingPercent, Trial
from HyperPredictRegLib.selection.choice import NO_FOLDING_PERCENT, choose
from HyperPredictRegLib.selection.interpolation import neighbors, rearranged

REPEATS = 3
"""Most registrations after the first one."""

LONGEST_RANGE = 2.42
"""How long the range of a parameter counts at most: as long as that of the λ of demons in ln λ. See `_places`."""

FOLDING_SLOPE = -11.0
"""Change of ln(folding) per unit of ln λ, or what corresponds to it (see `_places`), where nothing better is known.

Demons on a brain at 2 mm measured 3.05, 0.13, 0.012 and 0 % of the foreground at λ = 0.45, 0.6, 0.7 and 0.9: -11 at first, then
steeper, so that this errs on the safe side.
"""

STEEPEST_SLOPE, GENTLEST_SLOPE = -20.0, -5.0
SAFETY = 0.5
"""Share of the limit that a repeat aims at: failing again costs a registration, a few percent of λ cost little Dice."""
OVERSHOOT = 1.5
"""A repeat that also failed shows that ln(folding) is no line: go this much farther than its secant asks."""
SMALLEST_STEP = 0.02
"""How much more a repeat regularizes at least: 2 % of λ."""
MEMORY = 3.0
"""Distance over which the correlation of the errors of predicted folding falls to 1/e."""
LEAST_LOG_SD = 0.3
"""The bands of ln(folding) are never believed to be tighter than this, for no calibration is that good."""
BAND_SDS = 1.645
"""Standard deviations from the middle of a normal distribution to either end of its 90 % band."""


def within_limit(folding: FoldingPercent, criterion: Criterion) -> bool:
    """Tell whether measured folding keeps the criterion's limit: at most the limit, or anything if there is none."""
    return criterion.folding_limit is None or _of_domain(folding, criterion) <= criterion.folding_limit


def corrected(
    surface: PredictionSurface | None, criterion: Criterion, trials: Sequence[Trial], space: SearchSpace
) -> Setting | None:
    """Return the setting to register with next, or None if the last trial kept the limit or nothing is left to try.

    The first repeat takes what the criterion chooses, cautiously and for half the limit, from the surface whose folding was
    corrected by what was measured, among settings that regularize more than those that failed, in at least one parameter. The
    second also goes at least half the way to where practically no folding is predicted. The third and last takes the most
    strongly regularized setting, because after three predictions that were wrong nothing less is certain: the limit is kept in
    the end if it can be. Parameters that the surface does not run over stay until then. Without a surface ln(folding) is
    extrapolated linearly along the first parameter, from the second repeat on along a secant; the others stay.

    Parameters
    ----------
    surface : what was predicted, or None if there is no prediction.
    trials : all registrations so far, in order; at least one.
    space : what the engine accepts for this pair.
    """
    if not trials:
        raise ValueError("A correction needs at least one trial.")
    at, last = _places(space, space.rows([trial.setting for trial in trials])), trials[-1]
    exhausted = len(trials) > REPEATS or (at >= _ends(space) - 1e-9).all(axis=1).any()
    if within_limit(last.folding_percent, criterion) or exhausted:
        return None
    if len(trials) == REPEATS:
        return space.strongest
    if surface is not None:
        predicted = np.isin(space.names, surface.names)
        place = at[-1].copy()
        place[predicted] = _rechosen(surface, criterion, trials, space.only(surface.names))
    else:
        place = _extrapolated(criterion, trials, at, _ends(space))
    if np.array_equal(place, at[-1]):
        # What was predicted over has nothing left to give: the same again would fold the same.
        return space.strongest
    found = space.setting(space.at_shares(np.clip(place / _ends(space), 0, 1)[None])[0])
    # Exactly as it was where nothing moves.
    return {name: found[name] if moved else last.setting[name] for name, moved in zip(space.names, place != at[-1], strict=True)}


def _places(space: SearchSpace, values: np.ndarray) -> np.ndarray:
    """Return how strongly settings (n, h) regularize on each axis, same shape, from 0 to `_ends`, in units of ln λ.

    What a unit does is known of demons alone. So a logarithmic range that is shorter than theirs is measured in steps of the
    logarithm, and any other counts as long as theirs.
    """
    return space.shares(values) * _ends(space)


def _ends(space: SearchSpace) -> np.ndarray:
    return np.array([min(p.span, LONGEST_RANGE) if p.scale == "log" else LONGEST_RANGE for p in space])


def _rechosen(surface: PredictionSurface, criterion: Criterion, trials: Sequence[Trial], space: SearchSpace) -> np.ndarray:
    """Choose again among what regularizes more, after the surface has learned from the trials; return the place."""
    at, places = _places(space, space.rows([trial.setting for trial in trials])), _places(space, surface.values)
    last, end = at[-1], _ends(space)
    # What regularizes no more, in any parameter, than a trial that failed would fold at least as much.
    more = np.any(places[:, None] > at + SMALLEST_STEP, axis=2)
    left = np.flatnonzero(np.all(more, axis=1))
    if not left.size:
        return end
    learned = _learned(surface, criterion, trials, space)
    rest = rearranged(learned, learned.values[left], lambda curve: curve[..., left])
    strict = (criterion.folding_limit or 100.0) * SAFETY
    choice = choose(rest, replace(criterion, cautious=True, folding_limit=strict))
    chosen = _places(space, space.rows([choice.setting]))[0]
    if choice.feasible and len(trials) == 1:
        return chosen
    clear = places[left][rest.folding(criterion.domain).upper <= NO_FOLDING_PERCENT]
    nearest = clear[np.linalg.norm(clear - last, axis=1).argmin()] if len(clear) else end
    halfway = (last + np.maximum(nearest, last)) / 2
    place = np.maximum(chosen, halfway) if choice.feasible else halfway
    return place if (place > last + SMALLEST_STEP).any() else last + SMALLEST_STEP


def _learned(
    surface: PredictionSurface, criterion: Criterion, trials: Sequence[Trial], space: SearchSpace
) -> PredictionSurface:
    """Return the surface with the criterion's folding corrected by what the trials measured.

    The error of ln(folding) is taken for a Gaussian process over the space whose standard deviation is the band's and whose
    correlation is exp(-distance / MEMORY): the measured errors shift the surface everywhere, and narrow its band near them.
    """
    band = surface.folding(criterion.domain)
    floor = min(NO_FOLDING_PERCENT, (criterion.folding_limit or 100) / 10)
    x = _places(space, surface.values)
    middle = _log_folding(x, band.value, floor)
    spread = np.log(np.maximum(band.upper, floor) / np.maximum(band.value, floor)) / BAND_SDS
    spread = np.maximum(spread, LEAST_LOG_SD)
    tried = space.rows([trial.setting for trial in trials])
    rows, shares = neighbors(surface.space, surface.values, tried)
    at = _places(space, tried)
    measured = np.log([max(_of_domain(trial.folding_percent, criterion), floor) for trial in trials])
    error = measured - (middle[rows] * shares).sum(axis=1)
    among_trials = np.exp(-_distances(at, at) / MEMORY) + 0.01 * np.eye(len(at))
    to_trials = np.exp(-_distances(x, at) / MEMORY)
    weights = np.linalg.solve(among_trials, to_trials.T).T
    retained = np.sqrt(np.clip(1 - (weights * to_trials).sum(axis=1), 0, 1))
    # An error outside of its band says that the bands are too narrow for this pair.
    surprise = np.clip(np.max(np.abs(error) / (BAND_SDS * (spread[rows] * shares).sum(axis=1))), 1, 2)
    center, half = middle + weights @ error, BAND_SDS * spread * retained * surprise
    parts = [np.exp(np.minimum(part, np.log(100.0))) for part in (center, center - half, center + half)]
    if len(space) == 1:
        order = np.argsort(x[:, 0], kind="stable")
        for part in parts:
            part[order] = np.minimum.accumulate(part[order])
    changed: dict[str, Any] = {f"folding_{criterion.domain}": Band(*parts)}
    return replace(surface, **changed)


def _log_folding(x: np.ndarray, folding: np.ndarray, floor: float) -> np.ndarray:
    """Return ln(folding) at places x (n, h), falling on below `floor`: what is flat at 0 could not be shifted to a larger λ."""
    logs = np.log(np.maximum(folding, floor))
    above = folding > floor
    if above.all():
        return logs
    weakest = x.sum(axis=1).argmin()
    slope = FOLDING_SLOPE
    if above[weakest]:
        slope = (np.log(floor) - logs[weakest]) / _distances(x[~above], x[[weakest]]).min()
    beyond = cKDTree(x[above] if above.any() else x[[weakest]]).query(x)[0]
    return logs + np.where(above, 0.0, min(slope, GENTLEST_SLOPE) * beyond)


def _extrapolated(criterion: Criterion, trials: Sequence[Trial], at: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return where the line through the last measured points along the first parameter falls to a safe share of the limit."""
    limit = criterion.folding_limit or 100.0
    x = at[-2:, 0]
    y = np.log([max(_of_domain(trial.folding_percent, criterion), limit / 100) for trial in trials[-2:]])
    slope, farther = FOLDING_SLOPE, 1.0
    if len(x) == 2 and x[1] > x[0]:
        slope, farther = float(np.clip((y[1] - y[0]) / (x[1] - x[0]), STEEPEST_SLOPE, GENTLEST_SLOPE)), OVERSHOOT
    step = max(farther * (np.log(SAFETY * limit) - y[-1]) / slope, SMALLEST_STEP)
    # Where the first parameter has nothing left to give, the others do.
    moves = np.arange(len(end)) == 0 if x[-1] < end[0] - 1e-9 else at[-1] < end
    return at[-1] + np.where(moves, step, 0.0)


def _distances(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the distances between points (n, h) and (m, h), shape (n, m)."""
    return np.linalg.norm(some[:, None] - others, axis=-1)


def _of_domain(folding: FoldingPercent, criterion: Criterion) -> float:
    return folding.foreground if criterion.domain == "foreground" else folding.grid
