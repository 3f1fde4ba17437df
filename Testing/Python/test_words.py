"""One word for one thing: words that were given up stay away, and only an engine's own file knows its name."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

from HyperPredictRegLib.engines import engine_names
from test_house_rules import LIBRARY, code_files, name_of, repository_files, text_of

RETIRED = re.compile(
    r"(?<![A-Za-z])(?:foresee\w*|foresaw|foresight\w*|foretold|foretell\w*|forecast\w*|strangers?|belongings|novelty|"
    r"hyper-?parameters?|carr(?:y|ies|ying)_? ?over|carried|stiff(?:er|est|ness)?|loose(?:r|st)?|by[ _]hand|traffic[ _]lights?|"
    r"(?:un)?bend(?:s|ing(?! energy))?|bent|made[ _]ready|folding_box|of the box|limit_kept)(?![A-Za-z])",
    re.IGNORECASE,
)
"""Whole words, in names, strings, comments and prose: CONTRIBUTING.md has the words that stand in their place."""

RETIRED_NAMES = frozenset({"kept", "said", "wanted", "course", "verdict_of", "lights", "novelty", "folds"})
"""Good English that hid terms of the field as names in code."""

DATA = (".csv", ".svg", "LICENSE.txt", "test_words.py")


def test_retired_words_are_gone() -> None:
    found = []
    for file in repository_files():
        if not file.name.endswith(DATA):
            for number, line in enumerate((text_of(file) or "").splitlines(), start=1):
                found += [f"{name_of(file)}:{number}: {match.group()}" for match in RETIRED.finditer(line)]
    assert not found, f"{len(found)} words that were given up:\n" + "\n".join(found[:60])


def test_retired_names_are_gone() -> None:
    found = [f"{name_of(file)}:{line}: {name}" for file in code_files() for name, line in names_in(file) if name in RETIRED_NAMES]
    assert not found, "\n".join(found)


def test_only_engines_know_their_names() -> None:
    found = []
    for file in sorted(LIBRARY.rglob("*.py")):
        if "engines" not in file.relative_to(LIBRARY).parts:
            found += [f"{name_of(file)}: {text}" for text, _ in texts_in(file) if text.strip() in engine_names()]
    # A job names the engine that it takes where none is chosen, so that it gives the same result when the default has changed.
    default = [f"{name_of(LIBRARY / 'results' / 'job.py')}: {engine_names()[0]}"]
    assert found == default, "an engine is described by its own file alone:\n" + "\n".join(found)


def test_the_rules_can_fail() -> None:
    for text in ("it foresees", "Carry over", "a stranger", "set by hand", "folding_box", "hyperparameters[0]", "stiffest"):
        assert RETIRED.search(text), text
    for text in ("bending energy", "unforeseeable", "a bounding box", "the carrier", "predicted", "bended_name_of_library"):
        assert not RETIRED.search(text), text


def names_in(file: Path) -> list[tuple[str, int]]:
    """List the names that a file's code uses, with their lines."""
    tokens = tokenize.generate_tokens(io.StringIO(file.read_text(encoding="utf-8")).readline)
    return [(token.string, token.start[0]) for token in tokens if token.type == tokenize.NAME]


def texts_in(file: Path) -> list[tuple[str, int]]:
    """List the string constants of a file, with their lines."""
    constants = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Constant)]
    return [(node.value, node.lineno) for node in constants if isinstance(node.value, str)]


