"""Sample data: a brain template, and what it becomes when it is warped, tilted and scanned anew; the truth is known."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.geometry import Geometry
from HyperPredictRegLib.images import read_image, read_labels
from HyperPredictRegLib.intensity import foreground
from HyperPredictRegLib.job import Distances
from HyperPredictRegLib.quality import summary
from HyperPredictRegLib.transforms import displacement_field, field_transform, inverted

LABEL_NAMES = {4: "left lateral ventricle", 43: "right lateral ventricle", 101: "grey matter", 102: "white matter"}
"""The ventricles have FreeSurfer's codes, by which predictors know them."""

_TILT_DEGREES = (8.0, -6.0, 14.0)
_SHIFT_MM = (9.0, -12.0, 6.0)
_LARGEST_WARP_MM = 7.0
_WARP_SMOOTHNESS_MM = 16.0
_WARP_SPACING_MM = 4.0
_NOISE = 0.03
_SHADING = 0.15
_GAMMA = 0.8
_MOVING_SPACING_MM = 1.8


@dataclass(frozen=True)
class SamplePair:
    """Two scans of which it is known how one was made from the other.

    Attributes
    ----------
    fixed, moving : uint8 and uint16 images, each on its own grid (LPS mm).
    fixed_labels, moving_labels : uint8 label maps on the grids of their images.
    label_names : name of each label.
    truth : what a registration should find; maps fixed to moving points, LPS mm.
    """

    fixed: sitk.Image
    moving: sitk.Image
    fixed_labels: sitk.Image
    moving_labels: sitk.Image
    truth: sitk.Transform
    label_names: Mapping[int, str] = field(default_factory=lambda: dict(LABEL_NAMES))


def made_pair(seed: int = 7) -> SamplePair:
    """Make a pair from the brain template that comes with this extension; the same seed makes the same voxels.

    Parameters
    ----------
    seed : of the warp and of the noise.

    Raises
    ------
    InputError : the template is not where the installation should have put it.
    """
    folder = _folder()
    fixed = read_image(folder / "brain.nrrd", "sample brain")
    fixed_labels = sitk.Cast(read_labels(folder / "brain-labels.nrrd", Geometry.of(fixed), "sample labels"), sitk.sitkUInt8)
    to_fixed = true_warp(fixed, seed)
    moving, moving_labels = moving_scan(fixed, fixed_labels, to_fixed, _MOVING_SPACING_MM, seed)
    return SamplePair(fixed, moving, fixed_labels, moving_labels, inverted(to_fixed, Geometry.of(fixed)))


def true_warp(fixed: sitk.Image, seed: int) -> sitk.Transform:
    """Return the map from moving to fixed points: a tilt about the image's centre after a smooth random warp (LPS mm)."""
    grid = Geometry.of(fixed)
    coarse = grid.covering(grid.corners_lps(), _WARP_SPACING_MM, 60.0)
    random = np.random.default_rng(seed)
    sigma = _WARP_SMOOTHNESS_MM / _WARP_SPACING_MM
    vectors = np.stack([gaussian_filter(random.normal(size=coarse.size[::-1]), sigma) for _ in range(3)], axis=-1)
    vectors *= _LARGEST_WARP_MM / np.linalg.norm(vectors, axis=-1).max()
    warp = field_transform(coarse.apply_to(sitk.GetImageFromArray(vectors, isVector=True)))
    tilt = sitk.Euler3DTransform(tuple(grid.centre_lps), *np.deg2rad(_TILT_DEGREES).tolist(), _SHIFT_MM)
    # A composite applies its last part first.
    return sitk.CompositeTransform([tilt, warp])


def moving_scan(
    fixed: sitk.Image, labels: sitk.Image, to_fixed: sitk.Transform, spacing: float, seed: int
) -> tuple[sitk.Image, sitk.Image]:
    """Return a brain and its labels as another scanner would see them: moved, with other contrast, shaded and noisy.

    Parameters
    ----------
    fixed, labels : skull-stripped brain, background 0, and labels on its grid.
    to_fixed : moving to fixed points, LPS mm.
    spacing : voxel edge of the new scan in mm.
    seed : of the noise.
    """
    grid = Geometry.of(fixed)
    wide = grid.covering(grid.corners_lps(), spacing, 15.0)
    brightest = float(sitk.GetArrayViewFromImage(fixed).max())
    brain = sitk.GetArrayFromImage(wide.resample(sitk.Cast(fixed, sitk.sitkFloat32) / brightest, to_fixed))
    inside = sitk.GetArrayFromImage(wide.resample(foreground(fixed), to_fixed, interpolator=sitk.sitkNearestNeighbor)) > 0
    shading = 1 + _SHADING * np.linspace(-1, 1, brain.shape[1])[None, :, None]
    contrast = np.where(inside, np.clip(brain, 0, None) ** _GAMMA * shading, 0.0)
    noisy = np.abs(contrast + np.random.default_rng(seed).normal(scale=_NOISE, size=brain.shape))
    moving = wide.apply_to(sitk.GetImageFromArray(np.rint(1000 * noisy).astype(np.uint16)))
    return moving, wide.resample(labels, to_fixed, interpolator=sitk.sitkNearestNeighbor)


def error_against(truth: sitk.Transform, found: sitk.Transform, fixed: sitk.Image) -> Distances:
    """Return how far apart two transforms take the points of the fixed foreground, in mm.

    Parameters
    ----------
    truth, found : fixed to moving points, LPS mm.
    fixed : the fixed image.
    """
    grid = Geometry.of(fixed)
    apart = displacement_field(found, grid) - displacement_field(truth, grid)
    inside = sitk.GetArrayViewFromImage(foreground(fixed)) != 0
    return summary(np.linalg.norm(sitk.GetArrayViewFromImage(apart)[inside], axis=1))


def _folder() -> Path:
    """Return the folder of the template: in ``Resources`` beside the library, or where pip puts it."""
    library = Path(__file__).resolve().parent
    places = library.parent / "Resources" / "SampleData", Path(sys.prefix) / "share" / "hyperpredictreg" / "sample"
    for folder in places:
        if (folder / "brain.nrrd").is_file():
            return folder
    raise InputError(
        f"The sample brain is in neither '{places[0]}' nor '{places[1]}', so there is no sample data: reinstall the extension."
    )
