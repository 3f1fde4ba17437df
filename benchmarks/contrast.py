"""Is contrast judged rightly? Real pairs of one contrast, of two, and with the moving image's grey values remapped.

    python benchmarks/contrast.py [--data DATA] [GROUP ...]      all groups take about ten minutes; GROUP: the start of its name

Every pair is aligned from its header on coarse levels, then judged as any job's pair is. "differs" is expected of the pairs of
different contrast; "unclear" means that the images have too little in common inside. Beside it stands what the default engine
goes by on the grid of the preset "fast": how far its two similarities agree (`engines/agreement.py`), and which one it takes.
The last lines count both.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from HyperPredictRegLib.alignment import Alignment, AlignmentSettings, align
from HyperPredictRegLib.engines.base import RegistrationTask
from HyperPredictRegLib.engines.contrast import choose_similarity, pulled_together
from HyperPredictRegLib.engines.diffeo import DiffeoEngine, coarse_trial
from HyperPredictRegLib.preprocessing.intensity import foreground, normalised
from HyperPredictRegLib.preprocessing.working_grid import common_view, on_grid, working_grid, working_spacing
from HyperPredictRegLib.spatial.images import read_image

DATA = Path(os.environ.get("HYPERPREDICTREG_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
QUICK = AlignmentSettings(
    multi_start=False, shrink_factors=(4.0, 2.0), smoothing_sigmas=(0.5, 0.5), iterations=(60, 50),
    sampling_percentages=(100.0, 25.0),
)  # fmt: skip
Remap = Callable[[np.ndarray], np.ndarray]


def folded(values: np.ndarray) -> np.ndarray:
    """Make both what is darker and what is brighter than the median bright."""
    return 1.8 * np.abs(values - np.median(values))


SIMILARITIES = ("lncc", "mind")
REMAPS: dict[str, Remap] = {
    "gamma 2.2": lambda x: x**2.2,
    "inverted": lambda x: 1 - x,
    "folded": folded,
    "hat": lambda x: 1 - folded(x),
    "tissues exchanged": lambda x: np.interp(x, (0, 0.25, 0.45, 0.6, 0.8, 1), (0.9, 0.5, 0.8, 0.3, 0.6, 0.1)),
}


@dataclass(frozen=True)
class Pair:
    """Two images below the data folder, without their ending, and what is known of them."""

    group: str
    expected: str
    fixed: str
    moving: str
    remap: str = ""


def pairs() -> Iterator[Pair]:
    """List all pairs."""
    spm = "spm-contrasts/{}_img".format
    for one, other in (("t1", "pd"), ("pd", "t1"), ("t1", "t2"), ("t2", "t1"), ("t1", "epi"), ("t1", "pet")):
        yield Pair(f"average heads {one}-{other}", "different", spm(one), spm(other))
    ms = "ms-followup/{}_{}_{}_img".format
    for person in ("p01", "p12"):
        for kind in ("t1", "flair"):
            yield Pair(f"follow-up {kind}", "same", ms(person, "v1", kind), ms(person, "v2", kind))
        yield Pair("follow-up flair-t1", "different", ms(person, "v1", "flair"), ms(person, "v2", "t1"))
    for n in ("c00", "c02", "c06"):
        yield Pair("prostate mr-us", "different", f"prostate-mr-us/{n}_mr_img", f"prostate-mr-us/{n}_us_img")
    brains = [f"brain-t1-nmm/nmm_{n}_t1" for n in ("1000", "1001", "1002", "1006", "1007")]
    groups = {
        "brains": list(itertools.pairwise(brains)),
        "hippocampi": [tuple(f"hippocampus-msd04/images/hippocampus_{n}" for n in two)
                       for two in (("001", "004"), ("008", "014"), ("020", "024"))],
        "mouse brains": [tuple(f"mouse-t2/mouse_{n}_t2" for n in two)
                         for two in (("01_WT", "03_UT"), ("07_WT", "09_UT"), ("06_WT", "07_WT"))],
        "hearts ed-es": [(f"heart-acdc/p00{n}_ed_img", f"heart-acdc/p00{n}_es_img") for n in (1, 2, 3)],
        "fetal brains": [tuple(f"fetal-t2/sb_{n}_img" for n in two)
                         for two in (("ga25_op", "ga28_op"), ("ga25_notop", "ga25_op"))],
        "atria": [tuple(f"left-atrium-mr/la{n}_img" for n in two) for two in (("01", "03"), ("06", "08"))],
        "brain slabs": [tuple(f"brain-slab/s{n}_img" for n in two) for two in (("01", "03"), ("03", "05"))],
        "mouse skulls ct": [tuple(f"mouse-skull-ct/{n}_img" for n in ("AKR_J", "SJL_J"))],
    }  # fmt: skip
    for group, found in groups.items():
        for fixed, moving in found:
            yield Pair(group, "same", fixed, moving)
        for remap in REMAPS if group == "brains" else ("inverted", "folded"):
            yield Pair(f"{group}, {remap}", "same" if remap.startswith("gamma") else "different", *found[0], remap)


def remapped(image: sitk.Image, remap: Remap) -> sitk.Image:
    """Change the grey values of the anatomy, scaled to 0 to 1, and leave the background black."""
    inside = sitk.GetArrayViewFromImage(foreground(image)) != 0
    voxels = sitk.GetArrayFromImage(image).astype(np.float32)
    low, high = np.percentile(voxels[inside], (0.5, 99.5))
    changed = np.zeros_like(voxels)
    changed[inside] = 20 + 200 * remap(np.clip((voxels[inside] - low) / (high - low), 0, 1))
    result = sitk.GetImageFromArray(changed)
    result.CopyInformation(image)
    return result


def judged(pair: Pair, data: Path) -> tuple[Alignment, float, str]:
    """Align a pair as a job does, only coarser; return that, how far the similarities agree, and which one is taken."""
    images = [read_image(data / f"{name}.nii.gz", "image") for name in (pair.fixed, pair.moving)]
    if pair.remap:
        images[1] = remapped(images[1], REMAPS[pair.remap])
    masks = [foreground(image) for image in images]
    scaled = [normalised(image, mask) for image, mask in zip(images, masks, strict=True)]
    found = align(*scaled, QUICK, seed=1, fixed_foreground=masks[0], moving_foreground=masks[1])
    grid = working_grid(*masks, found.transform, working_spacing(images[0], masks[0], "fast"))
    view = common_view(*images, found.transform, grid)
    fixed, moving = (sitk.Mask(image, view) for image in (on_grid(scaled[0], grid), on_grid(scaled[1], grid, found.transform)))
    task = RegistrationTask(fixed, moving, {}, DiffeoEngine.settings_type(), 1, view=view, moving_smoothed=True)
    agreed = pulled_together(fixed, moving, [view], SIMILARITIES)
    return found, agreed, choose_similarity(fixed, moving, [view], *SIMILARITIES, coarse_trial(task)).name


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("groups", nargs="*")
    options = parser.parse_args()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    counts: dict[tuple[str, str], int] = {}
    taken: dict[tuple[str, str], int] = {}
    heads = f"{'explained':>10s}{'reversed':>10s}{'opposed':>9s}{'whole':>7s}{'agree':>7s}  taken"
    print(f"{'pair':34s}{'should be':11s}{'found':11s}{heads}")
    for pair in pairs():
        if options.groups and not pair.group.startswith(tuple(options.groups)):
            continue
        found, agreed, name = judged(pair, options.data)
        like = found.likeness
        counts[pair.expected, found.contrast] = counts.get((pair.expected, found.contrast), 0) + 1
        taken[pair.expected, name] = taken.get((pair.expected, name), 0) + 1
        print(
            f"{pair.group:34s}{pair.expected:11s}{found.contrast:11s}{like.explained:10.2f}{like.reversed:10.2f}"
            f"{like.opposed:9.2f}{found.correlation:7.2f}{agreed:7.2f}  {name}",
            flush=True,
        )
    for verb, told in (("called", counts), ("registered by", taken)):
        print(", ".join(f"{expected} {verb} {name}: {count}" for (expected, name), count in sorted(told.items())))


if __name__ == "__main__":
    main()
