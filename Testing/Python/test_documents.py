"""The documents: no link or picture of ours leads nowhere, and what they call by name exists."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from HyperPredictRegLib import workflow
from HyperPredictRegLib.results.job import Job
from HyperPredictRegLib.results.prediction import BandValue, Predicted, Reliability
from HyperPredictRegLib.results.report import Report

TOP = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*TOP.glob("*.md"), *(TOP / "docs").glob("*.md")])
PATH_IN_TEXT = re.compile(r"`((?:Testing|HyperPredictReg|docs|examples|benchmarks|Resources)/[\w./-]+\.\w+)`")


@cache
def anchors(file: Path) -> frozenset[str]:
    """Return the anchors that GitHub gives to the headings of a document."""
    text = re.sub(r"^```.*?^```", "", file.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings)


def dead_links(file: Path, text: str) -> list[str]:
    """List the links, pictures and paths in a document's text that lead nowhere."""
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (file.parent / name).resolve() if name else file
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            dead.append(target)
    return dead + [name for name in PATH_IN_TEXT.findall(text) if not (TOP / name).exists()]


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.relative_to(TOP).as_posix())
def test_links_lead_somewhere(file: Path) -> None:
    assert not dead_links(file, file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", ["[a](gone.md)", "![a](Resources/gone.png)", "[a](README.md#gone)", "see `docs/gone.md`"])
def test_dead_links_are_found(text: str) -> None:
    assert dead_links(TOP / "README.md", text)


def test_every_step_of_the_tutorial_has_a_picture() -> None:
    text = (TOP / "docs" / "tutorial.md").read_text(encoding="utf-8")
    steps = re.split(r"^## (?=\d\. )", text, flags=re.MULTILINE)[1:]
    assert len(steps) >= 6
    assert not [step.splitlines()[0] for step in steps if "![" not in step]


@pytest.mark.parametrize("heading", ["Modules", "Installation", "Tutorial", "How to cite", "Safety and privacy"])
def test_the_readme_has_what_the_index_asks_for(heading: str) -> None:
    assert f"\n## {heading}\n" in (TOP / "README.md").read_text(encoding="utf-8")


def test_buttons_that_the_tutorial_names_are_in_the_panel() -> None:
    text = (TOP / "docs" / "tutorial.md").read_text(encoding="utf-8")
    ui = TOP / "HyperPredictReg" / "Resources" / "UI" / "HyperPredictReg.ui"
    panel = ui.read_text(encoding="utf-8").replace("&amp;", "")
    named = "Suggest λ", "Register", "Apply transform", "Report page", "Selection criterion", "Deformed grid"
    for words in named:
        assert words in text
        assert f"<string>{words}</string>" in panel, f"the panel has no '{words}' any more"


def snippets(name: str) -> list[str]:
    """Return the pieces of Python in a document that register files."""
    pieces = re.findall(r"^```python\n(.*?)^```", (TOP / name).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [piece for piece in pieces if "workflow import run" in piece]


@pytest.mark.parametrize("level", [None, "unreliable", "reliable"])
@pytest.mark.parametrize("name", ["README.md", "docs/scripting.md"])
def test_pieces_of_python_run_whatever_was_predicted(
    name: str,
    level: str | None,
    finished: tuple[Report, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    band = BandValue(0.5, 0.4, 0.6)
    predicted = Predicted("demons-fast 1", {"regularization_weight": 0.7}, band, (), band, band, band)
    report = replace(
        finished[0],
        choice=replace(finished[0].choice, predicted=predicted if level == "reliable" else None),
        reliability=None if level is None else Reliability(level),
    )
    jobs: list[Job] = []

    def run(job: Job) -> Report:
        jobs.append(job)
        return report

    monkeypatch.setattr(workflow, "run", run)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert snippets(name)
    for piece in snippets(name):
        exec(compile(piece, name, "exec"), {})
    assert all(job.fixed == "fixed.nrrd" for job in jobs)
    assert report.choice.sentence in capsys.readouterr().out


@cache
def github_workflow() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    return yaml.safe_load((TOP / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))


def test_shell_in_the_github_workflow_is_sound() -> None:
    if shutil.which("bash") is None:
        pytest.skip("bash is not here")
    # Unless it is named, it runs without "pipefail".
    assert github_workflow()["defaults"]["run"]["shell"] == "bash"
    for job in github_workflow()["jobs"].values():
        for step in job["steps"]:
            subprocess.run(["bash", "-n"], input=step.get("run", ""), encoding="utf-8", check=True)


def test_slicer_is_saved_before_anything_is_installed_into_it() -> None:
    steps = github_workflow()["jobs"]["slicer"]["steps"]
    assert not [step for step in steps if step.get("uses", "").startswith("actions/cache@")], "it saves when all is over"
    saved = [number for number, step in enumerate(steps) if step.get("uses", "").startswith("actions/cache/save@")]
    used = [number for number, step in enumerate(steps) if re.search(r"slicer/(Slicer|bin)", step.get("run", ""))]
    assert len(saved) == 1
    assert len(used) == 3
    assert saved[0] < used[0]


@pytest.mark.parametrize("known", [None, "0" * 128])
def test_slicer_is_found_with_and_without_a_checksum(known: str | None, tmp_path: Path) -> None:
    if shutil.which("jq") is None or shutil.which("bash") is None:
        pytest.skip("jq or bash is not here")
    find, download = (
        next(step["run"] for step in github_workflow()["jobs"]["slicer"]["steps"] if step.get("name", "").startswith(name))
        for name in ("Find the newest", "Download Slicer")
    )
    record = {"version": "5.12.0", "revision": "1", "download_url": "/bitstream/1", "sha512": known}
    (tmp_path / "slicer.json").write_text(json.dumps(record), encoding="utf-8")
    (tmp_path / "slicer.tar.gz").touch()
    # All but the download itself and the unpacking.
    script = f"curl() {{ :; }}\nmkdir() {{ :; }}\ntar() {{ echo unpacked; }}\n{find}\n. $GITHUB_OUTPUT\n"
    script += f"SHA512=$sha512 URL=$url\n{download}"
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script], capture_output=True, encoding="utf-8", check=False,
        env={"RUNNER_TEMP": str(tmp_path), "GITHUB_OUTPUT": str(tmp_path / "output"), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert "url=/bitstream/1" in done.stdout
    assert ("unpacked" in done.stdout, done.returncode == 0) == (known is None, known is None), done.stderr
