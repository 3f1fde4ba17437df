"""Parts of a sweep that were damaged, cut, copied or exchanged: said, set aside and done again, and no row counts twice."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.predictor.features import VERSION

from HyperPredictRegLab.sweep import running as sweeps
from HyperPredictRegLab.sweep.design import Design
from HyperPredictRegLab.sweep.parts import PairRows, Task, part_name
from HyperPredictRegLab.sweep.runs import SweepSettings, common_columns

PAIRS = ("one", "two", "three")
VALUES = (0.7, 2.0)


class Client:
    """Stands in for dask's."""

    def nthreads(self) -> dict[str, int]:
        return {"here": 1}


def rows_of(task: Task) -> PairRows:
    """Return what a worker would have found, the same every time but for how long it took."""
    common = common_columns(task.pair, task.settings)
    random = np.random.default_rng(len(task.pair.pair))
    matrix = {f"affine_matrix_{r}{c}": float(r == c) for r in range(3) for c in range(4)}
    runs = [
        common | value | matrix | {"dice": 0.8, "dice_1": 0.8, "affine_1": 0.5, "affine_dice": 0.5, "folding_foreground": 0.1,
         "folding_grid": 0.05, "sd_log_jacobian": 0.2, "similarity": 1.3, "hd95": 2.0, "seconds": random.random(), "error": ""}
        for value in task.values
    ]  # fmt: skip
    described = {"pair": task.pair.pair, "features_version": VERSION, "error": ""}
    features = [described | {"label": 0, "pair_a": 1.0}, described | {"label": 1, "token_b": 2.0}]
    return PairRows(runs or None, features)


@pytest.fixture
def done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[sweeps.SweepResult, list[str]]]:
    """Sweep without registering: returns the result and the names of the pairs that were worked on."""
    for name in ("image", "labels"):
        (tmp_path / name).touch()
    lines = ["pair,fixed,moving,fixed_labels,moving_labels,fixed_subject,moving_subject"]
    lines += [f"{name},image,image,labels,labels,a,b" for name in PAIRS]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    worked: list[str] = []

    @contextmanager
    def client(*_: Any) -> Iterator[Client]:
        yield Client()

    def collected(_client: Client, tasks: Sequence[Task], _cancelled: Any) -> Iterator[tuple[str, PairRows]]:
        for task in tasks:
            worked.append(task.pair.pair)
            yield task.pair.pair, rows_of(task)

    monkeypatch.setattr(sweeps, "dask_client", client)
    monkeypatch.setattr(sweeps, "collected", collected)

    def run(**changes: Any) -> tuple[sweeps.SweepResult, list[str]]:
        worked.clear()
        chosen = {"settings": SweepSettings("demons"), "design": Design(values=VALUES), **changes}
        found = sweeps.sweep(tmp_path / "pairs.csv", tmp_path / "out", **chosen)
        return found, list(worked)

    return run


def part(tmp_path: Path, pair: str, kind: str = "runs") -> Path:
    return tmp_path / "out" / "parts" / kind / part_name(pair)


def rows(tmp_path: Path) -> list[tuple[str, float]]:
    table = pd.read_parquet(tmp_path / "out" / "runs.parquet")
    return sorted((row.pair, row.regularization_weight) for row in table.itertuples())


ALL = sorted((pair, value) for pair in PAIRS for value in VALUES)


def rewritten(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_parquet(path)).to_parquet(path, index=False)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def foreign(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(3000))


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def exchanged(path: Path) -> None:
    shutil.copy(path.with_name(part_name("one")), path)


