"""How many pairs of any anatomy the affine step brings home from a bad start, domain by domain.

Kinds of cases, each from a fixed seed:

    landmarks  two animals as they were scanned, in any pose; the truth is the affine fit of 45 landmarks
    turned     an image against itself, turned by up to 60 degrees and shifted by up to a third of its size, with noise
    cut        the same, with half of the field of view cut away
    visits     two scans of one person as they are; the truth is the reference that comes with the data
    others     another person, turned and shifted; the truth is the untouched pair's alignment, if labels say that it is right
    padded     a slab of 30 mm of another brain in a volume of zeros; the truth is the alignment of the whole brains

A case is home when the mean distance to the truth, over the fixed landmarks or foreground, is at most two voxels. A voxel is the
smaller one of the working grid's at Fast and the image's own (geometric mean of its edges). A padded slab is home when no
direction is stretched by more than 10 % against the truth. Half of the subjects were used for tuning.

    python benchmarks/starts.py --data ../shared/data --out results.csv           # goes on where it stopped; random order
    python benchmarks/starts.py --data ../shared/data --tuning --only hearts --most 6
"""

from __future__ import annotations

import argparse
import csv
import functools
import itertools
import math
import resource
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from HyperPredictRegLib.alignment import Alignment, AlignmentSettings, align, foreground_points
from HyperPredictRegLib.core.errors import HyperPredictRegError
from HyperPredictRegLib.core.resources import threads
from HyperPredictRegLib.preprocessing.intensity import foreground
from HyperPredictRegLib.preprocessing.working_grid import working_spacing
from HyperPredictRegLib.spatial.geometry import Geometry
from scipy.spatial.transform import Rotation

SEED = 11
BRAINS_TUNED = ("1000", "1001", "1002", "1006", "1007")
SKULLS_TUNED = ("129S1_SVLMJ", "129X1_SVJ", "AKR_J", "BALB_CBYJ", "BALB_CJ", "FVB_NJ")
SKULLS_HELD_OUT = ("C3H_HEJ", "C3H_HEOUJ", "CBA_CAJ", "CBA_J", "MRL_MPJ", "SJL_J")
BRAINS_HELD_OUT = ("1008", "1009", "1010", "1011", "1012", "1013", "1014", "1015", "1017", "1036")
COLUMNS = (
    "domain", "kind", "part", "fixed", "moving", "degrees", "voxel_mm", "voxels_off", "stretch", "dice", "home", "seconds",
    "said",
)  # fmt: skip
LEAST_DICE = 0.6


@dataclass(frozen=True)
class Case:
    """One pair: paths of the images below the data folder, without their ending, and what is done to the moving one."""

    domain: str
    kind: str
    part: str
    fixed: str
    moving: str
    seed: int = 0

    @property
    def key(self) -> tuple[str, ...]:
        """What tells it from other cases."""
        return (self.domain, self.kind, self.part, self.fixed, self.moving)


def cases() -> Iterator[Case]:
    """List all cases."""
    yield from skulls()
    yield from displaced()
    yield from visits()
    for part, people in (("tuned", BRAINS_TUNED), ("held out", BRAINS_HELD_OUT)):
        names = [f"brain-t1-nmm/nmm_{n}" for n in people]
        for n, (one, two) in enumerate(ring(names, 1)):
            yield Case("zero-padded slabs", "padded", part, one, two, n)
            yield Case("brains", "others", part, one, two, n)


def in_turn(listed: Iterable[Case]) -> list[Case]:
    """Return the cases in a random order from a fixed seed, one of each domain, kind and part in turn.

    However early a run is stopped, what it did is an even sample that nobody chose.
    """
    rng = np.random.default_rng(SEED)
    groups: dict[tuple[str, ...], list[Case]] = {}
    for case in listed:
        groups.setdefault(case.key[:3], []).append(case)
    shuffled = [[group[n] for n in rng.permutation(len(group))] for group in groups.values()]
    return [case for one_of_each in itertools.zip_longest(*shuffled) for case in one_of_each if case is not None]


