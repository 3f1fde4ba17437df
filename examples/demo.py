"""Register a brain to a warped, tilted, shaded, noisy copy of itself, λ chosen by the predictor, and compare with the truth.

Needs no data and no network: the brain is the MNI152 template that comes with the package nilearn.

Run it with `make demo`. It prints the error in millimetres before and after, and where the results and pictures are.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from HyperPredictRegLib.geometry import Geometry
from HyperPredictRegLib.intensity import foreground
from HyperPredictRegLib.quality import summary
from HyperPredictRegLib.transforms import displacement_field, field_transform, read_transform
from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template
from scipy.ndimage import gaussian_filter

OUT = Path("demo-output")
SEED = 7
TILT_DEGREES = (8.0, -6.0, 14.0)
SHIFT_MM = (9.0, -12.0, 6.0)
LARGEST_WARP_MM = 7.0
WARP_SMOOTHNESS_MM = 16.0
NOISE = 0.03
SHADING = 0.15
GAMMA = 0.8


def template(folder: Path) -> tuple[sitk.Image, sitk.Image]:
    """Return the MNI152 T1 template and its grey (1) and white matter (2) as labels, both at 1 mm."""
    images = []
    for name, load in (("t1", load_mni152_template), ("gm", load_mni152_gm_template), ("wm", load_mni152_wm_template)):
        path = folder / f"{name}.nii.gz"
        load(resolution=1).to_filename(path)
        images.append(sitk.ReadImage(str(path), sitk.sitkFloat32))
    brain, grey, white = images
    labels = sitk.Cast(grey > 0.5, sitk.sitkUInt8) + 2 * sitk.Cast(sitk.And(white > 0.5, grey <= 0.5), sitk.sitkUInt8)
    return brain, labels


def true_warp(fixed: sitk.Image) -> sitk.Transform:
    """Return the known map from moving to fixed points: a tilt about the brain's centre after a smooth random warp."""
    grid = Geometry.of(fixed)
    coarse = grid.covering(grid.corners_lps(), 4.0, 60.0)
    random = np.random.default_rng(SEED)
    sigma = WARP_SMOOTHNESS_MM / 4.0
    vectors = np.stack([gaussian_filter(random.normal(size=coarse.size[::-1]), sigma) for _ in range(3)], axis=-1)
    vectors *= LARGEST_WARP_MM / np.linalg.norm(vectors, axis=-1).max()
    warp = field_transform(coarse.apply_to(sitk.GetImageFromArray(vectors, isVector=True)))
    tilt = sitk.Euler3DTransform(tuple(grid.centre_lps), *np.deg2rad(TILT_DEGREES).tolist(), SHIFT_MM)
    # A composite applies its last part first.
    return sitk.CompositeTransform([tilt, warp])


def moving_scan(fixed: sitk.Image, labels: sitk.Image, to_fixed: sitk.Transform) -> tuple[sitk.Image, sitk.Image]:
    """Return the brain as another scanner would see it: warped, tilted, with less contrast, shaded and noisy."""
    grid = Geometry.of(fixed)
    wide = grid.covering(grid.corners_lps(), 1.1, 15.0)
    brain = sitk.GetArrayFromImage(wide.resample(fixed, to_fixed))
    inside = sitk.GetArrayFromImage(wide.resample(foreground(fixed), to_fixed, interpolator=sitk.sitkNearestNeighbor)) > 0
    shading = 1 + SHADING * np.linspace(-1, 1, brain.shape[1])[None, :, None]
    contrast = np.where(inside, np.clip(brain, 0, None) ** GAMMA * shading, 0.0)
    noisy = np.abs(contrast + np.random.default_rng(SEED).normal(scale=NOISE, size=brain.shape))
    moving = wide.apply_to(sitk.GetImageFromArray(np.rint(1000 * noisy).astype(np.uint16)))
    return moving, wide.resample(labels, to_fixed, interpolator=sitk.sitkNearestNeighbor)


def error_mm(transform: sitk.Transform, to_fixed: sitk.Transform, fixed: sitk.Image) -> np.ndarray:
    """Return how far, in mm, points of the brain end from where they started after `transform` and the true way back."""
    mask = foreground(fixed)
    there_and_back = displacement_field(sitk.CompositeTransform([to_fixed, transform]), Geometry.of(fixed))
    inside = sitk.GetArrayViewFromImage(mask) != 0
    return np.linalg.norm(sitk.GetArrayViewFromImage(there_and_back)[inside], axis=1)


def main() -> int:
    """Make the pair, run the command as a user would, and print the error against the truth."""
    from HyperPredictRegLib.cli import app

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        fixed, fixed_labels = template(Path(scratch))
    to_fixed = true_warp(fixed)
    moving, moving_labels = moving_scan(fixed, fixed_labels, to_fixed)
    pair = OUT / "input"
    pair.mkdir(parents=True, exist_ok=True)
    images = {"fixed": fixed, "fixed-labels": fixed_labels, "moving": moving, "moving-labels": moving_labels}
    for name, image in images.items():
        sitk.WriteImage(image, str(pair / f"{name}.nrrd"), useCompression=True)
    (pair / "names.csv").write_text("label,name\n1,grey matter\n2,white matter\n")

    result = OUT / "result"
    command = ["register", str(pair / "fixed.nrrd"), str(pair / "moving.nrrd"), "--out", str(result)]
    command += ["--fixed-labels", str(pair / "fixed-labels.nrrd"), "--moving-labels", str(pair / "moving-labels.nrrd")]
    command += ["--label-names", str(pair / "names.csv"), "--scene", "scene.mrb", "--overwrite"]
    print("hyperpredictreg", *command)
    app(command, standalone_mode=False)

    found = read_transform(result / "transform.h5", "result")
    steps = {
        "before": sitk.Transform(3, sitk.sitkIdentity),
        "after the affine step": sitk.CompositeTransform(found).GetNthTransform(0),
        "after registration": found,
    }
    print("\nError against the known truth, over the whole brain:")
    errors = {}
    for step, transform in steps.items():
        distances = summary(error_mm(transform, to_fixed, fixed))
        errors[step] = {"mean_mm": distances.mean, "p95_mm": distances.p95, "maximum_mm": distances.maximum}
        print(f"  {step:<22} mean {distances.mean:6.2f} mm   95 % below {distances.p95:6.2f} mm")
    (result / "error-against-truth.json").write_text(json.dumps(errors, indent=2) + "\n")
    print(f"\nOpen {result / 'report.html'} in a browser, and {result / 'scene.mrb'} in 3D Slicer.")
    print(f"Took {time.perf_counter() - started:.0f} s in all.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
