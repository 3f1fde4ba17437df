"""Which widgets can be tied to which parameters: those of Slicer's guiConnectors.py that the stand-in has widgets for."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import slicer
from PySide6 import QtWidgets

from slicerhost.annotating import Choice, Decimals, Maximum, Minimum, SingleStep, WithinRange, split_annotations
from slicerhost.missing import HostError
from slicerhost.nodecombobox import qMRMLNodeComboBox


class Connector:
    """A widget whose value is a Qt property."""

    signal = ""
    prop = ""

    def __init__(self, widget: Any, kind: Any, annotations: tuple[Any, ...]) -> None:
        self.widget, self.kind, self.annotations = widget, kind, annotations
        self._callback: Callable[..., None] | None = None
        self.prepare()

    def prepare(self) -> None:
        """Set the widget up for the parameter."""

    def first(self, *kinds: type) -> Any:
        """Return the first annotation of some kinds, or None."""
        return next((one for one in self.annotations if isinstance(one, kinds)), None)

    def on_changed(self, callback: Callable[..., None] | None) -> None:
        """Call back when the user changes the widget; None stops it."""
        signal = getattr(self.widget, self.signal) if self.signal else None
        if signal is not None and self._callback is not None:
            signal.disconnect(self._callback)
        self._callback = callback
        if signal is not None and callback is not None:
            signal.connect(callback)

    def read(self) -> Any:
        """Return the widget's value."""
        return getattr(self.widget, self.prop)

    def write(self, value: Any) -> None:
        """Set the widget's value."""
        if getattr(self.widget, self.prop) != value:
            setattr(self.widget, self.prop, value)


class _CheckBox(Connector):
    signal, prop = "stateChanged", "checked"


class _PushButton(Connector):
    signal, prop = "toggled", "checked"

    def prepare(self) -> None:
        if not self.widget.checkable:
            raise HostError(f"The button '{self.widget.objectName}' is tied to a parameter, but is not checkable; Slicer warns.")


class _LineEdit(Connector):
    signal, prop = "textChanged", "text"


class _Label(Connector):
    prop = "text"


class _TextEdit(Connector):
    signal, prop = "textChanged", "plainText"


class _Number(Connector):
    signal, prop = "valueChanged", "value"

    def prepare(self) -> None:
        whole = isinstance(self.widget, (QtWidgets.QSlider, QtWidgets.QSpinBox))
        decimals, step = self.first(Decimals), self.first(SingleStep)
        within, low, high = self.first(WithinRange), self.first(Minimum), self.first(Maximum)
        if isinstance(self.widget, QtWidgets.QSlider) and within is None and (low is None or high is None):
            raise RuntimeError("Cannot have a connection to QSlider where the int type is unbounded.")
        if not whole:
            if self.kind is int:
                self.widget.setDecimals(0)
            elif decimals is not None:
                self.widget.setDecimals(decimals.value)
        elif decimals is not None:
            raise HostError(f"'{self.widget.objectName}' shows whole numbers and has no decimals.")
        if step is not None:
            self.widget.setSingleStep(step.value)
        if within is not None:
            low, high = Minimum(within.minimum), Maximum(within.maximum)
        lowest, highest = (-(2**31), 2**31 - 1) if whole else (float("-inf"), float("inf"))
        self.widget.setMinimum(low.minimum if low is not None else lowest)
        self.widget.setMaximum(high.maximum if high is not None else highest)

    def read(self) -> Any:
        return int(self.widget.value) if self.kind is int else self.widget.value


class _Choices(Connector):
    signal, prop = "currentIndexChanged", "currentIndex"

    def prepare(self) -> None:
        if isinstance(self.kind, type) and issubclass(self.kind, enum.Enum):
            label = getattr(self.kind, "label", lambda member: member.name)
            self.values = list(self.kind)
            labels = [label(member) for member in self.values]
        else:
            choice = self.first(Choice)
            if choice is None:
                raise RuntimeError("ComboBoxToStringableConnector requires the Choice annotation to be used.")
            self.values = list(choice.choices)
            labels = [str(value) for value in self.values]
        # As in Slicer, what the .ui file lists is replaced.
        self.widget.clear()
        self.widget.addItems(labels)

    def read(self) -> Any:
        return self.values[self.widget.currentIndex]

    def write(self, value: Any) -> None:
        if value not in self.values:
            raise ValueError(f"Unable to find value {value} in choices {self.values}")
        self.widget.setCurrentIndex(self.values.index(value))


class _Node(Connector):
    signal = "currentNodeChanged"

    def prepare(self) -> None:
        self.widget.nodeTypes = (self.kind().GetClassName(),)

    def read(self) -> Any:
        return self.widget.currentNode()

    def write(self, value: Any) -> None:
        self.widget.setCurrentNode(value)


def make(widget: Any, hint: Any) -> Connector:
    """Return what ties a widget to a parameter.

    Raises
    ------
    RuntimeError : Slicer has no connector for this pair of widget class and type.
    """
    kind, annotations = split_annotations(hint)
    is_enum = isinstance(kind, type) and issubclass(kind, enum.Enum)
    is_node = isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode)
    # The widget's class must be exactly this one, as in Slicer.
    known: dict[type, tuple[bool, type[Connector]]] = {
        QtWidgets.QCheckBox: (kind is bool, _CheckBox),
        QtWidgets.QPushButton: (kind is bool, _PushButton),
        QtWidgets.QSlider: (kind is int, _Number),
        QtWidgets.QSpinBox: (kind is int, _Number),
        QtWidgets.QDoubleSpinBox: (kind in (int, float), _Number),
        QtWidgets.QComboBox: (kind in (int, float, str, bool) or is_enum, _Choices),
        QtWidgets.QLineEdit: (kind is str, _LineEdit),
        QtWidgets.QLabel: (kind is str, _Label),
        QtWidgets.QTextEdit: (kind is str, _TextEdit),
        qMRMLNodeComboBox: (is_node, _Node),
    }
    fits, connector = known.get(type(widget), (False, Connector))
    if not fits:
        raise RuntimeError(f"Unable to create GUI connector from datatype '{hint}' to widget type '{type(widget).__name__}' "
                           f"(widget '{widget.objectName}').")  # fmt: skip
    return connector(widget, kind, annotations)
