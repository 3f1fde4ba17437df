"""Every room takes an engine with two parameters, one linear from 0, one that regularizes downward: one test for each room."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import blob_image, job_of
from HyperPredictRegLib import engines, workflow
from HyperPredictRegLib.core.errors import Cancelled, InputError
from HyperPredictRegLib.core.json_records import from_json, to_json
from HyperPredictRegLib.engines import engine_infos, engine_names, engine_settings, get_engine
from HyperPredictRegLib.engines.base import Engine, RegistrationTask
from HyperPredictRegLib.predictor.probes import probe_settings
from HyperPredictRegLib.quality.metrics import folding_percent, jacobian_determinant
from HyperPredictRegLib.results.exchange import prediction_from_json, prediction_to_json, read_outcome, write_rest
from HyperPredictRegLib.results.job import RULES, Criterion, Job
from HyperPredictRegLib.results.outcome import Outcome
from HyperPredictRegLib.results.prediction import Band
from HyperPredictRegLib.results.report import FoldingPercent, Trial
from HyperPredictRegLib.selection import (
    REPEATS,
    choose,
    corrected,
    feasible,
    interpolated,
    knee,
    pareto_front,
    per_structure,
    predict_at,
    within_limit,
)
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import displacement_field
from hypothesis import given
from hypothesis import strategies as st
from two_parameter_engine import NAME, PLACE, SPACE, RippleSettings, ripple_prediction, ripple_surface, slope

GRID = Geometry((30, 28, 26), (2.0, 2.0, 2.0), (-30.0, 11.0, 5.0), (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0))


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(engines.ENGINES, NAME, PLACE)


@pytest.fixture
def engine() -> Engine:
    return get_engine(NAME)


@pytest.fixture(scope="module")
def outcome(files: Path) -> Outcome:
    """A job that gives both parameters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(engines.ENGINES, NAME, PLACE)
        return workflow.compute(job_of(files, Path("unused"), engine=NAME, setting={"damping": 4.0, "step": 0.5}))


# ---- engines


def test_the_engine_keeps_the_contract(engine: Engine) -> None:
    assert engine_names()[-1] == NAME and engine_infos()[-1] == engine.info
    image = sitk.Cast(blob_image(GRID) / 160, sitk.sitkFloat32)
    before = sitk.Hash(image)
    settings = engine_settings(engine, {"axis": 1})

    def run(setting: dict[str, float], **options: object) -> tuple[dict[str, float], float, np.ndarray]:
        found = engine.register(RegistrationTask(image, image, setting, settings, 1, **options))  # type: ignore[arg-type]
        field = displacement_field(found.transform, GRID)
        ones = GRID.apply_to(sitk.Image(GRID.size, sitk.sitkUInt8) + 1)
        return found.setting, folding_percent(jacobian_determinant(field), ones).grid, sitk.GetArrayFromImage(field)

    folding = [run({"damping": d, "step": s})[1] for d, s in ((0.0, 2.0), (2.5, 2.0), (2.5, 0.3), (9.0, 0.05))]
    assert folding[0] > folding[1] > folding[2] == folding[3] == 0
    assert run({"step": 0.7})[0] == {"damping": 0.0, "step": 0.7}
    np.testing.assert_array_equal(run({})[2], run({})[2])
    assert sitk.Hash(image) == before
    for wrong in ({"damping": -0.1}, {"step": 0.0}, {"step": float("nan")}, {"regularization_weight": 1.0}):
        with pytest.raises(InputError):
            run(wrong)
    with pytest.raises(Cancelled):
        run({}, cancelled=lambda: True)


# ---- predictor


def test_probes_move_the_first_parameter_and_keep_the_others(engine: Engine) -> None:
    probes = probe_settings(engine.search_space(GRID, RippleSettings()))
    assert [probe["damping"] for probe in probes] == pytest.approx([0.2, 2.5, 6.0])
    assert {probe["step"] for probe in probes} == {1.0}


# ---- selection


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("cautious", [True, False])
def test_every_rule_chooses_a_setting_that_keeps_the_limit(rule: str, cautious: bool) -> None:
    surface, criterion = ripple_surface(), Criterion(rule=rule, cautious=cautious)
    choice = choose(surface, criterion, "someone")
    (row,) = np.flatnonzero((surface.values == SPACE.rows([choice.setting])).all(axis=1))
    allowed = feasible(surface, criterion)
    assert choice.feasible and allowed[row]
    assert choice.sentence.startswith(f"{SPACE.text(choice.setting)}: ") and " mm: " in choice.sentence
    assert choice.predicted is not None
    assert choice.predicted.mean_dice.value == surface.mean_dice.value[row]
    best = surface.mean_dice.value[allowed].max()
    if rule != "knee":
        near = allowed & (surface.mean_dice.value >= best - (criterion.tolerance if rule == "plateau" else 0))
        assert near[row]
        assert surface.sd_log_jacobian.value[row] == surface.sd_log_jacobian.value[near].min()
    hopeless = replace(criterion, folding_limit=1e-9)
    grid = surface.folding_grid
    folded = replace(surface, folding_foreground=Band(grid.value + 1, grid.lower + 1, grid.upper + 1))
    safest = choose(folded, hopeless)
    assert not safest.feasible and safest.predicted is not None
    assert safest.predicted.folding_foreground.upper == folded.folding_foreground.upper.min()


