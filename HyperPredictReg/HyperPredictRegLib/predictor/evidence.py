"""Evidence about one pair that needs no labels and no training: what the engine itself makes of it, coarsely, at a few settings.

Four kinds, which share their registrations: a parametric bootstrap (`known_truth`), agreement in blocks that were held out
(`quality.benefit`), consistency between neighboring settings and, at one of them, there and back, and folding. None assumes a
kind of anatomy. `docs/evidence.md` tells how far each leads when it is judged alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from HyperPredictRegLib.alignment.aligned_pair import AlignedPair
from HyperPredictRegLib.core.progress import CancelCheck, Progress, never, silent, stop_if
from HyperPredictRegLib.engines.base import Engine
from HyperPredictRegLib.predictor.coarse_pair import ALONG, CROSSED, CoarsePair, coarse_fields, coarse_settings
from HyperPredictRegLib.predictor.known_truth import KnownTruth, with_known_truth
from HyperPredictRegLib.predictor.trials import Steps
from HyperPredictRegLib.quality.benefit import Evidence, Undeformed
from HyperPredictRegLib.quality.likeness import likeness
from HyperPredictRegLib.quality.metrics import folding_percent, inverse_consistency, jacobian_determinant, sd_log_jacobian
from HyperPredictRegLib.spatial.transforms import field_transform

VERSION = "2"
"""Changes with the meaning of any number here; apart from that of `features`, so that older bundles stay valid."""

TRUTHS = (0, 2)
"""Which of `ALONG` the truths of the bootstrap are made with: two, because its pick leans toward the setting of its truth."""

RETURNED = 2
"""Which of `ALONG` is also registered back, with the images exchanged: how far there and back misses chooses no setting."""

LENGTHS = (
    "bootstrap_error", "bootstrap_error_95", "bootstrap_edge_error", "bootstrap_error_weak", "bootstrap_error_strong",
    "neighbor_distance", "displacement",
)  # fmt: skip
"""Curves in mm."""

_LEAST_VOXELS = 0.01
"""Of a length, before its logarithm is taken."""
_LEAST_FOLDING = 0.01
_LEAST_UNEXPLAINED = 1e-3
LITTLE_OVERLAP = 0.3
"""Dice of the foregrounds below which a sentence says so."""
IDENTICAL = 1e-4
"""Share of the fixed image's variance by which two images may differ that are called identical."""
THICK = 2.5
"""Ratio of the roughness along two axes above which an image's slices are called thick."""


@dataclass(frozen=True)
class PairEvidence:
    """What was found on a coarse grid.

    Attributes
    ----------
    values : the settings that were tried, shape (n, h); see `coarse_settings`.
    curves : one number per setting, shape (n,), by name. In mm: `bootstrap_error` (median over the foreground; mean of the two
        truths, which are `bootstrap_error_weak` and `_strong`), `bootstrap_error_95`, `bootstrap_edge_error` (across edges),
        `neighbor_distance`, `displacement` (median length). `held_out` is the normalized mutual information with blocks held
        out less that of the affine step, `held_out_share` the share of the blocks whose edges agree better, `information` the
        gain without holding out, `correlation` the squared correlation in small windows, `foreground_overlap` Dice of the
        foregrounds; `folding` percent of the foreground, `sd_log_jacobian`.
    numbers : by name. In mm: `bootstrap_nothing` (error of doing nothing, mean of the truths; `_weak`, `_strong`, `_edge`),
        `inverse_error` (there and back at the setting `RETURNED`), `spacing_mm` (of the coarse grid). `correlation`,
        `information`, `explained`, `foreground_overlap` are of the affine step. `shell` : how many voxels a compact body would
        be off for that overlap.
    remarks : sentences for the user.
    """

    values: np.ndarray
    curves: dict[str, np.ndarray]
    numbers: dict[str, float]
    remarks: tuple[str, ...] = ()


