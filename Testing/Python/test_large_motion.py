"""The search over displacements of a coarse grid: what it finds, when the engine takes it, and when it leaves all as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from HyperPredictRegLib.core.errors import Cancelled, InputError
from HyperPredictRegLib.engines.base import Registration, RegistrationTask, for_pair, settled
from HyperPredictRegLib.engines.diffeo import DiffeoEngine, DiffeoSettings
from HyperPredictRegLib.engines.large_motion import Side, searched
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
    shape = (9, 34, 32)
    moving, true = texture(shape, 3), motion(shape, (0.0, 3.0, -2.0)) * np.float32([[[[0.2]]], [[[1]]], [[[1]]]])
    found = searched(Side([moved(moving, true)]), Side([moving]), (5.0, 1, 1), Workers())
    assert np.abs(found[0]).max() <= 1.0
    inner = (slice(None), slice(1, -1), slice(6, -6), slice(6, -6))
    left = np.linalg.norm((found - true)[inner], axis=0).mean()
    assert left < 0.5 * np.linalg.norm(true[inner], axis=0).mean()


def test_what_does_not_count_is_not_looked_at() -> None:
    moving, true = texture(SHAPE, 4), motion(SHAPE, (2.0, -1.0, 1.0))
    fixed, seen = moved(moving, true), np.ones(SHAPE, np.float32)
    seen[:, :, 20:] = 0
    spoiled = np.where(seen > 0, fixed, texture(SHAPE, 9) * 50)
    clean, found = (searched(Side([image], seen), Side([moving]), (1, 1, 1), Workers()) for image in (fixed, spoiled))
    np.testing.assert_array_equal(clean, found)


def test_what_is_found_never_folds() -> None:
    """Two unrelated images ask for anything: the field that comes of it is still smooth."""
    found = searched(Side([texture(SHAPE, 6, 0.7)]), Side([texture(SHAPE, 7, 0.7)]), (1, 1, 1), Workers())
    grid = Geometry(SHAPE[::-1], (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    jacobian = jacobian_determinant(grid.holding(np.moveaxis(found[::-1], 0, -1), vectors=True))
    assert sitk.GetArrayViewFromImage(jacobian).min() > 0


def test_threads_change_nothing_and_a_user_can_stop() -> None:
    sides = Side([texture(SHAPE, 1)]), Side([texture(SHAPE, 2)])
    with Workers(3) as workers:
        np.testing.assert_array_equal(searched(*sides, (1, 1, 1), workers), searched(*sides, (1, 1, 1), Workers()))
    asked: list[int] = []
    with pytest.raises(Cancelled):
        searched(*sides, (1, 1, 1), Workers(1, lambda: bool(asked.append(1)) or len(asked) > 3))
    assert len(asked) == 4


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
    assert "searched for on a coarse grid, and the registration begins with them" in auto.notes[-1]
    assert "searched for on a coarse grid: the registration begins with them" in always.notes[-1]
    assert not [note for note in plain.notes if "searched" in note]
    # The trace begins on the level of the search.
    assert [level.level for level in auto.levels] == list(range(auto.levels[0].level, plain.levels[-1].level + 1))


def test_where_little_is_left_unexplained_nothing_changes() -> None:
    fixed, moving, _ = far_apart(voxels=0.3)
    plain, auto = (registered(fixed, moving, kind) for kind in ("never", "auto"))
    np.testing.assert_array_equal(*(sitk.GetArrayFromImage(displacement_field(r.transform, GRID)) for r in (plain, auto)))
    assert plain.notes == auto.notes
    assert [level.values for level in plain.levels] == [level.values for level in auto.levels]


def test_a_search_that_finds_nothing_better_is_not_used() -> None:
    fixed, moving = (GRID.holding((0.5 + 0.15 * texture(GRID.size[::-1], seed, 0.8)).astype(np.float32)) for seed in (21, 22))
    plain, auto = (registered(fixed, moving, kind) for kind in ("never", "auto"))
    if "are not used" in auto.notes[-1]:
        np.testing.assert_array_equal(*(sitk.GetArrayFromImage(displacement_field(r.transform, GRID)) for r in (plain, auto)))
    else:
        assert auto.levels[-1].values[-1] < plain.levels[-1].values[-1]


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


def test_a_pyramid_without_a_coarse_level_is_not_searched() -> None:
    fixed, moving, _ = far_apart()
    result = registered(fixed, moving, "always", coarsest_voxels=200)
    assert not [note for note in result.notes if "searched" in note]


def test_other_contrast_is_searched_only_when_asked() -> None:
    fixed, moving, _ = far_apart()
    task = RegistrationTask(fixed, moving, {}, DiffeoSettings(similarity="mind", iterations=(3,)), 1)
    assert settled(DiffeoEngine(), task).large_motion == "never"
    asked = replace(task, settings=replace(task.settings, large_motion="always"))
    assert "searched" in DiffeoEngine().register(asked).notes[-1]


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
