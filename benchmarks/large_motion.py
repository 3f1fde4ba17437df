"""Where the engine's search for large motion pays: the same registrations without it, as the engine decides, and always with it.

    python benchmarks/large_motion.py run --cache FOLDER [--processes N]    one CSV row per pair and choice, resumable
    python benchmarks/large_motion.py table                                 the table that docs/engine-diffeo.md quotes

Atria of four people and hearts of three were tuned on (limits and settings of the search), the other people's were not. CT images
are moved by a warp that is known and does not fold, a tenth of it over 24 mm; nobody tuned on these.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from itertools import permutations
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from HyperPredictRegLib.engines.base import RegistrationTask
from HyperPredictRegLib.engines.diffeo import DiffeoEngine
from HyperPredictRegLib.engines.diffeo_scheme import LARGE_MOTION, DiffeoSettings
from HyperPredictRegLib.preprocessing.intensity import foreground, normalised
from HyperPredictRegLib.quality.metrics import jacobian_determinant
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.images import read_image
from HyperPredictRegLib.spatial.transforms import displacement_field, field_transform
from peer_pairs import DATA, SEED, Case, Pair, case_of, measured, names_in, pairs
from scipy.ndimage import gaussian_filter

RESULTS = Path(__file__).resolve().parent / "results" / "large-motion.csv"
COLUMNS = ("kind", "fixed", "moving", "choice", "unit", "before", "after", "folded", "sd_log_jacobian", "cpu_seconds", "search")

ATRIA = {"tuned": ("la03", "la06", "la08", "la11"), "test": ("la13", "la16", "la18", "la01")}
WARP_SIGMA_MM, WARP_MM, NOISE = 42.0, 24.0, 0.02
CT = {"trunk": "trunk-ct/trunk_img.nii.gz", "chest": "ct-single/chest_img.nii.gz", "head": "ct-single/head_average_img.nii.gz"}
SEEDS = (101, 102, 103)


def listed() -> dict[str, list[Pair]]:
    """Return the pairs of each kind; those of known warps name an image and a seed."""
    hearts = names_in("heart-acdc", "_ed_img.nii.gz")
    people = {"tuned": hearts[3:20:8], "test": hearts[1:18:8]}
    found = {
        f"atria of two people, {use}": [Pair("atrium", *two) for two in permutations(four, 2)] for use, four in ATRIA.items()
    }
    for use, some in people.items():
        ring = zip(some, some[1:] + some[:1], strict=True)
        found[f"hearts of two people, {use}"] = [Pair("heart", f"{one}_ed", f"{other}_ed") for one, other in ring]
    found["CT after a large known warp"] = [Pair("ct", name, str(seed)) for name in CT for seed in SEEDS]
    for group in ("heart", "hippo", "mouse", "fetal", "brain", "heads-same"):
        found[f"{group}, as in docs/peers-measured.md"] = pairs(group)[:3]
    return found


def large_known_warp(pair: Pair) -> Case:
    """Return a CT image with noise, and the same, moved by a smooth warp that is known, with other noise."""
    image = read_image(DATA / CT[pair.fixed], "image")
    inside = foreground(image)
    image = sitk.Cast(normalised(image, inside), sitk.sitkFloat32)
    grid, rng = Geometry.of(image), np.random.default_rng(int(pair.moving))
    vectors = np.stack(
        [
            gaussian_filter(rng.standard_normal(grid.size[::-1]), [WARP_SIGMA_MM / s for s in grid.spacing[::-1]])
            for _ in range(3)
        ],
        axis=-1,
    )
    there = sitk.GetArrayViewFromImage(inside) != 0
    vectors *= WARP_MM / np.percentile(np.linalg.norm(vectors, axis=-1)[there], 90)
    field = grid.holding(vectors, vectors=True)
    least = sitk.GetArrayFromImage(jacobian_determinant(field)).min()
    if least <= 0:
        raise ValueError(f"The warp of {pair.fixed} by seed {pair.moving} folds ({least:.2f}): no registration could reach it.")
    warp = field_transform(field)
    fixed, moving = (
        grid.holding((sitk.GetArrayFromImage(one) + NOISE * rng.standard_normal(grid.size[::-1])).astype(np.float32))
        for one in (image, grid.resample(image, warp))
    )
    return Case(fixed, moving, warp, inside)


def rows_of(kind: str, pair: Pair, cache: Path) -> list[tuple[object, ...]]:
    """Register one pair by each choice."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    case = large_known_warp(pair) if pair.group == "ct" else case_of(pair, "fast", cache)
    start, rows = measured(case, None), []
    unit = "dice" if "dice" in start else "mm"
    for choice in LARGE_MOTION:
        task = RegistrationTask(
            case.fixed, case.moving, {}, DiffeoSettings(large_motion=choice), SEED,
            view=case.view, moving_smoothed=case.moving_smoothed,
        )  # fmt: skip
        started = time.process_time()
        result = DiffeoEngine().register(task)
        seconds = time.process_time() - started
        found = measured(case, displacement_field(result.transform, Geometry.of(case.fixed)))
        numbers = (start[unit], found[unit], found["folded"], found["sd_log_jacobian"], seconds)
        note = next((note for note in result.notes if "A search on a coarse grid" in note), "")
        search = "taken" if "begins with them" in note else "tried" if note else ""
        rows.append((kind, pair.fixed, pair.moving, choice, unit, *(f"{value:.6g}" for value in numbers), search))
    return rows


