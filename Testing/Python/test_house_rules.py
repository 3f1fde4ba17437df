"""The house rules that a machine can check: lengths, names, docstrings, paths, sizes, and clean linters."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
MODULE_FOLDER = TOP / "HyperPredictReg"
LIBRARY = MODULE_FOLDER / "HyperPredictRegLib"
LABORATORY = TOP / "HyperPredictRegLab"

MOST_FILE_LINES = 600
MOST_FUNCTION_LINES = 60
MOST_FILE_BYTES = 3_000_000
NAMES_THAT_SAY_NOTHING = {"utils.py", "util.py", "helpers.py", "helper.py", "common.py", "misc.py"}
CODE_FOLDERS = ("HyperPredictReg", "HyperPredictRegLab", "Testing", "benchmarks", "docs", "examples")
MACHINE_PATH = re.compile(r"(?<![\w.~-])(?:/(?:work|home|root|Users)/\w|/tmp/[x]/|[A-Z]:\\\\?Users)")


@cache
def repository_files() -> tuple[Path, ...]:
    """List the files that are, or would be, under version control."""
    git = ["git", "-C", str(TOP), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(git, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git working tree, so which files belong to the repository is unknown")
    names = (name.decode() for name in done.stdout.split(b"\0") if name)
    return tuple(file for name in sorted(set(names)) if (file := TOP / name).is_file())


def text_of(file: Path) -> str | None:
    """Return a file's text, or None if it is not text."""
    data = file.read_bytes()
    if b"\0" in data:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def code_files() -> list[Path]:
    """List the Python files of the folders that hold our code."""
    return sorted(file for folder in CODE_FOLDERS for file in (TOP / folder).rglob("*.py"))


def shipped_files() -> list[Path]:
    """List the Python files that users get."""
    return sorted([*MODULE_FOLDER.glob("*.py"), *LIBRARY.rglob("*.py"), *LABORATORY.rglob("*.py")])


def name_of(file: Path) -> str:
    """Return the path relative to the repository, for messages."""
    return file.relative_to(TOP).as_posix()


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function without those of its docstring."""
    total = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function) is None:
        return total
    docstring = function.body[0]
    return total - ((docstring.end_lineno or docstring.lineno) - docstring.lineno + 1)


def without_docstring(tree: ast.Module) -> list[str]:
    """Name the public functions, methods and classes, and the file itself, that have no docstring."""
    found = [] if ast.get_docstring(tree) or not tree.body else ["the file"]
    waiting: list[tuple[str, ast.stmt]] = [("", node) for node in tree.body]
    while waiting:
        prefix, node = waiting.pop()
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None:
            found.append(prefix + node.name)
        if isinstance(node, ast.ClassDef):
            waiting += [(f"{prefix}{node.name}.", child) for child in node.body]
    return sorted(found)


def printing_lines(tree: ast.AST) -> list[int]:
    """List the lines that call `print`."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]


def test_files_and_functions_are_short() -> None:
    found = []
    for file in code_files():
        text = file.read_text(encoding="utf-8")
        if len(text.splitlines()) > MOST_FILE_LINES:
            found.append(f"{name_of(file)} holds two rooms: split it")
        long = {f.name: code_lines(f) for f in functions(ast.parse(text)) if code_lines(f) > MOST_FUNCTION_LINES}
        found += [f"{name_of(file)}: split {function}, {lines} lines" for function, lines in long.items()]
    assert not found, "\n".join(found)


def test_file_names_say_what_is_inside() -> None:
    found = [name_of(file) for file in code_files() if file.name in NAMES_THAT_SAY_NOTHING]
    assert not found, f"name these for their one subject: {', '.join(found)}"


def test_everything_public_has_a_docstring() -> None:
    missing = {name_of(file): without_docstring(ast.parse(file.read_text(encoding="utf-8"))) for file in shipped_files()}
    assert not any(missing.values()), "\n".join(
        f"{file}: no docstring on {', '.join(names)}" for file, names in missing.items() if names
    )


def test_nothing_prints() -> None:
    lines = {name_of(file): printing_lines(ast.parse(file.read_text(encoding="utf-8"))) for file in shipped_files()}
    found = [f"{file} prints on lines {numbers}: log it, or report progress" for file, numbers in lines.items() if numbers]
    assert not found, "\n".join(found)


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    found = []
    for file in repository_files():
        for number, line in enumerate((text_of(file) or "").splitlines(), start=1):
            if MACHINE_PATH.search(line):
                found.append(f"{name_of(file)}:{number}: {line.strip()[:80]}")
    assert not found, "absolute paths of one machine:\n" + "\n".join(found)


def test_text_files_end_their_lines_as_the_extensions_index_wants() -> None:
    crlf = [name_of(file) for file in repository_files() if "\r" in (text_of(file) or "")]
    assert not crlf, f"line ends must be LF only: {', '.join(crlf)}"


def test_files_are_small() -> None:
    big = {name_of(f): f.stat().st_size for f in repository_files() if f.stat().st_size >= MOST_FILE_BYTES}
    assert not big, f"too large for the repository (bytes): {big}"


def test_readme_names_the_two_commands() -> None:
    text = (TOP / "README.md").read_text(encoding="utf-8")
    for command in ("make demo", "make test"):
        assert command in text, f"README.md does not name `{command}`"


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("ruff", "check", "--quiet", "."), id="ruff"),
        pytest.param(("mypy", "--no-error-summary"), id="mypy", marks=pytest.mark.slow),
    ],
)
def test_linters_are_content(arguments: tuple[str, ...]) -> None:
    if importlib.util.find_spec(arguments[0]) is None:
        pytest.skip(f"{arguments[0]} is not installed (pip install '.[lint]')")
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=TOP, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_can_fail() -> None:
    tree = ast.parse("class A:\n    def b(self): print(1)\n    def _c(self): ...\ndef d():\n    '''Do.'''\n")
    assert without_docstring(tree) == ["A", "A.b", "the file"]
    assert printing_lines(tree) == [2]
    assert code_lines(next(f for f in functions(tree) if f.name == "d")) == 1
    slash = "/"
    for path in (f"{slash}home{slash}someone", f"'{slash}work{slash}main'", f"file://{slash}Users{slash}me", "C:" + "\\Users"):
        assert MACHINE_PATH.search(path), path
    inner = f"{slash}work{slash}flow"
    for innocent in ("https://example.org/home/page", f"a{inner}", f"~{inner}", "HyperPredictRegLib/workflow.py"):
        assert not MACHINE_PATH.search(innocent), innocent
