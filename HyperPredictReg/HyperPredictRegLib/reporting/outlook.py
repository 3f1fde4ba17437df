"""What to expect of a pair in words: expected error and its gain over affine only, folding, and chances in percent."""

from __future__ import annotations

import numpy as np

from HyperPredictRegLib.core.formatting import distance, number
from HyperPredictRegLib.results.formatting import QUALITY_TITLES, banded, banded_gain, banded_mm, banded_percent
from HyperPredictRegLib.results.job import Criterion
from HyperPredictRegLib.results.prediction import Outlook, Predicted, Prediction
from HyperPredictRegLib.selection import feasible, interpolated

_MAP = 7, 5
"""Settings of each parameter in a map of text."""


def expectation_parts(predicted: Predicted, outlook: Outlook | None, criterion: Criterion) -> list[str]:
    """Return Dice and error that are expected at a setting, what the latter gains over the affine step alone, and folding last.

    The gain of overlap is told where it counts for the criterion's goal.
    """
    parts = [] if predicted.mean_dice is None else [f"mean Dice {banded(predicted.mean_dice, 2)}"]
    if predicted.overlap_gain is not None and predicted.measure(criterion.goal) == "overlap_gain":
        parts.append(f"gain of overlap {banded_gain(predicted.overlap_gain)} of what affine leaves")
    if predicted.error_mm is not None:
        parts.append(f"expected error {banded_mm(predicted.error_mm)}")
    gain = gain_at(predicted, outlook)
    if gain is not None:
        change = "less" if gain > 0 else "more"
        parts.append(f"{distance(abs(gain))} {change} than affine only ({distance(affine_error(outlook))})")
    return [*parts, f"folding {banded_percent(predicted.folding(criterion.domain))}"]


def gain_at(predicted: Predicted, outlook: Outlook | None) -> float | None:
    """Return what a setting is expected to take off the error of the affine step alone, mm; None where that is not known."""
    affine = affine_error(outlook)
    return None if affine is None or predicted.error_mm is None else affine - predicted.error_mm.value


def affine_error(outlook: Outlook | None) -> float | None:
    """Return the error that is expected of the affine step alone, mm; None where that is not known."""
    return None if outlook is None or outlook.affine_error_mm is None else outlook.affine_error_mm.value


def chances(outlook: Outlook | None) -> str:
    """Return in words, in percent, how likely deforming helps and the alignment has failed; "" where neither is known."""
    if outlook is None:
        return ""
    found = []
    if outlook.helps is not None:
        found.append(f"Deforming helps with a chance of {_percent(outlook.helps)}.")
    if outlook.failed is not None:
        found.append(f"The chance that the alignment has failed is {_percent(outlook.failed)}.")
    return " ".join(found)


def setting_map(prediction: Prediction) -> list[str]:
    """Return what is predicted over two parameters as lines of text: a coarse map, with the limit and the choice marked.

    Nothing where the prediction is over another number of parameters.
    """
    surface, criterion, chosen = prediction.surface, prediction.criterion, prediction.choice.predicted
    if len(surface.space) != 2:
        return []
    first, second = surface.space
    ends = surface.space.to_unit(surface.values)
    along, up = (np.linspace(low, high, count) for low, high, count in zip(ends.min(0), ends.max(0), _MAP, strict=True))
    places = np.array([[x, y] for y in up[::-1] for x in along])
    here = interpolated(surface, surface.space.from_unit(places))
    over = ~feasible(here, criterion)
    nearest = -1
    if chosen is not None:
        nearest = int(np.linalg.norm(places - surface.space.to_unit(surface.space.rows([chosen.setting])), axis=1).argmin())
    measure = surface.measure(criterion.goal)
    scale, digits = {"mean_dice": (1, 3), "overlap_gain": (100, 0), "error_mm": (1, 2)}[measure]
    cells = [
        f"{number(scale * value, digits)}{'!' if over[n] else ''}{'*' if n == nearest else ''}".ljust(digits + 4)
        for n, value in enumerate(here.quality(criterion.goal).value)
    ]
    what = QUALITY_TITLES[measure]
    limit = "" if criterion.folding_limit is None else f"; ! may fold {criterion.folding_limit:g} % or more"
    lines = [f"{what} over {first.symbol} (across) and {second.symbol} (up); * nearest to the choice{limit}:"]
    for row, y in enumerate(second.from_unit(up[::-1])):
        lines.append(f"{y:>10.3g} " + "".join(f"{cell:>10}" for cell in cells[row * len(along) : (row + 1) * len(along)]))
    return [*lines, " " * 11 + "".join(f"{f'{x:.3g}  ':>10}" for x in first.from_unit(along))]


def _percent(chance: float) -> str:
    # Nobody knows better than to one in a hundred.
    if chance < 0.01:
        return "under 1 %"
    return "over 99 %" if chance > 0.99 else f"{100 * chance:.0f} %"
