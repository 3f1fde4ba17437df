"""The section in which λ is chosen: what matters, the foreseen curves, the traffic light, and λ by hand."""

import html
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import qt
import slicer
from slicer.i18n import tr as _

from HyperPredictRegLib.curves import Curves
from HyperPredictRegLib.engines import get_engine
from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.panel.arranging import SymbolTexts, breakable, fit_columns
from HyperPredictRegLib.panel.inputs import request_of
from HyperPredictRegLib.panel.parameters import criterion_of
from HyperPredictRegLib.panel.plots import PlotPane
from HyperPredictRegLib.prediction import Foresight
from HyperPredictRegLib.predictor.card import read_card
from HyperPredictRegLib.predictor.paths import bundled
from HyperPredictRegLib.reporting.choice_wording import light, setting
from HyperPredictRegLib.selection import Choice, choose, interpolated
from HyperPredictRegLib.slicerbridge import foretold
from HyperPredictRegLib.slicerbridge.delivery import deliver_foresight
from HyperPredictRegLib.slicerbridge.foretold_charts import mark_color
from HyperPredictRegLib.slicerbridge.placement import difference
from HyperPredictRegLib.slicerbridge.task import Task

_COLORS = {"green": "#2e9e44", "amber": "#e69500", "red": "#d03b3b"}
_SIGNS = {"chosen": "\u25c6", "fixed": "\u25a0", "yours": "\u2503"}
_NAME, _WEIGHT, _DICE = range(3)


