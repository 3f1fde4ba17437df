"""The panel at work: suggestions, registrations, results in the scene, cancelling, closing, failures."""

from __future__ import annotations

import importlib
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

slicer: Any = pytest.importorskip("slicer", reason="slicer-core is not installed (pip install '.[slicer]')")
pytest.importorskip("PySide6.QtWidgets", reason="PySide6 cannot be loaded (make test sees to it)", exc_type=ImportError)

from panel_samples import add_segmentation, choose_pair, finish, register_at  # noqa: E402 - needs slicer
from PySide6.QtCore import Qt  # noqa: E402


def nodes_of_scene() -> set[str]:
    """Return the ids of all nodes."""
    return {slicer.mrmlScene.GetNthNode(n).GetID() for n in range(slicer.mrmlScene.GetNumberOfNodes())}


def test_three_clicks_register_and_everything_can_be_looked_at(opened_panel: tuple[Any, Any], tmp_path: Path) -> None:
    host, panel = opened_panel
    fixed, moving = choose_pair(host, panel)
    parts = {"shell": (50.0, 120.0), "core": (120.0, 999.0)}
    segmentations = [add_segmentation("FixedSeg", fixed, parts), add_segmentation("MovingSeg", moving, parts)]
    panel.ui.fixedSegmentationSelector.setCurrentNode(segmentations[0])
    panel.ui.movingSegmentationSelector.setCurrentNode(segmentations[1])
    before = np.abs(slicer.util.arrayFromVolume(fixed) - slicer.util.arrayFromVolume(moving)).mean()

    host.click(panel.ui.registerButton)
    assert panel.ui.registerButton.text == "&Cancel" and panel.ui.progressBar.visible
    assert not panel.ui.suggestButton.enabled
    finish(host, panel)

    assert panel.ui.registerButton.text == "&Register" and not panel.ui.progressBar.visible
    assert "Registration raised the mean Dice of 2 structures" in panel.ui.verdictLabel.text + panel.ui.detailsLabel.text
    assert panel.ui.detailsCollapsibleButton.visible and panel.ui.detailsCollapsibleButton.collapsed
    nodes = panel.widget.panel.result.nodes
    after = np.abs(slicer.util.arrayFromVolume(fixed) - slicer.util.arrayFromVolume(nodes.warped)).mean()
    assert after < 0.15 * before
    assert panel.ui.measuresTable.rowCount == 2 and panel.ui.stagesTable.rowCount >= 4
    assert {panel.ui.measuresTable.item(row, 0).text() for row in range(2)} == {"shell", "core"}
    composite = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")
    assert (composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID()) == (fixed.GetID(), nodes.warped.GetID())
    assert "deformable" in panel.ui.logTextEdit.plainText or "Registering" in panel.ui.logTextEdit.plainText
    look_at_every_view(host, panel, composite, nodes)
    apply_all_of_it(host, panel, segmentations[1])
    comes_back_with_the_scene(host, panel, tmp_path)


def look_at_every_view(host: Any, panel: Any, composite: Any, nodes: Any) -> None:
    """Choose every view in turn and check what the slice views are told to show."""
    views = panel.ui.viewComboBox
    shown = {}
    for index in range(views.count):
        views.setCurrentIndex(index)
        host.let_qt_work()
        node = slicer.mrmlScene.GetNodeByID(composite.GetForegroundVolumeID())
        shown[index] = node.GetName()
        assert composite.GetBackgroundVolumeID() == nodes.fixed.GetID()
    assert shown[0] == shown[3] == nodes.warped.GetName()
    assert shown[1] == nodes.moving.GetName()
    assert "Checkerboard" in shown[2] and shown[4] == nodes.jacobian.GetName()
    views.setCurrentIndex(3)
    first = composite.GetForegroundOpacity()
    host.wait_until(lambda: composite.GetForegroundOpacity() != first)
    views.setCurrentIndex(0)
    host.let_qt_work()
    assert composite.GetForegroundOpacity() == 0.5
    host.click(panel.ui.gridCheckBox)
    grid = slicer.util.getNode("Egg to Ball, deformation alone")
    assert grid.GetDisplayNode().GetVisibility2D()
    host.click(panel.ui.gridCheckBox)
    assert not grid.GetDisplayNode().GetVisibility2D()
    host.click(panel.ui.chartButton)


