"""The documents: no link or picture of ours leads nowhere, and what they call by name exists."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

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
    named = "Suggest λ", "Register", "Carry over", "Report page", "What matters to you", "Apply to others", "Deformed grid"
    for words in named:
        assert words in text
        assert f"<string>{words}</string>" in panel, f"the panel has no '{words}' any more"
