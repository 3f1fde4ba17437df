"""What the slice views show of a result: before, after, checkerboard, flicker, change of volume."""

import enum
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from HyperPredictRegLib.slicerbridge import showing

_FLICKER_MILLISECONDS = 700


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
            View.JACOBIAN: _("Change of volume, folds outlined in red"),
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
        if nodes.folds is not None:
            showing.show_outlines(nodes.folds)
            nodes.folds.GetDisplayNode().SetVisibility(view is View.JACOBIAN)
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
