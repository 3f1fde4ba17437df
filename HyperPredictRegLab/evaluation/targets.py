"""What a prediction rests on, how long it takes, and which targets are reached."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from HyperPredictRegLib.core.progress import CancelCheck, ProgressEvent, stop_if
from HyperPredictRegLib.predictor.bundle import save_bundle
from HyperPredictRegLib.predictor.features import PairFeatures
from HyperPredictRegLib.predictor.ood import OodDetector

from HyperPredictRegLab.evaluation.decisions import (
    B0,
    B1,
    B2,
    MAXIMUM,
    NO_MARGIN,
    OURS,
    UNSEGMENTED,
    Choosing,
    Conditions,
    PairSet,
    decide,
)
from HyperPredictRegLab.evaluation.judging import (
    ODD,
    Errors,
    Features,
    errors,
    explained,
    group_sets,
    log_folding,
    quantities,
    reliabilities_of,
    results,
    structure_gains,
)
from HyperPredictRegLab.evaluation.measured import PredictedPairs
from HyperPredictRegLab.evaluation.methods import (
    OTHERS,
    OurMethod,
    PaperTraining,
    is_probe,
    paper_predicts,
    predict,
    predict_held_out,
    variant,
)
from HyperPredictRegLab.evaluation.tables import Cell, Estimate, Table
from HyperPredictRegLab.training.building import Trained
from HyperPredictRegLab.training.fitting import TrainingSettings, train

EPOCHS = 150
"""Of every variant, the reference too; and one member per CV fold instead of the product's two."""

ALPHAS = (0.01, 0.03, 0.3, 1.0)
SHARES = (50, 25)
SEED = 20240901

_Maker = Callable[[], OurMethod]


@dataclass(frozen=True)
class AblationInput:
    """What the ablations judge on.

    Attributes
    ----------
    ours : the shipped predictor.
    held_out, external : the sets, as judged; external may be None.
    images : of the external pairs, for the paper's baseline.
    """

    ours: OurMethod
    held_out: PairSet
    external: PairSet | None
    images: np.ndarray | None = None


def ablation_table(given: AblationInput, conditions: Conditions) -> Table:
    """Train each variant alike and return T6."""
    rows: list[tuple[Cell, ...]] = []
    makers = _makers(given.ours, conditions.cancelled)
    for number, (name, make) in enumerate(makers.items()):
        stop_if(conditions.cancelled)
        conditions.progress(ProgressEvent("ablations", number / len(makers), name))
        ours = make()
        rows += [_row(name, found, conditions) for found in _judged_sets(ours, given, conditions)]
    rows += _paper_rows(given, conditions)
    for found in (given.held_out, given.external):
        if found is not None:
            rows += _use_rows(found, conditions)
    columns = (
        "pairs", "variant", "Dice MAE, all λ", "Dice MAE at λ*", "R² Dice within λ", "ln folding MAE", "R² ln folding within λ",
        "regret, rule maximum", "regret / B2's", "over limit before loop, %", "extra registrations",
    )  # fmt: skip
    note = (
        f"Every trained variant has one member per CV fold and {EPOCHS} epochs, so the first row, not the shipped predictor, is "
        'what to compare with. alpha is the weight of folding against Dice in the loss. Rows "shipped" use the shipped predictor '
        'in other ways; "paper" rows are the published network with the embedding of λ trained, unless said otherwise, judged on '
        "the external pairs only, without margin."
    )
    return Table("t6-ablations", "T6. Ablations", columns, tuple(rows), note)


def _makers(ours: OurMethod, cancelled: CancelCheck) -> dict[str, _Maker]:
    plain = replace(TrainingSettings(**ours.bundle.card.training), epochs=EPOCHS)
    examples, like = ours.examples, ours.bundle
    probes = tuple(name for name in examples.feature_names if is_probe(name))
    images = tuple(name for name in examples.feature_names if not is_probe(name))

    def other(settings: TrainingSettings, features: tuple[str, ...] | None = None) -> _Maker:
        return lambda: variant(examples, like, settings, features, cancelled=cancelled)

    found: dict[str, _Maker] = {f"reference, alpha {plain.folding_weight:g}": other(plain)}
    for share in SHARES:
        found[f"{share} % of the pairs"] = lambda share=share: _on_share(ours, plain, share)  # type: ignore[misc]
    for alpha in ALPHAS:
        if alpha != plain.folding_weight:
            found[f"alpha {alpha:g}"] = other(replace(plain, folding_weight=alpha))
    layers = 3 - plain.hidden_layers
    found["two hidden layers" if layers == 2 else "one hidden layer"] = other(replace(plain, hidden_layers=layers))
    if probes and images:
        found["no probes"] = other(plain, images)
        found["probes only"] = other(plain, probes)
    found["trained without tokens"] = other(replace(plain, without_tokens=1.0))
    found["no loss on the shape of curves"] = other(replace(plain, shape_weight=0.0))
    return found


