"""The `hyperpredictreg` command.

Exit codes: 0 done, 1 no valid result, 2 bad input or usage, 130 stopped by Ctrl+C, SIGTERM or a closed terminal.
"""

from __future__ import annotations

# Not from typing, whose loading takes longer than all of this file.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["app", "failed", "main"]


def __getattr__(name: str) -> Any:
    # Nothing is loaded before it is asked for: who asks for `main` is the command, and must be able to hear Ctrl+C at once.
    if name == "main":
        _end_on_signals()
    if name in ("failed", "main"):
        from HyperPredictRegLib.cli import door

        return getattr(door, name)
    if name == "app":
        from HyperPredictRegLib.cli.commands import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _end_on_signals() -> None:
    """End by a sentence on Ctrl+C and SIGTERM until `door.main` takes over, a moment later; only a main thread hears them."""
    import os

    try:
        # What lies under the usual module, which loads much more.
        import _signal as signal  # type: ignore[import-not-found]
    except ImportError:
        import signal

    def stop(number: int, frame: object) -> None:
        os.write(2, b"Stopped.\n")
        os._exit(130)

    try:
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGTERM, stop)
    except ValueError:
        return
