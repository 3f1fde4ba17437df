"""The panel as values, without Qt and Slicer: what is shown of a state."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import numpy as np
import pytest
from conftest import engine_here
from HyperPredictRegLib.core.search_space import Parameter, SearchSpace
from HyperPredictRegLib.engines import engine_infos, get_engine
from HyperPredictRegLib.engines.base import EngineInfo
from HyperPredictRegLib.presentation import choices
from HyperPredictRegLib.presentation import panel as presentation
from HyperPredictRegLib.presentation.panel import (
    PanelState,
    PanelView,
    manual_setting,
    missing_inputs,
    missing_landmarks,
    panel_view,
    ticked_weights,
)
from HyperPredictRegLib.presentation.progress import progress_view
from HyperPredictRegLib.presentation.result import result_view, verdict_text
from HyperPredictRegLib.results.job import GOALS, Criterion
from HyperPredictRegLib.results.prediction import Band
from HyperPredictRegLib.selection import choose
from HyperPredictRegLib.spatial.geometry import Geometry
from reporting_samples import (
    make_bootstrapped,
    make_map,
    make_outcome,
    make_prediction,
    make_surface,
    make_unreliable,
    trial,
    with_choice,
)

NAMES = ("hippocampus", "thalamus", "grey matter")
WEIGHT = "regularization_weight"
BRAIN = Geometry((180, 220, 180), (1.0, 1.0, 1.0))


def state(**changes: Any) -> PanelState:
    """Demons at "Fast" on a brain, with a made-up prediction."""
    parts = {"engine": "demons", "preset": "fast", "setting_of": "demons", "grid": BRAIN}
    return PanelState(**{**parts, "prediction": make_prediction(make_surface(NAMES), Criterion()), **changes})


def moved(view: PanelView, share: float) -> PanelView:
    """Return the view after the slider was moved to a share of its range, by way of what the parameter node says."""
    changed = dataclasses.replace(view.state, setting=manual_setting(view, view.space.first.name, share=share), manual=True)
    return panel_view(changed, view)


# What is missing, and what can be done


def test_what_is_missing_is_said() -> None:
    one, other = object(), object()
    assert missing_inputs(None, None) == "Select a fixed and a moving volume first."
    assert missing_inputs(one, None) == "Select a moving volume first."
    assert missing_inputs(None, one) == "Select a fixed volume first."
    assert missing_inputs(one, one) == "Fixed and moving are the same volume: select two."
    assert missing_inputs(one, other) == ""


def test_landmarks_that_cannot_be_used_are_told_before_anything_is_copied() -> None:
    assert missing_landmarks("measuring", None, None, object()) == ""
    assert missing_landmarks("start", object(), object(), None) == ""
    assert "not given for both images" in missing_landmarks("start", object(), None, None)
    assert "both are given" in missing_landmarks("start and deformation", object(), object(), object())


def test_buttons_say_why_they_are_not_enabled() -> None:
    missing = panel_view(state(prediction=None, missing="Select a moving volume first."))
    for button in (missing.register, missing.suggest):
        assert (button.enabled, button.tooltip) == (False, "Select a moving volume first.")
    assert not missing.page.enabled and "Register first" in missing.page.tooltip
    ready = panel_view(state(registered=True))
    assert ready.register.enabled and ready.suggest.enabled and ready.page.enabled
    assert (ready.register.text, ready.suggest.text) == ("&Register", "Su&ggest λ")


@pytest.mark.parametrize("running", ["register", "suggest", "page"])
def test_what_runs_can_be_cancelled_and_nothing_else_be_begun(running: str) -> None:
    view = panel_view(state(running={"suggest": "predict"}.get(running, running), registered=True))
    buttons = {"register": view.register, "suggest": view.suggest, "page": view.page}
    assert buttons.pop(running).text.endswith("Cancel")
    assert not [name for name, button in buttons.items() if button.enabled or "Cancel" in button.text]


def test_engine_that_is_not_installed_is_listed_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    known = engine_infos()
    absent = dataclasses.replace(known[1], packages={"no_such_package": "pip install no-such-package"})
    monkeypatch.setattr(choices, "engine_infos", lambda: (known[0], absent))
    assert "pip install no-such-package" in choices.engines_tooltip()
    assert len(choices.engines_tooltip().splitlines()) == 2
    view = panel_view(state(engine=absent.name, prediction=None))
    assert not view.register.enabled and "pip install no-such-package" in view.register.tooltip
    assert not view.suggest.enabled


def test_what_can_be_predicted_is_what_there_are_bundles_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choices.predictable_words() == 'Diffeo at any preset or Demons at "Fast"'
    view = panel_view(state(engine="bspline", setting_of="bspline", prediction=None))
    # Without one the bootstrap rule serves.
    assert view.suggest.enabled and view.read_out.startswith("Nothing is predicted yet")
    known = {("bspline", "standard"), ("demons", "fine")}
    monkeypatch.setattr(choices, "bundled", lambda *names: object() if names in known else None)
    assert choices.predictable_words() == 'Demons at "Fine" or B-spline at "Standard"'
    assert choices.has_predictor("demons", "fine") and not choices.has_predictor("demons", "fast")


# What is chosen


def test_the_suggestion_is_what_the_criterion_chooses() -> None:
    made = state()
    view = panel_view(made)
    best = choose(made.prediction.surface, made.criterion)
    assert view.setting == best.setting and not view.manual and view.suggested is not None
    assert view.prediction is not None and view.prediction.choice.setting == best.setting
    assert view.read_out.startswith("Suggested: Dice 0.")
    assert view.reliability.count("<br>") == 1 and "#2e9e44" in view.reliability and "Reliability: reliable." in view.reliability
    assert "λ\u00a0=\u00a0" in view.reliability and "is suggested." in view.reliability
    assert best.sentence.split("(")[0] in view.reasons
    assert view.curves == NAMES and [row.name for row in view.rows] == list(NAMES)


def test_structures_that_count_move_the_suggestion() -> None:
    view = panel_view(state())
    found = {}
    for row, name in enumerate(NAMES):
        weights = ticked_weights(view, row, ticked=True)
        assert weights == {name: 1.0}
        ticked = panel_view(state(criterion=Criterion(rule="plateau", structures=weights)))
        assert ticked.rows[row].ticked and ticked.rows[row].weight == "1"
        found[name] = ticked.setting[WEIGHT]
        assert ticked_weights(ticked, row, ticked=False) == {}
    # The made-up curves peak at 0.25 ... 1.3, each structure's beyond the one's before.
    assert found["hippocampus"] < found["thalamus"] < found["grey matter"]
    strict = panel_view(state(criterion=Criterion(folding_limit=0.01)))
    assert strict.setting[WEIGHT] > view.setting[WEIGHT] and "under 0.01 %" in strict.reasons


@pytest.mark.parametrize(
    ("typed", "expected"),
    [("2,5", {"thalamus": 2.5}), ("no", {}), ("-1", {}), ("nan", {}), ("inf", {}), ("3", {"thalamus": 3.0})],
)
def test_a_typed_weight_counts_and_nonsense_does_not(typed: str, expected: dict[str, float]) -> None:
    assert ticked_weights(panel_view(state()), 1, typed=typed) == expected


def test_a_tick_that_this_pair_does_not_have_reaches_no_job() -> None:
    stale = Criterion(structures={"liver": 2.0, "thalamus": 1.0})
    assert panel_view(state(criterion=stale)).criterion.structures == {"thalamus": 1.0}
    # Without a prediction the segments tell; what was ticked can still be unticked.
    alone = panel_view(state(criterion=stale, prediction=None, segments=("thalamus", "brain stem")))
    assert alone.criterion.structures == {"thalamus": 1.0}
    assert [row.name for row in alone.rows] == ["liver", "thalamus"]
    assert ticked_weights(alone, 0, ticked=False) == {"thalamus": 1.0}
    assert panel_view(state(criterion=stale, stale="volumes", segments=("liver",))).criterion.structures == {"liver": 2.0}
    assert panel_view(state(criterion=stale, prediction=None, engine="bspline")).criterion.structures == {}


def test_a_limit_that_no_setting_is_predicted_to_keep_is_said_at_once() -> None:
    for limit in (50.0, 0.01):
        criterion = Criterion(rule="maximum", folding_limit=limit)
        view = panel_view(state(criterion=criterion))
        found = choose(state().prediction.surface, criterion)
        assert ("is suggested." in view.reliability) == found.feasible


def test_where_no_dice_is_predicted_the_expected_error_and_the_chances_are_shown() -> None:
    view = panel_view(state(prediction=make_bootstrapped()))
    assert view.suggested is not None and view.suggested.by == "bootstrap" and view.rows == () and view.curves == ()
    assert view.reliability.count("<br>") == 1 and "Reliability: reliable." in view.reliability
    gain, chance = "mm less than affine only (1.53 mm)", "helps with a chance of 92\u00a0%"
    for words in ("is suggested.", "Expected error 0.6", gain, "folding", chance):
        assert words in view.reliability, words
    assert "No trained predictor comes with" in view.reasons and "No trained predictor" not in view.reliability
    assert view.read_out.startswith("Suggested: expected error 0.6")


def test_the_goal_decides_what_is_suggested_and_read_out() -> None:
    made = make_bootstrapped()
    error = made.surface.error_mm
    assert error is not None
    # Overlap wants the least regularized settings, whatever the error says.
    weight = made.surface.values[:, 0]
    gain = Band(*(0.5 - 0.1 * np.log(weight / weight[0]) + shift for shift in (0.0, -0.1, 0.1)))
    prediction = dataclasses.replace(made, surface=dataclasses.replace(made.surface, overlap_gain=gain))
    views = {
        goal: panel_view(state(prediction=prediction, criterion=Criterion(goal=goal, folding_limit=None))) for goal in GOALS
    }
    settings = {goal: view.suggested.setting["regularization_weight"] for goal, view in views.items() if view.suggested}
    assert settings["overlap"] == pytest.approx(weight[0])
    assert settings["accuracy"] == settings["auto"] > 1.1 * weight[0]
    assert views["overlap"].read_out.startswith("Suggested: gain of overlap 50\u00a0% (40 to 60\u00a0%), folding")
    assert views["accuracy"].read_out.startswith("Suggested: expected error 0.6")
    assert "gain of overlap 50\u00a0%" in views["overlap"].reliability.lower()
    assert "gain of overlap" not in views["accuracy"].reliability.lower()


def test_an_unreliable_pair_suggests_nothing() -> None:
    view = panel_view(state(prediction=make_unreliable(make_surface(NAMES))))
    assert view.suggested is None and view.setting == {WEIGHT: 0.7}
    assert "Reliability: unreliable." in view.reliability and "the fixed λ = 0.7 is taken" in view.reliability
    assert "correlate less than in 99 %" in view.reasons
    assert view.read_out == "Unreliable: what the curves say of this pair is not to be relied on."
    assert {row.dice for row in view.rows} == {""}
    assert [kind for kind, _ in view.legend] == ["fixed", "yours"]
    assert view.register.enabled


@pytest.mark.parametrize("stale", [*presentation.STALE, "A sentence of its own."])
def test_a_prediction_of_something_else_does_not_count(stale: str) -> None:
    view = panel_view(state(stale=stale))
    assert view.prediction is None and view.suggested is None and view.curves == () and view.legend == ()
    assert view.reliability == presentation.STALE.get(stale, stale) and view.reasons == ""
    assert view.read_out.startswith("Nothing is predicted yet")


def test_without_a_prediction_the_fixed_setting_of_the_card_stands() -> None:
    view = panel_view(state(prediction=None))
    assert view.reliability == "" and not view.manual
    assert view.setting == view.unpredicted
    assert view.space.first.low < view.setting[WEIGHT] < view.space.first.high
    other = panel_view(state(prediction=None, preset="fine"))
    assert other.setting == get_engine("demons").info.search_space.defaults


# A manual setting


def test_the_slider_reads_the_curves_and_is_manual() -> None:
    view = panel_view(state())
    seen = set()
    for share in (0.0, 0.25, 0.625, 1.0):
        view = moved(view, share)
        assert view.manual and view.read_out.startswith("Manual λ: Dice 0.")
        assert view.parameters[0].share == pytest.approx(share)
        seen.add((view.read_out, view.rows))
    assert len(seen) == 4
    low, high = view.space.first.low, view.space.first.high
    assert moved(view, 0.5).setting[WEIGHT] == pytest.approx((low * high) ** 0.5)
    assert "the folding limit is not enforced" in view.hint and f"λ = {high:.3g}" in view.hint
    back = panel_view(dataclasses.replace(view.state, manual=False), view)
    assert back.hint == "" and back.read_out.startswith("Suggested:")
    assert back.setting == panel_view(state()).setting


def test_moving_the_slider_chooses_nothing_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    view = panel_view(state())
    for module, name in ((presentation, "choose"), (choices, "estimated_space"), (choices, "unpredicted_setting")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("worked out anew"))
    for share in (0.1, 0.9):
        other = moved(view, share)
        assert other.suggested is view.suggested and other.prediction is view.prediction
        assert other == moved(other, share)


def test_a_view_is_the_same_with_and_without_the_one_before() -> None:
    views = [panel_view(state()), panel_view(state(stale="volumes")), panel_view(state(prediction=None, grid=None))]
    for after in (state(), state(criterion=Criterion(rule="maximum")), state(preset="standard"), state(stale="inputs")):
        for before in views:
            given = dataclasses.replace(after, prediction=before.state.prediction)
            assert repr(panel_view(given, before)) == repr(panel_view(given))


def test_another_method_begins_with_its_own_setting() -> None:
    view = panel_view(state(engine="bspline", manual=True, setting={WEIGHT: 3.0}, prediction=None))
    assert not view.manual and list(view.setting) == ["control_point_spacing"]
    first = view.parameters[0]
    assert (first.symbol, first.label, first.suffix) == ("h", "&h:", " mm")
    assert "Control-point spacing" in first.tooltip and "λ" not in view.read_out + view.suggest.text
    typed = manual_setting(view, "control_point_spacing", value=30.0)
    again = panel_view(dataclasses.replace(view.state, setting=typed, setting_of="bspline", manual=True), view)
    assert again.setting == {"control_point_spacing": 30.0} and again.manual


@pytest.mark.parametrize("info", engine_infos(), ids=lambda info: info.name)
@pytest.mark.parametrize("preset", ["fast", "fine"])
def test_nothing_is_offered_that_the_engine_refuses(info: EngineInfo, preset: str) -> None:
    view = panel_view(state(engine=info.name, setting_of=info.name, preset=preset, prediction=None))
    engine = engine_here(info.name)
    space = engine.search_space(choices.estimated_grid(BRAIN, preset), engine.settings_type())
    assert view.space == space
    for share in (0.0, 1.0):
        space.complete(moved(view, share).setting)
    first = space.first
    for typed, expected in ((-1e9, first.low), (1e9, first.high)):
        assert manual_setting(view, first.name, value=typed)[first.name] == expected


# Any number of parameters, on any scale


def test_every_further_parameter_is_shown_and_registered_with() -> None:
    surface = make_map()
    view = panel_view(state(prediction=make_prediction(surface, Criterion())))
    assert [one.name for one in view.parameters] == list(surface.space.names)
    second = surface.space.parameters[1]
    assert second.title in view.parameters[1].tooltip and view.parameters[1].low == second.low
    value = second.low + 0.75 * (second.high - second.low)
    setting = manual_setting(view, second.name, value=value)
    assert setting == {**view.setting, second.name: value}
    both = panel_view(dataclasses.replace(view.state, setting=setting, manual=True), view)
    assert both.setting == setting and both.read_out != view.read_out


def test_a_parameter_that_nothing_is_predicted_over_keeps_its_control() -> None:
    space = make_map().space
    second = space.parameters[1]
    curve = dataclasses.replace(make_surface(NAMES), held={second.name: second.default})
    made = make_prediction(curve, Criterion())
    made = dataclasses.replace(made, engine=dataclasses.replace(made.engine, space=space))
    view = panel_view(state(prediction=made))
    assert view.space == space and view.setting[second.name] == second.default
    assert view.read_out.startswith("Suggested: Dice")
    own = manual_setting(view, second.name, value=second.high)
    moved_on = panel_view(dataclasses.replace(view.state, setting=own, manual=True), view)
    assert moved_on.setting[second.name] == second.high
    assert moved_on.read_out.startswith(f"Nothing was predicted for {second.name.replace('_', ' ')} = ")
    back = panel_view(dataclasses.replace(moved_on.state, setting={**own, second.name: second.default}), moved_on)
    assert "Dice" in back.read_out


@pytest.mark.parametrize(("regularizes", "side"), [("up", "right"), ("down", "left")])
def test_a_linear_range_from_zero_that_may_regularize_downwards(regularizes: str, side: str) -> None:
    parameter = Parameter("rigidity", "s", "%", "linear", 0.0, 5.0, 1.0, regularizes, "Rigidity", "How rigid it is.")
    surface = dataclasses.replace(
        make_surface(NAMES), space=SearchSpace((parameter,)), values=np.linspace(0.0, 5.0, 48)[:, None]
    )
    if regularizes == "down":
        turned = {name: Band(*(part[..., ::-1] for part in (band.value, band.lower, band.upper)))
                  for name, band in surface.bands.items()}  # fmt: skip
        surface = dataclasses.replace(surface, **turned)
    made = make_prediction(surface, Criterion())
    view = panel_view(state(prediction=made))
    first = view.parameters[0]
    assert (first.low, first.high, first.suffix) == (0.0, 5.0, " %")
    assert f"The farther to the {side}, the smoother." in first.tooltip and "logarithmic" not in first.tooltip
    assert moved(view, 0.0).setting == {"rigidity": 0.0} and moved(view, 0.5).setting == {"rigidity": 2.5}
    assert moved(view, 0.0).read_out.startswith("Manual s: Dice")
    assert first.decimals >= 1 and first.step == pytest.approx(0.1)


# Words and numbers


def test_no_line_ends_between_a_number_and_its_unit() -> None:
    read_out = panel_view(state()).read_out
    assert "\u00a0%" in read_out and " %" not in read_out


@pytest.mark.parametrize("value", [0.0, 0.004, 0.3])
def test_the_read_out_never_claims_a_range_of_no_width(value: float) -> None:
    surface = make_surface(NAMES)
    flat = Band(*(np.full_like(surface.folding_foreground.value, value) for _ in range(3)))
    certain = dataclasses.replace(surface, folding_foreground=flat, folding_grid=flat)
    folding = panel_view(state(prediction=make_prediction(certain, Criterion()))).read_out.partition("folding ")[2]
    assert folding and not re.search(r"\((\S+)\s?%? (?:to|\u2013) \1\b", folding), folding
    assert not folding.startswith("0\u00a0%"), folding


def test_how_long_it_takes_follows_volume_preset_and_what_was_measured() -> None:
    def seconds(text: str) -> float:
        number, unit = re.findall(r"about (\d+) (s|min)\.", text)[0]
        return float(number) * (60 if unit == "min" else 1)

    grids = {preset: choices.estimated_grid(BRAIN, preset) for preset in ("fast", "fine")}
    assert grids["fast"].spacing == (2.0, 2.0, 2.0) and grids["fine"].spacing == (1.0, 1.0, 1.0)
    fast, fine = (seconds(choices.expected_words("demons", grids[preset])) for preset in ("fast", "fine"))
    assert fine > 4 * fast
    quick, slow = (seconds(choices.expected_words("demons", grids["fast"], rate)) for rate in (10.0, 100.0))
    assert slow > quick
    assert choices.expected_words("demons", None) == "" == panel_view(state(grid=None)).expected
    report = make_outcome().report
    voxels = math.prod(report.working_grid.size) / 1e6
    assert choices.measured_rate(report) == pytest.approx(3.5 / voxels)
    assert choices.measured_rate(dataclasses.replace(report, seconds={})) is None


def test_progress_never_goes_back_for_an_unknown_stage_and_says_what_is_left() -> None:
    half = progress_view("register", "register", 0.0, "level 1", 0.25, 10.0)
    assert half.share == 0.5 and "metric 0.25 (lower is better)" in half.line and "About 10\u00a0s left." in half.line
    assert progress_view("register", "novel", 0.9, "", None, 11.0, half.share).share == 0.5
    assert progress_view("predict", "read", 2.0, "copying 'CT'", None, 1.0).line == "Reading the volumes: copying 'CT'"
    assert "left" not in progress_view("page", "page", 0.05, "", None, 3.0).line


# A result


def test_a_result_says_whose_it_is_and_what_is_wrong() -> None:
    report = dataclasses.replace(make_outcome().report, warnings=("Look at the left.", "Padding was taken for no data."))
    ours, theirs = result_view(report, pair="A registered to B"), result_view(report, pair="A registered to B", chosen=False)
    assert "A registered to B" not in ours.verdict and "not the volumes that are chosen above" in theirs.verdict
    for view in (ours, theirs):
        assert "A registered to B" in view.details
        places = [view.details.index(part) for part in ("warnings to read below", "\u26a0 Look", "\u26a0 Padding")]
        assert places == sorted(places)
        assert "2 warnings under" in view.verdict
    assert [row[0] for row in ours.measures] == ["shell", "core"]
    assert len(ours.stages) == 4 and all(len(row) == 4 for row in ours.stages)
    stored = result_view(report, field_difference_mm=(0.5, 2.0))
    assert "differs from the one that was measured by 0.5 mm on average" in stored.details


def test_the_verdict_is_one_line_and_all_of_it_is_in_the_details() -> None:
    view = result_view(with_choice(make_outcome(), (trial(0.6, 0.2),)).report)
    line = view.verdict.split("</b> ", 1)[1]
    assert "Limit kept" in view.verdict
    assert "folding limit" not in line and "; " not in line and " is folded at " in line
    assert "The folding limit was kept: " in view.details and "; " in view.details


def test_a_manual_setting_is_judged_by_the_limit() -> None:
    report = make_outcome().report
    assert report.choice.by == "user" and report.limit_met is None
    assert "Limit kept." in verdict_text(report)
    much = dataclasses.replace(report.measured.folding_percent, foreground=9.0)
    measured = dataclasses.replace(report.measured, folding_percent=much)
    assert "Limit not kept." in verdict_text(dataclasses.replace(report, measured=measured))
