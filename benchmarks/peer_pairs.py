"""The pairs that our engines and their peers are compared on, aligned once, and how a result on them is measured.

Which pairs, and the seed, were fixed before anything was run on them, but for those that were left out again because somebody
in them had been tuned on. No alignment of MR and ultrasound of a prostate by grey values was found to hold
(`docs/alignment.md`), so that these pairs start from the centres of their glands. `brain-t1-nmm` has its tuning people in
`lambda_table.TUNED_ON`.
"""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from contrast import REMAPS
from HyperPredictRegLib.alignment import AlignmentSettings, align
from HyperPredictRegLib.alignment.aligned_pair import AlignedPair
from HyperPredictRegLib.preprocessing.image_set import Inputs, read_inputs
from HyperPredictRegLib.preprocessing.intensity import foreground, normalised
from HyperPredictRegLib.preprocessing.working_grid import common_view, smoothing_mm
from HyperPredictRegLib.quality.measurement import nearest
from HyperPredictRegLib.quality.metrics import (
    dice_coefficients,
    folding_percent,
    jacobian_determinant,
    landmark_error,
    sd_log_jacobian,
)
from HyperPredictRegLib.results.job import Job
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.images import read_image
from HyperPredictRegLib.spatial.transforms import composed, displacement_field, faded, field_transform
from lambda_table import STRUCTURES, TUNED_ON
from scipy.ndimage import gaussian_filter

