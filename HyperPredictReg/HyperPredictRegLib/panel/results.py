"""The section of the result: verdict, tables, course, what the slice views show, and the report page."""

import html
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.job import Report
from HyperPredictRegLib.panel.arranging import breakable, fit_columns, fit_rows, keep_rows_fitting
from HyperPredictRegLib.panel.plots import PlotPane
from HyperPredictRegLib.panel.views import View, Views
from HyperPredictRegLib.reporting import wording
from HyperPredictRegLib.reporting.choice_wording import first_line, was_chosen
from HyperPredictRegLib.selection import within_limit
from HyperPredictRegLib.selection.comparison import surprises
from HyperPredictRegLib.slicerbridge import showing
from HyperPredictRegLib.slicerbridge.outcome_nodes import OutcomeNodes, read_back
from HyperPredictRegLib.slicerbridge.provenance import read_report_node
from HyperPredictRegLib.slicerbridge.storing import EXACT_VOXELS, FIELD_DIFFERENCE
from HyperPredictRegLib.trace import UNKNOWN_STOP, LevelTrace

_SAID_BY_MARK = ("The folding limit was kept: ", "The folding limit was not kept: ")
_HIGHEST_TABLE = 230  # pixels
_KEPT, _UNLIKE, _BROKEN = "#2e9e44", "#e69500", "#d03b3b"