def ring(names: list[str], step: int) -> Iterator[tuple[str, str]]:
    """Return each name with the one `step` places on."""
    return zip(names, names[step:] + names[:step], strict=True)


def skulls() -> Iterator[Case]:
    """List all ordered pairs of skulls; "mixed" are those of a strain that was tuned on and one that was not."""
    for a, b in itertools.permutations((*SKULLS_TUNED, *SKULLS_HELD_OUT), 2):
        tuned = sum(s in SKULLS_TUNED for s in (a, b))
        part = ("held out", "mixed", "tuned")[tuned]
        yield Case("mouse skulls", "landmarks", part, f"mouse-skull-ct/{a}", f"mouse-skull-ct/{b}")


def displaced() -> Iterator[Case]:
    """List images against themselves, turned and cut, and against other people's."""
    atria = [f"left-atrium-mr/la{n}" for n in ("01", "03", "06", "08", "11", "13", "16", "18")]
    weeks = [f"{w}_notop" for w in range(21, 26)] + [f"{w}_op" for w in range(25, 35)]
    states = [f"fetal-t2/sb_ga{w}" for w in weeks]
    groups = {
        "hearts": ([f"heart-acdc/p{n:03d}_ed" for n in range(1, 9)], [f"heart-acdc/p{n:03d}_ed" for n in range(26, 38)]),
        "atria": (atria[:4], atria[4:]),
        "fetal brains": (states[::2], states[1::2]),
        "brain slabs": ([f"brain-slab/s{n:02d}" for n in range(1, 10, 2)], [f"brain-slab/s{n:02d}" for n in range(11, 20, 2)]),
        "CT": (["trunk-ct/trunk", "ct-single/head_average"], ["ct-single/chest", "ct-single/head_phantom"]),
    }
    for domain, parts in groups.items():
        for part, names in zip(("tuned", "held out"), parts, strict=True):
            repeats = max(1, math.ceil(8 / len(names)))
            for (n, name), k, kind in itertools.product(enumerate(names), range(repeats), ("turned", "cut")):
                yield Case(domain, kind, part, name, name if k == 0 else f"{name} {k + 1}", 100 * n + k)
            steps = {"CT": (), "atria": (1, 2)}.get(domain, (1,))
            for step in steps:
                for n, pair in enumerate(ring(names, step)):
                    yield Case(domain, "others", part, *pair, 100 * n + 50)


def visits() -> Iterator[Case]:
    """List the follow-ups, as they are and displaced."""
    for person, part in (("p01", "tuned"), ("p12", "held out")):
        for n, what in enumerate(("t1", "flair")):
            one, two = (f"ms-followup/{person}_{v}_{what}" for v in ("v1", "v2"))
            yield Case("MS follow-up", "visits", part, one, two)
            for k, kind in itertools.product(range(3), ("turned", "cut", "visits")):
                yield Case("MS follow-up", kind, part, one, f"{two if kind == 'visits' else one} {k + 1}", 10 * n + k)


@dataclass(frozen=True, eq=False)
class Subject:
    """An image, its labels if there are any, on one grid."""

    image: sitk.Image
    labels: sitk.Image | None


@functools.lru_cache(maxsize=8)
def read(data: Path, name: str) -> Subject:
    """Read an image and its labels by the start of their names."""
    stem = name.split(" ")[0]
    brain = stem.startswith("brain-t1")
    image = sitk.ReadImage(str(data / f"{stem}{'_t1' if brain else '_img'}.nii.gz"), sitk.sitkFloat32)
    labels = data / f"{stem}{'_aseg' if brain else '_lab'}.nii.gz"
    return Subject(image, sitk.ReadImage(str(labels)) if labels.exists() else None)


