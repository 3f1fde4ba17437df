"""How fast a prediction is: curves for thousands of λ, and everything after the affine step.

    python benchmarks/prediction.py

With the real data at hand (HYPERPREDICTREG_DATA or ../shared/data) the pair is two people of brain-t1-nmm with 33 labelled
structures, else a blank statement of features (curves only). Each figure is the least of several runs, as the machine is shared.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from HyperPredictRegLib.core.progress import never, silent
from HyperPredictRegLib.core.resources import threads
from HyperPredictRegLib.engines import engine_settings, get_engine
from HyperPredictRegLib.predictor.card import bundled
from HyperPredictRegLib.predictor.features import PairFeatures, pair_features
from HyperPredictRegLib.predictor.predictor import Predictor
from HyperPredictRegLib.results.job import Job
from HyperPredictRegLib.selection import choose
from HyperPredictRegLib.workflow.planning import Plan
from HyperPredictRegLib.workflow.preparing import Clock, Prepared, prepare

DATA = Path(os.environ.get("HYPERPREDICTREG_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "brain-t1-nmm"
FIXED, MOVING = "1008", "1013"
RUNS = 7


def least_ms(work: Callable[[], object], runs: int = RUNS) -> float:
    """Return the least wall-clock time of several runs in milliseconds, after one to warm up."""
    work()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return 1000 * min(times)


def real_pair() -> Prepared | None:
    """Return two people after the affine step, or None without the data."""
    if not DATA.is_dir():
        return None
    job = Job(
        str(DATA / f"nmm_{FIXED}_t1.nii.gz"), str(DATA / f"nmm_{MOVING}_t1.nii.gz"), "",
        moving_labels=str(DATA / f"nmm_{MOVING}_aseg.nii.gz"), engine="demons",
    )  # fmt: skip
    return prepare(Plan.of(job), Clock(), silent, never)


def main() -> None:
    """Print the tables."""
    folder = bundled("demons", "fast")
    if folder is None:
        raise SystemExit("There is no bundle for demons at the preset 'fast'.")
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    started = time.perf_counter()
    predictor = Predictor.load(folder)
    print(f"bundle: {size:.2f} MB, loaded in {1000 * (time.perf_counter() - started):.0f} ms")
    engine = get_engine("demons")
    settings = engine_settings(engine, {})
    prepared = real_pair()
    features = PairFeatures({}, {})
    if prepared is not None:
        features = pair_features(prepared.inputs, prepared.pair, prepared.affine, engine, settings, seed=1)
    members = predictor.bundle.ensemble.network.settings.members
    structures = len(features.tokens) or len(predictor.bundle.ensemble.labels)
    space = predictor.bundle.card.space
    print(f"curves of {structures} structures by {members} networks, with bands")
    for count in (1, 200, 8000, 40000):
        values = space.grid(count)
        for workers in (1, 2):
            torch.set_num_threads(workers)
            milliseconds = least_ms(partial(predictor.predict, features, values))
            print(f"  {count:6d} λ, {workers} threads: {milliseconds:7.1f} ms")
    surface = predictor.predict(features, space.grid(8000))[0]
    print(f"  choosing λ* among 8000: {least_ms(lambda: choose(surface, Job('', '', '').criterion)):7.2f} ms")
    if prepared is None:
        print("features and probes were not timed: the data are not here.")
        return
    for workers in (1, 2):
        torch.set_num_threads(workers)
        with threads(workers):

            def whole() -> None:
                found = pair_features(prepared.inputs, prepared.pair, prepared.affine, engine, settings, seed=1)
                choose(predictor.predict(found)[0], Job("", "", "").criterion)

            print(f"features, probes, curves, choice after the affine step, {workers} threads: {least_ms(whole, 3) / 1000:.2f} s")


if __name__ == "__main__":
    main()
