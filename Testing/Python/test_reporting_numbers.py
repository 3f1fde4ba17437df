"""Every number that is said of a result is in its report: first line, tables, warnings, pages, terminal and panel alike."""

from __future__ import annotations

import html
import importlib
import math
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from HyperPredictRegLib.cli import output
from HyperPredictRegLib.engines import get_engine
from HyperPredictRegLib.presentation.result import result_view
from HyperPredictRegLib.reporting import prediction_page, report_page, wording
from HyperPredictRegLib.results.job import Criterion, Job
from HyperPredictRegLib.results.outcome import Outcome
from HyperPredictRegLib.results.prediction import BandValue, Choice, Reliability
from HyperPredictRegLib.results.report import DiceMeasure, Distances, Measured, Report
from HyperPredictRegLib.selection import choose
from HyperPredictRegLib.selection.comparison import surprise_words
from HyperPredictRegLib.workflow.choosing import NOT_AS_ALIGNED
from HyperPredictRegLib.workflow.registering import prediction_warnings, result_warnings
from number_samples import foreign_numbers
from reporting_samples import (
    compared_anew,
    make_outcome,
    make_prediction,
    make_surface,
    render,
    structure,
    trial,
    with_choice,
    with_measured,
    with_predicted,
    with_report,
)

CODES = (17, 53, 900)
PREDICTED = ("left hippocampus", "right hippocampus", "label 900")
NAMINGS = {
    "named": ("Hippo A", "Hippo B", "odd one"),
    "unnamed": ("label 17", "label 53", "label 900"),
    "FreeSurfer": ("Left-Hippocampus", "Right-Hippocampus", "Lesion"),
}
SPREAD = "Not as predicted: the spread of the logarithm of the Jacobian determinant"


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return make_outcome()


def labelled(outcome: Outcome, naming: str, dice: tuple[float, ...] = (0.913, 0.857, 0.307), **changes: Any) -> Outcome:
    """A chosen result whose label maps are coded as FreeSurfer's, under one of three kinds of names."""
    given = NAMINGS[naming]
    surface = replace(make_surface(PREDICTED if naming == "unnamed" else given), labels=CODES)
    criterion = Criterion(tolerance=0.003)
    choice = choose(surface, criterion, "brain-t1 1.0")
    chosen = with_choice(outcome, (trial(choice.setting["regularization_weight"], 0.0213),))
    rows = tuple(structure(code, name, value) for code, name, value in zip(CODES, given, dice, strict=True))
    measured = DiceMeasure(sum(dice) / 3, 0.4, rows)
    prediction = make_prediction(surface, criterion, choice)
    chosen = with_report(with_measured(chosen, dice=measured, **changes), criterion=criterion, choice=choice)
    return compared_anew(replace(chosen, prediction=prediction))


