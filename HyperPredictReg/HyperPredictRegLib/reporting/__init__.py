"""Turn a result or a prediction into pictures and one page that a physician can show and a researcher can check."""

from HyperPredictRegLib.reporting.prediction_page import write_prediction
from HyperPredictRegLib.reporting.report_page import write_report

__all__ = ["write_prediction", "write_report"]
