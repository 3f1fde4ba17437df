"""Sample data: a brain template, and two scans of it, one warped and tilted; how they belong together is known."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.preprocessing.intensity import foreground
from HyperPredictRegLib.quality.metrics import summary
from HyperPredictRegLib.results.report import Distances
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.images import read_image, read_labels
from HyperPredictRegLib.spatial.transforms import displacement_field, field_transform, inverted

LABEL_NAMES = {
    2: "left cerebral white matter",
    4: "left lateral ventricle",
    41: "right cerebral white matter",
    43: "right lateral ventricle",
}
"""FreeSurfer's codes and names, by which predictors know structures."""

_TILT_DEGREES = (8.0, -6.0, 14.0)
_SHIFT_MM = (9.0, -12.0, 6.0)
_LARGEST_WARP_MM = 8.0
_WARP_SMOOTHNESS_MM = 14.0
_WARP_SPACING_MM = 3.0
_NOISE = 0.03
_SHADING = 0.15
# In the template, an average, fluid is half as bright as tissue: to these powers it has the contrast of one person's scan.
_FIXED_GAMMA = 2.0
_MOVING_GAMMA = 1.8
_BRIGHTEST = 200
_MOVING_SPACING_MM = 1.0


@dataclass(frozen=True)
class SamplePair:
    """Two scans of which it is known how one was made from the other.

    Attributes
    ----------
    fixed, moving : uint8 images with 0 around the brain, each on its own grid (LPS mm).
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
    template = read_image(folder / "brain.nrrd", "sample brain")
    fixed_labels = sitk.Cast(read_labels(folder / "brain-labels.nrrd", Geometry.of(template), "sample labels"), sitk.sitkUInt8)
    to_fixed = true_warp(template, seed)
    moving, moving_labels = moving_scan(template, fixed_labels, to_fixed, _MOVING_SPACING_MM, seed)
    truth = inverted(to_fixed, Geometry.of(template))
    return SamplePair(fixed_scan(template, seed), moving, fixed_labels, moving_labels, truth)


def true_warp(fixed: sitk.Image, seed: int) -> sitk.Transform:
    """Return the map from moving to fixed points: a tilt about the image's centre after a smooth random warp (LPS mm)."""
    grid = Geometry.of(fixed)
    coarse = grid.covering(grid.corners_lps(), _WARP_SPACING_MM, 40.0)
    random = np.random.default_rng(seed)
    sigma = _WARP_SMOOTHNESS_MM / _WARP_SPACING_MM
    vectors = np.stack([gaussian_filter(random.normal(size=coarse.size[::-1]), sigma) for _ in range(3)], axis=-1)
    vectors *= _LARGEST_WARP_MM / np.linalg.norm(vectors, axis=-1).max()
    warp = field_transform(coarse.apply_to(sitk.GetImageFromArray(vectors, isVector=True)))
    tilt = sitk.Euler3DTransform(tuple(grid.centre_lps), *np.deg2rad(_TILT_DEGREES).tolist(), _SHIFT_MM)
    # A composite applies its last part first.
    return sitk.CompositeTransform([tilt, warp])


def fixed_scan(template: sitk.Image, seed: int) -> sitk.Image:
    """Return a brain as a scanner would see it, on its own grid: with a person's contrast, and noisy.

    Parameters
    ----------
    template : skull-stripped brain, background 0.
    seed : of the noise.
    """
    return _scanned(_unit(template), foreground(template), _FIXED_GAMMA, 0.0, np.random.default_rng((seed, 0)))


def moving_scan(
    template: sitk.Image, labels: sitk.Image, to_fixed: sitk.Transform, spacing: float, seed: int
) -> tuple[sitk.Image, sitk.Image]:
    """Return a brain and its labels as another scanner would see them: moved, with other contrast, shaded and noisy.

    Parameters
    ----------
    template, labels : skull-stripped brain, background 0, and labels on its grid.
    to_fixed : moving to fixed points, LPS mm.
    spacing : voxel edge of the new scan in mm.
    seed : of the noise.
    """
    grid = Geometry.of(template)
    wide = grid.covering(grid.corners_lps(), spacing, 15.0)
    inside = wide.resample(foreground(template), to_fixed, interpolator=sitk.sitkNearestNeighbor)
    random = np.random.default_rng((seed, 1))
    moving = _scanned(wide.resample(_unit(template), to_fixed), inside, _MOVING_GAMMA, _SHADING, random)
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


def _unit(template: sitk.Image) -> sitk.Image:
    """Return a brain whose bright tissue is 1, float32."""
    voxels = sitk.GetArrayViewFromImage(template)
    return sitk.Cast(template, sitk.sitkFloat32) / float(np.percentile(voxels[voxels > 0], 98))


def _scanned(brain: sitk.Image, inside: sitk.Image, gamma: float, shading: float, random: np.random.Generator) -> sitk.Image:
    """Return a uint8 scan of a brain of brightness 0 to 1: to a power, shaded from back to front, noisy, and stripped to 0."""
    mask = sitk.GetArrayViewFromImage(inside) != 0
    shape = (1, mask.shape[1], 1)
    slope = 1 + shading * np.broadcast_to(np.linspace(-1, 1, mask.shape[1]).reshape(shape), mask.shape)[mask]
    tissue = np.clip(sitk.GetArrayViewFromImage(brain)[mask], 0, None) ** gamma * slope
    noisy = np.abs(tissue + random.normal(scale=_NOISE, size=tissue.shape))
    scan = np.zeros(mask.shape, np.uint8)
    # Not 0 inside, or dark fluid would count as background.
    scan[mask] = np.clip(np.rint(_BRIGHTEST * noisy), 1, 255)
    return Geometry.of(brain).apply_to(sitk.GetImageFromArray(scan))


def _folder() -> Path:
    """Return the folder of the template: in ``Resources`` beside the library, or where pip puts it."""
    library = Path(__file__).resolve().parents[1]
    places = library.parent / "Resources" / "SampleData", Path(sys.prefix) / "share" / "hyperpredictreg" / "sample"
    for folder in places:
        if (folder / "brain.nrrd").is_file():
            return folder
    raise InputError(
        f"The sample brain is in neither '{places[0]}' nor '{places[1]}', so there is no sample data: reinstall the extension."
    )
