"""The whole job on small images: what it writes, that it repeats, and that nothing is left when it fails."""

from __future__ import annotations

import errno
import json
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import FAST, FIXED_GRID, MOVING_GRID, job_of
from HyperPredictRegLib import workflow
from HyperPredictRegLib.core.errors import Cancelled, InputError
from HyperPredictRegLib.core.json_records import from_json, to_json
from HyperPredictRegLib.core.progress import ProgressEvent
from HyperPredictRegLib.preprocessing.image_set import read_inputs
from HyperPredictRegLib.quality.measurement import measure, measuring_grid
from HyperPredictRegLib.results import results_folder
from HyperPredictRegLib.results.job import DEFAULT_ENGINE, Job
from HyperPredictRegLib.results.outcome import Outcome
from HyperPredictRegLib.results.report import Report
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import composed, displacement_field, field_transform, read_transform


def test_the_report_holds_what_was_promised(finished: tuple[Report, Path]) -> None:
    data = json.loads((finished[1] / "report.json").read_text(encoding="utf-8"))
    assert data["schema_version"] == 3
    assert data["job"]["seed"] == 20240901
    assert data["engine"]["name"] == "diffeo"
    assert data["setting"] == {"regularization_weight": 0.4, "fluid_sigma": 1.2}
    stage = data["alignment"]["stages"][0]
    assert stage["values"]
    assert stage["stop_reason"]
    assert data["measured"]["dice"]["mean"] > data["measured"]["dice"]["mean_before"]
    assert {s["name"] for s in data["measured"]["dice"]["structures"]} == {"body", "bright", "dark"}
    assert data["measured"]["folding_percent"] == {"foreground": 0.0, "grid": 0.0}
    assert data["measured"]["sd_log_jacobian"] > 0
    assert data["measured"]["tre_mm"]["mean"] < 2.0
    assert set(data["seconds"]) == {"read", "align", "predict", "register", "measure", "judge", "write"}
    # Nothing was predicted, so torch had no part in it.
    assert {"hyperpredictreg", "SimpleITK", "numpy", "scipy", "python"} == set(data["versions"])
    assert isinstance(data["warnings"], list)


def test_the_report_file_is_the_report(finished: tuple[Report, Path]) -> None:
    report, out = finished
    again = from_json(Report, (out / "report.json").read_text(encoding="utf-8"), "report.json")
    assert again == report
    assert to_json(again) == (out / "report.json").read_text(encoding="utf-8")


def test_all_named_outputs_exist_and_nothing_else(finished: tuple[Report, Path]) -> None:
    report, out = finished
    assert {p.name for p in out.iterdir()} == {"report.json", *report.outputs.values()}
    assert [p.name for p in out.parent.iterdir()] == ["results"]


