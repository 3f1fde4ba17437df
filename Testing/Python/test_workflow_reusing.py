"""What was suggested is what is registered: a job takes a finished prediction, and refuses one of other work."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import FAST
from HyperPredictRegLib import workflow
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.json_records import from_json
from HyperPredictRegLib.core.progress import ProgressEvent
from HyperPredictRegLib.core.trace import LevelTrace
from HyperPredictRegLib.results.exchange import prediction_from_json, prediction_to_json, read_prediction, save_prediction
from HyperPredictRegLib.results.job import Criterion, Job
from HyperPredictRegLib.results.outcome import Outcome
from HyperPredictRegLib.results.prediction import Prediction
from HyperPredictRegLib.results.report import Report
from HyperPredictRegLib.selection.interpolation import rearranged
from HyperPredictRegLib.workflow import planning, preparing
from loop_samples import write_bundle, write_rough_pair

WEIGHT = "regularization_weight"
LIMIT = Criterion(folding_limit=0.1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_rough_pair(tmp_path_factory.mktemp("rough"))
    fixed = sitk.ReadImage(str(folder / "fixed.nrrd"))
    sitk.WriteImage(sitk.Cast(fixed > -10_000, sitk.sitkUInt8), str(folder / "mask.nrrd"))
    (folder / "names.csv").write_text("label,name\n1,body\n2,bright\n3,dark\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "hopeful")


@pytest.fixture(scope="module")
def job(pair: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job(
        fixed=str(pair / "fixed.nrrd"),
        moving=str(pair / "moving.nrrd"),
        out=str(tmp_path_factory.mktemp("prediction") / "out"),
        fixed_labels=str(pair / "fixed-labels.nrrd"),
        moving_labels=str(pair / "moving-labels.nrrd"),
        label_names=str(pair / "names.csv"),
        engine="demons",
        predictor=str(bundle),
        criterion=LIMIT,
        alignment=FAST,
        reproducible=True,
    )


@pytest.fixture(scope="module")
def predicted(job: Job) -> Prediction:
    """The pair's prediction, written to the job's output folder."""
    return workflow.predict(job, writers=[save_prediction])


@pytest.fixture(scope="module")
def alone(job: Job) -> Outcome:
    """What the same job gives without a prediction made before."""
    return workflow.compute(job)


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every step fail that a finished prediction makes needless."""

    def fail(*given: Any, **named: Any) -> Any:
        raise AssertionError("this was to be taken from the prediction")

    for module, name in (
        (preparing, "align"),
        (preparing, "stability"),
        (planning, "load_predictor"),
        (workflow.choosing, "load_predictor"),
    ):
        monkeypatch.setattr(module, name, fail)
    monkeypatch.setattr("HyperPredictRegLib.predictor.features.described", fail)


def with_prediction(job: Job, prediction: Prediction, **changes: Any) -> Job:
    return replace(job, prediction=prediction.job.out, out="unused", **changes)


def parameters(outcome: Outcome) -> list[np.ndarray]:
    parts = [outcome.transform.GetNthTransform(n) for n in range(outcome.transform.GetNumberOfTransforms())]
    return [np.array([*part.GetParameters(), *part.GetFixedParameters()]) for part in parts]


def untimed(levels: tuple[LevelTrace, ...]) -> list[LevelTrace]:
    return [replace(level, seconds=0.0) for level in levels]


@pytest.mark.usefixtures("no_work")
def test_a_prediction_and_its_registration_equal_the_registration_alone(job: Job, alone: Outcome, predicted: Prediction) -> None:
    """Alone first: its fixture is made before work is forbidden."""
    events: list[ProgressEvent] = []
    found = workflow.compute(with_prediction(job, predicted), progress=events.append)
    for one, other in zip(parameters(found), parameters(alone), strict=True):
        np.testing.assert_array_equal(one, other)
    for name in ("warped", "warped_labels", "jacobian", "moving_registered"):
        assert sitk.Hash(getattr(found, name)) == sitk.Hash(getattr(alone, name)), name
    report, expected = found.report, alone.report
    assert len(expected.trials) > 1 and expected.choice.by == "predictor"
    assert report.choice == expected.choice == predicted.choice
    assert untimed(report.alignment.stages) == untimed(expected.alignment.stages) and len(report.alignment.stages) > 1
    assert untimed(report.registration) == untimed(expected.registration)
    assert report.alignment == replace(expected.alignment, stages=report.alignment.stages, from_prediction=True)
    assert [replace(trial, seconds=0.0) for trial in report.trials] == [replace(trial, seconds=0.0) for trial in expected.trials]
    for name in ("engine", "setting", "inputs", "working_grid", "measured", "warnings", "limit_met", "criterion",
                 "predictor", "bundle_sha256", "predicted_at_result", "comparisons", "mirror_check", "reliability"):  # fmt: skip
        assert getattr(report, name) == getattr(expected, name), name
    assert report.job == replace(job, out="unused"), "a report repeats its job without the prediction's file"
    assert "torch" in expected.versions and report.versions == expected.versions
    assert expected.bundle_sha256 and list(dict.fromkeys(event.stage for event in events))[:3] == ["read", "align", "predict"]


