"""The section of the result: verdict, tables, convergence, and what the slice views show."""

import enum
import html
import json
from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.panel.arranging import PlotPane, breakable, fill_table, keep_rows_fitting
from HyperPredictRegLib.presentation.result import MEASURES, STAGES, result_view
from HyperPredictRegLib.slicerbridge import showing
from HyperPredictRegLib.slicerbridge.outcome_nodes import EXACT_VOXELS, FIELD_DIFFERENCE, OutcomeNodes, read_back
from HyperPredictRegLib.slicerbridge.provenance import read_report_node

_HIGHEST_TABLE = 230  # pixels
_FLICKER_MILLISECONDS = 700


class ResultSection:
    """Shows the last registration of a parameter node, also after its scene was saved and loaded again.

    Attributes
    ----------
    nodes : the result, or None.
    """

    def __init__(self, ui: Any, parameters: Callable[[], Any]) -> None:
        self.ui = ui
        self._parameters = parameters
        self.nodes: OutcomeNodes | None = None
        self._shown: tuple[Any, ...] | None = None
        self._views = Views()
        self._trace = PlotPane(ui.tracePlotFrame)
        for view in View:
            ui.viewComboBox.addItem(view.label())
        for table in (ui.measuresTable, ui.stagesTable):
            keep_rows_fitting(table, _HIGHEST_TABLE)
        ui.viewComboBox.connect("currentIndexChanged(int)", self._viewChosen)
        ui.gridCheckBox.connect("toggled(bool)", self._gridToggled)
        ui.chartButton.connect("clicked(bool)", self._showChart)
        self._clear(True)

    def refresh(self) -> bool:
        """Show what the parameter node says; called whenever it has changed. Return whether there is something else to show."""
        parameters = self._parameters()
        node = None if parameters is None else parameters.result
        chosen = () if parameters is None else (parameters.fixedVolume, parameters.movingVolume)
        shown = None if node is None else (node.GetID(), *(None if one is None else one.GetID() for one in chosen))
        if shown == self._shown:
            return False
        if (shown and shown[0]) != (self._shown and self._shown[0]):
            # Another result, or none: what moves, and the grid that is drawn, are of the one before.
            self._views.stop()
            self._hide_grid()
            self.ui.viewComboBox.blockSignals(True)
            self.ui.viewComboBox.setCurrentIndex(0)
            self.ui.viewComboBox.blockSignals(False)
        self._shown = shown
        self.nodes, report = None, None
        if node is not None:
            try:
                report = read_report_node(node)
                self.nodes = read_back(slicer.mrmlScene, node)
            except InputError as error:
                self.ui.verdictLabel.setText(html.escape(str(error)))
        if report is None or self.nodes is None:
            self._clear(node is None)
            return True
        view = result_view(
            report, pair=self._pair_words(), chosen=self._is_of(parameters), field_difference_mm=self._field_difference()
        )
        self.ui.verdictLabel.setText(breakable(view.verdict))
        self.ui.detailsLabel.setText(breakable(view.details))
        self.ui.detailsCollapsibleButton.setVisible(True)
        fill_table(self.ui.measuresTable, MEASURES, view.measures, 0, _HIGHEST_TABLE)
        fill_table(self.ui.stagesTable, STAGES, view.stages, 3, _HIGHEST_TABLE)
        self._trace.show(None if self.nodes.registration_trace is None else self.nodes.registration_trace.chart)
        self._enable(True)
        return True

    def forget_removed(self) -> None:
        """Look again for the nodes of the result if the user has removed one of them from the scene."""
        if self.nodes is not None and any(node.GetScene() is None for node in self.nodes.all()):
            self._shown = None
            self.refresh()

    def present(self) -> None:
        """Open the section and show the result that has just come in the slice views."""
        self.ui.resultCollapsibleButton.collapsed = False
        self.ui.applyCollapsibleButton.collapsed = False
        if self.nodes is None:
            return
        self._views.fit(self.nodes)
        if self.ui.viewComboBox.currentIndex == 0:
            self._viewChosen(0)
        else:
            self.ui.viewComboBox.setCurrentIndex(0)

    def release(self) -> None:
        """Let go of everything that belongs to a scene that closes."""
        self._views.stop()
        self._hide_grid()
        self._shown = None
        self._clear(True)

    def pause(self) -> None:
        """Stop what moves by itself, because the user has left the module."""
        self._views.pause()

    def resume(self) -> None:
        """Go on with what moved when the user left the module."""
        self._views.resume()

    def _clear(self, none_yet: bool) -> None:
        self.nodes = None
        self.ui.detailsCollapsibleButton.setVisible(False)
        if none_yet:
            self.ui.verdictLabel.setText(_("Nothing has been registered yet."))
        for table in (self.ui.measuresTable, self.ui.stagesTable):
            table.setRowCount(0)
            table.setVisible(False)
        self._trace.show(None)
        self._enable(False)

    def _enable(self, there: bool) -> None:
        for widget in (self.ui.viewComboBox, self.ui.gridCheckBox, self.ui.chartButton):
            widget.setEnabled(there)

    def _pair_words(self) -> str:
        """Say which volumes the result is of."""
        moving, fixed = (self.nodes.moving, self.nodes.fixed) if self.nodes is not None else (None, None)
        if moving is None or fixed is None:
            return ""
        return _("{moving} registered to {fixed}").format(moving=moving.GetName(), fixed=fixed.GetName())

    def _is_of(self, parameters: Any) -> bool:
        """Tell whether the result is of the volumes that are chosen now."""
        nodes = self.nodes
        return nodes is not None and (nodes.fixed, nodes.moving) == (parameters.fixedVolume, parameters.movingVolume)

    def _field_difference(self) -> tuple[float, float] | None:
        """Return by how many mm, on average and at most, a transform that is stored as one field differs from the exact one."""
        transform = None if self.nodes is None else self.nodes.transform
        text = None if transform is None else transform.GetAttribute(FIELD_DIFFERENCE)
        if not text:
            return None
        apart = json.loads(text)
        return (apart["mean"], apart["maximum"]) if apart["maximum"] > EXACT_VOXELS * apart.get("voxel", 1.0) else None

    def _viewChosen(self, index: int) -> None:  # noqa: N802 - Slicer's style
        if self.nodes is None or index < 0:
            return
        if None in (self.nodes.fixed, self.nodes.moving, self.nodes.warped, self.nodes.jacobian):
            self.ui.verdictLabel.setText(_("The volumes of this result are no longer in the scene: register again."))
            self.ui.detailsCollapsibleButton.setVisible(False)
            return
        with slicer.util.tryWithErrorDisplay(_("The view could not be shown."), waitCursor=True):
            self._views.show(self.nodes, list(View)[index])

    def _gridToggled(self, shown: bool) -> None:  # noqa: N802
        if self.nodes is not None and self.nodes.transform is not None and self.nodes.fixed is not None:
            with slicer.util.tryWithErrorDisplay(_("The grid could not be shown.")):
                showing.show_deformation(self.nodes.transform, self.nodes.fixed, slicer.mrmlScene, visible=shown)

    def _hide_grid(self) -> None:
        """Untick the deformed grid, and hide it if it is drawn."""
        if self.ui.gridCheckBox.checked:
            if self.nodes is not None and self.nodes.transform is not None and self.nodes.transform.GetScene() is not None:
                self._gridToggled(False)
            self.ui.gridCheckBox.blockSignals(True)
            self.ui.gridCheckBox.setChecked(False)
            self.ui.gridCheckBox.blockSignals(False)

    def _showChart(self) -> None:  # noqa: N802
        if self.nodes is not None and self.nodes.registration_trace is not None:
            slicer.modules.plots.logic().ShowChartInLayout(self.nodes.registration_trace.chart)


