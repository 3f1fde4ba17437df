"""Many registrations: a manifest of pairs x a design of hyperparameters -> one table of what came out.

The work runs on dask.distributed: processes of this computer, or any scheduler. Each finished pair is one small file, written
under a temporary name and renamed, by the process that collects; so a sweep that was killed at any moment goes on where it was,
with no row lost or doubled. The table is made from those files.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from HyperPredictRegLib.engines import engine_settings, get_engine
from HyperPredictRegLib.engines.base import settings_hash
from HyperPredictRegLib.errors import HyperPredictRegError, InputError
from HyperPredictRegLib.predictor.features import VERSION as FEATURES_VERSION
from HyperPredictRegLib.progress import CancelCheck, Progress, ProgressEvent, never, silent, stop_if
from HyperPredictRegLib.records import from_json, to_json
from HyperPredictRegLib.threads import threads

from HyperPredictRegLab.sweep.descriptions import affine_from, feature_rows
from HyperPredictRegLab.sweep.design import Design
from HyperPredictRegLab.sweep.manifest import ManifestPair, read_manifest
from HyperPredictRegLab.sweep.runs import PreparedPair, Row, SweepSettings, common_columns, run_rows

RUNS, FEATURES = "runs.parquet", "features.parquet"
_PLAN, _PARTS = "sweep.json", "parts"


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep folder holds: the settings of all its runs and the design of λ."""

    settings: SweepSettings = field(default_factory=SweepSettings)
    design: Design = field(default_factory=Design)
    engine_hash: str = ""


@dataclass(frozen=True)
class SweepResult:
    """What a sweep did.

    Attributes
    ----------
    table : the Parquet file of all runs; beside it lies that of the pairs' features.
    runs : registrations in it that succeeded.
    failed_pairs : pairs of which no run succeeded.
    registrations_per_hour_per_core : of this call; NaN if it had nothing left to do.
    """

    table: Path
    runs: int
    failed_pairs: int
    registrations_per_hour_per_core: float


def sweep(  # noqa: PLR0913 - the choices of a whole experiment
    manifest: Path | str,
    out: Path | str,
    *,
    settings: SweepSettings | None = None,
    design: Design | None = None,
    scheduler: str | None = None,
    workers: int | None = None,
    retry_failed: bool = False,
    progress: Progress = silent,
    cancelled: CancelCheck = never,
) -> SweepResult:
    """Register every pair of a manifest with every λ of the design, or go on with a sweep that was stopped.

    Parameters
    ----------
    manifest : see `read_manifest`.
    out : folder of the sweep; made if it does not exist.
    settings, design : defaults if left out.
    scheduler : address of a dask scheduler such as ``tcp://host:8786``; default: processes on this computer.
    workers : local processes, one thread each; default: one per core.
    retry_failed : register pairs again that failed before.

    Raises
    ------
    InputError : the manifest or the folder cannot be used, the folder holds a sweep with other settings, or there is no
        scheduler at the address.
    Cancelled : the caller asked to stop; all finished pairs are kept.
    """
    pairs = read_manifest(manifest)
    settings, design = settings or SweepSettings(), design or Design()
    engine = get_engine(settings.engine)
    plan = SweepPlan(settings, design, settings_hash(engine, engine_settings(engine, settings.engine_settings)))
    values = {pair.pair: design.settings(engine, pair.pair) for pair in pairs}
    out = Path(out)
    _open(out, plan)
    parts = _Parts(out / _PARTS, retry_failed)
    tasks = [task for pair in pairs if (task := parts.task(pair, settings, values[pair.pair])) is not None]
    throughput = float("nan")
    if tasks:
        with dask_client(scheduler, workers) as client:
            throughput = _execute(client, tasks, parts, progress, cancelled)
    table = gathered([parts.runs(pair.pair) for pair in pairs])
    write_atomically(table, out / RUNS)
    described = [parts.features(pair.pair) for pair in pairs if parts.features(pair.pair).exists()]
    if described:
        write_atomically(gathered(described), out / FEATURES)
    good = table[table["error"] == ""]
    return SweepResult(out / RUNS, len(good), len(pairs) - good["pair"].nunique(), throughput)


@dataclass(frozen=True)
class Task:
    """What is left to do for a pair.

    Attributes
    ----------
    values : hyperparameters to register with; empty if that was done.
    matrix : the affine step found before, columns ``affine_matrix_00`` ...; None if there is none.
    """

    pair: ManifestPair
    settings: SweepSettings
    values: tuple[dict[str, float], ...]
    matrix: dict[str, float] | None = None


@dataclass(frozen=True)
class PairRows:
    """Rows of a pair for either table; None for a table that already has them."""

    runs: list[Row] | None
    features: list[Row] | None


def work_on_pair(task: Task) -> PairRows:
    """Register and describe one pair on one thread. A pair that cannot be read or aligned has one row with the reason."""
    common = common_columns(task.pair, task.settings)
    with threads(1):
        try:
            alignment = None if task.matrix is None else affine_from(task.matrix)
            prepared = PreparedPair.of(task.pair, task.settings, alignment)
        except HyperPredictRegError as error:
            return _failed(task, str(error))
        runs = [common | row for row in run_rows(prepared, task.settings, task.values)] if task.values else None
        return PairRows(runs, [{"pair": task.pair.pair} | row for row in feature_rows(prepared, task.settings)])


def _failed(task: Task, reason: str) -> PairRows:
    common = common_columns(task.pair, task.settings) | {"error": reason}
    features = {"pair": task.pair.pair, "features_version": FEATURES_VERSION, "error": reason, "label": 0}
    return PairRows([common] if task.values else None, [features])


