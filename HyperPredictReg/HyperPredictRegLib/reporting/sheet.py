"""The common look of the pictures: sheets of slices at one scale, letters, scale bars, colours, PNG bytes.

Only matplotlib's objects are used, never `pyplot`, whose global state a host application may own. matplotlib is imported
when a picture is drawn, so that a report can still be written where it is missing.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from HyperPredictRegLib.reporting.views import Plane

WIDTH = 10.4
"""Width of every picture in inches; with `DPI` it is about twice as fine as the page shows it."""
DPI = 160

_MARGIN, _GAP, _HEADER, _ROW_TITLE = 0.14, 0.10, 0.36, 0.30
_TALLEST_PANEL = 4.2
_LARGE_BYTES = 350_000


@dataclass(frozen=True)
class Theme:
    """Colours of a picture's paper and ink."""

    paper: str
    ink: str
    faint: str
    line: str
    alert: str


FILM = Theme(paper="#0e1216", ink="#e9edf1", faint="#9fabb6", line="#3a444d", alert="#ffd400")
LIGHT = Theme(paper="#ffffff", ink="#1d2731", faint="#5d6b78", line="#1f6fb4", alert="#b4470b")
DARK = Theme(paper="#171d23", ink="#e9edf1", faint="#9fabb6", line="#6db6f2", alert="#ffab66")

FIXED_COLOUR, MOVING_COLOUR = "#35e06a", "#ff5cf4"


def new_figure(width: float, height: float, paper: str) -> Any:
    """Return an empty matplotlib figure, sizes in inches, that draws on memory alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor=paper)
    FigureCanvasAgg(figure)
    return figure


def png(figure: Any) -> bytes:
    """Return a figure as PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor=figure.get_facecolor())
    return buffer.getvalue()


def compact(image: bytes) -> bytes:
    """Return PNG bytes as they are if they are few, and otherwise as a JPEG, so that a page can be sent by mail."""
    if len(image) <= _LARGE_BYTES:
        return image
    from PIL import Image

    buffer = io.BytesIO()
    # Full colour resolution: halved, it would smear the coloured rims that an overlay is read by.
    Image.open(io.BytesIO(image)).convert("RGB").save(buffer, format="JPEG", quality=90, subsampling=0)
    return buffer.getvalue()


@dataclass(frozen=True)
class Sheet:
    """A dark sheet with rows of slices, all at the same scale.

    `panels[row][column]` are axes whose coordinates are mm from the slice's upper left corner; `inch_per_mm` is the scale.
    """

    figure: Any
    panels: tuple[tuple[Any, ...], ...]
    inch_per_mm: float
    height: float

    def header(self, words: Sequence[tuple[str, str]]) -> None:
        """Write (text, colour) pairs one after the other along the top edge."""
        x = _MARGIN
        for text, colour in words:
            label = self.figure.text(
                x / WIDTH, 1 - 0.2 / self.height, text, color=colour, fontsize=9, va="center", ha="left"
            )
            box = label.get_window_extent(self.figure.canvas.get_renderer())
            x += box.width / self.figure.dpi + 0.16


