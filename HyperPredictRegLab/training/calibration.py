"""Bands that hold what they promise: conformal calibration on people whom the predicting member has not seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.predictor.bundle import LEAST_FOLDING, LEVEL, BandWidths
from HyperPredictRegLib.predictor.network import Coefficients, Ensemble, MemberCurves, MemberOutlook

from HyperPredictRegLab.training.examples import Examples, joined_examples, stacked
from HyperPredictRegLab.training.outlook_widths import domain_quantile, outlook_widths

LEAST_SD = 1e-3
"""Of the logarithm of the Jacobian determinant: less is none."""

UNKNOWN_WIDTH = 3.0
"""Of a band that nothing was there to calibrate on."""

LEAST_SUBJECTS = 10
"""With fewer, the (n + 1) / n correction asks for more than all scores: there is no finite 90 % band."""


@dataclass(frozen=True)
class HeldOut:
    """Predictions of pairs by the members that saw neither of their people.

    Attributes
    ----------
    examples : those pairs, with what was measured.
    segmented, unsegmented : what was predicted at the measured λ, with and without the moving segmentation's tokens.
    """

    examples: Examples
    segmented: MemberCurves
    unsegmented: MemberCurves


def held_out_predictions(
    ensemble: Ensemble, examples: Examples, cv_folds: dict[str, int], member_cv_folds: np.ndarray
) -> HeldOut:
    """Predict every pair whose two subjects lie in one CV fold by the members that were trained without that CV fold.

    Parameters
    ----------
    cv_folds : CV fold of each subject.
    member_cv_folds : the CV fold that each member has not seen, shape (members,).
    """
    # Users do not know how noisy labels are; neither may whoever judges the bands.
    examples = examples.with_label_noise(np.nan)
    of = np.array([[cv_folds[a], cv_folds[b]] for a, b in examples.subjects])
    inside = of[:, 0] == of[:, 1]
    parts = []
    order = []
    for cv_fold in sorted(set(member_cv_folds.tolist())):
        rows = np.flatnonzero(inside & (of[:, 0] == cv_fold))
        if not rows.size:
            continue
        members = np.flatnonzero(member_cv_folds == cv_fold).tolist()
        parts.append(predictions(ensemble, examples.chosen(rows), members))
        order.append(rows)
    joined = [_joined([getattr(part, name) for part in parts]) for name in ("segmented", "unsegmented")]
    return HeldOut(examples.chosen(np.concatenate(order)), *joined)


def predictions(
    ensemble: Ensemble, examples: Examples, members: Sequence[int] | None = None
) -> HeldOut:
    """Predict pairs by some of the members, by all if none are named: those of which none has seen them."""
    present = ~np.isnan(examples.dice).all(axis=2)
    both = [coefficients_of(ensemble, examples, segmented) for segmented in (True, False)]
    return HeldOut(examples, *(ensemble.predict(one, examples.settings, members, present) for one in both))


def coefficients_of(ensemble: Ensemble, examples: Examples, segmented: bool = True) -> Coefficients:
    """Run the network on examples; what these do not know of its features, it takes as it does what is missing."""
    reading = ensemble.reading
    labels = ensemble.structure_numbers(examples.labels) if examples.labels else examples.numbers
    features = _named_columns(examples.features, examples.feature_names, reading.features)
    tokens = _named_columns(examples.tokens, examples.token_names, reading.tokens)
    if not segmented:
        tokens = np.full_like(tokens, np.nan)
    return ensemble.coefficients(features, tokens, np.tile(labels, (len(examples.pairs), 1)))


def _named_columns(array: np.ndarray, names: Sequence[str], asked: Sequence[str]) -> np.ndarray:
    """Return the columns (..., n) of an array that are asked for, NaN for those that it has not."""
    places = {name: n for n, name in enumerate(names)}
    found = np.full((*array.shape[:-1], len(asked)), np.nan)
    for column, name in enumerate(asked):
        if name in places:
            found[..., column] = array[..., places[name]]
    return found


def together(parts: Sequence[HeldOut]) -> HeldOut:
    """Return the predictions of several sets as one, for calibration only: of the pairs, what was measured remains."""
    return HeldOut(
        joined_examples([part.examples for part in parts]),
        _joined([part.segmented for part in parts]),
        _joined([part.unsegmented for part in parts]),
    )


def band_widths(held_out: HeldOut, level: float = LEVEL) -> BandWidths:
    """Calibrate bands on held-out predictions.

    The score of a prediction is its error over its predicted scale. Pairs share people, so they are not exchangeable; every
    person gets the same weight, and the quantile is taken at (n + 1) / n of the level for n people, as if each were one draw
    (after Barber et al., Annals of Statistics 49 (2021) 486, "CV+").

    Raises
    ------
    InputError : too few subjects.
    """
    examples = held_out.examples
    people = sorted(set(examples.subjects.ravel().tolist()))
    if examples.outcomes is not None:
        return _domain_widths(held_out, len(people), level)
    if len(people) < LEAST_SUBJECTS:
        raise InputError(
            f"{len(people)} subjects are too few to calibrate bands on: at least {LEAST_SUBJECTS} are needed, "
            "in pairs within CV folds."
        )
    found = {}
    for name, predicted in (("", held_out.segmented), ("_unsegmented", held_out.unsegmented)):
        dice, mean = dice_scores(predicted, examples)
        found[f"dice{name}"] = subject_quantile(dice, examples.subjects, level)
        found[f"mean_dice{name}"] = subject_quantile(mean, examples.subjects, level)
    curves = curve_scores(held_out.segmented, examples)
    widths = tuple(subject_quantile(curves[:, n], examples.subjects, level) for n in range(3))
    return BandWidths(**found, curves=widths, subjects=len(people))  # type: ignore[arg-type]


def _domain_widths(held_out: HeldOut, people: int, level: float) -> BandWidths:
    """Calibrate on domains that the predicting members have not seen."""
    examples, predicted = held_out.examples, held_out.segmented
    if examples.outcomes is None or predicted.outlook is None:
        raise InputError("Nothing is known of these pairs' domains, or nothing was predicted of them.")
    domains = examples.outcomes.domains
    scores = [*dice_scores(predicted, examples), *np.moveaxis(curve_scores(predicted, examples), 1, 0)]
    found = [domain_quantile(score, domains, level) for score in scores]
    dice, mean, *curves = (UNKNOWN_WIDTH if np.isnan(width) else width for width in found)
    outlook = outlook_widths(predicted.outlook, examples, level)
    return BandWidths(dice, mean, dice, mean, tuple(curves), people, outlook)  # type: ignore[arg-type]


def dice_scores(predicted: MemberCurves, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Return errors over scales: of Dice per structure on the logit scale (P, S, N), and of mean Dice (P, N)."""
    logit = torch.logit(torch.as_tensor(examples.dice), eps=1e-3).numpy()
    dice = np.abs(logit - predicted.dice_logit) / predicted.dice_scale
    mean = np.abs(examples.mean_dice - predicted.mean_dice) / predicted.mean_scale
    return dice, mean


