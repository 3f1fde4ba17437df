"""Sets of pairs with what every method foretells of them and decides for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from HyperPredictRegLib.job import Criterion
from HyperPredictRegLib.progress import CancelCheck, Progress, never, silent

from HyperPredictRegLab.evaluation.baselines import is_probe, only_weight, ridge
from HyperPredictRegLab.evaluation.decisions import (
    Decision,
    decide,
    for_structure,
    joined_decisions,
    oracle,
    settled,
    with_loop,
)
from HyperPredictRegLab.evaluation.foretold import Foretold, joined
from HyperPredictRegLab.evaluation.measured import Measured
from HyperPredictRegLab.evaluation.ours import OurMethod, foretell, foretell_held_out
from HyperPredictRegLab.evaluation.paper_baseline import MAIN, PaperTraining, paper_foretells
from HyperPredictRegLab.evaluation.searches import bisected, fixed_for, probe_rule
from HyperPredictRegLab.evaluation.statistics import Resampling

OURS, UNSEGMENTED = "ours", "ours, no moving segmentation"
MAXIMUM, NO_MARGIN = "ours, rule maximum", "ours, rule maximum, no margin"
WHOLE = "B8 oracle, up to the engine's bound"
B0, B1, B2, B4, B5, B6, B7, B8, B9 = (
    "B0 λ only",
    "B1 fixed λ",
    "B2 fixed λ + loop",
    "B4 ridge, image features",
    "B5 ridge, probe features",
    "B6 probe rule + loop",
    "B7 bisection by measuring",
    "B8 oracle",
    "B9 fixed λ per structure",
)


@dataclass(frozen=True)
class Choosing:
    """What each method chose for each structure alone, by method, then by structure's row; and for all together.

    Attributes
    ----------
    overall : decisions by method for the mean Dice.
    structures : decisions by method and structure's row.
    """

    overall: dict[str, Decision]
    structures: dict[str, dict[int, Decision]]


@dataclass(frozen=True)
class PairSet:
    """Pairs with every method's curves and decisions.

    Attributes
    ----------
    measured : what came out.
    foretold : curves by method; "ours at 80 %" has narrower bands.
    choosing : λ by method.
    resampling : for intervals.
    """

    measured: Measured
    foretold: dict[str, Foretold]
    choosing: Choosing
    resampling: Resampling

    def among(self, rows: np.ndarray, name: str) -> PairSet:
        """Return some of the pairs as a set of its own."""
        draws = len(self.resampling.weights)
        overall = {method: d.chosen(rows) for method, d in self.choosing.overall.items()}
        each = {m: {s: d.chosen(rows) for s, d in found.items()} for m, found in self.choosing.structures.items()}
        measured = self.measured.chosen(rows, name)
        return PairSet(
            measured,
            {method: f.chosen(rows) for method, f in self.foretold.items()},
            Choosing(overall, each),
            Resampling.of(measured.examples.subjects, draws),
        )


@dataclass(frozen=True)
class Setting:
    """What all sets are judged by.

    Attributes
    ----------
    criterion : the product's default, or another one.
    values : λ to choose from.
    draws : of the bootstrap.
    train_images : of the paper's baseline, for all training pairs; None leaves it out.
    """

    criterion: Criterion
    values: np.ndarray
    draws: int
    train_images: np.ndarray | None = None
    progress: Progress = field(default=silent)
    cancelled: CancelCheck = field(default=never)

    @property
    def maximum(self) -> Criterion:
        """Return the criterion that gives nothing up for smoothness, as the fixed λ does not."""
        return replace(self.criterion, rule="maximum")

    @property
    def plain(self) -> Criterion:
        """Return Equation 3 of the paper: no margin."""
        return replace(self.criterion, rule="maximum", cautious=False)


def held_out_set(ours: OurMethod, setting: Setting, name: str, paper: bool) -> PairSet:
    """Judge on the training pairs within folds; every method learns from pairs that show nobody of the fold."""
    examples = ours.held_out.examples
    whole = Measured.of(name, ours.examples, setting.values, ours.examples.labels)
    measured = Measured.of(name, examples, setting.values, ours.examples.labels)
    of = np.array([ours.trained.folds[a] for a, _ in examples.subjects])
    places = {pair: n for n, pair in enumerate(ours.examples.pairs)}
    numbers = np.array([places[pair] for pair in examples.pairs])
    told: dict[str, list[Foretold]] = {}
    decided: list[dict[str, Decision]] = []
    alone: list[dict[int, Decision]] = []
    for fold in sorted(set(of.tolist())):
        rows = np.flatnonzero(of == fold)
        part = measured.chosen(rows)
        train = whole.chosen(np.flatnonzero((ours.folds_of_pairs != fold).all(axis=1)))
        curves = baseline_curves(train, part)
        if paper and setting.train_images is not None:
            own = setting.train_images[numbers[rows]]
            curves |= _paper(ours, setting, part, own, fold)
        for method, found in curves.items():
            told.setdefault(method, []).append(found)
        decided.append(_searches(train, part, setting))
        alone.append(_fixed_by_structure(train, part, setting))
    foretold = {
        OURS: foretell_held_out(ours, measured),
        UNSEGMENTED: foretell_held_out(ours, measured, segmented=False),
        "ours at 80 %": foretell_held_out(ours, measured, level=0.8),
        **{method: joined(parts) for method, parts in told.items()},
    }
    overall = {m: joined_decisions([d[m] for d in decided]) for m in decided[0]}
    each = {s: joined_decisions([a[s] for a in alone]) for s in alone[0]}
    return _with_decisions(measured, foretold, overall, each, setting)


def external_set(ours: OurMethod, setting: Setting, measured: Measured, images: np.ndarray | None) -> PairSet:
    """Judge on people that no method has seen, by the whole ensemble and baselines of all training pairs."""
    train = Measured.of("training", ours.examples, setting.values, ours.examples.labels)
    foretold = {
        OURS: foretell(ours.whole(), measured),
        UNSEGMENTED: foretell(ours.whole(), measured, segmented=False),
        "ours at 80 %": foretell(ours.whole(0.8), measured),
        **baseline_curves(train, measured),
    }
    if images is not None and setting.train_images is not None:
        foretold |= _paper(ours, setting, measured, images, None)
    searches, each = _searches(train, measured, setting), _fixed_by_structure(train, measured, setting)
    return _with_decisions(measured, foretold, searches, each, setting)


def baseline_curves(train: Measured, measured: Measured) -> dict[str, Foretold]:
    """Return what the simple predictors foretell, by name."""
    found = {B0: only_weight(train, measured)}
    names = train.examples.feature_names
    if any(not is_probe(name) for name in names):
        found[B4] = ridge(train, measured, lambda name: not is_probe(name))
    if any(is_probe(name) for name in names):
        found[B5] = ridge(train, measured, is_probe)
    return found


def _paper(ours: OurMethod, setting: Setting, measured: Measured, images: np.ndarray, fold: int | None) -> dict[str, Foretold]:
    if setting.train_images is None:
        return {}
    given = PaperTraining(ours.examples, setting.train_images, ours.folds_of_pairs, fold)
    return {name: paper_foretells(given, measured, images, settings, setting.cancelled) for name, settings in MAIN.items()}


def _searches(train: Measured, measured: Measured, setting: Setting) -> dict[str, Decision]:
    criterion = setting.criterion
    fixed = np.full(len(measured.examples.pairs), fixed_for(train, criterion))
    found = {
        B1: settled(fixed),
        B2: with_loop(fixed, measured, criterion),
        B7: bisected(measured, criterion),
        B8: settled(oracle(measured, criterion)),
        WHOLE: settled(oracle(measured, criterion, whole=True)),
    }
    rule = probe_rule(train, measured, criterion)
    if np.isfinite(rule).all():
        found[B6] = with_loop(rule, measured, criterion)
    return found


def _fixed_by_structure(train: Measured, measured: Measured, setting: Setting) -> dict[int, Decision]:
    """Return a decision per structure with the loop; a structure that no training pair has takes the λ for the mean."""
    found = {}
    labels = train.examples.labels
    for row, label in enumerate(measured.examples.labels):
        place = labels.index(label) if label in labels else None
        values = np.full(len(measured.examples.pairs), fixed_for(train, setting.criterion, place))
        found[row] = with_loop(values, measured, setting.criterion)
    return found


def _with_decisions(
    measured: Measured, foretold: dict[str, Foretold], searches: dict[str, Decision], each: dict[int, Decision], setting: Setting
) -> PairSet:
    fixed = searches[B1].first
    overall = {
        OURS: decide(foretold[OURS], measured, setting.criterion, fixed),
        UNSEGMENTED: decide(foretold[UNSEGMENTED], measured, setting.criterion, fixed),
        MAXIMUM: decide(foretold[OURS], measured, setting.maximum, fixed),
        NO_MARGIN: decide(foretold[OURS], measured, setting.plain, fixed),
    }
    for method in foretold:
        if method.startswith("B3"):
            overall[method] = decide(foretold[method], measured, setting.plain, fixed, loop=False)
        elif method in (B4, B5):
            overall[method] = decide(foretold[method], measured, setting.maximum, fixed)
    structures: dict[str, dict[int, Decision]] = {B9: each, B2: {}, OURS: {}, MAXIMUM: {}, B8: {}}
    for row, name in enumerate(measured.names):
        structures[B2][row] = searches[B2]
        structures[OURS][row] = decide(foretold[OURS], measured, for_structure(setting.criterion, name), fixed)
        structures[MAXIMUM][row] = decide(foretold[OURS], measured, for_structure(setting.maximum, name), fixed)
        structures[B8][row] = settled(oracle(measured, setting.criterion, row))
    resampling = Resampling.of(measured.examples.subjects, setting.draws)
    ordered = dict(sorted((overall | searches).items(), key=lambda item: (not item[0].startswith(OURS), item[0][:2])))
    return PairSet(measured, foretold, Choosing(ordered, structures), resampling)


def without_people(found: PairSet, people: Sequence[str], name: str) -> PairSet | None:
    """Return the set's pairs that show none of some people; None if nothing would be left out, or nothing left."""
    seen = np.isin(found.measured.examples.subjects, list(people)).any(axis=1)
    if not seen.any() or seen.all():
        return None
    return found.among(np.flatnonzero(~seen), name)
