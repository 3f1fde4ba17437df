"""Our engines beside every peer that pip can install: same start, same images, same measures, one thread.

    make bench-peers                          sets up .venv-peers, runs what is missing, writes both documents
    python benchmarks/peers.py run [GROUP ...] [--methods NAME ...] [--most N]
                                              one CSV row per run; rows that are there are not run again
    python benchmarks/peers.py table          write docs/peers-measured.md from the rows and print it, and docs/peers.md
    python benchmarks/peers.py compare        write docs/peers.md: what peers in Slicer offer, and a summary of the rows
    python benchmarks/peers.py check          compare our warp by each peer's field with the peer's own warped image

Pairs and seed are in `peer_pairs.py`, settings in `peer_methods.py`. The alignments stay in the folder `--cache`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import peer_offers
import SimpleITK as sitk
from HyperPredictRegLib.core.errors import RegistrationError
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import field_transform
from peer_methods import METHODS, ONE_THREAD, Method
from peer_pairs import DATA, Case, Pair, case_of, measured, pairs
from peer_tables import GROUPS, KEY, MEASURES, document
from scipy.spatial.transform import Rotation

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results" / "peers.csv"
DOCUMENT = REPOSITORY / "docs" / "peers-measured.md"
COMPARISON = REPOSITORY / "docs" / "peers.md"
COLUMNS = (*KEY, "version", *MEASURES, "failure")
NO_ALIGNMENT = "no alignment"
"""How the failure of a pair begins that no method can start from: one row says it, and no other method is tried."""
COSTLY = ("ants",)
COSTLY_PAIRS = 3
"""Methods that take minutes at 1 mm run on this many pairs there."""


@dataclass(frozen=True)
class Run:
    """One method on one pair."""

    pair: Pair
    preset: str
    method: str

    @property
    def key(self) -> tuple[str, ...]:
        """Return what tells its row from others."""
        return (*(getattr(self.pair, name) for name in KEY[:4]), self.preset, self.method)


def planned(groups: Iterable[str], methods: Iterable[str], most: int | None = None) -> Iterator[Run]:
    """List the runs of groups by methods, on at most so many pairs of each group.

    The first pairs of all groups come first, then the second ones, so that groups that stop early have run as far as others.
    """
    methods = tuple(methods)
    for number, turn in enumerate(zip_longest(*(pairs(name)[:most] for name in groups))):
        for pair in filter(None, turn):
            group = GROUPS[pair.group]
            for method in group.methods:
                costly = method in COSTLY and group.preset == "fine" and number >= COSTLY_PAIRS
                if method in methods and not costly:
                    yield Run(pair, group.preset, method)


def available(methods: Iterable[str], known: dict[str, Method] = METHODS) -> tuple[str, ...]:
    """Return those of the methods that can run here, and print a sentence for each of the others."""
    there = []
    for name in methods:
        if known[name].missing:
            print(f"{name}: {known[name].missing}", flush=True)
        else:
            there.append(name)
    return tuple(there)


def registered(method: str, case: Case, folder: Path) -> tuple[sitk.Image, dict[str, float]]:
    """Register in a process of its own; return the displacement field, LPS mm on the working grid, and what it used.

    Raises
    ------
    RuntimeError : the process failed; with the last line that it wrote.
    """
    for name, image in (("fixed", case.fixed), ("moving", case.moving), ("view", case.view)):
        if image is not None:
            sitk.WriteImage(image, str(folder / f"{name}.nii"))
    about = {"moving_smoothed": case.moving_smoothed, "goal": "overlap" if case.fixed_labels is not None else "accuracy"}
    (folder / "pair.json").write_text(json.dumps(about), encoding="ascii")
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "peer_methods.py"), method, str(folder)]
    environment = os.environ | ONE_THREAD | {"ANTS_RANDOM_SEED": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        raise RuntimeError(f"status {done.returncode}: {lines[-1]}")
    field = sitk.ReadImage(str(next(folder.glob("field.*"))), sitk.sitkVectorFloat64)
    voxels = sitk.GetArrayFromImage(field)
    if METHODS[method].ras:
        voxels = voxels * (-1.0, -1.0, 1.0)
    return Geometry.of(case.fixed).holding(voxels, vectors=True), json.loads((folder / "usage.json").read_text(encoding="ascii"))


def row_of(run: Run, cache: Path) -> dict[str, Any]:
    """Register and measure; a method that fails leaves a row that says so, and so does a pair that cannot be aligned."""
    row: dict[str, Any] = dict(zip(KEY, run.key, strict=True)) | {"version": METHODS[run.method].version}
    try:
        case = case_of(run.pair, run.preset, cache)
    except RegistrationError as error:
        return row | {"failure": f"{NO_ALIGNMENT}: {error}"[:200]}
    if METHODS[run.method].run is None:
        return row | measured(case, None)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            field, usage = registered(run.method, case, Path(scratch))
        except RuntimeError as error:
            return row | {"failure": str(error)[:200]}
    return row | measured(case, field) | usage


def write(row: dict[str, Any]) -> None:
    """Append a row to the CSV file."""
    RESULTS.parent.mkdir(exist_ok=True)
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow({name: round(v, 5) if isinstance(v, float) else v for name, v in row.items()})


def read() -> list[dict[str, str]]:
    """Return the rows of the CSV file, of each run the last one."""
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="", encoding="utf-8") as file:
        return list({tuple(row[name] for name in KEY): row for row in csv.DictReader(file)}.values())


def run(groups: Iterable[str], methods: Iterable[str], most: int | None, cache: Path) -> None:
    """Run what is missing or was run by another version, and print a line for each."""
    rows = read()
    done = {(*(row[name] for name in KEY), row["version"]) for row in rows}
    unaligned = {tuple(row[name] for name in KEY[:4]) for row in rows if row["failure"].startswith(NO_ALIGNMENT)}
    for one in planned(groups, available(methods), most):
        if (*one.key, METHODS[one.method].version) not in done and one.key[:4] not in unaligned:
            row = row_of(one, cache)
            if row.get("failure", "").startswith(NO_ALIGNMENT):
                unaligned.add(one.key[:4])
            write(row)
            values = " ".join(f"{name} {row[name]:.4g}" for name in MEASURES if name in row)
            print(" ".join(one.key), values, row.get("failure", ""), flush=True)


def check() -> None:
    """Print how far our warp by each peer's field is from the peer's own warped image, on an oblique grid.

    The difference is given in percent of what the peer's warp changes: near 0 is right, 100 or more is another field. Peers
    interpolate by their own rules, so that some percent remain.
    """
    folder = DATA / "hippocampus-msd04" / "images"
    names = [pairs("hippo")[0].fixed, pairs("hippo")[0].moving]
    images = [sitk.ReadImage(str(folder / f"{name}.nii.gz"), sitk.sitkFloat32) for name in names]
    grid = replace(Geometry.of(images[0]), direction=tuple(Rotation.from_rotvec((0.2, -0.3, 0.5)).as_matrix().ravel().tolist()))
    images[1] = sitk.GetImageFromArray(sitk.GetArrayFromImage(Geometry.of(images[0]).resample(images[1])))
    fixed, moving = (grid.apply_to(sitk.Image(image)) / float(np.max(sitk.GetArrayViewFromImage(image))) for image in images)
    case = Case(fixed, moving, sitk.Transform(3, sitk.sitkIdentity), fixed > 0)
    for name in available(name for name in METHODS if METHODS[name].package):
        with tempfile.TemporaryDirectory() as scratch:
            field, _ = registered(name, case, Path(scratch))
            own = sitk.GetArrayFromImage(sitk.ReadImage(str(next(Path(scratch).glob("warped.*"))), sitk.sitkFloat32))
        ours = sitk.GetArrayFromImage(grid.resample(moving, field_transform(field)))
        inner = (slice(4, -4),) * 3
        differences = [np.abs(own - other)[inner].mean() for other in (ours, sitk.GetArrayFromImage(moving))]
        print(f"{name:12s}{100 * differences[0] / differences[1]:6.1f} %", flush=True)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "table", "compare", "check"))
    parser.add_argument("groups", nargs="*", default=list(GROUPS), help=f"of {', '.join(GROUPS)}; default: all")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--most", type=int, help="take the first pairs of each group only")
    parser.add_argument("--cache", type=Path, default=Path("benchmark-output"))
    options = parser.parse_args()
    if unknown := set(options.groups) - set(GROUPS):
        parser.error(f"there is no group {', '.join(sorted(unknown))}")
    if options.action == "check":
        check()
        return
    if options.action == "run":
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
        run(options.groups, options.methods, options.most, options.cache)
    rows = read()
    COMPARISON.write_text(peer_offers.document(peer_offers.offers(), rows), encoding="utf-8", newline="\n")
    if options.action != "compare":
        text = document(rows)
        DOCUMENT.write_text(text, encoding="utf-8", newline="\n")
        print(text)


if __name__ == "__main__":
    main()
