"""Registrations of which labels, landmarks or a known warp tell whether deforming helped; see `helpfulness.py`.

Tuned on: the cases whose `use` is "tune". The others share no person, animal or state with them; all atria and all mouse
brains are among the others. The average heads (spm-contrasts) are one space: their contrasts are divided instead.
"""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from contrast import DATA, QUICK, REMAPS
from HyperPredictRegLib.alignment import align, foreground_points
from HyperPredictRegLib.alignment.aligned_pair import AlignedPair
from HyperPredictRegLib.preprocessing.image_set import Inputs, read_inputs
from HyperPredictRegLib.preprocessing.working_grid import common_view, on_grid, working_grid, working_spacing
from HyperPredictRegLib.quality.measurement import nearest
from HyperPredictRegLib.quality.metrics import dice_coefficients, landmark_error
from HyperPredictRegLib.results.job import Job
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.images import read_image
from HyperPredictRegLib.spatial.transforms import displacement_field, field_transform
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

SEED = 20240901
MOST_VOXELS = 90_000
PATTERNS = {
    "heart": ("heart-acdc/{}_img.nii.gz", "heart-acdc/{}_lab.nii.gz"),
    "hippocampus": ("hippocampus-msd04/images/hippocampus_{}.nii.gz", "hippocampus-msd04/labels/hippocampus_{}.nii.gz"),
    "fetal": ("fetal-t2/sb_{}_img.nii.gz", "fetal-t2/sb_{}_lab.nii.gz"),
    "brain": ("brain-t1-nmm/nmm_{}_t1.nii.gz", "brain-t1-nmm/nmm_{}_aseg.nii.gz"),
    "slab": ("brain-slab/{}_img.nii.gz", "brain-slab/{}_lab.nii.gz"),
    "prostate": ("prostate-mr-us/{}_img.nii.gz", "prostate-mr-us/{}_lab.nii.gz"),
    "atrium": ("left-atrium-mr/{}_img.nii.gz", "left-atrium-mr/{}_lab.nii.gz"),
    "mouse": ("mouse-t2/mouse_{}_t2.nii.gz", "mouse-t2/mouse_{}_labels.nii.gz"),
    "skull": ("mouse-skull-ct/{}_img.nii.gz", ""),
    "heads": ("spm-contrasts/{}_img.nii.gz", ""),
    "ct": ("{}_img.nii.gz", ""),
    "ms": ("ms-followup/{}_img.nii.gz", ""),
}
"""Image and labels by domain, below the data folder."""

ANATOMIES = {  # tuning, then test; blanks part the two images of a pair
    "heart": (
        "p001_ed p001_es, p004_ed p004_es, p008_ed p008_es, p003_ed p012_ed, p006_es p015_ed",
        "p026_ed p026_es, p031_ed p031_es, p041_ed p041_es, p033_ed p045_ed, p028_es p038_ed",
    ),
    "hippocampus": ("001 004, 008 014, 020 024, 033 036, 040 042", "193 210, 244 252, 294 301, 332 338, 349 356"),
    "fetal": (
        "ga21_notop ga24_notop, ga23_notop ga25_op, ga25_notop ga26_op", "ga27_op ga30_op, ga29_op ga32_op, ga31_op ga34_op",
    ),
    "brain": ("1000 1001, 1002 1006", "1008 1011, 1012 1015, 1017 1009"),
    "slab": ("s01 s03, s05 s07", "s11 s13, s15 s19"),
    "prostate": ("c00_mr c00_us, c06_mr c06_us, c04_mr c08_mr", "c14_mr c14_us, c20_mr c20_us, c16_mr c22_mr"),
    "skull": (
        "AKR_J SJL_J, FVB_NJ MRL_MPJ, SJL_J FVB_NJ",
        "129S1_SVLMJ BALB_CJ, C3H_HEJ CBA_J, BALB_CBYJ 129X1_SVJ, CBA_CAJ BALB_CJ",
    ),
    "atrium": ("", "la01 la06, la03 la11, la08 la13, la16 la18, la06 la16"),
    "mouse": ("", "01_WT 05_UT, 04_WT 07_WT, 06_WT 10_UT, 14_UT 18_TT"),
}
HEADS = ("t1 t1, t1 pd, pd t1, t1 t2, t2 t1", "t1 epi, epi t1, t2 pd, pd t2, t2 t2")
CT = ("ct-single/chest ct-single/chest", "trunk-ct/trunk trunk-ct/trunk, ct-single/head_average ct-single/head_average")
CHANGES = {  # what else is done to the first pair, the second pair, and so on of a domain
    "heart": ("inverted", "folded", "turned 30", "mirrored", "shifted 15"),
    "hippocampus": ("inverted", "folded", "tissues exchanged", "turned 40", "shifted 25"),
    "fetal": ("inverted", "turned 25", "folded"),
    "brain": ("tissues exchanged", "folded", "inverted"),
    "slab": ("folded", "inverted"),
    "prostate": ("turned 40",),
    "skull": ("turned 30", "shifted 15", "", "mirrored"),
    "atrium": ("inverted", "turned 40", "shifted 25", "mirrored", "noise"),
    "mouse": ("folded", "tissues exchanged", "turned 25", "mirrored"),
}
NONSENSE = (
    "heart/p002_ed hippocampus/050, brain/1001 heart/p005_ed, hippocampus/056 skull/AKR_J, fetal/ga21_notop brain/1006, "
    "slab/s01 heart/p007_es, brain/1000 noise, heart/p009_ed noise, hippocampus/058 noise, brain/1007 mirror, "
    "fetal/ga24_notop heart/p010_ed",
    "mouse/05_UT heart/p027_ed, skull/CBA_J brain/1013, atrium/la01 hippocampus/220, prostate/c18_mr fetal/ga30_op, "
    "atrium/la03 mouse/07_WT, slab/s17 heart/p034_ed, brain/1014 noise, mouse/09_UT noise, fetal/ga33_op noise, "
    "brain/1036 mirror, heart/p040_ed atrium/la11, hippocampus/280 prostate/c24_mr",
)


