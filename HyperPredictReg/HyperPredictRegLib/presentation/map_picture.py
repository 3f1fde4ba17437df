"""A prediction over two parameters as a picture: colors over all settings, limit, marks, axes; pixels and captions, no Qt."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from HyperPredictRegLib.core.search_space import Parameter, SearchSpace, Setting
from HyperPredictRegLib.reporting.prediction_figures import axis_title, no_folding
from HyperPredictRegLib.results.formatting import QUALITY_TITLES
from HyperPredictRegLib.results.job import Criterion
from HyperPredictRegLib.results.prediction import Prediction, PredictionSurface
from HyperPredictRegLib.selection import objective
from HyperPredictRegLib.selection.interpolation import neighbors

HEIGHT = 250
"""Pixels of a whole picture, with titles and axes."""

LEAST_WIDTH = 220

_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 76, 40, 38
_BAR, _BAR_GAP, _TICK, _LINE = 10, 8, 4, 15
_BETWEEN_ACROSS, _BETWEEN_UP = 44, 22
_HATCH_EVERY, _HATCH_SHARE = 8, 0.5
_MARK_RADIUS, _CROSS_RADIUS, _CROSS_OPENING = 6, 12, 4

# From the lowest to the highest, evenly spaced; both read the same to those who see few colors, and in gray.
_GREENS = "440154 482878 3e4989 31688e 26828e 1f9e89 35b779 6ece58 b5de2b fde725"
_FIRES = "fcfdbf feca8d fd9668 f1605d cd4071 9e2f7f 721f81 440f76 180f3d 000004"
_GRAYS = "505050 d8d8d8"
_LIMIT, _HALO, _UNKNOWN = "c01a1a", "ffffff", "9a9a9a"


@dataclass(frozen=True)
class MapColors:
    """Colors of the paper and of what is written on it, as #rrggbb."""

    paper: str
    ink: str


@dataclass(frozen=True)
class Caption:
    """A text in the box at `left`, `top` of `width` x `height` pixels, in its middle or at one "side" of it."""

    text: str
    left: int
    top: int
    width: int
    height: int
    side: str = "center"
    bold: bool = False


@dataclass(frozen=True)
class _Layer:
    """What is drawn in color: `values` at the predicted settings, the `span` and `ramp` of their colors, ticks of the bar."""

    title: str
    values: np.ndarray
    span: tuple[float, float]
    ramp: np.ndarray
    ticks: dict[float, str]


@dataclass(frozen=True)
class MapPicture:
    """What is shown of a prediction over two parameters.

    Attributes
    ----------
    pixels : uint8, shape (height, width, 3), all but the captions and the user's mark.
    captions : titles and numbers of the axes.
    area : left, top, width and height of the map itself, pixels.
    space : the two parameters, along and up.
    ends : shape (2, 2), of each parameter the places of the map's two ends in the unit square.
    """

    pixels: np.ndarray
    captions: tuple[Caption, ...]
    area: tuple[int, int, int, int]
    space: SearchSpace
    ends: np.ndarray

    def marked(self, setting: Setting, color: str) -> np.ndarray:
        """Return the pixels with a cross at a setting; outside of the map it stands at the nearest edge."""
        pixels = self.pixels.copy()
        _stamp(pixels, self.place_of(setting), "cross", color)
        return pixels

    def place_of(self, setting: Setting) -> tuple[int, int]:
        """Return the pixel, from the left and from the top, of a setting; of the nearest one for a setting outside."""
        left, top, width, height = self.area
        low, high = self.ends.T
        along, up = np.clip((self.space.to_unit(self.space.rows([setting]))[0] - low) / (high - low), 0.0, 1.0)
        return left + round(along * (width - 1)), top + round((1.0 - up) * (height - 1))

    def setting_at(self, x: float, y: float) -> Setting | None:
        """Return the two values at a pixel, from the left and from the top; None beside the map."""
        left, top, width, height = self.area
        along, up = (x - left) / (width - 1), 1.0 - (y - top) / (height - 1)
        if not (0.0 <= along <= 1.0 and 0.0 <= up <= 1.0):
            return None
        low, high = self.ends.T
        return self.space.setting(self.space.from_unit(low + np.array([[along, up]]) * (high - low))[0])


