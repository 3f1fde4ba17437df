"""Which value of the parameter each method takes, what it then gets, and the sets of pairs that it is judged on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from HyperPredictRegLib.core.progress import CancelCheck, Progress, never, silent
from HyperPredictRegLib.core.search_space import SearchSpace, Setting
from HyperPredictRegLib.predictor.probes import probe_settings
from HyperPredictRegLib.results.job import Criterion
from HyperPredictRegLib.results.prediction import PredictionSurface
from HyperPredictRegLib.results.report import FoldingPercent, Trial
from HyperPredictRegLib.selection import choose, corrected, within_limit

from HyperPredictRegLab.evaluation.measured import Measured, PredictedPairs, joined, quiet_mean
from HyperPredictRegLab.evaluation.methods import (
    MAIN,
    WITH_ITS_ENCODER,
    OurMethod,
    PaperTraining,
    is_probe,
    only_weight,
    paper_predicts,
    predict,
    predict_held_out,
    ridge,
)
from HyperPredictRegLab.evaluation.tables import Resampling
from HyperPredictRegLab.training.examples import MOST_OVER_LIMIT, Examples


@dataclass(frozen=True)
class Decision:
    """The λ that a method takes for each of P pairs.

    Attributes
    ----------
    first : before anything was measured, shape (P,).
    final : after the closed loop, or `first` for a method without one, shape (P,).
    extra : registrations after the first, shape (P,).
    """

    first: np.ndarray
    final: np.ndarray
    extra: np.ndarray

    def chosen(self, rows: np.ndarray) -> Decision:
        """Return some of the pairs."""
        return Decision(self.first[rows], self.final[rows], self.extra[rows])


@dataclass(frozen=True)
class Outcome:
    """What is measured at one λ per pair, shape (P,) each; `over` tells where folding exceeds the limit."""

    at: np.ndarray
    dice: np.ndarray
    folding: np.ndarray
    sd: np.ndarray
    over: np.ndarray


def joined_decisions(parts: Sequence[Decision]) -> Decision:
    """Join the decisions on several sets of pairs."""
    return Decision(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("first", "final", "extra")))


def settled(values: np.ndarray) -> Decision:
    """Return a decision without a closed loop."""
    values = np.asarray(values, dtype=float)
    return Decision(values, values, np.zeros(len(values)))


def decide(predicted: PredictedPairs, measured: Measured, criterion: Criterion, fixed: np.ndarray, loop: bool = True) -> Decision:
    """Choose by the product's own criterion, then repeat while measured folding exceeds the limit, as the product does.

    Parameters
    ----------
    fixed : λ of those who do not predict, shape (P,): taken where a prediction is unreliable or lacks the counted structure.
    """
    first, final, extra = (np.zeros(len(fixed)) for _ in range(3))
    name = measured.parameter.name
    for row in range(len(fixed)):
        surface: PredictionSurface | None = predicted.surface(measured, row)
        named = set(criterion.structures)
        if predicted.reliabilities[row] == "unreliable" or not named <= set(surface.structures):  # type: ignore[union-attr]
            surface = None
        first[row] = fixed[row] if surface is None else choose(surface, criterion).setting[name]
        final[row], extra[row] = _looped(measured, row, first[row], surface, criterion) if loop else (first[row], 0)
    return Decision(first, final, extra)


def with_loop(values: np.ndarray, measured: Measured, criterion: Criterion) -> Decision:
    """Start from given λ (P,) and repeat as the product does where nothing was predicted."""
    ends = [_looped(measured, row, float(value), None, criterion) for row, value in enumerate(values)]
    return Decision(np.asarray(values, float), np.array([e[0] for e in ends]), np.array([float(e[1]) for e in ends]))


def _looped(
    measured: Measured, row: int, first: float, surface: PredictionSurface | None, criterion: Criterion
) -> tuple[float, int]:
    parameter = measured.parameter
    x = parameter.strength(measured.wide)
    trials: list[Trial] = []
    values: Setting | None = {parameter.name: first}
    while values is not None:
        at = parameter.strength(values[parameter.name])
        folding = FoldingPercent(*(float(np.interp(at, x, c[row])) for c in (measured.foreground, measured.grid)))
        sd = float(np.interp(at, x, measured.sd[row]))
        trials.append(Trial(dict(values), folding, sd, within_limit(folding, criterion), 0.0))
        values = corrected(surface, criterion, trials, SearchSpace((parameter,)))
    return trials[-1].setting[parameter.name], len(trials) - 1


def outcome(measured: Measured, at: np.ndarray, criterion: Criterion, structure: int | None = None) -> Outcome:
    """Read what was measured at one λ per pair; Dice is the mean of the counted structures or that of one, by its row."""
    dice = measured.mean if structure is None else measured.dice[:, structure]
    folding = measured.read(measured.folding(criterion.domain), at)
    over = np.zeros(len(at), bool) if criterion.folding_limit is None else folding > criterion.folding_limit
    return Outcome(at, measured.read(dice, at), folding, measured.read(measured.sd, at), over)


def oracle(measured: Measured, criterion: Criterion, structure: int | None = None, whole: bool = False) -> np.ndarray:
    """Return the λ of highest measured Dice among those that keep the limit (P,); where none does, the one that folds least.

    Parameters
    ----------
    structure : row of the one structure that counts; default: the mean.
    whole : look up to the engine's upper bound, not only among the λ that the methods choose from.
    """
    among = slice(None) if whole else measured.choice
    dice = (measured.mean if structure is None else measured.dice[:, structure])[:, among]
    folding = measured.folding(criterion.domain)[:, among]
    allowed = np.ones_like(folding, bool) if criterion.folding_limit is None else folding <= criterion.folding_limit
    scores = np.where(allowed & np.isfinite(dice), dice, -np.inf)
    best = np.where(np.isfinite(scores).any(axis=1), scores.argmax(axis=1), folding.shape[1] - 1)
    return measured.wide[best]


def for_structure(criterion: Criterion, name: str) -> Criterion:
    """Return the criterion for one structure alone."""
    return replace(criterion, structures={name: 1.0}, combine="mean")


BISECTIONS = 4
"""Registrations of the search by measuring."""

SHIFTS = np.linspace(-0.378575, 0.378575, 61)
"""By which the probes' onset may be shifted, in shares of the engine's range; a λ from 0.4 to 4.5 is so scaled by 0.4 to 2.5."""


def fixed_for(train: Measured, criterion: Criterion, structure: int | None = None) -> float:
    """Return the λ of highest average Dice that keeps the limit in nearly all pairs, as `fixed_value` of the examples does.

    Parameters
    ----------
    train : pairs that the λ is tuned on.
    structure : row of the one structure that counts; default: the mean of all.
    """
    dice = (train.mean if structure is None else train.dice[:, structure])[:, train.choice]
    average = quiet_mean(dice, axis=0)
    allowed = np.ones(len(average), bool)
    if criterion.folding_limit is not None:
        over = train.folding(criterion.domain)[:, train.choice] > criterion.folding_limit
        allowed = over.mean(axis=0) <= MOST_OVER_LIMIT
    scores = np.where(allowed & np.isfinite(average), average, -np.inf)
    return float(train.values[np.argmax(scores) if np.isfinite(scores).any() else -1])


def bisected(measured: Measured, criterion: Criterion) -> Decision:
    """Look for the smallest λ that keeps the limit with `BISECTIONS` registrations and no learning, from the middle λ on.

    The best λ that kept the limit is the result; if none did, one more registration at the upper end is.
    """
    count = len(measured.examples.pairs)
    strength, value = measured.parameter.strength, measured.parameter.from_strength
    end = float(strength(measured.values[-1]))
    low, high = np.full(count, float(strength(measured.values[0]))), np.full(count, end)
    best, first = np.full(count, np.nan), value((low + high) / 2)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        over = outcome(measured, value(middle), criterion).over
        best = np.where(over, best, middle)
        low, high = np.where(over, middle, low), np.where(over, high, middle)
    failed = np.isnan(best)
    final = value(np.where(failed, end, best))
    return Decision(first, final, np.where(failed, float(BISECTIONS), BISECTIONS - 1.0))


def probe_onsets(examples: Examples, criterion: Criterion) -> np.ndarray:
    """Return the value at which the coarse probes' folding falls to the limit, shape (P,); NaN without probes.

    Between probes the logarithm of folding is linear on the parameter's scale; beyond them, the outermost probe stands.
    """
    parameter = examples.parameter
    at = parameter.strength(np.array([probe[parameter.name] for probe in probe_settings(SearchSpace((parameter,)))]))
    suffix = "folding" if criterion.domain == "foreground" else "folding_grid"
    names = [f"probe{n}_{suffix}" for n in range(len(at))]
    if not set(names) <= set(examples.feature_names):
        return np.full(len(examples.pairs), np.nan)
    logs = examples.features[:, [examples.feature_names.index(name) for name in names]]
    limit = np.log((criterion.folding_limit or 0.5) + 1e-2)
    # Interpolation wants a rising sequence; folding falls with λ but for noise.
    falling = np.minimum.accumulate(np.nan_to_num(logs, nan=limit), axis=1) - 1e-9 * np.arange(len(at))
    return parameter.from_strength(np.array([np.interp(-limit, -row, at) for row in falling]))


def probe_rule(train: Measured, measured: Measured, criterion: Criterion) -> np.ndarray:
    """Shift the probes' onset of folding by what suits the training pairs: λ per pair (P,), NaN without probes."""
    parameter = measured.parameter
    onsets, own = (parameter.strength(probe_onsets(one.examples, criterion)) for one in (train, measured))
    if np.isnan(onsets).any() or np.isnan(own).any():
        return np.full(len(own), np.nan)
    ends, shifts = parameter.strength(measured.values[[0, -1]]), parameter.span * SHIFTS
    found = [outcome(train, parameter.from_strength(np.clip(onsets + shift, *ends)), criterion) for shift in shifts]
    dice = np.array([np.nanmean(o.dice) for o in found])
    allowed = np.array([o.over.mean() for o in found]) <= MOST_OVER_LIMIT
    best = np.argmax(np.where(allowed, dice, -np.inf)) if allowed.any() else len(SHIFTS) - 1
    return parameter.from_strength(np.clip(own + shifts[best], *ends))


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
    predicted : curves by method; "ours at 80 %" has narrower bands.
    choosing : λ by method.
    resampling : for intervals.
    """

    measured: Measured
    predicted: dict[str, PredictedPairs]
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
            {method: f.chosen(rows) for method, f in self.predicted.items()},
            Choosing(overall, each),
            Resampling.of(measured.examples.subjects, draws),
        )


@dataclass(frozen=True)
class Conditions:
    """What all sets are judged by.

    Attributes
    ----------
    criterion : the product's default, or another one.
    values : λ to choose from.
    draws : of the bootstrap.
    train_images : of the paper's baseline, for all training pairs, or its encoder's channels; None leaves it out.
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


