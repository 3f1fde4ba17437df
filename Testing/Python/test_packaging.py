"""What Slicer will install: the CMake lists against the tree, the index's metadata, and the module file itself."""

from __future__ import annotations

import ast
import re
import struct
import sys
from pathlib import Path

import HyperPredictRegLib
import pytest

TOP = Path(__file__).resolve().parents[2]
MODULE_FOLDER = TOP / "HyperPredictReg"
LIBRARY = MODULE_FOLDER / "HyperPredictRegLib"
RAW_PREFIX = "https://raw.githubusercontent.com/HyperPredictReg/SlicerHyperPredictReg/main/"
NOT_INSTALLED = {"__pycache__", "Testing"}


def cmake_list(variable: str, text: str) -> list[str]:
    """Return the items of `set(variable ...)` in CMake text, with the module's name filled in."""
    match = re.search(rf"set\({variable}\s+(.*?)\)", text, re.DOTALL)
    assert match, f"HyperPredictReg/CMakeLists.txt does not set {variable}"
    return [item.replace("${MODULE_NAME}", "HyperPredictReg") for item in match.group(1).split()]


def listed(variable: str) -> list[str]:
    """Return what the module's CMakeLists.txt lists under a variable."""
    return cmake_list(variable, (MODULE_FOLDER / "CMakeLists.txt").read_text(encoding="utf-8"))


def shipped_in_tree(*, python: bool) -> set[str]:
    """List the files below the module folder that belong in the package: the Python ones, or all the others."""
    found = {"HyperPredictReg.py"} if python else set()
    for folder in (LIBRARY, MODULE_FOLDER / "Resources"):
        for file in folder.rglob("*"):
            below = file.relative_to(MODULE_FOLDER)
            hidden = any(part.startswith(".") or part in NOT_INSTALLED for part in below.parts)
            if file.is_file() and not hidden and file.suffix != ".pyc" and (file.suffix == ".py") == python:
                found.add(below.as_posix())
    return found


@pytest.mark.parametrize(("variable", "python"), [("MODULE_PYTHON_SCRIPTS", True), ("MODULE_PYTHON_RESOURCES", False)])
def test_cmake_lists_what_is_in_the_tree(variable: str, python: bool) -> None:
    in_list, in_tree = set(listed(variable)), shipped_in_tree(python=python)
    advice = [f"add to {variable}: {name}" for name in sorted(in_tree - in_list)]
    advice += [f"remove from {variable} (no such file): {name}" for name in sorted(in_list - in_tree)]
    assert not advice, "HyperPredictReg/CMakeLists.txt\n" + "\n".join(advice)


@pytest.mark.parametrize("variable", ["MODULE_PYTHON_SCRIPTS", "MODULE_PYTHON_RESOURCES"])
def test_cmake_lists_are_in_order_and_without_repeats(variable: str) -> None:
    names = listed(variable)
    below_the_library = [name for name in names if "/" in name]
    assert below_the_library == sorted(set(below_the_library))


def test_the_list_reader_reads_only_its_own_variable() -> None:
    text = "set(A\n  ${MODULE_NAME}.py\n  x/y.py\n  )\nset(AB\n  z.py\n  )\n"
    assert cmake_list("A", text) == ["HyperPredictReg.py", "x/y.py"]


def test_the_wheel_takes_what_slicer_gets() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read pyproject.toml by itself")
    setuptools = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    for name in sorted(n for n in shipped_in_tree(python=False) if n.startswith("HyperPredictRegLib/")):
        folder = Path(name).parent
        patterns = setuptools["package-data"].get(".".join(folder.parts), [])
        assert any(Path(name).match(pattern) for pattern in patterns), f"add to package-data in pyproject.toml: {name}"


def extension_variables() -> dict[str, str]:
    """Return the EXTENSION_ variables, read line by line as the Extensions Index reads them."""
    text = (TOP / "CMakeLists.txt").read_text(encoding="utf-8")
    return dict(re.findall(r'^set\(EXTENSION_(\w+) "([^"\n]+)"\)$', text, re.MULTILINE))


def test_the_index_finds_its_metadata() -> None:
    text = (TOP / "CMakeLists.txt").read_text(encoding="utf-8")
    assert re.search(r"^project\(HyperPredictReg\)$", text, re.MULTILINE)
    assert {"HOMEPAGE", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS"} == extension_variables().keys()


@pytest.mark.parametrize("variable", ["ICONURL", "SCREENSHOTURLS"])
def test_picture_addresses_point_at_files_that_are_here(variable: str) -> None:
    for address in extension_variables()[variable].split():
        assert address.startswith(RAW_PREFIX), f"not a raw address of this repository: {address}"
        file = TOP / address.removeprefix(RAW_PREFIX)
        assert file.is_file(), f"EXTENSION_{variable} names {file.relative_to(TOP)}, which does not exist"


@pytest.mark.parametrize("icon", [TOP / "HyperPredictReg.png", MODULE_FOLDER / "Resources" / "Icons" / "HyperPredictReg.png"])
def test_icons_are_png_of_128_pixels(icon: Path) -> None:
    data = icon.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (128, 128)


def test_licence_is_apache_and_named_in_the_readme() -> None:
    assert "Apache License" in (TOP / "LICENSE.txt").read_text(encoding="utf-8")[:100]
    assert "END OF TERMS AND CONDITIONS" in (TOP / "LICENSE.txt").read_text(encoding="utf-8")
    assert re.search(r"Apache(-| License,? (Version )?)2\.0", (TOP / "README.md").read_text(encoding="utf-8"))


def test_one_version_everywhere() -> None:
    version = HyperPredictRegLib.__version__
    headings = re.findall(r"^## (\S+)", (TOP / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    cited = re.search(r"^version: (\S+)$", (TOP / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == version
    assert cited and cited.group(1) == version


def test_module_file_is_thin_and_quick_to_import() -> None:
    text = (MODULE_FOLDER / "HyperPredictReg.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    tree = ast.parse(text)
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    assert [f"HyperPredictReg{role}" for role in ("", "Widget", "Logic", "Test")] == classes
    at_file_scope = {
        (node.module or "").split(".")[0] if isinstance(node, ast.ImportFrom) else node.names[0].name.split(".")[0]
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    # The Extensions Index asks about imports of anything else at file scope, and about code that runs on import.
    assert at_file_scope <= {*sys.stdlib_module_names, "slicer", "vtk", "qt", "ctk", "HyperPredictRegLib"}
    allowed = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef, ast.Expr)
    assert all(isinstance(node, allowed) for node in tree.body)
    assert all(isinstance(node.value, ast.Constant) for node in tree.body if isinstance(node, ast.Expr))
