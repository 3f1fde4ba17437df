"""The curve network: features of a pair and of its structures -> coefficients of smooth curves over λ.

An ensemble's members are one stack of tensors with a leading axis, trained and evaluated together. What each member has seen
differs (see `training`), so that their spread and their errors on what they have not seen are honest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

PAIR_CURVES = ("folding_foreground", "folding_box", "sd_log_jacobian")
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
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Apply each member's layer to its own inputs."""
        flat = inputs.flatten(1, -2)
        return torch.baddbmm(self.bias, flat, self.weight).unflatten(1, inputs.shape[1:-1])


class CurveNetwork(nn.Module):
    """Curves of Dice per structure, folding and SD log-Jacobian over λ, after HyperPredict (MELBA 2024, Figure 1).

    Unlike there, λ is no input: the network gives coefficients of a B-spline over log λ, so that curves are smooth, folding
    never rises with λ, and thousands of λ cost one product of matrices.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        s = self.settings = settings
        m, w, k = s.members, s.width, s.basis
        sizes = [s.pair_features, *[w] * s.hidden_layers]
        self.pair_layers = nn.ModuleList(MemberLinear(m, a, b) for a, b in pairwise(sizes))
        self.token_layer = MemberLinear(m, s.token_features + s.embedding, w)
        self.joint_layer = MemberLinear(m, 2 * w, w)
        self.embeddings = nn.Parameter(0.3 * torch.randn(m, s.structures + 1, s.embedding))
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


def falling(steps: torch.Tensor) -> torch.Tensor:
    """Turn free numbers (..., K) into non-increasing ones: the first stays, each further one lies softplus(step) lower."""
    drops = nn.functional.softplus(steps[..., 1:])
    return torch.cat([steps[..., :1], steps[..., :1] - drops.cumsum(dim=-1)], dim=-1)


def falling_steps(values: torch.Tensor, least: float = 0.02) -> torch.Tensor:
    """Invert `falling`; where `values` (..., K) do not fall by at least `least` they are taken to."""
    drops = (values[..., :-1] - values[..., 1:]).clamp(min=least)
    return torch.cat([values[..., :1], drops + torch.log(-torch.expm1(-drops))], dim=-1)
