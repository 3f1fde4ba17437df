"""The network of the published predictor, HyperPredict (Shuaibu and Simpson, MELBA 2024, Figure 1), and its settings."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from HyperPredictRegLib.errors import InputError
from torch import nn

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
    domain : of folding; the paper counts over the box.
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
    domain: Literal["box", "foreground"] = "box"
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
        allowed = {"domain": ("box", "foreground"), "statistics": ("mean", "mean-min-max"), "hidden_layers": (1, 2)}
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
