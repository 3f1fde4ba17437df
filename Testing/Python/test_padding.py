"""Padding, such as -3024 around the round field of a CT, is no anatomy, no background and no intensity; most images have none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import blob_image
from HyperPredictRegLib.alignment import AlignmentSettings, align
from HyperPredictRegLib.alignment.aligned_pair import AlignedPair
from HyperPredictRegLib.preprocessing.image_set import read_inputs
from HyperPredictRegLib.preprocessing.intensity import background_value, foreground, normalised, padding, value_beyond
from HyperPredictRegLib.results.job import Job
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.images import read_image

GRID = Geometry((60, 60, 40), (3.0, 3.0, 3.0))
BEYOND = np.hypot(*(np.indices((40, 60, 60))[1:] - 29.5)) > 30


def ct(seed: int = 0) -> np.ndarray:
    """Return a body of fat with an organ, in noisy air, in Hounsfield units."""
    j, i = np.indices((40, 60, 60))[1:]
    body = ((i - 30) ** 2 / 24**2 + (j - 30) ** 2 / 17**2) < 1
    organ = ((i - 25) ** 2 + (j - 30) ** 2) < 80
    noise = np.random.default_rng(seed).normal(0, 10, body.shape)
    return np.where(body, -100, -1000) + np.where(organ, 150, 0) + noise


def image_of(voxels: np.ndarray, grid: Geometry = GRID) -> sitk.Image:
    return grid.apply_to(sitk.GetImageFromArray(voxels))


def inside(mask: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(mask) != 0


@pytest.mark.parametrize(
    ("value", "kind", "offset"),
    [
        (-3024, np.int16, 0), (-2000, np.int16, 0), (-2048, np.float32, 0), (-32768, np.int16, 0), (32767, np.int16, 0),
        (65535, np.uint16, 1100), (-9999, np.float64, 0), (1e6, np.float32, 0),
    ],
)  # fmt: skip
def test_a_padded_ct_is_as_the_plain_one(value: float, kind: type, offset: int) -> None:
    plain = image_of((ct() + offset).astype(kind))
    padded = image_of(np.where(BEYOND, value, ct() + offset).astype(kind))
    found = padding(padded)
    assert found is not None
    assert found.values == (value,)
    assert found.share == pytest.approx(BEYOND.mean(), abs=1e-6)
    np.testing.assert_array_equal(inside(found.missing), BEYOND)
    masks = foreground(plain), foreground(padded)
    assert (inside(masks[0]) != inside(masks[1])).mean() < 1e-3
    one, other = (sitk.GetArrayFromImage(normalised(image, mask)) for image, mask in zip((plain, padded), masks, strict=True))
    np.testing.assert_allclose(other, one, atol=0.03)
    assert background_value(padded, masks[1]) == pytest.approx(-1000 + offset, abs=5)
    assert value_beyond(padded) == pytest.approx(-1000 + offset, abs=5)


def test_padding_with_an_edge_blurred_by_interpolation_is_found() -> None:
    turn = sitk.Euler3DTransform((90, 90, 60), 0.1, 0.2, 0.3)
    images = [
        sitk.Resample(image_of(np.where(BEYOND, value, ct()).astype(np.int16)), turn, sitk.sitkLinear, value)
        for value in (-1000, -3024)
    ]
    plain, padded = (inside(foreground(image)) for image in images)
    assert (plain != padded).mean() < 2e-3
    found = padding(images[1])
    assert found is not None
    # What interpolation mixed of padding and air is no measurement either.
    retained = sitk.GetArrayViewFromImage(images[1])[~inside(found.missing)]
    assert np.mean(retained < -1300) < 3e-3


def test_the_whole_field_counts_where_the_body_fills_it() -> None:
    """A field inside the body shows no air: padding is not anatomy, all else is."""
    voxels = 40 + 30 * np.random.default_rng(1).normal(size=(40, 60, 60))
    image = image_of(np.where(BEYOND, -2000, voxels).astype(np.float32))
    mask = foreground(image)
    assert not inside(mask)[BEYOND].any()
    assert inside(mask)[~BEYOND].mean() > 0.97
    scaled = sitk.GetArrayFromImage(normalised(image, mask))
    assert (scaled[BEYOND] == 0).all()
    assert np.ptp(np.percentile(scaled[~BEYOND], (5, 95))) > 0.4


def ordinary() -> dict[str, np.ndarray]:
    organ = sitk.GetArrayFromImage(blob_image(GRID))
    noise = np.random.default_rng(2).normal(0, 5, organ.shape)
    cut = np.where(organ > 20, organ, 0.0)
    return {
        "skull-stripped": cut,
        "skull-stripped, bright": np.where(organ > 20, organ + 300, 0.0),
        "air at exactly -1000": np.where(organ > 20, organ, -1000.0),
        "air cut at -1024": np.maximum(ct(), -1024.0),
        "noisy air": np.abs(cut + noise),
        "standardised": (cut - cut.mean()) / cut.std(),
        "a crop inside the body": 100 + noise,
        "a saturated lump": np.where(organ > 0.7 * organ.max(), 4095.0, np.abs(cut + noise)),
        "a bright bar beside the body": np.where(np.indices(organ.shape)[2] < 4, 3000.0, np.abs(cut + noise)),
        "a window of grey values": np.clip(ct(), -160, 240),
    }


@pytest.mark.parametrize("kind", ordinary())
def test_ordinary_images_have_no_padding(kind: str) -> None:
    assert padding(image_of(ordinary()[kind].astype(np.float32))) is None


def test_a_job_says_so_and_leaves_padding_out_of_the_comparison(tmp_path: Path) -> None:
    names = {}
    for name, voxels in (("plain", ct()), ("padded", np.where(BEYOND, -3024, ct(1)))):
        names[name] = str(tmp_path / f"{name}.nrrd")
        sitk.WriteImage(image_of(voxels.astype(np.int16)), names[name])
    inputs = read_inputs(Job(names["plain"], names["padded"], ""))
    assert len(inputs.notes) == 1
    assert inputs.notes[0].startswith("21.4 % of the moving image's voxels hold -3024")
    assert "padding" in inputs.notes[0]
    pair = AlignedPair.of(inputs, sitk.AffineTransform(3), "fast")
    there = pair.grid.resample(image_of(BEYOND.astype(np.uint8)), interpolator=sitk.sitkNearestNeighbor)
    assert not sitk.GetArrayViewFromImage(pair.fixed)[inside(there)].any()
    assert not read_inputs(Job(names["plain"], names["plain"], "")).notes


def test_a_mask_does_not_bring_padding_back(tmp_path: Path) -> None:
    whole = image_of(np.ones((40, 60, 60), np.uint8))
    names = [str(tmp_path / name) for name in ("padded.nrrd", "mask.nrrd")]
    sitk.WriteImage(image_of(np.where(BEYOND, 3e4, ct()).astype(np.int16)), names[0])
    sitk.WriteImage(whole, names[1])
    side = read_inputs(Job(names[0], names[0], "", fixed_mask=names[1])).fixed
    assert not inside(side.foreground)[BEYOND].any()
    assert (inside(side.foreground) != inside(foreground(image_of(ct())))).mean() < 1e-2


def test_raw_images_are_aligned_without_their_padding() -> None:
    """For users of the library: padding that differs does not pull."""
    shifted = np.roll(ct(), 2, axis=2)
    fixed = image_of(np.where(BEYOND, -3024, ct()).astype(np.float32))
    moving = image_of(np.where(BEYOND, 20000, shifted).astype(np.float32))
    settings = AlignmentSettings(stages=("rigid",), multi_start=False)
    result = align(fixed, moving, settings, seed=1)
    np.testing.assert_allclose(result.transform.TransformPoint((90.0, 90.0, 60.0)), (96.0, 90.0, 60.0), atol=0.6)


@pytest.mark.data
@pytest.mark.parametrize(
    "name",
    [
        "brain-t1-nmm/nmm_1011_t1.nii.gz", "mouse-t2/mouse_03_UT_t2.nii.gz", "hippocampus-msd04/images/hippocampus_004.nii.gz",
        "heart-acdc/p001_ed_img.nii.gz", "fetal-t2/sb_ga25_op_img.nii.gz", "left-atrium-mr/la01_img.nii.gz",
        "brain-slab/s01_img.nii.gz", "ms-followup/p01_v1_flair_img.nii.gz", "ct-single/chest_img.nii.gz",
    ],
)  # fmt: skip
def test_real_images_have_none(data_folder: Path, name: str) -> None:
    assert padding(read_image(data_folder / name, "fixed image")) is None
