"""The picture of an optimiser's course: one row per stage, one box per level, each box with a metric axis of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from HyperPredictRegLib.reporting.sheet import WIDTH, Theme, new_figure
from HyperPredictRegLib.trace import LevelTrace

_ROW, _TITLE, _TOP, _BOTTOM = 1.25, 0.74, 0.42, 0.0
_LEFT, _RIGHT, _BETWEEN = 0.78, 0.15, 0.72


def draw_trace(levels: Sequence[LevelTrace], theme: Theme) -> Any:
    """Draw the metric of every level against the iterations of its stage.

    Parameters
    ----------
    levels : in the order in which they ran.
    theme : colours, so that the page can show one picture on light and one on dark paper.
    """
    stages = group_by_stage(levels)
    height = _TOP + _BOTTOM + len(stages) * (_ROW + _TITLE)
    figure = new_figure(WIDTH, height, theme.paper)
    _legend(figure, height, theme)
    columns = max(len(stage) for stage in stages)
    box = (WIDTH - _LEFT - _RIGHT - _BETWEEN * (columns - 1)) / columns
    top = height - _TOP
    for stage in stages:
        bottom = top - 0.36 - _ROW
        first_iteration = 0
        for column, level in enumerate(stage):
            left = _LEFT + column * (box + _BETWEEN)
            axes = figure.add_axes((left / WIDTH, bottom / height, box / WIDTH, _ROW / height), facecolor=theme.paper)
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
    colour = theme.alert if level.hit_iteration_limit else theme.line
    axes.plot(iterations, values, color=colour, linewidth=1.3, marker="o", markersize=2.2 if len(values) < 40 else 0)
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