@pytest.mark.usefixtures("no_work")
def test_a_report_names_the_bundle_that_its_prediction_is_of(job: Job, predicted: Prediction) -> None:
    """A job that says nothing of a bundle takes a prediction of any; its report says of which, or it would repeat another job."""
    easy = Criterion(folding_limit=None)
    found = workflow.compute(with_prediction(job, predicted, predictor="bundled", criterion=easy))
    assert found.report.job == replace(job, out="unused", criterion=easy)


def test_the_text_of_a_prediction_is_all_that_is_needed(job: Job, predicted: Prediction, tmp_path: Path) -> None:
    """As the scene holds it: written to another place than where it was made, whose folder may be gone."""
    path = tmp_path / "from the scene.json"
    path.write_text(prediction_to_json(predicted), encoding="utf-8")
    plan = planning.Plan.of(replace(job, prediction=str(path), out="unused"))
    assert plan.prediction is not None and plan.prediction.choice == predicted.choice
    assert plan.inputs[-1] == path
    assert prediction_to_json(prediction_from_json(path.read_text(encoding="utf-8"), "it")) == path.read_text(encoding="utf-8")


@pytest.mark.usefixtures("no_work")
def test_another_criterion_chooses_again_from_the_same_curves(job: Job, predicted: Prediction) -> None:
    criterion = Criterion(rule="maximum", folding_limit=None, structures={"bright": 1.0})
    plan = planning.Plan.of(with_prediction(job, predicted, criterion=criterion))
    assert plan.prediction is not None
    assert plan.prediction.criterion == criterion
    assert "highest predicted Dice of bright" in plan.prediction.choice.sentence
    assert plan.prediction.choice.fixed == predicted.choice.fixed
    back = replace(plan.prediction, criterion=LIMIT, choice=predicted.choice, structures=predicted.structures)
    assert prediction_to_json(back) == prediction_to_json(predicted)
    with pytest.raises(InputError, match="does not predict the structure 'liver'"):
        planning.Plan.of(with_prediction(job, predicted, criterion=Criterion(structures={"liver": 1.0})))


@pytest.mark.usefixtures("no_work")
def test_a_given_setting_wins_and_is_compared_with_what_was_predicted(job: Job, predicted: Prediction) -> None:
    report = workflow.compute(with_prediction(job, predicted, setting={WEIGHT: 0.9})).report
    assert (report.choice.by, report.setting, len(report.trials)) == ("user", {WEIGHT: 0.9}, 1)
    assert report.alignment.from_prediction
    assert report.predicted_at_result is not None and report.predicted_at_result.setting == {WEIGHT: 0.9}
    assert {one.what for one in report.comparisons} == {"dice", "folding_foreground", "folding_grid", "sd_log_jacobian"}
    assert report.predictor == "hopeful 1" and report.limit_met is None


@pytest.mark.usefixtures("no_work")
def test_a_given_setting_beyond_the_curves_is_compared_with_nothing(job: Job, predicted: Prediction, tmp_path: Path) -> None:
    upper = rearranged(predicted.surface, predicted.surface.values[150:], lambda curve: curve[..., 150:])
    save_prediction(replace(predicted, surface=upper), tmp_path)
    beyond = workflow.compute(replace(job, prediction=str(tmp_path), out="unused", setting={WEIGHT: 0.4})).report
    assert beyond.predicted_at_result is None and beyond.comparisons == ()


