"""Greedy diffeomorphic registration: the array arithmetic against scipy's, the algorithm on small organs, and bad input."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import blob_image, blob_labels
from HyperPredictRegLib.core.errors import Cancelled, InputError
from HyperPredictRegLib.core.progress import ProgressEvent
from HyperPredictRegLib.core.resources import threads
from HyperPredictRegLib.engines import engine_settings, voxel_fields
from HyperPredictRegLib.engines.base import RegistrationTask, for_pair
from HyperPredictRegLib.engines.diffeo import DiffeoEngine, in_millimeters
from HyperPredictRegLib.engines.diffeo_scheme import DiffeoSettings, PreparedLevel, Scheme
from HyperPredictRegLib.engines.masked_array import MaskedArray
from HyperPredictRegLib.engines.pyramid import Level
from HyperPredictRegLib.engines.similarity import SIMILARITIES, Similarity
from HyperPredictRegLib.engines.voxel_fields import Sampler, Workers, compose, scale_update, smooth, window_sum
from HyperPredictRegLib.quality.metrics import dice_coefficients, folding_percent, jacobian_determinant
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import displacement_field
from scipy import ndimage

GRID = Geometry((40, 36, 32), (2.0, 2.0, 2.0), (-30.0, 11.0, 5.0), (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
SHAPE = (23, 34, 29)
QUICK = DiffeoSettings(iterations=(20, 20, 10))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut even small arrays into parts, so that their seams are seen."""
    monkeypatch.setattr(voxel_fields, "_PART_VOXELS", 6000)


@pytest.fixture
def workers() -> Workers:
    return Workers()


def pair() -> tuple[sitk.Image, sitk.Image]:
    """Return an organ and the same organ shifted by 4 mm and deformed, intensities 0 to about 1."""
    images = blob_image(GRID), blob_image(GRID, shift_mm=(3.0, -2.0, 2.0), deform=0.4)
    fixed, moving = (sitk.Cast(image / 160, sitk.sitkFloat32) for image in images)
    return fixed, moving


def recolored(image: sitk.Image) -> sitk.Image:
    """Return an organ in a contrast that no rising or falling curve of grey values leads to."""
    voxels = sitk.GetArrayFromImage(image)
    changed = np.interp(voxels, (0, 0.45, 0.62, 1.0), (0, 1.0, 0.7, 0.2)).astype(np.float32)
    return GRID.apply_to(sitk.GetImageFromArray(changed))


def voxels(transform: sitk.Transform, grid: Geometry = GRID) -> np.ndarray:
    return sitk.GetArrayFromImage(displacement_field(transform, grid))


def registered(fixed: sitk.Image, moving: sitk.Image, settings: DiffeoSettings = QUICK, **given: Any) -> sitk.Transform:
    return DiffeoEngine().register(RegistrationTask(fixed, moving, {}, settings, 1, **given)).transform


def mean_dice(fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform | None) -> float:
    grid = Geometry.of(fixed)
    warped = grid.resample(blob_labels(moving * 160), transform, interpolator=sitk.sitkNearestNeighbor)
    return float(np.mean(list(dice_coefficients(blob_labels(fixed * 160), warped).values())))


def random_field(size: float, sigma: float = 2.5) -> np.ndarray:
    noise = np.random.default_rng(3).standard_normal((3, *SHAPE)).astype(np.float32)
    field = np.stack([ndimage.gaussian_filter(component, sigma) for component in noise])
    return field * np.float32(size / np.abs(field).max())


def test_warping_interpolates_as_scipy_does(workers: Workers) -> None:
    image, field = np.random.default_rng(1).random(SHAPE, np.float32), random_field(6.0)
    expected = ndimage.map_coordinates(image, np.indices(SHAPE) + field, order=1, mode="nearest")
    np.testing.assert_allclose(Sampler([image, image * 2]).warped(field, workers)[1], 2 * expected, atol=1e-4)


