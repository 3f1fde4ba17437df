"""Foreground and normalisation on kinds of images that behave differently."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import blob_image
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.preprocessing.intensity import foreground, normalised, points_of, value_beyond
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.images import read_image

GRID = Geometry((64, 60, 56), (1.0, 1.0, 1.0))


def overlap(mask: sitk.Image, truth: np.ndarray) -> float:
    found = sitk.GetArrayFromImage(mask) != 0
    return 2 * float((found & truth).sum()) / float(found.sum() + truth.sum())


def body() -> tuple[np.ndarray, np.ndarray]:
    """Return a smooth organ (0 outside) and where it is."""
    voxels = sitk.GetArrayFromImage(blob_image(GRID))
    inside = voxels > 20
    return np.where(inside, voxels, 0), inside


@pytest.mark.parametrize("kind", ["skull-stripped", "MR with noisy air", "CT"])
def test_foreground_is_the_body(kind: str) -> None:
    voxels, inside = body()
    random = np.random.default_rng(1)
    if kind == "MR with noisy air":
        voxels = np.hypot(voxels + random.normal(scale=4, size=voxels.shape), random.normal(scale=4, size=voxels.shape))
    if kind == "CT":
        voxels = np.where(inside, voxels - 20, -1000) + random.normal(scale=15, size=voxels.shape)
    found = foreground(GRID.apply_to(sitk.GetImageFromArray(voxels.astype(np.float32))))
    assert overlap(found, inside) > 0.97


def test_dark_fluid_inside_the_body_is_foreground() -> None:
    voxels = body()[0]
    voxels[25:30, 28:34, 28:34] = 0
    assert sitk.GetArrayFromImage(foreground(GRID.apply_to(sitk.GetImageFromArray(voxels))))[27, 30, 30] == 1


def test_a_crop_inside_the_body_is_all_foreground() -> None:
    random = np.random.default_rng(1)
    voxels = 100 + 20 * random.normal(size=(30, 30, 30))
    voxels[10:15, 10:15, 10:15] = 5
    mask = foreground(sitk.GetImageFromArray(voxels.astype(np.float32)))
    assert sitk.GetArrayFromImage(mask).all()


def test_normalised_ignores_a_few_very_bright_voxels() -> None:
    voxels, inside = body()
    mask = GRID.apply_to(sitk.GetImageFromArray(inside.astype(np.uint8)))
    plain = sitk.GetArrayFromImage(normalised(GRID.apply_to(sitk.GetImageFromArray(voxels)), mask))
    voxels[30, 30, 30:33] = 1e6
    spiked = sitk.GetArrayFromImage(normalised(GRID.apply_to(sitk.GetImageFromArray(voxels)), mask))
    assert spiked.max() <= 1.5
    np.testing.assert_allclose(spiked[20], plain[20], atol=0.01)


def test_normalised_keeps_the_background_at_zero_and_tissue_below_one() -> None:
    voxels, inside = body()
    mask = GRID.apply_to(sitk.GetImageFromArray(inside.astype(np.uint8)))
    found = sitk.GetArrayFromImage(normalised(GRID.apply_to(sitk.GetImageFromArray(voxels)), mask))
    assert (found[~inside] == 0).all()
    assert np.percentile(found[inside], 99) < 1.0


def test_air_does_not_squeeze_soft_tissue_in_ct() -> None:
    voxels, inside = body()
    hounsfield = np.where(inside, voxels, -1000).astype(np.float32)
    mask = GRID.apply_to(sitk.GetImageFromArray(inside.astype(np.uint8)))
    found = sitk.GetArrayFromImage(normalised(GRID.apply_to(sitk.GetImageFromArray(hounsfield)), mask))
    low, high = np.percentile(found[inside], (1, 99))
    assert high - low > 0.5


def test_normalised_does_not_depend_on_the_scale_of_the_intensities() -> None:
    voxels, inside = body()
    mask = GRID.apply_to(sitk.GetImageFromArray(inside.astype(np.uint8)))
    one = sitk.GetArrayFromImage(normalised(GRID.apply_to(sitk.GetImageFromArray(voxels)), mask))
    other = sitk.GetArrayFromImage(normalised(GRID.apply_to(sitk.GetImageFromArray(voxels * 37 + 400)), mask))
    np.testing.assert_allclose(one, other, atol=1e-3)


def test_a_flat_foreground_is_refused() -> None:
    inside = body()[1]
    mask = GRID.apply_to(sitk.GetImageFromArray(inside.astype(np.uint8)))
    with pytest.raises(InputError, match="one intensity"):
        normalised(mask, mask)


def test_a_constant_has_no_foreground() -> None:
    with pytest.raises(InputError, match="No anatomy"):
        foreground(sitk.Image(20, 20, 20, sitk.sitkInt16) + 7)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("CT", -1000), ("CT with holes", -1000), ("CT with infinities", -1000), ("NaN around", np.nan), ("constant", 7),
        ("nothing but NaN", np.nan), ("huge numbers inside", -1000),
    ],
)  # fmt: skip
@pytest.mark.parametrize("pixel_type", [np.float32, np.float64])
def test_beyond_an_image_is_what_surrounds_its_anatomy(kind: str, expected: float, pixel_type: type) -> None:
    voxels, inside = body()
    voxels = np.where(inside, voxels, -1000).astype(pixel_type)
    voxels[~inside] = {"NaN around": np.nan, "constant": 7}.get(kind, -1000)
    if kind in ("constant", "nothing but NaN"):
        voxels[:] = expected
    middle = {"CT with holes": np.nan, "CT with infinities": np.inf, "huge numbers inside": 1e38}
    if kind in middle:
        voxels[26:30, 28:32, 30:34] = middle[kind]
        voxels[0, 0, :2] = middle[kind]
    assert value_beyond(GRID.apply_to(sitk.GetImageFromArray(voxels))) == pytest.approx(expected, nan_ok=True)


def test_beyond_a_mask_is_its_lowest_value() -> None:
    whole = np.ones((12, 12, 12), dtype=np.uint8)
    assert value_beyond(sitk.GetImageFromArray(whole)) == 1
    whole[:3] = whole[-3:] = whole[:, :3] = whole[:, -3:] = 0
    assert value_beyond(sitk.GetImageFromArray(whole)) == 0


def test_points_span_the_box_of_the_mask(oblique: Geometry) -> None:
    voxels = np.zeros(oblique.size[::-1], np.uint8)
    voxels[4:9, 6:11, 3:15] = 1
    places = oblique.to_index(points_of(oblique.apply_to(sitk.GetImageFromArray(voxels))))
    np.testing.assert_allclose(places.min(axis=0), (3, 6, 4), atol=1e-9)
    np.testing.assert_allclose(places.max(axis=0), (14, 10, 8), atol=1e-9)


@pytest.mark.data
@pytest.mark.parametrize(
    ("image", "labels"),
    [
        ("brain-t1-nmm/nmm_1011_t1.nii.gz", "brain-t1-nmm/nmm_1011_aseg.nii.gz"),
        ("mouse-t2/mouse_03_UT_t2.nii.gz", "mouse-t2/mouse_03_UT_labels.nii.gz"),
        ("hippocampus-msd04/images/hippocampus_004.nii.gz", "hippocampus-msd04/labels/hippocampus_004.nii.gz"),
    ],
)
def test_foreground_of_real_images_holds_their_labels(data_folder: Path, image: str, labels: str) -> None:
    found = sitk.GetArrayFromImage(foreground(read_image(data_folder / image, "fixed image"))) != 0
    labelled = sitk.GetArrayFromImage(sitk.ReadImage(str(data_folder / labels))) != 0
    assert found[labelled].mean() > 0.97
