"""The affine step on objects made up here, whose true transform is known."""

from __future__ import annotations

import gc
import itertools
import math
import weakref
from dataclasses import asdict, replace

import numpy as np
import pytest
import SimpleITK as sitk
from HyperPredictRegLib.alignment import Alignment, AlignmentSettings, align, foreground_points, stability
from HyperPredictRegLib.core.errors import Cancelled, InputError
from HyperPredictRegLib.core.json_records import from_json, to_json
from HyperPredictRegLib.core.progress import ProgressEvent
from HyperPredictRegLib.core.resources import threads
from HyperPredictRegLib.preprocessing.intensity import foreground
from HyperPredictRegLib.spatial.geometry import Geometry
from scipy.spatial.transform import Rotation

QUICK = AlignmentSettings(multi_start=False)
BLOBS = np.random.default_rng(3).uniform((-0.5, -0.8, -0.4, 0.07, -0.8), (0.5, 0.8, 0.4, 0.18, 0.8), size=(40, 5))


@pytest.fixture(autouse=True)
def _one_thread():
    with threads(1):
        yield


def rigid(angle: float, axis: tuple[float, float, float], shift: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(math.radians(angle) * np.array(axis) / np.linalg.norm(axis)).as_matrix()
    matrix[:3, 3] = shift
    return matrix


def organ(geometry: Geometry, to_object: np.ndarray, radius: float = 60.0) -> sitk.Image:
    """An ellipsoid with bright and dark spots that has no symmetry; `to_object` (4, 4) maps LPS mm to its centre."""
    k, j, i = np.indices(geometry.size[::-1])
    places = geometry.to_lps(np.stack([i, j, k], axis=-1))
    local = (places @ to_object[:3, :3].T + to_object[:3, 3]) / radius
    voxels = 1.0 + sum(b[4] * np.exp(-((local - b[:3]) ** 2).sum(-1) / (2 * b[3] ** 2)) for b in BLOBS)
    shell = np.linalg.norm(local / np.array([0.65, 1.0, 0.5]), axis=-1)
    voxels = voxels / (1 + np.exp((shell - 1) / 0.04))
    return geometry.apply_to(sitk.GetImageFromArray((100 * voxels).astype(np.float32)))


def grid_of(radius: float = 60.0, voxels: int = 36, centre: tuple[float, float, float] = (0, 0, 0)) -> Geometry:
    spacing = 2.6 * radius / voxels
    return Geometry((voxels,) * 3, (spacing,) * 3, tuple(c - spacing * (voxels - 1) / 2 for c in centre))


def pair(
    truth: np.ndarray, radius: float = 60.0, moving_grid: Geometry | None = None, voxels: int = 36
) -> tuple[sitk.Image, sitk.Image]:
    """A fixed image, and a moving one such that `truth` maps fixed to moving points."""
    grid = grid_of(radius, voxels)
    return organ(grid, np.eye(4), radius), organ(moving_grid or grid, np.linalg.inv(truth), radius)


def error_mm(result: Alignment, truth: np.ndarray, fixed: sitk.Image) -> float:
    points = foreground_points(foreground(fixed))
    return float(np.linalg.norm(points @ (result.matrix - truth)[:3, :3].T + (result.matrix - truth)[:3, 3], axis=1).mean())


AFFINE = rigid(9, (1, 2, 3), (4, -6, 3)) @ np.array([[1.08, 0.05, 0, 0], [0, 0.93, -0.04, 0], [0.03, 0, 1.03, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize("radius", [6.0, 17.0, 60.0])
def test_recovers_an_affine_transform_at_any_size(radius):
    truth = AFFINE.copy()
    truth[:3, 3] *= radius / 60
    fixed, moving = pair(truth, radius)
    result = align(fixed, moving, QUICK, seed=1)
    assert error_mm(result, truth, fixed) < 0.2 * fixed.GetSpacing()[0]
    assert result.warnings == ()
    assert (result.metric, result.contrast, result.starts_tried) == ("correlation", "same", 1)


def test_size_of_the_object_changes_nothing_but_the_unit():
    big, small = (align(*pair(np.diag([1.1, 1, 1, 1]), radius), QUICK, seed=1).matrix for radius in (64.0, 8.0))
    assert np.abs(big[:3, :3] - small[:3, :3]).max() < 1e-3
    assert np.abs(big[:3, 3] - 8 * small[:3, 3]).max() < 0.05


def test_grids_may_differ_in_everything(oblique):
    turned = Geometry((40, 30, 26), (3.0, 4.5, 6.0), direction=oblique.direction)
    away = tuple(np.array([300.0, -500.0, 80.0]) - turned.centre_lps)
    grid = replace(turned, origin=away)
    truth = rigid(0, (1, 0, 0), (300, -500, 80)) @ AFFINE
    fixed, moving = pair(truth, 60.0, grid)
    assert error_mm(align(fixed, moving, QUICK, seed=1), truth, fixed) < 0.5


@pytest.mark.parametrize("angle", [100, 170])
def test_rotated_starts_find_what_a_single_start_misses(angle):
    truth = rigid(angle, (1, -2, 0.5), (20, 10, -15))
    fixed, moving = pair(truth, 60.0, grid_of(80.0, 48))
    found = align(fixed, moving, seed=1)
    assert error_mm(found, truth, fixed) < 0.5
    assert found.starts_tried > 100
    assert error_mm(align(fixed, moving, QUICK, seed=1), truth, fixed) > 20


def test_one_thread_gives_equal_bits_and_other_seeds_give_almost_the_same():
    settings = replace(QUICK, metric="mattes", sampling_percentages=(50, 50, 10))
    fixed, moving = pair(AFFINE, voxels=56)
    first, again, other = (align(fixed, moving, settings, seed=s) for s in (5, 5, 6))
    assert first.transform.GetParameters() == again.transform.GetParameters()
    assert [level.values for level in first.levels] == [level.values for level in again.levels]
    assert first.transform.GetParameters() != other.transform.GetParameters()
    assert error_mm(other, first.matrix, fixed) < 0.5


@pytest.mark.parametrize(("stages", "linear"), [((), "identity"), (("rigid",), "rotation"), (("rigid", "similarity"), "scaled")])
def test_stages_limit_what_the_result_can_be(stages, linear):
    fixed, moving = pair(rigid(8, (0, 0, 1)) @ np.diag([1.1, 1.1, 1.1, 1]))
    result = align(fixed, moving, replace(QUICK, stages=stages), seed=1)
    product = result.matrix[:3, :3].T @ result.matrix[:3, :3]
    scale = np.sqrt(product[0, 0])
    assert np.allclose(product, scale**2 * np.eye(3), atol=1e-9)
    assert [level.stage for level in result.levels] == list(stages[:-1]) + 3 * list(stages[-1:])
    assert scale == pytest.approx(1.1, abs=0.005) if linear == "scaled" else scale == pytest.approx(1)
    assert (result.metric == "none") == (stages == ())
    if linear == "identity":
        assert np.array_equal(result.matrix[:3, :3], np.eye(3))


@pytest.mark.parametrize("start", ["moments", "geometry", "identity"])
def test_start_alone(start):
    fixed, moving = pair(rigid(0, (1, 0, 0), (12, 0, 0)), 60.0, grid_of(60.0, 36, (5, 0, 0)))
    shift = align(fixed, moving, replace(QUICK, stages=(), start=start), seed=1).matrix[:3, 3]
    assert shift[0] == pytest.approx({"moments": 12, "geometry": 5, "identity": 0}[start], abs=0.3)


def test_initial_transform_is_the_start_and_no_others_are_tried():
    truth = rigid(120, (1, 1, 0), (10, 0, 0))
    fixed, moving = pair(truth, 60.0, grid_of(80.0, 48))
    near = rigid(110, (1, 1, 0), (5, 5, 0))
    given = sitk.CompositeTransform([sitk.TranslationTransform(3, near[:3, 3].tolist()), rotation(near)])
    result = align(fixed, moving, seed=1, initial_transform=given)
    assert result.starts_tried == 1
    assert error_mm(result, truth, fixed) < 0.5
    retained = align(fixed, moving, replace(QUICK, stages=()), seed=1, initial_transform=given)
    assert np.allclose(retained.matrix, near, atol=1e-6)


def rotation(matrix: np.ndarray) -> sitk.AffineTransform:
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    return transform


@pytest.mark.parametrize(("given", "message"), [
    (sitk.BSplineTransform(3), None),
    (sitk.TranslationTransform(3, (5000.0, 0.0, 0.0)), "do not overlap at the start"),
    (rotation(np.diag([-1, 1, 1, 1])), "mirrors"),
    (sitk.Euler2DTransform(), "not a 3-D"),
])
def test_unusable_initial_transforms(given, message):
    fixed, moving = pair(np.eye(4))
    if message is None:
        given = sitk.BSplineTransformInitializer(fixed, [4, 4, 4])
        given.SetParameters(np.random.default_rng(0).normal(0, 9, given.GetNumberOfParameters()).tolist())
        message = "not linear"
    with pytest.raises(InputError, match=message):
        align(fixed, moving, QUICK, seed=1, initial_transform=given)


def test_unusable_images_and_masks():
    fixed, moving = pair(np.eye(4))
    holed = sitk.GetArrayFromImage(moving)
    holed[3, 3, 3] = np.nan
    with pytest.raises(InputError, match="moving image has voxels that are not numbers"):
        align(fixed, Geometry.of(moving).apply_to(sitk.GetImageFromArray(holed)), QUICK, seed=1)
    with pytest.raises(InputError, match="fixed mask is empty"):
        align(fixed, moving, QUICK, seed=1, fixed_mask=sitk.Cast(fixed * 0, sitk.sitkUInt8))
    with pytest.raises(InputError, match="moving foreground does not lie on the grid"):
        align(fixed, moving, QUICK, seed=1, moving_foreground=foreground(fixed)[1:])
    with pytest.raises(InputError, match="not a 3-D image"):
        align(fixed[:, :, 5], moving, QUICK, seed=1)
    with pytest.raises(InputError, match="do not overlap at the start"):
        far = sitk.Image(moving)
        far.SetOrigin((9000.0, 0.0, 0.0))
        align(fixed, far, replace(QUICK, start="identity"), seed=1)


def test_masks_keep_a_disturbance_out():
    truth = rigid(6, (0, 1, 1), (5, 0, 0))
    fixed, moving = pair(truth)
    voxels = sitk.GetArrayFromImage(moving)
    voxels[:, :12, :] = 300
    spoilt = Geometry.of(moving).apply_to(sitk.GetImageFromArray(voxels))
    mask = np.ones_like(voxels, dtype=np.uint8)
    mask[:, :14, :] = 0
    mask_image = Geometry.of(moving).apply_to(sitk.GetImageFromArray(mask))
    whole = foreground(moving)
    settings = replace(QUICK, stages=("rigid",))
    masked = align(fixed, spoilt, settings, seed=1, moving_foreground=whole, moving_mask=mask_image)
    unmasked = align(fixed, spoilt, settings, seed=1, moving_foreground=whole)
    assert error_mm(masked, truth, fixed) < 1.0
    assert error_mm(unmasked, truth, fixed) > 3 * error_mm(masked, truth, fixed)


def inverted(image: sitk.Image) -> sitk.Image:
    """Another contrast: bright tissue dark, background black."""
    inside = sitk.Cast(foreground(image), sitk.sitkFloat32)
    return (300.0 - image) * inside


def test_contrast_is_measured_and_decides_the_metric():
    fixed, moving = pair(AFFINE)
    result = align(fixed, inverted(moving), QUICK, seed=1)
    assert (result.contrast, result.metric) == ("different", "mattes")
    assert result.correlation < 0
    assert error_mm(result, AFFINE, fixed) < 0.6 * fixed.GetSpacing()[0]
    told = align(fixed, moving, replace(QUICK, contrast="different"), seed=1)
    assert told.metric == "mattes"
    assert align(fixed, moving, replace(QUICK, metric="mean_squares"), seed=1).metric == "mean_squares"


def test_progress_grows_to_one_and_takes_the_metric():
    fixed, moving = pair(AFFINE)
    events: list[ProgressEvent] = []
    align(fixed, moving, QUICK, seed=1, progress=events.append)
    fractions = [e.fraction for e in events]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert sum(e.metric is not None for e in events) > 10


def test_images_too_small_for_the_levels_are_refused():
    voxels = np.random.default_rng(1).normal(size=(8, 8, 8)).astype(np.float32)
    image = Geometry((8, 8, 8), (2.0, 2.0, 2.0)).apply_to(sitk.GetImageFromArray(voxels))
    with pytest.raises(InputError, match="too small or too thin"):
        align(image, image, seed=1)


def test_nothing_of_a_run_stays_in_memory():
    class Listener:
        def __call__(self, event: ProgressEvent) -> None:
            pass

    listener = Listener()
    gone = weakref.ref(listener)
    fixed, moving = pair(AFFINE)
    align(fixed, moving, QUICK, seed=1, progress=listener)
    del listener
    gc.collect()
    assert gone() is None


def test_cancel_during_any_part():
    fixed, moving = pair(AFFINE, voxels=28)
    settings = replace(QUICK, multi_start=True)
    asked = 0

    def counted(stop_at: float) -> bool:
        nonlocal asked
        asked += 1
        return asked > stop_at

    align(fixed, moving, settings, seed=1, cancelled=lambda: counted(float("inf")))
    in_all = asked
    for share in (0.0, 0.3, 0.9):
        stop_at, asked = int(share * in_all), 0
        with pytest.raises(Cancelled):
            align(fixed, moving, settings, seed=1, cancelled=lambda stop_at=stop_at: counted(stop_at))
        # The optimiser asks once an iteration, and a level may be past its last question when the answer comes.
        assert asked <= stop_at + 3, share


def test_stability_of_a_sound_and_of_a_hopeless_pair():
    fixed, moving = pair(AFFINE)
    sound = stability(fixed, moving, QUICK, seeds=(1, 2))
    assert sound.stable
    assert sound.warnings == ()
    assert 0 <= sound.mean_spread_mm <= sound.largest_spread_mm
    assert np.allclose(np.array(sound.pairwise_mm), np.array(sound.pairwise_mm).T)
    assert np.diag(np.array(sound.pairwise_mm)).max() == 0
    rng = np.random.default_rng(1)
    noise = [Geometry.of(fixed).apply_to(sitk.GetImageFromArray(rng.normal(size=(36,) * 3).astype(np.float32))) for _ in range(2)]
    whole = sitk.Cast(fixed > -1, sitk.sitkUInt8)
    settings = replace(QUICK, stages=("rigid",), metric="correlation")
    hopeless = stability(*noise, settings, seeds=(1, 2, 3, 4), fixed_foreground=whole, moving_foreground=whole)
    assert not hopeless.stable
    assert "depends on chance" in hopeless.warnings[0]
    with pytest.raises(InputError, match="two different seeds"):
        stability(fixed, moving, QUICK, seeds=(4, 4))


@pytest.mark.parametrize(("change", "message"), [
    ({"stages": ("affine", "rigid")}, "in this order"),
    ({"stages": ("bspline",)}, "stages are"),
    ({"start": "centre"}, "start is 'centre', but it must be one of: moments"),
    ({"optimiser": "adam"}, "optimiser is 'adam'"),
    ({"shrink_factors": (1, 2, 4)}, "coarsest level first"),
    ({"shrink_factors": ()}, "at least one level"),
    ({"iterations": (5, 5)}, "one per level"),
    ({"sampling_percentages": (0, 10, 10)}, "number from 0.01 to 100"),
    ({"histogram_bins": 2}, "histogram_bins is 2"),
    ({"learning_rate": float("nan")}, "learning_rate is nan"),
    ({"multi_start_range_degrees": 200}, "from 0 to 180"),
])
def test_settings_that_make_no_sense(change, message):
    with pytest.raises(InputError, match=message):
        AlignmentSettings(**change)


@pytest.mark.parametrize(("seed", "message"), [(0, "mean the clock"), (-1, "whole number"), (1.5, "whole number")])
def test_seeds_that_fix_nothing(seed, message):
    with pytest.raises(InputError, match=message):
        align(*pair(np.eye(4)), QUICK, seed=seed)


def test_settings_survive_json():
    settings = AlignmentSettings(stages=("similarity",), iterations=(1, 2, 3))
    assert from_json(AlignmentSettings, to_json(settings), "settings") == settings
    assert asdict(settings)["iterations"] == (1, 2, 3)


def test_threads_are_restored_even_after_an_error():
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    with pytest.raises(KeyError), threads(3) as count:
        assert count == sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == 3
        raise KeyError
    assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == before
    with threads(None) as count:
        assert count == before
    with pytest.raises(InputError, match="at least 1"), threads(0):
        pass


@pytest.mark.data
@pytest.mark.slow
def test_real_brains_hard_start_and_overlap(data_folder):
    folder = data_folder / "brain-t1-nmm"
    fixed, moving = (sitk.ReadImage(str(folder / f"nmm_{s}_t1.nii.gz"), sitk.sitkFloat32) for s in ("1008", "1012"))
    labels = [sitk.ReadImage(str(folder / f"nmm_{s}_aseg.nii.gz")) for s in ("1008", "1012")]
    home = align(fixed, moving, QUICK, seed=1)
    turn = rigid(100, (1, 0.4, -0.7), (30, -20, 10))
    turned = sitk.Image(moving)
    turned.SetOrigin((turn[:3, :3] @ np.array(moving.GetOrigin()) + turn[:3, 3]).tolist())
    turned.SetDirection((turn[:3, :3] @ np.array(moving.GetDirection()).reshape(3, 3)).ravel().tolist())
    away = align(fixed, turned, seed=1)
    assert error_mm(away, turn @ home.matrix, fixed) < 1.0
    assert home.contrast == "same"
    warped = sitk.GetArrayFromImage(sitk.Resample(labels[1], labels[0], home.transform, sitk.sitkNearestNeighbor))
    there = sitk.GetArrayFromImage(labels[0])
    dice = [2 * np.sum((there == v) & (warped == v)) / (np.sum(there == v) + np.sum(warped == v)) for v in np.unique(there)[1:]]
    assert np.mean(dice) > 0.5


@pytest.mark.data
def test_real_hippocampi_stay_upright(data_folder):
    """Crops without background around them: whether or not rotated starts are tried, the scan's own orientation wins."""
    paths = sorted((data_folder / "hippocampus-msd04" / "images").glob("*.nii.gz"))[20:24]
    images = [sitk.ReadImage(str(p), sitk.sitkFloat32) for p in paths]
    for fixed, moving in itertools.pairwise(images):
        result = align(fixed, moving, AlignmentSettings(stages=("rigid",)), seed=1)
        assert np.degrees(Rotation.from_matrix(result.matrix[:3, :3]).magnitude()) < 45