DAMAGE = {
    "cut": (cut, "cannot be read as a Parquet table"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read as a Parquet table"),
    "foreign": (foreign, "cannot be read as a Parquet table"),
    "a pipe": (pipe, "is no file"),
    "a folder": (folder, "is no file"),
    "a link to itself": (loop, "is no file"),
    "another pair's": (exchanged, "has the pair 'one', but this is 'two': it was copied or changed"),
    "another schema": (
        lambda path: pd.DataFrame({"a": [1]}).to_parquet(path), "lacks the columns pair, engine, settings_hash, preset, seed"
    ),
    "no rows": (lambda path: rewritten(path, lambda t: t.iloc[:0]), "has no rows"),
    "a row less": (lambda path: rewritten(path, lambda t: t.iloc[:1]), "holds other values of regularization_weight"),
    "another λ": (
        lambda path: rewritten(path, lambda t: t.assign(regularization_weight=[0.7, 3.0])), "holds other values of regularization"
    ),
    "text": (lambda path: rewritten(path, lambda t: t.assign(dice="good")), "column 'dice' of the part should hold numbers"),
    "infinite": (lambda path: rewritten(path, lambda t: t.assign(seconds=np.inf)), "column 'seconds' of the part has inf"),
    "no number": (lambda path: rewritten(path, lambda t: t.assign(folding_grid=np.nan)), "'folding_grid' of the part has no n"),
    "no Dice": (lambda path: rewritten(path, lambda t: t.assign(dice_1=1.5)), "column 'dice_1' of the part has 1.5"),
    "another engine": (lambda path: rewritten(path, lambda t: t.assign(engine="bspline")), "has the engine 'bspline'"),
    "a number as reason": (lambda path: rewritten(path, lambda t: t.assign(error=1)), "'error' of the part should hold text"),
    "twice, differently": (
        lambda path: rewritten(path, lambda t: pd.concat([t, t.assign(dice=0.1)])), "says two different things of the pair 'two'"
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_part_that_cannot_be_used_is_set_aside_said_and_done_again(
    done: Callable[..., Any], tmp_path: Path, damage: str
) -> None:
    assert done()[1] == list(PAIRS)
    whole = rows(tmp_path)
    assert whole == ALL
    spoil, message = DAMAGE[damage]
    spoil(part(tmp_path, "two"))
    result, worked = done()
    assert worked == ["two"]
    assert rows(tmp_path) == ALL
    (note,) = result.notes
    assert note.startswith("What was kept of the pair 'two' cannot be used and was put into '")
    assert message in note
    assert [path.name for path in (tmp_path / "out" / "parts" / "set-aside").iterdir()] == [f"runs-{part_name('two')}"]
    again, worked = done()
    assert (worked, again.notes) == ([], ())


def test_damaged_features_are_described_again_without_registering(done: Callable[..., Any], tmp_path: Path) -> None:
    done()
    before = part(tmp_path, "two").stat().st_mtime_ns
    cut(part(tmp_path, "two", "features"))
    rewritten(part(tmp_path, "three", "features"), lambda table: table.assign(label=[0, 1.5]))
    result, worked = done()
    assert worked == ["two", "three"]
    assert part(tmp_path, "two").stat().st_mtime_ns == before
    assert len(result.notes) == 2 and "no label value" in result.notes[1]
    assert sorted(pd.read_parquet(tmp_path / "out" / "features.parquet")["pair"]) == sorted(PAIRS * 2)


def test_the_same_rows_twice_count_once_and_are_said(done: Callable[..., Any], tmp_path: Path) -> None:
    done()
    rewritten(part(tmp_path, "two"), lambda table: pd.concat([table, table.assign(seconds=9.0)]))
    result, worked = done()
    assert (worked, rows(tmp_path)) == ([], ALL)
    assert result.notes == ("Pair 'two': The part held 2 rows of 1 pair more than once; each counts once.",)


def test_files_that_are_no_part_are_left_alone_and_said(done: Callable[..., Any], tmp_path: Path) -> None:
    done()
    copy = part(tmp_path, "two").with_name(f"{part(tmp_path, 'two').stem} (copy).parquet")
    shutil.copy(part(tmp_path, "two"), copy)
    (copy.parent / "notes.txt").write_text("mine")
    result, worked = done()
    assert (worked, rows(tmp_path)) == ([], ALL)
    assert len(result.notes) == 1
    assert "holds 2 files of no pair in the manifest, not counted: first 'notes.txt'" in result.notes[0]
    assert copy.exists()


def test_a_failed_pair_is_not_taken_for_a_damaged_one(done: Callable[..., Any], tmp_path: Path) -> None:
    done()
    failed = sweeps._failed(Task(_pair("two"), SweepSettings("demons"), ({"regularization_weight": 0.7},)), "is constant.")
    pd.DataFrame(failed.runs).to_parquet(part(tmp_path, "two"))
    result, worked = done()
    assert (worked, result.notes, result.failed_pairs) == ([], (), 1)
    assert done(retry_failed=True)[1] == ["two"]


def _pair(name: str) -> Any:
    from HyperPredictRegLab.manifest import ManifestPair

    return ManifestPair(name, "", "", "", "", "a", "b")


PLANS = {
    "cut": b'{"settings": {',
    "no UTF-8": b"\xff\xfe\x00",
    "deep": b"[" * 100_000,
    "another": b"{}",
    "endless": b" " * 21_000_000,
}


@pytest.mark.parametrize("plan", PLANS)
def test_a_damaged_plan_is_refused_and_nothing_is_written(done: Callable[..., Any], tmp_path: Path, plan: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "sweep.json").write_bytes(PLANS[plan])
    with pytest.raises(InputError, match=r"sweep\.json"):
        done()
    assert [path.name for path in out.iterdir()] == ["sweep.json"]


def test_no_scheduler_leaves_no_folder(tmp_path: Path, done: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any) -> None:
        raise InputError("No dask scheduler answers.")

    monkeypatch.setattr(sweeps, "dask_client", absent)
    with pytest.raises(InputError, match="No dask scheduler answers"):
        done()
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_a_sentence_and_keeps_what_is_finished(
    done: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = pd.DataFrame.to_parquet

    def full(table: pd.DataFrame, path: Path, **others: Any) -> None:
        if "three" in path.name:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        write(table, path, **others)

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(InputError, match=r"disk is full \(No space left on device\).*: make room there, or choose another"):
        done()
    assert {path.name for path in (tmp_path / "out" / "parts" / "runs").iterdir()} == {part_name("one"), part_name("two")}


def test_a_file_in_the_place_of_the_folder_is_refused(done: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="cannot be made or written to"):
        done()
    assert (tmp_path / "out").read_text(encoding="utf-8") == "mine"
