"""Landmarks that lead a registration: the start from any pose, the pull on the deformation, and what is said of either."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from command_samples import Command
from conftest import FAST, FIXED_GRID, blob_image, blob_labels, engine_here
from HyperPredictRegLib import workflow
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.json_records import from_json
from HyperPredictRegLib.engines import engine_names
from HyperPredictRegLib.preprocessing.image_set import read_inputs
from HyperPredictRegLib.presentation.result import result_view
from HyperPredictRegLib.reporting import wording
from HyperPredictRegLib.results.job import Job
from HyperPredictRegLib.results.outcome import Outcome
from HyperPredictRegLib.results.report import Report
from HyperPredictRegLib.spatial.points import write_points
from HyperPredictRegLib.workflow.planning import Plan
from loop_samples import write_bundle
from reporting_samples import render
from scipy.spatial.transform import Rotation

SHIFT = np.array([4.0, -3.0, 2.0])
DEFORM = 0.4
TURN = Rotation.from_rotvec(np.radians(150) * np.array([2, -1, 2]) / 3).as_matrix()
"""In this pose the affine step alone ends on the wrong side, unless it tries rotated starts."""
LOCAL = np.array([[0.5, 0, 0], [-0.5, 0.1, 0], [0, 0.6, 0.1], [0.1, -0.6, 0], [0, 0.1, 0.5], [0.1, 0, -0.5], [0.3, 0.4, 0.2]])
USED = {"landmarks_for": "start"}
PULLED = {"landmarks_for": "start and deformation"}


def landmarks() -> tuple[np.ndarray, np.ndarray]:
    """Return corresponding points of the pair below, LPS mm."""
    half = min(FIXED_GRID.extent_mm) / 2
    moving = LOCAL.copy()
    moving[:, 0] -= DEFORM * (moving[:, 1] ** 2 - 0.25)
    return FIXED_GRID.centre_lps + half * LOCAL, (FIXED_GRID.centre_lps + SHIFT + half * moving) @ TURN.T


def write_markups(points: np.ndarray, path: Path) -> None:
    """Write points as 3D Slicer does, in RAS."""
    control = [{"id": str(n + 1), "label": f"F-{n + 1}", "position": (p * (-1, -1, 1)).tolist()} for n, p in enumerate(points)]
    markup = {"type": "Fiducial", "coordinateSystem": "RAS", "controlPoints": control}
    path.write_text(json.dumps({"markups": [markup]}), encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An organ, and one of another shape whose header turns it upside down; landmarks of either in another kind of file."""
    folder = tmp_path_factory.mktemp("turned")
    for name, image in (("fixed", blob_image(FIXED_GRID)), ("moving", blob_image(FIXED_GRID, tuple(SHIFT), DEFORM))):
        for what, voxels in (("", sitk.Cast(image * 5, sitk.sitkInt16)), ("-labels", blob_labels(image))):
            if name == "moving":
                voxels.SetOrigin((TURN @ np.array(voxels.GetOrigin())).tolist())
                voxels.SetDirection((TURN @ np.array(voxels.GetDirection()).reshape(3, 3)).ravel().tolist())
            sitk.WriteImage(voxels, str(folder / f"{name}{what}.nrrd"))
    fixed, moving = landmarks()
    write_markups(fixed, folder / "fixed.mrk.json")
    write_points(moving, folder / "moving.csv")
    return folder


def job_in(folder: Path, **changes: Any) -> Job:
    job = Job(
        fixed=str(folder / "fixed.nrrd"), moving=str(folder / "moving.nrrd"), out="",
        fixed_labels=str(folder / "fixed-labels.nrrd"), moving_labels=str(folder / "moving-labels.nrrd"),
        fixed_landmarks=str(folder / "fixed.mrk.json"), moving_landmarks=str(folder / "moving.csv"),
        setting={}, predictor="none", alignment=FAST, reproducible=True,
    )  # fmt: skip
    return replace(job, **changes)


def with_points(folder: Path, tmp_path: Path, moving: np.ndarray, fixed: np.ndarray | None = None, **changes: Any) -> Job:
    """Return a job with other landmarks."""
    write_points(moving, tmp_path / "moving.csv")
    given = {"moving_landmarks": str(tmp_path / "moving.csv")}
    if fixed is not None:
        write_points(fixed, tmp_path / "fixed.csv")
        given["fixed_landmarks"] = str(tmp_path / "fixed.csv")
    return job_in(folder, **given, **(USED | changes))


