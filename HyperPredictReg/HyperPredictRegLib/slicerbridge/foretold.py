"""A prediction in the scene: its text, its numbers as a table, and two charts over λ, on which a mark follows the user's λ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from HyperPredictRegLib.curves import Band, Curves
from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.prediction import Foresight, Prediction
from HyperPredictRegLib.saved import foresight_from_json, foresight_to_json
from HyperPredictRegLib.selection import interpolated
from HyperPredictRegLib.selection.printed import banded, banded_percent
from HyperPredictRegLib.selection.readout import band_value, word_for
from HyperPredictRegLib.slicerbridge.foretold_charts import (
    LINES,
    Drawn,
    add_chart,
    add_series,
    color_curves,
    drawn_columns,
    drawn_once,
    finish_charts,
    name_series,
    weight_columns,
)
from HyperPredictRegLib.slicerbridge.tables import add_table_node, fitting_title, set_columns
from HyperPredictRegLib.slicerbridge.together import all_or_none, mark_run, nodes_of_run, put_in_folder

# The charts' font has no Greek letters: they would be left out.
_SYMBOL = "lambda"
_AXIS = "lambda (regularization weight)"
_STRUCTURE = "HyperPredictReg.structure"
_WEIGHT = "HyperPredictReg.weight"
_DOMAIN = "HyperPredictReg.domain"
_ROLES = (
    *(f"foresight-{what}" for what in ("report", "table", "dice-chart", "folding-chart", "marks")),
    *(f"foresight-{line.chart}-{line.kind}" for line in LINES),
)


@dataclass(frozen=True)
class ForesightNodes:
    """The nodes of one prediction.

    Attributes
    ----------
    report : vtkMRMLTextNode with all of it as JSON.
    table : every foreseen number, one row for each λ.
    dice_chart, folding_chart : vtkMRMLPlotChartNode.
    marks : the table that the charts are drawn from: the curves that are shown, and the marks on them.
    series : every vtkMRMLPlotSeriesNode of both charts.
    """

    report: Any
    table: Any
    dice_chart: Any
    folding_chart: Any
    marks: Any
    series: tuple[Any, ...]

    def all(self) -> list[Any]:
        """Return every node."""
        return [self.report, self.table, self.marks, *self.series, self.dice_chart, self.folding_chart]


def add_foresight(
    scene: Any,
    foresight: Foresight,
    *,
    structure: int | str | None = None,
    parent: int | None = None,
    name: str = "Foreseen registration quality",
) -> ForesightNodes:
    """Add a prediction to `scene`, in a folder of its own; all of it or, if that fails, nothing.

    Parameters
    ----------
    scene : vtkMRMLScene.
    foresight : the prediction with its curves, over a single hyperparameter.
    structure : label or name of the structure whose Dice the chart shows; the mean of all if left out.
    parent : the subject hierarchy item that the folder goes under; the scene itself if left out.
    name : of the folder and the text; the scene makes the text's unique.

    Raises
    ------
    InputError : the curves are over several hyperparameters, or there is no such structure.
    """
    with all_or_none(scene):
        report = scene.AddNewNodeByClass("vtkMRMLTextNode", scene.GetUniqueNameByString(name))
        table = add_table_node(scene, "Foreseen quality", {})
        marks = add_table_node(scene, "Foreseen curves and marks", {})
        series = tuple(add_series(scene, line, marks) for line in LINES)
        charts = [add_chart(scene, f"Foreseen {what}") for what in ("Dice", "folding")]
        nodes = ForesightNodes(report, table, charts[0], charts[1], marks, series)
        update_foresight(nodes, foresight, structure=structure)
        mark_run(report, dict(zip(_ROLES, (report, table, *charts, marks, *series), strict=True)))
        put_in_folder(scene, nodes.all(), name, parent)
    return nodes


def update_foresight(nodes: ForesightNodes, foresight: Foresight, *, structure: int | str | None = None) -> None:
    """Let the nodes of an earlier prediction hold this one instead, so that a scene does not fill up; see `add_foresight`.

    The mark of the user's λ starts at λ* or, with a red light, at the fixed λ.
    """
    curves, prediction = foresight.curves, foresight.prediction
    if curves.values.shape[1] != 1:
        raise InputError("A prediction over several hyperparameters cannot be drawn as curves.")
    _row(curves, structure)
    nodes.report.SetText(foresight_to_json(foresight))
    set_columns(nodes.table, table_columns(curves))
    chosen = _chosen(prediction, curves)
    with drawn_once([nodes.dice_chart, nodes.folding_chart]):
        nodes.marks.SetAttribute(_WEIGHT, repr(_fixed(prediction, curves) if chosen is None else chosen))
        nodes.marks.SetAttribute(_DOMAIN, prediction.criterion.domain)
        show_structure(nodes, foresight, structure)


def show_structure(nodes: ForesightNodes, foresight: Foresight, structure: int | str | None) -> None:
    """Let the chart show the Dice of one structure, by label or name, or, for None, the mean of all.

    Raises
    ------
    InputError : there is no such structure.
    """
    curves, prediction = foresight.curves, foresight.prediction
    row = _row(curves, structure)
    what, dice = ("Mean Dice", curves.mean_dice) if row is None else (f"Dice of {curves.structures[row]}", curves.dice[row])
    drawn = Drawn(
        _settings(curves),
        dice,
        curves.folding(prediction.criterion.domain),
        weight=float(nodes.marks.GetAttribute(_WEIGHT)),
        limit=prediction.criterion.folding_limit,
        fixed=_fixed(prediction, curves),
        chosen=_chosen(prediction, curves),
    )
    trusted = prediction.predicted is not None
    names = {
        "value": "best guess" if trusted else "not to be trusted",
        "band": "90 % band",
        "fixed": f"fixed default: {_SYMBOL} = {drawn.fixed:.3g}",
        "chosen": "none suggested" if drawn.chosen is None else f"suggested: {_SYMBOL}* = {drawn.chosen:.3g}",
        "limit": "no limit" if drawn.limit is None else f"limit {drawn.limit:g} %",
        "yours": _yours(drawn),
    }
    titles = {
        "dice": (fitting_title(what), _AXIS, "Dice, foreseen"),
        "folding": (f"Folding of the {prediction.criterion.domain}", _AXIS, "%, foreseen"),
    }
    charts = {"dice": nodes.dice_chart, "folding": nodes.folding_chart}
    with drawn_once(list(charts.values())):
        set_columns(nodes.marks, drawn_columns(drawn))
        nodes.marks.SetAttribute(_STRUCTURE, "" if row is None else str(curves.labels[row]))
        name_series(nodes.series, names)
        color_curves(nodes.series, trusted)
        finish_charts(charts, nodes.series, drawn, titles)


def mark_weight(nodes: Any, weight: float, curves: Curves) -> None:
    """Move the mark "your λ" in both charts; beyond what was foreseen it stays at the nearer end, and the legend says so.

    Parameters
    ----------
    nodes : the `ForesightNodes`, or any one node of them, such as the table of marks.
    weight : the user's λ.
    curves : of the prediction that the nodes show.
    """
    nodes = nodes if isinstance(nodes, ForesightNodes) else foresight_nodes_of(nodes)
    marks = nodes.marks
    label = marks.GetAttribute(_STRUCTURE)
    dice = curves.dice[curves.labels.index(int(label))] if label else curves.mean_dice
    table = marks.GetTable()
    limit = table.GetColumnByName("Folding limit").GetValue(0)
    folding = curves.folding(marks.GetAttribute(_DOMAIN))
    drawn = Drawn(_settings(curves), dice, folding, weight, None if math.isnan(limit) else limit)
    with drawn_once([nodes.dice_chart, nodes.folding_chart]):
        for title, values in weight_columns(drawn).items():
            column = table.GetColumnByName(title)
            for n in range(column.GetNumberOfTuples()):
                column.SetValue(n, values[min(n, len(values) - 1)])
            column.Modified()
        table.Modified()
        marks.SetAttribute(_WEIGHT, repr(float(weight)))
        marks.Modified()
        name_series(nodes.series, {"yours": _yours(drawn)})


def foresight_nodes_of(node: Any) -> ForesightNodes:
    """Return all nodes of a prediction from any one of them, in a saved and opened scene too.

    Raises
    ------
    InputError : the node is of no prediction, or some of its nodes are gone.
    """
    found = nodes_of_run(node)
    if not set(_ROLES) <= set(found):
        raise InputError(f"'{node.GetName()}' belongs to no complete prediction: predict again.")
    report, table, dice_chart, folding_chart, marks, *series = (found[role] for role in _ROLES)
    return ForesightNodes(report, table, dice_chart, folding_chart, marks, tuple(series))


def read_foresight_node(node: Any) -> Foresight:
    """Return the prediction that `add_foresight` stored in a text node; raise `InputError` if the text is none."""
    return foresight_from_json(node.GetText() or "", f"The text '{node.GetName()}'")


def read_out(curves: Curves, weight: float, criterion_domain: str, structure: int | str | None = None) -> str:
    """Say what is foreseen for one λ, such as "Dice 0.74 (0.71 to 0.77), folding 0.10 % (at most 0.40 %)".

    Outside of what was foreseen, say that.

    Parameters
    ----------
    curves : over a single hyperparameter.
    weight : its value.
    criterion_domain : "foreground" or "box".
    structure : label or name of the one whose Dice to read; the mean of all if left out.
    """
    row = _row(curves, structure)
    try:
        here = interpolated(curves, np.array([weight]))
    except InputError as error:
        return str(error)
    dice = here.mean_dice if row is None else here.dice[row]
    folding = here.folding(criterion_domain)
    what = "Dice" if row is None else f"Dice of {curves.structures[row]}"
    return f"{what} {banded(band_value(dice, 0), 2)}, folding {banded_percent(band_value(folding, 0))}"


def table_columns(curves: Curves) -> dict[str, Sequence[float]]:
    """Return all foreseen numbers as columns: λ, mean Dice, folding, and the Dice of each structure, each with its band."""
    columns: dict[str, Sequence[float]] = {word_for(curves.names[0]): curves.values[:, 0].tolist()}
    bands: dict[str, Band] = {
        "Mean Dice": curves.mean_dice,
        "Folding of foreground (%)": curves.folding_foreground,
        "Folding of box (%)": curves.folding_box,
    }
    for row, (title, label) in enumerate(zip(curves.structures, curves.labels, strict=True)):
        # Two structures may be called the same; their columns may not.
        bands[f"Dice of {title}" if f"Dice of {title}" not in bands else f"Dice of {title}, label {label}"] = curves.dice[row]
    for title, band in bands.items():
        columns |= {
            title: band.value.tolist(), f"{title}, lower": band.lower.tolist(), f"{title}, upper": band.upper.tolist(),
        }  # fmt: skip
    return columns


def _row(curves: Curves, structure: int | str | None) -> int | None:
    if structure is None:
        return None
    known: Sequence[Any] = curves.structures if isinstance(structure, str) else curves.labels
    if structure not in known:
        raise InputError(f"Nothing was foreseen for the structure '{structure}': choose one that the moving segmentation holds.")
    return list(known).index(structure)


def _settings(curves: Curves) -> np.ndarray:
    # The axis is logarithmic, on which 0 has no place.
    return np.maximum(curves.values[:, 0], 1e-9)


def _chosen(prediction: Prediction, curves: Curves) -> float | None:
    """Return λ*, or None with a red light, with which none is suggested."""
    return None if prediction.predicted is None else prediction.hyperparameters[curves.names[0]]


def _fixed(prediction: Prediction, curves: Curves) -> float:
    return prediction.fixed_hyperparameters[curves.names[0]]


def _yours(drawn: Drawn) -> str:
    """Return the legend of the user's mark."""
    foreseen = drawn.x[0] * (1 - 1e-9) <= drawn.weight <= drawn.x[-1] * (1 + 1e-9)
    return f"yours: {_SYMBOL} = {drawn.weight:.3g}" + ("" if foreseen else ", not foreseen")