def displacement(rng: np.random.Generator, image: sitk.Image) -> tuple[np.ndarray, float]:
    """Return a rigid matrix (4, 4) and its angle in degrees: at most 60 degrees, and at most a third of the object's size."""
    points = foreground_points(foreground(image))
    along = points @ Geometry.of(image).direction_matrix
    size = float(np.exp(np.log(np.ptp(along, axis=0) + np.array(image.GetSpacing())).mean()))
    axis, direction = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 3)))
    angle, centre = rng.uniform(10, 60), points.mean(axis=0)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.radians(angle) * axis).as_matrix()
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + rng.uniform(0, size / 3) * direction
    return matrix, float(angle)


def half(rng: np.random.Generator, image: sitk.Image) -> sitk.Image:
    """Return one half of the field of view, cut across a random axis that has at least 20 voxels."""
    size = list(image.GetSize())
    axis = int(rng.choice([a for a in range(3) if size[a] >= 20]))
    start, halved = [0, 0, 0], list(size)
    halved[axis] = size[axis] // 2
    start[axis] = (size[axis] - halved[axis]) * int(rng.integers(2))
    return sitk.RegionOfInterest(image, halved, start)


def sampled_anew(rng: np.random.Generator, image: sitk.Image, *, noisy: bool) -> sitk.Image:
    """Return the image on a grid a tenth coarser (in its fine axes) and half a voxel off, with noise."""
    old = Geometry.of(image)
    fine = min(old.spacing)
    spacing = tuple(1.1 * s if s < 1.5 * fine else s for s in old.spacing)
    size = tuple(max(1, int((n - 1) * s / t)) for n, s, t in zip(old.size, old.spacing, spacing, strict=True))
    start = [0.5 if t > s else 0.0 for s, t in zip(old.spacing, spacing, strict=True)]
    moved = replace(old, size=size, spacing=spacing, origin=tuple(old.to_lps(start).tolist())).resample(image)
    if not noisy:
        return moved
    voxels = sitk.GetArrayFromImage(moved)
    scale = 0.03 * float(np.ptp(np.percentile(voxels, (1, 99))))
    return Geometry.of(moved).holding((voxels + rng.normal(0, scale, voxels.shape)).astype(np.float32))


def turned(image: sitk.Image, matrix: np.ndarray) -> sitk.Image:
    """Return the image moved by a rigid matrix, in its header."""
    moved = sitk.Image(image)
    moved.SetOrigin((matrix[:3, :3] @ np.array(image.GetOrigin()) + matrix[:3, 3]).tolist())
    moved.SetDirection((matrix[:3, :3] @ np.array(image.GetDirection()).reshape(3, 3)).ravel().tolist())
    return moved


def upright(image: sitk.Image, shape: Geometry) -> sitk.Image:
    """Return a turned image on unturned axes, so that the voxel grid gives nothing away; 0 around it."""
    grid = shape.covering(Geometry.of(image).corners_lps(), float(min(shape.spacing)), 1.0)
    return grid.resample(image)


@dataclass(frozen=True)
class Trial:
    """What is aligned; the truth (4, 4), from fixed to moving points; what was done to the moving image, likewise."""

    fixed: sitk.Image
    moving: sitk.Image
    truth: np.ndarray
    points: np.ndarray
    degrees: float
    displaced: np.ndarray


def trial(case: Case, data: Path) -> Trial:
    """Make the images of one case."""
    fixed, other = read(data, case.fixed), read(data, case.moving)
    rng = np.random.default_rng((SEED, case.seed, len(case.domain), len(case.kind)))
    points = foreground_points(foreground(fixed.image))
    still = np.eye(4)
    if case.kind == "landmarks":
        a, b = (landmarks(data / f"{n}_lms.csv") for n in (case.fixed, case.moving))
        return Trial(fixed.image, other.image, affine_fit(a, b), a, 0.0, still)
    if case.kind == "padded":
        return Trial(fixed.image, padded(other.image), untouched(data, case.fixed, case.moving), points, 0.0, still)
    reference = still
    image = other.image
    if case.kind == "visits":
        person = case.fixed.split("_")[0]
        given = sitk.ReadTransform(str(data / f"{person}_v1_to_v2_affine.tfm"))
        reference = affine_fit(points, np.array([given.TransformPoint(p.tolist()) for p in points]))
        if " " not in case.moving:
            return Trial(fixed.image, image, reference, points, 0.0, still)
    if case.kind == "others":
        reference = untouched(data, case.fixed, case.moving)
    matrix, angle = displacement(rng, image)
    if case.kind == "cut":
        image = half(rng, image)
    if case.kind in ("turned", "cut"):
        background = np.mean(sitk.GetArrayViewFromImage(image) == 0) > 0.2
        image = sampled_anew(rng, image, noisy=not background)
    moved = turned(image, matrix)
    if case.domain in ("fetal brains", "brains") and case.kind != "cut":
        moved = upright(moved, Geometry.of(fixed.image))
    return Trial(fixed.image, moved, matrix @ reference, points, angle, matrix)


