"""A publish that is killed at any step: the next run leaves all of the old or all of the new, and the user's own files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from HyperPredictRegLib.core import staging
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.results import results_folder

posix = pytest.mark.skipif(os.name != "posix", reason="forks and kills")

# Forks itself for every step of the file system, as the interpreter's own audit tells them, and dies before it.
DRIVER = """
import os, shutil, sys, json
from pathlib import Path
from HyperPredictRegLib.core import staging
from HyperPredictRegLib.results import results_folder

base = Path(sys.argv[1])
STEPS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "open", "shutil.rmtree", "os.scandir")
OLD = {"report.json": '{"outputs": {"a": "transform.h5", "b": "warped-labels.nrrd", "c": "mine.txt"}}',
       "transform.h5": "old", "warped-labels.nrrd": "old"}
NEW = {"report.json": '{"outputs": {"a": "transform.h5", "b": "warped.nrrd"}}', "transform.h5": "new", "warped.nrrd": "new"}
USERS = {"mine.txt": "precious", "notes.md": "precious"}
# A process that dies loses nothing that it gave to the system; only a computer does.
os.fsync = lambda descriptor: None

def content(out):
    return {path.name: path.read_text() for path in out.iterdir() if path.is_file()} if out.exists() else {}

def doomed(step, work):
    pid = os.fork()
    if pid == 0:
        left = step
        def die(event, arguments):
            nonlocal left
            if event in STEPS:
                if left == 0:
                    os._exit(9)
                left -= 1
        sys.addaudithook(die)
        try:
            work()
        except BaseException:
            os._exit(7)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def run(out):
    with results_folder.prepared_folder(out, overwrite=True) as new:
        for name, text in NEW.items():
            (new / name).write_text(text)
        results_folder.publish(new, out, overwrite=True)

def fresh(out, existing):
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir()
    if existing:
        out.mkdir()
        for name, text in (OLD | USERS).items():
            (out / name).write_text(text)

def check(out, existing, where):
    staging.recover(out)
    found = content(out)
    before = OLD | USERS if existing else {}
    after = NEW | (USERS if existing else {})
    assert found in (before, after), (where, found)
    hidden = [path for place in (base, out) if place.exists() for path in place.iterdir() if path.name.startswith(".")]
    # One that died before it had a lock holds nothing, and goes a minute later.
    assert all(not any(path.iterdir()) or [p.name[:5] for p in path.iterdir()] == ["lock."] for path in hidden), (where, hidden)
    return found == after

steps = {}
for existing in (False, True):
    out = base / "out"
    step, finished, first_whole, tried = 0, False, None, []
    while not finished:
        fresh(out, existing)
        finished = doomed(step, lambda: run(out)) == 0
        state = [sorted(str(p.relative_to(base)).replace(home.name, "home") for p in base.rglob("*"))
                 for home in [p.parent for p in base.rglob("journal.json")]]
        journaled = bool(state) and state not in tried
        tried.append(state)
        if check(out, existing, (existing, step)) and first_whole is None:
            first_whole = step
        # Killed once more while it recovers, at every step of that.
        again = 0
        while journaled:
            fresh(out, existing)
            doomed(step, lambda: run(out))
            done = doomed(again, lambda: staging.recover(out)) == 0
            check(out, existing, (existing, step, again))
            again += 1
            if done:
                break
        step += 1
    steps[str(existing)] = [step, first_whole]
print(json.dumps(steps))
"""


@posix
def test_a_publish_killed_at_any_step_is_finished_or_undone(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path / "base")], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for step, first_whole in json.loads(done.stdout.splitlines()[-1]).values():
        # Some kills came before the new results were whole, and some after.
        assert 0 < first_whole < step and step > 10


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with earlier results and files of the user."""
    out = tmp_path / "out"
    out.mkdir()
    for name in ("report.json", "transform.h5", "warped-labels.nrrd", "thesis.txt", "thesis.mrb"):
        (out / name).write_text(name)
    (out / "years").mkdir()
    (out / "years" / "of.work").write_text("mine")
    return out


def publish(out: Path, **files: str) -> None:
    with results_folder.prepared_folder(out, overwrite=True) as new:
        for name, text in ({"report.json": "new"} | files).items():
            (new / name).write_text(text)
        results_folder.publish(new, out, overwrite=True)


