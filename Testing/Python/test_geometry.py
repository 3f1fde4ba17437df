"""Geometry: points and indices, padding, covering grids."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from HyperPredictRegLib.spatial.geometry import Geometry
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

sizes = st.tuples(*[st.integers(2, 9)] * 3)
spacings = st.tuples(*[st.floats(0.05, 12.0)] * 3)
origins = st.tuples(*[st.floats(-500, 500)] * 3)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Any grid: oblique, left-handed, anisotropic."""
    turn = Rotation.from_euler("xyz", draw(st.tuples(*[st.floats(-180, 180)] * 3)), degrees=True).as_matrix()
    flips = np.diag(draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3)))
    return Geometry(draw(sizes), draw(spacings), draw(origins), tuple((turn @ flips).ravel().tolist()))


@given(geometries(), st.tuples(*[st.floats(-3, 12)] * 3))
def test_points_agree_with_simpleitk_and_come_back(geometry: Geometry, index: tuple[float, float, float]) -> None:
    image = geometry.apply_to(sitk.Image(geometry.size, sitk.sitkUInt8))
    point = geometry.to_lps(index)
    np.testing.assert_allclose(point, image.TransformContinuousIndexToPhysicalPoint(index), atol=1e-9)
    np.testing.assert_allclose(geometry.to_index(point), index, atol=1e-7)


@given(geometries())
def test_geometry_of_an_image_is_the_one_it_was_given(geometry: Geometry) -> None:
    assert Geometry.of(geometry.apply_to(sitk.Image(geometry.size, sitk.sitkUInt8))).matches(geometry)


@given(geometries(), st.tuples(*[st.integers(0, 3)] * 3), st.tuples(*[st.integers(0, 3)] * 3))
def test_padding_keeps_every_voxel_in_place(geometry: Geometry, lower: tuple[int, ...], upper: tuple[int, ...]) -> None:
    wide = geometry.padded(lower, upper)
    np.testing.assert_allclose(wide.to_lps(np.add((1, 1, 1), lower)), geometry.to_lps((1, 1, 1)), atol=1e-9)
    assert wide.size == tuple(np.add(np.add(geometry.size, lower), upper))
    assert wide.padded([-n for n in lower], [-n for n in upper]).matches(geometry)


@given(geometries(), st.floats(0.5, 3.0), st.floats(0.0, 10.0))
def test_covering_grid_encloses_its_points_with_the_margin(geometry: Geometry, spacing: float, margin: float) -> None:
    points = geometry.corners_lps()
    places = geometry.covering(points, spacing, margin)
    indices = places.to_index(points)
    room = margin / spacing
    assert (indices >= room - 1e-6).all()
    assert (indices <= np.array(places.size) - 1 - room + 1e-6).all()
    assert (np.array(places.size) - 1 <= np.ptp(indices, axis=0) + 2 * room + 1 + 1e-6).all()


def test_matches_sees_a_shift_of_a_hundredth_voxel() -> None:
    grid = Geometry((5, 6, 7), (1.0, 2.0, 3.0))
    assert not grid.matches(Geometry((5, 6, 7), (1.0, 2.0, 3.0), (0.01, 0.0, 0.0)))
    assert not grid.matches(Geometry((5, 6, 8), (1.0, 2.0, 3.0)))


def test_apply_to_refuses_another_size() -> None:
    with pytest.raises(ValueError, match="size"):
        Geometry((5, 6, 7), (1.0, 1.0, 1.0)).apply_to(sitk.Image(5, 6, 8, sitk.sitkUInt8))


ROW = Geometry((6, 3, 3), (1.0, 1.0, 1.0))


def row(values: list[float], pixel_type: int) -> sitk.Image:
    """Return an image that has these six values along i and is constant along j and k."""
    voxels = np.broadcast_to(np.array(values, dtype=np.float64), (3, 3, 6))
    return ROW.apply_to(sitk.Cast(sitk.GetImageFromArray(voxels), pixel_type))


def moved_by(image: sitk.Image, shift: float, **how: float) -> list[float]:
    moved = ROW.resample(image, sitk.TranslationTransform(3, (shift, 0.0, 0.0)), **how)  # type: ignore[arg-type]
    assert moved.GetPixelID() == image.GetPixelID()
    return sitk.GetArrayViewFromImage(moved)[1, 1, :5].tolist()


