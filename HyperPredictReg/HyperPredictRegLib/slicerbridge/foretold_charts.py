"""The two charts of a prediction: which lines they have, how these look, and the table that they are drawn from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from HyperPredictRegLib.curves import Band
from HyperPredictRegLib.selection import NO_FOLDING_PERCENT
from HyperPredictRegLib.slicerbridge.tables import add_plain_chart

_BLUE, _ORANGE, _GRAY = (0.12, 0.40, 0.70), (0.80, 0.36, 0.02), (0.45, 0.45, 0.45)
# Neither lost on the charts' paper nor in a legend on a dark panel.
_GREEN, _VIOLET, _MAGENTA, _RED = (0.10, 0.58, 0.30), (0.55, 0.45, 0.85), (0.88, 0.24, 0.63), (0.75, 0.10, 0.10)
_MOST_LIMITS = 4.0
_LEAST_LIMITS = 1.25

Color = tuple[float, float, float]


@dataclass(frozen=True)
class Line:
    """One line of one chart: what it is, the columns it is drawn from, and how it looks."""

    kind: str
    chart: str
    x: str
    y: str
    color: Color
    stroke: str
    width: float = 2.0
    marker: str = "None"
    size: float = 7.0


# What is told apart by colour differs in stroke or shape, too.
LINES = tuple(
    Line(kind, chart, x, y.format(title), own or color, *look)
    for chart, title, color in (("dice", "Dice", _BLUE), ("folding", "Folding", _ORANGE))
    for kind, x, y, own, look in (
        ("band", "Band λ", "{} band", None, ("Dash", 1.0)),
        ("value", "λ", "{}", None, ("Solid", 3.0)),
        ("limit", "Limit from, to", "{} limit", _RED, ("Dot", 2.0)),
        ("fixed", "Fixed λ", "{} at fixed λ", _VIOLET, ("None", 1.0, "Square", 12.0)),
        ("chosen", "Suggested λ", "{} at suggested λ", _GREEN, ("None", 1.0, "Diamond", 14.0)),
        ("yours", "Your λ", "{} at your λ", _MAGENTA, ("Solid", 1.5, "Plus", 16.0)),
    )
    if not (chart == "dice" and kind == "limit")
)


@dataclass(frozen=True)
class Drawn:
    """What the charts show.

    Attributes
    ----------
    x : λ, rising, shape (n,).
    dice : of all structures together or of one, shape (n,).
    folding : in percent, shape (n,).
    weight : the user's λ.
    limit : of folding in percent, or None.
    fixed : the λ of those who do not predict.
    chosen : λ*, or None where none is suggested.
    """

    x: np.ndarray
    dice: Band
    folding: Band
    weight: float
    limit: float | None
    fixed: float = math.nan
    chosen: float | None = None

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of lines that there is something to draw for."""
        absent = {kind for kind, value in (("chosen", self.chosen), ("limit", self.limit)) if value is None}
        return frozenset(line.kind for line in LINES) - absent


def drawn_columns(drawn: Drawn) -> dict[str, Sequence[float]]:
    """Return the columns of the table that the charts are drawn from."""
    x, bands = drawn.x, {"Dice": drawn.dice, "Folding": drawn.folding}
    columns: dict[str, Sequence[float]] = {
        # One line around the band, so that the legend names it once: there along the lower edge, back along the upper one.
        "Band λ": [*x, *x[::-1]],
        "λ": x.tolist(),
        "Limit from, to": [x[0], x[-1]],
        "Folding limit": [math.nan if drawn.limit is None else drawn.limit] * 2,
    }
    for name, band in bands.items():
        columns |= {f"{name} band": [*band.lower, *band.upper[::-1]], name: band.value.tolist()}
    for what, value in (("Suggested", drawn.chosen), ("Fixed", drawn.fixed)):
        at = math.nan if value is None else value
        columns[f"{what} λ"] = [at]
        columns |= {f"{name} at {what.lower()} λ": [_read(x, band.value, at)] for name, band in bands.items()}
    columns |= weight_columns(drawn)
    # Columns of a table are equally long: a shorter line stays at its last point.
    rows = 2 * len(x)
    return {title: [*map(float, values), *[float(values[-1])] * (rows - len(values))] for title, values in columns.items()}


def weight_columns(drawn: Drawn) -> dict[str, list[float]]:
    """Return the columns of the user's mark: an upright line, at the nearer end for a λ that was not foreseen."""
    x, weight = drawn.x, drawn.weight
    at = float(np.clip(weight, x[0], x[-1])) if math.isfinite(weight) else float(x[0])
    columns = {"Your λ": [at, at, at]}
    for name, band, (low, high) in (("Dice", drawn.dice, _dice_range(drawn)), ("Folding", drawn.folding, _folding_range(drawn))):
        columns[f"{name} at your λ"] = [low, min(_read(x, band.value, at), high), high]
    return columns


