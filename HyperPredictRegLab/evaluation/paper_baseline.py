"""The published predictor as a baseline (B3), trained on the same pairs and judged on the same grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from HyperPredictRegLib.progress import CancelCheck, never

from HyperPredictRegLab.baselines.paper import FROZEN, PUBLISHED, train_paper
from HyperPredictRegLab.baselines.paper_network import PaperSettings
from HyperPredictRegLab.cv_folds import COUNT
from HyperPredictRegLab.evaluation.foretold import Foretold, without_bands
from HyperPredictRegLab.evaluation.measured import Measured
from HyperPredictRegLab.training.examples import Examples

MAIN: Mapping[str, PaperSettings] = {
    "B3 paper, published": PUBLISHED,
    "B3 paper, λ embedding trained": FROZEN,
}
"""As in the published code, whose embedding of λ is never trained; and with what its text says."""

OTHERS: Mapping[str, PaperSettings] = {
    "paper, mean-min-max": replace(FROZEN, statistics="mean-min-max"),
    "paper, two hidden layers": replace(FROZEN, hidden_layers=2),
    "paper, alpha 0.1": replace(FROZEN, alpha=0.1),
    "paper, alpha 10": replace(FROZEN, alpha=10.0),
}
"""Its own ablations (appendices B, C, F)."""


@dataclass(frozen=True)
class PaperTraining:
    """What the paper's predictor learns from.

    Attributes
    ----------
    examples, images : P training pairs, see `paper_image`.
    folds : of both subjects of each, shape (P, 2); the pairs inside one fold tell when to stop, nobody of it is learned from.
    held_out : the fold that must not be seen at all.
    """

    examples: Examples
    images: np.ndarray
    folds: np.ndarray
    held_out: int | None = None


def paper_foretells(
    given: PaperTraining, measured: Measured, images: np.ndarray, settings: PaperSettings, cancelled: CancelCheck = never
) -> Foretold:
    """Train the paper's predictor and let it foretell the measured pairs, whose images are given."""
    train, folds, held_out = given.examples, given.folds, given.held_out
    last = COUNT - 1 if held_out is None else (held_out + 1) % COUNT
    usable = np.ones(len(folds), bool) if held_out is None else (folds != held_out).all(axis=1)
    learn, stop = usable & (folds != last).all(axis=1), usable & (folds == last).all(axis=1)
    predictor = train_paper(train, given.images, learn, stop, settings, cancelled=cancelled)
    dice, folding = predictor.predict(images, measured.values)
    places = [train.labels.index(label) if label in train.labels else -1 for label in measured.examples.labels]
    nothing = np.full(folding.shape, np.nan)
    arranged = np.stack([dice[:, place] if place >= 0 else nothing for place in places], axis=1).astype(float)
    folding = folding.astype(float)
    known = {settings.domain: folding}
    # It foretells folding of one domain only; the other one is that times the training pairs' ratio.
    ratio = float(np.nansum(train.folding_foreground) / max(np.nansum(train.folding_box), 1e-9))
    foreground = known.get("foreground", folding * ratio)
    box = known.get("box", folding / max(ratio, 1e-9))
    return without_bands(measured, arranged, foreground, box, np.full(folding.shape, np.nan))
