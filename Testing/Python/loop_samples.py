"""A rough pair with folded voxels at low λ, and small predictors that are right or wrong about it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from conftest import FAST, FIXED_GRID, MOVING_GRID, blob_image, blob_labels
from predictor_samples import QUICK, planted_examples
from scipy import ndimage

from HyperPredictRegLab.training.building import Description, build


def write_rough_pair(folder: Path) -> Path:
    """Write two organs of different texture. Demons fold about 5 % of the foreground at λ = 0.4, 0.3 % at 0.5, none at 0.7."""
    folder.mkdir(parents=True, exist_ok=True)
    sides = (("fixed", blob_image(FIXED_GRID)), ("moving", blob_image(MOVING_GRID, shift_mm=(4.0, -3.0, 2.0), deform=0.4)))
    for seed, (name, image) in enumerate(sides, 1):
        voxels = sitk.GetArrayFromImage(image)
        texture = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=voxels.shape), 1.0)
        rough = sitk.GetImageFromArray((voxels * (1 + 0.25 * texture / texture.std())).astype(np.float32))
        rough.CopyInformation(image)
        sitk.WriteImage(sitk.Cast(rough * 5, sitk.sitkInt16), str(folder / f"{name}.nrrd"))
        sitk.WriteImage(blob_labels(image), str(folder / f"{name}-labels.nrrd"))
    return folder


def write_bundle(
    folder: Path, best: float = 0.45, knows_the_pair: bool = True, alignment: dict[str, Any] = FAST
) -> Path:
    """Train a bundle that predicts the highest Dice at `best` and next to no folding anywhere; about two seconds.

    Its pairs overlap as the rough pair does, or, unless it knows the pair, all by exactly half.
    """
    planted = planted_examples(pairs=80, subjects=20)
    random = np.random.default_rng(5)
    values = np.tile(np.geomspace(0.4, 4.5, 6), (80, 1))
    overlap = random.normal(0.9, 0.1, 80) if knows_the_pair else np.full(80, 0.5)
    dice = 0.8 - 0.1 * np.log(values / best) ** 2 + random.normal(scale=0.004, size=values.shape)
    folding = 0.02 * (0.4 / values) ** 6 * np.exp(random.normal(scale=0.2, size=values.shape))
    examples = replace(
        planted,
        features=np.column_stack([planted.features[:, :2], overlap]),
        values=values,
        dice=np.clip(np.stack([dice, dice - 0.05], axis=1), 0.01, 0.99),
        folding_foreground=folding,
        folding_grid=folding / 3,
        sd_log_jacobian=0.3 / values,
        hd95=np.full_like(values, 3.0),
        alignment=alignment,
    )
    build(examples, folder, Description(name="hopeful", licence="none"), QUICK)
    return folder
