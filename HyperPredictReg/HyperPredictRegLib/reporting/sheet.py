"""The common look of the pictures: sheets of slices at one scale, letters, scale bars, colors, PNG bytes.

Only matplotlib's objects are used, never `pyplot`, whose global state a host application may own. matplotlib is imported
when a picture is drawn, so that a report can still be written where it is missing.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from HyperPredictRegLib.spatial.geometry import Geometry

LETTERS = (("L", "R"), ("P", "A"), ("S", "I"))
"""For each LPS axis: the letter at its positive end and at its negative end."""

# Name, LPS axis across the screen and its sign from left to right, LPS axis down the screen and its sign downwards.
_SCREENS = (
    ("axial", 0, 1, 1, 1),
    ("coronal", 0, 1, 2, -1),
    ("sagittal", 1, 1, 2, -1),
)


WIDTH = 10.4
"""Width of every picture in inches; with `DPI` it is about twice as fine as the page shows it."""
DPI = 160

_MARGIN, _GAP, _HEADER, _ROW_TITLE = 0.14, 0.10, 0.36, 0.30
_TALLEST_PANEL = 4.2
_LARGE_BYTES = 350_000


@dataclass(frozen=True)
class Theme:
    """Colors of a picture's paper and ink."""

    paper: str
    ink: str
    faint: str
    line: str
    alert: str


FILM = Theme(paper="#0e1216", ink="#e9edf1", faint="#9fabb6", line="#3a444d", alert="#ffd400")
LIGHT = Theme(paper="#ffffff", ink="#1d2731", faint="#5d6b78", line="#1f6fb4", alert="#b4470b")
DARK = Theme(paper="#171d23", ink="#e9edf1", faint="#9fabb6", line="#6db6f2", alert="#ffab66")

FIXED_COLOR, MOVING_COLOR = "#35e06a", "#ff5cf4"


@dataclass(frozen=True)
class Plane:
    """One family of parallel slices of a grid and the way they are shown.

    Attributes
    ----------
    name : "axial", "coronal" or "sagittal".
    across, down, through : the index axes (0, 1, 2 for i, j, k) from left to right, from top to bottom, between slices.
    flip_across, flip_down : whether the index falls from left to right, or from top to bottom.
    letters : the patient's direction at the left, right, top and bottom edge of the screen.
    geometry : the grid.
    """

    name: str
    across: int
    down: int
    through: int
    flip_across: bool
    flip_down: bool
    letters: tuple[str, str, str, str]
    geometry: Geometry

    @property
    def size_mm(self) -> tuple[float, float]:
        """Width and height of a slice on the screen, in mm."""
        extent = self.geometry.extent_mm
        return extent[self.across], extent[self.down]

    @property
    def pixel_centers(self) -> tuple[np.ndarray, np.ndarray]:
        """Centers of a slice's columns and of its rows, in mm from its upper left corner."""
        geometry = self.geometry
        columns = (np.arange(geometry.size[self.across]) + 0.5) * geometry.spacing[self.across]
        rows = (np.arange(geometry.size[self.down]) + 0.5) * geometry.spacing[self.down]
        return columns, rows

    @property
    def slice_count(self) -> int:
        """Number of slices."""
        return self.geometry.size[self.through]

    def cut(self, voxels: np.ndarray, position: int) -> np.ndarray:
        """Return slice `position` of an array indexed (k, j, i) as it is shown: rows downwards, columns to the right."""
        axis = {index_axis: 2 - index_axis for index_axis in range(3)}
        ordered = voxels.transpose(axis[self.through], axis[self.down], axis[self.across])[position]
        return ordered[:: -1 if self.flip_down else 1, :: -1 if self.flip_across else 1]

    def to_screen(self, indices: np.ndarray) -> np.ndarray:
        """Map continuous indices (..., 3), order i, j, k, to mm right of and below the upper left corner, (..., 2)."""
        indices = np.asarray(indices, dtype=float)
        size, spacing = self.geometry.size, self.geometry.spacing
        x, y = indices[..., self.across], indices[..., self.down]
        x = size[self.across] - 1 - x if self.flip_across else x
        y = size[self.down] - 1 - y if self.flip_down else y
        return np.stack([(x + 0.5) * spacing[self.across], (y + 0.5) * spacing[self.down]], axis=-1)

    def slab(self, position: int) -> Geometry:
        """Return the grid of slice `position` alone: one voxel thick, in the grid's own orientation."""
        lower, upper = [0, 0, 0], [0, 0, 0]
        lower[self.through] = -position
        upper[self.through] = position + 1 - self.slice_count
        return self.geometry.padded(lower, upper)


def planes_of(geometry: Geometry) -> tuple[Plane, Plane, Plane]:
    """Return the axial, coronal and sagittal plane of a grid; oblique axes go by their nearest anatomical axis."""
    index_axis, sign = _nearest_axes(geometry)
    planes = []
    for name, across, across_sign, down, down_sign in _SCREENS:
        through = 3 - across - down
        left_right = LETTERS[across][::-1] if across_sign > 0 else LETTERS[across]
        top_bottom = LETTERS[down][::-1] if down_sign > 0 else LETTERS[down]
        planes.append(
            Plane(
                name=name,
                across=index_axis[across],
                down=index_axis[down],
                through=index_axis[through],
                flip_across=sign[across] != across_sign,
                flip_down=sign[down] != down_sign,
                letters=(left_right[0], left_right[1], top_bottom[0], top_bottom[1]),
                geometry=geometry,
            )
        )
    return planes[0], planes[1], planes[2]


def obliqueness_degrees(geometry: Geometry) -> float:
    """Return the largest angle between an axis of the grid and the anatomical axis that it is named after."""
    index_axis, _ = _nearest_axes(geometry)
    cosines = [abs(geometry.direction_matrix[lps, index_axis[lps]]) for lps in range(3)]
    return math.degrees(math.acos(min(1.0, min(cosines))))


def center_of(mask: np.ndarray) -> tuple[int, int, int]:
    """Return the voxel (i, j, k) at the centroid of a mask indexed (k, j, i), or of the whole grid if it is empty."""
    filled = mask > 0
    if not filled.any():
        filled = np.ones_like(filled)
    center = []
    for axis in (2, 1, 0):
        weights = filled.sum(axis=tuple(a for a in range(3) if a != axis))
        center.append(round(float(np.average(np.arange(len(weights)), weights=weights))))
    return center[0], center[1], center[2]


def _nearest_axes(geometry: Geometry) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return, for each LPS axis, the index axis nearest to it and whether that one runs with it (1) or against it (-1)."""
    direction = geometry.direction_matrix
    best = max(
        itertools.permutations(range(3)),
        key=lambda order: sum(abs(direction[lps, order[lps]]) for lps in range(3)),
    )
    return best, tuple(1 if direction[lps, best[lps]] >= 0 else -1 for lps in range(3))


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
    # Full color resolution: halved, it would smear the colored rims that an overlay is read by.
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
        """Write (text, color) pairs one after the other along the top edge."""
        x = _MARGIN
        for text, color in words:
            label = self.figure.text(
                x / WIDTH, 1 - 0.2 / self.height, text, color=color, fontsize=9, va="center", ha="left"
            )
            grid = label.get_window_extent(self.figure.canvas.get_renderer())
            x += grid.width / self.figure.dpi + 0.16


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

    The slice is centered in `room_mm` from top to bottom, so that the panels of a row are equally high.
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