def held_out_set(ours: OurMethod, conditions: Conditions, name: str, paper: bool) -> PairSet:
    """Judge on the training pairs within CV folds; every method learns from pairs that show nobody of the CV fold."""
    examples = ours.held_out.examples
    whole = Measured.of(name, ours.examples, conditions.values, ours.examples.labels)
    measured = Measured.of(name, examples, conditions.values, ours.examples.labels)
    of = np.array([ours.trained.cv_folds[a] for a, _ in examples.subjects])
    places = {pair: n for n, pair in enumerate(ours.examples.pairs)}
    numbers = np.array([places[pair] for pair in examples.pairs])
    told: dict[str, list[PredictedPairs]] = {}
    decided: list[dict[str, Decision]] = []
    alone: list[dict[int, Decision]] = []
    for cv_fold in sorted(set(of.tolist())):
        rows = np.flatnonzero(of == cv_fold)
        part = measured.chosen(rows)
        train = whole.chosen(np.flatnonzero((ours.cv_folds_of_pairs != cv_fold).all(axis=1)))
        surface = baseline_curves(train, part)
        if paper and conditions.train_images is not None:
            own = conditions.train_images[numbers[rows]]
            surface |= _paper(ours, conditions, part, own, cv_fold)
        for method, found in surface.items():
            told.setdefault(method, []).append(found)
        decided.append(_searches(train, part, conditions))
        alone.append(_fixed_by_structure(train, part, conditions))
    predicted = {
        OURS: predict_held_out(ours, measured),
        UNSEGMENTED: predict_held_out(ours, measured, segmented=False),
        "ours at 80 %": predict_held_out(ours, measured, level=0.8),
        **{method: joined(parts) for method, parts in told.items()},
    }
    overall = {m: joined_decisions([d[m] for d in decided]) for m in decided[0]}
    each = {s: joined_decisions([a[s] for a in alone]) for s in alone[0]}
    return _with_decisions(measured, predicted, overall, each, conditions)