def pair_evidence(
    pair: AlignedPair,
    foreground: sitk.Image,
    moving_foreground: sitk.Image,
    engine: Engine,
    settings: Any,
    *,
    seed: int,
    progress: Progress = silent,
    cancelled: CancelCheck = never,
) -> PairEvidence:
    """Find the evidence about an aligned pair.

    Parameters
    ----------
    pair : on its working grid.
    foreground, moving_foreground : uint8 on that grid, the moving one aligned.
    engine, settings, seed : that are to register it.
    progress : is told after every trial registration, from 0 to 1; see `trials.Steps`.

    Raises
    ------
    InputError : a foreground is too small for the coarse grid, or the two do not overlap.
    RegistrationError : a registration diverged.
    Cancelled : the caller asked to stop.
    """
    coarse = CoarsePair.of(pair, foreground, moving_foreground)
    values = coarse_settings(engine.search_space(coarse.grid, settings))

    # There and of each truth, and back once; then the fields there are judged.
    steps = Steps((1 + len(TRUTHS)) * len(values) + 1, len(values), progress)

    def fields(of: CoarsePair, at: np.ndarray = values) -> list[sitk.Image]:
        return coarse_fields(of, engine, settings, at, seed=seed, done=steps.step, cancelled=cancelled)

    there, back = fields(coarse), fields(coarse.turned_round(), values[[RETURNED]])[0]
    truths = [with_known_truth(coarse, there[row]) for row in TRUTHS]
    tried = [_errors(truth, fields(truth.pair)) for truth in truths]
    start = Undeformed.of(coarse.fixed, coarse.moving, coarse.foreground, coarse.moving_foreground)
    found = []
    for field in there:
        stop_if(cancelled)
        found.append(start.evidence(field_transform(field)))
        steps.step()
    curves = {**_bootstrap_curves(tried), **_agreement_curves(found), **_field_curves(coarse, there)}
    returned = inverse_consistency(field_transform(there[RETURNED]), field_transform(back), coarse.foreground).mean
    numbers = {**_pair_numbers(coarse, pair, found[0]), **_truth_numbers(truths), "inverse_error": returned}
    return PairEvidence(values, curves, numbers, _remarks(coarse, numbers))


def as_features(found: PairEvidence) -> dict[str, float]:
    """Return evidence as flat features, in a fixed order; lengths as logarithms of voxels of its grid, but for `spacing_mm`.

    A curve's values are numbered as the settings are; beside them stands where some of them are best.
    """
    voxel = found.numbers["spacing_mm"]
    flat: dict[str, float] = {"log_spacing_mm": math.log(voxel)}
    for name, value in found.numbers.items():
        if name.startswith("bootstrap_nothing") or name == "inverse_error":
            flat[name] = _log_voxels(value / voxel)
        elif name in ("voxel_count", "foreground_voxels"):
            flat[name] = math.log(max(value, 1.0))
        elif name == "shell":
            flat[name] = log_shell(found.numbers)
        elif name != "spacing_mm":
            flat[name] = value
    for name, curve in found.curves.items():
        for row, value in enumerate(curve):
            if name in LENGTHS:
                flat[f"{name}_{row}"] = _log_voxels(value / voxel)
            elif name == "folding":
                flat[f"{name}_{row}"] = math.log(value + _LEAST_FOLDING)
            else:
                flat[f"{name}_{row}"] = float(value)
    flat["unexplained"] = log_unexplained(found.numbers)
    along = np.array([flat[f"bootstrap_error_{row}"] for row in range(len(ALONG))])
    flat["bootstrap_least"] = float(along.min())
    flat["bootstrap_best_share"] = ALONG[int(along.argmin())]
    flat["bootstrap_least_over_nothing"] = float(along.min()) - flat["bootstrap_nothing"]
    flat["bootstrap_first_over_nothing"] = float(along[0]) - flat["bootstrap_nothing"]
    flat["held_out_best_share"] = ALONG[int(np.argmax(found.curves["held_out"][: len(ALONG)]))]
    return flat


def log_shell(numbers: Mapping[str, float]) -> float:
    """Return the logarithm of the number `shell`."""
    return math.log(max(numbers["shell"], _LEAST_VOXELS))


def log_unexplained(numbers: Mapping[str, float]) -> float:
    """Return the logarithm of the share of the variance that neither image explains of the other after the affine step."""
    return math.log(max(1 - numbers["explained"], _LEAST_UNEXPLAINED))


def _log_voxels(voxels: float) -> float:
    return math.log(max(voxels, 0.0) + _LEAST_VOXELS)


def _errors(truth: KnownTruth, fields: Sequence[sitk.Image]) -> np.ndarray:
    """Return median and 95th percentile of the error of each field, and its mean across edges, shape (3, n), mm."""
    return np.array([[*np.percentile(truth.error_mm(field), (50, 95)), truth.edge_error_mm(field)] for field in fields]).T


