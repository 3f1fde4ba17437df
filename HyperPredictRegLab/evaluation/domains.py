"""Leave one domain out: what choosing, and telling beforehand, are worth on images of which nothing was learned or calibrated.

The network has seen synthesized pairs only; bands, chances and rules are calibrated and tuned on the tuning cases of all other
domains and judged on the test cases of the one that was left out. `domain_report` makes the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.search_space import SearchSpace
from HyperPredictRegLib.engines import get_engine
from HyperPredictRegLib.predictor.bootstrap import ERRORS, bootstrap_choice, bootstrap_curve, chance_failed
from HyperPredictRegLib.predictor.bundle import BandWidths, Bundle
from HyperPredictRegLib.predictor.coarse_pair import coarse_settings
from HyperPredictRegLib.predictor.evidence import PairEvidence
from HyperPredictRegLib.predictor.features import PairFeatures
from HyperPredictRegLib.predictor.predictor import EVIDENCE, Predictor
from HyperPredictRegLib.results.job import Criterion
from HyperPredictRegLib.results.prediction import Outlook, PredictionSurface
from HyperPredictRegLib.selection import choose
from scipy.interpolate import PchipInterpolator

from HyperPredictRegLab.evaluation.tables import LEVEL, SEED, Estimate
from HyperPredictRegLab.training.building import Trained, usual_shape
from HyperPredictRegLab.training.calibration import band_widths, predictions, together
from HyperPredictRegLab.training.examples import LABEL_NOISE, SAME_SETTING, Examples
from HyperPredictRegLab.training.outcomes import Outcomes
from HyperPredictRegLab.training.outlook_widths import known_outcomes

AFFINE, DEFAULT, FIXED, FIXED_GOAL, EXPERT, MEASURED, RULE, RULE_GOAL, ORACLE = (
    "affine only", "the engine's default λ", "one fixed λ", "fixed λ per goal", "expert: fixed λ per domain",
    "weakest λ whose folding keeps the limit", "bootstrap rule", "bootstrap rule, goal as measured", "oracle",
)  # fmt: skip
MAXIMUM, PLATEAU, GOAL = "network, maximum", "network, plateau", "network, goal as measured"
OVERLAP, SEGMENTED = "network, goal overlap", "network, goal overlap, with a segmentation"
UNSAID = "network, no goal, a segmentation where Dice measures"
ADVISED, GOAL_ADVISED = "network, affine where advised", "goal as measured, affine where advised"
METHODS = (
    AFFINE, DEFAULT, FIXED, FIXED_GOAL, EXPERT, MEASURED, RULE, RULE_GOAL, MAXIMUM, PLATEAU, UNSAID, OVERLAP, SEGMENTED,
    GOAL, ADVISED, GOAL_ADVISED,
)  # fmt: skip
"""Ways of choosing. The goal of a user who says it is what a domain is measured in: overlap for Dice, accuracy for mm; the expert
and `FIXED_GOAL` know it, too. With a segmentation of the moving image the network goes by the Dice that it expects of its
structures; cases without one are chosen as without it. `UNSAID` is who says no goal and gives a segmentation to propagate, where
labels measure: its Dice counts, and the error elsewhere. The rule knows of no overlap: the product then takes the default λ."""

TUNE, TEST = "tune", "test"
GRID = 61
LIMIT = 0.5
"""Percent of the foreground that may fold."""

HARM_DICE, HARM_MM = 0.005, 0.1
"""A finished result is worse than the affine step if it loses more than this."""

_LEAST_LEFT_DICE, _LEAST_LEFT_VOXELS = 0.02, 0.5
"""What the affine step left counts as at least this where a share of it is told."""


@dataclass(frozen=True)
class Judged:
    """What is true of P cases along the first parameter, the others at their defaults.

    Attributes
    ----------
    examples : the cases.
    values : of the first parameter, shape (G,).
    quality : share of what the affine step left, of 1 - Dice or of the error in mm, that deforming takes away, shape (P, G).
    raw : Dice, or error in mm, shape (P, G).
    affine : the same of the affine step, shape (P,).
    in_mm : which cases are measured in mm, shape (P,).
    folding : percent of the foreground, shape (P, G).
    spoiled : which starts failed on purpose: they count where failures are told, not where settings are chosen, shape (P,).
    """

    examples: Examples
    values: np.ndarray
    quality: np.ndarray
    raw: np.ndarray
    affine: np.ndarray
    in_mm: np.ndarray
    folding: np.ndarray
    spoiled: np.ndarray

    @property
    def outcomes(self) -> Outcomes:
        """Return what is known of the cases."""
        return known_outcomes(self.examples)

    def finished(self, column: np.ndarray) -> np.ndarray:
        """Return where on `values` a registration that starts at `column` (P,) ends once its folding keeps the limit."""
        keeps = self.folding <= LIMIT
        keeps[:, -1] = True
        later = np.arange(len(self.values)) >= column[:, None]
        return np.asarray(np.argmax(keeps & later, axis=1))

    def won(self, column: np.ndarray) -> np.ndarray:
        """Return the quality of the finished result from `column` (P,), -1 standing for the affine step alone."""
        end = self.finished(np.maximum(column, 0))
        return np.where(column < 0, 0.0, self.quality[np.arange(len(end)), end])

    def lost(self, column: np.ndarray) -> np.ndarray:
        """Tell where the finished result from `column` (P,) is worse than the affine step; False for the affine step itself."""
        end = self.finished(np.maximum(column, 0))
        change = self.raw[np.arange(len(end)), end] - self.affine
        return (column >= 0) & np.where(self.in_mm, change > HARM_MM, -change > HARM_DICE)


def judged(examples: Examples) -> Judged:
    """Read what was measured of cases along the first parameter."""
    outcomes, space = known_outcomes(examples), examples.space
    values = space.first.from_unit(np.linspace(0, 1, GRID))[:: space.first.sign]
    in_mm = np.isfinite(outcomes.error).any(axis=1)
    raw = np.where(in_mm[:, None], outcomes.error, outcomes.mean_dice)
    at_default = np.isfinite(examples.values)
    for column, parameter in enumerate(space.parameters[1:], 1):
        at_default &= np.isclose(examples.settings[..., column], parameter.default, rtol=SAME_SETTING)
    read = [_along(examples, part, at_default, values) for part in (raw, np.log(np.maximum(examples.folding_foreground, 1e-3)))]
    affine = np.where(in_mm, outcomes.affine_error, outcomes.affine_dice)
    floor = np.where(in_mm, _LEAST_LEFT_VOXELS * outcomes.voxel_mm, _LEAST_LEFT_DICE)
    left = np.maximum(np.where(in_mm, affine, 1 - affine), floor)
    won = np.where(in_mm[:, None], affine[:, None] - read[0], read[0] - affine[:, None])
    return Judged(
        examples=examples,
        values=values,
        quality=np.clip(won / left[:, None], -1, 1),
        raw=read[0],
        affine=affine,
        in_mm=in_mm,
        folding=np.where(read[1] <= math.log(1.01e-3), 0.0, np.exp(read[1])),
        spoiled=np.array([change.startswith(("turned", "shifted")) for change in examples.groups]),
    )


def _along(examples: Examples, measured: np.ndarray, where: np.ndarray, values: np.ndarray) -> np.ndarray:
    found = np.full((len(measured), len(values)), np.nan)
    expected = examples.parameter.strength(values)
    for row, (own, seen) in enumerate(zip(examples.strengths, where & np.isfinite(measured), strict=True)):
        if seen.sum() >= 2:
            x = own[seen]
            found[row] = PchipInterpolator(x, measured[row, seen])(np.clip(expected, x[0], x[-1]))
    return found


@dataclass(frozen=True)
class Rule:
    """What the bootstrap rule says of one case: errors in mm along `Judged.values`, where to register, chance of failure."""

    error: np.ndarray
    column: int
    failed: float


@dataclass(frozen=True)
class Told:
    """What is said of P cases by who knows nothing of their domain.

    Attributes
    ----------
    columns : by method, where on `Judged.values` it would register, -1 for the affine step alone, shape (P,).
    surfaces : of the network, along the first parameter; nobody has told it of structures.
    at_measured : of the network, at the settings that were measured.
    outlooks : of the network.
    rules : what the bootstrap rule says.
    failed_limits : chance from which an alignment counts as failed, shape (P,).
    """

    columns: Mapping[str, np.ndarray]
    surfaces: tuple[PredictionSurface, ...]
    at_measured: tuple[PredictionSurface, ...]
    outlooks: tuple[Outlook, ...]
    rules: tuple[Rule, ...]
    failed_limits: np.ndarray


def tell(bundle: Bundle, trained: Trained, train: Examples, true: Judged) -> Told:
    """Predict every case, calibrated and tuned on the tuning cases of all other domains."""
    outcomes = true.outcomes
    bundles = {}
    for domain in np.unique(outcomes.domains).tolist():
        others = true.examples.chosen(np.flatnonzero((outcomes.domains != domain) & (outcomes.uses == TUNE)))
        usual = usual_shape(others, bundle.card.space) if len(others.pairs) else ()
        widths = widths_without(trained, train, others)
        bundles[domain] = replace(bundle, widths=widths, card=replace(bundle.card, usual=usual))
    of_rows = [bundles[domain] for domain in outcomes.domains.tolist()]
    parts = [_told_of(own, true, row) for row, own in enumerate(of_rows)]
    surfaces, segmented, measured, outlooks, rules = zip(*parts, strict=True)
    columns = _columns(true, surfaces, segmented, outlooks)
    columns[RULE] = np.array([rule.column for rule in rules])
    columns[RULE_GOAL] = np.where(true.in_mm, columns[RULE], columns[DEFAULT])
    limits = np.array([0.5 if own.widths.outlook is None else own.widths.outlook.failed for own in of_rows])
    return Told(columns, surfaces, measured, outlooks, rules, limits)


def widths_without(trained: Trained, train: Examples, others: Examples) -> BandWidths:
    """Calibrate on the held-out training pairs and on the tuning cases of other domains."""
    parts = [trained.held_out(train), *([predictions(trained.ensemble, others)] if len(others.pairs) else [])]
    return band_widths(together(parts))


def _told_of(
    bundle: Bundle, true: Judged, row: int
) -> tuple[PredictionSurface, PredictionSurface, PredictionSurface, Outlook, Rule]:
    """Return what is told of one case: surfaces along the first parameter, with structures, and as measured; outlook, rule."""
    predictor, space = Predictor(bundle), bundle.card.space
    features, evidence = named_features(true.examples, row)
    order = np.argsort(true.values)
    line = _line(true.values[order], true.examples.space)
    surface, reliability, _ = predictor.predict(features, _inside(line, space), evidence=evidence)
    tokens = tokens_of(true.examples, row)
    segmented = surface
    if tokens:
        segmented = predictor.predict(replace(features, tokens=tokens), _inside(line, space), evidence=evidence)[0]
    outlook = predictor.outlook(features, surface, reliability, evidence)
    if outlook is None:
        raise InputError(f"The predictor '{bundle.card.name}' tells no chances: give one that was trained on several domains.")
    tried = true.examples.settings[row][np.isfinite(true.examples.values[row])]
    at_measured = predictor.predict(features, _inside(tried, space), evidence=evidence)[0]
    whole = get_engine(true.examples.engine).info.search_space
    found = evidence_of(evidence, whole)
    error = bootstrap_curve(found, whole, _line(true.values, true.examples.space)).value
    picked = bootstrap_choice(found, whole, LIMIT)[space.first.name]
    rule = Rule(error, int(np.abs(np.log(true.values / picked)).argmin()), chance_failed(found))
    return surface, segmented, at_measured, outlook, rule


def _line(values: np.ndarray, space: SearchSpace) -> np.ndarray:
    """Return settings (G, h): values of the first parameter, the others at their defaults."""
    return np.stack([values, *(np.full(len(values), p.default) for p in space.parameters[1:])], axis=1)


def _inside(values: np.ndarray, space: SearchSpace) -> np.ndarray:
    return np.clip(values, [p.low for p in space], [p.high for p in space])


def named_features(examples: Examples, row: int) -> tuple[PairFeatures, dict[str, float]]:
    """Return features and evidence of one pair by name, as the product finds them."""
    named = dict(zip(examples.feature_names, examples.features[row].tolist(), strict=True))
    named.pop(LABEL_NOISE, None)
    evidence = {name.removeprefix(EVIDENCE): value for name, value in named.items() if name.startswith(EVIDENCE)}
    return PairFeatures({name: value for name, value in named.items() if not name.startswith(EVIDENCE)}, {}), evidence


def tokens_of(examples: Examples, row: int) -> dict[int, dict[str, float]]:
    """Return what is known of the structures of one pair's moving segmentation, numbered from 1; nothing without one."""
    known = examples.tokens[row][~np.isnan(examples.tokens[row]).all(axis=-1)]
    return {n: dict(zip(examples.token_names, token.tolist(), strict=True)) for n, token in enumerate(known, 1)}