def test_sharp_warping_loses_less_than_linear_interpolation_and_nothing_where_that_loses_nothing(workers: Workers) -> None:
    image = np.random.default_rng(1).random(SHAPE, np.float32)
    image, field = ndimage.gaussian_filter(image, 1.0), random_field(3.0)
    expected = ndimage.map_coordinates(image, np.indices(SHAPE) + field, order=5, mode="nearest")
    inner = (slice(4, -4),) * 3
    linear, sharp = (np.abs(Sampler([image], sharp=n).warped(field, workers)[0] - expected)[inner].mean() for n in (0, 1))
    assert sharp < 0.4 * linear
    ramp = (np.indices(SHAPE) * np.array([1.0, -2.0, 0.5])[:, None, None, None]).sum(axis=0).astype(np.float32)
    plain, curved = Sampler([ramp, ramp], sharp=1).warped(field, workers)
    np.testing.assert_allclose(plain[inner], curved[inner], atol=1e-4)


@pytest.mark.parametrize("radii", [(2, 2, 2), (0, 1, 3)])
def test_window_sums_are_those_of_scipy(workers: Workers, radii: tuple[int, int, int]) -> None:
    image = np.random.default_rng(1).random(SHAPE, np.float32)
    widths = [2 * radius + 1 for radius in radii]
    expected = ndimage.uniform_filter(image, widths, mode="nearest") * np.prod(widths)
    np.testing.assert_allclose(window_sum(image.copy(), radii, workers), expected, rtol=1e-4)


@pytest.mark.parametrize("sigma", [0.4, 0.7, 1.3, 3.0])
def test_smoothing_has_the_variance_of_its_gaussian(workers: Workers, sigma: float) -> None:
    image = np.zeros((41, 41, 41), np.float32)
    image[20, 20, 20] = 1
    smoothed = smooth(image, (sigma, 0.0, sigma / 2), workers)
    assert smoothed.sum() == pytest.approx(1, abs=1e-4)
    assert (smoothed >= 0).all()
    for axis, expected in ((0, sigma), (1, 0.0), (2, sigma / 2)):
        profile = smoothed.sum(axis=tuple({0, 1, 2} - {axis}))
        # Cut off at three standard deviations, a sampled Gaussian has lost three hundredths of its variance.
        assert profile @ (np.arange(41) - 20) ** 2 == pytest.approx(expected**2, rel=0.04, abs=1e-5)


def test_smoothing_leaves_a_constant_as_it_is_up_to_the_edges(workers: Workers) -> None:
    for sigma in (0.5, 1.2, 3.0):
        np.testing.assert_allclose(smooth(np.full((9, 7, 2), 3, np.float32), (sigma,) * 3, workers), 3, rtol=1e-5)


def test_composing_follows_the_update_first_and_the_field_from_there(workers: Workers) -> None:
    field, update = random_field(3.0, 4.0), random_field(0.5, 4.0)[::-1].copy()
    places = np.indices(SHAPE) + update
    expected = np.stack([ndimage.map_coordinates(c, places, order=1, mode="nearest") for c in field]) + update
    change = np.abs(expected - field - update).max()
    compose(field, update, workers)
    assert np.abs(field - expected).max() < 0.1 * change


def test_updates_are_scaled_as_a_whole_and_only_down_to_the_limit(workers: Workers) -> None:
    update = random_field(0.2)
    scaled = update.copy()
    scale_update(scaled, 2.0, 0.9, workers)
    np.testing.assert_allclose(scaled, 2 * update)
    scale_update(scaled, 2.0, 0.3, workers)
    assert np.sqrt((scaled**2).sum(axis=0)).max() == pytest.approx(0.3, rel=1e-5)
    np.testing.assert_allclose(scaled / np.abs(scaled).max(), update / np.abs(update).max(), atol=1e-5)


def test_a_field_of_voxels_becomes_millimeters() -> None:
    field = np.random.default_rng(1).standard_normal((3, *GRID.size[::-1])).astype(np.float32)
    image = in_millimeters(field, GRID)
    # One voxel along i is 2 mm along the first column of the direction.
    at = (5, 6, 7)
    displaced = GRID.to_lps(np.array(at) + field[::-1, at[2], at[1], at[0]]) - GRID.to_lps(at)
    np.testing.assert_allclose(image[at], displaced, atol=1e-4)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_the_force_points_to_where_the_images_agree(workers: Workers, name: str) -> None:
    k, j, i = np.indices(SHAPE)
    fixed = np.exp(-((k - 11) ** 2 + (j - 17) ** 2 + (i - 14) ** 2) / 40).astype(np.float32)
    similarity = Similarity(name, ((1, 1, 1), (2, 2, 2)), 0.06, (1.0, 1.0, 1.0))
    for axis in range(3):
        moving = np.roll(fixed, 1, axis)
        channels = [similarity.channels(image, None, workers) for image in (fixed, moving)]
        update, value = similarity.force(*channels, None, 0.5, workers)
        assert value > 0
        pulls = [float(component[fixed > 0.3].sum()) for component in update]
        # The moving image lies one voxel further along the axis: that is where its voxels must be looked up.
        assert pulls[axis] > 0
        assert pulls[axis] > 3 * max(abs(pull) for n, pull in enumerate(pulls) if n != axis)
        assert np.sqrt((update**2).sum(axis=0)).max() <= 0.5 + 1e-5


