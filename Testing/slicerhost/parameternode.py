"""`slicer.parameterNodeWrapper`: typed attributes over a vtkMRMLScriptedModuleNode, tied to widgets by name."""
# ruff: noqa: N802, N803 - Slicer's names.

from __future__ import annotations

import typing
import weakref
from types import ModuleType, SimpleNamespace
from typing import Any

import slicer
import vtk
from PySide6 import QtWidgets

from slicerhost import annotating, guiconnectors
from slicerhost.annotating import Default, split_annotations
from slicerhost.missing import HostError, strict_module
from slicerhost.serializing import serializer_of
from slicerhost.uiloader import widgets_with_parameter


class _Parameter:
    """One attribute of a wrapper class."""

    def __init__(self, name: str, hint: Any, default: Default | None) -> None:
        _, notes = split_annotations(hint)
        stated = [one for one in notes if isinstance(one, Default)]
        known = (Default, annotating.Validator, annotating.Decimals, annotating.SingleStep)
        unknown = [one for one in notes if not isinstance(one, known)]
        if unknown:
            raise HostError(f"slicerhost does not know the annotation {unknown[0]!r} of the parameter {name}.")
        used = annotating.Validator if default is not None else (annotating.Validator, Default)
        unused = [one for one in notes if not isinstance(one, used)]
        if unused:
            raise HostError(f"Slicer warns of the unused annotation {unused[0]!r} of {name}: say it in the .ui file.")
        self.name, self.hint = name, hint
        self.serializer = serializer_of(hint)
        self.default = default or (stated[0] if stated else Default(self.serializer.default()))


class _Value:
    """One parameter in one node; what was read is kept until the node says that it changed, as in Slicer."""

    def __init__(self, parameter: _Parameter, node: Any) -> None:
        self._parameter, self._node, self._writing = parameter, node, False
        self._value = self._from_node()
        me = weakref.ref(self)

        def changed(*_: Any) -> None:
            value = me()
            if value is not None and not value._writing:
                value._value = value._from_node()

        self._tag = node.AddObserver(vtk.vtkCommand.ModifiedEvent, changed)

    def _from_node(self) -> Any:
        serializer, name = self._parameter.serializer, self._parameter.name
        # Also when the scene was closed, which empties the node.
        if not serializer.is_in(self._node, name):
            serializer.write(self._node, name, self._parameter.default.value)
        return serializer.read(self._node, name)

    def __del__(self) -> None:
        if hasattr(self, "_tag"):
            self._node.RemoveObserver(self._tag)

    def read(self) -> Any:
        """Return the value."""
        return self._value

    def write(self, value: Any) -> None:
        """Put a value into the node."""
        self._writing = True
        try:
            with slicer.util.NodeModify(self._node):
                self._parameter.serializer.write(self._node, self._parameter.name, value)
                self._value = self._from_node()
        finally:
            self._writing = False


