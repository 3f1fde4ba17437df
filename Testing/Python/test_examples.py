"""The examples for Slicer, run as they stand on the stand-in for Slicer."""

from __future__ import annotations

import importlib.util
import json
import re
import runpy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import SimpleITK as sitk
from HyperPredictRegLib.workflow import sample

pytest.importorskip("slicer", reason="slicer-core is not installed (pip install '.[slicer]')")
pytest.importorskip("PySide6.QtWidgets", reason="PySide6, or a library that it needs, is missing", exc_type=ImportError)

TOP = Path(__file__).resolve().parents[2]
EXAMPLES = TOP / "examples"


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


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
    assert names_in(results / "a") == {"transform.h5", "warped.nrrd", "report.json"}
    assert names_in(results) == {"a", "cases.jsonl"}
    assert not host.complaints()

    # As if the machine had gone down in the middle of a letter.
    with (results / "cases.jsonl").open("ab") as stream:
        stream.write('{"case": "ä'.encode()[:-1])
    before = (results / "a" / "report.json").stat().st_mtime_ns
    shutil.copy(files / "moving.nrrd", cases / "b" / "moving.nrrd")
    assert batch.noted(results / "cases.jsonl").keys() == {"a", "b"}
    assert batch.main(cases, results) == 0
    assert (results / "b" / "report.json").is_file()
    assert (results / "a" / "report.json").stat().st_mtime_ns == before
    assert batch.noted(results / "cases.jsonl")["b"]["done"]

    # Without the journal, reports tell what is done.
    (results / "cases.jsonl").unlink()
    assert batch.main(cases, results) == 0
    assert (results / "a" / "report.json").stat().st_mtime_ns == before
    again = {**first, "seconds": notes(results)[0]["seconds"]}
    assert notes(results)[0] == again


@pytest.mark.parametrize("line", [b'{"case": "\xc3', b"3", b"null", b'{"done": true}', b'{"case": ["a"]}', b"\x00\x00", b""])
def test_a_damaged_note_does_not_count(batch: ModuleType, tmp_path: Path, line: bytes) -> None:
    journal = tmp_path / "cases.jsonl"
    # U+2028 ends a line for Python's own splitlines, but not in a file of lines.
    good = {"case": "ä", "done": False, "error": "one\u2028two"}
    journal.write_bytes(json.dumps(good, ensure_ascii=False).encode() + b"\n" + line + b"\n")
    assert batch.noted(journal) == {"ä": good}


