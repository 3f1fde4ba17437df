"""Examples with a known relation between features and curves, and a small bundle trained on them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from HyperPredictRegLib.engines import engine_settings, get_engine
from HyperPredictRegLib.engines.base import settings_hash
from HyperPredictRegLib.predictor.features import VERSION

from HyperPredictRegLab.training.building import Description, Trained, build, train_by_cv_folds
from HyperPredictRegLab.training.examples import Examples
from HyperPredictRegLab.training.fitting import TrainingSettings

LABELS = (2, 17)
QUICK = TrainingSettings(epochs=120, width=16, knots=6)


def planted_examples(pairs: int = 120, subjects: int = 20, seed: int = 7) -> Examples:
    """Make examples whose "hard" feature lowers Dice and raises folding, and whose structure 17 needs a larger λ."""
    random = np.random.default_rng(seed)
    names = [f"s{n:02d}" for n in range(subjects)]
    who = np.array([random.choice(names, 2, replace=False) for _ in range(pairs)])
    hard = random.normal(size=pairs)
    features = np.stack([hard, random.normal(size=pairs), np.full(pairs, 0.95)], axis=1)
    values = np.exp(np.log(0.4) + np.log(4.5 / 0.4) * (np.arange(6) + random.uniform(size=(pairs, 6))) / 6)
    tokens = np.stack([np.stack([random.normal(size=pairs), np.full(pairs, float(n))], axis=1) for n in range(2)], axis=1)
    x = np.log(values)
    best = np.log([0.6, 1.6])[None, :, None]
    dice = 0.8 - 0.04 * hard[:, None, None] - 0.08 * (x[:, None] - best) ** 2 + 0.03 * tokens[:, :, :1]
    folding = np.where(values < 1.1, np.exp(1.5 + 0.6 * hard[:, None] - 10 * (x - np.log(0.45))), 0.0)
    engine = get_engine("demons")
    return Examples(
        pairs=tuple(f"pair-{n}" for n in range(pairs)),
        subjects=who,
        groups=np.full(pairs, "usual"),
        engine="demons",
        settings_hash=settings_hash(engine, engine_settings(engine, {})),
        preset="fast",
        features_version=VERSION,
        parameter=engine.info.search_space.first,
        feature_names=("hard", "idle", "foreground_overlap"),
        token_names=("helpful", "kind"),
        labels=LABELS,
        features=features,
        tokens=tokens,
        values=values,
        dice=np.clip(dice + random.normal(scale=0.004, size=dice.shape), 0.01, 0.99),
        folding_foreground=np.minimum(folding, 60.0),
        folding_grid=np.minimum(folding, 60.0) / 3,
        sd_log_jacobian=0.3 / values * np.exp(0.1 * hard[:, None]),
        hd95=np.full_like(values, 3.0),
        alignment={},
    )


@cache
def planted_training() -> Trained:
    """Train on the planted examples, once per process."""
    return train_by_cv_folds(planted_examples(), QUICK, replicas=1)


def small_bundle(folder: Path) -> Path:
    """Write a bundle trained on the planted examples; it takes about two seconds."""
    build(planted_examples(), folder, Description(name="planted", licence="none"), QUICK)
    return folder
