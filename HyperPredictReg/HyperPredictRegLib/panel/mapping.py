"""A prediction over two parameters inside the panel: a picture, whose pixels the presentation gives, and clicks on it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import qt
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util import numpy_support

from HyperPredictRegLib.core.search_space import Setting
from HyperPredictRegLib.presentation.map_picture import HEIGHT, MapColors, MapPicture

_TEXT_PIXELS = 11


@dataclass(frozen=True)
class MapShown:
    """One map.

    Attributes
    ----------
    prediction : that it is of, told apart by identity.
    part : of it that is drawn, such as the name of a structure.
    draw : returns the map for a width in pixels and colors.
    setting, color : of the user's mark.
    """

    prediction: Any
    part: str | None
    draw: Callable[[int, MapColors], MapPicture]
    setting: Setting
    color: str


class MapPane:
    """A label that shows one map, drawn as wide as it is; hidden while there is nothing to show.

    Parameters
    ----------
    frame : the widget that it is put into, below what is there.
    onChosen : is given both values where the user clicks, or drags to, on the map.

    Attributes
    ----------
    picture : what is shown, or None.
    """

    def __init__(self, frame: Any, onChosen: Callable[[Setting], None]) -> None:  # noqa: N803 - Slicer's style
        self.picture: MapPicture | None = None
        self._frame = frame
        self._shown: MapShown | None = None
        self._drawn: tuple[int, MapColors] | None = None
        self._onChosen = onChosen
        self._label = qt.QLabel()
        # It takes the width that there is: its picture must not keep the panel from becoming narrower.
        self._label.setSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Fixed)
        self._label.setFixedHeight(HEIGHT)
        self._label.setAlignment(qt.Qt.AlignLeft | qt.Qt.AlignTop)
        self._label.setCursor(qt.QCursor(qt.Qt.CrossCursor))
        self._label.setToolTip(
            _("Predicted for each pair of values. Line: your folding limit; hatched: beyond it. Click to set both values.")
        )
        self._label.setVisible(False)
        frame.layout().addWidget(self._label)
        # Held here: Qt does not hold those who watch.
        self._watcher = _Watcher(self._pressed, self._resized)
        self._label.installEventFilter(self._watcher)
        # A new picture while Qt still tells of a new size would start the layout over.
        self._timer = qt.QTimer(self._label)
        self._timer.setSingleShot(True)
        self._timer.setInterval(0)
        self._timer.connect("timeout()", self._redraw)

    def show(self, shown: MapShown | None) -> None:
        """Show a map, drawn anew only where something that it depends on has changed; None shows nothing."""
        if shown is None:
            if self._shown is not None:
                self._frame.setVisible(False)
                self._label.setVisible(False)
            self.picture = self._shown = self._drawn = None
            return
        before, self._shown = self._shown, shown
        if before is None:
            self._label.setVisible(True)
            self._frame.setVisible(True)
        look = (self._label.width, self._colors())
        if before is None or self._drawn != look or before.prediction is not shown.prediction or before.part != shown.part:
            self.picture, self._drawn, before = shown.draw(*look), look, None
        if self.picture is not None and (before is None or before.setting != shown.setting):
            self._label.setPixmap(_pixmap(self.picture, self.picture.marked(shown.setting, shown.color), look[1]))

    def _colors(self) -> MapColors:
        palette = self._label.palette
        return MapColors(palette.color(qt.QPalette.Window).name(), palette.color(qt.QPalette.WindowText).name())

    def _resized(self) -> None:
        self._timer.start()

    def _redraw(self) -> None:
        if self._shown is not None:
            self.show(self._shown)

    def _pressed(self, x: int, y: int) -> None:
        setting = None if self.picture is None else self.picture.setting_at(x, y)
        if setting is not None:
            self._onChosen(setting)


class _Watcher(qt.QObject):
    """Tells of clicks on a widget, and of moves with the left button pressed, and of its new size or colors."""

    def __init__(self, onPressed: Callable[[int, int], None], onResized: Callable[[], None]) -> None:  # noqa: N803
        super().__init__()
        self._onPressed, self._onResized = onPressed, onResized

    def eventFilter(self, watched: Any, event: Any) -> bool:  # noqa: N802 - Qt's name
        """Look at an event; it goes its way."""
        kind = event.type()
        if kind == qt.QEvent.Resize or kind == qt.QEvent.PaletteChange:
            self._onResized()
        elif kind == qt.QEvent.MouseMove or (kind == qt.QEvent.MouseButtonPress and event.button() == qt.Qt.LeftButton):
            # Without tracking, moves are told of only while a button is pressed.
            self._onPressed(event.pos().x(), event.pos().y())
        return False


def _pixmap(picture: MapPicture, pixels: np.ndarray, colors: MapColors) -> Any:
    """Return a QPixmap of pixels with a map's captions."""
    height, width, channels = pixels.shape
    # VTK's first row is the lowest.
    flat = np.ascontiguousarray(pixels[::-1]).reshape(-1, channels)
    image = vtk.vtkImageData()
    image.SetDimensions(width, height, 1)
    image.GetPointData().SetScalars(numpy_support.numpy_to_vtk(flat, deep=True, array_type=vtk.VTK_UNSIGNED_CHAR))
    paper = qt.QImage()
    slicer.qMRMLUtils().vtkImageDataToQImage(image, paper)
    painter, font, bold = qt.QPainter(), qt.QFont(), qt.QFont()
    for one in (font, bold):
        one.setPixelSize(_TEXT_PIXELS)
    bold.setBold(True)
    sides = {"left": qt.Qt.AlignLeft, "right": qt.Qt.AlignRight, "center": qt.Qt.AlignHCenter}
    painter.begin(paper)
    painter.setPen(qt.QColor(colors.ink))
    for one in picture.captions:
        painter.setFont(bold if one.bold else font)
        flags = int(sides[one.side]) | int(qt.Qt.AlignVCenter) | int(qt.Qt.TextSingleLine)
        painter.drawText(one.left, one.top, one.width, one.height, flags, one.text)
    painter.end()
    return qt.QPixmap.fromImage(paper)
