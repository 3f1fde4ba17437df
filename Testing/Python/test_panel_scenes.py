"""The panel and the scene: parameters saved and loaded, several sets of them, imports, renaming, reloading."""

from __future__ import annotations

import gc
import importlib
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from HyperPredictRegLib.engines import engine_names

slicer: Any = pytest.importorskip("slicer", reason="slicer-core is not installed (pip install '.[slicer]')")
pytest.importorskip("PySide6.QtWidgets", reason="PySide6 cannot be loaded (make test sees to it)", exc_type=ImportError)

from panel_samples import add_pair, add_segmentation, choose_pair, show_predicted  # noqa: E402 - needs slicer


def choose_everything(host: Any, panel: Any) -> dict[str, Any]:
    """Choose something in every selector; return the nodes by the selector's name."""
    fixed, moving = choose_pair(host, panel)
    chosen = {
        "fixedSelector": fixed,
        "movingSelector": moving,
        "fixedSegmentationSelector": add_segmentation("FixedSeg", fixed, {"all": (20.0, 999.0)}),
        "movingSegmentationSelector": add_segmentation("MovingSeg", moving, {"all": (20.0, 999.0)}),
        "fixedMaskSelector": add_segmentation("Mask", fixed, {"shell": (20.0, 120.0), "core": (120.0, 999.0)}),
        "initialTransformSelector": slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Start"),
    }
    for name, node in chosen.items():
        getattr(panel.ui, name).setCurrentNode(node)
    panel.ui.fixedMaskSegmentComboBox.setCurrentIndex(2)
    host.let_qt_work()
    return chosen


def other_scene(folder: Path, *, with_parameters: bool) -> Path:
    """Write a scene with a note, and a set of parameters if wanted; return its path."""
    scene = slicer.vtkMRMLScene()
    scene.AddNewNodeByClass("vtkMRMLTextNode", "A note")
    if with_parameters:
        node = slicer.vtkMRMLScriptedModuleNode()
        node.SetAttribute("ModuleName", "HyperPredictReg")
        node.SetName("Theirs")
        scene.AddNode(node)
    path = folder / "other.mrml"
    scene.SetURL(str(path))
    scene.SetRootDirectory(str(folder))
    assert scene.Commit(str(path))
    return path


def import_scene(host: Any, path: Path) -> None:
    """Add a scene to the one that is open."""
    slicer.mrmlScene.SetURL(str(path))
    assert slicer.mrmlScene.Import()
    host.let_qt_work()


def test_parameters_and_prediction_come_back_with_the_scene(opened_panel: tuple[Any, Any], tmp_path: Path) -> None:
    host, panel = opened_panel
    show_predicted(host, panel)
    panel.ui.ruleComboBox.setCurrentIndex(1)
    panel.ui.foldingLimitSpinBox.setValue(0.25)
    panel.ui.weightSlider.setValue(333)
    host.let_qt_work()
    words = panel.ui.readoutLabel.text
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    host.clear_scene()
    assert panel.ui.foldingLimitSpinBox.value == 0.5 and not panel.ui.registerButton.enabled
    assert not panel.ui.dicePlotFrame.visible
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    host.let_qt_work()
    assert panel.ui.foldingLimitSpinBox.value == 0.25
    assert panel.ui.ruleComboBox.currentIndex == 1
    assert panel.ui.fixedSelector.currentNode().GetName() == "Ball"
    assert panel.ui.readoutLabel.text == words and words.startswith("Manual λ")
    assert panel.ui.dicePlotFrame.visible and panel.ui.registerButton.enabled


