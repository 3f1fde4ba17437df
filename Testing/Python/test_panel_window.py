"""The panel in Slicer's window: its shape when modules are switched and texts are long, what it says and moves while away."""

from __future__ import annotations

from typing import Any

import pytest

slicer: Any = pytest.importorskip("slicer", reason="slicer-core is not installed (pip install '.[slicer]')")
pytest.importorskip("PySide6.QtWidgets", reason="PySide6 cannot be loaded (make test sees to it)", exc_type=ImportError)

from panel_samples import foreseen  # noqa: E402 - needs slicer

SECTIONS = ("moreInputs", "criterion", "advanced", "outputs", "log", "result", "apply")


def unfold(panel: Any) -> None:
    """Open every section of the panel."""
    for name in SECTIONS:
        getattr(panel.ui, f"{name}CollapsibleButton").setCollapsed(False)
    panel.dock.settle()


def needed_height(panel: Any) -> int:
    """Return the height (pixels) that the panel needs at the width that it has."""
    return int(panel.frame.layout().totalHeightForWidth(panel.frame.width))


# Modules are switched


def test_the_panel_is_not_squeezed_after_another_module_was_open(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    foreseen(host, panel)
    for _ in range(2):
        panel.leave()
        panel.enter()
    unfold(panel)
    assert panel.frame.height == needed_height(panel) > 1000
    panel.ui.hintLabel.setVisible(True)
    panel.ui.hintLabel.setText("A hint of many words. " * 30)
    panel.dock.settle()
    assert panel.frame.height == needed_height(panel)
    table = panel.ui.structuresTable
    assert table.height >= 110 and table.viewport().height >= 2 * table.rowHeight(0)


def test_the_stand_in_squeezes_as_slicer_does(opened_panel: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import HyperPredictRegLib.panel.arranging as arranging

    host, panel = opened_panel
    foreseen(host, panel)
    monkeypatch.setattr(arranging, "leave_module_panel", lambda widget: None)
    panel.leave()
    panel.enter()
    unfold(panel)
    assert panel.frame.height < needed_height(panel) - 100


def test_leaving_where_no_module_panel_is_around_moves_nothing(opened_panel: tuple[Any, Any]) -> None:
    from HyperPredictRegLib.panel.arranging import leave_module_panel
    from PySide6 import QtWidgets

    _host, panel = opened_panel
    around = QtWidgets.QWidget()
    alone, inside = QtWidgets.QWidget(), QtWidgets.QWidget()
    QtWidgets.QVBoxLayout(around).addWidget(inside)
    for widget in (alone, inside):
        leave_module_panel(widget)
    assert around.layout().indexOf(inside) == 0 and around.layout().count() == 1
    # Inside the module panel, but not in its layout.
    panel.leave()
    leave_module_panel(panel.frame)
    panel.enter()
    assert panel.dock.current() is panel.frame
