"""Who predicts: our network, baselines without one, and the method of the paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.progress import CancelCheck, Progress, never, silent
from HyperPredictRegLib.predictor.bundle import LEAST_FOLDING, LEVEL, Bundle, load_bundle
from HyperPredictRegLib.predictor.features import PairFeatures
from HyperPredictRegLib.predictor.network import CLIP, CurveNetwork, Ensemble
from HyperPredictRegLib.predictor.predictor import Predictor
from HyperPredictRegLib.results.prediction import Band

from HyperPredictRegLab.baselines import FROZEN, PRETRAINED, PUBLISHED, PaperSettings, train_paper
from HyperPredictRegLab.evaluation.measured import Measured, PredictedPairs, joined, quiet_mean, rising, without_bands
from HyperPredictRegLab.manifest import CV_FOLDS, subject_cv_folds
from HyperPredictRegLab.training.building import Description, Trained, build, ood_for, train_by_cv_folds
from HyperPredictRegLab.training.calibration import HeldOut, band_widths
from HyperPredictRegLab.training.examples import LABEL_NOISE, Examples
from HyperPredictRegLab.training.fitting import TrainingSettings

PENALTIES = np.geomspace(1, 1e5, 11)
INNER_CV_FOLDS = 4
_EDGE = 1e-3


def is_probe(name: str) -> bool:
    """Tell whether a feature comes from a probe."""
    return name.startswith("probe")


def only_weight(train: Measured, measured: Measured) -> PredictedPairs:
    """Predict every pair alike, by the training pairs' median curves: the best in absolute error without looking (B0)."""
    count = len(measured.examples.pairs)

    def same(surface: np.ndarray) -> np.ndarray:
        return np.repeat(np.nanmedian(surface, axis=0)[None, ..., train.choice], count, axis=0)

    places = [train.examples.labels.index(n) if n in train.examples.labels else -1 for n in measured.examples.labels]
    known = np.where(np.isfinite(train.dice).any(axis=(0, 2))[:, None], np.nan_to_num(_median(train.dice)), np.nan)
    dice = np.stack([known[place] if place >= 0 else np.full(known.shape[1], np.nan) for place in places])[:, train.choice]
    foreground, grid, sd = (same(part) for part in (train.foreground, train.grid, train.sd))
    return without_bands(measured, np.repeat(dice[None], count, axis=0), foreground, grid, sd)


def _median(dice: np.ndarray) -> np.ndarray:
    found = np.full(dice.shape[1:], np.nan)
    has = np.isfinite(dice).any(axis=(0, 2))
    found[has] = np.nanmedian(dice[:, has], axis=0)
    return found


@dataclass(frozen=True)
class _Standard:
    """Standardized features of some names."""

    columns: list[int]
    mean: np.ndarray
    sd: np.ndarray

    @classmethod
    def of(cls, train: Measured, expected: Callable[[str], bool]) -> _Standard:
        columns = [n for n, name in enumerate(train.examples.feature_names) if expected(name)]
        features = train.examples.features[:, columns]
        return cls(columns, quiet_mean(features, axis=0), np.maximum(np.nanstd(features, axis=0), 1e-6))

    def __call__(self, measured: Measured) -> np.ndarray:
        return np.clip(np.nan_to_num((measured.examples.features[:, self.columns] - self.mean) / self.sd), -CLIP, CLIP)


