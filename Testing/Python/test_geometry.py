"""Geometry: points and indices, padding, covering grids."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from HyperPredictRegLib.geometry import Geometry
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
