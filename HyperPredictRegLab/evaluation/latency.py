"""How long foretelling takes: table T7."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from HyperPredictRegLib.predictor.bundle import save_bundle
from HyperPredictRegLib.predictor.features import PairFeatures

from HyperPredictRegLab.evaluation.ours import OurMethod
from HyperPredictRegLab.evaluation.table import Cell, Table

COUNTS = (8_000, 40_000)
THREADS = (1, 2)
REPEATS = 5


def latency_table(ours: OurMethod, folder: Path) -> Table:
    """Return T7; a copy of the bundle is written to `folder` to weigh it."""
    save_bundle(ours.bundle, folder)
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    rows: list[tuple[Cell, ...]] = []
    for threads in THREADS:
        for count in COUNTS:
            network, forecast = timings(ours, count, threads)
            rows.append((threads, count, len(ours.bundle.ensemble.labels), _members(ours), 1e3 * network, 1e3 * forecast, size))
    columns = ("threads", "λ", "structures", "members", "network and curves, ms", "whole forecast with bands, ms", "bundle, MB")
    note = (
        f"Best of {REPEATS} warm calls on {platform.machine()}, with whatever else ran there; a busy machine slows two threads. "
        "Features and probes need the images and are not in here: the benchmarks print them. The paper states 0.84 s for 8,000 "
        "λ, hardware unstated."
    )
    return Table("t7-latency", "T7. Latency", columns, tuple(rows), note)


def timings(ours: OurMethod, count: int, threads: int) -> tuple[float, float]:
    """Return seconds for `count` λ of one pair, all structures and members: of the network with its curves, and of a forecast."""
    bundle, examples = ours.bundle, ours.examples
    values = np.geomspace(bundle.card.lower, bundle.card.upper, count)
    ensemble, predictor = bundle.ensemble, ours.whole()
    features, tokens = examples.features[:1], examples.tokens[:1]
    own = [examples.feature_names.index(name) for name in ensemble.reading.features]
    numbers = ensemble.structure_numbers(examples.labels)[None]
    named = {
        label: dict(zip(examples.token_names, np.nan_to_num(token).tolist(), strict=True))
        for label, token in zip(examples.labels, tokens[0], strict=True)
    }
    pair = PairFeatures(dict(zip(examples.feature_names, features[0].tolist(), strict=True)), named)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        network = _best_seconds(lambda: ensemble.foresee(ensemble.coefficients(features[:, own], tokens, numbers), values))
        forecast = _best_seconds(lambda: predictor.forecast(pair, values))
    finally:
        torch.set_num_threads(before)
    return network, forecast


def longest_ms(table: Table) -> float:
    """Return the milliseconds of network and curves for the first count of λ with the most threads, NaN without a row."""
    found = [row[4] for row in table.rows if row[0] == max(THREADS) and row[1] == COUNTS[0]]
    return float(found[0]) if found else float("nan")  # type: ignore[arg-type]


def megabytes(table: Table) -> float:
    """Return the size of the bundle, NaN without a row."""
    return float(table.rows[0][6]) if table.rows else float("nan")  # type: ignore[arg-type]


def _members(ours: OurMethod) -> int:
    return ours.bundle.ensemble.network.settings.members


def _best_seconds(call: Callable[[], object]) -> float:
    call()
    found = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return min(found)
