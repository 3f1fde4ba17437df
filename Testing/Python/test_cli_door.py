"""Whatever happens, the command ends with a sentence and an exit code, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from worker_samples import digests, write_small_job

posix = pytest.mark.skipif(os.name != "posix", reason="uses signals and devices of POSIX")

COMMAND = [sys.executable, "-m", "HyperPredictRegLib.cli"]
LIMIT = 600


def main_after(code: str, *words: str) -> list[str]:
    """Return a command line whose process runs `code`, then the command's own entry point."""
    return [sys.executable, "-c", f"import sys\n{code}\nfrom HyperPredictRegLib.cli import main\nmain()", *words]


def ended(command: list[str], folder: Path, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "LOCALAPPDATA": str(folder / "cache")}
    environment.update(options.pop("environment", {}))  # type: ignore[call-overload]
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", check=False, env=environment, timeout=LIMIT, **options
    )


def app_that(body: str) -> str:
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return f"from HyperPredictRegLib.cli import commands\ndef app():\n{lines}\ncommands.app = app"


CRASHES = [
    ("1 / 0", 1, "ZeroDivisionError"),
    ("app()", 1, "RecursionError"),
    ("raise RuntimeError('itk::ERROR: x\\nthe last line')", 1, "RuntimeError: the last line"),
    ("class Mute(Exception):\n    def __str__(self): raise ValueError\nraise Mute", 1, "Mute"),
    ("raise BaseException('odd')", 1, "odd"),
    ("raise RuntimeError('half \\ud800')", 1, "half"),
]


@pytest.mark.parametrize(("body", "code", "message"), CRASHES, ids=[message for _, _, message in CRASHES])
def test_whatever_is_left_is_a_sentence_and_a_log(tmp_path: Path, body: str, code: int, message: str) -> None:
    done = ended(main_after(app_that(body)), tmp_path)
    log = tmp_path / "cache" / "hyperpredictreg" / "errors.log"
    assert done.returncode == code and done.stdout == ""
    assert done.stderr.startswith("Error: ") and message in done.stderr and str(log) in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1
    assert "Traceback" in log.read_text(encoding="utf-8")


TOLD = [
    ("raise MemoryError", 1, "not enough memory"),
    ("raise KeyboardInterrupt", 130, "Stopped."),
    ("raise PermissionError(13, 'Permission denied', '/x/y')", 2, "'/x/y' could not be used (Permission denied)"),
    ("raise OSError(28, 'No space left on device', '/x/y')", 2, "The disk is full at '/x/y'"),
    ("open('x' * 300)", 2, "File name too long"),
    ("raise BrokenPipeError(32, 'Broken pipe')", 1, "cut off"),
    ("from HyperPredictRegLib.core.errors import Cancelled\nraise Cancelled('Enough.')", 130, "Enough."),
    ("from HyperPredictRegLib.core.errors import RegistrationError\nraise RegistrationError('It diverged.')", 1, "It diverged."),
    ("sys.exit(3)", 3, ""),
    ("import warnings\nwarnings.warn('divide by zero')", 0, ""),
    ("import atexit, threading\nthreading.Thread(target=lambda: 1 / 0).start()", 0, ""),
]


@pytest.mark.parametrize(("body", "code", "message"), TOLD, ids=[f"{code} {message[:20]}" for _, code, message in TOLD])
def test_what_is_understood_is_told_by_its_own_sentence(tmp_path: Path, body: str, code: int, message: str) -> None:
    done = ended(main_after(app_that(body)), tmp_path)
    assert done.returncode == code and message in done.stderr and "Traceback" not in done.stderr
    assert (message == "") == (done.stderr == "")


def test_a_package_that_does_not_load_is_named(tmp_path: Path) -> None:
    done = ended(main_after("sys.modules['typer'] = None"), tmp_path)
    assert done.returncode == 1 and "The Python package 'typer' could not be loaded" in done.stderr
    done = ended(main_after("sys.modules['HyperPredictRegLib.cli.commands'] = None"), tmp_path)
    assert done.returncode == 1 and "unexpected" in done.stderr and "Traceback" not in done.stderr


@posix
def test_without_a_place_for_the_log_there_is_still_a_sentence(tmp_path: Path) -> None:
    environment = {"XDG_CACHE_HOME": os.devnull, "TMPDIR": os.devnull}
    code = app_that("1 / 0") + "\nimport tempfile\ntempfile.gettempdir = lambda: '/dev/null'"
    done = ended(main_after(code), tmp_path, environment=environment)
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr and "errors.log" not in done.stderr
    assert "Traceback" not in done.stderr


