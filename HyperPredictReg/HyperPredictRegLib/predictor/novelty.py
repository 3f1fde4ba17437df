"""Is this pair like those that the predictor learned from? The traffic light, and its reasons in words.

Every comparison here is written so that a number that is not one (NaN) fails it: what cannot be judged is never green.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from HyperPredictRegLib.job import Verdict
from HyperPredictRegLib.predictor.ensemble import named_row
from HyperPredictRegLib.predictor.wording import feature_words

AMBER_SHARE, RED_SHARE = 0.95, 0.995
"""Quantiles of the distances of training pairs from the folds that do not hold them, where the light changes."""

AMBER_WIDENING = 1.5
"""How much wider bands are under an amber light."""

SHRINKAGE = 0.2
LEAST_OVERLAP = 0.6
MOST_ANISOTROPY = 6.0


@dataclass(frozen=True)
class Novelty:
    """Mean and shrunk covariance of the training pairs' features, and where distances become unusual.

    Attributes
    ----------
    features : names.
    mean, sd : shape (F,).
    precision : inverse of the shrunk correlation matrix, shape (F, F).
    amber, red : distances from which the light changes.
    """

    features: tuple[str, ...]
    mean: np.ndarray
    sd: np.ndarray
    precision: np.ndarray
    amber: float
    red: float

    def distance(self, features: np.ndarray) -> np.ndarray:
        """Return root mean square Mahalanobis distances of features (P, F), shape (P,); about 1 for a usual pair."""
        standard = np.nan_to_num((features - self.mean) / self.sd)
        return np.sqrt(np.einsum("pf,fg,pg->p", standard, self.precision, standard).clip(0) / len(self.features))

    def verdict(self, named: Mapping[str, float]) -> Verdict:
        """Judge a pair by its features; red where these, or what they are compared with, are not numbers."""
        row = named_row(named, self.features)
        rules = broken_rules(named)
        unknown = [name for name in self.features if not np.isfinite(named.get(name, 0.0))]
        if unknown:
            some = ", ".join(unknown[:3])
            said = f"The pair cannot be judged, because {len(unknown)} of its features cannot be measured ({some})."
            return Verdict("red", (*rules, said))
        if not self.usable:
            said = "The pair cannot be judged, because the predictor's own limits are no usable numbers: install it again."
            return Verdict("red", (*rules, said))
        distance = float(self.distance(row[None])[0])
        if distance < self.amber and not rules:
            return Verdict("green")
        standard = np.nan_to_num((row - self.mean) / self.sd)
        unusual = [feature_words(self.features[n], standard[n]) for n in np.argsort(-np.abs(standard))[:3]]
        light = "amber" if distance < self.red and not rules else "red"
        judged = "unlike anything" if light == "red" else "unlike most of what"
        said = f"The pair is {judged} the predictor was trained on (distance {distance:.2f}, usual is below {self.amber:.2f})."
        return Verdict(light, (*rules, said, *unusual))

    @property
    def usable(self) -> bool:
        """Whether mean, spread and limits are finite numbers that make sense."""
        known = (self.mean, self.sd, self.precision, np.array([self.amber, self.red]))
        return all(bool(np.isfinite(part).all()) for part in known) and bool((self.sd > 0).all()) and 0 < self.amber <= self.red


def at_most(verdict: Verdict, doubts: Sequence[str] = (), refusals: Sequence[str] = ()) -> Verdict:
    """Return a verdict that is no better than what else is known of the pair, with the reasons for that first.

    Parameters
    ----------
    doubts, refusals : sentences, for which the light is amber at best, or red.
    """
    light = "red" if refusals else "amber" if doubts and verdict.light == "green" else verdict.light
    return Verdict(light, (*refusals, *doubts, *verdict.reasons))


def novelty_of(features: np.ndarray, names: tuple[str, ...], folds: np.ndarray) -> Novelty:
    """Describe training pairs.

    Parameters
    ----------
    features : shape (P, F).
    folds : fold of both subjects of each pair, shape (P, 2); thresholds come from distances to what the other folds show.
    """
    distances = []
    for fold in np.unique(folds):
        inside, outside = (folds == fold).all(axis=1), (folds != fold).all(axis=1)
        if inside.any() and outside.any():
            distances.append(_fitted(features[outside], names).distance(features[inside]))
    known = np.concatenate(distances)
    whole = _fitted(features, names)
    amber, red = np.quantile(known, (AMBER_SHARE, RED_SHARE)).tolist()
    return Novelty(names, whole.mean, whole.sd, whole.precision, amber, red)


def broken_rules(named: Mapping[str, float]) -> tuple[str, ...]:
    """Return sentences on what makes a prediction worthless whatever the distance."""
    found = []
    if not named.get("foreground_overlap", 1.0) >= LEAST_OVERLAP:
        found.append(f"After the affine step the two foregrounds overlap by {100 * named['foreground_overlap']:.0f} % only.")
    for side in ("fixed", "moving"):
        if not np.exp(named.get(f"{side}_log_anisotropy", 0.0)) <= MOST_ANISOTROPY:
            found.append(f"Slices of the {side} image are more than {MOST_ANISOTROPY:g} times as thick as pixels are wide.")
    return tuple(found)


def _fitted(features: np.ndarray, names: tuple[str, ...]) -> Novelty:
    mean, sd = np.nanmean(features, axis=0), np.maximum(np.nanstd(features, axis=0), 1e-3)
    standard = np.nan_to_num((features - mean) / sd)
    correlation = standard.T @ standard / len(standard)
    shrunk = (1 - SHRINKAGE) * correlation + SHRINKAGE * np.eye(len(names))
    return Novelty(names, mean, sd, np.linalg.inv(shrunk), np.inf, np.inf)