def new_sheet(planes: Sequence[Plane], row_titles: Sequence[str], extra_height: float = 0.0) -> Sheet:
    """Lay out one row of panels per title, a panel per plane.

    Parameters
    ----------
    planes : the columns.
    row_titles : the rows, from the top; an empty title takes no room.
    extra_height : room left free below the rows, in inches.
    """
    sizes = [plane.size_mm for plane in planes]
    room = WIDTH - 2 * _MARGIN - _GAP * (len(planes) - 1)
    scale = min(room / sum(w for w, _ in sizes), _TALLEST_PANEL / max(h for _, h in sizes))
    tallest = max(h for _, h in sizes) * scale
    left_start = (WIDTH - scale * sum(w for w, _ in sizes) - _GAP * (len(planes) - 1)) / 2
    title_rooms = [_ROW_TITLE if title else 0.0 for title in row_titles]
    height = _HEADER + sum(title_rooms) + len(row_titles) * tallest + (len(row_titles) - 1) * _GAP + _MARGIN + extra_height
    figure = new_figure(WIDTH, height, FILM.paper)
    top, rows = height - _HEADER, []
    for title, title_room in zip(row_titles, title_rooms, strict=True):
        if title:
            y = (top - title_room / 2) / height
            figure.text(left_start / WIDTH, y, title, color=FILM.ink, fontsize=10, weight="bold", va="center")
        top -= title_room
        left, row = left_start, []
        for plane, (w, _) in zip(planes, sizes, strict=True):
            panel = figure.add_axes((left / WIDTH, (top - tallest) / height, w * scale / WIDTH, tallest / height))
            prepare_panel(panel, plane, tallest / scale)
            row.append(panel)
            left += w * scale + _GAP
        rows.append(tuple(row))
        top -= tallest + _GAP
    return Sheet(figure, tuple(rows), scale, height)


def prepare_panel(panel: Any, plane: Plane, room_mm: float | None = None) -> None:
    """Give axes the coordinates of a slice, in mm from its upper left corner, and take away all decoration.

    The slice is centred in `room_mm` from top to bottom, so that the panels of a row are equally high.
    """
    width, height = plane.size_mm
    spare = (room_mm - height) / 2 if room_mm is not None else 0.0
    panel.set_xlim(0, width)
    panel.set_ylim(height + spare, -spare)
    panel.autoscale(False)
    panel.set_xticks([])
    panel.set_yticks([])
    panel.set_facecolor("black")
    for spine in panel.spines.values():
        spine.set_visible(False)


def show(panel: Any, plane: Plane, slice_values: np.ndarray, **options: Any) -> Any:
    """Draw a slice, already cut by `plane`, into a panel; `options` go to matplotlib's ``imshow``."""
    width, height = plane.size_mm
    options.setdefault("interpolation", "bilinear")
    return panel.imshow(slice_values, extent=(0, width, height, 0), aspect="auto", **options)


def annotate(panel: Any, plane: Plane, position: int) -> None:
    """Write the patient's directions at the panel's edges and which slice it is."""
    left, right, top, bottom = plane.letters
    outlined = {"fontsize": 9, "weight": "bold", "color": FILM.ink, "transform": panel.transAxes, "path_effects": _outline()}
    panel.text(0.015, 0.5, left, ha="left", va="center", **outlined)
    panel.text(0.985, 0.5, right, ha="right", va="center", **outlined)
    panel.text(0.5, 0.985, top, ha="center", va="top", **outlined)
    panel.text(0.5, 0.015, bottom, ha="center", va="bottom", **outlined)
    panel.text(
        0.015, 0.985, f"{plane.name} {position + 1}/{plane.slice_count}", ha="left", va="top", fontsize=7.5, color=FILM.ink,
        transform=panel.transAxes, bbox={"facecolor": "black", "alpha": 0.6, "edgecolor": "none", "pad": 1.5},
    )


def scale_bar(panel: Any, plane: Plane) -> None:
    """Draw a bar of a round length in the panel's lower right corner."""
    length = round_number(plane.size_mm[0] / 4)
    (left, right), (bottom, top) = panel.get_xlim(), panel.get_ylim()
    x, y = right - 0.025 * (right - left), bottom - 0.03 * (bottom - top)
    panel.plot([x - length, x], [y, y], color=FILM.ink, linewidth=1.6, solid_capstyle="butt", path_effects=_outline())
    panel.text(
        x - length / 2, y - 0.012 * (bottom - top), f"{length:g} mm", ha="center", va="bottom", fontsize=7, color=FILM.ink,
        path_effects=_outline(),
    )


def round_number(value: float) -> float:
    """Return the largest of 1, 2, 5 times a power of ten that is not above a positive value."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(max(step * power for step in (1, 2, 5) if step * power <= value * (1 + 1e-9)))


def _outline() -> list[Any]:
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=1.8, foreground="black")]
