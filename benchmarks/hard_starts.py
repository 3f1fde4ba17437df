"""How many badly placed brains, mouse brains and hippocampi the affine step brings home.

Each moving image is turned by a random angle about a random axis and shifted, either in its header (the voxels stay, the
directions turn oblique) or by resampling onto an enlarged, unturned grid (so that the voxel axes give nothing away). A start is
recovered when the mean distance over the fixed foreground to the alignment of the untouched pair is below 2 mm.

    python benchmarks/hard_starts.py --data ../shared/data
    python benchmarks/hard_starts.py --data ../shared/data --tuning        # the five subjects that settings were tuned on
"""

from __future__ import annotations

import argparse
import functools
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from HyperPredictRegLib.alignment import AlignmentSettings, align, foreground_points
from HyperPredictRegLib.core.resources import threads
from HyperPredictRegLib.preprocessing.intensity import foreground
from HyperPredictRegLib.spatial.geometry import Geometry
from scipy.spatial.transform import Rotation

TUNING = ("1000", "1001", "1002", "1006", "1007")
SEED = 11


@dataclass(frozen=True, eq=False)
class Subject:
    """An image and its foreground."""

    name: str
    image: sitk.Image
    mask: sitk.Image


def read(path: Path) -> Subject:
    """Read an image and find its foreground."""
    image = sitk.ReadImage(str(path), sitk.sitkFloat32)
    return Subject(path.name.split(".")[0], image, foreground(image))


def displacement(rng: np.random.Generator, angle: float, shift: float, centre: np.ndarray) -> np.ndarray:
    """Return a rigid 4x4 matrix: `angle` degrees about a random axis through `centre`, then `shift` mm in a random direction."""
    axis, direction = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 3)))
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.radians(angle) * axis).as_matrix()
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + shift * direction
    return matrix


def displaced(subject: Subject, matrix: np.ndarray, *, resample: bool) -> Subject:
    """Return the subject moved by a rigid matrix, in its header or onto an enlarged grid without rotation."""
    images = []
    for image in (subject.image, subject.mask):
        moved = sitk.Image(image)
        moved.SetOrigin((matrix[:3, :3] @ np.array(image.GetOrigin()) + matrix[:3, 3]).tolist())
        moved.SetDirection((matrix[:3, :3] @ np.array(image.GetDirection()).reshape(3, 3)).ravel().tolist())
        images.append(moved)
    if resample:
        corners = Geometry.of(images[0]).corners_lps()
        grid = replace(Geometry.of(subject.image)).covering(corners, float(min(subject.image.GetSpacing())), 1.0)
        images = [grid.resample(images[0]), grid.resample(images[1], interpolator=sitk.sitkNearestNeighbor)]
    return Subject(subject.name, *images)


def run(fixed: Subject, moving: Subject, settings: AlignmentSettings) -> tuple[np.ndarray, float]:
    """Return the 4x4 matrix of the alignment and the seconds it took, foregrounds given."""
    began = time.perf_counter()
    result = align(
        fixed.image, moving.image, settings, seed=SEED, fixed_foreground=fixed.mask, moving_foreground=moving.mask
    )
    return result.matrix, time.perf_counter() - began


