"""How well the alignment goes that a few landmarks start: mouse skulls in any pose, judged at the landmarks that were left out.

    python benchmarks/landmark_start.py --data <data> [--pairs 132] [--landmarks 6] [--threads 1]

Every ordered pair of the 12 skulls (or so many of them, chosen by the seed) starts from a random choice of the 45 landmarks. What
is compared with is the affine fit to all 45: the mean distance over the fixed foreground between what it and the alignment say,
in voxels, and the landmark error at the other 39.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from HyperPredictRegLib.alignment import foreground_points
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.progress import never, silent
from HyperPredictRegLib.core.resources import threads
from HyperPredictRegLib.results.job import Job
from HyperPredictRegLib.spatial.landmark_fit import affine_matrix
from HyperPredictRegLib.spatial.points import read_points, write_points
from HyperPredictRegLib.spatial.transforms import transformed_points
from HyperPredictRegLib.workflow.planning import Plan
from HyperPredictRegLib.workflow.preparing import Clock, Prepared, prepare

VOXELS = 2.0


def prepared_pair(folder: Path, fixed: str, moving: str, chosen: np.ndarray, work: Path) -> Prepared:
    """Align a pair of skulls from the landmarks of those numbers."""
    lists = {}
    for side, name in (("fixed", fixed), ("moving", moving)):
        lists[side] = work / f"{side}.csv"
        write_points(read_points(folder / f"{name}_lms.csv", "landmarks")[chosen], lists[side])
    job = Job(
        fixed=str(folder / f"{fixed}_img.nii.gz"),
        moving=str(folder / f"{moving}_img.nii.gz"),
        out="",
        fixed_landmarks=str(lists["fixed"]),
        moving_landmarks=str(lists["moving"]),
        landmarks_for="start",
        predictor="none",
    )
    return prepare(Plan.of(job), Clock(), silent, never)


def measured(prepared: Prepared, full: tuple[np.ndarray, np.ndarray], chosen: np.ndarray) -> tuple[float, float, float]:
    """Return how far the alignment lies from the fit to all landmarks, in voxels, and both errors at the others, in mm."""
    fixed, moving = full
    matrix, others = affine_matrix(fixed, moving), np.setdiff1d(np.arange(len(fixed)), chosen)

    def fitted(points: np.ndarray) -> np.ndarray:
        return points @ matrix[:3, :3].T + matrix[:3, 3]

    places = foreground_points(prepared.inputs.fixed.foreground)
    apart = np.linalg.norm(transformed_points(prepared.affine, places) - fitted(places), axis=1).mean()
    errors = [
        float(np.linalg.norm(points - moving[others], axis=1).mean())
        for points in (transformed_points(prepared.affine, fixed[others]), fitted(fixed[others]))
    ]
    return float(apart / prepared.inputs.fixed.image.GetSpacing()[0]), errors[0], errors[1]


def main() -> None:
    """Align the pairs and print one line for each, then how many came out well."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--pairs", type=int, default=132)
    options.add_argument("--landmarks", type=int, default=6)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--seed", type=int, default=1)
    asked = options.parse_args()
    folder, random = asked.data / "mouse-skull-ct", np.random.default_rng(asked.seed)
    points = {file.name.removesuffix("_lms.csv"): read_points(file, "landmarks") for file in sorted(folder.glob("*_lms.csv"))}
    every = list(itertools.permutations(points, 2))
    found, refused = [], 0
    with threads(asked.threads), tempfile.TemporaryDirectory() as work:
        for n in sorted(random.permutation(len(every))[: asked.pairs]):
            fixed, moving = every[n]
            chosen = np.sort(np.random.default_rng([asked.seed, n]).permutation(len(points[fixed]))[: asked.landmarks])
            try:
                prepared = prepared_pair(folder, fixed, moving, chosen, Path(work))
            except InputError as error:
                refused += 1
                print(f"{fixed} {moving} refused: {error}", flush=True)
                continue
            start = prepared.alignment.landmarks
            apart, error, full = measured(prepared, (points[fixed], points[moving]), chosen)
            found.append((apart, error, full))
            print(
                f"{fixed} {moving} {start.fit}: {apart:.2f} voxels from the fit to all; error at the others {error:.2f} mm "
                f"(that fit {full:.2f}); at the {asked.landmarks}: fit {start.fit_mm:.2f}, left out {start.left_out_mm or np.nan:.2f}, "
                f"aligned {start.aligned_mm:.2f}{' FIT TAKEN' if start.retained else ''}", flush=True,
            )
    apart, error, full = np.array(found).T
    print(
        f"{(apart <= VOXELS).sum()} of {len(found) + refused} pairs within {VOXELS:g} voxels of the fit to all landmarks "
        f"(median {np.median(apart):.2f}, largest {apart.max():.2f}; {refused} refused); error at the left-out landmarks "
        f"{error.mean():.3f} mm (fit to all of them: {full.mean():.3f} mm); SimpleITK {sitk.Version.VersionString()}"
    )


if __name__ == "__main__":
    main()
