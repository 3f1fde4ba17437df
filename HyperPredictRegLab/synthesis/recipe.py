"""What chance decides about a synthetic pair: contrasts, anatomy, artefacts and pose, drawn from a seed before any voxel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

DEFAULT_MIX: Mapping[str, float] = {
    "usual": 0.35,
    "relative": 0.27,
    "contrast": 0.1,
    "cross": 0.06,
    "noisy": 0.07,
    "rescan": 0.06,
    "atrophy": 0.06,
    "thick": 0.03,
}
"""Kinds of pairs and how often each is drawn (weights, normalised when used)."""

T1 = {
    "air": 0.0, "white": 0.90, "cortex": 0.54, "csf": 0.20, "cerebellar_white": 0.90, "cerebellar_cortex": 0.58,
    "thalamus": 0.75, "caudate": 0.63, "putamen": 0.71, "pallidum": 0.85, "brain_stem": 0.78, "hippocampus": 0.58,
    "amygdala": 0.58, "accumbens": 0.61, "ventral_dc": 0.81, "choroid": 0.42, "vessel": 0.40, "lesion": 0.68, "chiasm": 0.70,
    "muscle": 0.38, "skin": 0.72, "bone": 0.10, "marrow": 0.65, "eye": 0.25, "mucosa": 0.45,
}  # fmt: skip
"""Means of tissues in T1-weighted MR, 1 = 99.5th percentile of the brain; as in OASIS-1 scans of young adults."""

T2 = {
    "air": 0.0, "white": 0.36, "cortex": 0.56, "csf": 1.0, "cerebellar_white": 0.38, "cerebellar_cortex": 0.55,
    "thalamus": 0.45, "caudate": 0.52, "putamen": 0.48, "pallidum": 0.30, "brain_stem": 0.41, "hippocampus": 0.59,
    "amygdala": 0.58, "accumbens": 0.54, "ventral_dc": 0.39, "choroid": 0.80, "vessel": 0.15, "lesion": 0.72, "chiasm": 0.45,
    "muscle": 0.25, "skin": 0.50, "bone": 0.06, "marrow": 0.45, "eye": 0.95, "mucosa": 0.75,
}  # fmt: skip
"""Means of tissues in T2-weighted MR, 1 = fluid."""

TISSUES = tuple(T1)
"""Names of the tissues, in the order in which `Recipe.means` lists them; air first."""


@dataclass(frozen=True)
class Recipe:
    """All that chance decided about one image.

    Attributes
    ----------
    contrast : "t1", "t2" or "random".
    means : intensity of each of `TISSUES`; 1 is about the brightest.
    whole_head : True keeps skull, skin and air; False is skull-stripped with exactly 0 outside.
    strip_margin_mm : how far beyond brain tissue the fluid of a skull-stripped image reaches.
    strip_smoothness_mm : scale below which a skull-stripped outline spans sulci instead of following them.
    strip_leaves_other_tissue : True keeps bone and dura within that margin, as careless skull-stripping does.
    anatomy_seed : of the virtual anatomy's deformation; two images of one anatomy share it.
    image_seed : of all else that fills voxels: texture, noise, bias field, boundary jitter.
    warp_mm, warp_length_mm : standard deviation per axis and correlation length of the virtual anatomy's deformation.
    scales : of the virtual anatomy against the map, along (x, y, z).
    cortex_growth_mm : how far cortex is thickened into the fluid of the sulci: the maps show more old people than young ones.
    label_growth_mm : how far beyond that labels of cortex reach into fluid, as in atlases that leave sulcal fluid unlabelled
        only where it is wide; one protocol for both images.
    position_warp_mm : standard deviation per axis of a further deformation of this image alone (between rescans; else 0).
    ventricle_growth_mm : largest outward shift around the lateral ventricles (atrophy; else 0).
    jitter_mm, jitter_length_mm : standard deviation per axis and correlation length of the shift of image edges against labels.
    texture, texture_length_mm : standard deviation and correlation length of slow variations within tissue.
    grain : standard deviation of voxel-wise variations within tissue, before the blur.
    blur_mm : standard deviation of the point spread, which makes the partial volumes.
    bias, bias_length_mm : half range of the bias field's logarithm, about its share of the intensity, and its correlation length.
    noise : standard deviation of the receiver's noise, as a share of white matter's mean.
    gamma : exponent applied to the intensities at the end.
    slice_axis, slice_mm : axis (0 x, 1 y, 2 z) and thickness of the slices, in whole mm; 1 is isotropic.
    rotation_degrees : length 3; rotation vector of the header's direction, LPS.
    translation_mm : length 3; where the image's center lies, LPS.
    """

    contrast: str
    means: tuple[float, ...]
    whole_head: bool
    strip_margin_mm: float
    strip_smoothness_mm: float
    strip_leaves_other_tissue: bool
    anatomy_seed: int
    image_seed: int
    warp_mm: float
    warp_length_mm: float
    scales: tuple[float, float, float]
    cortex_growth_mm: float
    label_growth_mm: float
    position_warp_mm: float
    ventricle_growth_mm: float
    jitter_mm: float
    jitter_length_mm: float
    texture: float
    texture_length_mm: float
    grain: float
    blur_mm: float
    bias: float
    bias_length_mm: float
    noise: float
    gamma: float
    slice_axis: int
    slice_mm: int
    rotation_degrees: tuple[float, float, float]
    translation_mm: tuple[float, float, float]


def draw_recipe(kind: str, rng: np.random.Generator) -> tuple[Recipe, Recipe]:
    """Draw the recipes of the fixed and the moving image of one pair.

    Parameters
    ----------
    kind : one of `DEFAULT_MIX`: "usual" T1-like; "contrast" any contrast, the same in both; "cross" two contrasts; "noisy";
        "relative" one map twice, warped to two anatomies whose folds of cortex correspond, as they hardly do between the
        maps' older people; "rescan" one anatomy twice; "atrophy" one of the two has larger ventricles; "thick" slices of 2
        to 5 mm.
    rng : the only source of chance.
    """
    contrasts = _contrasts(kind, rng)
    means = [_means(contrast, rng) for contrast in contrasts]
    if contrasts[0] == contrasts[1]:
        means[1] = means[0]
    whole_head = bool(rng.random() < 0.15)
    label_growth = round(float(max(0.0, rng.uniform(-0.5, 1.2))), 3)
    anatomies = [_anatomy(rng, kind), _anatomy(rng, kind)]
    if kind == "relative":
        anatomies[1]["cortex_growth_mm"] = anatomies[0]["cortex_growth_mm"]
    if kind == "rescan":
        anatomies[1] = anatomies[0]
    atrophied = int(rng.integers(2)) if kind == "atrophy" else -1
    thick = int(rng.integers(3)) if kind == "thick" else -1  # fixed, moving or both
    recipes = []
    for n in range(2):
        growth = float(rng.uniform(2, 8)) if n == atrophied else 0.0
        appearance = _appearance(kind, rng, always_thick=thick in (n, 2))
        recipes.append(
            Recipe(
                contrast=contrasts[n],
                means=tuple(_rounded(np.clip(means[n] + rng.normal(0, 0.012, len(TISSUES)) * (means[n] > 0), 0, 1.1))),
                whole_head=whole_head,
                label_growth_mm=label_growth,
                ventricle_growth_mm=round(growth, 3),
                position_warp_mm=round(float(rng.uniform(0, 0.6)), 3) if kind == "rescan" else 0.0,
                rotation_degrees=_rotation(rng) if n else (0.0, 0.0, 0.0),
                translation_mm=_triple(rng.uniform(-20, 20, 3)) if n else (0.0, 0.0, 0.0),
                **anatomies[n],
                **appearance,
            )
        )
    return recipes[0], recipes[1]


def _contrasts(kind: str, rng: np.random.Generator) -> tuple[str, str]:
    if kind == "contrast":
        one = "t2" if rng.random() < 0.4 else "random"
        return one, one
    if kind == "cross":
        choices = (("t1", "t2"), ("t2", "t1"), ("t1", "random"), ("random", "t1"), ("t2", "random"))
        return choices[int(rng.choice(5, p=(0.3, 0.3, 0.15, 0.15, 0.1)))]
    if kind not in ("usual", "relative") and rng.random() < 0.2:
        return "t2", "t2"
    return "t1", "t1"


def _means(contrast: str, rng: np.random.Generator) -> np.ndarray:
    """Return means of `TISSUES` for one pair; every pair is scanned a little differently."""
    if contrast != "random":
        table = np.array(list((T1 if contrast == "t1" else T2).values()))
        # All but the darkest and brightest move together: a sequence with more or less contrast between gray and white.
        stretched = table ** rng.uniform(0.85, 1.2)
        drawn = np.where(table > 0, np.clip(stretched + rng.normal(0, 0.025, len(table)), 0.03, 1.05), 0)
        drawn[TISSUES.index("cerebellar_white")] = drawn[TISSUES.index("white")] + rng.normal(0, 0.01)
        return drawn
    means = rng.uniform(0.12, 1, len(TISSUES))
    white, cortex, fluid = (TISSUES.index(name) for name in ("white", "cortex", "csf"))
    while min(abs(means[white] - means[cortex]), abs(means[cortex] - means[fluid])) < 0.12:
        means = rng.uniform(0.12, 1, len(TISSUES))
    for name, like in (("cerebellar_white", white), ("cerebellar_cortex", cortex)):
        means[TISSUES.index(name)] = np.clip(means[like] + rng.normal(0, 0.05), 0.05, 1)
    if rng.random() < 0.5:
        for name in ("thalamus", "caudate", "putamen", "pallidum", "brain_stem", "hippocampus", "amygdala", "accumbens"):
            share = rng.uniform(-0.1, 1.1)
            means[TISSUES.index(name)] = np.clip(means[cortex] + share * (means[white] - means[cortex]), 0.05, 1)
    means[0] = 0
    return means


def _anatomy(rng: np.random.Generator, kind: str) -> dict[str, Any]:
    relative = kind == "relative"
    return {
        "anatomy_seed": _seed(rng),
        "warp_mm": round(float(rng.uniform(0.6, 2.5) if relative else rng.uniform(0, 1.5)), 3),
        "warp_length_mm": round(float(rng.uniform(10, 25) if relative else rng.uniform(15, 30)), 2),
        "scales": _triple(rng.uniform(0.95, 1.05, 3)),
        "cortex_growth_mm": round(float(max(0.0, rng.uniform(-0.2, 0.7))), 3),
    }


def _appearance(kind: str, rng: np.random.Generator, always_thick: bool) -> dict[str, Any]:
    low, high = {"noisy": (0.08, 0.15), "usual": (0.005, 0.05), "relative": (0.005, 0.05)}.get(kind, (0.005, 0.06))
    artefact = rng.random()
    thick = always_thick or (kind != "thick" and artefact < 0.07)
    soft = 0.07 <= artefact < 0.15
    jitter_length = rng.uniform(4, 8)
    return {
        "strip_margin_mm": round(float(rng.uniform(0.8, 2.6)), 3),
        "strip_smoothness_mm": round(float(rng.uniform(2, 4.5)), 3),
        "strip_leaves_other_tissue": bool(rng.random() < 0.2),
        "image_seed": _seed(rng),
        "jitter_mm": round(float(rng.uniform(0.1, 0.5)), 3),
        "jitter_length_mm": round(float(jitter_length), 2),
        "texture": round(float(rng.uniform(0.01, 0.035)), 4),
        "texture_length_mm": round(float(rng.uniform(4, 12)), 2),
        "grain": round(float(rng.uniform(0.02, 0.08)), 4),
        "blur_mm": round(float(rng.uniform(1.0, 1.6) if soft else rng.uniform(0.5, 1.0)), 3),
        "bias": round(float(rng.uniform(0, 0.4) * rng.uniform(0.3, 1)), 4),
        "bias_length_mm": round(float(rng.uniform(50, 120)), 1),
        "noise": round(float(rng.uniform(low, high)), 4),
        "gamma": round(float(np.exp(rng.uniform(-0.2, 0.2))), 4),
        "slice_axis": int(rng.integers(3)),
        "slice_mm": int(rng.integers(2, 6)) if thick else 1,
    }


def _rotation(rng: np.random.Generator) -> tuple[float, float, float]:
    axis = rng.normal(size=3)
    return _triple(rng.uniform(0, 15) * axis / np.linalg.norm(axis))


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = _rounded(values)
    return x, y, z