def apply_all_of_it(host: Any, panel: Any, segmentation: Any) -> None:
    """Tick what can be transformed in the list, and apply the transform to it."""
    items = panel.ui.itemsList
    assert not panel.ui.applyButton.enabled and "Tick at least one" in panel.ui.applyButton.toolTip
    names = [items.item(row).text() for row in range(items.count)]
    assert {"Ball", "Egg", "FixedSeg", "MovingSeg"} <= set(names)
    assert not [name for name in names if "registered to" in name or "Jacobian" in name]
    for name in ("Egg", "MovingSeg"):
        items.item(names.index(name)).setCheckState(Qt.CheckState.Checked)
    host.let_qt_work()
    host.click(panel.ui.applyButton)
    assert panel.ui.appliedLabel.text.startswith("Transformed: Egg in Ball space, MovingSeg in Ball space")
    applied = slicer.util.getNode("MovingSeg in Ball space")
    assert applied.GetSegmentation().GetNumberOfSegments() == segmentation.GetSegmentation().GetNumberOfSegments()


def comes_back_with_the_scene(host: Any, panel: Any, folder: Path) -> None:
    """Save, close and load the scene: the verdict and the tables are there again; the page says what it lacks."""
    verdict, rows = panel.ui.verdictLabel.text, panel.ui.stagesTable.rowCount
    assert slicer.util.saveScene(str(folder / "result.mrb"))
    host.clear_scene()
    assert panel.ui.verdictLabel.text == "Nothing has been registered yet."
    slicer.util.loadScene(str(folder / "result.mrb"))
    host.let_qt_work()
    assert panel.ui.verdictLabel.text == verdict and panel.ui.stagesTable.rowCount == rows
    assert panel.widget.panel.result.nodes.warped is not None
    host.click(panel.ui.pageButton)
    assert "register once more" in panel.ui.stageLabel.text


def begun(host: Any, panel: Any) -> None:
    """Wait until the work in the background tells of progress; on a busy machine that takes a while."""
    host.wait_until(lambda: panel.ui.progressBar.value > 0)


