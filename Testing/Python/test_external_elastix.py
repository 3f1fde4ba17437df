"""elastix as an engine: what it is asked for, what it leaves, and what is told of it; with files as it writes them."""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import blob_image
from HyperPredictRegLib.core.errors import InputError, RegistrationError
from HyperPredictRegLib.engines import engine_settings, get_engine
from HyperPredictRegLib.engines.base import Registration, RegistrationTask, settings_hash
from HyperPredictRegLib.engines.external import elastix
from HyperPredictRegLib.engines.external.elastix import ElastixEngine, ElastixSettings, parameter_text, read_spline
from HyperPredictRegLib.spatial.geometry import Geometry

APART = 8.0


def control_points(grid: Geometry) -> Geometry:
    """Return a grid of control points as elastix lays it over an image: along its axes, well beyond its ends."""
    size = tuple(int(np.ceil(extent / APART)) + 4 for extent in grid.extent_mm)
    origin = grid.to_lps([-1.5 * APART / s for s in grid.spacing])
    return Geometry(size, (APART,) * 3, tuple(origin.tolist()), grid.direction)  # type: ignore[arg-type]


def parameter_file(grid: Geometry, coefficients: np.ndarray, **others: str) -> str:
    """Return the text of elastix's TransformParameters.0.txt; coefficients (3, k, j, i)."""
    points = control_points(grid)
    entries = {
        "Transform": '"BSplineTransform"',
        "NumberOfParameters": str(coefficients.size),
        "TransformParameters": " ".join(f"{value:.12g}" for value in coefficients.ravel()),
        "Size": " ".join(map(str, grid.size)),
        "GridSize": " ".join(map(str, points.size)),
        "GridIndex": "0 0 0",
        "GridSpacing": " ".join(map(repr, points.spacing)),
        "GridOrigin": " ".join(map(repr, points.origin)),
        "GridDirection": " ".join(repr(float(value)) for value in points.direction_matrix.T.ravel()),
        "BSplineTransformSplineOrder": "3",
        **others,
    }
    return "// a comment\n" + "".join(f"({name} {value})\n" for name, value in entries.items() if value)


def bspline(distance: np.ndarray) -> np.ndarray:
    d = np.abs(distance)
    return np.where(d < 1, 2 / 3 - d**2 + d**3 / 2, np.where(d < 2, (2 - d) ** 3 / 6, 0.0))


def made(grid: Geometry) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(3, *control_points(grid).size[::-1]))


def test_a_known_warp_comes_back_exactly(oblique: Geometry, tmp_path: Path) -> None:
    coefficients, path = made(oblique), tmp_path / "TransformParameters.0.txt"
    path.write_text(parameter_file(oblique, coefficients), encoding="ascii")
    transform = read_spline(path, oblique)
    points = control_points(oblique)
    for corner in itertools.product((0.0, 0.37, 1.0), repeat=3):
        place = oblique.to_lps(np.array(corner) * (np.array(oblique.size) - 1))
        index = points.to_index(place)
        weights = [bspline(index[axis] - np.arange(points.size[axis])) for axis in (2, 1, 0)]
        expected = place + np.einsum("k,j,i,ckji->c", *weights, coefficients)
        np.testing.assert_allclose(transform.TransformPoint(place.tolist()), expected, atol=1e-6)  # mm


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"Size": "9 9 9"}, "another grid .* on 9 x 9 x 9 voxels instead of 28 x 24 x 20"),
        ({"Transform": '"EulerTransform"'}, "another kind of transform"),
        ({"BSplineTransformSplineOrder": "2"}, "of order 2"),
        ({"GridOrigin": "500 500 500"}, "another grid"),
        ({"TransformParameters": "1 2 3"}, "cannot be read"),
        ({"GridSize": ""}, "cannot be read"),
    ],
)
def test_another_result_than_was_asked_for_is_refused(
    oblique: Geometry, tmp_path: Path, others: dict[str, str], message: str
) -> None:
    path = tmp_path / "TransformParameters.0.txt"
    path.write_text(parameter_file(oblique, made(oblique), **others), encoding="ascii")
    with pytest.raises(RegistrationError, match=message):
        read_spline(path, oblique)


def test_nan_and_nothing_are_refused(oblique: Geometry, tmp_path: Path) -> None:
    path = tmp_path / "TransformParameters.0.txt"
    with pytest.raises(RegistrationError, match="left no transform"):
        read_spline(path, oblique)
    coefficients = made(oblique)
    coefficients[1, 2, 3, 1] = np.nan
    path.write_text(parameter_file(oblique, coefficients), encoding="ascii")
    with pytest.raises(RegistrationError, match="NaN or infinite"):
        read_spline(path, oblique)


