"""The whole job: read, align, foresee, choose λ, register, measure, correct, write."""

from HyperPredictRegLib.workflow.foresight import ForesightWriter, foresee, predict
from HyperPredictRegLib.workflow.job_run import Writer, compute, run

__all__ = ["ForesightWriter", "Writer", "compute", "foresee", "predict", "run"]