@pytest.mark.parametrize("name", SIMILARITIES)
def test_registration_brings_the_structures_together_without_folding(name: str) -> None:
    fixed, moving = pair()
    transform = registered(fixed, moving, DiffeoSettings(similarity=name, iterations=(30, 30, 15)))
    assert mean_dice(fixed, moving, transform) > mean_dice(fixed, moving, None) + 0.1
    ones = GRID.apply_to(sitk.Image(GRID.size, sitk.sitkUInt8) + 1)
    assert folding_percent(jacobian_determinant(displacement_field(transform, GRID)), ones).grid == 0.0


def test_self_similarity_registers_another_contrast() -> None:
    fixed, moving = pair()
    found = {}
    for name in ("lncc", "mind"):
        settings = DiffeoSettings(similarity=name, iterations=(30, 30, 15))
        task = RegistrationTask(fixed, recolored(moving), {}, settings, 1)
        transform = DiffeoEngine().register(task).transform
        found[name] = mean_dice(fixed, moving, transform)
    assert found["mind"] > 0.8
    assert found["mind"] > found["lncc"] + 0.2


def test_thick_slices_are_taken_in_millimeters() -> None:
    """The same anatomy sampled three times as coarsely along one axis deforms by about the same millimeters."""
    fixed, moving = pair()
    thick = Geometry((40, 36, 11), (2.0, 2.0, 6.0), tuple(GRID.to_lps((0, 0, 0.5))), GRID.direction)
    fine = voxels(registered(fixed, moving))
    coarse_transform = registered(thick.resample(fixed), thick.resample(moving))
    coarse = voxels(coarse_transform, thick)
    inside = sitk.GetArrayFromImage(thick.resample(fixed)) > 0.5
    expected = sitk.GetArrayFromImage(thick.resample(GRID.apply_to(sitk.GetImageFromArray(fine, isVector=True))))
    lengths = np.linalg.norm(coarse[inside], axis=1).mean(), np.linalg.norm(expected[inside], axis=1).mean()
    assert lengths[0] == pytest.approx(lengths[1], rel=0.25)
    assert np.linalg.norm(coarse[inside] - expected[inside], axis=1).mean() < 0.5 * lengths[1]
    assert mean_dice(thick.resample(fixed), thick.resample(moving), coarse_transform) > 0.8


def test_the_pyramid_waits_with_coarse_axes() -> None:
    levels = Scheme(DiffeoSettings(coarsest_voxels=16), 0.5, 1.2, spacing=(10.0, 1.5, 1.5)).levels((10, 118, 125))
    assert [level.factor for level in levels] == [4, 2, 1]
    for level in levels:
        assert level.factors[0] == 1.0
        assert len(level.places[0]) == 10
        # As far from one face as from the other.
        np.testing.assert_allclose(level.places[2][0], 124 - level.places[2][-1])


def test_any_number_of_threads_gives_the_same_result() -> None:
    fixed, moving = pair()
    fields = []
    for count in (1, 2, 3):
        with threads(count):
            fields.append(voxels(registered(fixed, moving)))
    np.testing.assert_array_equal(fields[0], fields[1])
    np.testing.assert_array_equal(fields[0], fields[2])


