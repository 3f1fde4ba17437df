"""Charts drawn from MRML nodes with matplotlib, for pictures of a panel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk
from PySide6 import QtGui
from vtk.util.numpy_support import vtk_to_numpy

from slicerhost.missing import HostError

PAPER = (255, 253, 246)
# Matplotlib's names of Slicer's line and marker styles, in the order of vtkMRMLPlotSeriesNode's enumerations.
_LINES = ("none", "-", "--", ":", "-.", (0, (4, 2, 1, 2, 1, 2)))
_MARKERS = ("none", "x", "+", "s", "o", "D")
# At 72 dots per inch a point is a pixel, which is how Slicer counts fonts and pens.
_DPI = 72
_LEAST = 120
_MARGINS = (66, 14, 46, 28)  # left, right, bottom, top: what VTK leaves for numbers and titles


@dataclass(frozen=True)
class Curve:
    """One series as it is drawn: name, places, colour (0 to 1) and styles (indices of Slicer's enumerations)."""

    name: str
    x: np.ndarray
    y: np.ndarray
    color: tuple[float, float, float]
    line_style: int
    line_width: float
    marker_style: int
    marker_size: float
    opacity: float
    bars: bool


def series_and_tables(chart: Any) -> list[tuple[Any, Any]]:
    """Return the chart's series with their tables; None for what is missing."""
    series = [chart.GetNthPlotSeriesNode(index) for index in range(chart.GetNumberOfPlotSeriesNodes())]
    return [(one, one.GetTableNode() if one is not None else None) for one in series]


def read_curves(chart: Any) -> list[Curve]:
    """Return the chart's curves.

    Raises
    ------
    HostError : a series, table or column is missing or cannot be plotted: Slicer would leave the curve out.
    """
    surface = [_read_curve(series, table, f"the chart '{chart.GetName()}'") for series, table in series_and_tables(chart)]
    if not surface:
        raise HostError(f"The chart '{chart.GetName()}' has no series: Slicer would show an empty plot.")
    for axis, log, values in (("x", chart.GetXAxisLogScale(), "x"), ("y", chart.GetYAxisLogScale(), "y")):
        shown = np.concatenate([getattr(curve, values) for curve in surface])
        if log and not (shown > 0).any():
            raise HostError(f"The chart '{chart.GetName()}' has a logarithmic {axis} axis, but no value above zero.")
    return surface


def _read_curve(series: Any, table: Any, chart: str) -> Curve:
    if series is None:
        raise HostError(f"A series of {chart} is not in the scene.")
    name = series.GetName()
    if table is None:
        raise HostError(f"The series '{name}' of {chart} has no table.")
    kind = slicer.vtkMRMLPlotSeriesNode
    y = _column(table, series.GetYColumnName(), f"the y column of the series '{name}' of {chart}")
    if series.IsXColumnRequired():
        x = _column(table, series.GetXColumnName(), f"the x column of the series '{name}' of {chart}")
    else:
        x = np.arange(len(y), dtype=float)
    return Curve(
        name=name,
        x=x,
        y=y,
        color=tuple(series.GetColor()),
        line_style=series.GetLineStyle(),
        line_width=series.GetLineWidth(),
        marker_style=series.GetMarkerStyle(),
        marker_size=series.GetMarkerSize(),
        opacity=series.GetOpacity(),
        bars=series.GetPlotType() in (kind.PlotTypeBar, kind.PlotTypeScatterBar),
    )


def _column(table: Any, name: str, what: str) -> np.ndarray:
    column = table.GetTable().GetColumnByName(name) if name else None
    if column is None:
        raise HostError(f"The table '{table.GetName()}' has no column '{name}', which is {what}.")
    if column.GetDataType() in (vtk.VTK_STRING, vtk.VTK_BIT):
        raise HostError(f"The column '{name}' of the table '{table.GetName()}', {what}, does not hold numbers.")
    if column.GetNumberOfTuples() == 0:
        raise HostError(f"The column '{name}' of the table '{table.GetName()}', {what}, is empty.")
    return np.asarray(vtk_to_numpy(column), dtype=float)


def fit(chart: Any, surface: list[Curve]) -> None:
    """Set the fixed ranges of a chart's axes to what its curves need."""
    for values, automatic, setter in (
        ("x", chart.GetXAxisRangeAuto(), chart.SetXAxisRange),
        ("y", chart.GetYAxisRangeAuto(), chart.SetYAxisRange),
    ):
        shown = np.concatenate([getattr(curve, values) for curve in surface])
        if not automatic and np.isfinite(shown).any():
            setter(float(np.nanmin(shown)), float(np.nanmax(shown)))


def draw(chart: Any, surface: list[Curve], width: int, height: int) -> QtGui.QPixmap:
    """Return a picture of a chart of so many pixels."""
    canvas, _ = _drawn(chart, surface, width, height)
    pixels = np.ascontiguousarray(canvas.buffer_rgba())
    image = QtGui.QImage(pixels.data, pixels.shape[1], pixels.shape[0], QtGui.QImage.Format.Format_RGBA8888)
    return QtGui.QPixmap.fromImage(image.copy())


def faults(chart: Any, surface: list[Curve], width: int, height: int) -> list[str]:
    """Say what cannot be read of a chart in a view of so many pixels: a legend over a curve, a title beyond the view's edge."""
    _, axes = _drawn(chart, surface, width, height)
    found = []
    legend = axes.get_legend()
    if legend is not None:
        box = legend.get_window_extent()
        for curve in surface:
            places = axes.transData.transform(np.column_stack(_on_line(curve, axes)))
            if box.count_contains(places):
                found.append(f"the legend covers the curve '{curve.name}'")
    frame = axes.get_window_extent()
    # Slicer centers a title on its axis and cuts what does not fit into the view.
    for title, size, visible, middle, end in (
        (chart.GetTitle(), chart.GetTitleFontSize(), chart.GetTitleVisibility(), (frame.x0 + frame.x1) / 2, width),
        (chart.GetXAxisTitle(), chart.GetAxisTitleFontSize(), chart.GetXAxisTitleVisibility(), (frame.x0 + frame.x1) / 2, width),
        (chart.GetYAxisTitle(), chart.GetAxisTitleFontSize(), chart.GetYAxisTitleVisibility(), (frame.y0 + frame.y1) / 2, height),
    ):
        if visible and title and text_width(title, size) / 2 > min(middle, end - middle):
            found.append(f"the title '{title}' is cut")
    return found


def text_width(text: str, size: int) -> int:
    """Return how many pixels wide Slicer draws a text in a chart: in Arial, as VTK brings it along."""
    look = vtk.vtkTextProperty()
    look.SetFontFamilyToArial()
    look.SetFontSize(size)
    box = [0, 0, 0, 0]
    vtk.vtkTextRenderer.GetInstance().GetBoundingBox(look, text, box, _DPI)
    return box[1] - box[0]


def _on_line(curve: Curve, axes: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return points close together along a curve, where it is inside the axes."""
    steps = np.linspace(0, len(curve.x) - 1, 50 * len(curve.x))
    x, y = (np.interp(steps, np.arange(len(curve.x)), values) for values in (curve.x, curve.y))
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    inside = (x >= left) & (x <= right) & (y >= bottom) & (y <= top)
    return x[inside], y[inside]


def _drawn(chart: Any, surface: list[Curve], width: int, height: int) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    wide, high = max(width, _LEAST), max(height, _LEAST)
    figure = Figure((wide / _DPI, high / _DPI), dpi=_DPI)
    left, right, bottom, top = _MARGINS
    figure.subplots_adjust(left / wide, bottom / high, 1 - right / wide, 1 - top / high)
    figure.set_facecolor(tuple(part / 255 for part in PAPER))
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_facecolor("none")
    for curve in surface:
        _draw_curve(axes, curve)
    _dress(axes, chart)
    canvas.draw()
    return canvas, axes


def _draw_curve(axes: Any, curve: Curve) -> None:
    if curve.bars:
        axes.bar(curve.x, curve.y, color=curve.color, alpha=curve.opacity, label=curve.name)
        return
    axes.plot(curve.x, curve.y, color=curve.color, alpha=curve.opacity, label=curve.name, linestyle=_LINES[curve.line_style],
              linewidth=curve.line_width, marker=_MARKERS[curve.marker_style], markersize=curve.marker_size)  # fmt: skip


def _dress(axes: Any, chart: Any) -> None:
    """Put titles, scales, ranges, grid and legend on the axes."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    for axis, scaled in ((axes.xaxis, chart.GetXAxisLogScale()), (axes.yaxis, chart.GetYAxisLogScale())):
        if scaled:
            (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log")
            # Plain numbers, as VTK writes them.
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_formatter(NullFormatter())
    if not chart.GetXAxisRangeAuto():
        axes.set_xlim(*chart.GetXAxisRange())
    if not chart.GetYAxisRangeAuto():
        axes.set_ylim(*chart.GetYAxisRange())
    if chart.GetTitleVisibility():
        axes.set_title(chart.GetTitle() or "", fontsize=chart.GetTitleFontSize())
    if chart.GetXAxisTitleVisibility():
        axes.set_xlabel(chart.GetXAxisTitle() or "", fontsize=chart.GetAxisTitleFontSize())
    if chart.GetYAxisTitleVisibility():
        axes.set_ylabel(chart.GetYAxisTitle() or "", fontsize=chart.GetAxisTitleFontSize())
    axes.tick_params(labelsize=chart.GetAxisLabelFontSize())
    axes.grid(bool(chart.GetGridVisibility()), color="0.85")
    if chart.GetLegendVisibility():
        # Where VTK puts it, whatever it covers there.
        axes.legend(fontsize=chart.GetLegendFontSize(), frameon=True, loc="upper right", borderaxespad=0.2)
