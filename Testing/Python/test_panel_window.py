"""The panel in Slicer's window: its shape when modules are switched and texts are long, what it says and moves while away."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import pytest
from HyperPredictRegLib.results.job import Criterion

slicer: Any = pytest.importorskip("slicer", reason="slicer-core is not installed (pip install '.[slicer]')")
pytest.importorskip("PySide6.QtWidgets", reason="PySide6 cannot be loaded (make test sees to it)", exc_type=ImportError)

from panel_samples import NAMES, add_pair, add_segmentation, choose_pair, finish, register_at, show_predicted  # noqa: E402 - needs slicer
from PySide6 import QtCore, QtGui, QtWidgets  # noqa: E402
from PySide6.QtCore import Qt  # noqa: E402
from reporting_samples import make_prediction, make_surface  # noqa: E402
from slicerbridge_samples import outcome  # noqa: E402

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
    show_predicted(host, panel)
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
    show_predicted(host, panel)
    monkeypatch.setattr(arranging, "leave_module_panel", lambda widget: None)
    panel.leave()
    panel.enter()
    unfold(panel)
    assert panel.frame.height < needed_height(panel) - 100


def test_leaving_where_no_module_panel_is_around_moves_nothing(opened_panel: tuple[Any, Any]) -> None:
    from HyperPredictRegLib.panel.arranging import leave_module_panel

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


# Long texts


def widths(panel: Any) -> tuple[int, int]:
    """Return how wide (pixels) the panel must be by itself, and how wide Slicer's module panel makes it."""
    panel.dock.settle()
    return panel.frame.minimumSizeHint().width(), panel.dock.preferred_width()


