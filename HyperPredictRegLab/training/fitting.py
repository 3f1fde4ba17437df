"""Training: from a sweep's examples to an ensemble whose members each have not seen one CV fold of subjects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from HyperPredictRegLib.core.progress import CancelCheck, Progress, ProgressEvent, never, silent, stop_if
from HyperPredictRegLib.predictor.bundle import LEAST_FOLDING
from HyperPredictRegLib.predictor.network import (
    PAIR_CURVES,
    Coefficients,
    CurveNetwork,
    Ensemble,
    NetworkSettings,
    Reading,
    basis_at,
    basis_size,
    falling_steps,
    knots_for,
)

from HyperPredictRegLab.training.examples import Examples

LEAST_LOGIT_ERROR, LEAST_DICE_ERROR, LEAST_LOG_ERROR = 0.02, 0.001, 0.05
"""Added to errors where their scales are learned: where all is 0, as folding at a large λ is, a scale would shrink for ever."""


@dataclass(frozen=True)
class TrainingSettings:
    """How an ensemble is trained.

    Attributes
    ----------
    epochs : passes over all examples at once.
    learning_rate, weight_decay : of AdamW; the rate falls to 0 along a cosine.
    knots : of the curves over the parameter.
    width, hidden_layers, dropout : see `NetworkSettings`.
    folding_weight : weight of the losses of folding and SD log-Jacobian against that of Dice (alpha in HyperPredict, MELBA
        2024, appendix F).
    shape_weight : weight of the error of each Dice curve's shape, its mean over λ taken off: choosing λ needs the shape only.
    without_tokens : share of pairs that are shown without their structures' tokens, so that a moving segmentation is welcome
        but not needed.
    unknown : share of structures that are shown without their name.
    smoothness : weight of squared second differences of the curves' coefficients.
    seed : of weights and of what is left out.
    """

    epochs: int = 400
    learning_rate: float = 4e-3
    weight_decay: float = 0.03
    knots: int = 9
    width: int = 48
    hidden_layers: int = 1
    dropout: float = 0.15
    folding_weight: float = 0.2
    shape_weight: float = 1.0
    without_tokens: float = 0.4
    unknown: float = 0.1
    smoothness: float = 1e-3
    seed: int = 20240901


@dataclass(frozen=True)
class _Targets:
    """Training examples as tensors; weights are 0 where nothing was observed."""

    basis: torch.Tensor
    dice: torch.Tensor
    dice_weight: torch.Tensor
    curves: torch.Tensor
    observed: torch.Tensor
    floors: torch.Tensor


def train(
    examples: Examples,
    masks: np.ndarray,
    settings: TrainingSettings | None = None,
    *,
    features: Sequence[str] | None = None,
    progress: Progress = silent,
    cancelled: CancelCheck = never,
) -> Ensemble:
    """Train one member per row of `masks`, all at once.

    Parameters
    ----------
    examples : what to learn from.
    masks : boolean, shape (members, P): which pairs a member sees.
    features : names of the pair features to use; default: all.

    Raises
    ------
    Cancelled : the caller asked to stop.
    """
    settings = settings or TrainingSettings()
    names = tuple(features if features is not None else examples.feature_names)
    examples = replace(
        examples, features=examples.features[:, [examples.feature_names.index(n) for n in names]], feature_names=names
    )
    reading = _reading(examples, masks)
    strengths = examples.strengths
    knots = knots_for(strengths[~np.isnan(strengths)], settings.knots)
    targets = _targets(examples, strengths, knots)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        network = CurveNetwork(
            NetworkSettings(
                members=len(masks),
                pair_features=len(names),
                token_features=len(examples.token_names) + 1,
                structures=len(examples.labels),
                basis=basis_size(knots),
                width=settings.width,
                hidden_layers=settings.hidden_layers,
                dropout=settings.dropout,
            )
        )
        _start_from_means(network, targets, torch.as_tensor(masks, dtype=torch.float32))
        ensemble = Ensemble(network, reading, examples.parameter, knots, examples.labels)
        _fit(ensemble, examples, targets, masks, settings, progress, cancelled)
    network.eval()
    return ensemble


def _fit(
    ensemble: Ensemble,
    examples: Examples,
    targets: _Targets,
    masks: np.ndarray,
    settings: TrainingSettings,
    progress: Progress,
    cancelled: CancelCheck,
) -> None:
    network = ensemble.network
    pairs, tokens = ensemble.reading.pairs(examples.features), ensemble.reading.structures(examples.tokens)
    numbers = torch.arange(1, len(examples.labels) + 1).expand(len(examples.pairs), -1)
    weights = torch.as_tensor(masks, dtype=torch.float32)
    priors = [network.prior, network.prior_curves]
    others = [p for p in network.parameters() if all(p is not q for q in priors)]
    groups = [{"params": others, "weight_decay": settings.weight_decay}, {"params": priors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs)
    network.train()
    for epoch in range(settings.epochs):
        stop_if(cancelled)
        shown = (torch.rand(len(masks), len(examples.pairs), 1, 1) >= settings.without_tokens).float()
        # Only a structure with a token can do without a name.
        nameless = (torch.rand(numbers.shape) < settings.unknown) & (shown.amin(dim=(0, 2, 3)) > 0)[:, None]
        found = network(pairs, tokens * shown, numbers.masked_fill(nameless, 0))
        loss = _loss(found, targets, weights, settings)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0 * len(masks))
        optimizer.step()
        schedule.step()
        if epoch % 10 == 9:
            share = (epoch + 1) / settings.epochs
            progress(ProgressEvent("train", share, f"epoch {epoch + 1}", float(loss.detach()) / len(masks)))


def _loss(found: Coefficients, targets: _Targets, weights: torch.Tensor, settings: TrainingSettings) -> torch.Tensor:
    """Return the sum over members of their losses, each the mean over its own pairs."""
    share = weights / weights.sum(dim=1, keepdim=True)
    logit = torch.einsum("mpsk,pnk->mpsn", found.dice, targets.basis)
    scale = torch.einsum("mpsk,pnk->mpsn", found.dice_scale, targets.basis)
    dice, weight = torch.sigmoid(logit), targets.dice_weight
    error = (dice - targets.dice) * weight
    observed = weight.sum(dim=(1, 2)).clamp(min=1e-6)
    level = error.sum(dim=-1, keepdim=True) / weight.sum(dim=-1, keepdim=True).clamp(min=1e-6)
    shape = (error - level * weight).abs()
    target_logit = torch.logit(targets.dice, eps=0.01)
    spread = (((target_logit - logit.detach()).abs() + LEAST_LOGIT_ERROR) * torch.exp(-scale) + scale) * weight
    per_pair = (error.abs() + settings.shape_weight * shape).sum(dim=(2, 3)) * 10 + 0.1 * spread.sum(dim=(2, 3))
    loss = (share * per_pair / observed).sum()
    loss = loss + _mean_loss(found, targets, error.detach(), share)
    loss = loss + settings.folding_weight * _curves_loss(found, targets, share)
    return loss + settings.smoothness * sum(second.square().mean(dim=(1, 2, 3)).sum() for second in _second_differences(found))


def _mean_loss(found: Coefficients, targets: _Targets, error: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Fit the scale of mean Dice's error; the error itself is the structures' business."""
    structures = targets.dice_weight.sum(dim=1).clamp(min=1e-6)
    scale = torch.einsum("mpk,pnk->mpn", found.mean_scale, targets.basis)
    mean_error = (error.sum(dim=2) / structures).abs()
    observed = targets.observed.sum(dim=-1).clamp(min=1)
    nll = ((mean_error + LEAST_DICE_ERROR) * torch.exp(-scale) + scale) * targets.observed
    return 0.1 * (share * nll.sum(dim=-1) / observed).sum()


