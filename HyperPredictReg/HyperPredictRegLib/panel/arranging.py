"""How the panel keeps its shape in Slicer's window, whatever it shows, and shows texts, tables and charts."""

import re
from collections.abc import Sequence
from typing import Any

import qt
import slicer

_LONG_WORD = re.compile(r"[^\s<>&;'\"]{30}(?=[^\s<>&;'\"])")
_BREAK = "\u200b"  # a space of no width

_HEADER_HEIGHT = 48  # pixels, with room for a scroll bar

_MODULE_PANEL = "qSlicerModulePanel"
_WRITTEN_SYMBOL = "λ"  # what the .ui file calls the parameter, whatever the method


def leave_module_panel(widget: Any) -> None:
    """Take the module's widget out of the layout of Slicer's module panel, just before Slicer does; for `exit`.

    Slicer's `removeModule` drops the layout item of the widget without destroying it. The widget then tells that dead item, and
    not the one that it gets when the user comes back, that its heights have changed: labels that wrap keep the height that they
    had, and all below is squeezed. Taken out by the layout itself, the item is destroyed. What Slicer takes away by number
    afterwards is the empty space that is left here in its place. Does nothing where the widget lies elsewhere.

    Parameters
    ----------
    widget : the qSlicerScriptedLoadableModuleWidget.
    """
    around = widget.parentWidget()
    if not _lies_in(around, _MODULE_PANEL):
        return
    layout = around.layout()
    place = layout.indexOf(widget)
    if place >= 0:
        layout.removeWidget(widget)
        layout.insertSpacing(place, 0)


def _lies_in(widget: Any, class_name: str) -> bool:
    # By name: PythonQt's classes do not inherit from one another, as isinstance() would need.
    while widget is not None:
        if widget.className() == class_name:
            return True
        widget = widget.parentWidget()
    return False


class SymbolTexts:
    """Puts the symbol of the method's own parameter in place of λ in all texts and tooltips of the .ui file."""

    def __init__(self, ui: Any) -> None:
        self._symbol = _WRITTEN_SYMBOL
        self._written = [
            (widget, name, text)
            for widget in vars(ui).values()
            for name in ("text", "toolTip")
            if isinstance(text := getattr(widget, name, None), str) and _WRITTEN_SYMBOL in text
        ]

    def show(self, symbol: str) -> None:
        """Write the symbol everywhere."""
        if symbol == self._symbol:
            return
        self._symbol = symbol
        for widget, name, text in self._written:
            setattr(widget, name, text.replace(_WRITTEN_SYMBOL, symbol))


def breakable(text: str) -> str:
    """Return a text, plain or rich, whose longest words (names, mostly) may go on in the next line instead of being cut off."""
    return _LONG_WORD.sub(rf"\g<0>{_BREAK}", text)


def fit_columns(table: Any, stretched: int, texts: Sequence[str]) -> None:
    """Set the titles of a table's columns; let one column take what room the others leave, and cut its texts where they end.

    Parameters
    ----------
    table : QTableWidget.
    stretched : the column with the long texts.
    texts : the titles.
    """
    table.setColumnCount(len(texts))
    table.setHorizontalHeaderLabels(list(texts))
    header = table.horizontalHeader()
    header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
    header.setSectionResizeMode(stretched, qt.QHeaderView.Stretch)
    table.verticalHeader().setVisible(False)


def fit_rows(table: Any, highest: int) -> None:
    """Make the rows of a table as high as their wrapped texts need, and the table as high as its rows.

    So short tables leave no hole; where rows need more than `highest` pixels, they scroll.
    """
    if table.rowCount == 0:
        return
    table.resizeRowsToContents()
    height = sum(table.rowHeight(row) for row in range(table.rowCount)) + _HEADER_HEIGHT
    table.setFixedHeight(min(height, highest))


def keep_rows_fitting(table: Any, highest: int) -> None:
    """Fit the rows anew whenever a column gets another width: a table that is filled while it is hidden has not its own yet."""
    # While the header tells of a width, the rows still know the one before. The timer goes with the table.
    timer = qt.QTimer(table)
    timer.setSingleShot(True)
    timer.setInterval(0)
    timer.connect("timeout()", lambda: fit_rows(table, highest))
    table.horizontalHeader().connect("sectionResized(int,int,int)", lambda column, before, now: timer.start())


class PlotPane:
    """A plot view inside the panel that shows one chart of the scene; hidden while there is nothing to show.

    A view of its own, so that the user's layout stays as it is. Its view node is not in the scene: there, the layout manager
    would make a second view for it, and every other chart that is shown anywhere would be shown here too.
    """

    def __init__(self, frame: Any) -> None:
        self._frame = frame
        self._node = slicer.vtkMRMLPlotViewNode()
        # Held here, because the view itself does not hold the chart that it shows.
        self._chart: Any = None
        self._view = slicer.qMRMLPlotView()
        self._view.setMRMLScene(slicer.mrmlScene)
        frame.layout().addWidget(self._view)
        # What else is in the frame has all of it.
        self._view.setVisible(False)
        frame.setVisible(False)

    def show(self, chart: Any) -> None:
        """Show a chart node; None shows nothing."""
        if chart is self._chart:
            return
        self._frame.setVisible(chart is not None)
        self._view.setVisible(chart is not None)
        self._view.setMRMLPlotViewNode(None)
        self._chart = chart
        if chart is not None:
            # Charts of scenes from before have one, which would cover the curves.
            chart.SetLegendVisibility(False)
            self._node.SetPlotChartNodeID(chart.GetID())
            self._view.setMRMLPlotViewNode(self._node)


def show_text(label: Any, text: str) -> None:
    """Show a text whose long words may be broken, or hide its label if there is none."""
    text, before = breakable(text), label.text
    if text != before:
        label.setText(text)
    # A collapsed section hides what is in it by itself: asking whether a label is hidden would not tell.
    if not text or not before:
        label.setVisible(bool(text))


def fill_table(table: Any, columns: Sequence[str], rows: Sequence[Sequence[str]], stretched: int, highest: int) -> None:
    """Fill a table with texts, each also under the mouse; hide it if there are none."""
    table.setVisible(bool(rows))
    fit_columns(table, stretched, columns)
    table.setRowCount(len(rows))
    for row, texts in enumerate(rows):
        for column, text in enumerate(texts):
            item = qt.QTableWidgetItem(text)
            item.setToolTip(text)
            table.setItem(row, column, item)
    fit_rows(table, highest)