def evidence_of(features: Mapping[str, float], space: SearchSpace) -> PairEvidence:
    """Return what the rule needs of the evidence that features were made of; see `evidence.as_features`."""
    values, voxel = coarse_settings(space), math.exp(features["log_spacing_mm"])
    curves = {
        name: np.array([scale * (math.exp(features[f"{name}_{n}"]) - 0.01) for n in range(len(values))])
        for name, scale in (*((name, voxel) for name in ERRORS), ("folding", 1.0))
    }
    numbers = {"explained": features["explained"], "shell": math.exp(features["shell"])}
    return PairEvidence(values, curves, numbers)


def _columns(
    true: Judged,
    surfaces: Sequence[PredictionSurface],
    segmented: Sequence[PredictionSurface],
    outlooks: Sequence[Outlook],
) -> dict[str, np.ndarray]:
    """Return by method where each case is registered."""
    outcomes = true.outcomes
    # The closed loop from the weakest λ on is what a search by measuring, by bisection or step by step, ends at.
    chosen: dict[str, np.ndarray] = {AFFINE: np.full(len(surfaces), -1), MEASURED: np.zeros(len(surfaces), dtype=int)}
    default = get_engine(true.examples.engine).info.search_space.defaults[true.examples.parameter.name]
    chosen[DEFAULT] = np.full(len(surfaces), int(np.abs(np.log(true.values / default)).argmin()))
    tuning = (outcomes.uses == TUNE) & ~true.spoiled
    chosen |= {name: np.zeros(len(surfaces), dtype=int) for name in (FIXED, FIXED_GOAL, EXPERT)}
    for domain in np.unique(outcomes.domains):
        mine = outcomes.domains == domain
        alike = true.in_mm == true.in_mm[mine].all()
        chosen[FIXED][mine] = _best_fixed(true, tuning & ~mine)
        chosen[FIXED_GOAL][mine] = _best_fixed(true, tuning & ~mine & alike)
        chosen[EXPERT][mine] = _best_fixed(true, tuning & mine)


    def by(of: Sequence[PredictionSurface] = surfaces, **asked: str) -> np.ndarray:
        criterion = Criterion(folding_limit=LIMIT, **asked)  # type: ignore[arg-type]
        picked = [choose(surface, criterion).setting[true.examples.parameter.name] for surface in of]
        return np.array([int(np.abs(np.log(true.values / value)).argmin()) for value in picked])

    chosen |= {MAXIMUM: by(), PLATEAU: by(rule="plateau"), OVERLAP: by(goal="overlap"), SEGMENTED: by(segmented, goal="overlap")}
    chosen[GOAL] = np.where(true.in_mm, by(goal="accuracy"), chosen[OVERLAP])
    chosen[UNSAID] = np.where(true.in_mm, chosen[MAXIMUM], by(segmented))
    helps = np.array([outlook.helps for outlook in outlooks])
    for name, whole in ((ADVISED, MAXIMUM), (GOAL_ADVISED, GOAL)):
        chosen[name] = np.where(helps < 0.5, -1, chosen[whole])
    return chosen