def _on_share(ours: OurMethod, settings: TrainingSettings, share: int) -> OurMethod:
    """Train on a random share of the pairs, with the CV folds as they are."""
    cv_folds = np.arange(max(ours.trained.cv_folds.values()) + 1)
    retained = np.random.default_rng(SEED).random(len(ours.examples.pairs)) < share / 100
    masks = np.array([(ours.cv_folds_of_pairs != cv_fold).all(axis=1) & retained for cv_fold in cv_folds])
    masks[masks.sum(axis=1) < 2] = True
    ensemble = train(ours.examples, masks, settings)
    return OurMethod.from_trained(ours.examples, Trained(ensemble, ours.trained.cv_folds, cv_folds), ours.bundle)


def _judged_sets(ours: OurMethod, given: AblationInput, conditions: Conditions) -> list[PairSet]:
    found = [_with(given.held_out, predict_held_out(ours, given.held_out.measured), conditions)]
    if given.external is not None:
        found.append(_with(given.external, predict(ours.whole(), given.external.measured), conditions))
    return found


def _with(found: PairSet, told: PredictedPairs, conditions: Conditions) -> PairSet:
    """Return the set with another's curves in the place of ours."""
    overall = dict(found.choosing.overall)
    fixed = overall[B1].first
    overall[MAXIMUM] = decide(told, found.measured, conditions.maximum, fixed)
    overall[OURS] = decide(told, found.measured, conditions.criterion, fixed)
    return replace(found, predicted={**found.predicted, OURS: told}, choosing=Choosing(overall, {}))


def _row(name: str, found: PairSet, conditions: Conditions, method: str = OURS, decided: str = MAXIMUM) -> tuple[Cell, ...]:
    m, r, told = found.measured, found.resampling, found.predicted[method]
    e: Errors = errors(found, method)
    own, base = results(found, conditions, decided), results(found, conditions, B2)
    return (
        m.name, name, r.mean(e.dice_over), r.mean(e.dice_at), explained(told.mean.value, m.mean[:, m.choice], True),
        r.ratio(e.logs, e.counted), explained(log_folding(told.foreground.value), log_folding(m.foreground[:, m.choice]), True),
        r.mean(own.regret), r.ratio(own.regret, base.regret), float(100 * own.first.over.mean()), r.mean(own.decision.extra),
    )  # fmt: skip


def _use_rows(found: PairSet, conditions: Conditions) -> list[tuple[Cell, ...]]:
    return [
        _row("shipped, with tokens and margin", found, conditions),
        _row("shipped, no margin (not cautious)", found, conditions, decided=NO_MARGIN),
        _row("shipped, default criterion", found, conditions, decided=OURS),
        _row("shipped, no moving segmentation (default criterion)", found, conditions, UNSEGMENTED, UNSEGMENTED),
    ]


def _paper_rows(given: AblationInput, conditions: Conditions) -> list[tuple[Cell, ...]]:
    """Return rows of the published network's own variants; training it per CV fold, too, would take longer than all the rest."""
    external, images, own = given.external, conditions.train_images, given.images
    if external is None or images is None or own is None:
        return []
    rows = []
    known = {name: told for name, told in external.predicted.items() if name.startswith("B3")}
    training = PaperTraining(given.ours.examples, images, given.ours.cv_folds_of_pairs)
    trained = {
        name: paper_predicts(training, external.measured, own, settings, conditions.cancelled)
        for name, settings in (OTHERS if images.ndim > 2 else {}).items()
    }
    fixed = external.choosing.overall[B1].first
    for name, told in {**known, **trained}.items():
        overall = {**external.choosing.overall, NO_MARGIN: decide(told, external.measured, conditions.plain, fixed)}
        judged = replace(external, predicted={**external.predicted, name: told}, choosing=Choosing(overall, {}))
        rows.append(_row(name, judged, conditions, name, NO_MARGIN))
    return rows


COUNTS = (8_000, 40_000)
THREADS = (1, 2)
REPEATS = 5


