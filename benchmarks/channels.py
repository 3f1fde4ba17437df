"""Do several channels pay? Average heads in T1 and T2 after a known warp, and a brain of which each channel shows half.

    python benchmarks/channels.py run       one CSV row per registration; what is there already is not run again
    python benchmarks/channels.py table     print the means that docs/engine-diffeo.md quotes
    python benchmarks/channels.py figure    draw docs/engine-diffeo-channels.png

The heads are those of spm-contrasts (2 mm, one space), both images of each channel with Gaussian noise of their own (SD as a
share of the intensities' range, which is about 1); the error is the mean over the foreground. The brain is the label map of
person 1000 of brain-t1-nmm at 2 mm, painted twice: every second structure has its own brightness in channel 1 and the others
in channel 2, the rest is uniform. Warps are smooth random fields, 6 mm at the 95th percentile. The way in which forces are
added was chosen on the heads with seed 1; the seeds here are others.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from HyperPredictRegLib.engines.base import ImageChannel, RegistrationTask
from HyperPredictRegLib.engines.diffeo import DiffeoEngine
from HyperPredictRegLib.engines.diffeo_scheme import DiffeoSettings
from HyperPredictRegLib.preprocessing.intensity import foreground, normalised
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.images import read_image
from HyperPredictRegLib.spatial.transforms import composed, displacement_field, field_transform
from scipy.ndimage import gaussian_filter

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("HYPERPREDICTREG_DATA", REPOSITORY.parent / "shared" / "data"))
RESULTS = REPOSITORY / "benchmarks" / "results" / "channels.csv"
FIGURE = REPOSITORY / "docs" / "engine-diffeo-channels.png"
COLUMNS = ("data", "noise", "seed", "channels", "where", "mm_before", "mm", "cpu_seconds")
SEEDS = (11, 12, 13)
NOISES = (0.0, 0.1)
HEADS = ("t1", "t2", "t1+t2")
HALVES = ("first", "second", "first+second")
Pair = tuple[sitk.Image, sitk.Image]


def random_warp(grid: Geometry, inside: np.ndarray, seed: int) -> sitk.Transform:
    """Return a smooth random displacement field (Gaussian of 16 mm) of 6 mm at the 95th percentile of its lengths inside."""
    noise = np.random.default_rng(seed).standard_normal((*grid.size[::-1], 3))
    vectors = np.stack([gaussian_filter(noise[..., axis], 16.0 / grid.spacing[0]) for axis in range(3)], axis=-1)
    vectors *= 6.0 / np.percentile(np.linalg.norm(vectors, axis=-1)[inside], 95)
    return field_transform(grid.apply_to(sitk.GetImageFromArray(vectors, isVector=True)))


def noisy(image: sitk.Image, share: float, random: np.random.Generator) -> sitk.Image:
    """Return an image with Gaussian noise."""
    voxels = sitk.GetArrayFromImage(image)
    return Geometry.of(image).holding((voxels + share * random.standard_normal(voxels.shape)).astype(np.float32))


def heads(noise: float, seed: int) -> tuple[dict[str, Pair], dict[str, np.ndarray], sitk.Transform]:
    """Return the pair of each contrast, where errors are measured, and the warp that made the moving images."""
    images = {name: read_image(DATA / "spm-contrasts" / f"{name}_img.nii.gz", "image") for name in ("t1", "t2")}
    inside = sitk.GetArrayFromImage(foreground(images["t1"])) != 0
    grid = Geometry.of(images["t1"])
    warp, random = random_warp(grid, inside, seed), np.random.default_rng((seed, 1))
    pairs = {}
    for name, image in images.items():
        scaled = sitk.Cast(normalised(image, foreground(image)), sitk.sitkFloat32)
        pairs[name] = noisy(scaled, noise, random), noisy(grid.resample(scaled, warp), noise, random)
    return pairs, {"foreground": inside}, warp


def halves(noise: float, seed: int) -> tuple[dict[str, Pair], dict[str, np.ndarray], sitk.Transform]:
    """Return the same of a brain whose structures are shown by one of two channels each."""
    labels = read_image(DATA / "brain-t1-nmm" / "nmm_1000_aseg.nii.gz", "labels")
    whole = Geometry.of(labels)
    grid = whole.covering(whole.corners_lps(), 2.0, 8.0)
    values = sitk.GetArrayFromImage(grid.resample(labels, interpolator=sitk.sitkNearestNeighbor))
    codes = [int(code) for code in np.unique(values) if code]
    random = np.random.default_rng((seed, 1))
    shown = {"first": codes[::2], "second": codes[1::2]}
    where = {f"shown by the {name}": np.isin(values, own) for name, own in shown.items()}
    warp = random_warp(grid, values > 0, seed)
    pairs = {}
    for name, own in shown.items():
        painted = np.where(values > 0, 0.5, 0.0)
        for code in own:
            painted[values == code] = random.uniform(0.2, 1.0)
        image = grid.holding(gaussian_filter(painted, 0.5).astype(np.float32))
        pairs[name] = noisy(image, noise, random), noisy(grid.resample(image, warp), noise, random)
    return pairs, where, warp


def error(field: sitk.Transform | None, warp: sitk.Transform, grid: Geometry) -> np.ndarray:
    """Return how far each point of the grid is from where it should have stayed, in mm."""
    whole = warp if field is None else composed(warp, field)
    return np.linalg.norm(sitk.GetArrayFromImage(displacement_field(whole, grid)), axis=-1)


def rows_of(data: str, noise: float, seed: int, names: tuple[str, ...]) -> list[dict[str, object]]:
    """Register with each of the named choices of channels; return a row for each place where the error is measured."""
    pairs, places, warp = (heads if data == "heads" else halves)(noise, seed)
    rows: list[dict[str, object]] = []
    for name in names:
        first, *others = (pairs[channel] for channel in name.split("+"))
        grid = Geometry.of(first[0])
        channels = tuple(ImageChannel(*pair) for pair in others)
        started = time.process_time()
        found = DiffeoEngine().register(RegistrationTask(*first, {}, DiffeoSettings(), seed, channels=channels)).transform
        seconds = time.process_time() - started
        before, after = error(None, warp, grid), error(found, warp, grid)
        for where, inside in places.items():
            millimeters = {"mm_before": float(before[inside].mean()), "mm": float(after[inside].mean())}
            row = {"data": data, "noise": noise, "seed": seed, "channels": name, "where": where, "cpu_seconds": seconds}
            rows.append(row | millimeters)
    return rows


def run() -> None:
    """Run what is missing."""
    done = {(row["data"], float(row["noise"]), int(row["seed"]), row["channels"]) for row in read()}
    for data, noises, names in (("heads", NOISES, HEADS), ("halves", (0.05,), HALVES)):
        for noise in noises:
            for seed in SEEDS:
                left = tuple(name for name in names if (data, noise, seed, name) not in done)
                if left:
                    write(rows_of(data, noise, seed, left))


def write(rows: list[dict[str, object]]) -> None:
    """Append rows to the CSV file."""
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def read() -> list[dict[str, str]]:
    """Return the rows of the CSV file."""
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


def grouped() -> dict[tuple[str, float, str, str], list[dict[str, str]]]:
    """Return the rows by data, noise, place and channels."""
    groups: dict[tuple[str, float, str, str], list[dict[str, str]]] = defaultdict(list)
    for row in read():
        groups[row["data"], float(row["noise"]), row["where"], row["channels"]].append(row)
    return groups


def table() -> None:
    """Print means over the seeds."""
    print(f"{'data':8s}{'noise':>6s}  {'where':20s}{'channels':14s}seeds  mm before   mm (of each seed)            CPU s")
    for (data, noise, where, name), rows in grouped().items():
        before, after, seconds = ([float(row[column]) for row in rows] for column in ("mm_before", "mm", "cpu_seconds"))
        each = ", ".join(f"{value:.2f}" for value in after)
        numbers = f"{len(rows):5d}{np.mean(before):11.2f}{np.mean(after):7.2f} ({each}){np.mean(seconds):12.1f}"
        print(f"{data:8s}{noise:6.2f}  {where:20s}{name:14s}{numbers}")


def figure() -> None:
    """Draw the errors of every seed, a group for each data and noise."""
    import matplotlib.pyplot as plt

    groups = grouped()
    drawn, axes = plt.subplots(1, 2, figsize=(8.4, 3.0), layout="constrained", width_ratios=(3, 2))
    by_noise = [(noise, "foreground", f"noise {noise:g}") for noise in NOISES]
    by_half = [(0.05, f"shown by the {one}", f"structures of\nthe {one} channel") for one in ("first", "second")]
    panels = (
        ("heads", "Average heads, known warp", by_noise, HEADS, ("T1", "T2", "T1 and T2")),
        ("halves", "Brain of which each channel shows half", by_half, HALVES, ("first", "second", "both")),
    )
    for ax, (data, title, entries, names, labels) in zip(axes, panels, strict=True):
        for place, (noise, where, _) in enumerate(entries):
            before = np.mean([float(row["mm_before"]) for row in groups[data, noise, where, names[0]]])
            sides = [place - 0.4, place + 0.4]
            ax.plot(sides, [before, before], color="0.5", lw=1, ls="--", label=None if place else "before")
            for n, (name, label) in enumerate(zip(names, labels, strict=True)):
                values = [float(row["mm"]) for row in groups[data, noise, where, name]]
                middle = place + 0.26 * (n - 1)
                color = ("#7fa8d1", "#d9a05b", "#2f7d4f")[n]
                ax.bar(middle, np.mean(values), 0.24, color=color, label=label if place == 0 else None)
                ax.plot([middle] * len(values), values, ls="", marker="o", ms=3, color="black")
        ax.set_xticks(range(len(entries)), [words for *_, words in entries])
        ax.set_title(title, fontsize=10)
        ax.set_ylabel("mean error, mm")
        ax.set_ylim(0)
        ax.spines[["top", "right"]].set_visible(False)
    top = axes[0].get_ylim()[1], axes[1].get_ylim()[1]
    for ax, most in zip(axes, top, strict=True):
        ax.set_ylim(0, 1.3 * most)
        ax.legend(ncols=4, fontsize=8, frameon=False, loc="upper center", columnspacing=0.9, handlelength=1.3)
    drawn.savefig(FIGURE, dpi=110)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "table", "figure"))
    action = parser.parse_args().action
    if action == "run":
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
        run()
    if action == "figure":
        figure()
    else:
        table()


if __name__ == "__main__":
    main()
