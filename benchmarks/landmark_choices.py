"""What a few landmarks tell of the others, without any image: which fit misses them least, and whether a pull draws them closer.

    python benchmarks/landmark_choices.py --data <data>

Of every ordered pair of the 12 mouse skulls so many of the 45 landmarks are chosen at random; errors are those at all others, in
mm, on average. A pull starts from the similarity fit to all 45, so that only its own effect is told; 12 of the pairs are pulled.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
from HyperPredictRegLib.spatial.landmark_fit import affine_matrix, fit_landmarks, similarity_matrix
from HyperPredictRegLib.spatial.landmark_warp import landmark_warp
from HyperPredictRegLib.spatial.points import read_points
from HyperPredictRegLib.spatial.transforms import field_transform, transformed_points
from HyperPredictRegLib.workflow.landmarking import RADIUS

COUNTS = (4, 6, 10, 15)
PULLED = 12


def mapped(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Map points, shape (n, 3), by a matrix (4, 4)."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def error(points: np.ndarray, places: np.ndarray) -> float:
    """Return the mean distance of points from their places."""
    return float(np.linalg.norm(points - places, axis=1).mean())


def of_fits(fixed: np.ndarray, moving: np.ndarray, chosen: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """Return the error at the others of each kind of fit, of the one that is taken, and what that one says of itself."""
    a, b = fixed[chosen], moving[chosen]
    taken = fit_landmarks(a, b)
    fits = {"rigid": similarity_matrix(a, b, scaled=False), "similarity": similarity_matrix(a, b), "taken": taken.matrix}
    if len(a) >= 6:
        fits["affine"] = affine_matrix(a, b)
    errors = {kind: error(mapped(matrix, fixed[others]), moving[others]) for kind, matrix in fits.items()}
    return errors | {"left out": float("nan" if taken.left_out_mm is None else taken.left_out_mm.mean())}


def of_pulls(fixed: np.ndarray, moving: np.ndarray, chosen: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """Return the error at the others before and after a pull, what it says of itself, and its largest slope."""
    targets = mapped(np.linalg.inv(similarity_matrix(fixed, moving)), moving)
    size = float(np.exp(np.log(np.ptp(fixed, axis=0)).mean()))
    errors = {"no pull": error(fixed[others], targets[others])}
    warp = landmark_warp(fixed[chosen], targets[chosen] - fixed[chosen], RADIUS * size)
    pulled = error(transformed_points(field_transform(warp.field), fixed[others]), targets[others])
    return errors | {"pulled": pulled, "left out": float(warp.left_out_mm.mean()), "slope": warp.slope}


def main() -> None:
    """Print one line for each number of landmarks."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--seed", type=int, default=1)
    asked = options.parse_args()
    skulls = [read_points(file, "landmarks") for file in sorted((asked.data / "mouse-skull-ct").glob("*_lms.csv"))]
    random = np.random.default_rng(asked.seed)
    for count in COUNTS:
        fits, pulls = [], []
        every = list(itertools.permutations(skulls, 2))
        to_pull = set(random.permutation(len(every))[:PULLED].tolist())
        for n, (fixed, moving) in enumerate(every):
            order = random.permutation(len(fixed))
            parts = order[:count], order[count:]
            fits.append(of_fits(fixed, moving, *parts))
            if n in to_pull:
                pulls.append(of_pulls(fixed, moving, *parts))
        told = [
            ", ".join(f"{name} {np.nanmean([one[name] for one in found]):.3f}" for name in found[0]) for found in (fits, pulls)
        ]
        print(f"{count:2d} landmarks, fits: {told[0]}; pulls: {told[1]}", flush=True)


if __name__ == "__main__":
    main()
