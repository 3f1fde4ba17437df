"""`slicer.app`, `slicer.modules` and what hangs on them: only what a registration module needs."""
# ruff: noqa: N802, N815 - Slicer's names.

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import slicer
from PySide6 import QtCore, QtWidgets

from slicerhost.filing import CoreIOManager
from slicerhost.missing import Strict, refuse_unknown
from slicerhost.qtmodules import QSettings
from slicerhost.scene import SLICE_VIEWS, ApplicationScene
from slicerhost.signals import HostSignal, Sender


class SliceWidget(Strict):
    """A slice view without a picture."""

    _host_name = "sliceWidget"

    def __init__(self, logic: Any) -> None:
        self._logic = logic

    def sliceLogic(self) -> Any:
        """Return the vtkMRMLSliceLogic."""
        return self._logic

    def mrmlSliceNode(self) -> Any:
        """Return the slice node."""
        return self._logic.GetSliceNode()

    def mrmlSliceCompositeNode(self) -> Any:
        """Return the node that says which volumes are shown."""
        return self._logic.GetSliceCompositeNode()


class LayoutManager(Strict):
    """Three slice views without a picture, and the layout node."""

    _host_name = "slicer.app.layoutManager()"

    def __init__(self, scene: ApplicationScene) -> None:
        self._scene = scene
        self.resets = 0

    def sliceViewNames(self) -> tuple[str, ...]:
        """Return Red, Yellow and Green."""
        return SLICE_VIEWS

    def sliceWidget(self, name: str) -> SliceWidget | None:
        """Return a slice view, or None."""
        return SliceWidget(self._scene.slice_logics[name]) if name in self._scene.slice_logics else None

    def mrmlSliceLogics(self) -> Any:
        """Return the collection of slice logics."""
        return self._scene.logic.GetSliceLogics()

    def resetSliceViews(self) -> None:
        """Fit the slice views to what they show."""
        self.resets += 1
        for logic in self._scene.slice_logics.values():
            logic.FitSliceToBackground()

    @property
    def layout(self) -> int:
        """The number of the layout."""
        return int(self._scene.layout_node.GetViewArrangement())

    def setLayout(self, number: int) -> None:
        """Choose a layout."""
        self._scene.layout_node.SetViewArrangement(number)


class ModuleManager(Sender):
    """Knows the modules that are loaded."""

    _host_name = "slicer.app.moduleManager()"

    def __init__(self) -> None:
        super().__init__("moduleAboutToBeUnloaded(QString)")

    def module(self, name: str) -> Any:
        """Return a module, or None."""
        return vars(slicer.modules).get(name.lower())


class LoadedModule(Strict):
    """One of Slicer's own modules: its name and its real logic."""

    def __init__(self, name: str, logic: Any) -> None:
        self._host_name = f"slicer.modules.{name.lower()}"
        self.name = name
        self._logic = logic

    def logic(self) -> Any:
        """Return the module's logic."""
        return self._logic


class Application(Sender):
    """`slicer.app`."""

    _host_name = "slicer.app"
    applicationName = "Slicer"
    applicationVersion = "5.12.3 (slicerhost)"
    majorVersion, minorVersion = 5, 12

    def __init__(self, application_scene: ApplicationScene) -> None:
        super().__init__("startupCompleted()", "aboutToQuit()", "lastWindowClosed()")
        self._scene = application_scene
        self._modules = ModuleManager()
        self._layout = LayoutManager(application_scene)
        self._files = CoreIOManager(application_scene)
        self._folder = tempfile.TemporaryDirectory(prefix="slicerhost-temporary-")
        self._cursors = 0
        self.testing = False
        self.has_main_window = True
        self.temporaryPath = self._folder.name

    @property
    def aboutToQuit(self) -> HostSignal:
        """The signal before Slicer ends."""
        return self._signal("aboutToQuit()")

    def testingEnabled(self) -> bool:
        """Say whether Slicer was started with --testing."""
        return self.testing

    def mrmlScene(self) -> Any:
        """Return the scene."""
        return self._scene.scene

    def applicationLogic(self) -> Any:
        """Return the vtkSlicerApplicationLogic."""
        return self._scene.logic

    def layoutManager(self) -> LayoutManager | None:
        """Return the layout manager; None without a main window."""
        return self._layout if self.has_main_window else None

    def moduleManager(self) -> ModuleManager:
        """Return the module manager."""
        return self._modules

    def coreIOManager(self) -> CoreIOManager:
        """Return what reads and writes files."""
        return self._files

    def ioManager(self) -> CoreIOManager:
        """Return what reads and writes files."""
        return self._files

    def processEvents(self, *_: Any) -> None:
        """Let Qt do what waits."""
        QtWidgets.QApplication.processEvents()

    def topLevelWidgets(self) -> list[Any]:
        """Return the windows."""
        return list(QtWidgets.QApplication.topLevelWidgets())

    def setOverrideCursor(self, _cursor: Any) -> None:
        """Show the wait cursor."""
        self._cursors += 1

    def restoreOverrideCursor(self) -> None:
        """Show the usual cursor again."""
        self._cursors -= 1

    @property
    def override_cursors(self) -> int:
        """How many wait cursors are left on, for tests."""
        return self._cursors

    def settings(self) -> QSettings:
        """Return the settings."""
        return QSettings()

    def userSettings(self) -> QSettings:
        """Return the user's settings."""
        return QSettings()

    def translate(self, _context: str, text: str) -> str:
        """Return the text: nothing is translated here."""
        return text

    def palette(self) -> Any:
        """Return the colours of the application."""
        return QtWidgets.QApplication.palette()

    def close(self) -> None:
        """Let Qt finish, and remove the temporary folder."""
        QtWidgets.QApplication.processEvents()
        QtCore.QCoreApplication.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete.value)
        self._folder.cleanup()

    def files_left(self) -> Iterator[Path]:
        """Return what lies in the temporary folder, for tests of tidiness."""
        return Path(self.temporaryPath).iterdir()


def make_modules(scene: ApplicationScene) -> ModuleType:
    """Return `slicer.modules`."""
    modules = ModuleType("slicer.modules")
    for name, logic in scene.module_logics.items():
        setattr(modules, name.lower(), LoadedModule(name, logic))
    modules.__getattr__ = refuse_unknown("slicer.modules")  # type: ignore[method-assign]
    return modules
