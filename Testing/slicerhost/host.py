"""The stand-in as a whole: puts Slicer's Qt side in place, opens modules, watches for errors, and takes it all away again."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import slicer
import slicer.util
import vtk
from PySide6 import QtCore, QtGui, QtWidgets

from slicerhost import application, packages, parameternode, pythonqt, qtmodules, sampledata, scripted
from slicerhost.dialogs import Dialogs
from slicerhost.missing import HostError, refuse_unknown
from slicerhost.panel import Panel
from slicerhost.scene import ApplicationScene
from slicerhost.signals import let_go_of_scene
from slicerhost.uiloader import STAND_INS
from slicerhost.widgets import qMRMLUtils


class Host:
    """A running stand-in; made by `start`."""

    def __init__(self, undo: pythonqt.Undo) -> None:
        self._undo = undo
        self.dialogs = Dialogs()
        self.packages = packages.Packages()
        self.errors: list[BaseException] = []
        self.vtk_errors: list[str] = []
        self.qt_messages: list[str] = []
        self.selected_modules: list[str] = []
        self.panels: list[Panel] = []
        self._scene = ApplicationScene()
        self.scene = self._scene.scene
        self.app = application.Application(self._scene)

    # What is put in place

    def install(self) -> None:
        """Put modules and names in place."""
        pythonqt.adopt(self._undo)
        qtmodules.QSettings.store.clear()
        qtmodules.QDesktopServices.opened.clear()
        qtmodules.QFileDialog.answers.clear()
        modules = {
            "qt": qtmodules.make_qt(),
            "ctk": qtmodules.make_ctk(),
            "SampleData": sampledata.make_sample_data(),
            "slicer.ScriptedLoadableModule": scripted.make_scripted(),
            "slicer.parameterNodeWrapper": parameternode.make_parameter_node_wrapper(),
            "slicer.i18n": packages.make_i18n(),
            "slicer.packaging": packages.make_packaging(self.packages),
            "slicer.modules": application.make_modules(self._scene),
        }
        for name, module in modules.items():
            self._undo.set_item(sys.modules, name, module)
            if name.startswith("slicer."):
                self._undo.set_attribute(slicer, name.split(".")[1], module)
        widgets = {**STAND_INS, "qMRMLUtils": qMRMLUtils}
        names = {"app": self.app, "mrmlScene": self.scene, "selfTests": {}, **scripted.NAMES_IN_SLICER, **widgets}
        for name, value in names.items():
            if not name.startswith("ctk"):
                self._undo.set_attribute(slicer, name, value)
        self._undo.set_attribute(slicer, "__getattr__", refuse_unknown("slicer"))
        self.dialogs.install(self._undo, self.selected_modules.append)
        self._undo.set_attribute(slicer.util, "selectModule", self._select_module)
        self._watch()

    def _select_module(self, module: Any) -> None:
        name = module if isinstance(module, str) else module.name
        if name.lower() not in vars(slicer.modules):
            raise HostError(f"slicerhost has no module '{name}' to select.")
        self.selected_modules.append(name)

    def _watch(self) -> None:
        self._undo.set_attribute(sys, "excepthook", lambda _kind, error, _trace: self.errors.append(error))
        window = vtk.vtkOutputWindow.GetInstance()

        @vtk.calldata_type(vtk.VTK_STRING)
        def note(_window: Any, _event: str, text: str) -> None:
            self.vtk_errors.append(text)

        before = QtCore.qInstallMessageHandler(self._qt_says)
        self._undo.later(lambda: QtCore.qInstallMessageHandler(before))
        tag = window.AddObserver("ErrorEvent", note)
        self._undo.later(lambda: window.RemoveObserver(tag))

    def _qt_says(self, _kind: Any, _context: Any, text: str) -> None:
        if "propagateSizeHints" not in text:
            self.qt_messages.append(text)

    # What tests do

    def startup(self) -> None:
        """Let Slicer say that its start is complete: modules then register their sample data."""
        self.app.fire("startupCompleted()")

    def open_module(self, path: Path) -> Panel:
        """Load a module file, build its panel and show it."""
        panel = Panel(self, Path(path))
        self.panels.append(panel)
        panel.open()
        return panel

    def let_qt_work(self) -> None:
        """Let Qt do what waits, and raise what went wrong in a slot or observer meanwhile."""
        for _ in range(3):
            QtWidgets.QApplication.processEvents()
            QtCore.QCoreApplication.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete.value)
        self.raise_errors()

    def raise_errors(self) -> None:
        """Raise the first error of a slot or observer; Slicer would print it and go on."""
        if self.errors:
            error, self.errors[:] = self.errors[0], []
            raise error

    def click(self, button: QtWidgets.QAbstractButton) -> None:
        """Click a button as a user does, who cannot reach a hidden or grey one; raises what its slot raises."""
        if not button.isVisible() or not button.isEnabled():
            raise HostError(f"Nobody can click '{button.objectName}' ({button.text}): it is hidden or grey.")
        button.click()
        self.let_qt_work()

    def wait_until(self, condition: Callable[[], object], timeout: float = 300.0) -> None:
        """Let Qt work until a condition holds.

        Raises
        ------
        TimeoutError : it does not hold after `timeout` seconds.
        """
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"Waited {timeout} s in vain.")
            QtWidgets.QApplication.processEvents()
            self.raise_errors()
            time.sleep(0.005)
        self.let_qt_work()

    def clear_scene(self) -> None:
        """Close the scene, with the events that a user's File > Close Scene sends."""
        self.scene.Clear(0)
        self.let_qt_work()

    def complaints(self) -> list[str]:
        """Return, and forget, all that went wrong: errors in slots, VTK's errors, stray attributes, cursors left on."""
        found = [f"error in a slot or observer: {error!r}" for error in self.errors]
        found += [f"VTK: {text}" for text in self.vtk_errors]
        found += [f"Qt: {text}" for text in self.qt_messages]
        for panel in self.panels:
            found += panel.complaints()
        if self.app.override_cursors:
            found.append(f"{self.app.override_cursors} wait cursors are left on")
        if self.dialogs.answers:
            found.append(f"{len(self.dialogs.answers)} answers were prepared, but not asked for")
        self.errors.clear()
        self.vtk_errors.clear()
        self.qt_messages.clear()
        return found

    def stop(self) -> None:
        """Take everything away again."""
        # All of it happens, in reverse order, even if one of them fails.
        with ExitStack() as steps:
            steps.callback(self._undo.run)
            steps.callback(self._scene.close)
            steps.callback(self.app.close)
            steps.callback(let_go_of_scene)
            for panel in self.panels:
                steps.callback(panel.close)


