"""Reliability: never better than what the alignment found, nor of what is no number; and bands always have a width."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import blob_image
from HyperPredictRegLib.alignment import AlignmentSettings, align, stability
from HyperPredictRegLib.alignment.align import _result_warnings
from HyperPredictRegLib.alignment.aligned_pair import AlignedPair
from HyperPredictRegLib.alignment.frame import make_frame, make_item
from HyperPredictRegLib.core.errors import InputError, RegistrationError
from HyperPredictRegLib.core.progress import never, silent
from HyperPredictRegLib.predictor.bundle import LEAST_FOLDING
from HyperPredictRegLib.predictor.features import Described, PairFeatures
from HyperPredictRegLib.predictor.ood import at_most, broken_rules, ood_of
from HyperPredictRegLib.predictor.predictor import LEAST_DICE_REACH, Predictor
from HyperPredictRegLib.preprocessing.image_set import Inputs, Side
from HyperPredictRegLib.results.job import Job
from HyperPredictRegLib.results.prediction import AlignmentUsed, Reliability
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.workflow import choosing
from HyperPredictRegLib.workflow.planning import Plan
from HyperPredictRegLib.workflow.predicting import compute_prediction
from HyperPredictRegLib.workflow.preparing import Prepared
from predictor_samples import small_bundle

PAIR = {"hard": 0.0, "idle": 0.0, "foreground_overlap": 0.95}


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor.load(small_bundle(tmp_path_factory.mktemp("bundle") / "planted"))


def features(**changed: float) -> PairFeatures:
    return PairFeatures(PAIR | changed, {})


def test_a_reliability_is_no_better_than_what_else_is_known() -> None:
    good, fair, bad = Reliability("reliable"), Reliability("uncertain", ("unusual",)), Reliability("unreliable", ("far",))
    assert at_most(good) == good
    assert at_most(good, ("doubt",)) == Reliability("uncertain", ("doubt",))
    assert at_most(fair, ("doubt",)) == Reliability("uncertain", ("doubt", "unusual"))
    assert at_most(bad, ("doubt",)) == Reliability("unreliable", ("doubt", "far"))
    assert at_most(good, ("doubt",), ("refusal",)) == Reliability("unreliable", ("refusal", "doubt"))


def test_a_doubt_widens_the_bands(predictor: Predictor) -> None:
    usual, plain, _ = predictor.predict(features())
    doubted, reliability, _ = predictor.predict(features(), doubts=("Two seeds disagree.",))
    assert (plain.level, reliability.level) == ("reliable", "uncertain")
    assert reliability.reasons[0] == "Two seeds disagree."
    wide, narrow = (np.log(s.sd_log_jacobian.upper / s.sd_log_jacobian.lower) for s in (doubted, usual))
    np.testing.assert_allclose(wide, 1.5 * narrow, rtol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", PAIR)
def test_a_feature_that_is_no_number_makes_a_prediction_unreliable(predictor: Predictor, name: str, value: float) -> None:
    assert predictor.predict(features(**{name: value}))[1].level == "unreliable"


@pytest.mark.parametrize(
    "damage",
    [
        {"uncertain": np.nan}, {"unreliable": np.nan}, {"uncertain": np.inf, "unreliable": np.inf},
        {"uncertain": 3.0, "unreliable": 2.0}, {"uncertain": -1.0},
        {"mean": np.full(3, np.nan)}, {"sd": np.zeros(3)}, {"sd": np.full(3, np.inf)}, {"precision": np.full((3, 3), np.nan)},
        {"precision": np.zeros((3, 3))}, {"precision": np.diag([1.0, -1.0, 1.0])}, {"precision": np.triu(np.ones((3, 3)))},
    ],
)  # fmt: skip
def test_limits_that_are_no_numbers_make_a_prediction_unreliable(predictor: Predictor, damage: dict) -> None:
    ood = replace(predictor.bundle.ood, **damage)
    assert ood.reliability(PAIR).level == "unreliable"


def test_rules_break_on_what_is_no_number() -> None:
    assert broken_rules({"foreground_overlap": np.nan})
    assert broken_rules({"fixed_log_anisotropy": np.nan})
    assert not broken_rules({"foreground_overlap": 0.9, "fixed_log_anisotropy": 0.1})


def test_widths_that_are_no_numbers_are_refused(predictor: Predictor) -> None:
    widths = replace(predictor.bundle.widths, curves=(np.nan, 1.0, 1.0))
    with pytest.raises(InputError, match="not finite"):
        Predictor(replace(predictor.bundle, widths=widths)).predict(features())


@pytest.mark.parametrize("factor", [0.0, 1e-6, 1.0])
@pytest.mark.parametrize("hard", [-3.0, 0.0, 3.0])
def test_every_band_has_a_width(predictor: Predictor, factor: float, hard: float) -> None:
    """Also of a bundle whose calibration found no error at all, and where no folding is predicted."""
    old = predictor.bundle.widths
    widths = replace(
        old, dice=factor * old.dice, mean_dice=factor * old.mean_dice, dice_unsegmented=factor * old.dice_unsegmented,
        mean_dice_unsegmented=factor * old.mean_dice_unsegmented, curves=tuple(factor * width for width in old.curves),
    )  # fmt: skip
    surface, _, _ = Predictor(replace(predictor.bundle, widths=widths)).predict(features(hard=hard))
    for band in (surface.dice, surface.mean_dice):
        assert (band.upper - band.lower >= LEAST_DICE_REACH * 0.99).all()
        assert (band.lower >= 0).all() and (band.upper <= 1).all()
    for band in (surface.folding_foreground, surface.folding_grid):
        assert (band.upper - band.lower >= LEAST_FOLDING * 0.99).all()
        assert (np.diff(band.upper) <= 0).all() and (np.diff(band.lower) <= 0).all()
    assert (surface.sd_log_jacobian.upper > surface.sd_log_jacobian.lower).all()
    for band in (surface.dice, surface.mean_dice, surface.folding_foreground, surface.folding_grid, surface.sd_log_jacobian):
        assert (band.lower <= band.value).all() and (band.value <= band.upper).all()


def test_odd_training_pairs_do_not_make_everything_known(predictor: Predictor) -> None:
    far = features(hard=40.0).pair
    detector = replace(predictor.bundle.ood, unreliable=1e9)
    assert detector.reliability(far).level == "unreliable"
    assert detector.reliability(features().pair).level == "reliable"


def test_what_some_features_rule_out_all_of_them_rule_out(predictor: Predictor) -> None:
    """Correlated features: the distance over some of them is that of their own joint distribution, and never the longer one."""
    random = np.random.default_rng(5)
    mixed = random.standard_normal((200, 6)) @ random.standard_normal((6, 6))
    detector = replace(
        ood_of(mixed, tuple("abcdef"), random.integers(0, 4, (200, 1)).repeat(2, axis=1)), uncertain=1.0, unreliable=1.5
    )
    told = 0
    for row in 3 * random.standard_normal((300, 6)) @ random.standard_normal((6, 6)):
        named = dict(zip("abcdef", row.tolist(), strict=True))
        some = {name: named[name] for name in "ace"}
        told += detector.surely_unlike(some)
        assert not detector.surely_unlike(some) or detector.reliability(named).level == "unreliable"
        assert detector.surely_unlike(named) == (detector.reliability(named).level == "unreliable")
    assert told > 50
    assert not detector.surely_unlike({}) and not detector.surely_unlike({"other": 1e9})
    assert detector.surely_unlike({"foreground_overlap": 0.1, "a": 0.0})
    assert not replace(detector, precision=np.full((6, 6), np.nan)).surely_unlike(named)


def test_a_pair_unlike_all_others_is_not_probed(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    probed: list[str] = []
    far = Described(PAIR | {"hard": 1e6}, None, None, None, None)  # type: ignore[arg-type]
    monkeypatch.setattr("HyperPredictRegLib.predictor.features.described", lambda *_: far)
    monkeypatch.setattr("HyperPredictRegLib.predictor.features.geometry", lambda *_: {})
    monkeypatch.setattr(
        "HyperPredictRegLib.predictor.features.probed", lambda *_, **__: probed.append("probed") or features(hard=1e6)
    )
    monkeypatch.setattr(choosing, "load_predictor", lambda *_: predictor)
    monkeypatch.setattr(choosing, "bundle_folders", lambda _: [Path("unused")])
    image = blob_image(Geometry((8, 8, 8), (2.0, 2.0, 2.0)))
    side = Side(image, image, image, None, None, None)
    plan = Plan.of(Job("f", "m", "o"))
    pair = AlignedPair(Geometry.of(image), image, image, None, None)
    inputs = Inputs(side, side, label_names={}, initial_transform=None, used=())
    refused = an_alignment(refusals=("Refused.",))
    prepared = Prepared(inputs, refused, sitk.AffineTransform(3), pair, plan.engine.info.search_space)
    looked = choosing._Looked(plan, prepared, silent, never)
    with pytest.raises(choosing._UnlikeAll):
        choosing._predicted(plan, prepared, Path("unused"), {}, looked, at_any_cost=False)
    assert not probed
    # Where no other predictor answers it says why it does not know the pair.
    choice, prediction = choosing.choose_setting(plan, prepared)
    assert probed and prediction is not None and choice.by == "fixed"
    assert "unlike anything the predictor was trained on" in " ".join(prediction.reliability.reasons)


def an_alignment(**changed: Any) -> AlignmentUsed:
    return replace(AlignmentUsed({}, "correlation", (), (), 1, contrast="same"), **changed)


@pytest.mark.parametrize(
    ("alignment", "level", "by", "message"),
    [
        (an_alignment(), "reliable", "predictor", ""),
        (an_alignment(doubts=("The alignment stretches.",)), "uncertain", "predictor", "The alignment stretches."),
        (an_alignment(refusals=("Implausible.",)), "unreliable", "fixed", "Implausible."),
        (an_alignment(contrast="different"), "uncertain", "predictor", "differ in contrast, as in few of the pairs"),
    ],
)
def test_what_speaks_against_the_alignment_speaks_against_the_prediction(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, alignment: AlignmentUsed, level: str, by: str, message: str
) -> None:
    plan = Plan.of(Job("f", "m", "o"))
    known = Described(PAIR, None, None, None, None)  # type: ignore[arg-type]
    monkeypatch.setattr("HyperPredictRegLib.predictor.features.geometry", lambda *_: {})
    monkeypatch.setattr("HyperPredictRegLib.predictor.features.described", lambda *_: known)
    monkeypatch.setattr("HyperPredictRegLib.predictor.features.probed", lambda *_, **__: features())
    monkeypatch.setattr(choosing, "load_predictor", lambda *_: predictor)
    image = blob_image(Geometry((8, 8, 8), (2.0, 2.0, 2.0)))
    side = Side(image, image, image, None, None, None)
    pair = AlignedPair(Geometry.of(image), image, image, None, None)
    inputs = Inputs(side, side, label_names={}, initial_transform=None, used=())
    prepared = Prepared(inputs, alignment, sitk.AffineTransform(3), pair, plan.engine.info.search_space)
    choice, prediction = choosing.choose_setting(plan, prepared)
    assert prediction is not None
    assert (prediction.reliability.level, choice.by) == (level, by)
    assert message in " ".join(prediction.reliability.reasons)
    direct = Plan.of(replace(plan.job, engine="demons"))
    reasons = choosing._doubts(direct, prepared, trained=True)
    assert any("Demons compares intensities directly" in reason for reason in reasons) == (alignment.contrast == "different")


def stretched(image: sitk.Image, factor: float) -> sitk.Image:
    result = sitk.Image(image)
    result.SetSpacing((*image.GetSpacing()[:2], factor * image.GetSpacing()[2]))
    return result


@pytest.mark.parametrize(
    ("diagonal", "words"),
    [
        ((-1.0, 1.0, 1.0), "fits the fixed one only when it is mirrored"),
        ((0.05, 1.0, 1.0), "collapsed"), ((0.0, 1.0, 1.0), "collapsed"), ((-0.05, 1.0, 1.0), "collapsed"),
    ],
)  # fmt: skip
def test_an_alignment_that_mirrors_or_flattens_is_refused_with_a_question(diagonal: tuple[float, ...], words: str) -> None:
    item = make_item(blob_image(Geometry((40, 40, 40), (2.0, 2.0, 2.0))), None, None, "fixed")
    with pytest.raises(RegistrationError, match=words) as caught:
        _result_warnings((item, item), make_frame(item, item), np.diag([*diagonal, 1.0]))
    assert "left and right exchanged" in str(caught.value)


@pytest.mark.parametrize(("factor", "doubts", "refusals"), [(1.2, 0, 0), (2.0, 1, 0), (3.0, 0, 1)])
def test_an_alignment_that_stretches_is_doubted_then_refused(factor: float, doubts: int, refusals: int) -> None:
    image = blob_image(Geometry((40, 40, 40), (2.0, 2.0, 2.0)))
    quick = AlignmentSettings(multi_start=False, stages=())
    start = sitk.AffineTransform(3)
    start.SetMatrix((1, 0, 0, 0, 1, 0, 0, 0, factor))
    found = align(image, stretched(image, factor), quick, seed=1, initial_transform=start)
    assert (len(found.doubts), len(found.refusals)) == (doubts, refusals)
    assert set(found.doubts + found.refusals) <= set(found.warnings)
    assert all("shows only a part" in message for message in found.doubts + found.refusals)


def test_stability_runs_on_images_of_no_structure() -> None:
    """What is refused is said, and does not stop a run."""
    noise = np.random.default_rng(5).normal(100, 20, size=(30, 30, 30)).astype(np.float32)
    image = Geometry((30, 30, 30), (2.0, 2.0, 2.0)).apply_to(sitk.GetImageFromArray(noise))
    quick = AlignmentSettings(multi_start=False, iterations=(5, 5, 5))
    assert stability(image, image, quick, seeds=(1, 2)).seeds == (1, 2)


@pytest.mark.parametrize("kind", ["noise", "shuffled", "constant but for noise"])
def test_predictions_for_pairs_without_structure_are_unreliable(tmp_path: Path, kind: str) -> None:
    random = np.random.default_rng(6)
    grid = Geometry((40, 40, 40), (3.0, 3.0, 3.0))
    names = []
    for number in range(2):
        voxels = sitk.GetArrayFromImage(blob_image(grid)).astype(np.float32)
        inside = voxels > 20
        if kind == "noise":
            voxels = random.normal(100, 20, voxels.shape).astype(np.float32)
        elif kind == "shuffled":
            voxels = np.where(inside, voxels, 0)
            voxels[inside] = random.permutation(voxels[inside])
        else:
            voxels = np.where(inside, 100 + random.normal(0, 0.01, voxels.shape), 0).astype(np.float32)
        names.append(str(tmp_path / f"{number}.nrrd"))
        sitk.WriteImage(grid.apply_to(sitk.GetImageFromArray(voxels)), names[-1])
    prediction = compute_prediction(Job(*names, "unused", alignment={"multi_start": False}))
    assert prediction.reliability.level == "unreliable"
    assert "noise only" in prediction.reliability.reasons[0]
    assert prediction.choice.predicted is None
    assert set(prediction.reliability.reasons[:2]) <= set(prediction.warnings)
