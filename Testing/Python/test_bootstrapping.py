"""Predictions without a trained predictor: what evidence says becomes a surface, an outlook and a reliability, and is used."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import job_of
from HyperPredictRegLib import workflow
from HyperPredictRegLib.core.errors import Cancelled, InputError, RegistrationError
from HyperPredictRegLib.core.progress import ProgressEvent, never, silent
from HyperPredictRegLib.engines import diffeo, get_engine
from HyperPredictRegLib.engines.base import engine_used
from HyperPredictRegLib.engines.contrast import SimilarityChoice
from HyperPredictRegLib.predictor.bootstrap import FACTOR
from HyperPredictRegLib.predictor.bootstrap_surface import FEWEST_FOLDED, outlook_of, surface_of, untried, what_was_measured
from HyperPredictRegLib.predictor.coarse_pair import coarse_settings
from HyperPredictRegLib.predictor.evidence import PairEvidence
from HyperPredictRegLib.reporting import wording
from HyperPredictRegLib.results.job import Criterion
from HyperPredictRegLib.results.results_folder import PREDICTION_NAME
from HyperPredictRegLib.selection import choose
from HyperPredictRegLib.workflow import bootstrapping, choosing
from HyperPredictRegLib.workflow.bootstrapping import TRYING
from test_external import program  # noqa: F401 - a fixture

ENGINES = ("demons", "diffeo", "bspline")
BEST = 0.36
"""Share of the range at which the made-up evidence has its least error."""


def evidence_of(engine: str = "demons", **numbers: float) -> PairEvidence:
    """Return made-up evidence: least error at `BEST`, folding at the weakest settings only."""
    space = get_engine(engine).info.search_space
    values = coarse_settings(space)
    share = space.shares(values)[:, 0]
    error = 0.8 + 2.0 * (share - BEST) ** 2
    given = {
        "bootstrap_nothing": 4.0, "coarsening": 2.0, "difference": 0.3, "explained": 0.6, "foreground_overlap": 0.9,
        "anisotropy": 1.2, "foreground_voxels": 9000.0, "spacing_mm": 4.0, "shell": 1.0, "bootstrap_nothing_edge": 1.0,
    }  # fmt: skip
    curves = {
        "bootstrap_error": 2 * error,
        "bootstrap_error_95": 6 * error,
        "bootstrap_edge_error": 0.5 * error,
        "sd_log_jacobian": 0.3 * np.exp(-share),
        "folding": np.where(share < 0.1, 4.0, 0.0),
        "held_out_share": np.full(len(values), 0.8),
        "information": np.full(len(values), 0.05),
        "explained": np.full(len(values), 0.7),
    }
    return PairEvidence(values, curves, {**given, **numbers})


def reliability_of(**numbers: float) -> str:
    return what_was_measured(evidence_of(**numbers), (), (), "Why.").level


@pytest.mark.parametrize("engine", ENGINES)
def test_evidence_becomes_curves_along_the_first_parameter(engine: str) -> None:
    space = get_engine(engine).info.search_space
    surface = surface_of(evidence_of(engine), space, 2.0)
    assert surface.names == space.names[:1] and set(surface.held) == set(space.names[1:])
    assert surface.mean_dice is None and surface.structures == () and surface.voxel_mm == 2.0
    best = surface.space.shares(surface.values)[surface.error_mm.value.argmin(), 0]
    assert best == pytest.approx(BEST, abs=0.05)
    for name, band in surface.bands.items():
        if band.value.ndim == 1:
            assert (band.lower <= band.value).all() and (band.value <= band.upper).all(), name
    strength = np.argsort(surface.space.shares(surface.values)[:, 0])
    assert (np.diff(surface.folding_foreground.upper[strength]) <= 0).all()
    assert surface.folding_foreground.upper.min() == FEWEST_FOLDED
    assert np.all(surface.error_95_mm.value > 2.9 * surface.error_mm.value)
    choice = choose(surface, Criterion(), "bootstrap")
    assert choice.by == "bootstrap" and choice.feasible
    assert choice.predicted.error_mm.value == pytest.approx(FACTOR * 0.8, abs=0.041)


def test_a_curve_is_told_at_the_values_that_were_tried_whatever_the_range_on_the_working_grid() -> None:
    """Trials on a coarser grid could not go under 15 mm, where the working grid lets the engine go down to 6 mm."""
    engine, made = get_engine("bspline"), evidence_of("bspline")
    working = engine.info.search_space.narrowed("control_point_spacing", 6.0, 80.0)
    values = coarse_settings(working.narrowed("control_point_spacing", 15.0, 80.0))
    found = replace(made, values=values)
    surface = surface_of(found, working, 2.0)
    spacing, error = surface.values[:, 0], surface.error_mm.value
    assert (spacing[0], spacing[-1]) == (15.0, 80.0) and surface.space.first.unit == "mm"
    for tried, known in zip(values[:, 0], found.curves["bootstrap_error"], strict=True):
        assert np.interp(tried, spacing, error) == pytest.approx(FACTOR * 0.5 * known, rel=1e-3)
    assert spacing[error.argmin()] == pytest.approx(15.0 * (80 / 15) ** BEST, rel=0.03)
    assert untried(surface, working) == (
        "Nothing is predicted under h = 15 mm: the trial registrations, on a coarser grid, cannot go there.",
    )
    everywhere = surface_of(made, engine.info.search_space, 2.0)
    assert untried(everywhere, engine.info.search_space) == () and everywhere.values[0, 0] == 0.5
    with pytest.raises(InputError, match="choose another preset"):
        surface_of(replace(made, values=values), working.narrowed("control_point_spacing", 6.0, 15.0), 2.0)


def test_the_roughness_of_the_working_grid_grows_with_the_ratio_of_the_grids() -> None:
    space = get_engine("demons").info.search_space
    same, coarser = (surface_of(evidence_of(coarsening=c), space, 2.0).sd_log_jacobian.value for c in (1.0, 3.0))
    np.testing.assert_allclose(same[0], 0.3)
    assert (coarser > 1.5 * same).all()


def test_the_outlook_says_what_the_affine_step_leaves_and_whether_deforming_helps() -> None:
    surface = surface_of(evidence_of(), get_engine("demons").info.search_space, 2.0)
    good = outlook_of(evidence_of(), surface, suited=True)
    assert good.affine_error_mm.lower < good.affine_error_mm.value < good.affine_error_mm.upper
    assert good.affine_error_mm.value == pytest.approx(FACTOR * 2.0)
    gain = FACTOR * (2.0 - 0.8)
    assert good.gain_mm.value == pytest.approx(gain, abs=0.01) and good.gain_mm.lower < gain < good.gain_mm.upper
    assert good.helps > 0.8 and good.failed < 0.4 and good.source == "bootstrap"
    assert outlook_of(evidence_of(), surface, suited=False).helps < good.helps
    # Where no block of anatomy is left to judge by, no chance is told.
    unjudged = evidence_of()
    unjudged.curves["held_out_share"][:] = np.nan
    assert outlook_of(unjudged, surface, suited=True).helps is None
    # Identical images have nothing to gain.
    assert outlook_of(evidence_of(difference=1e-6), surface, suited=True).helps == 0


def test_only_what_was_measured_makes_a_prediction_unreliable() -> None:
    assert reliability_of() == "reliable"
    assert reliability_of(foreground_overlap=0.2) == "unreliable"
    found = evidence_of(explained=0.1)
    nothing = replace(found, curves={**found.curves, "explained": np.full(6, 0.1)})
    told = what_was_measured(nothing, (), (), "Why.")
    assert told.level == "unreliable" and "10 % of the other's variation" in told.reasons[0] and told.reasons[-1] == "Why."
    assert what_was_measured(found, ("Doubt.",), (), "Why.").level == "uncertain"
    # Little is explained, and as little overlaps as if one image were fourteen voxels off: the alignment has most likely failed.
    apart = evidence_of(explained=0.1, foreground_overlap=0.5, shell=14.0)
    assert what_was_measured(apart, (), (), "Why.").level == "unreliable"
    assert "chance of a failed alignment is 9" in what_was_measured(apart, (), (), "Why.").reasons[0]
    assert reliability_of(explained=0.5, foreground_overlap=0.7, shell=4.0) == "uncertain"
    assert what_was_measured(found, (), ("Refused.",), "Why.").level == "unreliable"


# ---- in the workflow


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Let the evidence be made up; return what it was asked with."""
    asked: list[dict[str, Any]] = []

    def made(pair: Any, foreground: Any, moving: Any, engine: Any, settings: Any, **given: Any) -> PairEvidence:
        asked.append({**given, "settings": settings})
        return evidence_of(engine.info.name)

    monkeypatch.setattr(bootstrapping, "pair_evidence", made)
    return asked


