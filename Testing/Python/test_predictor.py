"""The predictor: bases, network, training, calibration, reliability and bundle, on examples with a known answer."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from conftest import blob_image, blob_labels
from HyperPredictRegLib.alignment import AlignmentSettings
from HyperPredictRegLib.alignment.aligned_pair import AlignedPair
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.search_space import Parameter, SearchSpace
from HyperPredictRegLib.engines import engine_settings, get_engine
from HyperPredictRegLib.predictor.bundle import load_bundle
from HyperPredictRegLib.predictor.card import bundled, read_card
from HyperPredictRegLib.predictor.features import PairFeatures, pair_features
from HyperPredictRegLib.predictor.ood import broken_rules, feature_words, ood_of
from HyperPredictRegLib.predictor.predictor import Predictor
from HyperPredictRegLib.predictor.splines import DEGREE, basis_at, basis_size, falling, falling_steps, knots_for
from HyperPredictRegLib.preprocessing.image_set import Inputs, Side
from HyperPredictRegLib.preprocessing.intensity import foreground, normalised
from HyperPredictRegLib.results.job import DEFAULT_ENGINE
from HyperPredictRegLib.results.prediction import PredictionSurface
from HyperPredictRegLib.spatial.geometry import Geometry
from hypothesis import given, settings
from hypothesis import strategies as st
from predictor_samples import QUICK, planted_examples, planted_training, small_bundle
from scipy.interpolate import BSpline

from HyperPredictRegLab.manifest import subject_cv_folds
from HyperPredictRegLab.training.building import Description, build, train_by_cv_folds
from HyperPredictRegLab.training.calibration import band_widths, curve_scores, dice_scores, subject_quantile
from HyperPredictRegLab.training.examples import at_values, dense_grid, fixed_value, folding_at

DOWN = Parameter("regularization_weight", "w", "", "log", 0.4, 4.5, 0.7, "down", "Freedom", "Less is smoother.")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("bundle") / "planted")


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> Predictor:
    return Predictor.load(bundle)


def surface_of(predictor: Predictor, *given: Any, **options: Any) -> PredictionSurface:
    return predictor.predict(*given, **options)[0]


def features(hard: float = 0.0, overlap: float = 0.95, **tokens: dict[str, float]) -> PairFeatures:
    named = {int(label[1:]): token for label, token in tokens.items()}
    return PairFeatures({"hard": hard, "idle": 0.0, "foreground_overlap": overlap}, named)


def test_basis_sums_to_one_and_is_constant_beyond_its_knots() -> None:
    knots = knots_for(np.log(np.geomspace(0.4, 4.5, 50)), 7)
    basis = basis_at(np.linspace(-3, 3, 40), knots)
    assert basis.shape == (40, basis_size(knots))
    np.testing.assert_allclose(basis.sum(axis=1), 1, atol=1e-6)
    assert (basis >= 0).all()
    np.testing.assert_array_equal(basis[0], basis[1])


@pytest.mark.parametrize("knots", [(0.0, 1.0), (-3.0, -1.0, -0.5, 2.0, 2.1), (0.0, 0.2, 0.2, 0.7, 1.0)])
def test_basis_is_that_of_scipy(knots: tuple[float, ...]) -> None:
    padded = np.concatenate([np.repeat(knots[0], DEGREE), knots, np.repeat(knots[-1], DEGREE)])
    values = np.concatenate([np.random.default_rng(2).uniform(knots[0], knots[-1], 60), knots])
    expected = BSpline.design_matrix(values, padded, DEGREE).toarray()
    np.testing.assert_allclose(basis_at(values, knots), expected, atol=1e-7)


@settings(deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=12))
def test_falling_never_rises_and_can_be_inverted(steps: list[float]) -> None:
    fallen = falling(torch.tensor(steps, dtype=torch.float64))
    assert (fallen.diff() <= 0).all()
    torch.testing.assert_close(falling(falling_steps(fallen, least=1e-9)), fallen, atol=1e-6, rtol=1e-6)


def test_cv_folds_are_even_repeatable_and_need_two_people_each() -> None:
    names = [f"p{n}" for n in range(23)]
    cv_folds = subject_cv_folds(names)
    assert cv_folds == subject_cv_folds(reversed(names))
    assert sorted(np.bincount(list(cv_folds.values())).tolist()) == [4, 4, 5, 5, 5]
    with pytest.raises(InputError, match="9 subjects are too few"):
        subject_cv_folds(names[:9])


def test_members_never_see_their_cv_fold() -> None:
    """A member's weights must not change when the pairs of its CV fold change."""
    examples = planted_examples(pairs=60)
    trained = train_by_cv_folds(examples, replace(QUICK, epochs=3), replicas=1)
    of = np.array([[trained.cv_folds[a], trained.cv_folds[b]] for a, b in examples.subjects])
    spoiled = examples.dice.copy()
    spoiled[(of == 0).any(axis=1)] = 0.01
    again = train_by_cv_folds(replace(examples, dice=spoiled), replace(QUICK, epochs=3), replicas=1)
    one, other = (t.ensemble.network.state_dict().values() for t in (trained, again))
    weights = list(zip(one, other, strict=True))
    same = [all(torch.equal(a[member], b[member]) for a, b in weights) for member in range(5)]
    assert same == [True, False, False, False, False]


