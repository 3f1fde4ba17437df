"""The pictures of a registration: slices before and after, change of volume, deformed grid, outlines, convergence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.core.trace import LevelTrace
from HyperPredictRegLib.reporting import wording
from HyperPredictRegLib.reporting.sheet import (
    FILM,
    FIXED_COLOR,
    MOVING_COLOR,
    WIDTH,
    Plane,
    Sheet,
    Theme,
    annotate,
    center_of,
    new_figure,
    new_sheet,
    planes_of,
    prepare_panel,
    round_number,
    scale_bar,
    show,
)
from HyperPredictRegLib.results.outcome import Outcome
from HyperPredictRegLib.spatial.geometry import Geometry

_POINTS_PER_INCH = 72
_SMALLEST_MARK = 2.2
_DIMMED = 0.35
_LOWER_ROW, _LOWER_EDGE = 2.7, 0.2
_FEWEST_TICKS = 3
_ROW, _TITLE, _TOP = 1.25, 0.74, 0.42
_LEFT, _RIGHT, _BETWEEN = 0.78, 0.15, 0.72
_ROUND_VOLUMES = (
    (0.0625, 0.125, 0.25, 0.5, 1, 2, 4, 8, 16),
    (0.5, 0.7, 1, 1.4, 2),
    (0.8, 0.9, 1, 1.1, 1.25),
)


@dataclass(frozen=True)
class Scene:
    """What the pictures are drawn from: arrays indexed (k, j, i) on the working grid, gray values from 0 to 1.

    `center` is the voxel (i, j, k) through which the slices go; `before_title` says what the moving image had been through
    before the deformable step.
    """

    geometry: Geometry
    planes: tuple[Plane, Plane, Plane]
    center: tuple[int, int, int]
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
            center=center_of(foreground),
            foreground=foreground,
            fixed=_gray(fixed, _window(fixed, foreground)),
            # One window for both, or a change of window would look like a change of fit.
            before=_gray(sitk.GetArrayFromImage(outcome.moving_aligned), moving_window),
            after=_gray(after, moving_window),
            jacobian=sitk.GetArrayFromImage(outcome.jacobian).astype(float),
            before_title=f"Before: {wording.start_of(outcome.report)} only",
        )

    def position(self, plane: Plane) -> int:
        """Return the number of the slice of `plane` through the center."""
        return self.center[plane.through]


def draw_overlay(scene: Scene) -> Any:
    """Draw fixed (green) and moving (magenta) on top of each other; where they agree the sum is gray."""
    sheet = new_sheet(scene.planes, (scene.before_title, "After: registered"))
    sheet.header([("fixed", FIXED_COLOR), ("moving", MOVING_COLOR), ("both agree: gray", FILM.faint)])
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
        words.append((f"■ folded: {inside} voxels in the foreground, {everywhere} in the grid", FILM.alert))
    else:
        words.append(("no folded voxel", FILM.ink))
    sheet.header(words)
    for panel, plane in zip(sheet.panels[0], scene.planes, strict=True):
        volume.draw(panel, plane, scene.position(plane), scene, sheet.inch_per_mm)
    _finish(sheet, scene)
    _color_bar(sheet, volume)
    left = _worst_panel(sheet, scene, volume, _LOWER_ROW) if volume.folded.any() else 0.75
    _histogram(sheet, scene, volume, left, _LOWER_ROW)
    return sheet.figure


def draw_deformed_grid(scene: Scene, outcome: Outcome) -> Any:
    """Draw a square grid painted on the aligned moving image and deformed with it."""
    sheet = new_sheet(scene.planes, ("",))
    step_mm = round_number(max(scene.geometry.extent_mm) / 16)
    sheet.header([
        (f"a grid of {step_mm:g} mm squares on the aligned moving image, after the registration moved it", FILM.faint),
    ])
    for panel, plane in zip(sheet.panels[0], scene.planes, strict=True):
        position = scene.position(plane)
        show(panel, plane, plane.cut(scene.after, position), cmap="gray", vmin=0, vmax=1.35)
        x, y = screen_after_deformation(outcome, plane, position)
        columns, rows = plane.pixel_centers
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


def _gray(values: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    low, high = window
    return np.clip((np.nan_to_num(values, nan=low) - low) / (high - low), 0, 1).astype(np.float32)


def _finish(sheet: Sheet, scene: Scene) -> None:
    for row in sheet.panels:
        for panel, plane in zip(row, scene.planes, strict=True):
            annotate(panel, plane, scene.position(plane))
    scale_bar(sheet.panels[0][0], scene.planes[0])


def _tiles(plane: Plane, tile_mm: float) -> np.ndarray:
    x, y = plane.pixel_centers
    return (x[None, :] // tile_mm + y[:, None] // tile_mm) % 2 == 0


def _color_limit(logarithm: np.ndarray) -> float:
    """Return the largest |log2 J| that the colors tell apart, between a gentle and a fourfold change."""
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
    """log2 of the Jacobian determinant, where it is folded, and the colors that stand for it."""

    logarithm: np.ndarray
    folded: np.ndarray
    colors: Any

    @classmethod
    def of(cls, scene: Scene) -> VolumeMap:
        """Choose colors, centered on 1, that span nearly all of the foreground."""
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        folded = ~(scene.jacobian > 0)
        logarithm = np.log2(np.where(folded, 1.0, scene.jacobian))
        limit = _color_limit(logarithm[scene.foreground & ~folded])
        return cls(logarithm, folded, ScalarMappable(Normalize(-limit, limit), "RdBu_r"))

    @property
    def limit(self) -> float:
        """The largest change, as |log2 J|, that the colors tell apart."""
        return float(self.colors.norm.vmax)

    def draw(self, panel: Any, plane: Plane, position: int, scene: Scene, inch_per_mm: float) -> None:
        """Draw one slice: dimmed outside of the foreground, folded voxels as squares that can be seen at any scale."""
        inside = plane.cut(scene.foreground, position)
        colors = self.colors.to_rgba(plane.cut(self.logarithm, position))[..., :3]
        show(panel, plane, np.where(inside[..., None], colors, _DIMMED * colors), interpolation="nearest")
        panel.set_facecolor(_DIMMED * np.array(self.colors.to_rgba(0.0)[:3]))
        x, y = plane.pixel_centers
        if inside.any() and not inside.all() and min(inside.shape) > 1:
            panel.contour(x, y, inside.astype(float), levels=[0.5], colors="black", linewidths=0.6)
        rows, columns = np.nonzero(plane.cut(self.folded, position))
        voxel = min(plane.geometry.spacing[plane.across], plane.geometry.spacing[plane.down])
        side = max(_SMALLEST_MARK, inch_per_mm * _POINTS_PER_INCH * voxel)
        panel.scatter(x[columns], y[rows], s=side**2, marker="s", color=FILM.alert, edgecolors="black", linewidths=0.25)


def _color_bar(sheet: Sheet, volume: VolumeMap) -> None:
    width, top, thickness = 2.6, 0.06, 0.1
    axes = sheet.figure.add_axes(
        ((WIDTH - 0.4 - width) / WIDTH, 1 - (top + thickness) / sheet.height, width / WIDTH, thickness / sheet.height)
    )
    bar = sheet.figure.colorbar(volume.colors, cax=axes, orientation="horizontal", extend="both")
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
    """Draw the slice with most folded voxels below the others; return where it ends, in inches from the left."""
    counted = volume.folded & scene.foreground
    plane, position = _slice_with_most(counted if counted.any() else volume.folded, scene.planes)
    width, height = plane.size_mm
    scale = min(room / height, 0.45 * WIDTH / width)
    left, bottom = 0.14, _LOWER_EDGE + room - height * scale
    panel = sheet.figure.add_axes((left / WIDTH, bottom / sheet.height, width * scale / WIDTH, height * scale / sheet.height))
    prepare_panel(panel, plane)
    volume.draw(panel, plane, position, scene, scale)
    annotate(panel, plane, position)
    _lower_title(sheet, f"Most folding: {int(plane.cut(volume.folded, position).sum())} voxels in this slice", left, room)
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
    axes.bar(middles, shares, width=1.02 * (edges[1] - edges[0]), color=volume.colors.to_rgba(middles), linewidth=0)
    axes.axvline(0, color=FILM.faint, linewidth=0.8)
    axes.set_xlim(-reach, reach)
    axes.set_ylim(0, max(1e-3, 1.08 * float(shares.max())))
    _name_ticks(axes.xaxis, reach)
    axes.tick_params(colors=FILM.faint, labelsize=7.5, length=3)
    axes.set_xlabel("Jacobian determinant (1: volume kept)", color=FILM.faint, fontsize=8)
    axes.set_ylabel("% of foreground", color=FILM.faint, fontsize=8)
    _lower_title(sheet, "Spread over the foreground, without folded voxels", left, room)
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


def draw_outlines(outcome: Outcome) -> Any:
    """Draw the fixed image with the outlines of fixed (green) and propagated (magenta) structures, whichever exist."""
    geometry = Geometry.of(outcome.fixed)
    planes = planes_of(geometry)
    positions = _telling_slices(outcome, planes, _center(outcome, geometry))
    sheet = new_sheet(planes, ("",))
    maps = [
        (labels, text, color)
        for labels, text, color in (
            (outcome.fixed_labels, "fixed labels", FIXED_COLOR),
            (outcome.warped_labels, "labels propagated from the moving image", MOVING_COLOR),
        )
        if labels is not None
    ]
    sheet.header([(text, color) for _, text, color in maps])
    voxels = sitk.GetArrayViewFromImage(outcome.fixed)
    for panel, plane in zip(sheet.panels[0], planes, strict=True):
        position = positions[plane.name]
        show(panel, plane, _gray_slice(plane.cut(voxels, position)), cmap="gray", vmin=0, vmax=1)
        for labels, _, color in maps:
            _draw_edges(panel, plane, plane.cut(sitk.GetArrayViewFromImage(labels), position), color)
        annotate(panel, plane, position)
    scale_bar(sheet.panels[0][0], planes[0])
    return sheet.figure


def label_edges(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixel sides between different labels of a slice, shape (rows, columns).

    Returns
    -------
    Where a label differs from the one to its right, shape (n, 2), and from the one below it, shape (m, 2), each as
    (row, column) of the pixel on the left or above.
    """
    return np.argwhere(labels[:, :-1] != labels[:, 1:]), np.argwhere(labels[:-1] != labels[1:])


