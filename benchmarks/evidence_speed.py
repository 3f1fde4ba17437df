"""What a suggestion after the alignment costs, and the evidence and features in it, of this code and of another checkout.

    python benchmarks/evidence_speed.py [--other CHECKOUT] [--runs N] [--keep FOLDER]

A brain pair (1000, 1001) and a heart (p001, two phases) are aligned at Fast and kept; then processes of their own find evidence,
features and a setting, as *Suggest λ* does, with one thread and with two, those of both checkouts in turn, so that a busy
machine slows both alike. Told is the least of the runs, and by how much the numbers of both differ. Needs the data
(HYPERPREDICTREG_DATA or ../shared/data).
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("HYPERPREDICTREG_DATA", HERE.parent / "shared" / "data"))
PAIRS = {
    "brain": ("brain-t1-nmm/nmm_1000_t1.nii.gz", "brain-t1-nmm/nmm_1001_t1.nii.gz", "brain-t1-nmm/nmm_1001_aseg.nii.gz"),
    "heart": ("heart-acdc/p001_ed_img.nii.gz", "heart-acdc/p001_es_img.nii.gz", "heart-acdc/p001_es_lab.nii.gz"),
}
THREADS = (1, 2)


def prepare(folder: Path) -> None:
    """Align what is not there yet."""
    from HyperPredictRegLib.core.progress import never, silent
    from HyperPredictRegLib.results.job import Job
    from HyperPredictRegLib.workflow import preparing
    from HyperPredictRegLib.workflow.planning import Plan

    for name, files in PAIRS.items():
        if (folder / f"{name}.pkl").exists():
            continue
        fixed, moving, labels = (str(DATA / file) for file in files)
        job = Job(fixed, moving, "", moving_labels=labels)
        made = preparing.prepare(Plan.of(job), preparing.Clock(), silent, never)
        (folder / f"{name}.pkl").write_bytes(pickle.dumps((job, made)))


def child(path: Path, threads: int) -> None:
    """Print what one pair costs as JSON; runs in a process of its own, on whichever checkout it finds."""
    import SimpleITK as sitk
    import torch
    from HyperPredictRegLib.core.progress import never
    from HyperPredictRegLib.predictor.evidence import as_features, pair_evidence
    from HyperPredictRegLib.predictor.features import pair_features
    from HyperPredictRegLib.quality.measurement import nearest
    from HyperPredictRegLib.workflow.choosing import choose_setting
    from HyperPredictRegLib.workflow.planning import Plan
    from HyperPredictRegLib.workflow.preparing import settled_settings

    torch.set_num_threads(threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    job, made = pickle.loads(path.read_bytes())
    plan, inputs, pair = Plan.of(job), made.inputs, made.pair
    settings = settled_settings(plan, made, never)
    masks = nearest(inputs.fixed.foreground, pair.grid), nearest(inputs.moving.foreground, pair.grid, made.affine)
    seconds, values = {}, {}
    for name, work in (
        ("evidence", lambda: as_features(pair_evidence(pair, *masks, plan.engine, settings, seed=1))),
        ("features", lambda: pair_features(inputs, pair, made.affine, plan.engine, settings, seed=1).pair),
        ("suggestion", lambda: choose_setting(plan, made)[0].setting),
    ):
        cpu, wall = time.process_time(), time.perf_counter()
        values |= work()
        seconds[name] = time.process_time() - cpu, time.perf_counter() - wall
    print(json.dumps({"seconds": seconds, "values": values}))


def measured(checkout: Path, path: Path, threads: int) -> dict[str, dict[str, list[float]]]:
    """Run `child` on a checkout."""
    one = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout / "HyperPredictReg")}
    command = [sys.executable, __file__, "--child", str(path), "--threads", str(threads)]
    done = subprocess.run(command, env=os.environ | one, capture_output=True, text=True, check=True)
    found: dict[str, dict[str, list[float]]] = json.loads(done.stdout)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, help="another checkout, to compare with")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="folder in which the aligned pairs stay")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.threads)
        return
    checkouts = {"before": options.other.resolve()} if options.other else {}
    checkouts["now"] = HERE
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        prepare(folder)
        print("| pair | threads | of | " + " | ".join(f"CPU s {name} | wall s {name}" for name in checkouts) + " | CPU ratio |")
        print("|---" * (4 + 2 * len(checkouts)) + "|")
        for name in PAIRS:
            for threads in THREADS:
                rows(name, threads, folder / f"{name}.pkl", checkouts, options.runs)


def rows(name: str, threads: int, path: Path, checkouts: dict[str, Path], runs: int) -> None:
    """Print the lines of one pair and number of threads."""
    found: dict[str, list[dict[str, dict[str, list[float]]]]] = {of: [] for of in checkouts}
    for _ in range(runs):
        for of, checkout in checkouts.items():
            found[of].append(measured(checkout, path, threads))
    for part in ("evidence", "features", "suggestion"):
        least = {of: [min(run["seconds"][part][n] for run in some) for n in (0, 1)] for of, some in found.items()}
        numbers = " | ".join(f"{cpu:.2f} | {wall:.2f}" for cpu, wall in least.values())
        ratio = f"{least['now'][0] / least['before'][0]:.2f}" if "before" in least else ""
        print(f"| {name} | {threads} | {part} | {numbers} | {ratio} |", flush=True)
    if "before" in found:
        one, other = (found[of][0]["values"] for of in ("before", "now"))
        largest = max(abs(one[key] - other[key]) for key in one.keys() & other.keys())
        print(f"  largest difference of a number that both have: {largest:.2g}", flush=True)


if __name__ == "__main__":
    main()
