"""The section in which a setting is chosen: renders a `PanelView`, and passes on what the user does with it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.search_space import Setting
from HyperPredictRegLib.panel.arranging import PlotPane, SymbolTexts, breakable, fit_columns, show_text
from HyperPredictRegLib.panel.mapping import MapPane, MapShown
from HyperPredictRegLib.panel.parameters import request_of
from HyperPredictRegLib.presentation.map_picture import folding_map, quality_map
from HyperPredictRegLib.presentation.panel import (
    PanelView,
    ParameterView,
    StructureRow,
    chosen_setting,
    manual_setting,
    ticked_weights,
)
from HyperPredictRegLib.results.prediction import Prediction
from HyperPredictRegLib.slicerbridge import predictions
from HyperPredictRegLib.slicerbridge.predictions import mark_color
from HyperPredictRegLib.slicerbridge.request import difference
from HyperPredictRegLib.slicerbridge.task import Task, deliver_prediction

_SIGNS = {"chosen": "\u25c6", "fixed": "\u25a0", "yours": "\u2503"}
_MAP_SIGNS = {**_SIGNS, "yours": "\u271a", "over": "\u25a8"}
_NAME, _WEIGHT, _DICE = range(3)


class ChoiceSection:
    """Shows what is predicted, and lets the user choose."""

    def __init__(self, ui: Any, parameters: Callable[[], Any], view: Callable[[], PanelView | None]) -> None:
        self.ui = ui
        self._parameters = parameters
        self._view = view
        self._read: tuple[str, int, Prediction] | None = None
        self._nodes: predictions.PredictionNodes | None = None
        self._drawn: Any = None
        self._marked: Setting | None = None
        self._listed: tuple[str, ...] | None = None
        self._curves: tuple[str, ...] | None = None
        self._further: dict[str, Any] = {}
        self._filling = False
        self._plots = tuple(PlotPane(frame) for frame in (ui.dicePlotFrame, ui.foldingPlotFrame))
        self._maps = tuple(MapPane(frame, self._map_clicked) for frame in (ui.dicePlotFrame, ui.foldingPlotFrame))
        self._symbols = SymbolTexts(ui)
        fit_columns(ui.structuresTable, _NAME, (_("Structure"), _("Weight"), _("Predicted Dice")))
        ui.structuresTable.connect("itemChanged(QTableWidgetItem*)", self._structureEdited)
        ui.curveComboBox.connect("currentIndexChanged(int)", self._curveChosen)
        ui.weightSlider.connect("valueChanged(int)", self._sliderMoved)
        ui.weightSpinBox.connect("valueChanged(double)", self._weightTyped)

    @property
    def curve(self) -> str:
        """Return the name of the structure whose curves are to be shown; "" is all of them together."""
        row = self.ui.curveComboBox.currentIndex - 1
        return self._curves[row] if self._curves is not None and 0 <= row < len(self._curves) else ""

    def take(self, prediction: Prediction, task: Task) -> None:
        """Put a new prediction into the scene in place of the one before, and choose by it."""
        parameters = self._parameters()
        node = deliver_prediction(prediction, task, earlier=parameters.prediction)
        self._read = None
        with slicer.util.NodeModify(parameters):
            parameters.prediction = node
            parameters.manual = False
            # What was ticked for another pair may not be predicted here, and could not be unticked.
            known = prediction.surface.structures
            parameters.structureWeights = {n: w for n, w in dict(parameters.structureWeights).items() if n in known}

    def found(self, parameters: Any) -> tuple[Prediction | None, str]:
        """Return the prediction of a parameter node, and why it does not count for what is chosen now, or ""."""
        node = parameters.prediction
        if node is None:
            self._nodes = None
            return None, ""
        key = (node.GetID(), node.GetMTime())
        if self._read is None or self._read[:2] != key:
            try:
                self._nodes = predictions.prediction_nodes_of(node)
                self._read = (*key, predictions.read_prediction_node(node))
            except InputError as error:
                self._nodes = self._read = None
                return None, str(error)
            self._drawn = self._marked = None
        prediction = self._read[2]
        if changed := difference(node, request_of(parameters)):
            return prediction, changed
        made = (prediction.job.engine, prediction.job.preset, prediction.job.seed)
        return prediction, "" if made == (parameters.engine.value, parameters.preset.value, parameters.seed) else "method"

    def release(self) -> None:
        """Let go of everything that belongs to a scene that closes."""
        self._read = self._nodes = self._drawn = self._marked = None
        for panes in (self._maps, self._plots):
            for pane in panes:
                pane.show(None)

    def show(self, view: PanelView, before: PanelView | None) -> None:
        """Render a view; what is as it was `before` is left alone."""
        self._filling = True
        try:
            ui = self.ui
            self._symbols.show(view.symbol)
            show_text(ui.reliabilityLabel, view.reliability)
            if before is None or view.reasons != before.reasons:
                ui.reasonsLabel.setText(breakable(view.reasons))
                ui.whyCollapsibleButton.setVisible(bool(view.reasons))
            for label, text in (
                (ui.readoutLabel, view.read_out), (ui.hintLabel, view.hint), (ui.expectedLabel, view.expected),
            ):  # fmt: skip
                show_text(label, text)
            if before is None or view.rows != before.rows or self._listed is None:
                self._show_structures(view.rows, before.rows if before is not None and self._listed is not None else ())
            self._show_curves(view)
            self._show_parameters(view.parameters)
            self._draw(view)
        finally:
            self._filling = False

    def _show_structures(self, rows: tuple[StructureRow, ...], before: tuple[StructureRow, ...]) -> None:
        table = self.ui.structuresTable
        names = tuple(row.name for row in rows)
        if names != self._listed:
            self._listed, before = names, ()
            table.setRowCount(len(names))
            readable = qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable
            for number, name in enumerate(names):
                for column in (_NAME, _WEIGHT, _DICE):
                    table.setItem(number, column, qt.QTableWidgetItem(name if column == _NAME else ""))
                table.item(number, _NAME).setFlags(readable | qt.Qt.ItemIsUserCheckable)
                table.item(number, _NAME).setToolTip(name)
                table.item(number, _DICE).setFlags(readable)
        for number, row in enumerate(rows):
            old = before[number] if number < len(before) else None
            if old is None or (old.ticked, old.weight) != (row.ticked, row.weight):
                table.item(number, _NAME).setCheckState(qt.Qt.Checked if row.ticked else qt.Qt.Unchecked)
                table.item(number, _WEIGHT).setText(row.weight)
            if old is None or old.dice != row.dice:
                table.item(number, _DICE).setText(row.dice)

    def _show_curves(self, view: PanelView) -> None:
        if view.curves == self._curves:
            return
        self._curves = view.curves
        self.ui.curveComboBox.clear()
        for name in (_("All structures"), *view.curves):
            self.ui.curveComboBox.addItem(name)
        for widget in (self.ui.curveComboBox, self.ui.curveComboBoxLabel):
            widget.setVisible(view.prediction is not None)

    def _show_parameters(self, parameters: tuple[ParameterView, ...]) -> None:
        """Show the first parameter by slider and spin box, and each further one in a row of its own."""
        first, *further = parameters
        slider = self.ui.weightSlider
        self.ui.weightLabel.setText(first.label)
        slider.setToolTip(first.tooltip)
        slider.setValue(round(slider.maximum * first.share))
        _show_number(self.ui.weightSpinBox, first)
        if [one.name for one in further] != list(self._further):
            layout = self.ui.parametersFrame.layout()
            while self._further:
                self._further.popitem()
                layout.removeRow(1)
            for one in further:
                self._further[one.name] = self._add_row(layout, one)
        for one in further:
            slider, box = self._further[one.name]
            slider.setToolTip(one.tooltip)
            slider.setValue(round(slider.maximum * one.share))
            _show_number(box, one)

    def _add_row(self, layout: Any, parameter: ParameterView) -> tuple[Any, Any]:
        """Add slider and spin box of one more parameter, as those of the first; return both."""
        row, slider, box = qt.QWidget(), qt.QSlider(), qt.QDoubleSpinBox()
        slider.setOrientation(qt.Qt.Horizontal)
        slider.setRange(0, self.ui.weightSlider.maximum)
        slider.setPageStep(self.ui.weightSlider.pageStep)
        box.setKeyboardTracking(False)
        box.setMinimumWidth(self.ui.weightSpinBox.minimumWidth)
        inside = qt.QHBoxLayout(row)
        inside.setContentsMargins(0, 0, 0, 0)
        inside.addWidget(slider)
        inside.addWidget(box)
        row.setFocusProxy(slider)
        name, steps = parameter.name, slider.maximum
        slider.connect("valueChanged(int)", lambda position: self._set_manually(name, share=position / steps))
        box.connect("valueChanged(double)", lambda value: self._set_manually(name, value=value))
        layout.addRow(parameter.label, row)
        return slider, box

    def _draw(self, view: PanelView) -> None:
        """Bring charts or maps up to date: all where the criterion has changed, else only the mark of the user's setting."""
        self._show_legend(view)
        # Charts are in the scene in any case, to be shown elsewhere and saved.
        hidden: tuple[Any, ...] = self._plots if view.as_map else self._maps
        for pane in hidden:
            pane.show(None)
        shown = self._nodes if view.prediction is not None else None
        if view.prediction is not None and shown is not None:
            # The structure that was chosen may have another name, or be gone, since the prediction before.
            structure = view.state.curve if view.state.curve in view.curves else None
            if self._drawn is None or self._drawn[0] is not view.prediction or self._drawn[1] != structure:
                self._drawn = (view.prediction, structure)
                predictions.show_structure(shown, view.prediction, structure, view.setting)
            elif view.setting != self._marked:
                predictions.mark_weight(shown, view.setting, view.prediction, structure)
            self._marked = view.setting
        if view.as_map:
            self._draw_maps(view)
            return
        for plot, chart in zip(self._plots, ("dice_chart", "folding_chart"), strict=True):
            plot.show(None if shown is None else getattr(shown, chart))

    def _draw_maps(self, view: PanelView) -> None:
        prediction = view.prediction
        if prediction is None:
            return
        structure = view.state.curve if view.state.curve in view.curves else None
        trusted = prediction.choice.predicted is not None
        marks = {kind: mark_color(kind) for kind in ("chosen", "fixed")}
        draw = (
            lambda width, colors: quality_map(prediction, structure, width, colors, marks, trusted),
            lambda width, colors: folding_map(prediction, width, colors, marks, trusted),
        )
        for pane, drawn in zip(self._maps, draw, strict=True):
            pane.show(MapShown(prediction, structure, drawn, view.setting, mark_color("yours")))

    def _show_legend(self, view: PanelView) -> None:
        """Say what the marks in the charts mean, in rich text below them: in narrow charts a legend would cover the curves."""
        signs = _MAP_SIGNS if view.as_map else _SIGNS
        marks = [
            f"{sign}\u00a0{text}" if kind == "over" else f"<span style='color:{mark_color(kind)}'>{sign}</span>\u00a0{text}"
            for kind, text in view.legend
            if (sign := signs.get(kind))
        ]
        further = [] if view.as_map else [_("\u2504\u00a090\u00a0%\u00a0range")]
        show_text(self.ui.legendLabel, ", ".join([*marks, *further]) if marks else "")

    # What the user does

    def _structureEdited(self, item: Any) -> None:  # noqa: N802 - Slicer's style
        view, parameters = self._view(), self._parameters()
        if self._filling or view is None or parameters is None:
            return
        table, row = self.ui.structuresTable, item.row()
        ticked = table.item(row, _NAME).checkState() == qt.Qt.Checked if item.column() == _NAME else None
        weights = ticked_weights(view, row, ticked=ticked, typed=table.item(row, _WEIGHT).text())
        if weights == dict(parameters.structureWeights):
            # What was typed is no weight: show the one that counts again.
            self._listed = None
            self.show(view, view)
        else:
            parameters.structureWeights = weights

    def _curveChosen(self, index: int) -> None:  # noqa: N802
        view = self._view()
        if not self._filling and index >= 0 and view is not None:
            self._draw(replace(view, state=replace(view.state, curve=self.curve)))

    def _sliderMoved(self, position: int) -> None:  # noqa: N802
        if (view := self._view()) is not None:
            self._set_manually(view.space.first.name, share=position / self.ui.weightSlider.maximum)

    def _weightTyped(self, value: float) -> None:  # noqa: N802
        if (view := self._view()) is not None:
            self._set_manually(view.space.first.name, value=value)

    def _map_clicked(self, values: Setting) -> None:
        if (view := self._view()) is not None:
            self._take_manually(chosen_setting(view, values))

    def _set_manually(self, name: str, **to: float) -> None:
        if (view := self._view()) is not None and not self._filling:
            self._take_manually(manual_setting(view, name, **to))

    def _take_manually(self, setting: Setting) -> None:
        view, parameters = self._view(), self._parameters()
        if self._filling or view is None or parameters is None:
            return
        # One event for all three: the panel is shown anew once.
        with slicer.util.NodeModify(parameters):
            parameters.setting = setting
            parameters.settingOf = view.state.engine
            parameters.manual = True


def _show_number(box: Any, parameter: ParameterView) -> None:
    box.setDecimals(parameter.decimals)
    box.setSingleStep(parameter.step)
    box.setSuffix(parameter.suffix)
    box.setToolTip(parameter.tooltip)
    box.setRange(parameter.low, parameter.high)
    box.setValue(parameter.value)
