"""Results appear all together, and never at the cost of what is there already."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
from conftest import job_of
from HyperPredictRegLib import workflow
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.results import results_folder
from HyperPredictRegLib.results.report import Report


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_input_is_never_written_over(files: Path, tmp_path: Path, overwrite: bool) -> None:
    shutil.copy(files / "moving.nrrd", tmp_path / "warped.nrrd")
    before = (tmp_path / "warped.nrrd").read_bytes()
    job = job_of(files, tmp_path, moving=str(tmp_path / "warped.nrrd"), moving_labels=None, fixed_labels=None)
    with pytest.raises(InputError, match="written over the input"):
        workflow.run(job, overwrite=overwrite)
    assert (tmp_path / "warped.nrrd").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["warped.nrrd"]


def test_a_file_of_the_same_name_as_a_result_is_kept(files: Path, tmp_path: Path) -> None:
    (tmp_path / "transform.h5").write_text("mine")
    with pytest.raises(InputError, match=r"holds a file 'transform\.h5'"):
        workflow.run(job_of(files, tmp_path))
    assert (tmp_path / "transform.h5").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("reason", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()], ids=["disk", "interrupt"])
def test_earlier_results_come_back_when_the_new_ones_cannot_be_moved(
    tmp_path: Path, finished: tuple[Report, Path], monkeypatch: pytest.MonkeyPatch, reason: BaseException
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished[1], out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    replace = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if self.parent.name == "new" and self.name == "warped.nrrd":
            raise reason
        return replace(self, target)

    staging = tmp_path / "staging"
    shutil.copytree(finished[1], staging)
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(type(reason)):
        results_folder.publish(staging, out, overwrite=True)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert {p.name: p.read_bytes() for p in staging.iterdir()} == before


def test_an_earlier_result_that_the_new_job_reads_stays(tmp_path: Path, finished: tuple[Report, Path]) -> None:
    out, staging = tmp_path / "out", tmp_path / "staging"
    shutil.copytree(finished[1], out)
    shutil.copytree(finished[1], staging)
    (staging / "warped-labels.nrrd").unlink()
    results_folder.publish(staging, out, overwrite=True, inputs=[out / "warped-labels.nrrd"])
    assert (out / "warped-labels.nrrd").exists()


def test_results_that_another_run_has_put_there_meanwhile_are_kept(tmp_path: Path, finished: tuple[Report, Path]) -> None:
    out, staging = tmp_path / "out", tmp_path / "staging"
    shutil.copytree(finished[1], out)
    shutil.copytree(finished[1], staging)
    with pytest.raises(InputError, match="choose another, or say --overwrite"):
        results_folder.publish(staging, out, overwrite=False)


def test_a_link_to_a_folder_is_followed(files: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    workflow.run(job_of(files, tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "report.json").exists()