def test_a_pair_that_is_prepared_once_gives_what_single_registrations_give() -> None:
    fixed, moving = pair()
    half = np.ones(GRID.size[::-1], np.uint8)
    half[:, :, 30:] = 0
    mask = GRID.holding(half)
    task = RegistrationTask(fixed, moving, {}, QUICK, 1, fixed_mask=mask)
    together = for_pair(DiffeoEngine(), task)
    for setting in ({"regularization_weight": 0.4}, {"regularization_weight": 1.5, "fluid_sigma": 2.0}, {}):
        one, other = together(setting), DiffeoEngine().register(replace(task, setting=setting))
        np.testing.assert_array_equal(voxels(one.transform), voxels(other.transform))
        assert [level.values for level in one.levels] == [level.values for level in other.levels]
        assert (one.setting, one.notes) == (other.setting, other.notes)


def test_settings_of_one_pair_prepare_each_level_once_and_anew_where_that_was_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed, moving = pair()
    prepare, prepared = Scheme._prepared, []

    def counted(self: Scheme, level: Level, *given: Any) -> PreparedLevel:
        prepared.append(level.number)
        if prepared == [0, 1]:
            raise Cancelled
        return prepare(self, level, *given)

    monkeypatch.setattr(Scheme, "_prepared", counted)
    register = for_pair(DiffeoEngine(), RegistrationTask(fixed, moving, {}, QUICK, 1))
    with pytest.raises(Cancelled):
        register({})
    found = [register(setting) for setting in ({}, {"regularization_weight": 1.5}, {})]
    numbers = [level.level for level in found[0].levels]
    assert len(numbers) > 2 and prepared == [0, 1, *numbers[1:]]
    np.testing.assert_array_equal(voxels(found[0].transform), voxels(found[2].transform))


def test_either_parameter_makes_the_field_smoother() -> None:
    fixed, moving = pair()
    for name, values in (("regularization_weight", (0.3, 0.8, 2.0)), ("fluid_sigma", (0.8, 1.6, 3.0))):
        spreads = []
        for value in values:
            result = DiffeoEngine().register(RegistrationTask(fixed, moving, {name: value}, QUICK, 1))
            spreads.append(sitk.GetArrayFromImage(jacobian_determinant(displacement_field(result.transform, GRID))).std())
        assert spreads[0] > spreads[1] > spreads[2], name


def test_what_a_mask_leaves_out_does_not_pull() -> None:
    fixed, moving = pair()
    k, j, i = np.indices(GRID.size[::-1])
    distance = np.hypot(np.hypot(i - 5, j - 5), k - 5)
    spot = GRID.apply_to(sitk.GetImageFromArray((distance < 3).astype(np.float32)))
    inside = GRID.apply_to(sitk.GetImageFromArray((distance > 7).astype(np.uint8)))
    for name in SIMILARITIES:
        settings = DiffeoSettings(similarity=name, iterations=(15, 15, 5))
        clean = voxels(registered(fixed, moving, settings, fixed_mask=inside, moving_mask=inside))
        masked = voxels(registered(fixed, moving + spot, settings, fixed_mask=inside, moving_mask=inside))
        np.testing.assert_array_equal(masked, clean)
        only_moving = voxels(registered(fixed, moving + spot, settings, moving_mask=inside))
        pulled = voxels(registered(fixed, moving + spot, settings))
        near = (distance > 3) & (distance < 6)
        moved = [np.linalg.norm((field - clean)[near], axis=1).mean() for field in (only_moving, pulled)]
        assert moved[0] < 0.5 * moved[1], name


def test_what_lies_beyond_the_common_view_does_not_pull() -> None:
    fixed, moving = pair()
    inside = np.zeros(GRID.size[::-1], np.uint8)
    inside[:, 14:] = 1
    view = GRID.apply_to(sitk.GetImageFromArray(inside))
    zero = sitk.Mask(fixed, view), sitk.Mask(moving, view)
    seen = voxels(registered(*zero, view=view))
    np.testing.assert_array_equal(voxels(registered(fixed + sitk.Cast(view == 0, sitk.sitkFloat32), moving, view=view)), seen)
    np.testing.assert_array_equal(voxels(registered(*zero, fixed_mask=view, moving_mask=view)), seen)
    assert np.abs(voxels(registered(*zero)) - seen).max() > 0.5
    half = inside.copy()
    half[20:] = 0
    mask = GRID.apply_to(sitk.GetImageFromArray(half))
    both = voxels(registered(fixed, moving, fixed_mask=mask, moving_mask=mask))
    np.testing.assert_array_equal(voxels(registered(fixed, moving, view=view, fixed_mask=mask, moving_mask=mask)), both)


