"""How many threads SimpleITK may use, for a while."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import SimpleITK as sitk

from HyperPredictRegLib.errors import InputError


@contextmanager
def threads(count: int | None) -> Iterator[int]:
    """Let SimpleITK use `count` threads inside a ``with`` block, and restore the previous number afterwards.

    One thread makes every result of this library equal bit for bit, because sums are then added in one order.

    Parameters
    ----------
    count : number of threads, at least 1; None leaves the number as it is.

    Yields
    ------
    count : the number of threads in force.

    Raises
    ------
    InputError : `count` is less than 1.
    """
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    if count is None:
        yield before
        return
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(
            f"The number of threads is {count!r}, but it must be a whole number of at least 1 "
            f"(this computer offers {os.cpu_count()})."
        )
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(count)
    try:
        yield count
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
