"""A prediction in the scene: its text, its numbers as a table, and two charts on which a mark follows the user's setting.

The charts are drawn over the first parameter, on its scale; any others are held where they were chosen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.search_space import Parameter, Setting
from HyperPredictRegLib.results.exchange import prediction_from_json, prediction_to_json
from HyperPredictRegLib.results.formatting import banded, banded_percent, drawn_quality, quality_words
from HyperPredictRegLib.results.job import Criterion
from HyperPredictRegLib.results.prediction import Band, Prediction, PredictionSurface
from HyperPredictRegLib.selection import NO_FOLDING_PERCENT, interpolated
from HyperPredictRegLib.selection.interpolation import band_value, beside
from HyperPredictRegLib.slicerbridge.tables import AXIS_TITLE_PIXELS, add_plain_chart, add_table_node, fitting_title, set_columns
from HyperPredictRegLib.slicerbridge.together import all_or_none, mark_run, nodes_of_run, put_in_folder

_BLUE, _ORANGE, _GRAY = (0.12, 0.40, 0.70), (0.80, 0.36, 0.02), (0.45, 0.45, 0.45)
# Neither lost on the charts' paper nor in a legend on a dark panel.
_GREEN, _VIOLET, _MAGENTA, _RED = (0.10, 0.58, 0.30), (0.55, 0.45, 0.85), (0.88, 0.24, 0.63), (0.75, 0.10, 0.10)
_MOST_LIMITS = 4.0
_LEAST_LIMITS = 1.25

Color = tuple[float, float, float]


@dataclass(frozen=True)
class _Line:
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


# What is told apart by color differs in stroke or shape, too.
_LINES = tuple(
    _Line(kind, chart, x, y.format(title), own or color, *look)
    for chart, title, color in (("dice", "Dice", _BLUE), ("folding", "Folding", _ORANGE))
    for kind, x, y, own, look in (
        ("band", "Band setting", "{} band", None, ("Dash", 1.0)),
        ("value", "Setting", "{}", None, ("Solid", 3.0)),
        ("limit", "Limit from, to", "{} limit", _RED, ("Dot", 2.0)),
        ("fixed", "Fixed setting", "{} at fixed setting", _VIOLET, ("None", 1.0, "Square", 12.0)),
        ("chosen", "Suggested setting", "{} at suggested setting", _GREEN, ("None", 1.0, "Diamond", 14.0)),
        ("yours", "Your setting", "{} at your setting", _MAGENTA, ("Solid", 1.5, "Plus", 16.0)),
    )
    if not (chart == "dice" and kind == "limit")
)


@dataclass(frozen=True)
class _Drawn:
    """What the charts show.

    Attributes
    ----------
    parameter : the one along the horizontal axis.
    x : its values, rising, shape (n,).
    dice : what counts of all structures together, or the Dice of one, shape (n,); gains of overlap in percent.
    folding : in percent, shape (n,).
    yours, fixed, chosen : its value in the user's setting, in the one for those who do not predict, and in the suggested one;
        None where there is none.
    limit : of folding in percent, or None.
    measure : what `dice` is, one of `results.prediction.MEASURES`.
    """

    parameter: Parameter
    x: np.ndarray
    dice: Band
    folding: Band
    yours: float
    fixed: float | None = None
    chosen: float | None = None
    limit: float | None = None
    measure: str = "mean_dice"

    def read(self, values: np.ndarray, at: float | None) -> float:
        """Return one of the curves at a value of the parameter, between its points on the parameter's scale."""
        if at is None:
            return math.nan
        return float(np.interp(self.parameter.scaled(at), self.parameter.scaled(self.x), values))


