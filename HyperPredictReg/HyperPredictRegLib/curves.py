"""What a predictor foresees: quality of a registration as a function of its hyperparameters, with bands."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Band:
    """A quantity with its 90 % band; three arrays of one shape.

    Attributes
    ----------
    value : the best guess (the median).
    lower, upper : about 90 % of true values lie between them.
    """

    value: np.ndarray
    lower: np.ndarray
    upper: np.ndarray

    def __getitem__(self, index: Any) -> Band:
        return Band(self.value[index], self.lower[index], self.upper[index])


@dataclass(frozen=True)
class Curves:
    """Foreseen quality of one image pair for n settings of an engine's h hyperparameters.

    Attributes
    ----------
    names : the hyperparameters, h of them.
    values : shape (n, h); for a single hyperparameter in rising order.
    structures, labels : names and label values of the s structures.
    dice : Dice of each structure, shape (s, n).
    mean_dice : mean over these structures, shape (n,).
    folding_foreground, folding_box : folded voxels in percent of the domain, shape (n,); for a single hyperparameter
        not increasing in it.
    sd_log_jacobian : standard deviation of the logarithm of the Jacobian determinant over the foreground, shape (n,).
    """

    names: tuple[str, ...]
    values: np.ndarray
    structures: tuple[str, ...]
    labels: tuple[int, ...]
    dice: Band
    mean_dice: Band
    folding_foreground: Band
    folding_box: Band
    sd_log_jacobian: Band

    def folding(self, domain: str) -> Band:
        """Return folding in percent of `domain`: "foreground" or "box"."""
        return {"foreground": self.folding_foreground, "box": self.folding_box}[domain]

    def __post_init__(self) -> None:
        n = len(self.values)
        for field in fields(self):
            band = getattr(self, field.name)
            if isinstance(band, Band) and not band.value.shape == band.lower.shape == band.upper.shape:
                raise ValueError(f"The bands of {field.name} differ in shape.")
            if isinstance(band, Band) and band.value.shape[-1] != n:
                raise ValueError(f"{field.name} has {band.value.shape[-1]} points for {n} settings.")
