"""Training: from a sweep's examples to an ensemble whose members each have not seen one CV fold of subjects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

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
)
from HyperPredictRegLib.predictor.splines import Knots, basis_size, falling_steps, knots_for, tensor_basis

from HyperPredictRegLab.training.examples import Examples
from HyperPredictRegLab.training.outlook import OutlookTargets, outlook_loss, outlook_targets, probe_names, start_from_evidence

LEAST_LOGIT_ERROR, LEAST_DICE_ERROR, LEAST_LOG_ERROR = 0.02, 0.001, 0.05
"""Added to errors where their scales are learned: where all is 0, as folding at a large λ is, a scale would shrink for ever."""


@dataclass(frozen=True)
class TrainingSettings:
    """How an ensemble is trained.

    Attributes
    ----------
    epochs : passes over all examples at once.
    learning_rate, weight_decay : of AdamW; the rate falls to 0 along a cosine.
    knots : of the curves over the first parameter.
    further_knots : over each further one.
    width, hidden_layers, dropout : see `NetworkSettings`.
    folding_weight : weight of the losses of folding and SD log-Jacobian against that of Dice (alpha in HyperPredict, MELBA
        2024, appendix F).
    shape_weight : weight of the error of each Dice curve's shape, its mean over λ taken off: choosing λ needs the shape only.
    without_tokens : share of pairs that are shown without their structures' tokens, so that a moving segmentation is welcome
        but not needed.
    unknown : share of structures that are shown without their name.
    smoothness : weight of squared second differences of the curves' coefficients, along each parameter.
    outlook_weight : weight of the losses of errors in mm, gain and chances, where examples know them.
    ridge : weight of squared weights that lead straight from features to curves and chances, but for those by which a prediction
        starts from the pair's own evidence; 0 where examples know no outcomes, as in networks of old.
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
    further_knots: int = 3
    outlook_weight: float = 1.0
    ridge: float = 0.0
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
    axes: tuple[int, ...]
    outlook: OutlookTargets | None = None


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
    masks : boolean, shape (members, P): which pairs a member sees. Domains, where examples know them, weigh the same.
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
    settled = ~np.isnan(examples.values)
    knots: Knots = tuple(
        knots_for(p.strength(examples.settings[..., n])[settled], settings.further_knots if n else settings.knots)
        for n, p in enumerate(examples.space)
    )
    targets = _targets(examples, knots)
    weights = _weights(examples, masks)
    axes = tuple(basis_size(own) for own in knots)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        network = CurveNetwork(
            NetworkSettings(
                members=len(masks),
                pair_features=len(names),
                token_features=len(examples.token_names) + 1,
                structures=len(examples.labels),
                basis=math.prod(axes),
                width=settings.width,
                hidden_layers=settings.hidden_layers,
                dropout=settings.dropout,
                axes=axes if len(axes) > 1 else (),
                outlook=examples.outcomes is not None,
                leveled=examples.outcomes is not None and set(chain(*probe_names(len(axes)))) <= set(names),
            )
        )
        _start_from_means(network, targets, weights, examples.numbers)
        ensemble = Ensemble(network, reading, examples.space, knots, examples.labels)
        start_from_evidence(ensemble, reading.pairs(examples.features), targets.outlook, targets.basis, weights)
        _fit(ensemble, examples, targets, weights, settings, progress, cancelled)
    network.eval()
    return ensemble


def _fit(
    ensemble: Ensemble,
    examples: Examples,
    targets: _Targets,
    weights: torch.Tensor,
    settings: TrainingSettings,
    progress: Progress,
    cancelled: CancelCheck,
) -> None:
    network = ensemble.network
    pairs, tokens = ensemble.reading.pairs(examples.features), ensemble.reading.structures(examples.tokens)
    numbers = torch.as_tensor(examples.numbers).expand(len(examples.pairs), -1)
    priors = [network.prior, network.prior_curves]
    if network.outlook is not None:
        priors += [network.outlook.prior, network.outlook.prior_numbers]
    straight = [] if not settings.ridge else [(p, p.detach().clone()) for p in _straight(network)]
    others = [p for p in network.parameters() if all(p is not q for q in priors)]
    groups = [{"params": others, "weight_decay": settings.weight_decay}, {"params": priors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs)
    network.train()
    for epoch in range(settings.epochs):
        stop_if(cancelled)
        shown = (torch.rand(len(weights), len(examples.pairs), 1, 1) >= settings.without_tokens).float()
        # Only a structure with a token can do without a name.
        nameless = (torch.rand(numbers.shape) < settings.unknown) & (shown.amin(dim=(0, 2, 3)) > 0)[:, None]
        found = network(pairs, tokens * shown, numbers.masked_fill(nameless, 0))
        loss = _loss(found, targets, weights, settings)
        for weight, start in straight:
            loss = loss + settings.ridge * (weight - start).square().sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0 * len(weights))
        optimizer.step()
        schedule.step()
        if epoch % 10 == 9:
            share = (epoch + 1) / settings.epochs
            progress(ProgressEvent("train", share, f"epoch {epoch + 1}", float(loss.detach()) / len(weights)))


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
    if found.outlook is not None and targets.outlook is not None:
        loss = loss + settings.outlook_weight * outlook_loss(found.outlook, targets.outlook, targets.basis, share)
    seconds = _second_differences(found, targets.axes)
    return loss + settings.smoothness * sum(second.square().mean(dim=(1, 2, 3)).sum() for second in seconds)


