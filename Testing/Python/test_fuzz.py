"""Three hundred broken and hostile inputs, the same each time: accepted, or refused in a sentence; no crash, hang, or trace."""

from __future__ import annotations

import sys
from pathlib import Path

import fuzz_samples
import numpy as np
import pytest
from fuzz_samples import KINDS, Tried, try_all, try_one
from HyperPredictRegLib.core.errors import InputError

PER_KIND = 50


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_input_does_more_than_be_refused(kind: str) -> None:
    found = try_all(kind, range(PER_KIND))
    wrong = [str(tried) for tried in found if tried.wrong]
    assert not wrong, "\n".join(wrong)
    assert [tried.seed for tried in found] == list(range(PER_KIND))
    # Changes that nobody minds, and changes that nobody can miss: a fuzz test that knows one of them only tests nothing.
    accepted = sum(tried.accepted for tried in found)
    assert 0 < accepted < PER_KIND, accepted


@pytest.mark.parametrize(
    ("outcome", "wrong"),
    [
        (InputError("The job 'job.json' is no job: write another."), ""),
        (InputError("The job 'job.json' is no job"), "without a sentence"),
        (InputError(""), "without a sentence"),
        (InputError("Traceback (most recent call last): in the job."), "without a sentence"),
        (InputError("Something is wrong."), "without its name"),
        (ValueError("The job 'job.json' is no job."), "raised ValueError"),
        (KeyboardInterrupt(), "raised KeyboardInterrupt"),
        (None, ""),
    ],
)
def test_the_judge_can_say_no(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: BaseException | None, wrong: str
) -> None:
    def read() -> None:
        if outcome is not None:
            raise outcome

    monkeypatch.setitem(fuzz_samples._MAKERS, "jobs", lambda random, base, folder: (folder / "job.json", read))
    tried = try_one("jobs", 0, tmp_path)
    assert (wrong in tried.wrong) if wrong else tried.wrong == ""
    assert tried.accepted == (outcome is None)


def test_what_is_written_beside_the_input_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def maker(random: np.random.Generator, base: Path, folder: Path) -> fuzz_samples.Made:
        return folder / "job.json", lambda: (folder / "more").write_text("x")

    monkeypatch.setitem(fuzz_samples._MAKERS, "jobs", maker)
    assert "written beside" in try_one("jobs", 0, tmp_path).wrong


def test_a_crash_is_a_failure_that_names_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "child.py"
    script.write_text(
        "import json, os, sys\n"
        "for seed in range(int(sys.argv[2]), int(sys.argv[3])):\n"
        "    if seed in (1, 3): os.abort()\n"
        "    print(json.dumps({'kind': sys.argv[1], 'seed': seed, 'wrong': '', 'accepted': True}), flush=True)\n"
    )
    monkeypatch.setattr(fuzz_samples, "__file__", str(script))
    found = try_all("images", range(5))
    assert [tried.seed for tried in found] == [0, 1, 2, 3, 4]
    assert [bool(tried.wrong) for tried in found] == [False, True, False, True, False]
    assert "ended the process with" in found[1].wrong and "fuzz_samples.py images 1" in str(found[1])
    assert Tried("images", 1, "").wrong == "" and sys.executable