@pytest.mark.parametrize("engine", ["bspline"])
def test_the_rule_serves_where_no_trained_predictor_does(
    files: Path, tmp_path: Path, fake: list[dict[str, Any]], engine: str
) -> None:
    events: list[ProgressEvent] = []
    criterion = Criterion(rule="plateau", structures={"body": 1.0})
    job = job_of(files, tmp_path / "out", engine=engine, predictor="bundled", criterion=criterion)
    prediction = workflow.predict(job, writers=[_saved], progress=events.append)
    assert prediction.choice.by == prediction.predictor == "bootstrap" and prediction.outlook is not None
    assert prediction.choice.fixed == get_engine(engine).info.search_space.complete(prediction.choice.fixed)
    assert TRYING in [event.message for event in events]
    assert "weights of structures have no effect on it." in prediction.choice.sentence
    assert f"No trained predictor comes with the engine '{engine}'" in " ".join(prediction.reliability.reasons)
    # It is taken up by a job, and holds for another criterion, too.
    again = replace(job, out="unused", prediction=str(tmp_path / "out"), criterion=Criterion(rule="maximum"))
    plan = choosing.Plan.of(again)
    assert plan.prediction is not None and plan.prediction.choice.by == "bootstrap"
    assert plan.prediction.choice.setting != prediction.choice.setting
    assert len(fake) == 1


