"""Seconds for 8,000 values of λ for one pair: Table 1 of HyperPredict (Shuaibu and Simpson, MELBA 2024), measured here.

    python benchmarks/table1_time.py run     one CSV row per method; goes on where it stopped
    python benchmarks/table1_time.py table   print the table of docs/evaluation-paper.md

CPU seconds of this process and of the programs that it waits for, on one thread: about what one idle core would take, whatever
else runs on the machine. The pair is two of the people that settings were tuned on. A row of registrations is extrapolated from a
few of them; HyperMorph is no engine here, and its row is the paper's. What is not installed is left out, with the reason; how the
programs and the weights are found is in docs/engine-niftyreg.md and docs/engine-clapirn.md.
"""

from __future__ import annotations

import argparse
import csv
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from external import cpu_seconds
from HyperPredictRegLib.core.errors import HyperPredictRegError
from HyperPredictRegLib.core.progress import never, silent
from HyperPredictRegLib.engines import engine_settings, get_engine
from HyperPredictRegLib.engines.base import RegistrationTask, for_pair
from HyperPredictRegLib.engines.conditional import ConditionalSettings
from HyperPredictRegLib.predictor.features import pair_features
from HyperPredictRegLib.predictor.predictor import Predictor
from HyperPredictRegLib.results.job import Job
from HyperPredictRegLib.workflow.planning import Plan
from HyperPredictRegLib.workflow.preparing import Clock, Prepared, prepare
from lambda_table import DATA, SEED

from HyperPredictRegLab.baselines import PUBLISHED, PaperNetwork

RESULTS = Path(__file__).resolve().parent / "results" / "table1-time.csv"
MODELS = Path(__file__).resolve().parents[1] / "HyperPredictReg" / "Resources" / "Models"
COLUMNS = ("method", "what", "seconds", "runs", "processor", "version")
FIXED, MOVING = "1001", "1002"
COUNT = 8000
PAPERS_STRUCTURES = 35
ENGINES = {
    "niftyreg": ({"be": 1e-4}, {"be": 1e-3}, {"be": 1e-2}),
    "clapirn": ({"regularization_weight": 0.05}, {"regularization_weight": 0.1}, {"regularization_weight": 0.4}),
    "demons": ({"regularization_weight": 0.6}, {"regularization_weight": 0.9}, {"regularization_weight": 1.2}),
    "diffeo": ({"regularization_weight": 0.3}, {"regularization_weight": 0.43}, {"regularization_weight": 1.0}),
}
"""Engine and the settings that it is timed at."""

PAPER = {
    "HyperMorph": (2.1, None, 16800.0),
    "NiftyReg": (15.0, None, 120000.0),
    "cLapIRN": (0.10, None, 800.0),
    "HyperPredict for NiftyReg": (None, 0.84, 15.84),
    "HyperPredict for cLapIRN": (None, 0.84, 0.94),
}
"""Table 1 of the paper, which names no processor: one λ, 8,000 λ without registering, with registering."""