def test_several_sets_of_parameters(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    panel.ui.foldingLimitSpinBox.setValue(0.1)
    first = panel.ui.parameterSetSelector.currentNode()
    second = panel.ui.parameterSetSelector.addNode()
    panel.ui.parameterSetSelector.setCurrentNode(second)
    host.let_qt_work()
    assert panel.ui.foldingLimitSpinBox.value == 0.5
    panel.ui.foldingLimitSpinBox.setValue(2.0)
    panel.ui.parameterSetSelector.setCurrentNode(first)
    host.let_qt_work()
    assert panel.ui.foldingLimitSpinBox.value == 0.1
    assert len(panel.logic.getAllParameterNodes()) == 2


def test_loading_a_scene_takes_nothing_that_was_there_before(opened_panel: tuple[Any, Any], tmp_path: Path) -> None:
    host, panel = opened_panel
    choose_pair(host, panel)
    filled = panel.ui.parameterSetSelector.currentNode()
    empty = panel.ui.parameterSetSelector.addNode()
    panel.ui.parameterSetSelector.setCurrentNode(empty)
    host.let_qt_work()
    import_scene(host, other_scene(tmp_path, with_parameters=False))
    assert panel.ui.parameterSetSelector.currentNode() is empty
    assert slicer.mrmlScene.IsNodePresent(filled) and slicer.mrmlScene.IsNodePresent(empty)


def test_a_method_that_is_gone_gives_way_to_the_default(opened_panel: tuple[Any, Any], tmp_path: Path) -> None:
    host, panel = opened_panel
    panel.ui.engineComboBox.setCurrentIndex(1)
    panel.ui.presetComboBox.setCurrentIndex(1)
    host.let_qt_work()
    path = tmp_path / "old.mrml"
    assert slicer.util.saveScene(str(path))
    host.clear_scene()
    text, name = path.read_text(encoding="utf-8"), engine_names()[1].upper()
    assert name in text
    path.write_text(text.replace(name, "OF_ANOTHER_VERSION"), encoding="utf-8")
    slicer.util.loadScene(str(path))
    host.let_qt_work()
    assert panel.ui.engineComboBox.currentIndex == 0 and panel.ui.presetComboBox.currentIndex == 1


def test_removing_the_only_set_makes_a_new_one(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    choose_pair(host, panel)
    slicer.mrmlScene.RemoveNode(panel.ui.parameterSetSelector.currentNode())
    host.wait_until(lambda: panel.ui.parameterSetSelector.currentNode() is not None)
    choose_pair(host, panel)
    assert panel.ui.registerButton.enabled


def test_leaving_coming_back_and_reloading(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    show_predicted(host, panel)
    panel.leave()
    panel.enter()
    assert panel.ui.dicePlotFrame.visible and panel.ui.registerButton.enabled
    panel.reload()
    assert panel.ui.readoutLabel.text.startswith("Suggested")
    # Nobody enters a module again after a reload; it is still the one that the user sees.
    assert panel.widget.panel._entered
    assert panel.ui.itemsList.count == 2
    host.clear_scene()


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("with_parameters", [False, True])
def test_an_import_changes_no_choice(
    opened_panel: tuple[Any, Any], tmp_path: Path, elsewhere: bool, with_parameters: bool
) -> None:
    host, panel = opened_panel
    chosen = choose_everything(host, panel)
    current = panel.ui.parameterSetSelector.currentNode()
    segment = panel.widget._parameterNode.fixedMaskSegment
    if elsewhere:
        panel.leave()
    import_scene(host, other_scene(tmp_path, with_parameters=with_parameters))
    if elsewhere:
        panel.enter()
    assert {name: getattr(panel.ui, name).currentNode() for name in chosen} == chosen
    assert panel.widget._parameterNode.fixedMaskSegment == segment != ""
    assert panel.ui.fixedMaskSegmentComboBox.currentText == "core"
    assert panel.ui.parameterSetSelector.currentNode() is current
    assert len(panel.logic.getAllParameterNodes()) == 1 + with_parameters


def test_what_comes_while_the_user_is_elsewhere_is_taken_up_later(opened_panel: tuple[Any, Any], tmp_path: Path) -> None:
    host, panel = opened_panel
    panel.leave()
    import_scene(host, other_scene(tmp_path, with_parameters=True))
    fixed, _moving = add_pair()
    panel.ui.fixedSelector.setCurrentNode(fixed)
    assert panel.widget._parameterNode.fixedVolume is None
    panel.enter()
    assert panel.ui.parameterSetSelector.currentNode().GetName() == "Theirs"
    assert len(panel.logic.getAllParameterNodes()) == 1
    panel.ui.fixedSelector.setCurrentNode(fixed)
    assert panel.widget._parameterNode.fixedVolume is fixed


def test_a_renamed_mask_keeps_its_segment(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    chosen = choose_everything(host, panel)
    segment = panel.widget._parameterNode.fixedMaskSegment
    chosen["fixedMaskSelector"].SetName("Another name")
    host.let_qt_work()
    assert panel.widget._parameterNode.fixedMaskSegment == segment != ""
    assert panel.ui.fixedMaskSegmentComboBox.currentText == "core"


def test_a_closed_scene_is_forgotten(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    choose_everything(host, panel)
    # What Slicer keeps of a node's parameters holds on to the volumes.
    retained = weakref.ref(panel.widget._parameterNode)
    host.clear_scene()
    gc.collect()
    assert retained() is None


def test_a_prediction_of_something_else_does_not_count(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    show_predicted(host, panel)
    fixed = panel.ui.fixedSelector.currentNode()
    read_out = panel.ui.readoutLabel.text
    mask = add_segmentation("Mask", fixed, {"shell": (20.0, 120.0), "core": (120.0, 999.0)})
    panel.ui.fixedMaskSelector.setCurrentNode(mask)
    host.let_qt_work()
    words = "The last prediction was made with another mask, segmentation, channel, start or landmarks."
    assert panel.ui.reliabilityLabel.text == words
    assert panel.ui.readoutLabel.text.startswith("Nothing is predicted yet")
    panel.ui.fixedMaskSelector.setCurrentNode(None)
    host.let_qt_work()
    assert panel.ui.readoutLabel.text == read_out
    moved = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Moved")
    matrix = np.eye(4)
    matrix[0, 3] = 5.0
    slicer.util.updateTransformMatrixFromArray(moved, matrix)
    fixed.SetAndObserveTransformNodeID(moved.GetID())
    panel.widget.panel.refresh()
    assert panel.ui.reliabilityLabel.text == "The volumes have moved since the last prediction."
    panel.ui.movingSelector.setCurrentNode(add_pair()[1])
    host.let_qt_work()
    assert panel.ui.reliabilityLabel.text == "The last prediction was for other volumes."


def test_how_the_transform_is_stored_is_checked_before_the_work(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    fixed, moving = choose_pair(host, panel)
    panel.ui.transformKindComboBox.setCurrentIndex(1)
    panel.ui.fieldSpacingSpinBox.setValue(0.1)
    host.click(panel.ui.registerButton)
    assert "would have 1732 million of them: choose a larger spacing" in panel.ui.stageLabel.text
    assert not panel.widget.panel.runner.busy
    for choices in ({"transformAs": "typo"}, {"transformAs": "field", "fieldSpacing": 0.0}, {"fieldSpacing": -5.0}):
        with pytest.raises(ValueError, match=r"choose composite or field|give more than 0"):
            panel.logic.process(fixed, moving, **choices)
    assert panel.ui.fieldSpacingSpinBox.value == 0.1
    panel.ui.fieldSpacingSpinBox.setValue(0.0)
    assert panel.ui.fieldSpacingSpinBox.text == "as registered"
    stored = importlib.import_module("HyperPredictRegLib.panel.parameters").stored_as
    assert stored(panel.widget._parameterNode) == ("field", None)
