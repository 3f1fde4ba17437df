"""The published predictor as a baseline: HyperPredict (Shuaibu and Simpson, MELBA 2024), on our sweeps.

A convolutional encoder sees both images; its pooled channels and an embedding of log λ go through a small network that gives the
Dice of each structure and the folding at this λ. What differs from the paper, and why:

- Images are small (`paper_image`): the paper's 160 x 192 x 224 voxels cost minutes per epoch on a CPU.
- There are no pretrained weights. The encoder is random and frozen (`FROZEN`), its pooled channels rescaled because they would
  otherwise hardly be seen beside the embedding of λ; or it is trained with the rest (`TRAINED`).
- A pair is seen at all λ of the sweep in one step, where the paper has one random λ per pair.
- A structure that a pair lacks is left out of the loss. The published code counts its Dice as 0 and learns that.
- Folding is |J| <= 0 in percent of a domain, and its maximum is that of the training pairs. The published code counts |J| < 0 and
  divides by a number written down beforehand.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch
from HyperPredictRegLib.aligned_pair import AlignedPair
from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.geometry import Geometry
from HyperPredictRegLib.progress import CancelCheck, Progress, ProgressEvent, never, silent, stop_if

from HyperPredictRegLab.baselines.paper_network import PaperNetwork, PaperSettings
from HyperPredictRegLab.training.examples import Examples

LEAST_VALUE = 1e-5
"""Stands for λ = 0, which has no logarithm, as in the published code."""

TRAINED_SIZE = (32, 40, 32)
"""Size of `paper_image` for a trained encoder: an epoch of 200 pairs takes 3 s on one thread, at the default size 10 s."""

_ROWS_AT_ONCE = 65536

FROZEN = PaperSettings()
"""For a few hundred pairs. They make about 30 steps per epoch, the paper's thousands: hence more patience and a greater rate."""

PUBLISHED = PaperSettings(trained_embedding=False, learning_rate=1e-4, epochs=150, patience=8)
"""The numbers and the fixed embedding of the published code."""

TRAINED = PaperSettings(trained_encoder=True, epochs=50, patience=15)
"""The encoder is trained end to end; use images of `TRAINED_SIZE`."""


def paper_image(pair: AlignedPair, size: tuple[int, int, int] = (48, 56, 48)) -> np.ndarray:
    """Return what the encoder sees of a pair: moving and fixed on a small grid that fills the working grid's box.

    The paper's encoder sees 160 x 192 x 224 voxels, which costs minutes per epoch on a CPU. Intensities stay as they are on the
    working grid, about 0 to 1, where the paper scales each volume's least and greatest value to 0 and 1.

    Parameters
    ----------
    pair : on its working grid.
    size : voxels along i, j, k; they need not be isotropic.

    Returns
    -------
    image : float32, shape (2, k, j, i).

    Raises
    ------
    InputError : `size` is not three whole numbers of at least 1.
    """
    if len(size) != 3 or any(not isinstance(n, int) or n < 1 for n in size):
        raise InputError(f"The size of the paper's images is {size}, but it must be three whole numbers of at least 1.")
    grid = pair.grid
    spacing = tuple(e / n for e, n in zip(grid.extent_mm, size, strict=True))
    ratio = np.array(spacing) / np.array(grid.spacing)
    small = Geometry(size, spacing, tuple(grid.to_lps((ratio - 1) / 2).tolist()), grid.direction)  # type: ignore[arg-type]
    channels = []
    for image in (pair.moving, pair.fixed):
        for axis in np.flatnonzero(ratio > 1.1).tolist():
            image = sitk.RecursiveGaussian(image, sigma=0.5 * spacing[axis], direction=axis)
        channels.append(sitk.GetArrayFromImage(small.resample(image)))
    return np.stack(channels).astype(np.float32)


