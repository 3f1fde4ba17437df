"""The predictor for any pair: several parameters, domains and presets; errors in mm and chances; judged on domains left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from any_pair_samples import ENGINE, QUICK, UNIT_MM, planted_cases, planted_examples, planted_tables, small_any_bundle
from HyperPredictRegLib.alignment import AlignmentSettings
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.engines import engine_settings, get_engine
from HyperPredictRegLib.predictor.bootstrap import ERRORS, evidence_curve
from HyperPredictRegLib.predictor.bundle import load_bundle, save_bundle
from HyperPredictRegLib.predictor.card import USUAL_POINTS, all_bundled, read_card
from HyperPredictRegLib.predictor.coarse_pair import coarse_settings
from HyperPredictRegLib.predictor.evidence import PairEvidence
from HyperPredictRegLib.predictor.features import PairFeatures
from HyperPredictRegLib.predictor.predictor import Predictor
from HyperPredictRegLib.predictor.splines import falling, falling_steps, grid_axes, knots_for, tensor_basis
from HyperPredictRegLib.predictor.usual import WEIGHT
from HyperPredictRegLib.results.job import Criterion
from HyperPredictRegLib.selection import choose

from HyperPredictRegLab.evaluation.domain_report import area, evaluate_domains
from HyperPredictRegLab.evaluation.domains import TwoLevels, named_features, rank_correlation
from HyperPredictRegLab.training.building import Description, build, tuning_cases
from HyperPredictRegLab.training.examples import examples_from, in_space
from HyperPredictRegLab.training.outlook import probes_to_coefficients
from HyperPredictRegLab.training.outlook_widths import domain_quantile, known_outcomes

SPACE = get_engine(ENGINE).info.search_space

DEMONS_DICE, DEMONS_FOLDING = (0.7823594212, 0.7414556146), (0.0221910235, 0.0022331451)
DIFFEO_DICE, DIFFEO_FOLDING = (0.7798075080, 0.7454674840), (0.002, 0.002)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_any_bundle(tmp_path_factory.mktemp("any"))


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> Predictor:
    return Predictor.load(bundle)


def pair(failed: bool, tokens: int = 0) -> tuple[PairFeatures, dict[str, float], int]:
    """Return features and evidence of the first planted pair whose alignment has failed, or has not, and its row."""
    examples = planted_examples()
    row = int(np.flatnonzero(known_outcomes(examples).failed == failed)[0])
    features, evidence = named_features(examples, row)
    return replace(features, tokens={n: {"log_volume": 0.5 * n} for n in range(1, tokens + 1)}), evidence, row


def test_coefficients_that_fall_make_surfaces_that_fall_along_each_parameter() -> None:
    torch.manual_seed(3)
    axes = (5, 4)
    told = falling(torch.randn(7, 20), axes)
    grid = told.unflatten(-1, axes)
    assert (grid.diff(dim=1) <= 0).all() and (grid.diff(dim=2) <= 0).all()
    assert (grid.diff(dim=1) < 0).all()
    torch.testing.assert_close(falling(falling_steps(told, axes, least=1e-3), axes), told, atol=5e-3, rtol=0)
    steps = torch.randn(2, 20)
    assert torch.equal(falling(steps, (20,)), falling(steps))
    cube = falling(torch.randn(3, 24), (2, 3, 4)).unflatten(-1, (2, 3, 4))
    assert all((cube.diff(dim=axis) <= 0).all() for axis in (1, 2, 3))
    knots = tuple(knots_for(np.linspace(0, 1, 9), count) for count in (3, 2))
    basis = tensor_basis(np.random.default_rng(1).uniform(size=(50, 2)), knots)
    assert basis.shape == (50, 20) and (basis >= 0).all()
    np.testing.assert_allclose(basis.sum(axis=1), 1, atol=1e-5)


def test_the_network_starts_from_what_the_bootstrap_rule_says() -> None:
    probes = coarse_settings(SPACE)
    curve = 1 + 0.3 * np.log(probes[:, 0] / 0.6) ** 2 + 0.1 * np.log(probes[:, 1])
    tilt = 0.3 * np.log(probes[:, 0])
    found = PairEvidence(probes, dict(zip(ERRORS, (np.exp(curve + tilt), np.exp(curve - tilt)), strict=True)), {})
    knots = tuple(knots_for(p.strength(p.from_unit(np.linspace(0, 1, 30))), 6) for p in SPACE)
    grid = SPACE.grid(15)
    strengths = np.stack([p.strength(grid[:, n]) for n, p in enumerate(SPACE)], axis=1)
    told = tensor_basis(strengths, knots) @ probes_to_coefficients(SPACE, knots) @ curve
    rule = np.log(evidence_curve(found, SPACE, grid, *ERRORS))
    assert np.abs(told - rule).max() < 0.12
    assert np.abs(told - rule).mean() < 0.02


def test_tables_of_several_domains_are_read_with_what_is_known_of_them() -> None:
    examples, outcomes = planted_examples(), known_outcomes(planted_examples())
    assert examples.space.names == SPACE.names and examples.settings.shape == (60, 8, 2)
    assert examples.labels == () and examples.dice.shape[1] == 2 and examples.numbers.tolist() == [0, 0]
    assert set(outcomes.domains) == {f"domain {n}" for n in range(6)}
    assert all(who.startswith(f"{domain}/") for who, domain in zip(examples.subjects[:, 0], outcomes.domains, strict=True))
    assert 0.1 < outcomes.failed.mean() < 0.5 and (outcomes.unit_mm == pytest.approx(UNIT_MM))
    runs, features = planted_tables(2, 3)
    assert examples_from(runs.assign(preset=["fast", "fine"] * (len(runs) // 2)), features).presets == ("fast", "fine")
    with pytest.raises(InputError, match="lacks the columns spacing_mm"):
        examples_from(runs.drop(columns="spacing_mm"), features)
    with pytest.raises(InputError, match="holds a spacing of 0 mm"):
        examples_from(runs.assign(spacing_mm=0.0), features)
    with pytest.raises(InputError, match="know no domains"):
        known_outcomes(examples_from(runs.drop(columns="domain"), features))


def test_whether_deforming_helped_is_told_by_the_error_before_dice() -> None:
    runs, features = planted_tables(1, 6, spoiled=0.0)
    outcomes = known_outcomes(examples_from(runs.assign(affine_error_mm_median=0.01), features))
    assert (outcomes.helps == 0).all()
    no_error = runs.drop(columns=["error_mm_median", "error_mm_95", "affine_error_mm_median"])
    assert (known_outcomes(examples_from(no_error, features)).helps == 1).all()
    assert (known_outcomes(examples_from(no_error.assign(affine_dice=0.95), features)).helps == 0).all()
    assert np.isnan(known_outcomes(examples_from(no_error.drop(columns="dice"), features)).helps).all()


def test_errors_in_mm_and_folding_are_told_over_both_parameters(predictor: Predictor) -> None:
    features, evidence, row = pair(failed=False)
    surface, reliability, _ = predictor.predict(features, evidence=evidence)
    assert surface.values.shape == (64**2, 2) and surface.mean_dice is None and surface.structures == ()
    assert surface.error_mm is not None and surface.error_95_mm is not None and reliability.level != "unreliable"
    for part in ("value", "lower", "upper"):
        for band in (surface.folding_foreground, surface.folding_grid):
            grid = getattr(band, part).reshape(64, 64)
            assert (np.diff(grid, axis=0) <= 1e-9).all() and (np.diff(grid, axis=1) <= 1e-9).all()
        assert (getattr(surface.error_95_mm, part) >= getattr(surface.error_mm, part)).all()
    examples = planted_examples()
    inside = [predictor.bundle.card.space[p.name].holds(examples.settings[row, :, n]) for n, p in enumerate(SPACE)]
    tried = examples.settings[row][np.all(inside, axis=0)]
    there = predictor.predict(features, tried, evidence=evidence)[0]
    true = known_outcomes(examples).error[row][np.all(inside, axis=0)]
    assert there.error_mm is not None
    assert np.abs(np.log(there.error_mm.value / true)).max() < 0.25
    assert (np.abs(np.log(there.error_mm.value / true)) < np.abs(np.log(0.8))).mean() > 0.5
    # Lengths were learned in voxels: images twice as large have errors twice as large.
    larger = evidence | {"log_spacing_mm": evidence["log_spacing_mm"] + np.log(2)}
    twice = predictor.predict(features, tried, evidence=larger)[0]
    assert twice.error_mm is not None
    np.testing.assert_allclose(twice.error_mm.value, 2 * there.error_mm.value, rtol=1e-5)


def test_what_choosing_was_not_measured_along_is_held(predictor: Predictor) -> None:
    card = replace(predictor.bundle.card, chosen=("regularization_weight",))
    held = Predictor(replace(predictor.bundle, card=card))
    features, evidence, _ = pair(failed=False)
    surface, reliability, _ = held.predict(features, evidence=evidence)
    assert surface.names == ("regularization_weight",) and surface.held == {"fluid_sigma": pytest.approx(1.2)}
    whole = predictor.predict(features, np.c_[surface.values, np.full(300, 1.2)], evidence=evidence)[0]
    assert surface.error_mm is not None and whole.error_mm is not None
    np.testing.assert_allclose(surface.error_mm.value, whole.error_mm.value, rtol=1e-5)
    assert held.outlook(features, surface, reliability, evidence) is not None
    # Whoever asks for other settings is told of them.
    assert held.predict(features, SPACE.grid(5)[6:7], evidence=evidence)[0].names == SPACE.names


def test_a_parameter_that_few_calibration_pairs_varied_is_not_chosen(tmp_path: Path) -> None:
    examples = planted_examples()
    varied = examples.further_values
    assert varied is not None
    few = np.where(np.arange(len(varied))[:, None, None] < len(varied) // 4, varied, np.where(np.isnan(varied), np.nan, 1.2))
    chosen = [
        build(examples, tmp_path / str(n), Description(), QUICK, calibration=replace(examples, further_values=values)).chosen
        for n, values in enumerate((varied, few))
    ]
    assert chosen == [SPACE.names, SPACE.names[:1]]


def test_the_bundle_for_any_pair_chooses_along_what_its_evaluation_chooses_along() -> None:
    card = next(card for folder in all_bundled("diffeo", "fast") if (card := read_card(folder)).name == "diffeo-any")
    assert card.chosen == ("regularization_weight",)


def test_the_gain_of_overlap_is_told_beside_the_error(predictor: Predictor) -> None:
    features, evidence, row = pair(failed=False)
    gain = predictor.predict(features, evidence=evidence)[0].overlap_gain
    assert gain is not None and (gain.lower >= -1).all() and (gain.lower < gain.value).all() and (gain.upper <= 1).all()
    examples = planted_examples()
    space = predictor.bundle.card.space
    inside = np.all([space[p.name].holds(examples.settings[row, :, n]) for n, p in enumerate(SPACE)], axis=0)
    there = predictor.predict(features, examples.settings[row][inside], evidence=evidence)[0]
    true = known_outcomes(examples).gain[row][inside]
    assert there.overlap_gain is not None and np.abs(there.overlap_gain.value - true).max() < 0.2


def test_the_mean_of_dice_has_the_shape_of_the_gain_and_structures_keep_half_of_theirs(predictor: Predictor) -> None:
    card = replace(predictor.bundle.card, chosen=("regularization_weight",), usual=())
    held = Predictor(replace(predictor.bundle, card=card))
    for row in (False, True):
        features, evidence, _ = pair(failed=row, tokens=3)
        surface = held.predict(features, evidence=evidence)[0]
        gain, mean = surface.overlap_gain, surface.mean_dice
        assert gain is not None and mean is not None
        # What the affine step leaves is won to the share that is gained: a straight line, of which the slope is what it leaves.
        slope, intercept = np.polyfit(gain.value, mean.value, 1)
        np.testing.assert_allclose(intercept + slope * gain.value, mean.value, atol=2e-3)
        assert 0 < slope < 1 and intercept == pytest.approx(1 - slope, abs=0.02)
        criterion = Criterion(folding_limit=None)
        assert choose(surface, criterion).setting == choose(surface, replace(criterion, goal="overlap")).setting
        apart = surface.dice.value - mean.value
        assert np.ptp(apart - apart.mean(axis=1, keepdims=True)) > 1e-3


def test_the_gain_of_overlap_leans_halfway_to_what_is_usual(predictor: Predictor) -> None:
    features, evidence, _ = pair(failed=False, tokens=2)
    card = replace(predictor.bundle.card, chosen=("regularization_weight",))
    steep = np.linspace(0.3, -0.3, USUAL_POINTS)
    surfaces = []
    for usual in ((), tuple(steep.tolist())):
        lean = Predictor(replace(predictor.bundle, card=replace(card, usual=usual)))
        surfaces.append(lean.predict(features, evidence=evidence)[0])
    plain, leaning = (one.overlap_gain for one in surfaces)
    assert plain is not None and leaning is not None
    places = card.space.first.to_unit(surfaces[0].values[:, 0])
    own = plain.value - plain.value.mean()
    expected = plain.value + WEIGHT * (np.interp(places, np.linspace(0, 1, USUAL_POINTS), steep) - own)
    np.testing.assert_allclose(leaning.value, expected, atol=0.01)
    np.testing.assert_allclose(leaning.value - leaning.lower, plain.value - plain.lower, atol=1e-6)
    # The error stays, Dice of all structures moves with the gain, and its mean is theirs.
    for one, other in zip(surfaces, reversed(surfaces), strict=True):
        assert one.error_mm is not None and other.error_mm is not None and one.mean_dice is not None
        np.testing.assert_array_equal(one.error_mm.value, other.error_mm.value)
        np.testing.assert_allclose(one.mean_dice.value, one.dice.value.mean(axis=0), atol=1e-6)
    moved = surfaces[1].dice.value - surfaces[0].dice.value
    change = leaning.value - plain.value
    assert (np.sign(moved) == np.sign(change))[:, np.abs(change) > 0.01].all()


def test_what_is_usual_comes_from_the_cases_that_labels_measure(tmp_path: Path) -> None:
    examples, cases = planted_examples(), planted_cases()
    outcomes = known_outcomes(cases)
    dice = 0.7 - 0.1 * np.log(cases.values / 0.55) ** 2
    labelled = replace(outcomes, error=np.full_like(outcomes.error, np.nan), mean_dice=dice, affine_dice=np.full(len(dice), 0.4))
    cards = [
        build(examples, tmp_path / str(n), Description(), QUICK, calibration=replace(cases, outcomes=known))
        for n, known in enumerate((outcomes, labelled))
    ]
    assert cards[0].usual == () and len(cards[1].usual) == USUAL_POINTS and abs(np.mean(cards[1].usual)) < 1e-4
    best = cards[1].space.first.from_unit(np.argmax(cards[1].usual) / (USUAL_POINTS - 1))
    assert best == pytest.approx(0.55, rel=0.05)
    for wrong in (cards[1].usual[1:], (*cards[1].usual[1:], float("nan"))):
        with pytest.raises((InputError, ValueError)):
            save_bundle(replace(load_bundle(tmp_path / "1"), card=replace(cards[1], usual=wrong)), tmp_path / "wrong")
            read_card(tmp_path / "wrong")


def test_regular_grids_are_evaluated_like_any_settings(predictor: Predictor) -> None:
    features, evidence, _ = pair(failed=False, tokens=1)
    grid = predictor.bundle.card.space.grid(7)
    shuffled = np.random.default_rng(2).permutation(len(grid))
    one = predictor.predict(features, grid, evidence=evidence)[0]
    other = predictor.predict(features, grid[shuffled], evidence=evidence)[0]
    assert one.error_mm is not None and other.error_mm is not None
    np.testing.assert_allclose(other.error_mm.value, one.error_mm.value[shuffled], rtol=1e-5)
    np.testing.assert_allclose(other.dice.upper, one.dice.upper[:, shuffled], atol=1e-5)
    assert grid_axes(grid) is not None and grid_axes(grid[shuffled]) is None


def test_a_failed_alignment_is_told_and_makes_a_prediction_unreliable(predictor: Predictor) -> None:
    chances = []
    for failed in (False, True):
        features, evidence, row = pair(failed)
        surface, reliability, _ = predictor.predict(features, evidence=evidence)
        outlook = predictor.outlook(features, surface, reliability, evidence)
        assert outlook is not None and outlook.affine_error_mm is not None and outlook.gain_mm is not None
        chances.append(outlook.failed)
        assert (reliability.level == "unreliable") == failed
        assert not failed or reliability.reasons[0].startswith("The alignment has probably failed (chance ")
        true = known_outcomes(planted_examples()).affine_error[row]
        assert outlook.affine_error_mm.value == pytest.approx(true, rel=0.2)
        assert outlook.gain_mm.lower < outlook.gain_mm.value < outlook.gain_mm.upper
    assert chances[0] < 0.3 and chances[1] > 0.7


def test_a_start_that_the_rule_doubts_is_doubted_whatever_the_network_says(predictor: Predictor) -> None:
    features, evidence, _ = pair(failed=False)
    values = predictor.bundle.card.space.grid(3)
    assert predictor.predict(features, values, evidence=evidence)[1].level == "reliable"
    apart = evidence | {"shell": 3.0}
    reliability = predictor.predict(features, values, evidence=apart)[1]
    assert reliability.level != "reliable"
    assert any("how far they overlap, the chance of a failed alignment is" in reason for reason in reliability.reasons)


def test_structures_are_told_by_their_shape_without_names(predictor: Predictor) -> None:
    features, evidence, _ = pair(failed=False, tokens=2)
    surface, _, warnings = predictor.predict(features, names={1: "tumor"}, evidence=evidence)
    assert surface.structures == ("tumor", "label 2") and warnings == ()
    assert surface.mean_dice is not None and surface.error_mm is not None
    assert surface.dice.value[1].mean() > surface.dice.value[0].mean()


def test_evidence_and_geometry_are_all_that_a_bundle_of_evidence_reads(predictor: Predictor) -> None:
    """So nothing else has to be found for it, and nothing that it says changes."""
    assert predictor.reads_evidence and predictor.reads_tokens and not predictor.reads_features
    features, evidence, _ = pair(failed=False)
    geometry = replace(features, pair={name: value for name, value in features.pair.items() if name != "idle"})
    assert geometry != features
    values = predictor.bundle.card.space.grid(20)
    whole, bare = (predictor.predict(one, values, evidence=evidence) for one in (features, geometry))
    assert whole[1:] == bare[1:] and whole[0].voxel_mm == bare[0].voxel_mm == pytest.approx(2.0)
    for name, band in whole[0].bands.items():
        assert np.array_equal(band.value, bare[0].bands[name].value)
    apart = replace(geometry, pair=geometry.pair | {"foreground_overlap": 0.3})
    assert predictor.predict(apart, values, evidence=evidence)[1].level == "uncertain"


def test_a_pair_unlike_all_others_is_uncertain_and_no_more(predictor: Predictor) -> None:
    features, evidence, _ = pair(failed=False)
    apart = replace(features, pair=features.pair | {"foreground_overlap": 0.3})
    _, reliability, _ = predictor.predict(apart, evidence=evidence)
    assert reliability.level == "uncertain" and len(reliability.reasons) == 1 and "overlap by 30 %" in reliability.reasons[0]
    _, reliability, _ = predictor.predict(features, evidence=evidence | {"folding_3": 60.0})
    assert reliability.level == "uncertain" and "The evidence from trial registrations (folding 3)" in reliability.reasons[1]


def test_a_bundle_serves_the_presets_that_it_is_said_to_serve(tmp_path: Path) -> None:
    examples = planted_examples()
    for further, served in (((), ("fast",)), (("fine",), ("fast", "fine")), (("fine", "standard"), ("fast", "standard", "fine"))):
        card = build(examples, tmp_path / "-".join(("it", *further)), Description(presets=further), QUICK)
        assert card.presets == served and card.serves("fast") and card.serves("fine") is bool(further)
    with pytest.raises(InputError, match="There is no preset 'best' to serve: name some of fast, standard, fine"):
        Description(presets=("fine", "best"))


def test_one_bundle_serves_several_presets_and_needs_evidence(predictor: Predictor) -> None:
    engine = get_engine(ENGINE)
    several = replace(predictor.bundle.card, presets=("fast", "fine"))
    wide = Predictor(replace(predictor.bundle, card=several))
    for preset in ("fast", "fine"):
        wide.check(engine, engine_settings(engine, {}), preset, AlignmentSettings())
    with pytest.raises(InputError, match="another preset"):
        wide.check(engine, engine_settings(engine, {}), "standard", AlignmentSettings())
    old = replace(several, evidence_version="0")
    with pytest.raises(InputError, match="other evidence"):
        Predictor(replace(predictor.bundle, card=old)).check(engine, engine_settings(engine, {}), "fast", AlignmentSettings())
    features, evidence, _ = pair(failed=False)
    assert predictor.reads_evidence
    with pytest.raises(InputError, match="reads evidence about the pair"):
        predictor.predict(features)
    with pytest.raises(InputError, match="σ = 9 lies outside"):
        predictor.predict(features, np.array([[0.5, 9.0]]), evidence=evidence)


def test_a_bundle_over_two_parameters_is_small_and_comes_back_whole(bundle: Path, tmp_path: Path, predictor: Predictor) -> None:
    assert sum(file.stat().st_size for file in bundle.iterdir()) < 5e6
    card = save_bundle(predictor.bundle, tmp_path)
    again = load_bundle(tmp_path)
    assert again.card == card and card.format == 3 and card.space.names == SPACE.names
    assert again.widths == predictor.bundle.widths and again.ensemble.knots == predictor.bundle.ensemble.knots
    assert set(card.domains) == {f"domain {n}" for n in range(6)}
    features, evidence, _ = pair(failed=True)
    one, other = (Predictor(b).predict(features, evidence=evidence)[0] for b in (predictor.bundle, again))
    for name, band in one.bands.items():
        np.testing.assert_array_equal(other.bands[name].upper, band.upper)
    widths = predictor.bundle.widths
    for spoiled, why in (
        (replace(predictor.bundle, widths=replace(widths, outlook=None)), "do not tell the same"),
        (replace(predictor.bundle, ensemble=replace(predictor.bundle.ensemble, knots=((0.0, 1.0),))), "other parameters"),
    ):
        save_bundle(spoiled, tmp_path)
        with pytest.raises(InputError, match=why):
            load_bundle(tmp_path)


def test_shipped_bundles_say_what_they_said() -> None:
    """Figures of the bundles as they were trained, that of demons before a network could have several parameters."""
    for name, dice, folding in (("demons", DEMONS_DICE, DEMONS_FOLDING), ("diffeo", DIFFEO_DICE, DIFFEO_FOLDING)):
        found = Predictor.load(all_bundled(name, "fast")[0]).predict(PairFeatures({}, {}), np.array([[0.7], [1.3]]))[0]
        assert found.mean_dice is not None and found.error_mm is None
        np.testing.assert_allclose(found.mean_dice.value, dice, atol=1e-6)
        np.testing.assert_allclose(found.folding_grid.upper, folding, rtol=1e-5)


def test_bands_weigh_domains_and_not_pairs() -> None:
    scores = np.r_[np.full(90, 1.0), np.full(10, 5.0)]
    domains = np.r_[np.full(90, "large"), np.full(10, "small")]
    assert domain_quantile(scores, domains, 0.45) == 1.0 and domain_quantile(scores, domains, 0.55) == 5.0
    assert np.isnan(domain_quantile(np.full(4, np.nan), domains[:4]))
    levels = TwoLevels.of(domains, np.arange(100).astype(str), 200)
    found = levels.mean(scores)
    assert found.value == pytest.approx(3.0) and (found.lower, found.upper) == pytest.approx((1.0, 5.0))


def test_rank_correlation_and_area_are_those_of_the_textbook() -> None:
    from scipy.stats import spearmanr

    random = np.random.default_rng(4)
    one = random.normal(size=30)
    other = one + random.normal(size=30)
    assert rank_correlation(one, other, np.ones(30)) == pytest.approx(spearmanr(one, other).statistic, abs=1e-9)
    assert area(np.array([0.9, 0.4]), np.array([0.5, 0.1])) == pytest.approx(0.75)


def test_cases_are_calibrated_on_and_judged_apart(bundle: Path, tmp_path: Path) -> None:
    cases = planted_cases()
    assert (known_outcomes(tuning_cases(cases)).uses == "tune").all() and len(tuning_cases(cases).pairs) == 16
    with pytest.raises(InputError, match="marked for test"):
        tuning_cases(cases.chosen(np.flatnonzero(known_outcomes(cases).uses == "test")))
    tables = evaluate_domains(planted_examples(), cases, tmp_path, bundle=bundle, quick=True)
    page = (tmp_path / "evaluation-any-pair.md").read_text(encoding="utf-8")
    assert "16 for test, 16 for tuning, of 4 domains" in page and (tmp_path / "evaluation-any-pair" / "errors.png").is_file()
    regret = {str(row[0]): row[1].value for row in tables["choosing"].rows}  # type: ignore[union-attr]
    assert regret["oracle"] == 0 < regret["network, maximum"] < regret["one fixed λ"] < regret["affine only"]
    assert tables["chances"].rows[0][3:5] == (1.0, 1.0)
    assert tables["errors"].rows[0][2].value > 0.9  # type: ignore[union-attr]
    with pytest.raises(InputError, match="No case is marked for test"):
        evaluate_domains(planted_examples(), tuning_cases(cases), tmp_path, bundle=bundle)


def test_cases_at_other_values_of_a_held_parameter_are_left_out(tmp_path: Path) -> None:
    cases = planted_cases(2, 4)
    whole = in_space(cases, SPACE)
    assert whole.settings.shape[-1] == 2 and np.allclose(whole.settings[..., 1], 1.2)
    one = in_space(planted_examples(), SPACE.only(["regularization_weight"]))
    assert one.further == () and np.isnan(one.values).all() and np.isnan(known_outcomes(one).error).all()
    # A table that keeps twelve bits of each number writes the default of 1.2 as 1.200195.
    planted = planted_examples()
    assert planted.further_values is not None
    rounded = in_space(replace(planted, further_values=np.full_like(planted.further_values, 1.200195)), one.space)
    assert np.array_equal(rounded.values, planted.values, equal_nan=True) and np.isfinite(rounded.values).any()
    few = planted_examples().chosen(np.flatnonzero(known_outcomes(planted_examples()).domains < "domain 2"))
    with pytest.raises(InputError, match="2 domains are too few"):
        build(few, tmp_path, Description(), replace(QUICK, epochs=1))