def test_training_finds_the_planted_relation() -> None:
    held_out = planted_training().held_out(planted_examples())
    examples, predicted = held_out.examples, held_out.segmented
    error = np.abs(predicted.mean_dice - examples.mean_dice).mean()
    spread = np.abs(examples.mean_dice - examples.mean_dice.mean()).mean()
    assert error < 0.4 * spread
    folded = examples.folding_foreground > 0.05
    logs = np.log(examples.folding_foreground[folded])
    assert np.abs(predicted.curves[:, 0][folded] - logs).mean() < 0.5 * logs.std()


def test_training_repeats_itself_exactly() -> None:
    runs = [train_by_cv_folds(planted_examples(pairs=50), replace(QUICK, epochs=4), replicas=1) for _ in range(2)]
    one, other = (run.ensemble.network.state_dict() for run in runs)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_bands_hold_nine_of_ten_on_people_that_calibrated_them_and_on_new_ones() -> None:
    trained = planted_training()
    widths = band_widths(trained.held_out(planted_examples()))
    fresh = planted_examples(pairs=80, seed=99)
    ensemble = trained.ensemble
    numbers = np.tile(ensemble.structure_numbers(fresh.labels), (len(fresh.pairs), 1))
    predicted = ensemble.predict(ensemble.coefficients(fresh.features, fresh.tokens, numbers), fresh.settings)
    dice, mean = dice_scores(predicted, fresh)
    assert 0.82 < (dice <= widths.dice).mean() <= 1
    assert 0.82 < (mean <= widths.mean_dice).mean() <= 1
    assert 0.82 < (curve_scores(predicted, fresh) <= np.array(widths.curves)[None, :, None]).mean() <= 1


def test_subject_quantile_weighs_people_not_pairs() -> None:
    """One person in very many pairs with large errors must not widen everybody's band."""
    subjects = np.array([["a", "a"]] * 900 + [[f"p{n}", f"p{n}"] for n in range(19)])
    scores = np.concatenate([np.full(900, 9.0), np.linspace(0, 1, 19)])[:, None]
    assert np.quantile(scores, 0.9) == 9.0
    assert subject_quantile(scores, subjects) <= 1.0


def test_too_few_people_to_calibrate_are_refused() -> None:
    held_out = planted_training().held_out(planted_examples())
    few = held_out.examples.subjects.copy()
    few[:] = "only one"
    with pytest.raises(InputError, match="too few to calibrate"):
        band_widths(replace(held_out, examples=replace(held_out.examples, subjects=few)))


def test_curves_are_smooth_banded_and_folding_never_rises(predictor: Predictor) -> None:
    curves = surface_of(predictor, features(hard=1.0))
    assert curves.values.shape == (300, 1)
    for band in (curves.folding_foreground, curves.folding_grid):
        for part in (band.value, band.lower, band.upper):
            assert (np.diff(part) <= 1e-12).all()
    for band in (curves.dice, curves.mean_dice, curves.folding_foreground, curves.sd_log_jacobian):
        assert (band.lower <= band.value).all() and (band.value <= band.upper).all()
    assert np.abs(np.diff(curves.mean_dice.value, n=2)).max() < 2e-3
    np.testing.assert_allclose(curves.dice.value.mean(axis=0), curves.mean_dice.value, atol=1e-6)


