"""Is this pair like those that the predictor learned from, or out of distribution (OOD)? With the reasons in words.

Every comparison here is written so that a number that is not one (NaN) fails it: what cannot be judged is never reliable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from HyperPredictRegLib.predictor.network import named_row
from HyperPredictRegLib.results.prediction import Reliability

_WORDS = {
    "log_voxel_mm": "the voxel size of the working grid",
    "log_fixed_volume": "the size of the anatomy",
    "log_volume_ratio": "the moving anatomy's volume against the fixed one's",
    "foreground_share": "the share of the working grid that the anatomy fills",
    "foreground_overlap": "the overlap of the two foregrounds after the affine step",
    "log_affine_scale": "the overall scaling by the affine step",
    "log_affine_stretch": "the stretch by the affine step",
    "log_spacing_voxels": "the voxel size of the {side} image",
    "log_anisotropy": "the slice thickness of the {side} image",
    "spread": "the contrast inside the {side} image",
    "entropy": "the variety of grey values of the {side} image",
    "roughness": "the noise of the {side} image",
    "roughness_tail": "the sharpness of edges of the {side} image",
    "bias": "the shading across the {side} image",
    "correlation": "the correlation of the images {when}",
    "difference": "the difference of grey values {when}",
    "edges": "the agreement of edges {when}",
    "edges_squared": "the agreement of edges, light or dark, {when}",
    "information": "the mutual information of the images {when}",
}
_PROBE_WORDS = {
    "folding": "the folding in the foreground of {probe}",
    "folding_grid": "the folding anywhere in {probe}",
    "near_folding": "the strong compression in {probe}",
    "roughness": "the roughness of the deformation in {probe}",
    "compression": "the strongest compression in {probe}",
    "expansion": "the strongest expansion in {probe}",
    "shift": "the mean displacement in {probe}",
    "shift_tail": "the largest displacements in {probe}",
    "to_next": "the change of the deformation from {probe} to the next more regularized one",
}
_PROBES = ("the least regularized trial registration", "the middle trial registration", "the most regularized trial registration")


def feature_words(name: str, standard: float) -> str:
    """Return a sentence on a feature that lies `standard` standard deviations from what is usual."""
    direction = "higher" if standard > 0 else "lower"
    how = "far " if abs(standard) > 4 else ""
    amount = f"{standard:+.1f}" if abs(standard) < 20 else "more than 20"
    return f"{_words(name).capitalize()} is {how}{direction} than usual ({amount} standard deviations)."


def _words(name: str) -> str:
    if name in _WORDS:
        return _WORDS[name]
    head, _, rest = name.partition("_")
    if head == "evidence":
        return f"the evidence from trial registrations ({rest.replace('_', ' ')})"
    if head in ("fixed", "moving"):
        if rest in _WORDS:
            return _WORDS[rest].format(side=head)
        if rest[:1] == "p" and rest[1:].isdigit():
            return f"the brightness at percentile {rest[1:]} of the {head} image"
    if head.startswith("probe") and head[5:].isdigit():
        probe = _PROBES[min(int(head[5:]), len(_PROBES) - 1)]
        if rest in _PROBE_WORDS:
            return _PROBE_WORDS[rest].format(probe=probe)
        when = f"after {probe}"
    else:
        when = "after the affine step"
    if rest.startswith("local"):
        return f"the local correlation of the images {when}"
    return _WORDS.get(rest, rest.replace("_", " ") + " {when}").format(when=when)


UNCERTAIN_SHARE, UNRELIABLE_SHARE = 0.95, 0.995
"""Quantiles of the distances of training pairs from the CV folds that do not hold them, where the reliability changes."""

FARTHEST = 3.0
"""Times the usual distance, beyond which a pair is unlike anything, however far apart the training pairs lie."""

UNCERTAIN_WIDENING = 1.5
"""How much wider bands are where a prediction is uncertain."""

SHRINKAGE = 0.2
LEAST_OVERLAP = 0.6
MOST_ANISOTROPY = 6.0


@dataclass(frozen=True)
class OodDetector:
    """Mean and shrunk covariance of the training pairs' features, and where distances become unusual.

    Attributes
    ----------
    features : names.
    mean, sd : shape (F,).
    precision : inverse of the shrunk correlation matrix, shape (F, F).
    uncertain, unreliable : distances from which a prediction is called so.
    """

    features: tuple[str, ...]
    mean: np.ndarray
    sd: np.ndarray
    precision: np.ndarray
    uncertain: float
    unreliable: float

    def distance(self, features: np.ndarray) -> np.ndarray:
        """Return root mean square Mahalanobis distances of features (P, F), shape (P,); about 1 for a usual pair."""
        standard = np.nan_to_num((features - self.mean) / self.sd)
        return np.sqrt(np.einsum("pf,fg,pg->p", standard, self.precision, standard).clip(0) / len(self.features))

    @property
    def farthest(self) -> float:
        """Return the distance from which a pair is unlike anything: a few odd training pairs must not stretch what is known."""
        return min(self.unreliable, FARTHEST * self.uncertain)

    def surely_unlike(self, named: Mapping[str, float]) -> bool:
        """Tell whether a pair is unreliable by some of its features, whatever the others are.

        The Mahalanobis distance over some features never exceeds that over all.
        """
        seen = [n for n, name in enumerate(self.features) if np.isfinite(named.get(name, np.nan))]
        if not self.usable or not seen:
            return False
        standard = (named_row(named, tuple(self.features[n] for n in seen)) - self.mean[seen]) / self.sd[seen]
        covariance = np.linalg.inv(self.precision)[np.ix_(seen, seen)]
        squared = float(standard @ np.linalg.solve(covariance, standard))
        return bool(broken_rules(named)) or squared / len(self.features) >= self.farthest**2

    def reliability(self, named: Mapping[str, float], *, unlike_is_uncertain: bool = False) -> Reliability:
        """Judge a pair by its features; unreliable where these, or what they are compared with, are not numbers.

        Parameters
        ----------
        unlike_is_uncertain : whether a pair unlike all others is merely uncertain, because failure is measured otherwise.
        """
        row = named_row(named, self.features)
        rules = broken_rules(named)
        unknown = [name for name in self.features if not np.isfinite(named.get(name, 0.0))]
        if unknown:
            some = ", ".join(unknown[:3])
            message = f"The pair cannot be judged, because {len(unknown)} of its features cannot be measured ({some})."
            return Reliability("unreliable", (*rules, message))
        if not self.usable:
            message = "The pair cannot be judged, because the predictor's own limits are no usable numbers: install it again."
            return Reliability("unreliable", (*rules, message))
        distance = float(self.distance(row[None])[0])
        if distance < self.uncertain and not rules:
            return Reliability("reliable")
        if unlike_is_uncertain and distance < self.uncertain:
            return Reliability("uncertain", rules)
        standard = np.nan_to_num((row - self.mean) / self.sd)
        unusual = [feature_words(self.features[n], standard[n]) for n in np.argsort(-np.abs(standard))[:3]]
        usable = unlike_is_uncertain or (distance < self.farthest and not rules)
        level = "uncertain" if usable else "unreliable"
        judged = "unlike anything" if level == "unreliable" else "unlike most of what"
        numbers = f"distance {distance:.2f}, usual is below {self.uncertain:.2f}"
        message = f"The pair is {judged} the predictor was trained on ({numbers})."
        return Reliability(level, (*rules, message, *unusual))

    @property
    def usable(self) -> bool:
        """Tell whether mean, spread and limits are finite numbers that make sense, and the precision one of distances."""
        known = (self.mean, self.sd, self.precision, np.array([self.uncertain, self.unreliable]))
        if not all(bool(np.isfinite(part).all()) for part in known):
            return False
        distances = bool(np.allclose(self.precision, self.precision.T) and (np.linalg.eigvalsh(self.precision) > 0).all())
        return distances and bool((self.sd > 0).all()) and 0 < self.uncertain <= self.unreliable


def at_most(reliability: Reliability, doubts: Sequence[str] = (), refusals: Sequence[str] = ()) -> Reliability:
    """Return a reliability that is no better than what else is known of the pair, with the reasons for that first.

    Parameters
    ----------
    doubts, refusals : sentences, for which a prediction is uncertain at best, or unreliable.
    """
    level = "unreliable" if refusals else "uncertain" if doubts and reliability.level == "reliable" else reliability.level
    return Reliability(level, (*refusals, *doubts, *reliability.reasons))


def ood_of(features: np.ndarray, names: tuple[str, ...], cv_folds: np.ndarray) -> OodDetector:
    """Describe training pairs.

    Parameters
    ----------
    features : shape (P, F).
    cv_folds : CV fold of both subjects of each pair, shape (P, 2); thresholds come from distances to what the other ones show.
    """
    distances = []
    for fold in np.unique(cv_folds):
        inside, outside = (cv_folds == fold).all(axis=1), (cv_folds != fold).all(axis=1)
        if inside.any() and outside.any():
            distances.append(_fitted(features[outside], names).distance(features[inside]))
    known = np.concatenate(distances)
    whole = _fitted(features, names)
    uncertain, unreliable = np.quantile(known, (UNCERTAIN_SHARE, UNRELIABLE_SHARE)).tolist()
    return OodDetector(names, whole.mean, whole.sd, whole.precision, uncertain, unreliable)


def broken_rules(named: Mapping[str, float]) -> tuple[str, ...]:
    """Return sentences on what makes a prediction worthless whatever the distance."""
    found = []
    if not named.get("foreground_overlap", 1.0) >= LEAST_OVERLAP:
        found.append(f"After the affine step the two foregrounds overlap by {100 * named['foreground_overlap']:.0f} % only.")
    for side in ("fixed", "moving"):
        if not np.exp(named.get(f"{side}_log_anisotropy", 0.0)) <= MOST_ANISOTROPY:
            found.append(f"Slices of the {side} image are more than {MOST_ANISOTROPY:g} times as thick as pixels are wide.")
    return tuple(found)


def _fitted(features: np.ndarray, names: tuple[str, ...]) -> OodDetector:
    mean, sd = np.nanmean(features, axis=0), np.maximum(np.nanstd(features, axis=0), 1e-3)
    standard = np.nan_to_num((features - mean) / sd)
    correlation = standard.T @ standard / len(standard)
    shrunk = (1 - SHRINKAGE) * correlation + SHRINKAGE * np.eye(len(names))
    return OodDetector(names, mean, sd, np.linalg.inv(shrunk), np.inf, np.inf)
