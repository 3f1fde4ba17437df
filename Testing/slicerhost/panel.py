"""A module's panel: loaded from its file, opened, reloaded, photographed and closed."""

from __future__ import annotations

import ast
import importlib.util
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import TYPE_CHECKING, Any

import slicer
from PySide6 import QtCore, QtWidgets

from slicerhost.missing import HostError
from slicerhost.modulepanel import qSlicerModulePanel
from slicerhost.pythonqt import stray_attributes
from slicerhost.scripted import qSlicerScriptedLoadableModule
from slicerhost.widgets import qSlicerScriptedLoadableModuleWidget

if TYPE_CHECKING:
    from slicerhost.host import Host


class Panel:
    """A module that is loaded, and its panel while it is open."""

    def __init__(self, host: Host, path: Path) -> None:
        self._host, self.path, self.name = host, path, path.stem
        self.frame: qSlicerScriptedLoadableModuleWidget | None = None
        self.dock: qSlicerModulePanel | None = None
        self.widget: Any = None
        self._left: list[str] = []
        self.module = self._load()

    @property
    def ui(self) -> Any:
        """The widgets of the .ui file, by name."""
        return self.widget.ui

    @property
    def logic(self) -> Any:
        """The module's logic."""
        return self.widget.logic

    def _load(self) -> Any:
        folder = str(self.path.parent)
        self._added = folder not in sys.path
        if self._added:
            sys.path.insert(0, folder)
        spec = importlib.util.spec_from_file_location(self.name, self.path)
        if spec is None or spec.loader is None:
            raise HostError(f"{self.path.name} cannot be loaded.")
        module = importlib.util.module_from_spec(spec)
        self._before = sys.modules.get(self.name)
        sys.modules[self.name] = module
        spec.loader.exec_module(module)
        description = qSlicerScriptedLoadableModule(self.path)
        setattr(slicer.modules, self.name.lower(), description)
        instance = getattr(module, self.name)(description)
        setattr(slicer.modules, f"{self.name}Instance", instance)
        if not description.title or not description.categories or not description.contributors:
            raise HostError(f"The module {self.name} lacks a title, categories or contributors.")
        self.description, self.instance = description, instance
        return module

    def open(self) -> None:
        """Build the panel, show it and enter the module."""
        self.frame = qSlicerScriptedLoadableModuleWidget()
        self.frame.setObjectName(f"{self.name}Panel")
        object.__setattr__(self.description, "_widget", self.frame)
        try:
            self.widget = self.frame.make(self.name)
            self.frame.setMRMLScene(slicer.mrmlScene)
            self.dock = qSlicerModulePanel()
            self.dock.resize(480, 900)
            self.dock.show()
            self.dock.add(self.frame)
            self._host.let_qt_work()
        except BaseException:
            self._give_up(self.frame)
            raise

    def _give_up(self, frame: qSlicerScriptedLoadableModuleWidget) -> None:
        """Drop a panel that could not be built, whose exit() and cleanup() cannot be relied on."""
        self.frame = None
        for owner in (frame.self(), self.widget):
            if hasattr(owner, "removeObservers"):
                owner.removeObservers()
        self._destroy(frame)

    def reload(self) -> None:
        """Press the developers' Reload."""
        self.widget.onReload()
        assert self.frame is not None
        self.widget = self.frame.self()
        self.module = sys.modules[self.name]
        self._host.let_qt_work()

    def leave(self) -> None:
        """Go to another module."""
        assert self.frame is not None and self.dock is not None
        self.dock.remove(self.frame)
        self._host.let_qt_work()

    def enter(self) -> None:
        """Come back to the module."""
        assert self.frame is not None and self.dock is not None
        if self.dock.current() is self.frame:
            self.frame.enter()
        else:
            self.dock.add(self.frame)
        self._host.let_qt_work()

    def complaints(self) -> list[str]:
        """Return, and forget, what the module set on widgets that they do not have, and what it left behind."""
        found, self._left = self._left, []
        return found + (stray_attributes(self.frame) if self.frame is not None else [])

    def close(self) -> None:
        """Leave the module, unload it, and destroy its panel."""
        if self.frame is None:
            return
        frame, self.frame = self.frame, None
        if self.dock is not None:
            self.dock.remove(frame)
        self._left += stray_attributes(frame)
        self._host.app.moduleManager().fire("moduleAboutToBeUnloaded(QString)", self.name)
        left = getattr(self.widget, "Observations", None)
        if left:
            self._left.append(f"{self.name}Widget leaves {len(left)} observations behind: cleanup() should remove them")
            # Python would collect the widget at any later time, and the dying scene would still call it then.
            self.widget.removeObservers()
        self._destroy(frame)
        self._host.raise_errors()

    def _destroy(self, frame: qSlicerScriptedLoadableModuleWidget) -> None:
        for part in frame.findChildren(QtWidgets.QWidget):
            if hasattr(part, "setMRMLScene"):
                part.setMRMLScene(None)
        frame.hide()
        frame.deleteLater()
        if self.dock is not None:
            self.dock.hide()
            self.dock.deleteLater()
            self.dock = None
        self.widget = None
        QtWidgets.QApplication.processEvents()
        QtCore.QCoreApplication.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete.value)
        self._forget()

    def _forget(self) -> None:
        if self._added:
            sys.path.remove(str(self.path.parent))
        if self._before is None:
            sys.modules.pop(self.name, None)
        else:
            sys.modules[self.name] = self._before
        for name in (self.name.lower(), f"{self.name}Instance", f"{self.name}Widget"):
            vars(slicer.modules).pop(name, None)


def unconnected_parameters(module: Any, *folders: Path) -> list[str]:
    """Return the parameters that no widget of the .ui file and no code uses.

    Parameters
    ----------
    module : the module (the scripted one, or one of its library) with a wrapped parameter node class in it.
    folders : further folders of Python files, of the module's library.
    """
    classes = [one for one in vars(module).values() if isinstance(one, type) and hasattr(one, "allParameters")]
    path = Path(module.__file__)
    used: set[str] = set()
    # A library's parameters are tied in the .ui file of the module, some folders up.
    for ui in next((found for folder in path.parents if (found := list((folder / "Resources" / "UI").glob("*.ui")))), []):
        for entry in ElementTree.parse(ui).iter("property"):
            if entry.get("name") == "SlicerParameterName":
                used.add(entry.findtext("string", ""))
    for source in [path, *(file for folder in folders for file in sorted(folder.rglob("*.py")))]:
        for part in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(part, ast.Attribute):
                used.add(part.attr)
            elif isinstance(part, ast.Constant) and isinstance(part.value, str):
                used.add(part.value)
    return sorted({name for one in classes for name in one.allParameters} - used)