@dataclass(frozen=True)
class PaperPredictor:
    """A trained baseline.

    Attributes
    ----------
    network : with the weights of the best epoch.
    settings : as trained.
    labels : label values of the S structures.
    known : which structures any training pair had, boolean (S,).
    size : voxels of the images, (k, j, i).
    greatest_folding : percent, the unit of the network's folding.
    losses : training and validation loss of each epoch.
    """

    network: PaperNetwork
    settings: PaperSettings
    labels: tuple[int, ...]
    known: np.ndarray
    size: tuple[int, ...]
    greatest_folding: float
    losses: tuple[tuple[float, float], ...]

    def predict(self, images: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Foresee Dice and folding of P pairs.

        Parameters
        ----------
        images : shape (P, 2, k, j, i), of `paper_image`.
        values : λ, shape (n,) for all pairs or (P, n); NaN gives NaN.

        Returns
        -------
        dice : shape (P, S, n). The head is linear as in the paper: it can leave 0 to 1. NaN for a structure not `known`.
        folding : percent of the settings' domain, at least 0, shape (P, n).

        Raises
        ------
        InputError : the images are not like those in training, or a λ is negative.
        """
        _check_images(images, len(images), self.size)
        values = np.asarray(values, dtype=float)
        if values.ndim == 1:
            values = np.broadcast_to(values, (len(images), len(values)))
        if values.shape[:1] != (len(images),) or values.ndim != 2:
            raise InputError(f"The values have shape {values.shape} for {len(images)} pairs: give (n,) or ({len(images)}, n).")
        log_values = torch.as_tensor(_log(values), dtype=torch.float32)
        dice = np.full((len(images), len(self.labels), values.shape[1]), np.nan, dtype=np.float32)
        folding = np.full(values.shape, np.nan, dtype=np.float32)
        step = max(1, _ROWS_AT_ONCE // max(values.shape[1], 1))
        with _torch_threads(self.settings.threads), torch.inference_mode():
            pooled = _encoded(self.network, images, self.settings.batch)
            for start in range(0, len(images), step):
                rows = slice(start, start + step)
                found = self.network(pooled[rows], log_values[rows])
                dice[rows], folding[rows] = (part.numpy() for part in found)
        dice[:, ~self.known] = np.nan
        return dice, np.maximum(folding, 0) * self.greatest_folding


@dataclass(frozen=True)
class _Targets:
    """Weights are 0 where nothing was observed; folding is in units of its maximum."""

    log_values: torch.Tensor
    dice: torch.Tensor
    dice_weight: torch.Tensor
    folding: torch.Tensor
    folding_weight: torch.Tensor

    def loss(self, found: tuple[torch.Tensor, torch.Tensor], rows: torch.Tensor, alpha: float) -> torch.Tensor:
        """Return Equation 4 with Equations 6 and 7, each a mean over what was observed in `rows`."""
        dice = _mean_square(found[0] - self.dice[rows], self.dice_weight[rows])
        return dice + alpha * _mean_square(found[1] - self.folding[rows], self.folding_weight[rows])


def train_paper(
    examples: Examples,
    images: np.ndarray,
    train_mask: np.ndarray,
    validation_mask: np.ndarray,
    settings: PaperSettings = FROZEN,
    progress: Progress = silent,
    cancelled: CancelCheck = never,
) -> PaperPredictor:
    """Train the baseline and keep the epoch with the least validation loss.

    Parameters
    ----------
    examples : what to learn from.
    images : of all P pairs, shape (P, 2, k, j, i), float16 or float32.
    train_mask, validation_mask : boolean, shape (P,). Keep subjects apart: pairs share them.

    Raises
    ------
    InputError : images or masks do not fit the examples, there is nothing to learn from, or the loss became infinite.
    Cancelled : the caller asked to stop.
    """
    count = len(examples.pairs)
    _check_images(images, count, images.shape[2:])
    train, validation = _rows(train_mask, validation_mask, count)
    folding = examples.folding_box if settings.domain == "box" else examples.folding_foreground
    greatest = _greatest(folding[train])
    targets = _targets(examples, folding / greatest)
    for name, rows in (("training", train), ("validation", validation)):
        if not (targets.dice_weight[rows].any() and targets.folding_weight[rows].any()):
            raise InputError(f"The {name} pairs have no Dice or no folding: choose others, or run the sweep with label maps.")
    with _torch_threads(settings.threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = PaperNetwork(len(examples.labels), settings)
        losses = _fit(network, _Pairs(images, train, validation), targets, settings, progress, cancelled)
    network.eval()
    known = targets.dice_weight[train].any(dim=2).any(dim=0).numpy()
    return PaperPredictor(network, settings, examples.labels, known, tuple(images.shape[2:]), greatest, losses)


@dataclass(frozen=True)
class _Pairs:
    """Images of all pairs and the rows of two kinds."""

    images: np.ndarray
    train: torch.Tensor
    validation: torch.Tensor


def _fit(
    network: PaperNetwork, pairs: _Pairs, targets: _Targets, settings: PaperSettings, progress: Progress, cancelled: CancelCheck
) -> tuple[tuple[float, float], ...]:
    """Train in place with Adam and leave the best epoch's weights; return training and validation loss of each epoch."""
    start = torch.empty(0)
    if not settings.trained_encoder:
        progress(ProgressEvent("encode", 0.0, "encoding all pairs"))
        with torch.no_grad():
            start = _encoded(network, pairs.images, settings.batch, cancelled)
        if settings.rescaled:
            _rescale(network, start[pairs.train])
    optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=settings.learning_rate)
    losses: list[tuple[float, float]] = []
    best, best_epoch, weights = np.inf, 0, copy.deepcopy(network.state_dict())
    for epoch in range(settings.epochs):
        total = 0.0
        order = pairs.train[torch.randperm(len(pairs.train))]
        for rows in order.split(settings.batch):
            stop_if(cancelled)
            pooled = network.pooled(_tensor(pairs.images[rows.numpy()])) if settings.trained_encoder else start[rows]
            loss = targets.loss(network(pooled, targets.log_values[rows]), rows, settings.alpha)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += float(loss.detach()) * len(rows)
        held_out = _validation_loss(network, pairs, targets, settings, start)
        losses.append((total / len(order), held_out))
        if not np.isfinite(losses[-1]).all():
            raise InputError(f"The loss became infinite with a learning_rate of {settings.learning_rate}: choose a smaller one.")
        progress(ProgressEvent("train", (epoch + 1) / settings.epochs, f"epoch {epoch + 1}", held_out))
        if held_out < best:
            best, best_epoch, weights = held_out, epoch, copy.deepcopy(network.state_dict())
        elif epoch - best_epoch >= settings.patience:
            break
    network.load_state_dict(weights)
    return tuple(losses)


