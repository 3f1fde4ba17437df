"""The pictures of what was foreseen: Dice and folding over λ with their bands, and the Dice of every structure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from HyperPredictRegLib.curves import Band, Curves
from HyperPredictRegLib.engines.base import Hyperparameter
from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.job import Criterion, Trial
from HyperPredictRegLib.prediction import StructureChoice
from HyperPredictRegLib.reporting import wording
from HyperPredictRegLib.reporting.sheet import WIDTH, Theme, new_figure
from HyperPredictRegLib.selection import NO_FOLDING_PERCENT
from HyperPredictRegLib.selection.readout import word_for

_HEIGHT, _TOP, _BOTTOM, _LEFT, _RIGHT, _BETWEEN = 4.2, 0.88, 0.52, 0.66, 0.16, 0.82
_COLUMNS, _ROW, _ROW_GAP = 5, 0.86, 0.42
_ROUND_SETTINGS = (1, 1.5, 2, 3, 5, 7)
_NARROWEST_SPAN = 0.04
_NAME_ROOM = 0.75
_FAR_RIGHT = 0.68
_LOW = 0.12


@dataclass(frozen=True)
class Marks:
    """What to point out in the curves; settings are values of the one hyperparameter.

    Attributes
    ----------
    chosen : λ*, or None where nothing is suggested.
    fixed : the λ of those who do not predict.
    trials : registrations that were made, in order; the last one is the result.
    measured_dice : mean Dice measured for the result.
    trusted : false draws the curves as not to be trusted.
    hyperparameter : the engine's own description, for symbol and unit.
    """

    chosen: float | None = None
    fixed: float | None = None
    trials: tuple[Trial, ...] = ()
    measured_dice: float | None = None
    trusted: bool = True
    hyperparameter: Hyperparameter | None = None


def draw_curves(curves: Curves, criterion: Criterion, marks: Marks, theme: Theme) -> Any:
    """Draw mean Dice and folding, each with its 90 % band, over one hyperparameter on a logarithmic axis.

    Parameters
    ----------
    curves : for a single hyperparameter.
    criterion : its folding limit and domain are shown; settings whose upper band end reaches the limit are shaded.
    marks : λ*, the fixed λ, and what was measured.
    theme : colours, so that the page can show one picture on light and one on dark paper.

    Raises
    ------
    InputError : the curves are over several hyperparameters, which no such picture can show.
    """
    x = _settings(curves)
    figure = new_figure(WIDTH, _HEIGHT, theme.paper)
    width, height = (WIDTH - _LEFT - _RIGHT - _BETWEEN) / 2, _HEIGHT - _TOP - _BOTTOM
    folding = curves.folding(criterion.domain)
    titles = ("Mean Dice", f"Folding, percent of the {criterion.domain}")
    for column, (band, title) in enumerate(zip((curves.mean_dice, folding), titles, strict=True)):
        left = _LEFT + column * (width + _BETWEEN)
        axes = figure.add_axes(
            (left / WIDTH, _BOTTOM / _HEIGHT, width / WIDTH, height / _HEIGHT), facecolor=theme.paper
        )
        axes.set_xscale("log")
        axes.set_xlim(x[0], x[-1])
        # From here on the x axis is only widened by points that lie outside.
        _shade_over_limit(axes, x, folding, criterion, theme)
        _draw_band(axes, x, band, marks.trusted, theme)
        (_finish_folding if column else _finish_dice)(axes, band, criterion, marks, theme)
        _mark_settings(axes, marks, curves, theme)
        _tidy(axes, theme)
        _setting_ticks(axes, _axis_title(curves, marks), theme)
        axes.text(0, 1 + 0.32 / height, title, transform=axes.transAxes, color=theme.ink, fontsize=10, weight="bold", va="center")
    _legend(figure, criterion, marks, theme)
    return figure


def draw_structures(curves: Curves, choices: Sequence[StructureChoice], marks: Marks, theme: Theme) -> Any:
    """Draw the Dice of every structure in a small panel of its own, with the structure's own λ*.

    All panels span the same difference of Dice, each around its own curve, so that slopes and bands compare by eye.

    Parameters
    ----------
    curves : for a single hyperparameter; structures without any foreseen Dice are left out.
    choices : each structure's own λ*; may be empty.
    marks : λ* of all structures together, and whether to trust the curves.
    theme : colours.

    Raises
    ------
    InputError : there is more than one hyperparameter, or no structure with a foreseen Dice.
    """
    x = _settings(curves)
    rows = [row for row in range(len(curves.structures)) if np.isfinite(curves.dice.value[row]).any()]
    if not rows:
        raise InputError("No Dice was foreseen for any single structure, so there is nothing to draw.")
    own = {choice.label: choice for choice in choices}
    span = max(_NARROWEST_SPAN, *(_extent(curves.dice[row]) for row in rows)) * 1.08
    lines = math.ceil(len(rows) / _COLUMNS)
    top, bottom, between = 0.46, 0.5, 0.5
    height = top + bottom + lines * (_ROW + _ROW_GAP) - 0.12
    width = (WIDTH - 0.5 - 0.14 - between * (_COLUMNS - 1)) / _COLUMNS
    figure = new_figure(WIDTH, height, theme.paper)
    for place, row in enumerate(rows):
        line, column = divmod(place, _COLUMNS)
        left, low = 0.5 + column * (width + between), height - top - (line + 1) * (_ROW + _ROW_GAP) + 0.12
        axes = figure.add_axes((left / WIDTH, low / height, width / WIDTH, _ROW / height), facecolor=theme.paper)
        axes.set_xscale("log")
        axes.set_xlim(x[0], x[-1])
        band = curves.dice[row]
        _draw_band(axes, x, band, marks.trusted, theme)
        high = min(1.0, (np.nanmin(band.lower) + np.nanmax(band.upper) + span) / 2)
        axes.set_ylim(high - span, high)
        _small_panel(axes, wording.name(curves.structures[row]), own.get(curves.labels[row]), curves, marks, theme)
        lowest = place + _COLUMNS >= len(rows)
        _setting_ticks(axes, _axis_title(curves, marks) if lowest else "", theme, small=True)
    _structures_legend(figure, height, bool(own), marks, theme)
    return figure


def _settings(curves: Curves) -> np.ndarray:
    if curves.values.shape[1] != 1:
        raise InputError("Curves over several hyperparameters cannot be drawn as lines; their numbers are in curves.csv.")
    return np.maximum(curves.values[:, 0], 1e-9)


def _symbol(curves: Curves, marks: Marks) -> str:
    return marks.hyperparameter.symbol if marks.hyperparameter is not None else word_for(curves.names[0])


def _axis_title(curves: Curves, marks: Marks) -> str:
    unit = marks.hyperparameter.unit if marks.hyperparameter is not None else ""
    return f"{_symbol(curves, marks)}, {unit}" if unit else _symbol(curves, marks)


def _extent(band: Band) -> float:
    return float(np.nanmax(band.upper) - np.nanmin(band.lower))


def _draw_band(axes: Any, x: np.ndarray, band: Band, trusted: bool, theme: Theme) -> None:
    colour = theme.line if trusted else theme.faint
    axes.fill_between(x, band.lower, band.upper, color=colour, alpha=0.2, linewidth=0, zorder=2)
    axes.plot(x, band.value, color=colour, linewidth=1.7, linestyle="-" if trusted else (0, (4, 2)), zorder=3)


def _shade_over_limit(axes: Any, x: np.ndarray, folding: Band, criterion: Criterion, theme: Theme) -> None:
    if criterion.folding_limit is None:
        return
    fine = np.geomspace(x[0], x[-1], 600)
    # Crossings are sought on the logarithm, on which a folding curve is nearly straight.
    upper = np.exp(np.interp(np.log(fine), np.log(x), np.log(np.maximum(folding.upper, 1e-12))))
    over = upper >= criterion.folding_limit
    whole_height = axes.get_xaxis_transform()
    axes.fill_between(fine, 0, 1, where=over, transform=whole_height, color=theme.alert, alpha=0.1, linewidth=0, zorder=1)


def _finish_dice(axes: Any, band: Band, criterion: Criterion, marks: Marks, theme: Theme) -> None:
    from matplotlib.ticker import MaxNLocator

    low, high = float(np.nanmin(band.lower)), float(np.nanmax(band.upper))
    measured = marks.measured_dice
    if measured is not None and math.isfinite(measured) and marks.trials:
        low, high = min(low, measured), max(high, measured)
        setting = next(iter(marks.trials[-1].hyperparameters.values()))
        axes.plot([setting], [measured], marker="D", markersize=7, color=theme.ink, **_point_style(theme))
        _label_point(axes, f"measured {wording.number(measured, 3)}", (setting, measured), False, theme)
    room = max(0.02, 0.1 * (high - low))
    axes.set_ylim(max(0.0, low - room), min(1.0, high + room))
    axes.yaxis.set_major_locator(MaxNLocator(6))


def _finish_folding(axes: Any, band: Band, criterion: Criterion, marks: Marks, theme: Theme) -> None:
    limit = criterion.folding_limit
    none = NO_FOLDING_PERCENT if limit is None else min(NO_FOLDING_PERCENT, limit / 10)
    measured = [_folding_of(trial, criterion) for trial in marks.trials]
    highest = max([float(np.nanmax(band.upper)), limit or 0.0, 10 * none, *(m for m in measured if math.isfinite(m))])
    # Logarithmic above what counts as none, linear below it, so that 0 has a place of its own.
    axes.set_yscale("symlog", linthresh=none, linscale=0.5)
    axes.set_ylim(-0.35 * none, min(100.0, highest * 1.7))
    powers = range(math.ceil(math.log10(none) - 1e-9), math.floor(math.log10(min(100.0, highest * 1.7))) + 1)
    ticks = [0.0, *(10.0**power for power in powers)]
    axes.set_yticks(ticks, labels=[f"{tick:g} %" for tick in ticks])
    axes.yaxis.set_minor_locator(_no_ticks())
    if limit is not None:
        axes.axhline(limit, color=theme.alert, linewidth=1.2, zorder=4)
        points = [_place(axes, next(iter(trial.hyperparameters.values()))) for trial in marks.trials]
        right = 0.99 if all(point < _FAR_RIGHT for point in points) else _FAR_RIGHT - 0.08
        axes.text(right, limit, f"limit {limit:g} %", transform=axes.get_yaxis_transform(), color=theme.alert, fontsize=8.5,
                  ha="right", va="bottom", weight="bold", zorder=7)
    _draw_trials(axes, measured, criterion, marks, theme)


def _draw_trials(axes: Any, measured: Sequence[float], criterion: Criterion, marks: Marks, theme: Theme) -> None:
    for number, (trial, folding) in enumerate(zip(marks.trials, measured, strict=True), start=1):
        if not math.isfinite(folding):
            continue
        setting, over = next(iter(trial.hyperparameters.values())), criterion.folding_limit is not None and not trial.within_limit
        shape, size, colour = ("X", 8, theme.alert) if over else ("o", 7, theme.ink)
        axes.plot([setting], [folding], marker=shape, markersize=size, color=colour, **_point_style(theme))
        last = number == len(marks.trials)
        words = "measured" if len(marks.trials) == 1 else f"{number}, the result:" if last else f"{number}:"
        # Away from the limit's line, which may run close by.
        _label_point(axes, f"{words} {wording.percent(folding)}", (setting, folding), over, theme)


def _point_style(theme: Theme) -> dict[str, Any]:
    return {"markeredgecolor": theme.paper, "zorder": 6, "clip_on": False, "linestyle": "none"}


def _label_point(axes: Any, words: str, point: tuple[float, float], above: bool, theme: Theme) -> None:
    leftwards = _place(axes, point[0]) > _FAR_RIGHT
    height = axes.transAxes.inverted().transform(axes.transData.transform(point))[1]
    above = height < _LOW or (above and height < 1 - _LOW)
    axes.annotate(
        words, point, xytext=(-8 if leftwards else 8, 5 if above else -5), textcoords="offset points", fontsize=8.5,
        color=theme.ink, ha="right" if leftwards else "left", va="bottom" if above else "top", zorder=7,
        bbox={"facecolor": theme.paper, "alpha": 0.75, "edgecolor": "none", "pad": 0.8},
    )


def _place(axes: Any, setting: float) -> float:
    """Return where a setting lies between the left (0) and the right end (1) of the logarithmic axis."""
    low, high = np.log(axes.get_xlim())
    return float((math.log(max(setting, 1e-9)) - low) / (high - low))


def _mark_settings(axes: Any, marks: Marks, curves: Curves, theme: Theme) -> None:
    """Mark λ* and the fixed λ by upright lines, labelled above the panel, side by side where they are close."""
    symbol = _symbol(curves, marks)
    wanted: list[tuple[float | None, str, str, Any, str]] = [
        (marks.chosen, f"{symbol}* = {{:.3g}}", theme.line, "-", "bold"),
        (marks.fixed, f"fixed {symbol} = {{:.3g}}", theme.faint, (0, (3, 2)), "normal"),
    ]
    shown = [(mark[0], *mark[1:]) for mark in wanted if mark[0] is not None and mark[0] > 0]
    places = [_place(axes, mark[0]) for mark in shown]
    close = len(places) == 2 and abs(places[0] - places[1]) < 0.3
    for n, (value, text, colour, style, weight) in enumerate(shown):
        axes.axvline(value, color=colour, linewidth=1.3, linestyle=style, zorder=3.5, clip_on=False)
        alone = "left" if places[n] < 0.12 else "right" if places[n] > 0.88 else "center"
        first = close and (places[n] < places[1 - n] or (places[n] == places[1 - n] and n == 0))
        side = alone if not close else "right" if first else "left"
        shift = {"right": -2, "left": 2}.get(side, 0) if close else 0
        axes.annotate(
            text.format(value), (value, 1), xycoords=("data", "axes fraction"), xytext=(shift, 4), textcoords="offset points",
            ha=side, va="bottom", fontsize=8.5, color=colour, weight=weight,
        )


def _small_panel(
    axes: Any, name: str, choice: StructureChoice | None, curves: Curves, marks: Marks, theme: Theme
) -> None:
    from matplotlib.ticker import MaxNLocator

    _tidy(axes, theme, small=True)
    axes.yaxis.set_major_locator(MaxNLocator(3, min_n_ticks=2))
    above = {"transform": axes.transAxes, "va": "bottom", "parse_math": False}
    _shorten(axes.text(0, 1.04, name, color=theme.ink, fontsize=7, **above), axes)
    if marks.chosen is not None:
        axes.axvline(marks.chosen, color=theme.faint, linewidth=0.9, linestyle=(0, (3, 2)), zorder=2.5)
    if choice is None:
        return
    setting = choice.hyperparameters.get(curves.names[0], math.nan)
    if math.isfinite(setting):
        axes.axvline(setting, color=theme.line, linewidth=0.9, zorder=2.6)
        axes.plot([setting], [choice.dice.value], marker="o", markersize=4.5, color=theme.ink, markeredgecolor=theme.paper,
                  markeredgewidth=0.7, zorder=6, clip_on=False)
        axes.text(1, 1.04, f"{setting:.3g}", color=theme.line, ha="right", weight="bold", fontsize=7.5, **above)


def _shorten(label: Any, axes: Any) -> None:
    """Cut a name that would run into the figure at the right of its line."""
    renderer = axes.figure.canvas.get_renderer()
    name, room = label.get_text(), _NAME_ROOM * axes.get_window_extent(renderer).width
    for kept in range(len(name) - 1, 2, -1):
        if label.get_window_extent(renderer).width <= room:
            return
        label.set_text(name[:kept].rstrip() + "…")


def _tidy(axes: Any, theme: Theme, small: bool = False) -> None:
    axes.tick_params(colors=theme.faint, labelsize=6.5 if small else 8.5, length=2 if small else 3, pad=2 if small else 3)
    axes.grid(axis="y", color=theme.faint, alpha=0.22, linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.faint)
        spine.set_linewidth(0.8)


def _setting_ticks(axes: Any, title: str, theme: Theme, small: bool = False) -> None:
    low, high = axes.get_xlim()
    steps = (1, 2, 5) if small or high / low > 30 else _ROUND_SETTINGS
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    every = [step * 10.0**power for power in powers for step in steps]
    ticks = [tick for tick in every if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)] or [low, high]
    axes.set_xticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
    axes.xaxis.set_minor_locator(_no_ticks())
    if title:
        axes.set_xlabel(title, color=theme.faint, fontsize=7 if small else 9, labelpad=1.5)


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()


def _folding_of(trial: Trial, criterion: Criterion) -> float:
    return trial.folding_percent.foreground if criterion.domain == "foreground" else trial.folding_percent.box


def _legend(figure: Any, criterion: Criterion, marks: Marks, theme: Theme) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = _band_handles(marks, theme)
    if criterion.folding_limit is not None:
        handles.append(Patch(color=theme.alert, alpha=0.16, linewidth=0, label=f"may fold {criterion.folding_limit:g} % or more"))
    over = [criterion.folding_limit is not None and not trial.within_limit for trial in marks.trials]
    if not all(over):
        handles.append(Line2D([], [], color=theme.ink, marker="o", markersize=6, linestyle="none", label="measured"))
    if any(over):
        words = "measured, over the limit"
        handles.append(Line2D([], [], color=theme.alert, marker="X", markersize=7, linestyle="none", label=words))
    _place_legend(figure, handles, _HEIGHT, theme)


def _structures_legend(figure: Any, height: float, own: bool, marks: Marks, theme: Theme) -> None:
    from matplotlib.lines import Line2D

    handles: list[Any] = _band_handles(marks, theme)
    if own:
        point: dict[str, Any] = {"marker": "o", "markersize": 4.5, "markerfacecolor": theme.ink, "markeredgecolor": theme.ink}
        words = "the structure’s own choice, in figures at the right"
        handles.append(Line2D([], [], color=theme.line, linewidth=1, label=words, **point))
    if marks.chosen is not None:
        handles.append(Line2D([], [], color=theme.faint, linewidth=1, linestyle=(0, (3, 2)), label="the choice for all together"))
    _place_legend(figure, handles, height, theme)


def _band_handles(marks: Marks, theme: Theme) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    colour = theme.line if marks.trusted else theme.faint
    style: Any = "-" if marks.trusted else (0, (4, 2))
    label = "foreseen" if marks.trusted else "foreseen, not to be trusted"
    return [
        Line2D([], [], color=colour, linewidth=1.7, linestyle=style, label=label),
        Patch(color=colour, alpha=0.25, linewidth=0, label="90 % band"),
    ]


def _place_legend(figure: Any, handles: Sequence[Any], height: float, theme: Theme) -> None:
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.003, 1 - 0.03 / height), ncols=len(handles), frameon=False,
        fontsize=8.5, labelcolor=theme.faint, handlelength=1.8, columnspacing=1.8, borderaxespad=0.2,
    )