def quality_map(
    prediction: Prediction, structure: str | None, width: int, colors: MapColors, marks: Mapping[str, str], trusted: bool = True
) -> MapPicture:
    """Draw what counts for the choice over two parameters: Dice, the gain of overlap in percent, or the expected error.

    Parameters
    ----------
    prediction : over two parameters; its criterion says which structures count, and gives the folding limit.
    structure : the one whose Dice to draw instead, or None.
    width : of the picture, pixels; at least `LEAST_WIDTH` is drawn.
    colors : of paper and ink.
    marks : by kind ("chosen", "fixed") the color of the mark, as #rrggbb.
    trusted : false draws in gray.

    Raises
    ------
    InputError : a structure that counts, or is asked for, was not predicted.
    """
    surface, criterion = prediction.surface, prediction.criterion
    if structure is None:
        values, title = objective(surface, criterion).value, _quality_title(surface, criterion)
    else:
        values, title = surface.dice.value[surface.structures.index(structure)], f"Dice of {structure}"
    measure = "mean_dice" if structure is not None else surface.measure(criterion.goal)
    values = 100 * values if measure == "overlap_gain" else values
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    ticks = {tick: f"{tick:.3g}" for tick in rounds(low, high, 5)}
    ramp = _ramp(_GREENS if trusted else _GRAYS, reverse=measure == "error_mm")
    return _picture(prediction, _Layer(title, values, (low, high), ramp, ticks), width, colors, marks)


def folding_map(
    prediction: Prediction, width: int, colors: MapColors, marks: Mapping[str, str], trusted: bool = True
) -> MapPicture:
    """Draw the predicted folding over two parameters on a logarithmic scale; parameters are those of `quality_map`."""
    surface, criterion = prediction.surface, prediction.criterion
    none = no_folding(criterion)
    values = np.log10(np.maximum(surface.folding(criterion.domain).value, none))
    low = math.log10(none)
    high = max(low + 1.0, float(np.nanmax(values)))
    ticks = {float(power): f"{10.0**power:g} %" for power in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)}
    title = f"Folding, percent of the {criterion.domain}"
    ramp = _ramp(_FIRES if trusted else _GRAYS, reverse=not trusted)
    return _picture(prediction, _Layer(title, values, (low, high), ramp, ticks), width, colors, marks)


def over_limit_words(criterion: Criterion) -> str:
    """Say what the hatched part of a map means; "" where there is no limit."""
    if criterion.folding_limit is None:
        return ""
    return f"{'may fold' if criterion.cautious else 'folds'} {criterion.folding_limit:g}\u00a0% or more"


