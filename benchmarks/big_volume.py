"""A pair of 512 x 512 x 300 voxels, as a CT of a chest has: seconds, memory and error of the whole job, and how soon it stops.

    python benchmarks/big_volume.py make                             the pair, into --folder, from trunk-ct
    python benchmarks/big_volume.py run [--engine E] [--preset P]    one job: by stage seconds, CPU seconds, memory; error in mm
    python benchmarks/big_volume.py cancel                           from a request to stop to the end, at moments of a run

The fixed image is `trunk-ct/trunk_img` on a grid of 0.75 mm with noise of 15 HU; the moving one is the same, turned by 6 degrees,
shifted, and warped by sine waves (about 5 mm on average), with other noise. The truth is known: the error is how far a point of
the body ends from where it started after the result and the known way back. Stages of a process of its own are read from its
progress, CPU seconds and memory from /proc (Linux). Other work on the machine lengthens wall-clock seconds, not CPU seconds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from HyperPredictRegLib.core.json_records import to_json
from HyperPredictRegLib.core.progress import ProgressEvent
from HyperPredictRegLib.core.resources import estimated_bytes
from HyperPredictRegLib.engines import get_engine
from HyperPredictRegLib.results.job import Job
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.slabs import MOST_VOXELS
from HyperPredictRegLib.spatial.transforms import read_transform, transformed_points
from HyperPredictRegLib.worker import Child, new_workplace, remove_workplace
from HyperPredictRegLib.workflow import run as run_job

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("HYPERPREDICTREG_DATA", REPOSITORY.parent / "shared" / "data")) / "trunk-ct"
SIZE, SPACING = (512, 512, 300), 0.75
SEED = 20241128
NOISE, AIR = 15.0, -1000
WAVE_MM, WAVES_MM = 3.5, (150.0, 190.0, 130.0)
TURN_DEGREES, SHIFT_MM = 6.0, (9.0, -6.0, 12.0)
STAGES = ("read", "align", "predict", "register", "measure", "write")
POINTS = 4000


def make(folder: Path) -> None:
    """Write fixed.nii.gz, moving.nii.gz, their labels, and truth.h5, which leads from moving to fixed points."""
    folder.mkdir(parents=True, exist_ok=True)
    trunk = sitk.ReadImage(str(DATA / "trunk_img.nii.gz"))
    labels = sitk.ReadImage(str(DATA / "trunk_vertebrae_lab.nii.gz"))
    centre = Geometry.of(trunk).centre_lps
    origin = centre - SPACING * (np.array(SIZE) - 1) / 2
    grid = Geometry(SIZE, (SPACING,) * 3, tuple(origin.tolist()))
    truth = known_transform(grid)
    sitk.WriteTransform(truth, str(folder / "truth.h5"))
    random = np.random.default_rng(SEED)
    for name, transform in (("fixed", sitk.Transform(3, sitk.sitkIdentity)), ("moving", truth)):
        image = grid.resample(trunk, transform, default_value=AIR, pixel_type=sitk.sitkFloat32)
        voxels = sitk.GetArrayViewFromImage(image) + random.normal(0, NOISE, SIZE[::-1]).astype(np.float32)
        noisy = np.clip(np.rint(voxels), -1024, 3071).astype(np.int16)
        sitk.WriteImage(grid.holding(noisy), str(folder / f"{name}.nii.gz"), useCompression=True)
        propagated = grid.resample(labels, transform, interpolator=sitk.sitkNearestNeighbor)
        sitk.WriteImage(propagated, str(folder / f"{name}-labels.nii.gz"), useCompression=True)


def known_transform(grid: Geometry) -> sitk.CompositeTransform:
    """Return the way from moving to fixed points: sine waves, then a turn about the centre and a shift."""
    turn = sitk.Euler3DTransform()
    turn.SetCenter(grid.centre_lps.tolist())
    turn.SetRotation(*np.radians([0.3, 0.5, 1.0]) * TURN_DEGREES)
    turn.SetTranslation(SHIFT_MM)
    coarse = grid.covering(grid.corners_lps(), 5.0, 10.0)
    k, j, i = np.indices(coarse.size[::-1])
    points = coarse.to_lps(np.stack([i, j, k], axis=-1))
    waves = [
        WAVE_MM * np.sin(2 * np.pi * points[..., (axis + 1) % 3] / length + axis)
        + WAVE_MM * np.cos(2 * np.pi * points[..., (axis + 2) % 3] / length)
        for axis, length in enumerate(WAVES_MM)
    ]
    deformation = coarse.holding(np.stack(waves, axis=-1), vectors=True)
    return sitk.CompositeTransform([turn, sitk.DisplacementFieldTransform(deformation)])


def error_mm(folder: Path, result: sitk.Transform) -> np.ndarray:
    """Return how far points of the body end from their place after `result` and the known way back, shape (n,), in mm."""
    fixed = sitk.ReadImage(str(folder / "fixed.nii.gz"))
    body = np.argwhere(sitk.GetArrayViewFromImage(fixed)[::4, ::4, ::4] > -300)[:, ::-1] * 4
    chosen = body[np.random.default_rng(SEED).choice(len(body), POINTS, replace=False)]
    points = Geometry.of(fixed).to_lps(chosen)
    truth = read_transform(folder / "truth.h5", "truth", own=True)
    moved = transformed_points(result, points)
    place = Geometry.of(fixed).to_index(moved)
    # Both images lie on one grid; what the known transform moves out of it cannot be found.
    seen = ((place >= 0) & (place <= np.array(SIZE) - 1)).all(axis=1)
    return np.linalg.norm(transformed_points(truth, moved[seen]) - points[seen], axis=1)


def job_of(folder: Path, out: Path, options: argparse.Namespace) -> Job:
    """Return the job on the pair."""
    given = {f"{side}_labels": str(folder / f"{side}-labels.nii.gz") for side in ("fixed", "moving")} if options.labels else {}
    pair = {side: str(folder / f"{side}.nii.gz") for side in ("fixed", "moving")}
    return Job(**pair, out=str(out), engine=options.engine, preset=options.preset, **given)


@dataclass
class Usage:
    """What one process used: seconds, CPU seconds and the most memory (GB) of each stage; the most of all by the system."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    cpu: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    gb: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    peak_gb: float = 0.0


