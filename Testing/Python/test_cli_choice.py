"""How λ is chosen, as a user says it on the command line, and what the commands answer."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from HyperPredictRegLib import workflow
from HyperPredictRegLib.cli import app
from HyperPredictRegLib.cli.options import structure_weights, user_names
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.json_records import to_json
from HyperPredictRegLib.core.search_space import SearchSpace
from HyperPredictRegLib.engines import engine_infos, engine_names
from HyperPredictRegLib.engines.demons import DemonsEngine
from HyperPredictRegLib.results.job import Criterion, Job, check_trials
from loop_samples import write_bundle, write_rough_pair
from reporting_samples import make_prediction
from typer.testing import CliRunner, Result

CHOICE = {
    "--criterion": "knee", "--goal": "overlap", "--limit": "0.2", "--domain": "grid", "--structures": "17", "--combine": "worst",
    "--tolerance": "0.01", "--predictor": "none", "--not-cautious": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rough_pair(tmp_path_factory.mktemp("rough"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "hopeful", best=1.0, alignment={})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Catch the job instead of doing it."""
    jobs: list[Job] = []

    def catch(job: Job, **others: object) -> None:
        jobs.append(job)
        raise InputError("caught")

    monkeypatch.setattr(workflow, "run", catch)
    monkeypatch.setattr(workflow, "predict", catch)
    return jobs


def command(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


ROUGHLY = ("--set-alignment", "stages=[]")
"""Where the result does not matter: no affine step beyond its start."""


def words_of(pair: Path, name: str, out: Path, *more: str | Path) -> tuple[str | Path, ...]:
    """Return a command on the pair, with the engine that the bundle predicts unless `more` names another."""
    fast = ("--engine", "demons", "--set-alignment", "multi_start=false", "--reproducible", "--quiet")
    return (name, pair / "fixed.nrrd", pair / "moving.nrrd", "--out", out, *fast, *more)


def test_options_left_out_are_the_jobs_own_defaults(asked: list[Job], pair: Path) -> None:
    for name in ("register", "predict"):
        command(name, pair / "fixed.nrrd", pair / "moving.nrrd", "--out", pair / "out")
    for job in asked:
        assert job == Job(str(pair / "fixed.nrrd"), str(pair / "moving.nrrd"), str(pair / "out"))
    assert len(asked) == 2


@pytest.mark.parametrize("name", ["register", "predict"])
def test_options_of_the_choice_reach_the_job(asked: list[Job], pair: Path, bundle: Path, name: str) -> None:
    given = {**CHOICE, "--predictor": str(bundle), "--structures": "Left Hippocampus, 2:3"}
    command(*words_of(pair, name, pair / "out", *[w for item in given.items() for w in item if w is not None]))
    counted = {"left hippocampus": 1.0, "left cerebral white matter": 3.0}
    assert asked[0].criterion == Criterion("knee", 0.2, "grid", False, counted, "worst", 0.01, "overlap")
    assert asked[0].predictor == str(bundle)


@pytest.mark.parametrize(("text", "limit"), [("none", None), ("0.3%", 0.3), ("2 %", 2.0)])
def test_limits(asked: list[Job], pair: Path, text: str, limit: float | None) -> None:
    command(*words_of(pair, "register", pair / "out", "--limit", text))
    assert asked[0].criterion.folding_limit == limit


@pytest.mark.parametrize("option", CHOICE)
@pytest.mark.parametrize("given", [("--weight", "0.9"), ("--set", "regularization_weight=0.9")])
def test_a_given_weight_leaves_nothing_to_choose(asked: list[Job], pair: Path, option: str, given: tuple[str, str]) -> None:
    value = [] if CHOICE[option] is None else [CHOICE[option]]
    done = command(*words_of(pair, "register", pair / "out", *given, option, *value))
    assert str(done.exception) == f"{option} says how λ is chosen, but {given[0]} gives it: leave out one of the two."
    assert not asked


def test_parameters_are_given_by_name_or_the_first_by_its_value(asked: list[Job], pair: Path) -> None:
    bspline = ("--engine", "bspline")
    for words in (("--weight", "9"), ("--set", "control_point_spacing=9"), ("--weight", "9", "--set", "control_point_spacing=9")):
        command(*words_of(pair, "register", pair / "out", *bspline, *words))
    assert [job.setting for job in asked] == [{"control_point_spacing": 9.0}] * 3
    assert {job.engine for job in asked} == {"bspline"}


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("--set", "rigidity=1"), "has no parameter 'rigidity'"),
        (("--set", "regularization_weight"), "should be NAME=NUMBER"),
        (("--set", "regularization_weight=much"), "should be numbers"),
        (("--set", "regularization_weight=nan"), "should be numbers"),
        (("--set", "regularization_weight=99"), "choose a value from"),
        (("--set", "regularization_weight=1", "--set", "regularization_weight=2"), "each name once"),
        (("--set", "regularization_weight=1", "--weight", "2"), "two values for regularization_weight"),
    ],
)
def test_parameters_that_cannot_be_set(asked: list[Job], pair: Path, words: tuple[str, ...], match: str) -> None:
    done = command(*words_of(pair, "register", pair / "out", *words))
    assert isinstance(done.exception, InputError) and match in str(done.exception)
    assert not asked