def _columns(drawn: _Drawn) -> dict[str, Sequence[float]]:
    """Return the columns of the table that the charts are drawn from."""
    x, bands = drawn.x, {"Dice": drawn.dice, "Folding": drawn.folding}
    columns: dict[str, Sequence[float]] = {
        # One line around the band, so that the legend names it once: there along the lower edge, back along the upper one.
        "Band setting": [*x, *x[::-1]],
        "Setting": x.tolist(),
        "Limit from, to": [x[0], x[-1]],
        "Folding limit": [math.nan if drawn.limit is None else drawn.limit] * 2,
    }
    for name, band in bands.items():
        columns |= {f"{name} band": [*band.lower, *band.upper[::-1]], name: band.value.tolist()}
    for what, value in (("suggested", drawn.chosen), ("fixed", drawn.fixed)):
        columns[f"{what.capitalize()} setting"] = [math.nan if value is None else value]
        columns |= {f"{name} at {what} setting": [drawn.read(band.value, value)] for name, band in bands.items()}
    columns |= _mark_columns(drawn)
    # Columns of a table are equally long: a shorter line stays at its last point.
    rows = 2 * len(x)
    return {title: [*map(float, values), *[float(values[-1])] * (rows - len(values))] for title, values in columns.items()}


def _mark_columns(drawn: _Drawn) -> dict[str, list[float]]:
    """Return the columns of the user's mark: an upright line, at the nearer end for a value that was not predicted."""
    at = float(np.clip(drawn.yours, drawn.x[0], drawn.x[-1])) if math.isfinite(drawn.yours) else float(drawn.x[0])
    columns = {"Your setting": [at, at, at]}
    for name, band, (low, high) in (("Dice", drawn.dice, _dice_range(drawn)), ("Folding", drawn.folding, _folding_range(drawn))):
        columns[f"{name} at your setting"] = [low, min(drawn.read(band.value, at), high), high]
    return columns


def _add_series(scene: Any, line: _Line, table: Any) -> Any:
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


def _show(nodes: PredictionNodes, drawn: _Drawn, names: Mapping[str, str], relied_on: bool) -> None:
    """Let the charts show the lines that there is something to draw for, named by kind, on fitting axes."""
    absent = {kind for kind in ("chosen", "fixed", "limit") if getattr(drawn, kind) is None}
    for line, node in zip(_LINES, nodes.series, strict=True):
        node.SetName(names[line.kind])
        node.SetColor(*(_GRAY if line.kind in ("band", "value") and not relied_on else line.color))
    for name, chart, (low, high) in (
        ("dice", nodes.dice_chart, _dice_range(drawn)), ("folding", nodes.folding_chart, _folding_range(drawn))
    ):
        chart.SetXAxisLogScale(drawn.parameter.scale == "log")
        chart.SetXAxisRangeAuto(False)
        chart.SetXAxisRange(float(drawn.x[0]), float(drawn.x[-1]))
        chart.SetYAxisRangeAuto(False)
        chart.SetYAxisRange(low, high)
        chart.RemoveAllPlotSeriesNodeIDs()
        for line, node in zip(_LINES, nodes.series, strict=True):
            if line.chart == name and line.kind not in absent:
                chart.AddAndObservePlotSeriesNodeID(node.GetID())


def mark_color(kind: str) -> str:
    """Return the color of a kind of mark ("chosen", "fixed", "yours") as #rrggbb, for a legend beside the charts."""
    red, green, blue = next(line.color for line in _LINES if line.kind == kind)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


_CHART_TITLES = {"mean_dice": "Mean Dice", "overlap_gain": "Expected gain of overlap", "error_mm": "Expected error"}
_AXIS_TITLES = {
    "mean_dice": "Dice, predicted", "overlap_gain": "% of what affine leaves", "error_mm": "mm, expected"
}  # fmt: skip


@contextmanager
def _drawn_once(nodes: PredictionNodes) -> Iterator[None]:
    """Let plot views draw the charts once at the end of the block, and not anew for each line that changes."""
    charts = (nodes.dice_chart, nodes.folding_chart)
    was_modifying = [chart.StartModify() for chart in charts]
    try:
        yield
    finally:
        for chart, before in zip(charts, was_modifying, strict=True):
            chart.EndModify(before)


def _dice_range(drawn: _Drawn) -> tuple[float, float]:
    low, high = float(np.nanmin(drawn.dice.lower)), float(np.nanmax(drawn.dice.upper))
    least, floor, ceiling = {
        "mean_dice": (0.1, 0.0, 1.05), "overlap_gain": (10.0, -100.0, 100.0), "error_mm": (0.05 * high, 0.0, math.inf)
    }[drawn.measure]  # fmt: skip
    span = max(least, high - low)
    return max(floor, low - 0.1 * span), min(ceiling, high + 0.1 * span)


