"""A trained ensemble with what it needs to read features: standardisation, knots, structures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from HyperPredictRegLib.core.search_space import SearchSpace
from HyperPredictRegLib.predictor.splines import Knots, basis_at, falling, grid_axes, tensor_basis

PAIR_CURVES = ("folding_foreground", "folding_grid", "sd_log_jacobian")
"""Natural logarithms of these are the pair's monotone curves, in this order."""

OUTLOOK_CURVES = ("error", "error_95", "gain")
"""Of a network with an outlook, in this order: natural logarithms of the median and of the 95th percentile over the foreground of
how far the finished transform lies from the true one, in voxels of the evidence's grid, the second never below the first; and
the share of what the affine step left of Dice, 1 - Dice, that deforming wins."""

CHANCES = ("failed", "helps")
"""Of a network with an outlook: that the alignment has failed, and that deforming helps at the best setting."""


@dataclass(frozen=True)
class NetworkSettings:
    """Size and shape of the network.

    Attributes
    ----------
    members : members of the ensemble.
    pair_features, token_features : inputs per pair and per structure.
    structures : known structures; number 0 stands for any other.
    basis : coefficients per curve, or per surface over several parameters.
    width : of the hidden layers.
    hidden_layers : of the pair's branch, 1 or 2.
    embedding : numbers that stand for a known structure.
    dropout : share of hidden numbers left out while training.
    axes : size of each parameter's basis, whose product `basis` is; () stands for one parameter.
    outlook : whether `OUTLOOK_CURVES`, `CHANCES` and the affine step's error are told, too.
    leveled : whether the error's shape is that of the pair's own bootstrap, less the share that is gained, so that its level
        alone is learned for itself.
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
    axes: tuple[int, ...] = ()
    outlook: bool = False
    leveled: bool = False


@dataclass(frozen=True)
class OutlookCoefficients:
    """What the network says of P pairs beyond folding and Dice.

    Attributes
    ----------
    curves : of `OUTLOOK_CURVES`, shape (m, P, 3, K).
    scale : of the logarithm of their errors' scales, same shape.
    affine_error, affine_scale : natural logarithms of the affine step's median error in voxels and of the scale of its error,
        shape (m, P).
    chances : logits of `CHANCES`, shape (m, P, 2).
    """

    curves: torch.Tensor
    scale: torch.Tensor
    affine_error: torch.Tensor
    affine_scale: torch.Tensor
    chances: torch.Tensor


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
    outlook : None for a network without one.
    """

    dice: torch.Tensor
    dice_scale: torch.Tensor
    mean_scale: torch.Tensor
    curves: torch.Tensor
    curves_scale: torch.Tensor
    outlook: OutlookCoefficients | None = None


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


class OutlookHeads(nn.Module):
    """What a network with an outlook tells of a pair: each from the hidden numbers, and straight from the features.

    With few examples of few domains most of what can be learned is linear in what was measured of the pair itself.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        m, w, k, f = settings.members, settings.width, settings.basis, settings.pair_features
        count, small = len(OUTLOOK_CURVES), 0.1
        numbers = 1 + len(CHANCES)
        self.prior = nn.Parameter(torch.zeros(m, 1, count, k))
        self.prior_numbers = nn.Parameter(torch.zeros(m, 1, numbers))
        self.curves = MemberLinear(m, w, count * k, small)
        self.curves_skip = MemberLinear(m, f, count * k, 0.0)
        self.scale = MemberLinear(m, w, count * k, small)
        self.numbers = MemberLinear(m, w, numbers, small)
        self.numbers_skip = MemberLinear(m, f, numbers, 0.0)
        self.affine_scale = MemberLinear(m, w, 1, small)
        self.base = nn.Parameter(torch.zeros(m, f, k), requires_grad=False) if settings.leveled else None
        # Of features at their means, which are 0 once they are standardized.
        self.base_at_means = nn.Parameter(torch.zeros(m, 1, k), requires_grad=False) if settings.leveled else None

    def forward(self, pairs: torch.Tensor, hidden: torch.Tensor) -> OutlookCoefficients:
        """Return coefficients and numbers from standardised features (m, P, F) and hidden numbers (m, P, w)."""
        count = len(OUTLOOK_CURVES)
        curves = self.prior + (self.curves(hidden) + self.curves_skip(pairs)).unflatten(-1, (count, -1))
        bootstrap = self.bootstrap(pairs)
        if bootstrap is not None:
            level = curves[:, :, :1].mean(dim=-1, keepdim=True)
            # Known warps ask for more regularization than labels do: its shape leans to where overlap gains.
            gain = curves[:, :, 2:].detach()
            lean = gain - gain.mean(dim=-1, keepdim=True)
            curves = torch.cat([bootstrap.unsqueeze(2) + level - lean, curves[:, :, 1:]], dim=2)
        # The first lies at the median, so the second can only lie above it.
        above = curves[:, :, :1] + nn.functional.softplus(curves[:, :, 1:2])
        numbers = self.prior_numbers + self.numbers(hidden) + self.numbers_skip(pairs)
        return OutlookCoefficients(
            curves=torch.cat([curves[:, :, :1], above, curves[:, :, 2:]], dim=2),
            scale=self.scale(hidden).unflatten(-1, (count, -1)) - 1.0,
            affine_error=numbers[..., 0],
            affine_scale=self.affine_scale(hidden)[..., 0] - 1.0,
            chances=numbers[..., 1:],
        )

    def bootstrap(self, pairs: torch.Tensor) -> torch.Tensor | None:
        """Return the coefficients of the bootstrap's error, shape (m, P, K), None where a network does not start from it."""
        if self.base is None or self.base_at_means is None:
            return None
        return pairs @ self.base + self.base_at_means


