"""The `hyperpredictreg` command. Exit codes: 0 done, 1 no valid result, 2 bad input or usage, 130 cancelled."""

from HyperPredictRegLib.cli import (  # noqa: F401 - importing a file adds its command
    applying,
    evaluating,
    measuring,
    predicting,
    registering,
    sweeping,
    synthesising,
    training,
)
from HyperPredictRegLib.cli.command import app, failed, main

__all__ = ["app", "failed", "main"]