def processor() -> str:
    """Return the name of the processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def least(work: Callable[[], object], runs: int) -> float:
    """Return the least CPU seconds of several runs, after one to warm up."""
    work()
    return min(spent(work) for _ in range(runs))


def spent(work: Callable[[], object]) -> float:
    """Return the CPU seconds of one call."""
    before = cpu_seconds()
    work()
    return cpu_seconds() - before


def prepared_pair() -> Prepared:
    """Return the pair after the affine step, on the working grid of 2 mm."""
    one, other = (str(DATA / f"nmm_{person}_t1.nii.gz") for person in (FIXED, MOVING))
    job = Job(one, other, "", moving_labels=str(DATA / f"nmm_{MOVING}_aseg.nii.gz"))
    return prepare(Plan.of(job), Clock(), silent, never)


def published() -> list[tuple[str, float, int]]:
    """Time the published predictor: its encoder on its own grid, and its small network in one call and in one call per λ."""
    torch.manual_seed(SEED)
    network = PaperNetwork(PAPERS_STRUCTURES, PUBLISHED).eval()
    images = torch.rand(1, 2, *ConditionalSettings().size)
    logs = torch.linspace(-10, 0, COUNT)[None]
    with torch.inference_mode():
        pooled = network.pooled(images)
        together, apart = partial(network, pooled, logs), lambda: [network(pooled, logs[:, n : n + 1]) for n in range(COUNT)]
        return [
            ("encoder, 160 x 192 x 224 voxels", least(partial(network.pooled, images), 3), 3),
            (f"{COUNT} λ in one call", least(together, 7), 7),
            (f"{COUNT} λ in one call each", spent(apart), 1),
        ]


def ours(bundle: str, prepared: Prepared) -> list[tuple[str, float, int]]:
    """Time a shipped predictor: features with their coarse registrations, and curves with bands for 8,000 λ."""
    predictor = Predictor.load(MODELS / bundle)
    engine = get_engine(predictor.bundle.card.engine)
    described = partial(
        pair_features, prepared.inputs, prepared.pair, prepared.affine, engine, engine_settings(engine, {}), seed=SEED
    )
    features = described()
    predicted = partial(predictor.predict, features, predictor.bundle.card.space.grid(COUNT))
    return [
        ("features, with three coarse registrations", least(described, 3), 3),
        (f"{COUNT} λ of {len(features.tokens)} structures, with bands", least(predicted, 7), 7),
    ]


def registrations(name: str, prepared: Prepared) -> list[tuple[str, float, int]]:
    """Time registrations of one engine; what a process does once for all settings of a pair is done before, as in a sweep."""
    engine, pair = get_engine(name), prepared.pair
    task = RegistrationTask(
        pair.fixed, pair.moving, {}, engine_settings(engine, {}), SEED, view=pair.view, moving_smoothed=pair.moving_smoothed
    )
    register = for_pair(engine, task)
    settings = ENGINES[name]
    if name != "niftyreg":
        register(settings[0])
    return [("one registration", float(np.mean([spent(partial(register, setting)) for setting in settings])), len(settings))]


def known() -> list[dict[str, str]]:
    """Return the rows that are there."""
    if not RESULTS.exists():
        return []
    with RESULTS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def run() -> None:
    """Measure what is missing and add it to the table."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    torch.set_num_threads(1)
    fast = prepared_pair()
    work: dict[str, Callable[[], list[tuple[str, float, int]]]] = {
        "HyperPredict": published,
        **{bundle: partial(ours, bundle, fast) for bundle in ("demons-fast", "diffeo-fast")},
        **{name: partial(registrations, name, fast) for name in ENGINES},
    }
    there = {row["method"] for row in known()}
    for method, measure in work.items():
        if method in there:
            continue
        try:
            rows = [(method, what, f"{seconds:.4g}", runs, processor(), torch.__version__) for what, seconds, runs in measure()]
        except HyperPredictRegError as error:
            print(f"{method}: {error}", flush=True)
            continue
        new = not RESULTS.exists()
        with RESULTS.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows] if new else rows)


def table() -> None:
    """Print the table of the document."""
    rows = known()
    seconds = {(row["method"], row["what"]): float(row["seconds"]) for row in rows}
    runs = {(row["method"], row["what"]): int(row["runs"]) for row in rows}
    once = {method: (value, runs[method, what]) for (method, what), value in seconds.items() if what == "one registration"}
    heads = ("one λ", "looking at the pair", "8,000 λ", "both", "and registering at one λ", "how")
    print(f"| seconds | {' | '.join(heads)} |\n|---|" + "---|" * len(heads))
    for name, (first, every, whole) in PAPER.items():
        figures = (first, None, whole, None, None) if every is None else (first, None, None, every, whole)
        cells = ("-" if n is None else f"*{n:,g}*" for n in figures)
        print(f"| *{name}: the paper's* | {' | '.join(cells)} | *not measured here* |")
    for method, (value, number) in once.items():
        print(f"| {method} | {value:.1f} | - | {value * COUNT:,.0f} | - | - | extrapolated from {number} registrations |")
    predictors = {"HyperPredict": "clapirn", "demons-fast": "demons", "diffeo-fast": "diffeo"}
    for method, engine in predictors.items():
        parts = [value for (named, _), value in seconds.items() if named == method]
        if len(parts) < 2 or engine not in once:
            continue
        looked, surface = parts[:2]
        whole = looked + surface
        cells = f"{looked:.2f} | {surface:.3f} | {whole:.2f} | {whole + once[engine][0]:.1f}, by {engine}"
        print(f"| {method} | - | {cells} | measured |")
    print("\nProcessor: " + ", ".join(sorted({row["processor"] for row in rows})))


def main() -> None:
    """Run or print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("run", "table"))
    if parser.parse_args().step == "run":
        run()
    table()


if __name__ == "__main__":
    main()
