"""Work in a process of its own: what arrives, how it ends, and what happens when the process does not behave."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import SimpleITK as sitk
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.results.exchange import read_outcome, read_prediction
from HyperPredictRegLib.worker import Child, ChildEvent, new_workplace, process, remove_workplace
from HyperPredictRegLib.worker.inbox import Inbox
from worker_samples import is_alive, seconds_until, worker_that, write_small_job

LIMIT = 600.0
NOTHING_TO_DO = "pass"

Start = Callable[..., Child]


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    return new_workplace(tmp_path / "work 'place' \"ä\"")


@pytest.fixture
def start(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Start a worker whose registration is the given code, or another program altogether."""

    def begin(body: str = NOTHING_TO_DO, code: str | None = None, **options: object) -> Child:
        monkeypatch.setattr(process, "_CODE", worker_that(body) if code is None else code)
        return Child("register", workplace / "job.json", workplace=workplace, **options)

    return begin


def test_a_registration_arrives_whole(workplace: Path) -> None:
    out = workplace / "out"
    events: list[ChildEvent] = []
    child = Child("register", write_small_job(workplace, out), workplace=workplace)
    ending = child.wait(events.append, timeout=LIMIT)
    assert (ending.outcome, ending.sentence, ending.bad_input) == ("done", "", False), (ending, child.log)
    stages = list(dict.fromkeys(event.stage for event in events))
    assert stages == ["read", "align", "predict", "register", "measure", "write"]
    for stage in ("align", "register", "write"):
        assert [event.fraction for event in events if event.stage == stage][-1] == 1.0
    assert any(event.metric is not None for event in events)
    assert read_outcome(out).report.measured.dice is not None
    before = set(out.iterdir())
    ending = Child("page", out, workplace=workplace).wait(timeout=LIMIT)
    assert ending.outcome == "done", ending
    outputs = read_outcome(out).report.outputs
    assert {path.name for path in out.iterdir()} == {*outputs.values(), "report.json"}
    assert set(out.iterdir()) > before and outputs["report_page"] == "report.html"
    assert workplace.is_dir()


@pytest.mark.slow
def test_a_prediction_arrives_and_another_worker_registers_by_it(workplace: Path) -> None:
    """Only its text goes from one worker to the other, as through a scene that was saved in between."""
    pytest.importorskip("torch")
    out, later = workplace / "out", workplace / "registered"
    given = {"voxels": 40, "predictor": "bundled", "alignment": {}, "fixed_labels": None, "moving_labels": None}
    ending = Child("predict", write_small_job(workplace, out, **given), workplace=workplace).wait(timeout=LIMIT)
    assert ending.outcome == "done", ending
    prediction = read_prediction(out / "prediction.json")
    assert prediction.surface.quality().value.shape == prediction.surface.values.shape[:1]
    assert prediction.job.out == str(out)
    text = (out / "prediction.json").read_text(encoding="utf-8")
    shutil.rmtree(out)
    (workplace / "given.json").write_text(text, encoding="utf-8")
    path = write_small_job(workplace, later, **given, prediction=str(workplace / "given.json"))
    ending = Child("register", path, workplace=workplace).wait(timeout=LIMIT)
    assert ending.outcome == "done", ending
    report = read_outcome(later).report
    assert report.choice == prediction.choice and report.alignment.from_prediction


def test_a_prediction_of_voxels_that_were_edited_since_is_made_anew(workplace: Path) -> None:
    pytest.importorskip("torch")
    out = workplace / "out"
    given = {"voxels": 40, "predictor": "bundled", "alignment": {}, "fixed_labels": None, "moving_labels": None}
    assert Child("predict", write_small_job(workplace, out, **given), workplace=workplace).wait(timeout=LIMIT).outcome == "done"
    path = write_small_job(workplace, workplace / "registered", **given, prediction=str(out))
    moving = sitk.ReadImage(str(workplace / "moving.nrrd"))
    moving[20, 20, 20] = 7
    sitk.WriteImage(moving, str(workplace / "moving.nrrd"))
    ending = Child("register", path, workplace=workplace).wait(timeout=LIMIT)
    assert ending.outcome == "done", ending
    report = read_outcome(workplace / "registered").report
    assert report.reliability is not None and not report.alignment.from_prediction


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("register", {"moving": "nowhere.nrrd"}, "The moving image 'nowhere.nrrd' does not exist"),
        ("register", {"preset": "huge"}, "There is no preset 'huge'"),
        ("predict", {"preset": "huge"}, "There is no preset 'huge'"),
        ("page", {}, "holds no 'working-state.json'"),
    ],
)
def test_bad_input_is_told_in_the_sentence_of_the_library(
    workplace: Path, task: str, changes: dict[str, str], message: str
) -> None:
    path = write_small_job(workplace, workplace / "out", **changes)
    child = Child(task, workplace if task == "page" else path, workplace=workplace)
    ending = child.wait(timeout=LIMIT)
    assert ending.outcome == "failed" and ending.bad_input and message in ending.sentence
    assert child._process is not None and child._process.returncode == 2
    assert not (workplace / "out").exists()