def test_a_forged_report_deletes_nothing_but_results(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_text("mine")
    (folder / "inverse.h5").symlink_to(tmp_path / "outside.txt")
    (folder / "overlay.png").mkdir()
    (folder / "overlay.png" / "mine").touch()
    listed = ["thesis.txt", "years", "../outside.txt", str(tmp_path / "outside.txt"), "thesis.mrb", "inverse.h5", "overlay.png",
              "warped-labels.nrrd", "", ".", "..", 3, None, ["x"], "a\0b"]  # fmt: skip
    (folder / "report.json").write_text(json.dumps({"outputs": {str(n): name for n, name in enumerate(listed)}}))
    publish(folder)
    assert (folder / "report.json").read_text() == "new"
    assert {path.name for path in folder.iterdir()} == {
        "report.json", "transform.h5", "thesis.txt", "thesis.mrb", "years", "inverse.h5", "overlay.png",
    }  # fmt: skip
    assert (folder / "years" / "of.work").read_text() == "mine" and (tmp_path / "outside.txt").read_text() == "mine"
    assert (folder / "overlay.png" / "mine").exists()


NO_REPORTS = ["[]", "[" * 100_000, '{"outputs": 3}', "{", "1" * 5000, '{"outputs": ["transform.h5"]}', "\udcff"]


@pytest.mark.parametrize("text", NO_REPORTS, ids=[text[:20].encode("ascii", "replace").decode() for text in NO_REPORTS])
def test_a_report_that_is_none_costs_nothing(folder: Path, text: str) -> None:
    (folder / "report.json").write_bytes(text.encode("utf-8", errors="surrogateescape"))
    publish(folder)
    assert (folder / "transform.h5").read_text() == "transform.h5"


def test_a_result_never_takes_the_place_of_a_folder_or_of_a_links_target(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "disk.nrrd").write_text("mine")
    (folder / "warped.nrrd").symlink_to(tmp_path / "disk.nrrd")
    publish(folder, **{"warped.nrrd": "new"})
    assert (folder / "warped.nrrd").read_text() == "new" and (tmp_path / "disk.nrrd").read_text() == "mine"
    (folder / "inverse.h5").mkdir()
    with pytest.raises(InputError, match=r"holds a folder 'inverse\.h5', which stays"):
        publish(folder, **{"inverse.h5": "new"})
    assert (folder / "inverse.h5").is_dir()


def test_a_forged_or_copied_journal_moves_nothing(folder: Path) -> None:
    before = {path.name for path in folder.iterdir()}
    home = folder / ".out.partial-forged"
    for part in ("new", "old"):
        (home / part).mkdir(parents=True)
    (home / "new" / "thesis.txt").write_text("evil")
    (home / "lock").touch()
    for number in (0, home.stat().st_ino):
        for names in (["thesis.txt"], ["../thesis.txt"], [str(folder / "thesis.txt")]) if number else (["thesis.txt"],):
            out = "elsewhere" if number else "out"
            message = {"home": number, "out": out, "inside": False, "new": names, "old": ["transform.h5"]}
            (home / "journal.json").write_text(json.dumps(message))
            staging.recover(folder)
            assert (folder / "thesis.txt").read_text() == "thesis.txt"
            assert {path.name for path in folder.iterdir()} == before | {home.name}


def test_a_move_that_fails_for_good_is_told_and_loses_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename, moved = Path.rename, []

    def fail(self: Path, target: Path) -> Path:
        if self.name == "warped-labels.nrrd":
            raise OSError(5, "Input/output error")
        moved.append(self.name)
        return rename(self, target)

    (folder / "report.json").write_text(json.dumps({"outputs": {"a": "warped-labels.nrrd", "b": "transform.h5"}}))
    before = {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(InputError, match="could not be written to"):
        publish(folder)
    assert {path.name: path.read_text() for path in folder.iterdir() if path.is_file()} == before and moved
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_move_that_can_neither_go_on_nor_back_is_finished_by_the_next_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "report.json").write_text(json.dumps({"outputs": {"b": "transform.h5"}}))

    def fail(*given: object) -> None:
        raise OSError(5, "Input/output error")

    replace = Path.replace
    with monkeypatch.context() as broken:
        broken.setattr(Path, "replace", lambda self, target: fail() if self.parent.name == "new" else replace(self, target))
        broken.setattr(staging, "_move_back", fail)
        with pytest.raises(InputError, match="could not be written to"):
            publish(folder)
    # Even a process that must end at once leaves what earlier results have stepped aside to.
    (home,) = folder.glob(".out.partial-*")
    staging._held[home] = staging._Held(-1, ())
    monkeypatch.setattr(staging, "_moving", threading.RLock())
    monkeypatch.setattr(staging, "_published", threading.Event())
    assert staging.abandon_all()
    del staging._held[home]
    assert (home / "old" / "transform.h5").exists()
    staging.recover(folder)
    assert (folder / "report.json").read_text() == "new" and not home.exists()
    assert {path.name for path in folder.iterdir()} == {"report.json", "warped-labels.nrrd", "thesis.txt", "thesis.mrb", "years"}


@posix
def test_what_a_killed_run_left_goes_with_the_next_one_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom HyperPredictRegLib.core.staging import new_staging\n"
        "(new_staging(Path(sys.argv[1])) / 'patient.nrrd').write_text('x')\nos.kill(os.getpid(), 9)"
    )
    out = tmp_path / "out"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code, str(out)], check=False)
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "another")], check=False)
    assert len(list(tmp_path.rglob("patient.nrrd"))) == 3
    living = staging.new_staging(out)
    with results_folder.prepared_folder(out, overwrite=False):
        assert list(tmp_path.rglob("patient.nrrd")) == [] and living.exists()
    assert list(tmp_path.iterdir()) == [living.parent]
    staging.remove_staging(living)
    assert list(tmp_path.iterdir()) == []


def test_results_beside_others_leave_those_alone(folder: Path) -> None:
    (folder / "report.json").write_text(json.dumps({"outputs": {"a": "transform.h5"}}))
    with results_folder.prepared_folder(folder, overwrite=False, names=["moving-warped.nrrd"]) as new:
        (new / "moving-warped.nrrd").write_text("applied")
        results_folder.publish(new, folder, overwrite=False, earlier=())
    assert (folder / "transform.h5").exists() and (folder / "moving-warped.nrrd").read_text() == "applied"
    names = ["moving-warped.nrrd"]
    with pytest.raises(InputError, match="holds a file"), results_folder.prepared_folder(folder, False, names=names):
        pass


@pytest.mark.parametrize("below", ["", "out", "deep/er/out"])
def test_results_never_go_into_a_folder_that_is_read(tmp_path: Path, below: str) -> None:
    series = tmp_path / "series"
    series.mkdir()
    (series / "1.dcm").touch()
    with (
        pytest.raises(InputError, match="lies in the input folder"),
        results_folder.prepared_folder(series / below, overwrite=True, inputs=[series]),
    ):
        pass
    assert [path.name for path in series.rglob("*")] == ["1.dcm"]
    # Inputs in the output folder, on the other hand, are usual.
    with results_folder.prepared_folder(tmp_path, overwrite=False, inputs=[series]):
        pass
    shutil.rmtree(series)