@pytest.fixture(scope="module")
def measured_only(folder: Path) -> Report:
    return workflow.compute(job_in(folder)).report


@pytest.fixture(scope="module")
def started(folder: Path) -> Outcome:
    return workflow.compute(job_in(folder, **USED))


@pytest.fixture(scope="module")
def pulled(folder: Path) -> Outcome:
    return workflow.compute(job_in(folder, **PULLED))


def dice(report: Report) -> float:
    assert report.measured.dice is not None
    return report.measured.dice.mean


def error_mm(report: Report) -> float:
    assert report.measured.tre_mm is not None
    return report.measured.tre_mm.mean


def test_landmarks_start_from_any_pose(measured_only: Report, started: Outcome) -> None:
    assert dice(measured_only) < 0.7  # the pose is too far off for the affine step alone
    report = started.report
    assert dice(report) > max(0.8, dice(measured_only) + 0.1)
    start = report.alignment.landmarks
    assert start is not None and report.alignment.starts_tried == 1
    assert (start.fit, start.count, start.retained) == ("similarity", len(LOCAL), False)
    assert start.left_out_mm is not None and 0 < start.fit_mm < start.left_out_mm < 5.0  # mm; the deformation is no similarity
    assert report.landmark_pull is None


def test_landmarks_for_measuring_lead_to_nothing(measured_only: Report) -> None:
    assert measured_only.alignment.landmarks is None and wording.landmark_words(measured_only) == ()
    assert measured_only.measured.tre_mm is not None
    assert "Landmark error" in wording.landmark_title(measured_only)


def test_the_pull_brings_landmarks_together_and_folds_nothing(started: Outcome, pulled: Outcome) -> None:
    pull, measured = pulled.report.landmark_pull, pulled.report.measured
    assert pull is not None and not pull.weakened
    assert pull.pulled_mm < 0.4 * pull.before_mm
    assert error_mm(pulled.report) < error_mm(started.report)
    assert measured.folding_percent.grid == 0.0 and measured.jacobian_minimum > 0
    assert dice(pulled.report) > dice(started.report) - 0.02
    # The affine step is the same, and so is what "before" means.
    assert pulled.report.alignment.matrix == started.report.alignment.matrix
    assert measured.tre_before_mm == started.report.measured.tre_before_mm


@pytest.mark.parametrize("engine", engine_names())
def test_every_engine_can_be_pulled(folder: Path, engine: str) -> None:
    engine_here(engine)
    report = workflow.compute(job_in(folder, engine=engine, fixed_labels=None, moving_labels=None, **PULLED)).report
    assert report.landmark_pull is not None
    assert error_mm(report) <= report.landmark_pull.registered_mm + 0.1  # mm: a second pull may not lead away
    assert error_mm(report) < 0.6 * report.landmark_pull.before_mm
    assert report.measured.folding_percent.grid == 0.0


def test_the_report_can_be_read_again(pulled: Outcome) -> None:
    from HyperPredictRegLib.core.json_records import to_json

    assert from_json(Report, to_json(pulled.report), "the report") == pulled.report


def test_what_was_used_is_not_called_an_error(started: Outcome, pulled: Outcome) -> None:
    for outcome, sentence in ((started, "The alignment started from a similarity fit of 7"), (pulled, "pulled the deformation")):
        report = replace(outcome.report, measured=replace(outcome.report.measured, dice=None))
        texts = (wording.verdict(report), " ".join(wording.landmark_words(report)), render(replace(outcome, report=report)))
        assert texts[0].startswith("At the landmarks that were used, registration took the mean distance from")
        for text in (*texts[1:], result_view(report).details):
            assert sentence in text and "no independent check of the result" in text
        assert "Landmark error" not in "".join(texts)


def test_a_fit_that_the_affine_step_leaves_is_taken_and_doubted(folder: Path, tmp_path: Path) -> None:
    fixed, moving = landmarks()
    # They fit each other, but not the images: 14 mm aside.
    report = workflow.compute(with_points(folder, tmp_path, moving + np.array([14.0, 0, 0]), fixed)).report
    start = report.alignment.landmarks
    assert start is not None and start.retained and start.aligned_mm > 5.0
    (sentence,) = [one for one in report.warnings if "led away from the landmarks" in one]
    assert sentence in report.alignment.doubts
    assert report.alignment.stages == ()
    assert report.measured.tre_before_mm is not None
    assert abs(report.measured.tre_before_mm.mean - start.fit_mm) < 1e-6  # mm


