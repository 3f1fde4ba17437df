"""Is it told rightly whether deforming helped: evidence without labels beside what labels, landmarks or a known warp tell.

    python benchmarks/helpfulness.py run --cache FOLDER     align, register and measure what is missing; one row per registration
    python benchmarks/helpfulness.py tune                   fit the rule of quality/benefit.py to the rows for tuning, print it
    python benchmarks/helpfulness.py table                  print the tables that docs/benefit.md quotes

Cases are those of `helpfulness_cases.py`, on a grid of some 100,000 voxels, aligned on coarse levels, registered by two engines
with their default settings and one thread. A result is harmful if its mean Dice is more than .005 below that of the affine step,
or its mean error more than a twentieth of a voxel above (.1 mm for a brain at Fast); helpful the other way round. Pairs whose
mean Dice stays below .3, or whose error stays above 5 voxels, are called lost: there, neither result is of use.
"""

from __future__ import annotations

import argparse
import csv
import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from helpfulness_cases import SEED, cases, grid_pair, make, truth
from HyperPredictRegLib.core.errors import InputError, RegistrationError
from HyperPredictRegLib.engines.base import RegistrationTask
from HyperPredictRegLib.engines.demons import DemonsEngine, DemonsSettings
from HyperPredictRegLib.engines.diffeo import DiffeoEngine
from HyperPredictRegLib.engines.diffeo_scheme import DiffeoSettings
from HyperPredictRegLib.quality.benefit import Evidence, evidence, features, judged_alone
from HyperPredictRegLib.quality.likeness import likeness
from HyperPredictRegLib.quality.measurement import nearest
from HyperPredictRegLib.spatial.transforms import displacement_field, field_transform
from scipy.optimize import minimize

RESULTS = Path(__file__).resolve().parent / "results" / "helpfulness.csv"
ENGINES = {"diffeo": (DiffeoEngine(), DiffeoSettings()), "demons": (DemonsEngine(), DemonsSettings())}
TRUTH = ("dice_before", "dice_after", "error_before", "error_after")
NUMBERS = tuple(Evidence.__dataclass_fields__)
COLUMNS = (
    "use", "domain", "fixed", "moving", "change", "engine", "contrast", *TRUTH, *NUMBERS,
    "inverse_inconsistency", "cpu_register", "cpu_judge",
)  # fmt: skip
SAME_DICE, SAME_VOXELS, LOST_DICE, LOST_VOXELS = 0.005, 0.05, 0.3, 5.0
KINDS: dict[str, Callable[[dict[str, Any]], float]] = {
    "held-out blocks whose edges agree better": lambda r: r["improved_share"],
    "gain of held-out blocks over its spread": lambda r: r["effect"],
    "gain of held-out blocks over that of all": lambda r: r["gain_share"],
    "mutual information, held-out blocks": lambda r: r["information_held_out"] - r["information_before"],
    "mutual information": lambda r: r["information_after"] - r["information_before"],
    "squared correlation in windows": lambda r: r["correlation_after"],
    "its gain": lambda r: r["correlation_after"] - r["correlation_before"],
    "foreground overlap, gain": lambda r: r["foreground_after"] - r["foreground_before"],
    "spread of the change of volume": lambda r: -r["sd_log_jacobian"],
    "inverse consistency, of the displacement": lambda r: -r["inverse_inconsistency"],
}
"""Each kind of evidence alone; more speaks for deforming."""