def test_prediction_follows_the_pair_and_the_structure(predictor: Predictor) -> None:
    easy, hard = (surface_of(predictor, features(hard=h)) for h in (-1.0, 1.5))
    assert easy.mean_dice.value.mean() > hard.mean_dice.value.mean() + 0.04
    assert hard.folding_foreground.value[5] > 2 * easy.folding_foreground.value[5]
    best = easy.values[easy.dice.value.argmax(axis=1), 0]
    assert best[0] < 0.9 < 1.1 < best[1]


def test_tokens_decide_which_structures_are_predicted(predictor: Predictor) -> None:
    seen = features(s17={"helpful": 1.0, "kind": 1.0}, s99={"helpful": 0.0, "kind": 0.0})
    surface, _, warnings = predictor.predict(seen, names={17: "Left-Hippocampus", 99: "cyst"})
    assert surface.labels == (17, 99)
    assert surface.structures == ("Left-Hippocampus", "cyst")
    assert "cyst" in warnings[0] and "Hippocampus" not in warnings[0]


def test_a_lambda_outside_of_the_trained_range_is_refused(predictor: Predictor) -> None:
    predictor.predict(features(), np.array([[0.6], [2.0]]))
    with pytest.raises(InputError, match=r"λ = 9 lies outside .* will not extrapolate"):
        predictor.predict(features(), np.array([[0.6], [9.0]]))


def test_nothing_is_predicted_that_the_engine_does_not_accept_for_the_pair(predictor: Predictor) -> None:
    space = get_engine("demons").info.search_space
    surface = surface_of(predictor, features(), within=space.narrowed("regularization_weight", 0.8, 100.0))
    assert surface.values[0, 0] == surface.space.first.low == 0.8
    assert surface.values[-1, 0] == predictor.bundle.card.space.first.high
    with pytest.raises(InputError, match="choose another preset"):
        predictor.predict(features(), within=space.narrowed("regularization_weight", 4.4999, 4.5))


def test_many_lambdas_agree_with_few(predictor: Predictor) -> None:
    many = surface_of(predictor, features(), np.geomspace(0.6, 3, 8001)[:, None])
    few = surface_of(predictor, features(), np.array([[0.6], [3.0]]))
    np.testing.assert_allclose(many.dice.value[:, [0, -1]], few.dice.value, atol=1e-5)


def test_reliability_turns_with_distance_and_names_the_reason(predictor: Predictor) -> None:
    _, usual, _ = predictor.predict(features())
    assert usual.level == "reliable" and not usual.reasons
    _, far, _ = predictor.predict(features(hard=25.0))
    assert far.level == "unreliable"
    assert any("standard deviations" in reason for reason in far.reasons)
    _, overlap, _ = predictor.predict(features(overlap=0.3))
    assert overlap.level == "unreliable" and "overlap by 30 %" in overlap.reasons[0]


def test_an_uncertain_prediction_has_wider_bands(predictor: Predictor) -> None:
    ood = predictor.bundle.ood
    wary = Predictor(replace(predictor.bundle, ood=replace(ood, uncertain=0.0, unreliable=1e9)))
    usual, unusual = (surface_of(p, features()).mean_dice for p in (predictor, wary))
    np.testing.assert_allclose(unusual.value - unusual.lower, 1.5 * (usual.value - usual.lower), rtol=1e-4)


def test_ood_thresholds_come_from_other_cv_folds() -> None:
    random = np.random.default_rng(0)
    points, cv_folds = random.normal(size=(200, 4)), np.repeat(random.integers(0, 5, 200)[:, None], 2, axis=1)
    ood = ood_of(points, ("a", "b", "c", "d"), cv_folds)
    share = (ood.distance(random.normal(size=(2000, 4))) >= ood.unreliable).mean()
    assert ood.uncertain < ood.unreliable and share < 0.03
    assert broken_rules({"moving_log_anisotropy": float(np.log(8))})[0].startswith("Slices of the moving image")


NAMES = (
    "fixed_roughness",
    "moving_p25",
    "probe0_folding",
    "probe2_local1_p10",
    "start_edges",
    "log_volume_ratio",
    "probe1_to_next",
)


@pytest.mark.parametrize("name", NAMES)
def test_features_have_words(name: str) -> None:
    sentence = feature_words(name, 2.0)
    assert "_" not in sentence and sentence.endswith("(+2.0 standard deviations).")


