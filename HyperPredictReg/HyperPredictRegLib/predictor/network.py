"""A trained ensemble with what it needs to read features: standardisation, knots, structures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from scipy.interpolate import BSpline
from torch import nn

from HyperPredictRegLib.core.search_space import Parameter

DEGREE = 3


def knots_for(values: np.ndarray, count: int) -> tuple[float, ...]:
    """Return `count` knots in rising order at even quantiles of `values` (n,), from the least to the greatest.

    Where a sweep tried many settings, because something changes there, a curve can turn more.
    """
    return tuple(np.quantile(np.asarray(values, dtype=float), np.linspace(0, 1, count)).tolist())


def basis_size(knots: Sequence[float]) -> int:
    """Return the number of basis functions over `knots`."""
    return len(knots) + DEGREE - 1


def basis_at(values: np.ndarray, knots: Sequence[float]) -> np.ndarray:
    """Evaluate the basis, shape (n, basis_size); each row is >= 0 and sums to 1.

    A curve with non-increasing coefficients does not increase (de Boor, A Practical Guide to Splines, 1978, chapter XI).
    `values` (n,) beyond the outermost knots take the basis of the nearest one: a curve is constant there.
    """
    padded = np.concatenate([np.repeat(knots[0], DEGREE), knots, np.repeat(knots[-1], DEGREE)])
    inside = np.clip(np.asarray(values, dtype=float), knots[0], knots[-1])
    return BSpline.design_matrix(inside, padded, DEGREE).toarray().astype(np.float32)


PAIR_CURVES = ("folding_foreground", "folding_grid", "sd_log_jacobian")
"""Natural logarithms of these are the pair's monotone curves, in this order."""


@dataclass(frozen=True)
class NetworkSettings:
    """Size and shape of the network.

    Attributes
    ----------
    members : members of the ensemble.
    pair_features, token_features : inputs per pair and per structure.
    structures : known structures; number 0 stands for any other.
    basis : coefficients per curve.
    width : of the hidden layers.
    hidden_layers : of the pair's branch, 1 or 2.
    embedding : numbers that stand for a known structure.
    dropout : share of hidden numbers left out while training.
    """

    members: int
    pair_features: int
    token_features: int
    structures: int
    basis: int
    width: int = 48
    hidden_layers: int = 2
    embedding: int = 8
    dropout: float = 0.1


@dataclass(frozen=True)
class Coefficients:
    """What the network says of P pairs with S structures each; m members, K coefficients per curve.

    Attributes
    ----------
    dice : of the logit of each structure's Dice, shape (m, P, S, K).
    dice_scale : of the logarithm of its error's scale, same shape.
    mean_scale : of the logarithm of the scale of mean Dice's error, shape (m, P, K).
    curves : of the logarithms of `PAIR_CURVES`, non-increasing in K, shape (m, P, 3, K).
    curves_scale : of the logarithm of their errors' scales, same shape.
    """

    dice: torch.Tensor
    dice_scale: torch.Tensor
    mean_scale: torch.Tensor
    curves: torch.Tensor
    curves_scale: torch.Tensor