def _curves_loss(found: Coefficients, targets: _Targets, share: torch.Tensor) -> torch.Tensor:
    """Absolute error of the logarithms; where no folding was seen only predicting some counts (Tobin, Econometrica 1958)."""
    value = torch.einsum("mpck,pnk->mpcn", found.curves, targets.basis)
    scale = torch.einsum("mpck,pnk->mpcn", found.curves_scale, targets.basis)
    residual = value - targets.curves
    at_floor = targets.curves <= targets.floors
    residual = torch.where(at_floor, residual.clamp(min=0), residual)
    weight = targets.observed[:, None, :]
    spread = (residual.detach().abs() + LEAST_LOG_ERROR) * torch.exp(-scale) + scale
    per_pair = ((residual.abs() + spread) * weight).sum(dim=(2, 3)) / (weight.sum(dim=(1, 2)) * len(PAIR_CURVES)).clamp(min=1)
    return (share * per_pair).sum()


def _second_differences(found: Coefficients) -> list[torch.Tensor]:
    return [values.diff(n=2, dim=-1) for values in (found.dice, found.dice_scale, found.curves_scale)]


def _reading(examples: Examples, masks: np.ndarray) -> Reading:
    means, deviations, token_means, token_deviations = [], [], [], []
    for mask in masks:
        features, tokens = examples.features[mask], examples.tokens[mask].reshape(-1, len(examples.token_names))
        # A feature that nobody has, such as the noise of labels in real data, is 0 everywhere once it is standardized.
        features = np.where(np.isnan(features).all(axis=0), 0.0, features)
        tokens = tokens[~np.isnan(tokens).all(axis=1)]
        means.append(np.nanmean(features, axis=0))
        deviations.append(np.maximum(np.nanstd(features, axis=0), 1e-6))
        token_means.append(tokens.mean(axis=0) if len(tokens) else np.zeros(len(examples.token_names)))
        token_deviations.append(np.maximum(tokens.std(axis=0), 1e-6) if len(tokens) else np.ones(len(examples.token_names)))
    return Reading(
        examples.feature_names,
        examples.token_names,
        *(np.array(part) for part in (means, deviations, token_means, token_deviations)),
    )


