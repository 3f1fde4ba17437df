"""Which similarity suits a pair, and what it is chosen by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from HyperPredictRegLib.core.errors import RegistrationError
from HyperPredictRegLib.engines import contrast
from HyperPredictRegLib.engines.agreement import agreement
from HyperPredictRegLib.engines.base import RegistrationTask, settled
from HyperPredictRegLib.engines.contrast import choose_similarity, pulled_together
from HyperPredictRegLib.engines.demons import DemonsEngine
from HyperPredictRegLib.engines.diffeo import DiffeoEngine, coarse_trial
from HyperPredictRegLib.engines.diffeo_scheme import DiffeoSettings
from HyperPredictRegLib.preprocessing.intensity import foreground, normalised
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.images import read_image
from HyperPredictRegLib.spatial.transforms import field_transform
from scipy import ndimage

GRID = Geometry((44, 40, 36), (2.0, 2.0, 2.0), (-30.0, 11.0, 5.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
SHAPE = GRID.size[::-1]
NAMES = ("lncc", "mind")
INSIDE = np.linalg.norm((np.indices(SHAPE).T - (np.array(SHAPE) - 1) / 2).T / np.reshape(SHAPE, (3, 1, 1, 1)), axis=0) < 0.42


def tissue(shift: float = 0.0) -> np.ndarray:
    """Return a smooth random pattern between 0 and 1, moved along all axes by so many voxels."""
    field = ndimage.gaussian_filter(np.random.default_rng(2).normal(size=SHAPE), 2.0)
    ranks = (field.ravel().argsort().argsort().reshape(SHAPE) / field.size).astype(np.float32)
    return np.asarray(ndimage.shift(ranks, shift, order=1, mode="nearest"))


def image(voxels: np.ndarray) -> sitk.Image:
    return GRID.holding(np.where(INSIDE, 0.2 + 0.7 * voxels, 0).astype(np.float32))


def in_places(voxels: np.ndarray) -> np.ndarray:
    """Return the grey values folded in one half, so that bright is bright in most, but not in all places."""
    half = np.arange(SHAPE[2]) >= SHAPE[2] // 2
    return np.where(half, np.abs(2 * voxels - 1), voxels)


def warp(size_mm: float) -> sitk.Transform:
    noise = np.random.default_rng(5).standard_normal((*SHAPE, 3))
    vectors = np.stack([ndimage.gaussian_filter(noise[..., axis], 2.0) for axis in range(3)], axis=-1)
    return field_transform(GRID.holding(vectors * (size_mm / np.abs(vectors).max()), vectors=True))


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (6.0, 2.0, 2.0)])
def test_similarities_agree_on_one_contrast_and_not_on_another(spacing: tuple[float, ...]) -> None:
    one, other = tissue(), tissue(0.7)
    same = agreement(one, other, INSIDE, spacing, NAMES)
    rescaled = agreement(one, 0.1 + 0.5 * other, INSIDE, spacing, NAMES)
    folded = agreement(one, np.abs(2 * other - 1), INSIDE, spacing, NAMES)
    assert min(same, rescaled) > 0.9
    assert folded < 0.5
    assert folded < agreement(one, in_places(other), INSIDE, spacing, NAMES) < same - 0.1
    assert agreement(one, 1 - other, INSIDE, spacing, NAMES) < -0.8
    assert agreement(one, one, INSIDE, spacing, NAMES) == 1.0


def test_of_a_large_grid_planes_through_the_anatomy_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies beyond them may hold anything."""
    monkeypatch.setattr("HyperPredictRegLib.engines.agreement._SLAB_VOXELS", 12 * 40 * 44)
    inside = INSIDE.copy()
    inside[:14] = False
    one, other = tissue(), tissue(0.7)
    spoiled = other.copy()
    spoiled[:15] = 1 - spoiled[:15]
    given = inside, (2.0, 2.0, 2.0), NAMES
    assert agreement(one, spoiled, *given) == agreement(one, other, *given)


