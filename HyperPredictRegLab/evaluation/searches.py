"""Ways to a λ that foretell no curve: fixed values, a rule on the probes, and search by measuring."""

from __future__ import annotations

import numpy as np
from HyperPredictRegLib.engines import get_engine
from HyperPredictRegLib.job import Criterion
from HyperPredictRegLib.predictor.probes import probe_values

from HyperPredictRegLab.evaluation.decisions import Decision, outcome
from HyperPredictRegLab.evaluation.measured import Measured, quiet_mean
from HyperPredictRegLab.training.examples import Examples
from HyperPredictRegLab.training.population import MOST_OVER_LIMIT

BISECTIONS = 4
"""Registrations of the search by measuring."""

FACTORS = np.geomspace(0.4, 2.5, 61)
"""By which the probes' λ may be scaled."""


def fixed_for(train: Measured, criterion: Criterion, structure: int | None = None) -> float:
    """Return the λ of highest average Dice that keeps the limit in nearly all pairs, as `population.fixed_value` does.

    Parameters
    ----------
    train : pairs that the λ is tuned on.
    structure : row of the one structure that counts; default: the mean of all.
    """
    dice = (train.mean if structure is None else train.dice[:, structure])[:, train.choice]
    average = quiet_mean(dice, axis=0)
    allowed = np.ones(len(average), bool)
    if criterion.folding_limit is not None:
        over = train.folding(criterion.domain)[:, train.choice] > criterion.folding_limit
        allowed = over.mean(axis=0) <= MOST_OVER_LIMIT
    scores = np.where(allowed & np.isfinite(average), average, -np.inf)
    return float(train.values[np.argmax(scores) if np.isfinite(scores).any() else -1])


def bisected(measured: Measured, criterion: Criterion) -> Decision:
    """Look for the smallest λ that keeps the limit with `BISECTIONS` registrations and no learning, from the middle λ on.

    The best λ that kept the limit is the result; if none did, one more registration at the upper end is.
    """
    count = len(measured.examples.pairs)
    low, high = (np.full(count, np.log(end)) for end in (measured.values[0], measured.values[-1]))
    best, first = np.full(count, np.nan), np.exp((low + high) / 2)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        over = outcome(measured, np.exp(middle), criterion).over
        best = np.where(over, best, middle)
        low, high = np.where(over, middle, low), np.where(over, high, middle)
    failed = np.isnan(best)
    final = np.exp(np.where(failed, np.log(measured.values[-1]), best))
    return Decision(first, final, np.where(failed, float(BISECTIONS), BISECTIONS - 1.0))


def probe_onsets(examples: Examples, criterion: Criterion) -> np.ndarray:
    """Return the λ at which the coarse probes' folding falls to the limit, shape (P,); NaN without probes.

    Folding between probes is linear in ln λ on its logarithmic scale; beyond them, the outermost probe's λ stands.
    """
    engine = get_engine(examples.engine)
    at = np.log([value[examples.hyperparameter] for value in probe_values(engine)])
    suffix = "folding" if criterion.domain == "foreground" else "folding_box"
    names = [f"probe{n}_{suffix}" for n in range(len(at))]
    if not set(names) <= set(examples.feature_names):
        return np.full(len(examples.pairs), np.nan)
    logs = examples.features[:, [examples.feature_names.index(name) for name in names]]
    limit = np.log((criterion.folding_limit or 0.5) + 1e-2)
    # Interpolation wants a rising sequence; folding falls with λ but for noise.
    falling = np.minimum.accumulate(np.nan_to_num(logs, nan=limit), axis=1) - 1e-9 * np.arange(len(at))
    return np.exp([np.interp(-limit, -row, at) for row in falling])


def probe_rule(train: Measured, measured: Measured, criterion: Criterion) -> np.ndarray:
    """Scale the probes' onset of folding by the factor that suits the training pairs: λ per pair (P,), NaN without probes."""
    onsets, own = probe_onsets(train.examples, criterion), probe_onsets(measured.examples, criterion)
    if np.isnan(onsets).any() or np.isnan(own).any():
        return np.full(len(own), np.nan)
    ends = (measured.values[0], measured.values[-1])
    found = [outcome(train, np.clip(onsets * factor, *ends), criterion) for factor in FACTORS]
    dice = np.array([np.nanmean(o.dice) for o in found])
    allowed = np.array([o.over.mean() for o in found]) <= MOST_OVER_LIMIT
    best = np.argmax(np.where(allowed, dice, -np.inf)) if allowed.any() else len(FACTORS) - 1
    return np.clip(own * FACTORS[best], *ends)
