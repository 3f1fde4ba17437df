"""The search over displacements of a coarse grid: what it finds, when the engine takes it, and when it leaves all as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from HyperPredictRegLib.core.errors import Cancelled, InputError, RegistrationError
from HyperPredictRegLib.engines import large_motion
from HyperPredictRegLib.engines.base import ImageChannel, Registration, RegistrationTask, for_pair, settled
from HyperPredictRegLib.engines.diffeo import DiffeoEngine
from HyperPredictRegLib.engines.diffeo_scheme import DiffeoSettings
from HyperPredictRegLib.engines.large_motion import Side, searched
from HyperPredictRegLib.engines.start_search import StartSearch
from HyperPredictRegLib.engines.voxel_fields import Workers
from HyperPredictRegLib.quality.metrics import jacobian_determinant
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import displacement_field, field_transform
from scipy.ndimage import gaussian_filter, map_coordinates

SHAPE = (26, 30, 28)
GRID = Geometry((44, 40, 36), (2.0, 2.0, 2.0), (-30.0, 11.0, 5.0), (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0))


def texture(shape: tuple[int, ...], seed: int, sigma: float = 1.2) -> np.ndarray:
    """Return smooth noise of standard deviation 1."""
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma)
    return (noise / noise.std()).astype(np.float32)


def motion(shape: tuple[int, ...], mean: tuple[float, ...], sigma: float = 7.0, seed: int = 5) -> np.ndarray:
    """Return a smooth displacement of a voxel about a mean one, shape (3, k, j, i)."""
    around = np.stack([texture(shape, seed + axis, sigma) for axis in range(3)])
    return (around + np.reshape(mean, (3, 1, 1, 1))).astype(np.float32)


def moved(image: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Return an image at displaced voxels."""
    return np.asarray(map_coordinates(image, np.indices(image.shape) + field, order=1, mode="nearest"), np.float32)


def inner_error(found: np.ndarray, true: np.ndarray, margin: int = 5) -> float:
    """Return the mean distance of two fields in voxels, away from the faces, beyond which the other image shows nothing."""
    inner = (slice(None), *[slice(margin, -margin)] * 3)
    return float(np.linalg.norm((found - true)[inner], axis=0).mean())


@pytest.mark.parametrize("mean", [(3.0, -2.0, 0.0), (0.0, 0.0, 3.0), (-2.0, 2.0, 2.0)])
def test_motion_of_several_voxels_is_found(mean: tuple[float, ...]) -> None:
    moving, true = texture(SHAPE, 1), motion(SHAPE, mean)
    found = searched(Side([moved(moving, true)]), Side([moving]), (1, 1, 1), Workers())
    assert found.shape == true.shape and found.dtype == np.float32
    assert inner_error(found, true) < 0.35 * inner_error(0 * true, true)


def test_images_at_rest_stay_at_rest() -> None:
    image = texture(SHAPE, 2)
    assert np.abs(searched(Side([image]), Side([image]), (1, 1, 1), Workers())).max() < 0.05


def test_thick_slices_move_by_fewer_voxels() -> None:
    """Displacements are in voxels of each axis: one slice, and three voxels within it."""
    shape = (14, 34, 32)
    moving = np.asarray(gaussian_filter(np.random.default_rng(3).standard_normal(shape), (0.8, 1.2, 1.2)), np.float32)
    moving /= moving.std()
    true = np.empty((3, *shape), np.float32)
    true[:] = np.reshape((1.0, 3.0, -2.0), (3, 1, 1, 1))
    found = searched(Side([moved(moving, true)]), Side([moving]), (4.0, 1, 1), Workers())
    inner = (slice(None), slice(4, -4), slice(8, -8), slice(8, -8))
    np.testing.assert_allclose(found[inner].mean(axis=(1, 2, 3)), (1.0, 3.0, -2.0), atol=0.15)


def test_blocks_lie_where_their_voxels_do() -> None:
    """Motion that grows along an axis: half a block beside its place would be off by .1 voxels everywhere."""
    shape = (30, 30, 36)
    moving, true = texture(shape, 8), np.zeros((3, *shape), np.float32)
    true[2] = 0.2 * (np.arange(36) - 17.5)
    found = searched(Side([moved(moving, true)]), Side([moving]), (1, 1, 1), Workers())
    inner = (2, slice(8, -8), slice(8, -8), slice(8, -8))
    slope, middle = np.polyfit(np.arange(36)[8:-8] - 17.5, found[inner].mean(axis=(0, 1)), 1)
    assert slope == pytest.approx(0.2, abs=0.03)
    assert middle == pytest.approx(0.0, abs=0.05)