def test_the_written_transform_makes_the_written_volume(files: Path, finished: tuple[Report, Path]) -> None:
    _report, out = finished
    moving = sitk.ReadImage(str(files / "moving.nrrd"))
    again = FIXED_GRID.resample(moving, read_transform(out / "transform.h5", "transform"))
    warped = sitk.ReadImage(str(out / "warped.nrrd"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(again), sitk.GetArrayFromImage(warped))
    assert Geometry.of(warped).matches(FIXED_GRID)
    assert Geometry.of(sitk.ReadImage(str(out / "warped-labels.nrrd"))).matches(FIXED_GRID)


def test_a_reports_own_job_gives_the_same_result_again(finished: tuple[Report, Path], tmp_path: Path) -> None:
    report, out = finished
    again = workflow.run(replace(report.job, out=str(tmp_path / "again")))
    assert again.measured == report.measured
    one, other = (read_transform(folder / "transform.h5", "transform") for folder in (out, tmp_path / "again"))
    point = tuple(FIXED_GRID.centre_lps + np.array([5.0, 6.0, -7.0]))
    assert one.TransformPoint(point) == other.TransformPoint(point)


def test_the_bspline_engine_does_the_whole_job_too(files: Path, tmp_path: Path) -> None:
    report = workflow.run(job_of(files, tmp_path / "out", engine="bspline"))
    assert report.measured.dice is not None
    assert report.measured.dice.mean > report.measured.dice.mean_before
    assert list(report.setting) == ["control_point_spacing"]


@pytest.mark.parametrize("engine", [DEFAULT_ENGINE, "demons"])
def test_masks_keep_a_disturbance_out(files: Path, tmp_path: Path, engine: str) -> None:
    # A bright bar beside the organ, in the moving image only, spoils the alignment unless the masks leave it out.
    moving = sitk.ReadImage(str(files / "moving.nrrd"))
    voxels = sitk.GetArrayFromImage(moving)
    voxels[:, :, :4] = 3000
    spoiled = sitk.GetImageFromArray(voxels)
    spoiled.CopyInformation(moving)
    sitk.WriteImage(spoiled, str(tmp_path / "spoiled.nrrd"))
    masks = {"fixed_mask": str(files / "fixed-mask.nrrd"), "moving_mask": str(files / "moving-mask.nrrd")}
    job = job_of(files, Path("unused"), engine=engine)
    # Where an engine takes nothing from beside a mask, the masks alone cost some of the organ's edge, disturbed or not.
    undisturbed = dice_of(replace(job, **(masks if engine == DEFAULT_ENGINE else {})))
    job = replace(job, moving=str(tmp_path / "spoiled.nrrd"))
    without, within = dice_of(job), dice_of(replace(job, **masks))
    assert within > undisturbed - (0.01 if engine == DEFAULT_ENGINE else 0.03)
    assert without < within - 0.03


def dice_of(job: Job) -> float:
    measured = workflow.compute(job).report.measured
    assert measured.dice is not None
    return measured.dice.mean


def test_before_and_after_are_measured_apart(files: Path) -> None:
    inputs = read_inputs(job_of(files, Path("unused")))
    way = MOVING_GRID.centre_lps - FIXED_GRID.centre_lps
    start = sitk.TranslationTransform(3, way.tolist())
    push = sitk.TranslationTransform(3, (0.0, 2.0, 0.0))
    field = displacement_field(push, FIXED_GRID)
    transform = composed(start, field_transform(field))
    found = measure(inputs, transform, start, FIXED_GRID.padded((-8, -8, -8), (-8, -8, -8)))
    measured = found.measured
    assert measured.displacement_mm.mean == pytest.approx(2.0)
    assert measured.folding_percent.grid == 0.0
    assert measured.jacobian_minimum == pytest.approx(1.0, abs=1e-4)
    fixed, moving = inputs.fixed.landmarks, inputs.moving.landmarks
    assert fixed is not None
    assert moving is not None
    assert measured.tre_before_mm is not None
    assert measured.tre_mm is not None
    assert measured.tre_before_mm.mean == pytest.approx(np.linalg.norm(fixed + way - moving))
    assert measured.tre_mm.mean == pytest.approx(np.linalg.norm(fixed + way + np.array([0.0, 2.0, 0.0]) - moving))
    assert measured.inverse_consistency_mm.mean < 1e-3
    assert measured.similarity_before != measured.similarity_after
    assert measured.dice is not None
    assert measured.dice.mean_before != measured.dice.mean


def test_an_initial_transform_replaces_the_start(files: Path, tmp_path: Path, finished: tuple[Report, Path]) -> None:
    start = str(finished[1] / "transform.h5")
    linear = tmp_path / "affine.tfm"
    sitk.WriteTransform(sitk.CompositeTransform(read_transform(start, "start")).GetNthTransform(0), str(linear))
    report = workflow.run(job_of(files, tmp_path / "out", initial_transform=str(linear), alignment=FAST | {"stages": []}))
    np.testing.assert_allclose(report.alignment.matrix, finished[0].alignment.matrix, atol=1e-9)


def test_stability_over_seeds_is_reported(files: Path, tmp_path: Path, finished: tuple[Report, Path]) -> None:
    report = workflow.run(job_of(files, tmp_path / "out", stability_seeds=2))
    assert report.alignment.stability is not None
    assert report.alignment.stability.seeds == (20240901, 20240902)
    assert 0 <= report.alignment.stability.mean_spread_mm < report.alignment.stability.limit_mm
    assert finished[0].alignment.stability is None


def test_progress_names_the_stages_in_order(files: Path, tmp_path: Path) -> None:
    events: list[ProgressEvent] = []
    workflow.run(job_of(files, tmp_path / "out"), progress=events.append)
    assert list(dict.fromkeys(e.stage for e in events)) == ["read", "align", "predict", "register", "measure", "write"]


@pytest.mark.parametrize("stage", ["read", "align", "predict", "register", "measure", "write"])
def test_cancelling_at_any_stage_leaves_nothing(files: Path, tmp_path: Path, stage: str) -> None:
    seen: set[str] = set()
    with pytest.raises(Cancelled):
        workflow.run(
            job_of(files, tmp_path / "new" / "out"), progress=lambda e: seen.add(e.stage), cancelled=lambda: stage in seen
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"seed": 0}, "the clock"),
        ({"stability_seeds": 1}, "says nothing"),
        ({"engine": "magic"}, "no engine 'magic'"),
        ({"preset": "quick"}, "no preset 'quick'"),
        ({"setting": {"regularization_weight": 99.0}}, "choose a value from"),
        ({"setting": {"strength": 1.0}}, "no parameter"),
        ({"engine_settings": {"speed": 1}}, "unknown field 'speed'"),
        ({"alignment": {"metric": "magic"}}, "magic"),
        ({"alignment": {"levels": 3}}, "unknown field 'levels'"),
        ({"moving": "absent.nrrd"}, "does not exist"),
        ({"moving_labels": "absent.nrrd"}, "does not exist"),
        ({"initial_transform": "absent.h5"}, "does not exist"),
        ({"moving_landmarks": None}, "Landmarks were given for one image only"),
        ({"label_names": "absent.csv"}, "does not exist"),
    ],
)
def test_bad_jobs_are_refused_and_leave_nothing(files: Path, tmp_path: Path, changes: dict, match: str) -> None:
    with pytest.raises(InputError, match=match):
        workflow.run(job_of(files, tmp_path / "new" / "out", **changes))
    assert list(tmp_path.iterdir()) == []


