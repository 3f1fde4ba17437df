"""What a user or a predictor may choose for an engine: its parameters, their ranges and scales, and settings in them.

Nothing else in this library assumes that there is one parameter, that its scale is logarithmic, that it is above 0, or that more
of it regularizes more.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from HyperPredictRegLib.core.errors import InputError

Setting = dict[str, float]
"""One value for each parameter of a search space, by name."""

SCALES = ("log", "linear")
DIRECTIONS = ("up", "down")

_RELATIVE_SLACK = 1e-9
"""Values that have been through text or a logarithm may miss an end of the range by rounding."""


@dataclass(frozen=True)
class Parameter:
    """A number that is chosen per image pair, such as the regularization weight λ.

    Attributes
    ----------
    name : its key in a `Setting`.
    symbol : how figures and sentences write it.
    unit : "" if it has none.
    scale : "log" or "linear": on which its range is walked, drawn and interpolated.
    low, high : the ends of its range.
    default : for those who do not choose.
    regularizes : "up" if larger values deform less, "down" if smaller ones do.
    title : its name for people, such as "Regularization weight".
    tooltip : one sentence for the user.
    """

    name: str
    symbol: str
    unit: str
    scale: str
    low: float
    high: float
    default: float
    regularizes: str
    title: str
    tooltip: str

    def __post_init__(self) -> None:
        if self.scale not in SCALES or self.regularizes not in DIRECTIONS:
            raise InputError(f"The scale of '{self.name}' must be one of {SCALES}, its direction one of {DIRECTIONS}.")
        if not -math.inf < self.low < self.high < math.inf or (self.scale == "log" and self.low <= 0):
            raise InputError(f"The range of '{self.name}', {self.low:g} to {self.high:g}, is none on its scale: give other ends.")
        if not self.low <= self.default <= self.high:
            raise InputError(f"The default {self.default:g} of '{self.name}' lies outside of {self.low:g} to {self.high:g}.")

    @property
    def sign(self) -> int:
        """Return 1 if larger values regularize more, else -1."""
        return 1 if self.regularizes == "up" else -1

    @property
    def strongest(self) -> float:
        """Return the end of the range that regularizes most."""
        return self.high if self.regularizes == "up" else self.low

    @property
    def span(self) -> float:
        """Return how long the range is on its scale."""
        return float(self.scaled(self.high) - self.scaled(self.low))

    def check(self, value: float) -> float:
        """Return `value` as a float inside the range; raise `InputError` if it is no number or lies outside."""
        if not self.holds(value):
            unit = f" {self.unit}" if self.unit else ""
            raise InputError(
                f"{self.name} = {value:g} is outside of what this engine can use: "
                f"choose a value from {self.low:g} to {self.high:g}{unit}."
            )
        return min(max(float(value), self.low), self.high)

    def to_unit(self, values: np.ndarray | float) -> np.ndarray:
        """Return where values lie in the range, on its scale: 0 at `low`, 1 at `high`; same shape."""
        return np.asarray((self.scaled(values) - self.scaled(self.low)) / self.span)

    def from_unit(self, shares: np.ndarray | float) -> np.ndarray:
        """Return the values that lie at shares of the range, on its scale; the inverse of `to_unit`."""
        shares = np.asarray(shares, dtype=float)
        if self.scale == "log":
            values = self.low * (self.high / self.low) ** shares
        else:
            values = self.low + shares * (self.high - self.low)
        # The ends exactly, not to the last bit of a power.
        return np.where(shares == 0, self.low, np.where(shares == 1, self.high, values))

    def scaled(self, values: np.ndarray | float) -> np.ndarray:
        """Return values on the parameter's scale: their natural logarithm, or themselves."""
        values = np.asarray(values, dtype=float)
        return np.log(np.maximum(values, np.finfo(float).tiny)) if self.scale == "log" else values

    def strength(self, values: np.ndarray | float) -> np.ndarray:
        """Return values on the parameter's scale, turned so that a larger number always regularizes more; same shape."""
        return self.sign * self.scaled(values)

    def from_strength(self, strengths: np.ndarray | float) -> np.ndarray:
        """Return the values of the given strengths; the inverse of `strength`."""
        scaled = self.sign * np.asarray(strengths, dtype=float)
        return np.exp(scaled) if self.scale == "log" else scaled

    def text(self, value: float) -> str:
        """Return a value for a sentence, such as "λ = 0.781" or "h = 12.5 mm"."""
        # Everybody knows λ without a unit; its tooltip tells that it is one of voxels.
        unit = "" if self.unit in ("", "voxels") else f" {self.unit}"
        return f"{self.symbol} = {value:.3g}{unit}"

    def holds(self, values: np.ndarray | float) -> np.ndarray:
        """Tell which values are numbers inside the range, but for rounding; bool, same shape."""
        largest = max(abs(self.low), abs(self.high))
        below, above = (_RELATIVE_SLACK * (end if self.scale == "log" else largest) for end in (self.low, self.high))
        return (self.low - below <= np.asarray(values)) & (np.asarray(values) <= self.high + above)


