"""What choosing λ for one structure is worth: table T5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from HyperPredictRegLab.evaluation.decision_table import Results, results
from HyperPredictRegLab.evaluation.measured import quiet_mean
from HyperPredictRegLab.evaluation.sets import B2, B8, B9, MAXIMUM, OURS, PairSet, Setting
from HyperPredictRegLab.evaluation.statistics import Estimate, holm, per_person_test
from HyperPredictRegLab.evaluation.table import Cell, Table


@dataclass(frozen=True)
class StructureGains:
    """Gains of Dice over the fixed λ for the mean with the loop, averaged over structures, one number per pair (P,)."""

    ours: np.ndarray
    maximum: np.ndarray
    by_structure: np.ndarray
    oracle: np.ndarray


def structure_gains(found: PairSet, setting: Setting) -> StructureGains:
    """Return the gains of choosing λ for each structure in turn."""
    rows = range(len(found.measured.names))
    parts = {
        method: quiet_mean(np.array([gain(found, setting, method, row) for row in rows]), axis=0)
        for method in (OURS, MAXIMUM, B9, B8)
    }
    return StructureGains(parts[OURS], parts[MAXIMUM], parts[B9], parts[B8])


def gain(found: PairSet, setting: Setting, method: str, row: int, over: str = B2) -> np.ndarray:
    """Return what a method's λ for one structure gains of its Dice over another's, after the loop, shape (P,)."""
    own: Results = results(found, setting, method, row)
    return own.final.dice - results(found, setting, over, row).final.dice


def structure_table(sets: Sequence[PairSet], setting: Setting) -> Table:
    """Return T5."""
    rows: list[tuple[Cell, ...]] = []
    for found in sets:
        rows += _rows(found, setting)
    columns = (
        "pairs", "structure", "known", "Dice MAE, all λ", "Dice MAE at its λ*", "median λ*", "quartiles of λ*",
        "oracle's median λ", "fixed λ (B9)", "gain", "gain, rule maximum", "gain of B9", "gain of oracle",
        "rule maximum − B9", "p (Holm)",
        "over limit at the end, %", "extra registrations",
    )  # fmt: skip
    note = (
        "λ is chosen for one structure at a time. Gains are of that structure's Dice over the fixed λ for the mean, all with the "
        "closed loop. p: the gain of rule maximum, Wilcoxon on the means of the fixed subjects, corrected for the number of "
        "structures after Holm. A structure that the predictor does not know is foretold from its tokens."
    )
    return Table("t5-structures", "T5. Structures", columns, tuple(rows), note)


def _rows(found: PairSet, setting: Setting) -> list[tuple[Cell, ...]]:
    m, r = found.measured, found.resampling
    told = found.foretold[OURS].dice.value
    tests = [per_person_test(gain(found, setting, MAXIMUM, row), m.examples.subjects) for row in range(len(m.names))]
    rows: list[tuple[Cell, ...]] = []
    every: Cell
    for row, (name, p) in enumerate(zip(m.names, holm(tests), strict=True)):
        error = np.abs(told[:, row] - m.dice[:, row][:, m.choice])
        own = results(found, setting, MAXIMUM, row)
        chosen = own.decision.first
        low, high = np.quantile(chosen, (0.25, 0.75))
        oracle, fixed = found.choosing.structures[B8][row].first, found.choosing.structures[B9][row].first
        rows.append((
            m.name, name, "yes" if m.counted[row] else "no", r.mean(quiet_mean(error, axis=1)), r.mean(m.read(error, chosen)),
            float(np.median(chosen)), f"{low:.2f}–{high:.2f}", float(np.median(oracle)), float(np.median(fixed)),
            *(r.mean(gain(found, setting, method, row)) for method in (OURS, MAXIMUM, B9, B8)),
            r.mean(gain(found, setting, MAXIMUM, row, B9)), float(p),
            float(100 * own.final.over.mean()), r.mean(own.decision.extra),
        ))  # fmt: skip
    gains = structure_gains(found, setting)
    every = Estimate(float("nan"))
    overs = [results(found, setting, MAXIMUM, row) for row in range(len(m.names))]
    rows.append((
        m.name, "**all, averaged**", "", every, every, float("nan"), "", float("nan"), float("nan"),
        *(r.mean(part) for part in (gains.ours, gains.maximum, gains.by_structure, gains.oracle)),
        r.mean(gains.maximum - gains.by_structure), float("nan"), float(100 * np.mean([o.final.over.mean() for o in overs])),
        r.mean(np.mean([o.decision.extra for o in overs], axis=0)),
    ))  # fmt: skip
    return rows