def _validation_loss(
    network: PaperNetwork, pairs: _Pairs, targets: _Targets, settings: PaperSettings, start: torch.Tensor
) -> float:
    rows = pairs.validation
    with torch.no_grad():
        encoded = _encoded(network, pairs.images[rows.numpy()], settings.batch) if settings.trained_encoder else start[rows]
        return float(targets.loss(network(encoded, targets.log_values[rows]), rows, settings.alpha))


def _encoded(network: PaperNetwork, images: np.ndarray, batch: int, cancelled: CancelCheck = never) -> torch.Tensor:
    found = [network.pooled(torch.zeros(0, *images.shape[1:]))] if len(images) == 0 else []
    for first in range(0, len(images), batch):
        stop_if(cancelled)
        found.append(network.pooled(_tensor(images[first : first + batch])))
    return torch.cat(found)


def _rescale(network: PaperNetwork, pooled: torch.Tensor) -> None:
    # One scale for all: with one each, a channel that is nearly the same in all training pairs blows up in another one.
    centred = pooled - pooled.mean(dim=0)
    scale = centred.square().mean().sqrt()
    network.pooled_mean.copy_(pooled.mean(dim=0))
    # Where all images are alike, the scale is rounding only.
    network.pooled_scale.copy_(scale.clamp(min=max(1e-3 * float(pooled.abs().mean()), 1e-12)))


def _targets(examples: Examples, folding: np.ndarray) -> _Targets:
    observed = ~np.isnan(examples.values)
    dice_weight = observed[:, None] & ~np.isnan(examples.dice)
    folding_weight = observed & ~np.isnan(folding)
    arrays = (_log(np.nan_to_num(examples.values, nan=1.0)), np.nan_to_num(examples.dice), dice_weight, np.nan_to_num(folding))
    return _Targets(*(torch.as_tensor(part, dtype=torch.float32) for part in (*arrays, folding_weight)))


def _mean_square(error: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (error.square() * weight).sum() / weight.sum().clamp(min=1)


def _greatest(folding: np.ndarray) -> float:
    """Return the unit of folding: the training pairs' maximum, or 1 percent if nothing folded."""
    found = float(np.nanmax(folding, initial=0.0))
    return found if found > 0 else 1.0


def _rows(train_mask: np.ndarray, validation_mask: np.ndarray, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    masks = (np.asarray(train_mask), np.asarray(validation_mask))
    for name, mask in zip(("train_mask", "validation_mask"), masks, strict=True):
        if mask.dtype != bool or mask.shape != (count,):
            raise InputError(f"The {name} is {mask.dtype} of shape {mask.shape}: give one True or False per pair ({count}).")
        if not mask.any():
            raise InputError(f"The {name} picks no pair: training needs pairs to learn from and others to tell when to stop.")
    if (masks[0] & masks[1]).any():
        raise InputError(f"{int((masks[0] & masks[1]).sum())} pairs are in both masks: validation pairs must not be trained on.")
    train, validation = (torch.as_tensor(np.flatnonzero(mask)) for mask in masks)
    return train, validation


def _check_images(images: np.ndarray, count: int, size: tuple[int, ...]) -> None:
    if images.ndim != 5 or images.shape[:2] != (count, 2) or tuple(images.shape[2:]) != tuple(size):
        wanted = (count, 2, *size) if len(size) == 3 else (count, 2, "k", "j", "i")
        raise InputError(f"The images have shape {images.shape}, but {wanted} is needed: make all with paper_image of one size.")
    if not np.isfinite(images).all():
        raise InputError("The images hold numbers that are not finite: give intensities of about 0 to 1 (float16 ends at 65504).")


def _log(values: np.ndarray) -> np.ndarray:
    if (values < 0).any() or np.isinf(values).any():
        raise InputError("A value of λ is negative or infinite, so it has no logarithm to predict from: give λ of 0 or more.")
    return np.log(np.where(values == 0, LEAST_VALUE, values))


def _tensor(images: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(np.ascontiguousarray(images), dtype=torch.float32)


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