class ResultSection:
    """Shows the last registration of a parameter node, also after its scene was saved and loaded again.

    Attributes
    ----------
    nodes : the result, or None.
    """

    def __init__(self, ui: Any, parameters: Callable[[], Any]) -> None:
        self.ui = ui
        self._parameters = parameters
        self.nodes: OutcomeNodes | None = None
        self._shown: tuple[Any, ...] | None = None
        self._views = Views()
        self._trace = PlotPane(ui.tracePlotFrame)
        for view in View:
            ui.viewComboBox.addItem(view.label())
        for table in (ui.measuresTable, ui.stagesTable):
            keep_rows_fitting(table, _HIGHEST_TABLE)
        ui.viewComboBox.connect("currentIndexChanged(int)", self._viewChosen)
        ui.gridCheckBox.connect("toggled(bool)", self._gridToggled)
        ui.chartButton.connect("clicked(bool)", self._showChart)
        self._clear(True)

    def refresh(self) -> bool:
        """Show what the parameter node says; called whenever it has changed. Return whether there is something else to show."""
        parameters = self._parameters()
        node = None if parameters is None else parameters.result
        chosen = () if parameters is None else (parameters.fixedVolume, parameters.movingVolume)
        shown = None if node is None else (node.GetID(), *(None if one is None else one.GetID() for one in chosen))
        if shown == self._shown:
            return False
        if (shown and shown[0]) != (self._shown and self._shown[0]):
            # Another result, or none: what moves, and the grid that is drawn, are of the one before.
            self._views.stop()
            self._hide_grid()
            self.ui.viewComboBox.blockSignals(True)
            self.ui.viewComboBox.setCurrentIndex(0)
            self.ui.viewComboBox.blockSignals(False)
        self._shown = shown
        self.nodes, report = None, None
        if node is not None:
            try:
                report = read_report_node(node)
                self.nodes = read_back(slicer.mrmlScene, node)
            except InputError as error:
                self.ui.verdictLabel.setText(html.escape(str(error)))
        if report is None or self.nodes is None:
            self._clear(node is None)
            return True
        pair = self._pair_words(parameters)
        self.ui.verdictLabel.setText(breakable(verdict_text(report, "" if self._is_of(parameters) else pair)))
        self.ui.detailsLabel.setText(breakable(details_text(report, pair, self._field_words())))
        self.ui.detailsCollapsibleButton.setVisible(True)
        self._fill_measures(report)
        self._fill_stages(report)
        self._trace.show(None if self.nodes.registration_trace is None else self.nodes.registration_trace.chart)
        self._enable(True)
        return True

    def forget_removed(self) -> None:
        """Look again for the nodes of the result if the user has removed one of them from the scene."""
        if self.nodes is not None and any(node.GetScene() is None for node in self.nodes.all()):
            self._shown = None
            self.refresh()

    def present(self) -> None:
        """Open the section and show the result that has just come in the slice views."""
        self.ui.resultCollapsibleButton.collapsed = False
        self.ui.applyCollapsibleButton.collapsed = False
        if self.nodes is None:
            return
        self._views.fit(self.nodes)
        if self.ui.viewComboBox.currentIndex == 0:
            self._viewChosen(0)
        else:
            self.ui.viewComboBox.setCurrentIndex(0)

    def release(self) -> None:
        """Let go of everything that belongs to a scene that closes."""
        self._views.stop()
        self._hide_grid()
        self._shown = None
        self._clear(True)

    def pause(self) -> None:
        """Stop what moves by itself, because the user has left the module."""
        self._views.pause()

    def resume(self) -> None:
        """Go on with what moved when the user left the module."""
        self._views.resume()

    def _clear(self, none_yet: bool) -> None:
        self.nodes = None
        self.ui.detailsCollapsibleButton.setVisible(False)
        if none_yet:
            self.ui.verdictLabel.setText(_("Nothing has been registered yet."))
        for table in (self.ui.measuresTable, self.ui.stagesTable):
            table.setRowCount(0)
            table.setVisible(False)
        self._trace.show(None)
        self._enable(False)

    def _enable(self, there: bool) -> None:
        for widget in (self.ui.viewComboBox, self.ui.gridCheckBox, self.ui.chartButton, self.ui.pageButton):
            widget.setEnabled(there)

    def _pair_words(self, parameters: Any) -> str:
        """Say which volumes the result is of, and if they are not those that are chosen now."""
        moving, fixed = (self.nodes.moving, self.nodes.fixed) if self.nodes is not None else (None, None)
        if moving is None or fixed is None:
            return ""
        words = _("{moving} registered to {fixed}").format(moving=moving.GetName(), fixed=fixed.GetName())
        if not self._is_of(parameters):
            words += _(" (not the volumes that are chosen above)")
        return words

    def _is_of(self, parameters: Any) -> bool:
        """Tell whether the result is of the volumes that are chosen now."""
        nodes = self.nodes
        return nodes is not None and (nodes.fixed, nodes.moving) == (parameters.fixedVolume, parameters.movingVolume)

    def _field_words(self) -> str:
        """Say by how much the transform differs from what was measured, if it was stored as one displacement field."""
        transform = None if self.nodes is None else self.nodes.transform
        text = None if transform is None else transform.GetAttribute(FIELD_DIFFERENCE)
        if not text:
            return ""
        apart = json.loads(text)
        if apart["maximum"] <= EXACT_VOXELS * apart.get("voxel", 1.0):
            return ""
        return _(
            "The transform is stored as one displacement field; it differs from the one that was measured by {mean:.2g} mm on "
            "average and {most:.2g} mm at most."
        ).format(mean=apart["mean"], most=apart["maximum"])

    def _fill_measures(self, report: Report) -> None:
        dice = report.measured.dice
        rows = [] if dice is None else [
            (
                wording.name(s.name),
                wording.number(s.dice_before),
                wording.number(s.dice),
                wording.number(s.hd95_mm, 1),
                wording.number(s.mean_surface_distance_mm, 1),
            )
            for s in dice.structures
        ]
        columns = (_("Structure"), _("Dice before"), _("after"), _("HD95, mm"), _("mean, mm"))
        _fill(self.ui.measuresTable, columns, rows, stretched=0)

    def _fill_stages(self, report: Report) -> None:
        levels = (*report.alignment.stages, *report.registration)
        rows = [(level.stage, str(level.level + 1), str(len(level.values)), _why_ended(level)) for level in levels]
        _fill(self.ui.stagesTable, (_("Step"), _("Level"), _("Iterations"), _("Why it ended")), rows, stretched=3)

    def _viewChosen(self, index: int) -> None:  # noqa: N802 - Slicer's style
        if self.nodes is None or index < 0:
            return
        if None in (self.nodes.fixed, self.nodes.moving, self.nodes.warped, self.nodes.jacobian):
            self.ui.verdictLabel.setText(_("The volumes of this result are no longer in the scene: register again."))
            self.ui.detailsCollapsibleButton.setVisible(False)
            return
        with slicer.util.tryWithErrorDisplay(_("The view could not be shown."), waitCursor=True):
            self._views.show(self.nodes, list(View)[index])

    def _gridToggled(self, shown: bool) -> None:  # noqa: N802
        if self.nodes is not None and self.nodes.transform is not None and self.nodes.fixed is not None:
            with slicer.util.tryWithErrorDisplay(_("The grid could not be shown.")):
                showing.show_deformation(self.nodes.transform, self.nodes.fixed, slicer.mrmlScene, visible=shown)

    def _hide_grid(self) -> None:
        """Untick the deformed grid, and hide it if it is drawn."""
        if self.ui.gridCheckBox.checked:
            if self.nodes is not None and self.nodes.transform is not None and self.nodes.transform.GetScene() is not None:
                self._gridToggled(False)
            self.ui.gridCheckBox.blockSignals(True)
            self.ui.gridCheckBox.setChecked(False)
            self.ui.gridCheckBox.blockSignals(False)

    def _showChart(self) -> None:  # noqa: N802
        if self.nodes is not None and self.nodes.registration_trace is not None:
            slicer.modules.plots.logic().ShowChartInLayout(self.nodes.registration_trace.chart)


