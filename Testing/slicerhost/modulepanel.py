"""The window's module panel: a scroll area in which one module's widget lies at a time, put there and taken away as Slicer does.

After qSlicerModulePanel of Slicer 5.12. Two of its habits matter to modules. It gives the widget the horizontal size policy
Minimum, so that the width which the widget would like to have is the least that the panel gets, and the panel asks the window
for as much. And when it takes a widget away it drops the layout item that held it without destroying it: the widget goes on to
tell that dead item whenever its heights have changed, and the item that holds it later keeps the old ones.
"""
# ruff: noqa: N801 - Slicer's names.

from __future__ import annotations

import shiboken6
from PySide6 import QtCore, QtWidgets

from slicerhost.collapsible import ctkCollapsibleButton
from slicerhost.widgets import qSlicerScriptedLoadableModuleWidget

_PLACE = 1  # between help and the spring at the bottom
_HIGHEST = 16000  # pixels
_ROUNDS = 20  # more than there are layouts in one another
_DEAD: list[object] = []  # what Slicer leaks, too


class qSlicerModulePanel(QtWidgets.QWidget):
    """Shows one module's widget."""

    def __init__(self) -> None:
        super().__init__()
        policies = QtWidgets.QSizePolicy.Policy
        contents = QtWidgets.QWidget()
        self._sh_layout = QtWidgets.QVBoxLayout(contents)
        self._sh_layout.setContentsMargins(0, 0, 0, 0)
        self._sh_layout.setSizeConstraint(QtWidgets.QLayout.SizeConstraint.SetMinAndMaxSize)
        help_button = ctkCollapsibleButton("Help && Acknowledgement")
        help_button.setCollapsed(True)
        help_button.setSizePolicy(policies.Ignored, policies.Fixed)
        self._sh_layout.addWidget(help_button)
        self._sh_layout.addItem(QtWidgets.QSpacerItem(0, 0, policies.Minimum, policies.MinimumExpanding))
        contents.setSizePolicy(policies.Minimum, policies.Preferred)
        self._sh_area = QtWidgets.QScrollArea()
        self._sh_area.setFrameShape(QtWidgets.QFrame.Shape.NoFrame)
        self._sh_area.setHorizontalScrollBarPolicy(QtCore.Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._sh_area.setWidgetResizable(True)
        self._sh_area.setSizePolicy(policies.Minimum, policies.Expanding)
        self._sh_area.setWidget(contents)
        around = QtWidgets.QGridLayout(self)
        around.setContentsMargins(0, 0, 0, 0)
        around.addWidget(self._sh_area)
        self.setSizePolicy(policies.Minimum, policies.Preferred)

    def current(self) -> qSlicerScriptedLoadableModuleWidget | None:
        """Return the widget that is shown, or None."""
        item = self._sh_layout.itemAt(_PLACE)
        widget = None if item is None else item.widget()
        return widget if isinstance(widget, qSlicerScriptedLoadableModuleWidget) else None

    def add(self, widget: qSlicerScriptedLoadableModuleWidget) -> None:
        """Show a module's widget and enter the module."""
        layout = widget.layout()
        if layout is not None:
            layout.setContentsMargins(0, 0, 0, 0)
        self._sh_layout.insertWidget(_PLACE, widget, 1)
        widget.setSizePolicy(QtWidgets.QSizePolicy.Policy.Minimum, widget.sizePolicy.verticalPolicy())
        widget.setVisible(True)
        self.updateGeometry()
        widget.enter()

    def remove(self, widget: qSlicerScriptedLoadableModuleWidget) -> None:
        """Leave the module and take its widget away, wherever `exit` has put it, as Slicer does: what lies in its place goes."""
        place = self._sh_layout.indexOf(widget)
        if place < 0:
            return
        widget.exit()
        item = self._sh_layout.takeAt(place)
        _DEAD.append(item)
        shiboken6.invalidate(item)
        widget.setVisible(False)
        widget.setParent(None)

    def preferred_width(self) -> int:
        """Return the width (pixels) that the panel asks the window for, without its scroll bar."""
        return int(self._sh_area.widget().minimumSizeHint().width())

    def fit(self, width: int) -> None:
        """Make the panel so wide, and so high that nothing needs to be scrolled."""
        # High enough at first for no scroll bar, which else stays because of the room that it takes itself.
        self.resize(width, _HIGHEST)
        self.settle()
        # Labels that wrap know their height only after the width has settled.
        for _ in range(3):
            height = self._sh_layout.heightForWidth(width) if self._sh_layout.hasHeightForWidth() else 0
            self.resize(width, max(height, self._sh_layout.minimumSize().height()))
            self.settle()

    def settle(self) -> None:
        """Let every layout hear of what has changed below it: each passes it on to the one around it by an event of its own."""
        for _ in range(_ROUNDS):
            QtCore.QCoreApplication.sendPostedEvents(None, QtCore.QEvent.Type.LayoutRequest.value)
            QtWidgets.QApplication.processEvents()