@dataclass(frozen=True)
class _Parts:
    """The files of finished pairs."""

    folder: Path
    retry_failed: bool

    def runs(self, pair: str) -> Path:
        return self.folder / "runs" / part_name(pair)

    def features(self, pair: str) -> Path:
        return self.folder / "features" / part_name(pair)

    def task(self, pair: ManifestPair, settings: SweepSettings, values: Sequence[dict[str, float]]) -> Task | None:
        """Return what is left to do for a pair; None if nothing is."""
        path = self.runs(pair.pair)
        if not path.exists():
            return Task(pair, settings, tuple(values))
        runs = pd.read_parquet(path)
        good = runs[runs["error"] == ""]
        if good.empty:
            return Task(pair, settings, tuple(values)) if self.retry_failed else None
        path = self.features(pair.pair)
        if path.exists() and (pd.read_parquet(path)["features_version"] == FEATURES_VERSION).all():
            return None
        return Task(pair, settings, (), {str(k): float(v) for k, v in good.iloc[0].filter(like="affine_matrix_").items()})

    def write(self, pair: str, rows: PairRows) -> None:
        """Keep what was found. The runs come last: a pair counts as registered once they are there."""
        if rows.features is not None:
            write_atomically(pd.DataFrame(rows.features), self.features(pair))
        if rows.runs is not None:
            write_atomically(pd.DataFrame(rows.runs), self.runs(pair))


def _execute(client: Any, tasks: Sequence[Task], parts: _Parts, progress: Progress, cancelled: CancelCheck) -> float:
    """Do all tasks; return the registrations per hour and core, NaN without any."""
    cores = max(1, sum(client.nthreads().values()))
    started, runs = time.perf_counter(), 0
    progress(ProgressEvent("sweep", 0.0, f"{len(tasks)} pairs to do on {cores} cores"))
    for done, (pair, rows) in enumerate(collected(client, tasks, cancelled), 1):
        parts.write(pair, rows)
        runs += len(rows.runs or ())
        left = (time.perf_counter() - started) / done * (len(tasks) - done)
        progress(ProgressEvent("sweep", done / len(tasks), f"{done} of {len(tasks)} pairs, {_words(left)} left"))
    return runs / (time.perf_counter() - started) * 3600 / cores if runs else float("nan")


def part_name(pair: str) -> str:
    """Return the file name of a pair's part: readable, and unique whatever the pair is called."""
    readable = re.sub(r"[^A-Za-z0-9._-]", "_", pair)[:60]
    return f"{readable}-{hashlib.sha256(pair.encode()).hexdigest()[:8]}.parquet"


def gathered(parts: Sequence[Path]) -> pd.DataFrame:
    """Return the rows of all parts in the order given; columns that a part lacks are empty in its rows."""
    return pd.concat([pd.read_parquet(part) for part in parts], ignore_index=True)


def write_atomically(table: pd.DataFrame, path: Path) -> None:
    """Write a Parquet file so that whoever looks sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        table.to_parquet(temporary, index=False)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def dask_client(scheduler: str | None, workers: int | None) -> Iterator[Any]:
    """Yield a dask client: of the scheduler at an address, or of new local processes of one thread each.

    Raises
    ------
    InputError : nothing answers at the address.
    """
    import dask
    from distributed import Client, LocalCluster

    # A registration holds memory outside of Python's sight; dask's own limits would kill healthy workers.
    dask.config.set({"distributed.worker.daemon": True, "distributed.admin.large-graph-warning-threshold": "1GB"})
    if scheduler is not None:
        try:
            client = Client(scheduler, timeout="10s")
        except (OSError, TimeoutError, ValueError) as error:
            raise InputError(
                f"No dask scheduler answers at '{scheduler}' ({error}): check the address, such as tcp://host:8786."
            ) from error
        with client:
            yield client
        return
    count = workers or os.cpu_count() or 1
    environment = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), "1")
    with (
        LocalCluster(
            n_workers=count, threads_per_worker=1, memory_limit=0, dashboard_address=":0", env=environment, silence_logs=40
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def collected(client: Any, tasks: Sequence[Task], cancelled: CancelCheck) -> Iterator[tuple[str, PairRows]]:
    """Do tasks on the client's workers; yield (pair, rows) as they finish.

    A worker that dies, for want of memory say, costs its pair only: the pair's rows say so.
    """
    from distributed import as_completed

    waiting = {client.submit(work_on_pair, task, pure=False, retries=0): task for task in tasks}
    try:
        for future in as_completed(list(waiting)):
            stop_if(cancelled)
            task = waiting.pop(future)
            error = future.exception()
            yield task.pair.pair, future.result() if error is None else _failed(task, f"{type(error).__name__}: {error}")
            future.release()
    finally:
        client.cancel(list(waiting))


def _open(out: Path, plan: SweepPlan) -> None:
    """Make the sweep's folder, or check that it belongs to the same plan."""
    path = out / _PLAN
    if path.exists():
        earlier = from_json(SweepPlan, path.read_text(encoding="utf-8"), f"'{path}'")
        if earlier != plan:
            raise InputError(
                f"The folder '{out}' holds a sweep with another engine, settings or design: choose another folder, "
                f"or the same options to go on with it (they are in {_PLAN})."
            )
    else:
        try:
            (out / _PARTS).mkdir(parents=True, exist_ok=True)
            path.write_text(to_json(plan), encoding="utf-8")
        except OSError as error:
            raise InputError(f"The folder '{out}' cannot be written to ({error}).") from error


def _words(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
