"""The whole job: read, align, predict, choose λ, register, measure, correct, write."""

from HyperPredictRegLib.workflow.predicting import PredictionWriter, compute_prediction, predict
from HyperPredictRegLib.workflow.previewing import Preview, Previewer, preview
from HyperPredictRegLib.workflow.registering import Writer, compute, run

__all__ = [
    "PredictionWriter",
    "Preview",
    "Previewer",
    "Writer",
    "compute",
    "compute_prediction",
    "predict",
    "preview",
    "run",
]
