"""B-spline against demons on real brains, in the same contrast and in different ones: Dice, folding and time.

    python benchmarks/bspline_settings.py                       a dozen pairs of ten people that nothing was tuned on
    python benchmarks/bspline_settings.py --tuning --pairs 4    the five people that settings were tuned on
    python benchmarks/bspline_settings.py --spacings 16 20 26   several control-point spacings

The other contrast is made from the moving image after the affine step: intensities are mapped as in T2-weighted MR (fluid
bright, white matter dark, background black, so the map is not monotone) and noise is added. Labels stay. Dice is the mean
of 30 structures on the 2 mm working grid; folding is in percent of the fixed foreground; seconds are CPU seconds of one
thread. Data: the folder in HYPERPREDICTREG_DATA, or ../shared/data beside the repository.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from HyperPredictRegLib.alignment import AlignmentSettings, align
from HyperPredictRegLib.alignment.aligned_pair import AlignedPair
from HyperPredictRegLib.core.resources import threads
from HyperPredictRegLib.engines import get_engine
from HyperPredictRegLib.engines.base import RegistrationTask
from HyperPredictRegLib.preprocessing.image_set import read_inputs
from HyperPredictRegLib.quality.measurement import nearest
from HyperPredictRegLib.quality.metrics import dice_coefficients, folding_percent, jacobian_determinant
from HyperPredictRegLib.results.job import Job
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import composed, displacement_field

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("HYPERPREDICTREG_DATA", REPOSITORY.parent / "shared" / "data")) / "brain-t1-nmm"
TUNED_ON = ("1000", "1001", "1002", "1006", "1007")
STRUCTURES = (2, 3, 4, 7, 8, *range(10, 19), 24, 26, 28, 41, 42, 43, 46, 47, *range(49, 55), 58, 60)
SEED = 20240901


def t2_like(moving: sitk.Image, seed: int) -> sitk.Image:
    """Return a normalised T1 image as a T2-weighted scan might show it, with noise of 3 % of full scale."""
    voxels = sitk.GetArrayFromImage(moving).astype(float)
    levels = [0, 0.08, 0.25, 0.45, 0.6, 0.75, 0.9, 1.1, 1.5]
    mapped = np.interp(voxels, levels, [0, 0.55, 1.0, 0.75, 0.62, 0.42, 0.3, 0.28, 0.5])
    inside = np.clip(voxels / 0.08, 0, 1)
    noise = np.random.default_rng(seed).normal(0, 0.03, voxels.shape)
    return Geometry.of(moving).apply_to(sitk.GetImageFromArray((mapped * inside + noise).astype(np.float32)))


def measure_pair(fixed_id: str, moving_id: str, candidates: list[tuple[str, dict[str, float]]]) -> list[tuple[str, list[float]]]:
    """Return (what, [Dice, folding, seconds]) of the affine step and of every engine on both contrasts."""
    images = [str(DATA / f"nmm_{subject}_t1.nii.gz") for subject in (fixed_id, moving_id)]
    labels = [str(DATA / f"nmm_{subject}_aseg.nii.gz") for subject in (fixed_id, moving_id)]
    inputs = read_inputs(Job(*images, "", fixed_labels=labels[0], moving_labels=labels[1]))
    fixed, moving = inputs.fixed, inputs.moving
    alignment = align(
        fixed.normalised, moving.normalised, AlignmentSettings(), seed=SEED,
        fixed_foreground=fixed.foreground, moving_foreground=moving.foreground,
    ).transform
    pair = AlignedPair.of(inputs, alignment, "fast")
    foreground, fixed_labels = nearest(fixed.foreground, pair.grid), nearest(fixed.labels, pair.grid)

    def dice(transform: sitk.Transform) -> float:
        found = dice_coefficients(fixed_labels, nearest(moving.labels, pair.grid, transform))
        return float(np.mean([found.get(label, 0.0) for label in STRUCTURES]))

    rows = [("affine only", [dice(alignment), 0.0, 0.0])]
    for contrast, image in (("same", pair.moving), ("different", t2_like(pair.moving, int(fixed_id) * 7 + int(moving_id)))):
        for name, values in candidates:
            engine = get_engine(name)
            started = time.process_time()
            found = engine.register(RegistrationTask(pair.fixed, image, values, engine.settings_type(), SEED))
            seconds = time.process_time() - started
            jacobian = jacobian_determinant(displacement_field(found.transform, pair.grid))
            measured = [dice(composed(alignment, found.transform)), folding_percent(jacobian, foreground).foreground, seconds]
            rows.append((f"{name} {engine.info.search_space.text(values)}, {contrast} contrast", measured))
    return rows


def main() -> None:
    """Register the pairs and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tuning", action="store_true", help="use the people that settings were tuned on")
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--spacings", type=float, nargs="+", default=[20.0], help="control-point spacings in mm")
    options = parser.parse_args()
    people = sorted(path.name.split("_")[1] for path in DATA.glob("*_t1.nii.gz"))
    people = [person for person in people if (person in TUNED_ON) == options.tuning]
    everything = list(itertools.permutations(people, 2))
    pairs = [everything[n] for n in np.random.default_rng(7).permutation(len(everything))[: options.pairs]]
    candidates = [("demons", {"regularization_weight": 0.9}), ("demons", {"regularization_weight": 1.35})]
    candidates += [("bspline", {"control_point_spacing": spacing}) for spacing in options.spacings]
    results: dict[str, list[list[float]]] = defaultdict(list)
    with threads(1):
        for count, (fixed_id, moving_id) in enumerate(pairs, 1):
            for what, measured in measure_pair(fixed_id, moving_id, candidates):
                results[what].append(measured)
            print(f"{count} of {len(pairs)}: fixed {fixed_id}, moving {moving_id}", flush=True)
    print(f"\n| {len(pairs)} pairs | mean Dice | worst Dice | folding, foreground % | CPU s |\n|---|---|---|---|---|")
    for what, measured in results.items():
        table = np.array(measured)
        mean = table.mean(axis=0)
        print(f"| {what} | {mean[0]:.3f} | {table[:, 0].min():.3f} | {mean[1]:.3f} | {mean[2]:.1f} |")


if __name__ == "__main__":
    main()
