"""Training of what a network tells beyond folding and Dice: it starts from the pair's own bootstrap, and learns how that errs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from HyperPredictRegLib.predictor.network import Ensemble, OutlookCoefficients
from HyperPredictRegLib.predictor.splines import tensor_basis

from HyperPredictRegLab.training.outcomes import Outcomes

LEAST_VOXELS = 0.02
"""Errors below this are as good as none; their logarithm would be noise."""

LEAST_ERROR = 0.05
"""Added to errors where their scales are learned, so that none shrinks for ever."""

ALONG = (0.0, 0.18, 0.36, 0.55, 0.77, 1.0)
ACROSS = (0.05, 0.75)
CROSSED = 1


@dataclass(frozen=True)
class OutlookTargets:
    """Of P pairs with N settings as tensors; weights are 0 where nothing was observed.

    Attributes
    ----------
    features : standardised, as the network sees them: set by `start_from_evidence`'s caller.
    curves, weight : `OUTLOOK_CURVES`, shape (P, 3, N).
    affine_error, affine_weight : logarithm of voxels, shape (P,).
    chances, chance_weight : `CHANCES`, 0 or 1, shape (P, 2).
    """

    curves: torch.Tensor
    weight: torch.Tensor
    affine_error: torch.Tensor
    affine_weight: torch.Tensor
    chances: torch.Tensor
    chance_weight: torch.Tensor


def outlook_targets(outcomes: Outcomes, mean_dice: np.ndarray) -> OutlookTargets:
    """Arrange outcomes as targets; `mean_dice` (P, N) tells the gain."""
    lengths = [np.log(np.maximum(part, LEAST_VOXELS)) for part in (outcomes.error, outcomes.error_95, outcomes.affine_error)]
    curves = np.stack([*lengths[:2], outcomes.gain(mean_dice)], axis=1)
    chances = np.stack([outcomes.failed, outcomes.helps(mean_dice)], axis=1)
    found = []
    for part in (curves, lengths[2], chances):
        found += [np.nan_to_num(part), ~np.isnan(part)]
    return OutlookTargets(*(torch.as_tensor(part, dtype=torch.float32) for part in found))
