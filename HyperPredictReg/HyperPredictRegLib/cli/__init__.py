"""The `hyperpredictreg` command. Exit codes: 0 done, 1 no valid result, 2 bad input or usage, 130 cancelled."""

from HyperPredictRegLib.cli import applying, measuring, predicting, registering  # noqa: F401 - importing a file adds its command
from HyperPredictRegLib.cli.command import app, failed, load_further_commands, main

load_further_commands()

__all__ = ["app", "failed", "main"]
