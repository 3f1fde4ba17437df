"""How quick a preview is, and how near to the registration that it stands for.

    python benchmarks/previews.py [--engines NAME ...] [--voxels COUNT ...] [--pairs COUNT]

Pairs of tuning people of brain-t1-nmm (HYPERPREDICTREG_DATA or ../shared/data), preset "fast", one thread. Processor time of a
preview, all of it; and, in the fixed foreground, the mean distance between where preview and registration with the same setting
take a point, beside the mean distance by which the registration moves it beyond the affine step.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from HyperPredictRegLib.core.progress import never
from HyperPredictRegLib.core.resources import threads
from HyperPredictRegLib.engines.base import RegistrationTask
from HyperPredictRegLib.quality.benefit import coarse_grid
from HyperPredictRegLib.quality.measurement import nearest
from HyperPredictRegLib.results.job import Job
from HyperPredictRegLib.spatial.transforms import displacement_field
from HyperPredictRegLib.workflow.planning import Plan
from HyperPredictRegLib.workflow.preparing import Clock, prepare
from HyperPredictRegLib.workflow.previewing import Previewer, sampled

DATA = Path(os.environ.get("HYPERPREDICTREG_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "brain-t1-nmm"
PAIRS = (("1000", "1001"), ("1002", "1006"), ("1007", "1000"))
SHARES = (0.15, 0.4, 0.7)


def main() -> None:
    """Print a line for each pair, engine and size of the coarse grid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", default=["diffeo"])
    parser.add_argument("--voxels", nargs="+", type=int, default=[36_000, 70_000, 140_000])
    parser.add_argument("--pairs", type=int, default=len(PAIRS))
    given = parser.parse_args()
    for engine in given.engines:
        for fixed, moving in PAIRS[: given.pairs]:
            images = (str(DATA / f"nmm_{one}_t1.nii.gz") for one in (fixed, moving))
            job = Job(*images, "", engine=engine, reproducible=True)
            with threads(1):
                measure(job, given.voxels)


def measure(job: Job, sizes: list[int]) -> None:
    """Print the lines of one pair."""
    plan = Plan.of(job)
    prepared = prepare(plan, Clock(), lambda event: None, never)
    pair, space = prepared.pair, prepared.space
    inside = sitk.GetArrayViewFromImage(nearest(prepared.inputs.fixed.foreground, pair.grid)) != 0
    shares = np.tile(space.shares(space.rows([space.defaults])), (len(SHARES), 1))
    shares[:, 0] = SHARES
    settings = [space.setting(row) for row in space.at_shares(shares)]
    whole = RegistrationTask(
        pair.fixed, pair.moving, {}, plan.engine_settings, job.seed, pair.fixed_mask, pair.moving_mask, pair.channels, pair.view,
        pair.moving_smoothed,
    )  # fmt: skip
    true = []
    for setting in settings:
        began = time.process_time()
        found = plan.engine.register(replace(whole, setting=setting))
        true.append((sitk.GetArrayFromImage(displacement_field(found.transform, pair.grid))[inside], time.process_time() - began))
    moving = sitk.Cast(prepared.inputs.moving.image, sitk.sitkFloat32)
    for most in sizes:
        grid = coarse_grid(pair.grid, most)
        previewer = Previewer(plan, prepared, sampled(pair, grid), moving)
        for setting, (field, full) in zip(settings, true, strict=True):
            began = time.process_time()
            look = previewer.at(setting)
            seconds = time.process_time() - began
            coarse = previewer.coarse
            images = {"fixed": coarse.fixed, "moving": coarse.moving, "view": coarse.view}
            coarsely = replace(whole, **images, channels=(), moving_smoothed=True)
            again = plan.engine.register(replace(coarsely, setting=setting))
            there = sitk.GetArrayFromImage(displacement_field(again.transform, pair.grid))[inside]
            apart, moved = (float(np.linalg.norm(one, axis=-1).mean()) for one in (there - field, field))
            people = " and ".join(Path(one).name[4:8] for one in (job.fixed, job.moving))
            print(
                f"{job.engine}, {people}, {space.text(setting)}: {most} voxels ({look.spacing_mm:.1f} mm) {seconds:.2f} s, "
                f"the registration {full:.1f} s; {apart:.2f} mm apart of {moved:.2f} mm",
                flush=True,
            )


if __name__ == "__main__":
    main()
