"""Training of what a network tells beyond folding and Dice: it starts from the pair's own bootstrap, and learns how that errs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from HyperPredictRegLib.core.search_space import SearchSpace
from HyperPredictRegLib.predictor.bootstrap import ERRORS, FAILED, NOTHING
from HyperPredictRegLib.predictor.coarse_pair import ACROSS, ALONG, CROSSED
from HyperPredictRegLib.predictor.network import OUTLOOK_CURVES, Ensemble, OutlookCoefficients, OutlookHeads
from HyperPredictRegLib.predictor.predictor import EVIDENCE
from HyperPredictRegLib.predictor.splines import Knots, tensor_basis
from torch import nn

from HyperPredictRegLab.training.outcomes import Outcomes

LEAST_VOXELS = 0.02
"""Errors below this are as good as none; their logarithm would be noise."""

LEAST_ERROR = 0.05
"""Added to errors where their scales are learned, so that none shrinks for ever."""


@dataclass(frozen=True)
class OutlookTargets:
    """Of P pairs with N settings as tensors; weights are 0 where nothing was observed.

    Attributes
    ----------
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


def outlook_targets(outcomes: Outcomes) -> OutlookTargets:
    """Arrange outcomes as targets."""
    unit = outcomes.unit_mm
    lengths = [
        np.log(np.maximum(part / unit.reshape(-1, *[1] * (part.ndim - 1)), LEAST_VOXELS))
        for part in (outcomes.error, outcomes.error_95, outcomes.affine_error)
    ]
    curves = np.stack([*lengths[:2], outcomes.gain], axis=1)
    chances = np.stack([outcomes.failed, outcomes.helps], axis=1)
    found = []
    for part in (curves, lengths[2], chances):
        found += [np.nan_to_num(part), ~np.isnan(part)]
    return OutlookTargets(*(torch.as_tensor(part, dtype=torch.float32) for part in found))


