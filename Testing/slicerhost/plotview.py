"""The plot view: draws the chart that the plot view node names, from the real chart, series and table nodes."""
# ruff: noqa: N801, N802 - Slicer's names.

from __future__ import annotations

from typing import Any, ClassVar

import slicer
import vtk
from PySide6 import QtCore, QtGui, QtWidgets

from slicerhost import plotdrawing
from slicerhost.missing import HostError
from slicerhost.signals import observing


class qMRMLPlotView(QtWidgets.QWidget):
    """Shows a chart; redrawn, once, after the nodes said that they changed."""

    slicer_signals: ClassVar[dict[str, str]] = {}
    slicer_slots: ClassVar[dict[str, str]] = {
        "setMRMLScene(vtkMRMLScene*)": "setMRMLScene",
        "setMRMLPlotViewNode(vtkMRMLPlotViewNode*)": "setMRMLPlotViewNode",
        "fitToContent()": "fitToContent",
    }

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        observing.add(self)
        self._sh_scene: Any = None
        self._sh_view_node: Any = None
        self._sh_observed: list[tuple[Any, int]] = []
        self._sh_curves: list[plotdrawing.Curve] = []
        self._sh_picture: QtGui.QPixmap | None = None
        self._sh_timer = QtCore.QTimer(self)
        self._sh_timer.setSingleShot(True)
        self._sh_timer.timeout.connect(self.refresh)
        self.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Expanding)

    def setMRMLScene(self, scene: Any) -> None:
        """Set the scene."""
        self._sh_scene = scene
        if scene is None:
            self._unobserve()
            self._sh_view_node, self._sh_curves, self._sh_picture = None, [], None
        self._changed()

    def setMRMLPlotViewNode(self, node: Any) -> None:
        """Set the node that names the chart."""
        if node is not None and not isinstance(node, slicer.vtkMRMLPlotViewNode):
            raise TypeError(f"setMRMLPlotViewNode takes a vtkMRMLPlotViewNode, not {node!r}.")
        if node is not None and self._sh_scene is not None and node.GetScene() not in (None, self._sh_scene):
            raise HostError("The plot view node is in another scene than the plot view.")
        self._sh_view_node = node
        self._changed()

    def fitToContent(self) -> None:
        """Let the axes with a fixed range show all of the data."""
        chart = self.chart_node()
        if chart is not None and self._sh_curves:
            plotdrawing.fit(chart, self._sh_curves)

    def chart_node(self) -> Any:
        """Return the chart that is shown, or None."""
        name = self._sh_view_node.GetPlotChartNodeID() if self._sh_view_node is not None else None
        return self._sh_scene.GetNodeByID(name) if name and self._sh_scene is not None else None

    def surface(self) -> list[plotdrawing.Curve]:
        """Return what is drawn, for tests."""
        if self._sh_timer.isActive():
            self.refresh()
        return self._sh_curves

    def faults(self, width: int, height: int) -> list[str]:
        """Say what could not be read of the chart if the view had so many pixels, for tests."""
        chart, surface = self.chart_node(), self.surface()
        return plotdrawing.faults(chart, surface, width, height) if chart is not None and surface else []

    def refresh(self) -> None:
        """Read the nodes again.

        Raises
        ------
        HostError : Slicer would show less than the nodes promise, for example because a column is missing.
        """
        self._sh_timer.stop()
        self._unobserve()
        self._sh_picture = None
        self._sh_curves = []
        chart = self.chart_node()
        self._observe(self._sh_view_node)
        if chart is not None:
            self._observe(chart)
            for series, table in plotdrawing.series_and_tables(chart):
                self._observe(series)
                self._observe(table)
            self._sh_curves = plotdrawing.read_curves(chart)
        self.update()

    def _observe(self, node: Any) -> None:
        if node is not None:
            self._sh_observed.append((node, node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._changed())))

    def _unobserve(self) -> None:
        for node, tag in self._sh_observed:
            node.RemoveObserver(tag)
        self._sh_observed = []

    def _changed(self) -> None:
        self._sh_timer.start(0)

    def sizeHint(self) -> QtCore.QSize:
        """Return a size in which a chart can be read."""
        return QtCore.QSize(300, 240)

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:
        """Draw the chart, or an empty page."""
        chart = self.chart_node()
        if chart is not None and self._sh_curves and (self._sh_picture is None or self._sh_picture.size() != self.size):
            self._sh_picture = plotdrawing.draw(chart, self._sh_curves, self.size.width(), self.size.height())
        painter = QtGui.QPainter(self)
        painter.fillRect(self.rect, QtGui.QColor(*plotdrawing.PAPER))
        if chart is not None and self._sh_picture is not None:
            painter.drawPixmap(0, 0, self._sh_picture)
        painter.end()