def latency_table(ours: OurMethod, folder: Path) -> Table:
    """Return T7; a copy of the bundle is written to `folder` to weigh it."""
    save_bundle(ours.bundle, folder)
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    rows: list[tuple[Cell, ...]] = []
    for threads in THREADS:
        for count in COUNTS:
            network, predict = timings(ours, count, threads)
            rows.append((threads, count, len(ours.bundle.ensemble.labels), _members(ours), 1e3 * network, 1e3 * predict, size))
    columns = ("threads", "λ", "structures", "members", "network and curves, ms", "whole prediction with bands, ms", "bundle, MB")
    note = (
        f"Best of {REPEATS} warm calls on {platform.machine()}, with whatever else ran there; a busy machine slows two threads. "
        "Features and probes need the images and are not in here: the benchmarks print them. The paper states 0.84 s for 8,000 "
        "λ, hardware unstated."
    )
    return Table("t7-latency", "T7. Latency", columns, tuple(rows), note)


def timings(ours: OurMethod, count: int, threads: int) -> tuple[float, float]:
    """Return seconds for `count` λ of one pair, all structures and members: of network and curves, and of a whole prediction."""
    bundle, examples = ours.bundle, ours.examples
    values = bundle.card.space.grid(count)
    ensemble, predictor = bundle.ensemble, ours.whole()
    features, tokens = examples.features[:1], examples.tokens[:1]
    own = [examples.feature_names.index(name) for name in ensemble.reading.features]
    numbers = ensemble.structure_numbers(examples.labels)[None]
    named = {
        label: dict(zip(examples.token_names, np.nan_to_num(token).tolist(), strict=True))
        for label, token in zip(examples.labels, tokens[0], strict=True)
    }
    pair = PairFeatures(dict(zip(examples.feature_names, features[0].tolist(), strict=True)), named)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        network = _best_seconds(lambda: ensemble.predict(ensemble.coefficients(features[:, own], tokens, numbers), values))
        predict = _best_seconds(lambda: predictor.predict(pair, values))
    finally:
        torch.set_num_threads(before)
    return network, predict


def longest_ms(table: Table) -> float:
    """Return the milliseconds of network and curves for the first count of λ with the most threads, NaN without a row."""
    found = [row[4] for row in table.rows if row[0] == max(THREADS) and row[1] == COUNTS[0]]
    return float(found[0]) if found else float("nan")  # type: ignore[arg-type]


def megabytes(table: Table) -> float:
    """Return the size of the bundle, NaN without a row."""
    return float(table.rows[0][6]) if table.rows else float("nan")  # type: ignore[arg-type]


def _members(ours: OurMethod) -> int:
    return ours.bundle.ensemble.network.settings.members


def _best_seconds(call: Callable[[], object]) -> float:
    call()
    found = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return min(found)


UNLIKE = ("mouse",)
"""Out-of-distribution sets that must never get a reliable prediction."""


@dataclass(frozen=True)
class Target:
    """One thing to reach.

    Attributes
    ----------
    what : in words.
    bound : in words, such as "≤ 0.015".
    reached : the figure, with its interval where there is one.
    met : whether it is as it should be; None if it could not be measured.
    """

    what: str
    bound: str
    reached: Estimate
    met: bool | None


def at_most(what: str, reached: Estimate | float, bound: float) -> Target:
    """Judge a figure that should be small."""
    return _judged(what, f"≤ {bound:g}", reached, lambda value: value <= bound)


def at_least(what: str, reached: Estimate | float, bound: float) -> Target:
    """Judge a figure that should be large."""
    return _judged(what, f"≥ {bound:g}", reached, lambda value: value >= bound)


def _judged(what: str, bound: str, reached: Estimate | float, good: Callable[[float], bool]) -> Target:
    figure = reached if isinstance(reached, Estimate) else Estimate(float(reached))
    return Target(what, bound, figure, good(figure.value) if figure.is_known else None)


def pair_targets(found: PairSet, conditions: Conditions) -> list[Target]:
    """Judge a set of pairs by the targets for the real people."""
    r, e, blind = found.resampling, errors(found, OURS), errors(found, B0)
    return [
        at_most("Dice MAE at λ*", r.mean(e.dice_at), 0.015),
        at_most("folding MAE at λ*, % of grid", r.mean(e.grid_at), 0.03),
        at_least("skill over the λ-only curve: Dice, all λ", r.skill(e.dice_over, blind.dice_over), 0.3),
        at_least("skill over the λ-only curve: ln folding", r.skill(e.logs, blind.logs), 0.4),
        *_coverages(found),
        *_loop_targets(found, conditions),
        *_regret_targets(found, conditions),
        *_structure_targets(found, conditions),
    ]


def _coverages(found: PairSet) -> list[Target]:
    targets = []
    for name, inside, _ in quantities(found.predicted[OURS], found.measured):
        flat = inside.reshape(len(inside), -1)
        known = np.isfinite(flat)
        share = found.resampling.ratio(100 * np.nansum(flat, axis=1), known.sum(axis=1).astype(float))
        targets.append(_judged(f"coverage of 90 % bands: {name}, %", "85 to 95", share, lambda value: 85 <= value <= 95))
    return targets