def test_the_parameter_file_says_what_was_chosen() -> None:
    text = parameter_text(ElastixSettings(levels=2, metric="mattes", spacing_voxels=4), 2.5, 77, masked=True)
    for line in (
        "(Metric1Weight 2.5)", "(RandomSeed 77)", "(GridSpacingSchedule 2 1)", "(ImagePyramidSchedule 2 2 2 1 1 1)",
        '(Metric "AdvancedMattesMutualInformation" "TransformBendingEnergyPenalty")', "(FinalGridSpacingInVoxels 4)",
    ):  # fmt: skip
        assert line in text.splitlines()
    assert "(Metric1Weight 1e-05)" in parameter_text(ElastixSettings(), 1e-5, 1, masked=False)


@pytest.mark.parametrize(
    "settings", [{"metric": "taste"}, {"spacing_voxels": 0}, {"levels": 0}, {"samples": 1}, {"dilation_voxels": -1}]
)
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(InputError, match="'elastix'"):
        engine_settings(ElastixEngine(), settings)


# ---- with a script in its place


SCRIPT = """#!{python}
import shutil, sys
if sys.argv[1:] == ["--version"]:
    print("elastix version: {version}")
    raise SystemExit
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
shutil.copyfile(given["-p"], {told!r})
for level in range(3):
    print("Resolution:", level)
    print("1:ItNr  2:Metric")
    for step in range(4):
        print(step, "-0.%d" % (level * 4 + step), "0.1", sep="\\t")
    print("Stopping condition: Maximum number of iterations has been reached..")
shutil.copyfile({left!r}, given["-out"] + "/TransformParameters.0.txt")
"""
GRID = Geometry((24, 22, 20), (2.0, 2.0, 2.0), (-30.0, 11.0, 5.0), (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0))


def put(folder: Path, version: str = "5.1.0") -> Path:
    """Put a script in elastix's place, which leaves a warp made beforehand."""
    (folder / "left.txt").write_text(parameter_file(GRID, made(GRID)), encoding="ascii")
    path = folder / "elastix"
    text = SCRIPT.format(python=sys.executable, version=version, told=str(folder / "told.txt"), left=str(folder / "left.txt"))
    path.write_text(text, encoding="ascii")
    path.chmod(0o755)
    return path


def register(**others: object) -> Registration:
    images = [sitk.Cast(blob_image(GRID, shift_mm=(x, 0.0, 0.0)) / 160, sitk.sitkFloat32) for x in (0.0, 3.0)]
    task = RegistrationTask(*images, {"regularization_weight": 3.0}, ElastixSettings(iterations=4), 77)
    return ElastixEngine().register(replace(task, **others))


@pytest.mark.skipif(os.name == "nt", reason="the program that stands in for the real one is a script")
def test_a_run_gives_the_transform_the_trace_and_the_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(elastix.PROGRAM.variable, str(put(tmp_path)))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    events: list[float] = []
    found = register(progress=lambda event: events.append(event.fraction))
    expected = read_spline(tmp_path / "left.txt", GRID)
    assert found.transform.GetParameters() == expected.GetParameters()
    assert found.versions == {"elastix": "5.1.0"} and [len(one.values) for one in found.levels] == [4, 4, 4]
    assert found.levels[2].hit_iteration_limit and events == sorted(events) and events[-1] == 1.0
    told = (tmp_path / "told.txt").read_text(encoding="ascii")
    assert "(Metric1Weight 3.0)" in told and "(RandomSeed 77)" in told
    assert not list(tmp_path.glob("hyperpredictreg-*"))
    with pytest.raises(InputError, match="The seed 0 cannot be used"):
        register(seed=0)


@pytest.mark.skipif(os.name == "nt", reason="the program that stands in for the real one is a script")
def test_the_version_is_checked_and_in_the_hash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hashes = set()
    for version in ("5.1.0", "5.3.1"):
        (tmp_path / version).mkdir()
        monkeypatch.setenv(elastix.PROGRAM.variable, str(put(tmp_path / version, version).parent))
        hashes.add(settings_hash(ElastixEngine(), ElastixSettings()))
    assert len(hashes) == 2
    monkeypatch.setenv(elastix.PROGRAM.variable, str(put(tmp_path, "4.9.0")))
    with pytest.raises(InputError, match=r"is elastix 4\.9\.0, but the engine 'elastix' was written for 5"):
        register()


def test_a_python_without_the_package_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(elastix.PROGRAM.variable, raising=False)
    monkeypatch.setattr(elastix.elastix_child, "DISTRIBUTION", "no-such-package")
    with pytest.raises(InputError, match=r"needs the program elastix, .*pip install itk-elastix"):
        get_engine("elastix")
    # A Python that is named is taken for one that has the package, until it is asked.
    named = ElastixSettings(program=sys.executable)
    monkeypatch.setattr(elastix.elastix_child, "__file__", str(tmp_path / "nothing.py"))
    with pytest.raises(InputError, match="does not say its version as elastix does"):
        settings_hash(ElastixEngine(), named)
