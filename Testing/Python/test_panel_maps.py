"""The panel shows a prediction over two parameters as maps: they follow what is chosen, and a click on them chooses."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed (pip install '.[slicer]')")
pytest.importorskip("PySide6.QtWidgets", reason="PySide6 cannot be loaded (make test sees to it)", exc_type=ImportError)

from HyperPredictRegLib import engines
from HyperPredictRegLib.engines import get_engine
from panel_samples import choose_pair, opened, show_predicted, take_prediction
from PySide6 import QtCore, QtGui, QtWidgets
from two_parameter_engine import NAME, PLACE, ripple_prediction


@pytest.fixture
def two() -> Iterator[tuple[Any, Any]]:
    """The panel with a prediction over two parameters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(engines.ENGINES, NAME, PLACE)
        for name in [name for name in sys.modules if name.startswith("HyperPredictRegLib.presentation")]:
            patch.delitem(sys.modules, name)
        with opened() as (host, panel):
            choose_pair(host, panel)
            parameters = importlib.import_module("HyperPredictRegLib.panel.parameters")
            panel.widget._parameterNode.engine = parameters.Engine.RIPPLE
            take_prediction(host, panel, ripple_prediction(get_engine(NAME)))
            yield host, panel


def maps(panel: Any) -> Any:
    return panel.widget.panel.choice._maps


def pixels(pane: Any) -> np.ndarray:
    picture = pane._label.pixmap.toImage().convertToFormat(QtGui.QImage.Format.Format_RGB888)
    rows = np.frombuffer(bytes(picture.constBits()), np.uint8).reshape(picture.height(), picture.bytesPerLine())
    return rows[:, : 3 * picture.width()].reshape(picture.height(), picture.width(), 3)


def mouse(host: Any, pane: Any, kind: Any, place: tuple[int, int], button: Any = QtCore.Qt.MouseButton.LeftButton) -> None:
    at = QtCore.QPointF(*place)
    held = QtCore.Qt.MouseButton.LeftButton
    event = QtGui.QMouseEvent(kind, at, pane._label.mapToGlobal(at), button, held, QtCore.Qt.KeyboardModifier.NoModifier)
    QtWidgets.QApplication.sendEvent(pane._label, event)
    host.let_qt_work()


def test_maps_show_what_is_predicted_and_a_click_sets_both_parameters(two: tuple[Any, Any]) -> None:
    host, panel = two
    ui, choice, node = panel.ui, panel.widget.panel.choice, panel.widget._parameterNode
    quality, folding = maps(panel)
    for pane in (quality, folding):
        assert not pane._label.isHidden() and pane._frame.isVisible()
        assert pane.picture.pixels.shape[1] == pane._label.width == pane._label.pixmap.width()
    assert all(plot._view.isHidden() for plot in choice._plots)
    # The picture in the label is the presentation's, the right way up, with numbers beside it.
    left, top, width, height = quality.picture.area
    drawn, expected = pixels(quality), quality.picture.marked(dict(node.setting), "#e03da1")
    part = slice(top + 2, top + height // 3), slice(left + 60, left + width // 3)
    np.testing.assert_array_equal(drawn[part], expected[part])
    assert (drawn[:top, :left] != expected[:top, :left]).any()
    # A click sets both parameters, and both have a slider and a number that follow.
    event = QtCore.QEvent.Type
    place = (left + width // 4, top + height // 2)
    there = quality.picture.setting_at(*place)
    mouse(host, quality, event.MouseButtonPress, place)
    assert node.manual and dict(node.setting) == pytest.approx(there)
    slider, box = choice._further["step"]
    assert ui.weightSpinBox.value == pytest.approx(there["damping"], abs=0.01)
    assert box.value == pytest.approx(there["step"], abs=0.001)
    assert slider.value == pytest.approx(0.5 * slider.maximum, abs=3)
    assert ui.readoutLabel.text.startswith("Manual d: Dice")
    assert "d = " in ui.hintLabel.text and "s = " in ui.hintLabel.text
    readout = ui.readoutLabel.text
    # Dragging goes on; other buttons and places beside the map do nothing.
    mouse(host, folding, event.MouseMove, (left + width // 2, top + 5), QtCore.Qt.MouseButton.NoButton)
    assert dict(node.setting) == pytest.approx(folding.picture.setting_at(left + width // 2, top + 5))
    assert ui.readoutLabel.text != readout
    before = dict(node.setting)
    mouse(host, quality, event.MouseButtonPress, place, QtCore.Qt.MouseButton.RightButton)
    mouse(host, quality, event.MouseButtonPress, (2, 2))
    assert dict(node.setting) == before
    # The second slider moves the second parameter alone.
    slider.setValue(0)
    host.let_qt_work()
    assert dict(node.setting) == pytest.approx({**before, "step": 0.05})
    x, y = quality.picture.place_of(dict(node.setting))
    assert tuple(pixels(quality)[y - 8, x]) == (0xE0, 0x3D, 0xA1)


def test_maps_follow_criterion_limit_structure_and_width(two: tuple[Any, Any]) -> None:
    host, panel = two
    ui, node = panel.ui, panel.widget._parameterNode
    quality, folding = maps(panel)

    def look() -> tuple[np.ndarray, str]:
        host.let_qt_work()
        return pixels(quality).copy(), quality.picture.captions[0].text

    first, title = look()
    drawn = quality.picture
    ui.weightSlider.setValue(30)
    host.let_qt_work()
    # Moving the mark draws no map anew.
    assert quality.picture is drawn and title == "Mean Dice"
    ui.manualCheckBox.setChecked(False)
    node.foldingLimit = 5.0
    second, _ = look()
    assert (first != second).any() and "may fold 5\u00a0% or more" in ui.legendLabel.text
    node.structureWeights = {"core": 1.0}
    third, title = look()
    assert (second != third).any() and title == "Dice of core"
    ui.curveComboBox.setCurrentIndex(1)
    _, title = look()
    assert title == "Dice of shell"
    node.limitFolding = False
    host.let_qt_work()
    assert "\u25a8" not in ui.legendLabel.text and "your d and s" in ui.legendLabel.text
    panel.frame.window().fit(700)
    host.let_qt_work()
    assert quality.picture.pixels.shape[1] == quality._label.width > 500
    assert folding.picture.pixels.shape[1] == folding._label.width


def test_maps_and_charts_take_turns(two: tuple[Any, Any]) -> None:
    host, panel = two
    choice, node = panel.widget.panel.choice, panel.widget._parameterNode
    parameters = importlib.import_module("HyperPredictRegLib.panel.parameters")
    node.engine = next(iter(parameters.Engine))
    host.let_qt_work()
    # The last prediction does not count for another method.
    assert not any(pane._frame.isVisible() for pane in choice._maps)
    take_prediction(host, panel)
    panel.widget.panel.refresh()
    assert all(pane._label.isHidden() and pane._frame.isVisible() for pane in choice._maps)
    assert all(plot._view.isVisible() for plot in choice._plots)
    node.engine = parameters.Engine.RIPPLE
    take_prediction(host, panel, ripple_prediction(get_engine(NAME)))
    panel.widget.panel.refresh()
    assert all(pane._label.isVisible() for pane in choice._maps)
    host.clear_scene()
    assert all(pane.picture is None and not pane._frame.isVisible() for pane in choice._maps)


def test_one_parameter_has_no_map(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    show_predicted(host, panel)
    assert all(pane.picture is None and pane._label.isHidden() for pane in maps(panel))
