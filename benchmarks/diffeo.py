"""The engine `diffeo` beside `demons`, greedy and the affine step alone, on people that nothing was tuned on.

    python benchmarks/diffeo.py run [STEP ...] --cache FOLDER    one CSV row per run; what is there already is not run again
    python benchmarks/diffeo.py table                            print the tables that docs/engine-diffeo.md quotes

All methods start from the same alignment, on the same working grid, with one thread. Dice is measured on the fixed image's own
grid, folding in percent of the fixed foreground. greedy needs `pip install picsl-greedy`; its settings are those of its own
documentation for brains. The alignments stay in the cache folder. Settings were tuned on people 1000, 1001, 1002, 1006 and
1007 of brain-t1-nmm, and on pairs of the other domains that are not here (`benchmarks/diffeo_settings.py`).
"""

from __future__ import annotations

import argparse
import csv
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from HyperPredictRegLib.alignment.aligned_pair import AlignedPair
from HyperPredictRegLib.engines.base import RegistrationTask
from HyperPredictRegLib.engines.demons import DemonsEngine, DemonsSettings
from HyperPredictRegLib.engines.diffeo import DiffeoEngine
from HyperPredictRegLib.engines.diffeo_scheme import DiffeoSettings
from HyperPredictRegLib.quality.measurement import nearest
from HyperPredictRegLib.quality.metrics import dice_coefficients, folding_percent, jacobian_determinant, sd_log_jacobian
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import composed, displacement_field, faded, field_transform
from lambda_table import STRUCTURES, TUNED_ON
from peer_pairs import DATA, SEED, in_contrast, read_and_aligned

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results" / "diffeo.csv"
COLUMNS = ("group", "fixed", "moving", "method", "preset", "contrast", "dice", "folded", "sd_log_jacobian", "mm", "cpu_seconds")

GREEDY = "-d 3 -threads 1 -m NCC 2x2x2 -i {0}/f.nii {0}/m.nii -o {0}/w.nii -n 100x50x10 -s 1.732vox 0.707vox"
DOMAINS = ("heart", "hippo", "fetal", "mouse")
STEPS = {
    "brains": [("brain", m, "fast", "same") for m in ("affine", "diffeo", "demons")],
    "brains-fine": [("brain", "diffeo", "fine", "same")],
    "greedy-fine": [("brain", "greedy", "fine", "same")],
    "demons-fine": [("brain", "demons", "fine", "same")],
    "contrasts": [("brain", "mind", "fast", c) for c in ("same", "tissues exchanged", "folded")],
    "domains": [(d, m, "fast", "same") for d in DOMAINS for m in ("affine", "diffeo", "demons")],
    "domains-greedy": [(d, "greedy", "fast", "same") for d in DOMAINS],
}


def pairs(group: str) -> list[tuple[str, str, list[Path]]]:
    """Return names and files (fixed image and labels, moving image and labels) of a group's pairs."""
    if group == "brain":
        folder = DATA / "brain-t1-nmm"
        people = sorted({path.name.split("_")[1] for path in folder.glob("*_t1.nii.gz")} - set(TUNED_ON))
        chosen = list(zip(people, people[3:] + people[:3], strict=True))
        names = ["nmm_{}_t1.nii.gz", "nmm_{}_aseg.nii.gz"]
    elif group == "heart":
        folder = DATA / "heart-acdc"
        people = sorted(path.name.split("_")[0] for path in folder.glob("*_ed_img.nii.gz"))
        chosen = [(f"{p}_ed", f"{p}_es") for p in people[::8][:4]]
        names = ["{}_img.nii.gz", "{}_lab.nii.gz"]
    elif group == "hippo":
        folder = DATA / "hippocampus-msd04"
        people = sorted(path.name.removesuffix(".nii.gz") for path in (folder / "images").glob("*.nii.gz"))
        chosen = list(zip(people[::24][:4], people[5::24][:4], strict=True))
        names = ["images/{}.nii.gz", "labels/{}.nii.gz"]
    else:
        folder, ending = (DATA / "fetal-t2", "img") if group == "fetal" else (DATA / "mouse-t2", "t2")
        people = sorted(path.name.removesuffix(f"_{ending}.nii.gz") for path in folder.glob(f"*_{ending}.nii.gz"))
        chosen = [(people[n], people[n + 3]) for n in range(0, 8, 2)]
        names = [f"{{}}_{ending}.nii.gz", "{}_lab.nii.gz" if group == "fetal" else "{}_labels.nii.gz"]
    return [(f, m, [folder / name.format(x) for x in (f, m) for name in names]) for f, m in chosen]


def aligned(group: str, names: tuple[str, str], files: list[Path], cache: Path) -> dict[str, Any]:
    """Return the alignment, the labels and the images on both working grids, from the cache if they are there."""
    stored = cache / f"{group}-{names[0]}-{names[1]}.pkl"
    if stored.exists():
        return pickle.loads(stored.read_bytes())
    inputs, made = read_and_aligned(files)
    for preset in ("fast", "fine"):
        made[preset] = AlignedPair.of(inputs, made["align"], preset)
    stored.write_bytes(pickle.dumps(made))
    return made


