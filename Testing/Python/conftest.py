"""What many tests need: where the real data is, and small images to register."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import SimpleITK as sitk
from command_samples import Command, command_server
from HyperPredictRegLib.engines import engine_infos, get_engine
from HyperPredictRegLib.engines.base import Engine
from HyperPredictRegLib.results.job import Job
from HyperPredictRegLib.results.report import Report
from HyperPredictRegLib.spatial.geometry import Geometry

REPOSITORY = Path(__file__).resolve().parents[2]

# A busy machine may take any time for an example.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

# Without files of compiled code every process of the tests would compile the library and the tests anew, for many seconds.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell lets what it starts in the background ignore Ctrl+C, and so would every process that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The real labelled data; tests that need it skip where it is not at hand."""
    named = os.environ.get("HYPERPREDICTREG_DATA")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data is not here: set HYPERPREDICTREG_DATA to its folder")
    return folder


def engine_here(name: str) -> Engine:
    """Return an engine, or skip the test if it needs a program that is not installed here."""
    lacking = next(info.unavailable for info in engine_infos() if info.name == name)
    if lacking:
        pytest.skip(lacking)
    return get_engine(name)


@pytest.fixture(autouse=True)
def vtk_errors(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """What VTK complains of in a test of the bridge to Slicer, which fails unless it takes that out of the list."""
    if not request.path.name.startswith("test_slicerbridge_"):
        yield []
        return
    from slicerbridge_samples import vtk_errors_fail

    with vtk_errors_fail() as errors:
        yield errors


@pytest.fixture
def scene() -> Iterator[Any]:
    """A scene that the library's nodes can be added to, as in the application."""
    import slicer
    from HyperPredictRegLib.slicerbridge.scene import application_logic

    made = slicer.vtkMRMLScene()
    with application_logic(made):
        yield made


@pytest.fixture(scope="module")
def command() -> Iterator[Command]:
    """The command, for all tests of a file."""
    with command_server() as run:
        yield run


@pytest.fixture
def opened_panel() -> Iterator[tuple[Any, Any]]:
    """The stand-in for Slicer and the module's panel, open in it."""
    from panel_samples import opened

    with opened() as both:
        yield both


@pytest.fixture
def oblique() -> Geometry:
    """A small anisotropic grid whose axes lie askew."""
    angle = np.deg2rad(25)
    about_z = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(0.3), -np.sin(0.3)], [0, np.sin(0.3), np.cos(0.3)]])
    return Geometry((28, 24, 20), (1.5, 2.0, 2.5), (12.0, -30.0, 7.0), tuple((about_z @ about_x).ravel()))


def blob_image(geometry: Geometry, shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0), deform: float = 0.0) -> sitk.Image:
    """Return a smooth 'organ' with two inner structures around the grid's centre; `deform` makes a banana of it."""
    k, j, i = np.indices(geometry.size[::-1])
    places = geometry.to_lps(np.stack([i, j, k], axis=-1)) - geometry.centre_lps - np.array(shift_mm)
    half = min(geometry.extent_mm) / 2
    local = places / half
    local[..., 0] += deform * (local[..., 1] ** 2 - 0.25)

    def ball(centre: tuple[float, float, float], radius: float) -> np.ndarray:
        distance = np.linalg.norm(local - np.array(centre), axis=-1)
        return 1 / (1 + np.exp((distance - radius) / 0.04))

    voxels = 100 * ball((0, 0, 0), 0.7) + 60 * ball((0.25, 0.1, 0), 0.25) - 50 * ball((-0.3, -0.1, 0.1), 0.2)
    return geometry.apply_to(sitk.GetImageFromArray(voxels.astype(np.float32)))


def blob_labels(image: sitk.Image) -> sitk.Image:
    """Return labels 1 (body), 2 (bright) and 3 (dark) of a `blob_image`."""
    voxels = sitk.GetArrayFromImage(image)
    labels = np.where(voxels > 130, 2, np.where(voxels > 75, 1, np.where(voxels > 40, 3, 0))).astype(np.uint16)
    result = sitk.GetImageFromArray(labels)
    result.CopyInformation(image)
    return result


FIXED_GRID = Geometry((36, 32, 30), (2.0, 2.0, 2.0), (-30.0, 11.0, 5.0))
MOVING_GRID = Geometry((30, 34, 26), (2.4, 2.0, 2.6), (-33.0, 4.0, 2.0), (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
# Without rotated starts and without the finest level: close enough for whatever comes after the affine step.
FAST = {
    "multi_start": False, "shrink_factors": [4.0, 2.0], "smoothing_sigmas": [0.5, 0.5], "iterations": [60, 50],
    "sampling_percentages": [100.0, 100.0],
}  # fmt: skip


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair of organs with labels, a mask and landmarks."""
    folder = tmp_path_factory.mktemp("pair")
    fixed, moving = blob_image(FIXED_GRID), blob_image(MOVING_GRID, shift_mm=(4.0, -3.0, 2.0), deform=0.4)
    for name, image in (("fixed", fixed), ("moving", moving)):
        sitk.WriteImage(sitk.Cast(image * 5, sitk.sitkInt16), str(folder / f"{name}.nrrd"))
        sitk.WriteImage(blob_labels(image), str(folder / f"{name}-labels.nrrd"))
        sitk.WriteImage(sitk.Cast(image > 10, sitk.sitkUInt8), str(folder / f"{name}-mask.nrrd"))
    centre = FIXED_GRID.centre_lps
    (folder / "fixed.csv").write_text("x,y,z\n" + ",".join(map(str, centre)) + "\n")
    # The deformation moves the organ's centre by a quarter of itself, in units of half the grid's shortest edge.
    there = MOVING_GRID.centre_lps + np.array([4.0 + 0.1 * min(MOVING_GRID.extent_mm) / 2, -3.0, 2.0])
    (folder / "moving.csv").write_text("x,y,z\n" + ",".join(map(str, there)) + "\n")
    (folder / "names.csv").write_text("label,name\n1,body\n2,bright\n3,dark\n")
    return folder


def job_of(files: Path, out: Path, **changes: object) -> Job:
    job = Job(
        fixed=str(files / "fixed.nrrd"),
        moving=str(files / "moving.nrrd"),
        out=str(out),
        fixed_labels=str(files / "fixed-labels.nrrd"),
        moving_labels=str(files / "moving-labels.nrrd"),
        fixed_landmarks=str(files / "fixed.csv"),
        moving_landmarks=str(files / "moving.csv"),
        label_names=str(files / "names.csv"),
        predictor="none",
        alignment=FAST,
        reproducible=True,
    )
    return replace(job, **changes)


@pytest.fixture(scope="session")
def finished(files: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    out = tmp_path_factory.mktemp("job") / "results"
    from HyperPredictRegLib.workflow import run

    return run(job_of(files, out)), out
