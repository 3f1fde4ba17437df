"""Which λ a method takes, with and without the closed loop, and what came of it on the measured curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from HyperPredictRegLib.curves import Curves
from HyperPredictRegLib.engines import get_engine
from HyperPredictRegLib.job import Criterion, FoldingPercent, Trial
from HyperPredictRegLib.selection import choose, corrected, within_limit

from HyperPredictRegLab.evaluation.foretold import Foretold
from HyperPredictRegLab.evaluation.measured import Measured


@dataclass(frozen=True)
class Decision:
    """The λ that a method takes for each of P pairs.

    Attributes
    ----------
    first : before anything was measured, shape (P,).
    final : after the closed loop, or `first` for a method without one, shape (P,).
    extra : registrations after the first, shape (P,).
    """

    first: np.ndarray
    final: np.ndarray
    extra: np.ndarray

    def chosen(self, rows: np.ndarray) -> Decision:
        """Return some of the pairs."""
        return Decision(self.first[rows], self.final[rows], self.extra[rows])


@dataclass(frozen=True)
class Outcome:
    """What is measured at one λ per pair, shape (P,) each; `over` tells where folding exceeds the limit."""

    at: np.ndarray
    dice: np.ndarray
    folding: np.ndarray
    sd: np.ndarray
    over: np.ndarray


def joined_decisions(parts: Sequence[Decision]) -> Decision:
    """Join the decisions on several sets of pairs."""
    return Decision(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("first", "final", "extra")))


def settled(values: np.ndarray) -> Decision:
    """Return a decision without a closed loop."""
    values = np.asarray(values, dtype=float)
    return Decision(values, values, np.zeros(len(values)))


def decide(foretold: Foretold, measured: Measured, criterion: Criterion, fixed: np.ndarray, loop: bool = True) -> Decision:
    """Choose by the product's own criterion, then repeat while measured folding exceeds the limit, as the product does.

    Parameters
    ----------
    fixed : λ of those who do not predict, shape (P,): taken under a red light, and where the counted structure is not foretold.
    """
    first, final, extra = (np.zeros(len(fixed)) for _ in range(3))
    name = measured.examples.hyperparameter
    for row in range(len(fixed)):
        curves: Curves | None = foretold.curves(measured, row)
        named = set(criterion.structures)
        if foretold.lights[row] == "red" or not named <= set(curves.structures):  # type: ignore[union-attr]
            curves = None
        first[row] = fixed[row] if curves is None else choose(curves, criterion).hyperparameters[name]
        final[row], extra[row] = _looped(measured, row, first[row], curves, criterion) if loop else (first[row], 0)
    return Decision(first, final, extra)


def with_loop(values: np.ndarray, measured: Measured, criterion: Criterion) -> Decision:
    """Start from given λ (P,) and repeat as the product does where nothing was foretold."""
    ends = [_looped(measured, row, float(value), None, criterion) for row, value in enumerate(values)]
    return Decision(np.asarray(values, float), np.array([e[0] for e in ends]), np.array([float(e[1]) for e in ends]))


def _looped(measured: Measured, row: int, first: float, curves: Curves | None, criterion: Criterion) -> tuple[float, int]:
    x = np.log(measured.wide)
    name = measured.examples.hyperparameter
    bounds = {h.name: (h.lower, h.upper) for h in get_engine(measured.examples.engine).hyperparameters}
    trials: list[Trial] = []
    values: dict[str, float] | None = {name: first}
    while values is not None:
        at = np.log(values[name])
        folding = FoldingPercent(*(float(np.interp(at, x, c[row])) for c in (measured.foreground, measured.box)))
        sd = float(np.interp(at, x, measured.sd[row]))
        trials.append(Trial(dict(values), folding, sd, within_limit(folding, criterion), 0.0))
        values = corrected(curves, criterion, trials, bounds)
    return trials[-1].hyperparameters[name], len(trials) - 1


def outcome(measured: Measured, at: np.ndarray, criterion: Criterion, structure: int | None = None) -> Outcome:
    """Read what was measured at one λ per pair; Dice is the mean of the counted structures or that of one, by its row."""
    dice = measured.mean if structure is None else measured.dice[:, structure]
    folding = measured.read(measured.folding(criterion.domain), at)
    over = np.zeros(len(at), bool) if criterion.folding_limit is None else folding > criterion.folding_limit
    return Outcome(at, measured.read(dice, at), folding, measured.read(measured.sd, at), over)


def oracle(measured: Measured, criterion: Criterion, structure: int | None = None, whole: bool = False) -> np.ndarray:
    """Return the λ of highest measured Dice among those that keep the limit (P,); where none does, the one that folds least.

    Parameters
    ----------
    structure : row of the one structure that counts; default: the mean.
    whole : look up to the engine's upper bound, not only among the λ that the methods choose from.
    """
    among = slice(None) if whole else measured.choice
    dice = (measured.mean if structure is None else measured.dice[:, structure])[:, among]
    folding = measured.folding(criterion.domain)[:, among]
    allowed = np.ones_like(folding, bool) if criterion.folding_limit is None else folding <= criterion.folding_limit
    scores = np.where(allowed & np.isfinite(dice), dice, -np.inf)
    best = np.where(np.isfinite(scores).any(axis=1), scores.argmax(axis=1), folding.shape[1] - 1)
    return measured.wide[best]


def for_structure(criterion: Criterion, name: str) -> Criterion:
    """Return the criterion for one structure alone."""
    return replace(criterion, structures={name: 1.0}, combine="mean")
