"""The working grid: presets that fit the anatomy, no aliasing, nothing compared beyond an image's edge."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import blob_image
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.preprocessing.intensity import foreground
from HyperPredictRegLib.preprocessing.working_grid import common_view, on_grid, working_grid, working_spacing
from HyperPredictRegLib.spatial.geometry import Geometry

IDENTITY = sitk.Transform(3, sitk.sitkIdentity)


def grid(size_mm: tuple[float, float, float], spacing: float) -> sitk.Image:
    size = tuple(round(s / spacing) for s in size_mm)
    return Geometry(size, (spacing,) * 3).apply_to(sitk.Image(size, sitk.sitkUInt8) + 1)


@pytest.mark.parametrize(
    ("anatomy", "preset", "expected"),
    [
        (((140, 180, 140), 1.0), "fast", 2.0),
        (((140, 180, 140), 1.0), "standard", 1.5),
        (((140, 180, 140), 1.0), "fine", 1.0),
        (((230, 260, 250), 1.0), "fast", 2.0),
        (((16.8, 19.2, 12.0), 0.15), "fast", 0.25),
        (((16.8, 19.2, 12.0), 0.15), "fine", 0.15),
        (((35, 50, 36), 1.0), "fast", 1.0),
    ],
)
def test_a_preset_fits_the_anatomy(anatomy: tuple, preset: str, expected: float) -> None:
    mask = grid(*anatomy)
    assert working_spacing(mask, mask, preset) == pytest.approx(expected)


def test_unknown_presets_are_refused() -> None:
    mask = grid((20, 20, 20), 1.0)
    with pytest.raises(InputError, match="no preset 'quick': choose one of fast, standard, fine"):
        working_spacing(mask, mask, "quick")


def test_the_grid_holds_both_anatomies_with_room(oblique: Geometry) -> None:
    fixed = foreground(blob_image(oblique))
    moving = foreground(blob_image(oblique, shift_mm=(6.0, 0.0, 0.0)))
    shift = sitk.TranslationTransform(3, (2.0, 5.0, 0.0))
    grid = working_grid(fixed, moving, shift, 2.0)
    for mask, transform in ((fixed, IDENTITY), (moving, shift)):
        there = grid.resample(mask, transform, interpolator=sitk.sitkNearestNeighbor)
        voxels = sitk.GetArrayFromImage(there)
        volume, truth = voxels.sum() * 8.0, sitk.GetArrayFromImage(mask).sum() * np.prod(oblique.spacing)
        assert volume == pytest.approx(truth, rel=0.03)
        for axis in range(3):
            assert not np.take(voxels, [0, 1, 2, -3, -2, -1], axis=axis).any()


def test_fine_detail_does_not_alias() -> None:
    # A checkerboard of single voxels averages to grey; sampled without smoothing every other voxel, it would be black or white.
    i, j, k = np.indices((40, 40, 40))
    image = sitk.GetImageFromArray(((i + j + k) % 2).astype(np.float32))
    coarse = Geometry((18, 18, 18), (2.0, 2.0, 2.0), (2.0, 2.0, 2.0))
    inner = sitk.GetArrayFromImage(on_grid(image, coarse))[3:-3, 3:-3, 3:-3]
    assert np.ptp(inner) < 0.05


def test_an_image_as_coarse_as_the_grid_is_not_smoothed() -> None:
    image = blob_image(Geometry((20, 20, 20), (2.0, 2.0, 2.0)))
    same = on_grid(image, Geometry.of(image))
    np.testing.assert_allclose(sitk.GetArrayFromImage(same), sitk.GetArrayFromImage(image), atol=1e-4)


def test_common_view_is_where_both_images_have_voxels() -> None:
    fixed = sitk.Image(20, 20, 20, sitk.sitkFloat32)
    view = sitk.GetArrayFromImage(common_view(fixed, fixed, sitk.TranslationTransform(3, (5.0, 0, 0)), Geometry.of(fixed)))
    assert view[:, :, :15].all()
    assert not view[:, :, 15:].any()
