"""Configures, builds and installs the extension with CMake, against the check package that stands in for Slicer."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
SCRIPTED_MODULES = Path("lib", "Slicer-5.12", "qt-scripted-modules")
NEEDED = ("cmake", "cc", "c++")


def skip_without_cmake() -> None:
    """Skip the test where CMake or a compiler is missing."""
    missing = [tool for tool in NEEDED if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not on this machine: {', '.join(missing)} (a Slicer build needs CMake and a compiler)")


def cmake(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run CMake and return what it said."""
    return subprocess.run(["cmake", *map(str, arguments)], capture_output=True, encoding="utf-8", check=False)


def configure(source: Path, build: Path) -> subprocess.CompletedProcess[str]:
    """Configure `source` against the check package that stands in for Slicer."""
    slicer = f"-DSlicer_DIR={source / 'Testing' / 'cmake'}"
    return cmake("-S", source, "-B", build, slicer, f"-DPython3_EXECUTABLE={sys.executable}", "-Werror=dev")


def install(source: Path, folder: Path) -> Path:
    """Configure, build and install into `folder`; return where the scripted modules came to lie."""
    steps = [
        configure(source, folder / "build"),
        cmake("--build", folder / "build"),
        cmake("--install", folder / "build", "--prefix", folder / "install"),
    ]
    for step in steps:
        assert step.returncode == 0, step.stdout + step.stderr
    return folder / "install" / SCRIPTED_MODULES


def copy_of_the_extension(folder: Path) -> Path:
    """Copy what CMake needs to a folder of its own, so that a test may damage it."""
    source = folder / "source"
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("HyperPredictReg", "Testing/cmake"):
        shutil.copytree(TOP / name, source / name, ignore=skip)
    for name in ("CMakeLists.txt", "README.md", "LICENSE.txt"):
        shutil.copy(TOP / name, source / name)
    return source


def libraries() -> list[str]:
    """Return the folders of the libraries that we depend on, for a process that is started without them."""
    return sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})


def forget(source: Path, name: str) -> None:
    """Take a file out of the module's CMake lists, as one forgets to add it."""
    lists = source / "HyperPredictReg" / "CMakeLists.txt"
    text = lists.read_text(encoding="utf-8")
    assert f"  {name}\n" in text, f"{name} is not listed"
    lists.write_text(text.replace(f"  {name}\n", ""), encoding="utf-8")
