"""Several channels in the engine that takes them: what each shows is registered, and none disturbs where it shows nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.resources import threads
from HyperPredictRegLib.engines import voxel_fields
from HyperPredictRegLib.engines.base import ImageChannel, RegistrationTask
from HyperPredictRegLib.engines.diffeo import DiffeoEngine
from HyperPredictRegLib.engines.diffeo_scheme import ArrayChannel, DiffeoSettings, Scheme
from HyperPredictRegLib.engines.joint_force import Compared, joint_force, shares
from HyperPredictRegLib.engines.masked_array import MaskedArray
from HyperPredictRegLib.engines.similarity import SIMILARITIES, Similarity
from HyperPredictRegLib.engines.voxel_fields import Workers
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import displacement_field

GRID = Geometry((36, 30, 28), (2.0, 2.0, 2.0), (-30.0, 11.0, 5.0))
QUICK = DiffeoSettings(similarity="lncc", iterations=(25, 25, 15))
LEFT, RIGHT = (9.0, 15.0, 14.0), (26.0, 15.0, 14.0)
SHIFT = 3.0


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut even small arrays into parts, so that their seams are seen."""
    monkeypatch.setattr(voxel_fields, "_PART_VOXELS", 6000)


def ball(center: tuple[float, float, float], shift: float = 0.0) -> np.ndarray:
    """Return a soft ball with a core, indexed k, j, i, moved along j."""
    k, j, i = np.indices(GRID.size[::-1])
    away = np.sqrt((i - center[0]) ** 2 + (j - center[1] - shift) ** 2 + (k - center[2]) ** 2)
    return (0.6 / (1 + np.exp(away - 6)) + 0.4 / (1 + np.exp(2 * (away - 3)))).astype(np.float32)


def image(voxels: np.ndarray) -> sitk.Image:
    return GRID.apply_to(sitk.GetImageFromArray(voxels.astype(np.float32)))


def pair(center: tuple[float, float, float]) -> tuple[sitk.Image, sitk.Image]:
    """Return an image of one ball, and the same one shifted."""
    return image(ball(center)), image(ball(center, SHIFT))


def field(fixed: sitk.Image, moving: sitk.Image, settings: DiffeoSettings = QUICK, **given: Any) -> np.ndarray:
    """Register; return displacements along j in voxels, indexed k, j, i."""
    transform = DiffeoEngine().register(RegistrationTask(fixed, moving, {}, settings, 1, **given)).transform
    return sitk.GetArrayFromImage(displacement_field(transform, GRID))[..., 1] / GRID.spacing[1]


def found(displacement: np.ndarray, center: tuple[float, float, float]) -> float:
    """Return the mean displacement inside a ball."""
    return float(displacement[ball(center) > 0.5].mean())


@pytest.mark.parametrize("name", SIMILARITIES)
def test_each_channel_registers_the_structure_that_it_alone_shows(name: str) -> None:
    # Without the coarsest levels, which carry a motion beyond the structure that shows it.
    settings = DiffeoSettings(similarity=name, iterations=(40, 40, 30), coarsest_voxels=16)
    alone = field(*pair(LEFT), settings)
    assert found(alone, LEFT) > 1.5
    assert abs(found(alone, RIGHT)) < 0.05
    both = field(*pair(LEFT), settings, channels=(ImageChannel(*pair(RIGHT)),))
    for center in (LEFT, RIGHT):
        assert found(both, center) == pytest.approx(found(alone, LEFT), abs=0.1), "a channel that shows nothing dampens nothing"


def test_a_channel_that_repeats_the_first_pair_changes_nothing() -> None:
    alone = field(*pair(LEFT))
    twice = field(*pair(LEFT), channels=(ImageChannel(*pair(LEFT), weight=5.0),))
    np.testing.assert_allclose(twice, alone, atol=0.02)


def test_weights_decide_between_channels_that_contradict_each_other() -> None:
    there, back = pair(LEFT), (image(ball(LEFT)), image(ball(LEFT, -SHIFT)))
    pulls = [found(field(*there, channels=(ImageChannel(*back, weight=w),)), LEFT) for w in (0.02, 0.5, 2.0, 50.0)]
    assert pulls[0] > 1.2 and pulls[-1] < -1.2
    assert pulls == sorted(pulls, reverse=True)