def curve_scores(predicted: MemberCurves, examples: Examples) -> np.ndarray:
    """Return errors over scales of the logarithms of folding and SD log-Jacobian, shape (P, 3, N); none where both say none."""
    floor = math.log(LEAST_FOLDING)
    folding = [np.log(np.maximum(f, LEAST_FOLDING)) for f in (examples.folding_foreground, examples.folding_grid)]
    measured = np.stack([*folding, np.log(np.maximum(examples.sd_log_jacobian, LEAST_SD))], axis=1)
    value = predicted.curves.copy()
    value[:, :2] = np.maximum(value[:, :2], floor)
    return np.abs(measured - value) / predicted.curves_scale


def subject_quantile(scores: np.ndarray, subjects: np.ndarray, level: float = LEVEL) -> float:
    """Return the quantile of scores in which every subject weighs the same.

    Parameters
    ----------
    scores : shape (P, ...); NaN is left out.
    subjects : shape (P, 2).
    """
    people = sorted(set(subjects.ravel().tolist()))
    flat = scores.reshape(len(scores), -1)
    counts = (~np.isnan(flat)).sum(axis=1)
    weights = np.zeros(len(flat))
    for person in people:
        mine = (subjects == person).sum(axis=1)
        total = (mine * counts).sum()
        if total:
            weights += mine / total
    rows, columns = np.nonzero(~np.isnan(flat))
    values, mass = flat[rows, columns], weights[rows]
    if not values.size:
        raise InputError("There is no finite error to calibrate bands on: the training failed.")
    order = np.argsort(values)
    shares = np.cumsum(mass[order]) / mass.sum()
    expected = min(level * (len(people) + 1) / len(people), 1.0)
    return float(values[order][min(int(np.searchsorted(shares, expected)), len(values) - 1)])


def _joined(parts: Sequence[MemberCurves]) -> MemberCurves:
    names = [name for name in MemberCurves.__dataclass_fields__ if name != "outlook"]
    outlooks = [part.outlook for part in parts if part.outlook is not None]
    outlook = None
    if len(outlooks) == len(parts):
        fields = MemberOutlook.__dataclass_fields__
        outlook = MemberOutlook(*(stacked([getattr(one, name) for one in outlooks]) for name in fields))
    return MemberCurves(**{name: stacked([getattr(part, name) for part in parts]) for name in names}, outlook=outlook)
