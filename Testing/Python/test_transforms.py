"""Fields that fade, inverses, files and points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.quality.metrics import folding_percent, jacobian_determinant
from HyperPredictRegLib.spatial import transforms as tr
from HyperPredictRegLib.spatial.geometry import Geometry
from scipy.ndimage import gaussian_filter

NUMBERS = b"Parameters: 1\nFixedParameters: 0\n"


def smooth_field(grid: Geometry, largest_mm: float, sigma: float = 4.0, seed: int = 1) -> sitk.Image:
    random = np.random.default_rng(seed)
    vectors = np.stack([gaussian_filter(random.normal(size=grid.size[::-1]), sigma) for _ in range(3)], axis=-1)
    vectors *= largest_mm / np.linalg.norm(vectors, axis=-1).max()
    return grid.apply_to(sitk.GetImageFromArray(vectors, isVector=True))


def points_in(grid: Geometry, count: int = 200, margin: float = 0.0) -> np.ndarray:
    share = np.random.default_rng(5).uniform(margin, 1 - margin, (count, 3))
    return grid.to_lps(share * (np.array(grid.size) - 1))


def test_faded_field_is_unchanged_inside_and_zero_at_its_border(oblique: Geometry) -> None:
    field = smooth_field(oblique, 4.0)
    wide = tr.faded(field)
    voxels = sitk.GetArrayFromImage(wide)
    for axis in range(3):
        assert not np.take(voxels, [0, -1], axis=axis).any()
    again = oblique.resample(wide, interpolator=sitk.sitkNearestNeighbor)
    np.testing.assert_allclose(sitk.GetArrayFromImage(again), sitk.GetArrayFromImage(field), atol=1e-12)


@pytest.mark.parametrize("largest_mm", [1.0, 6.0, 20.0])
def test_the_rim_of_a_faded_field_has_no_folds(oblique: Geometry, largest_mm: float) -> None:
    # A constant push is the hardest case that is itself free of folds: all of it has to be lost within the rim.
    push = np.broadcast_to(np.array([0.6, -0.64, 0.48]) * largest_mm, (*oblique.size[::-1], 3)).copy()
    wide = tr.faded(oblique.apply_to(sitk.GetImageFromArray(push, isVector=True)))
    jacobian = jacobian_determinant(wide)
    everywhere = Geometry.of(wide).apply_to(sitk.Image(wide.GetSize(), sitk.sitkUInt8) + 1)
    assert folding_percent(jacobian, everywhere).grid == 0.0


def test_a_faded_transform_is_continuous_across_its_border(oblique: Geometry) -> None:
    wide = tr.faded(smooth_field(oblique, 4.0))
    transform, grid = tr.field_transform(wide), Geometry.of(wide)
    face = grid.to_lps(np.array([[0.0, 20.0, 15.0], [grid.size[0] - 1.0, 9.0, 9.0]]))
    for outward, point in zip((-1, 1), face, strict=True):
        inside, outside = (point + step * outward * grid.direction_matrix[:, 0] for step in (-1e-3, 1e-3))
        moved = tr.transformed_points(transform, np.array([inside, outside]))
        assert np.linalg.norm(moved - [inside, outside]) < 1e-2


def test_inverse_of_a_composite_brings_points_back(oblique: Geometry) -> None:
    affine = sitk.AffineTransform([1.05, 0.1, 0, -0.1, 0.95, 0.02, 0, 0.03, 1.1], (4.0, -3.0, 2.0))
    transform = tr.composed(affine, tr.field_transform(tr.faded(smooth_field(oblique, 3.0))))
    points = points_in(oblique)
    there = tr.transformed_points(transform, points)
    back = tr.transformed_points(tr.inverted(transform, oblique), there)
    assert np.linalg.norm(there - points, axis=1).min() > 1.0
    assert np.linalg.norm(back - points, axis=1).max() < 0.05


def test_inverse_of_a_bspline_brings_points_back(oblique: Geometry) -> None:
    image = oblique.apply_to(sitk.Image(oblique.size, sitk.sitkFloat32))
    spline = sitk.BSplineTransformInitializer(image, [4, 4, 4])
    spline.SetParameters((np.random.default_rng(2).normal(size=len(spline.GetParameters())) * 0.8).tolist())
    points = points_in(oblique, margin=0.2)
    back = tr.transformed_points(tr.inverted(spline, oblique), tr.transformed_points(spline, points))
    assert np.linalg.norm(back - points, axis=1).max() < 0.1


def test_composed_applies_the_deformation_first() -> None:
    deformation, alignment = sitk.TranslationTransform(3, (1.0, 0, 0)), sitk.ScaleTransform(3, (2.0, 1.0, 1.0))
    assert tr.composed(alignment, deformation).TransformPoint((1.0, 0, 0)) == pytest.approx((4.0, 0, 0))


def test_field_transform_leaves_the_field_as_it_is(oblique: Geometry) -> None:
    field = smooth_field(oblique, 2.0)
    before = sitk.GetArrayFromImage(field)
    transform = tr.field_transform(field)
    assert field.GetSize() == oblique.size
    np.testing.assert_array_equal(sitk.GetArrayFromImage(field), before)
    point = tuple(oblique.to_lps((5, 6, 7)))
    np.testing.assert_allclose(np.subtract(transform.TransformPoint(point), point), before[7, 6, 5], atol=1e-9)


def test_linear_matrix_maps_points_like_the_transform() -> None:
    euler = sitk.Euler3DTransform((10.0, 20.0, 30.0), 0.1, 0.2, 0.3, (1.0, 2.0, 3.0))
    matrix = tr.linear_matrix(euler)
    point = np.array([3.0, -4.0, 5.0])
    np.testing.assert_allclose(matrix[:3, :3] @ point + matrix[:3, 3], euler.TransformPoint(tuple(point)))


def test_a_transform_survives_its_file(tmp_path: Path, oblique: Geometry) -> None:
    transform = tr.composed(sitk.Euler3DTransform(), tr.field_transform(tr.faded(smooth_field(oblique, 3.0))))
    tr.write_transform(transform, tmp_path / "t.h5")
    again = tr.read_transform(tmp_path / "t.h5", "transform")
    points = points_in(oblique)
    np.testing.assert_allclose(
        tr.transformed_points(again, points), tr.transformed_points(transform, points), atol=1e-9
    )


def test_a_displacement_field_image_is_read_as_a_transform(tmp_path: Path, oblique: Geometry) -> None:
    field = smooth_field(oblique, 3.0)
    sitk.WriteImage(field, str(tmp_path / "field.nrrd"))
    transform = tr.read_transform(tmp_path / "field.nrrd", "transform")
    point = tuple(oblique.to_lps((3, 4, 5)))
    np.testing.assert_allclose(transform.TransformPoint(point), tr.field_transform(field).TransformPoint(point))


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("absent.h5", None, "does not exist"),
        ("junk.h5", b"no transform", "could not be read"),
        ("junk.tfm", b"#Insight Transform File V1.0\nTransform: Nonsense_double_3_3\n" + NUMBERS, "could not be read"),
    ],
)
def test_bad_transform_files_get_a_sentence(tmp_path: Path, name: str, content: bytes | None, match: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=match):
        tr.read_transform(tmp_path / name, "transform")


def test_a_transform_with_nan_is_refused(tmp_path: Path, oblique: Geometry) -> None:
    voxels = np.zeros((*oblique.size[::-1], 3))
    voxels[3, 4, 5, 0] = np.nan
    field = tr.field_transform(oblique.apply_to(sitk.GetImageFromArray(voxels, isVector=True)))
    sitk.WriteTransform(tr.composed(sitk.AffineTransform(3), field), str(tmp_path / "nan.h5"))
    with pytest.raises(InputError, match="NaN or infinite"):
        tr.read_transform(tmp_path / "nan.h5", "transform")


def test_an_image_is_no_displacement_field(tmp_path: Path, oblique: Geometry) -> None:
    sitk.WriteImage(oblique.apply_to(sitk.Image(oblique.size, sitk.sitkFloat32)), str(tmp_path / "image.nrrd"))
    with pytest.raises(InputError, match="three values per voxel"):
        tr.read_transform(tmp_path / "image.nrrd", "transform")


def test_a_transform_onto_a_plane_has_no_inverse(oblique: Geometry) -> None:
    with pytest.raises(InputError, match="no inverse"):
        tr.inverted(sitk.AffineTransform([1.0, 0, 0, 0, 1, 0, 0, 0, 0], (0.0, 0, 0)), oblique)


def test_the_scale_of_a_transform_is_that_of_its_finest_part(oblique: Geometry) -> None:
    field = tr.field_transform(smooth_field(oblique, 1.0))
    spline = sitk.BSplineTransformInitializer(smooth_field(oblique, 1.0), [4, 4, 4])
    assert tr.voxel_size(sitk.AffineTransform(3)) is None
    assert tr.voxel_size(field) == 1.5
    assert tr.voxel_size(sitk.Transform(spline)) == pytest.approx(min(oblique.extent_mm) / 4, rel=0.2)
    assert tr.voxel_size(tr.composed(sitk.AffineTransform(3), sitk.CompositeTransform([spline, field]))) == 1.5


def test_inverse_points_that_lead_nowhere_say_so(oblique: Geometry) -> None:
    transform = tr.field_transform(smooth_field(oblique, 1.0))
    places = np.array([[np.nan, 0, 0], [1e308, -1e308, 1e308], oblique.centre_lps])
    found = tr.inverse_points(transform, places, places)
    assert found.missed(1.5)[0] and not found.missed(1.5)[2]
    assert not found.determinant[0] > 0


def test_a_transform_that_moves_its_border_out_of_sight_has_no_inverse(oblique: Geometry) -> None:
    vectors = np.full((*oblique.size[::-1], 3), 1e9)
    with pytest.raises(InputError, match=r"moves the border of its grid by 1\.7e\+9 mm"):
        tr.faded(oblique.apply_to(sitk.GetImageFromArray(vectors, isVector=True)))
    vectors[:] = np.inf
    with pytest.raises(InputError, match="moves the border"):
        tr.faded(oblique.apply_to(sitk.GetImageFromArray(vectors, isVector=True)))
