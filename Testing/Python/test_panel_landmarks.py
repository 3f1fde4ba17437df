"""Landmarks in the panel: chosen, said what they are for, and used."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

slicer: Any = pytest.importorskip("slicer", reason="slicer-core is not installed (pip install '.[slicer]')")
pytest.importorskip("PySide6.QtWidgets", reason="PySide6 cannot be loaded (make test sees to it)", exc_type=ImportError)

from panel_samples import choose_pair, finish, register_at, take_prediction  # noqa: E402 - needs slicer

BALL = 20.0 * np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
EGG = BALL / 40.0 * (36.0, 43.0, 40.0) + (6.0, -4.0, 3.0) + 12.0 * (BALL[:, 2:] / 40.0) ** 2 * (1.0, 0.0, 0.0)
"""Where these points of the ball lie in the egg, RAS mm."""


def add_points(name: str, places: np.ndarray) -> Any:
    """Add a point list and return the node."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    for place in places:
        node.AddControlPoint(*place.tolist())
    return node


def choose_landmarks(host: Any, panel: Any, use: str) -> tuple[Any, Any]:
    """Choose a list for each volume, and what both are for, as a user would."""
    nodes = add_points("Ball points", BALL), add_points("Egg points", EGG)
    host.let_qt_work()
    for side, node in zip(("fixed", "moving"), nodes, strict=True):
        getattr(panel.ui, f"{side}LandmarksSelector").setCurrentNode(node)
    combo = panel.ui.landmarksForComboBox
    combo.setCurrentIndex(combo.findText(use))
    host.let_qt_work()
    return nodes


def test_landmarks_start_and_pull(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    choose_pair(host, panel)
    fixed, _moving = choose_landmarks(host, panel, "Starting and pulling")
    parameters = panel.widget._parameterNode
    assert parameters.fixedLandmarks is fixed and parameters.landmarksFor.value == "start and deformation"
    register_at(host, panel)
    finish(host, panel)
    provenance = importlib.import_module("HyperPredictRegLib.slicerbridge.provenance")
    report = provenance.read_report_node(parameters.result)
    start, pull = report.alignment.landmarks, report.landmark_pull
    assert start.count == len(BALL) and pull.pulled_mm < pull.before_mm
    assert report.measured.tre_mm.mean < pull.before_mm
    assert "no independent check of the result" in panel.ui.detailsLabel.text
    nodes = panel.widget.panel.result.nodes
    assert nodes.transform.GetAttribute(provenance.LANDMARKS) == "start and deformation"
    names = [nodes.measures.GetTable().GetValue(n, 0).ToString() for n in range(nodes.measures.GetTable().GetNumberOfRows())]
    assert "Distance at the landmarks used, mean" in names


def test_landmarks_that_cannot_start_anything_are_a_sentence(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    choose_pair(host, panel)
    choose_landmarks(host, panel, "Starting")
    panel.ui.movingLandmarksSelector.setCurrentNode(None)
    host.let_qt_work()
    for button in (panel.ui.registerButton, panel.ui.suggestButton):
        assert not button.enabled and "not given for both images" in button.toolTip
    panel.ui.landmarksForComboBox.setCurrentIndex(0)
    host.let_qt_work()
    register_at(host, panel)
    assert "Landmarks are chosen for one volume only ('Ball points')" in host.dialogs.texts("error")[0]


def test_a_prediction_does_not_count_once_landmarks_are_used(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    choose_pair(host, panel)
    choose_landmarks(host, panel, "Measuring")
    take_prediction(host, panel)
    assert panel.widget.panel.view.prediction is not None
    panel.ui.landmarksForComboBox.setCurrentIndex(1)
    host.let_qt_work()
    assert panel.widget.panel.view.prediction is None
    assert "another mask, segmentation, channel, start or landmarks" in panel.ui.reliabilityLabel.text