def test_with_a_prediction_all_that_is_left_out_is_as_in_it(asked: list[Job], pair: Path, bundle: Path, tmp_path: Path) -> None:
    made = Job(
        str(pair / "fixed.nrrd"), str(pair / "moving.nrrd"), str(tmp_path / "predicted"), seed=7, preset="standard",
        moving_labels=str(pair / "moving-labels.nrrd"), predictor=str(bundle), criterion=Criterion(rule="knee", tolerance=0.01),
        alignment={"multi_start": False}, engine="demons",
    )  # fmt: skip
    (tmp_path / "predicted").mkdir()
    (tmp_path / "predicted" / "prediction.json").write_text(to_json(make_prediction(job=made)), encoding="utf-8")
    for given in ("predicted", "predicted/prediction.json"):
        more = ("--out", tmp_path / "out", "--limit", "0.2", "--fixed-labels", "f.nrrd")
        command("register", "--prediction", tmp_path / given, *more)
    expected = replace(
        made, out=str(tmp_path / "out"), fixed_labels=str(Path("f.nrrd").absolute()),
        criterion=replace(made.criterion, folding_limit=0.2),
    )  # fmt: skip
    paths = [tmp_path / "predicted", tmp_path / "predicted" / "prediction.json"]
    assert asked == [replace(expected, prediction=str(path)) for path in paths]
    command("register", "--prediction", tmp_path / "predicted", "--out", tmp_path / "out", "--weight", "0.9")
    assert asked[-1].setting == {"regularization_weight": 0.9} and asked[-1].prediction is not None
    for words in (("--prediction", tmp_path / "gone", "--out", "x"), ("--prediction", tmp_path / "predicted")):
        assert isinstance(command("register", *words).exception, InputError)
    assert len(asked) == 3


def test_help_tells_of_the_engines_by_their_own_words() -> None:
    # Lines end after hyphens, too.
    shown = "".join(command("register", "--help").stdout.split())
    for info in engine_infos():
        first = info.search_space.first
        for words in (f"{info.name}: {info.summary}", f"{info.name}: {first.name} {first.low:g} to"):
            assert words.replace(" ", "") in shown
    assert f"Default:{engine_names()[0]}." in shown


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("--criterion", "best"), "no rule 'best'"),
        (("--limit", "little"), "--limit 'little' should be a number of percent"),
        (("--limit", "0"), "more than 0"),
        (("--domain", "brain"), "no domain 'brain'"),
        (("--structures", "17,left hippocampus"), "names 'left hippocampus' twice"),
        (("--structures", "left hipocampus"), "one of left hippocampus"),
        (("--structures", "17:much"), "write NAME:NUMBER"),
        (("--structures", " , "), "names no structure"),
        (("--structures", "17:0"), "at least one of them above 0"),
        (("--predictor", "absent"), "card.json' could not be read"),
    ],
)
def test_choices_that_cannot_be_made(asked: list[Job], pair: Path, bundle: Path, words: tuple[str, str], match: str) -> None:
    predictor = () if "--predictor" in words else ("--predictor", bundle)
    structures = () if "--structures" in words else ("--structures", "17")
    done = command(*words_of(pair, "register", pair / "out", *words, *predictor, *structures))
    assert isinstance(done.exception, InputError)
    assert match in str(done.exception)
    assert not asked


