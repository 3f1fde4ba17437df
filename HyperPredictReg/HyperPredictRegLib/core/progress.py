"""How long work reports on itself and is asked to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from HyperPredictRegLib.core.errors import Cancelled

_T = TypeVar("_T")

_SECONDS_BETWEEN = 0.05


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


def interruptible(call: Callable[[], _T], cancelled: CancelCheck) -> _T:
    """Return what `call` returns, and ask meanwhile whether to stop: for a library that cannot be stopped itself.

    Where nobody can ask to stop, `call` is just made. Otherwise it runs in a thread of its own. Once asked to stop, this no
    longer waits for it: the thread goes on to the end of the one call, and what it returns or raises then is dropped. So `call`
    must change nothing that is used afterwards.

    Raises
    ------
    Cancelled : the caller asked to stop.
    """
    if cancelled is never:
        return call()
    stop_if(cancelled)
    returned: list[_T] = []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            returned.append(call())
        except BaseException as error:
            raised.append(error)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    while worker.is_alive():
        worker.join(_SECONDS_BETWEEN)
        stop_if(cancelled)
    if raised:
        raise raised[0]
    return returned[0]
