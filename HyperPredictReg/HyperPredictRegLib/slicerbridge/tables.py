"""A report as table, plot series and plot chart nodes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import vtk

from HyperPredictRegLib.core.trace import LevelTrace
from HyperPredictRegLib.results.report import Measured, StructureMeasure

AXIS_TITLE_PIXELS = 12
"""Height of the letters at the axes of charts."""

_TITLE_PIXELS = 14
# What narrow plot views have room for: along their lower edge, and along their left one beside the axis.
_ROOM_PIXELS, _UPRIGHT_ROOM_PIXELS = 240, 120
_MOST_LETTERS = 120

_SERIES_COLORS = ((0.12, 0.47, 0.71), (0.85, 0.37, 0.01), (0.17, 0.63, 0.17), (0.58, 0.40, 0.74), (0.55, 0.34, 0.29))


@dataclass(frozen=True)
class TraceNodes:
    """How the metric converged: all numbers, the columns that are plotted, one series for each level, the chart."""

    table: Any
    surface: Any
    series: tuple[Any, ...]
    chart: Any


def add_table_node(scene: Any, name: str, columns: Mapping[str, Sequence[str] | Sequence[int] | Sequence[float | None]]) -> Any:
    """Add a vtkMRMLTableNode with these columns of equal length; None becomes NaN, which tables show as empty.

    Columns of text, of whole numbers and of other numbers keep their types in a saved scene.
    """
    node = scene.AddNewNodeByClass("vtkMRMLTableNode", scene.GetUniqueNameByString(name))
    set_columns(node, columns)
    return node


def set_columns(node: Any, columns: Mapping[str, Sequence[str] | Sequence[int] | Sequence[float | None]]) -> None:
    """Replace the columns of a vtkMRMLTableNode; see `add_table_node`."""
    was_modifying = node.StartModify()
    node.RemoveAllColumns()
    for title, values in columns.items():
        node.AddColumn(_column(title, values))
    for title, values in columns.items():
        node.SetColumnType(title, _column(title, values).GetDataType())
    node.EndModify(was_modifying)


def add_structures_table(scene: Any, structures: Sequence[StructureMeasure], name: str = "Structures") -> Any:
    """Add a table of Dice, surface distances (mm) and volumes (ml), one row for each structure; return the node."""
    return add_table_node(scene, name, {
        "Label": [s.label for s in structures],
        "Structure": [s.name for s in structures],
        "Dice before": [float(s.dice_before) for s in structures],
        "Dice": [float(s.dice) for s in structures],
        "HD95 (mm)": [_number(s.hd95_mm) for s in structures],
        "Mean surface distance (mm)": [_number(s.mean_surface_distance_mm) for s in structures],
        "Fixed volume (ml)": [float(s.fixed_volume_ml) for s in structures],
        "Warped volume (ml)": [float(s.warped_volume_ml) for s in structures],
    })


def add_measures_table(scene: Any, measured: Measured, name: str = "Measures", *, landmarks_used: bool = False) -> Any:
    """Add a table of the quality of the whole registration, one row for each measure; return the node.

    Distances at landmarks that were used to register (`landmarks_used`) are not called an error.
    """
    rows: list[tuple[str, float | None, str]] = [
        ("Folding, foreground", measured.folding_percent.foreground, "%"),
        ("Folding, grid", measured.folding_percent.grid, "%"),
        ("Standard deviation of log Jacobian", measured.sd_log_jacobian, ""),
        ("Jacobian minimum", measured.jacobian_minimum, ""),
        ("Jacobian maximum", measured.jacobian_maximum, ""),
        ("Inverse consistency, mean", measured.inverse_consistency_mm.mean, "mm"),
        ("Inverse consistency, 95th percentile", measured.inverse_consistency_mm.p95, "mm"),
        ("Displacement, mean", measured.displacement_mm.mean, "mm"),
        ("Displacement, maximum", measured.displacement_mm.maximum, "mm"),
        ("Normalized mutual information before", measured.similarity_before, ""),
        ("Normalized mutual information after", measured.similarity_after, ""),
    ]
    for one in measured.channels:
        words = f"Normalized mutual information of channel {one.number}"
        rows += [(f"{words} before", one.similarity_before, ""), (f"{words} after", one.similarity_after, "")]
    if measured.dice is not None:
        rows += [("Mean Dice before", measured.dice.mean_before, ""), ("Mean Dice", measured.dice.mean, "")]
    distances = "Distance at the landmarks used" if landmarks_used else "Target registration error"
    if measured.tre_before_mm is not None:
        rows.append((f"{distances} before, mean", measured.tre_before_mm.mean, "mm"))
    if measured.tre_mm is not None:
        rows.append((f"{distances}, mean", measured.tre_mm.mean, "mm"))
    return add_table_node(scene, name, {
        "Measure": [row[0] for row in rows],
        "Value": [_number(row[1]) for row in rows],
        "Unit": [row[2] for row in rows],
    })


def add_stages_table(scene: Any, levels: Sequence[LevelTrace], name: str = "Stages") -> Any | None:
    """Add a table of what the optimizers did on each level and why they stopped; return the node, or None if there are none."""
    if not levels:
        return None
    return add_table_node(scene, name, {
        "Stage": [level.stage for level in levels],
        "Level": [level.level + 1 for level in levels],
        "Iterations": [len(level.values) for level in levels],
        "Iterations allowed": [level.iteration_limit for level in levels],
        "Metric": [level.metric for level in levels],
        "Value at the end": [level.end_value for level in levels],
        "Why it stopped": [level.stop_meaning for level in levels],
        "In the optimizer's words": [level.stop_reason for level in levels],
        "Seconds": [float(level.seconds) for level in levels],
    })


def add_trace(scene: Any, levels: Sequence[LevelTrace], name: str) -> TraceNodes | None:
    """Add how the metric converged as a table, a series for each level and a chart; return them, or None if there are no values.

    Iterations are counted on through the levels, so that the curves lie side by side: values of different levels come
    from different images and are not to be compared.
    """
    levels = [level for level in levels if level.values]
    if not levels:
        return None
    table = add_table_node(scene, name, {
        "Stage": [level.stage for level in levels for _ in level.values],
        "Level": [level.level + 1 for level in levels for _ in level.values],
        "Metric": [level.metric for level in levels for _ in level.values],
        "Iteration": [n + 1 for level in levels for n in range(len(level.values))],
        "Value": [float(value) for level in levels for value in level.values],
    })
    rows = max(len(level.values) for level in levels)
    columns: dict[str, Sequence[float]] = {}
    done = 0
    for level in levels:
        last = len(level.values) - 1
        # Columns of a table are equally long: a shorter curve stays at its last point.
        columns[f"{_title(level)} iteration"] = [float(done + min(n, last) + 1) for n in range(rows)]
        columns[_title(level)] = [float(level.values[min(n, last)]) for n in range(rows)]
        done += len(level.values)
    surface = add_table_node(scene, f"{name} curves", columns)
    series = tuple(_series(scene, surface, _title(level), number) for number, level in enumerate(levels))
    chart = add_plain_chart(scene, f"{name} chart")
    metrics = " / ".join(dict.fromkeys(level.metric for level in levels))
    upright = _width(metrics, AXIS_TITLE_PIXELS) <= _UPRIGHT_ROOM_PIXELS
    # The folder and the chart's own name say which volumes.
    chart.SetTitle(fitting_title(name.partition(" (")[0] if upright else f"{metrics[:1].upper()}{metrics[1:]}"))
    chart.SetXAxisTitle(_levels_from_left(levels))
    chart.SetYAxisTitle(metrics if upright else "metric")
    for one in series:
        chart.AddAndObservePlotSeriesNodeID(one.GetID())
    return TraceNodes(table, surface, series, chart)


def add_plain_chart(scene: Any, name: str) -> Any:
    """Add an empty vtkMRMLPlotChartNode without a legend, with letters that fit a narrow plot view; return it.

    Slicer draws a legend inside the plot, at its upper right, where it covers what is there. What the lines are is told beside
    the chart, in its titles, and by Slicer where the mouse rests on a line.
    """
    chart = scene.AddNewNodeByClass("vtkMRMLPlotChartNode", scene.GetUniqueNameByString(name))
    chart.SetLegendVisibility(False)
    chart.SetTitleFontSize(_TITLE_PIXELS)
    chart.SetLegendFontSize(AXIS_TITLE_PIXELS)
    chart.SetAxisTitleFontSize(AXIS_TITLE_PIXELS)
    return chart


def fitting_title(text: str, pixels: int = _TITLE_PIXELS) -> str:
    """Return a title, in letters so many pixels high, that fits a narrow plot view; what is too long ends in three dots."""
    # Nobody reads more, and each letter too much costs a step.
    fitting = " ".join(text.split()) if len(text) < _MOST_LETTERS else f"{' '.join(text[:_MOST_LETTERS].split())}..."
    while len(fitting) > 4 and _width(fitting, pixels) > _ROOM_PIXELS:
        fitting = f"{fitting.removesuffix('...')[:-1].rstrip()}..."
    return fitting


def _width(text: str, pixels: int) -> int:
    """Return how wide VTK draws a text in a chart, in pixels."""
    look = vtk.vtkTextProperty()
    look.SetFontFamilyToArial()
    look.SetFontSize(pixels)
    grid = [0, 0, 0, 0]
    renderer = vtk.vtkTextRenderer.GetInstance()
    if renderer is None or not renderer.GetBoundingBox(look, text, grid, 72):
        # Without fonts: as wide as letters mostly are.
        return round(0.6 * pixels * len(text))
    return grid[1] - grid[0]


def _levels_from_left(levels: Sequence[LevelTrace]) -> str:
    """Say which curve is which, such as "iteration; left to right: rigid 1, affine 1 to 3"."""
    counts: dict[str, list[int]] = {}
    for level in levels:
        counts.setdefault(level.stage, []).append(level.level + 1)
    parts = [f"{stage} {min(n)}" if len(n) == 1 else f"{stage} {min(n)} to {max(n)}" for stage, n in counts.items()]
    return fitting_title(f"iteration; left to right: {', '.join(parts)}", AXIS_TITLE_PIXELS)


def _series(scene: Any, surface: Any, title: str, number: int) -> Any:
    node = scene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", title)
    node.SetAndObserveTableNodeID(surface.GetID())
    node.SetXColumnName(f"{title} iteration")
    node.SetYColumnName(title)
    node.SetPlotType(node.PlotTypeScatter)
    node.SetLineStyle(node.LineStyleSolid)
    node.SetMarkerStyle(node.MarkerStyleNone)
    node.SetColor(*_SERIES_COLORS[number % len(_SERIES_COLORS)])
    return node


def _title(level: LevelTrace) -> str:
    # Counted from 1, the coarsest, as the progress counts them.
    return f"{level.stage} level {level.level + 1}"


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _column(title: str, values: Sequence[Any]) -> Any:
    if any(isinstance(v, str) for v in values):
        column = vtk.vtkStringArray()
    elif values and all(isinstance(v, int) for v in values):
        column = vtk.vtkIntArray()
    else:
        column = vtk.vtkDoubleArray()
        values = [_number(v) for v in values]
    column.SetName(title)
    for value in values:
        column.InsertNextValue(value)
    return column
