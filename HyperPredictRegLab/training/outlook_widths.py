"""Bands and chances that hold in domains never seen: calibrated on predictions of domains that were left out."""

from __future__ import annotations

import numpy as np
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.predictor.bundle import LEVEL, OutlookWidths
from HyperPredictRegLib.predictor.network import CHANCES, OUTLOOK_CURVES, MemberOutlook
from scipy.optimize import minimize

from HyperPredictRegLab.training.examples import Examples
from HyperPredictRegLab.training.outcomes import Outcomes
from HyperPredictRegLab.training.outlook import outlook_targets

LEAST_DOMAINS = 3
"""With fewer nothing can be said of a further one."""

LIMITS = (0.3, 0.9)
"""Between these lies the chance from which an alignment is said to have failed."""

_UNKNOWN_WIDTH = 3.0
"""Of a band that nothing was there to calibrate on."""

_PULL = 0.02
"""How strongly a chance's slope and offset are drawn to 1 and 0, against the mean loss over domains."""


def domain_quantile(scores: np.ndarray, domains: np.ndarray, level: float = LEVEL) -> float:
    """Return the quantile of scores (P, ...) in which every domain (P,) weighs the same; NaN is left out, and of nothing is NaN.

    A pair of a domain never seen is a draw from a domain drawn first: the average of the domains' own distributions is what its
    score comes from (Dunn, Wasserman and Ramdas, JASA 118 (2023) 2491).
    """
    flat = scores.reshape(len(scores), -1)
    known = ~np.isnan(flat)
    weight = np.zeros(flat.shape)
    for domain in np.unique(domains):
        mine = known & (domains == domain)[:, None]
        if mine.any():
            weight[mine] = 1 / mine.sum()
    if not known.any():
        return float("nan")
    order = np.argsort(flat[known])
    shares = np.cumsum(weight[known][order]) / weight.sum()
    return float(flat[known][order][min(int(np.searchsorted(shares, level)), len(order) - 1)])


def outlook_scores(found: MemberOutlook, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Return errors over scales: of `OUTLOOK_CURVES` (P, 3, N), and of the affine error (P,); NaN where nothing is known."""
    targets = outlook_targets(known_outcomes(examples))
    curves = np.abs(found.curves - targets.curves.numpy()) / found.scale
    affine = np.abs(found.affine_error - targets.affine_error.numpy()) / found.affine_scale
    return np.where(targets.weight.numpy() > 0, curves, np.nan), np.where(targets.affine_weight.numpy() > 0, affine, np.nan)


def known_outcomes(examples: Examples) -> Outcomes:
    """Return what is known of the pairs.

    Raises
    ------
    InputError : nothing is.
    """
    if examples.outcomes is None:
        raise InputError("These tables know no domains: give some whose runs table has the columns domain and spacing_mm.")
    return examples.outcomes


def outlook_widths(found: MemberOutlook, examples: Examples, level: float = LEVEL) -> OutlookWidths:
    """Calibrate on predictions (P pairs) by members that have not seen their domains.

    Raises
    ------
    InputError : too few domains, or nothing is known of them.
    """
    outcomes = known_outcomes(examples)
    domains = outcomes.domains
    count = len(np.unique(domains))
    if count < LEAST_DOMAINS:
        raise InputError(f"{count} domains are too few to say what to expect of another: at least {LEAST_DOMAINS} are needed.")
    curves, affine = outlook_scores(found, examples)
    widths = [domain_quantile(curves[:, n], domains, level) for n in range(len(OUTLOOK_CURVES))] + [
        domain_quantile(affine, domains, level)
    ]
    *of_curves, of_affine = (_UNKNOWN_WIDTH if np.isnan(width) else width for width in widths)
    targets = outlook_targets(outcomes)
    fitted = []
    for n in range(len(CHANCES)):
        known = targets.chance_weight[:, n].numpy() > 0
        fitted.append(_fitted(found.chances[known, n], targets.chances[known, n].numpy(), domains[known]))
    slope, offset = fitted[0]
    known = targets.chance_weight[:, 0].numpy() > 0
    chance = 1 / (1 + np.exp(-(slope * found.chances[known, 0] + offset)))
    failed = _limit(chance, targets.chances[known, 0].numpy(), domains[known])
    return OutlookWidths(tuple(of_curves), of_affine, tuple(fitted), failed, count)  # type: ignore[arg-type]


def _fitted(logits: np.ndarray, truth: np.ndarray, domains: np.ndarray) -> tuple[float, float]:
    """Return slope (at least 0) and offset that make chances of logits (Platt scaling); domains weigh the same."""
    if len(np.unique(truth)) < 2:
        return 1.0, 0.0
    weight = _balanced(domains)

    def loss(line: np.ndarray) -> float:
        values = line[0] * logits + line[1]
        entropy = np.logaddexp(0, values) - truth * values
        return float((weight * entropy).sum() + _PULL * ((line[0] - 1) ** 2 + line[1] ** 2))

    found = minimize(loss, np.array([1.0, 0.0]), bounds=[(0.05, 5.0), (-5.0, 5.0)])
    return float(found.x[0]), float(found.x[1])


def _limit(chance: np.ndarray, truth: np.ndarray, domains: np.ndarray) -> float:
    """Return the chance from which failures are told best: sensitivity and specificity, domains weighing the same."""
    if len(np.unique(truth)) < 2:
        return 0.5
    weight = _balanced(domains)
    limits = np.linspace(*LIMITS, 61)
    scores = []
    for limit in limits:
        told = chance >= limit
        rates = [(weight * (told == value) * (truth == value)).sum() / (weight * (truth == value)).sum() for value in (1, 0)]
        scores.append(min(rates) + 0.1 * sum(rates))
    best = limits[np.array(scores) >= max(scores) - 1e-9]
    return float(best.mean())


def _balanced(domains: np.ndarray) -> np.ndarray:
    _, number, counts = np.unique(domains, return_inverse=True, return_counts=True)
    return np.asarray(1 / counts[number] / len(counts))