@functools.lru_cache(maxsize=256)
def untouched(data: Path, fixed: str, moving: str) -> np.ndarray:
    """Return the alignment (4, 4) of an untouched pair, without rotated starts."""
    settings = AlignmentSettings(multi_start=False)
    return align(read(data, fixed).image, read(data, moving).image, settings, seed=SEED).matrix


def landmarks(path: Path) -> np.ndarray:
    """Return the positions, shape (n, 3), LPS mm."""
    with path.open() as file:
        return np.array([[float(row[c]) for c in "xyz"] for row in csv.DictReader(file)])


def affine_fit(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the affine matrix (4, 4) that takes points `a` to points `b` (n, 3) with the least squares."""
    solved = np.linalg.lstsq(np.c_[a, np.ones(len(a))], b, rcond=None)[0].T
    return np.vstack([solved, (0, 0, 0, 1)])


def padded(image: sitk.Image) -> sitk.Image:
    """Return the image with 0 outside of a slab of 30 mm through its middle."""
    voxels = sitk.GetArrayFromImage(image)
    thick = round(30 / image.GetSpacing()[2])
    first = (len(voxels) - thick) // 2
    voxels[:first], voxels[first + thick:] = 0, 0
    return Geometry.of(image).holding(voxels)


def dice(case: Case, matrix: np.ndarray, data: Path) -> float:
    """Return the overlap of all labels together under a fixed-to-moving matrix, NaN without labels."""
    fixed, moving = read(data, case.fixed).labels, read(data, case.moving).labels
    if fixed is None or moving is None:
        return float("nan")
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3].tolist())
    warped = Geometry.of(fixed).resample(moving, transform, interpolator=sitk.sitkNearestNeighbor)
    a, b = (sitk.GetArrayViewFromImage(image) > 0 for image in (fixed, warped))
    return float(2 * np.sum(a & b) / max(1, a.sum() + b.sum()))


def voxel_mm(image: sitk.Image) -> float:
    """Return the edge that distances are measured in: the smaller one of the working grid's at Fast and the image's own."""
    return min(working_spacing(image, foreground(image), "fast"), float(np.prod(image.GetSpacing()) ** (1 / 3)))


def run(case: Case, data: Path, settings: AlignmentSettings) -> dict[str, object] | None:
    """Align one case and return its row, or None where the truth is not known."""
    made = trial(case, data)
    if case.kind == "others" and not dice(case, np.linalg.inv(made.displaced) @ made.truth, data) >= LEAST_DICE:
        return None
    began = cpu_seconds()
    row: dict[str, object] = dict(zip(COLUMNS, (*case.key, round(made.degrees)), strict=False))
    found: Alignment | None
    try:
        found = align(made.fixed, made.moving, settings, seed=SEED)
        sentences = " | ".join((*found.refusals, *found.doubts))
    except HyperPredictRegError as error:
        found, sentences = None, str(error)
    row["seconds"] = f"{cpu_seconds() - began:.1f}"
    voxel = voxel_mm(made.fixed)
    off, stretch, overlap = math.inf, math.inf, 0.0
    if found is not None:
        apart = found.matrix - made.truth
        off = float(np.linalg.norm(made.points @ apart[:3, :3].T + apart[:3, 3], axis=1).mean()) / voxel
        scales = np.linalg.svd(np.linalg.solve(made.truth[:3, :3], found.matrix[:3, :3]), compute_uv=False)
        stretch = float(np.exp(np.abs(np.log(scales)).max()))
        overlap = dice(case, np.linalg.inv(made.displaced) @ found.matrix, data)
    home = stretch <= 1.1 if case.kind == "padded" else off <= 2
    row |= {"voxel_mm": f"{voxel:.2f}", "voxels_off": f"{off:.2f}", "stretch": f"{stretch:.2f}", "dice": f"{overlap:.2f}",
            "home": int(home), "said": sentences}
    return row


def cpu_seconds() -> float:
    """Return the processor time of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def summary(rows: list[dict[str, str]]) -> None:
    """Print how many came home, by domain, kind and part, and the misses."""
    groups: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["domain"], row["kind"], row["part"]), []).append(row)
    for key, found in groups.items():
        home = sum(int(row["home"]) for row in found)
        warned = sum(bool(row["said"]) for row in found if not int(row["home"]))
        seconds = [float(row["seconds"]) for row in found]
        print(f"{key[0]:18s} {key[1]:10s} {key[2]:9s} {home:3d} of {len(found):3d}, CPU seconds {np.mean(seconds):5.1f} "
              f"(most {max(seconds):.1f}); {len(found) - home} missed, {warned} of them with a word; "
              f"{sum(bool(row['said']) for row in found if int(row['home']))} at home with one")
    for row in rows:
        if not int(row["home"]):
            print(f"  missed: {row['domain']}, {row['kind']}: {row['fixed']} <- {row['moving']}, {row['degrees']} degrees: "
                  f"{row['voxels_off']} voxels, stretch {row['stretch']}, Dice {row['dice']}; said: "
                  f"{row['said'][:90] or 'nothing'}")


