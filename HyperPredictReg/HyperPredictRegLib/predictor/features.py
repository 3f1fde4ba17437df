"""What a predictor sees of an aligned pair: numbers that hold for any size, spacing, contrast and orientation."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from HyperPredictRegLib.alignment.aligned_pair import AlignedPair
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.progress import CancelCheck, never
from HyperPredictRegLib.engines.base import Engine
from HyperPredictRegLib.predictor.probes import HalfPair, Probe, probe_settings, run_probes
from HyperPredictRegLib.predictor.tokens import structure_tokens
from HyperPredictRegLib.preprocessing.image_set import Inputs
from HyperPredictRegLib.quality.measurement import nearest
from HyperPredictRegLib.quality.metrics import mutual_information
from HyperPredictRegLib.spatial.transforms import linear_matrix

VERSION = "2"
"""Changes with the meaning of any feature or token; a bundle is bound to it."""

LEAST_FOREGROUND_VOXELS = 500
"""At half resolution; with fewer there is nothing to take statistics of."""


@dataclass(frozen=True)
class PairFeatures:
    """Everything a predictor needs to know of one pair.

    Attributes
    ----------
    pair : features of the pair by name.
    tokens : features of each structure of the moving segmentation, by label value, then by name; empty without one.
    """

    pair: dict[str, float]
    tokens: dict[int, dict[str, float]]


@dataclass(frozen=True)
class Described:
    """What a pair shows before anything is registered.

    Attributes
    ----------
    features : by name, a part of those of `PairFeatures.pair`.
    pair : on its working grid.
    half : the same at half resolution.
    foreground : of the fixed image on the pair's grid, uint8.
    labels : of the moving image there, or None.
    """

    features: dict[str, float]
    pair: AlignedPair
    half: HalfPair
    foreground: sitk.Image
    labels: sitk.Image | None


def described(inputs: Inputs, pair: AlignedPair, alignment: sitk.Transform, drawn: sitk.Transform | None = None) -> Described:
    """Describe a pair after the affine step as far as that needs no trial registrations.

    Labels of the fixed image are never looked at.

    Parameters
    ----------
    inputs, pair : the images, as read and on the working grid.
    alignment : fixed to moving points, LPS mm.
    drawn : by what the pair's moving image was sampled, if that is more than the alignment; see `AlignedPair.of`.

    Raises
    ------
    InputError : the foreground is too small to describe.
    """
    through = alignment if drawn is None else drawn
    fixed_foreground, moving_foreground = _foregrounds(inputs, pair, through)
    half = HalfPair.of(pair, fixed_foreground)
    if half.foreground.sum() < LEAST_FOREGROUND_VOXELS:
        raise InputError(
            f"The foreground of the fixed image has {int(half.foreground.sum())} voxels at half resolution, which is too small "
            f"to predict from ({LEAST_FOREGROUND_VOXELS} are needed): choose a finer preset, or give the setting yourself."
        )
    named = {
        **_geometry(inputs, pair, alignment, fixed_foreground, moving_foreground),
        **_image("fixed", pair.fixed, fixed_foreground),
        **_image("moving", pair.moving, moving_foreground),
        **_agreement("start", half, sitk.GetArrayViewFromImage(half.moving)),
    }
    labels = inputs.moving.labels
    moved = None if labels is None else nearest(labels, pair.grid, through)
    return Described({name: float(value) for name, value in named.items()}, pair, half, fixed_foreground, moved)


def pair_features(
    inputs: Inputs,
    pair: AlignedPair,
    alignment: sitk.Transform,
    engine: Engine,
    settings: Any,
    *,
    seed: int,
    cancelled: CancelCheck = never,
) -> PairFeatures:
    """Describe a pair after the affine step, see `described` and `probed`."""
    return probed(described(inputs, pair, alignment), engine, settings, seed=seed, cancelled=cancelled)


def probed(known: Described, engine: Engine, settings: Any, *, seed: int, cancelled: CancelCheck = never) -> PairFeatures:
    """Add to a pair's description what trial registrations show.

    Parameters
    ----------
    engine, settings, seed : for the trials.

    Raises
    ------
    RegistrationError : one of them diverged.
    Cancelled : the caller asked to stop.
    """
    half = known.half
    tried = probe_settings(engine.search_space(half.grid, settings))
    probes = run_probes(engine, settings, half, tried, seed=seed, cancelled=cancelled)
    shown = {name: float(value) for name, value in _probe_features(half, probes).items()}
    tokens: dict[int, dict[str, float]] = {}
    if known.labels is not None:
        tokens = structure_tokens(known.labels, known.pair, known.foreground, half, probes)
    return PairFeatures(known.features | shown, tokens)


def geometry(
    inputs: Inputs, pair: AlignedPair, alignment: sitk.Transform, drawn: sitk.Transform | None = None
) -> dict[str, float]:
    """Return the features that tell where a pair lies and how it is sampled; parameters are those of `described`."""
    masks = _foregrounds(inputs, pair, alignment if drawn is None else drawn)
    if not sitk.GetArrayViewFromImage(masks[0]).any():
        return {"log_voxel_mm": float(np.log(pair.grid.spacing[0]))}
    return {name: float(value) for name, value in _geometry(inputs, pair, alignment, *masks).items()}


def _foregrounds(inputs: Inputs, pair: AlignedPair, through: sitk.Transform) -> tuple[sitk.Image, sitk.Image]:
    return nearest(inputs.fixed.foreground, pair.grid), nearest(inputs.moving.foreground, pair.grid, through)


def _geometry(
    inputs: Inputs, pair: AlignedPair, alignment: sitk.Transform, fixed: sitk.Image, moving: sitk.Image
) -> Mapping[str, float]:
    one, other = (sitk.GetArrayViewFromImage(mask) != 0 for mask in (fixed, moving))
    scales = np.sort(np.linalg.svd(linear_matrix(alignment)[:3, :3], compute_uv=False))
    found = {
        "log_voxel_mm": np.log(pair.grid.spacing[0]),
        "log_fixed_volume": np.log(one.mean() * np.prod(pair.grid.extent_mm)),
        "log_volume_ratio": np.log(max(other.sum(), 1) / one.sum()),
        "foreground_share": one.mean(),
        "foreground_overlap": 2 * (one & other).sum() / (one.sum() + other.sum()),
        "log_affine_scale": np.log(scales).mean(),
        "log_affine_stretch": np.log(scales[-1] / scales[0]),
    }
    for name, side in (("fixed", inputs.fixed), ("moving", inputs.moving)):
        spacing = np.sort(side.image.GetSpacing())
        found[f"{name}_log_spacing_voxels"] = np.log(spacing.mean() / pair.grid.spacing[0])
        found[f"{name}_log_anisotropy"] = np.log(spacing[-1] / spacing[0])
    return found


def _image(name: str, image: sitk.Image, mask: sitk.Image) -> Mapping[str, float]:
    """Describe one image on the working grid: grey values, noise, sharpness, bias."""
    voxels = sitk.GetArrayViewFromImage(image)
    inside = sitk.GetArrayViewFromImage(mask) != 0
    values = voxels[inside]
    if values.size == 0:
        values, inside = voxels.ravel(), np.ones_like(inside)
    rough = (voxels - ndimage.uniform_filter(voxels, 3))[inside]
    smooth = sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(image, 6 * image.GetSpacing()[0]))
    weight = ndimage.gaussian_filter(inside[::3, ::3, ::3].astype(np.float32), 2.0)
    bias = smooth[::3, ::3, ::3][inside[::3, ::3, ::3]] / np.maximum(weight[inside[::3, ::3, ::3]], 0.2)
    spread = values.std()
    counts = np.histogram(values, bins=32, range=(0, 1.2))[0] / values.size
    quantiles = np.percentile(values, (5, 25, 50, 75, 95))
    return {
        **{f"{name}_p{p}": q for p, q in zip((5, 25, 50, 75, 95), quantiles, strict=True)},
        f"{name}_spread": spread,
        f"{name}_entropy": -(counts[counts > 0] * np.log(counts[counts > 0])).sum(),
        f"{name}_roughness": np.log(np.median(np.abs(rough)) + 1e-4),
        f"{name}_roughness_tail": np.log(np.percentile(np.abs(rough), 95) + 1e-4),
        f"{name}_bias": bias.std() / max(spread, 1e-6),
    }


def _agreement(name: str, half: HalfPair, moving: np.ndarray) -> dict[str, float]:
    """Compare the fixed image with another one at half resolution, as a whole and locally."""
    fixed, inside = sitk.GetArrayViewFromImage(half.fixed), half.foreground
    found = {
        f"{name}_correlation": np.corrcoef(fixed[inside], moving[inside])[0, 1] if moving[inside].std() > 0 else 0.0,
        f"{name}_difference": np.abs(fixed - moving)[inside].mean(),
    }
    for sigma in (1.0, 2.0):
        local = local_correlation(fixed, moving, sigma)[inside]
        found[f"{name}_local{sigma:g}"] = local.mean()
        for p in (10, 50):
            found[f"{name}_local{sigma:g}_p{p}"] = np.percentile(local, p)
    gradients = [np.stack(np.gradient(image)) for image in (fixed, moving)]
    lengths = [np.sqrt((g**2).sum(axis=0)) for g in gradients]
    strong = inside & (lengths[0] > np.median(lengths[0][inside]))
    cosine = (gradients[0] * gradients[1]).sum(axis=0) / (lengths[0] * lengths[1] + 1e-6)
    found[f"{name}_edges"] = cosine[strong].mean()
    found[f"{name}_edges_squared"] = (cosine[strong] ** 2).mean()
    return found


def _probe_features(half: HalfPair, probes: Sequence[Probe]) -> dict[str, float]:
    inside = half.foreground
    found: dict[str, float] = {}
    for number, probe in enumerate(probes):
        name = f"probe{number}"
        determinants = probe.jacobian[inside]
        logs = np.log(np.clip(determinants, 1e-3, 1e3))
        lengths = np.linalg.norm(probe.displacement[inside], axis=1)
        found |= {
            f"{name}_folding": np.log(100 * (determinants <= 0).mean() + 1e-2),
            f"{name}_folding_grid": np.log(100 * (probe.jacobian <= 0).mean() + 1e-2),
            f"{name}_near_folding": np.log(100 * (determinants <= 0.25).mean() + 1e-2),
            f"{name}_roughness": np.log(logs.std() + 1e-3),
            f"{name}_compression": np.percentile(logs, 1),
            f"{name}_expansion": np.percentile(logs, 99),
            f"{name}_shift": np.log(lengths.mean() + 1e-2),
            f"{name}_shift_tail": np.log(np.percentile(lengths, 95) + 1e-2),
            **_agreement(name, half, probe.warped),
        }
    warped = sitk.GetImageFromArray(probes[1].warped)
    warped.CopyInformation(half.fixed)
    mask = half.grid.apply_to(sitk.GetImageFromArray(inside.astype(np.uint8)))
    found["start_information"] = mutual_information(half.fixed, half.moving, mask, bins=32)
    found["probe1_information"] = mutual_information(half.fixed, warped, mask, bins=32)
    for number, (one, other) in enumerate(itertools.pairwise(probes)):
        apart = np.linalg.norm(one.displacement[inside] - other.displacement[inside], axis=1)
        found[f"probe{number}_to_next"] = np.log(apart.mean() + 1e-2)
    return found


def local_correlation(one: np.ndarray, other: np.ndarray, sigma: float) -> np.ndarray:
    """Return the correlation of two images inside a Gaussian window around each voxel, shape as given, about -1 to 1.

    A small constant keeps flat regions at 0 instead of noise. Source: Cachier et al., CVIU 89 (2003) 272.

    Parameters
    ----------
    one, other : arrays of one shape, intensities about 0 to 1.
    sigma : standard deviation of the window in voxels.
    """

    def smooth(image: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(image, sigma, truncate=2.5)

    mean_one, mean_other = smooth(one), smooth(other)
    covariance = smooth(one * other) - mean_one * mean_other
    variances = [np.clip(smooth(a * a) - m * m, 0, None) for a, m in ((one, mean_one), (other, mean_other))]
    return covariance / np.sqrt((variances[0] + 1e-4) * (variances[1] + 1e-4))
