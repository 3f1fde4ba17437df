"""A preview is a registration on a coarse grid; a worker answers the setting that was asked for last."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import job_of
from HyperPredictRegLib.core.errors import Cancelled, InputError
from HyperPredictRegLib.core.progress import never
from HyperPredictRegLib.engines import engine_infos
from HyperPredictRegLib.engines.base import Registration, RegistrationTask
from HyperPredictRegLib.engines.diffeo import DiffeoEngine
from HyperPredictRegLib.results.job import Job
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.worker.main import _looked_at
from HyperPredictRegLib.worker.preview_files import Answered, Asked, add_image, answer, ask, read_answered, read_asked
from HyperPredictRegLib.workflow import Previewer, preview


@pytest.fixture(scope="module")
def job(files: Path) -> Job:
    """A job of the engine that previews, without what a preview does not need."""
    return replace(
        job_of(files, Path("unused")), engine="diffeo", fixed_labels=None, moving_labels=None, label_names=None,
        fixed_landmarks=None, moving_landmarks=None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def previewer(job: Job) -> Previewer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DiffeoEngine, "info", replace(DiffeoEngine.info, preview_voxels=8000))
        return Previewer.of(job)


def difference(previewer: Previewer, image: sitk.Image) -> float:
    """Return the mean absolute difference from the fixed image on the working grid."""
    grid = previewer.prepared.pair.grid
    fixed = grid.resample(sitk.Cast(previewer.prepared.inputs.fixed.image, sitk.sitkFloat32))
    return float(np.abs(sitk.GetArrayFromImage(fixed) - sitk.GetArrayFromImage(image)).mean())


def test_a_preview_deforms_as_its_setting_says(previewer: Previewer) -> None:
    grid = previewer.prepared.pair.grid
    assert previewer.coarse.grid.voxel_count < 0.5 * grid.voxel_count
    affine = grid.resample(previewer.moving, previewer.prepared.affine)
    close, smooth = (previewer.at({"regularization_weight": weight}) for weight in (0.4, 3.0))
    for look in (close, smooth):
        assert Geometry.of(look.image).matches(grid) and look.spacing_mm == pytest.approx(previewer.coarse.grid.spacing[0])
    assert smooth.setting["regularization_weight"] == 3.0 and smooth.setting["fluid_sigma"] > 0
    apart = [difference(previewer, image) for image in (close.image, smooth.image, affine)]
    assert apart[0] < 0.8 * apart[1] and apart[1] < apart[2]
    again = previewer.at({"regularization_weight": 0.4})
    np.testing.assert_array_equal(sitk.GetArrayFromImage(again.image), sitk.GetArrayFromImage(close.image))
    with pytest.raises(InputError, match="regularization_weight"):
        previewer.at({"regularization_weight": -1.0})
    with pytest.raises(Cancelled):
        previewer.at({}, cancelled=lambda: True)


def test_an_engine_that_is_not_quick_is_refused_before_anything_is_read(job: Job) -> None:
    slow = [info.name for info in engine_infos() if not info.preview_voxels]
    assert "bspline" in slow and "diffeo" not in slow
    with pytest.raises(InputError, match="'bspline' is not quick enough for a preview: choose 'diffeo'"):
        preview(replace(job, engine="bspline", fixed="nowhere.nrrd"), {})


def test_what_is_asked_for_last_is_found_and_what_is_half_written_is_not(tmp_path: Path) -> None:
    assert read_asked(tmp_path) is None and read_answered(tmp_path) is None
    for number in (1, 2, 3):
        ask(tmp_path, Asked(number, {"regularization_weight": float(number)}))
    assert read_asked(tmp_path) == Asked(3, {"regularization_weight": 3.0})
    made = Answered(3, {"regularization_weight": 3.0}, "preview-3.nrrd", "", 4.5, 0.2)
    answer(tmp_path, made)
    assert read_answered(tmp_path) == made
    (tmp_path / "asked.json").write_text('{"number": 4')
    assert read_asked(tmp_path) is None


def test_each_image_has_a_file_of_its_own_and_appears_whole(tmp_path: Path) -> None:
    """A slider that moves leaves numbers out: 1, 3, 5 must not share a file, which would change while it is read."""

    def write(text: str) -> Callable[[Path], None]:
        def half_then_whole(path: Path) -> None:
            path.write_text("half")
            assert not any("half" in one.read_text() for one in tmp_path.glob("preview-*.nrrd"))
            path.write_text(text)

        return half_then_whole

    names = [add_image(tmp_path, number, write(str(number))) for number in (1, 3, 9, 11)]
    assert len(set(names)) == 4
    # The newest, and the one before, which may be read just now.
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {names[2]: "9", names[3]: "11"}


def test_a_full_disk_ends_no_preview(previewer: Previewer, tmp_path: Path) -> None:
    lost = _looked_at(previewer, Asked(1, {"regularization_weight": 2.0}), tmp_path / "nowhere", never)
    assert (lost.number, lost.image) == (1, "") and "room on the disk" in lost.sentence


def test_an_answer_that_cannot_be_written_is_left_out_and_the_worker_goes_on(
    previewer: Previewer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = importlib.import_module("HyperPredictRegLib.worker.main")
    tried: list[Answered] = []

    def full(folder: Path, answered: Answered) -> None:
        tried.append(answered)
        ask(tmp_path, Asked(answered.number + 1, {"regularization_weight": -1.0}))
        if len(tried) == 1:
            raise PermissionError(13, "in use")
        answer(folder, answered)

    monkeypatch.setattr(main, "answer", full)
    monkeypatch.setattr(main, "_read_job", lambda path: previewer.plan.job)
    monkeypatch.setattr(Previewer, "of", lambda *_, **__: previewer)
    ask(tmp_path, Asked(1, {"regularization_weight": -1.0}))
    with pytest.raises(Cancelled):
        main._preview(tmp_path / "job.json", lambda event: None, lambda: len(tried) == 2)
    assert [one.number for one in tried] == [1, 2] and read_answered(tmp_path) == tried[1]


def test_a_setting_that_cannot_be_is_answered_by_a_sentence(previewer: Previewer, tmp_path: Path) -> None:
    refused = _looked_at(previewer, Asked(3, {"regularization_weight": -2.0}), tmp_path, never)
    assert (refused.number, refused.image) == (3, "") and "regularization_weight" in refused.sentence
    found = _looked_at(previewer, Asked(4, {"regularization_weight": 2.0}), tmp_path, never)
    image = sitk.ReadImage(str(tmp_path / found.image))
    assert Geometry.of(image).matches(previewer.prepared.pair.grid) and not found.sentence
    assert found.spacing_mm > min(previewer.prepared.pair.grid.spacing) and found.seconds > 0


def test_what_settings_share_is_worked_out_once_and_warnings_are_handed_on(
    previewer: Previewer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[RegistrationTask] = []
    for_pair = DiffeoEngine.for_pair

    def counted(engine: DiffeoEngine, task: RegistrationTask) -> Callable[[Mapping[str, float]], Registration]:
        made.append(task)
        register = for_pair(engine, task)
        return lambda setting: replace(register(setting), warnings=("There is no CUDA here: the processor computed.",))

    monkeypatch.setattr(DiffeoEngine, "for_pair", counted)
    fresh = Previewer(previewer.plan, previewer.prepared, previewer.coarse, previewer.moving)
    # One that was cancelled leaves nothing behind that the next one would take for its own.
    with pytest.raises(Cancelled):
        fresh.at({"regularization_weight": 2.0}, cancelled=lambda: True)
    found = _looked_at(fresh, Asked(1, {"regularization_weight": 2.0}), tmp_path, never)
    other = fresh.at({"regularization_weight": 3.0})
    assert len(made) == 1 and found.image and found.sentence == "There is no CUDA here: the processor computed."
    assert other.warnings == (found.sentence,)
    expected = previewer.at({"regularization_weight": 2.0})
    image = sitk.ReadImage(str(tmp_path / found.image))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(expected.image))
