"""Small jobs, made-up workers and questions to the system for the tests of child processes."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from conftest import FAST, blob_image, blob_labels
from HyperPredictRegLib.core.json_records import to_json
from HyperPredictRegLib.results.exchange import read_outcome
from HyperPredictRegLib.results.job import Job
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.worker import Child, new_workplace, remove_workplace

LIMIT = 600.0


def write_small_job(folder: Path, out: Path, voxels: int = 24, **changes: object) -> Path:
    """Write a pair that registers in a moment, and its job; return the path of job.json."""
    grid = Geometry((voxels,) * 3, (64 / voxels,) * 3, (-30.0, 11.0, 5.0))
    for name, image in (("fixed", blob_image(grid)), ("moving", blob_image(grid, shift_mm=(4.0, -3.0, 2.0), deform=0.4))):
        sitk.WriteImage(sitk.Cast(image * 5, sitk.sitkInt16), str(folder / f"{name}.nrrd"))
        sitk.WriteImage(blob_labels(image), str(folder / f"{name}-labels.nrrd"))
    job = Job(
        fixed=str(folder / "fixed.nrrd"),
        moving=str(folder / "moving.nrrd"),
        out=str(out),
        fixed_labels=str(folder / "fixed-labels.nrrd"),
        moving_labels=str(folder / "moving-labels.nrrd"),
        predictor="none",
        alignment=FAST,
        reproducible=True,
    )
    path = folder / "job.json"
    path.write_text(to_json(replace(job, **changes)), encoding="utf-8")
    return path


def worker_that(body: str) -> str:
    """Return the code of a worker whose task "register" is `body`, which may use `progress` and `cancelled`."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return (
        "import os, sys, time\n"
        "sys.path[:] = [sys.argv.pop(1), *filter(None, sys.path)]\n"
        "from pathlib import Path\n"
        "from HyperPredictRegLib.worker import main\n"
        "from HyperPredictRegLib.core.errors import InputError, RegistrationError\n"
        "from HyperPredictRegLib.core.progress import ProgressEvent, stop_if\n"
        f"def task(path, progress, cancelled):\n{lines}\n    return path\n"
        "main._TASKS['register'] = task\n"
        "main.main()\n"
    )


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that is dead but not yet waited for does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return not Path("/proc").is_dir()


def seconds_until(condition: Callable[[], bool], limit: float) -> float:
    """Wait until a condition holds and return how long that took; infinite if it did not within the limit."""
    started = time.perf_counter()
    while not condition():
        if time.perf_counter() - started > limit:
            return float("inf")
        time.sleep(0.005)
    return time.perf_counter() - started


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a folder by its name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def kill_at_random_moments(folder: Path, moments: int, at_start: int, seed: int) -> list[str]:
    """Register again and again, kill each at a random moment, and make sure that nothing is left behind or half done.

    Parameters
    ----------
    moments, at_start : kills during the whole of a run, and during its first tenth. Every third is as the system does it where
        memory runs out: nobody is asked.

    Returns
    -------
    endings : how each ended.
    """
    inputs, results = folder / "inputs", folder / "results"
    inputs.mkdir()
    results.mkdir()
    out = results / "out"
    write_small_job(inputs, out)
    before = digests(inputs)
    # The first run warms the disk's cache up; the second tells how long the others will take.
    for _ in range(2):
        shutil.rmtree(out, ignore_errors=True)
        started = time.perf_counter()
        child, workplace = _begin(inputs)
        assert child.wait(timeout=LIMIT).outcome == "done"
        whole_run = time.perf_counter() - started
        remove_workplace(workplace)
    complete = {path.name for path in out.iterdir()}
    random = np.random.default_rng(seed)
    chosen = [*random.uniform(0, whole_run, moments), *random.uniform(0, 0.1 * whole_run, at_start)]
    endings, pids = [], []
    for number, moment in enumerate(chosen):
        shutil.rmtree(out, ignore_errors=True)
        child, workplace = _begin(inputs)
        assert child._process is not None
        pids.append(child._process.pid)
        time.sleep(moment)
        if number % 3 == 2 and child.ending is None:
            os.kill(child._process.pid, signal.SIGKILL)
            child.wait(timeout=LIMIT)
        else:
            child.kill()
        assert child.ending is not None
        endings.append(child.ending.outcome)
        assert not is_alive(child._process.pid)
        remove_workplace(workplace)
        assert list((folder / "temporary").iterdir()) == []
        assert {path.name for path in results.iterdir()} <= {"out"}, f"kill {number} of seed {seed} at {moment:.3f} s"
        if out.exists():
            # It was published before the kill: then all of it is there.
            assert {path.name for path in out.iterdir()} == complete
            read_outcome(out)
        else:
            assert endings[-1] != "done"
        assert digests(inputs) == before
    assert not any(is_alive(pid) for pid in pids)
    return endings


def _begin(inputs: Path) -> tuple[Child, Path]:
    workplace = new_workplace(inputs.parent / "temporary")
    return Child("register", inputs / "job.json", workplace=workplace), workplace
