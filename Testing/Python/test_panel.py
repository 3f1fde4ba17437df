"""The panel before anything runs: inputs, criteria, curves, λ by hand, saved and restored parameters."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from reporting_samples import make_curves, make_red

slicer: Any = pytest.importorskip("slicer", reason="slicer-core is not installed (pip install '.[slicer]')")
pytest.importorskip("PySide6.QtWidgets", reason="PySide6 cannot be loaded (make test sees to it)", exc_type=ImportError)

from panel_samples import NAMES, add_pair, add_segmentation, choose_pair, foreseen  # noqa: E402 - needs slicer
from PySide6.QtCore import Qt  # noqa: E402


def test_an_empty_panel_says_what_is_missing(opened_panel: tuple[Any, Any]) -> None:
    _host, panel = opened_panel
    for button in (panel.ui.registerButton, panel.ui.suggestButton):
        assert not button.enabled
        assert button.toolTip == "Select a fixed and a moving volume first."
    assert not panel.ui.carryButton.enabled and not panel.ui.pageButton.enabled
    assert panel.ui.verdictLabel.text == "Nothing has been registered yet."
    assert not panel.ui.dicePlotFrame.visible


def test_the_panel_fits_beside_the_views_of_a_small_screen(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    foreseen(host, panel)
    for name in ("moreInputs", "criterion", "advanced", "outputs", "log", "result", "apply"):
        getattr(panel.ui, f"{name}CollapsibleButton").setCollapsed(False)
    host.let_qt_work()
    assert panel.frame.minimumSizeHint().width() <= 380


def test_two_volumes_are_enough(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    fixed, _moving = add_pair()
    panel.ui.fixedSelector.setCurrentNode(fixed)
    host.let_qt_work()
    assert panel.ui.registerButton.toolTip == "Select a moving volume first."
    panel.ui.movingSelector.setCurrentNode(fixed)
    host.let_qt_work()
    assert panel.ui.registerButton.toolTip == "Fixed and moving are the same volume: select two."
    choose_pair(host, panel)
    assert panel.ui.registerButton.enabled and panel.ui.suggestButton.enabled
    assert "Registering will take about" in panel.ui.expectedLabel.text


def test_masks_offer_their_segments(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    fixed, _moving = choose_pair(host, panel)
    mask = add_segmentation("Mask", fixed, {"shell": (20.0, 120.0), "core": (120.0, 999.0)})
    combo = panel.ui.fixedMaskSegmentComboBox
    assert not combo.enabled
    panel.ui.fixedMaskSelector.setCurrentNode(mask)
    host.let_qt_work()
    assert [combo.itemText(n) for n in range(combo.count)] == ["All segments", "shell", "core"]
    combo.setCurrentIndex(2)
    host.let_qt_work()
    parameters = panel.widget._parameterNode
    assert parameters.fixedMask is mask
    assert mask.GetSegmentation().GetSegment(parameters.fixedMaskSegment).GetName() == "core"
    inputs = importlib.import_module("HyperPredictRegLib.panel.inputs")
    assert inputs.request_of(parameters).fixed_mask.segment_id == parameters.fixedMaskSegment
    panel.ui.fixedMaskSelector.setCurrentNode(None)
    host.let_qt_work()
    assert inputs.request_of(parameters).fixed_mask is None and not combo.enabled


def test_a_prediction_shows_curves_light_and_read_out(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    foresight = foreseen(host, panel)
    starred = foresight.prediction.hyperparameters["regularization_weight"]
    assert panel.ui.dicePlotFrame.visible and panel.ui.foldingPlotFrame.visible
    assert "Green." in panel.ui.lightLabel.text and "#2e9e44" in panel.ui.lightLabel.text
    assert panel.ui.weightSpinBox.value == pytest.approx(starred, abs=6e-4)
    assert panel.ui.readoutLabel.text.startswith("Suggested: Dice 0.")
    assert [panel.ui.curveComboBox.itemText(n) for n in range(4)] == ["All structures", *NAMES]
    assert panel.ui.structuresTable.rowCount == 3


def test_the_slider_reads_the_curves_at_once_and_is_by_hand(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    foresight = foreseen(host, panel)
    seen = set()
    for position in (0, 100, 250, 400):
        panel.ui.weightSlider.setValue(position)
        host.let_qt_work()
        assert panel.ui.byHandCheckBox.checked
        assert panel.ui.readoutLabel.text.startswith("By hand: Dice 0.")
        assert panel.ui.weightSlider.value == position
        seen.add(panel.ui.readoutLabel.text)
    assert len(seen) == 4
    assert panel.ui.weightSpinBox.value == pytest.approx(4.5, abs=1e-3)
    low, high = foresight.curves.values.min(), foresight.curves.values.max()
    panel.ui.weightSlider.setValue(200)
    assert panel.widget._parameterNode.weight == pytest.approx((low * high) ** 0.5, rel=1e-6)
    assert "the folding limit is not enforced" in panel.ui.hintLabel.text
    assert not panel.ui.limitCheckBox.enabled and not panel.ui.foldingLimitSpinBox.enabled
    panel.ui.byHandCheckBox.setChecked(False)
    host.let_qt_work()
    assert not panel.ui.hintLabel.visible and panel.ui.foldingLimitSpinBox.enabled
    assert panel.ui.readoutLabel.text.startswith("Suggested:")
    assert panel.ui.weightSpinBox.value == pytest.approx(foresight.prediction.hyperparameters["regularization_weight"], abs=0.06)


def test_what_matters_moves_the_suggestion(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    foreseen(host, panel)
    parameters, found = panel.widget._parameterNode, {}
    for row, name in enumerate(NAMES):
        panel.ui.structuresTable.item(row, 0).setCheckState(Qt.CheckState.Checked)
        host.let_qt_work()
        assert dict(parameters.structureWeights) == {name: 1.0}
        found[name] = parameters.weight
        panel.ui.structuresTable.item(row, 0).setCheckState(Qt.CheckState.Unchecked)
        host.let_qt_work()
        assert dict(parameters.structureWeights) == {}
    # The made-up curves peak at 0.25 ... 1.3, each structure's beyond the one's before.
    assert found["hippocampus"] < found["thalamus"] < found["grey matter"]
    free = parameters.weight
    panel.ui.foldingLimitSpinBox.setValue(0.01)
    host.let_qt_work()
    assert parameters.weight > free
    assert "under 0.01 %" in panel.ui.reasonsLabel.text


def test_a_typed_weight_counts_and_nonsense_does_not(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    foreseen(host, panel)
    table, parameters = panel.ui.structuresTable, panel.widget._parameterNode
    for typed, expected in (("2,5", {"thalamus": 2.5}), ("no", {}), ("-1", {}), ("nan", {}), ("3", {"thalamus": 3.0})):
        table.item(1, 1).setText(typed)
        host.let_qt_work()
        assert dict(parameters.structureWeights) == expected, typed
        assert (table.item(1, 0).checkState() == Qt.CheckState.Checked) == bool(expected)


def test_what_mattered_in_another_pair_is_not_in_the_way(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    parameters = importlib.import_module("HyperPredictRegLib.panel.parameters")
    panel.widget._parameterNode.structureWeights = {"liver": 2.0, "thalamus": 1.0}
    choose_pair(host, panel)
    options = parameters.job_options(panel.widget._parameterNode, forPrediction=True)
    assert options["criterion"].structures == {}
    names = [panel.ui.structuresTable.item(row, 0).text() for row in range(panel.ui.structuresTable.rowCount)]
    assert names == ["liver", "thalamus"]
    panel.ui.structuresTable.item(0, 0).setCheckState(Qt.CheckState.Unchecked)
    host.let_qt_work()
    assert parameters.job_options(panel.widget._parameterNode)["criterion"].structures == {"thalamus": 1.0}
    panel.widget._parameterNode.structureWeights = {"liver": 2.0, "thalamus": 1.0}
    foreseen(host, panel)
    assert dict(panel.widget._parameterNode.structureWeights) == {"thalamus": 1.0}
    assert panel.ui.readoutLabel.text.startswith("Suggested")


def test_a_curve_for_each_structure_on_demand(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    foreseen(host, panel)
    chart = panel.widget.panel.choice._nodes.dice_chart
    assert "Mean Dice" in chart.GetTitle()
    panel.ui.curveComboBox.setCurrentIndex(2)
    host.let_qt_work()
    assert "thalamus" in chart.GetTitle()
    panel.ui.curveComboBox.setCurrentIndex(0)
    host.let_qt_work()
    assert "Mean Dice" in chart.GetTitle()


def test_a_red_light_suggests_nothing(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    foreseen(host, panel, make_red(make_curves(NAMES)))
    assert "Red." in panel.ui.lightLabel.text
    assert "correlate less than in 99 %" in panel.ui.reasonsLabel.text
    assert "so the fixed λ = 0.7 is taken" in panel.ui.lightLabel.text
    assert panel.ui.readoutLabel.text == "Red light: what the curves say of this pair is not to be trusted."
    assert panel.ui.structuresTable.item(0, 2).text() == ""
    assert panel.ui.registerButton.enabled


def test_a_prediction_counts_only_for_what_it_was_made_for(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    foreseen(host, panel)
    panel.ui.presetComboBox.setCurrentIndex(1)
    host.let_qt_work()
    assert "another method or detail" in panel.ui.lightLabel.text
    assert not panel.ui.dicePlotFrame.visible and not panel.ui.suggestButton.enabled
    assert "for Demons at" in panel.ui.suggestButton.toolTip
    panel.ui.presetComboBox.setCurrentIndex(0)
    host.let_qt_work()
    assert panel.ui.dicePlotFrame.visible
    choose_pair(host, panel)
    assert "for other volumes" in panel.ui.lightLabel.text


def test_the_b_spline_has_a_number_of_its_own(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    choose_pair(host, panel)
    panel.ui.engineComboBox.setCurrentIndex(1)
    host.let_qt_work()
    texts = {name: (getattr(widget, "text", ""), widget.toolTip) for name, widget in vars(panel.ui).items()
             if hasattr(widget, "toolTip") and name not in ("suggestButton", "presetComboBox", "legendLabel")}  # fmt: skip
    assert not {name: both for name, both in texts.items() if "λ" in str(both)}
    assert panel.ui.byHandCheckBox.text == "Use this h as it is (&by hand)"
    assert panel.ui.weightLabel.text == "&h:" and panel.ui.weightSpinBox.suffix == " mm"
    assert "control points" in panel.ui.weightSlider.toolTip and "λ" not in panel.ui.readoutLabel.text
    parameters = importlib.import_module("HyperPredictRegLib.panel.parameters")
    panel.ui.weightSpinBox.setValue(30.0)
    host.let_qt_work()
    assert parameters.job_options(panel.widget._parameterNode)["hyperparameters"] == {"control_point_spacing": 30.0}
    panel.ui.engineComboBox.setCurrentIndex(0)
    host.let_qt_work()
    assert panel.ui.byHandCheckBox.text == "Use this λ as it is (&by hand)" and "λ" in panel.ui.limitCheckBox.toolTip
    low, high = 0.4, 4.5
    assert low <= parameters.job_options(panel.widget._parameterNode).get("hyperparameters", {}).get(
        "regularization_weight", 1.0) <= high


def test_every_parameter_is_used(opened_panel: tuple[Any, Any]) -> None:
    slicerhost = importlib.import_module("slicerhost")
    _host, panel = opened_panel
    folder = Path(panel.module.__file__).parent / "HyperPredictRegLib" / "panel"
    parameters = importlib.import_module("HyperPredictRegLib.panel.parameters")
    assert slicerhost.unconnected_parameters(parameters, folder) == []
