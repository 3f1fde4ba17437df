"""The panel's .ui file against the code that uses it, and against Slicer's conventions; each check is shown to fail."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import ui_checks
from ui_checks import Panel, Uses

MODULE = Path(__file__).resolve().parents[2] / "HyperPredictReg"
UI_FILE = MODULE / "Resources" / "UI" / "HyperPredictReg.ui"
CODE = [MODULE / "HyperPredictReg.py", *sorted((MODULE / "HyperPredictRegLib" / "panel").glob("*.py"))]

SAMPLE_UI = """<?xml version="1.0" encoding="UTF-8"?>
<ui version="4.0">
 <class>Sample</class>
 <widget class="qMRMLWidget" name="Sample">
  <layout class="QFormLayout" name="formLayout">
   <item row="0" column="0"><widget class="QLabel" name="fixedLabel">
     <property name="text"><string>&amp;Fixed:</string></property>
     <property name="buddy"><cstring>fixedSelector</cstring></property></widget></item>
   <item row="0" column="1"><widget class="qMRMLNodeComboBox" name="fixedSelector">
     <property name="toolTip"><string>Stays.</string></property>
     <property name="SlicerParameterName" stdset="0"><string>fixed</string></property></widget></item>
   <item row="1" column="0" colspan="2"><widget class="QPushButton" name="goButton">
     <property name="toolTip"><string>Go.</string></property>
     <property name="text"><string>&amp;Go</string></property></widget></item>
   <item row="2" column="0" colspan="2"><widget class="QLabel" name="newsLabel"/></item>
  </layout>
 </widget>
 <customwidgets>
  <customwidget><class>qMRMLNodeComboBox</class><extends>QWidget</extends><header>qMRMLNodeComboBox.h</header></customwidget>
  <customwidget><class>qMRMLWidget</class><extends>QWidget</extends><header>qMRMLWidget.h</header><container>1</container>
  </customwidget>
 </customwidgets>
 <connections>
  <connection><sender>Sample</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
   <receiver>fixedSelector</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection>
 </connections>
</ui>
"""
SAMPLE_CODE = """
class Kind(enum.Enum):
    A = "a"
@parameterNodeWrapper
class Parameters:
    fixed: vtkMRMLScalarVolumeNode
    share: Annotated[float, WithinRange(0, 1)] = 0.5
    kind: Kind = Kind.A
    other: dict[str, float]
def setup(self, ui):
    self.ui.goButton.connect("clicked(bool)", print)
    getattr(ui, f"{name}Label").text = "done"
