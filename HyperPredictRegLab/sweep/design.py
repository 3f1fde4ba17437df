"""Which λ a sweep tries: several per pair, so that a curve is observed and not a single point."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from HyperPredictRegLib.alignment.settings import check_seed
from HyperPredictRegLib.engines.base import Engine, Hyperparameter
from HyperPredictRegLib.errors import InputError
from scipy.stats import qmc

DENSE = {"demons": ((0.4, 0.5), (0.5, 0.57), (0.57, 0.66), (0.66, 0.8), (0.8, 1.1), (1.1, 1.8), (1.8, 4.5))}
"""Strata of λ by engine, narrow where folding and Dice change. Demons at 2 mm fold 3 % of a brain at 0.45 and 0.01 % at 0.7."""


MOST_SETTINGS = 200
"""Per pair. A curve over λ is known long before; more would only take time."""


@dataclass(frozen=True)
class Design:
    """How a pair's settings are drawn.

    Attributes
    ----------
    values : the same values of the first hyperparameter for every pair; empty means that they are drawn per pair.
    count : settings per pair where they are drawn.
    seed : fixes the draw; a pair's draw depends on this and its name only.
    """

    values: tuple[float, ...] = ()
    count: int = 7
    seed: int = 20240901

    def __post_init__(self) -> None:
        if not self.values and not 2 <= self.count <= MOST_SETTINGS:
            what = "show no curve" if self.count < 2 else "are more than a curve needs"
            raise InputError(f"{self.count} settings per pair {what}: take 2 to {MOST_SETTINGS}.")
        if len(self.values) > MOST_SETTINGS:
            raise InputError(f"{len(self.values)} settings per pair are more than a curve needs: take at most {MOST_SETTINGS}.")
        twice = sorted({value for value in self.values if self.values.count(value) > 1})
        if twice:
            raise InputError(f"The value {twice[0]:g} was given twice: every setting is registered once, so name it once.")
        check_seed(self.seed)

    def settings(self, engine: Engine, pair: str) -> list[dict[str, float]]:
        """Return this pair's settings, each a value for every hyperparameter of the engine.

        One hyperparameter: one draw per stratum of `DENSE`, uniform on the hyperparameter's scale (strata of equal width where
        the engine has none of its own, or where another count is asked for). Several: a scrambled Sobol sequence over all.

        Raises
        ------
        InputError : a value is outside of the engine's range, or fixed values are given for several hyperparameters.
        """
        names = [h.name for h in engine.hyperparameters]
        if self.values:
            if len(names) != 1:
                raise InputError(f"The engine '{engine.name}' has {len(names)} hyperparameters: their values must be drawn.")
            return [{names[0]: engine.hyperparameters[0].check(value)} for value in self.values]
        # Not `hash`, which differs from one process to the next.
        random = np.random.default_rng([self.seed, zlib.crc32(pair.encode())])
        if len(names) == 1:
            strata: tuple[tuple[float, float], ...] = DENSE.get(engine.name, ())
            if len(strata) != self.count:
                edges = engine.hyperparameters[0].grid(self.count + 1)
                strata = tuple(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
            return [{names[0]: _between(engine.hyperparameters[0], s, float(random.random()))} for s in strata]
        points = qmc.Sobol(len(names), rng=random).random(self.count)
        return [
            {h.name: _between(h, (h.lower, h.upper), share) for h, share in zip(engine.hyperparameters, point, strict=True)}
            for point in points.tolist()
        ]


def _between(hyperparameter: Hyperparameter, ends: Sequence[float], share: float) -> float:
    low, high = ends
    value = low * (high / low) ** share if hyperparameter.scale == "log" else low + share * (high - low)
    return round(float(np.clip(value, hyperparameter.lower, hyperparameter.upper)), 5)