@dataclass(frozen=True)
class SearchSpace:
    """The parameters of an engine, at least one; the first one is what a single slider moves and what is corrected.

    Arrays of settings have the shape (n, h): n settings of h parameters, in the order of `parameters`.
    """

    parameters: tuple[Parameter, ...]

    def __post_init__(self) -> None:
        if not self.parameters or len(set(self.names)) < len(self.parameters):
            raise InputError("A search space needs at least one parameter, each with a name of its own.")

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)

    def __getitem__(self, name: str) -> Parameter:
        return next(parameter for parameter in self.parameters if parameter.name == name)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the parameters."""
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def first(self) -> Parameter:
        """Return the parameter that a single slider moves and that the closed loop corrects."""
        return self.parameters[0]

    @property
    def defaults(self) -> Setting:
        """Return the setting for those who do not choose."""
        return {parameter.name: parameter.default for parameter in self.parameters}

    @property
    def strongest(self) -> Setting:
        """Return the setting that regularizes most."""
        return {parameter.name: parameter.strongest for parameter in self.parameters}

    def complete(self, given: Mapping[str, float], engine: str = "") -> Setting:
        """Return a checked value for each parameter, defaults where none was given.

        Parameters
        ----------
        given : values by name.
        engine : whose space it is, for the sentence about an unknown name.

        Raises
        ------
        InputError : an unknown name, or a value out of range.
        """
        for name in given:
            if name not in self.names:
                whose = f"The engine '{engine}'" if engine else "This engine"
                raise InputError(f"{whose} has no parameter '{name}'; it has: {', '.join(self.names)}.")
        return {p.name: p.check(given.get(p.name, p.default)) for p in self.parameters}

    def rows(self, settings: Sequence[Mapping[str, float]]) -> np.ndarray:
        """Return settings as an array, shape (n, h)."""
        return np.array([[setting[name] for name in self.names] for setting in settings], dtype=float).reshape(-1, len(self))

    def setting(self, row: np.ndarray | Sequence[float]) -> Setting:
        """Return one row of such an array as a setting."""
        return {name: float(value) for name, value in zip(self.names, row, strict=True)}

    def to_unit(self, values: np.ndarray) -> np.ndarray:
        """Return settings (n, h) as places in the unit cube, each axis on its parameter's scale."""
        return np.stack([p.to_unit(values[:, n]) for n, p in enumerate(self.parameters)], axis=1)

    def from_unit(self, shares: np.ndarray) -> np.ndarray:
        """Return places in the unit cube (n, h) as settings; the inverse of `to_unit`."""
        return np.stack([p.from_unit(shares[:, n]) for n, p in enumerate(self.parameters)], axis=1)

    def grid(self, count: int) -> np.ndarray:
        """Return a regular grid with `count` values per parameter, shape (count**h, h); the first parameter changes slowest."""
        axes = [p.from_unit(np.linspace(0, 1, count)) for p in self.parameters]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(self))

    def sample(self, count: int, seed: int) -> np.ndarray:
        """Return `count` settings that fill the space evenly (a scrambled Sobol sequence), shape (count, h)."""
        from scipy.stats import qmc  # loading it takes a second, which every start of the program would pay

        sampler = qmc.Sobol(len(self), scramble=True, seed=seed)
        return self.from_unit(sampler.random_base2(max(0, math.ceil(math.log2(max(count, 1)))))[:count])

    def regularization(self, values: np.ndarray) -> np.ndarray:
        """Return how strongly settings (n, h) regularize, shape (n,): the mean share of the way to each strongest end."""
        return self.shares(values).mean(axis=1)

    def shares(self, values: np.ndarray) -> np.ndarray:
        """Return settings (n, h) as shares of the way from each least to each most strongly regularizing end, same shape."""
        return self._turned(self.to_unit(values))

    def at_shares(self, shares: np.ndarray) -> np.ndarray:
        """Return the settings at such shares (n, h); the inverse of `shares`."""
        return self.from_unit(self._turned(shares))

    def _turned(self, shares: np.ndarray) -> np.ndarray:
        return np.where([p.regularizes == "up" for p in self.parameters], shares, 1 - shares)

    def only(self, names: Collection[str]) -> SearchSpace:
        """Return the space of some of its parameters, in its own order.

        Raises
        ------
        InputError : there is no parameter of such a name.
        """
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise InputError(f"There is no parameter '{unknown[0]}'; there are: {', '.join(self.names)}.")
        return SearchSpace(tuple(parameter for parameter in self.parameters if parameter.name in names))

    def narrowed(self, name: str, low: float, high: float) -> SearchSpace:
        """Return the space with one range cut to `low` to `high`, its default moved inside.

        Raises
        ------
        InputError : nothing of the range is left.
        """
        old = self[name]
        low, high = max(low, old.low), min(high, old.high)
        # Written so that a NaN is refused, too.
        if not low < high:
            raise InputError(f"There is no {old.title.lower()} that this engine can use for this pair: choose another preset.")
        new = replace(old, low=low, high=high, default=min(max(old.default, low), high))
        return SearchSpace(tuple(new if p.name == name else p for p in self.parameters))

    def text(self, setting: Mapping[str, float]) -> str:
        """Return a setting for a sentence, such as "λ = 0.781"."""
        return ", ".join(p.text(setting[p.name]) for p in self.parameters if p.name in setting)