def verdict_text(report: Report, pair: str = "") -> str:
    """Return the verdict on a registration in one line of rich text: limit kept? what came out, how many warnings."""
    warnings = len(wording.all_warnings(report))
    # The mark says already whether the limit was kept, and what stands behind a semicolon is for who wants to know more.
    first, more, _rest = (first_line(report) or wording.verdict(report)).partition("; ")
    for said in _SAID_BY_MARK:
        first = first.replace(said, "", 1)
    parts = [_limit_mark(report), html.escape(f"{first}." if more else first)]
    if pair:
        parts.insert(0, f"<b>{html.escape(pair)}</b>")
    if warnings == 1:
        parts.append(_("\u26a0 <b>1 warning under \"Details\".</b>"))
    elif warnings:
        parts.append(_("\u26a0 <b>{count} warnings under \"Details\".</b>").format(count=warnings))
    return " ".join(part for part in parts if part)


def details_text(report: Report, pair: str = "", stored: str = "") -> str:
    """Return all else that is to be said of a registration as rich text: which pair, measures, warnings, how long it took."""
    lines = [f"<b>{html.escape(pair)}</b>"] if pair else []
    # Of a λ that was given the first line says no more than the verdict.
    sentences = (first_line(report) if was_chosen(report) else "", wording.verdict(report))
    lines += [html.escape(line) for line in sentences if line]
    # The verdict sends its reader to the warnings below.
    lines += [f"\u26a0 {html.escape(warning)}" for warning in wording.all_warnings(report)]
    if stored:
        lines.append(html.escape(stored))
    total = sum(seconds for seconds in report.seconds.values() if math.isfinite(seconds))
    lines.append(html.escape(_("Took {seconds:.0f} s.").format(seconds=total)))
    return "".join(f"<p>{line}</p>" for line in lines)


def _why_ended(level: LevelTrace) -> str:
    """Return why a level ended: in plain words where there are some, else in the optimizer's own."""
    if level.stop_meaning != UNKNOWN_STOP:
        return level.stop_meaning
    return _("The optimizer's own words: {reason}").format(reason=level.stop_reason)


def _limit_mark(report: Report) -> str:
    """Return whether the folding limit holds, as rich text with a coloured dot; nothing where no limit was asked for."""
    kept = report.limit_kept
    # A number by hand is not corrected, but the limit that was asked for still tells what to think of it.
    if kept is None and report.job.criterion.folding_limit is not None:
        kept = within_limit(report.measured.folding_percent, report.job.criterion)
    if kept is None:
        return ""
    color, word = (_KEPT, _("Limit kept.")) if kept else (_BROKEN, _("Limit not kept."))
    if kept and surprises(report.comparisons):
        color, word = _UNLIKE, _("Limit kept, but the result is not as predicted.")
    return f"<span style='color:{color}; font-size:large'>\u25cf</span> <b>{word}</b>"


def _fill(table: Any, columns: Sequence[str], rows: Sequence[Sequence[str]], stretched: int) -> None:
    table.setVisible(bool(rows))
    fit_columns(table, stretched, columns)
    table.setRowCount(len(rows))
    for row, texts in enumerate(rows):
        for column, text in enumerate(texts):
            item = qt.QTableWidgetItem(text)
            item.setToolTip(text)
            table.setItem(row, column, item)
    fit_rows(table, _HIGHEST_TABLE)
