"""How well the alignment goes that a few landmarks start: mouse skulls in any pose, judged at the landmarks that were left out.

    python benchmarks/landmark_start.py --data <data> --lines lines.jsonl [--pairs 132] [--landmarks 6] [--threads 1]

Every ordered pair of the 12 skulls (or so many of them, in an order chosen by the seed) starts from a random choice of the 45
landmarks. It is compared with the affine fit to all 45: the mean distance between the two over the fixed foreground, in voxels,
and the landmark error at the other 39. Pairs that stand in the file of lines already are not done again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
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


def measured(prepared: Prepared, full: tuple[np.ndarray, np.ndarray], chosen: np.ndarray) -> dict[str, Any]:
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
    start = prepared.alignment.landmarks
    if start is None:
        raise ValueError("The landmarks did not start the alignment.")
    return {
        "voxels": float(apart / prepared.inputs.fixed.image.GetSpacing()[0]),
        "error_mm": errors[0],
        "error_of_full_fit_mm": errors[1],
        "fit": start.fit,
        "fit_mm": start.fit_mm,
        "left_out_mm": start.left_out_mm,
        "aligned_mm": start.aligned_mm,
        "retained": start.retained,
    }


def main() -> None:
    """Align the pairs and print one line for each, then how many came out well."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--lines", type=Path, required=True)
    options.add_argument("--pairs", type=int, default=132)
    options.add_argument("--landmarks", type=int, default=6)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--seed", type=int, default=1)
    asked = options.parse_args()
    folder, random = asked.data / "mouse-skull-ct", np.random.default_rng(asked.seed)
    points = {file.name.removesuffix("_lms.csv"): read_points(file, "landmarks") for file in sorted(folder.glob("*_lms.csv"))}
    every = list(itertools.permutations(points, 2))
    lines = asked.lines.read_text(encoding="utf-8").splitlines() if asked.lines.exists() else []
    done = {json.loads(line)["pair"] for line in lines}
    with threads(asked.threads), tempfile.TemporaryDirectory() as work, asked.lines.open("a", encoding="utf-8") as out:
        for n in random.permutation(len(every))[: asked.pairs].tolist():
            if n in done:
                continue
            fixed, moving = every[n]
            chosen = np.sort(np.random.default_rng([asked.seed, n]).permutation(len(points[fixed]))[: asked.landmarks])
            line = {"pair": n, "fixed": fixed, "moving": moving}
            try:
                prepared = prepared_pair(folder, fixed, moving, chosen, Path(work))
            except InputError as error:
                line |= {"refused": str(error)}
            else:
                line |= measured(prepared, (points[fixed], points[moving]), chosen)
            out.write(json.dumps(line) + "\n")
            out.flush()
    summarise([json.loads(line) for line in asked.lines.read_text(encoding="utf-8").splitlines()])


def summarise(lines: list[dict[str, Any]]) -> None:
    """Print how many pairs came out well."""
    found = [line for line in lines if "voxels" in line]
    apart, error, full = (np.array([line[name] for line in found]) for name in ("voxels", "error_mm", "error_of_full_fit_mm"))
    retained = sum(line["retained"] for line in found)
    print(
        f"{(apart <= VOXELS).sum()} of {len(lines)} pairs within {VOXELS:g} voxels of the fit to all landmarks (median "
        f"{np.median(apart):.2f}, largest {apart.max():.2f}; {len(lines) - len(found)} refused, {retained} times the fit was "
        f"taken as it is); error at the others {error.mean():.3f} mm, of the fit to all {full.mean():.3f} mm"
    )


if __name__ == "__main__":
    main()
