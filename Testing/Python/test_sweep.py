"""A sweep as a user runs it: real worker processes, a killed run that goes on, pairs that fail, folders that do not fit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from HyperPredictRegLib.cli import app
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.search_space import SearchSpace
from HyperPredictRegLib.engines import get_engine
from sweep_samples import write_manifest, write_organs
from typer.testing import CliRunner

from HyperPredictRegLab.manifest import read_manifest
from HyperPredictRegLab.sweep.design import Design
from HyperPredictRegLab.sweep.parts import part_name
from HyperPredictRegLab.sweep.running import sweep
from HyperPredictRegLab.sweep.runs import SweepSettings
from HyperPredictRegLab.training.examples import read_examples

OPTIONS = (
    "--engine", "demons", "--values", "0.7,2", "--workers", "1", "--set-alignment", "multi_start=false", "--quiet",
)  # fmt: skip


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "HyperPredictRegLib.cli", *map(str, words)]


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, encoding="utf-8", check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three organs with labels, and an image that cannot be registered."""
    return write_organs(tmp_path_factory.mktemp("organs"))


def tables(out: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    return pd.read_parquet(out / "runs.parquet"), pd.read_parquet(out / "features.parquet")


def stopped(words: tuple[str | Path, ...], out: Path, parts: int, number: int) -> tuple[int, str]:
    """Run a sweep until so many pairs are finished, send the signal to it and its workers; return its exit code and words."""
    streams: dict = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    with subprocess.Popen(command(*words), **streams, start_new_session=True) as it:
        # For a machine that hangs, not for one that is busy.
        deadline = time.monotonic() + 600
        while len(list(out.glob("parts/runs/*.parquet"))) < parts and time.monotonic() < deadline:
            time.sleep(0.005)
        if number == signal.SIGKILL:
            it.kill()  # it alone: its workers must notice by themselves
        else:
            os.killpg(it.pid, number)
        message = it.communicate(timeout=600)[1]
    return it.returncode, message


def test_a_stopped_sweep_goes_on_and_a_bad_pair_is_a_row_with_its_reason(folder: Path, tmp_path: Path) -> None:
    pairs = [("one", "anna", "bert"), ("two", "bert", "carl"), ("three", "carl", "bert"), ("odd", "carl", "anna")]
    manifest = write_manifest(folder / "stopped.csv", pairs, moving="empty.nrrd")
    out = tmp_path / "sweep"
    words = ("sweep", manifest, "--out", out, *OPTIONS)
    assert stopped(words, out, 1, signal.SIGKILL)[0] == -signal.SIGKILL
    # As Ctrl+C in a terminal, which reaches the workers too.
    code, message = stopped(words, out, 2, signal.SIGINT)
    assert code == 130, message
    assert message.endswith("Stopped. Finished pairs are kept: the same command goes on with the rest.\n")
    assert "Traceback" not in message
    finished = {path: path.stat().st_mtime_ns for path in out.glob("parts/runs/*.parquet")}
    assert 2 <= len(finished) < 4
    assert not (out / "runs.parquet").exists()

    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert "6 registrations in" in done.stdout
    assert "1 pair failed" in done.stdout
    assert "registrations per hour and core" in done.stdout
    assert "Failed: odd: " in done.stderr
    # What was finished is not done again.
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    runs, features = tables(out)
    good, odd = runs[runs["pair"] != "odd"], runs[runs["pair"] == "odd"]
    rows = [(row.pair, row.regularization_weight) for row in good.itertuples()]
    assert sorted(rows) == [(pair, weight) for pair in ("one", "three", "two") for weight in (0.7, 2.0)]
    assert (good["error"] == "").all()
    assert len(odd) == 1
    assert "empty.nrrd' is constant" in odd["error"].iloc[0]
    deformed = runs[runs["pair"] == "two"]
    assert (deformed["dice"] > deformed[["affine_1", "affine_2", "affine_3"]].mean(axis=1)).all()
    assert (deformed["seconds"] > 0).all()
    described = features[(features["label"] == 0) & (features["error"] == "")]
    assert sorted(described["pair"]) == ["one", "three", "two"]
    assert read_examples(out).mean_dice.shape == (3, 2)

    _idle_run_says_so(words)
    _another_set_is_refused(out, manifest)


def _idle_run_says_so(words: tuple[str | Path, ...]) -> None:
    # Nothing is left to do, so no process is started: it can run in this one.
    done = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["runs"], list(found["failed_pairs"]), found["registrations_per_hour_per_core"]) == (6, ["odd"], None)