def _mean_loss(found: Coefficients, targets: _Targets, error: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Fit the scale of mean Dice's error; the error itself is the structures' business."""
    structures = targets.dice_weight.sum(dim=1).clamp(min=1e-6)
    scale = torch.einsum("mpk,pnk->mpn", found.mean_scale, targets.basis)
    mean_error = (error.sum(dim=2) / structures).abs()
    known = targets.observed * targets.dice_weight.amax(dim=1)
    nll = ((mean_error + LEAST_DICE_ERROR) * torch.exp(-scale) + scale) * known
    return 0.1 * (share * nll.sum(dim=-1) / known.sum(dim=-1).clamp(min=1)).sum()


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


def _second_differences(found: Coefficients, axes: tuple[int, ...]) -> list[torch.Tensor]:
    parts = [found.dice, found.dice_scale, found.curves_scale]
    if found.outlook is not None:
        parts += [found.outlook.curves, found.outlook.scale]
    if len(axes) == 1:
        return [values.diff(n=2, dim=-1) for values in parts]
    grids = [values.unflatten(-1, axes) for values in parts]
    return [grid.diff(n=2, dim=-1 - place).flatten(3) for grid in grids for place in range(len(axes))]


def _straight(network: CurveNetwork) -> list[torch.Tensor]:
    """Return the weights that lead straight from a pair's features to its curves and chances."""
    layers = [network.curves_skip]
    if network.outlook is not None:
        layers += [network.outlook.curves_skip, network.outlook.numbers_skip]
    return [layer.weight for layer in layers]


def _weights(examples: Examples, masks: np.ndarray) -> torch.Tensor:
    """Return how much each pair weighs for each member, shape (members, P)."""
    weights = np.asarray(masks, dtype=float)
    if examples.outcomes is not None:
        _, domain, counts = np.unique(examples.outcomes.domains, return_inverse=True, return_counts=True)
        weights = weights / counts[domain]
    return torch.as_tensor(weights, dtype=torch.float32)


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


def _targets(examples: Examples, knots: Knots) -> _Targets:
    settings = examples.settings
    observed = ~np.isnan(settings).any(axis=-1)
    strengths = np.stack([p.strength(settings[..., n]) for n, p in enumerate(examples.space)], axis=-1)
    strengths = np.where(observed[..., None], strengths, [own[0] for own in knots])
    basis = tensor_basis(strengths.reshape(-1, len(knots)), knots).reshape(*observed.shape, -1)
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
        axes=tuple(basis_size(own) for own in knots),
        outlook=None if examples.outcomes is None else outlook_targets(examples.outcomes),
    )


def _start_from_means(network: CurveNetwork, targets: _Targets, weights: torch.Tensor, numbers: np.ndarray) -> None:
    """Let training start from the curves that know λ only: least squares over each member's pairs, per structure."""
    count = targets.basis.shape[-1]
    ridge = 1e-2 * torch.eye(count)
    logits = torch.logit(targets.dice, eps=0.01)
    with torch.no_grad():
        for member, weight in enumerate(weights):
            dice_weight = targets.dice_weight * weight[:, None, None]
            normal = torch.einsum("psn,pnk,pnl->skl", dice_weight, targets.basis, targets.basis) + ridge
            right = torch.einsum("psn,psn,pnk->sk", dice_weight, logits, targets.basis)
            if numbers.any():
                curves = torch.linalg.solve(normal, right[..., None])[..., 0]
                network.prior[member, 1:] = curves
                network.prior[member, 0] = curves.mean(dim=0)
            else:
                network.prior[member, 0] = torch.linalg.solve(normal.mean(dim=0), right.mean(dim=0))
            seen = targets.observed * weight[:, None]
            normal = torch.einsum("pn,pnk,pnl->kl", seen, targets.basis, targets.basis) + ridge
            right = torch.einsum("pn,pcn,pnk->ck", seen, targets.curves, targets.basis)
            pair_curves = torch.linalg.solve(normal.expand(len(PAIR_CURVES), -1, -1), right[..., None])[..., 0]
            network.prior_curves[member, 0] = falling_steps(pair_curves, targets.axes)
