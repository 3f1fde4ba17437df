"""How good is a predictor? Accuracy, decisions, calibration and ablations against baselines, as a page with figures."""

from HyperPredictRegLib.experiments.evaluation.evaluating import Options, evaluate
from HyperPredictRegLib.experiments.evaluation.groups import read_strangers
from HyperPredictRegLib.experiments.evaluation.statistics import Estimate, Resampling

__all__ = ["Options", "evaluate", "read_strangers", "Estimate", "Resampling"]