def field_by(method: str, fixed: sitk.Image, moving: sitk.Image, **seen: Any) -> tuple[sitk.Image | None, float]:
    """Register; return the displacement field (None: affine only) and the CPU seconds of user and system.

    `method` : "affine", "greedy", "demons", "diffeo", or one of its similarities; `seen` : more fields of the task.
    """
    if method == "affine":
        return None, 0.0
    if method == "greedy":
        return greedy_field(fixed, moving)
    started = time.process_time()
    if method == "demons":
        found = DemonsEngine().register(RegistrationTask(fixed, moving, {}, DemonsSettings(), SEED, **seen))
    else:
        settings = DiffeoSettings() if method == "diffeo" else DiffeoSettings(similarity=method)
        found = DiffeoEngine().register(RegistrationTask(fixed, moving, {}, settings, SEED, **seen))
    seconds = time.process_time() - started
    return displacement_field(found.transform, Geometry.of(fixed)), seconds


def greedy_field(fixed: sitk.Image, moving: sitk.Image) -> tuple[sitk.Image, float]:
    """Register by the program greedy, in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        for name, image in (("f", fixed), ("m", moving)):
            sitk.WriteImage(image, f"{scratch}/{name}.nii")
        code = f"from picsl_greedy import Greedy3D; Greedy3D().execute({GREEDY.format(scratch)!r})"
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        field = sitk.ReadImage(f"{scratch}/w.nii", sitk.sitkVectorFloat64)
    field.CopyInformation(fixed)
    return field, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measured(group: str, pair: dict[str, Any], field: sitk.Image | None) -> dict[str, float]:
    """Return mean Dice (30 structures of a brain, else all), folding and SD of the log-Jacobian."""
    alignment = pair["align"]
    transform = alignment if field is None else composed(alignment, field_transform(faded(field)))
    found = dice_coefficients(pair["fl"], nearest(pair["ml"], Geometry.of(pair["fl"]), transform))
    labels = STRUCTURES if group == "brain" else [label for label in found if label]
    values = {"dice": float(np.mean([found.get(label, 0.0) for label in labels]))}
    if field is not None:
        jacobian, inside = jacobian_determinant(field), nearest(pair["fg"], Geometry.of(field))
        values |= {"folded": folding_percent(jacobian, inside).foreground, "sd_log_jacobian": sd_log_jacobian(jacobian, inside)}
    return values


def write(rows: list[dict[str, Any]]) -> None:
    """Append rows to the CSV file."""
    RESULTS.parent.mkdir(exist_ok=True)
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def read() -> list[dict[str, str]]:
    """Return the rows of the CSV file."""
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


def run(step: str, cache: Path, most: int | None) -> None:
    """Run what is missing of one step, on at most so many pairs of each group."""
    done = {tuple(row[name] for name in COLUMNS[:6]) for row in read()}
    for group in dict.fromkeys(entry[0] for entry in STEPS[step]):
        for fixed, moving, files in pairs(group)[:most]:
            left = [e[1:] for e in STEPS[step] if e[0] == group and (group, fixed, moving, *e[1:]) not in done]
            pair = aligned(group, (fixed, moving), files, cache) if left else {}
            for method, preset, contrast in left:
                both = pair[preset]
                seen = {"view": both.view, "moving_smoothed": both.moving_smoothed}
                field, seconds = field_by(method, both.fixed, in_contrast(both.moving, contrast), **seen)
                row = {"group": group, "fixed": fixed, "moving": moving, "method": method, "preset": preset, "contrast": contrast}
                write([row | measured(group, pair, field) | {"cpu_seconds": seconds}])


def table() -> None:
    """Print means over the pairs of each group."""
    groups: dict[tuple[str, ...], list[dict[str, str]]] = defaultdict(list)
    for row in read():
        groups[row["group"], row["preset"], row["contrast"], row["method"]].append(row)
    print(f"{'group':8s}{'preset':8s}{'contrast':19s}{'method':8s} pairs    Dice  folded %  SD log J     mm   CPU s")
    for key, rows in sorted(groups.items()):
        means = [np.mean([float(row[name]) for row in rows]) if rows[0][name] else np.nan for name in COLUMNS[6:]]
        dice, folded, spread, mm, seconds = means
        name = f"{key[0]:8s}{key[1]:8s}{key[2]:19s}{key[3]:8s}"
        print(f"{name}{len(rows):6d}{dice:8.4f}{folded:10.5f}{spread:10.3f}{mm:7.2f}{seconds:8.1f}")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "table"))
    parser.add_argument("steps", nargs="*", default=list(STEPS), help=f"of {', '.join(STEPS)}; default: all")
    parser.add_argument("--cache", type=Path, default=Path("benchmark-output"))
    parser.add_argument("--most", type=int, help="take the first pairs of each group only")
    options = parser.parse_args()
    if options.action == "run":
        options.cache.mkdir(exist_ok=True)
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
        for step in options.steps:
            run(step, options.cache, options.most)
    table()


if __name__ == "__main__":
    main()
