"""Trial registrations of one pair at several settings: what they share is made once.

One after the other: two at a time in threads took longer on two idle cores (brain 8.8 s in place of 7.0), as small arrays hold
the interpreter's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from HyperPredictRegLib.core.progress import Progress, ProgressEvent, silent, stop_if
from HyperPredictRegLib.engines.base import Engine, Registration, RegistrationTask, for_pair


@dataclass
class Steps:
    """Counts trial registrations, and what is made of them, and tells how many are done.

    Attributes
    ----------
    registrations : that are made.
    further : steps that follow them.
    progress : is told after each step, from 0 to 1.
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


def trials(
    engine: Engine, task: RegistrationTask, settings: Sequence[Mapping[str, float]], done: Callable[[], None]
) -> list[Registration]:
    """Register the pair of a task with each of `settings`; `done` is called after each.

    Raises
    ------
    RegistrationError : a run diverged.
    Cancelled : the caller asked to stop.
    """
    register, found = for_pair(engine, task), []
    for setting in settings:
        stop_if(task.cancelled)
        found.append(register(setting))
        done()
    return found
