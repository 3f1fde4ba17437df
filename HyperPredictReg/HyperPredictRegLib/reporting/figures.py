"""The pictures of a report: how well the images agree, before and after, and what was done to space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.geometry import Geometry
from HyperPredictRegLib.outcome import Outcome
from HyperPredictRegLib.reporting import wording
from HyperPredictRegLib.reporting.sheet import (
    FILM,
    FIXED_COLOUR,
    MOVING_COLOUR,
    WIDTH,
    Sheet,
    annotate,
    new_sheet,
    prepare_panel,
    round_number,
    scale_bar,
    show,
)
from HyperPredictRegLib.reporting.views import Plane, centre_of, planes_of

_POINTS_PER_INCH = 72
_SMALLEST_MARK = 2.2
_DIMMED = 0.35
_LOWER_ROW, _LOWER_EDGE = 2.7, 0.2
_FEWEST_TICKS = 3
_ROUND_VOLUMES = (
    (0.0625, 0.125, 0.25, 0.5, 1, 2, 4, 8, 16),
    (0.5, 0.7, 1, 1.4, 2),
    (0.8, 0.9, 1, 1.1, 1.25),
)


@dataclass(frozen=True)
class Scene:
    """What the pictures are drawn from: arrays indexed (k, j, i) on the working grid, grey values from 0 to 1.

    `centre` is the voxel (i, j, k) through which the slices go; `before_title` says what the moving image had been through
    before the deformable step.
    """

    geometry: Geometry
    planes: tuple[Plane, Plane, Plane]
    centre: tuple[int, int, int]
    foreground: np.ndarray
    fixed: np.ndarray
    before: np.ndarray
    after: np.ndarray
    jacobian: np.ndarray
    before_title: str

    @classmethod
    def of(cls, outcome: Outcome) -> Scene:
        """Collect and window the images of an outcome."""
        geometry = Geometry.of(outcome.fixed_on_grid)
        foreground = sitk.GetArrayFromImage(outcome.foreground) > 0
        after = sitk.GetArrayFromImage(outcome.moving_registered)
        moving_window = _window(after, foreground)
        fixed = sitk.GetArrayFromImage(outcome.fixed_on_grid)
        return cls(
            geometry=geometry,
            planes=planes_of(geometry),
            centre=centre_of(foreground),
            foreground=foreground,
            fixed=_grey(fixed, _window(fixed, foreground)),
            # One window for both, or a change of window would look like a change of fit.
            before=_grey(sitk.GetArrayFromImage(outcome.moving_aligned), moving_window),
            after=_grey(after, moving_window),
            jacobian=sitk.GetArrayFromImage(outcome.jacobian).astype(float),
            before_title=f"Before: {wording.start_of(outcome.report)} only",
        )

    def position(self, plane: Plane) -> int:
        """Return the number of the slice of `plane` through the centre."""
        return self.centre[plane.through]


def draw_overlay(scene: Scene) -> Any:
    """Draw fixed (green) and moving (magenta) on top of each other; where they agree the sum is grey."""
    sheet = new_sheet(scene.planes, (scene.before_title, "After: registered"))
    sheet.header([("fixed", FIXED_COLOUR), ("moving", MOVING_COLOUR), ("both agree: grey", FILM.faint)])
    for row, moving in zip(sheet.panels, (scene.before, scene.after), strict=True):
        for panel, plane in zip(row, scene.planes, strict=True):
            position = scene.position(plane)
            green, magenta = plane.cut(scene.fixed, position), plane.cut(moving, position)
            show(panel, plane, np.stack([magenta, green, magenta], axis=-1))
    _finish(sheet, scene)
    return sheet.figure


def draw_checkerboard(scene: Scene) -> Any:
    """Draw tiles of the fixed and the moving image in turn; where they agree, edges run on from tile to tile."""
    sheet = new_sheet(scene.planes, (scene.before_title, "After: registered"))
    tile_mm = round_number(max(scene.planes[0].size_mm) / 7)
    sheet.header([(f"tiles of {tile_mm:g} mm, fixed and moving in turn", FILM.faint)])
    for row, moving in zip(sheet.panels, (scene.before, scene.after), strict=True):
        for panel, plane in zip(row, scene.planes, strict=True):
            position = scene.position(plane)
            fixed_slice, moving_slice = plane.cut(scene.fixed, position), plane.cut(moving, position)
            show(panel, plane, np.where(_tiles(plane, tile_mm), fixed_slice, moving_slice), cmap="gray", vmin=0, vmax=1)
    _finish(sheet, scene)
    return sheet.figure


def draw_jacobian(scene: Scene) -> Any:
    """Draw the Jacobian determinant on a logarithmic scale, folded voxels marked, and its spread over the foreground."""
    volume = VolumeMap.of(scene)
    sheet = new_sheet(scene.planes, ("",), extra_height=_LOWER_ROW + 0.55)
    words = [("Jacobian determinant of the whole transform", FILM.faint)]
    if volume.folded.any():
        inside, everywhere = int((volume.folded & scene.foreground).sum()), int(volume.folded.sum())
        words.append((f"■ folded: {inside} voxels in the foreground, {everywhere} in the box", FILM.alert))
    else:
        words.append(("no folded voxel", FILM.ink))
    sheet.header(words)
    for panel, plane in zip(sheet.panels[0], scene.planes, strict=True):
        volume.draw(panel, plane, scene.position(plane), scene, sheet.inch_per_mm)
    _finish(sheet, scene)
    _colour_bar(sheet, volume)
    left = _worst_panel(sheet, scene, volume, _LOWER_ROW) if volume.folded.any() else 0.75
    _histogram(sheet, scene, volume, left, _LOWER_ROW)
    return sheet.figure


def draw_deformed_grid(scene: Scene, outcome: Outcome) -> Any:
    """Draw a square grid painted on the aligned moving image and carried along by the deformable step."""
    sheet = new_sheet(scene.planes, ("",))
    step_mm = round_number(max(scene.geometry.extent_mm) / 16)
    sheet.header([
        (f"a grid of {step_mm:g} mm squares on the aligned moving image, after the registration moved it", FILM.faint),
    ])
    for panel, plane in zip(sheet.panels[0], scene.planes, strict=True):
        position = scene.position(plane)
        show(panel, plane, plane.cut(scene.after, position), cmap="gray", vmin=0, vmax=1.35)
        x, y = screen_after_deformation(outcome, plane, position)
        columns, rows = plane.pixel_centres
        for coordinate in (x, y):
            first, last = np.ceil(coordinate.min() / step_mm), np.floor(coordinate.max() / step_mm)
            levels = np.arange(first, last + 1) * step_mm
            if len(levels) and min(coordinate.shape) > 1:
                panel.contour(columns, rows, coordinate, levels=levels, colors="#58c7f3", linewidths=0.9)
    _finish(sheet, scene)
    return sheet.figure


def _window(values: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    inside = values[mask & np.isfinite(values)]
    if not inside.size:
        return 0.0, 1.0
    low, high = np.percentile(inside, (0.5, 99.5))
    # Black stays what is empty: a window that starts inside the tissue would hide its edge.
    low = min(low, float(np.percentile(values[np.isfinite(values)], 1)))
    return float(low), float(high) if high > low else float(low) + 1.0


def _grey(values: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    low, high = window
    return np.clip((np.nan_to_num(values, nan=low) - low) / (high - low), 0, 1).astype(np.float32)


def _finish(sheet: Sheet, scene: Scene) -> None:
    for row in sheet.panels:
        for panel, plane in zip(row, scene.planes, strict=True):
            annotate(panel, plane, scene.position(plane))
    scale_bar(sheet.panels[0][0], scene.planes[0])


def _tiles(plane: Plane, tile_mm: float) -> np.ndarray:
    x, y = plane.pixel_centres
    return (x[None, :] // tile_mm + y[:, None] // tile_mm) % 2 == 0


def _colour_limit(logarithm: np.ndarray) -> float:
    """Return the largest |log2 J| that the colours tell apart, between a gentle and a fourfold change."""
    if not logarithm.size:
        return 1.0
    return float(np.clip(np.percentile(np.abs(logarithm), 99.5), 0.25, 2.0))


def _slice_with_most(marked: np.ndarray, planes: tuple[Plane, ...]) -> tuple[Plane, int]:
    best = (planes[0], 0, -1)
    for plane in planes:
        through = 2 - plane.through
        counts = marked.sum(axis=tuple(axis for axis in range(3) if axis != through))
        if counts.max() > best[2]:
            best = (plane, int(counts.argmax()), int(counts.max()))
    return best[0], best[1]


@dataclass(frozen=True)
class VolumeMap:
    """log2 of the Jacobian determinant, where it is folded, and the colours that stand for it."""

    logarithm: np.ndarray
    folded: np.ndarray
    colours: Any

    @classmethod
    def of(cls, scene: Scene) -> VolumeMap:
        """Choose colours, centred on 1, that span nearly all of the foreground."""
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        folded = ~(scene.jacobian > 0)
        logarithm = np.log2(np.where(folded, 1.0, scene.jacobian))
        limit = _colour_limit(logarithm[scene.foreground & ~folded])
        return cls(logarithm, folded, ScalarMappable(Normalize(-limit, limit), "RdBu_r"))

    @property
    def limit(self) -> float:
        """The largest change, as |log2 J|, that the colours tell apart."""
        return float(self.colours.norm.vmax)

    def draw(self, panel: Any, plane: Plane, position: int, scene: Scene, inch_per_mm: float) -> None:
        """Draw one slice: dimmed outside of the foreground, folds as squares that can be seen at any scale."""
        inside = plane.cut(scene.foreground, position)
        colours = self.colours.to_rgba(plane.cut(self.logarithm, position))[..., :3]
        show(panel, plane, np.where(inside[..., None], colours, _DIMMED * colours), interpolation="nearest")
        panel.set_facecolor(_DIMMED * np.array(self.colours.to_rgba(0.0)[:3]))
        x, y = plane.pixel_centres
        if inside.any() and not inside.all() and min(inside.shape) > 1:
            panel.contour(x, y, inside.astype(float), levels=[0.5], colors="black", linewidths=0.6)
        rows, columns = np.nonzero(plane.cut(self.folded, position))
        voxel = min(plane.geometry.spacing[plane.across], plane.geometry.spacing[plane.down])
        side = max(_SMALLEST_MARK, inch_per_mm * _POINTS_PER_INCH * voxel)
        panel.scatter(x[columns], y[rows], s=side**2, marker="s", color=FILM.alert, edgecolors="black", linewidths=0.25)


def _colour_bar(sheet: Sheet, volume: VolumeMap) -> None:
    width, top, thickness = 2.6, 0.06, 0.1
    axes = sheet.figure.add_axes(
        ((WIDTH - 0.4 - width) / WIDTH, 1 - (top + thickness) / sheet.height, width / WIDTH, thickness / sheet.height)
    )
    bar = sheet.figure.colorbar(volume.colours, cax=axes, orientation="horizontal", extend="both")
    _name_ticks(bar.ax.xaxis, volume.limit)
    bar.ax.tick_params(colors=FILM.faint, labelsize=7, length=2, pad=1)
    bar.outline.set_visible(False)


def _name_ticks(axis: Any, limit: float) -> None:
    """Put ticks at round values of J on an axis that holds log2 J from -limit to limit."""
    for values in _ROUND_VOLUMES:
        shown = [value for value in values if abs(np.log2(value)) <= limit * (1 + 1e-9)]
        if len(shown) >= _FEWEST_TICKS:
            break
    axis.set_ticks(np.log2(shown), labels=[f"{value:g}" for value in shown])


def _worst_panel(sheet: Sheet, scene: Scene, volume: VolumeMap, room: float) -> float:
    """Draw the slice with most folds below the others; return where it ends, in inches from the left."""
    counted = volume.folded & scene.foreground
    plane, position = _slice_with_most(counted if counted.any() else volume.folded, scene.planes)
    width, height = plane.size_mm
    scale = min(room / height, 0.45 * WIDTH / width)
    left, bottom = 0.14, _LOWER_EDGE + room - height * scale
    panel = sheet.figure.add_axes((left / WIDTH, bottom / sheet.height, width * scale / WIDTH, height * scale / sheet.height))
    prepare_panel(panel, plane)
    volume.draw(panel, plane, position, scene, scale)
    annotate(panel, plane, position)
    _lower_title(sheet, f"Most folds: {int(plane.cut(volume.folded, position).sum())} in this slice", left, room)
    return left + width * scale + 0.75


def _lower_title(sheet: Sheet, text: str, left: float, room: float) -> None:
    y = (_LOWER_EDGE + room + 0.17) / sheet.height
    sheet.figure.text(left / WIDTH, y, text, color=FILM.ink, fontsize=9, weight="bold", va="center")


def _histogram(sheet: Sheet, scene: Scene, volume: VolumeMap, left: float, room: float) -> None:
    values = volume.logarithm[scene.foreground & ~volume.folded]
    reach = max(1.25 * volume.limit, min(4.0, float(np.percentile(np.abs(values), 99.8)))) if values.size else volume.limit
    counts, edges = np.histogram(values, bins=81, range=(-reach, reach))
    shares = 100 * counts / max(1, int(scene.foreground.sum()))
    axes = sheet.figure.add_axes(
        (left / WIDTH, (_LOWER_EDGE + 0.38) / sheet.height, (WIDTH - left - 0.3) / WIDTH, (room - 0.38) / sheet.height),
        facecolor=FILM.paper,
    )
    middles = (edges[:-1] + edges[1:]) / 2
    axes.bar(middles, shares, width=1.02 * (edges[1] - edges[0]), color=volume.colours.to_rgba(middles), linewidth=0)
    axes.axvline(0, color=FILM.faint, linewidth=0.8)
    axes.set_xlim(-reach, reach)
    axes.set_ylim(0, max(1e-3, 1.08 * float(shares.max())))
    _name_ticks(axes.xaxis, reach)
    axes.tick_params(colors=FILM.faint, labelsize=7.5, length=3)
    axes.set_xlabel("Jacobian determinant (1: volume kept)", color=FILM.faint, fontsize=8)
    axes.set_ylabel("% of foreground", color=FILM.faint, fontsize=8)
    _lower_title(sheet, "Spread over the foreground, without folds", left, room)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(FILM.line)


def screen_after_deformation(outcome: Outcome, plane: Plane, position: int) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each pixel of a slice, where on the screen (mm) the deformable step takes its value from."""
    slab = plane.slab(position)
    field = sitk.TransformToDisplacementField(
        outcome.transform, sitk.sitkVectorFloat64, slab.size, slab.origin, slab.spacing, slab.direction
    )
    moved = sitk.GetArrayFromImage(field)
    indices = np.stack(np.meshgrid(*(np.arange(n) for n in slab.size), indexing="ij"), axis=-1).transpose(2, 1, 0, 3)
    points = slab.to_lps(indices) + moved
    # transform = alignment after deformation; taking the alignment off leaves what the engine did.
    alignment = np.array(outcome.report.alignment.matrix, dtype=float).reshape(4, 4)
    points = (points - alignment[:3, 3]) @ np.linalg.inv(alignment[:3, :3]).T
    screen = plane.to_screen(plane.geometry.to_index(points))
    one_slice = [plane.cut(np.ascontiguousarray(screen[..., axis]), 0) for axis in range(2)]
    return one_slice[0], one_slice[1]