def _loop_targets(found: PairSet, conditions: Conditions) -> list[Target]:
    own, r = results(found, conditions, OURS), found.resampling
    return [
        at_most("over the limit before the loop, %", r.mean(100.0 * own.first.over), 10),
        at_most("over the limit after the loop, %", r.mean(100.0 * own.final.over), 0),
        at_most("extra registrations per pair", r.mean(own.decision.extra), 0.25),
        at_most("mean Dice lost against the oracle, finished registrations", r.mean(own.regret), 0.003),
    ]


def _regret_targets(found: PairSet, conditions: Conditions) -> list[Target]:
    targets = []
    for method, name in ((OURS, "default"), (MAXIMUM, "rule maximum")):
        own = results(found, conditions, method)
        for rival in (B1, B2):
            ratio = found.resampling.ratio(own.regret, results(found, conditions, rival).regret)
            sure = not np.isfinite(ratio.upper) or ratio.upper < 1
            what = f"regret against that of {rival} ({name}), interval below 1"
            targets.append(_judged(what, "≤ 0.75", ratio, lambda value, sure=sure: value <= 0.75 and sure))  # type: ignore[misc]
    return targets


def _structure_targets(found: PairSet, conditions: Conditions) -> list[Target]:
    gains, r = structure_gains(found, conditions), found.resampling
    targets = []
    for part, name in ((gains.ours, "default"), (gains.maximum, "rule maximum")):
        targets.append(at_least(f"gain of choosing λ for one structure ({name})", r.mean(part), 0.008))
        targets.append(at_least(f"the same, over B9 ({name})", r.mean(part - gains.by_structure), 0))
    return targets


def odd_targets(found: PairSet, conditions: Conditions) -> list[Target]:
    """Judge the odd pairs of a set, group by group and together."""
    targets = []
    for group in group_sets(found):
        name = group.measured.name
        if name not in ODD and not name.startswith("odd"):
            continue
        for method, rule in ((OURS, "default"), (MAXIMUM, "rule maximum")):
            own, looped = (results(group, conditions, m) for m in (method, B2))
            ratio = group.resampling.ratio(own.regret, looped.regret)
            targets.append(at_most(f"{name}: regret against that of {B2} ({rule})", ratio, 0.5))
    return targets


def targets_table(
    external: Sequence[PairSet],
    held_out: PairSet,
    conditions: Conditions,
    *,
    ood: OodDetector,
    ood_sets: Mapping[str, Features],
    latency: Table,
) -> Table:
    """Return the table of all targets with what each set of pairs reached; they were set for the external people."""
    sets = (*external, held_out)
    found = [[*pair_targets(one, conditions), _unreliable(one), *odd_targets(one, conditions)] for one in sets]
    whats = list(dict.fromkeys(target.what for targets in found for target in targets))
    rows: list[tuple[Cell, ...]] = []
    for what in whats:
        own = [next((target for target in targets if target.what == what), None) for targets in found]
        rows.append((what, next(t.bound for t in own if t is not None), *(cell for target in own for cell in _cells(target))))
    rest = [*_ood_targets(ood, ood_sets), *_size_targets(latency)]
    blank: tuple[Cell, ...] = ("",) * (2 * len(sets) - 2)
    rows += [(target.what, target.bound, *_cells(target), *blank) for target in rest]
    columns = ("target", "bound", *(part for one in sets for part in (one.measured.name, "met")))
    note = (
        "Set for the real people; the other columns are context. Every figure is computed from the sweeps. A target is met by "
        "the figure itself, not by the end of its interval, unless it says so."
    )
    return Table("targets", "Targets", columns, tuple(rows), note)


def _unreliable(found: PairSet) -> Target:
    return at_most("unreliable predictions, %", float(100 * (found.predicted[OURS].reliabilities == "unreliable").mean()), 5)


def _ood_targets(ood: OodDetector, ood_sets: Mapping[str, Features]) -> list[Target]:
    targets = []
    for name, features in ood_sets.items():
        share, what = reliabilities_of(ood, features)["reliable"], f"reliable predictions among {name}, %"
        expected = any(word in name.lower() for word in UNLIKE)
        targets.append(at_most(what, share, 0) if expected else Target(what, "none set", Estimate(share), None))
    return targets


def _size_targets(latency: Table) -> list[Target]:
    return [
        at_most("8,000 λ x all structures x ensemble on two threads, ms", longest_ms(latency), 25),
        at_most("bundle, MB", megabytes(latency), 5),
    ]


def _cells(target: Target | None) -> tuple[Cell, Cell]:
    if target is None:
        return ("", "")
    return (target.reached, "–" if target.met is None else target.met)
