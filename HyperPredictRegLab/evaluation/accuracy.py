"""How near foretold curves come to measured ones: tables T1 and T2 (Bland-Altman)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from HyperPredictRegLib.predictor.bands import LEAST_FOLDING

from HyperPredictRegLab.evaluation.foretold import Foretold
from HyperPredictRegLab.evaluation.measured import Measured, quiet_mean
from HyperPredictRegLab.evaluation.sets import B0, OURS, PairSet
from HyperPredictRegLab.evaluation.statistics import Estimate
from HyperPredictRegLab.evaluation.table import Cell, Table

WINDOW = (0.05, 2.5)
"""Percent of the foreground: where folding decides. Outside, its logarithm is either noise or beside the point."""


@dataclass(frozen=True)
class Errors:
    """Absolute errors of one method, one number per pair (P,); "over" is the mean over all λ, "at" is at our λ*.

    Attributes
    ----------
    dice_over, dice_at : of mean Dice.
    structure_over, structure_at : of single structures' Dice, averaged.
    foreground_over, foreground_at, box_over, box_at : of folding in percent.
    logs, counted : sum of absolute errors of ln(folding) in `WINDOW`, and how many λ lie there.
    sd_over : of SD log-Jacobian.
    """

    dice_over: np.ndarray
    dice_at: np.ndarray
    structure_over: np.ndarray
    structure_at: np.ndarray
    foreground_over: np.ndarray
    foreground_at: np.ndarray
    box_over: np.ndarray
    box_at: np.ndarray
    logs: np.ndarray
    counted: np.ndarray
    sd_over: np.ndarray


def errors(found: PairSet, method: str) -> Errors:
    """Return a method's absolute errors."""
    m, told = found.measured, found.foretold[method]
    at = found.choosing.overall[OURS].first
    dice = np.abs(told.mean.value - m.mean[:, m.choice])
    structure = np.abs(told.dice.value - m.dice[..., m.choice])[:, m.counted]
    foreground = np.abs(told.foreground.value - m.foreground[:, m.choice])
    box = np.abs(told.box.value - m.box[:, m.choice])
    log_error = np.abs(log_folding(told.foreground.value) - log_folding(m.foreground[:, m.choice]))
    inside = in_window(m)
    return Errors(
        dice_over=quiet_mean(dice, axis=1),
        dice_at=m.read(dice, at),
        structure_over=quiet_mean(quiet_mean(structure, axis=2), axis=1),
        structure_at=quiet_mean(m.read(structure, at), axis=1),
        foreground_over=quiet_mean(foreground, axis=1),
        foreground_at=m.read(foreground, at),
        box_over=quiet_mean(box, axis=1),
        box_at=m.read(box, at),
        logs=np.where(inside, log_error, 0).sum(axis=1),
        counted=inside.sum(axis=1).astype(float),
        sd_over=quiet_mean(np.abs(told.sd.value - m.sd[:, m.choice]), axis=1),
    )


def log_folding(folding: np.ndarray) -> np.ndarray:
    """Return ln(folding); less than can be told from none counts as `LEAST_FOLDING`."""
    return np.log(np.maximum(folding, LEAST_FOLDING))


def in_window(measured: Measured) -> np.ndarray:
    """Tell where folding was measured inside `WINDOW`, boolean (P, n)."""
    folding = measured.foreground[:, measured.choice]
    return (folding >= WINDOW[0]) & (folding <= WINDOW[1])


def explained(told: np.ndarray, true: np.ndarray, within: bool) -> float:
    """Return R² of curves (P, n): the share of variance that is foretold, over all λ or among the pairs at each λ."""
    centre = quiet_mean(true, axis=0) if within else float(np.nanmean(true))
    total = np.nansum((true - centre) ** 2)
    return float(1 - np.nansum((told - true) ** 2) / total) if total > 0 and np.isfinite(told).any() else float("nan")


def foretelling(found: PairSet) -> list[str]:
    """Return the methods that foretell curves, ours first."""
    return [method for method in found.foretold if method != "ours at 80 %"]


_NOTE = (
    "MAE is the mean absolute error over pairs, with 95 % intervals of the two-way bootstrap over subjects; SD is that of the "
    "error over pairs. λ* is ours (default criterion) for every method. R² within λ counts only differences between pairs at the "
    "same λ, which a method that knows λ alone cannot explain. Skill is 1 − MAE / MAE of B0. "
)


def dice_table(sets: Sequence[PairSet]) -> Table:
    """Return T1 for Dice."""
    rows: list[tuple[Cell, ...]] = []
    for found in sets:
        base, r, m = errors(found, B0), found.resampling, found.measured
        for method in foretelling(found):
            e, told = errors(found, method), found.foretold[method]
            curves = (told.mean.value, m.mean[:, m.choice])
            rows.append((
                m.name, method, r.mean(e.dice_over), _sd(e.dice_over), r.mean(e.dice_at), _sd(e.dice_at),
                r.mean(e.structure_over), r.mean(e.structure_at),
                explained(*curves, within=False), explained(*curves, within=True),
                r.skill(e.dice_over, base.dice_over), r.skill(e.dice_at, base.dice_at),
            ))  # fmt: skip
    columns = (
        "pairs", "method", "MAE, all λ", "SD", "MAE at λ*", "SD at λ*", "structures' MAE, all λ", "structures' MAE at λ*", "R²",
        "R² within λ", "skill, all λ", "skill at λ*",
    )  # fmt: skip
    note = _NOTE + (
        "The paper reports 0.015 ± 0.014 at λ* for cLapIRN on subjects of the training distribution: other data and another "
        "engine, hence context only; the skill is what compares."
    )
    return Table("t1-dice", "T1a. Accuracy of mean Dice", columns, tuple(rows), note)


