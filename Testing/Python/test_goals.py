"""What the user wants of a registration, overlap or accuracy, and what is chosen by it and said of it, everywhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from HyperPredictRegLib import engines
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.engines import get_engine
from HyperPredictRegLib.presentation.map_picture import MapColors, quality_map
from HyperPredictRegLib.reporting import wording
from HyperPredictRegLib.reporting.outlook import expectation_parts, setting_map
from HyperPredictRegLib.reporting.prediction_page import curves_table, render_prediction
from HyperPredictRegLib.results.formatting import banded_gain, gain_percent, quality_text, quality_words
from HyperPredictRegLib.results.job import GOALS, RULES, Criterion
from HyperPredictRegLib.results.prediction import Band, BandValue, Predicted, PredictionSurface
from HyperPredictRegLib.selection import choose, objective, per_structure, predict_at
from HyperPredictRegLib.workflow.bootstrapping import GOAL_IDLE, STRUCTURES_IDLE, idle_structures
from reporting_samples import make_prediction
from test_selection import SPACE, curves_of
from two_parameter_engine import NAME, PLACE, ripple_prediction

DICE, GAIN, ERROR = ({"best": place} for place in (1, 2, 4))
"""Where each of three curves over six settings is best."""


def peaked(best: int, high: float, drop: float) -> Band:
    value = high - drop * np.abs(np.arange(6) - best)
    return Band(value, value - 0.05, value + 0.05)


def surface(*, dice: bool = True, gain: bool = True, error: bool = True) -> PredictionSurface:
    """Return six settings: Dice is best at the second one, the gain of overlap at the third, the error at the fifth."""
    whole = curves_of(peaked(**DICE, high=0.8, drop=0.02).value, np.zeros(6))
    least = peaked(**ERROR, high=-0.5, drop=0.2)
    none = Band(*(np.zeros((0, 6)) for _ in range(3)))
    return replace(
        whole if dice else replace(whole, structures=(), labels=(), dice=none, mean_dice=None, error_mm=whole.mean_dice),
        overlap_gain=peaked(**GAIN, high=0.4, drop=0.1) if gain else None,
        error_mm=Band(-least.value, -least.upper, -least.lower) if error else None,
        voxel_mm=2.0,
    )


def place(of: PredictionSurface, criterion: Criterion) -> int:
    return int(np.argmin(np.abs(of.values[:, 0] - choose(of, criterion).setting[SPACE.first.name])))


@pytest.mark.parametrize(
    ("told", "by"),
    [
        ({}, {"auto": ("mean_dice", 1), "overlap": ("mean_dice", 1), "accuracy": ("error_mm", 4)}),
        ({"dice": False}, {"auto": ("error_mm", 4), "overlap": ("overlap_gain", 2), "accuracy": ("error_mm", 4)}),
        ({"dice": False, "gain": False}, dict.fromkeys(GOALS, ("error_mm", 4))),
        ({"gain": False, "error": False}, dict.fromkeys(GOALS, ("mean_dice", 1))),
    ],
)
def test_a_goal_is_chosen_by_what_suits_it_best(told: dict[str, bool], by: dict[str, tuple[str, int]]) -> None:
    of = surface(**told)
    for goal, (measure, best) in by.items():
        criterion = Criterion(goal=goal, folding_limit=None)
        assert (of.measure(goal), place(of, criterion)) == (measure, best)
        assert objective(of, criterion) is of.quality(goal) is getattr(of, measure)
        predicted = choose(of, criterion).predicted
        assert predicted is not None and predicted.measure(goal) == measure
        assert predicted.quality(goal).value == pytest.approx(getattr(of, measure).value[best])
        # Smoother by no more than the rule gives up, which is less than a step here but for the error's part of a voxel.
        assert place(of, replace(criterion, rule="plateau")) == best


def test_a_goal_that_nobody_knows_is_refused() -> None:
    with pytest.raises(InputError, match=r"There is no goal 'both' to choose λ by: take one of auto, overlap, accuracy\."):
        Criterion(goal="both")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("goal", ["overlap", "accuracy"])
def test_what_counts_is_named_in_every_sentence(rule: str, goal: str) -> None:
    of, criterion = surface(dice=False), Criterion(rule=rule, goal=goal)
    words, amount = {"overlap": ("gain of overlap", "40 %"), "accuracy": ("error", "0.50 mm")}[goal]
    assert f"expected {words}" in choose(of, criterion).sentence
    assert rule == "knee" or amount in choose(of, criterion).sentence
    assert f"expected {words}" in wording.criterion_words(criterion, of.measure(goal))
    assert f"the goal is {goal}" in wording.criterion_words(criterion, of.measure(goal))


def test_structures_choose_for_themselves_by_dice_only() -> None:
    of = surface()
    assert len(per_structure(of, Criterion(goal="overlap"))) == len(of.structures) > 0
    assert per_structure(of, Criterion(goal="accuracy")) == ()
    weighed = Criterion(goal="accuracy", structures={of.structures[0]: 1.0})
    # Weights of structures have no effect on an error of the whole anatomy, and a warning says so.
    assert place(of, weighed) == place(of, Criterion(goal="accuracy"))
    assert idle_structures(of, weighed) == (GOAL_IDLE,)
    assert idle_structures(of, replace(weighed, goal="overlap")) == () == idle_structures(of, Criterion(goal="accuracy"))
    assert idle_structures(surface(dice=False), replace(weighed, goal="auto")) == (STRUCTURES_IDLE,)


def test_gains_are_told_in_percent_of_what_affine_leaves() -> None:
    band = BandValue(0.344, -0.1, 0.512)
    assert (gain_percent(0.344), gain_percent(-0.004), gain_percent(float("nan"))) == ("34 %", "0 %", "\N{EN DASH}")
    assert banded_gain(band) == "34 % (\N{MINUS SIGN}10 to 51 %)"
    assert banded_gain(BandValue(0.2, 0.2, 0.2)) == "20 % (band unknown)"
    assert quality_words("overlap_gain", band) == "gain of overlap 34 % (\N{MINUS SIGN}10 to 51 %)"
    assert [quality_text(measure, 0.344) for measure in ("mean_dice", "overlap_gain", "error_mm")] == ["0.344", "34 %", "0.34 mm"]


def test_a_prediction_says_the_gain_of_overlap_where_that_is_the_goal() -> None:
    of = surface(dice=False)
    criterion = Criterion(goal="overlap", folding_limit=None)
    made = make_prediction(of, criterion, replace(choose(of, criterion), fixed=of.space.defaults))
    assert "gain of overlap 40 % (35 to 45 %) of what affine leaves" in wording.first_line_of_prediction(made)
    assert isinstance(made.choice.predicted, Predicted)
    parts = [expectation_parts(made.choice.predicted, None, replace(criterion, goal=goal))[0] for goal in GOALS]
    assert [part.split()[0] for part in parts] == ["expected", "gain", "expected"]
    page = render_prediction(made, [])
    assert "Gain of overlap" in page and "the goal is overlap, as a share of what the affine step leaves" in page
    header, first, *_ = curves_table(of).splitlines()
    assert "overlap_gain,overlap_gain_lower,overlap_gain_upper" in header
    assert float(first.split(",")[header.split(",").index("overlap_gain")]) == pytest.approx(of.overlap_gain.value[0])
    told = predict_at(of, made.choice.setting, "it")
    assert told.overlap_gain is not None and told.overlap_gain.value == pytest.approx(0.4)


def test_maps_show_what_counts_for_the_goal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(engines.ENGINES, NAME, PLACE)
    plain = ripple_prediction(get_engine(NAME))
    dice = plain.surface.mean_dice
    assert dice is not None
    none = Band(*(np.zeros((0, len(dice.value))) for _ in range(3)))
    of = replace(
        plain.surface, structures=(), labels=(), dice=none, mean_dice=None, overlap_gain=dice,
        error_mm=Band(2 - dice.value, 2 - dice.upper, 2 - dice.lower),
    )  # fmt: skip
    titles, values = [], []
    for goal in ("accuracy", "overlap"):
        made = replace(plain, surface=of, criterion=Criterion(goal=goal), structures=())
        titles.append(quality_map(made, None, 400, MapColors("#ffffff", "#000000"), {}).captions[0].text)
        values.append(setting_map(made)[0])
    assert titles == ["Expected error, mm", "Expected gain of overlap, % of what affine leaves"]
    assert [line.split(" over ")[0] for line in values] == titles