def test_for_overlap_of_which_the_rule_knows_nothing_the_default_registers(
    files: Path, fake: list[dict[str, Any]]
) -> None:
    quick = {"engine_settings": {"iterations": [2, 2, 2]}, "engine": "bspline", "predictor": "bundled"}
    default = get_engine("bspline").info.search_space.defaults
    found = {}
    for goal in ("auto", "overlap"):
        job = job_of(files, Path("unused"), criterion=Criterion(goal=goal, folding_limit=None), **quick)
        found[goal] = workflow.compute(job).report
        assert found[goal].choice.by == "bootstrap"
    assert found["overlap"].setting == default != found["auto"].setting
    assert "the engine's default" in found["overlap"].choice.sentence and len(fake) == 2
    assert "by its nearness to the engine's default" in wording.who_chose(found["overlap"])
    assert "the engine's default" not in wording.who_chose(found["auto"])


@pytest.mark.skipif(os.name == "nt", reason="the program that stands in for the real one is a script")
@pytest.mark.usefixtures("program")
def test_the_report_of_a_program_that_took_a_prediction_repeats_it(
    files: Path, tmp_path: Path, fake: list[dict[str, Any]]
) -> None:
    job = job_of(files, tmp_path / "out", engine="niftyreg", predictor="bundled")
    alone = workflow.compute(job).report
    assert alone.choice.by == "fixed" and "trials with this engine" in alone.choice.sentence and not fake
    assert not alone.job.trials
    prediction = workflow.predict(job, writers=[_saved])
    took = workflow.compute(replace(job, out="unused", prediction=str(tmp_path / "out"))).report
    assert took.choice.by == "bootstrap" and took.setting != alone.setting and len(fake) == 1
    # As it is written: with the prediction's file gone, and with it still there.
    again = workflow.compute(took.job).report
    assert took.job.prediction is None and len(fake) == 2
    assert (again.choice, again.setting, again.job) == (took.choice, took.setting, took.job)
    assert again.choice == prediction.choice
    plan = choosing.Plan.of(replace(took.job, prediction=str(tmp_path / "out")))
    assert plan.prediction is not None and plan.prediction.choice == prediction.choice


def test_a_job_that_asks_for_no_prediction_gets_none(finished: Any, fake: list[dict[str, Any]]) -> None:
    assert finished[0].choice.by == "fixed" and finished[0].outlook is None and not fake