@pytest.mark.parametrize(
    ("lncc", "mind", "chosen"), [(4.0, 0.0, "mind"), (0.0, 4.0, "lncc"), (0.0, 0.0, "lncc"), (None, 0.0, "lncc")]
)
def test_where_they_disagree_what_either_brings_decides(
    monkeypatch: pytest.MonkeyPatch, lncc: float | None, mind: float, chosen: str
) -> None:
    monkeypatch.setattr(contrast, "AGREED", 2.0)
    asked = []

    def trial(name: str, fixed: sitk.Image, moving: sitk.Image, mask: sitk.Image | None) -> sitk.Transform:
        asked.append(name)
        assert mask is None
        size = lncc if name == "lncc" else mind
        if size is None:
            raise RegistrationError("It diverged.")
        return warp(size)

    fixed = image(tissue())
    found = choose_similarity(fixed, image(tissue(0.2)), [None, None], *NAMES, trial)
    assert found.name == chosen
    assert asked == (["lncc"] if lncc is None else list(NAMES))
    assert ("in places" in found.reason) == (chosen == "mind")


def test_nothing_is_tried_where_they_agree() -> None:
    def trial(*_: object) -> sitk.Transform:
        raise AssertionError

    fixed, moving = image(tissue()), image(tissue(0.7))
    assert pulled_together(fixed, moving, [None], NAMES) > contrast.AGREED
    assert choose_similarity(fixed, moving, [None, None], *NAMES, trial).name == "lncc"


def test_a_contrast_that_differs_in_one_half_is_registered_by_self_similarity_and_said() -> None:
    fixed, moving = image(tissue()), image(in_places(tissue(0.7)))
    task = RegistrationTask(fixed, moving, {}, DiffeoSettings(iterations=(10, 10, 5)), 1)
    found = DiffeoEngine().register(task)
    assert "'mind' compares them" in found.notes[0]
    assert "(mind)" in found.levels[0].metric


def test_what_is_chosen_on_the_working_grid_can_be_had_without_registering() -> None:
    auto = DiffeoSettings(iterations=(10,))
    for moving, name in ((tissue(0.7), "lncc"), (in_places(tissue(0.7)), "mind")):
        task = RegistrationTask(image(tissue()), image(moving), {}, auto, 1)
        assert settled(DiffeoEngine(), task) == replace(auto, similarity=name, large_motion="never")
    given = replace(auto, similarity="lncc", large_motion="never")
    assert settled(DiffeoEngine(), replace(task, settings=given)) == given
    # An engine that chooses nothing looks at no image.
    assert settled(DemonsEngine(), replace(task, settings=DemonsEngine.settings_type())) == DemonsEngine.settings_type()


@pytest.mark.data
def test_folded_grey_values_of_a_heart_are_seen(data_folder: Path) -> None:
    """The two still rise and fall together in most places, so that likeness alone calls them the same."""
    images = [read_image(data_folder / f"heart-acdc/p012_{state}_img.nii.gz", "image") for state in ("ed", "es")]
    fixed, moving = (sitk.Cast(normalised(one, foreground(one)), sitk.sitkFloat32) for one in images)
    native = Geometry.of(fixed)
    grid = native.covering(native.corners_lps(), 3.5, 0.0)
    fixed, moving = grid.resample(fixed), grid.resample(moving)
    voxels = sitk.GetArrayFromImage(moving)
    folded = np.where(voxels > 0.03, 0.08 + 1.44 * np.abs(voxels - np.median(voxels[voxels > 0.03])), 0).astype(np.float32)
    for other, expected in ((moving, "lncc"), (grid.holding(folded), "mind")):
        task = RegistrationTask(fixed, other, {}, DiffeoSettings(), 1, moving_smoothed=True)
        assert choose_similarity(fixed, other, [None, None], *NAMES, coarse_trial(task)).name == expected
