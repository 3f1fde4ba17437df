"""Many registrations: a manifest of pairs x a design of parameters -> one table of what came out.

The work runs on dask.distributed: processes of this computer, or any scheduler. Each finished pair is one small file, written
under a temporary name and renamed, by the process that collects; so a sweep that was killed at any moment goes on where it was,
with no row lost or doubled. The table is made from those files.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from HyperPredictRegLib import preprocessing
from HyperPredictRegLib.core.errors import HyperPredictRegError, InputError
from HyperPredictRegLib.core.files import check_writable, writing_into
from HyperPredictRegLib.core.json_records import to_json
from HyperPredictRegLib.core.progress import CancelCheck, Progress, ProgressEvent, never, silent, stop_if
from HyperPredictRegLib.core.resources import threads
from HyperPredictRegLib.engines import engine_settings, get_engine
from HyperPredictRegLib.engines.base import settings_hash
from HyperPredictRegLib.predictor.features import VERSION as FEATURES_VERSION

from HyperPredictRegLab.manifest import read_manifest
from HyperPredictRegLab.sweep.cluster import check_workers, dask_client
from HyperPredictRegLab.sweep.design import Design
from HyperPredictRegLab.sweep.parts import PairRows, Parts, Task, write_atomically
from HyperPredictRegLab.sweep.runs import (
    PLAN,
    PreparedPair,
    SweepPlan,
    SweepSettings,
    affine_from,
    common_columns,
    feature_rows,
    read_plan,
    run_rows,
)
from HyperPredictRegLab.sweep.tables import FEATURES, RUNS

_PARTS = "parts"


@dataclass(frozen=True)
class SweepResult:
    """What a sweep did.

    Attributes
    ----------
    table : the Parquet file of all runs; beside it lies that of the pairs' features.
    runs : registrations in it that succeeded.
    failed_pairs : pairs of which no run succeeded.
    registrations_per_hour_per_core : of this call; NaN if it had nothing left to do.
    notes : sentences on parts that could not be used, and on rows or files that do not count.
    """

    table: Path
    runs: int
    failed_pairs: int
    registrations_per_hour_per_core: float
    notes: tuple[str, ...] = ()


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
    """Register every pair of a manifest with every setting of the design, or go on with a sweep that was stopped.

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
    engine = get_engine(settings.engine, settings.engine_settings)
    check_workers(workers)
    check_writable(Path(out))
    plan = SweepPlan(
        settings, design, settings_hash(engine, engine_settings(engine, settings.engine_settings)), preprocessing.VERSION
    )
    values = {pair.pair: design.settings(engine, pair.pair) for pair in pairs}
    out = Path(out)
    _check_plan(out, plan)
    parts = Parts(out / _PARTS, settings, values)
    parts.note_unknown_files(pairs)
    tasks = [task for pair in pairs if (task := parts.task(pair, retry_failed)) is not None]
    throughput = float("nan")
    if tasks:
        with dask_client(scheduler, workers) as client:
            _keep_plan(out, plan)
            throughput = _execute(client, tasks, parts, progress, cancelled)
    table = _table(parts.runs(pair) for pair in pairs)
    write_atomically(table, out / RUNS)
    described = [features for pair in pairs if (features := parts.features(pair)) is not None]
    if described:
        write_atomically(_table(described), out / FEATURES)
    good = table[table["error"] == ""]
    return SweepResult(out / RUNS, len(good), len(pairs) - good["pair"].nunique(), throughput, tuple(parts.notes))


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


def _execute(client: Any, tasks: Sequence[Task], parts: Parts, progress: Progress, cancelled: CancelCheck) -> float:
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


def _check_plan(out: Path, plan: SweepPlan) -> None:
    """Raise `InputError` if the folder holds a sweep of another plan."""
    if read_plan(out) not in (None, plan):
        raise InputError(
            f"The folder '{out}' holds a sweep with another engine, settings or design: choose another folder, "
            f"or the same options to go on with it (they are in {PLAN})."
        )


def _keep_plan(out: Path, plan: SweepPlan) -> None:
    """Write down in the sweep's folder what its parts have in common."""
    path = out / PLAN
    if path.exists():
        return
    with writing_into(out, "files", ""):
        (out / _PARTS).mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{PLAN}.tmp")
        temporary.write_text(to_json(plan), encoding="utf-8")
        temporary.replace(path)


def _table(parts: Iterable[pd.DataFrame | None]) -> pd.DataFrame:
    """Return the rows of all parts in the order given; columns that a part lacks are empty in its rows."""
    found = list(parts)
    whole = [part for part in found if part is not None]
    if len(whole) < len(found):
        raise InputError("Parts of the sweep were damaged while it ran: give the same command again.")
    return pd.concat(whole, ignore_index=True)


def _words(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
