"""How good is a predictor? Accuracy, decisions, calibration and ablations against baselines, as a page with figures."""

from HyperPredictRegLab.evaluation.evaluating import Options, evaluate
from HyperPredictRegLab.evaluation.groups import read_strangers
from HyperPredictRegLab.evaluation.statistics import Estimate, Resampling

__all__ = ["Options", "evaluate", "read_strangers", "Estimate", "Resampling"]
