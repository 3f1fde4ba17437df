"""A worker in a process of its own, and the folder that it works in.

Needs nothing but Python's own library, so that an application's window can hold one: it calls `Child.poll` from a timer, a
script calls `Child.wait`. What the process does is told in `HyperPredictRegLib.worker.main`.
"""

from HyperPredictRegLib.worker.inbox import ChildEvent
from HyperPredictRegLib.worker.process import Child, Ending
from HyperPredictRegLib.worker.workspace import new_workplace, remove_workplace, tidy_results

__all__ = ["Child", "ChildEvent", "Ending", "new_workplace", "remove_workplace", "tidy_results"]
