"""From a predicted surface to a setting: the criteria, the Pareto front, and each structure's own choice.

What counts is told by the criterion's goal: Dice or the gain of overlap, the higher the better, or the expected error in mm, the
lower the better.
Predicted folding must lie strictly under the limit, as in HyperPredict (MELBA 2024), Equation 3; measured folding may touch it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.search_space import Setting
from HyperPredictRegLib.results.formatting import QUALITY_WORDS, banded_percent, quality_text
from HyperPredictRegLib.results.job import Criterion
from HyperPredictRegLib.results.prediction import (
    BOOTSTRAP,
    Band,
    BandValue,
    Choice,
    Predicted,
    PredictionSurface,
    StructureChoice,
)
from HyperPredictRegLib.selection.interpolation import band_value, predicted_row

NO_FOLDING_PERCENT = 0.001
"""Folding below this counts as none: about two voxels of a brain at 2 mm."""

ERROR_SHARE, ERROR_VOXELS = 0.02, 0.02
"""Expected error that rule "plateau" gives up for a smoother field: the larger of a share of the least and a part of a voxel."""

GAIN_SHARE = 0.005
"""Gain of overlap that it gives up, of what the affine step leaves: some 0.001 of Dice."""


def choose(
    surface: PredictionSurface, criterion: Criterion, predictor: str = "", defaults: Setting | None = None
) -> Choice:
    """Choose the setting that the criterion asks for, with what is predicted there in the name of `predictor`.

    Where what counts is the expected error or the gain of overlap, it takes the place of Dice; structures then count for nothing,
    and what may be given up for a smoother field is `ERROR_SHARE` of the error or `ERROR_VOXELS`, or `GAIN_SHARE`. Where the goal
    is overlap and the error is all that is predicted, the engine's defaults are taken, or of the surface's settings the nearest
    that the limit allows: the least error is no guess of overlap (`docs/evaluation-any-pair.md`).

    Where several settings serve equally well, the most strongly regularized is taken: the end of a single parameter's range that
    regularizes more, or, with several parameters, the lowest predicted standard deviation of the logarithm of the Jacobian
    determinant. If no setting is predicted to keep the limit, one with the lowest upper end of the folding band is taken, and
    `feasible` is false: by the rule among those whose best guess keeps the limit, else the most strongly regularized. Rule
    "maximum" with `cautious` false is Equation 3 of HyperPredict (Shuaibu and Simpson, MELBA 2024).

    Parameters
    ----------
    defaults : the engine's, where the surface's own range may be too narrow for them.

    Raises
    ------
    InputError : the criterion names a structure that the surface lacks, or there is nothing to choose from.
    """
    if surface.structures:
        _weights(surface, criterion)
    if chooses_default(surface, criterion):
        return _default(surface, criterion, predictor, defaults or {})
    score = _scores(surface, criterion)
    index, certain = _chosen(surface, criterion, score, _given_up(surface, criterion, score))
    predicted = predicted_row(surface, index, predictor)
    if _by_dice(surface, criterion) and (criterion.structures or criterion.combine != "mean"):
        predicted = replace(predicted, counted_dice=band_value(objective(surface, criterion), index))
    sentence = " ".join((_sentence(surface, criterion, index, certain, float(score[index])), *_remarks(surface, criterion)))
    return Choice(predicted.setting, sentence, _by(predictor), certain == "keeps", predicted)


def chooses_default(surface: PredictionSurface | Predicted, criterion: Criterion) -> bool:
    """Tell whether the goal is overlap, and the error is all that is predicted."""
    return criterion.goal == "overlap" and surface.measure(criterion.goal) == "error_mm"


def _default(surface: PredictionSurface, criterion: Criterion, predictor: str, defaults: Setting) -> Choice:
    """Choose the setting nearest to the defaults that the limit allows."""
    space = surface.space
    defaults = {name: defaults.get(name, value) for name, value in space.defaults.items()}
    off = np.abs(space.shares(surface.values) - space.shares(space.rows([defaults]))).max(axis=1)
    near = np.where(np.isfinite(_scores(surface, criterion)), -off, -np.inf)
    index, certain = _chosen(surface, replace(criterion, rule="maximum"), near, 0.0)
    predicted = predicted_row(surface, index, predictor)
    sentence = " ".join((_default_sentence(surface, criterion, index, certain, defaults), *_remarks(surface, criterion)))
    return Choice(predicted.setting, sentence, _by(predictor), certain == "keeps", predicted)


def _default_sentence(surface: PredictionSurface, criterion: Criterion, index: int, certain: str, defaults: Setting) -> str:
    space = surface.space
    if certain == "no":
        return _sentence(surface, criterion, index, certain, 0.0)
    setting, default, keeping = space.setting(surface.values[index]), space.text(defaults), _keeping(criterion)
    figures = _folding_words(criterion, band_value(surface.folding(criterion.domain), index))
    why = "the goal is overlap, of which nothing is predicted here and the least error is no guess"
    what = "the engine's default"
    if not np.allclose(space.rows([setting]), space.rows([defaults]), rtol=1e-6):
        what = f"the setting nearest to the engine's default ({default}) that is predicted{' and ' if keeping else ''}{keeping}"
    if certain == "hopes":
        what = f"no setting is predicted that {keeping} for certain; of the safest this is the nearest to the engine's default"
    return f"{space.text(setting)}: {what}; {why}. {figures}"


def _by(predictor: str) -> str:
    return BOOTSTRAP if predictor == BOOTSTRAP else "predictor"


def _chosen(surface: PredictionSurface, criterion: Criterion, score: np.ndarray, given_up: float) -> tuple[int, str]:
    """Return the row that is chosen by a score, the higher the better, and whether it "keeps" the limit, "hopes" to, or "no".

    `given_up` : how much less than the best rule "plateau" is content with.
    """
    predicted = np.isfinite(score)
    allowed, certain = feasible(surface, criterion) & predicted, "keeps"
    if not allowed.any():
        # Bands end at what can be told from no folding: below that, many settings may keep a limit, and none certainly.
        allowed, certain = _hopeful(surface, criterion) & predicted, "hopes"
    if not allowed.any():
        return _safest(surface, criterion), "no"
    if criterion.rule == "knee":
        return _knee(_front(surface, criterion, score, allowed), score, surface, criterion), certain
    less = given_up if criterion.rule == "plateau" else 0.0
    return _most_regularized(surface, np.flatnonzero(allowed & (score >= score[allowed].max() - less))), certain


def objective(surface: PredictionSurface, criterion: Criterion) -> Band:
    """Return what counts for the criterion's goal, shape (n,); see `PredictionSurface.measure`.

    Dice is the mean, the weighted mean or the worst of the criterion's structures; its band combines the ends of the structures'
    bands, as if their errors went together, and is rather too wide than too narrow. Structures of weight 0 do not count.

    Raises
    ------
    InputError : the criterion names a structure that the surface lacks.
    """
    if _is_plain(surface, criterion):
        return surface.quality(criterion.goal)
    weights = _weights(surface, criterion)
    value, lower, upper = (
        _combined(part, weights, criterion.combine) for part in (surface.dice.value, surface.dice.lower, surface.dice.upper)
    )
    return Band(value, lower, upper)


def feasible(surface: PredictionSurface, criterion: Criterion) -> np.ndarray:
    """Tell which settings are predicted to keep the folding limit, bool of shape (n,); all of them if there is none."""
    if criterion.folding_limit is None:
        return np.ones(len(surface.values), dtype=bool)
    folding = surface.folding(criterion.domain)
    return (folding.upper if criterion.cautious else folding.value) < criterion.folding_limit


def pareto_front(surface: PredictionSurface, criterion: Criterion, among: np.ndarray | None = None) -> np.ndarray:
    """Return the settings that no other one betters in both what counts and predicted folding.

    Of two settings with equal folding (everything below 0.001 % is equal), the one with the lower standard deviation of the
    logarithm of the Jacobian determinant counts as the smoother. Of identical settings the first is returned.

    Parameters
    ----------
    among : bool of shape (n,), which settings take part; all by default.

    Returns
    -------
    Indices, from the smoothest setting with the worst of what counts to the roughest with the best.
    """
    score = _scores(surface, criterion)
    return _front(surface, criterion, score, np.isfinite(score) if among is None else among & np.isfinite(score))


def knee(surface: PredictionSurface, criterion: Criterion) -> int:
    """Return the knee among the settings predicted to keep the limit, or among all if none is.

    It is the point of the Pareto front farthest above the chord between the front's ends, what counts against the logarithm of
    folding, both scaled to the front's extent; where nothing folds, against the standard deviation of the logarithm of the
    Jacobian determinant. A front that bulges nowhere has its knee at the end of the best of what counts.
    """
    score = _scores(surface, criterion)
    predicted = np.isfinite(score)
    allowed = feasible(surface, criterion) & predicted
    return _knee(_front(surface, criterion, score, allowed if allowed.any() else predicted), score, surface, criterion)


def per_structure(surface: PredictionSurface, criterion: Criterion) -> tuple[StructureChoice, ...]:
    """Return what each structure of the surface would choose for itself, under the same rule and limit."""
    if not surface.structures or not _by_dice(surface, criterion):
        return ()
    overall, _ = _chosen(surface, criterion, _scores(surface, criterion), criterion.tolerance)
    found = []
    for row, (name, label) in enumerate(zip(surface.structures, surface.labels, strict=True)):
        dice = np.where(np.isnan(surface.dice.value[row]), -np.inf, surface.dice.value[row])
        if not np.isfinite(dice).any():
            continue
        index, _ = _chosen(surface, criterion, dice, criterion.tolerance)
        here, there = (band_value(surface.dice, (row, at)) for at in (index, overall))
        found.append(StructureChoice(label, name, surface.space.setting(surface.values[index]), here, there))
    return tuple(found)


def _by_dice(surface: PredictionSurface, criterion: Criterion) -> bool:
    return surface.measure(criterion.goal) == "mean_dice"


def _is_plain(surface: PredictionSurface, criterion: Criterion) -> bool:
    """Tell whether the surface's own `quality` counts, and no combination of structures."""
    if not _by_dice(surface, criterion):
        return True
    return not criterion.structures and (criterion.combine == "mean" or not surface.structures)


