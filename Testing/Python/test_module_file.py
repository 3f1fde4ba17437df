"""The scripted module itself: what it tells Slicer, its logic for scripts, its sample data, its self-test."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

slicer: Any = pytest.importorskip("slicer", reason="slicer-core is not installed (pip install '.[slicer]')")
pytest.importorskip("PySide6.QtWidgets", reason="PySide6 cannot be loaded (make test sees to it)", exc_type=ImportError)

import slicerhost  # noqa: E402 - needs slicer
from HyperPredictRegLib.job import Criterion  # noqa: E402
from panel_samples import add_pair, opened  # noqa: E402


@pytest.fixture
def panel() -> Iterator[Any]:
    with opened(testing=True) as (_host, panel):
        yield panel


def test_slicer_is_told_what_the_module_is(panel: Any) -> None:
    parent = panel.description
    assert parent.title == "HyperPredict Registration"
    assert parent.categories == ["Registration"]
    assert parent.dependencies == []
    assert parent.contributors and parent.acknowledgementText.strip()
    assert "Not a medical device" in parent.helpText


def test_the_sample_pair_is_made_without_a_download(panel: Any) -> None:
    slicerhost.press_button("SampleBrainPair")
    fixed, moving = slicer.util.getNode("BrainFixed"), slicer.util.getNode("BrainMoving")
    voxels = [slicer.util.arrayFromVolume(node).copy() for node in (fixed, moving)]
    assert slicer.util.getNode("BrainMovingSegmentation").GetSegmentation().GetNumberOfSegments() >= 2
    composite = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")
    assert composite.GetBackgroundVolumeID() == fixed.GetID()
    slicer.mrmlScene.Clear(0)
    samples = importlib.import_module("HyperPredictRegLib.panel.samples")
    again = samples.load_sample_pair(slicer.mrmlScene)
    assert all(np.array_equal(slicer.util.arrayFromVolume(node), v) for node, v in zip(again[:2], voxels, strict=True))


def test_a_missing_volume_is_named(panel: Any) -> None:
    with pytest.raises(ValueError, match="Choose a fixed and a moving volume"):
        panel.module.HyperPredictRegLogic().process(None, None)


def test_a_script_registers_with_every_choice(panel: Any) -> None:
    fixed, moving = add_pair()
    voxels = slicer.util.arrayFromVolume(moving).copy()
    events: list[Any] = []
    nodes = panel.module.HyperPredictRegLogic().process(
        fixed, moving, progress=events.append, criterion=Criterion(folding_limit=2.0), predictor="none", reproducible=True,
        hyperparameters={"regularization_weight": 1.3}, transformAs="field", fieldSpacing=5.0,
    )  # fmt: skip
    report = importlib.import_module("HyperPredictRegLib.slicerbridge.provenance").read_report_node(nodes.report)
    assert (report.job.predictor, report.job.reproducible, report.chosen_by) == ("none", True, "user")
    assert report.hyperparameters == {"regularization_weight": 1.3}
    assert report.job.criterion.folding_limit == 2.0
    assert {"align", "register"} <= {event.stage for event in events}
    grid = nodes.transform.GetTransformFromParent()
    assert grid.IsA("vtkOrientedGridTransform") and max(grid.GetDisplacementGrid().GetSpacing()) == pytest.approx(5.0)
    assert np.array_equal(slicer.util.arrayFromVolume(moving), voxels)
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLTransformNode") >= 2


def test_a_script_foresees(panel: Any) -> None:
    samples = importlib.import_module("HyperPredictRegLib.panel.samples")
    fixed, moving, _, segmentation = samples.load_sample_pair(slicer.mrmlScene)
    foresight = panel.module.HyperPredictRegLogic().suggest(fixed, moving, segmentation)
    assert foresight.prediction.verdict.light == "green"
    assert "left lateral ventricle" in foresight.curves.structures
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLPlotChartNode") == 2
    assert foresight.prediction.hyperparameters["regularization_weight"] > 0.4


def test_a_mask_may_be_a_segment_or_a_whole_node(panel: Any) -> None:
    fixed, moving = add_pair()
    masks = {"fixedMask": (moving, "inside"), "movingMask": fixed}
    request = panel.module.HyperPredictRegLogic.request(fixed, moving, preset="fine", **masks)
    assert (request.fixed_mask.node, request.fixed_mask.segment_id) == (moving, "inside")
    assert (request.moving_mask.node, request.moving_mask.segment_id) == (fixed, "")
    assert request.options == {"preset": "fine"}


def test_fields_of_ours_are_linear_again_after_loading(panel: Any, tmp_path: Path) -> None:
    fixed, moving = add_pair()
    nodes = panel.module.HyperPredictRegLogic().process(fixed, moving, predictor="none", transformAs="field")
    point = (3.3, -4.4, 5.5)
    before = nodes.transform.GetTransformFromParent().TransformPoint(*point)
    name = nodes.transform.GetName()
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    loaded = slicer.util.getNode(name).GetTransformFromParent()
    assert loaded.GetInterpolationMode() == 1  # VTK_LINEAR_INTERPOLATION
    assert loaded.TransformPoint(*point) == pytest.approx(before, abs=1e-5)


def test_the_modules_own_test_sees_files_left_behind(panel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    task = importlib.import_module("HyperPredictRegLib.slicerbridge.task")
    kept: list[Any] = []
    monkeypatch.setattr(task.Task, "cancel", lambda self: (kept.append(self), self._child.kill()))
    try:
        with pytest.raises(AssertionError, match="True is not false"):
            panel.module.HyperPredictRegTest().test_cancelLeavesTheSceneAsItWas()
    finally:
        monkeypatch.undo()
        for one in kept:
            one.cancel()


def test_the_modules_own_test_sees_a_wrong_result(panel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = importlib.import_module("HyperPredictRegLib.sample")
    made = sample.made_pair
    # The truth that the test compares with is that of another pair.
    monkeypatch.setattr(sample, "made_pair", lambda seed=8: made(seed))
    with pytest.raises(AssertionError, match=r"not less than 0\.8"):
        panel.module.HyperPredictRegTest().test_samplePairIsForeseenRegisteredAndCarriedOver()