DATA = Path(os.environ.get("HYPERPREDICTREG_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
SEED = 20240901
HEADS = ("t1", "t2", "pd", "epi")
REMAPPED = ("folded", "tissues exchanged")
WARP_SIGMA_MM, WARP_MM = 16.0, 4.0
GLAND, LANDMARKS = 1, (2, 3)

TUNED_BESIDES = frozenset((
    "p033_ed", "p041_ed", "hippocampus_193", "hippocampus_210", "hippocampus_244", "hippocampus_252", "hippocampus_294",
    "hippocampus_301", "hippocampus_332", "hippocampus_338", "sb_ga28_op", "sb_ga30_op", "sb_ga31_op", "sb_ga33_op",
    "mouse_11_UT", "mouse_14_UT", "mouse_15_WT", "mouse_18_TT",
))  # fmt: skip
"""Beside `TUNED_ON` and the pairs of `diffeo_settings.py`: on these, too, settings of our engines were tried."""


@dataclass(frozen=True)
class Pair:
    """A fixed and a moving image by name; `contrast` names how the moving image's grey values are changed."""

    group: str
    fixed: str
    moving: str
    contrast: str = "same"


@dataclass(frozen=True)
class Case:
    """What a method gets, and what its result is measured by.

    Attributes
    ----------
    fixed, moving : on the working grid, the moving one aligned.
    start : fixed to moving points, LPS mm: the affine step; for known warps the warp that registration has to undo.
    inside : foreground of the fixed image, on its own grid.
    view : where both images have voxels, on the working grid, or None for everywhere.
    moving_smoothed : whether the moving image was smoothed, because the working grid is coarser than its own.
    fixed_labels, moving_labels : each on its image's own grid; None for known warps.
    labels : those whose Dice counts; empty is all.
    landmarks : labels whose centroids correspond.
    """

    fixed: sitk.Image
    moving: sitk.Image
    start: sitk.Transform
    inside: sitk.Image
    view: sitk.Image | None = None
    moving_smoothed: bool = False
    fixed_labels: sitk.Image | None = None
    moving_labels: sitk.Image | None = None
    labels: tuple[int, ...] = field(default=())
    landmarks: tuple[int, ...] = field(default=())


def brain_pairs(group: str) -> list[Pair]:
    """Return 20 ordered pairs of the ten people, no two of the same two people, each person in four."""
    people = sorted({path.name.split("_")[1] for path in (DATA / "brain-t1-nmm").glob("*_t1.nii.gz")} - set(TUNED_ON))
    return [Pair(group, one, other) for step in (3, 4) for one, other in zip(people, people[step:] + people[:step], strict=True)]


def names_in(folder: str, ending: str) -> list[str]:
    """Return what stands before an ending in the names of a data folder, sorted."""
    return sorted(path.name.removesuffix(ending) for path in (DATA / folder).glob(f"*{ending}"))


def pairs(group: str) -> list[Pair]:
    """Return the pairs of a group, in the order in which they are run; nobody in them was tuned on."""
    return [pair for pair in listed(group) if not {pair.fixed, pair.moving} & TUNED_BESIDES]


def listed(group: str) -> list[Pair]:
    """Return the pairs of a group with those of `TUNED_BESIDES`."""
    if group.startswith("brain"):
        found = brain_pairs(group)
        return [Pair(group, p.fixed, p.moving, c) for p in found[:6] for c in REMAPPED] if group == "brain-remapped" else found
    if group == "heart":
        people = names_in("heart-acdc", "_ed_img.nii.gz")
        return [Pair(group, f"{p}_ed", f"{p}_es") for p in people[::4][:12]]
    if group == "atrium":
        scans = names_in("left-atrium-mr", "_img.nii.gz")
        ring = list(zip(scans, scans[1:] + scans[:1], strict=True))
        return [Pair(group, *two) for two in (*ring, (scans[0], scans[3]), (scans[2], scans[5]))]
    if group == "hippo":
        people = names_in("hippocampus-msd04/images", ".nii.gz")
        fixed, moving = people[::24][:8] + people[12::24][:4], people[5::24][:8] + people[17::24][:4]
        return [Pair(group, *two) for two in zip(fixed, moving, strict=True)]
    if group in ("mouse", "fetal"):
        names = names_in("mouse-t2", "_t2.nii.gz") if group == "mouse" else names_in("fetal-t2", "_img.nii.gz")
        starts = (0, 2, 4, 6, 8, 10) if group == "mouse" else (0, 2, 4, 6, 8, 10, 1, 3)
        return [Pair(group, names[n], names[n + 3]) for n in starts]
    if group == "prostate":
        return [Pair(group, f"{p}_mr", f"{p}_us") for p in names_in("prostate-mr-us", "_mr_img.nii.gz")]
    same = group == "heads-same"
    return [Pair(group, one, other) for one in HEADS for other in HEADS if (one == other) == same]


def files(pair: Pair) -> list[Path]:
    """Return fixed image and labels, moving image and labels."""
    folder, image, labels = {
        "brain": ("brain-t1-nmm", "nmm_{}_t1.nii.gz", "nmm_{}_aseg.nii.gz"),
        "heart": ("heart-acdc", "{}_img.nii.gz", "{}_lab.nii.gz"),
        "atrium": ("left-atrium-mr", "{}_img.nii.gz", "{}_lab.nii.gz"),
        "hippo": ("hippocampus-msd04", "images/{}.nii.gz", "labels/{}.nii.gz"),
        "mouse": ("mouse-t2", "{}_t2.nii.gz", "{}_labels.nii.gz"),
        "fetal": ("fetal-t2", "{}_img.nii.gz", "{}_lab.nii.gz"),
        "prostate": ("prostate-mr-us", "{}_img.nii.gz", "{}_lab.nii.gz"),
    }[pair.group.partition("-")[0]]
    return [DATA / folder / name.format(side) for side in (pair.fixed, pair.moving) for name in (image, labels)]


def read_and_aligned(named: list[Path], *, by_glands: bool = False) -> tuple[Inputs, dict[str, Any]]:
    """Read and align a pair; return it with what results are measured by.

    Parameters
    ----------
    named : fixed image and labels, moving image and labels.
    by_glands : start from the centres of both glands instead of the affine step.
    """
    fixed, fixed_labels, moving, moving_labels = map(str, named)
    inputs = read_inputs(Job(fixed, moving, "", fixed_labels=fixed_labels, moving_labels=moving_labels))
    sides = inputs.fixed, inputs.moving
    made = {"fl": sides[0].labels, "ml": sides[1].labels, "fg": sides[0].foreground}
    if by_glands:
        return inputs, made | {"align": centred_glands(made["fl"], made["ml"])}
    alignment = align(
        *(side.normalised for side in sides),
        AlignmentSettings(),
        seed=SEED,
        fixed_foreground=sides[0].foreground,
        moving_foreground=sides[1].foreground,
    ).transform
    return inputs, made | {"align": alignment}


def centred_glands(fixed_labels: sitk.Image, moving_labels: sitk.Image) -> sitk.AffineTransform:
    """Return the shift that puts the centres of both glands onto each other, fixed to moving points, LPS mm."""
    fixed, moving = (centroids(labels, (GLAND,))[0] for labels in (fixed_labels, moving_labels))
    shift = sitk.AffineTransform(3)
    shift.SetTranslation((moving - fixed).tolist())
    return shift


def aligned(pair: Pair, cache: Path) -> dict[str, Any]:
    """Return the alignment, the labels and the images on both working grids, from the cache if they are there."""
    stored = cache / f"{pair.group.partition('-')[0]}-{pair.fixed}-{pair.moving}.pkl"
    if stored.exists():
        return pickle.loads(stored.read_bytes())
    inputs, made = read_and_aligned(files(pair), by_glands=pair.group == "prostate")
    for preset in ("fast", "fine"):
        on_grid = AlignedPair.of(inputs, made["align"], preset)
        made[preset] = (on_grid.fixed, on_grid.moving)
    cache.mkdir(exist_ok=True, parents=True)
    stored.write_bytes(pickle.dumps(made))
    return made


def in_contrast(image: sitk.Image, name: str) -> sitk.Image:
    """Return an image (0 to about 1) with the grey values of its anatomy changed."""
    if name == "same":
        return image
    voxels = sitk.GetArrayFromImage(image)
    inside = voxels > 0.03
    changed = np.zeros_like(voxels)
    changed[inside] = 0.08 + 0.8 * REMAPS[name](np.clip(voxels[inside], 0, 1))
    return Geometry.of(image).holding(changed)


def known_warp(pair: Pair) -> Case:
    """Return average heads that lie in one space, the moving one after a warp of about 4 mm that is known."""
    images = [read_image(DATA / "spm-contrasts" / f"{name}_img.nii.gz", "image") for name in (pair.fixed, pair.moving)]
    masks = [foreground(image) for image in images]
    fixed, moving = (sitk.Cast(normalised(image, mask), sitk.sitkFloat32) for image, mask in zip(images, masks, strict=True))
    grid = Geometry.of(fixed)
    inside = sitk.GetArrayViewFromImage(masks[0]) != 0
    seed = SEED + HEADS.index(pair.fixed) * len(HEADS) + HEADS.index(pair.moving)
    noise = np.random.default_rng(seed).standard_normal((*grid.size[::-1], 3))
    vectors = np.stack([gaussian_filter(noise[..., axis], WARP_SIGMA_MM / grid.spacing[0]) for axis in range(3)], axis=-1)
    vectors *= WARP_MM / np.percentile(np.linalg.norm(vectors, axis=-1)[inside], 95)
    warp = field_transform(grid.holding(vectors, vectors=True))
    return Case(fixed, grid.resample(moving, warp), warp, masks[0])


@lru_cache(maxsize=1)
def case_of(pair: Pair, preset: str, cache: Path) -> Case:
    """Return a pair, aligned and on the working grid of a preset; the last one is remembered: methods run pair by pair."""
    if pair.group.startswith("heads"):
        return known_warp(pair)
    made = aligned(pair, cache)
    fixed, moving = made[preset]
    labels = STRUCTURES if pair.group.startswith("brain") else (GLAND,) if pair.group == "prostate" else ()
    landmarks = LANDMARKS if pair.group == "prostate" else ()
    grid = Geometry.of(fixed)
    # Labels lie on their image's grid.
    view = common_view(made["fl"], made["ml"], made["align"], grid)
    return Case(
        fixed=fixed,
        moving=in_contrast(moving, pair.contrast),
        start=made["align"],
        inside=made["fg"],
        view=None if np.all(sitk.GetArrayViewFromImage(view)) else view,
        moving_smoothed=any(smoothing_mm(made["ml"], grid)),
        fixed_labels=made["fl"],
        moving_labels=made["ml"],
        labels=labels,
        landmarks=landmarks,
    )


def centroids(labels: sitk.Image, values: tuple[int, ...]) -> np.ndarray:
    """Return where labels lie, shape (n, 3), LPS mm; NaN for one that is absent."""
    voxels = sitk.GetArrayViewFromImage(labels)
    places = [np.argwhere(voxels == value)[:, ::-1] for value in values]
    means = [place.mean(axis=0) if len(place) else np.full(3, np.nan) for place in places]
    return Geometry.of(labels).to_lps(np.array(means).reshape(-1, 3))


def measured(case: Case, deformation: sitk.Image | None) -> dict[str, float]:
    """Measure a displacement field (LPS mm, on the working grid), or the start alone where it is None.

    Returns
    -------
    values : "dice", mean over labels on the fixed image's own grid; "mm", mean error of landmarks, or over the foreground for
        a known warp; "folded", percent of the foreground; "sd_log_jacobian". Those that the case does not have are absent.
    """
    start = case.start
    whole = start if deformation is None else composed(start, field_transform(faded(deformation)))
    values = {}
    if case.fixed_labels is None or case.moving_labels is None:
        inside = sitk.GetArrayViewFromImage(case.inside) != 0
        errors = sitk.GetArrayFromImage(displacement_field(whole, Geometry.of(case.inside)))[inside]
        values["mm"] = float(np.linalg.norm(errors, axis=1).mean())
    else:
        warped = nearest(case.moving_labels, Geometry.of(case.fixed_labels), whole)
        found = dice_coefficients(case.fixed_labels, warped)
        values["dice"] = float(np.mean([found.get(label, 0.0) for label in case.labels or found]))
        points = [centroids(labels, case.landmarks) for labels in (case.fixed_labels, case.moving_labels)]
        there = ~np.isnan(np.concatenate(points, axis=1)).any(axis=1)
        if there.any():
            values["mm"] = landmark_error(whole, *(side[there] for side in points)).mean
    if deformation is not None:
        jacobian, inside_grid = jacobian_determinant(deformation), nearest(case.inside, Geometry.of(deformation))
        values["folded"] = folding_percent(jacobian, inside_grid).foreground
        values["sd_log_jacobian"] = sd_log_jacobian(jacobian, inside_grid)
    return values
