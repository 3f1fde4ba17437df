"""What a method foretells of many pairs, in one form for all methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from HyperPredictRegLib.curves import Band, Curves

from HyperPredictRegLab.evaluation.measured import Measured, quiet_mean


@dataclass(frozen=True)
class Foretold:
    """Foretold curves of P pairs at the n λ to choose from; NaN is what the method does not foretell.

    Attributes
    ----------
    dice : shape (P, S, n).
    mean : mean Dice over the counted structures, shape (P, n).
    foreground, box : folding in percent, shape (P, n).
    sd : SD log-Jacobian, shape (P, n).
    lights : traffic light of each pair, shape (P,).
    """

    dice: Band
    mean: Band
    foreground: Band
    box: Band
    sd: Band
    lights: np.ndarray

    def folding(self, domain: str) -> Band:
        """Return folding of `domain`, "foreground" or "box"."""
        return {"foreground": self.foreground, "box": self.box}[domain]

    def chosen(self, rows: np.ndarray) -> Foretold:
        """Return some of the pairs."""
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def curves(self, measured: Measured, row: int) -> Curves:
        """Return one pair's curves as the product's criteria read them; structures that are not foretold are left out."""
        told = np.flatnonzero(np.isfinite(self.dice.value[row]).all(axis=-1))
        return Curves(
            names=(measured.examples.hyperparameter,),
            values=measured.values[:, None],
            structures=tuple(measured.names[n] for n in told),
            labels=tuple(measured.examples.labels[n] for n in told),
            dice=self.dice[row, told],
            mean_dice=self.mean[row],
            folding_foreground=self.foreground[row],
            folding_box=self.box[row],
            sd_log_jacobian=self.sd[row],
        )


def joined(parts: Sequence[Foretold]) -> Foretold:
    """Join what was foretold of several sets of pairs."""

    def band(name: str) -> Band:
        bands = [getattr(part, name) for part in parts]
        return Band(*(np.concatenate([getattr(b, end) for b in bands]) for end in ("value", "lower", "upper")))

    names = ("dice", "mean", "foreground", "box", "sd")
    return Foretold(**{name: band(name) for name in names}, lights=np.concatenate([part.lights for part in parts]))


def without_bands(
    measured: Measured, dice: np.ndarray, foreground: np.ndarray, box: np.ndarray, sd: np.ndarray, margin: float = 1.0
) -> Foretold:
    """Wrap plain curves: bands are as wide as the curve, but for the upper end of folding, which is `margin` times the curve."""

    def flat(values: np.ndarray) -> Band:
        return Band(values, values, values)

    has = np.isfinite(measured.dice).any(axis=-1) & measured.counted
    mean = quiet_mean(np.where(has[..., None], dice, np.nan), axis=1)
    return Foretold(
        dice=flat(dice),
        mean=flat(mean),
        foreground=Band(foreground, foreground, foreground * margin),
        box=Band(box, box, box * margin),
        sd=flat(sd),
        lights=np.full(len(mean), "green"),
    )