class CurveNetwork(nn.Module):
    """Dice per structure, folding and SD log-Jacobian over an engine's parameters, after HyperPredict (MELBA 2024, Figure 1).

    Unlike there, λ is no input: the network gives coefficients of a B-spline over the parameter (see
    `Parameter.strength`), or of a tensor product of B-splines over several, so that curves are smooth, folding never rises with
    more regularization, and thousands of settings cost one product of matrices.
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
        self.outlook = OutlookHeads(s) if s.outlook else None

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
            curves=falling(steps, self.settings.axes),
            curves_scale=self.curves_scale_head(hidden).unflatten(-1, (len(PAIR_CURVES), -1)) - 1.0,
            outlook=None if self.outlook is None else self.outlook(pairs, hidden),
        )


def _drawn(fill: Callable[[torch.Tensor], torch.Tensor], *shape: int) -> torch.Tensor:
    """Return random numbers; on the "meta" device, which holds none, drawing them would load all of torch's compiler."""
    empty = torch.empty(shape)
    return empty if empty.is_meta else fill(empty)


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
class MemberOutlook:
    """Uncalibrated outlook of P pairs; error scales are of the numbers as given here.

    Attributes
    ----------
    curves, scale : `OUTLOOK_CURVES`, shape (P, 3, n).
    affine_error, affine_scale : logarithm of the affine step's median error in voxels, shape (P,).
    chances : logits of `CHANCES`, shape (P, 2).
    """

    curves: np.ndarray
    scale: np.ndarray
    affine_error: np.ndarray
    affine_scale: np.ndarray
    chances: np.ndarray


@dataclass(frozen=True)
class MemberCurves:
    """Uncalibrated predictions of P pairs; error scales are of the numbers as given here.

    Attributes
    ----------
    dice_logit, dice_scale : shape (P, S, n).
    mean_dice, mean_scale : shape (P, n).
    curves, curves_scale : logarithms of `PAIR_CURVES`, shape (P, 3, n).
    outlook : None from an ensemble without one.
    """

    dice_logit: np.ndarray
    dice_scale: np.ndarray
    mean_dice: np.ndarray
    mean_scale: np.ndarray
    curves: np.ndarray
    curves_scale: np.ndarray
    outlook: MemberOutlook | None = None


