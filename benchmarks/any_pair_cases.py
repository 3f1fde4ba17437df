"""Pairs of twelve kinds of images of which labels, landmarks or a known warp tell what registration is worth; see `any_pair.py`.

Settings and rules are tuned on the cases whose `use` is "tune"; those for "test" share no person, animal or state with them. Two
kinds have too few subjects for that: of the average heads contrasts are divided, and of the CTs volumes. "turned" and "shifted"
are starts that failed on purpose. The list, with the seeds, is `results/any-pair/cases.csv`.
"""

from __future__ import annotations

import csv
import itertools
import pickle
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from contrast import REMAPS
from helpfulness_cases import DATA, Case, Made, in_contrast, limited_grid, make
from HyperPredictRegLib.alignment import AlignmentSettings, align, foreground_points
from HyperPredictRegLib.alignment.aligned_pair import AlignedPair
from HyperPredictRegLib.preprocessing.intensity import foreground, normalised
from HyperPredictRegLib.preprocessing.working_grid import common_view, on_grid, smoothing_mm, working_grid, working_spacing
from HyperPredictRegLib.quality.measurement import nearest
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import inverse_points, transformed_points
from starts import SEED as STARTS_SEED
from starts import affine_fit

FOLDER = Path(__file__).resolve().parent / "results" / "any-pair"
MOST_VOXELS = 120_000
"""The truth is measured at Fast, or, where that is larger, on a grid of at most about this many voxels."""