def rounds(low: float, high: float, most: int) -> list[float]:
    """Return at most `most` round values from `low` to `high`, evenly spaced, or both ends where no round one is between."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for step in (power * factor for factor in (1, 2, 5, 10, 20)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if 2 <= last - first + 1 <= most:
            return [n * step for n in range(first, last + 1)]
    return [low, high]


def parameter_rounds(parameter: Parameter, low: float, high: float, most: int) -> list[float]:
    """Return at most `most` round values of a parameter between two of its values: 1, 2, 5, 10 on a logarithmic scale."""
    if parameter.scale != "log":
        return rounds(low, high, most)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        every = [step * 10.0**power for power in powers for step in steps]
        found = [value for value in every if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
        if 2 <= len(found) <= most:
            return found
    return [low, high]


def _quality_title(surface: PredictionSurface, criterion: Criterion) -> str:
    measure = surface.measure(criterion.goal)
    if measure != "mean_dice":
        return QUALITY_TITLES[measure]
    counted = [name for name, weight in criterion.structures.items() if weight > 0]
    if len(counted) == 1:
        return f"Dice of {counted[0]}"
    if criterion.combine == "worst" and surface.structures:
        return "Lowest Dice of those that count" if counted else "Lowest Dice of all structures"
    return "Mean Dice of those that count" if counted else "Mean Dice"


def _picture(prediction: Prediction, layer: _Layer, width: int, colors: MapColors, marks: Mapping[str, str]) -> MapPicture:
    surface, choice = prediction.surface, prediction.choice
    width = max(width, LEAST_WIDTH)
    area = (_LEFT, _TOP, width - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM)
    left, top, across, up = area
    unit = surface.space.to_unit(surface.values)
    # Never of no extent, as where one value of a parameter was predicted.
    ends = np.stack([unit.min(axis=0), np.maximum(unit.max(axis=0), unit.min(axis=0) + 1e-9)], axis=1)
    here, beyond = _read(prediction, layer.values, ends, (across, up))
    pixels = np.full((HEIGHT, width, 3), _rgb(colors.paper), dtype=np.uint8)
    pixels[top : top + up, left : left + across] = _colored(here, layer, beyond)
    bar = left + across + _BAR_GAP
    pixels[top : top + up, bar : bar + _BAR] = layer.ramp[np.linspace(len(layer.ramp) - 1, 0, up).round().astype(int)][:, None]
    ink = _rgb(colors.ink)
    captions = [Caption(layer.title, 0, 0, width, _LINE, "left", bold=True)]
    captions += _bar_ticks(pixels, layer, (bar + _BAR, top, up), ink)
    captions += _axes(pixels, surface.space, ends, area, ink)
    picture = MapPicture(pixels, tuple(captions), area, surface.space, ends)
    chosen = choice.setting if choice.predicted is not None else None
    for kind, setting in (("fixed", choice.fixed), ("chosen", chosen)):
        if kind in marks and setting and set(surface.names) <= set(setting):
            _stamp(pixels, picture.place_of(setting), kind, marks[kind])
    return replace(picture, pixels=pixels)


def _read(
    prediction: Prediction, values: np.ndarray, ends: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return values, and whether the folding limit is reached, at each pixel of a map of (across, up) pixels, highest first."""
    surface, criterion = prediction.surface, prediction.criterion
    along, up = (np.linspace(low, high, count) for (low, high), count in zip(ends, size, strict=True))
    places = np.stack(np.meshgrid(along, up[::-1]), axis=-1).reshape(-1, 2)
    rows, weights = neighbors(surface.space, surface.values, surface.space.from_unit(places))
    shape = size[::-1]
    here = (values[rows] * weights).sum(axis=1).reshape(shape)
    if criterion.folding_limit is None:
        return here, np.zeros(shape, dtype=bool)
    folding = surface.folding(criterion.domain)
    # As a setting there is read: what lies beside the line keeps the limit in the panel's figures, too.
    counted = folding.upper if criterion.cautious else folding.value
    return here, ((counted[rows] * weights).sum(axis=1) >= criterion.folding_limit).reshape(shape)


def _colored(values: np.ndarray, layer: _Layer, beyond: np.ndarray) -> np.ndarray:
    """Return the colors of values, what is beyond the limit hatched, and the limit drawn."""
    span, ramp = layer.span, layer.ramp
    share = (np.nan_to_num(values, nan=span[0]) - span[0]) / max(span[1] - span[0], 1e-12)
    found = ramp[np.clip(share * (len(ramp) - 1), 0, len(ramp) - 1).round().astype(int)]
    found[~np.isfinite(values)] = _rgb(_UNKNOWN)
    rows, columns = np.indices(values.shape)
    hatched = beyond & ((rows + columns) % _HATCH_EVERY == 0)
    found[hatched] = (_HATCH_SHARE * found[hatched] + (1 - _HATCH_SHARE) * np.array(_rgb(_HALO))).astype(np.uint8)
    edge = np.zeros_like(beyond)
    edge[:, 1:] |= beyond[:, 1:] != beyond[:, :-1]
    edge[1:] |= beyond[1:] != beyond[:-1]
    found[ndimage.binary_dilation(edge, iterations=2)] = _rgb(_HALO)
    found[ndimage.binary_dilation(edge)] = _rgb(_LIMIT)
    return found


