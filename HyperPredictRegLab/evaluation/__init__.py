"""How good is a predictor? Accuracy, decisions, calibration and ablations against baselines, as a page with figures."""

from HyperPredictRegLab.evaluation.evaluating import Options, evaluate
from HyperPredictRegLab.evaluation.judging import read_ood_sets
from HyperPredictRegLab.evaluation.tables import Estimate, Resampling

__all__ = ["Options", "evaluate", "read_ood_sets", "Estimate", "Resampling"]
