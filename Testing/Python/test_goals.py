"""What the user wants of a registration, overlap or accuracy, and what is chosen by it and said of it, everywhere."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from HyperPredictRegLib import engines
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.engines import get_engine
from HyperPredictRegLib.presentation.map_picture import MapColors, quality_map
from HyperPredictRegLib.reporting import wording
from HyperPredictRegLib.reporting.outlook import expectation_parts, setting_map
from HyperPredictRegLib.reporting.prediction_figures import Marks, draw_prediction
from HyperPredictRegLib.reporting.prediction_page import curves_table, render_prediction
from HyperPredictRegLib.reporting.sheet import LIGHT
from HyperPredictRegLib.results.exchange import prediction_from_json, prediction_to_json
from HyperPredictRegLib.results.formatting import banded_gain, gain_percent, quality_text, quality_words
from HyperPredictRegLib.results.job import GOALS, RULES, Criterion
from HyperPredictRegLib.results.prediction import (
    BOOTSTRAP,
    Band,
    BandValue,
    Predicted,
    Prediction,
    PredictionSurface,
    Reliability,
)
from HyperPredictRegLib.results.report import FoldingPercent, Trial
from HyperPredictRegLib.selection import choose, corrected, interpolated, objective, per_structure, predict_at
from HyperPredictRegLib.workflow import choosing
from HyperPredictRegLib.workflow.reusing import chosen_by
from reporting_samples import make_prediction
from test_exchange import assert_same
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
        ({"dice": False, "gain": False}, dict.fromkeys(("auto", "accuracy"), ("error_mm", 4))),
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
    for criterion, idle in ((weighed, True), (replace(weighed, goal="overlap"), False), (Criterion(goal="accuracy"), False)):
        assert ("weights of structures have no effect" in choose(of, criterion).sentence) == idle
    with pytest.raises(InputError, match="does not predict the structure 'nothing such'"):
        choose(of, Criterion(goal="accuracy", structures={"nothing such": 1.0}))


def test_a_goal_of_which_nothing_is_predicted_is_said_to_be_missed() -> None:
    only_dice, error_alone = surface(gain=False, error=False), surface(dice=False, gain=False)
    assert "The goal is accuracy, but no error is predicted here, so Dice counts." in sentence(only_dice, "accuracy")
    assert "the goal is overlap, of which nothing is predicted here" in sentence(error_alone, "overlap")
    for of, goal in ((only_dice, "overlap"), (error_alone, "accuracy"), (only_dice, "auto"), (surface(), "accuracy")):
        assert "he goal is" not in sentence(of, goal)


def sentence(of: PredictionSurface, goal: str) -> str:
    return choose(of, Criterion(goal=goal)).sentence


DEFAULT = SPACE.first.default


def only_error(folding: float | np.ndarray = 0.0, upper: float | None = None) -> PredictionSurface:
    """Return settings of which the error alone is predicted, least at the fifth of seven; the third is the engine's default."""
    of = interpolated(surface(dice=False, gain=False), np.array([0.45, 0.55, DEFAULT, 0.9, 1.2, 2.0, 4.0]))
    low = np.broadcast_to(folding, 7).astype(float)
    return replace(of, folding_foreground=Band(low, low, low if upper is None else np.full(7, upper)))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("predictor", ["it", BOOTSTRAP])
def test_where_only_the_error_is_predicted_overlap_takes_the_default(rule: str, predictor: str) -> None:
    of, criterion = only_error(), Criterion(rule=rule, goal="overlap")
    found = choose(of, criterion, predictor)
    assert found.setting == SPACE.defaults and found.feasible
    assert found.by == (BOOTSTRAP if predictor == BOOTSTRAP else "predictor")
    assert found.predicted == predict_at(of, SPACE.defaults, predictor)
    assert f"\N{GREEK SMALL LETTER LAMDA} = {DEFAULT:g}: the engine's default; the goal is overlap" in found.sentence
    assert ("Neither the rule nor weights of structures have an effect then." in found.sentence) == (rule != "maximum")
    assert "whole anatomy" not in choose(of, replace(criterion, combine="worst")).sentence
    for goal in ("auto", "accuracy"):
        assert choose(of, replace(criterion, goal=goal), predictor).setting != SPACE.defaults


def test_a_default_that_would_fold_gives_way_to_the_nearest_setting_that_keeps_the_limit() -> None:
    criterion = Criterion(goal="overlap", folding_limit=0.5)
    found = choose(only_error(np.array([2.0, 2.0, 2.0, 2.0, 0.1, 0.1, 0.1])), criterion)
    assert found.setting == {SPACE.first.name: 1.2} and found.feasible
    nearest = f"the setting nearest to the engine's default (\N{GREEK SMALL LETTER LAMDA} = {DEFAULT:g}) that is predicted"
    assert f"{nearest} and keeps folding under 0.5 % of the foreground" in found.sentence
    # Where nothing keeps it, what folds least is taken, as for any other goal.
    found = choose(only_error(2.0), criterion)
    assert found.setting == {SPACE.first.name: 4.0} and not found.feasible
    assert "no setting is predicted that keeps folding" in found.sentence and "default" not in found.sentence
    # Bands that end at what can be told from no folding keep a small limit by the best guess only.
    found = choose(only_error(0.0, upper=0.3), replace(criterion, folding_limit=0.1))
    assert found.setting == SPACE.defaults and not found.feasible
    assert "for certain; of the safest this is the nearest to the engine's default" in found.sentence


