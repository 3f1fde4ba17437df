"""From foreseen curves to λ*: choose a setting, read the curves anywhere, and correct λ after measuring."""

from HyperPredictRegLib.selection.choosing import (
    NO_FOLDING_PERCENT,
    Choice,
    StructureChoice,
    choose,
    feasible,
    knee,
    objective,
    pareto_front,
    per_structure,
)
from HyperPredictRegLib.selection.correction import REPEATS, corrected, within_limit
from HyperPredictRegLib.selection.readout import foreseen, interpolated

__all__ = [
    "Choice",
    "choose",
    "StructureChoice",
    "per_structure",
    "objective",
    "feasible",
    "pareto_front",
    "knee",
    "interpolated",
    "foreseen",
    "corrected",
    "within_limit",
    "NO_FOLDING_PERCENT",
    "REPEATS",
]
