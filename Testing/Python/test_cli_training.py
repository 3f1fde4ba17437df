"""From label maps to a judged predictor on the command line: synthesize, train, evaluate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from HyperPredictRegLib.cli import app
from HyperPredictRegLib.core.errors import Cancelled, InputError
from HyperPredictRegLib.core.json_records import to_json
from HyperPredictRegLib.core.progress import Progress, ProgressEvent
from HyperPredictRegLib.predictor.bundle import load_bundle
from predictor_samples import planted_examples
from typer.testing import CliRunner, Result

from HyperPredictRegLab import evaluation
from HyperPredictRegLab.sweep.runs import PLAN, SweepPlan, SweepSettings
from HyperPredictRegLab.synthesis import pairs
from HyperPredictRegLab.training.examples import Examples, read_examples


def messages_of(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def write_tables(examples: Examples, folder: Path) -> Path:
    """Write examples as a sweep writes them."""
    runs, features = [], []
    for p, pair in enumerate(examples.pairs):
        who = {"pair": pair, "fixed_subject": examples.subjects[p, 0], "moving_subject": examples.subjects[p, 1], "group": ""}
        shared = who | {name: getattr(examples, name) for name in ("engine", "settings_hash", "preset")} | {"error": ""}
        for n, value in enumerate(examples.values[p]):
            named = ("folding_foreground", "folding_grid", "sd_log_jacobian", "hd95")
            row = shared | {examples.parameter.name: value} | {name: getattr(examples, name)[p, n] for name in named}
            for s, label in enumerate(examples.labels):
                row |= {f"dice_{label}": examples.dice[p, s, n], f"affine_{label}": 0.5}
            runs.append(row)
        described = {"pair": pair, "features_version": examples.features_version, "error": ""}
        names = zip(examples.feature_names, examples.features[p], strict=True)
        features.append(described | {"label": 0} | {f"pair_{name}": value for name, value in names})
        for s, label in enumerate(examples.labels):
            tokens = zip(examples.token_names, examples.tokens[p, s], strict=True)
            features.append(described | {"label": label} | {f"token_{name}": value for name, value in tokens})
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(runs).to_parquet(folder / "runs.parquet")
    pd.DataFrame(features).to_parquet(folder / "features.parquet")
    plan = SweepPlan(SweepSettings(examples.engine, alignment=examples.alignment or {}))
    (folder / PLAN).write_text(to_json(plan), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tables(planted_examples(), tmp_path_factory.mktemp("sweeps") / "swept")


def test_the_tables_hold_the_examples(swept: Path) -> None:
    planted, read = planted_examples(), read_examples(swept)
    np.testing.assert_array_equal(read.dice, planted.dice)
    np.testing.assert_array_equal(read.tokens, planted.tokens)
    assert read.labels == planted.labels


def test_training_says_how_good_the_predictor_is(swept: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    words = ("train", swept, "--out", out, "--name", "mine", "--version", "3", "--license", "CC0-1.0", "--data-note", "made up")
    done = messages_of(*words, "--epochs", "3", "--labels", "17", "--quiet")
    assert done.exit_code == 0, done.exception
    card = load_bundle(out).card
    assert (card.name, card.version, card.licence, card.training_data) == ("mine", "3", "CC0-1.0", "made up")
    assert card.structures == {"17": "left hippocampus"}
    assert card.training["epochs"] == 3
    assert done.stdout.startswith("mine 3: 720 registrations of 120 pairs of 20 people.")
    figures = {line.split()[-1] for line in done.stdout.splitlines() if line.startswith("  mean dice mae segmented ")}
    assert figures == {f"{card.accuracy['mean_dice_mae_segmented']:g}"}
    again = messages_of(*words, "--epochs", "3")
    assert isinstance(again.exception, InputError)
    assert "holds a predictor" in str(again.exception)
    over = messages_of(*words, "--epochs", "2", "--overwrite", "--json")
    assert json.loads(over.stdout)["training"]["epochs"] == 2


@pytest.mark.parametrize(
    ("words", "match"),
    [(("--labels", "17,x"), "should be numbers"), (("--labels", "1.5"), "whole numbers")],
)
def test_labels_that_are_none_are_refused(swept: Path, tmp_path: Path, words: tuple[str, str], match: str) -> None:
    done = messages_of("train", swept, "--out", tmp_path / "bundle", *words)
    assert match in str(done.exception)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_sweep_is_refused(tmp_path: Path) -> None:
    for command in ("train", "evaluate"):
        done = messages_of(command, tmp_path, "--out", tmp_path / "out")
        assert "has no runs.parquet: give the folder of a finished sweep" in str(done.exception)


def test_an_evaluation_gets_its_sweeps_by_name(swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def catch(train: Examples, tests: dict[str, Examples], out: Path, **others: Any) -> None:
        seen.update(others, train=train, tests=tests, out=out)

    monkeypatch.setattr(evaluation, "evaluate", catch)
    other = write_tables(planted_examples(pairs=30, seed=8), tmp_path / "others")
    done = messages_of("evaluate", swept, other, "--out", tmp_path / "out", "--bundle", "b", "--ood", other, "--quick")
    assert done.exit_code == 0, done.exception
    assert len(seen["train"].pairs) == 120
    assert {name: len(examples.pairs) for name, examples in seen["tests"].items()} == {"others": 30}
    assert (seen["bundle"], seen["out"], seen["options"].quick) == (Path("b"), tmp_path / "out", True)
    assert len(seen["options"].ood_sets["others"]) == 30
    twice = messages_of("evaluate", swept, other, other, "--out", tmp_path / "out")
    assert "folders called 'others'" in str(twice.exception)


def test_label_maps_of_a_folder_become_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def catch(labels: list[Path], folder: Path, *, progress: Progress, **others: Any) -> Path:
        seen.update(others, labels=labels, folder=folder)
        progress(ProgressEvent("synthesis", 0.5, "pair"))
        return folder / "manifest.csv"

    monkeypatch.setattr(pairs, "write_pairs", catch)
    maps = tmp_path / "maps"
    maps.mkdir()
    for name in ("b.nii.gz", "a.nii.gz", "notes.txt"):
        (maps / name).write_text("")
    for command in ("synthesise", "synthesize"):
        done = messages_of(command, maps, "--out", tmp_path / "out", "--count", "3", "--first", "10", "--seed", "4", "--quiet")
        assert done.exit_code == 0, done.exception
        assert "Pairs 10 to 12 are listed in" in done.stdout
    assert [path.name for path in seen["labels"]] == ["a.nii.gz", "b.nii.gz"]
    assert (seen["count"], seen["first"], seen["seed"], seen["folder"]) == (3, 10, 4, tmp_path / "out")
    for folder, match in ((tmp_path / "absent", "cannot be read"), (tmp_path, "holds no label maps")):
        done = messages_of("synthesize", folder, "--out", tmp_path / "out", "--count", "1")
        assert match in str(done.exception)


def test_a_stopped_synthesis_says_that_pairs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(labels: list[Path], folder: Path, *, progress: Progress, **others: Any) -> Path:
        import signal

        signal.raise_signal(signal.SIGINT)
        progress(ProgressEvent("synthesis", 0.5, "pair"))
        return folder

    monkeypatch.setattr(pairs, "write_pairs", interrupted)
    (tmp_path / "a.nii.gz").write_text("")
    done = messages_of("synthesize", tmp_path, "--out", tmp_path / "out", "--count", "3", "--quiet")
    assert isinstance(done.exception, Cancelled)
    assert "Complete pairs are kept" in str(done.exception)
