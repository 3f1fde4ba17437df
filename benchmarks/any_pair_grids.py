"""What a choice of λ is worth on the working grids of real jobs, which are larger than those of `any_pair.py`.

    python benchmarks/any_pair_grids.py run --preset NAME --cache FOLDER    what is missing, case by case; resumable
    python benchmarks/any_pair_grids.py table                               the tables that docs/predictor.md quotes

The first `CASES` test cases of each domain whose start was not spoiled, at the settings `LAMBDAS`, on the grid that a job of a
preset has, whatever its size. The bundle for any pair chooses as it is shipped, and all that is tuned is tuned on the tuning
cases of `any_pair.py`: what is asked is whether that holds there, too.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

import any_pair
import numpy as np
import pandas as pd
import SimpleITK as sitk
from any_pair_cases import FOLDER, AnyCase, cases, made_case
from HyperPredictRegLib.predictor.bundle import load_bundle
from HyperPredictRegLib.predictor.card import all_bundled, read_card
from HyperPredictRegLib.preprocessing.working_grid import working_spacing

from HyperPredictRegLab.evaluation.domain_report import Study, choosing_table, domain_table, study_of
from HyperPredictRegLab.evaluation.domains import DEFAULT, EXPERT, FIXED, FIXED_GOAL, GOAL, MAXIMUM, RULE
from HyperPredictRegLab.training.building import Trained
from HyperPredictRegLab.training.examples import examples_from, read_examples

CASES = 2
LAMBDAS = (0.25, 0.4, 0.65, 1.0, 1.6, 3.0)
TABLES = FOLDER.with_name("any-pair-grids")
TRAINING = FOLDER.with_name("sweeps") / "any-pair-training"
PRESETS = ("fast", "standard", "fine")
SHOWN = (DEFAULT, FIXED, FIXED_GOAL, EXPERT, RULE, MAXIMUM, GOAL)


def listed() -> list[AnyCase]:
    """Return the cases."""
    found: dict[str, list[AnyCase]] = {}
    for one in cases():
        if one.case.use == "test" and not one.case.change.startswith(("turned", "shifted")):
            found.setdefault(one.domain, []).append(one)
    return [one for some in found.values() for one in some[:CASES]]


def run(preset: str, cache: Path) -> None:
    """Register what is missing, and write the tables."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    cache.mkdir(exist_ok=True, parents=True)
    for one in listed():
        stored = cache / f"{one.case.name}.{preset}.json"
        if stored.exists():
            continue
        if (same := _on_the_same_grid(one, preset, cache)) is not None:
            shutil.copy(same, stored)
            continue
        started = time.process_time()
        stored.write_text(json.dumps(any_pair.measured(one, cache, evidence=True, weights=LAMBDAS, preset=preset)))
        print(f"{one.case.name}: {time.process_time() - started:.1f} CPU s", flush=True)
    any_pair.write_tables(cache, listed(), (preset,), preset, TABLES / preset)


def _on_the_same_grid(one: AnyCase, preset: str, cache: Path) -> Path | None:
    """Return the results of another preset whose working grid is that of this one, as with images that are coarse themselves."""
    fixed = made_case(one.case, cache).inputs.fixed
    spacing = {name: working_spacing(fixed.image, fixed.foreground, name) for name in PRESETS}
    alike = (cache / f"{one.case.name}.{name}.json" for name in PRESETS if name != preset and spacing[name] == spacing[preset])
    return next((path for path in alike if path.exists()), None)


def study(tables: Path) -> Study:
    """Judge the shipped bundle on the test cases of a folder of tables, all tuned on the tuning cases of `any_pair.py`."""
    parts = []
    for name in ("runs", "features"):
        usual = pd.read_parquet(FOLDER / f"{name}.parquet")
        asked = pd.read_parquet(tables / f"{name}.parquet")
        other = usual[(usual["use"] == "tune") | (tables == FOLDER) & usual["pair"].isin(names())]
        parts.append(other if tables == FOLDER else pd.concat([other, asked], ignore_index=True))
    folder = next(folder for folder in all_bundled("diffeo", "fast") if read_card(folder).name == "diffeo-any")
    bundle = load_bundle(folder)
    trained = Trained(bundle.ensemble, dict(bundle.card.subjects), np.arange(bundle.ensemble.network.settings.members))
    return study_of(bundle, trained, read_examples(TRAINING), examples_from(*parts))


def names() -> set[str]:
    """Return the names of the cases."""
    return {one.case.name for one in listed()}


def print_tables() -> None:
    """Print what each way of choosing loses, by the grid, on the same cases."""
    print("| grid | voxels (median) |", " | ".join(SHOWN), "|\n|---|---|" + "---|" * len(SHOWN))
    for title, tables in (("120,000 voxels at most", FOLDER), *((preset, TABLES / preset) for preset in PRESETS)):
        found = study(tables)
        rows = {row[0]: row[1] for row in choosing_table(found).rows}
        column = found.true.examples.feature_names.index("evidence_voxel_count")
        counts = np.exp(found.true.examples.features[found.test][:, column])
        told = " | ".join(f"{rows[name].value:.3f} [{rows[name].lower:.3f}, {rows[name].upper:.3f}]" for name in SHOWN)
        print(f"| {title} | {np.median(counts):,.0f} | {told} |")
        by_domain = domain_table(found)
        for row in by_domain.rows:
            shown = [row[by_domain.columns.index(name)] for name in (DEFAULT, RULE, MAXIMUM, GOAL)]
            print(f"    {row[0]}:", ", ".join(f"{value:.3f}" for value in shown))


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "table"))
    parser.add_argument("--preset", choices=PRESETS, default="standard")
    parser.add_argument("--cache", type=Path, default=Path("benchmark-output"))
    options = parser.parse_args()
    if options.action == "run":
        run(options.preset, options.cache)
    else:
        print_tables()


if __name__ == "__main__":
    main()