def test_what_lies_beyond_the_view_of_a_channel_does_not_pull() -> None:
    k, j, i = np.indices(GRID.size[::-1])
    view = GRID.apply_to(sitk.GetImageFromArray((i > 17).astype(np.uint8)))
    fixed, moving = (sitk.GetArrayFromImage(one) for one in pair(RIGHT))
    results = []
    for garbage in (0.0, 1.0):
        spoiled = image(np.where(i > 17, moving, garbage * ((i + j + k) % 5)))
        masks = {"fixed_mask": view, "moving_mask": view}
        results.append(field(*pair(LEFT), channels=(ImageChannel(image(fixed), spoiled, 1.0, **masks),)))
    np.testing.assert_array_equal(*results)
    assert found(results[0], RIGHT) > 1.2
    assert found(results[0], LEFT) == pytest.approx(found(field(*pair(LEFT)), LEFT), abs=0.2)


def test_any_number_of_threads_gives_the_same_result() -> None:
    fields = []
    for count in (1, 3):
        with threads(count):
            fields.append(field(*pair(LEFT), channels=(ImageChannel(*pair(RIGHT)),)))
    np.testing.assert_array_equal(*fields)


def test_a_channel_that_cannot_be_compared_is_refused_by_its_number() -> None:
    good, (fixed, moving) = pair(LEFT), pair(RIGHT)
    voxels = sitk.GetArrayFromImage(moving)
    voxels[3, 3, 3] = np.nan
    for broken, message in (
        (ImageChannel(fixed, image(voxels)), r"The moving \(channel 3\) image has voxels that are NaN"),
        (ImageChannel(fixed * 0, moving), r"The fixed \(channel 3\) image has one intensity only"),
        (ImageChannel(fixed, moving, fixed_mask=sitk.Cast(fixed * 0, sitk.sitkUInt8)), r"mask of the fixed \(channel 3\) image"),
    ):
        with pytest.raises(InputError, match=message):
            field(*good, channels=(ImageChannel(fixed, moving), broken))


def similarities(*names: str) -> list[Similarity]:
    return [Similarity(name, ((1, 1, 1),), 0.1, (1.0, 1.0, 1.0)) for name in names]


def test_the_joint_force_of_one_pair_is_its_force() -> None:
    workers, similarity = Workers(), similarities("lncc")[0]
    fixed, moving = (similarity.channels(sitk.GetArrayFromImage(one), None, workers) for one in pair(LEFT))
    weight = np.random.default_rng(1).random(fixed[0].shape, np.float32)
    for given in (None, weight):
        update, value = similarity.force(fixed, moving, given, 0.5, workers)
        one = Compared(fixed, moving, given, 0.5)
        joint, joint_value = joint_force([one, one], (1.0, 1.0, 1.0), 0.5, workers)
        np.testing.assert_allclose(joint, update, atol=1e-5)
        assert joint_value == pytest.approx(value, rel=1e-5)
        assert np.sqrt((joint**2).sum(axis=0)).max() <= 0.5 + 1e-5


def test_shares_are_weights_and_make_up_for_the_similarity() -> None:
    workers, voxels = Workers(), ball(LEFT)
    assert shares([1.0, 3.0], similarities("lncc", "lncc"), voxels, None, workers) == [0.25, 0.75]
    pairs = similarities("lncc", "mind")
    steepness = [
        sum(float(np.square(np.gradient(one)).sum()) for one in s.channels(voxels, None, workers)) for s in pairs
    ]
    parts = shares([1.0, 1.0], pairs, voxels, None, workers)
    assert sum(parts) == pytest.approx(1)
    assert parts[0] / parts[1] == pytest.approx(steepness[1] / steepness[0], rel=0.1)
    assert steepness[1] > 3 * steepness[0], "else nothing would have to be made up for"


def test_a_mask_that_is_gone_from_the_coarse_levels_leaves_the_other_channel_its_force() -> None:
    mask = np.zeros(GRID.size[::-1], np.float32)
    mask[13:16, 14:17, 8:11] = 1
    # Two similarities: their steepness is compared on the first channel's fixed image, of which nothing is seen there.
    weights = shares([1.0, 3.0], similarities("lncc", "mind"), ball(LEFT), mask * 0, Workers())
    assert sum(weights) == pytest.approx(1) and min(weights) > 0
    first = (MaskedArray(ball(LEFT), mask), MaskedArray(ball(LEFT, SHIFT), mask))
    second = ArrayChannel(MaskedArray(ball(RIGHT)), MaskedArray(ball(RIGHT, SHIFT)), "mind")
    with Workers() as workers:
        displacement, levels = Scheme(QUICK, 0.4, 1.2).register(*first, [second], workers=workers)
    assert len(levels) > 1 and np.isfinite(displacement).all()
    assert found(displacement[1], RIGHT) > 1.5