def ridge(train: Measured, measured: Measured, expected: Callable[[str], bool]) -> PredictedPairs:
    """Regress curves on features: the logit of Dice and the logarithms of folding and SD log-Jacobian, at every λ (B4, B5).

    The penalty is chosen, and the margin above the folding curve taken, from CV folds of the training subjects: the margin is the
    90 % quantile of the absolute residuals of ln(folding) where there is any, so that it means what the product's band means.

    Parameters
    ----------
    expected : tells by its name whether a feature may be looked at.
    """
    standard = _Standard.of(train, expected)
    inputs, own = standard(train), standard(measured)
    counts = train.choice.stop
    dice, others = _targets(train)
    penalty = [_penalty(inputs, part, train.examples.subjects) for part in (dice, others)]
    predicted_dice = _regressed(inputs, dice, own, penalty[0]).reshape(len(own), -1, counts)
    surface = _regressed(inputs, others, own, penalty[1]).reshape(len(own), 3, counts)
    surface[:, :2] = np.minimum.accumulate(surface[:, :2], axis=-1)
    margin = _margin(inputs, others[:, : 2 * counts], train.examples.subjects, penalty[1])
    foreground, grid, sd = np.exp(surface).transpose(1, 0, 2)
    places = [train.examples.labels.index(n) if n in train.examples.labels else -1 for n in measured.examples.labels]
    probability = 1 / (1 + np.exp(-predicted_dice))
    dice_out = np.stack([probability[:, p] if p >= 0 else np.full(foreground.shape, np.nan) for p in places], axis=1)
    return without_bands(measured, dice_out, _none_below(foreground), _none_below(grid), sd, margin)


def _none_below(folding: np.ndarray) -> np.ndarray:
    return np.where(folding < LEAST_FOLDING * 1.001, 0.0, np.minimum(folding, 100.0))


def _targets(train: Measured) -> tuple[np.ndarray, np.ndarray]:
    """Return logits of Dice (P, S n), what a pair lacks at its mean, and logarithms of folding and SD (P, 3 n)."""
    dice = np.clip(train.dice[..., train.choice], _EDGE, 1 - _EDGE)
    logit = np.log(dice / (1 - dice))
    logit = np.where(np.isfinite(logit), logit, np.nan_to_num(quiet_mean(logit, axis=0))[None])
    folding = [np.log(np.maximum(part[:, train.choice], LEAST_FOLDING)) for part in (train.foreground, train.grid)]
    others = np.concatenate([*folding, np.log(np.maximum(train.sd[:, train.choice], 1e-3))], axis=1)
    return logit.reshape(len(logit), -1), others


def _regressed(inputs: np.ndarray, targets: np.ndarray, own: np.ndarray, penalty: float) -> np.ndarray:
    mean = targets.mean(axis=0)
    center = inputs.mean(axis=0)
    shifted = inputs - center
    weights = np.linalg.solve(shifted.T @ shifted + penalty * np.eye(inputs.shape[1]), shifted.T @ (targets - mean))
    return (own - center) @ weights + mean