def test_population_reads_between_measurements_and_respects_the_limit() -> None:
    examples = planted_examples()
    np.testing.assert_allclose(at_values(examples, examples.dice, examples.values[3])[3], examples.dice[3], atol=1e-9)
    grid = dense_grid(examples)
    free, limited = (fixed_value(examples, grid, limit=limit, structures=(2,)) for limit in (None, 0.01))
    assert limited > free
    over = folding_at(examples, examples.folding_foreground, np.array([limited])) > 0.01
    assert over.mean() <= 0.1
    weak, strong = (fixed_value(examples, grid, limit=None, structures=(label,)) for label in (2, 17))
    assert weak < 1.2 < strong


def test_bundle_is_small_and_keeps_every_figure(bundle: Path, tmp_path: Path, predictor: Predictor) -> None:
    again = build(planted_examples(), tmp_path / "again", Description(name="planted", licence="none"), QUICK)
    card = read_card(bundle)
    assert again.accuracy == card.accuracy and again.fixed == card.fixed
    assert sum(file.stat().st_size for file in bundle.iterdir()) < 5_000_000
    assert {file.name for file in bundle.iterdir()} == {"card.json", "model.pt"}
    assert card.subjects == dict(sorted(card.subjects.items())) and len(card.subjects) == 20
    assert set(card.structures) == {"2", "17"}


OTHERWISE = AlignmentSettings(stages=("rigid",))


@pytest.mark.parametrize(
    ("asked", "changed", "sentence"),
    [
        ({"engine": "bspline"}, {}, "another engine ('demons', the job has 'bspline'): choose that one"),
        ({"preset": "fine"}, {}, "another preset ('fast', the job has 'fine'): choose that one"),
        ({"settings": {"maximum_step_voxels": 1.0}}, {}, "with other settings: leave these as they were"),
        ({"alignment": OTHERWISE}, {}, "aligned otherwise: set the alignment's stages = ('rigid', 'affine'), or"),
        ({}, {"alignment": {"metric": "mattes"}}, "aligned otherwise: set the alignment's metric = mattes, or"),
        ({}, {"engine_version": "0"}, "another version of the engine (0, this is 1): install or train"),
        ({}, {"preprocessing": "0"}, "prepared otherwise (version 0 of preprocessing, this is 1): install or train"),
        ({}, {"features_version": "0"}, "reads other features (version 0, this is 2): install or train"),
        ({}, {"space": SearchSpace((replace(DOWN, scale="linear"),))}, "the engine's parameters have changed since"),
    ],
)
def test_what_was_prepared_otherwise_is_refused_with_the_reason(
    predictor: Predictor, asked: dict[str, Any], changed: dict[str, Any], sentence: str
) -> None:
    engine = get_engine(asked.get("engine", "demons"))
    settings = engine_settings(engine, asked.get("settings", {}))
    other = Predictor(replace(predictor.bundle, card=replace(predictor.bundle.card, **changed)))
    with pytest.raises(InputError) as caught:
        other.check(engine, settings, asked.get("preset", "fast"), asked.get("alignment", AlignmentSettings()))
    assert sentence in str(caught.value)
    assert str(caught.value).endswith("or use none.")


def test_where_an_alignment_starts_does_not_matter_to_a_predictor(predictor: Predictor) -> None:
    engine = get_engine("demons")
    starts = AlignmentSettings(multi_start=False, multi_start_refined=1, start="geometry")
    for alignment in (AlignmentSettings(), starts):
        predictor.check(engine, engine_settings(engine, {}), "fast", alignment)


def test_curves_run_over_any_parameter_and_fall_in_the_direction_that_regularizes(predictor: Predictor) -> None:
    """The same network over a linear parameter of which less regularizes more: the mirror image of its curves over λ."""
    ensemble = predictor.bundle.ensemble
    up = ensemble.space.first
    low, high = -float(up.strength(up.high)), -float(up.strength(up.low))
    down = replace(DOWN, scale="linear", low=low, high=high, default=low)
    card = replace(predictor.bundle.card, space=SearchSpace((down,)))
    trained = predictor.bundle.card.space.first
    here = SearchSpace((replace(down, low=-float(up.strength(trained.high)), high=-float(up.strength(trained.low))),))
    turned = Predictor(
        replace(predictor.bundle, card=replace(card, space=here), ensemble=replace(ensemble, space=SearchSpace((down,))))
    )
    one, other = surface_of(predictor, features()), surface_of(turned, features())
    assert (np.diff(other.values[:, 0]) > 0).all()
    np.testing.assert_allclose(other.values[::-1, 0], -up.strength(one.values[:, 0]), atol=1e-9)
    for name, band in one.bands.items():
        for part in ("value", "lower", "upper"):
            np.testing.assert_allclose(getattr(other.bands[name], part)[..., ::-1], getattr(band, part), atol=2e-5, err_msg=name)
    assert (np.diff(other.folding_foreground.upper) >= 0).all()