class MemberLinear(nn.Module):
    """A linear layer per member: (m, ..., i) -> (m, ..., o)."""

    def __init__(self, members: int, inputs: int, outputs: int, gain: float = 1.0) -> None:
        super().__init__()
        bound = gain / math.sqrt(inputs)
        self.weight = nn.Parameter(_drawn(lambda empty: empty.uniform_(-bound, bound), members, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Apply each member's layer to its own inputs."""
        flat = inputs.flatten(1, -2)
        return torch.baddbmm(self.bias, flat, self.weight).unflatten(1, inputs.shape[1:-1])


class CurveNetwork(nn.Module):
    """Curves of Dice per structure, folding and SD log-Jacobian over one parameter, after HyperPredict (MELBA 2024, Figure 1).

    Unlike there, λ is no input: the network gives coefficients of a B-spline over the parameter (see
    `Parameter.strength`), so that curves are smooth, folding never rises with more regularization, and thousands of λ cost one
    product of matrices.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        s = self.settings = settings
        m, w, k = s.members, s.width, s.basis
        sizes = [s.pair_features, *[w] * s.hidden_layers]
        self.pair_layers = nn.ModuleList(MemberLinear(m, a, b) for a, b in pairwise(sizes))
        self.token_layer = MemberLinear(m, s.token_features + s.embedding, w)
        self.joint_layer = MemberLinear(m, 2 * w, w)
        self.embeddings = nn.Parameter(_drawn(lambda empty: empty.normal_(std=0.3), m, s.structures + 1, s.embedding))
        self.prior = nn.Parameter(torch.zeros(m, s.structures + 1, k))
        self.prior_curves = nn.Parameter(torch.zeros(m, 1, len(PAIR_CURVES), k))
        small = 0.1
        self.dice_head = MemberLinear(m, w, k, small)
        # Straight from the features: with few examples much of what can be learned of folding is linear.
        self.curves_skip = MemberLinear(m, s.pair_features, len(PAIR_CURVES) * k, small)
        self.token_skip = MemberLinear(m, s.token_features, k, small)
        self.dice_scale_head = MemberLinear(m, w, k, small)
        self.mean_scale_head = MemberLinear(m, w, k, small)
        self.curves_head = MemberLinear(m, w, len(PAIR_CURVES) * k, small)
        self.curves_scale_head = MemberLinear(m, w, len(PAIR_CURVES) * k, small)
        self.dropout = nn.Dropout(s.dropout)

    def forward(self, pairs: torch.Tensor, tokens: torch.Tensor, structures: torch.Tensor) -> Coefficients:
        """Return the curves' coefficients.

        Parameters
        ----------
        pairs : standardised features, shape (m, P, F).
        tokens : standardised tokens, 0 where there is none, shape (m, P, S, T).
        structures : number of each structure, 0 for an unknown one, shape (P, S), integer.
        """
        hidden = pairs
        for layer in self.pair_layers:
            hidden = self.dropout(nn.functional.gelu(layer(hidden)))
        known = self.embeddings[:, structures]
        described = nn.functional.gelu(self.token_layer(torch.cat([tokens, known], dim=-1)))
        both = torch.cat([hidden.unsqueeze(2).expand(-1, -1, described.shape[2], -1), described], dim=-1)
        joint = self.dropout(nn.functional.gelu(self.joint_layer(both)))
        steps = self.curves_head(hidden) + self.curves_skip(pairs)
        steps = self.prior_curves + steps.unflatten(-1, (len(PAIR_CURVES), -1))
        return Coefficients(
            dice=self.prior[:, structures] + self.dice_head(joint) + self.token_skip(tokens),
            dice_scale=self.dice_scale_head(joint) - 2.0,
            mean_scale=self.mean_scale_head(hidden) - 4.0,
            curves=falling(steps),
            curves_scale=self.curves_scale_head(hidden).unflatten(-1, (len(PAIR_CURVES), -1)) - 1.0,
        )


def _drawn(fill: Callable[[torch.Tensor], torch.Tensor], *shape: int) -> torch.Tensor:
    """Return random numbers; on the "meta" device, which holds none, drawing them would load all of torch's compiler."""
    empty = torch.empty(shape)
    return empty if empty.is_meta else fill(empty)


def falling(steps: torch.Tensor) -> torch.Tensor:
    """Turn free numbers (..., K) into non-increasing ones: the first stays, each further one lies softplus(step) lower."""
    drops = nn.functional.softplus(steps[..., 1:])
    return torch.cat([steps[..., :1], steps[..., :1] - drops.cumsum(dim=-1)], dim=-1)


def falling_steps(values: torch.Tensor, least: float = 0.02) -> torch.Tensor:
    """Invert `falling`; where `values` (..., K) do not fall by at least `least` they are taken to."""
    drops = (values[..., :-1] - values[..., 1:]).clamp(min=least)
    return torch.cat([values[..., :1], drops + torch.log(-torch.expm1(-drops))], dim=-1)


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
class MemberCurves:
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
    parameter : over which its curves run.
    knots : of it as `Parameter.strength` gives it, rising.
    labels : the known structures' label values; structure number n + 1 is ``labels[n]``.
    """

    network: CurveNetwork
    reading: Reading
    parameter: Parameter
    knots: tuple[float, ...]
    labels: tuple[int, ...]

    def coefficients(self, features: np.ndarray, tokens: np.ndarray, structures: np.ndarray) -> Coefficients:
        """Run the network on features (P, F), tokens (P, S, T; NaN where missing) and structure numbers (P, S)."""
        self.network.eval()
        with torch.inference_mode():
            return self.network(
                self.reading.pairs(features), self.reading.structures(tokens), torch.as_tensor(structures, dtype=torch.long)
            )

    def predict(
        self,
        coefficients: Coefficients,
        values: np.ndarray,
        members: Sequence[int] | None = None,
        present: np.ndarray | None = None,
    ) -> MemberCurves:
        """Evaluate curves at values of the parameter.

        Parameters
        ----------
        values : shape (n,) for all pairs or (P, n); NaN gives numbers without a meaning.
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
        return MemberCurves(*(part.numpy() for part in (dice, dice_scale, mean, scale, curves, curves_scale)))

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
        """Return the basis at values of the parameter of any shape (...), shape (..., K)."""
        turned = self.parameter.strength(values)
        flat = basis_at(np.where(np.isnan(turned), self.knots[0], turned).ravel(), self.knots)
        return flat.reshape(*turned.shape, -1)

    def structure_numbers(self, labels: Sequence[int]) -> np.ndarray:
        """Return each label's structure number, 0 for one that was never learned."""
        places = {label: n + 1 for n, label in enumerate(self.labels)}
        return np.array([places.get(label, 0) for label in labels])


def named_row(named: Mapping[str, float], names: Sequence[str]) -> np.ndarray:
    """Return features by name as a row in the order of `names`; NaN for what is missing."""
    return np.array([named.get(name, np.nan) for name in names], dtype=float)
