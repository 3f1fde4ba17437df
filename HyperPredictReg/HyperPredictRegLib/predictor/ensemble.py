"""A trained ensemble with what it needs to read features: standardisation, knots, structures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from HyperPredictRegLib.predictor.basis import basis_at
from HyperPredictRegLib.predictor.network import Coefficients, CurveNetwork

CLIP = 3.0
"""Standardised features are cut here, in standard deviations: beyond lies where nothing was learned."""


@dataclass(frozen=True)
class Reading:
    """How features become inputs; all arrays have one row per member of the ensemble.

    Attributes
    ----------
    features, tokens : names, in the order of the arrays.
    feature_mean, feature_sd : shape (m, F).
    token_mean, token_sd : shape (m, T).
    """

    features: tuple[str, ...]
    tokens: tuple[str, ...]
    feature_mean: np.ndarray
    feature_sd: np.ndarray
    token_mean: np.ndarray
    token_sd: np.ndarray

    def pairs(self, features: np.ndarray) -> torch.Tensor:
        """Standardise features (P, F) for every member: (m, P, F); what is missing takes the mean."""
        standard = (features[None] - self.feature_mean[:, None]) / self.feature_sd[:, None]
        return torch.as_tensor(np.clip(np.nan_to_num(standard), -CLIP, CLIP), dtype=torch.float32)

    def structures(self, tokens: np.ndarray) -> torch.Tensor:
        """Standardise tokens (P, S, T): (m, P, S, T + 1); the last number says whether there was a token."""
        present = ~np.isnan(tokens).all(axis=-1, keepdims=True)
        standard = (tokens[None] - self.token_mean[:, None, None]) / self.token_sd[:, None, None]
        standard = np.clip(np.nan_to_num(standard), -CLIP, CLIP)
        flags = np.broadcast_to(present[None].astype(float), (*standard.shape[:-1], 1))
        return torch.as_tensor(np.concatenate([standard, flags], axis=-1), dtype=torch.float32)


@dataclass(frozen=True)
class Foreseen:
    """Uncalibrated predictions of P pairs; error scales are of the numbers as given here.

    Attributes
    ----------
    dice_logit, dice_scale : shape (P, S, n).
    mean_dice, mean_scale : shape (P, n).
    curves, curves_scale : logarithms of `PAIR_CURVES`, shape (P, 3, n).
    """

    dice_logit: np.ndarray
    dice_scale: np.ndarray
    mean_dice: np.ndarray
    mean_scale: np.ndarray
    curves: np.ndarray
    curves_scale: np.ndarray


@dataclass(frozen=True)
class Ensemble:
    """Networks that were trained together.

    Attributes
    ----------
    network : all members.
    reading : how features become inputs.
    knots : of log λ.
    labels : the known structures' label values; structure number n + 1 is ``labels[n]``.
    """

    network: CurveNetwork
    reading: Reading
    knots: tuple[float, ...]
    labels: tuple[int, ...]

    def coefficients(self, features: np.ndarray, tokens: np.ndarray, structures: np.ndarray) -> Coefficients:
        """Run the network on features (P, F), tokens (P, S, T; NaN where missing) and structure numbers (P, S)."""
        self.network.eval()
        with torch.inference_mode():
            return self.network(
                self.reading.pairs(features), self.reading.structures(tokens), torch.as_tensor(structures, dtype=torch.long)
            )

    def foresee(
        self,
        coefficients: Coefficients,
        values: np.ndarray,
        members: Sequence[int] | None = None,
        present: np.ndarray | None = None,
    ) -> Foreseen:
        """Evaluate curves at λ.

        Parameters
        ----------
        values : λ, shape (n,) for all pairs or (P, n).
        members : which members count; default: all. Their mean is the prediction, their spread adds to the scale.
        present : which structures count for mean Dice, boolean (P, S); default: all.
        """
        basis = torch.as_tensor(self.basis(values))
        equation = "psk,nk->psn" if basis.ndim == 2 else "psk,pnk->psn"
        pick = slice(None) if members is None else list(members)
        with torch.inference_mode():
            dice, dice_scale = self._mixed(coefficients.dice[pick], coefficients.dice_scale[pick], basis, equation)
            curves, curves_scale = self._mixed(coefficients.curves[pick], coefficients.curves_scale[pick], basis, equation)
            probability = torch.sigmoid(dice)
            if present is None:
                mean = probability.mean(dim=1)
            else:
                weight = torch.as_tensor(present, dtype=torch.float32)[..., None]
                mean = (probability * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
            scale = torch.einsum(equation.replace("s", ""), coefficients.mean_scale[pick].mean(dim=0), basis).exp()
        return Foreseen(*(part.numpy() for part in (dice, dice_scale, mean, scale, curves, curves_scale)))

    @staticmethod
    def _mixed(
        values: torch.Tensor, scales: torch.Tensor, basis: torch.Tensor, equation: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Average members before the basis is applied, which is linear; their spread comes from the coefficients' deviations."""
        centre = values.mean(dim=0)
        curve = torch.einsum(equation, centre, basis)
        variance = torch.einsum(equation, scales.mean(dim=0), basis).mul_(2).exp_()
        if len(values) > 1:
            for member in values - centre:
                variance += torch.einsum(equation, member, basis).square_() / len(values)
        return curve, variance.sqrt_()

    def basis(self, values: np.ndarray) -> np.ndarray:
        """Return the basis at λ of any shape (...), shape (..., K)."""
        values = np.asarray(values, dtype=float)
        flat = basis_at(np.log(np.where(np.isnan(values), np.exp(self.knots[0]), values)).ravel(), self.knots)
        return flat.reshape(*values.shape, -1)

    def structure_numbers(self, labels: Sequence[int]) -> np.ndarray:
        """Return each label's structure number, 0 for one that was never learned."""
        places = {label: n + 1 for n, label in enumerate(self.labels)}
        return np.array([places.get(label, 0) for label in labels])


def named_row(named: Mapping[str, float], names: Sequence[str]) -> np.ndarray:
    """Return features by name as a row in the order of `names`; NaN for what is missing."""
    return np.array([named.get(name, np.nan) for name in names], dtype=float)
