"""The closed loop: which λ to register with next after the measured folding exceeded the limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from HyperPredictRegLib.curves import Band, Curves
from HyperPredictRegLib.job import Criterion, FoldingPercent, Trial
from HyperPredictRegLib.selection.choosing import NO_FOLDING_PERCENT, choose
from HyperPredictRegLib.selection.readout import log_of, rearranged

REPEATS = 3
"""Most registrations after the first one."""

FOLDING_SLOPE = -11.0
"""Change of ln(folding) per unit of ln λ where nothing better is known. Demons on a brain at 2 mm measured 3.05, 0.13, 0.012
and 0 % of the foreground at λ = 0.45, 0.6, 0.7 and 0.9: -11 at first, then steeper, so that this errs on the safe side."""

STEEPEST_SLOPE, GENTLEST_SLOPE = -20.0, -5.0
SAFETY = 0.5
"""Share of the limit that a repeat aims at: failing again costs a registration, a few percent of λ cost little Dice."""
OVERSHOOT = 1.5
"""A repeat that also failed shows that ln(folding) bends: go this much farther than its secant asks."""
SMALLEST_RISE = 0.02
"""Share of λ by which a repeat rises at least, and share of the range if λ is 0."""
MEMORY = 3.0
"""Distance in ln λ over which the correlation of the errors of a foreseen folding curve falls to 1/e."""
LEAST_LOG_SD = 0.3
"""The bands of ln(folding) are never believed to be tighter than this, for no calibration is that good."""
BAND_SDS = 1.645
"""Standard deviations from the middle of a normal distribution to either end of its 90 % band."""


def within_limit(folding: FoldingPercent, criterion: Criterion) -> bool:
    """Tell whether measured folding keeps the criterion's limit: at most the limit, or anything if there is none."""
    return criterion.folding_limit is None or _of_domain(folding, criterion) <= criterion.folding_limit


def corrected(
    curves: Curves | None, criterion: Criterion, trials: Sequence[Trial], bounds: Mapping[str, tuple[float, float]]
) -> dict[str, float] | None:
    """Return the setting to register with next, or None if the last trial kept the limit or nothing is left to try.

    Only the first hyperparameter is corrected, and it always rises; the others stay. The first repeat takes what the criterion
    chooses, cautiously and for half the limit, from the folding curve corrected by what was measured. The second also goes at
    least half the way, in ln λ, to where practically no folding is foreseen. The third and last goes to the upper bound, because
    after three forecasts that were wrong nothing less is certain: the limit is kept in the end if it can be. Without curves, or
    with several hyperparameters, ln(folding) is extrapolated linearly in ln λ, from the second repeat on along a secant.

    Parameters
    ----------
    curves : what was foreseen, or None if there is no prediction.
    trials : all registrations so far, in order; at least one.
    bounds : lower and upper bound of each hyperparameter, in the engine's order.
    """
    if not trials:
        raise ValueError("A correction needs at least one trial.")
    name, (lower, upper) = next(iter(bounds.items()))
    failed = max(trial.hyperparameters[name] for trial in trials)
    if within_limit(trials[-1].folding_percent, criterion) or len(trials) > REPEATS or failed >= upper:
        return None
    if len(trials) == REPEATS:
        value = upper
    elif curves is not None and curves.names == (name,):
        value = _rechosen(curves, criterion, trials, upper)
    else:
        value = _extrapolated(criterion, trials, name)
    least = failed + SMALLEST_RISE * (failed if failed > 0 else upper - lower)
    return {**trials[-1].hyperparameters, name: float(min(max(value, least), upper))}


def _rechosen(curves: Curves, criterion: Criterion, trials: Sequence[Trial], upper: float) -> float:
    """Choose again among the higher λ, after the folding curve has learned from the trials."""
    name = curves.names[0]
    failed = max(trial.hyperparameters[name] for trial in trials)
    higher = np.flatnonzero(curves.values[:, 0] > failed * (1 + SMALLEST_RISE))
    if not higher.size:
        return upper
    learned = _learned(curves, criterion, trials)
    rest = rearranged(learned, learned.values[higher], lambda curve: curve[..., higher])
    strict = (criterion.folding_limit or 100.0) * SAFETY
    choice = choose(rest, replace(criterion, cautious=True, folding_limit=strict))
    chosen = choice.hyperparameters[name]
    if choice.feasible and len(trials) == 1:
        return chosen
    clear = rest.values[rest.folding(criterion.domain).upper <= NO_FOLDING_PERCENT, 0]
    halfway = float(np.exp(log_of(np.array([failed, clear[0] if clear.size else upper])).mean()))
    return max(chosen, halfway) if choice.feasible else halfway


