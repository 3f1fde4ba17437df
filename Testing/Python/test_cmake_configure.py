"""Configure, build and install the extension with CMake, and import the library from what was installed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cmake_install import TOP, configure, copy_of_the_extension, forget, install, libraries, skip_without_cmake

# -S keeps the site-packages' .pth files unread, among them the one of an editable install of this very library.
IMPORT_ALL = """
import importlib, json, sys
installed, libraries, names = json.loads(sys.argv[1])
sys.path[:0] = [installed]
sys.path += libraries
for name in names:
    module = importlib.import_module(name)
    if not module.__file__.startswith(installed):
        raise SystemExit(f"{name} was imported from {module.__file__}")
"""


@pytest.fixture(autouse=True, scope="module")
def _tools() -> None:
    skip_without_cmake()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the extension as it is; return where the scripted modules came to lie."""
    return install(TOP, tmp_path_factory.mktemp("as-it-is"))


def library_modules() -> list[str]:
    """Name every module of the library in the working tree but those of the panel, which test_install_tree.py opens in Qt."""
    folder = TOP / "HyperPredictReg"
    names = []
    for file in sorted((folder / "HyperPredictRegLib").rglob("*.py")):
        parts = file.relative_to(folder).with_suffix("").parts
        if parts[1] == "panel":
            continue
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def import_from(installed: Path) -> subprocess.CompletedProcess[str]:
    """Import every module of the library in a fresh process that knows only `installed` and the libraries we depend on."""
    argument = json.dumps([str(installed), libraries(), library_modules()])
    command = [sys.executable, "-I", "-S", "-c", IMPORT_ALL, argument]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False)


def files_below(folder: Path) -> set[str]:
    """List the files below a folder, compiled ones left out."""
    found = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return {file.as_posix() for file in found if "__pycache__" not in file.parts}


def test_the_library_works_from_the_install_tree(installed: Path) -> None:
    done = import_from(installed)
    assert done.returncode == 0, done.stderr


def test_everything_the_library_reads_lies_beside_it(installed: Path) -> None:
    there = files_below(installed)
    in_tree = {f"HyperPredictRegLib/{name}" for name in files_below(TOP / "HyperPredictReg" / "HyperPredictRegLib")}
    assert {name for name in there if name.startswith("HyperPredictRegLib/")} == in_tree
    assert {"HyperPredictReg.py", "Resources/Icons/HyperPredictReg.png"} <= there


def test_the_modules_own_test_is_registered(installed: Path) -> None:
    build = installed.parents[3] / "build"
    done = subprocess.run(["ctest", "--test-dir", build], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"py_HyperPredictReg \.+ +Passed", done.stdout), done.stdout


def test_a_file_forgotten_in_the_list_is_found_out(tmp_path: Path) -> None:
    source = copy_of_the_extension(tmp_path)
    forget(source, "HyperPredictRegLib/geometry.py")
    done = import_from(install(source, tmp_path))
    assert done.returncode != 0
    assert "No module named 'HyperPredictRegLib.geometry'" in done.stderr


def test_a_listed_file_that_is_missing_stops_cmake(tmp_path: Path) -> None:
    source = copy_of_the_extension(tmp_path)
    (source / "HyperPredictReg" / "HyperPredictRegLib" / "geometry.py").unlink()
    done = configure(source, tmp_path / "build")
    assert done.returncode != 0
    assert "lists 'HyperPredictRegLib/geometry.py'" in " ".join(done.stderr.split())


def test_no_package_without_a_licence(tmp_path: Path) -> None:
    source = copy_of_the_extension(tmp_path)
    (source / "LICENSE.txt").unlink()
    done = configure(source, tmp_path / "build")
    assert done.returncode != 0
    assert "LICENSE.txt is missing" in done.stderr
