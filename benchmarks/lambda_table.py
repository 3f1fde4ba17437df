"""λ against Dice and folding on all ordered pairs of the 15 people of brain-t1-nmm.

    python benchmarks/lambda_table.py run --engine demons      sweep; stops and goes on where it was, one CSV row per run
    python benchmarks/lambda_table.py table --engine demons    print the table from the CSV

One process per core, one thread each. Dice is the mean of 30 structures, on the fixed image's own 1 mm grid and, to compare
with figures from a 2 mm grid, on the working grid. The settings were tuned on the ordered pairs of five people (TUNED_ON);
the held-out rows are the 90 ordered pairs of the other ten, none of whom was looked at before.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import multiprocessing
import os
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from HyperPredictRegLib.alignment import AlignmentSettings, align
from HyperPredictRegLib.alignment.aligned_pair import AlignedPair
from HyperPredictRegLib.core.errors import HyperPredictRegError
from HyperPredictRegLib.engines import engine_settings, get_engine
from HyperPredictRegLib.engines.base import RegistrationTask
from HyperPredictRegLib.preprocessing.image_set import read_inputs
from HyperPredictRegLib.quality.measurement import nearest
from HyperPredictRegLib.quality.metrics import dice_coefficients, folding_percent, jacobian_determinant, sd_log_jacobian
from HyperPredictRegLib.results.job import Job
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import displacement_field

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("HYPERPREDICTREG_DATA", REPOSITORY.parent / "shared" / "data")) / "brain-t1-nmm"
RESULTS = REPOSITORY / "benchmarks" / "results"
TUNED_ON = ("1000", "1001", "1002", "1006", "1007")
STRUCTURES = (2, 3, 4, 7, 8, *range(10, 19), 24, 26, 28, 41, 42, 43, 46, 47, *range(49, 55), 58, 60)
WEIGHTS = {"demons": (0.45, 0.6, 0.7, 0.9, 1.2, 2.0), "bspline": (20.0,), "clapirn": (0.0, 0.05, 0.1, 0.4), "diffeo": (0.4,)}
COLUMNS = ("fixed", "moving", "weight", "dice", "dice_grid", "foreground", "grid", "sd_log_jacobian", "seconds", "dice_affine")
SEED = 20240901


def subjects() -> list[str]:
    """Return the ids of the 15 people."""
    return sorted(path.name.split("_")[1] for path in DATA.glob("*_t1.nii.gz"))


def mean_dice(fixed: sitk.Image, warped: sitk.Image) -> float:
    """Return mean Dice of the 30 structures."""
    found = dice_coefficients(fixed, warped)
    return float(np.mean([found.get(label, 0.0) for label in STRUCTURES]))


def sweep_pair(task: tuple[str, str, str, tuple[float, ...], str, str]) -> list[dict[str, object]]:
    """Register one pair with every weight that is asked for."""
    fixed_id, moving_id, engine_name, weights, settings, preset = task
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    paths = {
        side: (str(DATA / f"nmm_{subject}_t1.nii.gz"), str(DATA / f"nmm_{subject}_aseg.nii.gz"))
        for side, subject in (("fixed", fixed_id), ("moving", moving_id))
    }
    job = Job(paths["fixed"][0], paths["moving"][0], "", fixed_labels=paths["fixed"][1], moving_labels=paths["moving"][1])
    inputs = read_inputs(job)
    fixed, moving = inputs.fixed, inputs.moving
    alignment = align(
        fixed.normalised,
        moving.normalised,
        AlignmentSettings(),
        seed=SEED,
        fixed_foreground=fixed.foreground,
        moving_foreground=moving.foreground,
    ).transform
    pair = AlignedPair.of(inputs, alignment, preset)
    native, foreground = Geometry.of(fixed.image), nearest(fixed.foreground, pair.grid)
    affine = mean_dice(fixed.labels, nearest(moving.labels, native, alignment))
    coarse_labels = nearest(fixed.labels, pair.grid)
    engine = get_engine(engine_name, json.loads(settings))
    rows: list[dict[str, object]] = []
    for weight in weights:
        row: dict[str, object] = {"fixed": fixed_id, "moving": moving_id, "weight": weight, "dice_affine": round(affine, 5)}
        started = time.process_time()
        try:
            chosen = engine_settings(engine, json.loads(settings))
            setting = {engine.info.search_space.first.name: weight}
            found = engine.register(RegistrationTask(pair.fixed, pair.moving, setting, chosen, SEED))
        except HyperPredictRegError as error:
            print(f"{fixed_id} {moving_id} {weight}: {error}", flush=True)
            continue
        seconds = time.process_time() - started
        transform = pair.whole_transform(found, alignment)
        jacobian = jacobian_determinant(displacement_field(transform, pair.grid))
        folding = folding_percent(jacobian, foreground)
        measures = {
            "dice": mean_dice(fixed.labels, nearest(moving.labels, native, transform)),
            "dice_grid": mean_dice(coarse_labels, nearest(moving.labels, pair.grid, transform)),
            "foreground": folding.foreground,
            "grid": folding.grid,
            "sd_log_jacobian": sd_log_jacobian(jacobian, foreground),
            "seconds": seconds,
        }
        rows.append(row | {name: round(value, 5) for name, value in measures.items()})
    return rows


def run(
    path: Path, engine: str, weights: tuple[float, ...], settings: str, preset: str, pairs: list[tuple[str, str]], workers: int
) -> None:
    """Sweep all pairs that `path` does not hold yet; a pair's rows are written together."""
    done = {(row["fixed"], row["moving"]) for row in read(path)} if path.exists() else set()
    tasks = [(f, m, engine, weights, settings, preset) for f, m in pairs if (f, m) not in done]
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text(",".join(COLUMNS) + "\n")
    started = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(workers) as pool, path.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        for count, rows in enumerate(pool.imap_unordered(sweep_pair, tasks), 1):
            writer.writerows(rows)
            stream.flush()
            left = (time.perf_counter() - started) / count * (len(tasks) - count)
            print(f"{count} of {len(tasks)} pairs, about {left / 60:.0f} min left", flush=True)


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows of a sweep."""
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def table(path: Path, like: Path | None) -> None:
    """Print means over all pairs and over the held-out pairs, one line per weight; only over pairs that `like` holds, too."""
    rows = read(path)
    if like is not None:
        expected = {(row["fixed"], row["moving"]) for row in read(like)}
        rows = [row for row in rows if (row["fixed"], row["moving"]) in expected]
    for title, chosen in (
        ("ordered pairs", lambda row: True),
        ("held-out pairs", lambda row: row["fixed"] not in TUNED_ON and row["moving"] not in TUNED_ON),
    ):
        by_weight: dict[float, list[dict[str, str]]] = defaultdict(list)
        for row in rows:
            if chosen(row):
                by_weight[float(row["weight"])].append(row)
        if not by_weight:
            continue
        first = next(iter(by_weight.values()))
        affine = np.mean([float(row["dice_affine"]) for row in first])
        print(f"\n{path.stem}: {len(first)} {title}; mean Dice after the affine step {affine:.4f}")
        print("  weight   Dice own    Dice grid   fold fg %   fold grid %   over 0.5 %   SD log J   CPU s")
        for weight, runs in sorted(by_weight.items()):
            mean = {name: np.mean([float(row[name]) for row in runs]) for name in COLUMNS[3:]}
            over = sum(float(row["foreground"]) > 0.5 for row in runs)
            dice = f"{mean['dice']:9.4f}   {mean['dice_grid']:9.4f}"
            folding = f"{mean['foreground']:9.3f}   {mean['grid']:10.3f}   {over:6d}/{len(runs):<3d}"
            print(f"  {weight:6.2f}   {dice}   {folding}   {mean['sd_log_jacobian']:8.3f}   {mean['seconds']:5.2f}")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "table"))
    parser.add_argument("--engine", default="demons", choices=sorted(WEIGHTS))
    parser.add_argument("--name", help="name of the CSV file; default: the engine's")
    parser.add_argument("--weights", type=float, nargs="+")
    parser.add_argument("--settings", default="{}", help="engine settings that differ from the defaults, as JSON")
    parser.add_argument("--every", type=int, default=1, help="take every n-th pair only")
    parser.add_argument("--pairs", nargs="+", help="take these pairs only, such as 1000-1001")
    parser.add_argument("--preset", default="fast", help="of the working grid")
    parser.add_argument("--held-out", action="store_true", help="take pairs of people that nothing was tuned on only")
    parser.add_argument("--like", help="print the table over the pairs of this other CSV file only")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    path = RESULTS / f"lambda-{options.name or options.engine}.csv"
    if options.action == "run":
        people = [s for s in subjects() if not (options.held_out and s in TUNED_ON)]
        pairs = list(itertools.permutations(people, 2))[:: options.every]
        if options.pairs:
            pairs = [pair for pair in pairs if "-".join(pair) in options.pairs]
        weights = tuple(options.weights or WEIGHTS[options.engine])
        run(path, options.engine, weights, options.settings, options.preset, pairs, options.workers)
    table(path, None if options.like is None else RESULTS / f"lambda-{options.like}.csv")


if __name__ == "__main__":
    main()