def _folding_range(drawn: _Drawn) -> tuple[float, float]:
    if drawn.limit is None:
        top = 1.1 * max(float(np.nanmax(drawn.folding.value)), 100 * NO_FOLDING_PERCENT)
    else:
        # Where little is regularized, folding is many times the limit, which would press the limit flat onto the axis.
        expected = 1.1 * float(np.nanmax(drawn.folding.upper))
        top = min(max(expected, _LEAST_LIMITS * drawn.limit), _MOST_LIMITS * drawn.limit)
    # Marks at zero would be cut in half.
    return -0.04 * top, top


# The charts' font has no Greek letters: they would be left out.
_LATIN = {"λ": "lambda", "σ": "sigma", "α": "alpha", "β": "beta", "γ": "gamma", "μ": "mu", "τ": "tau"}
_ROLES = (
    *(f"prediction-{what}" for what in ("report", "table", "dice-chart", "folding-chart", "marks")),
    *(f"prediction-{line.chart}-{line.kind}" for line in _LINES),
)


@dataclass(frozen=True)
class PredictionNodes:
    """The nodes of one prediction.

    Attributes
    ----------
    report : vtkMRMLTextNode with all of it as JSON.
    table : every predicted number, one row for each setting.
    dice_chart, folding_chart : vtkMRMLPlotChartNode.
    marks : the table that the charts are drawn from: the curves that are shown, and the marks on them.
    series : every vtkMRMLPlotSeriesNode of both charts.
    """

    report: Any
    table: Any
    dice_chart: Any
    folding_chart: Any
    marks: Any
    series: tuple[Any, ...]

    def all(self) -> list[Any]:
        """Return every node."""
        return [self.report, self.table, self.marks, *self.series, self.dice_chart, self.folding_chart]


def add_prediction(
    scene: Any,
    prediction: Prediction,
    *,
    structure: int | str | None = None,
    parent: int | None = None,
    name: str = "Predicted registration quality",
) -> PredictionNodes:
    """Add a prediction to `scene`, in a folder of its own; all of it or, if that fails, nothing.

    Parameters
    ----------
    scene : vtkMRMLScene.
    prediction : of any number of parameters.
    structure : label or name of the structure whose Dice the chart shows; the mean of all if left out.
    parent : the subject hierarchy item that the folder goes under; the scene itself if left out.
    name : of the folder and the text; the scene makes the text's unique.

    Raises
    ------
    InputError : there is no such structure.
    """
    with all_or_none(scene):
        report = scene.AddNewNodeByClass("vtkMRMLTextNode", scene.GetUniqueNameByString(name))
        table = add_table_node(scene, "Predicted quality", {})
        marks = add_table_node(scene, "Predicted curves and marks", {})
        series = tuple(_add_series(scene, line, marks) for line in _LINES)
        charts = [add_plain_chart(scene, f"Predicted {what}") for what in ("Dice", "folding")]
        for chart in charts:
            # Otherwise a click in the plot view could drag what was predicted elsewhere.
            chart.SetEnablePointMoveAlongX(False)
            chart.SetEnablePointMoveAlongY(False)
        nodes = PredictionNodes(report, table, charts[0], charts[1], marks, series)
        update_prediction(nodes, prediction, structure=structure)
        mark_run(report, dict(zip(_ROLES, (report, table, *charts, marks, *series), strict=True)))
        put_in_folder(scene, nodes.all(), name, parent)
    return nodes


def update_prediction(nodes: PredictionNodes, prediction: Prediction, *, structure: int | str | None = None) -> None:
    """Let the nodes of an earlier prediction hold this one instead, so that a scene does not fill up; see `add_prediction`.

    The mark of the user's setting starts at the one that was chosen.
    """
    _row(prediction.surface, structure)
    nodes.report.SetText(prediction_to_json(prediction))
    set_columns(nodes.table, table_columns(prediction.surface))
    show_structure(nodes, prediction, structure)