def test_both_directions_are_made_to_agree() -> None:
    """Fields that disagree meet half way; fields that are each other's inverse stay as they are."""
    shape, edges = (8, 8, 8), np.float32([2.0, 1.0, 1.0])
    forward, back = np.zeros((2, 3, *shape), np.float32)
    forward[1], back[1] = 2.0, 0.0
    np.testing.assert_allclose(large_motion._agreed(forward, back, edges)[1], 1.0, atol=1e-5)
    ramp = 0.5 * np.arange(8, dtype=np.float32)[:, None, None]
    forward[:], back[:] = 0, 0
    # In voxels of the finest axis; along k a block is two voxels of two units each.
    forward[0], back[0] = 4 * ramp / (1 - 0.5), -4 * ramp / (1 - 0.5) / (1 + 0.5 / (1 - 0.5))
    agreed = large_motion._agreed(forward.copy(), back.copy(), edges)
    np.testing.assert_allclose(agreed[0, :3], forward[0, :3], rtol=0.05, atol=0.05)


def test_what_is_seen_of_one_image_only_is_no_reason_to_move() -> None:
    """Places outside of a mask cost what a block costs on average, and not nothing."""
    image, seen = texture(SHAPE, 12), np.ones(SHAPE, np.float32)
    seen[:, :, :9] = 0
    noisy = image + 1.5 * texture(SHAPE, 13, 0.6)
    found = searched(Side([noisy]), Side([image], seen), (1, 1, 1), Workers())
    assert np.abs(found[:, 4:-4, 4:-4, 14:-4]).mean() < 0.3


def test_what_does_not_count_is_not_looked_at() -> None:
    moving, true = texture(SHAPE, 4), motion(SHAPE, (2.0, -1.0, 1.0))
    fixed, seen = moved(moving, true), np.ones(SHAPE, np.float32)
    seen[:, :, 20:] = 0
    spoiled = np.where(seen > 0, fixed, texture(SHAPE, 9) * 50)
    clean, found = (searched(Side([image], seen), Side([moving]), (1, 1, 1), Workers()) for image in (fixed, spoiled))
    np.testing.assert_array_equal(clean, found)


