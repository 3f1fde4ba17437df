"""The module as Slicer would find it: every file installed, and all of it loaded and tried from there in a fresh process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cmake_install import TOP, copy_of_the_extension, forget, install, libraries, skip_without_cmake

MODULE = TOP / "HyperPredictReg"
NOT_INSTALLED = ("CMakeLists.txt", "Testing/")
"""Where paths begin that Slicer's own build reads and no user needs."""

# -S keeps the site-packages' .pth files unread, among them the one of an editable install of this very library.
OPEN_MODULE = """
import importlib, json, os, sys
from pathlib import Path

installed, libraries, testing, modules = json.loads(sys.argv[1])
sys.path += [*libraries, testing]
import slicerhost

with slicerhost.start(testing=True) as host:
    panel = host.open_module(Path(installed) / "HyperPredictReg.py")
    host.startup()
    for name in ("UI/HyperPredictReg.ui", "Icons/SampleBrainPair.png", "requirements.txt"):
        assert Path(panel.widget.resourcePath(name)).is_file(), name
    from HyperPredictRegLib.panel.samples import load_sample_pair
    from HyperPredictRegLib.predictor.card import bundled

    assert len(load_sample_pair(host.scene)) == 4
    assert str(bundled("demons", "fast")).startswith(installed), "the predictor is missing"
    test = panel.module.HyperPredictRegTest()
    for name in ("test_badInputIsNamed", "test_parametersAreSavedWithTheScene", "test_cancelLeavesTheSceneAsItWas"):
        test.setUp()
        getattr(test, name)()
        host.let_qt_work()
    panel.close()
    complaints = host.complaints()
    assert not complaints, complaints
    for name in modules:
        importlib.import_module(name)
ours = [module.__file__ for name, module in sys.modules.items() if name.startswith("HyperPredictReg")]
foreign = [file for file in ours if not file.startswith(installed)]
assert not foreign, foreign
print("opened and tested")
"""

# Processes that the module starts read .pth files, but shall find the installed library alone.
NO_EDITABLE_INSTALL = """
import sys

sys.meta_path[:] = [finder for finder in sys.meta_path if not getattr(finder, "__module__", "").startswith("__editable__")]
"""


@pytest.fixture(autouse=True, scope="module")
def _tools() -> None:
    skip_without_cmake()
    pytest.importorskip("slicer", reason="slicer-core is not installed (pip install '.[slicer]')")
    pytest.importorskip("PySide6.QtWidgets", reason="PySide6, or a library that it needs, is missing", exc_type=ImportError)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the extension as it is; return where the scripted modules came to lie."""
    return install(TOP, tmp_path_factory.mktemp("as-it-is"))


def files_below(folder: Path) -> set[str]:
    """List the files below a folder, compiled ones left out."""
    found = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return {file.as_posix() for file in found if "__pycache__" not in file.parts}


def forgotten(installed: Path) -> set[str]:
    """List the files of the module that were not installed."""
    return {name for name in files_below(MODULE) - files_below(installed) if not name.startswith(NOT_INSTALLED)}


def test_every_file_is_installed(installed: Path) -> None:
    assert not forgotten(installed)
    library = {name for name in files_below(installed) if name.startswith("HyperPredictRegLib/")}
    assert library == {name for name in files_below(MODULE) if name.startswith("HyperPredictRegLib/")}


def test_files_that_were_forgotten_are_found_out(tmp_path: Path) -> None:
    source = copy_of_the_extension(tmp_path)
    names = {
        "HyperPredictRegLib/spatial/geometry.py",
        "HyperPredictRegLib/panel/running.py",
        "HyperPredictRegLib/worker/main.py",
        "Resources/UI/HyperPredictReg.ui",
        "Resources/SampleData/brain.nrrd",
        "Resources/Models/demons-fast/card.json",
        "Resources/Models/diffeo-fast/card.json",
        "Resources/Models/diffeo-fast/model.pt",
    }
    for name in names:
        forget(source, name)
    assert forgotten(install(source, tmp_path)) == names


def test_the_installed_module_opens_and_tests_itself(installed: Path, tmp_path: Path) -> None:
    files = sorted(name for name in files_below(MODULE) if name.startswith("HyperPredictRegLib/") and name.endswith(".py"))
    modules = [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in files]
    # A process that knows only the install tree, the stand-in for Slicer and the libraries we depend on.
    argument = json.dumps([str(installed), libraries(), str(TOP / "Testing"), modules])
    command = [sys.executable, "-I", "-S", "-c", OPEN_MODULE, argument]
    (tmp_path / "sitecustomize.py").write_text(NO_EDITABLE_INSTALL, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, timeout=600, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "opened and tested"


def test_the_modules_own_test_is_registered(installed: Path) -> None:
    build = installed.parents[3] / "build"
    done = subprocess.run(["ctest", "--test-dir", build], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"py_HyperPredictReg \.+ +Passed", done.stdout), done.stdout