def show_structure(
    nodes: PredictionNodes, prediction: Prediction, structure: int | str | None, setting: Setting | None = None
) -> None:
    """Let the charts show the Dice of one structure, by label or name, or, for None, the mean of all.

    Parameters
    ----------
    nodes : of the prediction.
    prediction : what they show; its criterion and choice may have changed since it was made.
    structure : label or name.
    setting : the user's, for the mark; the chosen one if left out.

    Raises
    ------
    InputError : there is no such structure.
    """
    drawn = _drawn(prediction, structure, setting)
    row, domain = _row(prediction.surface, structure), prediction.criterion.domain
    what = _CHART_TITLES[drawn.measure] if row is None else f"Dice of {prediction.surface.structures[row]}"
    relied_on, symbol = prediction.choice.predicted is not None, _symbol(drawn.parameter)
    axis = fitting_title(f"{symbol} ({drawn.parameter.title.lower()})", AXIS_TITLE_PIXELS)
    names = {
        "value": "best guess" if relied_on else "not to be relied on",
        "band": "90 % band",
        "fixed": "no fixed default" if drawn.fixed is None else f"fixed default: {symbol} = {drawn.fixed:.3g}",
        "chosen": "none suggested" if drawn.chosen is None else f"suggested: {symbol}* = {drawn.chosen:.3g}",
        "limit": "no limit" if drawn.limit is None else f"limit {drawn.limit:g} %",
        "yours": _yours(drawn),
    }
    with _drawn_once(nodes):
        set_columns(nodes.marks, _columns(drawn))
        nodes.dice_chart.SetTitle(fitting_title(what))
        nodes.dice_chart.SetYAxisTitle(_AXIS_TITLES[drawn.measure])
        nodes.folding_chart.SetTitle(f"Folding of the {domain}")
        nodes.folding_chart.SetYAxisTitle("%, predicted")
        for chart in (nodes.dice_chart, nodes.folding_chart):
            chart.SetXAxisTitle(axis)
        _show(nodes, drawn, names, relied_on)


def mark_weight(
    nodes: PredictionNodes, setting: Setting, prediction: Prediction, structure: int | str | None = None
) -> None:
    """Move the mark of the user's setting in both charts; what was not predicted stays at the nearer end, and the legend says so.

    Parameters
    ----------
    nodes : of the prediction.
    setting : the user's; parameters that it lacks are taken from the choice.
    prediction, structure : what the nodes show, as given to `show_structure`.
    """
    drawn = _drawn(prediction, structure, setting)
    table = nodes.marks.GetTable()
    with _drawn_once(nodes):
        for title, values in _mark_columns(drawn).items():
            column = table.GetColumnByName(title)
            for n in range(column.GetNumberOfTuples()):
                column.SetValue(n, values[min(n, len(values) - 1)])
            column.Modified()
        table.Modified()
        nodes.marks.Modified()
        for line, node in zip(_LINES, nodes.series, strict=True):
            if line.kind == "yours":
                node.SetName(_yours(drawn))


def prediction_nodes_of(node: Any) -> PredictionNodes:
    """Return all nodes of a prediction from any one of them, in a saved and opened scene too.

    Raises
    ------
    InputError : the node is of no prediction, or some of its nodes are gone.
    """
    found = nodes_of_run(node)
    if not set(_ROLES) <= set(found):
        raise InputError(f"'{node.GetName()}' belongs to no complete prediction: predict again.")
    report, table, dice_chart, folding_chart, marks, *series = (found[role] for role in _ROLES)
    return PredictionNodes(report, table, dice_chart, folding_chart, marks, tuple(series))


def read_prediction_node(node: Any) -> Prediction:
    """Return the prediction that `add_prediction` stored in a text node; raise `InputError` if the text is none."""
    return prediction_from_json(node.GetText() or "", f"The text '{node.GetName()}'")


