"""The panel before anything runs: what the user does reaches the parameter node, and what it says is shown.

What is shown of which choice is tested without Qt in test_presentation.py.
"""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import pytest
from HyperPredictRegLib.engines import engine_names
from HyperPredictRegLib.results.job import Criterion
from reporting_samples import make_map, make_prediction, make_surface, make_unreliable

slicer: Any = pytest.importorskip("slicer", reason="slicer-core is not installed (pip install '.[slicer]')")
pytest.importorskip("PySide6.QtWidgets", reason="PySide6 cannot be loaded (make test sees to it)", exc_type=ImportError)

from panel_samples import NAMES, add_pair, add_segmentation, choose_pair, show_predicted, take_prediction  # noqa: E402
from PySide6.QtCore import Qt  # noqa: E402

WEIGHT = "regularization_weight"


def test_two_volumes_are_enough(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    for button in (panel.ui.registerButton, panel.ui.suggestButton):
        assert not button.enabled
        assert button.toolTip == "Select a fixed and a moving volume first."
    assert not panel.ui.applyButton.enabled and not panel.ui.pageButton.enabled
    assert panel.ui.verdictLabel.text == "Nothing has been registered yet."
    assert not panel.ui.dicePlotFrame.visible
    fixed, moving = add_pair()
    panel.ui.fixedSelector.setCurrentNode(fixed)
    host.let_qt_work()
    assert panel.ui.registerButton.toolTip == "Select a moving volume first."
    panel.ui.movingSelector.setCurrentNode(fixed)
    host.let_qt_work()
    assert panel.ui.registerButton.toolTip == "Fixed and moving are the same volume: select two."
    panel.ui.movingSelector.setCurrentNode(moving)
    host.let_qt_work()
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
    request_of = importlib.import_module("HyperPredictRegLib.panel.parameters").request_of
    assert request_of(parameters).fixed_mask.segment_id == parameters.fixedMaskSegment
    panel.ui.fixedMaskSelector.setCurrentNode(None)
    host.let_qt_work()
    assert request_of(parameters).fixed_mask is None and not combo.enabled


def test_a_prediction_is_shown_and_what_the_user_does_with_it_reaches_the_job(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    ui, parameters = panel.ui, panel.widget._parameterNode
    prediction = show_predicted(host, panel)
    starred = prediction.choice.setting[WEIGHT]
    assert ui.dicePlotFrame.visible and ui.foldingPlotFrame.visible and ui.legendLabel.visible
    assert "Reliability: reliable." in ui.reliabilityLabel.text and ui.whyCollapsibleButton.visible
    assert [ui.curveComboBox.itemText(n) for n in range(4)] == ["All structures", *NAMES]
    assert [ui.structuresTable.item(row, 0).text() for row in range(3)] == list(NAMES)
    assert ui.weightSpinBox.value == pytest.approx(starred, abs=6e-4) and parameters.setting[WEIGHT] == starred
    request = requested(panel)
    assert request.prediction is parameters.prediction and request.options["setting"] == {}
    # Another prediction takes the place of the one before.
    count = slicer.mrmlScene.GetNumberOfNodes()
    take_prediction(host, panel)
    assert slicer.mrmlScene.GetNumberOfNodes() == count
    # The slider.
    ui.weightSlider.setValue(200)
    low, high = prediction.surface.space.first.low, prediction.surface.space.first.high
    assert parameters.setting[WEIGHT] == pytest.approx((low * high) ** 0.5, rel=1e-6)
    assert ui.manualCheckBox.checked and ui.weightSlider.value == 200 and ui.readoutLabel.text.startswith("Manual λ: Dice 0.")
    assert ui.hintLabel.visible and not ui.limitCheckBox.enabled and not ui.foldingLimitSpinBox.enabled
    assert requested(panel).options["setting"] == dict(parameters.setting)
    ui.weightSpinBox.setValue(1.5)
    assert dict(parameters.setting) == {WEIGHT: 1.5}
    ui.manualCheckBox.setChecked(False)
    host.let_qt_work()
    assert not ui.hintLabel.visible and ui.foldingLimitSpinBox.enabled and parameters.setting[WEIGHT] == starred
    # The table of structures.
    table = ui.structuresTable
    table.item(2, 0).setCheckState(Qt.CheckState.Checked)
    host.let_qt_work()
    assert dict(parameters.structureWeights) == {"grey matter": 1.0} and table.item(2, 1).text() == "1"
    assert parameters.setting[WEIGHT] != starred and requested(panel).options["criterion"].structures == {"grey matter": 1.0}
    for typed, expected in (("2,5", {"grey matter": 2.5}), ("no", {}), ("-1", {}), ("3", {"grey matter": 3.0})):
        table.item(2, 1).setText(typed)
        host.let_qt_work()
        assert dict(parameters.structureWeights) == expected, typed
        assert (table.item(2, 0).checkState() == Qt.CheckState.Checked) == bool(expected)
        assert table.item(2, 1).text() == "".join(f"{weight:g}" for weight in expected.values())
    # The list of curves.
    chart = panel.widget.panel.choice._nodes.dice_chart
    for row, title in ((2, "thalamus"), (0, "Mean Dice")):
        ui.curveComboBox.setCurrentIndex(row)
        host.let_qt_work()
        assert title in chart.GetTitle()


def test_a_structure_whose_curve_is_shown_may_be_gone_in_the_next_prediction(opened_panel: tuple[Any, Any]) -> None:
    """As after its segment was renamed: the segmentation is the same, so nothing says that the first prediction is stale."""
    host, panel = opened_panel
    show_predicted(host, panel)
    panel.ui.curveComboBox.setCurrentIndex(2)
    host.let_qt_work()
    take_prediction(host, panel, make_prediction(make_surface(("left", "renamed", "right")), Criterion()))
    panel.widget.panel.refresh()
    assert panel.ui.curveComboBox.currentText == "All structures" and panel.ui.curveComboBox.itemText(2) == "renamed"
    assert "Mean Dice" in panel.widget.panel.choice._nodes.dice_chart.GetTitle()


def requested(panel: Any) -> Any:
    """Return what a click on "Register" would ask for."""
    parameters = importlib.import_module("HyperPredictRegLib.panel.parameters")
    return parameters.request_of(panel.widget._parameterNode, panel.widget.panel.view)


def test_one_move_of_the_slider_shows_the_panel_once(opened_panel: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    host, panel = opened_panel
    show_predicted(host, panel)
    whole = importlib.import_module("HyperPredictRegLib.panel.panel")
    shown: list[Any] = []

    def counted(*given: Any) -> Any:
        shown.append(given)
        return panel_view(*given)

    panel_view = whole.panel_view
    monkeypatch.setattr(whole, "panel_view", counted)
    for position in (0, 100, 400):
        panel.ui.weightSlider.setValue(position)
    assert len(shown) == 3
    panel.ui.weightSlider.setValue(400)
    assert len(shown) == 3


def test_what_was_ticked_for_another_pair_is_not_in_the_way(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    parameters = panel.widget._parameterNode
    parameters.structureWeights = {"liver": 2.0, "thalamus": 1.0}
    choose_pair(host, panel)
    request_of = importlib.import_module("HyperPredictRegLib.panel.parameters").request_of
    assert request_of(parameters).options["criterion"].structures == {}
    assert requested(panel).options["criterion"].structures == {}
    assert [panel.ui.structuresTable.item(row, 0).text() for row in range(2)] == ["liver", "thalamus"]
    panel.ui.structuresTable.item(0, 0).setCheckState(Qt.CheckState.Unchecked)
    host.let_qt_work()
    assert dict(parameters.structureWeights) == {"thalamus": 1.0}
    parameters.structureWeights = {"liver": 2.0, "thalamus": 1.0}
    take_prediction(host, panel)
    assert dict(parameters.structureWeights) == {"thalamus": 1.0}
    assert requested(panel).options["criterion"].structures == {"thalamus": 1.0}


def test_an_unreliable_pair_suggests_nothing(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    show_predicted(host, panel, make_unreliable(make_surface(NAMES)))
    assert "Reliability: unreliable." in panel.ui.reliabilityLabel.text
    assert panel.ui.structuresTable.item(0, 2).text() == ""
    assert panel.ui.registerButton.enabled and panel.ui.dicePlotFrame.visible


def test_a_prediction_counts_only_for_what_it_was_made_for(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    show_predicted(host, panel)
    for combo, row in ((panel.ui.presetComboBox, 1), (panel.ui.engineComboBox, engine_names().index("bspline"))):
        combo.setCurrentIndex(row)
        host.let_qt_work()
        assert "another registration method, resolution preset" in panel.ui.reliabilityLabel.text
        assert not panel.ui.dicePlotFrame.visible and panel.ui.suggestButton.enabled
        assert requested(panel).prediction is None
        combo.setCurrentIndex(0)
        host.let_qt_work()
        assert panel.ui.dicePlotFrame.visible
    choose_pair(host, panel)
    assert "for other volumes" in panel.ui.reliabilityLabel.text


def test_each_engine_has_a_parameter_of_its_own(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    choose_pair(host, panel)
    panel.ui.weightSpinBox.setValue(3.0)
    panel.ui.engineComboBox.setCurrentIndex(engine_names().index("bspline"))
    host.let_qt_work()
    assert not panel.ui.manualCheckBox.checked
    texts = {name: (getattr(widget, "text", ""), widget.toolTip) for name, widget in vars(panel.ui).items()
             if hasattr(widget, "toolTip") and name not in ("suggestButton", "presetComboBox", "legendLabel")}  # fmt: skip
    assert not {name: both for name, both in texts.items() if "λ" in str(both)}
    assert panel.ui.manualCheckBox.text == "&Manual h: use it as it is"
    assert panel.ui.weightLabel.text == "&h:" and panel.ui.weightSpinBox.suffix == " mm"
    panel.ui.weightSpinBox.setValue(30.0)
    host.let_qt_work()
    assert requested(panel).options["setting"] == {"control_point_spacing": 30.0}
    panel.ui.engineComboBox.setCurrentIndex(0)
    host.let_qt_work()
    assert panel.ui.manualCheckBox.text == "&Manual λ: use it as it is" and "λ" in panel.ui.limitCheckBox.toolTip
    assert requested(panel).options["setting"] == {} and list(panel.widget._parameterNode.setting) == [WEIGHT, "fluid_sigma"]


def test_further_parameters_have_a_row_each(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    surface = make_map()
    prediction = show_predicted(host, panel, make_prediction(surface, Criterion()))
    second = surface.space.parameters[1]
    rows = panel.widget.panel.choice._further
    assert list(rows) == [second.name] and panel.ui.parametersFrame.layout().rowCount() == 2
    slider, box = rows[second.name]
    assert second.title in slider.toolTip
    assert second.title in box.toolTip and (box.minimum, box.maximum) == pytest.approx((second.low, second.high), abs=1e-3)
    assert box.value == pytest.approx(prediction.choice.setting[second.name], abs=1e-3)
    assert slider.value == pytest.approx(slider.maximum * float(second.to_unit(box.value)), abs=1)
    value = round(second.low + 0.75 * (second.high - second.low), 2)
    box.setValue(value)
    host.let_qt_work()
    assert panel.widget._parameterNode.setting[second.name] == pytest.approx(value)
    given = requested(panel).options["setting"]
    assert set(given) == set(surface.space.names) and panel.ui.manualCheckBox.checked
    take_prediction(host, panel, make_prediction(dataclasses.replace(make_surface(NAMES)), Criterion()))
    assert not rows and panel.ui.parametersFrame.layout().rowCount() == 1


def test_every_parameter_is_used(opened_panel: tuple[Any, Any]) -> None:
    slicerhost = importlib.import_module("slicerhost")
    _host, panel = opened_panel
    folder = Path(panel.module.__file__).parent / "HyperPredictRegLib" / "panel"
    parameters = importlib.import_module("HyperPredictRegLib.panel.parameters")
    assert slicerhost.unconnected_parameters(parameters, folder) == []