def _draw_edges(panel: Any, plane: Plane, labels: np.ndarray, color: str) -> None:
    from matplotlib.collections import LineCollection

    width, height = (plane.geometry.spacing[axis] for axis in (plane.across, plane.down))
    upright, level = label_edges(labels)
    x, y = (upright[:, 1] + 1) * width, upright[:, 0] * height
    upright_lines = np.stack([np.stack([x, y], axis=-1), np.stack([x, y + height], axis=-1)], axis=1)
    x, y = level[:, 1] * width, (level[:, 0] + 1) * height
    level_lines = np.stack([np.stack([x, y], axis=-1), np.stack([x + width, y], axis=-1)], axis=1)
    panel.add_collection(
        LineCollection(list(np.concatenate([upright_lines, level_lines])), colors=color, linewidths=0.9, capstyle="projecting"),
        autolim=False,
    )


def _telling_slices(outcome: Outcome, planes: Sequence[Plane], center: tuple[int, int, int]) -> dict[str, int]:
    """Return for each plane the slice that shows most structures; of several, the one nearest to the center."""
    labels = outcome.fixed_labels if outcome.fixed_labels is not None else outcome.warped_labels
    values = sitk.GetArrayViewFromImage(labels)
    positions = {}
    for plane in planes:
        counts = structures_per_slice(values, 2 - plane.through)
        away = np.abs(np.arange(len(counts)) - center[plane.through])
        positions[plane.name] = int(np.lexsort((away, -counts))[0])
    return positions


