"""Work that is cut short, at any moment and by anyone, leaves no half a result, no process and no change to the inputs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from HyperPredictRegLib.worker import Child, new_workplace, process
from worker_samples import digests, is_alive, kill_at_random_moments, seconds_until, worker_that, write_small_job

LIMIT = 600.0
MOMENTS = 8
MOMENTS_AT_START = 2

posix = pytest.mark.skipif(os.name != "posix", reason="ends processes by signals")


@pytest.mark.slow
@posix
def test_kills_at_random_moments_leave_nothing_behind(tmp_path: Path) -> None:
    endings = kill_at_random_moments(tmp_path, MOMENTS, MOMENTS_AT_START, seed=20240901)
    assert len(endings) == MOMENTS + MOMENTS_AT_START
    # Kills that all came too late would show nothing.
    assert endings.count("cancelled") >= 2 and endings.count("failed") >= 1, endings


PARENT = """
import json, sys, time
from pathlib import Path
from HyperPredictRegLib.worker import Child, new_workplace, process
inputs, code, then = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
if code:
    process._CODE = code
workplace = new_workplace(inputs.parent / "temporary")
child = Child("register", inputs / "job.json", workplace=workplace)
while not child.poll():
    time.sleep(0.005)
print(json.dumps([child._inbox.worker_pid, str(workplace)]), flush=True)
if then == "wait":
    time.sleep(3600)
if then == "forget":
    del child
    time.sleep(3600)
"""

STUBBORN = "progress(ProgressEvent('a', 0.5))\ntime.sleep(3600)"


@posix
@pytest.mark.parametrize("code", ["", worker_that(STUBBORN)], ids=["cooperative", "stubborn"])
@pytest.mark.parametrize("then", ["wait", "end", "forget"])
def test_a_worker_does_not_outlive_its_parent(tmp_path: Path, code: str, then: str) -> None:
    inputs, results = tmp_path / "inputs", tmp_path / "results"
    inputs.mkdir()
    results.mkdir()
    # A registration long enough to be met at work.
    write_small_job(inputs, results / "out", voxels=48, alignment={})
    before = digests(inputs)
    command = [sys.executable, "-c", PARENT, str(inputs), code, then]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as parent:
        assert parent.stdout is not None
        worker, workplace = json.loads(parent.stdout.readline())
        assert Path(workplace).is_dir() or then != "wait"
        if then == "wait":
            assert is_alive(worker)
            parent.kill()
        gone = seconds_until(lambda: not is_alive(worker), LIMIT)
        removed = seconds_until(lambda: not Path(workplace).exists(), LIMIT)
        parent.kill()
    assert gone < LIMIT and removed < LIMIT
    # Nor did it end by having finished.
    assert list(results.iterdir()) == []
    assert digests(inputs) == before


@posix
def test_an_orphan_removes_nothing_but_a_folder_made_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "thesis.txt").write_text("years")
    monkeypatch.setattr(process, "_CODE", worker_that(STUBBORN))
    child = Child("register", tmp_path / "job.json", workplace=tmp_path)
    assert seconds_until(lambda: bool(child.poll()), LIMIT) < LIMIT
    assert child._process is not None and child._process.stdin is not None
    child._process.stdin.close()
    assert seconds_until(lambda: child.ending is not None, LIMIT) < LIMIT
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "years"


@posix
def test_results_that_a_killed_worker_was_writing_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    job = write_small_job(inputs, tmp_path / "results" / "out")
    (tmp_path / "results").mkdir()
    other = tmp_path / "results" / ".out.partial-of-another"
    other.mkdir()
    out = str(tmp_path / "results" / "out")
    begin_one = f"from HyperPredictRegLib.core.staging import new_staging\n(new_staging(Path({out!r})) / 'a').touch()\n"
    for end in ("kill", "orphan", "sudden"):
        monkeypatch.setattr(process, "_CODE", worker_that(begin_one + STUBBORN))
        child = Child("register", job, workplace=new_workplace(tmp_path / "temporary"))
        assert seconds_until(lambda child=child: bool(child.poll()), LIMIT) < LIMIT
        assert len(list((tmp_path / "results").iterdir())) == 2
        assert child._process is not None and child._process.stdin is not None
        if end == "kill":
            child.kill()
        elif end == "orphan":
            child._process.stdin.close()
            assert seconds_until(lambda child=child: not is_alive(child._process.pid), LIMIT) < LIMIT
        else:
            os.kill(child._process.pid, signal.SIGKILL)
            child.wait(timeout=LIMIT)
        assert list((tmp_path / "results").iterdir()) == [other]


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_gets_a_signal_stops_as_if_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    out = str(tmp_path / "results" / "out")
    body = (
        "from HyperPredictRegLib.core.staging import new_staging\n"
        f"(new_staging(Path({out!r})) / 'patient.nrrd').touch()\n{STUBBORN}"
    )
    monkeypatch.setattr(process, "_CODE", worker_that(body))
    child = Child("register", tmp_path / "job.json", workplace=new_workplace(tmp_path / "temporary"))
    assert seconds_until(lambda: bool(child.poll()), LIMIT) < LIMIT
    assert child._process is not None
    os.kill(child._process.pid, number)
    ending = child.wait(timeout=LIMIT)
    assert child._process.returncode == 130 and ending.outcome != "done" and "Traceback" not in child.log
    assert not (tmp_path / "results").exists()


@posix
def test_a_page_that_is_killed_while_it_is_put_in_place_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.json").write_text("old")
    (out / "overlay.png").write_text("old")
    body = (
        "from HyperPredictRegLib.core import staging\n"
        "from HyperPredictRegLib.results import results_folder\n"
        "move = staging._move\n"
        "def half(home, out, journal):\n"
        "    (out / 'report.json').rename(home / 'old' / 'report.json')\n"
        "    os.kill(os.getpid(), 9)\n"
        "staging._move = half\n"
        f"out = Path({str(out)!r})\n"
        "with results_folder.prepared_folder(out, True, names=()) as new:\n"
        "    for name in ('report.json', 'report.html'): (new / name).write_text('new')\n"
        "    results_folder.publish(new, out, True, earlier=())\n"
    )
    (tmp_path / "job.json").write_text(json.dumps({"out": str(out)}))
    monkeypatch.setattr(process, "_CODE", worker_that(body))
    child = Child("register", tmp_path / "job.json", workplace=new_workplace(tmp_path / "temporary"))
    assert child.wait(timeout=LIMIT).outcome == "failed"
    # Whoever waited for it has finished what it had begun.
    found = {path.name: path.read_text(encoding="utf-8") for path in out.iterdir()}
    assert found == {"report.json": "new", "report.html": "new", "overlay.png": "old"}