def test_the_similarity_is_chosen_by_the_contrast_inside_and_said() -> None:
    fixed, moving = pair()
    given = RegistrationTask(fixed, moving, {}, DiffeoSettings(iterations=(5,)), 1)
    found = DiffeoEngine().register(given)
    assert "same contrast" in found.notes[0]
    assert "'lncc'" in found.notes[0]
    plain = DiffeoEngine().register(replace(given, settings=DiffeoSettings(similarity="lncc", iterations=(5,))))
    np.testing.assert_array_equal(voxels(found.transform), voxels(plain.transform))
    assert not plain.notes
    other = DiffeoEngine().register(replace(given, moving=recolored(moving)))
    assert "differ in contrast" in other.notes[0]
    assert "'mind'" in other.notes[0]
    assert "(mind)" in other.levels[0].metric


def test_a_pair_that_fits_already_stops_at_once() -> None:
    fixed, _ = pair()
    result = DiffeoEngine().register(RegistrationTask(fixed, fixed, {}, QUICK, 1))
    assert np.abs(voxels(result.transform)).max() < 1e-4
    for trace in result.levels:
        assert not trace.hit_iteration_limit
        assert "converged" in trace.stop_meaning


def test_levels_that_run_out_of_iterations_say_so() -> None:
    fixed, moving = pair()
    result = DiffeoEngine().register(RegistrationTask(fixed, moving, {}, DiffeoSettings(iterations=(3,)), 1))
    assert all(trace.hit_iteration_limit and len(trace.values) == 3 for trace in result.levels)


def test_cancelling_is_asked_for_between_the_parts_of_an_iteration() -> None:
    fixed, moving = pair()
    asked: list[int] = []
    events: list[ProgressEvent] = []

    def cancelled() -> bool:
        asked.append(len(events))
        return asked.count(1) > 10

    with pytest.raises(Cancelled):
        registered(fixed, moving, progress=events.append, cancelled=cancelled)
    assert asked.count(1) == 11
    assert asked[-1] == 1


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("role", ["fixed", "moving"])
def test_voxels_that_are_no_numbers_are_refused(role: str, wrong: float) -> None:
    images = dict(zip(("fixed", "moving"), pair(), strict=True))
    broken = sitk.GetArrayFromImage(images[role])
    broken[10, 10, 10] = wrong
    images[role] = GRID.apply_to(sitk.GetImageFromArray(broken))
    with pytest.raises(InputError, match=f"The {role} image has voxels that are NaN or infinite"):
        registered(**images)
    mask = np.ones_like(broken, np.uint8)
    mask[10, 10, 10] = 0
    masked = registered(**images, **{f"{role}_mask": GRID.apply_to(sitk.GetImageFromArray(mask))})
    assert np.isfinite(voxels(masked)).all()


def test_constant_images_and_empty_masks_are_refused() -> None:
    fixed, moving = pair()
    with pytest.raises(InputError, match="The moving image has one intensity only"):
        registered(fixed, moving * 0)
    empty = GRID.apply_to(sitk.Image(GRID.size, sitk.sitkUInt8))
    with pytest.raises(InputError, match="The mask of the fixed image has no voxel"):
        registered(fixed, moving, fixed_mask=empty)


def test_flat_volumes_are_registered_too() -> None:
    fixed, moving = (MaskedArray(sitk.GetArrayFromImage(image)[16:17]) for image in pair())
    field, _ = Scheme(QUICK, 0.5, 1.2).register(fixed, moving, workers=Workers())
    assert np.isfinite(field).all()
    assert np.abs(field[0]).max() == 0
    assert np.abs(field[1:]).max() > 0.5


@pytest.mark.parametrize(
    "settings",
    [
        {"similarity": "charm"},
        {"iterations": []},
        {"iterations": [0]},
        {"maximum_step_voxels": 0},
        {"maximum_step_voxels": 1.5},
        {"contrast_floor": 0},
        {"step_gain": -1},
        {"smoothing_voxels": -0.1},
        {"convergence_share": -1},
        {"window_voxels": []},
        {"window_voxels": [0]},
        {"coarsest_voxels": 1},
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(InputError):
        engine_settings(DiffeoEngine(), settings)
