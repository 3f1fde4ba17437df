"""Simple predictors: a curve that knows λ only, and ridge regression of curves on features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from HyperPredictRegLib.predictor.bands import LEAST_FOLDING, LEVEL
from HyperPredictRegLib.predictor.ensemble import CLIP

from HyperPredictRegLab.cv_folds import subject_folds
from HyperPredictRegLab.evaluation.foretold import Foretold, without_bands
from HyperPredictRegLab.evaluation.measured import Measured, quiet_mean

PENALTIES = np.geomspace(1, 1e5, 11)
INNER_FOLDS = 4
_EDGE = 1e-3


def is_probe(name: str) -> bool:
    """Tell whether a feature comes from a probe."""
    return name.startswith("probe")


def only_weight(train: Measured, measured: Measured) -> Foretold:
    """Foretell every pair alike, by the training pairs' median curves: the best in absolute error without looking (B0)."""
    count = len(measured.examples.pairs)

    def same(curves: np.ndarray) -> np.ndarray:
        return np.repeat(np.nanmedian(curves, axis=0)[None, ..., train.choice], count, axis=0)

    places = [train.examples.labels.index(n) if n in train.examples.labels else -1 for n in measured.examples.labels]
    known = np.where(np.isfinite(train.dice).any(axis=(0, 2))[:, None], np.nan_to_num(_median(train.dice)), np.nan)
    dice = np.stack([known[place] if place >= 0 else np.full(known.shape[1], np.nan) for place in places])[:, train.choice]
    foreground, box, sd = (same(part) for part in (train.foreground, train.box, train.sd))
    return without_bands(measured, np.repeat(dice[None], count, axis=0), foreground, box, sd)


def _median(dice: np.ndarray) -> np.ndarray:
    found = np.full(dice.shape[1:], np.nan)
    has = np.isfinite(dice).any(axis=(0, 2))
    found[has] = np.nanmedian(dice[:, has], axis=0)
    return found


@dataclass(frozen=True)
class _Standard:
    """Standardised features of some names."""

    columns: list[int]
    mean: np.ndarray
    sd: np.ndarray

    @classmethod
    def of(cls, train: Measured, wanted: Callable[[str], bool]) -> _Standard:
        columns = [n for n, name in enumerate(train.examples.feature_names) if wanted(name)]
        features = train.examples.features[:, columns]
        return cls(columns, quiet_mean(features, axis=0), np.maximum(np.nanstd(features, axis=0), 1e-6))

    def __call__(self, measured: Measured) -> np.ndarray:
        return np.clip(np.nan_to_num((measured.examples.features[:, self.columns] - self.mean) / self.sd), -CLIP, CLIP)


def ridge(train: Measured, measured: Measured, wanted: Callable[[str], bool]) -> Foretold:
    """Regress curves on features: the logit of Dice and the logarithms of folding and SD log-Jacobian, at every λ (B4, B5).

    The penalty is chosen, and the margin above the folding curve taken, from folds of the training subjects: the margin is the
    90 % quantile of the absolute residuals of ln(folding) where anything folds, so that it means what the product's band means.

    Parameters
    ----------
    wanted : tells by its name whether a feature may be looked at.
    """
    standard = _Standard.of(train, wanted)
    inputs, own = standard(train), standard(measured)
    counts = train.choice.stop
    dice, others = _targets(train)
    penalty = [_penalty(inputs, part, train.examples.subjects) for part in (dice, others)]
    foretold_dice = _regressed(inputs, dice, own, penalty[0]).reshape(len(own), -1, counts)
    curves = _regressed(inputs, others, own, penalty[1]).reshape(len(own), 3, counts)
    curves[:, :2] = np.minimum.accumulate(curves[:, :2], axis=-1)
    margin = _margin(inputs, others[:, : 2 * counts], train.examples.subjects, penalty[1])
    foreground, box, sd = np.exp(curves).transpose(1, 0, 2)
    places = [train.examples.labels.index(n) if n in train.examples.labels else -1 for n in measured.examples.labels]
    probability = 1 / (1 + np.exp(-foretold_dice))
    dice_out = np.stack([probability[:, p] if p >= 0 else np.full(foreground.shape, np.nan) for p in places], axis=1)
    return without_bands(measured, dice_out, _none_below(foreground), _none_below(box), sd, margin)


def _none_below(folding: np.ndarray) -> np.ndarray:
    return np.where(folding < LEAST_FOLDING * 1.001, 0.0, np.minimum(folding, 100.0))


def _targets(train: Measured) -> tuple[np.ndarray, np.ndarray]:
    """Return logits of Dice (P, S n), what a pair lacks at its mean, and logarithms of folding and SD (P, 3 n)."""
    dice = np.clip(train.dice[..., train.choice], _EDGE, 1 - _EDGE)
    logit = np.log(dice / (1 - dice))
    logit = np.where(np.isfinite(logit), logit, np.nan_to_num(quiet_mean(logit, axis=0))[None])
    folding = [np.log(np.maximum(part[:, train.choice], LEAST_FOLDING)) for part in (train.foreground, train.box)]
    others = np.concatenate([*folding, np.log(np.maximum(train.sd[:, train.choice], 1e-3))], axis=1)
    return logit.reshape(len(logit), -1), others


def _regressed(inputs: np.ndarray, targets: np.ndarray, own: np.ndarray, penalty: float) -> np.ndarray:
    mean = targets.mean(axis=0)
    centre = inputs.mean(axis=0)
    shifted = inputs - centre
    weights = np.linalg.solve(shifted.T @ shifted + penalty * np.eye(inputs.shape[1]), shifted.T @ (targets - mean))
    return (own - centre) @ weights + mean


def _inner(subjects: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return masks of pairs to learn from and to predict, for folds of the subjects; none if they are too few."""
    people = sorted(set(subjects.ravel().tolist()))
    if len(people) < 2 * INNER_FOLDS:
        return []
    folds = subject_folds(people, INNER_FOLDS)
    of = np.array([[folds[a], folds[b]] for a, b in subjects])
    masks = [((of != fold).all(axis=1), (of == fold).all(axis=1)) for fold in range(INNER_FOLDS)]
    return [(learn, predict) for learn, predict in masks if learn.sum() > 1 and predict.any()]


_Splits = Sequence[tuple[np.ndarray, np.ndarray]]


def _residuals(inputs: np.ndarray, targets: np.ndarray, splits: _Splits, penalty: float) -> np.ndarray:
    return np.concatenate([_regressed(inputs[a], targets[a], inputs[b], penalty) - targets[b] for a, b in splits])


def _penalty(inputs: np.ndarray, targets: np.ndarray, subjects: np.ndarray) -> float:
    splits = _inner(subjects)
    if not splits:
        return float(PENALTIES[len(PENALTIES) // 2])
    coarse = targets[:, :: max(1, targets.shape[1] // 400)]
    errors = [np.abs(_residuals(inputs, coarse, splits, penalty)).mean() for penalty in PENALTIES]
    return float(PENALTIES[int(np.argmin(errors))])


def _margin(inputs: np.ndarray, logs: np.ndarray, subjects: np.ndarray, penalty: float) -> float:
    splits = _inner(subjects)
    if not splits:
        return 1.0
    residuals = np.abs(_residuals(inputs, logs, splits, penalty))
    folds = np.concatenate([logs[b] for _, b in splits]) > np.log(LEAST_FOLDING)
    return float(np.exp(np.quantile(residuals[folds], LEVEL))) if folds.any() else 1.0
