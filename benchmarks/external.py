"""The engines that run a program of the user's, on tuning pairs of brains and hearts, beside the default settings of `diffeo`.

    python benchmarks/external.py run --cache FOLDER     one CSV row per pair, engine and setting; goes on where it stopped
    python benchmarks/external.py table                  print the tables of docs/engine-niftyreg.md and docs/engine-elastix.md

The programs are found as the engines find them; what is not installed is left out, with the reason. The pairs are some of those
that settings were tuned on: nothing here is a measurement on people that nobody looked at. One thread; CPU seconds are user and
system of this process and of the program, with what starting it takes.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from HyperPredictRegLib.core.errors import HyperPredictRegError
from HyperPredictRegLib.engines import engine_infos, engine_settings, get_engine
from HyperPredictRegLib.engines.base import RegistrationTask
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import displacement_field
from peer_pairs import SEED, Pair, case_of, measured

RESULTS = Path(__file__).resolve().parent / "results" / "external.csv"
COLUMNS = ("engine", "setting", "settings", "group", "fixed", "moving", "dice", "folded", "cpu_seconds", "version")
BRAINS = [Pair("brain", *two) for two in (("1000", "1001"), ("1001", "1002"), ("1002", "1006"))]
HEARTS = [Pair("heart", f"{name}_ed", f"{name}_es") for name in ("p004", "p012")]
AFFINE = "affine"
COMPARED = (AFFINE, "diffeo", "niftyreg", "elastix")
BE, LE = (1e-4, 1e-3, 1e-2, 1e-1), (1e-6, 1e-2, 1e-1)
WEIGHTS = (0.1, 1.0, 10.0, 100.0)

Setting = dict[str, float]


def runs() -> Iterator[tuple[Pair, str, Setting, dict[str, object]]]:
    """Yield pair, engine, setting and settings of every run, the most telling ones first."""
    compared = (*BRAINS[:1], *HEARTS[:1], *BRAINS[1:], *HEARTS[1:])
    yield from ((pair, engine, {}, {}) for engine in COMPARED[:-1] for pair in compared)
    for settings in ({"spacing_voxels": 2.5}, {"similarity": "lncc"}):
        yield BRAINS[0], "niftyreg", {}, settings
    for be in BE:
        for le in LE:
            yield BRAINS[0], "niftyreg", {"be": be, "le": le}, {}
    yield from ((pair, COMPARED[-1], {}, {}) for pair in compared)
    for weight in WEIGHTS:
        yield BRAINS[0], "elastix", {"regularization_weight": weight}, {}
    yield BRAINS[0], "elastix", {}, {"metric": "mattes"}


def key(pair: Pair, engine: str, setting: Setting, settings: dict[str, object]) -> tuple[str, ...]:
    """Return the first six columns of a run."""
    return (engine, json.dumps(setting), json.dumps(settings), pair.group, pair.fixed, pair.moving)


def cpu_seconds() -> float:
    """Return what this process and those that it waited for have used."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in used)


def row_of(pair: Pair, name: str, setting: Setting, given: dict[str, object], cache: Path) -> tuple[object, ...]:
    """Register once and measure."""
    case = case_of(pair, "fast", cache)
    if name == AFFINE:
        return (*key(pair, name, setting, given), f"{measured(case, None)['dice']:.6g}", 0, 0, "")
    engine = get_engine(name)
    task = RegistrationTask(
        case.fixed, case.moving, setting, engine_settings(engine, given), SEED,
        view=case.view, moving_smoothed=case.moving_smoothed,
    )  # fmt: skip
    before = cpu_seconds()
    found = engine.register(task)
    seconds = cpu_seconds() - before
    field = displacement_field(found.transform, Geometry.of(case.fixed))
    numbers = measured(case, field)
    version = " ".join(f"{title} {number}" for title, number in found.versions.items()) or f"{name} {engine.info.version}"
    return (*key(pair, name, setting, given), f"{numbers['dice']:.6g}", f"{numbers['folded']:.6g}", f"{seconds:.4g}", version)