def known() -> list[dict[str, str]]:
    """Return the rows that are there."""
    if not RESULTS.exists():
        return []
    with RESULTS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def run(cache: Path, processes: int) -> None:
    """Run what is missing and add it to the table."""
    there = {(row["kind"], row["fixed"], row["moving"]) for row in known()}
    with ProcessPoolExecutor(processes) as pool:
        asked = [
            pool.submit(rows_of, kind, pair, cache)
            for kind, some in listed().items()
            for pair in some
            if (kind, pair.fixed, pair.moving) not in there
        ]
        for one in asked:
            new = not RESULTS.exists()
            with RESULTS.open("a", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                if new:
                    writer.writerow(COLUMNS)
                writer.writerows(one.result())


def table() -> None:
    """Print the mean of each kind of pairs by choice, with how often the search was tried and taken."""
    by_kind: dict[str, dict[tuple[str, str], dict[str, dict[str, str]]]] = defaultdict(lambda: defaultdict(dict))
    for row in known():
        by_kind[row["kind"]][row["fixed"], row["moving"]][row["choice"]] = row
    print("| pairs | before | never | auto | always | tried, taken | better, worse | CPU s: never, auto |")
    print("|---|---|---|---|---|---|---|---|")
    for kind in listed():
        rows = list(by_kind[kind].values())
        if not rows:
            continue
        means = [np.mean([float(row[choice]["after"]) for row in rows]) for choice in ("never", "auto", "always")]
        before = np.mean([float(row["auto"]["before"]) for row in rows])
        unit, better = rows[0]["auto"]["unit"], 1 if rows[0]["auto"]["unit"] == "dice" else -1
        tried = [row["auto"]["search"] for row in rows if row["auto"]["search"]]
        gains = [better * (float(row["auto"]["after"]) - float(row["never"]["after"])) for row in rows]
        seconds = [np.mean([float(row[choice]["cpu_seconds"]) for row in rows]) for choice in ("never", "auto")]
        digits = 3 if unit == "dice" else 2
        values = " | ".join(f"{value:.{digits}f}" for value in (before, *means))
        taken = tried.count("taken")
        counts = f"{sum(gain > 0 for gain in gains)}, {sum(gain < 0 for gain in gains)}"
        name = f"{kind} ({len(rows)})" + ("" if unit == "dice" else ", mm")
        print(f"| {name} | {values} | {len(tried)}, {taken} | {counts} | {seconds[0]:.1f}, {seconds[1]:.1f} |")
    folded = [float(row["folded"]) for row in known() if row["choice"] == "auto"]
    print(f"\nMost voxels folded by auto: {max(folded, default=float('nan')):.2g} %.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("--cache", type=Path, default=Path("benchmark-output"), help="where alignments are kept")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    if options.what == "run":
        run(options.cache, options.processes)
    table()


if __name__ == "__main__":
    main()
