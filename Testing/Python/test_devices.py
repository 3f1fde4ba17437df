"""Which device a job asks for, and what is said of the one that computed: plan, report, page, command and panel."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from command_samples import Command
from conftest import job_of
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.json_records import from_json, to_json
from HyperPredictRegLib.engines import engine_infos, get_engine, tensor_fields
from HyperPredictRegLib.engines.base import settings_hash
from HyperPredictRegLib.results.job import DEVICES, Job
from HyperPredictRegLib.results.report import Report
from HyperPredictRegLib.workflow import run
from HyperPredictRegLib.workflow.planning import Plan
from reporting_samples import check_page, make_outcome, render, with_report

ABLE = next(info.name for info in engine_infos() if "cuda" in info.devices)
UNABLE = next(info.name for info in engine_infos() if "cuda" not in info.devices)
OR_ABLE = "".join(f", or the engine '{info.name}'" for info in engine_infos() if "cuda" in info.devices)
GIVEN = {"engine": ABLE, "setting": {"regularization_weight": 0.5}, "engine_settings": {"iterations": [6]}}


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let torch's CPU device stand in for a graphics card."""
    opened = tensor_fields.opened
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(tensor_fields, "opened", lambda device: opened("cpu"))
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def on_cpu(files: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    out = tmp_path_factory.mktemp("devices") / "cpu"
    return run(job_of(files, out, **GIVEN)), out


def warped(folder: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "warped.nrrd")))


def test_every_engine_names_known_devices_and_the_cpu_first() -> None:
    for info in engine_infos():
        assert info.devices[0] == "cpu"
        assert set(info.devices) <= set(DEVICES)


def test_a_job_computes_on_the_cpu_unless_it_says_otherwise() -> None:
    job = Job("f", "m", "o")
    assert job.device == "cpu"
    old = json.loads(to_json(job))
    del old["device"]
    assert from_json(Job, json.dumps(old), "the job") == job
    assert from_json(Job, to_json(replace(job, device="cuda")), "the job").device == "cuda"


@pytest.mark.parametrize(
    ("engine", "device", "sentence"),
    [
        (UNABLE, "cuda", f"The engine '{UNABLE}' does not compute on the device 'cuda': choose cpu{OR_ABLE}."),
        (ABLE, "gpu", "There is no device 'gpu': choose one of cpu, cuda."),
        (ABLE, "", "There is no device '': choose one of cpu, cuda."),
    ],
)
def test_devices_that_are_no_use_are_refused_before_any_work(engine: str, device: str, sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        Plan.of(Job("f", "m", "o", engine=engine, device=device))
    assert str(refused.value) == sentence


def test_where_it_is_computed_is_no_setting_of_an_engine() -> None:
    engine = get_engine(ABLE)
    plans = [Plan.of(Job("f", "m", "o", engine=ABLE, device=device)) for device in DEVICES]
    assert len({settings_hash(engine, plan.engine_settings) for plan in plans}) == 1


@pytest.mark.usefixtures("card")
def test_the_report_says_what_computed(files: Path, tmp_path: Path, on_cpu: tuple[Report, Path]) -> None:
    report, folder = on_cpu
    assert (report.device, report.job.device) == ("cpu", "cpu")
    assert "torch" not in report.versions
    found = run(job_of(files, tmp_path / "card", **GIVEN, device="cuda"))
    assert (found.device, found.job.device) == ("cuda", "cuda")
    assert found.versions["torch"] == torch.__version__
    assert found.warnings == report.warnings
    assert found.measured.dice is not None and report.measured.dice is not None
    assert found.measured.dice.mean == pytest.approx(report.measured.dice.mean, abs=1e-4)
    assert np.abs(warped(tmp_path / "card").astype(float) - warped(folder)).mean() < 0.05


def test_without_a_card_the_job_is_done_all_the_same(
    files: Path, tmp_path: Path, on_cpu: tuple[Report, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_fields.torch.cuda, "is_available", lambda: False)
    found = run(job_of(files, tmp_path / "out", **GIVEN, device="cuda"))
    assert (found.device, found.job.device) == ("cpu", "cuda")
    (warning,) = set(found.warnings) - set(on_cpu[0].warnings)
    assert warning.startswith("The device 'cuda' could not be used (")
    assert found.measured == on_cpu[0].measured
    np.testing.assert_array_equal(warped(tmp_path / "out"), warped(on_cpu[1]))


def test_the_page_says_what_computed() -> None:
    outcome = make_outcome()
    check_page(render(outcome), ("Device cpu Time",))
    asked = with_report(outcome, job=replace(outcome.report.job, device="cuda"))
    check_page(render(asked), ("Device cpu, because cuda could not be used (see the warnings) Time",))
    check_page(render(with_report(asked, device="cuda")), ("Device cuda Time",))


def test_the_command_passes_the_device_on(command: Command, files: Path, tmp_path: Path) -> None:
    words = ("register", files / "fixed.nrrd", files / "moving.nrrd", "--out", tmp_path / "out", "--device", "cuda")
    refused = command(*words, "--engine", UNABLE)
    assert refused.returncode == 2
    assert f"The engine '{UNABLE}' does not compute on the device 'cuda'" in refused.stderr
    assert not (tmp_path / "out").exists()
    quick = ("--set-alignment", "multi_start=false", "--set-engine", "iterations=[3]", "--no-page", "--json")
    done = command(*words, "--engine", ABLE, "--weight", "0.5", *quick)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["job"]["device"] == "cuda"
    told = [warning for warning in report["warnings"] if "device 'cuda'" in warning]
    assert (report["device"], len(told)) in (("cpu", 1), ("cuda", 0))


def test_the_panel_offers_devices_where_there_is_a_choice(opened_panel: tuple[Any, Any]) -> None:
    pytest.importorskip("slicer", reason="slicer-core is not installed")
    from panel_samples import choose_pair

    host, panel = opened_panel
    choose_pair(host, panel)
    ui, parameters = panel.ui, panel.widget._parameterNode
    ui.advancedCollapsibleButton.collapsed = False
    engines = [info.name for info in engine_infos()]
    request_of = sys.modules["HyperPredictRegLib.panel.parameters"].request_of
    widgets = (ui.deviceComboBox, ui.deviceComboBoxLabel)

    def device_asked_for() -> str:
        return str(request_of(parameters, panel.widget.panel.view).options["device"])

    ui.engineComboBox.setCurrentIndex(engines.index(ABLE))
    host.let_qt_work()
    assert all(widget.visible for widget in widgets)
    assert device_asked_for() == "cpu"
    ui.deviceComboBox.setCurrentIndex(1)
    host.let_qt_work()
    assert parameters.device.value == "cuda"
    assert device_asked_for() == "cuda"
    assert "device" not in request_of(parameters).options
    ui.engineComboBox.setCurrentIndex(engines.index(UNABLE))
    host.let_qt_work()
    assert not any(widget.visible for widget in widgets)
    assert device_asked_for() == "cpu"