def _targets(examples: Examples, strengths: np.ndarray, knots: tuple[float, ...]) -> _Targets:
    observed = ~np.isnan(strengths)
    basis = basis_at(np.where(observed, strengths, knots[0]).ravel(), knots).reshape(*strengths.shape, -1)
    folding = [np.log(np.maximum(f, LEAST_FOLDING)) for f in (examples.folding_foreground, examples.folding_grid)]
    curves = np.stack([*folding, np.log(np.maximum(examples.sd_log_jacobian, 1e-3))], axis=1)
    floors = torch.tensor([math.log(LEAST_FOLDING)] * 2 + [math.log(1e-3)])[:, None]
    known = ~np.isnan(examples.dice)
    return _Targets(
        basis=torch.as_tensor(basis),
        dice=torch.as_tensor(np.nan_to_num(examples.dice), dtype=torch.float32),
        dice_weight=torch.as_tensor(known, dtype=torch.float32),
        curves=torch.as_tensor(np.nan_to_num(curves), dtype=torch.float32),
        observed=torch.as_tensor(observed, dtype=torch.float32),
        floors=floors + 1e-4,
    )


def _start_from_means(network: CurveNetwork, targets: _Targets, weights: torch.Tensor) -> None:
    """Let training start from the curves that know λ only: least squares over each member's pairs, per structure."""
    count = targets.basis.shape[-1]
    ridge = 1e-2 * torch.eye(count)
    logits = torch.logit(targets.dice, eps=0.01)
    with torch.no_grad():
        for member, weight in enumerate(weights):
            dice_weight = targets.dice_weight * weight[:, None, None]
            normal = torch.einsum("psn,pnk,pnl->skl", dice_weight, targets.basis, targets.basis) + ridge
            right = torch.einsum("psn,psn,pnk->sk", dice_weight, logits, targets.basis)
            curves = torch.linalg.solve(normal, right[..., None])[..., 0]
            network.prior[member, 1:] = curves
            network.prior[member, 0] = curves.mean(dim=0)
            seen = targets.observed * weight[:, None]
            normal = torch.einsum("pn,pnk,pnl->kl", seen, targets.basis, targets.basis) + ridge
            right = torch.einsum("pn,pcn,pnk->ck", seen, targets.curves, targets.basis)
            pair_curves = torch.linalg.solve(normal.expand(len(PAIR_CURVES), -1, -1), right[..., None])[..., 0]
            network.prior_curves[member, 0] = falling_steps(pair_curves)