def test_a_job_that_is_none_is_bad_input(workplace: Path) -> None:
    for text in (None, "{", '{"fixed": 3}'):
        if text is not None:
            (workplace / "job.json").write_text(text)
        ending = Child("register", workplace / "job.json", workplace=workplace).wait(timeout=LIMIT)
        assert ending.outcome == "failed" and ending.bad_input and str(workplace / "job.json") in ending.sentence


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("raise RegistrationError('It diverged.')", 1, "It diverged."),
        ("raise ZeroDivisionError('by nothing')", 1, "Something unexpected went wrong (ZeroDivisionError: by nothing)"),
        ("raise MemoryError", 1, "There was not enough memory"),
        ("raise RuntimeError('itk::ERROR: x\\nFailed to allocate memory for image.')", 1, "There was not enough memory"),
        ("import not_there.at_all", 1, "The Python package 'not_there' is needed"),
        ("raise InputError('Give an image.')", 2, "Give an image."),
    ],
)
def test_every_fault_is_a_sentence_with_its_traceback(start: Start, body: str, code: int, message: str) -> None:
    child = start(body)
    ending = child.wait(timeout=LIMIT)
    assert ending.outcome == "failed" and message in ending.sentence and ending.bad_input == (code == 2)
    assert ("Traceback" in ending.detail and "in task" in ending.detail) == (code == 1)
    assert child._process is not None and child._process.returncode == code


def test_what_others_print_does_not_tear_the_protocol(start: Start) -> None:
    child = start(
        "print('a stray print', flush=True)\n"
        "os.write(1, b'a native print\\n')\n"
        "os.system('echo a program of its own')\n"
        "os.write(1, b'{\"event\": \"failed\"}\\nhalf a line')\n"
        "progress(ProgressEvent('λ', 0.5, 'Grüße \\ud800 {', float('nan')))\n"
        "assert sys.stdin.read() == ''\n"
    )
    events: list[ChildEvent] = []
    assert child.wait(events.append, timeout=LIMIT).outcome == "done", child.log
    assert [(e.stage, e.fraction, e.message, e.metric) for e in events] == [("λ", 0.5, "Grüße \ud800 {", None)]
    assert all(text in child.log for text in ("a stray print", "a native print", "a program of its own"))


def test_progress_is_thinned_but_no_stage_loses_an_end(start: Start) -> None:
    child = start(
        "for stage in 'abc':\n"
        "    for n in range(2001):\n"
        "        progress(ProgressEvent(stage, n / 2000))\n"
        "        time.sleep(0.0002)\n"
        "progress(ProgressEvent('d', 0.1))\n"
        "progress(ProgressEvent('d', 0.2))\n"
        "progress(ProgressEvent('d', 0.3))\n"
        "time.sleep(3600)\n"
    )
    events: list[ChildEvent] = []

    def arrived() -> bool:
        events.extend(child.poll())
        return bool(events) and (events[-1].stage, events[-1].fraction) == ("d", 0.3)

    assert seconds_until(arrived, LIMIT) < LIMIT
    child.kill()
    for stage in "abc":
        fractions = [event.fraction for event in events if event.stage == stage]
        assert fractions[0] == 0.0 and fractions[-1] == 1.0 and fractions == sorted(fractions)
        assert len(fractions) < 100
    assert [e.fraction for e in events if e.stage == "d"] == [0.1, 0.3]