def external_set(ours: OurMethod, conditions: Conditions, measured: Measured, images: np.ndarray | None) -> PairSet:
    """Judge on people that no method has seen, by the whole ensemble and baselines of all training pairs."""
    train = Measured.of("training", ours.examples, conditions.values, ours.examples.labels)
    predicted = {
        OURS: predict(ours.whole(), measured),
        UNSEGMENTED: predict(ours.whole(), measured, segmented=False),
        "ours at 80 %": predict(ours.whole(0.8), measured),
        **baseline_curves(train, measured),
    }
    if images is not None and conditions.train_images is not None:
        predicted |= _paper(ours, conditions, measured, images, None)
    searches, each = _searches(train, measured, conditions), _fixed_by_structure(train, measured, conditions)
    return _with_decisions(measured, predicted, searches, each, conditions)


def baseline_curves(train: Measured, measured: Measured) -> dict[str, PredictedPairs]:
    """Return what the simple predictors predict, by name."""
    found = {B0: only_weight(train, measured)}
    names = train.examples.feature_names
    if any(not is_probe(name) for name in names):
        found[B4] = ridge(train, measured, lambda name: not is_probe(name))
    if any(is_probe(name) for name in names):
        found[B5] = ridge(train, measured, is_probe)
    return found


def _paper(
    ours: OurMethod, conditions: Conditions, measured: Measured, images: np.ndarray, cv_fold: int | None
) -> dict[str, PredictedPairs]:
    if conditions.train_images is None:
        return {}
    given = PaperTraining(ours.examples, conditions.train_images, ours.cv_folds_of_pairs, cv_fold)
    methods = WITH_ITS_ENCODER if images.ndim == 2 else MAIN
    return {name: paper_predicts(given, measured, images, settings, conditions.cancelled) for name, settings in methods.items()}


