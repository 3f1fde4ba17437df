"""Outcomes and predictions on the disk: what comes back equals what went, to the last bit, or a sentence says why not."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import FAST, blob_image, blob_labels
from HyperPredictRegLib import workflow
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.json_records import from_json, to_json
from HyperPredictRegLib.engines import engine_settings
from HyperPredictRegLib.engines.base import engine_used
from HyperPredictRegLib.engines.demons import DemonsEngine
from HyperPredictRegLib.results import exchange
from HyperPredictRegLib.results.exchange import (
    prediction_from_json,
    prediction_to_json,
    read_outcome,
    read_prediction,
    write_rest,
)
from HyperPredictRegLib.results.job import Criterion, Job
from HyperPredictRegLib.results.outcome import Outcome
from HyperPredictRegLib.results.prediction import (
    AlignmentUsed,
    Band,
    BandValue,
    Choice,
    Outlook,
    Predicted,
    PredictedStructure,
    Prediction,
    PredictionSurface,
    Reliability,
    StabilityMeasure,
    StructureChoice,
)
from HyperPredictRegLib.results.report import Report
from HyperPredictRegLib.results.results_folder import PREDICTION_NAME, REPORT_NAME, write_files
from HyperPredictRegLib.selection.interpolation import predicted_row
from HyperPredictRegLib.spatial.geometry import Geometry


def surface(structures: int = 2, settings: int = 5, strange: bool = True) -> PredictionSurface:
    random = np.random.default_rng(3)

    def band(*shape: int) -> Band:
        parts = random.normal(size=(3, *shape)) * 10.0 ** random.integers(-300, 300, (3, *shape))
        if strange and parts.size:
            parts[0].flat[0], parts[1].flat[-1], parts[2].flat[0] = math.nan, -math.inf, math.inf
        return Band(*parts)

    names = tuple(f"Struktur {n} 'λ' \"ä\"" for n in range(structures))
    values = np.sort(random.uniform(0.1, 10, (settings, 1)), axis=0)
    bands = {name: band(settings) for name in ("mean_dice", "folding_foreground", "folding_grid", "sd_log_jacobian")}
    labels = tuple(range(1, structures + 1))
    return PredictionSurface(DemonsEngine.info.search_space, values, names, labels, band(structures, settings), **bands)


def prediction(job: Job, curves: PredictionSurface | None = None) -> Prediction:
    third = BandValue(1 / 3, 5e-324, 1.7976931348623157e308)
    at = {"regularization_weight": 0.1 + 0.2}
    unknown = BandValue(math.nan, 0.0, 1.0)
    predicted = Predicted("planted 1", at, third, (PredictedStructure(7, "ä", third),), third, third, unknown)
    engine = DemonsEngine()
    return Prediction(
        job=job,
        engine=engine_used(engine, engine_settings(engine, {})),
        predictor="planted 1",
        bundle_sha256="abc",
        reliability=Reliability("uncertain", ("unusual: λ",)),
        criterion=Criterion(structures={"ä": 0.1}, folding_limit=None),
        choice=Choice(at, "because", predicted=predicted, fixed=at),
        structures=(StructureChoice(3, "ä", at, third, third),),
        surface=surface(strange=False) if curves is None else curves,
        seconds={"align": 1e-7},
        warnings=("w",),
        alignment=AlignmentUsed(
            {"stages": ["affine"]}, "mattes", (), tuple(np.eye(4).ravel().tolist()), 1,
            stability=StabilityMeasure((1, 2), 0.1, 0.2, 1 / 3), parameters=(1 / 3,) * 12, center=(0.1, 0.2, 0.7), doubts=("d",),
        ),
        inputs={"fixed": "00"},
        notes=("n",),
    )  # fmt: skip


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Compare what an outcome or a prediction holds, of whatever kind, bit for bit."""
    assert type(one) is type(other), where
    if isinstance(one, sitk.Image):
        assert one.GetPixelID() == other.GetPixelID(), where
        assert Geometry.of(one) == Geometry.of(other), where
        assert np.array_equal(sitk.GetArrayViewFromImage(one), sitk.GetArrayViewFromImage(other)), where
        keys = set(one.GetMetaDataKeys())
        assert keys == set(other.GetMetaDataKeys()), where
        assert all(one.GetMetaData(key) == other.GetMetaData(key) for key in keys), where
    elif isinstance(one, sitk.Transform):
        points = np.random.default_rng(1).uniform(-120, 120, (300, 3)).tolist()
        assert [one.TransformPoint(p) for p in points] == [other.TransformPoint(p) for p in points], where
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype and one.shape == other.shape, where
        assert np.array_equal(one, other, equal_nan=True), where
    elif isinstance(one, float):
        assert one == other or (math.isnan(one) and math.isnan(other)), where
    elif dataclasses.is_dataclass(one):
        for field in fields(one):
            assert_same(getattr(one, field.name), getattr(other, field.name), f"{where}.{field.name}")
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}[{key}]")
    elif isinstance(one, tuple | list):
        assert len(one) == len(other), where
        for n, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}[{n}]")
    else:
        assert one == other, where


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A pair whose grids lie askew and whose numbers have no short decimal form."""
    folder = tmp_path_factory.mktemp("askew 'ä'")
    angle = np.deg2rad(25)
    about_z = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(0.3), -np.sin(0.3)], [0, np.sin(0.3), np.cos(0.3)]])
    fixed = Geometry((28, 24, 20), (1.5 / 0.7, 2.1, 7 / 3), (12.1, -30.7, 1 / 3), tuple((about_z @ about_x).ravel()))
    moving = Geometry((26, 28, 22), (2.3, 1.9, 2.2), (9.9, -33.3, 0.1), tuple((about_x @ about_z).ravel()))
    for name, grid, deform in (("fixed", fixed, 0.0), ("moving", moving, 0.4)):
        image = blob_image(grid, deform=deform)
        sitk.WriteImage(image if deform else sitk.Cast(image * 5, sitk.sitkInt16), str(folder / f"{name}.nrrd"))
        sitk.WriteImage(blob_labels(image), str(folder / f"{name}-labels.nrrd"))
    (folder / "names.csv").write_text("label,name\n1,Körper\n2,bright\n3,dark\n", encoding="utf-8")
    return Job(
        fixed=str(folder / "fixed.nrrd"),
        moving=str(folder / "moving.nrrd"),
        out=str(folder / "results"),
        fixed_labels=str(folder / "fixed-labels.nrrd"),
        moving_labels=str(folder / "moving-labels.nrrd"),
        label_names=str(folder / "names.csv"),
        predictor="none",
        alignment=FAST,
        reproducible=True,
    )


def run(job: Job) -> tuple[Outcome, Path]:
    """Do a job with `write_rest`; return what it had in memory, with the final report, and the folder."""
    retained: list[Outcome] = []

    def keep(outcome: Outcome, folder: Path) -> dict[str, str]:
        retained.append(outcome)
        return {}

    report = workflow.run(job, writers=[write_rest, keep])
    return replace(retained[0], report=report), Path(job.out)


@pytest.fixture(scope="module")
def done(job: Job) -> tuple[Outcome, Path]:
    return run(job)


def test_an_outcome_comes_back_to_the_last_bit(done: tuple[Outcome, Path]) -> None:
    outcome, folder = done
    assert outcome.warped_labels is not None and outcome.label_names[1] == "Körper"
    assert_same(read_outcome(folder), outcome)


def test_what_was_not_there_stays_away(job: Job) -> None:
    bare = replace(job, fixed_labels=None, moving_labels=None, label_names=None, out=job.out + "-bare")
    outcome, folder = run(bare)
    back = read_outcome(folder)
    assert (back.fixed_labels, back.moving_labels, back.warped_labels, back.prediction) == (None,) * 4
    assert_same(back, outcome)


@pytest.mark.parametrize("structures", [0, 1, 3])
def test_curves_and_numbers_that_json_has_no_word_for_come_back(
    done: tuple[Outcome, Path], tmp_path: Path, structures: int
) -> None:
    measured = replace(done[0].report.measured, sd_log_jacobian=math.nan, jacobian_maximum=math.inf)
    report = replace(done[0].report, measured=measured, outputs={})
    outcome = replace(done[0], report=report, prediction=prediction(done[0].report.job, surface(structures)))
    final = write_files(outcome, tmp_path, [write_rest])
    assert_same(read_outcome(tmp_path), replace(outcome, report=final))


def test_what_later_writers_add_is_in_the_report_that_comes_back(done: tuple[Outcome, Path], tmp_path: Path) -> None:
    def later(outcome: Outcome, folder: Path) -> dict[str, str]:
        return {"report_page": "report.html"}

    def broken(outcome: Outcome, folder: Path) -> dict[str, str]:
        raise ValueError("no")

    report = write_files(done[0], tmp_path, [write_rest, later, broken])
    back = read_outcome(tmp_path).report
    assert back == report
    assert back.outputs["report_page"] == "report.html" and back.seconds["write"] > 0 and "no" in back.warnings[-1]


def test_no_name_is_taken_by_another_result(done: tuple[Outcome, Path]) -> None:
    outputs = done[0].report.outputs
    assert len(set(outputs.values())) == len(outputs)
    assert {path.name for path in done[1].iterdir()} == {*outputs.values(), REPORT_NAME}


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (exchange.STATE_NAME, None, "holds no 'working-state.json'"),
        (exchange.STATE_NAME, b"{", "not valid JSON"),
        (exchange.STATE_NAME, b"[]", "should be an object"),
        (exchange.STATE_NAME, b"{}", "lacks the field 'report'"),
        (exchange.STATE_NAME, b'{"schema_version": 1}', "has schema version 1, but this program reads versions 2 to 3"),
        (exchange.STATE_NAME, b"\xff\xfe", "no UTF-8 text"),
        (REPORT_NAME, None, "holds no 'report.json'"),
        (REPORT_NAME, b'{"outputs": 3}', "should be an object"),
        ("warped.nrrd", None, "lack the file of 'warped'"),
        ("jacobian.nrrd", b"NRRD0005\n", "is damaged"),
        ("moving-aligned.nrrd", b"", "is damaged"),
        ("transform.h5", b"nothing", "could not be read"),
    ],
)  # fmt: skip
def test_damage_is_told_in_a_sentence(
    done: tuple[Outcome, Path], tmp_path: Path, name: str, damage: bytes | None, message: str
) -> None:
    for path in done[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert_same(read_outcome(tmp_path), done[0])
    if damage is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(damage)
    with pytest.raises(InputError, match=message):
        read_outcome(tmp_path)


def test_a_label_of_the_state_that_is_no_number_is_told(done: tuple[Outcome, Path], tmp_path: Path) -> None:
    for path in done[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    state = tmp_path / exchange.STATE_NAME
    text = state.read_text(encoding="utf-8").replace('"label_names": {', '"label_names": {"first": "x", ')
    state.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="has a label that is no number"):
        read_outcome(tmp_path)


@pytest.mark.parametrize(
    ("part", "put", "message"),
    [
        ('"structures": [', '"structures": ["\\ud800", ', "half a character"),
        ('"labels": [', f'"labels": [1{"0" * 350}, ', "is damaged"),
        ('"labels": [', '"labels": [Infinity, ', "should be of type int"),
        ('"values": [', f'"values": [[1{"0" * 350}], ', "should be a list of numbers"),
        ('"lower": [', '"lower": [{"a": [1]}, ', "should be a list of numbers"),
        ('"schema_version": 3', '"schema_version": 3, "schema_version": 3', "twice"),
        ('"level": "uncertain"', '"level": "red"', "There is no reliability 'red'"),
        ('"schema_version": 3', '"schema_version": 1', "schema version 1, but this program reads versions 2 to 3"),
    ],
)
def test_a_prediction_with_a_damaged_part_is_told_in_a_sentence(job: Job, part: str, put: str, message: str) -> None:
    text = prediction_to_json(prediction(job))
    assert part in text
    with pytest.raises(InputError, match=message):
        prediction_from_json(text.replace(part, put), "the prediction in the scene")


def test_a_report_with_numbers_that_json_has_no_word_for_is_read_again(done: tuple[Outcome, Path]) -> None:
    measured = replace(done[0].report.measured, sd_log_jacobian=math.nan, jacobian_maximum=math.inf)
    report = replace(done[0].report, measured=measured)
    back = from_json(Report, to_json(report), "The report", any_number=True)
    assert_same(back, replace(report, measured=replace(measured, jacobian_maximum=math.nan)))
    with pytest.raises(InputError, match="sd_log_jacobian should be a number"):
        from_json(Report, to_json(report), "The report")


def test_half_a_volume_is_no_volume(done: tuple[Outcome, Path], tmp_path: Path) -> None:
    for path in done[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    path = tmp_path / "fixed-on-grid.nrrd"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="is damaged"):
        read_outcome(tmp_path)


def test_an_input_that_changed_since_is_refused(job: Job) -> None:
    copy = Path(job.fixed).with_name("copy.nrrd")
    copy.write_bytes(Path(job.fixed).read_bytes())
    _, folder = run(replace(job, fixed=str(copy), out=job.out + "-copy"))
    sitk.WriteImage(sitk.ReadImage(str(copy)) + 1, str(copy))
    with pytest.raises(InputError, match="has changed since"):
        read_outcome(folder)
    copy.unlink()
    with pytest.raises(InputError, match="no longer there"):
        read_outcome(folder)


def test_a_report_cannot_lead_outside_of_its_folder(done: tuple[Outcome, Path], tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    for path in done[1].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "warped.nrrd").rename(tmp_path / "warped.nrrd")
    report = json.loads((folder / REPORT_NAME).read_text(encoding="utf-8"))
    report["outputs"]["warped"] = "../warped.nrrd"
    (folder / REPORT_NAME).write_text(json.dumps(report), encoding="utf-8")
    with pytest.raises(InputError, match="lack the file of 'warped'"):
        read_outcome(folder)


def test_a_full_disk_is_noticed(done: tuple[Outcome, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(image: sitk.Image, name: str, useCompression: bool) -> None:  # noqa: N803 - SimpleITK's name
        Path(name).write_bytes(b"NRRD0005\n")

    monkeypatch.setattr(sitk, "WriteImage", short)
    with pytest.raises(OSError, match="is the disk full"):
        write_rest(done[0], tmp_path)


def test_a_prediction_comes_back_exactly(job: Job, tmp_path: Path) -> None:
    made = prediction(job)
    assert_same(prediction_from_json(prediction_to_json(made), "it"), made)
    assert exchange.save_prediction(made, tmp_path) == {"prediction": PREDICTION_NAME}
    assert_same(read_prediction(tmp_path / PREDICTION_NAME), made)


def test_a_prediction_of_errors_without_dice_comes_back_exactly(job: Job) -> None:
    third = BandValue(1 / 3, 0.1, 0.7)
    plain = surface(strange=False)
    curves = replace(surface(0, strange=False), mean_dice=None, error_mm=plain.mean_dice, error_95_mm=plain.folding_grid)
    outlook = Outlook(0.1 + 0.2, None, third, third, "bootstrap")
    curves = replace(curves, voxel_mm=1 / 7, overlap_gain=plain.folding_grid)
    made = replace(prediction(job, curves), structures=(), outlook=outlook, further="other 2")
    made = replace(made, choice=replace(made.choice, by="bootstrap", predicted=predicted_row(made.surface, 1, "bootstrap")))
    assert made.choice.predicted is not None and made.choice.predicted.mean_dice is None
    assert_same(prediction_from_json(prediction_to_json(made), "it"), made)


def test_a_prediction_written_before_errors_were_predicted_still_reads(job: Job) -> None:
    made = prediction(job)
    data = json.loads(prediction_to_json(made))
    for newer in ("error_mm", "error_95_mm", "voxel_mm", "overlap_gain"):
        del data["surface"][newer]
    for newer in ("error_mm", "error_95_mm", "overlap_gain"):
        del data["choice"]["predicted"][newer]
    for of in (data, data["job"]):
        del of["criterion"]["goal"]
    del data["outlook"], data["further"]
    assert_same(prediction_from_json(json.dumps(data), "it"), made)


def test_an_outlook_that_cannot_be_is_told_in_a_sentence(job: Job) -> None:
    data = json.loads(prediction_to_json(replace(prediction(job), outlook=Outlook(0.5, 0.5))))
    for wrong in ({"failed": 1.5}, {"source": "tea leaves"}):
        with pytest.raises(InputError, match=r"node\.outlook is damaged"):
            prediction_from_json(json.dumps({**data, "outlook": {**data["outlook"], **wrong}}), "the node")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "The node 'ä' is not valid JSON"),
        ("3", "The node 'ä' should be an object"),
        ('{"schema_version": 99}', "The node 'ä' has schema version 99, but this program reads versions 2 to 3"),
        ('{"schema_version": 1, "prediction": {}, "curves": {}}', "The node 'ä' has schema version 1"),
        ('{"schema_version": 3}', "lacks the field 'job'"),
    ],
)
def test_a_damaged_prediction_is_told_in_a_sentence(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        prediction_from_json(text, "the node 'ä'")


@pytest.mark.parametrize("part", ["space", "values", "labels", "structures", "dice", "mean_dice"])
def test_damaged_curves_are_told_in_a_sentence(job: Job, part: str) -> None:
    data = json.loads(prediction_to_json(prediction(job)))
    for damage in (None, [], "x"):
        if damage is None:
            del data["surface"][part]
        else:
            data["surface"][part] = damage
        with pytest.raises(InputError, match=f"node.surface(.{part} should be| lacks the field '{part}'| is damaged)"):
            prediction_from_json(json.dumps(data), "the node")