def _best_fixed(true: Judged, among: np.ndarray) -> int:
    """Return where one setting for all of some cases wins most once it is finished, domains weighing the same."""
    domains = true.outcomes.domains
    if not among.any():
        return int(np.abs(np.log(true.values / true.examples.parameter.default)).argmin())
    scores = []
    for column in range(GRID):
        won = true.won(np.full(len(domains), column))
        scores.append(np.mean([np.nanmean(won[among & (domains == d)]) for d in np.unique(domains[among])]))
    return int(np.nanargmax(scores))


def best_columns(true: Judged) -> np.ndarray:
    """Return where the finished result is best, shape (P,), which nobody can know before; -1 where the affine step is."""
    allowed = np.where(true.folding <= LIMIT, true.quality, -np.inf)
    allowed[:, -1] = true.quality[:, -1]
    allowed = np.where(np.isnan(allowed), -np.inf, allowed)
    best = allowed.argmax(axis=1)
    return np.where(allowed.max(axis=1) > 0, best, -1)


@dataclass(frozen=True)
class TwoLevels:
    """Resampling of domains, and of the subjects within each.

    Attributes
    ----------
    weights : shape (draws, P); a case weighs 1 over the cases of its domain, so that domains weigh the same.
    base : the same without resampling, shape (P,).
    """

    weights: np.ndarray
    base: np.ndarray

    @classmethod
    def of(cls, domains: np.ndarray, subjects: np.ndarray, draws: int, seed: int = SEED) -> TwoLevels:
        """Draw domains (P,) with replacement, and in each its fixed subjects (P,)."""
        random = np.random.default_rng(seed)
        names = np.unique(domains)
        often = random.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
        weights, base = np.zeros((draws, len(domains))), np.zeros(len(domains))
        for number, name in enumerate(names):
            rows = np.flatnonzero(domains == name)
            people, who = np.unique(subjects[rows], return_inverse=True)
            drawn = random.multinomial(len(people), np.full(len(people), 1 / len(people)), size=draws)[:, who]
            weights[:, rows] = often[:, [number]] * drawn / np.maximum(drawn.sum(axis=1, keepdims=True), 1)
            base[rows] = 1 / len(rows)
        return cls(weights, base)

    def mean(self, values: np.ndarray, among: np.ndarray | None = None) -> Estimate:
        """Estimate the mean of values (P,) over domains; NaN and what is not `among` is left out."""
        known = np.isfinite(values) if among is None else np.isfinite(values) & among
        return self.statistic(lambda weight: _weighted(values, weight * known), known)

    def statistic(self, of: Callable[[np.ndarray], float], known: np.ndarray) -> Estimate:
        """Estimate any figure of weights (P,), which are those of the cases that are `known`."""
        if not known.any():
            return Estimate(float("nan"))
        drawn = np.array([of(weight) for weight in self.weights if (weight * known).sum() > 0])
        lower, upper = np.nanquantile(drawn, ((1 - LEVEL) / 2, (1 + LEVEL) / 2)).tolist()
        return Estimate(of(self.base), lower, upper)


def _weighted(values: np.ndarray, weight: np.ndarray) -> float:
    total = weight.sum()
    return float((weight * np.nan_to_num(values)).sum() / total) if total > 0 else float("nan")


def rank_correlation(one: np.ndarray, other: np.ndarray, weight: np.ndarray) -> float:
    """Return Spearman's correlation of two quantities (P,) under weights (P,), NaN left out."""
    known = np.isfinite(one) & np.isfinite(other) & (weight > 0)
    if known.sum() < 3:
        return float("nan")
    ranks = [_weighted_ranks(part[known], weight[known]) for part in (one, other)]
    w = weight[known] / weight[known].sum()
    centred = [rank - (w * rank).sum() for rank in ranks]
    spread = math.sqrt((w * centred[0] ** 2).sum() * (w * centred[1] ** 2).sum())
    return float((w * centred[0] * centred[1]).sum() / spread) if spread > 0 else float("nan")


def _weighted_ranks(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return mid-ranks, each value counting as often as it weighs."""
    _, number = np.unique(values, return_inverse=True)
    totals = np.bincount(number, weights=weight)
    return np.asarray((np.cumsum(totals) - 0.5 * totals)[number])