def test_a_job_without_an_output_folder_is_refused(files: Path) -> None:
    with pytest.raises(InputError, match="names no output folder"):
        workflow.run(replace(job_of(files, Path("unused")), out=" "))


def test_a_job_of_another_schema_is_refused() -> None:
    for version, words in ((1, "schema version 1"), (4, "schema version 4"), ("2", 'schema version "2"'), (None, "version null")):
        text = json.dumps({"fixed": "a", "moving": "b", "out": "c", "parameters": {}, "schema_version": version})
        with pytest.raises(InputError, match=f"The job has {words}|The job has schema {words}"):
            from_json(Job, text, "The job")


def test_a_report_of_the_version_before_is_read_and_written_anew(finished: tuple[Report, Path]) -> None:
    report, out = finished
    data = json.loads((out / "report.json").read_text(encoding="utf-8"))
    later = {"job": ("landmarks_for", "channels", "device"), "report": ("benefit", "landmark_pull", "engine_notes", "device")}
    for record, names in ((data["job"], later["job"]), (data, later["report"])):
        record["schema_version"] = 2
        for name in names:
            del record[name]
    read = from_json(Report, json.dumps(data), "report.json")
    assert read == replace(report, benefit=None, landmark_pull=None, engine_notes=())
    # Written anew it has what version 2 had no field for, and says so.
    assert (read.schema_version, read.job.schema_version) == (3, 3)