def test_each_structure_chooses_for_itself() -> None:
    surface, criterion = ripple_surface(), Criterion(rule="maximum", folding_limit=None)
    shell, core = per_structure(surface, criterion)
    assert slope(shell.setting) < slope(core.setting)
    for one, row in ((shell, 0), (core, 1)):
        assert one.dice.value == surface.dice.value[row].max() >= one.dice_at_choice.value


def test_the_front_and_its_knee_are_unbeaten() -> None:
    surface, criterion = ripple_surface(), Criterion(folding_limit=None)
    front = pareto_front(surface, criterion)
    dice, folding = surface.mean_dice.value, surface.folding_foreground.value
    assert (np.diff(dice[front]) > 0).all() and (np.diff(folding[front]) >= 0).all()
    for row in front:
        assert not ((dice > dice[row]) & (folding < folding[row])).any()
    assert knee(surface, criterion) in front


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_surface_is_read_between_its_settings(one: float, other: float) -> None:
    surface = ripple_surface()
    unit = SPACE.to_unit(surface.values)
    flat = replace(surface, mean_dice=Band(*[0.3 + 0.2 * unit[:, 0] + 0.1 * unit[:, 1]] * 3))
    setting = SPACE.setting(SPACE.from_unit(np.array([[one, other]]))[0])
    told = predict_at(flat, setting, "someone")
    assert told.mean_dice.value == pytest.approx(0.3 + 0.2 * one + 0.1 * other, abs=1e-9)
    assert told.setting == setting and [structure.label for structure in told.structures] == [1, 2]


def test_a_surface_of_drawn_settings_is_read_too() -> None:
    drawn = ripple_surface(SPACE.sample(128, seed=4))
    np.testing.assert_allclose(interpolated(drawn, drawn.values).mean_dice.value, drawn.mean_dice.value)
    asked = SPACE.from_unit(np.array([[0.4, 0.5], [0.3, 0.6]]))
    exact = ripple_surface(asked).mean_dice.value
    np.testing.assert_allclose(interpolated(drawn, asked).mean_dice.value, exact, atol=0.02)
    with pytest.raises(InputError, match=r"Nothing was predicted for s = 9 mm"):
        interpolated(drawn, np.array([[1.0, 9.0]]))


@given(
    first=st.tuples(st.floats(0, 1), st.floats(0, 1)), predicted=st.booleans(), harder=st.floats(1.0, 3.0),
    limit=st.sampled_from([0.05, 0.5, 5.0]), rule=st.sampled_from(RULES),
)  # fmt: skip
def test_the_loop_ends_within_the_limit(
    first: tuple[float, float], predicted: bool, harder: float, limit: float, rule: str
) -> None:
    """Folding is what the slope says, of a pair that is up to three times as hard as predicted."""
    criterion, surface = Criterion(rule=rule, folding_limit=limit), ripple_surface() if predicted else None
    setting: dict[str, float] | None = SPACE.setting(SPACE.from_unit(np.array([first]))[0])
    done: list[Trial] = []
    while setting is not None:
        for parameter in SPACE:
            assert parameter.holds(setting[parameter.name])
        over = max(harder * slope(setting) - 1, 0) ** 2
        measured = FoldingPercent(40 * over / (1 + over), 0.0)
        done.append(Trial(setting, measured, 0.2, within_limit(measured, criterion), 1.0))
        setting = corrected(surface, criterion, done, SPACE)
        assert len(done) <= REPEATS + 1
    assert done[-1].within_limit and not any(one.within_limit for one in done[:-1])
    at = SPACE.shares(SPACE.rows([one.setting for one in done]))
    # Nothing is tried that regularizes no more than what failed, in both parameters.
    for later in range(1, len(done)):
        assert all((at[later] > at[earlier]).any() for earlier in range(later))


# ---- workflow


def test_a_job_gives_both_parameters(outcome: Outcome) -> None:
    report = outcome.report
    assert report.setting == {"damping": 4.0, "step": 0.5} == report.choice.setting
    assert report.choice.by == "user" and "d = 4, s = 0.5 mm was given" in report.choice.sentence
    assert report.measured.folding_percent.foreground == 0
    job = report.job
    assert from_json(Job, to_json(job), "the job") == job


