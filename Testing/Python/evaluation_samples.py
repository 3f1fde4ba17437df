"""Examples with planted relations: Dice and folding that features tell in part."""

from __future__ import annotations

import numpy as np
from HyperPredictRegLib.engines import get_engine

from HyperPredictRegLab.training.examples import Examples

LABELS = (2, 3, 10, 17)
FEATURES = (
    "fixed_spread", "start_correlation", "foreground_overlap",
    "probe0_folding", "probe1_folding", "probe2_folding",
    "probe0_folding_grid", "probe1_folding_grid", "probe2_folding_grid", "probe1_shift",
)  # fmt: skip
TOKENS = ("log_volume", "height")
OPTIMA = np.log([0.7, 0.8, 1.0, 1.3])
"""ln λ of each structure's best Dice in a usual pair."""


def planted(people: list[str], pairs: int, seed: int = 1, labels: tuple[int, ...] = LABELS, noise: float = 0.2) -> Examples:
    """Return pairs among `people` whose best λ and onset of folding differ; features tell both but for `noise`."""
    random = np.random.default_rng(seed)
    chosen = np.array([random.choice(len(people), 2, replace=False) for _ in range(pairs)])
    groups = np.where(random.random(pairs) < 0.25, "noisy", "usual")
    regularization = 0.25 * random.normal(size=pairs) + 0.4 * (groups == "noisy")
    onset = 0.8 * random.normal(size=pairs)
    level = 0.04 * random.normal(size=pairs)
    x = np.sort(random.uniform(np.log(0.45), np.log(3.4), (pairs, 7)), axis=1)
    x[:, 0], x[:, -1] = np.log(0.42) + 0.05 * random.random(pairs), np.log(3.5) + 0.05 * random.random(pairs)
    optima = OPTIMA[np.arange(len(labels)) % len(OPTIMA)]
    best = optima[None, :] + regularization[:, None]
    heights = (0.85 - 0.05 * np.arange(len(labels)))[None, :] + level[:, None]
    dice = heights[..., None] - 0.06 * (x[:, None] - best[..., None]) ** 2 + 0.003 * random.normal(size=(pairs, len(labels), 7))
    logs = np.log(0.5) - 9 * (x - np.log(0.6)) + onset[:, None]
    foreground = np.minimum(np.exp(logs), 20.0)
    foreground = np.where(foreground < 0.002, 0.0, foreground)

    def seen(values: np.ndarray) -> np.ndarray:
        return values + noise * values.std() * random.normal(size=pairs)

    at = np.log([0.42, 0.73, 1.7])
    probes = [np.log(0.3 * np.exp(np.minimum(np.log(0.5) - 9 * (a - np.log(0.6)) + seen(onset), 3)) + 1e-2) for a in at]
    overlap = 0.9 + 0.01 * random.normal(size=pairs)
    columns = [seen(regularization), seen(level), overlap, *probes, *(p - 1 for p in probes), seen(onset)]
    tokens = np.stack([np.repeat(np.arange(len(labels))[None], pairs, 0), random.normal(size=(pairs, len(labels)))], axis=-1)
    return Examples(
        pairs=tuple(f"p{seed}-{n}" for n in range(pairs)),
        subjects=np.array(people)[chosen],
        groups=groups,
        engine="demons",
        settings_hash="0" * 8,
        preset="fast",
        features_version="1",
        parameter=get_engine("demons").info.search_space.first,
        feature_names=FEATURES,
        token_names=TOKENS,
        labels=labels,
        features=np.stack(columns, axis=1),
        tokens=tokens.astype(float),
        values=np.exp(x),
        dice=dice,
        folding_foreground=foreground,
        folding_grid=0.3 * foreground,
        sd_log_jacobian=0.4 * np.exp(-0.8 * x + 0.1 * random.normal(size=x.shape)),
        hd95=np.full(x.shape, 2.0),
        alignment={},
    )


def training_people(count: int = 20) -> list[str]:
    """Return names of people."""
    return [f"map-{n:02d}" for n in range(count)]
