"""The stand-in's widgets answer as Slicer's do: node selectors, plots, collapsible sections."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("slicer")
pytest.importorskip("PySide6.QtWidgets", exc_type=ImportError)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import slicer
import slicerhost
from slicerhost import Host, HostError
from slicerhost_samples import ui_file, write_module


@pytest.fixture
def host() -> Iterator[Host]:
    with slicerhost.watched() as running:
        yield running


def add(kind: str, name: str, **attributes: str) -> Any:
    node = slicer.mrmlScene.CreateNodeByClass(kind)
    node.UnRegister(None)
    node.SetName(name)
    for key, value in attributes.items():
        node.SetAttribute(key, value)
    return slicer.mrmlScene.AddNode(node)


def selector(*kinds: str, **properties: bool) -> Any:
    combo = slicer.qMRMLNodeComboBox()
    combo.nodeTypes = list(kinds)
    for name, value in {"addEnabled": False, "removeEnabled": False, **properties}.items():
        setattr(combo, name, value)
    return combo


def listed(combo: Any) -> list[str]:
    return [combo.nodeFromIndex(index).GetName() for index in range(combo.nodeCount())]


# Node selectors


def test_selector_lists_label_maps_among_scalar_volumes_unless_told_not_to(host: Host) -> None:
    add("vtkMRMLScalarVolumeNode", "image")
    add("vtkMRMLLabelMapVolumeNode", "labels")
    hidden = add("vtkMRMLScalarVolumeNode", "hidden")
    hidden.SetHideFromEditors(True)
    every, exact, but = (selector("vtkMRMLScalarVolumeNode") for _ in range(3))
    exact.showChildNodeTypes = False
    but.hideChildNodeTypes = ["vtkMRMLLabelMapVolumeNode"]
    for combo in (every, exact, but):
        assert not combo.enabled
        combo.setMRMLScene(slicer.mrmlScene)
        assert combo.enabled
    assert (listed(every), listed(exact), listed(but)) == (["image", "labels"], ["image"], ["image"])
    every.showHidden = True
    assert listed(every) == ["image", "labels", "hidden"]


def test_selector_lists_by_attribute_and_gives_it_to_new_nodes(host: Host) -> None:
    add("vtkMRMLTextNode", "plain")
    mine = add("vtkMRMLTextNode", "mine", Role="report")
    combo = selector("vtkMRMLTextNode", noneEnabled=True)
    combo.addAttribute("vtkMRMLTextNode", "Role", "report")
    combo.baseName = "Report"
    combo.setMRMLScene(slicer.mrmlScene)
    assert listed(combo) == ["mine"]
    made: list[Any] = []
    combo.connect("nodeAddedByUser(vtkMRMLNode*)", made.append)
    node = combo.addNode()
    assert (made, node.GetName(), node.GetAttribute("Role")) == ([node], "Report", "report")
    assert combo.currentNode() is node
    assert combo.addNode().GetName() == "Report_1"
    assert mine.GetName() in listed(combo)


def test_selector_without_none_selects_the_first_and_one_with_none_does_not(host: Host) -> None:
    first = add("vtkMRMLScalarVolumeNode", "first")
    add("vtkMRMLScalarVolumeNode", "second")
    without, with_none = selector("vtkMRMLScalarVolumeNode"), selector("vtkMRMLScalarVolumeNode", noneEnabled=True)
    for combo in (without, with_none):
        combo.setMRMLScene(slicer.mrmlScene)
    assert without.currentNode() is first
    assert (with_none.currentNode(), with_none.currentNodeID) == (None, "")
    without.setCurrentNode(None)
    add("vtkMRMLScalarVolumeNode", "third")
    assert without.currentNode() is None


@pytest.mark.parametrize(("properties", "selected"), [({}, True), ({"noneEnabled": True}, False), ({"addEnabled": True}, False)])
def test_first_node_of_an_empty_scene_is_selected_only_if_the_list_was_empty(
    host: Host, properties: dict[str, bool], selected: bool
) -> None:
    combo = selector("vtkMRMLScalarVolumeNode", **properties)
    combo.setMRMLScene(slicer.mrmlScene)
    add("vtkMRMLScalarVolumeNode", "new")
    assert (combo.currentNode() is not None) is selected


def test_selector_follows_removal_renaming_and_closing(host: Host) -> None:
    nodes = [add("vtkMRMLScalarVolumeNode", name) for name in "abc"]
    combo = selector("vtkMRMLScalarVolumeNode", noneEnabled=True)
    combo.setMRMLScene(slicer.mrmlScene)
    told: list[tuple[str, bool, str]] = []
    last: list[Any] = []
    combo.connect("currentNodeChanged(vtkMRMLNode*)", last.append)
    combo.connect("currentNodeIDChanged(QString)", lambda name: told.append((name, last[-1] is not None, name)))
    valid: list[bool] = []
    combo.connect("currentNodeChanged(bool)", valid.append)
    combo.setCurrentNode(nodes[1])
    combo.setCurrentNode(nodes[1])
    assert len(last) == 1
    slicer.mrmlScene.RemoveNode(nodes[1])
    assert combo.currentNode() is nodes[2]
    nodes[2].SetName("renamed")
    assert listed(combo) == ["a", "renamed"]
    slicer.mrmlScene.Clear(0)
    assert (combo.currentNode(), combo.nodeCount()) == (None, 0)
    assert valid == [True, True, True, False]
    assert told[-1] == ("", False, "")


def test_selector_without_types_refuses_a_base_name(host: Host) -> None:
    combo = slicer.qMRMLNodeComboBox()
    with pytest.raises(HostError, match="before its nodeTypes"):
        combo.baseName = "Report"
    with pytest.raises(TypeError, match="list of class names"):
        combo.nodeTypes = "vtkMRMLTextNode"


# Plots


def add_chart(log: bool = False) -> tuple[Any, Any, Any]:
    table = add("vtkMRMLTableNode", "Table")
    slicer.util.updateTableFromArray(table, [np.array([0.1, 1.0, 10.0]), np.array([1.0, 3.0, 2.0])], ["x", "y"])
    series = add("vtkMRMLPlotSeriesNode", "Dice")
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName("x")
    series.SetYColumnName("y")
    series.SetPlotType(series.PlotTypeScatter)
    series.SetColor(0.0, 0.0, 1.0)
    series.SetLineWidth(4)
    chart = add("vtkMRMLPlotChartNode", "Chart")
    chart.AddAndObservePlotSeriesNodeID(series.GetID())
    chart.SetXAxisLogScale(log)
    return chart, series, table


def view_of(chart: Any) -> Any:
    view = slicer.qMRMLPlotView()
    view.setMRMLScene(slicer.mrmlScene)
    node = add("vtkMRMLPlotViewNode", "View")
    node.SetPlotChartNodeID(chart.GetID())
    view.setMRMLPlotViewNode(node)
    return view


def blue_pixels(view: Any) -> np.ndarray:
    view.surface()
    view.resize(300, 240)
    image = view.grab().toImage().convertToFormat(view.grab().toImage().Format.Format_RGB888)
    pixels = (
        np.asarray(image.constBits())
        .reshape(image.height(), -1)[:, : 3 * image.width()]
        .reshape(image.height(), -1, 3)
        .astype(int)
    )
    return (pixels[..., 2] > 200) & (pixels[..., :2] < 60).all(axis=-1)


def test_plot_shows_the_nodes_and_follows_them(host: Host) -> None:
    chart, series, table = add_chart(log=True)
    view = view_of(chart)
    curve = view.surface()[0]
    assert (curve.name, curve.x.tolist(), curve.y.tolist()) == ("Dice", [0.1, 1.0, 10.0], [1.0, 3.0, 2.0])
    before = blue_pixels(view)
    assert before.sum() > 200
    slicer.util.arrayFromTableColumn(table, "y")[2] = 5.0
    slicer.util.arrayFromTableColumnModified(table, "y")
    table.Modified()
    host.let_qt_work()
    assert view.surface()[0].y[2] == 5.0
    assert (blue_pixels(view) != before).any()
    series.SetColor(1.0, 0.0, 0.0)
    host.let_qt_work()
    assert blue_pixels(view).sum() == 0


def test_logarithmic_axis_moves_the_points(host: Host) -> None:
    chart, _, _ = add_chart(log=False)
    view = view_of(chart)

    def place_of_peak() -> float:
        """Return how far along the curve its peak is drawn: the peak is at 1, from 0.1 to 10."""
        pixels = blue_pixels(view)
        columns = np.flatnonzero(pixels.any(axis=0))
        peak = np.flatnonzero(pixels[np.flatnonzero(pixels.any(axis=1))[0]]).mean()
        return float((peak - columns[0]) / (columns[-1] - columns[0]))

    assert place_of_peak() == pytest.approx(1 / 11, abs=0.03)
    chart.SetXAxisLogScale(True)
    host.let_qt_work()
    assert place_of_peak() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        ("series.SetYColumnName('z')", "no column 'z'"),
        ("series.SetXColumnName('')", "no column ''"),
        ('series.SetAndObserveTableNodeID("")', "has no table"),
        ("slicer.mrmlScene.RemoveNode(table)", "has no table"),
        ("chart.RemoveAllPlotSeriesNodeIDs()", "has no series"),
        ("table.GetTable().GetColumn(0).FillComponent(0, -1.0); chart.SetXAxisLogScale(True)", "no value above zero"),
    ],
)
def test_plot_that_slicer_would_leave_empty_is_an_error(host: Host, spoil: str, match: str) -> None:
    chart, series, table = add_chart()
    view = view_of(chart)
    view.surface()
    exec(spoil, {"chart": chart, "series": series, "table": table, "slicer": slicer})
    with pytest.raises(HostError, match=match):
        host.let_qt_work()
    view.setMRMLScene(None)
    host.complaints()


def test_plot_tells_what_slicer_would_cover_or_cut(host: Host) -> None:
    chart, series, _ = add_chart(log=True)
    view = view_of(chart)
    chart.SetTitle("Dice")
    chart.SetLegendVisibility(False)
    assert view.faults(300, 190) == []
    # VTK draws a legend into the upper right corner, where this curve ends.
    chart.SetLegendVisibility(True)
    series.SetName("a name that is long enough to reach the peak")
    assert view.faults(300, 190) == [f"the legend covers the curve '{series.GetName()}'"]
    chart.SetLegendVisibility(False)
    chart.SetAxisTitleFontSize(14)
    for setter in (chart.SetYAxisTitle, chart.SetXAxisTitle, chart.SetTitle):
        setter("folded, % of the foreground and of the grid that it lies in")
        (fault,) = view.faults(300, 190)
        assert "is cut" in fault
        assert view.faults(900, 900) == []
        setter("folded, %")
    assert view.faults(300, 190) == []


def test_plot_without_a_chart_is_empty_and_no_error(host: Host) -> None:
    view = slicer.qMRMLPlotView()
    assert view.surface() == []
    assert blue_pixels(view).sum() == 0


def test_fit_to_content_sets_fixed_ranges_only(host: Host) -> None:
    chart, _, _ = add_chart()
    chart.SetYAxisRangeAuto(False)
    chart.SetYAxisRange(0.0, 100.0)
    view = view_of(chart)
    view.surface()
    view.fitToContent()
    assert chart.GetYAxisRange() == (1.0, 3.0)


# Sections and buttons


def test_collapsed_section_hides_its_contents_and_nobody_can_click_them(host: Host, tmp_path: Path) -> None:
    text = ui_file(
        '<widget class="ctkCollapsibleButton" name="section"><property name="collapsed"><bool>true</bool></property>'
        '<layout class="QVBoxLayout" name="sectionLayout"><item><widget class="QPushButton" name="inner"/></item>'
        '<item><widget class="QLabel" name="own"><property name="visible"><bool>false</bool></property></widget></item>'
        "</layout></widget>"
    )
    ui = host.open_module(write_module(tmp_path, text)).ui
    assert (ui.section.collapsed, ui.section.checked, ui.inner.visible) == (True, False, False)
    low = ui.section.sizeHint().height()
    with pytest.raises(HostError, match="hidden or grey"):
        host.click(ui.inner)
    told: list[bool] = []
    ui.section.connect("contentsCollapsed(bool)", told.append)
    ui.section.collapsed = False
    assert (ui.inner.visible, ui.own.visible, told) == (True, False, [False])
    assert ui.section.sizeHint().height() > low + 10
    host.click(ui.inner)
    ui.section.collapsed = True
    ui.inner.visible = False
    ui.own.visible = True
    assert (ui.inner.visible, ui.own.visible) == (False, False)
    ui.section.collapsed = False
    assert (ui.inner.visible, ui.own.visible) == (False, True)
    ui.inner.visible = True
    ui.inner.enabled = False
    with pytest.raises(HostError, match="hidden or grey"):
        host.click(ui.inner)