def run(cache: Path) -> None:
    """Make what is missing of every case and write all rows."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    rows = []
    for case in cases():
        made = None
        for engine in ENGINES:
            stored = cache / f"{case.name}.{engine}.run.pkl"
            if not stored.exists():
                try:
                    made = made or make(case, cache)
                    stored.write_bytes(pickle.dumps(registered(case, made, engine)))
                except (InputError, RegistrationError) as error:
                    print(f"{case.name}, {engine}: {error}", flush=True)
                    continue
            rows.append(row(case, engine, pickle.loads(stored.read_bytes())))
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def registered(case: Any, made: Any, name: str) -> dict[str, Any]:
    """Register a case there and back with an engine; return the images, the field and the truth."""
    engine, settings = ENGINES[name]
    pair = grid_pair(case, made)
    started = time.process_time()
    found = engine.register(RegistrationTask(pair.fixed, pair.moving, {}, settings, SEED))
    seconds = time.process_time() - started
    back = engine.register(RegistrationTask(pair.moving, pair.fixed, {}, settings, SEED))
    foreground = nearest(made.inputs.fixed.foreground, pair.grid)
    inside = sitk.GetArrayViewFromImage(foreground) != 0
    field = displacement_field(found.transform, pair.grid)
    around = displacement_field(sitk.CompositeTransform([back.transform, found.transform]), pair.grid)
    missed, moved = (np.sqrt((sitk.GetArrayViewFromImage(x)[inside] ** 2).sum(axis=-1).mean()) for x in (around, field))
    return {
        "fixed": pair.fixed, "moving": pair.moving, "fg": foreground, "field": sitk.Cast(field, sitk.sitkVectorFloat32),
        "mfg": nearest(made.inputs.moving.foreground, pair.grid, made.start), "cpu": seconds,
        "truth": truth(made, made.start, pair.whole_transform(found, made.start), pair.grid),
        "inverse_inconsistency": float(missed / max(moved, 1e-9)),
    }  # fmt: skip


def row(case: Any, engine: str, stored: dict[str, Any]) -> dict[str, Any]:
    """Measure the evidence of a stored registration; return its row."""
    started = time.process_time()
    deformation = field_transform(stored["field"])
    numbers = evidence(stored["fixed"], stored["moving"], deformation, stored["fg"], stored["mfg"])
    return {
        "use": case.use, "domain": case.domain, "fixed": case.fixed, "moving": case.moving, "change": case.change,
        "engine": engine, "contrast": _contrast(stored), **stored["truth"], **asdict(numbers),
        "inverse_inconsistency": stored["inverse_inconsistency"],
        "cpu_register": stored["cpu"], "cpu_judge": time.process_time() - started,
    }  # fmt: skip


def _contrast(stored: dict[str, Any]) -> str:
    """Judge contrast as the alignment of a job does."""
    images, masks = ([sitk.GetArrayFromImage(stored[name]) for name in names] for names in (("fixed", "moving"), ("fg", "mfg")))
    return likeness(*images, (masks[0] != 0) & (masks[1] != 0)).contrast


def read() -> list[dict[str, Any]]:
    """Return the rows with numbers as numbers, and what is true of each as "truth"."""
    with RESULTS.open(newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    for found in rows:
        for name in COLUMNS[7:]:
            found[name] = float(found[name]) if found[name] else np.nan
        found["blocks"] = int(found["blocks"])
        found["truth"] = _truth(found)
    return rows


def _truth(found: dict[str, Any]) -> str:
    if found["domain"] == "nonsense":
        return "nonsense"
    dice, error = ([found[f"{what}_before"], found[f"{what}_after"]] for what in ("dice", "error"))
    if max(dice) < LOST_DICE or min(error) > LOST_VOXELS:
        return "lost"
    better = (dice[1] - dice[0]) / SAME_DICE if np.isfinite(dice[0]) else (error[0] - error[1]) / SAME_VOXELS
    return "helpful" if better > 1 else "harmful" if better < -1 else "same"


def evidence_of(found: dict[str, Any]) -> Evidence:
    """Return the evidence that a row holds."""
    return Evidence(**{name: found[name] for name in NUMBERS})


def suited(found: dict[str, Any]) -> bool:
    """Tell whether the engine of a row suits the contrast of its pair, as a job asks."""
    return bool(found["contrast"] != "different" or ENGINES[found["engine"]][0].info.contrasts != "same")


def area(worse: Sequence[float], better: Sequence[float]) -> float:
    """Return the area under the ROC curve: how often a number of `better` is above one of `worse`."""
    one, other = np.array(worse)[:, None], np.array(better)[None]
    return float(np.mean((one < other) + 0.5 * (one == other))) if one.size and other.size else float("nan")


def tune() -> None:
    """Fit the logistic rule to the helpful and the harmful rows for tuning; print its numbers."""
    rows = [r for r in read() if r["use"] == "tune" and r["truth"] in ("helpful", "harmful")]
    x = np.array([features(evidence_of(r), suited(r)) for r in rows])
    y = np.array([r["truth"] == "helpful" for r in rows], dtype=float)
    weight = np.where(y > 0, 0.5 / y.sum(), 0.5 / (1 - y).sum())
    middle, spread = x.mean(axis=0), x.std(axis=0)

    def loss(w: np.ndarray) -> float:
        z = (x - middle) / spread @ w[1:] + w[0]
        return float((weight * (np.logaddexp(0, z) - y * z)).sum() + 0.005 * (w[1:] ** 2).sum())

    best = minimize(loss, np.zeros(x.shape[1] + 1)).x
    print("coefficients", np.round(best[1:] / spread, 3), "intercept", round(float(best[0] - (best[1:] / spread) @ middle), 3))


def table() -> None:
    """Print the area under the ROC curve of each kind of evidence alone, and what the rule says of what is true."""
    rows = read()
    print(f"{'evidence alone: area under the ROC curve':44s}{'tuning':>9s}{'test':>7s}")
    for name, kind in KINDS.items():
        found = []
        for use in ("tune", "test"):
            sides = [[kind(r) for r in rows if r["use"] == use and r["truth"] == side] for side in ("harmful", "helpful")]
            found.append(area(*sides))
        print(f"{name:44s}{found[0]:9.2f}{found[1]:7.2f}")
    levels = ("helped", "unclear", "did not help", "nonsense")
    print(f"\n{'use':6s}{'truth':10s}{'rows':>5s}" + "".join(f"{level:>14s}" for level in levels))
    for use in ("tune", "test"):
        for truth_ in ("helpful", "harmful", "same", "lost", "nonsense"):
            found_levels = [judged_alone(evidence_of(r), suited(r)) for r in rows if r["use"] == use and r["truth"] == truth_]
            print(f"{use:6s}{truth_:10s}{len(found_levels):5d}" + "".join(f"{found_levels.count(level):14d}" for level in levels))
    print(f"\n{'test, by domain':16s}{'harmful':>9s}{'flagged':>9s}{'helpful':>9s}{'flagged':>9s}")
    for domain in dict.fromkeys(r["domain"] for r in rows):
        counts = []
        for truth_ in ("harmful", "helpful"):
            found_levels = [judged_alone(evidence_of(r), suited(r)) for r in rows
                    if (r["use"], r["domain"], r["truth"]) == ("test", domain, truth_)]
            counts += [len(found_levels), sum(level in levels[2:] for level in found_levels)]
        print(f"{domain:16s}" + "".join(f"{count:9d}" for count in counts))
    seconds = [np.mean([r[name] for r in rows]) for name in ("cpu_register", "cpu_judge")]
    print(f"\nCPU seconds: registering {seconds[0]:.2f}, judging {seconds[1]:.2f}")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "tune", "table"))
    parser.add_argument("--cache", type=Path, default=Path("benchmark-output"))
    options = parser.parse_args()
    if options.action == "run":
        options.cache.mkdir(exist_ok=True)
        run(options.cache)
    else:
        {"tune": tune, "table": table}[options.action]()


if __name__ == "__main__":
    main()