def test_a_pair_that_does_not_fit_is_named(folder: Path, tmp_path: Path) -> None:
    moving = landmarks()[1]
    moving[3] += (9.0, -6.0, 0)
    job = with_points(folder, tmp_path, moving)
    plan = Plan.of(job)
    fit = workflow.landmarking.fitted_start(plan.job, read_inputs(job))
    assert fit is not None and fit.warnings[0].startswith("Landmark 4 does not fit the others")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f, m: (f[:2], m[:2]), "at least 3 pairs, but there are 2"),
        (lambda f, m: (f[:5], m[:6]), "There are 5 fixed but 6 moving landmarks"),
        (lambda f, m: (f, m[[1, 0, 2, 3, 4, 5, 6]]), "landmarks 1 and 2 seem to be exchanged"),
        (lambda f, m: (f * (1, -1, 1), m), "Landmark . of the fixed image lies .* outside of that image: .* in mm"),
        (lambda f, m: (f[:3] * 0 + f[0], m[:3]), "The fixed landmarks all lie at one place"),
        (lambda f, m: (f[0] + np.arange(4)[:, None] * (1, 2, 3), m[:4]), "The fixed landmarks lie on one line"),
    ],
)
def test_landmarks_that_cannot_start_anything_are_refused(folder: Path, tmp_path: Path, change: Any, sentence: str) -> None:
    fixed, moving = change(*landmarks())
    with pytest.raises(InputError, match=sentence):
        workflow.compute(with_points(folder, tmp_path, moving, fixed))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"landmarks_for": "everything"}, "cannot be used for 'everything': choose one of measuring, start"),
        ({"fixed_landmarks": None, "moving_landmarks": None}, "they are not given for both images"),
        ({"initial_transform": "start.tfm"}, "both are given: leave out the initial transform"),
    ],
)
def test_uses_that_cannot_be_are_refused_before_any_work(folder: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Plan.of(job_in(folder, **(USED | changes)))


def test_a_prediction_is_for_its_own_landmarks(folder: Path, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    job = job_in(folder, engine="demons", predictor=str(bundle), out=str(tmp_path / "predicted"), **PULLED)
    from HyperPredictRegLib.results.exchange import save_prediction

    prediction = workflow.predict(job, writers=[save_prediction])
    assert any("Landmarks pull the deformation" in reason for reason in prediction.reliability.reasons)
    again = replace(job, prediction=job.out, out="")
    plan = Plan.of(again)
    assert plan.prediction is not None and plan.prediction.alignment is not None
    assert plan.prediction.alignment.landmarks is not None
    with pytest.raises(InputError, match=r"another use of landmarks \(start and deformation; this job has measuring\)"):
        Plan.of(replace(again, landmarks_for="measuring"))
    write_points(landmarks()[1] + 0.5, tmp_path / "other.csv")
    with pytest.raises(InputError, match=r"the moving landmarks '.*other.csv' has another content"):
        Plan.of(replace(again, moving_landmarks=str(tmp_path / "other.csv")))
    report = workflow.compute(again).report
    assert report.alignment.from_prediction and report.landmark_pull is not None


def test_the_command_says_how_landmarks_were_used(folder: Path, tmp_path: Path, command: Command) -> None:
    given = (
        "register", folder / "fixed.nrrd", folder / "moving.nrrd", "--out", tmp_path / "out", "--no-page", "--weight", "0.9",
        "--fixed-landmarks", folder / "fixed.mrk.json", "--moving-landmarks", folder / "moving.csv", "--landmarks-for",
    )  # fmt: skip
    done = command(*given, "start and deformation")
    assert done.returncode == 0, done.stderr
    assert "At landmarks used" in done.stdout and "Landmark error" not in done.stdout
    assert "The landmarks pulled the deformation, from" in done.stdout
    job = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["job"]
    assert job["landmarks_for"] == "start and deformation"
    wrong = command(*given, "ending", "--overwrite")
    assert wrong.returncode != 0 and "Landmarks cannot be used for 'ending'" in wrong.stderr
