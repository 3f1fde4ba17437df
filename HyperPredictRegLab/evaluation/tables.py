"""Estimates with intervals by subject, tests, and tables as Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SEED = 20240901
DRAWS, QUICK_DRAWS = 2000, 300
LEVEL = 0.95
LEAST_PEOPLE = 5
"""With fewer in either role an interval would promise what it cannot hold."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; NaN ends where there are too few people for one."""

    value: float
    lower: float = float("nan")
    upper: float = float("nan")

    @property
    def is_known(self) -> bool:
        """Tell whether there is a figure."""
        return bool(np.isfinite(self.value))


@dataclass(frozen=True)
class Resampling:
    """Bootstrap weights of P pairs.

    Attributes
    ----------
    weights : shape (draws, P); the product of how often a pair's fixed and its moving subject were drawn (Owen, Annals of
        Applied Statistics 1 (2007) 386, the "pigeonhole" bootstrap).
    enough : whether there are enough people for intervals.
    """

    weights: np.ndarray
    enough: bool

    @classmethod
    def of(cls, subjects: np.ndarray, draws: int = DRAWS, seed: int = SEED) -> Resampling:
        """Draw fixed and moving subjects (P, 2) independently, with replacement."""
        random = np.random.default_rng(seed)
        weights = np.ones((draws, len(subjects)))
        least = len(subjects)
        for role in range(2):
            people, number = np.unique(subjects[:, role], return_inverse=True)
            least = min(least, len(people))
            if len(people):
                weights *= random.multinomial(len(people), np.full(len(people), 1 / len(people)), size=draws)[:, number]
        return cls(weights, least >= LEAST_PEOPLE)

    def mean(self, values: np.ndarray, among: np.ndarray | None = None) -> Estimate:
        """Estimate the mean of values (P,); NaN and what is not `among` is left out."""
        known = np.isfinite(values) if among is None else np.isfinite(values) & among
        return self.ratio(np.where(known, values, 0.0), known.astype(float))

    def ratio(self, above: np.ndarray, below: np.ndarray) -> Estimate:
        """Estimate sum(above) / sum(below), both (P,); pairs in which either is NaN are left out."""
        known = np.isfinite(above) & np.isfinite(below)
        one, other = np.where(known, above, 0.0), np.where(known, below, 0.0)
        if other.sum() == 0:
            return Estimate(float("nan"))
        value = float(one.sum() / other.sum())
        if not self.enough:
            return Estimate(value)
        tops, bottoms = self.weights @ one, self.weights @ other
        drawn = tops[bottoms != 0] / bottoms[bottoms != 0]
        if not drawn.size:
            return Estimate(value)
        lower, upper = np.quantile(drawn, ((1 - LEVEL) / 2, (1 + LEVEL) / 2)).tolist()
        return Estimate(value, lower, upper)

    def skill(self, errors: np.ndarray, others: np.ndarray) -> Estimate:
        """Estimate 1 - sum(errors) / sum(others): the share of another method's error that is gone."""
        found = self.ratio(errors, others)
        return Estimate(1 - found.value, 1 - found.upper, 1 - found.lower)


def per_person_test(differences: np.ndarray, subjects: np.ndarray) -> float:
    """Return Wilcoxon's two-sided p for the mean difference (P,) of each fixed subject, NaN with too few of them."""
    from scipy.stats import wilcoxon  # slow to load, and needed here only

    people = np.unique(subjects[:, 0])
    means = [np.nanmean(d) for person in people if np.isfinite(d := differences[subjects[:, 0] == person]).any()]
    means = [mean for mean in means if mean != 0]
    return float(wilcoxon(means).pvalue) if len(means) >= LEAST_PEOPLE else float("nan")


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Correct p values for their number (Holm, Scandinavian Journal of Statistics 6 (1979) 65); NaN stays."""
    p = np.asarray(p_values, dtype=float)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known])]
    raised = np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)) if len(order) else np.array([])
    result = np.full(len(p), np.nan)
    result[order] = np.minimum(raised, 1.0)
    return result


def counts(differences: np.ndarray, equal: float, higher_is_better: bool) -> tuple[int, int, int]:
    """Count better, equal and worse pairs as in HyperPredict (MELBA 2024, Figure 5); |difference| < `equal` is equal."""
    signed = differences if higher_is_better else -differences
    better, worse = int((signed >= equal).sum()), int((signed <= -equal).sum())
    return better, int(np.isfinite(signed).sum()) - better - worse, worse


Cell = str | int | float | bool | Estimate


@dataclass(frozen=True)
class Table:
    """Rows of cells under named columns.

    Attributes
    ----------
    name : of its file.
    title : above it.
    columns, rows : what it holds.
    note : how to read it.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def markdown(self) -> str:
        """Return the table with its title and note."""
        lines = [f"## {self.title}", ""]
        if self.note:
            lines += [self.note, ""]
        if not self.rows:
            return "\n".join([*lines, "Nothing to show: the sweep held no data for this table."])
        lines += ["| " + " | ".join(self.columns) + " |", "|" + "---|" * len(self.columns)]
        lines += ["| " + " | ".join(_words(cell) for cell in row) + " |" for row in self.rows]
        return "\n".join(lines)

    def csv(self) -> str:
        """Return the table with full figures; an estimate takes three columns."""
        estimates = [any(isinstance(row[n], Estimate) for row in self.rows) for n in range(len(self.columns))]
        names = [
            part
            for name, wide in zip(self.columns, estimates, strict=True)
            for part in ([name, f"{name} lower", f"{name} upper"] if wide else [name])
        ]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(names)
        for row in self.rows:
            writer.writerow([part for cell, wide in zip(row, estimates, strict=True) for part in _plain(cell, wide)])
        return text.getvalue()


def _plain(cell: Cell, wide: bool) -> list[str]:
    if isinstance(cell, Estimate):
        return [_full(part) for part in (cell.value, cell.lower, cell.upper)]
    one = _full(cell) if isinstance(cell, float) else str(cell)
    return [one, "", ""] if wide else [one]


def _full(value: float) -> str:
    return f"{value:.6g}" if np.isfinite(value) else ""


def _words(cell: Cell) -> str:
    if isinstance(cell, bool):
        return "yes" if cell else "**no**"
    if isinstance(cell, Estimate):
        if not np.isfinite(cell.lower):
            return figure(cell.value)
        return f"{figure(cell.value)} [{figure(cell.lower)}, {figure(cell.upper)}]"
    return figure(cell) if isinstance(cell, float) else str(cell)


def figure(value: float) -> str:
    """Return a figure with three meaning digits, or four decimals where it is below 1."""
    if not np.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    return f"{value:.2g}" if abs(value) < 1e-3 else (f"{value:.4f}" if abs(value) < 1 else f"{value:.4g}")
