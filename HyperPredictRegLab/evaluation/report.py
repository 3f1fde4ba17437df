"""The report: tables and figures as one Markdown page with its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from HyperPredictRegLib.files import writing_into

from HyperPredictRegLab.evaluation.table import Table

PAGE, FOLDER = "evaluation.md", "evaluation"
DPI = 110


def write_report(out: Path, introduction: str, tables: Sequence[Table], figures: Mapping[str, tuple[str, Any]]) -> None:
    """Write ``evaluation.md`` and beside it a folder with a CSV per table and a PNG per figure.

    Parameters
    ----------
    out : folder of the documentation; made if it does not exist.
    introduction : Markdown under the page's title.
    figures : by file name, the caption and the matplotlib figure.

    Raises
    ------
    InputError : the disk is full, or the folder cannot be written to.
    """
    folder = out / FOLDER
    first, *others = tables
    shown = [f"![{caption}]({FOLDER}/{name}.png)\n\n*{caption}*" for name, (caption, _) in figures.items()]
    links = "Tables as CSV: " + ", ".join(f"[{t.name}]({FOLDER}/{t.name}.csv)" for t in tables) + "."
    parts = ["# Evaluation of the predictor", introduction, first.markdown(), "## Figures", *shown]
    parts += [table.markdown() for table in others] + ["## Files", links]
    with writing_into(out, "files", ""):
        folder.mkdir(parents=True, exist_ok=True)
        for table in tables:
            (folder / f"{table.name}.csv").write_text(table.csv(), encoding="utf-8")
        for name, (_, figure) in figures.items():
            figure.savefig(folder / f"{name}.png", dpi=DPI, metadata={"Software": None})
        (out / PAGE).write_text("\n\n".join(parts) + "\n", encoding="utf-8")
