"""The panel's charts at the least size that they get: nothing covered, nothing cut, and a legend below that can be read."""

from __future__ import annotations

import importlib
import re
from types import SimpleNamespace
from typing import Any

import pytest

slicer: Any = pytest.importorskip("slicer", reason="slicer-core is not installed (pip install '.[slicer]')")
pytest.importorskip("PySide6.QtWidgets", reason="PySide6 cannot be loaded (make test sees to it)", exc_type=ImportError)

from panel_samples import NAMES, show_predicted  # noqa: E402 - needs slicer
from reporting_samples import make_prediction, make_surface, make_unreliable  # noqa: E402
from slicerbridge_samples import outcome  # noqa: E402

# The frames' least height in the panel's form, and what is left of its least width beside the margins.
LEAST = (300, 190)


@pytest.mark.parametrize("made", [make_prediction, make_unreliable])
@pytest.mark.parametrize("names", [NAMES, ("left inferior lateral ventricle of the second reader", "x")])
def test_charts_of_a_prediction_can_be_read(opened_panel: tuple[Any, Any], made: Any, names: tuple[str, ...]) -> None:
    host, panel = opened_panel
    show_predicted(host, panel, made(make_surface(names)))
    for curve in range(len(names) + 1):
        panel.ui.curveComboBox.setCurrentIndex(curve)
        host.let_qt_work()
        for pane in panel.widget.panel.choice._plots:
            assert pane._view.faults(*LEAST) == []


def test_the_metrics_chart_can_be_read(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    bridge = importlib.import_module("HyperPredictRegLib.slicerbridge.outcome_nodes")
    nodes = bridge.add_outcome(slicer.mrmlScene, outcome())
    pane = panel.widget.panel.result._trace
    for trace in (nodes.registration_trace, nodes.alignment_trace):
        # As in a scene that was saved before legends were left out.
        trace.chart.SetLegendVisibility(True)
        pane.show(trace.chart)
        host.let_qt_work()
        assert len(pane._view.surface()) == 2
        assert pane._view.faults(*LEAST) == []
    pane.show(None)


def test_the_legend_below_shows_the_marks_in_the_colors_that_they_have(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    show_predicted(host, panel)
    nodes = panel.widget.panel.choice._nodes
    drawn = SimpleNamespace(**{
        word: series.GetColor() for series in nodes.series for word in ("suggested", "fixed", "yours")
        if series.GetName().startswith(word)
    })
    told = re.findall(r"color:#([0-9a-f]{6})'>(.)<", panel.ui.legendLabel.text)
    assert [sign for _, sign in told] == ["\u25c6", "\u25a0", "\u2503"]
    assert "suggested λ" in panel.ui.legendLabel.text
    for (code, _), color in zip(told, (drawn.suggested, drawn.fixed, drawn.yours), strict=True):
        assert [n / 255 for n in bytes.fromhex(code)] == pytest.approx(color, abs=0.003)


def test_the_legend_names_no_mark_that_is_not_drawn(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    show_predicted(host, panel, make_unreliable(make_surface(NAMES)))
    drawn = [curve.name for curve in panel.widget.panel.choice._plots[0]._view.surface()]
    assert drawn and not [name for name in drawn if "suggested" in name]
    assert re.findall(r">(.)<", panel.ui.legendLabel.text) == ["\u25a0", "\u2503"]
    assert "suggested" not in panel.ui.legendLabel.text
