"""From curves to λ*: Equation 3 and the Pareto front against brute force, the other rules, and a loop that always ends well."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from HyperPredictRegLib.curves import Band, Curves
from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.job import RULES, Criterion, FoldingPercent, Trial
from HyperPredictRegLib.selection import (
    NO_FOLDING_PERCENT,
    REPEATS,
    choose,
    corrected,
    feasible,
    foreseen,
    interpolated,
    knee,
    objective,
    pareto_front,
    per_structure,
    within_limit,
)
from HyperPredictRegLib.selection.printed import banded_percent
from HyperPredictRegLib.selection.readout import band_value
from hypothesis import given, settings
from hypothesis import strategies as st

WEIGHT = "regularization_weight"
BOUNDS = {WEIGHT: (0.4, 4.5)}
PAPER = Criterion(rule="maximum", cautious=False)


def curves_of(
    dice: np.ndarray, folding: np.ndarray, values: np.ndarray | None = None, sd: np.ndarray | None = None, factor: float = 1.0
) -> Curves:
    """Return curves for Dice (s, n) and folding (n,) whose folding band reaches from 1/factor to factor times the value."""
    dice, n = np.atleast_2d(dice), len(folding)
    values = np.geomspace(0.4, 4.5, n)[:, None] if values is None else values
    sd = 1 / np.arange(1, n + 1) if sd is None else sd
    names = (WEIGHT,) if values.shape[1] == 1 else ("bending", "linear")
    structures = tuple(f"structure {row}" for row in range(len(dice)))

    def band(middle: np.ndarray) -> Band:
        return Band(middle, middle / factor, middle * factor)

    around = Band(dice, dice - 0.02, dice + 0.03)
    mean = Band(around.value.mean(axis=0), around.lower.mean(axis=0), around.upper.mean(axis=0))
    labels = tuple(range(1, len(dice) + 1))
    return Curves(names, values, structures, labels, around, mean, band(folding), band(folding / 4), band(sd))


def like_demons(n: int = 300, shift: float = 0.0, factor: float = 1.5) -> Curves:
    """Return smooth curves: Dice best at 0.6, folding 0.5 % near λ = 0.52, shifted along ln λ."""
    x = np.log(np.geomspace(0.4, 4.5, n))
    folding = np.where(x - shift < np.log(0.9), 3.0 * np.exp(-11 * (x - shift - np.log(0.45))), 0.0)
    dice = np.stack([0.8 - 0.05 * (x - np.log(best)) ** 2 for best in (0.5, 0.6, 1.2)])
    return curves_of(dice, np.minimum(folding, 100.0), factor=factor, sd=0.3 * np.exp(-x))


@st.composite
def any_curves(draw: st.DrawFn) -> Curves:
    """Any curves of one or two hyperparameters, with ties and zeros."""
    n, s, h = draw(st.integers(1, 12)), draw(st.integers(1, 4)), draw(st.integers(1, 2))
    tenths = st.integers(0, 10)
    dice = np.array(draw(st.lists(st.lists(tenths, min_size=n, max_size=n), min_size=s, max_size=s))) / 10
    folding = np.array(draw(st.lists(st.sampled_from([0.0, 1e-4, 0.1, 0.4, 0.5, 0.9, 7.0]), min_size=n, max_size=n)))
    sd = np.array(draw(st.lists(tenths, min_size=n, max_size=n))) / 10
    if h == 1:
        return curves_of(dice, np.sort(folding)[::-1], sd=np.sort(sd)[::-1], factor=1.5)
    values = np.array([[0.1 * (1 + i % 3), 0.1 * (1 + i // 3)] for i in range(n)])
    return curves_of(dice, folding, values=values, sd=sd, factor=1.5)


criteria = st.builds(
    Criterion,
    rule=st.sampled_from(RULES),
    folding_limit=st.sampled_from([None, 0.05, 0.5, 5.0]),
    domain=st.sampled_from(["foreground", "box"]),
    cautious=st.booleans(),
    combine=st.sampled_from(["mean", "worst"]),
    tolerance=st.sampled_from([0.0, 0.003, 0.25]),
)


def trial(weight: float, folding: float, criterion: Criterion, **others: float) -> Trial:
    measured = FoldingPercent(folding, folding) if criterion.domain == "box" else FoldingPercent(folding, 0.0)
    return Trial({WEIGHT: weight, **others}, measured, 0.2, within_limit(measured, criterion), 1.0)


# ---- the choice


@given(any_curves())
def test_maximum_is_equation_3(curves: Curves) -> None:
    folding, dice = curves.folding_foreground.value, curves.mean_dice.value
    legal = [i for i in range(len(folding)) if folding[i] < 0.5]
    choice = choose(curves, PAPER)
    assert choice.feasible == bool(legal)
    if legal:
        assert choice.index in legal
        assert dice[choice.index] == max(dice[i] for i in legal)


@given(any_curves(), criteria)
def test_the_choice_keeps_the_limit_whenever_any_setting_does(curves: Curves, criterion: Criterion) -> None:
    choice = choose(curves, criterion)
    allowed = feasible(curves, criterion)
    assert choice.feasible == allowed.any() == (allowed[choice.index] or False)
    assert list(choice.hyperparameters.values()) == curves.values[choice.index].tolist()
    if not choice.feasible:
        upper = curves.folding(criterion.domain).upper
        assert upper[choice.index] == upper.min()
        assert "no setting is foreseen" in choice.sentence


@given(any_curves(), criteria)
def test_the_plateau_is_never_rougher_than_the_maximum_nor_too_low(curves: Curves, criterion: Criterion) -> None:
    plateau, best = (choose(curves, replace(criterion, rule=rule)).index for rule in ("plateau", "maximum"))
    dice = objective(curves, criterion).value
    if curves.values.shape[1] == 1:
        assert curves.values[plateau, 0] >= curves.values[best, 0]
    assert curves.sd_log_jacobian.value[plateau] <= curves.sd_log_jacobian.value[best]
    if feasible(curves, criterion).any():
        assert dice[plateau] >= dice[best] - criterion.tolerance - 1e-12


def test_the_plateau_takes_the_largest_weight_within_the_tolerance() -> None:
    curves = curves_of(np.array([0.70, 0.80, 0.799, 0.798, 0.796, 0.6]), np.array([9, 0.4, 0.1, 0.01, 0, 0.0]))
    assert choose(curves, Criterion(tolerance=0.003)).index == 3
    assert choose(curves, Criterion(tolerance=0.0)).index == choose(curves, Criterion(rule="maximum")).index == 1


def test_caution_holds_the_upper_end_of_the_band_under_the_limit() -> None:
    curves = curves_of(np.array([0.9, 0.8, 0.7]), np.array([0.4, 0.3, 0.2]), factor=1.5)
    assert choose(curves, PAPER).index == 0
    assert choose(curves, replace(PAPER, cautious=True)).index == 1
    assert choose(curves, replace(PAPER, cautious=True, domain="box")).index == 0


def test_folding_equal_to_the_limit_is_foreseen_as_too_much_but_measured_as_kept() -> None:
    assert choose(curves_of(np.array([0.9, 0.8]), np.array([0.5, 0.1])), PAPER).index == 1
    assert within_limit(FoldingPercent(0.5, 0.1), PAPER)
    assert not within_limit(FoldingPercent(0.51, 0.1), PAPER)
    assert within_limit(FoldingPercent(0.51, 0.1), replace(PAPER, domain="box"))
    assert within_limit(FoldingPercent(99.0, 99.0), replace(PAPER, folding_limit=None))


def test_among_equals_the_stiffest_is_taken() -> None:
    assert choose(curves_of(np.full(4, 0.8), np.zeros(4)), PAPER).index == 3
    values = np.array([[0.1, 0.1], [0.1, 0.2], [0.2, 0.1], [0.2, 0.2]])
    two = curves_of(np.full(4, 0.8), np.zeros(4), values=values, sd=np.array([0.3, 0.1, 0.2, 0.4]))
    assert choose(two, PAPER).hyperparameters == {"bending": 0.1, "linear": 0.2}


def test_where_nothing_keeps_the_limit_the_stiffest_is_taken_and_said_so() -> None:
    choice = choose(curves_of(np.array([0.9, 0.8, 0.7]), np.array([9.0, 5.0, 5.0])), Criterion())
    assert (choice.index, choice.feasible) == (2, False)
    assert "no setting is foreseen that keeps folding under 0.5 % of the foreground" in choice.sentence


def test_structures_count_by_weight_or_by_the_worst() -> None:
    curves = curves_of(np.array([[0.9, 0.6, 0.5], [0.2, 0.5, 0.6], [0.3, 0.9, 0.0]]), np.zeros(3))
    a, b, c = curves.structures
    weighted = Criterion(rule="maximum", structures={a: 3.0, b: 1.0})
    np.testing.assert_allclose(objective(curves, weighted).value, [0.725, 0.575, 0.525])
    np.testing.assert_allclose(objective(curves, weighted).lower, [0.705, 0.555, 0.505])
    assert choose(curves, weighted).index == 0
    assert choose(curves, replace(weighted, combine="worst")).index == 2
    assert choose(curves, replace(weighted, structures={c: 1.0, b: 0.0})).index == 1
    assert choose(curves, Criterion(rule="maximum", combine="worst")).index == 1
    assert objective(curves, Criterion()) is curves.mean_dice


def test_what_was_not_foreseen_is_not_chosen() -> None:
    curves = curves_of(np.array([[np.nan, 0.7, 0.6], [0.9, 0.8, 0.7], [np.nan] * 3]), np.zeros(3))
    assert choose(curves, Criterion(rule="maximum", structures={"structure 0": 1.0})).index == 1
    assert [found.structure for found in per_structure(replace(curves, mean_dice=curves.dice[1]), PAPER)] == [
        "structure 0", "structure 1"
    ]
    with pytest.raises(InputError, match="No Dice was foreseen"):
        choose(curves, Criterion(structures={"structure 2": 1.0}))


def test_an_unknown_structure_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'Thalamus'.*structure 0, structure 1"):
        choose(curves_of(np.ones((2, 3)), np.zeros(3)), Criterion(structures={"Thalamus": 1.0}))


@pytest.mark.parametrize("rule", RULES)
def test_the_sentence_says_what_was_chosen_and_why(rule: str) -> None:
    choice = choose(like_demons(), Criterion(rule=rule))
    assert choice.sentence.startswith(f"λ = {choice.hyperparameters[WEIGHT]:.3g}: ")
    band = band_value(like_demons().folding_foreground, choice.index)
    none = band.upper < NO_FOLDING_PERCENT
    figures = "Practically no folding is foreseen." if none else f"Foreseen folding of the foreground: {banded_percent(band)}."
    assert choice.sentence.endswith(figures)
    assert "folding under 0.5 % of the foreground" in choice.sentence
    free = choose(like_demons(), Criterion(rule=rule, folding_limit=None, structures={"structure 1": 1.0})).sentence
    assert "under" not in free
    assert "Dice of structure 1" in free


def test_each_structure_has_its_own_optimum_and_gain() -> None:
    curves = like_demons()
    found = per_structure(curves, PAPER)
    overall = choose(curves, PAPER).index
    weights = [one.choice.hyperparameters[WEIGHT] for one in found]
    assert weights[2] == pytest.approx(1.2, rel=0.01)
    assert weights[0] < weights[1] < weights[2]
    for row, one in enumerate(found):
        assert (one.structure, one.label) == (curves.structures[row], curves.labels[row])
        assert one.dice.value == curves.dice.value[row, one.choice.index]
        assert one.gain == one.dice.value - curves.dice.value[row, overall] >= 0


# ---- the front


@given(any_curves(), criteria)
def test_the_front_holds_what_nothing_betters(curves: Curves, criterion: Criterion) -> None:
    dice = objective(curves, criterion).value
    cost = [
        (max(f, NO_FOLDING_PERCENT), sd)
        for f, sd in zip(curves.folding(criterion.domain).value, curves.sd_log_jacobian.value, strict=True)
    ]
    points = list(zip(dice, cost, strict=True))
    unbeaten = {
        (d, c) for d, c in points if not any(e >= d and k <= c and (e, k) != (d, c) for e, k in points)
    }
    front = pareto_front(curves, criterion)
    assert {points[i] for i in front} == unbeaten
    assert len(front) == len(unbeaten)
    assert (np.diff(dice[front]) > 0).all()


def test_the_knee_is_where_more_folding_begins_to_buy_little() -> None:
    folding = np.array([0.1, 0.1 / 3, 0.01, 0.01 / 3, 0.001])
    dice = np.array([0.80, 0.795, 0.79, 0.70, 0.60])
    assert knee(curves_of(dice, folding), Criterion()) == 2
    straight = curves_of(np.array([0.8, 0.7]), np.array([0.1, 0.001]))
    assert knee(straight, Criterion()) == 0
    unfolded = curves_of(dice, np.zeros(5), sd=np.array([0.5, 0.4, 0.3, 0.2, 0.1]))
    assert knee(unfolded, Criterion()) == choose(unfolded, Criterion(rule="knee")).index == 2


@given(any_curves(), criteria)
def test_the_knee_lies_on_the_front_of_what_is_allowed(curves: Curves, criterion: Criterion) -> None:
    allowed = feasible(curves, criterion)
    assert knee(curves, criterion) in pareto_front(curves, criterion, among=allowed if allowed.any() else None)


# ---- reading out


def test_curves_are_read_between_and_at_their_points() -> None:
    curves = like_demons(n=50)
    same = interpolated(curves, curves.values)
    np.testing.assert_allclose(same.dice.upper, curves.dice.upper, atol=1e-12)
    middle = float(np.sqrt(curves.values[3, 0] * curves.values[4, 0]))
    at = interpolated(curves, np.array([middle, 4.5]))
    assert at.values.tolist() == [[middle], [4.5]]
    assert at.folding_box.upper[0] == pytest.approx((curves.folding_box.upper[3] + curves.folding_box.upper[4]) / 2)
    assert at.dice.value.shape == (3, 2)
    told = foreseen(curves, {WEIGHT: middle}, "some predictor")
    assert told.mean_dice.lower == at.mean_dice.lower[0]
    assert [s.dice.value for s in told.structures] == at.dice.value[:, 0].tolist()


@pytest.mark.parametrize("value", [0.39, 4.6, float("nan")])
def test_nothing_is_read_outside_of_what_was_foreseen(value: float) -> None:
    with pytest.raises(InputError, match=r"λ = .*from 0.4 to 4.5"):
        interpolated(like_demons(n=20), np.array([value]))


def test_several_hyperparameters_are_read_at_the_nearest_setting() -> None:
    values = np.array([[0.1, 1.0], [0.1, 100.0], [0.2, 1.0], [0.2, 100.0]])
    curves = curves_of(np.array([0.1, 0.2, 0.3, 0.4]), np.zeros(4), values=values)
    assert interpolated(curves, np.array([[0.19, 60.0], [0.11, 2.0]])).mean_dice.value.tolist() == [0.4, 0.1]


# ---- the closed loop


def run_loop(curves: Curves | None, criterion: Criterion, first: float, measure: object) -> list[Trial]:
    """Register until the loop gives up or is content; `measure` stands in for registering."""
    done: list[Trial] = []
    setting: dict[str, float] | None = {WEIGHT: first}
    while setting is not None:
        done.append(trial(setting[WEIGHT], measure(setting[WEIGHT]), criterion))  # type: ignore[operator]
        setting = corrected(curves, criterion, done, BOUNDS)
        assert len(done) <= REPEATS + 1
    return done


@st.composite
def any_measurement(draw: st.DrawFn) -> object:
    """Any folding that falls with λ in steps, however late, to something within the limit at the upper bound."""
    count = draw(st.integers(1, 6))
    steps = sorted(draw(st.lists(st.floats(0.4, 4.5), min_size=count, max_size=count)))
    heights = sorted(draw(st.lists(st.floats(0.0, 100.0), min_size=count, max_size=count)), reverse=True)
    last = draw(st.sampled_from([0.0, 0.05]))
    return lambda weight: last if weight >= steps[-1] else heights[int(np.searchsorted(steps, weight, side="right"))]


@settings(max_examples=200)
@given(
    measure=any_measurement(),
    foresight=st.one_of(st.none(), st.builds(like_demons, st.just(60), st.floats(-1.0, 1.5), st.floats(1.0, 20.0))),
    criterion=criteria.filter(lambda criterion: criterion.folding_limit is not None),
    first=st.floats(0.4, 4.5),
)
def test_the_loop_rises_ends_and_keeps_the_limit(
    measure: object, foresight: Curves | None, criterion: Criterion, first: float
) -> None:
    done = run_loop(foresight, criterion, first, measure)
    weights = [one.hyperparameters[WEIGHT] for one in done]
    assert (np.diff(weights) > 0).all()
    assert max(weights) <= 4.5
    assert done[-1].within_limit
    assert not any(one.within_limit for one in done[:-1])


def truth(weight: float) -> float:
    """Folding as demons measured it on a pair of brains at 2 mm, in percent of the foreground."""
    known = [0.45, 0.5, 0.54, 0.58, 0.63, 0.7]
    measured = [1.6, 0.724, 0.356, 0.155, 0.0517, 0.0028]
    return float(np.exp(np.interp(np.log(weight), np.log(known), np.log(measured)))) if weight <= 0.7 else 0.0


@pytest.mark.parametrize("foresight", [None, like_demons(shift=-0.3)], ids=["blind", "hopeful"])
def test_one_repeat_is_enough_for_a_real_pair_and_stays_near(foresight: Curves | None) -> None:
    done = run_loop(foresight, Criterion(rule="maximum", structures={"structure 0": 1.0}), 0.45, truth)
    assert len(done) == 2
    assert 0.52 < done[-1].hyperparameters[WEIGHT] < 0.65


def test_the_second_repeat_without_curves_follows_the_measured_line() -> None:
    line = [trial(0.5, 20.0, PAPER), trial(0.6, 8.0, PAPER)]
    slope = np.log(8 / 20) / np.log(0.6 / 0.5)
    expected = 0.6 * np.exp(1.5 * np.log(0.25 / 8) / slope)
    assert corrected(None, PAPER, line, BOUNDS) == pytest.approx({WEIGHT: expected})


def test_what_was_measured_moves_the_choice() -> None:
    curves = like_demons()
    slightly, much = (corrected(curves, PAPER, [trial(0.6, folding, PAPER)], BOUNDS) for folding in (0.6, 6.0))
    assert slightly is not None and much is not None
    assert 0.6 < slightly[WEIGHT] < much[WEIGHT] < 1.2


def test_the_second_repeat_goes_at_least_half_the_way_to_no_folding_and_the_third_to_the_bound() -> None:
    flat = like_demons(shift=2.5)
    failures = [trial(0.6, 20.0, PAPER), trial(0.8, 19.0, PAPER)]
    second = corrected(flat, PAPER, failures, BOUNDS)
    assert second is not None
    assert second[WEIGHT] >= np.sqrt(0.8 * 4.5) * 0.999
    assert corrected(flat, PAPER, [*failures, trial(2.0, 1.0, PAPER)], BOUNDS) == {WEIGHT: 4.5}


def test_the_second_repeat_goes_beyond_half_the_way_if_the_criterion_does() -> None:
    failures = [trial(0.45, 3.0, PAPER), trial(0.5, 1.0, PAPER)]
    for tolerance, expected in ((0.0, 1.0), (0.5, 4.5)):
        criterion = Criterion(tolerance=tolerance, structures={"structure 0": 1.0})
        following = corrected(like_demons(factor=1.01), criterion, failures, BOUNDS)
        assert following is not None
        assert 0.6 < following[WEIGHT] <= expected
    assert following == {WEIGHT: pytest.approx(4.5)}


def test_a_foreseen_zero_that_was_wrong_does_not_drive_the_weight_far() -> None:
    criterion = Criterion(rule="maximum", structures={"structure 0": 1.0})
    following = corrected(like_demons(shift=-0.9), criterion, [trial(0.5, 0.6, criterion)], BOUNDS)
    assert following is not None
    assert 0.51 < following[WEIGHT] < 0.8


def test_a_weight_of_zero_rises_by_a_share_of_the_range() -> None:
    following = corrected(None, PAPER, [trial(0.0, 0.6, PAPER)], {WEIGHT: (0.0, 10.0)})
    assert following == pytest.approx({WEIGHT: 0.2})


def test_the_loop_ends_when_content_exhausted_or_at_the_bound() -> None:
    bad = [trial(weight, 9.0, PAPER) for weight in (0.5, 0.6, 0.7, 0.8)]
    assert corrected(None, PAPER, bad, BOUNDS) is None
    assert corrected(None, PAPER, [trial(4.5, 9.0, PAPER)], BOUNDS) is None
    assert corrected(None, PAPER, [trial(0.5, 0.1, PAPER)], BOUNDS) is None
    assert corrected(None, replace(PAPER, folding_limit=None), [trial(0.5, 9.0, PAPER)], BOUNDS) is None
    with pytest.raises(ValueError, match="at least one trial"):
        corrected(None, PAPER, [], BOUNDS)


def test_only_the_first_hyperparameter_is_corrected() -> None:
    bounds = {**BOUNDS, "other": (0.0, 1.0)}
    following = corrected(like_demons(), PAPER, [trial(0.5, 2.0, PAPER, other=0.3)], bounds)
    assert following is not None
    assert following["other"] == 0.3
    assert following[WEIGHT] > 0.5
