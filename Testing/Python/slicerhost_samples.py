"""A small scripted module with its .ui file, written into a folder, and changed where a test wants it wrong."""

from __future__ import annotations

from pathlib import Path

MODULE = """
import enum
from typing import Annotated

import ctk
import qt
import slicer
import vtk
from slicer import vtkMRMLScalarVolumeNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import *
from slicer.util import VTKObservationMixin


class Speed(enum.Enum):
    FAST = "fast"
    SLOW = "slow"


@parameterNodeWrapper
class SampleParameterNode:
    volume: vtkMRMLScalarVolumeNode
    index: Annotated[int, WithinRange(0, 20)] = 7
    spacing: Annotated[float, WithinRange(0.1, 10.0)] = 2.5
    flag: bool = True
    speed: Speed = Speed.SLOW
    method: Annotated[str, Choice(["a", "b"])] = "b"
    note: str = "hello"
    names: list[str]
    weights: dict[str, float]


class Sample(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Sample")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Registration")]
        self.parent.contributors = ["nobody"]
        # CONSTRUCTOR


class SampleWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self._parameterNode = None
        self._tag = None
        self.clicked = []

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        top = slicer.util.loadUI(self.resourcePath("UI/Sample.ui"))
        self.layout.addWidget(top)
        self.ui = slicer.util.childWidgetVariables(top)
        top.setMRMLScene(slicer.mrmlScene)
        self.logic = SampleLogic()
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.let_go)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.take_up)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.take_up)
        self.ui.applyButton.connect("clicked(bool)", self.onApply)
        # SETUP

    def let_go(self, caller, event):
        self.follow(None)

    def take_up(self, caller, event):
        self.follow(self.logic.getParameterNode())

    def enter(self):
        self.follow(self.logic.getParameterNode())

    def exit(self):
        self.follow(None)

    def cleanup(self):
        self.removeObservers()

    def follow(self, node):
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._tag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.check)
        self._parameterNode = node
        if node:
            self._tag = node.connectGui(self.ui)
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self.check)
            self.check()

    def check(self, caller=None, event=None):
        self.ui.applyButton.enabled = bool(self._parameterNode and self._parameterNode.volume)

    def onApply(self, *arguments):
        with slicer.util.tryWithErrorDisplay("It failed.", waitCursor=True):
            self.clicked.append(arguments)
            # APPLY


class SampleLogic(ScriptedLoadableModuleLogic):
    def getParameterNode(self):
        return SampleParameterNode(super().getParameterNode())


class SampleTest(ScriptedLoadableModuleTest):
    def runTest(self):
        self.setUp()
        self.delayDisplay("tested")
"""

_SELECTOR = """<property name="nodeTypes"><stringlist notr="true"><string>vtkMRMLScalarVolumeNode</string></stringlist></property>
<property name="noneEnabled"><bool>true</bool></property>"""
_CUSTOM = ("qMRMLWidget", "qMRMLNodeComboBox", "qMRMLPlotView", "ctkCollapsibleButton")


def widget(kind: str, name: str, properties: str = "", parameter: str = "") -> str:
    """Return a widget of a .ui file."""
    tied = f'<property name="SlicerParameterName" stdset="0"><string>{parameter}</string></property>' if parameter else ""
    return f'<widget class="{kind}" name="{name}">{properties}{tied}</widget>'


def _name(one: str) -> str:
    return one.split('name="')[1].split('"')[0]


def ui_file(*more: str, custom: tuple[str, ...] = _CUSTOM, connection: str = "") -> str:
    """Return a .ui file with one widget of each kind and some more, which take the place of those with the same name."""
    inside = [
        widget("qMRMLNodeComboBox", "volumeSelector", _SELECTOR, "volume"),
        widget("QSlider", "indexSlider", parameter="index"),
        widget("QDoubleSpinBox", "spacingBox", parameter="spacing"),
        widget("QCheckBox", "flagBox", parameter="flag"),
        widget("QComboBox", "speedBox", parameter="speed"),
        widget("QComboBox", "methodBox", parameter="method"),
        widget("QLineEdit", "noteEdit", parameter="note"),
        widget("QLabel", "label", '<property name="text"><string>Some text</string></property>'),
        widget("QPushButton", "applyButton", '<property name="text"><string>Apply</string></property>'),
        widget("qMRMLPlotView", "plot"),
        '<widget class="ctkCollapsibleButton" name="section"><property name="text"><string>Section</string></property>'
        '<layout class="QVBoxLayout" name="sectionLayout"><item><widget class="QLabel" name="inner"/></item></layout></widget>',
    ]
    inside = [one for one in inside if not any(_name(one) == _name(other) for other in more)] + list(more)
    items = "".join(f"<item>{one}</item>" for one in inside)
    declared = "".join(f"<customwidget><class>{one}</class><extends>QWidget</extends></customwidget>" for one in custom)
    connections = "".join(
        f"<connection><sender>Root</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal><receiver>{one}</receiver>"
        "<slot>setMRMLScene(vtkMRMLScene*)</slot></connection>"
        for one in ("volumeSelector", "plot")
    )
    return (
        '<?xml version="1.0"?><ui version="4.0"><class>Root</class><widget class="qMRMLWidget" name="Root">'
        f'<layout class="QVBoxLayout" name="rootLayout">{items}</layout></widget>'
        f"<customwidgets>{declared}</customwidgets><connections>{connections}{connection}</connections></ui>"
    )


def write_module(folder: Path, ui: str = "", **changes: str) -> Path:
    """Write the module into a folder and return its path.

    Parameters
    ----------
    folder : an empty folder.
    ui : the .ui file, if not the usual one.
    changes : by the name of a mark in the module (`setup`, `apply`, `constructor`), the line that takes its place.
    """
    text = MODULE
    for mark, line in changes.items():
        text = text.replace(f"# {mark.upper()}", line)
    (folder / "Resources" / "UI").mkdir(parents=True)
    (folder / "Resources" / "UI" / "Sample.ui").write_text(ui or ui_file())
    path = folder / "Sample.py"
    path.write_text(text)
    return path