def test_a_flood_of_words_neither_blocks_nor_fills_the_memory(start: Start) -> None:
    child = start("for n in range(2000): sys.stderr.write('x' * 20_000 + '\\n')\nsys.stderr.write('the end \\u00e4')")
    assert child.wait(timeout=LIMIT).outcome == "done"
    assert len(child.log) <= 200_000 and child.log.endswith("the end ä")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import ctypes, faulthandler; faulthandler.enable(); ctypes.string_at(0)", "signal SIGSEGV"),
        ("import os; os.kill(os.getpid(), 9)", "Most likely the memory ran out"),
        ("import os; os.write(2, b'error: [x] exit abnormally'); os._exit(1)", "Most likely the memory ran out"),
        ("import os; os._exit(3)", "exit code 3"),
        ("pass", "exit code 0"),
        ("import no_such_library", "exit code 1"),
    ],
)
@pytest.mark.skipif(os.name != "posix", reason="signals end processes on POSIX only")
def test_a_death_without_a_word_is_told(start: Start, code: str, message: str) -> None:
    child = start(code=code)
    ending = child.wait(timeout=LIMIT)
    assert ending.outcome == "failed" and not ending.bad_input
    assert "The registration ended unexpectedly" in ending.sentence and message in ending.sentence
    assert ending.detail == child.log
    if "segv" in message.lower():
        assert "Fatal Python error" in child.log


def test_nonsense_goes_to_the_log(start: Start) -> None:
    lines = ["hello", '{"event": "progress"}', '{"event": "progress", "stage": "a", "fraction": "x"}', "[1]", '"event"', "{}"]
    lines += ['{"event": "news"}', '{"event": "started", "pid": null}', "[" * 5000]
    child = start(code=f"import os\nos.write(1, b'\\xff\\xfe\\n')\nprint('\\n'.join({lines!r}))")
    assert child.wait(timeout=LIMIT).outcome == "failed"
    assert child.poll() == [] and all(line in child.log for line in lines) and "\ufffd" in child.log


def test_a_python_that_cannot_be_started_is_told(workplace: Path, tmp_path: Path) -> None:
    for python in (tmp_path / "no such python", tmp_path):
        child = Child("register", workplace / "job.json", workplace=workplace, python=str(python))
        ending = child.wait(timeout=1)
        assert ending.outcome == "failed" and "could not be started" in ending.sentence
        child.kill()
        assert child.ending is ending and child.poll() == []