def main() -> None:
    """Run what is asked for, row by row, and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="CSV that rows are added to; those that it holds are not run again")
    parser.add_argument("--tuning", action="store_true", help="only what was tuned on")
    parser.add_argument("--held-out", action="store_true", help="only what was not tuned on")
    parser.add_argument("--only", default="", help="domains or kinds that begin so, separated by commas")
    parser.add_argument("--most", type=int, default=10_000, help="cases of one domain, kind and part")
    parser.add_argument("--single-start", action="store_true", help="without rotated starts")
    options = parser.parse_args()
    rows: list[dict[str, str]] = []
    if options.out is not None and options.out.exists():
        with options.out.open(newline="") as file:
            rows = list(csv.DictReader(file))
    done = {tuple(row[c] for c in COLUMNS[:5]) for row in rows}
    settings = AlignmentSettings(multi_start=not options.single_start)
    counted: dict[tuple[str, ...], int] = {}
    starts = tuple(options.only.split(","))
    with threads(1):
        for case in in_turn(cases()):
            unwanted = (options.tuning and case.part != "tuned") or (options.held_out and case.part == "tuned")
            if unwanted or not (case.domain.startswith(starts) or case.kind.startswith(starts)):
                continue
            counted[case.key[:3]] = counted.get(case.key[:3], 0) + 1
            if counted[case.key[:3]] > options.most or case.key in done:
                continue
            row = run(case, options.data, settings)
            if row is None:
                print(f"left out, the untouched pair is not right: {case.fixed} <- {case.moving}", file=sys.stderr, flush=True)
                continue
            rows.append({key: str(value) for key, value in row.items()})
            print({k: v for k, v in row.items() if k != "domain"}, file=sys.stderr, flush=True)
            if options.out is not None:
                fresh = not options.out.exists()
                with options.out.open("a", newline="") as file:
                    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                    if fresh:
                        writer.writeheader()
                    writer.writerow(row)
    summary(rows)


if __name__ == "__main__":
    main()