DOMAINS = {  # folder of `helpfulness_cases.PATTERNS`; tuning; test: fixed, moving, what is done
    "brain": (
        "brain", "1000 1001, 1002 1006, 1007 1000, 1006 1001 turned 20",
        "1008 1011, 1012 1015, 1017 1009, 1009 1010, 1013 1014, 1015 1036, 1036 1013 shifted 12",
    ),
    "brain, other contrast": (
        "brain", "1001 1002 inverted, 1006 1007 folded, 1000 1002 tissues exchanged",
        "1010 1014 inverted, 1013 1008 folded, 1009 1012 tissues exchanged, 1011 1017 inverted, 1012 1008 folded, "
        "1014 1036 tissues exchanged, 1015 1036 hat",
    ),
    "heart": (
        "heart", "p001_ed p001_es, p004_ed p004_es, p003_ed p012_ed, p006_es p015_ed, p008_ed p008_es shifted 10",
        "p026_ed p026_es, p027_ed p027_es, p031_ed p031_es, p033_ed p045_ed, p041_ed p041_es, p029_ed p029_es, p036_ed p047_ed, "
        "p028_es p038_ed turned 25",
    ),
    "atrium": (
        "atrium", "la01 la06, la03 la08, la08 la01, la06 la03 shifted 20",
        "la11 la13, la16 la18, la18 la11, la13 la18, la16 la11, la13 la16 turned 30"
    ),
    "hippocampus": (
        "hippocampus", "001 004, 008 014, 020 024, 033 036 turned 30",
        "193 210, 244 252, 294 301, 349 356, 210 252, 301 338, 332 338 shifted 20"
    ),
    "mouse brain": (
        "mouse", "14_UT 18_TT, 15_WT 11_UT, 20_TT 16_UT, 21_TT 22_TT shifted 10",
        "01_WT 05_UT, 04_WT 07_WT, 06_WT 10_UT, 05_UT 09_UT, 10_UT 03_UT, 07_WT 01_WT, 03_UT 09_UT turned 15",
    ),
    "fetal brain": (
        "fetal", "ga21_notop ga24_notop, ga23_notop ga25_op, ga25_notop ga26_op, ga22_notop ga25_op shifted 15",
        "ga27_op ga30_op, ga29_op ga32_op, ga31_op ga34_op, ga27_op ga29_op, ga33_op ga31_op, ga34_op ga28_op, "
        "ga28_op ga33_op turned 30",
    ),
    "mouse skull": (
        "skull", "AKR_J SJL_J, FVB_NJ MRL_MPJ, SJL_J FVB_NJ, MRL_MPJ AKR_J turned 20",
        "129S1_SVLMJ BALB_CJ, C3H_HEJ CBA_J, BALB_CBYJ 129X1_SVJ, C3H_HEOUJ CBA_CAJ, 129X1_SVJ C3H_HEJ, "
        "CBA_CAJ BALB_CJ shifted 12",
    ),
    "MS follow-up": (
        "ms", "p01_v1_t1 p01_v2_t1 warp 3, p01_v1_flair p01_v2_flair warp 2, p01_v1_t1 p01_v2_flair warp 3, "
        "p01_v2_t1 p01_v2_t1 warp 0.5",
        "p12_v1_t1 p12_v2_t1 warp 3, p12_v1_flair p12_v2_flair warp 2, p12_v1_t1 p12_v2_flair warp 3, "
        "p12_v1_flair p12_v2_flair warp 1, p12_v1_t1 p12_v2_t1 warp 2, p12_v2_t1 p12_v2_t1 warp 0.5",
    ),
    "CT": (
        "ct", "ct-single/chest ct-single/chest warp 4, ct-single/chest ct-single/chest warp 8, "
        "ct-single/head_average ct-single/head_average warp 6",
        "trunk-ct/trunk trunk-ct/trunk warp 4, trunk-ct/trunk trunk-ct/trunk warp 8, "
        "trunk-ct/trunk_upper trunk-ct/trunk_upper warp 3, trunk-ct/trunk trunk-ct/trunk warp 2, "
        "trunk-ct/trunk trunk-ct/trunk warp 1",
    ),
    "average heads": (
        "heads", "t1 t1 warp 4, t1 t2 warp 4, t2 t1 warp 6, t1 t1 warp 0.3",
        "pd pd warp 4, pd epi warp 4, epi pd warp 6, pd epi warp 2, epi pd warp 3, epi epi warp 1",
    ),
    "prostate MR-US": (
        "prostate", "c00_mr c00_us, c06_mr c06_us, c04_mr c08_mr, c02_mr c02_us turned 40",
        "c14_mr c14_us, c20_mr c20_us, c16_mr c22_mr, c24_mr c24_us, c26_mr c26_us, c18_mr c18_us shifted 20",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class AnyCase:
    """A case and the domain that it counts to."""

    domain: str
    case: Case


def cases() -> list[AnyCase]:
    """List all cases, in the order in which they are run: one of each domain in turn, for tuning and for test by turns.

    Starts that failed on purpose come second, so that a run that is stopped early has some.
    """
    by_domain = []
    for domain, (folder, *uses) in DOMAINS.items():
        listed = [
            [_case(use, folder, words) for words in text.split(", ")] for use, text in zip(("tune", "test"), uses, strict=True)
        ]
        for some in listed:
            some.insert(1, some.pop())
        turns = [case for both in itertools.zip_longest(*listed) for case in both if case is not None]
        by_domain.append([AnyCase(domain, case) for case in turns])
    return [case for row in itertools.zip_longest(*by_domain) for case in row if case is not None]


def write_list() -> None:
    """Write the list of cases."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "cases.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("pair", "domain", "use", "fixed", "moving", "change", "seed"))
        for one in cases():
            case = one.case
            writer.writerow((case.name, one.domain, case.use, case.fixed, case.moving, case.change, case.seed))


def _case(use: str, folder: str, words: str) -> Case:
    fixed, moving, *change = words.split()
    return Case(use, folder, fixed, moving, " ".join(change))


def made_case(case: Case, cache: Path) -> Made:
    """Read, change and align a case: skulls, which lie in any pose, as a job is aligned, all others on coarse levels only."""
    stored = _stored(case, cache)
    if case.domain == "skull" and not stored.exists():
        sides = [sitk.ReadImage(str(DATA / f"mouse-skull-ct/{name}_img.nii.gz")) for name in (case.fixed, case.moving)]
        _store_aligned(sides, stored)
    return make(case, cache)


def _store_aligned(sides: list[sitk.Image], stored: Path) -> None:
    masks = [foreground(side) for side in sides]
    images = [normalised(side, mask) for side, mask in zip(sides, masks, strict=True)]
    found = align(*images, AlignmentSettings(), seed=STARTS_SEED, fixed_foreground=masks[0], moving_foreground=masks[1])
    stored.write_bytes(pickle.dumps(found.transform))


def on_truth_grid(case: Case, made: Made, preset: str = "") -> AlignedPair:
    """Return the pair on the grid that the truth is measured on, grey values remapped where the case says so.

    `preset` : whose working grid to take, however large; "" is Fast on at most `MOST_VOXELS`.
    """
    fixed, moving = made.inputs.fixed, made.inputs.moving
    grid = limited_grid(made, MOST_VOXELS)
    if preset:
        spacing = working_spacing(fixed.image, fixed.foreground, preset)
        grid = working_grid(fixed.foreground, moving.foreground, made.start, spacing)
    view = common_view(fixed.image, moving.image, made.start, grid, (fixed.missing, moving.missing))
    images = on_grid(fixed.normalised, grid), on_grid(moving.normalised, grid, made.start)
    pair = AlignedPair(
        grid,
        *(sitk.Mask(image, view) for image in images),
        None,
        None,
        view=None if np.all(sitk.GetArrayViewFromImage(view)) else view,
        moving_smoothed=any(smoothing_mm(moving.image, grid)),
    )
    return replace(pair, moving=in_contrast(pair.moving, case.change)) if case.change in REMAPS else pair


def reference(case: Case) -> sitk.Transform:
    """Return what leads from fixed to moving points where there was no warp: the reference of a follow-up, or the identity."""
    if case.domain == "ms" and case.fixed.split("_")[1] != case.moving.split("_")[1]:
        person = case.fixed.split("_")[0]
        return sitk.ReadTransform(str(DATA / f"ms-followup/{person}_v1_to_v2_affine.tfm"))
    return sitk.Transform(3, sitk.sitkIdentity)


def misfit_voxels(case: Case, made: Made, cache: Path) -> float:
    """Return how far the start is from the best affine one, in voxels, over the fixed landmarks or foreground; NaN if unknown.

    Of a start that was turned or shifted, from the one that was found; a voxel as in `starts.py`.
    """
    fixed = made.inputs.fixed
    voxel = min(working_spacing(fixed.image, fixed.foreground, "fast"), float(np.prod(fixed.image.GetSpacing()) ** (1 / 3)))
    if fixed.landmarks is not None and made.inputs.moving.landmarks is not None:
        points, there = fixed.landmarks, made.inputs.moving.landmarks
    else:
        points = foreground_points(fixed.foreground, 400)
        if made.warp is not None:
            through = transformed_points(reference(case), points)
            there = inverse_points(made.warp, through, through).points
        elif case.change.startswith(("turned", "shifted")):
            there = transformed_points(pickle.loads(_stored(case, cache).read_bytes()), points)
        else:
            return float("nan")
    matrix = affine_fit(np.asarray(points), np.asarray(there))
    best = points @ matrix[:3, :3].T + matrix[:3, 3]
    return float(np.linalg.norm(transformed_points(made.start, points) - best, axis=1).mean() / voxel)


def _stored(case: Case, cache: Path) -> Path:
    return cache / f"{replace(case, change='').name}.start.pkl"


def label_overlap(made: Made) -> float:
    """Return Dice of all labels together by the start alone, NaN without labels."""
    sides = made.inputs.fixed, made.inputs.moving
    if any(side.labels is None for side in sides):
        return float("nan")
    grid = made.inputs.fixed.labels
    one = sitk.GetArrayViewFromImage(grid) != 0
    other = sitk.GetArrayFromImage(nearest(sides[1].labels, Geometry.of(grid), made.start)) != 0
    return float(2 * (one & other).sum() / max(1, one.sum() + other.sum()))