class ChoiceSection:
    """Shows what is foreseen and keeps λ of the parameter node at λ*, unless the user sets it by hand.

    Attributes
    ----------
    foresight : the prediction for the volumes and settings that are chosen now, or None.
    """

    def __init__(self, ui: Any, parameters: Callable[[], Any]) -> None:
        self.ui = ui
        self._parameters = parameters
        self.foresight: Foresight | None = None
        self._read: tuple[str, int, Foresight] | None = None
        self._nodes: foretold.ForesightNodes | None = None
        self._listed: tuple[str, ...] | None = None
        self._drawn: Any = None
        self._filling = False
        self._plots = tuple(PlotPane(frame) for frame in (ui.dicePlotFrame, ui.foldingPlotFrame))
        self._symbols = SymbolTexts(ui)
        fit_columns(ui.structuresTable, _NAME, (_("Structure"), _("Weight"), _("Foreseen Dice")))
        ui.structuresTable.connect("itemChanged(QTableWidgetItem*)", self._structureEdited)
        ui.curveComboBox.connect("currentIndexChanged(int)", self._curveChosen)
        ui.weightSlider.connect("valueChanged(int)", self._sliderMoved)
        ui.weightSpinBox.connect("valueChanged(double)", self._weightTyped)

    def take(self, foresight: Foresight, task: Task) -> None:
        """Put a new prediction into the scene in place of the one before, and show it."""
        parameters = self._parameters()
        node = deliver_foresight(foresight, task, earlier=parameters.foresight)
        self._read = None
        with slicer.util.NodeModify(parameters):
            parameters.foresight = node
            parameters.byHand = False
            # What mattered in another pair may not be foreseen here, and could not be unticked.
            known = foresight.curves.structures
            parameters.structureWeights = {n: w for n, w in dict(parameters.structureWeights).items() if n in known}
        self.refresh()

    def refresh(self) -> None:
        """Show what the parameter node says; called whenever it has changed."""
        parameters = self._parameters()
        if parameters is None or self._filling:
            return
        self._filling = True
        try:
            problem = self._load(parameters)
            curves = None if self.foresight is None else self.foresight.curves
            choice, sentence = self._choice(parameters, curves)
            with slicer.util.NodeModify(parameters):
                self._keep_weight(parameters, curves, choice)
            self._show_light(problem, choice, sentence)
            self._list_structures(parameters, curves)
            self._show_weight(parameters, curves, choice)
        finally:
            self._filling = False

    def release(self) -> None:
        """Let go of everything that belongs to a scene that closes."""
        self.foresight = self._read = self._nodes = self._drawn = None
        for plot in self._plots:
            plot.show(None)

    def _load(self, parameters: Any) -> str:
        """Read the prediction of the parameter node; return why it does not count for what is chosen now, or ""."""
        self.foresight = None
        node = parameters.foresight
        if node is None:
            self._nodes = None
            return ""
        key = (node.GetID(), node.GetMTime())
        if self._read is None or self._read[:2] != key:
            try:
                self._nodes = foretold.foresight_nodes_of(node)
                self._read = (*key, foretold.read_foresight_node(node))
            except InputError as error:
                self._nodes = self._read = None
                return str(error)
            self._drawn = None
        foresight = self._read[2]
        if changed := difference(node, request_of(parameters, forPrediction=True)):
            return {
                "volumes": _("The last prediction was for other volumes."),
                "inputs": _("The last prediction was made with another mask, segmentation or initial transform."),
                "places": _("The volumes have moved since the last prediction."),
            }[changed]
        job = foresight.prediction.job
        if (job.engine, job.preset) != (parameters.engine.value, parameters.preset.value):
            return _("The last prediction was for another method or detail.")
        self.foresight = foresight
        return ""

    def _choice(self, parameters: Any, curves: Curves | None) -> tuple[Choice | None, str]:
        """Return λ* with its reason; or None with the reason why there is none."""
        if self.foresight is None or curves is None:
            return None, ""
        prediction = self.foresight.prediction
        if self._red():
            return None, prediction.choice
        try:
            choice = choose(curves, criterion_of(parameters))
        except InputError as error:
            return None, str(error)
        return choice, choice.sentence

    def _red(self) -> bool:
        """Tell whether the predictor declines to foresee this pair."""
        return self.foresight is not None and light(self.foresight.prediction.verdict).colour == "red"

    def _keep_weight(self, parameters: Any, curves: Curves | None, choice: Choice | None) -> None:
        """Let the weight be λ*, or what was set by hand for this method, and always within the slider's range."""
        name = get_engine(parameters.engine.value).hyperparameters[0].name
        if parameters.weightOf != name:
            parameters.weightOf, parameters.byHand, parameters.weight = name, False, 0.0
        if choice is not None and not parameters.byHand:
            weight = next(iter(choice.hyperparameters.values()))
        else:
            weight = parameters.weight if parameters.weight > 0 and parameters.byHand else self._fixed_weight(parameters)
        low, high = self._range(parameters, curves)
        parameters.weight = min(max(weight, low), high)

    def _show_light(self, problem: str, choice: Choice | None, sentence: str) -> None:
        """Show the light in one line with what is recommended; all reasons are folded away under "Why?"."""
        label = self.ui.lightLabel
        if self.foresight is None:
            label.setText(html.escape(problem))
            label.setVisible(bool(problem))
            self.ui.whyCollapsibleButton.setVisible(False)
            return
        shown = light(self.foresight.prediction.verdict)
        word = {"green": _("Green"), "amber": _("Amber"), "red": _("Red")}[shown.colour]
        mark = f"<span style='color:{_COLORS[shown.colour]}; font-size:large'>\u25cf</span>"
        line = f"{mark} <b>{word}.</b> {html.escape(shown.meaning)}"
        reasons = [reason for reason in (*shown.reasons, *self.foresight.prediction.warnings) if reason != shown.meaning]
        # A suggestion is short; that there is none, or that it breaks the limit, is said in full.
        advice = sentence
        if choice is not None and choice.feasible:
            advice = _("{setting} is suggested.").format(setting=setting(choice.hyperparameters))
            reasons.insert(0, sentence)
        label.setText(breakable(f"{line}<br><b>{html.escape(advice)}</b>" if advice else line))
        label.setVisible(True)
        self.ui.reasonsLabel.setText(breakable("".join(f"<p>{html.escape(reason)}</p>" for reason in reasons)))
        self.ui.whyCollapsibleButton.setVisible(bool(reasons))

    def _list_structures(self, parameters: Any, curves: Curves | None) -> None:
        table, combo = self.ui.structuresTable, self.ui.curveComboBox
        # Without a prediction, what was ticked before can still be unticked.
        names = tuple(dict(parameters.structureWeights)) if curves is None else curves.structures
        if names != self._listed:
            self._listed = names
            table.setRowCount(len(names))
            combo.clear()
            combo.addItem(_("All structures"))
            for name in names:
                combo.addItem(name)
        for widget in (combo, self.ui.curveComboBoxLabel):
            widget.setVisible(curves is not None)
        # A copy, because Slicer's own kind of dict is not quite one.
        weights = dict(parameters.structureWeights)
        for row, name in enumerate(names):
            weight = weights.get(name, 0.0)
            if table.item(row, _NAME) is None:
                for column in (_NAME, _WEIGHT, _DICE):
                    table.setItem(row, column, qt.QTableWidgetItem(""))
                readable = qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable
                table.item(row, _NAME).setFlags(readable | qt.Qt.ItemIsUserCheckable)
                table.item(row, _DICE).setFlags(readable)
            table.item(row, _NAME).setText(name)
            table.item(row, _NAME).setToolTip(name)
            table.item(row, _NAME).setCheckState(qt.Qt.Checked if weight > 0 else qt.Qt.Unchecked)
            table.item(row, _WEIGHT).setText(f"{weight:g}" if weight > 0 else "")

    def _show_weight(self, parameters: Any, curves: Curves | None, choice: Choice | None) -> None:
        low, high = self._range(parameters, curves)
        weight = parameters.weight
        known = get_engine(parameters.engine.value).hyperparameters[0]
        self.ui.weightLabel.setText(f"&{known.symbol}:" if len(known.symbol) == 1 else f"{known.symbol}:")
        self._symbols.show(known.symbol)
        for widget in (self.ui.weightSlider, self.ui.weightSpinBox):
            widget.setToolTip(known.meaning)
        self.ui.weightSpinBox.setSuffix(" mm" if known.unit == "mm" else "")
        steps = self.ui.weightSlider.maximum
        self.ui.weightSlider.setValue(round(steps * math.log(weight / low) / math.log(high / low)))
        self.ui.weightSpinBox.setRange(low, high)
        self.ui.weightSpinBox.setValue(weight)
        self.ui.readoutLabel.setText(self._read_out(parameters, curves, weight, choice))
        self._draw(parameters, choice, weight)
        self.ui.legendLabel.setText(self._legend(known.symbol))
        self.ui.legendLabel.setVisible(self.foresight is not None)
        for plot, chart in zip(self._plots, ("dice_chart", "folding_chart"), strict=True):
            plot.show(None if self._nodes is None or self.foresight is None else getattr(self._nodes, chart))
        for row in range(self.ui.structuresTable.rowCount):
            self.ui.structuresTable.item(row, _DICE).setText("")
        if curves is not None and not self._red():
            here = interpolated(curves, np.array([weight])).dice.value[:, 0]
            for row, value in enumerate(here):
                self.ui.structuresTable.item(row, _DICE).setText(f"{value:.2f}" if math.isfinite(value) else "")

    def _legend(self, symbol: str) -> str:
        """Say what the marks in the charts mean, in rich text below them: in narrow charts a legend would cover the curves."""
        words = {"fixed": _("{symbol} without a prediction"), "yours": _("your {symbol}")}
        if not self._red():
            words = {"chosen": _("suggested {symbol}"), **words}
        marks = [
            f"<span style='color:{mark_color(kind)}'>{_SIGNS[kind]}</span>\u00a0{text.format(symbol=symbol)}"
            for kind, text in words.items()
        ]
        return ", ".join([*marks, _("\u2504\u00a090\u00a0%\u00a0range")])

    def _read_out(self, parameters: Any, curves: Curves | None, weight: float, choice: Choice | None) -> str:
        if curves is None and bundled(parameters.engine.value, parameters.preset.value) is None:
            return _("Nothing can be foreseen with this method and detail: register, and what comes out is measured.")
        if curves is None:
            return _("Nothing is foreseen yet: press \"Suggest {symbol}\", or register, and what comes out is measured.").format(
                symbol=get_engine(parameters.engine.value).hyperparameters[0].symbol
            )
        if self._red():
            return _("Red light: what the curves say of this pair is not to be trusted.")
        words = foretold.read_out(curves, weight, parameters.foldingDomain.value).replace(" %", "\u00a0%")
        if parameters.byHand:
            return _("By hand: {words}").format(words=words)
        return _("Suggested: {words}").format(words=words) if choice is not None else words

    def _draw(self, parameters: Any, choice: Choice | None, weight: float) -> None:
        """Bring the charts up to date: all of them where the criterion has changed, else only the mark of the user's λ."""
        if self.foresight is None or self._nodes is None:
            return
        criterion, row = criterion_of(parameters), self.ui.curveComboBox.currentIndex - 1
        structure = self.foresight.curves.labels[row] if row >= 0 else None
        if self._drawn != (criterion, structure):
            self._drawn = (criterion, structure)
            prediction = replace(self.foresight.prediction, criterion=criterion)
            if choice is not None:
                prediction = replace(prediction, hyperparameters=choice.hyperparameters)
            foretold.show_structure(self._nodes, replace(self.foresight, prediction=prediction), structure)
        foretold.mark_weight(self._nodes, weight, self.foresight.curves)

    def _range(self, parameters: Any, curves: Curves | None) -> tuple[float, float]:
        if curves is not None:
            return float(curves.values.min()), float(curves.values.max())
        known = get_engine(parameters.engine.value).hyperparameters[0]
        return known.lower, known.upper

    def _fixed_weight(self, parameters: Any) -> float:
        if self.foresight is not None:
            return next(iter(self.foresight.prediction.fixed_hyperparameters.values()))
        folder = bundled(parameters.engine.value, parameters.preset.value)
        if folder is not None:
            return read_card(folder).fixed_value
        return get_engine(parameters.engine.value).hyperparameters[0].default

    def _structureEdited(self, item: Any) -> None:  # noqa: N802 - Slicer's style
        parameters = self._parameters()
        if self._filling or parameters is None or self._listed is None:
            return
        table, row = self.ui.structuresTable, item.row()
        ticked = table.item(row, _NAME).checkState() == qt.Qt.Checked
        try:
            typed = float(table.item(row, _WEIGHT).text().replace(",", "."))
        except ValueError:
            typed = 0.0
        if item.column() == _WEIGHT:
            weight = typed if math.isfinite(typed) else 0.0
        else:
            weight = (typed if typed > 0 else 1.0) if ticked else 0.0
        weights = {name: value for name, value in dict(parameters.structureWeights).items() if name in self._listed}
        weights.pop(self._listed[row], None)
        if weight > 0:
            weights[self._listed[row]] = weight
        parameters.structureWeights = weights
        self.refresh()

    def _curveChosen(self, index: int) -> None:  # noqa: N802
        if not self._filling and index >= 0:
            self.refresh()

    def _sliderMoved(self, position: int) -> None:  # noqa: N802
        parameters = self._parameters()
        if self._filling or parameters is None:
            return
        low, high = self._range(parameters, None if self.foresight is None else self.foresight.curves)
        self._set_by_hand(parameters, low * (high / low) ** (position / self.ui.weightSlider.maximum))

    def _weightTyped(self, value: float) -> None:  # noqa: N802
        parameters = self._parameters()
        if not self._filling and parameters is not None:
            self._set_by_hand(parameters, value)

    def _set_by_hand(self, parameters: Any, weight: float) -> None:
        with slicer.util.NodeModify(parameters):
            parameters.byHand = True
            parameters.weight = weight
        self.refresh()
