"""The rule without learning: from the bootstrap's errors at a few settings to an error in mm at all of them, and a setting.

It serves where no trained predictor does, and is what one must beat. `benchmarks/any_pair_rules.py` shows how far it leads, and
where its numbers come from.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.interpolate import PchipInterpolator

from HyperPredictRegLib.core.search_space import SearchSpace, Setting
from HyperPredictRegLib.predictor.coarse_pair import ACROSS, ALONG, CROSSED
from HyperPredictRegLib.predictor.evidence import PairEvidence, log_shell, log_unexplained
from HyperPredictRegLib.results.prediction import Band

ERRORS, NOTHING = ("bootstrap_error", "bootstrap_edge_error"), ("bootstrap_nothing", "bootstrap_nothing_edge")
"""Of a setting, and of doing nothing: what the rule's error is the geometric mean of. The median over the foreground alone asks
for more regularization than labels do, the error across edges alone for less than known warps do."""

FACTOR = 1.25
"""True error (median over the foreground, or mean over landmarks) over the bootstrap's by both `ERRORS`, geometric mean over the
tuning pairs with a known warp or landmarks."""

LOWER, UPPER = 0.39, 2.34
"""Factors between which nine of ten true errors of kinds of images lie that `FACTOR` was not taken from."""

FAILED = (-0.11, 1.13, 1.07)
"""Of a logistic rule for a start that is more than two voxels off: intercept, then the weights of the logarithms of the variance
that is left unexplained and of the shell that the foregrounds leave uncovered, both after the affine step. Failed and good starts
weigh the same. `benchmarks/failed_starts.py` fits it and compares it with others."""

DOUBTED, REFUSED = 0.5, 0.9
"""Chances that the alignment has failed from which a prediction is uncertain, and unreliable."""

MOST_CERTAIN = 99.0
"""Percent: no chance of a failed alignment is told as higher."""

_GRID = 101
_LEAST = 1e-6


def evidence_curve(evidence: PairEvidence, space: SearchSpace, values: np.ndarray, *names: str) -> np.ndarray:
    """Return a curve of the evidence that is above 0 at any settings: geometric interpolation along the first parameter.

    A further parameter adds what it did where it was tried, linearly between the tries and the value that it had else. Values of
    parameters mean what they mean on the evidence's grid, whatever part of their range can be used on another one; beyond what
    was tried a curve goes on as it ends.

    Parameters
    ----------
    space : of the engine.
    values : shape (m, h).
    names : of the curve, or of several of which the geometric mean is wanted.
    """
    values = np.asarray(values, dtype=float).reshape(-1, len(space))
    curve = np.mean([np.log(np.maximum(evidence.curves[name], _LEAST)) for name in names], axis=0)
    tried = space.first.strength(evidence.values[: len(ALONG), 0])
    asked = np.clip(space.first.strength(values[:, 0]), tried[0], tried[-1])
    found = PchipInterpolator(tried, curve[: len(ALONG)])(asked)
    for column, parameter in enumerate(space.parameters[1:], 1):
        first = len(ALONG) + len(ACROSS) * (column - 1)
        rows = [CROSSED, *range(first, first + len(ACROSS))]
        places, gains = parameter.strength(evidence.values[rows, column]), curve[rows] - curve[CROSSED]
        order = np.argsort(places)
        found = found + np.interp(parameter.strength(values[:, column]), places[order], gains[order])
    return np.asarray(np.exp(found))


def bootstrap_curve(evidence: PairEvidence, space: SearchSpace, values: np.ndarray) -> Band:
    """Return the error in mm over the foreground that registration is expected to leave at settings (m, h)."""
    middle = FACTOR * evidence_curve(evidence, space, values, *ERRORS)
    return Band(middle, LOWER * middle, UPPER * middle)


def bootstrap_choice(evidence: PairEvidence, space: SearchSpace, folding_limit: float | None = None) -> Setting:
    """Return the setting of the first parameter with the least expected error, the others at their defaults.

    Whether further parameters can be chosen so was not measured. `folding_limit` : percent of the foreground that may fold on the
    coarse grid; None is no limit. If no setting keeps to it, the most strongly regularized one is returned.
    """
    values = np.tile(space.rows([space.defaults]), (_GRID, 1))
    values[:, 0] = space.first.from_unit(np.linspace(0, 1, _GRID))
    error = bootstrap_curve(evidence, space, values).value
    if folding_limit is not None:
        kept_to = evidence_curve(evidence, space, values, "folding") <= folding_limit
        if not kept_to.any():
            return space.strongest
        values, error = values[kept_to], error[kept_to]
    return space.setting(values[int(np.argmin(error))])


def doing_nothing(evidence: PairEvidence) -> float:
    """Return the error in mm that the affine step alone is expected to leave, by the same factor as that of `bootstrap_curve`."""
    return FACTOR * math.sqrt(math.prod(max(evidence.numbers[name], _LEAST) for name in NOTHING))


def chance_failed(evidence: PairEvidence) -> float:
    """Return how likely the alignment is more than two voxels off, 0 to 1, where every other alignment is.

    Whether the deformable step can make up for that is another question: its error is that of `bootstrap_curve`.
    """
    return failed_by(log_unexplained(evidence.numbers), log_shell(evidence.numbers))


def failed_by(unexplained: float, shell: float) -> float:
    """Return the chance of `chance_failed`, of the logarithms that are features of the evidence, too."""
    return 1 / (1 + math.exp(-(FAILED[0] + FAILED[1] * unexplained + FAILED[2] * shell)))


def failed_words(chance: float) -> str:
    """Say how likely a start has failed by that rule."""
    return (
        "By how much the images explain of each other and how far they overlap, the chance of a failed alignment is "
        f"{min(100 * chance, MOST_CERTAIN):.0f} %."
    )