def test_trials_without_a_prediction_are_refused_before_any_work(pair: Path, tmp_path: Path) -> None:
    done = command(*words_of(pair, "register", tmp_path / "out", "--predictor", "none", "--trials"))
    assert isinstance(done.exception, InputError) and "(trials), but the predictor is 'none'" in str(done.exception)
    assert not (tmp_path / "out").exists()
    check_trials(Job("f", "m", "o", predictor="none"))
    check_trials(Job("f", "m", "o", trials=True))


def test_the_users_names_of_structures_win(tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text("label,name\n17,Hippo: L\n900,odd one\n")
    named, trained = user_names(str(tmp_path / "names.csv"), None), {17: "left hippocampus", 53: "right hippocampus"}
    # The curves will call label 17 as the user does, so this is what the criterion must call it.
    assert structure_weights("left-hippocampus:2,53", named, trained) == {"Hippo: L": 2.0, "right hippocampus": 1.0}
    assert structure_weights("hippo: l,odd one:0.5,7", named, trained) == {"Hippo: L": 1.0, "odd one": 0.5, "label 7": 1.0}
    assert structure_weights("17:3", {}, {}) == {"label 17": 3.0}
    with pytest.raises(InputError, match="since nothing gives names"):
        structure_weights("anything", {}, {})


def test_names_are_not_looked_for_in_a_header_that_ends_the_process(tmp_path: Path) -> None:
    # ITK's reader of NRRD writes beyond a buffer for such a line.
    lines = ("NRRD0004", "type: uchar", "dimension: 3", "sizes: 4 4 4", "encoding: raw", f"space units: {'x' * 100_000}", "", "")
    (tmp_path / "a.nrrd").write_bytes("\n".join(lines).encode() + bytes(64))
    assert user_names(None, str(tmp_path / "a.nrrd")) == {}
    (tmp_path / "names.csv").write_text("label,name\n1,one\n")
    assert user_names(str(tmp_path / "names.csv"), str(tmp_path / "a.nrrd")) == {1: "one"}


def test_the_first_line_is_the_verdict(pair: Path, bundle: Path, tmp_path: Path) -> None:
    done = command(*words_of(pair, "register", tmp_path / "out", "--predictor", bundle, "--no-page"))
    assert done.exit_code == 0, done.exception
    lines = done.stdout.splitlines()
    assert lines[0] == "Deforming helped."
    # The bundle is made up, and wrong about how rough the deformation is: that comes next.
    assert lines[1].startswith("Not as predicted: ")
    assert ". The folding limit was kept: " in lines[1]
    assert "was predicted" in lines[1]
    assert lines[2].startswith("The predictor hopeful 1 chose λ before anything was registered. λ = ")
    assert lines[3].startswith("Reliable: ")
    assert "\u00a0" not in done.stdout


def test_a_limit_that_was_not_kept_is_a_warning_and_no_failure(
    pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = replace(DemonsEngine.info.search_space.first, default=0.4, high=0.42)
    monkeypatch.setattr(DemonsEngine, "info", replace(DemonsEngine.info, search_space=SearchSpace((weight,))))
    done = command(*words_of(pair, "register", tmp_path / "out", "--predictor", "none", "--limit", "0.1", "--no-page"))
    assert done.exit_code == 0, done.exception
    lines = [line for line in done.stdout.splitlines() if not line.startswith("  ")]
    # A field that is torn has not helped.
    assert lines[0] == "Deforming did not help: keep the affine result."
    assert lines[1].startswith("λ could not be chosen so that at most 0.1 % of the foreground is folded")
    assert "  1. λ = 0.4 " in done.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    # The end of the range comes last.
    assert f"  {len(report['trials'])}. λ = 0.42 " in done.stdout
    assert "Warning: The folding limit of 0.1 %" in done.stdout
    assert report["limit_met"] is False


def test_a_prediction_is_printed_and_written(pair: Path, bundle: Path, tmp_path: Path) -> None:
    labels = ("--moving-labels", pair / "moving-labels.nrrd", "--predictor", bundle)
    done = command(*words_of(pair, "predict", tmp_path / "out", *labels, "--at", "0.5,1.2"))
    assert done.exit_code == 0, done.exception
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"prediction.json", "curves.csv", "prediction.html"} <= written
    found = json.loads((tmp_path / "out" / "prediction.json").read_text(encoding="utf-8"))
    assert f"λ = {found['choice']['setting']['regularization_weight']:.3g} is suggested" in done.stdout.splitlines()[0]
    assert "Reliable: " in done.stdout
    assert "At λ = 0.5:" in done.stdout
    assert "At λ = 1.2:" in done.stdout
    assert all(f"  {name}" in done.stdout for name in written)
    last = done.stdout.splitlines()[-1]
    assert last == f"Register with it: hyperpredictreg register --prediction {tmp_path / 'out'} --out RESULTS"

    done = command("register", "--prediction", tmp_path / "out", "--out", tmp_path / "registered", "--quiet", "--no-page")
    assert done.exit_code == 0, done.exception
    report = json.loads((tmp_path / "registered" / "report.json").read_text(encoding="utf-8"))
    assert report["choice"] == found["choice"] and report["alignment"]["from_prediction"] is True
    assert report["job"] == found["job"] | {"out": str(tmp_path / "registered")}

    again = command(*words_of(pair, "predict", tmp_path / "json", *labels, "--at", "0.5", "--json"))
    told = json.loads(again.stdout)
    (at,) = told.pop("at")
    assert at["setting"] == {"regularization_weight": 0.5}
    assert at["mean_dice"]["lower"] < at["mean_dice"]["value"] < at["mean_dice"]["upper"]
    assert told == json.loads((tmp_path / "json" / "prediction.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("--at", "9"), "choose a value from"),
        (("--at", "much"), "--at 'much' should be numbers"),
        (("--at", "rigidity=0.5"), "no parameter 'rigidity'"),
        (("--preset", "standard"), "predicts another preset ('fast', the job has 'standard')"),
        (("--engine", "bspline"), "predicts another engine ('demons', the job has 'bspline')"),
        (("--set-engine", "iterations=[5,5,5]"), "predicts the engine with other settings"),
        (("--predictor", "none"), "the job asks for no prediction"),
    ],
)
def test_what_cannot_be_predicted_is_refused_and_leaves_nothing(
    pair: Path, bundle: Path, tmp_path: Path, words: tuple[str, str], match: str
) -> None:
    predictor = () if "--predictor" in words else ("--predictor", bundle)
    # What is predicted at all needs the alignment that the bundle was trained with.
    roughly = () if "--at" in words else ROUGHLY
    done = command(*words_of(pair, "predict", tmp_path / "out", *roughly, *predictor, *words))
    assert isinstance(done.exception, InputError), done.exception
    assert match in str(done.exception)
    assert list(tmp_path.iterdir()) == []


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.file}'",)