class Wrapper:
    """What `@parameterNodeWrapper` puts under a class: Slicer's methods of a wrapped parameter node."""

    allParameters: typing.ClassVar[dict[str, _Parameter]] = {}  # noqa: N815 - Slicer's name.

    def __init__(self, parameterNode: Any, prefix: str | None = None) -> None:
        if prefix:
            raise HostError("slicerhost has no prefix for parameter nodes, Slicer may have it.")
        object.__setattr__(self, "parameterNode", parameterNode)
        self._values: dict[str, _Value] = {}
        self._guis: dict[int, Any] = {}
        self._updating = False
        for name, parameter in self.allParameters.items():
            self._values[name] = _Value(parameter, parameterNode)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        elif name in self.allParameters:
            self._values[name].write(value)
        else:
            raise AttributeError(f"The parameter node has no parameter '{name}'; Slicer would keep it outside of the scene.")

    def _check(self, name: str) -> None:
        if name not in self.allParameters:
            raise ValueError(f"Cannot find a parameter '{name}' among {', '.join(self.allParameters)}.")

    def getValue(self, name: str) -> Any:
        """Return a parameter by its name."""
        self._check(name)
        return self._values[name].read()

    def setValue(self, name: str, value: Any) -> None:
        """Set a parameter by its name."""
        self._check(name)
        self._values[name].write(value)

    def default(self, name: str) -> Default:
        """Return a parameter's default."""
        self._check(name)
        return self.allParameters[name].default

    def isCached(self, name: str) -> bool:
        """Say whether a parameter is kept until the node changes."""
        self._check(name)
        return bool(self.allParameters[name].serializer.cached)

    @classmethod
    def dataType(cls, name: str) -> Any:
        """Return a parameter's type hint."""
        if name not in cls.allParameters:
            raise ValueError(f"Cannot find a parameter '{name}'.")
        return cls.allParameters[name].hint

    def connectGui(self, gui: Any) -> int:
        """Tie all widgets that have the property SlicerParameterName to their parameters."""
        is_widget = isinstance(gui, QtWidgets.QWidget)
        things = gui.findChildren(QtWidgets.QWidget) if is_widget else vars(gui).values()
        return self.connectParametersToGui(widgets_with_parameter(things))

    def connectParametersToGui(self, mapping: dict[str, Any]) -> int:
        """Tie widgets to parameters; the widgets get the values that the node has."""
        for name in mapping:
            self._check(name)
        connectors = {name: guiconnectors.make(widget, self.dataType(name)) for name, widget in mapping.items()}
        tag = max(self._guis, default=-1) + 1
        for name, connector in connectors.items():
            connector.write(self.getValue(name))
            connector.on_changed(self._writer(name, connector))
        observer = self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._update_gui())
        self._guis[tag] = SimpleNamespace(connectors=connectors, observer=observer)
        return tag

    def _writer(self, name: str, connector: Any) -> Any:
        def write(*_: Any) -> None:
            with slicer.util.NodeModify(self):
                if not self._updating:
                    self.setValue(name, connector.read())

        return write

    def _update_gui(self) -> None:
        if self._updating:
            return
        self._updating = True
        try:
            with slicer.util.NodeModify(self):
                for gui in list(self._guis.values()):
                    for name, connector in gui.connectors.items():
                        connector.write(self.getValue(name))
        finally:
            self._updating = False

    def disconnectGui(self, tag: int | None) -> None:
        """Undo `connectGui`."""
        gui = self._guis.pop(tag, None)
        if gui is not None:
            for connector in gui.connectors.values():
                connector.on_changed(None)
            self.RemoveObserver(gui.observer)

    def StartModify(self) -> Any:
        """Hold back the node's events."""
        return self.parameterNode.StartModify()

    def EndModify(self, wasModified: Any) -> Any:
        """Send the node's events."""
        return self.parameterNode.EndModify(wasModified)

    def AddObserver(self, event: Any, callback: Any, priority: float = 0.0) -> int:
        """Observe the node."""
        return int(self.parameterNode.AddObserver(event, callback, priority))

    def RemoveObserver(self, tag: int) -> None:
        """Stop observing the node."""
        self.parameterNode.RemoveObserver(tag)

    def Modified(self) -> None:
        """Let the node say that it changed."""
        self.parameterNode.Modified()


def _attribute(name: str) -> property:
    return property(lambda self: self._values[name].read(), lambda self, value: self._values[name].write(value))


def parameterNodeWrapper(classtype: Any = None) -> Any:
    """Make typed attributes of a class's annotations."""
    if classtype is None:
        return parameterNodeWrapper
    parameters = {}
    for name, hint in typing.get_type_hints(classtype, include_extras=True).items():
        if hasattr(Wrapper, name) or name == "parameterNode":
            raise ValueError(f"Cannot use reserved name '{name}' in a parameterNodeWrapper")
        default = Default(getattr(classtype, name)) if hasattr(classtype, name) else None
        parameters[name] = _Parameter(name, hint, default)
        setattr(classtype, name, _attribute(name))
    # Changed in place, as in Slicer, so that super() in the class's own methods still finds it.
    for name, value in vars(Wrapper).items():
        if not name.startswith("__") or name in ("__init__", "__setattr__"):
            setattr(classtype, name, value)
    classtype.allParameters = parameters
    return classtype


def isParameterNodeWrapper(thing: Any) -> bool:
    """Say whether a class or object is a wrapped parameter node."""
    return hasattr(thing, "allParameters") and hasattr(thing, "connectGui")


def make_parameter_node_wrapper() -> ModuleType:
    """Return the module `slicer.parameterNodeWrapper`."""
    contents: dict[str, Any] = {name: getattr(annotating, name) for name in (
        "Validator", "WithinRange", "Minimum", "Maximum", "Choice", "Default", "Decimals", "SingleStep")}  # fmt: skip
    contents["parameterNodeWrapper"] = parameterNodeWrapper
    contents["isParameterNodeWrapper"] = isParameterNodeWrapper
    contents["SlicerParameterNamePropertyName"] = "SlicerParameterName"
    return strict_module("slicer.parameterNodeWrapper", contents, "A stand-in for slicer.parameterNodeWrapper.")