def test_the_library_is_found_where_it_lies(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "eine 'Bibliothek' ; import ä"
    package = folder / "HyperPredictRegLib" / "worker"
    package.mkdir(parents=True)
    for place in (package.parent, package):
        (place / "__init__.py").touch()
    (package / "main.py").write_text("import json, sys\ndef main(): sys.stderr.write(__file__ + json.dumps(sys.argv[1:]))\n")
    # A file of the current folder must not take the place of a library's.
    (tmp_path / "json.py").write_text("raise SystemExit(77)")
    monkeypatch.chdir(tmp_path)
    child = Child("register", workplace / "job.json", workplace=workplace, library=folder)
    child.wait(timeout=LIMIT)
    # A file below a folder with such a name is found, and its arguments arrive as they were given.
    assert str(package / "main.py") in child.log
    assert process._CODE not in child.log and '"register"' in child.log and "work 'place'" in child.log


@pytest.mark.skipif(os.name != "posix", reason="the stand-in for Slicer's launcher is a shell script")
def test_inside_slicer_its_launcher_is_used_and_ended_with_what_it_started(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = tmp_path / "Slicer ä" / "PythonSlicer"
    launcher.parent.mkdir()
    launcher.write_text(f'#!/bin/sh\n"{sys.executable}" "$@"\nexit $?\n')
    launcher.chmod(0o755)
    monkeypatch.setenv("PATH", f"{launcher.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setitem(sys.modules, "slicer", types.SimpleNamespace(app=object()))
    # It is deaf: it does not listen to what it is asked.
    line = """print('{"event": "started", "pid": %d}' % os.getpid(), flush=True)"""
    child = start(code=f"import os, time\n{line}\ntime.sleep(3600)")
    assert seconds_until(lambda: child._inbox.worker_pid is not None, LIMIT) < LIMIT
    worker = child._inbox.worker_pid
    assert child._process is not None and worker is not None and worker != child._process.pid
    child.kill()
    assert seconds_until(lambda: not is_alive(worker), LIMIT) < LIMIT
    assert not is_alive(child._process.pid)


def test_a_kill_is_quick_sure_and_harmless_to_repeat(start: Start) -> None:
    child = start("progress(ProgressEvent('a', 0.5))\ntime.sleep(3600)")
    assert child.ending is None
    assert seconds_until(lambda: bool(child.poll()), LIMIT) < LIMIT
    with pytest.raises(TimeoutError):
        child.wait(timeout=0.05)
    child.kill()
    assert child._process is not None and not is_alive(child._process.pid)
    ending = child.ending
    assert ending is not None and ending.outcome == "cancelled" and "nothing was written" in ending.sentence
    child.kill()
    assert child.wait(timeout=1) is ending and child.poll() == []


def test_a_worker_that_stops_by_itself_may_tidy_up(start: Start, workplace: Path) -> None:
    note = workplace / "tidied"
    child = start(
        f"progress(ProgressEvent('a', 0.5))\ntry:\n    while True: stop_if(cancelled); time.sleep(0.01)\n"
        f"finally: Path({str(note)!r}).touch()"
    )
    assert seconds_until(lambda: bool(child.poll()), LIMIT) < LIMIT
    child.kill()
    assert child.ending is not None and child.ending.outcome == "cancelled"
    assert note.exists() and child._process is not None and child._process.returncode == 130


@pytest.mark.parametrize("late", [0.0, 0.1])
def test_a_kill_after_the_end_changes_nothing(start: Start, monkeypatch: pytest.MonkeyPatch, late: float) -> None:
    take = Inbox._take
    monkeypatch.setattr(Inbox, "_take", lambda inbox, line: (time.sleep(late), take(inbox, line)))
    child = start()
    assert child._process is not None
    child._process.wait(LIMIT)
    child.kill()
    assert child.ending is not None and child.ending.outcome == "done"


def test_nothing_is_left_of_a_child_that_ended(start: Start) -> None:
    child = start()
    assert child._process is not None
    # Nobody polls: the system's list of processes must be tidy all the same.
    if Path("/proc").is_dir():
        entry = Path(f"/proc/{child._process.pid}")
        assert seconds_until(lambda: not entry.exists(), LIMIT) < LIMIT
    assert child.wait(timeout=LIMIT).outcome == "done"
    streams = (child._process.stdin, child._process.stdout, child._process.stderr)
    assert all(stream is not None and stream.closed for stream in streams)
    assert not any(reader.is_alive() for reader in child._readers)


def test_a_worker_that_said_its_last_word_but_does_not_go_is_ended(start: Start) -> None:
    line = """print('{"event": "done"}', flush=True)"""
    child = start(code=f"import time\n{line}\ntime.sleep(60)")
    assert child.wait(timeout=LIMIT).outcome == "done"
    assert child._process is not None and not is_alive(child._process.pid)


def test_only_a_folder_that_was_made_for_it_is_removed(tmp_path: Path) -> None:
    own = tmp_path / "mine"
    own.mkdir()
    (own / "thesis.txt").write_text("years")
    remove_workplace(own)
    assert (own / "thesis.txt").exists()
    made = new_workplace(tmp_path / "deep" / "er")
    (made / "out").mkdir()
    (made / "out" / "a.nrrd").touch()
    (made / "link").symlink_to(own)
    (tmp_path / "way").symlink_to(made)
    remove_workplace(tmp_path / "way")
    assert made.exists()
    remove_workplace(made)
    assert not made.exists() and (own / "thesis.txt").exists()
    remove_workplace(made)


def test_a_workplace_whose_maker_died_goes_at_once_and_a_living_ones_stays(tmp_path: Path) -> None:
    code = f"from pathlib import Path\nfrom HyperPredictRegLib.worker import new_workplace\nimport os\n" \
        f"print(new_workplace(Path({str(tmp_path)!r})), flush=True)\nos.kill(os.getpid(), 9)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False).stdout
    old, living = Path(printed.strip()), new_workplace(tmp_path)
    # However long an application stays open.
    week = time.time() - 7 * 24 * 3600
    os.utime(next(living.glob(".*")), (week, week))
    newest = new_workplace(tmp_path)
    assert old.parent == tmp_path
    assert (old.exists(), living.exists(), newest.exists()) == (False, True, True)
    remove_workplace(living)
    assert not living.exists()


def test_a_workplace_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="No folder for temporary files"):
        new_workplace(tmp_path / "file")
