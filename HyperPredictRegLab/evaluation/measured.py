"""What was measured and what was predicted for a set of pairs, read at common values of the parameter."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.search_space import Parameter, SearchSpace
from HyperPredictRegLib.results.prediction import LEVELS, Band, PredictionSurface
from HyperPredictRegLib.spatial.structures import structure_name

from HyperPredictRegLab.training.examples import Examples, at_values, dense_grid, folding_at

GRID = 200
"""Values from which every method may choose, as many as in the paper."""


@dataclass(frozen=True)
class Measured:
    """Measured curves of P pairs with S structures, by monotone cubics between the registrations of the sweep.

    Attributes
    ----------
    name : of the set of pairs.
    examples : what was measured.
    values : of the parameter, to choose from, least regularized first, shape (n,).
    wide : the same, continued to the most regularized value of the engine, where the closed loop may end; shape (w,).
    counted : which structures count for mean Dice: those that every method knows, boolean (S,).
    dice : shape (P, S, w).
    mean : mean Dice over the counted structures that a pair has, shape (P, w).
    foreground, grid : folding in percent, shape (P, w).
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
    grid: np.ndarray
    sd: np.ndarray

    @classmethod
    def of(cls, name: str, examples: Examples, values: np.ndarray, known: tuple[int, ...]) -> Measured:
        """Read measured curves.

        Raises
        ------
        InputError : no structure is known.
        """
        parameter = examples.parameter
        last, end = parameter.strength(values[-2:]), float(parameter.strength(parameter.strongest))
        step = last[1] - last[0]
        more = max(0, int(np.floor((end - last[1]) / step)))
        wide = np.concatenate([values, parameter.from_strength(last[1] + step * np.arange(1, more + 1))])
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
            grid=folding_at(examples, examples.folding_grid, wide),
            sd=_dense(examples, examples.sd_log_jacobian, wide),
        )

    @property
    def parameter(self) -> Parameter:
        """Return the parameter that is chosen."""
        return self.examples.parameter

    @property
    def choice(self) -> slice:
        """The part of `wide` that is `values`."""
        return slice(0, len(self.values))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the structures."""
        return tuple(structure_name(label) for label in self.examples.labels)

    def folding(self, domain: str) -> np.ndarray:
        """Return folding in percent of `domain`, "foreground" or "grid", shape (P, w)."""
        return {"foreground": self.foreground, "grid": self.grid}[domain]

    def chosen(self, rows: np.ndarray, name: str = "") -> Measured:
        """Return some of the pairs."""
        parts = {part: getattr(self, part)[rows] for part in ("dice", "mean", "foreground", "grid", "sd")}
        return replace(self, name=name or self.name, examples=self.examples.chosen(rows), **parts)

    def read(self, surface: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Read curves (P, ..., w) or (P, ..., n) at one value per pair (P,): shape (P, ...), linear on the parameter's scale."""
        strength = self.parameter.strength
        return read_at(strength(self.wide[: surface.shape[-1]]), surface, strength(at))


