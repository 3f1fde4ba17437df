"""The live preview in the panel: a volume that follows the slider, and leaves no trace when it ends, however it ends."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

slicer: Any = pytest.importorskip("slicer", reason="slicer-core is not installed (pip install '.[slicer]')")
pytest.importorskip("PySide6.QtWidgets", reason="PySide6 cannot be loaded (make test sees to it)", exc_type=ImportError)

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
        return SimpleNamespace(setting=self.asked[-1], image="preview-0.nrrd", sentence="", spacing_mm=4.5, seconds=0.25)

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


def test_a_preview_is_offered_by_quick_methods_only(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    assert not panel.ui.previewCheckBox.enabled and "Select a fixed" in panel.ui.previewCheckBox.toolTip
    choose_pair(host, panel)
    assert panel.ui.previewCheckBox.enabled
    parameters = importlib.import_module("HyperPredictRegLib.panel.parameters")
    panel.widget._parameterNode.engine = parameters.Engine.BSPLINE
    host.let_qt_work()
    assert not panel.ui.previewCheckBox.enabled and "choose Diffeo" in panel.ui.previewCheckBox.toolTip