@dataclass(frozen=True)
class Case:
    """A pair and what is done to it.

    Attributes
    ----------
    use : "tune" or "test".
    domain : a key of `PATTERNS`, or "nonsense".
    fixed, moving : names in the domain; in "nonsense" with the domain before them, or "noise" or "mirror" for the moving one.
    change : a remapping of grey values, "turned DEGREES" or "shifted PERCENT" (of the extent) after the alignment, "mirrored",
        "noise" added to both images, "warp MM"; "" is nothing.
    """

    use: str
    domain: str
    fixed: str
    moving: str
    change: str = ""

    @property
    def name(self) -> str:
        """Return a name for files."""
        return "-".join((self.domain, self.fixed, self.moving, self.change)).replace("/", ".").replace(" ", "_")

    @property
    def seed(self) -> int:
        """Return a seed of its own."""
        return zlib.crc32(self.name.encode())


def cases() -> list[Case]:
    """List all cases, those for tuning first."""
    return [case for n, use in enumerate(("tune", "test")) for case in _of(use, n)]


def _of(use: str, n: int) -> Iterator[Case]:
    for domain, lists in ANATOMIES.items():
        pairs = [two.split() for two in lists[n].split(", ")] if lists[n] else []
        for fixed, moving in pairs:
            yield Case(use, domain, fixed, moving)
        for (fixed, moving), change in zip(pairs, CHANGES[domain], strict=False):
            if change:
                yield Case(use, domain, fixed, moving, change)
    for domain, lists in (("heads", HEADS), ("ct", CT)):
        for fixed, moving in (two.split() for two in lists[n].split(", ")):
            yield Case(use, domain, fixed, moving, "warp 4")
    yield Case(use, "heads", *(("t1", "t1"), ("t2", "t2"))[n], "warp 0.3")
    yield Case(use, "heads", *(("pd", "pd"), ("epi", "epi"))[n], "warp 0.3")
    for fixed, moving in (two.split() for two in NONSENSE[n].split(", ")):
        yield Case(use, "nonsense", fixed, moving)


@dataclass(frozen=True)
class Made:
    """A case, aligned.

    Attributes
    ----------
    inputs : as a job reads them.
    start : the affine step, fixed to moving points.
    warp : for cases with a known warp, leads from moving points to where they should be among the fixed ones; else None.
    """

    inputs: Inputs
    start: sitk.AffineTransform
    warp: sitk.Transform | None


def make(case: Case, cache: Path) -> Made:
    """Read a case, change it as it says, and align it, or take the alignment from the cache."""
    fixed = _files(case.domain, case.fixed)
    nonsense = {"noise": "noise", "mirror": "mirrored"}.get(case.moving, "") if case.domain == "nonsense" else ""
    moving = fixed if nonsense else _files(case.domain, case.moving)
    warp = None
    change = nonsense or case.change
    if change == "mirrored" or nonsense or change.startswith(("warp", "noise")):
        moving = [_written(cache, case, side, change, path) for side, path in zip(("moving", "labels"), moving, strict=True)]
        if change.startswith(("warp", "noise")) and not nonsense:
            fixed = [_noisy(cache, case, fixed[0]), fixed[1]]
        if change.startswith("warp"):
            warp = _warp(case, read_image(moving[0], "image"))
    names = [None if case.domain == "nonsense" or not path else path for path in (fixed[1], moving[1])]
    points = case.domain == "skull" and change != "mirrored"
    marks = [str(DATA / f"mouse-skull-ct/{name}_lms.csv") if points else None for name in (case.fixed, case.moving)]
    job = Job(fixed[0], moving[0], "", fixed_labels=names[0], moving_labels=names[1])
    inputs = read_inputs(replace(job, fixed_landmarks=marks[0], moving_landmarks=marks[1]))
    start = _start(case, inputs, cache)
    if case.change.startswith(("turned", "shifted")):
        start = _wrong(case, inputs, start)
    return Made(inputs, start, warp)


