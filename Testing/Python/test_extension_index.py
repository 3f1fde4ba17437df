"""What goes to Slicer's Extensions Index and runs on GitHub: the entry, the checklist's evidence, the workflow, the self-test."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).resolve().parents[2]
ENTRY = TOP / "docs" / "HyperPredictReg.json"
CHECKLIST = TOP / "docs" / "extension-index.md"

# slicer-extension-catalog-entry-schema-v1.0.2.json: these keys and no others, the first three required.
SCHEMA = "https://raw.githubusercontent.com/Slicer/Slicer/main/Schemas/slicer-extension-catalog-entry-schema-v1.0.2.json#"
TYPES = {
    "$schema": str, "category": str, "scm_url": str, "scm_revision": str, "scm_type": str, "build_dependencies": list,
    "dicom_support_rule": str, "build_subdirectory": str, "enabled": bool, "tier": int,
}  # fmt: skip
REQUIRED = ("$schema", "category", "scm_url")


def broken_rules(entry: dict[str, Any]) -> list[str]:
    """List what the index's own checks would refuse in an entry."""
    wrong = [f"{key} is missing" for key in REQUIRED if key not in entry]
    wrong += [f"{key} is not in the schema" for key in entry if key not in TYPES]
    wrong += [f"{key} is no {kind.__name__}" for key, kind in TYPES.items() if not isinstance(entry.get(key, kind()), kind)]
    if wrong:
        return wrong
    if not all(isinstance(name, str) for name in entry.get("build_dependencies", [])):
        wrong.append("build_dependencies holds something that is no name")
    if not 1 <= entry.get("tier", 1) <= 5:
        wrong.append("tier is not from 1 to 5")
    if not re.fullmatch(r"https://github\.com/[\w-]+/Slicer[\w-]*?(\.git)?", entry.get("scm_url", "")):
        wrong.append("scm_url is not https, or the repository's name does not start with Slicer")
    return wrong


def cmake_variable(name: str) -> str:
    """Return a variable of the top CMakeLists.txt as the index's pattern finds it."""
    match = re.search(rf'set\s*\({name}\s*"([^"]+)"[ ]*\)', (TOP / "CMakeLists.txt").read_text(encoding="utf-8"))
    assert match, f"{name} is not set on one line with double quotes"
    return match.group(1)


def test_the_entry_keeps_the_rules_of_the_index() -> None:
    data = ENTRY.read_bytes()
    entry = json.loads(data)
    assert not broken_rules(entry)
    assert b"\r" not in data
    assert data.decode() == json.dumps(entry, indent=2, sort_keys=True) + "\n"
    assert entry["$schema"] == SCHEMA
    assert entry["category"] == "Registration"


def test_the_entry_agrees_with_cmake() -> None:
    entry = json.loads(ENTRY.read_text(encoding="utf-8"))
    assert re.search(rf"^project\({ENTRY.stem}\)$", (TOP / "CMakeLists.txt").read_text(encoding="utf-8"), re.MULTILINE)
    depends = cmake_variable("EXTENSION_DEPENDS").split()
    assert entry["build_dependencies"] == [name for name in depends if name != "NA"]
    assert entry["scm_url"].removesuffix(".git") == cmake_variable("EXTENSION_HOMEPAGE")
    branch = entry["scm_revision"]
    for variable in ("EXTENSION_ICONURL", "EXTENSION_SCREENSHOTURLS"):
        for address in cmake_variable(variable).split():
            assert f"/{branch}/" in address, f"{variable} shows another branch than the index builds"
    assert (TOP / entry["build_subdirectory"] / "CMakeLists.txt").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tier": 6}, "tier is not"),
        ({"tier": "1"}, "tier is no int"),
        ({"homepage": "x"}, "homepage is not in the schema"),
        ({"scm_url": "https://github.com/someone/HyperPredictReg"}, "does not start with Slicer"),
        ({"scm_url": "http://github.com/someone/SlicerX"}, "not https"),
        ({"build_dependencies": [1]}, "no name"),
    ],
)
def test_the_rules_can_fail(change: dict[str, Any], message: str) -> None:
    entry = json.loads(ENTRY.read_text(encoding="utf-8")) | change
    found = broken_rules(entry)
    assert any(message in sentence for sentence in found), found


def items() -> list[tuple[bool, str]]:
    """Return the checklist's items: whether each is ticked, and its text with what was written under it."""
    text = CHECKLIST.read_text(encoding="utf-8")
    found = re.findall(r"^ *- \[([ x])\] (.*(?:\n(?! *- |\n|#).*)*)", text, re.MULTILINE)
    return [(mark == "x", " ".join(body.split())) for mark, body in found]


def test_every_tick_of_the_checklist_names_its_evidence() -> None:
    ticked = [body for done, body in items() if done]
    assert len(ticked) >= 15
    for body in ticked:
        _, _, evidence = body.partition("Evidence:")
        files = re.findall(r"`([\w./-]+\.[\w.]+)`", evidence)
        assert files, f"ticked without a file that shows it: {body[:80]}"
        gone = [name for name in files if not (TOP / name).exists()]
        assert not gone, f"the evidence is not there: {gone}"


def test_what_is_not_ticked_says_what_is_left_to_do() -> None:
    left = [body for done, body in items() if not done]
    assert left, "a checklist that is all ticked has forgotten what only people can do"
    for body in left:
        assert "To do:" in body, f"neither ticked nor explained: {body[:80]}"


def test_the_checklist_is_complete() -> None:
    # So many boxes has the index's template of August 2026 up to tier 3.
    assert len(items()) == 25


def test_github_runs_every_python_that_we_promise() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    jobs = yaml.safe_load((TOP / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))["jobs"]
    promised = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', (TOP / "pyproject.toml").read_text(encoding="utf-8"))
    assert promised
    assert jobs["library"]["strategy"]["matrix"]["python"] == [f"3.{n}" for n in range(*map(int, promised.groups()))]
    assert {"run": "make test"} in jobs["library"]["steps"]
    commands = " ".join(step.get("run", "") for step in jobs["slicer"]["steps"])
    assert "sh Testing/self-test.sh ~/slicer/Slicer" in commands
    assert "continue-on-error" not in str(jobs)


@pytest.mark.skipif(os.name == "nt", reason="a shell script")
@pytest.mark.parametrize("display", [":7", ""])
def test_the_self_test_is_started_as_slicer_wants(display: str, tmp_path: Path) -> None:
    # Two stand-ins that say what they were called with; the exit code must come through.
    for name, code in (("Slicer", 3), ("xvfb-run", 4)):
        (tmp_path / name).write_text(f'#!/bin/sh\nprintf "%s\\n" {name} "$@"\nexit {code}\n')
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "DISPLAY": display, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    command = ["sh", str(TOP / "Testing" / "self-test.sh"), str(tmp_path / "Slicer")]
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False)
    printed = done.stdout.splitlines()
    assert done.returncode == (3 if display else 4), done.stderr
    assert (printed[0] == "xvfb-run") != bool(display)
    module = str(TOP / "HyperPredictReg")
    assert printed[-6:] == [
        "--no-splash", "--testing", "--additional-module-paths", module, "--python-code",
        f"import slicer.testing; slicer.testing.runUnitTest([r'{module}'], 'HyperPredictReg')",
    ]  # fmt: skip