@pytest.mark.parametrize("error", [InputError("The foreground is too small."), RegistrationError("A trial diverged.")])
def test_where_the_rule_cannot_serve_the_fixed_setting_is_taken_and_says_why(
    files: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(*_: Any, **__: Any) -> PairEvidence:
        raise error

    monkeypatch.setattr(bootstrapping, "pair_evidence", fails)
    job = job_of(files, Path("unused"), engine="bspline", predictor="bundled", engine_settings={"iterations": [2, 2, 2]})
    report = workflow.compute(job).report
    assert report.choice.by == "fixed" and str(error).rstrip(".")[4:] in report.choice.sentence
    with pytest.raises(InputError, match=str(error).rstrip(".")[4:]):
        workflow.compute_prediction(job)


def test_trials_use_what_the_engine_chooses_on_the_working_grid(
    files: Path, fake: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[int] = []

    def choose_mind(fixed: Any, *_: Any) -> SimilarityChoice:
        chosen.append(fixed.GetNumberOfPixels())
        return SimilarityChoice("mind", "It was told to.")

    monkeypatch.setattr(diffeo, "choose_similarity", choose_mind)
    # No trained predictor fits these settings.
    job = job_of(files, Path("unused"), engine="diffeo", predictor="bundled", engine_settings={"iterations": [2]})
    prediction = workflow.compute_prediction(job)
    assert prediction.choice.by == "bootstrap" and [one["settings"].similarity for one in fake] == ["mind"]
    assert fake[0]["settings"].iterations == (2,) and len(chosen) == 1
    # What it is a prediction of is told by the settings as given.
    plan = choosing.Plan.of(job)
    assert prediction.engine == engine_used(plan.engine, plan.engine_settings) and plan.engine_settings.similarity == "auto"


@pytest.mark.parametrize("error", [InputError("The foreground is too small."), RegistrationError("A trial diverged.")])
def test_evidence_that_failed_is_not_looked_for_again(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    tried: list[int] = []

    def fails(*_: Any) -> PairEvidence:
        tried.append(1)
        raise error

    monkeypatch.setattr(choosing, "settled_settings", lambda *_: None)
    monkeypatch.setattr(choosing, "found_evidence", fails)
    looked = choosing._Looked(None, None, silent, never)  # type: ignore[arg-type]
    for _ in range(3):
        with pytest.raises(type(error), match=str(error)):
            _ = looked.evidence
    assert len(tried) == 1
    monkeypatch.setattr(choosing, "found_evidence", lambda *_: evidence_of())
    again = choosing._Looked(None, None, silent, never)  # type: ignore[arg-type]
    assert again.evidence is again.evidence


def test_the_rule_can_be_cancelled_and_then_writes_nothing(files: Path, tmp_path: Path) -> None:
    messages: list[str] = []
    job = job_of(files, tmp_path / "out", engine="bspline", predictor="bundled")
    with pytest.raises(Cancelled):
        workflow.predict(
            job, writers=[_saved], progress=lambda event: messages.append(event.message), cancelled=lambda: TRYING in messages
        )
    assert not (tmp_path / "out").exists()


def test_trials_tell_how_many_are_done_and_can_be_cancelled_between_them(files: Path) -> None:
    """With the evidence itself; the first five trials are enough."""
    events: list[ProgressEvent] = []
    settings = {"iterations": [2, 2, 2], "samples": [500, 500, 500]}
    job = job_of(files, Path("unused"), engine="bspline", predictor="bundled", engine_settings=settings)
    last = f"{TRYING}: trial registration 5 of 19"
    with pytest.raises(Cancelled):
        workflow.compute_prediction(job, progress=events.append, cancelled=lambda: last in [event.message for event in events])
    trials = [event for event in events if event.message.startswith(f"{TRYING}: ")]
    assert [event.message for event in trials] == [f"{TRYING}: trial registration {n} of 19" for n in range(1, 6)]
    predicting = [event.fraction for event in events if event.stage == "predict"]
    assert predicting == sorted(predicting) and 0.1 < predicting[-1] < 0.4


def test_two_equal_images_have_nothing_to_gain_and_that_is_said(files: Path) -> None:
    """With the evidence itself, not a made-up one."""
    same = {"moving": str(files / "fixed.nrrd"), "moving_labels": None}
    job = job_of(files, Path("unused"), engine="demons", predictor="bundled", **same)
    prediction = workflow.compute_prediction(job)
    assert prediction.choice.by == "bootstrap" and prediction.outlook is not None and prediction.outlook.helps == 0
    assert any("there is nothing to gain by deforming" in warning for warning in prediction.warnings)
    assert prediction.outlook.affine_error_mm.value < 0.2
    assert np.isfinite(prediction.surface.error_mm.value).all()


def test_a_foreground_too_small_for_trials_is_told_in_a_sentence(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("HyperPredictRegLib.predictor.coarse_pair.LEAST_VOXELS", 10**9)
    with pytest.raises(InputError, match=r"Nothing can be predicted for this pair.*voxels on the coarse grid.*a finer preset"):
        workflow.compute_prediction(job_of(files, Path("unused"), engine="bspline", predictor="bundled"))


def _saved(prediction: Any, folder: Path) -> dict[str, str]:
    from HyperPredictRegLib.results.exchange import save_prediction

    assert save_prediction(prediction, folder) == {"prediction": PREDICTION_NAME}
    return {"prediction": PREDICTION_NAME}