def _scores(surface: PredictionSurface, criterion: Criterion) -> np.ndarray:
    """Return the best guess of `objective` alone, the higher the better and -inf where none was made; a third of its work."""
    if _is_plain(surface, criterion):
        score = surface.quality(criterion.goal).value
        score = -score if surface.measure(criterion.goal) == "error_mm" else score
    else:
        score = _combined(surface.dice.value, _weights(surface, criterion), criterion.combine)
    score = np.where(np.isnan(score), -np.inf, score)
    if not np.isfinite(score).any():
        what = {
            "mean_dice": "Dice was predicted for the structures that count: choose others, or",
            "overlap_gain": "gain of overlap could be predicted:",
            "error_mm": "error could be predicted:",
        }[surface.measure(criterion.goal)]
        raise InputError(f"No {what} give the setting yourself.")
    return score


def _given_up(surface: PredictionSurface, criterion: Criterion, score: np.ndarray) -> float:
    error = max(ERROR_SHARE * -float(score.max()), ERROR_VOXELS * surface.voxel_mm)
    return {"mean_dice": criterion.tolerance, "overlap_gain": GAIN_SHARE, "error_mm": error}[surface.measure(criterion.goal)]


def _front(surface: PredictionSurface, criterion: Criterion, score: np.ndarray, among: np.ndarray) -> np.ndarray:
    folding = np.maximum(surface.folding(criterion.domain).value, NO_FOLDING_PERCENT)
    candidates = np.flatnonzero(among)
    order = np.lexsort((-score[candidates], surface.sd_log_jacobian.value[candidates], folding[candidates]))
    smoothest_first = candidates[order]
    best_so_far = np.maximum.accumulate(np.concatenate([[-np.inf], score[smoothest_first]]))
    return smoothest_first[score[smoothest_first] > best_so_far[:-1]]


