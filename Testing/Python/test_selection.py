"""From a surface to a setting: Equation 3 and the front against brute force, the other rules, and a loop that ends well."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.search_space import Parameter, SearchSpace
from HyperPredictRegLib.results.formatting import banded_percent
from HyperPredictRegLib.results.job import RULES, Criterion
from HyperPredictRegLib.results.prediction import Band, Choice, PredictionSurface
from HyperPredictRegLib.results.report import FoldingPercent, Trial
from HyperPredictRegLib.selection import (
    NO_FOLDING_PERCENT,
    REPEATS,
    choose,
    corrected,
    feasible,
    interpolated,
    knee,
    objective,
    pareto_front,
    per_structure,
    predict_at,
    within_limit,
)
from HyperPredictRegLib.selection.interpolation import band_value
from hypothesis import given, settings
from hypothesis import strategies as st

WEIGHT = "regularization_weight"
LAMBDA = Parameter(WEIGHT, "λ", "voxels", "log", 0.4, 4.5, 0.7, "up", "Regularization weight", "Higher is smoother.")
SPACE = SearchSpace((LAMBDA,))
TWO = SearchSpace(
    (
        Parameter("damping", "d", "", "log", 0.1, 0.3, 0.1, "up", "Damping", "Higher is smoother."),
        Parameter("linear", "a", "", "log", 0.1, 100.0, 0.1, "up", "Linear", "Higher is smoother."),
    )
)
PAPER = Criterion(rule="maximum", cautious=False)


def curves_of(
    dice: np.ndarray, folding: np.ndarray, values: np.ndarray | None = None, sd: np.ndarray | None = None, factor: float = 1.0
) -> PredictionSurface:
    """Return curves for Dice (s, n) and folding (n,) whose folding band reaches from 1/factor to factor times the value."""
    dice, n = np.atleast_2d(dice), len(folding)
    values = np.geomspace(0.4, 4.5, n)[:, None] if values is None else values
    sd = 1 / np.arange(1, n + 1) if sd is None else sd
    space = SPACE if values.shape[1] == 1 else TWO
    structures = tuple(f"structure {row}" for row in range(len(dice)))

    def band(middle: np.ndarray) -> Band:
        return Band(middle, middle / factor, middle * factor)

    around = Band(dice, dice - 0.02, dice + 0.03)
    mean = Band(around.value.mean(axis=0), around.lower.mean(axis=0), around.upper.mean(axis=0))
    labels = tuple(range(1, len(dice) + 1))
    return PredictionSurface(space, values, structures, labels, around, mean, band(folding), band(folding / 4), band(sd))


def row_of(surface: PredictionSurface, choice: Choice) -> int:
    """Return which setting of a surface was chosen."""
    (row,) = np.flatnonzero((surface.values == surface.space.rows([choice.setting])).all(axis=1))
    return int(row)


def chosen(surface: PredictionSurface, criterion: Criterion) -> int:
    return row_of(surface, choose(surface, criterion))


def like_demons(n: int = 300, shift: float = 0.0, factor: float = 1.5) -> PredictionSurface:
    """Return smooth curves: Dice best at 0.6, folding 0.5 % near λ = 0.52, shifted along ln λ."""
    x = np.log(np.geomspace(0.4, 4.5, n))
    folding = np.where(x - shift < np.log(0.9), 3.0 * np.exp(-11 * (x - shift - np.log(0.45))), 0.0)
    dice = np.stack([0.8 - 0.05 * (x - np.log(best)) ** 2 for best in (0.5, 0.6, 1.2)])
    return curves_of(dice, np.minimum(folding, 100.0), factor=factor, sd=0.3 * np.exp(-x))


@st.composite
def any_curves(draw: st.DrawFn) -> PredictionSurface:
    """Any curves of one or two parameters, with ties and zeros."""
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
    domain=st.sampled_from(["foreground", "grid"]),
    cautious=st.booleans(),
    combine=st.sampled_from(["mean", "worst"]),
    tolerance=st.sampled_from([0.0, 0.003, 0.25]),
)


def trial(weight: float, folding: float, criterion: Criterion, **others: float) -> Trial:
    measured = FoldingPercent(folding, folding) if criterion.domain == "grid" else FoldingPercent(folding, 0.0)
    return Trial({WEIGHT: weight, **others}, measured, 0.2, within_limit(measured, criterion), 1.0)


# ---- the choice


@given(any_curves())
def test_maximum_is_equation_3(surface: PredictionSurface) -> None:
    folding, dice = surface.folding_foreground.value, surface.mean_dice.value
    legal = [i for i in range(len(folding)) if folding[i] < 0.5]
    choice = choose(surface, PAPER)
    assert choice.feasible == bool(legal)
    if legal:
        row = row_of(surface, choice)
        assert row in legal
        assert dice[row] == max(dice[i] for i in legal)


@given(any_curves(), criteria)
def test_the_choice_keeps_the_limit_whenever_any_setting_does(surface: PredictionSurface, criterion: Criterion) -> None:
    choice = choose(surface, criterion)
    allowed = feasible(surface, criterion)
    row = row_of(surface, choice)
    assert choice.feasible == allowed.any() == bool(allowed[row])
    assert choice.predicted is not None and choice.predicted.mean_dice == band_value(surface.mean_dice, row)
    if not choice.feasible:
        upper = surface.folding(criterion.domain).upper
        assert upper[row] == upper.min()
        assert "no setting is predicted" in choice.sentence


@given(any_curves(), criteria)
def test_the_plateau_is_never_rougher_than_the_maximum_nor_too_low(surface: PredictionSurface, criterion: Criterion) -> None:
    plateau, best = (chosen(surface, replace(criterion, rule=rule)) for rule in ("plateau", "maximum"))
    dice = objective(surface, criterion).value
    if surface.values.shape[1] == 1:
        assert surface.values[plateau, 0] >= surface.values[best, 0]
    assert surface.sd_log_jacobian.value[plateau] <= surface.sd_log_jacobian.value[best]
    if feasible(surface, criterion).any():
        assert dice[plateau] >= dice[best] - criterion.tolerance - 1e-12


def test_the_plateau_takes_the_largest_weight_within_the_tolerance() -> None:
    surface = curves_of(np.array([0.70, 0.80, 0.799, 0.798, 0.796, 0.6]), np.array([9, 0.4, 0.1, 0.01, 0, 0.0]))
    assert chosen(surface, Criterion(rule="plateau", tolerance=0.003)) == 3
    assert chosen(surface, Criterion(rule="plateau", tolerance=0.0)) == chosen(surface, Criterion(rule="maximum")) == 1


def test_caution_holds_the_upper_end_of_the_band_under_the_limit() -> None:
    surface = curves_of(np.array([0.9, 0.8, 0.7]), np.array([0.4, 0.3, 0.2]), factor=1.5)
    assert chosen(surface, PAPER) == 0
    assert chosen(surface, replace(PAPER, cautious=True)) == 1
    assert chosen(surface, replace(PAPER, cautious=True, domain="grid")) == 0


def test_folding_equal_to_the_limit_is_predicted_as_too_much_but_measured_as_kept() -> None:
    assert chosen(curves_of(np.array([0.9, 0.8]), np.array([0.5, 0.1])), PAPER) == 1
    assert within_limit(FoldingPercent(0.5, 0.1), PAPER)
    assert not within_limit(FoldingPercent(0.51, 0.1), PAPER)
    assert within_limit(FoldingPercent(0.51, 0.1), replace(PAPER, domain="grid"))
    assert within_limit(FoldingPercent(99.0, 99.0), replace(PAPER, folding_limit=None))


def test_among_equals_the_most_regularized_is_taken() -> None:
    assert chosen(curves_of(np.full(4, 0.8), np.zeros(4)), PAPER) == 3
    values = np.array([[0.1, 0.1], [0.1, 0.2], [0.2, 0.1], [0.2, 0.2]])
    two = curves_of(np.full(4, 0.8), np.zeros(4), values=values, sd=np.array([0.3, 0.1, 0.2, 0.4]))
    assert choose(two, PAPER).setting == {"damping": 0.1, "linear": 0.2}


def test_where_nothing_keeps_the_limit_the_most_regularized_is_taken_and_said_so() -> None:
    choice = choose(curves_of(np.array([0.9, 0.8, 0.7]), np.array([9.0, 5.0, 5.0])), Criterion())
    assert (choice.setting[WEIGHT], choice.feasible) == (pytest.approx(4.5), False)
    assert "no setting is predicted that keeps folding under 0.5 % of the foreground" in choice.sentence


def test_a_limit_below_what_bands_can_tell_does_not_cost_dice() -> None:
    surface = like_demons()
    folding = surface.folding_foreground
    # As the bundled predictor has it: the band's upper end never comes below what can be told from no folding.
    surface = replace(surface, folding_foreground=replace(folding, upper=np.maximum(folding.upper, 0.03)))
    far_below, just_below, above = (choose(surface, Criterion(folding_limit=limit)) for limit in (0.001, 0.02, 0.1))
    assert above.feasible and not just_below.feasible and not far_below.feasible
    assert "no setting is predicted that keeps folding under 0.02 % of the foreground for certain" in just_below.sentence
    assert just_below.predicted is not None and far_below.predicted is not None
    assert just_below.predicted.mean_dice.value > surface.mean_dice.value[-1] + 0.02
    assert just_below.setting[WEIGHT] >= above.setting[WEIGHT]
    assert far_below.predicted.folding_foreground.value < 0.001


def test_structures_count_by_weight_or_by_the_worst() -> None:
    surface = curves_of(np.array([[0.9, 0.6, 0.5], [0.2, 0.5, 0.6], [0.3, 0.9, 0.0]]), np.zeros(3))
    a, b, c = surface.structures
    weighted = Criterion(rule="maximum", structures={a: 3.0, b: 1.0})
    np.testing.assert_allclose(objective(surface, weighted).value, [0.725, 0.575, 0.525])
    np.testing.assert_allclose(objective(surface, weighted).lower, [0.705, 0.555, 0.505])
    assert chosen(surface, weighted) == 0
    assert chosen(surface, replace(weighted, combine="worst")) == 2
    assert chosen(surface, replace(weighted, structures={c: 1.0, b: 0.0})) == 1
    assert chosen(surface, Criterion(rule="maximum", combine="worst")) == 1
    assert objective(surface, Criterion()) is surface.mean_dice


def test_what_was_not_predicted_is_not_chosen() -> None:
    surface = curves_of(np.array([[np.nan, 0.7, 0.6], [0.9, 0.8, 0.7], [np.nan] * 3]), np.zeros(3))
    assert chosen(surface, Criterion(rule="maximum", structures={"structure 0": 1.0})) == 1
    assert [found.name for found in per_structure(replace(surface, mean_dice=surface.dice[1]), PAPER)] == [
        "structure 0", "structure 1"
    ]
    with pytest.raises(InputError, match="No Dice was predicted"):
        choose(surface, Criterion(structures={"structure 2": 1.0}))


def test_an_unknown_structure_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'Thalamus'.*structure 0, structure 1"):
        choose(curves_of(np.ones((2, 3)), np.zeros(3)), Criterion(structures={"Thalamus": 1.0}))


@pytest.mark.parametrize("rule", RULES)
def test_the_sentence_says_what_was_chosen_and_why(rule: str) -> None:
    choice = choose(like_demons(), Criterion(rule=rule))
    assert choice.sentence.startswith(f"λ = {choice.setting[WEIGHT]:.3g}: ")
    band = band_value(like_demons().folding_foreground, row_of(like_demons(), choice))
    none = band.upper < NO_FOLDING_PERCENT
    figures = "Practically no folding is predicted." if none else f"Predicted folding of the foreground: {banded_percent(band)}."
    assert choice.sentence.endswith(figures)
    assert "folding under 0.5 % of the foreground" in choice.sentence
    free = choose(like_demons(), Criterion(rule=rule, folding_limit=None, structures={"structure 1": 1.0})).sentence
    assert "under" not in free
    assert "Dice of structure 1" in free


def test_each_structure_has_its_own_optimum_and_gain() -> None:
    surface = like_demons()
    found = per_structure(surface, PAPER)
    overall = chosen(surface, PAPER)
    weights = [one.setting[WEIGHT] for one in found]
    assert weights[2] == pytest.approx(1.2, rel=0.01)
    assert weights[0] < weights[1] < weights[2]
    for row, one in enumerate(found):
        own = int(np.flatnonzero(surface.values[:, 0] == one.setting[WEIGHT])[0])
        assert (one.name, one.label) == (surface.structures[row], surface.labels[row])
        assert one.dice.value == surface.dice.value[row, own]
        assert one.dice_at_choice.value == surface.dice.value[row, overall]
        assert one.dice.value >= one.dice_at_choice.value


@given(any_curves(), criteria)
def test_a_structure_chooses_as_if_it_were_alone(surface: PredictionSurface, criterion: Criterion) -> None:
    for row, one in enumerate(per_structure(surface, criterion)):
        alone = replace(surface, structures=("it",), labels=(1,), dice=surface.dice[row : row + 1])
        assert one.setting == choose(alone, replace(criterion, structures={"it": 1.0})).setting


# ---- the front


@given(any_curves(), criteria)
def test_the_front_holds_what_nothing_betters(surface: PredictionSurface, criterion: Criterion) -> None:
    dice = objective(surface, criterion).value
    cost = [
        (max(f, NO_FOLDING_PERCENT), sd)
        for f, sd in zip(surface.folding(criterion.domain).value, surface.sd_log_jacobian.value, strict=True)
    ]
    points = list(zip(dice, cost, strict=True))
    unbeaten = {
        (d, c) for d, c in points if not any(e >= d and k <= c and (e, k) != (d, c) for e, k in points)
    }
    front = pareto_front(surface, criterion)
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
    assert knee(unfolded, Criterion()) == chosen(unfolded, Criterion(rule="knee")) == 2


@given(any_curves(), criteria)
def test_the_knee_lies_on_the_front_of_what_is_allowed(surface: PredictionSurface, criterion: Criterion) -> None:
    allowed = feasible(surface, criterion)
    assert knee(surface, criterion) in pareto_front(surface, criterion, among=allowed if allowed.any() else None)


# ---- reading out


def test_curves_are_read_between_and_at_their_points() -> None:
    surface = like_demons(n=50)
    same = interpolated(surface, surface.values)
    np.testing.assert_allclose(same.dice.upper, surface.dice.upper, atol=1e-12)
    middle = float(np.sqrt(surface.values[3, 0] * surface.values[4, 0]))
    at = interpolated(surface, np.array([middle, 4.5]))
    assert at.values.tolist() == [[middle], [4.5]]
    assert at.folding_grid.upper[0] == pytest.approx((surface.folding_grid.upper[3] + surface.folding_grid.upper[4]) / 2)
    assert at.dice.value.shape == (3, 2)
    told = predict_at(surface, {WEIGHT: middle}, "some predictor")
    assert told.mean_dice.lower == at.mean_dice.lower[0]
    assert [s.dice.value for s in told.structures] == at.dice.value[:, 0].tolist()


@pytest.mark.parametrize("value", [0.39, 4.6, float("nan")])
def test_nothing_is_read_outside_of_what_was_predicted(value: float) -> None:
    with pytest.raises(InputError, match=r"λ = .*from 0.4 to 4.5"):
        interpolated(like_demons(n=20), np.array([value]))


def test_several_parameters_are_read_between_the_neighbors_on_each_scale() -> None:
    values = np.array([[0.1, 1.0], [0.1, 100.0], [0.2, 1.0], [0.2, 100.0]])
    surface = curves_of(np.array([0.1, 0.2, 0.3, 0.4]), np.zeros(4), values=values)
    middle = float(np.sqrt(0.1 * 0.2))
    read = interpolated(surface, np.array([[0.1, 10.0], [middle, 1.0], [middle, 10.0], [0.2, 100.0]]))
    np.testing.assert_allclose(read.mean_dice.value, [0.15, 0.2, 0.25, 0.4])


def test_scattered_settings_are_read_in_their_triangles_and_beside_them_at_the_nearest() -> None:
    corners = np.array([[0.1, 1.0], [0.1, 100.0], [0.2, 1.0]])
    values = np.vstack([corners, [[0.12, 3.0], [0.11, 20.0]]])
    at = TWO.to_unit(values)
    surface = curves_of(0.2 + 0.3 * at[:, 0] + 0.1 * at[:, 1], np.zeros(5), values=values)
    asked = np.array([[0.13, 4.0], [0.199, 99.0]])
    inside, outside = interpolated(surface, asked).mean_dice.value
    place = TWO.to_unit(asked)[0]
    assert inside == pytest.approx(0.2 + 0.3 * place[0] + 0.1 * place[1])
    assert outside in surface.mean_dice.value
    line = curves_of(np.array([0.1, 0.2, 0.3]), np.zeros(3), values=np.array([[0.1, 1.0], [0.15, 10.0], [0.2, 90.0]]))
    assert interpolated(line, np.array([[0.11, 80.0]])).mean_dice.value[0] in (0.1, 0.2, 0.3)


# ---- the closed loop


def run_loop(surface: PredictionSurface | None, criterion: Criterion, first: float, measure: object) -> list[Trial]:
    """Register until the loop gives up or is content; `measure` stands in for registering."""
    done: list[Trial] = []
    setting: dict[str, float] | None = {WEIGHT: first}
    while setting is not None:
        done.append(trial(setting[WEIGHT], measure(setting[WEIGHT]), criterion))  # type: ignore[operator]
        setting = corrected(surface, criterion, done, SPACE)
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
    prediction=st.one_of(st.none(), st.builds(like_demons, st.just(60), st.floats(-1.0, 1.5), st.floats(1.0, 20.0))),
    criterion=criteria.filter(lambda criterion: criterion.folding_limit is not None),
    first=st.floats(0.4, 4.5),
)
def test_the_loop_rises_ends_and_keeps_the_limit(
    measure: object, prediction: PredictionSurface | None, criterion: Criterion, first: float
) -> None:
    done = run_loop(prediction, criterion, first, measure)
    weights = [one.setting[WEIGHT] for one in done]
    assert (np.diff(weights) > 0).all()
    assert max(weights) <= 4.5
    assert done[-1].within_limit
    assert not any(one.within_limit for one in done[:-1])


def truth(weight: float) -> float:
    """Folding as demons measured it on a pair of brains at 2 mm, in percent of the foreground."""
    known = [0.45, 0.5, 0.54, 0.58, 0.63, 0.7]
    measured = [1.6, 0.724, 0.356, 0.155, 0.0517, 0.0028]
    return float(np.exp(np.interp(np.log(weight), np.log(known), np.log(measured)))) if weight <= 0.7 else 0.0


@pytest.mark.parametrize("prediction", [None, like_demons(shift=-0.3)], ids=["blind", "hopeful"])
def test_one_repeat_is_enough_for_a_real_pair_and_stays_near(prediction: PredictionSurface | None) -> None:
    done = run_loop(prediction, Criterion(rule="maximum", structures={"structure 0": 1.0}), 0.45, truth)
    assert len(done) == 2
    assert 0.52 < done[-1].setting[WEIGHT] < 0.65


def test_the_second_repeat_without_curves_follows_the_measured_line() -> None:
    line = [trial(0.5, 20.0, PAPER), trial(0.6, 8.0, PAPER)]
    slope = np.log(8 / 20) / np.log(0.6 / 0.5)
    expected = 0.6 * np.exp(1.5 * np.log(0.25 / 8) / slope)
    assert corrected(None, PAPER, line, SPACE) == pytest.approx({WEIGHT: expected})


def test_what_was_measured_moves_the_choice() -> None:
    surface = like_demons()
    slightly, much = (corrected(surface, PAPER, [trial(0.6, folding, PAPER)], SPACE) for folding in (0.6, 6.0))
    assert slightly is not None and much is not None
    assert 0.6 < slightly[WEIGHT] < much[WEIGHT] < 1.2


def test_the_second_repeat_goes_at_least_half_the_way_to_no_folding_and_the_third_to_the_bound() -> None:
    flat = like_demons(shift=2.5)
    failures = [trial(0.6, 20.0, PAPER), trial(0.8, 19.0, PAPER)]
    second = corrected(flat, PAPER, failures, SPACE)
    assert second is not None
    assert second[WEIGHT] >= np.sqrt(0.8 * 4.5) * 0.999
    assert corrected(flat, PAPER, [*failures, trial(2.0, 1.0, PAPER)], SPACE) == {WEIGHT: 4.5}


def test_the_second_repeat_goes_beyond_half_the_way_if_the_criterion_does() -> None:
    failures = [trial(0.45, 3.0, PAPER), trial(0.5, 1.0, PAPER)]
    for tolerance, expected in ((0.0, 1.0), (0.5, 4.5)):
        criterion = Criterion(rule="plateau", tolerance=tolerance, structures={"structure 0": 1.0})
        following = corrected(like_demons(factor=1.01), criterion, failures, SPACE)
        assert following is not None
        assert 0.6 < following[WEIGHT] <= expected
    assert following == {WEIGHT: pytest.approx(4.5)}


def test_a_predicted_zero_that_was_wrong_does_not_drive_the_weight_far() -> None:
    criterion = Criterion(rule="maximum", structures={"structure 0": 1.0})
    following = corrected(like_demons(shift=-0.9), criterion, [trial(0.5, 0.6, criterion)], SPACE)
    assert following is not None
    assert 0.51 < following[WEIGHT] < 0.8


LINEAR_UP = Parameter("distance", "d", "mm", "linear", 0.0, 10.0, 1.0, "up", "Distance", "Higher is smoother.")
LINEAR_DOWN = Parameter("freedom", "f", "", "linear", -1.0, 1.0, 0.0, "down", "Freedom", "Lower is smoother.")
LOG_DOWN = Parameter("step", "s", "", "log", 1e-3, 10.0, 1.0, "down", "Step", "Lower is smoother.")


@pytest.mark.parametrize("parameter", [LAMBDA, LINEAR_UP, LINEAR_DOWN, LOG_DOWN], ids=lambda parameter: parameter.name)
@pytest.mark.parametrize("predicted", [True, False])
def test_any_scale_is_corrected_toward_the_end_that_regularizes(parameter: Parameter, predicted: bool) -> None:
    """Folding falls tenfold with each tenth of the range, and is predicted too low."""
    space = SearchSpace((parameter,))
    values = space.grid(100)
    shares = space.regularization(values)
    folding = 20 * 10.0 ** (-10 * shares)
    flipped = replace(like_demons(100), space=space, values=values, mean_dice=Band(*[0.8 - 0.1 * shares] * 3))
    surface = replace(flipped, folding_foreground=Band(folding / 4, folding / 9, folding / 2)) if predicted else None
    done: list[Trial] = []
    setting: dict[str, float] | None = space.setting(values[np.argmin(shares)])
    while setting is not None:
        share = space.regularization(space.rows([setting]))[0]
        measured = FoldingPercent(20 * 10.0 ** (-10 * share), 0.0)
        done.append(Trial(setting, measured, 0.2, within_limit(measured, PAPER), 1.0))
        setting = corrected(surface, PAPER, done, space)
    tried = space.regularization(space.rows([one.setting for one in done]))
    assert done[-1].within_limit
    assert (np.diff(tried) > 0).all()
    assert tried[-1] < 0.5


def test_the_end_of_the_range_is_tried_exactly() -> None:
    for space in (SPACE, SearchSpace((LINEAR_DOWN, LAMBDA))):
        weak = {p.name: p.low if p.regularizes == "up" else p.high for p in space}
        bad = [Trial(weak, FoldingPercent(90.0, 90.0), 0.2, False, 1.0)] * REPEATS
        assert corrected(None, PAPER, bad, space) == space.strongest
        assert corrected(None, PAPER, [replace(bad[0], setting=space.strongest)], space) is None


def test_the_loop_ends_when_content_exhausted_or_at_the_bound() -> None:
    bad = [trial(weight, 9.0, PAPER) for weight in (0.5, 0.6, 0.7, 0.8)]
    assert corrected(None, PAPER, bad, SPACE) is None
    assert corrected(None, PAPER, [trial(4.5, 9.0, PAPER)], SPACE) is None
    assert corrected(None, PAPER, [trial(0.5, 0.1, PAPER)], SPACE) is None
    assert corrected(None, replace(PAPER, folding_limit=None), [trial(0.5, 9.0, PAPER)], SPACE) is None
    with pytest.raises(ValueError, match="at least one trial"):
        corrected(None, PAPER, [], SPACE)


def test_without_a_surface_of_these_parameters_only_the_first_is_corrected_until_it_is_used_up() -> None:
    space = SearchSpace((LAMBDA, replace(LINEAR_DOWN, name="other")))
    for surface in (None, like_demons()):
        following = corrected(surface, PAPER, [trial(0.5, 2.0, PAPER, other=0.3)], space)
        assert following is not None
        assert following["other"] == 0.3
        assert following[WEIGHT] > 0.5
    following = corrected(None, PAPER, [trial(4.5, 2.0, PAPER, other=0.3)], space)
    assert following is not None
    assert following[WEIGHT] == 4.5 and following["other"] < 0.3