def _with_checksum(folder: Path) -> None:
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    card["model_sha256"] = hashlib.sha256((folder / "model.pt").read_bytes()).hexdigest()
    (folder / "card.json").write_text(json.dumps(card))


def _truncate(folder: Path) -> None:
    (folder / "model.pt").write_bytes((folder / "model.pt").read_bytes()[:5000])


def _truncate_and_hide_it(folder: Path) -> None:
    _truncate(folder)
    _with_checksum(folder)


def _make_hostile(folder: Path) -> None:
    torch.save({"network": Hostile(folder.parent / "was-run")}, folder / "model.pt")
    _with_checksum(folder)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (_truncate, "damaged, incomplete or was exchanged"),
        (_truncate_and_hide_it, "nothing in it was run"),
        (_make_hostile, "nothing in it was run"),
        (lambda folder: (folder / "card.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "model.pt").unlink(), "is no predictor"),
    ],
    ids=["truncated", "truncated, checksum right", "hostile", "card", "model missing"],
)
def test_a_bundle_that_cannot_be_trusted_is_refused(
    pair: Path, bundle: Path, tmp_path: Path, damage: Callable[[Path], None], match: str
) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    for name in ("card.json", "model.pt"):
        (folder / name).write_bytes((bundle / name).read_bytes())
    damage(folder)
    done = command(*words_of(pair, "register", tmp_path / "out", *ROUGHLY, "--predictor", folder))
    assert isinstance(done.exception, InputError), done.exception
    assert match in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_the_hostile_bundle_would_have_run(tmp_path: Path) -> None:
    torch.save(Hostile(tmp_path / "was-run"), tmp_path / "model.pt")
    torch.load(tmp_path / "model.pt", weights_only=False)
    assert (tmp_path / "was-run").exists()