def folding_table(sets: Sequence[PairSet]) -> Table:
    """Return T1 for folding and SD log-Jacobian."""
    rows: list[tuple[Cell, ...]] = []
    for found in sets:
        base, r, m = errors(found, B0), found.resampling, found.measured
        for method in foretelling(found):
            e, told = errors(found, method), found.foretold[method].foreground.value
            curves = (log_folding(told), log_folding(m.foreground[:, m.choice]))
            rows.append((
                m.name, method, r.mean(e.box_over), r.mean(e.box_at), _sd(e.box_at), r.mean(e.foreground_over),
                r.mean(e.foreground_at), r.ratio(e.logs, e.counted), explained(*curves, within=False),
                explained(*curves, within=True), r.skill(e.logs, base.logs), r.mean(e.sd_over),
            ))  # fmt: skip
    columns = (
        "pairs", "method", "MAE % of box, all λ", "MAE % of box at λ*", "SD of it", "MAE % of foreground, all λ",
        "MAE % of foreground at λ*", f"ln MAE, {WINDOW[0]:g}–{WINDOW[1]:g} %", "R² of ln", "R² of ln within λ", "skill of ln",
        "SD log-Jacobian MAE, all λ",
    )  # fmt: skip
    note = _NOTE + "The paper reports 0.028 ± 0.026 % of the box at λ* for cLapIRN; its network foretells the box alone."
    return Table("t1-folding", "T1b. Accuracy of folding", columns, tuple(rows), note)


def _sd(values: np.ndarray) -> float:
    return float(np.nanstd(values)) if np.isfinite(values).any() else float("nan")


@dataclass(frozen=True)
class Agreement:
    """Bland-Altman figures of differences foretold − measured (P,)."""

    bias: Estimate
    lower: float
    upper: float
    slope: Estimate


def agreement(found: PairSet, told: np.ndarray, true: np.ndarray) -> Agreement:
    """Compare foretold and measured values of each pair (P,).

    The limits of agreement hold between-people variance as pairs that share a person have it: the variance of the differences is
    the bootstrap's average, corrected for its own shrinkage by (n / (n - 1)) per role, as for repeated measures.
    """
    difference, middle = told - true, (told + true) / 2
    known = np.isfinite(difference)
    d, x, w = difference[known], middle[known], found.resampling.weights[:, known]
    if len(d) < 3:
        nothing = float("nan")
        return Agreement(Estimate(nothing), nothing, nothing, Estimate(nothing))
    roles = [len(np.unique(found.measured.examples.subjects[known, role])) for role in range(2)]
    correction = np.prod([n / (n - 1) for n in roles if n > 1])
    mass = np.maximum(w.sum(axis=1), 1e-12)
    variance = (w @ d**2) / mass - ((w @ d) / mass) ** 2
    spread = float(np.sqrt(max(variance.mean() * correction, d.var())))
    bias = found.resampling.mean(difference)
    mean_x = (w @ x) / mass
    covariance = (w @ (x * d)) / mass - mean_x * (w @ d) / mass
    slopes = covariance / np.maximum((w @ x**2) / mass - mean_x**2, 1e-12)
    slope = float(np.cov(x, d, ddof=0)[0, 1] / max(x.var(), 1e-12))
    ends = np.quantile(slopes, (0.025, 0.975)).tolist() if found.resampling.enough else (float("nan"), float("nan"))
    return Agreement(bias, bias.value - 1.96 * spread, bias.value + 1.96 * spread, Estimate(slope, *ends))


def at_choice(found: PairSet, told: Foretold) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return foretold and measured values at our λ* by what they are of."""
    m, at = found.measured, found.choosing.overall[OURS].first
    foreground, box = (m.read(b.value, at) for b in (told.foreground, told.box))
    true_foreground, true_box = m.read(m.foreground, at), m.read(m.box, at)
    return {
        "mean Dice": (m.read(told.mean.value, at), m.read(m.mean, at)),
        "folding, % of box": (box, true_box),
        "folding, % of foreground": (foreground, true_foreground),
        "ln folding in foreground": (log_folding(foreground), log_folding(true_foreground)),
    }


def agreement_table(sets: Sequence[PairSet]) -> Table:
    """Return T2."""
    rows: list[tuple[Cell, ...]] = []
    for found in sets:
        for what, (told, true) in at_choice(found, found.foretold[OURS]).items():
            a = agreement(found, told, true)
            rows.append((found.measured.name, what, a.bias, a.lower, a.upper, a.slope))
    columns = ("pairs", "of", "bias, foretold − measured", "lower 95 % limit", "upper 95 % limit", "slope over the mean")
    note = "At our λ*. Limits of agreement are corrected for people who occur in several pairs."
    return Table("t2-agreement", "T2. Bland-Altman at λ*", columns, tuple(rows), note)