@pytest.mark.usefixtures("no_work")
def test_labels_and_landmarks_for_measuring_may_come_later(job: Job, predicted: Prediction) -> None:
    plan = planning.Plan.of(with_prediction(job, predicted, fixed_labels=None))
    assert plan.prediction is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": "bspline", "predictor": "bundled"}, r"another engine \(demons; this job has bspline\): predict again"),
        ({"engine_settings": {"coarsest_voxels": 21}}, "another settings of the engine"),
        ({"preset": "standard"}, r"another preset \(fast; this job has standard\)"),
        ({"seed": 7}, r"another seed \(20240901; this job has 7\)"),
        ({"stability_seeds": 3}, "another number of stability seeds"),
        ({"alignment": FAST | {"voxels_across": 60}}, "other settings of the alignment"),
        ({"predictor": "none"}, "another predictor"),
        ({"moving": "fixed.nrrd"}, "is of other images: the moving image '.*fixed.nrrd' has another content"),
        ({"fixed_mask": "mask.nrrd"}, "was made without the fixed mask"),
        ({"moving_labels": None}, "was made with moving labels, but this job names none"),
        ({"moving_labels": "fixed-labels.nrrd"}, "the moving labels '.*' has another content"),
        ({"label_names": None}, "was made with label names"),
        ({"prediction": "absent"}, "The prediction 'absent' could not be read"),
        ({"moving": "absent.nrrd"}, "absent.nrrd' does not exist"),
    ],
)
@pytest.mark.usefixtures("no_work")
def test_a_prediction_of_other_work_is_refused_before_any(
    job: Job, pair: Path, predicted: Prediction, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    changes = {name: str(pair / value) if str(value).endswith(".nrrd") else value for name, value in changes.items()}
    with pytest.raises(InputError, match=message):
        workflow.run(replace(with_prediction(job, predicted), out=str(tmp_path / "out"), **changes))
    assert list(tmp_path.iterdir()) == []


def test_names_of_other_labels_may_come_and_go(job: Job, predicted: Prediction, tmp_path: Path) -> None:
    """As those of a fixed segmentation that is chosen after the prediction; what is predicted must be called as it was."""
    table = tmp_path / "names.csv"
    names = "label,name\n1,body\n2,bright\n3,{}\n9,only fixed\n"
    table.write_text(names.format("dark"), encoding="utf-8")
    more = replace(job, prediction=predicted.job.out, label_names=str(table))
    taken = planning.Plan.of(more).prediction
    assert taken is not None and taken.choice == predicted.choice
    table.write_text(names.format("grim"), encoding="utf-8")
    with pytest.raises(InputError, match=r"the label names '.*' has another content"):
        planning.Plan.of(more)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data.pop("surface"), "lacks the field 'surface'"),
        (lambda data: data.update(alignment=None), "holds no alignment that could be taken"),
        (lambda data: data.update(bundle_sha256="0" * 64), "another version of the predictor than the one that is there now"),
        (lambda data: data["alignment"].update(parameters=[0.0] * 12), "holds no alignment that could be taken"),
        (lambda data: data["alignment"].update(center=[None, 0.0, 0.0]), "holds no alignment that could be taken"),
        (lambda data: data["choice"].update(setting={"other": 1.0}), "has no parameter 'other'"),
        (lambda data: data["choice"].update(setting={WEIGHT: 1e9}), "is outside of what this engine can use"),
        (lambda data: data["engine"].update(version="0"), "another version of the engine"),
        (lambda data: data.update(schema_version=1), "schema version 1, but this program reads versions 2 to 3"),
        (lambda data: data["inputs"].clear(), "was made without the fixed image"),
    ],
)
@pytest.mark.usefixtures("no_work")
def test_a_damaged_prediction_is_refused_before_any_work(
    job: Job, predicted: Prediction, tmp_path: Path, damage: Callable[[dict[str, Any]], Any], message: str
) -> None:
    data = json.loads(prediction_to_json(predicted))
    damage(data)
    path = tmp_path / "prediction.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        workflow.compute(replace(job, prediction=str(path), out="unused"))


def test_a_prediction_is_never_written_over(job: Job, predicted: Prediction) -> None:
    before = (Path(predicted.job.out) / "prediction.json").read_bytes()
    with pytest.raises(InputError, match="written over the input"):
        workflow.run(replace(job, prediction=predicted.job.out), overwrite=True)
    assert (Path(predicted.job.out) / "prediction.json").read_bytes() == before


def test_a_prediction_is_not_made_from_one(job: Job, predicted: Prediction) -> None:
    with pytest.raises(InputError, match="A prediction is made anew"):
        workflow.compute_prediction(with_prediction(job, predicted))


def test_the_report_on_the_disk_repeats_the_job_without_the_prediction(job: Job, predicted: Prediction, tmp_path: Path) -> None:
    report = workflow.run(replace(with_prediction(job, predicted), out=str(tmp_path / "out")))
    read = from_json(Report, (tmp_path / "out" / "report.json").read_text(encoding="utf-8"), "report.json")
    assert read == report and read.job.prediction is None and read.alignment.from_prediction
    again = workflow.run(replace(read.job, out=str(tmp_path / "again")))
    assert again.measured == report.measured and not again.alignment.from_prediction
    assert read_prediction(Path(predicted.job.out) / "prediction.json").choice == report.choice
