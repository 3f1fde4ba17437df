"""What choosing λ is worth: table T3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from HyperPredictRegLab.evaluation.decisions import Decision, Outcome, outcome
from HyperPredictRegLab.evaluation.sets import B1, B2, B7, B8, WHOLE, PairSet, Setting
from HyperPredictRegLab.evaluation.statistics import counts, per_person_test
from HyperPredictRegLab.evaluation.table import Cell, Table

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


def results(found: PairSet, setting: Setting, method: str, structure: int | None = None) -> Results:
    """Read off what a method's decisions gave for the mean Dice or for one structure by its row."""
    choosing = found.choosing
    decision = choosing.overall[method] if structure is None else choosing.structures[method][structure]
    best = choosing.overall[B8] if structure is None else choosing.structures[B8][structure]
    first, final, ideal = (
        outcome(found.measured, at, setting.criterion, structure) for at in (decision.first, decision.final, best.final)
    )
    return Results(decision, first, final, ideal.dice - first.dice, ideal.dice - final.dice)


def decision_table(sets: Sequence[PairSet], setting: Setting) -> Table:
    """Return T3."""
    rows: list[tuple[Cell, ...]] = []
    for found in sets:
        r = found.resampling
        base, looped, search = (results(found, setting, name) for name in (B1, B2, B7))
        for method in found.choosing.overall:
            own = results(found, setting, method)
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
    limit = setting.criterion.folding_limit
    kept = "there is no limit" if limit is None else f"the limit is {limit:g} % of the {setting.criterion.domain}"
    note = f"Measured at each method's λ, after the loop where it has one; {kept}. " + (
        "Regret is the Dice lost against the oracle, which knows the measured curves and keeps the limit; a λ over the limit can "
        "have negative regret. "
        '"ours" is the product\'s default, which gives up to its tolerance of Dice for a smoother field; "rule maximum" does '
        "not, like the fixed λ. B3 decides as in the paper: no margin, no loop. p: Wilcoxon on the mean differences of the fixed "
        "subjects. Negative regret of the oracle up to the engine's bound is what the range costs. The loop is the product's "
        "own code, run on the measured curves; a warm start can differ from them slightly."
    )
    return Table("t3-decision", "T3. Decision", columns, tuple(rows), note)


def share_at_end(found: PairSet, values: np.ndarray) -> float:
    """Return the percentage of pairs whose λ is the largest of the range or beyond: for them the range is too short."""
    return float(100 * (values >= found.measured.values[-1] * (1 - 1e-6)).mean())


def counts_table(sets: Sequence[PairSet], setting: Setting) -> Table:
    """Return the better, equal and worse pairs of T3, as in the paper's Figure 5."""
    rows: list[tuple[Cell, ...]] = []
    for found in sets:
        for method in found.choosing.overall:
            if method in (B1, B2, B8, WHOLE):
                continue
            own = results(found, setting, method)
            for rival in (B1, B2, B7):
                if rival == method:
                    continue
                other = results(found, setting, rival)
                dice = counts(own.final.dice - other.final.dice, EQUAL_DICE, True)
                folding = counts(own.final.folding - other.final.folding, EQUAL_FOLDING, False)
                rows.append((found.measured.name, method, rival, *dice, *folding))
    columns = (
        "pairs", "method", "against", "Dice better", "Dice equal", "Dice worse",
        "folding better", "folding equal", "folding worse",
    )  # fmt: skip
    note = f"Equal: differences below {EQUAL_DICE:g} of Dice, {EQUAL_FOLDING:g} % of folding. Numbers of pairs, after the loop."
    return Table("t3-counts", "T3b. Better, equal, worse", columns, tuple(rows), note)
