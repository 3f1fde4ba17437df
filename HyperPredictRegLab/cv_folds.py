"""Folds of subjects: whoever is held out is held out in every pair."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from HyperPredictRegLib.errors import InputError

COUNT = 5
SEED = 20240901


def subject_folds(subjects: Iterable[str], count: int = COUNT, seed: int = SEED) -> dict[str, int]:
    """Deal subjects into `count` folds of as equal size as can be; the same names and seed give the same folds.

    Raises
    ------
    InputError : there are fewer than two subjects per fold, so that no pair would lie inside one.
    """
    names = sorted(set(subjects))
    if count < 2 or len(names) < 2 * count:
        raise InputError(
            f"{len(names)} subjects are too few for {count} folds: at least {2 * max(count, 2)} are needed, two per fold, "
            "so that each fold holds pairs of people whom its model has not seen."
        )
    order = np.random.default_rng(seed).permutation(len(names))
    return {names[n]: place % count for place, n in enumerate(order.tolist())}