def limited_grid(made: Made, most_voxels: int) -> Geometry:
    """Return the working grid of a pair at Fast, or a coarser one where that has more than about `most_voxels`."""
    fixed, moving = made.inputs.fixed, made.inputs.moving
    spacing = working_spacing(fixed.image, fixed.foreground, "fast")
    grid = working_grid(fixed.foreground, moving.foreground, made.start, spacing)
    coarser = (grid.voxel_count / most_voxels) ** (1 / 3)
    return grid if coarser <= 1 else working_grid(fixed.foreground, moving.foreground, made.start, 1.05 * coarser * spacing)


def grid_pair(case: Case, made: Made) -> AlignedPair:
    """Return the pair on an isotropic grid of at most `MOST_VOXELS`, grey values remapped where the case says so."""
    fixed, moving = made.inputs.fixed, made.inputs.moving
    grid = limited_grid(made, MOST_VOXELS)
    view = common_view(fixed.image, moving.image, made.start, grid, (fixed.missing, moving.missing))
    images = on_grid(fixed.normalised, grid), on_grid(moving.normalised, grid, made.start)
    pair = AlignedPair(grid, *(sitk.Mask(image, view) for image in images), None, None)
    return replace(pair, moving=in_contrast(pair.moving, case.change)) if case.change in REMAPS else pair


def in_contrast(image: sitk.Image, name: str) -> sitk.Image:
    """Return an image (0 to about 1) with the grey values of its anatomy changed."""
    voxels = sitk.GetArrayFromImage(image)
    inside = voxels > 0.03
    changed = np.zeros_like(voxels)
    changed[inside] = 0.08 + 0.8 * REMAPS[name](np.clip(voxels[inside], 0, 1))
    result = sitk.GetImageFromArray(changed)
    result.CopyInformation(image)
    return result


def truth(made: Made, start: sitk.Transform, whole: sitk.Transform, grid: Geometry) -> dict[str, float]:
    """Return mean Dice, or the mean error in working voxels, of the affine step and of the whole transform."""
    inputs = made.inputs
    if made.warp is not None:
        inside = sitk.GetArrayFromImage(nearest(inputs.fixed.foreground, grid)) != 0
        errors = []
        for transform in (start, whole):
            there = displacement_field(sitk.CompositeTransform([made.warp, transform]), grid)
            errors.append(np.linalg.norm(sitk.GetArrayViewFromImage(there)[inside], axis=-1).mean() / min(grid.spacing))
        return {"error_before": float(errors[0]), "error_after": float(errors[1])}
    if inputs.fixed.landmarks is not None and inputs.moving.landmarks is not None:
        before, after = (landmark_error(t, inputs.fixed.landmarks, inputs.moving.landmarks).mean for t in (start, whole))
        return {"error_before": before / min(grid.spacing), "error_after": after / min(grid.spacing)}
    if inputs.fixed.labels is None or inputs.moving.labels is None:
        return {}
    native = Geometry.of(inputs.fixed.image)
    labels = np.intersect1d(*(np.unique(sitk.GetArrayViewFromImage(x)) for x in (inputs.fixed.labels, inputs.moving.labels)))
    found = []
    for transform in (start, whole):
        dice = dice_coefficients(inputs.fixed.labels, nearest(inputs.moving.labels, native, transform))
        found.append(float(np.mean([dice.get(int(label), 0.0) for label in labels if label])))
    return {"dice_before": found[0], "dice_after": found[1]}


def _files(domain: str, name: str) -> list[str]:
    if domain == "nonsense":
        domain, name = name.split("/")
    return [str(DATA / pattern.format(name)) if pattern else "" for pattern in PATTERNS[domain]]


def _written(cache: Path, case: Case, side: str, change: str, path: str) -> str:
    """Write a changed image or label map into the cache; return its path."""
    if not path:
        return path
    out = cache / f"{case.name}-{side}.nrrd"
    if not out.exists():
        image = read_image(path, "image")
        labels = side == "labels"
        if change == "mirrored":
            made = sitk.Flip(image, (True, False, False))
            made.CopyInformation(image)
        elif labels:
            made = image
        elif change.startswith("warp"):
            made = _with_noise(case, Geometry.of(image).resample(image, _warp(case, image)), 1)
        elif case.domain == "nonsense":
            made = _only_noise(case, image)
        else:
            made = _with_noise(case, image, 1)
        sitk.WriteImage(made, str(out), useCompression=True)
    return str(out)