def _searches(train: Measured, measured: Measured, conditions: Conditions) -> dict[str, Decision]:
    criterion = conditions.criterion
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


def _fixed_by_structure(train: Measured, measured: Measured, conditions: Conditions) -> dict[int, Decision]:
    """Return a decision per structure with the loop; a structure that no training pair has takes the λ for the mean."""
    found = {}
    labels = train.examples.labels
    for row, label in enumerate(measured.examples.labels):
        place = labels.index(label) if label in labels else None
        values = np.full(len(measured.examples.pairs), fixed_for(train, conditions.criterion, place))
        found[row] = with_loop(values, measured, conditions.criterion)
    return found


def _with_decisions(
    measured: Measured,
    predicted: dict[str, PredictedPairs],
    searches: dict[str, Decision],
    each: dict[int, Decision],
    conditions: Conditions,
) -> PairSet:
    fixed = searches[B1].first
    overall = {
        OURS: decide(predicted[OURS], measured, conditions.criterion, fixed),
        UNSEGMENTED: decide(predicted[UNSEGMENTED], measured, conditions.criterion, fixed),
        MAXIMUM: decide(predicted[OURS], measured, conditions.maximum, fixed),
        NO_MARGIN: decide(predicted[OURS], measured, conditions.plain, fixed),
    }
    for method in predicted:
        if method.startswith("B3"):
            overall[method] = decide(predicted[method], measured, conditions.plain, fixed, loop=False)
        elif method in (B4, B5):
            overall[method] = decide(predicted[method], measured, conditions.maximum, fixed)
    structures: dict[str, dict[int, Decision]] = {B9: each, B2: {}, OURS: {}, MAXIMUM: {}, B8: {}}
    for row, name in enumerate(measured.names):
        structures[B2][row] = searches[B2]
        structures[OURS][row] = decide(predicted[OURS], measured, for_structure(conditions.criterion, name), fixed)
        structures[MAXIMUM][row] = decide(predicted[OURS], measured, for_structure(conditions.maximum, name), fixed)
        structures[B8][row] = settled(oracle(measured, conditions.criterion, row))
    resampling = Resampling.of(measured.examples.subjects, conditions.draws)
    ordered = dict(sorted((overall | searches).items(), key=lambda item: (not item[0].startswith(OURS), item[0][:2])))
    return PairSet(measured, predicted, Choosing(ordered, structures), resampling)


def without_people(found: PairSet, people: Sequence[str], name: str) -> PairSet | None:
    """Return the set's pairs that show none of some people; None if nothing would be left out, or nothing left."""
    seen = np.isin(found.measured.examples.subjects, list(people)).any(axis=1)
    if not seen.any() or seen.all():
        return None
    return found.among(np.flatnonzero(~seen), name)
