"""Which λ each method takes, what it then gets, and the sets of pairs that it is judged on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from HyperPredictRegLib.curves import Curves
from HyperPredictRegLib.engines import get_engine
from HyperPredictRegLib.job import Criterion, FoldingPercent, Trial
from HyperPredictRegLib.predictor.probes import probe_values
from HyperPredictRegLib.progress import CancelCheck, Progress, never, silent
from HyperPredictRegLib.selection import choose, corrected, within_limit

from HyperPredictRegLab.evaluation.measured import Foretold, Measured, joined, quiet_mean
from HyperPredictRegLab.evaluation.methods import (
    MAIN,
    OurMethod,
    PaperTraining,
    foretell,
    foretell_held_out,
    is_probe,
    only_weight,
    paper_foretells,
    ridge,
)
from HyperPredictRegLab.evaluation.tables import Resampling
from HyperPredictRegLab.training.examples import Examples
from HyperPredictRegLab.training.population import MOST_OVER_LIMIT


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


def decide(foretold: Foretold, measured: Measured, criterion: Criterion, fixed: np.ndarray, loop: bool = True) -> Decision:
    """Choose by the product's own criterion, then repeat while measured folding exceeds the limit, as the product does.

    Parameters
    ----------
    fixed : λ of those who do not predict, shape (P,): taken under a red light, and where the counted structure is not foretold.
    """
    first, final, extra = (np.zeros(len(fixed)) for _ in range(3))
    name = measured.examples.hyperparameter
    for row in range(len(fixed)):
        curves: Curves | None = foretold.curves(measured, row)
        named = set(criterion.structures)
        if foretold.lights[row] == "red" or not named <= set(curves.structures):  # type: ignore[union-attr]
            curves = None
        first[row] = fixed[row] if curves is None else choose(curves, criterion).hyperparameters[name]
        final[row], extra[row] = _looped(measured, row, first[row], curves, criterion) if loop else (first[row], 0)
    return Decision(first, final, extra)


def with_loop(values: np.ndarray, measured: Measured, criterion: Criterion) -> Decision:
    """Start from given λ (P,) and repeat as the product does where nothing was foretold."""
    ends = [_looped(measured, row, float(value), None, criterion) for row, value in enumerate(values)]
    return Decision(np.asarray(values, float), np.array([e[0] for e in ends]), np.array([float(e[1]) for e in ends]))


def _looped(measured: Measured, row: int, first: float, curves: Curves | None, criterion: Criterion) -> tuple[float, int]:
    x = np.log(measured.wide)
    name = measured.examples.hyperparameter
    bounds = {h.name: (h.lower, h.upper) for h in get_engine(measured.examples.engine).hyperparameters}
    trials: list[Trial] = []
    values: dict[str, float] | None = {name: first}
    while values is not None:
        at = np.log(values[name])
        folding = FoldingPercent(*(float(np.interp(at, x, c[row])) for c in (measured.foreground, measured.box)))
        sd = float(np.interp(at, x, measured.sd[row]))
        trials.append(Trial(dict(values), folding, sd, within_limit(folding, criterion), 0.0))
        values = corrected(curves, criterion, trials, bounds)
    return trials[-1].hyperparameters[name], len(trials) - 1


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

FACTORS = np.geomspace(0.4, 2.5, 61)
"""By which the probes' λ may be scaled."""


def fixed_for(train: Measured, criterion: Criterion, structure: int | None = None) -> float:
    """Return the λ of highest average Dice that keeps the limit in nearly all pairs, as `population.fixed_value` does.

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
    low, high = (np.full(count, np.log(end)) for end in (measured.values[0], measured.values[-1]))
    best, first = np.full(count, np.nan), np.exp((low + high) / 2)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        over = outcome(measured, np.exp(middle), criterion).over
        best = np.where(over, best, middle)
        low, high = np.where(over, middle, low), np.where(over, high, middle)
    failed = np.isnan(best)
    final = np.exp(np.where(failed, np.log(measured.values[-1]), best))
    return Decision(first, final, np.where(failed, float(BISECTIONS), BISECTIONS - 1.0))


def probe_onsets(examples: Examples, criterion: Criterion) -> np.ndarray:
    """Return the λ at which the coarse probes' folding falls to the limit, shape (P,); NaN without probes.

    Folding between probes is linear in ln λ on its logarithmic scale; beyond them, the outermost probe's λ stands.
    """
    engine = get_engine(examples.engine)
    at = np.log([value[examples.hyperparameter] for value in probe_values(engine)])
    suffix = "folding" if criterion.domain == "foreground" else "folding_box"
    names = [f"probe{n}_{suffix}" for n in range(len(at))]
    if not set(names) <= set(examples.feature_names):
        return np.full(len(examples.pairs), np.nan)
    logs = examples.features[:, [examples.feature_names.index(name) for name in names]]
    limit = np.log((criterion.folding_limit or 0.5) + 1e-2)
    # Interpolation wants a rising sequence; folding falls with λ but for noise.
    falling = np.minimum.accumulate(np.nan_to_num(logs, nan=limit), axis=1) - 1e-9 * np.arange(len(at))
    return np.exp([np.interp(-limit, -row, at) for row in falling])


def probe_rule(train: Measured, measured: Measured, criterion: Criterion) -> np.ndarray:
    """Scale the probes' onset of folding by the factor that suits the training pairs: λ per pair (P,), NaN without probes."""
    onsets, own = probe_onsets(train.examples, criterion), probe_onsets(measured.examples, criterion)
    if np.isnan(onsets).any() or np.isnan(own).any():
        return np.full(len(own), np.nan)
    ends = (measured.values[0], measured.values[-1])
    found = [outcome(train, np.clip(onsets * factor, *ends), criterion) for factor in FACTORS]
    dice = np.array([np.nanmean(o.dice) for o in found])
    allowed = np.array([o.over.mean() for o in found]) <= MOST_OVER_LIMIT
    best = np.argmax(np.where(allowed, dice, -np.inf)) if allowed.any() else len(FACTORS) - 1
    return np.clip(own * FACTORS[best], *ends)


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
