"""How the default settings of the engine `diffeo` were chosen: on tuning pairs of five kinds of anatomy, not on brains alone.

    python benchmarks/diffeo_settings.py run --cache FOLDER [--processes N]    one CSV row per pair and variant, resumable
    python benchmarks/diffeo_settings.py table                                 mean Dice per kind of anatomy and variant

None of these pairs is among those that `benchmarks/diffeo.py` and `benchmarks/peers.py` measure; people of brains are the five
tuning people, whose pairs are all used. Every kind of anatomy weighs the same.
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
from HyperPredictRegLib.engines.diffeo_scheme import DiffeoSettings
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import displacement_field
from lambda_table import TUNED_ON
from peer_pairs import SEED, Pair, case_of, measured, names_in

RESULTS = Path(__file__).resolve().parent / "results" / "diffeo-settings.csv"
COLUMNS = ("variant", "group", "fixed", "moving", "dice", "folded", "sd_log_jacobian", "cpu_seconds")

TWO, COARSE = {"window_voxels": (1, 2)}, {"coarsest_voxels": 8}
LATE = {"coarsest_voxels": 16}
VARIANTS: dict[str, tuple[dict[str, float], dict[str, object]]] = {
    "default": ({}, {}),
    "no levels below 16 voxels": ({}, LATE),
    "two windows": ({}, TWO),
    "two windows, no levels below 16 voxels": ({}, TWO | LATE),
    "λ .3": ({"regularization_weight": 0.3}, {}),
    "λ .5": ({"regularization_weight": 0.5}, {}),
    "λ .65": ({"regularization_weight": 0.65}, {}),
    "σ 1.0": ({"fluid_sigma": 1.0}, {}),
    "σ 1.5": ({"fluid_sigma": 1.5}, {}),
    "σ 2.0": ({"fluid_sigma": 2.0}, {}),
}


def tuning_pairs() -> list[Pair]:
    """Return the pairs, in the order in which they are run."""
    hearts, hippocampi = names_in("heart-acdc", "_ed_img.nii.gz"), names_in("hippocampus-msd04/images", ".nii.gz")
    mice, states = names_in("mouse-t2", "_t2.nii.gz"), names_in("fetal-t2", "_img.nii.gz")
    return [
        *(Pair("brain", one, other) for one, other in permutations(TUNED_ON, 2)),
        *(Pair("heart", f"{p}_ed", f"{p}_es") for p in hearts[3::8]),
        *(Pair("hippo", *two) for two in zip(hippocampi[9::24], hippocampi[12::24], strict=False)),
        *(Pair("mouse", *two) for two in ((mice[14], mice[16]), (mice[15], mice[17]), (mice[17], mice[14]))),
        *(Pair("fetal", *two) for two in ((states[11], states[13]), (states[12], states[14]), (states[14], states[11]))),
    ]


def rows_of(pair: Pair, variants: list[str], cache: Path) -> list[tuple[object, ...]]:
    """Register one pair by each of the variants."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    case, rows = case_of(pair, "fast", cache), []
    for name in variants:
        setting, settings = VARIANTS[name]
        task = RegistrationTask(
            case.fixed, case.moving, setting, DiffeoSettings(**settings), SEED,  # type: ignore[arg-type]
            view=case.view, moving_smoothed=case.moving_smoothed,
        )  # fmt: skip
        started = time.process_time()
        field = displacement_field(DiffeoEngine().register(task).transform, Geometry.of(case.fixed))
        seconds = time.process_time() - started
        found = measured(case, field)
        numbers = (found["dice"], found["folded"], found["sd_log_jacobian"], seconds)
        rows.append((name, pair.group, pair.fixed, pair.moving, *(f"{value:.6g}" for value in numbers)))
    return rows


def known() -> list[dict[str, str]]:
    """Return the rows that are there."""
    if not RESULTS.exists():
        return []
    with RESULTS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def run(cache: Path, processes: int) -> None:
    """Run what is missing and add it to the table."""
    there = {(row["variant"], row["group"], row["fixed"], row["moving"]) for row in known()}
    with ProcessPoolExecutor(processes) as pool:
        asked = []
        for pair in tuning_pairs():
            missing = [name for name in VARIANTS if (name, pair.group, pair.fixed, pair.moving) not in there]
            if missing:
                asked.append(pool.submit(rows_of, pair, missing, cache))
        for one in asked:
            new = not RESULTS.exists()
            with RESULTS.open("a", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                if new:
                    writer.writerow(COLUMNS)
                writer.writerows(one.result())


def table() -> None:
    """Print mean Dice of each kind of anatomy by variant, with the number of pairs."""
    dice, folded = defaultdict(list), defaultdict(list)
    for row in known():
        dice[row["variant"], row["group"]].append(float(row["dice"]))
        folded[row["variant"]].append(float(row["folded"]))
    groups = ("brain", "heart", "hippo", "mouse", "fetal")
    counts = [len(dice["default", group]) for group in groups]
    print("| variant | " + " | ".join(f"{g} ({n})" for g, n in zip(groups, counts, strict=True)) + " | mean | most folded, % |")
    print("|---|" + "---|" * (len(groups) + 2))
    for name in VARIANTS:
        means = [float(np.mean(dice[name, group])) if dice[name, group] else float("nan") for group in groups]
        most = max(folded[name], default=float("nan"))
        print(f"| {name} | " + " | ".join(f"{mean:.4f}" for mean in means) + f" | {np.mean(means):.4f} | {most:.2g} |")


def main() -> None:
    """Run or print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("run", "table"))
    parser.add_argument("--cache", type=Path, help="folder for alignments")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    if options.step == "run":
        if options.cache is None:
            parser.error("run needs --cache")
        run(options.cache, options.processes)
    table()


if __name__ == "__main__":
    main()
