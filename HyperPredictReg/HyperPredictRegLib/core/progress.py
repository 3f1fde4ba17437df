"""How long work reports on itself and is asked to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from HyperPredictRegLib.core.errors import Cancelled


@dataclass(frozen=True)
class ProgressEvent:
    """One step of long work: the stage's name, the share of it done (0 to 1), what to say, and the live metric."""

    stage: str
    fraction: float
    message: str = ""
    metric: float | None = None


Progress = Callable[[ProgressEvent], None]
"""Called from the working thread, often; must return quickly."""

CancelCheck = Callable[[], bool]
"""Returns True once the user has asked to stop."""


def silent(event: ProgressEvent) -> None:
    """Ignore a progress event."""


def never() -> bool:
    """Tell that nobody asks to stop."""
    return False


def stop_if(cancelled: CancelCheck) -> None:
    """Raise `Cancelled` if the user asked to stop."""
    if cancelled():
        raise Cancelled("The work was cancelled; nothing was written.")