def test_a_job_is_corrected_until_its_limit_holds(files: Path) -> None:
    report = workflow.compute(job_of(files, Path("unused"), engine=NAME)).report
    assert report.choice.by == "fixed" and report.trials[0].setting == SPACE.defaults
    assert not report.trials[0].within_limit and report.limit_met
    assert report.setting["damping"] > 0 and report.setting["step"] == 1.0


def test_a_job_with_a_wrong_parameter_is_refused(files: Path) -> None:
    for setting, message in (({"regularization_weight": 1.0}, "it has: damping, step"), ({"damping": -1.0}, "from 0 to 10")):
        with pytest.raises(InputError, match=message):
            workflow.compute(job_of(files, Path("unused"), engine=NAME, setting=setting))


# ---- results


def test_a_prediction_survives_its_file(engine: Engine) -> None:
    prediction = ripple_prediction(engine)
    again = prediction_from_json(prediction_to_json(prediction), "the prediction")
    assert (again.choice, again.structures, again.engine) == (prediction.choice, prediction.structures, prediction.engine)
    assert again.surface.space == SPACE
    np.testing.assert_array_equal(again.surface.values, prediction.surface.values)
    assert replace(choose(again.surface, again.criterion, again.predictor), fixed=SPACE.defaults) == prediction.choice


def test_a_result_survives_its_folder(files: Path, tmp_path: Path) -> None:
    job = job_of(files, tmp_path / "out", engine=NAME, setting={"damping": 4.0, "step": 0.5})
    workflow.run(job, writers=[write_rest])
    again = read_outcome(tmp_path / "out")
    assert again.report.setting == job.setting and again.report.engine.space == SPACE


# ---- reporting


def test_the_report_and_the_prediction_have_pages(outcome: Outcome, engine: Engine, tmp_path: Path) -> None:
    from HyperPredictRegLib.reporting import write_prediction, write_report
    from reporting_samples import check_page

    prediction = ripple_prediction(engine)
    report_names, prediction_names = write_report(outcome, tmp_path), write_prediction(prediction, tmp_path)
    terms = ("d (damping)", "s (step)")
    for names, words in ((report_names, (*terms, "d = 4, s = 0.5 mm")), (prediction_names, (*terms, "d = 0, s = 1 mm"))):
        page = next(tmp_path / name for name in names.values() if name.endswith(".html"))
        check_page(page.read_text(encoding="utf-8").replace("\u00a0", " "), words)


def test_a_corrected_result_has_a_page(outcome: Outcome, engine: Engine, tmp_path: Path) -> None:
    from HyperPredictRegLib.reporting import write_report
    from reporting_samples import check_page

    prediction = ripple_prediction(engine)
    trials = (
        Trial(SPACE.defaults, FoldingPercent(9.0, 3.0), 0.5, False, 1.0),
        Trial({"damping": 4.0, "step": 0.5}, FoldingPercent(0.1, 0.0), 0.2, True, 1.0),
    )
    report = replace(
        outcome.report, choice=prediction.choice, trials=trials, limit_met=True,
        criterion=prediction.criterion, predictor=prediction.predictor, reliability=prediction.reliability,
    )  # fmt: skip
    names = write_report(replace(outcome, report=report, prediction=prediction), tmp_path)
    page = next(tmp_path / name for name in names.values() if name.endswith(".html"))
    check_page(page.read_text(encoding="utf-8").replace("\u00a0", " "), ("d = 0, s = 1 mm", "d = 4, s = 0.5 mm"))


# ---- command line


def test_the_command_line_prints_both_parameters(
    outcome: Outcome, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    from HyperPredictRegLib.cli import output

    output.show_report(outcome.report)
    printed = capsys.readouterr().out.replace("\u00a0", " ")
    assert "d = 4, s = 0.5 mm" in printed
    prediction = ripple_prediction(engine)
    asked = predict_at(prediction.surface, {"damping": 1.0, "step": 0.3}, prediction.predictor)
    output.show_prediction(prediction, [asked], ["prediction.html"])
    printed = capsys.readouterr().out.replace("\u00a0", " ")
    assert "At d = 1, s = 0.3 mm:" in printed and SPACE.text(prediction.choice.setting) in printed


# ---- laboratory


def test_a_sweep_draws_both_parameters(engine: Engine) -> None:
    from HyperPredictRegLab.sweep.design import Design

    drawn = SPACE.rows(Design(count=16).settings(engine, "pair"))
    unit = SPACE.to_unit(drawn)
    for column, parameter in enumerate(SPACE):
        assert parameter.holds(drawn[:, column]).all()
        assert np.histogram(unit[:, column], bins=4, range=(0, 1))[0].min() >= 2
    assert not np.array_equal(drawn, SPACE.rows(Design(count=16).settings(engine, "another pair")))
