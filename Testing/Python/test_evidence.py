"""Evidence about one pair without labels: on made-up pairs it tells a good start from a failed one, and repeats itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from HyperPredictRegLib.alignment.aligned_pair import AlignedPair
from HyperPredictRegLib.core.errors import Cancelled, InputError
from HyperPredictRegLib.core.resources import threads
from HyperPredictRegLib.core.search_space import SearchSpace
from HyperPredictRegLib.engines import diffeo, get_engine
from HyperPredictRegLib.engines.base import Engine
from HyperPredictRegLib.engines.contrast import choose_similarity
from HyperPredictRegLib.predictor.bootstrap import (
    ERRORS,
    FACTOR,
    bootstrap_choice,
    bootstrap_curve,
    chance_failed,
    evidence_curve,
)
from HyperPredictRegLib.predictor.coarse_pair import ALONG, MOST_VOXELS, CoarsePair, coarse_settings
from HyperPredictRegLib.predictor.evidence import LENGTHS, TRUTHS, PairEvidence, as_features, pair_evidence
from HyperPredictRegLib.predictor.known_truth import mirrored, with_known_truth
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import displacement_field, field_transform
from scipy import ndimage

GRID = Geometry((26, 24, 22), (2.0, 2.0, 2.0), (-20.0, 5.0, 3.0))
INSIDE = GRID.holding(np.pad(np.ones((14, 16, 18), np.uint8), 4))


def texture(seed: int) -> sitk.Image:
    """Return smooth blobs, 0 to about 1, within `INSIDE`."""
    voxels = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(GRID.size[::-1]), 1.5)
    return sitk.Mask(GRID.holding((0.5 + 0.15 * voxels / voxels.std()).astype(np.float32)), INSIDE)


def field(seed: int, millimeters: float) -> sitk.Image:
    noise = np.random.default_rng(seed).standard_normal((3, *GRID.size[::-1]))
    vectors = np.stack([ndimage.gaussian_filter(one, 4.0) for one in noise], axis=-1)
    return GRID.holding(vectors * millimeters / np.sqrt((vectors**2).sum(axis=-1).mean()), vectors=True)


def pair_of(fixed: sitk.Image, moving: sitk.Image) -> AlignedPair:
    return AlignedPair(GRID, fixed, moving, None, None)


def warped(moving: sitk.Image, seed: int = 1) -> sitk.Image:
    noise = 0.02 * np.random.default_rng(seed + 10).standard_normal(GRID.size[::-1])
    return GRID.resample(moving, field_transform(field(seed, 3.0))) + GRID.holding(noise.astype(np.float32))


def engine() -> tuple[Engine, object]:
    found = get_engine("diffeo")
    return found, replace(found.settings_type(), iterations=(6,))


def found(fixed: sitk.Image, moving: sitk.Image, inside: sitk.Image = INSIDE) -> PairEvidence:
    return pair_evidence(pair_of(fixed, moving), inside, INSIDE, *engine(), seed=1)


@pytest.fixture(scope="module")
def right() -> PairEvidence:
    """A pair that differs by a smooth deformation and a little noise."""
    return found(warped(texture(2)), texture(2))


@pytest.fixture(scope="module")
def wrong() -> PairEvidence:
    """Two images that have nothing in common."""
    return found(texture(3), texture(2))


def test_evidence_has_a_number_for_every_setting(right: PairEvidence) -> None:
    space = engine()[0].search_space(GRID, engine()[1])
    assert len(right.values) == len(ALONG) + 2
    assert np.allclose(space.shares(right.values)[: len(ALONG), 0], ALONG)
    assert np.allclose(right.values[: len(ALONG), 1], space.defaults["fluid_sigma"])
    for name, curve in right.curves.items():
        assert curve.shape == (len(right.values),) and np.isfinite(curve).all(), name
    assert all(np.isfinite(value) for value in right.numbers.values())
    assert right.remarks == ()


def test_a_known_deformation_is_found_and_one_between_unrelated_images_is_not(right: PairEvidence, wrong: PairEvidence) -> None:
    ratio = [one.curves["bootstrap_error"].min() / one.numbers["bootstrap_nothing"] for one in (right, wrong)]
    assert ratio[0] < 0.6 < 0.9 < ratio[1]
    first = [one.curves["bootstrap_error"][0] / one.numbers["bootstrap_nothing"] for one in (right, wrong)]
    assert first[0] < 1 < first[1]
    assert right.curves["held_out"].max() > 0.02 > 0.01 > wrong.curves["held_out"].max()
    assert right.numbers["inverse_error"] < wrong.numbers["inverse_error"]


def test_the_same_pair_gives_the_same_evidence(right: PairEvidence) -> None:
    again = found(warped(texture(2)), texture(2))
    assert as_features(again) == as_features(right)


def test_features_are_free_of_the_size_of_the_anatomy(right: PairEvidence) -> None:
    features = as_features(right)
    assert list(features) == list(as_features(right))
    tenth = replace(
        right,
        curves={name: curve / 10 if name in LENGTHS else curve for name, curve in right.curves.items()},
        numbers={
            name: value / 10 if name in ("spacing_mm", "inverse_error") or name.startswith("bootstrap_nothing") else value
            for name, value in right.numbers.items()
        },
    )
    small = as_features(tenth)
    differing = {name for name in features if not np.isclose(features[name], small[name])}
    assert differing == {"log_spacing_mm"}


def test_mirroring_twice_changes_nothing_and_mirrors_components() -> None:
    askew = Geometry((5, 6, 7), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
    vectors = np.random.default_rng(4).standard_normal((7, 6, 5, 3))
    once = mirrored(vectors, askew.direction_matrix, (2, 0))
    assert np.allclose(mirrored(once, askew.direction_matrix, (2, 0)), vectors)
    # The array's last axis runs along LPS y here, the first one along z.
    assert np.allclose(once[0, 1, 0], vectors[-1, 1, -1] * [1, -1, -1])


def test_the_truth_is_that_of_the_pair_that_is_made() -> None:
    moving = texture(2)
    coarse = CoarsePair.of(pair_of(warped(moving), moving), INSIDE, INSIDE)
    truth = with_known_truth(coarse, displacement_field(field_transform(field(1, 3.0)), GRID))
    assert truth.residual < 0.3
    made = sitk.GetArrayFromImage(truth.pair.fixed)
    by_truth = sitk.GetArrayFromImage(GRID.resample(moving, field_transform(GRID.holding(truth.displacement, vectors=True))))
    inside = truth.pair.inside
    assert np.corrcoef(made[inside], by_truth[inside])[0, 1] > 0.97
    assert np.corrcoef(made[inside], sitk.GetArrayViewFromImage(moving)[inside])[0, 1] < 0.9
    found = GRID.holding(truth.displacement, vectors=True)
    assert truth.error_mm(found).max() < 1e-6 and truth.edge_error_mm(found) < 1e-6
    assert 0.3 < truth.edge_error_mm(None) / truth.error_mm(None).mean() < 0.7
    assert np.median(truth.error_mm(None)) == pytest.approx(np.median(np.linalg.norm(truth.displacement[inside], axis=-1)))


def test_what_lies_along_edges_is_lost_on_them() -> None:
    rising = GRID.holding(np.broadcast_to(np.arange(26, dtype=np.float32) / 26, GRID.size[::-1]).copy())
    coarse = CoarsePair.of(pair_of(rising, rising), INSIDE, INSIDE)
    truth = with_known_truth(coarse, GRID.holding(np.zeros((*GRID.size[::-1], 3)), vectors=True))
    for axis, expected in enumerate((1.5, 0.0, 0.0)):
        off = np.zeros((*GRID.size[::-1], 3))
        off[..., axis] = 1.5
        assert truth.edge_error_mm(GRID.holding(off, vectors=True)) == pytest.approx(expected, abs=1e-6)


def test_large_images_are_made_coarse() -> None:
    fine = replace(GRID, size=(104, 96, 88), spacing=(0.5, 0.5, 0.5))
    images = [fine.resample(image) for image in (texture(1), texture(2))]
    masks = [fine.resample(INSIDE, interpolator=sitk.sitkNearestNeighbor)] * 2
    coarse = CoarsePair.of(AlignedPair(fine, *images, None, None), *masks)
    assert coarse.grid.voxel_count < 1.2 * MOST_VOXELS
    assert coarse.smoothed


def test_what_cannot_be_judged_is_refused() -> None:
    tiny = GRID.holding(np.pad(np.ones((2, 2, 2), np.uint8), ((4, 16), (4, 18), (4, 20))))
    pair = pair_of(texture(1), texture(2))
    with pytest.raises(InputError, match=r"The foreground of the fixed image has 8 voxels .* too few"):
        CoarsePair.of(pair, tiny, INSIDE)
    halves = [np.zeros(GRID.size[::-1], np.uint8) for _ in range(2)]
    halves[0][:10], halves[1][12:] = 1, 1
    with pytest.raises(InputError, match="do not overlap anywhere"):
        CoarsePair.of(pair, *(GRID.holding(half) for half in halves))


def test_identical_images_have_nothing_to_gain() -> None:
    same = found(texture(2), texture(2))
    assert any("nothing to gain" in remark for remark in same.remarks)
    assert all(np.isfinite(value) for value in as_features(same).values())


def test_evidence_can_be_cancelled() -> None:
    asked = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 3

    with pytest.raises(Cancelled):
        pair_evidence(pair_of(texture(1), texture(2)), INSIDE, INSIDE, *engine(), seed=1, cancelled=stop)


def test_trials_share_a_pair_and_threads_change_nothing(monkeypatch: pytest.MonkeyPatch, right: PairEvidence) -> None:
    """Of the pair there, back and of two truths each is read and its similarity chosen once, not for each setting."""
    chosen, told = [], []
    monkeypatch.setattr(diffeo, "choose_similarity", lambda *given: chosen.append(given) or choose_similarity(*given))

    def tried(count: int) -> PairEvidence:
        with threads(count):
            return pair_evidence(pair_of(warped(texture(2)), texture(2)), INSIDE, INSIDE, *engine(), seed=1, progress=told.append)

    two = tried(2)
    steps = 4 * len(right.values) + 1
    assert len(chosen) == 4 and len(told) == steps
    assert as_features(two) == as_features(tried(1)) == as_features(right)
    assert [event.fraction for event in told[:steps]] == sorted(event.fraction for event in told[:steps])
    assert told[steps - 1].fraction == 1
    assert told[0].message == "trial registration 1 of 25" and told[steps - 1].message == "trial registration 25 of 25"


def test_settings_are_tried_in_every_parameter() -> None:
    space = engine()[0].search_space(GRID, None)
    one = SearchSpace(space.parameters[:1])
    assert coarse_settings(one).shape == (len(ALONG), 1)
    values = coarse_settings(space)
    assert np.all(values[len(ALONG) :, 0] == values[1, 0])
    assert values[len(ALONG), 1] < space.defaults["fluid_sigma"] < values[len(ALONG) + 1, 1]
    assert max(TRUTHS) < len(ALONG)


def test_unrelated_images_and_little_overlap_speak_for_a_failed_start(right: PairEvidence, wrong: PairEvidence) -> None:
    assert chance_failed(right) < 0.5 < chance_failed(replace(wrong, numbers={**wrong.numbers, "shell": 6.0}))
    assert chance_failed(right) < chance_failed(wrong)


def test_the_rule_reads_the_curve_where_it_was_measured(right: PairEvidence) -> None:
    space = engine()[0].search_space(GRID, engine()[1])
    assert np.allclose(evidence_curve(right, space, right.values, "bootstrap_error"), right.curves["bootstrap_error"])
    both = np.sqrt(right.curves["bootstrap_error"] * right.curves["bootstrap_edge_error"])
    assert np.allclose(bootstrap_curve(right, space, right.values).value, FACTOR * both)


def test_the_rule_chooses_the_least_error_within_the_limit(right: PairEvidence) -> None:
    space = engine()[0].search_space(GRID, engine()[1])
    curve = np.array([3.0, 2.0, 1.0, 2.0, 3.0, 4.0, 2.5, 2.2])
    folding = np.array([5.0, 2.0, 1.0, 0.1, 0.0, 0.0, 2.0, 2.0])
    made = replace(right, curves={**right.curves, **dict.fromkeys(ERRORS, curve), "folding": folding})
    chosen = bootstrap_choice(made, space)
    assert space.first.to_unit(chosen["regularization_weight"]) == pytest.approx(ALONG[2], abs=0.03)
    assert chosen["fluid_sigma"] == pytest.approx(space.defaults["fluid_sigma"], rel=0.05)
    limited = bootstrap_choice(made, space, folding_limit=0.5)
    assert limited["regularization_weight"] > chosen["regularization_weight"]
    assert evidence_curve(made, space, space.rows([limited]), "folding")[0] <= 0.5
    assert bootstrap_choice(replace(made, curves={**made.curves, "folding": 9 + folding}), space, 0.5) == space.strongest
    band = bootstrap_curve(made, space, right.values)
    assert np.all(band.lower < band.value) and np.all(band.value < band.upper)