def known() -> list[dict[str, str]]:
    """Return the rows that are there."""
    if not RESULTS.exists():
        return []
    with RESULTS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def run(cache: Path) -> None:
    """Run what is missing and add it to the table."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    there = {tuple(row[name] for name in COLUMNS[:6]) for row in known()}
    lacking = {info.name: info.unavailable for info in engine_infos() if info.unavailable}
    for reason in lacking.values():
        print(f"left out: {reason}")
    for pair, engine, setting, settings in runs():
        if engine in lacking or key(pair, engine, setting, settings) in there:
            continue
        try:
            row = row_of(pair, engine, setting, settings, cache)
        except HyperPredictRegError as error:
            print(f"{engine} {setting} {pair.fixed} {pair.moving}: {error}", flush=True)
            continue
        there.add(key(pair, engine, setting, settings))
        new = not RESULTS.exists()
        with RESULTS.open("a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([COLUMNS, row] if new else [row])


def table() -> None:
    """Print the tables."""
    rows = known()
    print(f"| Dice (folded %; CPU s) | {' | '.join(COMPARED)} |\n|---|" + "---|" * len(COMPARED))
    for group in (BRAINS, HEARTS):
        for pairs in (*([pair] for pair in group), group):
            title = f"{pairs[0].group} {pairs[0].fixed}, {pairs[0].moving}" if len(pairs) == 1 else f"mean of {len(pairs)}"
            print(f"| {title} | " + " | ".join(cell(rows, pairs, name) for name in COMPARED) + " |")
    weights_table(rows)
    print("\n| engine | setting | settings | Dice | folded % | CPU s |\n|---|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: (row["engine"], row["settings"])):
        usual = (row["setting"] == "{}" and row["settings"] == "{}") or '"be"' in row["setting"]
        if row["fixed"] == BRAINS[0].fixed and not usual:
            numbers = (f"{float(row[name]):.{digits}f}" for name, digits in (("dice", 4), ("folded", 3), ("cpu_seconds", 1)))
            print(f"| {row['engine']} | {row['setting']} | {row['settings']} | {' | '.join(numbers)} |")


def weights_table(rows: list[dict[str, str]]) -> None:
    """Print be x le on the first pair."""
    print("\n| Dice (folded %; CPU s) | " + " | ".join(f"le {le:g}" for le in LE) + " |\n|---|" + "---|" * len(LE))
    for be in BE:
        cells = []
        for le in LE:
            found = [row for row in rows if row_key(row) == key(BRAINS[0], "niftyreg", {"be": be, "le": le}, {})]
            numbers = [float(row[name]) for row in found for name in ("dice", "folded", "cpu_seconds")]
            cells.append("{:.3f} ({:.3f}; {:.1f})".format(*numbers) if found else "-")
        print(f"| be {be:g} | {' | '.join(cells)} |")


def row_key(row: dict[str, str]) -> tuple[str, ...]:
    """Return the first six columns of a row."""
    return tuple(row[name] for name in COLUMNS[:6])


def cell(rows: list[dict[str, str]], pairs: list[Pair], name: str) -> str:
    """Return means over pairs as text, "-" where a pair was not measured."""
    found = [row for row in rows if any(row_key(row) == key(pair, name, {}, {}) for pair in pairs)]
    if len(found) < len(pairs):
        return "-"
    dice, folded, seconds = (np.mean([float(row[column]) for row in found]) for column in ("dice", "folded", "cpu_seconds"))
    return f"{dice:.3f}" if name == AFFINE else f"{dice:.3f} ({folded:.3f}; {seconds:.1f})"


def main() -> None:
    """Run or print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("run", "table"))
    parser.add_argument("--cache", type=Path, help="folder for alignments")
    options = parser.parse_args()
    if options.step == "run":
        if options.cache is None:
            parser.error("run needs --cache")
        run(options.cache)
    table()


if __name__ == "__main__":
    main()
