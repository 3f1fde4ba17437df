"""An engine with two parameters of which one is swept, learned and predicted, while the other keeps its default."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from HyperPredictRegLib import engines
from HyperPredictRegLib.alignment import AlignmentSettings
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.engines import get_engine
from HyperPredictRegLib.engines.base import Engine, settings_hash
from HyperPredictRegLib.predictor.features import PairFeatures
from HyperPredictRegLib.predictor.predictor import Predictor
from HyperPredictRegLib.results.job import Criterion
from HyperPredictRegLib.results.prediction import PredictionSurface
from HyperPredictRegLib.results.report import FoldingPercent, Trial
from HyperPredictRegLib.selection import corrected, predict_at
from HyperPredictRegLib.selection.comparison import predicted_at
from predictor_samples import QUICK, planted_examples
from two_parameter_engine import NAME, PLACE, SPACE, RippleSettings, ripple_surface, slope

from HyperPredictRegLab.evaluation import evaluate
from HyperPredictRegLab.sweep.design import Design
from HyperPredictRegLab.training.building import Description, build
from HyperPredictRegLab.training.examples import examples_from


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setitem(engines.ENGINES, NAME, PLACE)
    return get_engine(NAME)



def over_damping(step: float = 1.0) -> PredictionSurface:
    """Return a prediction over the damping alone, for one step."""
    values = np.array([[damping, step] for damping in np.linspace(0, 10, 41)])
    both = ripple_surface(values)
    return replace(both, space=SPACE.only(["damping"]), values=values[:, :1], held={"step": step})


def test_the_loop_corrects_what_was_predicted_and_leaves_the_other_until_nothing_else_helps() -> None:
    surface, criterion, tried = over_damping(), Criterion(), []
    setting: dict[str, float] | None = {"damping": 0.0, "step": 1.0}
    while setting is not None:
        tried.append(setting)
        folded = FoldingPercent(30.0, 10.0)
        trials = [Trial(one, folded, 0.5, False, 1.0) for one in tried]
        setting = corrected(surface, criterion, trials, SPACE)
    dampings = [one["damping"] for one in tried]
    assert dampings == sorted(set(dampings)) and len(tried) == 4
    assert [one["step"] for one in tried[:3]] == [1.0] * 3
    assert tried[-1] == SPACE.strongest


def test_the_loop_tries_nothing_twice_where_the_predicted_parameter_is_exhausted() -> None:
    trials = [Trial({"damping": 10.0, "step": 1.0}, FoldingPercent(30.0, 10.0), 0.5, False, 1.0)]
    assert corrected(over_damping(), Criterion(), trials, SPACE) == SPACE.strongest


def test_the_loop_trusts_the_curve_of_one_parameter_more_than_a_general_slope() -> None:
    trials = [Trial({"damping": 0.0, "step": 1.0}, FoldingPercent(25.0, 8.0), 0.5, False, 1.0)]
    found = corrected(over_damping(), Criterion(), trials, SPACE)
    assert found is not None and found != corrected(None, Criterion(), trials, SPACE)
    assert slope(found) < 1.1


def test_nothing_is_predicted_for_another_value_of_the_other() -> None:
    surface = over_damping(0.7)
    there = predict_at(surface, {"damping": 2.0, "step": 0.7}, "p")
    assert there == predict_at(surface, {"damping": 2.0}, "p")
    with pytest.raises(InputError, match=r"predicted for step = 0\.3, only for 0\.7"):
        predict_at(surface, {"damping": 2.0, "step": 0.3}, "p")
    assert predicted_at(surface, there, {"damping": 3.0, "step": 0.3}) is None


def test_a_sweep_varies_what_it_is_told_to(engine: Engine) -> None:
    drawn = Design(count=5, vary=("step",)).settings(engine, "pair")
    assert {one["damping"] for one in drawn} == {SPACE["damping"].default} and len({one["step"] for one in drawn}) == 5
    given = Design(values=(1.0, 4.0), vary=("damping",)).settings(engine, "pair")
    assert given == [{"damping": 1.0, "step": 1.0}, {"damping": 4.0, "step": 1.0}]
    with pytest.raises(InputError, match="draw their values, or name one to vary"):
        Design(values=(1.0, 4.0)).settings(engine, "pair")
    with pytest.raises(InputError, match="no parameter 'length'; there are: damping, step"):
        Design(vary=("length",)).settings(engine, "pair")


def test_training_learns_the_parameter_that_varies(engine: Engine, tmp_path: Path) -> None:
    planted = planted_examples()
    rows, features = [], []
    for n, pair in enumerate(planted.pairs):
        who = {"pair": pair, "fixed_subject": planted.subjects[n, 0], "moving_subject": planted.subjects[n, 1]}
        features.append(
            who | {"label": 0, "features_version": planted.features_version, "error": ""}
            | {f"pair_{name}": value for name, value in zip(planted.feature_names[:2], planted.features[n], strict=False)}
        )  # fmt: skip
        features += [
            features[-1] | {"label": label, "pair_hard": np.nan, "pair_idle": np.nan, "token_kind": planted.tokens[n, m, 1]}
            for m, label in enumerate(planted.labels)
        ]
        for m, value in enumerate(planted.values[n]):
            rows.append(
                who | {"engine": engine.info.name, "settings_hash": settings_hash(engine, RippleSettings()), "preset": "fast"}
                | {"damping": value, "step": 1.0, "dice_2": planted.dice[n, 0, m], "dice_17": planted.dice[n, 1, m]}
                | {"folding_foreground": 0.1, "folding_grid": 0.1, "sd_log_jacobian": 0.2, "hd95": 1.0, "error": ""}
            )  # fmt: skip
    runs, described = pd.DataFrame(rows), pd.DataFrame(features)
    examples = examples_from(runs, described)
    assert (examples.parameter.name, examples.held) == ("damping", {"step": 1.0})
    both = examples_from(runs.assign(step=np.linspace(0.1, 1, len(runs))), described)
    assert both.space.names == ("damping", "step") and both.held == {} and both.settings.shape[-1] == 2
    with pytest.raises(InputError, match="2 parameters vary"):
        evaluate(both, {}, tmp_path)

    card = build(replace(examples, alignment={}), tmp_path, Description(), replace(QUICK, epochs=5))
    assert card.space.names == ("damping",) and card.held == {"step": 1.0}
    predictor = Predictor.load(tmp_path)
    predictor.check(engine, RippleSettings(), "fast", AlignmentSettings())
    within = SPACE.narrowed("step", 0.05, 0.5).narrowed("damping", 1.0, 10.0)
    surface, _, _ = predictor.predict(PairFeatures({"hard": 0.0}, {}), within=within)
    assert surface.held == {"step": 1.0} and surface.space.first.low == 1.0
    moved = replace(predictor, bundle=replace(predictor.bundle, card=replace(card, held={"step": 0.5})))
    with pytest.raises(InputError, match="parameters have changed since"):
        moved.check(engine, RippleSettings(), "fast", AlignmentSettings())