def outlook_loss(found: OutlookCoefficients, targets: OutlookTargets, basis: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Return the sum over members of their losses, each the mean over the pairs of which something is known.

    Absolute errors with their scales, once more with each curve's own level taken off, because choosing needs its shape only; of
    chances the cross-entropy.

    Parameters
    ----------
    basis : at the settings tried, shape (P, N, K).
    share : weights of pairs for each member, shape (m, P).
    """
    weight = targets.weight
    value = torch.einsum("mpck,pnk->mpcn", found.curves, basis)
    scale = torch.einsum("mpck,pnk->mpcn", found.scale, basis)
    error = (value - targets.curves) * weight
    count = weight.sum(dim=-1, keepdim=True).clamp(min=1)
    shape = (error - error.sum(dim=-1, keepdim=True) / count * weight).abs()
    spread = ((error.detach().abs() + LEAST_ERROR) * torch.exp(-scale) + scale) * weight
    per_curve = (error.abs() + shape + 0.3 * spread).sum(dim=-1) / count[..., 0]
    loss = sum((_known(share, weight[:, n].amax(dim=-1)) * per_curve[:, :, n]).sum() for n in range(len(OUTLOOK_CURVES)))
    off = (found.affine_error - targets.affine_error).abs()
    off_spread = (off.detach() + LEAST_ERROR) * torch.exp(-found.affine_scale) + found.affine_scale
    loss = loss + (_known(share, targets.affine_weight) * (off + 0.3 * off_spread)).sum()
    for n in range(targets.chances.shape[1]):
        logit, truth = found.chances[..., n], targets.chances[:, n].expand_as(found.chances[..., n])
        entropy = nn.functional.binary_cross_entropy_with_logits(logit, truth, reduction="none")
        loss = loss + (_known(share, targets.chance_weight[:, n]) * entropy).sum()
    return torch.as_tensor(loss)


def _known(share: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the weights (m, P) of the pairs of which something is known, which sum to 1 for each member."""
    known = share * weight
    return known / known.sum(dim=1, keepdim=True).clamp(min=1e-6)


def start_from_evidence(
    ensemble: Ensemble, pairs: torch.Tensor, targets: OutlookTargets | None, basis: torch.Tensor, weights: torch.Tensor
) -> None:
    """Let training start from what the bootstrap says of each pair, plus what it errs by on average; without one from the mean.

    Parameters
    ----------
    pairs : standardised features, shape (m, P, F).
    basis, weights : see `outlook_loss`.
    """
    heads = ensemble.network.outlook
    if heads is None or targets is None:
        return
    with torch.no_grad():
        _take_bootstrap(heads, ensemble)
        begun = torch.zeros(len(weights), len(pairs[0]), len(OUTLOOK_CURVES), basis.shape[-1])
        bootstrap = heads.bootstrap(pairs)
        if bootstrap is not None:
            begun[:, :, 0] = bootstrap
        curves = targets.curves.clone()
        # What is learned of the second curve is how far it lies above the first.
        above = (curves[:, 1] - curves[:, 0]).clamp(min=0.05)
        curves[:, 1] = above + torch.log(-torch.expm1(-above))
        ridge = 1e-2 * torch.eye(basis.shape[-1])
        for member, weight in enumerate(weights):
            seen = targets.weight * _known(weight[None], targets.weight.amax(dim=(1, 2)))[0][:, None, None]
            left = curves - torch.einsum("pck,pnk->pcn", begun[member], basis)
            normal = torch.einsum("pcn,pnk,pnl->ckl", seen, basis, basis)
            normal = normal + ridge * seen.sum(dim=(0, 2))[:, None, None].clamp(min=1e-6)
            right = torch.einsum("pcn,pcn,pnk->ck", seen, left, basis)
            heads.prior[member, 0] = torch.linalg.solve(normal, right[..., None])[..., 0]
            straight = pairs[member] @ heads.numbers_skip.weight[member, :, 0]
            known = _known(weight[None], targets.affine_weight)[0]
            heads.prior_numbers[member, 0, 0] = (known * (targets.affine_error - straight)).sum()
            rates = (_known(weight[None], targets.chance_weight.T) * targets.chances.T).sum(dim=1)
            heads.prior_numbers[member, 0, 1:] = torch.logit(rates, eps=0.02)
            if bootstrap is not None:
                share = _known(weight[None], targets.weight[:, 0].amax(dim=1))[0]
                heads.prior[member, 0, 0] = (share * _levels(left, seen)).sum()


def _levels(left: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Return how far each pair's error lies from the bootstrap's on average, shape (P,)."""
    known = (seen[:, 0] > 0).float()
    return (left[:, 0] * known).sum(dim=1) / known.sum(dim=1).clamp(min=1)


def probe_names(parameters: int) -> list[tuple[str, ...]]:
    """Return the names of the features that hold the bootstrap's `ERRORS`, by setting."""
    return [tuple(f"{EVIDENCE}{name}_{n}" for name in ERRORS) for n in range(len(ALONG) + len(ACROSS) * (parameters - 1))]


def _take_bootstrap(heads: OutlookHeads, ensemble: Ensemble) -> None:
    """Set the weights by which the evidence becomes the first curve, the affine error and the chance of a failed alignment.

    The last as in `bootstrap.chance_failed`.
    """
    reading = ensemble.reading
    spread = torch.as_tensor(reading.feature_sd, dtype=torch.float32)
    places = {name: n for n, name in enumerate(reading.features)}
    if heads.base is not None and heads.base_at_means is not None:
        means = torch.as_tensor(reading.feature_mean, dtype=torch.float32)
        turned = torch.as_tensor(probes_to_coefficients(ensemble.space, ensemble.knots), dtype=torch.float32)
        for column, names in enumerate(probe_names(len(ensemble.space))):
            for name in names:
                share = turned[:, column] / len(names)
                heads.base[:, places[name]] = spread[:, places[name], None] * share
                heads.base_at_means[:, 0] += means[:, places[name], None] * share
    failing = zip(("unexplained", "shell"), FAILED[1:], strict=True)
    nothing = [(name, 1 / len(NOTHING)) for name in NOTHING]
    for number, known in ((0, nothing), (1, list(failing))):
        for name, weight in known:
            place = places.get(f"{EVIDENCE}{name}")
            if place is not None:
                heads.numbers_skip.weight[:, place, number] = weight * spread[:, place]


def probes_to_coefficients(space: SearchSpace, knots: Knots, count: int = 25) -> np.ndarray:
    """Return the matrix (K, probes) that turns a quantity at the evidence's settings into coefficients over all of them.

    Along the first parameter it is linear between the probes, on the scale of the parameter; each further one adds what it did
    where it was tried, as in `bootstrap.evidence_curve`.
    """
    grid = space.grid(count)
    shares = space.shares(grid)
    probes = np.eye(len(ALONG) + len(ACROSS) * (len(space) - 1))
    read = np.stack([np.interp(shares[:, 0], ALONG, probe[: len(ALONG)]) for probe in probes], axis=1)
    defaults = space.shares(space.rows([space.defaults]))[0]
    for column in range(1, len(space)):
        first = len(ALONG) + len(ACROSS) * (column - 1)
        places = np.array([defaults[column], *ACROSS])
        order = np.argsort(places)
        for number, probe in enumerate(probes):
            gains = np.array([0.0, *(probe[first + n] - probe[CROSSED] for n in range(len(ACROSS)))])
            read[:, number] += np.interp(shares[:, column], places[order], gains[order])
    strengths = np.stack([p.strength(grid[:, n]) for n, p in enumerate(space)], axis=1)
    basis = tensor_basis(strengths, knots).astype(float)
    return np.linalg.solve(basis.T @ basis + 1e-3 * np.eye(basis.shape[1]), basis.T @ read)
