"""Tables, manifests and numbers that a user brings to the laboratory: each is used as it is, or refused in a sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from HyperPredictRegLib.cli import app
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.files import check_writable, writing_into
from HyperPredictRegLib.predictor import bundle as bundles
from HyperPredictRegLib.predictor.bundle import load_bundle, save_bundle
from HyperPredictRegLib.predictor.card import bundled
from predictor_samples import planted_examples
from test_cli_training import write_tables
from typer.testing import CliRunner

from HyperPredictRegLab.baselines import CHANNELS, FOLDER, image_path, read_paper_channels, read_paper_images
from HyperPredictRegLab.evaluation.evaluating import write_report
from HyperPredictRegLab.evaluation.judging import read_ood_sets
from HyperPredictRegLab.evaluation.tables import Table
from HyperPredictRegLab.manifest import read_manifest
from HyperPredictRegLab.sweep import tables as sweep_tables
from HyperPredictRegLab.sweep.design import Design
from HyperPredictRegLab.sweep.runs import SweepSettings
from HyperPredictRegLab.synthesis.pairs import write_pairs
from HyperPredictRegLab.training.building import Description, build
from HyperPredictRegLab.training.examples import read_examples
from HyperPredictRegLab.training.fitting import TrainingSettings

λ = "regularization_weight"
Change = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tables(planted_examples(pairs=40, subjects=12), tmp_path_factory.mktemp("whole") / "sweep")


@pytest.fixture
def swept(whole: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "sweep"
    folder.mkdir()
    for name in ("runs.parquet", "features.parquet", "sweep.json"):
        (folder / name).write_bytes((whole / name).read_bytes())
    return folder


def change(folder: Path, name: str, how: Change) -> Path:
    path = folder / f"{name}.parquet"
    how(pd.read_parquet(path)).to_parquet(path, index=False)
    return folder


def at_row(column: str, value: object, row: int = 7) -> Change:
    def how(table: pd.DataFrame) -> pd.DataFrame:
        values = table[column].tolist()
        values[row] = value
        return table.assign(**{column: values})

    return how


def as_text(column: str) -> Change:
    return lambda table: table.assign(**{column: table[column].astype(str)})


BAD: dict[str, tuple[str, Change, str]] = {
    "text in λ": ("runs", as_text(λ), f"column '{λ}' of the runs table should hold numbers"),
    "text in Dice": ("runs", as_text("dice_2"), "column 'dice_2' of the runs table should hold numbers"),
    "text in folding": ("runs", lambda t: t.assign(folding_grid="low"), "should hold numbers, but has 'low'"),
    "truth in a number": ("runs", lambda t: t.assign(hd95=True), "'hd95' of the runs table should hold numbers"),
    "infinite λ": ("runs", at_row(λ, np.inf), f"column '{λ}' of the runs table has inf for the pair 'pair-1'"),
    "no λ": ("runs", at_row(λ, np.nan), f"column '{λ}' of the runs table has no number for the pair 'pair-1'"),
    "λ of 0": ("runs", at_row(λ, 0.0), "holds 0, which the engine cannot have used: its range is 0.4 to 4.5"),
    "negative λ": ("runs", at_row(λ, -2.0), "holds -2, which the engine cannot have used"),
    "infinite Dice": ("runs", at_row("dice_2", -np.inf), "column 'dice_2' of the runs table has -inf"),
    "Dice of 2": ("runs", at_row("dice_2", 2.0), "column 'dice_2' of the runs table has 2 for the pair 'pair-1'"),
    "folding of 120 %": ("runs", at_row("folding_foreground", 120.0), "column 'folding_foreground' of the runs table has 120"),
    "no folding": ("runs", at_row("folding_grid", np.nan), "column 'folding_grid' of the runs table has no number"),
    "no Jacobian": ("runs", at_row("sd_log_jacobian", np.nan), "column 'sd_log_jacobian' of the runs table has no number"),
    "infinite feature": ("features", at_row("pair_hard", np.inf, 3), "column 'pair_hard' of the features table has inf"),
    "text in a feature": ("features", as_text("pair_hard"), "column 'pair_hard' of the features table should hold numbers"),
    "text in a token": ("features", lambda t: t.assign(token_kind="x"), "column 'token_kind' of the features table should hold"),
    "half a label": ("features", at_row("label", 2.5), "'label' of the features table holds 2.5, which is no label value"),
    "no label": ("features", at_row("label", np.nan), "column 'label' of the features table has no number"),
    "a number as pair": ("runs", lambda t: t.assign(pair=range(len(t))), "'pair' of the runs table should hold text, but has"),
    "an empty subject": ("runs", at_row("moving_subject", None), "column 'moving_subject' of the runs table should hold text"),
    "two engines": ("runs", at_row("engine", "bspline"), "mixes several values of engine (bspline, demons)"),
    "two settings": ("runs", lambda t: t.assign(settings_hash=["a", "b"] * (len(t) // 2)), "mixes several values of settings"),
    "two presets": ("runs", at_row("preset", "fine"), "mixes several values of preset (fast, fine)"),
    "an unknown engine": ("runs", lambda t: t.assign(engine="harm"), "harm"),
    "two feature versions": ("features", at_row("features_version", "9"), "mixes several values of features_version"),
    "no pair column": ("runs", lambda t: t.drop(columns="pair"), "The runs table lacks the columns pair"),
    "no Jacobian column": ("runs", lambda t: t.drop(columns="sd_log_jacobian"), "The runs table lacks the columns sd_log"),
    "no label column": ("features", lambda t: t.drop(columns="label"), "The features table lacks the columns label"),
    "no Dice column": ("runs", lambda t: t.drop(columns=["dice_2", "dice_17"]), "measured no Dice"),
    "no feature column": ("features", lambda t: t[["pair", "label", "features_version", "error"]], "describes no pair"),
    "a nameless feature": ("features", lambda t: t.assign(pair_=1.0), "has a column 'pair_', which names no feature"),
    "no value of any feature": (
        "features", lambda t: t.assign(pair_hard=np.nan, pair_idle=np.nan, pair_foreground_overlap=np.nan), "describes no pair"
    ),
    "no rows": ("runs", lambda t: t.iloc[:0], "holds no pair with both"),
    "nothing succeeded": ("runs", lambda t: t.assign(error="diverged."), "holds no pair with both"),
    "one λ": ("runs", lambda t: t.drop_duplicates("pair").assign(**{λ: 1.0}), "tried one λ only"),
    "twice, differently": ("runs", lambda t: pd.concat([t, t.iloc[:1].assign(dice_2=0.1)]), "says two different things of the p"),
    "described twice": ("features", lambda t: pd.concat([t, t.iloc[:1].assign(pair_idle=9.0)]), "says two different things of t"),
    "one subject": ("runs", lambda t: t.assign(fixed_subject="a", moving_subject="a"), "1 subjects are too few"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_training_refuses_what_cannot_be_learned_from_and_writes_nothing(swept: Path, tmp_path: Path, name: str) -> None:
    table, how, message = BAD[name]
    change(swept, table, how)
    done = CliRunner().invoke(app, ["train", str(swept), "--out", str(tmp_path / "bundle"), "--epochs", "1", "--quiet"])
    assert isinstance(done.exception, InputError), done.exception
    assert message in str(done.exception) and str(done.exception).endswith(".")
    assert not (tmp_path / "bundle").exists()


def test_a_sweep_without_its_plan_cannot_be_trained_on(swept: Path, tmp_path: Path) -> None:
    assert read_examples(swept).alignment == {}
    (swept / "sweep.json").unlink()
    done = CliRunner().invoke(app, ["train", str(swept), "--out", str(tmp_path / "bundle"), "--epochs", "1", "--quiet"])
    assert "has no sweep.json, which says how its pairs were aligned" in str(done.exception)
    assert not (tmp_path / "bundle").exists()


DAMAGED: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "foreign": lambda path: path.write_text("pair,dice\n"),
    "zeros": lambda path: path.write_bytes(b"PAR1" + bytes(5000) + b"PAR1"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_table_is_refused(swept: Path, name: str) -> None:
    path = swept / "features.parquet"
    DAMAGED[name](path)
    with pytest.raises(InputError, match=r"features table '.*' cannot be read as a Parquet table .*: it is damaged or none\."):
        read_examples(swept)
    with pytest.raises(InputError, match="cannot be read as a Parquet table"):
        read_ood_sets(path)


@pytest.mark.skipif(os.name != "posix", reason="makes pipes")
def test_a_pipe_in_the_place_of_a_table_is_refused(swept: Path) -> None:
    (swept / "runs.parquet").unlink()
    os.mkfifo(swept / "runs.parquet")
    with pytest.raises(InputError, match=r"has no runs\.parquet"):
        read_examples(swept)


def test_a_table_that_claims_to_be_huge_is_refused_unread(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_tables, "MOST_CELLS", 1000)
    with pytest.raises(InputError, match="no sweep's has so many"):
        read_examples(swept)


def test_copied_rows_count_once_and_are_said(swept: Path, whole: Path) -> None:
    change(swept, "runs", lambda table: pd.concat([table, table.iloc[:12].assign(seconds=3.0)]))
    change(swept, "features", lambda table: pd.concat([table, table.iloc[3:6]]))
    found, before = read_examples(swept), read_examples(whole)
    np.testing.assert_array_equal(found.values, before.values)
    np.testing.assert_array_equal(found.features, before.features)
    assert found.notes == (
        "The features table held 3 rows of 1 pair more than once; each counts once.",
        "The runs table held 12 rows of 2 pairs more than once; each counts once.",
    )
    assert before.notes == ()


def test_a_feature_without_any_value_is_left_out_and_said(swept: Path) -> None:
    change(swept, "features", lambda table: table.assign(pair_idle=np.nan))
    found = read_examples(swept)
    assert "idle" not in found.feature_names and "hard" in found.feature_names
    assert found.notes == ("The features table has no value of idle: left out.",)


def test_labels_that_were_not_measured_are_refused(swept: Path) -> None:
    with pytest.raises(InputError, match="no Dice of the label 99"):
        read_examples(swept, labels=(2, 99))
    assert read_examples(swept, labels=(17, 17)).labels == (17,)


def test_ood_sets_need_numbers(swept: Path) -> None:
    path = swept / "features.parquet"
    assert len(read_ood_sets(path)) == 40
    change(swept, "features", as_text("pair_hard"))
    with pytest.raises(InputError, match="'pair_hard' of the features table should hold numbers"):
        read_ood_sets(path)
    change(swept, "features", lambda table: table.assign(label=1, pair_hard=1.0))
    with pytest.raises(InputError, match="describes no pair"):
        read_ood_sets(path)


COLUMNS = "pair,fixed,moving,fixed_labels,moving_labels,fixed_subject,moving_subject,label_noise_mm"
ROW = "one,image,image,image,image,a,b,0.5"
MANIFESTS: dict[str, tuple[str | bytes, str]] = {
    "a long field": (f"{COLUMNS}\n{ROW}\ntwo,{'x' * 140_000},image,image,image,a,b,", "Line 3 of the manifest"),
    "text as number": (f"{COLUMNS}\none,image,image,image,image,a,b,much", "label_noise_mm 'much' is no number of millimetres"),
    "NaN": (f"{COLUMNS}\none,image,image,image,image,a,b,nan", "label_noise_mm 'nan' is no number"),
    "infinite": (f"{COLUMNS}\none,image,image,image,image,a,b,1e999", "label_noise_mm '1e999' is no number"),
    "negative": (f"{COLUMNS}\none,image,image,image,image,a,b,-1", "label_noise_mm '-1' is no number"),
    "a field less": (f"{COLUMNS}\none,image,image", "more or fewer fields than the header"),
    "a field more": (f"{COLUMNS}\n{ROW},9,9", "more or fewer fields than the header"),
    "a column twice": (f"{COLUMNS},fixed\n{ROW},image", "two columns called 'fixed'"),
    "an open quote": (f'{COLUMNS}\n"one,image,image\n', "cannot be read"),
    "NUL in a path": (f"{COLUMNS}\none,ima\0ge,image,image,image,a,b,", "manifest"),
    "an endless path": (f"{COLUMNS}\none,{'x' * 5000},image,image,image,a,b,", "does not exist"),
    "a pipe": (f"{COLUMNS}\none,pipe,image,image,image,a,b,", "neither file nor folder"),
    "an endless name": (f"{COLUMNS}\n{'n' * 300},image,image,image,image,a,b,", "a pair that is no name"),
    "a name in two lines": (f'{COLUMNS}\n"on\ne",image,image,image,image,a,b,', "a pair that is no name"),
    "no UTF-8": (b"\xff\xfe" + COLUMNS.encode("utf-16-le"), "is no UTF-8 text"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(500), "manifest"),
}  # fmt: skip


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_that_cannot_be_used_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "image").touch()
    if os.name == "posix":
        os.mkfifo(tmp_path / "pipe")
    text, message = MANIFESTS[name]
    path = tmp_path / "pairs.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(InputError) as caught:
        read_manifest(path)
    assert message in str(caught.value) and str(caught.value).endswith(".") and len(str(caught.value)) < 900


@pytest.mark.skipif(os.name != "posix", reason="makes pipes and devices")
def test_pipes_and_devices_are_no_manifests(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    for path in (tmp_path / "pipe.csv", Path("/dev/zero"), tmp_path):
        with pytest.raises(InputError, match=r"is a device or a pipe|is a folder, so give a file"):
            read_manifest(path)


def test_a_damaged_list_of_synthetic_pairs_is_refused(tmp_path: Path) -> None:
    maps = [tmp_path / "a.nii.gz"]
    for content in (b"\xff\xfe\0", f"pair,a\npair-00000,{'x' * 140_000}\n".encode(), b"pair\npair-\xc2\xb2\n", b"pair\nother\n"):
        (tmp_path / "manifest.csv").write_bytes(content)
        with pytest.raises(InputError, match=r"manifest\.csv|holds pairs made from another seed"):
            write_pairs(maps, tmp_path, count=1, seed=1)
        assert [path.name for path in tmp_path.iterdir()] == ["manifest.csv"]


ABSURD = [
    ("sweep", "--count", "1"), ("sweep", "--count", "1000000000"), ("sweep", "--count", "-3"), ("sweep", "--workers", "1000000"),
    ("sweep", "--seed", "0"), ("sweep", "--seed", "-1"), ("sweep", "--seed", "99999999999999999999"),
    ("sweep", "--values", "nan"),
    ("sweep", "--values", "1e999"), ("sweep", "--values", "0.7,0.7"), ("sweep", "--out", ""),
    ("sweep", "--values", ",".join(str(0.5 + n / 1000) for n in range(300))),
    ("synthesize", "--count", "100001"), ("synthesize", "--first", "99999999"), ("synthesize", "--out", ""),
    ("synthesize", "--seed", "99999999999999999999"),
    ("train", "--label-noise", "nan"), ("train", "--label-noise", "1e999"), ("train", "--label-noise", "1e6"),
    ("train", "--labels", "nan"), ("train", "--labels", "1e999"), ("train", "--labels", "99999999999999999999"),
    ("train", "--out", ""),
    ("train", "--name", "n" * 2000), ("train", "--name", "a\nb"), ("train", "--name", "\udcff"), ("evaluate", "--out", ""),
]  # fmt: skip


@pytest.mark.parametrize("words", ABSURD, ids=lambda words: " ".join(words)[:60].encode("ascii", "replace").decode())
def test_absurd_numbers_and_words_are_refused_before_any_work(swept: Path, tmp_path: Path, words: tuple[str, str, str]) -> None:
    (tmp_path / "image").touch()
    (tmp_path / "map.nii.gz").touch()
    (tmp_path / "pairs.csv").write_text(f"{COLUMNS}\n{ROW}\n")
    given = {"sweep": tmp_path / "pairs.csv", "synthesize": tmp_path, "train": swept, "evaluate": swept}[words[0]]
    before = sorted(tmp_path.rglob("*"))
    needed = {"synthesize": ["--count", "2"], "sweep": ["--engine", "demons"]}.get(words[0], [])
    done = CliRunner().invoke(app, [words[0], str(given), "--out", str(tmp_path / "out"), *needed, *words[1:], "--quiet"])
    # Either by us, or by the reader of the command line, which has its own sentences and code 2.
    assert isinstance(done.exception, InputError) or done.exit_code == 2, (done.exception, done.output)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("epochs", ["0", "-1", "1000000000"])
def test_epochs_have_an_end(swept: Path, tmp_path: Path, epochs: str) -> None:
    done = CliRunner().invoke(app, ["train", str(swept), "--out", str(tmp_path / "out"), "--epochs", epochs])
    assert done.exit_code == 2 and "Traceback" not in done.output


def test_a_refused_training_ends_with_code_2_and_a_sentence(swept: Path, tmp_path: Path) -> None:
    change(swept, "runs", as_text("dice_2"))
    command = [sys.executable, "-m", "HyperPredictRegLib.cli", "train", str(swept), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr and "'dice_2' of the runs table" in done.stderr


def test_designs_and_settings_check_their_seeds() -> None:
    for seed in (0, -1, 2**40):
        for make in (Design, SweepSettings):
            with pytest.raises(InputError, match="seed"):
                make(seed=seed)


# ---- writing -----------------------------------------------------------------------------------------------------------


def full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_bundle_on_a_full_disk_is_a_sentence_and_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = bundled("demons", "fast")
    assert ours is not None
    loaded = load_bundle(ours)
    save_bundle(loaded, tmp_path / "bundle")
    monkeypatch.setattr(bundles, "to_json", full)
    with pytest.raises(InputError, match=r"disk is full \(No space left on device\).*bundle': make room"):
        save_bundle(loaded, tmp_path / "bundle")
    monkeypatch.undo()
    assert {path.name for path in (tmp_path / "bundle").iterdir()} == {"card.json", "model.pt"}
    load_bundle(tmp_path / "bundle")


def test_a_report_on_a_full_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_report(tmp_path / "docs", "", [Table("t1", "T1", ("a",), ((1,),), "")], {})


@pytest.mark.parametrize("name", ["file/out", "n" * 300, "a\0b", "\udcff"])
def test_folders_that_cannot_be_made_are_refused_before_any_work(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"output folder|cannot be made"):
        check_writable(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="root may write anywhere")
def test_folders_without_permission_are_refused_before_any_work(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot be made or written to"):
        check_writable(tmp_path / "out")
    tmp_path.chmod(0o700)


def test_errors_of_the_disk_become_sentences(tmp_path: Path) -> None:
    message = r"could not be written to '.*'.*choose another"
    for error in (PermissionError(13, "Permission denied"), OSError(28, "No space left"), OSError("odd\nlines"), OSError()):
        with pytest.raises(InputError, match=message), writing_into(tmp_path, "files", ""):
            raise error


# ---- images for the paper's baseline -------------------------------------------------------------------------------------


def test_channels_of_pairs_are_read_in_order_or_refused(tmp_path: Path) -> None:
    assert read_paper_channels(tmp_path, ("a",)) is None
    channels = {f"channel_{n:03d}": [n + 0.25, n + 0.5] for n in range(168)}
    table = pd.DataFrame({"pair": ["a", "b"], **channels})
    table.to_parquet(tmp_path / CHANNELS, index=False)
    found = read_paper_channels(tmp_path, ("b", "a"))
    assert found is not None and found.shape == (2, 56)
    assert found[0, 3] == 3.5 and found[1, 55] == 55.25
    assert read_paper_channels(tmp_path, ("a", "c")) is None
    table.assign(channel_007="x").to_parquet(tmp_path / CHANNELS, index=False)
    with pytest.raises(InputError, match="something else than numbers"):
        read_paper_channels(tmp_path, ("a", "b"))
    table.drop(columns="channel_055").to_parquet(tmp_path / CHANNELS, index=False)
    with pytest.raises(InputError, match="lacks the columns channel_055"):
        read_paper_channels(tmp_path, ("a", "b"))
    (tmp_path / CHANNELS).write_bytes(b"PAR1 and nothing else")
    with pytest.raises(InputError, match="damaged"):
        read_paper_channels(tmp_path, ("a", "b"))


def test_images_of_pairs_are_read_or_refused(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER
    folder.mkdir()
    whole = np.zeros((2, 3, 4, 5), np.float16)
    names = ("one", "../../two", "a/b")
    assert read_paper_images(tmp_path, names) is None
    for name in names:
        path = image_path(folder, name)
        assert path.parent == folder and path.suffix == ".npy"
        np.save(path, whole)
    assert image_path(folder, "one").name == "one.npy"
    found = read_paper_images(tmp_path, names)
    assert found is not None and found.shape == (3, 2, 3, 4, 5)
    head = b"\x93NUMPY\x01\x00v\x00"
    spoiled = {
        "text": b"hello", "empty": b"", "cut": image_path(folder, "one").read_bytes()[:-9],
        "pickle": head + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n\x80\x02.",
        "huge": head + b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,), }".ljust(117) + b"\n",
    }  # fmt: skip
    for content in spoiled.values():
        image_path(folder, "one").write_bytes(content)
        with pytest.raises(InputError, match=r"one\.npy' is no image of a pair for the paper's baseline"):
            read_paper_images(tmp_path, names)
    np.save(image_path(folder, "one"), np.full((2, 3, 4, 5), np.nan))
    with pytest.raises(InputError, match="not finite"):
        read_paper_images(tmp_path, names)
    np.save(image_path(folder, "one"), np.zeros((2, 9, 9, 9)))
    with pytest.raises(InputError, match="another size"):
        read_paper_images(tmp_path, names)


@pytest.mark.slow
def test_a_sweep_of_few_fixed_values_can_be_learned_from(tmp_path: Path) -> None:
    """Quantiles of two values are two values: knots fall together, and a curve must not fall apart for it."""
    examples = planted_examples(pairs=60, subjects=12)
    values = np.tile([0.5, 0.8, 1.2, 1.6, 2.4, 4.0], (60, 1))
    values[:, :3], values[:, 3:] = 0.7, 2.0
    keep = [0, 3]
    names = ("dice", "folding_foreground", "folding_grid", "sd_log_jacobian", "hd95")
    two = {name: getattr(examples, name)[..., keep] for name in names}
    few = replace(examples, values=values[:, keep], **two)
    build(few, tmp_path / "bundle", Description(), TrainingSettings(epochs=2, width=8))
    assert load_bundle(tmp_path / "bundle").card.space.first.low == pytest.approx(0.7, rel=0.05)