def _application() -> QtWidgets.QApplication:
    running = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["slicerhost"])
    if not QtGui.QFontDatabase.families():
        raise HostError("Qt finds no fonts, so that pictures would have no text: apt-get install fontconfig fonts-dejavu-core")
    QtWidgets.QApplication.setStyle("Fusion")
    return running


_the_application: list[QtWidgets.QApplication] = []


@contextmanager
def start(*, testing: bool = False) -> Iterator[Host]:
    """Put the stand-in in place for a `with` block.

    Parameters
    ----------
    testing : what `slicer.app.testingEnabled()` says. If False, messages are noted down as shown and questions are answered as
        `host.dialogs.answer` said; if True, they are passed over as in a Slicer that was started with --testing.
    """
    # Qt's application lives as long as the process: a second one would crash.
    _the_application[:] = [_application()]
    undo = pythonqt.Undo()
    host = Host(undo)
    host.app.testing = testing
    try:
        host.install()
        yield host
    finally:
        host.stop()


@contextmanager
def watched(*, testing: bool = False) -> Iterator[Host]:
    """Do as `start`, and fail at the end on everything that went wrong meanwhile; for a fixture.

    Raises
    ------
    AssertionError : something in `Host.complaints` was left, also by closing the panels.
    """
    with start(testing=testing) as host:
        yield host
        complaints = host.complaints()
    complaints += host.complaints()
    if complaints:
        raise AssertionError("\n".join(complaints))
