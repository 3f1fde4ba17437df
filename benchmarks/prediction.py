"""How fast a prediction is: curves for thousands of settings, and everything after the affine step.

    python benchmarks/prediction.py [ENGINE-PRESET ...]

Of each bundle that is named, of all that come with the extension by default. With the real data at hand (HYPERPREDICTREG_DATA or
../shared/data) the pair is two people of brain-t1-nmm with 33 labelled structures, else a blank statement of features (surfaces
only). Each figure is the least of several runs, as the machine is shared.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from HyperPredictRegLib.core.progress import never, silent
from HyperPredictRegLib.core.resources import threads
from HyperPredictRegLib.engines import engine_settings, get_engine
from HyperPredictRegLib.engines.base import RegistrationTask, settled
from HyperPredictRegLib.predictor.evidence import as_features, pair_evidence
from HyperPredictRegLib.predictor.features import PairFeatures, pair_features
from HyperPredictRegLib.predictor.predictor import Predictor
from HyperPredictRegLib.quality.measurement import nearest
from HyperPredictRegLib.results.job import Job
from HyperPredictRegLib.selection import choose
from HyperPredictRegLib.workflow.planning import Plan
from HyperPredictRegLib.workflow.preparing import Clock, Prepared, prepare

DATA = Path(os.environ.get("HYPERPREDICTREG_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "brain-t1-nmm"
FIXED, MOVING = "1008", "1013"
MODELS = Path(__file__).resolve().parents[1] / "HyperPredictReg" / "Resources" / "Models"
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="*", help="names of folders below HyperPredictReg/Resources/Models")
    names = parser.parse_args().bundles or sorted(folder.name for folder in MODELS.iterdir())
    prepared = real_pair()
    for name in names:
        measure(MODELS / name, prepared)


def measure(folder: Path, prepared: Prepared | None) -> None:
    """Print what one bundle takes."""
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    started = time.perf_counter()
    predictor = Predictor.load(folder)
    card = predictor.bundle.card
    print(f"{card.name}: {size:.2f} MB, loaded in {1000 * (time.perf_counter() - started):.0f} ms")
    engine = get_engine(card.engine)
    settings = engine_settings(engine, {})
    features, evidence = PairFeatures({}, {}), {"log_spacing_mm": 0.0} if predictor.reads_evidence else None
    if prepared is not None:
        features = pair_features(prepared.inputs, prepared.pair, prepared.affine, engine, settings, seed=1)
        evidence = found_evidence(predictor, prepared)
    members = predictor.bundle.ensemble.network.settings.members
    structures = len(features.tokens) or len(predictor.bundle.ensemble.labels)
    space = card.space
    print(f"surfaces of {structures} structures by {members} networks, with bands, over {', '.join(space.names)}")
    asked = [space.sample(count, 1) if len(space) > 1 else space.grid(count) for count in (1, 200, 8000, 40000)]
    asked += [space.grid(200)] if len(space) == 2 else []
    for values in asked:
        for workers in (1, 2):
            torch.set_num_threads(workers)
            milliseconds = least_ms(partial(predictor.predict, features, values, evidence=evidence))
            kind = "settings" if len(space) == 1 or values is not asked[-1] else "settings, 200 x 200"
            print(f"  {len(values):6d} {kind}, {workers} threads: {milliseconds:7.1f} ms")
    surface = predictor.predict(features, asked[2], evidence=evidence)[0]
    print(f"  choosing among 8000: {least_ms(lambda: choose(surface, Job('', '', '').criterion)):7.2f} ms")
    if prepared is None:
        print("features and probes were not timed: the data are not here.")
        return
    for workers in (1, 2):
        torch.set_num_threads(workers)
        with threads(workers):

            def whole() -> None:
                # As a job asks: only for what the bundle reads.
                found = features
                if predictor.reads_features or predictor.reads_tokens:
                    found = pair_features(prepared.inputs, prepared.pair, prepared.affine, engine, settings, seed=1)
                about = found_evidence(predictor, prepared)
                choose(predictor.predict(found, evidence=about)[0], Job("", "", "").criterion)

            print(f"everything after the affine step, {workers} threads: {least_ms(whole, 3) / 1000:.2f} s")


def found_evidence(predictor: Predictor, prepared: Prepared) -> dict[str, float] | None:
    """Return the evidence about the pair if the predictor reads it."""
    if not predictor.reads_evidence:
        return None
    inputs, pair, engine = prepared.inputs, prepared.pair, get_engine(predictor.bundle.card.engine)
    foregrounds = nearest(inputs.fixed.foreground, pair.grid), nearest(inputs.moving.foreground, pair.grid, prepared.affine)
    task = RegistrationTask(
        pair.fixed, pair.moving, {}, engine_settings(engine, {}), 1, view=pair.view, moving_smoothed=pair.moving_smoothed
    )
    return as_features(pair_evidence(pair, *foregrounds, engine, settled(engine, task), seed=1))


if __name__ == "__main__":
    main()
