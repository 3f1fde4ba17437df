"""The `hyperpredictreg` command.

Exit codes: 0 done, 1 no valid result, 2 bad input or usage, 130 stopped by Ctrl+C, SIGTERM or a closed terminal.
"""

from typing import Any

from HyperPredictRegLib.cli.door import failed, main

__all__ = ["app", "failed", "main"]


def __getattr__(name: str) -> Any:
    # The commands need libraries; whatever goes wrong while those load is told by the door, which must stand first.
    if name == "app":
        from HyperPredictRegLib.cli.commands import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
