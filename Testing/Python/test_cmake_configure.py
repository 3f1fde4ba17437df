"""What stops the configuration of the extension with CMake; test_install_tree.py builds and installs it."""

from __future__ import annotations

from pathlib import Path

import pytest
from cmake_install import configure, copy_of_the_extension, skip_without_cmake


@pytest.fixture(autouse=True, scope="module")
def _tools() -> None:
    skip_without_cmake()


def test_a_listed_file_that_is_missing_stops_cmake(tmp_path: Path) -> None:
    source = copy_of_the_extension(tmp_path)
    (source / "HyperPredictReg" / "HyperPredictRegLib" / "spatial" / "geometry.py").unlink()
    done = configure(source, tmp_path / "build")
    assert done.returncode != 0
    assert "lists 'HyperPredictRegLib/spatial/geometry.py'" in " ".join(done.stderr.split())


def test_no_package_without_a_licence(tmp_path: Path) -> None:
    source = copy_of_the_extension(tmp_path)
    (source / "LICENSE.txt").unlink()
    done = configure(source, tmp_path / "build")
    assert done.returncode != 0
    assert "LICENSE.txt is missing" in done.stderr