def _bar_ticks(
    pixels: np.ndarray, layer: _Layer, bar: tuple[int, int, int], ink: tuple[int, int, int]
) -> list[Caption]:
    left, top, height = bar
    span = layer.span
    room = pixels.shape[1] - left - _TICK
    captions = []
    for value, text in layer.ticks.items():
        y = top + round((1.0 - (value - span[0]) / max(span[1] - span[0], 1e-12)) * (height - 1))
        pixels[y, left : left + _TICK] = ink
        captions.append(Caption(text, left + _TICK + 2, y - _LINE // 2, room - 2, _LINE, "left"))
    return captions


def _axes(
    pixels: np.ndarray, space: SearchSpace, ends: np.ndarray, area: tuple[int, int, int, int], ink: tuple[int, int, int]
) -> list[Caption]:
    """Draw ticks along both axes; return their numbers and titles: that of the upright axis lies above the map."""
    left, top, across, up = area
    along, upright = space
    below = top + up
    captions = [
        Caption(axis_title(upright), 0, _TOP - _LINE - 5, left + across, _LINE, "left"),
        Caption(axis_title(along), left, below + _TICK + _LINE + 1, across, _LINE),
    ]
    for value, share in _ticks(along, ends[0], across // _BETWEEN_ACROSS):
        x = left + round(share * (across - 1))
        pixels[below : below + _TICK, x] = ink
        captions.append(Caption(f"{value:.3g}", x - _BETWEEN_ACROSS // 2, below + _TICK, _BETWEEN_ACROSS, _LINE))
    for value, share in _ticks(upright, ends[1], up // _BETWEEN_UP):
        y = top + round((1.0 - share) * (up - 1))
        pixels[y, left - _TICK : left] = ink
        captions.append(Caption(f"{value:.3g}", 0, y - _LINE // 2, left - _TICK - 2, _LINE, "right"))
    return captions


def _ticks(parameter: Parameter, ends: np.ndarray, most: int) -> list[tuple[float, float]]:
    """Return round values of a parameter, each with its share of the way between the two ends of an axis."""
    low, high = (float(value) for value in parameter.from_unit(ends))
    low, high = min(low, high), max(low, high)
    return [
        (value, float((parameter.to_unit(value) - ends[0]) / (ends[1] - ends[0])))
        for value in parameter_rounds(parameter, low, high, most)
    ]


def _stamp(pixels: np.ndarray, place: tuple[int, int], kind: str, color: str) -> None:
    """Draw a mark with a light edge: "chosen" a diamond, "fixed" a square, "cross" four lines around what lies there."""
    radius = _CROSS_RADIUS if kind == "cross" else _MARK_RADIUS
    reach = radius + 2
    x, y = place
    rows, columns = np.indices((2 * reach + 1, 2 * reach + 1)) - reach
    if kind == "cross":
        away = np.maximum(abs(rows), abs(columns))
        inside = (np.minimum(abs(rows), abs(columns)) <= 1) & (away <= radius) & (away > _CROSS_OPENING)
    else:
        distance = abs(rows) + abs(columns) if kind == "chosen" else np.maximum(abs(rows), abs(columns)) + 1
        inside = distance <= radius
    for mask, rgb in ((ndimage.binary_dilation(inside), _rgb(_HALO)), (inside, _rgb(color))):
        at_rows, at_columns = rows[mask] + y, columns[mask] + x
        seen = (at_rows >= 0) & (at_rows < pixels.shape[0]) & (at_columns >= 0) & (at_columns < pixels.shape[1])
        pixels[at_rows[seen], at_columns[seen]] = rgb


def _ramp(anchors: str, reverse: bool = False) -> np.ndarray:
    """Return 256 colors between anchors, uint8 of shape (256, 3)."""
    known = np.array([_rgb(one) for one in anchors.split()], dtype=float)
    at = np.linspace(0, len(known) - 1, 256)
    found = np.stack([np.interp(at, np.arange(len(known)), channel) for channel in known.T], axis=1).round().astype(np.uint8)
    return found[::-1] if reverse else found


def _rgb(color: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(color.removeprefix("#"))
    return red, green, blue