WITHOUT = """
import sys
from importlib.abc import MetaPathFinder
class Blocker(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)
sys.meta_path.insert(0, Blocker())
from HyperPredictRegLib.cli import main
main()
"""


def without(blocked: set[str], *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a process where some packages cannot be imported."""
    code = WITHOUT.format(blocked=blocked)
    return subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, encoding="utf-8", check=False)


def test_without_torch_a_prediction_is_refused_and_a_registration_goes_on(pair: Path, bundle: Path, tmp_path: Path) -> None:
    predicted = without({"torch"}, *words_of(pair, "predict", tmp_path / "out", *ROUGHLY, "--predictor", bundle))
    assert predicted.returncode == 2, predicted.stderr
    assert "PyTorch is not installed, so no trained predictor can be used" in predicted.stderr
    assert "pip install torch" in predicted.stderr
    assert not (tmp_path / "out").exists()
    # The default engine needs no torch, nor does the rule that serves where no trained predictor does.
    given = ("--engine", engine_names()[0], *ROUGHLY, "--no-page", "--json")
    done = without({"torch"}, *words_of(pair, "register", tmp_path / "out", *given))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["choice"]["by"], report["limit_met"]) == ("bootstrap", True)
    assert report["measured"]["folding_percent"]["grid"] == 0.0
    assert report["setting"]["fluid_sigma"] == 1.2 and "least expected error" in report["choice"]["sentence"]
    assert "PyTorch is not installed" in " ".join(report["reliability"]["reasons"])


@pytest.mark.parametrize(
    ("blocked", "words", "install"),
    [
        ("distributed", ("sweep", "pairs.csv", "--out", "x"), "pip install 'hyperpredictreg[laboratory]'"),
        ("pandas", ("sweep", "pairs.csv", "--out", "x"), "pip install 'hyperpredictreg[laboratory]'"),
        ("torch", ("train", "sweep", "--out", "x"), "pip install torch"),
        ("pyarrow", ("train", "sweep", "--out", "x"), "'hyperpredictreg[laboratory]'"),
    ],
)
def test_a_missing_package_is_named_with_what_to_install(blocked: str, words: tuple[str, ...], install: str) -> None:
    done = without({blocked}, *words)
    assert done.returncode == 2, done.stderr
    assert f"needs the Python package '{blocked}'" in done.stderr
    assert install in done.stderr
    assert "Traceback" not in done.stderr
