"""Make the brain that sample data is made from: a small T1 template and a few of its structures as labels.

Run `python docs/make_sample_brain.py` from anywhere, after `pip install nilearn`. The template is the ICBM 152 nonlinear average
of 2009, release a, as nilearn carries it; Resources/SampleData/LICENSE-brain.txt holds its licence. Nothing is downloaded.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template
from scipy import ndimage

TARGET = Path(__file__).resolve().parent.parent / "HyperPredictReg" / "Resources" / "SampleData"
SPACING_MM = 1
MARGIN_VOXELS = 4
# Seven bits: with the noise that scans of it get, nobody sees the steps, and the file is a quarter smaller.
BRIGHTEST = 127
DARKER_THAN_TISSUE = 0.52
DEEP_INSIDE_MM = 14.0
# FreeSurfer's codes, by which predictors know structures.
LEFT_VENTRICLE, RIGHT_VENTRICLE, LEFT_WHITE, RIGHT_WHITE = 4, 43, 2, 41
# Where the midbrain is cut through: RAS mm, from and to. White matter of the cerebrum goes on into the brain stem nowhere else.
MIDBRAIN = ((-25.0, -45.0, -11.0), (25.0, 0.0, -10.0))


def templates() -> list[sitk.Image]:
    """Return the T1 image (0 to 1), and the probabilities of grey and of white matter."""
    images = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.nii.gz"
        for load in (load_mni152_template, load_mni152_gm_template, load_mni152_wm_template):
            load(resolution=SPACING_MM).to_filename(path)
            images.append(sitk.ReadImage(str(path), sitk.sitkFloat32))
    return images


def lateral_ventricles(t1: np.ndarray, tissue: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the left and the right lateral ventricle: the largest two parts of the fluid deep inside that keep off the midline.

    Parameters
    ----------
    t1, tissue : intensities and probability of grey or white matter, order (k, j, i), i running from left to right.
    """
    brain = ndimage.binary_fill_holes(ndimage.binary_closing(t1 > 0.02, iterations=2))
    # The template is cut off below; a layer of nothing under it keeps the cut from counting as the inside.
    depth = ndimage.distance_transform_edt(np.pad(brain, 1))[1:-1, 1:-1, 1:-1] * SPACING_MM
    fluid = (t1 > 0.02) & (t1 < DARKER_THAN_TISSUE) & (tissue < 0.5) & (depth > DEEP_INSIDE_MM)
    parts, _ = ndimage.label(fluid)
    sizes = np.bincount(parts.ravel())
    sizes[np.unique(parts[:, :, t1.shape[2] // 2])] = 0
    one, other = (parts == n for n in np.argsort(sizes)[-2:])
    return (one, other) if np.nonzero(one)[2].mean() < np.nonzero(other)[2].mean() else (other, one)


def cerebral_white_matter(brain: sitk.Image, white: np.ndarray) -> np.ndarray:
    """Return where the white matter of the cerebrum is: without cerebellum and brain stem, which are cut off at the midbrain.

    Parameters
    ----------
    brain : says where voxels lie.
    white : probability of white matter, order (k, j, i).
    """
    likely = white > 0.5
    ends = np.array([brain.TransformPhysicalPointToIndex((-x, -y, z))[::-1] for x, y, z in MIDBRAIN])
    connected = likely.copy()
    connected[tuple(slice(a, b + 1) for a, b in zip(ends.min(axis=0), ends.max(axis=0), strict=True))] = False
    parts, _ = ndimage.label(connected)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray(parts == sizes.argmax())


def main() -> None:
    """Write the template and its labels."""
    brain, *tissues = templates()
    t1, grey, white = (sitk.GetArrayFromImage(image) for image in (brain, *tissues))
    labels = np.zeros(t1.shape, np.uint8)
    cerebrum = cerebral_white_matter(brain, white)
    middle = t1.shape[2] // 2
    labels[:, :, :middle][cerebrum[:, :, :middle]] = LEFT_WHITE
    labels[:, :, middle:][cerebrum[:, :, middle:]] = RIGHT_WHITE
    for value, part in zip((LEFT_VENTRICLE, RIGHT_VENTRICLE), lateral_ventricles(t1, grey + white), strict=True):
        labels[part] = value
    low, high = [], []
    for axis in range(3):
        inside = np.flatnonzero((t1 > 0.02).any(axis=tuple(a for a in range(3) if a != 2 - axis)))
        low.append(int(max(0, inside[0] - MARGIN_VOXELS)))
        high.append(int(min(t1.shape[2 - axis], inside[-1] + 1 + MARGIN_VOXELS)))
    grid = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    for name, voxels in (("brain", np.rint(BRIGHTEST * np.clip(t1, 0, 1)).astype(np.uint8)), ("brain-labels", labels)):
        image = sitk.GetImageFromArray(voxels)
        image.CopyInformation(brain)
        sitk.WriteImage(image[grid], str(TARGET / f"{name}.nrrd"), useCompression=True)


if __name__ == "__main__":
    main()