def test_the_width_of_the_panel_does_not_follow_any_text(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    before = widths(panel)
    assert max(before) <= 380
    show_predicted(host, panel)
    assert widths(panel) == before
    unfold(panel)
    assert widths(panel) == before
    long = "A_name_without_any_space_" * 8, "many words " * 100
    for label in panel.frame.findChildren(QtWidgets.QLabel):
        if label.wordWrap:
            for text in long:
                label.setVisible(True)
                label.setText(text)
                assert widths(panel) == before, label.objectName
    for combo in panel.frame.findChildren(QtWidgets.QComboBox):
        combo.blockSignals(True)
        combo.addItem(long[0])
        combo.setCurrentIndex(combo.count - 1)
        assert widths(panel) == before, combo.parentWidget().objectName
    for table in panel.frame.findChildren(QtWidgets.QTableWidget):
        table.setRowCount(1)
        table.setVisible(True)
        table.blockSignals(True)
        table.setItem(0, 0, QtWidgets.QTableWidgetItem(long[0]))
        assert widths(panel) == before, table.objectName
    panel.ui.itemsList.addItem(long[0])
    panel.ui.logTextEdit.appendPlainText(long[0])
    assert widths(panel) == before


def test_long_names_of_nodes_and_structures_do_not_widen_the_panel(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    before = widths(panel)
    names = tuple(f"{name} " * 20 + "_of_a_person" * 10 for name in NAMES)
    surface = make_surface(names)
    show_predicted(host, panel, make_prediction(surface, Criterion()))
    fixed = panel.ui.fixedSelector.currentNode()
    fixed.SetName("Volume_" * 30)
    unfold(panel)
    assert panel.ui.structuresTable.rowCount == 3
    table = panel.ui.structuresTable
    assert widths(panel) == before
    # What is cut is told under the mouse, and leaves room for the other columns.
    assert [table.item(row, 0).toolTip() for row in range(3)] == list(names)
    assert sum(table.columnWidth(column) for column in range(3)) <= table.viewport().width
    assert min(table.columnWidth(column) for column in (1, 2)) >= 40
    panel.ui.fixedMaskSelector.setCurrentNode(add_segmentation("Mask_" * 40, fixed, {"Segment_" * 30: (20.0, 999.0)}))
    host.let_qt_work()
    assert widths(panel) == before


def test_every_choice_can_be_read_in_the_narrowest_panel(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    show_predicted(host, panel)
    unfold(panel)
    panel.dock.fit(panel.dock.preferred_width())
    boxes = [one for one in vars(panel.ui).values() if type(one) in (QtWidgets.QComboBox, QtWidgets.QCheckBox) and one.visible]
    assert len(boxes) >= 14
    control, field = QtWidgets.QStyle.ComplexControl.CC_ComboBox, QtWidgets.QStyle.SubControl.SC_ComboBoxEditField
    for box in boxes:
        if isinstance(box, QtWidgets.QCheckBox):
            assert box.width >= box.sizeHint().width(), box.objectName
            continue
        option = QtWidgets.QStyleOptionComboBox()
        box.initStyleOption(option)
        room = box.style().subControlRect(control, option, field, box).width()
        needed = {box.itemText(row): box.fontMetrics().horizontalAdvance(box.itemText(row)) for row in range(box.count)}
        assert max(needed.values()) <= room, (box.objectName, room, needed)


def test_no_row_of_a_result_is_cut_at_any_width(opened_panel: tuple[Any, Any]) -> None:
    import HyperPredictRegLib.panel.arranging as arranging

    host, panel = opened_panel
    texts = ["It used all the iterations it was allowed and might have improved further with more of them."]
    tables = {panel.ui.stagesTable: ["deformable", "3", "10", *texts], panel.ui.measuresTable: ["left cerebral white matter"] * 5}
    # Filled while it is hidden, as when a registration ends: the columns have not their own widths yet.
    panel.ui.resultCollapsibleButton.setCollapsed(True)
    for table, row in tables.items():
        stretched = 0 if len(row) == 5 else 3
        arranging.fill_table(table, [str(n) for n in range(len(row))], [row] * 2, stretched, 230)
    panel.ui.resultCollapsibleButton.setCollapsed(False)
    for width in (600, panel.dock.preferred_width(), 460):
        panel.dock.fit(width)
        host.let_qt_work()
        for table in tables:
            heights = [(table.rowHeight(n), table.sizeHintForRow(n)) for n in range(2)]
            assert all(now == needed for now, needed in heights), (width, table.objectName, heights)
    heights = [table.height for table in tables]
    assert heights == [min(230, 2 * table.rowHeight(0) + 48) for table in tables]


def test_a_folded_section_is_as_low_at_first_as_ever_after(opened_panel: tuple[Any, Any]) -> None:
    # A section that is folded remembers how high it was when it was: the .ui file has to say that height first.
    _host, panel = opened_panel
    folded = [one for name, one in vars(panel.ui).items() if name.endswith("CollapsibleButton") and one.collapsed]
    assert len(folded) >= 9
    before = {one: one.maximumHeight for one in folded}
    for one in folded:
        one.setCollapsed(False)
        one.setCollapsed(True)
    assert {one.objectName: one.maximumHeight for one in folded} == {one.objectName: before[one] for one in folded}


# What is said first, and what on demand


def test_the_reliability_is_one_line_and_its_reasons_are_a_key_away(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    prediction = show_predicted(host, panel)
    ui = panel.ui
    assert ui.reliabilityLabel.text.count("<br>") == 1
    assert ui.whyCollapsibleButton.visible and ui.whyCollapsibleButton.collapsed and not ui.reasonsLabel.visible
    assert prediction.choice.sentence.split("(")[0] in ui.reasonsLabel.text
    # The keyboard reaches them.
    assert ui.whyCollapsibleButton.focusPolicy & Qt.FocusPolicy.TabFocus
    for kind in (QtCore.QEvent.Type.KeyPress, QtCore.QEvent.Type.KeyRelease):
        key = QtGui.QKeyEvent(kind, Qt.Key.Key_Space, Qt.KeyboardModifier.NoModifier, " ")
        QtWidgets.QApplication.sendEvent(ui.whyCollapsibleButton, key)
    host.let_qt_work()
    assert ui.reasonsLabel.visible
    ui.movingSelector.setCurrentNode(add_pair()[1])
    host.let_qt_work()
    assert ui.reliabilityLabel.text == "The last prediction was for other volumes." and not ui.whyCollapsibleButton.visible


# Another set of parameters, another scene


def test_what_was_said_of_a_run_goes_with_its_set_and_its_scene(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    ui, runner = panel.ui, panel.widget.panel.runner
    assert ui.parameterSetSelector.entries() == [
        "Rename current parameter set",
        "Create new parameter set",
        "Create new parameter set as...",
        "Delete current parameter set",
    ]
    first = ui.parameterSetSelector.currentNode()
    second = ui.parameterSetSelector.addNode()
    for message in ("Cancelled. The scene is as it was before.", "Done after 42 s."):
        runner.say(message)
        ui.appliedLabel.setText("Transformed: something.")
        panel.leave()
        panel.enter()
        assert ui.stageLabel.text == message
        ui.parameterSetSelector.setCurrentNode(first if ui.parameterSetSelector.currentNode() is second else second)
        host.let_qt_work()
        assert (ui.stageLabel.text, ui.appliedLabel.text) == ("", "")
        runner.say(message)
        host.clear_scene()
        assert ui.stageLabel.text == ""
        first, second = ui.parameterSetSelector.currentNode(), ui.parameterSetSelector.addNode()
    choose_pair(host, panel)
    host.click(ui.registerButton)
    host.clear_scene()
    assert ui.stageLabel.text == "" and not ui.progressBar.visible


def test_work_that_runs_is_shown_with_any_set_and_says_whose_it_was(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    ui = panel.ui
    choose_pair(host, panel)
    first = ui.parameterSetSelector.currentNode()
    first.SetName("Mine")
    register_at(host, panel)
    second = ui.parameterSetSelector.addNode()
    ui.parameterSetSelector.setCurrentNode(second)
    host.let_qt_work()
    assert ui.progressBar.visible and ui.stageLabel.text and ui.registerButton.text == "&Cancel"
    finish(host, panel)
    assert ui.stageLabel.text == 'Done, for the parameter set "Mine".'
    assert ui.verdictLabel.text == "Nothing has been registered yet."
    ui.parameterSetSelector.setCurrentNode(first)
    host.let_qt_work()
    assert ui.stageLabel.text == "" and "Limit kept." in ui.verdictLabel.text
    # A flicker ends with the result that it shows.
    timer = panel.widget.panel.result._views._timer
    ui.viewComboBox.setCurrentIndex(3)
    assert timer.active
    ui.parameterSetSelector.setCurrentNode(second)
    host.let_qt_work()
    assert not timer.active and ui.viewComboBox.currentIndex == 0


def test_the_grid_goes_with_the_result_that_it_is_of(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    ui = panel.ui
    bridge = importlib.import_module("HyperPredictRegLib.slicerbridge.outcome_nodes")
    ui.resultCollapsibleButton.setCollapsed(False)
    first = ui.parameterSetSelector.currentNode()
    nodes = bridge.add_outcome(slicer.mrmlScene, outcome())
    panel.widget._parameterNode.result = nodes.report
    host.let_qt_work()
    host.click(ui.gridCheckBox)
    drawn = [node for node in slicer.util.getNodesByClass("vtkMRMLTransformDisplayNode") if node.GetVisibility2D()]
    assert len(drawn) == 1
    ui.parameterSetSelector.setCurrentNode(ui.parameterSetSelector.addNode())
    host.let_qt_work()
    assert not ui.gridCheckBox.checked and not drawn[0].GetVisibility2D()
    ui.parameterSetSelector.setCurrentNode(first)
    host.let_qt_work()
    host.click(ui.gridCheckBox)
    assert drawn[0].GetVisibility2D()
    host.clear_scene()
    assert not ui.gridCheckBox.checked


# Flicker


def test_the_flicker_rests_while_the_user_is_elsewhere(opened_panel: tuple[Any, Any]) -> None:
    host, panel = opened_panel
    fixed, moving = choose_pair(host, panel)
    result = panel.widget.panel.result
    views = result._views
    # In place of a registration: its volumes.
    result.nodes = SimpleNamespace(fixed=fixed, moving=moving, warped=moving, jacobian=fixed, folded_voxels=None, all=list)
    slices = list(slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"))
    assert len(slices) == 3
    for node, opacity in zip(slices, (0.3, 0.7, 0.5), strict=True):
        node.SetForegroundOpacity(opacity)

    def opacities() -> list[float]:
        return [node.GetForegroundOpacity() for node in slices]

    panel.ui.viewComboBox.setCurrentIndex(3)
    for _ in range(2):
        before = opacities()
        assert set(before) <= {0.0, 1.0}
        host.wait_until(lambda before=before: opacities() != before)
        panel.leave()
        assert opacities() == [0.3, 0.7, 0.5] and not views._timer.active
        panel.enter()
        assert views._timer.active
    # What the user sets elsewhere counts from then on; what another module shows is not flickered.
    panel.leave()
    slices[0].SetForegroundOpacity(0.9)
    panel.enter()
    panel.leave()
    assert opacities() == [0.9, 0.7, 0.5]
    for node in slices:
        node.SetForegroundVolumeID(None)
    panel.enter()
    assert not views._timer.active and opacities() == [0.9, 0.7, 0.5]
    panel.ui.viewComboBox.setCurrentIndex(0)
    panel.leave()
    panel.enter()
    assert not views._timer.active


def test_long_words_go_on_in_the_next_line(opened_panel: tuple[Any, Any]) -> None:
    from HyperPredictRegLib.panel.arranging import breakable

    _host, panel = opened_panel
    name = "sub-01_ses-2024_T1w_defaced_resampled_" * 5
    assert breakable(name).replace("\u200b", "") == name and max(map(len, breakable(name).split("\u200b"))) == 30
    for short in ("Transformed: Egg in Ball space.", "<span style='color:#d03b3b'>\u25cf</span> &lt;b&gt;"):
        assert breakable(short) == short
    label = panel.ui.hintLabel
    label.setVisible(True)
    heights = []
    for text in (name, breakable(name)):
        label.setText(text)
        panel.dock.settle()
        heights.append(label.height)
    assert heights[1] >= 3 * heights[0]