@dataclass(frozen=True)
class Ensemble:
    """Networks that were trained together.

    Attributes
    ----------
    network : all members.
    reading : how features become inputs.
    space : the parameters over which its curves run.
    knots : of each as `Parameter.strength` gives it, rising.
    labels : the known structures' label values; structure number n + 1 is ``labels[n]``.
    """

    network: CurveNetwork
    reading: Reading
    space: SearchSpace
    knots: Knots
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
        """Evaluate curves at settings.

        Parameters
        ----------
        values : shape (n, h) for all pairs or (P, n, h); NaN gives numbers without a meaning.
        members : which members count; default: all. Their mean is the prediction, their spread adds to the scale.
        present : which structures count for mean Dice, boolean (P, S); default: all.
        """
        at = self._evaluator(values)
        pick = slice(None) if members is None else list(members)
        with torch.inference_mode():
            dice, dice_scale = _mixed(coefficients.dice[pick], coefficients.dice_scale[pick], at)
            curves, curves_scale = _mixed(coefficients.curves[pick], coefficients.curves_scale[pick], at)
            counts = torch.ones(dice.shape[:2]) if present is None else torch.as_tensor(present, dtype=torch.float32)
            if coefficients.outlook is not None:
                gain = coefficients.outlook.curves[pick][:, :, [OUTLOOK_CURVES.index("gain")]].mean(dim=0)
                level = torch.sigmoid(coefficients.dice[pick].mean(dim=0)).mean(dim=-1, keepdim=True)
                dice = _with_gain(dice, level, at(gain), gain.mean(dim=-1, keepdim=True), counts)
            mean = _mean(torch.sigmoid(dice), counts)[:, 0]
            scale = at(coefficients.mean_scale[pick].mean(dim=0)[:, None])[:, 0].exp()
            outlook = None if coefficients.outlook is None else _outlook(coefficients.outlook, pick, at)
        told = (dice.numpy(), dice_scale.numpy(), mean.numpy(), scale.numpy(), curves.numpy(), curves_scale.numpy())
        return MemberCurves(*told, outlook=outlook)

    def _evaluator(self, values: np.ndarray) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return what turns coefficients (P, C, K) into curves (P, C, n) at `values`."""
        axes = grid_axes(values) if values.ndim == 2 and values.shape[1] > 1 else None
        if axes is None:
            basis = torch.as_tensor(self.basis(values))
            equation = "psk,nk->psn" if basis.ndim == 2 else "psk,pnk->psn"
            return lambda coefficients: torch.einsum(equation, coefficients, basis)
        # Parameter by parameter: a fifth of the work.
        turned = [basis_at(p.strength(axis), own) for p, axis, own in zip(self.space, axes, self.knots, strict=True)]
        bases = [torch.as_tensor(basis) for basis in turned]

        def at_grid(coefficients: torch.Tensor) -> torch.Tensor:
            grid = coefficients.unflatten(-1, [basis.shape[1] for basis in bases])
            for basis in reversed(bases):
                # The axis that was just evaluated goes to the front of the parameters' axes.
                grid = (grid @ basis.T).movedim(-1, 2)
            return grid.flatten(2)

        return at_grid

    def basis(self, values: np.ndarray) -> np.ndarray:
        """Return the basis at settings of shape (..., h), shape (..., K)."""
        turned = np.stack([p.strength(values[..., n]) for n, p in enumerate(self.space)], axis=-1)
        low = np.array([knots[0] for knots in self.knots])
        flat = tensor_basis(np.where(np.isnan(turned), low, turned).reshape(-1, len(self.knots)), self.knots)
        return flat.reshape(*turned.shape[:-1], -1)

    def structure_numbers(self, labels: Sequence[int]) -> np.ndarray:
        """Return each label's structure number, 0 for one that was never learned."""
        places = {label: n + 1 for n, label in enumerate(self.labels)}
        return np.array([places.get(label, 0) for label in labels])


LEAST_DICE = 1e-4
"""Dice is at least so far from 0 and from 1 where its logit is taken."""


def _with_gain(
    logit: torch.Tensor, level: torch.Tensor, gain: torch.Tensor, usual: torch.Tensor, counts: torch.Tensor
) -> torch.Tensor:
    """Return logits of Dice (P, S, n) whose mean over structures has the shape of the gain of overlap (P, 1, n).

    From their mean structures depart by half of what they do on their own, so that each may still choose for itself. Choosing by
    the gain loses less on real tuning cases than choosing by Dice as it is learned (`docs/predictor.md`). What the affine step
    has follows from the levels `level` (P, S, 1) and `usual` (P, 1, 1).
    """
    affine = ((level - usual) / (1 - usual).clamp(min=0.05)).clamp(0, 1)
    own, by_gain = torch.sigmoid(logit), torch.addcmul(affine, 1 - affine, gain).clamp_(0, 1)
    more = _mean(by_gain, counts) - _mean(own, counts)
    return torch.logit(own.add_(by_gain).add_(more).mul_(0.5), eps=LEAST_DICE)


def _mean(values: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return the mean of (P, S, n) over the structures that count, weights (P, S), shape (P, 1, n)."""
    return (counts / counts.sum(dim=1, keepdim=True).clamp(min=1))[:, None] @ values


def _mixed(
    values: torch.Tensor, scales: torch.Tensor, at: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Average members before the basis is applied, which is linear; their spread comes from the coefficients' deviations."""
    centre = values.mean(dim=0)
    curve = at(centre)
    variance = at(scales.mean(dim=0)).mul_(2).exp_()
    if len(values) > 1:
        for member in values - centre:
            variance += at(member).square_() / len(values)
    return curve, variance.sqrt_()


def _outlook(
    found: OutlookCoefficients, pick: slice | list[int], at: Callable[[torch.Tensor], torch.Tensor]
) -> MemberOutlook:
    curves, scale = _mixed(found.curves[pick], found.scale[pick], at)
    affine = found.affine_error[pick]
    spread = (found.affine_scale[pick].mean(dim=0).mul(2).exp() + affine.var(dim=0, unbiased=False)).sqrt()
    return MemberOutlook(*(p.numpy() for p in (curves, scale, affine.mean(0), spread, found.chances[pick].mean(0))))


def named_row(named: Mapping[str, float], names: Sequence[str]) -> np.ndarray:
    """Return features by name as a row in the order of `names`; NaN for what is missing."""
    return np.array([named.get(name, np.nan) for name in names], dtype=float)
