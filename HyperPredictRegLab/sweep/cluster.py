"""The processes that a sweep runs on: of this computer, where nobody else can reach them, or of a scheduler elsewhere."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.files import writing_into

MOST_WORKERS_PER_CORE = 4
"""A worker keeps a core busy; more processes than this only take memory from each other."""

_LOOPBACK = "127.0.0.1"

_REMOVER = """
import os, shutil, sys, time
sys.stdin.buffer.read()
for _ in range(100):
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    time.sleep(0.1)
    if not os.path.exists(sys.argv[1]):
        break
"""
"""Waits for the end of the process that started it, however that comes, and removes a folder; workers may still be ending."""


def check_workers(workers: int | None) -> None:
    """Raise `InputError` for a number of worker processes that this computer cannot bear."""
    most = MOST_WORKERS_PER_CORE * (os.cpu_count() or 1)
    if workers is not None and not 1 <= workers <= most:
        raise InputError(f"{workers} worker processes cannot be used: take 1 to {most} on this computer, or one per core.")


@contextmanager
def dask_client(scheduler: str | None, workers: int | None) -> Iterator[Any]:
    """Yield a dask client: of the scheduler at an address, or of new local processes of one thread each.

    Local processes listen on 127.0.0.1 only, show no dashboard, and keep what they write to disk in a folder of their own that
    goes with them, even if this process is killed.

    Raises
    ------
    InputError : nothing answers at the address, or there cannot be so many processes.
    """
    import dask
    from distributed import Client

    if scheduler is None:
        check_workers(workers)
        with _local_client(workers or os.cpu_count() or 1) as client:
            yield client
        return
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1GB"}):
        try:
            client = Client(scheduler, timeout="10s")
        except (OSError, TimeoutError, ValueError) as error:
            raise InputError(
                f"No dask scheduler answers at '{scheduler}' ({error}): check the address, such as tcp://host:8786."
            ) from error
        with client:
            yield client


@contextmanager
def _local_client(workers: int) -> Iterator[Any]:
    import dask
    from distributed import Client, LocalCluster

    settings = {
        "distributed.worker.daemon": True,
        "distributed.admin.large-graph-warning-threshold": "1GB",
        # dask keeps an HTTP server where there is no dashboard: it has nothing to say.
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
        "distributed.worker.preload": [__name__],
        # dask has memory given back after every array, and taken again for the next: two thirds of the time of a registration.
        # Where one of these is given, the other no longer adapts itself.
        "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 2**30,
        "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 2**25,
    }
    environment = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), "1")
    with (
        _scratch_folder() as scratch,
        dask.config.set(settings | {"temporary-directory": str(scratch)}),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            # A registration holds memory outside of Python's sight; dask's own limits would kill healthy workers.
            memory_limit=0,
            host=_LOOPBACK,
            protocol="tcp://",
            # The default would be dask's port 8787, which others may have; 0 is any that is free.
            scheduler_kwargs={"dashboard": False, "dashboard_address": f"{_LOOPBACK}:0"},
            dashboard_address=None,
            worker_dashboard_address=None,
            local_directory=str(scratch),
            env=environment,
            # What goes wrong is in the pair's rows; workers that are being ended would only complain of it in traces.
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def _scratch_folder() -> Iterator[Path]:
    """Make a folder for what dask writes, and remove it afterwards: also after this process was killed."""
    with writing_into(Path(tempfile.gettempdir()), "files", ""):
        folder = Path(tempfile.mkdtemp(prefix="hyperpredictreg-sweep-"))
    streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    # In a session of its own, where Ctrl+C in a terminal does not reach it.
    command = [sys.executable, "-I", "-c", _REMOVER, str(folder)]
    try:
        with subprocess.Popen(command, **streams, start_new_session=True) as remover:
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                # An interrupt in here must not leave the remover waiting: its input ends with this process at the latest.
                with suppress(OSError):
                    remover.communicate(timeout=30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def dask_setup(worker: Any) -> None:
    """Ignore interrupts: a worker that ended by one would have its pair written down as failed. The sweep ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
