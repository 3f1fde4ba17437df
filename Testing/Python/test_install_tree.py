"""The module as Slicer would find it: loaded from the install tree in a fresh process, its panel opened, its self-test begun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cmake_install import TOP, copy_of_the_extension, forget, install, libraries, skip_without_cmake

# -S keeps the site-packages' .pth files unread, among them the one of an editable install of this very library.
OPEN_MODULE = """
import json, os, sys
from pathlib import Path

installed, libraries, testing = json.loads(sys.argv[1])
sys.path += [*libraries, testing]
import slicerhost

with slicerhost.start(testing=True) as host:
    panel = host.open_module(Path(installed) / "HyperPredictReg.py")
    host.startup()
    for name in ("UI/HyperPredictReg.ui", "Icons/SampleBrainPair.png", "requirements.txt"):
        assert Path(panel.widget.resourcePath(name)).is_file(), name
    from HyperPredictRegLib.panel.samples import load_sample_pair
    from HyperPredictRegLib.predictor.paths import bundled

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
ours = [module.__file__ for name, module in sys.modules.items() if name.startswith("HyperPredictReg")]
strangers = [file for file in ours if not file.startswith(installed)]
assert not strangers, strangers
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


def open_module(installed: Path, scratch: Path) -> subprocess.CompletedProcess[str]:
    """Open the installed module in a fresh process that knows only it, the stand-in for Slicer and the libraries."""
    argument = json.dumps([str(installed), libraries(), str(TOP / "Testing")])
    command = [sys.executable, "-I", "-S", "-c", OPEN_MODULE, argument]
    (scratch / "sitecustomize.py").write_text(NO_EDITABLE_INSTALL, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(scratch)}
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False, timeout=600, env=environment)


def test_the_installed_module_opens_and_tests_itself(tmp_path: Path) -> None:
    done = open_module(install(TOP, tmp_path), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "opened and tested"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Resources/UI/HyperPredictReg.ui", "HyperPredictReg.ui"),
        ("HyperPredictRegLib/panel/running.py", "No module named 'HyperPredictRegLib.panel.running'"),
        ("HyperPredictRegLib/worker.py", "ended unexpectedly"),
        ("Resources/SampleData/brain.nrrd", "sample brain"),
        ("Resources/Models/demons-fast/card.json", "the predictor is missing"),
    ],
)
def test_a_file_that_was_forgotten_is_found_out(name: str, message: str, tmp_path: Path) -> None:
    source = copy_of_the_extension(tmp_path)
    forget(source, name)
    done = open_module(install(source, tmp_path), tmp_path)
    assert done.returncode != 0, f"nobody misses {name}"
    assert message in done.stderr, done.stderr
