"""What was measured and what was predicted for a set of pairs, read at common λ."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from HyperPredictRegLib.curves import Band, Curves
from HyperPredictRegLib.engines import get_engine
from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.predictor.structures import structure_name

from HyperPredictRegLab.training.examples import Examples
from HyperPredictRegLab.training.population import at_values, dense_grid, folding_at

GRID = 200
"""λ from which every method may choose, as many as in the paper."""


@dataclass(frozen=True)
class Measured:
    """Measured curves of P pairs with S structures, by monotone cubics between the registrations of the sweep.

    Attributes
    ----------
    name : of the set of pairs.
    examples : what was measured.
    values : λ to choose from, shape (n,).
    wide : the same, continued to the engine's upper bound, where the closed loop may end; shape (w,).
    counted : which structures count for mean Dice: those that every method knows, boolean (S,).
    dice : shape (P, S, w).
    mean : mean Dice over the counted structures that a pair has, shape (P, w).
    foreground, box : folding in percent, shape (P, w).
    sd : SD log-Jacobian, shape (P, w).
    """

    name: str
    examples: Examples
    values: np.ndarray
    wide: np.ndarray
    counted: np.ndarray
    dice: np.ndarray
    mean: np.ndarray
    foreground: np.ndarray
    box: np.ndarray
    sd: np.ndarray

    @classmethod
    def of(cls, name: str, examples: Examples, values: np.ndarray, known: tuple[int, ...]) -> Measured:
        """Read measured curves.

        Raises
        ------
        InputError : no structure is known, or a pair was not measured over the λ to choose from.
        """
        first = get_engine(examples.engine).hyperparameters[0]
        step = values[-1] / values[-2]
        more = max(0, int(np.floor(np.log(first.upper / values[-1]) / np.log(step))))
        wide = np.concatenate([values, values[-1] * step ** np.arange(1, more + 1)])
        counted = np.array([label in known for label in examples.labels])
        if not counted.any():
            raise InputError(f"The pairs '{name}' have none of the structures that the training pairs have.")
        dice = _dense(examples, examples.dice, wide)
        return cls(
            name=name,
            examples=examples,
            values=values,
            wide=wide,
            counted=counted,
            dice=dice,
            mean=quiet_mean(dice[:, counted], axis=1),
            foreground=folding_at(examples, examples.folding_foreground, wide),
            box=folding_at(examples, examples.folding_box, wide),
            sd=_dense(examples, examples.sd_log_jacobian, wide),
        )

    @property
    def choice(self) -> slice:
        """The part of `wide` that is `values`."""
        return slice(0, len(self.values))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the structures."""
        return tuple(structure_name(label) for label in self.examples.labels)

    def folding(self, domain: str) -> np.ndarray:
        """Return folding in percent of `domain`, "foreground" or "box", shape (P, w)."""
        return {"foreground": self.foreground, "box": self.box}[domain]

    def chosen(self, rows: np.ndarray, name: str = "") -> Measured:
        """Return some of the pairs."""
        parts = {part: getattr(self, part)[rows] for part in ("dice", "mean", "foreground", "box", "sd")}
        return replace(self, name=name or self.name, examples=self.examples.chosen(rows), **parts)

    def read(self, curves: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Read curves (P, ..., w) or (P, ..., n) at one λ per pair (P,): shape (P, ...), linear in log λ."""
        x = np.log(self.wide[: curves.shape[-1]])
        return read_at(x, curves, np.log(at))


def _dense(examples: Examples, measured: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Read curves (P, ..., N) at many λ; one that lacks a measurement where the pair has a λ is NaN."""
    expected = ~np.isnan(examples.values).reshape(len(measured), *[1] * (measured.ndim - 2), -1)
    lacks = (np.isnan(measured) & expected).any(axis=-1)
    found = at_values(examples, np.where(np.isnan(measured), 0.0, measured), values)
    return np.where(lacks[..., None], np.nan, found)


def read_at(x: np.ndarray, curves: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Read curves (P, ..., n) over rising x (n,) at one place per pair (P,), linearly; beyond the ends the end stands."""
    place = np.clip(at, x[0], x[-1])
    above = np.clip(np.searchsorted(x, place), 1, len(x) - 1)
    share = (place - x[above - 1]) / (x[above] - x[above - 1])
    shape = (len(at), *[1] * (curves.ndim - 1))
    low, high = (np.take_along_axis(curves, index.reshape(shape), axis=-1)[..., 0] for index in (above - 1, above))
    weight = share.reshape((len(at), *[1] * (curves.ndim - 2)))
    return (1 - weight) * low + weight * high


def common_grid(train: Examples, *others: Examples) -> np.ndarray:
    """Return `GRID` λ over the range in which nearly all pairs of every set were measured.

    Raises
    ------
    InputError : there is no such range.
    """
    ends = [dense_grid(examples, 2) for examples in (train, *others)]
    low, high = max(float(end[0]) for end in ends), min(float(end[1]) for end in ends)
    if low >= high:
        raise InputError("The sweeps have no range of λ in common, so that methods cannot be compared: sweep them alike.")
    return np.geomspace(low, high, GRID)


def quiet_mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Return the mean without NaN; NaN where there is nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(values, axis=axis)


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
