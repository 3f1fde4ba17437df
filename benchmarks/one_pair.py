"""Seconds and memory of one whole job, stage by stage, at 2 mm and at the native 1 mm, with one and two threads.

    python benchmarks/one_pair.py

Every job runs in a process of its own, so that its peak memory is its own; beside it stands the estimate that the library
refuses too large jobs by. The last line compares two runs of the same job in reproducible mode, byte by byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from HyperPredictRegLib.core.resources import estimated_bytes
from HyperPredictRegLib.engines import get_engine

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("HYPERPREDICTREG_DATA", REPOSITORY.parent / "shared" / "data")) / "brain-t1-nmm"
FIXED, MOVING = "1011", "1036"
STAGES = ("read", "align", "register", "measure", "write")


def job(out: Path, threads: int, *words: str) -> dict:
    """Run the command on the pair and return its report."""
    files = [str(DATA / f"nmm_{subject}_t1.nii.gz") for subject in (FIXED, MOVING)]
    labels = [str(DATA / f"nmm_{subject}_aseg.nii.gz") for subject in (FIXED, MOVING)]
    command = [sys.executable, "-m", "HyperPredictRegLib.cli", "register", *files, "--out", str(out), "--json", "--no-page"]
    command += ["--fixed-labels", labels[0], "--moving-labels", labels[1], *words]
    environment = os.environ | {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True, env=environment)
    return json.loads(done.stdout)


def estimate_mb(report: dict) -> float:
    """Return the peak memory that the library expected of the job."""
    voxels = sum(int(np.prod(used["size"])) for used in report["inputs"])
    engine_bytes = get_engine(report["engine"]["name"]).info.extra_bytes
    return estimated_bytes(voxels, int(np.prod(report["working_grid"]["size"])), engine_bytes) / 1e6


def main() -> None:
    """Print one line per job."""
    print(f"One pair (fixed {FIXED}, moving {MOVING} of brain-t1-nmm); wall-clock seconds per stage")
    columns = "       all   peak MB   estimate MB   mean Dice   fold fg %"
    print("  engine    grid   threads " + "".join(f"{stage:>10}" for stage in STAGES) + columns)
    with tempfile.TemporaryDirectory() as scratch:
        for engine, preset in (("demons", "fast"), ("demons", "fine"), ("bspline", "fast")):
            for threads in (1, 2):
                out = Path(scratch) / f"{engine}-{preset}-{threads}"
                report = job(out, threads, "--preset", preset, "--engine", engine)
                seconds = report["seconds"]
                print(
                    f"  {engine:<8}{report['working_grid']['spacing'][0]:4.1f} mm  {threads:7d} "
                    + "".join(f"{seconds[stage]:10.1f}" for stage in STAGES)
                    + f"{sum(seconds.values()):10.1f}{report['peak_memory_mb']:10.0f}{estimate_mb(report):14.0f}"
                    + f"{report['measured']['dice']['mean']:12.3f}{report['measured']['folding_percent']['foreground']:12.3f}",
                    flush=True,
                )
        digests = []
        for name in ("one", "two"):
            job(Path(scratch) / name, 2, "--reproducible")
            digests.append(hashlib.sha256((Path(scratch) / name / "warped.nrrd").read_bytes()).hexdigest())
        print(f"Two runs with --reproducible: warped volumes {'equal' if digests[0] == digests[1] else 'DIFFERENT'} byte by byte")


if __name__ == "__main__":
    main()