@posix
def test_the_log_is_one_file_that_does_not_grow_for_ever_and_follows_no_link(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "hyperpredictreg"
    folder.mkdir(parents=True)
    (folder / "errors.log").write_bytes(bytes(2 << 20))
    for _ in range(2):
        ended(main_after(app_that("1 / 0")), tmp_path)
    assert {path.name for path in folder.iterdir()} == {"errors.log", "errors.log.1"}
    assert (folder / "errors.log").read_text(encoding="utf-8").count("ZeroDivisionError") == 2
    (tmp_path / "thesis.txt").write_text("years")
    (folder / "errors.log").unlink()
    (folder / "errors.log").symlink_to(tmp_path / "thesis.txt")
    done = ended(main_after(app_that("1 / 0")), tmp_path, environment={"TMPDIR": str(tmp_path)})
    assert done.returncode == 1 and (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "years"


@posix
def test_output_that_nobody_takes_is_told(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*COMMAND, "--help"], stdout=full, stderr=subprocess.PIPE, encoding="utf-8", check=False)
    assert done.returncode == 1 and "could not be written (No space left on device)" in done.stderr
    assert "Traceback" not in done.stderr
    source, sink = os.pipe()
    os.close(source)
    done = subprocess.run([*COMMAND, "register", "--help"], stdout=sink, stderr=subprocess.PIPE, encoding="utf-8", check=False)
    os.close(sink)
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr and "Exception" not in done.stderr
    # Neither output, not even for the sentence.
    done = subprocess.run(
        ["sh", "-c", '"$@" >&- 2>&-', "sh", *main_after(app_that("1 / 0"))], capture_output=True, check=False, encoding="utf-8"
    )
    assert done.returncode == 1 and done.stdout + done.stderr == ""


# Sends a signal to itself at the n-th of the interpreter's own events, once the door stands: imports first, then files.
AT_EVENT = """
import os, signal
nth, number, seen = int(sys.argv.pop(1)), int(sys.argv.pop(1)), 0
def hook(event, arguments):
    global seen
    if event in ("import", "open", "os.rename", "os.mkdir") and signal.getsignal(number) not in (
        signal.default_int_handler, signal.SIG_DFL):
        seen += 1
        if seen == nth:
            os.kill(os.getpid(), number)
        if nth < 0:
            os.write(1, b".")
sys.addaudithook(hook)
"""


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, set[str]]:
    """A small job, of how many events its run consists, and which files it leaves."""
    folder = tmp_path_factory.mktemp("signals")
    (folder / "in").mkdir()
    write_small_job(folder / "in", folder / "results" / "out")
    words = ("-1", "15", "register", "--job", str(folder / "in" / "job.json"), "--quiet", "--no-page")
    done = ended(main_after(AT_EVENT, *words), folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout.count("."), {path.name for path in (folder / "results" / "out").iterdir()}


@posix
@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.9, 0.98])
def test_a_signal_at_any_moment_ends_with_a_sentence_and_leaves_nothing(
    events: tuple[Path, int, set[str]], tmp_path: Path, share: float
) -> None:
    folder, count, complete = events
    before = digests(folder / "in")
    for number in (signal.SIGINT, signal.SIGTERM) if share < 0.1 else ([signal.SIGINT, signal.SIGTERM][int(share * 100) % 2],):
        words = (str(1 + int(share * count)), str(int(number)), "register", "--job", str(folder / "in" / "job.json"))
        done = ended(main_after(AT_EVENT, *words, "--out", str(tmp_path / "results" / "out"), "--quiet", "--no-page"), folder)
        assert done.returncode in (0, 130), (number, done.stderr)
        assert "Traceback" not in done.stderr and "Exception" not in done.stderr, done.stderr
        if done.returncode == 130:
            assert done.stderr.strip() in ("Stopped.", "The work was cancelled; nothing was written."), done.stderr
        if (tmp_path / "results").exists():
            # It was complete before it was asked to stop.
            assert {path.name for path in (tmp_path / "results").iterdir()} == {"out"}
            assert {path.name for path in (tmp_path / "results" / "out").iterdir()} == complete
        assert done.returncode == 130 or (tmp_path / "results").exists()
        assert digests(folder / "in") == before


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_work_that_does_not_hear_is_left(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "in").mkdir()
    write_small_job(tmp_path / "in", tmp_path / "deep" / "er" / "out")
    begun = tmp_path / "begun"
    # Under nohup, or in the background of a shell, a signal may be ignored, and the command then rightly goes on.
    code = (
        f"import signal\nsignal.signal({number:d}, signal.SIG_DFL)\n"
        "import time\nfrom pathlib import Path\nfrom HyperPredictRegLib.cli import commands\n"
        f"def draw(outcome, folder):\n    (folder / 'half.png').touch(); Path({str(begun)!r}).touch()\n    time.sleep(3600)\n"
        "commands._write_page = draw"
    )
    command = main_after(code, "register", "--job", str(tmp_path / "in" / "job.json"), "--quiet")
    with subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8") as process:
        while not begun.exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        try:
            message = process.communicate(timeout=LIMIT)[1]
        finally:
            # The block would wait for the hour that the work sleeps.
            process.kill()
    assert process.returncode == 130 and message == "The work was cancelled; nothing was written.\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun", "in"]


@posix
def test_a_signal_while_results_are_moved_costs_neither_old_nor_new(events: tuple[Path, int, set[str]], tmp_path: Path) -> None:
    folder, _, names = events
    # Earlier results, of another run of the same job.
    shutil.copytree(folder / "results" / "out", tmp_path / "out")
    words = ("register", "--job", str(folder / "in" / "job.json"), "--out", str(tmp_path / "out"))
    code = (
        "import os, signal, time\nfrom HyperPredictRegLib.core import staging\nmove = staging._move\n"
        "def slow(*given):\n    os.kill(os.getpid(), signal.SIGTERM); time.sleep(2.0); move(*given)\nstaging._move = slow"
    )
    done = ended(main_after(code, *words, "--quiet", "--no-page", "--overwrite"), tmp_path)
    assert done.returncode in (0, 130) and "Traceback" not in done.stderr
    assert {found.name for found in (tmp_path / "out").iterdir()} == names
    read_report = (tmp_path / "out" / "report.json").read_text(encoding="utf-8")
    assert read_report.endswith("}\n") and not list(tmp_path.glob(".*"))