@pytest.mark.parametrize("pixel_type", [sitk.sitkInt8, sitk.sitkInt16, sitk.sitkInt32, sitk.sitkInt64])
def test_integers_are_rounded_not_cut_off(pixel_type: int) -> None:
    image = row([-10, -7, 0, 3, 100, 100], pixel_type)
    assert moved_by(image, 0.75) == [-8, -2, 2, 76, 100]  # from -7.75, -1.75, 2.25, 75.75, 100
    assert moved_by(image, 0.5) == [-8, -3, 2, 52, 100]  # from -8.5, -3.5, 1.5, 51.5: halves go up
    assert moved_by(image, 0.5, interpolator=sitk.sitkNearestNeighbor) == [-7, 0, 3, 100, 100]


def test_a_mask_keeps_its_size() -> None:
    assert moved_by(row([0, 1, 1, 1, 0, 0], sitk.sitkUInt8), 0.25) == [0, 1, 1, 1, 0]  # cut off: 0, 1, 1, 0, 0
    # Half a unit darker is what cutting the fraction off comes to.
    noise = np.random.default_rng(1).integers(0, 2000, (20, 20, 20)).astype(np.int16)
    grid = Geometry((20, 20, 20), (1.0, 1.0, 1.0))
    shift = sitk.TranslationTransform(3, (0.3, 0.4, 0.6))
    whole = grid.apply_to(sitk.GetImageFromArray(noise))
    exact = sitk.GetArrayFromImage(grid.resample(sitk.Cast(whole, sitk.sitkFloat64), shift))
    assert abs((sitk.GetArrayFromImage(grid.resample(whole, shift)) - exact).mean()) < 0.02


@pytest.mark.parametrize("pixel_type", [
    sitk.sitkUInt8, sitk.sitkInt8, sitk.sitkUInt16, sitk.sitkInt16, sitk.sitkUInt32, sitk.sitkInt32, sitk.sitkUInt64,
    sitk.sitkInt64,
])
def test_what_overshoots_stays_in_the_range_of_the_type(pixel_type: int) -> None:
    kind = np.iinfo(sitk.GetArrayViewFromImage(sitk.Image(1, 1, 1, pixel_type)).dtype)
    voxels = np.broadcast_to(np.array([kind.min] * 3 + [kind.max] * 3, dtype=kind.dtype), (3, 3, 6))
    found = moved_by(ROW.apply_to(sitk.GetImageFromArray(np.array(voxels))), 0.0001, interpolator=sitk.sitkBSpline)
    smooth = moved_by(ROW.apply_to(sitk.GetImageFromArray(np.array(voxels))), 0.4, interpolator=sitk.sitkBSpline)
    assert found[0] < found[3] and smooth[0] < smooth[4], (found, smooth)
    assert smooth[3] >= kind.max - 2048 and smooth[1] == kind.min, smooth


def test_other_types_are_left_to_simpleitk() -> None:
    assert moved_by(row([0, 1, 1, 1, 0, 0], sitk.sitkFloat32), 0.25) == [0.25, 1, 1, 0.75, 0]
    asked = ROW.resample(row([0, 1, 1, 1, 0, 0], sitk.sitkUInt8), sitk.TranslationTransform(3, (0.25, 0.0, 0.0)),
                         pixel_type=sitk.sitkFloat64)
    assert sitk.GetArrayViewFromImage(asked)[1, 1, 3] == 0.75


@given(geometries(), geometries())
def test_continued_grid_encloses_points_and_keeps_its_own_places(geometry: Geometry, other: Geometry) -> None:
    points = other.corners_lps() * 0.1
    continued = geometry.continued_over(points)
    places = continued.to_index(points)
    slack = 2e-4 + 1e-9 * np.abs(points).max() / min(geometry.spacing)
    assert places.min() >= -slack and (places <= np.array(continued.size) - 1 + slack).all()
    # No layer is idle, and its points are points of the grid that it continues.
    assert (places.min(axis=0) < 1).all() and (places.max(axis=0) > np.array(continued.size) - 2).all()
    start = geometry.to_index(np.array(continued.origin))
    assert np.abs(start - np.round(start)).max() < 1e-6 * (1 + np.abs(start).max())
    assert (continued.spacing, continued.direction) == (geometry.spacing, geometry.direction)
