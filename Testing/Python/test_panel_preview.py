"""The live preview in the panel: a volume that follows the slider, and leaves no trace when it ends, however it ends."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

slicer: Any = pytest.importorskip("slicer", reason="slicer-core is not installed (pip install '.[slicer]')")
pytest.importorskip("PySide6.QtWidgets", reason="PySide6 cannot be loaded (make test sees to it)", exc_type=ImportError)

import vtk  # noqa: E402 - comes with slicer
from panel_samples import add_ball, choose_pair  # noqa: E402 - needs slicer


def volumes() -> list[str]:
    """Return the names of the preview's volumes."""
    every = [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")]
    return [name for name in every if name.startswith("Preview")]


def layers() -> list[tuple[Any, Any, float]]:
    """Return what the slice views show."""
    views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    return [(v.GetBackgroundVolumeID(), v.GetForegroundVolumeID(), v.GetForegroundOpacity()) for v in views]


class QuickTask:
    """In place of the worker: answers at once with the fixed volume; what it was asked is in `asked`."""

    made: ClassVar[list[QuickTask]] = []

    def __init__(self, request: Any) -> None:
        self.request, self.asked, self.closed = request, [], False
        self.ending: Any = None
        self._answered = 0
        QuickTask.made.append(self)

    def ask(self, setting: Mapping[str, float]) -> None:
        self.asked.append(dict(setting))

    def poll(self) -> list[Any]:
        return []

    def news(self) -> Any:
        if self._answered == len(self.asked):
            return None
        self._answered = len(self.asked)
        warning = "The processor computed."
        return SimpleNamespace(setting=self.asked[-1], image="preview-0.nrrd", sentence=warning, spacing_mm=4.5, seconds=0.25)

    def image(self, answered: Any) -> Any:
        return importlib.import_module("HyperPredictRegLib.slicerbridge.volumes").from_volume_node(self.request.fixed)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def quick(opened_panel: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any, Callable[[], Any]]:
    """The panel with a pair chosen, a worker that answers at once, and what switches the preview on and returns its task."""
    host, panel = opened_panel
    monkeypatch.setattr(importlib.import_module("HyperPredictRegLib.panel.previewing"), "PreviewTask", QuickTask)
    choose_pair(host, panel)

    def on() -> Any:
        host.click(panel.ui.previewCheckBox)
        host.wait_until(volumes)
        return QuickTask.made[-1]

    return host, panel, on


def test_the_preview_follows_the_slider_and_leaves_no_trace(quick: tuple[Any, Any, Callable[[], Any]]) -> None:
    """With the real worker: the module's own test."""
    host, panel, on = quick
    ui, fixed = panel.ui, panel.widget._parameterNode.fixedVolume
    before, nodes = layers(), slicer.mrmlScene.GetNumberOfNodes()
    task = on()
    assert ui.previewLabel.text.startswith("Preview of λ = ") and "mm, after" in ui.previewLabel.text
    assert ui.previewLabel.text.endswith("The processor computed.")
    (node,) = slicer.util.getNodes("Preview*").values()
    assert not node.GetSaveWithScene() and not node.GetDisplayNode().GetSaveWithScene()
    assert set(layers()) == {(fixed.GetID(), node.GetID(), 0.5)}
    for position in (10, 20, 200):
        ui.weightSlider.setValue(position)
    host.wait_until(lambda: volumes() == ["Preview, λ = 0.866, σ = 1.2, coarse"])
    # The same volume, and the newest of what was asked.
    assert slicer.util.getNode("Preview*") is node and len(task.asked) == 4
    host.click(ui.previewCheckBox)
    assert task.closed and volumes() == [] and layers() == before
    assert slicer.mrmlScene.GetNumberOfNodes() == nodes and ui.previewLabel.text == ""


def test_the_preview_ends_with_what_it_is_of(quick: tuple[Any, Any, Callable[[], Any]]) -> None:
    host, panel, on = quick
    ui = panel.ui

    def ended(task: Any) -> bool:
        host.let_qt_work()
        return bool(task.closed and not volumes() and not ui.previewCheckBox.checked and panel.widget.panel.previews.task is None)

    task = on()
    ui.weightSpinBox.setValue(1.5)
    host.wait_until(lambda: volumes() == ["Preview, λ = 1.5, σ = 1.2, coarse"])
    assert [one["regularization_weight"] for one in task.asked][-1] == 1.5 and not task.request.options["setting"]
    # Another limit is nothing that a preview depends on.
    panel.widget._parameterNode.foldingLimit = 3.0
    assert not ended(task)
    ui.movingSelector.setCurrentNode(add_ball("Other", (3.0, 0.0, 0.0), (38.0, 40.0, 40.0)))
    assert ended(task)
    task = on()
    panel.widget.exit()
    assert ended(task)
    panel.widget.enter()
    task = on()
    # A job that runs needs the processor: the preview gives way, and waits until it is wanted again.
    host.click(ui.registerButton)
    assert ended(task) and not ui.previewCheckBox.enabled
    host.click(ui.registerButton)
    assert ui.previewCheckBox.enabled
    # What the user has turned to meanwhile in a slice view stays.
    before, task = layers(), on()
    red = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")[0]
    own = panel.widget._parameterNode.movingVolume.GetID()
    red.SetForegroundVolumeID(own)
    host.click(ui.previewCheckBox)
    assert ended(task) and layers()[0][1] == own and layers()[1:] == before[1:]
    task = on()
    task.ending = SimpleNamespace(sentence="The pair could not be aligned.", outcome="failed")
    host.wait_until(lambda: task.closed)
    assert ended(task) and ui.previewLabel.text == "The pair could not be aligned."
    task = on()
    host.clear_scene()
    assert ended(task)


def test_the_preview_begins_anew_with_what_was_edited(quick: tuple[Any, Any, Callable[[], Any]]) -> None:
    host, panel, on = quick
    parameters, weight = panel.widget._parameterNode, panel.ui.weightSpinBox
    task = on()

    def moved_on(value: float) -> Any:
        weight.setValue(value)
        host.wait_until(lambda: volumes() == [f"Preview, λ = {value:g}, σ = 1.2, coarse"])
        assert panel.ui.previewCheckBox.checked
        return QuickTask.made[-1]

    # What is shown, or named, is nothing that it is of.
    parameters.movingVolume.GetDisplayNode().SetWindowLevel(50.0, 20.0)
    parameters.movingVolume.SetName("Renamed")
    assert moved_on(1.5) is task and not task.closed
    slicer.util.arrayFromVolume(parameters.movingVolume)[10:14] = 7.0
    slicer.util.arrayFromVolumeModified(parameters.movingVolume)
    edited = moved_on(1.6)
    assert edited is not task and task.closed and not edited.closed and moved_on(1.7) is edited
    above = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    parameters.fixedVolume.SetAndObserveTransformNodeID(above.GetID())
    placed = moved_on(1.8)
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 3, 5.0)
    above.SetMatrixTransformToParent(matrix)
    assert moved_on(1.9) is not placed and placed.closed