def messages_about(report: Report, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Return all that is said of a report without pictures, by place."""
    output.show_report(report)
    printed = capsys.readouterr().out
    assert all(line.strip() for line in printed.splitlines())
    rows = wording.comparison_rows(report)
    return {
        "first line": wording.first_line(report),
        "verdict": wording.verdict(report),
        "choice": report.choice.sentence,
        "comparison": "; ".join(f"{row.setting} {row.what} {row.predicted} {row.measured}" for row in rows),
        "trials": "; ".join(f"{row.setting} {row.foreground} {row.grid}" for row in wording.trial_rows(report)),
        "surprises": surprise_words(report.comparisons),
        "plain page": re.sub(r"<!DOCTYPE.*?<body>|<[^>]*>", " ", report_page.plain_report(report, "broken")),
        "terminal": printed.partition("Took ")[0],
    }


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("dice", [(0.913, 0.857, 0.307), (0.113, 0.057, 0.207)])
def test_every_number_that_is_said_is_in_the_report(
    outcome: Outcome, naming: str, dice: tuple[float, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    report = labelled(outcome, naming, dice).report
    for place, text in messages_about(report, capsys).items():
        assert not foreign_numbers(text, report, ("brain-t1 1.0", *PREDICTED)), f"{place}: {text}"
    assert foreign_numbers("mean Dice is 0.123", report, ()) == ["0.123"], "or this test finds nothing"


@pytest.mark.parametrize("naming", NAMINGS)
def test_the_panel_says_the_same_as_the_terminal_and_the_pages(
    outcome: Outcome, naming: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = labelled(outcome, naming).report
    view = result_view(report)
    text, details = (re.sub(r"<[^>]*>", " ", shown) for shown in (view.verdict, view.details))
    for message in (text, details):
        assert not foreign_numbers(message, report, ("brain-t1 1.0", *PREDICTED)), message
    first = wording.first_line(report)
    assert first in html.unescape(details)
    shown = first.partition("; ")[0].replace("The folding limit was kept: ", "")
    assert shown in html.unescape(text), "the line above the details is the start of the first line"
    assert "Limit kept, but the result is not as predicted." in text  # these made-up deformations are smoother than predicted
    assert first in report_page.plain_report(report, "broken")
    output.show_report(report)
    assert capsys.readouterr().out.startswith(first.replace("\u00a0", " "))


@pytest.mark.parametrize("naming", NAMINGS)
def test_mean_dice_is_over_the_same_structures_whatever_they_are_called(outcome: Outcome, naming: str) -> None:
    report = labelled(outcome, naming).report
    assert "mean Dice of 3 structures is 0.692" in wording.first_line(report).lower().replace("dice", "Dice")
    assert wording.measured_dice(report) == pytest.approx(report.measured.dice.mean)  # type: ignore[union-attr]
    assert set(wording.predicted_dice(report)) == set(CODES)


def test_two_structures_of_one_name_are_two(outcome: Outcome) -> None:
    same = labelled(outcome, "named").report
    dice = same.measured.dice
    assert dice is not None and same.choice.predicted is not None
    alike = tuple(replace(s, name="spot") for s in same.choice.predicted.structures)
    predicted = replace(same.choice.predicted, structures=alike)
    rows = with_predicted(labelled(outcome, "named"), predicted=predicted).report.comparisons
    assert rows[0].structures == rows[0].structures_predicted == 3


def test_what_was_not_predicted_is_left_out_of_the_comparison_on_both_sides(outcome: Outcome) -> None:
    three = labelled(outcome, "unnamed")
    assert three.report.choice.predicted is not None
    two = replace(three.report.choice.predicted, structures=three.report.choice.predicted.structures[:2])
    row = with_predicted(three, predicted=two).report.comparisons[0]
    assert (row.structures, row.structures_predicted) == (2, 2)
    assert row.measured == pytest.approx((0.913 + 0.857) / 2)
    lost = three.report.measured.dice
    assert lost is not None
    fewer = compared_anew(with_measured(three, dice=replace(lost, structures=lost.structures[:1]))).report.comparisons[0]
    assert (fewer.structures, fewer.structures_predicted, fewer.measured) == (1, 3, 0.913)
    assert fewer.predicted == three.report.choice.predicted.structures[0].dice


def test_criteria_of_few_structures_are_in_the_report_too() -> None:
    surface = make_surface(("a", "b"))
    for criterion in (Criterion(structures={"b": 2.0}), Criterion(combine="worst")):
        choice = choose(surface, criterion, "p")
        assert choice.predicted is not None and choice.predicted.counted_dice is not None
        assert f"({choice.predicted.counted_dice.value:.3f})" in choice.sentence
    plain = choose(surface, Criterion(), "p").predicted
    assert plain is not None and plain.counted_dice is None


# What is not as predicted


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dice": (0.15, 0.12, 0.09)}, "Not as predicted: mean Dice of 3 structures is 0.120, below the predicted 90 % band ("),
        ({"dice": (0.99, 0.98, 0.97)}, "Not as predicted: mean Dice of 3 structures is 0.980, above the predicted 90 % band ("),
        ({"sd_log_jacobian": 0.9}, f"{SPREAD} is 0.900, above"),
        ({"sd_log_jacobian": 0.0004}, f"{SPREAD} is 0.00040, below"),
    ],
)
def test_what_lies_outside_of_its_band_is_said_first(outcome: Outcome, changes: dict[str, Any], words: str) -> None:
    parts = {"sd_log_jacobian": 0.45, "dice": (0.77, 0.75, 0.74), **changes}
    chosen = labelled(outcome, "unnamed", parts.pop("dice"), **parts)
    first = wording.first_line(chosen.report).replace("\u00a0", " ")
    assert first.startswith(words)
    assert ". The folding limit was kept: " in first
    assert wording.calls_for_attention(chosen.report)


def test_a_narrow_miss_is_said_to_be_one(outcome: Outcome) -> None:
    for dice, words in ((0.735, "0.735, just below the predicted"), (0.70, "0.700, below the predicted")):
        report = labelled(outcome, "unnamed", (dice, dice, dice), sd_log_jacobian=0.45).report
        assert words in wording.first_line(report)
        (warning,) = prediction_warnings(report.comparisons)
        assert ("this alone is no sign of an error" in warning) == ("just" in words)
        assert ("does not hold for this pair" in warning) == ("just" not in words)
        assert not foreign_numbers(warning, report, ("About 1 in 10",)), warning
    far = labelled(outcome, "unnamed", (0.735, 0.735, 0.735), sd_log_jacobian=0.9).report
    assert "does not hold" in prediction_warnings(far.comparisons)[0]


def test_folding_outside_of_its_band_is_said_first(outcome: Outcome) -> None:
    folded = compared_anew(with_choice(outcome, (trial(0.66, 0.45),)))
    folded = compared_anew(with_measured(folded, sd_log_jacobian=0.49))
    first = wording.first_line(folded.report).replace("\u00a0", " ")
    assert first.startswith("Not as predicted: folding of the foreground is 0.45 %, above the predicted 90 % band (0.03 % to ")


def test_what_is_as_predicted_is_no_news(outcome: Outcome) -> None:
    calm = labelled(outcome, "FreeSurfer", (0.77, 0.75, 0.74), sd_log_jacobian=0.45).report
    assert surprise_words(calm.comparisons) == ""
    assert wording.first_line(calm).startswith("The folding limit was kept: ")
    assert not wording.calls_for_attention(calm)


def test_a_number_that_reads_like_the_end_of_its_band_lies_inside(outcome: Outcome) -> None:
    chosen = labelled(outcome, "named", (0.75, 0.75, 0.75), sd_log_jacobian=0.49)
    assert chosen.report.choice.predicted is not None
    narrow, none = BandValue(0.7504, 0.75004, 0.7509), BandValue(0.0, 0.0, 0.0)
    tight = replace(chosen.report.choice.predicted, mean_dice=narrow, folding_grid=none)
    rows = {row.what: row.lies for row in with_predicted(chosen, predicted=tight).report.comparisons}
    assert rows["dice"] == "inside"
    tiny = with_choice(outcome, (trial(4.0, 0.009),))
    assert {row.what: row.lies for row in tiny.report.comparisons}["folding_foreground"] == "inside"


# Given numbers and small worlds


def test_a_given_weight_states_what_came_out(outcome: Outcome, capsys: pytest.CaptureFixture[str]) -> None:
    for given in (outcome, with_measured(outcome, dice=None), with_measured(outcome, tre_mm=Distances(0.5, 1, 2))):
        output.show_report(given.report)
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("λ = 1.5 was given; 0.25 % of the foreground is folded")
        assert all(lines)


def test_nothing_of_a_micrometre_is_printed_as_nothing(outcome: Outcome, capsys: pytest.CaptureFixture[str]) -> None:
    small = Distances(0.000412, 0.00093, 0.0021)
    rows = tuple(replace(structure(n, f"s{n}", 0.9, hd95=0.00123), mean_surface_distance_mm=4.5e-4,
                         fixed_volume_ml=6.4e-8, warped_volume_ml=3.2e-10) for n in (1, 2))  # fmt: skip
    tiny = with_measured(
        outcome, inverse_consistency_mm=small, displacement_mm=small, tre_mm=small, tre_before_mm=small, sd_log_jacobian=3.1e-4,
        dice=DiceMeasure(0.9, 0.4, rows),
    )  # fmt: skip
    output.show_report(tiny.report)
    terminal = capsys.readouterr().out
    for words in ("mean 0.00041 mm, 95 % below 0.00093 mm", "0.00041 mm -> 0.00041 mm (mean)", "SD of log-Jacobian   0.00031"):
        assert words in terminal
    rendered = render(tiny).replace("\N{NO-BREAK SPACE}", " ")
    assert "95 % below 0.00093 mm, largest 0.0021 mm" in rendered
    for words in ("0.00041 mm", "0.0012", "0.00045", "6.4e\N{MINUS SIGN}8", "0.00031"):
        assert words in rendered, words
    assert "misses the start by 0.00041 mm" in wording.verdict(tiny.report)
    assert not re.search(r"\b0\.0+ mm", terminal + rendered)


def test_tables_hold_what_is_small(outcome: Outcome) -> None:
    rows = (replace(structure(1, "cell", 0.9, hd95=0.00123), mean_surface_distance_mm=4.5e-4, fixed_volume_ml=6.4e-8),)
    report = with_measured(outcome, dice=DiceMeasure(0.9, 0.4, rows)).report
    assert list(result_view(report).measures[0]) == ["cell", "0.40", "0.90", "0.0012", "0.00045"]
    tables = importlib.import_module("HyperPredictRegLib.slicerbridge.tables")
    scene = importlib.import_module("slicer").vtkMRMLScene()
    node = tables.add_structures_table(scene, rows)
    values = {node.GetColumnName(n): node.GetTable().GetColumn(n).GetVariantValue(0) for n in range(node.GetNumberOfColumns())}
    texts = {name: float(value.ToString()) for name, value in values.items() if name != "Structure"}
    assert texts["HD95 (mm)"] == 0.00123 and texts["Fixed volume (ml)"] == 6.4e-8


def test_ordinary_numbers_read_as_before() -> None:
    distances = [wording.distance(value) for value in (0.4812, 12.341, 0.0, 3e-16, None)]
    assert distances == ["0.48 mm", "12.34 mm", "0.00 mm", "0.00 mm", "– mm"]
    assert [wording.number(value, 3) for value in (0.7412, 1.0, 0.0, 0.0123, 0.00123, -0.0004, 4.56e-7, math.nan)] == [
        "0.741", "1.000", "0.000", "0.012", "0.0012", "\N{MINUS SIGN}0.00040", "4.6e\N{MINUS SIGN}7", "–",
    ]  # fmt: skip
    assert [wording.number(value, 1) for value in (0.75, 8.0, 0.04)] == ["0.8", "8.0", "0.040"]


# Bands


@pytest.mark.parametrize(
    ("band", "share", "words"),
    [
        (BandValue(0.0, 0.0, 0.0), True, "under 0.01 %"),
        (BandValue(0.004, 0.001, 0.3), True, "under 0.01 % (at most 0.30 %)"),
        (BandValue(0.1, 0.03, 0.3), True, "0.10 % (0.03 % to 0.30 %)"),
        (BandValue(0.5, 0.5, 0.5), True, "0.50 % (band unknown)"),
        (BandValue(100.0, 100.0, 100.0), True, "100.00 % (band unknown)"),
        (BandValue(math.nan, math.nan, math.nan), True, "– (– to –)"),
        (BandValue(0.742, 0.722, 0.757), False, "0.742 (0.722 to 0.757)"),
        (BandValue(0.742, 0.742, 0.742), False, "0.742 (band unknown)"),
        (BandValue(0.0, 0.0, 0.0), False, "0.000 (band unknown)"),
        (BandValue(0.0003, 0.0002, 0.0004), False, "0.00030 (0.00020 to 0.00040)"),
    ],
)
def test_a_band_of_no_width_is_never_printed_as_certain(band: BandValue, share: bool, words: str) -> None:
    from HyperPredictRegLib.results.formatting import banded, banded_percent

    assert (banded_percent(band) if share else banded(band)) == words


def test_a_prediction_without_width_is_nowhere_certain(capsys: pytest.CaptureFixture[str]) -> None:
    nothing, half = BandValue(0.0, 0.0, 0.0), BandValue(0.5, 0.5, 0.5)
    known = make_prediction()
    assert known.choice.predicted is not None
    flat = replace(
        known.choice.predicted, mean_dice=half, folding_foreground=nothing, folding_grid=nothing, sd_log_jacobian=half
    )
    prediction = replace(known, choice=replace(known.choice, predicted=flat), reliability=Reliability("uncertain"))
    output.show_prediction(prediction, [flat], [])
    terminal = capsys.readouterr().out
    rendered = prediction_page.render_prediction(prediction, ()).replace("\N{NO-BREAK SPACE}", " ")
    for text in (terminal, rendered, wording.first_line_of_prediction(prediction)):
        assert not re.search(r"(?<![\d.])([\d.]+)( %)? to \1(?![\d.])|0 % \(0 %", text)
        assert "under 0.01 %" in text


# What fell


@pytest.mark.parametrize(
    ("before", "after", "warned"),
    [
        (1.987, 1.9868, False), (1.987, 1.98, False), (1.987, 1.95, True), (1.05, 1.0496, False), (1.05, 1.045, True),
        (1.0, 1.0, False),
    ],
)  # fmt: skip
def test_an_agreement_fell_only_if_more_fell_than_resampling_takes(
    outcome: Outcome, before: float, after: float, warned: bool
) -> None:
    measured = replace(outcome.report.measured, similarity_before=before, similarity_after=after)
    found = [message for message in messages_about_result(measured) if "agree less" in message]
    assert bool(found) == warned
    assert all(f"{before:.3f} and then {after:.3f}" in message for message in found)


@pytest.mark.parametrize(("before", "after", "warned"), [(0.8, 0.7999, False), (0.8, 0.796, False), (0.8, 0.79, True)])
def test_dice_fell_only_if_the_verdict_says_so_too(outcome: Outcome, before: float, after: float, warned: bool) -> None:
    measured = replace(outcome.report.measured, dice=DiceMeasure(after, before, (structure(1, "a", after),)))
    found = [message for message in messages_about_result(measured) if "Mean Dice fell" in message]
    assert bool(found) == warned
    assert ("lowered" in wording.verdict(replace(outcome.report, measured=measured))) == warned


def messages_about_result(measured: Measured) -> list[str]:
    """Return what is warned of in a result for which λ was given."""
    plan = SimpleNamespace(job=Job("f", "m", "o"), engine=get_engine("demons"))
    return result_warnings(measured, SimpleNamespace(contrast="same"), plan, SimpleNamespace(by="user"))  # type: ignore[arg-type]


def test_a_refused_alignment_is_said_in_the_first_line(outcome: Outcome) -> None:
    choice = Choice({"regularization_weight": 0.65}, f"λ = 0.65 is the fixed value, taken because {NOT_AS_ALIGNED}.", by="fixed")
    reliability = Reliability("unreliable", ("Stretched.",))
    report = with_report(outcome, choice=choice, reliability=reliability, criterion=Criterion(), limit_met=True).report
    assert wording.first_line(report).endswith(f"the prediction was not used, because {NOT_AS_ALIGNED}.")
    unlike = replace(report, choice=replace(choice, sentence="λ = 0.65 is the fixed value."))
    assert "what was measured of this pair speaks against it" in wording.first_line(unlike)
