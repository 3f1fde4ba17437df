"""Which settings a sweep tries: several per pair, so that a curve is observed and not a single point."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from HyperPredictRegLib.alignment.frame import check_seed
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.search_space import Parameter, SearchSpace, Setting
from HyperPredictRegLib.engines.base import Engine

MOST_SETTINGS = 200
"""Per pair. A curve is known long before; more would only take time."""


@dataclass(frozen=True)
class Design:
    """How a pair's settings are drawn.

    Attributes
    ----------
    values : the same values of the one parameter for every pair; empty means that they are drawn per pair.
    count : settings per pair where they are drawn.
    seed : fixes the draw; a pair's draw depends on this and its name only.
    vary : names of the parameters that are tried, the others keep their default; empty means all.
    along_first : how many of the drawn settings vary the first parameter only, where several vary: the curve that a slider shows
        is then seen more closely than the rest of the space.
    """

    values: tuple[float, ...] = ()
    count: int = 7
    seed: int = 20240901
    vary: tuple[str, ...] = ()
    along_first: int = 0

    def __post_init__(self) -> None:
        if not self.values and not 2 <= self.count <= MOST_SETTINGS:
            what = "show no curve" if self.count < 2 else "are more than a curve needs"
            raise InputError(f"{self.count} settings per pair {what}: take 2 to {MOST_SETTINGS}.")
        if not 0 <= self.along_first <= self.count:
            raise InputError(f"{self.along_first} settings along the first parameter cannot be drawn among {self.count}.")
        if len(self.values) > MOST_SETTINGS:
            raise InputError(f"{len(self.values)} settings per pair are more than a curve needs: take at most {MOST_SETTINGS}.")
        twice = sorted({value for value in self.values if self.values.count(value) > 1})
        if twice:
            raise InputError(f"The value {twice[0]:g} was given twice: every setting is registered once, so name it once.")
        check_seed(self.seed)

    def settings(self, engine: Engine, pair: str) -> list[Setting]:
        """Return this pair's settings, in the engine's search space.

        One parameter: one draw per stratum of the engine's `sweep_strata`, uniform on the parameter's scale; strata of equal
        width where it has none, or where another count is asked for. Several: `along_first` of them so, the others fill the
        space, see `SearchSpace.sample`.

        Raises
        ------
        InputError : a value is outside of the engine's range, fixed values are given for several parameters, or the engine has no
            such parameter to vary.
        """
        whole = engine.info.search_space
        space = whole.only(self.vary) if self.vary else whole
        if self.values:
            if len(space) != 1:
                raise InputError(
                    f"The engine '{engine.info.name}' has {len(space)} parameters: draw their values, or name one to vary."
                )
            return [{**whole.defaults, space.first.name: space.first.check(value)} for value in self.values]
        # Not `hash`, which differs from one process to the next.
        random = np.random.default_rng([self.seed, zlib.crc32(pair.encode())])
        if len(space) == 1:
            return _along(space, whole, self.count, engine, random)
        drawn = _along(space, whole, self.along_first, engine, random) if self.along_first else []
        values = space.sample(self.count - self.along_first, int(random.integers(2**31)))
        return drawn + [_completed(row, space, whole) for row in values.tolist()]


def _along(space: SearchSpace, whole: SearchSpace, count: int, engine: Engine, random: np.random.Generator) -> list[Setting]:
    """Draw settings that vary the first parameter of `space` only, one from each stratum."""
    first = space.only(space.names[:1])
    edges = np.array(engine.info.sweep_strata)
    if len(edges) != count + 1:
        edges = np.linspace(0, 1, count + 1)
    values = first.from_unit((edges[:-1] + np.diff(edges) * random.random(count))[:, None])
    return [_completed(row, first, whole) for row in values.tolist()]


def _completed(row: Sequence[float], space: SearchSpace, whole: SearchSpace) -> Setting:
    return {**whole.defaults, **{p.name: _rounded(value, p) for p, value in zip(space, row, strict=True)}}


def _rounded(value: float, parameter: Parameter) -> float:
    """Return a drawn value with five decimals, more where the whole range is short, inside of the range."""
    digits = max(5, 5 - math.floor(math.log10(parameter.high - parameter.low)))
    return min(max(round(value, digits), parameter.low), parameter.high)
