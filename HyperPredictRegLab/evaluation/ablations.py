"""What each part of the predictor contributes: table T6."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from HyperPredictRegLib.progress import CancelCheck, ProgressEvent, stop_if

from HyperPredictRegLab.evaluation.accuracy import Errors, errors, explained, log_folding
from HyperPredictRegLab.evaluation.baselines import is_probe
from HyperPredictRegLab.evaluation.decision_table import results
from HyperPredictRegLab.evaluation.decisions import decide
from HyperPredictRegLab.evaluation.foretold import Foretold
from HyperPredictRegLab.evaluation.ours import OurMethod, foretell, foretell_held_out, variant
from HyperPredictRegLab.evaluation.paper_baseline import OTHERS, PaperTraining, paper_foretells
from HyperPredictRegLab.evaluation.sets import (
    B1,
    B2,
    MAXIMUM,
    NO_MARGIN,
    OURS,
    UNSEGMENTED,
    Choosing,
    PairSet,
    Setting,
)
from HyperPredictRegLab.evaluation.table import Cell, Table
from HyperPredictRegLab.training.building import Trained
from HyperPredictRegLab.training.fitting import TrainingSettings, train

EPOCHS = 150
"""Of every variant, the reference too; and one member per fold instead of the product's two."""

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


def ablation_table(given: AblationInput, setting: Setting) -> Table:
    """Train each variant alike and return T6."""
    rows: list[tuple[Cell, ...]] = []
    makers = _makers(given.ours, setting.cancelled)
    for number, (name, make) in enumerate(makers.items()):
        stop_if(setting.cancelled)
        setting.progress(ProgressEvent("ablations", number / len(makers), name))
        ours = make()
        rows += [_row(name, found, setting) for found in _judged(ours, given, setting)]
    rows += _paper_rows(given, setting)
    for found in (given.held_out, given.external):
        if found is not None:
            rows += _use_rows(found, setting)
    columns = (
        "pairs", "variant", "Dice MAE, all λ", "Dice MAE at λ*", "R² Dice within λ", "ln folding MAE", "R² ln folding within λ",
        "regret, rule maximum", "regret / B2's", "over limit before loop, %", "extra registrations",
    )  # fmt: skip
    note = (
        f"Every trained variant has one member per fold and {EPOCHS} epochs, so the first row, not the shipped predictor, is "
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
    """Train on a random share of the pairs, with the folds as they are."""
    folds = np.arange(max(ours.trained.folds.values()) + 1)
    kept = np.random.default_rng(SEED).random(len(ours.examples.pairs)) < share / 100
    masks = np.array([(ours.folds_of_pairs != fold).all(axis=1) & kept for fold in folds])
    masks[masks.sum(axis=1) < 2] = True
    ensemble = train(ours.examples, masks, settings)
    return OurMethod.from_trained(ours.examples, Trained(ensemble, ours.trained.folds, folds), ours.bundle)


def _judged(ours: OurMethod, given: AblationInput, setting: Setting) -> list[PairSet]:
    found = [_with(given.held_out, foretell_held_out(ours, given.held_out.measured), setting)]
    if given.external is not None:
        found.append(_with(given.external, foretell(ours.whole(), given.external.measured), setting))
    return found


def _with(found: PairSet, told: Foretold, setting: Setting) -> PairSet:
    """Return the set with another's curves in the place of ours."""
    overall = dict(found.choosing.overall)
    fixed = overall[B1].first
    overall[MAXIMUM] = decide(told, found.measured, setting.maximum, fixed)
    overall[OURS] = decide(told, found.measured, setting.criterion, fixed)
    return replace(found, foretold={**found.foretold, OURS: told}, choosing=Choosing(overall, {}))


def _row(name: str, found: PairSet, setting: Setting, method: str = OURS, decided: str = MAXIMUM) -> tuple[Cell, ...]:
    m, r, told = found.measured, found.resampling, found.foretold[method]
    e: Errors = errors(found, method)
    own, base = results(found, setting, decided), results(found, setting, B2)
    return (
        m.name, name, r.mean(e.dice_over), r.mean(e.dice_at), explained(told.mean.value, m.mean[:, m.choice], True),
        r.ratio(e.logs, e.counted), explained(log_folding(told.foreground.value), log_folding(m.foreground[:, m.choice]), True),
        r.mean(own.regret), r.ratio(own.regret, base.regret), float(100 * own.first.over.mean()), r.mean(own.decision.extra),
    )  # fmt: skip


def _use_rows(found: PairSet, setting: Setting) -> list[tuple[Cell, ...]]:
    return [
        _row("shipped, with tokens and margin", found, setting),
        _row("shipped, no margin (not cautious)", found, setting, decided=NO_MARGIN),
        _row("shipped, default criterion", found, setting, decided=OURS),
        _row("shipped, no moving segmentation (default criterion)", found, setting, UNSEGMENTED, UNSEGMENTED),
    ]


def _paper_rows(given: AblationInput, setting: Setting) -> list[tuple[Cell, ...]]:
    """Return rows of the published network's own variants; training it once per fold too would take longer than all the rest."""
    external, images, own = given.external, setting.train_images, given.images
    if external is None or images is None or own is None:
        return []
    rows = []
    known = {name: told for name, told in external.foretold.items() if name.startswith("B3")}
    training = PaperTraining(given.ours.examples, images, given.ours.folds_of_pairs)
    trained = {
        name: paper_foretells(training, external.measured, own, settings, setting.cancelled) for name, settings in OTHERS.items()
    }
    fixed = external.choosing.overall[B1].first
    for name, told in {**known, **trained}.items():
        overall = {**external.choosing.overall, NO_MARGIN: decide(told, external.measured, setting.plain, fixed)}
        judged = replace(external, foretold={**external.foretold, name: told}, choosing=Choosing(overall, {}))
        rows.append(_row(name, judged, setting, name, NO_MARGIN))
    return rows
