"""The evaluation's parts: intervals over people, measured curves, decisions with the loop, searches and simple predictors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from evaluation_samples import FEATURES, planted, training_people

pytest.importorskip("torch")

import torch
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.results.job import Criterion
from HyperPredictRegLib.results.prediction import Band

from HyperPredictRegLab.evaluation.decisions import (
    bisected,
    decide,
    fixed_for,
    oracle,
    outcome,
    probe_onsets,
    probe_rule,
    with_loop,
)
from HyperPredictRegLab.evaluation.judging import covered, explained
from HyperPredictRegLab.evaluation.measured import Measured, PredictedPairs, common_grid, read_at, without_bands
from HyperPredictRegLab.evaluation.methods import is_probe, only_weight, ridge
from HyperPredictRegLab.evaluation.tables import Resampling, Table, counts, figure, holm, per_person_test
from HyperPredictRegLab.training.examples import Examples, fixed_value
from HyperPredictRegLab.training.fitting import TrainingSettings
from HyperPredictRegLab.training.fitting import train as fit

CRITERION = Criterion(rule="maximum")
TIGHT = Criterion(rule="maximum", folding_limit=0.01)
"""A limit so low that it binds: the planted best λ folds more."""


@pytest.fixture(scope="module")
def train() -> Measured:
    return measured(planted(training_people(), 120, 1))


@pytest.fixture(scope="module")
def other(train: Measured) -> Measured:
    examples = planted([f"r{n}" for n in range(12)], 60, 2)
    return Measured.of("other", examples, train.values, train.examples.labels)


def measured(examples: Examples) -> Measured:
    return Measured.of("train", examples, common_grid(examples), examples.labels)


def known(of: Measured) -> PredictedPairs:
    """What a perfect predictor would predict."""
    c = of.choice
    return without_bands(of, of.dice[..., c], of.foreground[:, c], of.grid[:, c], of.sd[:, c])


def test_intervals_cover_the_truth_as_often_as_they_say_where_pairs_share_people() -> None:
    random = np.random.default_rng(0)
    subjects = np.array([(a, b) for a in range(12) for b in range(12) if a != b]).astype(str)
    numbers = subjects.astype(int)
    naive, hits = 0, 0
    for seed in range(60):
        people = random.normal(size=(2, 12))
        values = people[0][numbers[:, 0]] + people[1][numbers[:, 1]] + 0.3 * random.normal(size=len(numbers))
        found = Resampling.of(subjects, 300, seed).mean(values)
        hits += found.lower <= 0 <= found.upper
        half = 1.96 * values.std() / np.sqrt(len(values))
        naive += abs(values.mean()) <= half
    assert hits >= 50, "intervals over people must hold nearly always"
    assert naive <= 45, "the planted sharing must be such that pairs taken as independent fail"


def test_a_bootstrap_is_seeded_leaves_nan_out_and_needs_people() -> None:
    subjects = np.array([[str(n % 6), str(n % 7)] for n in range(42)])
    values = np.arange(42.0)
    values[3] = np.nan
    one, two = (Resampling.of(subjects, 100).mean(values) for _ in range(2))
    assert one == two
    assert one.value == pytest.approx(np.nanmean(values))
    assert one.lower < one.value < one.upper
    few = Resampling.of(np.array([["a", "b"], ["b", "a"]]), 100).mean(np.array([1.0, 3.0]))
    assert few.value == 2
    assert np.isnan(few.lower)
    assert not Resampling.of(subjects, 10).mean(np.full(42, np.nan)).is_known


def test_skill_is_the_share_of_error_that_is_gone() -> None:
    subjects = np.array([[str(n % 6), str(n % 7)] for n in range(42)])
    found = Resampling.of(subjects, 50).skill(np.full(42, 1.0), np.full(42, 4.0))
    assert (found.value, found.lower, found.upper) == pytest.approx((0.75, 0.75, 0.75))


def test_counts_call_small_differences_equal() -> None:
    assert counts(np.array([0.002, 0.0009, -0.0009, -0.5, np.nan]), 0.001, True) == (1, 2, 1)
    assert counts(np.array([0.02, -0.02, -0.03]), 0.01, False) == (2, 0, 1)


def test_holm_multiplies_by_what_is_left() -> None:
    assert holm([0.01, np.nan, 0.04, 0.03])[[0, 2, 3]] == pytest.approx([0.03, 0.06, 0.06])
    assert per_person_test(np.arange(1.0, 41.0), np.array([[str(n % 10), "x"] for n in range(40)])) < 0.01


def test_measured_curves_pass_through_the_registrations(train: Measured) -> None:
    e = train.examples
    for row in range(0, 120, 17):
        for place in range(1, 6):
            at = np.full(120, e.values[row, place])
            assert train.read(train.dice, at)[row] == pytest.approx(e.dice[row, :, place], abs=2e-3)
            folding = e.folding_foreground[row, place]
            assert train.read(train.foreground, at)[row] == pytest.approx(folding, rel=0.05, abs=0.003)


def test_the_wide_grid_goes_on_where_the_loop_may_end(train: Measured) -> None:
    assert np.array_equal(train.wide[train.choice], train.values)
    assert train.values[-1] < train.wide[-1] <= 4.5
    assert train.wide[-1] > 4.4
    assert np.allclose(np.diff(np.log(train.wide)), np.diff(np.log(train.wide))[0])


def test_reading_is_linear_and_stops_at_the_ends() -> None:
    x = np.array([0.0, 1.0, 3.0])
    surface = np.stack([[[0.0, 2.0, 4.0]], [[1.0, 1.0, 5.0]]])
    assert read_at(x, surface, np.array([2.0, 9.0]))[:, 0] == pytest.approx([3.0, 5.0])


def test_a_structure_that_is_not_known_is_not_in_the_mean(train: Measured) -> None:
    less = Measured.of("less", train.examples, train.values, train.examples.labels[:2])
    assert less.counted.tolist() == [True, True, False, False]
    assert less.mean == pytest.approx(train.dice[:, :2].mean(axis=1))
    with pytest.raises(InputError, match="none of the structures"):
        Measured.of("none", train.examples, train.values, (99,))


def test_sweeps_without_a_common_range_are_refused(train: Measured) -> None:
    far = replace(train.examples, values=train.examples.values * 100)
    with pytest.raises(InputError, match="range of λ in common"):
        common_grid(train.examples, far)


@pytest.mark.parametrize("criterion", [CRITERION, TIGHT])
def test_the_oracle_is_the_best_that_keeps_the_limit(other: Measured, criterion: Criterion) -> None:
    best = outcome(other, oracle(other, criterion), criterion)
    assert not best.over.any()
    for value in other.values[::9]:
        rival = outcome(other, np.full(60, value), criterion)
        assert (best.dice[~rival.over] >= rival.dice[~rival.over] - 1e-9).all()


@pytest.mark.parametrize("limit", [0.5, 0.01, None])
def test_the_fixed_weight_is_that_of_the_product(train: Measured, limit: float | None) -> None:
    criterion = replace(CRITERION, folding_limit=limit)
    assert fixed_for(train, criterion) == pytest.approx(fixed_value(train.examples, train.values, limit=limit))
    own = fixed_for(train, criterion, 3)
    assert own == pytest.approx(fixed_value(train.examples, train.values, limit=limit, structures=[17]))
    assert fixed_for(train, CRITERION, 0) < fixed_for(train, CRITERION, 3), "planted: structure 17 wants a more regularized field"


def test_a_perfect_predictor_has_no_regret_and_no_repeats(other: Measured) -> None:
    fixed = np.full(60, 0.5)
    found = decide(known(other), other, TIGHT, fixed)
    assert found.first == pytest.approx(oracle(other, TIGHT))
    assert not found.extra.any()


def test_an_unreliable_pair_takes_the_fixed_weight(other: Measured) -> None:
    told = known(other)
    reliabilities = told.reliabilities.copy()
    reliabilities[:7] = "unreliable"
    found = decide(replace(told, reliabilities=reliabilities), other, CRITERION, np.full(60, 3.0))
    assert (found.first[:7] == 3.0).all()
    assert not (found.first[7:] == 3.0).any()


def test_the_loop_keeps_the_limit_and_counts_its_registrations(other: Measured) -> None:
    weak = np.full(60, 0.5)
    assert outcome(other, weak, TIGHT).over.all()
    told = known(other)
    # A tenth of the folding that there is: the first λ is too small nearly everywhere.
    hopeful = replace(told, foreground=Band(*(0.1 * part for part in (told.foreground.value,) * 3)))
    for found in (with_loop(weak, other, TIGHT), decide(hopeful, other, TIGHT, weak)):
        first, final = outcome(other, found.first, TIGHT), outcome(other, found.final, TIGHT)
        assert first.over.mean() > 0.3
        assert not final.over.any()
        assert (found.extra[first.over] >= 1).all()
        assert not found.extra[~first.over].any()
        assert (found.final >= found.first).all()


def test_one_structure_alone_moves_the_choice(other: Measured) -> None:
    told, fixed = known(other), np.full(60, 0.5)
    mean, alone = (
        decide(told, other, replace(CRITERION, structures=names), fixed).first.mean() for names in ({}, {"left hippocampus": 1.0})
    )
    assert alone > mean * 1.1
    unknown = replace(told, dice=Band(*(np.where(np.arange(4)[:, None] == 3, np.nan, told.dice.value),) * 3))
    assert (decide(unknown, other, replace(CRITERION, structures={"left hippocampus": 1.0}), fixed).first == 0.5).all()


def test_bisection_finds_the_onset_of_folding(other: Measured) -> None:
    found = bisected(other, CRITERION)
    result = outcome(other, found.final, CRITERION)
    assert not result.over.any()
    assert set(found.extra.tolist()) <= {3.0, 4.0}
    crossing = other.values[(other.foreground[:, other.choice] > 0.5).sum(axis=1)]
    assert (np.abs(np.log(found.final / crossing)) < np.log(other.values[-1] / other.values[0]) / 2**4 + 0.02).all()


def test_the_probe_rule_follows_the_probes_and_needs_them(train: Measured, other: Measured) -> None:
    crossing = other.values[(other.foreground[:, other.choice] > 0.5).sum(axis=1)]
    onsets = probe_onsets(other.examples, CRITERION)
    assert np.corrcoef(np.log(onsets), np.log(crossing))[0, 1] > 0.6
    found = probe_rule(train, other, CRITERION)
    inside = (found > other.values[0] * 1.001) & (found < other.values[-1] * 0.999)
    assert np.ptp(np.log(found / onsets)[inside]) < 1e-6, "one factor for all"
    assert outcome(train, probe_rule(train, train, CRITERION), CRITERION).over.mean() <= 0.1
    blind = other.chosen(np.arange(60))
    names = tuple(name.replace("probe", "other") for name in FEATURES)
    assert np.isnan(probe_rule(train, replace(blind, examples=replace(blind.examples, feature_names=names)), TIGHT)).all()


def test_a_curve_that_knows_the_weight_only_is_the_median(train: Measured, other: Measured) -> None:
    told = only_weight(train, other)
    assert np.ptp(told.dice.value, axis=0).max() == 0
    assert told.foreground.value[0] == pytest.approx(np.median(train.foreground, axis=0)[train.choice])
    assert abs(explained(told.mean.value, other.mean[:, other.choice], within=True)) < 0.2


def test_ridge_learns_what_its_features_tell(train: Measured, other: Measured) -> None:
    true = other.mean[:, other.choice]
    logs = np.log(np.maximum(other.foreground[:, other.choice], 0.002))
    image, probe = (ridge(train, other, expected) for expected in (lambda name: not is_probe(name), is_probe))
    assert explained(image.mean.value, true, True) > 0.7
    assert explained(probe.mean.value, true, True) < 0.2
    of_folding = [explained(np.log(np.maximum(t.foreground.value, 0.002)), logs, True) for t in (image, probe)]
    assert of_folding[1] > 0.4 > 0.2 > of_folding[0]
    assert (np.diff(probe.foreground.value, axis=1) <= 1e-9).all()
    above = probe.foreground.upper / np.maximum(probe.foreground.value, 1e-12)
    assert above.max() > 1.1


def test_ridge_survives_missing_features_and_structures(train: Measured, other: Measured) -> None:
    e = train.examples
    dice, features = e.dice.copy(), e.features.copy()
    dice[::3, 1], features[::5, 0] = np.nan, np.nan
    told = ridge(measured(replace(e, dice=dice, features=features)), other, lambda name: True)
    assert np.isfinite(told.dice.value).all()
    assert np.abs(told.mean.value - other.mean[:, other.choice]).mean() < 0.03


def test_bands_cover_what_lies_inside_and_little_folding_is_none() -> None:
    band = Band(*(np.array([[0.5, 0.0, np.nan]]), np.array([[0.4, 0.0, np.nan]]), np.array([[0.6, 0.0, np.nan]])))
    true = np.array([[0.61, 0.001, 0.5]])
    assert covered(band, true)[0, :2].tolist() == [0.0, 0.0]
    found = covered(band, true, folding=True)[0]
    assert found[:2].tolist() == [0.0, 1.0]
    assert np.isnan(found[2])


def test_r_squared_within_counts_differences_between_pairs_only() -> None:
    true = np.array([[1.0, 10.0], [3.0, 12.0]])
    assert explained(np.array([[2.0, 11.0], [2.0, 11.0]]), true, within=True) == 0
    assert explained(np.array([[2.0, 11.0], [2.0, 11.0]]), true, within=False) > 0.9
    assert explained(true, true, within=True) == 1


def turned(examples: Examples) -> Examples:
    """The same examples of an engine whose parameter is −ln λ, so that less of it regularizes more, on a linear scale."""
    low, high, default = (-float(np.log(value)) for value in (4.5, 0.4, 0.7))
    changes = {"scale": "linear", "regularizes": "down", "low": low, "high": high, "default": default}
    return replace(examples, parameter=replace(examples.parameter, **changes), values=-np.log(examples.values))


def test_another_scale_and_direction_change_nothing_that_is_judged(train: Measured, other: Measured) -> None:
    values = common_grid(turned(train.examples))
    assert values == pytest.approx(-np.log(train.values))
    own, seen = (Measured.of(m.name, turned(m.examples), values, train.examples.labels) for m in (train, other))
    assert -seen.wide == pytest.approx(np.log(other.wide))
    assert seen.dice == pytest.approx(other.dice)
    assert fixed_value(own.examples, own.values) == pytest.approx(-np.log(fixed_value(train.examples, train.values)))
    for criterion in (CRITERION, TIGHT, Criterion()):
        there, here = (decide(known(m), m, criterion, np.full(60, fixed)) for m, fixed in ((other, 3.0), (seen, -np.log(3.0))))
        assert -here.first == pytest.approx(np.log(there.first))
        assert -here.final == pytest.approx(np.log(there.final), abs=1e-6)
        assert -bisected(seen, criterion).final == pytest.approx(np.log(bisected(other, criterion).final))


def test_another_scale_and_direction_train_the_same_network(train: Measured) -> None:
    masks = np.ones((1, 120), dtype=bool)
    settings = TrainingSettings(epochs=2, width=8, knots=6)
    one, two = (fit(examples, masks, settings) for examples in (train.examples, turned(train.examples)))
    assert one.knots == two.knots
    for name, weights in one.network.state_dict().items():
        assert torch.equal(weights, two.network.state_dict()[name]), name


def test_a_table_says_what_is_not_there() -> None:
    table = Table(
        "t", "T", ("a", "b"), ((float("nan"), False), (Resampling.of(np.array([["x", "y"]]), 5).mean(np.ones(1)), True))
    )
    assert "| – | **no** |" in table.markdown()
    assert table.csv().splitlines() == ["a,a lower,a upper,b", ",,,False", "1,,,True"]
    assert (figure(0.01234), figure(0.0), figure(12.345), figure(0.000123)) == ("0.0123", "0", "12.35", "0.00012")