def add_series(scene: Any, line: Line, table: Any) -> Any:
    """Add a vtkMRMLPlotSeriesNode that draws a line from the table; return it."""
    node = scene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", line.kind)
    node.SetAndObserveTableNodeID(table.GetID())
    node.SetPlotType(node.PlotTypeScatter)
    node.SetXColumnName(line.x)
    node.SetYColumnName(line.y)
    node.SetColor(*line.color)
    node.SetLineStyle(getattr(node, f"LineStyle{line.stroke}"))
    node.SetLineWidth(line.width)
    node.SetMarkerStyle(getattr(node, f"MarkerStyle{line.marker}"))
    node.SetMarkerSize(line.size)
    return node


def name_series(series: Sequence[Any], names: Mapping[str, str]) -> None:
    """Give the series of `LINES` their names for the legend, by kind."""
    for line, node in zip(LINES, series, strict=True):
        if line.kind in names and node.GetName() != names[line.kind]:
            node.SetName(names[line.kind])


def color_curves(series: Sequence[Any], trusted: bool) -> None:
    """Draw the curves in their colours or, if they are not to be trusted, in gray."""
    for line, node in zip(LINES, series, strict=True):
        node.SetColor(*(_GRAY if line.kind in ("band", "value") and not trusted else line.color))


def mark_color(kind: str) -> str:
    """Return the colour of a kind of mark ("chosen", "fixed", "yours") as #rrggbb, for a legend beside the charts."""
    red, green, blue = next(line.color for line in LINES if line.kind == kind)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def add_chart(scene: Any, name: str) -> Any:
    """Add an empty vtkMRMLPlotChartNode over a logarithmic axis; return it."""
    chart = add_plain_chart(scene, name)
    chart.SetXAxisLogScale(True)
    # Otherwise a click in the plot view could drag what was foreseen elsewhere.
    chart.SetEnablePointMoveAlongX(False)
    chart.SetEnablePointMoveAlongY(False)
    return chart


@contextmanager
def drawn_once(charts: Sequence[Any]) -> Iterator[None]:
    """Let plot views draw charts once at the end of the block, and not anew for each line that changes."""
    was_modifying = [chart.StartModify() for chart in charts]
    try:
        yield
    finally:
        for chart, before in zip(charts, was_modifying, strict=True):
            chart.EndModify(before)


def finish_charts(charts: dict[str, Any], series: Sequence[Any], drawn: Drawn, titles: dict[str, tuple[str, str, str]]) -> None:
    """Set titles (chart, x axis, y axis), ranges and lines of the charts "dice" and "folding"."""
    ranges = {"dice": _dice_range(drawn), "folding": _folding_range(drawn)}
    for name, chart in charts.items():
        title, x_title, y_title = titles[name]
        chart.SetTitle(title)
        chart.SetXAxisTitle(x_title)
        chart.SetYAxisTitle(y_title)
        chart.SetXAxisRangeAuto(False)
        chart.SetXAxisRange(float(drawn.x[0]), float(drawn.x[-1]))
        chart.SetYAxisRangeAuto(False)
        chart.SetYAxisRange(*ranges[name])
        wanted = [
            node.GetID() for line, node in zip(LINES, series, strict=True) if line.chart == name and line.kind in drawn.kinds
        ]
        if [chart.GetNthPlotSeriesNodeID(n) for n in range(chart.GetNumberOfPlotSeriesNodes())] != wanted:
            chart.RemoveAllPlotSeriesNodeIDs()
            for one in wanted:
                chart.AddAndObservePlotSeriesNodeID(one)


def _read(x: np.ndarray, values: np.ndarray, at: float) -> float:
    return float(np.interp(math.log(at), np.log(x), values)) if at > 0 else math.nan


def _dice_range(drawn: Drawn) -> tuple[float, float]:
    low, high = float(np.nanmin(drawn.dice.lower)), float(np.nanmax(drawn.dice.upper))
    span = max(0.1, high - low)
    return max(0.0, low - 0.1 * span), min(1.05, high + 0.1 * span)


def _folding_range(drawn: Drawn) -> tuple[float, float]:
    if drawn.limit is None:
        top = 1.1 * max(float(np.nanmax(drawn.folding.value)), 100 * NO_FOLDING_PERCENT)
    else:
        # At the smallest λ folding is many times the limit, which would press the limit flat onto the axis.
        wanted = 1.1 * float(np.nanmax(drawn.folding.upper))
        top = min(max(wanted, _LEAST_LIMITS * drawn.limit), _MOST_LIMITS * drawn.limit)
    # Marks at zero would be cut in half.
    return -0.04 * top, top
