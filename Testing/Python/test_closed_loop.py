"""λ that nobody gave: it is chosen, registered with, measured, and raised until the folding limit truly holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import SimpleITK as sitk
from conftest import FAST
from HyperPredictRegLib import workflow
from HyperPredictRegLib.engines.demons import DemonsEngine
from HyperPredictRegLib.errors import Cancelled, InputError
from HyperPredictRegLib.job import Criterion, Job, Report
from HyperPredictRegLib.progress import ProgressEvent
from HyperPredictRegLib.records import from_json, to_json
from HyperPredictRegLib.reporting import choice_wording, wording
from HyperPredictRegLib.selection.comparison import surprise_words
from loop_samples import write_bundle, write_rough_pair
from number_samples import strangers

WEIGHT = "regularization_weight"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rough_pair(tmp_path_factory.mktemp("rough"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "hopeful")


@pytest.fixture
def low_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the engine start at λ = 0.4, where the pair folds."""
    _change_weight(monkeypatch, default=0.4)


def _change_weight(monkeypatch: pytest.MonkeyPatch, **changes: float) -> None:
    weight = DemonsEngine.hyperparameters[0]
    monkeypatch.setattr(DemonsEngine, "hyperparameters", (replace(weight, **changes),))


def job_of(pair: Path, **changes: object) -> Job:
    parts: dict = {"out": "unused", "predictor": "none", "alignment": FAST, "reproducible": True}
    return Job(str(pair / "fixed.nrrd"), str(pair / "moving.nrrd"), **{**parts, **changes})


def report_of(pair: Path, **changes: object) -> Report:
    return workflow.compute(job_of(pair, **changes)).report


def weights(report: Report) -> list[float]:
    return [trial.hyperparameters[WEIGHT] for trial in report.trials]


def test_without_a_prediction_the_fixed_weight_is_tried_and_measured(pair: Path) -> None:
    report = report_of(pair)
    assert (report.chosen_by, report.limit_kept, weights(report)) == ("fixed", True, [0.7])
    assert "the engine's default, taken because the job asks for no prediction" in report.choice
    assert report.criterion == Criterion()
    assert report.predicted is None
    assert report.verdict is None
    assert report.trials[0].folding_percent == report.measured.folding_percent


def test_a_pair_that_folds_is_registered_again_until_the_limit_holds(pair: Path, low_default: None) -> None:
    report = report_of(pair, criterion=Criterion(folding_limit=0.1))
    tried = weights(report)
    assert tried[0] == 0.4
    assert tried == sorted(set(tried))
    assert [trial.within_limit for trial in report.trials] == [False] * (len(tried) - 1) + [True]
    assert 2 <= len(tried) <= 4
    assert report.limit_kept is True
    assert report.measured.folding_percent.foreground <= 0.1 < report.trials[0].folding_percent.foreground
    assert report.hyperparameters == {WEIGHT: tried[-1]}
    assert report.trials[-1].folding_percent == report.measured.folding_percent
    assert not [warning for warning in report.warnings if "limit" in warning]


def test_a_limit_that_cannot_be_met_is_admitted(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _change_weight(monkeypatch, default=0.4, upper=0.42)
    report = report_of(pair, criterion=Criterion(folding_limit=0.1))
    assert report.limit_kept is False
    assert weights(report) == [0.4, 0.42]
    assert "The folding limit of 0.1 % of the foreground could not be kept with any λ tried." in report.warnings


def test_the_limit_is_one_of_the_domain_that_was_named(pair: Path, low_default: None) -> None:
    # At λ = 0.4 about 5 % of the foreground and 1 % of the box are folded.
    box = report_of(pair, criterion=Criterion(folding_limit=2.0, domain="box"))
    foreground = report_of(pair, criterion=Criterion(folding_limit=2.0))
    assert (weights(box), box.limit_kept) == ([0.4], True)
    assert len(foreground.trials) > 1
    assert foreground.limit_kept is True


def test_without_a_limit_nothing_is_repeated(pair: Path, low_default: None) -> None:
    report = report_of(pair, criterion=Criterion(folding_limit=None))
    assert (weights(report), report.limit_kept) == ([0.4], None)
    assert any("choose a higher λ" in warning for warning in report.warnings)


def test_a_weight_that_was_given_is_never_corrected(pair: Path) -> None:
    report = report_of(pair, hyperparameters={WEIGHT: 0.4}, criterion=Criterion(folding_limit=0.1))
    assert (report.chosen_by, weights(report), report.limit_kept, report.criterion) == ("user", [0.4], None, None)


def test_a_hopeful_prediction_is_corrected_by_what_is_measured(pair: Path, bundle: Path, tmp_path: Path) -> None:
    job = job_of(pair, predictor=str(bundle), criterion=Criterion(folding_limit=0.1), out=str(tmp_path / "one"))
    report = workflow.run(job)
    assert (report.chosen_by, report.verdict and report.verdict.light) == ("predictor", "green")
    assert report.predicted is not None
    assert report.predicted.predictor == "hopeful 1"
    # Foreseen for the first λ, and wrong there: the loop, not the prediction, keeps the limit.
    assert report.predicted.hyperparameters == report.trials[0].hyperparameters
    assert report.predicted.folding_foreground.upper < 0.1 < report.trials[0].folding_percent.foreground
    assert len(report.trials) > 1
    assert report.limit_kept is True
    assert "stiffest setting" in report.choice

    read = from_json(Report, (tmp_path / "one" / "report.json").read_text(encoding="utf-8"), "report.json")
    assert read == report
    again = workflow.run(replace(read.job, out=str(tmp_path / "two")))
    assert again.measured == report.measured
    assert again.predicted == report.predicted
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
    assert report.predicted_at_result is not None and report.predicted is not None
    assert report.predicted_at_result.hyperparameters == report.hyperparameters != report.predicted.hyperparameters
    first = choice_wording.first_line(report)
    names = ("hopeful 1", *(structure.name for structure in report.predicted.structures))
    for text in (first, wording.verdict(report), report.choice, *report.warnings[:1]):
        assert not strangers(text, report, names), text
    surprise = surprise_words(report.comparisons)
    assert surprise and first.startswith(surprise)
    assert report.warnings[0] == f"{surprise}: the prediction does not hold for this pair."
    assert from_json(Report, to_json(report), "report") == report


def test_a_pair_unlike_the_training_gets_the_fixed_weight(pair: Path, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "foreign", best=1.2, knows_the_pair=False)
    report = report_of(pair, predictor=str(folder))
    assert (report.chosen_by, report.verdict and report.verdict.light) == ("fixed", "red")
    assert report.predicted is None
    assert weights(report) == [pytest.approx(1.2, rel=0.2)]
    assert "too unlike those" in report.choice


def test_a_structure_that_is_not_foreseen_is_refused(pair: Path, bundle: Path) -> None:
    with pytest.raises(InputError, match="does not foresee the structure 'liver'"):
        report_of(pair, predictor=str(bundle), criterion=Criterion(structures={"liver": 1.0}))


def test_cancelling_a_repeat_leaves_nothing(pair: Path, low_default: None, tmp_path: Path) -> None:
    said: list[str] = []

    def listen(event: ProgressEvent) -> None:
        said.append(event.message)

    job = job_of(pair, out=str(tmp_path / "out"), criterion=Criterion(folding_limit=0.1))
    with pytest.raises(Cancelled):
        workflow.run(job, progress=listen, cancelled=lambda: any("attempt 2" in words for words in said))
    assert list(tmp_path.iterdir()) == []
