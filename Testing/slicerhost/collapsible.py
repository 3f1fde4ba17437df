"""The collapsible section of a Slicer panel."""
# ruff: noqa: N801, N802, N815 - CTK's and Qt's names.

from __future__ import annotations

from typing import Any, ClassVar

from PySide6 import QtCore, QtGui, QtWidgets


class ctkCollapsibleButton(QtWidgets.QAbstractButton):
    """A checkable header over a section; collapsed, its direct children are hidden."""

    contentsCollapsed = QtCore.Signal(bool)
    slicer_signals: ClassVar[dict[str, str]] = {"contentsCollapsed(bool)": "contentsCollapsed"}

    def __init__(self, *arguments: Any) -> None:
        text = arguments[0] if arguments and isinstance(arguments[0], str) else ""
        parent = arguments[-1] if arguments and isinstance(arguments[-1], QtWidgets.QWidget) else None
        super().__init__(parent)
        self._sh_collapsed = False
        self._sh_collapsed_height = 14
        self._sh_forcing = False
        self.setText(text)
        self.setCheckable(True)
        self.setChecked(True)
        self.setContentsMargins(0, self._header_height(), 0, 0)
        self.setSizePolicy(QtWidgets.QSizePolicy.Policy.Minimum, QtWidgets.QSizePolicy.Policy.Preferred)
        self.toggled.connect(self._follow)

    def _get_collapsed(self) -> bool:
        return self._sh_collapsed

    def setCollapsed(self, collapsed: bool) -> None:
        """Fold the section away, or open it."""
        self.setChecked(not collapsed)

    def _get_collapsed_height(self) -> int:
        return self._sh_collapsed_height

    def setCollapsedHeight(self, height: int) -> None:
        """Set how much of the contents stays, pixels."""
        self._sh_collapsed_height = height
        self.updateGeometry()

    collapsed = QtCore.Property(bool, _get_collapsed, setCollapsed)
    collapsedHeight = QtCore.Property(int, _get_collapsed_height, setCollapsedHeight)

    def _follow(self, checked: bool) -> None:
        if checked == (not self._sh_collapsed):
            return
        self._sh_collapsed = not checked
        self.setMaximumHeight(self.sizeHint().height() if self._sh_collapsed else 16777215)
        self.place_children()
        self.updateGeometry()
        self.contentsCollapsed.emit(self._sh_collapsed)

    def place_children(self) -> None:
        """Hide or show the direct children, and watch from now on whether the module hides or shows them."""
        for child in self.children():
            if isinstance(child, QtWidgets.QWidget):
                if not getattr(child, "_sh_watched", False):
                    child._sh_watched = True
                    if child.isHidden() and child.testAttribute(QtCore.Qt.WidgetAttribute.WA_WState_ExplicitShowHide):
                        child.setProperty("visibilityToParent", False)
                    child.installEventFilter(self)
                self._place(child)

    def _place(self, child: QtWidgets.QWidget) -> None:
        if not self.testAttribute(QtCore.Qt.WidgetAttribute.WA_WState_Created):
            return
        expected = child.property("visibilityToParent") is not False
        visible = expected and not self._sh_collapsed
        self._sh_forcing = True
        child.setVisible(visible)
        if expected:
            child.setAttribute(QtCore.Qt.WidgetAttribute.WA_WState_ExplicitShowHide, False)
        self._sh_forcing = False

    def eventFilter(self, child: QtCore.QObject, event: QtCore.QEvent) -> bool:
        """Remember what the module wants of a child; while the section is folded, it stays hidden all the same."""
        if not self._sh_forcing and event.type() == QtCore.QEvent.Type.ShowToParent:
            child.setProperty("visibilityToParent", True)
            self._place(child)
        elif not self._sh_forcing and event.type() == QtCore.QEvent.Type.HideToParent:
            child.setProperty("visibilityToParent", False)
        return False

    def setVisible(self, visible: bool) -> None:
        """Show or hide the section; that its children follow is not the module's wish."""
        self._sh_forcing = True
        super().setVisible(visible)
        self._sh_forcing = False
        self.place_children()

    def _header_height(self) -> int:
        return self.fontMetrics().height() + 8

    def hitButton(self, position: QtCore.QPoint) -> bool:
        """Only the header answers the mouse."""
        return bool(position.y() < self._header_height())

    def sizeHint(self) -> QtCore.QSize:
        """Return the header's size alone if collapsed."""
        folded = self._sh_collapsed_height if self._sh_collapsed else 0
        header = QtCore.QSize(self.fontMetrics().horizontalAdvance(self.text) + 40, self._header_height() + folded)
        return header if self._sh_collapsed else super().sizeHint().expandedTo(header)

    def minimumSizeHint(self) -> QtCore.QSize:
        """Return the header's size alone if collapsed."""
        folded = self._sh_collapsed_height if self._sh_collapsed else 0
        header = QtCore.QSize(60, self._header_height() + folded)
        return header if self._sh_collapsed else super().minimumSizeHint().expandedTo(header)

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:
        """Draw the header: a raised bar with an arrow and the title."""
        painter = QtWidgets.QStylePainter(self)
        option = QtWidgets.QStyleOptionButton()
        option.initFrom(self)
        option.rect = QtCore.QRect(0, 0, self.size.width(), self._header_height())
        option.state |= QtWidgets.QStyle.StateFlag.State_Raised
        painter.drawControl(QtWidgets.QStyle.ControlElement.CE_PushButtonBevel, option)
        arrow = QtWidgets.QStyleOption()
        arrow.initFrom(self)
        arrow.rect = QtCore.QRect(6, (self._header_height() - 12) // 2, 12, 12)
        shapes = QtWidgets.QStyle.PrimitiveElement
        painter.drawPrimitive(shapes.PE_IndicatorArrowRight if self._sh_collapsed else shapes.PE_IndicatorArrowDown, arrow)
        option.rect.adjust(24, 0, 0, 0)
        left = QtCore.Qt.AlignmentFlag.AlignLeft | QtCore.Qt.AlignmentFlag.AlignVCenter
        painter.drawItemText(option.rect, int(left), self.palette, self.isEnabled(), self.text,
                             QtGui.QPalette.ColorRole.ButtonText)  # fmt: skip
        painter.end()
