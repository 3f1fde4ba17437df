"""A table of the report: as Markdown for readers, as CSV for programs."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

import numpy as np

from HyperPredictRegLab.evaluation.statistics import Estimate

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
