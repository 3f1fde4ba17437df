"""λ that nobody gave: it is chosen, registered with, measured, and raised until the folding limit truly holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import SimpleITK as sitk
from conftest import FAST
from HyperPredictRegLib import workflow
from HyperPredictRegLib.core.errors import Cancelled, InputError
from HyperPredictRegLib.core.json_records import from_json, to_json
from HyperPredictRegLib.core.progress import ProgressEvent
from HyperPredictRegLib.core.search_space import SearchSpace
from HyperPredictRegLib.engines.demons import DemonsEngine
from HyperPredictRegLib.reporting import wording
from HyperPredictRegLib.results.job import Criterion, Job
from HyperPredictRegLib.results.report import Report
from HyperPredictRegLib.selection.comparison import surprise_words
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.workflow import preparing
from loop_samples import write_bundle, write_rough_pair
from number_samples import foreign_numbers

WEIGHT = "regularization_weight"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rough_pair(tmp_path_factory.mktemp("rough"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "hopeful")


@pytest.fixture
def low_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the engine start at λ = 0.4, where voxels of the pair fold."""
    _change_weight(monkeypatch, default=0.4)


def _change_weight(monkeypatch: pytest.MonkeyPatch, **changes: float) -> None:
    weight = DemonsEngine.info.search_space.first
    info = replace(DemonsEngine.info, search_space=SearchSpace((replace(weight, **changes),)))
    monkeypatch.setattr(DemonsEngine, "info", info)


def job_of(pair: Path, **changes: object) -> Job:
    parts: dict = {"engine": "demons", "out": "unused", "predictor": "none", "alignment": FAST, "reproducible": True}
    return Job(str(pair / "fixed.nrrd"), str(pair / "moving.nrrd"), **{**parts, **changes})


def report_of(pair: Path, **changes: object) -> Report:
    return workflow.compute(job_of(pair, **changes)).report


def weights(report: Report) -> list[float]:
    return [trial.setting[WEIGHT] for trial in report.trials]


def test_without_a_prediction_the_fixed_weight_is_tried_and_measured(pair: Path) -> None:
    report = report_of(pair)
    assert (report.choice.by, report.limit_met, weights(report)) == ("fixed", True, [0.7])
    assert "the engine's default, taken because the job asks for no prediction" in report.choice.sentence
    assert report.criterion == Criterion()
    assert report.choice.predicted is None
    assert report.reliability is None
    assert report.trials[0].folding_percent == report.measured.folding_percent


def test_a_pair_that_folds_is_registered_again_until_the_limit_holds(pair: Path, low_default: None) -> None:
    report = report_of(pair, criterion=Criterion(folding_limit=0.1))
    tried = weights(report)
    assert tried[0] == 0.4
    assert tried == sorted(set(tried))
    assert [trial.within_limit for trial in report.trials] == [False] * (len(tried) - 1) + [True]
    assert 2 <= len(tried) <= 4
    assert report.limit_met is True
    assert report.measured.folding_percent.foreground <= 0.1 < report.trials[0].folding_percent.foreground
    assert report.setting == {WEIGHT: tried[-1]}
    assert report.trials[-1].folding_percent == report.measured.folding_percent
    assert not [warning for warning in report.warnings if "limit" in warning]