def _bootstrap_curves(tried: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    middle = np.mean(tried, axis=0)
    weak, strong = tried[0][0], tried[-1][0]
    return {
        "bootstrap_error": middle[0],
        "bootstrap_error_95": middle[1],
        "bootstrap_edge_error": middle[2],
        "bootstrap_error_weak": weak,
        "bootstrap_error_strong": strong,
    }


def _truth_numbers(truths: Sequence[KnownTruth]) -> dict[str, float]:
    nothing = [float(np.median(truth.error_mm(None))) for truth in truths]
    return {
        "bootstrap_nothing": float(np.mean(nothing)),
        "bootstrap_nothing_weak": nothing[0],
        "bootstrap_nothing_strong": nothing[-1],
        "bootstrap_nothing_edge": float(np.mean([truth.edge_error_mm(None) for truth in truths])),
        "residual": truths[0].residual,
    }


def _agreement_curves(found: Sequence[Evidence]) -> dict[str, np.ndarray]:
    named: Mapping[str, list[float]] = {
        "held_out": [one.information_held_out - one.information_before for one in found],
        "held_out_share": [one.improved_share for one in found],
        "information": [one.information_after - one.information_before for one in found],
        "correlation": [one.correlation_after for one in found],
        "explained": [one.explained_after for one in found],
        "foreground_overlap": [one.foreground_after for one in found],
    }
    return {name: np.array(values) for name, values in named.items()}


def _field_curves(pair: CoarsePair, there: Sequence[sitk.Image]) -> dict[str, np.ndarray]:
    inside = pair.inside
    vectors = [sitk.GetArrayViewFromImage(field)[inside] for field in there]

    def apart(one: int, other: int) -> float:
        return float(np.linalg.norm(vectors[one] - vectors[other], axis=-1).mean())

    last = len(ALONG) - 1
    steps = [apart(row, row + 1) for row in range(last)]
    neighbors = [steps[0], *(0.5 * (a + b) for a, b in itertools.pairwise(steps)), steps[-1]]
    jacobians = [jacobian_determinant(field) for field in there]
    return {
        "neighbor_distance": np.array([*neighbors, *(apart(row, CROSSED) for row in range(last + 1, len(there)))]),
        "displacement": np.array([float(np.median(np.linalg.norm(one, axis=-1))) for one in vectors]),
        "folding": np.array([folding_percent(one, pair.foreground).foreground for one in jacobians]),
        "sd_log_jacobian": np.array([sd_log_jacobian(one, pair.foreground) for one in jacobians]),
    }


def _pair_numbers(coarse: CoarsePair, pair: AlignedPair, start: Evidence) -> dict[str, float]:
    fixed, moving = (sitk.GetArrayViewFromImage(image) for image in (coarse.fixed, coarse.moving))
    inside, other = coarse.inside, coarse.turned_round().inside
    like = likeness(fixed, moving, inside & other)
    variance = float(fixed[inside].var())
    return {
        "spacing_mm": coarse.grid.spacing[0],
        "coarsening": coarse.grid.spacing[0] / pair.grid.spacing[0],
        "voxel_count": float(pair.grid.voxel_count),
        "foreground_voxels": float(inside.sum()),
        "foreground_overlap": start.foreground_before,
        # Off by t voxels, a compact body leaves a share of about t over its length of itself uncovered.
        "shell": (1 - start.foreground_before) * float(np.cbrt(inside.sum())),
        "volume_ratio": float(np.log(other.sum() / inside.sum())),
        "information": start.information_before,
        "correlation": start.correlation_before,
        "explained": start.explained_before,
        "likeness": like.explained,
        "reversed": like.reversed,
        "opposed": like.opposed,
        "structure": min(like.structure),
        "blocks": float(np.log(max(start.blocks, 1))),
        "difference": float(((fixed - moving)[inside] ** 2).mean()) / variance if variance > 0 else 0.0,
        "anisotropy": max(_anisotropy(fixed, inside), _anisotropy(moving, other)),
        "noise": max(_noise(fixed, inside), _noise(moving, other)),
    }


def _anisotropy(image: np.ndarray, inside: np.ndarray) -> float:
    """Return by how much an image is rougher along one axis than along another, a ratio from 1: thick slices are smooth."""
    rough = [float(np.abs(np.diff(image, 2, axis))[_inner(inside, axis)].mean()) + 1e-6 for axis in range(3)]
    return max(rough) / min(rough)


def _inner(inside: np.ndarray, axis: int) -> np.ndarray:
    """Return where the second differences along an axis belong to the anatomy; everywhere if that is nowhere."""
    one = tuple(slice(1, -1) if k == axis else slice(None) for k in range(3))
    return inside[one] if inside[one].any() else np.ones_like(inside[one])


def _noise(image: np.ndarray, inside: np.ndarray) -> float:
    """Return the standard deviation that a Gaussian of one voxel takes away, over that of the image, inside the anatomy."""
    spread = float(image[inside].std())
    return float((image - ndimage.gaussian_filter(image, 1.0))[inside].std()) / spread if spread > 0 else 0.0


def _remarks(coarse: CoarsePair, numbers: Mapping[str, float]) -> tuple[str, ...]:
    found = []
    if numbers["difference"] < IDENTICAL:
        found.append("The two images are the same once they are aligned: there is nothing to gain by deforming.")
    if numbers["foreground_overlap"] < LITTLE_OVERLAP:
        found.append(
            f"After the alignment the foregrounds overlap with a Dice of {numbers['foreground_overlap']:.2f} only: check the "
            "alignment first."
        )
    if numbers["anisotropy"] > THICK:
        found.append(
            "At least one image is far smoother along one axis than along another, as thick slices are: an error in mm along "
            "that axis is known to about the distance between its slices only."
        )
    return tuple(found)
