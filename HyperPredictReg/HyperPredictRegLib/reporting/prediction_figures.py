"""The pictures of what was predicted: Dice and folding over one parameter or two, with bands, limit, choice and measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.search_space import Parameter, SearchSpace, Setting
from HyperPredictRegLib.reporting import wording
from HyperPredictRegLib.reporting.sheet import WIDTH, Theme, new_figure
from HyperPredictRegLib.results.formatting import QUALITY_TITLES, drawn_quality
from HyperPredictRegLib.results.job import Criterion
from HyperPredictRegLib.results.prediction import Band, PredictionSurface, StructureChoice
from HyperPredictRegLib.results.report import Trial
from HyperPredictRegLib.selection import NO_FOLDING_PERCENT

_HEIGHT, _TOP, _BOTTOM, _LEFT, _RIGHT, _BETWEEN = 4.2, 0.88, 0.52, 0.66, 0.16, 0.82
_MAP_HEIGHT, _MAP_RIGHT, _BAR, _BAR_GAP = 4.8, 0.62, 0.13, 0.1
_MAP_LEVELS = 24
_COLUMNS, _ROW, _ROW_GAP = 5, 0.86, 0.42
_NARROWEST_SPAN = 0.04
_NAME_ROOM = 0.75
_FAR_RIGHT = 0.68
_LOW = 0.12


@dataclass(frozen=True)
class Marks:
    """What to point out in the pictures.

    Attributes
    ----------
    chosen : the setting that was chosen, or None where nothing is suggested.
    fixed : the setting of those who do not predict.
    trials : registrations that were made, in order; the last one is the result.
    measured_dice : mean Dice measured for the result.
    trusted : false draws the prediction as not to be trusted.
    affine_error_mm : the error that is expected of the affine step alone, for pictures of the expected error.
    """

    chosen: Setting | None = None
    fixed: Setting | None = None
    trials: tuple[Trial, ...] = ()
    measured_dice: float | None = None
    trusted: bool = True
    affine_error_mm: float | None = None


def draw_prediction(surface: PredictionSurface, criterion: Criterion, marks: Marks, theme: Theme) -> Any:
    """Draw what counts for the criterion's goal, such as mean Dice, and folding for all settings.

    Curves over one parameter (`draw_curves`), maps over two (`draw_maps`).

    Raises
    ------
    InputError : there are more parameters, which no such picture can show.
    """
    if len(surface.space) > 2:
        raise InputError(f"A prediction over {len(surface.space)} parameters cannot be drawn: see its table.")
    return (draw_curves if len(surface.space) == 1 else draw_maps)(surface, criterion, marks, theme)


def draw_curves(surface: PredictionSurface, criterion: Criterion, marks: Marks, theme: Theme) -> Any:
    """Draw what counts and folding, each with its 90 % band, over the one parameter, on its own scale.

    Parameters
    ----------
    surface : for a single parameter.
    criterion : what counts for its goal, its folding limit and domain are shown; settings whose upper band end reaches the limit
        are shaded.
    marks : the choice, the fixed setting, and what was measured.
    theme : colors, so that the page can show one picture on light and one on dark paper.
    """
    parameter, x = surface.space.first, surface.values[:, 0]
    figure = new_figure(WIDTH, _HEIGHT, theme.paper)
    width, height = (WIDTH - _LEFT - _RIGHT - _BETWEEN) / 2, _HEIGHT - _TOP - _BOTTOM
    folding = surface.folding(criterion.domain)
    bands = drawn_quality(surface, criterion.goal), folding
    for column, (band, title) in enumerate(zip(bands, _titles(surface, criterion), strict=True)):
        left = _LEFT + column * (width + _BETWEEN)
        axes = figure.add_axes((left / WIDTH, _BOTTOM / _HEIGHT, width / WIDTH, height / _HEIGHT), facecolor=theme.paper)
        axes.set_xscale(parameter.scale)
        axes.set_xlim(x[0], x[-1])
        # From here on the x axis is only widened by points that lie outside.
        _shade_over_limit(axes, parameter, x, folding, criterion, theme)
        _draw_band(axes, x, band, marks.trusted, theme)
        quality = _FINISHES[surface.measure(criterion.goal)]
        (_finish_folding if column else quality)(axes, band, parameter, criterion, marks, theme)
        _mark_settings(axes, parameter, marks, theme)
        _tidy(axes, theme)
        _setting_ticks(axes, parameter, theme)
        axes.set_xlabel(axis_title(parameter), color=theme.faint, fontsize=9, labelpad=1.5)
        _panel_title(axes, title, height, theme)
    _legend(figure, criterion, marks, theme)
    return figure


def draw_structures(surface: PredictionSurface, choices: Sequence[StructureChoice], marks: Marks, theme: Theme) -> Any:
    """Draw the Dice of every structure in a small panel of its own, with the structure's own choice.

    All panels span the same difference of Dice, each around its own curve, so that slopes and bands compare by eye.

    Parameters
    ----------
    surface : for a single parameter; structures without any predicted Dice are left out.
    choices : each structure's own choice; may be empty.
    marks : the choice for all structures together, and whether to trust the curves.
    theme : colors.

    Raises
    ------
    InputError : there is no structure with a predicted Dice.
    """
    rows = [row for row in range(len(surface.structures)) if np.isfinite(surface.dice.value[row]).any()]
    if not rows:
        raise InputError("No Dice was predicted for any single structure, so there is nothing to draw.")
    parameter, x = surface.space.first, surface.values[:, 0]
    own = {choice.label: choice for choice in choices}
    span = max(_NARROWEST_SPAN, *(_extent(surface.dice[row]) for row in rows)) * 1.08
    lines = math.ceil(len(rows) / _COLUMNS)
    top, bottom, between = 0.46, 0.5, 0.5
    height = top + bottom + lines * (_ROW + _ROW_GAP) - 0.12
    width = (WIDTH - 0.5 - 0.14 - between * (_COLUMNS - 1)) / _COLUMNS
    figure = new_figure(WIDTH, height, theme.paper)
    for place, row in enumerate(rows):
        line, column = divmod(place, _COLUMNS)
        left, low = 0.5 + column * (width + between), height - top - (line + 1) * (_ROW + _ROW_GAP) + 0.12
        axes = figure.add_axes((left / WIDTH, low / height, width / WIDTH, _ROW / height), facecolor=theme.paper)
        axes.set_xscale(parameter.scale)
        axes.set_xlim(x[0], x[-1])
        band = surface.dice[row]
        _draw_band(axes, x, band, marks.trusted, theme)
        high = min(1.0, (np.nanmin(band.lower) + np.nanmax(band.upper) + span) / 2)
        axes.set_ylim(high - span, high)
        _small_panel(axes, wording.name(surface.structures[row]), own.get(surface.labels[row]), parameter, marks, theme)
        _setting_ticks(axes, parameter, theme, small=True)
        if place + _COLUMNS >= len(rows):
            title = f"{parameter.symbol}, {parameter.unit}" if parameter.unit else parameter.symbol
            axes.set_xlabel(title, color=theme.faint, fontsize=7, labelpad=1.5)
    _structures_legend(figure, height, bool(own), marks, theme)
    return figure


def draw_maps(surface: PredictionSurface, criterion: Criterion, marks: Marks, theme: Theme) -> Any:
    """Draw what counts and folding as maps over two parameters, with the folding limit, the choice and what was measured.

    Between the predicted settings, on the parameters' own scales, numbers are interpolated over triangles.

    Parameters
    ----------
    surface : for two parameters, at three settings at least that do not lie on a line.
    criterion, marks, theme : as for `draw_curves`; settings whose upper band end reaches the limit are hatched.

    Raises
    ------
    ValueError, RuntimeError : the settings lie on a line.
    """
    from matplotlib.tri import Triangulation

    figure = new_figure(WIDTH, _MAP_HEIGHT, theme.paper)
    folding = surface.folding(criterion.domain)
    none = no_folding(criterion)
    better = "viridis_r" if surface.measure(criterion.goal) == "error_mm" else "viridis"
    powers = range(round(math.log10(none)), max(0, math.ceil(math.log10(max(float(np.nanmax(folding.value)), none)))) + 1)
    maps: tuple[tuple[np.ndarray, str, dict[float, str] | None], ...] = (
        (drawn_quality(surface, criterion.goal).value, better, None),
        (np.log10(np.maximum(folding.value, none)), "magma_r", {float(power): f"{10.0**power:g} %" for power in powers}),
    )
    # Axes run from 0 to 1 over the range of each parameter on its own scale.
    places = surface.space.to_unit(surface.values)
    width = (WIDTH - _LEFT - _BETWEEN - 2 * _MAP_RIGHT - 2 * (_BAR + _BAR_GAP)) / 2
    height = _MAP_HEIGHT - _TOP - _BOTTOM
    for column, ((values, colors, ticks), title) in enumerate(zip(maps, _titles(surface, criterion), strict=True)):
        left = _LEFT + column * (width + _BAR_GAP + _BAR + _MAP_RIGHT + _BETWEEN)
        axes = figure.add_axes((left / WIDTH, _BOTTOM / _MAP_HEIGHT, width / WIDTH, height / _MAP_HEIGHT), facecolor=theme.paper)
        bar = figure.add_axes(
            ((left + width + _BAR_GAP) / WIDTH, _BOTTOM / _MAP_HEIGHT, _BAR / WIDTH, height / _MAP_HEIGHT)
        )
        known = np.isfinite(values) & np.isfinite(folding.upper)
        triangles = Triangulation(*places[known].T)
        levels = np.linspace(min(ticks), max(ticks), _MAP_LEVELS + 1) if ticks else _MAP_LEVELS
        filled = axes.tricontourf(triangles, values[known], levels=levels, cmap=colors if marks.trusted else "Greys")
        _color_bar(figure, bar, filled, ticks, theme)
        _draw_limit(axes, triangles, folding.upper[known], criterion, theme)
        _mark_places(axes, surface.space, marks, criterion, theme)
        _finish_map(axes, surface.space, places, theme)
        _panel_title(axes, title, height, theme)
    _map_legend(figure, surface.space, criterion, marks, theme)
    return figure


def _titles(surface: PredictionSurface, criterion: Criterion) -> tuple[str, str]:
    return QUALITY_TITLES[surface.measure(criterion.goal)], f"Folding, percent of the {criterion.domain}"


def _panel_title(axes: Any, title: str, height: float, theme: Theme) -> None:
    axes.text(0, 1 + 0.32 / height, title, transform=axes.transAxes, color=theme.ink, fontsize=10, weight="bold", va="center")


def axis_title(parameter: Parameter) -> str:
    """Name a parameter with its unit and the direction in which it regularizes."""
    unit = f", {parameter.unit}" if parameter.unit else ""
    return f"{parameter.symbol}{unit} ({'larger' if parameter.regularizes == 'up' else 'smaller'} deforms less)"


def no_folding(criterion: Criterion) -> float:
    """Return the percentage that counts as none, which is below the limit."""
    limit = criterion.folding_limit
    return NO_FOLDING_PERCENT if limit is None else min(NO_FOLDING_PERCENT, limit / 10)


def _extent(band: Band) -> float:
    return float(np.nanmax(band.upper) - np.nanmin(band.lower))


def _draw_band(axes: Any, x: np.ndarray, band: Band, trusted: bool, theme: Theme) -> None:
    color = theme.line if trusted else theme.faint
    axes.fill_between(x, band.lower, band.upper, color=color, alpha=0.2, linewidth=0, zorder=2)
    axes.plot(x, band.value, color=color, linewidth=1.7, linestyle="-" if trusted else (0, (4, 2)), zorder=3)


def _shade_over_limit(
    axes: Any, parameter: Parameter, x: np.ndarray, folding: Band, criterion: Criterion, theme: Theme
) -> None:
    if criterion.folding_limit is None:
        return
    ends = parameter.to_unit(x[[0, -1]])
    fine = np.linspace(ends[0], ends[1], 600)
    # Crossings are sought on the logarithm, on which a folding curve is nearly straight.
    upper = np.exp(np.interp(fine, parameter.to_unit(x), np.log(np.maximum(folding.upper, 1e-12))))
    over = upper >= criterion.folding_limit
    whole_height = axes.get_xaxis_transform()
    axes.fill_between(
        parameter.from_unit(fine), 0, 1, where=over, transform=whole_height, color=theme.alert, alpha=0.1, linewidth=0, zorder=1
    )


def _finish_dice(
    axes: Any, band: Band, parameter: Parameter, criterion: Criterion, marks: Marks, theme: Theme
) -> None:
    from matplotlib.ticker import MaxNLocator

    low, high = float(np.nanmin(band.lower)), float(np.nanmax(band.upper))
    measured = marks.measured_dice
    if measured is not None and math.isfinite(measured) and marks.trials:
        low, high = min(low, measured), max(high, measured)
        setting = marks.trials[-1].setting.get(parameter.name, math.nan)
        axes.plot([setting], [measured], marker="D", markersize=7, color=theme.ink, **_point_style(theme))
        _label_point(axes, f"measured {wording.number(measured, 3)}", (setting, measured), False, theme)
    room = max(0.02, 0.1 * (high - low))
    axes.set_ylim(max(0.0, low - room), min(1.0, high + room))
    axes.yaxis.set_major_locator(MaxNLocator(6))


def _finish_error(
    axes: Any, band: Band, parameter: Parameter, criterion: Criterion, marks: Marks, theme: Theme
) -> None:
    from matplotlib.ticker import MaxNLocator

    affine = marks.affine_error_mm
    high = max(float(np.nanmax(band.upper)), affine or 0.0)
    if affine is not None:
        axes.axhline(affine, color=theme.faint, linewidth=1.2, linestyle=(0, (5, 2)), zorder=4)
        axes.text(0.99, affine, f"affine only {wording.distance(affine)}", transform=axes.get_yaxis_transform(),
                  color=theme.faint, fontsize=8.5, ha="right", va="bottom", zorder=7)
    axes.set_ylim(0.0, 1.08 * high)
    axes.yaxis.set_major_locator(MaxNLocator(6))


def _finish_gain(
    axes: Any, band: Band, parameter: Parameter, criterion: Criterion, marks: Marks, theme: Theme
) -> None:
    from matplotlib.ticker import MaxNLocator

    low, high = min(0.0, float(np.nanmin(band.lower))), max(0.0, float(np.nanmax(band.upper)))
    axes.axhline(0.0, color=theme.faint, linewidth=1.2, linestyle=(0, (5, 2)), zorder=4)
    axes.text(0.99, 0.0, "affine only", transform=axes.get_yaxis_transform(), color=theme.faint, fontsize=8.5, ha="right",
              va="bottom", zorder=7)
    room = max(2.0, 0.08 * (high - low))
    axes.set_ylim(max(-100.0, low - room), min(100.0, high + room))
    axes.yaxis.set_major_locator(MaxNLocator(6))


_FINISHES = {"mean_dice": _finish_dice, "overlap_gain": _finish_gain, "error_mm": _finish_error}


def _finish_folding(
    axes: Any, band: Band, parameter: Parameter, criterion: Criterion, marks: Marks, theme: Theme
) -> None:
    limit, none = criterion.folding_limit, no_folding(criterion)
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
        points = [_place(axes, trial.setting.get(parameter.name, math.nan)) for trial in marks.trials]
        right = 0.99 if all(point < _FAR_RIGHT for point in points) else _FAR_RIGHT - 0.08
        axes.text(right, limit, f"limit {limit:g} %", transform=axes.get_yaxis_transform(), color=theme.alert, fontsize=8.5,
                  ha="right", va="bottom", weight="bold", zorder=7)
    _draw_trials(axes, measured, parameter, criterion, marks, theme)


def _draw_trials(
    axes: Any, measured: Sequence[float], parameter: Parameter, criterion: Criterion, marks: Marks, theme: Theme
) -> None:
    for number, (trial, folding) in enumerate(zip(marks.trials, measured, strict=True), start=1):
        setting, over = trial.setting.get(parameter.name, math.nan), _is_over(trial, criterion)
        if not math.isfinite(folding):
            continue
        axes.plot([setting], [folding], **_trial_style(over, theme))
        # Away from the limit's line, which may run close by.
        words = f"{_trial_words(number, len(marks.trials))} {wording.percent(folding)}"
        _label_point(axes, words, (setting, folding), over, theme)


def _trial_words(number: int, count: int) -> str:
    return "measured" if count == 1 else f"{number}, the result:" if number == count else f"{number}:"


def _trial_style(over: bool, theme: Theme) -> dict[str, Any]:
    shape, size, color = ("X", 8, theme.alert) if over else ("o", 7, theme.ink)
    return {"marker": shape, "markersize": size, "color": color, **_point_style(theme)}


def _is_over(trial: Trial, criterion: Criterion) -> bool:
    return criterion.folding_limit is not None and not trial.within_limit


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
    """Return where a setting lies between the left (0) and the right end (1) of the axis."""
    return float(axes.transAxes.inverted().transform(axes.transData.transform((setting, axes.get_ylim()[0])))[0])


def _mark_settings(axes: Any, parameter: Parameter, marks: Marks, theme: Theme) -> None:
    """Mark the choice and the fixed setting by upright lines, labeled above the panel, side by side where they are close."""
    every: tuple[tuple[Setting | None, str, Parameter, str, Any, str], ...] = (
        (marks.chosen, "", _starred(parameter), theme.line, "-", "bold"),
        (marks.fixed, "fixed ", parameter, theme.faint, (0, (3, 2)), "normal"),
    )
    shown = [(mark[0][parameter.name], *mark[1:]) for mark in every if mark[0] is not None and parameter.name in mark[0]]
    places = [_place(axes, mark[0]) for mark in shown]
    close = len(places) == 2 and abs(places[0] - places[1]) < 0.3
    for n, (value, word, named, color, style, weight) in enumerate(shown):
        axes.axvline(value, color=color, linewidth=1.3, linestyle=style, zorder=3.5, clip_on=False)
        alone = "left" if places[n] < 0.12 else "right" if places[n] > 0.88 else "center"
        first = close and (places[n] < places[1 - n] or (places[n] == places[1 - n] and n == 0))
        side = alone if not close else "right" if first else "left"
        shift = {"right": -2, "left": 2}.get(side, 0) if close else 0
        axes.annotate(
            word + named.text(value), (value, 1), xycoords=("data", "axes fraction"), xytext=(shift, 4),
            textcoords="offset points", ha=side, va="bottom", fontsize=8.5, color=color, weight=weight,
        )  # fmt: skip


def _starred(parameter: Parameter) -> Parameter:
    return replace(parameter, symbol=f"{parameter.symbol}*")


def _small_panel(
    axes: Any, name: str, choice: StructureChoice | None, parameter: Parameter, marks: Marks, theme: Theme
) -> None:
    from matplotlib.ticker import MaxNLocator

    _tidy(axes, theme, small=True)
    axes.yaxis.set_major_locator(MaxNLocator(3, min_n_ticks=2))
    above = {"transform": axes.transAxes, "va": "bottom", "parse_math": False}
    _shorten(axes.text(0, 1.04, name, color=theme.ink, fontsize=7, **above), axes)
    if marks.chosen is not None:
        axes.axvline(marks.chosen[parameter.name], color=theme.faint, linewidth=0.9, linestyle=(0, (3, 2)), zorder=2.5)
    if choice is None:
        return
    setting = choice.setting.get(parameter.name, math.nan)
    if math.isfinite(setting):
        axes.axvline(setting, color=theme.line, linewidth=0.9, zorder=2.6)
        axes.plot([setting], [choice.dice.value], marker="o", markersize=4.5, color=theme.ink, markeredgecolor=theme.paper,
                  markeredgewidth=0.7, zorder=6, clip_on=False)
        axes.text(1, 1.04, f"{setting:.3g}", color=theme.line, ha="right", weight="bold", fontsize=7.5, **above)


def _shorten(label: Any, axes: Any) -> None:
    """Cut a name that would run into the figure at the right of its line."""
    renderer = axes.figure.canvas.get_renderer()
    name, room = label.get_text(), _NAME_ROOM * axes.get_window_extent(renderer).width
    for length in range(len(name) - 1, 2, -1):
        if label.get_window_extent(renderer).width <= room:
            return
        label.set_text(name[:length].rstrip() + "…")


def _tidy(axes: Any, theme: Theme, small: bool = False) -> None:
    axes.tick_params(colors=theme.faint, labelsize=6.5 if small else 8.5, length=2 if small else 3, pad=2 if small else 3)
    axes.grid(axis="y", color=theme.faint, alpha=0.22, linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.faint)
        spine.set_linewidth(0.8)


def _setting_ticks(axes: Any, parameter: Parameter, theme: Theme, small: bool = False) -> None:
    ticks = _ticks(parameter, *axes.get_xlim(), few=small)
    axes.set_xticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
    axes.xaxis.set_minor_locator(_no_ticks())


def _ticks(parameter: Parameter, low: float, high: float, *, few: bool = False) -> list[float]:
    """Return round values of a parameter from `low` to `high`."""
    from matplotlib.ticker import MaxNLocator

    if parameter.scale == "log":
        steps = (1, 2, 5) if few or high / low > 30 else (1, 1.5, 2, 3, 5, 7)
        powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
        every = [step * 10.0**power for power in powers for step in steps]
    else:
        every = list(MaxNLocator(3 if few else 7, steps=[1, 2, 5, 10]).tick_values(low, high))
    slack = 1e-9 * max(abs(low), abs(high))
    return [tick for tick in every if low - slack <= tick <= high + slack] or [low, high]


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()


def _folding_of(trial: Trial, criterion: Criterion) -> float:
    return trial.folding_percent.foreground if criterion.domain == "foreground" else trial.folding_percent.grid


def _legend(figure: Any, criterion: Criterion, marks: Marks, theme: Theme) -> None:
    from matplotlib.patches import Patch

    handles: list[Any] = _band_handles(marks, theme)
    if criterion.folding_limit is not None:
        handles.append(Patch(color=theme.alert, alpha=0.16, linewidth=0, label=f"may fold {criterion.folding_limit:g} % or more"))
    _place_legend(figure, [*handles, *_trial_handles(criterion, marks, theme)], _HEIGHT, theme)


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

    color = theme.line if marks.trusted else theme.faint
    style: Any = "-" if marks.trusted else (0, (4, 2))
    label = "predicted" if marks.trusted else "predicted, not to be trusted"
    return [
        Line2D([], [], color=color, linewidth=1.7, linestyle=style, label=label),
        Patch(color=color, alpha=0.25, linewidth=0, label="90 % band"),
    ]


def _trial_handles(criterion: Criterion, marks: Marks, theme: Theme) -> list[Any]:
    from matplotlib.lines import Line2D

    over = {_is_over(trial, criterion) for trial in marks.trials}
    words = {False: "measured", True: "measured, over the limit"}
    return [Line2D([], [], label=words[one], **_trial_style(one, theme)) for one in sorted(over)]


def _place_legend(figure: Any, handles: Sequence[Any], height: float, theme: Theme) -> None:
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.003, 1 - 0.03 / height), ncols=len(handles), frameon=False,
        fontsize=8.5, labelcolor=theme.faint, handlelength=1.8, columnspacing=1.8, borderaxespad=0.2,
    )


def _color_bar(figure: Any, axes: Any, filled: Any, ticks: dict[float, str] | None, theme: Theme) -> None:
    from matplotlib.ticker import MaxNLocator

    bar = figure.colorbar(filled, cax=axes)
    if ticks is None:
        bar.ax.yaxis.set_major_locator(MaxNLocator(6))
    else:
        bar.ax.set_yticks(list(ticks), labels=list(ticks.values()))
    bar.ax.tick_params(colors=theme.faint, labelsize=7.5, length=2, pad=2)
    bar.outline.set_visible(False)


def _draw_limit(axes: Any, triangles: Any, upper: np.ndarray, criterion: Criterion, theme: Theme) -> None:
    limit = criterion.folding_limit
    if limit is None:
        return
    height = np.log10(np.maximum(upper, 1e-9) / limit)
    if height.max() < 0:
        return
    hatched = axes.tricontourf(triangles, height, levels=[0, height.max() + 1], colors="none", hatches=["///"])
    hatched.set_edgecolor(theme.paper)
    hatched.set_linewidth(0)
    if height.min() < 0:
        axes.tricontour(triangles, height, levels=[0], colors=theme.paper, linewidths=3.2)
        axes.tricontour(triangles, height, levels=[0], colors=theme.alert, linewidths=1.7)


def _mark_places(axes: Any, space: SearchSpace, marks: Marks, criterion: Criterion, theme: Theme) -> None:
    for setting, style in ((marks.fixed, _fixed_style(theme)), (marks.chosen, _chosen_style(theme))):
        if setting is not None:
            axes.plot(*_place_of(space, setting), **style)
    for number, trial in enumerate(marks.trials, start=1):
        at, over = _place_of(space, trial.setting), _is_over(trial, criterion)
        axes.plot(*at, **_trial_style(over, theme))
        words = f"{_trial_words(number, len(marks.trials))} {wording.percent(_folding_of(trial, criterion))}"
        _label_point(axes, words, at, over, theme)


def _place_of(space: SearchSpace, setting: Setting) -> tuple[float, float]:
    x, y = space.to_unit(space.rows([setting]))[0]
    return float(x), float(y)


def _chosen_style(theme: Theme) -> dict[str, Any]:
    return {"marker": "*", "markersize": 15, "color": theme.line, **_point_style(theme)}


def _fixed_style(theme: Theme) -> dict[str, Any]:
    return {"marker": "D", "markersize": 7, "color": theme.faint, **_point_style(theme)}


def _finish_map(axes: Any, space: SearchSpace, places: np.ndarray, theme: Theme) -> None:
    for n, (parameter, axis) in enumerate(zip(space, (axes.xaxis, axes.yaxis), strict=True)):
        low, high = places[:, n].min(), places[:, n].max()
        (axes.set_ylim if n else axes.set_xlim)(low, high)
        ticks = _ticks(parameter, *parameter.from_unit(np.array([low, high])))
        axis.set_ticks(parameter.to_unit(np.array(ticks)), labels=[f"{tick:.3g}" for tick in ticks])
        axis.set_label_text(axis_title(parameter), color=theme.faint, fontsize=9)
    _tidy(axes, theme)
    axes.grid(False)


def _map_legend(figure: Any, space: SearchSpace, criterion: Criterion, marks: Marks, theme: Theme) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    if not marks.trusted:
        handles.append(Patch(color=theme.faint, label="predicted, not to be trusted"))
    if marks.chosen is not None:
        words = ", ".join(_starred(p).text(marks.chosen[p.name]) for p in space)
        handles.append(Line2D([], [], label=words, **_chosen_style(theme)))
    if marks.fixed is not None:
        handles.append(Line2D([], [], label=f"fixed {space.text(marks.fixed)}", **_fixed_style(theme)))
    if criterion.folding_limit is not None:
        label = f"may fold {criterion.folding_limit:g} % or more"
        handles.append(Patch(facecolor=theme.faint, edgecolor=theme.paper, linewidth=0, hatch="///", label=label))
    _place_legend(figure, [*handles, *_trial_handles(criterion, marks, theme)], _MAP_HEIGHT, theme)