def mean_distance(points: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean distance in mm between two 4x4 matrices over points (n, 3)."""
    return float(np.linalg.norm(points @ (a - b)[:3, :3].T + (a - b)[:3, 3], axis=1).mean())


@functools.cache
def reference(fixed: Subject, moving: Subject) -> np.ndarray:
    """Return the 4x4 matrix of the alignment of the untouched pair."""
    return run(fixed, moving, AlignmentSettings())[0]


def trial(
    name: str, pairs: list[tuple[Subject, Subject]], angles: tuple[float, float], shift: float, limit_mm: float, *, resample: bool
) -> None:
    """Print how many of the displaced pairs come home, with and without rotated starts."""
    rng = np.random.default_rng(20)
    plain = AlignmentSettings(multi_start=False)
    home, home_plain, seconds, seconds_plain, missed = 0, 0, [], [], []
    for fixed, moving in pairs:
        points = foreground_points(fixed.mask)
        centre = foreground_points(moving.mask).mean(axis=0)
        angle = rng.uniform(*angles)
        matrix = displacement(rng, angle, rng.uniform(0, shift), centre)
        moved = displaced(moving, matrix, resample=resample)
        for settings in (AlignmentSettings(), plain):
            found, took = run(fixed, moved, settings)
            distance = mean_distance(points, found, matrix @ reference(fixed, moving))
            if settings.multi_start:
                home += distance < limit_mm
                seconds.append(took)
                if distance >= limit_mm:
                    missed.append(f"{fixed.name}<-{moving.name} {angle:.0f} deg: {distance:.1f} mm")
            else:
                home_plain += distance < limit_mm
                seconds_plain.append(took)
    print(
        f"{name:46s} multi-start {home:2d} of {len(pairs)}, {np.mean(seconds):.1f} s (most {np.max(seconds):.1f}); "
        f"without {home_plain:2d} of {len(pairs)}, {np.mean(seconds_plain):.1f} s {missed or ''}",
        flush=True,
    )


def chosen_pairs(names: list[str], count: int) -> list[tuple[str, str]]:
    """Return `count` different ordered pairs of different subjects, seeded."""
    everything = [(a, b) for a in names for b in names if a != b]
    order = np.random.default_rng(7).permutation(len(everything))
    return [everything[n] for n in order[:count]]


def ring(subjects: list[Subject]) -> list[tuple[Subject, Subject]]:
    """Return each subject with the next one."""
    return list(zip(subjects, subjects[1:] + subjects[:1], strict=True))


def other_contrast(subject: Subject) -> Subject:
    """Return a brain as another sequence might show it: dark tissue bright, bright tissue dark, background black."""
    voxels = sitk.GetArrayFromImage(subject.image)
    inside = sitk.GetArrayViewFromImage(subject.mask) != 0
    top = np.percentile(voxels[inside], 99)
    image = sitk.GetImageFromArray(np.where(inside, np.clip(1.1 * top - voxels, 0, None) ** 0.7, 0).astype(np.float32))
    image.CopyInformation(subject.image)
    return replace(subject, image=image)


def main() -> None:
    """Run all trials and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tuning", action="store_true", help="use the subjects that settings were tuned on")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="run the trials whose name contains this")
    options = parser.parse_args()
    brains = {p.name[4:8]: p for p in sorted((options.data / "brain-t1-nmm").glob("*_t1.nii.gz"))}
    brains = {k: v for k, v in brains.items() if (k in TUNING) == options.tuning}
    read_brains = {k: read(v) for k, v in brains.items()}
    pairs = [(read_brains[a], read_brains[b]) for a, b in chosen_pairs(sorted(brains), options.pairs)]
    few = pairs[: max(1, options.pairs // 4)]
    trials = [
        ("brains, header, up to 60 deg, 40 mm", pairs, (0, 60), 40.0, 2.0, False),
        ("brains, resampled, up to 60 deg, 40 mm", pairs, (0, 60), 40.0, 2.0, True),
        ("brains, resampled, 90 deg, 40 mm", few, (90, 90), 40.0, 2.0, True),
        ("brains, resampled, 120 deg, 40 mm", few, (120, 120), 40.0, 2.0, True),
        ("brains, resampled, 180 deg, 40 mm", few, (180, 180), 40.0, 2.0, True),
        ("brains, other contrast, up to 60 deg, 40 mm", [(a, other_contrast(b)) for a, b in few], (0, 60), 40.0, 2.0, True),
    ]
    mice = [read(p) for p in sorted((options.data / "mouse-t2").glob("*_t2.nii.gz"))]
    mice = mice[:4] if options.tuning else mice[4:12]
    trials.append(("mouse brains, up to 60 deg, 4 mm", ring(mice), (0, 60), 4.0, 0.2, True))
    crops = [read(p) for p in sorted((options.data / "hippocampus-msd04" / "images").glob("*.nii.gz"))[:16]]
    crops = crops[:6] if options.tuning else crops[6:16]
    trials.append(("hippocampi, header, up to 30 deg, 10 mm", ring(crops), (0, 30), 10.0, 2.0, False))
    with threads(options.threads):
        for name, chosen, angles, shift, limit, resample in trials:
            if options.only in name:
                trial(name, chosen, angles, shift, limit, resample=resample)


if __name__ == "__main__":
    main()