class View(enum.Enum):
    """What can be looked at, in the order of the list."""

    AFTER = "after"
    BEFORE = "before"
    CHECKERBOARD = "checkerboard"
    FLICKER = "flicker"
    JACOBIAN = "jacobian"

    def label(self) -> str:
        """Return the words that the panel shows."""
        return {
            View.AFTER: _("After: registered over fixed"),
            View.BEFORE: _("Before: moving over fixed"),
            View.CHECKERBOARD: _("Checkerboard of fixed and registered"),
            View.FLICKER: _("Flicker between fixed and registered"),
            View.JACOBIAN: _("Change of volume, folded voxels in red"),
        }[self]


class Views:
    """Sets the layers of the slice views; the fixed volume is always the background."""

    def __init__(self) -> None:
        self._timer = qt.QTimer()
        self._timer.setInterval(_FLICKER_MILLISECONDS)
        self._timer.connect("timeout()", self._flick)
        self._flicked = False
        self._shown: Any = None  # the result that flickers
        self._before: dict[str, float] = {}  # opacities by the id of the slice view's node, as they were before the flicker
        self._paused: Any = None  # the result whose flicker goes on when the user comes back

    def show(self, nodes: Any, view: View) -> None:
        """Show one view of a result."""
        self.stop()
        if nodes.folded_voxels is not None:
            showing.show_outlines(nodes.folded_voxels)
            nodes.folded_voxels.GetDisplayNode().SetVisibility(view is View.JACOBIAN)
        if view is View.CHECKERBOARD:
            board = showing.checkerboard(nodes.fixed, nodes.warped, slicer.mrmlScene)
            slicer.util.setSliceViewerLayers(background=nodes.fixed, foreground=board, foregroundOpacity=1.0)
            return
        if view is View.JACOBIAN:
            showing.show_jacobian(nodes.jacobian, slicer.mrmlScene)
        layer = {View.BEFORE: nodes.moving, View.JACOBIAN: nodes.jacobian}.get(view, nodes.warped)
        if view is View.FLICKER:
            slicer.util.setSliceViewerLayers(background=nodes.fixed, foreground=layer)
            self._flicker(nodes)
        else:
            slicer.util.setSliceViewerLayers(background=nodes.fixed, foreground=layer, foregroundOpacity=0.5)

    def fit(self, nodes: Any) -> None:
        """Turn and fit the slice views to the fixed volume, where there are any."""
        if slicer.app.layoutManager() is not None:
            slicer.util.setSliceViewerLayers(background=nodes.fixed, fit=True, rotateToVolumePlane=True)

    def stop(self) -> None:
        """Stop flickering, and give the foreground the opacity back that the user saw before."""
        self._timer.stop()
        self._shown = self._paused = None
        for identity, opacity in self._before.items():
            node = slicer.mrmlScene.GetNodeByID(identity)
            if node is not None:
                node.SetForegroundOpacity(opacity)
        self._before = {}

    def pause(self) -> None:
        """Stop flickering until `resume`."""
        flickered = self._shown
        self.stop()
        self._paused = flickered

    def resume(self) -> None:
        """Flicker again if it was paused, unless the slice views show something else by now."""
        nodes, self._paused = self._paused, None
        if nodes is None or nodes.warped is None or nodes.warped.GetScene() is None:
            return
        if any(one.GetForegroundVolumeID() == nodes.warped.GetID() for one in _slice_view_nodes()):
            self._flicker(nodes)

    def _flicker(self, nodes: Any) -> None:
        self._before = {node.GetID(): node.GetForegroundOpacity() for node in _slice_view_nodes()}
        self._shown = nodes
        self._flick()
        self._timer.start()

    def _flick(self) -> None:
        self._flicked = not self._flicked
        slicer.util.setSliceViewerLayers(foregroundOpacity=1.0 if self._flicked else 0.0)


def _slice_view_nodes() -> list[Any]:
    return list(slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"))
