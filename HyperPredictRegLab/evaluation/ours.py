"""The product's predictor under test: as it is for new people, and fold by fold for those it was trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from HyperPredictRegLib.curves import Band
from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.predictor.bands import BandWidths
from HyperPredictRegLib.predictor.bundle import Bundle, load_bundle
from HyperPredictRegLib.predictor.ensemble import Ensemble
from HyperPredictRegLib.predictor.features import PairFeatures
from HyperPredictRegLib.predictor.network import CurveNetwork
from HyperPredictRegLib.predictor.predictor import Predictor
from HyperPredictRegLib.progress import CancelCheck, Progress, never, silent

from HyperPredictRegLab.cv_folds import COUNT
from HyperPredictRegLab.evaluation.foretold import Foretold, joined
from HyperPredictRegLab.evaluation.measured import Measured
from HyperPredictRegLab.training.building import Description, Trained, build, novelty_for, train_by_folds
from HyperPredictRegLab.training.calibration import (
    HeldOut,
    band_widths,
    curve_scores,
    dice_scores,
    subject_quantile,
)
from HyperPredictRegLab.training.examples import LABEL_NOISE, Examples
from HyperPredictRegLab.training.fitting import TrainingSettings


@dataclass(frozen=True)
class OurMethod:
    """A bundle with what is known of how it was trained.

    Attributes
    ----------
    bundle : as the product loads it.
    trained : its ensemble with the folds of its subjects.
    examples : that it was trained on.
    held_out : of those, the pairs within folds, with predictions by members that saw neither person.
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
        """Wrap an ensemble that was trained otherwise; card and features' novelty are those of the bundle `like`."""
        held_out = trained.held_out(examples)
        widths = like.widths if trained.ensemble is like.ensemble else band_widths(held_out)
        return cls(replace(like, ensemble=trained.ensemble, widths=widths), trained, examples, held_out)

    @property
    def folds_of_pairs(self) -> np.ndarray:
        """Fold of both subjects of each training pair, shape (P, 2)."""
        return np.array([[self.trained.folds[a], self.trained.folds[b]] for a, b in self.examples.subjects])

    def without_fold(self, fold: int, level: float | None = None) -> Predictor:
        """Return a predictor that knows nobody of a fold: neither its members, nor its bands, nor its novelty."""
        members = np.flatnonzero(self.trained.member_folds == fold)
        of = np.array([[self.trained.folds[a], self.trained.folds[b]] for a, b in self.held_out.examples.subjects])
        others = _some(self.held_out, np.flatnonzero((of != fold).all(axis=1)))
        outside = (self.folds_of_pairs != fold).all(axis=1)
        novelty = novelty_for(self.examples.chosen(outside), self.folds_of_pairs[outside])
        widths = band_widths(others) if level is None else widths_at(others, level)
        some = _members(self.trained.ensemble, members)
        # What is assumed of real labels does not hold for labels whose noise was drawn.
        card = replace(self.bundle.card, assumed={})
        return Predictor(replace(self.bundle, card=card, ensemble=some, widths=widths, novelty=novelty))

    def whole(self, level: float | None = None) -> Predictor:
        """Return the predictor as it is shipped, with bands of another level if one is given."""
        bundle = self.bundle if level is None else replace(self.bundle, widths=widths_at(self.held_out, level))
        return Predictor(bundle)


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
    trained = train_by_folds(examples, settings, replicas=replicas, cancelled=cancelled)
    return OurMethod.from_trained(examples, trained, like)


def foretell(predictor: Predictor, measured: Measured, segmented: bool = True) -> Foretold:
    """Ask the product for the curves of every pair, as a user would; structures it does not know are foretold apart."""
    examples = measured.examples
    known = {label for label, counts in zip(examples.labels, measured.counted, strict=True) if counts}
    found, lights = [], []
    for row in range(len(examples.pairs)):
        pair = dict(zip(examples.feature_names, examples.features[row].tolist(), strict=True))
        pair.pop(LABEL_NOISE, None)
        tokens = _tokens(examples, row) if segmented else {}
        usual = {label: token for label, token in tokens.items() if label in known}
        forecast = predictor.forecast(PairFeatures(pair, usual), measured.values)
        known_dice = _by_label(examples, forecast.curves.labels, forecast.curves.dice)
        strange = {label: token for label, token in tokens.items() if label not in known}
        if strange:
            other = predictor.forecast(PairFeatures(pair, strange), measured.values).curves
            apart = _by_label(examples, other.labels, other.dice)
            known_dice = [np.where(np.isnan(a), b, a) for a, b in zip(known_dice, apart, strict=True)]
        c = forecast.curves
        others = (c.mean_dice, c.folding_foreground, c.folding_box, c.sd_log_jacobian)
        found.append((known_dice, *([band.value, band.lower, band.upper] for band in others)))
        lights.append(forecast.verdict.light)
    dice, mean, foreground, box, sd = (
        Band(*(np.stack([pair[part][end] for pair in found]) for end in range(3))) for part in range(5)
    )
    return Foretold(dice, mean, foreground, box, sd, np.array(lights))


def foretell_held_out(ours: OurMethod, measured: Measured, segmented: bool = True, level: float | None = None) -> Foretold:
    """Foretell pairs within folds, each by a predictor that knows neither person; they must be in the order of the folds."""
    of = np.array([ours.trained.folds[a] for a, _ in measured.examples.subjects])
    parts = []
    for fold in sorted(set(of.tolist())):
        parts.append(foretell(ours.without_fold(fold, level), measured.chosen(np.flatnonzero(of == fold)), segmented))
    return joined(parts)


def widths_at(held_out: HeldOut, level: float) -> BandWidths:
    """Calibrate bands of another level, in the way of `band_widths`."""
    examples = held_out.examples
    found = {}
    for name, foreseen in (("", held_out.segmented), ("_unsegmented", held_out.unsegmented)):
        dice, mean = dice_scores(foreseen, examples)
        found[f"dice{name}"] = subject_quantile(dice, examples.subjects, level)
        found[f"mean_dice{name}"] = subject_quantile(mean, examples.subjects, level)
    scores = curve_scores(held_out.segmented, examples)
    one, two, three = (subject_quantile(scores[:, n], examples.subjects, level) for n in range(3))
    return BandWidths(**found, curves=(one, two, three), subjects=len(set(examples.subjects.ravel().tolist())))


def _trained(bundle: Bundle) -> Trained:
    members = bundle.ensemble.network.settings.members
    return Trained(bundle.ensemble, dict(bundle.card.subjects), np.repeat(np.arange(COUNT), members // COUNT))


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
    for foreseen in (held_out.segmented, held_out.unsegmented):
        parts.append(replace(foreseen, **{name: getattr(foreseen, name)[rows] for name in foreseen.__dataclass_fields__}))
    return HeldOut(held_out.examples.chosen(rows), *parts)


def _tokens(examples: Examples, row: int) -> dict[int, dict[str, float]]:
    return {
        label: dict(zip(examples.token_names, values.tolist(), strict=True))
        for label, values in zip(examples.labels, examples.tokens[row], strict=True)
        if not np.isnan(values).all()
    }


def _by_label(examples: Examples, labels: tuple[int, ...], dice: Band) -> list[np.ndarray]:
    """Arrange foretold Dice (s, n) in the examples' order: value, lower and upper end (S, n), NaN where there is none."""
    places = {label: n for n, label in enumerate(labels)}
    empty = np.full(dice.value.shape[1], np.nan)
    ends = (dice.value, dice.lower, dice.upper)
    return [np.stack([end[places[n]] if n in places else empty for n in examples.labels]) for end in ends]
