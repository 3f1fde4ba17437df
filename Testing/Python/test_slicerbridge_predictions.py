"""A prediction in the scene: charts that show the curves, a mark that follows the user's setting, and words for one setting."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

vtk = pytest.importorskip("vtk", reason="needs slicer-core or Slicer")
slicer = pytest.importorskip("slicer", reason="needs slicer-core or Slicer")

from HyperPredictRegLib.core.errors import InputError  # noqa: E402
from HyperPredictRegLib.core.search_space import Parameter, SearchSpace  # noqa: E402
from HyperPredictRegLib.results.job import Criterion  # noqa: E402
from HyperPredictRegLib.results.prediction import Band, PredictionSurface  # noqa: E402
from HyperPredictRegLib.selection import interpolated  # noqa: E402
from HyperPredictRegLib.slicerbridge import predictions  # noqa: E402
from HyperPredictRegLib.slicerbridge.predictions import (  # noqa: E402
    PredictionNodes,
    add_prediction,
    mark_color,
    mark_weight,
    prediction_nodes_of,
    read_out,
    read_prediction_node,
    show_structure,
    update_prediction,
)
from HyperPredictRegLib.slicerbridge.scene import open_scene, save_scene  # noqa: E402
from HyperPredictRegLib.slicerbridge.tables import add_trace  # noqa: E402
from reporting_samples import make_prediction, make_surface, make_unreliable  # noqa: E402
from slicerbridge_samples import outcome  # noqa: E402


def text_width(text: str, size: int) -> int:
    """Return how many pixels wide Slicer draws a text in a chart."""
    look = vtk.vtkTextProperty()
    look.SetFontFamilyToArial()
    look.SetFontSize(size)
    grid = [0, 0, 0, 0]
    vtk.vtkTextRenderer.GetInstance().GetBoundingBox(look, text, grid, 72)
    return grid[1] - grid[0]


def points(chart: Any, begins: str) -> np.ndarray:
    """Return what a chart draws for the series whose name begins so, shape (rows, 2)."""
    for n in range(chart.GetNumberOfPlotSeriesNodes()):
        series = chart.GetNthPlotSeriesNode(n)
        if series.GetName().startswith(begins):
            table = series.GetTableNode().GetTable()
            columns = [table.GetColumnByName(name) for name in (series.GetXColumnName(), series.GetYColumnName())]
            return np.array([[column.GetValue(row) for column in columns] for row in range(table.GetNumberOfRows())])
    raise AssertionError(f"no series '{begins}' in {legend(chart)}")


def legend(chart: Any) -> list[str]:
    return [chart.GetNthPlotSeriesNode(n).GetName() for n in range(chart.GetNumberOfPlotSeriesNodes())]


def count(scene: Any) -> int:
    return int(scene.GetNumberOfNodes())


def test_charts_draw_the_curves_and_their_bands(scene) -> None:
    prediction = make_prediction()
    surface, nodes = prediction.surface, add_prediction(scene, prediction)
    n = len(surface.values)
    for chart, band in ((nodes.dice_chart, surface.mean_dice), (nodes.folding_chart, surface.folding_foreground)):
        line, edges = points(chart, "best guess"), points(chart, "90 % band")
        assert np.array_equal(line[:n], np.column_stack([surface.values[:, 0], band.value]))
        assert (line[n:] == line[n - 1]).all()
        assert np.array_equal(edges[:n, 1], band.lower) and np.array_equal(edges[n:, 1], band.upper[::-1])
        assert np.array_equal(edges[n:, 0], surface.values[::-1, 0])
        assert chart.GetXAxisLogScale() and not chart.GetEnablePointMoveAlongY()


def test_marks_lie_on_the_curves_and_differ_in_shape(scene) -> None:
    prediction = make_prediction()
    nodes = add_prediction(scene, prediction)
    for begins, values in (("suggested", prediction.choice.setting), ("fixed", prediction.choice.fixed)):
        at = values["regularization_weight"]
        here = interpolated(prediction.surface, np.array([at]))
        assert points(nodes.dice_chart, begins)[0] == pytest.approx([at, float(here.mean_dice.value[0])], rel=1e-9)
        assert points(nodes.folding_chart, begins)[0] == pytest.approx([at, float(here.folding_foreground.value[0])], rel=1e-9)
    drawn = [nodes.dice_chart.GetNthPlotSeriesNode(n) for n in range(nodes.dice_chart.GetNumberOfPlotSeriesNodes())]
    assert len({(s.GetLineStyle(), s.GetMarkerStyle()) for s in drawn}) == len(drawn)
    assert len({s.GetColor() for s in drawn}) == len(drawn) - 1  # the band has the color of its curve


def test_the_limit_is_a_level_line_in_percent(scene) -> None:
    nodes = add_prediction(scene, make_prediction())
    line = points(nodes.folding_chart, "limit 0.5 %")
    assert (line[:, 1] == 0.5).all() and line[0, 0] < line[1, 0]
    low, high = nodes.folding_chart.GetYAxisRange()
    # At the smallest λ the band reaches 26 %, on which scale the limit would lie on the axis.
    assert low < 0 and high == pytest.approx(2.0)
    criterion = Criterion(folding_limit=None)
    nodes = add_prediction(scene, make_prediction(criterion=criterion))
    assert not any("limit" in name for name in legend(nodes.folding_chart))


def test_the_users_mark_moves_in_both_charts(scene) -> None:
    prediction = make_prediction()
    surface, nodes = prediction.surface, add_prediction(scene, prediction)
    changed: list[str] = []
    for chart in (nodes.dice_chart, nodes.folding_chart):
        chart.AddObserver("ModifiedEvent", lambda caller, _: changed.append(caller.GetName()))
    mark_weight(nodes, {"regularization_weight": 1.23}, prediction)
    # Plot views redraw at this event: each of them once for each move of a slider.
    assert changed == [nodes.dice_chart.GetName(), nodes.folding_chart.GetName()]
    here = interpolated(surface, np.array([1.23]))
    for chart, band in ((nodes.dice_chart, here.mean_dice), (nodes.folding_chart, here.folding_foreground)):
        mark = points(chart, "yours: lambda = 1.23")
        assert (mark[:, 0] == 1.23).all()
        assert mark[1, 1] == pytest.approx(float(band.value[0]), rel=1e-9)
        assert (mark[0, 1], mark[2, 1]) == pytest.approx(chart.GetYAxisRange())
    mark_weight(nodes, {"regularization_weight": 99.0}, prediction)
    assert (points(nodes.dice_chart, "yours: lambda = 99, not predicted")[:, 0] == surface.values[-1, 0]).all()


def test_one_structure_can_be_shown_instead_of_the_mean(scene) -> None:
    prediction = make_prediction()
    surface = prediction.surface
    nodes = add_prediction(scene, prediction, structure=surface.structures[1])
    n = len(surface.values)
    assert np.array_equal(points(nodes.dice_chart, "best guess")[:n, 1], surface.dice.value[1])
    assert surface.structures[1] in nodes.dice_chart.GetTitle()
    show_structure(nodes, prediction, surface.labels[2], {"regularization_weight": 1.1})
    assert np.array_equal(points(nodes.dice_chart, "best guess")[:n, 1], surface.dice.value[2])
    assert (points(nodes.dice_chart, "yours: lambda = 1.1")[:, 0] == 1.1).all()
    here = interpolated(surface, np.array([1.3])).dice.value[2, 0]
    mark_weight(nodes, {"regularization_weight": 1.3}, prediction, surface.labels[2])
    assert points(nodes.dice_chart, "yours")[1, 1] == pytest.approx(here, rel=1e-9)
    show_structure(nodes, prediction, None)
    assert np.array_equal(points(nodes.dice_chart, "best guess")[:n, 1], surface.mean_dice.value)
    with pytest.raises(InputError, match="structure 'Spleen'"):
        show_structure(nodes, prediction, "Spleen")


def test_the_table_holds_every_number_once(scene) -> None:
    surface = make_surface()
    surface = replace(surface, structures=(surface.structures[0],) * len(surface.structures))
    table = add_prediction(scene, make_prediction(surface)).table.GetTable()
    assert table.GetNumberOfRows() == len(surface.values)
    assert table.GetNumberOfColumns() == 1 + 3 * (3 + len(surface.structures))
    names = [table.GetColumnName(n) for n in range(table.GetNumberOfColumns())]
    assert len(set(names)) == len(names)
    last = [table.GetColumn(table.GetNumberOfColumns() - 3).GetValue(row) for row in range(table.GetNumberOfRows())]
    assert np.array_equal(last, surface.dice.value[-1])


def test_a_new_prediction_takes_the_place_of_the_old_one(scene) -> None:
    nodes = add_prediction(scene, make_prediction())
    before = count(scene)
    other = make_prediction(make_surface(points=20), Criterion(folding_limit=2.0, domain="grid"))
    update_prediction(nodes, other)
    assert count(scene) == before
    assert read_prediction_node(nodes.report).choice == other.choice
    assert points(nodes.folding_chart, "limit 2 %").shape[0] == 40
    assert np.array_equal(points(nodes.folding_chart, "best guess")[:20, 1], other.surface.folding_grid.value)
    assert "grid" in nodes.folding_chart.GetTitle()


def test_with_an_unreliable_prediction_nothing_is_suggested_and_the_curves_are_gray(scene) -> None:
    nodes = add_prediction(scene, make_unreliable())
    for chart in (nodes.dice_chart, nodes.folding_chart):
        assert not any("suggested" in name for name in legend(chart))
        value = next(
            chart.GetNthPlotSeriesNode(n) for n in range(chart.GetNumberOfPlotSeriesNodes())
            if chart.GetNthPlotSeriesNode(n).GetName() == "not to be relied on"
        )
        assert len(set(value.GetColor())) == 1
    update_prediction(nodes, make_prediction())
    assert any(name.startswith("suggested: lambda* = ") for name in legend(nodes.dice_chart))
    assert "best guess" in legend(nodes.dice_chart)


@pytest.mark.parametrize("name", ["hippocampus", "Inferior part of the left ventral diencephalon, second reader", "W" * 9999])
def test_titles_are_short_enough_and_no_legend_covers_a_curve(scene, name) -> None:
    """In a view 300 pixels wide and 190 high Slicer cuts a title that does not fit, and draws a legend over what is there."""
    nodes = add_prediction(scene, make_prediction(make_surface((name,))), structure=name)
    trace = add_trace(scene, outcome().report.registration, "Registration metric (Moving to Fixed)")
    stages = (*outcome().report.alignment.stages, *outcome().report.registration)
    long = [replace(level, metric="mean squared intensity difference") for level in stages]
    both = add_trace(scene, long, f"Alignment metric of {name}")
    for chart in (nodes.dice_chart, nodes.folding_chart, trace.chart, both.chart):
        assert not chart.GetLegendVisibility()
        assert text_width(chart.GetYAxisTitle(), chart.GetAxisTitleFontSize()) <= 120
        assert text_width(chart.GetXAxisTitle(), chart.GetAxisTitleFontSize()) <= 240
        assert text_width(chart.GetTitle(), chart.GetTitleFontSize()) <= 240
    assert nodes.dice_chart.GetTitle().startswith(f"Dice of {name[:5]}")
    assert nodes.dice_chart.GetTitle().endswith("..." if len(name) > 20 else name)
    assert nodes.folding_chart.GetTitle() == "Folding of the foreground"
    # The curves of the levels lie side by side.
    assert trace.chart.GetXAxisTitle() == "iteration; left to right: deformable 1 to 2"
    assert both.chart.GetXAxisTitle().startswith("iteration; left to right: affine 1 to 2, defor")
    assert trace.chart.GetTitle() == "Registration metric"
    assert both.chart.GetTitle() == "Mean squared intensity difference"
    assert (trace.chart.GetYAxisTitle(), both.chart.GetYAxisTitle()) == ("mean squares", "metric")


def test_marks_can_be_told_on_paper_and_on_light_and_dark_panels() -> None:
    def luminance(color: tuple[int, ...]) -> float:
        """Relative luminance, W3C WCAG 2.1."""
        linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color]
        return float(np.dot((0.2126, 0.7152, 0.0722), linear))

    for kind in ("chosen", "fixed", "yours"):
        mark = luminance(tuple(bytes.fromhex(mark_color(kind)[1:])))
        for behind in ((255, 253, 246), (239, 239, 239), (53, 53, 53)):
            low, high = sorted((mark, luminance(behind)))
            assert (high + 0.05) / (low + 0.05) > 2.9, (kind, behind)


def test_a_saved_prediction_is_whole_and_its_mark_still_moves(scene, tmp_path) -> None:
    prediction = make_prediction()
    nodes = add_prediction(scene, prediction, structure=prediction.surface.labels[0])
    save_scene(scene, tmp_path / "a.mrb")
    opened = open_scene(tmp_path / "a.mrb")
    report = opened.GetFirstNodeByName(nodes.report.GetName())
    back = read_prediction_node(report)
    assert (back.choice, back.criterion, back.job) == (prediction.choice, prediction.criterion, prediction.job)
    for name in ("values", "structures", "labels"):
        assert np.array_equal(getattr(back.surface, name), getattr(prediction.surface, name))
    assert np.array_equal(back.surface.dice.lower, prediction.surface.dice.lower)
    again = prediction_nodes_of(report)
    assert len(again.series) == len(nodes.series) and again.marks.GetScene() is opened
    mark_weight(again, {"regularization_weight": 1.5}, back, prediction.surface.labels[0])
    here = interpolated(prediction.surface, np.array([1.5])).dice.value[0, 0]
    assert points(again.dice_chart, "yours: lambda = 1.5")[1, 1] == pytest.approx(here, rel=1e-9)


def test_a_prediction_with_parts_gone_is_named(scene) -> None:
    nodes = add_prediction(scene, make_prediction())
    scene.RemoveNode(nodes.marks)
    with pytest.raises(InputError, match=f"'{nodes.report.GetName()}' belongs to no complete prediction"):
        prediction_nodes_of(nodes.report)
    nodes.report.SetText("{}")
    with pytest.raises(InputError, match=f"The text '{nodes.report.GetName()}'"):
        read_prediction_node(nodes.report)


def test_all_lies_in_one_folder_under_the_item_that_was_asked_for(scene) -> None:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    study = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "Study")
    nodes = add_prediction(scene, make_prediction(), parent=study, name="Predicted: Ann to Atlas")
    folder = hierarchy.GetItemChildWithName(study, "Predicted: Ann to Atlas")
    assert {hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) for node in nodes.all()} == {folder}


def test_a_failure_leaves_nothing_behind(scene, monkeypatch) -> None:
    before = count(scene)

    def fail(*arguments: Any) -> None:
        raise OSError("no")

    monkeypatch.setattr(predictions, "mark_run", fail)
    with pytest.raises(OSError):
        add_prediction(scene, make_prediction())
    assert count(scene) == before


def with_parameters(*parameters: Parameter) -> Any:
    """Return a prediction over a regular grid of settings, five for each parameter, best in the middle of all of them."""
    space = SearchSpace(parameters)
    values = space.grid(5)
    away = ((space.to_unit(values) - 0.5) ** 2).sum(axis=1)
    stronger = space.regularization(values)
    dice, folding = 0.8 - 0.1 * away, 8 * (1 - stronger) ** 2
    surface = PredictionSurface(
        space, values, ("liver",), (1,), Band(*(dice[None] + d for d in (0, -0.02, 0.02))),
        Band(*(dice + d for d in (0, -0.01, 0.01))), *(Band(folding, folding / 2, folding * 2) for _ in range(3)),
    )  # fmt: skip
    setting = space.setting(values[int(np.argmax(dice))])
    choice = replace(make_prediction().choice, setting=setting, fixed=space.defaults)
    return replace(make_prediction(), choice=choice, surface=surface)


SPACING = Parameter("spacing", "h", "mm", "linear", 4.0, 40.0, 10.0, "up", "Control point spacing", "Wide deforms less.")
ROUGHNESS = Parameter("roughness", "β", "", "log", 1e-4, 1.0, 1e-2, "up", "Roughness weight", "Much deforms less.")
SMOOTH = Parameter("smoothing", "σ", "", "log", 0.5, 4.0, 1.0, "down", "Inverse smoothing", "Little deforms less.")


@pytest.mark.parametrize(
    "parameters",
    [(SPACING,), (SMOOTH,), (SPACING, ROUGHNESS), (ROUGHNESS, SPACING, SMOOTH)],
    ids=lambda some: f"{len(some)} {some[0].name}",
)
def test_any_number_of_parameters_is_drawn_along_the_first(scene, parameters) -> None:
    prediction = with_parameters(*parameters)
    surface, first = prediction.surface, parameters[0]
    nodes = add_prediction(scene, prediction)
    table = nodes.table.GetTable()
    assert table.GetNumberOfRows() == 5 ** len(parameters)
    assert [table.GetColumnName(n) for n in range(len(parameters))] == [parameter.title for parameter in parameters]
    rows = (surface.values[:, 1:] == [prediction.choice.setting[p.name] for p in parameters[1:]]).all(axis=1)
    line = points(nodes.dice_chart, "best guess")[:5]
    assert np.array_equal(line, np.column_stack([surface.values[rows, 0], surface.mean_dice.value[rows]]))
    assert bool(nodes.dice_chart.GetXAxisLogScale()) is (first.scale == "log")
    assert first.title.lower()[:12] in nodes.dice_chart.GetXAxisTitle() and nodes.dice_chart.GetXAxisTitle().isascii()
    assert points(nodes.dice_chart, "suggested")[0, 0] == prediction.choice.setting[first.name]
    # Halfway between two points on the scale of the axis.
    between = float(first.from_unit(0.375))
    mark_weight(nodes, {first.name: between}, prediction)
    mark = points(nodes.folding_chart, "yours")
    expected = surface.folding_foreground.value[rows][1:3].mean()
    assert mark[1] == pytest.approx([between, min(expected, nodes.folding_chart.GetYAxisRange()[1])])
    assert read_prediction_node(nodes.report).choice == prediction.choice
    words = read_out(surface, prediction.choice.setting, Criterion(domain="grid"), "liver")
    assert words.startswith("Dice of liver 0.80 (0.78 to 0.82), folding ")


def test_charts_show_what_counts_for_the_goal_of_the_criterion(scene: Any) -> None:
    plain = make_surface()
    shift = 0.1 * np.log(plain.values[:, 0] / plain.values[0, 0])
    gain = Band(*(0.2 - shift + reach for reach in (0.0, -0.4, 0.2)))
    error = Band(1 + shift, 0.5 + shift, 2 + shift)
    prediction = make_prediction(replace(plain, mean_dice=None, structures=(), labels=(), overlap_gain=gain, error_mm=error,
                                         dice=Band(*(np.zeros((0, len(shift))) for _ in range(3)))), structures=(),
                                 choice=make_prediction().choice)  # fmt: skip
    nodes = add_prediction(scene, prediction)
    for goal, title, axis, values in (
        ("overlap", "Expected gain of overlap", "% of what affine leaves", 100 * gain.value),
        ("accuracy", "Expected error", "mm, expected", error.value),
    ):
        shown = replace(prediction, criterion=Criterion(goal=goal))
        show_structure(nodes, shown, None)
        assert (nodes.dice_chart.GetTitle(), nodes.dice_chart.GetYAxisTitle()) == (title, axis)
        np.testing.assert_allclose(points(nodes.dice_chart, "best guess")[: len(shift), 1], values)
        low, high = nodes.dice_chart.GetYAxisRange()
        assert low < values.min() and values.max() < high and (low < -20) == (goal == "overlap")
        assert read_out(shown.surface, {"regularization_weight": 1.0}, shown.criterion).startswith(
            {"overlap": "gain of overlap 1", "accuracy": "expected error 1.0"}[goal]
        )


def flat(dice: float, folding: tuple[float, float, float]) -> Any:
    """Return curves that are the same at every λ."""
    surface = make_surface()
    n = len(surface.values)
    numbers = [np.full(n, value) for value in folding]
    return replace(
        surface,
        mean_dice=Band(*(np.full(n, dice + shift) for shift in (0.0, -0.03, 0.03))),
        folding_foreground=Band(*numbers),
        folding_grid=Band(*(number / 10 for number in numbers)),
    )


@pytest.mark.parametrize(
    ("folding", "domain", "words"),
    [
        ((0.1, 0.0, 0.4), "foreground", "Dice 0.74 (0.71 to 0.77), folding 0.10 % (at most 0.40 %)"),
        ((12.4, 3.0, 40.0), "foreground", "Dice 0.74 (0.71 to 0.77), folding 12.40 % (3.00 % to 40.00 %)"),
        ((12.4, 3.0, 40.0), "grid", "Dice 0.74 (0.71 to 0.77), folding 1.24 % (0.30 % to 4.00 %)"),
        ((0.03, 0.002, 0.09), "foreground", "Dice 0.74 (0.71 to 0.77), folding 0.03 % (at most 0.09 %)"),
        ((0.0004, 0.0, 0.0009), "foreground", "Dice 0.74 (0.71 to 0.77), folding under 0.01 %"),
        ((0.0, 0.0, 0.0), "foreground", "Dice 0.74 (0.71 to 0.77), folding under 0.01 %"),
    ],
)
def test_one_setting_in_words(folding, domain, words) -> None:
    assert read_out(flat(0.74, folding), {"regularization_weight": 1.0}, Criterion(domain=domain)) == words


def test_words_for_a_structure_and_outside_of_what_was_predicted() -> None:
    surface = make_surface()
    here = interpolated(surface, np.array([0.9])).dice
    words = read_out(surface, {"regularization_weight": 0.9}, Criterion(), surface.labels[3])
    assert words.startswith(f"Dice of {surface.structures[3]} {here.value[3, 0]:.2f} ({here.lower[3, 0]:.2f} to ")
    low, beyond = surface.values[0, 0], 2 * surface.values[-1, 0]
    words = read_out(surface, {"regularization_weight": beyond}, Criterion(domain="grid"))
    assert words.startswith(f"Nothing was predicted for λ = {beyond:g}: choose a value from {low:.4g}")


def test_nodes_are_counted_in_full(scene) -> None:
    slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    before = {scene.GetNthNode(n).GetID() for n in range(scene.GetNumberOfNodes())}
    nodes = add_prediction(scene, make_prediction())
    after = {scene.GetNthNode(n).GetID() for n in range(scene.GetNumberOfNodes())}
    assert isinstance(nodes, PredictionNodes)
    assert after - before == {node.GetID() for node in nodes.all()}
