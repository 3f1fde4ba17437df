"""Register two scans of a brain, one warped, tilted and shaded, λ chosen by the predictor, and compare with the truth.

Needs no data and no network: the brain is the MNI152 template that comes with the package nilearn.

Run it with `make demo`. It prints the error in millimetres before and after, and where the results and pictures are.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import SimpleITK as sitk
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import inverted, read_transform
from HyperPredictRegLib.workflow.sample import error_against, fixed_scan, moving_scan, true_warp
from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template

OUT = Path("demo-output")
SEED = 7
MOVING_SPACING_MM = 1.1


def template(folder: Path) -> tuple[sitk.Image, sitk.Image]:
    """Return the MNI152 T1 template and its gray (1) and white matter (2) as labels, both at 1 mm."""
    images = []
    for name, load in (("t1", load_mni152_template), ("gm", load_mni152_gm_template), ("wm", load_mni152_wm_template)):
        path = folder / f"{name}.nii.gz"
        load(resolution=1).to_filename(path)
        images.append(sitk.ReadImage(str(path), sitk.sitkFloat32))
    brain, gray, white = images
    labels = sitk.Cast(gray > 0.5, sitk.sitkUInt8) + 2 * sitk.Cast(sitk.And(white > 0.5, gray <= 0.5), sitk.sitkUInt8)
    return brain, labels


def main() -> int:
    """Make the pair, run the command as a user would, and print the error against the truth."""
    from HyperPredictRegLib.cli import app

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        brain, fixed_labels = template(Path(scratch))
    to_fixed = true_warp(brain, SEED)
    fixed = fixed_scan(brain, SEED)
    moving, moving_labels = moving_scan(brain, fixed_labels, to_fixed, MOVING_SPACING_MM, SEED)
    truth = inverted(to_fixed, Geometry.of(fixed))
    pair = OUT / "input"
    pair.mkdir(parents=True, exist_ok=True)
    images = {"fixed": fixed, "fixed-labels": fixed_labels, "moving": moving, "moving-labels": moving_labels}
    for name, image in images.items():
        sitk.WriteImage(image, str(pair / f"{name}.nrrd"), useCompression=True)
    (pair / "names.csv").write_text("label,name\n1,gray matter\n2,white matter\n")

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
        distances = error_against(truth, transform, fixed)
        errors[step] = {"mean_mm": distances.mean, "p95_mm": distances.p95, "maximum_mm": distances.maximum}
        print(f"  {step:<22} mean {distances.mean:6.2f} mm   95 % below {distances.p95:6.2f} mm")
    (result / "error-against-truth.json").write_text(json.dumps(errors, indent=2) + "\n")
    print(f"\nOpen {result / 'report.html'} in a browser, and {result / 'scene.mrb'} in 3D Slicer.")
    print(f"Took {time.perf_counter() - started:.0f} s in all.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