def test_a_default_of_which_nothing_is_predicted_gives_way_to_the_nearest_setting() -> None:
    of, criterion = only_error(), Criterion(goal="overlap", folding_limit=None)
    assert of.error_mm is not None
    hidden = np.where(of.values[:, 0] < 1.0, np.nan, of.error_mm.value)
    # What was tried may be narrower than what the engine accepts: then the default of that range is not the engine's.
    narrow = replace(interpolated(of, np.array([1.2, 2.0, 4.0])), space=SPACE.narrowed(SPACE.first.name, 1.2, 4.0))
    for partial in (replace(of, error_mm=Band(hidden, hidden, hidden)), narrow):
        found = choose(partial, criterion, "it", SPACE.defaults)
        assert found.setting == {SPACE.first.name: 1.2}
        assert f"the engine's default (\N{GREEK SMALL LETTER LAMDA} = {DEFAULT:g}) that is predicted;" in found.sentence
        made = make_prediction(partial, criterion, found)
        made = replace(made, engine=replace(made.engine, space=SPACE))
        # What the engine accepts for this pair, whose default was moved inside, is not the engine's own either.
        again = chosen_by(made, replace(criterion, rule="plateau"), SPACE.narrowed(SPACE.first.name, 1.2, 4.0)).choice
        assert again.setting == found.setting and "the setting nearest to the engine's default" in again.sentence


def test_a_repeat_for_overlap_regularizes_a_little_more_than_the_default() -> None:
    trial = Trial(SPACE.defaults, FoldingPercent(grid=0.3, foreground=0.6), 0.2, False, 1.0)
    again = corrected(only_error(), Criterion(goal="overlap", folding_limit=0.5), [trial], SPACE)
    assert again is not None and DEFAULT < again[SPACE.first.name] < 1.2


def test_reports_say_that_the_default_was_taken() -> None:
    of, criterion = surface(dice=False, gain=False), Criterion(goal="overlap")
    words = wording.criterion_words(criterion, of.measure("overlap"))
    assert words.startswith("nearest to the engine's default") and "of which nothing is predicted" in words
    made = make_prediction(of, criterion, choose(of, criterion, BOOTSTRAP), predictor=BOOTSTRAP)
    assert "of which nothing is predicted" in render_prediction(made, [])


def test_what_one_predictor_does_not_tell_another_one_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = surface().values[[0, -1], 0]
    brain = interpolated(surface(gain=False, error=False), np.geomspace(*ends, 60))
    # The other one was trained on a little less, and says nothing of what lies beyond.
    whole = interpolated(surface(dice=False), np.geomspace(*(ends * (1.01, 0.99)), 40))
    made = [
        make_prediction(of, Criterion(), choose(of, Criterion(), name), predictor=name, structures=())
        for name, of in (("brain 1", brain), ("any 1", whole))
    ]
    for goal, measure in (("accuracy", "error_mm"), ("overlap", "mean_dice"), ("auto", "mean_dice")):
        found, _, _ = chosen_by_both(monkeypatch, made, Criterion(goal=goal, folding_limit=None))
        assert (found.predictor, found.further) == ("brain 1", "any 1")
        assert found.choice.predicted is not None and found.choice.predicted.measure(goal) == measure
        assert found.choice.setting == choose(found.surface, found.criterion).setting
        error = found.surface.error_mm
        assert error is not None and np.isnan(error.value[[0, -1]]).all() and np.isfinite(error.value[5:-5]).all()
        np.testing.assert_array_equal(found.surface.mean_dice.value, brain.mean_dice.value)
        # Beyond, the suggestion is told without an error, not with one that nobody knows.
        beyond = predict_at(found.surface, found.surface.space.setting(found.surface.values[0]), "it")
        assert beyond.error_mm is None and beyond.mean_dice is not None
        assert not any("error" in part for part in expectation_parts(beyond, None, found.criterion))
        assert_same(prediction_from_json(prediction_to_json(found), "it"), found)
    narrow = interpolated(whole, np.geomspace(1.0, 1.2, 5))
    found, _, _ = chosen_by_both(monkeypatch, [made[0], replace(made[1], surface=narrow)], Criterion(goal="accuracy"))
    assert found.further == "" and found.surface.error_mm is None
    unlike = replace(made[1], reliability=Reliability("unreliable"))
    assert chosen_by_both(monkeypatch, [made[0], unlike], Criterion())[0].further == ""


def chosen_by_both(monkeypatch: pytest.MonkeyPatch, made: list[Prediction], criterion: Criterion) -> Any:
    """Return what two trained predictors say of a pair together."""
    answers = iter(made)
    monkeypatch.setattr(choosing, "bundle_folders", lambda job: made)
    monkeypatch.setattr(choosing, "structure_names", lambda *which: {})
    monkeypatch.setattr(choosing, "_predicted", lambda *which: (next(answers), None))
    plan = SimpleNamespace(job=SimpleNamespace(criterion=criterion))
    return choosing._trained(plan, SimpleNamespace(space=SPACE, inputs=None), None)  # type: ignore[arg-type]


def test_pictures_of_gains_show_where_affine_only_lies() -> None:
    loses = replace(surface(dice=False), overlap_gain=peaked(2, -0.3, 0.05))
    for of in (loses, surface(dice=False)):
        criterion = Criterion(goal="overlap", folding_limit=None)
        left = draw_prediction(of, criterion, Marks(), LIGHT).axes[0]
        low, high = left.get_ylim()
        assert low <= 0 <= high and "affine only" in [text.get_text() for text in left.texts]
        assert left.lines[0].get_ydata()[2] == pytest.approx(100 * of.overlap_gain.value[2])


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
    assert titles == ["Expected error, mm", "Expected gain of overlap, %"]
    assert [line.split(" over ")[0] for line in values] == titles