def _weights(surface: PredictionSurface, criterion: Criterion) -> np.ndarray:
    unknown = [name for name in criterion.structures if name not in surface.structures]
    if unknown:
        raise InputError(
            f"The predictor does not predict the structure '{unknown[0]}': choose among "
            f"{', '.join(surface.structures) or 'none'}."
        )
    return np.array([criterion.structures.get(name, 0.0) if criterion.structures else 1.0 for name in surface.structures])


def _combined(dice: np.ndarray, weights: np.ndarray, combine: str) -> np.ndarray:
    counts = weights > 0
    return dice[counts].min(axis=0) if combine == "worst" else (weights[counts] / weights.sum()) @ dice[counts]


def _most_regularized(surface: PredictionSurface, candidates: np.ndarray) -> int:
    if len(surface.space) == 1:
        return int(candidates[np.argmax(surface.space.regularization(surface.values[candidates]))])
    return int(candidates[np.argmin(surface.sd_log_jacobian.value[candidates])])


def _hopeful(surface: PredictionSurface, criterion: Criterion) -> np.ndarray:
    """Tell which of the settings with the lowest upper end of the folding band keep the limit by the best guess."""
    folding = surface.folding(criterion.domain)
    return (folding.upper == np.nanmin(folding.upper)) & feasible(surface, replace(criterion, cautious=False))