"""

CHECKS = {
    "names that code uses exist": lambda p, u, t: ui_checks.unknown_names(p, u),
    "every widget does something": lambda p, u, t: ui_checks.unused_widgets(p, u),
    "parameters exist and fit": lambda p, u, t: ui_checks.wrong_parameters(p, t),
    "everything has a tooltip": lambda p, u, t: ui_checks.without_tooltip(p),
    "classes are declared and known": lambda p, u, t: ui_checks.wrong_classes(p),
    "connections lead somewhere": lambda p, u, t: ui_checks.wrong_connections(p),
    "names are unique": lambda p, u, t: ui_checks.wrong_names(p),
    "no style of its own": lambda p, u, t: ui_checks.custom_styles(p, u),
    "tab follows the eye": lambda p, u, t: ui_checks.wrong_tab_order(p),
    "keyboard and screen reader": lambda p, u, t: ui_checks.out_of_reach(p),
}


def problems(name: str, ui: str, code: str) -> list[str]:
    """Run one check on a .ui text and a code text."""
    tree = ast.parse(code)
    return CHECKS[name](Panel(ElementTree.fromstring(ui)), ui_checks.uses_in([tree]), ui_checks.parameter_types([tree]))


@pytest.fixture(scope="module")
def ours() -> tuple[Panel, Uses, dict[str, str]]:
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in CODE]
    return Panel.read(UI_FILE), ui_checks.uses_in(trees), ui_checks.parameter_types(trees)


@pytest.mark.parametrize("name", CHECKS)
def test_the_panel(name: str, ours: tuple[Panel, Uses, dict[str, str]]) -> None:
    found = CHECKS[name](*ours)
    assert not found, f"{UI_FILE.name}:\n" + "\n".join(found)


def test_there_is_something_to_check(ours: tuple[Panel, Uses, dict[str, str]]) -> None:
    panel, uses, types = ours
    assert sum(widget.is_interactive for widget in panel.widgets) >= 10
    assert len(uses.names) >= 10
    assert {"fixedVolume", "movingVolume"} <= panel.parameters().keys() & types.keys()


def test_node_types_exist_in_slicer(ours: tuple[Panel, Uses, dict[str, str]]) -> None:
    slicer = pytest.importorskip("slicer", reason="slicer-core is not installed (pip install '.[slicer]')")
    types = {t for widget in ours[0].widgets for t in re.findall(r"\bvtkMRML\w+", widget.properties.get("nodeTypes", ""))}
    assert types
    assert not [name for name in sorted(types) if not hasattr(slicer, name)]


def test_qt_knows_the_plain_widgets(ours: tuple[Panel, Uses, dict[str, str]]) -> None:
    qt = pytest.importorskip("PySide6.QtWidgets", reason="PySide6, or a library that it needs, is missing", exc_type=ImportError)
    plain = {widget.kind for widget in ours[0].widgets if widget.kind.startswith("Q")}
    assert not [name for name in sorted(plain) if not hasattr(qt, name)]


@pytest.mark.parametrize("name", CHECKS)
def test_the_sample_is_without_fault(name: str) -> None:
    assert problems(name, SAMPLE_UI, SAMPLE_CODE) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("names that code uses exist", 'name="goButton"', 'name="stopButton"', "ui.goButton"),
        ("names that code uses exist", "ui.goButton", "ui.GoButton", "ui.GoButton"),
        ("names that code uses exist", "{name}Label", "{name}List", "no widget has one"),
        ("every widget does something", "self.ui.goButton.connect", "self.goButton.connect", "goButton"),
        ("every widget does something", "{name}Label", "fixed{name}", "newsLabel"),
        ("parameters exist and fit", "    fixed: vtk", "    firm: vtk", "'fixed'"),
        ("parameters exist and fit", "<string>fixed<", "<string>share<", "cannot tie to 'share' (float)"),
        ("parameters exist and fit", "<string>fixed<", "<string>kind<", "(enum)"),
        ("parameters exist and fit", "<string>fixed<", "<string>other<", "(other)"),
        ("parameters exist and fit", ' stdset="0"', "", "stdset"),
        ("everything has a tooltip", "<string>Stays.</string>", "<string/>", "fixedSelector has no toolTip"),
        ("classes are declared and known", 'class="QPushButton"', 'class="ctkPushButton"', "ctkPushButton is not declared"),
        ("classes are declared and known", "qMRMLNodeComboBox", "qMRMLNoteComboBox", "not a widget that Slicer"),
        ("classes are declared and known", "<container>1</container>", "", "container"),
        ("classes are declared and known", 'widget class="qMRMLWidget"', 'widget class="QWidget"', "outermost"),
        ("connections lead somewhere", "<receiver>fixedSelector<", "<receiver>movingSelector<", "'movingSelector'"),
        ("connections lead somewhere", "<slot>setMRMLScene(vtkMRMLScene*)<", "<slot>setMRMLScene<", "not a signature"),
        ("connections lead somewhere", "<slot>setMRMLScene(", "<slot>setScene(", "fixedSelector is not told of the scene"),
        ("names are unique", 'name="newsLabel"', 'name="goButton"', "'goButton' occurs 2 times"),
        ("no style of its own", 'name="text"><string>&amp;Go', 'name="styleSheet"><string>red', "goButton has a styleSheet"),
        ("no style of its own", "ui.goButton.connect(", "ui.goButton.setStyleSheet(", "code sets a style"),
        ("tab follows the eye", 'row="1" column="0"', 'row="3" column="0"', "formLayout"),
        ("tab follows the eye", "<customwidgets>", "<tabstops><tabstop>x</tabstop></tabstops><customwidgets>", "'x'"),
        ("keyboard and screen reader", "<cstring>fixedSelector<", "<cstring>selector<", "buddy 'selector'"),
        ("keyboard and screen reader", "<cstring>fixedSelector<", "<cstring>goButton<", "fixedSelector has neither"),
        ("keyboard and screen reader", "&amp;Go", "&amp;Forward", "Alt+F"),
    ],
)
def test_each_check_can_fail(name: str, old: str, new: str, message: str) -> None:
    assert (old in SAMPLE_UI) != (old in SAMPLE_CODE)
    found = problems(name, SAMPLE_UI.replace(old, new), SAMPLE_CODE.replace(old, new))
    assert any(message in sentence for sentence in found), found