def least_jacobian(field: np.ndarray) -> float:
    """Return the least Jacobian determinant of a field in voxels, shape (3, k, j, i)."""
    shape = field.shape[1:]
    grid = Geometry(shape[::-1], (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    jacobian = jacobian_determinant(grid.holding(np.moveaxis(field[::-1], 0, -1), vectors=True))
    return float(sitk.GetArrayFromImage(jacobian).min())


def test_a_field_that_would_fold_is_smoothed_until_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    steep = np.zeros((3, 13, 15, 14), np.float32)
    steep[2] = np.where(np.arange(14) < 7, 4.0, -4.0)
    monkeypatch.setattr(large_motion, "_agreed", lambda *_: steep.copy())
    image = texture(SHAPE, 6)
    assert least_jacobian(np.repeat(np.repeat(np.repeat(steep, 2, 1), 2, 2), 2, 3)) < 0
    found = searched(Side([image]), Side([image]), (1, 1, 1), Workers())
    assert least_jacobian(found) > 0
    assert np.abs(found).max() > 1
    # What no smoothing mends is no start.
    monkeypatch.setattr(large_motion, "_MOST_SMOOTHING", 1)
    assert not searched(Side([image]), Side([image]), (1, 1, 1), Workers()).any()


def test_threads_change_nothing_and_a_user_can_stop() -> None:
    sides = Side([texture(SHAPE, 1)]), Side([texture(SHAPE, 2)])
    with Workers(3) as workers:
        np.testing.assert_array_equal(searched(*sides, (1, 1, 1), workers), searched(*sides, (1, 1, 1), Workers()))
    asked: list[int] = []
    with pytest.raises(Cancelled):
        searched(*sides, (1, 1, 1), Workers(1, lambda: bool(asked.append(1)) or len(asked) > 3))
    assert len(asked) == 4


def test_a_trial_that_diverges_leaves_the_registration_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed, moving, _ = far_apart()

    def diverged(*_: object) -> None:
        raise RegistrationError("diverged")

    monkeypatch.setattr(StartSearch, "best", diverged)
    plain, auto = (registered(fixed, moving, kind) for kind in ("never", "auto"))
    np.testing.assert_array_equal(*(sitk.GetArrayFromImage(displacement_field(r.transform, GRID)) for r in (plain, auto)))


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(count)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def far_apart(voxels: float = 4.0) -> tuple[sitk.Image, sitk.Image, np.ndarray]:
    """Return a texture, the same moved by several of its structures, and the displacements in mm, LPS, shape (k, j, i, 3)."""
    shape = GRID.size[::-1]
    moving = 0.5 + 0.15 * texture(shape, 11, 0.9)
    true = voxels * motion(shape, (0.0, 0.0, 0.0), sigma=10.0)
    images = [GRID.holding(image.astype(np.float32)) for image in (moved(moving, true), moving)]
    lps = np.moveaxis(true[::-1], 0, -1) * np.array(GRID.spacing) @ np.array(GRID.direction).reshape(3, 3).T
    return images[0], images[1], lps


def registered(fixed: sitk.Image, moving: sitk.Image, large_motion: str, **settings: object) -> Registration:
    return DiffeoEngine().register(
        RegistrationTask(fixed, moving, {}, DiffeoSettings(similarity="lncc", large_motion=large_motion, **settings), 1)  # type: ignore[arg-type]
    )


def error_mm(result: Registration, lps: np.ndarray) -> float:
    found = sitk.GetArrayFromImage(displacement_field(result.transform, GRID))
    inner = tuple([slice(6, -6)] * 3)
    return float(np.linalg.norm(found - lps, axis=-1)[inner].mean())


def test_the_engine_follows_motion_that_forces_miss() -> None:
    fixed, moving, lps = far_apart()
    plain, auto, always = (registered(fixed, moving, kind) for kind in ("never", "auto", "always"))
    assert error_mm(auto, lps) < 2.0 < 4.0 < error_mm(plain, lps)
    np.testing.assert_array_equal(*(sitk.GetArrayFromImage(displacement_field(r.transform, GRID)) for r in (auto, always)))
    assert "A search on a coarse grid found displacements of up to" in auto.notes[-1]
    assert "and the registration begins with them: the images then differ by" in auto.notes[-1]
    assert always.notes[-1].endswith(": the registration begins with them.")
    assert not [note for note in plain.notes if "search" in note]
    # The trace begins on the level of the search.
    assert [level.level for level in auto.levels] == list(range(auto.levels[0].level, plain.levels[-1].level + 1))


def test_where_little_is_left_unexplained_nothing_changes() -> None:
    fixed, moving, _ = far_apart(voxels=0.3)
    plain, auto = (registered(fixed, moving, kind) for kind in ("never", "auto"))
    np.testing.assert_array_equal(*(sitk.GetArrayFromImage(displacement_field(r.transform, GRID)) for r in (plain, auto)))
    assert plain.notes == auto.notes
    assert [level.values for level in plain.levels] == [level.values for level in auto.levels]


def test_a_search_that_finds_nothing_better_is_not_used() -> None:
    """A texture finer than the grid of the search, whose details it cannot tell apart."""
    grid = Geometry((36, 38, 34), (1.5, 1.5, 1.5), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    shape = grid.size[::-1]
    moving = 0.5 + 0.15 * texture(shape, 12, 1.0)
    true = 4 * np.stack([texture(shape, 5 + axis, 6.0) for axis in range(3)])
    images = [grid.holding(image.astype(np.float32)) for image in (moved(moving, true), moving)]
    plain, auto = (registered(*images, kind) for kind in ("never", "auto"))
    assert "and they are not used: the images then differ by" in auto.notes[-1] and auto.notes[-1].endswith("% more there.")
    np.testing.assert_array_equal(*(sitk.GetArrayFromImage(displacement_field(r.transform, grid)) for r in (plain, auto)))


def test_further_channels_and_windows_leave_the_judgment_to_the_first_images() -> None:
    near, far = far_apart(voxels=0.3)[:2], far_apart()[:2]
    windows = DiffeoSettings(similarity="lncc", window_voxels=(1, 2, 4))
    second = ImageChannel(*far)
    for task, kind in (
        (RegistrationTask(*near, {}, windows, 1), "never"),
        (RegistrationTask(*far, {}, windows, 1), "always"),
        (RegistrationTask(*near, {}, DiffeoSettings(similarity="lncc"), 1, channels=(second,)), "never"),
        (RegistrationTask(*far, {}, DiffeoSettings(similarity="lncc"), 1, channels=(second,)), "always"),
    ):
        assert settled(DiffeoEngine(), task).large_motion == kind


def test_the_choice_is_the_pairs_and_not_the_settings() -> None:
    """Whatever the parameters, coarse grids begin as the working grid does."""
    fixed, moving, _ = far_apart()
    task = RegistrationTask(fixed, moving, {}, DiffeoSettings(similarity="lncc"), 1)
    chosen = settled(DiffeoEngine(), task)
    assert chosen == DiffeoSettings(similarity="lncc", large_motion="always")
    register = for_pair(DiffeoEngine(), task)
    for setting in ({}, {"regularization_weight": 1.5}):
        one, other = register(setting), DiffeoEngine().register(replace(task, setting=setting, settings=chosen))
        np.testing.assert_array_equal(*(sitk.GetArrayFromImage(displacement_field(r.transform, GRID)) for r in (one, other)))
        assert one.levels[0].level == other.levels[0].level > 0
    near = far_apart(voxels=0.3)[:2]
    assert settled(DiffeoEngine(), replace(task, fixed=near[0], moving=near[1])).large_motion == "never"


def test_threads_change_nothing_in_the_engine() -> None:
    fixed, moving, _ = far_apart()
    found = []
    for count in (1, 2):
        with threads(count):
            found.append(sitk.GetArrayFromImage(displacement_field(registered(fixed, moving, "auto").transform, GRID)))
    np.testing.assert_array_equal(*found)


def test_a_mask_leaves_the_start_to_what_is_inside() -> None:
    fixed, moving, lps = far_apart()
    inside = np.zeros(GRID.size[::-1], np.uint8)
    inside[4:-4, 4:-4, 4:-4] = 1
    spoiled = np.where(inside > 0, sitk.GetArrayFromImage(fixed), np.float32(0.9))
    task = RegistrationTask(
        GRID.holding(spoiled.astype(np.float32)), moving, {}, DiffeoSettings(similarity="lncc"), 1,
        fixed_mask=GRID.holding(inside),
    )  # fmt: skip
    plain = replace(task, settings=replace(task.settings, large_motion="never"))
    auto, without = (error_mm(DiffeoEngine().register(one), lps) for one in (task, plain))
    assert auto < 0.6 * without


def test_a_pyramid_without_a_coarse_level_is_not_searched_and_that_is_told_who_asked() -> None:
    fixed, moving, _ = far_apart()
    asked, auto = (registered(fixed, moving, kind, coarsest_voxels=200, iterations=(2,)) for kind in ("always", "auto"))
    assert asked.notes[-1] == "No level of the pyramid is coarse enough to search for large motion."
    assert not [note for note in auto.notes if "search" in note]


def test_other_contrast_is_searched_only_when_asked() -> None:
    fixed, moving, _ = far_apart()
    task = RegistrationTask(fixed, moving, {}, DiffeoSettings(similarity="mind", iterations=(3,)), 1)
    assert settled(DiffeoEngine(), task).large_motion == "never"
    asked = replace(task, settings=replace(task.settings, large_motion="always"))
    assert "A search on a coarse grid found" in DiffeoEngine().register(asked).notes[-1]


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(InputError, match="The search for large motion is 'perhaps': choose one of auto, always, never"):
        DiffeoSettings(large_motion="perhaps")


def test_the_field_is_where_the_transform_says() -> None:
    """The helper's truth itself undoes the motion."""
    fixed, moving, lps = far_apart()
    undone = GRID.resample(moving, field_transform(GRID.holding(lps, vectors=True)))
    inner = tuple([slice(8, -8)] * 3)
    difference = (sitk.GetArrayFromImage(undone) - sitk.GetArrayFromImage(fixed))[inner]
    assert np.abs(difference).mean() < 0.03