def test_what_a_preview_is_of_says_when_it_was_edited(opened_panel: tuple[Any, Any]) -> None:
    """Of masks, starts and landmarks that count."""
    host, panel = opened_panel
    bridge = importlib.import_module("HyperPredictRegLib.slicerbridge.previewing")
    asked = importlib.import_module("HyperPredictRegLib.slicerbridge.request")
    fixed, moving = choose_pair(host, panel)
    mask = add_ball("Mask", (0.0, 0.0, 0.0), (30.0, 30.0, 30.0))
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    ball = slicer.util.arrayFromVolume(mask) > 50
    slicer.util.updateVolumeFromArray(labels, ball.astype(np.uint8))
    volume_files, segment_files = (
        importlib.import_module(f"HyperPredictRegLib.slicerbridge.{name}") for name in ("volumes", "segmentations")
    )
    drawn = segment_files.to_segmentation_node(volume_files.from_volume_node(labels), slicer.mrmlScene, "Drawn")
    start, above = (slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode") for _ in range(2))
    start.SetAndObserveTransformNodeID(above.GetID())
    points = [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode") for _ in range(2)]
    for one in points:
        one.AddControlPoint(1.0, 2.0, 3.0)
    request = asked.Request(
        fixed, moving, fixed_mask=asked.MaskChoice(mask), moving_mask=asked.MaskChoice(drawn), initial_transform=start,
        fixed_landmarks=points[0], moving_landmarks=points[1], options={"landmarks_for": "start"},
    )  # fmt: skip
    work, contents = bridge.work_of(request), [bridge.content_of(request)]
    asked.mask_image(request.moving_mask, volume_files.volume_geometry(fixed), "Ball")
    assert bridge.content_of(request) == contents[0]

    def push(node: Any) -> None:
        matrix = vtk.vtkMatrix4x4()
        matrix.SetElement(1, 3, 4.0)
        node.SetMatrixTransformToParent(matrix)

    def paint() -> None:
        segment = drawn.GetSegmentation().GetNthSegmentID(0)
        voxels = drawn.GetSegmentation().GetSegment(segment).GetRepresentation("Binary labelmap").GetPointData().GetScalars()
        voxels.Fill(1)
        voxels.Modified()

    edits: list[Callable[[], Any]] = [
        lambda: slicer.util.arrayFromVolumeModified(mask),
        lambda: mask.SetOrigin(1.0, 2.0, 3.0),
        paint,
        lambda: push(start),
        lambda: push(above),
        lambda: mask.SetAndObserveTransformNodeID(above.GetID()),
        lambda: points[1].SetNthControlPointPosition(0, 9.0, 9.0, 9.0),
        lambda: slicer.util.arrayFromVolumeModified(fixed),
    ]
    for edit in edits:
        edit()
        contents.append(bridge.content_of(request))
    assert len(set(contents)) == len(edits) + 1 and bridge.work_of(request) == work


def test_a_setting_that_cannot_be_handed_on_ends_the_preview_with_a_sentence(
    quick: tuple[Any, Any, Callable[[], Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _host, panel, on = quick
    task = on()
    errors = importlib.import_module("HyperPredictRegLib.core.errors")

    def full(setting: Mapping[str, float]) -> None:
        raise errors.InputError("The setting could not be handed on (no space): is there room on the disk?")

    monkeypatch.setattr(task, "ask", full)
    panel.ui.weightSpinBox.setValue(1.5)
    assert task.closed and not panel.ui.previewCheckBox.checked and volumes() == []
    assert panel.ui.previewLabel.text.startswith("The setting could not be handed on")


def test_a_preview_that_the_user_deletes_leaves_no_trace_either(quick: tuple[Any, Any, Callable[[], Any]]) -> None:
    host, panel, on = quick
    shown = add_ball("Shown before", (0.0, 0.0, 0.0), (20.0, 20.0, 20.0))
    moving = panel.widget._parameterNode.movingVolume
    slicer.util.setSliceViewerLayers(background=moving, foreground=shown, foregroundOpacity=0.25)
    before, nodes = layers(), slicer.mrmlScene.GetNumberOfNodes()

    def delete() -> None:
        on()
        (node,) = slicer.util.getNodes("Preview*").values()
        slicer.mrmlScene.RemoveNode(node)

    delete()
    host.click(panel.ui.previewCheckBox)
    assert layers() == before and slicer.mrmlScene.GetNumberOfNodes() == nodes
    # With the next setting it is there again, once; and what was before it is not forgotten.
    delete()
    panel.ui.weightSpinBox.setValue(1.5)
    host.wait_until(volumes)
    assert len(volumes()) == 1
    host.click(panel.ui.previewCheckBox)
    assert layers() == before and slicer.mrmlScene.GetNumberOfNodes() == nodes
    # What has left the scene meanwhile is not shown again.
    on()
    slicer.mrmlScene.RemoveNode(shown)
    host.click(panel.ui.previewCheckBox)
    assert {(background, foreground or None) for background, foreground, _opacity in layers()} == {(before[0][0], None)}


def test_a_preview_is_offered_by_quick_methods_only(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    assert not panel.ui.previewCheckBox.enabled and "Select a fixed" in panel.ui.previewCheckBox.toolTip
    choose_pair(host, panel)
    assert panel.ui.previewCheckBox.enabled
    parameters = importlib.import_module("HyperPredictRegLib.panel.parameters")
    panel.widget._parameterNode.engine = parameters.Engine.BSPLINE
    host.let_qt_work()
    assert not panel.ui.previewCheckBox.enabled and "choose Diffeo" in panel.ui.previewCheckBox.toolTip