def _dense(examples: Examples, measured: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Read curves (P, ..., N) at many values; one that lacks a measurement where the pair has a value is NaN."""
    expected = ~np.isnan(examples.values).reshape(len(measured), *[1] * (measured.ndim - 2), -1)
    lacks = (np.isnan(measured) & expected).any(axis=-1)
    found = at_values(examples, np.where(np.isnan(measured), 0.0, measured), values)
    return np.where(lacks[..., None], np.nan, found)


def read_at(x: np.ndarray, surface: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Read curves (P, ..., n) over rising x (n,) at one place per pair (P,), linearly; beyond the ends the end stands."""
    place = np.clip(at, x[0], x[-1])
    above = np.clip(np.searchsorted(x, place), 1, len(x) - 1)
    share = (place - x[above - 1]) / (x[above] - x[above - 1])
    shape = (len(at), *[1] * (surface.ndim - 1))
    low, high = (np.take_along_axis(surface, index.reshape(shape), axis=-1)[..., 0] for index in (above - 1, above))
    weight = share.reshape((len(at), *[1] * (surface.ndim - 2)))
    return (1 - weight) * low + weight * high


def common_grid(train: Examples, *others: Examples, within: Parameter | None = None) -> np.ndarray:
    """Return `GRID` values, least regularized first, over the range in which nearly all pairs of every set were measured.

    Parameters
    ----------
    within : whose range they may not leave.

    Raises
    ------
    InputError : there is no such range.
    """
    parameter = train.parameter
    ends = [parameter.strength(dense_grid(examples, 2)) for examples in (train, *others)]
    if within is not None:
        ends.append(np.sort(parameter.strength(np.array([within.low, within.high]))))
    low, high = np.max(ends, axis=0)[0], np.min(ends, axis=0)[1]
    if low >= high:
        raise InputError(
            f"The sweeps have no range of {parameter.symbol} in common, so that methods cannot be compared: sweep them alike."
        )
    return parameter.from_strength(np.linspace(low, high, GRID))


def rising(parameter: Parameter) -> slice:
    """Return the slice that turns an axis from least regularized first to rising values, and back."""
    return slice(None, None, int(parameter.sign))


def quiet_mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Return the mean without NaN; NaN where there is nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(values, axis=axis)


@dataclass(frozen=True)
class PredictedPairs:
    """Predicted curves of P pairs at the n values to choose from; NaN is what the method does not predict.

    Attributes
    ----------
    dice : shape (P, S, n).
    mean : mean Dice over the counted structures, shape (P, n).
    foreground, grid : folding in percent, shape (P, n).
    sd : SD log-Jacobian, shape (P, n).
    reliabilities : level of each pair, shape (P,).
    """

    dice: Band
    mean: Band
    foreground: Band
    grid: Band
    sd: Band
    reliabilities: np.ndarray

    def folding(self, domain: str) -> Band:
        """Return folding of `domain`, "foreground" or "grid"."""
        return {"foreground": self.foreground, "grid": self.grid}[domain]

    def chosen(self, rows: np.ndarray) -> PredictedPairs:
        """Return some of the pairs."""
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def surface(self, measured: Measured, row: int) -> PredictionSurface:
        """Return one pair's curves as the product's criteria read them; structures that are not predicted are left out."""
        told = np.flatnonzero(np.isfinite(self.dice.value[row]).all(axis=-1))
        order = rising(measured.parameter)
        return PredictionSurface(
            space=SearchSpace((measured.parameter,)),
            values=measured.values[order, None],
            structures=tuple(measured.names[n] for n in told),
            labels=tuple(measured.examples.labels[n] for n in told),
            dice=self.dice[row, told][:, order],
            mean_dice=self.mean[row, order],
            folding_foreground=self.foreground[row, order],
            folding_grid=self.grid[row, order],
            sd_log_jacobian=self.sd[row, order],
        )


def joined(parts: Sequence[PredictedPairs]) -> PredictedPairs:
    """Join what was predicted of several sets of pairs."""

    def band(name: str) -> Band:
        bands = [getattr(part, name) for part in parts]
        return Band(*(np.concatenate([getattr(b, end) for b in bands]) for end in ("value", "lower", "upper")))

    names = ("dice", "mean", "foreground", "grid", "sd")
    reliabilities = np.concatenate([part.reliabilities for part in parts])
    return PredictedPairs(**{name: band(name) for name in names}, reliabilities=reliabilities)


def without_bands(
    measured: Measured, dice: np.ndarray, foreground: np.ndarray, grid: np.ndarray, sd: np.ndarray, margin: float = 1.0
) -> PredictedPairs:
    """Wrap plain curves: bands are as wide as the curve, but for the upper end of folding, which is `margin` times the curve."""

    def flat(values: np.ndarray) -> Band:
        return Band(values, values, values)

    has = np.isfinite(measured.dice).any(axis=-1) & measured.counted
    mean = quiet_mean(np.where(has[..., None], dice, np.nan), axis=1)
    return PredictedPairs(
        dice=flat(dice),
        mean=flat(mean),
        foreground=Band(foreground, foreground, foreground * margin),
        grid=Band(grid, grid, grid * margin),
        sd=flat(sd),
        reliabilities=np.full(len(mean), LEVELS[0], dtype=np.array(LEVELS).dtype),
    )