def test_what_is_suggested_is_what_is_registered(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    choose_pair(host, panel)
    parameters = panel.widget._parameterNode
    parameters.foldingLimit = 50.0  # so that nothing is corrected
    transforms = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLTransformNode")
    host.click(panel.ui.suggestButton)
    assert panel.ui.suggestButton.text == "&Cancel" and not panel.ui.registerButton.enabled
    finish(host, panel)
    assert panel.ui.reliabilityLabel.visible and panel.ui.dicePlotFrame.visible, panel.ui.stageLabel.text
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLTransformNode") == transforms
    # The criterion may change after the prediction: the choice by it is registered with.
    panel.ui.ruleComboBox.setCurrentIndex(1)
    # A tick that is left of another pair does not stop the work.
    parameters.structureWeights = {"liver": 2.0}
    host.let_qt_work()
    suggested, prediction = dict(parameters.setting), parameters.prediction
    host.click(panel.ui.registerButton)
    task = panel.widget.panel.runner.task
    assert task.request.prediction is prediction
    finish(host, panel)
    assert Path(task.job.prediction).name == "prediction.json"
    report = importlib.import_module("HyperPredictRegLib.slicerbridge.provenance").read_report_node(parameters.result)
    assert report.choice.setting == report.setting == suggested, panel.ui.stageLabel.text
    assert parameters.prediction is prediction


def test_work_is_said_to_start_before_anything_is_copied(
    opened_panel: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    host, panel = opened_panel
    choose_pair(host, panel)
    steps: list[str] = []
    ui = panel.ui
    for module, name in (("request", "from_volume_node"), ("request", "_write"), ("volumes", "from_volume_node")):
        bridge = importlib.import_module(f"HyperPredictRegLib.slicerbridge.{module}")
        done = getattr(bridge, name)

        def noted(*given: Any, name: str = name, done: Any = done, **more: Any) -> Any:
            steps.append(f"{name}, told: {bool(ui.stageLabel.text)}")
            return done(*given, **more)

        monkeypatch.setattr(bridge, name, noted)
    panel.ui.stageLabel.setText("")
    for button in (panel.ui.registerButton, panel.ui.suggestButton):
        # The click alone: no turn of the event loop, which would copy the first piece.
        button.click()
        assert panel.ui.stageLabel.text == "Starting ..." and panel.ui.progressBar.visible and steps == []
        host.wait_until(lambda: bool(steps))
        assert not [step for step in steps if step.endswith("False")]
        button.click()
        assert "Cancelled" in panel.ui.stageLabel.text
        steps.clear()


def test_cancel_leaves_the_scene_as_it_was(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    choose_pair(host, panel)
    before = nodes_of_scene()
    for button in (panel.ui.registerButton, panel.ui.suggestButton):
        host.click(button)
        task = panel.widget.panel.runner.task
        begun(host, panel)
        # One that can neither answer nor go by itself: whoever waited for it would wait forever.
        os.kill(task._child._process.pid, signal.SIGSTOP)
        host.click(button)
        assert task._child._process.wait(600) == -signal.SIGKILL
        assert task.ending.outcome == "cancelled" and not task.folder.parent.exists()
        assert "Cancelled" in panel.ui.stageLabel.text
        assert panel.ui.registerButton.enabled and panel.ui.suggestButton.enabled
    assert nodes_of_scene() == before


def test_closing_scene_or_module_in_the_middle_ends_the_work(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    choose_pair(host, panel)
    host.click(panel.ui.registerButton)
    first = panel.widget.panel.runner.task
    begun(host, panel)
    host.clear_scene()
    assert first.ending.outcome == "cancelled" and not first.folder.parent.exists()
    choose_pair(host, panel)
    host.click(panel.ui.registerButton)
    second = panel.widget.panel.runner.task
    panel.close()
    assert second.ending.outcome == "cancelled" and not second.folder.parent.exists()


def test_a_volume_that_goes_away_meanwhile_is_named(opened_panel: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    host, panel = opened_panel
    _fixed, moving = choose_pair(host, panel)
    register_at(host, panel)
    slicer.mrmlScene.RemoveNode(moving)
    before = nodes_of_scene()
    with pytest.raises(ValueError, match="'Egg' was removed from the scene"):
        finish(host, panel)
    assert nodes_of_scene() == before
    assert host.dialogs.texts("error")


def test_a_segmentation_that_is_moved_meanwhile_is_transformed_as_it_was(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    fixed, moving = choose_pair(host, panel)
    segmentations = [add_segmentation(name, volume, {"all": (50.0, 999.0)}) for name, volume in (("F", fixed), ("M", moving))]
    panel.ui.fixedSegmentationSelector.setCurrentNode(segmentations[0])
    panel.ui.movingSegmentationSelector.setCurrentNode(segmentations[1])
    register_at(host, panel)
    # What is done while the inputs are copied, in the first moments, counts as done before.
    host.wait_until(lambda: panel.widget.panel.runner.task.given.start is not None)
    shift = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Shift")
    matrix = np.eye(4)
    matrix[0, 3] = 30.0
    slicer.util.updateTransformMatrixFromArray(shift, matrix)
    segmentations[1].SetAndObserveTransformNodeID(shift.GetID())
    finish(host, panel)
    assert "was edited or moved while the registration ran" in panel.ui.detailsLabel.text
    applied = panel.widget.panel.result.nodes.propagated_segmentation
    there, expected = (
        slicer.util.arrayFromSegmentBinaryLabelmap(node, node.GetSegmentation().GetNthSegmentID(0), fixed)
        for node in (applied, segmentations[0])
    )
    assert 2 * (there & expected).sum() / (there.sum() + expected.sum()) > 0.95


def test_bad_input_is_a_sentence_on_the_panel(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    _fixed, moving = choose_pair(host, panel)
    # Only the child process finds out that there is nothing inside the anatomy to compare.
    slicer.util.updateVolumeFromArray(moving, (slicer.util.arrayFromVolume(moving) > 50).astype(np.float32))
    before = nodes_of_scene()
    host.click(panel.ui.registerButton)
    finish(host, panel)
    assert "The moving image 'Egg'" in panel.ui.stageLabel.text and ".nrrd" not in panel.ui.stageLabel.text
    assert host.dialogs.texts("error") == [panel.ui.stageLabel.text]
    assert nodes_of_scene() == before and panel.ui.registerButton.enabled


def test_without_torch_the_way_on_is_told_and_taken(opened_panel: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    host, panel = opened_panel
    choose_pair(host, panel)
    packages = importlib.import_module("HyperPredictRegLib.panel.packages")
    monkeypatch.setattr(packages, "torch_is_there", lambda: False)
    monkeypatch.setattr(packages, "_asked_for_torch", False)
    host.click(panel.ui.suggestButton)
    assert "extension \"PyTorch\"" in host.dialogs.texts("info")[0]
    assert "chosen by coarse trial registrations" in host.dialogs.texts("info")[0]
    assert panel.widget.panel.runner.busy
    host.click(panel.ui.suggestButton)
    finish(host, panel)


def test_torch_comes_through_its_extension(opened_panel: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    host, panel = opened_panel
    choose_pair(host, panel)
    packages = importlib.import_module("HyperPredictRegLib.panel.packages")
    asked: list[dict[str, Any]] = []

    class Logic:
        def torchInstalled(self) -> bool:  # noqa: N802 - PyTorchUtils' name
            return bool(asked)

        def installTorch(self, **options: Any) -> None:  # noqa: N802
            asked.append(options)

    extension = types.ModuleType("PyTorchUtils")
    extension.PyTorchUtilsLogic = Logic  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "PyTorchUtils", extension)
    monkeypatch.setattr(packages, "torch_is_there", lambda: bool(asked))
    assert packages.make_torch_ready()
    assert asked == [{"askConfirmation": True, "torchVersionRequirement": ">=2.4"}]


def test_a_failed_installation_of_torch_is_told_and_asked_once(
    opened_panel: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys
    import types

    host, _panel = opened_panel
    packages = importlib.import_module("HyperPredictRegLib.panel.packages")

    class Logic:
        def torchInstalled(self) -> bool:  # noqa: N802 - PyTorchUtils' name
            raise OSError("no network")

    extension = types.ModuleType("PyTorchUtils")
    extension.PyTorchUtilsLogic = Logic  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "PyTorchUtils", extension)
    monkeypatch.setattr(packages, "torch_is_there", lambda: False)
    monkeypatch.setattr(packages, "_asked_for_torch", False)  # as when Slicer has just been started
    assert not packages.make_torch_ready(ask_again=False)
    assert host.dialogs.texts("error") == ["PyTorch could not be installed: no network"]
    assert not packages.make_torch_ready(ask_again=False)
    assert len(host.dialogs.texts("error")) == 1
    assert not packages.make_torch_ready()
    assert len(host.dialogs.texts("error")) == 2


def test_each_result_has_its_own_page_and_says_whose_it_is(
    opened_panel: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import qt

    host, panel = opened_panel
    monkeypatch.setattr(qt.QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path))
    sets = [panel.ui.parameterSetSelector.currentNode(), panel.ui.parameterSetSelector.addNode()]
    for number, chosen in enumerate(sets):
        panel.ui.parameterSetSelector.setCurrentNode(chosen)
        host.let_qt_work()
        for node in choose_pair(host, panel):
            node.SetName(f"{node.GetName()}-{number}")
        register_at(host, panel)
        finish(host, panel)
        assert f"Egg-{number} registered to Ball-{number}" in panel.ui.detailsLabel.text
    panel.ui.parameterSetSelector.setCurrentNode(sets[0])
    host.let_qt_work()
    assert "Egg-0 registered to Ball-0" in panel.ui.detailsLabel.text
    # What another registration has warped can be transformed further; what this one has made cannot.
    offered = [panel.ui.itemsList.item(row).text() for row in range(panel.ui.itemsList.count)]
    assert [name for name in offered if "registered" in name or "Jacobian" in name] == ["Egg-1 registered to Ball-1"]
    host.click(panel.ui.pageButton)
    finish(host, panel)
    assert [path.name for path in tmp_path.iterdir()] == ["Egg-0 to Ball-0"]
    page = tmp_path / "Egg-0 to Ball-0" / "report.html"
    assert "<html" in page.read_text(encoding="utf-8") and list(page.parent.glob("*.png"))
    assert str(page) in panel.ui.stageLabel.text
    assert qt.QDesktopServices.opened == [f"file://{page}"]
    host.click(panel.ui.registerButton)
    host.click(panel.ui.registerButton)
    assert "Cancelled" in panel.ui.stageLabel.text
    host.click(panel.ui.pageButton)
    finish(host, panel)
    assert {path.name for path in tmp_path.iterdir()} == {"Egg-0 to Ball-0", "Egg-0 to Ball-0 2"}
    choose_pair(host, panel)
    assert "not the volumes that are chosen above" in panel.ui.verdictLabel.text
    files = [task.folder for task in panel.widget.panel._registrations.values()]
    assert len(files) == 2 and all(folder.exists() for folder in files)
    slicer.mrmlScene.RemoveNode(panel.widget._parameterNode.result)
    host.let_qt_work()
    assert [folder.exists() for folder in files].count(True) == 1


def test_a_result_that_comes_while_the_user_is_elsewhere_waits(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    fixed, _moving = choose_pair(host, panel)
    panel.ui.transformKindComboBox.setCurrentIndex(1)
    panel.ui.fieldSpacingSpinBox.setValue(9.0)
    register_at(host, panel)
    # What is chosen meanwhile is for the next one.
    panel.ui.transformKindComboBox.setCurrentIndex(0)
    panel.leave()
    composite = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")
    composite.SetBackgroundVolumeID(None)
    finish(host, panel)
    assert not composite.GetBackgroundVolumeID()
    panel.enter()
    assert composite.GetBackgroundVolumeID() == fixed.GetID()
    assert "differs from the one that was measured by 0." in panel.ui.detailsLabel.text


def test_with_a_manual_setting_the_limit_is_not_enforced(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    choose_pair(host, panel)
    register_at(host, panel, 1.5)
    finish(host, panel)
    assert "Limit kept." in panel.ui.verdictLabel.text
    report = importlib.import_module("HyperPredictRegLib.slicerbridge.provenance").read_report_node(
        panel.widget.panel.result.nodes.report
    )
    assert report.choice.by == "user" and report.limit_met is None
    assert report.setting == {"regularization_weight": 1.5, "fluid_sigma": 1.2}


def test_results_that_are_removed_are_no_longer_offered(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    choose_pair(host, panel)
    register_at(host, panel)
    finish(host, panel)
    nodes = panel.widget.panel.result.nodes
    slicer.mrmlScene.RemoveNode(nodes.warped)
    host.let_qt_work()
    panel.ui.viewComboBox.setCurrentIndex(2)
    host.let_qt_work()
    assert "no longer in the scene" in panel.ui.verdictLabel.text
    slicer.mrmlScene.RemoveNode(nodes.report)
    host.let_qt_work()
    assert panel.ui.verdictLabel.text == "Nothing has been registered yet."
    assert not panel.ui.pageButton.enabled
