"""From foreseen curves to λ*: the criteria, the Pareto front, and each structure's own choice.

Foreseen folding must lie strictly under the limit, as in HyperPredict (MELBA 2024), Equation 3; measured folding may touch it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from HyperPredictRegLib.curves import Band, Curves
from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.job import BandValue, Criterion
from HyperPredictRegLib.selection.printed import banded_percent
from HyperPredictRegLib.selection.readout import band_value, word_for

NO_FOLDING_PERCENT = 0.001
"""Folding below this counts as none: about two voxels of a brain at 2 mm."""


@dataclass(frozen=True)
class Choice:
    """The chosen setting.

    Attributes
    ----------
    index : its place among the values of the curves.
    hyperparameters : its values by name.
    feasible : whether it is foreseen to keep the folding limit.
    sentence : why this one, for the user.
    """

    index: int
    hyperparameters: dict[str, float]
    feasible: bool
    sentence: str


@dataclass(frozen=True)
class StructureChoice:
    """What would be chosen if only one structure counted.

    Attributes
    ----------
    structure, label : which one.
    choice : its own λ*.
    dice : its foreseen Dice there, with the 90 % band.
    gain : that Dice minus its Dice at the overall λ*; the plateau's tolerance can make it slightly negative.
    """

    structure: str
    label: int
    choice: Choice
    dice: BandValue
    gain: float


def choose(curves: Curves, criterion: Criterion) -> Choice:
    """Choose the setting that the criterion asks for.

    Where several settings serve equally well, the stiffest is taken: the largest λ, or, with several hyperparameters, the lowest
    foreseen standard deviation of the logarithm of the Jacobian determinant. If no setting is foreseen to keep the limit, one
    with the lowest upper end of the folding band is taken, and `feasible` is false: by the rule among those whose best guess
    keeps the limit, else the stiffest. Rule "maximum" with `cautious` false is
    Equation 3 of HyperPredict (Shuaibu and Simpson, MELBA 2024).

    Raises
    ------
    InputError : the criterion names a structure that the curves lack, or there is nothing to choose from.
    """
    dice = _objective_values(curves, criterion)
    allowed = feasible(curves, criterion) & np.isfinite(dice)
    keeps = bool(allowed.any())
    if not keeps:
        # Bands end at what can be told from no folding: a limit below that may be kept by many, and certainly by none.
        allowed = _hopeful(curves, criterion) & np.isfinite(dice)
    if not allowed.any():
        index = _safest(curves, criterion)
    elif criterion.rule == "knee":
        index = _knee(pareto_front(curves, criterion, among=allowed), dice, curves, criterion)
    else:
        given_up = criterion.tolerance if criterion.rule == "plateau" else 0.0
        index = _stiffest(curves, np.flatnonzero(allowed & (dice >= dice[allowed].max() - given_up)))
    certain = "keeps" if keeps else "hopes" if allowed.any() else "no"
    return Choice(index, _setting(curves, index), keeps, _sentence(curves, criterion, index, certain, float(dice[index])))


def objective(curves: Curves, criterion: Criterion) -> Band:
    """Return the Dice that counts, shape (n,): the mean, the weighted mean or the worst of the criterion's structures.

    Its band combines the ends of the structures' bands, as if their errors went together, and is rather too wide than too narrow.
    Structures of weight 0 do not count.

    Raises
    ------
    InputError : the criterion names a structure that the curves lack.
    """
    if not criterion.structures and (criterion.combine == "mean" or not curves.structures):
        return curves.mean_dice
    weights = _weights(curves, criterion)
    value, lower, upper = (
        _combined(part, weights, criterion.combine) for part in (curves.dice.value, curves.dice.lower, curves.dice.upper)
    )
    return Band(value, lower, upper)


def feasible(curves: Curves, criterion: Criterion) -> np.ndarray:
    """Tell which settings are foreseen to keep the folding limit, bool of shape (n,); all of them if there is none."""
    if criterion.folding_limit is None:
        return np.ones(len(curves.values), dtype=bool)
    folding = curves.folding(criterion.domain)
    return (folding.upper if criterion.cautious else folding.value) < criterion.folding_limit


def pareto_front(curves: Curves, criterion: Criterion, among: np.ndarray | None = None) -> np.ndarray:
    """Return the settings that no other one betters in both foreseen Dice and foreseen folding.

    Of two settings with equal folding (everything below 0.001 % is equal), the one with the lower standard deviation of the
    logarithm of the Jacobian determinant counts as the smoother. Of identical settings the first is returned.

    Parameters
    ----------
    among : bool of shape (n,), which settings take part; all by default.

    Returns
    -------
    Indices, from the smoothest setting with the lowest Dice to the roughest with the highest.
    """
    dice = _objective_values(curves, criterion)
    folding = np.maximum(curves.folding(criterion.domain).value, NO_FOLDING_PERCENT)
    candidates = np.flatnonzero(np.isfinite(dice) if among is None else among & np.isfinite(dice))
    order = np.lexsort((-dice[candidates], curves.sd_log_jacobian.value[candidates], folding[candidates]))
    smoothest_first = candidates[order]
    best_so_far = np.maximum.accumulate(np.concatenate([[-np.inf], dice[smoothest_first]]))
    return smoothest_first[dice[smoothest_first] > best_so_far[:-1]]


def knee(curves: Curves, criterion: Criterion) -> int:
    """Return the knee among the settings foreseen to keep the limit, or among all if none is.

    It is the point of the Pareto front farthest above the chord between the front's ends, Dice against the logarithm of folding,
    both scaled to the front's extent; where nothing folds, against the standard deviation of the logarithm of the Jacobian
    determinant. A front that bulges nowhere has its knee at the end of highest Dice.
    """
    allowed = feasible(curves, criterion)
    front = pareto_front(curves, criterion, among=allowed if allowed.any() else None)
    return _knee(front, _objective_values(curves, criterion), curves, criterion)


def per_structure(curves: Curves, criterion: Criterion) -> list[StructureChoice]:
    """Return what each structure of the curves would choose for itself, under the same rule and limit."""
    overall = choose(curves, criterion).index
    found = []
    for row, (name, label) in enumerate(zip(curves.structures, curves.labels, strict=True)):
        if not np.isfinite(curves.dice.value[row]).any():
            continue
        # Rows, not names: two structures may share a name.
        alone = replace(curves, structures=(name,), labels=(label,), dice=curves.dice[row : row + 1])
        choice = choose(alone, replace(criterion, structures={name: 1.0}, combine="mean"))
        gain = float(curves.dice.value[row, choice.index] - curves.dice.value[row, overall])
        found.append(StructureChoice(name, label, choice, band_value(curves.dice, (row, choice.index)), gain))
    return found


def _objective_values(curves: Curves, criterion: Criterion) -> np.ndarray:
    """Return the best guess of `objective` alone, with what was not foreseen at -inf; a third of its work."""
    if not criterion.structures and (criterion.combine == "mean" or not curves.structures):
        dice = curves.mean_dice.value
    else:
        dice = _combined(curves.dice.value, _weights(curves, criterion), criterion.combine)
    dice = np.where(np.isnan(dice), -np.inf, dice)
    if not np.isfinite(dice).any():
        raise InputError("No Dice was foreseen for the structures that count: choose others, or set λ by hand.")
    return dice


def _weights(curves: Curves, criterion: Criterion) -> np.ndarray:
    unknown = [name for name in criterion.structures if name not in curves.structures]
    if unknown:
        raise InputError(
            f"The predictor does not foresee the structure '{unknown[0]}': choose among {', '.join(curves.structures) or 'none'}."
        )
    return np.array([criterion.structures.get(name, 0.0) if criterion.structures else 1.0 for name in curves.structures])


def _combined(dice: np.ndarray, weights: np.ndarray, combine: str) -> np.ndarray:
    counts = weights > 0
    return dice[counts].min(axis=0) if combine == "worst" else (weights[counts] / weights.sum()) @ dice[counts]


def _stiffest(curves: Curves, candidates: np.ndarray) -> int:
    if curves.values.shape[1] == 1:
        return int(candidates[-1])
    return int(candidates[np.argmin(curves.sd_log_jacobian.value[candidates])])


def _hopeful(curves: Curves, criterion: Criterion) -> np.ndarray:
    """Tell which of the settings with the lowest upper end of the folding band keep the limit by the best guess."""
    folding = curves.folding(criterion.domain)
    return (folding.upper == np.nanmin(folding.upper)) & feasible(curves, replace(criterion, cautious=False))


def _safest(curves: Curves, criterion: Criterion) -> int:
    if curves.values.shape[1] == 1:
        return len(curves.values) - 1
    upper = curves.folding(criterion.domain).upper
    return _stiffest(curves, np.flatnonzero(upper == np.nanmin(upper)))


def _knee(front: np.ndarray, dice: np.ndarray, curves: Curves, criterion: Criterion) -> int:
    cost = np.log(np.maximum(curves.folding(criterion.domain).value[front], NO_FOLDING_PERCENT))
    if np.ptp(cost) == 0:
        cost = curves.sd_log_jacobian.value[front]
    if np.ptp(cost) == 0:
        return int(front[-1])
    up, along = (dice[front] - dice[front[0]]) / max(np.ptp(dice[front]), 1e-12), (cost - cost[0]) / np.ptp(cost)
    height = up - along
    bulges = height.max() > 1e-9
    return int(front[np.argmax(height)] if bulges else front[-1])


def _setting(curves: Curves, index: int) -> dict[str, float]:
    return {name: float(value) for name, value in zip(curves.names, curves.values[index], strict=True)}


def _sentence(curves: Curves, criterion: Criterion, index: int, certain: str, dice: float) -> str:
    setting = ", ".join(f"{word_for(name)} = {value:.3g}" for name, value in _setting(curves, index).items())
    band = band_value(curves.folding(criterion.domain), index)
    domain = "foreground" if criterion.domain == "foreground" else "working grid"
    figures = f"Foreseen folding of the {domain}: {banded_percent(band)}."
    if band.upper < NO_FOLDING_PERCENT:
        figures = "Practically no folding is foreseen."
    keeping = f"keeps folding under {criterion.folding_limit:g} % of the {domain}" if criterion.folding_limit is not None else ""
    if certain == "no":
        return f"{setting}: no setting is foreseen that {keeping}, so this is the one that should fold least. {figures}"
    if certain == "hopes":
        return (
            f"{setting}: no setting is foreseen that {keeping} for certain, because so little cannot be told from none; this is "
            f"one of the safest, with a foreseen {_dice_words(criterion)} of {dice:.3f}. {figures}"
        )
    that_keeps = f" that {keeping}" if keeping else ""
    what = f"foreseen {_dice_words(criterion)} ({dice:.3f})"
    reason = {
        "plateau": f"the stiffest setting whose {what} is within {criterion.tolerance:g} of the best{that_keeps}",
        "maximum": f"the setting of highest {what}{that_keeps}",
        "knee": f"the knee of the front, above which more folding buys little {what}"
        f"{', among settings of which each ' + keeping if keeping else ''}",
    }[criterion.rule]
    return f"{setting}: {reason}. {figures}"


def _dice_words(criterion: Criterion) -> str:
    counted = [name for name, weight in criterion.structures.items() if weight > 0]
    if len(counted) == 1:
        return f"Dice of {counted[0]}"
    of = f"of {len(counted)} structures" if counted else "of all structures"
    return f"lowest Dice {of}" if criterion.combine == "worst" else (f"weighted mean Dice {of}" if counted else "mean Dice")
