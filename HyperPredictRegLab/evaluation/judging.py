"""The tables of an evaluation: accuracy, calibration, decisions, structures, groups of pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.predictor.bundle import LEAST_FOLDING
from HyperPredictRegLib.predictor.ood import OodDetector
from HyperPredictRegLib.results.prediction import LEVELS, Band

from HyperPredictRegLab.evaluation.decisions import (
    B0,
    B1,
    B2,
    B7,
    B8,
    B9,
    MAXIMUM,
    OURS,
    UNSEGMENTED,
    WHOLE,
    Conditions,
    Decision,
    Outcome,
    PairSet,
    outcome,
)
from HyperPredictRegLab.evaluation.measured import Measured, PredictedPairs, quiet_mean
from HyperPredictRegLab.evaluation.tables import Cell, Estimate, Table, counts, holm, per_person_test
from HyperPredictRegLab.sweep.tables import check_columns, check_text, read_table, with_labels, with_numbers

WINDOW = (0.05, 2.5)
"""Percent of the foreground: where folding decides. Outside, its logarithm is either noise or beside the point."""


@dataclass(frozen=True)
class Errors:
    """Absolute errors of one method, one number per pair (P,); "over" is the mean over all λ, "at" is at our λ*.

    Attributes
    ----------
    dice_over, dice_at : of mean Dice.
    structure_over, structure_at : of single structures' Dice, averaged.
    foreground_over, foreground_at, grid_over, grid_at : of folding in percent.
    logs, counted : sum of absolute errors of ln(folding) in `WINDOW`, and how many λ lie there.
    sd_over : of SD log-Jacobian.
    """

    dice_over: np.ndarray
    dice_at: np.ndarray
    structure_over: np.ndarray
    structure_at: np.ndarray
    foreground_over: np.ndarray
    foreground_at: np.ndarray
    grid_over: np.ndarray
    grid_at: np.ndarray
    logs: np.ndarray
    counted: np.ndarray
    sd_over: np.ndarray


def errors(found: PairSet, method: str) -> Errors:
    """Return a method's absolute errors."""
    m, told = found.measured, found.predicted[method]
    at = found.choosing.overall[OURS].first
    dice = np.abs(told.mean.value - m.mean[:, m.choice])
    structure = np.abs(told.dice.value - m.dice[..., m.choice])[:, m.counted]
    foreground = np.abs(told.foreground.value - m.foreground[:, m.choice])
    grid = np.abs(told.grid.value - m.grid[:, m.choice])
    log_error = np.abs(log_folding(told.foreground.value) - log_folding(m.foreground[:, m.choice]))
    inside = in_window(m)
    return Errors(
        dice_over=quiet_mean(dice, axis=1),
        dice_at=m.read(dice, at),
        structure_over=quiet_mean(quiet_mean(structure, axis=2), axis=1),
        structure_at=quiet_mean(m.read(structure, at), axis=1),
        foreground_over=quiet_mean(foreground, axis=1),
        foreground_at=m.read(foreground, at),
        grid_over=quiet_mean(grid, axis=1),
        grid_at=m.read(grid, at),
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
    """Return R² of curves (P, n): the share of variance that is predicted, over all λ or among the pairs at each λ."""
    center = quiet_mean(true, axis=0) if within else float(np.nanmean(true))
    total = np.nansum((true - center) ** 2)
    return float(1 - np.nansum((told - true) ** 2) / total) if total > 0 and np.isfinite(told).any() else float("nan")


def predicting(found: PairSet) -> list[str]:
    """Return the methods that predict curves, ours first."""
    return [method for method in found.predicted if method != "ours at 80 %"]


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
        for method in predicting(found):
            e, told = errors(found, method), found.predicted[method]
            surface = (told.mean.value, m.mean[:, m.choice])
            rows.append((
                m.name, method, r.mean(e.dice_over), _sd(e.dice_over), r.mean(e.dice_at), _sd(e.dice_at),
                r.mean(e.structure_over), r.mean(e.structure_at),
                explained(*surface, within=False), explained(*surface, within=True),
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
        for method in predicting(found):
            e, told = errors(found, method), found.predicted[method].foreground.value
            surface = (log_folding(told), log_folding(m.foreground[:, m.choice]))
            rows.append((
                m.name, method, r.mean(e.grid_over), r.mean(e.grid_at), _sd(e.grid_at), r.mean(e.foreground_over),
                r.mean(e.foreground_at), r.ratio(e.logs, e.counted), explained(*surface, within=False),
                explained(*surface, within=True), r.skill(e.logs, base.logs), r.mean(e.sd_over),
            ))  # fmt: skip
    columns = (
        "pairs", "method", "MAE % of grid, all λ", "MAE % of grid at λ*", "SD of it", "MAE % of foreground, all λ",
        "MAE % of foreground at λ*", f"ln MAE, {WINDOW[0]:g}–{WINDOW[1]:g} %", "R² of ln", "R² of ln within λ", "skill of ln",
        "SD log-Jacobian MAE, all λ",
    )  # fmt: skip
    note = _NOTE + "The paper reports 0.028 ± 0.026 % of the grid at λ* for cLapIRN; its network predicts the grid alone."
    return Table("t1-folding", "T1b. Accuracy of folding", columns, tuple(rows), note)


def _sd(values: np.ndarray) -> float:
    return float(np.nanstd(values)) if np.isfinite(values).any() else float("nan")


@dataclass(frozen=True)
class Agreement:
    """Bland-Altman figures of differences predicted − measured (P,)."""

    bias: Estimate
    lower: float
    upper: float
    slope: Estimate


def agreement(found: PairSet, told: np.ndarray, true: np.ndarray) -> Agreement:
    """Compare predicted and measured values of each pair (P,).

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


def at_choice(found: PairSet, told: PredictedPairs) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return predicted and measured values at our λ* by what they are of."""
    m, at = found.measured, found.choosing.overall[OURS].first
    foreground, grid = (m.read(b.value, at) for b in (told.foreground, told.grid))
    true_foreground, true_grid = m.read(m.foreground, at), m.read(m.grid, at)
    return {
        "mean Dice": (m.read(told.mean.value, at), m.read(m.mean, at)),
        "folding, % of grid": (grid, true_grid),
        "folding, % of foreground": (foreground, true_foreground),
        "ln folding in foreground": (log_folding(foreground), log_folding(true_foreground)),
    }


def agreement_table(sets: Sequence[PairSet]) -> Table:
    """Return T2."""
    rows: list[tuple[Cell, ...]] = []
    for found in sets:
        for what, (told, true) in at_choice(found, found.predicted[OURS]).items():
            a = agreement(found, told, true)
            rows.append((found.measured.name, what, a.bias, a.lower, a.upper, a.slope))
    columns = ("pairs", "of", "bias, predicted − measured", "lower 95 % limit", "upper 95 % limit", "slope over the mean")
    note = "At our λ*. Limits of agreement are corrected for people who occur in several pairs."
    return Table("t2-agreement", "T2. Bland-Altman at λ*", columns, tuple(rows), note)


_BANDS = ((OURS, 90), ("ours at 80 %", 80), (UNSEGMENTED, 90))


def covered(band: Band, true: np.ndarray, folding: bool = False) -> np.ndarray:
    """Tell where the measured value lies in the band, as 0 or 1, NaN where there is none; tiny folding is none."""
    floor = LEAST_FOLDING * 1.001 if folding else 1e-9
    inside = (true >= band.lower - floor) & (true <= band.upper + floor)
    return np.where(np.isfinite(true) & np.isfinite(band.upper), inside, np.nan)


def quantities(told: PredictedPairs, measured: Measured) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield the name of each quantity, where its band covers, and its width, with pairs first and λ last."""
    m = measured
    for name, band, true, folding in (
        ("mean Dice", told.mean, m.mean, False),
        ("Dice of structures", told.dice[:, m.counted], m.dice[:, m.counted], False),
        ("folding in foreground", told.foreground, m.foreground, True),
        ("folding in grid", told.grid, m.grid, True),
        ("SD log-Jacobian", told.sd, m.sd, False),
    ):
        width = np.where(np.isfinite(band.value), band.upper - band.lower, np.nan)
        yield name, covered(band, true[..., m.choice], folding), width


def calibration_table(sets: Sequence[PairSet]) -> Table:
    """Return T4."""
    rows: list[tuple[Cell, ...]] = []
    for found in sets:
        r, m = found.resampling, found.measured
        thirds = np.array_split(np.arange(len(m.values)), 3)
        at = found.choosing.overall[OURS].first
        for method, level in _BANDS:
            told = found.predicted[method]
            for name, inside, width in quantities(told, m):
                per_pair = _mean_rest(inside)
                by_reliability = [_percent(per_pair[told.reliabilities == level]) for level in LEVELS]
                rows.append((
                    m.name, method.removesuffix(" at 80 %"), name, level,
                    r.mean(100 * per_pair), *(_percent(inside[..., third]) for third in thirds),
                    r.mean(100 * _mean_rest(_nearest(m, inside, at)[..., None])), *by_reliability,
                    float(np.nanmean(width)), float(np.nanmean(m.read(width, at))),
                ))  # fmt: skip
    columns = (
        "pairs", "method", "of", "level, %", "covered, %", "small λ", "middle λ", "large λ", "at λ*",
        "reliable", "uncertain", "unreliable",
        "width", "width at λ*",
    )  # fmt: skip
    note = (
        "Share of measured values inside their bands. Bands of held-out maps were calibrated on people of the other CV folds. "
        "Where both predicted and measured folding are less than can be told from none, the band covers."
    )
    return Table("t4-calibration", "T4. Calibration", columns, tuple(rows), note)


def _nearest(measured: Measured, inside: np.ndarray, at: np.ndarray) -> np.ndarray:
    strength = measured.parameter.strength
    place = np.abs(strength(measured.values) - strength(at)[:, None]).argmin(axis=1)
    return np.take_along_axis(inside, place.reshape(-1, *[1] * (inside.ndim - 1)), axis=-1)[..., 0]


def _mean_rest(values: np.ndarray) -> np.ndarray:
    flat = values.reshape(len(values), -1)
    known = np.isfinite(flat).sum(axis=1)
    return np.where(known > 0, np.nansum(flat, axis=1) / np.maximum(known, 1), np.nan)


def _percent(values: np.ndarray) -> float:
    known = np.isfinite(values)
    return float(100 * values[known].mean()) if known.any() else float("nan")


EQUAL_DICE, EQUAL_FOLDING = 0.001, 0.01
"""Differences below these, in Dice and in percent, are none."""


@dataclass(frozen=True)
class Results:
    """What a method's λ gave: before the loop (`first`) and after it (`final`), with regret against the oracle (P,)."""

    decision: Decision
    first: Outcome
    final: Outcome
    regret_first: np.ndarray
    regret: np.ndarray


def results(found: PairSet, conditions: Conditions, method: str, structure: int | None = None) -> Results:
    """Read off what a method's decisions gave for the mean Dice or for one structure by its row."""
    choosing = found.choosing
    decision = choosing.overall[method] if structure is None else choosing.structures[method][structure]
    best = choosing.overall[B8] if structure is None else choosing.structures[B8][structure]
    first, final, ideal = (
        outcome(found.measured, at, conditions.criterion, structure) for at in (decision.first, decision.final, best.final)
    )
    return Results(decision, first, final, ideal.dice - first.dice, ideal.dice - final.dice)


def decision_table(sets: Sequence[PairSet], conditions: Conditions) -> Table:
    """Return T3."""
    rows: list[tuple[Cell, ...]] = []
    for found in sets:
        r = found.resampling
        base, looped, search = (results(found, conditions, name) for name in (B1, B2, B7))
        for method in found.choosing.overall:
            own = results(found, conditions, method)
            rows.append((
                found.measured.name, method, r.mean(own.final.dice), r.mean(own.regret), r.ratio(own.regret, base.regret),
                r.ratio(own.regret, looped.regret), r.mean(own.final.dice - base.final.dice),
                r.mean(own.final.dice - looped.final.dice), r.mean(own.final.dice - search.final.dice),
                per_person_test(own.final.dice - looped.final.dice, found.measured.examples.subjects),
                r.mean(own.regret_first), float(100 * own.first.over.mean()), float(100 * own.final.over.mean()),
                r.mean(own.decision.extra), r.mean(own.final.folding), r.mean(own.final.sd), float(np.median(own.decision.final)),
                share_at_end(found, own.decision.final),
            ))  # fmt: skip
    columns = (
        "pairs", "method", "Dice", "regret", "regret / B1's", "regret / B2's", "Dice − B1", "Dice − B2", "Dice − B7",
        "p against B2", "regret before loop", "over limit before loop, %", "over limit at the end, %", "extra registrations",
        "folding, %", "SD log-Jacobian", "median λ", "at the end of the range, %",
    )  # fmt: skip
    limit = conditions.criterion.folding_limit
    retained = "there is no limit" if limit is None else f"the limit is {limit:g} % of the {conditions.criterion.domain}"
    note = f"Measured at each method's λ, after the loop where it has one; {retained}. " + (
        "Regret is the Dice lost against the oracle, which knows the measured curves and keeps the limit; a λ over the limit can "
        "have negative regret. "
        '"ours" is the product\'s default, which gives up to its tolerance of Dice for a smoother field; "rule maximum" does '
        "not, like the fixed λ. B3 decides as in the paper: no margin, no loop. p: Wilcoxon on the mean differences of the fixed "
        "subjects. Negative regret of the oracle up to the engine's bound is what the range costs. The loop is the product's "
        "own code, run on the measured curves."
    )
    return Table("t3-decision", "T3. Decision", columns, tuple(rows), note)


def share_at_end(found: PairSet, values: np.ndarray) -> float:
    """Return the percentage of pairs whose λ is the most regularized one or beyond: for them the range is too short."""
    strength = found.measured.parameter.strength
    return float(100 * (strength(values) >= strength(found.measured.values[-1]) - 1e-6).mean())


def counts_table(sets: Sequence[PairSet], conditions: Conditions) -> Table:
    """Return the better, equal and worse pairs of T3, as in the paper's Figure 5."""
    rows: list[tuple[Cell, ...]] = []
    for found in sets:
        for method in found.choosing.overall:
            if method in (B1, B2, B8, WHOLE):
                continue
            own = results(found, conditions, method)
            for rival in (B1, B2, B7):
                if rival == method:
                    continue
                other = results(found, conditions, rival)
                dice = counts(own.final.dice - other.final.dice, EQUAL_DICE, True)
                folding = counts(own.final.folding - other.final.folding, EQUAL_FOLDING, False)
                rows.append((found.measured.name, method, rival, *dice, *folding))
    columns = (
        "pairs", "method", "against", "Dice better", "Dice equal", "Dice worse",
        "folding better", "folding equal", "folding worse",
    )  # fmt: skip
    note = f"Equal: differences below {EQUAL_DICE:g} of Dice, {EQUAL_FOLDING:g} % of folding. Numbers of pairs, after the loop."
    return Table("t3-counts", "T3b. Better, equal, worse", columns, tuple(rows), note)


@dataclass(frozen=True)
class StructureGains:
    """Gains of Dice over the fixed λ for the mean with the loop, averaged over structures, one number per pair (P,)."""

    ours: np.ndarray
    maximum: np.ndarray
    by_structure: np.ndarray
    oracle: np.ndarray


def structure_gains(found: PairSet, conditions: Conditions) -> StructureGains:
    """Return the gains of choosing λ for each structure in turn."""
    rows = range(len(found.measured.names))
    parts = {
        method: quiet_mean(np.array([gain(found, conditions, method, row) for row in rows]), axis=0)
        for method in (OURS, MAXIMUM, B9, B8)
    }
    return StructureGains(parts[OURS], parts[MAXIMUM], parts[B9], parts[B8])


def gain(found: PairSet, conditions: Conditions, method: str, row: int, over: str = B2) -> np.ndarray:
    """Return what a method's λ for one structure gains of its Dice over another's, after the loop, shape (P,)."""
    own: Results = results(found, conditions, method, row)
    return own.final.dice - results(found, conditions, over, row).final.dice


def structure_table(sets: Sequence[PairSet], conditions: Conditions) -> Table:
    """Return T5."""
    rows: list[tuple[Cell, ...]] = []
    for found in sets:
        rows += _rows(found, conditions)
    columns = (
        "pairs", "structure", "known", "Dice MAE, all λ", "Dice MAE at its λ*", "median λ*", "quartiles of λ*",
        "oracle's median λ", "fixed λ (B9)", "gain", "gain, rule maximum", "gain of B9", "gain of oracle",
        "rule maximum − B9", "p (Holm)",
        "over limit at the end, %", "extra registrations",
    )  # fmt: skip
    note = (
        "λ is chosen for one structure at a time. Gains are of that structure's Dice over the fixed λ for the mean, all with the "
        "closed loop. p: the gain of rule maximum, Wilcoxon on the means of the fixed subjects, corrected for the number of "
        "structures after Holm. A structure that the predictor does not know is predicted from its tokens."
    )
    return Table("t5-structures", "T5. Structures", columns, tuple(rows), note)


def _rows(found: PairSet, conditions: Conditions) -> list[tuple[Cell, ...]]:
    m, r = found.measured, found.resampling
    told = found.predicted[OURS].dice.value
    tests = [per_person_test(gain(found, conditions, MAXIMUM, row), m.examples.subjects) for row in range(len(m.names))]
    rows: list[tuple[Cell, ...]] = []
    every: Cell
    for row, (name, p) in enumerate(zip(m.names, holm(tests), strict=True)):
        error = np.abs(told[:, row] - m.dice[:, row][:, m.choice])
        own = results(found, conditions, MAXIMUM, row)
        chosen = own.decision.first
        low, high = np.quantile(chosen, (0.25, 0.75))
        oracle, fixed = found.choosing.structures[B8][row].first, found.choosing.structures[B9][row].first
        rows.append((
            m.name, name, "yes" if m.counted[row] else "no", r.mean(quiet_mean(error, axis=1)), r.mean(m.read(error, chosen)),
            float(np.median(chosen)), f"{low:.2f}–{high:.2f}", float(np.median(oracle)), float(np.median(fixed)),
            *(r.mean(gain(found, conditions, method, row)) for method in (OURS, MAXIMUM, B9, B8)),
            r.mean(gain(found, conditions, MAXIMUM, row, B9)), float(p),
            float(100 * own.final.over.mean()), r.mean(own.decision.extra),
        ))  # fmt: skip
    gains = structure_gains(found, conditions)
    every = Estimate(float("nan"))
    overs = [results(found, conditions, MAXIMUM, row) for row in range(len(m.names))]
    rows.append((
        m.name, "**all, averaged**", "", every, every, float("nan"), "", float("nan"), float("nan"),
        *(r.mean(part) for part in (gains.ours, gains.maximum, gains.by_structure, gains.oracle)),
        r.mean(gains.maximum - gains.by_structure), float("nan"), float(100 * np.mean([o.final.over.mean() for o in overs])),
        r.mean(np.mean([o.decision.extra for o in overs], axis=0)),
    ))  # fmt: skip
    return rows


ODD = ("relative", "rescan", "noisy", "atrophy")
"""Groups in which one fixed λ serves badly: the same anatomy twice, strong noise, large ventricles."""

Features = Sequence[Mapping[str, float]]


def group_sets(found: PairSet) -> list[PairSet]:
    """Return a set per group of pairs, and one of all odd pairs if there are any."""
    groups = found.measured.examples.groups
    names = sorted(set(groups.tolist()))
    sets = [found.among(np.flatnonzero(groups == name), name or "no group") for name in names] if len(names) > 1 else []
    odd = np.isin(groups, ODD)
    if odd.any() and not odd.all() and len(set(names) & set(ODD)) > 1:
        sets.append(found.among(np.flatnonzero(odd), "odd: " + ", ".join(name for name in ODD if name in names)))
    return sets


def group_table(sets: Sequence[PairSet], conditions: Conditions) -> Table:
    """Return T8: every set by the groups of its pairs."""
    rows: list[tuple[Cell, ...]] = []
    for whole in sets:
        for found in [*group_sets(whole), whole]:
            own, most, base, looped = (results(found, conditions, name) for name in (OURS, MAXIMUM, B1, B2))
            e, blind, r = errors(found, OURS), errors(found, B0), found.resampling
            reliabilities = found.predicted[OURS].reliabilities
            rows.append((
                whole.measured.name, "all" if found is whole else found.measured.name, len(reliabilities), r.mean(e.dice_at),
                r.skill(e.dice_over, blind.dice_over), r.skill(e.logs, blind.logs), r.mean(own.regret), r.mean(most.regret),
                r.mean(base.regret), r.mean(looped.regret),
                r.ratio(own.regret, looped.regret), r.ratio(most.regret, looped.regret),
                float(100 * own.first.over.mean()), float(100 * looped.first.over.mean()), float(100 * own.final.over.mean()),
                *(float(100 * (reliabilities == level).mean()) for level in LEVELS),
            ))  # fmt: skip
    columns = (
        "pairs", "group", "count", "Dice MAE at λ*", "skill Dice, all λ", "skill ln folding", "regret, ours",
        "regret, rule maximum", "regret, B1", "regret, B2", "ours / B2", "rule maximum / B2",
        "over limit before loop, ours, %", "B1, %",
        "over limit at the end, %", "reliable, %", "uncertain, %", "unreliable, %",
    )  # fmt: skip
    note = "Intervals are left out where a group has fewer than five subjects in either role."
    return Table("t8-groups", "T8. Groups of pairs, and other people", columns, tuple(rows), note)


def reliabilities_of(ood: OodDetector, features: Features) -> dict[str, float]:
    """Return the percentage of pairs at each level of reliability."""
    found = np.array([ood.reliability(named).level for named in features])
    return {level: float(100 * (found == level).mean()) if len(found) else float("nan") for level in LEVELS}


def reliability_table(ood: OodDetector, ood_sets: Mapping[str, Features]) -> Table:
    """Return T8b: how reliable predictions are called for pairs of which only the features are known."""
    rows: list[tuple[Cell, ...]] = []
    for name, features in ood_sets.items():
        table = np.array([[named.get(f, np.nan) for f in ood.features] for named in features]).reshape(len(features), -1)
        distances = ood.distance(table)
        rows.append((name, len(features), *reliabilities_of(ood, features).values(), float(np.median(distances)), ood.unreliable))
    columns = ("pairs", "count", "reliable, %", "uncertain, %", "unreliable, %", "median distance", "unreliable from")
    note = "Pairs that were described but need not have been registered; where a prediction is unreliable, no suggestion is made."
    return Table("t8-reliability", "T8b. Reliability of unusual pairs", columns, tuple(rows), note)


def read_ood_sets(table: Path | str) -> Features:
    """Read pairs' features from a sweep's ``features.parquet``.

    Raises
    ------
    InputError : the file is missing or no such table, or holds something else than numbers.
    """
    what = "features table"
    features = read_table(Path(table), what)
    check_columns(features, ("pair", "label", "error"), what)
    check_text(features, ("pair", "error"), what)
    rows = with_labels(features[features["error"] == ""], what)
    rows = rows[rows["label"] == 0]
    if rows.empty:
        raise InputError(f"The {what} '{table}' describes no pair.")
    rows = with_numbers(rows, [column for column in rows.columns if column.startswith("pair_")], what)
    names = {column: column[5:] for column in rows.columns if column.startswith("pair_")}
    return [{names[c]: float(row[c]) for c in names} for row in rows.to_dict("records")]