def test_earlier_results_are_kept_unless_overwritten(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.json").write_text("precious")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="results of an earlier job"):
        workflow.run(job_of(files, out))
    assert (out / "report.json").read_text(encoding="utf-8") == "precious"
    workflow.run(job_of(files, out), overwrite=True)
    assert json.loads((out / "report.json").read_text(encoding="utf-8"))["schema_version"] == 3
    assert (out / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_a_transform_that_leads_far_away_is_not_measured_on_a_grid_that_reaches_there(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = read_inputs(job_of(files, Path("unused")))
    monkeypatch.setattr("HyperPredictRegLib.preprocessing.image_set.available_bytes", lambda: 4e9)
    with pytest.raises(InputError, match="Measuring this transform"):
        measuring_grid(inputs, sitk.TranslationTransform(3, (2000.0, 2000.0, 2000.0)), "fast")


def test_names_of_segments_come_from_the_segmentation_file(files: Path, tmp_path: Path) -> None:
    for side in ("fixed", "moving"):
        labels = sitk.ReadImage(str(files / f"{side}-labels.nrrd"))
        for number, name in enumerate(("Organ", "Tumour", "Oedema")):
            labels.SetMetaData(f"Segment{number}_Name", name)
            labels.SetMetaData(f"Segment{number}_LabelValue", str(number + 1))
        sitk.WriteImage(labels, str(tmp_path / f"{side}.seg.nrrd"))
    job = job_of(files, tmp_path / "out", label_names=None, moving_labels=str(tmp_path / "moving.seg.nrrd"))
    assert read_inputs(job).label_names == {1: "Organ", 2: "Tumour", 3: "Oedema"}


def test_files_that_only_the_earlier_job_made_go_with_it(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    workflow.run(job_of(files, out))
    assert (out / "warped-labels.nrrd").exists()
    plain = job_of(files, out, moving_labels=None, fixed_labels=None)
    workflow.run(plain, overwrite=True)
    assert not (out / "warped-labels.nrrd").exists()


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_an_output_folder_that_cannot_be_made_is_refused(files: Path, tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="output folder"):
        workflow.run(job_of(files, tmp_path / out))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_nothing(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(image: sitk.Image, path: Path) -> None:
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(results_folder, "write_image", full)
    with pytest.raises(InputError, match="No space left on device"):
        workflow.run(job_of(files, tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_that_takes_no_more_is_noticed(files: Path, tmp_path: Path) -> None:
    # A limit on the size of files makes the operating system itself refuse to write on.
    (tmp_path / "job.json").write_text(to_json(job_of(files, tmp_path / "out")))

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    command = [sys.executable, "-m", "HyperPredictRegLib.cli", "register", "--job", str(tmp_path / "job.json"), "--no-page", "-q"]
    done = subprocess.run(command, preexec_fn=limit, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("Error: The disk is full (File too large), so the results could not be written to")
    assert [p.name for p in tmp_path.iterdir()] == ["job.json"]


def test_a_picture_that_fails_costs_only_itself(files: Path, tmp_path: Path) -> None:
    def fail(outcome: Outcome, folder: Path) -> dict[str, str]:
        raise RuntimeError("no canvas")

    def add(outcome: Outcome, folder: Path) -> dict[str, str]:
        (folder / "more.txt").write_text("more")
        return {"more": "more.txt"}

    report = workflow.run(job_of(files, tmp_path / "out"), writers=[fail, add])
    assert any("no canvas" in warning for warning in report.warnings)
    assert report.outputs["more"] == "more.txt"
    assert (tmp_path / "out" / "more.txt").exists()


def test_images_too_large_for_the_memory_are_refused_before_work(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("HyperPredictRegLib.preprocessing.image_set.available_bytes", lambda: 1e8)
    with pytest.raises(InputError, match=r"need about 0\.\d GB of memory, but only 0\.1 GB are free"):
        workflow.run(job_of(files, tmp_path / "out"))


def test_a_stopped_process_leaves_nothing(files: Path, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(to_json(job_of(files, tmp_path / "out", preset="fine", engine="bspline")))
    command = [sys.executable, "-m", "HyperPredictRegLib.cli", "register", "--job", str(tmp_path / "job.json")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8") as process:
        while not list(tmp_path.glob(".out.partial-*")):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        message = process.communicate(timeout=600)[1]
    assert process.returncode == 130, message
    assert "cancelled" in message
    assert [p.name for p in tmp_path.iterdir()] == ["job.json"]