def structures_per_slice(labels: np.ndarray, axis: int) -> np.ndarray:
    """Return how many structures each slice across `axis` cuts at half of their largest area or more, shape (slices,).

    Every other voxel of a slice is looked at. Counting all that a slice touches would favour the plane between two
    halves of a body, where everything is grazed and nothing can be seen.
    """
    across = np.moveaxis(labels, axis, 0)[:, ::2, ::2]
    counted = [np.unique(one_slice, return_counts=True) for one_slice in across]
    found = np.unique(np.concatenate([values for values, _ in counted]))
    areas = np.zeros((len(found), len(across)), np.int64)
    for number, (values, counts) in enumerate(counted):
        areas[np.searchsorted(found, values), number] = counts
    areas = areas[found != 0]
    return (2 * areas >= np.maximum(areas.max(axis=1, keepdims=True), 1)).sum(axis=0)


def _center(outcome: Outcome, geometry: Geometry) -> tuple[int, int, int]:
    """Return the voxel of the fixed image at the center that the other pictures use."""
    grid = Geometry.of(outcome.foreground)
    point = grid.to_lps(center_of(sitk.GetArrayViewFromImage(outcome.foreground)))
    i, j, k = np.clip(np.round(geometry.to_index(point)), 0, np.array(geometry.size) - 1).astype(int)
    return int(i), int(j), int(k)


def _gray_slice(values: np.ndarray) -> np.ndarray:
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, (1, 99.5)) if finite.size else (0.0, 1.0)
    return np.clip((np.nan_to_num(values.astype(float), nan=low) - low) / max(high - low, 1e-12), 0, 1)


