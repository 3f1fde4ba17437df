"""What tests of the panel share: the module opened on the stand-in, and volumes that register in seconds."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import slicer
import slicerhost
from HyperPredictRegLib.results.job import Criterion
from reporting_samples import make_prediction, make_surface

MODULE_FILE = Path(__file__).resolve().parents[2] / "HyperPredictReg" / "HyperPredictReg.py"
EDGE_MM = 4.0
NAMES = ("hippocampus", "thalamus", "grey matter")


@contextmanager
def opened(*, testing: bool = False) -> Iterator[tuple[slicerhost.Host, slicerhost.Panel]]:
    """Open the module's panel on the stand-in; at the end everything must have gone well, down to the last observer."""
    before = library()
    try:
        with slicerhost.watched(testing=testing) as host:
            panel = host.open_module(MODULE_FILE)
            host.startup()
            yield host, panel
    finally:
        # A reload makes new classes, and the panel's files know the Qt of this stand-in: other tests must see neither.
        for name in library():
            del sys.modules[name]
        sys.modules.update(before)


def library() -> dict[str, ModuleType]:
    """Return the modules of the library that are loaded, by name."""
    return {name: module for name, module in sys.modules.items() if name.split(".")[0] == "HyperPredictRegLib"}


def add_ball(
    name: str, center: tuple[float, float, float], radii: tuple[float, float, float], *, deform_mm: float = 0.0, size: int = 30
) -> Any:
    """Add a volume that shows a soft-edged ellipsoid with a core (RAS mm), its poles pushed aside; return the node."""
    start = -EDGE_MM * (size - 1) / 2
    ijk_to_ras = np.diag([EDGE_MM, EDGE_MM, EDGE_MM, 1.0])
    ijk_to_ras[:3, 3] = start
    k, j, i = np.indices((size, size, size))
    away = np.stack([i, j, k], axis=-1) * EDGE_MM + start - np.array(center)
    away[..., 0] -= deform_mm * (away[..., 2] / radii[2]) ** 2
    distance = np.linalg.norm(away / np.array(radii), axis=-1)
    voxels = 100.0 / (1.0 + np.exp((distance - 1.0) * 20.0)) + 60.0 / (1.0 + np.exp((distance - 0.5) * 20.0))
    return slicer.util.addVolumeFromArray(voxels.astype(np.float32), ijk_to_ras, name)


def add_pair() -> tuple[Any, Any]:
    """Add a ball and an egg; return the nodes."""
    ball = add_ball("Ball", (0.0, 0.0, 0.0), (40.0, 40.0, 40.0))
    return ball, add_ball("Egg", (6.0, -4.0, 3.0), (36.0, 43.0, 40.0), deform_mm=12.0)


def choose_pair(host: slicerhost.Host, panel: slicerhost.Panel) -> tuple[Any, Any]:
    """Add a ball and an egg and choose them as a user would; return the nodes."""
    fixed, moving = add_pair()
    panel.ui.fixedSelector.setCurrentNode(fixed)
    panel.ui.movingSelector.setCurrentNode(moving)
    host.let_qt_work()
    return fixed, moving


def register_at(host: slicerhost.Host, panel: slicerhost.Panel, weight: float = 1.0) -> None:
    """Click Register with a manual weight, which needs no prediction: for tests of what comes of a registration."""
    panel.ui.weightSpinBox.setValue(weight)
    host.let_qt_work()
    host.click(panel.ui.registerButton)


def show_predicted(host: slicerhost.Host, panel: slicerhost.Panel, prediction: Any = None) -> Any:
    """Choose a pair and let the panel take a made-up prediction for it; return the prediction."""
    choose_pair(host, panel)
    return take_prediction(host, panel, prediction)


def take_prediction(host: slicerhost.Host, panel: slicerhost.Panel, prediction: Any = None) -> Any:
    """Let the panel take a made-up prediction for what is chosen; return the prediction."""
    parameters = importlib.import_module("HyperPredictRegLib.panel.parameters")
    bridge = importlib.import_module("HyperPredictRegLib.slicerbridge.request")
    prediction = prediction or make_prediction(make_surface(NAMES), Criterion())
    node = panel.widget._parameterNode
    job = dataclasses.replace(prediction.job, engine=node.engine.value, preset=node.preset.value, seed=node.seed)
    prediction = dataclasses.replace(prediction, job=job)
    request = parameters.request_of(node)
    panel.widget.panel.choice.take(prediction, SimpleNamespace(request=request, places=bridge.places_of(request)))
    host.let_qt_work()
    return prediction


def add_segmentation(name: str, volume: Any, segments: dict[str, tuple[float, float]]) -> Any:
    """Add a segmentation of a volume: each segment is where brightness is within a range; return the node."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    voxels = slicer.util.arrayFromVolume(volume)
    for segment, (low, high) in segments.items():
        labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
        labels.CopyOrientation(volume)
        slicer.util.updateVolumeFromArray(labels, ((voxels > low) & (voxels <= high)).astype(np.uint8))
        before = node.GetSegmentation().GetNumberOfSegments()
        slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(labels, node)
        node.GetSegmentation().GetNthSegment(before).SetName(segment)
        slicer.mrmlScene.RemoveNode(labels)
    return node


def finish(host: slicerhost.Host, panel: slicerhost.Panel, seconds: float = 600.0) -> None:
    """Wait for the end of what runs."""
    host.wait_until(lambda: not panel.widget.panel.runner.busy, seconds)