def watched(job: Job, folder: Path) -> Usage:
    """Do a job as the panel does it, in a worker of its own, and watch it."""
    path = folder / "job.json"
    path.write_text(to_json(job), encoding="utf-8")
    command = [sys.executable, "-m", "HyperPredictRegLib.worker.main", "register", str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    stage = ["start"]
    lines: list[dict[str, Any]] = []

    def listen() -> None:
        for line in process.stdout or ():
            lines.append(json.loads(line))
            stage[0] = lines[-1].get("stage", stage[0])

    threading.Thread(target=listen, daemon=True).start()
    usage, before, used = Usage(), time.monotonic(), 0.0
    while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
        time.sleep(0.02)
        try:
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            continue
        now, cpu = time.monotonic(), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        usage.seconds[stage[0]] += now - before
        usage.cpu[stage[0]] += cpu - used
        usage.gb[stage[0]] = max(usage.gb[stage[0]], pages * os.sysconf("SC_PAGE_SIZE") / 1e9)
        before, used = now, cpu
    usage.peak_gb = ended[2].ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    if lines[-1]["event"] != "done":
        raise SystemExit(f"The job ended with {lines[-1]}.")
    return usage


def run(folder: Path, options: argparse.Namespace) -> None:
    """Do one job and print what it took and how exact it is."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        out = Path(scratch) / "out"
        usage = watched(job_of(folder, out, options), Path(scratch))
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))
        errors = error_mm(folder, read_transform(out / "transform.h5", "transform", own=True))
    threads = os.environ.get("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "all")
    labels = ", with labels" if options.labels else ""
    print(f"{' x '.join(map(str, SIZE))}, {options.engine}, {options.preset}{labels}, threads: {threads}")
    print("  stage        seconds     CPU s   most GB")
    for stage in ("start", *STAGES):
        print(f"  {stage:<10}{usage.seconds[stage]:10.1f}{usage.cpu[stage]:10.1f}{usage.gb[stage]:10.2f}")
    print(f"  {'all':<10}{sum(usage.seconds.values()):10.1f}{sum(usage.cpu.values()):10.1f}{usage.peak_gb:10.2f}")
    grid = report["working_grid"]
    share = estimate_gb(report) / usage.peak_gb
    print(f"  working grid {grid['size']} of {grid['spacing'][0]:.3g} mm; estimate of memory {share:.2f} times the peak")
    folding = report["measured"]["folding_percent"]["foreground"]
    print(f"  error {errors.mean():.2f} mm, 95 % {np.percentile(errors, 95):.2f}, {len(errors)} points; folded {folding:.3g} %")
    own = {stage: round(seconds, 1) for stage, seconds in report["seconds"].items()}
    print(f"  the report's own seconds {own}, peak {report['peak_memory_mb'] / 1e3:.2f} GB", flush=True)


def estimate_gb(report: dict[str, Any]) -> float:
    """Return the peak memory in GB by which the library would have refused the job."""
    sizes = [int(np.prod(used["size"])) for used in report["inputs"]]
    as_they_are = sum(size for size in sizes if size <= MOST_VOXELS)
    engine_bytes = get_engine(report["engine"]["name"]).info.extra_bytes
    grid_voxels = int(np.prod(report["working_grid"]["size"]))
    return estimated_bytes(as_they_are, grid_voxels, engine_bytes, sum(sizes) - as_they_are) / 1e9


def longest_waits(folder: Path, options: argparse.Namespace) -> float:
    """Do one job in this process and print how long a request to stop would have waited, by stage; return the seconds of all."""
    waits: dict[str, float] = defaultdict(float)
    state = {"stage": "read", "asked": time.monotonic()}

    def cancelled() -> bool:
        now = time.monotonic()
        waits[state["stage"]] = max(waits[state["stage"]], now - state["asked"])
        state["asked"] = now
        return False

    def progress(event: ProgressEvent) -> None:
        state["stage"] = event.stage

    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        run_job(job_of(folder, Path(scratch) / "out", options), progress=progress, cancelled=cancelled)
    everything = time.monotonic() - began
    print(f"In Python: the longest wait for a request to stop, in a run of {everything:.0f} s, in seconds")
    print("  " + ", ".join(f"{stage} {waits[stage]:.2f}" for stage in STAGES if stage in waits), flush=True)
    return everything


def stopped_command(job: Job, folder: Path, moment: float) -> float:
    """Start the command, press Ctrl+C at a moment, and return the seconds until it has ended."""
    path = folder / "job.json"
    path.write_text(to_json(job), encoding="utf-8")
    command = [sys.executable, "-m", "HyperPredictRegLib.cli", "register", "--job", str(path), "--out", job.out, "--quiet"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    time.sleep(moment)
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.wait()
    return time.monotonic() - asked


def stopped_panel(job: Job, folder: Path, moment: float) -> float:
    """Start a worker as the panel does, press Cancel at a moment, and return the seconds until nothing of it runs."""
    workplace = new_workplace(folder)
    path = workplace / "job.json"
    path.write_text(to_json(job), encoding="utf-8")
    child = Child("register", path, workplace=workplace)
    time.sleep(moment)
    asked = time.monotonic()
    child.kill()
    taken = time.monotonic() - asked
    remove_workplace(workplace)
    return taken


def cancel(folder: Path, options: argparse.Namespace) -> None:
    """Print how soon a job ends that is asked to, at moments spread over a run, by turns in a command and in the panel."""
    everything = longest_waits(folder, options)
    ways = itertools.cycle([("command, Ctrl+C", stopped_command), ("panel, Cancel", stopped_panel)])
    for number, (name, stop) in zip(range(options.moments), ways, strict=False):
        moment = everything * (number + 0.5) / options.moments
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            taken = stop(job_of(folder, Path(scratch) / "out", options), Path(scratch), moment)
            left = sorted(p.name for p in Path(scratch).iterdir() if p.name != "job.json")
        behind = ", ".join(left) or "nothing"
        print(f"  {name:<16} after {moment:5.0f} s: ended within {taken:.2f} s, left behind: {behind}", flush=True)


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("make", "run", "cancel"))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "big-volume")
    parser.add_argument("--engine", default="diffeo")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--labels", action="store_true", help="with label maps of vertebrae, which are propagated and compared")
    parser.add_argument("--moments", type=int, default=10, help="how many jobs to stop")
    options = parser.parse_args()
    if options.step == "make":
        make(options.folder)
    else:
        {"run": run, "cancel": cancel}[options.step](options.folder, options)


if __name__ == "__main__":
    main()
