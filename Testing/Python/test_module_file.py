"""The scripted module, loaded against real MRML nodes and a bare stand-in for Slicer's shell."""

from __future__ import annotations

import importlib.util
import sys
import types
import unittest
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from HyperPredictRegLib import workflow
from HyperPredictRegLib.job import Job

slicer: Any = pytest.importorskip("slicer", reason="slicer-core is not installed (pip install '.[slicer]')")
scene_of_bridge = importlib.import_module("HyperPredictRegLib.slicerbridge.scene")

MODULE_FILE = Path(__file__).resolve().parents[2] / "HyperPredictReg" / "HyperPredictReg.py"


class Module:
    """Has what Slicer's base class of modules has and the module uses."""

    def __init__(self, parent: Any) -> None:
        self.parent = parent


class Widget:
    """Has what Slicer's base class of widgets has and the module uses."""

    def __init__(self, parent: Any = None) -> None:
        self.parent = parent
        self.items: list[Any] = []
        self.reloads = 0
        self.layout = SimpleNamespace(addWidget=self.items.append, addStretch=lambda factor: None)

    def setup(self) -> None:
        """Build nothing: there is no developer section here."""

    def onReload(self) -> None:  # noqa: N802 - Slicer's name
        """Count the calls."""
        self.reloads += 1


class Test(unittest.TestCase):
    """Shows no messages; otherwise a test case like Slicer's."""

    __test__ = False

    def delayDisplay(self, message: str) -> None:  # noqa: N802 - Slicer's name
        """Show nothing."""


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Load HyperPredictReg.py as Slicer would."""
    shell = types.ModuleType("slicer.ScriptedLoadableModule")
    shell.ScriptedLoadableModule = Module  # type: ignore[attr-defined]
    shell.ScriptedLoadableModuleWidget = Widget  # type: ignore[attr-defined]
    shell.ScriptedLoadableModuleLogic = object  # type: ignore[attr-defined]
    shell.ScriptedLoadableModuleTest = Test  # type: ignore[attr-defined]
    words = types.ModuleType("slicer.i18n")
    words.tr = lambda text: text  # type: ignore[attr-defined]
    words.translate = lambda context, text: text  # type: ignore[attr-defined]
    qt = types.ModuleType("qt")
    qt.QLabel = lambda text: SimpleNamespace(text=text, wordWrap=False)  # type: ignore[attr-defined]
    for stand_in in (shell, words, qt):
        monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    monkeypatch.setattr(slicer, "mrmlScene", slicer.vtkMRMLScene(), raising=False)
    spec = importlib.util.spec_from_file_location("HyperPredictReg", MODULE_FILE)
    assert spec and spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    yield loaded
    slicer.mrmlScene.Clear(0)


def test_slicer_is_told_what_the_module_is(module: ModuleType) -> None:
    parent = module.HyperPredictReg(SimpleNamespace()).parent
    assert parent.title == "HyperPredict Registration"
    assert parent.categories == ["Registration"]
    assert parent.dependencies == []
    assert parent.contributors and parent.helpText.strip() and parent.acknowledgementText.strip()


def test_the_panel_explains_itself_with_a_method_that_exists(module: ModuleType) -> None:
    widget = module.HyperPredictRegWidget()
    widget.setup()
    assert [item.wordWrap for item in widget.items] == [True]
    assert "HyperPredictRegLogic().process(fixed, moving)" in widget.items[0].text
    assert callable(module.HyperPredictRegLogic().process)


def test_reload_forgets_the_library(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = {name: kept for name, kept in sys.modules.items() if not name.startswith("HyperPredictRegLib")}
    monkeypatch.setattr(sys, "modules", {**fresh, "HyperPredictRegLib": module, "HyperPredictRegLib.job": module})
    widget = module.HyperPredictRegWidget()
    widget.onReload()
    assert widget.reloads == 1
    assert not [name for name in sys.modules if name.startswith("HyperPredictRegLib")]


def test_a_missing_volume_is_named(module: ModuleType) -> None:
    with pytest.raises(ValueError, match="Choose a fixed and a moving volume"):
        module.HyperPredictRegLogic().process(None, None)


def test_volumes_become_a_job_and_the_outcome_goes_to_their_scene(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def compute(job: Job) -> str:
        seen.update(job=job, moving=sitk.ReadImage(job.moving))
        return "the outcome"

    def add_outcome(scene: Any, outcome: str, *, fixed_node: Any, moving_node: Any, segmentation_node: Any) -> str:
        seen.update(scene=scene, outcome=outcome, nodes=(fixed_node, moving_node), segmentation=segmentation_node)
        return "the nodes"

    monkeypatch.setattr(workflow, "compute", compute)
    monkeypatch.setattr(scene_of_bridge, "add_outcome", add_outcome)
    fixed = module.HyperPredictRegTest.addEgg("A", center=(0.0, 0.0, 0.0), radii=(40.0, 40.0, 40.0))
    moving = module.HyperPredictRegTest.addEgg("B", center=(6.0, -4.0, 3.0), radii=(36.0, 43.0, 40.0))
    voxels = slicer.util.arrayFromVolume(moving).copy()

    nodes = module.HyperPredictRegLogic().process(fixed, moving, preset="standard", reproducible=True)

    assert nodes == "the nodes"
    assert (seen["job"].preset, seen["job"].reproducible) == ("standard", True)
    assert seen["moving"].GetSpacing() == (3.0, 3.0, 3.0)
    # RAS -58.5 mm is LPS +58.5 mm on the first two axes.
    assert seen["moving"].GetOrigin() == pytest.approx((58.5, 58.5, -58.5), abs=1e-9)
    assert np.array_equal(sitk.GetArrayFromImage(seen["moving"]), voxels)
    assert not Path(seen["job"].fixed).parent.exists()
    assert (seen["scene"], seen["outcome"], seen["nodes"]) == (slicer.mrmlScene, "the outcome", (fixed, moving))
    assert np.array_equal(slicer.util.arrayFromVolume(moving), voxels)


def test_the_modules_own_test_passes(module: ModuleType) -> None:
    module.HyperPredictRegTest().runTest()


def test_the_modules_own_test_can_fail(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def does_nothing(self: Any, fixed: Any, moving: Any) -> Any:
        return SimpleNamespace(fixed=fixed, warped=moving)

    monkeypatch.setattr(module.HyperPredictRegLogic, "process", does_nothing)
    with pytest.raises(AssertionError, match="not less than"):
        module.HyperPredictRegTest().runTest()
