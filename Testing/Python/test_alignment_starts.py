"""Starts that centres of gravity do not give: parts, plates, shells, and objects that look the same turned."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from HyperPredictRegLib.alignment import AlignmentSettings, align
from HyperPredictRegLib.alignment.view import measured_box, open_faces
from HyperPredictRegLib.core.errors import Cancelled, RegistrationError
from HyperPredictRegLib.core.resources import threads
from HyperPredictRegLib.spatial.geometry import Geometry
from scipy import ndimage
from scipy.spatial.transform import Rotation

GRID = Geometry((40, 40, 40), (4.0, 4.0, 4.0), (-78.0, -78.0, -78.0))
COARSE = AlignmentSettings(
    shrink_factors=(2.0, 1.0), smoothing_sigmas=(0.5, 0.5), iterations=(40, 40), sampling_percentages=(50.0, 30.0),
    multi_start_step_degrees=60, multi_start_refined=2,
)


@pytest.fixture(autouse=True)
def _one_thread():
    with threads(1):
        yield


def turn(angle: float, axis: tuple[float, float, float], shift: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(math.radians(angle) * np.array(axis) / np.linalg.norm(axis)).as_matrix()
    matrix[:3, 3] = shift
    return matrix


def texture(seed: int = 4) -> np.ndarray:
    """Return smooth random intensities on the grid, 0 to 1."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=GRID.size), 3.0)
    return 1 / (1 + np.exp(-2 * noise / noise.std()))


def radius(*axes: float) -> np.ndarray:
    """Return how far out the voxels lie, 1 on the surface of an ellipsoid with half axes along k, j, i in mm."""
    k, j, i = (4.0 * np.indices(GRID.size) - 78.0) / np.array(axes).reshape(3, 1, 1, 1)
    return np.sqrt(k**2 + j**2 + i**2)


def image_of(voxels: np.ndarray, grid: Geometry = GRID) -> sitk.Image:
    return grid.holding(voxels.astype(np.float32))


def organ() -> sitk.Image:
    return image_of(np.where(radius(45, 65, 55) < 1, 40 + 100 * texture(), 0))


def in_header(image: sitk.Image, matrix: np.ndarray) -> sitk.Image:
    moved = sitk.Image(image)
    moved.SetOrigin((matrix[:3, :3] @ np.array(image.GetOrigin()) + matrix[:3, 3]).tolist())
    moved.SetDirection((matrix[:3, :3] @ np.array(image.GetDirection()).reshape(3, 3)).ravel().tolist())
    return moved


