"""`qt.QUiLoader` for the .ui files of Slicer modules: only known widgets and properties, and `<connections>` that hold."""
# ruff: noqa: N802, N803 - Qt's names.

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PySide6 import QtCore, QtUiTools, QtWidgets

from slicerhost import pythonqt
from slicerhost.collapsible import ctkCollapsibleButton
from slicerhost.missing import HostError
from slicerhost.nodecombobox import qMRMLNodeComboBox
from slicerhost.plotview import qMRMLPlotView
from slicerhost.widgets import qMRMLWidget

STAND_INS = {kind.__name__: kind for kind in (ctkCollapsibleButton, qMRMLNodeComboBox, qMRMLPlotView, qMRMLWidget)}
_QT = ("QWidget", "QLabel", "QPushButton", "QToolButton", "QCheckBox", "QComboBox", "QSlider", "QSpinBox", "QDoubleSpinBox",
       "QLineEdit", "QProgressBar", "QPlainTextEdit", "QTableWidget", "QListWidget", "QFrame", "QGroupBox",
       "QRadioButton")  # fmt: skip
_LAYOUTS = ("QVBoxLayout", "QHBoxLayout", "QFormLayout", "QGridLayout")


class QUiLoader(QtUiTools.QUiLoader):
    """Makes the widgets of a .ui file as Slicer's loader does, and refuses what Slicer would ignore or lack."""

    def createWidget(self, className: str, parent: QtWidgets.QWidget | None = None, name: str = "") -> QtWidgets.QWidget:
        """Make a widget; Slicer's own ones are stand-ins."""
        if className in STAND_INS:
            widget = STAND_INS[className](parent) if parent is not None else STAND_INS[className]()
            widget.setObjectName(name)
            return widget
        return super().createWidget(className, parent, name)

    def load(self, file: QtCore.QFile, parent: QtWidgets.QWidget | None = None) -> QtWidgets.QWidget:
        """Load a .ui file.

        Raises
        ------
        HostError : a widget class, a property or an end of a connection is not known.
        """
        path = Path(file.fileName())
        tree = ElementTree.parse(path)
        root = tree.getroot()
        _check(root, path.name)
        connections = list(root.iter("connection"))
        for part in root.findall("connections"):
            root.remove(part)
        device = QtCore.QBuffer()
        device.setData(ElementTree.tostring(root))
        device.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
        # Python's errors in the setters come out through sys.excepthook, where the host collects them.
        top = super().load(device, parent)
        if top is None:
            raise HostError(f"{path.name} cannot be loaded: {self.errorString()}")
        # PySide6 gives the top widget its children as attributes; so, by another way, does PythonQt.
        top.__dict__[f"{pythonqt.OWN}given"] = frozenset(vars(top))
        for section in top.findChildren(ctkCollapsibleButton):
            section.place_children()
        for connection in connections:
            _connect(top, connection, path.name)
        return top


def _check(root: ElementTree.Element, file: str) -> None:
    declared = {entry.findtext("class"): entry.findtext("extends") for entry in root.iter("customwidget")}
    names: set[str] = set()
    for element in root.iter("widget"):
        kind, name = element.get("class", ""), element.get("name", "")
        if kind not in STAND_INS and kind not in _QT:
            raise HostError(f"slicerhost has no widget class {kind} ('{name}' in {file}), Slicer may have it: "
                            "add it after reading Slicer's source.")  # fmt: skip
        if kind in STAND_INS and kind not in declared:
            raise HostError(f"{file} uses {kind} ('{name}') without declaring it in <customwidgets>.")
        if name in names:
            raise HostError(f"{file} has two widgets named '{name}'.")
        names.add(name)
        _check_properties(element, kind, file)
    for element in (*root.iter("enum"), *root.iter("set")):
        if any(part.count("::") > 1 for part in (element.text or "").split("|")):
            raise HostError(f"{file}: '{element.text}' is written as in Qt 6; Slicer's Qt 5 knows 'Class::Value' only.")
    buddies = [one.findtext("cstring") for one in root.iter("property") if one.get("name") == "buddy"]
    for name in (*buddies, *(one.text for one in root.iter("tabstop"))):
        if name not in names:
            raise HostError(f"{file} names '{name}' as a buddy or tab stop, but there is no such widget.")
    for element in root.iter("layout"):
        if element.get("class") not in _LAYOUTS:
            raise HostError(f"slicerhost has no layout class {element.get('class')} ({file}).")


def _check_properties(element: ElementTree.Element, kind: str, file: str) -> None:
    widget_class = STAND_INS.get(kind) or getattr(QtWidgets, kind)
    for entry in element.findall("property"):
        name = entry.get("name", "")
        known = pythonqt.has_property(widget_class, name)
        if entry.get("stdset") == "0" and not known:
            continue
        # No property of labels, but what form builders know as one: whose keyboard short cut the text is.
        if name == "buddy" and kind == "QLabel":
            continue
        if not known:
            raise HostError(f"{file}: {kind} '{element.get('name')}' has no property '{name}'; Slicer would ignore it.")


def _connect(top: QtWidgets.QWidget, connection: ElementTree.Element, file: str) -> None:
    sender, signal, receiver, slot = (connection.findtext(part, "") for part in ("sender", "signal", "receiver", "slot"))
    ends: list[Any] = []
    for name in (sender, receiver):
        found = top if top.objectName == name else top.findChild(QtCore.QObject, name)
        if found is None:
            raise HostError(f"{file} connects '{name}', which is not in it.")
        ends.append(found)
    pythonqt.connect(ends[0], signal, pythonqt.find_slot(ends[1], slot))


def widgets_with_parameter(things: Iterable[Any]) -> dict[str, Any]:
    """Return widgets by their dynamic property SlicerParameterName."""
    found: dict[str, Any] = {}
    for thing in things:
        name = thing.property("SlicerParameterName")
        if name and name in found:
            raise HostError(f"Two widgets want the parameter '{name}': '{found[name].objectName}' and '{thing.objectName}'. "
                            "Slicer ties only one of them.")  # fmt: skip
        if name:
            found[name] = thing
    return found
