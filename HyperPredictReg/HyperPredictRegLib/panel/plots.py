"""A plot view inside the panel that shows one chart of the scene."""

from typing import Any

import slicer


class PlotPane:
    """A view of its own, so that the user's layout stays as it is; hidden while there is nothing to show."""

    def __init__(self, frame: Any, name: str, *, legend: bool = True) -> None:
        self._frame = frame
        self._legend = legend
        self._name = f"HyperPredictReg{name}"
        self._view = slicer.qMRMLPlotView()
        self._view.setMRMLScene(slicer.mrmlScene)
        frame.layout().addWidget(self._view)
        frame.setVisible(False)

    def show(self, chart: Any) -> None:
        """Show a chart node; None shows nothing."""
        self._frame.setVisible(chart is not None)
        if chart is None:
            self._view.setMRMLPlotViewNode(None)
            return
        node = slicer.mrmlScene.GetSingletonNode(self._name, "vtkMRMLPlotViewNode") or self._new_view_node(chart)
        chart.SetLegendVisibility(self._legend)
        if self._view.mrmlPlotViewNode() is not node:
            self._view.setMRMLPlotViewNode(node)
        if node.GetPlotChartNodeID() != chart.GetID():
            node.SetPlotChartNodeID(chart.GetID())
        if node.GetParentLayoutNode() is None:
            # Closing a scene keeps the view but not its owner.
            node.SetAndObserveParentLayoutNodeID(chart.GetID())

    def _new_view_node(self, owner: Any) -> Any:
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLPlotViewNode")
        node.UnRegister(None)
        node.SetSingletonTag(self._name)
        node.SetLayoutName(self._name)
        node.SetName(self._name)
        node.SetHideFromEditors(True)
        node.SetSaveWithScene(False)
        # With an owner, the layout manager leaves the view to us; see "Show a slice view outside the view layout" in
        # Slicer's script repository.
        node.SetAndObserveParentLayoutNodeID(owner.GetID())
        return slicer.mrmlScene.AddNode(node)
