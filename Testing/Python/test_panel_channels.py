"""A second channel in the panel: choosing it, what stands in its way, and that it reaches the registration."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from HyperPredictRegLib.engines import engine_infos

slicer: Any = pytest.importorskip("slicer", reason="slicer-core is not installed (pip install '.[slicer]')")
pytest.importorskip("PySide6.QtWidgets", reason="PySide6 cannot be loaded (make test sees to it)", exc_type=ImportError)

from panel_samples import add_ball, choose_pair, finish, register_at, show_predicted  # noqa: E402

SEVERAL = next(info for info in engine_infos() if info.channels)
ONE_PAIR = next(info for info in engine_infos() if not info.channels)


def add_channel() -> tuple[Any, Any]:
    """Add the ball and the egg again, each with a bright core where the first scan has it, in another contrast."""
    fixed = add_ball("Ball T2", (0.0, 0.0, 0.0), (40.0, 40.0, 40.0))
    moving = add_ball("Egg T2", (6.0, -4.0, 3.0), (36.0, 43.0, 40.0), deform_mm=12.0)
    for node in (fixed, moving):
        voxels = slicer.util.arrayFromVolume(node)
        voxels[...] = (voxels * (180.0 - voxels)) / 50.0
        slicer.util.arrayFromVolumeModified(node)
    return fixed, moving


def use_engine(panel: Any, info: Any) -> None:
    """Choose a registration method by its title."""
    combo = panel.ui.engineComboBox
    combo.setCurrentIndex(next(n for n in range(combo.count) if combo.itemText(n).startswith(info.title)))


def test_a_second_channel_needs_both_volumes_and_a_method_that_takes_it(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    ui, parameters = panel.ui, panel.widget._parameterNode
    request_of = importlib.import_module("HyperPredictRegLib.panel.parameters").request_of
    choose_pair(host, panel)
    fixed, moving = add_channel()
    use_engine(panel, SEVERAL)
    host.let_qt_work()
    assert ui.registerButton.enabled and request_of(parameters).channels == ()
    ui.fixedChannelSelector.setCurrentNode(fixed)
    host.let_qt_work()
    assert not ui.registerButton.enabled
    assert ui.registerButton.toolTip == "Channel 2 has no moving volume: select one, or none for both of its sides."
    ui.movingChannelSelector.setCurrentNode(fixed)
    host.let_qt_work()
    assert ui.registerButton.toolTip == "Fixed and moving are the same volume in channel 2: select two."
    ui.movingChannelSelector.setCurrentNode(moving)
    host.let_qt_work()
    assert ui.registerButton.enabled
    channel, = request_of(parameters).channels
    assert (channel.fixed, channel.moving, channel.weight) == (fixed, moving, 1.0)
    use_engine(panel, ONE_PAIR)
    host.let_qt_work()
    assert not ui.registerButton.enabled
    words = f"{ONE_PAIR.title} compares one pair of volumes only: leave channel 2 out, or choose {SEVERAL.title}."
    assert ui.registerButton.toolTip == ui.suggestButton.toolTip == words


def test_a_prediction_without_the_channel_does_not_count(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    show_predicted(host, panel)
    ui = panel.ui
    for selector, node in zip((ui.fixedChannelSelector, ui.movingChannelSelector), add_channel(), strict=True):
        selector.setCurrentNode(node)
    host.let_qt_work()
    assert "another mask, segmentation, channel, start or landmarks" in ui.reliabilityLabel.text
    for selector in (ui.fixedChannelSelector, ui.movingChannelSelector):
        selector.setCurrentNode(None)
    host.let_qt_work()
    assert "Reliability: reliable." in ui.reliabilityLabel.text


def test_a_click_registers_both_channels(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    choose_pair(host, panel)
    use_engine(panel, SEVERAL)
    for selector, node in zip((panel.ui.fixedChannelSelector, panel.ui.movingChannelSelector), add_channel(), strict=True):
        selector.setCurrentNode(node)
    register_at(host, panel, 0.6)
    finish(host, panel)
    read = importlib.import_module("HyperPredictRegLib.slicerbridge.provenance").read_report_node
    report = read(panel.widget._parameterNode.result)
    assert [channel.weight for channel in report.job.channels] == [1.0]
    assert report.measured.channels[0].similarity_after > report.measured.channels[0].similarity_before
    assert [used.role for used in report.inputs][2:] == ["fixed image of channel 2", "moving image of channel 2"]


def test_a_script_gives_any_number_of_channels(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    fixed, moving = choose_pair(host, panel)
    one, other = add_channel()
    request = panel.module.HyperPredictRegLogic.request(fixed, moving, channels=[(one, other), (one, other, 0.5)])
    assert [(c.fixed, c.moving, c.weight) for c in request.channels] == [(one, other, 1.0), (one, other, 0.5)]