def _noisy(cache: Path, case: Case, path: str) -> str:
    out = cache / f"{case.name}-fixed.nrrd"
    if not out.exists():
        sitk.WriteImage(_with_noise(case, read_image(path, "image"), 2), str(out), useCompression=True)
    return str(out)


def _with_noise(case: Case, image: sitk.Image, stream: int) -> sitk.Image:
    """Add noise: 3 % of the intensity range for warps, 10 % where a case is called noise."""
    voxels = sitk.GetArrayFromImage(image).astype(np.float32)
    share = 0.1 if case.change == "noise" else 0.03
    noise = np.random.default_rng([case.seed, stream]).standard_normal(voxels.shape)
    inside = voxels > voxels.min()
    voxels[inside] += (share * np.ptp(voxels) * noise[inside]).astype(np.float32)
    made = sitk.GetImageFromArray(voxels)
    made.CopyInformation(image)
    return made


def _only_noise(case: Case, image: sitk.Image) -> sitk.Image:
    """Return blobs of noise in the outline of the anatomy."""
    voxels = sitk.GetArrayFromImage(image).astype(np.float32)
    blobs = gaussian_filter(np.random.default_rng(case.seed).standard_normal(voxels.shape), 2.5)
    made = sitk.GetImageFromArray(np.where(voxels > voxels.min(), 100 + 30 * blobs / blobs.std(), 0).astype(np.float32))
    made.CopyInformation(image)
    return made


def _warp(case: Case, image: sitk.Image) -> sitk.Transform:
    """Return a smooth random warp of the length that the case names (95th percentile; in 2 mm voxels of a head's size)."""
    grid = Geometry.of(image)
    scale = (np.prod(grid.extent_mm) ** (1 / 3)) / 200.0
    noise = np.random.default_rng(case.seed).standard_normal((*grid.size[::-1], 3))
    sigmas = [20.0 * scale / s for s in grid.spacing[::-1]]
    vectors = np.stack([gaussian_filter(noise[..., axis], sigmas) for axis in range(3)], axis=-1)
    vectors *= float(case.change.split()[1]) * scale / np.percentile(np.linalg.norm(vectors, axis=-1), 95)
    return field_transform(grid.apply_to(sitk.GetImageFromArray(vectors, isVector=True)))


def _start(case: Case, inputs: Inputs, cache: Path) -> sitk.AffineTransform:
    known = case if case.domain in ("heads", "ct", "ms") or case.change in ("mirrored", "noise") else replace(case, change="")
    stored = cache / f"{known.name}.start.pkl"
    if stored.exists():
        found: sitk.AffineTransform = pickle.loads(stored.read_bytes())
        return found
    sides = inputs.fixed, inputs.moving
    found = align(
        *(side.normalised for side in sides),
        QUICK,
        seed=SEED,
        fixed_foreground=sides[0].foreground,
        moving_foreground=sides[1].foreground,
    ).transform
    stored.write_bytes(pickle.dumps(found))
    return found


def _wrong(case: Case, inputs: Inputs, start: sitk.AffineTransform) -> sitk.AffineTransform:
    """Return a start that is turned about the anatomy's center, or shifted by a share of its size."""
    kind, amount = case.change.split()
    rng = np.random.default_rng(case.seed)
    axis = rng.normal(size=3)
    axis /= np.linalg.norm(axis)
    points = foreground_points(inputs.fixed.foreground)
    turn = sitk.AffineTransform(3)
    turn.SetCenter(points.mean(axis=0).tolist())
    if kind == "turned":
        turn.SetMatrix(Rotation.from_rotvec(np.radians(float(amount)) * axis).as_matrix().ravel().tolist())
    else:
        turn.SetTranslation((float(amount) / 100 * np.ptp(points, axis=0).max() * axis).tolist())
    both = Geometry.of(inputs.fixed.image)
    # Linear after linear is linear: read off at four points.
    corner = np.array(both.origin)
    whole = sitk.CompositeTransform([start, turn])
    at = [np.array(whole.TransformPoint((corner + step).tolist())) for step in (np.zeros(3), *(100 * np.eye(3)))]
    matrix = np.stack([(place - at[0]) / 100 for place in at[1:]], axis=1)
    made = sitk.AffineTransform(3)
    made.SetMatrix(matrix.ravel().tolist())
    made.SetTranslation((at[0] - matrix @ corner).tolist())
    return made