def _learned(curves: Curves, criterion: Criterion, trials: Sequence[Trial]) -> Curves:
    """Return the curves with the criterion's folding corrected by what the trials measured.

    The error of ln(folding) is taken for a Gaussian process along ln λ whose standard deviation is the band's and whose
    correlation is exp(-distance / MEMORY): the measured errors shift the curve everywhere, and narrow its band near them.
    """
    band = curves.folding(criterion.domain)
    floor = min(NO_FOLDING_PERCENT, (criterion.folding_limit or 100) / 10)
    x = log_of(curves.values[:, 0])
    middle = _log_folding(x, band.value, floor)
    spread = np.log(np.maximum(band.upper, floor) / np.maximum(band.value, floor)) / BAND_SDS
    spread = np.maximum(spread, LEAST_LOG_SD)
    at = log_of(np.array([trial.hyperparameters[curves.names[0]] for trial in trials]))
    measured = np.log([max(_of_domain(trial.folding_percent, criterion), floor) for trial in trials])
    error = measured - np.interp(at, x, middle)
    among_trials = np.exp(-np.abs(at[:, None] - at) / MEMORY) + 0.01 * np.eye(len(at))
    to_trials = np.exp(-np.abs(x[:, None] - at) / MEMORY)
    weights = np.linalg.solve(among_trials, to_trials.T).T
    kept = np.sqrt(np.clip(1 - (weights * to_trials).sum(axis=1), 0, 1))
    # An error outside of its band says that the bands are too narrow for this pair.
    surprise = np.clip(np.max(np.abs(error) / (BAND_SDS * np.interp(at, x, spread))), 1, 2)
    centre, half = middle + weights @ error, BAND_SDS * spread * kept * surprise
    value, lower, upper = (
        np.minimum.accumulate(np.exp(np.minimum(part, np.log(100.0)))) for part in (centre, centre - half, centre + half)
    )
    folding = Band(value, lower, upper)
    if criterion.domain == "foreground":
        return replace(curves, folding_foreground=folding)
    return replace(curves, folding_box=folding)


def _log_folding(x: np.ndarray, folding: np.ndarray, floor: float) -> np.ndarray:
    """Return ln(folding), continued below `floor` as a line: a curve that is flat at 0 could not be shifted to a larger λ."""
    logs = np.log(np.maximum(folding, floor))
    if folding[-1] > floor:
        return logs
    first = int(np.argmax(folding <= floor))
    slope = (logs[first] - logs[0]) / (x[first] - x[0]) if x[first] > x[0] else FOLDING_SLOPE
    return np.where(x >= x[first], logs[first] + min(slope, GENTLEST_SLOPE) * (x - x[first]), logs)


def _extrapolated(criterion: Criterion, trials: Sequence[Trial], name: str) -> float:
    """Return where the line through the last measured points falls to a safe share of the limit."""
    limit = criterion.folding_limit or 100.0
    x = log_of(np.array([trial.hyperparameters[name] for trial in trials[-2:]]))
    y = np.log([max(_of_domain(trial.folding_percent, criterion), limit / 100) for trial in trials[-2:]])
    slope, farther = FOLDING_SLOPE, 1.0
    if len(x) == 2 and x[1] > x[0]:
        slope, farther = float(np.clip((y[1] - y[0]) / (x[1] - x[0]), STEEPEST_SLOPE, GENTLEST_SLOPE)), OVERSHOOT
    return float(np.exp(x[-1] + farther * (np.log(SAFETY * limit) - y[-1]) / slope))


def _of_domain(folding: FoldingPercent, criterion: Criterion) -> float:
    return folding.foreground if criterion.domain == "foreground" else folding.box
