"""The published predictor as a baseline: HyperPredict (Shuaibu and Simpson, MELBA 2024), on our sweeps.

A convolutional encoder sees both images; its pooled channels and an embedding of log λ go through a small network that gives the
Dice of each structure and the folding at this λ. What differs from the paper, and why:

- Images are small (`paper_image`): the paper's 160 x 192 x 224 voxels cost minutes per epoch on a CPU.
- No pretrained weights come with this. The encoder is random and frozen (`FROZEN`), its pooled channels rescaled because they
  would otherwise hardly be seen beside the embedding of λ; or it is trained with the rest (`TRAINED`). Where a sweep holds what
  the paper's own encoder made of its pairs (`read_paper_channels`), that is taken in place of images (`PRETRAINED`).
- A pair is seen at all λ of the sweep in one step, where the paper has one random λ per pair.
- A structure that a pair lacks is left out of the loss. The published code counts its Dice as 0 and learns that.
- Folding is |J| <= 0 in percent of a domain, and its maximum is that of the training pairs. The published code counts |J| < 0 and
  divides by a number written down beforehand.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import SimpleITK as sitk
import torch
from HyperPredictRegLib.alignment.aligned_pair import AlignedPair
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.files import writing_into
from HyperPredictRegLib.core.progress import CancelCheck, Progress, ProgressEvent, never, silent, stop_if
from HyperPredictRegLib.core.resources import threads
from HyperPredictRegLib.spatial.geometry import Geometry
from torch import nn

from HyperPredictRegLab.manifest import ManifestPair, read_manifest
from HyperPredictRegLab.sweep.parts import part_name
from HyperPredictRegLab.sweep.runs import PreparedPair, SweepSettings, affine_from
from HyperPredictRegLab.sweep.tables import RUNS, check_columns, read_table
from HyperPredictRegLab.training.examples import Examples

START_WIDTH = 7
"""Channels of the encoder's first layer; the last has eight times as many."""

EMBEDDING = 32
"""Numbers that stand for one λ."""


@dataclass(frozen=True)
class PaperSettings:
    """How the baseline is built and trained.

    Attributes
    ----------
    alpha : weight of folding's loss against that of Dice (Equation 4, appendix F).
    domain : of folding; the paper counts over the grid.
    statistics : how channels are pooled (appendix C).
    hidden_layers : of the folding head, 1 or 2 (appendix B).
    trained_embedding : the text trains the embedding of λ; False is the fixed random projection of the published code, which
        computes it without gradients.
    trained_encoder : False leaves the encoder as it was drawn.
    rescaled : whether a frozen encoder's pooled channels get mean 0 and, all together, SD 1 over the training pairs. The paper
        does not do so, but has pretrained ones: random ones vary by about 0.003 between brains. A trained encoder finds its own.
    learning_rate : of Adam.
    epochs, patience : at most so many passes, and so many without a better validation loss.
    batch : pairs per step.
    seed : of weights and order.
    threads : of torch; with one, results are equal bit for bit.

    Raises
    ------
    InputError : a value cannot be used.
    """

    alpha: float = 1.0
    domain: Literal["grid", "foreground"] = "grid"
    statistics: Literal["mean", "mean-min-max"] = "mean"
    hidden_layers: int = 1
    trained_embedding: bool = True
    trained_encoder: bool = False
    rescaled: bool = True
    learning_rate: float = 1e-3
    epochs: int = 250
    patience: int = 30
    batch: int = 8
    seed: int = 20240901
    threads: int = 1

    def __post_init__(self) -> None:
        allowed = {"domain": ("grid", "foreground"), "statistics": ("mean", "mean-min-max"), "hidden_layers": (1, 2)}
        for name, choices in allowed.items():
            if getattr(self, name) not in choices:
                listed = ", ".join(map(str, choices))
                raise InputError(f"The paper's {name} cannot be {getattr(self, name)!r}: choose one of {listed}.")
        for name in ("epochs", "patience", "batch", "threads"):
            if getattr(self, name) < 1:
                raise InputError(f"The paper's {name} is {getattr(self, name)}, but it must be at least 1.")
        if not 0 < self.learning_rate < np.inf:
            raise InputError(f"The paper's learning_rate is {self.learning_rate}, but it must be above 0, for example 0.001.")
        if not 0 <= self.alpha < np.inf:
            raise InputError(f"The paper's alpha is {self.alpha}, but it must be 0 or more; the paper found 1 to be best.")