def off_mm(matrix: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean distance over points of the organ."""
    points = 50 * np.concatenate([np.eye(3), -np.eye(3)])
    return float(np.linalg.norm(points @ (matrix - truth)[:3, :3].T + (matrix - truth)[:3, 3], axis=1).mean())


def scales(matrix: np.ndarray) -> np.ndarray:
    return np.linalg.svd(matrix[:3, :3], compute_uv=False)


def test_half_of_a_turned_object_finds_its_place() -> None:
    whole, truth = organ(), turn(55, (1, -2, 0.5), (30, -20, 25))
    half = in_header(sitk.RegionOfInterest(whole, (20, 40, 40), (20, 0, 0)), truth)
    found = align(whole, half, COARSE, seed=1)
    assert off_mm(found.matrix, truth) < 2
    assert np.abs(np.log(scales(found.matrix))).max() < 0.05


def test_a_slab_in_a_volume_of_zeros_is_not_stretched() -> None:
    whole, truth = organ(), turn(12, (0, 0.3, 1), (6, -5, 4))
    voxels = sitk.GetArrayFromImage(whole)
    voxels[:16], voxels[24:] = 0, 0
    found = align(whole, in_header(image_of(voxels), truth), COARSE, seed=1)
    assert np.abs(np.log(scales(found.matrix))).max() < np.log(1.1)
    assert off_mm(found.matrix, truth) < 4
    single = align(whole, image_of(voxels), replace(COARSE, multi_start=False), seed=1)
    assert np.abs(np.log(scales(single.matrix))).max() < np.log(1.1)


@pytest.mark.parametrize("scale", [1.0, 0.2])
def test_a_similarity_takes_the_place_of_an_affine_result_that_collapsed(monkeypatch: pytest.MonkeyPatch, scale: float) -> None:
    """Not where the similarity is implausible itself."""
    plain = np.diag([scale, scale, scale, 1.0])

    def stages(run: Any, *_: Any, **__: Any) -> tuple[np.ndarray, list[Any]]:
        return (np.diag([0.01, 1.0, 1.0, 1.0]) if "affine" in run.settings.stages else plain), []

    room = importlib.import_module("HyperPredictRegLib.alignment.align")
    monkeypatch.setattr(room._Run, "later_stages", stages)
    # A flat image fits well: what it shows changes along two directions only.
    monkeypatch.setattr(room, "worth", lambda pose, _: 1 / np.linalg.svd(pose[:3, :3])[1].min())
    if scale < 0.4:
        with pytest.raises(RegistrationError, match="collapsed"):
            align(organ(), organ(), COARSE, seed=1)
        return
    found = align(organ(), organ(), COARSE, seed=1)
    assert np.allclose(found.matrix[:3, :3], np.eye(3))
    (refusal,) = found.refusals
    assert "collapsed" in refusal and "left and right" in refusal and refusal in found.warnings


def test_thin_plates_are_laid_on_each_other() -> None:
    plate = sitk.RegionOfInterest(organ(), (40, 40, 6), (0, 0, 17))
    truth = turn(70, (1, 1, 0.6), (15, 10, -20))
    found = align(plate, in_header(plate, truth), COARSE, seed=1)
    assert off_mm(found.matrix, truth) < 3


def test_a_shell_with_struts_is_found_upside_down() -> None:
    """As a skull in CT: thin, bright, mostly empty, and more of the neighbourhood in one view than in the other."""
    far = radius(50, 66, 56)
    k, j, i = np.indices(GRID.size)
    bone = (np.abs(far - 0.95) < 0.07) | ((far < 0.9) & (((np.abs(i - 14) < 2) & (k > 20)) | ((np.abs(j - 27) < 2) & (i > 22))))
    voxels = np.where(far < 1.05, 20, 0) + 200 * bone
    truth = turn(170, (0.4, 1, -0.7), (18, -12, 8))
    paw = np.where((k > 33) & (np.abs(j - 20) < 5) & (np.abs(i - 20) < 5), 150, 0)
    found = align(image_of(voxels), in_header(image_of(np.maximum(voxels, paw)), truth), COARSE, seed=1)
    assert off_mm(found.matrix, truth) < 3


def test_an_object_that_looks_the_same_when_turned_is_said_to() -> None:
    """Two poses fit equally: the one that needs less turning is taken, and a sentence tells."""
    pattern = texture(7)
    twofold = (pattern + pattern[:, ::-1, ::-1]) / 2
    voxels = np.where(radius(60, 45, 45) < 1, 40 + 100 * twofold, 0)
    noisy = voxels + np.random.default_rng(1).normal(0, 80, voxels.shape) * (voxels > 0)
    found = align(image_of(voxels), image_of(noisy), replace(COARSE, multi_start_step_degrees=90), seed=1)
    assert off_mm(found.matrix, np.eye(4)) < 6
    asymmetric = align(organ(), organ(), COARSE, seed=1)
    assert not any("nearly equally well" in doubt for doubt in asymmetric.doubts)
    assert any("nearly equally well" in doubt for doubt in found.doubts)


def test_a_search_everywhere_is_repeatable_and_can_be_cancelled() -> None:
    whole = organ()
    half = in_header(sitk.RegionOfInterest(whole, (20, 40, 40), (20, 0, 0)), turn(55, (1, -2, 0.5), (30, -20, 25)))
    rough = replace(COARSE, stages=("rigid",), iterations=(5, 5), multi_start_step_degrees=90, multi_start_refined=1)
    one, again = (align(whole, half, rough, seed=3).transform.GetParameters() for _ in range(2))
    assert one == again
    messages: list[str] = []
    with pytest.raises(Cancelled):
        align(
            whole, half, rough, seed=3, progress=lambda event: messages.append(event.message),
            cancelled=lambda: "Looking for the pose everywhere" in messages,
        )
    assert messages[-1] == "Looking for the pose everywhere"


def test_only_flat_cuts_are_taken_for_padding() -> None:
    whole = organ()
    assert measured_box(whole) is None
    voxels = sitk.GetArrayFromImage(whole)
    voxels[:16] = 0
    assert measured_box(image_of(voxels)) == ((0, 0, 16), (40, 40, 24))
    voxels[:, :, 30:] = 0
    assert measured_box(image_of(voxels)) == ((0, 0, 16), (30, 40, 24))
    assert measured_box(image_of(np.zeros(GRID.size))) is None
    assert measured_box(image_of(np.pad(texture()[:32, :32, :32], 4, constant_values=-1000))) == ((4, 4, 4), (32, 32, 32))


def test_faces_that_cut_anatomy_off_are_told_from_background() -> None:
    cut = sitk.RegionOfInterest(organ(), (20, 40, 40), (20, 0, 0))
    assert open_faces(cut, 0.0, 5.0).tolist() == [[True, False, False], [False, False, False]]
    assert not open_faces(organ(), 0.0, 5.0).any()


@pytest.mark.data
def test_real_halves_and_slabs(data_folder) -> None:
    """Half of a fetal brain, and 30 mm of a brain in zeros against another brain."""
    brain = sitk.ReadImage(str(data_folder / "fetal-t2" / "sb_ga24_notop_img.nii.gz"), sitk.sitkFloat32)
    truth, size = turn(35, (1, 0.5, -1), (10, -8, 6)), brain.GetSize()
    half = in_header(sitk.RegionOfInterest(brain, (size[0], size[1] // 2, size[2]), (0, 0, 0)), truth)
    centre = Geometry.of(brain).centre_lps
    found = align(brain, half, COARSE, seed=1)
    assert np.linalg.norm(found.matrix[:3, :3] @ centre + found.matrix[:3, 3] - truth[:3, :3] @ centre - truth[:3, 3]) < 1.6
    assert np.abs(np.log(scales(found.matrix))).max() < 0.05
