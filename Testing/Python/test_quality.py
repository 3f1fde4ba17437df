"""Measures against values that are known exactly."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import blob_image
from HyperPredictRegLib.quality import metrics
from HyperPredictRegLib.quality.metrics import (
    dice_coefficients,
    dice_measure,
    folding_percent,
    inverse_consistency,
    jacobian_determinant,
    landmark_error,
    mutual_information,
    sd_log_jacobian,
    surface_distances,
)
from HyperPredictRegLib.results.report import FoldingPercent
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import displacement_field

FLIPPED = Geometry((12, 11, 10), (0.7, 1.3, 2.1), (5.0, 6.0, 7.0), (-1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))


def field_from_index_map(grid: Geometry, new_index: np.ndarray) -> sitk.Image:
    """Return the field that moves voxel (i, j, k) to the place `new_index`, shape (k, j, i, 3)."""
    k, j, i = np.indices(grid.size[::-1])
    here = grid.to_lps(np.stack([i, j, k], axis=-1))
    return grid.apply_to(sitk.GetImageFromArray(grid.to_lps(new_index) - here, isVector=True))


def identity_index(grid: Geometry) -> np.ndarray:
    k, j, i = np.indices(grid.size[::-1]).astype(float)
    return np.stack([i, j, k], axis=-1)


def ones(grid: Geometry) -> sitk.Image:
    return grid.apply_to(sitk.Image(grid.size, sitk.sitkUInt8) + 1)


@pytest.fixture(params=["oblique", "flipped"])
def grid(request: pytest.FixtureRequest, oblique: Geometry) -> Geometry:
    return oblique if request.param == "oblique" else FLIPPED


def test_jacobian_of_an_affine_map_is_its_determinant_everywhere(grid: Geometry) -> None:
    matrix = np.array([[1.1, 0.2, 0.0], [-0.1, 0.9, 0.05], [0.0, 0.1, 1.3]])
    transform = sitk.AffineTransform(matrix.ravel().tolist(), (3.0, -2.0, 1.0))
    jacobian = sitk.GetArrayFromImage(jacobian_determinant(displacement_field(transform, grid)))
    np.testing.assert_allclose(jacobian, np.linalg.det(matrix), rtol=1e-4)


def test_reflection_folds_every_voxel(grid: Geometry) -> None:
    index = identity_index(grid)
    index[..., 0] *= -1
    jacobian = jacobian_determinant(field_from_index_map(grid, index))
    assert folding_percent(jacobian, ones(grid)) == FoldingPercent(100.0, 100.0)
    np.testing.assert_allclose(sitk.GetArrayFromImage(jacobian), -1, atol=1e-4)


def test_folding_counts_exactly_the_voxels_of_a_pleat(grid: Geometry) -> None:
    # A pleat along j: the map goes 0..4, back down over 3 planes, and on. Central differences are negative where the map's
    # two neighbors are in falling order.
    path = np.arange(grid.size[1], dtype=float)
    path[5:8] = (3.0, 2.0, 1.0)
    falling = np.gradient(path) <= 0
    assert falling.sum() == 3
    index = identity_index(grid)
    index[..., 1] = path[None, :, None]
    jacobian = jacobian_determinant(field_from_index_map(grid, index))
    half = sitk.GetArrayFromImage(ones(grid))
    half[:, : grid.size[1] // 2] = 0
    foreground = grid.apply_to(sitk.GetImageFromArray(half))
    share = folding_percent(jacobian, foreground)
    assert share.grid == pytest.approx(100 * falling.mean())
    assert share.foreground == pytest.approx(100 * falling[grid.size[1] // 2 :].mean())


@pytest.mark.parametrize("slab_voxels", [1, 400, 10**9])
def test_slabs_leave_no_seams(grid: Geometry, monkeypatch: pytest.MonkeyPatch, slab_voxels: int) -> None:
    vectors = np.random.default_rng(7).normal(0, 0.6, (*grid.size[::-1], 3))
    field = grid.apply_to(sitk.GetImageFromArray(vectors, isVector=True))
    monkeypatch.setattr(metrics, "_SLAB_VOXELS", slab_voxels)
    found = sitk.GetArrayFromImage(jacobian_determinant(field))
    in_voxels = vectors @ np.linalg.inv(grid.index_to_lps[:3, :3]).T
    slopes = np.stack([np.gradient(in_voxels, axis=2 - axis) for axis in range(3)], axis=-1) + np.eye(3)
    np.testing.assert_allclose(found, np.linalg.det(slopes), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("determinant", [1e-12, -1e-12, 1e-9, -1e-9])
def test_the_sign_of_tiny_determinants_is_right(grid: Geometry, determinant: float) -> None:
    # Flattened along k by nearly everything; single precision, with 1e-7 of noise, would call half of the voxels folded.
    index = identity_index(grid)
    index[..., 2] *= determinant
    jacobian = jacobian_determinant(field_from_index_map(grid, index))
    assert folding_percent(jacobian, ones(grid)).grid == (0.0 if determinant > 0 else 100.0)
    if determinant > 0:
        np.testing.assert_allclose(sitk.GetArrayViewFromImage(jacobian), determinant, rtol=0.1)


def test_what_leads_out_of_all_numbers_counts_as_folded(grid: Geometry) -> None:
    vectors = np.zeros((*grid.size[::-1], 3))
    vectors[5, 5, 5] = 1e300
    jacobian = jacobian_determinant(grid.apply_to(sitk.GetImageFromArray(vectors, isVector=True)))
    assert np.isfinite(sitk.GetArrayViewFromImage(jacobian)).mean() > 0.9
    assert 0 < folding_percent(jacobian, ones(grid)).grid < 1


def test_a_voxel_flattened_to_zero_volume_is_a_fold(grid: Geometry) -> None:
    index = identity_index(grid)
    index[..., 2] = 4.0
    assert folding_percent(jacobian_determinant(field_from_index_map(grid, index)), ones(grid)).grid == 100.0


def test_sd_log_jacobian_of_two_halves(oblique: Geometry) -> None:
    voxels = np.full(oblique.size[::-1], np.e, dtype=np.float32)
    voxels[: voxels.shape[0] // 2] = 1 / np.e
    jacobian = oblique.apply_to(sitk.GetImageFromArray(voxels))
    assert sd_log_jacobian(jacobian, ones(oblique)) == pytest.approx(1.0, abs=1e-5)


def test_dice_of_shifted_blocks() -> None:
    fixed, warped = np.zeros((8, 8, 8), np.uint16), np.zeros((8, 8, 8), np.uint16)
    fixed[2:6, 2:6, 2:6], warped[3:7, 2:6, 2:6] = 7, 7
    fixed[0, 0, 0] = 9
    found = dice_coefficients(sitk.GetImageFromArray(fixed), sitk.GetImageFromArray(warped))
    assert found == {7: pytest.approx(0.75), 9: 0.0}


def test_absent_structures_are_named_and_left_out_of_the_mean() -> None:
    fixed, warped = np.zeros((8, 8, 8), np.uint16), np.zeros((8, 8, 8), np.uint16)
    fixed[2:6, 2:6, 2:6], warped[3:7, 2:6, 2:6] = 7, 7
    fixed[0, 0, 0], warped[7, 7, 7] = 9, 4
    aligned = np.where(fixed == 9, 4, fixed)
    images = [sitk.GetImageFromArray(a) for a in (fixed, aligned, warped)]
    found = dice_measure(*images, {7: "liver", 9: "spleen"})
    assert found.absent == ("label 4", "spleen")
    assert found.mean == pytest.approx(0.75)
    assert found.mean_before == pytest.approx(1.0)
    assert [s.name for s in found.structures] == ["liver"]
    assert found.structures[0].fixed_volume_ml == pytest.approx(0.064)


def test_a_structure_that_the_transform_loses_counts_as_zero() -> None:
    both = np.zeros((8, 8, 8), np.uint16)
    both[2:6, 2:6, 2:6], both[0, 0, 0] = 7, 9
    lost = np.where(both == 9, 0, both)
    images = [sitk.GetImageFromArray(a) for a in (both, both, lost)]
    found = dice_measure(*images, {}, images[0])
    assert found.absent == ()
    assert [s.dice for s in found.structures] == [1.0, 0.0]
    assert found.structures[1].hd95_mm is None
    assert found.mean == pytest.approx(0.5)


def test_what_is_not_a_number_counts_as_folded(oblique: Geometry) -> None:
    voxels = np.ones(oblique.size[::-1], np.float32)
    voxels[0, 0, 0] = np.nan
    jacobian = oblique.apply_to(sitk.GetImageFromArray(voxels))
    assert folding_percent(jacobian, ones(oblique)).grid == pytest.approx(100 / voxels.size)


def test_surface_distances_of_parallel_plates_are_their_distance() -> None:
    one, other = np.zeros((20, 12, 12), bool), np.zeros((20, 12, 12), bool)
    one[4], other[9] = True, True
    found = surface_distances(one, other, (1.0, 1.0, 0.5))
    assert found.hd95_mm == pytest.approx(2.5)
    assert found.mean_mm == pytest.approx(2.5)


def test_hd95_passes_over_a_lone_far_voxel_of_a_large_surface() -> None:
    one = np.zeros((30, 20, 20), bool)
    one[4] = True
    other = one.copy()
    other[29, 10, 10] = True
    assert surface_distances(one, other, (1.0, 1.0, 1.0)).hd95_mm == 0.0


def test_landmark_error_is_the_distance_after_the_transform() -> None:
    fixed = np.array([[0.0, 0, 0], [10, 0, 0]])
    transform = sitk.TranslationTransform(3, (1.0, 2.0, 2.0))
    found = landmark_error(transform, fixed, fixed)
    assert found.mean == pytest.approx(3.0)
    assert found.maximum == pytest.approx(3.0)


def test_inverse_consistency_of_a_wrong_inverse_is_its_error(oblique: Geometry) -> None:
    there, back = sitk.TranslationTransform(3, (1.0, 0, 0)), sitk.TranslationTransform(3, (-1.0, 0, 0.5))
    assert inverse_consistency(there, back, ones(oblique)).maximum == pytest.approx(0.5)


def test_mutual_information_does_not_mind_the_contrast_but_the_place(oblique: Geometry) -> None:
    image = blob_image(oblique)
    everywhere = ones(oblique)
    same, negative = mutual_information(image, image, everywhere), mutual_information(image, image * -2 + 5, everywhere)
    assert same == pytest.approx(2.0)
    assert negative == pytest.approx(2.0, abs=0.01)
    shifted = oblique.resample(image, sitk.TranslationTransform(3, (4.0, 0.0, 0.0)))
    assert mutual_information(image, shifted, everywhere) < 1.6
    assert mutual_information(image, image * 0, everywhere) == pytest.approx(1.0)