class PaperNetwork(nn.Module):
    """Encoder, embedding of λ, trunk and two heads (Figure 1).

    The encoder has the layout of SYMNet's encoding path (Mok and Chung, CVPR 2020), which the paper uses: ten convolutions of
    3 x 3 x 3, four of them with stride 2.
    """

    def __init__(self, structures: int, settings: PaperSettings) -> None:
        super().__init__()
        w = START_WIDTH
        widths = (2, w, w, 2 * w, 2 * w, 4 * w, 4 * w, 8 * w, 8 * w, 16 * w, 8 * w)
        layers: list[nn.Module] = []
        for place, (before, after) in enumerate(itertools.pairwise(widths)):
            convolution = nn.Conv3d(before, after, 3, stride=2 if place in (2, 4, 6, 8) else 1, padding=1)
            # A random encoder only passes contrast on if each layer keeps its variance (He et al., ICCV 2015).
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
            layers += [convolution, nn.ReLU()]
        self.encoder = nn.Sequential(*layers).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.encoder.requires_grad_(settings.trained_encoder)
        self.whole_statistics = settings.statistics == "mean-min-max"
        pooled = 8 * w * (3 if self.whole_statistics else 1)
        self.embedding = nn.Sequential(nn.Linear(1, EMBEDDING), nn.LeakyReLU(), nn.Linear(EMBEDDING, EMBEDDING))
        self.embedding.requires_grad_(settings.trained_embedding)
        self.trunk = nn.Sequential(nn.Linear(pooled + EMBEDDING, 64), nn.LeakyReLU())
        self.dice_head = nn.Sequential(nn.Linear(64, 64), nn.LeakyReLU(), nn.Linear(64, structures))
        second = [nn.Linear(32, 8), nn.LeakyReLU()] if settings.hidden_layers == 2 else []
        self.folding_head = nn.Sequential(nn.Linear(64, 32), nn.LeakyReLU(), *second, nn.Linear(8 if second else 32, 1))
        self.pooled_mean: torch.Tensor
        self.pooled_scale: torch.Tensor
        self.register_buffer("pooled_mean", torch.zeros(pooled))
        self.register_buffer("pooled_scale", torch.ones(()))

    def pooled(self, images: torch.Tensor) -> torch.Tensor:
        """Encode images (P, 2, k, j, i) and pool each channel: (P, F), not rescaled."""
        channels = self.encoder(images.to(memory_format=torch.channels_last_3d)).flatten(2)
        if not self.whole_statistics:
            return channels.mean(dim=2)
        return torch.cat([channels.mean(dim=2), channels.amin(dim=2), channels.amax(dim=2)], dim=1)

    def forward(self, pooled: torch.Tensor, log_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return Dice (P, S, n) and folding (P, n) in its own unit for `pooled` (P, F) and the logarithms of λ (P, n)."""
        seen = ((pooled - self.pooled_mean) / self.pooled_scale)[:, None].expand(-1, log_values.shape[1], -1)
        hidden = self.trunk(torch.cat([seen, self.embedding(log_values[..., None])], dim=-1))
        return self.dice_head(hidden).transpose(1, 2), self.folding_head(hidden)[..., 0]


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

PRETRAINED = PaperSettings(trained_embedding=False, rescaled=False, learning_rate=1e-4, epochs=5000, patience=1000)
"""As published, from the channels of its encoder, at length: up to 65,000 steps for 101 pairs, as eight epochs of the paper's."""


def paper_image(pair: AlignedPair, size: tuple[int, int, int] = (48, 56, 48)) -> np.ndarray:
    """Return what the encoder sees of a pair: moving and fixed on a small grid that fills the working grid.

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
    size : voxels of the images, (k, j, i), or how many channels were given in their place.
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
        """Predict Dice and folding of P pairs.

        Parameters
        ----------
        images : shape (P, 2, k, j, i), of `paper_image`, or channels (P, F) as in training.
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
    images : of all P pairs, shape (P, 2, k, j, i), float16 or float32; or channels (P, F) of an encoder trained elsewhere.
    train_mask, validation_mask : boolean, shape (P,). Keep subjects apart: pairs share them.

    Raises
    ------
    InputError : images or masks do not fit the examples, there is nothing to learn from, or the loss became infinite.
    Cancelled : the caller asked to stop.
    """
    count = len(examples.pairs)
    _check_images(images, count, _size_of(images))
    _check_channels(images, settings)
    train, validation = _rows(train_mask, validation_mask, count)
    folding = examples.folding_grid if settings.domain == "grid" else examples.folding_foreground
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
    return PaperPredictor(network, settings, examples.labels, known, _size_of(images), greatest, losses)


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
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=settings.learning_rate)
    losses: list[tuple[float, float]] = []
    best, best_epoch, weights = np.inf, 0, _learned(network, settings)
    for epoch in range(settings.epochs):
        total = 0.0
        order = pairs.train[torch.randperm(len(pairs.train))]
        for rows in order.split(settings.batch):
            stop_if(cancelled)
            pooled = network.pooled(_tensor(pairs.images[rows.numpy()])) if settings.trained_encoder else start[rows]
            loss = targets.loss(network(pooled, targets.log_values[rows]), rows, settings.alpha)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(rows)
        held_out = _validation_loss(network, pairs, targets, settings, start)
        losses.append((total / len(order), held_out))
        if not np.isfinite(losses[-1]).all():
            raise InputError(f"The loss became infinite with a learning_rate of {settings.learning_rate}: choose a smaller one.")
        progress(ProgressEvent("train", (epoch + 1) / settings.epochs, f"epoch {epoch + 1}", held_out))
        if held_out < best:
            best, best_epoch, weights = held_out, epoch, _learned(network, settings)
        elif epoch - best_epoch >= settings.patience:
            break
    network.load_state_dict(weights, strict=False)
    return tuple(losses)


def _learned(network: PaperNetwork, settings: PaperSettings) -> dict[str, torch.Tensor]:
    """Copy the weights that training changes; a frozen encoder has most of them, and copying it takes as long as a step."""
    stored = network.state_dict().items()
    return {name: value.clone() for name, value in stored if settings.trained_encoder or not name.startswith("encoder.")}


def _validation_loss(
    network: PaperNetwork, pairs: _Pairs, targets: _Targets, settings: PaperSettings, start: torch.Tensor
) -> float:
    rows = pairs.validation
    with torch.no_grad():
        encoded = _encoded(network, pairs.images[rows.numpy()], settings.batch) if settings.trained_encoder else start[rows]
        return float(targets.loss(network(encoded, targets.log_values[rows]), rows, settings.alpha))


def _encoded(network: PaperNetwork, images: np.ndarray, batch: int, cancelled: CancelCheck = never) -> torch.Tensor:
    if images.ndim == 2:
        return _tensor(images)
    found = [network.pooled(torch.zeros(0, *images.shape[1:]))] if len(images) == 0 else []
    for first in range(0, len(images), batch):
        stop_if(cancelled)
        found.append(network.pooled(_tensor(images[first : first + batch])))
    return torch.cat(found)


def _rescale(network: PaperNetwork, pooled: torch.Tensor) -> None:
    # One scale for all: with one each, a channel that is nearly the same in all training pairs blows up in another one.
    centered = pooled - pooled.mean(dim=0)
    scale = centered.square().mean().sqrt()
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


def _size_of(images: np.ndarray) -> tuple[int, ...]:
    return tuple(images.shape[1 if images.ndim == 2 else 2 :])


def _check_channels(images: np.ndarray, settings: PaperSettings) -> None:
    if images.ndim != 2:
        return
    expected = 8 * START_WIDTH * (1 if settings.statistics == "mean" else 3)
    if settings.trained_encoder or images.shape[1] != expected:
        raise InputError(
            f"The channels have shape {images.shape}, but (pairs, {expected}) is needed for statistics '{settings.statistics}', "
            "and an encoder that is not trained: give the images for one that is."
        )


def _check_images(images: np.ndarray, count: int, size: tuple[int, ...]) -> None:
    if len(size) == 1 and images.shape != (count, *size):
        raise InputError(f"The channels have shape {images.shape}, but {(count, *size)} is needed: encode all pairs alike.")
    if len(size) != 1 and (images.ndim != 5 or images.shape[:2] != (count, 2) or tuple(images.shape[2:]) != tuple(size)):
        expected = (count, 2, *size) if len(size) == 3 else (count, 2, "k", "j", "i")
        raise InputError(f"The images have shape {images.shape}, but {expected} is needed: make all by paper_image of one size.")
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


FOLDER = "paper-images"

CHANNELS = "paper-channels.parquet"
"""Of a sweep: one row per pair, `pair` and what a pretrained encoder made of it, mean, least and greatest of each channel."""

MOST_BYTES = 20_000_000
"""Of one image, forty times of what it has."""


def write_paper_images(
    manifest: Path | str, sweep: Path | str, *, progress: Progress = silent, cancelled: CancelCheck = never
) -> Path:
    """Write one small image of every registered pair into a folder of the sweep, with the affine step found there.

    Pairs that have theirs are left out, so it can be stopped and go on. About half a megabyte each.

    Raises
    ------
    InputError : the manifest cannot be read or the sweep has no table.
    Cancelled : the caller asked to stop.
    """
    sweep = Path(sweep)
    runs = read_table(sweep / RUNS, "runs table")
    check_columns(runs, ("pair", "error"), "runs table")
    first = runs[runs["error"] == ""].groupby("pair").first()
    pairs = [pair for pair in read_manifest(manifest) if pair.pair in first.index]
    folder = sweep / FOLDER
    with writing_into(folder, "files", ""):
        folder.mkdir(exist_ok=True)
    for done, pair in enumerate(pairs):
        stop_if(cancelled)
        progress(ProgressEvent("images", done / len(pairs), f"{done} of {len(pairs)} images"))
        path = image_path(folder, pair.pair)
        if not path.exists():
            image = _image(pair, first.loc[pair.pair])
            temporary = path.with_suffix(".tmp.npy")
            with writing_into(folder, "files", ""):
                np.save(temporary, image)
                temporary.replace(path)
    return folder


def read_paper_images(sweep: Path | str, pairs: tuple[str, ...]) -> np.ndarray | None:
    """Return the images of `pairs`, shape (P, 2, k, j, i), or None if any of them is not there.

    Raises
    ------
    InputError : an image is damaged, or they are of different sizes.
    """
    paths = [image_path(Path(sweep) / FOLDER, pair) for pair in pairs]
    if not paths or not all(path.is_file() for path in paths):
        return None
    images = [_read_image(path) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if image.shape != images[0].shape:
            raise InputError(f"The image '{path}' has another size than that of the first pair: write the images anew.")
    return np.stack(images)


def read_paper_channels(sweep: Path | str, pairs: tuple[str, ...]) -> np.ndarray | None:
    """Return what the paper's encoder made of `pairs`, the means of its channels (P, 56), or None if any of them is not there.

    Raises
    ------
    InputError : the table is damaged, or holds something else.
    """
    path = Path(sweep) / CHANNELS
    if not pairs or not path.is_file():
        return None
    columns = [f"channel_{n:03d}" for n in range(8 * START_WIDTH)]
    table = read_table(path, "table of channels")
    check_columns(table, ("pair", *columns), "table of channels")
    table = table.drop_duplicates("pair").set_index("pair")
    if not set(pairs) <= set(table.index):
        return None
    try:
        return table.loc[list(pairs), columns].to_numpy(np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"The table of channels '{path}' holds something else than numbers: encode the pairs anew.") from error


def image_path(folder: Path, pair: str) -> Path:
    """Return the file of a pair's image: called as the pair is, where a file can be."""
    plain = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", pair) is not None
    return folder / (f"{pair}.npy" if plain else Path(part_name(pair)).with_suffix(".npy"))


def _read_image(path: Path) -> np.ndarray:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has {path.stat().st_size / 1e6:.0f} MB")
        # Mapped first: what the header says is compared with the file's size before memory is taken for it.
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        image = np.array(mapped) if isinstance(mapped, np.ndarray) else None
        if image is None or image.ndim != 4 or len(image) != 2 or image.dtype.kind != "f":
            raise ValueError("it holds something else")
        if not np.isfinite(image).all():
            raise ValueError("it holds numbers that are not finite")
    except (OSError, ValueError, EOFError, SyntaxError, MemoryError, OverflowError) as error:
        raise InputError(f"'{path}' is no image of a pair for the paper's baseline ({error}): write the images anew.") from error
    return image


def _image(pair: ManifestPair, run: pd.Series) -> np.ndarray:
    matrix = {str(name): float(value) for name, value in run.filter(like="affine_matrix_").items()}
    with threads(1):
        prepared = PreparedPair.of(pair, SweepSettings(preset=str(run["preset"])), affine_from(matrix))
        return paper_image(prepared.pair).astype(np.float16)