def _another_set_is_refused(out: Path, manifest: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    own, design = SweepSettings("demons", alignment={"multi_start": False}), Design(values=(0.7, 2.0))
    for settings, other in (
        (own, Design(values=(0.7, 3.0))),
        (replace(own, preset="standard"), design),
        (replace(own, seed=5), design),
        (replace(own, alignment={}), design),
        (replace(own, engine_settings={"iterations": [5, 5, 5]}), design),
    ):
        with pytest.raises(InputError, match="holds a sweep with another engine, settings or design"):
            sweep(manifest, out, settings=settings, design=other)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"moving": "absent.nrrd"}, "Line 3 of the manifest 'bad.csv' names the moving 'absent.nrrd', which does not exist"),
        ({"fixed_subject": " "}, "Line 3 of the manifest 'bad.csv' has no fixed_subject"),
        ({"pair": "one"}, "names the pair 'one' twice"),
    ],
)
def test_a_bad_row_is_refused_before_any_work(folder: Path, tmp_path: Path, changes: dict[str, str], match: str) -> None:
    manifest = write_manifest(folder / "bad.csv", [("one", "anna", "bert"), ("two", "bert", "carl")], **changes)
    with pytest.raises(InputError) as caught:
        sweep(manifest, tmp_path / "out")
    assert match in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("fixed,moving\na,b\n", "lacks the columns fixed_labels, moving_labels, fixed_subject, moving_subject"),
        ("fixed,moving,fixed_labels,moving_labels,fixed_subject,moving_subject\n", "lists no pairs"),
        ("", "lacks the columns fixed, moving"),
    ],
)
def test_a_manifest_without_its_columns_is_refused(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(InputError, match=match):
        read_manifest(tmp_path / "pairs.csv")
    with pytest.raises(InputError, match="could not be read"):
        read_manifest(tmp_path / "absent.csv")


def test_names_and_groups_may_be_left_out_and_paths_are_the_manifests(folder: Path) -> None:
    path = write_manifest(folder / "plain.csv", [("", "anna", "bert")], group="")
    (pair,) = read_manifest(path)
    assert (pair.pair, pair.group, pair.fixed) == ("anna-bert", "", str(folder / "anna.nrrd"))


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("--values", "0.7", "--count", "3"), "leave out one of the two"),
        (("--values", ","), "names no λ"),
        (("--values", ""), "--values is empty"),
        (("--values", "0.7,x"), "should be numbers"),
        (("--values", "0.01"), "choose a value from"),
        (("--count", "1"), "show no curve"),
        (("--scheduler", "tcp://127.0.0.1:1", "--workers", "2"), "leave out one of the two"),
        (("--scheduler", "nonsense"), "No dask scheduler answers at 'nonsense'"),
    ],
)
def test_designs_and_schedulers_that_cannot_be(folder: Path, tmp_path: Path, words: tuple[str, ...], match: str) -> None:
    manifest = write_manifest(folder / "fine.csv", [("one", "anna", "bert")])
    given = ["sweep", str(manifest), "--out", str(tmp_path / "out"), "--engine", "demons", "--quiet"]
    done = CliRunner().invoke(app, [*given, *words])
    assert isinstance(done.exception, InputError), done.exception
    assert match in str(done.exception)


def test_a_pairs_draw_depends_on_its_name_and_the_seed_alone() -> None:
    engine = get_engine("demons")
    drawn = [Design(seed=seed).settings(engine, name) for seed, name in ((1, "a"), (1, "a"), (1, "b"), (2, "a"))]
    assert drawn[0] == drawn[1]
    assert drawn[0] not in drawn[2:]
    values = [setting["regularization_weight"] for setting in drawn[0]]
    assert len(values) == 7
    assert values == sorted(values)


def test_parts_of_pairs_with_like_names_stay_apart() -> None:
    assert part_name("a/b") != part_name("a_b")
    assert "/" not in part_name("a/b")


def test_the_committed_sweep_drew_what_is_drawn_today() -> None:
    folder = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "sweeps" / "training"
    engine = get_engine("demons")
    for pair, rows in pd.read_parquet(folder / "runs.parquet").groupby("pair"):
        assert Design().settings(engine, str(pair)) == [{"regularization_weight": v} for v in rows["regularization_weight"]]


def test_several_parameters_fill_their_space(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = get_engine("demons")
    first = engine.info.search_space.first
    other = replace(first, name="span_mm", scale="linear", low=-10.0, high=0.0, default=-1.0, regularizes="down")
    space = SearchSpace((first, other))
    monkeypatch.setattr(type(engine), "info", replace(engine.info, search_space=space))
    drawn = Design(count=8).settings(engine, "a")
    assert all(list(setting) == ["regularization_weight", "span_mm"] for setting in drawn)
    shares = space.to_unit(space.rows(drawn))
    # Of 2^n scrambled Sobol points every half of every axis holds as many.
    assert ((shares < 0.5).sum(axis=0) == 4).all()
    assert Design(count=8).settings(engine, "a") == drawn != Design(count=8).settings(engine, "b")
    with pytest.raises(InputError, match="has 2 parameters: draw their values"):
        Design(values=(0.7,)).settings(engine, "a")
