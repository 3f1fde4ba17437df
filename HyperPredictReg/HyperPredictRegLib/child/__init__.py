"""A worker in a process of its own, and the folder that it works in.

Needs nothing but Python's own library, so that an application's window can hold one: it calls `Child.poll` from a timer, a
script calls `Child.wait`. What the process does is told in `HyperPredictRegLib.worker`.
"""

from HyperPredictRegLib.child.inbox import ChildEvent
from HyperPredictRegLib.child.process import Child, Ending
from HyperPredictRegLib.child.workplace import new_workplace, remove_workplace, tidy_results

__all__ = ["Child", "ChildEvent", "Ending", "new_workplace", "remove_workplace", "tidy_results"]
