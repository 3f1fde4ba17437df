"""The bootstrap rule as a prediction: errors, folding and roughness at all settings, an outlook, and how far to rely on them.

All of it comes from trial registrations on a coarse grid. Those on the working grid deform more finely: roughness grows with the
ratio of the two grids, and with it what folds. The numbers for that were measured at the settings of `coarse_settings`:
roughness on eight pairs of four kinds of anatomy (hearts p001, p003, p004, brains 1000, 1002, hippocampi 001, 008, fetal brain of
week 21) with an engine that hardly folds; folding on two (heart p001, hippocampus 001) with one that does. All that holds where
the first parameter is one of voxels. With one in mm the working grid deforms no more finely: control points 20 and 35 mm apart
left .65 and .68 times the roughness of the coarse grid (heart p001).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from HyperPredictRegLib.core.search_space import SearchSpace
from HyperPredictRegLib.predictor.bootstrap import (
    DOUBTED,
    ERRORS,
    LOWER,
    REFUSED,
    UPPER,
    bootstrap_curve,
    chance_failed,
    doing_nothing,
    evidence_curve,
    failed_words,
)
from HyperPredictRegLib.predictor.coarse_pair import ALONG
from HyperPredictRegLib.predictor.evidence import IDENTICAL, LITTLE_OVERLAP, PairEvidence
from HyperPredictRegLib.quality.benefit import chance_helped
from HyperPredictRegLib.results.prediction import BOOTSTRAP, Band, BandValue, Outlook, PredictionSurface, Reliability

GRID = 300
"""Settings of a surface."""

UNRELATED = 0.25
"""If neither image explains more of the other, neither aligned nor at any setting that was tried, they do not show the same."""

ROUGHER = (0.0, 0.65)
"""Of the logarithm of SD log-Jacobian on the working grid over that on the coarse one: at equal grids, and per e-fold of them."""
ROUGHNESS_FACTOR = 1.6
"""Nine in ten lie within this factor of what is expected."""
MORE_FOLDED = 2.3
"""Power of the ratio of the grids by which more folds on the finer one."""
FOLDING_FACTOR = 4.0
FEWEST_FOLDED = 0.3
"""Percent of the working grid that may fold where nothing does on the coarse one: .19 did at most."""


def surface_of(evidence: PairEvidence, space: SearchSpace, voxel_mm: float) -> PredictionSurface:
    """Return what the evidence lets expect along the first parameter, with the others held at their defaults.

    How far the rule leads was measured along the first parameter only; what the few tries of the others say is left unsaid. The
    range is what was tried, as far as the engine accepts it on the working grid: an engine with a parameter in mm accepts less on
    the coarse one.

    Parameters
    ----------
    space : what the engine accepts on the working grid.
    voxel_mm : edge of that grid's voxels.

    Raises
    ------
    InputError : nothing of what was tried is accepted.
    """
    tried = evidence.values[: len(ALONG), 0]
    along = space.only((space.first.name,)).narrowed(space.first.name, float(tried.min()), float(tried.max()))
    held = {name: value for name, value in space.defaults.items() if name != space.first.name}
    values, default = along.grid(GRID), space.first.default
    if along.first.low < default < along.first.high:
        # Told exactly: where nothing is predicted of what counts, this is what is chosen.
        values = np.unique(np.append(values[:, 0], default))[:, None]
    settings = space.rows([{**held, space.first.name: float(value)} for value in values[:, 0]])
    none = np.zeros((0, len(values)))
    error = bootstrap_curve(evidence, space, settings)
    middle, most, rough = (
        evidence_curve(evidence, space, settings, name)
        for name in ("bootstrap_error", "bootstrap_error_95", "sd_log_jacobian")
    )
    far = most / middle
    # What a parameter in mm allows is as fine on any grid.
    coarsening = 1.0 if space.first.unit == "mm" else max(evidence.numbers["coarsening"], 1.0)
    rough = rough * np.exp(ROUGHER[0] + ROUGHER[1] * math.log(coarsening))
    strength = slice(None, None, along.first.sign)
    folding = _folding(evidence, space, settings[strength], coarsening)[strength]
    return PredictionSurface(
        space=along,
        values=values,
        structures=(),
        labels=(),
        dice=Band(none, none, none),
        mean_dice=None,
        folding_foreground=folding,
        folding_grid=folding,
        sd_log_jacobian=Band(rough, rough / ROUGHNESS_FACTOR, rough * ROUGHNESS_FACTOR),
        held=held,
        error_mm=error,
        error_95_mm=Band(far * error.value, far * error.lower, far * error.upper),
        voxel_mm=voxel_mm,
    )


def untried(surface: PredictionSurface, space: SearchSpace) -> tuple[str, ...]:
    """Say which settings of the first parameter that the engine accepts were not tried, if there are such."""
    told, accepted = surface.space.first, space.first
    parts = [
        f"{side} {told.text(end)}"
        for side, end, other in (("under", told.low, accepted.low), ("over", told.high, accepted.high))
        if not math.isclose(end, other, rel_tol=1e-6)
    ]
    if not parts:
        return ()
    return (f"Nothing is predicted {' and '.join(parts)}: the trial registrations, on a coarser grid, cannot go there.",)


def outlook_of(evidence: PairEvidence, surface: PredictionSurface, suited: bool) -> Outlook:
    """Return what to expect of the pair whatever the setting.

    `suited` : see `quality.benefit.judged_alone`.
    """
    error = surface.quality()
    nothing, row = doing_nothing(evidence), int(error.value.argmin())
    best = int(np.prod([evidence.curves[name][: len(ALONG)] for name in ERRORS], axis=0).argmin())
    helps = chance_helped(float(evidence.curves["held_out_share"][best]), float(evidence.curves["information"][best]), suited)
    least, lower, upper = (float(part[row]) for part in (error.value, error.lower, error.upper))
    return Outlook(
        failed=chance_failed(evidence),
        helps=0.0 if evidence.numbers["difference"] < IDENTICAL else helps if math.isfinite(helps) else None,
        affine_error_mm=BandValue(nothing, LOWER * nothing, UPPER * nothing),
        gain_mm=BandValue(nothing - least, nothing - upper, nothing - lower),
        source=BOOTSTRAP,
    )


def what_was_measured(
    evidence: PairEvidence, doubts: Sequence[str], refusals: Sequence[str], why: str
) -> Reliability:
    """Return how far to rely on the rule, by what was measured of the pair; an anatomy that nobody knows speaks against nothing.

    Parameters
    ----------
    doubts, refusals : sentences, for which a prediction is uncertain at best, or unreliable.
    why : a sentence: why no trained predictor serves.
    """
    numbers, against, failed = evidence.numbers, list(refusals), chance_failed(evidence)
    explained = max(numbers["explained"], float(evidence.curves["explained"].max()))
    if numbers["foreground_overlap"] < LITTLE_OVERLAP:
        against.append(f"The two foregrounds overlap with a Dice of {numbers['foreground_overlap']:.2f} only.")
    if explained < UNRELATED:
        against.append(
            f"Inside the anatomy one image explains {100 * explained:.0f} % of the other's variation at most: they do not show "
            "the same, or they are noise."
        )
    if failed >= REFUSED:
        against.append(failed_words(failed))
    elif failed >= DOUBTED:
        doubts = (*doubts, failed_words(failed))
    level = "unreliable" if against else "uncertain" if doubts else "reliable"
    return Reliability(level, (*against, *doubts, why))


def _folding(evidence: PairEvidence, space: SearchSpace, settings: np.ndarray, coarsening: float) -> Band:
    """Return folding at settings (n, h) of rising regularization; less than half of a voxel of the coarse grid is none."""
    least = 50.0 / evidence.numbers["foreground_voxels"]
    known = {**evidence.curves, "folding": np.maximum(evidence.curves["folding"], least)}
    coarse = np.minimum.accumulate(evidence_curve(replace(evidence, curves=known), space, settings, "folding"))
    value = np.where(coarse > least * (1 + 1e-6), np.minimum(coarse * coarsening**MORE_FOLDED, 100.0), 0.0)
    upper = np.clip(FOLDING_FACTOR * value, FEWEST_FOLDED, 100.0)
    return Band(value, value / FOLDING_FACTOR, upper)
