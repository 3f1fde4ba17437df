"""Sweeps of one plan that are joined into one small table: nothing is lost but digits that nobody measured."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.json_records import to_json

from HyperPredictRegLab.sweep.runs import PLAN, SweepPlan, SweepSettings

TOP = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def join() -> Iterator[ModuleType]:
    sys.path.insert(0, str(TOP / "benchmarks"))
    import join_sweeps

    yield join_sweeps
    sys.path.remove(str(TOP / "benchmarks"))


def write_sweep(folder: Path, pairs: range, preset: str = "fast") -> Path:
    folder.mkdir()
    (folder / PLAN).write_text(to_json(SweepPlan(SweepSettings(preset=preset))), encoding="utf-8")
    random = np.random.default_rng(pairs.start)
    names = [f"pair-{n:05d}" for n in pairs for _ in range(3)]
    numbers = np.where(np.arange(len(names)) % 5, np.exp(random.normal(0, 6, len(names))), np.nan)
    runs = pd.DataFrame({"pair": names, "dice": numbers, "error": "", "seed": 7})
    runs.to_parquet(folder / "runs.parquet")
    runs[::3].assign(label=0, **{f"only_{preset}_{pairs.start}": -numbers[::3]}).to_parquet(folder / "features.parquet")
    return folder


def test_pairs_of_all_sweeps_are_there_once(join: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [write_sweep(tmp_path / str(pairs.start), pairs) for pairs in (range(10, 20), range(15, 30), range(5))]
    monkeypatch.setattr(sys, "argv", ["join", *map(str, parts), "--out", str(tmp_path / "all")])
    join.main()
    runs, features = (pd.read_parquet(tmp_path / "all" / f"{name}.parquet") for name in ("runs", "features"))
    expected = pd.concat([pd.read_parquet(part / "runs.parquet") for part in (parts[2], parts[0])])
    expected = pd.concat([expected, pd.read_parquet(parts[1] / "runs.parquet").query("pair >= 'pair-00020'")], ignore_index=True)
    pd.testing.assert_frame_equal(runs.drop(columns="dice"), expected.drop(columns="dice"), check_dtype=False)
    np.testing.assert_allclose(runs["dice"], expected["dice"], rtol=2.0**-join.BITS)
    assert features["pair"].is_unique and len(features) == 25
    assert features["only_fast_10"].notna().sum() < 10 and features["only_fast_15"][features["pair"] < "pair-00015"].isna().all()
    assert (tmp_path / "all" / PLAN).read_text() == (parts[0] / PLAN).read_text()
    # Joined with more, in place: what was there stays as it is.
    more = write_sweep(tmp_path / "more", range(40, 42))
    monkeypatch.setattr(sys, "argv", ["join", str(tmp_path / "all"), str(more), "--out", str(tmp_path / "all")])
    join.main()
    again = pd.read_parquet(tmp_path / "all" / "runs.parquet")
    pd.testing.assert_frame_equal(again[: len(runs)], runs)
    assert again["pair"].nunique() == runs["pair"].nunique() + 2


def test_sweeps_of_another_plan_or_without_one_are_refused(
    join: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other = write_sweep(tmp_path / "own", range(3)), write_sweep(tmp_path / "other", range(3, 5), preset="fine")
    bare = write_sweep(tmp_path / "bare", range(5, 7))
    (bare / PLAN).unlink()
    for wrong in (other, bare):
        monkeypatch.setattr(sys, "argv", ["join", str(own), str(wrong), "--out", str(tmp_path / "all")])
        with pytest.raises(InputError, match=f"The sweep '{wrong}' has another plan than '{own}'"):
            join.main()
    assert not (tmp_path / "all").exists()
