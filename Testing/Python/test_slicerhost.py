"""The stand-in for Slicer's Qt side fails where Slicer would fail, and keeps what Slicer keeps."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import vtk

pytest.importorskip("slicer")
pytest.importorskip("PySide6.QtWidgets", exc_type=ImportError)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import slicer
import slicerhost
from slicerhost import Host, HostError, Panel
from slicerhost_samples import ui_file, widget, write_module


@pytest.fixture
def host() -> Iterator[Host]:
    with slicerhost.watched() as running:
        yield running


@pytest.fixture
def panel(host: Host, tmp_path: Path) -> Panel:
    return host.open_module(write_module(tmp_path))


def add_volume(name: str) -> slicer.vtkMRMLScalarVolumeNode:
    return slicer.util.addVolumeFromArray(np.zeros((3, 4, 5)), name=name)


# The stand-in comes and goes


def test_nothing_is_left_when_the_stand_in_goes() -> None:
    from PySide6 import QtCore, QtWidgets

    names = ("qt", "ctk", "SampleData", "slicer.modules", "slicer.parameterNodeWrapper")
    before = (slicer.util.showStatusMessage, sys.excepthook, QtCore.QTimer.singleShot, dict(vars(slicer)))
    with slicerhost.start():
        assert all(name in sys.modules for name in names)
        assert slicer.util.showStatusMessage is not before[0]
    assert not any(name in sys.modules for name in names)
    assert (slicer.util.showStatusMessage, sys.excepthook, QtCore.QTimer.singleShot, dict(vars(slicer))) == before
    assert QtWidgets.QLabel("text").text() == "text"


@pytest.mark.parametrize(
    "name", ["slicer.app.pythonManager", "slicer.modules.dicom", "qt.QWizard", "ctk.ctkSliderWidget", "slicer.cli"]
)
def test_what_is_missing_is_named(host: Host, name: str) -> None:
    import ctk
    import qt

    owner, _, last = name.rpartition(".")
    things = {"slicer.app": host.app, "slicer.modules": slicer.modules, "qt": qt, "ctk": ctk, "slicer": slicer}
    with pytest.raises(slicerhost.MissingInHost, match=f"slicerhost has no {name}, Slicer may have it"):
        getattr(things[owner], last)


# A module as it should be


def test_module_is_loaded_clicked_saved_and_restored(host: Host, panel: Panel, tmp_path: Path) -> None:
    ui = panel.ui
    shown = (ui.indexSlider.value, ui.spacingBox.value, ui.flagBox.checked, ui.speedBox.currentText, ui.methodBox.currentText)
    assert shown == (7, 2.5, True, "SLOW", "b")
    assert not ui.applyButton.enabled
    ui.volumeSelector.setCurrentNode(add_volume("A"))
    ui.indexSlider.value = 12
    ui.speedBox.currentText = "FAST"
    panel.widget._parameterNode.names = ["x", "y"]
    panel.widget._parameterNode.weights["k"] = 0.25
    host.click(ui.applyButton)
    assert panel.widget.clicked == [(False,)]
    scene = tmp_path / "scene.mrb"
    assert slicer.util.saveScene(str(scene))
    host.clear_scene()
    assert (ui.indexSlider.value, ui.volumeSelector.currentNode(), ui.applyButton.enabled) == (7, None, False)

    slicer.util.loadScene(str(scene))
    host.let_qt_work()

    assert (ui.indexSlider.value, ui.speedBox.currentText, ui.volumeSelector.currentNode().GetName()) == (12, "FAST", "A")
    assert ui.applyButton.enabled
    node = panel.widget._parameterNode
    assert (node.names, node.weights, node.method) == (["x", "y"], {"k": 0.25}, "b")


def test_node_parameter_that_was_read_before_the_import_is_stale_as_in_slicer(host: Host, panel: Panel, tmp_path: Path) -> None:
    panel.widget._parameterNode.volume = add_volume("A")
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    host.clear_scene()
    retained = panel.logic.getParameterNode()
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    assert retained.volume is None
    assert panel.logic.getParameterNode().volume.GetName() == "A"


def test_module_is_reloaded_with_what_its_file_says_now(host: Host, panel: Panel) -> None:
    panel.path.write_text(panel.path.read_text(encoding="utf-8").replace("tested", "tested anew"))
    panel.widget._parameterNode.index = 3
    panel.reload()
    slicer.selfTests["Sample"]()
    assert "tested" in host.dialogs.status[-1]
    panel.enter()
    assert panel.ui.indexSlider.value == 3


def test_parameters_that_nothing_uses_are_found(panel: Panel) -> None:
    assert slicerhost.unconnected_parameters(panel.module) == ["names", "weights"]


def test_picture_shows_the_text_and_turns_dark(panel: Panel, tmp_path: Path) -> None:
    from PySide6 import QtGui

    def greys(path: Path) -> np.ndarray:
        image = QtGui.QImage(str(path)).convertToFormat(QtGui.QImage.Format.Format_Grayscale8)
        assert image.width() == 400
        return np.asarray(image.constBits()).reshape(image.height(), -1)[:, : image.width()].copy()

    slicerhost.screenshot(panel.frame, tmp_path / "light.png", width=400)
    slicerhost.screenshot(panel.frame, tmp_path / "dark.png", width=400, dark=True)
    top, left = panel.ui.label.y, panel.ui.label.x
    assert np.median(greys(tmp_path / "light.png")) > 200
    assert np.median(greys(tmp_path / "dark.png")) < 80
    panel.ui.label.text = ""
    slicerhost.screenshot(panel.frame, tmp_path / "blank.png", width=400)
    difference = greys(tmp_path / "light.png") != greys(tmp_path / "blank.png")
    assert difference.sum() > 100, (top, left)


# Mistakes in Python


def test_error_in_a_slot_reaches_the_test_and_is_shown_to_the_user(host: Host, tmp_path: Path) -> None:
    panel = host.open_module(write_module(tmp_path, apply='raise ValueError("no good")'))
    panel.widget._parameterNode.volume = add_volume("A")
    with pytest.raises(ValueError, match="no good"):
        host.click(panel.ui.applyButton)
    assert host.dialogs.texts("error") == ["It failed.\n\nno good"]
    assert "Traceback" in host.dialogs.messages[0].detail


@pytest.mark.parametrize(
    ("line", "error", "match"),
    [
        ("self.ui.label.text()", TypeError, "not callable"),
        ("self.ui.applyButton.connect('pressedHard()', self.onApply)", HostError, "no signal 'pressedHard"),
        ("self.ui.applyButton.connect('clicked(int)', self.onApply)", HostError, "no signal 'clicked"),
        ("self.ui.flagBox.connect('checkStateChanged(Qt::CheckState)', self.onApply)", HostError, "no signal"),
        ("self.ui.applyButton.connect('clicked()', self.onApply())", HostError, "cannot be called"),
        ("self.ui.volumeSelector.connect('currentNodeChanged(vtkMRMLNode)', self.check)", HostError, "no signal"),
        ("self.ui.noSuchButton.enabled = False", AttributeError, "noSuchButton"),
        ("self.ui.label.visible = 'yes, please'", TypeError, "setVisible"),
        ("slicer.util.showStatusMessage(5)", TypeError, "text and milliseconds"),
        ("super().enter()", AttributeError, "enter"),
        ("self.ui.volumeSelector.setCurrentNode('A')", TypeError, "takes a node"),
        ("self.ui.volumeSelector.nodeTypes = ['vtkMRMLScalarVolume']", HostError, "which there is not"),
        ("slicer.util.pip_install('torch')", HostError, "must not install"),
        ("slicer.util.confirmYesNoDisplay('Sure?')", HostError, "asks 'Sure"),
        ("_(5)", TypeError, "takes a text"),
        ("qt.QDesktopServices.openUrl('report.html')", TypeError, "takes a qt.QUrl"),
    ],
)
def test_mistake_in_setup_is_an_error(host: Host, tmp_path: Path, line: str, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        host.open_module(write_module(tmp_path, setup=line))
    host.complaints()


def test_attribute_that_a_widget_does_not_have_is_reported(host: Host, tmp_path: Path) -> None:
    panel = host.open_module(write_module(tmp_path, setup='self.ui.label.tooltip = "typo"'))
    assert panel.frame is not None
    assert slicerhost.stray_attributes(panel.frame) == ["QLabel 'label' has no attribute 'tooltip'"]
    assert any("tooltip" in complaint for complaint in host.complaints())
    del panel.ui.label.tooltip


def test_description_takes_only_what_slicer_takes(host: Host, tmp_path: Path) -> None:
    with pytest.raises(AttributeError, match="no attribute 'helptext'"):
        host.open_module(write_module(tmp_path, constructor='self.parent.helptext = "typo"'))


def test_observation_that_stays_behind_is_reported(tmp_path: Path) -> None:
    with slicerhost.start() as running:
        panel = running.open_module(write_module(tmp_path, setup="self.cleanup = lambda: None"))
        widget = panel.widget
        panel.close()
        assert any("observations behind" in complaint for complaint in running.complaints())
        # Else the scene would call a widget that Python is collecting, in whichever test comes then.
        assert not widget.Observations


def test_vtk_error_is_reported(host: Host) -> None:
    vtk.vtkOutputWindow.GetInstance().DisplayErrorText("made-up error")
    assert any("made-up error" in complaint for complaint in host.complaints())


# Slots


def test_slot_gets_no_more_than_it_takes_and_defaults_are_filled(host: Host) -> None:
    import qt

    got: list[object] = []
    button = qt.QPushButton("Press")
    button.connect("clicked(bool)", lambda: got.append("nothing"))
    button.connect("clicked(bool)", lambda name="default": got.append(name))
    button.connect("clicked()", lambda *values: got.append(values))
    button.clicked.connect(lambda checked: got.append(checked))
    button.click()
    # The second is the trap that Slicer sets too: the signal's False takes the place of the default.
    assert got == ["nothing", False, (), False]
    assert button.disconnect("clicked()", print) is False


def test_disconnected_slot_is_quiet(host: Host) -> None:
    import qt

    got: list[int] = []
    slider = qt.QSlider()
    slider.connect("valueChanged(int)", got.append)
    slider.value = 5
    assert slider.disconnect("valueChanged(int)", got.append)
    slider.value = 6
    assert got == [5]


def test_timer_runs_once_and_its_property_is_one(host: Host) -> None:
    import qt

    got: list[str] = []
    qt.QTimer.singleShot(0, lambda: got.append("static"))
    timer = qt.QTimer()
    timer.singleShot = True
    timer.interval = 1
    timer.connect("timeout()", lambda: got.append("own"))
    timer.start()
    host.wait_until(lambda: len(got) == 2)
    assert timer.singleShot is True
    with pytest.raises(TimeoutError):
        host.wait_until(lambda: len(got) > 2, 0.05)


# Parameter nodes


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [("index", 21, ValueError), ("index", 2.0, TypeError), ("index", None, ValueError), ("method", "c", ValueError),
     ("speed", "FAST", TypeError), ("note", 5, TypeError), ("names", [1], TypeError), ("weights", {"k": "v"}, TypeError),
     ("indx", 3, AttributeError)],
)  # fmt: skip
def test_bad_parameter_is_refused_and_changes_nothing(panel: Panel, name: str, value: object, error: type[Exception]) -> None:
    node = panel.widget._parameterNode
    before = {key: node.getValue(key) for key in node.allParameters}
    with pytest.raises(error):
        setattr(node, name, value)
    assert {key: node.getValue(key) for key in node.allParameters} == before


def test_parameter_node_refuses_a_node_of_another_class(panel: Panel) -> None:
    with pytest.raises(TypeError, match="vtkMRMLScalarVolumeNode"):
        panel.widget._parameterNode.volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode")


def test_list_and_dictionary_of_a_parameter_are_no_python_ones(panel: Panel) -> None:
    node = panel.widget._parameterNode
    node.weights = {"a": 1.0, "b": 2.0}
    assert node.weights.get("c") is None
    with pytest.raises(TypeError):
        node.weights.get("c", 0.0)
    assert node.weights.pop("b") == 2.0
    node.names.append("x")
    node.names[0] = "y"
    assert (node.names, node.weights) == (["y"], {"a": 1.0})
    assert node.parameterNode.GetParameter("names.0") == "y"


def test_value_of_the_scene_goes_before_the_default(host: Host, tmp_path: Path) -> None:
    node = slicer.mrmlScene.AddNode(slicer.vtkMRMLScriptedModuleNode())
    node.SetParameter("index", "4")
    panel = host.open_module(write_module(tmp_path))
    wrapped = type(panel.logic.getParameterNode())(node)
    assert (wrapped.index, wrapped.spacing, wrapped.default("index").value) == (4, 2.5, 7)
    assert (node.GetParameter("spacing"), node.GetParameter("speed"), node.GetParameter("flag")) == ("2.5", "SLOW", "True")


@pytest.mark.parametrize(
    ("one", "error", "match"),
    [
        (widget("QSpinBox", "extra", parameter="idx"), ValueError, "Cannot find a parameter 'idx'"),
        (widget("QSpinBox", "extra", parameter="index"), HostError, "'index'.* only one of them"),
        (widget("QSlider", "spacingBox", parameter="spacing"), RuntimeError, "Unable to create GUI connector"),
        (widget("QLineEdit", "indexSlider", parameter="index"), RuntimeError, "Unable to create GUI connector"),
        (widget("QPlainTextEdit", "noteEdit", parameter="note"), RuntimeError, "Unable to create GUI connector"),
        (widget("QComboBox", "noteEdit", parameter="note"), RuntimeError, "Choice annotation"),
        (widget("QPushButton", "flagBox", parameter="flag"), HostError, "not checkable"),
        (widget("QListWidget", "extra", parameter="names"), RuntimeError, "Unable to create GUI connector"),
    ],
)
def test_widget_that_cannot_be_tied_is_an_error(host: Host, tmp_path: Path, one: str, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        host.open_module(write_module(tmp_path, ui_file(one)))


def test_slider_of_an_unbounded_whole_number_is_an_error(host: Host, tmp_path: Path) -> None:
    path = write_module(tmp_path)
    path.write_text(path.read_text(encoding="utf-8").replace("index: Annotated[int, WithinRange(0, 20)]", "index: int"))
    with pytest.raises(RuntimeError, match="unbounded"):
        host.open_module(path)


def test_annotation_that_slicer_warns_of_is_an_error(host: Host, tmp_path: Path) -> None:
    path = write_module(tmp_path)
    text = path.read_text(encoding="utf-8").replace("import Choice, WithinRange", "import Choice, Decimals, WithinRange")
    path.write_text(text.replace("WithinRange(0.1, 10.0)", "WithinRange(0.1, 10.0), Decimals(2)"))
    with pytest.raises(HostError, match="unused annotation Decimals"):
        host.open_module(path)


# .ui files


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (ui_file(widget("ctkSliderWidget", "extra")), "no widget class ctkSliderWidget"),
        (ui_file(custom=("qMRMLWidget", "qMRMLPlotView", "ctkCollapsibleButton")), "qMRMLNodeComboBox .* without declaring"),
        (ui_file(widget("QLabel", "extra", '<property name="txt"><string>t</string></property>')), "no property 'txt'"),
        (ui_file(widget("QSlider", "extra", '<property name="orientation"><enum>Qt::Orientation::Horizontal</enum></property>')),
         "written as in Qt 6"),
        (ui_file(widget("QLabel", "extra", '<property name="buddy"><cstring>nobody</cstring></property>')), "names 'nobody'"),
        (ui_file(widget("QLabel", "extra"), widget("QLabel", "extra")), "two widgets named 'extra'"),
        (ui_file(connection="<connection><sender>Rot</sender><signal>a()</signal><receiver>plot</receiver>"
                 "<slot>fitToContent()</slot></connection>"), "connects 'Rot', which is not in it"),
        (ui_file(connection="<connection><sender>flagBox</sender><signal>toggle(bool)</signal><receiver>label</receiver>"
                 "<slot>setEnabled(bool)</slot></connection>"), "no signal 'toggle"),
        (ui_file(connection="<connection><sender>flagBox</sender><signal>toggled(bool)</signal><receiver>label</receiver>"
                 "<slot>setGrey(bool)</slot></connection>"), "no slot 'setGrey"),
    ],
)  # fmt: skip
def test_mistake_in_the_ui_file_is_an_error(host: Host, tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(HostError, match=match):
        host.open_module(write_module(tmp_path, text))


def test_connection_of_the_ui_file_works(host: Host, tmp_path: Path) -> None:
    line = ("<connection><sender>flagBox</sender><signal>toggled(bool)</signal><receiver>label</receiver>"
            "<slot>setEnabled(bool)</slot></connection>")  # fmt: skip
    panel = host.open_module(write_module(tmp_path, ui_file(connection=line)))
    panel.ui.flagBox.checked = False
    assert not panel.ui.label.enabled
    assert panel.widget._parameterNode.flag is False
