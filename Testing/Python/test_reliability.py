"""The light: never better than what the alignment found, never green for what is not a number; bands always have a width."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import blob_image
from HyperPredictRegLib.alignment import Alignment, AlignmentSettings, Likeness, align, stability
from HyperPredictRegLib.alignment.stability import Stability
from HyperPredictRegLib.engines import engine_settings, get_engine
from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.geometry import Geometry
from HyperPredictRegLib.job import Job, Verdict
from HyperPredictRegLib.predictor import choosing
from HyperPredictRegLib.predictor.bands import LEAST_FOLDING
from HyperPredictRegLib.predictor.features import PairFeatures
from HyperPredictRegLib.predictor.novelty import at_most, broken_rules
from HyperPredictRegLib.predictor.predictor import LEAST_DICE_REACH, Predictor
from HyperPredictRegLib.workflow.foresight import foresee
from predictor_samples import small_bundle

GOOD = Likeness(0.5, 0.0, 0.0, (0.5, 0.5), 1.0)
PAIR = {"hard": 0.0, "idle": 0.0, "foreground_overlap": 0.95}


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor.load(small_bundle(tmp_path_factory.mktemp("bundle") / "planted"))


def features(**changed: float) -> PairFeatures:
    return PairFeatures(PAIR | changed, {})


def test_a_light_is_no_better_than_what_else_is_known() -> None:
    green, amber, red = Verdict("green"), Verdict("amber", ("unusual",)), Verdict("red", ("strange",))
    assert at_most(green) == green
    assert at_most(green, ("doubt",)) == Verdict("amber", ("doubt",))
    assert at_most(amber, ("doubt",)) == Verdict("amber", ("doubt", "unusual"))
    assert at_most(red, ("doubt",)) == Verdict("red", ("doubt", "strange"))
    assert at_most(green, ("doubt",), ("refusal",)) == Verdict("red", ("refusal", "doubt"))


def test_a_doubt_widens_the_bands(predictor: Predictor) -> None:
    usual = predictor.forecast(features())
    doubted = predictor.forecast(features(), doubts=("Two seeds disagree.",))
    assert (usual.verdict.light, doubted.verdict.light) == ("green", "amber")
    assert doubted.verdict.reasons[0] == "Two seeds disagree."
    wide, narrow = (np.log(f.curves.sd_log_jacobian.upper / f.curves.sd_log_jacobian.lower) for f in (doubted, usual))
    np.testing.assert_allclose(wide, 1.5 * narrow, rtol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", PAIR)
def test_a_feature_that_is_no_number_is_red(predictor: Predictor, name: str, value: float) -> None:
    assert predictor.forecast(features(**{name: value})).verdict.light == "red"


def test_a_missing_feature_is_red(predictor: Predictor) -> None:
    verdict = predictor.forecast(PairFeatures({"hard": 0.0, "foreground_overlap": 0.95}, {})).verdict
    assert verdict.light == "red"
    assert "1 of its features cannot be measured (idle)" in verdict.reasons[0]


@pytest.mark.parametrize(
    "damage",
    [
        {"amber": np.nan}, {"red": np.nan}, {"amber": np.inf, "red": np.inf}, {"amber": 3.0, "red": 2.0}, {"amber": -1.0},
        {"mean": np.full(3, np.nan)}, {"sd": np.zeros(3)}, {"sd": np.full(3, np.inf)}, {"precision": np.full((3, 3), np.nan)},
    ],
)  # fmt: skip
def test_limits_that_are_no_numbers_are_red(predictor: Predictor, damage: dict) -> None:
    novelty = replace(predictor.bundle.novelty, **damage)
    assert novelty.verdict(PAIR).light == "red"


def test_rules_break_on_what_is_no_number() -> None:
    assert broken_rules({"foreground_overlap": np.nan})
    assert broken_rules({"fixed_log_anisotropy": np.nan})
    assert not broken_rules({"foreground_overlap": 0.9, "fixed_log_anisotropy": 0.1})


def test_widths_that_are_no_numbers_are_refused(predictor: Predictor) -> None:
    widths = replace(predictor.bundle.widths, curves=(np.nan, 1.0, 1.0))
    with pytest.raises(InputError, match="not finite"):
        Predictor(replace(predictor.bundle, widths=widths)).forecast(features())


@pytest.mark.parametrize("factor", [0.0, 1e-6, 1.0])
@pytest.mark.parametrize("hard", [-3.0, 0.0, 3.0])
def test_every_band_has_a_width(predictor: Predictor, factor: float, hard: float) -> None:
    """Also of a bundle whose calibration found no error at all, and where no folding is foreseen."""
    old = predictor.bundle.widths
    widths = replace(
        old, dice=factor * old.dice, mean_dice=factor * old.mean_dice, dice_unsegmented=factor * old.dice_unsegmented,
        mean_dice_unsegmented=factor * old.mean_dice_unsegmented, curves=tuple(factor * width for width in old.curves),
    )  # fmt: skip
    curves = Predictor(replace(predictor.bundle, widths=widths)).forecast(features(hard=hard)).curves
    for band in (curves.dice, curves.mean_dice):
        assert (band.upper - band.lower >= LEAST_DICE_REACH * 0.99).all()
        assert (band.lower >= 0).all() and (band.upper <= 1).all()
    for band in (curves.folding_foreground, curves.folding_box):
        assert (band.upper - band.lower >= LEAST_FOLDING * 0.99).all()
        assert (np.diff(band.upper) <= 0).all() and (np.diff(band.lower) <= 0).all()
    assert (curves.sd_log_jacobian.upper > curves.sd_log_jacobian.lower).all()
    for band in (curves.dice, curves.mean_dice, curves.folding_foreground, curves.folding_box, curves.sd_log_jacobian):
        assert (band.lower <= band.value).all() and (band.value <= band.upper).all()


def an_alignment(**changed: object) -> Alignment:
    fine = Alignment(sitk.AffineTransform(3), (), "correlation", "same", GOOD, 0.9, 1, 0.1, 1)
    return replace(fine, **changed)  # type: ignore[arg-type]


UNSTABLE = Stability((1, 2), 5.0, 9.0, ((0.0, 5.0), (5.0, 0.0)), 1.0, (None, None), ("The alignment depends on chance.",))


@pytest.mark.parametrize(
    ("alignment", "spread", "light", "by", "said"),
    [
        (an_alignment(), None, "green", "predictor", ""),
        (an_alignment(doubts=("The alignment stretches.",)), None, "amber", "predictor", "The alignment stretches."),
        (an_alignment(refusals=("Implausible.",)), None, "red", "fixed", "Implausible."),
        (an_alignment(contrast="different"), None, "amber", "predictor", "differ in contrast"),
        (an_alignment(), UNSTABLE, "amber", "predictor", "depends on chance"),
        (an_alignment(), replace(UNSTABLE, warnings=()), "green", "predictor", ""),
    ],
)
def test_what_speaks_against_the_alignment_speaks_against_the_prediction(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, alignment: Alignment, spread: Stability | None, light: str, by: str,
    said: str,
) -> None:  # fmt: skip
    engine = get_engine("demons")
    monkeypatch.setattr("HyperPredictRegLib.predictor.features.pair_features", lambda *_, **__: features())
    monkeypatch.setattr(choosing, "load_predictor", lambda *_: predictor)

    class Nothing:
        label_names: dict[int, str] = {}  # noqa: RUF012 - never changed

    chosen = choosing.choose_lambda(
        Job("f", "m", "o"), engine, engine_settings(engine, {}), Nothing(), None, alignment, spread=spread  # type: ignore[arg-type]
    )
    assert chosen.verdict is not None
    assert (chosen.verdict.light, chosen.by) == (light, by)
    assert said in " ".join(chosen.verdict.reasons)


def stretched(image: sitk.Image, factor: float) -> sitk.Image:
    result = sitk.Image(image)
    result.SetSpacing((*image.GetSpacing()[:2], factor * image.GetSpacing()[2]))
    return result


@pytest.mark.parametrize(("factor", "doubts", "refusals"), [(1.2, 0, 0), (2.0, 1, 0), (3.0, 0, 1)])
def test_an_alignment_that_stretches_is_doubted_then_refused(factor: float, doubts: int, refusals: int) -> None:
    image = blob_image(Geometry((40, 40, 40), (2.0, 2.0, 2.0)))
    quick = AlignmentSettings(multi_start=False, stages=())
    start = sitk.AffineTransform(3)
    start.SetMatrix((1, 0, 0, 0, 1, 0, 0, 0, factor))
    found = align(image, stretched(image, factor), quick, seed=1, initial_transform=start)
    assert (len(found.doubts), len(found.refusals)) == (doubts, refusals)
    assert set(found.doubts + found.refusals) <= set(found.warnings)


def test_stability_runs_on_images_of_no_structure() -> None:
    """What is refused is said, and does not stop a run."""
    noise = np.random.default_rng(5).normal(100, 20, size=(30, 30, 30)).astype(np.float32)
    image = Geometry((30, 30, 30), (2.0, 2.0, 2.0)).apply_to(sitk.GetImageFromArray(noise))
    quick = AlignmentSettings(multi_start=False, iterations=(5, 5, 5))
    assert stability(image, image, quick, seeds=(1, 2)).seeds == (1, 2)


@pytest.mark.parametrize("kind", ["noise", "shuffled", "constant but for noise"])
def test_pairs_without_structure_are_red(tmp_path: Path, kind: str) -> None:
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
    prediction = foresee(Job(*names, "unused", alignment={"multi_start": False})).prediction
    assert prediction.verdict.light == "red"
    assert "noise only" in prediction.verdict.reasons[0]
    assert prediction.predicted is None
    assert set(prediction.verdict.reasons[:2]) <= set(prediction.warnings)
