"""Trial registrations of one pair at several settings: what they share is made once, several run at a time where they may."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import SimpleITK as sitk

from HyperPredictRegLib.core.progress import CancelCheck, Progress, ProgressEvent, never, silent, stop_if
from HyperPredictRegLib.engines.base import Engine, Registration, RegistrationTask, for_pair

_T = TypeVar("_T")

_SECONDS_BETWEEN = 0.05
"""How often whether to stop is asked while others work."""


def thread_count() -> int:
    """Return how many threads may work at a time: as many as SimpleITK takes, see `core.resources.threads`."""
    return int(sitk.ProcessObject.GetGlobalDefaultNumberOfThreads())


@dataclass
class Steps:
    """Counts trial registrations, and what is made of them, and tells how many are done.

    Attributes
    ----------
    registrations : that are made.
    further : steps that follow them.
    progress : is told after each step, from 0 to 1, in the thread that asked for the work.
    """

    registrations: int
    further: int = 0
    progress: Progress = silent
    done: int = 0

    def step(self) -> None:
        """Tell of one more step."""
        self.done += 1
        share = self.done / (self.registrations + self.further)
        told = min(self.done, self.registrations)
        self.progress(ProgressEvent("predict", share, f"trial registration {told} of {self.registrations}"))


def together(
    calls: Sequence[Callable[[], _T]], threads: int, done: Callable[[], None], cancelled: CancelCheck = never
) -> list[_T]:
    """Return what calls give, in their order, up to `threads` at a time; `done` is called after each, in this thread.

    What a call gives must not depend on the others. The first error goes on, and what has not begun by then is not begun.

    Raises
    ------
    Cancelled : the caller asked to stop; at once, but calls that do not ask themselves are waited for.
    """
    if threads < 2 or len(calls) < 2:
        results = []
        for call in calls:
            stop_if(cancelled)
            results.append(call())
            done()
        return results
    pool = ThreadPoolExecutor(min(threads, len(calls)))
    futures = [pool.submit(call) for call in calls]
    try:
        waiting: set[Future[_T]] = set(futures)
        while waiting:
            stop_if(cancelled)
            finished, waiting = wait(waiting, _SECONDS_BETWEEN, FIRST_COMPLETED)
            for future in finished:
                future.result()
                done()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return [future.result() for future in futures]


def trials(
    engine: Engine, task: RegistrationTask, settings: Sequence[Mapping[str, float]], done: Callable[[], None]
) -> list[Registration]:
    """Register the pair of a task with each of `settings`; `done` is called after each.

    Those of an engine whose `EngineInfo.concurrent` is true run several at a time; their results do not depend on that.

    Raises
    ------
    RegistrationError : a run diverged.
    Cancelled : the caller asked to stop.
    """
    register = for_pair(engine, task)
    threads = thread_count() if engine.info.concurrent else 1
    return together([partial(register, setting) for setting in settings], threads, done, task.cancelled)
