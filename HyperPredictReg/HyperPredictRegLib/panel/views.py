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
        slicer.util.setSliceViewerLayers(background=nodes.fixed, foreground=layer, foregroundOpacity=0.5)
        if view is View.FLICKER:
            self._flick()
            self._timer.start()

    def fit(self, nodes: Any) -> None:
        """Turn and fit the slice views to the fixed volume, where there are any."""
        if slicer.app.layoutManager() is not None:
            slicer.util.setSliceViewerLayers(background=nodes.fixed, fit=True, rotateToVolumePlane=True)

    def stop(self) -> None:
        """Stop flickering."""
        self._timer.stop()

    def _flick(self) -> None:
        self._flicked = not self._flicked
        slicer.util.setSliceViewerLayers(foregroundOpacity=1.0 if self._flicked else 0.0)
