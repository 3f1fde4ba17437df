"""From a predicted surface to a setting: choose one, read the surface anywhere, correct the setting after measuring."""

from HyperPredictRegLib.selection.choice import (
    NO_FOLDING_PERCENT,
    choose,
    chooses_default,
    feasible,
    knee,
    objective,
    pareto_front,
    per_structure,
)
from HyperPredictRegLib.selection.correction import REPEATS, corrected, within_limit
from HyperPredictRegLib.selection.interpolation import interpolated, predict_at

__all__ = [
    "choose",
    "chooses_default",
    "per_structure",
    "objective",
    "feasible",
    "pareto_front",
    "knee",
    "interpolated",
    "predict_at",
    "corrected",
    "within_limit",
    "NO_FOLDING_PERCENT",
    "REPEATS",
]