def read_out(
    surface: PredictionSurface, setting: Setting, criterion: Criterion, structure: int | str | None = None
) -> str:
    """Say what is predicted for one setting, such as "Dice 0.74 (0.71 to 0.77), folding 0.10 % (at most 0.40 %)".

    Outside of what was predicted, say that.

    Parameters
    ----------
    surface : the prediction's.
    setting : a value for each of its parameters, and for others of the engine.
    criterion : its goal says what counts, its domain of what the folding is told.
    structure : label or name of the one whose Dice to read; what counts of all if left out.
    """
    row = _row(surface, structure)
    if elsewhere := beside(surface, setting):
        return elsewhere
    try:
        here = interpolated(surface, surface.space.rows([setting]))
    except InputError as error:
        return str(error)
    folding = here.folding(criterion.domain)
    if row is None:
        words = quality_words(surface.measure(criterion.goal), band_value(here.quality(criterion.goal), 0))
    else:
        words = f"Dice of {surface.structures[row]} {banded(band_value(here.dice[row], 0), 2)}"
    return f"{words}, folding {banded_percent(band_value(folding, 0))}"


def table_columns(surface: PredictionSurface) -> dict[str, Sequence[float]]:
    """Return all predicted numbers as columns: parameters, quality, folding, each structure's Dice, with their bands."""
    columns: dict[str, Sequence[float]] = {
        parameter.title: surface.values[:, n].tolist() for n, parameter in enumerate(surface.space)
    }
    quality = {
        "Mean Dice": surface.mean_dice,
        "Gain of overlap (share)": surface.overlap_gain,
        "Expected error (mm)": surface.error_mm,
        "Expected error, 95th percentile (mm)": surface.error_95_mm,
    }
    bands: dict[str, Band] = {
        **{title: band for title, band in quality.items() if band is not None},
        "Folding of foreground (%)": surface.folding_foreground,
        "Folding of grid (%)": surface.folding_grid,
    }
    for row, (title, label) in enumerate(zip(surface.structures, surface.labels, strict=True)):
        # Two structures may be called the same; their columns may not.
        bands[f"Dice of {title}" if f"Dice of {title}" not in bands else f"Dice of {title}, label {label}"] = surface.dice[row]
    for title, band in bands.items():
        columns |= {
            title: band.value.tolist(), f"{title}, lower": band.lower.tolist(), f"{title}, upper": band.upper.tolist(),
        }  # fmt: skip
    return columns


def _drawn(prediction: Prediction, structure: int | str | None, setting: Setting | None) -> _Drawn:
    """Return what the charts show: the surface along the first parameter, through the choice in all others."""
    choice, whole = prediction.choice, prediction.surface
    parameter = whole.space.first
    surface = _along_first(whole, choice.setting)
    row = _row(surface, structure)
    return _Drawn(
        parameter,
        surface.values[:, 0],
        drawn_quality(surface, prediction.criterion.goal) if row is None else surface.dice[row],
        surface.folding(prediction.criterion.domain),
        yours=(setting or choice.setting).get(parameter.name, choice.setting[parameter.name]),
        fixed=choice.fixed.get(parameter.name),
        # With an unreliable prediction none is suggested.
        chosen=None if choice.predicted is None else choice.setting[parameter.name],
        limit=prediction.criterion.folding_limit,
        measure="mean_dice" if row is not None else surface.measure(prediction.criterion.goal),
    )


def _along_first(surface: PredictionSurface, setting: Setting) -> PredictionSurface:
    if len(surface.space) == 1:
        return surface
    settings = [{**setting, surface.names[0]: value} for value in np.unique(surface.values[:, 0])]
    return interpolated(surface, surface.space.rows(settings))


def _row(surface: PredictionSurface, structure: int | str | None) -> int | None:
    if structure is None:
        return None
    known: Sequence[Any] = surface.structures if isinstance(structure, str) else surface.labels
    if structure not in known:
        raise InputError(f"Nothing was predicted for the structure '{structure}': choose one that the moving segmentation holds.")
    return list(known).index(structure)


def _symbol(parameter: Parameter) -> str:
    return _LATIN.get(parameter.symbol, parameter.symbol)


def _yours(drawn: _Drawn) -> str:
    """Return the legend of the user's mark."""
    predicted = drawn.x[0] * (1 - 1e-9) <= drawn.yours <= drawn.x[-1] * (1 + 1e-9)
    return f"yours: {_symbol(drawn.parameter)} = {drawn.yours:.3g}" + ("" if predicted else ", not predicted")
