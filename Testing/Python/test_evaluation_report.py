"""The evaluation as a whole: honest splits, planted relations found, and a page with its files."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluation_samples import FEATURES, planted, training_people

torch = pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from HyperPredictRegLib.core.errors import Cancelled, InputError  # noqa: E402
from HyperPredictRegLib.results.job import Criterion  # noqa: E402
from matplotlib.layout_engine import ConstrainedLayoutEngine  # noqa: E402

from HyperPredictRegLab.baselines import PRETRAINED, PaperSettings  # noqa: E402
from HyperPredictRegLab.evaluation import Options, decisions, evaluate, evaluating, targets  # noqa: E402
from HyperPredictRegLab.evaluation.decisions import B0, B1, B2, B8, OURS, Conditions, external_set, held_out_set  # noqa: E402
from HyperPredictRegLab.evaluation.evaluating import HELD_OUT  # noqa: E402
from HyperPredictRegLab.evaluation.measured import Measured, common_grid  # noqa: E402
from HyperPredictRegLab.evaluation.methods import OurMethod, predict, predict_held_out  # noqa: E402
from HyperPredictRegLab.evaluation.tables import Table  # noqa: E402
from HyperPredictRegLab.evaluation.targets import at_least, at_most  # noqa: E402
from HyperPredictRegLab.training.building import Description, build  # noqa: E402
from HyperPredictRegLab.training.examples import Examples  # noqa: E402
from HyperPredictRegLab.training.fitting import TrainingSettings  # noqa: E402

SETTINGS = TrainingSettings(epochs=60, width=16, knots=6)
PEOPLE = ["1000", "1001", *(f"r{n}" for n in range(8))]


@pytest.fixture(scope="module")
def train() -> Examples:
    return planted(training_people(), 160, 1)


@pytest.fixture(scope="module")
def test_pairs() -> Examples:
    return planted(PEOPLE, 50, 2, labels=(2, 3, 10, 17, 24))


@pytest.fixture(scope="module")
def bundle(train: Examples, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    build(train, folder, Description(), SETTINGS)
    return folder


@pytest.fixture(scope="module")
def ours(train: Examples, bundle: Path) -> OurMethod:
    return OurMethod.of(train, bundle)


@pytest.fixture(scope="module")
def written(train: Examples, test_pairs: Examples, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Table]:
    out = tmp_path_factory.mktemp("docs")
    patch = pytest.MonkeyPatch()
    patch.setattr(targets, "REPEATS", 1)
    patch.setattr(evaluating, "DPI", 40)
    # Half of the time goes into where the axes stand, which no test looks at.
    patch.setattr(ConstrainedLayoutEngine, "execute", lambda engine, figure: None)
    ood_sets = {"mouse": [dict.fromkeys(FEATURES, 50.0)] * 3, "more of the same": usual(train)}
    tables = evaluate(train, {"real": test_pairs}, out, bundle=bundle, options=Options(ood_sets=ood_sets, quick=True))
    patch.undo()
    return {**tables, "out": out}  # type: ignore[dict-item]


def usual(examples: Examples) -> list[dict[str, float]]:
    return [dict(zip(FEATURES, row.tolist(), strict=True)) for row in examples.features[:40]]


def cell(table: Table, column: str, **where: str) -> object:
    """Return the one cell of a column in the row in which other columns have given values."""
    rows = [r for r in table.rows if all(r[table.columns.index(name)] == value for name, value in where.items())]
    assert len(rows) == 1
    return rows[0][table.columns.index(column)]


def test_held_out_people_are_predicted_by_members_that_never_saw_them(ours: OurMethod) -> None:
    for cv_fold in range(5):
        predictor = ours.without_cv_fold(cv_fold)
        members = np.flatnonzero(ours.trained.member_cv_folds == cv_fold)
        assert predictor.bundle.ensemble.network.settings.members == len(members)
        weights = predictor.bundle.ensemble.network.state_dict()["dice_head.weight"]
        assert torch.equal(weights, ours.bundle.ensemble.network.state_dict()["dice_head.weight"][members])
        assert predictor.bundle.widths != ours.bundle.widths, "bands of the CV fold's own people must not be used"


def test_members_alone_predict_as_they_do_inside_the_ensemble(ours: OurMethod) -> None:
    of = ours.held_out
    measured = Measured.of("held out", of.examples, common_grid(ours.examples), ours.examples.labels)
    told = predict_held_out(ours, measured)
    for row in range(0, len(of.examples.pairs), 5):
        for place in (2, 4):
            at = np.full(len(of.examples.pairs), of.examples.values[row, place])
            mean = measured.read(told.mean.value, at)[row]
            assert mean == pytest.approx(of.segmented.mean_dice[row, place], abs=2e-3)


def test_a_structure_that_was_never_learned_is_predicted_from_its_token(ours: OurMethod, test_pairs: Examples) -> None:
    values = common_grid(ours.examples, test_pairs)
    measured = Measured.of("test", test_pairs, values, ours.examples.labels)
    told = predict(ours.whole(), measured)
    assert measured.counted.tolist() == [True] * 4 + [False]
    assert np.isfinite(told.dice.value).all()
    assert told.mean.value == pytest.approx(told.dice.value[:, :4].mean(axis=1), abs=1e-5)
    blind = predict(ours.whole(), measured, segmented=False)
    assert np.isnan(blind.dice.value[:, 4]).all()


def test_planted_relations_are_found(written: dict[str, Table]) -> None:
    skill = cell(written["t1-dice"], "skill, all λ", pairs="real", method=OURS)
    assert skill.value > 0.3  # type: ignore[attr-defined]
    assert cell(written["t1-dice"], "skill, all λ", pairs="real", method=B0).value == 0  # type: ignore[attr-defined]
    assert cell(written["t3-decision"], "regret", pairs="real", method=B8).value == 0  # type: ignore[attr-defined]
    ratio = cell(written["t3-decision"], "regret / B2's", pairs="real", method="ours, rule maximum")
    assert ratio.value < 0.8  # type: ignore[attr-defined]
    assert cell(written["t3-decision"], "regret / B1's", pairs="real", method=B1).value == 1  # type: ignore[attr-defined]
    assert cell(written["t3-decision"], "over limit at the end, %", pairs="real", method=B2) == 0
    assert cell(written["t8-reliability"], "unreliable, %", pairs="mouse") == 100
    assert cell(written["t8-reliability"], "reliable, %", pairs="more of the same") >= 80  # type: ignore[operator]


def test_people_who_tuned_settings_are_also_left_out(written: dict[str, Table], test_pairs: Examples) -> None:
    apart = [s for s in test_pairs.subjects.tolist() if not set(s) & {"1000", "1001"}]
    assert cell(written["t8-groups"], "count", pairs="real, nobody used for tuning", group="all") == len(apart)
    assert cell(written["t8-groups"], "count", pairs="real", group="all") == 50


def test_the_page_holds_all_tables_and_figures(written: dict[str, Table]) -> None:
    out: Path = written["out"]  # type: ignore[assignment]
    text = (out / "evaluation.md").read_text(encoding="utf-8")
    assert text.index("## Targets") < text.index("## Figures") < text.index("## T1a")
    for name, table in written.items():
        if name == "out":
            continue
        assert f"## {table.title}" in text
        with (out / "evaluation" / f"{name}.csv").open(encoding="utf-8") as file:
            rows = list(csv.reader(file))
        assert len(rows) == len(table.rows) + 1
        assert {len(row) for row in rows} == {len(rows[0])}
    pictures = sorted(file.name for file in (out / "evaluation").glob("*.png"))
    assert len(pictures) == 12
    assert all(f"evaluation/{name}" in text for name in pictures)
    assert all((out / "evaluation" / name).stat().st_size > 3_000 for name in pictures)
    assert "no ablations" in text
    assert str(out) not in text


def test_targets_are_judged_by_their_figures(written: dict[str, Table]) -> None:
    assert at_most("x", 0.2, 0.1).met is False
    assert at_least("x", 0.2, 0.1).met is True
    assert at_least("x", float("nan"), 0.1).met is None
    table = written["targets"]
    place = table.columns.index("real")
    for row in table.rows:
        reached, met = row[place], row[place + 1]
        if row[1].startswith("≤ ") and "interval" not in row[0]:  # type: ignore[union-attr]
            assert met == (reached.value <= float(row[1][2:]))  # type: ignore[union-attr,index]
    assert HELD_OUT in table.columns


def test_ablations_have_a_row_per_variant(ours: OurMethod, test_pairs: Examples, monkeypatch: pytest.MonkeyPatch) -> None:
    values = common_grid(ours.examples, test_pairs)
    conditions = Conditions(Criterion(), values, 20)
    external = external_set(ours, conditions, Measured.of("real", test_pairs, values, ours.examples.labels), None)
    held_out = held_out_set(ours, conditions, HELD_OUT, paper=False)
    monkeypatch.setattr(targets, "EPOCHS", 5)
    monkeypatch.setattr(targets, "ALPHAS", (1.0,))
    monkeypatch.setattr(targets, "SHARES", (50,))
    table = targets.ablation_table(targets.AblationInput(ours, held_out, external), conditions)
    names = [row[1] for row in table.rows if row[0] == "real"]
    assert sorted(names) == sorted(row[1] for row in table.rows if row[0] == HELD_OUT)
    reference = f"reference, alpha {TrainingSettings().folding_weight:g}"
    for expected in (reference, "50 % of the pairs", "alpha 1", "two hidden layers", "no probes", "probes only"):
        assert expected in names
    assert len(set(names)) == len(names)


def test_the_published_predictor_takes_part_where_there_are_images(
    ours: OurMethod, test_pairs: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions, "MAIN", {"B3 paper": PaperSettings(epochs=2)})
    values = common_grid(ours.examples, test_pairs)
    random = np.random.default_rng(0)
    images = [random.random((len(e.pairs), 2, 6, 6, 6), dtype=np.float32) for e in (ours.examples, test_pairs)]
    conditions = Conditions(Criterion(), values, 20, images[0])
    found = external_set(ours, conditions, Measured.of("real", test_pairs, values, ours.examples.labels), images[1])
    told = found.predicted["B3 paper"]
    assert np.isnan(told.dice.value[:, 4]).all()
    assert np.isfinite(told.mean.value).all()
    assert not found.choosing.overall["B3 paper"].extra.any()
    monkeypatch.setattr(decisions, "WITH_ITS_ENCODER", {"B3 its encoder": replace(PRETRAINED, epochs=2)})
    channels = [random.random((len(e.pairs), 56), dtype=np.float32) for e in (ours.examples, test_pairs)]
    conditions = Conditions(Criterion(), values, 20, channels[0])
    found = external_set(ours, conditions, Measured.of("real", test_pairs, values, ours.examples.labels), channels[1])
    assert "B3 paper" not in found.predicted
    assert np.isfinite(found.predicted["B3 its encoder"].mean.value).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda test, train: replace(test, settings_hash="other"), "another settings hash"),
        (lambda test, train: replace(test, subjects=train.subjects[: len(test.pairs)]), "needs people of its own"),
        (lambda test, train: replace(test, feature_names=tuple(f"x{n}" for n in range(len(FEATURES)))), "lacks features"),
    ],
)
def test_examples_that_do_not_belong_together_are_refused(
    change: Callable[[Examples, Examples], Examples], message: str, train: Examples, test_pairs: Examples, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(train, {"real": change(test_pairs, train)}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_bundle_of_other_people_is_refused(train: Examples, bundle: Path, tmp_path: Path) -> None:
    others = replace(train, subjects=np.char.add("x", train.subjects))
    with pytest.raises(InputError, match="was not trained on the sweep"):
        evaluate(others, {}, tmp_path, bundle=bundle)
    with pytest.raises(InputError, match="not one per pair"):
        evaluate(train, {}, tmp_path, bundle=bundle, options=Options(paper_train_images=np.zeros((2, 2, 4, 4, 4))))


def test_a_cancelled_evaluation_writes_nothing(train: Examples, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        evaluate(train, {}, tmp_path, bundle=bundle, cancelled=lambda: True)
    assert not list(tmp_path.iterdir())