def test_a_limit_that_cannot_be_met_is_admitted(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _change_weight(monkeypatch, default=0.4, high=0.42)
    report = report_of(pair, criterion=Criterion(folding_limit=0.1))
    assert report.limit_met is False
    assert weights(report) == [0.4, 0.42]
    assert "The folding limit of 0.1 % of the foreground could not be met with any λ tried." in report.warnings


def test_the_limit_is_one_of_the_domain_that_was_named(pair: Path, low_default: None) -> None:
    # At λ = 0.4 about 5 % of the foreground and 1 % of the grid are folded.
    grid = report_of(pair, criterion=Criterion(folding_limit=2.0, domain="grid"))
    foreground = report_of(pair, criterion=Criterion(folding_limit=2.0))
    assert (weights(grid), grid.limit_met) == ([0.4], True)
    assert len(foreground.trials) > 1
    assert foreground.limit_met is True


def test_without_a_limit_nothing_is_repeated(pair: Path, low_default: None) -> None:
    report = report_of(pair, criterion=Criterion(folding_limit=None))
    assert (weights(report), report.limit_met) == ([0.4], None)
    assert any("choose a higher λ" in warning for warning in report.warnings)


def test_a_weight_that_was_given_is_never_corrected(pair: Path) -> None:
    report = report_of(pair, setting={WEIGHT: 0.4}, criterion=Criterion(folding_limit=0.1))
    assert (report.choice.by, weights(report), report.limit_met, report.criterion) == ("user", [0.4], None, None)


def test_a_hopeful_prediction_is_corrected_by_what_is_measured(pair: Path, bundle: Path, tmp_path: Path) -> None:
    job = job_of(pair, predictor=str(bundle), criterion=Criterion(rule="plateau", folding_limit=0.1), out=str(tmp_path / "one"))
    report = workflow.run(job)
    assert (report.choice.by, report.reliability and report.reliability.level) == ("predictor", "reliable")
    assert report.choice.predicted is not None
    assert report.choice.predicted.predictor == "hopeful 1"
    # Predicted for the first λ, and wrong there: the loop, not the prediction, keeps the limit.
    assert report.choice.predicted.setting == report.trials[0].setting
    assert report.choice.predicted.folding_foreground.upper < 0.1 < report.trials[0].folding_percent.foreground
    assert len(report.trials) > 1
    assert report.limit_met is True
    assert "most regularized setting" in report.choice.sentence

    read = from_json(Report, (tmp_path / "one" / "report.json").read_text(encoding="utf-8"), "report.json")
    assert read == report
    again = workflow.run(replace(read.job, out=str(tmp_path / "two")))
    assert again.measured == report.measured
    assert again.choice == report.choice
    assert [replace(trial, seconds=0.0) for trial in again.trials] == [replace(trial, seconds=0.0) for trial in report.trials]


def test_what_is_said_of_coded_labels_without_names_is_in_the_report(pair: Path, bundle: Path, tmp_path: Path) -> None:
    """The bundle knows 2 and 17 by FreeSurfer's codes and calls them by its own names, but not 900."""
    for name in ("fixed", "moving"):
        labels = sitk.ReadImage(str(pair / f"{name}-labels.nrrd"))
        sitk.WriteImage(sitk.ChangeLabel(labels, {1: 2, 2: 17, 3: 900}), str(tmp_path / f"{name}.nrrd"))
    given = {"fixed_labels": str(tmp_path / "fixed.nrrd"), "moving_labels": str(tmp_path / "moving.nrrd")}
    report = report_of(pair, predictor=str(bundle), criterion=Criterion(folding_limit=0.1), **given)
    dice, row = report.measured.dice, report.comparisons[3]
    assert dice is not None
    assert (row.what, row.structures, row.structures_predicted, row.at_result) == ("dice", 3, 3, True)
    assert row.measured == pytest.approx(dice.mean, abs=1e-12)
    assert report.predicted_at_result is not None and report.choice.predicted is not None
    assert report.predicted_at_result.setting == report.setting != report.choice.predicted.setting
    first = wording.first_line(report)
    names = ("hopeful 1", *(structure.name for structure in report.choice.predicted.structures))
    for text in (first, wording.verdict(report), report.choice.sentence, *report.warnings[:1]):
        assert not foreign_numbers(text, report, names), text
    surprise = surprise_words(report.comparisons)
    assert surprise and first.startswith(surprise)
    assert report.warnings[0] == f"{surprise}: the prediction does not hold for this pair."
    assert from_json(Report, to_json(report), "report") == report


def test_a_pair_unlike_the_training_is_predicted_by_the_bootstrap_rule(pair: Path, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "foreign", best=1.2, knows_the_pair=False)
    report = report_of(pair, predictor=str(folder))
    assert report.choice.by == report.predictor == "bootstrap" and report.bundle_sha256 == ""
    assert report.choice.predicted is not None and report.choice.predicted.error_mm is not None
    # The anatomy alone is no reason to mistrust what was measured of the pair itself.
    assert report.reliability is not None and report.reliability.level == "reliable"
    assert "The trained predictor hopeful 1 does not know such pairs" in report.reliability.reasons[0]
    assert report.choice.fixed[WEIGHT] == pytest.approx(1.2, rel=0.2)
    assert report.outlook is not None and report.outlook.source == "bootstrap" and report.limit_met
    assert wording.who_chose(report).endswith("(the bootstrap rule).")
    assert from_json(Report, to_json(report), "report") == report


@pytest.mark.parametrize("labels", [True, False])
def test_a_structure_that_is_not_predicted_is_refused_before_the_affine_step(
    pair: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, labels: bool
) -> None:
    monkeypatch.setattr(preparing, "align", lambda *given, **named: pytest.fail("the affine step was begun"))
    given = {"moving_labels": str(pair / "moving-labels.nrrd")} if labels else {}
    known = "choose among label 1, label 2, label 3" if labels else "choose among .*left cerebral white matter"
    with pytest.raises(InputError, match=f"does not predict the structure 'liver': {known}"):
        report_of(pair, predictor=str(bundle), criterion=Criterion(structures={"liver": 1.0}), **given)


def _accept(monkeypatch: pytest.MonkeyPatch, low: float, high: float) -> None:
    """Let the engine accept less than its whole range for every grid."""
    name = DemonsEngine.info.search_space.first.name

    def narrowed(self: DemonsEngine, grid: Geometry, settings: object) -> SearchSpace:
        return self.info.search_space.narrowed(name, low, high)

    monkeypatch.setattr(DemonsEngine, "search_space", narrowed)


def test_a_setting_that_the_engine_cannot_use_for_this_grid_is_refused_before_the_affine_step(
    pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _accept(monkeypatch, 0.6, 4.5)
    monkeypatch.setattr(preparing, "align", lambda *given, **named: pytest.fail("the affine step was begun"))
    with pytest.raises(InputError, match=r"regularization_weight = 0.5 is outside .*: choose a value from 0.6 to 4.5"):
        report_of(pair, setting={WEIGHT: 0.5})


def test_nothing_is_chosen_or_corrected_beyond_what_the_engine_accepts_for_the_grid(
    pair: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _accept(monkeypatch, 0.4, 0.47)
    report = report_of(pair, predictor=str(bundle), criterion=Criterion(folding_limit=0.1))
    assert report.choice.by == "predictor"
    assert weights(report)[-1] == 0.47 and max(weights(report)) == 0.47 and report.limit_met is False
    outcome = workflow.compute(job_of(pair, predictor=str(bundle)))
    assert outcome.prediction is not None and outcome.prediction.surface.values.max() <= 0.47
    _accept(monkeypatch, 0.8, 4.5)
    # The default, 0.7, is not accepted here.
    assert weights(report_of(pair)) == [0.8]


def test_cancelling_a_repeat_leaves_nothing(pair: Path, low_default: None, tmp_path: Path) -> None:
    messages: list[str] = []

    def listen(event: ProgressEvent) -> None:
        messages.append(event.message)

    job = job_of(pair, out=str(tmp_path / "out"), criterion=Criterion(folding_limit=0.1))
    with pytest.raises(Cancelled):
        workflow.run(job, progress=listen, cancelled=lambda: any("attempt 2" in words for words in messages))
    assert list(tmp_path.iterdir()) == []