def test_the_bundle_that_comes_with_the_extension_reads_what_is_measured() -> None:
    folder = bundled(DEFAULT_ENGINE, "fast")
    assert folder is not None
    shipped = Predictor.load(folder)
    engine = get_engine(DEFAULT_ENGINE)
    shipped.check(engine, engine_settings(engine, {}), "fast", AlignmentSettings())
    grid = Geometry((56, 60, 52), (3.0, 3.0, 3.0))
    sides = []
    for image in (blob_image(grid), blob_image(grid, shift_mm=(6.0, 0.0, 3.0), deform=0.3)):
        inside = foreground(image)
        sides.append(Side(image, inside, normalised(image, inside), None, blob_labels(image), None))
    inputs = Inputs(*sides, label_names={}, initial_transform=None, used=())
    pair = AlignedPair.of(inputs, sitk.AffineTransform(3), "fast")
    found = pair_features(inputs, pair, sitk.AffineTransform(3), engine, engine_settings(engine, {}), seed=1)
    assert set(shipped.bundle.ensemble.reading.features) <= set(found.pair) | set(shipped.bundle.card.assumed)
    assert set(shipped.bundle.ensemble.reading.tokens) <= set(found.tokens[1])
    assert set(shipped.bundle.ood.features) <= set(found.pair)


def damaged(bundle: Path, folder: Path, model: bytes, honest_card: bool) -> Path:
    """Copy a bundle with another model; with an honest card its checksum is that of the new model."""
    import hashlib

    folder.mkdir()
    card = json.loads((bundle / "card.json").read_text(encoding="utf-8"))
    if honest_card:
        card["model_sha256"] = hashlib.sha256(model).hexdigest()
    (folder / "card.json").write_text(json.dumps(card))
    (folder / "model.pt").write_bytes(model)
    return folder


def test_a_damaged_model_is_refused(bundle: Path, tmp_path: Path) -> None:
    model = (bundle / "model.pt").read_bytes()
    with pytest.raises(InputError, match="damaged, incomplete or was exchanged"):
        load_bundle(damaged(bundle, tmp_path / "cut", model[:-100], honest_card=False))
    with pytest.raises(InputError, match="does not hold the tensors"):
        load_bundle(damaged(bundle, tmp_path / "truncated", model[:2000], honest_card=True))
    with pytest.raises(InputError, match="is no predictor"):
        load_bundle(tmp_path)


def test_a_hostile_pickle_is_refused_and_not_run(bundle: Path, tmp_path: Path) -> None:
    trace = tmp_path / "was-run"

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(trace),)  # type: ignore[return-value]

    torch.save({"network": Hostile()}, tmp_path / "hostile.pt")
    for model in (pickle.dumps(Hostile(), protocol=2), (tmp_path / "hostile.pt").read_bytes()):
        folder = tmp_path / f"bundle-{len(model)}"
        with pytest.raises(InputError, match="does not hold the tensors"):
            load_bundle(damaged(bundle, folder, model, honest_card=True))
    assert not trace.exists()


def test_structures_that_were_not_trained_on_widen_the_band_of_the_mean(predictor: Predictor) -> None:
    """The band of the mean was calibrated on structures that were trained on; a guess for another is as uncertain as its own."""
    token = {"helpful": 0.5, "kind": 0.5}
    known, mixed, unknown = (
        surface_of(predictor, features(**tokens), names={17: "left hippocampus"})
        for tokens in ({"s17": token}, {"s17": token, "s99": token}, {"s98": token, "s99": token})
    )
    own = mixed.dice.value[1] - mixed.dice.lower[1], mixed.dice.upper[1] - mixed.dice.value[1]
    reach = known.mean_dice.value - known.mean_dice.lower
    np.testing.assert_allclose(mixed.mean_dice.value - mixed.mean_dice.lower, (reach + own[0]) / 2, rtol=0.05)
    np.testing.assert_allclose(mixed.mean_dice.upper - mixed.mean_dice.value, (reach + own[1]) / 2, rtol=0.05)
    np.testing.assert_allclose(unknown.mean_dice.lower, unknown.dice.lower.mean(axis=0), atol=1e-5)
