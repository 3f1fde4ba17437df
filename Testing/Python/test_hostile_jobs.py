"""Jobs and options that no honest user writes: each is refused with a sentence before any work, and nothing is written."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import job_of
from HyperPredictRegLib import workflow
from HyperPredictRegLib.cli import options
from HyperPredictRegLib.cli.commands import app
from HyperPredictRegLib.cli.options import structure_weights
from HyperPredictRegLib.core import files as file_words
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.json_records import from_json, parsed_json
from HyperPredictRegLib.results.job import Criterion, Job
from HyperPredictRegLib.spatial.labels import read_label_names
from HyperPredictRegLib.workflow.planning import Plan

posix = pytest.mark.skipif(os.name != "posix", reason="uses devices and names of POSIX")

PLAIN = {"fixed": "a.nrrd", "moving": "b.nrrd", "out": "c"}


def written(folder: Path, text: str | bytes) -> str:
    path = folder / "job.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", errors="surrogatepass"))
    return str(path)


TEXTS: list[tuple[str | bytes, str]] = [
    ("", "not valid JSON"),
    ("[" * 10_000, "nested too deeply"),
    ('{"a":' * 10_000 + "1" + "}" * 10_000, "nested too deeply"),
    (json.dumps(PLAIN | {"seed": 0})[:-2] + "9" * 5000 + "}", "a number of 5000 digits"),
    (json.dumps(PLAIN | {"seed": 10**400}), "a number of 401 digits"),
    (json.dumps(PLAIN | {"setting": {"regularization_weight": 10**350}}), "a number that a computer can reckon with"),
    (json.dumps(PLAIN)[:-1] + ', "setting": {"regularization_weight": 1e400}}', "too large a number"),
    (json.dumps(PLAIN | {"setting": {"regularization_weight": float("nan")}}), "NaN is no number"),
    (json.dumps(PLAIN | {"criterion": {"tolerance": float("-inf")}}), "-Infinity is no number"),
    (json.dumps(PLAIN | {"fixed": "a\ud800b"}), "half a character"),
    (json.dumps(PLAIN | {"engine_settings": {"\udfff": 1}}), "half a character"),
    (json.dumps(PLAIN)[:-1] + ', "out": "d"}', "'out' is there twice"),
    (json.dumps(PLAIN | {"fixed": "a\0b"}), "holds a NUL"),
    (json.dumps(PLAIN | {"out": "c\0"}), "holds a NUL"),
    (json.dumps(PLAIN | {"fixed": ""}), "path of the fixed is empty"),
    (json.dumps(PLAIN | {"out": ""}), "path of the out is empty"),
    (json.dumps(PLAIN | {"label_names": " "}), "path of the label names is empty"),
    (json.dumps(PLAIN | {"out": "x" * 256}), "too long"),
    (json.dumps(PLAIN | {"out": "ä" * 128}), "too long"),
    (json.dumps(PLAIN | {"moving": "y/" * 3000}), "too long"),
    (json.dumps(PLAIN | {"z" * 100_000: 1}), "unknown field 'zzz"),
    ("null", "should be an object"),
    ('"job"', "should be an object"),
    ("17", "should be an object"),
    (json.dumps({"job": [1]}), "unknown field 'job'"),
    (json.dumps({"job": {"job": {}}}), "unknown field 'job'"),
    (b"\xff\xfe{\x00}\x00", "no UTF-8 text"),
    (b"\x00" * 100, "not valid JSON"),
]


@pytest.mark.parametrize(("text", "message"), TEXTS, ids=[f"{n} {message}" for n, (_, message) in enumerate(TEXTS)])
def test_a_job_that_is_none_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        options.read_job(written(tmp_path, text), None)
    assert len(str(caught.value)) < 1000 and str(caught.value).isprintable()


NONSENSE = (None, True, 3, -1.5, "x", [], ["x"], {}, {"x": [1]}, [[[]]], 10**300)


@pytest.mark.parametrize("field", list(Job.__dataclass_fields__))
def test_a_field_of_any_wrong_type_is_a_sentence_or_fits(tmp_path: Path, field: str) -> None:
    refused = 0
    for value in NONSENSE:
        try:
            job = options.read_job(written(tmp_path, json.dumps(PLAIN | {field: value})), None)
            Plan.of(replace(job, predictor="none"))
        except InputError:
            refused += 1
    assert refused >= len(NONSENSE) // 2


def test_a_mark_of_windows_editors_is_no_fault(tmp_path: Path) -> None:
    assert options.read_job(written(tmp_path, "\ufeff" + json.dumps(PLAIN)), None).seed == Job("", "", "").seed


@posix
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/dev/zero", "a device or a pipe"),
        ("/dev/null", "a device or a pipe"),
        ("pipe", "a device or a pipe"),
        (".", "is a folder"),
        ("absent", "No such file"),
        ("circle", "circle"),
        ("huge", "longer than 8 MB"),
        ("x" * 300, "too long"),
        ("", "empty"),
    ],
)
def test_a_job_that_is_no_file_is_refused_without_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    with (tmp_path / "huge").open("wb") as stream:
        # As long as a disk, but without blocks of its own.
        stream.truncate(1 << 40)
    with pytest.raises(InputError, match=message):
        options.read_job(path, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "from 1 to"),
        ({"seed": 2**31}, "from 1 to"),
        ({"seed": 10**30}, "digits"),
        ({"stability_seeds": 1_000_000_000}, "at most 100"),
        ({"stability_seeds": 101}, "at most 100"),
        ({"stability_seeds": 1}, "2 or more"),
        ({"stability_seeds": -5}, "2 or more"),
        ({"setting": {"regularization_weight": float("nan")}}, "choose a value from"),
        ({"setting": {"regularization_weight": float("inf")}}, "choose a value from"),
        ({"engine_settings": {"iterations": [10**12]}}, "at most 1e\\+06"),
        ({"engine_settings": {"iterations": [5] * 1000}}, "has 1000 values"),
        ({"engine_settings": {"step_gain": 1e300}}, "at most 1e\\+06"),
        ({"engine": "bspline", "engine_settings": {"histogram_bins": 10**9}}, "at most"),
        ({"alignment": {"iterations": [10**30, 1, 1]}}, "from 1 to"),
        ({"alignment": {"shrink_factors": [2.0] * 10_000}}, "values"),
        ({"fixed": "a\udcff.nrrd"}, "not valid UTF-8"),
        ({"out": "o\udcff"}, "not valid UTF-8"),
        ({"label_names": "n\udcff.csv"}, "not valid UTF-8"),
        ({"initial_transform": "t\0.h5"}, "NUL"),
        ({"fixed_landmarks": ""}, "empty"),
        ({"predictor": ""}, "empty"),
        ({"predictor": "p" * 300}, "too long"),
        ({"out": ""}, "names no output folder"),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_work(
    files: Path, tmp_path: Path, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("HyperPredictRegLib.workflow.registering._compute", lambda *given: pytest.fail("the work began"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        workflow.run(replace(job_of(files, tmp_path / "out"), **changes))
    assert list(tmp_path.iterdir()) == []


def test_weights_without_bounds_are_refused() -> None:
    for weight in (float("inf"), float("nan"), -1.0, 1e300):
        with pytest.raises(InputError, match="weights of the structures"):
            Criterion(structures={"a": weight})


OPTIONS = [
    (("-o", ""), "--out is empty"),
    (("-o", "  "), "--out is empty"),
    (("-o", "x" * 256), "too long"),
    (("-o", "x", "--label-names", ""), "--label-names is empty"),
    (("-o", "x", "--scene", ""), "--scene is empty"),
    (("-o", "x", "--scene", ".mrb"), "should be a file name"),
    (("-o", "x", "--scene", "s" * 300 + ".mrb"), "too long"),
    (("-o", "x", "--weight", "nan"), "--weight is nan"),
    (("-o", "x", "--weight", "1e400"), "--weight is inf"),
    (("-o", "x", "--weight", "-1e30"), "--weight is -1e"),
    (("-o", "x", "--tolerance", "nan"), "--tolerance is nan"),
    (("-o", "x", "--seed", str(10**30)), "--seed is too large"),
    (("-o", "x", "--stability", str(10**9)), "at most 100"),
    (("-o", "x", "--limit", "nan"), "folding limit is nan"),
    (("-o", "x", "--limit", "²"), "should be a number"),
    (("-o", "x", "--structures", "5:1e400"), "weights of the structures"),
    (("-o", "x", "--structures", "²"), "No structure is called '²'"),
    (("-o", "x", "--set-engine", "iterations=" + "[" * 100_000), "nested too deeply"),
    (("-o", "x", "--set-engine", "iterations=[1e400]"), "too large a number"),
    (("-o", "x", "--set-engine", "iterations=" + "9" * 5000), "5000 digits"),
    (("-o", "x", "--set-engine", "contrast_floor=NaN"), "should be a number"),
]


@pytest.mark.parametrize(("words", "message"), OPTIONS, ids=[" ".join(words)[:40] for words, _ in OPTIONS])
def test_options_that_mean_nothing_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        app(["register", "a.nrrd", "b.nrrd", *words], standalone_mode=False)
    assert len(str(caught.value)) < 2500
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [("apply", "t.h5", "-o", "", "--image", "a"), ("apply", "t.h5", "-o", "x", "--image", ""), ("predict", "a", "b", "-o", ""),
     ("measure", "", "b", "-t", "c"), ("sweep", "m.csv", "-o", ""), ("train", "s", "-o", " "), ("evaluate", "s", "-o", ""),
     ("synthesise", "maps", "-o", "", "--count", "1"), ("apply", "t.h5", "-o", "x", "--labels", "l" * 300)],
)  # fmt: skip
def test_no_command_takes_an_empty_or_endless_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"is empty|too long"):
        app(list(words), standalone_mode=False)
    assert list(tmp_path.iterdir()) == []


def test_a_raised_two_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No structure is called"):
        structure_weights("²", {}, {2: "two"})
    (tmp_path / "names.csv").write_text("²,raised\n٣,arabic\n9999999999999,far\n1,one\n", encoding="utf-8")
    assert read_label_names(tmp_path / "names.csv") == {1: "one"}


def test_json_is_read_strictly_and_honest_json_as_before() -> None:
    assert parsed_json('{"a": [1, 2.5, -3e-7, "ü", null, true]}', "x") == {"a": [1, 2.5, -3e-7, "ü", None, True]}
    assert from_json(Job, json.dumps(PLAIN), "job").fixed == "a.nrrd"


@pytest.mark.parametrize("path", ["a", "a/b c/ü.nrrd", "/x/" + "y" * 255, "..", "C:\\x"])
def test_honest_paths_pass(path: str) -> None:
    assert file_words.checked_path(path, "input") == path