def draw_trace(levels: Sequence[LevelTrace], theme: Theme) -> Any:
    """Draw the metric of every level against the iterations of its stage.

    Parameters
    ----------
    levels : in the order in which they ran.
    theme : colors, so that the page can show one picture on light and one on dark paper.
    """
    stages = group_by_stage(levels)
    height = _TOP + len(stages) * (_ROW + _TITLE)
    figure = new_figure(WIDTH, height, theme.paper)
    _legend(figure, height, theme)
    columns = max(len(stage) for stage in stages)
    grid = (WIDTH - _LEFT - _RIGHT - _BETWEEN * (columns - 1)) / columns
    top = height - _TOP
    for stage in stages:
        bottom = top - 0.36 - _ROW
        first_iteration = 0
        for column, level in enumerate(stage):
            left = _LEFT + column * (grid + _BETWEEN)
            axes = figure.add_axes((left / WIDTH, bottom / height, grid / WIDTH, _ROW / height), facecolor=theme.paper)
            _draw_level(axes, level, first_iteration, theme)
            first_iteration += len(level.values)
        title = f"{stage[0].stage}: {stage[0].metric} at each iteration, lower is better"
        figure.text(0.01, (top - 0.02) / height, title, color=theme.ink, fontsize=9, weight="bold", va="center")
        top -= _ROW + _TITLE
    return figure


def group_by_stage(levels: Sequence[LevelTrace]) -> list[list[LevelTrace]]:
    """Return runs of levels that belong to one stage and one metric."""
    groups: list[list[LevelTrace]] = []
    for level in levels:
        last = groups[-1][-1] if groups else None
        if last is None or (last.stage, last.metric) != (level.stage, level.metric) or level.level <= last.level:
            groups.append([])
        groups[-1].append(level)
    return groups


def _draw_level(axes: Any, level: LevelTrace, first_iteration: int, theme: Theme) -> None:
    iterations = [first_iteration + n for n in range(1, len(level.values) + 1)]
    values = [value if math.isfinite(value) else math.nan for value in level.values]
    color = theme.alert if level.hit_iteration_limit else theme.line
    axes.plot(iterations, values, color=color, linewidth=1.3, marker="o", markersize=2.2 if len(values) < 40 else 0)
    last = first_iteration + max(1, len(values))
    if level.end_value is not None and math.isfinite(level.end_value):
        # Beside the last iteration, not joined to it: the returned transform may be better than the last event.
        axes.plot([last + _aside(level)], [level.end_value], marker="D", markersize=5, color=theme.ink, linestyle="none",
                  markerfacecolor="none", markeredgewidth=1.2)
    if not any(math.isfinite(value) for value in values):
        axes.text(0.5, 0.5, "no iterations", transform=axes.transAxes, ha="center", va="center", color=theme.faint, fontsize=8)
    axes.set_xlim(first_iteration + 0.5, last + 2 * _aside(level) + 0.5)
    axes.margins(y=0.12)
    _tidy(axes, level, theme)


def _aside(level: LevelTrace) -> float:
    return max(0.6, 0.05 * len(level.values))


def _tidy(axes: Any, level: LevelTrace, theme: Theme) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(3, min_n_ticks=2))
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.tick_params(colors=theme.faint, labelsize=7, length=2.5, pad=2)
    axes.grid(axis="y", color=theme.faint, alpha=0.25, linewidth=0.6)
    grid = f"{level.shrink_factor:g}× coarser" if level.shrink_factor != 1 else "finest grid"
    axes.set_title(f"level {level.level + 1} · {grid}", color=theme.faint, fontsize=7.5, loc="left", pad=3)
    if level.hit_iteration_limit:
        axes.set_title("iteration limit", color=theme.alert, fontsize=7.5, loc="right", pad=3, weight="bold")
    for spine in axes.spines.values():
        spine.set_color(theme.alert if level.hit_iteration_limit else theme.faint)
        spine.set_linewidth(0.8)


def _legend(figure: Any, height: float, theme: Theme) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=theme.line, marker="o", markersize=3, linewidth=1.3, label="stopped by itself"),
        Line2D([], [], color=theme.alert, marker="o", markersize=3, linewidth=1.3, label="stopped by the iteration limit"),
        Line2D([], [], color=theme.ink, marker="D", markersize=5, markerfacecolor="none", linestyle="none",
               label="value of the returned transform"),
    ]
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.003, 1 - 0.02 / height), ncols=3, frameon=False, fontsize=8,
        labelcolor=theme.faint, handlelength=1.6, columnspacing=1.6, borderaxespad=0.2,
    )
