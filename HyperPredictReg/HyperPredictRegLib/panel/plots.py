"""A plot view inside the panel that shows one chart of the scene."""

from typing import Any

import slicer


class PlotPane:
    """A view of its own, so that the user's layout stays as it is; hidden while there is nothing to show.

    Its view node is not in the scene: there, the layout manager would make a second view for it, and every other chart that is
    shown anywhere would be shown here too.
    """

    def __init__(self, frame: Any) -> None:
        self._frame = frame
        self._node = slicer.vtkMRMLPlotViewNode()
        # Held here, because the view itself does not hold the chart that it shows.
        self._chart: Any = None
        self._view = slicer.qMRMLPlotView()
        self._view.setMRMLScene(slicer.mrmlScene)
        frame.layout().addWidget(self._view)
        frame.setVisible(False)

    def show(self, chart: Any) -> None:
        """Show a chart node; None shows nothing."""
        self._frame.setVisible(chart is not None)
        if chart is self._chart:
            return
        self._view.setMRMLPlotViewNode(None)
        self._chart = chart
        if chart is not None:
            # Charts of scenes from before have one, which would cover the curves.
            chart.SetLegendVisibility(False)
            self._node.SetPlotChartNodeID(chart.GetID())
            self._view.setMRMLPlotViewNode(self._node)