def _safest(surface: PredictionSurface, criterion: Criterion) -> int:
    if len(surface.space) == 1:
        return _most_regularized(surface, np.arange(len(surface.values)))
    upper = surface.folding(criterion.domain).upper
    return _most_regularized(surface, np.flatnonzero(upper == np.nanmin(upper)))


def _knee(front: np.ndarray, score: np.ndarray, surface: PredictionSurface, criterion: Criterion) -> int:
    cost = np.log(np.maximum(surface.folding(criterion.domain).value[front], NO_FOLDING_PERCENT))
    if np.ptp(cost) == 0:
        cost = surface.sd_log_jacobian.value[front]
    if np.ptp(cost) == 0:
        return int(front[-1])
    up, along = (score[front] - score[front[0]]) / max(np.ptp(score[front]), 1e-12), (cost - cost[0]) / np.ptp(cost)
    height = up - along
    bulges = height.max() > 1e-9
    return int(front[np.argmax(height)] if bulges else front[-1])


def _sentence(surface: PredictionSurface, criterion: Criterion, index: int, certain: str, score: float) -> str:
    setting = surface.space.text(surface.space.setting(surface.values[index]))
    figures = _folding_words(criterion, band_value(surface.folding(criterion.domain), index))
    keeping = _keeping(criterion)
    if certain == "no":
        return f"{setting}: no setting is predicted that {keeping}, so this is the one that should fold least. {figures}"
    measure = surface.measure(criterion.goal)
    by_dice, by_error = measure == "mean_dice", measure == "error_mm"
    words = f"predicted {_dice_words(criterion)}" if by_dice else f"expected {QUALITY_WORDS[measure]}"
    amount = quality_text(measure, abs(score) if by_error else score)
    if certain == "hopes":
        return (
            f"{setting}: no setting is predicted that {keeping} for certain, because so little cannot be told from none; this is "
            f"one of the safest, with {'a' if by_dice else 'an'} {words} of {amount}. {figures}"
        )
    that_keeps = f" that {keeping}" if keeping else ""
    what = f"{words} ({amount})"
    much = {
        "mean_dice": f"{criterion.tolerance:g} of the best",
        "overlap_gain": f"{100 * GAIN_SHARE:g} % of what the affine step leaves of the best",
        "error_mm": f"{100 * ERROR_SHARE:g} % or {ERROR_VOXELS:g} voxels of the least",
    }[measure]
    reason = {
        "plateau": f"the most regularized setting whose {what} is within {much}{that_keeps}",
        "maximum": f"the setting of {'least' if by_error else 'highest'} {what}{that_keeps}",
        "knee": f"the knee of the front, above which more folding buys little {what if by_dice else f'of the {what}'}"
        f"{', among settings of which each ' + keeping if keeping else ''}",
    }[criterion.rule]
    return f"{setting}: {reason}. {figures}"


def _keeping(criterion: Criterion) -> str:
    limit = criterion.folding_limit
    return "" if limit is None else f"keeps folding under {limit:g} % of the {_domain_words(criterion)}"


def _domain_words(criterion: Criterion) -> str:
    return "foreground" if criterion.domain == "foreground" else "working grid"


def _folding_words(criterion: Criterion, band: BandValue) -> str:
    if band.upper < NO_FOLDING_PERCENT:
        return "Practically no folding is predicted."
    return f"Predicted folding of the {_domain_words(criterion)}: {banded_percent(band)}."


def _remarks(surface: PredictionSurface, criterion: Criterion) -> list[str]:
    """Return sentences on what of the criterion has no effect, because of what is predicted."""
    measure = surface.measure(criterion.goal)
    found = []
    if criterion.goal == "accuracy" and measure == "mean_dice":
        found.append("The goal is accuracy, but no error is predicted here, so Dice counts.")
    if chooses_default(surface, criterion):
        idle = criterion.rule != "maximum" or criterion.structures or criterion.combine != "mean"
        return ["Neither the rule nor weights of structures have an effect then."] if idle else []
    if measure != "mean_dice" and (criterion.structures or criterion.combine != "mean"):
        found.append("What counts is told for the whole anatomy: weights of structures have no effect on it.")
    return found


def _dice_words(criterion: Criterion) -> str:
    counted = [name for name, weight in criterion.structures.items() if weight > 0]
    if len(counted) == 1:
        return f"Dice of {counted[0]}"
    of = f"of {len(counted)} structures" if counted else "of all structures"
    return f"lowest Dice {of}" if criterion.combine == "worst" else (f"weighted mean Dice {of}" if counted else "mean Dice")
