"""From the table of a sweep to a bundle, in one seeded step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from HyperPredictRegLib import preprocessing
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.progress import CancelCheck, Progress, never, silent
from HyperPredictRegLib.core.search_space import SearchSpace, Setting
from HyperPredictRegLib.engines import get_engine
from HyperPredictRegLib.predictor.bundle import BandWidths, Bundle, save_bundle
from HyperPredictRegLib.predictor.card import FORMAT, MOST_LETTERS, OUTLOOK_FORMAT, USUAL_POINTS, Card
from HyperPredictRegLib.predictor.evidence import VERSION as EVIDENCE_VERSION
from HyperPredictRegLib.predictor.network import Ensemble
from HyperPredictRegLib.predictor.ood import OodDetector, ood_of
from HyperPredictRegLib.predictor.predictor import EVIDENCE
from HyperPredictRegLib.preprocessing.working_grid import PRESETS
from HyperPredictRegLib.spatial.structures import structure_name

from HyperPredictRegLab.manifest import CV_FOLDS, subject_cv_folds
from HyperPredictRegLab.sweep.runs import PLAN
from HyperPredictRegLab.training.calibration import (
    HeldOut,
    band_widths,
    curve_scores,
    dice_scores,
    held_out_predictions,
    predictions,
    together,
)
from HyperPredictRegLab.training.examples import (
    LABEL_NOISE,
    Examples,
    dense_grid,
    fixed_value,
    in_space,
    trained_range,
    won_by_pair,
)
from HyperPredictRegLab.training.fitting import TrainingSettings, train
from HyperPredictRegLab.training.outlook_widths import known_outcomes

OUTLOOK_SETTINGS = TrainingSettings(
    epochs=200, knots=9, further_knots=2, width=24, dropout=0.3, without_tokens=0.0, unknown=0.0, ridge=0.5, smoothness=1e-2
)
"""Of examples that know domains and outcomes: fewer, more alike pairs ask for less freedom."""

MOST_DOMAIN_FOLDS = 8
"""Of domains: more members take longer to ask, and each would know nearly the same pairs."""

REPLICAS = 2
"""Members per CV fold, from different random weights: their mean errs less than either."""

MOST_NOISE_MM = 100.0


@dataclass(frozen=True)
class Description:
    """What a bundle's card says of its origin, and what it assumes of labels.

    `assumed_label_noise_mm` is the standard deviation by which labels are taken to stray from the images; None: as in training.
    `presets` are those that it serves beside those of its pairs, because that was measured, or their grids are the same.
    """

    name: str = "own"
    version: str = "1"
    licence: str = "unspecified"
    training_data: str = "unspecified"
    assumed_label_noise_mm: float | None = None
    presets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = [preset for preset in self.presets if preset not in PRESETS]
        if unknown:
            raise InputError(f"There is no preset '{unknown[0]}' to serve: name some of {', '.join(PRESETS)}.")
        for what, text in (
            ("name", self.name), ("version", self.version), ("licence", self.licence), ("training data", self.training_data)
        ):  # fmt: skip
            if len(text) > MOST_LETTERS or not text.isprintable():
                raise InputError(f"The {what} of the predictor is no text of at most {MOST_LETTERS} letters in one line.")
        noise = self.assumed_label_noise_mm
        if noise is not None and not 0 <= noise <= MOST_NOISE_MM:
            raise InputError(f"Labels that stray from images by {noise:g} mm cannot be: give 0 to {MOST_NOISE_MM:g}.")


@dataclass(frozen=True)
class Trained:
    """An ensemble of which each member has not seen one CV fold of subjects.

    Attributes
    ----------
    cv_folds : of each subject.
    member_cv_folds : the CV fold that each member has not seen.
    """

    ensemble: Ensemble
    cv_folds: dict[str, int]
    member_cv_folds: np.ndarray

    def held_out(self, examples: Examples) -> HeldOut:
        """Predict the pairs within CV folds by members that have not seen them."""
        return held_out_predictions(self.ensemble, examples, self.cv_folds, self.member_cv_folds)


def train_by_cv_folds(
    examples: Examples,
    settings: TrainingSettings | None = None,
    *,
    features: tuple[str, ...] | None = None,
    replicas: int = REPLICAS,
    progress: Progress = silent,
    cancelled: CancelCheck = never,
) -> Trained:
    """Train `replicas` members for each CV fold of subjects, on the pairs that show nobody of the CV fold.

    Where examples know their domains, all subjects of a domain are one CV fold.

    One thread, so that the same examples and settings give the same numbers.

    Raises
    ------
    InputError : too few subjects, or a CV fold leaves nothing to train on.
    """
    cv_folds = _domain_cv_folds(examples) or subject_cv_folds(examples.subjects.ravel().tolist())
    of = np.array([[cv_folds[a], cv_folds[b]] for a, b in examples.subjects])
    count = CV_FOLDS if examples.outcomes is None else int(of.max()) + 1
    member_cv_folds = np.repeat(np.arange(count), replicas)
    masks = np.array([(of != cv_fold).all(axis=1) for cv_fold in member_cv_folds])
    if masks.sum(axis=1).min() < 2 or not ((of[:, :1] == of[:, 1:]).any()):
        raise InputError("The sweep's pairs cannot be split by subject: every CV fold needs pairs of its people and of others.")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ensemble = train(examples, masks, settings, features=features, progress=progress, cancelled=cancelled)
    finally:
        torch.set_num_threads(threads)
    return Trained(ensemble, cv_folds, member_cv_folds)


def _domain_cv_folds(examples: Examples) -> dict[str, int]:
    """Return the CV fold of each subject, one or a few whole domains each; empty where no domains are known."""
    if examples.outcomes is None:
        return {}
    _, numbers = np.unique(examples.outcomes.domains, return_inverse=True)
    cv_folds = (numbers % MOST_DOMAIN_FOLDS).tolist()
    return {name: cv_fold for cv_fold, pair in zip(cv_folds, examples.subjects.tolist(), strict=True) for name in pair}


def build(
    examples: Examples,
    out: Path,
    description: Description,
    settings: TrainingSettings | None = None,
    *,
    calibration: Examples | None = None,
    replicas: int = REPLICAS,
    progress: Progress = silent,
    cancelled: CancelCheck = never,
) -> Card:
    """Train, calibrate and save a bundle.

    Parameters
    ----------
    calibration : pairs of further domains, on which nothing is trained; bands are calibrated on these, too, and the bundle
        chooses along what varies in most of them only.
    replicas : members per CV fold of subjects; of domains there is one.

    Raises
    ------
    InputError : the examples are too few, or it is not known how their pairs were aligned.
    Cancelled : the caller asked to stop; nothing was written.
    """
    several = examples.outcomes is not None
    settings = settings or (OUTLOOK_SETTINGS if several else TrainingSettings())
    if examples.alignment is None:
        raise InputError(f"The sweep has no {PLAN}, which says how its pairs were aligned: give the folder that 'sweep' wrote.")
    info = get_engine(examples.engine).info
    used = learned_features(examples) if several else None
    trained = train_by_cv_folds(
        examples, settings, features=used, replicas=1 if several else replicas, progress=progress, cancelled=cancelled
    )
    held_out = trained.held_out(examples)
    proven = () if calibration is None else _varied_in_most(calibration)
    if calibration is not None:
        calibration = in_space(calibration, examples.space)
        held_out = together([held_out, predictions(trained.ensemble, calibration)])
    widths = band_widths(held_out)
    of = np.array([[trained.cv_folds[a], trained.cv_folds[b]] for a, b in examples.subjects])
    space, fixed = _trained_space(examples, info.search_space, calibration)
    noise = description.assumed_label_noise_mm
    card = Card(
        format=OUTLOOK_FORMAT if several or len(space) > 1 else FORMAT,
        name=description.name,
        version=description.version,
        licence=description.licence,
        engine=info.name,
        engine_version=info.version,
        settings_hash=examples.settings_hash,
        preset=examples.preset,
        features_version=examples.features_version,
        alignment=examples.alignment,
        preprocessing=preprocessing.VERSION,
        space=space,
        structures={str(label): structure_name(label) for label in examples.labels},
        assumed={} if noise is None else {LABEL_NOISE: noise},
        fixed=fixed,
        training_data=description.training_data,
        training=asdict(settings),
        subjects=dict(sorted(trained.cv_folds.items())),
        pairs=len(examples.pairs),
        registrations=int((~np.isnan(examples.values)).sum()),
        accuracy=accuracy(held_out, widths),
        held=examples.held,
        presets=_served(examples, description.presets),
        evidence_version=_evidence_version(examples),
        chosen=() if calibration is None else tuple(name for name in space.names if name in proven),
        domains=accuracy_by_domain(held_out) if several else {},
        usual=() if calibration is None else usual_shape(calibration, space),
    )
    return save_bundle(Bundle(card, trained.ensemble, widths, ood_for(examples, of)), out)


def _served(examples: Examples, further: Sequence[str]) -> tuple[str, ...]:
    """Return the presets that a bundle serves, in the order of `PRESETS`; () may stand for that of its pairs alone."""
    own = examples.presets or (examples.preset,)
    return tuple(name for name in PRESETS if name in (*own, *further)) if further else examples.presets


def _varied_in_most(examples: Examples) -> tuple[str, ...]:
    """Return the parameters that were tried at several values in at least half of the pairs; the first one if none was."""
    space, settings = examples.space, examples.settings
    places = space.to_unit(settings.reshape(-1, len(space))).reshape(settings.shape)
    several = np.nanmax(places, axis=1) - np.nanmin(places, axis=1) > 1e-6
    found = tuple(name for name, share in zip(space.names, several.mean(axis=0), strict=True) if share >= 0.5)
    return found or space.names[:1]


def _evidence_version(examples: Examples) -> str:
    """Return the version of the evidence that is learned from, "" if there is none."""
    reads = any(name.startswith(EVIDENCE) for name in examples.feature_names)
    return (examples.evidence_version or EVIDENCE_VERSION) if reads else ""


def _trained_space(examples: Examples, whole: SearchSpace, calibration: Examples | None) -> tuple[SearchSpace, Setting]:
    """Return the parameters with the ranges that were tried, and the setting for those who cannot use a prediction.

    Of several domains that is the first parameter's value that wins most on average over the domains to calibrate on, the others
    at their defaults; without such it is the default.
    """
    if examples.outcomes is None and not examples.further:
        parameter = examples.parameter
        value = round(fixed_value(examples, dense_grid(examples)), 4)
        learned = whole.narrowed(parameter.name, *trained_range(examples))[parameter.name]
        return SearchSpace((replace(learned, default=value),)), {parameter.name: value}
    space = examples.space
    for column, parameter in enumerate(examples.space):
        space = space.narrowed(parameter.name, *trained_range(examples, column))
    if calibration is None:
        return space, space.defaults
    first = space.first
    values = first.from_unit(np.linspace(0, 1, 61))
    won, known = won_by_pair(in_space(calibration, SearchSpace((first,))), values)
    domains = known_outcomes(calibration).domains
    means = [won[known & (domains == domain)].mean(axis=0) for domain in np.unique(domains[known])]
    best = float(values[np.argmax(np.mean(means, axis=0))]) if means else first.default
    fixed = space.defaults | {first.name: round(best, 4)}
    return SearchSpace(tuple(replace(p, default=fixed[p.name]) if p is first else p for p in space)), fixed


def usual_shape(examples: Examples, space: SearchSpace) -> tuple[float, ...]:
    """Return the mean shape of the gain of overlap over the first parameter, see `predictor.usual`; () where none is known.

    Every domain weighs the same; those that are measured in mm tell nothing of it.

    Parameters
    ----------
    space : over whose first parameter's range to tell it.
    """
    values = space.first.from_unit(np.linspace(0, 1, USUAL_POINTS))
    won, known = won_by_pair(in_space(examples, SearchSpace((examples.parameter,))), values)
    outcomes = known_outcomes(examples)
    mine = known & ~np.isfinite(outcomes.error).any(axis=1)
    if not mine.any():
        return ()
    names = np.unique(outcomes.domains[mine])
    mean = np.mean([won[mine & (outcomes.domains == domain)].mean(axis=0) for domain in names], axis=0)
    return tuple(np.round(mean - mean.mean(), 5).tolist())


def tuning_cases(examples: Examples) -> Examples:
    """Return the cases of a list that may serve for tuning: those that it does not mark for test.

    Raises
    ------
    InputError : there are none, or the tables know no domains.
    """
    allowed = known_outcomes(examples).uses != "test"
    if not allowed.any():
        raise InputError("All cases to calibrate on are marked for test, and nothing may be tuned on these: give others.")
    return examples.chosen(np.flatnonzero(allowed))


_IN_MM = ("log_voxel_mm", "log_fixed_volume", f"{EVIDENCE}log_spacing_mm")
"""What tells a mouse from a man: nothing is learned from it where many kinds of anatomy are."""


def learned_features(examples: Examples) -> tuple[str, ...]:
    """Return the features from which is learned where examples know domains.

    They are the evidence about the pair, if there is any, which assumes no anatomy; the size of the anatomy shows in none.
    """
    told = [name for name in examples.feature_names if name not in (*_IN_MM, LABEL_NOISE)]
    evidence = tuple(name for name in told if name.startswith(EVIDENCE))
    return evidence or tuple(told)


def accuracy_by_domain(held_out: HeldOut) -> dict[str, dict[str, float]]:
    """Return figures of each domain, predicted by who has not seen it, for the card; what could not be measured is left out."""
    outcomes, told = known_outcomes(held_out.examples), held_out.segmented.outlook
    found: dict[str, dict[str, float]] = {}
    for domain in np.unique(outcomes.domains).tolist():
        rows = outcomes.domains == domain
        numbers = {"pairs": float(rows.sum())}
        if told is not None:
            off = np.abs(told.curves[rows, 0] - np.log(outcomes.error[rows] / outcomes.unit_mm[rows, None]))
            numbers["error_factor"] = float(np.exp(np.nanmedian(off))) if np.isfinite(off).any() else float("nan")
        mean = np.abs(held_out.segmented.mean_dice - held_out.examples.mean_dice)[rows]
        numbers["mean_dice_mae"] = float(np.nanmean(mean)) if np.isfinite(mean).any() else float("nan")
        found[domain] = {name: round(value, 4) for name, value in numbers.items() if np.isfinite(value)}
    return found


def ood_for(examples: Examples, cv_folds: np.ndarray) -> OodDetector:
    """Describe the features that a pair shows by itself; `cv_folds` (P, 2) are those of its subjects."""
    used = learned_features(examples) if examples.outcomes is not None else examples.feature_names
    seen = [n for n, name in enumerate(examples.feature_names) if name != LABEL_NOISE and name in used]
    return ood_of(examples.features[:, seen], tuple(examples.feature_names[n] for n in seen), cv_folds)


def accuracy(held_out: HeldOut, widths: BandWidths) -> dict[str, float]:
    """Return figures of held-out predictions over all their λ, for the card.

    Coverage of calibrated bands on the people that calibrated them is near 90 % by construction; that on others is in the
    evaluation report.
    """
    examples, found = held_out.examples, {}
    for name, predicted in (("segmented", held_out.segmented), ("unsegmented", held_out.unsegmented)):
        dice = 1 / (1 + np.exp(-predicted.dice_logit))
        found[f"mean_dice_mae_{name}"] = float(np.nanmean(np.abs(predicted.mean_dice - examples.mean_dice)))
        found[f"structure_dice_mae_{name}"] = float(np.nanmean(np.abs(dice - examples.dice)))
    folding = np.exp(held_out.segmented.curves[:, :2])
    found["folding_foreground_mae_percent"] = float(np.nanmean(np.abs(folding[:, 0] - examples.folding_foreground)))
    found["folding_grid_mae_percent"] = float(np.nanmean(np.abs(folding[:, 1] - examples.folding_grid)))
    dice, mean = dice_scores(held_out.segmented, examples)
    curves = curve_scores(held_out.segmented, examples)
    found["coverage_dice"] = float(np.mean(dice[~np.isnan(dice)] <= widths.dice))
    found["coverage_mean_dice"] = float(np.mean(mean[~np.isnan(mean)] <= widths.mean_dice))
    found["coverage_folding"] = float(np.mean(curves[:, 0][~np.isnan(curves[:, 0])] <= widths.curves[0]))
    # A card has no word for a figure that could not be measured, such as that of structures nobody has.
    return {name: round(value, 5) for name, value in found.items() if np.isfinite(value)}
