"""The examples for Slicer, run as they stand on the stand-in for Slicer."""

from __future__ import annotations

import importlib.util
import json
import runpy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed (pip install '.[slicer]')")
pytest.importorskip("PySide6.QtWidgets", reason="PySide6, or a library that it needs, is missing", exc_type=ImportError)

TOP = Path(__file__).resolve().parents[2]
EXAMPLES = TOP / "examples"


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(TOP / "Testing"))
    monkeypatch.syspath_prepend(str(TOP / "HyperPredictReg"))
    slicerhost = importlib.import_module("slicerhost")
    with slicerhost.start(testing=True) as running:
        running.app.has_main_window = False
        # Slicer tells the kind of file by the node's class; the stand-in tells it by the file's name alone.
        kinds = type(running.app.coreIOManager())
        monkeypatch.setattr(kinds, "fileWriterFileType", lambda _manager, node: f"{node.GetNodeTagName()}File", raising=False)
        yield running
    sys.modules.pop("HyperPredictReg", None)


@pytest.fixture
def batch() -> ModuleType:
    spec = importlib.util.spec_from_file_location("slicer_folder_of_cases", EXAMPLES / "slicer_folder_of_cases.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.OPTIONS = {"alignment": {"multi_start": False}, "predictor": "none"}  # type: ignore[attr-defined]
    return module


def notes(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (results / "cases.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_folder_of_cases_is_registered_and_taken_up_again(
    host: Any, batch: ModuleType, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases, results = tmp_path / "cases", tmp_path / "results"
    for name in ("a", "b"):
        (cases / name).mkdir(parents=True)
        shutil.copy(files / "fixed.nrrd", cases / name / "fixed.nrrd")
    shutil.copy(files / "moving.nrrd", cases / "a" / "moving.nrrd")

    assert batch.main(cases, results) == 1
    first, second = notes(results)
    assert (first["case"], first["done"]) == ("a", True)
    assert first["folding_percent"] <= 0.5
    assert (second["case"], second["done"]) == ("b", False)
    assert "no volume called 'moving'" in second["error"]
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")] == [first, second]
    assert {file.name for file in (results / "a").iterdir()} == {"transform.h5", "warped.nrrd", "report.json"}
    assert not (results / "b").exists()
    assert not host.complaints()

    # As if the machine had gone down in the middle of a line.
    with (results / "cases.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"case": "b", "do')
    before = (results / "a" / "report.json").stat().st_mtime_ns
    shutil.copy(files / "moving.nrrd", cases / "b" / "moving.nrrd")
    assert batch.noted(results / "cases.jsonl").keys() == {"a", "b"}
    assert batch.main(cases, results) == 0
    assert (results / "b" / "report.json").is_file()
    assert (results / "a" / "report.json").stat().st_mtime_ns == before
    assert batch.noted(results / "cases.jsonl")["b"]["done"]


@pytest.mark.slow
def test_the_lines_for_the_console_run(host: Any, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "slicer_console.py"))
    said = capsys.readouterr().out
    assert "light." in said
    assert "grey matter: Dice" in said
    assert "% folded" in said
    assert not host.complaints()