def _inner(subjects: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return masks of pairs to learn from and to predict, for CV folds of the subjects; none if they are too few."""
    people = sorted(set(subjects.ravel().tolist()))
    if len(people) < 2 * INNER_CV_FOLDS:
        return []
    cv_folds = subject_cv_folds(people, INNER_CV_FOLDS)
    of = np.array([[cv_folds[a], cv_folds[b]] for a, b in subjects])
    masks = [((of != cv_fold).all(axis=1), (of == cv_fold).all(axis=1)) for cv_fold in range(INNER_CV_FOLDS)]
    return [(learn, predict) for learn, predict in masks if learn.sum() > 1 and predict.any()]


_Splits = Sequence[tuple[np.ndarray, np.ndarray]]


def _residuals(inputs: np.ndarray, targets: np.ndarray, splits: _Splits, penalty: float) -> np.ndarray:
    return np.concatenate([_regressed(inputs[a], targets[a], inputs[b], penalty) - targets[b] for a, b in splits])


def _penalty(inputs: np.ndarray, targets: np.ndarray, subjects: np.ndarray) -> float:
    splits = _inner(subjects)
    if not splits:
        return float(PENALTIES[len(PENALTIES) // 2])
    coarse = targets[:, :: max(1, targets.shape[1] // 400)]
    errors = [np.abs(_residuals(inputs, coarse, splits, penalty)).mean() for penalty in PENALTIES]
    return float(PENALTIES[int(np.argmin(errors))])


def _margin(inputs: np.ndarray, logs: np.ndarray, subjects: np.ndarray, penalty: float) -> float:
    splits = _inner(subjects)
    if not splits:
        return 1.0
    residuals = np.abs(_residuals(inputs, logs, splits, penalty))
    anything = np.concatenate([logs[b] for _, b in splits]) > np.log(LEAST_FOLDING)
    return float(np.exp(np.quantile(residuals[anything], LEVEL))) if anything.any() else 1.0


@dataclass(frozen=True)
class OurMethod:
    """A bundle with what is known of how it was trained.

    Attributes
    ----------
    bundle : as the product loads it.
    trained : its ensemble with the CV folds of its subjects.
    examples : that it was trained on.
    held_out : of those, the pairs within CV folds, with predictions by members that saw neither person.
    """

    bundle: Bundle
    trained: Trained
    examples: Examples
    held_out: HeldOut

    @classmethod
    def of(
        cls, examples: Examples, bundle: Path | None, *, progress: Progress = silent, cancelled: CancelCheck = never
    ) -> OurMethod:
        """Load a bundle that was trained on `examples`, or train one now with the default settings.

        Raises
        ------
        InputError : the bundle was trained on other people, for another engine, or cannot be read.
        """
        if bundle is None:
            with TemporaryDirectory() as folder:
                build(examples, Path(folder), Description(name="under test"), progress=progress, cancelled=cancelled)
                loaded = load_bundle(folder)
        else:
            loaded = load_bundle(bundle)
        card = loaded.card
        people = set(examples.subjects.ravel().tolist())
        if set(card.subjects) != people or card.settings_hash != examples.settings_hash:
            raise InputError(
                f"The predictor '{card.name}' was not trained on the sweep that was given: evaluate it with the table of its "
                "own training, or leave the bundle out to train one now."
            )
        return cls.from_trained(examples, _trained(loaded), loaded)

    @classmethod
    def from_trained(cls, examples: Examples, trained: Trained, like: Bundle) -> OurMethod:
        """Wrap an ensemble that was trained otherwise; card and features' OOD distance are those of the bundle `like`."""
        held_out = trained.held_out(examples)
        widths = like.widths if trained.ensemble is like.ensemble else band_widths(held_out)
        return cls(replace(like, ensemble=trained.ensemble, widths=widths), trained, examples, held_out)

    @property
    def cv_folds_of_pairs(self) -> np.ndarray:
        """Fold of both subjects of each training pair, shape (P, 2)."""
        return np.array([[self.trained.cv_folds[a], self.trained.cv_folds[b]] for a, b in self.examples.subjects])

    def without_cv_fold(self, cv_fold: int, level: float = LEVEL) -> Predictor:
        """Return a predictor that knows nobody of a CV fold: neither its members, nor its bands, nor its OOD distance."""
        members = np.flatnonzero(self.trained.member_cv_folds == cv_fold)
        of = np.array([[self.trained.cv_folds[a], self.trained.cv_folds[b]] for a, b in self.held_out.examples.subjects])
        others = _some(self.held_out, np.flatnonzero((of != cv_fold).all(axis=1)))
        outside = (self.cv_folds_of_pairs != cv_fold).all(axis=1)
        ood = ood_for(self.examples.chosen(outside), self.cv_folds_of_pairs[outside])
        widths = band_widths(others, level)
        some = _members(self.trained.ensemble, members)
        # What is assumed of real labels does not hold for labels whose noise was drawn.
        card = replace(self.bundle.card, assumed={})
        return Predictor(replace(self.bundle, card=card, ensemble=some, widths=widths, ood=ood))

    def whole(self, level: float = LEVEL) -> Predictor:
        """Return the predictor as it is shipped, with bands of another level if one is given."""
        if level == LEVEL:
            return Predictor(self.bundle)
        return Predictor(replace(self.bundle, widths=band_widths(self.held_out, level)))


def variant(
    examples: Examples,
    like: Bundle,
    settings: TrainingSettings,
    features: tuple[str, ...] | None = None,
    *,
    replicas: int = 1,
    cancelled: CancelCheck = never,
) -> OurMethod:
    """Train with other settings or fewer features, for ablations."""
    if features is not None:
        columns = [examples.feature_names.index(name) for name in features]
        examples = replace(examples, features=examples.features[:, columns], feature_names=features)
    trained = train_by_cv_folds(examples, settings, replicas=replicas, cancelled=cancelled)
    return OurMethod.from_trained(examples, trained, like)


def predict(predictor: Predictor, measured: Measured, segmented: bool = True) -> PredictedPairs:
    """Ask the product for the curves of every pair, as a user would; structures it does not know are predicted apart."""
    examples = measured.examples
    known = {label for label, counts in zip(examples.labels, measured.counted, strict=True) if counts}
    order = rising(measured.parameter)
    values, names = measured.values[order, None], dict(zip(examples.labels, measured.names, strict=True))
    found, reliabilities = [], []
    for row in range(len(examples.pairs)):
        pair = dict(zip(examples.feature_names, examples.features[row].tolist(), strict=True))
        pair.pop(LABEL_NOISE, None)
        tokens = _tokens(examples, row) if segmented else {}
        usual = {label: token for label, token in tokens.items() if label in known}
        c, reliability, _ = predictor.predict(PairFeatures(pair, usual), values, names)
        known_dice = _by_label(examples, c.labels, c.dice)
        strange = {label: token for label, token in tokens.items() if label not in known}
        if strange:
            other = predictor.predict(PairFeatures(pair, strange), values, names)[0]
            apart = _by_label(examples, other.labels, other.dice)
            known_dice = [np.where(np.isnan(a), b, a) for a, b in zip(known_dice, apart, strict=True)]
        others = (c.quality(), c.folding_foreground, c.folding_grid, c.sd_log_jacobian)
        found.append((known_dice, *([band.value, band.lower, band.upper] for band in others)))
        reliabilities.append(reliability.level)
    dice, mean, foreground, grid, sd = (
        Band(*(np.stack([pair[part][end][..., order] for pair in found]) for end in range(3))) for part in range(5)
    )
    return PredictedPairs(dice, mean, foreground, grid, sd, np.array(reliabilities))


def predict_held_out(ours: OurMethod, measured: Measured, segmented: bool = True, level: float = LEVEL) -> PredictedPairs:
    """Predict pairs within CV folds, each by a predictor that knows neither person; they must be in the order of the CV folds."""
    of = np.array([ours.trained.cv_folds[a] for a, _ in measured.examples.subjects])
    parts = []
    for cv_fold in sorted(set(of.tolist())):
        parts.append(predict(ours.without_cv_fold(cv_fold, level), measured.chosen(np.flatnonzero(of == cv_fold)), segmented))
    return joined(parts)


def _trained(bundle: Bundle) -> Trained:
    members = bundle.ensemble.network.settings.members
    return Trained(bundle.ensemble, dict(bundle.card.subjects), np.repeat(np.arange(CV_FOLDS), members // CV_FOLDS))


def _members(ensemble: Ensemble, members: np.ndarray) -> Ensemble:
    """Return the ensemble of some members; every tensor's first axis is theirs."""
    network = CurveNetwork(replace(ensemble.network.settings, members=len(members)))
    network.load_state_dict({name: tensor[members] for name, tensor in ensemble.network.state_dict().items()})
    network.eval()
    r = ensemble.reading
    arrays = {n: getattr(r, n)[members] for n in ("feature_mean", "feature_sd", "token_mean", "token_sd")}
    return replace(ensemble, network=network, reading=replace(r, **arrays))


def _some(held_out: HeldOut, rows: np.ndarray) -> HeldOut:
    parts = []
    for predicted in (held_out.segmented, held_out.unsegmented):
        parts.append(replace(predicted, **{name: part[rows] for name, part in vars(predicted).items() if part is not None}))
    return HeldOut(held_out.examples.chosen(rows), *parts)


def _tokens(examples: Examples, row: int) -> dict[int, dict[str, float]]:
    return {
        label: dict(zip(examples.token_names, values.tolist(), strict=True))
        for label, values in zip(examples.labels, examples.tokens[row], strict=True)
        if not np.isnan(values).all()
    }


def _by_label(examples: Examples, labels: tuple[int, ...], dice: Band) -> list[np.ndarray]:
    """Arrange predicted Dice (s, n) in the examples' order: value, lower and upper end (S, n), NaN where there is none."""
    places = {label: n for n, label in enumerate(labels)}
    empty = np.full(dice.value.shape[1], np.nan)
    ends = (dice.value, dice.lower, dice.upper)
    return [np.stack([end[places[n]] if n in places else empty for n in examples.labels]) for end in ends]


MAIN: Mapping[str, PaperSettings] = {
    "B3 paper, published": PUBLISHED,
    "B3 paper, λ embedding trained": FROZEN,
}
"""As in the published code, whose embedding of λ is never trained; and with what its text says."""

WITH_ITS_ENCODER: Mapping[str, PaperSettings] = {
    "B3 paper, its own encoder": PRETRAINED,
    "B3 paper, its own encoder, λ embedding trained": replace(PRETRAINED, trained_embedding=True),
}
"""The same where the sweeps hold what the paper's encoder made of their pairs."""

OTHERS: Mapping[str, PaperSettings] = {
    "paper, mean-min-max": replace(FROZEN, statistics="mean-min-max"),
    "paper, two hidden layers": replace(FROZEN, hidden_layers=2),
    "paper, alpha 0.1": replace(FROZEN, alpha=0.1),
    "paper, alpha 10": replace(FROZEN, alpha=10.0),
}
"""Its own ablations (appendices B, C, F)."""


@dataclass(frozen=True)
class PaperTraining:
    """What the paper's predictor learns from.

    Attributes
    ----------
    examples, images : P training pairs, see `paper_image`; or channels (P, F) of the paper's encoder in place of images.
    cv_folds : of both subjects of each, shape (P, 2); pairs inside one CV fold tell when to stop, nobody of it is learned from.
    held_out : the CV fold that must not be seen at all.
    """

    examples: Examples
    images: np.ndarray
    cv_folds: np.ndarray
    held_out: int | None = None


def paper_predicts(
    given: PaperTraining,
    measured: Measured,
    images: np.ndarray,
    settings: PaperSettings,
    cancelled: CancelCheck = never,
    progress: Progress = silent,
) -> PredictedPairs:
    """Train the paper's predictor and let it predict the measured pairs, whose images are given."""
    train, cv_folds, held_out = given.examples, given.cv_folds, given.held_out
    last = CV_FOLDS - 1 if held_out is None else (held_out + 1) % CV_FOLDS
    usable = np.ones(len(cv_folds), bool) if held_out is None else (cv_folds != held_out).all(axis=1)
    learn, stop = usable & (cv_folds != last).all(axis=1), usable & (cv_folds == last).all(axis=1)
    predictor = train_paper(train, given.images, learn, stop, settings, progress, cancelled)
    dice, folding = predictor.predict(images, measured.values)
    places = [train.labels.index(label) if label in train.labels else -1 for label in measured.examples.labels]
    nothing = np.full(folding.shape, np.nan)
    arranged = np.stack([dice[:, place] if place >= 0 else nothing for place in places], axis=1).astype(float)
    folding = folding.astype(float)
    known = {settings.domain: folding}
    # It predicts folding of one domain only; the other one is that times the training pairs' ratio.
    ratio = float(np.nansum(train.folding_foreground) / max(np.nansum(train.folding_grid), 1e-9))
    foreground = known.get("foreground", folding * ratio)
    grid = known.get("grid", folding / max(ratio, 1e-9))
    return without_bands(measured, arranged, foreground, grid, np.full(folding.shape, np.nan))
