"""The plain containers of a Slicer panel, and the pictures in it."""
# ruff: noqa: N801, N802, N815 - Slicer's names.

from __future__ import annotations

import sys
from typing import Any, ClassVar

import numpy as np
import slicer
from PySide6 import QtCore, QtGui, QtWidgets
from vtk.util import numpy_support


class qMRMLWidget(QtWidgets.QWidget):
    """A widget that knows the scene and tells the widgets in it."""

    sceneChanged = QtCore.Signal(object)
    slicer_signals: ClassVar[dict[str, str]] = {"mrmlSceneChanged(vtkMRMLScene*)": "sceneChanged"}
    slicer_slots: ClassVar[dict[str, str]] = {"setMRMLScene(vtkMRMLScene*)": "setMRMLScene"}

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._sh_scene: Any = None

    def mrmlScene(self) -> Any:
        """Return the scene."""
        return self._sh_scene

    def setMRMLScene(self, scene: Any) -> None:
        """Set the scene and tell the children."""
        if scene is self._sh_scene:
            return
        self._sh_scene = scene
        self.sceneChanged.emit(scene)

    @property
    def mrmlSceneChanged(self) -> Any:
        """Return the signal."""
        return self.sceneChanged


class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """The frame of a scripted module's panel: what the module's Python widget calls `self.parent`."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        QtWidgets.QVBoxLayout(self)
        self._sh_entered = False
        self._sh_self: Any = None
        self._sh_module_name = ""

    def _get_entered(self) -> bool:
        return self._sh_entered

    isEntered = QtCore.Property(bool, _get_entered)

    def _get_module_name(self) -> str:
        return self._sh_module_name

    moduleName = QtCore.Property(str, _get_module_name)

    def self(self) -> Any:
        """Return the module's Python widget."""
        return self._sh_self

    def make(self, name: str) -> Any:
        """Make the module's Python widget, as Slicer does when it shows the module for the first time."""
        self._sh_module_name = name
        module = sys.modules[name]
        widget = self._sh_self = getattr(module, f"{name}Widget")(self)
        setattr(slicer.modules, f"{name}Widget", widget)
        widget.setup()
        return widget

    def reload(self) -> None:
        """Make it again, from the module that is imported now."""
        self.make(self._sh_module_name)

    def enter(self) -> None:
        """Tell the module that it is shown."""
        self._sh_entered = True
        if hasattr(self._sh_self, "enter"):
            self._sh_self.enter()

    def exit(self) -> None:
        """Tell the module that another one is shown."""
        self._sh_entered = False
        if hasattr(self._sh_self, "exit"):
            self._sh_self.exit()


class qMRMLUtils(QtCore.QObject):
    """Slicer's conversions between VTK and Qt: only the one that is checked here."""

    def vtkImageDataToQImage(self, image: Any, picture: QtGui.QImage) -> bool:
        """Put the first slice of an image of 3 or 4 unsigned bytes a pixel into `picture`, VTK's first row at the bottom."""
        scalars = image.GetPointData().GetScalars()
        channels = scalars.GetNumberOfComponents()
        if image.GetScalarTypeAsString() != "unsigned char" or channels not in (3, 4):
            return False
        width, height, _ = image.GetDimensions()
        flipped = numpy_support.vtk_to_numpy(scalars)[: width * height].reshape(height, width, channels)[::-1]
        voxels = np.full((height, width, 4), 255, dtype=np.uint8)
        voxels[..., :channels] = flipped
        made = QtGui.QImage(voxels.tobytes(), width, height, 4 * width, QtGui.QImage.Format.Format_RGBA8888)
        picture.swap(made.convertToFormat(QtGui.QImage.Format.Format_ARGB32))
        return True