@pytest.mark.parametrize(
    "results",
    ["cases", "cases/a", "cases/results", ".", "link", "link/results", "cases/../cases", "cases/a/fixed.nrrd", "gone/../cases"],
)
def test_results_beside_the_cases_only(
    batch: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], results: str
) -> None:
    cases = tmp_path / "cases"
    (cases / "a").mkdir(parents=True)
    (cases / "a" / "fixed.nrrd").touch()
    (tmp_path / "link").symlink_to(cases)
    before = sorted(tmp_path.rglob("*"))
    assert batch.command([str(cases), str(tmp_path / results)]) == 2
    assert "choose another" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_folders_that_cannot_be_used_end_it_with_exit_code_2(
    batch: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert batch.command([str(tmp_path)]) == 2
    assert "CASES RESULTS" in capsys.readouterr().out
    assert batch.command([str(tmp_path / "gone"), str(tmp_path / "results")]) == 2
    assert "There is no folder" in capsys.readouterr().err
    (tmp_path / "cases").mkdir()
    (tmp_path / "file").touch()
    assert batch.command([str(tmp_path / "cases"), str(tmp_path / "file")]) == 2
    assert "Results cannot be written to" in capsys.readouterr().err
    assert batch.command([str(tmp_path / "cases"), str(tmp_path / "results")]) == 0


@pytest.mark.parametrize("content", [None, "not a report", "{}"])
def test_what_lies_in_the_way_is_left_alone(
    batch: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    monkeypatch.syspath_prepend(str(TOP / "HyperPredictReg"))
    cases, results = tmp_path / "cases", tmp_path / "results"
    for folder in (cases / "a", cases / "linked", results / "a", results / "a.partial"):
        folder.mkdir(parents=True)
    for folder in (cases / "a", cases / "linked", results / "a", results / "a.partial"):
        (folder / "notes.txt").write_text("mine", encoding="utf-8")
    (results / "linked").symlink_to(cases / "linked")
    if content is not None:
        (results / "a" / "report.json").write_text(content, encoding="utf-8")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert batch.main(cases, results) == 2
    assert all("is there already" in note["error"] and "move it away" in note["error"] for note in notes(results))
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {path: after[path] for path in before} == before
    assert after.keys() - before.keys() == {results / "cases.jsonl"}


def test_a_case_that_cannot_be_written_leaves_nothing(
    host: Any, batch: ModuleType, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, results = tmp_path / "cases" / "a", tmp_path / "results"
    case.mkdir(parents=True)
    for name in ("fixed.nrrd", "moving.nrrd"):
        shutil.copy(files / name, case / name)
    monkeypatch.setattr(batch.slicer.util, "saveNode", lambda _node, _file: False)
    assert batch.main(tmp_path / "cases", results) == 1
    assert "could not be written" in notes(results)[0]["error"]
    assert names_in(results) == {"cases.jsonl"}


def test_slicer_ends_whatever_happens(batch: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ended: list[int] = []
    monkeypatch.setattr(batch.slicer, "util", SimpleNamespace(exit=ended.append), raising=False)
    script = str(EXAMPLES / "slicer_folder_of_cases.py")
    monkeypatch.setattr(sys, "argv", [script, str(tmp_path), str(tmp_path)])
    runpy.run_path(script, run_name="__main__")

    def refused(_folder: Path) -> Iterator[Path]:
        raise PermissionError

    (tmp_path / "cases").mkdir()
    monkeypatch.setattr(sys, "argv", [script, str(tmp_path / "cases"), str(tmp_path / "results")])
    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(PermissionError):
        runpy.run_path(script, run_name="__main__")
    assert ended == [2, 1]


def test_the_page_on_scripting_tells_sets_of_choices_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOP / "Testing"))
    text = (TOP / "docs" / "scripting.md").read_text(encoding="utf-8")
    shown = re.findall(r"`(slicer\.util\.getModuleWidget\S+)`", text)
    assert len(shown) == 1
    with importlib.import_module("panel_samples").opened() as (running, panel):
        slicer = importlib.import_module("slicer")
        monkeypatch.setattr(slicer.util, "getModuleWidget", {"HyperPredictReg": panel.widget}.__getitem__, raising=False)
        logic = panel.logic
        first = logic.getParameterNode().parameterNode
        second = slicer.mrmlScene.AddNode(logic.createParameterNode())
        panel.ui.parameterSetSelector.setCurrentNode(second)
        running.let_qt_work()
        assert panel.widget._parameterNode.parameterNode is second
        assert logic.getParameterNode().parameterNode is first
        assert "`logic.getParameterNode()` | the first set" in text
        assert logic.parametersOf(eval(shown[0])).parameterNode is second
        assert set(logic.getAllParameterNodes()) == {first, second}


def test_modules_that_pages_run_can_be_run() -> None:
    pages = [TOP / "README.md", *(TOP / "docs").glob("*.md")]
    named = {name for page in pages for name in re.findall(r"-m (HyperPredictReg[\w.]+\w)", page.read_text(encoding="utf-8"))}
    assert len(named) >= 2
    for name in named:
        spec = importlib.util.find_spec(name)
        assert spec is not None, name
        main = importlib.util.find_spec(f"{name}.__main__") if spec.submodule_search_locations else spec
        assert main is not None and "__name__ == \"__main__\"" in Path(str(main.origin)).read_text(encoding="utf-8"), name


@pytest.mark.slow
def test_the_lines_for_the_console_run(
    host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The sample pair at 4 mm instead of 1 mm: what is printed is the same.
    for file in sample._folder().glob("*.nrrd"):
        sitk.WriteImage(sitk.Shrink(sitk.ReadImage(str(file)), [4, 4, 4]), str(tmp_path / file.name))
    monkeypatch.setattr(sample, "_folder", lambda: tmp_path)
    monkeypatch.setattr(sample, "_MOVING_SPACING_MM", 4.0)
    runpy.run_path(str(EXAMPLES / "slicer_console.py"))
    message = capsys.readouterr().out
    assert message.startswith(("reliable: λ = ", "uncertain: λ = "))
    assert "left cerebral white matter: Dice" in message
    assert "% folded" in message
    assert "Tip in BrainFixed space" in message
    assert not host.complaints()
